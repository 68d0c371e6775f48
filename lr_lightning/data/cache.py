"""The cache of tables that are too large for memory: files that are mapped into memory as tensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.files import NO_SPACE, sync

FORMAT = 7  # to be raised when the format of the files changes
_CONTENTS = "contents.json"
_DAMAGED = "-damaged"


def user_cache_folder() -> Path:
    """The default folder of the cache."""
    return user_cache_path("lr_lightning", appauthor=False, opinion=False)


def cache_folder(chosen: str | None) -> Path:
    """The folder of the cache: a chosen one, or else the default one."""
    return Path(chosen).expanduser() if chosen else user_cache_folder()


def cache_key(settings: Any) -> str:
    """The key of a set of tensors that depends on plain `settings` only."""
    text = json.dumps([FORMAT, settings], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class TensorCache:
    """A folder of sets of tensors, each under a key.

    A set is written under a temporary name and renamed after it has been synced to the disk, so that an interrupted
    write is never taken for a complete one.

    Args:
        folder: the folder; it is created if it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def open(self, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The notes of a set, and its tensors, mapped into memory; None if there is no such set, or it is damaged."""
        folder = self.folder / key
        try:
            contents = json.loads((folder / _CONTENTS).read_text())
            return contents["notes"], {
                name: _mapped(folder / name, shape, getattr(torch, dtype))
                for name, (shape, dtype) in contents["tensors"].items()
            }
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError):
            return None

    def writer(self, key: str) -> CacheWriter:
        """A writer of a new set."""
        self._clear_abandoned()
        return CacheWriter(self.folder, key)

    def _clear_abandoned(self) -> None:
        """Remove the temporary folders of processes of this machine that have ended."""
        for path in self.folder.glob(".*.writing-*"):
            host, _, process = (
                path.name.removesuffix(_DAMAGED).partition(".writing-")[2].rpartition("-")[0].rpartition("-")
            )
            if host == platform.node() and not Path(f"/proc/{process}").exists() and Path("/proc").exists():
                shutil.rmtree(path, ignore_errors=True)


class CacheWriter:
    """Writes one set of tensors in blocks of rows; a context manager, which removes what `finish` has not completed.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, key: str):
        self._folder, self._key = folder, key
        self._files: dict[str, IO[bytes]] = {}
        self._described: dict[str, tuple[list[int], str]] = {}

    def __enter__(self) -> CacheWriter:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            prefix = f".{self._key}.writing-{platform.node()}-{os.getpid()}-"
            self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder))
        except OSError as error:
            raise self._explained(error) from None
        return self

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows, shape (k, …), to the tensor `name`."""
        try:
            if name not in self._files:
                self._files[name] = (self._temporary / name).open("wb")
                self._described[name] = ([0, *rows.shape[1:]], rows.dtype.name)
            self._files[name].write(np.ascontiguousarray(rows).data)
        except OSError as error:
            raise self._explained(error) from None
        self._described[name][0][0] += len(rows)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Sync all files to the disk and rename the set to its key. `notes` is plain data."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            with (self._temporary / _CONTENTS).open("w") as file:
                json.dump({"notes": dict(notes), "tensors": self._described}, file)
                file.flush()
                os.fsync(file.fileno())
            sync(self._temporary)
            self._give_name()
            sync(self._folder)
        except OSError as error:
            raise self._explained(error) from None

    def _give_name(self) -> None:
        """Rename the set to its key, unless another process has written it, whose files may be mapped already."""
        target = self._folder / self._key
        if TensorCache(self._folder).open(self._key) is not None:
            return
        if target.exists():  # damaged
            damaged = self._temporary.with_name(self._temporary.name + _DAMAGED)
            target.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            self._temporary.rename(target)
        except OSError:
            if TensorCache(self._folder).open(self._key) is None:
                raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # flushing the buffer fails as the write before
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _explained(self, error: OSError) -> InputError:
        if error.errno in NO_SPACE:
            return InputError(
                f"--data.cache_dir: no space left in {self._folder} for the decoded table (nothing was "
                "kept); free some or name another folder"
            )
        return InputError(f"--data.cache_dir: {self._folder} cannot be written ({error.strerror})")


def _mapped(path: Path, shape: list[int], dtype: torch.dtype) -> Tensor:
    n_bytes = torch.Size(shape).numel() * dtype.itemsize
    if path.stat().st_size != n_bytes:
        raise ValueError(f"{path} has not the size that it should have")
    # A shared map: its pages belong to the page cache, which memory limits do not count and the system can drop.
    return torch.from_file(str(path), shared=True, size=torch.Size(shape).numel(), dtype=dtype).view(shape)
