"""The memory that this process can still have."""

from __future__ import annotations

import os
from pathlib import Path

_SHARE_OF_MEMORY = 0.6  # of the available memory; the rest is left for the solver


def fits_in_memory(n_bytes: int, share: float = _SHARE_OF_MEMORY) -> bool:
    """Whether so many more bytes are at most a share of what the process can allocate."""
    available = available_memory()
    return available is None or n_bytes <= share * available


def available_memory() -> int | None:
    """The bytes that this process can still allocate, by the limits of the machine, its control group and itself.

    None if the system does not tell.
    """
    limits = [_machine_memory(), _group_memory(), _process_memory()]
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def _fields_in_kilobytes(path: str) -> dict[str, int]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}


def _machine_memory() -> int | None:
    known = _fields_in_kilobytes("/proc/meminfo").get("MemAvailable")
    if known is None and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return known


def _group_memory() -> int | None:
    try:
        group = Path("/proc/self/cgroup").read_text().split("::")[-1].strip()
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        limits = []
        while True:  # the limits of all parent groups hold too
            for kind in ("max", "high"):
                file = folder / f"memory.{kind}"
                if file.exists() and (text := file.read_text().strip()) != "max":
                    limits.append(int(text) - _group_use(folder))
            if folder == Path("/sys/fs/cgroup") or len(folder.parts) <= 4:
                return min(limits, default=None)
            folder = folder.parent
    except (OSError, ValueError):
        return None


def _group_use(folder: Path) -> int:
    """The memory of the group that cannot be reclaimed: all but the page cache."""
    text = (folder / "memory.stat").read_text().split()
    stat = dict(zip(text[::2], map(int, text[1::2]), strict=True))
    return stat.get("anon", 0) + stat.get("kernel", 0)


def _process_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = _fields_in_kilobytes("/proc/self/status")
    limits = []
    for limit, use in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - used.get(use, 0))
    return min(limits, default=None)
