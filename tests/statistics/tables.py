"""Tables for the tests, as a module would serve them, and their maximum-likelihood fits."""

from __future__ import annotations

import numpy as np
import torch

from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization, moments
from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.summary import summarize
from lr_lightning.statistics.sums import sum_rows


def serve(x, y, weight=None, *, dtype=torch.float64, standardize=False, batch_size=None):
    """Batches, the map that was applied to their features, and their moments."""
    x, y = torch.as_tensor(np.asarray(x, float)), torch.as_tensor(np.asarray(y, float))
    v = None if weight is None else torch.as_tensor(np.asarray(weight, float))
    served = moments([(x, v)]).divisible() if standardize else Standardization.identity(x.shape[1])
    x = served.apply(x, dtype)
    size = batch_size or len(x)
    batches = [Rows(x, y, v).take(slice(k, k + size)) for k in range(0, len(x), size)]
    return batches, served, moments([(x, v)])


def design_of(x, y, weight=None, *, intercept=True, **options):
    batches, served, training = serve(x, y, weight, **options)
    return DesignMatrix(batches, served=served, training=training, intercept=intercept)


def maximize(design, steps=30):
    """Newton's method, least-norm steps; parameters (p,)."""
    parameters = np.zeros(design.size)
    for _ in range(steps):
        sums = sum_rows(design, parameters)
        step = np.linalg.lstsq(sums.hessian, sums.gradient, rcond=1e-12)[0]
        parameters = parameters + step
        if np.abs(step).max() < 1e-13:
            break
    return parameters


def report_of(x, y, weight=None, *, names=None, intercept=True, steps=30, served_options=None, **options):
    """What `summarize` finds at the maximum of the likelihood."""
    batches, served, training = serve(x, y, weight, **(served_options or {}))
    design = DesignMatrix(batches, served=served, training=training, intercept=intercept)
    parameters = maximize(design, steps)
    original = design.to_original(parameters)
    k = len(design.columns)
    slopes = torch.zeros(design.n_features, dtype=torch.float64)
    slopes[design.columns] = torch.from_numpy(parameters[:k] / design.scale)
    # In the units of the batches, with nothing lost to large means.
    standardized_bias = float(parameters[k]) if intercept else 0.0
    shift = torch.zeros(design.n_features, dtype=torch.float64)
    shift[design.columns] = torch.from_numpy(design.mean)
    bias = standardized_bias + float((served.mean - shift) @ slopes)
    assert np.isfinite(original).all()
    return summarize(
        batches,
        coefficients=slopes * served.scale,
        intercept=bias,
        served=served,
        training=training,
        feature_names=names or [f"x{j}" for j in range(design.n_features)],
        fit_intercept=intercept,
        **{"converged": True, "passes": 5, **options},
    )


def rows_by_name(report):
    return {row.name: row for row in report.coefficients}
