"""Reading and writing checkpoints in Lightning's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from lr_lightning.checkpoint.archive import is_url
from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.files import write_whole


class SafeCheckpointIO(TorchCheckpointIO):
    """A Trainer's plugin: checkpoints are read without executing anything in them, and written whole or not at all.

    Lightning reads by itself what `Trainer.fit(ckpt_path=…)` goes on from; with this it reads what has been checked.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lr_lightning.checkpoint_io import SafeCheckpointIO
        >>> trainer = Trainer(plugins=[SafeCheckpointIO()], accelerator="cpu", logger=False)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write under a temporary name, sync, and rename; a URL is Lightning's to write to.

        Raises:
            InputError: if the disk is full; what `path` held before is still there.
        """
        save = super().save_checkpoint
        if is_url(os.fsdecode(path)):
            save(checkpoint, path, storage_options)
        else:
            write_whole(Path(path), lambda temporary: save(checkpoint, temporary, storage_options))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint by `read_checkpoint`, onto the CPU; `map_location` and `weights_only` have no effect.

        Raises:
            InputError: if the file is no checkpoint of this package's model, or contradicts itself.
        """
        return read_checkpoint(path)
