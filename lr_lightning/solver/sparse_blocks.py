"""Fits of sparse rows at many strengths of a penalty at once, of all rows and without each fold.

As in `path_blocks`, sweeps serve dozens of fits; but of a hundred thousand columns only those are swept that are near
to being used, and the others once, in the end. One Hessian serves the fits at neighbouring strengths and those without
a fold alike, and its blocks, each of other columns, are solved by conjugate gradients, all of them at once. Where many
columns are in use no Hessian is computed: a sweep multiplies those of all fits, each its own, by vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from lr_lightning.model.swept import Swept
from lr_lightning.model.threads import share_out
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_fits import FoldFits, shorten, slope
from lr_lightning.solver.fold_rows import ColumnsInUse, FoldRows
from lr_lightning.solver.path_blocks import Block, Penalties, Solutions, penalties_of, sharing
from lr_lightning.solver.path_models import MatrixModel, Model, Models, Shared


class _Fits(NamedTuple):
    """Fits at p strengths.

    Attributes:
        columns: whose coefficients may differ from 0.
        u: coefficients of these and the intercept, (p, m, c + 1).
        converged: whether the optimality conditions hold, (p, m).
        gradient: of fit number 0 at the last strength, (d + 1,), infinite in columns that may be near to being used;
            None where it has not been computed.
        swept: whether each fit had a Hessian of its own.
    """

    columns: ColumnsInUse
    u: Tensor
    converged: Tensor
    gradient: Tensor | None = None
    swept: bool = False

    @property
    def last(self) -> _Fits:
        """Those at the last strength."""
        return self._replace(u=self.u[-1:], converged=self.converged[-1:])

    def at(self, places: Tensor, d: int) -> Tensor:
        """Coefficients of other coordinates, (p, m, k), of d features and the intercept."""
        every = self.u.new_zeros(*self.u.shape[:2], d + 1)
        every[..., self.columns.index], every[..., -1] = self.u[..., :-1], self.u[..., -1]
        return every[..., places]


def solve_nearby(fits: FoldFits, l1: Tensor, l2: Tensor, least_tolerance: float) -> Iterator[Solutions]:
    """The fits at p strengths, in blocks that share a Hessian.

    Where one does not lead to all of a block's fits, each has its own, at its present coefficients, and then blocks are
    halved; of few rows the fits at the strengths that are left are not attempted.

    Args:
        fits: at a stronger penalty, and before each other block at the last strength of the one before.
        l1: strengths, (p,), positive and falling.
        l2: likewise, not negative.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    rows = fits.rows
    sample, every = rows.drawn(thresholds.PART_ROWS), torch.arange(rows.d + 1)
    most, number, swept, last = len(l1), 0, False, None
    while number < len(l1):
        last = found = last or _present(fits)
        count = min(most, _sharing(rows, last, l1[number:]))
        first, second = (t[number : number + count] for t in (l1, l2))
        if count > 1:
            begin = _towards(rows, sample, last, first, second)
            if begin is None:
                if rows.n <= thresholds.FEW_ROWS_OF_BLOCKS:
                    return
                most = count // 2
                continue
            found = begin
        for _ in range(1 + thresholds.BLOCK_RETRIES):
            found = _solve(rows, sample, found, first, second, least_tolerance, swept=swept)
            if count > 1 or bool(found.converged.all()):
                break
            swept = True
        if count > 1 and not bool(found.converged.all()):
            most = count // 2 if found.swept else min(most, max(1, thresholds.FOLLOWED_LOGITS // (rows.n * rows.m)))
            swept = True
            continue
        number += count
        yield Solutions(found.at(every, rows.d), found.converged, rows.losses(found.columns, found.u))
        last = found.last if bool(found.converged.all()) else None


def _sharing(rows: FoldRows, last: _Fits, l1: Tensor) -> int:
    """How many of some strengths (p,) are to share a Hessian: many where few columns are used at all of them."""
    short = len(sharing(l1.tolist())[0])
    long = int((l1[: thresholds.SPARSE_FITS // rows.m] * thresholds.SPARSE_REACH > l1[0]).sum())
    if long <= short or last.gradient is None or rows.n <= thresholds.FEW_ROWS_OF_BLOCKS:
        return short
    near = int((last.gradient.abs() > l1[long - 1] * rows.l1_unit[0]).sum())
    stored = rows.design.stored.numel() if isinstance(rows.design, Swept) else 0
    return long if near**2 <= thresholds.SWEPT_HESSIAN * stored else short


def _present(fits: FoldFits) -> _Fits:
    """The fits where they are, with one strength."""
    rows = fits.rows
    columns = rows.columns((fits.u != 0).any(0)[:-1].nonzero()[:, 0])
    converged = torch.ones(1, rows.m, dtype=torch.bool)
    return _Fits(columns, fits.u[None, :, rows.places(columns)], converged, fits.gradient[0])


def _towards(rows: FoldRows, sample: FoldRows, last: _Fits, l1: Tensor, l2: Tensor) -> _Fits | None:
    """About the fits at strengths (p,): from the last ones towards a rough fit of all rows at the weakest, if any."""
    of_all = _Fits(last.columns, last.u[:, :1], last.converged[:, :1], last.gradient)
    tolerance = thresholds.ROUGH_VIOLATION * float(l1[-1] + l2[-1])
    rough = _solve(rows.without_folds(), sample, of_all, l1[-1:], l2[-1:], tolerance, rough=True)
    if not bool(rough.converged.all()):
        return None
    begin = last.at(rows.places(rough.columns), rows.d)
    # What a fold's coefficients differ by from those of all rows changes little.
    end = torch.where((begin == 0) & (begin[:, :1] != 0), 0.0, begin + (rough.u - begin[:, :1]))
    weight = torch.arange(1, len(l1) + 1, dtype=torch.float64) / len(l1)
    u = torch.lerp(begin, end, weight[:, None, None])
    return _Fits(rough.columns, u, torch.zeros(u.shape[:2], dtype=torch.bool))


def _solve(
    rows: FoldRows,
    sample: FoldRows,
    start: _Fits,
    l1: Tensor,
    l2: Tensor,
    least_tolerance: float,
    *,
    swept: bool = False,
    rough: bool = False,
) -> _Fits:
    """The fits at strengths (p,), which share a Hessian or each have one that is not computed.

    Args:
        rows: of m fits.
        sample: some of the rows.
        start: where to begin, at each strength or the one before.
        l1: strengths, (p,).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
        swept: whether each of the fits has a Hessian of its own.
        rough: whether to leave out the columns that are not near to being used.
    """
    p, m = len(l1), rows.m
    of, first, second = torch.arange(m).repeat_interleave(p), l1.repeat(m), l2.repeat(m)
    columns = _columns_near(rows, start, l1[-1])
    at = start.at(rows.places(columns), rows.d)
    at = at.masked_fill(rows.fixed[:, rows.places(columns)], 0.0)
    middle, u = at[len(at) // 2], at.expand(p, -1, -1).transpose(0, 1).flatten(0, 1)
    swept = swept or _worth_sweeps(rows, columns, p)
    hessian = None
    if not swept:
        of_rows = _Hessian.of_sample if rough else _Hessian
        hessian = of_rows(rows.without_folds(), columns, middle[:1], *([sample] if rough else []))
    converged, pending, gradient = torch.zeros(p * m, dtype=torch.bool), torch.arange(p * m), None
    for _ in range(1 + thresholds.BLOCK_RETRIES):
        these = of[pending], u[pending], first[pending], second[pending]
        block = _Block(rows, columns, hessian and hessian.model(l2[p // 2]), *these, least_tolerance)
        for _ in range(thresholds.BLOCK_ROUNDS // thresholds.PATIENCE):
            before = block.violation.max()
            block.run(block.gradients, thresholds.PATIENCE)
            if bool(block.violation.max() >= before):
                break
        u[pending], converged[pending] = block.coefficients, block.violation <= 1
        if rough or not bool(converged.all()):
            break
        these = of[pending], u[pending], first[pending], second[pending]
        beyond = _beyond(rows, columns, *these, least_tolerance)
        if len(pending) == p * m:
            gradient = None if bool(beyond.fits[p - 1]) else beyond.gradient
        if not len(beyond.columns):
            break
        pending = pending[beyond.fits]
        converged[pending] = False
        if hessian is not None:
            hessian.grow(beyond.columns)
        columns = rows.columns(torch.cat([columns.index, beyond.columns]))
        u = torch.cat([u[:, :-1], u.new_zeros(len(u), len(beyond.columns)), u[:, -1:]], 1)
    u, converged = u.unflatten(0, (m, p)).transpose(0, 1), converged.unflatten(0, (m, p)).T
    return _Fits(columns, u, converged, gradient, swept)


def _worth_sweeps(rows: FoldRows, columns: ColumnsInUse, p: int) -> bool:
    """Whether to multiply the Hessians of the fits at p strengths by sweeps over the rows, which are not few."""
    few = rows.n <= thresholds.FEW_ROWS_OF_BLOCKS or p * rows.m * rows.n > thresholds.FOLLOWED_LOGITS
    if few or not isinstance(columns.design, Swept):
        return False
    return len(columns.index) ** 2 > thresholds.SWEPT_HESSIAN * columns.design.stored.numel()


def _columns_near(rows: FoldRows, start: _Fits, l1: Tensor) -> ColumnsInUse:
    """The columns that are near to being used by the fits at the last of the strengths."""
    gradient = start.gradient
    if gradient is None or rows.m > 1:
        gradient = rows.gradients(start.columns, torch.arange(rows.m), start.u[-1], rows.every)
    near = ((gradient.abs() > thresholds.NEAR * l1 * rows.l1_unit) | (rows.l1_unit == 0)).any(0)[:-1]
    near[start.columns.index] |= (start.u != 0).any(0).any(0)[:-1]
    near &= ~rows.fixed[:, :-1].all(0)
    count = int(near.sum())
    if count > thresholds.SAME_COLUMNS * len(start.columns.index) and count == int(near[start.columns.index].sum()):
        return start.columns
    return rows.columns(near.nonzero()[:, 0])


class _Beyond(NamedTuple):
    """What all columns say of P fits that have used some.

    Attributes:
        columns: those that are not in use and violate the optimality conditions, (c,).
        fits: of which they do, (P,).
        gradient: of fit number 0 at the last strength, (d + 1,), infinite in columns that it may leave out.
    """

    columns: Tensor
    fits: Tensor
    gradient: Tensor | None


def _beyond(
    rows: FoldRows, columns: ColumnsInUse, of: Tensor, u: Tensor, l1: Tensor, l2: Tensor, least_tolerance: float
) -> _Beyond:
    """Look at all columns that are not in use.

    Args:
        rows: the rows.
        columns: in use.
        of: number of the fit of `FoldRows` of each, (P,), rising.
        u: coefficients (P, k).
        l1: strengths, (P,).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    numbers, counts = of.unique_consecutive(return_counts=True)
    p = int(counts[0])
    some = torch.linspace(0, p - 1, 2 + p // thresholds.TOLD_STRENGTHS).round().long()
    tells = bool((counts == p).all()) and len(some) < p
    # To leave the others out takes longer than some products with them.
    few = (len(numbers) * len(some) if tells else len(of)) <= thresholds.CHECKED_FITS
    unused = _Unused(rows, columns, of, l1, l2, least_tolerance, among_all=few)
    fits, gradient = unused.doubtful(u, some) if tells else (torch.ones(len(of), dtype=torch.bool), None)
    parts = fits.nonzero()[:, 0].split(thresholds.CHECKED_FITS) if bool(fits.any()) else ()
    found = torch.zeros(len(parts), len(unused.rest.index), dtype=torch.bool)

    def work(share: Iterator[int]) -> None:
        for number in share:
            part = parts[number]
            violating = unused.exceeded(part, rows.gradients(columns, of[part], u[part], unused.rest)[:, :-1].abs_())
            found[number], fits[part] = violating.any(0), violating.any(1)

    share_out(work, len(parts), u, effort=rows.n)
    return _Beyond(unused.rest.index[found.any(0)], fits, gradient)


class _Unused:
    """The columns that P fits do not use, and the gradients above which they would.

    Args:
        rows, columns, of, l1, l2, least_tolerance: as of `_beyond`.
        among_all: whether sweeps take all columns.

    Attributes:
        rest: the columns of sweeps, c of them.
    """

    def __init__(
        self,
        rows: FoldRows,
        columns: ColumnsInUse,
        of: Tensor,
        l1: Tensor,
        l2: Tensor,
        least_tolerance: float,
        *,
        among_all: bool,
    ) -> None:
        self._rows, self._columns, self._of = rows, columns, of
        unused = torch.ones(rows.d, dtype=torch.bool)
        unused[columns.index] = False
        self.rest = rows.every if among_all else rows.columns(unused.nonzero()[:, 0])
        unit = rows.l1_unit[:, self.rest.index]
        self._finest, self._least_tolerance = unit.clamp_max(1), least_tolerance
        self._unit = torch.where(unused[self.rest.index] & ~rows.fixed[:, self.rest.index], unit, torch.inf)
        self._l1, self._tolerance = l1[:, None], thresholds.PATH_VIOLATION * (l1 + l2)[:, None]

    def exceeded(self, part: Tensor, sizes: Tensor) -> Tensor:
        """Which columns the sizes of the gradients of some fits (f,) say to be used, (f, c)."""
        of = self._of[part]
        limit = (self._tolerance[part] * self._finest[of]).clamp_min_(self._least_tolerance)
        return sizes > limit.addcmul_(self._l1[part], self._unit[of])

    def doubtful(self, u: Tensor, some: Tensor) -> tuple[Tensor, Tensor | None]:
        """Which fits may use more columns, (P,), by gradients at some of their strengths and bounds at the others.

        Args:
            u: coefficients (P, k), at p strengths for each number of a fit.
            some: numbers of strengths, (s,), the last among them.

        Returns:
            These, and the gradient of `_Beyond`.
        """
        rows, groups = self._rows, torch.arange(len(u)).view(-1, int((self._of == self._of[0]).sum()))
        parts = groups.split(-(-len(groups) // -(-len(groups) * len(some) // thresholds.CHECKED_FITS)))
        fits, last = torch.ones(len(u), dtype=torch.bool), torch.zeros(len(self.rest.index), dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            for number in share:
                part = parts[number]
                of = self._of[part[:, 0]]
                found, products, squares = rows.some_gradients(self._columns, of, u[part], self.rest, some)
                if not number:
                    last.copy_(found[0, -1, :-1])
                for fit, group, known, by, left in zip(
                    of, part, found, *_combinations(products, squares, some), strict=True
                ):
                    sizes = (by @ known[:, :-1]).abs_()
                    size = (rows.weight[0] / rows.weight[fit]).sqrt() * rows.size[self.rest.index]
                    fits[group] = self.exceeded(group, sizes.addcmul_(left[:, None], size)).any(1)

        share_out(work, len(parts), u, effort=rows.n)
        if self._of[0]:
            return fits, None
        gradient = torch.full((rows.d + 1,), torch.inf, dtype=torch.float64)
        gradient[self.rest.index] = last
        return fits, gradient


def _combinations(products: Tensor, norms: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors as linear combinations (g, p, s) of some of them, and the norms of what these leave, (g, p), at most.

    Where gradients are linear in the vectors they are the same combinations, up to the norm left times a column's
    (Cauchy & Schwarz).

    Args:
        products: of each vector with these, (g, p, s).
        norms: of each, squared, (g, p).
        some: their numbers, (s,).
    """
    of_some = products[:, some]
    by = products @ torch.linalg.pinv(of_some, hermitian=True, rtol=1e-10)
    left = norms - 2 * (by * products).sum(2) + (by @ of_some * by).sum(2)
    rounding = thresholds.COMBINED_ROUNDING * norms.amax(1, keepdim=True) * (1 + by.abs().sum(2)).square()
    return by, (left.clamp_min(0) + rounding).sqrt()


class _Block(Block):
    """A block whose fits share a model, or each have their own, and whose steps are shortened.

    The Hessians of fits without a fold are nearly the same in coordinates that each fit's own rows have standardised,
    even where a column has few rows. So these are the coordinates in which all fits share a model.

    Args:
        rows: the rows.
        columns: that may be used.
        model: of all fits; None where Hessians are swept.
        of: number of the fit of `FoldRows` of each, (P,).
        u: coefficients of `FoldRows`, (P, k), the intercept last.
        l1: strengths, (P,).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
    """

    def __init__(
        self,
        rows: FoldRows,
        columns: ColumnsInUse,
        model: Model | None,
        of: Tensor,
        u: Tensor,
        l1: Tensor,
        l2: Tensor,
        least_tolerance: float,
    ) -> None:
        self._rows, self._columns, self._of = rows, columns, of
        mean, scale = (t[:, columns.index][of] for t in rows.own)
        as_they_are = (scale == 0) | (model is None)
        self._mean, self._scale = torch.where(as_they_are, 0.0, mean), torch.where(as_they_are, 1.0, scale)
        w = u[:, :-1]
        own = torch.cat([w * self._scale, u[:, -1:] + (w * self._mean).sum(1, keepdim=True)], 1)
        units = pad(self._scale, (0, 1), value=1.0)
        first, second, tolerance = penalties_of(rows, l1, l2, least_tolerance, of, rows.places(columns))
        penalties = Penalties(first / units, second / units.square(), tolerance / units)
        self._hessians = None
        if model is None:
            models = self._hessians = _OwnHessians(rows, columns, of, penalties.l2)
        else:
            models = Shared([model], torch.zeros_like(of))
        share = thresholds.ENTERING if rows.d > rows.n else 1.0
        super().__init__(models, own, self.gradients(torch.arange(len(of)), own), penalties, share)

    @property
    def coefficients(self) -> Tensor:
        """Those of `FoldRows`, (P, k)."""
        return self._of_rows(torch.arange(len(self.u)), self.u)

    def _of_rows(self, of: Tensor, u: Tensor) -> Tensor:
        w = u[:, :-1] / self._scale[of]
        return torch.cat([w, u[:, -1:] - (w * self._mean[of]).sum(1, keepdim=True)], 1)

    def gradients(self, of: Tensor, point: Tensor) -> Tensor:
        """Of the losses of some fits (f,) at points (f, k)."""
        found = self._rows.gradients(self._columns, self._of[of], self._of_rows(of, point))
        found[:, :-1] = (found[:, :-1] - found[:, -1:] * self._mean[of]) / self._scale[of]
        return found

    @override
    def move(self, of: Tensor, gradients: Callable[[Tensor, Tensor], Tensor], telling: float = 0.0) -> None:
        if self._hessians is not None:
            self._hessians.move_to(of, self.u[of], self.violation[of] * thresholds.PATH_VIOLATION)
            self._steps = []
        super().move(of, gradients, telling)

    @override
    def shorten(self, of: Tensor, start: Tensor, gradient: Tensor) -> None:
        # Where rows are predicted they would go too far for ever.
        far = self.violation[of] > thresholds.FAR_VIOLATION
        if not bool(far.any()):
            return
        of, start, gradient = of[far], start[far], gradient[far]
        l2, finite, step = self._penalties.l2[of], self._finite[of], self.u[of] - start
        before, length = slope(start, step, gradient, finite, l2, end=False), torch.ones(len(of), dtype=torch.float64)
        uphill = before >= 0
        if bool(uphill.any()):  # what the steps before have told is wrong here
            self.place(of[uphill], start[uphill], gradient[uphill])
            self._settled[of[uphill]] = False
            for _, _, inverse in self._steps:
                inverse[of[uphill]] = 0
        for _ in range(thresholds.SHORTENINGS):
            after = slope(self.u[of], step, self.gradient[of], finite, l2, end=True)
            far = ~uphill & (self.violation[of] > thresholds.FAR_VIOLATION)
            steep = shorten(length, before, after, far).nonzero()[:, 0]
            if not len(steep):
                return
            point = start[steep] + length[steep, None] * step[steep]
            self.place(of[steep], point, self.gradients(of[steep], point))


class _Hessian:
    """The Hessian of the fit of all rows.

    Args:
        rows: of that fit.
        columns: of the coordinates, c of them.
        u: its coefficients, (1, c + 1).
    """

    def __init__(self, rows: FoldRows, columns: ColumnsInUse, u: Tensor) -> None:
        self._rows, self._columns = rows, columns
        self._curvature = rows.curvature(columns, torch.zeros(1, dtype=torch.long), u)[:, 0]
        self._matrix = rows.hessian(columns, self._curvature, 0).float()

    @classmethod
    def of_sample(cls, rows: FoldRows, columns: ColumnsInUse, u: Tensor, sample: FoldRows) -> _Hessian:
        """That of a sample of the rows at u (1, c + 1), with the diagonal of all rows.

        The sample may lack the few rows of a rare column.
        """
        fit = torch.zeros(1, dtype=torch.long)
        found = cls(sample, columns if sample.n == rows.n else sample.columns(columns.index), u)
        of_rows = rows.hessian_diagonals(columns, fit, rows.curvature(columns, fit, u))[0, :-1].float()
        diagonal = found._matrix.diagonal()[:-1]
        diagonal.copy_(torch.maximum(diagonal, of_rows))
        return found

    def model(self, l2: Tensor) -> Model:
        """With an L2 penalty of a strength."""
        return _ManyModel(self._matrix, l2 * self._rows.l2_unit[0, self._rows.places(self._columns)])

    def grow(self, new: Tensor) -> None:
        """Take columns (a,) in, behind the others."""
        both, added = self._rows.columns(torch.cat([self._columns.index, new])), self._rows.columns(new)
        k, a = len(self._columns.index) + 1, len(new)
        old = torch.cat([torch.arange(k - 1), torch.tensor([k + a - 1])])
        at = torch.arange(k - 1, k - 1 + a)
        more = self._rows.more_of_hessian(both, added, self._curvature, 0).float()
        grown = torch.empty(k + a, k + a)
        grown[old[:, None], old] = self._matrix
        grown[:, at], grown[at] = more, more.T
        self._columns, self._matrix = both, grown


class _OwnHessians(Models):
    """Hessians of P fits, each of its own rows at its present coefficients, that are multiplied by sweeps.

    Args:
        rows: the rows.
        columns: of the coordinates.
        fits: numbers of the fits of `FoldRows`, (P,).
        l2: strengths of the penalties, (P, k).
    """

    def __init__(self, rows: FoldRows, columns: ColumnsInUse, fits: Tensor, l2: Tensor) -> None:
        self._rows, self._columns, self._fits, self._l2 = rows, columns, fits, l2
        self._curvature = torch.zeros(rows.n, len(fits), dtype=torch.float64)
        self._diagonal, self._enough = torch.zeros_like(l2), torch.zeros(len(fits), dtype=torch.float64)

    def move_to(self, of: Tensor, u: Tensor, violation: Tensor) -> None:
        """Take some fits' coefficients u (f, k), where the optimality conditions are violated by so much of λ, (f,)."""
        curvature = self._rows.curvature(self._columns, self._fits[of], u)
        self._curvature[:, of] = curvature
        self._diagonal[of] = self._rows.hessian_diagonals(self._columns, self._fits[of], curvature) + self._l2[of]
        self._enough[of] = violation.sqrt().clamp(*thresholds.SWEPT_STEP)

    @override
    def times(self, of: Tensor, w: Tensor) -> Tensor:
        return self._times(of, self._curvature[:, of], w.double()).to(w)

    def _times(self, of: Tensor, curvature: Tensor, w: Tensor) -> Tensor:
        return self._rows.hessian_products(self._columns, self._fits[of], curvature, w).addcmul_(self._l2[of], w)

    @override
    def solve(self, of: Tensor, on: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """As `Models`."""

        def products(some: Tensor) -> Callable[[Tensor], Tensor]:
            return partial(self._times, of[some], self._curvature[:, of[some]])

        inverse = torch.where(on, 1 / self._diagonal[of].clamp_min(1e-30), 0.0)
        found = _conjugate_gradients(products, inverse, right.double(), self._enough[of])
        return found.to(right), torch.ones(len(of), dtype=torch.bool)


class _ManyModel(MatrixModel):
    """The model by the Hessian, for fits whose coordinates in use differ."""

    @override
    def solve(self, on: Tensor, right: Tensor) -> Tensor:
        """As that of `Model`."""
        index = on.any(0).nonzero()[:, 0]
        block = self._block(index)
        block.diagonal().add_(self._l2[index])
        inverse = torch.where(on[:, index], 1 / block.diagonal().clamp_min(1e-30), 0.0)
        enough = torch.full((len(on),), thresholds.SHARED_STEP)
        out = torch.zeros_like(right)
        out[:, index] = _conjugate_gradients(lambda _: lambda d: d @ block, inverse, right[:, index], enough)
        return out


def _conjugate_gradients(
    products: Callable[[Tensor], Callable[[Tensor], Tensor]], inverse: Tensor, right: Tensor, enough: Tensor
) -> Tensor:
    """Solutions (f, k) of f systems at once, of which those that are solved are left out as they become many.

    Args:
        products: for some of the systems, by their numbers, what multiplies their matrices by a vector each.
        inverse: of the matrices' diagonals, (f, k); 0 where a coordinate is held at 0.
        right: (f, k).
        enough: what may be left of each, relative to it, in the norm of `inverse`, (f,).
    """
    out, live = torch.zeros_like(right), torch.arange(len(right))
    times, r = products(live), right
    z = d = r * inverse
    rz = (r * z).sum(1)
    least = enough.square() * rz
    for _ in range(thresholds.CONJUGATE_GRADIENTS):
        product = times(d)
        below = (d * product).sum(1)
        step = torch.where((rz > least) & (below > 0), rz / below, 0.0)[:, None]
        out[live] += step * d
        r = r - step * product
        z = r * inverse
        before, rz = rz, (r * z).sum(1)
        left = (rz > least) & (below > 0)
        count = int(left.sum())
        if not count:
            break
        d = z + torch.where(before > 0, rz / before, 0.0)[:, None] * d
        if count < thresholds.STILL_SWEPT * len(live):
            live, inverse, d, r, rz, least = (t[left] for t in (live, inverse, d, r, rz, least))
            times = products(live)
    return out
