"""Several fits of the same rows at once, each exact: one Hessian serves all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_curvature import FoldCurvature
from lr_lightning.solver.fold_rows import FoldRows, Losses
from lr_lightning.solver.path_blocks import penalties_of, violations


@dataclass(frozen=True)
class FoldCoefficients:
    """Coefficients of the fits without a fold, those that are 0 in all of them left out.

    Attributes:
        index: numbers of the columns, (c,).
        u: standardised coefficients and the intercept, (K, c + 1).
    """

    index: Tensor
    u: Tensor


class FoldFits:
    """Fits of all rows and of all rows but each fold, at one strength of the penalty after another.

    A round is one sweep over the rows for all fits that have not converged, and a quadratic problem for each. The
    quadratic models come from one Hessian at the fit of all rows, of the columns in use; it is kept while the rounds
    that it costs are fewer than those of a new one. Of few rows and columns every fit has a Hessian of its own instead.

    Args:
        rows: of m fits.
        max_rounds: at most so many sweeps for a fit.

    Attributes:
        rounds: that each of the last fits took, (m,), at most `max_rounds`.
    """

    def __init__(self, rows: FoldRows, *, max_rounds: int = thresholds.FOLD_ROUNDS) -> None:
        self.rows = rows
        self._max_rounds = max_rounds
        m, d = self.rows.m, self.rows.d
        self.u = torch.zeros(m, d + 1, dtype=torch.float64)
        self._columns = self.rows.columns(torch.empty(0, dtype=torch.long))
        self._curvature: FoldCurvature | None = None
        self._shared = torch.empty(0)
        self._own: dict[int, Tensor] = {}
        self._rounds_with_new = math.inf
        self._excess = 0.0
        self._rate_with_new = torch.full((m,), thresholds.FASTEST, dtype=torch.float64)
        self.rounds = torch.zeros(m, dtype=torch.long)
        self.gradient = self._gradient_of_all()

    def _gradient_of_all(self) -> Tensor:
        every = torch.arange(self.rows.m)
        return self.rows.gradients(self._columns, every, self.u[:, self._places], self.rows.every)

    def losses(self) -> Losses:
        """Losses of the present solutions."""
        return self.rows.losses(self._columns, self.u[:, self._places])

    @property
    def _places(self) -> Tensor:
        return self.rows.places(self._columns)

    @property
    def n_folds(self) -> int:
        """K."""
        return self.rows.m - 1

    @property
    def fold_weight(self) -> Tensor:
        """Σ v of each fold, (K,)."""
        return self.rows.held_weight

    def theta(self) -> Tensor:
        """Coefficients (d + 1,) of the fit of all rows, for the original features."""
        return self.rows.theta(self.u[0])

    def thetas(self) -> Tensor:
        """Coefficients (m, d + 1) of all fits, for the original features."""
        return torch.stack([self.rows.theta(u) for u in self.u])

    def of_folds(self) -> FoldCoefficients:
        """The present coefficients of the fits without a fold."""
        index = (self.u[1:, :-1] != 0).any(0).nonzero()[:, 0]
        return FoldCoefficients(index, self.u[1:, torch.cat([index, torch.tensor([self.rows.d])])])

    def out_of_fold(self, coefficients: FoldCoefficients) -> Tensor:
        """The logit of each row by the fit that leaves its fold out, (n,), with its offset."""
        columns = self.rows.in_use(coefficients.index)
        u = torch.zeros(self.n_folds, self.rows.d + 1, dtype=torch.float64)
        u[:, coefficients.index], u[:, -1] = coefficients.u[:, :-1], coefficients.u[:, -1]
        return self.rows.out_of_fold(columns, u[:, self.rows.places(columns)])

    def fit_null(self) -> float:
        """Move to the fits of the intercept and the offset alone; the mean loss of all rows."""
        self._fit_some(torch.zeros_like(self.rows.fixed))
        return float(self.losses().training[0])

    def fit_unpenalised(self) -> tuple[Tensor, Tensor]:
        """Move to the fits of the intercept, the offset and the columns without penalty; what `move_to` takes."""
        self._fit_some(self.rows.l1_unit == 0)
        return self.u.clone(), self.gradient.clone()

    def _fit_some(self, free: Tensor) -> None:
        free = free.clone()
        free[:, -1] = True
        l1 = torch.full_like(self.u, torch.inf)
        l1[free & ~self.rows.fixed] = 0
        self._converge(l1, torch.zeros_like(l1), torch.full_like(l1, thresholds.FOLD_EXACT), l1 == 0)

    def move_to(self, solution: Sequence[Tensor]) -> None:
        """Take back coefficients and gradients."""
        self.u, self.gradient = (part.clone() for part in solution)

    @property
    def largest_gradient(self) -> float:
        """Largest gradient of the fit of all rows, by standardised coefficients."""
        return float(self.gradient[0].abs().max())

    def strongest(self) -> float:
        """The least strength of an L1 penalty that keeps the penalised coefficients of all rows at 0."""
        unit = self.rows.l1_unit[0]
        penalised = (unit > 0) & ~self.rows.fixed[0]
        return float((self.gradient[0, penalised].abs() / unit[penalised]).max()) if bool(penalised.any()) else 0.0

    def fit(self, l1: float | Tensor, l2: float | Tensor, reach: float | Tensor, least_tolerance: float) -> Tensor:
        """Move to the optima, where the optimality conditions hold to 1e-10 of the penalty.

        Args:
            l1: strength of the L1 penalty, of all fits or each (m,).
            l2: likewise.
            reach: columns whose gradient is beyond it, at present, are taken into use; of all fits or each.
            least_tolerance: violation of the optimality conditions that is rounding.

        Returns:
            Whether the fits have got there, (m,).

        Raises:
            InputError: if more columns than memory can hold the Hessians of are in use.
        """
        rows = self.rows
        first, second, beyond = (torch.as_tensor(t, dtype=torch.float64).expand(rows.m) for t in (l1, l2, reach))
        first, second, tolerance = penalties_of(rows, first, second, least_tolerance)
        wanted = (self.gradient.abs() > beyond[:, None] * rows.l1_unit) | (first == 0)
        return self._converge(first, second, tolerance, wanted)

    def _converge(self, l1: Tensor, l2: Tensor, tolerance: Tensor, wanted: Tensor) -> Tensor:
        rows = self.rows
        self.rounds = torch.zeros_like(self.rounds)
        self._take_in(wanted | (self.u != 0), rows.fixed)
        while True:
            self._rounds(l1, l2, tolerance)
            if len(self._columns.index) < rows.d:
                self.gradient = self._gradient_of_all()
            violating = violations(self.u, self.gradient, l1, l2) > tolerance
            if not self._take_in(violating & (self.rounds < self._max_rounds)[:, None], rows.fixed):
                return ~violating.any(1)

    def _take_in(self, wanted: Tensor, fixed: Tensor) -> bool:
        chosen = (wanted & ~fixed).any(0)[:-1]
        index = self._columns.index
        chosen[index] = False
        new = chosen.nonzero()[:, 0]
        if not len(new):
            return False
        both = self.rows.in_use(torch.cat([index, new]), thresholds.FOLDS_OF_ALL)
        if len(both.index) == self.rows.d:
            self._columns, self._curvature = both, None
            return True
        added = self.rows.columns(new)
        if self._curvature is not None:
            more = self.rows.more_of_hessians(self._columns, added, self._shared)
            for fit, curvature in self._own.items():
                more[fit] = self.rows.more_of_hessian(self._columns, added, curvature, fit)
            self._curvature.grow(more)
        self._columns = both
        return True

    def _renew(self) -> FoldCurvature:
        k = len(self._columns.index) + 1
        needed = 24 * self.rows.m * k * k  # corrected, uncorrected, and while they are made
        if needed > thresholds.FOLD_MEMORY:
            fits, folds = (f", in {self.rows.m} fits at once,", ", or fewer folds") if self.n_folds else ("", "")
            raise InputError(
                f"{k - 1} columns whose coefficients are not 0{fits} need {needed / 2**30:.0f} GiB; "
                f"take an l1_ratio nearer to 1, or a stronger weakest penalty (min_ratio){folds}"
            )
        rows, every, u = self.rows, torch.arange(self.rows.m), self.u[:, self._places]
        if rows.m * len(rows.y) * k * k <= thresholds.HESSIAN_OF_EACH:
            of_each = rows.curvature(self._columns, every, u)
            self._shared, self._own = of_each[:, 0], dict(enumerate(of_each.unbind(1)))
            self._curvature = FoldCurvature(rows.hessians_of_each(self._columns, of_each, every))
        else:
            self._shared, self._own = rows.curvature(self._columns, every[:1], u[:1])[:, 0], {}
            self._curvature = FoldCurvature(rows.hessians(self._columns, self._shared))
        self._excess, self._rounds_with_new = 0.0, math.inf
        return self._curvature

    def _renew_own(self, curvature: FoldCurvature, fit: int, u: Tensor) -> None:
        self._own[fit] = self.rows.curvature(self._columns, torch.tensor([fit]), u[None])[:, 0]
        curvature.replace(fit, self.rows.hessian(self._columns, self._own[fit], fit))

    def _rounds(self, l1: Tensor, l2: Tensor, tolerance: Tensor) -> None:
        places = self._places
        l1, l2, tolerance = l1[:, places], l2[:, places], tolerance[:, places]
        u, gradient = self.u[:, places], self.gradient[:, places]
        finite = torch.where(l1.isinf(), 0.0, l1)
        curvature = self._curvature
        if curvature is None or self._excess > self._worth_of_hessian:
            curvature = self._renew()
        violation = (violations(u, gradient, l1, l2) / tolerance).max(1).values
        mark, stalled = violation.clone(), torch.zeros(self.rows.m)
        taken, renewals = 0, 0
        rate = torch.full_like(violation, thresholds.SLOWEST)

        while True:
            of = ((violation > 1) & (self.rounds < self._max_rounds)).nonzero()[:, 0]
            if not len(of):
                break
            taken += len(of)
            self.rounds[of] += 1
            start = u[of]
            point = curvature.minimize(of, start, gradient[of], l1[of], l2[of])
            before = _slope(start, point - start, gradient[of], finite[of], l2[of], end=False)
            found, length = self.rows.gradients(self._columns, of, point), torch.ones_like(before)
            for _ in range(thresholds.SHORTENINGS):
                after = _slope(point, point - start, found, finite[of], l2[of], end=True)
                steep = (after > -thresholds.OVERSHOT * before * length) & (
                    violation[of] > thresholds.ROUNDED_VIOLATION
                )
                if not bool(steep.any()):
                    break
                stalled[of[steep]] += thresholds.PATIENCE
                # To where a line through both slopes is 0.
                part = (before * length / (before * length - after)).clamp(0.1, 0.7)
                length = torch.where(steep, length * part, length)
                point = torch.where(steep[:, None], start + part[:, None] * (point - start), point)
                found = self.rows.gradients(self._columns, of, point)
            curvature.correct(of, point - start, found - gradient[of])
            u[of], gradient[of] = point, found
            previous = violation[of]
            violation[of] = (violations(point, found, l1[of], l2[of]) / tolerance[of]).max(1).values
            rate[of] = (violation[of] / previous).clamp(thresholds.FASTEST, thresholds.SLOWEST)
            if renewals == 0 and self._saved_by_new(violation, rate) > 2 * self._worth_of_hessian:
                self.u[:, places], renewals = u, 1
                curvature = self._renew()
                stalled, mark = torch.zeros_like(stalled), violation.clone()
                continue
            if renewals == 1:
                self._rate_with_new[of], renewals = rate[of], 2
            better = violation[of] <= thresholds.PROGRESS * mark[of]
            mark[of] = torch.where(better, violation[of], mark[of])
            stalled[of] = torch.where(better, 0, stalled[of] + 1)
            for fit in of[(stalled[of] >= thresholds.PATIENCE) & (violation[of] > 1)].tolist():
                self._renew_own(curvature, fit, u[fit])
                stalled[fit], mark[fit] = 0, violation[fit]
        self._rounds_with_new = min(self._rounds_with_new, taken / self.rows.m)
        self._excess += taken / self.rows.m - self._rounds_with_new
        self.u[:, places], self.gradient[:, places] = u, gradient

    def _saved_by_new(self, violation: Tensor, rate: Tensor) -> float:
        """Rounds of all fits that a new Hessian is expected to save, if it is as good as the last one was when new."""
        left = violation.clamp_min(1).log()
        return float((left / -rate.log() - left / -self._rate_with_new.log()).sum()) / self.rows.m

    @property
    def _worth_of_hessian(self) -> float:
        return max(1.0, len(self._columns.index) / thresholds.COLUMNS_A_ROUND)


def _slope(u: Tensor, step: Tensor, gradient: Tensor, l1: Tensor, l2: Tensor, *, end: bool) -> Tensor:
    """Slopes (f,) of the objectives along steps, at u, from the left where a step ends and from the right else."""
    away = -step.abs() if end else step.abs()
    return ((gradient + l2 * u) * step).sum(1) + (l1 * torch.where(u != 0, u.sign() * step, away)).sum(1)
