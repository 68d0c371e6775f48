"""Means and standard deviations of the columns, in one sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lr_lightning.loss import block_rows, compute_dtype, share_out, weighted_row_sum

_SHIFT_ROWS = 1024
_TILE = 16


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
    tiled_shift = shift.repeat(_TILE)
    sums = torch.zeros(2, blocks, d, dtype=dtype, device=x.device)

    def work(share: Iterator[int]) -> None:
        buffer = torch.empty(min(rows, n), d, dtype=dtype, device=x.device)
        ones = torch.ones(min(rows, n), dtype=dtype, device=x.device)
        for k in share:
            start, stop = k * rows, min((k + 1) * rows, n)
            centred, weight = buffer[: stop - start], ones[: stop - start]
            _subtract(x[start:stop], tiled_shift, centred)
            if v is not None:
                weight = v[start:stop].to(dtype)
            weighted_row_sum(centred, weight, out=sums[0, k])
            weighted_row_sum(centred.square_(), weight, out=sums[1, k])

    share_out(work, blocks, x)
    total = n if v is None else v.sum(dtype=torch.float64)
    first, second = sums.sum(1, dtype=torch.float64) / total
    return shift + first, (second - first.square()).clamp(min=0).sqrt()


def _subtract(block: Tensor, tiled_shift: Tensor, out: Tensor) -> None:
    """Subtracts the shift from each row; from several rows at once, as torch is slow on short ones."""
    whole = len(block) - len(block) % _TILE
    if not block.is_contiguous():
        whole = 0
    torch.sub(
        block[:whole].view(-1, len(tiled_shift)), tiled_shift, out=out[:whole].view(-1, len(tiled_shift))
    )
    torch.sub(block[whole:], tiled_shift[: block.shape[1]], out=out[whole:])


def _weighted_mean(x: Tensor, v: Tensor) -> Tensor:
    total = v.sum()
    return v @ x / total if total > 0 else x.mean(0)
