"""Fits at many strengths of a penalty at once, of all rows and without each fold, from solutions nearby.

A sweep over the rows serves dozens of fits: the rows are multiplied by a matrix of coefficients, which takes a fraction
of the time of as many vectors. One Hessian serves the fits at neighbouring strengths. Steps are computed in float32,
and the gradients that tell whether a fit has converged in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import ColumnsInUse, FoldRows, Losses
from lr_lightning.solver.path_models import MatrixModel, Model, RowsModel, settle


@dataclass(frozen=True)
class Solutions:
    """Fits at p strengths that follow each other.

    Attributes:
        u: coefficients of `FoldRows`, (p, m, d + 1).
        gradient: of their losses, (p, m, d + 1).
        converged: whether the optimality conditions hold to 1e-10 of the penalty, (p, m).
        losses: means, (p, m) and (p, K).
    """

    u: Tensor
    gradient: Tensor
    converged: Tensor
    losses: Losses


class Penalties(NamedTuple):
    """Penalties of fits on each coordinate, (…, k).

    Attributes:
        l1: strengths, infinite where a coordinate stays at 0.
        l2: likewise, but 0 there.
        tolerance: violation of the optimality conditions that is negligible.
    """

    l1: Tensor
    l2: Tensor
    tolerance: Tensor

    def at(self, fits: Tensor, places: Tensor | slice = slice(None)) -> Penalties:
        """The penalties of some fits, (P, k), on some coordinates."""
        return Penalties(*(t[fits][:, places] for t in self))


def violations(u: Tensor, gradient: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Violation of the optimality conditions, (f, k)."""
    gradient = gradient + l2 * u
    on = (gradient + torch.where(u != 0, l1 * u.sign(), 0.0)).abs()
    off = (gradient.abs() - l1).clamp_min(0)
    return torch.where(l1.isinf(), 0.0, torch.where((u != 0) | (l1 == 0), on, off))


def penalties_of(rows: FoldRows, l1: Tensor, l2: Tensor, least_tolerance: float) -> Penalties:
    """The penalties of the fits of some rows, (…, m, d + 1).

    Args:
        rows: of m fits.
        l1: strength of the L1 penalty, (…, m).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    l1, l2 = l1[..., None], l2[..., None]
    unit = torch.where(rows.l1_unit > 0, rows.l1_unit.clamp_max(1), 1.0)
    tolerance = (thresholds.PATH_VIOLATION * (l1 + l2) * unit).clamp_min(least_tolerance)
    first, second = l1 * rows.l1_unit, l2 * rows.l2_unit
    return Penalties(torch.where(rows.fixed, torch.inf, first), torch.where(rows.fixed, 0.0, second), tolerance)


def sharing(strengths: Sequence[float]) -> list[range]:
    """Numbers of falling strengths, cut where a Hessian is to be another."""
    parts: list[range] = []
    for number, value in enumerate(strengths):
        if (
            parts
            and strengths[parts[-1].start] < thresholds.SHARED_HESSIAN * value
            and len(parts[-1]) < thresholds.MOST_SHARING
        ):
            parts[-1] = range(parts[-1].start, number + 1)
        else:
            parts.append(range(number, number + 1))
    return parts


def solve_nearby(
    rows: FoldRows, sample: FoldRows, start: Tensor, l1: Tensor, l2: Tensor, least_tolerance: float
) -> Iterator[Solutions]:
    """The fits at p strengths, in blocks.

    Args:
        rows: of m fits.
        sample: a part of the rows that tells about where the fits are, or the fit of all of them alone.
        start: coefficients (d + 1,) of the sample's fit at a stronger penalty.
        l1: strengths, (p,), positive and falling.
        l2: likewise, not negative.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    parts = sharing(l1.tolist())
    whole = _rough(sample, start, parts, l1, l2)
    last = None
    while parts:
        of_parts = list(accumulate(len(part) * rows.m for part in parts))
        count = max(1, sum(fits <= thresholds.FITS_A_SWEEP for fits in of_parts))
        block, parts = parts[:count], parts[count:]
        here = slice(block[0].start, block[-1].stop)
        begin = whole[here, None].expand(-1, rows.m, -1)
        if last is not None and rows.m > 1:
            # What a fold's coefficients differ by from those of all rows changes little.
            begin = torch.where((last == 0) & (last[0] != 0), 0.0, begin + (last - last[0]))
        u, gradient, converged = _solve_block(rows, block, begin, l1[here], l2[here], least_tolerance, sample)
        columns = _columns_in_use(rows, (u != 0).any(0).any(0))
        yield Solutions(u, gradient, converged, rows.losses(columns, u[..., rows.places(columns)]))
        last = u[-1]


def _rough(sample: FoldRows, u: Tensor, parts: list[range], l1: Tensor, l2: Tensor) -> Tensor:
    """About the coefficients (p, d + 1) of all rows at each strength: the sample's at some, linearly between these."""
    last = len(l1) - 1
    known = sorted({0, last, *(part[len(part) // 2] for part in parts)})
    found = []
    for number in known:
        tolerance = thresholds.ROUGH_VIOLATION * float(l1[number] + l2[number])
        at = slice(number, number + 1)
        u = _solve_block(sample, [range(1)], u[None, None], l1[at], l2[at], tolerance, sample, rough=True)[0][0, 0]
        found.append(u)
    return _interpolated(torch.stack(found), known, last + 1)


def _interpolated(rough: Tensor, known: Sequence[int], p: int) -> Tensor:
    """Linearly between the known ones, (p, d + 1)."""
    parts = [rough[:1]]
    for (a, b), (left, right) in zip(pairwise(known), pairwise(rough), strict=True):
        weight = torch.arange(1, b - a + 1, dtype=torch.float64)[:, None] / (b - a)
        parts.append(torch.lerp(left, right, weight))
    return torch.cat(parts)[:p]


def _solve_block(
    rows: FoldRows,
    parts: list[range],
    start: Tensor,
    l1: Tensor,
    l2: Tensor,
    least_tolerance: float,
    sample: FoldRows,
    *,
    rough: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fits at strengths (p,), those of a part sharing Hessians.

    Args:
        rows: of m fits.
        parts: numbers of strengths, of which the first is number 0 of l1.
        start: coefficients (p, m, d + 1).
        l1: strengths, (p,).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
        sample: of the rows, whose Hessians serve the first rounds.
        rough: whether sums in float32 do.

    Returns:
        Coefficients and gradients, (p, m, d + 1), and whether the optimality conditions hold, (p, m).
    """
    (p, m, _), first = start.shape, parts[0].start
    parts = [range(part.start - first, part.stop - first) for part in parts]
    # Fits that share a Hessian follow each other.
    order = torch.cat([torch.tensor(part) * m + fit for part in parts for fit in range(m)])
    by = torch.arange(len(parts) * m).repeat_interleave(torch.tensor([len(part) for part in parts for _ in range(m)]))
    of = order % m
    of_all = penalties_of(rows, l1[:, None].expand(p, m), l2[:, None].expand(p, m), least_tolerance)
    penalties = Penalties(*(t.flatten(0, 1) for t in of_all)).at(order)
    u = start.flatten(0, 1)[order]
    columns = _columns_in_use(rows, (u != 0).any(0))
    gradient = rows.gradients(columns, of, u[:, rows.places(columns)], rows.every, rounded=True)
    wanted = ((u != 0) | (gradient.abs() > penalties.l1)).any(0)
    pending = torch.arange(len(u))
    for _ in range(1 + thresholds.BLOCK_RETRIES):
        columns = _columns_in_use(rows, wanted)
        places = rows.places(columns)
        if rows.n > len(places) and 8 * len(parts) * m * len(places) ** 2 > thresholds.BLOCK_MEMORY:
            break
        of_block = u[pending][:, places], gradient[pending][:, places], penalties.at(pending, places)
        block = _Block(rows, columns, of[pending], by[pending], *of_block)
        at = start[:, 0, places]
        if sample.n < rows.n:
            of_sample = _models(sample, rows, columns, at, parts, l2)
            block.run(of_sample, thresholds.SAMPLED_ROUNDS, rounded=True, enough=thresholds.FAR_VIOLATION)
            at = u[:, places]
            at[pending] = block.u
            at = at[order.argsort()][::m]
        models = _models(rows, rows, columns, at, parts, l2)
        block.run(models, thresholds.BLOCK_ROUNDS, rounded=True, enough=1.0 if rough else thresholds.FAR_VIOLATION)
        if not rough:
            block.run(models, thresholds.BLOCK_ROUNDS, rounded=False)
        u[pending] = 0.0
        u[pending[:, None], places] = block.u
        gradient[pending] = rows.gradients(columns, of[pending], block.u, rows.every, rounded=rough)
        violating = violations(u, gradient, penalties.l1, penalties.l2) > penalties.tolerance
        missing = violating.any(0)
        missing[places] = False
        if not bool(missing.any()):
            break
        pending = violating[:, missing].any(1).nonzero()[:, 0]
        wanted = missing | (u != 0).any(0)
    converged = ~(violations(u, gradient, penalties.l1, penalties.l2) > penalties.tolerance).any(1)
    back = order.argsort()
    return u[back].unflatten(0, (p, m)), gradient[back].unflatten(0, (p, m)), converged[back].unflatten(0, (p, m))


def _models(
    sample: FoldRows, rows: FoldRows, columns: ColumnsInUse, at: Tensor, parts: list[range], l2: Tensor
) -> list[Model]:
    """For each part and fit a model by a sample of the rows, at the middle of the coefficients (p, k) of a part."""
    places = rows.places(columns)
    columns = columns if sample is rows else sample.columns(columns.index)
    middles = [part[len(part) // 2] for part in parts]
    curvature = sample.curvature(columns, torch.zeros(1, dtype=torch.long), at[middles])
    unit = rows.l2_unit[:, places]
    standardized = sample.standardized(columns) if sample.n < len(places) else None
    found: list[Model] = []
    for middle, of_rows in zip(middles, curvature.unbind(1), strict=True):
        if standardized is not None:
            of_fits = (sample.without_fold(of_rows) / sample.weight[:, None]).float().expand(rows.m, -1)
            found += [RowsModel(standardized, v, l2[middle] * f) for v, f in zip(of_fits, unit, strict=True)]
        else:
            hessians = sample.hessians(columns, of_rows, rounded=True).float().expand(rows.m, -1, -1)
            found += [MatrixModel(h, l2[middle] * f) for h, f in zip(hessians, unit, strict=True)]
    return found


def _columns_in_use(rows: FoldRows, wanted: Tensor) -> ColumnsInUse:
    """The columns of wanted coordinates (d + 1,), or all columns."""
    return rows.in_use(wanted[:-1].nonzero()[:, 0], thresholds.BLOCK_OF_ALL)


class _Block:
    """P fits, each with its penalty.

    Args:
        rows: the rows.
        columns: that may be used.
        of: number of the fit of `FoldRows` of each, (P,).
        by: number of the model of each, (P,), equal ones next to each other.
        u: coefficients (P, k), the intercept last.
        gradient: of the losses at u, (P, k), which may be rounded.
        penalties: of the fits on these coordinates.

    Attributes:
        u: coefficients (P, k).
        gradient: of the losses there, (P, k).
        violation: the largest of each, relative to the tolerance, (P,).
    """

    def __init__(
        self,
        rows: FoldRows,
        columns: ColumnsInUse,
        of: Tensor,
        by: Tensor,
        u: Tensor,
        gradient: Tensor,
        penalties: Penalties,
    ) -> None:
        self._rows, self._columns, self._of, self._by, self._penalties = rows, columns, of, by, penalties
        self._finite = torch.where(penalties.l1.isinf(), 0.0, penalties.l1)
        self.u, self.gradient = u.clone(), gradient.clone()
        self.violation = torch.full((len(u),), torch.inf, dtype=torch.float64)
        self._measure(torch.arange(len(u)))
        self._models: list[Model] = []
        self._share = thresholds.ENTERING if rows.d > rows.n else 1.0

    def run(self, models: list[Model], rounds: int, *, rounded: bool, enough: float = 1.0) -> None:
        """Move to the optima, in rounds of a sweep for all fits and a quadratic problem of each.

        Args:
            models: of the fits.
            rounds: at most so many.
            rounded: whether to sum in float32, and only come near.
            enough: violation relative to the tolerance, at which to end.
        """
        if models is not self._models:
            self._models, self._steps = models, []
            self._settled = torch.zeros(len(self.u), dtype=torch.bool)
        if not rounded:  # the gradients are rounded so far, and the step to the next ones tells nothing
            every = torch.arange(len(self.u))
            self._sweep(every, self._step(every), rounded=False)
        for _ in range(rounds):
            of = (self.violation > enough).nonzero()[:, 0]
            if not len(of):
                return
            point = self._step(of)
            before = self.u[of], self.gradient[of]
            self._sweep(of, point, rounded=rounded)
            self._learn(of, *before)

    def _sweep(self, of: Tensor, point: Tensor, *, rounded: bool) -> None:
        self.gradient[of] = self._rows.gradients(self._columns, self._of[of], point, rounded=rounded)
        self.u[of] = point
        self._measure(of)

    def _measure(self, of: Tensor) -> None:
        l1, l2, tolerance = self._penalties.at(of)
        self.violation[of] = (violations(self.u[of], self.gradient[of], l1, l2) / tolerance).max(1).values

    def _step(self, of: Tensor) -> Tensor:
        """The next points (f, k) of some fits."""
        u, (l1, l2, _) = self.u[of], self._penalties.at(of)
        level = -(self.gradient[of] + l2 * u)
        sign = torch.where(l1 > 0, u.sign(), 0.0)
        free = l1 == 0
        on = (sign != 0) | free
        kept = self._settled[of] & ~((level.abs() > l1) & ~on).any(1)
        point = torch.zeros_like(u)
        finite = self._finite[of]
        for model, part in self._groups(of, kept):
            slope = torch.where(on[part], level[part] - sign[part] * finite[part], 0.0)
            p = self._corrected(model, of[part], on[part], slope)
            if p is not None:
                point[part] = u[part] + p
            kept[part] = p is not None
        kept &= ~((point * sign < 0) | ((sign != 0) & (point == 0))).any(1)
        rest = (~kept).nonzero()[:, 0]
        for _, _, inverse in self._steps:
            inverse[of[rest]] = 0
        for model, part in self._groups(of, ~kept):
            found = settle(model, u[part], level[part], sign[part], l1[part], self._share)
            point[part], self._settled[of[part]] = found
        return point

    def _groups(self, of: Tensor, chosen: Tensor) -> Iterator[tuple[Model, Tensor]]:
        """Each model, and the places of the chosen fits that it serves."""
        places = chosen.nonzero()[:, 0]
        if len(places):
            numbers, counts = self._by[of[places]].unique_consecutive(return_counts=True)
            for number, part in zip(numbers.tolist(), places.split(counts.tolist()), strict=True):
                yield self._models[number], part

    def _corrected(self, model: Model, of: Tensor, on: Tensor, q: Tensor) -> Tensor | None:
        steps = [(s[of], y[of], inverse[of]) for s, y, inverse in self._steps]
        weights = []
        for s, y, inverse in reversed(steps):
            weights.append(inverse * (s * q).sum(1))
            q = q - weights[-1][:, None] * y
        p = model.solve(on, q.float())
        if p is None:
            return None
        p = p.double()
        for (s, y, inverse), weight in zip(steps, reversed(weights), strict=True):
            p = p + (weight - inverse * (y * p).sum(1))[:, None] * s
        return p

    def _learn(self, of: Tensor, before: Tensor, gradient: Tensor) -> None:
        """Remember steps from points (f, k), and the changes of the gradients (f, k) there."""
        point = self.u[of]
        step = point - before
        l1, l2, _ = self._penalties.at(of)
        on = (point != 0) | (l1 == 0)
        change = torch.where(on, self.gradient[of] - gradient + l2 * step, 0.0)
        product = (step * change).sum(1)
        usable = (product > thresholds.LEAST_CURVATURE_OF_BLOCK) & ~((step != 0) & ~on).any(1)
        s, y = torch.zeros(2, *self.u.shape, dtype=torch.float64)
        inverse = torch.zeros(len(self.u), dtype=torch.float64)
        s[of], y[of], inverse[of] = step, change, torch.where(usable, 1 / product, 0.0)
        self._steps.append((s, y, inverse))
