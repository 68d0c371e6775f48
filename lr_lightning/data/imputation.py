"""Missing values within a cross-validation: each fold is filled in by what the rows outside of it hold."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.data.features import Layout
from lr_lightning.data.schema import TableSchema
from lr_lightning.memory import fits_in_memory
from lr_lightning.model.design import Design
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization


class Filled(NamedTuple):
    """The values of training rows that were missing and have been filled in.

    Attributes:
        columns: the q stored columns that have such values: numbers by their positions, then categories.
        of_rows: boolean, (n, q).
    """

    columns: list[int]
    of_rows: Tensor


class FoldFills:
    """Replacements of missing values for each fold: the mean or the most frequent level of the rows outside of it.

    Args:
        rows: n training rows as they are served, with sample weights, filled in by what all of them hold.
        filled: which of their values.
        folds: number of each row's fold, from 0, (n,).
        schema: the map from columns to features.
        served: what has been taken off the features, (d,).
        folder: where features lie that do not fit in memory, until they are let go of.
    """

    def __init__(
        self, rows: Rows, filled: Filled, folds: Tensor, schema: TableSchema, served: Standardization, folder: Path
    ):
        self._layout, self._filled, self._folds, self._folder = Layout.of(schema), filled, folds, folder
        self._numbers, self._codes = self._layout.stored(rows.x)
        self._weight = torch.ones(len(rows.y), dtype=torch.float64) if rows.weight is None else rows.weight.double()
        mean, scale = (values[self._layout.numbers].tolist() for values in served)
        kinds = [column.kind for column in schema.columns if column.kind != "category"]
        self._of_all = torch.empty(len(filled.columns), dtype=torch.float64)
        n_folds = int(folds.max()) + 1
        self._fills = torch.empty(n_folds, len(filled.columns), dtype=torch.float64)
        for k, column in enumerate(filled.columns):
            missing = filled.of_rows[:, k]
            self._of_all[k] = float(self._stored(column)[missing][0])
            for fold in range(n_folds):
                weight = torch.where(missing | (folds == fold), 0.0, self._weight)
                if column >= len(mean):
                    self._fills[fold, k] = self._most_frequent(column, weight)
                else:
                    self._fills[fold, k] = self._mean(column, weight, mean[column], scale[column], kinds[column])

    def _stored(self, column: int) -> Tensor:
        """The numbers, or the codes, of a stored column, (n,)."""
        return _column(self._numbers, self._codes, column)

    def _most_frequent(self, column: int, weight: Tensor) -> int:
        """The number of the first of the most frequent levels; shares within 1e-9 are equal, for they are rounded."""
        levels = self._layout.levels[column - len(self._layout.numbers)]
        of_levels = torch.zeros(levels, dtype=torch.float64).index_add_(0, self._stored(column).long(), weight)
        return int((of_levels >= of_levels.max() - 1e-9 * of_levels.sum()).nonzero()[0])

    def _mean(self, column: int, weight: Tensor, mean: float, scale: float, kind: str) -> float:
        """The mean as it is served, 0 where no row has a value: no coefficient comes from such a column."""
        total = float(weight.sum())
        found = float(weight @ self._stored(column).double()) / total * scale + mean if total > 0 else 0.0
        return ((found > 0.5 if kind == "boolean" else found) - mean) / scale

    @property
    def differ(self) -> bool:
        """Whether a fold is filled in otherwise than all rows are."""
        dtype = self._numbers.dtype
        return not bool((self._fills.to(dtype) == self._of_all.to(dtype)).all())

    def features(self, fold: int) -> Tensor | Design:
        """The features of all rows, (n, d), filled in by the rows outside of a fold."""
        numbers, codes = (None if t is None else _copy(t, self._folder) for t in (self._numbers, self._codes))
        assert numbers is not None  # noqa: S101 (codes alone may be missing)
        for k, column in enumerate(self._filled.columns):
            missing = self._filled.of_rows[:, k]
            _column(numbers, codes, column).masked_fill_(missing, float(self._fills[fold, k]))
        return self._layout.features(numbers, codes)


def _copy(tensor: Tensor, folder: Path) -> Tensor:
    """A copy (n, c) in memory, or in a file without a name where it does not fit."""
    if fits_in_memory(tensor.nbytes):
        return tensor.clone()
    if not tensor.is_contiguous():  # the codes of a column lie side by side
        return _copy(tensor.T, folder).T
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=".fold-") as file:
        if hasattr(os, "posix_fallocate"):  # without it, a full disk would end the process while it writes to the map
            os.posix_fallocate(file.fileno(), 0, tensor.nbytes)
        copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def _column(numbers: Tensor, codes: Tensor | None, column: int) -> Tensor:
    """A stored column (n,): numbers (n, m) come before categories (n, c)."""
    n_numbers = numbers.shape[1]
    if codes is None or column < n_numbers:
        return numbers[:, column]
    return codes[:, column - n_numbers]
