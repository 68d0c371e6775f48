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
    (n, n), and by the columns without penalty and the intercept, which stay as they are. A Newton step solves
    (D^½ K D^½ + λ Σv) γ = …, α = D^½ γ, D the curvatures of the rows; rows of weight 0, as those of the fold that is
    left out, have α = 0. Hastie & Tibshirani 2004, "Efficient quadratic regularization for expression arrays";
    Rasmussen & Williams 2006, "Gaussian processes for machine learning", algorithm 3.1.

    Args:
        rows: of m fits.
    """

    def __init__(self, rows: FoldRows) -> None:
        self._rows, self._weights = rows, rows.weights
        mean, scale = rows.standardization
        self._x = (rows.every.design.dense(torch.float64) - mean) / scale
        unit = rows.l2_unit[:, :-1]
        self._inverse = torch.where((unit > 0) & ~rows.fixed[:, :-1], 1 / unit, 0.0)
        alike = bool((self._inverse == self._inverse[0]).all())
        kernel = [(self._x * inverse) @ self._x.T for inverse in (self._inverse[:1] if alike else self._inverse)]
        self._kernels = kernel * rows.m if alike else kernel
        free = (unit == 0) & ~rows.fixed[:, :-1]
        self._free = [index.nonzero()[:, 0] for index in free]
        ones = torch.ones(rows.n, 0 if bool(rows.absent[-1]) else 1, dtype=torch.float64)
        self._beside = [torch.cat([self._x[:, index], ones], 1) for index in self._free]

    def fits(self, strengths: Tensor, max_rounds: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Coefficients (m, d + 1) of `FoldRows`, Newton steps (m,) and whether they are the optimum (m,), one by one.

        Args:
            strengths: λ of each fit, falling and positive, (p, m).
            max_rounds: at most so many steps for a fit.
        """
        rows = self._rows
        points = [torch.zeros(rows.n + z.shape[1], dtype=torch.float64) for z in self._beside]
        for values in strengths.tolist():
            u = torch.zeros(rows.m, rows.d + 1, dtype=torch.float64)
            taken, converged = torch.zeros(rows.m, dtype=torch.long), torch.zeros(rows.m, dtype=torch.bool)
            for fit, value in enumerate(values):
                points[fit], taken[fit], converged[fit] = self._fit(fit, value, points[fit], max_rounds)
                alpha, beside = points[fit][: rows.n], points[fit][rows.n :]
                u[fit, :-1] = self._inverse[fit] * (self._x.T @ alpha)
                u[fit, self._free[fit]] = beside[: len(self._free[fit])]
                if not bool(rows.absent[-1]):
                    u[fit, -1] = beside[-1]
            yield u, taken, converged

    def _fit(self, fit: int, value: float, point: Tensor, max_rounds: int) -> tuple[Tensor, int, bool]:
        """The fit at a strength: α and the coefficients without penalty, the number of steps, and whether it is it."""
        kernel, beside, n = self._kernels[fit], self._beside[fit], self._rows.n
        v = self._weights[fit][:, None]
        both = torch.cat([kernel, beside], 1)
        total = float(v.sum())
        rounding = thresholds.PATH_ROUNDING * float(kernel.diagonal().mean()) ** 0.5
        enough = max(thresholds.PATH_VIOLATION * value, rounding)

        def objective(point: Tensor, shrunk: Tensor) -> tuple[Tensor, Tensor, float]:
            z = (both @ point)[:, None] if self._rows.offset is None else (both @ point + self._rows.offset)[:, None]
            losses, residual = losses_of_shares(z, self._rows.y[:, None], v)
            return z, residual[:, 0], float(losses.sum()) / total + 0.5 * value * float(point[:n] @ shrunk)

        shrunk = kernel @ point[:n]
        z, residual, height = objective(point, shrunk)
        for taken in range(max_rounds + 1):
            left = residual / total + value * point[:n]
            violation = max(float(left @ (kernel @ left)), 0.0) ** 0.5
            violation = max(violation, float((beside.T @ residual).abs().max()) / total if beside.shape[1] else 0.0)
            if violation <= enough or taken == max_rounds:
                return point, min(taken + 1, max_rounds), violation <= enough
            proposal = self._step(kernel, beside, curvature_of(z, v)[:, 0], point, residual, value * total)
            length = 1.0
            while True:
                there = point + length * (proposal - point)
                shrunk = kernel @ there[:n]
                z_there, residual_there, height_there = objective(there, shrunk)
                if height_there <= height + 1e-12 * abs(height) or length < thresholds.SHORTEST_STEP:
                    break
                length /= 2
            point, z, residual, height = there, z_there, residual_there, height_there
        raise AssertionError

    @staticmethod
    def _step(kernel: Tensor, beside: Tensor, d: Tensor, point: Tensor, residual: Tensor, ridge: float) -> Tensor:
        """The minimiser of the quadratic model about a point."""
        n = len(d)
        root = d.sqrt()
        matrix = root[:, None] * kernel * root
        matrix.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if info:  # by rounding
            matrix.diagonal().add_(n * torch.finfo(matrix.dtype).eps * float(matrix.diagonal().max()))
            factor = torch.linalg.cholesky(matrix)
        target = root * (kernel @ point[:n] + beside @ point[n:])
        target -= torch.where(d > 0, residual / root, 0.0)
        sides = torch.cat([target[:, None], root[:, None] * beside], 1)
        solved = torch.cholesky_solve(sides, factor)
        gram = sides[:, 1:].T @ solved
        found = torch.linalg.lstsq(gram[:, 1:], gram[:, 0]).solution if beside.shape[1] else d[:0]
        return torch.cat([root * (solved[:, 0] - solved[:, 1:] @ found), found])
