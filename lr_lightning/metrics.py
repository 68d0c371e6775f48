"""How well probabilities fit held-out rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MeanSquaredError
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryCalibrationError,
    BinaryF1Score,
)

HELD_OUT_NAMES = ("loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error")


class HeldOutMetrics(nn.Module):
    """Loss, discrimination and calibration of predicted probabilities, accumulated over batches.

    The loss weighs rows by their sample weights; the others count every row once.

    Args:
        threshold: a probability above it is a positive prediction.
    """

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.loss = MeanMetric().set_dtype(torch.float64)
        self.of_probabilities = nn.ModuleDict(
            {
                "accuracy": BinaryAccuracy(threshold),
                "auroc": BinaryAUROC(),
                "average_precision": BinaryAveragePrecision(),
                "f1": BinaryF1Score(threshold),
                "brier": MeanSquaredError(),
                "calibration_error": BinaryCalibrationError(n_bins=15),
            }
        )
        self.positives = MeanMetric()

    def update(self, logits: Tensor, y: Tensor, weight: Tensor | None) -> None:
        """Add rows: logits (n,), 0/1 targets (n,), weights (n,) or None."""
        losses = nn.functional.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none")
        self.loss.update(losses, 1.0 if weight is None else weight)
        self.positives.update(y)
        probabilities = torch.sigmoid(logits)
        for name, metric in self.of_probabilities.items():
            metric.update(probabilities, y if name == "brier" else y.long())  # type: ignore[operator]

    def compute(self) -> dict[str, float]:
        """Value by name; ranking metrics are left out where the rows hold one class only."""
        one_class = float(self.positives.compute()) in (0.0, 1.0)
        undefined = {"auroc", "average_precision", "f1"} if one_class else set()
        values = {"loss": float(self.loss.compute())}
        for name, metric in self.of_probabilities.items():
            if name not in undefined:
                values[name] = float(metric.compute())  # type: ignore[operator]
        return values

    def reset(self) -> None:
        """Forget all rows."""
        for metric in (self.loss, self.positives, *self.of_probabilities.values()):
            metric.reset()  # type: ignore[operator]
