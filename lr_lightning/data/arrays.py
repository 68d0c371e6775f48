"""Arrays of numbers as rows: encoded by a schema, or as training rows. Needs torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.data.roles import ROLES, SUCCESSES
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from lr_lightning.model.csr import Csr
from lr_lightning.model.rows import Counts, Rows, scaled_weights


def is_sparse(data: Any) -> bool:
    """Whether `data` is a sparse tensor of torch, or a sparse matrix or array of SciPy."""
    if isinstance(data, Tensor):
        return data.layout != torch.strided
    return type(data).__module__.startswith("scipy.sparse")


def is_array(data: Any) -> bool:
    """Whether `data` is a two-dimensional array or a list of rows, whose columns have no names."""
    if isinstance(data, Tensor):
        return True
    if isinstance(data, np.ndarray):
        return data.dtype.names is None
    return isinstance(data, list | tuple) and not any(isinstance(row, Mapping) for row in data[:1])


def encode_array(schema: TableSchema, data: Any, name: str) -> Tensor | None:
    """The raw features of an array of numbers whose columns are the schema's, in its order.

    Returns:
        float64, shape (n, d), as from `encode`, on the device of `data`; None if the schema has a category or the
        array holds anything but numbers.

    Raises:
        InputError: if the shape is wrong, a value is infinite, or a value is missing under `missing="error"`.
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


def encode_sparse(schema: TableSchema, data: Any) -> Csr:
    """The raw features of a sparse matrix whose columns are the schema's, in its order.

    Raises:
        InputError: if the schema has a category, the width is another, or a value is missing or infinite.
    """
    x, names = Csr.of(data), schema.feature_names
    if any(column.kind == "category" for column in schema.columns):
        raise InputError("a sparse matrix has no texts for the levels of a category; give a table")
    if x.shape[1] != len(names):
        raise InputError(f"the sparse matrix has {x.shape[1]} columns, but the fit had {len(names)} features")
    wrong = (~x.value.isfinite()).nonzero()
    if len(wrong):
        row, column = x.place(int(wrong[0]))
        raise InputError(f"the sparse matrix, row {row + 1}: column {names[column]} holds {float(x.value[wrong[0]])}")
    return x


def _refuse(name: str, what: str, wrong: Tensor, names: list[str]) -> None:
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise InputError(f"{name}, row {row + 1}: column {names[column]} holds {what}")


class RowsOfArrays(NamedTuple):
    """Rows, and what has been taken off their weights and their likelihood.

    Attributes:
        rows: the rows.
        weight_scale: the divisor of the weights.
        log_coefficient: weight times log C(trials, successes), (n,), float64, or None without trials.
    """

    rows: Rows
    weight_scale: float
    log_coefficient: Tensor | None


def rows_of_arrays(x: Any, y: Any, **roles: Any) -> RowsOfArrays:
    """Rows from features (n, d), targets (n,) or (n, 1) and values of some `ROLES`.

    Args:
        x: features.
        y: targets.
        roles: the values of each role, (n,), or None.

    Raises:
        InputError: if the shapes disagree, a target is not 0 or 1, or no count of successes where there are trials, or
            a value is not what its role allows.
    """
    if is_sparse(x):
        x = Csr.of(x)
    x, y = x if isinstance(x, Csr) else _tensor(x), _tensor(y)
    n = x.shape[0]
    if x.dtype not in (torch.float32, torch.float64):
        x = x.double()
    if len(x.shape) != 2:
        raise InputError(f"x must have two dimensions, (rows, features), not shape {tuple(x.shape)}")
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.shape != (n,):
        raise InputError(f"y must have shape ({n},) to match x, not {tuple(y.shape)}")
    if not n:
        raise InputError("x has no rows")
    given = {name: values_of_role(name, values, n) for name, values in roles.items() if values is not None}
    for name in ("weight", "trials"):
        if name in given and not bool((given[name] > 0).any()):
            raise InputError(f"at least one {name} must be positive")
    log_coefficient, scale = None, 1.0
    if "trials" in given:
        trials = given.pop("trials")
        if not bool((SUCCESSES.allows(y) & (y <= trials)).all()):
            raise InputError("y must count successes where there are trials: whole numbers from 0 to those of trials")
        y, given["weight"], log_coefficient = Counts.of(y, trials, given.get("weight"))
    elif not bool(((y == 0) | (y == 1)).all()):
        shares = bool(((y >= 0) & (y <= 1)).all())
        hint = "; proportions are no target: give the numbers of successes, and trials" if shares else ""
        raise InputError(f"y must hold nothing but 0 and 1{hint}")
    if "weight" in given:
        given["weight"], scale = scaled_weights(given["weight"])
    x = x if isinstance(x, Csr) else x.detach()
    return RowsOfArrays(Rows(x, y.detach().to(x.dtype), **given), scale, log_coefficient)


def values_of_role(name: str, values: Any, n: int) -> Tensor:
    """The values of a role, (n,), from a tensor or array, without gradient.

    Raises:
        InputError: if their shape is another, or one is not what the role allows.
    """
    values = _tensor(values, name)
    if values.shape != (n,):
        raise InputError(f"{name} must have shape ({n},) to match x, not {tuple(values.shape)}")
    if not bool(ROLES[name].allows(values).all()):
        raise InputError(f"every {name} {ROLES[name].rule}")
    return values.detach()


def codes_of_values(values: Any, n: int) -> Tensor:
    """Numbers, from 0, of the distinct values of groups, int32, (n,), on the CPU.

    Args:
        values: numbers or texts, (n,), a tensor, an array or a list.
        n: number of rows.

    Raises:
        InputError: if the shape is another, or a value is missing.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (n,):
        raise InputError(f"groups must have shape ({n},) to match x, not {array.shape}")
    if any(value is None or value != value for value in (array.tolist() if array.dtype.kind in "fOMm" else ())):
        raise InputError("every row must name a group; groups holds a missing value")
    if array.dtype == object:
        array = array.astype(str)
    return torch.from_numpy(np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int32))


def _tensor(values: Any, name: str = "weight") -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind in "USMm":
        raise InputError(f"x, y and {name} must hold numbers, not {array.dtype}; TableDataModule reads other columns")
    with warnings.catch_warnings():
        # The warning for read-only arrays, such as memory-mapped ones; the tensor is never written to.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
