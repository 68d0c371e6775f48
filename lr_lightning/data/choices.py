"""The options that describe a table's columns, checked against the table."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lr_lightning.data.readers.base import Source
from lr_lightning.data.readers.svmlight import QUERY, TARGET, SvmlightFile
from lr_lightning.data.roles import ROLES, TRIALS
from lr_lightning.data.schema import MISSING_RULES, UNSEEN_RULES, Level
from lr_lightning.errors import InputError


@dataclass(frozen=True)
class Choices:
    """The options of `TableDataModule` about the columns of the table; see there.

    Attributes:
        roles: the columns that have one of the `ROLES`, by its name.

    Raises:
        InputError: if `missing` or `unseen` is not one of the rules.
    """

    target: str | None = None
    features: tuple[str, ...] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    positive: Level | None = None
    categorical: tuple[str, ...] = ()
    missing: str = "error"
    unseen: str = "error"
    na: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.missing not in MISSING_RULES:
            raise InputError(f"--data.missing must be one of {', '.join(MISSING_RULES)}, not {self.missing}")
        if self.unseen not in UNSEEN_RULES:
            raise InputError(f"--data.unseen must be one of {', '.join(UNSEEN_RULES)}, not {self.unseen}")

    def feature_columns(self, source: Source) -> list[str]:
        """The columns that become features, in the order of the coefficients.

        Raises:
            InputError: if a named column is not in the table or has two roles, or no column is left for a feature.
        """
        if self.target is None:
            raise InputError(
                f"{source.name}: --data.target is missing; it names one of the columns {listed(source.names)}"
            )
        refuse_absent([self.target], source, "target column")
        if self.positive is not None and TRIALS.name in self.roles:
            raise InputError(
                f"--data.positive {self.positive}: with {TRIALS.option} the target counts successes, and has no "
                "positive label; leave one of the two out"
            )
        taken, coded = {self.target: "target"}, set()
        for role, name in self.roles.items():
            refuse_absent([name], source, f"{role} column")
            if name in taken and not (ROLES[role].coded and name in coded):
                raise InputError(f"{ROLES[role].option}: {name} is the {taken[name]} and cannot be the {role} too")
            taken[name] = role
            if ROLES[role].coded:
                coded.add(name)
        if self.features is None:
            features = [name for name in usable_names(source) if name not in taken]
        else:
            features = list(self.features)
            refuse_absent(features, source)
            _refuse_double_roles(features, {name: role for name, role in taken.items() if name not in coded})
        if not features:
            raise InputError(f"{source.name} has no column left for a feature besides the target {self.target}")
        refuse_absent(self.categorical, source)
        known = set(features)
        for name in self.categorical:
            if name not in known:
                raise InputError(f"--data.categorical names {name}, which is not among the features")
        return features

    def refuse_columns(self, source: SvmlightFile) -> None:
        """Raise InputError if an option is about columns or missing values, which a file of sparse rows has not."""
        given = {**vars(self), **self.roles}
        may_be = {"target": (None, TARGET), "groups": (QUERY,), "positive": (self.positive,), "unseen": UNSEEN_RULES}
        for option in given.keys() - {"roles"}:
            if given[option] not in may_be.get(option, (None, (), "error")):
                name = ROLES[option].option if option in ROLES else f"--data.{option}"
                of_values = option in ("missing", "na")
                what = "no missing values" if of_values else f"no such column as {_named(given[option])}"
                only = f"; its {option} is {may_be[option][-1]}" if option in ("target", "groups") else ""
                raise InputError(f"{name}: {source.name} is an svmlight file and has {what}{only}; leave it out")


def _named(value: object) -> str:
    return listed(map(str, value)) if isinstance(value, tuple) else str(value)


def _refuse_double_roles(features: list[str], taken: Mapping[str, str]) -> None:
    """Raise InputError if a feature is named twice, or is among the columns that have another role, `taken`."""
    counts = Counter(features)
    for name in features:
        if counts[name] > 1:
            raise InputError(f"--data.features names {name} twice")
        if name in taken:
            raise InputError(f"--data.features: {name} is the {taken[name]} and cannot be a feature too")


def usable_names(source: Source) -> list[str]:
    """The columns that have a name and are not the row index that pandas wrote."""
    return [name for name in source.names if name and not re.fullmatch(r"__index_level_\d+__", name)]


def refuse_absent(names: Iterable[str], source: Source, role: str = "column") -> None:
    """Raise InputError if one of the columns is not in the table; the message calls it `role`."""
    known_names = set(source.names)
    for name in names:
        if name not in known_names or not name:
            alike = [known for known in source.names if known.strip().lower() == name.strip().lower()]
            close = alike or difflib.get_close_matches(name, source.names, 1)
            hint = f"did you mean {close[0]}?" if close else f"its columns are {listed(source.names)}"
            raise InputError(f"{source.name} has no {role} {name or '(without a name)'}; {hint}")


def listed(names: Iterable[str], most: int = 12) -> str:
    """The first `most` names, separated by commas, and the number of all if there are more."""
    names = [name for name in names if name]
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
