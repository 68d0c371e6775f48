"""The common part of storages that leave zeros out: their loops over blocks of rows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from lr_lightning.model.losses import Outcomes, fill_losses, losses_of_shares, make_residuals
from lr_lightning.model.standardized import Standardized
from lr_lightning.model.storage import Design
from lr_lightning.model.threads import share_out

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BLOCK = 2**18  # stored numbers: about what a core's cache holds between a block's two products
_DEVICE_BLOCK = 2**26  # an accelerator wants few and large kernels
_BLOCK_OF_SUMS = 2  # stored numbers for each sum of a gradient, at least: a block adds all of its sums to the others
_MIN_GROUPS, _MAX_GROUPS = 2, 8  # of blocks, each with sums of its own
_WORTH_A_GROUP = 32  # stored numbers for each sum of a group: its memory has to be brought in, and its sums be added
_FILLED_BLOCK = 2**20  # numbers
# Columns for each stored number of a row, up to which a filled product takes less time: if all are filled, paths of
# 20 000 x 3 000 with folds take 6 times as long; if none, a fit of 20 000 x 100 with 30 % stored 1.4 times.
_WORTH_FILLING = 7
_TILE = 128  # columns
_LARGEST_INT32 = 2**31 - 1


class Swept(Design):
    """A storage that leaves zeros out: its products are sums over the numbers that it holds.

    All products are computed in float64. A storage says how a block of rows is multiplied, by the methods that are
    abstract here; the loops over blocks and what follows from them are the same for all.

    A *slot* is what a storage multiplies by, or sums up, of its own: a feature in most of them, a level of a
    category, with the reference, in `Categories`.
    """

    __slots__ = ()

    # ---- what a storage says of itself ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def stored(self) -> Tensor:
        """The largest tensor that it holds."""

    @property
    @abstractmethod
    def n_slots(self) -> int:
        """Number of slots, s."""

    @abstractmethod
    def to_slots(self, w: Tensor) -> Tensor:
        """Coefficients (d,) or (d, m), float64, as those of the slots, (s,) or (s, m)."""

    @abstractmethod
    def from_slots(self, sums: Tensor) -> Tensor:
        """Sums of the slots, (s,) or (s, m), as those of the features, (d,) or (d, m)."""

    @abstractmethod
    def add_product(self, rows: slice, w: Tensor, out: Tensor) -> None:
        """Add the product of some rows with w, (s,) or (s, m), to out (r,) or (r, m)."""

    @abstractmethod
    def add_transposed(self, rows: slice, r: Tensor, out: Tensor) -> None:
        """Add the product of some rows, transposed, with r (r,) or (r, m) to the slots' sums, (s,) or (s, m)."""

    @abstractmethod
    @override
    def take(self, rows: Tensor | slice) -> Swept: ...

    @abstractmethod
    @override
    def columns(self, index: Tensor) -> Swept: ...

    @abstractmethod
    def squared(self) -> Swept:
        """The same features squared."""

    @abstractmethod
    def compressed(self, rows: slice) -> csr_array:
        """Some rows as a matrix (r, d) of SciPy, float64; on the CPU."""

    # ---- what follows -----------------------------------------------------------------------------------------------

    @property
    @override
    def device(self) -> torch.device:
        return self.stored.device

    @property
    @override
    def dtype(self) -> torch.dtype:
        return torch.float64

    @property
    @override
    def product_dtype(self) -> torch.dtype:
        return torch.float64

    @property
    @override
    def is_sparse(self) -> bool:
        return True

    def blocks(self, n_sums: int = 0) -> list[slice]:
        """Slices that cut the rows into blocks, one at least, each of which adds to the slots' sums, or to n_sums."""
        n = self.shape[0]
        least = _BLOCK if self.device.type == "cpu" else _DEVICE_BLOCK
        entries = max(least, _BLOCK_OF_SUMS * max(n_sums, self.n_slots))
        step = max(1, n * entries // max(1, self.stored.numel()))
        return [slice(start, min(start + step, n)) for start in range(0, n, step)] or [slice(0, 0)]

    @torch.no_grad()
    @override
    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        slots = self.to_slots(w.detach().to(self.device, torch.float64))
        out = torch.zeros(self.shape[0], *w.shape[1:], dtype=torch.float64, device=self.device)
        if shift is not None:
            out += shift.detach().to(out)
        blocks = self.blocks()

        def work(share: Iterator[int]) -> None:
            for k in share:
                self.add_product(blocks[k], slots, out[blocks[k]])

        share_out(work, len(blocks), self.stored)
        return out.to(w.dtype)

    @torch.no_grad()
    @override
    def rmatvec(self, r: Tensor) -> Tensor:
        r = r.detach().to(self.device, torch.float64)
        blocks = self.blocks()

        def add(k: int, out: Tensor) -> None:
            self.add_transposed(blocks[k], r[blocks[k]], out)

        return self.from_slots(self._summed(len(blocks), (self.n_slots, *r.shape[1:]), add))

    @torch.no_grad()
    @override
    def value_and_gradient(
        self, outcomes: Outcomes, w: Tensor, bias: Tensor | None = None, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, v, offset, _ = outcomes
        shares = outcomes.may_be_shares
        slots = self.to_slots(w.detach().reshape(-1).to(self.device, torch.float64))
        b = slots.new_zeros(()) if bias is None else bias.detach().reshape(()).to(slots)
        starts = b.expand(self.shape[0]) if offset is None else b + offset.detach().to(slots)
        blocks = self.blocks()
        sums = slots.new_zeros(2, len(blocks))

        def add(k: int, out: Tensor) -> None:
            rows = blocks[k]
            z = starts[rows].clone()
            self.add_product(rows, slots, z)
            weight = None if v is None else v[rows].to(z)
            if shares:
                loss, residual = losses_of_shares(z, y[rows], weight)
            else:
                loss, residual = torch.empty_like(z), 1 - 2 * y[rows].to(z)
                fill_losses(loss, z, residual, weight)
                if with_gradient:
                    make_residuals(residual, z, weight)
            sums[0, k] = loss.sum()
            if with_gradient:
                self.add_transposed(rows, residual, out)
                sums[1, k] = residual.sum()

        total = self._summed(len(blocks), (self.n_slots if with_gradient else 0,), add)
        gradient = self.from_slots(total) if with_gradient else slots.new_zeros(self.shape[1])
        return sums[0].sum(), gradient, sums[1].sum()

    @torch.no_grad()
    @override
    def hessian_product(self, v: Tensor, w: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        slots = self.to_slots(w.detach().to(self.device, torch.float64))
        blocks = self.blocks()
        products, totals = slots.new_empty(self.shape[0]), slots.new_zeros(len(blocks))

        def add(k: int, out: Tensor) -> None:
            rows = blocks[k]
            product = products[rows].fill_(0.0 if shift is None else shift)
            self.add_product(rows, slots, product)
            r = product * v[rows].to(product)
            self.add_transposed(rows, r, out)
            totals[k] = r.sum()

        total = self._summed(len(blocks), (self.n_slots,), add)
        return self.from_slots(total), totals.sum(), products

    def _summed(self, n_blocks: int, shape: tuple[int, ...], add: Callable[[int, Tensor], None]) -> Tensor:
        """The sum (shape) of what ``add`` adds for each block.

        Every group of blocks has a sum of its own, so that the result does not depend on the number of workers.
        """
        worth = self.stored.numel() // (_WORTH_A_GROUP * max(1, math.prod(shape)))
        groups = min(n_blocks, max(_MIN_GROUPS, min(worth, _MAX_GROUPS)))
        partial = torch.zeros(groups, *shape, dtype=torch.float64, device=self.device)

        def work(share: Iterator[int]) -> None:
            for group in share:
                for k in range(group, n_blocks, groups):
                    add(k, partial[group])

        share_out(work, groups, self.stored)
        return partial.sum(0) if groups > 1 else partial[0]

    @torch.no_grad()
    @override
    def sandwich(self, v: Tensor, columns: Tensor | None = None, *, intercept: bool = False) -> Tensor:
        x = self if columns is None else self.columns(columns)
        n, d = x.shape
        v = v.detach().to(x.device, torch.float64)
        product = torch.zeros(d + 1, d + 1, dtype=torch.float64, device=x.device)
        product[d, d] = v.sum()
        product[d, :d] = x.rmatvec(v)
        if x.device.type != "cpu" or x.stored.numel() * _WORTH_FILLING >= n * d:
            step = max(1, _FILLED_BLOCK // max(d, 1))
            for start in range(0, n, step):
                block = x.take(slice(start, start + step)).dense(torch.float64)
                for j in range(0, d, _TILE):  # on and below the diagonal
                    tile = slice(j, min(j + _TILE, d))
                    product[j:d, tile] += block[:, j:].T @ (block[:, tile] * v[start : start + step, None])
        elif d:
            blocks = x.blocks(d * d)

            def add(k: int, out: Tensor) -> None:
                _add_pairs(x.compressed(blocks[k]), v[blocks[k]], out)

            pairs = x._summed(len(blocks), (d * d,), add).view(d, d)
            product[:d, :d] = pairs + pairs.T
            product.diagonal()[:d].copy_(pairs.diagonal())
        lower = (product if intercept else product[:d, :d]).tril()
        return lower + lower.tril(-1).T

    @torch.no_grad()
    @override
    def gram(self, s: Tensor) -> Tensor:
        n, d = self.shape
        if self.device.type != "cpu":
            return self.to("cpu").gram(s.cpu())
        from scipy.sparse import diags_array

        scaled: Any = self.compressed(slice(0, n)) @ diags_array(s.detach().double().numpy(), shape=(d, d))
        return torch.from_numpy((scaled @ scaled.T).toarray())

    @torch.no_grad()
    @override
    def square_norms(self, center: Tensor | None, scale: Tensor | None) -> Tensor:
        unit = torch.ones(self.shape[1], dtype=torch.float64, device=self.device)
        factor = unit if scale is None else scale.to(unit).square().reciprocal()
        norms = self.squared().matvec(factor)
        if center is not None:
            center = center.to(unit)
            norms += self.matvec(-2 * center * factor, (center.square() * factor).sum())
        return norms.clamp_(min=0).cpu()

    @override
    def square_sums(self, v: Tensor) -> Tensor:
        return self.squared().rmatvec(v)

    @override
    def standardized(self, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Design:
        x = self if rows is None else self.take(rows)
        return x if center is None and scale is None else Standardized(x, center, scale)

    @override
    def for_many_products(self) -> Self:
        return self


def _add_pairs(x: csr_array, v: Tensor, out: Tensor) -> None:
    """Add the weighted products of every two entries of a row, and of each with itself, where their columns meet.

    Args:
        x: (r, d).
        v: weights of the rows, (r,).
        out: sums (d · d,) of a matrix; of both places of a pair one gets its product.
    """
    starts, column, value = (torch.from_numpy(part) for part in (x.indptr, x.indices, x.data))
    d = int(x.shape[1])  # pyright: ignore[reportOptionalSubscript]
    places = torch.int32 if d * d <= _LARGEST_INT32 else torch.int64
    column, value = torch.cat([column.to(places), torch.zeros(1, dtype=places)]), torch.cat([value, value.new_zeros(1)])
    counts = starts.diff().long()
    # Rows of about as many entries are worked on together: of up to 15 entries the same, else up to an eighth more.
    step = 2 ** (counts.clamp_min(1).double().log2().floor() - 3).clamp_min(0).long()
    padded = -(-counts // step) * step
    order = padded.argsort()
    sizes, numbers = padded[order].unique_consecutive(return_counts=True)
    for size, alike in zip(sizes.tolist(), order.split(numbers.tolist()), strict=True):
        for rows in alike.split(max(1, _BLOCK // max(size, 1))) if size else ():
            place = torch.arange(size)[:, None]
            at = (starts[rows].long() + place).masked_fill_(place >= counts[rows], len(value) - 1).view(-1)
            columns, values = (t.index_select(0, at).view(size, -1) for t in (column, value))
            weighted, first = values * v[rows], columns * d
            for a in range(size):
                pair = first[a] + columns[a:]
                out.index_add_(0, pair.view(-1), (weighted[a] * values[a:]).view(-1))


def chosen(rows: Tensor | slice, n: int, device: torch.device) -> Tensor | slice:
    """A slice of the step 1 with both ends within n rows, or the numbers of the rows."""
    if not isinstance(rows, slice):
        rows = rows.to(device)
        return rows.nonzero()[:, 0] if rows.dtype == torch.bool else torch.where(rows < 0, rows + n, rows)
    start, stop, step = rows.indices(n)
    return slice(start, max(start, stop)) if step == 1 else torch.arange(start, stop, step, device=device)


def sums_with_zeros(about: Tensor, counts: Tensor, first: Tensor, second: Tensor, total: float) -> Tensor:
    """`Design.sums_about` from the sums over the stored numbers, the others being 0.

    Args:
        about: the pivot, (d,).
        counts: Σ v of the stored numbers, (d,).
        first: Σ v (x − pivot) of them, (d,).
        second: Σ v (x − pivot)² of them, (d,).
        total: Σ v of all rows.
    """
    rest = total - counts
    return torch.stack([first - about * rest, second + about.square() * rest])


def total_weight(n: int, v: Tensor | None) -> float:
    """Σ v of n rows."""
    return float(n) if v is None else float(v.sum(dtype=torch.float64))
