"""How well probabilities fit held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
    binary_f1_score,
)
from torchmetrics.utilities.distributed import gather_all_tensors

HELD_OUT_NAMES = ("loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error")


class HeldOutRows:
    """Collects what is known of held-out rows, batch by batch.

    They are measured all at once, so that the metrics depend neither on the batches nor on the processes.
    """

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    def add(self, logits: Tensor, y: Tensor, weight: Tensor | None) -> None:
        """Add rows: logits (n,), 0/1 targets (n,), weights (n,) or None."""
        columns = (logits, y, torch.ones_like(logits) if weight is None else weight)
        self._batches.append(torch.stack([column.double() for column in columns], dim=1))

    def take(self, *, of_all_processes: bool) -> Tensor:
        """Logit, target and weight of the rows added since the last call, float64, shape (n, 3).

        Those of all processes are in the order of the processes, the same in each.
        """
        rows, self._batches = torch.cat(self._batches), []
        return torch.cat(gather_all_tensors(rows)) if of_all_processes else rows


def held_out_metrics(rows: Tensor, threshold: float) -> dict[str, float]:
    """Loss, discrimination and calibration of predicted probabilities, by name, computed in float64.

    The loss weighs rows by their sample weights; the others count every row once. Ranking metrics are left out
    where the rows hold one class only.

    Args:
        rows: logit, target and weight, shape (n, 3).
        threshold: a probability above it is a positive prediction.
    """
    logits, y, weight = rows.unbind(1)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
    probability, target = torch.sigmoid(logits), y.long()
    with _float64_by_default():
        values = {
            "loss": (losses @ weight) / weight.sum(),
            "accuracy": ((probability > threshold) == target).double().mean(),  # torchmetrics' is float32
            "brier": mean_squared_error(probability, y),
            "calibration_error": binary_calibration_error(probability, target, n_bins=15),
        }
        if 0 < int(target.sum()) < len(target):
            values["auroc"] = binary_auroc(probability, target)
            values["average_precision"] = binary_average_precision(probability, target)
            values["f1"] = binary_f1_score(probability, target, threshold)
    return {name: float(values[name]) for name in HELD_OUT_NAMES if name in values}


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """Within, a count divided by a count, as torchmetrics does it, is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
