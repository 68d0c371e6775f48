"""Bounds of the coefficients, from the names of columns to the features that they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError

OPTION = "option model.bounds"


def bounds_by_feature(bounds: Mapping[str, Sequence[float | None]], schema: TableSchema) -> Tensor:
    """Lower and upper bounds of the coefficients, (2, d), float64, from bounds by name; infinite where there is none.

    Raises:
        InputError: if a name is unknown, or its bounds are not two numbers or nulls, the first no larger.
    """
    pairs = {name: _pair(name, pair) for name, pair in bounds.items()}
    of_features = schema.per_feature(pairs, (-math.inf, math.inf), OPTION)
    return torch.tensor(of_features, dtype=torch.float64).reshape(-1, 2).T


def _pair(name: str, pair: Sequence[float | None]) -> tuple[float, float]:
    numbers = isinstance(pair, list | tuple) and all(
        end is None or (isinstance(end, int | float) and not isinstance(end, bool) and not math.isnan(end))
        for end in pair
    )
    if not numbers or len(pair) != 2:
        raise InputError(f"{OPTION}: {name} takes two numbers, or null for no bound, not {pair!r}")
    low, high = -math.inf if pair[0] is None else float(pair[0]), math.inf if pair[1] is None else float(pair[1])
    if low > high:
        raise InputError(f"{OPTION}: of {name} the lower bound {low:g} is above the upper one {high:g}")
    if low == math.inf or high == -math.inf:
        raise InputError(f"{OPTION}: no coefficient of {name} lies between {low:g} and {high:g}")
    return low, high
