"""Mistakes in a table that one of several processes meets, and of which all have to know."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

from lr_lightning.errors import InputError
from lr_lightning.model.processes import Processes


class NotMergedError(Exception):
    """The findings of several processes in their parts of a table cannot be merged into findings about the whole.

    Its text is the mistake that this process has met, if it has met one.
    """


@contextmanager
def mistakes_in_all(processes: Processes) -> Iterator[None]:
    """Within, where the processes tell each other nothing, a mistake that one meets ends the work of all.

    Raises:
        InputError: of a single process.
        NotMergedError: in all of several processes.
    """
    with _kept(processes) as met:
        yield
    if processes.any(bool(met)):
        raise NotMergedError(*met)


@contextmanager
def refused_together(processes: Processes, *, of_first: bool = False) -> Iterator[None]:
    """Within, where the processes tell each other nothing, a mistake that one meets is a refusal in all of them.

    Raises:
        InputError: which names the process, unless all have met a mistake, or, if `of_first`, the first one works for
            all.
    """
    with _kept(processes) as met:
        yield
    found = processes.objects((met[0], platform.node()) if met else None)
    rank = next((rank for rank, mistake in enumerate(found) if mistake is not None), None)
    if rank is None:
        return
    text, host = found[rank]
    named = not of_first and any(mistake is None for mistake in found)
    raise InputError(f"process {rank + 1} of {processes.count}, on {host}: {text}" if named else text)


@contextmanager
def _kept(processes: Processes) -> Iterator[list[str]]:
    """The mistake that is met within, in a list, so that it can be told; that of a single process is raised."""
    met: list[str] = []
    try:
        yield met
    except InputError as error:
        if processes.count == 1:
            raise
        met.append(str(error))
