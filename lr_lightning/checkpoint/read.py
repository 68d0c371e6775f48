"""Reading of a checkpoint, with validation."""

from __future__ import annotations

import os
from typing import Any

from lr_lightning.checkpoint.archive import load_archive
from lr_lightning.checkpoint.former_names import public_path
from lr_lightning.checkpoint.validate import check_contents


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint: tensors on the CPU and plain values. Nothing in the file is executed.

    Raises:
        InputError: if the file is missing, is not a checkpoint of this package, or its parts contradict each other.
    """
    checkpoint = load_archive(path)
    check_contents(checkpoint, os.fsdecode(path))
    if checkpoint.get("data") is not None:
        checkpoint["data"] = {**checkpoint["data"], "class_path": public_path(checkpoint["data"]["class_path"])}
    return checkpoint
