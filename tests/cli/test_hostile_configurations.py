"""Configuration files and options that name what they must not, or are larger than they look."""

import sys
from itertools import pairwise

import pytest
import torch

from tests.conftest import ROOT
from tests.fuzz_inputs import checkpoint_of, schemas

EXAM = ROOT / "conf" / "samples" / "exam.csv"
FIT = ["fit", "--data.path", str(EXAM), "--data.target", "passed", "--quiet"]

MODULE = """
from pathlib import Path
Path("imported").touch()
from lightning.pytorch import Callback
from lr_lightning import TableDataModule
from lightning.pytorch.loggers import CSVLogger
import torch
class Mine(Callback):
    def on_fit_start(self, trainer, module):
        Path("called").touch()
class Logger(CSVLogger): pass
class Data(TableDataModule): pass
class Step(torch.optim.SGD): pass
"""


@pytest.fixture
def stranger(project, monkeypatch):
    """A module that leaves a trace when it is imported."""
    (project / "stranger.py").write_text(MODULE)
    monkeypatch.syspath_prepend(project)
    yield "stranger"
    sys.modules.pop("stranger", None)


def nothing_happened(project):
    assert not (project / "imported").exists()
    assert "stranger" not in sys.modules
    assert not any((project / "runs").glob("*"))


def refused(result):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    return err


OPTIONS = [
    ["--optimizer", "stranger.Step"],
    ["--optimizer", '{"class_path": "stranger.Step"}'],
    ["--optimizer.class_path", "stranger.Step"],
    ["--data", "stranger.Data"],
    ["--trainer.logger", "stranger.Logger"],
    ["--trainer.logger", '[{"class_path": "stranger.Logger", "init_args": {"save_dir": "x"}}]'],
    ["--trainer.callbacks", "stranger.Mine"],
    ["--trainer.callbacks+", "stranger.Mine"],
    ["--trainer.callbacks", '[{"class_path": "stranger.Mine"}]'],
    [
        *("--trainer.callbacks", '[{"class_path": "lightning.pytorch.callbacks.LambdaCallback",'),
        '"init_args": {"on_fit_start": "stranger.Mine"}}]',
    ],
    ["--trainer.strategy", '{"class_path": "stranger.Mine"}'],
    ["--trainer.profiler", '{"class_path": "stranger.Mine"}'],
    ["--trainer.plugins", '[{"class_path": "stranger.Mine"}]'],
    ["--data.path", '{"class_path": "stranger.Mine"}'],
    ["--optimizer", "os.system"],
    ["--trainer.logger", '{"class_path": "subprocess.Popen", "init_args": {"args": "touch imported", "shell": true}}'],
    ["--trainer.logger", "lightning.pytorch.loggers.csv_logs.os.system"],
    ["--trainer.callbacks", "lightning.pytorch.trainer.trainer.os.system"],
    ["--optimizer", "torch.optim.optimizer.functools.partial"],
    ["--optimizer", "torch.nn.Linear"],
]


@pytest.mark.parametrize("option", OPTIONS, ids=[" ".join(option)[:60] for option in OPTIONS])
def test_a_class_of_elsewhere_is_not_even_imported(project, run, stranger, option):
    if len(option) == 3:
        option = [option[0], option[1] + option[2]]
    refused(run(*FIT, *option))
    nothing_happened(project)


def test_the_refusal_says_what_would_permit_it(project, run, stranger):
    line = refused(run(*FIT, "--trainer.callbacks", "stranger.Mine"))
    assert line.startswith("error: option trainer.callbacks: stranger.Mine is no class of lr_lightning, torch.optim")
    assert "--allow-custom-classes" in line
    line = refused(run(*FIT, "--trainer.logger", "os.system", "--allow-custom-classes"))
    assert "not even with --allow-custom-classes" in line


def test_custom_classes_are_allowed_on_the_command_line(project, run, stranger):
    code, _, err = run(*FIT, "--trainer.callbacks", "stranger.Mine", "--allow-custom-classes")
    assert code == 0, err
    assert (project / "called").exists()
    # Of the run's own file the permission is no part: it has to be given again.
    config = project / "runs/exam/version_0/config.yaml"
    refused(run("fit", "--config", config))
    assert run("fit", "--config", config, "--quiet", "--allow-custom-classes")[0] == 0


def test_a_file_cannot_permit_itself(project, run, stranger):
    (project / "evil.yaml").write_text("allow_custom_classes: true\ntrainer:\n  callbacks: stranger.Mine\n")
    assert "evil.yaml" in refused(run(*FIT, "--config", "evil.yaml"))
    nothing_happened(project)


def test_lightnings_own_classes_need_no_permission(project, run):
    code, _, err = run(*FIT, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs")
    assert code == 0, err
    assert list((project / "logs").rglob("metrics.csv"))
    assert run(*FIT, "--trainer.callbacks", "lightning.pytorch.callbacks.ModelSummary")[0] == 0
    # Its default is a value that jsonargparse cannot write down.
    assert "callbacks" in refused(run(*FIT, "--trainer.callbacks", "lightning.pytorch.callbacks.Timer"))


@pytest.mark.parametrize("command", ["test", "validate"])
@pytest.mark.parametrize("name", ["stranger.Data", "os.system", "lightning.pytorch.trainer.trainer.os.system", "Data"])
def test_a_checkpoint_names_no_class_of_elsewhere(project, run, stranger, command, name):
    content = checkpoint_of(schemas()[2])
    content["data"] = {"class_path": name, "init_args": {}}
    torch.save(content, project / "some.ckpt")
    line = refused(run(command, "--ckpt_path", "some.ckpt"))
    assert name in line
    nothing_happened(project)


def test_a_checkpoint_may_do_so_with_permission(project, run, stranger):
    content = checkpoint_of(schemas()[2])
    content["data"] = {"class_path": "stranger.Data", "init_args": {"path": "gone.csv"}}
    torch.save(content, project / "some.ckpt")
    assert "gone.csv" in refused(run("test", "--ckpt_path", "some.ckpt", "--allow-custom-classes"))
    assert (project / "imported").exists()


# ---- YAML ---------------------------------------------------------------------------------------------------


def laughs():
    names = "abcdefghij"
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{k}: &{k} [{', '.join([f'*{before}'] * 10)}]" for before, k in pairwise(names)]
    return "\n".join(lines)


FILES = {
    "python object": ('model: !!python/object/apply:os.system ["touch imported"]\n', "python/object"),
    "python name": ("model: !!python/name:os.system\n", "python/name"),
    "laughs": (laughs(), "aliases"),
    "circle": ("model: &m\n  l2: *m\n", "aliases"),
    "depth": ("[" * 3_000_000, "bad.yaml"),
    "closed depth": ("model: " + "[" * 200 + "]" * 200, "levels"),
    "key twice": ("model:\n  l2: 1\n  l2: 2\n", "l2 is there twice"),
    "group twice": ("model:\n  l2: 1\ndata:\n  seed: 1\nmodel:\n  l1: 2\n", "model is there twice"),
    "tab": ("model:\n\tl2: 1\n", "line 2"),
    "binary": ("\0\1\2", "bad.yaml"),
    "escape": ('"\\e[2J": 1\n', "\\x1b[2J"),
    "list": ("- 1\n- 2\n", "bad.yaml"),
    "number": ("3\n", "bad.yaml"),
    "huge": ("# " + "x" * (5 << 20), "too large"),
    "key that is nothing": ("?", "bad.yaml"),
    "number without end": ("model:\n  l2: " + "9" * 5000 + "\n", "bad.yaml"),
    "environment": ("model:\n  l2: ${oc.env:HOME}\n", "l2"),
    "flag that is text": ("resume: maybe\n", "resume"),
    "flag that is a list": ("resume: [true]\n", "resume"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_configuration(project, run, kind):
    text, words = FILES[kind]
    (project / "bad.yaml").write_bytes(text.encode())
    line = refused(run(*FIT, "--config", "bad.yaml"))
    assert words in line
    assert "\x1b" not in line
    nothing_happened(project)


@pytest.mark.parametrize(
    "path", ["https://example.org/a.yaml", "file:///etc/passwd", "s3://bucket/a.yaml", "/dev/zero"]
)
def test_configurations_are_local_files(project, run, path):
    assert path in refused(run(*FIT, "--config", path))


def test_the_bomb_on_the_command_line(project, run):
    refused(run(*FIT, "--model.class_weight", "{" + laughs().replace("\n", ", ") + "}"))
    refused(run(*FIT, "--optimizer", '{"class_path": "SGD", "class_path": "Adam"}'))
