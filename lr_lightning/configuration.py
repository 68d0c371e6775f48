"""YAML from a configuration file or the command line: plain values, each key once, no larger than they look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers, set_loader

from lr_lightning.errors import InputError

LARGEST_FILE = 4 << 20  # bytes; a configuration has a few thousand
MOST_NODES = 100_000  # once every alias is written out
DEEPEST = 50

_SUFFIXES = (".yaml", ".yml", ".json")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_load = _loaders_dumpers.yaml_load  # a safe loader that knows 1e-3 for a number


def use_checked_yaml() -> None:
    """Let jsonargparse read YAML by `load_configuration`: whole files, and the values of single options."""
    set_loader("yaml", load_configuration, (yaml.YAMLError,))
    _loaders_dumpers.yaml_load = load_configuration


def load_configuration(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        yaml.YAMLError: if it is no YAML, asks for Python objects, has a key twice, or its aliases multiply.
    """
    if len(text) > LARGEST_FILE:
        raise yaml.YAMLError("the text is too long for a configuration")
    root = yaml.compose(text, Loader=_Loader)
    if isinstance(root, yaml.CollectionNode):
        _check(root)
    try:
        return _load(text)
    except (ValueError, TypeError) as error:  # a number of more digits than Python reads; a key that is nothing
        raise yaml.YAMLError(str(error)) from error


def refuse_large_files(arguments: Sequence[str]) -> None:
    """Raise InputError if an argument names a configuration file that is too large to be one."""
    for argument in arguments:
        path = argument.partition("=")[2] if argument.startswith("--") else argument
        if path.endswith(_SUFFIXES) and os.path.isfile(path) and os.path.getsize(path) > LARGEST_FILE:
            raise InputError(f"{path} is too large for a configuration file; the largest has {LARGEST_FILE >> 20} MiB")


def _check(root: yaml.Node) -> None:
    nodes, seen = [(root, 0)], 0
    while nodes:
        node, depth = nodes.pop()
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _refuse_double_keys(node)
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        seen += 1 + len(children)
        if seen > MOST_NODES or depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="the aliases or levels grow without end", problem_mark=node.start_mark)
        nodes.extend((child, depth + 1) for child in children)


def _refuse_double_keys(mapping: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
        seen.add(key.value)
