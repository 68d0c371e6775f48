"""The penalties on the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Penalty:
    """l1·‖w‖₁ + (l2/2)·‖w‖², per coordinate: the strengths are tensors of shape (d,), float64.

    A penalty on the raw weights w_j = u_j / scale_j is one of strength l1/scale_j and l2/scale_j² on the
    standardised weights u_j.
    """

    l1: Tensor
    l2: Tensor

    @classmethod
    def on(cls, scale: Tensor, *, l1: float, l2: float, standardize: bool, factors: Tensor) -> Penalty:
        """A penalty of strengths l1 and l2 times the factors (d,).

        They are on the standardised weights, or on the raw ones where `standardize` is False.
        """
        unit = torch.ones_like(scale) if standardize else 1 / scale
        factors = factors.to(unit)
        return cls(l1 * factors * unit, l2 * factors * unit.square())

    def smooth(self, weight: Tensor) -> Tensor:
        """The L2 part at weight (d,)."""
        return 0.5 * (self.l2 * weight.square()).sum()

    def total(self, weight: Tensor) -> Tensor:
        """L1 and L2 at weight (d,)."""
        return (self.l1 * weight.abs()).sum() + self.smooth(weight)
