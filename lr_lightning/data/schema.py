"""The schema of a table: columns, levels, labels, and the values that replace missing ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeVar

from lr_lightning.data.notation import is_notation
from lr_lightning.data.plain_data import misfit
from lr_lightning.data.spelling import Level, is_usual, value_of
from lr_lightning.errors import InputError

_Value = TypeVar("_Value")
KINDS = ("number", "boolean", "category", "date", "time")
MISSING_RULES = ("error", "drop", "impute")
UNSEEN_RULES = ("error", "reference")
_ROLES = ("weight", "offset", "trials", "groups")  # fields that name a column


@dataclass(frozen=True)
class Column:
    """One raw column that the model uses.

    Attributes:
        name: the name in the table.
        kind: `number`; `boolean` (0/1); `category` (treatment-coded); `date` (days since 1970-01-01); `time`
            (a time of day or a duration, in days).
        levels: the levels of a category, sorted; the first is the reference.
        fill: the value that replaces a missing one under `missing="impute"`: a number, or one of the levels.
        notation: the notation of numbers, dates or times that the fit read from text (see `notation.KINDS`); None
            if the table has types, or the values are written as programs write them (1234.5, 2021-02-03).
        binary: True for a number that was 0 or 1 in every row of the fit; then true and false are read as 1 and 0.
    """

    name: str
    kind: str = "number"
    levels: tuple[Level, ...] = ()
    fill: Level | None = None
    notation: str | None = None
    binary: bool | None = None

    @property
    def n_features(self) -> int:
        """The number of features that the column gives."""
        return len(self.levels) - 1 if self.kind == "category" else 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that the column gives."""
        if self.kind != "category":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in self.levels[1:])

    def problem(self, *, imputed: bool) -> str | None:
        """The fault of the column in words, or None. If missing values are `imputed`, the column needs a fill."""
        if self.kind not in KINDS:
            return f"is of kind {self.kind!r}"
        if (self.kind == "category") != bool(self.levels):
            return f"has {len(self.levels)} levels"
        if not _are_levels(self.levels):
            return "has levels that are not all text, or not all finite numbers"
        if len(set(self.levels)) < len(self.levels):
            return "has a level twice"
        if self.notation is not None and not is_notation(self.notation, self.kind):
            return f"is written as {self.notation!r}"
        if self.binary and self.kind != "number":
            return f"is binary: {self.binary!r}"
        if self.fill is None and not imputed:
            return None
        if self.kind == "category":
            fits = any(type(level) is type(self.fill) and level == self.fill for level in self.levels)
        else:
            fits = isinstance(self.fill, int | float) and math.isfinite(self.fill)
        return None if fits else f"is filled with {self.fill!r}"


def _without_arrays(data: Any) -> tuple[Any, dict[int, tuple[Level, ...]], tuple[Level, ...] | None]:
    """A schema in which what is stored as tensors is an empty list.

    Returns:
        The schema, the levels by the column's number, and the names of the columns where all are plain numbers.
    """
    levels: dict[int, tuple[Level, ...]] = {}
    columns = data.get("columns") if isinstance(data, Mapping) else None
    if isinstance(columns, Mapping):
        from lr_lightning.data.arrays_of_levels import from_arrays

        names = from_arrays(columns)
        if names is not None and _are_levels(names) and isinstance(names[0], str):
            return {**data, "columns": []}, levels, names
        return data, levels, None
    if not isinstance(columns, list):
        return data, levels, None
    without = list(columns)
    for j, column in enumerate(columns):
        if isinstance(column, Mapping) and isinstance(column.get("levels"), Mapping):
            from lr_lightning.data.arrays_of_levels import from_arrays

            levels[j] = from_arrays(column["levels"]) or ()  # a category without levels is refused
            without[j] = {**column, "levels": []}
    return {**data, "columns": without}, levels, None


def _are_levels(values: Sequence[Any]) -> bool:
    """Whether all values are text, or all are finite numbers or booleans."""
    if all(isinstance(value, str) for value in values):
        return True
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class TableSchema:
    """The map from raw columns to features. It is plain data that is stored in the checkpoint.

    Attributes:
        columns: the raw columns, in the order of the coefficients.
        target: name of the target column.
        labels: the negative and the positive label, as values.
        weight: name of the column of sample weights.
        offset: name of the column of log-odds that are added to the logits, which prediction needs too.
        trials: name of the column of numbers of trials, of which the target counts the successes.
        groups: name of the column whose equal values make rows of one group, which may be a feature too.
        missing: the rule for rows with a missing feature: `error`, `drop` or `impute`.
        unseen: the rule for levels that the fit has not seen: `error`, or `reference` (the first level).
        spelling: the labels as they are written in a table of text, if they are not text themselves; otherwise None.
        na: the texts that count as missing; None for the defaults of the table's format.

    Example:
        >>> from lr_lightning import TableSchema
        >>> from lr_lightning.data.schema import Column
        >>> columns = (Column("age"), Column("city", "category", ("Lima", "Oslo", "Rome")))
        >>> schema = TableSchema(columns, target="bought", labels=("no", "yes"))
        >>> schema.feature_names
        ('age', 'city=Oslo', 'city=Rome')
    """

    columns: tuple[Column, ...]
    target: str
    labels: tuple[Level, Level] = (0, 1)
    weight: str | None = None
    offset: str | None = None
    trials: str | None = None
    groups: str | None = None
    missing: str = "error"
    unseen: str = "error"
    spelling: tuple[str, str] | None = None
    na: tuple[str, ...] | None = None

    @property
    def roles(self) -> dict[str, str]:
        """The columns that have one of the `roles.ROLES`, by its name."""
        return {role: name for role in _ROLES if (name := getattr(self, role)) is not None}

    @property
    def predicted_labels(self) -> tuple[Level, Level]:
        """The labels in predictions: values, or texts if a number is written in an unusual way, such as 01."""
        if self.spelling is None or all(isinstance(label, bool) for label in self.labels):
            return self.labels
        return self.labels if all(map(is_usual, self.labels, self.spelling)) else self.spelling

    @property
    def written_labels(self) -> tuple[Level, Level]:
        """The labels as they are written in a text file."""
        return self.labels if self.spelling is None else self.spelling

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the coefficients."""
        return tuple(name for column in self.columns for name in column.feature_names)

    def per_feature(self, values: Mapping[str, _Value], default: _Value, option: str) -> list[_Value]:
        """A value for each feature, in the order of the coefficients.

        Args:
            values: by the name of a feature, or of a column, which means all its levels.
            default: for the features that are not named.
            option: what error messages call the values.

        Raises:
            InputError: if there is no such feature or column.
        """
        known = {column.name for column in self.columns} | set(self.feature_names)
        for name in values:
            if name == "(Intercept)":
                raise InputError(f"{option}: the intercept is no feature; leave (Intercept) out")
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise InputError(f"{option}: there is no feature {name}{hint}")
        return [
            values.get(feature, values.get(column.name, default))
            for column in self.columns
            for feature in column.feature_names
        ]

    @property
    def indicator_groups(self) -> list[list[int]]:
        """The features, by number, of each boolean column and of each category, whose levels exclude one another."""
        groups, at = [], 0
        for column in self.columns:
            width = len(column.feature_names)
            if column.kind in ("boolean", "category") and width:
                groups.append(list(range(at, at + width)))
            at += width
        return groups

    @classmethod
    def of_numbers(cls, names: Sequence[str], target: str) -> TableSchema:
        """The schema of columns of numbers and a 0/1 target."""
        return cls(tuple(Column(name) for name in names), target)

    def to_dict(self) -> dict[str, Any]:
        """The schema as str, int, float, bool, None, list and dict."""
        columns = [{**vars(column), "levels": list(column.levels)} for column in self.columns]
        spelling, na = (None if texts is None else list(texts) for texts in (self.spelling, self.na))
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "columns": columns, "labels": list(self.labels), "spelling": spelling, "na": na}

    def to_checkpoint(self) -> dict[str, Any]:
        """The schema for a checkpoint: many levels of a column, and many names of plain numbers, are tensors."""
        from lr_lightning.data.arrays_of_levels import as_arrays  # imports torch, which a schema does not need

        names = as_arrays([column.name for column in self.columns])
        if isinstance(names, dict) and all(column == Column(column.name) for column in self.columns):
            return {**replace(self, columns=()).to_dict(), "columns": names}
        of_table = self.to_dict()
        columns = [{**column, "levels": as_arrays(column["levels"])} for column in of_table["columns"]]
        return {**of_table, "columns": columns}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableSchema:
        """The schema from the values that `to_dict` or `to_checkpoint` returned.

        Raises:
            InputError: if the values are not a valid schema.
        """
        data, levels, names = _without_arrays(data)
        problem = misfit(data, cls)
        if problem is None:
            try:
                columns = tuple(
                    Column(**{**column, "levels": levels.get(j, tuple(column["levels"]))})
                    for j, column in enumerate(data["columns"])
                )
                columns = columns if names is None else tuple(Column(str(name)) for name in names)
                texts = {key: None if data.get(key) is None else tuple(data[key]) for key in ("spelling", "na")}
                schema = cls(**{**data, "columns": columns, "labels": tuple(data["labels"]), **texts})
            except (TypeError, KeyError) as error:
                problem = str(error)
            else:
                problem = schema._problem()
                if problem is None:
                    return schema
        raise InputError(f"the schema in the checkpoint is damaged ({problem})")

    def _problem(self) -> str | None:
        """The fault of the schema in words; None if it is valid."""
        names = [column.name for column in self.columns]
        if self.missing not in MISSING_RULES or self.unseen not in UNSEEN_RULES:
            return f"missing is {self.missing!r}, unseen is {self.unseen!r}"
        if len(self.labels) != 2 or not _are_levels(self.labels) or self.labels[0] == self.labels[1]:
            return f"its labels are {self.labels}"
        if self.spelling is not None and tuple(map(value_of, self.spelling)) != self.labels:
            return f"its labels {self.labels} are spelled {self.spelling}"
        for column in self.columns:
            if problem := column.problem(imputed=self.missing == "impute"):
                return f"column {column.name} {problem}"
        others = [self.target, *(name for role, name in self.roles.items() if role != "groups")]
        if len({*others, *names}) < len(others) + len(set(names)) or self.groups in others:
            return "one column has two roles"
        features = self.feature_names
        if len(set(names)) < len(names) or len(set(features)) < len(features):
            return "two features have one name"
        return None

    def with_fills(self, fills: Sequence[Level]) -> TableSchema:
        """The same schema with the value that replaces missing ones in each column."""
        columns = tuple(replace(column, fill=fill) for column, fill in zip(self.columns, fills, strict=True))
        return replace(self, columns=columns)
