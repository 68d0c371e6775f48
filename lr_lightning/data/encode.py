"""A table's columns as rows of the design matrix, by the schema that a fit has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lr_lightning.data.arrays import encode_array, is_array
from lr_lightning.data.schema import TableSchema

if TYPE_CHECKING:
    import pyarrow as pa


class EncodedRows(NamedTuple):
    """A block of rows on their way to a prediction.

    Attributes:
        x: raw features, float64, shape (n, d); NaN all along a row that gets no prediction.
        ids: the values of the identifying column, if one was asked for.
    """

    x: Tensor
    ids: pa.Array | None


def encode(schema: TableSchema, data: Any, *, name: str | None = None) -> Tensor:
    """Raw features of a table: imputed and treatment-coded, not standardised.

    Args:
        schema: of the fit.
        data: a path, a table that pyarrow understands, or a two-dimensional array or tensor whose columns
            are the schema's, in its order. Other columns are ignored, the order of named ones is free.
        name: how messages call it.

    Returns:
        float64, shape (n, d); NaN all along a row with a missing value where the fit said `drop`.

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
    if is_array(data):
        x = encode_array(schema, data, name or "the array")
        if x is not None:
            return x
    from lr_lightning.data.encoder import encode_table  # brings pyarrow

    return encode_table(schema, data, name)


def encode_blocks(
    schema: TableSchema, data: Any, *, name: str | None = None, identifier: str | None = None
) -> Iterator[EncodedRows]:
    """The same as `encode`, block by block in constant memory, with the column `identifier` beside it."""
    from lr_lightning.data.encoder import encode_table_in_blocks

    for x, ids in encode_table_in_blocks(schema, data, name, identifier):
        yield EncodedRows(x, ids)
