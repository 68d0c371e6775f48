"""Columns of several storages side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from typing_extensions import override

from lr_lightning.model.design import Dense
from lr_lightning.model.standardized import Standardized
from lr_lightning.model.storage import Design
from lr_lightning.model.swept import Swept

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_FAR = 16.0  # scales from 0


class Numbers(Dense, Swept):
    """Numbers without zeros to leave out, in a sweep beside storages that do; a block is in its `product_dtype`."""

    __slots__ = ()

    @property
    @override
    def stored(self) -> Tensor:
        return self.tensor

    @property
    @override
    def n_slots(self) -> int:
        return self.shape[1]

    @override
    def to_slots(self, w: Tensor) -> Tensor:
        return w

    @override
    def from_slots(self, sums: Tensor) -> Tensor:
        return sums

    @override
    def add_product(self, rows: slice, w: Tensor, out: Tensor) -> None:
        if self.product_dtype == torch.float64:
            block = self.tensor[rows].double()
            (out.addmv_ if w.ndim == 1 else out.addmm_)(block, w)
        else:
            out += self.take(rows).matvec(w.to(self.product_dtype))

    @override
    def add_transposed(self, rows: slice, r: Tensor, out: Tensor) -> None:
        if self.product_dtype == torch.float64:
            block = self.tensor[rows].double()
            (out.addmv_ if r.ndim == 1 else out.addmm_)(block.T, r)
        else:
            out += self.take(rows).rmatvec(r.to(self.product_dtype))

    @override
    def squared(self) -> Numbers:
        return Numbers(self.dense(torch.float64).square())

    @override
    def square_sums(self, v: Tensor) -> Tensor:
        return super().square_sums(v.to(self.product_dtype))

    @override
    def compressed(self, rows: slice) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array(self.tensor[rows].double().numpy())

    @override
    def take(self, rows: Tensor | slice) -> Numbers:
        return Numbers(super().take(rows).tensor)

    @override
    def columns(self, index: Tensor) -> Numbers:
        return Numbers(super().columns(index).tensor)

    @override
    def for_many_products(self) -> Numbers:
        return self


def with_ones(x: Design) -> Columns:
    """Features (n, d) and, behind them, a column of ones."""
    ones = Dense(torch.ones(x.shape[0], 1, dtype=torch.float64, device=x.device))
    if not isinstance(x, Columns):
        return Columns([x, ones])
    return Columns([*x.parts, ones], [*x.features, torch.tensor([x.shape[1]])])


class Columns(Swept):
    """Features in several storages, side by side in any order; see `Design` for the methods.

    Args:
        parts: the storages, each of n rows and d_p features; no `Columns` among them.
        features: the numbers of each part's features among all, (d_p,), int64; together 0 … d − 1. None where the
            parts follow one another.
    """

    __slots__ = ("_bounds", "features", "parts")

    def __init__(self, parts: Sequence[Design], features: Sequence[Tensor] | None = None):
        self.parts = [Numbers(part.tensor) if isinstance(part, Dense) else cast(Swept, part) for part in parts]
        if features is None:
            sizes = [part.shape[1] for part in self.parts]
            features = list(torch.arange(sum(sizes)).split(sizes))
        self.features = [of_part.to(self.device) for of_part in features]
        ends = accumulate((part.n_slots for part in self.parts), initial=0)
        self._bounds = [slice(start, stop) for start, stop in pairwise(ends)]

    def _each(self, function: Callable[[Swept], Design]) -> Columns:
        return Columns([function(part) for part in self.parts], self.features)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    @property
    @override
    def dtype(self) -> torch.dtype:
        of_parts = {part.dtype for part in self.parts}
        return torch.float64 if of_parts <= {torch.float64} else (of_parts - {torch.float64}).pop()

    @property
    @override
    def product_dtype(self) -> torch.dtype:
        return torch.float32 if any(part.product_dtype == torch.float32 for part in self.parts) else torch.float64

    @property
    @override
    def stored(self) -> Tensor:
        return max((part.stored for part in self.parts), key=Tensor.numel)

    @property
    @override
    def n_slots(self) -> int:
        return self._bounds[-1].stop

    @override
    def to_slots(self, w: Tensor) -> Tensor:
        return torch.cat([part.to_slots(w[at]) for part, at in zip(self.parts, self.features, strict=True)])

    @override
    def from_slots(self, sums: Tensor) -> Tensor:
        out = sums.new_empty(self.shape[1], *sums.shape[1:])
        for part, at, bounds in zip(self.parts, self.features, self._bounds, strict=True):
            out[at] = part.from_slots(sums[bounds])
        return out

    @override
    def add_product(self, rows: slice, w: Tensor, out: Tensor) -> None:
        for part, bounds in zip(self.parts, self._bounds, strict=True):
            part.add_product(rows, w[bounds], out)

    @override
    def add_transposed(self, rows: slice, r: Tensor, out: Tensor) -> None:
        for part, bounds in zip(self.parts, self._bounds, strict=True):
            part.add_transposed(rows, r, out[bounds])

    @override
    def standardized(self, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Design:
        x = self if rows is None else self.take(rows)
        if center is None:
            return super(Columns, x).standardized(center, scale)
        # Of numbers far from 0 products lose digits, and there is nothing to fill: they are standardised themselves.
        center, parts = center.detach().to(x.device, copy=True), list(x.parts)
        scale = torch.ones_like(center) if scale is None else scale.detach().to(x.device, copy=True)
        for k, (part, at) in enumerate(zip(x.parts, x.features, strict=True)):
            if isinstance(part, Numbers) and bool((center[at].abs() > _FAR * scale[at]).any()):
                parts[k] = Numbers(part.standardized(center[at], scale[at]).tensor)
                center[at], scale[at] = 0.0, 1.0
        return Standardized(Columns(parts, x.features), center, scale)

    @override
    def squared(self) -> Columns:
        return self._each(lambda part: part.squared())

    @override
    def square_sums(self, v: Tensor) -> Tensor:
        out = torch.empty(self.shape[1], dtype=torch.float64, device=self.device)
        for part, at in zip(self.parts, self.features, strict=True):
            out[at] = part.square_sums(v)
        return out

    @override
    def compressed(self, rows: slice) -> csr_array:
        from scipy.sparse import csr_array, hstack

        matrix = csr_array(hstack([part.compressed(rows) for part in self.parts]))
        return matrix[:, torch.cat(self.features).argsort().numpy()]

    @override
    def take(self, rows: Tensor | slice) -> Columns:
        return self._each(lambda part: part.take(rows))

    @override
    def columns(self, index: Tensor) -> Columns:
        index = index.to(self.device)
        d = self.shape[1]
        owner, place = (torch.empty(d, dtype=torch.int64, device=self.device) for _ in range(2))
        for number, at in enumerate(self.features):
            owner[at], place[at] = number, torch.arange(len(at), device=self.device)
        found = [(owner[index] == number).nonzero()[:, 0] for number in range(len(self.parts))]
        pairs = [(part.columns(place[index[at]]), at) for part, at in zip(self.parts, found, strict=True) if len(at)]
        pairs = pairs or [(self.parts[0].columns(index), index)]
        parts, features = zip(*pairs, strict=True)
        return Columns(parts, features)

    @override
    def to(self, device: torch.device | str) -> Columns:
        return self._each(lambda part: part.to(device))

    @override
    def astype(self, dtype: torch.dtype) -> Columns:
        return self._each(lambda part: part.astype(dtype))

    @override
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        filled = torch.empty(self.shape, dtype=dtype or self.dtype, device=self.device)
        for part, at in zip(self.parts, self.features, strict=True):
            filled[:, at] = part.dense(filled.dtype)
        return filled

    @override
    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        out = torch.empty(2, self.shape[1], dtype=torch.float64, device=self.device)
        for part, at in zip(self.parts, self.features, strict=True):
            out[:, at] = part.sums_about(pivot.to(self.device)[at], sample_weight)
        return out

    @override
    def bounds(self, used: Tensor | None = None) -> Tensor:
        out = torch.empty(2, self.shape[1], dtype=torch.float64, device=self.device)
        for part, at in zip(self.parts, self.features, strict=True):
            out[:, at] = part.bounds(used)
        return out
