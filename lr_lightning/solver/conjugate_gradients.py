"""Newton steps without a matrix: products with the rows alone, for sparse rows and categories of many levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lr_lightning.model.losses import Outcomes, residuals
from lr_lightning.model.storage import Design
from lr_lightning.model.threads import serial_operations
from lr_lightning.solver import thresholds
from lr_lightning.solver.curvature import Curvature, PointwiseCurvature


class ConjugateGradientCurvature(PointwiseCurvature):
    r"""The Hessian of the whole problem, inverted by conjugate gradients; for wide sparse tables.

    With the rows' curvatures :math:`h = v_i \sigma(z_i) \sigma(-z_i) / \sum v` the Hessian is
    :math:`X^\top \mathrm{diag}(h) X + \Lambda`, and a product with it one pass over the rows. The preconditioner is its
    diagonal (Hsia, Chiang & Lin 2018, "Preconditioned conjugate gradient methods in truncated Newton frameworks for
    large-scale linear classification"), of features about the means that h weighs. A step is the less exact the farther
    the minimum is (Dembo, Eisenstat & Steihaug 1982, "Inexact Newton methods"); what it leaves over counts against
    convergence.

    The products tell how a step moves the rows' logits, so that its best length costs no pass, nor do the logits at
    its end.

    Args:
        x: (n, d), all rows, standardised.
        outcomes: of the rows.
        total: Σv.
        l2: (k,), as the coefficients; k is d + 1 with an intercept, and d without.
        row_curvature: function from the rows' logits to h, (n,).
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
        outcomes: Outcomes,
        total: float,
        l2: Tensor,
        row_curvature: Callable[[Tensor], Tensor],
        diagonal: Callable[[Tensor], Tensor],
        point: Tensor,
        tol: float = 0.0,
    ) -> None:
        super().__init__(point)
        is_loose = tol > thresholds.SPARSE_TOLERANCE
        self._finest = thresholds.STEP_TO_TOLERANCE * tol if is_loose else thresholds.FINEST_STEP
        self._x, self._outcomes, self._total, self._l2 = x, outcomes, total, l2
        self._row_curvature = row_curvature
        self._diagonal_of = diagonal
        self._preconditioner: _Preconditioner | None = None
        self._logits: Tensor | None = None  # at the point
        self._last: _Step | None = None

    def update(self, s: Tensor, y: Tensor, *, accepted: bool = True) -> None:
        """Move by an accepted step ``s`` (k,)."""
        if not accepted:
            return
        if self._logits is not None and (last := self._last) is not None:
            square = float(last.p @ last.p)
            share = float(s @ last.p) / square if square else 0.0
            rest = float((s - share * last.p).norm())
            follows = rest <= thresholds.SAME_DIRECTION * (square**0.5 + float(self._point.norm()))
            self._logits = self._logits.add_(last.moved, alpha=share) if follows else None
            if not follows or abs(share) * float(last.moved.abs().max()) > thresholds.OLD_DIAGONAL:
                self._preconditioner = None
        self._last = None
        super().update(s, y)

    def load(self, state: dict[str, Any]) -> Curvature:
        """Take over what `state` gave."""
        self._logits = self._preconditioner = self._last = None
        return super().load(state)

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The Newton step (k,) from ``point`` (k,), which is where the curvature has come; ``l1`` is zero."""
        if self._last is None or not torch.equal(self._last.gradient, gradient):
            with serial_operations():  # there is no matrix to factorise, and the products share out their blocks
                self._last = self._solve(gradient)
        self.left_out = self._last.left_out
        return self._last.p

    def _solve(self, gradient: Tensor) -> _Step:
        z = self._logits = self._linear_predictor() if self._logits is None else self._logits
        h = self._row_curvature(z)
        preconditioner = self._preconditioner = self._preconditioner or self._preconditioner_at(h)
        scale = float(h.sum(dtype=torch.float64))
        first = float(gradient @ (gradient / preconditioner.whole))
        distance = first / scale if scale > 0 else 0.0  # about the mean square by which a step moves the logits
        p, moved, residual = torch.zeros_like(gradient), torch.zeros_like(h), -gradient
        direction = preconditioner.solve(residual)
        left = first = float(residual @ direction)
        enough = max(min(thresholds.LOOSEST_STEP**2, distance) * first, self._finest * scale)
        for _ in range(thresholds.CONJUGATE_GRADIENTS):
            if not left > enough:
                break
            product, of_rows = self._product(h, direction)
            bend = float(direction @ product)
            if not bend > 0:
                break
            length = left / bend
            p.add_(direction, alpha=length)
            moved.add_(of_rows, alpha=length)
            residual.sub_(product, alpha=length)
            conditioned = preconditioner.solve(residual)
            before, left = left, float(residual @ conditioned)
            direction = torch.add(conditioned, direction, alpha=left / before)
        if distance > thresholds.STRAIGHT:
            length = self._length(z, moved, p, -float(gradient @ p))
            p, moved = length * p, length * moved
        return _Step(gradient, p, moved, left / 2)

    def _preconditioner_at(self, h: Tensor) -> _Preconditioner:
        diagonal, d = self._diagonal_of(h), self._x.shape[1]
        if len(diagonal) == d:
            return _Preconditioner(diagonal, diagonal, None)
        scale = diagonal[d]
        center = self._x.rmatvec(h).cpu() / scale
        about = (diagonal[:d] - scale * center.square()).clamp(min=1e-14 * float(diagonal.max()))
        return _Preconditioner(torch.cat([about, scale[None]]), diagonal, center)

    def _length(self, z: Tensor, moved: Tensor, p: Tensor, decrement: float) -> float:
        """Length of a step p, which moves the logits z, at which the objective is least along it."""
        y, v, *_ = self._outcomes
        y = y.to(z)
        of_point, of_step = float(self._l2 @ (self._point * p)), float(self._l2 @ p.square())
        low, high, t = 0.0, math.inf, 1.0
        for _ in range(thresholds.LENGTHS):
            ahead = torch.add(z, moved, alpha=t)
            r = residuals(ahead, y)
            slope = float((r if v is None else r * v) @ moved) / self._total + of_point + t * of_step
            if abs(slope) <= thresholds.LEVEL * decrement:
                break
            low, high = (t, high) if slope < 0 else (low, t)
            bend = float(self._row_curvature(ahead) @ moved.square()) + of_step
            t = t - slope / bend if bend > 0 else math.inf
            if not low < t < high:
                t = (low + high) / 2 if high < math.inf else 2 * low
            t = min(t, 2 * low) if low else t
        else:
            return low
        return t

    def _linear_predictor(self) -> Tensor:
        d = self._x.shape[1]
        w, offset = self._point.to(self._x.device), self._outcomes.offset
        z = self._x.matvec(w[:d], w[d] if len(w) > d else None)
        return z if offset is None else z.add_(offset)

    def _product(self, h: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """The Hessian times a vector (k,), and the rows times it, (n,)."""
        d = self._x.shape[1]
        has_intercept = len(vector) > d
        shift = vector[d] if has_intercept else None
        of_features, of_intercept, of_rows = self._x.hessian_product(h, vector[:d], shift)
        product = self._l2 * vector
        product[:d] += of_features.cpu()
        if has_intercept:
            product[d] += of_intercept.cpu()
        return product, of_rows


class _Preconditioner(NamedTuple):
    """The diagonal of the Hessian with features about their means that the rows' curvatures weigh.

    Where rows of a feature are predicted well, that mean is not the mean of the rows, and the feature would be a
    multiple of the intercept.

    Attributes:
        diagonal: (k,), the intercept's last.
        whole: the diagonal of the Hessian itself, (k,).
        center: these means, (d,); None without an intercept.
    """

    diagonal: Tensor
    whole: Tensor
    center: Tensor | None

    def solve(self, r: Tensor) -> Tensor:
        if self.center is None:
            return r / self.diagonal
        p = torch.cat([torch.sub(r[:-1], self.center * r[-1]), r[-1:]]).div_(self.diagonal)
        p[-1] -= self.center @ p[:-1]
        return p


class _Step(NamedTuple):
    """A Newton step.

    Attributes:
        gradient: that it answers, (k,).
        p: the step, (k,).
        moved: by how much it moves the rows' logits, (n,).
        left_out: what it leaves over of the decrease.
    """

    gradient: Tensor
    p: Tensor
    moved: Tensor
    left_out: float
