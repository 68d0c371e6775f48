"""The exact solver as a function of rows in memory: no Trainer, nothing global, nothing on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.design import Dense
from lr_lightning.model.losses import has_shares
from lr_lightning.model.objective import Objective, StandardizedObjective
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows, scaled_weights
from lr_lightning.model.standardization import Standardization, moments, standardization_to_serve
from lr_lightning.model.threads import on_one_thread
from lr_lightning.solver.full_newton import FullNewton, needs_all_rows
from lr_lightning.solver.newton import SubsampledNewton
from lr_lightning.solver.sampling import draw_sample


@dataclass(frozen=True)
class Solution:
    """The result of `solve`.

    Attributes:
        theta: coefficients (d + 1,), float64, for the features as they were given, the intercept last; 0 without one.
        converged: whether they are the optimum.
        status: why the solver stopped, in words; empty where the passes ran out.
        passes: how often all rows were read.
        objective: the penalised objective at the best point that a pass has verified.
    """

    theta: Tensor
    converged: bool
    status: str
    passes: int
    objective: float


def solve(
    rows: Rows,
    objective: Objective,
    *,
    start: Tensor | None = None,
    tol: float | None = None,
    max_passes: int = 100,
    threads: int | None = None,
    processes: Processes = ALONE,
) -> Solution:
    """Minimise an objective over rows by `SubsampledNewton`, or by `FullNewton` with Firth's penalty or bounds.

    The work is done in a thread of its own, whose torch operations are serial; `threads` share the sweeps over the
    rows. The caller's settings, and the process's, stay as they are, so that several calls can run side by side.

    Args:
        rows: features (n, d), float32 or float64: the precision in which they are read; targets (n,). All on the
            device that is to compute the products.
            Sparse ones are never filled. In `Columns` the dense ones should have means that are no more than some
            standard deviations from 0.
        objective: what is minimised.
        start: coefficients (d + 1,) to start from, the intercept last; None lets the solver choose.
        tol: of the solver; None leaves it to the solver.
        max_passes: at most so many passes over the rows; after 0 of them the start, or 0, is returned.
        threads: that share a sweep; None takes torch's number of them in the calling thread.
        processes: that have the rows, of which these are those of this one; they call this together, and not with
            Firth's penalty or bounds.

    Raises:
        InputError: if the start does not fit the rows.

    Example:
        >>> import torch
        >>> from lr_lightning.model.rows import Rows
        >>> from lr_lightning.model.objective import Objective
        >>> from lr_lightning.solver import solve
        >>> x = torch.tensor([[-1.5], [-0.5], [0.5], [1.5]], dtype=torch.float64)
        >>> solution = solve(Rows(x, torch.tensor([0.0, 1.0, 0.0, 1.0]), None), Objective(fit_intercept=False))
        >>> solution.status, [round(t, 4) for t in solution.theta.tolist()]
        ('converged', [0.9082, 0.0])
    """
    if start is not None and start.shape != (rows.design.shape[1] + 1,):
        raise InputError(f"start has {len(start) - 1} entries, but the data have {rows.design.shape[1]} features")
    solution = on_one_thread(
        lambda stopped: _solve(rows, objective, start, tol, max_passes, processes, stopped), threads
    )
    return replace(solution, theta=solution.theta.clone())  # autograd refuses what was made in inference mode


@torch.inference_mode()
def _solve(
    rows: Rows,
    objective: Objective,
    start: Tensor | None,
    tol: float | None,
    max_passes: int,
    processes: Processes,
    stopped: Callable[[], bool],
) -> Solution:
    d = rows.design.shape[1]
    if not max_passes:
        theta = torch.zeros(d + 1, dtype=torch.float64) if start is None else start
        return Solution(theta, False, "", 0, math.inf)
    weight_scale = 1.0
    if rows.weight is not None:
        # The mean does not depend on the scale of the weights, but its sums must not overflow.
        own = float(rows.weight.max()) if len(rows.weight) else 0.0
        weight, weight_scale = scaled_weights(rows.weight, processes.most(own))
        rows = rows._replace(weight=weight)
    training = moments([(rows.x, rows.weight)], processes).to("cpu")
    served = standardization_to_serve(training, is_sparse=rows.design.is_sparse)
    is_small = processes.all(isinstance(rows.design, Dense) and rows.design.is_small)
    if is_small and not needs_all_rows(objective):
        served = training.divisible()  # the sample and the passes then share one matrix
    if served is not None:
        # Centred in float64 before they are rounded, the features keep digits that a large mean would cost.
        rows = rows._replace(x=Dense(served.apply(rows.x, rows.x.dtype)).for_many_products())
    served = served or Standardization.identity(d)
    problem = objective.standardized(training, served)
    weight = torch.zeros(d, dtype=torch.float64)
    bias = torch.zeros((), dtype=torch.float64)
    if start is not None:
        problem.read(start, weight, bias)
    parameters = [weight, bias] if objective.fit_intercept else [weight]
    solver = _solver(parameters, rows, objective, problem, served, weight_scale, start, tol, processes)

    shares = processes.any(has_shares(rows.y))

    def closure() -> Tensor:
        value, weight.grad, bias.grad = problem.value_and_gradient(
            rows, weight, bias, shares=shares, processes=processes
        )
        return value

    if isinstance(solver, FullNewton):
        passes = solver.run(max_passes, stopped)
    else:
        passes = solver.run(closure, max_passes, stopped)
    return Solution(problem.theta(weight, bias), solver.converged, solver.status, passes, solver.objective)


def _solver(
    parameters: list[Tensor],
    rows: Rows,
    objective: Objective,
    problem: StandardizedObjective,
    served: Standardization,
    weight_scale: float,
    start: Tensor | None,
    tol: float | None,
    processes: Processes,
) -> SubsampledNewton | FullNewton:
    if needs_all_rows(objective):
        return FullNewton(
            parameters,
            batches=[rows],
            standardization=problem.as_served,
            objective=objective,
            penalty=problem.penalty,
            served=served,
            weight_scale=weight_scale,
            tol=tol,
        )
    mean, scale = problem.as_served
    is_standardized = not bool(mean.any()) and bool((scale == 1).all())
    return SubsampledNewton(
        parameters,
        sample=draw_sample(
            rows._replace(y=rows.y.to(rows.design.dtype)),
            center=None if is_standardized else mean,
            scale=None if is_standardized else scale,
            processes=processes,
        ),
        l1=problem.penalty.l1,
        l2=problem.penalty.l2,
        tol=tol,
        warm_start=start is not None,
        n_rows=processes.place(len(rows.y)).total,
    )
