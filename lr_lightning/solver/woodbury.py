"""The Hessian of a wide problem with few rows, inverted by way of the rows' Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lr_lightning.model.storage import Design
from lr_lightning.solver import thresholds
from lr_lightning.solver.curvature import PointwiseCurvature
from lr_lightning.solver.decompositions import eigenvalues


def gram_matrix(x: Design, v: Tensor | None, l2: Tensor, *, is_needed: bool = False) -> Tensor | None:
    r"""``x @ diag(1 / l2) @ x.T``, the Gram matrix of the rows in the metric of the penalty.

    Computing it costs as much as about n / 20 passes. So with many rows the eigenvalues of a part of them are looked
    at first: if columns and rows are nearly independent, all are alike and L-BFGS needs no such matrix.

    Products of up to 4096 columns are computed in the dtype of x, or in float64 where float32 is too coarse
    for `GramCurvature`, and summed in float64.

    Args:
        x: (n, d).
        v: The rows' weights, (n,), or None.
        l2: (d,), float64; zero at most for columns of zeros.
        is_needed: whether it pays in any case, because the alternative is a d × d matrix.

    Returns:
        (n, n), float64 on the CPU; None if a column is not penalised, or penalised so weakly that float64 is too
        coarse, or if the matrix does not pay.
    """
    inverse = _inverse(l2).to(x.device)
    free = (inverse == 0).nonzero()[:, 0]
    if len(free) and bool(x.columns(free).bounds().any()):
        return None
    n, _ = x.shape
    squares = x.square_norms(None, inverse.rsqrt()).to(x.device)
    share = torch.full_like(squares, 1 / n) if v is None else v.double() / v.sum(dtype=torch.float64)
    # What is factorised is the unit matrix plus one with diagonal elements of up to a quarter of this.
    largest = math.sqrt(n) * 0.25 * float((share * squares).max())
    if not largest * torch.finfo(torch.float64).eps < thresholds.TOO_COARSE:
        return None
    coarse = x.dtype == torch.float64 or largest * torch.finfo(torch.float32).eps > thresholds.COARSE
    scale = inverse.sqrt().to(torch.float64 if coarse else torch.float32)
    if n > thresholds.FEW_ROWS and not is_needed:
        part = x.take(slice(None, None, n // (thresholds.FEW_ROWS // 2))).gram(scale)
        if float(eigenvalues(part)[-1]) < thresholds.GRAM_SPREAD * float(part.diagonal().mean()):
            return None
    return x.gram(scale)


class GramCurvature(PointwiseCurvature):
    r"""The Hessian of the whole problem where it has few rows and an L2 penalty; for wide tables.

    With the rows' curvatures :math:`D = \mathrm{diag}(v_i \sigma(z_i) \sigma(-z_i)) / \sum v` and the penalty's
    :math:`\Lambda` the Hessian is :math:`X^\top D X + \Lambda`. By the Woodbury identity (Golub & Van Loan
    2013, section 2.1.4) its inverse needs the n × n matrix :math:`M = I + D^{1/2} K D^{1/2}` alone, where
    :math:`K = X \Lambda^{-1} X^\top` is the same at all points: a Newton step
    is :math:`p = -\Lambda^{-1} (g + X^\top D^{1/2} f)` with :math:`M f = D^{1/2} (q + p_b)`
    and :math:`q = -X \Lambda^{-1} g`, and the step :math:`p_b` of the intercept, which is not penalised, makes
    the sum of :math:`D^{1/2} f` minus its gradient. No eigenvalue of M is below 1, though D may vanish.

    Args:
        x: (n, d), all rows.
        l2: (d,) or (d + 1,), as the coefficients; the intercept's is not read.
        gram: K, from `gram_matrix`.
        row_curvature: Function from a point (k,) to the diagonal of D, (n,).
        point: (k,), where the Hessian is taken.
    """

    def __init__(
        self, x: Design, l2: Tensor, gram: Tensor, row_curvature: Callable[[Tensor], Tensor], point: Tensor
    ) -> None:
        super().__init__(point)
        self._x = x
        self._inverse = _inverse(l2[: x.shape[1]])
        self._gram = gram
        self._row_curvature = row_curvature

    # Products are in float64: M has large eigenvalues, next to which float32 would lose the small ones.

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The Newton step (k,) from ``point`` (k,), which is where the curvature has come; ``l1`` is zero."""
        d = self._x.shape[1]
        root = self._row_curvature(self._point).double().cpu().sqrt()
        whitened = -self._inverse * gradient[:d]
        solution = self._solve(root, torch.stack([root * self._x.matvec(whitened).cpu(), root], 1))
        f, of_intercept = solution.unbind(1)
        p = torch.zeros_like(point)
        if len(point) > d:
            schur = float(root @ of_intercept)
            p[d] = -(gradient[d] + root @ f) / schur if schur > 0 else 0.0
            f = f + p[d] * of_intercept
        p[:d] = whitened - self._inverse * self._x.rmatvec(root * f).cpu()
        return p

    def noise(self, rows: int, *, double: bool) -> float:
        """See `Curvature.noise`; products with all columns round more in float32."""
        return 1e-12 if double else 1e-8

    def _solve(self, root: Tensor, rhs: Tensor) -> Tensor:
        """Solve with M. If rounding has left M indefinite, a ridge is added, which shortens the step."""
        scale = (1 + root.square() * self._gram.diagonal()).rsqrt()
        matrix = self._gram * torch.outer(root * scale, root * scale)
        matrix.diagonal().add_(scale.square())
        ridge = torch.finfo(torch.float64).eps
        factor, info = torch.linalg.cholesky_ex(matrix)
        for _ in range(thresholds.GRAM_RIDGES):
            if not info:
                break
            matrix.diagonal().add_(ridge)
            ridge *= 10
            factor, info = torch.linalg.cholesky_ex(matrix)
        return scale[:, None] * torch.cholesky_solve(scale[:, None] * rhs, factor)


def _inverse(l2: Tensor) -> Tensor:
    """1 / l2, and 0 for columns of zeros that are not penalised."""
    return torch.where(l2 > 0, 1 / l2, 0.0)
