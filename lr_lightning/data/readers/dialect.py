"""The dialect of a delimited text file: compression, encoding, delimiter and decimal mark.

pyarrow parses the file. This module finds pyarrow's options at the beginning of the file, and reads the file again to
find the line of an error.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lr_lightning.data.notation import decimal_mark
from lr_lightning.errors import InputError

SAMPLE_BYTES = 1 << 18
LONGEST_HEADER = 1 << 24
DELIMITERS = ",;\t|"
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN_MAGIC = (  # first bytes of files that are not text, and what to do with them
    (b"PK\x03\x04", "an Excel workbook or a zip archive; export or unpack it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; export it as CSV"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"\x89HDF", "an HDF5 file; save the table as Parquet"),
    (b"\x80\x04\x95", "a pickle; save the table as Parquet"),
    (b"\x80\x05\x95", "a pickle; save the table as Parquet"),
    (b"ORC", "an ORC file; save the table as Parquet"),
    (b"\x93NUMPY", "a NumPy array; load it and pass the array"),
    (b"%PDF", "a PDF; save the table as CSV"),
    (b"<!DOCTYPE html", "a web page; download the table itself"),
    (b"<html", "a web page; download the table itself"),
    (b'{"', "JSON; save the table as CSV or Parquet"),
    (b"[{", "JSON; save the table as CSV or Parquet"),
)


@dataclass(frozen=True)
class Dialect:
    """The options with which pyarrow reads a delimited text file.

    Attributes:
        compression: pyarrow's name of the codec; None for plain text.
        header: the column names in the first line.
        delimiter: the character between two fields.
        decimal_marks: empty if there is no decimal comma. Otherwise the positions of the columns that certainly
            have the decimal mark of most columns, and that mark.
    """

    compression: str | None
    header: tuple[str, ...]
    delimiter: str
    decimal_marks: dict[int, str]

    @property
    def decimal_point(self) -> str:
        """The decimal mark that pyarrow uses for all columns."""
        return next(iter(self.decimal_marks.values()), ".")


def compression_of(first_bytes: bytes) -> str | None:
    """The codec of a file with these first bytes; None if it is not compressed."""
    return next((name for magic, name in _COMPRESSIONS.items() if first_bytes.startswith(magic)), None)


def open_bytes(path: Path, compression: str | None) -> Any:
    """The file's decompressed bytes, as a pyarrow input stream."""
    import pyarrow as pa

    return pa.input_stream(str(path), compression=compression)


def probe(path: Path, name: str) -> Dialect:
    """The dialect of a file, from its beginning.

    Args:
        path: the path of the file.
        name: the name of the table in messages.

    Raises:
        InputError: if the file is empty, not UTF-8 text, or damaged.
    """
    with path.open("rb") as file:
        compression = compression_of(file.read(8))
    try:
        with open_bytes(path, compression) as stream:
            head = stream.read(SAMPLE_BYTES)
            if b"\n" not in head:  # the header of 100 000 columns is longer
                head += stream.read(LONGEST_HEADER - len(head))
    except OSError as error:
        raise InputError(f"{name} is truncated or damaged ({compression}: {error})") from None
    text, cut = _decoded(head, name), len(head) in (SAMPLE_BYTES, LONGEST_HEADER)
    if not text.strip():
        raise InputError(f"{name} is empty; a table needs a header line and rows")
    rows = {mark: _sample_rows(text, mark, cut) for mark in DELIMITERS}
    delimiter = _delimiter(rows, tab_first=".tsv" in path.suffixes or ".tab" in path.suffixes)
    sample = rows.get(delimiter) or _sample_rows(text, delimiter, cut)
    if not sample:
        raise InputError(f"{name}: the first line is longer than {LONGEST_HEADER} bytes; is it a table of text?")
    return Dialect(compression, tuple(sample[0]), delimiter, _decimal_marks(sample))


def _decoded(head: bytes, name: str) -> str:
    for magic, what in _FOREIGN_MAGIC:
        is_text = magic == b"ORC" and b"\0" not in head  # a column's name may begin so
        if head.startswith(magic) and not is_text:
            raise InputError(f"{name} is {what}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{name} is encoded as UTF-16; save it as UTF-8")
    if b"\0" in head:
        utf16 = head[1:200:2].count(0) > 50 or head[0:200:2].count(0) > 50
        what = "looks like UTF-16; save it as UTF-8" if utf16 else "holds NUL bytes: it is not a table of text"
        raise InputError(f"{name} {what}")
    # An incremental decoder accepts a character that is cut at the end of the sample.
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError as error:
        raise encoding_error(name, 1 + head[: error.start].count(b"\n"), head[error.start]) from None


def encoding_error(name: str, line: int, byte: int) -> InputError:
    """The error for a byte that is not UTF-8."""
    return InputError(
        f"{name}, line {line}: byte 0x{byte:02X} is not UTF-8 text (is the file Latin-1 or Windows-1252?); "
        "save it as UTF-8"
    )


def _sample_rows(text: str, delimiter: str, cut: bool) -> list[list[str]]:
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # a field is longer than 128 KiB; the rows before it suffice
        rows.extend(row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row)
        return rows[:-1] if cut else rows
    return rows


def _delimiter(rows: dict[str, list[list[str]]], tab_first: bool) -> str:
    """The candidate with which most rows have as many fields as the header; among equals, the one with most fields."""
    best, best_score = "", (0.0, 0, 0)
    widest, width = "", 1
    for mark, sample in rows.items():
        n_fields = len(sample[0]) if sample else 1
        if n_fields < 2:
            continue
        body = sample[1:]
        whole = sum(len(row) == n_fields for row in body) / len(body) if body else 1.0
        alone = sum(len(row) == 1 for row in body) / len(body) if body else 0.0
        if whole > 0 and (whole, n_fields, tab_first and mark == "\t") > best_score:
            best, best_score = mark, (whole, n_fields, tab_first and mark == "\t")
        if alone < 1 and n_fields > width:
            widest, width = mark, n_fields
    # Otherwise there is one column, whose text may hold any of the candidates; this character occurs in no text.
    return best or widest or "\x1f"


def _decimal_marks(sample: list[list[str]]) -> dict[int, str]:
    with_comma = {place for row in sample[1:] for place, field in enumerate(row[: len(sample[0])]) if "," in field}
    commas = {place for place in with_comma if decimal_mark(_column(sample, place)) == ","}
    if not commas:
        return {}
    points = {place for place in range(len(sample[0])) if decimal_mark(_column(sample, place)) == "."}
    return dict.fromkeys(commas, ",") if len(commas) >= len(points) else dict.fromkeys(points, ".")


def _column(sample: list[list[str]], place: int) -> list[str]:
    return [row[place].strip() for row in sample[1:] if place < len(row)]


def lines(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Every record after the header: the number of its last line, and its fields. It is slow, and used for messages."""
    with open_bytes(path, dialect.compression) as stream:
        text: IO[str] = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, delimiter=dialect.delimiter)
        records = (row for row in reader if row)
        next(records, None)
        for row in records:
            yield reader.line_num, row


def first_line(path: Path, dialect: Dialect, matches: Callable[[int, list[str]], bool]) -> tuple[int, list[str]] | None:
    """Line and fields of the first record for which `matches(row_number_from_0, fields)`; None if there is none."""
    try:
        for row, (line, fields) in enumerate(lines(path, dialect)):
            if matches(row, fields):
                return line, fields
    except (csv.Error, OSError):
        pass
    return None


def first_undecodable(path: Path, dialect: Dialect) -> tuple[int, int] | None:
    """Line and value of the first byte that is not UTF-8; None if there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with open_bytes(path, dialect.compression) as stream:
        while chunk := stream.read(1 << 20):
            pending = decoder.getstate()[0]
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                data = pending + chunk
                return line + data[: error.start].count(b"\n"), data[error.start]
            line += chunk.count(b"\n")
    return None
