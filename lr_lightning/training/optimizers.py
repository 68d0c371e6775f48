"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lr_lightning.data.training_rows import TrainingRows
from lr_lightning.errors import InputError
from lr_lightning.model.gathering import table_of_all
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.objective import Objective
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver import SubsampledNewton, draw_sample, sample_size
from lr_lightning.solver.full_newton import FullNewton

# torch's own defaults are a fixed step length and an early stop.
LBFGS_DEFAULTS: dict[str, Any] = {
    "max_iter": 20,
    "history_size": 10,
    "tolerance_grad": 1e-10,
    "tolerance_change": 0.0,
    "line_search_fn": "strong_wolfe",
}


EXACT = "SubsampledNewton"


def is_full_batch(name: str) -> bool:
    """Whether the optimizer needs the whole objective at each evaluation, and then finds the optimum by itself."""
    return name in (EXACT, "LBFGS")


def refuse_unknown(name: str, l1: float) -> None:
    """Raise InputError unless `name` is an optimizer that can minimise the objective."""
    cls = optimizer_class(name)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise InputError(f"optimizer {name} is neither {EXACT} nor a class of torch.optim")
    if name == "LBFGS" and l1 > 0:
        raise InputError(f"LBFGS cannot minimise an L1 penalty, which has no gradient at 0; choose {EXACT}")


def optimizer_class(name: str) -> Any:
    """SubsampledNewton, or what torch.optim has under this name; None where it has nothing."""
    return SubsampledNewton if name == EXACT else getattr(torch.optim, name, None)


def solver_options(
    model: LinearSigmoid, training: TrainingRows, served: Standardization, penalty: Penalty, *, warm_start: bool
) -> dict[str, Any]:
    """The arguments of `SubsampledNewton` that come from the problem: penalties, and a random sample of the rows.

    Args:
        model: where the Trainer has moved it.
        training: the rows.
        served: what has been taken off their features.
        penalty: on the weights of the model.
        warm_start: whether the model starts at coefficients that were given.
    """
    served = served.to(model.mean.device)
    size = sample_size(training.n_rows, len(model.mean))
    rows = training.some(size)
    center, scale = (model.mean - served.mean) / served.scale, model.scale / served.scale
    return {
        "sample": draw_sample(rows, center=center, scale=scale, size=size, processes=training.processes),
        "l1": penalty.l1,
        "l2": penalty.l2,
        "warm_start": warm_start,
        "n_rows": training.n_rows,
    }


def full_newton(
    model: LinearSigmoid,
    training: TrainingRows,
    served: Standardization,
    penalty: Penalty,
    objective: Objective,
    options: dict[str, Any],
) -> FullNewton:
    """The solver of objectives that need all rows at once; arguments as of `solver_options`.

    Raises:
        InputError: if there are too many coefficients, or an option is none of the solver's.
    """
    if unknown := set(options) - {"tol"}:
        raise InputError(f"optimizer {EXACT}: {', '.join(sorted(unknown))} has no effect with firth or bounds")
    mean, scale, served = model.mean.cpu(), model.scale.cpu(), served.to("cpu")
    what = "firth" if objective.firth else "bounds"
    batches = [table_of_all(rows, training.processes, what) for rows in training.weighted()]
    return FullNewton(
        model.parameters(),
        batches=[rows.to(torch.device("cpu")) for rows in batches],
        standardization=Standardization((mean - served.mean) / served.scale, scale / served.scale),
        objective=objective,
        penalty=penalty,
        served=served,
        weight_scale=training.weight_scale,
        **options,
    )


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], options: dict[str, Any]) -> torch.optim.Optimizer:
    """An instance of SubsampledNewton or of `torch.optim.<name>`.

    Raises:
        InputError: if the options do not fit the optimizer.
    """
    defaults = LBFGS_DEFAULTS if name == "LBFGS" else {}
    try:
        return optimizer_class(name)(parameters, **{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {name}: {error}") from error
