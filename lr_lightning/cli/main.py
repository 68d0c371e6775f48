"""The command line: finds the command, and turns a person's mistake into one line and exit code 2."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from lr_lightning.errors import FAILURE, MISTAKE, InputError, ProcessLostError, printable
from lr_lightning.training.processes import is_first_on_machine, is_first_process

# Each command is a module of lr_lightning.cli with `run(arguments)` and `make_parser()`. It is imported when it is
# called, because those that train or test import Lightning, which takes seconds.
COMMANDS = {
    "fit": "fit a logistic regression to a table",
    "path": "choose the penalty by cross-validation, then fit with it",
    "validate": "measure a checkpoint on the fit's validation rows, or on a table",
    "test": "measure a checkpoint on the fit's test rows, or on a table",
    "predict": "write the probability and the predicted label of each row of a table",
    "report": "print the coefficients of a fit, their standard errors, and what to heed",
    "compare": "print fits of the same rows side by side, with likelihood-ratio tests of nested ones",
    "export": "write the model as an ONNX graph or as a JSON scoring file, for use without this package",
    "completion": "print a script that completes commands and options in bash, zsh or tcsh",
}

IN_SEVERAL_PROCESSES = {"fit", "path", "validate", "test"}  # of the others, the first process does all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lr-lightning` with `arguments` (default: those of the process) and return its exit code."""
    load = _imported if arguments is not None else _imported_for_good
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _settings_given_back():
            code = _dispatch(arguments, load)
        sys.stdout.flush()  # what cannot be written has to be said
        if load is _imported_for_good:
            _part_from_other_processes()
        return code
    except InputError as error:
        return _mistake(str(error))
    except ProcessLostError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILURE
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is wrong, and nothing more can be written.
        _discard_output()
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return _mistake(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except (MemoryError, RuntimeError) as error:
        of_torch = any(words in str(error) for words in ("can't allocate memory", "out of memory"))
        if not isinstance(error, MemoryError) and not of_torch:
            raise
        print("error: there is not enough memory; leave out columns or rows, or end other programs", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        if is_first_process():
            print("interrupted", file=sys.stderr)
        return 130


def _part_from_other_processes() -> None:
    """End the connections of a command that ran in several processes, and is all that they do.

    Torch advises it at the end of a program. Lightning does so for NCCL only; gloo's threads may abort a process whose
    interpreter ends before them.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _discard_output() -> None:
    """Let go of output that cannot be written: at its end Python would try again, and exit with a code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _imported(command: str) -> ModuleType:
    return import_module(f"lr_lightning.cli.{command}")


def _imported_for_good(command: str) -> ModuleType:
    """A command's module in a process that runs this command only.

    The garbage collector takes nearly a second to search the objects that the imports of a fit make, and finds
    nothing to free: it is told to leave them out.
    """
    gc.disable()
    try:
        return _imported(command)
    finally:
        gc.freeze()
        gc.enable()


def _dispatch(arguments: list[str], load: Callable[[str], ModuleType]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else MISTAKE
    command, *rest = arguments
    if command == "--version":
        from lr_lightning.version import __version__

        print(f"lr-lightning {__version__}")
        return 0
    if command not in COMMANDS:
        raise InputError(f"unknown command {command}; choose among {', '.join(COMMANDS)}")
    if command not in IN_SEVERAL_PROCESSES and not is_first_process():
        return 0
    _show_messages()
    from lr_lightning.cli.first_look import refuse_at_first_look

    refuse_at_first_look(command, rest)
    return load(command).run(rest) or 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: lr-lightning COMMAND [options]\n\n"
        "Binary logistic regression with PyTorch Lightning.\n\n"
        f"commands:\n{commands}\n\n"
        "lr-lightning COMMAND --help lists a command's options; lr-lightning --version says the version."
    )


@contextmanager
def _settings_given_back() -> Iterator[None]:
    """Restore the caller's warning filters, loggers and thread hook, which a command may set."""
    names = ("lr_lightning", "lightning.pytorch", "lightning.fabric")
    before = [(log, dict(vars(log))) for log in map(logging.getLogger, names)]
    handlers, hook = list(before[0][0].handlers), threading.excepthook
    try:
        with warnings.catch_warnings():
            yield
    finally:
        threading.excepthook = hook
        before[0][0].handlers[:] = handlers
        for log, settings in before:
            log.disabled, log.propagate = settings["disabled"], settings["propagate"]
            log.setLevel(settings["level"])


def _show_messages() -> None:
    """Send the package's messages to stderr, a line each; of several processes only the first speaks."""
    log = logging.getLogger("lr_lightning")
    log.disabled = not is_first_process()
    if log.disabled:
        warnings.simplefilter("ignore")
    log.setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable())
    log.handlers[:] = [handler]
    log.propagate = False


class _Printable(logging.Formatter):
    """Formats a message as one printable line: the names of columns and levels in it may hold any character."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(" ".join(super().format(record).splitlines()))


def _mistake(message: str) -> int:
    """Print the message once per machine, whose processes all meet the same mistake; return the exit code."""
    if is_first_on_machine():
        print("error: " + printable(re.sub(r"\s*\n\s*", " ", message.strip())), file=sys.stderr)
    return MISTAKE
