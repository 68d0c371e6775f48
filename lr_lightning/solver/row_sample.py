"""A sample of the rows: its loss, and the models of the curvature that it gives."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lr_lightning.model.design import compute_dtype, sweep
from lr_lightning.model.objective import logistic_hessian
from lr_lightning.solver.curvature import DenseCurvature, LimitedMemoryCurvature, WorkingSetCurvature
from lr_lightning.solver.factored import FactoredCurvature
from lr_lightning.solver.quadratic import RANK_TOLERANCE, mean_square_eigenvalue, smallest_pivot
from lr_lightning.solver.woodbury import GramCurvature, gram_matrix

Curvature = DenseCurvature | LimitedMemoryCurvature | WorkingSetCurvature | GramCurvature

DENSE_LIMIT = 2048  # coefficients; above, nothing of d × d is kept
_CHEAP = 2e8  # multiplications of a Hessian that is not worth being spared
_FEW = 64  # coefficients; with more, a Hessian costs as much as several sweeps
_FAR = 30  # the curvature is 1e-13 there
_AFFORDABLE = 5e9  # multiplications of a Hessian that a slightly wrong model is reason enough for, or of a QR
_HESSIAN_SHARE = 0.15  # of a sweep over an element of x for a multiplication of three Hessians
_PASS = 1e7  # elements of x whose sweep takes as long as all else in a pass
_FEW_PASSES = 20
_EASY_PIVOT = 0.05
_EASY_SPREAD = 2
_DOUBLE_PIVOT = 1e-8  # below, half of the digits of a Newton step are gone
_SINGLE_PIVOT = 2e-6  # below, float32 products are too coarse for the Hessian's inverse
_SINGLE_RANK_TOLERANCE = 1e-11  # dependent columns, rounded to float32, leave squared pivots of 1e-14


class RowSample:
    """The penalised mean logistic loss on a sample of the rows, and its curvature.

    Points are vectors of all coefficients, the intercept last, float64 on the CPU.

    Args:
        x: Features, (m, d), standardised.
        y: Labels, (m,).
        v: Weights, (m,), or None.
        l1: (d,) or (d + 1,), the intercept's being 0; float64 on the CPU.
        l2: As ``l1``.
        n_rows: Number of rows of the whole table; the sample may be all of them.
        share: Their part of the weight; the others have no loss.
    """

    def __init__(
        self, x: Tensor, y: Tensor, v: Tensor | None, l1: Tensor, l2: Tensor, *, n_rows: float, share: float = 1.0
    ) -> None:
        self._n_rows, self._share = n_rows, share
        complete = len(x) >= n_rows
        self.exact = complete and len(x) * len(l1) ** 2 <= _CHEAP
        rounded, self._double = x.dtype != torch.float64, compute_dtype(x) == torch.float64
        x = x.double() if self.exact else x.to(compute_dtype(x))
        self._x, self._y, self._v = x, y, v
        self._l1, self._l2 = l1, l2
        self._complete = complete
        self.size = len(l1)
        self._has_intercept = self.size > x.shape[1]
        self._renews = self.exact or self.size <= _FEW  # the Hessian, at every step
        self.has_cheap_curvature = len(x) * self.size**2 <= _AFFORDABLE
        self._total = (float(len(x)) if v is None else float(v.sum(dtype=torch.float64))) / share

        self._rank_tolerance = _SINGLE_RANK_TOLERANCE if rounded else RANK_TOLERANCE
        if rounded and self._double and not self._is_collinear():
            # Then a small pivot further on does not come from rounded columns but from rows fitted perfectly.
            self._rank_tolerance = RANK_TOLERANCE

    def _is_collinear(self) -> bool:
        return smallest_pivot(self._hessian_at_zero()) <= self._rank_tolerance * self.size

    def _hessian_at_zero(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """A multiple of the loss's Hessian (k, k) where all coefficients are 0: of the features alone."""
        weight, bias = self._split(torch.zeros(self.size, dtype=torch.float64, device=self._x.device))
        return logistic_hessian(self._x[rows], weight, bias, None if self._v is None else self._v[rows])

    def logits(self, point: Tensor) -> Tensor:
        """Logits (m,) of the sample's rows."""
        weight, bias = self._split(point.to(self._x.device, self._x.dtype))
        z = self._x @ weight
        return z if bias is None else z + bias

    def movement(self, step: Tensor) -> float:
        """The largest change of a sampled logit by a step of the coefficients."""
        return float(self.logits(step).abs().max())

    def smooth(self, point: Tensor) -> tuple[float, Tensor]:
        """Mean loss plus L2 penalty, and its gradient."""
        loss, gradient, residual = sweep(self._x, self._y, *self._split(point), self._v)
        if self._has_intercept:
            gradient = torch.cat([gradient, residual[None]])
        gradient = gradient.cpu() / self._total + self._l2 * point
        return float(loss) / self._total + 0.5 * float(self._l2 @ point.square()), gradient

    def curvature(self, point: Tensor, history_size: int) -> Curvature:
        """Model of the curvature around ``point``."""
        if self.is_dense:
            matrix = self._hessian(point)
            matrix.diagonal().add_(self._l2)
            if self._is_ill_conditioned(matrix):
                rows = self._x if not self._has_intercept else torch.nn.functional.pad(self._x, (0, 1), value=1.0)
                root = self._row_curvature(point).sqrt()
                return FactoredCurvature.of_rows(rows * root[:, None], self._l2)
            return DenseCurvature(matrix, self._rank_tolerance)
        if self._l1.any():
            return WorkingSetCurvature(self._block, point, 2 * DENSE_LIMIT, self._rank_tolerance)
        if self._gram is not None:
            return GramCurvature(self._x, self._l2, self._gram, self._row_curvature, point)
        return LimitedMemoryCurvature(self._diagonal(point), history_size)

    @cached_property
    def is_dense(self) -> bool:
        """Whether the curvature is a matrix over all coefficients."""
        if self.size > DENSE_LIMIT:
            return False
        if self.exact or bool(self._l1.any()):
            return True
        return self._gram is None and not self._is_easy

    @cached_property
    def _is_easy(self) -> bool:
        """Whether L-BFGS is done before the Hessians are: where they are dear, and the columns nearly independent.

        A Hessian of 1.5 d rows tells. No pivot is small: none of its columns is explained by those before it; and
        its eigenvalues are spread little more than such rows' are by chance, 1 + d / m in mean square. Otherwise
        L-BFGS takes many passes, or ends too soon. And the table needs some rows: the condition of n independent
        ones is ((√n + √d) / (√n - √d))² (Marchenko & Pastur 1967), which is 9 for n = 4 d.
        """
        m, d = self._x.shape
        dear = _HESSIAN_SHARE * m * d * d > _FEW_PASSES * (self._n_rows * d + _PASS)
        if not dear or self._n_rows < 4 * d:
            return False
        rows = torch.linspace(0, m - 1, min(m, 3 * d // 2), device=self._x.device).long()
        look = self._hessian_at_zero(rows)
        by_chance = 1 + d / len(rows)
        return smallest_pivot(look) > _EASY_PIVOT and mean_square_eigenvalue(look) < _EASY_SPREAD * by_chance

    def noise(self, curvature: Curvature) -> float:
        """What rounding in the gradient adds to the Newton decrement.

        Every row's term of the gradient is off by about the precision of x. Where columns nearly depend on
        each other, a step multiplies that by the inverse of a small pivot.
        """
        if self._double:
            return max(1e-12, curvature.noise()) if isinstance(curvature, FactoredCurvature) else 1e-12
        noise = 1e-8 if isinstance(curvature, GramCurvature) else 1e-9
        if isinstance(curvature, DenseCurvature):
            pivot = max(smallest_pivot(curvature.matrix), _SINGLE_RANK_TOLERANCE)
            noise = max(noise, 10 * torch.finfo(torch.float32).eps ** 2 / (len(self._x) * pivot))
        return noise

    @cached_property
    def _gram(self) -> Tensor | None:
        """For `GramCurvature`, where its n × n matrix is no larger than those of `DenseCurvature`, or None."""
        if not self._complete or len(self._x) > min(self.size, DENSE_LIMIT):
            return None
        l2 = self._l2[: self._x.shape[1]]
        return gram_matrix(self._x, self._v, l2, is_needed=self.size <= DENSE_LIMIT)

    def _split(self, point: Tensor) -> tuple[Tensor, Tensor | None]:
        return (point[:-1], point[-1]) if self._has_intercept else (point, None)

    def _hessian(self, point: Tensor) -> Tensor:
        hessian = logistic_hessian(self._x, *self._split(point), self._v).cpu() / self._total
        if self._x.dtype != torch.float64 and smallest_pivot(hessian) < _SINGLE_PIVOT:
            hessian = logistic_hessian(self._x.double(), *self._split(point), self._v).cpu() / self._total
        return hessian

    def _is_ill_conditioned(self, matrix: Tensor) -> bool:
        """Whether a Hessian (k, k) has lost digits that the rows, if they hold them, could give a factor."""
        lossless = self._x.dtype == torch.float64 and self._rank_tolerance == RANK_TOLERANCE
        if not lossless or self._l1.any() or not self.has_cheap_curvature:
            return False
        return smallest_pivot(matrix) < _DOUBLE_PIVOT

    def _row_curvature(self, point: Tensor) -> Tensor:
        """What each row (m,) adds to the Hessian of the mean loss along its own features."""
        z = self.logits(point)
        curvature = torch.sigmoid(z) * torch.sigmoid(-z)
        # Where a row is predicted far from right its loss is straight, which calls for steps without end; then
        # that of the parabola which bounds the loss (Jaakkola & Jordan 2000).
        wrong = (1 - 2 * self._y.to(z.dtype)) * z
        curvature = torch.where(wrong > _FAR, 0.5 / wrong, curvature) / self._total
        return curvature if self._v is None else (curvature * self._v).to(z.dtype)

    def _diagonal(self, point: Tensor) -> Tensor:
        diagonal = torch.zeros(self.size, dtype=torch.float64)
        h = self._row_curvature(point)
        d = self._x.shape[1]
        rows = max(1, 2**20 // d)
        for i in range(0, len(h), rows):
            block = self._x[i : i + rows]
            diagonal[:d] += (h[i : i + rows] @ (block * block)).double().cpu()
        if self._has_intercept:
            diagonal[d] = float(h.sum(dtype=torch.float64))
        diagonal += self._l2
        floor = 1e-6 * float(diagonal.max())
        return diagonal.clamp(min=max(floor, 1e-300))

    def _block(self, point: Tensor, index: Tensor) -> Tensor:
        """Block of the Hessian for the coordinates in ``index``, which is sorted."""
        h = self._row_curvature(point)
        d = self._x.shape[1]
        of_features = index[index < d].to(self._x.device)
        columns = self._x.index_select(1, of_features)
        if len(of_features) < len(index):
            columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1)
        matrix = torch.zeros(len(index), len(index), dtype=torch.float64)
        for i in range(0, len(columns), 4096):
            part = columns[i : i + 4096]
            matrix += (part.T @ (part * h[i : i + 4096, None])).double().cpu()
        matrix.diagonal().add_(self._l2[index])
        return matrix
