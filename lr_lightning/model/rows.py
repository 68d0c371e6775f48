"""Rows in memory, and their sample weights: what counts is what one weighs beside another."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

OTHER_SPLIT = "choose another data.seed, or other data.val_fraction and data.test_fraction"
_LEAST = math.ulp(0.0)  # stands for any positive weight that float64 cannot hold beside the heaviest
_EXACT = 2.0**53  # whole numbers up to here are exact, and far from the limits of float32


class Rows(NamedTuple):
    """Features (n, d), 0/1 targets (n,) and sample weights (n,) or None."""

    x: Tensor
    y: Tensor
    weight: Tensor | None

    def take(self, index: Tensor | slice) -> Rows:
        """The rows at `index`, in its order."""
        return Rows(self.x[index], self.y[index], None if self.weight is None else self.weight[index])

    def as_batch(self) -> tuple[Tensor, ...]:
        """`(x, y)` or `(x, y, weight)`."""
        return (self.x, self.y) if self.weight is None else (self.x, self.y, self.weight)

    def to(self, device: torch.device) -> Rows:
        """The same rows on `device`."""
        return Rows(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]


def scaled_weights(weight: Tensor) -> tuple[Tensor, float]:
    """Weights whose sums and products stay within the range of float32, and the number that they were divided by.

    It is a power of two, so that no digit changes, and 1 unless the largest weight is far from 1.

    Args:
        weight: (n,), finite and not negative.

    Returns:
        weight / scale, float64 where it had to be divided, and the scale.
    """
    largest = float(weight.max()) if len(weight) else 0.0
    if largest == 0 or 1 / _EXACT <= largest <= _EXACT:
        return weight, 1.0
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    scaled = weight.double() / scale
    return torch.where(weight > 0, scaled.clamp(min=_LEAST), scaled), scale


def of_light_weights(weight: Tensor, dtype: torch.dtype) -> str | None:
    """A message about weights that a dtype holds as 0 or with fewer digits than the others; None without any."""
    n = int(((weight > 0) & (weight < torch.finfo(dtype).tiny)).sum())
    if not n:
        return None
    rows, digits = ("1 row weighs", "its weight") if n == 1 else (f"{n} rows weigh", "their weights")
    closer = "" if dtype == torch.float64 else "; --trainer.precision 64-true holds more"
    held = f"{str(dtype).removeprefix('torch.')} holds {digits} with few digits or as 0"
    return f"{rows} so little beside the heaviest that {held}{closer}"
