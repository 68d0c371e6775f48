"""Dataclasses from plain values of untrusted origin, such as a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def misfit(value: Any, kind: Any, name: str = "it") -> str | None:
    """Why a plain value is not of a type, in words; None if it is.

    Args:
        value: made of str, int, float, bool, None, list and dict.
        kind: a dataclass, float (a finite number), int, str, bool, None, a Literal, `tuple[X, ...]` (a list), or a
            union of such.
        name: the name of the value in the words.
    """
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            return f"{name} is {_shown(value)}"
        hints = _hints(kind)
        found = (misfit(_of_field(value, field), hints[field.name], field.name) for field in fields(kind))
        return next((words for words in found if words), None)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return f"{name} is {_shown(value)}"
        items = _of_each_type(value) if _decided_by_type(arguments[0]) else value
        return next((words for item in items if (words := misfit(item, arguments[0], name))), None)
    if origin in (Union, UnionType):
        found = [misfit(value, option, name) for option in arguments]
        return None if None in found else found[0]
    if origin is Literal:
        fits = type(value) is str and value in arguments
    elif kind is float:
        fits = type(value) in (int, float) and -math.inf < value < math.inf
    else:
        fits = type(value) is (NoneType if kind is None else kind)
    return None if fits else f"{name} is {_shown(value)}"


def _decided_by_type(kind: Any) -> bool:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return all(option in (str, int, float, bool, NoneType) for option in options)


def _of_each_type(values: Sequence[Any]) -> list[Any]:
    """One value of each type, and every float: whether another one fits is known then."""
    return list({value if type(value) is float else type(value): value for value in values}.values())


def from_plain(value: Any, kind: Any) -> Any:
    """The dataclass from a value without a `misfit`; keys that are no fields are ignored."""
    if is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{field.name: from_plain(_of_field(value, field), hints[field.name]) for field in fields(kind)})  # type: ignore[operator]
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(from_plain(item, arguments[0]) for item in value)
    if get_origin(kind) in (Union, UnionType) and value is not None:
        return next(from_plain(value, option) for option in arguments if misfit(value, option) is None)
    return value


def _of_field(value: Mapping[str, Any], field: Field[Any]) -> Any:
    """The value of a field; its default where the key is missing, as in the files of earlier versions."""
    return value.get(field.name, None if field.default is MISSING else field.default)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | NoneType) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"
