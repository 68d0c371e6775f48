"""The rows of a table that are in use: their labels, and what their columns with other roles hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from logging import WARNING
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch

from lr_lightning.data.choices import Choices
from lr_lightning.data.columns import (
    Numbering,
    coded,
    holds_text,
    is_single,
    missing_rows,
    numbers,
    text_values,
)
from lr_lightning.data.fingerprint import labels_checksum
from lr_lightning.data.mistakes import mistakes_in_all
from lr_lightning.data.notation import doubt_in_words
from lr_lightning.data.readers.base import KIND_IN_WORDS, Source, TypesChanged, kind_of, shown
from lr_lightning.data.roles import FOLD, GROUPS, ROLES, SUCCESSES, TRIALS, Role
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.target import label_codes
from lr_lightning.errors import InputError
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Counts, scaled_weights

T = TypeVar("T")


@dataclass
class Scan:
    """The result of the first sweep over a table.

    Attributes:
        schema: the schema, without the values that fill missing ones (`Column.fill`).
        y: 0/1 targets of the rows in use, uint8, shape (n,); float64 shares of successes where there are trials.
        beside: what the rows in use hold beside features and targets, by the attributes of `Rows`, float64, each (n,);
            weights are divided by `weight_scale`.
        kept: which of the table's rows are in use, boolean, shape (N,); None for all.
        single: whether every feature is stored in single precision.
        notes: messages about what was found and decided, as (logging level, one line).
        codes: for each role of any values the number of each row's value, int32, (n,).
        fold_values: the values of the fold column, by their numbers, as they are in the table, or as text.
        log_coefficient: weight times log C(trials, successes) of the rows in use, float64, (n,), or None.
        processes: that have the table's rows, of which those of this one are here.
        weight_scale: the divisor of the weights; 1 unless they are very large or very small.
    """

    schema: TableSchema
    y: np.ndarray
    beside: dict[str, np.ndarray]
    kept: np.ndarray | None
    single: bool
    notes: list[tuple[int, str]]
    codes: dict[str, np.ndarray]
    fold_values: list[Level]
    log_coefficient: np.ndarray | None = None
    processes: Processes = ALONE
    weight_scale: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        if self.weight is not None:
            largest = self.processes.most(float(self.weight.max(initial=0.0)))
            weight, self.weight_scale = scaled_weights(torch.from_numpy(self.weight), largest)
            self.beside = {**self.beside, "weight": weight.numpy()}

    @property
    def weight(self) -> np.ndarray | None:
        """Sample weights of the rows, or None."""
        return self.beside.get("weight")

    def fingerprint(self) -> int:
        """A checksum of the targets of the rows in use, and of their groups: all that the split depends on."""
        groups, counted = self.codes.get(GROUPS.name), self.log_coefficient is not None
        return labels_checksum(self.y, groups, counted=counted, processes=self.processes)


def scan_of(
    schema: TableSchema,
    y: np.ndarray | None,
    roles: RoleColumns,
    kept: np.ndarray | None,
    single: bool,
    notes: list[tuple[int, str]],
    processes: Processes = ALONE,
) -> Scan:
    """The scan from 0/1 targets (n,), None where there are trials, and the columns that have a role."""
    values, log_coefficient = roles.in_use(kept), None
    if y is None:
        successes, trials = (torch.from_numpy(values.pop(role)) for role in ("target", "trials"))
        weight = torch.from_numpy(values.pop("weight")) if "weight" in values else None
        counts = Counts.of(successes, trials, weight)
        y, values["weight"], log_coefficient = (t.numpy() for t in counts)
    codes = {role: values.pop(role) for role in list(values) if role in ROLES and ROLES[role].coded}
    return Scan(schema, y, values, kept, single, notes, codes, roles.fold_values, log_coefficient, processes)


def scan_by_schema(source: Source, schema: TableSchema, processes: Processes = ALONE) -> Scan:
    """Scan a table whose schema is known from an earlier fit: its rows in use, their labels, weights and the like.

    Args:
        source: the table, or this process's part of it.
        schema: of the fit.
        processes: that have the table.

    Raises:
        InputError: if a label is missing or unknown, or a column with another role holds what it must not.
        NotMergedError: if one of several processes has met a mistake.
    """
    while True:
        with suppress(TypesChanged):
            return _scan_by_schema(source, schema, processes)


def _scan_by_schema(source: Source, schema: TableSchema, processes: Processes) -> Scan:
    names = [column.name for column in schema.columns]
    columns = columns_of(names, schema.target, schema.roles)
    roles = RoleColumns(source, schema.roles, schema.target)
    with mistakes_in_all(processes):
        codes, masks, single, n_rows = _sweep_by_schema(source, schema, columns, len(names), roles)
    if processes.count > 1:
        roles.merge(processes)
        if source.missing is not None:
            source.missing.merge(processes)
    (n_rows,) = processes.sums(n_rows)
    if not n_rows:
        raise InputError(f"{source.name} has a header and no rows")
    with mistakes_in_all(processes):
        mask, notes = rows_in_use(source, columns, len(names), schema.missing, masks, processes)
    if doubt := source.missing_in_words([*(c.name for c in schema.columns if c.kind == "category"), schema.target]):
        notes.append((WARNING, f"{source.name}: the text {doubt}"))
    y = None if schema.trials is not None else np.concatenate([np.zeros(0, np.uint8), *codes])
    y = y if y is None or mask is None else y[mask]
    return scan_of(schema, y, roles, mask, processes.all(single), notes, processes)


def _sweep_by_schema(
    source: Source, schema: TableSchema, columns: Sequence[str], target: int, roles: RoleColumns
) -> tuple[list[np.ndarray], list[np.ndarray], bool, int]:
    """Codes of the labels, masks of the rows in use, whether all features are single, and the number of rows."""
    codes, masks, single, start = [], [], True, 0
    for batch in source.batches(columns):

        def where(row: int, start: int = start) -> str:
            return source.where(start + row)

        single &= all(is_single(dtype) for dtype in batch.schema.types[:target])
        kept = usable_rows(batch, target, schema.missing)
        refuse_without_target(kept, schema, where)
        if schema.missing != "error":
            masks.append(np.ones(batch.num_rows, bool) if kept is None else kept)
        if schema.trials is None:
            codes.append(label_codes(schema, batch.column(target), source.name, where, kept).astype(np.uint8))
        roles.add(batch, where, kept)
        start += batch.num_rows
    return codes, masks, single, start


def columns_of(features: Sequence[str], target: str, roles: Mapping[str, str]) -> list[str]:
    """The columns of a table that are read: the features, the target and those with other roles, each once."""
    return list(dict.fromkeys([*features, target, *roles.values()]))


def deciding_columns(columns: Sequence[T], target: int, missing: str) -> Sequence[T]:
    """The columns in which a missing value leaves a row out.

    Args:
        columns: the features, then the target, then columns with other roles.
        target: position of the target.
        missing: the rule for missing values. Under `drop` all columns count, otherwise the target alone.
    """
    return columns if missing == "drop" else columns[target : target + 1]


def usable_rows(batch: pa.RecordBatch, target: int, missing: str) -> np.ndarray | None:
    """The rows that have a value in all of the `deciding_columns`: boolean (n,), None for all rows."""
    found = map(missing_rows, deciding_columns(batch.columns, target, missing))
    absent = [mask for mask in found if mask is not None]
    return ~np.logical_or.reduce(absent) if absent else None


def refuse_without_target(kept: np.ndarray | None, rules: Choices | TableSchema, where: Callable[[int], str]) -> None:
    """Raise InputError if a row has no target and no rule leaves it out; `where(row)` is its place in messages."""
    if kept is not None and rules.missing == "error":
        raise InputError(
            f"{where(int(kept.argmin()))}: the target {rules.target} has no value; fit with "
            "--data.missing drop or --data.missing impute to leave such rows out"
        )


class RoleColumns:
    """Reads the columns that have one of the `ROLES`, and a target that counts successes, batch by batch.

    Args:
        source: the table.
        columns: the names of the columns, by role.
        target: the name of the target, which is read here where there are trials.
    """

    def __init__(self, source: Source, columns: Mapping[str, str], target: str | None):
        self._source = source
        self._columns = [(ROLES[role], name) for role, name in columns.items()]
        if TRIALS.name in columns:
            self._columns.append((SUCCESSES, str(target)))
        self._parts: dict[str, list[np.ndarray]] = {role.name: [] for role, _ in self._columns}
        self._numberings = {role.name: Numbering() for role, _ in self._columns if role.coded}

    def add(self, batch: pa.RecordBatch, where: Callable[[int], str], kept: np.ndarray | None) -> None:
        """Add the rows of a batch that has these columns among others; see `checked_numbers` and `checked_codes`."""
        for role, name in self._columns:
            array = batch.column(name)
            if role.coded:
                values = checked_codes(role, self._numberings[role.name], array, name, self._source, where, kept)
            else:
                values = checked_numbers(role, array, name, self._source, where, kept)
            self._parts[role.name].append(values)
            if role is SUCCESSES:
                self._refuse_more_than_trials(name, where, kept)

    def _refuse_more_than_trials(self, target: str, where: Callable[[int], str], kept: np.ndarray | None) -> None:
        successes, trials = self._parts[SUCCESSES.name][-1], self._parts[TRIALS.name][-1]
        wrong = successes > trials if kept is None else (successes > trials) & kept
        if wrong.any():
            row = int(wrong.argmax())
            counts = f"{successes[row]:.17g} successes among {trials[row]:.17g} trials"
            raise InputError(f"{where(row)}: the target {target} counts {counts}; there cannot be more than trials")

    def in_use(self, mask: np.ndarray | None) -> dict[str, np.ndarray]:
        """The values of the rows in use, by role, each (n,): float64, or int32 codes.

        Args:
            mask: which of all rows are in use, boolean (N,); None for all.
        """
        empty = {True: np.zeros(0, np.int32), False: np.zeros(0)}  # of a process without rows
        whole = {
            role: np.concatenate(parts) if parts else empty[role in self._numberings]
            for role, parts in self._parts.items()
        }
        return whole if mask is None else {role: values[mask] for role, values in whole.items()}

    def merge(self, processes: Processes) -> None:
        """Number the values as one process would that has the rows of all."""
        for role, numbering in self._numberings.items():
            own, merged = list(numbering.numbers), Numbering()
            for values in processes.objects(own):
                for value in values:
                    merged.numbers.setdefault(value, len(merged.numbers))
            table = np.array([*(merged.numbers[value] for value in own), -1], dtype=np.int32)
            self._parts[role] = [table[codes] for codes in self._parts[role]]
            self._numberings[role] = merged

    @property
    def fold_values(self) -> list[Level]:
        """The values of the fold column, by their numbers; empty without one."""
        values = self._numberings[FOLD.name].numbers if FOLD.name in self._numberings else ()
        return [value if isinstance(value, str | int | float) else str(value) for value in values]


def checked_codes(
    role: Role,
    numbering: Numbering,
    array: pa.Array,
    name: str,
    source: Source,
    where: Callable[[int], str],
    kept: np.ndarray | None,
) -> np.ndarray:
    """The numbers of the values of a column with a role, int32, shape (n,); arguments as for `checked_numbers`.

    Raises:
        InputError: if a row that is in use has no value, or the column holds values of a type without equality.
    """
    if kind_of(array.type) is None:
        raise InputError(f"{source.name}: the {role.name} column {name} holds values of type {array.type}")
    codes = numbering.add(array)
    wrong = codes < 0 if kept is None else (codes < 0) & kept
    if wrong.any():
        raise InputError(
            f"{where(int(wrong.argmax()))}: the {role.name} column {name} has no value; every row {role.rule}; "
            "--data.missing drop leaves such rows out"
        )
    return codes


def checked_numbers(
    role: Role, array: pa.Array, name: str, source: Source, where: Callable[[int], str], kept: np.ndarray | None
) -> np.ndarray:
    """The numbers of a column with a role, float64, shape (n,).

    Args:
        role: the role.
        array: the column, n values.
        name: the name of the column.
        source: the table.
        where: `where(row)` is the table and the place of a row in messages.
        kept: the rows that are in use, boolean (n,); None for all.

    Raises:
        InputError: if the value of a row that is in use is missing or not what the role allows, or the column holds
            no numbers.
    """
    kind = kind_of(array.type)
    values, unreadable = None, None
    if holds_text(array.type):
        values, unreadable = text_values(array, "number", None)
    if kind not in ("number", "missing") and unreadable is None:
        found = KIND_IN_WORDS.get(kind or "", f"values of type {array.type}")
        raise InputError(f"{source.name}: the {role.name} {name} holds {found}; it must hold numbers")
    if unreadable is not None and (unreadable if kept is None else unreadable & kept).any():
        raise InputError(_text_in_words(role, name, source))
    if values is None:
        values = np.array(numbers(array), dtype=np.float64)
    wrong = ~role.allows(values)
    if kept is not None:
        wrong &= kept
    if wrong.any():
        row = int(wrong.argmax())
        found = "has no value" if np.isnan(values[row]) else f"is {values[row]}"
        hint = "; --data.missing drop leaves such rows out" if np.isnan(values[row]) else ""
        raise InputError(f"{where(row)}: the {role.name} {name} {found}; it {role.rule}{hint}")
    return values


def _text_in_words(role: Role, name: str, source: Source) -> str:
    """The first text of a column that is no number; if there is none, the first that may be two. Takes a sweep.

    Beside the former the latter are doubtful only because the column holds text.
    """
    start, found = 0, None  # the row and the text that are told
    for batch in source.batches([name]):
        texts, places = coded(batch.column(0))
        _, unreadable = text_values(batch.column(0), "number", None)
        rows = np.flatnonzero(unreadable).tolist()
        doubtful = {place: doubt_in_words(str(texts[place]), "number") for place in set(places[rows].tolist())}
        no_number = [row for row in rows if doubtful[places[row]] is None]
        for row in no_number[:1] or ([] if found else rows[:1]):
            found = start + row, str(texts[places[row]])
        if no_number:
            break
        start += batch.num_rows
    assert found is not None  # noqa: S101
    row, text = found
    doubt = doubt_in_words(text, "number") or "which is no number; correct it"
    return f"{source.where(row)}: the {role.name} {name} holds {shown(text)}, {doubt}"


def rows_in_use(
    source: Source,
    columns: Sequence[str],
    target: int,
    missing: str,
    masks: list[np.ndarray],
    processes: Processes = ALONE,
) -> tuple[np.ndarray | None, list[tuple[int, str]]]:
    """The rows in use, boolean (N,), None for all; and messages about the others, as (logging level, one line).

    Args:
        source: the table.
        columns: the columns of the sweep.
        target: position of the target among them.
        missing: the rule for missing values.
        masks: the `usable_rows` of each batch; empty if the rule leaves out no row.
        processes: that have the rows; the masks are of this one's.

    Raises:
        InputError: if no row is left.
    """
    mask = np.concatenate(masks) if masks else np.ones(int(processes.count == 1), bool)
    n_rows, n_left_out = processes.sums(len(mask), len(mask) - int(np.count_nonzero(mask)))
    if not n_left_out:
        return None, []
    if n_left_out == n_rows:
        if sum(n for n, _ in missing_counts(source, [columns[target]])) == n_rows:
            raise InputError(f"{source.name}: the target {columns[target]} holds no value at all")
        costly = most_missing(source, deciding_columns(columns, target, missing))
        raise InputError(f"{source.name}: every row has a missing value; {costly}")
    one = n_left_out == 1
    what = "no target" if missing == "impute" else "a missing value" if one else "missing values"
    text = f"rows has {what} and is left out" if one else f"rows have {what} and are left out"
    return mask, [(WARNING, f"{source.name}: {n_left_out} of {n_rows} {text}")]


def most_missing(source: Source, columns: Sequence[str], most: int = 3) -> str:
    """The columns with the most missing values, and what to do about them, for messages. Takes a sweep."""
    counts = sorted(missing_counts(source, columns), key=lambda found: -found[0])
    *others, last = [words for _, words in counts[:most]]
    which = f"the columns with most of them are {', '.join(others)} and {last}" if others else f"all are in {last}"
    return f"{which}; leave such columns out with --data.features, or fill them in with --data.missing impute"


def missing_counts(source: Source, columns: Sequence[str]) -> list[tuple[int, str]]:
    """For each column with missing values, their number and a text with the name and the number. Takes a sweep."""
    counts, n_rows = dict.fromkeys(columns, 0), 0
    for batch in source.batches(columns):
        n_rows += batch.num_rows
        for name, array in zip(columns, batch.columns, strict=True):
            absent = missing_rows(array)
            counts[name] += 0 if absent is None else int(absent.sum())
    return [(n, f"{name} ({'all ' if n == n_rows else ''}{n})") for name, n in counts.items() if n]


def refuse_missing(source: Source, features: Sequence[str]) -> None:
    """Raise InputError if a feature has missing values; the message names each such column and its count."""
    counts = ", ".join(words for _, words in missing_counts(source, features))
    if counts:
        raise InputError(
            f"{source.name} has missing values in {counts}; fit with --data.missing drop to leave such rows "
            "out, or --data.missing impute to fill in the training mean or the most frequent level"
            + (f"; {doubt}" if (doubt := source.missing_in_words(features)) else "")
        )
