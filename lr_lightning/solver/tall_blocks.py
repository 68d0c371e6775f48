"""Fits at many strengths of a penalty at once, of dense tables with many more rows than columns.

The path of a sample tells about where the fits are. From there on the fits of a block of strengths move together: first
by gradients in float32, then by gradients in float64 and their changes from there, which are summed in float32 again:
as they shrink, so does their rounding. The Hessians at a few strengths give those at all the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import FoldRows, Losses
from lr_lightning.solver.path_blocks import Block, Penalties, Solutions, penalties_of
from lr_lightning.solver.path_models import Matrices
from lr_lightning.solver.rounded_rows import RoundedColumns, RoundedRows


def solve_tall(
    rows: FoldRows, sample: FoldRows, begin: Tensor, l1: Tensor, l2: Tensor, least_tolerance: float
) -> Iterator[Solutions]:
    """The fits at p strengths, in blocks: those of all rows from the sample's, those without a fold from these.

    Args:
        rows: dense, of m fits.
        sample: a part of the rows.
        begin: coefficients of the sample's fits, about, (p, d + 1).
        l1: strengths, (p,), positive and falling.
        l2: likewise, not negative.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    swept, of_sample = RoundedRows(rows), RoundedRows(sample)
    most = max(1, thresholds.FOLLOWED_LOGITS // (rows.n * max(1, rows.m - 1)))
    difference = torch.zeros_like(begin[0])
    for here in _cut(len(l1), min(most, thresholds.STRENGTHS_A_BLOCK)):
        shape = here.stop - here.start, rows.m
        penalties = penalties_of(rows, l1[here, None].expand(shape), l2[here, None].expand(shape), least_tolerance)
        found = _solve(swept, of_sample, begin[here] + difference, penalties)
        if bool(found.converged[-1, 0]):
            difference = found.u[-1, 0] - begin[here][-1]  # between all rows and the sample, changes little
        yield found


def _cut(p: int, size: int) -> list[slice]:
    """The numbers of p strengths in equal blocks of a size at most."""
    count = -(-p // size)
    return [slice(*pair) for pair in pairwise(p * i // count for i in range(count + 1))]


def _solve(swept: RoundedRows, sample: RoundedRows, begin: Tensor, penalties: Penalties) -> Solutions:
    """The fits at p strengths.

    Args:
        swept: all rows.
        sample: a part of them.
        begin: coefficients, (p, d + 1), about those of the fits of all rows.
        penalties: of the fits, on all coordinates, (p, m, d + 1).
    """
    rows, (p, m) = swept.rows, penalties.l1.shape[:2]
    whole = _Fits(swept, [0], Penalties(*(t[:, 0] for t in penalties)))
    whole.begin(begin, sample)
    whole.solve()
    u, converged = begin[:, None].repeat(1, m, 1), torch.zeros(p, m, dtype=torch.bool)
    u[:, 0], converged[:, 0] = whole.u, whole.converged
    training = torch.full((p, m), torch.nan, dtype=torch.float64)
    training[:, 0] = whole.losses.sum(0) / rows.weight[0]
    good = whole.converged.nonzero()[:, 0]
    if m == 1 or not len(good):
        return Solutions(u, converged, Losses(training, training[:, 1:]))
    without = _Fits(swept, list(range(1, m)), Penalties(*(t[good, 1:].flatten(0, 1) for t in penalties)))
    without.begin_without_folds(whole, good)
    before = without.gradient
    without.solve()
    u[good, 1:], converged[good, 1:] = (t.unflatten(0, (len(good), -1)) for t in (without.u, without.converged))
    # Along the step to the fit without a fold the mean slope is about that of its two ends.
    rise = ((before + without.gradient).unflatten(0, (len(good), -1)) * (u[good, 1:] - u[good, :1])).sum(-1) / 2
    losses = whole.losses[:, good]
    training[good, 1:] = (losses.sum(0) - losses).T / rows.weight[1:] + rise
    held_out = training[:, 1:].clone()
    held_out[good] = rows.held_out_losses(u[good, 1:])
    return Solutions(u, converged, Losses(training, held_out))


class _Known(NamedTuple):
    """Hessians of all fits at a few strengths.

    Attributes:
        places: numbers of the coordinates, (k,).
        u: coefficients, (q, d + 1).
        hessians: (q, m, k, k), float32.
    """

    places: Tensor
    u: Tensor
    hessians: Tensor


class _Fits:
    """P fits, those of each strength next to each other.

    Args:
        swept: the rows.
        numbers: of the fits at each strength.
        penalties: of the fits, on all coordinates, (P, d + 1).

    Attributes:
        u: coefficients, (P, d + 1).
        sums: of the gradients over the rows of each fold, (K or 1, P, d + 1), 0 where the fit leaves it out. Those by
            columns that are not in use are rounded, and from where all columns were swept last.
        losses: sums of the losses of all rows over those of each fold, (K or 1, P).
        converged: whether the optimality conditions hold, (P,).
    """

    def __init__(self, swept: RoundedRows, numbers: list[int], penalties: Penalties) -> None:
        self._swept, self._rows, self._numbers, self._penalties = swept, swept.rows, numbers, penalties
        self._of = torch.tensor(numbers).repeat(len(penalties.l1) // len(numbers))
        self._tolerance = penalties.tolerance.min(1).values
        self.u = torch.zeros_like(penalties.l1)
        self.sums = torch.zeros(max(1, self._rows.m - 1), *self.u.shape, dtype=torch.float64)
        # Where the gradients by all columns were summed last, and a bound for how far the residuals had moved there
        # since the other columns were.
        self._swept_u, self._swept_gradient = torch.zeros(2, *self.u.shape, dtype=torch.float64)
        self._swept_before = torch.zeros(len(self.u), dtype=torch.float64)
        self.losses = torch.zeros(self.sums.shape[:2], dtype=torch.float64)
        self.converged = torch.zeros(len(self._of), dtype=torch.bool)
        self._known: _Known | None = None

    @property
    def gradient(self) -> Tensor:
        """Gradients of the mean losses, (P, d + 1), as good as their sums."""
        return self.sums.sum(0) / self._rows.weight[self._of, None]

    def begin(self, u: Tensor, sample: RoundedRows) -> None:
        """Begin at coefficients (P, d + 1), and go a step from there by the Hessians of a sample of the rows."""
        every = torch.arange(len(u))
        self.u = u.clone()
        columns = self._swept.columns((u[:, :-1] != 0).any(0).nonzero()[:, 0])
        self._sweep(every, columns, u[:, self._places(columns)])
        columns = self._swept.columns(self._near())
        places = self._places(columns)
        point = self._block(sample.columns(columns.index), every, places).next(every)
        self._known = None  # It is of the sample.
        self.u[:, places] = point.where(point.isfinite().all(1, keepdim=True), u[:, places])
        self.sums[..., places] = columns.sums(self._of, self.u[:, places])

    def begin_without_folds(self, whole: _Fits, good: Tensor) -> None:
        """Begin at the fits of all rows that have the numbers (p,)."""
        folds = len(self._numbers)
        self._known = whole._known
        self.u = whole.u[good].repeat_interleave(folds, 0)
        left_out = self._of - 1 == torch.arange(folds)[:, None]
        self.sums = whole.sums[:, good].repeat_interleave(folds, 1).masked_fill(left_out[..., None], 0.0)
        self._swept_u, self._swept_gradient = self.u.clone(), self.gradient
        share = self._rows.weight[0] / self._rows.weight[self._of]
        self._swept_before = (whole.moved(good)[:, None] * share.view(len(good), -1).sqrt()).flatten()

    def solve(self) -> None:
        """Move to the optima."""
        pending, index = torch.arange(len(self.u)), self._near()
        for _ in range(1 + thresholds.BLOCK_RETRIES):
            block, columns = self._approached(pending, index)
            self._refine(block, columns, pending)
            missing = self._missing(pending, columns)
            self.converged[pending] &= ~missing.any(1)
            pending, index = pending[missing.any(1)], _with(columns.index, missing)
            if not len(pending):
                return

    def _approached(self, pending: Tensor, index: Tensor) -> tuple[Block, RoundedColumns]:
        """The pending fits where sums in float32 tell no more, and the columns in use: these (c,) and more."""
        block, columns = self._approach(pending, index)
        for _ in range(thresholds.BLOCK_RETRIES):
            missing = self._missing(pending, columns)
            if not bool(missing.any()):
                break
            block, columns = self._approach(pending, _with(columns.index, missing))
        return block, columns

    def _approach(self, pending: Tensor, index: Tensor) -> tuple[Block, RoundedColumns]:
        """Move the pending fits on some columns (c,) by sums in float32, once of all columns."""
        columns = self._swept.columns(index)
        columns.copy()
        block = self._block(columns, pending, self._places(columns))
        swept = torch.full((len(pending),), len(index) == self._rows.d)

        def gradients(some: Tensor, point: Tensor) -> Tensor:
            numbers, places = pending[some], self._places(columns)
            if bool(swept[some].all()):
                self.sums[:, numbers[:, None], places] = columns.sums(self._of[numbers], point)
            else:
                self._sweep(numbers, columns, point)
                swept[some] = True
            return self.gradient[numbers[:, None], places]

        block.run(gradients, thresholds.BLOCK_ROUNDS, thresholds.ANCHORED, thresholds.FAR_VIOLATION)
        self._take(block, columns, pending)
        return block, columns

    def _take(self, block: Block, columns: RoundedColumns, pending: Tensor) -> None:
        """Take the coefficients of a block, where they are finite."""
        finite = block.u.isfinite().all(1)
        self.u[pending[finite]] = 0.0
        self.u[pending[finite, None], self._places(columns)] = block.u[finite]

    def _sweep(self, numbers: Tensor, columns: RoundedColumns, u: Tensor) -> None:
        """Sum the gradients of some fits (f,) by all columns at u (f, c + 1)."""
        self.sums[:, numbers] = columns.sums(self._of[numbers], u, every=True)
        self._swept_u[numbers] = 0.0
        self._swept_u[numbers[:, None], self._places(columns)] = u
        self._swept_gradient[numbers], self._swept_before[numbers] = self.gradient[numbers], 0.0

    def _refine(self, block: Block, columns: RoundedColumns, pending: Tensor) -> None:
        """Move a block of the pending fits to the optima, by exact gradients and their changes from there."""
        tolerance = self._tolerance[pending]
        error, of = torch.zeros(len(pending), dtype=torch.float64), torch.arange(len(pending))
        for _ in range(1 + thresholds.BLOCK_RETRIES):
            self._follow(block, columns, pending, of, error)
            of = (block.violation + error / tolerance > 1).nonzero()[:, 0]
            if not len(of):
                break
        self.converged[pending] = block.violation + error / tolerance <= 1
        self._take(block, columns, pending)

    def _follow(self, block: Block, columns: RoundedColumns, pending: Tensor, of: Tensor, error: Tensor) -> None:
        """Move some fits of a block from where their gradients are exact; `error` of their changes is overwritten."""
        places, numbers = self._places(columns), pending[of]
        weight, tolerance = self._rows.weight[self._of[numbers], None], self._tolerance[numbers]
        anchor = columns.anchored(self._of[numbers], block.u[of], losses=self._numbers == [0])
        self.sums[:, numbers[:, None], places], self.losses[:, numbers] = anchor.sums, anchor.losses
        error[of] = 0.0
        block.place(of, block.u[of], anchor.sums.sum(0) / weight)

        def gradients(some: Tensor, point: Tensor) -> Tensor:
            at = torch.searchsorted(of, some)
            step = point - anchor.u[at]
            change, error[some] = columns.changes(anchor, at, step, dtype)
            sums = anchor.sums[:, at] + change
            self.sums[:, numbers[at, None], places] = sums
            # The mean slope along the step is about that of its two ends.
            self.losses[:, numbers[at]] = anchor.losses[:, at] + ((sums - change / 2) * step).sum(-1)
            return sums.sum(0) / weight[at]

        # What the first step leaves is more than sums in float32 lose; the steps that end at the optima need float64.
        times, dtype = 1, torch.float32
        for _ in range(thresholds.BLOCK_ROUNDS):
            share = error[of] / tolerance
            some = of[(block.violation[of] + times * share > 1) & (thresholds.ROUNDED_ALIKE * share < 1)]
            if not len(some):
                break
            block.move(some, gradients)
            times = thresholds.ROUNDED_SUMS if dtype == torch.float32 else thresholds.ROUNDED_ALIKE
            dtype = torch.float64
        error[of] *= thresholds.ROUNDED_ALIKE

    def moved(self, some: Tensor) -> Tensor:
        """Bounds for the root mean square change of the residuals of some fits (f,) since all columns were swept.

        A loss has a curvature of at most 1/4, so that the squares of the changes of the residuals are at most 1/4 of
        their products with those of the logits.
        """
        rise = (self.gradient[some] - self._swept_gradient[some]) * (self.u[some] - self._swept_u[some])
        return self._swept_before[some] + rise.sum(1).clamp_min(0).sqrt() / 2

    def _missing(self, pending: Tensor, columns: RoundedColumns) -> Tensor:
        """Which coordinates of the pending fits are to come into use, (f, d + 1)."""
        # By Cauchy and Schwarz no standardised column's gradient changes by more than the residuals.
        size = self._rows.size * (self._rows.weight[0] / self._rows.weight[self._of[pending], None]).sqrt()
        others = torch.ones(len(size[0]), dtype=torch.bool)
        others[self._places(columns)] = False
        if not bool(others.any()):
            return others.expand(len(pending), -1)
        l1, rounding = self._penalties.l1[pending], torch.finfo(torch.float32).eps * size
        bound = self.moved(pending)[:, None] * size + rounding
        doubtful = ((self._swept_gradient[pending].abs() + bound > l1) & others).any(1)
        some = pending[doubtful]
        if len(some):
            places = self._places(columns)
            exact = self.sums[:, some][..., places]
            self._sweep(some, columns, self.u[some][:, places])
            self.sums[:, some[:, None], places] = exact
        return (self._swept_gradient[pending].abs() + rounding > l1) & others & doubtful[:, None]

    def _near(self) -> Tensor:
        """Numbers of the columns that seem to be in use at the optima."""
        near = ((self.u != 0) | (self.gradient.abs() >= self._penalties.l1)).any(0)[:-1].nonzero()[:, 0]
        return near if len(near) <= thresholds.BLOCK_OF_ALL * self._rows.d else torch.arange(self._rows.d)

    def _places(self, columns: RoundedColumns) -> Tensor:
        return torch.cat([columns.index, torch.tensor([self._rows.d])])

    def _block(self, columns: RoundedColumns, of: Tensor, places: Tensor) -> Block:
        """Some fits on some coordinates, with models by the Hessians of some rows."""
        penalties = self._penalties.at(of, places)
        models = Matrices(self._hessians(columns, places)[of], penalties.l2.float())
        return Block(models, self.u[of][:, places], self.gradient[of][:, places], penalties, 1.0)

    def _hessians(self, columns: RoundedColumns, places: Tensor) -> Tensor:
        """Combinations (P, k, k) of the Hessians at a few strengths, as they fit curvatures of the losses best."""
        u = self.u[:: len(self._numbers)]
        if self._known is None or not torch.equal(self._known.places, places):
            at = u[sorted({0, len(u) // 2, len(u) - 1})]
            self._known = _Known(places, at, columns.hessians_at(at[:, places]))
        _, at, hessians = self._known
        curvatures = self._rows.some_curvatures(torch.cat([at, u]), thresholds.COMPARED_ROWS).nan_to_num()
        shares = torch.linalg.lstsq(curvatures[:, : len(at)], curvatures[:, len(at) :]).solution
        return torch.tensordot(shares.T.float(), hessians[:, self._numbers], 1).flatten(0, 1)


def _with(index: Tensor, missing: Tensor) -> Tensor:
    """Numbers of columns (c,) and of those that fits lack, (f, d + 1)."""
    return torch.cat([index, missing[:, :-1].any(0).nonzero()[:, 0]]).sort().values
