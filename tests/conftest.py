from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lr_lightning.cli.main import main

ROOT = Path(__file__).parent.parent
QUIET_TRAINER = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def pytest_collection_modifyitems(items):
    """Begin with the files that start processes: what is left in the end is short, and shared out evenly."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Leave what the tests' modules have imported out of the garbage collections to come, a minute of them in all."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _few_words():
    """Lightning introduces itself at each Trainer; the tests make hundreds."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@pytest.fixture
def one_thread():
    """Torch on one thread: several wait for each other on small tables, and multiply large ones in other orders."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def several_threads():
    """Torch on two threads, for what only they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory beside which conf/ lies, as in a clone."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class _Blank(FigureCanvasAgg):
    def print_png(self, filename_or_obj, *args, **kwargs):
        filename_or_obj.write(b"\x89PNG")


@pytest.fixture
def run(capfd, monkeypatch, request):
    """Run the command line in this process: `run("fit", "--config", …)` gives exit code, stdout and stderr.

    Pictures are made, but not drawn, which takes a third of a small fit, unless the test is marked `pictures`.
    """
    if "pictures" not in request.keywords:
        monkeypatch.setattr("lr_lightning.training.callbacks.record.FigureCanvasAgg", _Blank)

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def hours_run(tmp_path_factory):
    """The run folder of the tutorial's experiment, made by the README's command; what it says lies beside."""
    folder = tmp_path_factory.mktemp("hours")
    with (
        (folder / "stdout.txt").open("w") as out,
        (folder / "stderr.txt").open("w") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        fit_in(folder, "--config", "conf/hours.yaml")
    return folder / "runs" / "hours" / "version_0"


@pytest.fixture(scope="session")
def breast_cancer_run(tmp_path_factory):
    """The run folder of the breast cancer experiment; the tests leave it as it is."""
    folder = tmp_path_factory.mktemp("breast_cancer")
    fit_in(folder, "--config", "conf/breast_cancer.yaml", "--quiet")
    return folder / "runs" / "breast_cancer" / "version_0"


def fit_in(folder, *options, command="fit"):
    """Fit in this process, in a working directory beside which conf/ lies: for fixtures that many tests share."""
    if not (folder / "conf").exists():
        (folder / "conf").symlink_to(ROOT / "conf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([command, *map(str, options)]) == 0


def python(*arguments, cwd, **variables):
    """Run this interpreter in a process of its own, with nothing silenced and the given environment variables."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    environment |= variables
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def imported_modules(statement, cwd):
    """Names of the modules that a fresh interpreter has imported after a statement."""
    done = python("-c", f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
