"""Arrays of numbers as rows of the design matrix, by a schema: torch alone, without Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError


def is_array(data: Any) -> bool:
    """Whether the columns of `data` have places but no names."""
    if isinstance(data, Tensor):
        return True
    if isinstance(data, np.ndarray):
        return data.dtype.names is None
    return isinstance(data, list | tuple) and not any(isinstance(row, Mapping) for row in data[:1])


def encode_array(schema: TableSchema, data: Any, name: str) -> Tensor | None:
    """Raw features of an array of numbers whose columns are the schema's, in its order.

    Returns:
        float64, shape (n, d), as `encode` has it, on the device of `data`; None where it takes
        more than numbers to code the columns.

    Raises:
        InputError: if the shape is wrong, or a value is infinite or, unless the fit says otherwise, missing.
    """
    if any(column.kind == "category" for column in schema.columns):
        return None
    if isinstance(data, Tensor):
        x = data.detach().double().clone(memory_format=torch.contiguous_format)
    else:
        try:
            array = np.asarray(data)
        except ValueError:
            raise InputError(f"{name}: its rows have different lengths") from None
        if array.dtype.kind not in "fiub":
            return None
        x = torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    names = [column.name for column in schema.columns]
    if x.ndim != 2 or x.shape[1] != len(names):
        raise InputError(
            f"{name} has the shape {tuple(x.shape)}; it must be (rows, {len(names)}), with the columns "
            + ", ".join(names[:12])
        )
    for j, column in enumerate(schema.columns):
        if column.fill is not None:
            x[:, j].nan_to_num_(float(column.fill), torch.inf, -torch.inf)
        if column.kind == "boolean" and bool(((x[:, j] != 0) & (x[:, j] != 1) & ~x[:, j].isnan()).any()):
            raise InputError(f"{name}: column {column.name} must hold 0 and 1")
    _refuse(name, "an infinite value", x.isinf(), names)
    missing = x.isnan()
    if schema.missing == "error":
        _refuse(name, "no value", missing, names)
    x[missing.any(1)] = torch.nan
    return x


def _refuse(name: str, what: str, wrong: Tensor, names: list[str]) -> None:
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise InputError(f"{name}, row {row + 1}: column {names[column]} holds {what}")
