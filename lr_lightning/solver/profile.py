"""Profile likelihoods: the ends of their intervals and the likelihood-ratio statistics, of many coefficients at once.

The profile of a coefficient at a value t is the largest likelihood that the others reach beside it. Every point is a
refit of the others. The refits of different coefficients have nothing in common but the rows, so they share the sweeps
over these: one sweep evaluates all of them at their present points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.solver import thresholds
from lr_lightning.solver.likelihood import Likelihood


class Task(NamedTuple):
    """A point of a profile to find.

    Attributes:
        functional: the coefficient as a linear function of the point, (p,).
        side: +1 for the upper end, −1 for the lower one, 0 for the refit at `value`.
        value: what the coefficient is held at, for side 0.
    """

    functional: Tensor
    side: int
    value: float = 0.0


class Optimum(NamedTuple):
    """The optimum of a likelihood.

    Attributes:
        point: (p,).
        value: of the likelihood there, minus its logarithm.
        hessian: there, (p, p).
        converged: whether it was reached.
    """

    point: Tensor
    value: float
    hessian: Tensor
    converged: bool


def optimum(likelihood: Likelihood, start: Tensor) -> Optimum:
    """Newton's method to the last digits, from a point (p,) that is near; steps are halved where the value rises."""
    point = start
    value, gradient, hessian = likelihood.at(point)
    for _ in range(thresholds.PROFILE_STEPS):
        p = -_Factor(hessian[None]).solve(gradient[:, None, None])[:, 0, 0]
        decrement = -float(gradient @ p)
        if not decrement > 1e-14 * (1 + abs(value)):
            return Optimum(point, value, hessian, math.isfinite(value))
        t = 1.0
        for _ in range(thresholds.PROFILE_HALVINGS):
            candidate = likelihood.at(point + t * p)
            if candidate[0] <= value + 1e-13 * abs(value):
                break
            t /= 2
        else:
            return Optimum(point, value, hessian, decrement <= 1e-8)
        point, (value, gradient, hessian) = point + t * p, candidate
    return Optimum(point, value, hessian, False)


def profile(
    likelihood: Likelihood,
    best: Optimum,
    tasks: list[Task],
    drop: float,
    *,
    n_rows: int,
    told: Callable[[int, int], None] | None = None,
) -> Tensor:
    r"""Ends of intervals and likelihoods of refits, for all tasks, float64 (m,); NaN where the search has failed.

    An end is where the profile has lost `drop`. With f minus the log-likelihood, g and H its derivatives, c the
    functional and s the side, the step to the point that is farthest along s c'β among those where the quadratic
    model is no larger than f* = f(β̂) + drop is (Venzon & Moolgavkar 1988)

    .. math:: p = -H^{-1} g + \lambda s H^{-1} c, \qquad
              \lambda^2 = \frac{2 (f^* - f) + g^\top H^{-1} g}{c^\top H^{-1} c}.

    From the optimum it leads to the Wald interval's end, moved along the quadratic prediction of the others. A step
    that ends far above f* is halved, and the points found so far enclose the end. On a large table H begins as that of
    the optimum, is corrected by BFGS, and computed anew where that goes slowly.

    Args:
        likelihood: that is profiled.
        best: its optimum.
        tasks: what to find.
        drop: half the quantile of χ²₁.
        n_rows: number of rows.
        told: is given the number of tasks that are done and that of all, after every sweep.

    Returns:
        For an end the value of the coefficient there; for a refit minus the logarithm of its likelihood.
    """
    p = likelihood.size
    size = max(1, min(thresholds.PROFILE_POINTS, thresholds.PROFILE_HESSIANS // p**2))
    exact = likelihood.firth or n_rows * p**2 * min(size, len(tasks)) <= 4 * thresholds.CHEAP_HESSIAN
    parts = []
    for start in range(0, len(tasks), size):

        def tell(done: int, start: int = start) -> None:
            if told is not None:
                told(start + done, len(tasks))

        parts.append(_Search(likelihood, best, tasks[start : start + size], drop, exact=exact).run(tell))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


class _Factor:
    """Cholesky factors of m matrices (m, p, p), scaled to unit diagonal; a ridge makes singular ones definite."""

    def __init__(self, matrices: Tensor) -> None:
        diagonal = matrices.diagonal(dim1=1, dim2=2)
        self._scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
        scaled = matrices * self._scale[:, :, None] * self._scale[:, None, :]
        ridge = 1e-14
        self._lower, info = torch.linalg.cholesky_ex(scaled)
        while bool(info.any()) and ridge < 1:
            bad = info.nonzero()[:, 0]
            again, info_again = torch.linalg.cholesky_ex(scaled[bad] + ridge * torch.eye(scaled.shape[1]).double())
            self._lower[bad] = again
            info = torch.zeros_like(info)
            info[bad] = info_again
            ridge *= 100

    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions (p, k, m) of right-hand sides (p, k, m)."""
        r = rhs.permute(2, 0, 1) * self._scale[:, :, None]
        return (torch.cholesky_solve(r, self._lower) * self._scale[:, :, None]).permute(1, 2, 0)


class _Search:
    """The tasks that share their sweeps; every attribute has an entry a task, in the last dimension."""

    def __init__(self, likelihood: Likelihood, best: Optimum, tasks: list[Task], drop: float, *, exact: bool) -> None:
        m, p = len(tasks), likelihood.size
        self._likelihood, self._exact = likelihood, exact
        self.c = torch.stack([task.functional for task in tasks], 1)
        self.side = torch.tensor([float(task.side) for task in tasks], dtype=torch.float64)
        self.limit, self.drop = best.value + drop, drop
        self.hessian = best.hessian.expand(m, p, p).clone()
        along = _Factor(best.hessian[None]).solve(self.c[:, :, None])[:, :, 0]
        variance = (self.c * along).sum(0)
        self.error = variance.sqrt()
        self.centre = best.point @ self.c
        goal = torch.where(
            self.side == 0,
            torch.tensor([task.value for task in tasks], dtype=torch.float64),
            self.centre + self.side * math.sqrt(2 * drop) * self.error,
        )
        self.base = best.point[:, None].expand(p, m).clone()  # the last accepted point
        self.base_value = torch.full((m,), best.value, dtype=torch.float64)
        self.base_gradient = torch.zeros(p, m, dtype=torch.float64)
        self.step = along * ((goal - self.centre) / variance)
        self.length = torch.ones(m, dtype=torch.float64)
        self.inside = torch.zeros(m, dtype=torch.float64)  # distances from the optimum that enclose an end
        self.outside = torch.full((m,), torch.inf, dtype=torch.float64)
        self.decrement = torch.full((m,), torch.inf, dtype=torch.float64)
        self.halvings = torch.zeros(m, dtype=torch.int64)
        self.first = torch.ones(m, dtype=torch.bool)
        self.found = torch.full((m,), torch.nan, dtype=torch.float64)

    def run(self, tell: Callable[[int], None]) -> Tensor:
        """Search for all tasks; return what `profile` returns."""
        m = len(self.found)
        active = torch.arange(m)
        for _ in range(thresholds.PROFILE_STEPS):
            active = self._sweep(active)
            tell(m - len(active))
            if not len(active):
                break
        return self.found

    def _sweep(self, active: Tensor) -> Tensor:
        """One sweep over the rows for the active tasks; those that still are."""
        points = self.base[:, active] + self.length[active] * self.step[:, active]
        if self._exact:
            values, gradients, hessians, *_ = self._likelihood.derivatives(points)
        else:
            values, gradients = self._likelihood.evaluate(points)
            hessians = None
        side, first = self.side[active], self.first[active]
        # The first step of a refit leads to its value, where the likelihood is what it is; later ones must not rise.
        highest = torch.where(
            side == 0, self.base_value[active] + 1e-12 * self.base_value[active].abs(), self.limit + self.drop
        )
        highest = torch.where((side == 0) & first, torch.inf, highest)
        accepted = (values <= highest) & gradients.isfinite().all(0)
        rejected = active[~accepted]
        self.halvings[rejected] += 1
        # Towards its value a refit is led in parts, if it has to be.
        self.length[rejected] /= 2
        failed = rejected[self.halvings[rejected] > thresholds.PROFILE_HALVINGS]
        for task in failed.tolist():
            if self.side[task] == 0 and self.decrement[task] <= 1e-6:  # rounding
                self.found[task] = self.base_value[task]
        keep = accepted.nonzero()[:, 0]
        done = self._accept(active[keep], points[:, keep], values[keep], gradients[:, keep], hessians, keep)
        stays = torch.ones(len(self.found), dtype=torch.bool)
        stays[done] = stays[failed] = False
        return active[stays[active]]

    def _accept(
        self, at: Tensor, points: Tensor, values: Tensor, gradients: Tensor, hessians: Tensor | None, keep: Tensor
    ) -> Tensor:
        """Take points, and find their next steps; the tasks that are done."""
        if not len(at):
            return at
        if hessians is not None:
            self.hessian[at] = hessians[keep]
        else:
            self._correct(at, points - self.base[:, at], gradients - self.base_gradient[:, at])
        c, side = self.c[:, at], self.side[at]
        of_c, of_g, cc, cg, gg, inner = self._solved(at, c, gradients)
        slow = (
            (inner > thresholds.SLOW_PROFILE * self.decrement[at]) & (inner > thresholds.PROFILE_TEST)
            if hessians is None
            else torch.zeros_like(inner) > 0
        )
        if bool(slow.any()):
            renewed = slow.nonzero()[:, 0]
            self.hessian[at[renewed]] = self._likelihood.information(points[:, renewed])
            of_c, of_g, cc, cg, gg, inner = self._solved(at, c, gradients)
        self.decrement[at] = torch.where(slow, torch.inf, inner)

        # How far to move the coefficient: not at all in a refit, to the quadratic model's end otherwise.
        distance = (side * ((c * points).sum(0) - self.centre[at])).clamp(min=0)
        left = 2 * (self.limit - values) + gg
        move = side * ((left.clamp(min=0) / cc).sqrt() * cc) - cg
        settled = inner <= thresholds.PROFILE_REFIT + 0.01 * (values - self.limit).abs()
        self.inside[at] = torch.where(values <= self.limit, torch.maximum(self.inside[at], distance), self.inside[at])
        is_out = settled & (values - 0.5 * inner > self.limit)
        self.outside[at] = torch.where(is_out, torch.minimum(self.outside[at], distance), self.outside[at])
        done = torch.where(
            side == 0,
            inner <= thresholds.PROFILE_TEST,
            (inner <= thresholds.PROFILE_REFIT) & (move.abs() <= thresholds.PROFILE_END * self.error[at]) & (left >= 0),
        )
        results = torch.where(side == 0, values - 0.5 * inner, (c * points).sum(0) + move)
        self.found[at[done]] = results[done]

        goal = distance + side * move
        goal = torch.where(left < 0, distance / 2, goal)
        enclosed = (goal > self.inside[at]) & (goal < self.outside[at])
        middle = (self.inside[at] + self.outside[at]) / 2
        goal = torch.where(enclosed | ~middle.isfinite() | (self.inside[at] >= self.outside[at]), goal, middle)
        move = torch.where(side == 0, 0.0, side * (goal - distance))
        self.base[:, at], self.base_value[at], self.base_gradient[:, at] = points, values, gradients
        self.step[:, at] = -of_g + of_c * ((cg + move) / cc)
        self.length[at], self.halvings[at], self.first[at] = 1.0, 0, False
        return at[done]

    def _solved(self, at: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        """H⁻¹c, H⁻¹g, c'H⁻¹c, c'H⁻¹g, g'H⁻¹g, and the squared decrement of the refit of the other coefficients."""
        solved = _Factor(self.hessian[at]).solve(torch.stack([c, g], 1))
        of_c, of_g = solved.unbind(1)
        cc, cg, gg = (c * of_c).sum(0), (c * of_g).sum(0), (g * of_g).sum(0)
        return of_c, of_g, cc, cg, gg, (gg - cg.square() / cc).clamp(min=0)

    def _correct(self, at: Tensor, s: Tensor, y: Tensor) -> None:
        """BFGS (Nocedal & Wright 2006, equation 6.19)."""
        products = torch.einsum("mij,jm->im", self.hessian[at], s)
        predicted, observed = (s * products).sum(0), (s * y).sum(0)
        for k in ((observed > 1e-8 * predicted) & (predicted > 0)).nonzero()[:, 0].tolist():
            self.hessian[at[k]] += torch.outer(y[:, k], y[:, k]) / observed[k]
            self.hessian[at[k]] -= torch.outer(products[:, k], products[:, k]) / predicted[k]
