"""The model itself: standardise → linear → sigmoid. Needs torch alone."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from lr_lightning.errors import InputError
from lr_lightning.model.design import Design, as_design
from lr_lightning.model.standardization import Standardization


class LinearSigmoid(nn.Module):
    """P(y = 1 | x) = σ(o + b + wᵀ(x − mean) / scale), with an offset o of each row that is 0 for most models.

    The mean and scale are buffers, so that they travel with the weights and inference takes raw features.
    Parameters and buffers are float64 whatever the precision of the data: they are d + 1 numbers, and a
    weight rounded to float32 would be the least accurate number of a float32 fit.

    Args:
        in_features: number of features, d.
        fit_intercept: False fixes b at 0 in standardised coordinates; the features are then not centred.
        standardization: the map to put before the linear layer; None leaves the features as they are. A scale
            of infinity takes a feature out of the model.

    Attributes:
        needs_offset: whether the fit had an offset; then logits without one are refused.

    Example:
        >>> import torch
        >>> from lr_lightning import LinearSigmoid
        >>> model = LinearSigmoid(2)
        >>> model.set_coefficients(torch.tensor([1.0, -1.0], dtype=torch.float64), intercept=0.5)
        >>> x = torch.tensor([[1.0, 1.0], [2.0, 0.5]])
        >>> model.logits(x).tolist()
        [0.5, 2.0]
        >>> [round(p, 4) for p in model(x).tolist()]
        [0.6225, 0.8808]
    """

    mean: Tensor
    scale: Tensor
    needs_offset: bool = False

    def __init__(
        self,
        in_features: int,
        *,
        fit_intercept: bool = True,
        standardization: Standardization | None = None,
    ):
        super().__init__()
        mean, scale = standardization or Standardization.identity(in_features)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        # Without an initialisation of its own, which would draw from torch's random numbers.
        linear = nn.utils.skip_init(nn.Linear, in_features, 1, bias=fit_intercept, dtype=torch.float64)
        self.linear = cast(nn.Linear, linear)
        nn.init.zeros_(self.linear.weight)  # the objective is convex: any start will do, and zero is impartial
        if fit_intercept:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor | Design, offset: Tensor | None = None) -> Tensor:
        """Probabilities, float64, shape (n,), of raw features and offsets as for `logits`."""
        return torch.sigmoid(self.logits(x, offset))

    def logits(self, x: Tensor | Design, offset: Tensor | None = None) -> Tensor:
        """The linear predictor, float64, shape (n,).

        Args:
            x: raw features, shape (n, d); sparse ones, a tensor or a `Design`, are not differentiated.
            offset: log-odds that are added, shape (n,).

        Raises:
            InputError: if the fit had an offset and none is given, or its shape is another.
        """
        if self.needs_offset and offset is None:
            raise InputError("the model was fitted with an offset, and has no prediction without one; give the offset")
        if isinstance(x, Tensor) and x.layout == torch.strided:
            logits = self.linear((x.double() - self.mean) / self.scale).squeeze(-1)
        else:
            bias = None if self.linear.bias is None else self.linear.bias[0]
            logits = as_design(x).standardized(self.mean, self.scale).matvec(self.linear.weight[0], bias)
        if offset is None:
            return logits
        if offset.shape != logits.shape:
            raise InputError(f"offset must have shape {tuple(logits.shape)} to match x, not {tuple(offset.shape)}")
        return logits + offset.double()

    def served_affine(self, served: Standardization) -> tuple[Tensor, Tensor]:
        """Weight (d,) and bias () for features to which `served` has been applied already.

        Folding both maps into d + 1 numbers spares the rows: no batch is ever standardised twice, or at all.
        The result is differentiable with respect to the parameters.
        """
        weight = self.linear.weight[0]
        offset = ((served.mean - self.mean) / self.scale) @ weight
        return weight * (served.scale / self.scale), offset if self.linear.bias is None else self.linear.bias[
            0
        ] + offset

    def cpu_copy(self) -> LinearSigmoid:
        """The same model on the CPU, itself where it is there already."""
        return self if self.mean.device.type == "cpu" else copy.deepcopy(self).cpu()

    def coefficients(self) -> tuple[Tensor, float]:
        """Coefficients (d,) and intercept on the original feature scale, detached, float64, on the CPU."""
        with torch.no_grad():
            weight, bias = self.cpu_copy().served_affine(Standardization.identity(len(self.mean)))
        return weight, float(bias)

    @torch.no_grad()
    def set_coefficients(self, weight: Tensor, intercept: float) -> None:
        """Set the parameters from coefficients (d,) and an intercept on the original feature scale."""
        weight = weight.to(self.scale)
        self.linear.weight.copy_(torch.where(self.scale.isinf(), 0.0, weight * self.scale).unsqueeze(0))
        if self.linear.bias is not None:
            self.linear.bias.fill_(intercept + float(weight @ self.mean))
