"""Quadratic models of the losses of fits at nearby penalties, and their minimisers under an L1 penalty.

All is in float32: what a step lacks in digits the next gradient, in float64, brings in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lr_lightning.solver import thresholds


class Models(ABC):
    """Hessians of P fits with their L2 penalties."""

    @abstractmethod
    def times(self, of: Tensor, w: Tensor) -> Tensor:
        """Products (f, k) of the Hessians of some fits (f,) with vectors w (f, k)."""

    @abstractmethod
    def solve(self, of: Tensor, on: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Solutions (f, k) by the blocks of the coordinates that are on, (f, k), and whether there is one, (f,)."""


class Matrices(Models):
    """A matrix for each fit.

    Args:
        hessians: of the losses, (P, k, k), float32; overwritten.
        l2: strengths of the penalties, (P, k).
    """

    def __init__(self, hessians: Tensor, l2: Tensor) -> None:
        hessians.diagonal(dim1=1, dim2=2).add_(l2)
        self._matrices = hessians
        self._on = torch.zeros(l2.shape, dtype=torch.bool)
        self._factors = torch.zeros_like(hessians)
        self._good = torch.zeros(len(l2), dtype=torch.bool)

    def times(self, of: Tensor, w: Tensor) -> Tensor:
        """As `Models`."""
        found = torch.empty_like(w)
        for part in self._parts(of):
            found[part] = torch.bmm(self._matrices[of[part]], w[part, :, None])[:, :, 0]
        return found

    def solve(self, of: Tensor, on: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """As `Models`."""
        new, right = ~self._good[of] | (self._on[of] != on).any(1), torch.where(on, right, 0.0)
        found = torch.empty_like(right)
        for part in self._parts(of):
            if bool(new[part].any()):
                self._factorize(of[part][new[part]], on[part][new[part]])
            found[part] = torch.cholesky_solve(right[part, :, None], self._factors[of[part]])[:, :, 0]
        return found, self._good[of]

    def _parts(self, of: Tensor) -> Sequence[Tensor]:
        """The places of some fits, so many at a time that copies of their matrices stay in a core's cache."""
        return torch.arange(len(of)).split(max(1, thresholds.FOLD_BLOCK // self._on.shape[1] ** 2))

    def _factorize(self, of: Tensor, on: Tensor) -> None:
        by = on.float()
        blocks = self._matrices[of].mul_(by[:, :, None]).mul_(by[:, None])
        blocks.diagonal(dim1=1, dim2=2).add_(1 - by)
        self._factors[of], info = torch.linalg.cholesky_ex(blocks)
        self._on[of], self._good[of] = on, info == 0


class Shared(Models):
    """A model for several fits.

    Args:
        models: of them.
        by: number of the model of each fit, (P,).
    """

    def __init__(self, models: list[Model], by: Tensor) -> None:
        self._models, self._by = models, by

    def _groups(self, of: Tensor) -> Iterator[tuple[Model, Tensor]]:
        by = self._by[of]
        for number in by.unique().tolist():
            yield self._models[number], (by == number).nonzero()[:, 0]

    def times(self, of: Tensor, w: Tensor) -> Tensor:
        """As `Models`."""
        found = torch.empty_like(w)
        for model, part in self._groups(of):
            found[part] = model.times(w[part])
        return found

    def solve(self, of: Tensor, on: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """As `Models`."""
        found, good = torch.zeros_like(right), torch.ones(len(of), dtype=torch.bool)
        for model, part in self._groups(of):
            solved = model.solve(on[part], right[part])
            if solved is None:
                good[part] = False
            else:
                found[part] = solved
        return found, good


class Model(ABC):
    """The Hessian of a fit with its L2 penalty, for fits at strengths nearby: (k, k), float32.

    Args:
        l2: strength of the penalty of each coordinate, (k,).
    """

    def __init__(self, l2: Tensor) -> None:
        self._l2 = l2.float()
        self._index = torch.empty(0, dtype=torch.long)
        self._inverse = torch.empty(0, 0)

    @abstractmethod
    def _product(self, w: Tensor) -> Tensor:
        """Products of vectors (b, k) with the Hessian of the losses."""

    @abstractmethod
    def _block(self, index: Tensor) -> Tensor:
        """The Hessian of the losses by some coordinates, (i, i)."""

    def times(self, w: Tensor) -> Tensor:
        """The products with vectors (b, k)."""
        return self._product(w) + w * self._l2

    def solve(self, on: Tensor, right: Tensor) -> Tensor | None:
        """Solutions (b, k) of the blocks of the coordinates that are on, (b, k); None if a block is singular.

        The inverse is that of the coordinates that are on in any of them. Those that are off in one are held at 0.
        """
        wanted = on.any(0)
        if int(wanted[self._index].sum()) < int(wanted.sum()) and not self._invert(wanted):
            return None
        index = self._index
        on = on[:, index]
        p = torch.where(on, right[:, index], 0.0) @ self._inverse
        for i in (~on.all(1)).nonzero()[:, 0].tolist():
            off = (~on[i]).nonzero()[:, 0]
            held = self._inverse[off]
            factor, info = torch.linalg.cholesky_ex(held[:, off])
            if info:
                return None
            p[i] -= torch.cholesky_solve(p[i, off, None], factor)[:, 0] @ held
            p[i, off] = 0
        out = torch.zeros_like(right)
        out[:, index] = p
        return out

    def _invert(self, wanted: Tensor) -> bool:
        both = wanted.clone()
        both[self._index] = True
        for chosen in (both, wanted):
            index = chosen.nonzero()[:, 0]
            block = self._block(index)
            block.diagonal().add_(self._l2[index])
            factor, info = torch.linalg.cholesky_ex(block)
            if not info:
                self._index, self._inverse = index, torch.cholesky_inverse(factor)
                return True
        return False


class MatrixModel(Model):
    """The model by the Hessian itself."""

    def __init__(self, hessian: Tensor, l2: Tensor) -> None:
        super().__init__(l2)
        self._matrix = hessian

    def _product(self, w: Tensor) -> Tensor:
        return w @ self._matrix

    def _block(self, index: Tensor) -> Tensor:
        return self._matrix.index_select(0, index)[:, index]


class RowsModel(Model):
    """By few rows.

    Args:
        columns: standardised, and the intercept's ones, (k, n).
        curvature: mean of the losses' second derivatives, (n,).
        l2: strengths, (k,).
    """

    def __init__(self, columns: Tensor, curvature: Tensor, l2: Tensor) -> None:
        super().__init__(l2)
        self._columns, self._curvature = columns, curvature

    def _product(self, w: Tensor) -> Tensor:
        return ((w @ self._columns) * self._curvature) @ self._columns.T

    def _block(self, index: Tensor) -> Tensor:
        of_index = self._columns[index]
        return (of_index * self._curvature) @ of_index.T


def settle(
    models: Models, of: Tensor, u: Tensor, level: Tensor, sign: Tensor, l1: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """The minimisers (f, k) of models with their penalties, and whether there are any, (f,).

    Newton steps with signs held, until these agree (a primal-dual active set: Hintermüller, Ito & Kunisch 2003).

    Args:
        models: around u.
        of: numbers of the fits, (f,).
        u: (f, k).
        level: minus the gradient there, with that of the L2 penalty, (f, k).
        sign: of the coordinates that are penalised, (f, k).
        l1: strengths, (f, k).
        share: of the coordinates in use, how many may enter in a step.
    """
    start, level, sign, l1 = (t.float() for t in (u, level, sign, l1))
    free, finite = l1 == 0, torch.where(l1.isinf(), 0.0, l1)
    point, found = u.clone(), torch.ones(len(u), dtype=torch.bool)
    pending, residual, leaving = torch.arange(len(u)), level, torch.zeros_like(free)
    for _ in range(thresholds.MODEL_STEPS):
        on = (sign[pending] != 0) | free[pending]
        excess = torch.where(on, 0.0, residual.abs() - l1[pending])
        entering = _largest(excess, (share * on.sum(1)).long() + thresholds.FEW_ENTERING)
        of_pending = torch.where(leaving, 0.0, torch.where(entering, residual.sign(), sign[pending]))
        sign[pending] = of_pending
        on = (of_pending != 0) | free[pending]
        p = torch.where(on, 0.0, -start[pending])
        right = level[pending] - finite[pending] * of_pending
        if bool(p.any()):
            right = right - models.times(of[pending], p)
        solved, good = models.solve(of[pending], on, right)
        if not bool(good.all()):
            found[pending[~good]] = False
            pending, p, solved, of_pending, on = (t[good] for t in (pending, p, solved, of_pending, on))
        p = p + solved
        leaving = (start[pending] + p) * of_pending < 0
        residual = level[pending] - models.times(of[pending], p)
        point[pending] = torch.where(on & ~leaving, u[pending] + p.double(), 0.0)
        open_ = (leaving | ((residual.abs() > l1[pending]) & ~on)).any(1)
        if not bool(open_.any()):
            break
        pending, residual, leaving = (t[open_] for t in (pending, residual, leaving))
    return point, found


def _largest(excess: Tensor, most: Tensor) -> Tensor:
    """The positive ones of each row of excess (f, k), at most so many, (f,)."""
    positive = excess > 0
    for i in (positive.sum(1) > most).nonzero()[:, 0].tolist():
        positive[i] &= excess[i] >= excess[i].topk(int(most[i])).values[-1]
    return positive
