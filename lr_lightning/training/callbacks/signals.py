"""Ending a fit on a signal, at a moment from which it can go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lr_lightning.errors import MISTAKE

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_OF_ONE_SIGNAL = 1.0  # a terminal and a launcher may both pass on the same one
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_OF_A_HANDLER = 0.5  # until Python runs it, unless the process is in a library


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

    Several processes wait for one another at the start, inside of a library that lets no handler run. A signal that
    comes then is answered by a thread.

    Attributes:
        received: the signal's number, or None.
        fit_began: whether the epochs have begun.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        self.fit_began = False
        self._waits = self._over = False
        self._trainer: Trainer | None = None
        self._previous: dict[int, Any] = {}
        self._wakeup: int | None = None
        self._wakeup_before = -1

    def __enter__(self) -> StopOnSignal:
        self._previous = self._take_over()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over = True
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._wakeup)

    def watch(self, trainer: Trainer, end_at_once: Callable[[int], object], end_alone: Callable[[], object]) -> None:
        """Pass signals on to the processes that this Trainer launches, and listen while it waits for others.

        Args:
            trainer: that is about to fit.
            end_at_once: ends this process on a signal of the number given, although its main thread waits.
            end_alone: likewise where a process that was launched has ended before it met the others.
        """
        self._trainer = trainer
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            threading.Thread(target=self._mind, args=(launcher, end_alone), daemon=True).start()
        if trainer.world_size > 1 and self._previous:
            listening, self._wakeup = os.pipe()
            os.set_blocking(self._wakeup, False)
            self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(listening, end_at_once), daemon=True).start()

    @property
    def of_several_processes(self) -> bool:
        """Whether the Trainer that is watched has more than one process."""
        return self._trainer is not None and self._trainer.world_size > 1

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
            self._pass_on(signum)
        elif now - self._received_at < SECONDS_OF_ONE_SIGNAL:
            return
        else:
            self._waits = False
        if not self._waits:
            raise Interrupted(signum)

    def _pass_on(self, signum: int) -> None:
        """Tell the processes that were launched; those that have met nobody yet have nothing to save."""
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signum if _have_met() else signal.SIGKILL)  # the name notwithstanding, it sends this signal
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.procs.clear()  # or Lightning would kill this process as well, where it ends after another

    def _mind(self, launcher: _SubprocessScriptLauncher, end_alone: Callable[[], object]) -> None:
        # Lightning looks every five seconds, and kills this process without a word.
        while self.received is None and not self._over and not _have_met():
            codes = [process.poll() for process in launcher.procs]
            if any(code not in (None, 0, MISTAKE) for code in codes):  # a mistake meets this process too
                time.sleep(2 * SECONDS_OF_A_HANDLER)  # a signal may have come to both, of which the other died first
                if self.received is None:
                    launcher.kill(signal.SIGKILL)
                    end_alone()
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _listen(self, pipe: int, end_at_once: Callable[[int], object]) -> None:
        with open(pipe, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                time.sleep(SECONDS_OF_A_HANDLER)
                if number[0] in SIGNALS and self.received is None and not _have_met():
                    self.received, self._received_at = number[0], time.monotonic()
                    self._pass_on(number[0])
                    end_at_once(number[0])


def _have_met() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
