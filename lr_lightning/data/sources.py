"""What every table has in common, wherever it comes from: names, and rows in blocks, more than once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lr_lightning.errors import InputError

BATCH_ROWS = 1 << 17


class TypesChanged(Exception):  # noqa: N818 (not an error: a request)
    """A streamed file turned out to hold other types than its beginning suggested: sweep it again."""


class Source(ABC):
    """A table that can be swept more than once.

    Attributes:
        name: how messages call it.
        names: its columns; an empty name is a column without one.
    """

    name: str
    names: list[str]
    typed: bool = True
    """Whether the table says by types what is text and what is a number; a text file does not."""

    texts: frozenset[str] = frozenset()
    """Columns of text that come as dictionaries; any other dictionary is a category that somebody declared."""

    @property
    def decimal_marks(self) -> Mapping[str, str] | None:
        """How numbers are written in a text file; None where a table has types.

        Empty but where decimal commas are seen: then the decimal mark of each column whose numbers the parser reads.
        It leaves other numbers with a mark as text.
        """
        return None

    def expect(self, types: Mapping[str, pa.DataType]) -> None:  # noqa: B027 (most formats know them)
        """Say which types columns have, where the format itself does not. Other names are ignored."""

    def guess(self, types: Mapping[str, pa.DataType]) -> None:  # noqa: B027
        """Say which types columns have at first sight; what does not fit is text."""

    @abstractmethod
    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """About how many bytes the columns would take as Arrow arrays, beyond what is in memory already."""

    @abstractmethod
    def identity(self) -> list[Any] | None:
        """Plain values that change when the data do; None where nobody can tell."""

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, in blocks that hold exactly these columns in this order.

        Raises:
            InputError: if the table is damaged.
            TypesChanged: if the sweep has to begin anew.
        """

    def load(self, columns: Sequence[str]) -> Source:
        """The same rows, with these columns in memory."""
        return MemorySource([pa.Table.from_batches([batch]) for batch in self.batches(columns)], columns, self)

    def place(self, row: int) -> str:
        """Where row number `row` (from 0) is, for messages."""
        return f"row {row + 1}"

    def place_of(self, column: str, value: str) -> str | None:
        """Where `column` first holds the text `value`, without the blanks around it; None where it does not."""
        start = 0
        for batch in self.batches([column]):
            values = ["" if value is None else str(value).strip() for value in batch.column(0).to_pylist()]
            if value in values:
                return self.place(start + values.index(value))
            start += len(values)
        return None

    @property
    def unnamed(self) -> list[int]:
        """The places (from 1) of columns without a name."""
        return [position for position, name in enumerate(self.names, 1) if not name]

    def refuse_duplicates(self) -> None:
        """Raise InputError if two columns share a name."""
        seen: dict[str, int] = {}
        for position, name in enumerate(self.names, 1):
            if name and name in seen:
                raise InputError(f"{self.name}: columns {seen[name]} and {position} are both named {name}; rename one")
            seen[name] = position


class MemorySource(Source):
    """Rows in memory.

    Args:
        tables: the rows, in order. Each holds at least `columns`; text becomes a dictionary once and for all.
        columns: names of the columns.
        origin: where the rows were read from, or the name of a table that a caller passed.
        texts: columns of text that are dictionaries already.
    """

    def __init__(
        self,
        tables: Sequence[pa.Table],
        columns: Sequence[str],
        origin: Source | str,
        texts: frozenset[str] = frozenset(),
    ):
        self.names = list(columns)
        self._origin = origin if isinstance(origin, Source) else None
        self.name = origin if isinstance(origin, str) else origin.name
        self.typed = True if isinstance(origin, str) else origin.typed
        self.refuse_duplicates()
        self.texts = texts.union(field.name for table in tables for field in table.schema if is_text(field.type))
        self._tables = [_with_dictionaries(table) for table in tables]

    @property
    def unnamed(self) -> list[int]:
        """As in the file, if the table came from one."""
        return super().unnamed if self._origin is None else self._origin.unnamed

    @property
    def decimal_marks(self) -> Mapping[str, str] | None:
        """As in the file, if the table came from one."""
        return super().decimal_marks if self._origin is None else self._origin.decimal_marks

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """Nothing: the table is there already."""
        return 0

    def identity(self) -> None:
        """Nobody can tell whether a table in memory has changed."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Slices of the tables, without a copy."""
        for table in self._tables:
            yield from table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)

    def load(self, columns: Sequence[str]) -> Source:
        """Itself."""
        return self

    def place(self, row: int) -> str:
        """Where the row was in the file, if the table came from one."""
        return super().place(row) if self._origin is None else self._origin.place(row)

    def place_of(self, column: str, value: str) -> str | None:
        """Where the text was in the file, if the table came from one."""
        return super().place_of(column, value) if self._origin is None else self._origin.place_of(column, value)


def _with_dictionaries(table: pa.Table) -> pa.Table:
    for position, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.large_string()))
        if is_text(field.type):
            table = table.set_column(position, field.name, table.column(position).dictionary_encode())
    return table


def is_text(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is that of text, as such and not as a category."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def shown(value: Any) -> str:
    """A value as messages show it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"
