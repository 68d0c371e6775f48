"""Parquet, Arrow, folders, and tables in memory."""

import datetime
import decimal
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from lr_lightning.data.encode import encode
from lr_lightning.errors import InputError
from lr_lightning.training.data_modules import TableDataModule
from tests.data.conftest import dense, fitted, raw, refusal

N = 60
TABLE = pa.table(
    {
        "n": np.arange(N) * 0.5,
        "i": pa.array(np.arange(N) % 7, pa.int16()),
        "s": [("a", "b", "c")[i % 3] for i in range(N)],
        "t": [i % 5 == 0 for i in range(N)],
        "d": pa.array([datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(N)]),
        "y": [("no", "yes")[i % 2] for i in range(N)],
    }
)
NAMES = ("n", "i", "s=b", "s=c", "t", "d")


@pytest.fixture
def expected():
    days = np.arange(N) + 18262
    columns = [
        np.arange(N) * 0.5,
        np.arange(N) % 7,
        np.arange(N) % 3 == 1,
        np.arange(N) % 3 == 2,
        np.arange(N) % 5 == 0,
    ]
    return torch.tensor(np.column_stack([*columns, days]).astype(float))


def save(table, path):
    if path.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=17)
    elif path.endswith(".feather"):
        pyarrow.feather.write_feather(table, path)
    elif path.endswith(".arrows"):
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, 13)
    else:
        table.to_pandas().to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrows", "t.csv"])
def test_the_same_table_from_any_file(tmp_path, name, expected):
    path = save(TABLE, str(tmp_path / name))
    data = fitted(path)
    assert data.schema.feature_names == NAMES
    assert data.schema.labels == ("no", "yes")
    torch.testing.assert_close(raw(data), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encode(data.schema, path), expected, rtol=0, atol=0)
    cached = fitted(path, cache_dir=str(tmp_path / "cache"))
    assert cached.schema == data.schema
    assert torch.equal(dense(cached.train_rows), dense(data.train_rows))


class StreamOnly:
    """A table that offers nothing but the Arrow stream protocol."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def pandas_frame(table):
    frame = table.to_pandas()
    frame["s"] = frame["s"].astype("category")
    frame["d"] = pd.to_datetime(frame["d"])
    frame.index = range(100, 100 + N)
    return frame


IN_MEMORY = {
    "arrow": lambda t: t,
    "chunked": lambda t: pa.concat_tables([t[:7], t[7:20], t[20:]]),
    "batch": lambda t: t.combine_chunks().to_batches()[0],
    "pandas": pandas_frame,
    "pandas with Arrow types": lambda t: t.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": pl.from_arrow,
    "stream": StreamOnly,
    "columns": lambda t: {name: t[name].to_numpy(zero_copy_only=False) for name in t.column_names},
    "rows": lambda t: t.to_pylist(),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_the_same_table_from_memory(kind, expected):
    table = IN_MEMORY[kind](TABLE)
    data = fitted(table)
    assert data.schema.feature_names == NAMES
    torch.testing.assert_close(raw(data), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encode(data.schema, table), expected, rtol=0, atol=0)
    assert "path" not in data.hparams  # a checkpoint must not hold the table


def test_arrays(expected):
    x = np.column_stack([expected[:, 0].numpy(), np.arange(N) % 2])
    data = fitted(x, "x1")
    assert data.schema.feature_names == ("x0",)
    torch.testing.assert_close(encode(data.schema, x[:, :1]), expected[:, :1])
    torch.testing.assert_close(encode(data.schema, torch.tensor(x[:, :1], dtype=torch.float32)), expected[:, :1])
    structured = np.zeros(4, dtype=[("a", "f8"), ("y", "U3")])
    structured["a"], structured["y"] = [1, 2, 3, 5], ["u", "v", "u", "v"]
    assert fitted(structured).schema.labels == ("u", "v")


NUMBERS = {
    "int8": pa.int8(),
    "uint64": pa.uint64(),
    "half": pa.float16(),
    "float": pa.float32(),
    "decimal": pa.decimal128(9, 2),
    "wide decimal": pa.decimal256(50, 3),
}


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("missing", [False, True])
def test_every_numeric_type_is_a_number(kind, missing):
    make = {"half": np.float16, "float": float, "decimal": decimal.Decimal, "wide decimal": decimal.Decimal}
    values = [make.get(kind, int)(i) for i in range(8)]
    if missing:
        values[3] = None
    table = pa.table({"a": pa.array(values, NUMBERS[kind]), "y": [0, 1] * 4})
    data = fitted(table, missing="impute")
    wanted = np.arange(8.0)
    if missing:
        wanted[3] = np.delete(wanted, 3).mean()
    np.testing.assert_allclose(raw(data)[:, 0], wanted, atol=1e-6)


def test_dates_and_times_keep_their_fractions(messages):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moments = [datetime.datetime(2020, 1, 1, 2, 0, i, tzinfo=zone) for i in range(6)]
    table = pa.table(
        {
            "date": pa.array([datetime.date(1970, 1, 2 + i) for i in range(6)], pa.date64()),
            "s": pa.array(moments, pa.timestamp("s", "UTC")),
            "ns": pa.array([m.replace(tzinfo=None) for m in moments], pa.timestamp("ns")),
            "clock": pa.array([datetime.time(6, 0, i) for i in range(6)]),
            "span": pa.array([datetime.timedelta(days=i, hours=12) for i in range(6)]),
            "y": [0, 1] * 3,
        }
    )
    days = np.column_stack(
        [
            1.0 + np.arange(6),
            18262 + np.arange(6) / 86400,  # 02:00 in a zone two hours ahead is midnight
            18262 + (7200 + np.arange(6)) / 86400,
            0.25 + np.arange(6) / 86400,
            0.5 + np.arange(6),
        ]
    )
    encoded = encode(fitted(table).schema, table)
    np.testing.assert_allclose(encoded, days, rtol=0, atol=1e-10)
    assert sum("days" in line for _, line in messages) == 5


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (pa.array([[1], [2]]), "list"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct"),
        (pa.array([b"x", b"z"]), "binary"),
        (pa.nulls(2), "a (all 2)"),
    ],
)
def test_what_is_no_feature_is_refused_by_name(array, word):
    message = refusal(pa.table({"a": array, "y": [0, 1]}))
    assert word in message
    assert " a " in message


def test_mixed_objects_are_refused_by_name():
    assert "column a mixes types" in refusal(pd.DataFrame({"a": [1, "x", 2.5], "y": [0, 1, 0]}))
    assert "two columns are named a" in refusal(pd.DataFrame([[1, 2, 0]], columns=["a", "a", "y"]))
    assert "column a" in refusal({"a": [2**80, 1], "y": [0, 1]})
    assert "different lengths" in refusal({"a": [1, 2], "y": [0]})
    assert "dimensions" in refusal(np.zeros(3))


def test_integers_beyond_doubles_are_warned_of(messages):
    fitted({"a": [2**53 + 1, 2**60, 5], "b": [1, 2, 3], "y": [0, 1, 0]})
    assert [line for level, line in messages if level == "WARNING" and "column a" in line and "2**53" in line]
    assert not [line for _, line in messages if "column b" in line]


class TestFolder:
    @pytest.mark.parametrize("suffix", [".parquet", ".csv"])
    def test_is_the_table_of_its_files_in_order(self, tmp_path, suffix, expected):
        for part, start in (("b", 20), ("a", 0), ("c", 45)):
            stop = {0: 20, 20: 45, 45: N}[start]
            save(TABLE[start:stop], str(tmp_path / f"part-{part}{suffix}"))
        (tmp_path / "_SUCCESS").touch()
        (tmp_path / ".hidden.csv").write_text("nonsense")
        (tmp_path / "readme.md").write_text("nonsense")
        data = fitted(str(tmp_path))
        torch.testing.assert_close(raw(data), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(encode(data.schema, str(tmp_path)), expected, rtol=0, atol=0)
        cached = fitted(str(tmp_path), cache_dir=str(tmp_path / "cache"))
        assert torch.equal(dense(cached.train_rows), dense(data.train_rows))

    def test_names_the_file_that_differs(self, tmp_path):
        save(TABLE[:20], str(tmp_path / "a.parquet"))
        save(TABLE[20:].drop_columns("n"), str(tmp_path / "b.parquet"))
        assert "b.parquet has not the columns of" in refusal(str(tmp_path))
        save(TABLE[20:].set_column(0, "n", pa.array(["x"] * 40)), str(tmp_path / "b.parquet"))
        assert "b.parquet: column n holds text" in refusal(str(tmp_path))
        save(TABLE[20:], str(tmp_path / "b.parquet"))
        os.truncate(tmp_path / "b.parquet", 500)
        assert "b.parquet is truncated" in refusal(str(tmp_path))

    def test_finds_the_line_in_the_right_file(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,y\n1,0\n2,1\n")
        (tmp_path / "b.csv").write_text("a,y\n1,0\n\ninf,1\n")
        assert "b.csv, line 4: column a holds an infinite value" in refusal(str(tmp_path))
        (tmp_path / "b.csv").write_text("a,y\n1.5,0\nx,1\n2.5,1\n3.5,0")
        assert "b.csv, line 3: column a holds 'x'" in refusal(str(tmp_path))
        assert "b.csv, line 3" in refusal(str(tmp_path), cache_dir=str(tmp_path / "cache"))

    def test_text_parts_that_look_like_numbers_are_text_together(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,y\n1,0\n2,1\n1,1\n")
        (tmp_path / "b.csv").write_text("a,y\nB1,0\nB2,1\nB1,1\n")
        data = fitted(str(tmp_path))
        assert data.schema.columns[0].levels == ("1", "2", "B1", "B2")
        assert fitted(str(tmp_path), cache_dir=str(tmp_path / "cache")).schema == data.schema

    def test_does_not_follow_links_out(self, tmp_path):
        (tmp_path / "in").mkdir()
        save(TABLE, str(tmp_path / "out.parquet"))
        (tmp_path / "in" / "a.parquet").symlink_to(tmp_path / "out.parquet")
        assert "link" in refusal(str(tmp_path / "in"))

    def test_without_data_is_refused(self, tmp_path):
        assert refusal(str(tmp_path)).endswith("without data files (.parquet, .pq, .csv, …)")
        (tmp_path / "archive").mkdir()
        assert refusal(str(tmp_path)).endswith("; folders inside it are not looked into")

    def test_partitions_are_refused_with_what_to_do(self, tmp_path):
        """Also beside a file, of which a fit would else be, without a word about the partitions."""
        save(TABLE, str(tmp_path / "a.parquet"))
        (tmp_path / "year=2024").mkdir()
        said = refusal(str(tmp_path))
        assert "/year=2024 is a partition, and the column year is in no file" in said
        assert "partitioning='hive'" in said


@pytest.mark.parametrize("text", ['{"a": 1, "y": 0}\n{"a": 2, "y": 1}\n', '[{"a": 1, "y": 0}]', '[{\n"a": 1}]\n'])
def test_json_is_named(write, text):
    assert refusal(write("t.jsonl", text)).endswith("is JSON; save the table as CSV or Parquet")


def test_a_columns_name_may_begin_as_an_orc_file_does(write):
    data = fitted(write("t.csv", "ORCID,y\n1,0\n2,1\n1,1\n2,0\n"))
    assert data.schema.feature_names == ("ORCID",)


def test_what_is_no_file(write, tmp_path):
    assert "there is no such file" in refusal("no/where.csv")
    assert "URL" in refusal("https://example.org/t.csv")
    os.mkfifo(tmp_path / "fifo")
    assert "neither a file nor a folder" in refusal(str(tmp_path / "fifo"))
    assert "damaged or no parquet file" in refusal(write("t.parquet", "a,y\n1,0\n"))
    assert refusal("a\0b.csv".replace("b", "table")) is not None


@pytest.mark.parametrize("cut", [4, 100, 0.5, -1, -9])
def test_cut_files(tmp_path, cut):
    for name in ("t.parquet", "t.feather"):
        path = save(TABLE, str(tmp_path / name))
        size = os.path.getsize(path)
        os.truncate(path, int(size * cut) if isinstance(cut, float) else cut if cut > 0 else size + cut)
        assert "damaged" in refusal(path)


def test_lengths_beyond_any_memory_are_damage(tmp_path):
    """A compressed buffer begins with the length of its content."""
    path = tmp_path / "table.arrow"
    numbers = pa.table({"x": np.arange(1000.0), "y": [0, 1] * 500})
    pa.feather.write_feather(numbers, path, compression="lz4")
    content = path.read_bytes()
    of_x = (8000).to_bytes(8, "little")
    assert content.count(of_x) >= 1
    path.write_bytes(content.replace(of_x, (2**58).to_bytes(8, "little")))
    assert "table.arrow is truncated, damaged or not Arrow after all (malloc of size" in refusal(path)


def test_an_empty_parquet_file(tmp_path):
    assert "no rows" in refusal(save(TABLE[:0], str(tmp_path / "t.parquet")))


def test_columns_whose_names_look_like_paths(tmp_path):
    path = save(pa.table({"a.b": [1.0, 2, 3, 4], "a": [5.0, 6, 7, 9], "y": [0, 1, 0, 1]}), str(tmp_path / "t.parquet"))
    data = fitted(path, features=["a"])
    assert encode(data.schema, path)[:, 0].tolist() == [5, 6, 7, 9]


def test_hyperparameters_are_plain(tmp_path):
    path = tmp_path / "t.csv"
    save(TABLE, str(path))
    data = TableDataModule(path, "y", features=("n", "i"), positive=np.int64(1), cache_dir=tmp_path)
    assert {type(value) for value in data.hparams.values()} <= {str, list, int, float, bool, type(None)}
    with pytest.raises(InputError, match="batch_size"):
        TableDataModule(path, "y", batch_size=0)


def test_a_category_of_booleans_is_boolean(tmp_path):
    frame = pd.DataFrame({"c": pd.Categorical([True, False, None, True]), "y": [0, 1, 1, 0]})
    pyarrow.feather.write_feather(pa.Table.from_pandas(frame), str(tmp_path / "t.feather"))
    for table in (frame, str(tmp_path / "t.feather")):
        data = fitted(table, missing="drop")
        assert data.schema.columns[0].kind == "boolean"
        assert raw(data)[:, 0].tolist() == pytest.approx([1, 0, 1], abs=1e-6)
        assert encode(data.schema, {"c": [True, False]}).tolist() == [[1], [0]]


def test_sparse_columns_of_pandas_are_numbers():
    dense = pd.DataFrame({"f": [0, 1.5, 0, 2], "b": [True, False, False, True], "i": [0, 3, 0, 0], "y": [0, 1, 1, 0]})
    sparse = dense.astype({name: pd.SparseDtype(dense[name].dtype) for name in dense})
    for table in (sparse, {name: sparse[name].array for name in sparse}):
        data = fitted(table)
        np.testing.assert_allclose(raw(data), dense[["f", "b", "i"]].astype(float), atol=1e-6)
        assert data.train_rows.y.tolist() == [0, 1, 1, 0]


def test_an_infinite_level_is_refused_by_its_place(tmp_path):
    (tmp_path / "t.csv").write_text("c,y\n1,0\ninf,0\n2,1\n1,1\n")
    assert "t.csv, line 3: column c holds an infinite value" in refusal(str(tmp_path / "t.csv"), categorical=["c"])
    schema = fitted({"c": [1, 2, 2.5, 1], "y": [0, 1, 0, 1]}, categorical=["c"]).schema
    with pytest.raises(InputError, match="row 2: column c holds an infinite value"):
        encode(schema, {"c": [1, -np.inf]})
