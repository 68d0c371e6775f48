"""The first sweep over a table: which columns, of what kind, with which levels and labels, and which rows."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.columns import coded, kind_of, missing_rows, numbers, plain
from lr_lightning.data.encoding import listed, refuse_absent
from lr_lightning.data.labels import MOST_VALUES, choose_labels, label_table, target_values
from lr_lightning.data.schema import MISSING_RULES, UNSEEN_RULES, Column, Level, TableSchema
from lr_lightning.data.sources import Source, TypesChanged, shown
from lr_lightning.errors import InputError

MOST_LEVELS = 1000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LARGEST_EXACT_INTEGER = 2**53

log = logging.getLogger("lr_lightning")


@dataclass(frozen=True)
class Choices:
    """What a person says about a table; see `TableDataModule`."""

    target: str | None = None
    features: tuple[str, ...] | None = None
    weight: str | None = None
    positive: Any = None
    categorical: tuple[str, ...] = ()
    missing: str = "error"
    unseen: str = "error"

    def __post_init__(self) -> None:
        if self.missing not in MISSING_RULES:
            raise InputError(f"--data.missing must be one of {', '.join(MISSING_RULES)}, not {self.missing}")
        if self.unseen not in UNSEEN_RULES:
            raise InputError(f"--data.unseen must be one of {', '.join(UNSEEN_RULES)}, not {self.unseen}")

    def feature_columns(self, source: Source) -> list[str]:
        """The columns that become features.

        Raises:
            InputError: if a name is not in the table, or has two parts to play.
        """
        if self.target is None:
            raise InputError(f"--data.target is missing; it names one of the columns {listed(source.names)}")
        refuse_absent([self.target], source, "target column")
        if self.weight is not None:
            refuse_absent([self.weight], source, "weight column")
            if self.weight == self.target:
                raise InputError(f"{self.target} cannot be the target and the weight at once")
        if self.features is None:
            features = [name for name in source.names if name not in ("", self.target, self.weight)]
            features = [name for name in features if not re.fullmatch(r"__index_level_\d+__", name)]
            unnamed = [str(position) for position, name in enumerate(source.names, 1) if not name]
            if unnamed:
                log.warning(f"{source.name}: column {', '.join(unnamed)} has no name and is not used (a row index?)")
        else:
            features = list(self.features)
            refuse_absent(features, source)
            for name in features:
                if features.count(name) > 1:
                    raise InputError(f"--data.features names {name} twice")
                if name in (self.target, self.weight):
                    role = "target" if name == self.target else "weight"
                    raise InputError(f"{name} is the {role} and cannot be a feature; leave it out of --data.features")
        if not features:
            raise InputError(f"{source.name} has no column left for a feature besides the target {self.target}")
        refuse_absent(self.categorical, source)
        for name in self.categorical:
            if name not in features:
                raise InputError(f"--data.categorical names {name}, which is no feature")
        return features


@dataclass
class Survey:
    """What the sweep found.

    Attributes:
        schema: complete but for the values that fill missing ones.
        y: 0/1 targets of the rows in use, float32, shape (n,).
        weight: their sample weights, float64, shape (n,), or None.
        kept: which of the table's rows are in use, boolean, shape (N,); None for all.
    """

    schema: TableSchema
    y: Tensor
    weight: Tensor | None
    kept: np.ndarray | None


def survey(source: Source, choices: Choices) -> Survey:
    """Sweep over a table once.

    Raises:
        InputError: for anything a person has to change.
    """
    features = choices.feature_columns(source)
    while True:
        sweep = _Sweep(source, choices, features)
        try:
            for batch in source.batches(sweep.columns):
                sweep.add(batch)
        except TypesChanged:
            continue
        return sweep.result()


@dataclass
class _Sweep:
    source: Source
    choices: Choices
    features: list[str]
    n_rows: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    levels: dict[str, dict[Level, int]] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    labels: dict[Level, int] = field(default_factory=dict)
    targets: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    dropped: list[np.ndarray] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        named = [*self.features, self.choices.target, self.choices.weight]
        return [name for name in named if name is not None]

    def add(self, batch: pa.RecordBatch) -> None:
        dropped = None
        for j, name in enumerate(self.features):
            array = batch.column(j)
            self._add_kind(name, array.type)
            absent = None
            if self.choices.missing != "impute":
                absent = missing_rows(array) if self._may_miss(array) else None
            if absent is not None:
                if self.choices.missing == "error":
                    refuse_missing(self.source, self.features)
                dropped = absent if dropped is None else dropped | absent
            if pa.types.is_int64(array.type) or pa.types.is_uint64(array.type):
                self._add_extremes(name, array)
        kept = None if dropped is None else ~dropped
        for j, name in enumerate(self.features):
            if self.kinds[name] == "category":
                self._add_levels(name, batch.column(j), kept)
        self._add_target(batch.column(len(self.features)), kept)
        if self.choices.weight is not None:
            self._add_weight(batch.column(len(self.features) + 1))
        if self.choices.missing == "drop":
            self.dropped.append(np.zeros(batch.num_rows, bool) if dropped is None else dropped)
        self.n_rows += batch.num_rows

    def _may_miss(self, array: pa.Array) -> bool:
        # Under `error` a NaN shows itself in the statistics, at no cost of its own.
        return self.choices.missing == "drop" or array.null_count > 0 or kind_of(array.type) == "category"

    def _add_kind(self, name: str, dtype: pa.DataType) -> None:
        kind = kind_of(dtype)
        if kind is None:
            raise InputError(
                f"{self.source.name}: column {name} holds values of type {dtype}, which are no features; "
                "name the columns to use with --data.features"
            )
        if name in self.choices.categorical:
            if kind in ("date", "time"):
                raise InputError(f"{self.source.name}: column {name} holds dates, which --data.categorical cannot take")
            kind = "category" if kind == "number" else kind
        known = self.kinds.get(name, "missing")
        if known != "missing" and kind not in (known, "missing"):
            raise InputError(f"{self.source.name}: column {name} changes its type, from {known} to {kind}")
        self.kinds[name] = kind if known == "missing" else known

    def _add_extremes(self, name: str, array: pa.Array) -> None:
        extremes = pa.compute.min_max(array)
        low, high = extremes["min"].as_py(), extremes["max"].as_py()
        if high is not None:
            self.largest[name] = max(self.largest.get(name, 0), high, -low)

    def _add_levels(self, name: str, array: pa.Array, kept: np.ndarray | None) -> None:
        values, places = coded(array)
        places = places[places >= 0] if kept is None else places[kept & (places >= 0)]
        found = self.levels.setdefault(name, {})
        for value, count in zip(values, np.bincount(places, minlength=len(values)).tolist(), strict=True):
            if value is not None and count:
                found[value] = found.get(value, 0) + count
        if len(found) > MOST_LEVELS:
            self._refuse_many_levels(name, list(found))

    def _refuse_many_levels(self, name: str, values: list[Level]) -> None:
        self._refuse_spoilt_number(name, values)
        raise InputError(
            f"{self.source.name}: column {name} has more than {MOST_LEVELS} levels, such as {shown(values[0])} (an id?); "
            "name the columns to use with --data.features"
        )

    def _refuse_spoilt_number(self, name: str, values: list[Level]) -> None:
        """Refuse text that would be numbers if a few values were not."""
        text = [value for value in values if isinstance(value, str)]
        other = [value for value in text if not _NUMBER.fullmatch(value)]
        numeric = len(text) - len(other)
        if not other or numeric <= len(other) or name in self.choices.categorical:
            return
        where = self.source.place_of(name, other[0])
        fractional = any("." in value for value in text if _NUMBER.fullmatch(value))
        if numeric > 20 or fractional or numeric > self.n_rows / 2:
            raise InputError(
                f"{self.source.name}{', ' + where if where else ''}: column {name} holds {shown(other[0])}, which is no "
                "number, though most of its values are; correct it, or declare the column with --data.categorical"
            )
        log.warning(f"{self.source.name}: column {name} is taken as categorical because of {shown(other[0])}")

    def _add_target(self, array: pa.Array, kept: np.ndarray | None) -> None:
        target, array = self.choices.target, plain(array)
        if kind_of(array.type) not in ("number", "boolean", "category", "missing"):
            raise InputError(
                f"{self.source.name}: the target {target} holds values of type {array.type}; "
                "it must hold numbers, true/false or text"
            )
        values, places = target_values(array)
        absent = np.array([value is None for value in values] + [True])[places]
        if absent.any():
            where = self.source.place(self.n_rows + int(absent.argmax()))
            raise InputError(f"{self.source.name}, {where}: the target {target} has no value; leave such rows out")
        for value in values:
            self.labels.setdefault(value, len(self.labels))  # type: ignore[arg-type]
        if len(self.labels) > MOST_VALUES:
            choose_labels(dict.fromkeys(self.labels, 1), None, str(target), self.source.name)
        table = np.array([self.labels[value] for value in values], dtype=np.int16)  # type: ignore[index]
        self.targets.append(table[places] if kept is None else table[places[kept]])

    def _add_weight(self, array: pa.Array) -> None:
        name = self.choices.weight
        if kind_of(array.type) not in ("number", "missing"):
            raise InputError(f"{self.source.name}: the weight column {name} holds {array.type}, not numbers")
        values = np.array(numbers(array), dtype=np.float64)
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            row = int(wrong.argmax())
            where = self.source.place(self.n_rows + row)
            raise InputError(
                f"{self.source.name}, {where}: the weight {name} is {values[row]}; it must be finite and not negative"
            )
        self.weights.append(values)

    def result(self) -> Survey:
        source, choices = self.source, self.choices
        if not self.n_rows:
            raise InputError(f"{source.name} has a header and no rows")
        kept = ~np.concatenate(self.dropped) if self.dropped else None
        if kept is not None:
            n_dropped = self.n_rows - int(kept.sum())
            if n_dropped == self.n_rows:
                counts = ", ".join(f"{name} ({n})" for name, n in count_missing(source, self.features).items() if n)
                raise InputError(f"{source.name}: every row has a missing value, in {counts}")
            if n_dropped:
                log.warning(f"{source.name}: {n_dropped} of {self.n_rows} rows have missing values and are left out")
            else:
                kept = None
        for name, kind in self.kinds.items():
            if kind == "missing":
                raise InputError(
                    f"{source.name}: column {name} holds no value at all; name the columns to use with --data.features"
                )
        return Survey(self._schema(), *self._target_and_weight(kept), kept)

    _schema_labels: tuple[Level, Level] = (0, 1)

    def _schema(self) -> TableSchema:
        columns = tuple(self._column(name) for name in self.features)
        counts = dict.fromkeys(self.labels, 0)
        codes = np.bincount(np.concatenate(self.targets), minlength=len(self.labels))
        counts = {value: int(codes[code]) for value, code in self.labels.items()}
        target = str(self.choices.target)
        labels = choose_labels(counts, self.choices.positive, target, self.source.name)
        log.info(
            f"{self.source.name}: {target} = {labels[1]} is the positive class ({counts[labels[1]]} of "
            f"{sum(counts.values())} rows), {labels[0]} the negative one"
        )
        schema = TableSchema(
            columns, target, labels, self.choices.weight, self.choices.missing, self.choices.unseen
        )
        names = schema.feature_names
        if not names:
            raise InputError(f"{self.source.name}: no feature is left; every column has a single level")
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self.source.name}: two features would be named {double}; rename a column")
        return schema

    def _column(self, name: str) -> Column:
        kind = self.kinds[name]
        if kind in ("date", "time"):
            unit = "days since 1970-01-01" if kind == "date" else "days"
            log.info(f"{self.source.name}: column {name} is used as a number, {unit}")
        if kind == "number" and self.largest.get(name, 0) > LARGEST_EXACT_INTEGER:
            log.warning(
                f"{self.source.name}: column {name} holds integers beyond 2**53, which floating-point numbers round (an id?)"
            )
        if kind != "category":
            return Column(name, kind)
        levels = tuple(sorted(self.levels[name], key=lambda v: (isinstance(v, str), v)))
        self._refuse_spoilt_number(name, list(self.levels[name]))
        if len(levels) == 1:
            log.warning(f"{self.source.name}: column {name} is constant ({levels[0]}) and makes no feature")
        return Column(name, kind, levels)

    def _target_and_weight(self, kept: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
        schema_labels = label_table(self._labels())
        table = np.array([schema_labels.get(value, 0) for value in self.labels], dtype=np.float32)
        y = torch.from_numpy(table[np.concatenate(self.targets)])
        if not self.weights:
            return y, None
        weight = np.concatenate(self.weights)
        weight = weight if kept is None else weight[kept]
        if not (weight > 0).any():
            raise InputError(f"{self.source.name}: the weight {self.choices.weight} is 0 in every row")
        return y, torch.from_numpy(weight)

    def _labels(self) -> tuple[Level, Level]:
        codes = np.bincount(np.concatenate(self.targets), minlength=len(self.labels))
        counts = {value: int(codes[code]) for value, code in self.labels.items()}
        return choose_labels(counts, self.choices.positive, str(self.choices.target), self.source.name)


def count_missing(source: Source, features: Sequence[str]) -> dict[str, int]:
    """How many values each column misses."""
    counts = dict.fromkeys(features, 0)
    for batch in source.batches(features):
        for name, array in zip(features, batch.columns, strict=True):
            absent = missing_rows(array)
            counts[name] += 0 if absent is None else int(absent.sum())
    return counts


def refuse_missing(source: Source, features: Sequence[str]) -> None:
    """Raise InputError if a feature is missing somewhere; names each column and its count."""
    counts = ", ".join(f"{name} ({n})" for name, n in count_missing(source, features).items() if n)
    if counts:
        raise InputError(
            f"{source.name} has missing values in {counts}; --data.missing drop leaves such rows out, --data.missing "
            "impute fills in the training mean or the most frequent level"
        )
