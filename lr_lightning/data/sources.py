"""Any table as blocks of Arrow rows: text, Parquet, Arrow files, folders of them, and tables in memory."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lr_lightning.errors import InputError

BATCH_ROWS = 1 << 17
_DATA_SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".tab", ".txt", ".arrow", ".feather", ".ipc", ".gz", ".bz2", ".zst")


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

    def expect(self, types: Mapping[str, pa.DataType]) -> None:
        """Say which types columns have, where the format itself does not. Other names are ignored."""

    @abstractmethod
    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """About how many bytes the columns take as Arrow arrays."""

    @abstractmethod
    def identity(self) -> list[Any] | None:
        """Plain values that change when the data do; None where nobody can tell."""

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows in order, in blocks that hold exactly these columns in this order."""

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The same rows, all in memory."""
        batches = list(self.batches(columns))
        return MemorySource(pa.Table.from_batches(batches), self.name, self.place)

    def place(self, row: int) -> str:
        """Where row number `row` (from 0) is, for messages."""
        return f"row {row + 1}"

    def place_of(self, column: str, value: str) -> str | None:
        """Where `column` first holds the text `value`; None where that is not known."""
        return None

    def refuse_duplicates(self) -> None:
        """Raise InputError if two columns share a name."""
        seen: dict[str, int] = {}
        for position, name in enumerate(self.names, 1):
            if name and name in seen:
                raise InputError(
                    f"{self.name}: columns {seen[name]} and {position} are both named {name}; rename one"
                )
            seen[name] = position


class MemorySource(Source):
    """An Arrow table in memory."""

    def __init__(self, table: pa.Table, name: str, place: Callable[[int], str] | None = None):
        self.table, self.name, self.names = table, name, table.column_names
        self._place = place
        self.refuse_duplicates()

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """What the table takes beyond what it takes already: nothing."""
        return 0

    def identity(self) -> None:
        """Nobody can tell whether a table in memory has changed."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Slices of the table."""
        yield from self.table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)

    def load(self, columns: Sequence[str]) -> MemorySource:
        """Itself."""
        return self

    def place(self, row: int) -> str:
        """Where the row was in the file, if the table came from one."""
        return super().place(row) if self._place is None else self._place(row)


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        with _explaining(name, "Parquet"), self._open() as file:
            self.names = file.schema_arrow.names
            self.n_rows = file.metadata.num_rows
        self.refuse_duplicates()

    def _open(self, **options: Any) -> Any:
        import pyarrow.parquet

        return pa.parquet.ParquetFile(self.path, **options)

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """Eight bytes a value."""
        return 8 * self.n_rows * len(columns)

    def identity(self) -> list[Any]:
        """What changes when the file does."""
        return file_identity(self.path)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Blocks of rows, without reading whole row groups ahead."""
        with _explaining(self.name, "Parquet"), self._open(pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(1 << 16, columns=list(columns)):
                yield batch.select(list(columns))

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The columns in memory, read by all processors."""
        with _explaining(self.name, "Parquet"), self._open(pre_buffer=True) as file:
            table = file.read(columns=list(columns), use_threads=True)
        return MemorySource(table.select(list(columns)), self.name)


class ArrowSource(Source):
    """An Arrow IPC file or stream, Feather included."""

    def __init__(self, path: Path, name: str, stream: bool):
        self.path, self.name, self._is_stream = path, name, stream
        with _explaining(name, "Arrow"), self._open() as reader:
            self.names = reader.schema.names
        self.refuse_duplicates()

    def _open(self) -> Any:
        import pyarrow.ipc

        source = pa.memory_map(str(self.path))
        return pa.ipc.open_stream(source) if self._is_stream else pa.ipc.open_file(source)

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The size of the file, twice because it may be compressed."""
        return 2 * self.path.stat().st_size

    def identity(self) -> list[Any]:
        """What changes when the file does."""
        return file_identity(self.path)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The file's record batches, cut where they are large."""
        with _explaining(self.name, "Arrow"), self._open() as reader:
            count = None if self._is_stream else reader.num_record_batches
            whole = iter(reader) if count is None else (reader.get_batch(i) for i in range(count))
            for batch in whole:
                table = pa.Table.from_batches([batch.select(list(columns))])
                yield from table.to_batches(max_chunksize=BATCH_ROWS)


class FolderSource(Source):
    """The files of a folder, in the order of their names, as one table."""

    def __init__(self, path: Path, name: str):
        self.name = name
        self.parts = [open_file(part, f"{name}/{part.name}") for part in _files_in(path, name)]
        self.names = self.parts[0].names
        for part in self.parts[1:]:
            if sorted(part.names) != sorted(self.names):
                differing = sorted(set(part.names) ^ set(self.names))
                raise InputError(
                    f"{part.name} has not the columns of {self.parts[0].name} (they differ in {', '.join(differing[:5])})"
                )

    def expect(self, types: Mapping[str, pa.DataType]) -> None:
        """Say so to every part."""
        for part in self.parts:
            part.expect(types)

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The sum over the parts."""
        return sum(part.decoded_bytes(columns) for part in self.parts)

    def identity(self) -> list[Any]:
        """What changes when one of the files does."""
        return [part.identity() for part in self.parts]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of one part after the other."""
        for part in self.parts:
            yield from part.batches(columns)

    def load(self, columns: Sequence[str]) -> MemorySource:
        """All parts in memory."""
        tables = [part.load(columns).table for part in self.parts]
        table = tables[0]
        for part, other in zip(self.parts[1:], tables[1:], strict=True):
            try:
                table = pa.concat_tables([table, other], promote_options="permissive")
            except pa.ArrowException:
                raise InputError(_type_mismatch(part.name, self.parts[0].name, table.schema, other.schema)) from None
        return MemorySource(table, self.name, self.place)


def _type_mismatch(name: str, first: str, expected: pa.Schema, found: pa.Schema) -> str:
    for field in expected:
        try:
            pa.unify_schemas([pa.schema([field]), pa.schema([found.field(field.name)])], promote_options="permissive")
        except pa.ArrowException:
            return f"{name}: column {field.name} has type {found.field(field.name).type}, in {first} {field.type}"
    return f"{name} has not the types of {first}"


def _files_in(path: Path, name: str) -> list[Path]:
    inside = path.resolve()
    found = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith((".", "_")) or not entry.name.lower().endswith(_DATA_SUFFIXES):
            continue
        if not entry.is_file():
            continue
        if entry.resolve().parent != inside:
            raise InputError(f"{name}/{entry.name} is a link out of the folder; put the file itself there")
        found.append(entry)
    if not found:
        raise InputError(f"{name} is a folder without data files ({', '.join(_DATA_SUFFIXES[:3])}, …)")
    return found


def file_identity(path: Path) -> list[Any]:
    """Path, size, time of change and inode."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino]


class _explaining:  # noqa: N801 (reads as a phrase)
    """Turns pyarrow's exceptions into one line about the file."""

    def __init__(self, name: str, format_name: str):
        self.name, self.format_name = name, format_name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError) or error is None:
            return
        if isinstance(error, pa.ArrowException | OSError):
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.name} is truncated or damaged, or not {self.format_name} ({reason})") from None


def open_file(path: Path, name: str) -> Source:
    """Open one file by what its first bytes say it is."""
    from lr_lightning.data.delimited import DelimitedSource

    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from None
    if not head:
        raise InputError(f"{name} is empty; a table needs a header line and rows")
    if head.startswith(b"PAR1"):
        return ParquetSource(path, name)
    if head.startswith(b"ARROW1"):
        return ArrowSource(path, name, stream=False)
    if head.startswith(b"\xff\xff\xff\xff"):
        return ArrowSource(path, name, stream=True)
    if head.startswith(b"FEA1"):
        raise InputError(f"{name} is a Feather file of version 1; save it as Parquet or Feather version 2")
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq", ".arrow", ".feather", ".ipc"):
        raise InputError(f"{name} is not a {suffix[1:]} file (its first bytes are {head[:4]!r}); is it damaged?")
    return DelimitedSource(path, name)


def open_source(data: Any, name: str | None = None) -> Source:
    """Open a path, or take a table in memory.

    Args:
        data: the path of a file or folder, or a table: pyarrow, pandas, polars, anything with the Arrow
            stream or the dataframe interchange protocol, a dict of columns, a two-dimensional array.
        name: how messages call it; the path by default.

    Raises:
        InputError: if there is no such file, or it is no table.
    """
    if not isinstance(data, str | os.PathLike):
        from lr_lightning.data.frames import to_arrow

        return MemorySource(to_arrow(data, name or "the table"), name or "the table")
    text = os.fspath(data)
    name = name or text
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise InputError(f"{name} is a URL; download the file first")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return FolderSource(path, name.rstrip("/"))
        if not path.exists():
            raise InputError(f"{name}: no such file")
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {error}") from None
    if not path.is_file():
        raise InputError(f"{name} is neither a file nor a folder")
    return open_file(path, name)


def shown(value: Any) -> str:
    """A value as messages show it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"
