"""Encoding: raw columns as rows of the design matrix, according to the schema of a fit.

`arrays` encodes arrays of numbers, with torch alone. `encoder` encodes tables, and needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from lr_lightning.data.arrays import encode_array, is_array
from lr_lightning.data.features import EncodedRows
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError


def encode(schema: TableSchema, data: Any, *, name: str | None = None) -> Tensor:
    """The raw features of a table: imputed and treatment-coded, not standardised.

    Args:
        schema: the schema of the fit.
        data: a path, a table that pyarrow understands, or a two-dimensional array or tensor whose columns
            are the schema's, in its order. Named columns may come in any order, and others are ignored.
        name: the name of the data in messages; by default the path.

    Returns:
        float64, shape (n, d). Under `missing="drop"` a row with a missing value is NaN in every feature.

    Raises:
        InputError: if a column is missing or of another type, a level was never seen (unless
            `unseen="reference"`), a value is infinite, or missing where the fit said `error`.

    Example:
        >>> from lr_lightning import TableSchema
        >>> from lr_lightning.data.encode import encode
        >>> from lr_lightning.data.schema import Column
        >>> columns = (Column("age"), Column("city", "category", ("Lima", "Oslo", "Rome")))
        >>> schema = TableSchema(columns, target="bought", labels=("no", "yes"))
        >>> encode(schema, {"city": ["Rome", "Lima"], "age": [52, 31]})
        tensor([[52.,  0.,  1.],
                [31.,  0.,  0.]], dtype=torch.float64)
    """
    return encode_rows(replace(schema, offset=None), data, name=name).dense()


def encode_rows(schema: TableSchema, data: Any, *, name: str | None = None) -> EncodedRows:
    """The encoded rows of a table and, if the schema has an offset, their offsets.

    Raises:
        InputError: as `encode`, or if the offset's column is missing, or holds what is no finite number.
    """
    if is_array(data):
        x = encode_array(schema, data, name or "the array")
        if x is not None:
            return EncodedRows(x)
    # These import pyarrow, which arrays of numbers do not need.
    from lr_lightning.data.encoder import encode_table
    from lr_lightning.data.readers.open import open_svmlight
    from lr_lightning.data.svmlight import encode_svmlight

    if (sparse := open_svmlight(data, name)) is not None:
        return encode_svmlight(schema, sparse)
    return encode_table(schema, data, name)


def encode_blocks(
    schema: TableSchema, data: Any, *, name: str | None = None, identifier: str | None = None
) -> Iterator[EncodedRows]:
    """The rows that `encode_rows` gives, in blocks and constant memory, with the values of the column `identifier`."""
    from lr_lightning.data.encoder import encode_table_in_blocks
    from lr_lightning.data.readers.open import open_svmlight
    from lr_lightning.data.svmlight import encode_svmlight_in_blocks

    if (sparse := open_svmlight(data, name)) is None:
        yield from encode_table_in_blocks(schema, data, name, identifier)
    elif identifier is None:
        yield from encode_svmlight_in_blocks(schema, sparse)
    else:
        raise InputError(f"{sparse.name} is an svmlight file and has no column {identifier} to repeat")
