"""Option parsers that say what is wrong in one line."""

from __future__ import annotations

import os
import re
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from lr_lightning.checkpoint.former_names import public_path
from lr_lightning.cli.allowlist import allow_classes, why_denied
from lr_lightning.cli.jsonargparse_internals import one_line, options
from lr_lightning.cli.yaml import Unread, Written, refuse_large_files, settled, use_checked_yaml
from lr_lightning.errors import InputError

use_checked_yaml()
set_parsing_settings(
    config_read_mode_urls_enabled=False,
    config_read_mode_fsspec_enabled=False,
    instantiate_subclass_spec_in_any=False,
)


CUSTOM_CLASSES = "--allow-custom-classes"


class Parser(ArgumentParser):
    """A parser whose text options keep their text as it is typed, also those of the classes that an option names."""

    def parse_object(self, obj: Namespace | dict[str, Any], *args: Any, **options: Any) -> Namespace:
        """Parse the arguments of a class; the type of one that came from the command line is known here first."""
        values = vars(obj) if isinstance(obj, Namespace) else obj
        values.update((key, str(value)) for key, value in values.items() if isinstance(value, Unread))
        return super().parse_object(obj, *args, **options)

    def unread(self, arguments: Sequence[str]) -> Iterator[str]:
        """The command line, with the values of arguments of classes (`--data.path 2024`) marked as `Unread`.

        jsonargparse would read them as YAML before it looks up what type the class takes.
        """
        of_class = False
        for argument in arguments:
            option, given, value = argument.partition("=")
            if of_class and not argument.startswith("--"):
                yield Unread(argument)
                of_class = False
                continue
            of_class = option.startswith("--") and "." in option and option not in options(self)
            if of_class and given and (not value.startswith("-") or value.startswith("- ")):
                yield from (option, Unread(value))
                of_class = False
            else:
                of_class &= not given
                yield argument


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse `arguments` with a parser made with `exit_on_error=False`.

    A class that an option or a configuration file names is imported only if it may be (`allow_classes`).

    Raises:
        InputError: naming the option, and the configuration file where it stands in one, in one line.
    """
    allow_classes(custom=CUSTOM_CLASSES in arguments)
    refuse_large_files(arguments)
    arguments = list(map(public_path, arguments))
    try:
        config = _read(parser, list(parser.unread(arguments)) if isinstance(parser, Parser) else arguments)
    except ArgumentError as error:
        message = _with_suggestion(one_line(str(error), why_denied), parser)
        raise InputError(f"{_culprit(parser, arguments, str(error))}{message}") from error
    for action in options(parser).values():
        if action.nargs == 0 and (flag := config.get(action.dest)) is not None:  # of a flag jsonargparse asks no type
            value = flag.value if isinstance(flag, Written) else flag
            if not isinstance(value, bool):
                raise InputError(f"option {action.dest}: expected bool, not {str(flag)!r}")
            config[action.dest] = value
    return settled(config)


def _read(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The settings; an ArgumentError, too, where a file has something else in the place of a group of options."""
    config = parser.parse_args(arguments)
    for group, default in vars(parser.get_defaults()).items():
        value = config.get(group)
        if isinstance(default, Namespace) and not isinstance(value, Namespace):
            what = "nothing" if value is None else repr(str(value))
            raise ArgumentError(
                None, f"option {group}: expected options below it, not {what}; fill it, or leave it out"
            )
    return config


def dump(parser: ArgumentParser, config: Namespace) -> str:
    """The configuration as YAML.

    Raises:
        InputError: if the value of an option has no spelling.
    """
    try:
        return parser.dump(config, skip_unset=True)
    except UnicodeError as error:
        raise InputError("an option's text has bytes that are no UTF-8: it cannot be written to config.yaml") from error
    except ValueError as error:
        raise InputError(f"{one_line(str(error), why_denied)}: it cannot be written to config.yaml") from error


def add_custom_classes_option(parser: ArgumentParser) -> None:
    """Add `--allow-custom-classes`, which only the command line may give: a file must not permit itself more."""
    parser.add_argument(
        CUSTOM_CLASSES,
        action="store_true",
        default=SUPPRESS,
        help="let options, configuration files and the checkpoint name classes of other packages than lr_lightning, "
        "torch.optim, lightning and torchmetrics: only for files that you trust as you trust a program",
    )


def _culprit(parser: ArgumentParser, arguments: Sequence[str], message: str) -> str:
    """The configuration file that gives the same error when it is read alone, as a prefix; empty if none does."""
    files = re.findall(r"(?<=\0--config[=\0])[^\0]+", "\0" + "\0".join(arguments))
    for file in files:
        try:
            _read(parser, ["--config", file])
        except ArgumentError as error:  # noqa: PERF203 (it runs once a mistake)
            if str(error) == message and file not in message:
                return f"{file}: "
    return ""


def _with_suggestion(message: str, parser: ArgumentParser) -> str:
    if unknown := re.fullmatch(r"option (\S+): there is no such option", message):
        known = [action.dest for action in options(parser).values()]
        close = get_close_matches(unknown[1], known, n=1, cutoff=0.85)
        return f"{message}; did you mean {close[0]}?" if close else message
    return message


def output_file(name: str | None) -> Path | None:
    """The path that `--output` names, checked before any work is done.

    Raises:
        InputError: if no file can be written there.
    """
    if name is None:
        return None
    path = Path(name)
    try:
        if not path.parent.is_dir():
            raise InputError(f"option output: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"option output: the folder {path.parent} cannot be written to")
        if path.exists() and not path.is_file():
            raise InputError(f"option output: {path} is {'a folder' if path.is_dir() else 'no file'}; name a file")
    except OSError as error:
        raise InputError(f"option output: {path} cannot be written ({error.strerror})") from error
    return path


def refuse_impossible_level(level: float) -> None:
    """Raise InputError unless a confidence level lies between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"option level: {level} does not lie between 0 and 1")


def instantiate(spec: Namespace) -> Any:
    """An instance of the class that `spec` names, whose own errors pass through unwrapped."""
    module, name = spec.class_path.rsplit(".", 1)
    return getattr(import_module(module), name)(**vars(spec.get("init_args", Namespace())))
