"""One sweep over the rows: likelihood, gradient, Hessian, cross products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lr_lightning.statistics.design_matrix import DesignMatrix


@dataclass(frozen=True)
class Sums:
    """Sums over the rows of positive weight, at given parameters; all float64.

    Attributes:
        n_rows: number of rows.
        n_positive: how many of them are positive.
        weight: Σ v.
        positive_weight: Σ v y.
        prediction: Σ v p.
        whole_weights: whether every weight is an integer, as frequencies are.
        log_likelihood: Σ v log-likelihood.
        gradient: of the log-likelihood, Σ v (y − p) x̃, (p,).
        hessian: of the negative log-likelihood, Σ v p (1 − p) x̃ x̃ᵀ, (p, p).
        gram: Σ v x̃ x̃ᵀ, (p, p).
        meat: Σ v² (y − p)² x̃ x̃ᵀ, (p, p), or None where it was not asked for.
        smallest_margin: the smallest (2y − 1)·logit.
        largest_norm: the largest ‖x̃‖.
    """

    n_rows: int
    n_positive: int
    weight: float
    positive_weight: float
    prediction: float
    whole_weights: bool
    log_likelihood: float
    gradient: np.ndarray
    hessian: np.ndarray
    gram: np.ndarray
    meat: np.ndarray | None
    smallest_margin: float
    largest_norm: float

    @property
    def null_log_likelihood(self) -> float:
        """Of the model with an intercept alone."""
        positive, negative = self.positive_weight, self.weight - self.positive_weight
        return sum(part * math.log(part / self.weight) for part in (positive, negative) if part > 0)


def sum_rows(design: DesignMatrix, parameters: np.ndarray, *, meat: bool = False, matrices: bool = True) -> Sums:
    """Sweep over all rows at `parameters` (p,), intercept last.

    Without `matrices`, for tables too wide for them, the p × p sums are empty, (0, 0).

    Raises:
        ValueError: if no row has a positive weight.
    """
    p = design.size
    theta: torch.Tensor | None = None
    n_rows = n_positive = 0
    whole, smallest, largest = True, math.inf, 0.0
    for x, sign, v, _ in design.blocks():
        if theta is None:
            theta = torch.from_numpy(parameters).to(x.device)
            totals = torch.zeros(4, dtype=torch.float64, device=x.device)
            gradient = torch.zeros(p, dtype=torch.float64, device=x.device)
            hessian, gram, meat_sum = torch.zeros(3, p * matrices, p * matrices, dtype=torch.float64, device=x.device)
        if not len(x):
            continue
        margin = (x @ theta) * sign
        right, wrong = torch.sigmoid(margin), torch.sigmoid(-margin)  # wrong = |y − p|, to its last digits
        n_rows += len(x)
        n_positive += int((sign > 0).sum())
        positive = torch.where(sign > 0, right, wrong)
        totals += torch.stack(
            [v.sum(), v[sign > 0].sum(), (v * positive).sum(), -(v * torch.nn.functional.softplus(-margin)).sum()]
        )
        residual = v * wrong * sign
        gradient += residual @ x
        if matrices:
            weighted = x * v[:, None]
            gram += x.T @ weighted
            hessian += (weighted * (right * wrong)[:, None]).T @ x
        if matrices and meat:
            scores = x * residual[:, None]
            meat_sum += scores.T @ scores
        whole = whole and bool((v == v.round()).all())
        smallest = min(smallest, float(margin.min()))
        largest = max(largest, float(x.square().sum(1).max()))
    if theta is None or not n_rows:
        raise ValueError("there are no rows of positive weight")
    weight, positive_weight, prediction, log_likelihood = totals.tolist()
    return Sums(
        n_rows=n_rows,
        n_positive=n_positive,
        weight=weight,
        positive_weight=positive_weight,
        prediction=prediction,
        whole_weights=whole,
        log_likelihood=log_likelihood,
        gradient=gradient.cpu().numpy(),
        hessian=hessian.cpu().numpy(),
        gram=gram.cpu().numpy(),
        meat=meat_sum.cpu().numpy() if meat else None,
        smallest_margin=smallest,
        largest_norm=math.sqrt(largest),
    )
