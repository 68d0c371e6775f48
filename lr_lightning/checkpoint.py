"""Checkpoint files: read without executing anything in them, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lr_lightning.archive import load_archive
from lr_lightning.checkpoint_contents import check_contents


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint: tensors on the CPU and plain values, of which nothing has been executed.

    Raises:
        InputError: if the file is missing, is no checkpoint, is not one of this package, or contradicts itself.
    """
    checkpoint = load_archive(path)
    check_contents(checkpoint, os.fsdecode(path))
    return checkpoint


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, sync, and rename: `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
