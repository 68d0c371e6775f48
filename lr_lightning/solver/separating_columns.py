"""Columns that separate some rows by themselves, as a level does that occurs with one outcome only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.solver.coefficients import Coefficients

_MARGIN = 40.0  # of the rows that are set aside: their loss is 4e-18


class SeparatingColumns(NamedTuple):
    """What one look at the rows finds.

    Attributes:
        columns: positions, (s,).
        values: what the rows hold there that a column does not separate, (s,), float64.
        signs: +1 where the rows that hold more are positive, −1 where they are negative, (s,), float64.
    """

    columns: Tensor
    values: Tensor
    signs: Tensor

    def stay(self, x: Tensor) -> Tensor:
        """Which rows of (r, d) none of the columns separates, (r,)."""
        return (x[:, self.columns.to(x.device)] == self.values.to(x.device)).all(1)


def separating_columns(
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]], candidates: Tensor
) -> list[SeparatingColumns]:
    """All columns that separate some rows by themselves, from the rest that those before them leave.

    A column does if no positive row holds less of it than any negative one, or none more. Then its coefficient can
    grow without end: the rows beyond the value that both outcomes share gain, those that hold it stay, and the
    intercept makes up for what they have of it. The rows that gain are set aside, after which further columns may
    separate; enough of the columns found first makes up for what these do to rows set aside.

    All that is asked of the rows is the least and the largest value of each column with each outcome. Of a level
    they follow from two counts.

    Args:
        rows: gives blocks of features (r, d) and of which rows are positive, (r,), of rows of positive weight; called
            once a look.
        candidates: which columns may be taken, (d,), bool.

    Returns:
        What each look has found. Empty as well where nothing would be left to fit: where the rows that stay are none
        or have one outcome.
    """
    looks: list[SeparatingColumns] = []
    while True:
        low, high = bounds_by_outcome(_staying(rows, looks), len(candidates))
        if not bool(high.isfinite().all()):
            return []
        up, down = low[1] >= high[0], low[0] >= high[1]
        found = (up != down) & candidates
        columns = found.nonzero()[:, 0]
        if not len(columns):
            return looks
        more = up[columns]
        shared = torch.where(more, low[1][columns], low[0][columns])
        if not bool((shared == torch.where(more, high[0][columns], high[1][columns])).all()):
            return []  # a column alone tells all positive rows from all negative ones
        looks.append(SeparatingColumns(columns, shared, 2 * more.double() - 1))


def bounds_by_outcome(rows: Iterable[tuple[Tensor, Tensor]], n_columns: int) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each column among the negative and the positive rows, each (2, d)."""
    low, high = (torch.full((2, n_columns), end, dtype=torch.float64) for end in (torch.inf, -torch.inf))
    for x, positive in rows:
        for outcome in (0, 1):
            part = x[positive == bool(outcome)]
            if len(part):
                low[outcome] = torch.minimum(low[outcome], part.amin(0).double().cpu())
                high[outcome] = torch.maximum(high[outcome], part.amax(0).double().cpu())
    return low, high


def _staying(
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]], looks: list[SeparatingColumns]
) -> Iterable[tuple[Tensor, Tensor]]:
    for x, positive in rows():
        for look in looks:
            stay = look.stay(x)
            x, positive = x[stay], positive[stay]
        yield x, positive


class CoefficientsInTheLimit:
    """The finite coefficients where some columns separate rows; those of the columns that do are infinite.

    Into the parameters these are written as large as it takes to give every row that they separate a vanishing loss.
    The others are those of the rows that stay.

    Args:
        of_all: all coefficients, the intercept last, (k,).
        looks: the columns that separate.
        free: positions of the columns that vary among the rows that stay, (c,).
        x: features of the rows that are set aside, (r, d).
        sign: +1 for a positive one of them, −1 for a negative one, (r,).

    Attributes:
        size_of_all: k.
    """

    def __init__(
        self, of_all: Coefficients, looks: list[SeparatingColumns], free: Tensor, x: Tensor, sign: Tensor
    ) -> None:
        self._of_all, self._looks, self._sign = of_all, looks, sign
        self.size_of_all = x.shape[1] + 1
        self._index = torch.cat([free, torch.tensor([x.shape[1]])])
        self._x = x[:, free]
        self._beyond = []  # by how much a row is beyond what stays, (r, s), 0 where an earlier look has set it aside
        here = torch.ones(len(x), dtype=torch.bool)
        for look in looks:
            beyond = x[:, look.columns] - look.values
            self._beyond.append((beyond, (beyond != 0) & here[:, None]))
            here = here & look.stay(x)

    def read(self) -> Tensor:
        """The finite coefficients, (c + 1,); the intercept is that of the rows that stay."""
        whole = self._of_all.read()
        point = whole[self._index]
        for look in self._looks:
            point[-1] += look.values @ whole[look.columns]
        return point

    def read_gradient(self) -> Tensor:
        """Their gradient, (c + 1,)."""
        return self._of_all.read_gradient()[self._index]

    def write(self, point: Tensor) -> None:
        """Puts ``point`` (c + 1,) into the parameters, and next to it what separates."""
        whole = torch.zeros(self.size_of_all, dtype=torch.float64)
        whole[self._index] = point
        margin = (self._x @ point[:-1] + point[-1]) * self._sign
        # The last look comes first: what it does to the rows set aside before, the earlier ones make up for.
        for look, (beyond, gains) in reversed(list(zip(self._looks, self._beyond, strict=True))):
            needed = (_MARGIN - margin)[:, None] / beyond.abs()
            coefficients = look.signs * needed.masked_fill(~gains, 0.0).amax(0)
            whole[look.columns] = coefficients
            whole[-1] -= look.values @ coefficients
            margin = margin + (beyond @ coefficients) * self._sign
        self._of_all.write(whole)


class Limit(NamedTuple):
    """What is left to fit in the limit.

    Attributes:
        sample: features (m, c), labels (m,) and weights (m,) or None of the rows that stay.
        share: their part of the weight.
        coefficients: of the columns that vary among them.
    """

    sample: tuple[Tensor, Tensor, Tensor | None]
    share: float
    coefficients: CoefficientsInTheLimit


def limit_of(x: Tensor, y: Tensor, v: Tensor | None, of_all: Coefficients) -> Limit | None:
    """The limit of an unpenalised fit with an intercept to all rows there are; None where no column separates some.

    Only columns of two values are taken, as levels have them: a coefficient that separates by tiny differences would
    take the digits of the others.

    Args:
        x: (m, d).
        y: Labels, (m,).
        v: Weights, (m,), or None.
        of_all: the coefficients, (d + 1,).
    """
    used = torch.ones_like(y, dtype=torch.bool) if v is None else v > 0
    low, high = x.amin(0), x.amax(0)
    two_valued = ((x == low) | (x == high)).all(0).cpu()
    looks = separating_columns(lambda: [(x[used], y[used] > 0.5)], two_valued)
    if not looks:
        return None
    stay = used.clone()
    for look in looks:
        stay &= look.stay(x)
    inner = x[stay]
    free = (inner.amin(0) < inner.amax(0)).cpu().nonzero()[:, 0]
    aside = used & ~stay
    coefficients = CoefficientsInTheLimit(
        of_all, looks, free, x[aside].double().cpu(), 2 * (y[aside] > 0.5).double().cpu() - 1
    )
    weight = used.double() if v is None else v.double()
    share = float(weight[stay].sum() / weight.sum())
    return Limit((inner[:, free.to(x.device)], y[stay], None if v is None else v[stay]), share, coefficients)
