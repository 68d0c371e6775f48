"""The run folder: runs/<experiment>/version_N/ and how TensorBoard writes into it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams as hparams_summaries
from torch.utils.tensorboard.writer import SummaryWriter

ROOT = Path("runs")


class RunFolder:
    """Paths of one run.

    Args:
        path: runs/<experiment>/version_N.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"

    @classmethod
    def next_version(cls, experiment: str) -> RunFolder:
        """The folder that a new run will have; nothing is created yet."""
        taken = [
            int(match[1])
            for folder in (ROOT / experiment).glob("version_*")
            if (match := re.fullmatch(r"version_(\d+)", folder.name))
        ]
        return cls(ROOT / experiment / f"version_{max(taken, default=-1) + 1}")

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

    def remove_unless_resumable(self) -> None:
        """Remove a run that has no checkpoint to go on from: it is a half-written one."""
        if self.checkpoints.exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in (self.path.parent, ROOT):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    def logger(self) -> RunLogger:
        """A TensorBoard logger that writes into this folder."""
        return RunLogger(self.path.parent.parent, name=self.path.parent.name, version=self.path.name)


class RunLogger(TensorBoardLogger):
    """TensorBoard events straight in the run folder: no hp_metric, and no hparams.yaml beside config.yaml."""

    def __init__(self, save_dir: Path, *, name: str, version: str):
        super().__init__(save_dir, name=name, version=version, default_hp_metric=False)

    def save(self) -> None:
        """Bring the events to disk."""
        self.experiment.flush()

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
