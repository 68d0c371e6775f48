"""What of Lightning's Trainer a fit relies on: whole passes, settings that are given back, options that cannot be."""

import logging
import os
import signal
import threading
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, WeightAveraging
from sklearn.linear_model import LogisticRegression as Reference
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lr_lightning import InputError, LogisticRegression, TensorDataModule
from lr_lightning.training.data_modules import HoursDataModule
from tests.conftest import QUIET_TRAINER

SGD = {"optimizer": "SGD", "optimizer_options": {"lr": 0.1}}


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(205, 3))
    return x, (generator.random(205) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)


@pytest.fixture
def table(tmp_path, monkeypatch, rows):
    """205 rows in t.csv, in an empty working directory; the arguments that fit them."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{a},{b},{c},{int(y)}\n" for (a, b, c), y in zip(*rows, strict=True)]
    (tmp_path / "t.csv").write_text("a,b,c,y\n" + "".join(lines))
    return ["fit", "--data.path", "t.csv", "--data.target", "y"]


def trainer_of(**settings):
    return Trainer(**{**QUIET_TRAINER, "max_epochs": 20, "precision": "64-true", **settings})


def in_batches(rows, **settings):
    return TensorDataModule(*rows, batch_size=20, **settings)


# ---- part of the rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["SubsampledNewton", "LBFGS"])
@pytest.mark.parametrize(
    "limit",
    [{"limit_train_batches": 1}, {"limit_train_batches": 0.5}, {"overfit_batches": 2}, {"fast_dev_run": True}],
    ids=lambda limit: next(iter(limit)),
)
def test_full_batch_optimizers_refuse_part_of_the_batches(rows, optimizer, limit):
    (option,) = limit
    with pytest.raises(InputError, match=f"option trainer.{option}: .* of 11 batches, and {optimizer} needs all rows"):
        trainer_of(**limit).fit(LogisticRegression(optimizer=optimizer), in_batches(rows))


def test_a_limit_that_takes_all_batches_is_none(rows):
    x, y = rows
    model = LogisticRegression()
    trainer_of(limit_train_batches=11).fit(model, in_batches(rows))
    expected = Reference(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, y)
    assert model.converged
    assert list(model.predictor().coefficients.values()) == pytest.approx(expected.coef_[0], rel=1e-6)


class PartOfTheRows(TensorDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(*self.train_rows.as_batch()), batch_size=20, sampler=range(100))


class EachTimeOneLess:
    def __init__(self, x, y):
        self.rows, self.n = (torch.tensor(x), torch.tensor(y)), len(y)

    def __iter__(self):
        self.n -= 1
        return zip(*(t[: self.n].split(20) for t in self.rows), strict=True)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:The 'train_dataloader' does not have")
def test_the_exact_solver_refuses_loaders_that_leave_rows_out(rows):
    dataset = TensorDataset(*map(torch.tensor, rows))
    for data, words in (
        (DataLoader(dataset, batch_size=20, drop_last=True), "drop_last"),
        (DataLoader(dataset, batch_size=20, sampler=RandomSampler(dataset, replacement=True)), "replacement"),
        (PartOfTheRows(*rows), "all 205 of them, but the training loader has served 100"),
        (EachTimeOneLess(*rows), "needs the same rows in every pass"),
    ):
        with pytest.raises(InputError, match=words):
            trainer_of().fit(LogisticRegression(), data)
    model = LogisticRegression()
    trainer_of().fit(model, DataLoader(dataset, batch_size=5, drop_last=True))  # which leaves none out
    assert model.converged


def test_a_loader_without_a_length_is_read_to_its_end(rows):
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(*map(torch.tensor, rows), strict=True)

    model, whole = LogisticRegression(initial_weight=1.0), LogisticRegression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer_of().fit(model, DataLoader(Rows(), batch_size=20))
    trainer_of().fit(whole, TensorDataModule(*rows))
    assert model.converged
    expected = whole.linear_sigmoid.coefficients()[0]
    assert model.linear_sigmoid.coefficients()[0].numpy() == pytest.approx(expected.numpy(), rel=1e-6)


@pytest.mark.parametrize(
    ("limit", "seen"),
    [({"limit_train_batches": 2}, False), ({"overfit_batches": 2}, False), ({"max_steps": 3}, False), ({}, True)],
    ids=str,
)
def test_a_report_of_part_of_the_rows_has_no_errors(rows, limit, seen, caplog):
    model = LogisticRegression(**SGD)
    with caplog.at_level(logging.WARNING, logger="lr_lightning"):
        trainer_of(**limit).fit(model, in_batches(rows))
    report = model.infer()
    assert not report.converged
    said = [warning for warning in report.warnings if "no pass of the fit has seen all training rows" in warning]
    assert (len(said), "no pass of the fit" in caplog.text) == (1 - seen, not seen)
    errors = {row.std_error for row in report.coefficients}
    assert (errors == {None}, report.likelihood_ratio_test is None) == (not seen, not seen)


def test_an_end_in_the_middle_of_an_epoch_has_a_loss_and_a_checkpoint(table, run):
    """The first three of the epoch's nine batches."""
    options = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "20", "--trainer.max_steps", "3"]
    code, out, err = run(*table, *options)
    assert (code, out) == (0, ""), err
    assert "final loss" in err
    assert "no pass of the fit has seen all training rows" in err


def test_the_exact_solver_ends_a_pass_that_the_time_is_over_in(rows):
    class Over(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    model = LogisticRegression(initial_weight=1.0)
    trainer = trainer_of(callbacks=[Over()])
    trainer.fit(model, in_batches(rows))
    p = 1 / (1 + np.exp(-rows[0].sum(1)))  # where it has begun; one pass has verified no other point
    expected = -np.log(np.where(rows[1] > 0, p, 1 - p)).mean()
    assert (trainer.current_epoch, trainer.global_step, model.saw_all_rows, model.converged) == (1, 1, True, False)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-9)
    assert model.linear_sigmoid.coefficients()[0].tolist() == pytest.approx([1.0] * 3)


def test_a_measurement_of_part_of_the_held_out_rows_is_said(rows, caplog):
    data, model = in_batches(rows, val_fraction=0.4), LogisticRegression()
    with caplog.at_level(logging.WARNING, logger="lr_lightning"):
        trainer_of().fit(model, data)
        assert caplog.text == ""
        trainer_of(limit_val_batches=1).validate(model, data, verbose=False)
    assert f"val: 20 of {len(data.val_rows.y)} rows are measured (trainer.limit_val_batches)" in caplog.text


# ---- what a run leaves behind -------------------------------------------------------------------------------


class Steps(Callback):
    """Counts steps by the optimizer's own hook."""

    def __init__(self):
        self.n = 0

    def on_before_optimizer_step(self, *_):
        self.n += 1


class Failing(Callback):
    error: ClassVar[BaseException]

    def on_train_epoch_end(self, *_):
        raise self.error

    on_validation_epoch_end = on_train_epoch_end


def settings_of(trainer, data):
    """All public settings; what a run has come to is none."""
    results = {"datamodule", "should_stop", "state", "val_check_batch"}
    of_trainer = {k: v for k, v in vars(trainer).items() if not k.startswith("_") and k not in results}
    return {**of_trainer, "callbacks": list(trainer.callbacks)}, "val_dataloader" in vars(data)


def state_of_process():
    return (
        torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist(),
        list(warnings.filters), signal.getsignal(signal.SIGTERM), dict(os.environ), threading.excepthook,
        [(log.level, log.propagate, log.disabled, list(log.handlers))
         for log in map(logging.getLogger, ("lr_lightning", "lightning.pytorch", "lightning.fabric"))],
    )  # fmt: skip


@pytest.mark.parametrize("error", [None, ValueError("x"), InputError("x"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("optimizer", ["SubsampledNewton", "SGD"])
def test_a_run_leaves_all_settings_as_they_were(rows, optimizer, error):
    data, trainer = in_batches(rows), trainer_of(callbacks=[] if error is None else [Failing()])
    model = LogisticRegression(**(SGD if optimizer == "SGD" else {"initial_weight": 1.0}))
    before, process, on_interrupt = settings_of(trainer, data), state_of_process(), signal.getsignal(signal.SIGINT)
    try:
        if error is None:
            trainer.fit(model, data)
            trainer.predict(model, data)
        else:
            Failing.error = error
            with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else type(error)):
                trainer.fit(model, data)
    finally:
        signal.signal(signal.SIGINT, on_interrupt)  # Lightning's own doing
    assert settings_of(trainer, data) == before
    assert state_of_process() == process


def test_a_measurement_that_fails_leaves_the_data_module_as_it_was(rows):
    data, model = in_batches(rows), LogisticRegression()
    trainer_of().fit(model, data)
    with pytest.raises(InputError, match="kept no rows back"):
        trainer_of().test(model, data, verbose=False)
    assert "val_dataloader" not in vars(data)


def test_the_next_fit_of_a_trainer_makes_all_its_steps(rows):
    """Five epochs of eleven batches."""
    steps = Steps()
    trainer, data = trainer_of(max_epochs=5, callbacks=[steps]), in_batches(rows)
    trainer.fit(LogisticRegression(), data)
    trainer.fit_loop.epoch_progress.reset()
    steps.n = 0
    trainer.fit(LogisticRegression(**SGD), data)
    assert steps.n == 55


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:The 'train_dataloader' does not have")
def test_a_fit_to_loaders_knows_nothing_of_an_earlier_data_module(rows):
    x, y = (part[:80] for part in rows)
    trainer, model = trainer_of(), LogisticRegression()
    trainer.fit(LogisticRegression(), in_batches(rows))
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit(model, DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=80))
    expected = Reference(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, y)
    assert model.converged
    assert model.linear_sigmoid.coefficients()[0].numpy() == pytest.approx(expected.coef_[0], rel=1e-6)
    with pytest.raises(InputError, match="a report needs"):
        model.infer()


def test_the_command_line_leaves_the_process_as_it_was(table, run):
    before = state_of_process()
    assert run(*table, "--quiet")[0] == 0
    assert state_of_process() == before
    assert run(*table, "--trainer.max_epochs", "0")[0] == 2
    assert state_of_process() == before


# ---- options that cannot be ---------------------------------------------------------------------------------

IMPOSSIBLE = {
    "--trainer.max_epochs 0": "max_epochs",
    "--trainer.max_epochs 0 --quiet": "max_epochs",
    "--trainer.max_epochs -5": "max_epochs",
    "--trainer.max_steps 0": "max_steps",
    "--trainer.min_epochs 10 --trainer.max_epochs 5": "min_epochs",
    "--trainer.min_steps 10 --trainer.max_steps 5": "min_steps",
    "--trainer.limit_train_batches 0": "limit_train_batches",
    "--trainer.limit_train_batches 0.5": "limit_train_batches",
    "--trainer.overfit_batches 0.5": "0.5 of the `train_dataloader`",
    "--trainer.limit_val_batches 0.5": "limit_val_batches",
    "--trainer.max_time 00:00:00:00": "max_time",
    "--trainer.check_val_every_n_epoch 0": "check_val_every_n_epoch",
    "--trainer.val_check_interval 7": "val_check_interval",
    "--trainer.val_check_interval 0": "val_check_interval",
    "--optimizer SparseAdam": "dense gradients",
    "--trainer.accumulate_grad_batches 0": "accumulate_grad_batches",
    "--trainer.gradient_clip_val 1": "gradient_clip_val",
    "--trainer.precision 16-mixed": "16-mixed",
    "--trainer.accelerator tpu": "torch_xla",
    "--trainer.devices 0": "devices",
    "--trainer.strategy dp": "strategy",
    "--trainer.profiler nope": "profiler",
    "--trainer.barebones true": "barebones",
    "--trainer.enable_checkpointing false": "enable_checkpointing",
    "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/los": "val/los",
    "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss --data.val_fraction 0": "val_fraction",
    "--trainer.callbacks ModelCheckpoint --trainer.callbacks.monitor val/los": "val/los",
    "--trainer.callbacks LearningRateMonitor": "no learning rate",
    "--trainer.callbacks LearningRateMonitor --trainer.logger false": "no learning rate",
    "--trainer.callbacks DeviceStatsMonitor --trainer.logger false": "DeviceStatsMonitor",
    "--trainer.callbacks LearningRateFinder": "no learning rate",
    "--trainer.callbacks BatchSizeFinder": "BatchSizeFinder",
    "--trainer.callbacks WeightAveraging": "WeightAveraging",
    "--trainer.callbacks BackboneFinetuning": "backbone",
    "--trainer.callbacks RichProgressBar": "RichProgressBar",
}


@pytest.mark.parametrize("options", IMPOSSIBLE)
def test_an_option_that_cannot_be_ends_in_one_line(table, tmp_path, run, options):
    code, out, err = run(*table, *options.split())
    assert (code, out) == (2, ""), err
    *before, last = err.splitlines()
    assert last.startswith("error: ")
    assert IMPOSSIBLE[options] in last
    assert all(line.startswith("t.csv: ") for line in before), err
    assert {path.name for path in tmp_path.iterdir()} - {"runs"} == {"t.csv"}
    assert not any((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("callback", "error"),
    [
        (EarlyStopping("train/los"), InputError),
        (EarlyStopping("val/loss"), InputError),
        (LearningRateMonitor(), InputError),
        (WeightAveraging(), InputError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_callbacks_that_do_not_fit_are_refused_in_python(rows, callback, error):
    with pytest.raises(error):
        trainer_of(callbacks=[callback]).fit(LogisticRegression(), TensorDataModule(*rows))


@pytest.mark.parametrize("monitor", ["epoch", "step"])
def test_checkpoints_by_the_number_of_the_epoch(rows, tmp_path, monitor):
    callback = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", save_top_k=2)
    trainer = trainer_of(callbacks=[callback], max_epochs=3, enable_checkpointing=True)
    trainer.fit(LogisticRegression(**SGD), TensorDataModule(*rows))
    assert len(list(tmp_path.glob("*.ckpt"))) == 2


def test_advice_does_not_name_the_solver_that_was_used():
    data = HoursDataModule()
    for settings, named in (({"initial_weight": 1.0}, False), (SGD, True)):
        model = LogisticRegression(l2=0.1, **settings)
        trainer_of(max_epochs=1).fit(model, data)
        (said,) = [warning for warning in model.infer().warnings if "did not converge in 1 pass," in warning]
        assert ("exact solver" in said) == named


def test_a_single_pass_has_no_picture_of_its_losses(table, tmp_path, run):
    assert run(*table, "--quiet", "--trainer.max_epochs", "1", "--trainer.logger", "false")[0] == 0
    assert run(*table, "--quiet", "--trainer.max_epochs", "2", "--optimizer", "SGD", "--optimizer.lr", "0.1")[0] == 0
    for version, drawn in ((0, False), (1, True)):
        pictures = {path.stem for path in (tmp_path / f"runs/t/version_{version}/figures").iterdir()}
        assert "coefficients" in pictures
        assert ("loss" in pictures) == drawn


@pytest.mark.parametrize("seed", ["99999999999999999999", "99999999999999", "-1"])
def test_any_whole_number_is_a_seed(table, tmp_path, run, seed):
    options = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "5", "--trainer.max_epochs", "2"]
    code, out, err = run(*table, "--quiet", "--data.seed", seed, *options)
    assert (code, out) == (0, ""), err
    assert (tmp_path / "runs/t/version_0/checkpoints/last.ckpt").exists()
