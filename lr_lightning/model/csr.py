"""Features of which few are not zero, in compressed sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lr_lightning.errors import InputError
from lr_lightning.model.swept import Swept, chosen, sums_with_zeros, total_weight

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array


_LOST_DIGITS = 1e-4  # of a sum of squares: four of sixteen


class Csr(Swept):
    """A sparse matrix (n, d): of every row its columns and the values there. See `Design` for the methods.

    Args:
        ends: where the entries of each row begin, and the last ends, (n + 1,), int64.
        column: of each entry, int32 or int64; of a row no column comes twice.
        value: of each entry, float32 or float64, in which it is stored; products are float64.
        n_features: d.
    """

    __slots__ = ("_blocks", "_n_features", "column", "ends", "value")

    def __init__(self, ends: Tensor, column: Tensor, value: Tensor, n_features: int):
        self.ends, self.column, self.value, self._n_features = ends, column, value.detach(), n_features
        self._blocks: dict[tuple[int, int], tuple[csr_array, csc_array]] = {}

    @classmethod
    def of(cls, x: Any) -> Csr:
        """From a sparse tensor of torch, or a sparse matrix or array of SciPy.

        CSR is kept, without a copy where its entries are in order; other layouts are converted, and entries of one
        place are summed. Every dtype of numbers but float32 becomes float64.

        Raises:
            InputError: if it has not two dimensions, does not hold real numbers, or an index is out of range.
        """
        from scipy.sparse import csr_array

        if x.ndim != 2:
            raise InputError(f"x must have two dimensions, (rows, features), not shape {tuple(x.shape)}")
        device = torch.device("cpu")
        if isinstance(x, Tensor):
            device = x.device
            x = (x if x.layout == torch.sparse_csr else x.detach().to_sparse_csr()).detach().cpu()
            if x.dtype.is_complex:
                raise InputError(f"x must hold numbers, not {x.dtype}")
            value = x.values() if x.dtype in (torch.float32, torch.float64) else x.values().double()
            parts = value.numpy(), x.col_indices().numpy(), x.crow_indices().numpy()
            _refuse_wrong_indices(parts[1], parts[2], x.shape)
            matrix = csr_array(parts, shape=tuple(x.shape))
        else:
            if x.dtype.kind not in "fiub":
                raise InputError(f"x must hold numbers, not {x.dtype}")
            if x.format == "csr":
                _refuse_wrong_indices(x.indices, x.indptr, x.shape)
            matrix: Any = csr_array(x, dtype=x.dtype if x.dtype in ("float32", "float64") else "float64")
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        ends, column, value = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        return cls(ends.long(), column, value, matrix.shape[1]).to(device)

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return len(self.ends) - 1, self._n_features

    @property
    @override
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    @override
    def stored(self) -> Tensor:
        return self.value

    @property
    @override
    def n_slots(self) -> int:
        return self._n_features

    @override
    def to_slots(self, w: Tensor) -> Tensor:
        return w

    @override
    def from_slots(self, sums: Tensor) -> Tensor:
        return sums

    @override
    def add_product(self, rows: slice, w: Tensor, out: Tensor) -> None:
        if self.device.type == "cpu":
            out += torch.from_numpy(self._block(rows)[0] @ w.numpy())
            return
        row, entries = self._entries(rows)
        value = self.value[entries].double()
        of_entries = w.index_select(0, self.column[entries])
        out.index_add_(0, row, of_entries * (value if w.ndim == 1 else value[:, None]))

    @override
    def add_transposed(self, rows: slice, r: Tensor, out: Tensor) -> None:
        if self.device.type == "cpu":
            out += torch.from_numpy(self._block(rows)[1] @ r.numpy())
            return
        row, entries = self._entries(rows)
        value = self.value[entries].double()
        of_entries = r.index_select(0, row)
        out.index_add_(0, self.column[entries], of_entries * (value if r.ndim == 1 else value[:, None]))

    @override
    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        blocks = self.blocks()
        if len(blocks) > 1 or self.device.type != "cpu":
            return super().matvec(w, shift)
        product = torch.from_numpy(self._block(blocks[0])[0] @ w.detach().double().numpy())
        return (product if shift is None else product.add_(shift.detach())).to(w.dtype)

    @override
    def rmatvec(self, r: Tensor) -> Tensor:
        blocks = self.blocks()
        if len(blocks) > 1 or self.device.type != "cpu":
            return super().rmatvec(r)
        return torch.from_numpy(self._block(blocks[0])[1] @ r.detach().double().numpy())

    def _block(self, rows: slice) -> tuple[csr_array, csc_array]:
        """Some rows, and the same transposed, as matrices of SciPy that share their memory; on the CPU."""
        key = rows.start, rows.stop
        if key not in self._blocks:
            from scipy.sparse import csc_array, csr_array

            n, d = rows.stop - rows.start, self._n_features
            ends, column = self.ends[rows.start : rows.stop + 1].numpy(), self.column.numpy()
            first, last = int(ends[0]), int(ends[-1])
            self._blocks[key] = csr_array((n, d)), csc_array((d, n))
            for matrix in self._blocks[key]:  # the constructors would copy parts of larger arrays
                matrix.data, matrix.indices = self.value.numpy()[first:last], column[first:last]
                matrix.indptr = (ends - first).astype(column.dtype)
        return self._blocks[key]

    def _entries(self, rows: slice) -> tuple[Tensor, slice]:
        """The row of each entry of some rows, from 0, and where the entries are."""
        ends = self.ends[rows.start : rows.stop + 1]
        row = torch.repeat_interleave(torch.arange(len(ends) - 1, device=self.device), ends.diff())
        return row, slice(int(ends[0]), int(ends[-1]))

    def place(self, entry: int) -> tuple[int, int]:
        """The row and the column of an entry, both from 0."""
        row = torch.searchsorted(self.ends, torch.tensor(entry, device=self.device), right=True)
        return int(row) - 1, int(self.column[entry])

    def _with(self, value: Tensor) -> Csr:
        return Csr(self.ends, self.column, value, self._n_features)

    @override
    def squared(self) -> Csr:
        return self._with(self.value.double().square())

    @torch.no_grad()
    @override
    def square_sums(self, v: Tensor) -> Tensor:
        if self.device.type != "cpu":
            return super().square_sums(v)
        from scipy.sparse import csc_array

        blocks, v = self.blocks(), v.detach().double()

        def add(k: int, out: Tensor) -> None:  # a block's squares stay in the cache
            block = self._block(blocks[k])[1]
            squares = csc_array(block.shape)
            squares.indices, squares.indptr = block.indices, block.indptr
            with np.errstate(over="ignore"):  # an infinite sum says so
                squares.data = block.data.astype(float) ** 2
            out += torch.from_numpy(squares @ v[blocks[k]].numpy())

        return self._summed(len(blocks), (self._n_features,), add)

    @override
    def compressed(self, rows: slice) -> csr_array:
        matrix: Any = self._block(rows)[0].astype("float64", copy=False)
        return matrix

    @override
    def take(self, rows: Tensor | slice) -> Csr:
        rows = chosen(rows, self.shape[0], self.device)
        if isinstance(rows, slice):
            ends = self.ends[rows.start : rows.stop + 1]
            first, last = int(ends[0]), int(ends[-1])
            return Csr(ends - first, self.column[first:last], self.value[first:last], self._n_features)
        counts = self.ends.diff()[rows]
        ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        entries = torch.repeat_interleave(self.ends[rows] - ends[:-1], counts)
        entries += torch.arange(len(entries), device=self.device)
        return Csr(ends, self.column[entries], self.value[entries], self._n_features)

    @override
    def columns(self, index: Tensor) -> Csr:
        n = self.shape[0]
        if self.device.type == "cpu":
            part: Any = self._block(slice(0, n))[0][:, index.cpu().numpy()]
            ends, column, value = (torch.from_numpy(t) for t in (part.indptr, part.indices, part.data))
            return Csr(ends.long(), column, value, len(index))
        index = index.to(self.device)
        place = torch.full((self._n_features,), -1, dtype=self.column.dtype, device=self.device)
        place[index] = torch.arange(len(index), dtype=place.dtype, device=self.device)
        row, _ = self._entries(slice(0, n))
        place = place[self.column]
        kept = place >= 0
        ends = torch.nn.functional.pad(torch.bincount(row[kept], minlength=n).cumsum(0), (1, 0))
        return Csr(ends, place[kept], self.value[kept], len(index))

    @override
    def to(self, device: torch.device | str) -> Csr:
        if self.device == torch.device(device):
            return self
        return Csr(self.ends.to(device), self.column.to(device), self.value.to(device), self._n_features)

    @override
    def astype(self, dtype: torch.dtype) -> Csr:
        return self if dtype == self.dtype else self._with(self.value.to(dtype))

    @override
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        row, _ = self._entries(slice(0, self.shape[0]))
        filled = torch.zeros(self.shape, dtype=dtype or self.dtype, device=self.device)
        filled[row, self.column.long()] = self.value.to(filled.dtype)
        return filled

    @torch.no_grad()
    @override
    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        n, pivot = self.shape[0], pivot.to(self.device, torch.float64)
        v = torch.ones(n, device=self.device) if sample_weight is None else sample_weight
        total, sums, squares = total_weight(n, sample_weight), self.rmatvec(v), self.square_sums(v)
        second = squares - 2 * pivot * sums + pivot.square() * total
        found = torch.stack([sums - pivot * total, second])
        # A difference of sums has lost digits where a column is far from 0 and varies little.
        lost = (second < _LOST_DIGITS * squares).nonzero()[:, 0]
        if len(lost):
            x, about = self.columns(lost), pivot[lost]
            centred = x.value.double() - about.index_select(0, x.column)
            parts = centred.new_ones(len(centred)), centred, centred.square()
            counts, first, second = (x._with(part).rmatvec(v) for part in parts)
            # No row has a zero there; the rounding of a difference would make a column of ones vary.
            counts[torch.bincount(x.column, minlength=len(lost)) == n] = total
            found[:, lost] = sums_with_zeros(about, counts, first, second, total)
        return found

    @torch.no_grad()
    @override
    def bounds(self, used: Tensor | None = None) -> Tensor:
        column, value, n = self.column.long(), self.value.double(), self.shape[0]
        if used is not None:
            entries = torch.repeat_interleave(used.to(self.device), self.ends.diff())
            column, value, n = column[entries], value[entries], int(used.sum())
        low, high = (torch.full_like(value, end).new_full((self._n_features,), end) for end in (torch.inf, -torch.inf))
        low.scatter_reduce_(0, column, value, "amin")
        high.scatter_reduce_(0, column, value, "amax")
        has_zeros = torch.bincount(column, minlength=self._n_features) < n
        low, high = torch.where(has_zeros, low.clamp(max=0), low), torch.where(has_zeros, high.clamp(min=0), high)
        return torch.stack([low, high])


def _refuse_wrong_indices(column: Any, ends: Any, shape: Any) -> None:
    n, d = shape
    if len(column) and not 0 <= column.min() <= column.max() < d:
        wrong = column[(column < 0) | (column >= d)][0]
        raise InputError(f"x of shape ({n}, {d}) has an entry in column {wrong}; columns run from 0 to {d - 1}")
    if len(ends) != n + 1 or ends[0] != 0 or ends[-1] != len(column) or (ends[1:] < ends[:-1]).any():
        raise InputError(f"the row pointers of x, of {n} rows and {len(column)} entries, do not fit them")
