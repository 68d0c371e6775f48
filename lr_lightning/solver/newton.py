"""The exact solver as a torch optimizer: one step, one pass over all rows, one full gradient."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lr_lightning.model.rows import Rows
from lr_lightning.solver import thresholds
from lr_lightning.solver.coefficients import Coefficients
from lr_lightning.solver.curvature import Curvature, DenseCurvature, LimitedMemoryCurvature
from lr_lightning.solver.problem import SampleProblem
from lr_lightning.solver.quadratic import support_residual
from lr_lightning.solver.separating_columns import CoefficientsInTheLimit, limit_of

CONVERGED = "converged"
PRECISION_LIMIT = "limit of floating-point precision"
DIVERGING = "the objective keeps falling as the weights grow, as under separation"
NO_DECREASE = "no step decreases the objective"
NOT_FINITE = "the objective is not finite"

# Attributes by their keys in a saved state, which are a file format.
_STATE = {
    "converged": "converged",
    "stopped": "stopped",
    "status": "status",
    "objective": "objective",
    "newton_decrement": "newton_decrement",
    "_best": "_best",
    "_best_gradient": "_best_gradient",
    "_promised": "_predicted_decrease",
    "_doubtful": "_doubtful",
    "_reach": "_trust_radius",
    "_length": "_length",
    "_rejections": "_rejections",
    "_failures": "_failures",
    "_stalls": "_stalls",
    "_noise": "_noise",
    "_residual": "_residual",
}


class SubsampledNewton(torch.optim.Optimizer):
    """Minimises a penalised logistic loss by quasi-Newton steps on a random sample's Hessian.

    The objective is (1/Σv) Σ v_i·BCE(y_i, σ(b + x_iᵀw)) + Σ λ_j·|w_j| + ½ Σ μ_j·w_j².

    The constructor solves the problem on the sample, which gives a start within the sampling error of the answer, and
    keeps the sample's Hessian B (Byrd, Chin, Neveitt & Nocedal 2011; Erdogdu & Montanari 2015). Every call of `step`
    takes the gradient g over all rows at the last proposal, corrects B by BFGS, and proposes the minimiser of
    gᵀp + ½ pᵀBp + Σ λ_j·|w_j + p_j|, which with L1 is a proximal Newton step (Lee, Sun & Saunders 2014). A proposal at
    which the objective has risen is rejected; the next one is shorter, or comes from a Hessian computed anew. B is
    another model of the curvature where that costs less:

    * the Hessian itself at every point, by the Woodbury identity, if there are fewer rows than coefficients, up to
      2 048, and an L2 penalty;
    * a diagonal with an L-BFGS memory if the columns are nearly independent and Hessians expensive;
    * above 2 048 coefficients otherwise: with L1 the sample's Hessian over the coordinates that may move, without L1 a
      diagonal with an L-BFGS memory.

    The solver stops once half the squared Newton decrement, −½ (gᵀp + Δ‖·‖₁), which is the decrease that the model
    predicts, is at most `tol` times the objective; the parameters then hold the minimiser of the last model. With L1
    in float64 Newton steps on the non-zero coordinates follow, until rounding alone is left of the optimality
    conditions.

    Without a penalty, and with all rows in the sample, the coefficients of columns of two values that separate some
    rows by themselves, and of reference levels that do (`separating_columns`), are set to their limit at once. The
    other coefficients are those of the remaining rows, and the fit ends as one that has no minimum.

    Args:
        params: `[weight]` or `[weight, bias]`, float64; weight (d,) or (1, d), bias () or (1,). The features
            that they multiply are standardised.
        sample: the sampled `Rows`, or `(x, y, v)` of them: (m, d), (m,), and (m,) or None, such that Σ v·BCE / Σ v
            estimates the mean loss. See `draw_sample`.
        l1: λ, a number or (d,).
        l2: μ, a number or (d,).
        tol: relative to the objective. By default 1e-14, or 1e-10 for a sample in float32; for sparse features, of
            which rare levels have little part in the objective, 1e-20.
        history_size: pairs in the L-BFGS memory, where there is one.
        warm_start: start from the parameters as they are instead of the sample's solution, unless there is an L1
            penalty and they are far off.
        n_rows: number of rows of the whole table, or None if it is not known. A sample of as many is all rows:
            then it is solved exactly, and a pass confirms it.

    Attributes:
        converged: whether the minimum was reached.
        stopped: whether to stop calling `step`.
        status: why it stopped, or "" before.
        objective: the penalised objective at the best point that a pass has verified.
        newton_decrement: half the squared Newton decrement there.

    Raises:
        ValueError: if the parameters are not one or two float64 tensors, or a penalty is negative.

    Example:
        >>> import torch
        >>> from lr_lightning.solver import SubsampledNewton
        >>> x = torch.tensor([[-1.5], [-0.5], [0.5], [1.5]], dtype=torch.float64)
        >>> y = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        >>> weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        >>> solver = SubsampledNewton([weight], sample=(x, y, None), n_rows=4)
        >>> def closure():
        ...     solver.zero_grad()
        ...     loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight, y)
        ...     loss.backward()
        ...     return loss
        >>> while not solver.stopped:
        ...     _ = solver.step(closure)
        >>> solver.status
        'converged'
        >>> [round(w, 4) for w in weight.tolist()], round(solver.objective, 4)
        ([0.9082], 0.5869)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        sample: Rows | tuple[Tensor, Tensor, Tensor | None] | None = None,
        l1: float | Tensor = 0.0,
        l2: float | Tensor = 0.0,
        tol: float | None = None,
        history_size: int = 10,
        warm_start: bool = False,
        n_rows: int | None = None,
    ) -> None:
        rows = sample if sample is None or isinstance(sample, Rows) else Rows(*sample)
        complete = rows is not None and len(rows.y) == n_rows
        single = rows is not None and (rows.design.product_dtype if complete else rows.design.dtype) != torch.float64
        if tol is None:
            is_sparse = rows is not None and rows.design.is_sparse
            finest = thresholds.SPARSE_TOLERANCE if is_sparse else thresholds.FINEST_TOLERANCE
            tol = 1e-10 if single else finest
        super().__init__(params, {"tol": tol, "history_size": history_size})
        of_all = Coefficients(self.param_groups)
        self._coefficients: Coefficients | CoefficientsInTheLimit = of_all
        self._l1, self._l2 = of_all.penalty(l1, "l1"), of_all.penalty(l2, "l2")
        self._problem, share = None, 1.0
        penalised = bool(self._l1.any()) or bool(self._l2.any())
        if rows is not None and complete and not penalised and of_all.has_intercept:
            limit = limit_of(rows, of_all)
            if limit is not None:
                rows, share, self._coefficients = limit
                n_rows = len(rows.y)
                self._l1 = self._l2 = torch.zeros(rows.design.shape[1] + 1, dtype=torch.float64)
        point = self._coefficients.read()
        if rows is not None:
            of_all_rows = n_rows or math.inf
            self._problem = SampleProblem(rows, self._l1, self._l2, n_rows=of_all_rows, share=share, tol=tol)
        self._curvature: Curvature
        if self._problem is not None and not warm_start:
            point, self._curvature = self._problem.solve(self._problem.start(point), history_size)
            self._coefficients.write(point)
        else:
            if self._problem is not None and point.any():
                point = self._problem.start(point)
                self._coefficients.write(point)
            self._curvature = self._curvature_at(point)
        self._is_free_and_sparse = rows is not None and rows.design.is_sparse and not penalised
        self._start = point
        # A sample without a dense Hessian is not asked about steps: its answer would cost as much as passes.
        self._advisor = self._problem if self._problem is not None and self._problem.is_dense else None
        # Whether the curvature is that of the point to evaluate next.
        self._has_newton_step = self._problem is not None and self._problem.exact and not warm_start
        self._noise = 1e-12 if self._problem is None else self._problem.noise(self._curvature)
        # Relative difference of two objectives that the rounding of the logits may cause.
        self._resolution = 1e-5 if single else 1e-7
        self.converged = False
        self.stopped = False
        self.status = ""
        self.objective = math.inf
        self.newton_decrement = math.inf
        self._best: Tensor | None = None
        self._best_gradient = torch.zeros_like(point)
        self._predicted_decrease = 0.0
        self._doubtful = True  # whether the quadratic model may be bad
        self._trust_radius = math.inf  # largest change of a sampled logit in one step
        self._length = 1.0  # share of the model's step to propose, where the sample is not asked
        self._rejections = 0
        self._failures = 0  # number of bad predictions
        self._stalls = 0
        self._polishes = not single and bool(self._l1.any()) and tol <= thresholds.FINEST_TOLERANCE
        self._residual = math.inf  # of the optimality conditions on the support, at the last step to polish

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, without torch's mark for torch.compile, whose import takes a second."""
        inspect.unwrap(super().add_param_group.__func__)(self, param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one pass over the rows; unless the solver stops, move the parameters to the next proposal.

        Args:
            closure: Fills ``.grad`` with the gradient over all rows of the mean loss plus L2 penalty at the
                present parameters, and returns its value. Called once.

        Returns:
            What the closure returned.
        """
        with torch.enable_grad():
            loss = closure()
        if not self.stopped:
            self._advance(loss)
        return loss

    @torch.no_grad()
    def run(self, closure: Callable[[], Tensor], max_passes: int, interrupted: Callable[[], bool]) -> int:
        """Do what `step` does until the solver stops, for at most so many times; how often that was.

        Args:
            closure: As of `step`, but called without autograd.
            max_passes: At least 1.
            interrupted: Whether to leave off; then the best point so far is taken.
        """
        passes = 0
        while not self.stopped and passes < max_passes and not interrupted():
            self._advance(closure())
            passes += 1
        self.restore_best()
        return passes

    def _advance(self, loss: Any) -> None:
        point = self._coefficients.read()
        gradient = self._coefficients.read_gradient()
        objective = float(loss) + float(self._l1 @ point.abs())
        finite = math.isfinite(objective) and bool(gradient.isfinite().all())
        if self._best is None:
            self._first(point, gradient, objective, finite)
        elif finite and (decrease := self._decrease(point, gradient, objective)) >= 0:
            self._accept(point, gradient, objective, decrease)
        else:
            self._reject(point, gradient, objective, finite)

    @property
    def nullity(self) -> int:
        """Number of directions along which the rows do not determine the coefficients, constant columns aside.

        Columns depend on each other there, up to rounding, and the coefficients have no component along them. It is
        0 unless B is dense and there is no L1 penalty.
        """
        if self._best is None or self._l1.any() or self._curvature.smallest_pivot() > thresholds.SUSPECT_PIVOT:
            return 0
        # The Hessian of the rows, without the rounding of the gradients that have corrected the model.
        return self._curvature_at(self._best).nullity()

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best point that a pass has verified into the parameters, for a run that was cut short."""
        if self._best is not None and not self.converged:
            self._coefficients.write(self._best)

    def state_dict(self) -> dict[str, Any]:
        """The state from which `load_state_dict` continues the same trajectory; tensors and plain types."""
        state = super().state_dict()
        solver = {key: getattr(self, name) for key, name in _STATE.items()}
        solver["point"] = self._coefficients.read()
        solver["curvature"] = self._curvature.state()
        state["solver"] = solver
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict`, and put the point to evaluate next into the parameters.

        Raises:
            ValueError: If it comes from another model.
        """
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        solver = state_dict["solver"]
        limit = self._coefficients
        other_size = solver["point"].shape != self._best_gradient.shape
        if other_size and isinstance(limit, CoefficientsInTheLimit) and len(solver["point"]) <= limit.size_of_all:
            limit.write(self._start)  # the state is of a version that took no limit, or had more finite coefficients
            return
        if other_size:
            raise ValueError(f"the state holds {len(solver['point'])} coefficients, not {len(self._best_gradient)}")
        for key, name in _STATE.items():
            value = solver.get(key, math.inf) if key == "_residual" else solver[key]  # older states lack it
            setattr(self, name, value.to("cpu", torch.float64) if isinstance(value, Tensor) else value)
        self._curvature = self._curvature.load(solver["curvature"])
        self._has_newton_step = False
        self._coefficients.write(solver["point"])

    def _first(self, point: Tensor, gradient: Tensor, objective: float, finite: bool) -> None:
        if finite:
            self._best, self._best_gradient, self.objective = point, gradient, objective
            self._propose()
        elif point.any():
            self._curvature = self._curvature_at(torch.zeros_like(point))
            self._coefficients.write(torch.zeros_like(point))
        else:
            self._stop(NOT_FINITE, converged=False)

    def _decrease(self, point: Tensor, gradient: Tensor, objective: float) -> float:
        """Decrease of the objective from the best point; near the minimum computed from the gradients.

        The difference of two nearly equal sums over all rows is rounding. The mean of the slopes at both ends
        gives the same difference without the cancellation (Hager & Zhang 2005, the approximate Wolfe
        conditions).
        """
        assert self._best is not None  # noqa: S101
        if abs(objective - self.objective) > self._resolution * abs(self.objective):
            return self.objective - objective
        decrease = 0.5 * float((gradient + self._best_gradient) @ (self._best - point))
        return decrease + float(self._l1 @ (self._best.abs() - point.abs()))

    def _accept(self, point: Tensor, gradient: Tensor, objective: float, decrease: float) -> None:
        assert self._best is not None  # noqa: S101
        agreement = decrease / self._predicted_decrease if self._predicted_decrease > 0 else 1.0
        resolved = self._predicted_decrease > 1e-9 * abs(self.objective)
        self._doubtful = resolved and not 0.8 < agreement < 1.25
        if self._advisor is not None and self._failures < thresholds.MAX_FAILURES:
            bad = not 0.5 < agreement < 2
            if resolved and (bad or (self._doubtful and self._advisor.has_cheap_curvature)):
                self._curvature = self._curvature_at(point)
        self._curvature.update(point - self._best, gradient - self._best_gradient)
        self._has_newton_step = False
        if agreement > 0.5:
            self._trust_radius *= 4
            self._length = min(1.0, 2 * self._length)
        elif agreement < 0.1 and resolved:
            self._failures += 1
        self._best, self._best_gradient, self.objective = point, gradient, objective
        self._rejections = 0
        self._propose()

    def _reject(self, point: Tensor, gradient: Tensor, objective: float, finite: bool) -> None:
        assert self._best is not None  # noqa: S101
        self._rejections += 1
        if self.newton_decrement <= self._noise * abs(self.objective) and self._rejections >= 3:
            self._finish_at_best(PRECISION_LIMIT, converged=True)
        elif self._rejections > thresholds.MAX_REJECTIONS:
            self._finish_at_best(NO_DECREASE, converged=False)
        else:
            step = point - self._best
            if finite:
                self._curvature.update(step, gradient - self._best_gradient, accepted=False)
                self._has_newton_step = False
            self._doubtful = True
            self._failures += 1
            if self._advisor is not None and self._failures < thresholds.MAX_FAILURES:
                self._trust_radius = 0.25 * self._advisor.movement(step)
            else:
                self._length *= 0.25
            self._propose()

    def _propose(self) -> None:
        """Propose the next step from the best point, or stop if its predicted decrease is negligible."""
        assert self._best is not None  # noqa: S101
        p = self._curvature.step(self._best, self._best_gradient, self._l1)
        if not bool(p.isfinite().all()) or not (p.any() or self._is_stationary()):
            self._finish_at_best(NO_DECREASE, converged=False)
            return
        slope = float(self._best_gradient @ p + self._l1 @ ((self._best + p).abs() - self._best.abs()))
        before, self.newton_decrement = self.newton_decrement, max(-slope / 2, 0.0) + self._curvature.left_out
        small = self.newton_decrement <= self.param_groups[0]["tol"] * abs(self.objective)
        if self._is_separated() or ((small or self._may_diverge()) and self._is_diverging(p)):
            self._finish_at_best(DIVERGING, converged=False)
        elif small and (step := self._polish()) is not None:
            # The coefficients have half of their digits; each further pass doubles the number.
            self.converged, self.status = True, CONVERGED
            self._predicted_decrease = 0.0
            self._coefficients.write(self._best + step)
        elif small:
            self._stop(CONVERGED, converged=True)
            # An unverified step is worth taking where it is Newton's or the model has just proved right.
            settled = self._residual < math.inf  # a further step would be rounding
            proved = self._has_newton_step or self.newton_decrement < 0.25 * before < math.inf
            trusted = proved and not settled and not self._rejections
            self._coefficients.write(self._best + p if trusted else self._best)
        elif self._stalled(before):
            self._finish_at_best(PRECISION_LIMIT, converged=True)
        else:
            product = self._curvature.product(p)
            bend = -slope if product is None else float(p @ product)
            self._predicted_decrease = -self._length * slope - 0.5 * self._length**2 * bend
            self._coefficients.write(self._best + self._global_step(p))

    def _polish(self) -> Tensor | None:
        """With L1 in float64, the Newton step on the support; None once the optimality conditions hold to rounding."""
        assert self._best is not None  # noqa: S101
        if not self._polishes:
            return None
        before, self._residual = self._residual, support_residual(self._best, self._best_gradient, self._l1)
        if self._rejections or self._residual <= thresholds.GRADIENT_ROUNDING or self._residual > 0.5 * before:
            return None
        return self._curvature.support_step(self._best, self._best_gradient, self._l1)

    def _global_step(self, p: Tensor) -> Tensor:
        """The model's step ``p``, or the sample's where the quadratic model may be bad."""
        assert self._best is not None  # noqa: S101
        large = self.newton_decrement > 1e-5 * abs(self.objective)
        if self._advisor is None or self._failures >= thresholds.MAX_FAILURES or not (self._doubtful or large):
            return self._length * p
        movement = self._advisor.movement(p)
        if movement <= min(1.0, self._trust_radius):
            return p
        if movement <= self._trust_radius and self._advisor.confirms(
            self._best, self._best_gradient, p, self._predicted_decrease
        ):
            return p
        trust_radius = min(self._trust_radius, thresholds.TRUST_RADIUS * (1 + self._advisor.movement(self._best)))
        end, predicted_decrease, curvature = self._advisor.descend(
            self._best, self._best_gradient, self.param_groups[0]["history_size"], trust_radius
        )
        if not predicted_decrease > 0:
            return p * min(1.0, self._trust_radius / movement)
        self._predicted_decrease, self._curvature = predicted_decrease, curvature
        return end - self._best

    def _is_separated(self) -> bool:
        """Whether the loss is almost 0: every row is predicted right, and the coefficients can only grow."""
        assert self._best is not None  # noqa: S101
        if self.objective >= thresholds.SEPARATED:
            return False
        return float(self._l1 @ self._best.abs() + 0.5 * self._l2 @ self._best.square()) < 0.5 * self.objective

    def _may_diverge(self) -> bool:
        """Whether to look at the rows early: without a penalty many levels are nearly always separated."""
        return self._is_free_and_sparse and self.newton_decrement <= thresholds.FEW_ROWS_LEFT * abs(self.objective)

    def _is_stationary(self) -> bool:
        """Whether the optimality conditions with L1 hold as far as an active set takes them; true without L1."""
        assert self._best is not None  # noqa: S101
        if not self._l1.any():
            return True
        of_zeros = (self._best_gradient.abs() - self._l1).clamp(min=0)
        violation = torch.where(self._best == 0, of_zeros, (self._best_gradient + self._l1 * self._best.sign()).abs())
        largest = torch.maximum(self._best_gradient.abs().max(), self._l1.max())
        return bool(violation.max() <= thresholds.NO_STEP_VIOLATION * largest)

    def _stalled(self, before: float) -> bool:
        """Whether the decrement is within rounding and no longer shrinks."""
        tiny = self.newton_decrement <= self._noise * abs(self.objective)
        self._stalls = self._stalls + 1 if tiny and self.newton_decrement > 0.8 * before else 0
        return self._stalls >= 3

    def _is_diverging(self, p: Tensor) -> bool:
        assert self._best is not None  # noqa: S101
        memory, newton = self.param_groups[0]["history_size"], self._has_newton_step
        return self._problem is not None and self._problem.is_diverging(
            self._best, self._best_gradient, p, memory, newton=newton
        )

    def _finish_at_best(self, status: str, *, converged: bool) -> None:
        assert self._best is not None  # noqa: S101
        self._coefficients.write(self._best)
        self._stop(status, converged=converged)

    def _stop(self, status: str, *, converged: bool) -> None:
        self.stopped = True
        if converged and isinstance(self._coefficients, CoefficientsInTheLimit):  # the others are infinite
            status, converged = DIVERGING, False
        self.status, self.converged = status, converged

    def _curvature_at(self, point: Tensor) -> Curvature:
        if self._problem is not None:
            return self._problem.curvature(point, self.param_groups[0]["history_size"])
        # σ(z)σ(-z) ≤ 1/4, and standardised features have a mean square of 1.
        diagonal = 0.25 + self._l2
        if len(point) <= thresholds.DENSE_LIMIT:
            return DenseCurvature(torch.diag(diagonal))
        return LimitedMemoryCurvature(diagonal, self.param_groups[0]["history_size"])
