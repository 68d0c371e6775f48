"""Batches that are slices of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from lr_lightning.model.rows import Rows

GATHER_ROWS = 1 << 16  # rows brought into shuffled order at a time: few calls, bounded memory


class TensorBatches:
    """An iterable of batches `(x, y)` or `(x, y, weight)` that are slices of `rows`.

    No collation and no workers: 100 000 rows in batches of 256 take a few milliseconds an epoch, where a
    `DataLoader` that fetches row by row takes a few hundred.

    Args:
        rows: what is served.
        batch_size: rows a batch; None serves all rows as one batch.
        shuffle: whether each epoch has an order of its own, drawn from `seed` and the epoch's number alone,
            so that a resumed fit sees the orders that an uninterrupted one would have seen.
        seed: of the shuffling.
        n_batches: serve as many batches of nearly equal size, instead of batches of `batch_size`.
        process: `(rank, processes)`: of each batch of all processes, which is the batch that one process alone
            would serve, the share that this process serves. It may be without rows.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        n_batches: int | None = None,
        process: tuple[int, int] = (0, 1),
    ):
        n_rows = len(rows.y)
        self.rows = rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        if n_batches is None:
            size = batch_size or max(1, n_rows)
            bounds = [*range(0, n_rows, size), n_rows]
        else:
            bounds = [n_rows * k // n_batches for k in range(n_batches + 1)]
        rank, processes = process
        self.shares = [
            slice(start + (stop - start) * rank // processes, start + (stop - start) * (rank + 1) // processes)
            for start, stop in pairwise(bounds)
        ]

    @property
    def sampler(self) -> TensorBatches | SequentialSampler:
        """Where Lightning looks for `set_epoch`, and whether the order is one."""
        return self if self.shuffle else SequentialSampler(self.rows.y)

    batch_sampler = None  # Lightning asks for it wherever there is a sampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch number `epoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if not self.shuffle:
            for share in self.shares:
                yield self.rows.take(share).as_batch()
            return
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**64)  # as torch counts
        order = torch.randperm(len(self.rows.y), generator=generator).to(self.rows.y.device)
        sizes = [share.stop - share.start for share in self.shares]
        at_a_time = max(1, GATHER_ROWS // max(1, sizes[0]))
        for k in range(0, len(self), at_a_time):
            group = slice(k, k + at_a_time)
            gathered = self.rows.take(torch.cat([order[share] for share in self.shares[group]]))
            yield from zip(*(t.split(sizes[group]) for t in gathered.as_batch()), strict=True)
