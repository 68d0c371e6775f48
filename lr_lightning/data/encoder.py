"""Rows of a table as rows of the design matrix, by a schema. The fit and every prediction go through here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.arrays import is_array
from lr_lightning.data.choices import refuse_absent
from lr_lightning.data.columns import (
    MISSING,
    UNSEEN,
    category_codes,
    coded,
    holds_text,
    missing_rows,
    numbers,
    refuse_infinite_level,
    text_values,
    width,
)
from lr_lightning.data.notation import NOTATION_OF_MARK, doubt_in_words, kind_of_text
from lr_lightning.data.readers.base import (
    BATCH_ROWS,
    KIND_IN_WORDS,
    MemorySource,
    MissingTexts,
    Source,
    TypesChanged,
    kind_of,
    shown,
)
from lr_lightning.data.readers.memory import to_arrow
from lr_lightning.data.readers.open import open_source
from lr_lightning.data.schema import Column, TableSchema
from lr_lightning.data.spelling import value_of
from lr_lightning.errors import InputError

log = logging.getLogger("lr_lightning")

BLOCK_BYTES = 2 << 20  # a block of float64 rows that stays in the cache while it is worked on
_TYPES = {"number": pa.float64(), "boolean": pa.string()}  # of columns in text files; truth has several spellings


class Block(NamedTuple):
    """Some consecutive rows.

    Attributes:
        x: features as rows of the matrix, float64, shape (d, r), NaN where missing and not filled. Whoever
            takes it may write into it; the memory is used again for the next block.
        rows: which rows of the table these are.
        missing: boolean (r,), rows with a missing and not filled value; None if there are none.
        finite: whether nothing is missing or infinite.
    """

    x: np.ndarray
    rows: slice
    missing: np.ndarray | None
    finite: bool


class Encoder:
    """Codes blocks of Arrow rows.

    Args:
        schema: what to make of the columns. `fill` stands in for missing values where it is given.
        source: where the rows come from, for messages.
        in_use: which of its rows count, boolean, shape (N,), None for all; the others may hold anything, and are NaN.
    """

    def __init__(self, schema: TableSchema, source: Source, in_use: np.ndarray | None = None):
        self.schema, self.source, self._in_use = schema, source, in_use
        self.n_rows = 0  # coded so far
        self.names = [column.name for column in schema.columns]
        self.n_features = len(schema.feature_names)
        self._levels = [{level: i for i, level in enumerate(column.levels)} for column in schema.columns]

    def blocks(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
        """The rows of `batches`, which hold the schema's columns first, in its order.

        All blocks but the last have the same size, however the batches are cut: what is computed block by
        block does not depend on how a table was stored or read.
        """
        step = max(1024, BLOCK_BYTES // (8 * max(1, self.n_features)))
        x, missing = np.empty((self.n_features, step)), np.zeros(step, dtype=bool)
        filled = 0
        for batch in batches:
            prepared = [self._prepared(j, batch) for j in range(len(self.names))]
            first, n = 0, batch.num_rows
            while first < n:
                k = min(step - filled, n - first)
                self._fill(x[:, filled : filled + k], missing[filled : filled + k], prepared, first)
                if self._in_use is not None:
                    start = self.n_rows + first
                    unused = np.flatnonzero(~self._in_use[start : start + k]) + filled
                    x[:, unused], missing[unused] = np.nan, True
                first, filled = first + k, filled + k
                if filled == step:
                    yield self._block(x, missing, self.n_rows + first)
                    filled = 0
                    missing.fill(False)
            self.n_rows += n
        if filled:
            yield self._block(x[:, :filled], missing[:filled], self.n_rows)

    @staticmethod
    def _block(x: np.ndarray, missing: np.ndarray, end: int) -> Block:
        # A sum is finite only if every value is, and is cheaper than asking each.
        with np.errstate(all="ignore"):
            finite = bool(np.isfinite(x.sum()))
        if not finite:
            missing |= np.isnan(x).any(axis=0)
        some = bool(missing.any())
        return Block(x, slice(end - x.shape[1], end), missing if some else None, finite and not some)

    def _prepared(self, j: int, batch: pa.RecordBatch) -> np.ndarray:
        """A batch's column as numbers, or as codes of levels."""
        column, array = self.schema.columns[j], batch.column(j)
        check_kind(column, array.type, self.source)
        if column.kind != "category":
            if not holds_text(array.type):
                values = numbers(array)
            else:
                values = self._truth(j, batch) if column.kind == "boolean" else self._read(j, batch)
            if column.kind == "boolean" and kind_of(array.type) == "number":
                self._refuse_other_than_0_and_1(column, values, batch)
            if column.fill is not None and values.dtype.kind == "f":
                absent = np.isnan(values)
                if absent.any():
                    values = np.where(absent, np.float64(column.fill), values)
            return values
        codes = category_codes(array, self._levels[j])
        unseen = codes == UNSEEN
        if unseen.any():
            self._take_unseen(j, codes, batch)
        if column.fill is not None:
            codes[codes == MISSING] = self._levels[j][column.fill]
        return codes

    def _read(self, j: int, batch: pa.RecordBatch) -> np.ndarray:
        """A batch's column of text as numbers."""
        column = self.schema.columns[j]
        values, unreadable = text_values(batch.column(j), column.kind, column.notation, binary=bool(column.binary))
        if unreadable.any():
            unreadable &= ~self._left_out(batch)
        if unreadable.any():
            row = int(unreadable.argmax())
            texts, places = coded(batch.column(j))
            text = str(texts[places[row]])
            what = doubt_in_words(text, column.kind) or f"not a {column.kind}"
            if column.notation and kind_of_text(text) == column.kind:
                what += f"; the fit had {column.kind}s written as {column.notation}"
            raise InputError(
                f"{self.source.name}, {self.source.place(self.n_rows + row)}: column {column.name} holds "
                f"{shown(text)}, {what}"
            )
        return values

    def _left_out(self, batch: pa.RecordBatch) -> np.ndarray:
        """Boolean (r,): rows of the batch that is being coded at which nobody looks, in which anything may stand."""
        if self._in_use is not None:
            return ~self._in_use[self.n_rows : self.n_rows + batch.num_rows]
        left_out = np.zeros(batch.num_rows, bool)
        if self.schema.missing == "drop":
            absences = map(missing_rows, batch.columns[: len(self.names)])
            left_out = np.logical_or.reduce([left_out, *(absent for absent in absences if absent is not None)])
        return left_out

    def _fill(self, x: np.ndarray, missing: np.ndarray, prepared: list[np.ndarray], first: int) -> None:
        """Write the rows from `first` on into x (d, k), and mark in `missing` (k,) what x cannot show."""
        rows, at = slice(first, first + x.shape[1]), 0
        for column, values in zip(self.schema.columns, prepared, strict=True):
            if column.kind != "category":
                x[at] = values[rows]
                at += 1
                continue
            codes, n = values[rows], width(column)
            x[at : at + n] = 0.0
            not_reference = np.flatnonzero(codes > 0)
            x[at - 1 + codes[not_reference], not_reference] = 1.0
            absent = codes == MISSING
            if absent.any():
                x[at : at + n, absent] = np.nan
                missing |= absent  # a category of one level has no feature that could be NaN
            at += n

    def _take_unseen(self, j: int, codes: np.ndarray, batch: pa.RecordBatch) -> None:
        """Give levels that the fit has not seen the code they get, in place."""
        if self.schema.unseen == "reference":
            codes[codes == UNSEEN] = 0
            return
        codes[self._left_out(batch) & (codes == UNSEEN)] = MISSING
        unseen = codes == UNSEEN
        if unseen.any():
            row = int(unseen.argmax())
            values, places = coded(batch.column(j))
            refuse_infinite_level(values, places, self.names[j], self.source, self.n_rows)
            raise InputError(
                f"{self.source.name}, {self.source.place(self.n_rows + row)}: column {self.names[j]} holds "
                f"{shown(values[places[row]])}, a level the fit has not seen; "
                "fit with --data.unseen reference to take it for the reference level"
            )

    def _truth(self, j: int, batch: pa.RecordBatch) -> np.ndarray:
        """A batch's column of text as 0 and 1, NaN where missing: float64 (r,)."""
        texts, places = coded(batch.column(j))
        meanings = [None if text is None else value_of(text) for text in texts]
        known = [value if value in (0, 1) else None for value in meanings]
        wrong = np.array([value is not None and value not in (0, 1) for value in meanings] + [False])[places]
        if wrong.any():
            wrong &= ~self._left_out(batch)
        if wrong.any():
            row = int(wrong.argmax())
            where = self.source.place(self.n_rows + row)
            raise InputError(
                f"{self.source.name}, {where}: column {self.names[j]} holds {shown(texts[places[row]])}, "
                "not true or false"
            )
        return np.array([np.nan if value is None else float(value) for value in known] + [np.nan])[places]

    def _refuse_other_than_0_and_1(self, column: Column, values: np.ndarray, batch: pa.RecordBatch) -> None:
        wrong = (
            ~(np.isnan(values) | (values == 0) | (values == 1))
            if values.dtype.kind == "f"
            else values * (values - 1) != 0
        )
        if wrong.any():
            wrong &= ~self._left_out(batch)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{self.source.name}, {self.source.place(self.n_rows + row)}: column {column.name} holds "
                f"{values[row]}, where the fit had true/false values"
            )

    def refuse_infinite(self, block: Block) -> None:
        """Raise InputError if a value of the block is infinite."""
        infinite = np.isinf(block.x)
        if infinite.any():
            feature, row = (int(i) for i in np.argwhere(infinite)[0])
            name = self.schema.feature_names[feature]
            where = self.source.place(block.rows.start + row)
            raise InputError(f"{self.source.name}, {where}: column {name} holds an infinite value")

    def refuse_missing(self, block: Block) -> None:
        """Raise InputError if a value of the block is missing."""
        if block.missing is None:
            return
        row = int(block.missing.argmax())
        absent = np.isnan(block.x[:, row])
        where = self.source.place(block.rows.start + row)
        at, named = 0, []
        for column in self.schema.columns:
            if any(absent[at : at + width(column)]):
                named.append(column.name)
            at += width(column)
        # A category of one level makes no feature that could be missing.
        named = named or [c.name for c in self.schema.columns if width(c) == 0]
        raise InputError(
            f"{self.source.name}, {where}: column {named[0]} has no value; fit with --data.missing drop "
            "(such rows get no prediction) or --data.missing impute"
            + (f"; {doubt}" if (doubt := self.source.missing_in_words(named)) else "")
        )

    def tell_missing(self) -> None:
        """Say so where a word in a category was taken for a missing value."""
        if doubt := self.source.missing_in_words(c.name for c in self.schema.columns if c.kind == "category"):
            log.warning(" ".join(f"{self.source.name}: the text {doubt}".splitlines()))


def check_kind(column: Column, dtype: pa.DataType, source: Source) -> None:
    """Raise InputError if values of an Arrow type cannot stand in the column."""
    kind = kind_of(dtype)
    wanted = column.kind
    may_be_read = column.notation is not None or bool(column.binary) or source.decimal_marks is not None
    if may_be_read and holds_text(dtype) and wanted in ("number", "date", "time"):
        return
    if kind == wanted == "category":
        value_type = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
        kind = "category" if kind_of(value_type) == "category" else "number"
    if wanted == "category" and not isinstance(column.levels[0], str):
        wanted = "number"
        kind = "number" if kind == "boolean" else kind
    if pa.types.is_dictionary(dtype) and wanted != "category":
        kind = kind_of(dtype.value_type)
    if kind in (wanted, "missing") or (wanted == "boolean" and kind in ("number", "category")):
        return
    if kind == "boolean" and column.binary:
        return
    found = KIND_IN_WORDS.get(kind or "", f"values of type {dtype}")
    raise InputError(f"{source.name}: column {column.name} holds {found}, where the fit had {KIND_IN_WORDS[wanted]}")


def prepare(source: Source, schema: TableSchema, *, labelled: bool = False) -> None:
    """Tell the source what the schema knows of the columns' types, so that text is not guessed at."""
    types = {column.name: _TYPES[column.kind] for column in schema.columns if column.kind in _TYPES}
    of_text = set(_read_from_text(schema, source))
    source.guess({name: kind for name, kind in types.items() if kind == pa.float64() and name not in of_text})
    types = {name: kind for name, kind in types.items() if kind != pa.float64()} | dict.fromkeys(of_text, pa.string())
    types |= {c.name: pa.string() for c in schema.columns if c.levels and isinstance(c.levels[0], str)}
    if labelled:
        types[schema.target] = pa.string()  # labels are compared as values, however they are spelled
        if schema.weight:
            types[schema.weight] = pa.string() if source.decimal_marks else pa.float64()
    source.expect(types)
    known = {c.name: [level for level in c.levels if isinstance(level, str)] for c in schema.columns}
    known[schema.target] = [str(label) for label in schema.written_labels]
    source.count_as_missing(MissingTexts(schema.na, known))


def _read_from_text(schema: TableSchema, source: Source) -> list[str]:
    """The columns of numbers that a text file's parser could not read, or not as the fit did."""
    marks = source.decimal_marks or {}
    found = []
    for column in schema.columns:
        mark = marks.get(column.name)
        parsed_alike = (mark or not marks) if column.notation is None else column.notation == NOTATION_OF_MARK.get(mark)
        if column.kind == "number" and not parsed_alike:
            found.append(column.name)
    return found


def _open(schema: TableSchema, data: Any, name: str | None) -> Source:
    if is_array(data):
        name = name or "the array"
        table = to_arrow(data, name, [column.name for column in schema.columns])
        return MemorySource([table], table.column_names, name)
    source = open_source(data, name)
    prepare(source, schema)
    refuse_absent([column.name for column in schema.columns], source)
    return source


def _encoded(encoder: Encoder, batches: Iterable[pa.RecordBatch]) -> Iterator[Tensor]:
    for block in encoder.blocks(batches):
        if not block.finite:
            encoder.refuse_infinite(block)
            if encoder.schema.missing == "error":
                encoder.refuse_missing(block)
        x = block.x.T.copy()
        if block.missing is not None:
            x[block.missing] = np.nan
        yield torch.from_numpy(x)


def encode_table(schema: TableSchema, data: Any, name: str | None) -> Tensor:
    """What `encode.encode` gives of a table, or of an array that takes more than numbers to code."""
    source = _open(schema, data, name)
    columns = [column.name for column in schema.columns]
    source = source.load(columns)
    encoder = Encoder(schema, source)
    parts = list(_encoded(encoder, source.batches(columns)))
    encoder.tell_missing()
    return torch.cat(parts) if parts else torch.empty(0, len(schema.feature_names), dtype=torch.float64)


def _in_slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Short rows make a block of text many rows, which take ten times its bytes as numbers."""
    for batch in batches:
        yield from (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _whatever_their_types(source: Source, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Every row once, in order, though columns of a text file may change their types on the way."""
    n_given = 0
    while True:
        first = 0
        try:
            for batch in source.batches(columns):
                if first + batch.num_rows > n_given:
                    yield batch.slice(n_given - first)
                    n_given = first + batch.num_rows
                first += batch.num_rows
        except TypesChanged:
            continue
        return


def encode_table_in_blocks(
    schema: TableSchema, data: Any, name: str | None, identifier: str | None
) -> Iterator[tuple[Tensor, pa.Array | None]]:
    """What `encode.encode_blocks` gives: features (n, d) and identifiers, block by block."""
    source = _open(schema, data, name)
    columns = [column.name for column in schema.columns]
    if identifier is not None:
        refuse_absent([identifier], source)
        if identifier not in columns:
            source.expect({identifier: pa.string()})
            columns.append(identifier)
    as_text = None
    if identifier in columns[: len(schema.columns)] and not source.typed:
        # A second reading in equal blocks, for an identifier is repeated as it stands in the file.
        twin = open_source(data, name)
        twin.expect({identifier: pa.string()})
        as_text = _in_slices(twin.batches([identifier]))
    encoder = Encoder(schema, source)
    for batch in _in_slices(_whatever_their_types(source, columns)):
        ids = None if identifier is None else batch.column(columns.index(identifier))
        if as_text is not None:
            ids = next(as_text).column(0)
        yield torch.cat(list(_encoded(encoder, [batch]))), ids
    encoder.tell_missing()
    if not encoder.n_rows:  # a header alone predicts a header alone
        ids = None if identifier is None else pa.array([], pa.string())
        yield torch.empty(0, encoder.n_features, dtype=torch.float64), ids
