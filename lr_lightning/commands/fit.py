"""`lr-lightning fit`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, Trainer

from lr_lightning.callbacks.checkpoints import RunCheckpoints
from lr_lightning.callbacks.progress import FitProgress
from lr_lightning.callbacks.record import RunRecord
from lr_lightning.callbacks.signals import StopOnSignal
from lr_lightning.commands.trainer import (
    add_data_arguments,
    add_trainer_arguments,
    make_trainer,
    plain_if_a_process_is_lost,
)
from lr_lightning.data.tensors import TensorDataModule
from lr_lightning.module import LogisticRegression
from lr_lightning.optimizers import EXACT
from lr_lightning.parsing import instantiate, parse, refuse_impossible_level
from lr_lightning.predictor import load
from lr_lightning.run_folder import RunFolder
from lr_lightning.statistics.wald import CovarianceType

COVARIANCES: dict[str, CovarianceType] = {"nonrobust": "nonrobust", "robust": "HC1", "HC0": "HC0", "HC1": "HC1"}
PARTS = ("model", "optimizer", "data", "trainer")
SET_ELSEWHERE: set[str | int] = {"in_features", "optimizer", "optimizer_options"}  # by the data and by --optimizer


def run(arguments: Sequence[str]) -> int:
    """Fit, write the run folder, and say where things are; the exit code is not 0 where a signal ended it."""
    parser = make_parser()
    config = parse(parser, arguments)
    refuse_impossible_level(config.level)
    if config.quiet:
        logging.getLogger("lr_lightning").setLevel(logging.WARNING)
    text = parser.dump(config, skip_unset=True)
    model = _model(config)
    data = instantiate(config.data)
    run_folder = RunFolder.next_version(_experiment(config))
    checkpoints = RunCheckpoints(run_folder.checkpoints)
    signals = StopOnSignal()
    record = RunRecord(run_folder, text, _settings(parser, config), COVARIANCES[config.covariance], config.level)
    callbacks = [signals, checkpoints, record]
    trainer = make_trainer(
        parser,
        config,
        logger=run_folder.logger(),
        callbacks=callbacks if config.quiet else [FitProgress(), *callbacks],
    )
    try:
        with plain_if_a_process_is_lost(trainer):
            trainer.fit(model, datamodule=data)
    except BaseException:
        run_folder.remove_unless_resumable()
        raise
    if trainer.is_global_zero and not config.quiet:
        if record.report is not None:
            print(record.report.to_text(), file=sys.stderr)
        print(_summary(trainer, data, checkpoints, run_folder), file=sys.stderr)
    if signals.received is None:
        return 0
    print(f"stopped by {Signals(signals.received).name} before the end of the fit", file=sys.stderr)
    return 128 + signals.received


def make_parser() -> ArgumentParser:
    """The options of `fit`."""
    parser = ArgumentParser(
        prog="lr-lightning fit",
        description="Fit a logistic regression and write a run folder, runs/<experiment>/version_N/.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file of options; may be given several times")
    parser.add_argument("--quiet", action="store_true", help="say nothing but warnings")
    parser.add_argument(
        "--covariance",
        choices=list(COVARIANCES),
        default="nonrobust",
        help="of the report's standard errors: the inverse Hessian, or a sandwich (robust is HC1)",
    )
    parser.add_argument("--level", type=float, default=0.95, help="of the report's confidence intervals")
    parser.add_class_arguments(LogisticRegression, "model", skip=SET_ELSEWHERE, instantiate=False)
    parser.add_subclass_arguments(
        torch.optim.Optimizer,
        "optimizer",
        skip={"params", "sample", "l1", "l2", "warm_start", "sample_is_complete"},
        required=False,
        instantiate=False,
        help="SubsampledNewton (default: the exact solver) or a class of torch.optim",
    )
    add_data_arguments(parser, {"class_path": "lr_lightning.TableDataModule"}, "the data (default: a table)")
    add_trainer_arguments(parser)
    return parser


def _model(config: Namespace) -> LogisticRegression:
    options: dict[str, Any] = {}
    if config.optimizer is not None:
        name, arguments = (
            config.optimizer.class_path.rsplit(".")[-1],
            dict(config.optimizer.get("init_args", {})),
        )
        options = {"optimizer": name, "optimizer_options": arguments}
    return LogisticRegression(**config.model, **options)


def _experiment(config: Namespace) -> str:
    """The first config file's name, else the data file's; a run's own config.yaml names the run's experiment."""
    path = Path(config.config[0].relative if config.config else config.data.init_args.path)
    if run := RunFolder.of_config(path):
        return run.path.parent.name
    return path.name.split(".")[0] or "table"


def _settings(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """What was chosen: for TensorBoard's table of runs, which shows few columns at first sight."""
    chosen = yaml.safe_load(parser.dump(config, skip_unset=True, skip_default=True)) or {}
    of_interest = {"model.l1": config.model.l1, "model.l2": config.model.l2, "optimizer": EXACT}
    return of_interest | dict(_flat({part: chosen[part] for part in PARTS if part in chosen}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every leaf, with class_path and init_args left out of the names."""
    for key, value in tree.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".strip(".")
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _summary(trainer: Trainer, data: LightningDataModule, checkpoints: RunCheckpoints, run_folder: RunFolder) -> str:
    loss, epochs = float(trainer.callback_metrics["train/loss"]), trainer.current_epoch
    lines = [f"final loss   {loss:.6g} after {epochs} epoch{'' if epochs == 1 else 's'}"]
    if isinstance(data, TensorDataModule) and data.prediction_input is not None:
        names = data.schema.feature_names
        probabilities = load(checkpoints.last).probability(data.prediction_input).tolist()
        for values, probability in zip(data.prediction_input, probabilities, strict=True):
            given = ", ".join(f"{value:g} {name}" for value, name in zip(values, names, strict=True))
            lines.append(f"P({data.schema.target} | {given}) = {probability:.7g}")
    if checkpoints.best_epoch is not None:
        lines.append(f"best epoch   {checkpoints.best_epoch}, val/loss {checkpoints.best_loss:.6g}: {checkpoints.best}")
    lines.append(f"checkpoint   {checkpoints.last}")
    if trainer.loggers:
        lines.append(f"look         tensorboard --logdir {run_folder.path.parent.parent}")
    return "\n".join(lines)
