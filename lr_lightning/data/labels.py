"""The two values of a target: which one is positive, and rows of the target as 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.columns import coded, kind_of
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.sources import shown
from lr_lightning.errors import InputError

MOST_VALUES = 1000  # of a target, before it is called continuous without reading on


def target_values(array: pa.Array) -> tuple[list[Level | None], np.ndarray]:
    """A target's distinct values as the table spells them, and each row's place among them; −1 if missing.

    Text loses surrounding blanks; a float stays a float.
    """
    values, places = coded(array)
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_floating(value_type):
        return [None if value is None else float(value) for value in values], places
    return values, places


def choose_labels(counts: Mapping[Level, int], positive: Any, target: str, name: str) -> tuple[Level, Level]:
    """The negative and the positive label of a target.

    Args:
        counts: how many rows hold each value.
        positive: the positive one, as a person spells it; None for the later one in sorted order.
        target: name of the column, for messages.
        name: of the table, for messages.

    Raises:
        InputError: if there are not two values, or `positive` is none of them.
    """
    values = sorted((value for value, count in counts.items() if count), key=lambda v: (isinstance(v, str), v))
    if len(values) != 2:
        found = ", ".join(shown(value) for value in values[:6]) + (", …" if len(values) > 6 else "")
        count = f"more than {MOST_VALUES}" if len(values) > MOST_VALUES else str(len(values))
        plural = "" if len(values) == 1 else "s"
        raise InputError(
            f"{name}: the target {target} must have two different values; it has {count} value{plural}"
            + (f": {found}" if found else "")
        )
    if positive is None:
        return values[0], values[1]
    matching = [value for value in values if _same(value, positive)]
    if not matching:
        raise InputError(
            f"{name}: --data.positive {positive} is no value of the target {target}, which holds "
            f"{shown(values[0])} and {shown(values[1])}"
        )
    negative = values[0] if matching[0] is values[1] else values[1]
    return negative, matching[0]


def _same(value: Level, spelled: Any) -> bool:
    """Whether a person who writes `spelled` means `value`."""
    text = str(spelled).strip()
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, str):
        return text == value
    try:
        return float(text) == value
    except ValueError:
        return False


def label_table(labels: tuple[Level, Level]) -> dict[Level, int]:
    """The code of each label."""
    return {labels[0]: 0, labels[1]: 1}


def decode_target(schema: TableSchema, values: Any, name: str) -> Tensor:
    """See `TableSchema.decode_target`."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return torch.from_numpy(label_codes(schema, array, name, lambda row: f"row {row + 1}")).double()


def label_codes(
    schema: TableSchema, array: pa.Array, name: str, place: Any, kept: np.ndarray | None = None
) -> np.ndarray:
    """A target column as codes 0 and 1, int64, shape (n,), and -1 for what else stands in rows that are not `kept`.

    `place(row)` names a row for messages.
    """
    if kind_of(array.type) not in ("number", "boolean", "category", "missing"):
        raise InputError(f"{name}: the target {schema.target} holds values of type {array.type}")
    values, places = target_values(array)
    table = label_table(schema.labels)
    codes = np.array([table.get(v, -1) if v is not None else -1 for v in values] + [-1], dtype=np.int64)[places]
    wrong = codes < 0 if kept is None else (codes < 0) & kept
    if wrong.any():
        row = int(wrong.argmax())
        value = None if places[row] < 0 else values[places[row]]
        what = "has no value" if value is None else f"holds {shown(value)}"
        raise InputError(
            f"{name}, {place(row)}: the target {schema.target} {what}; the fit's labels are "
            f"{shown(schema.labels[0])} and {shown(schema.labels[1])}"
        )
    return codes
