"""Models of the objective's curvature: each turns a gradient into a step without a pass over the rows.

All tensors are float64 on the CPU, unless said otherwise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.decompositions import singular_values, svd
from lr_lightning.solver.quadratic import ScaledCholesky, minimize_l1, nullity, support, support_step


class Curvature(ABC):
    """A model of the Hessian of the smooth part of the objective, (k, k).

    The methods that are not abstract answer for a model that keeps no matrix.

    Attributes:
        left_out: Upper bound of the decrease that the last step has left to coordinates outside of its working set.
    """

    left_out = 0.0

    @abstractmethod
    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The step (k,) from ``point`` (k,) to the minimiser of the quadratic model plus the L1 penalty.

        Args:
            point: (k,).
            gradient: Of the smooth part at ``point``, (k,).
            l1: λ, (k,).
            ridge: One of `ridges`, which is added to the diagonal and shortens the step.
        """

    @abstractmethod
    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Take in the change ``y`` (k,) of the gradient over a step ``s`` (k,).

        Args:
            s: The step.
            y: The change.
            accepted: Whether the point has moved by the step.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The model as plain values and tensors, for `load`."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> Curvature:
        """The model that gave ``state``."""

    def ridges(self) -> Iterator[float]:
        """Ridges to try, rising; none where a step can only be scaled down."""
        yield from ()

    def take_off(self, ridge: float) -> bool:
        """Subtract ``ridge`` from the diagonal; False where the model has to be computed anew instead."""
        return False

    def support_step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor | None:
        """The Newton step on the non-zero coordinates, see `quadratic.support_step`; None without one."""
        return None

    def product(self, vector: Tensor) -> Tensor | None:
        """The model times a vector (k,); None where only products with its inverse are known."""
        return None

    def smallest_pivot(self) -> float:
        """Least squared pivot of the model scaled to unit diagonal; 1 where no matrix is kept."""
        return 1.0

    def nullity(self) -> int:
        """Number of directions, columns of zeros aside, whose curvature is rounding."""
        return 0

    def noise(self, rows: int, *, double: bool) -> float:
        """Rounding error of the Newton decrement, relative to the objective.

        Args:
            rows: Number of rows of the sample.
            double: Whether the gradient is computed in float64.
        """
        return 1e-12 if double else 1e-9


class DenseCurvature(Curvature):
    """The sample's Hessian, corrected by BFGS with every full gradient.

    For up to about two thousand coefficients the whole matrix is kept. Unlike the recursion of L-BFGS, the matrix
    forgets no correction and serves an L1 penalty, which needs the matrix and not its inverse.

    Args:
        matrix: (k, k), positive semi-definite.
        rank_tolerance: See `solve_spd`.
    """

    def __init__(self, matrix: Tensor, rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE) -> None:
        self.matrix = matrix
        self._rank_tolerance = rank_tolerance
        self._factorised: ScaledCholesky | None = None

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Make the matrix map the step ``s`` (k,) to the change ``y`` (k,) of the gradient."""
        product = self.matrix @ s
        predicted, observed = float(s @ product), float(s @ y)
        # A change of the gradient within its rounding says nothing of the curvature.
        if not observed > 1e-8 * predicted or not predicted > 0:
            return
        updated = self.matrix + torch.outer(y, y / observed) - torch.outer(product, product / predicted)
        # Along nearly dependent columns s'Bs is a small difference of large terms; rounding may then leave the
        # updated matrix indefinite.
        largest = float(self.matrix.diagonal().max())
        if predicted < 1e-6 * largest * float(s @ s):
            shifted = updated.clone()
            shifted.diagonal().add_(1e-9 * largest)
            if torch.linalg.cholesky_ex(shifted).info:
                return
        self.matrix = updated

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """See `Curvature.step`."""
        if ridge:
            matrix = self.matrix.clone()
            matrix.diagonal().add_(ridge)
            return DenseCurvature(matrix, self._rank_tolerance).step(point, gradient, l1)
        if l1.any():
            return minimize_l1(self.matrix, gradient, point, l1, self._rank_tolerance) - point
        return self._cholesky.solve(-gradient, self._rank_tolerance)

    def ridges(self) -> Iterator[float]:
        """See `Curvature.ridges`."""
        ridge = 1e-8 * float(self.matrix.diagonal().max())
        for _ in range(12):
            yield ridge
            ridge *= 10

    def take_off(self, ridge: float) -> bool:
        """See `Curvature.take_off`."""
        self.matrix = self.matrix.clone()
        self.matrix.diagonal().sub_(ridge)
        return True

    def support_step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor | None:
        """See `quadratic.support_step`."""
        index = support(point, l1)
        return support_step(self.matrix[index[:, None], index], point, gradient, l1, self._rank_tolerance)

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector (k,)."""
        return self.matrix @ vector

    def smallest_pivot(self) -> float:
        """See `quadratic.smallest_pivot`."""
        return self._cholesky.smallest_pivot()

    def nullity(self) -> int:
        """See `Curvature.nullity`."""
        return nullity(self.matrix, self._rank_tolerance)

    def noise(self, rows: int, *, double: bool) -> float:
        """See `Curvature.noise`; a step multiplies the rounding by the inverse of the least pivot."""
        noise = super().noise(rows, double=double)
        if double:
            return noise
        pivot = max(self.smallest_pivot(), thresholds.ROUNDED_RANK_TOLERANCE)
        return max(noise, 10 * torch.finfo(torch.float32).eps ** 2 / (rows * pivot))

    def state(self) -> dict[str, Any]:
        """The constructor's arguments, for `load`."""
        return {"matrix": self.matrix, "rank_tolerance": self._rank_tolerance}

    def load(self, state: dict[str, Any]) -> Curvature:
        """The model that gave ``state``; a `DenseCurvature` or a `FactoredCurvature`, whichever this one is."""
        return (FactoredCurvature if "factor" in state else DenseCurvature)(**state)

    @property
    def _cholesky(self) -> ScaledCholesky:
        """The factor of the present matrix, which is computed once."""
        if self._factorised is None or self._factorised.matrix is not self.matrix:
            self._factorised = ScaledCholesky(self.matrix)
        return self._factorised


class FactoredCurvature(DenseCurvature):
    """A curvature RᵀR of an ill-conditioned problem, kept as its triangular factor R and corrected by BFGS.

    Forming XᵀDX squares the condition number of √D·X. A QR factorisation of the rows avoids that: it tells nearly
    dependent columns, powers of a feature, and rows that are predicted almost perfectly apart down to a ratio of about
    1e-13 (Golub & Van Loan 2013, section 5.3.8).

    Args:
        factor: R, (r, k), upper triangular; of fewer rows than columns r < k.

    Attributes:
        matrix: RᵀR.
    """

    def __init__(self, factor: Tensor) -> None:
        self._factor = factor
        super().__init__(factor.T @ factor)

    @classmethod
    def of_rows(cls, rows: Tensor, l2: Tensor) -> FactoredCurvature:
        """From rows (m, k), on any device, whose Gram matrix is the loss's Hessian, and the penalty ``l2`` (k,)."""
        factor = torch.linalg.qr(rows, mode="r").R.cpu()
        return cls(torch.linalg.qr(torch.cat([factor, l2.sqrt().diag()[l2 > 0]]), mode="r").R)

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Make RᵀR map the step ``s`` (k,) to the change ``y`` (k,) of the gradient.

        The update of the factor is that of Dennis & Schnabel (1983, section 9.2).
        """
        moved = self._factor @ s
        predicted, observed = float(moved @ moved), float(s @ y)
        # A change of the gradient within its rounding says nothing of the curvature.
        if not observed > 1e-8 * predicted or not predicted > 0:
            return
        aim = moved * (observed / predicted) ** 0.5
        factor = self._factor + torch.outer(aim, y - self._factor.T @ aim) / observed
        self._factor = torch.linalg.qr(factor, mode="r").R
        self.matrix = self._factor.T @ self._factor

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """See `Curvature.step`."""
        if ridge or l1.any():
            return super().step(point, gradient, l1, ridge)
        factor, scale = self._scaled()
        r, least = -gradient / scale, thresholds.FACTOR_RANK_TOLERANCE * len(gradient)
        if len(factor) == len(gradient) and float(factor.diagonal().abs().min()) > least:
            half = torch.linalg.solve_triangular(factor.T, r[:, None], upper=False)
            return torch.linalg.solve_triangular(factor, half, upper=True)[:, 0] / scale
        _, values, vectors = svd(factor, full_matrices=False)
        least *= float(values[0])
        parts = vectors @ r
        # Where columns depend on each other, the gradient along such a direction is rounding alone.
        rounding = (values < least) & (parts.abs() < thresholds.FACTOR_ROUNDING)
        parts = torch.where(rounding, 0.0, parts / values.clamp(min=least).square())
        return vectors.T @ parts / scale

    def product(self, vector: Tensor) -> Tensor:
        """RᵀR times a vector (k,)."""
        return self._factor.T @ (self._factor @ vector)

    def nullity(self) -> int:
        """See `Curvature.nullity`."""
        factor, _ = self._scaled()
        values = singular_values(factor)
        rank = int((values > thresholds.FACTOR_RANK_TOLERANCE * factor.shape[1] * values[0]).sum())
        return int((factor != 0).any(0).sum()) - rank

    def noise(self, rows: int, *, double: bool) -> float:
        """See `Curvature.noise`; a step multiplies the rounding by the inverse of the least pivot."""
        noise = super().noise(rows, double=double)
        if not double:
            return noise
        factor = self._scaled()[0]
        pivot = float(factor.diagonal().abs().min()) if len(factor) == factor.shape[1] else 0.0
        return max(noise, (10 * torch.finfo(torch.float64).eps / max(pivot, thresholds.FACTOR_RANK_TOLERANCE)) ** 2)

    def state(self) -> dict[str, Any]:
        """The constructor's arguments, for `load`."""
        return {"factor": self._factor}

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """The factor with columns of length 1, and their lengths."""
        length = torch.linalg.vector_norm(self._factor, dim=0)
        scale = torch.where(length > 0, length, 1.0)
        return self._factor / scale, scale


def inverse_bfgs(vector: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """B⁻¹ times a vector (k,), with B updated by BFGS (Nocedal & Wright 2006, algorithm 7.4).

    Args:
        vector: (k,).
        pairs: steps and changes of the gradient, the oldest first.
        inverse: the product with B⁻¹ before the updates.
    """
    q, alphas = vector, []
    for s, y in reversed(pairs):
        alpha = (s @ q) / (s @ y)
        alphas.append(alpha)
        q = q - alpha * y
    q = inverse(q)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - (y @ q) / (s @ y))
    return q


class LimitedMemoryCurvature(Curvature):
    """L-BFGS on a diagonal, with memory linear in the coefficients (Nocedal & Wright 2006, algorithm 7.4).

    Args:
        diagonal: (k,), positive.
        history_size: Number of pairs kept.
    """

    def __init__(self, diagonal: Tensor, history_size: int) -> None:
        self.diagonal = diagonal
        self._history_size = history_size
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Add the step ``s`` (k,) and the change ``y`` (k,) of the gradient to the memory."""
        if float(s @ y) > 1e-12 * float(s.norm()) * float(y.norm()):
            self._pairs = [*self._pairs, (s, y)][-self._history_size :]

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The quasi-Newton step (k,) from ``point`` (k,); an L1 penalty is for `WorkingSetCurvature`."""
        scale: float | Tensor = 1.0
        if self._pairs:  # of the last step, as usual for L-BFGS
            s, y = self._pairs[-1]
            scale = (s @ y) / (y @ (y / self.diagonal))
        return inverse_bfgs(-gradient, self._pairs, lambda q: q / self.diagonal * scale)

    def state(self) -> dict[str, Any]:
        """The model as plain values and tensors, for `load`."""
        return {
            "diagonal": self.diagonal,
            "steps": [s for s, _ in self._pairs],
            "changes": [y for _, y in self._pairs],
        }

    def load(self, state: dict[str, Any]) -> Curvature:
        """Take over what `state` gave."""
        self.diagonal = state["diagonal"]
        self._pairs = list(zip(state["steps"], state["changes"], strict=True))
        return self


class PointwiseCurvature(Curvature):
    """A model that is computed anew at every point and learns nothing from changes of the gradient.

    Args:
        point: (k,), where the Hessian is taken.
    """

    def __init__(self, point: Tensor) -> None:
        self._point = point

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Move by an accepted step ``s`` (k,)."""
        if accepted:
            self._point = self._point + s

    def state(self) -> dict[str, Any]:
        """The model as plain values and tensors, for `load`."""
        return {"point": self._point}

    def load(self, state: dict[str, Any]) -> Curvature:
        """Take over what `state` gave."""
        self._point = state["point"]
        return self


class WorkingSetCurvature(PointwiseCurvature):
    """The sample's Hessian over the few coordinates that an L1 penalty lets move; for wide tables.

    Args:
        hessian: Function from a point (k,) and an index (m,) of coordinates to their block (m, m) of the
            Hessian.
        point: (k,), where the Hessian is taken.
        limit: Largest m.
        rank_tolerance: See `solve_spd`.

    Attributes:
        left_out: See `Curvature`; for curvatures of 1/4, the highest that a standardised feature has.
    """

    def __init__(
        self,
        hessian: Callable[[Tensor, Tensor], Tensor],
        point: Tensor,
        limit: int,
        rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE,
    ) -> None:
        super().__init__(point)
        self._rank_tolerance = rank_tolerance
        self._hessian = hessian
        self._limit = limit

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The step (k,) over the non-zero coordinates and about as many of those that should leave zero."""
        nonzero = (point != 0) | (l1 == 0)
        of_zeros = (gradient.abs() - l1).clamp(min=0)
        violation = torch.where(nonzero, (gradient + l1 * point.sign()).abs(), of_zeros)
        support = int(nonzero.sum())
        candidates = int((nonzero | (violation > 0)).sum())
        size = min(support + max(thresholds.LEAST_ENTERING, support), candidates, self._limit)
        # Non-zero coordinates come first, as long as there is room for all of them.
        rank = torch.where(nonzero, torch.inf, violation) if support < size else violation
        index = rank.topk(size).indices.sort().values
        violation[index] = 0
        self.left_out = 2 * float(violation.square().sum())
        p = torch.zeros_like(point)
        if len(index):
            start = point[index]
            block = self._block(index)
            p[index] = minimize_l1(block, gradient[index], start, l1[index], self._rank_tolerance) - start
        return p

    def support_step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor | None:
        """See `quadratic.support_step`."""
        index = support(point, l1)
        if len(index) > self._limit:
            return None
        return support_step(self._block(index), point, gradient, l1, self._rank_tolerance)

    def _block(self, index: Tensor) -> Tensor:
        return self._hessian(self._point, index)


class KeptBlockCurvature(WorkingSetCurvature):
    """Curvature by a block of the Hessian that takes longer than passes: kept for as long as its steps converge.

    The first block is that of a part of the rows. Where a new block does not make the steps converge, the next one is
    that of all rows.

    Args:
        hessian: As in `WorkingSetCurvature`, of a part of the rows.
        whole: Gives a block of the Hessian of all rows.
        point: (k,), where the Hessian is taken.
        limit: Largest size of a block.
        rank_tolerance: See `solve_spd`.
    """

    def __init__(
        self,
        hessian: Callable[[Tensor, Tensor], Tensor],
        whole: Callable[[Tensor, Tensor], Tensor],
        point: Tensor,
        limit: int,
        rank_tolerance: float = thresholds.EQUATION_RANK_TOLERANCE,
    ) -> None:
        super().__init__(hessian, point, limit, rank_tolerance)
        self._whole = whole
        self._kept: tuple[Tensor, Tensor] | None = None  # coordinates and block
        self._moves = 0  # since the block was computed
        self._decrement = math.inf  # that the last step predicted

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Move by an accepted step ``s`` (k,)."""
        super().update(s, y, accepted=accepted)
        self._moves += accepted

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """See `WorkingSetCurvature.step`."""
        moves = self._moves
        p = super().step(point, gradient, l1, ridge)
        decrement = _decrement(p, point, gradient, l1)
        if self._moves and decrement > thresholds.OLD_HESSIAN * self._decrement:
            if moves == 1:
                self._hessian = self._whole
            self._kept = None
            p = super().step(point, gradient, l1, ridge)
            decrement = _decrement(p, point, gradient, l1)
        self._decrement = decrement
        return p

    def _block(self, index: Tensor) -> Tensor:
        if self._kept is not None:
            coordinates, block = self._kept
            place = torch.searchsorted(coordinates, index).clamp(max=len(coordinates) - 1)
            if torch.equal(coordinates[place], index):
                return block[place[:, None], place]
        self._kept, self._moves = (index, self._hessian(self._point, index)), 0
        return self._kept[1]


def _decrement(p: Tensor, point: Tensor, gradient: Tensor, l1: Tensor) -> float:
    """The decrease of the objective that a model predicts to first order for a step p (k,)."""
    return -float(gradient @ p + l1 @ ((point + p).abs() - point.abs()))
