"""The objective of a fit: the logistic loss and the penalties, and the coordinates in which the solver sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.design import Design, as_design
from lr_lightning.model.losses import Outcomes, curvature
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization


@dataclass(frozen=True)
class Objective:
    r"""The penalised mean logistic loss.

    .. math:: \frac{1}{\sum v} \sum_i v_i \log(1 + e^{-s_i z_i})
              + \sum_j \lambda_j |w_j| + \frac12 \sum_j \mu_j w_j^2, \qquad z = o + x w + b, \quad s = 2y - 1

    Conventions, which everything else refers to:

    * θ = (w, b) is a float64 vector (d + 1,), the intercept b last. b is never penalised.
    * v, the weight of a row, is its sample weight times its class weight; the loss is divided by Σ v. With the
      reduction "sum" the whole objective is multiplied by Σ v, which moves no optimum.
    * y, the target of a row, is 0 or 1, or the share of successes among its trials. A row's loss is then
      y·log(1 + exp(−z)) + (1 − y)·log(1 + exp(z)), and its residual (1 − y)·σ(z) − y·σ(−z).
    * o, the offset of a row, is a log-odds that is added to its logit as it stands.
    * λ_j is `l1` and μ_j is `l2`, each times the penalty factor of the feature; factors are taken as they are, where
      glmnet rescales them. With `standardize` they act on the weights of standardised features, u_j = σ_j·w_j, as in
      glmnet; without, on w_j, as in scikit-learn, whose C is 1 / (l2·Σ v). The σ_j are weighted by v and divide by
      Σ v.
    * ½ stands before the L2 penalty, and nothing before the L1 penalty.
    * With `firth` the log-likelihood ℓ becomes ℓ + ½ log|I|, I being the information of all columns in their original
      units (Firth 1993; Heinze & Schemper 2002), and the objective is −(ℓ + ½ log|I|) / Σ v. The weights are
      frequencies then: the estimate depends on their scale. "flic" has the same slopes, and the intercept for which
      the mean probability is the observed share (Puhr et al. 2017).
    * `bounds` are on the w_j of the original features. The optimum is the one within them.

    Invariants of the computation:

    * With s = 1 − 2y the residual of a row is s·σ(s z). It keeps its relative accuracy for rows that are predicted
      well, where σ(z) − y would cancel.
    * No result depends on the number of workers: every block of rows leaves sums of its own.
    * A sum of float32 numbers has at most 512 terms in a gradient and 4096 in a Hessian; sums of sums are float64.

    Attributes:
        l1: strength of the L1 penalty, at least 0.
        l2: strength of the L2 penalty, at least 0.
        standardize: whether the penalties act on the weights of standardised features.
        fit_intercept: whether there is an intercept; without, b is 0.
        penalty_factors: f (d,), at least 0; None for ones.
        firth: whether Firth's penalty is on, "flic" for FLIC's intercept.
        bounds: lower and upper bounds of w, (2, d), infinite where there is none; or None.

    Raises:
        InputError: if they do not go together.
    """

    l1: float = 0.0
    l2: float = 0.0
    standardize: bool = False
    fit_intercept: bool = True
    penalty_factors: Tensor | None = None
    firth: bool | Literal["flic"] = False
    bounds: Tensor | None = None

    def __post_init__(self) -> None:
        if self.firth not in (True, False, "flic"):
            raise InputError(f"firth must be true, false or flic, not {self.firth!r}")
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if self.firth and value:
                raise InputError(f"firth and {name} exclude each other: choose one penalty")
        if self.firth and self.bounds is not None:
            raise InputError("firth and bounds exclude each other; leave one out")
        if self.firth == "flic" and not self.fit_intercept:
            raise InputError("firth flic corrects the intercept, and there is none; choose firth true")

    def factors(self, n_features: int) -> Tensor:
        """The penalty factors f (d,), float64."""
        ones = torch.ones(n_features, dtype=torch.float64)
        return ones if self.penalty_factors is None else self.penalty_factors.to(ones)

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
            self.penalty(scale),
        )

    def penalty(self, scale: Tensor) -> Penalty:
        """On the weights of features with standard deviations `scale` (d,)."""
        return Penalty.on(scale, l1=self.l1, l2=self.l2, standardize=self.standardize, factors=self.factors(len(scale)))


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

    def value_and_gradient(
        self,
        rows: Rows,
        weight: Tensor,
        bias: Tensor,
        *,
        shares: bool | None = None,
        processes: Processes = ALONE,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss plus L2 penalty, and its gradient by the weights (d,) and the bias (), float64, on their device.

        `shares` is that of `Outcomes`; `processes` have the rows, of which these are those of this one.
        """
        mean, scale = self.as_served
        served = weight / scale
        outcomes = Outcomes(rows.y, rows.weight, rows.offset, shares)
        sums = rows.design.value_and_gradient(outcomes, served, bias - mean @ served)
        *sums, total = processes.sums(*sums, float(rows.total_weight))
        loss, gradient, residual = (part.to(weight.device) for part in sums)  # rows may lie on another device
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


def refuse_impossible_factors(factors: Tensor, n_features: int) -> None:
    """Raise InputError unless there is a finite penalty factor of at least 0 for each feature."""
    if factors.shape != (n_features,):
        raise InputError(f"penalty_factors: {len(factors)} are given, but the data have {n_features} features")
    if not bool((factors.isfinite() & (factors >= 0)).all()):
        raise InputError("penalty_factors: must be finite and at least 0")


def logistic_loss(
    x: Tensor | Design,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    shares: bool | None = None,
) -> Tensor:
    r"""Sum of the binary cross-entropies of a linear model, from its logits.

    .. math:: \sum_i v_i \, \log(1 + e^{-(2 y_i - 1) z_i}), \qquad z = o + x w + b

    Differentiable once with respect to ``weight`` and ``bias``. Products within a block of rows are computed
    in the dtype of ``x`` (float32 for the half-precision and integer dtypes), sums over blocks in float64. The
    conventions and invariants are those of `Objective`.

    Args:
        x: Features, (n, d), in any storage.
        y: Labels 0 or 1, (n,) or (n, 1), of any dtype, or shares between them; then a loss is that of both outcomes.
        weight: (d,) or (1, d).
        bias: () or (1,), or None for a model without intercept.
        sample_weight: (n,) or (n, 1), non-negative.
        offset: (n,) or (n, 1), log-odds that are added to the logits.
        shares: Whether some labels may lie between 0 and 1; None looks at all of them.

    Returns:
        0-dim float64 tensor on the device of ``x``.

    Raises:
        ValueError: If the shapes do not match.
    """
    design = as_design(x)
    _check_shapes(design, weight, y=y, bias=bias, sample_weight=sample_weight, offset=offset)
    v, o = (None if t is None else t.reshape(-1) for t in (sample_weight, offset))
    loss: Any = _LogisticLoss.apply(design, Outcomes(y.reshape(-1), v, o, shares), weight, bias)
    return loss


@torch.no_grad()
def logistic_hessian(
    x: Tensor | Design,
    weight: Tensor,
    bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    r"""Hessian of `logistic_loss`, which does not depend on the targets.

    .. math:: \sum_i v_i \, \sigma(z_i)\, \sigma(-z_i) \, \tilde x_i \tilde x_i^\top, \qquad \tilde x = (x, 1)

    Args:
        x: Features, (n, d), in any storage.
        weight: (d,) or (1, d).
        bias: () or (1,); None leaves out the intercept's row and column, which are the last ones.
        sample_weight: (n,) or (n, 1), non-negative.
        offset: (n,) or (n, 1), log-odds that are added to the logits.

    Returns:
        (d + 1, d + 1), or (d, d) without bias, float64. Products of up to 4096 rows are computed in the dtype
        of ``x`` and summed in float64.

    Raises:
        ValueError: If the shapes do not match.
    """
    design = as_design(x)
    _check_shapes(design, weight, bias=bias, sample_weight=sample_weight, offset=offset)
    w = weight.detach().reshape(-1).to(design.device, design.product_dtype)
    shift = None if bias is None else bias.detach().reshape(()).to(w)
    if offset is not None:
        shift = offset.reshape(-1).to(w) + (0 if shift is None else shift)
    v = None if sample_weight is None else sample_weight.reshape(-1)
    return design.sandwich(curvature(design.matvec(w, shift), v), intercept=bias is not None)


class _LogisticLoss(torch.autograd.Function):
    """Computes the gradient together with the loss and hands it out in ``backward``."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, design: Design, outcomes: Outcomes, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        with_gradient = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        loss, gradient, residual_sum = design.value_and_gradient(outcomes, weight, bias, with_gradient=with_gradient)
        if with_gradient:
            ctx.save_for_backward(gradient, residual_sum)
            ctx.weight = (weight.shape, weight.dtype)
            ctx.bias = None if bias is None else (bias.shape, bias.dtype)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, residual_sum = ctx.saved_tensors
        shape, dtype = ctx.weight
        grad_weight = (grad_output * gradient).to(dtype).reshape(shape) if ctx.needs_input_grad[2] else None
        grad_bias = None
        if ctx.needs_input_grad[3]:
            shape, dtype = ctx.bias
            grad_bias = (grad_output * residual_sum).to(dtype).reshape(shape)
        return None, None, grad_weight, grad_bias


def _check_shapes(design: Design, weight: Tensor, **others: Tensor | None) -> None:
    n, d = design.shape
    sizes = {"y": n, "weight": d, "bias": 1, "sample_weight": n, "offset": n}
    for name, tensor in {"weight": weight, **others}.items():
        if tensor is not None and tensor.numel() != sizes[name]:
            raise ValueError(f"{name} must have {sizes[name]} elements for x of shape {(n, d)}, not {tensor.numel()}")
