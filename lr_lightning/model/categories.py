"""Categories as codes, one a row and column, never one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from lr_lightning.model.swept import Swept, chosen, sums_with_zeros, total_weight

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Categories(Swept):
    """Codes (n, c) of c categories, which stand for the indicators of their levels; see `Design` for the methods.

    The features are the levels of the first category, then those of the second, and so on, without the level 0 of
    each, which is the reference: treatment coding. A level's feature is 1 in its rows and 0 in the others.

    Args:
        codes: levels by number, (n, c), int32; from 0, below the number of levels. Products are fastest where the
            codes of a column lie side by side, as of ``torch.empty(c, n, dtype=torch.int32).T``.
        levels: number of levels of each category, the reference included, c of them.
        slots: which levels have a feature, (d,), int64, counted through all categories; None for all but the
            references.
    """

    __slots__ = ("_starts", "_used", "codes", "levels", "slots")

    def __init__(self, codes: Tensor, levels: Sequence[int], slots: Tensor | None = None):
        self.codes, self.levels = codes, tuple(levels)
        starts = torch.tensor([0, *self.levels], device=codes.device).cumsum(0)
        if slots is None:
            has_feature = torch.ones(int(starts[-1]), dtype=torch.bool, device=codes.device)
            has_feature[starts[:-1][torch.tensor(self.levels, device=codes.device) > 0]] = False
            slots = has_feature.nonzero()[:, 0]
        self.slots = slots
        self._starts = starts.tolist()
        # Of chosen columns the other categories need not be read.
        of_slots = torch.bucketize(slots, starts[1:], right=True)
        self._used = of_slots.unique().tolist()

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return len(self.codes), len(self.slots)

    @property
    @override
    def stored(self) -> Tensor:
        return self.codes

    @property
    @override
    def n_slots(self) -> int:
        return self._starts[-1]

    @property
    def whole(self) -> list[Tensor]:
        """The features of each category that has one for every level but the reference, c of them at most."""
        starts = torch.tensor(self._starts, device=self.slots.device)
        category = torch.bucketize(self.slots, starts[1:], right=True)
        counts = torch.bincount(category, minlength=len(self.levels)).tolist()
        referred = set((starts[category] == self.slots).nonzero()[:, 0].tolist())
        found = [(category == j).nonzero()[:, 0] for j, n in enumerate(counts) if n and n == self.levels[j] - 1]
        return [columns for columns in found if referred.isdisjoint(columns.tolist())]

    @override
    def to_slots(self, w: Tensor) -> Tensor:
        return w.new_zeros(self.n_slots, *w.shape[1:]).index_add_(0, self.slots, w)

    @override
    def from_slots(self, sums: Tensor) -> Tensor:
        return sums.index_select(0, self.slots)

    @override
    def add_product(self, rows: slice, w: Tensor, out: Tensor) -> None:
        codes = self.codes[rows]
        for j in self._used:
            out += w[self._starts[j] : self._starts[j + 1]].index_select(0, codes[:, j])

    @override
    def add_transposed(self, rows: slice, r: Tensor, out: Tensor) -> None:
        codes = self.codes[rows]
        for j in self._used:
            out[self._starts[j] : self._starts[j + 1]].index_add_(0, codes[:, j], r)

    @override
    def squared(self) -> Categories:
        return self

    @override
    def square_sums(self, v: Tensor) -> Tensor:
        return self.rmatvec(v)

    @override
    def compressed(self, rows: slice) -> csr_array:
        import numpy as np
        from scipy.sparse import csr_array

        feature = np.full(self.n_slots, -1, dtype=np.int32)
        feature[self.slots.numpy()] = np.arange(len(self.slots), dtype=np.int32)
        starts = np.array(self._starts, dtype=np.int64)[self._used]
        column = feature[self.codes[rows].numpy()[:, self._used] + starts]
        has_feature = column >= 0
        ends = np.concatenate([[0], has_feature.sum(1).cumsum()], dtype=np.int32)
        column = column[has_feature]
        return csr_array((np.ones(len(column)), column, ends), shape=(len(has_feature), len(self.slots)))

    def _with(self, codes: Tensor) -> Categories:
        other = copy(self)  # without another look at which categories are used
        other.codes, other.slots = codes, self.slots.to(codes.device)
        return other

    @override
    def take(self, rows: Tensor | slice) -> Categories:
        rows = chosen(rows, len(self.codes), self.device)
        if isinstance(rows, slice):
            return self._with(self.codes[rows])
        return self._with(self.codes.T.index_select(1, rows).T)  # a column's codes stay side by side

    @override
    def columns(self, index: Tensor) -> Categories:
        return Categories(self.codes, self.levels, self.slots[index.to(self.device)])

    @override
    def to(self, device: torch.device | str) -> Categories:
        return self if self.device == torch.device(device) else self._with(self.codes.T.to(device).T)

    @override
    def astype(self, dtype: torch.dtype) -> Categories:
        return self

    @override
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        n, d = self.shape
        filled = torch.zeros(n, d, dtype=dtype or torch.float64, device=self.device)
        # Of many levels with few features, their indicators alone.
        feature = torch.full((self.n_slots,), -1, device=self.device)
        feature[self.slots] = torch.arange(d, device=self.device)
        for j in self._used:
            column = feature[self.codes[:, j].long() + self._starts[j]]
            rows = (column >= 0).nonzero()[:, 0]
            filled[rows, column[rows]] = 1
        return filled

    @torch.no_grad()
    @override
    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        n, pivot = len(self.codes), pivot.to(self.device, torch.float64)
        v = torch.ones(n, device=self.device) if sample_weight is None else sample_weight
        counts = self.rmatvec(v)
        beyond = 1 - pivot
        return sums_with_zeros(pivot, counts, counts * beyond, counts * beyond.square(), total_weight(n, sample_weight))

    @torch.no_grad()
    @override
    def bounds(self, used: Tensor | None = None) -> Tensor:
        used = torch.ones(len(self.codes), device=self.device) if used is None else used.to(self.device)
        counts, n = self.rmatvec(used), float(used.sum())
        if not n:
            return torch.stack([torch.full_like(counts, torch.inf), torch.full_like(counts, -torch.inf)])
        return torch.stack([counts == n, counts > 0]).double()
