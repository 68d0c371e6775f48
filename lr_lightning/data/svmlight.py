"""Sparse rows of an svmlight file: for a fit, as `decode` gives those of a table, and for predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from logging import INFO, getLogger
from typing import NamedTuple

import numpy as np
import torch

from lr_lightning.data.choices import Choices
from lr_lightning.data.decode import Decoded
from lr_lightning.data.features import EncodedRows
from lr_lightning.data.fingerprint import rows_fingerprint
from lr_lightning.data.prepare import PARTS, Partition, Split, constant_in_words, refuse_overflow
from lr_lightning.data.readers.svmlight import QUERY, TARGET, SvmlightFile, SvmlightRows
from lr_lightning.data.roles import GROUPS
from lr_lightning.data.rows_in_use import Scan
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.spelling import find_label
from lr_lightning.data.target import choose_labels
from lr_lightning.errors import InputError
from lr_lightning.model.csr import Csr
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization, moments

log = getLogger("lr_lightning")


class SvmlightDecoder:
    """Reads an svmlight file for a fit or a test. Its target is the label `y`; `groups` may be `qid`.

    The features are `x1`, `x2`, … up to the largest index, or from `x0` on if the file has an index 0.

    Args:
        source: the file.
        choices: the options about a table's columns.
        split: the options of the split.
        given: the schema and the statistics of an earlier fit, which replace `choices`; None for a new fit.

    Raises:
        InputError: if an option names a column, which such a file has not, or a folder for a cache.
    """

    def __init__(
        self,
        source: SvmlightFile,
        choices: Choices,
        split: Split,
        given: tuple[TableSchema, Standardization] | None,
        cache_dir: str | None,
    ):
        if given is None:
            choices.refuse_columns(source)
        if cache_dir is not None:
            raise InputError(f"--data.cache_dir: {source.name} is an svmlight file and stays in memory; leave it out")
        self.source, self._choices, self._split, self._given = source, choices, split, given

    def needs_cache(self) -> bool:
        """False: the rows stay in memory."""
        return False

    def decode(self, dtype: torch.dtype, processes: Processes = ALONE) -> Decoded:
        """The rows, in float64 whatever the dtype; of several processes the first one reads them all.

        Raises:
            InputError: if the file cannot be read, its labels are not two, or it does not fit the given schema.
        """
        return self._whole() if processes.count == 1 else Decoded.of_first(self._whole, processes)

    def _whole(self) -> Decoded:
        read = _Whole.of(self.source)
        schema, training = (None, None) if self._given is None else self._given
        x = read.features(schema, self.source)
        notes: list[tuple[int, str]] = []
        if schema is None:
            schema, y = self._labelled(read, x.shape[1], notes)
        else:
            y = _codes(read, schema, self.source)
        codes = {}
        if GROUPS.name in self._choices.roles or (schema.groups and not self._split.every_row):
            if read.query is None:
                raise InputError(f"{self.source.name}: no line has a qid, which --data.groups names")
            codes[GROUPS.name] = np.unique(read.query, return_inverse=True)[1].astype(np.int32)
        elif read.query is not None and self._given is None:
            notes.append((INFO, f"{self.source.name}: the qid is not used; --data.groups qid makes groups of it"))
        scan = Scan(schema, y, {}, None, False, notes, codes, [])
        partition = Partition.of(scan, self._split)
        index = [torch.from_numpy(np.flatnonzero(partition.of_row == code)) for code in range(len(PARTS))]
        targets = torch.from_numpy(y).double()
        rows = [Rows(x.take(of_part), targets[of_part]) if len(of_part) else None for of_part in index]
        if training is None:
            assert rows[0] is not None  # noqa: S101 (the split leaves no part empty)
            training = moments([(rows[0].x, None)])
            refuse_overflow(schema, training, self.source.name)
            notes += constant_in_words(self.source.name, schema, training)
        groups = torch.from_numpy(codes[GROUPS.name])[index[0]] if codes else None
        return Decoded(
            schema,
            training,
            Standardization.identity(x.shape[1]),
            tuple(rows),
            groups,
            None,
            [],
            1.0,
            0.0,
            partition.rule,
            scan.fingerprint(),
            rows_fingerprint(partition.of_row, {"y": y}, 1.0),
            tuple(notes),
            False,
            index[0] if partition.numbered else None,
        )

    def _labelled(self, read: _Whole, width: int, notes: list[tuple[int, str]]) -> tuple[TableSchema, np.ndarray]:
        """The schema of a new fit, and the targets, 0 and 1, uint8, (n,)."""
        name = self.source.name
        values, code, counts = np.unique(read.label, return_inverse=True, return_counts=True)
        of_value = dict(zip(map(_plain, values.tolist()), counts.tolist(), strict=True))
        labels = choose_labels(of_value, self._choices.positive, TARGET, name, typed=True)
        notes.append((INFO, f"{name}: {labels.in_words(TARGET)}"))
        names = [f"x{j + read.first}" for j in range(width)]
        groups = QUERY if GROUPS.name in self._choices.roles else None
        schema = replace(TableSchema.of_numbers(names, TARGET), labels=labels.labels, groups=groups)
        positive = np.array([labels.of_value[value] for value in of_value], dtype=np.uint8)
        return schema, positive[code.reshape(-1)]


class _Whole(NamedTuple):
    """All rows of a file; see `SvmlightRows`. `first` is 0 if an index is 0, otherwise 1."""

    label: np.ndarray
    blocks: list[SvmlightRows]
    query: np.ndarray | None
    first: int

    @classmethod
    def of(cls, source: SvmlightFile) -> _Whole:
        """Read a file.

        Raises:
            InputError: if it has no rows, a label is no finite number, or some blocks of rows have a qid.
        """
        blocks = []
        for block in source.blocks():
            for row in np.flatnonzero(~np.isfinite(block.label))[:1].tolist():
                raise InputError(f"{source.name}, line {block.lines[row]}: the label is {block.label[row]}, no number")
            blocks.append(block)
        blocks = [block for block in blocks if len(block.label)]
        if not blocks:
            raise InputError(f"{source.name} has no rows")
        with_query = [block.query for block in blocks if block.query is not None]
        if len(with_query) not in (0, len(blocks)):
            raise InputError(f"{source.name}: some lines have a qid, others none; every line needs one, or none")
        first = min(int(block.index.min(initial=1)) for block in blocks)
        label = np.concatenate([block.label for block in blocks])
        return cls(label, blocks, np.concatenate(with_query) if with_query else None, first)

    def features(self, schema: TableSchema | None, source: SvmlightFile) -> Csr:
        """The features, (n, d): of a schema, or up to the largest index.

        Raises:
            InputError: if there is no index, or one that the schema has not.
        """
        if schema is not None:
            first, width = first_index(schema, source), len(schema.columns)
        else:
            first = self.first
            width = max(int(block.index.max(initial=-1)) for block in self.blocks) + 1 - first
            if width < 1:
                raise InputError(f"{source.name} has labels and no features")
        return _csr(self.blocks, first, width, source)


def _csr(blocks: Sequence[SvmlightRows], first: int, width: int, source: SvmlightFile) -> Csr:
    """The rows of some blocks as features `first`, first + 1, …, of which there are `width`."""
    for block in blocks:
        for entry in np.flatnonzero((block.index < first) | (block.index >= first + width))[:1].tolist():
            raise InputError(
                f"{source.name}, line {block.line_of(entry)}: index {block.index[entry]} is the feature "
                f"x{block.index[entry]}, which the fit had not: it had x{first} to x{first + width - 1}"
            )
    dtype = np.int32 if width < 2**31 else np.int64
    column = np.concatenate([np.empty(0, dtype), *((block.index - first).astype(dtype) for block in blocks)])
    counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(block.ends) for block in blocks)])
    ends = np.cumsum(counts)
    value = np.concatenate([np.empty(0), *(block.value for block in blocks)])
    return Csr(torch.from_numpy(ends), torch.from_numpy(column), torch.from_numpy(value), width)


def _plain(label: float) -> Level:
    """1.0 as 1."""
    return int(label) if label.is_integer() else label


def _codes(read: _Whole, schema: TableSchema, source: SvmlightFile) -> np.ndarray:
    """The targets of an earlier fit's schema, 0 and 1, uint8, (n,)."""
    values, code = np.unique(read.label, return_inverse=True)
    found = [find_label(schema.written_labels, _plain(value)) for value in values.tolist()]
    if None in found:
        value = values[found.index(None)]
        row = int(np.flatnonzero(read.label == value)[0])
        lines = [line for block in read.blocks for line in block.lines]
        negative, positive = schema.predicted_labels
        raise InputError(
            f"{source.name}, line {lines[row]}: the label is {value:g}; the fit's labels are {negative!r} and "
            f"{positive!r}"
        )
    return np.array(found, dtype=np.uint8)[code.reshape(-1)]


def first_index(schema: TableSchema, source: SvmlightFile) -> int:
    """The index of the first feature of a schema whose features are x0, x1, … or x1, x2 and so on.

    Raises:
        InputError: if its features are others, or it has an offset.
    """
    if schema.offset is not None:
        raise InputError(f"{source.name} is an svmlight file and has no column {schema.offset}, the offset")
    names = schema.feature_names
    first = 0 if names[0] == "x0" else 1
    numbers = all(column.kind == "number" for column in schema.columns)
    if not numbers or any(name != f"x{j}" for j, name in enumerate(names, first)):
        other = next((name for j, name in enumerate(names, first) if name != f"x{j}"), names[0])
        raise InputError(
            f"{source.name} is an svmlight file, whose features are x{first}, x{first + 1}, …; the fit had {other}"
        )
    return first


def encode_svmlight(schema: TableSchema, source: SvmlightFile) -> EncodedRows:
    """The raw features of a file, (n, d); features that it does not reach are 0.

    Raises:
        InputError: if the fit had other features, or an offset.
    """
    first = first_index(schema, source)
    blocks = [block for block in source.blocks() if len(block.label)]
    _tell_doubt(source, first, (block.index for block in blocks))
    return EncodedRows(_csr(blocks, first, len(schema.columns), source))


def encode_svmlight_in_blocks(schema: TableSchema, source: SvmlightFile) -> Iterator[EncodedRows]:
    """The rows that `encode_svmlight` gives, in blocks; one at least."""
    first, width, least = first_index(schema, source), len(schema.columns), []
    for block in source.blocks():
        if len(block.label):
            yield EncodedRows(_csr([block], first, width, source))
            least.append(np.sort(block.index)[:1])
    _tell_doubt(source, first, least)
    if not least:  # the predictions of a file without rows are a table without rows
        yield EncodedRows(_csr([], first, width, source))


def _tell_doubt(source: SvmlightFile, first: int, indices: Iterable[np.ndarray]) -> None:
    """Warn if the indices, as in the file, may count from another number than the features do."""
    lowest = min((int(index.min()) for index in indices if len(index)), default=0)
    if first == 0 and lowest > 0:
        log.warning(f"{source.name}: no index is 0; they are taken to count from 0, since the fit has a feature x0")
