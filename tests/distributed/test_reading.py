"""Each process reads its own share of a table; what all find is what one process finds in the whole."""

import csv
import errno
import gzip
import io
import logging
import os
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, parquet

from lr_lightning import InputError, LogisticRegression, TableDataModule
from lr_lightning.data import splits
from lr_lightning.data.decode import Decoder
from lr_lightning.data.readers.base import PartOfSource
from lr_lightning.data.readers.csv_part import PartOfDelimited
from lr_lightning.data.readers.open import open_source
from lr_lightning.data.svmlight import SvmlightDecoder
from tests.distributed.several import as_machines, in_processes
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


def said_of(path, options, processes, **trainer):
    """All that a fit says of its rows, its messages, and where its shares lie."""
    records = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("lr_lightning")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        data = TableDataModule(path, **{"target": "y", "val_fraction": 0.2, "test_fraction": 0.1, "seed": 3, **options})
        model, trainer = LogisticRegression(l2=0.01), trainer_for(processes, max_epochs=30, **trainer)
        trainer.fit(model, data)
        report = dict(leaves(model.infer().to_dict()))
        n_records = len(records)
        predicted = torch.cat(trainer.predict(model, data)).numpy()
        del records[n_records:]
    finally:
        logger.removeHandler(handler)
    described = {name: value for name, value in data.description().items() if name != "data"}
    parts = {name: getattr(data, f"{name}_rows") for name in ("train", "val", "test")}
    own = {name: 0 if rows is None else len(rows.y) for name, rows in parts.items()}
    kept = data.train_rows.y
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.itemsize  # no slice of what one process has read
    numbers = torch.arange(own["train"]) if data.train_numbers is None else data.train_numbers
    totals = {part: share.total for part, share in data.shares.items()}
    return report, described, records, own, numbers.tolist(), totals, predicted


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


def assert_the_same(several, alone):
    """What `said_of` gives of several processes, and of one."""
    report, described, records, _, numbers, totals, predicted = alone
    for found in several:
        assert found[5] == totals
        # The schema, the curve, and both checksums of the rows; a value that fills missing ones is a mean.
        for (key, value), (expected_key, expected) in zip(leaves(found[1]), leaves(described), strict=True):
            close = pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected
            assert (key, value) == (expected_key, close)
    said = [record for record in several[0][2] if "converge" not in record and "decoded into" not in record]
    assert said == records
    for key, value in several[0][0].items():
        expected = report[key]
        assert value == (pytest.approx(expected, rel=1e-9, abs=1e-12) if isinstance(expected, float) else expected), key
    assert [number for found in several for number in found[4]] == numbers  # every row once, split as in one process
    assert sum(found[3]["train"] for found in several) == totals["train"]
    joined = np.concatenate([found[6] for found in several])
    assert joined == pytest.approx(predicted, rel=1e-9, nan_ok=True)  # in the order of the table


@pytest.mark.parametrize("name", [*NAMES, "arrow, trials", "arrow, hashed", "folder, hashed groups"])
def test_the_shares_of_a_table_say_what_the_whole_does(both, name):
    alone, several = both
    assert_the_same([found[name] for found in several], alone[name])
    assert max(found[name][3]["train"] for found in several) < 0.5 * alone[name][5]["train"]


def said_by_a_machine(folders, machines):
    os.chdir(folders[int(os.environ.get("GROUP_RANK", 0))])
    here = {"local_files": True, "missing": "impute", "groups": "club"} if machines > 1 else OPTIONS["groups"]
    return said_of("t", {**OPTIONS["groups"], **here}, machines, devices=1, num_nodes=machines)


def test_files_of_each_machine_together_are_the_table(tmp_path, monkeypatch):
    table, folders = columns(1000), [tmp_path / name for name in ("first", "second", "whole")]
    for number, (start, stop) in enumerate([(0, 100), (100, 700), (700, 1000)]):
        for folder in (folders[number // 2], folders[2]):  # two files on the first machine, one on the second
            (folder / "t").mkdir(parents=True, exist_ok=True)
            part = table.slice(start, stop - start)
            if number == 2:  # the order of a file's columns is its own affair
                part = part.select(part.column_names[::-1])
            parquet.write_table(part, folder / f"t/{number}.parquet", row_group_size=60)
    monkeypatch.chdir(folders[2])
    options = {"missing": "impute", **OPTIONS["groups"]}
    assert_the_same(
        in_processes(2, said_by_a_machine, folders[:2], 2, environment=as_machines), said_of("t", options, 1)
    )


def refusal_on_a_machine(folders):
    os.chdir(folders[int(os.environ["GROUP_RANK"])])
    said = []
    for path in ("infinite", "columns", "kinds", "text.csv"):
        data = TableDataModule(path, "y", features=["number"], local_files=True)
        with pytest.raises(InputError) as refusal:
            trainer_for(2, max_epochs=1, devices=1, num_nodes=2).fit(LogisticRegression(), data)
        said.append(str(refusal.value))
    return said


def test_a_mistake_in_the_files_of_one_machine_names_it(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    table = columns(100).select(["number", "y"])
    infinite = table.set_column(0, "number", pa.array([*range(98), np.inf, 0.0]))
    text = table.set_column(0, "number", pa.array(["a"] * 100))
    for folder, tables in zip(folders, ([table] * 3, [infinite, table.rename_columns(["n", "y"]), text]), strict=True):
        for name, part in zip(("infinite", "columns", "kinds"), tables, strict=True):
            (folder / name).mkdir(parents=True)
            parquet.write_table(part, folder / name / "t.parquet")
        (folder / "text.csv").write_text("number,y\n1,0\n2,1\n")
    first, second = in_processes(2, refusal_on_a_machine, folders, environment=as_machines)
    assert first[0] == second[0]
    assert re.fullmatch(
        "process 2 of 2, on .+: infinite, t.parquet, row 99: column number holds an infinite value", first[0]
    )
    assert first[1] == second[1]
    assert re.fullmatch("process 2 of 2, on .+: columns has no column number; .*", first[1])
    assert first[2] == second[2]
    assert re.fullmatch("process 2 of 2, on .+: kinds: column number holds text, on .+ numbers; .*", first[2])
    assert "--data.local_files: text.csv must be Parquet or Arrow files on every machine" in first[3]


def said_from_a_cache(path, folder):
    said = [said_of(path, {"cache_dir": folder, **OPTIONS["impute"]}, 3) for _ in range(2)]
    return said, sorted(os.listdir(folder))


def test_a_cache_is_a_part_a_process(tmp_path):
    path = write(tmp_path, with_gaps(columns(1000)), "arrow")
    several = in_processes(3, said_from_a_cache, path, str(tmp_path / "cache"))
    alone = said_of(path, OPTIONS["impute"], 1)
    for turn in (0, 1):
        assert_the_same([said[turn] for said, _ in several], alone)
        assert any("decoded into" in record for record in several[0][0][turn][2]) == (turn == 0)
    assert len(several[0][1]) == 3


def full_on_the_second(path, folder):
    from lr_lightning.data import cache

    def append(self, name, rows):
        raise self._explained(OSError(errno.ENOSPC, "no space left on device"))

    if os.environ["RANK"] == "1":
        cache.CacheWriter.append = append
    with pytest.raises(InputError) as refusal:
        trainer_for(2, max_epochs=1).fit(LogisticRegression(), TableDataModule(path, "y", cache_dir=folder))
    return str(refusal.value), [name for name in os.listdir(folder) if name.startswith(".")]


def test_a_full_disk_on_one_machine_ends_all_in_one_line(tmp_path):
    path = write(tmp_path, columns(300), "arrow")
    first, second = in_processes(2, full_on_the_second, path, str(tmp_path / "cache"))
    assert first == second
    assert re.match(
        "process 2 of 2, on .+: --data.cache_dir: no space left in .*/cache for the decoded table", first[0]
    )
    assert first[1] == []


def measured(path, other, processes):
    """The rows that a fit has kept back, and those of another table, by its schema; and a refusal."""
    fit = TableDataModule(path, "y", val_fraction=0.3, missing="drop", weight="weight", seed=2)
    model = LogisticRegression(l2=0.01)
    trainer_for(processes, max_epochs=30).fit(model, fit)
    said = []
    for name, every_row in ((path, False), (other, True)):
        data = TableDataModule(name, "y", val_fraction=0.3, missing="drop", weight="weight", seed=2)
        data.use_schema(fit.schema, fit.training, every_row=every_row, fingerprint=fit.fingerprint)
        trainer = trainer_for(processes)
        try:
            said.append(trainer.test(model, data, verbose=False)[0])
            said.append(sum(len(rows.y) for rows in (data.test_rows, data.val_rows) if rows is not None))
        except InputError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("mistake", [None, ("city", "Atlantis"), ("number", np.inf), ("y", "perhaps")])
def test_a_table_is_measured_in_shares(tmp_path, mistake):
    table, other = with_gaps(columns(1000)), columns(700)
    if mistake is not None:
        name, value = mistake
        values = other[name].to_pylist()
        values[655] = value
        other = other.set_column(other.schema.get_field_index(name), name, pa.array(values))
    paths = []
    for number, part in enumerate((table, other)):
        (tmp_path / str(number)).mkdir()
        paths.append(write(tmp_path / str(number), part, "folder"))
    alone, several = measured(*paths, 1), in_processes(2, measured, *paths, 2)
    for found in several:
        assert found[0] == pytest.approx(alone[0], rel=1e-9)
        assert found[2] == (alone[2] if mistake else pytest.approx(alone[2], rel=1e-9))
    assert several[0][1] + several[1][1] == alone[1]
    if mistake:
        assert "row 206" in alone[2]


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
    if os.environ["RANK"] == "1":
        PartOfSource.load = broken
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


def text_tables(folder):
    """Paths of text files, and the options to read them with."""
    table = columns(600)
    number = np.asarray(table["number"])
    y = ["yes" if value == "yes" else "no" for value in table["y"].to_pylist()]
    city = table["city"].to_pylist()
    multiline = [f'{name}\nby the "sea"' if row % 3 else name for row, name in enumerate(city)]
    integers_first = [f"{row}" if row < 400 else f"{row / 7}" for row in range(600)]
    empty_first = ["" if row < 350 else f"{row % 5}" for row in range(600)]
    text_last = [f"{row % 4}" if row < 550 else "many" for row in range(600)]
    quoted = {"multiline": multiline, "integers_first": integers_first, "city": city, "number": number, "y": y}
    plain = {"text_last": text_last, "empty_first": empty_first, "number": number, "y": y}
    found = {}
    for name, values, options in (
        ("quoted", quoted, {}),
        ("plain", plain, {"missing": "impute"}),
        ("windows", {"number": number, "city": city, "y": y}, {"groups": "city", "features": ["number"]}),
        ("short", {"number": [1, 2, 3, 4], "y": ["no", "yes", "no", "yes"]}, {"val_fraction": 0, "test_fraction": 0}),
    ):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\r\n" if name == "windows" else "\n")
        writer.writerows([list(values), *zip(*values.values(), strict=True)])
        (folder / f"{name}.csv").write_text(("\ufeff" if name == "windows" else "") + text.getvalue(), newline="")
        found[name] = str(folder / f"{name}.csv"), options
    return found


def said_of_texts(found, processes):
    read = []
    load = PartOfDelimited.load

    def counting(self, columns):
        loaded = load(self, columns)
        read.append(sum(batch.num_rows for batch in loaded.batches(["y"])))
        return loaded

    PartOfDelimited.load = counting
    said = {name: said_of(path, options, processes) for name, (path, options) in found.items()}
    PartOfDelimited.load = load
    return said, read


def test_ranges_of_a_text_file_say_what_the_whole_does(tmp_path):
    found = text_tables(tmp_path)
    several = in_processes(5, said_of_texts, found, 5)
    alone, _ = said_of_texts(found, 1)
    assert np.sum([read for _, read in several], axis=0).tolist() == [600, 600, 600, 4]
    assert max(read[0] for _, read in several) < 200
    for name in found:
        assert_the_same([said[name] for said, _ in several], alone[name])


def tables_that_one_process_reads(folder):
    """Paths of tables that cannot be read in parts, and the options to read them with."""
    table = with_gaps(columns(600).select(["number", "city", "flag", "y", "club"]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.column_names, *zip(*(table[name].to_pylist() for name in table.column_names), strict=True)])
    (folder / "t.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    (folder / "comma.csv").write_text(text.getvalue().replace(",", ";").replace(".", ","))
    header, *lines = text.getvalue().splitlines(keepends=True)
    (folder / "texts").mkdir()
    for number in (0, 1):
        (folder / f"texts/{number}.csv").write_text(header + "".join(lines[number::2]))
    with pa.OSFile(str(folder / "t.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    filled = columns(600)
    with (folder / "t.svm").open("w") as file:
        for number, integer, club in zip(filled["number"], filled["integer"], filled["club"], strict=True):
            entries = f"1:{number} {2 + integer.as_py() % 4}:1 7:{integer}"
            file.write(f"{int(number.as_py() > 0.3 * (integer.as_py() % 5 - 2))} qid:{club} {entries}\n")
    (folder / "wrong.csv.gz").write_bytes(gzip.compress((text.getvalue() + "1,2\n").encode()))
    impute = {"missing": "impute", "groups": "club"}
    names = {"t.csv.gz": impute, "comma.csv": {"missing": "drop"}, "texts": impute, "t.arrow": impute}
    return {name: (str(folder / name), option) for name, option in (names | {"t.svm": {"groups": "qid"}}).items()}


def said_and_read(found, wrong, processes):
    """What the fits say, how many whole tables this process has decoded, and a refusal."""
    n_read, plain = [0], {decoder: decoder._whole for decoder in (Decoder, SvmlightDecoder)}

    def whole(self, *args):
        n_read[0] += 1
        return plain[type(self)](self, *args)

    with pytest.MonkeyPatch.context() as patch:
        for decoder in plain:
            patch.setattr(decoder, "_whole", whole)
        said = {name: said_of(path, options, processes) for name, (path, options) in found.items()}
        with pytest.raises(InputError) as refusal:
            trainer_for(processes, max_epochs=1).fit(LogisticRegression(), TableDataModule(wrong, "y"))
    return said, n_read[0], str(refusal.value)


def test_what_one_process_reads_it_hands_to_the_others(tmp_path):
    found, wrong = tables_that_one_process_reads(tmp_path), str(tmp_path / "wrong.csv.gz")
    several = in_processes(3, said_and_read, found, wrong, 3)
    assert [n_read for _, n_read, _ in several] == [6, 0, 0]
    alone, _, refusal = said_and_read(found, wrong, 1)
    for name in found:
        assert_the_same([said[name] for said, *_ in several], alone[name])
    assert [said for *_, said in several] == [refusal] * 3
    assert "line 602: 2 fields where the header has 5" in refusal


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
