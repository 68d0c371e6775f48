"""The design matrix of the statistics: standardised columns and an intercept, float64, in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lr_lightning.model.columns import with_ones
from lr_lightning.model.design import Dense
from lr_lightning.model.gathering import table_of_all
from lr_lightning.model.losses import residuals
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.storage import Design
from lr_lightning.solver.separating_columns import SeparatingColumns

_CPU_BLOCK = 2**20  # elements, 8 MiB; in smaller blocks starting torch's threads costs more than the products
_DEVICE_BLOCK = 2**25  # elements
_DOUBLE = 2.0**-52
_FINE = 0.01  # largest error with which a value can be recognised as a whole number
_TOLD = 1e-3  # largest error relative to the smallest value of a column
_HUGE = 1e12  # size of a column above which its served values may be rounded
COMPUTED = 2.0**-40  # error of a computed sum, relative to its terms
_SINGLE = 1e-8  # machine epsilon above which the features are float32 or shorter


class Block(NamedTuple):
    """A block of r rows of positive weight.

    Attributes:
        design: standardised features, then a column of ones if there is an intercept, (r, p), float64.
        y: targets 0 or 1, or shares of successes, (r,), float64.
        weight: weights of the rows, (r,), float64, positive.
        offset: what is added to the logits, (r,), float64, or None.
        start: number of rows of positive weight before the block.
    """

    design: Design
    y: Tensor
    weight: Tensor
    offset: Tensor | None
    start: int

    @property
    def x(self) -> Tensor:
        """The design as a tensor, (r, p), filled if it is sparse."""
        return self.design.dense()

    @property
    def sign(self) -> Tensor:
        """+1 for a positive row, −1 for a negative one, (r,), float64; of shares that of the more frequent outcome."""
        return 2 * (self.y > 0.5).double() - 1

    def logits(self, parameters: np.ndarray | Tensor) -> Tensor:
        """The linear predictor with the offset, (r,), float64, at parameters (p,)."""
        z = self.design.matvec(torch.as_tensor(parameters))
        return z if self.offset is None else z + self.offset

    def residuals(self, logits: Tensor) -> Tensor:
        """The residuals y − π, (r,), at logits (r,), without cancellation."""
        return -residuals(logits, self.y)

    def gains(self, direction: np.ndarray | Tensor) -> Tensor:
        """Change of (2y − 1)·logit along a direction (p,), (r,), float64, for targets 0 and 1."""
        return self.design.matvec(torch.as_tensor(direction)) * self.sign


@dataclass(frozen=True)
class _ByOutcome:
    """Batches with targets 0 and 1 alone, computed anew in each iteration."""

    batches: Iterable[Rows]

    def __iter__(self) -> Iterator[Rows]:
        return (rows.by_outcome() for rows in self.batches)


@dataclass(frozen=True)
class _Staying:
    """Batches without the rows that separating columns separate, computed anew in each iteration."""

    batches: Iterable[Rows]
    looks: list[SeparatingColumns]

    def __iter__(self) -> Iterator[Rows]:
        for rows in self.batches:
            yield rows.take(torch.stack([look.stay(rows.design) for look in self.looks]).all(0))


class DesignMatrix:
    """The columns that vary, standardised, and the intercept. All statistics are computed in these coordinates.

    Args:
        batches: rows with served features, on any device. Every sweep iterates over them once.
        served: means and scales (d,) with which the served features have been standardised.
        training: means and scales (d,) of the rows, in the units of the batches; a scale of 0 marks a constant column.
        intercept: whether the model has an intercept; without one the columns are not centred.
        processes: that hold the rows; then the batches are those of this process, and what is summed is sent around.
    """

    epsilon = 0.0
    """Machine epsilon of the served features; known once `blocks` has begun."""

    def __init__(
        self,
        batches: Iterable[Rows],
        *,
        served: tuple[Tensor, Tensor],
        training: tuple[Tensor, Tensor],
        intercept: bool = True,
        processes: Processes = ALONE,
    ):
        self.batches, self.intercept, self.processes = batches, intercept, processes
        self._served, self._training = served, training
        mean, scale = (t.detach().double().cpu() for t in training)
        served_mean, served_scale = (t.detach().double().cpu() for t in served)
        self.n_features = len(mean)
        origin = -served_mean / served_scale  # the original zero in the units of the batches
        self.columns = (scale if intercept else torch.hypot(scale, mean - origin)).nonzero()[:, 0]
        """Indices of the columns that vary, or without an intercept are not all 0, (k,)."""
        kept_mean, kept_scale, self._origin = (
            served_mean[self.columns],
            served_scale[self.columns],
            origin[self.columns],
        )
        self._served_error = _DOUBLE * kept_mean.abs()
        self._centre = mean[self.columns] if intercept else self._origin
        self._scale = torch.hypot(scale[self.columns], mean[self.columns] - self._centre)
        self.mean = (kept_mean + kept_scale * self._centre).numpy() if intercept else np.zeros(len(self.columns))
        """Means in original units, (k,): the standardised features are (original − mean) / scale."""
        self.scale = (kept_scale * self._scale).numpy()

    @property
    def size(self) -> int:
        """Number of parameters: p = k + 1 with an intercept, k without."""
        return len(self.columns) + self.intercept

    @property
    def single(self) -> bool:
        """Whether the features are served in float32, or shorter; known once `blocks` has begun."""
        return self.epsilon > _SINGLE

    def with_batches(self, batches: Iterable[Rows]) -> DesignMatrix:
        """The same columns of other rows."""
        return self._of(batches, self._training, self.processes)

    def _of(self, batches: Iterable[Rows], training: tuple[Tensor, Tensor], processes: Processes) -> DesignMatrix:
        return DesignMatrix(
            batches, served=self._served, training=training, intercept=self.intercept, processes=processes
        )

    def of_all_processes(self) -> DesignMatrix:
        """The design matrix of the rows of all processes, in each of them: for what takes few rows by nature."""
        if self.processes.count == 1:
            return self
        batches = [table_of_all(rows, self.processes, "the report of profiles or firth") for rows in self.batches]
        return self._of(batches, self._training, ALONE)

    @property
    def standardization(self) -> Standardization:
        """Means and scales (d,) of the columns in the units of the batches; infinity for one that does not vary."""
        mean, scale = torch.zeros(self.n_features).double(), torch.full((self.n_features,), torch.inf).double()
        mean[self.columns], scale[self.columns] = self._centre, self._scale
        return Standardization(mean, scale)

    @property
    def served(self) -> tuple[Tensor, Tensor]:
        """Means and scales (d,) with which the features in the batches have been standardised."""
        return self._served

    def original_moments(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (d,) of the rows, in original units, float64."""
        (mean, scale), (served_mean, served_scale) = (
            tuple(part.detach().double().cpu() for part in pair) for pair in (self._training, self._served)
        )
        return served_mean + served_scale * mean, served_scale * scale

    @property
    def units(self) -> Tensor:
        """The scales (d,) by which the features in the batches have been divided."""
        return self._served[1].detach().double().cpu()

    def by_outcome(self) -> DesignMatrix:
        """The design matrix of rows of the same losses with targets 0 and 1 alone."""
        return self.with_batches(_ByOutcome(self.batches))

    def of_rows(self, looks: Sequence[SeparatingColumns], columns: np.ndarray) -> DesignMatrix:
        """The design matrix of the rows that none of the looks separates, and of the columns at positions (c,)."""
        batches = _Staying(self.batches, [look.at(self.columns) for look in looks])
        return self._with_columns(columns, batches)

    def _with_columns(self, columns: np.ndarray, batches: Iterable[Rows]) -> DesignMatrix:
        """The design matrix of the columns at positions (c,) alone."""
        outside = torch.ones(self.n_features, dtype=torch.bool)
        outside[self.columns[columns]] = False
        mean, scale = self._training
        scale = torch.where(outside.to(scale.device), 0.0, scale)
        return self._of(batches, (mean, scale), self.processes)

    def served_rows(self) -> Iterator[tuple[Design, Tensor]]:
        """Blocks of served features, (r, k), and whether each row is positive, boolean (r,)."""
        whole = max([1, *(len(rows.y) for rows in self.batches)])
        for rows in self.used_rows(whole if self.is_sparse else None):
            yield rows.design.columns(self.columns), rows.y > 0.5

    def used_rows(self, n_rows: int | None = None) -> Iterator[Rows]:
        """All rows of positive weight in blocks of at most `n_rows`, or of as many as may be written out."""
        for rows in self.batches:
            self.epsilon = _epsilon(rows)
            on_cpu = rows.design.device.type == "cpu"
            step = n_rows or max(128, (_CPU_BLOCK if on_cpu else _DEVICE_BLOCK) // max(1, self.size))
            for first in range(0, len(rows.y), step):
                part = rows.take(slice(first, first + step))
                used = None if part.weight is None else part.weight > 0
                yield part if used is None or bool(used.all()) else part.take(used)

    def standardized(self, coefficients: Tensor, intercept: Tensor | float | None) -> np.ndarray:
        """Parameters (p,), intercept last, from the coefficients (d,) and the intercept of the served features."""
        w = coefficients.detach().double().cpu().reshape(-1)[self.columns]
        u = w * self._scale
        if not self.intercept:
            return u.numpy()
        b = 0.0 if intercept is None else float(intercept)
        return np.append(u.numpy(), b + float(w @ self._centre))

    def to_original(self, parameters: np.ndarray) -> np.ndarray:
        """Parameters (p, …), or directions, in original units, (p, …); the map is linear."""
        shape = (-1,) + (1,) * (parameters.ndim - 1)
        k = len(self.columns)
        slopes = parameters[:k] / self.scale.reshape(shape)
        if not self.intercept:
            return slopes
        offset = parameters[k] - np.tensordot(self.mean, slopes, 1)
        return np.concatenate([slopes, offset[None]])

    def mean_error(self) -> np.ndarray:
        """An estimate of the error of `mean` that is due to the rounding of the served features, (k,)."""
        served = self.epsilon * (self._centre.abs() + self._scale) * torch.from_numpy(self.scale) / self._scale
        return served.numpy() + COMPUTED * np.abs(self.mean)

    def blocks(self) -> Iterator[Block]:
        """All rows of positive weight, in order."""
        start, k = 0, len(self.columns)
        for rows in self.used_rows():
            x, n = rows.design, len(rows.y)
            centre, scale = (t.to(x.device) for t in (self._centre, self._scale))
            x = x if k == x.shape[1] else x.columns(self.columns)
            standardized = torch.ones(n, self.size, dtype=torch.float64, device=x.device)
            torch.sub(x.dense(torch.float64), centre, out=standardized[:, :k]).div_(scale)
            weight = torch.ones_like(rows.y, dtype=torch.float64) if rows.weight is None else rows.weight.double()
            offset = None if rows.offset is None else rows.offset.double()
            yield Block(Dense(standardized), rows.y.double(), weight, offset, start)
            start += n

    def products(self) -> Iterator[Block]:
        """The same rows for products alone: sparse ones are not written out, and come in one block a batch."""
        if not self.is_sparse:
            yield from self.blocks()
            return
        start = 0
        for rows in self.batches:
            if rows.weight is not None and not bool((rows.weight > 0).all()):
                rows = rows.take(rows.weight > 0)
            n, x = len(rows.y), rows.design.columns(self.columns)
            self.epsilon = _epsilon(rows)
            centre, scale = self._centre, self._scale
            if self.intercept:
                x = with_ones(x)
                centre, scale = pad(centre, (0, 1)), pad(scale, (0, 1), value=1.0)
            weight = torch.ones_like(rows.y, dtype=torch.float64) if rows.weight is None else rows.weight.double()
            offset = None if rows.offset is None else rows.offset.double()
            yield Block(x.standardized(centre, scale), rows.y.double(), weight, offset, start)
            start += n

    @property
    def is_sparse(self) -> bool:
        """Whether the rows are stored without their zeros."""
        return any(rows.design.is_sparse for rows in self.batches)

    def rounding(self, block: Block, *, restored: bool = False) -> Tensor:
        """An estimate of the rounding errors of a block's standardised features, (r, k).

        A value was rounded when the table was read, relative to its distance from the original zero, and when it was
        served, relative to the served value.

        Args:
            block: the block.
            restored: whether to estimate the errors of the rows that `restored` returns instead.
        """
        scale, centre, origin = (t.to(block.x.device) for t in (self._scale, self._centre, self._origin))
        served = block.x[:, : len(self.columns)] * scale + centre
        epsilon = torch.full_like(scale, self.epsilon)
        if restored and self.single:
            epsilon[torch.from_numpy(~self.rounded)] = _DOUBLE
        return (epsilon * (served.abs() + scale) + _DOUBLE * ((served - origin).abs() + centre.abs())) / scale

    def gradient_rounding(self, sums_of_squares: float, weight: float, squares: np.ndarray) -> np.ndarray:
        """A bound of the error of Σ v r x̃ that is due to the rounding of the served features, (p,).

        Args:
            sums_of_squares: Σ v r² of the residuals r, or an upper bound of it.
            weight: Σ v.
            squares: Σ v x̃², (p,).
        """
        k = len(self.columns)
        offset = 1 + (self._centre.abs() / self._scale).numpy()
        off = np.zeros(self.size)
        off[:k] = self.epsilon * math.sqrt(sums_of_squares) * (np.sqrt(squares[:k]) + offset * math.sqrt(weight))
        return off

    @cached_property
    def rounded(self) -> np.ndarray:
        """The columns in which different values of the table may be equal after rounding, boolean (k,). Takes a sweep.

        In float32 these are all columns but those of whole numbers, such as levels and years, whose rounding is far
        smaller than 1. In float64 these are the columns in which a few huge values, such as 999999999999 for a missing
        one, leave no digits for the others. Levels are never among them, so that those of sparse rows are not swept.
        """
        if self.is_sparse and len(numbers := self._numbers()) < len(self.columns):
            rounded = np.zeros(len(self.columns), bool)
            rounded[numbers] = self._with_columns(numbers, self.batches).rounded
            return rounded
        inexact, least = np.zeros(len(self.columns), bool), np.full(len(self.columns), np.inf)
        for block in self.blocks():
            original, error = self._original(block)
            whole = ((torch.round(original) - original).abs() <= 2 * error) & (error <= _FINE)
            inexact |= ~whole.all(0).cpu().numpy()
            size = torch.where(original.abs() > self._served_error.to(original.device), original.abs(), torch.inf)
            least = np.minimum(least, size.amin(0).cpu().numpy())
        inexact, least = self.processes.most(inexact.astype(float)) > 0, self.processes.least(least)
        size = np.abs(self.mean) + self.scale
        return inexact & (self.single | (COMPUTED * size > _TOLD * least) | (size > _HUGE))

    def _numbers(self) -> np.ndarray:
        """Positions of the columns that hold other served values than 0 and 1, (m,)."""
        low, high, sums, squares = torch.zeros(4, len(self.columns), dtype=torch.float64)
        for rows in self.batches:
            x, v = rows.design.columns(self.columns), torch.ones(len(rows.y), dtype=torch.float64, device=rows.y.device)
            least, most = x.bounds().cpu()
            low, high = torch.minimum(low, least), torch.maximum(high, most)
            sums, squares = sums + x.rmatvec(v).cpu(), squares + x.square_sums(v).cpu()
        low, high = self.processes.least(low), self.processes.most(high)
        sums, squares = self.processes.sums(sums, squares)
        return ((low < 0) | (high > 1) | (sums != squares)).nonzero()[:, 0].numpy()

    def settle(self) -> None:
        """Find out at once which columns are `rounded`, for a sweep that asks of every block.

        Several processes do it together, and one may have no block to ask of.
        """
        if self.processes.count > 1:
            self.epsilon = next((_epsilon(rows) for rows in self.batches), 0.0)
            if self.single:
                self.rounded  # noqa: B018 (it is kept)

    def restored(self, block: Block) -> Tensor:
        """The block's rows (r, p) with whole numbers restored that were rounded when they were served in float32.

        So values that are equal in the table are equal, and rows that lie on a plane in the table lie on it.
        """
        if not self.single or self.rounded.all() or not len(block.x):
            return block.x
        whole = np.flatnonzero(~self.rounded)
        mean, scale = (torch.from_numpy(t[whole]).to(block.x.device) for t in (self.mean, self.scale))
        x = block.x.clone()
        x[:, whole] = (torch.round(self._original(block)[0][:, whole]) - mean) / scale
        return x

    def _original(self, block: Block) -> tuple[Tensor, Tensor]:
        """Features in original units (r, k), and an estimate of their errors, (r, k)."""
        mean, scale, error = (
            torch.from_numpy(t).to(block.x.device) for t in (self.mean, self.scale, self.mean_error())
        )
        return block.x[:, : len(mean)] * scale + mean, self.rounding(block) * scale + error


def _epsilon(rows: Rows) -> float:
    """Machine epsilon of the features of rows, of none of them as well."""
    dtype = rows.design.dtype
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
