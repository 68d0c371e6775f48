"""Fits of an L2 penalty, of all rows and of all but each fold, at many strengths at once: one sweep serves all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_rows import FoldRows
from lr_lightning.solver.rounded_rows import RoundedColumns, RoundedRows


@dataclass(frozen=True)
class RidgeFits:
    """Fits number 0 of all rows and f + 1 of all rows but fold f, at p strengths.

    Attributes:
        u: coefficients in the coordinates of the rows, (p, m, d + 1).
        rounds: sweeps over all rows that each took, (p, m).
        converged: whether each is the optimum, (p, m).
    """

    u: Tensor
    rounds: Tensor
    converged: Tensor


def fit_ridges(
    rows: FoldRows, strengths: Tensor, *, tolerance: float, max_rounds: int, stopped: Callable[[], bool]
) -> RidgeFits:
    """Minimise mean losses plus L2 penalties by Newton's method, from a sample to all rows to all but each fold.

    A fit ends when half the squared Newton decrement, which is about what is left to gain, falls below a tolerance
    times the objective: 1e-10 without a fold, 3e-13 of all rows, 1e-16 of any where rows are few. That of the point
    where the last step leads is not measured, but taken to shrink as it did in that step.

    Args:
        rows: the rows.
        strengths: λ, positive, (p, m).
        tolerance: in place of the above where it is less.
        max_rounds: at most so many sweeps for a fit.
        stopped: says whether to stop.
    """
    at_once = max(1, thresholds.RIDGE_MEMORY // (8 * rows.m * (rows.d + 1) ** 2))
    is_large = rows.is_dense and rows.n * (rows.d + 1) >= thresholds.LARGE_RIDGE
    rounded = _rounded(rows) if is_large else None
    found = [_fit(rows, rounded, part, tolerance, max_rounds, stopped) for part in strengths.split(at_once)]
    return RidgeFits(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def worth_all_at_once(rows: FoldRows, p: int) -> bool:
    """Whether `fit_ridges` is fast: a Hessian costs nothing, or rows are so many that one serves all folds."""
    k = rows.d + 1
    return p * rows.m * rows.n * k * k <= thresholds.RIDGE_HESSIAN_OF_EACH or rows.n >= thresholds.ROWS_A_COLUMN * k


def _fit(
    rows: FoldRows,
    rounded: RoundedColumns | None,
    strengths: Tensor,
    tolerance: float,
    max_rounds: int,
    stopped: Callable[[], bool],
) -> tuple[Tensor, Tensor, Tensor]:
    p, k = len(strengths), rows.d + 1
    fine = p * rows.m * rows.n * k * k <= thresholds.RIDGE_HESSIAN_OF_EACH
    of_each = torch.full(
        (rows.m,), min(tolerance, thresholds.RIDGE_FINE if fine else thresholds.RIDGE_TOLERANCE), dtype=torch.float64
    )
    of_each[0] = min(tolerance, thresholds.RIDGE_FINE if fine else thresholds.RIDGE_EXACT)
    start, factor = torch.zeros(p, 1, k, dtype=torch.float64), None
    size = max(thresholds.LEAST_RIDGE_SAMPLE, thresholds.RIDGE_SAMPLE_A_COLUMN * k)
    if 2 * size < rows.n:
        drawn = rows.sample(size)
        of_sample = None if rounded is None else _rounded(drawn)
        sample = _Newton(drawn, strengths[:, :1], start, stopped, rounded=of_sample, is_start=True)
        sample.run(thresholds.NEGLIGIBLE_OF_SAMPLE * k / size, max_rounds)
        start, factor = sample.u, sample.factor
    whole = _Newton(
        rows.without_folds(), strengths[:, :1], start, stopped, rounded=rounded, factor=factor, is_start=rows.m > 1
    )
    if rows.m == 1:
        whole.run(of_each, max_rounds)
        return whole.u, whole.rounds, whole.converged
    whole.run(thresholds.NEGLIGIBLE_OF_SAMPLE * k / rows.n, max_rounds)
    every = _Newton(rows, strengths, whole.u, stopped, rounded=rounded)
    every.rounds += whole.rounds
    every.run(of_each, max_rounds)
    # Where the fits of all rows have taken all rounds, those without a fold stay where they begin.
    return every.u.expand(-1, rows.m, -1), every.rounds, every.converged


def _rounded(rows: FoldRows) -> RoundedColumns:
    return RoundedRows(rows).columns(rows.every.index)


class _Newton:
    """Newton's method for all fits at p strengths.

    A Hessian is kept until a step leaves too much of the decrement. One at the fit of all rows serves the fits of all
    folds, less a fold's own part of it, and those at other strengths that are near enough; if that is too slow, a fit
    gets its own.

    Args:
        rows: the rows of m fits.
        strengths: of their penalties, (p, m).
        u: where they start, (p, 1, d + 1).
        stopped: says whether to stop.
        rounded: the rows in float32, for sweeps whose last digits do not matter; None takes none.
        factor: Cholesky factors of the Hessians to begin with, (p, m, d + 1, d + 1); None computes them.
        is_start: whether the solutions are a start for others, so that their last digits do not matter.

    Attributes:
        u: coefficients, (p, m, d + 1), or (p, 1, d + 1) as long as all fits have the same.
        factor: of the Hessians in use.
        rounds: sweeps that each fit took, (p, m).
        converged: (p, m).
    """

    def __init__(
        self,
        rows: FoldRows,
        strengths: Tensor,
        u: Tensor,
        stopped: Callable[[], bool],
        *,
        rounded: RoundedColumns | None = None,
        factor: Tensor | None = None,
        is_start: bool = False,
    ) -> None:
        self._rows, self._rounded, self._stopped, self._is_start = rows, rounded, stopped, is_start
        self._ridge = strengths[:, :, None] * rows.l2_unit
        p, m, k = self._ridge.shape
        self._of_each = m > 1 and p * m * rows.n * k * k <= thresholds.RIDGE_HESSIAN_OF_EACH
        self.u = u
        self.rounds = torch.zeros(p, m, dtype=torch.long)
        self.converged = torch.zeros(p, m, dtype=torch.bool)
        self._renewed = torch.zeros(p, dtype=torch.bool)
        self.factor = torch.empty(p, m, k, k, dtype=torch.float64) if factor is None else factor
        if factor is None:
            self._renew(~self.converged)

    def run(self, tolerance: float | Tensor, max_rounds: int) -> None:
        """Move to the minima, to a tolerance of all fits or each (m,)."""
        p, m, k = self._ridge.shape
        tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand(p, m)
        before = torch.full((p, m), torch.inf, dtype=torch.float64)  # squared decrements of the last steps
        step = torch.zeros(p, m, k, dtype=torch.float64)
        enough = torch.zeros_like(before)
        while bool((pending := ~self.converged & (self.rounds < max_rounds)).any()):
            if self._stopped():
                raise InterruptedError
            self.rounds += pending
            gradient, objective = self._gradient(pending, enough)
            enough = tolerance * objective
            slope = (gradient * step).sum(2)
            steep = pending & (slope > thresholds.OVERSHOT * before) & (before > enough)
            # A step that was too long is taken back to where a line through the slopes at both ends is 0.
            part = torch.where(steep, before / (before + slope), 1.0).clamp_min(0.1)
            self.u = self.u - (1 - part)[..., None] * step
            step, before = step * part[..., None], before * part

            pending &= ~steep
            direction = self._direction(gradient, pending)
            decrement = -(direction * gradient).sum(2)
            slow = (
                pending
                & (decrement > (thresholds.SLOW_RIDGE_OF_EACH if self._of_each else thresholds.SLOW_RIDGE) * before)
                & (decrement > enough)
            )
            if bool(slow.any()):
                self._renew(slow)
                direction = self._direction(gradient, pending)
                decrement = -(direction * gradient).sum(2)
            left = torch.where(slow | before.isinf(), 1.0, decrement / before).clamp_max(1)
            self.converged |= pending & (0.5 * decrement * left <= enough)
            self.u = torch.where(pending[..., None], self.u + direction, self.u)
            step = torch.where(pending[..., None], direction, step)
            before = torch.where(pending, decrement, before)

    def _gradient(self, pending: Tensor, enough: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each pending fit (p, m, d + 1), 0 of the others, and about its objective (p, m), not more.

        Each fit has a point of its own afterwards. One whose squared distance from that at the weakest penalty is
        enough (p, m) or less, in the norm of its Hessian, takes the gradient from there and the Hessian times the
        distance. The error is a part of the tolerance, as what a step leaves is a part of the decrement before it. A
        start, whose Hessians may be those of a point far away, does so at the same point alone.
        """
        rows, near, away = self._rows, torch.zeros_like(pending), self.u - self.u[-1]
        means = torch.zeros(*self._ridge.shape[:2], rows.d + 2, dtype=torch.float64)
        if self.u.shape[1] < rows.m:
            number, fit = pending.nonzero().unbind(1)
            of_folds, place = (self._rounded or rows).fold_gradients(self.u[:, 0]), number
            self.u = self.u.expand_as(self._ridge)
        else:
            near[:-1] = pending[:-1] & pending[-1]
            near[near.clone()] = self._times_root(away, near).square().sum(1) <= (0 if self._is_start else enough[near])
            number, fit = (pending & ~near).nonzero().unbind(1)
            swept = self._rounded if self._rounded and self._is_start else rows
            of_folds, place = swept.fold_gradients(self.u[number, fit]), torch.arange(len(fit))
        sums, left_out = of_folds.sum(0)[place], fit > 0
        sums[left_out] -= of_folds[fit[left_out] - 1, place[left_out]]
        means[number, fit] = sums / rows.weight[fit, None]
        if bool(near.any()):
            rise = (self.factor[near] @ self._times_root(away, near)[..., None])[..., 0]
            means[near] = means[-1].expand_as(means)[near]
            means[..., :-1][near] += rise - (self._ridge * away)[near]
        shrinking = self._ridge * self.u
        gradient = torch.where(pending[..., None], means[..., :-1] + shrinking, 0.0)
        gradient[..., rows.absent] = 0
        return gradient, means[..., -1] + 0.5 * (shrinking * self.u).sum(2)

    def _times_root(self, vectors: Tensor, some: Tensor) -> Tensor:
        """Some vectors of (p, m, d + 1) times the transposed Cholesky factors of their Hessians, (s, d + 1)."""
        return (self.factor[some].mT @ vectors[some][..., None])[..., 0]

    def _direction(self, gradient: Tensor, pending: Tensor) -> Tensor:
        direction = torch.zeros_like(gradient)
        direction[pending] = -torch.cholesky_solve(gradient[pending][..., None], self.factor[pending])[..., 0]
        return direction

    def _renew(self, slow: Tensor) -> None:
        """Take the Hessians of some fits (p, m) anew."""
        rows, every = self._rows, self._rows.every
        own = self._renewed[:, None] & slow
        if self.u.shape[1] == rows.m > 1 and self._of_each:
            own = slow
        number, fit = own.nonzero().unbind(1)
        if len(fit):
            curvature = rows.curvature(every, fit, self.u[number, fit])
            if self._of_each:
                hessians = rows.hessians_of_each(every, curvature, fit)
            else:
                hessians = torch.stack(
                    [rows.hessian(every, v, f) for v, f in zip(curvature.T, fit.tolist(), strict=True)]
                )
            self.factor[number, fit] = self._factor_of(hessians, self._ridge[number, fit])
        numbers = (slow & ~own).any(1).nonzero()[:, 0]
        if len(numbers):
            u = self.u[numbers, 0]
            places, place = _alike(rows.some_curvatures(u, thresholds.COMPARED_ROWS)).unique(return_inverse=True)
            hessians = (self._rounded or rows).hessians_at(u[places])[place, : rows.m].double()
            self.factor[numbers] = self._factor_of(hessians, self._ridge[numbers])
            self._renewed[numbers] = rows.m > 1

    def _factor_of(self, hessians: Tensor, ridge: Tensor) -> Tensor:
        """Cholesky factors of Hessians plus penalties; where rounding leaves one indefinite, more is added to it."""
        absent = self._rows.absent
        hessians[..., absent, :] = 0
        hessians[..., absent] = 0
        diagonal = hessians.diagonal(dim1=-2, dim2=-1)
        diagonal += ridge
        diagonal[..., absent] = 1
        size, more = diagonal.clone(), torch.finfo(torch.float32 if self._rounded else torch.float64).eps
        factor, info = torch.linalg.cholesky_ex(hessians)
        for _ in range(thresholds.GRAM_RIDGES):
            if not bool(info.any()):
                break
            diagonal += torch.where(info[..., None] > 0, more * size, 0.0)
            more *= 10
            factor, info = torch.linalg.cholesky_ex(hessians)
        return factor


def _alike(curvature: Tensor) -> Tensor:
    """For each column (r, q) the number of the first one that is nearly the same, (q,)."""
    found = list(range(curvature.shape[1]))
    for i, own in enumerate(curvature.T):
        near = (curvature[:, :i] - own[:, None]).abs().sum(0) <= thresholds.ALIKE * own.sum()
        found[i] = next((found[j] for j in near.nonzero()[:, 0].tolist()), i)
    return torch.tensor(found)
