"""Opening of tables: a file, whose first bytes tell its format, a folder of files, or a table in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from lr_lightning.data.readers.base import BATCH_ROWS, LOADED_BATCH_ROWS, STREAM_BATCH_ROWS, MemorySource, Source, cut
from lr_lightning.data.readers.csv import DelimitedSource
from lr_lightning.data.readers.folder import FolderSource, files_in
from lr_lightning.data.readers.memory import to_arrow
from lr_lightning.data.readers.svmlight import SvmlightFile, is_svmlight
from lr_lightning.errors import InputError
from lr_lightning.memory import fits_in_memory

_MOST_COMPRESSED = 1000  # times that a file's content is larger than the file: LZ4 reaches 255


class _FileSource(Source):
    path: Path

    def identity(self) -> list[Any]:
        """Path, size, time of change and inode."""
        stat = self.path.stat()
        return [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino]

    @contextmanager
    def _explained(self, format_name: str) -> Iterator[None]:
        """Raise pyarrow's exceptions as InputError with the name of the file."""
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            # A damaged file asks for more memory than any content of its size takes.
            if isinstance(error, MemoryError) and not fits_in_memory(_MOST_COMPRESSED * self.path.stat().st_size):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.name} is truncated, damaged or not {format_name} after all ({reason})") from None


class ParquetSource(_FileSource):
    """A Parquet file."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        with self._explained("Parquet"), self._open() as file:
            self.names = file.schema_arrow.names
            self._types = dict(zip(self.names, file.schema_arrow.types, strict=True))
            self._n_rows = file.metadata.num_rows
        self.refuse_duplicates()

    def _check_rows(self, found: int) -> None:
        if found != self._n_rows:
            raise InputError(f"{self.name} is damaged: it claims {self._n_rows} rows and holds {found}")

    def _open(self, **options: Any) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self.path, page_checksum_verification=True, **options)

    def _streamed(self, columns: Sequence[str]) -> Any:
        """The file, to be read piece by piece: every column has a buffer, and all together take 32 MiB at most."""
        return self._open(pre_buffer=False, buffer_size=min(1 << 20, max(1 << 14, (1 << 25) // max(1, len(columns)))))

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """Eight bytes a value."""
        return 8 * self._n_rows * len(columns)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of rows, without whole row groups in memory."""
        with self._explained("Parquet"), self._streamed(columns) as file:
            n_rows = 0
            for batch in file.iter_batches(STREAM_BATCH_ROWS, columns=list(columns)):
                n_rows += batch.num_rows
                yield self._cleaned_batch(batch.select(list(columns)))
            self._check_rows(n_rows)

    def n_rows(self) -> int:
        """Number of rows according to the file's metadata."""
        return self._n_rows

    def rows(self, columns: Sequence[str], start: int, stop: int, *, to_keep: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to `stop`; only row groups that hold some of them are decoded."""
        with self._explained("Parquet"), self._streamed(columns) as file:
            groups, first, skipped = [], 0, 0
            for number in range(file.num_row_groups):
                size = file.metadata.row_group(number).num_rows
                if first + size <= start:
                    skipped += size
                elif first < stop:
                    groups.append(number)
                first += size
            most = LOADED_BATCH_ROWS if to_keep else STREAM_BATCH_ROWS
            parts = file.iter_batches(most, row_groups=groups, columns=list(columns))
            for batch in cut(parts, start - skipped, stop - skipped):
                yield self._cleaned_batch(batch.select(list(columns)))

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The columns in memory, read by all processors; plain text as dictionaries, which take less memory."""
        texts = {name for name, dtype in self._types.items() if name in columns and pa.types.is_string(dtype)}
        options = {"pre_buffer": True, "read_dictionary": sorted(texts)}
        with self._explained("Parquet"), self._open(**options) as file:
            table = file.read(columns=list(columns), use_threads=True)
        self._check_rows(table.num_rows)
        return MemorySource([self._cleaned(table.select(list(columns)))], columns, self, frozenset(texts))


class ArrowSource(_FileSource):
    """An Arrow IPC file or stream, Feather included."""

    def __init__(self, path: Path, name: str, *, stream: bool):
        self.path, self.name, self._is_stream = path, name, stream
        with self._explained("Arrow"), self._open() as reader:
            self.names = reader.schema.names
        self.refuse_duplicates()

    def _open(self) -> Any:
        from pyarrow import ipc

        file = pa.memory_map(str(self.path))
        return ipc.open_stream(file) if self._is_stream else ipc.open_file(file)

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """Twice the size of the file, which may be compressed."""
        return 2 * self.path.stat().st_size

    def n_rows(self) -> int | None:
        """The sum over its record batches, which are not read; a stream does not tell."""
        if self._is_stream:
            return None
        with self._explained("Arrow"), self._open() as reader:
            return sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))

    def rows(self, columns: Sequence[str], start: int, stop: int, *, to_keep: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to `stop`; of the others only the places in the file are looked up."""
        with self._explained("Arrow"), self._open() as reader:
            for batch in cut(map(reader.get_batch, range(reader.num_record_batches)), start, stop):
                selected = batch.select(list(columns))
                selected.validate(full=True)
                yield from self._cleaned(pa.Table.from_batches([selected])).to_batches(max_chunksize=BATCH_ROWS)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The file's record batches, cut into at most `BATCH_ROWS` rows."""
        with self._explained("Arrow"), self._open() as reader:
            parts = reader if self._is_stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in parts:
                selected = batch.select(list(columns))
                selected.validate(full=True)  # pyarrow does not check the offsets in a file by itself
                table = self._cleaned(pa.Table.from_batches([selected]))
                yield from table.to_batches(max_chunksize=BATCH_ROWS)


def open_file(path: Path, name: str) -> Source:
    """Open one file; its first bytes tell the format.

    Raises:
        InputError: if the file cannot be read or is not a table.
    """
    if is_svmlight(path):
        raise InputError(f"{name} holds sparse rows, not a table; name that file alone, and not its folder")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from None
    if not head:
        raise InputError(f"{name} is empty; a table needs a header line and rows")
    if head.startswith(b"PAR1"):
        return ParquetSource(path, name)
    if head.startswith(b"ARROW1"):
        return ArrowSource(path, name, stream=False)
    if head.startswith(b"\xff\xff\xff\xff"):
        return ArrowSource(path, name, stream=True)
    if head.startswith(b"FEA1"):
        raise InputError(f"{name} is a Feather file of version 1; save it as Parquet or as Feather version 2")
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq", ".arrow", ".feather", ".ipc"):
        raise InputError(f"{name} is damaged or no {suffix[1:]} file: it begins with {head!r}")
    return DelimitedSource(path, name)


def open_first(path: str) -> Source:
    """Open a file, or only the first one of a folder, whose columns are those of the table.

    Raises:
        InputError: see `open_source`.
    """
    return (
        FolderSource([open_file(files_in(Path(path), path)[0], path)], path)
        if os.path.isdir(path)
        else open_source(path)
    )


def open_source(data: Any, name: str | None = None) -> Source:
    """Open a file, a folder or a table in memory.

    Args:
        data: the path of a file or folder, or a table in memory that `memory.to_arrow` takes.
        name: the name of the table in messages; the path by default.

    Raises:
        InputError: if there is no such file, or it is not a table.
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, str | os.PathLike):
        name = name or "the table"
        table = to_arrow(data, name)
        return MemorySource([table], table.column_names, name)
    path, name = _existing(data, name)
    if path.is_dir():
        return FolderSource([open_file(part, f"{name}/{part.name}") for part in files_in(path, name)], name)
    return open_file(path, name)


def open_svmlight(data: Any, name: str | None = None) -> SvmlightFile | None:
    """Open a file of sparse rows, which its name tells; None for all other data.

    Raises:
        InputError: if there is no such file, or scikit-learn, which reads it, is not installed.
    """
    if not isinstance(data, str | os.PathLike) or not is_svmlight(os.fspath(data)):
        return None
    path, name = _existing(data, name)
    return None if path.is_dir() else SvmlightFile(path, name)


def _existing(data: str | os.PathLike[str], name: str | None) -> tuple[Path, str]:
    """The path of a file or folder, and its name in messages.

    Raises:
        InputError: if there is none.
    """
    text = os.fspath(data)
    name = name or str(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise InputError(f"{name} is a URL; download the file and name it here")
    try:
        path = Path(text)
        if not path.exists():  # a name may begin with ~
            path = path.expanduser()
        if path.is_dir():
            return path, name.rstrip("/") or "/"
        if not path.exists():
            raise InputError(f"{name}: there is no such file")
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name!r} cannot be read ({error})") from None
    if not path.is_file():
        raise InputError(f"{name} is neither a file nor a folder")
    return path, name
