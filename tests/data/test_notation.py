"""Numbers, dates and times written in text: read where a column can mean one thing, refused where it can mean two."""

import datetime
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from lr_lightning.data.encode import encode, encode_blocks
from lr_lightning.data.readers import csv
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import Predictor, load
from lr_lightning.serving.scoring import scoring_file
from lr_lightning.training.data_modules import TableDataModule
from tests.data.conftest import fitted, raw, refusal

VALUES = [0.4, 1.1, 1.9, 2.2, 3.3, 4.25, 5.5, 6.75, 7.1, 8.9, 10.5, 12.25]
Y = [0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1]
SWAPPED = str.maketrans(",.", ".,")


def digits(zero, point="."):
    return lambda value: "".join(chr(ord(zero) + int(char)) if char.isdigit() else point for char in str(value))


NUMBERS = {  # how a value is written, and what it is worth: below 5, and from there on, where that differs
    "decimal comma": (lambda v: str(v).replace(".", ","), 1),
    "comma between thousands": (lambda v: f"{v * 1000:,.2f}", 1000),
    "comma between thousands, twice": (lambda v: f"{v * 1e6:,.0f}", 1e6),
    "lakh": (lambda v: f"{int(v * 1e4):04}"[:-3] + f",{int(v * 1e4) % 1000:03}.0" if v > 1 else "4000.0", 1e4),
    "point between thousands": (lambda v: f"{v * 1000:,.2f}".translate(SWAPPED), 1000),
    "apostrophe": (lambda v: f"{v * 1000:,.2f}".replace(",", "'"), 1000),
    "curly apostrophe": (lambda v: f"{v * 1000:,.2f}".replace(",", "\u2019"), 1000),
    "narrow blank": (lambda v: f"{v * 1000:,.0f}".replace(",", "\u202f"), 1000),
    "no-break blank": (lambda v: f"{v * 1000:,.0f}".replace(",", "\u00a0"), 1000),
    "blank and comma": (lambda v: f"{v * 1000:,.1f}".replace(",", " ").replace(".", ","), 1000),
    "euros before": (lambda v: f"€ {v:.2f}", 1),
    "euros after": (lambda v: f"{v:.2f} €".replace(".", ","), 1),
    "a currency's code": (lambda v: f"CHF {v}", 1),
    "negative dollars": (lambda v: f"-${v:.2f}", -1),
    "percent": (lambda v: f"{v} %", 0.01),
    "Unicode minus": (lambda v: f"\u2212{v}", -1),
    "Fortran": (lambda v: f"{v:.4E}".replace("E", "D"), 1),
    "Fortran without a point": (lambda v: f"{v * 1e4:.0f}d-2" if v < 5 else f"{v * 100:.0f}D0", 100),
    "in parentheses": (lambda v: f"({v})" if v < 5 else f"{v}", (-1, 1)),
    "dollars in parentheses": (lambda v: f"(${v * 1000:,.2f})" if v < 5 else f"${v * 1000:,.2f}", (-1000, 1000)),
    "trailing minus": (lambda v: f"{v:.2f}-" if v < 5 else f"{v:.2f}", (-1, 1)),
    "trailing minus, comma": (lambda v: f"{v * 1e3:,.2f}{'-' * (v < 5)}".translate(SWAPPED), (-1000, 1000)),
    "underscores": (lambda v: f"{v * 1e6:_.0f}" if v > 1 else "400_000.0", 1e6),
    "rupees": (lambda v: f"Rs. {v}", 1),
    "yuan": (lambda v: f"{v}元", 1),
    "a code in small letters": (lambda v: f"{v} eur" if v < 5 else f"{v} EUR", 1),
    "Arabic digits": (digits("٠"), 1),
    "Arabic mark": (digits("٠", "٫"), 1),
    "Devanagari": (digits("०"), 1),
    "full width": (digits("０", "．"), 1),
}


def table_of(texts, name="x"):
    return {name: list(texts), "y": Y * (len(texts) // len(Y)) + Y[: len(texts) % len(Y)]}


def csv_of(write, texts, name="t.csv"):
    rows = "".join(f'"{text}",{y}\n' for text, y in zip(texts, table_of(texts)["y"], strict=True))
    return write(name, f"x,y\n{rows}")


@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize("kind", ["csv", "streamed", "pandas", "polars", "parquet"])
def test_numbers_are_read_as_they_are_written(write, tmp_path, case, kind):
    written, factor = NUMBERS[case]
    texts = [written(value) for value in VALUES]
    table = {"pandas": pd.DataFrame, "polars": pl.DataFrame}.get(kind, pa.table)(table_of(texts))
    if kind in ("csv", "streamed"):
        table = csv_of(write, texts)
    elif kind == "parquet":
        pq.write_table(table, tmp_path / "t.parquet")
        table = str(tmp_path / "t.parquet")
    data = fitted(table, cache_dir=str(tmp_path / "cache") if kind == "streamed" else None)
    assert [column.kind for column in data.schema.columns] == ["number"]
    expected = np.array([value * (factor if np.isscalar(factor) else factor[value >= 5]) for value in VALUES])
    np.testing.assert_allclose(raw(data)[:, 0], expected, rtol=1e-5)
    # By the schema alone, after its life in a checkpoint, to the last digit.
    schema = TableSchema.from_dict(json.loads(json.dumps(data.schema.to_dict())))
    np.testing.assert_allclose(encode(schema, table)[:, 0], expected, rtol=1e-15)


DATES = [datetime.date(2021, month, day) for month, day in [(1, 13), (2, 3), (2, 27), (3, 8), (11, 12), (12, 1)]] * 2
DATE_FORMATS = {
    "day first": "%d.%m.%Y",
    "US order": "%m/%d/%Y",
    "day first, dashes": "%d-%m-%Y",
    "year first, slashes": "%Y/%m/%d",
    "months by name": "%d-%b-%Y",
    "American": "%B %d, %Y",
    "statisticians'": "%d%b%Y",
}


@pytest.mark.parametrize("form", DATE_FORMATS.values(), ids=DATE_FORMATS.keys())
@pytest.mark.parametrize("clock", ["", " %H:%M", " %I:%M:%S %p", "T%H:%M:%SZ"])
def test_dates_are_read_in_the_order_of_their_column(write, form, clock):
    times = [datetime.datetime.combine(day, datetime.time(13, 6 * i)) for i, day in enumerate(DATES[:9])]
    texts = [time.strftime(form + clock) for time in times]
    epoch = datetime.datetime(1970, 1, 1)
    expected = [
        (time - epoch).total_seconds() / 86_400 if clock else (time.date() - epoch.date()).days for time in times
    ]
    for table in (csv_of(write, texts), table_of(texts)):
        data = fitted(table)
        assert data.schema.columns[0].kind == "date"
        assert encode(data.schema, table)[:, 0].tolist() == expected


def test_dates_are_read_in_chinese():
    table = table_of([f"2021年{1 + i % 12}月{1 + i % 28}日" for i in range(24)])
    expected = [(datetime.date(2021, 1 + i % 12, 1 + i % 28) - datetime.date(1970, 1, 1)).days for i in range(24)]
    assert encode(fitted(table).schema, table)[:, 0].tolist() == expected


def test_a_zone_shifts_a_time(write):
    texts = [f"{day:02}.01.2021 01:30 +02:00" for day in range(9, 21)]
    expected = [18628 + day - 1 - 0.5 / 24 for day in range(9, 21)]
    np.testing.assert_allclose(encode(fitted(table_of(texts)).schema, table_of(texts))[:, 0], expected, rtol=1e-15)
    assert "written in another way" in refusal(table_of([*texts, "13.01.2021 01:30"]))


def test_times_of_the_day_are_days():
    table = table_of([f"{hour}:{hour:02}" for hour in range(24)])
    data = fitted(table)
    assert data.schema.columns[0].kind == "time"
    assert encode(data.schema, table)[:, 0].tolist() == [(3600 + 60) * hour / 86_400 for hour in range(24)]


REFUSED = {  # texts, the one that is named, its row, and words of the message
    "thousands or thousandths": (["7", "1,400", "2,100", "2,900"], "1,400", 2, "which can mean 1400 or 1.4"),
    "dollars or mills": (["$1,400", "$2,100", "$2,900"], "$1,400", 1, "which can mean 1400 or 1.4"),
    "two decimal marks": (["1,5", "2,5", "3.5"], "3.5", 3, "written in another way than '1,5'"),
    "two currencies": (["$5", "$7", "€3"], "€3", 3, "written in another way than '$5'"),
    "percent and shares": (["5%", "7%", "0.03"], "0.03", 3, "written in another way than '5%'"),
    "days or months": (["01/01/2021", "03/02/2021", "12/05/2021"], "03/02/2021", 2, "2021-02-03 or 2021-03-02"),
    "days and months": (["13/01/2021", "01/13/2021"], "01/13/2021", 2, "written in another way than '13/01/2021'"),
    "short years": (["13.01.21", "14.02.21", "15.02.21"], "13.01.21", 1, "a date whose year has two digits"),
    "one short year": (["13.01.2021", "14.02.2021", "15.02.21"], "15.02.21", 3, "a date whose year has two digits"),
    "a zero date": (["2021-01-13", "2021-02-03", "0000-00-00"], "0000-00-00", 3, "which is no date, though most"),
    "no day of the year": (["13.01.2021", "14.02.2021", "30.02.2021"], "30.02.2021", 3, "which is no date, though"),
    "an unknown date": (["2021-01-13", "2021-02-03", "unknown"], "unknown", 3, "which is no date, though most"),
    "an unknown time": (["12:30", "13:10", "noon"], "noon", 3, "which is no time, though most"),
    "an unknown amount": (["5 €", "7 €", "n/v"], "n/v", 3, "which is no number, though most"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("cached", [False, True])
def test_what_can_mean_two_things_is_refused_by_value_and_line(write, tmp_path, case, cached):
    texts, value, row, words = REFUSED[case]
    message = refusal(csv_of(write, texts * 8), cache_dir=str(tmp_path / "cache") if cached else None)
    assert message.startswith(f"t.csv, line {row + 1}: column x holds '{value}', ")
    assert words in message
    assert "--data.categorical" in message
    assert refusal(table_of(texts * 8)).startswith(f"the table, row {row}: column x holds '{value}', ")
    levels = fitted("t.csv", categorical=["x"]).schema.columns[0].levels
    assert levels == tuple(sorted(texts))


def test_the_decimal_mark_is_a_property_of_a_column(write):
    commas = [str(value).replace(".", ",") for value in VALUES]
    rows = "".join(f"{commas[i]};{VALUES[i]};{10 * i};{Y[i]}\n" for i in range(len(Y)))
    data = fitted(write("t.csv", f"comma;point;whole;y\n{rows}"))
    expected = np.column_stack([VALUES, VALUES, 10.0 * np.arange(len(Y))])
    np.testing.assert_allclose(encode(data.schema, "t.csv"), expected, rtol=1e-15)
    # Beside a decimal comma, 1.234 may be a thousand and 234; so may 1,234, whatever the other columns hold.
    for doubtful in ("1.{:03}", "1,{:03}"):
        rows = "".join(f"{commas[i]};{doubtful.format(37 * i)};{Y[i]}\n" for i in range(len(Y)))
        message = refusal(write("u.csv", f"comma;x;y\n{rows}"))
        assert message.startswith("u.csv, line 2: column x holds '1")
        assert "which can mean 1" in message
    # Alone, it is what programs write.
    texts = [f"1.{37 * i:03}" for i in range(12)]
    for table in (csv_of(write, texts), table_of(texts)):
        assert encode(fitted(table).schema, table)[:, 0].tolist() == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("texts", "new", "expected"),
    [
        (["1,5", "2,75"], ["1,234", "0.5", "7"], [1.234, 0.5, 7]),
        (["1,234.5", "2,000.25"], ["1,234", "1234", "1.234"], [1234, 1234, 1.234]),
        (["1.234,5", "2.000,25"], ["1.234", "1,234", "0.5"], [1234, 1.234, 0.5]),
        (["$1,234.50", "$2.25"], ["$1,234", "1234"], [1234, 1234]),
        (["5%", "7%"], ["1%"], [0.01]),
        (["13.02.2021", "03.02.2021"], ["04.03.2021", "2021-03-04"], [18690, 18690]),
        (["02/13/2021", "03/02/2021"], ["04/03/2021", "3 Apr 2021"], [18720, 18720]),
    ],
)
def test_prediction_reads_as_the_fit_did(write, texts, new, expected):
    schema = fitted(table_of(texts * 6)).schema
    assert fitted(csv_of(write, texts * 6)).schema == schema
    assert encode(schema, {"x": new})[:, 0].tolist() == expected
    # A value at a time: its company in the file has no say.
    for text, value in zip(new, expected, strict=True):
        for path in (write("n.csv", f'x,z\n"{text}",1\n'), write("m.csv", f"z;x\n0,5;{text}\n")):
            assert encode(schema, path)[:, 0].tolist() == [value]
            assert [block.x.item() for block in encode_blocks(schema, path)] == [value]
    if schema.columns[0].kind == "number":
        assert encode(schema, {"x": [1234.5]}).item() == 1234.5


@pytest.mark.parametrize(
    ("texts", "new", "words"),
    [
        (["1,5", "2,75"], "1.234", "can mean 1.234 or 1234"),
        (["1 400", "2 750"], "1,234", "can mean 1234 or 1.234"),
        (["$5", "$7"], "€5", "not a number; the fit had numbers written as 1234.5 $"),
        (["5%", "7%"], "5", "not a number; the fit had numbers written as 1234.5 %"),
        (["01/01/2021", "01/01/2022"], "02/01/2021", "can mean 2021-01-02 or 2021-02-01"),
        (["13.02.2021", "03.02.2021"], "31.04.2021", "not a date"),
        (["1,5", "2,75"], "much", "not a number"),
    ],
)
def test_prediction_refuses_what_the_fit_left_open(write, texts, new, words):
    schema = fitted(table_of(texts * 6)).schema
    path = write("n.csv", f'x,z\n"{texts[0]}",1\n"{new}",1\n')
    with pytest.raises(InputError) as caught:
        encode(schema, path)
    assert str(caught.value).startswith(f"n.csv, line 3: column x holds '{new}', ")
    assert words in str(caught.value)


def test_a_column_of_types_is_not_read_from_text(write):
    """What a fit had as numbers is refused as text in a table that has types; a text file has none."""
    schema = fitted(table_of(VALUES)).schema
    with pytest.raises(InputError, match="column x holds text, where the fit had numbers"):
        encode(schema, {"x": ["7"]})
    assert encode(schema, write("n.csv", "x;z\n7;0,5\n0,5;1,5\n")).tolist() == [[7], [0.5]]
    dates = fitted(table_of(DATES)).schema
    path = write("n.csv", "x\n2021-01-02\nunknown\n")
    with pytest.raises(InputError, match=r"n.csv, line 3: column x holds 'unknown', not a date"):
        encode(dates, path)


def test_blocks_and_the_whole_are_read_alike(write, monkeypatch, tmp_path):
    monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 2048)
    n = 3000
    values = np.random.default_rng(0).normal(size=n).round(4) * 3000
    columns = {
        "thousands": [f"{value:,.2f}".translate(SWAPPED) for value in values],
        "point": [f"{value:.3f}" for value in values],
        "comma_late": [str(i) if i < 2000 else f"{i},5" for i in range(n)],
        "blank_late": [f"{i % 7},5" if i < 2500 else f"{1 + i % 3} 234,5" for i in range(n)],
        "day_late": [f"{1 + i % 12:02}.{1 + i // 100 % 12:02}.2021" if i < 2900 else "13.02.2021" for i in range(n)],
        "date_late": ["" if i < 1500 else f"2021-{1 + i // 30 % 12:02}-{1 + i % 28:02}" for i in range(n)],
        "time_late": ["" if i < 1500 else f"{i % 24:02}:{i % 60:02}" for i in range(n)],
        "truth_late": ["" if i < 1500 else ("true", "false")[i % 2] for i in range(n)],
        "y": [str(i % 7 % 2) for i in range(n)],
    }
    rows = "\n".join(";".join(row) for row in zip(*columns.values(), strict=True))
    path = write("t.csv", ";".join(columns) + "\n" + rows + "\n")
    whole = fitted(path, missing="impute")
    streamed = fitted(path, missing="impute", cache_dir=str(tmp_path / "cache"))
    kinds = ["number", "number", "number", "number", "date", "date", "time", "boolean"]
    assert [column.kind for column in whole.schema.columns] == kinds
    assert streamed.schema == whole.schema
    assert (streamed.train_rows.x == whole.train_rows.x).all()
    encoded = encode(whole.schema, path)
    np.testing.assert_allclose(encoded[:, 0], values.round(2), rtol=1e-15)
    np.testing.assert_allclose(encoded[:, 1], values.round(3), rtol=1e-15)
    np.testing.assert_array_equal(encoded[:, 2], np.arange(n) + 0.5 * (np.arange(n) >= 2000))
    assert (np.concatenate([block.x for block in encode_blocks(whole.schema, path)]) == encoded.numpy()).all()
    path = write("t.csv", ";".join(columns) + "\n" + rows.replace(columns["thousands"][-1], "-") + "\n")
    for cache in (None, str(tmp_path / "cache")):
        message = refusal(path, missing="impute", cache_dir=cache)
        assert message.startswith("t.csv, line 3001: column thousands holds '-', which is no number, though most")


@pytest.mark.parametrize("cached", [False, True])
def test_a_test_reads_as_the_fit_did(write, monkeypatch, tmp_path, cached):
    """What was plain numbers to the fit may be written otherwise later on, where it can mean one thing only."""
    monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 2048)
    fit = fitted({"x": np.arange(3000.0), "y": np.arange(3000) % 2})
    rows = "".join(f'"{i:,}.5",{i % 2}\n' if i > 2000 else f"{i % 1000}.5,{i % 2}\n" for i in range(3000))
    data = TableDataModule(write("t.csv", "x,y\n" + rows), "y", cache_dir=str(tmp_path / "cache") if cached else None)
    data.use_schema(fit.schema, fit.training, every_row=True)
    data.prepare_data()
    data.setup("test")
    expected = [(i if i > 2000 else i % 1000) + 0.5 for i in range(3000)]
    np.testing.assert_allclose(data.test_rows.x[:, 0] * fit.served.scale + fit.served.mean, expected, rtol=1e-3)
    assert np.concatenate([block.x for block in encode_blocks(fit.schema, "t.csv")])[:, 0].tolist() == expected
    with pytest.raises(InputError, match=r"u.csv, line 3002: column x holds '9,999', which can mean 9999 or 9.999"):
        list(encode_blocks(fit.schema, write("u.csv", "x,y\n" + rows + '"9,999",1\n')))


def test_files_of_a_folder_may_be_written_in_two_ways(write):
    write("parts/a.csv", "x,y\n" + "".join(f"{v},{y}\n" for v, y in zip(VALUES, Y, strict=True)))
    write("parts/b.csv", "x,y\n" + "".join(f'"{v * 1000:,.2f}",{y}\n' for v, y in zip(VALUES, Y, strict=True)))
    expected = [*VALUES, *(1000 * value for value in VALUES)]
    np.testing.assert_allclose(encode(fitted("parts").schema, "parts")[:, 0], expected, rtol=1e-15)
    write("parts/b.csv", "x;y\n" + "".join(f"{v};{y}\n".replace(".", ",") for v, y in zip(VALUES, Y, strict=True)))
    assert encode(fitted("parts").schema, "parts")[:, 0].tolist() == [*VALUES, *VALUES]
    write("parts/b.csv", "x;y\n" + "".join(f"{v} %;{y}\n" for v, y in zip(VALUES, Y, strict=True)))
    assert "b.csv, line 2: column x holds '0.4 %', which is written in another way than '0.4'" in refusal("parts")


def test_weights_have_marks_too(write):
    rows = "".join(f"{v};{i},5;{i + 0.25};{y}\n" for i, (v, y) in enumerate(zip(VALUES, Y, strict=True)))
    for name, fraction in (("comma", 0.5), ("point", 0.25)):
        data = fitted(write("t.csv", f"x;comma;point;y\n{rows}"), features=["x"], weight=name)
        assert data.train_rows.weight.tolist() == [i + fraction for i in range(len(Y))]


def test_what_is_read_is_told(write, messages):
    fitted(csv_of(write, ["400.00", "1,100.00", "1,900.25", "7.00"]))
    assert ("INFO", "t.csv: column x holds text that is read as numbers: '1,100.00' is 1100") in messages
    fitted(csv_of(write, ["03.02.2021", "13.02.2021", "14.02.2021"]))
    assert ("INFO", "t.csv: column x holds text that is read as dates: '03.02.2021' is 2021-02-03") in messages
    fitted(csv_of(write, ["5%", "7%", "8%"]))
    assert ("INFO", "t.csv: column x holds text that is read as numbers: '5%' is 0.05") in messages
    fitted(write("t.csv", "a;x;y\n1;0,5;0\n2;1,5;1\n2;3,5;0\n"))
    assert ("INFO", "t.csv: numbers are read with a decimal comma in column x") in messages
    for texts in (["12 kg", "15 kg", "20 kg"], ["1.2M", "900k", "350k"], ["1.5+", "2.5+", "3.5+"]):
        fitted(table_of(texts * 8))
        line = (
            f"column x is taken as categorical, though its values look like numbers with a unit, such as {texts[0]!r}"
        )
        assert ("WARNING", f"the table: {line}") in messages


LOOKS = {
    "months": [
        ["2020-01", "2020-02", "2020-03"],
        ["01/2020", "02/2020", "12/2020"],
        ["Jan 2020", "Feb 2020", "May 2020"],
    ],
    "fractions": [["1/2", "1/4", "3/4"], ["½", "1¼", "2"], ["120/80", "130/85", "140/90"]],
    "times": [["25:30", "26:10", "9:15"], ["1h30m", "2h", "45m"]],
    "numbers": [["1d0", "2d0", "3d4"], ["1_000", "2_500", "3_000"], ["~1.5", "2", "~2.5"], ["1.5±0.1", "2±0.3", "3±1"]],
    "numbers with a unit": [["900", "1.5k", "2k"], ["1.5k", "2M", "350"], ["12 kg", "1 t", "20 g"]],
}


@pytest.mark.parametrize("what", LOOKS)
def test_a_category_that_looks_like_amounts_or_dates_is_told(messages, what):
    for texts in LOOKS[what]:
        messages.clear()
        assert fitted(table_of(texts * 8)).schema.columns[0].levels == tuple(sorted(texts))
        said = [line for level, line in messages if level == "WARNING"]
        assert len(said) == 1
        assert f"column x is taken as categorical, though its values look like {what}, such as " in said[0]


def test_categories_stay_categories(write, messages):
    """What looks like numbers and is a code, a range, or declared."""
    for texts in (
        ["01234", "12345", "02345"],
        ["10-20", "20-30", "5-10"],
        ["Q1", "Q2", "Q3"],
        ["$", "$$", "$$$"],
        ["5a", "5b", "6a"],
        ["18-25", "26-35", "65+"],
        ["65+", "75+", "85+"],
        ["<18", "18-25", ">65"],
        ["1.2.3", "1.2.4", "1.3.0"],
        ["1st", "2nd", "3rd"],
        ["4th", "5th", "6th"],
        ["(1)", "(2)", "(3)"],
        ["1", "2+", "2-", "3-"],
        ["1d1", "2d1", "12a"],
        ["2010-11", "2011-12", "2012-13"],
    ):
        assert fitted(table_of(texts * 8)).schema.columns[0].levels == tuple(sorted(texts))
    frame = pd.DataFrame(table_of(["1.5", "2.5", "3.5"] * 8))
    assert fitted(frame, categorical=["x"]).schema.columns[0].kind == "category"
    assert fitted(frame.astype({"x": "category"})).schema.columns[0].kind == "category"
    assert fitted(frame).schema.columns[0].kind == "number"
    assert not [line for level, line in messages if level == "WARNING"]


@pytest.mark.parametrize("make", [table_of, pd.DataFrame, lambda table: table])
def test_a_level_for_each_row_is_an_id(write, make):
    def table(texts):
        return table_of(texts) if make is table_of else make(table_of(texts))

    names = [f"Person {i}" for i in range(20)]
    message = refusal(table(names))
    assert "column x has a level of its own in 20 of 20 rows, such as 'Person 0' (an id?)" in message
    assert len(fitted(table(names), categorical=["x"]).schema.columns[0].levels) == 20
    assert len(fitted(table(names[:19])).schema.columns[0].levels) == 19
    # More than half of the rows that have a value: 10 of 20 are not, nor are the rows without.
    assert fitted(table(names[:10] + ["a"] * 10)).schema.columns[0].kind == "category"
    assert "in 11 of 20 rows" in refusal(table(names[:11] + ["a"] * 9))
    assert "in 11 of 20 rows" in refusal(table(names[:11] + ["a"] * 9 + [None] * 9), missing="impute")
    assert fitted(table(names[:11] + ["a"] * 8 + [None] * 9), missing="impute").schema.columns[0].kind == "category"


def test_a_row_that_is_left_out_may_hold_anything():
    table = {**table_of(["1,5", "2,75", "3,5", "4,5"] * 3), "a": [1.0, *[None], *range(10)]}
    table["x"][1] = "illegible"
    data = fitted(table, missing="drop")
    assert data.schema.columns[0].notation == "1234,5"
    assert encode(data.schema, table)[:, 0].isnan().nonzero().tolist() == [[1]]
    assert "holds 'illegible', which is no number" in refusal(table, missing="impute")


def test_missing_text_is_missing(write):
    path = csv_of(write, ["1,5", "NA", "2,75", "", "3,5", "4,5"] * 2)
    data = fitted(path, missing="drop")
    assert data.train_rows.x.shape == (8, 1)
    assert fitted(path, missing="impute").schema.columns[0].fill == pytest.approx(
        (1.5 + 2.75 + 3.5 + 4.5) / 4, rel=1e-15
    )


def test_old_schemas_have_no_notation():
    schema = fitted(table_of(VALUES)).schema
    plain = schema.to_dict()
    del plain["columns"][0]["notation"]
    assert TableSchema.from_dict(plain) == schema


def test_integers_that_are_rounded_are_told(messages):
    fitted(table_of([str(2**53 + 7 * i) for i in range(12)]))
    assert any(level == "WARNING" and "beyond 2**53" in line for level, line in messages)


def test_a_fit_and_its_predictions_from_the_command_line(project, run):
    rng = np.random.default_rng(5)
    x = (rng.normal(size=200) * 2000 + 3000).round(2)
    y = (rng.random(200) < 1 / (1 + np.exp(-(x - 3000) / 1500))).astype(int)
    days = pd.date_range("2021-01-01", periods=200).to_series().sample(frac=1, random_state=0)
    rows = "".join(
        f"{value:,.2f};{day:%d.%m.%Y};{label}\n".translate(SWAPPED).replace(f"{day:%d,%m,%Y}", f"{day:%d.%m.%Y}")
        for value, day, label in zip(x, days, y, strict=True)
    )
    (project / "t.csv").write_text("x;day;y\n" + rows)
    code, _, err = run("fit", "--data.path", "t.csv", "--data.target", "y", "--data.val_fraction", "0")
    assert code == 0, err
    reference = np.column_stack([x, (days - pd.Timestamp("1970-01-01")).dt.days])
    standardized = (reference - reference.mean(0)) / reference.std(0)
    expected = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(standardized, y)
    checkpoint = "runs/t/version_0/checkpoints/last.ckpt"
    predictor = load(checkpoint)
    assert list(predictor.coefficients) == ["x", "day"]
    np.testing.assert_allclose(list(predictor.coefficients.values()), expected.coef_[0] / reference.std(0), rtol=1e-4)
    assert [column["kind"] for column in scoring_file(predictor)["columns"]] == ["number", "date"]
    (project / "n.csv").write_text("x;day\n1.234;03.02.2021\n")
    code, out, err = run("predict", "--ckpt_path", checkpoint, "--data.path", "n.csv")
    assert code == 0, err
    probability = predictor.probability({"x": [1234.0], "day": [datetime.date(2021, 2, 3)]}).item()
    assert out.splitlines()[1].startswith(f"{probability!r},")
    assert isinstance(predictor, Predictor)
