"""The target: its two labels, which of them is positive, and its rows as 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lr_lightning.data.columns import coded
from lr_lightning.data.readers.base import kind_of, shown
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.spelling import find_label, values_of
from lr_lightning.errors import InputError

MOST_VALUES = 1000  # of a target; with more it is refused before the whole table is read


def target_values(array: pa.Array) -> tuple[list[Level | None], np.ndarray]:
    """The distinct values of a target, and for each row the position of its value among them, −1 if missing.

    Text is without outer blanks. Floating-point values stay floats, whole ones too.
    """
    values, places = coded(array)
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_floating(value_type):
        return [None if value is None else float(value) for value in values], places
    return values, places


class Labels(NamedTuple):
    """The two labels of a target, negative first.

    Attributes:
        labels: the labels as values.
        spelling: the labels as a text file writes them, if they are neither text nor plain integers; otherwise None.
        counts: the number of rows of each.
        of_value: the code, 0 or 1, of each distinct value in the table.
    """

    labels: tuple[Level, Level]
    spelling: tuple[str, str] | None
    counts: tuple[int, int]
    of_value: dict[Level, int]

    def in_words(self, target: str) -> str:
        """The positive and the negative label in words, for messages."""
        negative, positive = self.spelling or self.labels
        n = f"{self.counts[1]} of {sum(self.counts)} rows"
        return f"{target} = {positive} is the positive class ({n}), {negative} the negative one"


def choose_labels(counts: Mapping[Level, int], positive: Any, target: str, name: str, *, typed: bool) -> Labels:
    """The negative and the positive label of a target.

    Args:
        counts: the number of rows with each distinct value; in a text file, with each text.
        positive: the positive label, in any spelling; None for the later one in sorted order.
        target: the name of the column in messages.
        name: the name of the table in messages.
        typed: whether the table has column types, which tell text from numbers. In a text file 1 and 1.0 are two
            spellings of one label, of which the more frequent one is kept.

    Raises:
        InputError: if there are not two values, they look like proportions, or `positive` is none of them.
    """
    in_use = {value: count for value, count in counts.items() if count}
    meanings = {value: value for value in in_use} if typed else values_of(in_use)
    spelled: dict[Level, Level] = {}  # the most frequent spelling of each value
    for value, meaning in meanings.items():
        if meaning not in spelled or in_use[value] > in_use[spelled[meaning]]:
            spelled[meaning] = value
    values = sorted((meanings[value] for value in spelled.values()), key=lambda v: (isinstance(v, str), v))
    if len(values) != 2:
        found = ", ".join(shown(value) for value in values[:6]) + (", …" if len(values) > 6 else "")
        count = f"more than {MOST_VALUES}" if len(values) > MOST_VALUES else str(len(values))
        plural = "" if len(values) == 1 else "s"
        raise InputError(
            f"{name}: the target {target} must have two different values; it has {count} value{plural}"
            + (f": {found}" if found else "")
            + _hint_at_trials(values)
        )
    infinite = next((value for value in values if isinstance(value, float) and math.isinf(value)), None)
    if infinite is not None:
        raise InputError(f"{name}: the target {target} holds an infinite value; correct it")
    if positive is None and _is_proportion(values):
        raise InputError(
            f"{name}: the target {target} holds {shown(values[0])} and {shown(values[1])}"
            f"{_PROPORTIONS}; if they are labels, name the positive one by --data.positive"
        )
    place = 1 if positive is None else find_label([spelled[value] for value in values], positive)
    if place is None:
        raise InputError(
            f"{name}: --data.positive {positive} is no value of the target {target}, which holds "
            f"{shown(spelled[values[0]])} and {shown(spelled[values[1]])}"
        )
    if place == 0:
        values.reverse()
    texts = tuple(str(spelled[value]) for value in values)
    if any(isinstance(value, float) for value in values) and not typed:
        values = [float(value) for value in values]
    plain = typed or all(
        isinstance(value, str) or (type(value) is int and str(value) == text)
        for value, text in zip(values, texts, strict=True)
    )
    of_value = {value: int(meaning == values[1]) for value, meaning in meanings.items()}
    in_class = [sum(in_use[value] for value, code in of_value.items() if code == place) for place in (0, 1)]
    return Labels((values[0], values[1]), None if plain else (texts[0], texts[1]), (in_class[0], in_class[1]), of_value)


_PROPORTIONS = "; proportions are no target: give the numbers of successes, and those of trials by --data.trials"


def _is_proportion(values: Sequence[Level]) -> bool:
    """Whether all values are numbers from 0 to 1, and some lie between."""
    numbers = all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)
    return numbers and any(value not in (0, 1) for value in values)


def _hint_at_trials(values: Sequence[Level]) -> str:
    """Advice about a target of proportions or counts; empty for other values."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(numbers) < 3 or min(numbers) < 0:
        return ""
    if _is_proportion(numbers):
        return _PROPORTIONS
    whole = all(float(number).is_integer() for number in numbers)
    return "; if it counts successes, --data.trials names the column of the numbers of trials" if whole else ""


def label_codes(
    schema: TableSchema, array: pa.Array, name: str, where: Callable[[int], str], kept: np.ndarray | None = None
) -> np.ndarray:
    """A target column as codes 0 and 1, int64, shape (n,).

    Args:
        schema: the schema of the fit.
        array: the column, n values.
        name: the name of the table in messages.
        where: `where(row)` is the table and the place of a row in messages.
        kept: the rows that are in use, boolean (n,), None for all. The others get the code -1 if they hold no label.

    Raises:
        InputError: if a value in a row that is in use is missing or is neither of the two labels.
    """
    if kind_of(array.type) not in ("number", "boolean", "category", "missing"):
        raise InputError(f"{name}: the target {schema.target} holds values of type {array.type}")
    values, places = target_values(array)
    labels = schema.written_labels
    found = [None if value is None else find_label(labels, value) for value in values]
    codes = np.array([*(-1 if code is None else code for code in found), -1], dtype=np.int64)[places]
    wrong = codes < 0 if kept is None else (codes < 0) & kept
    if wrong.any():
        row = int(wrong.argmax())
        value = None if places[row] < 0 else values[places[row]]
        what = "has no value" if value is None else f"holds {shown(value)}"
        raise InputError(
            f"{where(row)}: the target {schema.target} {what}; the fit's labels are "
            f"{shown(schema.predicted_labels[0])} and {shown(schema.predicted_labels[1])}"
        )
    return codes
