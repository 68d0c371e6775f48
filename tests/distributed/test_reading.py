"""Each process reads its own share of a table; what all find is what one process finds in the whole."""

import logging

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from lr_lightning import InputError, LogisticRegression, TableDataModule
from lr_lightning.data import splits
from lr_lightning.data.readers.base import PartOfSource
from lr_lightning.data.readers.open import open_source
from tests.distributed.several import in_processes
from tests.distributed.test_fit import leaves, trainer_for


def columns(n):
    generator = np.random.default_rng(5)
    number, integer = generator.normal(size=n), generator.integers(0, 1000, n)
    city = generator.choice(["Rome", "Oslo", "Lima", "Bonn"], n)
    city[n // 2 :][city[n // 2 :] == "Bonn"] = "Rome"  # a level of the first process alone
    city[-3:] = "Ulm"  # and one of the last
    y = np.where(generator.random(n) < 1 / (1 + np.exp(-number)), "yes", "no")
    y[: n // 3] = np.where(y[: n // 3] == "yes", "yes", "no")
    day = np.datetime64("2020-01-01") + integer.astype("timedelta64[D]")
    table = {"number": number, "integer": integer, "city": city, "day": day, "flag": integer % 2 == 0, "y": y}
    table["weight"] = generator.integers(1, 4, n) / 2
    table["club"] = generator.integers(0, n // 3, n)
    return pa.table(table)


def with_gaps(table):
    at = pa.array(np.arange(len(table)) % 7 == 0)
    for name in ("number", "city"):
        values = pa.compute.if_else(at, pa.scalar(None, table[name].type), table[name])
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def write(folder, table, kind):
    """A file, or a folder of three, in small row groups or batches; or in a single one."""
    if kind == "one row group":
        parquet.write_table(table, folder / "t.parquet", row_group_size=len(table))
        return str(folder / "t.parquet")
    if kind == "arrow":
        feather.write_feather(table, folder / "t.arrow", chunksize=77)
        return str(folder / "t.arrow")
    for number, at in enumerate((0, 100, 450)):
        part = table.slice(at, (100, 350, len(table))[number])
        parquet.write_table(part, folder / f"{number}.parquet", row_group_size=60)
    return str(folder)


OPTIONS = {
    "plain": {},
    "drop": {"missing": "drop"},
    "impute": {"missing": "impute", "weight": "weight"},
    "groups": {"groups": "club", "batch_size": 100},
    "trials": {"trials": "integer", "target": "successes"},
    "hashed": {"batch_size": 100},
    "hashed groups": {"groups": "club", "missing": "drop", "weight": "weight"},
}


def said_of(path, options, processes):
    """All that a fit says of its rows, its messages, and where its shares lie."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("lr_lightning")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        data = TableDataModule(path, **{"target": "y", "val_fraction": 0.2, "test_fraction": 0.1, "seed": 3, **options})
        model, trainer = LogisticRegression(l2=0.01), trainer_for(processes, max_epochs=30)
        trainer.fit(model, data)
        report = dict(leaves(model.infer().to_dict()))
    finally:
        logger.removeHandler(handler)
    described = {name: value for name, value in data.description().items() if name != "data"}
    own = {name: len(getattr(data, f"{name}_rows").y) for name in ("train", "val", "test")}
    kept = data.train_rows.y
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.itemsize  # no slice of what one process has read
    return report, described, records, own, data.train_numbers.tolist(), {k: v.total for k, v in data.shares.items()}


def all_that_is_said(folders, processes):
    said = {}
    for name, (path, option) in folders.items():
        splits.HASHED_FROM = 500 if "hashed" in option else 10**8
        said[name] = said_of(path, OPTIONS[option], processes)
    splits.HASHED_FROM = 10**8
    return said


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folders = {}
    for kind, option in [
        ("folder", "plain"),
        ("arrow", "plain"),
        ("one row group", "plain"),
        ("folder", "drop"),
        ("folder", "impute"),
        ("folder", "groups"),
        ("arrow", "trials"),
        ("arrow", "hashed"),
        ("folder", "hashed groups"),
    ]:
        table = columns(1000)
        if option in ("drop", "impute", "hashed groups"):
            table = with_gaps(table)
        if option == "trials":
            table = table.append_column("successes", pa.array(np.asarray(table["integer"]) // 3)).drop_columns(["y"])
        folders[f"{kind}, {option}"] = write(tmp_path_factory.mktemp("table"), table, kind), option
    return all_that_is_said(folders, 1), in_processes(3, all_that_is_said, folders, 3)


NAMES = ["folder, plain", "arrow, plain", "one row group, plain", "folder, drop", "folder, impute", "folder, groups"]


@pytest.mark.parametrize("name", [*NAMES, "arrow, trials", "arrow, hashed", "folder, hashed groups"])
def test_the_shares_of_a_table_say_what_the_whole_does(both, name):
    alone, several = both
    report, described, records, _, numbers, totals = alone[name]
    for found in several:
        assert found[name][5] == totals
        # The schema, the curve, and both checksums of the rows; a value that fills missing ones is a mean.
        pairs = zip(leaves(found[name][1]), leaves(described), strict=True)
        for (key, value), (expected_key, expected) in pairs:
            close = pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected
            assert (key, value) == (expected_key, close)
    assert [record for record in several[0][name][2] if "converge" not in record] == records
    for key, value in several[0][name][0].items():
        expected = report[key]
        assert value == (pytest.approx(expected, rel=1e-9, abs=1e-12) if isinstance(expected, float) else expected), key
    of_all = [number for found in several for number in found[name][4]]
    assert of_all == numbers  # every row once, in the split of one process
    own = [found[name][3]["train"] for found in several]
    assert sum(own) == totals["train"]
    assert max(own) < 0.5 * totals["train"]


def shares_of(path):
    data = TableDataModule(path, "y", val_fraction=0.0)
    trainer = trainer_for(4, max_epochs=1)
    trainer.fit(LogisticRegression(l2=0.1), data)
    return len(data.train_rows.y)


def test_more_processes_than_rows(tmp_path):
    table = columns(600).slice(0, 3)
    table = table.set_column(5, "y", pa.array(["no", "yes", "no"])).select(["number", "y"])
    parquet.write_table(table, tmp_path / "t.parquet")
    assert sorted(in_processes(4, shares_of, str(tmp_path / "t.parquet"))) == [0, 1, 1, 1]


MISTAKES = {  # a column, a row, what it holds; the rest of a sentence
    "infinite": ("number", 777, np.inf, "row 778: column number holds an infinite value"),
    "missing": ("number", 700, None, "has missing values in number (1)"),
    "no label": ("y", 950, None, "row 951: the target y has no value"),
    "third label": ("y", 999, "perhaps", "it has 3 values: 'no', 'perhaps', 'yes'"),
}


def refusals(paths):
    said = []
    for path in paths:
        with pytest.raises(InputError) as refusal:
            trainer_for(2, max_epochs=1).fit(LogisticRegression(), TableDataModule(path, "y"))
        said.append(str(refusal.value))
    return said


def test_a_refusal_is_that_of_one_process(tmp_path):
    paths = []
    for number, (name, row, value, _) in enumerate(MISTAKES.values()):
        table = columns(1000)
        values = table[name].to_pylist()
        values[row] = value
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
        parquet.write_table(table, tmp_path / f"{number}.parquet", row_group_size=100)
        paths.append(str(tmp_path / f"{number}.parquet"))
    alone = []
    for path in paths:
        with pytest.raises(InputError) as refusal:
            TableDataModule(path, "y").setup("fit")
        alone.append(str(refusal.value))
    assert in_processes(2, refusals, paths) == [alone, alone]
    for said, (*_, words) in zip(alone, MISTAKES.values(), strict=True):
        assert words in said


def unreadable_in_the_second(path):
    import os

    if os.environ["RANK"] == "1":
        PartOfSource.batches = broken
        from lr_lightning.data.readers.open import ParquetSource

        ParquetSource.load = broken
    with pytest.raises(InputError) as refusal:
        trainer_for(2, max_epochs=1).fit(LogisticRegression(), TableDataModule(path, "y"))
    return str(refusal.value)


def broken(self, columns):
    raise InputError(f"{self.name} is truncated or damaged")


def test_a_part_that_one_process_cannot_read_ends_all_in_one_line(tmp_path):
    parquet.write_table(columns(300), tmp_path / "t.parquet")
    first, second = in_processes(2, unreadable_in_the_second, str(tmp_path / "t.parquet"))
    assert first == second
    assert first.startswith("process 2 of 2, on ")
    assert first.endswith("t.parquet is truncated or damaged")


@pytest.mark.parametrize("kind", ["folder", "arrow", "one row group"])
def test_rows_of_a_part_are_those_of_the_table(tmp_path, kind):
    table = columns(1000)
    source = open_source(write(tmp_path, table, kind))
    assert source.n_rows() == 1000
    for start, stop in [(0, 1000), (0, 0), (59, 61), (99, 452), (999, 1000), (300, 700)]:
        part = PartOfSource(source, start, stop)
        found = pa.Table.from_batches(
            list(part.batches(["integer"])) or [pa.record_batch({"integer": pa.array([], pa.int64())})]
        )
        assert found["integer"].to_pylist() == table["integer"].to_pylist()[start:stop]
