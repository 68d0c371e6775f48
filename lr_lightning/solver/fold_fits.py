"""Several fits of the same rows at once, each exact: one Hessian serves all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_curvature import FoldCurvature
from lr_lightning.solver.fold_rows import ColumnsInUse, FoldRows, Losses
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
    quadratic models come from one Hessian at the fit of all rows, of the columns in use. It is kept until the fits have
    had a slow round each; a fit for which a new one is slow too gets its own. Of few rows and columns every fit has a
    Hessian of its own from the start.

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
        self._slow_rounds = torch.zeros(m)  # of each fit, since its Hessian was taken
        self.rounds = torch.zeros(m, dtype=torch.long)
        self._gradient: Tensor | None = None

    @property
    def gradient(self) -> Tensor:
        """Gradients of the mean losses, (m, d + 1)."""
        if self._gradient is None:
            columns = self.rows.in_use((self.u[:, :-1] != 0).any(0).nonzero()[:, 0])
            self._gradient = self._gradient_of_all(columns)
        return self._gradient

    def _gradient_of_all(self, columns: ColumnsInUse) -> Tensor:
        every = torch.arange(self.rows.m)
        return self.rows.gradients(columns, every, self.u[:, self.rows.places(columns)], self.rows.every)

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
        columns = self.rows.for_one_sweep(coefficients.index)
        u = torch.zeros(self.n_folds, self.rows.d + 1, dtype=torch.float64)
        u[:, coefficients.index], u[:, -1] = coefficients.u[:, :-1], coefficients.u[:, -1]
        return self.rows.out_of_fold(columns, u[:, self.rows.places(columns)])

    def fit_null(self) -> float:
        """Move to the fits of the intercept and the offset alone; the mean loss of all rows."""
        self._fit_some(torch.zeros_like(self.rows.fixed))
        return float(self.losses().training[0])

    def fit_unpenalised(self) -> Tensor:
        """Move to the fits of the intercept, the offset and the columns without penalty, (m, d + 1)."""
        self._fit_some(self.rows.l1_unit == 0)
        return self.u.clone()

    def _fit_some(self, free: Tensor) -> None:
        free = free.clone()
        free[:, -1] = True
        l1 = torch.full_like(self.u, torch.inf)
        l1[free & ~self.rows.fixed] = 0
        self._converge(l1, torch.zeros_like(l1), torch.full_like(l1, thresholds.FOLD_EXACT), l1 == 0)

    def move_to(self, u: Tensor) -> None:
        """Take coefficients (m, d + 1)."""
        if not torch.equal(u, self.u):
            self.u, self._gradient = u.clone(), None

    @property
    def largest_gradient(self) -> float:
        """Largest gradient of the fit of all rows, by standardised coefficients."""
        return float(self.gradient[0].abs().max())

    def strongest(self) -> float:
        """The least strength of an L1 penalty that keeps the penalised coefficients of all rows at 0."""
        unit = self.rows.l1_unit[0]
        penalised = (unit > 0) & ~self.rows.fixed[0]
        return float((self.gradient[0, penalised].abs() / unit[penalised]).max()) if bool(penalised.any()) else 0.0

    def fit(self, l1: float | Tensor, l2: float | Tensor, least_tolerance: float) -> Tensor:
        """Move to the optima, where the optimality conditions hold to 1e-10 of the penalty.

        Args:
            l1: strength of the L1 penalty, of all fits or each (m,).
            l2: likewise.
            least_tolerance: violation of the optimality conditions that is rounding.

        Returns:
            Whether the fits have got there, (m,).

        Raises:
            InputError: if more columns than memory can hold the Hessians of are in use.
        """
        rows = self.rows
        first, second = (torch.as_tensor(t, dtype=torch.float64).expand(rows.m) for t in (l1, l2))
        first, second, tolerance = penalties_of(rows, first, second, least_tolerance)
        wanted = (self.gradient.abs() > first) | (first == 0)
        return self._converge(first, second, tolerance, wanted)

    def _converge(self, l1: Tensor, l2: Tensor, tolerance: Tensor, wanted: Tensor) -> Tensor:
        rows = self.rows
        self.rounds = torch.zeros_like(self.rounds)
        self._take_in(wanted | (self.u != 0), rows.fixed)
        while True:
            before = self.u.clone()
            self._rounds(l1, l2, tolerance)
            if len(self._columns.index) < rows.d and not torch.equal(before, self.u):
                self._gradient = self._gradient_of_all(self._columns)
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
            more = self.rows.more_of_hessians(both, added, self._shared)
            for fit, curvature in self._own.items():
                more[fit] = self.rows.more_of_hessian(both, added, curvature, fit)
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
        self._slow_rounds.zero_()
        return self._curvature

    def _renew_own(self, curvature: FoldCurvature, fit: int, u: Tensor) -> None:
        self._own[fit] = self.rows.curvature(self._columns, torch.tensor([fit]), u[None])[:, 0]
        curvature.replace(fit, self.rows.hessian(self._columns, self._own[fit], fit))
        self._slow_rounds[fit] = 0

    def _rounds(self, l1: Tensor, l2: Tensor, tolerance: Tensor) -> None:
        """Move to the optima of the columns in use."""
        places = self._places
        l1, l2, tolerance = l1[:, places], l2[:, places], tolerance[:, places]
        u, gradient = self.u[:, places], self.gradient[:, places]
        curvature, renewed = self._curvature or self._renew(), False
        violation = (violations(u, gradient, l1, l2) / tolerance).max(1).values
        while len(of := ((violation > 1) & (self.rounds < self._max_rounds)).nonzero()[:, 0]):
            self.rounds[of] += 1
            point = curvature.minimize(of, u[of], gradient[of], l1[of], l2[of])
            doubtful = violation[of] <= thresholds.ROUNDED_VIOLATION
            point, found = self._shortened(of, u[of], gradient[of], point, l1[of], l2[of], doubtful)
            curvature.correct(of, point - u[of], found - gradient[of])
            u[of], gradient[of] = point, found
            before = violation[of]
            violation[of] = (violations(point, found, l1[of], l2[of]) / tolerance[of]).max(1).values
            self._slow_rounds[of] += (violation[of] > thresholds.SLOW_ROUND * before).float()
            # A second one, at the same point of the fit of all rows, would tell the others no more.
            if not renewed and float(self._slow_rounds.mean()) > 1:
                self.u[:, places], renewed = u, True
                curvature = self._renew()
            for fit in (self._slow_rounds[of] >= thresholds.SLOW_ROUNDS).nonzero()[:, 0].tolist():
                self._renew_own(curvature, int(of[fit]), u[of[fit]])
        self.u[:, places], self.gradient[:, places] = u, gradient

    def _shortened(
        self, of: Tensor, u: Tensor, gradient: Tensor, point: Tensor, l1: Tensor, l2: Tensor, doubtful: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Steps (f, k) from u, shortened where the objective rises steeply at their ends, and the gradients there.

        Those that are doubtful (f,) are so near the optimum that rounding decides about slopes.
        """
        l1, step = torch.where(l1.isinf(), 0.0, l1), point - u
        longest = step.abs().amax(1, keepdim=True)
        if bool((longest > thresholds.LONGEST_STEP).any()):  # where offsets leave hardly any curvature
            step = step * (thresholds.LONGEST_STEP / longest).clamp_max(1.0)
            point = u + step
        before = slope(u, step, gradient, l1, l2, end=False)
        found, length = self.rows.gradients(self._columns, of, point), torch.ones_like(before)
        for _ in range(thresholds.SHORTENINGS):
            steep = shorten(length, before, slope(point, step, found, l1, l2, end=True), ~doubtful)
            if not bool(steep.any()):
                break
            point = torch.where(steep[:, None], u + length[:, None] * step, point)
            found = self.rows.gradients(self._columns, of, point)
        return point, found


def shorten(length: Tensor, before: Tensor, after: Tensor, some: Tensor) -> Tensor:
    """Shorten those of some steps that have gone too far, to where a line through the slopes at both ends is 0.

    Args:
        length: of the steps, (f,), relative to the first ones; overwritten.
        before: slopes at their starts, (f,).
        after: at their ends.
        some: which steps may be shortened, (f,).

    Returns:
        Which were, (f,).
    """
    steep = (after > -thresholds.OVERSHOT * before) & some
    length[steep] *= (before / (before - after)).clamp(0.1, 0.7)[steep]
    return steep


def slope(u: Tensor, step: Tensor, gradient: Tensor, l1: Tensor, l2: Tensor, *, end: bool) -> Tensor:
    """Slopes (f,) of the objectives along steps, at u, from the left where a step ends and from the right else."""
    away = -step.abs() if end else step.abs()
    return ((gradient + l2 * u) * step).sum(1) + (l1 * torch.where(u != 0, u.sign() * step, away)).sum(1)
