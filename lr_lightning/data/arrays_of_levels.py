"""Many levels or names as tensors, for a checkpoint: a value each would make its reader slow. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_lightning.data.spelling import Level

MANY = 1000  # from here on they are tensors


def as_arrays(values: Sequence[Level]) -> dict[str, Tensor] | list[Level]:
    """Values of one type as tensors, or a list of them if they are few or of several types.

    Text is one UTF-8 text, `utf8` (bytes,), uint8, and where in it each value ends, `ends` (n,), int64. Numbers are
    `numbers` (n,), int64 or float64.
    """
    kinds = set(map(type, values)) if len(values) > MANY else set()
    whole = [value for value in values if isinstance(value, int) and -(2**63) <= value < 2**63]
    if kinds == {str}:
        texts = [str(value).encode() for value in values]
        ends = torch.tensor([len(text) for text in texts]).cumsum(0)
        return {"utf8": torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8), "ends": ends}
    if kinds == {float} or (kinds == {int} and len(whole) == len(values)):
        return {"numbers": torch.tensor(values, dtype=torch.float64 if kinds == {float} else torch.int64)}
    return list(values)


def from_arrays(arrays: Mapping[str, Any]) -> tuple[Level, ...] | None:
    """The values that `as_arrays` made tensors of; None if these are no such tensors."""
    tensors = {key: value for key, value in arrays.items() if isinstance(value, Tensor) and value.ndim == 1}
    if len(tensors) == len(arrays):
        if set(tensors) == {"numbers"} and tensors["numbers"].dtype in (torch.int64, torch.float64):
            return tuple(tensors["numbers"].tolist())
        if set(tensors) == {"utf8", "ends"} and tensors["utf8"].dtype == torch.uint8:
            return _texts(tensors["utf8"], tensors["ends"])
    return None


def _texts(utf8: Tensor, ends: Tensor) -> tuple[str, ...] | None:
    content, stops = utf8.numpy().tobytes(), ends.numpy()
    steps = np.diff(stops, prepend=0)
    if (
        stops.dtype != np.int64
        or min(stops.min(initial=0), steps.min(initial=0)) < 0
        or (stops[-1] if len(stops) else 0) != len(content)
    ):
        return None
    places = stops.tolist()
    try:
        return tuple(content[start:stop].decode() for start, stop in zip([0, *places], places, strict=False))
    except UnicodeDecodeError:
        return None
