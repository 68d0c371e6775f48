"""The processes of a Trainer, for the sums over their rows."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import distributed

from lr_lightning.model.processes import ALONE, Processes, SeveralProcesses


def processes_of(trainer: Trainer | None) -> Processes:
    """The processes of a Trainer that have met; this one alone before, and without a Trainer."""
    if trainer is None or not distributed.is_initialized() or trainer.world_size == 1:
        return ALONE
    return SeveralProcesses(trainer.strategy.root_device, trainer.num_devices)
