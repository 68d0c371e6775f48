"""What a fit starts from: the standardisation, the initial coefficients, and what the exact solver is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lr_lightning.data.standardization import Standardization
from lr_lightning.data.summary import TrainingSummary, random_rows, row_weights
from lr_lightning.errors import InputError
from lr_lightning.linear_sigmoid import LinearSigmoid
from lr_lightning.optimizers import is_full_batch
from lr_lightning.penalty import Penalty
from lr_lightning.solver import draw_sample, sample_size


def standardization_of(training: Standardization, hparams: Mapping[str, Any]) -> Standardization:
    """The map in front of the linear layer, from the statistics of the training rows.

    Optimizers that run to convergence need a well-conditioned problem, whatever the penalty is on; the others
    see the raw features where `standardize` is False.
    """
    mean, scale = training
    if not hparams["fit_intercept"]:
        mean = torch.zeros_like(mean)
    if not hparams["standardize"] and not is_full_batch(hparams["optimizer"]):
        mean, scale = torch.zeros_like(mean), (scale > 0).to(scale.dtype)
    return Standardization(mean, torch.where(scale > 0, scale, torch.inf))  # a constant column has no influence


def set_initial_coefficients(model: LinearSigmoid, hparams: Mapping[str, Any]) -> None:
    """Put `initial_weight` and `initial_bias`, on the original feature scale, into the model.

    Raises:
        InputError: if they do not fit it.
    """
    weight, bias, n_features = hparams["initial_weight"], hparams["initial_bias"], hparams["in_features"]
    if weight is None and bias is None:
        return
    if bias and not hparams["fit_intercept"]:
        raise InputError("initial_bias is given, but fit_intercept is false")
    start = torch.as_tensor(0.0 if weight is None else weight, dtype=torch.float64)
    if start.ndim and len(start) != n_features:
        raise InputError(f"initial_weight has {len(start)} entries, but the data have {n_features} features")
    model.set_coefficients(start.expand(n_features), bias or 0.0)


def solver_options(
    model: LinearSigmoid,
    training: TrainingSummary,
    served: Standardization,
    penalty: Penalty,
    hparams: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of `SubsampledNewton` that come from the problem: penalties, and a random sample of the rows."""
    size = sample_size(training.n_rows, hparams["in_features"])
    x, y, *weight = random_rows(training.batches, size, training.n_rows)
    sample: tuple[Tensor, Tensor, Tensor | None] = draw_sample(
        x,
        y,
        row_weights(y, weight[0] if weight else None, training.class_weights),
        center=(model.mean - served.mean) / served.scale,
        scale=model.scale / served.scale,
        size=size,
    )
    return {
        "sample": sample,
        "l1": penalty.l1,
        "l2": penalty.l2,
        "warm_start": hparams["initial_weight"] is not None or hparams["initial_bias"] is not None,
        "sample_is_complete": size >= training.n_rows,
    }
