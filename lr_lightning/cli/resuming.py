"""The checkpoint and the settings from which `fit --resume` and `fit --ckpt_path` go on."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule

from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.cli.allowlist import refuse_unsuitable_class
from lr_lightning.cli.yaml import as_written
from lr_lightning.errors import InputError, ProcessLostError
from lr_lightning.serving.predictor import load
from lr_lightning.statistics.render import as_json
from lr_lightning.training.optimizers import EXACT
from lr_lightning.training.processes import is_first_process
from lr_lightning.training.resume import epochs_done
from lr_lightning.training.run_folder import RunFolder

log = logging.getLogger("lr_lightning")
GROUPS = ("model", "path", "cv", "trainer")  # the parser takes the defaults of these one by one


@dataclass(frozen=True)
class Origin:
    """A checkpoint to go on from.

    Attributes:
        path: of the checkpoint.
        checkpoint: its content.
        run: the run folder to go on in; None for a new one.
    """

    path: Path
    checkpoint: Mapping[str, Any]
    run: RunFolder | None = None

    @property
    def epochs(self) -> int:
        """Number of epochs that the checkpoint's fit has done."""
        return epochs_done(self.checkpoint)

    def defaults(self) -> dict[str, Any]:
        """For the parser: the settings of the run, or as many as the checkpoint itself knows."""
        if self.run is not None:
            return _flat(yaml.safe_load(self.run.config.read_text(encoding="utf-8")))
        hparams, data = dict(self.checkpoint["hyper_parameters"]), self.checkpoint.get("data")
        hparams.pop("in_features", None)
        name, options = hparams.pop("optimizer", EXACT), hparams.pop("optimizer_options", None) or {}
        module = "lr_lightning.solver" if name == EXACT else "torch.optim"
        settings: dict[str, Any] = {"model": hparams}
        if name != EXACT or options:
            settings["optimizer"] = {"class_path": f"{module}.{name}", "init_args": options}
        if data is not None:
            refuse_unsuitable_class(data["class_path"], LightningDataModule, str(self.path))
            settings["data"] = data
        if precision := self.checkpoint.get("progress", {}).get("precision"):
            settings["trainer"] = {"precision": precision}
        return _flat(settings)

    def refuse_another_command(self, command: str) -> None:
        """Raise InputError where a run was begun by another command than `lr-lightning fit` or `lr-lightning path`."""
        began = "lr-lightning path" if any(name.startswith("path.") for name in self.defaults()) else "lr-lightning fit"
        if command != began:
            raise InputError(f"option resume: {self.path.parent.parent} was begun by {began}; go on with that command")

    def refuse_if_done(self, max_epochs: int | None) -> None:
        """Raise InputError where no epoch is left to do."""
        solver = self.checkpoint["optimizer_states"][0].get("solver", {})
        if solver.get("stopped"):
            raise InputError(f"{self.path}: the fit has come to its end ({solver['status']}); nothing is left to do")
        if max_epochs is not None and 0 <= max_epochs <= self.epochs:
            raise InputError(
                f"option trainer.max_epochs: {self.path} has {self.epochs} epochs behind it; "
                f"to go on takes more than {max_epochs}"
            )


@contextmanager
def damage_in_words(path: Path | None, sound: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within, an error that comes from the state in a checkpoint becomes one that names the checkpoint.

    Lightning and torch raise errors of many types for a state that is not as they saved it.

    Args:
        path: of the checkpoint; None where there is none.
        sound: whether the state is known to be sound by now, so that an error has another cause.

    Raises:
        InputError: that names the checkpoint.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if path is None or sound() or isinstance(error, InputError | ProcessLostError):
            raise
        reason = f"{type(error).__name__}: {error}"[:300]
        raise InputError(f"{path}: no fit can go on from it, the state of its fit is damaged ({reason})") from error


def from_checkpoint(path: Path) -> Origin:
    """To go on from any checkpoint in a new run folder."""
    origin = Origin(path, read_checkpoint(path))
    with damage_in_words(path):
        _refuse_if_for_inference(origin)
    return origin


def newest_unfinished(experiment: str) -> Origin | None:
    """To go on in the newest run of an experiment that has not come to its end.

    A run that was killed after its last checkpoint gets the report.json that it lacks.

    Returns:
        None where the run was killed before its first checkpoint. Then nothing of it is left, and it begins anew.

    Raises:
        InputError: if there is none, or a process is still at work in it.
    """
    for run in RunFolder.versions(experiment):
        if not run.last.exists() and not run.report.exists():
            run.occupy()
            run.remove_unless_resumable()
            run.release()
            return None
        if (origin := _unfinished(run)) is not None:
            return origin
        _write_missing_report(run)
    raise InputError(f"option resume: there is no unfinished run in runs/{experiment}; leave it out")


def after_restart(experiment: str) -> Origin | None:
    """The newest run, if it is unfinished and torchrun has restarted this process; else None."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    newest = next(RunFolder.versions(experiment), None)
    return None if newest is None else _unfinished(newest)


def command_to_resume(arguments: Sequence[str], command: str) -> str:
    """The command line that goes on with what a command with these arguments has begun."""
    resume = [] if "--resume" in arguments else ["--resume"]
    return shlex.join(["lr-lightning", command, *arguments, *resume])


def _unfinished(run: RunFolder) -> Origin | None:
    if not run.last.exists() or not run.config.exists():
        return None
    origin = Origin(run.last, read_checkpoint(run.last), run)
    if origin.checkpoint.get("callbacks", {}).get("RunCheckpoints", {}).get("finished", True):
        return None
    _refuse_if_for_inference(origin)
    return origin


def _write_missing_report(run: RunFolder) -> None:
    """Finish a run that was killed between its last checkpoint and its report."""
    if not is_first_process() or run.report.exists() or not run.config.exists():
        return
    report = load(run.last).report()
    run.occupy()
    run.clear_temporary()
    run.write_report(as_json(report))
    run.release()
    log.info(f"{run.path}: the fit had come to its end; its report.json is taken from the checkpoint")


def _refuse_if_for_inference(origin: Origin) -> None:
    try:
        _ = origin.epochs
    except InputError as error:
        raise InputError(f"{origin.path}: {error}") from error


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in settings.items() if key not in GROUPS}
    for group in GROUPS:
        flat |= {f"{group}.{key}": value for key, value in settings.get(group, {}).items()}
    return as_written(flat)
