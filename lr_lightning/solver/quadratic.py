"""The d × d subproblem of a Newton step: a quadratic model, plain or with an L1 penalty.

No row of data is touched here. All tensors are float64 on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.decompositions import eigenvalues, eigh


class ScaledCholesky:
    """Cholesky factor of a symmetric positive semi-definite matrix (k, k), scaled to unit diagonal.

    Attributes:
        matrix: As it was given.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self._scaled, self._scale = _unit_diagonal(matrix)
        self._factor, info = torch.linalg.cholesky_ex(self._scaled)
        self._pivot = 0.0 if info else float(self._factor.diagonal().square().min())

    def smallest_pivot(self) -> float:
        """See `smallest_pivot`."""
        # A column of zeros, which does not count, stops the factorisation.
        return self._pivot or smallest_pivot(self.matrix)

    def solve(self, rhs: Tensor, rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE) -> Tensor:
        """See `solve_spd`."""
        least = rank_tolerance * len(rhs)
        r = rhs * self._scale
        if self._pivot > least:
            return torch.cholesky_solve(r[:, None], self._factor)[:, 0] * self._scale
        values, vectors = eigh(self._scaled)
        parts = vectors.T @ r
        rounding = (values < least) & (parts.abs() < thresholds.EQUATION_ROUNDING * rank_tolerance**0.5)
        parts = torch.where(rounding, 0.0, parts / values.abs().clamp(min=least))
        return vectors @ parts * self._scale


def solve_spd(matrix: Tensor, rhs: Tensor, rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE) -> Tensor:
    r"""Solves ``matrix @ p = rhs`` for a symmetric positive semi-definite matrix.

    The matrix is scaled to unit diagonal. If its Cholesky factor shows it to be singular, the solution of least
    (scaled) norm is taken: along an eigenvector :math:`u` whose eigenvalue is below the tolerance :math:`\tau` the
    solution is 0 if :math:`u^\top r` is rounding, as where columns depend on each other, and
    :math:`u^\top r / \tau` if not.

    Args:
        matrix: (k, k).
        rhs: (k,).
        rank_tolerance: Squared pivots below this, times k, make a matrix of unit diagonal singular.

    Returns:
        (k,), always finite if the arguments are.
    """
    return ScaledCholesky(matrix).solve(rhs, rank_tolerance)


def support(point: Tensor, l1: Tensor) -> Tensor:
    """Numbers (s,) of the coordinates that are not zero or not penalised."""
    return ((point != 0) | (l1 == 0)).nonzero()[:, 0]


def support_residual(point: Tensor, gradient: Tensor, l1: Tensor) -> float:
    """The largest violation of the optimality conditions on the support, where the gradient is that of the rest."""
    index = support(point, l1)
    return float((gradient + l1 * point.sign())[index].abs().max()) if len(index) else 0.0


def support_step(block: Tensor, point: Tensor, gradient: Tensor, l1: Tensor, rank_tolerance: float) -> Tensor | None:
    """The Newton step (k,) on the support with the signs held, by its block (s, s) of the Hessian.

    `minimize_l1` ends where the optimality conditions hold to twelve digits of the penalty; this step gives the rest.

    Returns:
        None where the support is not settled: a sign would change, or a coordinate should leave zero.
    """
    index = support(point, l1)
    outside = torch.ones_like(point, dtype=torch.bool)
    outside[index] = False
    p = torch.zeros_like(point)
    if len(index):
        p[index] = solve_spd(block, -(gradient + l1 * point.sign())[index], rank_tolerance)
    crosses = (l1 > 0) & ((point + p) * point.sign() < 0)
    if bool(crosses.any()) or bool((outside & (gradient.abs() > l1)).any()):
        return None
    return p


def newton_length(left: float, decrement: float) -> float:
    """The length of a Newton step at whose end the objective still falls; 1 where it hardly does.

    Along the step the slope is -d at 0 and rises by d at first, d being the decrement. The quadratic with these and the
    slope at 1 has its zero at the length returned; 2 where it has none.

    Args:
        left: minus the slope at 1.
        decrement: d.
    """
    ratio = left / decrement
    return 2 / (1 + math.sqrt(max(0.0, 1 - 4 * ratio))) if ratio > thresholds.UNDERSTEPPED else 1.0


def smallest_pivot(matrix: Tensor) -> float:
    """Least squared pivot of the Cholesky factor of a matrix (k, k) scaled to unit diagonal; 0 without one.

    It is the least part of any column, in the metric of the matrix, that the columns before it do not
    explain. Columns of zeros do not count.
    """
    scaled, _ = _unit_diagonal(matrix)
    scaled.diagonal().fill_(1)
    factor, info = torch.linalg.cholesky_ex(scaled)
    return 0.0 if info else float(factor.diagonal().square().min())


def mean_square_eigenvalue(matrix: Tensor) -> float:
    """Mean square of the eigenvalues of a matrix (k, k) scaled to unit diagonal, whose mean is 1."""
    scaled, _ = _unit_diagonal(matrix)
    return float(scaled.square().sum()) / len(matrix)


def nullity(matrix: Tensor, rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE) -> int:
    """Number of directions, columns of zeros aside, along which `solve_spd` takes a matrix (k, k) to be singular."""
    least = rank_tolerance * len(matrix)
    if smallest_pivot(matrix) > least:
        return 0
    scaled, _ = _unit_diagonal(matrix)
    return int((eigenvalues(scaled) < least).sum()) - int((matrix.diagonal() <= 0).sum())


def _unit_diagonal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix (k, k) scaled to a diagonal of ones, or zeros where it has no positive one, and the scale (k,)."""
    diagonal = matrix.diagonal()
    if len(diagonal) and not diagonal.min() > 0:
        diagonal = torch.where(diagonal > 0, diagonal, 1.0)
    scale = diagonal.rsqrt()
    return (matrix * scale).mul_(scale[:, None]), scale


def minimize_l1(
    matrix: Tensor,
    gradient: Tensor,
    start: Tensor,
    l1: Tensor,
    rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE,
) -> Tensor:
    r"""Minimises a quadratic model plus L1 penalty by an active-set method; zeros are exact.

    .. math:: \min_u \; g^\top (u - w) + \tfrac12 (u - w)^\top B (u - w) + \sum_j \lambda_j |u_j|

    Feature-sign search (Lee, Battle, Raina & Ng 2007, "Efficient sparse coding algorithms"), which activates
    all coordinates that violate the optimality conditions at once: solve for the active coordinates with
    their signs held, then search exactly along the segment, where the objective is piecewise quadratic. Every
    iteration decreases the objective, and only finitely many sign patterns exist. From the last pass's
    coefficients it takes a few factorisations of the active block. Where many signs have yet to change, sweeps of
    coordinate descent (Friedman, Hastie & Tibshirani 2010, covariance updates) find the pattern at a lower cost.

    Args:
        matrix: B, (k, k), positive semi-definite.
        gradient: g, (k,), the smooth gradient at ``start``.
        start: w, (k,).
        l1: λ, (k,), zero where a coordinate is not penalised.
        rank_tolerance: As in `solve_spd`.

    Returns:
        u, (k,).
    """
    u = start.clone()
    r = gradient
    penalised = l1 > 0
    # A tolerance for each coordinate: penalties of raw features in different units differ by orders of magnitude.
    tolerance = 1e-12 * torch.maximum(l1, gradient.abs().max())
    for iteration in range(thresholds.ACTIVE_SET_ITERATIONS):
        many = iteration == 0 and int(((u == 0) & (r.abs() > l1)).sum()) > thresholds.DESCENT_EVERY
        if many or iteration % thresholds.DESCENT_EVERY == thresholds.DESCENT_EVERY - 1:
            u = _coordinate_descent(matrix, r, u, l1)
            r = gradient + matrix @ (u - start)
        nonzero = u != 0
        free = nonzero | ~penalised
        violating = ~free & (r.abs() > l1 + tolerance)
        sign = torch.where(nonzero, u.sign(), -r.sign())
        slope = torch.where(penalised, r + l1 * sign, r)
        stationary = bool(((slope * free).abs() <= tolerance).all())
        if stationary and not violating.any():
            break
        p = _orthant_step(matrix, slope, sign, free, violating, rank_tolerance)
        if stationary and not p.any():
            one = torch.zeros_like(violating)
            one[torch.where(violating, r.abs() - l1, -torch.inf).argmax()] = True
            p = _orthant_step(matrix, slope, sign, free, one, rank_tolerance)
        t, zeroed = _line_minimum(u, p, l1, nonzero & penalised, float(slope @ p), float(p @ (matrix @ p)))
        if t == 0 or not p.any():
            break
        u = torch.add(u, p, alpha=t)
        u[zeroed] = 0
        # Only on a matrix that rounding has left indefinite.
        if not bool((u.abs() < thresholds.LARGEST_COEFFICIENT).all()):
            return start
        r = gradient + matrix @ (u - start)
    return u


def _coordinate_descent(matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor) -> Tensor:
    """Sweeps over the coordinates that are not zero or should not be; ``gradient`` is that at ``start``."""
    rows, r, u, threshold = matrix.numpy(), gradient.numpy().copy(), start.numpy().copy(), l1.numpy()
    curvature = rows.diagonal()
    largest = first = 0.0
    for _ in range(thresholds.DESCENT_SWEEPS):
        moved = 0.0
        for j in np.nonzero(((u != 0) | (np.abs(r) > threshold)) & (curvature > 0))[0].tolist():
            old, h = float(u[j]), float(curvature[j])
            z = old * h - float(r[j])
            new = math.copysign(max(abs(z) - float(threshold[j]), 0.0), z) / h
            if new != old:
                if not abs(new) < thresholds.LARGEST_COEFFICIENT:
                    return start
                u[j] = new
                r += (new - old) * rows[j]
                moved = max(moved, (new - old) * (new - old) * h)
        largest = max(largest, moved)
        if moved <= 1e-6 * largest:
            break
        first = first or moved
        if not moved <= thresholds.DIVERGING_SWEEP * first:  # only on a matrix that rounding has left indefinite
            return start
    return torch.from_numpy(u)


def _orthant_step(
    matrix: Tensor, slope: Tensor, sign: Tensor, free: Tensor, entering: Tensor, rank_tolerance: float
) -> Tensor:
    """Newton step with the signs held; entering coordinates that would take the wrong sign stay at zero."""
    while True:
        index = (free | entering).nonzero()[:, 0]
        p = torch.zeros_like(slope)
        if not len(index):
            return p
        p[index] = -solve_spd(matrix[index[:, None], index], slope[index], rank_tolerance)
        wrong = entering & (p * sign <= 0)
        if not wrong.any():
            return p
        entering = entering & ~wrong


def _line_minimum(
    u: Tensor, p: Tensor, l1: Tensor, kinked: Tensor, slope: float, curvature: float
) -> tuple[float, Tensor]:
    """Exact minimiser over t in [0, 1] along u + t·p, and the coordinates that become zero there."""
    none = torch.empty(0, dtype=torch.long)
    crossing = torch.where(kinked & (u * p < 0), -u / p, torch.inf)
    index = (crossing <= 1).nonzero()[:, 0]
    if not len(index):
        return (1.0 if slope < 0 else 0.0), none
    times, order = crossing[index].sort()
    index = index[order]
    jumps = torch.cumsum(2 * l1[index] * p[index].abs(), 0)
    after = slope + curvature * times + jumps
    k = int((after >= 0).nonzero()[0, 0]) if bool((after >= 0).any()) else len(index)
    passed = slope + (float(jumps[k - 1]) if k else 0.0)
    t = min(1.0, -passed / curvature) if curvature > 0 else 1.0
    if k < len(index) and t >= float(times[k]):
        t = float(times[k])
        return t, index[times == t]
    return max(t, 0.0), none
