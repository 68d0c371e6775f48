"""The processes of a fit, each of which holds a share of the rows, and what they tell one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

Value = TypeVar("Value", float, np.ndarray, Tensor)


class Share(NamedTuple):
    """Consecutive rows that a process holds.

    Attributes:
        start: number of the first among the rows of all processes, from 0.
        total: number of the rows of all processes.
    """

    start: int
    total: int


class Processes:
    """One process, which holds all rows. `SeveralProcesses` hold a share of consecutive rows each, in their order.

    All processes call the same methods in the same order; what comes back is the same in each, to the last bit.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
        on_machine: how many of them are on each machine.
    """

    rank, count = 0, 1
    on_machine = 1

    @property
    def first_on_machine(self) -> int:
        """The rank of the first process of this machine."""
        return self.rank - self.rank % self.on_machine

    def sums(self, *values: Any) -> tuple[Any, ...]:
        """Each number, array or tensor summed over the processes, float64 in between; of the kind that was given."""
        return values

    def least(self, value: Value) -> Value:
        """The least of a number over the processes, or of every entry of an array or a tensor of float64."""
        return value

    def most(self, value: Value) -> Value:
        """The largest, likewise."""
        return -self.least(-value)

    def any(self, value: bool) -> bool:
        """Whether it is true in one of the processes."""
        return self.most(float(value)) > 0

    def all(self, value: bool) -> bool:
        """Whether it is true in all of the processes."""
        return self.least(float(value)) > 0

    def joined(self, values: Tensor) -> Tensor:
        """The rows (k, …) that the processes have, one process after the other; k may differ."""
        return values

    def objects(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank: plain values, rows, or messages."""
        return [value]

    def exchanged(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Rows (k, …) that all processes have for this one; the first sizes[0] are for process 0, and so on."""
        return values

    def place(self, n: int) -> Share:
        """The position of this process's n rows among those of all processes."""
        sizes = self.joined(torch.tensor([n])).tolist()
        return Share(sum(sizes[: self.rank]), sum(sizes))

    def share(self, n: int, *, of_machine: bool = False) -> slice:
        """The part that this process takes of n things of all processes, or of those of its machine alone."""
        rank, count = (self.rank - self.first_on_machine, self.on_machine) if of_machine else (self.rank, self.count)
        return slice(n * rank // count, n * (rank + 1) // count)


ALONE = Processes()


class SeveralProcesses(Processes):
    """The processes of torch's default process group.

    Args:
        device: what is sent has to be there: any with gloo, the process's own GPU with NCCL.
        on_machine: how many of them are on each machine, one after the other.
    """

    def __init__(self, device: torch.device, on_machine: int = 1):
        self.on_machine = on_machine
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self._device = torch.device("cpu") if distributed.get_backend() == "gloo" else device

    def sums(self, *values: Any) -> tuple[Any, ...]:
        """See `Processes.sums`; one message for all of them."""
        parts = [torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1).to(self._device) for value in values]
        total = torch.cat(parts)
        distributed.all_reduce(total)
        pairs = zip(values, total.split([len(part) for part in parts]), strict=True)
        return tuple(_like(value, found) for value, found in pairs)

    def least(self, value: Value) -> Value:
        """See `Processes.least`."""
        found = torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1).to(self._device, copy=True)
        distributed.all_reduce(found, distributed.ReduceOp.MIN)
        return _like(value, found)

    def joined(self, values: Tensor) -> Tensor:
        """See `Processes.joined`."""
        sizes = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([len(values)], device=self._device))
        lengths = [int(size) for size in sizes]
        # All send as much as the longest, because collectives know one size only.
        sent = torch.zeros(max(lengths), *values.shape[1:], dtype=values.dtype, device=self._device)
        sent[: len(values)] = values.detach()
        parts = [torch.empty_like(sent) for _ in lengths]
        distributed.all_gather(parts, sent)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)]).to(values.device)

    def exchanged(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """See `Processes.exchanged`."""
        if values.dtype == torch.bool:  # which gloo does not send
            return self.exchanged(values.to(torch.uint8), sizes).bool()
        received = self.joined(torch.tensor([sizes]))[:, self.rank].tolist()
        found = torch.empty(sum(received), *values.shape[1:], dtype=values.dtype, device=self._device)
        distributed.all_to_all_single(found, values.detach().contiguous().to(self._device), received, list(sizes))
        return found.to(values.device)

    def objects(self, value: Any) -> list[Any]:
        """See `Processes.objects`."""
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found


def _like(value: Any, found: Tensor) -> Any:
    """A vector of float64 as a number, an array or a tensor, as `value` is."""
    if isinstance(value, Tensor):
        return found.reshape(value.shape).to(value.device)
    if isinstance(value, np.ndarray):
        return found.cpu().numpy().reshape(value.shape)
    number = float(found)
    return int(number) if isinstance(value, int) and math.isfinite(number) else number
