"""The run folder: runs/<experiment>/version_N/ and how TensorBoard writes into it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard.summary import hparams as hparams_summaries
from torch.utils.tensorboard.writer import SummaryWriter

from lr_lightning.errors import InputError
from lr_lightning.files import remove_temporary, write_whole
from lr_lightning.training.processes import is_first_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path("runs")


class RunFolder:
    """Paths of one run.

    Args:
        path: runs/<experiment>/version_N.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.report = path / "report.json"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.figures = path / "figures"
        self._lock: int | None = None
        self._events_before = self._events()

    @classmethod
    def next_version(cls, experiment: str) -> RunFolder:
        """A new run's folder; it is made at once, so that no other fit takes the same number.

        Raises:
            InputError: if no folder can be made, or Lightning could not write into one of this name.
        """
        if "::" in experiment:  # by which fsspec, with which Lightning opens files, separates a chain of addresses
            raise InputError(f"option data.path: no run folder can be called {experiment}; rename the data, without ::")
        version = 1 + next((number for number, _ in _versions(experiment)), -1)
        while True:
            run = cls(ROOT / experiment / f"version_{version}")
            if not is_first_process():
                return run
            _make_folder(run.path.parent)
            try:
                run.path.mkdir()
            except FileExistsError:
                version += 1
            except FileNotFoundError:
                continue  # another fit has just removed the empty folder of its own
            else:
                run.occupy()
                return run

    @classmethod
    def versions(cls, experiment: str) -> Iterator[RunFolder]:
        """The runs of an experiment, the newest first."""
        for _, path in _versions(experiment):
            yield cls(path)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run that a checkpoint belongs to; None where it lies elsewhere."""
        run = cls(checkpoint.absolute().parent.parent)
        return run if run.config.exists() and checkpoint.absolute().parent == run.checkpoints else None

    @classmethod
    def of_config(cls, config: Path) -> RunFolder | None:
        """The run whose settings a file holds; None where it is none of ours."""
        run = cls(config.absolute().parent)
        return run if config.name == run.config.name and re.fullmatch(r"version_\d+", run.path.name) else None

    def occupy(self) -> None:
        """Keep other fits out of this folder until this process ends, however it ends.

        Raises:
            InputError: if one is at work there.
        """
        if fcntl is None or not is_first_process():
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise InputError(f"option resume: another process is still fitting in {self.path}") from error
        except OSError:  # a file system without locks
            self.release()

    def _events(self) -> set[Path]:
        return set(self.path.glob("events.out.tfevents.*"))

    def release(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def clear_temporary(self) -> None:
        """Remove half-written files of a killed process."""
        if is_first_process():
            remove_temporary(self.path)

    def write_report(self, text: str) -> None:
        """Write report.json."""
        write_whole(self.report, lambda path: path.write_text(text + "\n", encoding="utf-8"))

    def remove_unless_resumable(self, *, began: bool = True) -> None:
        """Remove a run that has no checkpoint to go on from, or what a fit has added before it `began`."""
        if not is_first_process():
            return
        if not began:
            for path in self._events() - self._events_before:
                path.unlink(missing_ok=True)
        if self.last.exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is another run in it, or there has just come one
            self.path.parent.rmdir()

    def logger(self, first_epoch: int | None = None) -> RunLogger:
        """A TensorBoard logger that writes into this folder.

        Args:
            first_epoch: of a resumed fit; what was written of this epoch and later ones before no longer counts.
        """
        version = {"name": self.path.parent.name, "version": self.path.name}
        return RunLogger(self.path.parent.parent, **version, purge_step=first_epoch)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it where they are not there.

    Raises:
        InputError: if one of them is something else, such as a link to nowhere.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        wrong = next(
            (each for each in (*reversed(path.parents), path) if os.path.lexists(each) and not each.is_dir()), path
        )
        what = f"a link to {os.readlink(wrong)}, where no folder is" if wrong.is_symlink() else "not a folder"
        raise InputError(f"{wrong} is {what}: no run folder can be made in it; move it away") from None


def _versions(experiment: str) -> list[tuple[int, Path]]:
    """Number and folder of each version, the newest first."""
    folders = (ROOT / experiment).glob("version_*")
    matches = ((re.fullmatch(r"version_(\d+)", folder.name), folder) for folder in folders)
    return sorted(((int(match[1]), folder) for match, folder in matches if match), reverse=True)


class RunLogger(TensorBoardLogger):
    """TensorBoard events straight in the run folder: no hp_metric, and no hparams.yaml beside config.yaml."""

    def __init__(self, save_dir: Path, *, name: str, version: str, purge_step: int | None = None):
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False, purge_step=purge_step)
        threading.excepthook = _leave_disk_errors_to_the_caller

    def save(self) -> None:
        """Bring the events to disk."""
        self.experiment.flush()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars; a full disk is an `OSError`, which the base class takes for a wrong value."""
        try:
            super().log_metrics(metrics, step)
        except ValueError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None

    def finalize(self, status: str) -> None:
        """Close the file. After a failure the failure is what counts, not what it left unwritten."""
        with contextlib.suppress(*([OSError] if status == "failed" else [])):
            super().finalize(status)

    def log_settings(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Fill the HPARAMS tab.

        Args:
            settings: name to plain value.
            metrics: names of scalars; the tab shows the last value of each.
        """
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in settings.items()
            if value is not None
        }
        for summary in hparams_summaries(plain, dict.fromkeys(metrics, 0.0)):
            cast(SummaryWriter, self.experiment)._get_file_writer().add_summary(summary)

    def log_png(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Write an image of `size`, (width, height) in pixels, with red, green, blue and opacity."""
        image = Summary.Image(width=size[0], height=size[1], colorspace=4, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        cast(SummaryWriter, self.experiment)._get_file_writer().add_summary(summary, step)


def _leave_disk_errors_to_the_caller(error: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer is a thread, whose error is raised anew in the thread that gives it the next event."""
    if not (isinstance(error.exc_value, OSError) and isinstance(error.thread, _AsyncWriterThread)):
        threading.__excepthook__(error)
