"""What every table has in common, wherever it comes from: names, and rows in blocks, more than once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import compute

from lr_lightning.errors import InputError

BATCH_ROWS = 1 << 17


KIND_IN_WORDS = {
    "number": "numbers",
    "boolean": "true/false values",
    "category": "text",
    "date": "dates",
    "time": "times or durations",
    "missing": "nothing but missing values",
}


def kind_of(dtype: pa.DataType) -> str | None:
    """The kind of column that an Arrow type makes: number, boolean, category, date, time, missing or None.

    `missing` is a column of which nothing is known but that its values are missing; None is a type that
    cannot be used (nested, binary, intervals).
    """
    types = pa.types
    if types.is_dictionary(dtype):
        inner = kind_of(dtype.value_type)
        return "category" if inner in ("number", "category") else inner  # truth values need no levels
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
    """A streamed file turned out to hold other types than its beginning suggested: sweep it again."""


class MissingTexts:
    """Which texts of a table's columns of text count as missing.

    Args:
        na: the texts, as a person names them; None for what is usual in a file of this format.
        known: the columns where they do, and in each what the fit knew as a level or label and is no missing value.

    Attributes:
        found: the texts that were found so far, by column; those of blanks alone are left out.
    """

    def __init__(self, na: Sequence[str] | None, known: Mapping[str, Collection[str]]):
        self.na = None if na is None else frozenset(text.strip() for text in na)
        self._known = known
        self.found: dict[str, set[str]] = {}

    def without(self, table: pa.Table, usual: Collection[str]) -> pa.Table:
        """The table with nulls in the place of such texts; `usual` are those of its format."""
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
        """The array with nulls, or None where nothing changes."""
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
    """A table that can be swept more than once.

    Attributes:
        name: how messages call it.
        names: its columns; an empty name is a column without one.
    """

    name: str
    names: list[str]
    missing: MissingTexts | None = None
    usual: Collection[str] = ()
    """Texts that count as missing in a table of this format unless a person names others."""
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

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Take texts for missing values; call it before the rows are read."""
        self.missing = missing

    def _cleaned(self, table: pa.Table) -> pa.Table:
        """The table without the texts that count as missing."""
        return table if self.missing is None else self.missing.without(table, self.usual)

    def _cleaned_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.missing is None or not batch.num_rows:
            return batch
        return self._cleaned(pa.Table.from_batches([batch])).to_batches()[0]

    def missing_in_words(self, columns: Iterable[str] | None = None) -> str:
        """Which texts were taken for missing values though nobody named them, for messages; empty if none were."""
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
        self.missing = None if isinstance(origin, str) else origin.missing
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

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Once and for all."""
        super().count_as_missing(missing)
        self._tables = [self._cleaned(table) for table in self._tables]

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


def _value_type(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype


def is_text(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is that of text, as such and not as a category."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def shown(value: Any) -> str:
    """A value as messages show it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"
