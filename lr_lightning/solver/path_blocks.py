"""Fits at many strengths of a penalty at once, of all rows and without each fold, from solutions nearby.

A sweep over the rows serves dozens of fits: the rows are multiplied by a matrix of coefficients, which takes a fraction
of the time of as many vectors. One Hessian serves the fits at neighbouring strengths. Steps are computed in float32,
and the gradients that tell whether a fit has converged in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import ColumnsInUse, FoldRows, Losses
from lr_lightning.solver.path_models import MatrixModel, Model, Models, RowsModel, Shared, settle


@dataclass(frozen=True)
class Solutions:
    """Fits at p strengths that follow each other.

    Attributes:
        u: coefficients of `FoldRows`, (p, m, d + 1).
        converged: whether the optimality conditions hold to 1e-10 of the penalty, (p, m).
        losses: means, (p, m) and (p, K).
    """

    u: Tensor
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


def penalties_of(
    rows: FoldRows,
    l1: Tensor,
    l2: Tensor,
    least_tolerance: float,
    fits: Tensor | slice = slice(None),
    places: Tensor | slice = slice(None),
) -> Penalties:
    """The penalties of the fits of some rows on coordinates, (…, f, k).

    Args:
        rows: of m fits.
        l1: strength of the L1 penalty, (…, f).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
        fits: numbers of the fits, (f,).
        places: numbers of the coordinates, (k,).
    """
    l1, l2 = l1[..., None], l2[..., None]
    l1_unit, l2_unit, fixed = (t[fits][:, places] for t in (rows.l1_unit, rows.l2_unit, rows.fixed))
    unit = torch.where(l1_unit > 0, l1_unit.clamp_max(1), 1.0)
    tolerance = (thresholds.PATH_VIOLATION * (l1 + l2) * unit).clamp_min(least_tolerance)
    first, second = l1 * l1_unit, l2 * l2_unit
    return Penalties(torch.where(fixed, torch.inf, first), torch.where(fixed, 0.0, second), tolerance)


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


def solve_nearby(rows: FoldRows, start: Tensor, l1: Tensor, l2: Tensor, least_tolerance: float) -> Iterator[Solutions]:
    """The fits at p strengths, in blocks.

    Args:
        rows: of m fits.
        start: coefficients (d + 1,) of all rows at a stronger penalty.
        l1: strengths, (p,), positive and falling.
        l2: likewise, not negative.
        least_tolerance: violation of the optimality conditions that is rounding.
    """
    parts = sharing(l1.tolist())
    whole = rough_path(rows.without_folds(), start, l1, l2)
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
        u, converged = _solve_block(rows, block, begin, l1[here], l2[here], least_tolerance)
        columns = _columns_in_use(rows, (u != 0).any(0).any(0))
        yield Solutions(u, converged, rows.losses(columns, u[..., rows.places(columns)]))
        last = u[-1]


def rough_path(rows: FoldRows, u: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """About the coefficients (p, d + 1) at each strength, by those at some, linearly between these.

    Args:
        rows: of one fit.
        u: coefficients (d + 1,) at a stronger penalty.
        l1: strengths, (p,), positive and falling.
        l2: likewise, not negative.
    """
    last = len(l1) - 1
    known = sorted({0, last, *(part[len(part) // 2] for part in sharing(l1.tolist()))})
    found = []
    for number in known:
        tolerance = thresholds.ROUGH_VIOLATION * float(l1[number] + l2[number])
        at = slice(number, number + 1)
        u = _solve_block(rows, [range(1)], u[None, None], l1[at], l2[at], tolerance, rough=True)[0][0, 0]
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
    *,
    rough: bool = False,
) -> tuple[Tensor, Tensor]:
    """The fits at strengths (p,), those of a part sharing Hessians.

    Args:
        rows: of m fits.
        parts: numbers of strengths, of which the first is number 0 of l1.
        start: coefficients (p, m, d + 1).
        l1: strengths, (p,).
        l2: likewise.
        least_tolerance: violation of the optimality conditions that is rounding.
        rough: whether sums in float32 do.

    Returns:
        Coefficients (p, m, d + 1), and whether the optimality conditions hold, (p, m).
    """
    (p, m, _), first = start.shape, parts[0].start
    parts = [range(part.start - first, part.stop - first) for part in parts]
    # Fits that share a Hessian follow each other.
    order = torch.cat([torch.tensor(part) * m + fit for part in parts for fit in range(m)])
    by = torch.arange(len(parts) * m).repeat_interleave(torch.tensor([len(part) for part in parts for _ in range(m)]))
    of = order % m
    of_all = penalties_of(rows, l1[:, None].expand(p, m), l2[:, None].expand(p, m), least_tolerance)
    penalties = Penalties(*(t.flatten(0, 1) for t in of_all)).at(order)
    u = start.flatten(0, 1)[order].masked_fill(penalties.l1.isinf(), 0.0)
    columns = _columns_in_use(rows, (u != 0).any(0))
    gradient = rows.gradients(columns, of, u[:, rows.places(columns)], rows.every, rounded=True)
    wanted = ((u != 0) | (gradient.abs() > penalties.l1)).any(0)
    pending = torch.arange(len(u))
    for _ in range(1 + thresholds.BLOCK_RETRIES):
        columns = _columns_in_use(rows, wanted)
        places = rows.places(columns)
        if rows.n > len(places) and 8 * len(parts) * m * len(places) ** 2 > thresholds.BLOCK_MEMORY:
            break
        models = Shared(_models(rows, columns, start[:, 0, places], parts, l2), by[pending])
        share = thresholds.ENTERING if rows.d > rows.n else 1.0
        here = u[pending][:, places], gradient[pending][:, places], penalties.at(pending, places)
        block = Block(models, *here, share)
        _run(block, rows, columns, of[pending], rough=rough)
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
    return u[back].unflatten(0, (p, m)), converged[back].unflatten(0, (p, m))


def _run(block: Block, rows: FoldRows, columns: ColumnsInUse, of: Tensor, *, rough: bool) -> None:
    """Move a block to its optima, by sums in float32 while these tell enough; its fits have the numbers (P,)."""
    enough = 1.0 if rough else thresholds.FAR_VIOLATION
    block.run(lambda some, at: rows.gradients(columns, of[some], at, rounded=True), thresholds.BLOCK_ROUNDS, enough)
    if not rough:  # The gradients are rounded so far, and the step to the next ones tells nothing.
        every = torch.arange(len(of))
        point = block.next(every)
        block.place(every, point, rows.gradients(columns, of, point))
        block.run(lambda some, at: rows.gradients(columns, of[some], at), thresholds.BLOCK_ROUNDS)


def _models(rows: FoldRows, columns: ColumnsInUse, at: Tensor, parts: list[range], l2: Tensor) -> list[Model]:
    """For each part and fit a model, at the middle of the coefficients (p, k) of a part."""
    places = rows.places(columns)
    middles = [part[len(part) // 2] for part in parts]
    curvature = rows.curvature(columns, torch.zeros(1, dtype=torch.long), at[middles])
    unit = rows.l2_unit[:, places]
    standardized = rows.standardized(columns) if rows.n < len(places) else None
    found: list[Model] = []
    for middle, of_rows in zip(middles, curvature.unbind(1), strict=True):
        if standardized is not None:
            of_fits = (rows.without_fold(of_rows) / rows.weight[:, None]).float()
            found += [RowsModel(standardized, v, l2[middle] * f) for v, f in zip(of_fits, unit, strict=True)]
        else:
            hessians = rows.hessians(columns, of_rows, rounded=True).float()
            found += [MatrixModel(h, l2[middle] * f) for h, f in zip(hessians, unit, strict=True)]
    return found


def _columns_in_use(rows: FoldRows, wanted: Tensor) -> ColumnsInUse:
    """The columns of wanted coordinates (d + 1,), or all columns."""
    return rows.in_use(wanted[:-1].nonzero()[:, 0], thresholds.BLOCK_OF_ALL)


class Block:
    """P fits, each with its penalty, that move together.

    Args:
        models: of the fits, about u.
        u: coefficients (P, k), the intercept last.
        gradient: of the losses at u, (P, k), which may be rounded.
        penalties: of the fits on these coordinates.
        share: of the coordinates in use, how many may enter in a step.

    Attributes:
        u: coefficients (P, k).
        gradient: of the losses there, (P, k).
        violation: the largest of each, relative to the tolerance, (P,).
    """

    def __init__(self, models: Models, u: Tensor, gradient: Tensor, penalties: Penalties, share: float) -> None:
        self._penalties, self._share = penalties, share
        self._finite = torch.where(penalties.l1.isinf(), 0.0, penalties.l1)
        self.u, self.gradient = u.clone(), gradient.clone()
        self.violation = torch.full((len(u),), torch.inf, dtype=torch.float64)
        self.take(models)
        self.place(torch.arange(len(u)), u, gradient)

    def take(self, models: Models) -> None:
        """Take other models of the fits."""
        self._models, self._steps = models, []
        self._settled = torch.zeros(len(self.u), dtype=torch.bool)

    def run(
        self,
        gradients: Callable[[Tensor, Tensor], Tensor],
        rounds: int,
        enough: float = 1.0,
        telling: float = 0.0,
    ) -> None:
        """Move to the optima, in rounds of a sweep for all fits and a quadratic problem of each.

        Args:
            gradients: of the losses of some fits (f,) at points (f, k).
            rounds: at most so many.
            enough: violation relative to the tolerance, at which to end.
            telling: the same, from which on a change of the gradients is more than their rounding.
        """
        for _ in range(rounds):
            of = (self.violation > enough).nonzero()[:, 0]
            if not len(of):
                return
            self.move(of, gradients, telling)

    def move(self, of: Tensor, gradients: Callable[[Tensor, Tensor], Tensor], telling: float = 0.0) -> None:
        """Move some fits by a step, from which they learn about their curvature."""
        point, start, gradient = self.next(of), self.u[of], self.gradient[of]
        learning = self.violation[of] >= telling
        self.place(of, point, gradients(of, point))
        self.shorten(of, start, gradient)
        self._learn(of[learning], start[learning], gradient[learning])

    def shorten(self, of: Tensor, start: Tensor, gradient: Tensor) -> None:
        """Shorten the steps of some fits from points (f, k) where they have gone too far; dense rows have no such."""

    def place(self, of: Tensor, point: Tensor, gradient: Tensor) -> None:
        """Put some fits at points (f, k), of which the gradients are given."""
        self.u[of], self.gradient[of] = point, gradient
        l1, l2, tolerance = self._penalties.at(of)
        self.violation[of] = (violations(point, gradient, l1, l2) / tolerance).max(1).values

    def next(self, of: Tensor) -> Tensor:
        """The next points (f, k) of some fits."""
        u, (l1, l2, _) = self.u[of], self._penalties.at(of)
        level = -(self.gradient[of] + l2 * u)
        sign = torch.where(l1 > 0, u.sign(), 0.0)
        on = (sign != 0) | (l1 == 0)
        kept = self._settled[of] & ~((level.abs() > l1) & ~on).any(1)
        point = torch.zeros_like(u)
        if bool(kept.any()):
            slope = torch.where(on[kept], level[kept] - sign[kept] * self._finite[of[kept]], 0.0)
            p, good = self._corrected(of[kept], on[kept], slope)
            point[kept] = u[kept] + p
            kept[kept.clone()] = good
        kept &= ~((point * sign < 0) | ((sign != 0) & (point == 0))).any(1)
        rest = (~kept).nonzero()[:, 0]
        if len(rest):
            for _, _, inverse in self._steps:
                inverse[of[rest]] = 0
            found = settle(self._models, of[rest], u[rest], level[rest], sign[rest], l1[rest], self._share)
            point[rest], self._settled[of[rest]] = found
        return point

    def _corrected(self, of: Tensor, on: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Newton steps (f, k) with signs held, corrected by what steps before have told, and whether they exist."""
        steps = [(s[of], y[of], inverse[of]) for s, y, inverse in self._steps]
        weights = []
        for s, y, inverse in reversed(steps):
            weights.append(inverse * (s * q).sum(1))
            q = q - weights[-1][:, None] * y
        solved, good = self._models.solve(of, on, q.float())
        p = solved.double()
        for (s, y, inverse), weight in zip(steps, reversed(weights), strict=True):
            p = p + (weight - inverse * (y * p).sum(1))[:, None] * s
        return p, good

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
