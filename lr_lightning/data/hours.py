"""The tutorial's data: three students, their hours of study, and who passed."""

from __future__ import annotations

from lr_lightning.data.tensors import TensorDataModule


class HoursDataModule(TensorDataModule):
    """Serves the three students of the tutorial as one batch.

    One feature, `hours` (1, 2 and 3 hours of study), and the target `pass` (no, no, yes). The experiment's
    own prediction input is a student of 4 hours.
    """

    def __init__(self) -> None:
        super().__init__([[1.0], [2.0], [3.0]], [0.0, 0.0, 1.0], feature_names=["hours"])
        self.save_hyperparameters()
