"""The logistic loss with its gradient in one sweep over the rows, and its Hessian.

A tall table does not fit the caches, so that the time of a gradient is the time of reading x.
``loss.backward()`` on the textbook expression reads x twice and n-vectors a dozen times. Here each block of
rows is brought into the cache once and gives its part of the loss *and* of the gradient before it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lr_lightning.blocks import DEVICE_BLOCK, block_rows, compute_dtype, share_out, weighted_row_sum

_HESSIAN_ROWS = 4096
_SOFTPLUS_LINEAR = 80  # exp(80) is still finite in float32; the default of 20 costs nine digits


def logistic_loss(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    r"""Sum of the binary cross-entropies of a linear model, from its logits.

    .. math:: \sum_i v_i \, \log(1 + e^{-(2 y_i - 1) z_i}), \qquad z = x w + b

    Differentiable once with respect to ``weight`` and ``bias``. Products within a block of rows are computed
    in the dtype of ``x`` (float32 for the half-precision and integer dtypes), sums over blocks in float64.
    With :math:`s = 1 - 2y` the residual is :math:`s\,\sigma(s z)`: it keeps its relative accuracy for rows
    that are predicted well, where :math:`\sigma(z) - y` would cancel.

    Args:
        x: Features, (n, d), of any strides.
        y: Labels 0 or 1, (n,) or (n, 1), of any dtype.
        weight: (d,) or (1, d).
        bias: () or (1,), or None for a model without intercept.
        sample_weight: (n,) or (n, 1), non-negative.

    Returns:
        0-dim float64 tensor on the device of ``x``.

    Raises:
        ValueError: If the shapes do not match.
    """
    _check_shapes(x, y, weight, bias, sample_weight)
    loss: Any = _LogisticLoss.apply(x, y, weight, bias, sample_weight)
    return loss


def logistic_hessian(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, sample_weight: Tensor | None = None
) -> Tensor:
    r"""Hessian of :func:`logistic_loss`, which does not depend on the labels.

    .. math:: \sum_i v_i \, \sigma(z_i)\, \sigma(-z_i) \, \tilde x_i \tilde x_i^\top, \qquad \tilde x = (x, 1)

    Args:
        x: Features, (n, d), of any strides.
        weight: (d,) or (1, d).
        bias: () or (1,); None leaves out the intercept's row and column, which are the last ones.
        sample_weight: (n,) or (n, 1), non-negative.

    Returns:
        (d + 1, d + 1), or (d, d) without bias, float64. Products of up to 4096 rows are computed in the dtype
        of ``x`` and summed in float64.

    Raises:
        ValueError: If the shapes do not match.
    """
    _check_shapes(x, None, weight, bias, sample_weight)
    n, d = x.shape
    dtype = compute_dtype(x)
    w = weight.detach().reshape(-1).to(x.device, dtype)
    v = None if sample_weight is None else sample_weight.detach().reshape(-1)
    size = d + (bias is not None)
    hessian = torch.zeros(size, size, dtype=torch.float64, device=x.device)
    rows = _HESSIAN_ROWS if x.device.type == "cpu" else max(_HESSIAN_ROWS, DEVICE_BLOCK // max(d, 1))
    rows = max(1, min(n, rows))
    scaled = torch.empty(rows, d, dtype=dtype, device=x.device)
    for start in range(0, n, rows):
        block = x[start : start + rows].detach().to(dtype)
        z = block @ w
        if bias is not None:
            z += bias.detach().to(dtype)
        curvature = torch.sigmoid(z).mul_(torch.sigmoid(z.neg_()))
        if v is not None:
            curvature *= v[start : start + rows].to(dtype)
        product = torch.mul(block, curvature[:, None], out=scaled[: len(block)])
        hessian[:d, :d] += block.T @ product
        if bias is not None:
            hessian[:d, d] += product.sum(0, dtype=torch.float64)
            hessian[d, d] += curvature.sum(dtype=torch.float64)
    if bias is not None:
        hessian[d, :d] = hessian[:d, d]
    return hessian.add_(hessian.T.clone()).mul_(0.5)


class _LogisticLoss(torch.autograd.Function):
    """Computes the gradient together with the loss and hands it out in ``backward``."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, sample_weight: Tensor | None
    ) -> Tensor:
        with_gradient = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        loss, gradient, residual_sum = sweep(x, y, weight, bias, sample_weight, with_gradient=with_gradient)
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
        return None, None, grad_weight, grad_bias, None


@torch.no_grad()
def sweep(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    *,
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient (d,) and sum of the residuals (the intercept's gradient), all float64, in one sweep.

    The arguments are :func:`logistic_loss`'s, unchecked. The result does not depend on the number of workers:
    every block leaves its sums in a row of its own. Without gradient the two latter are zero.
    """
    n, d = x.shape
    rows = block_rows(x)
    blocks = math.ceil(n / rows)
    dtype = compute_dtype(x)
    partial_loss = torch.zeros(blocks, dtype=torch.float64, device=x.device)
    partial_residual = torch.zeros(blocks, dtype=torch.float64, device=x.device)
    partial_gradient = torch.zeros(blocks if with_gradient else 0, d, dtype=dtype, device=x.device)
    w = weight.reshape(-1).to(x.device, dtype)
    b = w.new_zeros(()) if bias is None else bias.reshape(()).to(x.device, dtype)
    y, v = y.reshape(-1), None if sample_weight is None else sample_weight.reshape(-1)

    def work(share: Iterator[int]) -> None:
        sign, z, value = (torch.empty(min(rows, n), dtype=dtype, device=x.device) for _ in range(3))
        one = torch.ones((), dtype=dtype, device=x.device)
        intercept = b.expand(min(rows, n))
        for k in share:
            start, stop = k * rows, min((k + 1) * rows, n)
            m = stop - start
            block = x[start:stop].to(dtype)
            s, t, u = sign[:m], z[:m], value[:m]
            torch.sub(one, y[start:stop].to(dtype), alpha=2, out=s)
            torch.addmv(intercept[:m], block, w, out=t)
            t.mul_(s)
            softplus(t, 1, _SOFTPLUS_LINEAR, out=u)  # pyright: ignore[reportCallIssue]
            vb = None if v is None else v[start:stop].to(dtype)
            if vb is not None:
                u.mul_(vb)
            torch.sum(u, 0, dtype=torch.float64, out=partial_loss[k])
            if with_gradient:
                torch.sigmoid(t, out=u)
                s.mul_(u)
                if vb is not None:
                    s.mul_(vb)
                weighted_row_sum(block, s, out=partial_gradient[k])
                torch.sum(s, 0, dtype=torch.float64, out=partial_residual[k])

    share_out(work, blocks, x)
    return partial_loss.sum(), partial_gradient.sum(0, dtype=torch.float64), partial_residual.sum()


def _check_shapes(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor | None, sample_weight: Tensor | None
) -> None:
    if x.ndim != 2:
        raise ValueError(f"x must be a matrix (n, d), not of shape {tuple(x.shape)}")
    n, d = x.shape
    for name, tensor, size in (
        ("y", y, n),
        ("weight", weight, d),
        ("bias", bias, 1),
        ("sample_weight", sample_weight, n),
    ):
        if tensor is not None and tensor.numel() != size:
            raise ValueError(f"{name} must have {size} elements for x of shape {(n, d)}, not {tensor.numel()}")
