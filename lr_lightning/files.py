"""Atomic writing of files."""

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
    """Write a file atomically: `write` gets a temporary path beside `path`, which is then synced and renamed.

    Raises:
        InputError: if the disk is full or the file cannot be written; `path` is then as it was before.
    """
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}{TEMPORARY}")  # names have 255 bytes at most
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
    """The reason of a failed write, one of `NO_SPACE`, in words."""
    return "no space left on the disk" if error.errno == errno.ENOSPC else f"no room ({error.strerror})"


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder that no other process writes to."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync the content of a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
