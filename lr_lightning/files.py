"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from lr_lightning.errors import InputError

TEMPORARY = ".tmp"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, sync, and rename: `path` is never half-written.

    Raises:
        InputError: if the disk is full, or the file system refuses; what `path` held before is still there.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}{TEMPORARY}")  # a name of 255 bytes has no room
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise InputError(f"{path}: cannot be written, there is {no_space(error)}; free some") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def no_space(error: OSError) -> str:
    """What is missing, in words."""
    return "no space left on the disk" if error.errno == errno.ENOSPC else f"no room ({error.strerror})"


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process has left of `write_whole`, in a folder that no other process writes to."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
