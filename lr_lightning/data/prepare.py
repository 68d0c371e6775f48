"""The sweeps over a table: the scan, the statistics of the training rows, and the standardised rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.choices import Choices, listed
from lr_lightning.data.columns import MISSING
from lr_lightning.data.encoder import Block, Encoder
from lr_lightning.data.features import Layout
from lr_lightning.data.fingerprint import rows_fingerprint
from lr_lightning.data.mistakes import mistakes_in_all
from lr_lightning.data.readers.base import Source
from lr_lightning.data.roles import GROUPS
from lr_lightning.data.rows_in_use import Scan, refuse_missing, scan_by_schema
from lr_lightning.data.scan import scan_table
from lr_lightning.data.schema import Column, Level, TableSchema
from lr_lightning.data.splits import rule_of, stratified_parts
from lr_lightning.errors import InputError
from lr_lightning.model.processes import ALONE, Processes, Share
from lr_lightning.model.rows import OTHER_SPLIT, of_light_weights
from lr_lightning.model.standardization import LevelWeights, RunningMoments, Standardization

PARTS = ("train", "val", "test")
FEW_ROWS = 10  # of a level, about which a message is given
MOST_IN_DOUBLE = 2**25
"""Up to so many values (rows × raw columns) are served in float64, whatever the Trainer's precision."""
_LEFT_OUT = len(PARTS)


@dataclass(frozen=True)
class Split:
    """The options of the split into training, validation and test rows; with `every_row` all rows are test rows.

    `rule` is that of an earlier fit, see `stratified_parts`; None for a new fit.
    """

    val_fraction: float
    test_fraction: float
    seed: int
    every_row: bool
    rule: str | None = None


NUMBER = "number"  # name of the tensor of the training rows' numbers
FILLED = "filled"  # name of the tensor of the values that were missing


@dataclass(frozen=True)
class Partition:
    """The part to which each row of a table belongs, or of this process's share of one.

    Attributes:
        of_row: for each row the index of its part in PARTS, uint8, shape (N,); `_LEFT_OUT` for a row that is not in
            use.
        sizes: number of rows of each part.
        place: where these rows stand in the table of all processes.
        totals: number of rows of each part in that table.
        rule: by which they were divided, see `stratified_parts`.
    """

    of_row: np.ndarray
    sizes: tuple[int, ...]
    place: Share
    totals: tuple[int, ...]
    rule: str

    @property
    def numbered(self) -> bool:
        """Whether a part's rows have other numbers in the table than in the part."""
        return self.place.total > max(self.totals)

    @classmethod
    def of(cls, scan: Scan, split: Split) -> Partition:
        """Divide the rows that are in use, together with the other processes."""
        y, kept, processes = scan.y, scan.kept, scan.processes
        place = processes.place(len(y))
        rule = split.rule or rule_of(place.total)
        part = np.full(len(y), PARTS.index("test" if split.every_row else "train"), dtype=np.uint8)
        if not split.every_row:
            # Counts of successes are no classes to split by.
            strata = y if scan.log_coefficient is None else np.zeros(len(y), np.uint8)
            part = stratified_parts(
                torch.from_numpy(strata),
                val_fraction=split.val_fraction,
                test_fraction=split.test_fraction,
                seed=split.seed,
                labels=scan.schema.labels,
                groups=scan.codes.get(GROUPS.name),
                rule=rule,
                processes=processes,
            ).numpy()
        sizes = tuple(int(np.count_nonzero(part == code)) for code in range(len(PARTS)))
        of_row = part
        if kept is not None:
            of_row = np.full(len(kept), _LEFT_OUT, dtype=np.uint8)
            of_row[kept] = part
            place = processes.place(len(kept))
        return cls(of_row, sizes, place, processes.sums(*sizes), rule)


class Sweeps:
    """The sweeps over one table: the scan and the statistics at once, the rows on `write`.

    Args:
        source: the table.
        choices: the options about its columns.
        split: the options of the split.
        given: the schema and the statistics of an earlier fit, which replace `choices`; None for a new fit.
        processes: that have the table; the source is this one's part of it.

    Attributes:
        partition: of the rows of the source.
        filled: which stored columns, numbers before categories, miss values in training rows of a new fit.

    Raises:
        InputError: if the table cannot be used; see `scan_table`, `scan_by_schema` and `training_statistics`.
        NotMergedError: if one of several processes has met a mistake, or see `scan_table`.
    """

    def __init__(
        self,
        source: Source,
        choices: Choices,
        split: Split,
        given: tuple[TableSchema, Standardization] | None,
        processes: Processes = ALONE,
    ):
        self.source, self.processes = source, processes
        self.scan = (
            scan_table(source, choices, processes) if given is None else scan_by_schema(source, given[0], processes)
        )
        self.partition = Partition.of(self.scan, split)
        _refuse_weightless(source, self.scan, self.partition, split)
        self.messages = list(self.scan.notes)
        if given is None:
            self.schema, self.training, rows_of_levels, self.filled = training_statistics(
                source, self.scan, self.partition
            )
            self._tell_rare_levels(rows_of_levels)
            self.messages += constant_in_words(source.name, self.schema, self.training)
        else:
            (self.schema, self.training), self.filled = given, []
        self.layout = Layout.of(self.schema)

    def _tell_rare_levels(self, rows_of_levels: LevelWeights) -> None:
        names = [column.name for column in self.schema.columns if column.kind == "category"]
        rare = {name: int((n < FEW_ROWS).sum()) for name, n in zip(names, rows_of_levels.weight, strict=True)}
        rare = {name: n for name, n in rare.items() if n}
        if rare:
            n, n_levels = sum(rare.values()), sum(map(len, rows_of_levels.weight))
            have = "level has" if n_levels == 1 else "levels have" if n > 1 else "levels has"
            columns = listed(f"{name} ({k})" for name, k in rare.items())
            text = f"{n} of {n_levels} {have} fewer than {FEW_ROWS} training rows: {columns}"
            self.messages.append((INFO, " ".join(f"{self.source.name}: {text}".splitlines())))

    @property
    def numbered(self) -> bool:
        """Whether the rows of the parts here have other numbers in the table."""
        return self.partition.numbered or self.processes.count > 1

    def dtype(self, of_trainer: torch.dtype) -> torch.dtype:
        """The dtype in which the rows are served.

        It is float64 for a small table, because rounding to float32 can make columns collinear or separate the
        classes. It is the Trainer's dtype for a large table, and for one whose features are all stored in single
        precision.
        """
        n_features = sum(self.partition.totals) * len(self.schema.columns)
        return of_trainer if self.scan.single or n_features > MOST_IN_DOUBLE else torch.float64

    def notes(self) -> dict[str, Any]:
        """The messages, the schema, the statistics and checksums of the labels and rows, as plain values."""
        return {
            "messages": [list(message) for message in self.messages],
            "schema": self.schema.to_dict(),
            "training": [values.tolist() for values in self.training],
            "weight_scale": self.scan.weight_scale,
            "log_coefficient": self._log_coefficient(),
            "fold_values": self.scan.fold_values,
            "split_rule": self.partition.rule,
            "filled": self.filled,
            "fingerprint": self.scan.fingerprint(),
            "rows_fingerprint": rows_fingerprint(
                self.partition.of_row,
                self._beside_features(),
                self.scan.weight_scale,
                left_out=_LEFT_OUT,
                start=self.partition.place.start,
                processes=self.processes,
            ),
        }

    def _log_coefficient(self) -> float:
        """The sum over the training rows; see `Scan`."""
        if self.scan.log_coefficient is None:
            return 0.0
        of_row = self.partition.of_row[self.partition.of_row != _LEFT_OUT]
        own = math.fsum(self.scan.log_coefficient[of_row == PARTS.index("train")])
        return self.processes.sums(own)[0]

    def _beside_features(self) -> dict[str, np.ndarray]:
        """Columns of the rows in use other than features, by name."""
        trials = {} if self.scan.log_coefficient is None else {"trials": self.scan.log_coefficient}
        return {"y": self.scan.y, **self.scan.beside, **trials}

    def room(self, dtype: torch.dtype, sizes: Sequence[int] = (0, 0, 0)) -> dict[str, Tensor]:
        """Tensors for what `write` writes, by name, of so many rows of each part; those of parts without rows lack.

        They lack `x` in a table without numbers, and `codes` in one without levels.
        """
        found = {}
        for part, size, of_all in zip(PARTS, sizes, self.partition.totals, strict=True):
            if of_all:
                if len(self.layout.numbers):
                    found[f"{part}.x"] = torch.empty(size, len(self.layout.numbers), dtype=dtype)
                if self.layout.levels:  # the codes of a column side by side
                    found[f"{part}.codes"] = torch.empty(len(self.layout.levels), size, dtype=torch.int32).T
                for name in ("y", *self.scan.beside):
                    found[f"{part}.{name}"] = torch.empty(size, dtype=dtype)
        if self.numbered and self.partition.totals[0]:
            found[f"train.{NUMBER}"] = torch.empty(sizes[0], dtype=torch.int64)
        if self.filled:
            found[f"train.{FILLED}"] = torch.empty(sizes[0], len(self.filled), dtype=torch.bool)
        return found | {f"train.{role}": torch.empty(sizes[0], dtype=torch.int32) for role in self.scan.codes}

    def tell_light_weights(self, dtype: torch.dtype) -> None:
        """Note what a dtype does to the weights; to be called before `notes`."""
        weight = self.scan.weight
        light = None if weight is None else of_light_weights(torch.from_numpy(weight), dtype, self.processes)
        if light is not None:
            self.messages.append((WARNING, f"{self.source.name}: {light}"))

    def write(
        self,
        dtype: torch.dtype,
        append: Callable[[str, np.ndarray], None],
        batches: Callable[[Sequence[str]], Iterable[pa.RecordBatch]] | None = None,
    ) -> None:
        """Pass numbers, codes of levels, targets, weights and the like of all rows in use to `append`.

        Numbers are standardised.

        Args:
            dtype: float32 or float64. All are computed in float64 and rounded once.
            append: called with the name of a tensor (`train.x`, `train.codes`, `train.y`, `train.weight`, `val.x`, …)
                and its next rows; it must copy them. Groups (`train.groups`) and folds are those of training rows
                alone, int32, and so are `train.number`, the numbers of the rows in the table, int64, (r,), and
                `train.filled`, boolean, (r, q): which values of the columns `filled` were missing.
            batches: the rows of named columns, instead of the source's.

        Raises:
            InputError: if a value is infinite, or missing under `missing="error"`.
        """
        number = np.float64 if dtype == torch.float64 else np.float32
        mean, scale = (values[self.layout.numbers, None].numpy() for values in self.training.divisible())
        names = [column.name for column in self.schema.columns]
        encoder, used = Encoder(self.scan.schema, self.source, self.scan.kept), 0
        for block in encoder.blocks((batches or self.source.batches)(names)):
            _refuse(encoder, block, names)
            missing = self._fill(block)
            x = np.subtract(block.x, mean, out=block.x)
            np.divide(x, scale, out=x)
            features = {}
            if encoder.numbers:
                features["x"] = np.ascontiguousarray(x.T, dtype=number)
            if self.layout.levels:
                features["codes"] = block.codes[self.layout.coded, :].T
            of_row = self.partition.of_row[block.rows]
            in_use = of_row != _LEFT_OUT
            if not in_use.all():
                of_row, features = of_row[in_use], {name: values[in_use] for name, values in features.items()}
            rows = slice(used, used + len(of_row))
            used = rows.stop
            others = {"y": self.scan.y, **self.scan.beside}
            arrays = {**features, **{name: values[rows].astype(number) for name, values in others.items()}}
            of_training = {role: values[rows] for role, values in self.scan.codes.items()}
            if self.filled:
                of_training[FILLED] = missing[self.filled].T[in_use]
            if self.numbered:
                of_training[NUMBER] = self.partition.place.start + block.rows.start + np.flatnonzero(in_use)
            for code, part in enumerate(PARTS):
                index = np.flatnonzero(of_row == code)
                if len(index):
                    for name, values in (arrays | of_training if part == "train" else arrays).items():
                        whole = len(index) == len(of_row)
                        append(f"{part}.{name}", values if whole else values.take(index, axis=0))

    def _fill(self, block: Block) -> np.ndarray:
        """Replace the missing values of a block; which they are, see `_missing_values`."""
        missing = _missing_values(block, self.layout)
        if not block.finite and self.schema.missing == "impute":
            numbers, categories = [], []
            for column in self.schema.columns:
                of_levels = column.kind == "category"
                (categories if of_levels else numbers).append(
                    column.levels.index(column.fill) if of_levels else column.fill  # type: ignore[arg-type]
                )
            np.copyto(block.x, np.array(numbers, np.float64)[:, None], where=np.isnan(block.x))
            np.copyto(block.codes, np.array(categories, np.int32)[:, None], where=block.codes == MISSING)
        return missing


def _missing_values(block: Block, layout: Layout) -> np.ndarray:
    """Mask of missing values in the stored columns, numbers before categories with features: boolean, (m + c, r)."""
    if block.missing is None:
        return np.zeros((len(block.x) + len(layout.coded), block.x.shape[1]), bool)
    return np.concatenate([np.isnan(block.x), block.codes[layout.coded, :] == MISSING])


def constant_in_words(name: str, schema: TableSchema, training: Standardization) -> list[tuple[int, str]]:
    """The message about the features that are constant in the training rows, as (logging level, one line), if any."""
    constant = [schema.feature_names[j] for j in (training.scale == 0).nonzero()[:, 0].tolist()]
    text = f"{name}: constant in the training rows and so without a coefficient: {listed(constant)}"
    return [(WARNING, " ".join(text.splitlines()))] if constant else []


def training_statistics(
    source: Source, scan: Scan, partition: Partition
) -> tuple[TableSchema, Standardization, LevelWeights, list[int]]:
    """Statistics of the training rows.

    Returns:
        The schema with the values that replace missing ones, means and scales (d,), the numbers of rows of each
        category's levels, without filled ones, and the stored columns that have filled values.

    Raises:
        InputError: if a value is infinite, or missing under `missing="error"`, or too large to be squared.
    """
    schema, layout = scan.schema, Layout.of(scan.schema)
    names, encoder = [column.name for column in schema.columns], Encoder(schema, source, scan.kept)
    processes = scan.processes
    moments = RunningMoments(len(encoder.numbers))
    levels, counts = (LevelWeights([len(column.levels) for column in encoder.categories]) for _ in range(2))
    total, used, filled = 0.0, 0, np.zeros(len(layout.numbers) + len(layout.coded))
    with mistakes_in_all(processes):
        for block in encoder.blocks(source.batches(names)):
            _refuse(encoder, block, names)
            of_row = partition.of_row[block.rows]
            weight = (of_row == PARTS.index("train")).astype(np.float64)
            counts.add(block.codes, weight)
            if block.missing is not None:
                filled += _missing_values(block, layout)[:, weight > 0].any(1)
            if scan.weight is not None:
                in_use = of_row != _LEFT_OUT
                rows = slice(used, used + int(in_use.sum()))
                weight[in_use] *= scan.weight[rows]
                used = rows.stop
            total += float(weight.sum())
            moments.add(block.x, weight)
            levels.add(block.codes, weight)
    if processes.count > 1:
        total, filled = processes.sums(total, filled)
        moments.merge(processes)
        for of_levels in (levels, counts):
            of_levels.merge(processes)
    if schema.missing == "impute":
        schema = schema.with_fills(_fill(schema, moments, levels, total, source))
    training = Standardization(*(torch.empty(len(schema.feature_names), dtype=torch.float64) for _ in range(2)))
    for whole, of_numbers, of_levels in zip(training, moments.result(), levels.result(), strict=True):
        whole[layout.numbers], whole[layout.of_levels] = of_numbers, of_levels
    refuse_overflow(schema, training, source.name)
    return schema, training, counts, np.flatnonzero(filled).tolist()


def _refuse_weightless(source: Source, scan: Scan, partition: Partition, split: Split) -> None:
    """Raise InputError if all rows of a part have the weight 0."""
    if scan.weight is None:
        return
    of_row = partition.of_row[partition.of_row != _LEFT_OUT]
    for code, name in enumerate(("training row", "validation row", "row" if split.every_row else "test row")):
        if partition.totals[code] and not scan.processes.any(bool((scan.weight[of_row == code] > 0).any())):
            what_to_do = "name other rows" if split.every_row else OTHER_SPLIT
            named = " or ".join(filter(None, (scan.schema.weight, scan.schema.trials)))
            raise InputError(f"{source.name}: every {name} has the weight 0 in {named}; {what_to_do}")


def _refuse(encoder: Encoder, block: Block, names: Sequence[str]) -> None:
    """Raise InputError if the block has an infinite value, or a missing one under `missing="error"`."""
    if block.finite:
        return
    encoder.refuse_infinite(block)
    if encoder.schema.missing == "error":
        refuse_missing(encoder.source, names)  # with the count of each column, which takes a sweep


def _fill(
    schema: TableSchema, moments: RunningMoments, levels: LevelWeights, total: float, source: Source
) -> list[Level]:
    """The values that replace missing ones, one for each column; the statistics take them in.

    Args:
        schema: the columns.
        moments: of the numbers.
        levels: of the categories.
        total: the weight of the training rows.
        source: the table, for messages.
    """
    fills: list[Level] = []
    values = moments.mean.copy()
    numbers, categories = iter(range(len(values))), iter(levels.weight)
    for column in schema.columns:
        if column.kind == "category":
            weight = next(categories)
            present = weight.sum()
            if not present and column.n_features:
                _refuse_without_value(column, source)
            # The first of the most frequent levels; shares within 1e-9 count as equal, for they are rounded.
            most = int(np.flatnonzero(weight >= weight.max() - 1e-9 * present)[0])
            weight[most] += max(total - present, 0.0)
            fills.append(column.levels[most])
            continue
        j = next(numbers)
        if not moments.weight[j] > 0:
            _refuse_without_value(column, source)
        if column.kind == "boolean":
            values[j] = values[j] > 0.5
        fills.append(bool(values[j]) if column.kind == "boolean" else float(values[j]))
    moments.fill(values, total)
    return fills


def _refuse_without_value(column: Column, source: Source) -> NoReturn:
    raise InputError(f"{source.name}: column {column.name} holds no value among the training rows")


def refuse_overflow(schema: TableSchema, training: Standardization, name: str) -> None:
    """Raise InputError if the statistics of a column are beyond float64; `name` is that of the table in messages."""
    bad = ~(training.mean.isfinite() & training.scale.isfinite())
    if bool(bad.any()):
        column = schema.feature_names[int(bad.nonzero()[0, 0])]
        raise InputError(f"{name}: column {column} holds values too large to square (beyond 1e150); rescale it")
