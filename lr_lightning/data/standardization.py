"""Means and standard deviations of features, streamed over blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 20  # a block of rows that stays in the second-level cache while it is read twice


class Standardization(NamedTuple):
    """The map x ↦ (x − mean) / scale, one entry a feature.

    Attributes:
        mean: float64 tensor, shape (d,).
        scale: float64 tensor, shape (d,), positive.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def identity(cls, n_features: int) -> Standardization:
        """Leaves `n_features` features as they are."""
        return cls(
            torch.zeros(n_features, dtype=torch.float64),
            torch.ones(n_features, dtype=torch.float64),
        )

    def apply(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Standardise rows x of shape (n, d): in float64, then rounded once to `dtype` (default: x's own).

        Works through blocks of rows, so that no float64 copy of the whole is ever made.
        """
        out = torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device)
        for rows in row_blocks(x):
            out[rows] = ((x[rows].double() - self.mean) / self.scale).to(out.dtype)
        return out

    def is_constant(self) -> Tensor:
        """Boolean (d,): which features were constant when these statistics were taken (`moments`)."""
        return self.scale == 0


def row_blocks(x: Tensor) -> Iterable[slice]:
    """Slices that cut x into blocks of about one mebibyte."""
    n_rows, row_bytes = len(x), max(1, x[:1].numel() * x.element_size())
    step = max(1, BLOCK_BYTES // row_bytes)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def moments(x: Tensor, weight: Tensor | None = None) -> Standardization:
    """Weighted means and population standard deviations (divided by Σ weight) of x's columns.

    One sweep over the rows. Every block is centred on a common pivot (the mean of the first block) before it
    is squared, and the blocks are summed in float64: the shifted-data algorithm of Chan, Golub & LeVeque
    (1983), "Algorithms for computing the sample variance", which loses no digits to a large mean.

    Args:
        x: shape (n, d), any floating dtype.
        weight: shape (n,), non-negative; None is a weight of one for each row.

    Returns:
        float64 statistics; a constant column has scale 0, a column with a NaN or an infinity a mean that is
        not finite.
    """
    result = _moments(x, weight, x.dtype)
    if x.dtype != torch.float64 and not bool((result.scale.isfinite() & (result.scale > 0)).all()):
        # A square that over- or underflows in float32 looks like a constant or an infinity.
        result = _moments(x, weight, torch.float64)
    return result


def _moments(x: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Standardization:
    first = next(iter(row_blocks(x)))
    pivot = x[first].double().mean(0).to(dtype)
    total, total_squares = torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device)
    weight_sum = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in row_blocks(x):
        centred = x[rows].to(dtype) - pivot
        v = torch.ones_like(centred[:, 0]) if weight is None else weight[rows].to(dtype)
        total += v @ centred
        total_squares += v @ centred.square_()
        weight_sum += v.sum(dtype=torch.float64)
    shift = total / weight_sum
    variance = (total_squares / weight_sum - shift.square()).clamp_min(0)
    scale = variance.sqrt()
    mean = pivot.double() + shift
    # Rounding leaves a constant column a deviation of about one unit in its last place.
    rounding = 4 * torch.finfo(x.dtype).eps * mean.abs()
    return Standardization(mean, torch.where(scale <= rounding, 0.0, scale))
