"""Models of the objective's curvature: what turns a gradient into a step without a pass over the rows.

All tensors are float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lr_lightning.solver.quadratic import RANK_TOLERANCE, minimize_l1, nullity, solve_spd, support, support_step

_LEAST_ENTERING = 128


class DenseCurvature:
    """The sample's Hessian, corrected by BFGS with every full gradient that has been seen.

    For up to about two thousand coefficients the whole matrix is kept. Unlike L-BFGS's recursion it forgets
    nothing and can serve an L1 penalty, which needs the matrix and not its inverse.

    Args:
        matrix: (k, k), positive semi-definite.
        rank_tolerance: See `solve_spd`.
    """

    def __init__(self, matrix: Tensor, rank_tolerance: float = RANK_TOLERANCE) -> None:
        self.matrix = matrix
        self._rank_tolerance = rank_tolerance

    def update(self, s: Tensor, y: Tensor) -> None:
        """Makes the matrix take the step ``s`` (k,) to the change ``y`` (k,) of the gradient."""
        product = self.matrix @ s
        predicted, observed = float(s @ product), float(s @ y)
        # A change of the gradient within its rounding says nothing of the curvature.
        if not observed > 1e-8 * predicted or not predicted > 0:
            return
        updated = self.matrix + torch.outer(y, y / observed) - torch.outer(product, product / predicted)
        # Along nearly dependent columns s'Bs is a small difference of large terms, and the update may leave
        # the matrix indefinite, which exactly it could not.
        largest = float(self.matrix.diagonal().max())
        if predicted < 1e-6 * largest * float(s @ s):
            shifted = updated.clone()
            shifted.diagonal().add_(1e-9 * largest)
            if torch.linalg.cholesky_ex(shifted).info:
                return
        self.matrix = updated

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The step (k,) from ``point`` (k,) to the minimiser of the model plus ``l1`` (k,) penalty.

        ``ridge`` is added to the diagonal, and shortens the step where there is little curvature.
        """
        matrix = self.matrix
        if ridge:
            matrix = matrix.clone()
            matrix.diagonal().add_(ridge)
        if l1.any():
            return minimize_l1(matrix, gradient, point, l1, self._rank_tolerance) - point
        return solve_spd(matrix, -gradient, self._rank_tolerance)

    def support_step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor | None:
        """See `quadratic.support_step`."""
        index = support(point, l1)
        return support_step(self.matrix[index[:, None], index], point, gradient, l1, self._rank_tolerance)

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector (k,)."""
        return self.matrix @ vector

    def nullity(self) -> int:
        """Number of directions, columns of zeros aside, whose curvature is rounding."""
        return nullity(self.matrix, self._rank_tolerance)

    def state(self) -> dict[str, Any]:
        """What the constructor needs to make it again."""
        return {"matrix": self.matrix, "rank_tolerance": self._rank_tolerance}


class LimitedMemoryCurvature:
    """L-BFGS on a diagonal, with memory linear in the coefficients (Nocedal & Wright 2006, algorithm 7.4).

    Args:
        diagonal: (k,), positive.
        history_size: Number of pairs kept.
    """

    def __init__(self, diagonal: Tensor, history_size: int) -> None:
        self.diagonal = diagonal
        self._history_size = history_size
        self._pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, s: Tensor, y: Tensor) -> None:
        """Adds the step ``s`` (k,) and the change ``y`` (k,) of the gradient to the memory."""
        if float(s @ y) > 1e-12 * float(s.norm()) * float(y.norm()):
            self._pairs = [*self._pairs, (s, y)][-self._history_size :]

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor:
        """The quasi-Newton step (k,) from ``point`` (k,); an L1 penalty is `WorkingSetCurvature`'s."""
        q = -gradient
        alphas = []
        for s, y in reversed(self._pairs):
            alpha = (s @ q) / (s @ y)
            alphas.append(alpha)
            q = q - alpha * y
        q = q / self.diagonal
        if self._pairs:  # the scale of the last step, as usual for L-BFGS
            s, y = self._pairs[-1]
            q = q * ((s @ y) / (y @ (y / self.diagonal)))
        for (s, y), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q = q + s * (alpha - (y @ q) / (s @ y))
        return q

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        return {
            "diagonal": self.diagonal,
            "steps": [s for s, _ in self._pairs],
            "changes": [y for _, y in self._pairs],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        self.diagonal = state["diagonal"]
        self._pairs = list(zip(state["steps"], state["changes"], strict=True))


class WorkingSetCurvature:
    """The sample's Hessian over the few coordinates that an L1 penalty lets move; for wide tables.

    Args:
        hessian: Function from a point (k,) and an index (m,) of coordinates to their block (m, m) of the
            Hessian.
        point: (k,), where the Hessian is taken.
        limit: Largest m.
        rank_tolerance: See `solve_spd`.

    Attributes:
        left_out: What the coordinates outside of the last step's set could still contribute to the decrease,
            for curvatures of 1/4, the highest that a standardised feature has.
    """

    def __init__(
        self,
        hessian: Callable[[Tensor, Tensor], Tensor],
        point: Tensor,
        limit: int,
        rank_tolerance: float = RANK_TOLERANCE,
    ) -> None:
        self.left_out = 0.0
        self._rank_tolerance = rank_tolerance
        self._hessian = hessian
        self._point = point
        self._limit = limit

    def update(self, s: Tensor, y: Tensor) -> None:
        """Goes along with the accepted step ``s`` (k,): the block is computed anew at every point."""
        self._point = self._point + s

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor:
        """The step (k,) over the non-zero coordinates and about as many of those that should leave zero."""
        nonzero = (point != 0) | (l1 == 0)
        of_zeros = (gradient.abs() - l1).clamp(min=0)
        violation = torch.where(nonzero, (gradient + l1 * point.sign()).abs(), of_zeros)
        support = int(nonzero.sum())
        candidates = int((nonzero | (violation > 0)).sum())
        size = min(support + max(_LEAST_ENTERING, support), candidates, self._limit)
        # Non-zero coordinates come first, as long as there is room for all of them.
        rank = torch.where(nonzero, torch.inf, violation) if support < size else violation
        index = rank.topk(size).indices.sort().values
        violation[index] = 0
        self.left_out = 2 * float(violation.square().sum())
        p = torch.zeros_like(point)
        if len(index):
            start = point[index]
            block = self._hessian(self._point, index)
            p[index] = minimize_l1(block, gradient[index], start, l1[index], self._rank_tolerance) - start
        return p

    def support_step(self, point: Tensor, gradient: Tensor, l1: Tensor) -> Tensor | None:
        """See `quadratic.support_step`."""
        index = support(point, l1)
        if len(index) > self._limit:
            return None
        return support_step(self._hessian(self._point, index), point, gradient, l1, self._rank_tolerance)

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        return {"point": self._point}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` gave."""
        self._point = state["point"]
