"""Feature matrices: the only place that knows how features are stored, and the only one that multiplies by them.

A tall table does not fit the caches, so that the time of a pass is the time of reading x. ``loss.backward()`` on the
textbook expression reads x twice and n-vectors a dozen times. `Dense.value_and_gradient` brings each block of rows
into the cache once, and takes its part of the loss *and* of the gradient before it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lr_lightning.model.csr import Csr
from lr_lightning.model.losses import Outcomes, fill_losses, losses_of_shares, make_residuals
from lr_lightning.model.storage import Design
from lr_lightning.model.threads import share_out

_BLOCK = 2**19  # elements of x on the CPU: about a core's cache, where they stay between a block's two products
_DEVICE_BLOCK = 2**28  # an accelerator wants few and large kernels
# Elements of x; below, float64 products cost next to nothing: in float32 20 000 x 300 with L1 takes 1.15 times as long.
_SMALL = 2**19
_TERMS = 512  # of a float32 sum in a gradient; more would lose digits
_SANDWICH_TERMS = 4096  # of a float32 sum in a Hessian; more would lose digits
_SANDWICH_BLOCK = 2**18  # elements of x, which stay in a core's cache while they are scaled and multiplied
# Columns, from which on blocks and tiles are larger: without that Hessians of 1 000 and 2 000 columns take 1.1 to 1.5
# times as long.
_WIDE = 512
# Elements of x that are laid out for many products at once: without that breast cancer takes 1.7 times as long.
_ONE_BLOCK = 2**16
# Columns: of the symmetric product only the tiles on and below the diagonal are computed. Without tiles 20 000 x 300
# with L1 takes 1.15 times as long, 2 000 x 100 1.2 times.
_TILE = 48
_WIDE_TILE = 96
_STANDARDIZED_BLOCK = 2**18  # elements of x, for a thread of its own
_MAX_GROUPS = 16
_GROUP_ELEMENTS = 2**24
_ROWS_AS_ONE = 16  # in sums of columns; one by one 2 000 000 x 28 takes 1.2 times as long
_FEW_COLUMNS = 12  # up to here BLAS sums products with several vectors one row after the other
_KERNEL_ROWS = 16  # BLAS takes so many rows at a time, and sums the last few in another order


def as_design(x: Tensor | Design) -> Design:
    """The design of features in any storage: a tensor (n, d), dense or sparse, or a design already.

    Raises:
        ValueError: If a tensor is not a matrix.
    """
    if not isinstance(x, Tensor):
        return x
    if x.layout != torch.strided:
        return Csr.of(x)
    if x.ndim != 2:
        raise ValueError(f"x must be a matrix (n, d), not of shape {tuple(x.shape)}")
    return Dense(x)


class Dense(Design):
    """Features as a tensor (n, d) of any strides, dtype and device; see `Design` for the methods."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()

    @property
    @override
    def shape(self) -> tuple[int, int]:
        n, d = self.tensor.shape
        return n, d

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    @override
    def device(self) -> torch.device:
        return self.tensor.device

    @property
    @override
    def product_dtype(self) -> torch.dtype:
        if self._on_cpu and self.tensor.numel() <= _SMALL:
            return torch.float64
        return self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32

    @property
    @override
    def is_sparse(self) -> bool:
        return False

    @override
    def take(self, rows: Tensor | slice) -> Dense:
        if isinstance(rows, Tensor) and rows.dtype == torch.long:
            return Dense(self.tensor.index_select(0, rows.to(self.device)))  # half the time of an index
        return Dense(self.tensor[rows])

    @override
    def columns(self, index: Tensor) -> Dense:
        return Dense(self.tensor.index_select(1, index.to(self.device)))

    @override
    def to(self, device: torch.device | str) -> Dense:
        return Dense(self.tensor.to(device))

    @override
    def astype(self, dtype: torch.dtype) -> Dense:
        return Dense(self.tensor.to(dtype))

    @override
    def for_many_products(self) -> Design:
        return SmallDense(self.tensor) if self.is_small else self

    @override
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensor if dtype is None else self.tensor.to(dtype)

    @torch.no_grad()
    @override
    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        x, n = self.tensor, len(self.tensor)
        w = w.detach().to(x.device)
        shift = w.new_zeros(()) if shift is None else shift.detach().to(w)
        if w.ndim == 2 and w.shape[1] == 1 and shift.numel() == 1:  # a vector takes half the time
            return self.matvec(w[:, 0], shift.reshape(()))[:, None]
        multiply = torch.addmv if w.ndim == 1 else torch.addmm
        rows = max(_KERNEL_ROWS, self._block_rows // _KERNEL_ROWS * _KERNEL_ROWS)
        if n <= rows:
            return multiply(shift.expand(n, *w.shape[1:]), x.to(w.dtype), w)
        of_rows = shift.ndim == 1 and w.ndim == 1
        out = torch.empty(n, *w.shape[1:], dtype=w.dtype, device=x.device)

        def work(share: Iterator[int]) -> None:
            for k in share:
                part = slice(k * rows, min((k + 1) * rows, n))
                start = (shift[part] if of_rows else shift).expand(part.stop - part.start, *w.shape[1:])
                multiply(start, x[part].to(w.dtype), w, out=out[part])

        share_out(work, math.ceil(n / rows), x)
        return out

    @torch.no_grad()
    @override
    def rmatvec(self, r: Tensor) -> Tensor:
        x, (n, d) = self.tensor, self.shape
        r = r.detach().to(x.device)
        if r.ndim == 2 and r.shape[1] > 1 and r.dtype in (torch.float32, torch.float64):
            return self._products_with_many(r)
        vectors = r.reshape(n, -1)
        rows, m = self._block_rows, vectors.shape[1]
        count = max(1, math.ceil(n / rows))
        groups = _row_groups(min(rows, n))
        sums = torch.zeros(count, m, groups, 1, d, dtype=r.dtype, device=x.device)

        def work(share: Iterator[int]) -> None:
            for k in share:
                part = slice(k * rows, (k + 1) * rows)
                block = x[part].to(r.dtype)
                for column, out in zip(vectors[part].unbind(1), sums[k], strict=True):
                    _weighted_row_sums(block, column.contiguous(), out=out)

        share_out(work, count, x)
        total = sums.sum((0, 2, 3), dtype=torch.float64)
        return total[0] if r.ndim == 1 else total.T

    @override
    def hessian_product(self, v: Tensor, w: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        product = self.matvec(w, shift)
        r = product * v.to(w)
        return self.rmatvec(r), r.sum(dtype=torch.float64), product

    @torch.no_grad()
    @override
    def sandwich(self, v: Tensor, columns: Tensor | None = None, *, intercept: bool = False) -> Tensor:
        x = self.tensor if columns is None else self.tensor.index_select(1, columns.to(self.device))
        v = v.detach().to(x.device)
        (n, d), dtype = x.shape, v.dtype
        size = d + intercept
        wide = d > _WIDE
        direct = self._on_cpu and (dtype == torch.float64 or d * _SANDWICH_TERMS >= _SANDWICH_BLOCK)
        if direct:
            most = _SANDWICH_TERMS if wide else _SANDWICH_BLOCK // max(d, 1)
        else:
            most = max(_SANDWICH_TERMS, (_BLOCK if self._on_cpu else _DEVICE_BLOCK) // max(d, 1))
        # An even number of equal blocks keeps the threads equally busy; of a small table it would only cost.
        blocks = 1 if n * d <= _SANDWICH_BLOCK else 2 * max(1, math.ceil(n / most / 2))
        rows = max(1, math.ceil(n / blocks))
        # Every group of blocks has a sum of its own, so that the result does not depend on the number of workers.
        groups = max(1, min(blocks, _MAX_GROUPS, _GROUP_ELEMENTS // max(size, 1) ** 2))
        partial = torch.zeros(groups, size, size, dtype=torch.float64, device=x.device)
        tile = _WIDE_TILE if wide else _TILE
        tiles = [slice(j, min(j + tile, d)) for j in range(0, d, tile)]

        def add(sums: Tensor, block: Tensor, weights: Tensor, scaled: Tensor) -> None:
            product = torch.mul(block, weights[:, None], out=scaled[: len(block)])
            for part in tiles:  # on and below the diagonal
                left, right, out = block[:, part.start :], product[:, part], sums[part.start : d, part]
                if direct:
                    out.addmm_(left.T, right)
                else:
                    out += _transposed_product(left, right)
            if intercept:
                sums[d, :d] += _weighted_sum(block, weights)
                sums[d, d] += weights.sum(dtype=torch.float64)

        def work(share: Iterator[int]) -> None:
            scaled = torch.empty(min(rows, n), d, dtype=dtype, device=x.device)
            held = torch.zeros(size, size) if direct and dtype == torch.float32 else None
            for group in share:
                starts = range(group * rows, n, groups * rows)
                for number, start in enumerate(starts, 1):
                    block, weights = x[start : start + rows].to(dtype), v[start : start + rows]
                    add(partial[group] if held is None else held, block, weights, scaled)
                    if held is not None and (number % (_SANDWICH_TERMS // rows) == 0 or number == len(starts)):
                        partial[group] += held
                        held.zero_()

        share_out(work, groups, x, effort=1 + d // 8)
        lower = (partial.sum(0) if groups > 1 else partial[0]).tril_()
        return lower.add_(lower.tril(-1).T)

    @torch.no_grad()
    @override
    def value_and_gradient(
        self, outcomes: Outcomes, w: Tensor, bias: Tensor | None = None, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, (n, d), dtype, rows = self.tensor, self.shape, self.product_dtype, self._block_rows
        y, v, offset, _ = outcomes
        shares, cast = outcomes.may_be_shares, x.dtype != dtype or y.dtype != dtype
        w = w.reshape(-1).to(x.device, dtype)
        b = w.new_zeros(()) if bias is None else bias.reshape(()).to(x.device, dtype)
        one = w.new_ones(())
        # Rows without an offset share one starting value.
        starts = b.expand(n) if offset is None else offset.to(x.device, dtype) + b
        count = max(1, -(-n // rows))
        sums = torch.zeros(2, count, dtype=torch.float64, device=x.device)
        groups = _row_groups(min(rows, n)) if with_gradient else 0
        gradient_sums = torch.zeros(count, groups, 1, d, dtype=dtype, device=x.device)

        def add(
            block: Tensor,
            labels: Tensor,
            weights: Tensor | None,
            start: Tensor,
            out: Sequence[Tensor],
            buffers: Sequence[Tensor],
        ) -> None:
            """Fill `out`, the sums of loss, residual and gradient over a block's rows."""
            (loss, residual, gradient), (s, t, u) = out, buffers
            if cast:
                block, labels = block.to(dtype), labels.to(dtype)
            torch.addmv(start, block, w, out=t)
            if shares:
                losses, residuals = losses_of_shares(t, labels, weights)
                u.copy_(losses)
                s.copy_(residuals)
            else:
                torch.sub(one, labels, alpha=2, out=s)
                fill_losses(u, t, s, weights)
            torch.sum(u, 0, dtype=torch.float64, out=loss)
            if with_gradient:
                if not shares:
                    make_residuals(s, t, weights)
                _weighted_row_sums(block, s, out=gradient)
                torch.sum(s, 0, dtype=torch.float64, out=residual)

        def buffers() -> tuple[Tensor, ...]:
            return torch.empty(3, min(rows, n), dtype=dtype, device=x.device).unbind()

        if count == 1:
            add(x, y, v, starts, (sums[0, 0], sums[1, 0], gradient_sums[0]), buffers())
            return sums[0, 0], gradient_sums.sum((0, 1, 2), dtype=torch.float64), sums[1, 0]

        # The less Python there is in the loop over the blocks, the less its threads wait for each other.
        xs, ys, vs = x.split(rows), y.split(rows), [None] * count if v is None else v.split(rows)
        zs = starts.split(rows)
        outs = list(zip(sums[0].unbind(), sums[1].unbind(), gradient_sums.unbind(), strict=True))

        def work(share: Iterator[int]) -> None:
            whole = buffers()
            for k in share:
                part = whole if k < count - 1 else [buffer[: len(ys[k])] for buffer in whole]
                add(xs[k], ys[k], vs[k], zs[k], outs[k], part)

        share_out(work, count, x)
        return sums[0].sum(), gradient_sums.sum((0, 1, 2), dtype=torch.float64), sums[1].sum()

    @torch.no_grad()
    @override
    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        x = self.tensor
        if sample_weight is None and x.is_contiguous() and self._on_cpu:
            # Several rows as one: torch is slow on short ones. Its sums of many terms are pairwise.
            whole = 0 if x.numel() <= _ONE_BLOCK else len(x) - len(x) % _ROWS_AS_ONE
            rest = x[whole:] - pivot
            of_rest = torch.stack([rest.sum(0), rest.square().sum(0)])
            if not whole:
                return of_rest
            as_one = Dense(x[:whole].view(-1, _ROWS_AS_ONE * x.shape[1]))
            tiled = as_one._block_sums(pivot.repeat(_ROWS_AS_ONE), None)
            return tiled.view(2, _ROWS_AS_ONE, -1).sum(1) + of_rest
        return self._block_sums(pivot, sample_weight)

    @override
    def means(self) -> Tensor:
        return self.tensor.double().mean(0)

    @torch.no_grad()
    @override
    def gram(self, s: Tensor) -> Tensor:
        x, (n, d) = self.tensor, self.shape
        s = s.detach().to(x.device)
        products = torch.zeros(n, n, dtype=torch.float64, device=x.device)
        for j in range(0, d, _SANDWICH_TERMS):
            block = x[:, j : j + _SANDWICH_TERMS].to(s.dtype) * s[j : j + _SANDWICH_TERMS]
            products += block @ block.T
        products = products.cpu().tril_()
        return products + products.tril(-1).T

    @override
    def square_norms(self, center: Tensor | None, scale: Tensor | None) -> Tensor:
        rows = max(1, _SANDWICH_BLOCK // max(self.shape[1], 1))
        blocks = (Dense(block).standardized(center, scale).tensor for block in self.tensor.split(rows))
        return torch.cat([block.double().square().sum(1).cpu() for block in blocks])

    @torch.no_grad()
    @override
    def standardized(self, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Dense:
        x = self.tensor
        if center is None and scale is None:
            return Dense(x if rows is None else x.index_select(0, rows))
        n, d = len(x) if rows is None else len(rows), x.shape[1]
        # The dtype tells the solver how far the rows are rounded.
        dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        center, scale = (None if t is None else t.to(x.device) for t in (center, scale))
        size = max(64, _STANDARDIZED_BLOCK // max(d, 1))

        def of_block(part: slice) -> Tensor:
            block = x[part] if rows is None else x.index_select(0, rows[part])
            block = block.to(torch.float64, copy=True)
            if center is not None:
                block -= center
            if scale is not None:
                block /= scale
            return block

        if n <= size:
            return Dense(of_block(slice(None)).to(dtype))
        standardized = torch.empty(n, d, dtype=dtype, device=x.device)

        def work(share: Iterator[int]) -> None:
            for k in share:
                part = slice(k * size, (k + 1) * size)
                standardized[part] = of_block(part)

        share_out(work, -(-n // size), standardized)
        return Dense(standardized)

    @torch.no_grad()
    @override
    def bounds(self, used: Tensor | None = None) -> Tensor:
        found = torch.tensor([[torch.inf], [-torch.inf]], dtype=torch.float64, device=self.device)
        found = found.repeat(1, self.shape[1])
        for rows in blocks_of(self.tensor):
            block = self.tensor[rows] if used is None else self.tensor[rows][used[rows]]
            if len(block):
                torch.minimum(found[0], block.amin(0).double(), out=found[0])
                torch.maximum(found[1], block.amax(0).double(), out=found[1])
        return found

    @torch.no_grad()
    @override
    def square_sums(self, v: Tensor) -> Tensor:
        rows = max(1, _SANDWICH_BLOCK // max(self.shape[1], 1))
        total = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        for block, weights in zip(self.tensor.split(rows), v.detach().to(self.device).split(rows), strict=True):
            total += _weighted_sum(block.to(v.dtype).square(), weights)
        return total

    def _block_sums(self, pivot: Tensor, weight: Tensor | None) -> Tensor:
        x, dtype, rows = self.tensor, pivot.dtype, self._block_rows
        xs, vs = x.split(rows), None if weight is None else weight.split(rows)
        groups = 1 if vs is None else _row_groups(min(rows, len(x)))
        sums = torch.zeros(2, len(xs), groups, 1, x.shape[1], dtype=dtype, device=x.device)
        firsts, seconds = sums[0].unbind(), sums[1].unbind()

        def work(share: Iterator[int]) -> None:
            buffer = torch.empty(min(rows, len(x)), x.shape[1], dtype=dtype, device=x.device)
            for k in share:
                centred = buffer[: len(xs[k])]
                for power in (firsts, seconds):
                    if power is firsts:
                        torch.sub(xs[k], pivot, out=centred)
                    else:
                        centred.square_()
                    if vs is None:
                        torch.sum(centred, 0, out=power[k][0, 0])
                    else:
                        _weighted_row_sums(centred, vs[k].to(dtype), out=power[k])

        share_out(work, len(xs), x)
        return sums.sum((1, 2, 3), dtype=torch.float64)

    def _products_with_many(self, r: Tensor) -> Tensor:
        """``x.T @ r``, (d, m), float64, for vectors r (n, m), float32 or float64."""
        x, rows = self.tensor, self._block_rows
        if self._on_cpu and x.shape[1] < _FEW_COLUMNS:
            r = r.double()  # with ten times the rounding
        if r.dtype == torch.float32:
            rows = min(rows, _SANDWICH_TERMS)

        def product(part: slice) -> Tensor:
            block, vectors = x[part].to(r.dtype), r[part]
            # The vectors take less time as the second factor in float64, and as the first one in float32.
            return block.T @ vectors if r.dtype == torch.float64 else (vectors.T @ block).T

        if len(x) <= rows:
            return product(slice(None)).double()
        count = max(1, math.ceil(len(x) / rows))
        groups = min(count, _MAX_GROUPS)
        sums = torch.zeros(groups, x.shape[1], r.shape[1], dtype=torch.float64, device=x.device)

        def work(share: Iterator[int]) -> None:
            for group in share:
                for start in range(group * rows, len(x), groups * rows):
                    sums[group] += product(slice(start, start + rows))

        share_out(work, groups, x, effort=r.shape[1])
        return sums.sum(0)

    @property
    def is_small(self) -> bool:
        """Whether the table is so small, in float64 on the CPU, that `for_many_products` lays it out anew."""
        return self._on_cpu and self.dtype == torch.float64 and self.tensor.numel() <= _ONE_BLOCK

    @property
    def _on_cpu(self) -> bool:
        return self.tensor.device.type == "cpu"

    @property
    def _block_rows(self) -> int:
        """Number of rows to work on at a time."""
        d = max(self.tensor.shape[1], 1)
        if not self._on_cpu:
            return max(64, _DEVICE_BLOCK // d)
        rows = max(64, _BLOCK // d)
        return rows if rows < _TERMS else rows - rows % _TERMS


class SmallDense(Dense):
    """A small table in float64 on the CPU, each column in a row, with ones as a last one: products take less time."""

    __slots__ = ("_columns",)

    def __init__(self, tensor: Tensor):
        n, d = tensor.shape
        self._columns = torch.empty(d + 1, n, dtype=tensor.dtype)
        self._columns[:-1] = tensor.detach().T
        self._columns[-1] = 1
        super().__init__(self._columns[:-1].T)

    @override
    def astype(self, dtype: torch.dtype) -> Dense:
        return self if dtype == torch.float64 else super().astype(dtype)

    @override
    def for_many_products(self) -> Design:
        return self

    @override
    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        if w.dtype != torch.float64:
            return super().matvec(w, shift)
        z = self.tensor @ w if w.ndim == 1 else (w.T @ self._columns[:-1]).T
        return z if shift is None else z.add_(shift)

    @override
    def rmatvec(self, r: Tensor) -> Tensor:
        return self._columns[:-1] @ r.double()

    @override
    def sandwich(self, v: Tensor, columns: Tensor | None = None, *, intercept: bool = False) -> Tensor:
        if columns is not None or v.dtype != torch.float64:
            return super().sandwich(v, columns, intercept=intercept)
        x = self._columns if intercept else self._columns[:-1]
        return (x * v) @ x.T

    @override
    def value_and_gradient(
        self, outcomes: Outcomes, w: Tensor, bias: Tensor | None = None, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, v, offset, _ = outcomes
        z = self.matvec(w, bias)
        if offset is not None:
            z.add_(offset)
        if outcomes.may_be_shares:
            losses, s = losses_of_shares(z, y, v)
        else:
            losses, s = torch.empty_like(z), torch.rsub(y.double(), 1, alpha=2)
            fill_losses(losses, z, s, v)
            make_residuals(s, z, v)
        gradient = self._columns @ s
        return losses.sum(), gradient[:-1], gradient[-1]


def blocks_of(x: Tensor) -> Iterator[slice]:
    """Slices that cut the rows of x (n, d) into blocks that stay in the cache."""
    step = Dense(x)._block_rows
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


def _transposed_product(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, float64, whose sums have at most 4096 terms in float32."""
    if left.dtype == torch.float64:
        return left.T @ right
    rest = len(left) % _SANDWICH_TERMS
    whole = len(left) - rest
    product = (left[whole:].T @ right[whole:]).double()
    if whole:
        left, right = (part[:whole].unflatten(0, (-1, _SANDWICH_TERMS)) for part in (left, right))
        product += torch.bmm(left.mT, right).sum(0, dtype=torch.float64)
    return product


def _weighted_sum(block: Tensor, weight: Tensor) -> Tensor:
    """``weight @ block``, whose sums have at most 4096 terms in float32."""
    return weight @ block if block.dtype == torch.float64 else _transposed_product(weight[:, None], block)[0]


def _row_groups(rows: int) -> int:
    """Number of partial sums that `_weighted_row_sums` leaves of a block of ``rows`` rows, of which 0 is one."""
    return max(1, -(-rows // _TERMS))


def _weighted_row_sums(block: Tensor, weight: Tensor, out: Tensor) -> None:
    """Fill ``out`` (groups, 1, d), which holds zeros, with sums of weighted rows that add up to ``block.T @ weight``.

    On the CPU no sum has more than 512 terms, so that the sum over the groups can be one in float64.
    """
    rows, d = block.shape
    if block.device.type != "cpu" or rows < _TERMS or not d or not block.is_contiguous():
        torch.mv(block.T, weight, out=out[-1, 0])
        return
    rest = rows % _TERMS
    if rest:
        torch.mv(block[-rest:].T, weight[-rest:], out=out[-1, 0])
        block, weight = block[:-rest], weight[:-rest]
    torch.bmm(weight.view(-1, 1, _TERMS), block.view(-1, _TERMS, d), out=out[: rows // _TERMS])
