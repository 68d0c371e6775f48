"""Which of a table's rows are in use, with what labels and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from logging import WARNING

import numpy as np
import pyarrow as pa
import torch

from lr_lightning.data.columns import KIND_IN_WORDS, is_single, kind_of, missing_rows, numbers
from lr_lightning.data.labels import label_codes
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.sources import Source
from lr_lightning.data.weights import scaled_weights
from lr_lightning.errors import InputError


@dataclass
class Survey:
    """What the sweep found.

    Attributes:
        schema: complete but for the values that fill missing ones.
        y: 0/1 targets of the rows in use, uint8, shape (n,).
        weight: their sample weights, divided by `weight_scale`, float64, shape (n,), or None.
        kept: which of the table's rows are in use, boolean, shape (N,); None for all.
        single: whether every feature is stored in single precision.
        notes: what was chosen on the way, as (logging level, one line).
        weight_scale: 1 unless the weights are very large or very small.
    """

    schema: TableSchema
    y: np.ndarray
    weight: np.ndarray | None
    kept: np.ndarray | None
    single: bool
    notes: list[tuple[int, str]]
    weight_scale: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        if self.weight is not None:
            weight, self.weight_scale = scaled_weights(torch.from_numpy(self.weight))
            self.weight = weight.numpy()


def review(source: Source, schema: TableSchema) -> Survey:
    """Find the labels, weights and rows of a table whose schema is known from an earlier fit.

    Raises:
        InputError: if a label is missing or unknown, or a weight is not a finite number of at least 0.
    """
    names = [column.name for column in schema.columns]
    columns = [*names, schema.target, *([schema.weight] if schema.weight else [])]
    codes, weights, kept, single = [], [], [], True
    start = 0
    for batch in source.batches(columns):

        def place(row: int, start: int = start) -> str:
            return source.place(start + row)

        single &= all(is_single(dtype) for dtype in batch.schema.types[: len(names)])
        codes.append(label_codes(schema, batch.column(len(names)), source.name, place).astype(np.uint8))
        if schema.weight:
            weights.append(checked_weights(batch.column(len(names) + 1), schema.weight, source.name, place))
        if schema.missing == "drop":
            kept.append(~np.logical_or.reduce([np.zeros(batch.num_rows, bool), *_absences(batch, len(names))]))
        start += batch.num_rows
    if not start:
        raise InputError(f"{source.name} has a header and no rows")
    mask, notes = rows_in_use(source, names, kept, start)
    y, weight = np.concatenate(codes), np.concatenate(weights) if weights else None
    if mask is not None:
        y, weight = y[mask], None if weight is None else weight[mask]
    return Survey(schema, y, weight, mask, single, notes)


def checked_weights(array: pa.Array, name: str, table: str, place: Callable[[int], str]) -> np.ndarray:
    """Sample weights as float64, shape (n,).

    Raises:
        InputError: if one is missing, infinite or negative; `place(row)` names its row.
    """
    kind = kind_of(array.type)
    if kind not in ("number", "missing"):
        found = KIND_IN_WORDS.get(kind or "", f"values of type {array.type}")
        raise InputError(f"{table}: the weight {name} holds {found}; it must hold numbers")
    values = np.array(numbers(array), dtype=np.float64)
    wrong = ~((values >= 0) & np.isfinite(values))
    if wrong.any():
        row = int(wrong.argmax())
        found = "has no value" if np.isnan(values[row]) else f"is {values[row]}"
        raise InputError(f"{table}, {place(row)}: the weight {name} {found}; it must be finite and not negative")
    return values


def _absences(batch: pa.RecordBatch, n_columns: int) -> list[np.ndarray]:
    found = (missing_rows(batch.column(j)) for j in range(n_columns))
    return [mask for mask in found if mask is not None]


def rows_in_use(
    source: Source, features: Sequence[str], kept: list[np.ndarray], n_rows: int
) -> tuple[np.ndarray | None, list[tuple[int, str]]]:
    """Which rows have no missing value, None for all; and what to say about the others."""
    mask = np.concatenate(kept) if kept else None
    n_dropped = 0 if mask is None else n_rows - int(mask.sum())
    if not n_dropped:
        return None, []
    if n_dropped == n_rows:
        counts = missing_counts(source, features)
        raise InputError(f"{source.name}: every row has a missing value, in {counts}")
    plural = "row has" if n_dropped == 1 else "rows have"
    return mask, [(WARNING, f"{source.name}: {n_dropped} of {n_rows} {plural} missing values and are left out")]


def missing_counts(source: Source, features: Sequence[str]) -> str:
    """Every column with missing values and how many it has, as a list for messages; takes a sweep."""
    counts, n_rows = dict.fromkeys(features, 0), 0
    for batch in source.batches(features):
        n_rows += batch.num_rows
        for name, array in zip(features, batch.columns, strict=True):
            absent = missing_rows(array)
            counts[name] += 0 if absent is None else int(absent.sum())
    return ", ".join(f"{name} ({'all ' if n == n_rows else ''}{n})" for name, n in counts.items() if n)


def refuse_missing(source: Source, features: Sequence[str]) -> None:
    """Raise InputError if a feature is missing somewhere; names each column and its count."""
    counts = missing_counts(source, features)
    if counts:
        raise InputError(
            f"{source.name} has missing values in {counts}; fit with --data.missing drop to leave such rows "
            "out, or --data.missing impute to fill in the training mean or the most frequent level"
        )
