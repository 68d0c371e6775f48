"""The schema: what prediction accepts and refuses, and its life as plain data."""

import datetime
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lr_lightning.data.encode import encode, encode_blocks
from lr_lightning.data.readers import csv
from lr_lightning.data.readers import open as opening
from lr_lightning.data.schema import Column, TableSchema
from lr_lightning.errors import InputError
from tests.data.conftest import fitted

TRAINING = {
    "n": [1.0, 2, 3, 4, 5, 6],
    "s": ["a", "b", "c", "a", "b", "c"],
    "t": [True, False, True, True, False, True],
    "k": [1, 2, 10, 1, 2, 10],
    "d": [datetime.date(2020, 1, 1 + i) for i in range(6)],
    "y": ["no", "yes", "no", "yes", "yes", "no"],
}
NEW = {
    "n": [7.5, 8],
    "s": ["c", "a"],
    "t": [False, True],
    "k": [10, 1],
    "d": [datetime.date(2021, 1, 1), datetime.date(1969, 12, 31)],
}
CODED = [[7.5, 0, 1, 0, 0, 1, 18628], [8, 0, 0, 1, 0, 0, -1]]


@pytest.fixture(scope="module")
def schema():
    return fitted(TRAINING, categorical=["k"]).schema


def refused(schema, table, **options):
    with pytest.raises(InputError) as caught:
        encode(schema, table, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(**columns):
    return {**NEW, **columns}


@pytest.mark.parametrize("kind", ["dict", "arrow", "pandas", "polars", "csv", "parquet"])
def test_columns_in_any_order_among_others(schema, kind, tmp_path):
    table = {"other": ["x", "z"], **dict(reversed(NEW.items())), "y": ["nobody", "looks"], "list": [[1], [2]]}
    path = str(tmp_path / f"new.{kind}")
    if kind == "csv":
        del table["list"]
        pd.DataFrame(table).to_csv(path, index=False)
    elif kind == "parquet":
        pq.write_table(pa.table(table), path)
    make = {"arrow": pa.table, "pandas": pd.DataFrame, "polars": pl.DataFrame}
    data = path if kind in ("csv", "parquet") else make.get(kind, dict)(table)
    encoded = encode(schema, data)
    assert encoded.dtype == torch.float64
    assert encoded.tolist() == CODED


def test_types_that_mean_the_same(schema):
    assert encode(schema, changed(n=pa.array([7.5, 8], pa.float32()), k=[10.0, 1.0], t=[0, 1])).tolist() == CODED
    assert encode(schema, changed(s=pa.array(["c", "a"]).dictionary_encode(), t=[0.0, 1.0])).tolist() == CODED
    assert encode(schema, changed(d=pa.array(NEW["d"]).cast(pa.timestamp("ms", "UTC")))).tolist() == CODED


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"n": ["7", "8"]}, "column n holds text, where the fit had numbers"),
        ({"n": [True, False]}, "column n holds true/false values, where the fit had numbers"),
        ({"n": NEW["d"]}, "column n holds dates"),
        ({"n": [[1], [2]]}, "column n holds values of type list"),
        ({"s": [1, 2]}, "column s holds numbers, where the fit had text"),
        ({"k": ["10", "1"]}, "column k holds text, where the fit had numbers"),
        ({"d": [1, 2]}, "column d holds numbers, where the fit had dates"),
        ({"t": [0, 2]}, "row 2: column t holds 2, where the fit had true/false"),
        ({"s": ["c", "z"]}, "row 2: column s holds 'z', a level the fit has not seen"),
        ({"k": [10, 3]}, "row 2: column k holds 3, a level"),
        ({"n": [1, None]}, "row 2: column n has no value"),
        ({"s": [None, "a"]}, "row 1: column s has no value"),
        ({"t": [None, None]}, "row 1: column t has no value"),
        ({"n": [1, -np.inf]}, "row 2: column n holds an infinite value"),
    ],
)
def test_what_prediction_refuses_by_name(schema, columns, words):
    message = refused(schema, changed(**columns), name="new")
    assert message.startswith("new")
    assert words in message


def test_a_missing_column_is_named(schema):
    table = dict(NEW)
    table["N"] = table.pop("n")
    assert refused(schema, table, name="new") == "new has no column n; did you mean N?"


def test_a_text_file_is_read_as_the_fit_read_it(schema, write):
    # Of themselves, these columns would be taken for numbers, numbers, nothing at all.
    schema = replace(schema, columns=schema.columns[:3], missing="drop")
    schema = replace(
        schema, columns=(schema.columns[0], replace(schema.columns[1], levels=("1", "2")), schema.columns[2])
    )
    path = write("new.csv", "n,s,t\n7,1,0\n8,2,1\n,1,\n")
    assert encode(schema, path)[:2].tolist() == [[7, 0, 0], [8, 1, 1]]
    assert encode(schema, path)[2].isnan().all()
    path = write("new.csv", "n,s,t\n7,1,0\nx,2,1\n")
    assert refused(schema, path) == "new.csv, line 3: column n holds 'x', not a number"
    path = write("new.csv", "n,s,t\n7,1,0\n3,2,maybe\n")
    assert refused(schema, path) == "new.csv, line 3: column t holds 'maybe', not true or false"
    path = write("new.csv", "n,s,t\n7,1,0\n3,07,true\n")
    assert refused(schema, path).startswith("new.csv, line 3: column s holds '07', a level")
    assert "there is no such file" in refused(schema, "gone.csv")


def test_unseen_levels_can_be_the_reference(schema):
    schema = replace(schema, unseen="reference")
    assert encode(schema, changed(s=["z", "a"], k=[99, 1])).tolist() == [
        [7.5, 0, 0, 0, 0, 0, 18628],
        [8, 0, 0, 1, 0, 0, -1],
    ]


def test_rows_without_a_prediction_are_nan_all_along(schema):
    schema = replace(schema, missing="drop")
    encoded = encode(schema, changed(n=[None, 8], s=["never seen", "a"]))
    assert encoded[0].isnan().all()
    assert encoded[1].tolist() == CODED[1]


def test_imputation_travels_in_the_schema():
    table = {name: [*values, None] for name, values in TRAINING.items()}
    table["y"][-1] = "no"
    schema = fitted(table, missing="impute", categorical=["k"]).schema
    schema = TableSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    empty = {"n": pa.nulls(1), "s": pa.nulls(1), "t": pa.nulls(1), "k": pa.nulls(1), "d": pa.nulls(1)}
    assert encode(schema, empty)[0].tolist() == [3.5, 0, 0, 1, 0, 0, 18262 + 2.5]


def test_constant_category_makes_no_feature_but_is_checked():
    data = fitted({"a": [1, 2, 3, 5], "s": ["one"] * 4, "y": [0, 1, 0, 1]})
    assert data.schema.feature_names == ("a",)
    assert encode(data.schema, {"a": [1], "s": ["one"]}).tolist() == [[1]]
    assert "level" in refused(data.schema, {"a": [1], "s": ["two"]})
    assert "column s has no value" in refused(data.schema, {"a": [1], "s": pa.nulls(1)})
    dropping = replace(data.schema, missing="drop")
    assert encode(dropping, {"a": [1, 2], "s": [None, "one"]}).isnan().tolist() == [[True], [False]]


class TestArrays:
    schema = TableSchema.of_numbers(["a", "b"], "y")

    @pytest.mark.parametrize("make", [torch.tensor, np.array, list, lambda v: torch.tensor(v, dtype=torch.float32)])
    def test_are_taken_in_the_schemas_order(self, make):
        assert encode(self.schema, make([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[1, 2], [3, 4]]

    def test_are_not_written_to(self):
        x = torch.tensor([[1.0, torch.nan]], dtype=torch.float64)
        encode(replace(self.schema, missing="drop"), x)
        assert x[0, 0] == 1

    def test_of_another_shape_are_refused(self):
        assert "shape (1, 3); it must be (rows, 2), with the columns a, b" in refused(self.schema, torch.zeros(1, 3))
        assert "shape (2,)" in refused(self.schema, np.zeros(2))
        assert "different lengths" in refused(self.schema, [[1.0, 2.0], [1.0]])

    def test_keep_the_rules(self):
        assert "row 2: column b holds no value" in refused(self.schema, np.array([[1, 2], [3, np.nan]]))
        assert "row 1: column a holds an infinite value" in refused(self.schema, np.array([[np.inf, 2]]))
        dropping = replace(self.schema, missing="drop")
        assert encode(dropping, np.array([[1, 2], [3, np.nan]]))[1].isnan().all()
        filled = replace(self.schema, missing="impute", columns=(Column("a", fill=5.0), Column("b", fill=6.0)))
        assert encode(filled, np.array([[np.nan, 2], [3, np.nan]])).tolist() == [[5, 2], [3, 6]]

    def test_of_objects_hold_any_column(self, schema):
        rows = np.array(list(zip(*NEW.values(), strict=True)), dtype=object)
        assert encode(schema, rows).tolist() == CODED
        assert encode(schema, [list(row) for row in rows]).tolist() == CODED

    def test_no_rows(self):
        assert encode(self.schema, np.zeros((0, 2))).shape == (0, 2)
        assert encode(self.schema, {"a": pa.array([], pa.float64()), "b": pa.array([], pa.int8())}).shape == (
            0,
            2,
        )


class TestBlocks:
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_are_the_rows_in_order_with_their_ids(self, schema, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 4096)
        monkeypatch.setattr(opening, "STREAM_BATCH_ROWS", 500)
        n = 3000
        table = pa.table(
            {**{name: values * (n // 2) for name, values in NEW.items()}, "id": [f"{i:05}" for i in range(n)]}
        )
        path = str(tmp_path / f"new.{suffix}")
        if suffix == "csv":
            table.to_pandas().to_csv(path, index=False)
        else:
            pq.write_table(table, path, row_group_size=700)
        blocks = list(encode_blocks(schema, path, identifier="id"))
        assert len(blocks) > 1
        assert torch.equal(torch.cat([block.dense() for block in blocks]), encode(schema, path))
        assert [i.as_py() for block in blocks for i in block.ids] == [f"{i:05}" for i in range(n)]

    def test_may_use_a_feature_as_id(self, schema, write):
        pd.DataFrame(NEW).to_csv(write("new.csv", ""), index=False)
        (block,) = encode_blocks(schema, "new.csv", identifier="k")
        assert block.ids.to_pylist() == ["10", "1"]  # as they stand in the file, 007 too
        assert block.dense().tolist() == CODED

    def test_name_the_line_of_a_mistake(self, write, monkeypatch):
        monkeypatch.setattr(csv, "STREAM_BLOCK_BYTES", 256)
        schema = TableSchema.of_numbers(["a"], "y")
        path = write("new.csv", "a,b\n" + "1,2\n" * 500 + "inf,3\n")
        with pytest.raises(InputError, match=r"new.csv, line 502: column a holds an infinite value"):
            list(encode_blocks(schema, path))

    def test_refuse_an_unknown_id(self, schema):
        with pytest.raises(InputError, match="no column id"):
            list(encode_blocks(schema, NEW, identifier="id"))


PLAIN = (str, int, float, bool, type(None))


def leaves(value):
    if type(value) is dict:
        return [leaf for item in [*value, *value.values()] for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if type(value) is list else [value]


def test_plain_data_there_and_back(schema, tmp_path):
    plain = schema.to_dict()
    assert all(type(leaf) in PLAIN for leaf in leaves(plain))
    torch.save(plain, tmp_path / "schema.pt")
    again = TableSchema.from_dict(torch.load(tmp_path / "schema.pt", weights_only=True))
    assert again == schema
    assert again.feature_names == ("n", "s=b", "s=c", "t", "k=2", "k=10", "d")
    assert {type(level) for level in again.columns[3].levels} == {int}


@pytest.mark.parametrize(
    "lie",
    [
        {"columns": None},
        {"columns": [{"name": "a"}]},
        {"columns": [{"name": "a", "kind": "magic", "levels": [], "fill": None}]},
        {"columns": [{"name": 3, "kind": "number", "levels": [], "fill": None}]},
        {"columns": [{"name": "a", "kind": "category", "levels": [], "fill": None}]},
        {"columns": [{"name": "a", "kind": "category", "levels": ["x", "x"], "fill": None}]},
        {"columns": [{"name": "a", "kind": "category", "levels": [["x"], "y"], "fill": None}]},
        {"columns": [{"name": "a", "kind": "number", "levels": ["x"], "fill": None}]},
        {"columns": [{"name": "a", "kind": "number", "levels": [], "fill": float("nan")}]},
        {"columns": [{"name": "a", "kind": "category", "levels": ["x", "y"], "fill": "z"}]},
        {"columns": [{"name": "a", "kind": "number", "levels": [], "fill": None}] * 2},
        {"columns": [{"name": "a", "kind": "number", "levels": [], "fill": None, "notation": "day/month/year"}]},
        {"columns": [{"name": "a", "kind": "number", "levels": [], "fill": None, "notation": 1234.5}]},
        {"columns": [{"name": "a", "kind": "category", "levels": ["x", "y"], "fill": "x", "notation": "1234.5"}]},
        {"columns": [{"name": "a", "kind": "number", "levels": [], "fill": None, "binary": 1}]},
        {"columns": [{"name": "a", "kind": "date", "levels": [], "fill": None, "binary": True}]},
        {"labels": [0]},
        {"labels": [1, 1]},
        {"labels": [None, 1]},
        {"target": None},
        {"weight": 3},
        {"offset": ["o"]},
        {"offset": "k"},
        {"weight": "w", "offset": "w"},
        {"groups": "y"},
        {"missing": "perhaps"},
        {"missing": "impute"},
        {"unseen": "perhaps"},
        {"more": 1},
    ],
)
def test_a_schema_that_lies_about_itself_is_refused(schema, lie):
    with pytest.raises(InputError, match="the schema in the checkpoint is damaged"):
        TableSchema.from_dict({**schema.to_dict(), **lie})


@pytest.mark.parametrize("nothing", [None, [], "schema", {}])
def test_what_is_no_schema_is_refused(nothing):
    with pytest.raises(InputError, match="damaged"):
        TableSchema.from_dict(nothing)


def test_arrays_need_neither_lightning_nor_pyarrow():
    code = (
        "import sys; from lr_lightning.data.encode import encode; from lr_lightning.data.schema import TableSchema;"
        "assert encode(TableSchema.of_numbers(['a'], 'y'), [[1.0]]).tolist() == [[1.0]];"
        "assert not {'lightning', 'pyarrow', 'pandas'} & set(sys.modules), 'too much is imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("texts", [("1.0", "0.0"), ("1", "0"), ("TRUE", "FALSE"), ("true", " False"), ("1.00", "0e0")])
def test_truth_values_are_read_in_every_spelling(schema, write, texts):
    one, zero = texts
    path = write("new.csv", f"n,s,t,k,d\n7.5,c,{zero},10,2021-01-01\n8,a,{one},1,1969-12-31\n")
    assert encode(schema, path).tolist() == CODED
    path = write("new.csv", f"n,s,t,k,d\n7.5,c,{zero},10,2021-01-01\n8,a,2,1,1969-12-31\n")
    assert refused(schema, path) == "new.csv, line 3: column t holds '2', not true or false"


@pytest.mark.parametrize("suffix", ["csv", "parquet", ""])
@pytest.mark.parametrize("binary", [(1.0, 0.0), (1, 0), ("1.0", "0.0"), (1.0, 0.0, None)])
def test_a_number_of_which_the_fit_saw_0_and_1_takes_truth_values(tmp_path, suffix, binary):
    table = {"n": [*binary, *binary[:2]] * 3, "y": ([0, 1, 1, 0, 1] * 3)[: 3 * len(binary) + 6]}
    schema = fitted(table, missing="drop").schema
    assert (schema.columns[0].kind, schema.columns[0].binary) == ("number", True)
    for values in ([True, False], ["TRUE", "FALSE"], [1, 0], [True, None]):
        new = pd.DataFrame({"n": values})
        path = tmp_path / f"new.{suffix}" if suffix else new
        if suffix:
            getattr(new, f"to_{suffix}")(path, index=False)
        expected = [1.0, np.nan if values[1] is None else 0.0]
        np.testing.assert_array_equal(encode(schema, path)[:, 0], expected)
    assert encode(schema, {"n": [0.5, 7.0]})[:, 0].tolist() == [0.5, 7]


def test_other_numbers_take_no_truth_values(write):
    schema = fitted({"n": [2.0, 0.0, 1.0, 1.0], "m": [1.0, 0.0, None, 5.0], "y": [0, 1, 1, 0]}, missing="drop").schema
    assert [column.binary for column in schema.columns] == [None, None]
    with pytest.raises(InputError, match=r"new.csv, line 2: column n holds 'true', not a number"):
        encode(schema, write("new.csv", "n,m\ntrue,1\n"))
    plain = schema.to_dict()
    for column in plain["columns"]:
        del column["binary"]  # as an older version wrote it
    assert TableSchema.from_dict(plain) == schema


def test_a_level_that_the_fit_knew_is_no_missing_value(write):
    table = {"s": ["NA", "DE", "NA", "DE", "FR"], "y": ["null", "x", "x", "null", "x"]}
    schema = fitted(table).schema
    path = write("new.csv", "s,y\nNA,null\nDE,x\n")
    assert encode(schema, path).tolist() == [[0, 1], [0, 0]]
    assert schema.feature_names == ("s=FR", "s=NA")
