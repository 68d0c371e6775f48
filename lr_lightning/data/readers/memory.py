"""Conversion of tables in memory, of several libraries, to Arrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lr_lightning.errors import InputError


def to_arrow(data: Any, name: str, names: Sequence[str] | None = None) -> pa.Table:
    """An Arrow table with the same columns, without a copy if the types allow it.

    Args:
        data: a pyarrow table, batch or reader; a pandas or polars frame; anything with the Arrow stream or
            the dataframe interchange protocol; a dict of columns; a structured array; a two-dimensional array
            or tensor.
        name: the name of the table in messages.
        names: the names of the columns of a two-dimensional array; by default x0, x1, …

    Raises:
        InputError: if `data` is none of these, a column mixes types, two have one name, or their lengths differ.
    """
    try:
        return _to_arrow(data, name, names)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name} cannot be taken as a table: {reason}") from None


def _to_arrow(data: Any, name: str, names: Sequence[str] | None) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, Mapping):
        return _from_columns({str(key): column for key, column in data.items()}, name)
    if type(data).__module__.partition(".")[0] == "pandas":
        return _from_pandas(data, name)
    if hasattr(data, "__arrow_c_stream__") or isinstance(data, pa.RecordBatchReader):
        return pa.table(data)
    if hasattr(data, "__arrow_c_array__"):
        return pa.Table.from_batches([pa.record_batch(data)])
    if hasattr(data, "__dataframe__"):
        from pyarrow import interchange

        return interchange.from_dataframe(data)
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        return pa.Table.from_pylist(data)
    array = np.asarray(data)
    if array.dtype.names:
        return _from_columns({field: array[field] for field in array.dtype.names}, name)
    if array.ndim != 2:
        raise InputError(
            f"{name} is {type(data).__name__} of {array.ndim} dimensions; a table has two, (rows, columns)"
        )
    columns = names or [f"x{position}" for position in range(array.shape[1])]
    if len(columns) != array.shape[1]:
        raise InputError(f"{name} has {array.shape[1]} columns; {len(columns)} are needed: {', '.join(columns[:10])}")
    return pa.table({column: _array(array[:, position]) for position, column in enumerate(columns)})


def _from_pandas(data: Any, name: str) -> pa.Table:
    if data.ndim != 2:
        data = data.to_frame()
    columns = [str(column) for column in data.columns]
    for column, count in Counter(columns).items():
        if count > 1:
            raise InputError(f"{name}: two columns are named {column}; rename one")
    return _from_columns(dict(zip(columns, (data.iloc[:, i] for i in range(len(columns))), strict=True)), name)


def _from_columns(columns: Mapping[str, Any], name: str) -> pa.Table:
    arrays = {}
    for column, values in columns.items():
        try:
            arrays[column] = _array(values)
        except (pa.ArrowException, TypeError, OverflowError) as error:  # noqa: PERF203 (the name is needed)
            reason = " ".join(str(error).split())[:150]
            raise InputError(f"{name}: column {column} mixes types or holds no plain values ({reason})") from None
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        raise InputError(f"{name}: its columns have different lengths, {sorted(lengths)}")
    return pa.table(arrays)


def _array(values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if type(getattr(values, "dtype", None)).__name__ == "SparseDtype":  # of pandas
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)
    # NaN in a column of objects is missing, as in pandas.
    return pa.array(values, from_pandas=True)
