"""The end of an epoch: what it adds up to, whether that is finite, whether to stop, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lr_lightning.errors import InputError


class EpochSums:
    """Rows, weights, losses and penalties summed over the batches of an epoch, in float64.

    Args:
        over_processes: sums a tensor over all processes.
    """

    def __init__(self, over_processes: Callable[[Tensor], Tensor]) -> None:
        self._over_processes = over_processes
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._totals: Tensor | None = None

    def add(self, batch_idx: int, n_rows: int, loss: Tensor, weight_sum: Tensor | float, penalty: Tensor) -> None:
        """Add a batch: its rows, its summed loss and its Σv, and the penalty at the weights that it met."""
        if batch_idx == 0:  # also at each further evaluation of a full-batch closure
            self._sums = torch.zeros(4, dtype=torch.float64, device=loss.device)
        self._sums[0] += loss
        self._sums[1] += weight_sum
        self._sums[2] += weight_sum * penalty
        self._sums[3] += n_rows
        self._totals = None

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean loss and mean penalty over the rows of all processes."""
        totals = self._of_all_processes()
        return totals[0] / totals[1], totals[2] / totals[1]

    def rows(self) -> tuple[int, float]:
        """Number of rows that all processes have met, and their Σv."""
        totals = self._of_all_processes()
        return int(totals[3]), float(totals[1])

    def _of_all_processes(self) -> Tensor:
        """The sums; the processes meet here once for each."""
        if self._totals is None:
            self._totals = self._over_processes(self._sums)
        return self._totals


class LineSearchEnd:
    """Whether an optimizer that searches along lines, such as L-BFGS, has reached the optimum.

    Attributes:
        objective: where the last step has led, infinity before the first.
    """

    def __init__(self) -> None:
        self.objective = math.inf

    def check(self, objective: float, gradient: float, resolution: float) -> tuple[bool, bool]:
        """Whether to stop and whether it has converged, after a step.

        Args:
            objective: where the step has led.
            gradient: the largest entry there of the gradient of the mean objective.
            resolution: what counts as zero of it.
        """
        stalled = abs(objective - self.objective) <= 1e-15 * abs(objective)
        self.objective = objective
        return stalled or gradient <= resolution, gradient <= 1000 * resolution


def refuse_divergence(epoch: int, *values: Tensor) -> None:
    """Raise InputError unless every value is finite."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise InputError(
            f"the loss is no longer finite in epoch {epoch}; lower the learning rate "
            "(optimizer.lr) or use standardized features (model.standardize)"
        )


def log_epoch(module: LightningModule, values: dict[str, float], epoch: int) -> None:
    """Hand values, the same in all processes, to callbacks as Lightning does, and to the loggers as of `epoch`."""
    module.log_dict(_as_tensors(values), **_OF_AN_EPOCH, logger=False)
    for logger in module.loggers:
        logger.log_metrics(values, step=epoch)


def log_measurement(module: LightningModule, values: dict[str, float], epoch: int) -> None:
    """Log metrics of validation or testing outside of a fit; Lightning returns them, with the epoch as `step`."""
    module.log_dict(_as_tensors({**values, "step": epoch}), **_OF_AN_EPOCH)


_OF_AN_EPOCH: dict[str, Any] = {
    "on_step": False,
    "on_epoch": True,
    "batch_size": 1,
    # These two together keep Lightning from asking for a reduction over the processes, and from making one.
    "sync_dist": True,
    "rank_zero_only": True,
}


def _as_tensors(values: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
