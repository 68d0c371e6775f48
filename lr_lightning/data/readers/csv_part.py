"""A file of delimited text that several processes read, each a range of its bytes."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from lr_lightning.data.mistakes import NotMergedError, mistakes_in_all
from lr_lightning.data.readers.base import MemorySource
from lr_lightning.data.readers.csv import DelimitedSource
from lr_lightning.model.processes import Processes

_CHUNK_BYTES = 1 << 24
_JOINED = {frozenset((pa.int64(), pa.float64())): pa.float64()}
"""Types of a column in two ranges, and the type that fits both; text fits any others."""


class PartOfDelimited(DelimitedSource):
    """The rows in a range of bytes of a file that is not compressed and has no decimal commas.

    The range is cut at line ends outside of quotes: each process counts the quotes in its part of the file, and knows
    from those of the others whether its part begins within quotes. Columns have the types that one process finds in the
    whole file: the first range's, made wider where a value of another range does not fit.

    Args:
        whole: the file.
        processes: that read it together; this is the part of this process.

    Raises:
        NotMergedError: if the file cannot be read in parts.
    """

    def __init__(self, whole: DelimitedSource, processes: Processes):
        for name, value in vars(whole).items():
            setattr(self, name, value)
        self._types, self._processes = dict(whole._types), processes
        with whole.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._start, self._stop, self._quoted = _range(data, processes, whole.dialect.delimiter)
        if self._quoted and len(self.names) == 1:  # no number of fields tells a line that was cut at the wrong place
            raise NotMergedError

    @staticmethod
    def suits(whole: DelimitedSource) -> bool:
        """Whether a file can be read in parts."""
        return whole.dialect.compression is None and not whole.decimal_marks

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """The part of the file's decoded bytes that this range takes."""
        return 2 * (self._stop - self._start)

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The rows in memory. All processes call this together.

        Raises:
            NotMergedError: if one of them has met a mistake, or one process alone might find other types.
        """
        table = self._read(columns)
        while True:
            found = [types for types in self._processes.objects(table.schema.types if len(table) else None) if types]
            if not found:
                return MemorySource([table], columns, self)
            types = [_type_of_all([types[j] for types in found]) for j in range(len(columns))]
            if all(of_one == types for of_one in found):
                break
            self.guess(dict(zip(columns, types, strict=True)))
            table = self._read(columns)
        if not len(table):
            table = pa.table({name: pa.array([], kind) for name, kind in zip(columns, types, strict=True)})
        return MemorySource([self._cleaned(table)], columns, self)

    def _read(self, columns: Sequence[str]) -> pa.Table:
        with mistakes_in_all(self._processes):
            if self._start == self._stop:
                return pa.table({name: pa.array([], pa.null()) for name in columns})
            return super().table(columns)

    def _stream(self) -> Any:
        file = pa.memory_map(str(self.path))
        file.seek(self._start)
        return pa.BufferReader(file.read_buffer(self._stop - self._start))

    def _options(self, columns: Sequence[str]) -> dict[str, Any]:
        options = super()._options(columns)
        options["read_options"] = csv.ReadOptions(column_names=list(self.dialect.header))
        return options

    def _holds_quotes(self) -> bool:
        return self._quoted


def _type_of_all(types: Sequence[pa.DataType]) -> pa.DataType:
    """The type that a column has in a file, from the types of its ranges, in order.

    Raises:
        NotMergedError: if it depends on which values come first.
    """
    present = [kind for kind in types if kind != pa.null()]
    if len(set(present)) < 2:
        kind = present[0] if present else pa.null()
        if pa.null() in types and kind not in (pa.null(), pa.int64(), pa.float64(), pa.string()):
            raise NotMergedError
        return kind
    if not set(present) <= {pa.int64(), pa.float64(), pa.string()}:
        raise NotMergedError
    return _JOINED.get(frozenset(present), pa.string())


def _range(data: mmap.mmap, processes: Processes, delimiter: str) -> tuple[int, int, bool]:
    """The first byte of this process's rows and the one behind its last, and whether there are quotes in the file."""
    size, first = len(data), _after_line(data, _header(data), quoted=False)
    bounds = [first + (size - first) * rank // processes.count for rank in range(processes.count + 1)]
    starts = [max(first, bound - 1) for bound in bounds]  # a line may end just before the bound
    own = slice(starts[processes.rank], starts[processes.rank + 1])
    quotes = processes.objects(_count(data, own.start, own.stop))
    within = sum(quotes[: processes.rank]) % 2 == 1
    if not processes.all(_quotes_open_fields(data, own, delimiter, within=within)):
        raise NotMergedError
    start = first if processes.rank == 0 else _after_line(data, own.start, quoted=within)
    starts = [*processes.objects(start), size]
    if any(a > b for a, b in pairwise(starts)) or sum(quotes) % 2:
        raise NotMergedError
    return start, starts[processes.rank + 1], sum(quotes) > 0


def _quotes_open_fields(data: mmap.mmap, own: slice, delimiter: str, *, within: bool) -> bool:
    """Whether every quote that is taken to open a field is the first byte of one, or half of a doubled quote.

    The first quote of the file that stands inside of an unquoted field is found so, and with it that the numbers of
    quotes do not tell where lines end.
    """
    before = np.zeros(256, bool)
    before[list(f'{delimiter}\r\n"'.encode())] = True
    for at in range(own.start, own.stop, _CHUNK_BYTES):
        chunk = np.frombuffer(data[at - 1 : min(at + _CHUNK_BYTES, own.stop)], np.uint8)  # and the byte before it
        places = np.flatnonzero(chunk[1:] == ord('"'))
        if not before[chunk[places[int(within) :: 2]]].all():
            return False
        within ^= len(places) % 2 == 1
    return True


def _header(data: mmap.mmap) -> int:
    """Position of the first line that is not empty."""
    place = 3 if data[:3] == b"\xef\xbb\xbf" else 0
    while data[place : place + 1] in (b"\r", b"\n"):
        place += 1
    return place


def _count(data: mmap.mmap, start: int, stop: int) -> int:
    return sum(data[at : min(at + _CHUNK_BYTES, stop)].count(b'"') for at in range(start, stop, _CHUNK_BYTES))


def _after_line(data: mmap.mmap, place: int, *, quoted: bool) -> int:
    """The byte behind the next line end outside of quotes, from a place that is within quotes or not."""
    while True:
        end, quote = (data.find(mark, place) for mark in (b"\n", b'"'))
        if quoted:
            if quote < 0:
                return len(data)
            place, quoted = quote + 1, False
        elif end < 0:
            return len(data)
        elif 0 <= quote < end:
            place, quoted = quote + 1, True
        else:
            return end + 1
