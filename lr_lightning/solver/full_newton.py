"""Newton's method with all rows in every step: for objectives that a sample of the rows cannot stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.objective import Objective
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver import thresholds
from lr_lightning.solver.box import minimize_in_box
from lr_lightning.solver.coefficients import Coefficients
from lr_lightning.solver.curvature import DenseCurvature, inverse_bfgs
from lr_lightning.solver.decompositions import InverseRoot
from lr_lightning.solver.likelihood import Derivatives, Likelihood
from lr_lightning.solver.newton import CONVERGED, DIVERGING, NO_DECREASE, NOT_FINITE, PRECISION_LIMIT
from lr_lightning.solver.quadratic import newton_length


def needs_all_rows(objective: Objective) -> bool:
    """Whether an objective is minimised by `FullNewton`: Firth's, and those with bounds."""
    return bool(objective.firth) or objective.bounds is not None


class FullNewton(torch.optim.Optimizer):
    """Newton's method on all rows: for Firth's penalty and for coefficients within bounds.

    Every call of `step` sweeps over the rows: once for the objective, its gradient and its Hessian, and for Firth once
    more for the leverages. A point at which the objective has risen is taken back to half the step. Firth's Hessian is
    the information matrix, corrected by the last change of the gradient (BFGS), or on small tables the exact one. With
    bounds the step minimises the quadratic model within them; on large tables the model is corrected by BFGS and
    computed anew only where it has predicted badly.

    The solver stops once half the squared Newton decrement, or what the last step will leave of it, is at most `tol`
    times the objective. The parameters then
    hold the minimiser of the last model; with `firth="flic"` their intercept is FLIC's.

    Args:
        params: as of `SubsampledNewton`.
        batches: all rows, on the CPU; iterated in each sweep.
        standardization: means and scales (d,) in the units of the rows, as the parameters have them.
        objective: what is minimised.
        penalty: of the objective, on the weights of standardised features.
        served: what has been taken off the features in the rows.
        weight_scale: the number by which the weights have been divided.
        tol: relative to the objective; None is 1e-16.

    Attributes:
        converged: whether the minimum was reached.
        stopped: whether to stop calling `step`.
        status: why it stopped, or "" before.
        objective: the objective at the best point so far, divided by Σv.
        value: the same at the last point.
        newton_decrement: half the squared Newton decrement at the best point.

    Raises:
        InputError: if there are too many coefficients for a matrix of them.
    """

    nullity = 0  # Firth's penalty leaves dependent columns out; the report names those under bounds

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        batches: Iterable[Rows],
        standardization: Standardization,
        objective: Objective,
        penalty: Penalty,
        served: Standardization,
        weight_scale: float = 1.0,
        tol: float | None = None,
    ) -> None:
        super().__init__(params, {"tol": thresholds.FULL_TOLERANCE if tol is None else tol})
        self._coefficients = Coefficients(self.param_groups)
        scale = standardization.scale.cpu()
        columns = scale.isfinite().nonzero()[:, 0]
        self._has_intercept = self._coefficients.has_intercept
        refuse_many(len(columns) + self._has_intercept, objective)
        self._objective_is_firth, self._flic = bool(objective.firth), objective.firth == "flic"

        def likelihood(of: Tensor) -> Likelihood:
            return Likelihood(
                batches, standardization, intercept=self._has_intercept, firth=self._objective_is_firth,
                weight_scale=weight_scale, columns=of, units=served.scale,
            )  # fmt: skip

        self._likelihood, self._likelihood_of = likelihood(columns), likelihood
        self._total, self._n_rows, self._rounded = 0.0, 0, False
        for rows in batches:
            self._total += float(rows.total_weight) * weight_scale
            self._n_rows += len(rows.y)
            self._rounded |= rows.design.dtype != torch.float64
        d = len(scale)
        self._penalised = bool(penalty.l1.any() or penalty.l2.any())
        self._places = torch.cat([columns, torch.full((int(self._has_intercept),), d)])
        self._size_of_all = d + self._has_intercept
        self._l1, self._l2 = (
            torch.nn.functional.pad(part.detach().cpu(), (0, int(self._has_intercept)))[self._places]
            for part in (penalty.l1, penalty.l2)
        )
        self._bounds: Tensor | None = None
        if objective.bounds is not None:
            box = objective.bounds.double() * (scale * served.scale.cpu())
            open_end = torch.tensor([[-torch.inf], [torch.inf]], dtype=torch.float64)
            self._bounds = torch.cat([box, open_end], 1)[:, self._places]
        self.converged = self.stopped = False
        self.status = ""
        self.objective = self.newton_decrement = self.value = math.inf
        self._best: Tensor | None = None
        self._best_gradient = self._p = torch.zeros(len(self._places), dtype=torch.float64)
        self._curvature = DenseCurvature(torch.eye(len(self._places), dtype=torch.float64))
        self._predicted, self._rate = 0.0, math.inf
        self._best_of_penalty: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor]] = []  # the last step, and the change of the penalty's gradient
        self._root: InverseRoot | None = None  # of Firth's Hessian, without its corrections by
        self._pairs: list[tuple[Tensor, Tensor]] = []  # steps and changes of the gradient
        self._length, self._rejections = 1.0, 0
        self._next = self._into_box(self._coefficients.read()[self._places])
        self._write(self._next)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Evaluate the present parameters and, unless the solver stops, move them to the next proposal.

        Args:
            closure: called once, for what else it does; the objective is computed from the rows.

        Returns:
            What the closure returned.
        """
        with torch.enable_grad():
            loss = None if closure is None else closure()
        if not self.stopped:
            self._advance(self._coefficients.read()[self._places])
            if not self.stopped:
                self._write(self._next)
        return loss

    @torch.no_grad()
    def run(self, max_passes: int, interrupted: Callable[[], bool]) -> int:
        """Call `step` until the solver stops, for at most so many times; how often that was."""
        passes = 0
        while not self.stopped and passes < max_passes and not interrupted():
            self._advance(self._next)
            passes += 1
        self.restore_best()
        return passes

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best point so far into the parameters, for a run that was cut short."""
        if self._best is not None and not self.stopped:
            self._finish(self._best)

    def state_dict(self) -> dict[str, Any]:
        """The state from which `load_state_dict` continues the same trajectory; tensors and plain types."""
        state = super().state_dict()
        solver = {key: getattr(self, name) for key, name in _STATE.items()}
        state["solver"] = {
            **solver, "point": self._next, "curvature": self._curvature.state(),
            "rate": self._rate, "best_of_penalty": self._best_of_penalty, "steps": self._steps,
        }  # fmt: skip
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict`, and put the point to evaluate next into the parameters.

        Raises:
            ValueError: If it comes from another model.
        """
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        solver = state_dict["solver"]
        if solver["point"].shape != self._next.shape and self._objective_is_firth:
            self._leave_out_dependent()
        if solver["point"].shape != self._next.shape or not set(_STATE) <= set(solver):
            raise ValueError("the state is that of another model or solver")
        for key, name in _STATE.items():
            setattr(self, name, solver[key])
        self._curvature.matrix, self._next = solver["curvature"]["matrix"], solver["point"]
        if "steps" in solver:  # earlier versions have not kept them, and begin anew
            self._rate, self._best_of_penalty = solver["rate"], solver["best_of_penalty"]
            self._steps = [(step, change) for step, change in solver["steps"]]
        if not self.stopped:
            self._write(self._next)

    def _leave_out_dependent(self) -> bool:
        """Leave out the columns that depend on those before them, for which I is singular; whether there are some."""
        k = len(self._likelihood.columns)
        kept = _independent(self._likelihood, rounded=self._rounded)
        if len(kept) == k:
            return False
        self._likelihood = self._likelihood_of(self._likelihood.columns[kept])
        kept = torch.cat([kept, torch.arange(k, len(self._places))])
        self._places, self._l1, self._l2 = self._places[kept], self._l1[kept], self._l2[kept]
        self._best_gradient, self._p, self._next = self._best_gradient[kept], self._p[kept], self._next[kept]
        self._curvature = DenseCurvature(torch.eye(len(kept), dtype=torch.float64))
        return True

    def _advance(self, point: Tensor) -> None:
        firth = self._objective_is_firth
        has_hessian = firth or self._best is None or self._n_rows * len(point) ** 2 <= thresholds.AFFORDABLE_HESSIAN
        found = self._likelihood.derivatives(point[:, None]) if has_hessian else None
        values, gradients = self._likelihood.evaluate(point[:, None]) if found is None else found[:2]
        self.value, gradient = float(values[0]) / self._total, gradients[:, 0] / self._total
        if self._penalised:
            self.value += 0.5 * float(self._l2 @ point.square()) + float(self._l1 @ point.abs())
            gradient = gradient + self._l2 * point
        finite = math.isfinite(self.value) and bool(gradient.isfinite().all())
        decrease = 0.0
        if self._best is None:
            if firth and found is not None and _looks_singular(found.roots[0]) and self._leave_out_dependent():
                self._advance(self._next)
                return
            if not finite:
                self._stop(NOT_FINITE, converged=False)
                return
        elif not finite or (decrease := self._decrease(point, gradient)) < 0:
            self._reject()
            return
        if firth:
            assert found is not None  # noqa: S101
            self._renew(found, point)
        elif found is not None:
            self._curvature = self._model(found.hessians[0])
        elif self._best is not None and 0.5 * self._predicted < decrease < 2 * self._predicted:
            self._curvature.update(point - self._best, gradient - self._best_gradient)
        else:
            self._curvature = self._model(self._likelihood.information(point[:, None])[0])
        self._best, self._best_gradient, self.objective = point, gradient, self.value
        self._length, self._rejections = 1.0, 0
        self._propose()

    def _model(self, hessian: Tensor) -> DenseCurvature:
        matrix = hessian / self._total
        matrix.diagonal().add_(self._l2)
        return DenseCurvature(matrix)

    def _renew(self, found: Derivatives, point: Tensor) -> None:
        """Keep Firth's Hessian at an accepted point: I, and the change of the penalty's gradient over the last step.

        So the curvature of ℓ is that of the present point, and the penalty's alone is approximated (structured BFGS:
        Dennis, Gay & Welsch 1981; Al-Baali & Fletcher 1985).
        """
        assert found.of_penalty is not None  # noqa: S101
        before, self._best_of_penalty = self._best_of_penalty, found.of_penalty[:, 0]
        is_calm = self.newton_decrement * self._total < thresholds.CALM
        is_calm &= not self._likelihood.has_curvature_of_penalty
        if is_calm and before is not None and self._best is not None:
            self._steps = [(point - self._best, self._best_of_penalty - before)]
        self._root, pairs = found.roots[0], [(s, found.hessians[0] @ s + change) for s, change in self._steps]
        self._pairs = [(s, y) for s, y in pairs if float(s @ y) > 0]

    def _decrease(self, point: Tensor, gradient: Tensor) -> float:
        """Decrease of the objective from the best point; near the minimum from the gradients, without cancellation."""
        assert self._best is not None  # noqa: S101
        if abs(self.value - self.objective) > 1e-7 * abs(self.objective):
            return self.objective - self.value
        decrease = 0.5 * float((gradient + self._best_gradient) @ (self._best - point))
        return decrease + self._rise_of_l1(point, self._best)

    def _rise_of_l1(self, start: Tensor, end: Tensor) -> float:
        return float(self._l1 @ (end.abs() - start.abs())) if self._penalised else 0.0

    def _propose(self) -> None:
        assert self._best is not None  # noqa: S101
        best, gradient = self._best, self._best_gradient
        if self._root is not None:
            root = self._root.factor
            self._p = inverse_bfgs(-self._total * gradient, self._pairs, lambda q: root @ (root.T @ q))
        else:
            assert self._bounds is not None  # noqa: S101
            lower, upper = self._bounds
            self._p = minimize_in_box(self._curvature.matrix, gradient, best, self._l1, lower, upper) - best
        slope = float(gradient @ self._p) + self._rise_of_l1(best, best + self._p)
        if not math.isfinite(slope):
            self._stop(NO_DECREASE, converged=False)
            return
        before, self.newton_decrement = self.newton_decrement, max(-slope / 2, 0.0)
        self._predicted = self.newton_decrement
        separated = self.objective < thresholds.SEPARATED and not (self._objective_is_firth or self._penalised)
        if separated:
            self._stop(DIVERGING, converged=False)
        elif self._is_next_negligible(before):
            if not self._objective_is_firth and self._likelihood.largest_change(best, self._p) > 1:
                self._stop(DIVERGING, converged=False)
            else:
                self._best = self._into_box(best + self._p)
                self._stop(CONVERGED, converged=True)
        else:
            if self._objective_is_firth and self.newton_decrement > thresholds.FAR_FROM_MAXIMUM * abs(self.objective):
                slope_there = float(self._likelihood.plain_gradient(best + self._p) @ self._p) / self._total
                self._length = newton_length(-slope_there, -slope)
            self._next = self._into_box(best + self._length * self._p)

    def _is_next_negligible(self, before: float) -> bool:
        """Whether the decrement that the proposal leaves is.

        With Firth's penalty each is a multiple of the one before, in the end; the worse of the last two is expected.
        """
        last, self._rate = self._rate, self.newton_decrement / before
        rate = min(1.0, max(last, self._rate)) if self._objective_is_firth else 1.0
        return self.newton_decrement * rate <= self.param_groups[0]["tol"] * abs(self.objective)

    def _reject(self) -> None:
        assert self._best is not None  # noqa: S101
        self._rejections += 1
        if self.newton_decrement <= 1e-12 * abs(self.objective):
            self._stop(PRECISION_LIMIT, converged=True)
        elif self._rejections > thresholds.MAX_HALVINGS:
            self._stop(NO_DECREASE, converged=False)
        else:
            self._length /= 2
            self._next = self._into_box(self._best + self._length * self._p)

    def _into_box(self, point: Tensor) -> Tensor:
        return point if self._bounds is None else point.clamp(*self._bounds)

    def _write(self, point: Tensor) -> None:
        whole = torch.zeros(self._size_of_all, dtype=torch.float64)
        whole[self._places] = point
        self._coefficients.write(whole)
        self._next = point

    def _stop(self, status: str, *, converged: bool) -> None:
        self.stopped, self.status, self.converged = True, status, converged
        if self._best is not None:
            self._finish(self._best)

    def _finish(self, point: Tensor) -> None:
        """Put the final point into the parameters, with FLIC's intercept where it is asked for."""
        proposal = self._next
        if self._flic:
            point = point.clone()
            point[-1] += self._likelihood.intercept_shift(point)
        self._write(point)
        self._next = point if self.stopped else proposal


# Attributes by their keys in a saved state, which are a file format.
_STATE = {
    "converged": "converged",
    "stopped": "stopped",
    "status": "status",
    "objective": "objective",
    "newton_decrement": "newton_decrement",
    "best": "_best",
    "best_gradient": "_best_gradient",
    "step": "_p",
    "predicted": "_predicted",
    "length": "_length",
    "rejections": "_rejections",
}


def _looks_singular(root: InverseRoot | None) -> bool:
    """Whether a column may be explained by those before it: by the smallest pivot of the matrix of unit diagonal."""
    return root is None or float(root.scaled.diagonal().max()) ** -2 <= thresholds.SUSPECT_PIVOT


def refuse_many(size: int, objective: Objective) -> None:
    """Raise InputError for more coefficients than a matrix of them is kept for."""
    if size > thresholds.DENSE_LIMIT:
        what = "Firth's penalty" if objective.firth else "bounds"
        raise InputError(
            f"{what}: {size} coefficients are more than the {thresholds.DENSE_LIMIT} that it is computed for; "
            "use fewer columns, or an L2 penalty (l2) instead"
        )


def _independent(likelihood: Likelihood, *, rounded: bool) -> Tensor:
    """Positions of the slopes (k,) that do not depend on those before them, to the digits of the rows."""
    matrix = likelihood.information(torch.zeros(likelihood.size, 1, dtype=torch.float64))[0]
    k = len(likelihood.columns)
    tolerance = thresholds.ROUNDED_RANK_TOLERANCE if rounded else thresholds.EQUATION_RANK_TOLERANCE
    order = torch.cat([torch.arange(k, len(matrix)), torch.arange(k)])  # the intercept comes first
    scale = matrix.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    scaled = (matrix * scale * scale[:, None])[order[:, None], order]
    lower, info = torch.linalg.cholesky_ex(scaled)
    least = tolerance * len(matrix)
    if not info and float(lower.diagonal().square().min()) > least:
        return torch.arange(k)
    kept = []
    for j in range(len(order)):
        pivot = float(scaled[j, j])
        if pivot > least:
            kept.append(int(order[j]))
            scaled = scaled - torch.outer(scaled[:, j], scaled[j] / pivot)
    return torch.tensor(sorted(j for j in kept if j < k), dtype=torch.long)
