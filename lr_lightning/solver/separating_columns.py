"""Columns that separate some rows by themselves, as a level does that occurs with one outcome only.

A category's reference level has no column. It is what no column of the category holds, and is looked for as if it had
one. However the rows are stored, they are asked by products, least and largest values: sparse ones are never filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardized import Standardized
from lr_lightning.model.storage import Design
from lr_lightning.model.swept import Swept
from lr_lightning.solver import thresholds
from lr_lightning.solver.coefficients import Coefficients

Blocks = Callable[[], Iterable[tuple[Design, Tensor]]]  # features (r, d), and which rows are positive, (r,)


class Reference(NamedTuple):
    """The level that two-valued columns leave over, of which at most one is high in any row.

    Attributes:
        columns: positions, (g,).
        low: what they hold in the rows of the reference, (g,), float64.
        high: what one of them holds in any other row, (g,), float64.
    """

    columns: Tensor
    low: Tensor
    high: Tensor

    def rows(self, x: Design) -> Tensor:
        """Mask of the rows of x (n, d) that are the reference's, (n,)."""
        reach = self.high - self.low
        n_high = x.columns(self.columns).matvec((1 / reach).to(x.device), -(self.low / reach).sum().to(x.device))
        return n_high < 0.5

    def direction(self, size: int) -> Tensor:
        """Coefficients that add 1 to the logits of the reference and 0 to others, (size,), the intercept last."""
        reach = self.high - self.low
        direction = torch.zeros(size, dtype=torch.float64)
        direction[self.columns] = -1 / reach
        direction[-1] = 1 + (self.low / reach).sum()
        return direction


class SeparatingColumns(NamedTuple):
    """Columns and references that separate, as one sweep over the rows finds them.

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

    def stay(self, x: Design) -> Tensor:
        """Mask of the rows of x (n, d) that none of them separates, (n,)."""
        stay = ~_differs(x.columns(self.columns), self.values)
        for reference in self.references:
            stay &= ~reference.rows(x)
        return stay

    def moving(self) -> Tensor:
        """Positions of the columns without a finite coefficient, (m,)."""
        return torch.cat([self.columns, *(reference.columns for reference in self.references)]).unique()

    def at(self, positions: Tensor) -> SeparatingColumns:
        """The columns and references in a table that has its columns at other positions, (d,)."""
        references = [reference._replace(columns=positions[reference.columns]) for reference in self.references]
        return self._replace(columns=positions[self.columns], references=references)


def separating_columns(rows: Blocks, candidates: Tensor, processes: Processes = ALONE) -> list[SeparatingColumns]:
    """All columns that separate some rows by themselves, from the rest that those before them leave.

    A column does if no positive row holds less of it than any negative one, or none more. Then its coefficient can
    grow without end: the rows beyond the value that both outcomes share gain, those that hold it stay, and the
    intercept makes up for what they have of it. The rows that gain are set aside, after which further columns may
    separate; enough of the columns found first makes up for what these do to rows set aside.

    All that is asked of the rows is the least and the largest value of each column with each outcome. Of a level
    they follow from two counts. A reference level (`Reference`) is asked as if it had a column; then all coefficients
    of its category grow, and the intercept the other way.

    Args:
        rows: gives blocks of rows of positive weight; called once a look, and twice before.
        candidates: which columns may be taken, (d,), bool.
        processes: that have the rows, of which `rows` gives those of this one.

    Returns:
        What each look has found. Of a reference and its columns one at least separates nothing. Empty as well where
        nothing would be left to fit: where the rows that stay are none or have one outcome.
    """
    if not bool(candidates.any()):
        return []
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


def _references(rows: Blocks, candidates: Tensor, processes: Processes) -> list[Reference]:
    """References of categories, or of neighbouring columns of two values that are never high together."""
    low, high = (torch.full((len(candidates),), end, dtype=torch.float64) for end in (torch.inf, -torch.inf))
    category, is_sparse = torch.full_like(low, -1), False
    for x, _ in rows():
        least, most = x.bounds().cpu()
        low, high = torch.minimum(low, least), torch.maximum(high, most)
        is_sparse = x.is_sparse
        for number, columns in enumerate(_categories(x)):
            category[columns] = number
    low, high, category = processes.least(low), processes.most(high), processes.most(category)
    two_valued = candidates & (low < high)
    for x, _ in rows():
        two_valued &= _two_valued(x, low, high)
    two_valued = processes.least(two_valued.double()) > 0
    if processes.any(is_sparse):
        told = torch.where(two_valued, category, -1)
        groups = [(told == number).nonzero()[:, 0] for number in range(int(told.max()) + 1)]
    else:
        groups = _never_high_together(rows, two_valued.nonzero()[:, 0], high, processes)
    return [Reference(group, low[group], high[group]) for group in groups if len(group) > 1]


def _categories(x: Design) -> list[Tensor]:
    """The columns of each category that has one for every level but its reference."""
    if isinstance(x, Standardized):
        return _categories(x.x)
    if isinstance(x, Categories):
        return [columns.cpu() for columns in x.whole]
    if isinstance(x, Columns):
        parts = zip(x.parts, x.features, strict=True)
        return [at[g].cpu() for part, at in parts if isinstance(part, Categories) for g in part.whole]
    return []


def _never_high_together(rows: Blocks, columns: Tensor, high: Tensor, processes: Processes) -> list[Tensor]:
    """Runs of neighbours among two-valued columns (c,) of which no row has two at their `high` value (d,)."""
    numbers = torch.arange(1, len(columns) + 1)
    before = torch.zeros(len(columns), dtype=torch.long)  # last of those before that is high with one, from 1, or 0
    for x, _ in rows():
        if len(columns) and x.shape[0]:
            is_high = x.columns(columns).dense() == high[columns].to(x.device)
            number = torch.where(is_high, numbers.to(x.device), 0)
            last = torch.nn.functional.pad(number.cummax(1).values[:, :-1], (1, 0))
            before = torch.maximum(before, torch.where(is_high, last, 0).amax(0).cpu())
    groups, first = [], 0
    for j, last in enumerate([*processes.most(before.double()).tolist(), len(columns)]):
        if last > first or j == len(columns):
            groups.append(columns[first:j])
            first = j
    return groups


def _two_valued(x: Design, low: Tensor, high: Tensor) -> Tensor:
    """Mask of the columns of x (n, d) that hold only `low` and `high`, each (d,), on the CPU."""
    if not x.is_sparse:
        values = x.dense()
        return ((values == low.to(x.device)) | (values == high.to(x.device))).all(0).cpu()
    first, second = x.sums_about(low.to(x.device), None).cpu()
    return ((high - low) * first - second).abs() <= thresholds.TWO_VALUED * second


def _bounds_by_outcome(
    blocks: Iterable[tuple[Design, Tensor, Tensor]], n_columns: int, references: list[Reference], processes: Processes
) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each column among the negative and the positive rows, each (2, d + r).

    The last r are of the references, as if they had a column that is 1 in their rows and else 0.
    """
    low, high = (
        torch.full((2, n_columns + len(references)), end, dtype=torch.float64) for end in (torch.inf, -torch.inf)
    )
    for x, positive, stay in blocks:
        absent = [reference.rows(x) for reference in references]
        for outcome in (0, 1):
            part = stay & (positive == bool(outcome))
            if bool(part.any()):
                least, most = x.bounds(part).cpu()
                here = torch.tensor([[bool(of_one[part].all()), bool(of_one[part].any())] for of_one in absent])
                here = here.double().reshape(-1, 2)
                low[outcome] = torch.minimum(low[outcome], torch.cat([least, here[:, 0]]))
                high[outcome] = torch.maximum(high[outcome], torch.cat([most, here[:, 1]]))
    return processes.least(low), processes.most(high)


def _staying(rows: Blocks, looks: list[SeparatingColumns]) -> Iterator[tuple[Design, Tensor, Tensor]]:
    for x, positive in rows():
        stay = torch.ones_like(positive)
        for look in looks:
            stay &= look.stay(x)
        yield x, positive, stay


def _differs(x: Design, values: Tensor) -> Tensor:
    """Mask of the rows of x (n, c) that hold other values than (c,), (n,)."""
    values = values.to(x.device)
    if not x.is_sparse:
        return (x.dense() != values).any(1)
    zero = values == _zeros(x)
    raw = x.x if isinstance(x, Standardized) else x
    differs = raw.columns(zero.nonzero()[:, 0]).square_norms(None, None).to(x.device) > 0
    if not bool(zero.all()):
        rest = (~zero).nonzero()[:, 0]
        differs |= (x.columns(rest).dense(torch.float64) != values[rest]).any(1)
    return differs


def _beyond(x: Design, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of x (n, c) that differ from the values (c,), on the CPU.

    Returns:
        The row and the column of each such number, and what it is more, (e,), float64.
    """
    if x.is_sparse and bool((values == _zeros(x)).all()):
        scale = x.scale if isinstance(x, Standardized) else torch.ones_like(values)
        raw = cast(Swept, x.x if isinstance(x, Standardized) else x)
        entries = raw.compressed(slice(0, x.shape[0])).tocoo()
        row, column = (torch.from_numpy(part).long() for part in (entries.row, entries.col))
        more = torch.from_numpy(entries.data) / scale[column]
        return row[more != 0], column[more != 0], more[more != 0]
    more = x.dense(torch.float64) - values
    row, column = more.nonzero(as_tuple=True)
    return row, column, more[row, column]


def _zeros(x: Design) -> Tensor:
    """The value of each column of sparse rows where nothing is stored, (d,), as `Design.bounds` gives it."""
    return (
        (0 - x.center) / x.scale if isinstance(x, Standardized) else torch.zeros(x.shape[1], device=x.device).double()
    )


class CoefficientsInTheLimit:
    """The finite coefficients where some columns separate rows; those of the columns that do are infinite.

    Into the parameters these are written as large as it takes to give every row that they separate a vanishing loss.
    The others are those of the rows that stay; where a reference is among what separates, another level of its
    category takes its place.

    Args:
        of_all: all coefficients, the intercept last, (k,).
        looks: the columns that separate.
        x: features of all rows, (n, d).
        stay: which rows stay, (n,), bool.
        aside: the rows that are set aside, (r, d), their targets and offsets.

    Attributes:
        size_of_all: k.
        free: positions of the columns that have a finite coefficient, and vary among the rows that stay, (c,); of
            those that depend on each other there, as many as do not. The others have 0.
    """

    def __init__(
        self, of_all: Coefficients, looks: list[SeparatingColumns], x: Design, stay: Tensor, aside: Rows
    ) -> None:
        self._of_all, self._looks = of_all, looks
        self.size_of_all = x.shape[1] + 1
        self._sign = 2 * (aside.y > 0.5).double() - 1
        self._offset = torch.zeros_like(self._sign) if aside.offset is None else aside.offset.double()
        low, high = x.bounds(stay).cpu()
        varies = low < high
        self._directions = []  # of each look's references: (column in their place, direction)
        for look in looks:
            directions = []
            for reference in look.references:
                held, _ = x.columns(reference.columns).sums_about(reference.low.to(x.device), stay.double()).cpu()
                column = int(reference.columns[(held / (reference.high - reference.low)).argmax()])
                directions.append((column, reference.direction(self.size_of_all)))
                varies[column] = False
            self._directions.append(directions)
        free = varies.nonzero()[:, 0]
        self.free = free[independent_columns(x.take(stay).columns(free))]
        self._index = torch.cat([self.free, torch.tensor([x.shape[1]])])
        rows = aside.design
        self._x = rows.columns(self.free)
        # What of the rows set aside is beyond what stays, and which an earlier look has left; the same of references.
        self._beyond, self._of_references = [], []
        here = torch.ones(rows.shape[0], dtype=torch.bool)
        for look in looks:
            row, column, more = _beyond(rows.columns(look.columns), look.values)
            self._beyond.append((row, column, more, here[row]))
            of_references = [reference.rows(rows) for reference in look.references]
            self._of_references.append([(of_one, of_one & here) for of_one in of_references])
            here = here & ~torch.stack(of_references).any(0) if of_references else here.clone()
            here[row] = False

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
        """Gradient with respect to the coefficients in use, (c + 1,)."""
        return self._of_all.read_gradient()[self._index]

    def write(self, point: Tensor) -> None:
        """Put ``point`` (c + 1,) into the parameters, together with the coefficients that separate."""
        whole = torch.zeros(self.size_of_all, dtype=torch.float64)
        whole[self._index] = point
        margin = (self._x.matvec(point[:-1], point[-1]) + self._offset) * self._sign
        # The last look comes first: what it does to the rows set aside before, the earlier ones make up for.
        for look, directions, (row, column, more, gains), of_references in reversed(
            list(zip(self._looks, self._directions, self._beyond, self._of_references, strict=True))
        ):
            of_columns, of_levels = look.signs.split([len(look.columns), len(directions)])
            needed = ((thresholds.SEPARATED_MARGIN - margin)[row] / more.abs())[gains]
            coefficients = of_columns * torch.zeros_like(of_columns).scatter_reduce(0, column[gains], needed, "amax")
            whole[look.columns] += coefficients
            whole[-1] -= look.values @ coefficients
            moved = torch.zeros_like(margin).index_add_(0, row, more * coefficients[column])
            for (_, direction), sign, (rows, gain) in zip(directions, of_levels, of_references, strict=True):
                coefficient = sign * (thresholds.SEPARATED_MARGIN - margin)[gain].clamp_min(0).amax()
                whole += coefficient * direction
                moved += coefficient * rows
            margin = margin + moved * self._sign
        self._of_all.write(whole)


def independent_columns(x: Design) -> Tensor:
    """Numbers, ascending, of columns of x (n, c) of which none is a linear function of the others and a constant.

    Where rows have been set aside many are, with which every Newton step would cost an eigenvalue decomposition. A
    pivoted Cholesky factorisation of the correlation matrix finds suspects; the rows decide. Above `DENSE_LIMIT`, where
    there are no such decompositions, all columns are returned.
    """
    n, c = x.shape
    if not c or c > thresholds.DENSE_LIMIT:
        return torch.arange(c)
    from scipy.linalg import get_lapack_funcs

    x = x.astype(torch.float64)
    mean, one = x.means(), torch.ones(n, dtype=torch.float64, device=x.device)
    x = x.standardized(mean, x.sums_about(mean, None)[1].sqrt())
    correlation = x.sandwich(one).cpu().numpy()
    (pstrf,) = get_lapack_funcs(("pstrf",), (correlation,))
    factor, order, rank, _ = pstrf(correlation, lower=1, tol=thresholds.SUSPECT_COLUMN)
    columns = torch.from_numpy(order - 1).long()
    lower = torch.from_numpy(factor).tril()
    kept, suspects = columns.split([rank, c - rank])
    rest = torch.zeros(c, c - rank, dtype=torch.float64)  # what makes a suspect less its relation to the others
    rest[kept] = -torch.linalg.solve_triangular(lower[:rank, :rank].T, lower[rank:, :rank].T, upper=True)
    rest[suspects] += torch.eye(c - rank, dtype=torch.float64)
    parts = rest.to(x.device).split(max(1, thresholds.SEPARATING_BLOCK // max(n, 1)), 1)
    left = torch.cat([torch.linalg.vector_norm(x.matvec(part), dim=0).cpu() for part in parts])
    return torch.cat([kept, suspects[left > thresholds.DEPENDENT_COLUMN]]).sort().values


class Limit(NamedTuple):
    """The part of the problem that is left to fit in the limit.

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
    x, y, v = sample.design, sample.y, sample.weight
    used = torch.ones_like(y, dtype=torch.bool) if v is None else v > 0
    rows = (sample if bool(used.all()) else sample.take(used.nonzero()[:, 0])).by_outcome()
    low, high = rows.design.bounds().cpu()
    candidates = _two_valued(rows.design, low, high) & (low < high)
    looks = separating_columns(lambda: [(rows.design, rows.y > 0.5)], candidates)
    if not looks:
        return None
    stay = used.clone()
    for look in looks:
        stay &= look.stay(x)
    coefficients = CoefficientsInTheLimit(of_all, looks, x, stay, sample.take(used & ~stay).to(torch.device("cpu")))
    weight = used.double() if v is None else v.double()
    share = float(weight[stay].sum() / weight.sum())
    staying = sample.take(stay)
    return Limit(staying._replace(x=staying.design.columns(coefficients.free)), share, coefficients)
