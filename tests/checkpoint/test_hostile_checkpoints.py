"""Checkpoints that somebody has damaged, or made up: refused in one line, nothing executed, memory bounded."""

import copy
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lr_lightning import InputError, LogisticRegression, TensorDataModule, load
from lr_lightning.checkpoint.archive import load_archive
from lr_lightning.training.checkpoint_io import SafeCheckpointIO
from tests.conftest import QUIET_TRAINER, ROOT, fit_in
from tests.fuzz_inputs import checkpoint_of, saved, schemas
from tests.hostile import rewrite

SCHEMA = schemas()[0]
D = len(SCHEMA.feature_names)
WEIGHT = "linear_sigmoid.linear.weight"


def whole():
    return checkpoint_of(SCHEMA)


def refusal(path, reader=load):
    with pytest.raises(InputError) as caught:
        reader(path)
    message = str(caught.value)
    assert Path(path).name in message
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(content)` writes a checkpoint, of bytes or of what is to be saved, and gives its path."""

    def write(content):
        path = tmp_path / "some.ckpt"
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
        return path

    return write


def test_what_torch_saved_is_read_as_torch_reads_it(tmp_path):
    """Every kind of value and tensor that a checkpoint may hold."""
    shared = torch.arange(12, dtype=torch.float64)
    content = {
        "numbers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**63 - 1, -(2**63), 0.5, float("inf"), True],
        "text": ["", "ä💥\n", "x" * 1000],
        "nothing": None,
        "empty": ([], (), {}, torch.zeros(0), torch.zeros(0, 3)),
        "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        5: {"a": {"b": [[{"c": 1}]]}},
        "views": [shared, shared[3:5], shared.view(3, 4).T, shared[::2], shared[5]],
        "dtypes": [
            torch.arange(4).to(dtype)
            for dtype in (
                *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
                *(torch.int8, torch.uint8, torch.bool),
            )
        ],
        "state_dict": torch.nn.Linear(2, 3).state_dict(),
    }
    path = tmp_path / "some.ckpt"
    torch.save(content, path)
    same(load_archive(path), torch.load(path, weights_only=True))


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(found, expected)
        return
    assert isinstance(expected, dict) if type(found) is dict else type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected


def test_the_whole_one_is_taken(checkpoint):
    """Or what follows would prove nothing."""
    predictor = load(checkpoint(whole()))
    assert predictor.report().n_observations == 100
    assert predictor.interval_of(torch.zeros(2, D, dtype=torch.float64))[0].shape == (2,)


# ---- payloads -----------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


PAYLOADS = {
    "os.mkdir": lambda: Calls(os.mkdir, "executed"),
    "eval": lambda: Calls(eval, "__import__('os').mkdir('executed')"),
    "in a tensor's place": lambda: {"state_dict": {WEIGHT: Calls(os.mkdir, "executed")}},
    "in a schema": lambda: {**whole(), "schema": Calls(os.mkdir, "executed")},
    "numpy scalar": lambda: {**whole(), "threshold": np.float64(0.5)},
    "path": lambda: {**whole(), "data": Path("x")},
    "set": lambda: {**whole(), "more": {1, 2}},
    "bytes": lambda: {**whole(), "more": b"abc"},
    "bytearray that torch would make": lambda: {**whole(), "more": Calls(bytearray, 10**12)},
    "tensor that torch would make": lambda: {**whole(), "more": Calls(torch.Tensor, 10**11)},
    "a module": lambda: torch.nn.Linear(2, 1),
    "complex tensor": lambda: {**whole(), "more": torch.ones(2, dtype=torch.complex64)},
    "key that is a tuple": lambda: {**whole(), (1, 2): 3},
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_and_not_executed(checkpoint, tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    assert "refused" in refusal(checkpoint(PAYLOADS[payload]()))
    assert not (tmp_path / "executed").exists()


def test_a_bare_pickle_is_refused(checkpoint, tmp_path, monkeypatch):
    """torch.load still reads the format of before 2020, which is a bare pickle."""
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    torch.save(whole(), file, _use_new_zipfile_serialization=False)
    refusal(checkpoint(file.getvalue()))
    refusal(checkpoint(b"cos\nmkdir\n(S'executed'\ntR."))
    assert not (tmp_path / "executed").exists()


# ---- files that are none ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 22, 100, 0.3, 0.6, 0.99, -1])
def test_a_cut_file_is_refused(checkpoint, cut):
    content = saved(whole())
    end = int(len(content) * cut) if isinstance(cut, float) else cut
    assert "cut short" in refusal(checkpoint(content[:end]))


@pytest.mark.parametrize("where", range(0, 100, 7))
def test_a_flipped_bit_in_a_tensor_is_noticed(checkpoint, where):
    content = bytearray(saved(whole()))
    start = content.index(torch.eye(D + 1, dtype=torch.float64).numpy().tobytes())
    content[start + where] ^= 4
    assert "not a checkpoint" in refusal(checkpoint(bytes(content)))


URLS = [
    *("http://example.org/a.ckpt", "https://example.org/a.ckpt", "s3://bucket/a.ckpt", "ftp://example.org/a.ckpt"),
    *("file:///tmp/a.ckpt", "memory://a.ckpt", "simplecache::https://example.org/a.ckpt"),
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("reader", [load, LogisticRegression.load_from_checkpoint])
def test_a_url_is_refused(url, reader):
    assert "URL" in refusal(url, reader)


@pytest.mark.parametrize("command", ["predict", "report", "export", "test", "validate", "fit"])
@pytest.mark.parametrize("kind", ["url", "payload", "folder", "pipe", "device", "empty", "NaN"])
def test_every_command_refuses_in_one_line(run, tmp_path, monkeypatch, checkpoint, command, kind):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(b"")
    if kind == "payload":
        path = checkpoint({"state_dict": Calls(os.mkdir, "executed")})
    elif kind == "NaN":
        content = whole()
        content["state_dict"][WEIGHT][0, 0] = torch.nan
        path = checkpoint(content)
    elif kind == "folder":
        path = tmp_path
    elif kind == "pipe":
        path = tmp_path / "pipe.ckpt"
        os.mkfifo(path)
    path = {"url": "https://example.org/a.ckpt", "device": "/dev/zero"}.get(kind, path)
    before = sorted(tmp_path.iterdir())
    code, out, err = run(command, "--ckpt_path", path)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert os.path.basename(path) in err
    assert sorted(tmp_path.iterdir()) == before


# ---- lies ---------------------------------------------------------------------------------------------------


def changed(change):
    content = whole()
    change(content)
    return content


def state(name, value):
    return lambda c: c["state_dict"].update({f"linear_sigmoid.{name}": value})


def column(index, **values):
    return lambda c: c["schema"]["columns"][index].update(values)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


LIES = {
    "a weight too few": (state("linear.weight", torch.ones(1, D - 1, dtype=torch.float64)), "mean"),
    "two rows of weights": (state("linear.weight", torch.ones(2, D, dtype=torch.float64)), "linear.weight"),
    "flat weights": (state("linear.weight", torch.ones(D, dtype=torch.float64)), "linear.weight"),
    "a weight without dimensions": (state("linear.weight", torch.tensor(1.0)), "linear.weight"),
    "weights of whole numbers": (state("linear.weight", torch.ones(1, D, dtype=torch.int64)), "int64"),
    "weights that are a list": (state("linear.weight", [1.0] * D), "list"),
    "NaN weight": (state("linear.weight", torch.full((1, D), torch.nan).double()), "finite"),
    "infinite weight": (state("linear.weight", torch.full((1, D), torch.inf).double()), "finite"),
    "NaN intercept": (state("linear.bias", double(torch.nan)), "finite"),
    "two intercepts": (state("linear.bias", double(1, 2)), "linear.bias"),
    "infinite mean": (state("mean", torch.full((D,), -torch.inf).double()), "finite"),
    "NaN scale": (state("scale", torch.full((D,), torch.nan).double()), "finite"),
    "negative scale": (state("scale", -torch.ones(D).double()), "positive"),
    "scale of 0": (state("scale", torch.zeros(D).double()), "positive"),
    "no scale": (lambda c: c["state_dict"].pop("linear_sigmoid.scale"), "tensors"),
    "one tensor more": (state("linear.extra", double(1)), "tensors"),
    "a stranger's tensor": (lambda c: c["state_dict"].update({"other.weight": double(1)}), "tensors"),
    "no state": (lambda c: c.pop("state_dict"), "logistic regression"),
    "state that is a list": (lambda c: c.update(state_dict=[]), "logistic regression"),
    "fewer columns": (lambda c: c["schema"]["columns"].pop(), f"schema has {D - 1} features, its model {D}"),
    "more levels": (column(1, levels=["a", "b", "c", "d"]), f"schema has {D + 1} features"),
    "a level twice": (column(1, levels=["a", "b", "b"]), "level twice"),
    "levels of two types": (column(1, levels=["a", 1, 2]), "levels"),
    "levels that are numbers without an end": (column(2, levels=[1.0, float("nan"), 3.0]), "levels"),
    "levels that are text": (column(1, levels="abc"), "levels is 'abc'"),
    "two columns of one name": (column(0, name="t"), "one name"),
    "a feature of a level's name": (column(0, name="s=b"), "one name"),
    "an unknown kind": (column(0, kind="magic"), "magic"),
    "a name that is a number": (column(0, name=3), "name"),
    "columns that are text": (lambda c: c["schema"].update(columns="abc"), "columns"),
    "a column that is a number": (lambda c: c["schema"]["columns"].append(3), "damaged"),
    "three labels": (lambda c: c["schema"].update(labels=[0, 1, 2]), "labels"),
    "labels of two types": (lambda c: c["schema"].update(labels=[0, "1"]), "labels"),
    "labels that are tensors": (lambda c: c["schema"].update(labels=[torch.zeros(0), torch.ones(2)]), "labels"),
    "a threshold of 1": (lambda c: c.update(threshold=1), "threshold"),
    "a schema that is a tensor": (lambda c: c.update(schema=torch.ones(3)), "damaged"),
    "a threshold of 2": (lambda c: c.update(threshold=2.0), "threshold"),
    "a threshold of text": (lambda c: c.update(threshold="0.5"), "threshold"),
    "a prediction input of another width": (lambda c: c.update(prediction_input=[[1.0]]), "prediction input"),
    "half a curve": (lambda c: c.update(curve={"low": 0.0}), "curve"),
    "a covariance of another model": (lambda c: c["covariance"].update(factor=torch.eye(D).double()), "covariance"),
    "a covariance without scale": (lambda c: c["covariance"].pop("scale"), "covariance"),
    "NaN covariance": (lambda c: c["covariance"]["factor"].fill_(torch.nan), "finite"),
    "another number of features": (lambda c: c["hyper_parameters"].update(in_features=10**12), "in_features"),
    "an intercept that is not there": (lambda c: c["hyper_parameters"].update(fit_intercept=False), "fit_intercept"),
    "settings that are a list": (lambda c: c.update(hyper_parameters=[1]), "settings"),
    "data settings without a class": (lambda c: c.update(data={"init_args": {}}), "data settings"),
    "an offset that may be": (lambda c: c.update(needs_offset="maybe"), "needs_offset"),
    "an epoch before the first": (lambda c: c.update(fitted_epoch=-1), "epoch"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_contradicts_itself_is_refused(checkpoint, lie):
    change, words = LIES[lie]
    assert words in refusal(checkpoint(changed(change)))


REPORTS = {
    "no coefficients": lambda report: report.pop("coefficients"),
    "a name that is a number": lambda report: report["coefficients"][0].update(name=3),
    "NaN": lambda report: report["coefficients"][1].update(estimate=float("nan")),
    "infinity": lambda report: report.update(aic=float("inf")),
    "text for a number": lambda report: report.update(aic="1"),
    "a count of True": lambda report: report.update(passes=True),
    "warnings that are a text": lambda report: report.update(warnings="careful"),
    "an unknown separation": lambda report: report.update(separation="perhaps"),
    "calibration without rows": lambda report: report["calibration"].pop("rows"),
    "fewer coefficients": lambda report: report["coefficients"].pop(),
    "names of another model": lambda report: report["coefficients"][1].update(name="other"),
}


@pytest.mark.parametrize("lie", REPORTS)
def test_a_report_that_is_none_is_refused(checkpoint, run, lie):
    path = checkpoint(changed(lambda c: REPORTS[lie](c["report"])))
    with pytest.raises(InputError, match="the report in the checkpoint is damaged"):
        load(path).report()
    code, out, err = run("report", "--ckpt_path", path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_odd_numbers_are_printed_and_used(checkpoint, run):
    """Nothing forbids these; found by fuzzing."""
    content = whole()
    content["report"]["calibration"].update(slope=1.0, intercept=None)
    content["report"]["coefficients"][1].update(estimate=1e308, std_error=1e-308)
    content["covariance"]["factor"] *= 1e300
    path = checkpoint(content)
    for options in (["--format", "json"], ["--format", "csv"], ["--level", "0.9"], ["--level", "0.9", "--format=json"]):
        assert run("report", "--ckpt_path", path, *options)[0] == 0
    low, high = load(path).interval_of(torch.ones(1, D, dtype=torch.float64))
    assert (low.item(), high.item()) == (0, 1)


SETTINGS = {
    "an unknown one": {"colour": "red"},
    "an instantiator": {"_instantiator": "os.system"},
    "a penalty that is a tensor": {"l1": torch.ones(3)},
    "a negative penalty": {"l1": -1.0},
    "a penalty of text": {"l2": "much"},
    "an optimizer that is none": {"optimizer": "lr_scheduler"},
    "an optimizer elsewhere": {"optimizer": "os.system"},
    "an optimizer that is a number": {"optimizer": 3},
}


@pytest.mark.parametrize("lie", SETTINGS)
def test_settings_that_fit_no_model_are_refused(checkpoint, run, lie):
    path = checkpoint(changed(lambda c: c["hyper_parameters"].update(SETTINGS[lie])))
    assert "settings" in refusal(path, LogisticRegression.load_from_checkpoint)
    code, out, err = run("test", "--ckpt_path", path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("command", ["test", "validate"])
def test_a_checkpoint_without_a_schema_cannot_be_measured_on_a_table(checkpoint, run, command):
    """As one of a fit to a loader of one's own."""
    path = checkpoint(changed(lambda c: c.pop("schema")))
    code, out, err = run(command, "--ckpt_path", path, "--data.path", EXAM, "--data.target", "passed")
    assert (code, out) == (2, "")
    assert err == f"error: {path}: was not fitted to a table, and names no columns to read from one\n"


def test_a_fit_is_loaded_as_lightning_loads_it(hours_run, tmp_path):
    path = hours_run / "checkpoints" / "last.ckpt"
    model = LogisticRegression.load_from_checkpoint(path, l2=0.5)
    assert model.training
    assert (model.hparams["l2"], model.hparams["optimizer"]) == (0.5, "SGD")
    x = torch.tensor([[4.0]])
    assert model(x).item() == pytest.approx(load(path).probability(x).item(), rel=1e-6)
    (tmp_path / "evil.yaml").write_text("l2: !!python/object/apply:os.system [exit]\n")
    with pytest.raises(InputError, match=r"evil\.yaml"):
        LogisticRegression.load_from_checkpoint(path, hparams_file=tmp_path / "evil.yaml")
    with pytest.raises(InputError, match="settings"):
        LogisticRegression.load_from_checkpoint(path, l2=-1)


def test_names_of_a_checkpoint_do_not_act_on_the_terminal(checkpoint, run):
    evil = "\x1b]0;owned\x07\x1b[2J"
    content = whole()
    content["schema"]["columns"][0]["name"] = evil
    content["report"]["coefficients"][1]["name"] = evil
    content["report"]["warnings"] = [f"line\n{evil}"]
    path = checkpoint(content)
    code, out, _ = run("report", "--ckpt_path", path)
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b]0;owned" in out
    (path.parent / "t.csv").write_text("a,y\n1,no\n")
    code, _, err = run("predict", "--ckpt_path", path, "--data.path", path.parent / "t.csv")
    assert code == 2
    assert "\x1b" not in err


# ---- bombs --------------------------------------------------------------------------------------------------

HUGE = b"\x8a\x06\0\x10\xa5\xd4\xe8\0"  # 10^12


def pickled(body):
    """An archive of the pickle `body` and of eight bytes of storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", sys.byteorder)
        archive.writestr("archive/data/0", bytes(8))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tensor(count=b"K\x01", size=b"K\x01\x85", stride=b"K\x01\x85"):
    storage = b"(X\7\0\0\0storagectorch\nDoubleStorage\nX\1\0\0\x000X\3\0\0\0cpu" + count + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + size + stride + b"\x89)tR"


def deflated():
    """A storage of 512 MiB of zeros in 512 KiB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + tensor(b"J\0\0\0\x04", b"J\0\0\0\x04\x85") + b".")
        archive.writestr("archive/byteorder", sys.byteorder)
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(1 << 9):
                entry.write(bytes(1 << 20))
    return file.getvalue()


def overlapping():
    """A thousand entries that are the same megabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02].")
        archive.writestr("archive/data/0", bytes(1 << 20))
        first = archive.infolist()[-1]
        for number in range(1, 1000):
            again = copy.copy(first)
            again.filename = again.orig_filename = f"archive/data/{number}"
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    return file.getvalue()


def swollen():
    """Entries that the directory at the end says take 2 GiB each; found by fuzzing."""
    content = bytearray(pickled(tensor()))
    at = content.find(b"PK\1\2")
    while at >= 0:
        content[at + 20 : at + 24] = b"\xff\xff\xff\x7f"
        at = content.find(b"PK\1\2", at + 4)
    return bytes(content)


def laughs():
    """Lists of ten references to a list of ten references …: 10^9 leaves."""
    return (
        b"]("
        + b"N" * 10
        + b"eq\0"
        + b"".join(b"](" + b"h" + bytes([k]) + (b"h" + bytes([k])) * 9 + b"eq" + bytes([k + 1]) for k in range(9))
    )


def spellings():
    """One storage of 8 MB that a thousand tensors name differently."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        body = b"]("
        for zeros in range(1000):
            key = b"0" * (zeros + 1)
            name = b"X" + len(key).to_bytes(4, "little") + key
            body += b"(X\7\0\0\0storagectorch\nDoubleStorage\n" + name + b"X\3\0\0\0cpuJ@B\x0f\0tQ"
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b"e.")
        archive.writestr("archive/data/0", bytes(8 * 1_000_000))
    return file.getvalue()


BOMBS = {
    "a storage larger than its bytes": lambda: pickled(tensor(HUGE)),
    "a shape larger than its storage": lambda: pickled(tensor(size=HUGE + b"\x85")),
    "a number repeated 10^12 times": lambda: pickled(tensor(size=HUGE + b"\x85", stride=b"K\0\x85")),
    "a dict of such": lambda: pickled(
        b"ccollections\nOrderedDict\n" + tensor(size=HUGE + b"\x85", stride=b"K\0\x85") + b"\x85R"
    ),
    "a shape with a negative side": lambda: pickled(tensor(size=b"J\xff\xff\xff\xff\x85")),
    "a storage outside the archive": lambda: pickled(tensor().replace(b"\x000X", b"\x009X")),
    "compressed zeros": deflated,
    "overlapping entries": overlapping,
    "swollen entries": swollen,
    "references to references": lambda: pickled(laughs()),
    "a list that holds itself": lambda: pickled(b"]q\0h\0a"),
    "tuples a million deep": lambda: pickled(b"N" + b"\x85" * 1_000_000),
    "lists a million deep": lambda: pickled(b"]" * 1_000_000 + b"a" * 999_999),
    "ten million empty dicts": lambda: pickled(b"](" + b"}" * 10_000_000 + b"e"),
    "ten million marks": lambda: pickled(b"(" * 10_000_000),
    "a far memo": lambda: pickled(b"Nr\xff\xff\xff\xff"),
    "a long integer": lambda: pickled(b"\x8b\0\0\x10\0" + b"\xff" * (1 << 20)),
    "an integer of 255 bytes": lambda: pickled(b"\x8a\xff" + b"\x7f" * 255),
    "a string longer than the file": lambda: pickled(b"X\xff\xff\xff\x7f"),
    "half a character": lambda: pickled(b"X\3\0\0\0\xed\xa0\x80"),
}


def test_bombs_are_refused_and_take_no_memory(tmp_path):
    """All of them in a process that may take 400 MB more than torch does."""
    for number, bomb in enumerate([*BOMBS.values(), spellings]):
        (tmp_path / f"{number}.ckpt").write_bytes(bomb())  # the order is that of BOMBS
    code = """
import resource, sys
from pathlib import Path
from lr_lightning import InputError, load
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 400_000_000, resource.RLIM_INFINITY))
for path in sorted(Path(".").glob("*.ckpt")):
    try:
        load(path)
    except InputError as error:
        assert path.name in str(error) and "memory" not in str(error) and len(str(error).splitlines()) == 1, error
    else:
        raise AssertionError(path)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory a process takes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_storage_is_held_once(tmp_path):
    path = tmp_path / "some.ckpt"
    path.write_bytes(spellings())
    tensors = load_archive(path)
    assert len({tensor.data_ptr() for tensor in tensors}) == 1


def test_entries_are_not_there_twice(checkpoint, tmp_path):
    source = checkpoint(whole())
    target = tmp_path / "twice.ckpt"
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewrite(
            source, target, lambda data: data, add={"some/data/0": bytes(8)} | {zip_root(source) + "data.pkl": b"."}
        )
    assert "twice" in refusal(target)
    assert "compressed" in refusal(rewrite(source, target, lambda data: data, compression=zipfile.ZIP_DEFLATED))
    assert "byte order" in refusal(
        rewrite(source, target, lambda data: data, leave_out=["byteorder"], add={zip_root(source) + "byteorder": "big"})
    )


def zip_root(path):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()[0].partition("/")[0] + "/"


# ---- going on from one --------------------------------------------------------------------------------------


EXAM = ROOT / "conf" / "samples" / "exam.csv"
ADAM = [
    "fit",
    "--data.path",
    EXAM,
    "--data.target",
    "passed",
    "--optimizer",
    "Adam",
    "--optimizer.lr",
    "0.1",
    "--quiet",
]
STATES = {
    "no loops": lambda c: c.pop("loops"),
    "loops of tensors": lambda c: c.update(loops=torch.ones(3)),
    "epochs before the first": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=-5),
    "no optimizer": lambda c: c.update(optimizer_states=[]),
    "an optimizer that is text": lambda c: c.update(optimizer_states=["adam"]),
    "an optimizer of another model": lambda c: c["optimizer_states"][0]["param_groups"].append({"params": [7]}),
    "moments that are numbers": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=3),
    "callbacks that are text": lambda c: c.update(callbacks="none"),
    "schedulers that are a number": lambda c: c.update(lr_schedulers=0.5),
    "a version of no kind": lambda c: c.update({"pytorch-lightning_version": None}),
    "settings that are none": lambda c: c["hyper_parameters"].update(l1=None),
    "an unknown setting": lambda c: c["hyper_parameters"].update(colour=1),
    "a class of elsewhere": lambda c: c["data"].update(class_path="stranger.Data"),
    "an optimizer of elsewhere": lambda c: c["hyper_parameters"].update(optimizer="lr_scheduler.os.system"),
}


@pytest.fixture(scope="module")
def adam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adam")
    fit_in(folder, *ADAM[1:], "--trainer.max_epochs", "2")
    return torch.load(folder / "runs/exam/version_0/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("lie", STATES)
def test_a_fit_does_not_go_on_from_a_damaged_state(adam, project, run, lie):
    (project / "stranger.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    content = copy.deepcopy(adam)
    STATES[lie](content)
    torch.save(content, project / "bad.ckpt")
    (project / "runs").mkdir()  # a fit that is refused may leave it, empty
    before = sorted(project.iterdir())
    code, out, err = run("fit", "--ckpt_path", "bad.ckpt", "--trainer.max_epochs", "4", "--quiet")
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert sorted(project.iterdir()) == before


SWAPPED = {
    "a payload": lambda content: Calls(os.mkdir, "executed"),
    "a number repeated": lambda content: {**content, "more": torch.zeros(1).expand(1000)},
    "a threshold of 2": lambda content: {**content, "threshold": 2.0},
}


@pytest.mark.parametrize("other", SWAPPED)
def test_what_has_been_checked_is_what_is_used(adam, project, run, monkeypatch, other):
    """The file is another one when Lightning comes to read it; nothing has looked at that one yet."""

    def setup_of_a_slow_machine(self, trainer, pl_module, stage):
        torch.save(SWAPPED[other](adam), project / "good.ckpt")

    torch.save(adam, project / "good.ckpt")
    monkeypatch.setattr(
        "lr_lightning.training.callbacks.record.RunRecord.setup", setup_of_a_slow_machine, raising=False
    )
    code, out, err = run("fit", "--ckpt_path", "good.ckpt", "--trainer.max_epochs", "4", "--quiet")
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("error: good.ckpt: ")
    assert "damaged" not in err
    assert not (project / "executed").exists()
    assert not any((project / "runs").glob("*"))


def test_a_trainer_of_ones_own_may_read_and_write_as_the_commands_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 1, 0, 1])
    for ckpt_path, words in ((None, None), ("two.ckpt", None), (URLS[0], "URL"), ("payload.ckpt", "refused")):
        trainer = Trainer(plugins=[SafeCheckpointIO()], max_epochs=4 if ckpt_path else 2, **QUIET_TRAINER)
        model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1})
        if words is None:
            trainer.fit(model, TensorDataModule(x, y), ckpt_path=ckpt_path)
            trainer.save_checkpoint("two.ckpt")
        else:
            torch.save(Calls(os.mkdir, "executed"), "payload.ckpt")
            with pytest.raises(InputError, match=words):
                trainer.fit(model, TensorDataModule(x, y), ckpt_path=ckpt_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["payload.ckpt", "two.ckpt"]
    assert load_archive("two.ckpt")["epoch"] == 4
    trainer.save_checkpoint("memory://two.ckpt")  # where only Lightning can write
    assert fsspec.filesystem("memory").exists("two.ckpt")


def test_a_fit_goes_on_from_a_sound_one(adam, project, run):
    torch.save(adam, project / "good.ckpt")
    code, _, err = run("fit", "--ckpt_path", "good.ckpt", "--trainer.max_epochs", "4", "--quiet")
    assert code == 0, err
