"""The rows as the statistics see them: standardised columns and an intercept, float64, in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CPU_BLOCK = 2**20  # elements: 8 MiB; of smaller blocks, waking torch's threads costs more than the products
_DEVICE_BLOCK = 2**25
_MOST_DECIMALS = 4


class Block(NamedTuple):
    """Rows of positive weight.

    Attributes:
        x: standardised features, then a column of ones where there is an intercept, (r, p), float64.
        sign: +1 for a positive row, −1 for a negative one, (r,), float64.
        weight: (r,), float64, positive.
        start: number of the first row, counting rows of positive weight.
    """

    x: Tensor
    sign: Tensor
    weight: Tensor
    start: int


class DesignMatrix:
    """The columns that matter, standardised, and the intercept; the coordinates in which all algebra is done.

    Args:
        batches: `(x, y)` or `(x, y, weight)`: features as they are served, (n, d), targets 0 or 1, (n,), weights
            (n,), on any device; iterated once a sweep.
        served: means and scales (d,) that have been taken off the features that the batches hold.
        training: means and scales (d,) of the rows, in the units of the batches; 0 marks a constant column.
        intercept: whether the model has one; without, the columns are not centred.
    """

    epsilon = 0.0
    """Machine epsilon of the served features; known once `blocks` has begun."""

    def __init__(
        self,
        batches: Iterable[Sequence[Tensor]],
        *,
        served: tuple[Tensor, Tensor],
        training: tuple[Tensor, Tensor],
        intercept: bool = True,
    ):
        self.batches, self.intercept = batches, intercept
        mean, scale = (t.detach().double().cpu() for t in training)
        served_mean, served_scale = (t.detach().double().cpu() for t in served)
        self.n_features = len(mean)
        origin = -served_mean / served_scale  # where the original zero lies in the batches' units
        self.columns = (scale if intercept else torch.hypot(scale, mean - origin)).nonzero()[:, 0]
        """Indices of the columns that vary, or without an intercept are not 0, (k,); p = k + 1 with one, else k."""
        kept_mean, kept_scale, self._origin = (
            served_mean[self.columns],
            served_scale[self.columns],
            origin[self.columns],
        )
        self._centre = mean[self.columns] if intercept else self._origin
        self._scale = torch.hypot(scale[self.columns], mean[self.columns] - self._centre)
        self.mean = (kept_mean + kept_scale * self._centre).numpy() if intercept else np.zeros(len(self.columns))
        """Original units: (original - mean) / scale is standardised, (k,)."""
        self.scale = (kept_scale * self._scale).numpy()

    @property
    def size(self) -> int:
        """Number of parameters, p."""
        return len(self.columns) + self.intercept

    def standardized(self, weight: Tensor, bias: Tensor | float | None) -> np.ndarray:
        """Parameters (p,), intercept last, from the weight (d,) and bias for the features as they are served."""
        w = weight.detach().double().cpu().reshape(-1)[self.columns]
        u = w * self._scale
        if not self.intercept:
            return u.numpy()
        b = 0.0 if bias is None else float(bias)
        return np.append(u.numpy(), b + float(w @ self._centre))

    def to_original(self, parameters: np.ndarray) -> np.ndarray:
        """The linear map of parameters (p, …), or of directions, to the original units, (p, …)."""
        shape = (-1,) + (1,) * (parameters.ndim - 1)
        k = len(self.columns)
        slopes = parameters[:k] / self.scale.reshape(shape)
        if not self.intercept:
            return slopes
        offset = parameters[k] - np.tensordot(self.mean, slopes, 1)
        return np.concatenate([slopes, offset[None]])

    def mean_error(self) -> np.ndarray:
        """How far `mean` may be off for the rounding of the served features, (k,), about."""
        served = self.epsilon * (self._centre.abs() + self._scale) * torch.from_numpy(self.scale) / self._scale
        return served.numpy() + 2.0**-40 * np.abs(self.mean)

    def blocks(self) -> Iterator[Block]:
        """All rows of positive weight, in order."""
        start, k = 0, len(self.columns)
        for x, y, *weight in self.batches:
            centre, scale, columns = (t.to(x.device) for t in (self._centre, self._scale, self.columns))
            self.epsilon = torch.finfo(x.dtype).eps if x.dtype.is_floating_point else 0.0
            all_columns = k == x.shape[1]
            rows = max(128, (_CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK) // max(1, self.size))
            for first in range(0, len(x), rows):
                part = slice(first, first + rows)
                block, target = x[part], y[part].reshape(-1).double()
                v = torch.ones_like(target) if not weight else weight[0][part].reshape(-1).double()
                used = v > 0
                if not bool(used.all()):
                    block, target, v = block[used], target[used], v[used]
                if not all_columns:
                    block = block.index_select(1, columns)
                out = torch.ones(len(block), self.size, dtype=torch.float64, device=x.device)
                torch.sub(block.double(), centre, out=out[:, :k]).div_(scale)
                yield Block(out, 2 * (target > 0.5).double() - 1, v, start)
                start += len(block)

    def rounding(self, block: Block) -> Tensor:
        """How far the standardised features (r, k) may be from those of the original table, about.

        A served value was rounded when it was read, relative to its distance from the original zero, and when it
        was served, relative to itself; and what is fitted to rounded columns is off by roundings of their size.
        """
        scale, centre, origin = (t.to(block.x.device) for t in (self._scale, self._centre, self._origin))
        served = block.x[:, : len(self.columns)] * scale + centre
        return (self.epsilon * (served.abs() + scale) + 2.0**-52 * ((served - origin).abs() + centre.abs())) / scale

    def restored(self, block: Block) -> np.ndarray:
        """Rows (r, p) with the digits that serving them in float32 has rounded away, on the CPU.

        A column whose rounding is far finer than its decimals (0 and 1, whole years, cents) gets those back, so that
        equal values are equal again, and rows that lie exactly on a plane do so still.
        """
        x = block.x.cpu().numpy().copy()
        if self.epsilon <= 2.0**-52 or not len(x):
            return x
        k = len(self.columns)
        original = x[:, :k] * self.scale + self.mean
        error = self.rounding(block).cpu().numpy().max(0) * self.scale + self.mean_error()
        for decimals in range(_MOST_DECIMALS + 1):
            rounded = np.round(original, decimals)
            fits = (np.abs(rounded - original).max(0) <= 2 * error) & (error * 100 <= 10.0**-decimals)
            x[:, :k] = np.where(fits, (rounded - self.mean) / self.scale, x[:, :k])
            original = np.where(fits, np.nan, original)
        return x
