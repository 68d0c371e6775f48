"""The class paths in checkpoints and configuration files of earlier versions."""

from __future__ import annotations

_PUBLIC = {
    "lr_lightning.data.hours.HoursDataModule": "lr_lightning.HoursDataModule",
    "lr_lightning.data.table.TableDataModule": "lr_lightning.TableDataModule",
    "lr_lightning.data.tensors.TensorDataModule": "lr_lightning.TensorDataModule",
    "lr_lightning.module.LogisticRegression": "lr_lightning.LogisticRegression",
    "lr_lightning.solver.subsampled_newton.SubsampledNewton": "lr_lightning.solver.SubsampledNewton",
}


def public_path(class_path: str) -> str:
    """The public path of a class whose former path is `class_path`; any other path unchanged."""
    return _PUBLIC.get(class_path, class_path)
