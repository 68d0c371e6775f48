"""Lightning's data modules: rows of arrays, of the tutorial, and of a table, served as slices of resident tensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lr_lightning.data.arrays import codes_of_values, rows_of_arrays
from lr_lightning.data.choices import Choices
from lr_lightning.data.decode import Decoder
from lr_lightning.data.encode import encode_rows
from lr_lightning.data.fingerprint import rows_fingerprint
from lr_lightning.data.imputation import Filled
from lr_lightning.data.loader import TensorBatches
from lr_lightning.data.mistakes import NotMergedError, mistakes_in_all, refused_together
from lr_lightning.data.prepare import PARTS, Split
from lr_lightning.data.readers.base import PartOfSource
from lr_lightning.data.readers.open import open_source, open_svmlight
from lr_lightning.data.roles import FOLD, OFFSET
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.data.splits import PERMUTATION, rule_of, stratified_split
from lr_lightning.data.svmlight import SvmlightDecoder
from lr_lightning.data.training_rows import TrainingRows
from lr_lightning.errors import InputError
from lr_lightning.model.gathering import rows_of_all
from lr_lightning.model.processes import Processes, Share
from lr_lightning.model.rows import OTHER_SPLIT, Rows, of_light_weights
from lr_lightning.model.standardization import Standardization, moments, standardization_to_serve
from lr_lightning.training.distributed import processes_of

log = logging.getLogger("lr_lightning")


class TensorDataModule(LightningDataModule):
    """Serves the rows of a tensor or array.

    Of several processes each holds and serves its own rows, all of them once and none twice: consecutive ones of each
    split, in the order of the processes. In training with a batch size it serves its rows of each batch that one
    process alone would serve.

    After `setup`, `train_rows`, `val_rows` and `test_rows` hold the splits, and `shares` says which of their rows
    these are. Their features may have been
    standardised on the way from float64 to the Trainer's precision (a timestamp would lose its digits in
    float32 otherwise): `served` is the map that has been applied, and the module takes it into account.

    Args:
        x: features, shape (n, d), a tensor or array of numbers, or a sparse tensor of torch, or a sparse matrix or
            array of SciPy, which are never filled.
        y: targets, shape (n,) or (n, 1), each 0 or 1, or a number of successes where there are trials.
        weight: sample weights, shape (n,), non-negative.
        offset: log-odds that are added to the logits, shape (n,); every prediction then needs an offset.
        trials: numbers of trials, shape (n,), whole and not negative. A row counts as y / trials with its weight times
            trials, one observation, and the split is not stratified.
        groups: values, shape (n,), that are equal for rows of one group. They stay on one side of the split, and a
            report may have covariance="cluster".
        val_fraction: share of the rows kept back for validation, stratified by the target; of a class of two rows
            or more at least one stays for training.
        test_fraction: share of the rows kept back for the test.
        batch_size: rows a batch; None is one batch of all rows.
        shuffle: shuffle the training rows anew each epoch; None does so where there is a batch size.
        seed: of the split and of the shuffling.
        feature_names: one name a column; x0, x1, … by default.

    Raises:
        InputError: if the shapes disagree, a target is not 0 or 1, or no number of successes, a weight is negative, or
            a feature or an offset is not finite.

    Example:
        >>> import torch
        >>> from lr_lightning import TensorDataModule
        >>> data = TensorDataModule(torch.arange(20.0).reshape(10, 2), torch.arange(10) % 2, val_fraction=0.2)
        >>> data.setup("fit")
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([8, 2]), torch.Size([8]))
        >>> sorted(data.val_rows.y.tolist())  # stratified: one of each class
        [0.0, 1.0]
    """

    schema: TableSchema
    training: Standardization
    """Means and scales of the training rows, in the original units; scale 0 marks a constant column."""
    served: Standardization
    """Standardisation of the features that the batches hold."""
    train_rows: Rows
    val_rows: Rows | None = None
    test_rows: Rows | None = None
    shares: Mapping[str, Share]
    """Positions of this process's rows of train, val and test among those of all processes."""
    train_numbers: torch.Tensor | None = None
    """Numbers of the training rows among all that were given, from 0, (n,); None where they are all of them."""
    fingerprint: int | None = None
    """Checksum of the source's rows, on which the split depends; None where the source cannot change."""
    split_rule: str | None = None
    """Rule that draws rows for the splits and batches, see `data.splits`; set before `setup` to repeat an earlier
    fit's."""
    weight_scale: float = 1.0
    """Divisor of the weights of the batches: 1 unless they are very large or very small."""
    train_groups: Tensor | None = None
    """Numbers of the training rows' groups, int32, (n,); they travel beside the rows."""
    train_folds: Tensor | None = None
    """Numbers of the training rows' folds, int32, (n,), where a fold column was named."""
    train_filled: Filled | None = None
    """Values of the training rows that were missing and have been filled in."""
    log_coefficient: float = 0.0
    """Σ weight·log C(trials, successes) of the training rows, a part of their likelihood."""
    prediction_input: list[list[float]] | None = None
    """Rows that `predict` takes where no data are named."""

    def __init__(
        self,
        x: Any,
        y: Any,
        weight: Any = None,
        *,
        offset: Any = None,
        trials: Any = None,
        groups: Any = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        feature_names: Sequence[str] | None = None,
    ):
        super().__init__()
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.batch_size, self.seed = batch_size, seed
        self.shuffle = batch_size is not None if shuffle is None else shuffle
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        self._rows, self.weight_scale, self._log_coefficient = rows_of_arrays(
            x, y, weight=weight, offset=offset, trials=trials
        )
        self._groups = None if groups is None else codes_of_values(groups, len(self._rows.y))
        names = list(feature_names or [f"x{j}" for j in range(self._rows.x.shape[1])])
        self.schema = replace(TableSchema.of_numbers(names, "y"), offset=None if offset is None else "offset")
        if self.schema.offset in names:
            raise InputError("feature_names: a column named offset cannot stand beside the offset; rename it")

    def setup(self, stage: str) -> None:
        """Split the rows and bring the training features into a shape that keeps their digits."""
        if hasattr(self, "train_rows") and self._served_as == self._dtype():
            return
        self._served_as = self._dtype()
        # Counts of successes are no classes to split by.
        strata = self._rows.y if self._log_coefficient is None else torch.zeros_like(self._rows.y)
        self.split_rule = self.split_rule or rule_of(len(strata))
        train, val, test = stratified_split(
            strata,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            seed=self.seed,
            groups=None if self._groups is None else self._groups.numpy(),
            rule=self.split_rule,
        )
        processes, n_rows = self.processes, len(self._rows.y)
        sizes = [
            n_rows if train is None else len(train),
            *(0 if index is None else len(index) for index in (val, test)),
        ]
        own = [processes.share(size) for size in sizes]
        self.shares = {part: Share(at.start, n) for part, at, n in zip(PARTS, own, sizes, strict=True)}
        if processes.count > 1 or train is not None:
            self.train_numbers = torch.arange(own[0].start, own[0].stop) if train is None else train[own[0]]
        index: Tensor | slice = own[0] if train is None else train[own[0]]
        if self._groups is not None:
            self.train_groups = self._groups[index]
        if self._log_coefficient is not None:
            (self.log_coefficient,) = processes.sums(float(self._log_coefficient[index].sum()))
        rows = self._rows if isinstance(index, slice) and processes.count == 1 else self._rows.take(index)
        val_rows, test_rows = (
            None if index is None else self._rows.take(index[at])
            for index, at in zip((val, test), own[1:], strict=True)
        )
        for part, of_part in (("training", rows), ("validation", val_rows), ("test", test_rows)):
            weight = None if of_part is None else of_part.weight
            if weight is not None and not processes.any(bool((weight > 0).any())):
                raise InputError(f"every {part} row has the weight 0; {OTHER_SPLIT}")
        self.training = moments([(rows.x, rows.weight)], processes).to("cpu")
        self._refuse_not_finite()
        is_sparse = rows.design.is_sparse  # and stays as it was given, because it would be filled
        same_dtype = self._dtype() == rows.x.dtype or is_sparse
        served = (
            standardization_to_serve(self.training, is_sparse=is_sparse) if same_dtype else self.training.divisible()
        )
        self.served = served or Standardization.identity(rows.x.shape[1])

        def serve(rows: Rows) -> Rows:
            x = rows.x if served is None else served.apply(rows.x, self._dtype())
            return Rows(x, *(None if t is None else t.to(x.dtype) for t in rows[1:]))  # type: ignore[arg-type]

        self._kept_back = (val, test)
        self.train_rows = serve(rows)
        self.val_rows = None if val_rows is None else serve(val_rows)
        self.test_rows = None if test_rows is None else serve(test_rows)
        light = None if self._rows.weight is None else of_light_weights(self._rows.weight, self.train_rows.x.dtype)
        if light is not None:
            log.warning(light)
        if self._rows.offset is not None and (doubt := OFFSET.doubt(self._rows.offset)):
            log.warning("the offset %s", doubt)

    @property
    def training_as_served(self) -> Standardization:
        """Means and scales of the training rows in the units that the batches hold."""
        mean, scale = self.training
        return Standardization((mean - self.served.mean) / self.served.scale, scale / self.served.scale)

    def training_rows(self, class_weight: str | Mapping[Any, float] | None) -> TrainingRows:
        """The training rows with their class weights and statistics.

        Raises:
            InputError: see `TrainingRows.of`.
        """
        return TrainingRows.of(
            [self.train_rows.as_batch()],
            class_weight,
            self.schema.written_labels,
            self.training_as_served,
            self.weight_scale,
            split=self.val_rows is not None or self.test_rows is not None,
            processes=self.processes,
        )

    def train_dataloader(self) -> TensorBatches:
        """Batches of the training rows, resident on the Trainer's device."""
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        rows = self._on_device(self.train_rows)
        return TensorBatches(
            rows,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            share=self.shares["train"],
            rule=self.split_rule or PERMUTATION,
        )

    def val_dataloader(self) -> TensorBatches:
        """Batches of the validation rows, in order."""
        return self._in_order(self._held_out(self.val_rows), self.shares["val"].total)

    def test_dataloader(self) -> TensorBatches:
        """Batches of the test rows, in order; of the validation rows where no test rows were kept back."""
        part = "val" if self.test_rows is None else "test"
        return self._in_order(self._held_out(getattr(self, f"{part}_rows")), self.shares[part].total)

    def predict_dataloader(self) -> TensorBatches:
        """Batches of every row that was given, in its order, with raw features."""
        n_rows = len(self._rows.y)
        return self._in_order(self._rows.take(self.processes.share(n_rows)), n_rows)

    def rows_fingerprint(self) -> Callable[[], str]:
        """A function that computes the checksum of this fit's rows without their features, see `data.fingerprint`.

        A fit of many rows on a GPU takes less time than their checksum, which only a checkpoint needs.
        """
        return partial(_checksum, self._rows, self._kept_back, self.weight_scale)

    def description(self) -> dict[str, Any]:
        """The data's part of a checkpoint, without the checksum of the rows, as plain types."""
        return {
            "schema": self.schema.to_checkpoint(),
            "prediction_input": self.prediction_input,
            "curve": self.curve(),
            "data": self.settings(),
            "fingerprint": self.fingerprint,
            "split_rule": self.split_rule,
        }

    def settings(self) -> dict[str, Any]:
        """Class and arguments, by which the command line makes another one."""
        package = type(self).__module__
        package = "lr_lightning" if package.startswith("lr_lightning.") else package  # public names outlive modules
        return {"class_path": f"{package}.{type(self).__qualname__}", "init_args": dict(self.hparams)}

    def points(self, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """Training rows as points of a picture: raw features (m, d) and targets (m,), m evenly spaced rows.

        Several processes call it together.
        """
        start, total = self.shares["train"]
        step = -(-total // most)
        rows = rows_of_all(self.train_rows.take(slice(-start % step, None, step)), self.processes)
        raw = rows.design.dense(torch.float64).cpu() * self.served.scale + self.served.mean
        return raw.numpy(), rows.y.cpu().numpy()

    def curve(self) -> dict[str, Any] | None:
        """Limits and labels of the probability curve of a single feature: `low`, `high`, `x_label` and `y_label`.

        None with more features, or with an offset, which moves every row's curve.
        """
        if len(self.schema.feature_names) != 1 or self.schema.offset is not None:
            return None
        bounds = self.train_rows.design.bounds().cpu() * self.served.scale + self.served.mean
        low, high = self.processes.least(float(bounds[0, 0])), self.processes.most(float(bounds[1, 0]))
        margin = 0.1 * (high - low)
        outcome = f"{self.schema.target} = {self.schema.written_labels[1]}"
        return {
            "low": low - margin,
            "high": high + margin,
            "x_label": self.schema.feature_names[0],
            "y_label": f"Probability of {self.schema.target if self.schema.trials else outcome}",
        }

    @staticmethod
    def _held_out(rows: Rows | None) -> Rows:
        if rows is None:
            raise InputError("the fit kept no rows back; name other data, or set val_fraction or test_fraction")
        return rows

    @property
    def processes(self) -> Processes:
        """Processes that hold the rows: the Trainer's, once they are connected."""
        return processes_of(self.trainer)

    def _in_order(self, rows: Rows, total: int) -> TensorBatches:
        """Rows of this process, in as many batches as every other of the `total` has: they meet after each."""
        n_batches, count = None, self.processes.count
        if count > 1:
            n_batches = 1 if self.batch_size is None else -(-total // (count * self.batch_size))
        return TensorBatches(self._on_device(rows), self.batch_size, n_batches=n_batches)

    def _on_device(self, rows: Rows) -> Rows:
        return rows if self.trainer is None else rows.to(self._device_of_rows(self.trainer.strategy.root_device))

    def _device_of_rows(self, of_trainer: torch.device) -> torch.device:
        """Device that holds the rows during a fit."""
        return of_trainer

    def _dtype(self) -> torch.dtype:
        if self.trainer is None:
            return self._rows.x.dtype
        return torch.float64 if self.trainer.precision == "64-true" else torch.float32

    def _refuse_not_finite(self) -> None:
        mean, scale = (values.isfinite() for values in self.training)
        bad = (~(mean & scale)).nonzero()
        if len(bad):
            name = self.schema.feature_names[int(bad[0])]
            if bool(mean[bad[0]]):
                raise InputError(f"feature {name} holds values too large to square (beyond 1e150); rescale it")
            raise InputError(f"feature {name} holds a missing or infinite value; every feature must be finite")


def _checksum(rows: Rows, kept_back: Sequence[Tensor | None], weight_scale: float) -> str:
    part_of_row = np.zeros(len(rows.y), np.uint8)
    for number, index in enumerate(kept_back, 1):
        if index is not None:
            part_of_row[index.numpy()] = number
    beside = zip(Rows._fields[1:], rows[1:], strict=True)
    values = {name: column.double().cpu().numpy() for name, column in beside if column is not None}
    return rows_fingerprint(part_of_row, values, weight_scale)


class HoursDataModule(TensorDataModule):
    """Serves the three students of the tutorial as one batch.

    One feature, `hours` (1, 2 and 3 hours of study), and the target `pass` (no, no, yes). The experiment's
    own prediction input is a student of 4 hours.

    Example:
        >>> from lr_lightning import HoursDataModule
        >>> data = HoursDataModule()
        >>> data.setup("fit")
        >>> data.train_rows.x.tolist(), data.train_rows.y.tolist()
        ([[1.0], [2.0], [3.0]], [0.0, 0.0, 1.0])
        >>> data.prediction_input
        [[4.0]]
    """

    prediction_input = [[4.0]]  # noqa: RUF012 (as in the base class, where it may also be set on an instance)

    def __init__(self) -> None:
        super().__init__([[1.0], [2.0], [3.0]], [0.0, 0.0, 1.0], feature_names=["hours"])
        self.schema = TableSchema.of_numbers(["hours"], target="pass")
        self.save_hyperparameters()

    def curve(self) -> dict[str, Any]:
        """The axes of the tutorial's picture."""
        return {"low": 0.0, "high": 10.0, "x_label": "Hours", "y_label": "Probability of Pass"}


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
            a table in memory: pyarrow, pandas, polars, a dict of arrays, a two-dimensional array. Or of an svmlight
            or LIBSVM file (`.svm`, `.libsvm`, also compressed), whose rows stay sparse and in memory. Its target is
            `y`, its features are `x1`, `x2`, … (from `x0` on if it has an index 0), and `groups` may be `qid`.
        target: the column to predict; it holds two different values.
        features: the columns to predict from, in the order of the weights; all others by default.
        weight: the column of sample weights.
        offset: the column of log-odds that are added to the logits as they stand, such as a prior's; every prediction
            then needs it.
        trials: the column of numbers of trials, of which the target counts the successes. A row counts as the share of
            its successes with its weight times trials, one observation, and the split is not stratified.
        groups: the column whose equal values make rows of one group. They stay on one side of the split, and a report
            may have covariance="cluster". It is a feature too if `features` names it.
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
        local_files: each machine of several has files of its own under the path. The table is theirs together, in the
            order of the machines, and a machine's processes read its files alone.

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
        >>> data.train_rows.x.shape  # numbers, standardised, beside codes of levels
        (5, 3)
        >>> data.train_rows.x.dense()[:, 1:].tolist()  # their levels as 0 and 1
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """

    def __init__(
        self,
        path: Any,
        target: str | None = None,
        features: list[str] | None = None,
        weight: str | None = None,
        offset: str | None = None,
        trials: str | None = None,
        groups: str | None = None,
        positive: str | int | float | bool | None = None,
        categorical: list[str] | None = None,
        na: list[str] | None = None,
        missing: Literal["error", "drop", "impute"] = "error",
        unseen: Literal["error", "reference"] = "error",
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        batch_size: int | None = None,
        seed: int = 0,
        cache_dir: str | None = None,
        shuffle: bool | None = None,
        local_files: bool = False,
    ):
        super(TensorDataModule, self).__init__()
        # The hyperparameters take their values from these names, and a checkpoint takes plain values only.
        in_memory = not isinstance(path, str | os.PathLike)
        path = path if in_memory else str(os.fspath(path))
        target, weight, offset, trials, groups = (
            None if name is None else str(name) for name in (target, weight, offset, trials, groups)
        )
        features, categorical = (
            None if names is None else [str(name) for name in names] for names in (features, categorical)
        )
        if isinstance(na, str):
            raise InputError(f'--data.na must be a list of texts, such as ["", "NA"], not {na!r}')
        na = None if na is None else [str(text).strip() for text in na]
        positive = _plain(positive)
        cache_dir = None if cache_dir is None else str(os.fspath(cache_dir))
        self.save_hyperparameters(ignore=["path"] if in_memory else [])

        self.path, self.cache_dir, self.local_files = path, cache_dir, local_files
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.batch_size, self.seed = batch_size, seed
        self.shuffle = batch_size is not None if shuffle is None else shuffle
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--data.batch_size must be at least 1, not {batch_size}")
        roles = {"weight": weight, "offset": offset, "trials": trials, "groups": groups}
        self._choices = Choices(
            target,
            None if features is None else tuple(features),
            {role: name for role, name in roles.items() if name is not None},
            positive,
            tuple(categorical or ()),
            missing,
            unseen,
            None if na is None else tuple(na),
        )
        self._given: tuple[TableSchema, Standardization] | None = None
        self._every_row = False
        self._expected_fingerprint: int | None = None
        self._mapped = False  # to files in a cache folder

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
    """A checksum of the targets and groups of the rows in use, in order: all that the split depends on."""
    fold_column: str | None = None
    """A column of folds for a cross-validation, to be named before `setup`, which then gives `train_folds`."""
    fold_values: Sequence[Level] = ()
    """The values of that column, by the numbers in `train_folds`."""

    def prepare_data(self) -> None:
        """Decode a table that does not fit in memory, in one process of each machine."""
        try:
            decoder = self._decoder()
            shared = isinstance(decoder, Decoder) and (self.local_files or decoder.is_shared(self.processes))
            if decoder.needs_cache() and not shared:
                decoder.decode(self._dtype())
        except InputError:
            # Other processes wait for this one; all of them will meet the mistake together, in `setup`.
            if self.trainer is None or self.trainer.world_size == 1:
                raise

    def setup(self, stage: str) -> None:
        """Read, check, split and standardise the table.

        Raises:
            InputError: for anything that a person has to change.
        """
        if hasattr(self, "served") and self._served_as == self._dtype():
            return
        self._served_as = self._dtype()
        with refused_together(self.processes):
            decoder = self._decoder()
        decoded = decoder.decode(self._dtype(), self.processes)
        if self._expected_fingerprint not in (None, decoded.fingerprint) and not self._every_row:
            raise InputError(
                f"{decoder.source.name} has changed since the fit, and the rows that the fit kept back cannot be "
                "found again; name a table with --data.path to use all its rows"
            )
        for level, text in decoded.messages:
            log.log(level, text)
        self.schema, self.training, self.served = decoded.schema, decoded.training, decoded.served
        self.weight_scale, self.fingerprint, self._mapped = decoded.weight_scale, decoded.fingerprint, decoded.mapped
        self._rows_fingerprint, self.split_rule = decoded.rows_fingerprint, decoded.split_rule
        self.log_coefficient, self.fold_values = decoded.log_coefficient, decoded.fold_values
        if decoded.shares is None:
            decoded = decoded.share_of(self.processes)
        self.shares = {str(part): share for part, share in zip(PARTS, decoded.shares or (), strict=True)}
        self.train_groups, self.train_folds = decoded.groups, decoded.folds
        self.train_numbers, self.train_filled = decoded.train_numbers, decoded.filled
        train_rows, self.val_rows, self.test_rows = decoded.parts
        if self._every_row:
            self.val_rows, self.shares = self.test_rows, {**self.shares, "val": self.shares["test"]}
            return
        assert train_rows is not None  # noqa: S101 (the split leaves no part empty)
        self.train_rows = train_rows

    def rows_fingerprint(self) -> Callable[[], str]:
        """A function that returns the checksum, which was computed as the table was read."""
        return partial(str, self._rows_fingerprint)

    def predict_dataloader(self) -> TensorBatches:
        """Batches of every row of the table with raw features, in its order; NaN for those without a prediction."""
        rows = self._rows_to_predict()
        return self._in_order(rows, self.processes.place(len(rows.y)).total)

    def _rows_to_predict(self) -> Rows:
        """This process's share of the rows, which it reads alone where the table can be read in parts."""
        processes = self.processes
        if processes.count > 1 and isinstance(self.path, str) and open_svmlight(self.path) is None:
            source = open_source(self.path)
            n_rows = source.n_rows()
            if processes.all(n_rows is not None):
                own = processes.share(n_rows or 0, of_machine=self.local_files)
                with suppress(NotMergedError), mistakes_in_all(processes):
                    return encode_rows(self.schema, PartOfSource(source, own.start, own.stop)).as_rows()
        with refused_together(processes):
            rows = encode_rows(self.schema, self.path).as_rows()
        return rows.take(processes.share(len(rows.y), of_machine=self.local_files))

    def _decoder(self) -> Decoder | SvmlightDecoder:
        split = Split(self.val_fraction, self.test_fraction, self.seed, self._every_row, self.split_rule)
        roles = {**self._choices.roles, **({} if self.fold_column is None else {FOLD.name: self.fold_column})}
        choices = replace(self._choices, roles=roles)
        if (sparse := open_svmlight(self.path)) is not None:
            if self.local_files:
                raise InputError(
                    f"--data.local_files: {sparse.name} is an svmlight file, which all machines read whole"
                )
            return SvmlightDecoder(sparse, choices, split, self._given, self.cache_dir)
        return Decoder(self.path, choices, split, self._given, self.cache_dir, local_files=self.local_files)

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
