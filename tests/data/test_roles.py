"""Columns with a role of their own, as files spell their numbers and as the cache keeps them."""

import pytest
import torch

from lr_lightning import TableDataModule
from tests.data.conftest import fitted, refusal

ROWS = "1,5;0,25;10;3;0,5\n2,5;-1,5;8;4;1\n3,5;0,75;9;2;2,5\n0,5;1,5;7;7;1\n"
OPTIONS = {"target": "k", "features": ["x"], "trials": "m", "offset": "o", "weight": "w"}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("spelled", ["comma", "point"])
def test_they_are_read_whatever_the_decimal_mark(write, spelled, cached):
    rows = ROWS if spelled == "comma" else ROWS.replace(",", ".")
    path = write("t.csv", f"x;o;m;k;w\n{rows}")
    options = {"cache_dir": "cache"} if cached else {}
    data = fitted(path, **OPTIONS, **options)
    again = TableDataModule(path, **{key: OPTIONS[key] for key in ("target", "features")})
    again.use_schema(data.schema, data.training, every_row=True)
    again.setup("test")
    for rows in (data.train_rows, again.test_rows):
        assert rows.y.tolist() == pytest.approx([0.3, 0.5, 2 / 9, 1.0], rel=1e-12)
        assert rows.weight.tolist() == [5.0, 8.0, 22.5, 7.0]
        assert rows.offset.tolist() == [0.25, -1.5, 0.75, 1.5]
        assert rows.x.dtype == rows.offset.dtype == torch.float64


def test_another_role_is_another_entry_of_the_cache(write):
    path = write("t.csv", f"x;o;m;k;w\n{ROWS.replace(',', '.')}")
    for options in (OPTIONS, {**OPTIONS, "offset": None}, {**OPTIONS, "weight": None}):
        rows = fitted(path, **options, cache_dir="cache").train_rows
        assert (rows.offset is None) == (options["offset"] is None)
        assert rows.weight.tolist() == ([5.0, 8.0, 22.5, 7.0] if options["weight"] else [10.0, 8.0, 9.0, 7.0])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("a\nb\nc\nd", "t.csv, line 2: the offset o holds 'a', which is no number; correct it"),
        ("1.234\n1\nx\n2", "t.csv, line 4: the offset o holds 'x', which is no number"),
        ("2020-01-01\n" * 4, "the offset o holds dates; it must hold numbers"),
        ("true\nfalse\ntrue\ntrue", "the offset o holds true/false values; it must hold numbers"),
        ("1\n\n2\n3", "t.csv, line 3: the offset o has no value"),
        ("1\ninf\n2\n3", "t.csv, line 3: the offset o is inf; it must be finite"),
    ],
)
def test_what_is_no_number(write, column, words):
    lines = column.rstrip("\n").split("\n")
    rows = "".join(f"{o},{x},{y}\n" for o, x, y in zip(lines, (1, 2, 3, 4), (0, 1, 0, 1), strict=True))
    assert words in refusal(write("t.csv", f"o,x,y\n{rows}"), offset="o")
