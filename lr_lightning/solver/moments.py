"""Means and standard deviations of the columns, in one sweep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lr_lightning.loss import block_rows, compute_dtype, share_out

_SHIFT_ROWS = 1024


@torch.no_grad()
def column_moments(x: Tensor, sample_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted means and standard deviations of the columns of a matrix.

    Products within a block of rows are computed in the dtype of ``x``, of which a provisional mean is taken
    off first (Chan, Golub & LeVeque 1983, shifted data), sums over blocks in float64.

    Args:
        x: (n, d), of any strides.
        sample_weight: (n,) or (n, 1), or None.

    Returns:
        Means (d,) and standard deviations (d,), which divide by the sum of the weights; float64.
    """
    n, d = x.shape
    dtype = compute_dtype(x)
    rows = block_rows(x)
    blocks = math.ceil(n / rows)
    v = None if sample_weight is None else sample_weight.reshape(-1)
    head = slice(0, _SHIFT_ROWS)
    shift = x[head].double().mean(0) if v is None else _weighted_mean(x[head].double(), v[head].double())
    shift = shift.to(dtype)
    sums = torch.zeros(2, blocks, d, dtype=dtype, device=x.device)

    def work(first: int, last: int) -> None:
        buffer = torch.empty(min(rows, n), d, dtype=dtype, device=x.device)
        for k in range(first, last):
            start, stop = k * rows, min((k + 1) * rows, n)
            centred = torch.sub(x[start:stop], shift, out=buffer[: stop - start])
            weight = None if v is None else v[start:stop].to(dtype)[:, None]
            # torch's sums are cascaded; those of a matrix-vector product lose two digits over a block.
            torch.sum(centred if weight is None else centred * weight, 0, out=sums[0, k])
            centred.square_()
            torch.sum(centred if weight is None else centred * weight, 0, out=sums[1, k])

    share_out(work, blocks, x)
    total = n if v is None else v.sum(dtype=torch.float64)
    first, second = sums.sum(1, dtype=torch.float64) / total
    return shift + first, (second - first.square()).clamp(min=0).sqrt()


def _weighted_mean(x: Tensor, v: Tensor) -> Tensor:
    total = v.sum()
    return v @ x / total if total > 0 else x.mean(0)
