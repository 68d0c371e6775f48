"""Newton steps without a matrix: products with the rows alone, for sparse rows and categories of many levels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lr_lightning.model.storage import Design
from lr_lightning.solver import thresholds
from lr_lightning.solver.curvature import PointwiseCurvature


class ConjugateGradientCurvature(PointwiseCurvature):
    r"""The Hessian of the whole problem, inverted by conjugate gradients; for wide sparse tables.

    With the rows' curvatures :math:`h = v_i \sigma(z_i) \sigma(-z_i) / \sum v` the Hessian is
    :math:`X^\top \mathrm{diag}(h) X + \Lambda`, and a product with it one pass over the rows. Its diagonal is the
    preconditioner (Hsia, Chiang & Lin 2018, "Preconditioned conjugate gradient methods in truncated Newton frameworks
    for large-scale linear classification"). A step is the less exact the farther the minimum is (Dembo, Eisenstat &
    Steihaug 1982, "Inexact Newton methods"); what it leaves over counts against convergence.

    Args:
        x: (n, d), all rows, standardised.
        l2: (k,), as the coefficients; k is d + 1 with an intercept, and d without.
        row_curvature: function from a point (k,) to h, (n,).
        diagonal: function from h to the Hessian's diagonal (k,), positive.
        point: (k,), where the Hessian is taken.
        tol: decrement, relative to the objective, at which the fit ends; where it is looser than the default, so are
            the steps.

    Attributes:
        left_out: see `Curvature`; estimated by the preconditioner.
    """

    def __init__(
        self,
        x: Design,
        l2: Tensor,
        row_curvature: Callable[[Tensor], Tensor],
        diagonal: Callable[[Tensor], Tensor],
        point: Tensor,
        tol: float = 0.0,
    ) -> None:
        super().__init__(point)
        is_loose = tol > thresholds.SPARSE_TOLERANCE
        self._finest = thresholds.STEP_TO_TOLERANCE * tol if is_loose else thresholds.FINEST_STEP
        self._x = x
        self._l2 = l2
        self._row_curvature = row_curvature
        self._diagonal = diagonal
        self._known: tuple[Tensor, Tensor, float] | None = None  # gradient, step, and what the step has left over

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Move by an accepted step ``s`` (k,)."""
        super().update(s, y, accepted=accepted)
        if accepted:
            self._known = None

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The Newton step (k,) from ``point`` (k,), which is where the curvature has come; ``l1`` is zero."""
        if self._known is None or not torch.equal(self._known[0], gradient):
            self._known = gradient, *self._solve(gradient)
        _, p, self.left_out = self._known
        return p

    def _solve(self, gradient: Tensor) -> tuple[Tensor, float]:
        h = self._row_curvature(self._point)
        scale, diagonal = float(h.sum(dtype=torch.float64)), self._diagonal(h)
        p, residual = torch.zeros_like(gradient), -gradient
        direction = conditioned = residual / diagonal
        left = first = float(residual @ conditioned)
        exactness = min(thresholds.LOOSEST_STEP, (first / scale) ** 0.5) if scale > 0 else 0.0
        enough = max(exactness**2 * first, self._finest * scale)
        for _ in range(thresholds.CONJUGATE_GRADIENTS):
            if not left > enough:
                break
            product = self._product(h, direction)
            bend = float(direction @ product)
            if not bend > 0:
                break
            length = left / bend
            p = p + length * direction
            residual = residual - length * product
            conditioned = residual / diagonal
            before, left = left, float(residual @ conditioned)
            direction = conditioned + (left / before) * direction
        return p, left / 2

    def _product(self, h: Tensor, vector: Tensor) -> Tensor:
        """The Hessian times a vector (k,)."""
        d = self._x.shape[1]
        has_intercept = len(vector) > d
        of_features, of_intercept = self._x.hessian_product(h, vector[:d], vector[d] if has_intercept else None)
        product = self._l2 * vector
        product[:d] += of_features.cpu()
        if has_intercept:
            product[d] += of_intercept.cpu()
        return product
