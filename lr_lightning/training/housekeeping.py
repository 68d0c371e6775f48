"""The hooks of a run that Lightning gives to callbacks only, for the module that runs."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

SETTINGS = ("accumulate_grad_batches", "limit_val_batches")
"""Settings of the Trainer that the module may change for one run."""


class Housekeeping(Callback):
    """Before all callbacks at the end of an epoch and of a fit, and at the end of a run, however it ends.

    A module's own hooks come after the callbacks', and none is told of an error. What `configure_callbacks` returns
    is called after the Trainer's own callbacks and stays with the Trainer. This one is the first of them during one
    run; then it leaves, and gives the Trainer's `SETTINGS` their values back.

    Args:
        trainer: that is about to run.
        end_of_epoch: called at the end of each epoch of a fit, before any callback is.
        end_of_fit: likewise.
    """

    def __init__(self, trainer: Trainer, end_of_epoch: Callable[[], object], end_of_fit: Callable[[], object]):
        self._end_of_epoch, self._end_of_fit = end_of_epoch, end_of_fit
        self._settings = {name: getattr(trainer, name) for name in SETTINGS}
        trainer.callbacks = [self, *trainer.callbacks]  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the module."""
        self._end_of_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the module."""
        self._end_of_fit()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the Trainer as it was."""
        self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the Trainer as it was."""
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        for name, value in self._settings.items():
            setattr(trainer, name, value)
        # A new list: Lightning is going through the old one.
        others = [callback for callback in trainer.callbacks if callback is not self]  # pyright: ignore[reportAttributeAccessIssue]
        trainer.callbacks = others  # pyright: ignore[reportAttributeAccessIssue]
