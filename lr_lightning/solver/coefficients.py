"""The parameters of a linear model as one vector of coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Coefficients:
    """The weight of each feature and the bias as one float64 vector (k,) on the CPU, the bias last.

    Args:
        param_groups: Of a torch optimizer: ``[weight]`` or ``[weight, bias]`` in all, float64; weight (d,) or
            (1, d), bias () or (1,).

    Raises:
        ValueError: If they are anything else.
    """

    def __init__(self, param_groups: Iterable[Mapping[str, Any]]) -> None:
        parameters = [parameter for group in param_groups for parameter in group["params"]]
        if len(parameters) not in (1, 2) or any(p.dtype != torch.float64 for p in parameters):
            raise ValueError("SubsampledNewton takes [weight] or [weight, bias], both float64")
        if len(parameters) == 2 and parameters[1].numel() != 1:
            raise ValueError(f"the bias must have one element, not {parameters[1].numel()}")
        self._parameters: list[Tensor] = parameters

    @property
    def has_intercept(self) -> bool:
        """Whether the last coefficient is an intercept."""
        return len(self._parameters) == 2

    def read(self) -> Tensor:
        """The coefficients, (k,)."""
        return _vector(parameter.detach() for parameter in self._parameters)

    def read_gradient(self) -> Tensor:
        """The gradient by the coefficients, (k,); 0 where there is none."""
        return _vector(torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters)

    def write(self, point: Tensor) -> None:
        """Put ``point`` (k,) into the parameters."""
        start = 0
        with torch.no_grad():
            for parameter in self._parameters:
                parameter.copy_(point[start : start + parameter.numel()].reshape(parameter.shape))
                start += parameter.numel()

    def penalty(self, value: float | Tensor, name: str) -> Tensor:
        """The penalty of every coefficient, (k,), from a number or (d,); the intercept's is zero.

        Raises:
            ValueError: If one is negative or not finite.
        """
        d = self._parameters[0].numel()
        of_features = torch.as_tensor(value, dtype=torch.float64).detach().cpu().reshape(-1).expand(d)
        if not bool(((of_features >= 0) & (of_features < torch.inf)).all()):
            raise ValueError(f"{name} must not be negative")
        return torch.cat([of_features, torch.zeros(len(self._parameters) - 1, dtype=torch.float64)])


def _vector(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1).to("cpu", torch.float64) for part in parts])
