"""The likelihood of all rows, plain or with Firth's penalty, at several points at once: values and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.model.design import SmallDense
from lr_lightning.model.losses import curvature, losses_of_shares, residuals
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.threads import share_out
from lr_lightning.solver import thresholds
from lr_lightning.solver.decompositions import InverseRoot, inverse_root


class Derivatives(NamedTuple):
    """Values and derivatives of minus a log-likelihood at m points.

    Attributes:
        values: (m,).
        gradients: (p, m).
        hessians: (m, p, p).
        of_penalty: the part of Firth's penalty in the gradients, (p, m); None without it.
        roots: with Firth's penalty those of the Hessians, or None where one is singular.
    """

    values: Tensor
    gradients: Tensor
    hessians: Tensor
    of_penalty: Tensor | None
    roots: list[InverseRoot | None]


class Likelihood:
    r"""Minus the log-likelihood, −ℓ(β), or −ℓ(β) − ½ log|I(β)| with Firth's penalty, and its derivatives.

    ℓ = Σ v_i [y_i log π_i + (1 − y_i) log(1 − π_i)], with π = σ(o + x̃ᵀβ), and I = Σ v_i π_i (1 − π_i) x̃_i x̃_iᵀ. Firth's
    penalty (Firth 1993; Heinze & Schemper 2002) changes the score to Σ [v_i (y_i − π_i) + h_i (½ − π_i)] x̃_i, with the
    leverages h_i = v_i π_i (1 − π_i) x̃_iᵀ I⁻¹ x̃_i. The weights v are frequencies then.

    Attributes `size` is p, and `has_curvature_of_penalty` whether Hessians contain that of Firth's penalty.

    Points β are vectors (p,) of coefficients of the standardised columns, the intercept last, float64 on the CPU. The
    rows are read as they are, and the standardisation is folded into the coefficients. All sums are float64, and do
    not depend on the number of threads.

    Args:
        batches: the rows, on the CPU; iterated in each sweep.
        standardization: means and scales (d,) in the units of the rows; a scale of infinity takes a feature out.
        intercept: whether the last coefficient is an intercept; without one the means are 0.
        firth: whether the penalty is on.
        weight_scale: the number by which the weights v have been divided.
        columns: numbers of the features in use, (k,), sorted; None for all that have a finite scale.
        units: scales (d,) by which the features in the rows have been divided, or None: |I| is that of the original
            features.
    """

    def __init__(
        self,
        batches: Iterable[Rows],
        standardization: Standardization,
        *,
        intercept: bool = True,
        firth: bool = False,
        weight_scale: float = 1.0,
        columns: Tensor | None = None,
        units: Tensor | None = None,
    ) -> None:
        mean, scale = standardization.to("cpu")
        self.columns = scale.isfinite().nonzero()[:, 0] if columns is None else columns
        self.intercept, self.firth = intercept, firth
        self._all = None if len(self.columns) == len(scale) else self.columns
        self._n_features = len(scale)
        self._fold: tuple[Tensor, Tensor] | None = (mean[self.columns], scale[self.columns])
        self._batches, self._weight_scale = batches, weight_scale
        original = self._fold[1] if units is None else self._fold[1] * units.cpu()[self.columns]
        self._log_units = float(original.log().sum())
        parts = list(batches) if isinstance(batches, list) else []
        self._has_offset = not parts or any(rows.offset is not None for rows in parts)
        n_rows = sum(len(rows.y) for rows in parts)
        if parts and n_rows * max(1, self.size) <= thresholds.STANDARDIZED_ONCE:
            self._batches, self._fold, self._all = [self._standardized(parts)], None, None
        self.has_curvature_of_penalty = (
            self._fold is None and n_rows * n_rows * self.size <= thresholds.CHEAP_PENALTY_CURVATURE
        )

    @property
    def size(self) -> int:
        """Number of coefficients, p."""
        return len(self.columns) + self.intercept

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Values (m,) and gradients (p, m) at points (p, m); see `derivatives`."""
        if self.firth:
            return self.derivatives(points)[:2]
        return self._sweep(points, information=False)[:2]

    def derivatives(self, points: Tensor) -> Derivatives:
        """Values, gradients and Hessians at points (p, m).

        Firth's value is infinite where I is singular. Its Hessian is I, unless the table is small: then it is exact
        where that is positive definite.
        """
        values, gradients, hessians, known = self._sweep(points, information=True)
        if not self.firth:
            return Derivatives(values, gradients, hessians, None, [])
        of_penalty, roots = torch.zeros_like(gradients), [inverse_root(matrix) for matrix in hessians]
        penalties = [torch.inf if root is None else -0.5 * root.log_determinant - self._log_units for root in roots]
        for j, root in enumerate(roots):
            if root is None or not (self._has_offset or bool(points[:, j].any())):
                continue  # where all π are ½ the penalty has no gradient
            of_row = None if known is None else (known[0][:, j : j + 1], known[1][:, j : j + 1])
            of_penalty[:, j], hessian = self._of_penalty(points[:, j : j + 1], root.factor, of_row)
            if hessian is not None and (exact := inverse_root(hessians[j] + hessian)) is not None:
                hessians[j] += hessian
                roots[j] = exact
        values = values + torch.tensor(penalties, dtype=torch.float64)
        return Derivatives(values, gradients + of_penalty, hessians, of_penalty, roots)

    def at(self, point: Tensor) -> tuple[float, Tensor, Tensor]:
        """Value, gradient (p,) and Hessian (p, p) at one point (p,)."""
        found = self.derivatives(point[:, None])
        return float(found.values[0]), found.gradients[:, 0], found.hessians[0]

    def plain_gradient(self, point: Tensor) -> Tensor:
        """The gradient (p,) of −ℓ at a point (p,), without Firth's penalty."""
        return self._sweep(point[:, None], information=False)[1][:, 0]

    def information(self, points: Tensor) -> Tensor:
        """I, (m, p, p), at points (p, m): the Hessian of −ℓ."""
        return self._sweep(points, information=True, derivatives=False)[2]

    def changes(self, directions: Tensor) -> Tensor:
        """Changes of the rows' logits along directions (p, m), (n, m)."""
        parts = [self._logits(rows._replace(offset=None), directions) for rows in self._blocks(directions.shape[1])]
        return torch.cat(parts) if parts else torch.zeros(0, directions.shape[1], dtype=torch.float64)

    def row_lengths(self) -> Tensor:
        """‖x̃‖ of the rows, (n,)."""
        parts = []
        for rows in self._blocks(1):
            if self._fold is None:
                parts.append(rows.design.square_norms(None, None))
                continue
            design = rows.design if self._all is None else rows.design.columns(self._all)
            parts.append(design.square_norms(*self._fold) + self.intercept)
        return torch.cat(parts).sqrt() if parts else torch.zeros(0, dtype=torch.float64)

    def intercept_shift(self, point: Tensor) -> float:
        """The change of the intercept that makes Σ v π = Σ v y (FLIC: Puhr, Heinze, Nold, Lusa & Geroldinger 2017)."""
        found = [(self._logits(rows, point[:, None])[:, 0], rows.y.double(), rows.weight) for rows in self._blocks(1)]
        z, y = torch.cat([each[0] for each in found]), torch.cat([each[1] for each in found])
        weights = [torch.ones_like(labels) if weight is None else weight.double() for _, labels, weight in found]
        v = torch.cat(weights)
        low, high, shift = -torch.inf, torch.inf, 0.0
        for _ in range(200):
            excess = float(v @ residuals(z + shift, y))  # Σ v (π − y)
            low, high = (low, shift) if excess > 0 else (shift, high)
            step = -excess / max(float(v @ curvature(z + shift)), 1e-300)
            after = shift + max(-2.0, min(2.0, step))
            after = after if low <= after <= high else (low + high) / 2
            if abs(after - shift) <= 1e-15 * (1 + abs(after)):
                return after
            shift = after
        return shift

    def largest_change(self, point: Tensor, step: Tensor) -> float:
        """The largest ratio of a row's change of logit to 0.1 + 0.003 |logit|, over all rows of positive weight."""
        largest = 0.0
        for rows in self._blocks(2):
            z = self._logits(rows, point[:, None])[:, 0].abs()
            change = self._logits(rows._replace(offset=None), step[:, None])[:, 0].abs()
            ratio = change / (0.1 + 0.003 * z)
            ratio = ratio if rows.weight is None else ratio[rows.weight > 0]
            largest = max(largest, float(ratio.max()) if len(ratio) else 0.0)
        return largest

    def _standardized(self, parts: list[Rows]) -> Rows:
        """All rows in one block, with standardised columns and a last one of ones."""
        assert self._fold is not None  # noqa: S101
        mean, scale = self._fold
        n_rows, k = sum(len(rows.y) for rows in parts), len(self.columns)
        columns, start = torch.ones(self.size, n_rows, dtype=torch.float64), 0
        for rows in parts:
            design = rows.design if self._all is None else rows.design.columns(self._all)
            x, part = design.dense(torch.float64), slice(start, start + len(rows.y))
            torch.sub(x.T, mean[:, None], out=columns[:k, part]).div_(scale[:, None])
            start = part.stop
        y, weight, offset = (
            None if all(part is None for part in column) else torch.cat([part.double() for part in filled])
            for column, filled in (
                ([rows.y for rows in parts], [rows.y for rows in parts]),
                ([rows.weight for rows in parts], [_or(rows.weight, rows.y, 1.0) for rows in parts]),
                ([rows.offset for rows in parts], [_or(rows.offset, rows.y, 0.0) for rows in parts]),
            )
        )
        return Rows(SmallDense(columns.T), y, weight, offset)  # type: ignore[arg-type]

    def _blocks(self, width: int) -> Iterator[Rows]:
        size = max(128, thresholds.LIKELIHOOD_BLOCK // max(1, width, self.size))
        for rows in self._batches:
            if self._fold is None or len(rows.y) <= size:
                yield rows
                continue
            for start in range(0, len(rows.y), size):
                yield rows.take(slice(start, start + size))

    def _served(self, points: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (d, m) and intercepts (m,) for the features in the rows."""
        if self._fold is None:
            return points, None
        (mean, scale), k = self._fold, len(self.columns)
        slopes = points[:k] / scale[:, None]
        shift = -(mean @ slopes)
        if self.intercept:
            shift = shift + points[k]
        if self._all is not None:
            whole = torch.zeros(self._n_features, points.shape[1], dtype=torch.float64)
            whole[self._all] = slopes
            slopes = whole
        return slopes, shift

    def _logits(self, rows: Rows, points: Tensor) -> Tensor:
        """Logits (r, m) at points (p, m)."""
        z = rows.design.matvec(*self._served(points))
        return z if rows.offset is None else z + rows.offset.double()[:, None]

    def _weight(self, rows: Rows) -> Tensor | None:
        if rows.weight is None:
            return None if self._weight_scale == 1 else torch.full_like(rows.y, self._weight_scale).double()[:, None]
        return (rows.weight.double() * self._weight_scale)[:, None]

    def _sweep(
        self, points: Tensor, *, information: bool, derivatives: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Values (m,), gradients (p, m) and I (m, p, p) of −ℓ, 0 where they are not wanted.

        And the logits and curvatures of the rows, (n, m), if they are in one block.
        """
        m = points.shape[1]
        blocks = list(self._blocks(m))
        none = torch.zeros((), dtype=torch.float64)
        parts = [(torch.zeros(m, dtype=torch.float64), none, none)] * len(blocks)
        of_rows = [(none, none)]

        def work(share: Iterator[int]) -> None:
            for b in share:
                rows = blocks[b]
                v, z = self._weight(rows), self._logits(rows, points)
                value = gradient = matrices = bend = none
                if derivatives:
                    losses, residual = losses_of_shares(z, rows.y[:, None], v)
                    value, gradient = losses.sum(0), self._scores(rows, residual)
                if information:
                    bend = curvature(z, v)
                    columns = [bend[:, 0]] if m == 1 else bend.T.contiguous().unbind(0)
                    found = [self._sandwich(rows, each) for each in columns]
                    matrices = found[0][None] if m == 1 else torch.stack(found)
                parts[b] = value, gradient, matrices
                if len(blocks) == 1:
                    of_rows[b] = z, bend

        self._share_out(work, blocks)
        if len(blocks) == 1:
            return *parts[0], of_rows[0]
        values, gradients, matrices = (sum(each) for each in zip(*parts, strict=True))
        return values, gradients, matrices, None  # type: ignore[return-value]

    def _of_penalty(
        self, point: Tensor, root: Tensor, known: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient (p,) and Hessian (p, p) of −½ log|I| at a point (p, 1), with F Fᵀ the inverse of I, F (p, p).

        The Hessian is None where it would take long. `known` are the logits and the curvatures (n, 1) of the rows.
        """
        served, blocks = self._served(root), list(self._blocks(1))
        parts = [torch.zeros(0)] * len(blocks)

        def work(share: Iterator[int]) -> None:
            for b in share:
                rows = blocks[b]
                z = self._logits(rows, point) if known is None else known[0]
                bend = curvature(z, self._weight(rows)) if known is None else known[1]
                lengths = rows.design.matvec(*served).T
                leverage = bend * lengths.square_().sum(0)[:, None]
                parts[b] = self._scores(rows, leverage.mul_(torch.tanh(0.5 * z)))[:, 0]

        self._share_out(work, blocks)
        gradient = 0.5 * (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))  # π − ½ is half that tangent
        cheap = self.has_curvature_of_penalty
        return gradient, self._hessian_of_penalty(blocks[0], point, root) if cheap else None

    def _hessian_of_penalty(self, rows: Rows, point: Tensor, root: Tensor) -> Tensor:
        """−½ tr(I⁻¹ I_jk) + ½ tr(I⁻¹ I_j I⁻¹ I_k), (p, p), from all rows in one block, with n² p multiplications."""
        x, v = rows.design.dense(), self._weight(rows)
        z = self._logits(rows, point)[:, 0]
        w = curvature(z)
        first, second = -w * torch.tanh(z / 2), w * (1 - 6 * w)  # derivatives of w by z
        if v is not None:
            first, second = first * v[:, 0], second * v[:, 0]
        u = x @ root
        products = u @ u.T
        scaled = x * first[:, None]
        return 0.5 * (scaled.T @ (products.square() @ scaled) - (x * (second * products.diagonal())[:, None]).T @ x)

    def _share_out(self, work: Callable[[Iterator[int]], None], blocks: list[Rows]) -> None:
        if len(blocks) == 1:
            work(iter([0]))
        else:
            share_out(work, len(blocks), blocks[0].y, effort=len(blocks) * self.size)

    def _scores(self, rows: Rows, residual: Tensor) -> Tensor:
        """Σ r x̃ of a block, (p, m), for residuals r (r, m)."""
        products = rows.design.rmatvec(residual)
        if self._fold is None:
            return products
        mean, scale = self._fold
        total = residual.sum(0)
        products = products if self._all is None else products[self._all]
        scores = (products - torch.outer(mean, total)) / scale[:, None]
        return torch.cat([scores, total[None]]) if self.intercept else scores

    def _sandwich(self, rows: Rows, curvature: Tensor) -> Tensor:
        """Σ c x̃ x̃ᵀ of a block, (p, p), for c (r,)."""
        if self._fold is None:
            return rows.design.sandwich(curvature)
        (mean, scale), k = self._fold, len(self.columns)
        raw = rows.design.sandwich(curvature, self._all, intercept=True)
        edge = raw[:k, k] - raw[k, k] * mean
        raw[:k, :k] -= torch.outer(mean, raw[k, :k]) + torch.outer(edge, mean)
        raw[:k, :k] /= scale * scale[:, None]
        raw[:k, k] = raw[k, :k] = edge / scale
        return raw if self.intercept else raw[:k, :k]


def _or(column: Tensor | None, like: Tensor, value: float) -> Tensor:
    return torch.full_like(like, value, dtype=torch.float64) if column is None else column
