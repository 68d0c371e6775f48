"""What a process tells the others, counted in bytes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Callback
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

PAYLOADS = {
    "all_reduce": 0,
    "broadcast": 0,
    "all_gather": 1,
    "all_to_all_single": 1,
    "all_gather_object": 1,
    "broadcast_object_list": 0,
}


class Traffic(Callback):
    """The bytes that this process gives to each collective; of a fit also those of a pass.

    Attributes:
        sent: of every collective so far, in order.
        starts: how many collectives there were before each pass.
    """

    def __init__(self):
        self.sent, self.starts = [], []

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count within."""
        plain = {name: getattr(distributed, name) for name in PAYLOADS}
        for name, collective in plain.items():
            setattr(distributed, name, self._counting(collective, PAYLOADS[name]))
        try:
            yield
        finally:
            for name, collective in plain.items():
                setattr(distributed, name, collective)

    def _counting(self, collective, place):
        def counting(*args, **kwargs):
            given = args[place] if len(args) > place else next(iter(kwargs.values()))
            self.sent.append(given.nbytes if hasattr(given, "nbytes") else len(pickle.dumps(given)))
            return collective(*args, **kwargs)

        return counting

    def on_train_start(self, trainer, pl_module):
        def hook(state, bucket):
            self.sent.append(bucket.buffer().nbytes)
            return allreduce_hook(state, bucket)

        trainer.strategy.model.register_comm_hook(None, hook)

    def on_train_epoch_start(self, trainer, pl_module):
        self.starts.append(len(self.sent))

    @property
    def bytes_of_passes(self):
        """Of each pass but the last, which stops."""
        ends = self.starts[1:]
        return [sum(self.sent[start:end]) for start, end in zip(self.starts, ends, strict=False)]
