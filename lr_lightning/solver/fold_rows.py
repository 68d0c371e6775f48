"""The rows of several fits at once: of all of them, and of all but each fold."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lr_lightning.memory import fits_in_memory
from lr_lightning.model.design import Dense, Design
from lr_lightning.model.losses import curvature as curvature_of
from lr_lightning.model.losses import fill_losses, has_shares, losses_of_shares
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows, scaled_weights
from lr_lightning.model.standardization import Standardization, moments, standardization_to_serve
from lr_lightning.model.swept import Swept
from lr_lightning.model.threads import share_out
from lr_lightning.solver import thresholds
from lr_lightning.solver.sampling import draw_sample


@dataclass(frozen=True)
class ColumnsInUse:
    """Some columns of a design.

    Attributes:
        design: that holds them, (n, c), or all columns.
        index: their numbers, (c,).
        is_own: whether the design holds nothing else; else every sweep picks them from its rows.
    """

    design: Design
    index: Tensor
    is_own: bool = True
    _blocks: dict[tuple[int, int], Design] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """Number of columns that are copied with a row that is taken."""
        return self.design.shape[1]

    def take(self, rows: Tensor | slice) -> Design:
        """Some rows of them, (b, c)."""
        found = self.design.take(rows)
        return found if self.is_own else found.columns(self.index)

    def block(self, rows: slice) -> Design:
        """The same of consecutive rows, kept if they are sparse: such a block is laid out once."""
        if isinstance(self.design, Dense):
            return self.take(rows)
        if rows.stop - rows.start == self.design.shape[0]:
            return self.design
        key = rows.start, rows.stop
        if key not in self._blocks:
            self._blocks[key] = self.take(rows)
        return self._blocks[key]


class Losses(NamedTuple):
    """Mean logistic losses.

    Attributes:
        training: of the rows of each fit, (m,).
        held_out: of each fold by the fit that leaves it out, (K,).
    """

    training: Tensor
    held_out: Tensor


class FoldRows:
    """Rows of m fits: number 0 is to all rows, number f + 1 to all rows but those of fold f.

    All fits have the same coordinates u: the coefficients σ_j w_j of the features, standardised by all rows, and as
    the last one the intercept of the centred features. A fold that is standardised by its own rows differs in its
    penalties alone: there |w_j| σ_fj = |u_j| σ_fj / σ_j is penalised, and the centre moves the intercept, which is not.
    So one sweep over the rows serves all fits.

    Args:
        rows: features (n, d), targets, weights v and offsets.
        fold: number of each row's fold, from 0, (n,); None for the fit of all rows alone.
        objective: says where the intercept stands, and what is penalised.
        served: the map that has been applied to the features; None for none.

    Attributes:
        m: number of fits.
        d: number of features.
        weight: Σ v of the rows of each fit, (m,).
        held_weight: Σ v of each fold, (K,).
        l1_unit: what an L1 penalty of strength 1 is on each coordinate, (m, d + 1): 0 where there is none.
        l2_unit: likewise of an L2 penalty.
        size: root mean square of each standardised feature in all rows, (d + 1,), which is 1 if it is centred.
        absent: which coordinates no fit has, (d + 1,): columns that do not vary, and the intercept where there is none.
    """

    def __init__(
        self, rows: Rows, fold: Tensor | None, objective: Objective, served: Standardization | None = None
    ) -> None:
        if rows.weight is not None:
            rows = rows._replace(weight=scaled_weights(rows.weight)[0])
        training = moments([(rows.x, rows.weight)])
        serve = standardization_to_serve(training) if isinstance(rows.design, Dense) else None
        if serve is not None:
            # Centred in float64 before they are rounded, the features keep digits that a large mean would cost.
            rows = rows._replace(x=serve.apply(rows.x, rows.design.dtype))
        self.design, self.offset = rows.design, rows.offset
        n, self.d = self.design.shape
        self.y, self.has_shares = rows.y, has_shares(rows.y)
        self.v = torch.ones(n, dtype=torch.float64) if rows.weight is None else rows.weight.double()
        self._offset_mean = 0.0
        if rows.offset is not None and objective.fit_intercept:
            # Without their mean, which the intercept takes, no row is far from where the fits begin.
            self._offset_mean = float(self.v @ rows.offset.double() / self.v.sum())
            self.offset = rows.offset.double() - self._offset_mean
        self._fold = None if fold is None else fold.long()
        self._folds = 0 if fold is None else int(fold.max()) + 1
        self.m = 1 + self._folds
        self.held_weight = torch.zeros(self._folds, dtype=torch.float64)
        if self._fold is not None:
            self.held_weight.index_add_(0, self._fold, self.v)
        total = self.v.sum()
        self.weight = torch.cat([total[None], total - self.held_weight])
        served = served or Standardization.identity(self.d)
        self._problem = objective.standardized(training.after(served), serve.after(served) if serve else served)
        self.standardization = self._problem.as_served
        self._constant, self._fit_intercept = training.scale == 0, objective.fit_intercept
        scale = self._problem.standardization.scale
        unit = self.own.scale if objective.standardize else (1 / scale).expand(self.m, self.d)
        factors = objective.factors(self.d)
        self.l1_unit, self.l2_unit = pad(unit * factors, (0, 1)), pad(unit.square() * factors, (0, 1))
        known = training.after(served)
        square = known.scale.square() + (known.mean - self._problem.standardization.mean).square()
        self.size = pad(square.sqrt() / scale, (0, 1), value=1.0)
        self.absent = pad(scale.isinf(), (0, 1), value=not objective.fit_intercept)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def is_dense(self) -> bool:
        """Whether the rows are stored as a tensor."""
        return isinstance(self.design, Dense)

    @cached_property
    def fixed(self) -> Tensor:
        """Mask of the coordinates that stay at 0 in each fit, (m, d + 1): absent ones, and columns constant in them.

        A column that is penalised stays at 0 by itself there, unless the intercept is missing.
        """
        return pad(self.own.scale == 0, (0, 1)) | self.absent

    @cached_property
    def own(self) -> Standardization:
        """Means and standard deviations (m, d) of the columns in the rows of each fit, standardised by all rows.

        The latter are 0 where a column does not vary. Without an intercept the means count as 0.
        """
        mean, scale = self.standardization
        constant, fit_intercept = self._constant, self._fit_intercept
        ones = (~constant).double() if fit_intercept else torch.ones_like(scale)
        if not self._folds:
            return Standardization(torch.zeros_like(ones)[None], ones[None])
        held = torch.zeros(self._folds, 2, self.d, dtype=torch.float64)
        for f, part in self.parts(self.d):
            held[f] += self.design.take(part).sums_about(mean, self.v[part])
        first, second = (torch.cat([held.sum(0)[None], held.sum(0) - held]) / self.weight[:, None, None]).unbind(1)
        variance = (second - first.square()) / (second - first.square())[0]
        relative = torch.where(constant, ones, variance.clamp_min(0).sqrt())
        if not fit_intercept:  # then a column that does not vary is one like the others
            return Standardization(torch.zeros_like(relative), relative)
        for f in range(self._folds):
            doubtful = ((variance[f + 1] <= thresholds.NEARLY_CONSTANT) & ~constant).nonzero()[:, 0]
            if len(doubtful):
                training = torch.where(self._fold == f, 0.0, self.v)
                own = moments([(self.design.columns(doubtful), training)]).scale
                relative[f + 1, doubtful] = own / scale[doubtful]
        return Standardization(first / scale, relative)

    def columns(self, index: Tensor) -> ColumnsInUse:
        """ColumnsInUse by their numbers."""
        if torch.equal(index, torch.arange(self.d)):
            return self.every
        is_copied = not self.is_dense or may_copy(self.n * len(index), self.design.dtype)
        return ColumnsInUse(self.design.columns(index) if is_copied else self.design, index, is_copied)

    def in_use(self, index: Tensor, share: float = 1.0) -> ColumnsInUse:
        """Some columns; all where these are more than a share of them."""
        return self.every if len(index) > share * self.d else self.columns(index)

    def for_one_sweep(self, index: Tensor) -> ColumnsInUse:
        """Some columns, which are worth no copy."""
        return ColumnsInUse(self.design, index, is_own=False) if self.is_dense else self.columns(index)

    def places(self, columns: ColumnsInUse) -> Tensor:
        """Numbers of their coordinates and the intercept's, (c + 1,)."""
        return torch.cat([columns.index, torch.tensor([self.d])])

    def theta(self, u: Tensor) -> Tensor:
        """Coefficients (d + 1,) of u (d + 1,) for the original features, the intercept last."""
        return self._problem.theta(u[:-1], u[-1] - self._offset_mean)

    @cached_property
    def every(self) -> ColumnsInUse:
        """All columns."""
        return ColumnsInUse(self.design, torch.arange(self.d))

    def signs(self, part: Tensor | slice) -> Tensor:
        """1 − 2y of some rows, (b, 1), float64."""
        return 1 - 2 * self.y[part, None].double()

    # ---- sweeps over the rows

    def gradients(
        self,
        columns: ColumnsInUse,
        fits: Tensor,
        u: Tensor,
        of: ColumnsInUse | None = None,
        *,
        rounded: bool = False,
    ) -> Tensor:
        """Gradients of the mean losses of some fits by u, (f, c + 1), in one sweep.

        Args:
            columns: whose coefficients may differ from 0.
            fits: numbers of the fits, (f,).
            u: their coefficients, (f, c + 1).
            of: the columns of the gradient; None for the same.
            rounded: whether the products of blocks of rows may be in float32, which takes half the time.
        """

        def residuals(z: Tensor, part: slice) -> Tensor:
            return self._residuals_of(z, part, fits)

        return self._swept(columns, fits, u, of, residuals, torch.float32 if rounded else torch.float64)

    def some_gradients(
        self, columns: ColumnsInUse, fits: Tensor, u: Tensor, of: ColumnsInUse, some: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients at some of p points of each of g fits, and what tells of those at the others, in one sweep.

        A gradient is the sum of the rows' v·ρ times their features, ρ being the derivatives of the losses.

        Args:
            columns: whose coefficients may differ from 0.
            fits: numbers of the fits, (g,).
            u: their coefficients, (g, p, c + 1).
            of: the columns of the gradients.
            some: numbers of the points, (s,).

        Returns:
            The gradients, (g, s, c + 1), the means of ρ at any point times ρ at these, (g, p, s), and of ρ², (g, p).
        """
        g, p, _ = u.shape
        repeated, unit = fits.repeat_interleave(p), torch.where(self.v > 0, 1 / self.v, 0.0)
        products: dict[int, Tensor] = {}

        def residuals(z: Tensor, part: slice) -> Tensor:
            r = self._residuals_of(z, part, repeated)
            by_fit = r.view(-1, g, p).transpose(0, 1)
            known = by_fit.index_select(2, some)
            with_some = (known * unit[part, None]).mT @ by_fit
            products[part.start] = torch.cat([with_some, (r.square().T @ unit[part]).view(g, 1, p)], 1)
            return known.transpose(0, 1).flatten(1)

        found = self._swept(columns, fits.repeat_interleave(len(some)), u.flatten(0, 1), of, residuals)
        total = torch.stack([products[start] for start in sorted(products)]).sum(0) / self.weight[fits, None, None]
        return found.unflatten(0, (g, -1)), total[:, :-1].mT, total[:, -1]

    def hessian_products(self, columns: ColumnsInUse, fits: Tensor, curvature: Tensor, u: Tensor) -> Tensor:
        """Products (f, c + 1) of the Hessians of some fits with vectors u (f, c + 1), in one sweep.

        Args:
            columns: of the coordinates.
            fits: numbers of the fits, (f,).
            curvature: of the rows in each, (n, f).
            u: a vector for each.
        """
        return self._swept(columns, fits, u, None, lambda z, part: z.mul_(curvature[part]))

    def _swept(
        self,
        columns: ColumnsInUse,
        fits: Tensor,
        u: Tensor,
        of: ColumnsInUse | None,
        derivatives: Callable[[Tensor, slice], Tensor],
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Means (f, c + 1) over the rows of derivatives by logits (b, f) times the standardised features.

        The derivatives are a function of the logits at u (q, c + 1), which it may overwrite, and of the rows.
        """
        dtype = dtype if self.is_dense else torch.float64
        swept = of or columns
        f, c = len(fits), len(swept.index)
        w, b = (t.to(dtype) for t in self._raw(columns, u))
        blocks = self._blocks(max(c, len(columns.index)), len(u))
        groups = min(thresholds.FOLD_GROUPS if self.is_dense else thresholds.SPARSE_GROUPS, len(blocks))
        gradient = torch.zeros(groups, c, f, dtype=torch.float64)
        sums = torch.zeros(groups, f, dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            for group in share:
                for part in blocks[group::groups]:
                    # Of wide sparse rows a block has more logits than stay in a core's cache.
                    pieces = [part] if self.is_dense else self._pieces(part, len(u))
                    found = [derivatives(_as(columns.block(piece), dtype).matvec(w, b), piece) for piece in pieces]
                    r = torch.cat(found) if len(found) > 1 else found[0]
                    sums[group] += r.sum(0)
                    gradient[group] += _as(swept.block(part), dtype).rmatvec(r)

        share_out(work, groups, self.y, effort=f * c)
        residual = sums.sum(0)
        mean, scale = (t[swept.index] for t in self.standardization)
        slopes = (gradient.sum(0).T - residual[:, None] * mean) / scale
        return torch.cat([slopes, residual[:, None]], 1) / self.weight[fits, None]

    def fold_gradients(self, u: Tensor) -> Tensor:
        """Gradients of the summed losses of each fold's rows at q points u (q, d + 1), (K or 1, q, d + 2), float64.

        The last entry is the sum of the residuals' sizes, which is less than that of the losses.
        """
        q, k = u.shape
        w, b = self._raw(self.every, u)
        parts: list[list[Tensor | slice]] = [[] for _ in range(max(1, self._folds))]
        for f, part in self.parts(k, thresholds.FOLD_BLOCK // 2):
            parts[f].append(part)
        groups = math.ceil(thresholds.FOLD_GROUPS / len(parts))
        stripes = [(f, of_fold[i::groups]) for f, of_fold in enumerate(parts) for i in range(min(groups, len(of_fold)))]
        sums = torch.zeros(len(stripes), k + 1, q, dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            for stripe in share:
                for part in stripes[stripe][1]:
                    design = self.design.take(part)
                    if isinstance(design, Dense):
                        x = design.dense(torch.float64)
                        r = self._residuals(logits_by_fit(x, w.T, b).T, part)
                        sums[stripe, :-2] += (r.T @ x).T
                    else:
                        r = self._residuals(design.matvec(w, b), part)
                        sums[stripe, :-2] += design.rmatvec(r)
                    sums[stripe, -2] += r.sum(0)
                    sums[stripe, -1] += self.signs(part)[:, 0] @ r

        share_out(work, len(stripes), self.y, effort=q * k)
        found = torch.zeros(len(parts), k + 1, q, dtype=torch.float64)
        found = found.index_add_(0, torch.tensor([f for f, _ in stripes]), sums).mT
        mean, scale = self.standardization
        found[..., :-2] = (found[..., :-2] - found[..., -2:-1] * mean) / scale
        return found

    def _residuals(self, z: Tensor, part: Tensor | slice) -> Tensor:
        """Derivatives (b, f) of the losses of some rows, times their weights, by the logits without offsets z (b, f).

        The logits are overwritten.
        """
        if self.offset is not None:
            z += self.offset[part, None]
        if self.has_shares:
            return losses_of_shares(z, self.y[part, None], self.v[part, None])[1].to(z)
        sign = self.signs(part)
        return z.mul_(sign).sigmoid_().mul_((sign * self.v[part, None]).to(z.dtype))

    def _residuals_of(self, z: Tensor, part: slice, fits: Tensor) -> Tensor:
        """The same of fits (f,), 0 in the rows that they leave out."""
        r = self._residuals(z, part)
        return r if self._fold is None else r.masked_fill_(self._fold[part, None] == fits - 1, 0.0)

    def losses(self, columns: ColumnsInUse, u: Tensor) -> Losses:
        """Losses of all fits at coefficients (…, m, c + 1): means (…, m) and (…, K)."""
        batch = u.shape[:-2]
        w, b = self._raw(columns, u.flatten(0, -2))
        f = len(b)
        blocks = self._blocks(max(f, len(columns.index)), f)
        groups = min(thresholds.FOLD_GROUPS, len(blocks))
        sums = torch.zeros(groups, f, dtype=torch.float64)
        held = torch.zeros(groups, self._folds, f // self.m, dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            for group in share:
                for part in blocks[group::groups]:
                    losses = self.losses_of(columns.block(part).matvec(w, b), part)
                    sums[group] += losses.sum(0)
                    if self._fold is not None:
                        fold = self._fold[part]
                        of_fold = losses.unflatten(1, (-1, self.m))[torch.arange(len(fold)), :, fold + 1]
                        held[group].index_add_(0, fold, of_fold)

        share_out(work, groups, self.y, effort=f * (1 + len(columns.index)))
        total, left_out = sums.sum(0).unflatten(0, (-1, self.m)), held.sum(0).T
        training = torch.cat([total[:, :1], total[:, 1:] - left_out], 1) / self.weight
        held_out = left_out / self.held_weight
        return Losses(training.reshape(*batch, self.m), held_out.reshape(*batch, self._folds))

    def held_out_losses(self, u: Tensor) -> Tensor:
        """Mean losses of each fold by the fits that leave it out, at coefficients (p, K, d + 1), (p, K)."""
        columns = self.for_one_sweep((u != 0).any(0).any(0)[:-1].nonzero()[:, 0])
        u = u[..., self.places(columns)]
        parts = list(self.parts(max(len(u), len(columns.index)), thresholds.FOLD_BLOCK))
        sums = torch.zeros(len(parts), len(u), dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            for number in share:
                fold, part = parts[number]
                z = columns.take(part).matvec(*self._raw(columns, u[:, fold]))
                sums[number] = self.losses_of(z, part).sum(0)

        share_out(work, len(parts), self.y, effort=len(u))
        of_folds = torch.zeros(self._folds, len(u), dtype=torch.float64)
        of_folds.index_add_(0, torch.tensor([fold for fold, _ in parts]), sums)
        return of_folds.T / self.held_weight

    def losses_of(self, z: Tensor, part: Tensor | slice) -> Tensor:
        """Losses (b, f) of some rows times their weights, by the logits without offsets z (b, f), overwritten."""
        if self.offset is not None:
            z += self.offset[part, None]
        if self.has_shares:
            return losses_of_shares(z, self.y[part, None], self.v[part, None])[0]
        losses = torch.empty_like(z)
        fill_losses(losses, z, self.signs(part), self.v[part, None])
        return losses

    def out_of_fold(self, columns: ColumnsInUse, u: Tensor) -> Tensor:
        """The logit of each row by the fit that leaves it out, (n,), with its offset.

        Args:
            columns: whose coefficients may differ from 0.
            u: of the fits without a fold, (K, c + 1).
        """
        out = torch.empty(self.n, dtype=torch.float64)
        for f, part in self.parts(columns.width):
            w, b = self._raw(columns, u[f : f + 1])
            out[part] = columns.take(part).matvec(w, b)[:, 0]
        return out if self.offset is None else out.add_(self.offset)

    def curvature(self, columns: ColumnsInUse, fits: Tensor, u: Tensor) -> Tensor:
        """Second derivatives (n, f) of the losses of some fits' rows by their logits, times their weights.

        Args:
            columns: whose coefficients may differ from 0.
            fits: numbers of the fits, (f,).
            u: their coefficients, (f, c + 1).
        """
        found = torch.empty(self.n, len(u), dtype=torch.float64)
        w, b = self._raw(columns, u)
        for part in self._cut(max(len(u), len(columns.index)), thresholds.FOLD_BLOCK):
            z = columns.block(part).matvec(w, b)
            if self.offset is not None:
                z += self.offset[part, None]
            found[part] = curvature_of(z, self.v[part, None])
            if self._fold is not None:
                found[part].masked_fill_(self._fold[part, None] == fits - 1, 0.0)
        return found

    # ---- Hessians

    def hessian_diagonals(self, columns: ColumnsInUse, fits: Tensor, curvature: Tensor) -> Tensor:
        """Diagonals (f, c + 1) of the Hessians of some fits, each with its curvature (n, f)."""
        design = columns.design
        if isinstance(design, Swept):
            squares = design.squared().rmatvec(curvature)
        else:
            squares = torch.stack([design.square_sums(one) for one in curvature.T], 1)
        mean, scale = (t[columns.index] for t in self.standardization)
        total = curvature.sum(0)[:, None]
        sums = squares.T - 2 * mean * design.rmatvec(curvature).T
        variance = (sums + mean.square() * total) / scale.square()
        return torch.cat([variance, total], 1) / self.weight[fits, None]

    def standardized(self, columns: ColumnsInUse) -> Tensor:
        """The columns and one of ones, each in a row, (c + 1, n), float32."""
        mean, scale = (t[columns.index] for t in self.standardization)
        x = columns.take(slice(None)).dense(torch.float64)
        out = torch.ones(len(columns.index) + 1, len(x))
        out[:-1] = ((x - mean) / scale).T
        return out

    @property
    def weights(self) -> Tensor:
        """Weights v of the rows in each fit, (m, n)."""
        return self.without_fold(self.v)

    def without_fold(self, v: Tensor) -> Tensor:
        """Of numbers (n,) of the rows those of each fit, (m, n), the others being 0."""
        if self._fold is None:
            return v[None]
        return torch.where(self._fold == torch.arange(-1, self._folds)[:, None], 0.0, v)

    def hessians(self, columns: ColumnsInUse, curvature: Tensor, *, rounded: bool = False) -> Tensor:
        """Hessians of all fits with the same curvature (n,) of the rows, (m, c + 1, c + 1).

        They cost no more than one: a fold's is that of all rows less that of the rows it leaves out.
        """
        k = len(columns.index) + 1
        dtype = torch.float32 if rounded and isinstance(self.design, Dense) else torch.float64
        curvature = curvature.to(dtype)
        raw = torch.zeros(max(1, self._folds), k, k, dtype=dtype)
        for f, part in self.parts(columns.width + 1):
            raw[f] += columns.take(part).sandwich(curvature[part], intercept=True)
        return self._standardized(self.of_fits(raw), columns.index, columns.index)

    def hessians_of_each(self, columns: ColumnsInUse, curvature: Tensor, fits: Tensor) -> Tensor:
        """Hessians of some fits, each with its own curvature (n, f), (f, c + 1, c + 1), in one product; of few rows."""
        ones = torch.ones(self.n, 1, dtype=torch.float64)
        x = torch.cat([columns.take(slice(None)).dense(torch.float64), ones], 1)
        weighted = curvature.T.contiguous()[:, None] * x.T.contiguous()
        raw = (weighted.flatten(0, 1) @ x).unflatten(0, (len(fits), -1))
        return self._standardized(raw / self.weight[fits, None, None], columns.index, columns.index)

    def hessians_at(self, u: Tensor) -> Tensor:
        """Hessians of all fits at q points u (q, d + 1), (q, m, d + 1, d + 1)."""
        w, b = self._raw(self.every, u)
        raw = torch.zeros(len(u), max(1, self._folds), self.d + 1, self.d + 1, dtype=torch.float64)
        for f, part in self.parts(self.d, thresholds.FOLD_BLOCK):
            design = self.design.take(part).astype(torch.float64)
            z = design.matvec(w, b)
            if self.offset is not None:
                z += self.offset[part, None]
            for own, curvature in zip(raw, curvature_of(z, self.v[part, None]).T, strict=True):
                own[f] += design.sandwich(curvature.contiguous(), intercept=True)
        index = self.every.index
        return torch.stack([self._standardized(self.of_fits(own), index, index) for own in raw])

    def hessian(self, columns: ColumnsInUse, curvature: Tensor, fit: int) -> Tensor:
        """A fit's own, (c + 1, c + 1)."""
        k = len(columns.index) + 1
        raw = torch.zeros(k, k, dtype=torch.float64)
        for part in self._cut(k):
            raw += columns.block(part).sandwich(curvature[part], intercept=True)
        return self._standardized(raw[None] / self.weight[fit], columns.index, columns.index)[0]

    def more_of_hessians(self, both: ColumnsInUse, new: ColumnsInUse, curvature: Tensor) -> Tensor:
        """Columns of the Hessians for the features that are new, (m, k, a): rows are all k − 1 and the intercept."""
        k, a = len(both.index), len(new.index)
        raw = torch.zeros(max(1, self._folds), k + 1, a + 1, dtype=torch.float64)
        for f, part in self.parts(max(both.width, new.width) + 1):
            raw[f] += _cross(both.take(part), new.take(part), curvature[part])
        return self._standardized(self.of_fits(raw), both.index, new.index)[:, :, :-1]

    def more_of_hessian(self, both: ColumnsInUse, new: ColumnsInUse, curvature: Tensor, fit: int) -> Tensor:
        """Columns of one fit's Hessian for the features that are new, (k, a)."""
        k, a = len(both.index), len(new.index)
        raw = torch.zeros(k + 1, a + 1, dtype=torch.float64)
        for part in self._cut(k):
            raw += _cross(both.block(part), new.block(part), curvature[part])
        return self._standardized(raw[None] / self.weight[fit], both.index, new.index)[0, :, :-1]

    def of_fits(self, raw: Tensor) -> Tensor:
        """Means over the rows of each fit, from sums over the rows of each fold."""
        total = raw.sum(0, keepdim=True)
        return (torch.cat([total, total - raw]) if self._folds else total).div_(
            self.weight.to(raw.dtype)[:, None, None]
        )

    def _standardized(self, raw: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Sums over products of features and ones, (…, r + 1, c + 1), turned into those of standardised features."""
        mean, scale = (t.to(raw.dtype) for t in self.standardization)
        (of_rows, of_columns), (by_rows, by_columns) = ((t[rows], t[columns]) for t in (mean, scale))
        total = raw[:, -1, -1, None]
        across, down = raw[:, -1, :-1] - total * of_columns, raw[:, :-1, -1]
        left = torch.stack([of_rows.expand_as(down), down], -1)
        right = torch.stack([across, of_columns.expand_as(across)], -2)
        raw[:, :-1, :-1].baddbmm_(left, right, alpha=-1).mul_(1 / (by_rows[:, None] * by_columns))
        raw[:, -1, :-1] = across / by_columns
        raw[:, :-1, -1] = (down - total * of_rows) / by_rows
        return raw

    def _raw(self, columns: ColumnsInUse, u: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (c, f) and biases (f,) for the features as they are stored."""
        mean, scale = (t[columns.index] for t in self.standardization)
        w = u[:, :-1] / scale
        return w.T.contiguous(), u[:, -1] - w @ mean

    def _blocks(self, width: int, fits: int) -> list[slice]:
        """Rows to be worked on at a time, where `width` columns are read for some fits."""
        n = self.n
        size = max(256, thresholds.FOLD_BLOCK // max(1, width if self.is_dense else fits))
        if not self.is_dense:
            size = max(min(size, thresholds.FOLD_BLOCK_ROWS), width)
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _pieces(self, part: slice, fits: int) -> list[slice]:
        size = max(256, thresholds.FOLD_BLOCK // max(1, fits))
        return [slice(start, min(start + size, part.stop)) for start in range(part.start, part.stop, size)]

    def parts(self, width: int, elements: int = thresholds.GATHERED_ELEMENTS) -> Iterator[tuple[int, Tensor | slice]]:
        """Every fold and rows of it, few enough to be copied."""
        if self._fold is None:
            yield from ((0, part) for part in self._cut(width, elements))
            return
        for f, rows in enumerate(self._rows_of_folds):
            yield from ((f, _as_slice(part)) for part in rows.split(self._rows_at_a_time(width, elements)))

    def _cut(self, width: int, elements: int = thresholds.GATHERED_ELEMENTS) -> list[slice]:
        size = self._rows_at_a_time(width, elements)
        return [slice(start, min(start + size, self.n)) for start in range(0, self.n, size)]

    def _rows_at_a_time(self, width: int, elements: int) -> int:
        return rows_at_a_time(width, elements) if self.is_dense else self.n

    @cached_property
    def _rows_of_folds(self) -> list[Tensor]:
        return [(self._fold == f).nonzero()[:, 0] for f in range(self._folds)]

    # ---- some of the rows

    def some_curvatures(self, u: Tensor, count: int) -> Tensor:
        """Second derivatives (about `count`, q) of the losses of some of all rows by their logits, at u (q, d + 1)."""
        some = slice(None, None, max(1, self.n // count))
        z = self.design.take(some).matvec(*self._raw(self.every, u))
        return curvature_of(z if self.offset is None else z + self.offset[some, None], self.v[some, None])

    def without_folds(self) -> FoldRows:
        """The fit of all rows alone."""
        alone = copy.copy(self)
        for name in ("every", "fixed", "own", "_rows_of_folds"):
            alone.__dict__.pop(name, None)
        alone.m, alone._folds, alone._fold, alone.held_weight = 1, 0, None, self.held_weight[:0]
        alone.weight, alone.l1_unit, alone.l2_unit = self.weight[:1], self.l1_unit[:1], self.l2_unit[:1]
        return alone

    def drawn(self, size: int) -> FoldRows:
        """The fit of all rows alone, by a random part of them, as they are stored.

        Args:
            size: number of rows; all are taken if there are fewer than twice as many.
        """
        if self.n < 2 * size:
            return self.without_folds()
        index = torch.randperm(self.n, generator=torch.Generator().manual_seed(0))[:size].sort().values
        return self._of_all_rows(Rows(self.design, self.y, self.v, self.offset).take(index))

    def sample(self, size: int) -> FoldRows:
        """The fit of all rows alone, by a sample of them: its coefficients are in the same coordinates."""
        mean, scale = self.standardization
        rows = Rows(self.design, self.y.to(self.design.dtype), self.v, self.offset)
        sample = self._of_all_rows(draw_sample(rows, center=mean, scale=scale, size=size))
        sample.standardization = Standardization.identity(self.d)
        return sample

    def _of_all_rows(self, drawn: Rows) -> FoldRows:
        """The fit of all rows alone, by some that stand for them."""
        part = self.without_folds()
        part.design, part.offset, part.y = drawn.design, drawn.offset, drawn.y
        part.v = torch.ones(part.n, dtype=torch.float64) if drawn.weight is None else drawn.weight.double()
        part.weight = part.v.sum()[None]
        return part


def may_copy(elements: int, dtype: torch.dtype) -> bool:
    """Whether so many elements of a table are to be copied for many sweeps: a part of it is copied in any case."""
    if not thresholds.GATHERED_ELEMENTS < elements <= thresholds.COPIED_ELEMENTS:
        return elements <= thresholds.COPIED_ELEMENTS
    return fits_in_memory(elements * dtype.itemsize, thresholds.COPIED_SHARE)


def rows_at_a_time(width: int, elements: int) -> int:
    """Number of rows of some width that are copied at a time, of about as many elements."""
    return max(1024, elements // max(1, width))


def logits_by_fit(x: Tensor, w: Tensor, shift: Tensor) -> Tensor:
    """The logits (f, b) of few rows (b, c) by coefficients (f, c) and intercepts (f,).

    Those of a fit lie next to each other: BLAS takes 0.4 to 0.8 times as long as for (b, f).
    """
    return torch.addmm(shift[:, None], w, x.T)


def _as(design: Design, dtype: torch.dtype) -> Design:
    """The rows in a dtype; sparse ones, which are multiplied in float64 in any case, as they are."""
    return design.astype(dtype) if isinstance(design, Dense) else design


def _as_slice(rows: Tensor) -> Tensor | slice:
    """Numbers of rows, rising, (b,), as a slice where it is one, so that no row is copied."""
    if not len(rows) or int(rows[-1] - rows[0]) + 1 != len(rows):
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _cross(both: Design, new: Design, curvature: Tensor) -> Tensor:
    """``(both, 1).T @ diag(curvature) @ (new, 1)``, (b + 1, a + 1)."""
    weighted = torch.cat([new.dense(torch.float64), torch.ones(len(curvature), 1, dtype=torch.float64)], 1)
    weighted *= curvature[:, None]
    return torch.cat([both.rmatvec(weighted), weighted.sum(0, keepdim=True)])
