"""Fits that end early and go on: by --resume, by --ckpt_path, after signals, kills and full disks."""

import errno
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.errors import InputError
from lr_lightning.training.run_folder import RunFolder
from tests.conftest import QUIET_TRAINER, ROOT, python
from tests.kills import Result, make_table

SAMPLE = ROOT / "conf" / "samples" / "breast_cancer.csv"
SGD = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "50", "--trainer.max_epochs", "8"]
FIT = ["fit", "--data.path", str(SAMPLE), "--data.target", "diagnosis", "--quiet", *SGD]
VERSION = "runs/breast_cancer/version_{}"


def next_second():
    """TensorBoard orders event files by the second in their names, then by a number as text: 10 is before 9."""
    time.sleep(1.1)


@pytest.fixture
def interrupted(project, run, monkeypatch):
    """A run that a signal has stopped in the middle of its fourth epoch; the arguments that began it."""

    def stop_in_fourth(self, trainer, *_):
        if trainer.current_epoch == 3 and trainer.global_step % 10 == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(
            "lr_lightning.training.callbacks.record.RunRecord.on_train_batch_end", stop_in_fourth, raising=False
        )
        code, out, err = run(*FIT)
    assert (code, out) == (143, ""), err
    command = shlex.join(["lr-lightning", *FIT, "--resume"])
    assert err.splitlines()[-1] == f"stopped by SIGTERM; to go on: {command}"
    return FIT


def test_a_resumed_fit_ends_as_the_uninterrupted_one(project, run, interrupted):
    checkpoint = read_checkpoint(VERSION.format(0) + "/checkpoints/last.ckpt")
    assert checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 3
    assert not (project / VERSION.format(0) / "report.json").exists()
    next_second()
    assert run(*interrupted, "--resume") == (0, "", "")
    assert run(*interrupted)[0] == 0
    resumed, whole = (Result.of(project / VERSION.format(version)) for version in (0, 1))
    assert resumed.differences(whole) == []
    assert [step for step, _ in resumed.scalars["train/loss"]] == list(range(8))


@pytest.mark.parametrize("option", ["--resume", "--ckpt_path"])
def test_a_fit_goes_on_from_a_checkpoint_of_an_older_version(project, run, interrupted, option):
    """What such a checkpoint does not know of yet is as the constructors' defaults have it."""
    path = VERSION.format(0) + "/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for known_since, keys in (
        (checkpoint["progress"], ["saw_all_rows"]),
        (checkpoint["data"]["init_args"], ["na"]),
        (checkpoint["schema"], ["spelling", "na"]),
        *((column, ["notation"]) for column in checkpoint["schema"]["columns"]),
    ):
        for key in keys:
            del known_since[key]
    torch.save(checkpoint, path)
    next_second()
    assert run(*interrupted, option, *([path] if option == "--ckpt_path" else [])) == (0, "", "")
    assert run(*interrupted)[0] == 0
    newest = 1 if option == "--resume" else 2
    resumed, whole = (
        read_checkpoint(VERSION.format(version) + "/checkpoints/last.ckpt") for version in (newest - 1, newest)
    )
    assert resumed["report"] == whole["report"]
    assert resumed["schema"] == whole["schema"]


def test_resume_remembers_what_the_command_leaves_out(project, run, interrupted):
    """Naming the experiment is enough; a setting that may differ, such as the number of epochs, is taken."""
    options = ["--data.path", SAMPLE, "--resume", "--quiet", "--trainer.max_epochs", "10"]
    assert run("fit", *options) == (0, "", "")
    saved = yaml.safe_load((project / VERSION.format(0) / "config.yaml").read_text())
    assert saved["optimizer"]["init_args"]["lr"] == 0.1
    assert saved["trainer"]["max_epochs"] == 10
    assert {"quiet", "resume", "ckpt_path"}.isdisjoint(saved)


def test_resume_without_a_run_says_so_and_stops(project, run):
    code, out, err = run(*FIT, "--resume")
    assert (code, out) == (2, "")
    assert err == "error: option resume: there is no unfinished run in runs/breast_cancer; leave it out\n"
    assert not any((project / "runs").glob("*"))
    assert run(*FIT)[0] == 0
    assert run(*FIT, "--resume")[::2] == (2, err)  # a finished one is none to resume


@pytest.mark.parametrize("order", [["--optimizer.lr", "0.2"], ["--optimizer.lr", "0.2", "--optimizer", "SGD"]])
def test_an_argument_of_the_optimizer_comes_after_its_name(project, run, interrupted, order):
    code, _, err = run(*FIT[:6], "--resume", *order)
    words = "name the class first, as in --optimizer CLASS --optimizer.lr …"
    assert (code, err) == (2, f"error: option optimizer.lr: {words}\n")


def test_resume_keeps_out_of_a_folder_where_another_process_fits(project, run, interrupted):
    other = RunFolder(project / VERSION.format(0))
    other.occupy()
    code, _, err = run(*interrupted, "--resume")
    other.release()
    assert code == 2
    assert "another process is still fitting in runs/breast_cancer/version_0" in err


def test_torchrun_resumes_by_itself(project, run, interrupted, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run(*interrupted)[0] == 0
    assert (project / VERSION.format(0) / "report.json").exists()
    assert not (project / VERSION.format(1)).exists()
    assert run(*interrupted)[0] == 0  # nothing is left to resume
    assert (project / VERSION.format(1) / "report.json").exists()


CONTRADICTIONS = [
    (["--optimizer.lr", "0.2"], "optimizer.lr: 0.2 contradicts 0.1"),
    (["--optimizer.momentum", "0.9"], "optimizer.momentum: 0.9 contradicts 0.0"),
    (["--optimizer", "Adam"], "optimizer: Adam contradicts SGD"),
    (["--model.l2", "0.3"], "model.l2: 0.3 contradicts 0.0"),
    (["--model.standardize", "false"], "model.standardize: False contradicts True"),
    (["--model.fit_intercept", "false"], "model.fit_intercept: False contradicts True"),
    (["--model.class_weight", "balanced"], "model.class_weight: balanced contradicts None"),
    (["--data.positive", "benign"], "data.positive: benign contradicts None"),
    (["--data.features", '["mean radius"]'], "data.features: ['mean radius'] contradicts None"),
    (["--data.seed", "1"], "data.seed: 1 contradicts 0"),
    (["--data.batch_size", "60"], "data.batch_size: 60 contradicts 50"),
    (["--data.val_fraction", "0.3"], "data.val_fraction: 0.3 contradicts 0.2"),
    (["--trainer.precision", "64-true"], "trainer.precision: 64-true contradicts 32-true"),
    (["--trainer.gradient_clip_val", "0.5"], "trainer.gradient_clip_val: 0.5 contradicts None"),
    (["--data.path", "scaled.csv"], "data: the training rows are not those"),
    (["--data.path", "flipped.csv"], "data: the training rows are not those"),
    (["--data.path", "renamed.csv"], "data (columns): "),
    (["--trainer.max_epochs", "2"], "trainer.max_epochs: "),
]


def other_tables():
    """The sample with one column in other units, with other labels, and with a column of another name."""
    lines = SAMPLE.read_text().splitlines()
    header, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    first = 1 if header[0] == "diagnosis" else 0
    target = header.index("diagnosis")
    scaled = [[f"{float(cell) * 2}" if j == first else cell for j, cell in enumerate(row)] for row in rows]
    flipped = [row.copy() for row in rows]
    flipped[0][target], flipped[-1][target] = flipped[-1][target], flipped[0][target]
    flipped[5][target] = "benign" if flipped[5][target] == "malignant" else "malignant"
    other = [f"other {name}" if j == first else name for j, name in enumerate(header)]
    for name, head, table in (("scaled", header, scaled), ("flipped", header, flipped), ("renamed", other, rows)):
        yield f"{name}.csv", "\n".join(",".join(row) for row in [head, *table]) + "\n"


@pytest.mark.parametrize("option", ["--resume", "--ckpt_path"])
def test_a_setting_that_contradicts_the_checkpoint_is_refused(project, run, interrupted, option):
    """All in one test: each needs the same interrupted run."""
    for name, text in other_tables():
        (project / name).write_text(text)
    checkpoint = VERSION.format(0) + "/checkpoints/last.ckpt"
    before = sorted((project / "runs").rglob("*"))
    named = {
        "--resume": ["--config", "breast_cancer.yaml", "--resume", *SGD],
        "--ckpt_path": ["--ckpt_path", checkpoint],
    }
    (project / "breast_cancer.yaml").write_text(f"data: {{init_args: {{path: {SAMPLE}, target: diagnosis}}}}\n")
    for contradiction, words in CONTRADICTIONS:
        code, out, err = run("fit", *named[option], *contradiction)
        assert (code, out) == (2, ""), (contradiction, err)
        last = err.splitlines()[-1]
        assert last.startswith(f"error: option {words}"), (contradiction, last)
        assert checkpoint in last
        assert "Traceback" not in err
        assert sorted((project / "runs").rglob("*")) == before, contradiction


def test_ckpt_path_goes_on_in_a_new_version_with_the_checkpoints_settings(project, run, interrupted):
    checkpoint = VERSION.format(0) + "/checkpoints/last.ckpt"
    (project / "moved.csv").write_bytes(SAMPLE.read_bytes())  # where the rows lie is no contradiction
    options = ["--ckpt_path", checkpoint, "--data.path", "moved.csv", "--trainer.max_epochs", "8", "--quiet"]
    assert run("fit", *options) == (0, "", "")
    assert run(*interrupted)[0] == 0
    gone_on, whole = (
        read_checkpoint(f"{run_folder}/checkpoints/last.ckpt")
        for run_folder in ("runs/moved/version_0", VERSION.format(1))
    )
    for name, value in whole["state_dict"].items():
        assert torch.equal(gone_on["state_dict"][name], value)
    saved = project / "runs/moved/version_0/config.yaml"
    assert yaml.safe_load(saved.read_text())["ckpt_path"] == checkpoint
    assert run("fit", "--config", saved, "--quiet")[0] == 0  # the saved configuration, in the experiment's next version
    reports = [(project / f"runs/moved/version_{version}/report.json").read_bytes() for version in (0, 1)]
    assert reports[0] == reports[1]


def test_a_finished_fit_of_the_exact_solver_leaves_nothing_to_do(breast_cancer_run, project, run):
    code, _, err = run("fit", "--ckpt_path", breast_cancer_run / "checkpoints/last.ckpt")
    assert code == 2
    assert err.splitlines()[-1].endswith("the fit has come to its end (converged); nothing is left to do")


def test_python_users_are_told_of_contradictions_too(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(200, 3)), generator.integers(0, 2, 200)
    trainer = Trainer(max_epochs=2, **QUIET_TRAINER)
    trainer.fit(LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1}), TensorDataModule(x, y))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    options = {"ckpt_path": str(tmp_path / "two.ckpt"), "weights_only": True}
    for model, data, words in (
        (LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.2}), TensorDataModule(x, y), "optimizer.lr"),
        (LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1}), TensorDataModule(x[:, :2], y), "columns"),
        (LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1}), TensorDataModule(x + 1, y), "rows"),
    ):
        with pytest.raises(InputError, match=words):
            Trainer(max_epochs=4, **QUIET_TRAINER).fit(model, data, **options)


@pytest.mark.parametrize(
    "options",
    [SGD[:4] + SGD[6:], ["--optimizer", "LBFGS", "--optimizer.max_iter", "3"], ["--trainer.max_steps", "40", *SGD]],
)
def test_other_loops_resume_exactly_too(project, run, monkeypatch, options):
    """One batch an epoch; L-BFGS, whose stop looks at the epoch before; a limit in steps."""
    arguments = ["fit", "--data.path", SAMPLE, "--data.target", "diagnosis", "--model.l2", "0.1", "--quiet", *options]

    def stop_in_second(self, trainer, *_):
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(
            "lr_lightning.training.callbacks.record.RunRecord.on_train_batch_end", stop_in_second, raising=False
        )
        assert run(*arguments)[0] == 130
    next_second()
    assert run(*arguments, "--resume") == (0, "", "")
    assert run(*arguments)[0] == 0
    resumed, whole = (Result.of(project / VERSION.format(version)) for version in (0, 1))
    assert resumed.differences(whole) == []


def test_a_signal_while_the_table_is_read_leaves_nothing(project, tmp_path):
    """The process is told when it has begun to write the cache."""
    make_table(project / "table.parquet", rows=600_000)
    options = ["--data.path", "table.parquet", "--data.target", "y", "--data.cache_dir", "cache"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lr_lightning", "fit", *options],
        cwd=project,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(60_000):
            if process.poll() is not None or any(project.glob("cache/.*.writing-*")):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "stopped by SIGTERM before the first epoch; nothing was kept"
    assert not any((project / "runs").glob("*"))
    assert list((project / "cache").iterdir()) == []


@pytest.fixture
def small_files():
    """A context in which no file of this process may grow larger, as on a disk that is full."""

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.pictures
@pytest.mark.parametrize(
    ("n_bytes", "named"),
    [(200, "config.yaml"), (4000, "best.ckpt"), (30_000, "figures/")],
)
def test_a_full_disk_ends_in_one_line(project, run, small_files, n_bytes, named):
    small_files(n_bytes)
    code, out, err = run(*FIT)
    small_files(resource.RLIM_INFINITY)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "runs/breast_cancer/version_0" in err
    assert named in err
    assert not list(project.rglob(".*.tmp"))


def test_a_full_disk_leaves_the_previous_checkpoint(project, run, small_files, monkeypatch):
    monkeypatch.setattr("lr_lightning.training.callbacks.checkpoints.SECONDS_BETWEEN_SAVES", 0.0)

    def fill_in_fifth(self, trainer, *_):
        small_files(1000 if trainer.current_epoch == 4 else resource.RLIM_INFINITY)

    with monkeypatch.context() as patch:
        patch.setattr(
            "lr_lightning.training.callbacks.record.RunRecord.on_train_epoch_start", fill_in_fifth, raising=False
        )
        code, _, err = run(*FIT)
    small_files(resource.RLIM_INFINITY)
    assert code == 2
    assert "free some" in err.splitlines()[-1]
    assert "Traceback" not in err
    checkpoint = read_checkpoint(VERSION.format(0) + "/checkpoints/last.ckpt")
    assert checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 4
    next_second()
    assert run(*FIT, "--resume") == (0, "", "")
    assert run(*FIT)[0] == 0
    resumed, whole = (Result.of(project / VERSION.format(version)) for version in (0, 1))
    assert resumed.differences(whole) == []


@pytest.mark.slow
def test_killed_fits_end_as_the_uninterrupted_one(tmp_path):
    """A few of the fifty kills of the README."""
    done = python("-m", "tests.kills", "--count", "4", "--seed", "0", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "4 of 4 ended bit-identical to the uninterrupted fit"


def test_a_full_disk_on_a_signal_is_not_passed_over(project, run, monkeypatch):
    def receive(self, *_):
        self.fit_began, self.received = True, signal.SIGINT

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lr_lightning.training.callbacks.signals.StopOnSignal.on_train_start", receive)
    monkeypatch.setattr("lr_lightning.training.callbacks.checkpoints._save", fail)
    threads = set(threading.enumerate())
    code, _, err = run(*FIT)
    assert code == 2
    assert "free some" in err.splitlines()[-1]
    assert set(threading.enumerate()) <= threads  # TensorBoard's writes no more
