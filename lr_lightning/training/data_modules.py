"""A person's own table, from a file or in memory, as standardised batches."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.cache import TensorCache, cache_key, fits_in_memory, user_cache_folder
from lr_lightning.data.choices import Choices, refuse_absent
from lr_lightning.data.encode import encode_blocks
from lr_lightning.data.encoder import prepare
from lr_lightning.data.loader import TensorBatches
from lr_lightning.data.prepare import PARTS, Split, Sweeps
from lr_lightning.data.readers.base import MissingTexts, Source
from lr_lightning.data.readers.open import open_source
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.errors import InputError
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.training.tensors import TensorDataModule

log = logging.getLogger("lr_lightning")
_BYTES_BESIDE_ARROW = 2  # the standardised copy, and what reading needs for a while, by the size of the table


class TableDataModule(TensorDataModule):
    """Serves a table: a file, a folder of files, or a table in memory.

    Numbers, booleans, text (treatment-coded, the first level in code-point order being the reference) and
    dates (as days) become features, standardised in float64 by the means and scales of the training rows.
    Text that as a whole column can mean one thing only is read as numbers, dates or times.
    What was chosen on the way (the positive class, dates taken as days, rows left out, constant columns) is
    logged to `logging.getLogger("lr_lightning")`, one line each. Rows are float64 whatever the Trainer's
    precision, unless all features are stored in single precision, or are more than 2**25 numbers before they
    are coded; then they follow the Trainer. A table that does not fit in memory is decoded once into a cache
    folder and served from there.

    After `setup`, `schema` says how columns become features, `training` holds the means and scales in the
    original units, `served` what was taken off, and `train_rows`, `val_rows` and `test_rows` the rows.

    Args:
        path: of a CSV, TSV, Parquet, Arrow or Feather file (text also compressed), or of a folder of them; or
            a table in memory: pyarrow, pandas, polars, a dict of arrays, a two-dimensional array.
        target: the column to predict; it holds two different values.
        features: the columns to predict from, in the order of the weights; all others by default.
        weight: the column of sample weights.
        positive: the positive label; the later of the two in sorted order by default.
        categorical: columns of numbers that are codes of categories, and of text that is taken as it stands, even
            if it looks like numbers or dates, or most rows have a text of their own.
        na: the texts that count as missing, without outer blanks, in text files and columns of text; by default, in
            text files, the empty one, NA, N/A, NaN, null and their like.
        missing: for rows with a missing value: `error` refuses them, `drop` leaves them out, `impute` fills
            in features by their (weighted) training mean or most frequent level, and leaves out rows without a
            target.
        unseen: for levels that the fit has not seen: `error` refuses them, `reference` takes them for the
            reference level.
        val_fraction: share of the rows kept back for validation, stratified by the target; of a class of two rows
            or more at least one stays for training.
        test_fraction: share of the rows kept back for the test.
        batch_size: rows a batch; None is one batch of all rows.
        seed: of the split and of the shuffling.
        cache_dir: decode the table into this folder, and serve it from there. By default only a table that
            does not fit in memory is decoded, into the user's cache folder.
        shuffle: shuffle the training rows anew each epoch; None does so where there is a batch size.

    Raises:
        InputError: for anything about the table or the options that has to change; here or in `setup`.

    Example:
        >>> from lr_lightning.training.data_modules import TableDataModule
        >>> table = {
        ...     "age": [25.0, 47.0, 52.0, 31.0, 38.0],
        ...     "city": ["Rome", "Oslo", "Rome", "Lima", "Oslo"],
        ...     "bought": ["no", "yes", "yes", "no", "yes"],
        ... }
        >>> data = TableDataModule(table, target="bought", val_fraction=0.0)
        >>> data.setup("fit")
        >>> data.schema.feature_names  # Lima, the first level, is the reference
        ('age', 'city=Oslo', 'city=Rome')
        >>> data.schema.labels  # the negative and the positive one
        ('no', 'yes')
        >>> data.training.mean.tolist()  # in the original units
        [38.6, 0.4, 0.4]
        >>> data.train_rows.x.shape  # standardised
        torch.Size([5, 3])
    """

    def __init__(
        self,
        path: Any,
        target: str | None = None,
        features: list[str] | None = None,
        weight: str | None = None,
        positive: str | int | float | bool | None = None,
        categorical: list[str] | None = None,
        na: list[str] | None = None,
        missing: str = "error",
        unseen: str = "error",
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        shuffle: bool | None = None,
    ):
        super(TensorDataModule, self).__init__()
        # The hyperparameters take their values from these names, and a checkpoint takes plain values only.
        in_memory = not isinstance(path, str | os.PathLike)
        path = path if in_memory else str(os.fspath(path))
        target, weight = (None if name is None else str(name) for name in (target, weight))
        features, categorical = (
            None if names is None else [str(name) for name in names] for names in (features, categorical)
        )
        if isinstance(na, str):
            raise InputError(f'--data.na must be a list of texts, such as ["", "NA"], not {na!r}')
        na = None if na is None else [str(text).strip() for text in na]
        positive = _plain(positive)
        cache_dir = None if cache_dir is None else str(os.fspath(cache_dir))
        self.save_hyperparameters(ignore=["path"] if in_memory else [])

        self.path, self.cache_dir = path, cache_dir
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.batch_size, self.seed = batch_size, seed
        self.shuffle = batch_size is not None if shuffle is None else shuffle
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--data.batch_size must be at least 1, not {batch_size}")
        self._choices = Choices(
            target,
            None if features is None else tuple(features),
            weight,
            positive,
            tuple(categorical or ()),
            missing,
            unseen,
            None if na is None else tuple(na),
        )
        self._given: tuple[TableSchema, Standardization] | None = None
        self._every_row = False
        self._expected_fingerprint: int | None = None
        self._mapped = False

    __init__.__annotations__["path"] = "str"  # for the command line, which knows no tables in memory

    def use_schema(
        self,
        schema: TableSchema,
        training: Standardization,
        *,
        every_row: bool,
        fingerprint: int | None = None,
    ) -> None:
        """Read the table with the schema and the standardisation of an earlier fit; call it before `setup`.

        Args:
            schema: of that fit.
            training: its means and scales.
            every_row: serve every row for validation and test, instead of those that the fit kept back.
            fingerprint: that of the fit's rows; if it is given, other rows are refused.
        """
        self._given, self._every_row, self._expected_fingerprint = (schema, training), every_row, fingerprint

    fingerprint: int | None
    """A checksum of the labels of the rows in use, in order: all of the table that the split depends on."""

    def prepare_data(self) -> None:
        """Decode a table that does not fit in memory, in one process of each machine."""
        try:
            source, columns = self._source()
            if self._needs_cache(source, columns):
                self._decoded_in_cache(source, columns)
        except InputError:
            # Other processes wait for this one; all of them will meet the mistake together, in `setup`.
            if self._process == (0, 1):
                raise

    def setup(self, stage: str) -> None:
        """Read, check, split and standardise the table.

        Raises:
            InputError: for anything that a person has to change.
        """
        if hasattr(self, "served") and self._served_as == self._dtype():
            return
        self._served_as = self._dtype()
        source, columns = self._source()
        if self._needs_cache(source, columns):
            notes, tensors = self._decoded_in_cache(source, columns)
            self._mapped = True
        else:
            notes, tensors = self._decoded_in_memory(source, columns)
        self.fingerprint = notes["fingerprint"]
        if self._expected_fingerprint not in (None, self.fingerprint) and not self._every_row:
            raise InputError(
                f"{source.name} has changed since the fit, and the rows that the fit kept back cannot be "
                "found again; name a table with --data.path to use all its rows"
            )
        for level, text in notes["messages"]:
            log.log(level, text)
        self.schema = TableSchema.from_dict(notes["schema"])
        mean, scale = (torch.tensor(values, dtype=torch.float64) for values in notes["training"])
        self.training = Standardization(mean, scale)
        self.served = self.training.divisible()
        self.weight_scale = notes.get("weight_scale", 1.0)  # which an older cache does not know
        rows = [self._rows_of(part, tensors) for part in PARTS]
        if self._every_row:
            self.val_rows = self.test_rows = rows[PARTS.index("test")]
            return
        train_rows, self.val_rows, self.test_rows = rows
        assert train_rows is not None  # noqa: S101 (the split leaves no part empty)
        self.train_rows = train_rows

    def predict_dataloader(self) -> TensorBatches:
        """Batches of every row of the table as raw features, in its order; NaN for those with missing values."""
        x = torch.cat([rows.x for rows in encode_blocks(self.schema, self.path)])
        return self._part(Rows(x, x.new_zeros(len(x)), None))

    @staticmethod
    def _rows_of(part: str, tensors: dict[str, Tensor]) -> Rows | None:
        if f"{part}.x" not in tensors:
            return None
        return Rows(tensors[f"{part}.x"], tensors[f"{part}.y"], tensors.get(f"{part}.weight"))

    def _source(self) -> tuple[Source, list[str]]:
        """The table, and the columns to read."""
        source = open_source(self.path)
        if self._given is None:
            names = [*self._choices.feature_columns(source), self._choices.target, self._choices.weight]
            source.expect({str(self._choices.target): pa.string()})  # how a text file spells its labels
            names = [name for name in names if name is not None]
            source.count_as_missing(MissingTexts(self._choices.na, dict.fromkeys(names, ())))
            return source, names
        schema = self._given[0]
        names = [column.name for column in schema.columns]
        refuse_absent(names, source)
        refuse_absent([schema.target], source, "target column")
        refuse_absent([schema.weight] if schema.weight else [], source, "weight column")
        prepare(source, schema, labelled=True)
        return source, [*names, schema.target, *([schema.weight] if schema.weight else [])]

    def _sweeps(self, source: Source) -> Sweeps:
        split = Split(self.val_fraction, self.test_fraction, self.seed, self._every_row)
        return Sweeps(source, self._choices, split, self._given)

    def _needs_cache(self, source: Source, columns: list[str]) -> bool:
        if source.identity() is None:
            return False
        return self.cache_dir is not None or not fits_in_memory(_BYTES_BESIDE_ARROW * source.decoded_bytes(columns))

    def _decoded_in_memory(self, source: Source, columns: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        sweeps = self._sweeps(source.load(columns))
        dtype, tensors = sweeps.dtype(self._dtype()), {}
        for part, size in zip(PARTS, sweeps.partition.sizes, strict=True):
            if size:
                tensors[f"{part}.x"] = torch.empty(size, len(sweeps.schema.feature_names), dtype=dtype)
                tensors[f"{part}.y"] = torch.empty(size, dtype=dtype)
                if sweeps.schema.weight is not None:
                    tensors[f"{part}.weight"] = torch.empty(size, dtype=dtype)
        room = {name: tensor.numpy() for name, tensor in tensors.items()}  # what is still to be filled

        def append(name: str, rows: np.ndarray) -> None:
            room[name][: len(rows)] = rows
            room[name] = room[name][len(rows) :]

        sweeps.write(dtype, append)
        return sweeps.notes(), tensors

    def _decoded_in_cache(self, source: Source, columns: list[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        cache = TensorCache(Path(self.cache_dir).expanduser() if self.cache_dir else user_cache_folder())
        key = cache_key(self._settings(source))
        found = cache.open(key)
        if found is not None:
            return found
        with cache.writer(key) as writer:
            sweeps = self._sweeps(source)
            sweeps.write(sweeps.dtype(self._dtype()), writer.append)
            writer.finish(sweeps.notes())
        log.info(f"{source.name}: decoded into {cache.folder / key}; delete it when you no longer need it")
        found = cache.open(key)
        if found is None:
            raise InputError(f"--data.cache_dir: the decoded table in {cache.folder} cannot be read back")
        return found

    def _settings(self, source: Source) -> list[Any]:
        """All that the decoded tensors depend on, as plain values."""
        given = None
        if self._given is not None:
            schema, training = self._given
            given = [schema.to_dict(), *(values.tolist() for values in training)]
        split = [self.val_fraction, self.test_fraction, self.seed, self._every_row]
        return [source.identity(), vars(self._choices), split, str(self._dtype()), given]

    def _device_of_rows(self, of_trainer: torch.device) -> torch.device:
        # What does not fit in memory does not fit on a device either; the Trainer moves each batch.
        return torch.device("cpu") if self._mapped else of_trainer

    def _dtype(self) -> torch.dtype:
        """The Trainer's; the rows of all but large tables are float64 in any case."""
        if self.trainer is not None and self.trainer.precision == "64-true":
            return torch.float64
        return torch.float32


def _plain(value: Any) -> Level | None:
    """A NumPy scalar as Python's own number."""
    return value.item() if hasattr(value, "item") else value
