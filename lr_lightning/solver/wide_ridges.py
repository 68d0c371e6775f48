"""Ridges of tables that have more columns than rows: fits in as many coordinates as rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lr_lightning.model.losses import curvature as curvature_of
from lr_lightning.model.losses import losses_of_shares
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import FoldRows


def is_wide(rows: FoldRows) -> bool:
    """Whether there are more columns than rows, so that `WideRidges` has fewer coordinates."""
    return rows.is_dense and rows.d > rows.n


class WideRidges:
    """The fits of all rows and of all rows but each fold, with an L2 penalty alone.

    With s_j the penalty's unit on column j, the penalised coefficients are diag(1/s) X̃ᵀ α, as their gradient is 0 at
    the optimum; α has a number a row, and λ α is the residual there. So everything is said by K = X̃ diag(1/s) X̃ᵀ
    (n, n), and by the columns without penalty and the intercept, which stay as they are. A Newton step takes α to what
    the residual says, plus D^½ (D^½ K D^½ + λ Σv)⁻¹ D^½ times what is left, D the curvatures of the rows; rows of
    weight 0, as those of the fold that is left out, have α = 0. Hastie & Tibshirani 2004, "Efficient quadratic
    regularization for expression arrays"; Rasmussen & Williams 2006, "Gaussian processes for machine learning",
    algorithm 3.1. Rows that are alike but for their labels would have large α that cancel; they count as one row of
    their mean label.

    Args:
        rows: of m fits.
    """

    def __init__(self, rows: FoldRows) -> None:
        self._rows, self._weights, self._offset = rows, rows.weights, rows.offset
        mean, scale = rows.standardization
        self._x = (rows.every.design.dense(torch.float64) - mean) / scale
        self._y = rows.y.double().expand_as(self._weights)
        self._merge_rows()
        unit = rows.l2_unit[:, :-1]
        self._inverse = torch.where((unit > 0) & ~rows.fixed[:, :-1], 1 / unit, 0.0)
        alike = bool((self._inverse == self._inverse[0]).all())
        kernel = [(self._x * inverse) @ self._x.T for inverse in (self._inverse[:1] if alike else self._inverse)]
        self._kernels = kernel * rows.m if alike else kernel
        free = (unit == 0) & ~rows.fixed[:, :-1]
        self._free = [index.nonzero()[:, 0] for index in free]
        ones = torch.ones(len(self._x), 0 if bool(rows.absent[-1]) else 1, dtype=torch.float64)
        self._beside = [torch.cat([self._x[:, index], ones], 1) for index in self._free]

    def _merge_rows(self) -> None:
        """Make one row of those that have the same features and offset."""
        x = self._x if self._offset is None else torch.cat([self._x, self._offset[:, None]], 1)
        _, place = torch.unique(x, dim=0, return_inverse=True)
        count, n = int(place.max()) + 1, len(x)
        if count == n:
            return
        first = torch.full((count,), n).scatter_reduce_(0, place, torch.arange(n), "amin")
        self._x, self._offset = self._x[first], None if self._offset is None else self._offset[first]
        weights, sums = (
            torch.zeros(len(v), count, dtype=torch.float64).index_add_(1, place, v)
            for v in (self._weights, self._weights * self._y)
        )
        self._weights, self._y = weights, torch.where(weights > 0, sums / weights, 0.0)

    def fits(self, strengths: Tensor, max_rounds: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Coefficients (m, d + 1) of `FoldRows`, Newton steps (m,) and whether they are the optimum (m,), one by one.

        Args:
            strengths: λ of each fit, falling and positive, (p, m).
            max_rounds: at most so many steps for a fit.
        """
        rows, n = self._rows, len(self._x)
        points = [torch.zeros(n + z.shape[1], dtype=torch.float64) for z in self._beside]
        for values in strengths.tolist():
            u = torch.zeros(rows.m, rows.d + 1, dtype=torch.float64)
            taken, converged = torch.zeros(rows.m, dtype=torch.long), torch.zeros(rows.m, dtype=torch.bool)
            for fit, value in enumerate(values):
                points[fit], taken[fit], converged[fit] = self._fit(fit, value, points[fit], max_rounds)
                alpha, beside = points[fit][:n], points[fit][n:]
                u[fit, :-1] = self._inverse[fit] * (self._x.T @ alpha)
                u[fit, self._free[fit]] = beside[: len(self._free[fit])]
                if not bool(rows.absent[-1]):
                    u[fit, -1] = beside[-1]
            yield u, taken, converged

    def _fit(self, fit: int, value: float, point: Tensor, max_rounds: int) -> tuple[Tensor, int, bool]:
        """The fit at a strength: α and the coefficients without penalty, the number of steps, and whether it is it."""
        kernel, beside, v = self._kernels[fit], self._beside[fit], self._weights[fit]
        n, total = len(v), float(v.sum())
        rounding = thresholds.PATH_ROUNDING * float(kernel.diagonal().mean()) ** 0.5
        enough = max(thresholds.PATH_VIOLATION * value, rounding)

        def evaluate(point: Tensor) -> tuple[float, Tensor, Tensor]:
            """The objective, and derivatives and logits of the rows."""
            shrunk = kernel @ point[:n]
            z = shrunk + beside @ point[n:]
            z = z if self._offset is None else z + self._offset
            losses, residual = losses_of_shares(z, self._y[fit], v)
            return float(losses.sum()) / total + 0.5 * value * float(point[:n] @ shrunk), residual, z

        height, residual, z = evaluate(point)
        taken = 0
        while True:
            left = residual / total + value * point[:n]  # whose products with the scaled columns are the gradient
            product, beside_left = kernel @ left, beside.T @ residual / total
            violation = max(float(left @ product), 0.0) ** 0.5
            violation = max(violation, *beside_left.abs().tolist(), 0.0)
            if violation <= enough or taken >= max_rounds:
                return point, taken, violation <= enough
            root = curvature_of(z, v).sqrt_()
            factor = _factor(root[:, None] * kernel * root, value * total)
            sides = root[:, None] * torch.cat([product[:, None] / value, beside], 1)
            solved = torch.cholesky_solve(sides, factor)
            gram = sides[:, 1:].T @ solved
            move = gram[:, 0] - beside_left / value
            move = torch.linalg.lstsq(gram[:, 1:], move).solution if len(move) else move
            step = torch.cat([root * (solved[:, 0] - solved[:, 1:] @ move) - left / value, move])
            taken += 1
            length = 1.0
            while True:
                found = evaluate(point + length * step)
                if found[0] <= height + 1e-12 * abs(height) or length < thresholds.SHORTEST_STEP:
                    break
                length /= 2
            point, (height, residual, z) = point + length * step, found


def _factor(matrix: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a matrix plus a ridge, which grows where rounding leaves the matrix indefinite."""
    more = torch.finfo(matrix.dtype).eps * float(matrix.diagonal().max())
    matrix.diagonal().add_(ridge)
    factor, info = torch.linalg.cholesky_ex(matrix)
    while info:
        matrix.diagonal().add_(more)
        more *= 10
        factor, info = torch.linalg.cholesky_ex(matrix)
    return factor
