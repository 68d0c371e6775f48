"""The two checkpoints of a run."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lr_lightning.checkpoint import write_whole

SECONDS_BETWEEN_SAVES = 5.0  # saving after each epoch would cost more than the epoch


class RunCheckpoints(Checkpoint):
    """Writes `last.ckpt` (at the end, and every few seconds) and `best.ckpt` (the lowest val/loss).

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path):
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.best_epoch: int | None = None
        self.best_loss = float("inf")
        self._saved_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where the validation loss has never been lower."""
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or loss is None:
            return
        if not float(loss) < self.best_loss:
            return
        self.best_loss, self.best_epoch = float(loss), trainer.current_epoch
        _save(trainer, self.best)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what a killed process would lose."""
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        _save(trainer, self.last)
        self._saved_at = time.monotonic()


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint in the first process; the others go on, since each has its own clock.

    `Trainer.save_checkpoint` would make all of them meet, and one that is not yet due would not come.
    """
    if trainer.is_global_zero:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        write_whole(path, lambda temporary: trainer.strategy.save_checkpoint(checkpoint, temporary))
