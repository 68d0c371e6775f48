"""`lr-lightning fit`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from signal import Signals
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer

from lr_lightning.cli.fit_settings import (
    COVARIANCES,
    chosen_settings,
    experiment_name,
    saved_text,
    settings_and_origin,
)
from lr_lightning.cli.fit_settings import (
    make_parser as make_parser,
)
from lr_lightning.cli.parse import instantiate, refuse_impossible_level
from lr_lightning.cli.resuming import Origin, command_to_resume, damage_in_words
from lr_lightning.cli.trainer import (
    make_trainer,
    mistakes_in_one_line,
    plain_if_a_process_is_lost,
    refuse_impossible_limits,
)
from lr_lightning.errors import FAILURE, InputError
from lr_lightning.files import NO_SPACE, no_space
from lr_lightning.serving.predictor import load
from lr_lightning.statistics.render import as_text
from lr_lightning.training.callbacks.checkpoints import RunCheckpoints
from lr_lightning.training.callbacks.progress import FitProgress, ProfileProgress
from lr_lightning.training.callbacks.record import RunRecord
from lr_lightning.training.callbacks.signals import Interrupted, StopOnSignal
from lr_lightning.training.data_modules import TensorDataModule
from lr_lightning.training.module import LogisticRegression
from lr_lightning.training.processes import is_first_process
from lr_lightning.training.resume import refuse_other_settings, split_rule_of
from lr_lightning.training.run_folder import RunFolder, RunLogger

log = logging.getLogger("lr_lightning")


def run(arguments: Sequence[str]) -> int:
    """Fit, write the run folder, and say where things are; the exit code is not 0 where a signal ended it."""
    return Command("fit", make_parser).run(arguments)


class Command:
    """A command that ends in a fit.

    Args:
        name: of the command.
        make_parser: makes the parser of its options.
    """

    chooses_penalty = False

    def __init__(self, name: str, make_parser: Callable[[], ArgumentParser]):
        self.name, self.make_parser = name, make_parser

    def refuse(self, config: Namespace, origin: Origin | None) -> None:
        """Raise InputError for settings that the command cannot use, or not with what it goes on from."""

    def prepare(self, config: Namespace, data: LightningDataModule) -> None:
        """Tell the data module what it has to know before it reads anything."""

    def callbacks(self, config: Namespace, run_folder: RunFolder, record: RunRecord) -> list[Callback]:
        """Callbacks of the command itself, which run after the others."""
        return []

    def last_words(self, config: Namespace) -> list[str]:
        """The command's own lines of the summary, which come before the others."""
        return []

    def run(self, arguments: Sequence[str]) -> int:
        """Fit, write the run folder, and say where things are; return the exit code."""
        parser, config, origin = settings_and_origin(arguments, self.make_parser)
        refuse_impossible_level(config.level)
        self.refuse(config, origin)
        if config.quiet:
            logging.getLogger("lr_lightning").setLevel(logging.WARNING)
        with damage_in_words(None if origin is None else origin.path):  # the settings may come from it
            model = _model(config, origin)
        model.inference_in_use(COVARIANCES[config.covariance], config.inference, penalized=self.chooses_penalty)
        data = instantiate(config.data)
        self.prepare(config, data)
        again = partial(command_to_resume, arguments, self.name)
        with StopOnSignal() as signals:
            run_folder = _occupied_folder(config, origin)
            complete = False
            try:
                _fit(self, parser, config, origin, model, data, run_folder, signals, again)
                complete = True
            except Interrupted:
                pass
            except BaseException as error:
                # After a signal to several processes, those that end later only report that the others have gone.
                if signals.received is None or not signals.of_several_processes:
                    raise _explained(error, run_folder) from error
            finally:
                run_folder.remove_unless_resumable(began=signals.fit_began)
                run_folder.release()
        return 0 if signals.received is None else _stopped(signals.received, complete, run_folder, again)


def _occupied_folder(config: Namespace, origin: Origin | None) -> RunFolder:
    if origin is None or origin.run is None:
        return RunFolder.next_version(experiment_name(config))
    origin.run.occupy()
    origin.run.clear_temporary()
    return origin.run


def _fit(
    command: Command,
    parser: ArgumentParser,
    config: Namespace,
    origin: Origin | None,
    model: LogisticRegression,
    data: LightningDataModule,
    run_folder: RunFolder,
    signals: StopOnSignal,
    again: Callable[[], str],
) -> None:
    checkpoints = RunCheckpoints(run_folder.checkpoints, signals)
    # What is resumed has left its settings in the parser, as defaults.
    without_defaults = parser if origin is None else command.make_parser()
    text, settings = saved_text(parser, config), chosen_settings(without_defaults, config)
    told = None if config.quiet else ProfileProgress()
    covariance = COVARIANCES[config.covariance]
    record = RunRecord(run_folder, text, settings, covariance, config.level, config.inference, told)
    callbacks = [signals, checkpoints, record, *command.callbacks(config, run_folder, record)]
    resumed = origin is not None and origin.run is not None
    trainer = make_trainer(
        parser,
        config,
        logger=run_folder.logger(origin.epochs if origin is not None and resumed else None),
        callbacks=callbacks if config.quiet else [FitProgress(), *callbacks],
    )
    refuse_impossible_limits(trainer)
    signals.watch(trainer, partial(_end_at_once, run_folder, again), partial(_end_alone, run_folder))
    if origin is not None:
        with damage_in_words(origin.path):
            refuse_other_settings(str(origin.path), origin.checkpoint, type(model), model.hparams, data, trainer)
            origin.refuse_if_done(config.trainer.max_epochs)
        if isinstance(data, TensorDataModule):
            data.split_rule = split_rule_of(origin.checkpoint)
        if trainer.is_global_zero and not config.quiet:
            log.info(f"going on from {origin.path}, after {origin.epochs} epochs")
    path, done = (None, -1) if origin is None else (origin.path, origin.epochs)
    with (
        mistakes_in_one_line(),
        damage_in_words(path, sound=lambda: trainer.current_epoch > done),
        plain_if_a_process_is_lost(trainer),
        _events_closed(trainer),
    ):
        trainer.fit(model, datamodule=data, ckpt_path=None if path is None else str(path))
    if not checkpoints.finished:
        raise InputError("trainer: its options leave nothing to fit; the fit has ended before its first epoch")
    if trainer.is_global_zero and not config.quiet:
        if record.report is not None:
            print(as_text(record.report), file=sys.stderr)
        for line in (*command.last_words(config), _summary(trainer, data, checkpoints, run_folder)):
            print(line, file=sys.stderr)


@contextmanager
def _events_closed(trainer: Trainer) -> Iterator[None]:
    """After a failure, close TensorBoard's file where Lightning has not: its thread would go on writing."""
    try:
        yield
    except BaseException:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.finalize("failed")
        raise


def _explained(error: BaseException, run_folder: RunFolder) -> BaseException:
    """An InputError where the disk is full; any other error unchanged."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return InputError(f"{run_folder.path}: cannot be written, there is {no_space(error)}; free some")
    return error


def _end_at_once(run_folder: RunFolder, again: Callable[[], str], signum: int) -> None:
    """End the process on a signal that comes while the main thread still waits for the other processes."""
    run_folder.remove_unless_resumable(began=False)
    code = _stopped(signum, False, run_folder, again)
    sys.stderr.flush()
    os._exit(code)


def _end_alone(run_folder: RunFolder) -> None:
    """End the process because another one ended before the fit began; that one prints the reason."""
    run_folder.remove_unless_resumable(began=False)
    print("error: process 1 ends: a process that it has started has ended before the fit began", file=sys.stderr)
    sys.stderr.flush()
    os._exit(FAILURE)


def _stopped(signum: int, complete: bool, run_folder: RunFolder, again: Callable[[], str]) -> int:
    """Print how to go on; return the exit code."""
    if not is_first_process():
        return 0  # for any other code Lightning would kill the first process, before it has saved
    print(_how_to_go_on(signum, complete, run_folder, again), file=sys.stderr)
    return 128 + signum


def _how_to_go_on(signum: int, complete: bool, run_folder: RunFolder, again: Callable[[], str]) -> str:
    name = Signals(signum).name
    if complete:
        return f"{name} came after the last epoch: the fit is complete"
    if run_folder.last.exists():
        return f"stopped by {name}; to go on: {again()}"
    return f"stopped by {name} before the first epoch; nothing was kept"


def _model(config: Namespace, origin: Origin | None) -> LogisticRegression:
    options: dict[str, Any] = {}
    if origin is not None:  # what the command chose when the fit began
        chosen = origin.checkpoint["hyper_parameters"]
        options = {name: chosen[name] for name in ("l1", "l2") if name not in config.model}
    if config.get("optimizer") is not None:
        name, arguments = (
            config.optimizer.class_path.rsplit(".")[-1],
            dict(config.optimizer.get("init_args", {})),
        )
        options |= {"optimizer": name, "optimizer_options": arguments}
    return LogisticRegression(**config.model, **options)


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
