"""The d × d subproblem of a Newton step within bounds: a quadratic model with an L1 penalty on a box.

No row of data is touched here. All tensors are float64 on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.quadratic import solve_spd


def minimize_in_box(
    matrix: Tensor,
    gradient: Tensor,
    start: Tensor,
    l1: Tensor,
    lower: Tensor,
    upper: Tensor,
    rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE,
) -> Tensor:
    r"""Minimises a quadratic model plus L1 penalty within bounds by an active-set method; bounds and zeros are exact.

    .. math:: \min_{l \le u \le h} \; g^\top (u - w) + \tfrac12 (u - w)^\top B (u - w) + \sum_j \lambda_j |u_j|

    Of a coordinate whose sign is held the L1 penalty is linear, and 0 a bound as the others are. So each step solves
    for the free coordinates, goes as far as the first bound that it meets (Nocedal & Wright 2006, algorithm 16.3), and
    at a minimum over the free coordinates frees the one whose multiplier is wrong by most. Sweeps of coordinate descent
    come first, because they find most of the bounds that hold at once.

    Args:
        matrix: B, (k, k), positive semi-definite.
        gradient: g, (k,), the smooth gradient at ``start``.
        start: w, (k,), within the bounds.
        l1: λ, (k,), zero where a coordinate is not penalised.
        lower: l, (k,), −∞ where there is no bound.
        upper: h, (k,), likewise ∞.
        rank_tolerance: As in `solve_spd`.

    Returns:
        u, (k,).
    """
    u = _coordinate_descent(matrix, gradient, start, l1, lower, upper)
    r = gradient + matrix @ (u - start)
    tolerance = thresholds.BOUND_ROUNDING * torch.maximum(l1, gradient.abs().max())
    free = _inside(u, l1, lower, upper)
    sign = u.sign()
    for _ in range(20 * len(u) + 100):
        index = free.nonzero()[:, 0]
        slope = r + l1 * sign
        p = torch.zeros_like(u)
        if len(index):
            p[index] = -solve_spd(matrix[index[:, None], index], slope[index], rank_tolerance)
        # Where the L1 penalty bends, at 0, a step ends as at a bound.
        low = torch.where((l1 > 0) & (sign > 0), lower.clamp(min=0), lower)
        high = torch.where((l1 > 0) & (sign < 0), upper.clamp(max=0), upper)
        room = torch.where(p > 0, high - u, torch.where(p < 0, low - u, torch.inf)) / torch.where(p == 0, 1.0, p)
        first = int(room.argmin())
        t = min(1.0, float(room[first]))
        u = u + t * p
        if t < 1:
            u[first] = high[first] if p[first] > 0 else low[first]
            free[first] = False
        r = gradient + matrix @ (u - start)
        if t < 1:
            continue
        freed = _wrong_by_most(u, r, l1, lower, upper, free, tolerance)
        if freed is None:
            return u
        j, direction = freed
        free[j], sign[j] = True, direction if u[j] == 0 else u[j].sign()
    return u


def _inside(u: Tensor, l1: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return (u > lower) & (u < upper) & ((u != 0) | (l1 == 0))


def _wrong_by_most(
    u: Tensor, r: Tensor, l1: Tensor, lower: Tensor, upper: Tensor, free: Tensor, tolerance: Tensor
) -> tuple[int, float] | None:
    """The held coordinate along which the objective falls fastest, and the direction; None if it falls along none."""
    falls_up = torch.where(u < upper, -(r + torch.where(u >= 0, l1, -l1)), -torch.inf)
    falls_down = torch.where(u > lower, r + torch.where(u > 0, l1, -l1), -torch.inf)
    gain = torch.where(free, -torch.inf, torch.maximum(falls_up, falls_down) - tolerance)
    j = int(gain.argmax())
    if not float(gain[j]) > 0:
        return None
    return j, 1.0 if float(falls_up[j]) > float(falls_down[j]) else -1.0


def _coordinate_descent(
    matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    rows, r, u = matrix.numpy(), gradient.numpy().copy(), start.numpy().copy()
    penalty, low, high = l1.numpy(), lower.numpy(), upper.numpy()
    for _ in range(thresholds.BOUND_SWEEPS):
        for j in range(len(u)):
            h = rows[j, j]
            if h <= 0:
                continue
            z = u[j] - r[j] / h
            shrunk = max(abs(z) - penalty[j] / h, 0.0)
            new = min(max(shrunk if z > 0 else -shrunk, low[j]), high[j])
            if new != u[j]:
                r += (new - u[j]) * rows[j]
                u[j] = new
    return torch.from_numpy(u)
