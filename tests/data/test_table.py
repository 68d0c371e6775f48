"""TableDataModule: splits, the rows of an earlier fit, and the cache of decoded tables."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from lr_lightning import memory
from lr_lightning.data import cache, prepare
from lr_lightning.data.cache import TensorCache
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from lr_lightning.training.data_modules import TableDataModule
from tests.data.conftest import assert_same, dense, fitted, raw

N = 1000


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "row": np.arange(N),
            "s": rng.choice(["a", "b"], N),
            "hole": np.where(rng.random(N) < 0.1, np.nan, 1.0),
            "w": rng.random(N),
            "y": rng.random(N) < 0.3,
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    return str(tmp_path / "t.csv")


def rows_of(data, rows):
    return (dense(rows)[:, 0] * data.served.scale[0] + data.served.mean[0]).round().long()


OPTIONS = {"val_fraction": 0.2, "test_fraction": 0.1, "missing": "drop", "weight": "w"}


def test_splits_are_disjoint_stratified_and_complete(path):
    data = fitted(path, **{**OPTIONS, "missing": "impute"})
    parts = [rows_of(data, rows) for rows in (data.train_rows, data.val_rows, data.test_rows)]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(N))
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert [len(part) for part in parts] == [700, 200, 100]
    share = pd.read_csv(path)["y"].mean()
    for rows in (data.train_rows, data.val_rows, data.test_rows):
        assert rows.y.mean().item() == pytest.approx(share, abs=1 / len(rows.y))
        assert rows.weight.shape == rows.y.shape
    assert torch.equal(parts[1], rows_of(data, fitted(path, **{**OPTIONS, "missing": "impute"}).val_rows))
    assert not torch.equal(parts[1], rows_of(data, fitted(path, seed=1, **{**OPTIONS, "missing": "impute"}).val_rows))


@pytest.mark.parametrize("cached", [False, True])
def test_an_earlier_fits_rows_are_found_again(path, cached, tmp_path):
    fit = fitted(path, **OPTIONS)
    options = json.loads(json.dumps(dict(fit.hparams)))
    again = TableDataModule(**{**options, "cache_dir": str(tmp_path / "cache") if cached else None})
    schema = TableSchema.from_dict(fit.schema.to_dict())
    again.use_schema(schema, fit.training, every_row=False, fingerprint=fit.fingerprint)
    again.prepare_data()
    again.setup("test")
    for part in ("train_rows", "val_rows", "test_rows"):
        assert_same(getattr(fit, part), getattr(again, part))
    assert again.schema == fit.schema
    assert [len(batch) for batch in again.test_dataloader()] == [3]


def test_every_row_of_another_table(path, tmp_path):
    fit = fitted(path, **OPTIONS)
    other = pd.DataFrame(
        {"y": [True, True], "w": [1.0, 2.0], "s": ["b", "a"], "hole": [1, 1], "row": [0, 5], "more": 1}
    )
    data = TableDataModule(other, None, missing="drop")
    data.use_schema(fit.schema, fit.training, every_row=True)
    data.setup("test")
    assert data.test_rows.y.tolist() == [1, 1]
    assert data.test_rows.weight.tolist() == [1, 2]
    assert rows_of(data, data.test_rows).tolist() == [0, 5]
    assert data.val_rows is data.test_rows
    for spoilt, words in (
        (other.drop(columns="y"), "no target column y"),
        (other.drop(columns="w"), "no weight column w"),
        (other.drop(columns="row"), "no column row"),
        (other.assign(y=["yes", "no"]), "the fit's labels are False and True"),
        (other.assign(y=[None, None]), "the target y holds no value at all"),
        (other.assign(w=[1, -1]), "row 2: the weight w is -1.0"),
        (other.assign(s="never"), "a level the fit has not seen"),
        (other.assign(hole=np.nan), "every row has a missing value"),
        (other.assign(row=[1, np.inf]), "row 2: column row holds an infinite value"),
        (other[:0], "no rows"),
    ):
        data = TableDataModule(spoilt, None)
        data.use_schema(fit.schema, fit.training, every_row=True)
        with pytest.raises(InputError, match=words):
            data.setup("test")


def test_a_table_that_changed_since_the_fit_is_noticed(path):
    fit = fitted(path, **OPTIONS)
    frame = pd.read_csv(path)
    frame.loc[3, "y"] = not frame.loc[3, "y"]
    frame.to_csv(path, index=False)
    data = TableDataModule(path, "y", **OPTIONS)
    data.use_schema(fit.schema, fit.training, every_row=False, fingerprint=fit.fingerprint)
    with pytest.raises(InputError, match=r"t.csv has changed since the fit"):
        data.setup("test")


def test_a_missing_value_at_test_is_refused_where_the_fit_refused_it(path):
    fit = fitted(path, features=["row", "s"])
    data = TableDataModule({"row": [1, None], "s": ["a", "b"], "y": [True, False]})
    data.use_schema(fit.schema, fit.training, every_row=True)
    with pytest.raises(InputError, match=r"missing values in row \(1\)"):
        data.setup("test")


NUMBERS = {"a": np.arange(6.0) / 7, "b": np.arange(6.0) ** 2 / 3, "y": [0, 1] * 3}
SINGLE = {name: np.asarray(values, np.float32) for name, values in NUMBERS.items()}


class TestPrecision:
    """Without a Trainer, which is the default precision: 32-true."""

    @pytest.mark.parametrize("suffix", ["", "parquet", "arrow"])
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (NUMBERS, torch.float64),
            (SINGLE, torch.float32),
            ({**SINGLE, "b": NUMBERS["b"]}, torch.float64),
            ({**SINGLE, "b": np.arange(6)}, torch.float64),
            ({**SINGLE, "b": list("uvwuvw")}, torch.float64),
            ({**SINGLE, "a": np.asarray(NUMBERS["a"], np.float16)}, torch.float32),
            ({**SINGLE, "y": list("nynyny")}, torch.float32),
        ],
    )
    def test_only_columns_of_single_precision_are_served_in_it(self, columns, expected, suffix, tmp_path):
        table = pa.table(columns)
        path = str(tmp_path / f"t.{suffix}")
        if suffix == "parquet":
            pq.write_table(table, path)
        elif suffix:
            pyarrow.feather.write_feather(table, path)
        data = fitted(path if suffix else table)
        assert data.train_rows.x.dtype == data.train_rows.y.dtype == expected
        again = TableDataModule(path if suffix else table, "y", val_fraction=0.0)
        again.use_schema(data.schema, data.training, every_row=True)
        again.setup("test")
        assert again.test_rows.x.dtype == expected

    def test_a_folder_is_served_in_the_precision_of_its_finest_file(self, tmp_path):
        pq.write_table(pa.table(SINGLE), tmp_path / "1.parquet")
        pq.write_table(pa.table(NUMBERS), tmp_path / "2.parquet")
        assert fitted(str(tmp_path)).train_rows.x.dtype == torch.float64

    @pytest.mark.parametrize("cached", [False, True])
    def test_a_large_table_is_served_in_the_trainers(self, path, cached, tmp_path, monkeypatch):
        """`row`, `s` and `hole` are three columns, and as many features of the rows in use."""
        options = {"missing": "drop", "weight": "w", "cache_dir": str(tmp_path / "cache") if cached else None}
        in_use = int(pd.read_csv(path)["hole"].notna().sum())
        for most, expected in ((3 * in_use, torch.float64), (3 * in_use - 1, torch.float32)):
            monkeypatch.setattr(prepare, "MOST_IN_DOUBLE", most)
            data = fitted(path, **options, seed=most)  # the cache knows no other limit
            assert len(data.train_rows.y) == in_use
            assert {t.dtype for t in data.train_rows.as_batch()} == {expected}
            data = TableDataModule(path, "y", **options, seed=most)
            data.trainer = SimpleNamespace(precision="64-true")
            data.setup("fit")
            assert {t.dtype for t in data.train_rows.as_batch()} == {torch.float64}


class TestCache:
    def test_serves_the_same_rows_as_memory(self, path, tmp_path):
        folder = tmp_path / "cache"
        memory, cached = fitted(path, **OPTIONS), fitted(path, cache_dir=str(folder), **OPTIONS)
        assert cached.schema == memory.schema
        for part in ("train_rows", "val_rows", "test_rows"):
            assert_same(getattr(memory, part), getattr(cached, part))
        assert torch.equal(cached.training.scale, memory.training.scale)
        batches = [x.dense() for x, _, _ in cached.train_dataloader()]
        assert torch.equal(torch.cat(batches), dense(memory.train_rows))

    def test_is_used_again_and_repeats_the_messages(self, path, tmp_path, messages, monkeypatch):
        fitted(path, cache_dir=str(tmp_path / "cache"), **OPTIONS)
        said = [line for _, line in messages if "decoded into" not in line]
        messages.clear()
        monkeypatch.setattr(cache.CacheWriter, "append", lambda *_: pytest.fail("decoded twice"))
        fitted(path, cache_dir=str(tmp_path / "cache"), **OPTIONS)
        assert [line for _, line in messages] == said

    def test_knows_another_file_and_other_settings(self, path, tmp_path):
        folder = str(tmp_path / "cache")
        one = fitted(path, cache_dir=folder, **OPTIONS)
        for options in (
            {"missing": "impute"},
            {"seed": 1},
            {"val_fraction": 0.3},
            {"positive": "false"},
            {"weight": None},
        ):
            fitted(path, cache_dir=folder, **{**OPTIONS, **options})
        assert len(os.listdir(folder)) == 6
        frame = pd.read_csv(path)
        frame["row"] += 1
        frame.to_csv(path, index=False)
        other = fitted(path, cache_dir=folder, **OPTIONS)
        assert len(os.listdir(folder)) == 7
        assert other.training.mean[0] == pytest.approx(one.training.mean[0] + 1)

    @pytest.mark.parametrize("damage", ["cut", "no contents", "nonsense"])
    def test_a_damaged_set_is_decoded_anew(self, path, tmp_path, damage):
        folder = tmp_path / "cache"
        one = fitted(path, cache_dir=str(folder), **OPTIONS)
        expected = dense(one.train_rows).clone()
        (entry,) = folder.iterdir()
        if damage == "cut":
            os.truncate(entry / "train.x", 100)
        elif damage == "nonsense":
            (entry / "contents.json").write_text("{")
        else:
            (entry / "contents.json").unlink()
        assert torch.equal(dense(fitted(path, cache_dir=str(folder), **OPTIONS).train_rows), expected)
        assert len(os.listdir(folder)) == 1

    def test_a_full_disk_is_one_line_and_leaves_nothing(self, path, tmp_path, monkeypatch):
        written = []

        class Full:
            def __init__(self, file):
                self._file = file

            def write(self, data):
                written.append(len(data))
                if len(written) > 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self._file.write(data)

            def __getattr__(self, name):
                return getattr(self._file, name)

        plain_open = Path.open
        monkeypatch.setattr(
            Path,
            "open",
            lambda self, mode="r", *a, **k: (
                Full(plain_open(self, mode, *a, **k)) if mode == "wb" else plain_open(self, mode, *a, **k)
            ),
        )
        with pytest.raises(InputError, match="no space left in"):
            fitted(path, cache_dir=str(tmp_path / "cache"), **OPTIONS)
        assert os.listdir(tmp_path / "cache") == []

    def test_a_folder_that_cannot_be_made(self, path):
        with pytest.raises(InputError, match="cannot be written"):
            fitted(path, cache_dir=path + "/cache", **OPTIONS)

    def test_a_killed_write_is_never_taken_for_a_whole_one(self, path, tmp_path):
        folder = tmp_path / "cache"
        code = (
            "import sys, time; from lr_lightning.data import cache;"
            "from lr_lightning.training.data_modules import TableDataModule;"
            "cache.CacheWriter.finish = lambda *a: (print('now', flush=True), time.sleep(60));"
            f"TableDataModule({path!r}, 'y', missing='drop', cache_dir={str(folder)!r}).setup('fit')"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        (left,) = os.listdir(folder)
        assert left.startswith(".")
        fitted(path, cache_dir=str(folder), **OPTIONS)
        (whole,) = os.listdir(folder)  # what the dead process left is gone
        assert not whole.startswith(".")

    def test_what_a_living_process_writes_is_left_alone(self, tmp_path):
        with TensorCache(tmp_path).writer("a") as writer:
            writer.append("x", np.zeros((3, 2)))
            with TensorCache(tmp_path).writer("b") as other:
                other.append("x", np.ones((3, 2)))
                other.finish({})
            writer.finish({})
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]

    def test_two_writers_of_one_set_agree(self, tmp_path):
        with TensorCache(tmp_path).writer("a") as one, TensorCache(tmp_path).writer("a") as other:
            for writer in (one, other):
                writer.append("x", np.arange(6.0).reshape(3, 2))
                writer.finish({"note": 1})
        notes, tensors = TensorCache(tmp_path).open("a")
        assert notes == {"note": 1}
        assert tensors["x"].tolist() == [[0, 1], [2, 3], [4, 5]]

    @pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
    def test_lies_where_linux_has_its_caches(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.user_cache_folder() == tmp_path / "lr_lightning"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache.user_cache_folder() == Path.home() / ".cache" / "lr_lightning"

    def test_is_chosen_by_itself_where_memory_is_short(self, path, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(memory, "available_memory", lambda: 10_000)
        data = fitted(path, **OPTIONS)
        assert data._mapped
        assert len(os.listdir(tmp_path / "home" / "lr_lightning")) == 1
        monkeypatch.undo()
        assert torch.equal(dense(fitted(path, **OPTIONS).train_rows), dense(data.train_rows))

    def test_a_table_in_memory_stays_there(self, path, tmp_path):
        data = fitted(pd.read_csv(path), cache_dir=str(tmp_path / "cache"), **OPTIONS)
        assert not data._mapped
        assert not (tmp_path / "cache").exists()


def test_available_memory_heeds_the_process_limit():
    code = (
        "import resource; from lr_lightning.memory import available_memory as a; before = a();"
        "resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)); print(before, a())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, limited = map(int, done.stdout.split())
    assert 0 < limited < 2 << 30
    assert limited <= before


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_reading_costs_no_more_than_a_few_copies(tmp_path, suffix):
    """A guard against accidental quadratic or per-row work; the ratios are measured in tests/benchmarks."""
    n = 200_000
    table = pa.table({f"x{j}": np.random.default_rng(j).normal(size=n) for j in range(5)} | {"y": np.arange(n) % 2})
    path = str(tmp_path / f"t.{suffix}")
    if suffix == "csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    start = time.perf_counter()
    data = fitted(path)
    assert time.perf_counter() - start < 20
    assert raw(data).shape == (n, 5)


WEIGHTED = "y,x,w\n0,1,1\n1,1,2\n0,2,1\n1,2,1\n0,3,1\n1,3,3\n0,4,1\n1,4,2\n"


@pytest.mark.parametrize("scale", ["e-320", "e-46", "e39", "e300"])
def test_weights_of_any_scale_are_served_as_those_near_1(tmp_path, scale):
    (tmp_path / "near.csv").write_text(WEIGHTED)
    lines = WEIGHTED.splitlines()
    (tmp_path / "far.csv").write_text("\n".join([lines[0], *(line + scale for line in lines[1:])]) + "\n")
    near, far = (TableDataModule(tmp_path / f"{name}.csv", "y", weight="w", val_fraction=0) for name in ("near", "far"))
    for data in (near, far):
        data.setup("fit")
    share = far.train_rows.weight / far.train_rows.weight.sum()
    assert share.numpy() == pytest.approx((near.train_rows.weight / near.train_rows.weight.sum()).numpy(), rel=1e-3)
    assert far.training.mean.numpy() == pytest.approx(near.training.mean.numpy(), rel=1e-3)
    assert far.weight_scale * float(far.train_rows.weight[0]) == pytest.approx(float(f"1{scale}"), rel=1e-6)
    assert near.weight_scale == 1


def test_a_part_whose_rows_all_weigh_0_is_refused_by_name(tmp_path):
    path = tmp_path / "t.csv"
    rows = [(i, i % 2, 1) for i in range(40)]
    path.write_text("x,y,w\n" + "".join(f"{x},{y},{w}\n" for x, y, w in rows))
    data = TableDataModule(path, "y", weight="w", val_fraction=0.1)
    data.setup("fit")
    kept_back = set(
        (data.val_rows.x.double()[:, 0] * data.served.scale[0] + data.served.mean[0]).round().int().tolist()
    )
    path.write_text("x,y,w\n" + "".join(f"{x},{y},{0 if x in kept_back else w}\n" for x, y, w in rows))
    with pytest.raises(
        InputError, match=r"t\.csv: every validation row has the weight 0 in w; choose another data.seed"
    ):
        TableDataModule(path, "y", weight="w", val_fraction=0.1).setup("fit")
