"""What a module has to do before all callbacks, and at the end of a run, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_ABSENT = object()


class Housekeeping(Callback):
    """Rides on the Trainer during one run, first in line; Lightning tells a module neither of an error nor so early.

    Settings of the Trainer and of the data module that a run needs are borrowed: they are given back when it ends,
    be it by an error, and so is the place among the callbacks.

    Args:
        trainer: that is about to run.
        end_of_epoch: called at the end of each epoch of a fit, before any callback is.
        end_of_fit: likewise.
    """

    def __init__(self, trainer: Trainer, end_of_epoch: Callable[[], object], end_of_fit: Callable[[], object]):
        self._borrowed: list[tuple[object, str, Any]] = []
        self._end_of_epoch, self._end_of_fit = end_of_epoch, end_of_fit
        trainer.callbacks = [self, *trainer.callbacks]  # pyright: ignore[reportAttributeAccessIssue]

    def borrow(self, owner: object, name: str, value: object) -> None:
        """Set an attribute for the time of the run."""
        self._borrowed.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the module."""
        self._end_of_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the module."""
        self._end_of_fit()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give everything back."""
        self._give_back(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give everything back."""
        self._give_back(trainer)

    def _give_back(self, trainer: Trainer) -> None:
        while self._borrowed:
            owner, name, value = self._borrowed.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
        # A new list: Lightning is going through the old one.
        others = [callback for callback in trainer.callbacks if callback is not self]  # pyright: ignore[reportAttributeAccessIssue]
        trainer.callbacks = others  # pyright: ignore[reportAttributeAccessIssue]
