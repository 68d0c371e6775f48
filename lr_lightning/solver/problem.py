"""The penalised problem on a sample of the rows, solved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lr_lightning.solver.curvature import DenseCurvature, WorkingSetCurvature
from lr_lightning.solver.quadratic import support_residual
from lr_lightning.solver.row_sample import Curvature, RowSample

_SLOW = 0.1  # a step that promises more than this part of the one before: the Hessian has grown old
_LEVEL_RATIOS = (16, 4)
_NOT_WORTH_REDUCING = 2e6  # multiplications of a Hessian
_PRIOR = 0.1  # in rows
_WEAK = 300  # what the strongest L1 penalty is of one that is worth a path
_PATH = 0.1  # of an L1 penalty to the one before
_POLISH = 8  # Newton steps at most, each of which doubles the digits
_ROUGH = 1e-4  # decrease of the mean loss


class SampleProblem(RowSample):
    """Solves the penalised problem on a sample, without touching the other rows.

    The arguments are `RowSample`'s.
    """

    def solve(self, start: Tensor, history_size: int) -> tuple[Tensor, Curvature]:
        """Minimises up to the sampling error; exactly, if the sample is all there is and small.

        The sampling error of the minimum of m rows with k coefficients is about k / (2m): decreasing the
        sample's objective much further says nothing about the whole table.
        """
        m, k = len(self._x), self.size
        if not self.exact and not self.is_dense and not self._l1.any():
            if self._complete:  # its steps would be as dear as the passes
                return start, self.curvature(start, history_size)
            return self._newton(start, 0.1 * k / (2 * m), history_size, limit=20)
        if not self.exact and m * k * k > _NOT_WORTH_REDUCING:
            smaller = next(filter(None, (self._reduced(m // ratio) for ratio in _LEVEL_RATIOS)), None)
            if smaller is not None:
                start, _ = smaller.solve(start, history_size)
        if self._l1.any() and not start[self._l1 > 0].any():
            start = self._under_stronger_penalties(start, history_size)
        if self.exact:
            point, curvature = self._newton(start, 1e-15, history_size, limit=60)
            return self._polished(point, history_size) if self._l1.any() else (point, curvature)
        # A little ridge, well below the sampling error, for what the sample cannot tell at all.
        prior = _PRIOR / m
        problem = self._variant(self._x, self._y, self._v, self._l2 + prior)
        point, curvature = problem._newton(start, 0.1 * k / (2 * m), history_size, limit=20)
        if isinstance(curvature, DenseCurvature):
            curvature.matrix.diagonal().sub_(prior)
            if self._is_ill_conditioned(curvature.matrix):
                curvature = self.curvature(point, history_size)
        elif isinstance(curvature, WorkingSetCurvature):
            curvature = self.curvature(point, history_size)
        return point, curvature

    def _polished(self, point: Tensor, history_size: int) -> tuple[Tensor, Curvature]:
        """Goes on by Newton steps on the support, until rounding alone is left of the optimality conditions."""
        gradient = self.smooth(point)[1]
        curvature = self.curvature(point, history_size)
        for _ in range(_POLISH):
            p = curvature.support_step(point, gradient, self._l1) if isinstance(curvature, DenseCurvature) else None
            if p is None:
                break
            better = self.smooth(point + p)[1]
            before, after = (support_residual(*pair, self._l1) for pair in ((point, gradient), (point + p, better)))
            if not after < before:
                break
            point, gradient = point + p, better
            curvature = self.curvature(point, history_size)
            if after > 0.5 * before:
                break
        return point, curvature

    def _under_stronger_penalties(self, point: Tensor, history_size: int) -> Tensor:
        """About the solution under an L1 penalty ten times as strong, by way of still stronger ones, if it is weak.

        From zero straight to a weak penalty, the models of the first steps would have to be solved with nearly all
        coordinates, in whatever sign; along the path few change at a time (Friedman, Hastie & Tibshirani 2010).
        """
        penalised = self._l1 > 0
        _, gradient = self.smooth(point)
        strongest = float((gradient[penalised].abs() / self._l1[penalised]).max())  # which lets no coordinate move
        factor = _PATH * strongest if strongest > _WEAK else 0.0
        while factor * _PATH >= 1:
            problem = self._variant(self._x, self._y, self._v, self._l2, factor * self._l1)
            point, _ = problem._newton(point, _ROUGH, history_size, limit=4)
            factor *= _PATH
        return point

    def start(self, point: Tensor) -> Tensor:
        """``point``, with the intercept that would be right if all weights were zero, should they be."""
        if not self._has_intercept or point.any():
            return point
        v = torch.ones_like(self._y, dtype=torch.float64) if self._v is None else self._v.double()
        positive = float((v * self._y).sum())
        total = self._share * self._total
        half = 0.5 * total / len(self._x)  # half a row of either class keeps the odds finite
        point = point.clone()
        point[-1] = math.log((positive + half) / (total - positive + half))
        return point

    def descend(
        self, point: Tensor, gradient: Tensor, history_size: int, reach: float
    ) -> tuple[Tensor, float, Curvature]:
        r"""Goes down the sample's objective, tilted to have the full ``gradient`` at ``point``.

        F_s(w) + (∇F(w₀) − ∇F_s(w₀))ᵀw (Shamir, Srebro & Zhang 2014) knows where
        the rows' losses bend, which the quadratic model does not. No sampled logit is moved by more than
        ``reach``.

        Returns:
            The point reached, the decrease that the tilted objective promises, and the curvature there.
        """
        tilt = gradient - self.smooth(point)[1]
        start = self._tilted(point, tilt)
        end, curvature = self._newton(point, 0.0, history_size, limit=10, tilt=tilt, reach=reach)
        return end, start[0] - self._tilted(end, tilt)[0], curvature

    def confirms(self, point: Tensor, gradient: Tensor, step: Tensor, promised: float) -> bool:
        """Whether the sample's objective, tilted as in :meth:`descend`, falls by about ``promised`` along ``step``."""
        _, own = self.smooth(point)
        tilt = gradient - own
        fall = self._tilted(point, tilt)[0] - self._tilted(point + step, tilt)[0]
        return 0.75 * promised < fall < 1.5 * promised

    def runs_away(self, point: Tensor, gradient: Tensor, step: Tensor, history_size: int) -> bool:
        """Whether a step that hardly changes the objective still moves some row's logit by a good part of 1.

        On separated rows the loss falls like exp(-logit), and a Newton step adds 1 to the logit for ever.
        """
        logits = self.logits(point).abs()
        calm = bool((self.logits(step).abs() < 0.02 + 0.001 * logits).all())
        if calm and not self.exact:
            return False
        # A suspicion, which a step by the curvature of this very point confirms or not.
        step = self.curvature(point, history_size).step(point, gradient, self._l1)
        return bool((self.logits(step).abs() > 0.1 + 0.003 * logits).any())

    def _tilted(self, point: Tensor, tilt: Tensor) -> tuple[float, Tensor]:
        """Objective with all penalties, and gradient of its smooth part."""
        value, gradient = self.smooth(point)
        return value + float(tilt @ point + self._l1 @ point.abs()), gradient + tilt

    def _newton(
        self,
        point: Tensor,
        tolerance: float,
        history_size: int,
        limit: int,
        tilt: Tensor | None = None,
        reach: float = math.inf,
    ) -> tuple[Tensor, Curvature]:
        start = point
        tilt = torch.zeros_like(point) if tilt is None else tilt
        objective, gradient = self._tilted(point, tilt)
        curvature = self.curvature(point, history_size)
        age, decrement, first = 0, math.inf, 0.0

        def step() -> tuple[Tensor, float]:
            p = self.limited_step(curvature, point, gradient, start, reach)
            return p, float(gradient @ p + self._l1 @ ((point + p).abs() - point.abs()))

        for _ in range(limit):
            if age and self._renews:
                curvature, age = self.curvature(point, history_size), 0
            p, slope = step()
            if age and self.is_dense and -slope > _SLOW * decrement:
                curvature, age = self.curvature(point, history_size), 0
                p, slope = step()
            decrement = -slope
            first = first or decrement
            if decrement / 2 <= 1e-15 * abs(objective) or (abs(objective) < 1e-8 and not self._l2.any()):
                break
            t = 1.0
            while t > 1e-6:
                candidate = point + t * p
                new_objective, new_gradient = self._tilted(candidate, tilt)
                if new_objective <= objective + 1e-4 * t * slope:
                    break
                t /= 2
            else:
                break
            curvature.update(candidate - point, new_gradient - gradient)
            point, gradient, objective, age = candidate, new_gradient, new_objective, age + 1
            left_out = curvature.left_out if isinstance(curvature, WorkingSetCurvature) else 0.0
            if t == 1 and (left_out + decrement / 2 <= tolerance or (tilt.any() and decrement <= 0.01 * first)):
                break
            if math.isfinite(reach) and self.movement(point - start) > 0.9 * reach:
                break
        return point, curvature

    def limited_step(
        self, curvature: Curvature, point: Tensor, gradient: Tensor, start: Tensor, reach: float
    ) -> Tensor:
        """The model's step, with a ridge that keeps the sampled logits within ``reach`` of the start's."""
        p = curvature.step(point, gradient, self._l1)
        if not math.isfinite(reach) or self.movement(point + p - start) <= reach:
            return p
        if isinstance(curvature, DenseCurvature):
            ridge = 1e-8 * float(curvature.matrix.diagonal().max())
            for _ in range(12):
                p = curvature.step(point, gradient, self._l1, ridge)
                if self.movement(point + p - start) <= reach:
                    return p
                ridge *= 10
        return p * (reach / max(self.movement(p), reach))

    def _reduced(self, rows: int) -> SampleProblem | None:
        """The problem on a random part of the rows, or None if there are too few for a useful answer."""
        if rows < max(2000, 5 * self.size):
            return None
        generator = torch.Generator().manual_seed(rows)
        index = torch.randperm(len(self._x), generator=generator)[:rows].sort().values
        index = index.to(self._x.device)
        v = None if self._v is None else self._v[index]
        y = self._y[index]
        if v is not None and not bool(v.any()):
            return None
        return self._variant(self._x.index_select(0, index), y, v, self._l2)

    def _variant(self, x: Tensor, y: Tensor, v: Tensor | None, l2: Tensor, l1: Tensor | None = None) -> SampleProblem:
        """A problem of other rows or another penalty, whose curvature is of the same kind."""
        l1 = self._l1 if l1 is None else l1
        problem = SampleProblem(x, y, v, l1, l2, n_rows=self._n_rows, share=self._share)
        problem.is_dense = self.is_dense
        return problem
