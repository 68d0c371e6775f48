"""The Trainer's options on the command line, and the Trainer that they make."""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch import distributed

from lr_lightning.cli.jsonargparse_internals import objection_of_class
from lr_lightning.cli.parse import add_custom_classes_option
from lr_lightning.cli.yaml import as_written
from lr_lightning.errors import InputError, ProcessLostError
from lr_lightning.model.processes import SeveralProcesses
from lr_lightning.training.checkpoint_io import SafeCheckpointIO
from lr_lightning.training.data_modules import HoursDataModule, TableDataModule
from lr_lightning.training.refusals import refuse_imprecise

# Lightning's defaults are for epochs that take minutes; ours take milliseconds.
DEFAULTS = {
    "trainer.max_epochs": 100,
    "trainer.log_every_n_steps": 1,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
    "trainer.enable_progress_bar": False,
    "trainer.enable_autolog_hparams": False,
}

NOT_OURS = (
    # Lightning 2.6 calls torch's pytree in a way that torch 2.13 deprecates (lightning/pytorch/utilities/_pytree.py).
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # A picture shows a box for what its font lacks; TensorBoard and the report have the name itself.
    r"Glyph \d+ .*missing from font",
)


# Importing a class makes its short name known to the parser: `--data HoursDataModule`.
DATA_CLASSES = (HoursDataModule, TableDataModule)


def add_data_arguments(parser: ArgumentParser, default: dict[str, Any] | None, help: str) -> None:  # noqa: A002
    """Add `--data CLASS` and `--data.*`, with a class and arguments as default, or none."""
    parser.add_subclass_arguments(LightningDataModule, "data", required=False, instantiate=False, help=help)
    if default is not None:
        parser.set_defaults({"data": as_written(default)})


def add_trainer_arguments(parser: ArgumentParser) -> None:
    """Add `--trainer.*`, and `--allow-custom-classes`, which they may need."""
    parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    parser.set_defaults(DEFAULTS)
    add_custom_classes_option(parser)


def make_trainer(
    parser: ArgumentParser, config: Namespace, *, logger: Logger | bool, callbacks: Sequence[Callback]
) -> Trainer:
    """The Trainer that `config` asks for, with our logger, our callbacks and our plugin before its own.

    Raises:
        InputError: if Lightning refuses the settings.
    """
    # Lightning's messages at every start are not about the user's run.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOT_OURS:
        warnings.filterwarnings("ignore", message)
    options = _instantiated(parser, config)
    refuse_imprecise(options["precision"])
    options["logger"] = _loggers(logger, options["logger"])
    for option, ours in (("callbacks", callbacks), ("plugins", [SafeCheckpointIO()])):
        theirs = options[option] or []
        options[option] = [*ours, *(theirs if isinstance(theirs, list) else [theirs])]
    if not any(isinstance(callback, Checkpoint) for callback in options["callbacks"]):
        options["enable_checkpointing"] = False
    for option, value in (("enable_checkpointing", False), ("barebones", True)):
        if options[option] is value and callbacks:
            raise InputError(f"option trainer.{option}: a fit is there for its checkpoint and its record; leave it out")
    if options["accelerator"] == "auto" and not torch.cuda.is_available():
        options["accelerator"] = "cpu"  # other devices lack the float64 that the sums need
    try:
        return Trainer(**options)
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        raise InputError(f"trainer: {error}") from error


def _instantiated(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """The Trainer's arguments, with instances of the loggers, callbacks and so on that are named."""
    try:
        return dict(parser.instantiate(Namespace(trainer=config.trainer)).trainer)
    except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
        raise InputError(f"trainer: {objection_of_class(str(error))}") from error


def _loggers(ours: Logger | bool, theirs: Logger | Iterable[Logger] | bool | None) -> list[Logger]:
    """Our logger, which holds the pictures, then those that the user named; none for `false`."""
    if theirs is False:
        return []
    if theirs is None or theirs is True:
        theirs = []
    return [*([ours] if isinstance(ours, Logger) else []), *([theirs] if isinstance(theirs, Logger) else theirs)]


def refuse_impossible_limits(trainer: Trainer) -> None:
    """Raise InputError for limits that Lightning takes, and that leave nothing to fit or contradict each other."""
    for limit in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, limit) == 0:
            raise InputError(f"option trainer.{limit}: 0 leaves nothing to fit; give more, or leave it out")
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
    if any(timer.time_remaining() == 0 for timer in timers):
        raise InputError("option trainer.max_time: no time leaves nothing to fit; give more, or leave it out")
    if trainer.val_check_interval == 0:
        raise InputError("option trainer.val_check_interval: must be more than 0; to measure no rows, keep none back")
    for interval in ("check_val_every_n_epoch", "accumulate_grad_batches"):
        if (value := getattr(trainer, interval)) is not None and value < 1:
            raise InputError(f"option trainer.{interval}: must be at least 1, not {value}")
    for unit in ("epochs", "steps"):
        least, most = getattr(trainer, f"min_{unit}"), getattr(trainer, f"max_{unit}")
        if least is not None and most is not None and least > most >= 0:
            raise InputError(f"option trainer.min_{unit}: {least} is more than trainer.max_{unit}, {most}")


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Within, an error of Lightning about settings that do not fit together becomes an InputError.

    Lightning has an exception for such settings and does not always use it. These count as well: an error that is
    raised in its own code, not below it; any error in one of its callbacks, which may look for what this model does
    not have; and the error of an optimizer of torch whose first step finds parameters that it is not made for.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
    except (InputError, ProcessLostError, OSError):
        raise
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        callback = next((name for name in modules if name.startswith(_CALLBACKS)), None)
        raised_by_lightning = isinstance(error, ImportError | RuntimeError | TypeError | ValueError)
        if callback is None and not (raised_by_lightning and modules[-1].startswith(("lightning.", "torch.optim."))):
            raise
        where = f"callbacks ({callback.removeprefix(_CALLBACKS)}): does not fit here, " if callback else ""
        what = f"{error}" if raised_by_lightning else f"{type(error).__name__} {error}"
        raise InputError(f"trainer: {where}{what}") from error


_CALLBACKS = "lightning.pytorch.callbacks."


# The errors of Lightning and torch for a lost process have many texts; all name the library of communication.
_OF_COMMUNICATION = re.compile(r"gloo|nccl|c10d|TCPStore|distributed", re.IGNORECASE)
_ADDRESS = re.compile(r"peer \[([^\]]+)\]")  # gloo's


class _Member(NamedTuple):
    """What one process tells the others of itself at the start, so that they can name it when it is lost."""

    host: str
    pid: int
    addresses: list[str]


@contextmanager
def plain_if_a_process_is_lost(trainer: Trainer) -> Iterator[None]:
    """Within, an error of the communication between processes becomes a ProcessLostError.

    Raises:
        ProcessLostError: where another of several processes has ended or does not answer; it names the process and its
            host, as far as they can be known.
    """
    if trainer.world_size > 1:
        # A partial can be pickled, as Lightning does to start processes from a notebook.
        trainer.strategy.setup_environment = partial(_connect, trainer.strategy)
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not _OF_COMMUNICATION.search(str(error)):
            raise
        rank, count, address = trainer.global_rank, trainer.world_size, _ADDRESS.search(str(error))
        members: list[_Member] = getattr(trainer.strategy, "members", [])
        lost = _lost(members, rank, None if address is None else address[1])
        if lost:
            other = " or ".join(f"process {number + 1}, on {members[number].host}," for number in lost)
        else:
            other = f"process {2 - rank}" if count == 2 else "another process"
        raise ProcessLostError(
            f"process {rank + 1} of {count}, on {platform.node()}, ends: {other} has ended or no longer answers"
        ) from error


def _connect(strategy: Strategy) -> None:
    """Connect the processes of a strategy, and note who they are."""
    type(strategy).setup_environment(strategy)
    if distributed.is_initialized():
        member = _Member(platform.node(), os.getpid(), _own_addresses())
        strategy.members = SeveralProcesses(strategy.root_device).objects(member)  # type: ignore[attr-defined]


def _own_addresses() -> list[str]:
    """The addresses by which others may know this process: that of its name, and that from which it calls the first."""
    found = []
    with suppress(OSError):
        found.append(socket.gethostbyname(socket.gethostname()))
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connects, but sends nothing
        probe.connect((os.environ.get("MASTER_ADDR", ""), 1))
        found.append(probe.getsockname()[0])
    return found


def _lost(members: Sequence[_Member], rank: int, address: str | None) -> list[int]:
    """The ranks of the processes that may be lost, for the process `rank`, which has lost the one at an address.

    Of its own host it knows which have ended. Of others it knows the address alone, which several may share.
    """
    others = [number for number in range(len(members)) if number != rank]
    elsewhere = [number for number in others if members[number].host != members[rank].host]
    here = [number for number in others if number not in elsewhere]
    at_address = [number for number in elsewhere if address in members[number].addresses]
    for _ in range(20):  # its connection may end a moment before the process does
        if ended := [number for number in here if not _runs(members[number].pid)]:
            return ended
        if at_address or not here:
            break
        time.sleep(0.1)
    return at_address or elsewhere


def _runs(pid: int) -> bool:
    """Whether a process of this host runs; one that has ended, and whose parent has not looked yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc").exists()
