"""Held-out rows, batch by batch and process by process, until all of them are measured."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


class HeldOutRows:
    """Collects what is known of held-out rows, batch by batch.

    They are measured all at once, so that the metrics depend neither on the batches nor on the processes.

    Attributes:
        one_class_told: whether a message has said that some measures do not exist.
    """

    def __init__(self) -> None:
        self._batches: list[Tensor] = []
        self.one_class_told = False

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
