"""What `tests.fuzz` feeds: whole files and schemas, ways to spoil them, and what a person would do with them."""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import io
import json
import pickle
import random
import warnings
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import torch

from lr_lightning.data.encode import encode, encode_blocks
from lr_lightning.data.schema import Column, TableSchema
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import load
from lr_lightning.serving.scoring import scoring_file
from lr_lightning.statistics.held_out import Calibration
from lr_lightning.statistics.render import as_csv, as_text
from lr_lightning.statistics.report import Coefficient, LikelihoodRatioTest, Report
from lr_lightning.training.data_modules import TableDataModule

TEXTS = (
    b"a,b,y\n1,x,0\n2,z,1\n3.5,x,0\n4,z,1\n",
    b'a;b;"c d";y\n"1,5";"x; ""q""";2020-01-01;no\n"2,5";z;2021-02-03;yes\n3;x;2022-02-03;no\n',
    b"a\tt\ty\r\n1\ttrue\tu\r\n2\tfalse\tv\r\n\t\tu\r\n",
    "\ufeffname,größe,y\nÄ,1e300,1\nß,-1e-300,0\nÄ,,1\n".encode(),
    b"y\n0\n1\n",
    b'a,b,y\n"line\nbreak",1,0\n"other",2,1\n"line\nbreak",3,0\n',
)
TOKENS = (
    *(b'"', b'""', b"\0", b"\n", b"\r", b"\r\n", b",", b";", b"\t", b"|", b" ", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"1e999", b"-inf", b"nan", b"NA", b"9" * 400, b"2020-01-01", b"0001-01-01", b"23:59:61", b"1,5", b"\x1b[31m"),
    *(
        b"a" * 5000,
        b"\xc3",
        b"\xed\xa0\x80",
        b"true",
        b"0x10",
        b"y",
        b"../../x",
        b"PAR1",
        b"ARROW1",
        b"\xff\xff\xff\xff",
    ),
)
ROWS = pa.table(
    {
        "n": [1.0, None, 3.0, 4.5],
        "i": pa.array([1, 2, 3, 4], pa.int16()),
        "s": ["a", "b", None, "a"],
        "c": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
        "t": pa.array([0, 86_400, 5, 6], pa.timestamp("s")),
        "l": [[1], [2], [], None],
        "y": ["no", "yes", "no", "yes"],
    }
)
ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.5, float("nan"), float("inf"), -0.0, 1e308, "", "x"),
    *("\x1b[2J", "a\nb", "💥", "\u202e", "x" * 10_000, [], {}, [[]], [1, "a"], {"a": 1}, {1: 2}, ["a", "a"], (), (1,)),
    *("number", "category", "impute", "drop", "error", "reference", "../../etc/passwd", "os.system"),
)


def warm_up() -> None:
    """Import and build all that every process needs."""
    for target in ("tables", "schema", "checkpoint"):
        whole(target)


@cache
def whole(target: str) -> tuple[bytes, ...]:
    """Files that nothing is wrong with."""
    if target == "schema":
        return tuple(json.dumps(schema.to_dict()).encode() for schema in schemas())
    if target == "checkpoint":
        return tuple(saved(checkpoint) for checkpoint in checkpoints())
    files = [
        *TEXTS,
        gzip.compress(TEXTS[0], mtime=0),
        bz2.compress(TEXTS[1]),
        pa.compress(TEXTS[2], "zstd", asbytes=True),
    ]
    writers = (
        lambda file: pa.parquet.write_table(ROWS, file, compression="none"),
        lambda file: pa.parquet.write_table(ROWS, file, compression="snappy"),
        lambda file: pa.feather.write_feather(ROWS, file, compression="lz4"),
        lambda file: _write_ipc(pa.ipc.new_file, file),
        lambda file: _write_ipc(pa.ipc.new_stream, file),
    )
    return (*files, *map(written, writers))


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _write_ipc(new, file) -> None:
    with new(file, ROWS.schema) as writer:
        writer.write_table(ROWS)


def schemas() -> list[TableSchema]:
    columns = (
        Column("n"),
        Column("s", "category", ("a", "b", "c"), "a"),
        Column("k", "category", (1, 2, 10)),
        Column("t", "boolean"),
        Column("d", "date"),
    )
    filled = tuple(Column(c.name, c.kind, c.levels, c.levels[0] if c.levels else 1) for c in columns)
    return [
        TableSchema(columns, "y", ("no", "yes"), missing="drop"),
        TableSchema(filled, "y", (0, 1), "w", missing="impute", unseen="reference"),
        TableSchema.of_numbers(["a", "b"], "y"),
    ]


def checkpoints() -> list[dict]:
    return [checkpoint_of(schema) for schema in schemas()]


def checkpoint_of(schema: TableSchema) -> dict:
    """All that a finished fit's checkpoint holds, without a fit."""
    names = schema.feature_names
    d = len(names)
    rows = tuple(Coefficient.of(name, 0.5, 0.1, 0.95) for name in ("(Intercept)", *names))
    calibration = Calibration("validation", 10, 0.2, 0.1, None, 1.0, 0.5, 0.5)
    report = Report(
        *(100, d + 1, -50.0, -60.0, 110.0, 120.0, 0.1, True, 4, None, ("be warned",), rows, 0.95, "nonrobust"),
        *(LikelihoodRatioTest(20.0, d, 0.01), 0.5, 0.5, calibration, 0.5, None),
    )
    state = OrderedDict(
        {
            "linear_sigmoid.mean": torch.zeros(d, dtype=torch.float64),
            "linear_sigmoid.scale": torch.ones(d, dtype=torch.float64),
            "linear_sigmoid.linear.weight": torch.ones(1, d, dtype=torch.float64),
            "linear_sigmoid.linear.bias": torch.zeros(1, dtype=torch.float64),
        }
    )
    return {
        "epoch": 4,
        "state_dict": state,
        "hyper_parameters": {"in_features": d, "l2": 0.1, "fit_intercept": True, "optimizer": "SubsampledNewton"},
        "schema": schema.to_dict(),
        "data": {"class_path": "lr_lightning.training.data_modules.TableDataModule", "init_args": {"path": "x.csv"}},
        "prediction_input": [[4.0] * d],
        "curve": {"low": 0.0, "high": 1.0, "x_label": "x", "y_label": "y"},
        "threshold": 0.5,
        "fitted_epoch": 3,
        "fingerprint": 12345,
        "report": report.to_dict(),
        "covariance": {
            "mean": torch.zeros(d, dtype=torch.float64),
            "scale": torch.ones(d, dtype=torch.float64),
            "factor": torch.eye(d + 1, dtype=torch.float64),
        },
    }


def saved(value) -> bytes:
    return written(lambda file: torch.save(value, file))


# ---- ways to spoil ------------------------------------------------------------------------------------------


def spoiled(content: bytes, generator: random.Random, tokens=TOKENS) -> bytes:
    """The bytes with one to eight changes."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 3, 8))):
        at = generator.randrange(len(data) + 1)
        to = min(len(data), at + generator.choice((1, 1, 2, 8, 100)))
        match generator.randrange(7):
            case 0:
                data[at:to] = generator.randbytes(to - at)
            case 1 if at < len(data):
                data[at] ^= 1 << generator.randrange(8)
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = generator.choice(tokens)
            case 4:
                data[at:to] = generator.choice(tokens)
            case 5:
                data[at:at] = data[at:to] * generator.choice((1, 2, 50))
            case 6:
                del data[at if generator.random() < 0.3 else len(data) :]
    return bytes(data)


def spoiled_tree(tree, generator: random.Random, odd=ODD):
    """A copy of nested lists and dicts with one to four changes."""
    tree = {"root": copy.deepcopy(tree)}
    for _ in range(generator.choice((1, 1, 2, 4))):
        parent = tree
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            key = generator.choice(keys)
            if not isinstance(parent[key], dict | list) or not parent[key] or generator.random() < 0.15:
                break
            parent = parent[key]
        match generator.randrange(5):
            case 0 | 1:
                parent[key] = copy.copy(generator.choice(odd))
            case 2 if parent is not tree:
                del parent[key]
            case 3 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case _ if isinstance(parent, dict):
                parent[generator.choice(("levels", "kind", "name", "fill", 3, "x", True))] = generator.choice(odd)
        if not isinstance(tree.get("root"), dict | list) or not tree["root"]:
            break
    return tree["root"]


def tensors() -> tuple:
    one = torch.ones(1, dtype=torch.float64)
    return (
        *(torch.zeros(0), torch.ones(2, 3), torch.tensor(float("nan")), -torch.ones(3, dtype=torch.float64)),
        *(one.expand(10**9), one.expand(2, 10**6), torch.ones(4, dtype=torch.int64), torch.ones(3).bool()),
        *(
            torch.ones(3, dtype=torch.complex64),
            torch.ones(2).half(),
            torch.ones(3, requires_grad=True),
            one.to_sparse(),
        ),
    )


def rezipped(content: bytes, generator: random.Random, change) -> bytes:
    """An archive with its pickle changed, and now and then its entries too."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                data = change(data)
            elif generator.random() < 0.02:
                data = spoiled(data, generator)
            if generator.random() < 0.005:
                continue
            compression = zipfile.ZIP_DEFLATED if generator.random() < 0.005 else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(name), data, compression)
            if generator.random() < 0.005:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Duplicate name")
                    new.writestr(name, data)
    return out.getvalue()


PICKLE_TOKENS = (
    *(bytes([code]) for code in b"(.0)]}laedstuRbQNcqrhj\x85\x86\x87\x88\x89KMJGX\x8a\x80"),
    *(
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"cos\nsystem\n",
    ),
    *(b"cbuiltins\nbytearray\n", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"),
    *(b"]" * 300, b"(" * 300, b"\x85" * 300, b"X\x00\x00\x00\x80", b"h\x00", b"q\x00", pickle.dumps(10**30, 2)),
)


# ---- what a person would do with them -----------------------------------------------------------------------


def tables(generator: random.Random, folder: Path) -> None:
    """A table from a spoiled file: read as a fit reads it, and as a prediction does."""
    content = generator.choice(whole("tables"))
    if content in TEXTS and generator.random() < 0.15:
        content = gzip.compress(spoiled(content, generator), mtime=0)
    else:
        content = spoiled(content, generator)
    use_table(content, generator.choice(("t.csv", "t.csv", "t.tsv", "t", "t.parquet")), folder)


def use_table(content: bytes, name: str, folder: Path, target: str = "y") -> None:
    path = folder / name
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        encode(schemas()[0], path)
    data = TableDataModule(str(path), target, missing="impute", val_fraction=0.0)
    data.prepare_data()
    data.setup("fit")
    for _ in encode_blocks(data.schema, path, identifier=data.schema.columns[0].name):
        pass


def schema(generator: random.Random, folder: Path) -> None:
    """A spoiled schema, and a table coded by it where it is taken."""
    use_schema(spoiled_tree(generator.choice(schemas()).to_dict(), generator))


def use_schema(plain) -> None:
    found = TableSchema.from_dict(plain)
    rows = {column.name: [column.levels[0] if column.levels else 1] for column in found.columns}
    encode(found, np.zeros((2, len(rows))))
    encode(found, {**rows, found.target: [found.labels[0]]})


def checkpoint(generator: random.Random, folder: Path) -> None:
    """A spoiled checkpoint, and all that a predictor can do where it is taken."""
    content = generator.choice(whole("checkpoint"))
    match generator.randrange(4):
        case 0:
            content = spoiled(content, generator)
        case 1:
            content = rezipped(content, generator, lambda data: spoiled(data, generator, PICKLE_TOKENS))
        case _:
            tree = spoiled_tree(generator.choice(checkpoints()), generator, (*ODD, *tensors()))
            content = saved(tree)
    use_checkpoint(content, folder, module=generator.random() < 0.1)


def use_checkpoint(content: bytes, folder: Path, *, module: bool = False) -> None:
    path = folder / "some.ckpt"
    path.write_bytes(content)
    if module:
        from lr_lightning.training.module import LogisticRegression

        LogisticRegression.load_from_checkpoint(path)
    predictor = load(path)
    d = len(predictor.schema.feature_names)
    x = torch.zeros(3, d, dtype=torch.float64)
    predictor.labels_of(torch.sigmoid(predictor.model.logits(x)))
    assert len(predictor.coefficients) == d
    if predictor._covariance is not None:
        predictor.interval_of(x)
    if predictor.prediction_input is not None:
        torch.tensor(predictor.prediction_input, dtype=torch.float64)
    json.dumps(scoring_file(predictor), allow_nan=False)
    report = predictor.report()
    for each in (report, report.at_level(0.9)):
        json.dumps(each.to_dict(), allow_nan=False)
        as_csv(each)
        as_text(each)


def byte_seeds(target: str) -> list[bytes]:
    """What atheris begins with: of a checkpoint the pickle alone, for a changed archive fails its checksum."""
    if target != "checkpoint":
        return list(whole(target))
    archives = (zipfile.ZipFile(io.BytesIO(content)) for content in whole(target))
    return [archive.read("archive/data.pkl") for archive in archives]


def use_bytes(target: str, data: bytes, folder: Path) -> None:
    """Use the bytes as `byte_seeds` means them: a table, a checkpoint's pickle, or the JSON of a schema."""
    if target == "tables":
        use_table(data, "t.csv", folder)
    elif target == "checkpoint":
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole(target)[0])) as old, zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
        use_checkpoint(out.getvalue(), folder)
    else:
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            return
        use_schema(plain)
