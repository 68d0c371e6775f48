"""Bounds of the coefficients, from the names of columns to the features that they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError


def bounds_by_feature(bounds: Mapping[str, Sequence[float | None]], schema: TableSchema) -> Tensor:
    """Lower and upper bounds of the coefficients, (2, d), float64, from bounds by name; infinite where there is none.

    A name is that of a feature, or of a categorical column, which means all of its levels. The bounds of a level that
    is named itself go before those of its column.

    Raises:
        InputError: if a name is unknown, or its bounds are not two numbers or nulls, the first no larger.
    """
    features = schema.feature_names
    of_columns = {column.name: column.feature_names for column in schema.columns}
    found = torch.tensor([[-torch.inf], [torch.inf]], dtype=torch.float64).repeat(1, len(features))
    for name, pair in sorted(bounds.items(), key=lambda item: item[0] in features):
        if name not in features and not of_columns.get(name):
            if name == "(Intercept)":
                raise InputError("option model.bounds: the intercept has no bounds; name features")
            close = get_close_matches(name, [*features, *of_columns], n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(features[:10])}"
            raise InputError(f"option model.bounds: there is no feature {name}{hint}")
        low, high = _pair(name, pair)
        for feature in [name] if name in features else of_columns[name]:
            j = features.index(feature)
            found[:, j] = torch.tensor([low, high])
    return found


def _pair(name: str, pair: Sequence[float | None]) -> tuple[float, float]:
    numbers = isinstance(pair, list | tuple) and all(
        end is None or (isinstance(end, int | float) and not isinstance(end, bool) and not math.isnan(end))
        for end in pair
    )
    if not numbers or len(pair) != 2:
        raise InputError(f"option model.bounds: {name} takes two numbers, or null for no bound, not {pair!r}")
    low, high = -math.inf if pair[0] is None else float(pair[0]), math.inf if pair[1] is None else float(pair[1])
    if low > high:
        raise InputError(f"option model.bounds: of {name} the lower bound {low:g} is above the upper one {high:g}")
    if low == math.inf or high == -math.inf:
        raise InputError(f"option model.bounds: no coefficient of {name} lies between {low:g} and {high:g}")
    return low, high
