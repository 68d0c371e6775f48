"""A data loader whose batches are slices of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from lr_lightning.data.hashing import permuted
from lr_lightning.data.splits import HASH, PERMUTATION
from lr_lightning.model.processes import Share
from lr_lightning.model.rows import Rows

GATHER_ROWS = 1 << 16  # rows that are shuffled at a time, to bound memory


class TensorBatches:
    """An iterable of batches (see `Rows.as_batch`) that are slices of `rows`.

    It needs neither collation nor workers: 100 000 rows in batches of 256 take a few milliseconds an epoch, and a few
    hundred with a `DataLoader` that fetches each row.

    Args:
        rows: the rows to serve.
        batch_size: number of rows of a batch; None serves all rows as one batch.
        shuffle: whether the rows are permuted anew in each epoch. The permutation depends on `seed` and the epoch's
            number only, so that a resumed fit sees the same batches as an uninterrupted one.
        seed: seed of the permutations.
        n_batches: serve this number of batches of nearly equal size, instead of batches of `batch_size`.
        share: which rows these are, where other processes hold others. Every process serves its own rows of each batch
            that a single process would serve; it may have none.
        rule: how a permutation is drawn, see `data.splits`: by HASH a process computes the places of its own rows
            alone, by PERMUTATION those of all, four bytes a row.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        n_batches: int | None = None,
        share: Share | None = None,
        rule: str = PERMUTATION,
    ):
        self._rule = rule
        self._start, n_rows = share or Share(0, len(rows.y))
        self.rows = rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        if n_batches is None:
            size = batch_size or max(1, n_rows)
            bounds = [*range(0, n_rows, size), n_rows]
        else:
            bounds = [n_rows * k // n_batches for k in range(n_batches + 1)]
        self._bounds, self._n_rows = bounds, n_rows

    @property
    def sampler(self) -> TensorBatches | SequentialSampler:
        """Sampler that Lightning looks at: an object with `set_epoch` if shuffled, otherwise a sequential sampler."""
        return self if self.shuffle else SequentialSampler(self.rows.y)

    batch_sampler = None  # Lightning reads it if there is a sampler

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, on which the permutation depends."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if not self.shuffle:
            own = [min(max(bound - self._start, 0), len(self.rows.y)) for bound in self._bounds]
            for start, stop in pairwise(own):
                yield self.rows.take(slice(start, stop)).as_batch()
            return
        order, bounds = self._order()
        order = order.to(self.rows.y.device)
        sizes = [stop - start for start, stop in pairwise(bounds)]
        at_a_time = max(1, GATHER_ROWS // max(1, sizes[0]))
        for k in range(0, len(self), at_a_time):
            group = slice(k, k + at_a_time)
            gathered = self.rows.take(order[bounds[k] : bounds[min(k + at_a_time, len(self))]])
            for start, stop in pairwise(accumulate(sizes[group], initial=0)):
                yield gathered.take(slice(start, stop)).as_batch()

    def _order(self) -> tuple[Tensor, list[int]]:
        """This process's rows in the order of the epoch, and the bounds of its part of each batch."""
        seed, n = (self.seed * 1_000_003 + self.epoch) % 2**64, len(self.rows.y)  # the range of torch's seeds
        if self._rule == HASH:
            places = torch.from_numpy(permuted(np.arange(self._start, self._start + n), self._n_rows, seed))
            places, order = places.sort()
        else:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(self._n_rows, generator=generator, dtype=_dtype_of_places(self._n_rows))
            if n == self._n_rows:
                return order, self._bounds
            places = ((order >= self._start) & (order < self._start + n)).nonzero()[:, 0]
            order = order[places] - self._start
        return order, torch.searchsorted(places, torch.tensor(self._bounds)).tolist()


def _dtype_of_places(n: int) -> torch.dtype:
    return torch.int32 if n < 2**31 else torch.int64
