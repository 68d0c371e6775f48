"""The private parts and the wordings of jsonargparse that the command line leans on; all else uses its public API.

Checked with jsonargparse 4.53.0. Where a later version renames a part or words a message differently, the tests of the
command line fail, and this module alone has to change.
"""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser, _common, _loaders_dumpers, _util, set_dumper, set_loader, set_parsing_settings

YamlLoader = _loaders_dumpers.get_yaml_default_loader()  # a safe loader that knows 1e-3 for a number, and no dates

# What jsonargparse tries an argument of a class on where none is named: the class that all have in common.
_BASE_CLASS = re.compile(r"Subtypes: \[<class '[\w.]*?(\w+)'>.*Problem with given class_path '[\w.]*\b\1'", re.DOTALL)


# ---- which classes may be imported ------------------------------------------------------------------------------


def set_import_policy(*, denied: Sequence[str], allowed: Sequence[str] = ()) -> None:
    """Replace what was denied and allowed before by jsonargparse's own list and these.

    The settings are of the whole process, and `set_parsing_settings` only ever adds to them. jsonargparse warns of a
    denied path, and does not refuse it, until something is denied by name.
    """
    _common.parsing_settings["import_path_verdicts"] = dict.fromkeys(_common.default_import_path_denylist, False)
    set_parsing_settings(import_path_denylist=list(denied), import_path_allowlist=list(allowed))


def denying_entry(path: str) -> str | None:
    """The entry of the list of denied paths that denies `path`; None if it may be imported."""
    return _common.denying_import_path_entry(path)


def imported(path: str) -> Any:
    """The object at an import path; None if there is none, or if it may not be imported."""
    try:
        return _util.import_object(path)
    except (ImportError, ValueError, AttributeError):
        return None


# ---- YAML -------------------------------------------------------------------------------------------------------


def set_yaml(load: Callable[[str], Any], load_option: Callable[[str], Any], dump: Callable[[Any], str]) -> None:
    """Set how jsonargparse reads a configuration file and the text of one option, and how it writes YAML.

    `set_loader` replaces the first alone.
    """
    set_loader("yaml", load, (yaml.YAMLError,))
    set_dumper("yaml", dump)
    _loaders_dumpers.yaml_load = load_option


# ---- the options of a parser ------------------------------------------------------------------------------------


def options(parser: ArgumentParser) -> dict[str, Action]:
    """The options of a parser, by every spelling that it accepts."""
    return parser._option_string_actions


# ---- messages ---------------------------------------------------------------------------------------------------


def one_line(message: str, why_denied: Callable[[str, str], str] = "{} is denied by {}".format) -> str:
    """The heart of jsonargparse's many-line account of a value that fits none of an option's types.

    Args:
        message: the text of an `ArgumentError`, or of PyYAML's.
        why_denied: what to say of an import path that an entry of the list denies.
    """
    option = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)":', message)))
    message = re.sub(r'Parser key "[^"]+":|in "<unicode string>", ', "", message).strip()
    prefix = f"option {option}: " if option else ""
    if denied := re.search(r"Importing '(.+?)' is not allowed, denied by the '(.+?)' entry", message):
        return prefix + why_denied(denied[1], denied[2])
    unknown = re.search(r"Group '(.+)' does not accept option '(.+)'|Option '(.+)' is not accepted", message)
    unknown = unknown or re.search(r"unrecognized arguments: --([^\s=]+)", message)
    if unknown:
        name = ".".join(filter(None, [option, *unknown.groups()]))
        if _BASE_CLASS.search(message):
            return f"option {name}: name the class first, as in --{option} CLASS --{name} …"
        return f"option {name}: there is no such option"
    if missing := re.search(r"following arguments are required: (.*)|Key (?:'|\")(.+)(?:'|\") is required", message):
        return f"option {'.'.join(filter(None, [option, *missing.groups()]))}: is required"
    if unknown := re.search(r"Expected a dot import path string: (.*)", message):
        return f"{prefix}{unknown[1]} is not the name of a class that fits here"
    if choices := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", message):
        return f"{prefix}expected one of {choices[1]}, not {choices[2]!r}"
    if at_last := re.search(r"Expected (?:an? )?(.*?)\. Got value: (.*)", message):  # innermost: of a class's argument
        expected, value = [at_last[1]], at_last[2]
    else:
        expected = re.findall(r"Expected (?:an? )?(.*)", message)
        given = re.search(r"Given value: (.*)", message)
        value = None if given is None else given[1]
    expected = [kind for kind in expected if "None" not in kind and "path" not in kind]
    if expected and value is not None:
        kinds = " or ".join(
            dict.fromkeys(re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", kind) for kind in expected)
        )
        return f"{prefix}expected {kinds}, not {value!r}"
    return prefix + (message if value is None else f"cannot use {value!r}")


def objection_of_class(message: str) -> str:
    """The objection of an option's class to its arguments, taken from jsonargparse's message, or the whole message.

    Of an option with several types, jsonargparse says at length why none of them fits; the objection is among that.
    """
    objection = re.search(r"Problem with given class_path '(?:\w+\.)*(\w+)':\s*([^\n]+)", message)
    return f"{objection[1]}: {objection[2]}" if objection else message
