"""Conversion of one Arrow column: numbers, codes of levels, and the rows with a missing value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from lr_lightning.data.notation import read
from lr_lightning.data.readers.base import Source, kind_of
from lr_lightning.data.schema import Level
from lr_lightning.data.spelling import value_of
from lr_lightning.errors import InputError

MISSING, UNSEEN = -1, -2  # codes of a category

_UNITS_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def is_single(dtype: pa.DataType) -> bool:
    """Whether the type is a floating-point type of single precision or less."""
    return pa.types.is_float32(dtype) or pa.types.is_float16(dtype)


def plain(array: pa.Array) -> pa.Array:
    """The same values without run-end encoding and string views."""
    if pa.types.is_run_end_encoded(array.type):
        array = compute.call_function("run_end_decode", [array])
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    return array


def numbers(array: pa.Array) -> np.ndarray:
    """Numbers, booleans, dates (days since 1970-01-01) and times (days) as an array, NaN for a missing value.

    Returns:
        Shape (n,); float64, or the column's own type if it needs no conversion.
    """
    array = plain(array)
    dtype = array.type
    types = pa.types
    if types.is_dictionary(dtype):
        array, dtype = array.dictionary_decode(), dtype.value_type
    if types.is_null(dtype):
        return np.full(len(array), np.nan)
    if types.is_boolean(dtype) or types.is_decimal(dtype):
        array = array.cast(pa.float64())
    elif types.is_date32(dtype):
        array = array.cast(pa.int32())
    elif types.is_date64(dtype):
        return array.cast(pa.int64()).to_numpy(zero_copy_only=False) / _UNITS_PER_DAY["ms"]
    elif types.is_timestamp(dtype) or types.is_duration(dtype) or types.is_time(dtype):
        integer = pa.int32() if types.is_time32(dtype) else pa.int64()
        return array.cast(integer).to_numpy(zero_copy_only=False) / _UNITS_PER_DAY[dtype.unit]
    return array.to_numpy(zero_copy_only=False)


def level_of(value: Any) -> Level | None:
    """A value of a category as a level: text without outer blanks, a whole number as int; None if missing."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.strip() or None
    number = float(value)
    if number != number:
        return None
    return int(number) if number.is_integer() else number


def coded(array: pa.Array) -> tuple[list[Level | None], np.ndarray]:
    """The dictionary of a category, and for each row the position of its value in it.

    Returns:
        The values of the dictionary, None for a missing one, of which some may not occur; and positions, int64,
        shape (n,), -1 for a missing value.
    """
    values, places = _dictionary_of(array)
    if set(map(type, values)) == {str}:
        return [value.strip() or None for value in values], places
    return [level_of(value) for value in values], places


def _dictionary_of(array: pa.Array) -> tuple[list[Any], np.ndarray]:
    """The values of a dictionary, and for each row the position of its value, int64, (n,), -1 for a missing value."""
    array = plain(array)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    elif len(array.dictionary) > len(array):  # a slice of a long column
        array = array.dictionary_decode().dictionary_encode()
    places = array.indices.cast(pa.int64()).fill_null(MISSING).to_numpy(zero_copy_only=False)
    return array.dictionary.to_pylist(), places


class Numbering:
    """Numbers the distinct values of a column of any type, batch by batch.

    Attributes:
        numbers: the number of each value, in the order of their first appearance; text is without outer blanks.
    """

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def add(self, array: pa.Array) -> np.ndarray:
        """The numbers of the values of a batch, int32, (r,), -1 for a missing one."""
        values, places = _dictionary_of(array)
        table = np.full(len(values) + 1, MISSING, dtype=np.int32)  # position −1, of a missing value, is the last
        found, first = np.unique(places, return_index=True)
        for place in found[np.argsort(first)].tolist():
            if place < 0:
                continue
            value = values[place].strip() if isinstance(values[place], str) else values[place]
            if value != "" and value == value:  # NaN is missing, too
                table[place] = self.numbers.setdefault(value, len(self.numbers))
        return table[places]


def holds_text(dtype: pa.DataType) -> bool:
    """Whether the values are text, plain or as a dictionary."""
    return kind_of(dtype.value_type if pa.types.is_dictionary(dtype) else dtype) == "category"


def text_values(
    array: pa.Array, kind: str, notation: str | None, *, binary: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column of text that holds numbers, dates or times.

    Args:
        array: n texts.
        kind: the kind of the column, "number", "date" or "time".
        notation: the notation in the fit, see `notation.read`.
        binary: whether true and false are read as 1 and 0.

    Returns:
        The values, float64 (n,), NaN if missing or unreadable; and boolean (n,), which texts are unreadable: they
        have no value in the notation, or more than one.
    """
    texts, places = coded(array)
    values = [None if text is None else read(str(text), kind, notation) for text in texts]
    if binary:
        truths = [value if isinstance(value, bool) else None for value in map(value_of, texts)]
        values = [value if truth is None else float(truth) for value, truth in zip(values, truths, strict=True)]
    table = np.array([*(math.nan if value is None else value for value in values), math.nan])
    pairs = zip(texts, values, strict=True)
    unreadable = np.array([*(text is not None and value is None for text, value in pairs), False])
    return table[places], unreadable[places]


def category_codes(array: pa.Array, levels: Mapping[Level, int]) -> np.ndarray:
    """For each row the code of its level, MISSING or UNSEEN: int32, shape (n,)."""
    values, places = coded(array)
    table = [MISSING if value is None else levels.get(value, UNSEEN) for value in values]
    return np.array([*table, MISSING], dtype=np.int32)[places]  # position −1, of a missing value, is the last entry


def refuse_infinite_level(
    values: Sequence[Level | None], places: np.ndarray, name: str, source: Source, start: int
) -> None:
    """Raise InputError if a category, as `coded` returns it, holds an infinite number; `start` is its first row."""
    infinite = [i for i, value in enumerate(values) if isinstance(value, float) and math.isinf(value)]
    found = np.isin(places, infinite) if infinite else np.zeros(0, dtype=bool)
    if found.any():
        where = source.where(start + int(found.argmax()))
        raise InputError(f"{where}: column {name} holds an infinite value, which is no level; correct it")


def missing_rows(array: pa.Array) -> np.ndarray | None:
    """The rows whose value is null, NaN or blank text, boolean (n,); None if there is none."""
    array = plain(array)
    kind = kind_of(array.type)
    if kind == "category":
        values, places = coded(array)
        table = np.array([value is None for value in values] + [True])
        mask = table[places] if table[:-1].any() or array.null_count else None
    else:
        mask = None
        if array.null_count or pa.types.is_null(array.type):
            mask = array.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_floating(array.type):
            values = array.to_numpy(zero_copy_only=False)
            # A sum is finite only if every value is, and costs less than a test of each value.
            with np.errstate(all="ignore"):
                all_finite = np.isfinite(values.sum(dtype=np.float64))
            if not all_finite:
                mask = np.isnan(values)
    return mask if mask is not None and mask.any() else None


def holds_only_0_and_1(array: pa.Array) -> bool:
    """Whether all values of a column of numbers are 0, 1 or missing."""
    for part in (array.slice(0, 100), array):  # the first rows settle it for most columns
        values = numbers(part)
        if not ((values == 0) | (values == 1) | np.isnan(values)).all():
            return False
    return True
