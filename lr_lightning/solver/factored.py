"""The curvature of an ill-conditioned problem, kept as a triangular factor.

A Hessian XᵀDX holds the squares of the singular values of √D·X: what is small in the rows is lost in it twice as
soon. A QR factorisation of the rows keeps nearly dependent columns, powers of a feature, and rows that are
predicted all but perfectly apart, down to a ratio of about 1e-13 (Golub & Van Loan 2013, section 5.3.8).

All tensors are float64 on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lr_lightning.solver.curvature import DenseCurvature
from lr_lightning.solver.decompositions import singular_values, svd

_RANK_TOLERANCE = (
    1e-11  # of a pivot, relative to its column, times the number of columns: logits would lose more than five digits
)

_ROUNDING = 100 * torch.finfo(torch.float64).eps  # of the gradient of a mean loss in standardised coefficients


class FactoredCurvature(DenseCurvature):
    """A curvature RᵀR, corrected by BFGS like `DenseCurvature`, without ever relying on the product.

    Args:
        factor: R, (r, k), upper triangular; of fewer rows than columns r < k.

    Attributes:
        matrix: RᵀR.
    """

    def __init__(self, factor: Tensor) -> None:
        self._factor = factor
        super().__init__(factor.T @ factor)

    @classmethod
    def of_rows(cls, rows: Tensor, l2: Tensor) -> FactoredCurvature:
        """From rows (m, k), on any device, whose Gram matrix is the loss's Hessian, and the penalty ``l2`` (k,)."""
        factor = torch.linalg.qr(rows, mode="r").R.cpu()
        return cls(torch.linalg.qr(torch.cat([factor, l2.sqrt().diag()[l2 > 0]]), mode="r").R)

    def update(self, s: Tensor, y: Tensor) -> None:
        """Makes the matrix take the step ``s`` (k,) to the change ``y`` (k,) of the gradient.

        The update of the factor is that of Dennis & Schnabel (1983, section 9.2).
        """
        moved = self._factor @ s
        predicted, observed = float(moved @ moved), float(s @ y)
        # A change of the gradient within its rounding says nothing of the curvature.
        if not observed > 1e-8 * predicted or not predicted > 0:
            return
        aim = moved * (observed / predicted) ** 0.5
        factor = self._factor + torch.outer(aim, y - self._factor.T @ aim) / observed
        self._factor = torch.linalg.qr(factor, mode="r").R
        self.matrix = self._factor.T @ self._factor

    def step(self, point: Tensor, gradient: Tensor, l1: Tensor, ridge: float = 0.0) -> Tensor:
        """The step (k,) from ``point`` (k,), where the gradient is ``gradient`` (k,), to the model's minimiser."""
        if ridge or l1.any():
            return super().step(point, gradient, l1, ridge)
        factor, scale = self._scaled()
        r, least = -gradient / scale, _RANK_TOLERANCE * len(gradient)
        if len(factor) == len(gradient) and float(factor.diagonal().abs().min()) > least:
            half = torch.linalg.solve_triangular(factor.T, r[:, None], upper=False)
            return torch.linalg.solve_triangular(factor, half, upper=True)[:, 0] / scale
        _, values, vectors = svd(factor, full_matrices=False)
        least *= float(values[0])
        parts = vectors @ r
        # A gradient along a direction that the rows hardly have: only rounding where columns do depend on each other.
        rounding = (values < least) & (parts.abs() < _ROUNDING)
        parts = torch.where(rounding, 0.0, parts / values.clamp(min=least).square())
        return vectors.T @ parts / scale

    def nullity(self) -> int:
        """Number of directions, columns of zeros aside, whose curvature is rounding."""
        factor, _ = self._scaled()
        values = singular_values(factor)
        rank = int((values > _RANK_TOLERANCE * factor.shape[1] * values[0]).sum())
        return int((factor != 0).any(0).sum()) - rank

    def noise(self) -> float:
        """What rounding adds to the decrement of a mean loss: it passes through the inverse of the least pivot."""
        factor = self._scaled()[0]
        pivot = float(factor.diagonal().abs().min()) if len(factor) == factor.shape[1] else 0.0
        return (10 * torch.finfo(torch.float64).eps / max(pivot, _RANK_TOLERANCE)) ** 2

    def _scaled(self) -> tuple[Tensor, Tensor]:
        """The factor with columns of length 1, and their lengths."""
        length = torch.linalg.vector_norm(self._factor, dim=0)
        scale = torch.where(length > 0, length, 1.0)
        return self._factor / scale, scale

    def product(self, vector: Tensor) -> Tensor:
        """The matrix times a vector (k,)."""
        return self._factor.T @ (self._factor @ vector)

    def state(self) -> dict[str, Any]:
        """What the constructor needs to make it again."""
        return {"factor": self._factor}
