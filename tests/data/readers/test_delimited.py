"""Text files: how they are written, and in how many ways they can be broken."""

import bz2
import gzip
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from lr_lightning.data.encode import encode, encode_blocks
from lr_lightning.data.readers import csv
from lr_lightning.data.readers.open import open_source
from lr_lightning.errors import InputError
from lr_lightning.training.data_modules import TableDataModule
from tests.data.conftest import dense, fitted, raw, refusal

TABLE = "a,b,y\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(12))
QUOTED = "name;a;y\n" + "".join(f'"x, {i % 3}; ""z""";{i};{i % 2}\n' for i in range(12))


def zstd(data):
    return pa.Codec("zstd").compress(data).to_pybytes()


# Named here: an id made of the compressed bytes would change with the second of its collection.
WRITTEN = {
    "commas": TABLE,
    "semicolons": TABLE.replace(",", ";"),
    "tabs": TABLE.replace(",", "\t"),
    "bars": TABLE.replace(",", "|"),
    "crlf": TABLE.replace("\n", "\r\n"),
    "cr": TABLE.replace("\n", "\r"),
    "byte order mark": "\ufeff" + TABLE,
    "empty lines": "\n\n" + TABLE + "\n\n",
    "no last newline": TABLE.rstrip("\n"),
    "spaces": TABLE.replace(",", " , "),
    "quotes": '"' + TABLE.replace(",", '","').replace("\n", '"\n"').removesuffix('"'),
    "gzip": gzip.compress(TABLE.encode()),
    "gzip in two members": gzip.compress(TABLE[:20].encode()) + gzip.compress(TABLE[20:].encode()),
    "bzip2": bz2.compress(TABLE.encode()),
    "zstd": zstd(TABLE.encode()),
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "table"])
def test_the_same_table_however_it_is_written(write, name, content):
    data = fitted(write(name, content))
    assert data.schema.feature_names == ("a", "b")
    np.testing.assert_allclose(raw(data)[:, 0], np.arange(12), atol=1e-5)
    np.testing.assert_allclose(raw(data)[:, 1], np.arange(12) % 3, atol=1e-5)
    assert data.train_rows.y.tolist() == [i % 2 for i in range(12)]


def test_delimiters_inside_quotes_are_text(write):
    data = fitted(write("t.csv", QUOTED))
    assert data.schema.feature_names == ('name=x, 1; "z"', 'name=x, 2; "z"', "a")


def test_line_breaks_inside_quotes_are_text(write, monkeypatch):
    monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 64)
    rows = "".join(f'"line one\nline {i % 2}",{i},{i % 2}\n' for i in range(40))
    data = fitted(write("t.csv", f"name,a,y\n{rows}"))
    assert len(data.train_rows.y) == 40
    assert data.schema.feature_names == ("name=line one\nline 1", "a")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_decimal_commas(write, delimiter):
    content = "a;b;y\n" + "".join(f"{i},5;{i % 3};{i % 2}\n" for i in range(12))
    data = fitted(write("t.csv", content.replace(";", delimiter)))
    np.testing.assert_allclose(raw(data)[:, 0], np.arange(12) + 0.5, atol=1e-5)


def test_one_column_is_found_to_be_one(write):
    # Commas in the values but not in the header: no delimiter.
    assert open_source(write("t.csv", "y\n0,5\n1,5\n")).names == ["y"]
    assert open_source(write("u.csv", '"y, or not"\n1\n0\n')).names == ["y, or not"]
    assert "no column left" in refusal("t.csv")


@pytest.mark.parametrize(
    ("text", "missing"),
    [(text, True) for text in ("", "NA", "NaN", "nan", "null", "NULL", "N/A", " ", " NA", '""', '"NA"')]
    + [(text, False) for text in ("na na", "nil", "none")],
)
def test_spellings_of_a_missing_value(write, text, missing):
    path = write("t.csv", "n,s,y\n" + "".join(f"{i},{'pq'[i % 2]},{i // 2 % 2}\n" for i in range(8)) + f"3,{text},1\n")
    if missing:
        assert "s (1)" in refusal(path)
    else:
        assert len(fitted(path).schema.columns[1].levels) == 3
    path = write("u.csv", "n,s,y\n" + "".join(f"{i},{'pq'[i % 2]},{i // 2 % 2}\n" for i in range(8)) + f"{text},p,1\n")
    assert ("n (1)" if missing else "line 10") in refusal(path)


def test_names_hold_what_they_like(write):
    path = write("t.csv", '"a, b",日本 語, c ,"y;y"\n1,2,1,0\n2,3,1,1\n2,5,3,0\n')
    assert fitted(path, "y;y").schema.feature_names == ("a, b", "日本 語", "c")


def test_a_column_without_a_name_is_left_out(write, messages):
    frame = pd.DataFrame({"a": [1.0, 2, 3, 5], "y": [0, 1, 0, 1]})
    frame.to_csv(write("t.csv", ""))
    assert fitted("t.csv").schema.feature_names == ("a",)
    assert any(level == "WARNING" and "column 1" in line for level, line in messages)


def test_booleans_and_numbers_beside_blanks(write):
    data = fitted(write("t.csv", "t, n, y\n true, 1.5, 0\n False, 2.5, 1\nTRUE, 3, 0\n false,4, 1\n"))
    assert [column.kind for column in data.schema.columns] == ["boolean", "number"]
    np.testing.assert_allclose(raw(data)[:, 0], [1, 0, 1, 0], atol=1e-6)


BROKEN = {
    "short row": (TABLE + "1,2\n", "line 14: 2 fields where the header has 3"),
    "long row": ("a,b,y\n1,2,0\n\n4,5,1,9\n1,2,0\n", "line 4: 4 fields where the header has 3"),
    "row after a quoted line break": ('a,b,y\n1,"1\n2",0\n1,2\n', "line 4: 2 fields"),
    "open quote": ('a,b,y\n1,"x,0\n2,z,1\n3,z,1\n', "quote never closed"),
    "two of a name": ("a,b, a,y\n1,2,3,0\n", "columns 1 and 3 are both named a"),
    "Latin-1": (TABLE.encode() + "é,1,0\n".encode("latin1"), "line 14: byte 0xE9"),
    "Latin-1 in the header": ("é,b,y\n1,1,0\n".encode("latin1"), "line 1: byte 0xE9"),
    "Latin-1 far on": (b"a,y\n" + b"ab,0\ncd,1\n" * 60_000 + b"\xe9,1\n", "line 120002: byte 0xE9"),
    "UTF-16": (TABLE.encode("utf-16"), "save it as UTF-8"),
    "UTF-16 without a mark": (TABLE.encode("utf-16-le"), "save it as UTF-8"),
    "nothing": ("", "is empty"),
    "line breaks": ("\n\n\n", "is empty"),
    "header": ("a,b,y\n", "has a header and no rows"),
    "header without a line break": ("a,b,y", "has a header and no rows"),
    "NUL bytes": (b"a,y\n\0\0\0\0", "NUL"),
    "cut gzip": (
        gzip.compress(TABLE.encode() + os.urandom(5000).hex().encode())[:-900],
        "truncated or damaged",
    ),
    "spoilt gzip": (b"\x1f\x8b" + bytes(range(200)), "truncated or damaged"),
    "Excel": (b"PK\x03\x04" + bytes(100), "Excel"),
    "text among numbers": (TABLE + "abc,1,0\n", "line 14: column a holds 'abc'"),
    "text among fractions": ("a,y\n1.5,0\n2.5,1\nx,0\n", "line 4: column a holds 'x'"),
    "infinity": (TABLE + "inf,1,0\n", "line 14: column a holds an infinite value"),
    "a number beyond all": (TABLE + "1e400,1,0\n", "line 14: column a holds an infinite value"),
    "a number beyond squaring": (TABLE + "1e200,1,0\n", "column a holds values too large"),
    "numbers beyond summing": (TABLE + "1.7e308,1,0\n1.7e308,1,1\n", "column a holds values too large"),
    "an empty column": ("a,b,y\n1,,0\n2,,1\n", "b (all 2)"),
    "identifiers": (
        "id,y\n" + "".join(f"u{i},{i % 2}\n" for i in range(1100)),
        "column id has a level of its own in 1100 of 1100 rows",
    ),
    "two features of one name": ("a,a=z,y\nx,1,0\nz,2,1\nx,1,0\n", "a=z"),
    "no feature": ("c,y\nx,0\nx,1\n", "no feature is left"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("cached", [False, True])
def test_a_broken_file_is_refused_in_one_line(write, tmp_path, case, cached):
    content, expected = BROKEN[case]
    message = refusal(write("broken.csv", content), cache_dir=str(tmp_path / "cache") if cached else None)
    assert expected in message
    assert sorted(os.listdir(tmp_path)) in (["broken.csv"], ["broken.csv", "cache"])
    assert not (tmp_path / "cache").exists() or os.listdir(tmp_path / "cache") == []


def test_categories_that_look_like_numbers_are_welcome(write, messages):
    rows = "".join(f"{('0', '1', '2', '3+')[i % 4]},{i // 2 % 2}\n" for i in range(40))
    assert fitted(write("t.csv", f"dependents,y\n{rows}")).schema.columns[0].levels == ("0", "1", "2", "3+")
    assert any("'3+'" in line for _, line in messages)


def test_types_are_found_wherever_in_the_file_they_show(write, monkeypatch, tmp_path):
    """Integers, then fractions, then text: read in blocks or as a whole, it is the same column."""
    monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 2048)
    n = 2000
    columns = {
        "fraction_late": [str(i) if i < 1500 else f"{i}.5" for i in range(n)],
        "text_late": ["7" if i < 1500 else "x" for i in range(n)],
        "missing_early": ["" if i < 1000 else str(i) for i in range(n)],
        "time_late": ["2020-01-01" if i < 1500 else "2020-01-02 12:00:00" for i in range(n)],
        "y": [str(i % 2) for i in range(n)],
    }
    rows = "\n".join(",".join(row) for row in zip(*columns.values(), strict=True))
    path = write("t.csv", ",".join(columns) + "\n" + rows + "\n")
    whole = fitted(path, missing="impute")
    streamed = fitted(path, missing="impute", cache_dir=str(tmp_path / "cache"))
    assert [column.kind for column in whole.schema.columns] == ["number", "category", "number", "date"]
    assert streamed.schema == whole.schema
    assert torch.equal(dense(streamed.train_rows), dense(whole.train_rows))


def test_lines_longer_than_the_sample(write):
    assert "never closed" in refusal(write("t.csv", 'a,y\n"' + "x" * 3_000_000))
    assert "longer than" in refusal(write("u.csv", "x" * 600_000))


@pytest.mark.parametrize("missing", ["    NA", "NA ", " NA", "      ", "\tnan  "])
def test_a_padded_missing_value_is_missing(write, missing):
    values = [0.4, 1.1, 1.9, None, 2.8, 3.1]
    cells = [missing if value is None else f"{value:6.2f}" for value in values]
    data = fitted(write("t.csv", "x,y\n" + "".join(f"{c},{i % 2}\n" for i, c in enumerate(cells))), missing="drop")
    assert data.schema.feature_names == ("x",)
    np.testing.assert_allclose(raw(data)[:, 0], [v for v in values if v is not None], atol=1e-6)


def test_texts_that_count_as_missing_are_a_choice(write, messages):
    path = write("t.csv", "s,y\nNA,0\nDE,1\n-,1\nDE,0\nFR,0\nFR,1\n")
    assert fitted(path, missing="drop").schema.columns[0].levels == ("-", "DE", "FR")
    assert any(level == "WARNING" and "'NA' counts as missing; --data.na" in line for level, line in messages)
    assert "'NA' counts as missing" in refusal(path)
    messages.clear()
    named = fitted(path, na=["", " - "], missing="drop")
    assert named.schema.columns[0].levels == ("DE", "FR", "NA")
    assert named.schema.na == ("", "-")
    assert not any("counts as missing" in line for _, line in messages)
    later = write("u.csv", "s\nNA\n -\n")
    encoded = encode(named.schema.from_dict(named.schema.to_dict()), later)
    assert encoded[0].tolist() == [0, 1]
    assert encoded[1].isnan().all()
    frame = pd.DataFrame({"s": ["a", "-", "b", "a"], "y": [0, 1, 1, 0]})
    assert fitted(frame, na=["-"], missing="drop").schema.columns[0].levels == ("a", "b")
    assert "list of texts" in refusal(path, na="NA")


def test_identifiers_are_repeated_as_they_stand(write):
    schema = fitted(write("t.csv", "x,y\n1,0\n2,1\n3,0\n4,1\n")).schema
    ids = ["NA", "null", "nan", "n/a", " padded ", "007", "1e5", ""]
    path = write("new.csv", "id,x\n" + "".join(f"{i},{x}\n" for x, i in enumerate(ids)))
    assert [i.as_py() for block in encode_blocks(schema, path, identifier="id") for i in block.ids] == ids
    path = write("new.csv", "x\n007\n1e5\n")
    assert [i.as_py() for block in encode_blocks(schema, path, identifier="x") for i in block.ids] == ["007", "1e5"]


def test_a_word_that_is_missing_is_told_later_on_too(write, messages):
    """A level that the fit did not know and that counts as missing: in a prediction, and in a test."""
    table = {"c": ["a", "b", "c"] * 4, "y": [0, 1, 1] * 4}
    said = "new.csv: the text 'NA' counts as missing; --data.na says which texts do"
    path = write("new.csv", "c,y\na,0\nNA,1\n")
    fit = fitted(table, missing="drop")
    for encoded in (encode, lambda *of: torch.cat([b.dense() for b in encode_blocks(*of)])):
        messages.clear()
        assert encoded(fit.schema, path).isnan().all(1).tolist() == [False, True]
        assert [line for level, line in messages if level == "WARNING" and line.startswith(said)]
    messages.clear()
    again = TableDataModule(path)
    again.use_schema(fit.schema, fit.training, every_row=True)
    again.setup("test")
    assert again.test_rows.y.tolist() == [0]
    assert [line for level, line in messages if level == "WARNING" and line.startswith(said)]
    with pytest.raises(
        InputError, match=r"new.csv, line 3: column c has no value; .*; 'NA' counts as missing; --data.na"
    ):
        encode(fitted(table).schema, path)
    messages.clear()
    assert not encode(fit.schema, {"c": ["a", "b"]}).isnan().any()
    assert not messages


def test_a_text_means_the_same_in_all_files_of_a_folder(write):
    table = pd.DataFrame({"c": ["NA", "b", "c"] * 4, "x": range(12), "y": ["01", "02", "02", "01"] * 3})
    write("parts/a.csv", table.to_csv(index=False))
    table.to_parquet("parts/b.parquet")
    data = fitted("parts", missing="drop")
    assert data.schema.columns[0].levels == ("b", "c")
    assert len(data.train_rows.y) == 16
    assert data.schema.predicted_labels == ("01", "02")
    assert encode(data.schema, "parts").isnan().all(1).tolist() == ([True, False, False] * 8)
    kept = fitted("parts", na=[""])
    assert kept.schema.columns[0].levels == ("NA", "b", "c")
    assert len(kept.train_rows.y) == 24
