"""Rank and number of processes, as the environment tells them; needs neither torch nor Lightning."""

from __future__ import annotations

import os

# As torchrun (RANK, LOCAL_RANK), SLURM's srun (SLURM_…) and Lightning's own launcher (…_RANK) set them.
_RANKS = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
_RANKS_ON_MACHINE = ("LOCAL_RANK", "SLURM_LOCALID")


def is_first_process() -> bool:
    """Whether this is the first of several processes, or the only one: the one that writes and speaks."""
    return _all_zero(_RANKS)


def is_first_on_machine() -> bool:
    """Whether this is the first of the processes of its machine, or the only one."""
    return _all_zero(_RANKS_ON_MACHINE)


def _all_zero(names: tuple[str, ...]) -> bool:
    return all(os.environ.get(name, "0") == "0" for name in names)
