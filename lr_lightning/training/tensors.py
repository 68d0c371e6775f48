"""Rows that fit in memory, served as slices of resident tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lr_lightning.data.loader import TensorBatches
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.splits import stratified_split
from lr_lightning.errors import InputError
from lr_lightning.model.rows import OTHER_SPLIT, Rows, of_light_weights, scaled_weights
from lr_lightning.model.standardization import Standardization, moments, standardization_to_serve

log = logging.getLogger("lr_lightning")
DESCRIPTION = ("schema", "prediction_input", "curve", "data", "fingerprint")


class TensorDataModule(LightningDataModule):
    """Serves the rows of a tensor or array.

    Of several processes each serves its own rows, all of them once and none twice: consecutive ones, in the
    order of the processes, or, in training with a batch size, a share of each batch that one process alone
    would serve.

    After `setup`, `train_rows`, `val_rows` and `test_rows` hold the splits. Their features may have been
    standardised on the way from float64 to the Trainer's precision (a timestamp would lose its digits in
    float32 otherwise): `served` is the map that has been applied, and the module takes it into account.

    Args:
        x: features, shape (n, d), a tensor or array of numbers.
        y: targets, shape (n,) or (n, 1), each 0 or 1.
        weight: sample weights, shape (n,), non-negative.
        val_fraction: share of the rows kept back for validation, stratified by the target; of a class of two rows
            or more at least one stays for training.
        test_fraction: share of the rows kept back for the test.
        batch_size: rows a batch; None is one batch of all rows.
        shuffle: shuffle the training rows anew each epoch; None does so where there is a batch size.
        seed: of the split and of the shuffling.
        feature_names: one name a column; x0, x1, … by default.

    Raises:
        InputError: if the shapes disagree, a target is not 0 or 1, a weight is negative, or a feature is not
            finite.

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
    """What has been taken off the features that the batches hold."""
    train_rows: Rows
    val_rows: Rows | None = None
    test_rows: Rows | None = None
    fingerprint: int | None = None
    """What the split into parts depends on, where the rows come from somewhere that may change."""
    weight_scale: float = 1.0
    """What the weights of the batches have been divided by: 1 unless they are very large or very small."""
    prediction_input: list[list[float]] | None = None
    """Rows that `predict` takes where no data are named."""

    def __init__(
        self,
        x: Any,
        y: Any,
        weight: Any = None,
        *,
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
        self._rows, self.weight_scale = _checked_rows(x, y, weight)
        names = feature_names or [f"x{j}" for j in range(self._rows.x.shape[1])]
        self.schema = TableSchema.of_numbers(names, target="y")

    def setup(self, stage: str) -> None:
        """Split the rows and bring the training features into a shape that keeps their digits."""
        if hasattr(self, "train_rows") and self._served_as == self._dtype():
            return
        self._served_as = self._dtype()
        train, val, test = stratified_split(
            self._rows.y, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=self.seed
        )
        rows = self._rows if train is None else self._rows.take(train)
        val_rows, test_rows = (None if index is None else self._rows.take(index) for index in (val, test))
        for part, of_part in (("training", rows), ("validation", val_rows), ("test", test_rows)):
            if of_part is not None and of_part.weight is not None and not bool((of_part.weight > 0).any()):
                raise InputError(f"every {part} row has the weight 0; {OTHER_SPLIT}")
        self.training = moments([(rows.x, rows.weight)]).to("cpu")
        self._refuse_not_finite()
        same_dtype = self._dtype() == rows.x.dtype
        served = standardization_to_serve(self.training) if same_dtype else self.training.divisible()
        self.served = served or Standardization.identity(rows.x.shape[1])

        def serve(rows: Rows) -> Rows:
            x = rows.x if served is None else served.apply(rows.x, self._dtype())
            return Rows(x, rows.y.to(x.dtype), None if rows.weight is None else rows.weight.to(x.dtype))

        self.train_rows = serve(rows)
        self.val_rows = None if val_rows is None else serve(val_rows)
        self.test_rows = None if test_rows is None else serve(test_rows)
        light = None if self._rows.weight is None else of_light_weights(self._rows.weight, self.train_rows.x.dtype)
        if light is not None:
            log.warning(light)

    @property
    def training_as_served(self) -> Standardization:
        """Means and scales of the training rows in the units that the batches hold."""
        mean, scale = self.training
        return Standardization((mean - self.served.mean) / self.served.scale, scale / self.served.scale)

    def train_dataloader(self) -> TensorBatches:
        """Batches of the training rows, resident on the Trainer's device."""
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        if self.batch_size is None or self._process == (0, 1):
            return self._part(self.train_rows, shuffle=shuffle)
        # The batches of one process alone, of each its share; so every row has to be at hand in every process.
        rows = self._on_device(self.train_rows)
        return TensorBatches(rows, self.batch_size, shuffle=shuffle, seed=self.seed, process=self._process)

    def val_dataloader(self) -> TensorBatches:
        """Batches of the validation rows, in order."""
        return self._part(self._held_out(self.val_rows))

    def test_dataloader(self) -> TensorBatches:
        """Batches of the test rows, in order; of the validation rows where no test rows were kept back."""
        return self._part(self._held_out(self.val_rows if self.test_rows is None else self.test_rows))

    def predict_dataloader(self) -> TensorBatches:
        """Batches of every row that was given, in its order, with raw features."""
        return self._part(self._rows)

    def description(self) -> dict[str, Any]:
        """What a checkpoint has to say of the data, as plain types; the keys are `DESCRIPTION`."""
        values = (self.schema.to_dict(), self.prediction_input, self.curve(), self.settings(), self.fingerprint)
        return dict(zip(DESCRIPTION, values, strict=True))

    def settings(self) -> dict[str, Any]:
        """Class and arguments, by which the command line makes another one."""
        package = type(self).__module__
        package = "lr_lightning" if package.startswith("lr_lightning.") else package  # public names outlive modules
        return {"class_path": f"{package}.{type(self).__qualname__}", "init_args": dict(self.hparams)}

    def points(self, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """Training rows as points of a picture: raw features (m, d) and targets (m,), m evenly spaced rows."""
        rows = self.train_rows.take(slice(None, None, -(-len(self.train_rows.y) // most)))
        raw = rows.design.dense(torch.float64).cpu() * self.served.scale + self.served.mean
        return raw.numpy(), rows.y.cpu().numpy()

    def curve(self) -> dict[str, Any] | None:
        """Where to draw the probability curve of a single feature: `low`, `high`, `x_label` and `y_label`."""
        if len(self.schema.feature_names) != 1:
            return None
        x, _ = self.points(len(self.train_rows.y))
        low, high = float(x.min()), float(x.max())
        margin = 0.1 * (high - low)
        target, positive = self.schema.target, self.schema.written_labels[1]
        return {
            "low": low - margin,
            "high": high + margin,
            "x_label": self.schema.feature_names[0],
            "y_label": f"Probability of {target} = {positive}",
        }

    @staticmethod
    def _held_out(rows: Rows | None) -> Rows:
        if rows is None:
            raise InputError("the fit kept no rows back; name other data, or set val_fraction or test_fraction")
        return rows

    @property
    def _process(self) -> tuple[int, int]:
        """The number of this process and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _part(self, rows: Rows, shuffle: bool = False) -> TensorBatches:
        """All rows, or those of this process, in as many batches as every other has: they meet after each."""
        rank, processes = self._process
        n_rows, n_batches = len(rows.y), None
        if processes > 1:
            n_batches = 1 if self.batch_size is None else -(-n_rows // (processes * self.batch_size))
            rows = rows.take(slice(n_rows * rank // processes, n_rows * (rank + 1) // processes))
        rows = self._on_device(rows)
        return TensorBatches(rows, self.batch_size, shuffle=shuffle, seed=self.seed, n_batches=n_batches)

    def _on_device(self, rows: Rows) -> Rows:
        return rows if self.trainer is None else rows.to(self._device_of_rows(self.trainer.strategy.root_device))

    def _device_of_rows(self, of_trainer: torch.device) -> torch.device:
        """Where the rows stay during a fit."""
        return of_trainer

    def _dtype(self) -> torch.dtype:
        if self.trainer is None:
            return self._rows.x.dtype
        return torch.float64 if self.trainer.precision == "64-true" else torch.float32

    def _refuse_not_finite(self) -> None:
        bad = (~self.training.mean.isfinite()).nonzero()
        if len(bad):
            name = self.schema.feature_names[int(bad[0])]
            raise InputError(f"feature {name} holds a missing or infinite value; every feature must be finite")


def _checked_rows(x: Any, y: Any, weight: Any) -> tuple[Rows, float]:
    x, y = _tensor(x), _tensor(y)
    if x.dtype not in (torch.float32, torch.float64):
        x = x.double()
    if x.ndim != 2:
        raise InputError(f"x must have two dimensions, (rows, features), not shape {tuple(x.shape)}")
    if y.shape == (len(x), 1):
        y = y[:, 0]
    if y.shape != (len(x),):
        raise InputError(f"y must have shape ({len(x)},) to match x, not {tuple(y.shape)}")
    if not len(x):
        raise InputError("x has no rows")
    if not bool(((y == 0) | (y == 1)).all()):
        raise InputError("y must hold nothing but 0 and 1")
    scale = 1.0
    if weight is not None:
        weight = _tensor(weight)
        if weight.shape != (len(x),):
            raise InputError(f"weight must have shape ({len(x)},) to match x, not {tuple(weight.shape)}")
        if not bool((weight >= 0).all() & weight.isfinite().all()):
            raise InputError("every weight must be finite and not negative")
        if not bool((weight > 0).any()):
            raise InputError("at least one weight must be positive")
        weight, scale = scaled_weights(weight.detach())
    return Rows(x.detach(), y.detach().to(x.dtype), weight), scale


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind in "USMm":
        raise InputError(f"x, y and weight must hold numbers, not {array.dtype}; TableDataModule reads other columns")
    with warnings.catch_warnings():
        # Of arrays that must not be written to, such as memory-mapped ones; nothing here ever writes.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
