"""Standardised features that are never written out, because centring would fill a sparse storage."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lr_lightning.model.losses import Outcomes
from lr_lightning.model.storage import Design


class Standardized(Design):
    """``(x − center) / scale``: the scale is folded into the coefficients, and the centre is a term of rank one.

    With u = w / scale the products are ``x u − center·u`` and ``(xᵀr − center Σr) / scale``. See `Design` for the
    methods; what it gives is float64.

    Args:
        x: features in another storage, (n, d).
        center: (d,), or None for 0.
        scale: (d,), or None for 1; infinity takes a feature out.
    """

    __slots__ = ("center", "scale", "x")

    def __init__(self, x: Design, center: Tensor | None, scale: Tensor | None):
        self.x = x
        zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        self.center = zero if center is None else center.detach().to(zero)
        self.scale = zero + 1 if scale is None else scale.detach().to(zero)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    @property
    @override
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.x.product_dtype == torch.float64 else self.x.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self.x.device

    @property
    @override
    def product_dtype(self) -> torch.dtype:
        return self.x.product_dtype

    @property
    @override
    def is_sparse(self) -> bool:
        return self.x.is_sparse

    def _of(self, x: Design) -> Standardized:
        return Standardized(x, self.center, self.scale)

    @override
    def take(self, rows: Tensor | slice) -> Standardized:
        return self._of(self.x.take(rows))

    @override
    def columns(self, index: Tensor) -> Standardized:
        index = index.to(self.device)
        return Standardized(self.x.columns(index), self.center[index], self.scale[index])

    @override
    def to(self, device: torch.device | str) -> Standardized:
        return self._of(self.x.to(device))

    @override
    def astype(self, dtype: torch.dtype) -> Standardized:
        return self._of(self.x.astype(dtype))

    @override
    def for_many_products(self) -> Standardized:
        return self

    @override
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        filled = (self.x.dense(torch.float64) - self.center) / self.scale
        return filled if dtype is None else filled.to(dtype)

    @torch.no_grad()
    @override
    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        u = w.detach().to(self.scale) / (self.scale if w.ndim == 1 else self.scale[:, None])
        shift = -(self.center @ u) if shift is None else shift.detach().to(u) - self.center @ u
        return self.x.matvec(u, shift).to(w.dtype)

    @torch.no_grad()
    @override
    def rmatvec(self, r: Tensor) -> Tensor:
        total = r.detach().sum(0, dtype=torch.float64).to(self.device)
        sums = self.x.rmatvec(r)
        if r.ndim == 1:
            return (sums - self.center * total) / self.scale
        return (sums - torch.outer(self.center, total)) / self.scale[:, None]

    @torch.no_grad()
    @override
    def hessian_product(self, v: Tensor, w: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        u = w.detach().to(self.scale) / self.scale
        shift = -(self.center @ u) if shift is None else shift.detach().to(u) - self.center @ u
        sums, total, product = self.x.hessian_product(v, u, shift)
        return (sums - self.center * total) / self.scale, total, product

    @torch.no_grad()
    @override
    def sandwich(self, v: Tensor, columns: Tensor | None = None, *, intercept: bool = False) -> Tensor:
        center, scale = self.center, self.scale
        if columns is not None:
            columns = columns.to(self.device)
            center, scale = center[columns], scale[columns]
        product = self.x.sandwich(v, columns, intercept=True)
        sums, total = product[-1, :-1].clone(), product[-1, -1]
        inner = product[:-1, :-1]
        across = torch.outer(center, sums - 0.5 * total * center)
        inner -= across + across.T
        inner /= torch.outer(scale, scale)
        if not intercept:
            return inner.clone()
        product[-1, :-1] = product[:-1, -1] = (sums - center * total) / scale
        return product

    @torch.no_grad()
    @override
    def value_and_gradient(
        self, outcomes: Outcomes, w: Tensor, bias: Tensor | None = None, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        u = w.detach().reshape(-1).to(self.scale) / self.scale
        shift = -(self.center @ u) if bias is None else bias.detach().reshape(()).to(u) - self.center @ u
        loss, gradient, residual = self.x.value_and_gradient(outcomes, u, shift, with_gradient=with_gradient)
        return loss, (gradient - self.center * residual) / self.scale, residual

    @override
    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        first, second = self.x.sums_about(self.center + self.scale * pivot.to(self.scale), sample_weight)
        return torch.stack([first / self.scale, second / self.scale.square()])

    @torch.no_grad()
    @override
    def gram(self, s: Tensor) -> Tensor:
        s = s.detach().to(self.scale) / self.scale
        across = self.x.matvec(self.center * s.square()).cpu()
        product = self.x.gram(s) - across[:, None] - across
        return product + float((self.center * s).square().sum())

    @override
    def square_norms(self, center: Tensor | None, scale: Tensor | None) -> Tensor:
        whole = self.standardized(center, scale)
        return self.x.square_norms(whole.center, whole.scale)

    @override
    def standardized(self, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Standardized:
        x = self.x if rows is None else self.x.take(rows)
        center = self.center if center is None else self.center + self.scale * center.to(self.scale)
        return Standardized(x, center, self.scale if scale is None else self.scale * scale.to(self.scale))

    @override
    def bounds(self, used: Tensor | None = None) -> Tensor:
        return (self.x.bounds(used) - self.center) / self.scale

    @override
    def square_sums(self, v: Tensor) -> Tensor:
        total = v.detach().sum(dtype=torch.float64).to(self.device)
        sums = self.x.square_sums(v) + self.center * (self.center * total - 2 * self.x.rmatvec(v))
        return sums.clamp_(min=0) / self.scale.square()
