"""The penalised problem on a sample of the rows: its loss, its curvature, and its solution."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from lr_lightning.model.losses import Outcomes, has_shares
from lr_lightning.model.losses import curvature as curvature_of
from lr_lightning.model.objective import logistic_hessian
from lr_lightning.model.rows import Rows
from lr_lightning.model.storage import Design
from lr_lightning.solver import thresholds
from lr_lightning.solver.conjugate_gradients import ConjugateGradientCurvature
from lr_lightning.solver.curvature import (
    Curvature,
    DenseCurvature,
    FactoredCurvature,
    KeptBlockCurvature,
    LimitedMemoryCurvature,
    WorkingSetCurvature,
)
from lr_lightning.solver.quadratic import mean_square_eigenvalue, newton_length, smallest_pivot, support_residual
from lr_lightning.solver.woodbury import GramCurvature, gram_matrix


class SampleProblem:
    """The penalised mean logistic loss on a sample, solved without touching the other rows.

    Points are vectors (k,) of all coefficients, the intercept last, float64 on the CPU.

    Args:
        rows: The sample: standardised features (m, d), labels (m,), weights (m,) or None.
        l1: λ, (d,) or (d + 1,), the intercept's being 0; float64 on the CPU.
        l2: μ, as ``l1``.
        n_rows: Number of rows of the whole table; the sample may be all of them.
        share: The sample's part of the weight; rows outside of it have no loss.
        tol: Decrement, relative to the objective, at which the fit of all rows ends.

    Attributes:
        size: k.
        exact: Whether the sample is the whole table and its Hessian is cheap.
        has_cheap_curvature: Whether a Hessian may be computed because the model is slightly wrong.
    """

    def __init__(
        self,
        rows: Rows,
        l1: Tensor,
        l2: Tensor,
        *,
        n_rows: float,
        share: float = 1.0,
        tol: float = 0.0,
    ) -> None:
        x, m = rows.design, len(rows.y)
        self._tol = tol
        self._n_rows, self._share = n_rows, share
        self._complete = m >= n_rows
        self.size = len(l1)
        hessian_cost = m * self.size**2
        self.exact = self._complete and hessian_cost <= thresholds.CHEAP_HESSIAN
        self.has_cheap_curvature = hessian_cost <= thresholds.AFFORDABLE_HESSIAN
        rounded, self._double = x.dtype != torch.float64, x.product_dtype == torch.float64
        self._x = x.astype(torch.float64).for_many_products() if self.exact else x.astype(x.product_dtype)
        self._y, self._sample_weight, self._offset = rows.y, rows.weight, rows.offset
        self._rows, self._outcomes = rows, Outcomes(*rows[1:], shares=has_shares(rows.y))
        self._l1, self._l2 = l1, l2
        self._has_l1 = bool(l1.any())
        self._has_intercept = self.size > x.shape[1]
        self._total = float(rows.total_weight) / share

        self._rank_tolerance = thresholds.ROUNDED_RANK_TOLERANCE if rounded else thresholds.EQUATION_RANK_TOLERANCE
        if rounded and self._double and not self._is_collinear():
            # Then a small pivot at another point does not come from rounded columns but from rows fitted perfectly.
            self._rank_tolerance = thresholds.EQUATION_RANK_TOLERANCE

    # Loss and derivatives

    def logits(self, point: Tensor) -> Tensor:
        """Logits (m,) of the sample's rows, without their offsets."""
        return self._x.matvec(*self._split(point.to(self._x.device, self._x.dtype)))

    def _linear_predictor(self, x: Design, point: Tensor) -> Tensor:
        """Logits (m,) of the sample's rows with their offsets, from the features x in some dtype."""
        z = x.matvec(*self._split(point.to(x.device, x.dtype)))
        return z if self._offset is None else z.add_(self._offset)

    def movement(self, step: Tensor) -> float:
        """The largest change of a sampled logit by a step of the coefficients."""
        return float(self.logits(step).abs().max())

    def smooth(self, point: Tensor) -> tuple[float, Tensor]:
        """Mean loss plus L2 penalty, and its gradient."""
        loss, gradient, of_intercept = self._x.value_and_gradient(self._outcomes, *self._split(point))
        if self._has_intercept:
            gradient = torch.cat([gradient, of_intercept[None]])
        shrinkage = self._l2 * point
        value = float(loss) / self._total + 0.5 * float(shrinkage @ point)
        return value, (gradient.cpu() / self._total).add_(shrinkage)

    def _hessian(self, point: Tensor) -> Tensor:
        """Hessian (k, k) of the mean loss."""
        hessian = self._loss_hessian(self._x, point)
        if self._x.dtype != torch.float64 and smallest_pivot(hessian) < thresholds.SINGLE_PIVOT:
            hessian = self._loss_hessian(self._x.astype(torch.float64), point)
        return hessian

    def _loss_hessian(self, x: Design, point: Tensor) -> Tensor:
        h = curvature_of(self._linear_predictor(x, point), self._sample_weight)
        return x.sandwich(h, intercept=self._has_intercept).cpu().div_(self._total)

    def _hessian_at_zero(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """A multiple of the loss's Hessian (k, k) where all coefficients are 0: of the features alone."""
        coefficients, intercept = self._split(torch.zeros(self.size, dtype=torch.float64, device=self._x.device))
        weight = None if self._sample_weight is None else self._sample_weight[rows]
        return logistic_hessian(self._x.take(rows), coefficients, intercept, weight)

    def _diagonal(self, point: Tensor) -> Tensor:
        """Diagonal (k,) of the objective's Hessian, positive."""
        return self._diagonal_of(self._row_curvature(point))

    def _diagonal_of(self, h: Tensor) -> Tensor:
        diagonal = torch.zeros(self.size, dtype=torch.float64)
        d = self._x.shape[1]
        diagonal[:d] = self._x.square_sums(h).cpu()
        if self._has_intercept:
            diagonal[d] = float(h.sum(dtype=torch.float64))
        diagonal += self._l2
        least = 1e-14 if self._x.is_sparse else 1e-6  # conjugate gradients take flat directions as they are
        return diagonal.clamp(min=max(least * float(diagonal.max()), 1e-300))

    def _block(self, point: Tensor, index: Tensor) -> Tensor:
        """Block of the objective's Hessian for the coordinates in ``index``, which is sorted."""
        of_features = index[index < self._x.shape[1]]
        intercept = len(of_features) < len(index)
        matrix = self._x.sandwich(self._row_curvature(point), of_features, intercept=intercept).cpu()
        matrix.diagonal().add_(self._l2[index])
        return matrix

    def _block_of_part(self, point: Tensor, index: Tensor) -> Tensor:
        """About the same from a part of the rows, where these show every column's variance."""
        part = self._part
        if part is None:
            return self._block(point, index)
        x = part._x.columns(index[index < self._x.shape[1]])
        m = x.shape[0]
        mean_squares = x.square_sums(torch.full((m,), 1 / m, dtype=torch.float64, device=x.device))
        shows = bool(((mean_squares > 0.5) & (mean_squares < 2)).all())
        return part._block(point, index) if shows else self._block(point, index)

    @cached_property
    def _part(self) -> SampleProblem | None:
        """The problem on a random part of many rows."""
        n = len(self._y)
        if n < 2 * thresholds.PART_ROWS:
            return None
        index = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: thresholds.PART_ROWS].sort().values
        return SampleProblem(self._rows.take(index.to(self._y.device)), self._l1, self._l2, n_rows=math.inf)

    def _factored(self, point: Tensor) -> FactoredCurvature:
        root, x = self._row_curvature(point).sqrt(), self._x.dense()
        x = pad(x, (0, 1), value=1.0) if self._has_intercept else x
        return FactoredCurvature.of_rows(x * root[:, None], self._l2)

    def _row_curvature(self, point: Tensor) -> Tensor:
        """Each row's factor (m,) in the Hessian of the mean loss."""
        return self._row_curvature_of(self._linear_predictor(self._x, point))

    def _row_curvature_of(self, z: Tensor) -> Tensor:
        """Each row's factor in the Hessian of the mean loss at logits z (m,), (m,)."""
        found = curvature_of(z)
        # Badly misclassified rows have almost no curvature, which gives unbounded steps; use the curvature of the
        # quadratic bound of the loss (Jaakkola & Jordan 2000).
        wrong = (1 - 2 * self._y.to(z.dtype)) * z
        found = torch.where(wrong > thresholds.MISCLASSIFIED, 0.5 / wrong, found) / self._total
        return found if self._sample_weight is None else (found * self._sample_weight).to(z.dtype)

    def _split(self, point: Tensor) -> tuple[Tensor, Tensor | None]:
        return (point[:-1], point[-1]) if self._has_intercept else (point, None)

    # Choice of the curvature's model.

    def curvature(self, point: Tensor, history_size: int) -> Curvature:
        """Model of the curvature around ``point``."""
        if self.is_dense:
            matrix = self._hessian(point)
            matrix.diagonal().add_(self._l2)
            dense = DenseCurvature(matrix, self._rank_tolerance)
            return self._factored(point) if self._is_ill_conditioned(dense) else dense
        if self._has_l1:
            limit = 2 * thresholds.DENSE_LIMIT
            if self._x.is_sparse:
                return KeptBlockCurvature(self._block_of_part, self._block, point, limit, self._rank_tolerance)
            return WorkingSetCurvature(self._block, point, limit, self._rank_tolerance)
        if self._gram is not None:
            return GramCurvature(self._x, self._l2, self._gram, self._row_curvature, point)
        if self._x.is_sparse:
            return ConjugateGradientCurvature(
                self._x, self._outcomes, self._total, self._l2,
                self._row_curvature_of, self._diagonal_of, point, self._tol,
            )  # fmt: skip
        return LimitedMemoryCurvature(self._diagonal(point), history_size)

    @cached_property
    def is_dense(self) -> bool:
        """Whether the curvature is a matrix over all coefficients."""
        if self.size > thresholds.DENSE_LIMIT:
            return False
        if self.exact or self._has_l1:
            return True
        return self._gram is None and not self._is_easy

    @cached_property
    def _is_easy(self) -> bool:
        """Whether L-BFGS takes less time than Hessians: they are dear and the columns nearly independent.

        A Hessian of 1.5 d rows shows that. No pivot is small: none of its columns is explained by those before it. Its
        eigenvalues are spread little more than those of such rows are by chance, 1 + d / m in mean square. With other
        columns L-BFGS takes many passes, or ends too soon. The table also needs some rows: the condition number of n
        independent ones is ((√n + √d) / (√n - √d))² (Marchenko & Pastur 1967), which is 9 for n = 4 d.
        """
        m, d = self._x.shape
        if m * d <= thresholds.EXPENSIVE_HESSIAN * self._n_rows or self._n_rows < 4 * d:
            return False
        rows = torch.linspace(0, m - 1, min(m, 3 * d // 2), device=self._x.device).long()
        look = self._hessian_at_zero(rows)
        spread_by_chance = 1 + d / len(rows)
        return (
            smallest_pivot(look) > thresholds.INDEPENDENT_PIVOT
            and mean_square_eigenvalue(look) < thresholds.INDEPENDENT_SPREAD * spread_by_chance
        )

    @cached_property
    def _gram(self) -> Tensor | None:
        """For `GramCurvature`, where its n × n matrix is no larger than those of `DenseCurvature`, or None."""
        if not self._complete or len(self._y) > min(self.size, thresholds.DENSE_LIMIT):
            return None
        l2 = self._l2[: self._x.shape[1]]
        return gram_matrix(self._x, self._sample_weight, l2, is_needed=self.size <= thresholds.DENSE_LIMIT)

    def _is_collinear(self) -> bool:
        return smallest_pivot(self._hessian_at_zero()) <= self._rank_tolerance * self.size

    def _is_ill_conditioned(self, curvature: Curvature) -> bool:
        """Whether the rows hold digits that the Hessian has lost, which a factor of the rows would keep."""
        lossless = self._x.dtype == torch.float64 and self._rank_tolerance == thresholds.EQUATION_RANK_TOLERANCE
        if not lossless or self._has_l1 or not self.has_cheap_curvature:
            return False
        return curvature.smallest_pivot() < thresholds.HESSIAN_PIVOT

    def noise(self, curvature: Curvature) -> float:
        """Rounding error of the Newton decrement, relative to the objective."""
        return curvature.noise(len(self._y), double=self._double)

    # Solution.

    def start(self, point: Tensor) -> Tensor:
        """``point``; if it is zero, or with L1 far off, coefficients of zero with their optimal intercept."""
        null = self._null(point)
        is_far = self._has_l1 and not self._objective(point) <= thresholds.FAR_START * self._objective(null)
        return null if is_far or not point.any() else point

    def _objective(self, point: Tensor) -> float:
        return self.smooth(point)[0] + float(self._l1 @ point.abs())

    def _null(self, point: Tensor) -> Tensor:
        """Coefficients (k,) of zero, and the intercept that is optimal for them without offsets, or with equal ones."""
        null = torch.zeros_like(point)
        if not self._has_intercept:
            return null
        positive = self._y.double() if self._sample_weight is None else self._sample_weight.double() * self._y
        total = self._share * self._total
        half = 0.5 * total / len(self._y)  # half a row of either class keeps the odds finite
        positive = float(positive.sum())
        null[-1] = math.log((positive + half) / (total - positive + half))
        if self._offset is None:
            return null
        shifted = null.clone()
        v = torch.ones_like(self._offset) if self._sample_weight is None else self._sample_weight.to(self._offset)
        shifted[-1] -= float(v @ self._offset / v.sum())
        return min(null, shifted, key=self._objective)

    def solve(self, start: Tensor, history_size: int) -> tuple[Tensor, Curvature]:
        """Minimise up to the sampling error; exactly, if the sample is the whole table and small.

        The sampling error of the minimum of m rows with k coefficients is about k / (2m): decreasing the sample's
        objective much further says nothing about the whole table.
        """
        m, k = len(self._y), self.size
        if not self.exact and not self.is_dense and not self._has_l1:
            if self._complete:  # a step costs as much as a pass
                return start, self.curvature(start, history_size)
            return self._newton(start, 0.1 * k / (2 * m), history_size, limit=20)
        if not self.exact and (smaller := self._smaller()) is not None:
            start, _ = smaller.solve(start, history_size)
        if self._has_l1 and not start[self._l1 > 0].any():
            start = self._under_stronger_penalties(start, history_size)
        if self.exact:
            point, curvature = self._newton(start, 1e-15, history_size, limit=60)
            return self._polished(point, history_size) if self._has_l1 else (point, curvature)
        # A ridge well below the sampling error, for directions that the sample does not determine.
        ridge = thresholds.PRIOR_ROWS / m
        problem = self._with_penalty(self._l1, self._l2 + ridge)
        point, curvature = problem._newton(start, 0.1 * k / (2 * m), history_size, limit=20)
        if not curvature.take_off(ridge) or self._is_ill_conditioned(curvature):
            curvature = self.curvature(point, history_size)
        return point, curvature

    def _smaller(self) -> SampleProblem | None:
        """The problem on a random part of the rows, whose minimum is a start; None where no part has enough rows."""
        parts = (len(self._y) // ratio for ratio in thresholds.PART_RATIOS)
        m = next((m for m in parts if m >= max(thresholds.LEAST_PART, 5 * self.size)), None)
        if m is None:
            return None
        index = torch.randperm(len(self._y), generator=torch.Generator().manual_seed(m))[:m].sort().values
        rows = self._rows.take(index.to(self._y.device))
        if not float(rows.total_weight) > 0:
            return None
        problem = SampleProblem(rows, self._l1, self._l2, n_rows=self._n_rows, share=self._share)
        problem.is_dense = self.is_dense
        return problem

    def _polished(self, point: Tensor, history_size: int) -> tuple[Tensor, Curvature]:
        """Newton steps on the support, until rounding alone is left of the optimality conditions."""
        gradient = self.smooth(point)[1]
        curvature = self.curvature(point, history_size)
        for _ in range(thresholds.POLISHING_STEPS):
            p = curvature.support_step(point, gradient, self._l1)
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
        """About the solution under an L1 penalty ten times as strong, along a path of still stronger ones.

        From zero straight to a weak penalty, the models of the first steps would have to be solved with nearly all
        coordinates. Along the path few coordinates change at a time (Friedman, Hastie & Tibshirani 2010).
        """
        penalised = self._l1 > 0
        _, gradient = self.smooth(point)
        strongest = float((gradient[penalised].abs() / self._l1[penalised]).max())  # which lets no coordinate move
        ratio = thresholds.PATH_RATIO
        factor = ratio * strongest if strongest > thresholds.WEAK_PENALTY else 0.0
        while factor * ratio >= 1:
            problem = self._with_penalty(factor * self._l1, self._l2)
            point, _ = problem._newton(point, thresholds.PATH_TOLERANCE, history_size, limit=4)
            factor *= ratio
        return point

    def descend(
        self, point: Tensor, gradient: Tensor, history_size: int, trust_radius: float
    ) -> tuple[Tensor, float, Curvature]:
        r"""Minimise the sample's objective, tilted to have the full ``gradient`` at ``point``.

        The tilted objective is F_s(w) + (∇F(w₀) − ∇F_s(w₀))ᵀw (Shamir, Srebro & Zhang 2014). Unlike the quadratic
        model it knows where the losses of the rows bend. No sampled logit moves by more than ``trust_radius``.

        Returns:
            The point reached, the predicted decrease, and the curvature there.
        """
        tilt = gradient - self.smooth(point)[1]
        start = self._tilted(point, tilt)
        end, curvature = self._newton(point, 0.0, history_size, limit=10, tilt=tilt, trust_radius=trust_radius)
        return end, start[0] - self._tilted(end, tilt)[0], curvature

    def confirms(self, point: Tensor, gradient: Tensor, step: Tensor, predicted_decrease: float) -> bool:
        """Whether the objective of `descend` decreases by about as much as predicted along ``step``."""
        _, own = self.smooth(point)
        tilt = gradient - own
        decrease = self._tilted(point, tilt)[0] - self._tilted(point + step, tilt)[0]
        return 0.75 * predicted_decrease < decrease < 1.5 * predicted_decrease

    def is_diverging(self, point: Tensor, gradient: Tensor, step: Tensor, history_size: int, *, newton: bool) -> bool:
        """Whether a step that hardly changes the objective still moves some row's logit by a good part of 1.

        On separated rows the loss falls like exp(-logit), and every Newton step adds 1 to the logit.

        Args:
            point: (k,).
            gradient: At ``point``, (k,).
            step: The model's step, (k,).
            history_size: See `curvature`.
            newton: Whether ``step`` already is that of this point's own Hessian.
        """
        longest_row = (len(self._y) * self.size) ** 0.5  # at most, because every column has a mean square of 1
        if self._sample_weight is None and float(step.norm()) * longest_row < 0.02:
            return False
        logits = self.logits(point).abs()
        if not newton:
            calm = bool((self.logits(step).abs() < 0.02 + 0.001 * logits).all())
            if calm and not self.exact:
                return False
            # The corrected model only raises a suspicion; the Hessian at this point decides.
            step = self.curvature(point, history_size).step(point, gradient, self._l1)
        return bool((self.logits(step).abs() > 0.1 + 0.003 * logits).any())

    def _tilted(self, point: Tensor, tilt: Tensor | None) -> tuple[float, Tensor]:
        """Objective with all penalties, and gradient of its smooth part."""
        value, gradient = self.smooth(point)
        linear = 0.0 if tilt is None else float(tilt @ point)
        penalty = float(self._l1 @ point.abs()) if self._has_l1 else 0.0
        return value + (linear + penalty), gradient if tilt is None else gradient + tilt

    def _newton(
        self,
        point: Tensor,
        tolerance: float,
        history_size: int,
        limit: int,
        tilt: Tensor | None = None,
        trust_radius: float = math.inf,
    ) -> tuple[Tensor, Curvature]:
        """Newton steps with a line search from ``point``, until half the decrement is at most ``tolerance``."""
        start = point
        objective, gradient = self._tilted(point, tilt)
        curvature = self.curvature(point, history_size)
        moved: tuple[Tensor, Tensor] | None = None  # the last step and change of gradient, not yet in the curvature
        decrement, first = math.inf, 0.0

        for _ in range(limit):
            if moved and (self.exact or self.size <= thresholds.FEW_COEFFICIENTS):
                curvature, moved = self.curvature(point, history_size), None
            elif moved:
                curvature.update(*moved)
                moved = None
            p = self._limited_step(curvature, point, gradient, start, trust_radius)
            slope = float(gradient @ p)
            if self._has_l1:
                slope += float(self._l1 @ ((point + p).abs() - point.abs()))
            before, decrement = decrement, -slope
            first = first or decrement
            if decrement / 2 <= thresholds.NEGLIGIBLE * abs(objective) or (
                abs(objective) < thresholds.SEPARATED and not self._l2.any()
            ):
                break
            t = 1.0
            while t > thresholds.SHORTEST_STEP:
                candidate = point + t * p
                new_objective, new_gradient = self._tilted(candidate, tilt)
                if new_objective <= objective + 1e-4 * t * slope:
                    break
                t /= 2
            else:
                break
            if t == 1 and self.exact and not self._has_l1 and new_objective > thresholds.SEPARATED:
                length = newton_length(-float(new_gradient @ p), decrement)
                if length > 1:
                    farther = point + length * p
                    its_objective, its_gradient = self._tilted(farther, tilt)
                    if its_objective < new_objective:
                        t, candidate, new_objective, new_gradient = length, farther, its_objective, its_gradient
            moved = (candidate - point, new_gradient - gradient)
            point, gradient, objective = candidate, new_gradient, new_objective
            if t == 1 and curvature.left_out + decrement / 2 <= tolerance:
                break
            if t == 1 and tilt is not None and decrement <= 0.01 * first:
                break
            if (
                t == 1
                and self.exact
                and _next_decrement(before, decrement) / 2 <= thresholds.NEGLIGIBLE * abs(objective)
            ):
                break
            if math.isfinite(trust_radius) and self.movement(point - start) > 0.9 * trust_radius:
                break
        if moved:
            curvature.update(*moved)
        return point, curvature

    def _limited_step(
        self, curvature: Curvature, point: Tensor, gradient: Tensor, start: Tensor, trust_radius: float
    ) -> Tensor:
        """The model's step, with a ridge that keeps the sampled logits within the trust radius of the start's."""
        p = curvature.step(point, gradient, self._l1)
        if not math.isfinite(trust_radius) or self.movement(point + p - start) <= trust_radius:
            return p
        for ridge in curvature.ridges():
            p = curvature.step(point, gradient, self._l1, ridge)
            if self.movement(point + p - start) <= trust_radius:
                return p
        return p * (trust_radius / max(self.movement(p), trust_radius))

    def _with_penalty(self, l1: Tensor, l2: Tensor) -> SampleProblem:
        """The problem with another penalty, whose curvature is of the same kind."""
        problem = SampleProblem(self._rows, l1, l2, n_rows=self._n_rows, share=self._share)
        problem.is_dense = self.is_dense
        return problem


def _next_decrement(before: float, decrement: float) -> float:
    """The next decrement of Newton's method, each being about the same multiple of the square of the one before."""
    return decrement * (decrement / before) ** 2 if before < math.inf else math.inf
