"""Checkpoint files: read without unpickling anything but tensors and plain types, written whole or not at all."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lr_lightning.errors import InputError


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        InputError: if the file is missing, is no checkpoint, or is not one of this package.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a checkpoint; choose a file such as checkpoints/last.ckpt")
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: is not a checkpoint, or is cut short")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: refused, because it holds more than tensors and plain values") from error
    except (RuntimeError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is not a checkpoint, or is cut short") from error
    if not isinstance(checkpoint, dict) or "linear_sigmoid.linear.weight" not in checkpoint.get("state_dict", {}):
        raise InputError(f"{path}: is not a checkpoint of a logistic regression")
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
