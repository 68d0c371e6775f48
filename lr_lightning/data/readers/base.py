"""The interface of a table of any format, `Source`, and the table in memory, `MemorySource`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import compute

from lr_lightning.errors import InputError

if TYPE_CHECKING:
    from lr_lightning.model.processes import Processes

LARGE = 1 << 30  # bytes of columns, whose memory the system gets back at once; a smaller table's is used again
BATCH_ROWS = 1 << 17
STREAM_BATCH_ROWS = 1 << 16
LOADED_BATCH_ROWS = 250_000
"""Rows that are to stay in memory are decoded by so many. A column in single precision then takes a little less than
1 MiB, to whose multiples Arrow's allocator rounds: an eighth less memory than by 2¹⁸ rows, a third less than by 2¹⁶."""


KIND_IN_WORDS = {
    "number": "numbers",
    "boolean": "true/false values",
    "category": "text",
    "date": "dates",
    "time": "times or durations",
    "missing": "nothing but missing values",
}


def kind_of(dtype: pa.DataType) -> str | None:
    """The kind of a column of an Arrow type: number, boolean, category, date, time, missing or None.

    `missing` is the kind of a column that has no value so far; None is that of a type that cannot be used (nested,
    binary, intervals).
    """
    types = pa.types
    if types.is_dictionary(dtype):
        inner = kind_of(dtype.value_type)
        return "category" if inner in ("number", "category") else inner  # booleans have no levels
    if types.is_run_end_encoded(dtype):
        return kind_of(dtype.value_type)
    if types.is_boolean(dtype):
        return "boolean"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "number"
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return "category"
    if types.is_date(dtype) or types.is_timestamp(dtype):
        return "date"
    if types.is_time(dtype) or types.is_duration(dtype):
        return "time"
    return "missing" if types.is_null(dtype) else None


class TypesChanged(Exception):  # noqa: N818 (not an error: a request)
    """A streamed file holds other types than its first block suggested; the caller has to sweep it again."""


class MissingTexts:
    """The texts that count as missing in a table's columns of text.

    Args:
        na: the texts, given by the user; None for the defaults of the table's format.
        known: the columns in which they count as missing, and for each column its levels or labels in the fit, which
            do not.

    Attributes:
        found: the texts that have been found so far, by column, without blank ones.
    """

    def __init__(self, na: Sequence[str] | None, known: Mapping[str, Collection[str]]):
        self.na = None if na is None else frozenset(text.strip() for text in na)
        self._known = known
        self.found: dict[str, set[str]] = {}

    def merge(self, processes: Processes) -> None:
        """Take in those that other processes have found in their parts of the table."""
        for found in processes.objects(self.found):
            for name, texts in found.items():
                self.found.setdefault(name, set()).update(texts)

    def without(self, table: pa.Table, usual: Collection[str]) -> pa.Table:
        """The table with nulls in place of these texts; `usual` are the defaults of its format."""
        for position, field in enumerate(table.schema):
            if field.name in self._known and is_text(_value_type(field.type)):
                texts = set(usual if self.na is None else self.na) - set(self._known[field.name])
                texts = pa.array(sorted(texts), pa.large_string())
                chunks = [self._nulled(field.name, chunk, texts) for chunk in table.column(position).chunks]
                if any(chunk is not None for chunk in chunks):
                    old = table.column(position).chunks
                    new = [a if b is None else b for a, b in zip(old, chunks, strict=True)]
                    table = table.set_column(position, field.name, pa.chunked_array(new, field.type))
        return table

    def _nulled(self, name: str, array: pa.Array, texts: pa.Array) -> pa.Array | None:
        """The array with nulls in place of `texts`; None if it holds none of them."""
        if pa.types.is_dictionary(array.type):
            values = self._nulled(name, array.dictionary, texts)
            return None if values is None else pa.DictionaryArray.from_arrays(array.indices, values)
        trimmed = compute.call_function("utf8_trim_whitespace", [array.cast(pa.large_string())])
        missing = compute.call_function("is_in", [trimmed], compute.SetLookupOptions(texts))
        if not compute.call_function("any", [missing]).as_py():
            return None
        found = set(trimmed.filter(missing).unique().to_pylist()) - {""}
        if found:
            self.found.setdefault(name, set()).update(found)
        return compute.call_function("if_else", [missing, pa.scalar(None, array.type), array])


class Source(ABC):
    """A table whose rows can be read more than once.

    Attributes:
        name: the name of the table in messages.
        names: the names of its columns, empty for a column without a name.
    """

    name: str
    names: list[str]
    missing: MissingTexts | None = None
    usual: Collection[str] = ()
    """The texts that count as missing in a table of this format by default."""
    typed: bool = True
    """Whether the table has column types, which tell text from numbers; a text file has none."""

    texts: frozenset[str] = frozenset()
    """The columns of plain text that are dictionaries in `batches`; any other dictionary is a declared category."""

    @property
    def decimal_marks(self) -> Mapping[str, str] | None:
        """The decimal marks of the columns of a text file, by name; None if the table has types.

        It is empty unless decimal commas have been found. Then it holds the columns whose numbers the parser reads,
        and the parser leaves other numbers with a mark as text.
        """
        return None

    def expect(self, types: Mapping[str, pa.DataType]) -> None:  # noqa: B027 (most formats know them)
        """Set the types of columns of a table without types. Unknown names are ignored."""

    def guess(self, types: Mapping[str, pa.DataType]) -> None:  # noqa: B027
        """Set the types to try first for columns of a table without types; a column that does not fit becomes text."""

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Set the texts that count as missing, before the rows are read."""
        self.missing = missing

    def _cleaned(self, table: pa.Table) -> pa.Table:
        """The table without the texts that count as missing."""
        return table if self.missing is None else self.missing.without(table, self.usual)

    def _cleaned_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.missing is None or not batch.num_rows:
            return batch
        return self._cleaned(pa.Table.from_batches([batch])).to_batches()[0]

    def missing_in_words(self, columns: Iterable[str] | None = None) -> str:
        """The texts that have counted as missing by default, for messages; empty if there were none."""
        found = {} if self.missing is None or self.missing.na is not None else self.missing.found
        texts = sorted({text for name in found if columns is None or name in columns for text in found[name]})
        if not texts:
            return ""
        verb = "counts" if len(texts) == 1 else "count"
        return (
            f"{', '.join(map(shown, texts))} {verb} as missing; --data.na says which texts do, as in --data.na '[\"\"]'"
        )

    @abstractmethod
    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The approximate number of bytes of the columns as Arrow arrays, without those in memory already."""

    @abstractmethod
    def identity(self) -> list[Any] | None:
        """Plain values that change if the data change; None if a change cannot be detected."""

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches of exactly these columns in this order.

        Raises:
            InputError: if the table is damaged.
            TypesChanged: if the caller has to start again.
        """

    def load(self, columns: Sequence[str]) -> MemorySource:
        """A source of the same rows with these columns, in memory."""
        return MemorySource((pa.Table.from_batches([batch]) for batch in self.batches(columns)), columns, self)

    def n_rows(self) -> int | None:
        """The number of rows, where the table tells it without being read and can be read in parts; else None."""
        return None

    def rows(self, columns: Sequence[str], start: int, stop: int, *, to_keep: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to `stop` of a table that tells `n_rows`.

        Rows `to_keep`, all of them at once, are decoded in large pieces, see `LOADED_BATCH_ROWS`.

        Raises:
            InputError: if the table is damaged.
        """
        raise NotImplementedError

    def place(self, row: int) -> str:
        """The place of row number `row` (from 0), for messages."""
        return f"row {row + 1}"

    def where(self, row: int) -> str:
        """The table and the place of row number `row` (from 0), for messages."""
        return f"{self.name}, {self.place(row)}"

    def place_of(self, column: str, value: str) -> str | None:
        """The place where `column` first holds the text `value`, without outer blanks; None if it does not."""
        start = 0
        for batch in self.batches([column]):
            values = ["" if value is None else str(value).strip() for value in batch.column(0).to_pylist()]
            if value in values:
                return self.place(start + values.index(value))
            start += len(values)
        return None

    @property
    def unnamed(self) -> list[int]:
        """The positions (from 1) of columns without a name."""
        return [position for position, name in enumerate(self.names, 1) if not name]

    def refuse_duplicates(self) -> None:
        """Raise InputError if two columns share a name."""
        seen: dict[str, int] = {}
        for position, name in enumerate(self.names, 1):
            if name and name in seen:
                raise InputError(f"{self.name}: columns {seen[name]} and {position} are both named {name}; rename one")
            seen[name] = position


def cut(batches: Iterable[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """The rows from `start` to `stop` of batches; it takes no batch beyond."""
    first = 0
    for batch in batches:
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        first += batch.num_rows
        if first >= stop:
            return


class PartOfSource(Source):
    """Consecutive rows of a table that can be read in parts.

    Args:
        origin: the table.
        start: number of the first row.
        stop: number of the row behind the last.
    """

    def __init__(self, origin: Source, start: int, stop: int):
        self._origin, self._start, self._stop = origin, start, stop
        self.name, self.names, self.typed = origin.name, origin.names, origin.typed
        self.missing = origin.missing

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Set the texts that count as missing for the table, which is what is read."""
        super().count_as_missing(missing)
        self._origin.count_as_missing(missing)

    @property
    def unnamed(self) -> list[int]:
        """The table's unnamed columns."""
        return self._origin.unnamed

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The part of the table's decoded bytes that these rows take."""
        return self._origin.decoded_bytes(columns) * (self._stop - self._start) // max(1, self._origin.n_rows() or 1)

    def identity(self) -> list[Any] | None:
        """The table's identity, and the range of rows."""
        whole = self._origin.identity()
        return None if whole is None else [whole, self._start, self._stop]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of these rows."""
        yield from self._origin.rows(columns, self._start, self._stop)

    def load(self, columns: Sequence[str]) -> MemorySource:
        """These rows in memory."""
        batches = self._origin.rows(columns, self._start, self._stop, to_keep=True)
        return MemorySource((pa.Table.from_batches([batch]) for batch in batches), columns, self)

    def place(self, row: int) -> str:
        """Place of a row in the table."""
        return self._origin.place(self._start + row)

    def place_of(self, column: str, value: str) -> str | None:
        """First place of a value in the table."""
        return self._origin.place_of(column, value)


class MemorySource(Source):
    """A table in memory.

    Args:
        tables: the rows, in order; each table has at least `columns`. Text is converted to dictionaries.
        columns: names of the columns.
        origin: the source from which the rows were read, or a name for messages.
        texts: the columns of plain text that are dictionaries already.

    Raises:
        InputError: if two columns have one name.
    """

    def __init__(
        self,
        tables: Iterable[pa.Table],
        columns: Sequence[str],
        origin: Source | str,
        texts: frozenset[str] = frozenset(),
    ):
        self.names = list(columns)
        self._origin = origin if isinstance(origin, Source) else None
        self.name = origin if isinstance(origin, str) else origin.name
        self.typed = True if isinstance(origin, str) else origin.typed
        self.missing = None if isinstance(origin, str) else origin.missing
        self.refuse_duplicates()
        self.texts, self._tables = texts, []
        for table in tables:
            self.texts = self.texts.union(field.name for field in table.schema if is_text(field.type))
            self._tables.append(_with_dictionaries(table))

    @property
    def unnamed(self) -> list[int]:
        """The origin's unnamed columns, if it is a source."""
        return super().unnamed if self._origin is None else self._origin.unnamed

    @property
    def decimal_marks(self) -> Mapping[str, str] | None:
        """The origin's decimal marks, if it is a source."""
        return super().decimal_marks if self._origin is None else self._origin.decimal_marks

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """0: the table is in memory already."""
        return 0

    def identity(self) -> None:
        """None: a change of a table in memory cannot be detected."""

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Replace these texts with nulls at once."""
        super().count_as_missing(missing)
        self._tables = [self._cleaned(table) for table in self._tables]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Slices of the tables, not copies."""
        for table in self._tables:
            yield from table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The source itself."""
        return self

    def drain(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The `batches`, which the source forgets one by one."""
        parts = [batch for table in self._tables for batch in table.to_batches(max_chunksize=BATCH_ROWS)]
        is_large = sum(table.nbytes for table in self._tables) > LARGE
        self._tables = []
        parts.reverse()
        while parts:
            yield parts.pop().select(list(columns))
            if is_large:
                pa.default_memory_pool().release_unused()  # to the system, which the pool puts off

    def place(self, row: int) -> str:
        """The place of the row in the origin, if that is a source."""
        return super().place(row) if self._origin is None else self._origin.place(row)

    def place_of(self, column: str, value: str) -> str | None:
        """The place of the text in the origin, if that is a source."""
        return super().place_of(column, value) if self._origin is None else self._origin.place_of(column, value)


def _with_dictionaries(table: pa.Table) -> pa.Table:
    for position, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.large_string()))
        if is_text(field.type):
            table = table.set_column(position, field.name, table.column(position).dictionary_encode())
    return table


def _value_type(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype


def is_text(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is text, and not a dictionary of text."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def shown(value: Any) -> str:
    """The repr of a value, cut to 60 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"
