"""The logistic loss with its gradient in one sweep over the rows, and its Hessian.

A tall table does not fit the caches, so that the time of a gradient is the time of reading x.
``loss.backward()`` on the textbook expression reads x twice and n-vectors a dozen times. Here each block of
rows is brought into the cache once and gives its part of the loss *and* of the gradient before it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lr_lightning.model.threads import DEVICE_BLOCK, block_rows, compute_dtype, row_groups, share_out, weighted_row_sums

_HESSIAN_ROWS = 4096  # more float32 terms in one sum would lose digits
_HESSIAN_ELEMENTS = 2**20
_ONE_BLOCK = 2**16  # elements of x
_TILE = 128  # columns: of the symmetric product only the tiles on and below the diagonal are computed
_MAX_GROUPS = 16
_GROUP_ELEMENTS = 2**24
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
    r"""Hessian of `logistic_loss`, which does not depend on the labels.

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
    b = None if bias is None else bias.detach().reshape(()).to(x.device, dtype)
    v = None if sample_weight is None else sample_weight.detach().reshape(-1)
    size = d + (bias is not None)
    most = max(_HESSIAN_ROWS, (_HESSIAN_ELEMENTS if x.device.type == "cpu" else DEVICE_BLOCK) // max(d, 1))
    # An even number of equal blocks keeps the threads equally busy; of a small table it would only cost.
    blocks = 1 if x.numel() <= _ONE_BLOCK else 2 * max(1, math.ceil(n / most / 2))
    rows = math.ceil(n / blocks)
    # Every group of blocks has a sum of its own, so that the result does not depend on the number of workers.
    groups = max(1, min(blocks, _MAX_GROUPS, _GROUP_ELEMENTS // size**2))
    partial = torch.zeros(groups, size, size, dtype=torch.float64, device=x.device)

    @torch.no_grad()
    def work(share: Iterator[int]) -> None:
        scaled = torch.empty(min(rows, n), d, dtype=dtype, device=x.device)
        for group in share:
            total = partial[group]
            for start in range(group * rows, n, groups * rows):
                block = x[start : start + rows].detach().to(dtype)
                curvature = _curvature(block, w, b)
                if v is not None:
                    curvature *= v[start : start + rows].to(dtype)
                product = torch.mul(block, curvature[:, None], out=scaled[: len(block)])
                for j in range(0, d, _TILE):
                    tile = slice(j, min(j + _TILE, d))
                    total[j:d, tile] += _transposed_product(block[:, j:], product[:, tile])
                if b is not None:
                    total[d, :d] += _weighted_sum(block, curvature)
                    total[d, d] += curvature.sum(dtype=torch.float64)

    share_out(work, groups, x, effort=1 + d // 8)
    lower = partial.sum(0).tril_()
    return lower + lower.tril(-1).T


def _transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, float64, whose sums have at most 4096 terms in float32."""
    if left.dtype == torch.float64:
        return left.T @ right
    rest = len(left) % _HESSIAN_ROWS
    whole = len(left) - rest
    product = (left[whole:].T @ right[whole:]).double()
    if whole:
        left, right = (part[:whole].unflatten(0, (-1, _HESSIAN_ROWS)) for part in (left, right))
        product += torch.bmm(left.mT, right).sum(0, dtype=torch.float64)
    return product


def _weighted_sum(block: Tensor, weight: Tensor) -> Tensor:
    """``weight @ block``, whose sums have at most 4096 terms in float32."""
    return weight @ block if block.dtype == torch.float64 else _transposed_product(weight[:, None], block)[0]


def _curvature(block: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """σ(z)σ(-z) of the rows' logits z."""
    z = block @ weight if bias is None else torch.addmv(bias.expand(len(block)), block, weight)
    return torch.sigmoid(z).mul_(torch.sigmoid(z.neg_()))


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

    The arguments are `logistic_loss`'s, unchecked. The result does not depend on the number of workers:
    every block leaves its sums in a row of its own. Without gradient the two latter are zero.
    """
    n, d = x.shape
    dtype, rows = compute_dtype(x), block_rows(x)
    y, v = y.reshape(-1), None if sample_weight is None else sample_weight.reshape(-1)
    cast = x.dtype != dtype or y.dtype != dtype
    w = weight.reshape(-1).to(x.device, dtype)
    b = w.new_zeros(()) if bias is None else bias.reshape(()).to(x.device, dtype)
    one, intercept = w.new_ones(()), b.expand(min(rows, n))
    count = max(1, -(-n // rows))
    sums = torch.zeros(2, count, dtype=torch.float64, device=x.device)
    groups = row_groups(min(rows, n)) if with_gradient else 0
    gradient_sums = torch.zeros(count, groups, 1, d, dtype=dtype, device=x.device)

    def add(
        block: Tensor, labels: Tensor, weights: Tensor | None, out: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> None:
        """Fill `out`, the sums of loss, residual and gradient over a block's rows."""
        (loss, residual, gradient), (s, t, u, intercept) = out, buffers
        if cast:
            block, labels = block.to(dtype), labels.to(dtype)
        torch.sub(one, labels, alpha=2, out=s)
        torch.addmv(intercept, block, w, out=t)
        t.mul_(s)
        softplus(t, 1, _SOFTPLUS_LINEAR, out=u)  # pyright: ignore[reportCallIssue]
        if weights is not None:
            u.mul_(weights)
        torch.sum(u, 0, dtype=torch.float64, out=loss)
        if with_gradient:
            torch.sigmoid(t, out=t)
            s.mul_(t)
            if weights is not None:
                s.mul_(weights)
            weighted_row_sums(block, s, out=gradient)
            torch.sum(s, 0, dtype=torch.float64, out=residual)

    def buffers() -> tuple[Tensor, ...]:
        return *torch.empty(3, min(rows, n), dtype=dtype, device=x.device).unbind(), intercept

    if count == 1:
        add(x, y, v, (sums[0, 0], sums[1, 0], gradient_sums[0]), buffers())
        return sums[0, 0], gradient_sums.sum((0, 1, 2), dtype=torch.float64), sums[1, 0]

    # The less Python there is in the loop over the blocks, the less its threads wait for each other.
    xs, ys, vs = x.split(rows), y.split(rows), [None] * count if v is None else v.split(rows)
    outs = list(zip(sums[0].unbind(), sums[1].unbind(), gradient_sums.unbind(), strict=True))

    def work(share: Iterator[int]) -> None:
        whole = buffers()
        for k in share:
            add(xs[k], ys[k], vs[k], outs[k], whole if k < count - 1 else [part[: len(ys[k])] for part in whole])

    share_out(work, count, x)
    return sums[0].sum(), gradient_sums.sum((0, 1, 2), dtype=torch.float64), sums[1].sum()


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
