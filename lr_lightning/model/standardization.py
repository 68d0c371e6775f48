"""Means and standard deviations of features, streamed over blocks of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.design import Dense, Design, as_design, blocks_of
from lr_lightning.model.processes import ALONE, Processes

_PIVOT_ROWS = 1024  # whose means are near enough to those of all rows for squares about them to keep their digits
_LARGEST_MEAN = 16.0  # in scales; beyond this, centring before rounding to the batch's dtype saves digits
_SCALES_OF_FLOAT32 = (1e-12, 1e12)  # features outside are rescaled, or their squares leave float32's range


class Standardization(NamedTuple):
    """The map x ↦ (x − mean) / scale, one entry a feature.

    Attributes:
        mean: float64 tensor, shape (d,).
        scale: float64 tensor, shape (d,), positive; 0 where it marks a constant column (`moments`).
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def identity(cls, n_features: int) -> Standardization:
        """Leaves `n_features` features as they are."""
        return cls(torch.zeros(n_features, dtype=torch.float64), torch.ones(n_features, dtype=torch.float64))

    def to(self, device: torch.device | str) -> Standardization:
        """The same numbers on `device`."""
        return Standardization(self.mean.to(device), self.scale.to(device))

    def divisible(self) -> Standardization:
        """With a scale of 1 where a constant column has 0, so that it is centred and left at that."""
        return Standardization(self.mean, torch.where(self.scale > 0, self.scale, 1.0))

    def before_weights(self, *, fit_intercept: bool) -> Standardization:
        """The map to put before the weights, where these are statistics; a constant column gets an infinite scale."""
        mean, scale = self
        if not fit_intercept:
            # Nothing else stands for a constant column then, such as a column of ones of the user's own.
            mean, scale = torch.zeros_like(mean), torch.where(scale > 0, scale, mean.abs())
        return Standardization(mean, torch.where(scale > 0, scale, torch.inf))

    def after(self, served: Standardization) -> Standardization:
        """Statistics of the original features, where these are of features that `served` was applied to."""
        return Standardization(served.mean + served.scale * self.mean, served.scale * self.scale)

    def apply(self, x: Tensor | Design, dtype: torch.dtype) -> Tensor:
        """Standardise rows x of shape (n, d) in float64, rounded once, to `dtype`.

        Works through blocks of rows, so that no float64 copy of the whole is ever made.
        """
        x = as_design(x).dense()
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        mean, scale = self.to(x.device)
        for rows in blocks_of(x):
            out[rows] = ((x[rows].double() - mean) / scale).to(dtype)
        return out


def standardization_to_serve(training: Standardization, *, is_sparse: bool = False) -> Standardization | None:
    """The standardisation to apply to rows with these statistics; None where products with raw rows lose no digits.

    Sparse rows would be filled, and are multiplied in float64: they stay as they are.
    """
    if is_sparse:
        return None
    mean, scale = training.divisible()
    low, high = _SCALES_OF_FLOAT32
    centred = bool((mean.abs() <= _LARGEST_MEAN * scale).all())
    return None if centred and bool(((scale > low) & (scale < high)).all()) else Standardization(mean, scale)


def moments(blocks: Iterable[tuple[Tensor | Design, Tensor | None]], processes: Processes = ALONE) -> Standardization:
    """Weighted means and population standard deviations (divided by Σ weight) of the columns.

    One sweep over the rows. Every block is centred on a common pivot (the mean of the first rows) before it
    is squared, and the blocks are summed in float64: the shifted-data algorithm of Chan, Golub & LeVeque
    (1983), "Algorithms for computing the sample variance", which loses no digits to a large mean.

    Args:
        blocks: pairs of features (n, d), of any floating dtype, and weights (n,) or None for ones; a list, or
            another iterable that can be iterated more than once.
        processes: that have the rows; the blocks are those of this one.

    Returns:
        float64 statistics; a constant column has scale 0, and a column with a NaN or an infinity a mean that
        is not finite.
    """
    result, dtype, rounding = _moments(blocks, None, processes)
    if dtype != torch.float64 and not bool((result.scale.isfinite() & (result.scale > 0)).all()):
        # A square that over- or underflows in float32 looks like an infinity or a constant.
        result, _, rounding = _moments(blocks, torch.float64, processes)
    suspects = (result.scale <= rounding).nonzero()[:, 0]
    if len(suspects):
        constant, value = _are_constant(blocks, suspects, processes)
        result.scale[suspects[constant]] = 0.0
        result.mean[suspects[constant]] = value[constant]
    return result


def _moments(
    blocks: Iterable[tuple[Tensor | Design, Tensor | None]], dtype: torch.dtype | None, processes: Processes
) -> tuple[Standardization, torch.dtype, Tensor]:
    """Statistics, the dtype of their products, and the deviations (d,) that rounding may leave of constant columns."""
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise InputError("there are no training rows")
    x = as_design(first[0])
    dtype, eps = dtype or x.product_dtype, torch.finfo(x.dtype).eps
    own = x.take(slice(_PIVOT_ROWS))
    pivot = processes.joined(own.means()[None][: own.shape[0]])[0].to(dtype)  # of the first process that has rows
    total, weight_sum = torch.zeros(2, x.shape[1], dtype=torch.float64, device=x.device), 0.0
    for x, weight in chain([first], blocks):
        x = as_design(x)
        total += x.sums_about(pivot, weight)
        weight_sum += x.shape[0] if weight is None else float(weight.sum(dtype=torch.float64))
    total, weight_sum = processes.sums(total, weight_sum)
    shift, mean_square = total / weight_sum
    variance = (mean_square - shift.square()).clamp_min(0)
    mean = pivot.double() + shift
    # A few units in the last place of the mean; and as rows of the pivot may have no weight, what squares about another
    # value than the mean lose: up to 3e-8 of the shift in sums of 60 rows in float64, and more in longer ones. Where
    # zeros are not stored, the weight of the rows that hold one is a difference, which is multiplied by the pivot.
    about = shift.abs() if isinstance(x, Dense) else torch.maximum(shift.abs(), pivot.double().abs())
    rounding = torch.maximum(8 * eps * mean.abs(), (1024 * torch.finfo(dtype).eps) ** 0.5 * about)
    return Standardization(mean, variance.sqrt()), dtype, rounding


def _are_constant(
    blocks: Iterable[tuple[Tensor | Design, Tensor | None]], columns: Tensor, processes: Processes
) -> tuple[Tensor, Tensor]:
    """For each column: whether the rows of positive weight all hold the same value, and the value."""
    low, high = torch.full((2, len(columns)), torch.inf, dtype=torch.float64, device=columns.device)
    high = -high
    for x, weight in blocks:
        least, most = as_design(x).columns(columns).bounds(None if weight is None else weight > 0)
        low, high = torch.minimum(low, least), torch.maximum(high, most)
    low, high = processes.least(low), processes.most(high)
    return low == high, torch.where(low.isfinite(), low, 0.0)


class LevelWeights:
    """The weights of the levels of categories that arrive block by block, as codes.

    A level's feature is 1 in its rows and 0 in the others. So its mean is its share p of the weight, and its standard
    deviation √(p (1 − p)). NumPy rather than torch, for the reason that `RunningMoments` gives.

    Args:
        levels: numbers of levels of each category, c of them.

    Attributes:
        weight: Σ v of each level so far, float64, c arrays.
    """

    def __init__(self, levels: Sequence[int]):
        self.weight = [np.zeros(size) for size in levels]

    def add(self, codes: np.ndarray, weight: np.ndarray) -> None:
        """Take in a block.

        Args:
            codes: numbers of levels, (c, r); a negative one is a missing value and counts for nothing.
            weight: of each row, float64, (r,), non-negative.
        """
        for of_levels, of_rows in zip(self.weight, codes, strict=True):
            v = weight
            if (of_rows < 0).any():
                present = of_rows >= 0
                of_rows, v = of_rows[present], weight[present]
            if len(of_levels) <= len(of_rows):
                of_levels += np.bincount(of_rows, v, len(of_levels))
            else:
                np.add.at(of_levels, of_rows, v)

    def merge(self, processes: Processes) -> None:
        """Take in what the other processes have added."""
        if self.weight:
            self.weight = list(processes.sums(*self.weight))

    def result(self) -> Standardization:
        """Means and standard deviations of the features: of each category's levels but the first."""
        empty = np.empty((2, 0))
        mean, scale = np.concatenate([empty, *map(_of_levels, self.weight)], axis=1)
        return Standardization(torch.from_numpy(mean), torch.from_numpy(scale))


def _of_levels(weight: np.ndarray) -> np.ndarray:
    """Means and standard deviations of the levels but the first, (2, L − 1), from the weights of all levels, (L,)."""
    total = weight.sum()
    rest = total - weight
    most = weight.argmax()
    # The difference would cancel for the one level that may hold nearly all of the weight.
    rest[most] = weight[:most].sum() + weight[most + 1 :].sum()
    with np.errstate(invalid="ignore"):  # without any weight
        share, scale = weight / total, np.sqrt(weight / total) * np.sqrt(rest / total)
    return np.stack([share[1:], scale[1:]])


class RunningMoments:
    """Means and population standard deviations of features that arrive block by block.

    Each block is centred on one of its own rows before it is squared, and the blocks are merged by the
    updating formula of Chan, Golub & LeVeque (1983), all in float64: neither a large mean nor a drift from
    block to block costs digits, and a constant feature has a deviation of exactly 0. A NaN is a missing value
    and counts for nothing.

    NumPy rather than torch, here and wherever blocks are worked on: a block is too small to be worth the
    threads that torch would wake for it, and on a busy machine waiting for them costs many times the work.

    Args:
        n_features: how many.

    Attributes:
        weight: what has counted for each feature so far, float64, shape (d,).
        mean: of each feature so far, float64, shape (d,).
    """

    def __init__(self, n_features: int):
        self.weight, self.mean, self._squares = np.zeros((3, n_features))

    def add(self, x: np.ndarray, weight: np.ndarray) -> None:
        """Take in a block.

        Args:
            x: features as rows, float64, shape (d, r).
            weight: of each column of x, float64, shape (r,), non-negative.
        """
        # A row that counts: a feature that is constant where it counts has differences of exactly 0.
        counted = int((weight > 0).argmax())
        pivot = x[:, counted : counted + 1]
        with np.errstate(over="ignore", invalid="ignore"):
            centred = x - pivot
            total = np.einsum("dr,r->d", centred, weight)
        block_weight = np.broadcast_to(weight.sum(), total.shape)
        if not np.isfinite(total).all():
            missing = np.isnan(x)
            pivot = np.where(missing | (weight == 0), -np.inf, x).max(1, keepdims=True)
            pivot[pivot == -np.inf] = 0.0
            centred = np.where(missing, 0.0, x - pivot)
            total = np.einsum("dr,r->d", centred, weight)
            block_weight = np.einsum("dr,r->d", ~missing, weight)
        with np.errstate(over="ignore", invalid="ignore"):  # shows as a scale that is not finite
            np.square(centred, out=centred)
            squares = np.einsum("dr,r->d", centred, weight)
            self._merge(block_weight, pivot[:, 0], total, squares)

    def _merge(self, weight: np.ndarray, pivot: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
        counts = weight > 0  # a block may hold nothing of a feature
        shift = np.divide(total, weight, out=np.zeros_like(total), where=counts)
        delta = np.where(counts, pivot + shift - self.mean, 0.0)
        new_weight = self.weight + weight
        share = np.divide(weight, new_weight, out=np.zeros_like(total), where=counts)
        self._squares += squares - total * shift + np.square(delta) * self.weight * share
        self.mean = np.where(share == 1, pivot + shift, self.mean + delta * share)
        self.weight = new_weight

    def merge(self, processes: Processes) -> None:
        """Take in what the other processes have added, in the order of the processes."""
        own = torch.from_numpy(np.stack([self.weight, self.mean, self._squares]))
        self.weight, self.mean, self._squares = np.zeros(own.shape)
        for weight, mean, squares in processes.joined(own[None]).numpy():
            self._merge(weight, mean, np.zeros_like(mean), squares)

    def fill(self, values: np.ndarray, total_weight: float) -> None:
        """Take in `values` (d,) for the missing ones: each feature's weight becomes `total_weight`."""
        missing = np.maximum(total_weight - self.weight, 0.0)
        self._merge(missing, values, np.zeros_like(values), np.zeros_like(values))
        self.weight = np.full_like(self.weight, total_weight)

    def result(self) -> Standardization:
        """Means and standard deviations (divided by the sum of the weights) of what was taken in."""
        scale = np.sqrt(np.maximum(self._squares / self.weight, 0.0))
        # Values that differ in their last digit alone are one value.
        scale[scale <= np.finfo(np.float64).eps * np.abs(self.mean)] = 0.0
        return Standardization(torch.from_numpy(self.mean.copy()), torch.from_numpy(scale))
