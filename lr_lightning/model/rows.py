"""Rows in memory, and their sample weights: what counts is what one weighs beside another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lr_lightning.model.design import Design, as_design
from lr_lightning.model.losses import has_shares
from lr_lightning.model.processes import ALONE, Processes

OTHER_SPLIT = "choose another data.seed, or other data.val_fraction and data.test_fraction"
_LEAST = math.ulp(0.0)  # stands for any positive weight that float64 cannot hold beside the heaviest
_EXACT = 2.0**53  # whole numbers up to here are exact, and far from the limits of float32


class Rows(NamedTuple):
    """Rows in memory, on one device; passed whole.

    Attributes:
        x: features (n, d): a tensor, or another storage of `lr_lightning.model.design`.
        y: targets, (n,): 0 or 1, or the share of successes among a row's trials.
        weight: of the rows, (n,), not negative, or None for ones.
        offset: log-odds that are added to the logits, (n,), or None.
    """

    x: Tensor | Design
    y: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None

    @classmethod
    def of_batch(cls, batch: Sequence[Tensor]) -> Rows:
        """Rows of a batch `(x, y)`, `(x, y, weight)` or `(x, y, weight, offset)`."""
        return cls(*batch)

    def as_batch(self) -> tuple[Any, ...]:
        """`(x, y)`, `(x, y, weight)` or `(x, y, weight, offset)`, whichever holds all that there is."""
        if self.offset is not None:
            weight = torch.ones_like(self.y) if self.weight is None else self.weight
            return self.x, self.y, weight, self.offset
        return (self.x, self.y) if self.weight is None else (self.x, self.y, self.weight)

    @property
    def design(self) -> Design:
        """The features, to multiply by."""
        return as_design(self.x)

    @property
    def total_weight(self) -> Tensor | float:
        """Σ v, summed in float64."""
        return float(len(self.y)) if self.weight is None else self.weight.sum(dtype=torch.float64)

    def logits(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The linear predictor, offset + x @ weight + bias, float64, (n,), on the device of the rows.

        Args:
            weight: coefficients (d,) of the features.
            bias: ().
        """
        bias = bias.double()
        shift = bias if self.offset is None else bias.to(self.offset.device) + self.offset.double()
        return self.design.matvec(weight.double(), shift)

    def take(self, index: Tensor | slice) -> Rows:
        """The rows at `index`, in its order."""
        x = self.x[index] if isinstance(self.x, Tensor) else self.x.take(index)
        y, weight, offset = (None if t is None else t[index] for t in self[1:])
        return Rows(x, y, weight, offset)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Rows:
        """The same rows on `device`."""
        return Rows(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]

    def weighted(self, of_class: tuple[float, float]) -> Rows:
        """With weights v: sample weight times class weight, of the negative and the positive class."""
        if of_class == (1.0, 1.0):
            return self
        if has_shares(self.y):
            positive, negative = of_class[1] * self.y, of_class[0] * (1 - self.y)
            v = positive + negative
            y = torch.where(v > 0, positive / v, self.y)
            return self._replace(y=y, weight=v if self.weight is None else v * self.weight)
        # A Python number by itself would be one of float32.
        dtype = self.y.dtype if self.y.is_floating_point() else torch.float64
        v = torch.tensor(of_class, dtype=dtype, device=self.y.device)[(self.y > 0).long()]
        return self._replace(weight=v if self.weight is None else v * self.weight)

    def by_outcome(self) -> Rows:
        """Rows of the same losses with targets 0 and 1 alone: a row of both outcomes becomes one of either."""
        if not has_shares(self.y):
            return self
        mixed = ((self.y > 0) & (self.y < 1)).nonzero()[:, 0]
        v = torch.ones_like(self.y) if self.weight is None else self.weight
        positive = v[mixed] * self.y[mixed].to(v.dtype)
        weight, y = v.clone(), self.y.clone()
        weight[mixed] -= positive
        y[mixed] = 0
        rows = self.take(torch.cat([torch.arange(len(y), device=y.device), mixed]))
        return rows._replace(y=torch.cat([y, torch.ones_like(y[mixed])]), weight=torch.cat([weight, positive]))


class Counts(NamedTuple):
    """Successes among trials as rows have them; each (n,), float64.

    Attributes:
        y: the share of successes, 0 of no trials.
        weight: sample weight times trials.
        log_coefficient: sample weight times log C(trials, successes), which no coefficient changes.
    """

    y: Tensor
    weight: Tensor
    log_coefficient: Tensor

    @classmethod
    def of(cls, successes: Tensor, trials: Tensor, weight: Tensor | None) -> Counts:
        """From whole numbers, successes ≤ trials, and sample weights, each (n,)."""
        k, m = successes.double(), trials.double()
        w = torch.ones_like(m) if weight is None else weight.double()
        log_coefficient = torch.lgamma(m + 1) - torch.lgamma(k + 1) - torch.lgamma(m - k + 1)
        return cls(k / m.clamp(min=1), w * m, w * log_coefficient)


def scaled_weights(weight: Tensor, largest: float | None = None) -> tuple[Tensor, float]:
    """Weights whose sums and products stay within the range of float32, and the number that they were divided by.

    It is a power of two, so that no digit changes, and 1 unless the largest weight is far from 1.

    Args:
        weight: (n,), finite and not negative.
        largest: the largest of them, where there are others besides; None looks.

    Returns:
        weight / scale, float64 where it had to be divided, and the scale.
    """
    if largest is None:
        largest = float(weight.max()) if len(weight) else 0.0
    if largest == 0 or 1 / _EXACT <= largest <= _EXACT:
        return weight, 1.0
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    scaled = weight.double() / scale
    return torch.where(weight > 0, scaled.clamp(min=_LEAST), scaled), scale


def of_light_weights(weight: Tensor, dtype: torch.dtype, processes: Processes = ALONE) -> str | None:
    """A message about weights that a dtype holds as 0 or with fewer digits than the others; None without any."""
    (n,) = processes.sums(int(((weight > 0) & (weight < torch.finfo(dtype).tiny)).sum()))
    if not n:
        return None
    rows, digits = ("1 row weighs", "its weight") if n == 1 else (f"{n} rows weigh", "their weights")
    closer = "" if dtype == torch.float64 else "; --trainer.precision 64-true holds more"
    held = f"{str(dtype).removeprefix('torch.')} holds {digits} with few digits or as 0"
    return f"{rows} so little beside the heaviest that {held}{closer}"
