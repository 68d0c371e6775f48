"""One progress bar for a whole fit, whose unit is the epoch."""

from __future__ import annotations

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from lr_lightning.solver.regularization_path import PathStep

LINES_WITHOUT_TERMINAL = 10
COLUMNS_OF_A_TERMINAL = 80  # below it the times would take the place of the numbers
SECONDS_WITHOUT_WORDS = 1.0  # what takes less is not worth a line


class FitProgress(Callback):
    """Shows epochs and the loss on stderr: a bar on a terminal, about ten plain lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an empty bar."""
        self._bar = _bar("epoch", "train/loss {task.fields[loss]}") if trainer.is_global_zero else None
        if self._bar is None:
            return
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self._task = self._bar.add_task("fit", total=total, completed=trainer.current_epoch, loss="")
        self._bar.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move on by one epoch."""
        loss, done = float(trainer.callback_metrics["train/loss"]), trainer.current_epoch + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=done, loss=f"{loss:.6g}")
        elif trainer.is_global_zero and done % _epochs_a_line(trainer.max_epochs, done) == 0:
            print(f"epoch {trainer.current_epoch}: train/loss {loss:.6g}", file=sys.stderr)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it is, whole at the end of a fit that stopped by itself, before others write below it."""
        self._stop(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if self._bar is not None:
            if trainer.should_stop:
                self._bar.update(self._task, total=self._bar.tasks[0].completed)
            self._bar.stop()
            self._bar = None


class ProfileProgress:
    """Shows on stderr how many searches along profile likelihoods are done: about ten lines where it takes long."""

    def __init__(self) -> None:
        self._began, self._shown = 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """Say how many of all searches are done, unless that was said a short while ago."""
        self._began = self._began or time.monotonic()
        tenth = LINES_WITHOUT_TERMINAL * done // max(1, total)
        if time.monotonic() - self._began > SECONDS_WITHOUT_WORDS and tenth > self._shown:
            self._shown = tenth
            print(f"profile likelihood: {done} of {total} searches", file=sys.stderr)


class PathProgress:
    """Shows penalties on stderr: a bar on a terminal, about ten plain lines elsewhere. A context."""

    def __enter__(self) -> PathProgress:
        self._bar = _bar("penalty", "{task.fields[values]}")
        if self._bar is not None:
            self._task = self._bar.add_task("path", total=None, values="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: PathStep) -> None:
        """Move on to a penalty."""
        values = f"{step.nonzero} non-zero, loss {step.loss:.6g}"
        if self._bar is not None:
            self._bar.update(self._task, total=step.total, completed=step.done, values=values)
        elif step.done % _epochs_a_line(step.total, step.done) == 0:
            print(f"penalty {step.done}/{step.total}: lambda {step.value:.4g}, {values}", file=sys.stderr)


def _bar(unit: str, values: str) -> Progress | None:
    """A bar on stderr; None where that is no terminal."""
    console = Console(stderr=True)
    # rich's own answer follows variables such as FORCE_COLOR too, which colour a file but cannot move its cursor.
    if not console.is_interactive or not sys.stderr.isatty():
        return None
    times = (TimeElapsedColumn(), TimeRemainingColumn()) if console.width >= COLUMNS_OF_A_TERMINAL else ()
    return Progress(_Count(unit), BarColumn(), TextColumn(values), *times, console=console)


class _Count(ProgressColumn):
    """How many are done, and of how many where that is known."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Such as `epoch 3/100`."""
        return Text(f"{self._unit} {task.completed}{'' if task.total is None else f'/{task.total}'}")


def _epochs_a_line(max_epochs: int | None, done: int) -> int:
    """Number of epochs for each line; without a limit of epochs, nine lines for each power of ten."""
    if max_epochs is None or max_epochs < 0:
        return 10 ** (len(str(done)) - 1)
    return max(1, max_epochs // LINES_WITHOUT_TERMINAL)
