"""Labels and truth values as text: the values that they mean, and the comparison of spellings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Level: TypeAlias = str | int | float | bool
_TRUTH = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_INTEGER = 4000  # digits; Python refuses to read more than 4300


def value_of(text: Any) -> Any:
    """The value of a text: a bool, an int, a float, or the text itself without outer blanks.

    A NumPy scalar becomes a Python scalar; any other value is returned unchanged.
    """
    value = text.item() if hasattr(text, "item") and not hasattr(text, "__len__") else text
    value = str(value) if isinstance(value, str) else value
    if not isinstance(value, str):
        return value
    value = value.strip()
    if value in _TRUTH:
        return _TRUTH[value]
    if _INTEGER.fullmatch(value) and len(value) < _LONGEST_INTEGER:
        return int(value)
    return float(value) if _NUMBER.fullmatch(value) else value


def values_of(texts: Iterable[Level]) -> dict[Level, Level]:
    """The value of each distinct text in one column of a text file: all are bool, all are numbers, or all are text."""
    meanings = {text: value_of(text) for text in texts}
    if any(isinstance(value, str) for value in meanings.values()):
        return {text: text.strip() if isinstance(text, str) else text for text in meanings}
    if any(isinstance(value, bool) for value in meanings.values()):
        if not all(value in (0, 1) for value in meanings.values()):
            return {text: text for text in meanings}
        return {text: bool(value) for text, value in meanings.items()}
    return meanings


def find_label(labels: Sequence[Any], spelled: Any) -> int | None:
    """The index, 0 or 1, of the label that `spelled` means; None for neither of the two.

    Labels are compared as values: 1, 1.0, "1", "01" and "1.0" are equal, and so are True, "true" and "TRUE". Other
    text is compared without outer blanks, and its case matters. If both labels have the same value, as the texts "1"
    and "01" do, they are compared as texts.
    """
    text = spelled.strip() if isinstance(spelled, str) else None
    for i, label in enumerate(labels):
        if text is not None and isinstance(label, str) and label.strip() == text:
            return i
    values, wanted = [value_of(label) for label in labels], value_of(spelled)
    if values[0] == values[1]:
        return None
    return next((i for i, value in enumerate(values) if value == wanted), None)


def weights_by_label(labels: Sequence[Any], weights: Mapping[Any, float]) -> tuple[dict[int, float], list[Any]]:
    """The weight of each label, by its index, and the keys that are neither of the labels.

    Raises:
        ValueError: if two keys mean the same label.
    """
    found: dict[int, float] = {}
    unknown = []
    for key, weight in weights.items():
        place = find_label(labels, key)
        if place is None:
            unknown.append(key)
        elif place in found:
            raise ValueError(f"class_weight names the label {labels[place]!r} twice")
        else:
            found[place] = weight
    return found, unknown


def is_usual(label: Level, spelling: str) -> bool:
    """Whether the spelling of a number or truth value is the usual one, that of Python."""
    return spelling == str(label) or (isinstance(label, float) and label.is_integer() and spelling == str(int(label)))
