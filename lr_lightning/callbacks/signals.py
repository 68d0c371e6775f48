"""Ending a fit on a signal, at a moment from which it can go on."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_OF_ONE_SIGNAL = 1.0  # a terminal and a launcher may both pass on the same one


class Interrupted(BaseException):
    """A signal asked for the end. Not an `Exception`, so that nobody takes it for a failure of their own.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopOnSignal(Callback):
    """A context that turns SIGINT and SIGTERM into `Interrupted`.

    It is raised at once while there is nothing to save; during the epochs only where `raise_if_received` is called,
    which `RunCheckpoints` does at the end of a batch. A second signal does not wait.

    Attributes:
        received: the signal's number, or None.
        fit_began: whether the epochs have begun.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self.fit_began = False
        self._waits = False
        self._trainer: Trainer | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        self._previous = self._take_over()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def watch(self, trainer: Trainer) -> None:
        """Pass signals on to the processes that this Trainer launches."""
        self._trainer = trainer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back, which Lightning has just taken, and wait for the ends of batches from now on."""
        self._take_over()
        self.fit_began = self._waits = True

    def raise_if_received(self) -> None:
        """Raise `Interrupted` where a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    def _take_over(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {signum: signal.signal(signum, self._receive) for signum in SIGNALS}

    def _receive(self, signum: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signum, now
            launcher = None if self._trainer is None else self._trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(signum)  # the name notwithstanding, it sends this signal
        elif now - self._received_at < SECONDS_OF_ONE_SIGNAL:
            return
        else:
            self._waits = False
        if not self._waits:
            raise Interrupted(signum)
