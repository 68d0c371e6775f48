"""The command line under torchrun and under Lightning's own launcher."""

import json
import os
import re
import sys
from itertools import product
from pathlib import Path

import pytest
from torch import distributed

from lr_lightning.cli.main import main
from lr_lightning.training.processes import is_first_on_machine, is_first_process
from tests.conftest import python
from tests.distributed.several import in_processes
from tests.distributed.test_fit import leaves

CONFIG = ["--config", "conf/breast_cancer.yaml", "--trainer.precision", "64-true"]
MINIBATCHES = [*CONFIG, "--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "50"]
MINIBATCHES += ["--trainer.max_epochs", "20"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
CHECKPOINT = "runs/breast_cancer/version_0/checkpoints/last.ckpt"
SAMPLE = "conf/samples/breast_cancer.csv"


def commands(folder, *lines):
    """Exit code, stdout and stderr of each command line in turn."""
    os.chdir(folder)
    said = []
    for line in lines:
        streams = [Path(f"{name}-of-{os.getpid()}") for name in ("stdout", "stderr")]
        kept = [os.dup(1), os.dup(2)]
        for number, path in enumerate(streams, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        try:
            code = main([str(argument) for argument in line])
            sys.stdout.flush()
        finally:
            for number, stream in enumerate(kept, start=1):
                os.dup2(stream, number)
        said.append((code, *(path.read_text() for path in streams)))
        for path in streams:
            path.unlink()
    return said


def files(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_two_processes_write_and_say_what_one_does(project, run):
    (project / "several").mkdir()
    (project / "several/conf").symlink_to("../conf")
    evaluate = [[command, "--ckpt_path", CHECKPOINT] for command in ("validate", "test")]
    predict = ["predict", "--ckpt_path", CHECKPOINT, "--data.path", SAMPLE]
    lines = [["fit", *MINIBATCHES], *evaluate, predict, [*predict, "--output", "p.parquet"], ["report", *predict[1:3]]]
    alone = [run(*line) for line in lines]
    several = [[*line, *DDP] if line[0] in ("fit", "validate", "test") else line for line in lines]
    # Each command in processes of its own: the second does not wait until the first has written its checkpoint.
    said = [in_processes(2, commands, project / "several", line) for line in several]
    first, second = ([of_process for (of_process,) in column] for column in zip(*said, strict=True))
    assert second == [(0, "", "")] * len(lines)
    predicted, ours = first.pop(3), alone.pop(3)
    assert first == alone
    assert column(predicted[1]) == pytest.approx(column(ours[1]), rel=1e-9)  # these are in all their digits
    assert len(column(ours[1])) == 569
    folders = [project / part / "runs/breast_cancer/version_0" for part in (".", "several")]
    names = [sorted(re.sub(r"tfevents.*", "tfevents", name) for name in files(folder)) for folder in folders]
    assert names[0] == names[1]
    reports = [dict(leaves(json.loads((folder / "report.json").read_text()))) for folder in folders]
    for key, value in reports[0].items():
        close = pytest.approx(value, rel=1e-7, abs=1e-12) if isinstance(value, float) else value
        assert reports[1][key] == close, key


def column(text):
    return [float(line.split(",")[0]) for line in text.splitlines()[1:]]


def test_the_launcher_and_its_overlay(project, run):
    """And what is said comes once, from the first process."""
    done = python("-m", "lr_lightning", "fit", *CONFIG, "--config", "conf/trainer/ddp.yaml", cwd=project)
    assert (done.returncode, done.stdout) == (0, "")
    code, _, err = run("fit", *CONFIG)
    assert code == 0
    assert done.stderr == err.replace("version_1", "version_0")
    several, one = (json.loads((project / f"runs/breast_cancer/version_{n}/report.json").read_text()) for n in (0, 1))
    assert_alike(several, one)
    assert several["converged"]


def assert_alike(several, one):
    """The same but for how several processes and one round their sums."""
    if isinstance(one, dict):
        assert several.keys() == one.keys()
        for key in one:
            assert_alike(several[key], one[key])
    elif isinstance(one, list):
        assert len(several) == len(one)
        for ours, theirs in zip(several, one, strict=True):
            assert_alike(ours, theirs)
    else:
        assert several == (pytest.approx(one, rel=1e-11) if isinstance(one, float) else one)


def connected_after(folder, *line):
    """Whether the process is connected to others after a command that is all that it does."""
    os.chdir(folder)
    sys.argv = ["lr-lightning", *line]
    assert main() == 0
    return distributed.is_initialized()


def test_processes_part_in_the_end(project):
    """The threads of gloo may abort a process whose interpreter ends before them."""
    assert in_processes(2, connected_after, project, "fit", *CONFIG, "--quiet", *DDP) == [False, False]


@pytest.mark.parametrize("name", ["absent.csv", "conf/samples/exam.csv"])
def test_a_mistake_is_said_once(project, name):
    """Not by each process, and not followed by one's complaint that the other has gone."""
    ((code, out, err), (other_code, *other)) = [
        said[0] for said in in_processes(2, commands, project, ["fit", *CONFIG, "--data.path", name, *DDP])
    ]
    assert (code, other_code, out, other) == (2, 2, "", ["", ""])
    assert err.count("error:") == err.count("\n") == 1
    assert name in err
    assert not any((project / "runs").glob("*"))


@pytest.mark.parametrize(
    ("environment", "first", "first_on_machine"),
    [
        ({}, True, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, True),  # torchrun
        ({"RANK": "2", "LOCAL_RANK": "0"}, False, True),
        ({"RANK": "3", "LOCAL_RANK": "1"}, False, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True, True),  # srun
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, False, True),
        ({"LOCAL_RANK": "1"}, False, False),  # Lightning's launcher
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "LOCAL_RANK": "1"}, False, False),  # the same in a batch job
        ({"NODE_RANK": "1"}, False, True),
    ],
)
def test_the_first_process_is_found_in_the_environment(environment, first, first_on_machine, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (is_first_process(), is_first_on_machine()) == (first, first_on_machine)


def test_a_path_of_several_processes_is_that_of_one(project, run):
    header, *rows = (project / SAMPLE).read_text().splitlines()
    holes = [row if i % 5 else row[row.index(",") :] for i, row in enumerate(rows)]
    (project / "holes.csv").write_text("\n".join([header, *holes]))
    common = ["--data.target", "diagnosis", "--trainer.precision", "64-true", "--path.n_lambda", "5", "--cv.folds", "3"]
    lines = [
        ["path", "--data.path", SAMPLE, *common],
        ["path", "--data.path", "holes.csv", *common, "--data.missing", "impute"],
    ]
    for line in lines:
        assert run(*line)[0] == 0
    (project / "several").mkdir()
    for name in ("conf", "holes.csv"):
        (project / "several" / name).symlink_to(f"../{name}")
    said, _ = in_processes(2, commands, project / "several", *([*line, *DDP] for line in lines))
    assert [code for code, *_ in said] == [0, 0]
    assert "filled in anew without each fold" in said[1][2]
    for run_folder, name in product(
        ("breast_cancer/version_0", "holes/version_0"), ("path.csv", "coefficients.csv", "out_of_fold.csv")
    ):
        folders = [project / folder / "runs" / run_folder for folder in (".", "several")]
        (header, *alone), (expected, *together) = (
            [row.split(",") for row in (folder / name).read_text().splitlines()] for folder in folders
        )
        assert header == expected
        for row, of_one in zip(together, alone, strict=True):
            numbers = [[float(text) if text[-1:].isdigit() else text for text in texts] for texts in (row, of_one)]
            assert [x for x in numbers[0] if isinstance(x, float)] == pytest.approx(
                [x for x in numbers[1] if isinstance(x, float)], rel=1e-9, abs=1e-12
            )
            assert [x for x in numbers[0] if isinstance(x, str)] == [x for x in numbers[1] if isinstance(x, str)]
