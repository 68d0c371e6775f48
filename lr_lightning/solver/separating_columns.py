"""Columns that separate some rows by themselves, as a level does that occurs with one outcome only.

A category's reference level has no column. It is what no column of the category holds, and is looked for as if it had
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.solver.coefficients import Coefficients
from lr_lightning.solver.thresholds import DENSE_LIMIT, DEPENDENT_COLUMN, SEPARATED_MARGIN, SUSPECT_COLUMN


class Reference(NamedTuple):
    """The level that two-valued columns leave over, of which at most one is high in any row.

    Attributes:
        columns: positions, (g,), two or more.
        low: what they hold in the rows of the reference, (g,), float64.
        high: what one of them holds in any other row, (g,), float64.
    """

    columns: Tensor
    low: Tensor
    high: Tensor

    def rows(self, x: Tensor) -> Tensor:
        """Which rows of (r, d) are the reference's, (r,)."""
        return (x[:, self.columns.to(x.device)] == self.low.to(x.device)).all(1)

    def direction(self, size: int) -> Tensor:
        """What adds 1 to the logits of the reference and nothing to others, (size,), the intercept last."""
        reach = self.high - self.low
        direction = torch.zeros(size, dtype=torch.float64)
        direction[self.columns] = -1 / reach
        direction[-1] = 1 + (self.low / reach).sum()
        return direction


class SeparatingColumns(NamedTuple):
    """What one look at the rows finds.

    Attributes:
        columns: positions, (s,).
        values: what the rows hold there that a column does not separate, (s,), float64.
        references: that occur with one outcome only, r of them.
        signs: +1 where the rows that hold more, or are the reference's, are positive, −1 where they are negative,
            (s + r,), float64; the references come last.
    """

    columns: Tensor
    values: Tensor
    references: list[Reference]
    signs: Tensor

    def stay(self, x: Tensor) -> Tensor:
        """Which rows of (r, d) none of them separates, (r,)."""
        stay = (x[:, self.columns.to(x.device)] == self.values.to(x.device)).all(1)
        for reference in self.references:
            stay &= ~reference.rows(x)
        return stay

    def at(self, positions: Tensor) -> SeparatingColumns:
        """The same in a table that has its columns at other positions, (d,)."""
        references = [reference._replace(columns=positions[reference.columns]) for reference in self.references]
        return self._replace(columns=positions[self.columns], references=references)


def separating_columns(
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]], candidates: Tensor, processes: Processes = ALONE
) -> list[SeparatingColumns]:
    """All columns that separate some rows by themselves, from the rest that those before them leave.

    A column does if no positive row holds less of it than any negative one, or none more. Then its coefficient can
    grow without end: the rows beyond the value that both outcomes share gain, those that hold it stay, and the
    intercept makes up for what they have of it. The rows that gain are set aside, after which further columns may
    separate; enough of the columns found first makes up for what these do to rows set aside.

    All that is asked of the rows is the least and the largest value of each column with each outcome. Of a level
    they follow from two counts. A reference level (`Reference`) is asked as if it had a column; then all coefficients
    of its category grow, and the intercept the other way.

    Args:
        rows: gives blocks of features (r, d) and of which rows are positive, (r,), of rows of positive weight; called
            once a look, and three times before.
        candidates: which columns may be taken, (d,), bool.
        processes: that have the rows, of which `rows` gives those of this one.

    Returns:
        What each look has found. Of a reference and its columns one at least separates nothing. Empty as well where
        nothing would be left to fit: where the rows that stay are none or have one outcome.
    """
    d = len(candidates)
    references = _references(rows, candidates, processes)
    candidates = torch.cat([candidates, torch.ones(len(references), dtype=torch.bool)])
    of_category = torch.zeros_like(candidates)
    of_category[torch.cat([torch.arange(d, len(candidates)), *(reference.columns for reference in references)])] = True
    looks: list[SeparatingColumns] = []
    while True:
        low, high = _bounds_by_outcome(_staying(rows, looks), d, references, processes)
        if not bool(high.isfinite().all()):
            return []
        up, down = low[1] >= high[0], low[0] >= high[1]
        found = (up != down) & candidates
        shared = torch.where(up, low[1], low[0])
        if bool((found & (shared != torch.where(up, high[0], high[1]))).any()):
            return []  # a column alone tells all positive rows from all negative ones
        # If all levels but one separate, so does the absence of that one: it says the same once more.
        found &= ~of_category | (shared == low.amin(0))
        columns = found.nonzero()[:, 0]
        if not len(columns):
            return looks
        signs, columns = 2 * up[columns].double() - 1, columns.split([int(found[:d].sum()), int(found[d:].sum())])
        looks.append(
            SeparatingColumns(columns[0], shared[columns[0]], [references[j - d] for j in columns[1].tolist()], signs)
        )


def _references(
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]], candidates: Tensor, processes: Processes
) -> list[Reference]:
    """What neighbouring columns of two values leave over, as many columns as are never high together."""
    low, high = (torch.full((len(candidates),), end, dtype=torch.float64) for end in (torch.inf, -torch.inf))
    for x, _ in rows():
        if len(x):
            low, high = torch.minimum(low, x.amin(0).double().cpu()), torch.maximum(high, x.amax(0).double().cpu())
    low, high = processes.least(low), processes.most(high)
    two_valued = candidates & (low < high)
    for x, _ in rows():
        two_valued &= ((x == low.to(x.device)) | (x == high.to(x.device))).all(0).cpu()
    two_valued = processes.least(two_valued.double()) > 0
    columns = two_valued.nonzero()[:, 0]
    numbers = torch.arange(1, len(columns) + 1)
    before = torch.zeros(len(columns), dtype=torch.long)  # last of those before that is high with one, from 1, or 0
    for x, _ in rows():
        is_high = x[:, columns.to(x.device)] == high[columns].to(x.device)
        number = torch.where(is_high, numbers.to(x.device), 0)
        last = torch.nn.functional.pad(number.cummax(1).values[:, :-1], (1, 0)) if len(columns) else number
        if len(x):
            before = torch.maximum(before, torch.where(is_high, last, 0).amax(0).cpu())
    before = processes.most(before.double()).long()
    found, first = [], 0
    for j, last in enumerate([*before.tolist(), len(columns)]):
        if last > first or j == len(columns):
            if j - first > 1:
                group = columns[first:j]
                found.append(Reference(group, low[group], high[group]))
            first = j
    return found


def _bounds_by_outcome(
    rows: Iterable[tuple[Tensor, Tensor]], n_columns: int, references: list[Reference], processes: Processes
) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each column among the negative and the positive rows, each (2, d + r).

    The last r are of the references, as if they had a column that is 1 in their rows and else 0.
    """
    low, high = (
        torch.full((2, n_columns + len(references)), end, dtype=torch.float64) for end in (torch.inf, -torch.inf)
    )
    for x, positive in rows:
        for outcome in (0, 1):
            part = x[positive == bool(outcome)]
            if len(part):
                absent = _absent(part, references)
                least, most = torch.cat([part.amin(0), absent.amin(0)]), torch.cat([part.amax(0), absent.amax(0)])
                low[outcome] = torch.minimum(low[outcome], least.double().cpu())
                high[outcome] = torch.maximum(high[outcome], most.double().cpu())
    return processes.least(low), processes.most(high)


def _absent(x: Tensor, references: list[Reference]) -> Tensor:
    """Which rows of (n, d) are a reference's, (n, r), 0 or 1."""
    if not references:
        return x[:, :0]
    columns, low = (torch.cat([reference[part] for reference in references]).to(x.device) for part in (0, 1))
    ends = torch.tensor([len(reference.columns) for reference in references], device=x.device).cumsum(0)
    others = (x[:, columns] != low).cumsum(1, dtype=torch.int32)[:, ends - 1]
    return (others.diff(dim=1, prepend=torch.zeros_like(others[:, :1])) == 0).to(x.dtype)


def _staying(
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]], looks: list[SeparatingColumns]
) -> Iterable[tuple[Tensor, Tensor]]:
    for x, positive in rows():
        if looks:
            stay = torch.stack([look.stay(x) for look in looks]).all(0)
            x, positive = x[stay], positive[stay]
        yield x, positive


class CoefficientsInTheLimit:
    """The finite coefficients where some columns separate rows; those of the columns that do are infinite.

    Into the parameters these are written as large as it takes to give every row that they separate a vanishing loss.
    The others are those of the rows that stay; where a reference is among what separates, another level of its
    category takes its place.

    Args:
        of_all: all coefficients, the intercept last, (k,).
        looks: the columns that separate.
        stays: features of the rows that stay, (n, d).
        x: features of the rows that are set aside, (r, d).
        sign: +1 for a positive one of them, −1 for a negative one, (r,).
        offset: their offsets, (r,), float64.

    Attributes:
        size_of_all: k.
        free: positions of the columns that have a finite coefficient, and vary among the rows that stay, (c,); of
            those that depend on each other there, as many as do not. The others have 0.
    """

    def __init__(
        self,
        of_all: Coefficients,
        looks: list[SeparatingColumns],
        stays: Tensor,
        x: Tensor,
        sign: Tensor,
        offset: Tensor,
    ) -> None:
        self._of_all, self._looks, self._sign, self._offset = of_all, looks, sign, offset
        self.size_of_all = x.shape[1] + 1
        varies = (stays.amin(0) < stays.amax(0)).cpu()
        self._directions = []  # of each look's references: (column in their place, direction)
        for look in looks:
            directions = []
            for reference in look.references:
                here = (stays[:, reference.columns.to(stays.device)] == reference.high.to(stays.device)).sum(0)
                column = int(reference.columns[here.argmax()])
                directions.append((column, reference.direction(self.size_of_all)))
                varies[column] = False
            self._directions.append(directions)
        free = varies.nonzero()[:, 0]
        self.free = free[independent_columns(stays[:, free.to(stays.device)])]
        self._index = torch.cat([self.free, torch.tensor([x.shape[1]])])
        self._x = x[:, self.free]
        self._beyond = []  # by how much a row is beyond what stays, (r, s), 0 where an earlier look has set it aside
        here = torch.ones(len(x), dtype=torch.bool)
        for look in looks:
            of_references = [reference.rows(x)[:, None].double() for reference in look.references]
            beyond = torch.cat([x[:, look.columns] - look.values, *of_references], 1)
            self._beyond.append((beyond, (beyond != 0) & here[:, None]))
            here = here & look.stay(x)

    def read(self) -> Tensor:
        """The finite coefficients, (c + 1,); the intercept is that of the rows that stay."""
        whole = self._of_all.read()
        for directions in self._directions:
            for column, direction in directions:
                whole -= whole[column] / direction[column] * direction
        point = whole[self._index]
        for look in self._looks:
            point[-1] += look.values @ whole[look.columns]
        return point

    def read_gradient(self) -> Tensor:
        """Their gradient, (c + 1,)."""
        return self._of_all.read_gradient()[self._index]

    def write(self, point: Tensor) -> None:
        """Put ``point`` (c + 1,) into the parameters, together with the coefficients that separate."""
        whole = torch.zeros(self.size_of_all, dtype=torch.float64)
        whole[self._index] = point
        margin = (self._x @ point[:-1] + point[-1] + self._offset) * self._sign
        # The last look comes first: what it does to the rows set aside before, the earlier ones make up for.
        for look, directions, (beyond, gains) in reversed(
            list(zip(self._looks, self._directions, self._beyond, strict=True))
        ):
            needed = (SEPARATED_MARGIN - margin)[:, None] / beyond.abs()
            coefficients = look.signs * needed.masked_fill(~gains, 0.0).amax(0)
            of_columns, of_references = coefficients.split([len(look.columns), len(directions)])
            whole[look.columns] += of_columns
            whole[-1] -= look.values @ of_columns
            for coefficient, (_, direction) in zip(of_references, directions, strict=True):
                whole += coefficient * direction
            margin = margin + (beyond @ coefficients) * self._sign
        self._of_all.write(whole)


def independent_columns(x: Tensor) -> Tensor:
    """Numbers, ascending, of columns of x (n, c) of which none is a linear function of the others and a constant.

    Where rows have been set aside many are, with which every Newton step would cost an eigenvalue decomposition. A
    pivoted Cholesky factorisation of the correlation matrix finds suspects; the rows decide. Above `DENSE_LIMIT`, where
    there are no such decompositions, all columns are returned.
    """
    c = x.shape[1]
    if not c or c > DENSE_LIMIT:
        return torch.arange(c)
    from scipy.linalg import get_lapack_funcs

    x = x.double() - x.double().mean(0)
    x /= torch.linalg.vector_norm(x, dim=0)
    correlation = (x.T @ x).cpu().numpy()
    (pstrf,) = get_lapack_funcs(("pstrf",), (correlation,))
    factor, order, rank, _ = pstrf(correlation, lower=1, tol=SUSPECT_COLUMN)
    columns = torch.from_numpy(order - 1).long()
    lower = torch.from_numpy(factor).tril()
    relation = torch.linalg.solve_triangular(lower[:rank, :rank].T, lower[rank:, :rank].T, upper=True).to(x.device)
    kept, suspects = (part.to(x.device) for part in columns.split([rank, c - rank]))
    left = torch.linalg.vector_norm(x[:, suspects] - x[:, kept] @ relation, dim=0)
    return torch.cat([kept, suspects[left > DEPENDENT_COLUMN]]).cpu().sort().values


class Limit(NamedTuple):
    """What is left to fit in the limit.

    Attributes:
        sample: features (m, c), labels (m,) and weights (m,) or None of the rows that stay.
        share: their part of the weight.
        coefficients: of the columns that vary among them.
    """

    sample: Rows
    share: float
    coefficients: CoefficientsInTheLimit


def limit_of(sample: Rows, of_all: Coefficients) -> Limit | None:
    """The limit of an unpenalised fit with an intercept to all rows there are; None where no column separates some.

    Only columns of two values are taken, as levels have them: a coefficient that separates by tiny differences would
    take the digits of the others.

    Args:
        sample: features (m, d), labels (m,), weights (m,) or None.
        of_all: the coefficients, (d + 1,).
    """
    x, y, v = sample.design.dense(), sample.y, sample.weight
    used = torch.ones_like(y, dtype=torch.bool) if v is None else v > 0
    low, high = x.amin(0), x.amax(0)
    two_valued = ((x == low) | (x == high)).all(0).cpu()
    rows = (sample if bool(used.all()) else sample.take(used.nonzero()[:, 0])).by_outcome()
    outcomes = rows.design.dense(), rows.y > 0.5
    looks = separating_columns(lambda: [outcomes], two_valued)
    if not looks:
        return None
    stay = used.clone()
    for look in looks:
        stay &= look.stay(x)
    inner, aside = x[stay], used & ~stay
    sign = 2 * (y[aside] > 0.5).double().cpu() - 1
    offset = torch.zeros_like(sign) if sample.offset is None else sample.offset[aside].double().cpu()
    coefficients = CoefficientsInTheLimit(of_all, looks, inner, x[aside].double().cpu(), sign, offset)
    weight = used.double() if v is None else v.double()
    share = float(weight[stay].sum() / weight.sum())
    staying = sample.take(stay)._replace(x=inner[:, coefficients.free.to(x.device)])
    return Limit(staying, share, coefficients)
