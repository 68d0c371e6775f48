"""Held-out rows, batch by batch and process by process, until all of them are measured."""

from __future__ import annotations

import torch
from torch import Tensor

from lr_lightning.model.processes import Processes
from lr_lightning.statistics.held_out import HeldOutRows, of_all_processes


class HeldOutBatches:
    """Collects what is known of held-out rows, batch by batch.

    They are measured all at once, so that the metrics depend neither on the batches nor on the processes.

    Attributes:
        one_class_told: whether a message has said that some measures do not exist.
        error_told: whether a message has said that some measures are not exact.
    """

    def __init__(self) -> None:
        self._batches: list[Tensor] = []
        self.one_class_told = self.error_told = False

    def add(self, logits: Tensor, y: Tensor, weight: Tensor | None) -> None:
        """Add rows: logits (n,), 0/1 targets (n,), weights (n,) or None."""
        columns = (logits, y, torch.ones_like(logits) if weight is None else weight)
        self._batches.append(torch.stack([column.double() for column in columns], dim=1))

    def take(self, processes: Processes) -> HeldOutRows:
        """The rows added since the last call, in all processes; the same in each."""
        rows, self._batches = torch.cat(self._batches), []
        return of_all_processes(rows[:, 0], rows[:, 1], rows[:, 2], processes)
