"""Held-out rows, batch by batch and process by process, until all of them are measured."""

from __future__ import annotations

from collections.abc import Sequence

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
        self._batches: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.one_class_told = self.error_told = False

    def add(self, logits: Tensor, y: Tensor, weight: Tensor | None) -> None:
        """Add rows: logits (n,), 0/1 targets (n,), weights (n,) or None, as all other batches."""
        self._batches.append((logits, y, weight))

    def take(self, processes: Processes) -> HeldOutRows:
        """The rows added since the last call, in all processes; the same in each."""
        columns, self._batches = list(zip(*self._batches, strict=True)), []
        return of_all_processes(*(_joined(column) for column in columns), processes)  # type: ignore[arg-type]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """A column of all batches; of a single batch the column itself, which needs no copy."""
    return parts[0] if parts[0] is None or len(parts) == 1 else torch.cat(parts)  # type: ignore[arg-type]
