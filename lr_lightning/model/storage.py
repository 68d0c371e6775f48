"""The operations of every storage of features; the rest of the program multiplies by features through them alone."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lr_lightning.model.losses import Outcomes


class Design(Protocol):
    """The features of n rows, whatever their storage.

    Products are computed in the dtype of the vector that is given, and summed in float64.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features, (n, d)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In which the features are stored: how far they are rounded."""
        ...

    @property
    def device(self) -> torch.device:
        """The device on which the features are stored and products are computed."""
        ...

    @property
    def product_dtype(self) -> torch.dtype:
        """In which products with the features are to be computed for speed: float32 or float64."""
        ...

    @property
    def is_sparse(self) -> bool:
        """Whether zeros are left out, so that `dense` would fill them in."""
        ...

    def matvec(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        """``x @ w + shift``: (n,), or (n, m) for m vectors at once, in the dtype of w.

        Args:
            w: (d,) or (d, m), of a floating dtype.
            shift: (), (n,) or (m,); what is added.
        """
        ...

    def rmatvec(self, r: Tensor) -> Tensor:
        """``x.T @ r``: (d,), or (d, m) for m vectors at once, float64.

        Args:
            r: (n,) or (n, m), of a floating dtype.
        """
        ...

    def hessian_product(self, v: Tensor, w: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """``x.T @ r``, (d,), the sum of r, and z, (n,), for ``r = v * z`` and ``z = x @ w + shift``; in one pass.

        Args:
            v: (n,), of a floating dtype.
            w: (d,), of a floating dtype.
            shift: (), what is added.
        """
        ...

    def sandwich(self, v: Tensor, columns: Tensor | None = None, *, intercept: bool = False) -> Tensor:
        """``x.T @ diag(v) @ x`` of all or some columns, float64: (c, c), or (c + 1, c + 1) with an intercept.

        Args:
            v: (n,), of a floating dtype.
            columns: numbers of the columns, (c,); None for all.
            intercept: whether a column of ones follows the last column.
        """
        ...

    def value_and_gradient(
        self, outcomes: Outcomes, w: Tensor, bias: Tensor | None = None, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the logistic losses, its gradient (d,) and the sum of the residuals, float64, in one pass.

        See `objective.logistic_loss`; the sum of the residuals is the gradient by the intercept. The result does not
        depend on the number of workers. Without gradient the two latter are zero.

        Args:
            outcomes: targets, weights and offsets of the rows.
            w: (d,).
            bias: (), or None for 0.
            with_gradient: whether a gradient is wanted.
        """
        ...

    def sums_about(self, pivot: Tensor, sample_weight: Tensor | None) -> Tensor:
        """Σ v (x − pivot) and Σ v (x − pivot)² of every column, (2, d), float64, in the dtype of the pivot (d,)."""
        ...

    def means(self) -> Tensor:
        """The mean of every column, (d,), float64."""
        n = self.shape[0]
        return self.rmatvec(torch.ones(n, dtype=torch.float64, device=self.device)) / n

    def gram(self, s: Tensor) -> Tensor:
        """``x @ diag(s²) @ x.T``, (n, n), float64: of rows few enough for it.

        Args:
            s: (d,); products of up to 4096 columns are computed in its dtype.
        """
        ...

    def square_norms(self, center: Tensor | None, scale: Tensor | None) -> Tensor:
        """‖(x − center) / scale‖² of every row, (n,), float64 on the CPU; see `standardized`."""
        ...

    def standardized(self, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Design:
        """``(x − center) / scale`` of all rows or some, in float64, rounded once: to float64 or float32 as x is.

        Args:
            center: (d,), or None for 0.
            scale: (d,), or None for 1.
            rows: numbers of the rows, (m,); None for all.
        """
        ...

    def bounds(self, used: Tensor | None = None) -> Tensor:
        """The least and the largest value of every column, (2, d), float64.

        Args:
            used: which rows count, (n,), bool; None for all. Without any the bounds are infinite, and the wrong way.
        """
        ...

    def square_sums(self, v: Tensor) -> Tensor:
        """Σ v x² of every column, the diagonal of `sandwich`: (d,), float64.

        Args:
            v: (n,), of a floating dtype, in which the products are computed.
        """
        ...

    def take(self, rows: Tensor | slice) -> Design:
        """The rows at an index (m,) or slice, in its order."""
        ...

    def columns(self, index: Tensor) -> Design:
        """The columns at an index (c,), in its order."""
        ...

    def to(self, device: torch.device | str) -> Design:
        """The same features on a device."""
        ...

    def astype(self, dtype: torch.dtype) -> Design:
        """The same features in a dtype."""
        ...

    def for_many_products(self) -> Design:
        """The same features, laid out for repeated products with all rows; themselves where that would not pay."""
        ...

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The features as a tensor (n, d), in a dtype; filled in where the storage leaves zeros out."""
        ...
