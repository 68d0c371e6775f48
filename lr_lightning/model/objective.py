"""What a fit minimises, and the coordinates in which the exact solver sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lr_lightning.model.design import sweep
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization


@dataclass(frozen=True)
class Objective:
    r"""The penalised mean logistic loss.

    .. math:: \frac{1}{\sum v} \sum_i v_i \log(1 + e^{-s_i z_i})
              + \sum_j \lambda_j |w_j| + \frac12 \sum_j \mu_j w_j^2, \qquad z = x w + b, \quad s = 2y - 1

    Conventions, which everything else refers to:

    * θ = (w, b) is a float64 vector (d + 1,), the intercept b last. b is never penalised.
    * v, the weight of a row, is its sample weight times its class weight; the loss is divided by Σ v.
    * λ is `l1` and μ is `l2`. With `standardize` they act on the weights of standardised features, u_j = σ_j·w_j, as
      in glmnet; without, on w_j, as in scikit-learn, whose C is 1 / (l2·Σ v). The σ_j are weighted by v and divide
      by Σ v.
    * ½ stands before the L2 penalty, and nothing before the L1 penalty.

    Attributes:
        l1: strength of the L1 penalty, at least 0.
        l2: strength of the L2 penalty, at least 0.
        standardize: whether the penalties act on the weights of standardised features.
        fit_intercept: whether there is an intercept; without, b is 0.
    """

    l1: float = 0.0
    l2: float = 0.0
    standardize: bool = False
    fit_intercept: bool = True

    def standardized(self, training: Standardization, served: Standardization) -> StandardizedObjective:
        """The same objective of the weights of standardised features.

        Args:
            training: means and scales (d,) of the rows, weighted by v; a scale of 0 marks a constant column.
            served: the map that was applied to the features before they are passed to `value_and_gradient`.
        """
        standardization = training.before_weights(fit_intercept=self.fit_intercept)
        mean, scale = standardization
        return StandardizedObjective(
            standardization,
            Standardization((mean - served.mean) / served.scale, scale / served.scale),
            Penalty.on(scale, l1=self.l1, l2=self.l2, standardize=self.standardize),
        )


@dataclass(frozen=True)
class StandardizedObjective:
    """An objective as a function of the weights u of standardised features, which conditions it well.

    Attributes:
        standardization: means and scales (d,) in the original units; a scale of infinity takes a feature out.
        as_served: the same in the units of the features that the rows hold.
        penalty: on u.
    """

    standardization: Standardization
    as_served: Standardization
    penalty: Penalty

    def value_and_gradient(self, rows: Rows, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss plus L2 penalty, and its gradient by the weights (d,) and the bias (), float64."""
        mean, scale = self.as_served
        served = weight / scale
        loss, gradient, residual = sweep(rows.x, rows.y, served, bias - mean @ served, rows.weight)
        total = len(rows.y) if rows.weight is None else rows.weight.sum(dtype=torch.float64)
        value = loss / total + self.penalty.smooth(weight)
        return value, (gradient - mean * residual) / (scale * total) + self.penalty.l2 * weight, residual / total

    def theta(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Coefficients (d + 1,) for the original features, the intercept last."""
        mean, scale = self.standardization
        slopes = weight / scale
        return torch.cat([slopes, (bias - mean @ slopes).reshape(1)])

    def read(self, theta: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Fill weight (d,) and bias () from coefficients (d + 1,) for the original features."""
        mean, scale = self.standardization
        weight.copy_(torch.where(scale.isinf(), 0.0, theta[:-1] * scale))
        bias.copy_(theta[-1] + mean @ theta[:-1])
