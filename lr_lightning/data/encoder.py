"""Encoding of a table: its rows as rows of the design matrix, for the fit and for every prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
)
from lr_lightning.data.features import EncodedRows, Layout
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
from lr_lightning.data.roles import OFFSET, ROLES
from lr_lightning.data.rows_in_use import checked_numbers
from lr_lightning.data.schema import Column, TableSchema
from lr_lightning.data.spelling import value_of
from lr_lightning.errors import InputError

log = logging.getLogger("lr_lightning")

BLOCK_BYTES = 2 << 20  # of numbers and codes; a block of this size stays in the processor's cache
_TYPES = {
    "number": pa.float64(),
    "boolean": pa.string(),
}  # in text files; true and false have several spellings
_NO_OFFSETS = torch.empty(0, dtype=torch.float64)


class Block(NamedTuple):
    """Some consecutive rows.

    Attributes:
        x: columns of numbers, float64, shape (m, r), NaN for a missing value that is not filled. It may be
            overwritten; the next block uses the same memory, as that of the codes.
        codes: columns of categories as numbers of levels, int32, shape (c, r), MISSING for a missing value that is
            not filled.
        rows: the numbers of the rows in the table.
        missing: boolean (r,), the rows with a missing value that is not filled; None if there are none.
        finite: whether no value is missing or infinite.
    """

    x: np.ndarray
    codes: np.ndarray
    rows: slice
    missing: np.ndarray | None
    finite: bool


class Encoder:
    """Encodes Arrow batches as blocks of numbers and codes.

    Args:
        schema: the columns and how they are encoded. A column's `fill` replaces its missing values.
        source: the table, for messages.
        in_use: which of its rows are in use, boolean, shape (N,), None for all. The others are not checked, and all
            of their values are missing.
    """

    def __init__(self, schema: TableSchema, source: Source, in_use: np.ndarray | None = None):
        self.schema, self.source, self._in_use = schema, source, in_use
        self.n_rows = 0  # encoded so far
        self.names = [column.name for column in schema.columns]
        self.numbers = [column for column in schema.columns if column.kind != "category"]
        self.categories = [column for column in schema.columns if column.kind == "category"]
        self._levels = [{level: i for i, level in enumerate(column.levels)} for column in schema.columns]

    def blocks(self, batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
        """The encoded rows of `batches`, whose first columns are the schema's, in its order.

        All blocks but the last have the same size, whatever the sizes of the batches. So sums over blocks do not
        depend on how a table was stored or read.

        Raises:
            InputError: if a value cannot be read as its column's kind, or a level is unseen under `unseen="error"`.
        """
        m, c = len(self.numbers), len(self.categories)
        step = max(1024, BLOCK_BYTES // max(1, 8 * m + 4 * c))
        x, codes, missing = np.empty((m, step)), np.empty((c, step), dtype=np.int32), np.zeros(step, dtype=bool)
        filled = 0
        for batch in batches:
            prepared = [self._prepared(j, batch) for j in range(len(self.names))]
            first, n = 0, batch.num_rows
            while first < n:
                k = min(step - filled, n - first)
                self._fill(x[:, filled : filled + k], codes[:, filled : filled + k], prepared, first)
                if self._in_use is not None:
                    start = self.n_rows + first
                    unused = np.flatnonzero(~self._in_use[start : start + k]) + filled
                    x[:, unused], codes[:, unused], missing[unused] = np.nan, MISSING, True
                first, filled = first + k, filled + k
                if filled == step:
                    yield self._block(x, codes, missing, self.n_rows + first)
                    filled = 0
                    missing.fill(False)
            self.n_rows += n
        if filled:
            yield self._block(x[:, :filled], codes[:, :filled], missing[:filled], self.n_rows)

    @staticmethod
    def _block(x: np.ndarray, codes: np.ndarray, missing: np.ndarray, end: int) -> Block:
        # A sum is finite only if every value is, and costs less than a test of each value.
        with np.errstate(all="ignore"):
            finite = bool(np.isfinite(x.sum()))
        if not finite:
            missing |= np.isnan(x).any(axis=0)
        if codes.min(initial=0) < 0:
            missing |= (codes == MISSING).any(axis=0)
        some = bool(missing.any())
        return Block(x, codes, slice(end - len(missing), end), missing if some else None, finite and not some)

    def _prepared(self, j: int, batch: pa.RecordBatch) -> np.ndarray:
        """Column j of a batch as numbers, or a category as codes of its levels, (r,)."""
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
        """Column j of a batch, which is text, as numbers, float64 (r,)."""
        column = self.schema.columns[j]
        values, unreadable = text_values(batch.column(j), column.kind, column.notation, binary=bool(column.binary))
        row = self._first_in_use(unreadable, batch)
        if row is not None:
            texts, places = coded(batch.column(j))
            text = str(texts[places[row]])
            what = doubt_in_words(text, column.kind) or f"not a {column.kind}"
            if column.notation and kind_of_text(text) == column.kind:
                what += f"; the fit had {column.kind}s written as {column.notation}"
            raise self._refusal(row, column, f"{shown(text)}, {what}")
        return values

    def _first_in_use(self, wrong: np.ndarray, batch: pa.RecordBatch) -> int | None:
        """The first row of the batch that is `wrong`, (r,), and is not left out; None if there is none."""
        if wrong.any():
            wrong = wrong & ~self._left_out(batch)
        return int(wrong.argmax()) if wrong.any() else None

    def _refusal(self, row: int, column: Column, what: str) -> InputError:
        """The error for a value in row `row` of the current batch."""
        return InputError(f"{self.source.where(self.n_rows + row)}: column {column.name} holds {what}")

    def _left_out(self, batch: pa.RecordBatch) -> np.ndarray:
        """Boolean (r,): the rows of the current batch that are not in use; their values are not checked."""
        if self._in_use is not None:
            return ~self._in_use[self.n_rows : self.n_rows + batch.num_rows]
        left_out = np.zeros(batch.num_rows, bool)
        if self.schema.missing == "drop":
            absences = map(missing_rows, batch.columns[: len(self.names)])
            left_out = np.logical_or.reduce([left_out, *(absent for absent in absences if absent is not None)])
        return left_out

    def _fill(self, x: np.ndarray, codes: np.ndarray, prepared: list[np.ndarray], first: int) -> None:
        """Write k rows, from `first` on, into the numbers x (m, k) and the codes (c, k)."""
        rows, numbers, categories = slice(first, first + x.shape[1]), iter(x), iter(codes)
        for column, values in zip(self.schema.columns, prepared, strict=True):
            next(categories if column.kind == "category" else numbers)[:] = values[rows]

    def _take_unseen(self, j: int, codes: np.ndarray, batch: pa.RecordBatch) -> None:
        """Replace the code UNSEEN in place, by the code of the reference level or by MISSING, or raise InputError."""
        if self.schema.unseen == "reference":
            codes[codes == UNSEEN] = 0
            return
        row = self._first_in_use(codes == UNSEEN, batch)
        if row is not None:
            values, places = coded(batch.column(j))
            refuse_infinite_level(values, places, self.names[j], self.source, self.n_rows)
            hint = "fit with --data.unseen reference to take it for the reference level"
            what = f"{shown(values[places[row]])}, a level the fit has not seen; {hint}"
            raise self._refusal(row, self.schema.columns[j], what)
        codes[codes == UNSEEN] = MISSING

    def _truth(self, j: int, batch: pa.RecordBatch) -> np.ndarray:
        """Column j of a batch, text that means true or false, as 0 and 1, NaN if missing: float64 (r,)."""
        texts, places = coded(batch.column(j))
        meanings = [None if text is None else value_of(text) for text in texts]
        known = [value if value in (0, 1) else None for value in meanings]
        wrong = np.array([value is not None and value not in (0, 1) for value in meanings] + [False])[places]
        row = self._first_in_use(wrong, batch)
        if row is not None:
            raise self._refusal(row, self.schema.columns[j], f"{shown(texts[places[row]])}, not true or false")
        return np.array([np.nan if value is None else float(value) for value in known] + [np.nan])[places]

    def _refuse_other_than_0_and_1(self, column: Column, values: np.ndarray, batch: pa.RecordBatch) -> None:
        wrong = (
            ~(np.isnan(values) | (values == 0) | (values == 1))
            if values.dtype.kind == "f"
            else values * (values - 1) != 0
        )
        row = self._first_in_use(wrong, batch)
        if row is not None:
            raise self._refusal(row, column, f"{values[row]}, where the fit had true/false values")

    def refuse_infinite(self, block: Block) -> None:
        """Raise InputError if a value of the block is infinite."""
        infinite = np.isinf(block.x)
        if infinite.any():
            number, row = (int(i) for i in np.argwhere(infinite)[0])
            where = self.source.where(block.rows.start + row)
            raise InputError(f"{where}: column {self.numbers[number].name} holds an infinite value")

    def refuse_missing(self, block: Block) -> None:
        """Raise InputError if a value of the block is missing."""
        if block.missing is None:
            return
        row = int(block.missing.argmax())
        of_numbers, of_categories = iter(np.isnan(block.x[:, row])), iter(block.codes[:, row] == MISSING)
        absent = [next(of_categories if c.kind == "category" else of_numbers) for c in self.schema.columns]
        named = [column.name for column, is_absent in zip(self.schema.columns, absent, strict=True) if is_absent]
        where = self.source.where(block.rows.start + row)
        raise InputError(
            f"{where}: column {named[0]} has no value; fit with --data.missing drop "
            "(such rows get no prediction) or --data.missing impute"
            + (f"; {doubt}" if (doubt := self.source.missing_in_words(named)) else "")
        )

    def tell_missing(self) -> None:
        """Warn if a text in a category was counted as a missing value."""
        if doubt := self.source.missing_in_words(c.name for c in self.schema.columns if c.kind == "category"):
            log.warning(" ".join(f"{self.source.name}: the text {doubt}".splitlines()))


def check_kind(column: Column, dtype: pa.DataType, source: Source) -> None:
    """Raise InputError if the column cannot hold values of the Arrow type."""
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
    """Tell the source the columns' types and missing texts that the schema knows, so that it does not guess them."""
    types = {column.name: _TYPES[column.kind] for column in schema.columns if column.kind in _TYPES}
    of_text = set(_read_from_text(schema, source))
    source.guess({name: kind for name, kind in types.items() if kind == pa.float64() and name not in of_text})
    types = {name: kind for name, kind in types.items() if kind != pa.float64()} | dict.fromkeys(of_text, pa.string())
    types |= {c.name: pa.string() for c in schema.columns if c.levels and isinstance(c.levels[0], str)}
    roles = schema.roles if labelled else {} if schema.offset is None else {OFFSET.name: schema.offset}
    of_number = pa.string() if source.decimal_marks else pa.float64()
    for role, name in roles.items():
        types.setdefault(name, pa.string() if ROLES[role].coded else of_number)  # groups may be a feature
    if labelled:  # labels are compared as values, not as texts
        types[schema.target] = of_number if schema.trials is not None else pa.string()
    source.expect(types)
    known = {c.name: [level for level in c.levels if isinstance(level, str)] for c in schema.columns}
    known[schema.target] = [] if schema.trials is not None else [str(label) for label in schema.written_labels]
    source.count_as_missing(MissingTexts(schema.na, known))


def _read_from_text(schema: TableSchema, source: Source) -> list[str]:
    """The columns of numbers that the parser of a text file cannot read, or reads with another decimal mark."""
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
    if schema.offset is not None:
        refuse_absent([schema.offset], source, "offset column")
    return source


def _without_offset(schema: TableSchema, data: Any) -> TableSchema:
    """The schema of data that may be an array, whose columns are the features alone."""
    return replace(schema, offset=None) if is_array(data) else schema


def _columns(schema: TableSchema) -> list[str]:
    """The columns that a prediction needs, the features first."""
    return [*(column.name for column in schema.columns), *([] if schema.offset is None else [schema.offset])]


def _offsets(encoder: Encoder, batch: pa.RecordBatch) -> Tensor | None:
    """The offsets of the batch that comes next, float64, (r,), NaN for a missing one under `missing="drop"`."""
    schema, first = encoder.schema, encoder.n_rows
    if schema.offset is None:
        return None
    array = batch.column(schema.offset)
    absent = missing_rows(array) if schema.missing == "drop" else None
    values = checked_numbers(
        OFFSET,
        array,
        schema.offset,
        encoder.source,
        lambda row: encoder.source.where(first + row),
        None if absent is None else ~absent,
    )
    return torch.from_numpy(values)


def _encoded(encoder: Encoder, batches: Iterable[pa.RecordBatch]) -> EncodedRows:
    """The encoded rows of `batches`, without identifiers and offsets."""
    layout, m = Layout.of(encoder.schema), len(encoder.numbers)
    numbers, codes = [np.empty((0, m))], [np.empty((len(layout.levels), 0), dtype=np.int32)]
    absent, some_absent = [np.empty(0, dtype=bool)], False
    for block in encoder.blocks(batches):
        if not block.finite:
            encoder.refuse_infinite(block)
            if encoder.schema.missing == "error":
                encoder.refuse_missing(block)
        some_absent |= block.missing is not None
        absent.append(np.zeros(block.codes.shape[1], dtype=bool) if block.missing is None else block.missing.copy())
        numbers.append(block.x.T.copy())
        numbers[-1][absent[-1]] = np.nan
        codes.append(block.codes[layout.coded, :].clip(min=0))
    x = layout.features(
        torch.from_numpy(np.concatenate(numbers)),
        torch.from_numpy(np.concatenate(codes, axis=1)).T if layout.levels else None,
    )
    return EncodedRows(x, missing=torch.from_numpy(np.concatenate(absent)) if some_absent else None)


def encode_table(schema: TableSchema, data: Any, name: str | None) -> EncodedRows:
    """The raw features (n, d) and the offsets (n,) of a table, as described at `encode.encode_rows`."""
    schema = _without_offset(schema, data)
    source, columns = _open(schema, data, name), _columns(schema)
    source = source.load(columns)
    encoder, offsets = Encoder(schema, source), []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in source.batches(columns):
            offsets.append(_offsets(encoder, batch))
            yield batch

    rows = _encoded(encoder, batches())
    encoder.tell_missing()
    return rows if schema.offset is None else rows._replace(offset=torch.cat([_NO_OFFSETS, *offsets]))


def _in_slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of at most `BATCH_ROWS` rows, because short rows of text take ten times their bytes as numbers."""
    for batch in batches:
        yield from (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _whatever_their_types(source: Source, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Every row once, in order, also if a text file is read anew because a column's type has changed."""
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
) -> Iterator[EncodedRows]:
    """The raw features (r, d), the identifiers (r,) and the offsets (r,) of a table, in blocks; see `encode_table`."""
    schema = _without_offset(schema, data)
    source, columns = _open(schema, data, name), _columns(schema)
    if identifier is not None:
        refuse_absent([identifier], source)
        if identifier not in columns:
            source.expect({identifier: pa.string()})
            columns.append(identifier)
    as_text = None
    if identifier in _columns(schema) and not source.typed:
        # The identifier is read a second time as text, in the same blocks, to give it as it is written in the file.
        twin = open_source(data, name)
        twin.expect({identifier: pa.string()})
        as_text = _in_slices(twin.batches([identifier]))
    encoder = Encoder(schema, source)
    for batch in _in_slices(_whatever_their_types(source, columns)):
        ids = None if identifier is None else batch.column(columns.index(identifier))
        if as_text is not None:
            ids = next(as_text).column(0)
        offset = _offsets(encoder, batch)
        yield _encoded(encoder, [batch])._replace(ids=ids, offset=offset)
    encoder.tell_missing()
    if not encoder.n_rows:  # the predictions of a table without rows are a table without rows
        ids = None if identifier is None else pa.array([], pa.string())
        yield _encoded(encoder, [])._replace(ids=ids, offset=None if schema.offset is None else _NO_OFFSETS)
