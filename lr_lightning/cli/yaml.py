"""YAML from a configuration file or the command line: texts as written, no key twice, no aliases that multiply."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type

from lr_lightning.checkpoint.former_names import public_path
from lr_lightning.cli.jsonargparse_internals import YamlLoader, set_yaml
from lr_lightning.errors import InputError

LARGEST_FILE = 4 << 20  # bytes; a configuration has a few thousand
MOST_NODES = 100_000  # once every alias is written out
DEEPEST = 50

_SUFFIXES = (".yaml", ".yml", ".json")


class Written(str):
    """A YAML scalar that keeps its text, so that the type of the option decides what it means.

    `no`, `2024` and `1e3` stay text for a text option, and are a truth value or a number for another, as on the command
    line. jsonargparse parses a str once more, which makes None of the text `null`; it leaves a `Written` alone.

    Attributes:
        value: its value in YAML, for an option without a type; quoted text is text.
    """

    value: Any

    def __new__(cls, text: str, value: Any = None):
        """`value` is the text itself by default."""
        written = super().__new__(cls, text)
        written.value = text if value is None else value
        return written


class Unread(Written):
    """The text of an option on the command line whose type (text, a list, …) is not yet known."""


class WrittenList(list):
    """A sequence whose scalars are `Written`; `value` is its value in YAML."""

    __slots__ = ("value",)


class WrittenMapping(dict):
    """A mapping from text to `Written`; `value` is its value in YAML.

    It has no `__dict__`: jsonargparse would look for the items there.
    """

    __slots__ = ("value",)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML would read as something else, by `YamlLoader` or by PyYAML's own loaders."""


for _letter, _resolvers in YamlLoader.yaml_implicit_resolvers.items():
    for _resolver in _resolvers:
        _Dumper.add_implicit_resolver(_resolver[0], _resolver[1], [_letter])
_Dumper.add_representer(WrittenList, lambda dumper, items: dumper.represent_list(items))
_Dumper.add_representer(WrittenMapping, lambda dumper, items: dumper.represent_dict(items))
_Dumper.add_representer(Written, lambda dumper, scalar: _represented(dumper, scalar))
_Dumper.add_representer(str, lambda dumper, text: _represented_text(dumper, text))


def _represented_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML writes the line break U+0085 as it is, and reads it as another; within double quotes it is escaped.
    return dumper.represent_scalar(yaml.Loader.DEFAULT_SCALAR_TAG, text, style='"' if "\x85" in text else None)


def _represented(dumper: yaml.SafeDumper, scalar: Written) -> yaml.Node:
    if isinstance(scalar.value, str):
        return _represented_text(dumper, str(scalar))
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(scalar), (True, False)), str(scalar))


def use_checked_yaml() -> None:
    """Let jsonargparse read YAML by `load_configuration`: whole files, and the values of single options."""
    set_yaml(load_configuration, lambda text: _value(load_configuration(text)), dump_configuration)
    for kind in (Written, WrittenList, WrittenMapping):  # where an option takes anything
        register_type(kind, deserializer=_value, type_check=lambda value, kind: False)


def load_configuration(text: str) -> Any:
    """The content of a YAML text as `Written`, `WrittenList` and `WrittenMapping`, with None for null.

    A single scalar gives its value in YAML, or the text itself where that value is null (`~`, `# b`).

    Raises:
        yaml.YAMLError: if it is no YAML, asks for Python objects, has a key twice, or its aliases multiply.
    """
    if len(text) > LARGEST_FILE:
        raise yaml.YAMLError("the text is too long for a configuration")
    loader = YamlLoader(str(text))  # it takes no subclass of str
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.CollectionNode):
            value = None if root is None else loader.construct_document(root)
            return text if value is None else value
        _check(root)
        return _written(root, loader)
    except (ValueError, TypeError) as error:  # a number of more digits than Python reads; a key that is nothing
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def dump_configuration(data: Any) -> str:
    """Plain values, or what `load_configuration` gives, as a YAML text that it reads as the same."""
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def as_written(data: Any) -> Any:
    """Plain values with every text marked as `Written`, so that jsonargparse leaves it as it is."""
    if isinstance(data, Mapping):
        return {key: as_written(_public(key, value)) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(as_written, data))
    return Written(data) if isinstance(data, str) else data


def settled(data: Any) -> Any:
    """A parsed configuration as plain values: a `Written` that no type has read is text."""
    if isinstance(data, Namespace):
        vars(data).update((key, settled(value)) for key, value in vars(data).items())
        return data
    if isinstance(data, dict):
        return {settled(key): settled(value) for key, value in data.items()}
    if type(data) in (list, tuple, WrittenList):
        return (tuple if isinstance(data, tuple) else list)(map(settled, data))
    return str(data) if isinstance(data, Written) else data


def _written(node: yaml.Node, loader: Any) -> Any:
    """A node and all below it."""
    if isinstance(node, yaml.SequenceNode) and node.tag == loader.DEFAULT_SEQUENCE_TAG:
        items = WrittenList(_written(item, loader) for item in node.value)
        items.value = [_value(item) for item in items]
        return items
    if isinstance(node, yaml.MappingNode) and node.tag == loader.DEFAULT_MAPPING_TAG:
        loader.flatten_mapping(node)
        mapping, mapping_value = WrittenMapping(), {}
        for key, item in node.value:
            name = loader.construct_object(key, deep=True)
            if not isinstance(key, yaml.ScalarNode) or not (key.value or isinstance(name, str)):
                raise yaml.MarkedYAMLError(problem="a key is nothing, or no text", problem_mark=key.start_mark)
            mapping[key.value] = _public(key.value, _written(item, loader))
            mapping_value[name] = _value(mapping[key.value])
        mapping.value = mapping_value
        return mapping
    value = loader.construct_object(node, deep=True)
    return Written(node.value, value) if isinstance(node, yaml.ScalarNode) and value is not None else value


def _value(data: Any) -> Any:
    """The value in YAML of something written."""
    return data.value if isinstance(data, Written | WrittenList | WrittenMapping) else data


def _public(key: str, value: Any) -> Any:
    """The value of a key; a class path of an earlier version as it is today."""
    if key != "class_path" or not isinstance(value, str) or (path := public_path(value)) == value:
        return value
    return Written(path)


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
