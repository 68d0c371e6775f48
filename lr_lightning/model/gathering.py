"""Rows of several processes: brought together in each of them, or handed out by the first one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense
from lr_lightning.model.processes import Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.storage import Design

MANY_ROWS = 1_000_000  # of all processes, from which on a message says that each holds all of them
log = logging.getLogger("lr_lightning")
Send = Callable[[Tensor, Tensor | None], Tensor]
"""Sends the rows of a tensor, (n, …); or, of one with several entries a row, these: their numbers are the second."""


def rows_of_all(rows: Rows, processes: Processes) -> Rows:
    """The rows of all processes, one process after the other, on the device of this one's; for samples and few rows."""
    return rows if processes.count == 1 else _sent(rows, lambda values, counts: processes.joined(values))


def table_of_all(rows: Rows, processes: Processes, what: str) -> Rows:
    """The rows of all processes, for `what`, which needs them in each; a message says so if they are many."""
    if processes.count > 1 and (total := processes.place(len(rows.y)).total) > MANY_ROWS:
        log.info("%s: each of %d processes holds all %d rows", what, processes.count, total)
    return rows_of_all(rows, processes)


def rows_of_first(rows: Rows, sizes: Sequence[int], processes: Processes) -> Rows:
    """This process's share of the rows that the first one has.

    Args:
        rows: in the other processes none, but stored alike.
        sizes: how many of them each process gets, one process after the other; in the others zeros.
        processes: that call this together.
    """

    def send(values: Tensor, counts: Tensor | None) -> Tensor:
        own = sizes if counts is None else [int(part.sum()) for part in counts.split(list(sizes))]
        return processes.exchanged(values, own)

    return _sent(rows, send)


def _sent(rows: Rows, send: Send) -> Rows:
    x = send(rows.x, None) if isinstance(rows.x, Tensor) else _design_sent(rows.x, send)
    y, weight, offset = (None if column is None else send(column, None) for column in rows[1:])
    return Rows(x, y, weight, offset)  # type: ignore[arg-type]


def _design_sent(x: Design, send: Send) -> Design:
    """The features after they are sent, in the storage that they have."""
    if isinstance(x, Dense):
        return Dense(send(x.tensor, None))
    if isinstance(x, Columns):
        return Columns([_design_sent(part, send) for part in x.parts], x.features)
    if isinstance(x, Categories):
        codes = send(x.codes.contiguous(), None)
        return Categories(codes.T.contiguous().T, x.levels, x.slots)  # a column's codes side by side
    if isinstance(x, Csr):
        counts = x.ends.diff()
        sent, column, value = send(counts, None), send(x.column, counts), send(x.value, counts)
        return Csr(torch.nn.functional.pad(sent.cumsum(0), (1, 0)), column, value, x.shape[1])
    raise TypeError(f"{type(x).__name__} holds rows that are computed, not stored")
