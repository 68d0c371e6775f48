"""A first look at a command line: mistakes that show without torch and Lightning, whose imports take seconds.

The parsers know all options, types and defaults. Only what is certain is refused here; the rest is theirs. The names of
the options are taken from the source of the parsers and constructors, which is read and not executed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import lr_lightning
from lr_lightning.cli.jsonargparse_internals import one_line
from lr_lightning.cli.parse import CUSTOM_CLASSES
from lr_lightning.cli.yaml import LARGEST_FILE, Written, load_configuration
from lr_lightning.errors import InputError

PACKAGE = Path(lr_lightning.__file__).parent
# Where the parser of a command is made, and the groups of options that it takes from classes.
PARSERS = {
    "fit": ("fit_settings", ("model", "optimizer", "data", "trainer")),
    "path": ("path", ("model", "data", "trainer")),
    "validate": ("evaluate", ("data", "trainer")),
    "test": ("evaluate", ("data", "trainer")),
    "predict": ("predict", ()),
    "report": ("report", ()),
    "compare": ("compare", ()),
    "export": ("export", ()),
}
FITS = ("fit", "path")
ADDED_ELSEWHERE = {"help", "print_config", "allow-custom-classes", "allow_custom_classes"}
SET_ELSEWHERE = frozenset({"in_features", "optimizer", "optimizer_options"})  # of the model: by the data, --optimizer
CHOSEN = {"path": frozenset({"l1", "l2", "firth", "bounds"})}  # of the model: by the command
NOT_OF_PATH = {
    "model.l1": "path chooses the penalty itself; leave it out, or use fit",
    "model.l2": "path chooses the penalty itself; leave it out, or use fit",
    "model.firth": "path chooses the strength of another penalty; leave it out, or use fit",
    "model.bounds": "path knows no bounds; leave it out, or use fit",
    "optimizer": "path fits by the exact solver; leave it out, or use fit",
    "ckpt_path": "path chooses the penalty from the beginning; leave it out, or use fit",
}
SPECIFICATION = {"", "class_path", "init_args", "dict_kwargs", "help"}  # of a class that an option names
TABLE = "TableDataModule"


class _Setting(NamedTuple):
    """An option and its value.

    Attributes:
        name: with dots, without `init_args`.
        value: text, what `load_configuration` makes of it, or None.
        where: the configuration file that it stands in, as a prefix; empty on the command line.
    """

    name: str
    value: Any
    where: str = ""

    @property
    def argument(self) -> tuple[str, str]:
        """The group, and the argument of its class; empty where the option is the group itself."""
        group, _, argument = self.name.partition(".")
        return group, argument.partition(".")[0]


class _NotCertainError(Exception):
    """The parsers have to say."""


def refuse_at_first_look(command: str, arguments: Sequence[str]) -> None:
    """Refuse unknown options, and files and columns that are not there.

    Raises:
        InputError: as the parsers and the data module do, but sooner.
    """
    if command not in PARSERS or {"-h", "--help"} & set(arguments):
        return
    with suppress(_NotCertainError, OSError, SyntaxError):  # a package without its source, a file that has just gone
        settings = list(_settings(command, arguments))
        given = {setting.name: setting.value for setting in settings}
        goes_on = given.get("resume", "false") != "false" or given.get("ckpt_path") is not None
        data_class, of_data = _data(settings, custom=CUSTOM_CLASSES in arguments)
        if data_class is None and command in FITS and not goes_on:
            data_class = TABLE
        _refuse_unknown_options(command, settings, data_class, of_data)
        _refuse_missing_checkpoint(given.get("ckpt_path"))
        if command not in FITS or data_class == TABLE:
            path = of_data.get("path")
            if path is None and command in FITS and not goes_on and "print_config" not in given:
                raise InputError("option data.path: is required; it names the table, as in --data.path table.csv")
            if isinstance(path, str) and not (path == "null" and command == "predict"):
                _refuse_wrong_table(path, of_data if command in FITS and not goes_on else None)


def _settings(command: str, arguments: Sequence[str]) -> Iterator[_Setting]:
    """The settings of the command line and of its configuration files, in their order."""
    for argument, following in pairwise([*arguments, "--"]):
        if not argument.startswith("--"):
            continue
        name, given, value = argument[2:].partition("=")
        value = value if given else None if following.startswith("--") else following
        if name == "config" and name in options_of(command):
            yield from _settings_of_file(value, PARSERS[command][1])
        else:
            yield _Setting(name.removesuffix("+").replace(".init_args", ""), value)


def _settings_of_file(name: str | None, groups: Sequence[str]) -> Iterator[_Setting]:
    if name is None or name.lstrip().startswith("{"):
        raise _NotCertainError
    if not os.path.exists(name):
        raise InputError(f"option config: {name}: there is no such file")
    if not os.path.isfile(name) or os.path.getsize(name) > LARGEST_FILE:
        raise _NotCertainError
    try:
        settings = load_configuration(Path(name).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{name}: {one_line(str(error))}") from error
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if key in groups and isinstance(value, Mapping):
            init_args = value.get("init_args")
            for part, each in {**value, **(init_args if isinstance(init_args, Mapping) else {})}.items():
                yield _Setting(f"{key}.{part}", each, f"{name}: ")
        else:
            yield _Setting(key, value, f"{name}: ")


def _data(settings: Sequence[_Setting], *, custom: bool) -> tuple[str | None, dict[str, Any]]:
    """The data module that is named, and its arguments: those given before another one was named are void."""
    data_class, arguments = None, {}
    for setting in settings:
        group, argument = setting.argument
        if group == "data" and argument in ("", "class_path"):
            name = setting.value.removeprefix("lr_lightning.") if isinstance(setting.value, str) else ""
            if name not in lr_lightning._MODULE_OF:
                if name.isidentifier() and not custom:
                    raise InputError(f"option data: {name} is not the name of a class that fits here")
                raise _NotCertainError
            if name != data_class:
                data_class, arguments = name, {}
        elif group == "data" and argument not in SPECIFICATION:
            arguments[argument] = setting.value
    return data_class, arguments


def _refuse_unknown_options(
    command: str, settings: Sequence[_Setting], data_class: str | None, of_data: Mapping[str, Any]
) -> None:
    own, groups = options_of(command), PARSERS[command][1]
    for setting in settings:
        group, argument = setting.argument
        for refused, reason in NOT_OF_PATH.items() if command == "path" else ():
            if f"{setting.name}.".startswith(f"{refused}.") and setting.value is not None:
                raise InputError(f"{setting.where}option {refused}: {reason}")
        if group in groups and setting.name not in own:
            name, arguments = f"{group}.{argument}", _arguments(command, group, data_class)
            certain = arguments is not None and argument not in SPECIFICATION
            certain &= group != "data" or argument in of_data
            known = {f"{group}.{each}" for each in arguments or ()}
        else:
            name, known = setting.name, own
            certain = not any(option.startswith(name) for option in own)  # argparse takes a beginning for the whole
        if certain and name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.85)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{setting.where}option {name}: there is no such option{hint}")


def _arguments(command: str, group: str, data_class: str | None) -> frozenset[str] | None:
    """The arguments that a group of options takes; None where that is not certain."""
    if group == "model":
        return parameters_of("LogisticRegression") - SET_ELSEWHERE - CHOSEN.get(command, frozenset())
    if group == "trainer":
        return trainer_parameters()
    return None if group != "data" or data_class is None else parameters_of(data_class)


def _refuse_missing_checkpoint(path: Any) -> None:
    if isinstance(path, str) and path != "null" and "://" not in path and not os.path.exists(path):
        raise InputError(f"{path}: no such checkpoint")


def _refuse_wrong_table(path: str, of_fit: Mapping[str, Any] | None) -> None:
    """Refuse a table that cannot be opened and, for the arguments of a new fit, columns that it has not."""
    from lr_lightning.data.choices import Choices
    from lr_lightning.data.readers.open import open_first, open_svmlight
    from lr_lightning.data.roles import ROLES

    sparse = open_svmlight(path)
    source = open_first(path) if sparse is None else None
    if of_fit is None:
        return
    given = {key: value for key, value in of_fit.items() if value is not None and value != "null"}
    lists = {key: _texts(given[key]) for key in ("features", "categorical") if key in given}
    if None not in lists.values():
        choices = Choices(
            str(given["target"]) if "target" in given else None,
            lists.get("features"),
            {role: str(given[role]) for role in ROLES if role in given},
            categorical=lists.get("categorical") or (),
        )
        if source is not None:
            choices.feature_columns(source)
        elif sparse is not None:
            choices.refuse_columns(sparse)


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a command that are no arguments of a class."""
    source = ast.parse((PACKAGE / "cli" / f"{PARSERS[command][0]}.py").read_text(encoding="utf-8"))
    (maker,) = (n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == "make_parser")
    calls = (n for n in ast.walk(maker) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    names = (call.args[0] for call in calls if call.func.attr == "add_argument" and call.args)  # type: ignore[union-attr]
    options = (str(name.value) for name in names if isinstance(name, ast.Constant))
    found = {option.removeprefix("--") for option in options if option.startswith("--")}
    of_fit = options_of("fit") if command == "path" else frozenset()
    return frozenset(found | ADDED_ELSEWHERE | of_fit)


def parameters_of(name: str) -> frozenset[str]:
    """The arguments of a public class of this package."""
    return _parameters(PACKAGE / f"{lr_lightning._MODULE_OF[name].replace('.', '/')}.py", name)


def trainer_parameters() -> frozenset[str]:
    """The arguments of Lightning's Trainer."""
    package = find_spec("lightning")
    if package is None or package.origin is None:
        raise OSError("Lightning has no source")
    return _parameters(Path(package.origin).parent / "pytorch" / "trainer" / "trainer.py", "Trainer")


@cache
def _parameters(file: Path, name: str) -> frozenset[str]:
    source = ast.parse(file.read_text(encoding="utf-8"))
    (cls,) = (n for n in source.body if isinstance(n, ast.ClassDef) and n.name == name)
    makers = [n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return frozenset(a.arg for maker in makers for a in (*maker.args.args, *maker.args.kwonlyargs)) - {"self"}


def _texts(value: Any) -> tuple[str, ...] | None:
    """A list of names; None where it is none."""
    if isinstance(value, str) and not isinstance(value, Written):
        try:
            value = load_configuration(value)
        except yaml.YAMLError:
            return None
    texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return tuple(map(str, value)) if texts else None
