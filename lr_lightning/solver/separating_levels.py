"""Levels of one outcome in sparse tables: what `separating_columns` does, from counts and without filling the rows."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardized import Standardized
from lr_lightning.model.storage import Design
from lr_lightning.model.swept import Swept
from lr_lightning.solver.coefficients import Coefficients
from lr_lightning.solver.separating_columns import CoefficientsInTheLimit, Limit, Reference, SeparatingColumns
from lr_lightning.solver.thresholds import SEPARATED_MARGIN

_ONE_VALUE = 1e-12  # spread of the numbers of a column beside 0, relative to their squares, that is rounding


class SeparatingLevels(NamedTuple):
    """What one look at the rows finds.

    Attributes:
        columns: positions of the columns whose numbers beside 0 have one outcome, (s,).
        references: the categories whose reference level has one outcome, r of them.
        signs: +1 where the rows that they set aside are positive, −1 where they are negative, (s + r,), float64.
    """

    columns: Tensor
    references: list[Reference]
    signs: Tensor

    def rows(self, x: Design) -> Tensor:
        """Which rows of x (n, d) it sets aside, (n,)."""
        chosen = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        chosen[self.columns.to(x.device)] = 1
        aside = x.matvec(chosen) > 0
        for reference in self.references:
            aside |= _rows_of(reference, x)
        return aside


def separating_levels(x: Design, y: Tensor, used: Tensor) -> tuple[list[SeparatingLevels], Tensor]:
    """The columns of 0 and one other number, and reference levels, that separate some rows by themselves.

    They are those of `separating_columns` that hold the other number in rows of one outcome only.

    Args:
        x: features as they are, (n, d): what is not standardised.
        y: targets, (n,); one between 0 and 1 counts for both outcomes.
        used: which rows have a positive weight, (n,), bool.

    Returns:
        What each look has found, empty where nothing would be left to fit, and which rows stay, (n,), bool.
    """
    weight = used.double()
    low, high = x.bounds(used)
    sums, squares = x.rmatvec(weight), x.square_sums(weight)
    binary = (low == 0) & (high > 0) & ((high * sums - squares).abs() <= _ONE_VALUE * squares)
    references = [Reference(g, low[g], high[g]) for g in _categories(x) if bool(binary[g].all())]
    looks: list[SeparatingLevels] = []
    stay, of_outcome = used, [used & (y < 1), used & (y > 0)]
    while True:
        weights = torch.stack([(stay & outcome).double() for outcome in of_outcome], 1)
        totals, counts = weights.sum(0), x.rmatvec(weights)
        if not bool((totals > 0).all()):
            return [], used
        rest = [totals - (counts[g] / height[:, None]).sum(0) for g, _, height in references]
        of_references = torch.stack(rest) if rest else counts[:0]
        occurs = counts > 0
        found = binary & (occurs[:, 0] != occurs[:, 1])
        left = of_references > 0.5  # a number of rows
        found_references = left[:, 0] != left[:, 1]
        if not bool(found.any()) and not bool(found_references.any()):
            return looks, stay
        columns = found.nonzero()[:, 0]
        positive = torch.cat([occurs[columns, 1], left[found_references, 1]])
        chosen = [references[j] for j in found_references.nonzero()[:, 0].tolist()]
        looks.append(SeparatingLevels(columns, chosen, 2 * positive.double() - 1))
        stay = stay & ~looks[-1].rows(x)


def _categories(x: Design) -> list[Tensor]:
    """The columns of each category that has one for every level but its reference."""
    if isinstance(x, Categories):
        return x.whole
    if isinstance(x, Columns):
        parts = zip(x.parts, x.features, strict=True)
        return [at[g] for part, at in parts if isinstance(part, Categories) for g in part.whole]
    return []


def _rows_of(reference: Reference, x: Design) -> Tensor:
    """Which rows of x (n, d) are the reference's, (n,)."""
    others = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    others[reference.columns.to(x.device)] = 1
    return x.matvec(others) == 0


class LevelsInTheLimit(CoefficientsInTheLimit):
    """The same as its base, of sparse rows; see there.

    Args:
        of_all: all coefficients, the intercept last, (k,).
        looks: what separates.
        x: features of all rows, standardised, (n, d).
        stay: which rows stay, (n,), bool.
        aside: which rows are set aside, (n,), bool.
        y: targets, (n,).
        offset: offsets, (n,), or None.
    """

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        of_all: Coefficients,
        looks: list[SeparatingLevels],
        x: Standardized,
        stay: Tensor,
        aside: Tensor,
        y: Tensor,
        offset: Tensor | None,
    ) -> None:
        d = x.shape[1]
        self._of_all, self.size_of_all = of_all, d + 1
        center, scale = x.center.cpu(), x.scale.cpu()
        self._sign = 2 * y[aside].double().cpu() - 1
        self._offset = torch.zeros_like(self._sign) if offset is None else offset[aside].double().cpu()
        low, high = (bound.cpu() for bound in x.x.bounds(stay))
        varies = low < high
        counts = x.x.rmatvec(stay.double()).cpu()
        rows = cast(Swept, x.x.take(aside).to("cpu"))
        here = torch.ones(rows.shape[0], dtype=torch.bool)
        self._looks, self._directions, self._entries, self._of_references = [], [], [], []
        for look in looks:
            directions = []
            columns = look.columns.cpu()
            for reference in look.references:
                group, height = reference.columns.cpu(), reference.high.cpu()
                direction = torch.zeros(d + 1, dtype=torch.float64)
                direction[group], direction[d] = -scale[group] / height, 1 - float((center[group] / height).sum())
                column = int(group[counts[group].argmax()])
                directions.append((column, direction))
                varies[column] = False
            self._directions.append(directions)
            self._looks.append(
                SeparatingColumns(columns, -(center / scale)[columns], look.references, look.signs.cpu())
            )
            entries = rows.columns(columns).compressed(slice(0, rows.shape[0])).tocoo()
            row, column = (torch.from_numpy(part).long() for part in (entries.row, entries.col))
            beyond = torch.from_numpy(entries.data) / scale[columns][column]
            self._entries.append((row, column, beyond, here[row]))
            of_references = [_rows_of(reference, rows) for reference in look.references]
            self._of_references.append([(of_one, of_one & here) for of_one in of_references])
            here = here & ~look.rows(rows)
        self.free = varies.nonzero()[:, 0]
        self._index = torch.cat([self.free, torch.tensor([d])])
        self._x = x.take(aside).to("cpu").columns(self.free)

    def write(self, point: Tensor) -> None:
        """See `CoefficientsInTheLimit.write`."""
        whole = torch.zeros(self.size_of_all, dtype=torch.float64)
        whole[self._index] = point
        margin = (self._x.matvec(point[:-1], point[-1]) + self._offset) * self._sign
        for look, directions, (row, column, beyond, gains), references in reversed(
            list(zip(self._looks, self._directions, self._entries, self._of_references, strict=True))
        ):
            s = len(look.columns)
            needed = ((SEPARATED_MARGIN - margin)[row] / beyond)[gains]
            coefficients = torch.zeros(s, dtype=torch.float64).scatter_reduce_(0, column[gains], needed, "amax")
            coefficients *= look.signs[:s]
            whole[look.columns] += coefficients
            whole[-1] -= look.values @ coefficients
            moved = torch.zeros_like(margin).index_add_(0, row, beyond * coefficients[column])
            for (_, direction), sign, (rows, gain) in zip(directions, look.signs[s:], references, strict=True):
                coefficient = sign * (SEPARATED_MARGIN - margin)[gain].clamp_min(0).amax()
                whole += coefficient * direction
                moved += coefficient * rows
            margin = margin + moved * self._sign
        self._of_all.write(whole)


def limit_of_levels(sample: Rows, of_all: Coefficients) -> Limit | None:
    """What `limit_of` gives, of sparse rows; only what `separating_levels` finds is taken.

    Args:
        sample: features (n, d), labels (n,), weights (n,) or None, of all rows there are.
        of_all: the coefficients, (d + 1,).
    """
    x, y, v = sample.design, sample.y, sample.weight
    x = x if isinstance(x, Standardized) else Standardized(x, None, None)
    used = torch.ones_like(y, dtype=torch.bool) if v is None else v > 0
    looks, stay = separating_levels(x.x, y, used)
    if not looks:
        return None
    coefficients = LevelsInTheLimit(of_all, looks, x, stay, used & ~stay, y, sample.offset)
    if not len(coefficients.free):
        return None
    weight = used.double() if v is None else v.double()
    share = float(weight[stay].sum() / weight.sum())
    staying = sample.take(stay)._replace(x=x.take(stay).columns(coefficients.free))
    return Limit(staying, share, coefficients)
