"""Rows that several processes hold, brought together in each of them: for samples, and for few rows."""

from __future__ import annotations

import torch
from torch import Tensor

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense
from lr_lightning.model.processes import Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.storage import Design


def rows_of_all(rows: Rows, processes: Processes) -> Rows:
    """The rows of all processes, one process after the other, on the device of this one's."""
    if processes.count == 1:
        return rows
    x = processes.joined(rows.x) if isinstance(rows.x, Tensor) else design_of_all(rows.x, processes)
    y, weight, offset = (None if column is None else processes.joined(column) for column in rows[1:])
    return Rows(x, y, weight, offset)  # type: ignore[arg-type]


def design_of_all(x: Design, processes: Processes) -> Design:
    """The features of all processes in one storage, of the kind that each has."""
    if isinstance(x, Dense):
        return Dense(processes.joined(x.tensor))
    if isinstance(x, Columns):
        return Columns([design_of_all(part, processes) for part in x.parts], x.features)
    if isinstance(x, Categories):
        codes = processes.joined(x.codes.contiguous())
        return Categories(codes.T.contiguous().T, x.levels, x.slots)  # a column's codes side by side
    if isinstance(x, Csr):
        counts, column, value = (processes.joined(part) for part in (x.ends.diff(), x.column, x.value))
        return Csr(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), column, value, x.shape[1])
    raise TypeError(f"{type(x).__name__} holds rows that are computed, not stored")
