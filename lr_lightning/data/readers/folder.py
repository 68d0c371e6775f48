"""A folder of files with one schema, as one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lr_lightning.data.readers.base import (
    KIND_IN_WORDS,
    MemorySource,
    MissingTexts,
    Source,
    TypesChanged,
    kind_of,
)
from lr_lightning.data.readers.csv import DelimitedSource
from lr_lightning.errors import InputError

_SUFFIXES = (
    ".parquet",
    ".pq",
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".arrow",
    ".feather",
    ".ipc",
    ".gz",
    ".bz2",
    ".zst",
)

_PARTITION = re.compile(r"[^=]+=.+")


def files_in(folder: Path, name: str) -> list[Path]:
    """The data files directly in a folder, sorted by name; hidden files (`.x`, `_x`) are ignored.

    Raises:
        InputError: if there are none, or one is a link to a file outside of the folder, to another of the files, or to
            nothing; or if folders inside are partitions, such as `year=2024`, whose columns are in no file.
    """
    inside = folder.resolve()
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if _PARTITION.fullmatch(entry.name) and entry.is_dir():
            column = entry.name.partition("=")[0]
            raise InputError(
                f"{name}/{entry.name} is a partition, and the column {column} is in no file; write all of them as one "
                "folder of files first, in Python: from pyarrow import dataset; dataset.write_dataset(dataset.dataset("
                "FOLDER, partitioning='hive'), OTHER_FOLDER, format='parquet')"
            )
        if entry.name.startswith((".", "_")) or not entry.name.lower().endswith(_SUFFIXES):
            continue
        if entry.is_symlink():
            _refuse_unsuitable_link(entry, inside, f"{name}/{entry.name}")
        if entry.is_file():
            found.append(entry)
    of_file: dict[Path, Path] = {}
    for entry in found:
        other = of_file.setdefault(entry.resolve(), entry)
        if other is not entry:
            raise InputError(f"{name}: {other.name} and {entry.name} are one file, whose rows would count twice")
    if not found:
        deeper = "; folders inside it are not looked into" if any(entry.is_dir() for entry in folder.iterdir()) else ""
        raise InputError(f"{name} is a folder without data files ({', '.join(_SUFFIXES[:3])}, …){deeper}")
    return found


def _refuse_unsuitable_link(entry: Path, inside: Path, name: str) -> None:
    try:
        target = entry.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a cycle of links, up to Python 3.12
        raise InputError(f"{name} is a link that leads nowhere; remove it") from None
    if not target.is_relative_to(inside):
        raise InputError(f"{name} is a link that leaves the folder; put the file itself there")


class FolderSource(Source):
    """The rows of several files with the same columns, one file after the other.

    Args:
        parts: the files.
        name: the name of the folder in messages.

    Raises:
        InputError: if the files do not have the same columns.
    """

    def __init__(self, parts: Sequence[Source], name: str):
        self.name, self.parts = name, parts
        self.names = parts[0].names
        self.typed = all(part.typed for part in parts)
        self._told: set[str] = set()  # columns that are read as text in every part
        self._rows: list[int] = []  # numbers of rows of the parts that the current sweep has finished
        for part in parts[1:]:
            differing = sorted(set(part.names) ^ set(self.names))
            if differing:
                names = ", ".join(differing[:5])
                raise InputError(f"{part.name} has not the columns of {parts[0].name}: they differ in {names}")

    @property
    def decimal_marks(self) -> Mapping[str, str] | None:
        """The decimal marks on which all parts agree."""
        marks = [part.decimal_marks for part in self.parts]
        known = [of_part for of_part in marks if of_part is not None]
        if len(known) < len(marks):
            return None
        columns = {name for of_part in known for name in of_part}
        found = {name: {of_part[name] for of_part in known if name in of_part} for name in columns}
        return {name: of_column.pop() for name, of_column in found.items() if len(of_column) == 1}

    def expect(self, types: Mapping[str, pa.DataType]) -> None:
        """Set the types in every part."""
        self._told.update(name for name, kind in types.items() if pa.types.is_string(kind))
        for part in self.parts:
            part.expect(types)

    def guess(self, types: Mapping[str, pa.DataType]) -> None:
        """Set the types to try first in every part."""
        for part in self.parts:
            part.guess(types)

    def count_as_missing(self, missing: MissingTexts) -> None:
        """Set the same texts in every part, whatever its format."""
        super().count_as_missing(missing)
        usual = max((part.usual for part in self.parts), key=len)
        for part in self.parts:
            part.usual = usual
            part.count_as_missing(missing)

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The sum over the parts."""
        return sum(part.decoded_bytes(columns) for part in self.parts)

    def identity(self) -> list[Any]:
        """A value that changes when one of the files does."""
        return [part.identity() for part in self.parts]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of all parts, one part after the other."""
        self._rows, kinds = [], _Kinds(self.parts, self._told)
        for part in self.parts:
            n_rows = 0
            for batch in part.batches(columns):
                kinds.check(part, batch.schema)
                n_rows += batch.num_rows
                yield batch
            self._rows.append(n_rows)

    def n_rows(self) -> int | None:
        """The sum over the parts; None if one of them does not tell."""
        sizes = [part.n_rows() for part in self.parts]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def rows(self, columns: Sequence[str], start: int, stop: int, *, to_keep: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows from `start` to `stop`; only files that hold some of them are opened."""
        sizes, kinds, first = [part.n_rows() or 0 for part in self.parts], _Kinds(self.parts, self._told), 0
        self._rows = sizes
        for part, size in zip(self.parts, sizes, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            for batch in part.rows(columns, low, high, to_keep=to_keep) if low < high else ():
                kinds.check(part, batch.schema)
                yield batch
            if to_keep:
                pa.default_memory_pool().release_unused()  # what decoding needed, before the next file
            first += size

    def load(self, columns: Sequence[str]) -> MemorySource:
        """All parts in memory, as one source."""
        while True:
            self._rows, kinds, tables, texts = [], _Kinds(self.parts, self._told), [], frozenset()
            try:
                for part in self.parts:
                    loaded = part.load(columns)
                    batches, texts = list(loaded.batches(columns)), texts | loaded.texts
                    for batch in batches:
                        kinds.check(part, batch.schema)
                    tables.extend(pa.Table.from_batches([batch]) for batch in batches)
                    self._rows.append(sum(batch.num_rows for batch in batches))
            except TypesChanged:
                continue
            return MemorySource(tables, columns, self, texts)

    def place(self, row: int) -> str:
        """The name of the file, and the place of the row in it."""
        for part, n_rows in zip(self.parts, [*self._rows, row + 1], strict=False):
            if row < n_rows:
                return f"{Path(part.name).name}, {part.place(row)}"
            row -= n_rows
        return super().place(row)

    def place_of(self, column: str, value: str) -> str | None:
        """The name of the file, and the place of the text in it."""
        for part in self.parts:
            if where := part.place_of(column, value):
                return f"{Path(part.name).name}, {where}"
        return None


class _Kinds:
    """The kinds of the columns in the parts so far."""

    def __init__(self, parts: Sequence[Source], told: set[str]):
        self._parts, self._told = parts, told
        self._known: dict[str, tuple[str | None, Source]] = {}

    def check(self, part: Source, schema: pa.Schema) -> None:
        """Check the kinds of the columns of `part` against those of earlier parts.

        Raises:
            InputError: if a column has another kind than in an earlier part.
            TypesChanged: if all files are text; then the column is read as text from now on.
        """
        for field in schema:
            kind = kind_of(field.type)
            if kind == "missing" or field.name in self._told:
                continue
            known, first = self._known.setdefault(field.name, (kind, part))
            if kind == known:
                continue
            text = pa.string()
            if "category" in (kind, known) and all(isinstance(each, DelimitedSource) for each in self._parts):
                for each in self._parts:
                    each.expect({field.name: text})
                raise TypesChanged
            found, expected = (KIND_IN_WORDS.get(k or "", f"{field.type}") for k in (kind, known))
            raise InputError(f"{part.name}: column {field.name} holds {found}, in {first.name} {expected}")
