"""Files of sparse rows in the svmlight format, which is also LIBSVM's, read by scikit-learn."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lr_lightning.data.readers.base import shown
from lr_lightning.data.readers.dialect import compression_of, open_bytes
from lr_lightning.errors import InputError

SUFFIXES = (".svm", ".libsvm", ".svmlight")
COMPRESSED = ("", ".gz", ".bz2", ".zst")
TARGET, QUERY = "y", "qid"  # what the label, and the number after qid:, are called as columns
LARGEST_INDEX = 4_000_000
_BLOCK_LINES = 8192
_BUFFER_BYTES = 1 << 20
_FORM = "a label and then index:value pairs, whose indices are whole numbers from 0 on and rise"


def is_svmlight(path: Path | str) -> bool:
    """Whether the name of a file says that it is one."""
    return str(path).lower().endswith(tuple(suffix + packed for suffix in SUFFIXES for packed in COMPRESSED))


@dataclass(frozen=True)
class SvmlightRows:
    """Some consecutive rows of a file.

    Attributes:
        label: (r,), float64.
        value: of each entry, (e,), float64.
        index: of each entry, as in the file, (e,), int64.
        ends: where the entries of each row begin, and the last ends, (r + 1,), int64.
        query: the number after `qid:`, (r,), int64; None where no row has one.
        lines: the numbers of the rows' lines, from 1.
    """

    label: np.ndarray
    value: np.ndarray
    index: np.ndarray
    ends: np.ndarray
    query: np.ndarray | None
    lines: list[int]

    def line_of(self, entry: int) -> int:
        """The number of the line that holds an entry."""
        return self.lines[int(np.searchsorted(self.ends, entry, side="right")) - 1]


class SvmlightFile:
    """A file in the svmlight format, plain or compressed.

    Args:
        path: the path of the file.
        name: the name of the file in messages.

    Raises:
        InputError: if scikit-learn is not installed.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        if find_spec("sklearn") is None:
            raise InputError(f"{name}: svmlight files need scikit-learn: pip install 'lr-lightning[sklearn]'")

    def blocks(self) -> Iterator[SvmlightRows]:
        """The rows in order, in blocks, without those lines that are blank or a comment.

        Raises:
            InputError: if the file cannot be read, or a line is not in the format or holds a value that is not finite.
        """
        import pyarrow as pa

        start = 0
        try:
            with self.path.open("rb") as file:
                compression = compression_of(file.read(8))
            with io.BufferedReader(open_bytes(self.path, compression), _BUFFER_BYTES) as stream:
                while lines := list(islice(stream, _BLOCK_LINES)):
                    if not start:
                        lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
                    yield self._rows(lines, start)
                    start += len(lines)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.name} cannot be read: {' '.join(str(error).split())[:200]}") from None

    def _rows(self, lines: list[bytes], start: int) -> SvmlightRows:
        from sklearn.datasets import load_svmlight_file

        read = _Lines(lines)
        try:
            matrix, label, query = load_svmlight_file(read, query_id=True, zero_based=True)  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            line = lines[read.given - 1].decode(errors="replace").strip()
            raise InputError(f"{self.name}, line {start + read.given} is {shown(line)}; it must be {_FORM}") from None
        numbers = [k for k, line in enumerate(lines, start + 1) if line.partition(b"#")[0].strip()]
        index, ends = matrix.indices.astype(np.int64, copy=False), matrix.indptr.astype(np.int64, copy=False)
        rows = SvmlightRows(label, matrix.data, index, ends[: len(label) + 1], query if len(query) else None, numbers)
        if len(query) not in (0, len(label)):
            raise InputError(
                f"{self.name}: lines up to {numbers[-1]} have a qid or none; every line needs one, or none"
            )
        for entry in np.flatnonzero(~np.isfinite(rows.value))[:1].tolist():
            raise InputError(
                f"{self.name}, line {rows.line_of(entry)}: index {index[entry]} has the value {rows.value[entry]}; "
                "every value must be finite"
            )
        for entry in np.flatnonzero(index > LARGEST_INDEX)[:1].tolist():
            raise InputError(
                f"{self.name}, line {rows.line_of(entry)}: index {index[entry]} is above the largest, {LARGEST_INDEX}"
            )
        return rows


class _Lines:
    """Lines that scikit-learn takes for a file, because they can be iterated and have a method `read`.

    Attributes:
        given: how many have been read.
    """

    def __init__(self, lines: list[bytes]):
        self._lines, self.given = lines, 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.given += 1
            yield line

    def read(self) -> Any:
        raise NotImplementedError
