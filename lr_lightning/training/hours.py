"""The tutorial's data: three students, their hours of study, and who passed."""

from __future__ import annotations

from typing import Any

from lr_lightning.data.schema import TableSchema
from lr_lightning.training.tensors import TensorDataModule


class HoursDataModule(TensorDataModule):
    """Serves the three students of the tutorial as one batch.

    One feature, `hours` (1, 2 and 3 hours of study), and the target `pass` (no, no, yes). The experiment's
    own prediction input is a student of 4 hours.

    Example:
        >>> from lr_lightning import HoursDataModule
        >>> data = HoursDataModule()
        >>> data.setup("fit")
        >>> data.train_rows.x.tolist(), data.train_rows.y.tolist()
        ([[1.0], [2.0], [3.0]], [0.0, 0.0, 1.0])
        >>> data.prediction_input
        [[4.0]]
    """

    prediction_input = [[4.0]]  # noqa: RUF012 (as in the base class, where it may also be set on an instance)

    def __init__(self) -> None:
        super().__init__([[1.0], [2.0], [3.0]], [0.0, 0.0, 1.0], feature_names=["hours"])
        self.schema = TableSchema.of_numbers(["hours"], target="pass")
        self.save_hyperparameters()

    def curve(self) -> dict[str, Any]:
        """The axes of the tutorial's picture."""
        return {"low": 0.0, "high": 10.0, "x_label": "Hours", "y_label": "Probability of Pass"}
