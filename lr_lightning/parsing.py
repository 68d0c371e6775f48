"""Option parsers that say what is wrong in one line."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lr_lightning.errors import InputError


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse `arguments` with a parser made with `exit_on_error=False`.

    Raises:
        InputError: naming the option, in one line.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise InputError(one_line(str(error))) from error


def instantiate(spec: Namespace) -> Any:
    """An instance of the class that `spec` names, whose own errors pass through unwrapped."""
    module, name = spec.class_path.rsplit(".", 1)
    return getattr(import_module(module), name)(**vars(spec.get("init_args", Namespace())))


def one_line(message: str) -> str:
    """The heart of jsonargparse's many-line account of a value that fits none of an option's types."""
    option = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)":', message)))
    message = re.sub(r'Parser key "[^"]+":', "", message).strip()
    prefix = f"option {option}: " if option else ""
    if missing := re.search(r"following arguments are required: (.*)", message):
        return f"option {missing[1]}: is required"
    if unknown := re.search(r"Option '(.+)' is not accepted", message):
        return f"{prefix}has no option {unknown[1]}"
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return f"{prefix}{unknown[1]} is not the name of a class that fits here"
    if choices := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", message):
        return f"{prefix}expected one of {choices[1]}, not {choices[2]!r}"
    value = re.search(r"Given value: (.*)", message)
    expected = [kind for kind in re.findall(r"Expected an? (.*)", message) if "None" not in kind and "path" not in kind]
    if expected and value:
        kinds = " or ".join(dict.fromkeys(re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", kind) for kind in expected))
        return f"{prefix}expected {kinds}, not {value[1]!r}"
    return prefix + (message if value is None else f"cannot use {value[1]!r}")
