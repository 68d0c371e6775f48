"""A first look at a command line: mistakes that show without torch and Lightning, whose imports take seconds.

The parsers know all options, types and defaults. Here only what is certain is refused. The names of the options are
taken from the source of the parsers and constructors, which is read and not executed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import lr_lightning
from lr_lightning.cli.parse import CUSTOM_CLASSES, one_line
from lr_lightning.cli.yaml import LARGEST_FILE, Written, load_configuration
from lr_lightning.errors import InputError

PACKAGE = Path(lr_lightning.__file__).parent
# Where the parser of a command is made, and the groups of options that it takes from classes.
PARSERS = {
    "fit": ("fit_settings", ("model", "optimizer", "data", "trainer")),
    "validate": ("evaluate", ("data", "trainer")),
    "test": ("evaluate", ("data", "trainer")),
    "predict": ("predict", ()),
    "report": ("report", ()),
    "export": ("export", ()),
}
ADDED_ELSEWHERE = {"help", "print_config", "allow-custom-classes", "allow_custom_classes"}
SET_ELSEWHERE = frozenset({"in_features", "optimizer", "optimizer_options"})  # of the model: by the data, --optimizer
SPECIFICATION = {"class_path", "init_args", "dict_kwargs", "help"}  # of a class that an option names
TABLE = "TableDataModule"


def refuse_at_first_look(command: str, arguments: Sequence[str]) -> None:
    """Refuse unknown options, and files and columns that are not there.

    Raises:
        InputError: as the parsers and the data module do, but sooner.
    """
    if command not in PARSERS or {"-h", "--help"} & set(arguments):
        return
    try:
        command_line = _CommandLine(command, arguments)
        command_line.refuse_unknown_data_options()
        command_line.refuse_missing_checkpoint()
        command_line.refuse_wrong_table()
    except (OSError, SyntaxError):  # a package without its source, a file that has just gone: the parser will see
        return


class _CommandLine:
    def __init__(self, command: str, arguments: Sequence[str]):
        self.command = command
        self.known = options_of(command)
        self.groups = PARSERS[command][1]
        self.options: dict[str, Any] = {}
        self.data: dict[str, tuple[Any, str]] = {}  # the arguments of the data module, and where they stand
        self.data_class: str | None = None
        self.custom = CUSTOM_CLASSES in arguments
        self.certain = True  # whether the options of the data are all in sight
        for name, value in _pairs(arguments):
            if name == "config" and name in self.known:
                self._add_file(value)
            else:
                self._add(name, value, "")

    def _add_file(self, name: str | None) -> None:
        if name is None or name.lstrip().startswith("{"):
            self.certain = False
            return
        if not os.path.exists(name):
            raise InputError(f"option config: {name}: there is no such file")
        if not os.path.isfile(name) or os.path.getsize(name) > LARGEST_FILE:
            self.certain = False
            return
        try:
            settings = load_configuration(Path(name).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{name}: {one_line(str(error))}") from error
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            inner = key in self.groups and key != "optimizer" and isinstance(value, Mapping)
            for part, each in value.items() if inner else ():
                nested = part == "init_args" and key == "data" and isinstance(each, Mapping)
                for argument, one in each.items() if nested else ():
                    self._add(f"data.{argument}", one, f"{name}: ")
                if not nested:
                    self._add(f"{key}.{part}", each, f"{name}: ")
            if not inner:
                self._add(key, value, f"{name}: ")

    def _add(self, name: str, value: Any, where: str) -> None:
        group, _, option = name.removesuffix("+").partition(".")
        option = option.removeprefix("init_args.").partition(".")[0]
        if name in self.known or group not in self.groups:
            if not any(each.startswith(name) for each in self.known):  # argparse takes a beginning for the whole
                _refuse_unknown(name, self.known, where)
            self.options[name] = value
        elif group == "data":
            if option in ("", "class_path"):
                self._name_class(value)
            elif option not in SPECIFICATION:
                self.data[option] = value, where
        elif group == "model" and option:
            _refuse_unknown(
                f"model.{option}", _under("model", parameters_of("LogisticRegression") - SET_ELSEWHERE), where
            )
        elif group == "trainer" and option:
            _refuse_unknown(f"trainer.{option}", _under("trainer", trainer_parameters()), where)

    def _name_class(self, value: Any) -> None:
        name = value.removeprefix("lr_lightning.") if isinstance(value, str) else None
        if name is not None and name.isidentifier() and name not in lr_lightning._MODULE_OF and not self.custom:
            raise InputError(f"option data: {name} is not the name of a class that fits here")
        if name != self.data_class:
            self.data.clear()
        self.data_class = name
        self.certain &= name in lr_lightning._MODULE_OF

    @property
    def _goes_on(self) -> bool:
        """Whether settings come from a checkpoint."""
        return self.options.get("resume", "false") != "false" or self.options.get("ckpt_path") is not None

    def _named_class(self) -> str | None:
        """The data module; None where it is not certain."""
        if not self.certain or (self.data_class is None and (self._goes_on or self.command != "fit")):
            return None
        return self.data_class or TABLE

    def refuse_unknown_data_options(self) -> None:
        if (name := self._named_class()) is not None:
            known = _under("data", parameters_of(name))
            for option, (_, where) in self.data.items():
                _refuse_unknown(f"data.{option}", known, where)

    def refuse_missing_checkpoint(self) -> None:
        path = self.options.get("ckpt_path")
        if isinstance(path, str) and path != "null" and "://" not in path and not os.path.exists(path):
            raise InputError(f"{path}: no such checkpoint")

    def refuse_wrong_table(self) -> None:
        """Refuse a table that cannot be opened and, for a new fit, columns that it has not."""
        of_table = self.command != "fit" or self._named_class() == TABLE
        path = self.options.get("data.path", self.data.get("path", (None,))[0])
        if not of_table or not isinstance(path, str) or (path == "null" and self.command == "predict"):
            return
        from lr_lightning.data.choices import Choices
        from lr_lightning.data.readers.open import open_first

        source = open_first(str(path))
        if self.command != "fit" or self._goes_on:
            return
        given = {key: value for key, (value, _) in self.data.items() if value is not None and value != "null"}
        lists = {key: _texts(given[key]) for key in ("features", "categorical") if key in given}
        if None not in lists.values():
            target, weight = (str(given[key]) if key in given else None for key in ("target", "weight"))
            features, categorical = lists.get("features"), lists.get("categorical")
            choices = Choices(target, weight=weight, features=features, categorical=categorical or ())
            choices.feature_columns(source)


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a command that are no arguments of a class."""
    source = ast.parse((PACKAGE / "commands" / f"{PARSERS[command][0]}.py").read_text(encoding="utf-8"))
    (maker,) = (n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == "make_parser")
    calls = (n for n in ast.walk(maker) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    names = (call.args[0] for call in calls if call.func.attr == "add_argument" and call.args)  # type: ignore[union-attr]
    found = {str(name.value).removeprefix("--") for name in names if isinstance(name, ast.Constant)}
    return frozenset(found | ADDED_ELSEWHERE)


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


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and value of each option; None where there is no value."""
    for argument, following in pairwise([*arguments, "--"]):
        if argument.startswith("--"):
            name, given, value = argument[2:].partition("=")
            yield name, value if given else None if following.startswith("--") else following


def _under(group: str, names: frozenset[str]) -> frozenset[str]:
    return frozenset(f"{group}.{name}" for name in names)


def _refuse_unknown(name: str, known: frozenset[str], where: str) -> None:
    if name.removesuffix("+") in known or name.rpartition(".")[2] in SPECIFICATION:
        return
    close = get_close_matches(name, known, n=1, cutoff=0.85)
    raise InputError(
        f"{where}option {name}: there is no such option" + (f"; did you mean {close[0]}?" if close else "")
    )


def _texts(value: Any) -> tuple[str, ...] | None:
    """A list of names; None where it is none."""
    if isinstance(value, str) and not isinstance(value, Written):
        try:
            value = load_configuration(value)
        except yaml.YAMLError:
            return None
    texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    return tuple(map(str, value)) if texts else None
