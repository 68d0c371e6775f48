"""The record of a run: its settings, its final figures, its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lr_lightning.checkpoint import write_whole
from lr_lightning.data.tensors import TensorDataModule
from lr_lightning.metrics import HELD_OUT_NAMES
from lr_lightning.module import LogisticRegression
from lr_lightning.run_folder import RunFolder, RunLogger


class RunRecord(Callback):
    """Writes config.yaml, the settings as TensorBoard sees them, and the figures.

    Args:
        run: where it goes.
        config: the text of config.yaml.
        settings: the same, flat, for the HPARAMS tab.
    """

    def __init__(self, run: RunFolder, config: str, settings: Mapping[str, Any]):
        self.run = run
        self.config = config
        self.settings = settings

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings, once it is certain that they can be used."""
        if not trainer.is_global_zero:
            return
        write_whole(self.run.config, lambda path: path.write_text(self.config, encoding="utf-8"))
        if isinstance(trainer.logger, RunLogger):
            indented = "".join(f"    {line}\n" for line in self.config.splitlines())  # Markdown's code block
            trainer.logger.experiment.add_text("config", indented)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figures, and which scalars the HPARAMS tab is to show."""
        if not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, TensorDataModule) and isinstance(pl_module, LogisticRegression):
            self._draw(trainer, pl_module, data)
        if isinstance(trainer.logger, RunLogger):
            held_out = data.val_rows is not None or data.test_rows is not None if data else False
            metrics = ["train/loss"]
            if held_out:
                metrics += [f"{part}/{name}" for part in ("val", "test") for name in HELD_OUT_NAMES]
            trainer.logger.log_settings(self.settings, metrics)

    def _draw(self, trainer: Trainer, pl_module: LogisticRegression, data: TensorDataModule) -> None:
        predictor = pl_module.predictor()
        if predictor.curve is None:
            return
        x, y = data.points()
        figure = predictor.probability_curve(x, y)
        save_figure(figure, self.run.figures / "probability_curve.png")
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.experiment.add_figure("probability_curve", figure, trainer.current_epoch - 1)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=100))
