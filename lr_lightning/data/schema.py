"""What a fit has to remember of a table: columns, levels, labels, and what fills missing values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lr_lightning.data.notation import is_notation
from lr_lightning.data.plain_data import misfit
from lr_lightning.data.spelling import Level, is_usual, value_of
from lr_lightning.errors import InputError

KINDS = ("number", "boolean", "category", "date", "time")
MISSING_RULES = ("error", "drop", "impute")
UNSEEN_RULES = ("error", "reference")


@dataclass(frozen=True)
class Column:
    """One raw column that the model uses.

    Attributes:
        name: as the table spells it.
        kind: `number`; `boolean` (0/1); `category` (treatment-coded); `date` (days since 1970-01-01); `time`
            (a time of day or a duration, in days).
        levels: of a category, sorted; the first is the reference.
        fill: what stands in for a missing value where the fit imputes: a number, or one of the levels.
        notation: of a number, date or time that the fit read from text, how it was written (see `notation.KINDS`);
            None where the table said it by its types, or by numbers and dates as programs write them.
        binary: True for a number of which the fit saw nothing but 0 and 1, so that false and true mean these.
    """

    name: str
    kind: str = "number"
    levels: tuple[Level, ...] = ()
    fill: Level | None = None
    notation: str | None = None
    binary: bool | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that the column makes."""
        if self.kind != "category":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in self.levels[1:])

    def problem(self, *, imputed: bool) -> str | None:
        """What is wrong with the column; None if nothing is. A missing value is `imputed` only with a fill."""
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


def _are_levels(values: Sequence[Any]) -> bool:
    """Whether all are text, or all are finite numbers (truth values included)."""
    if all(isinstance(value, str) for value in values):
        return True
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


@dataclass(frozen=True)
class TableSchema:
    """The path from raw columns to features; plain data, stored in the checkpoint.

    Attributes:
        columns: the raw columns, in the order of the weights.
        target: name of the target column.
        labels: the negative and the positive label, as values.
        weight: name of the column of sample weights.
        missing: what happens to a row with a missing feature: `error`, `drop` or `impute`.
        unseen: what happens to a level that the fit has not seen: `error`, or `reference` (the first level).
        spelling: of the labels in the table, where that was text and the labels are not; None otherwise.
        na: the texts that count as missing; None for those that are usual in a file of the table's format.

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
    missing: str = "error"
    unseen: str = "error"
    spelling: tuple[str, str] | None = None
    na: tuple[str, ...] | None = None

    @property
    def predicted_labels(self) -> tuple[Level, Level]:
        """The labels as predictions give them: a number that is spelled in a way of its own, such as 01, is text."""
        if self.spelling is None or all(isinstance(label, bool) for label in self.labels):
            return self.labels
        return self.labels if all(map(is_usual, self.labels, self.spelling)) else self.spelling

    @property
    def written_labels(self) -> tuple[Level, Level]:
        """The labels as a text file is to hold them."""
        return self.labels if self.spelling is None else self.spelling

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the coded features, in the order of the weights."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @classmethod
    def of_numbers(cls, names: Sequence[str], target: str) -> TableSchema:
        """Columns of plain numbers and a 0/1 target."""
        return cls(tuple(Column(name) for name in names), target)

    def to_dict(self) -> dict[str, Any]:
        """Nothing but str, int, float, bool, None, list and dict."""
        columns = [{**vars(column), "levels": list(column.levels)} for column in self.columns]
        spelling, na = (None if texts is None else list(texts) for texts in (self.spelling, self.na))
        return {**vars(self), "columns": columns, "labels": list(self.labels), "spelling": spelling, "na": na}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableSchema:
        """The schema that `to_dict` wrote.

        Raises:
            InputError: if it did not write this.
        """
        problem = misfit(data, cls)
        if problem is None:
            try:
                columns = tuple(Column(**{**column, "levels": tuple(column["levels"])}) for column in data["columns"])
                texts = {key: None if data.get(key) is None else tuple(data[key]) for key in ("spelling", "na")}
                schema = cls(**{**data, "columns": columns, "labels": tuple(data["labels"]), **texts})
            except TypeError as error:
                problem = str(error)
            else:
                problem = schema._problem()
                if problem is None:
                    return schema
        raise InputError(f"the schema in the checkpoint is damaged ({problem})")

    def _problem(self) -> str | None:
        """What is wrong with the schema; None if nothing is."""
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
        features = self.feature_names
        if len(set(names)) < len(names) or len(set(features)) < len(features):
            return "two features have one name"
        return None

    def with_fills(self, fills: Sequence[Level]) -> TableSchema:
        """The same schema with a value for each column's missing entries."""
        columns = tuple(replace(column, fill=fill) for column, fill in zip(self.columns, fills, strict=True))
        return replace(self, columns=columns)
