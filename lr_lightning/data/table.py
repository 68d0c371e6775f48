"""A person's own table, from a file or in memory, as standardised batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_lightning.data.encoding import Encoder, prepare, refuse_absent
from lr_lightning.data.labels import label_codes
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.sources import Source, open_source
from lr_lightning.data.standardization import RunningMoments, Standardization
from lr_lightning.data.survey import Choices, Survey, refuse_missing, survey
from lr_lightning.data.splits import stratified_split
from lr_lightning.data.tensors import Rows, TensorDataModule
from lr_lightning.errors import InputError

log = logging.getLogger("lr_lightning")
_DROPPED = 3


class TableDataModule(TensorDataModule):
    """Serves a table."""

    def __init__(
        self,
        path: Any,
        target: str | None = None,
        features: list[str] | None = None,
        weight: str | None = None,
        positive: str | int | float | bool | None = None,
        categorical: list[str] | None = None,
        missing: str = "error",
        unseen: str = "error",
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        shuffle: bool | None = None,
    ):
        in_memory = not isinstance(path, str | os.PathLike)
        if not in_memory:
            path = os.fspath(path)
        features = None if features is None else [str(name) for name in features]
        categorical = None if categorical is None else [str(name) for name in categorical]
        cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        super(TensorDataModule, self).__init__()
        self.save_hyperparameters(ignore=["path"] if in_memory else [])
        self.path = path
        self.choices = Choices(
            target, None if features is None else tuple(features), weight, positive, tuple(categorical or ()), missing, unseen
        )
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.batch_size, self.seed, self.cache_dir = batch_size, seed, cache_dir
        self.shuffle = batch_size is not None if shuffle is None else shuffle
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--data.batch_size must be at least 1, not {batch_size}")
        self._given: tuple[TableSchema, Standardization] | None = None
        self._every_row = False

    def use_schema(self, schema: TableSchema, training: Standardization, *, every_row: bool) -> None:
        """Read the table with the schema and the standardisation of an earlier fit.

        Args:
            schema: of that fit.
            training: its means and scales.
            every_row: serve every row for validation and test, instead of those that the fit kept back.
        """
        self._given, self._every_row = (schema, training), every_row

    def setup(self, stage: str) -> None:
        """Read, check and split the table."""
        if hasattr(self, "served"):
            return
        source = open_source(self.path)
        found = self._surveyed(source)
        source, found = found
        n = len(found.y)
        if self._every_row:
            part = np.full(n, 2, np.uint8)
        else:
            train, val, test = stratified_split(
                found.y, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=self.seed
            )
            part = np.zeros(n, np.uint8)
            for code, rows in ((1, val), (2, test)):
                if rows is not None:
                    part[rows.numpy()] = code
        whole = part
        if found.kept is not None:
            whole = np.full(len(found.kept), _DROPPED, np.uint8)
            whole[found.kept] = part
        names = [column.name for column in found.schema.columns]
        schema = found.schema
        if self._given is None:
            weight = np.ones(n) if found.weight is None else found.weight.numpy()
            weight = np.where(part == 0, weight, 0.0)
            full = weight
            if found.kept is not None:
                full = np.zeros(len(found.kept))
                full[found.kept] = weight
            v = torch.from_numpy(full)
            moments = RunningMoments(len(schema.feature_names))
            encoder = Encoder(schema, source)
            for block in encoder.blocks(source.batches(names)):
                moments.add(block.x, v[block.rows])
            training = moments.result()
            if not bool(training.mean.isfinite().all()):
                refuse_missing(source, names)
                for block in Encoder(schema, source).blocks(source.batches(names)):
                    encoder.refuse_infinite(block)
        else:
            training = self._given[1]
        self.schema, self.training = schema, training
        scale = torch.where(training.scale > 0, training.scale, 1.0)
        self.served = Standardization(training.mean, scale)
        counts = [int((part == code).sum()) for code in range(3)]
        dtype = self._dtype()
        x = [torch.empty(count, len(schema.feature_names), dtype=dtype) for count in counts]
        at = [0, 0, 0]
        mean, inverse = training.mean[:, None], scale[:, None]
        for block in Encoder(schema, source).blocks(source.batches(names)):
            rows = ((block.x - mean) / inverse).to(dtype).T.contiguous()
            codes = torch.from_numpy(whole[block.rows])
            for code in range(3):
                index = (codes == code).nonzero()[:, 0]
                k = len(index)
                if k == len(codes):
                    x[code][at[code] : at[code] + k] = rows
                elif k:
                    torch.index_select(rows, 0, index, out=x[code][at[code] : at[code] + k])
                at[code] += k
        served = []
        for code in range(3):
            mask = torch.from_numpy(part == code)
            weight = None if found.weight is None else found.weight[mask].to(dtype)
            served.append(Rows(x[code], found.y[mask].to(dtype), weight) if counts[code] else None)
        if self._every_row:
            self.val_rows = self.test_rows = served[2]
        else:
            self.train_rows, self.val_rows, self.test_rows = served

    def _surveyed(self, source: Source) -> tuple[Source, Survey]:
        if self._given is None:
            features = self.choices.feature_columns(source)
            columns = [*features, self.choices.target, self.choices.weight]
            source = source.load([name for name in columns if name is not None])
            return source, survey(source, self.choices)
        schema = self._given[0]
        prepare(source, schema)
        names = [column.name for column in schema.columns]
        columns = [*names, schema.target] + ([schema.weight] if schema.weight else [])
        refuse_absent(columns, source)
        source = source.load(columns)
        codes = [label_codes(schema, b.column(len(names)), source.name, source.place) for b in source.batches(columns)]
        y = torch.from_numpy(np.concatenate(codes)).float()
        return source, Survey(schema, y, None, None)

    def _dtype(self) -> torch.dtype:
        if self.trainer is not None and self.trainer.precision == "64-true":
            return torch.float64
        return torch.float32
