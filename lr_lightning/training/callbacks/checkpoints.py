"""The two checkpoints of a run."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lr_lightning.training.callbacks.signals import StopOnSignal

SECONDS_BETWEEN_SAVES = 5.0  # saving after each epoch would cost more than the epoch


class RunCheckpoints(Checkpoint):
    """Writes `last.ckpt` (at the end, on a signal, and every few seconds) and `best.ckpt` (the lowest val/loss).

    All of them hold the state between two epochs, so that a resumed fit makes the same steps as an uninterrupted
    one. A signal in the middle of an epoch therefore goes back to the epoch's beginning.

    Args:
        folder: where they go.
        signals: says whether to stop.

    Attributes:
        finished: whether the fit has come to its end, so that there is nothing to resume.
    """

    def __init__(self, folder: Path, signals: StopOnSignal):
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.best_epoch: int | None = None
        self.best_loss = math.inf
        self._signals = signals
        self.finished = False
        self._saved_at = 0.0
        self._keeps_beginning = False
        self._beginning: dict[str, Any] | None = None  # the checkpoint of the epoch's beginning

    def state_dict(self) -> dict[str, Any]:
        """The state for a resumed fit; `finished` tells whether there is anything to resume."""
        return {"finished": self.finished, "best_epoch": self.best_epoch, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best so far, unless it lies in the folder of another run."""
        if self.best.exists():
            self.best_epoch, self.best_loss = state_dict["best_epoch"], state_dict["best_loss"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()
        # An epoch of one batch is stopped at its end. Of several processes one may fail when another has stopped.
        self._keeps_beginning = trainer.num_training_batches > 1 or trainer.world_size > 1
        if self._keeps_beginning:
            self._beginning = deepcopy(_state(trainer))

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop in the middle of an epoch."""
        if self._keeps_beginning and not trainer.is_last_batch:
            self._signals.raise_if_received()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop in the middle of an epoch's validation."""
        if self._keeps_beginning and not trainer.sanity_checking:
            self._signals.raise_if_received()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where the validation loss has never been lower, and what a killed process would lose."""
        if trainer.enable_validation:
            loss = float(trainer.callback_metrics.get("val/loss", math.inf))
            if loss < self.best_loss:
                self.best_loss, self.best_epoch = loss, trainer.current_epoch
                _save(trainer, self.best, _state(trainer))
        if _is_last_epoch(trainer):
            return  # what is left to do is no epoch, and from here a fit could not go on
        if self._signals.received is not None:
            self._beginning = _state(trainer)
            self._signals.raise_if_received()
        if self._keeps_beginning:
            self._beginning = deepcopy(_state(trainer))
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        self.finished = True
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where a stopped fit can go on. Each process stops by itself, so nothing here waits for the others."""
        if self._signals.received is not None and self._beginning is not None:
            _save(trainer, self.last, self._beginning)

    def _save_last(self, trainer: Trainer) -> None:
        _save(trainer, self.last, _state(trainer))
        self._saved_at = time.monotonic()


def _state(trainer: Trainer) -> dict[str, Any]:
    """The checkpoint of this moment, the end of an epoch, as Lightning's loops are before the next one begins.

    Lightning saves them as they are inside of the epoch's last hooks, and goes astray in them on resuming a fit
    that is limited in steps.
    """
    state = trainer._checkpoint_connector.dump_checkpoint()
    loops = state["loops"]["fit_loop"]
    for progress in loops["epoch_progress"].values():
        progress["completed"] = progress["processed"]
    batches = loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    of_optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for progress in (batches, loops["epoch_loop.scheduler_progress"], *of_optimizer.values()):
        progress["current"] = dict.fromkeys(progress["current"], 0)
    return state


def _is_last_epoch(trainer: Trainer) -> bool:
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]
    if trainer.should_stop and epochs >= (loop.min_epochs or 0):
        return True
    return epochs == loop.max_epochs or trainer.global_step == trainer.max_steps


def _flush(trainer: Trainer) -> None:
    """Bring what was logged to disk: a checkpoint must not be ahead of it."""
    for logger in trainer.loggers:
        logger.save()


def _save(trainer: Trainer, path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, in the first process; the others need not wait."""
    if trainer.is_global_zero:
        _flush(trainer)
        trainer.strategy.save_checkpoint(state, path)
