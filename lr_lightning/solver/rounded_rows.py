"""Sweeps in float32 over some columns of dense rows, for hundreds of fits at once.

Logits and residuals of a block of rows are matrices (o, b), as `logits_by_fit` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.model.losses import curvature, residuals
from lr_lightning.model.threads import share_out
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import FoldRows, logits_by_fit, may_copy

_EPS = torch.finfo(torch.float32).eps
_ONE = torch.ones(())
# Of fewer fits or columns BLAS sums products one row after the other, with ten times the rounding.
_FEW_FITS, _FEW_COLUMNS = 8, 12


class _Outcomes(NamedTuple):
    """What is known of some rows beside their features: 1 − 2y, that times v, y, v and the offset or None, (b,).

    In float32 weights that are all 1 are one, ().
    """

    sign: Tensor
    signed: Tensor
    y: Tensor
    v: Tensor
    offset: Tensor | None

    def to(self, dtype: torch.dtype) -> _Outcomes:
        return _Outcomes(*(None if t is None else t.to(dtype) for t in self))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Block:
    """Some rows of a fold: their numbers, and their outcomes in float32."""

    fold: int
    rows: Tensor | slice
    rounded: _Outcomes

    @property
    def size(self) -> int:
        return len(self.rounded.sign)


class RoundedRows:
    """Dense rows, standardised, in float32, in blocks that stay in a core's cache and belong to one fold each.

    Args:
        rows: of m fits.
    """

    def __init__(self, rows: FoldRows) -> None:
        self.rows = rows
        self.weighted = bool((rows.v != 1).any())
        width = max(rows.d, thresholds.FOLD_BLOCK // thresholds.ROUNDED_TERMS)
        self.blocks = [self._block(*part) for part in rows.parts(width, thresholds.FOLD_BLOCK)]
        # The copy takes half the memory of rows in float64. Of a table larger than memory every sweep reads the rows.
        is_copied = may_copy(rows.n * rows.d, torch.float32)
        self._copies = [self._read(block) for block in self.blocks] if is_copied else None
        self._room = [torch.empty(0) for _ in self.blocks]

    def features(self, number: int, index: Tensor | None = None) -> Tensor:
        """The standardised features of a block's rows, (b, d), or some of them by their numbers, float32."""
        if self._copies is None:
            return self._read(self.blocks[number], index)
        return self._copies[number] if index is None else self._copies[number].index_select(1, index)

    def columns(self, index: Tensor) -> RoundedColumns:
        """Some columns of these rows, by their numbers (c,)."""
        return RoundedColumns(self, index)

    def room(self, number: int, width: int) -> Tensor:
        """A matrix (width, b) for a block's rows, float32, not filled; the one handed out before is overwritten.

        Memory that is used again need not be mapped anew, which takes as long as to compute the logits in it.
        """
        size = self.blocks[number].size
        if size * width > len(self._room[number]):
            self._room[number] = torch.empty(size * width)
        return self._room[number][: size * width].view(width, size)

    def exact(self, number: int) -> _Outcomes:
        """The outcomes of a block's rows in float64."""
        return self._outcomes(self.blocks[number].rows)

    def _outcomes(self, part: Tensor | slice) -> _Outcomes:
        rows = self.rows
        offset = None if rows.offset is None else rows.offset[part].double()
        sign, v = rows.signs(part)[:, 0], rows.v[part]
        return _Outcomes(sign, sign * v, rows.y[part].double(), v, offset)

    def _block(self, fold: int, part: Tensor | slice) -> _Block:
        rounded = self._outcomes(part).to(torch.float32)
        if not self.weighted:
            rounded = rounded._replace(signed=rounded.sign, v=_ONE)
        return _Block(fold, part, rounded)

    def _read(self, block: _Block, index: Tensor | None = None) -> Tensor:
        mean, scale = self.rows.standardization
        x = self.rows.design.take(block.rows)
        if index is not None:
            x, mean, scale = x.columns(index), mean[index], scale[index]
        return torch.addcmul(-mean / scale, x.dense(torch.float64), 1 / scale).float()


class RoundedColumns:
    """Some columns of dense rows; sums over a block are in float32, and added up in float64.

    Args:
        rows: all columns.
        index: numbers of those in use, (c,).
    """

    def __init__(self, rows: RoundedRows, index: Tensor) -> None:
        self._all, self._rows, self.index = rows, rows.rows, index
        self._is_every = len(index) == self._rows.d
        self._copies: list[Tensor] = []

    def _some(self, x: Tensor) -> Tensor:
        return x if self._is_every else x.index_select(1, self.index)

    def _features(self, number: int) -> Tensor:
        return self._copies[number] if self._copies else self._read(number)

    def _read(self, number: int) -> Tensor:
        return self._all.features(number, None if self._is_every else self.index)

    def copy(self) -> None:
        """Copy the columns, unless that takes too much memory, for many sweeps."""
        if not self._is_every and may_copy(self._rows.n * len(self.index), torch.float32):
            self._copies = [self._read(number) for number in range(len(self._all.blocks))]

    def sums(self, fits: Tensor, u: Tensor, *, every: bool = False) -> Tensor:
        """Sums of the gradients of some fits over the rows of each fold, (K or 1, f, c + 1), or (K or 1, f, d + 1).

        Args:
            fits: their numbers, (f,).
            u: their coefficients, (f, c + 1).
            every: whether the gradients are by all columns.
        """
        width = self._rows.d if every else len(self.index)

        def work(number: int, at: Tensor, own: Tensor, sums: Tensor) -> None:
            x, known = self._all.features(number) if every else self._features(number), self._all.blocks[number].rounded
            r = self._residuals(_logits(self._some(x) if every else x, at, known.offset), known)
            _add_products(sums, r, x)

        return self._swept(fits, u.float(), (width + 1,), work)

    def fold_gradients(self, u: Tensor) -> Tensor:
        """As of `FoldRows`, at q points u (q, c + 1): (K or 1, q, c + 2)."""

        def work(number: int, at: Tensor, own: Tensor, sums: Tensor) -> None:
            x, known = self._features(number), self._all.blocks[number].rounded
            r = self._residuals(_logits(x, at, known.offset), known)
            sums[:, :-2] += r @ x  # not as `_add_products`: the last digits of few fits do not matter either
            sums[:, -2] += r.sum(1)
            sums[:, -1] += r @ known.sign

        return self._swept(torch.zeros(len(u), dtype=torch.long), u.float(), (len(self.index) + 2,), work)

    def anchored(self, fits: Tensor, u: Tensor, *, losses: bool) -> Anchor:
        """Gradients of some fits (f,) at u (f, c + 1), in float64, from where their changes are summed.

        Args:
            fits: their numbers, (f,).
            u: their coefficients, (f, c + 1).
            losses: whether to sum the losses as well.
        """
        rows, c = self._rows, len(self.index)
        mean, scale = (t[self.index] for t in rows.standardization)
        w = u[:, :-1] / scale
        logits: dict[int, Tensor] = {}

        def work(number: int, at: Tensor, own: Tensor, sums: Tensor) -> None:
            part, known = self._all.blocks[number].rows, self._all.exact(number)
            x = self._some(rows.design.take(part).dense()).double()
            z = _logits(x, at)
            if losses:
                sums[:, c + 1] += rows.losses_of(z.clone().T, part).sum(0)
            if known.offset is not None:
                z += known.offset
            logits[number] = self._all.room(number, len(z)).copy_(z)
            _add_products(sums[:, : c + 1], self._residuals(z, known), x)

        sums = self._swept(fits, torch.cat([w, (u[:, -1] - w @ mean)[:, None]], 1), (c + 2,), work)
        sums[..., :c] = (sums[..., :c] - sums[..., c, None] * mean) / scale
        return Anchor(fits, u.clone(), sums[..., :-1], sums[..., -1], logits)

    def changes(self, anchor: Anchor, some: Tensor, step: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Changes of the gradients of some fits (s,) of an anchor along steps (s, c + 1) from there.

        With π = σ(z) and e = exp(Δ) − 1, σ(z + Δ) − π = π·(1 − π)·e/(1 + π·e), in which no digits cancel. Sums in
        float32 of rows of few different values, whose terms are alike, lose up to 100 times as much as those of others.

        Args:
            anchor: where the steps begin.
            some: numbers of the fits there.
            step: from there.
            dtype: in which the changes of a block's rows are summed.

        Returns:
            The sums over the rows of each fold, (K or 1, s, c + 1), and about their error, relative to Σv, (s,), if the
            rows are rounded independently and the sums are exact.
        """
        fits, c = anchor.fits[some], len(self.index)
        is_every, weighted = len(some) == len(anchor.fits), self._all.weighted

        def work(number: int, at: Tensor, own: Tensor, sums: Tensor) -> None:
            block, x, z = self._all.blocks[number], self._features(number), anchor.logits[number]
            if not is_every:
                z = z.index_select(0, anchor.place(block.fold)[some[own]])
            rise = _logits(x, at).clamp_max_(thresholds.LARGEST_RISE).expm1_()
            share = z.sigmoid()
            change = z.neg().sigmoid_().mul_(share).mul_(rise).div_(torch.addcmul(_ONE, share, rise))
            if weighted:
                change.mul_(block.rounded.v)
            _add_products(sums, change.to(dtype), x)

        change = self._swept(fits, step.float(), (c + 1,), work)
        mean = change.sum(0) / self._rows.weight[fits, None]
        # The residuals' changes, whose squares are at most 1/4 of their products with those of the logits, are rounded
        # alike in a block at most. What all blocks have in common is relative to the sums.
        moved = (mean * step).sum(1).clamp_min(0).sqrt() / 2
        error = mean.abs().amax(1) + moved / math.sqrt(len(self._all.blocks))
        return change, error * (_EPS / 2)

    def _residuals(self, z: Tensor, known: _Outcomes) -> Tensor:
        """The derivatives (o, b) of the losses by the logits z (o, b), which are overwritten."""
        if self._rows.has_shares:
            return residuals(z, known.y).mul_(known.v)
        return z.mul_(known.sign).sigmoid_().mul_(known.signed)

    def hessians_at(self, u: Tensor) -> Tensor:
        """Hessians of all fits at each of q points u (q, c + 1), (q, m, c + 1, c + 1), float32."""
        k = u.shape[1]
        count = max(1, round(k / thresholds.ROUNDED_TILE))
        tiles = [slice((k - 1) * i // count, (k - 1) * (i + 1) // count) for i in range(count)]

        def work(number: int, at: Tensor, own: Tensor, sums: Tensor) -> None:
            x, known = self._features(number), self._all.blocks[number].rounded
            v = curvature(_logits(x, at, known.offset)).mul_(known.v)
            for point, of_rows in zip(sums, v, strict=True):
                scaled = x * of_rows[:, None]
                for tile in tiles:  # on and above the diagonal
                    point[tile, tile.start : -1] += scaled[:, tile].T @ x[:, tile.start :]
                point[:-1, -1] += scaled.sum(0)
                point[-1, -1] += of_rows.sum()

        sums = self._swept(torch.zeros(len(u), dtype=torch.long), u.float(), (k, k), work).triu_()
        sums += sums.triu(1).mT
        return torch.stack([self._rows.of_fits(of_folds) for of_folds in sums.unbind(1)]).float()

    def _swept(
        self,
        fits: Tensor,
        points: Tensor,
        shape: tuple[int, ...],
        work: Callable[[int, Tensor, Tensor, Tensor], None],
    ) -> Tensor:
        """Sums over the rows of each fold, (K or 1, f, …), float64.

        Args:
            fits: numbers of the fits, (f,): those that leave a fold out are not summed over it.
            points: one of each, (f, c + 1).
            shape: of the sums of a fit.
            work: adds a block's sums: its number, the points (o, c + 1) of the fits that have its rows, the places (o,)
                of these among all, and the sums, (o, …).
        """
        count = max(1, self._rows.m - 1)
        own = [
            (fits != fold + 1).nonzero()[:, 0] if self._rows.m > 1 else torch.arange(len(fits)) for fold in range(count)
        ]
        at = [points[of] for of in own]
        numbers: list[list[int]] = [[] for _ in range(count)]
        for number, block in enumerate(self._all.blocks):
            numbers[block.fold].append(number)
        of_all = count * len(fits) * math.prod(shape)
        groups = max(1, min(math.ceil(thresholds.FOLD_GROUPS / count), thresholds.GROUPED_SUMS // max(1, of_all)))
        stripes = [(f, of[i::groups]) for f, of in enumerate(numbers) for i in range(min(groups, len(of)))]
        sums = [torch.zeros(len(own[fold]), *shape, dtype=torch.float64) for fold, _ in stripes]

        def run(share: Iterator[int]) -> None:
            for stripe in share:
                fold, of_fold = stripes[stripe]
                if len(own[fold]):
                    for number in of_fold:
                        work(number, at[fold], own[fold], sums[stripe])

        share_out(run, len(stripes), self._rows.y, effort=points.numel())
        total = torch.zeros(count, len(fits), *shape, dtype=torch.float64)
        for (fold, _), of_stripe in zip(stripes, sums, strict=True):
            total[fold, own[fold]] += of_stripe
        return total


@dataclass(frozen=True)
class Anchor:
    """Where the losses and gradients of some fits are known.

    Attributes:
        fits: their numbers, (f,).
        u: their coefficients, (f, c + 1).
        sums: of the gradients over the rows of each fold, (K or 1, f, c + 1).
        losses: likewise, (K or 1, f); 0 if they have not been summed.
        logits: of each block's rows by the fits that have them, (o, b), float32.
    """

    fits: Tensor
    u: Tensor
    sums: Tensor
    losses: Tensor
    logits: dict[int, Tensor]

    def place(self, fold: int) -> Tensor:
        """The place of each fit among the logits of a fold's blocks, (f,)."""
        return (self.fits != fold + 1).cumsum(0) - 1


def _logits(x: Tensor, at: Tensor, offset: Tensor | None = None) -> Tensor:
    """The logits (o, b) of rows (b, c) by coefficients (o, c + 1), and offsets (b,)."""
    z = logits_by_fit(x, at[:, :-1], at[:, -1])
    return z if offset is None else z.add_(offset)


def _add_products(sums: Tensor, r: Tensor, x: Tensor) -> None:
    """Add Σ r·x and Σ r over the rows of residuals r (o, b) and of x (b, c) to sums (o, c + 1)."""
    if len(r) < _FEW_FITS or x.shape[1] < _FEW_COLUMNS:
        r = r.double()
    sums[:, :-1] += r @ x.to(r.dtype)
    sums[:, -1] += r.sum(1, dtype=torch.float64)
