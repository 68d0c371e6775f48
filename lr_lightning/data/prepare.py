"""The sweeps over a table: what it holds, the training rows' statistics, and its standardised rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import Any

import numpy as np
import torch

from lr_lightning.data.choices import Choices
from lr_lightning.data.columns import width
from lr_lightning.data.encoder import Block, Encoder
from lr_lightning.data.readers.base import Source
from lr_lightning.data.rows_in_use import Survey, refuse_missing, review
from lr_lightning.data.scan import survey
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.splits import stratified_parts
from lr_lightning.errors import InputError
from lr_lightning.model.rows import OTHER_SPLIT, of_light_weights
from lr_lightning.model.standardization import RunningMoments, Standardization

PARTS = ("train", "val", "test")
MOST_IN_DOUBLE = 2**25
"""So many features, counted before they are coded, are served in float64 whatever the Trainer's precision."""
_LEFT_OUT = len(PARTS)


@dataclass(frozen=True)
class Split:
    """How rows are divided; `every_row` makes all of them test rows."""

    val_fraction: float
    test_fraction: float
    seed: int
    every_row: bool


@dataclass(frozen=True)
class Partition:
    """Which part each of a table's rows belongs to.

    Attributes:
        of_row: index into PARTS for each row of the table, uint8, shape (N,); above them for a row left out.
        sizes: rows in each part.
    """

    of_row: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, found: Survey, split: Split) -> Partition:
        """Divide the rows that are in use."""
        part = np.full(len(found.y), PARTS.index("test" if split.every_row else "train"), dtype=np.uint8)
        if not split.every_row:
            y = torch.from_numpy(found.y)
            part = stratified_parts(
                y,
                val_fraction=split.val_fraction,
                test_fraction=split.test_fraction,
                seed=split.seed,
                labels=found.schema.labels,
            ).numpy()
        sizes = tuple(int(np.count_nonzero(part == code)) for code in range(len(PARTS)))
        if found.kept is None:
            return cls(part, sizes)
        of_row = np.full(len(found.kept), _LEFT_OUT, dtype=np.uint8)
        of_row[found.kept] = part
        return cls(of_row, sizes)


class Sweeps:
    """One reading of a table, whatever becomes of its rows.

    Args:
        source: the table.
        choices: what a person says about it.
        split: how its rows are divided.
        given: the schema and the statistics of an earlier fit, which take the place of `choices`.
    """

    def __init__(
        self,
        source: Source,
        choices: Choices,
        split: Split,
        given: tuple[TableSchema, Standardization] | None,
    ):
        self.source = source
        self.found = survey(source, choices) if given is None else review(source, given[0])
        self.partition = Partition.of(self.found, split)
        _refuse_weightless(source, self.found, self.partition, split)
        self.messages = list(self.found.notes)
        if given is not None:
            self.schema, self.training = given
            return
        self.schema, self.training = training_statistics(source, self.found, self.partition)
        named = zip(self.schema.feature_names, (self.training.scale == 0).tolist(), strict=True)
        constant = ", ".join(name for name, is_constant in named if is_constant)
        if constant:
            text = f"{source.name}: constant in the training rows and so without a weight: {constant}"
            self.messages.append((WARNING, " ".join(text.splitlines())))

    def dtype(self, of_trainer: torch.dtype) -> torch.dtype:
        """What the rows are best served in.

        Float64 unless the table is large: memory and time are no matter then, and float32 could make columns
        depend on each other that do not, or separate the classes where the table does not. The Trainer's dtype
        for a large table, and for one whose features are all stored in single precision.
        """
        n_features = sum(self.partition.sizes) * len(self.schema.columns)
        return of_trainer if self.found.single or n_features > MOST_IN_DOUBLE else torch.float64

    def notes(self) -> dict[str, Any]:
        """Everything but the rows, as plain values."""
        return {
            "messages": [list(message) for message in self.messages],
            "schema": self.schema.to_dict(),
            "training": [values.tolist() for values in self.training],
            "weight_scale": self.found.weight_scale,
            "fingerprint": zlib.crc32(np.packbits(self.found.y).tobytes(), len(self.found.y)),
        }

    def write(self, dtype: torch.dtype, append: Callable[[str, np.ndarray], None]) -> None:
        """Hand on the features, standardised, the targets and the weights of every row in use.

        Args:
            dtype: float32 or float64; rows are standardised in float64 and rounded once, like their weights.
            append: called with the name of a tensor (`train.x`, `train.y`, `train.weight`, `val.x`, …) and
                its next rows, which it must copy.
        """
        number = np.float64 if dtype == torch.float64 else np.float32
        mean, scale = (values.numpy()[:, None] for values in self.training.divisible())
        names = [column.name for column in self.schema.columns]
        encoder, used = Encoder(self.schema, self.source, self.found.kept), 0
        light = None if self.found.weight is None else of_light_weights(torch.from_numpy(self.found.weight), dtype)
        if light is not None:
            self.messages.append((WARNING, f"{self.source.name}: {light}"))
        for block in encoder.blocks(self.source.batches(names)):
            _refuse(encoder, block, names)
            x = np.subtract(block.x, mean, out=block.x)
            np.divide(x, scale, out=x)
            x = np.ascontiguousarray(x.T, dtype=number)
            of_row = self.partition.of_row[block.rows]
            in_use = of_row != _LEFT_OUT
            if not in_use.all():
                of_row, x = of_row[in_use], x[in_use]
            rows = slice(used, used + len(of_row))
            used = rows.stop
            arrays = {"x": x, "y": self.found.y[rows].astype(number)}
            if self.found.weight is not None:
                arrays["weight"] = self.found.weight[rows].astype(number)
            for code, part in enumerate(PARTS):
                index = np.flatnonzero(of_row == code)
                if len(index):
                    for name, values in arrays.items():
                        whole = len(index) == len(of_row)
                        append(f"{part}.{name}", values if whole else values.take(index, axis=0))


def training_statistics(source: Source, found: Survey, partition: Partition) -> tuple[TableSchema, Standardization]:
    """Means and scales of the training rows, and the schema with what fills missing values.

    Raises:
        InputError: if a value is infinite, or missing where that is refused.
    """
    schema = found.schema
    names = [column.name for column in schema.columns]
    moments, encoder = RunningMoments(len(schema.feature_names)), Encoder(schema, source, found.kept)
    total, used = 0.0, 0
    for block in encoder.blocks(source.batches(names)):
        _refuse(encoder, block, names)
        of_row = partition.of_row[block.rows]
        weight = (of_row == PARTS.index("train")).astype(np.float64)
        if found.weight is not None:
            in_use = of_row != _LEFT_OUT
            rows = slice(used, used + int(in_use.sum()))
            weight[in_use] *= found.weight[rows]
            used = rows.stop
        total += float(weight.sum())
        moments.add(block.x, weight)
    if schema.missing == "impute":
        fills, values = _fills(schema, moments, source)
        moments.fill(values, total)
        schema = schema.with_fills(fills)
    training = moments.result()
    _refuse_overflow(schema, training, source)
    return schema, training


def _refuse_weightless(source: Source, found: Survey, partition: Partition, split: Split) -> None:
    """Raise InputError if all rows of a part have the weight 0: nothing could be fitted to or measured on them."""
    if found.weight is None:
        return
    of_row = partition.of_row[partition.of_row != _LEFT_OUT]
    for code, name in enumerate(("training row", "validation row", "row" if split.every_row else "test row")):
        if partition.sizes[code] and not (found.weight[of_row == code] > 0).any():
            what_to_do = "name other rows" if split.every_row else OTHER_SPLIT
            raise InputError(f"{source.name}: every {name} has the weight 0 in {found.schema.weight}; {what_to_do}")


def _refuse(encoder: Encoder, block: Block, names: Sequence[str]) -> None:
    """Raise InputError for an infinite value, and for a missing one in a row that is in use."""
    if block.finite:
        return
    encoder.refuse_infinite(block)
    if encoder.schema.missing == "error":
        refuse_missing(encoder.source, names)  # every column and its count, at the cost of a sweep


def _fills(schema: TableSchema, moments: RunningMoments, source: Source) -> tuple[list[Level], np.ndarray]:
    """What stands in for missing values: for each column, and for each feature, float64 (d,)."""
    fills: list[Level] = []
    values = moments.mean.copy()
    at = 0
    for column in schema.columns:
        n = width(column)
        mean = moments.mean[at : at + n]
        if not (moments.weight[at : at + n] > 0).all():
            raise InputError(f"{source.name}: column {column.name} holds no value among the training rows")
        if column.kind == "category":
            shares = np.concatenate([[1 - mean.sum()], mean])
            # The first of the most frequent levels; shares that differ by rounding alone are equal.
            most = int(np.flatnonzero(shares >= shares.max() - 1e-9)[0])
            fills.append(column.levels[most])
            values[at : at + n] = np.arange(1, n + 1) == most
        elif column.kind == "boolean":
            fills.append(bool(mean[0] > 0.5))
            values[at] = fills[-1]
        else:
            fills.append(float(mean[0]))
        at += n
    return fills, values


def _refuse_overflow(schema: TableSchema, training: Standardization, source: Source) -> None:
    bad = ~(training.mean.isfinite() & training.scale.isfinite())
    if bool(bad.any()):
        name = schema.feature_names[int(bad.nonzero()[0, 0])]
        raise InputError(f"{source.name}: column {name} holds values too large to square (beyond 1e150); rescale it")
