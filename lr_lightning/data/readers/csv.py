"""Tables of delimited text (CSV, TSV and similar formats), parsed by pyarrow."""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from lr_lightning.data.readers import dialect as dialects
from lr_lightning.data.readers.base import MemorySource, Source, TypesChanged, shown
from lr_lightning.errors import InputError

_MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "Null")
_TRUE, _FALSE = ("true", "True", "TRUE", "1"), ("false", "False", "FALSE", "0")
_CONVERSION = re.compile(
    r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to ([^:]+): invalid value '(.*)'", re.DOTALL
)
STREAM_BLOCK_BYTES = 4 << 20  # Arrow reads ahead, and short rows take fifty times this while they are decoded
_WIDER = {  # the type to try next if a value does not fit the type that the first block suggested
    pa.int64(): pa.float64(),
    pa.date32(): pa.timestamp("s"),
    pa.timestamp("s"): pa.timestamp("ns"),
}


class DelimitedSource(Source):
    """A file of delimited text.

    Args:
        path: the path of the file.
        name: the name of the table in messages.

    Raises:
        InputError: if the file is empty, damaged or not UTF-8, or two columns have one name.
    """

    typed = False
    usual = _MISSING

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.dialect = dialects.probe(path, name)
        self.names = [field.strip() for field in self.dialect.header]  # names are without outer blanks
        self._types: dict[str, pa.DataType] = {}  # passed to pyarrow
        self._fixed: set[str] = set()  # columns whose type is known, and must not be widened
        self._found: dict[str, pa.DataType] = {}  # the types in the first block of the last sweep
        self.refuse_duplicates()

    @property
    def decimal_marks(self) -> Mapping[str, str]:
        """The decimal marks that the beginning of the file shows."""
        return {self.names[place]: mark for place, mark in self.dialect.decimal_marks.items()}

    def expect(self, types: Mapping[str, pa.DataType]) -> None:
        """Set the types of columns."""
        known = {name: kind for name, kind in types.items() if name in self.names}
        self._types.update(known)
        self._fixed.update(known)

    def guess(self, types: Mapping[str, pa.DataType]) -> None:
        """Set the types to try first."""
        self._types.update({name: kind for name, kind in types.items() if name in self.names})

    def decoded_bytes(self, columns: Sequence[str]) -> int:
        """An estimate from the size of the file."""
        return self.path.stat().st_size * (8 if self.dialect.compression else 2)

    def identity(self) -> list[Any]:
        """Path, size, time of change and inode."""
        stat = self.path.stat()
        return [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino]

    def load(self, columns: Sequence[str]) -> MemorySource:
        """The whole file in memory, with types that fit all rows."""
        return MemorySource([self._cleaned(self.table(columns))], columns, self)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows, with types that fit all of them; texts that count as missing are still texts in quotes."""
        while True:
            try:
                with self._stream() as stream:
                    table = csv.read_csv(stream, **self._options(columns))
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                if not self._widen(error):
                    raise self._explained(error) from None
                continue
            self._check(table.schema)
            if not self._leave_as_text(columns, table.schema.types):
                return table.rename_columns(list(columns))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of rows, in constant memory.

        Raises:
            InputError: if the file is damaged, or a value does not fit the type that `expect` has set.
            TypesChanged: if a value does not fit the type that the first block suggested; the next call uses a type
                that fits it.
        """
        options = self._options(columns)
        options["read_options"].block_size = STREAM_BLOCK_BYTES
        try:
            with self._stream() as stream, csv.open_csv(stream, **options) as reader:
                self._check(reader.schema)
                self._found = dict(zip(columns, reader.schema.types, strict=True))
                if self._leave_as_text(columns, reader.schema.types):
                    raise TypesChanged
                for batch in reader:
                    yield self._cleaned_batch(batch.rename_columns(list(columns)))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if self._widen(error):
                raise TypesChanged from None
            raise self._explained(error) from None

    def place(self, row: int) -> str:
        """The line of data row `row` (from 0)."""
        found = dialects.first_line(self.path, self.dialect, lambda number, _: number == row)
        return f"line {found[0]}" if found else f"row {row + 1}"

    def place_of(self, column: str, value: str) -> str | None:
        """The first line in which `column` holds the text `value`; None if there is none."""
        index = self.names.index(column)
        found = dialects.first_line(
            self.path,
            self.dialect,
            lambda _, fields: index < len(fields) and fields[index].strip() == value.strip(),
        )
        return f"line {found[0]}" if found else None

    def _leave_as_text(self, columns: Sequence[str], types: Sequence[pa.DataType]) -> bool:
        """Make columns of numbers without a known decimal mark text; return whether there are any.

        The parser has one decimal mark for all columns; `notation` reads the columns for which it is uncertain.
        """
        marks = self.decimal_marks
        guessed = [
            name
            for name, kind in zip(columns, types, strict=True)
            if marks and kind == pa.float64() and name not in marks and name not in self._types
        ]
        self._types.update(dict.fromkeys(guessed, pa.string()))
        return bool(guessed)

    def _missing_texts(self) -> Collection[str]:
        return self.usual if self.missing is None or self.missing.na is None else self.missing.na

    def _stream(self) -> Any:
        return dialects.open_bytes(self.path, self.dialect.compression)

    def _options(self, columns: Sequence[str]) -> dict[str, Any]:
        spelled = dict(zip(self.names, self.dialect.header, strict=True))
        return {
            "read_options": csv.ReadOptions(),
            "parse_options": csv.ParseOptions(
                delimiter=self.dialect.delimiter, newlines_in_values=self._holds_quotes()
            ),
            "convert_options": csv.ConvertOptions(
                include_columns=[spelled[name] for name in columns],
                column_types={spelled[name]: kind for name, kind in self._types.items()},
                null_values=[pad + text for text in self._missing_texts() for pad in ("", " ")],
                true_values=[pad + text for text in _TRUE for pad in ("", " ")],
                false_values=[pad + text for text in _FALSE for pad in ("", " ")],
                strings_can_be_null=False,
                decimal_point=self.dialect.decimal_point,
            ),
        }

    def _holds_quotes(self) -> bool:
        # Only a quoted field can hold a line break; without one pyarrow cuts blocks faster.
        if self.dialect.compression is not None:
            return True
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b'"') >= 0

    def _check(self, schema: pa.Schema) -> None:
        for field in schema:
            if pa.types.is_binary(field.type):  # pyarrow's type for text that is not UTF-8
                raise self._encoding_error(field.name)

    def _encoding_error(self, column: str | None = None) -> InputError:
        found = dialects.first_undecodable(self.path, self.dialect)
        if found is None:
            return InputError(f"{self.name}: column {column} is not UTF-8 text; save the file as UTF-8")
        return dialects.encoding_error(self.name, *found)

    def _widen(self, error: Exception) -> bool:
        """Give the column of a conversion error a wider type; return whether there is one."""
        match = _CONVERSION.search(str(error))
        name = None if match is None else self.names[int(match[1])]
        if match is None or name is None or name in self._fixed:
            return False
        current = self._types.get(name, self._found.get(name))
        wider = self._type_of(match[3]) if current == pa.null() else _WIDER.get(current, pa.string())
        if wider == pa.float64() and self.decimal_marks and name not in self.decimal_marks:
            wider = pa.string()
        if current == pa.string() or current is None:
            return False
        self._types[name] = wider
        return True

    def _type_of(self, text: str) -> pa.DataType:
        """The type that the parser finds for a column of this text alone."""
        convert = self._options(self.names)["convert_options"]
        convert.include_columns, convert.column_types = [], {}
        quoted = text.replace('"', '""')
        options = csv.ReadOptions(column_names=["text"])
        return csv.read_csv(io.BytesIO(f'"{quoted}"\n'.encode()), read_options=options, convert_options=convert)[0].type

    def _explained(self, error: Exception) -> InputError:
        """Pyarrow's exception as an InputError with the line in the file."""
        text = str(error)
        conversion = _CONVERSION.search(text)
        if "invalid UTF8" in text or isinstance(error, UnicodeDecodeError):
            return self._encoding_error()
        if conversion:
            column, wanted, value = self.names[int(conversion[1])], conversion[2], conversion[3]
            where = self.place_of(column, value)
            what = "a number" if wanted in ("double", "int64") else {"bool": "true or false"}.get(wanted, wanted)
            at = f"{self.name}, {where}" if where else self.name
            return InputError(f"{at}: column {column} holds {shown(value)}, not {what}")
        if "Expected" in text and "columns" in text:
            return self._ragged()
        if "straddling object" in text or "newlines_in_values" in text:
            return InputError(f"{self.name}: a quoted field is never closed, or a row is very long")
        if "Truncated" in text or isinstance(error, OSError):
            return InputError(f"{self.name} is truncated or damaged ({_one_line(text)})")
        if "Empty CSV" in text:
            return InputError(f"{self.name} has a header and no rows")
        return InputError(f"{self.name} cannot be read as delimited text: {_one_line(text)}")

    def _ragged(self) -> InputError:
        n_fields = len(self.names)
        found = dialects.first_line(self.path, self.dialect, lambda _, fields: len(fields) != n_fields)
        if found is None:
            return InputError(f"{self.name}: a row has not the header's {n_fields} fields, or a quote is never closed")
        line, fields = found
        found_fields = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
        hint = "; is a quote never closed?" if any("\n" in field for field in fields) else ""
        return InputError(f"{self.name}, line {line}: {found_fields} where the header has {n_fields}{hint}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
