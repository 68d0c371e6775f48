"""Prediction from a checkpoint with torch, without Lightning and torchmetrics."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lr_lightning.checkpoint.archive import load_archive
from lr_lightning.checkpoint.validate import check_contents, model_state
from lr_lightning.data.arrays import encode_sparse, is_sparse, values_of_role
from lr_lightning.data.encode import EncodedRows, encode_rows
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from lr_lightning.model.design import Design, as_design
from lr_lightning.model.linear_sigmoid import LinearSigmoid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lr_lightning.statistics.report import Report


def load(checkpoint: str | os.PathLike[str]) -> Predictor:
    """A predictor from a checkpoint file, on the CPU and in eval mode.

    Args:
        checkpoint: the path of a checkpoint of `lr-lightning fit` or of a Trainer. Nothing in the file is executed.

    Raises:
        InputError: if the file is not a valid checkpoint of a logistic regression, or has content that is not allowed.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch import Trainer
        >>> from lr_lightning import HoursDataModule, LogisticRegression, load
        >>> trainer = Trainer(
        ...     max_epochs=100, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> trainer.fit(LogisticRegression(l2=0.1), HoursDataModule())
        >>> with TemporaryDirectory() as folder:
        ...     trainer.save_checkpoint(Path(folder) / "hours.ckpt")
        ...     predictor = load(Path(folder) / "hours.ckpt")
        >>> list(predictor.coefficients)
        ['hours']
        >>> predictor.probability([[1.0], [4.0]]) > 0.5
        tensor([False,  True])
        >>> predictor.predict({"hours": [1.0, 4.0]})
        array([0, 1])
    """
    return Predictor.from_checkpoint(load_archive(checkpoint), os.fsdecode(checkpoint))


class Predictor:
    """A fitted model together with the schema of its table.

    Args:
        model: the fitted model; it is put into eval mode.
        schema: the map from raw columns to the features.
        threshold: a probability above it is a positive prediction.
        prediction_input: rows (n, d) that are predicted when no data are given, or None.
        curve: the probability curve of a single feature as a dict of its ends `low` and `high` and the axes' labels
            `x_label` and `y_label`, or None.
        report: `Report.to_dict()` of the fit, or None.
        covariance: `Covariance.to_dict()` of the fit, or None where there are no standard errors.

    Example:
        `load` makes a predictor from a checkpoint. A model with known coefficients needs none:

        >>> import torch
        >>> from lr_lightning import LinearSigmoid, Predictor, TableSchema
        >>> model = LinearSigmoid(1)
        >>> model.set_coefficients(torch.tensor([1.5046], dtype=torch.float64), intercept=-4.0777)
        >>> predictor = Predictor(model, TableSchema.of_numbers(["hours"], target="passed"))
        >>> predictor.coefficients
        {'hours': 1.5046}
        >>> [round(p, 3) for p in predictor.probability({"hours": [2.0, 4.0]}).tolist()]
        [0.256, 0.874]
    """

    def __init__(
        self,
        model: LinearSigmoid,
        schema: TableSchema,
        *,
        threshold: float = 0.5,
        prediction_input: list[list[float]] | None = None,
        curve: dict[str, Any] | None = None,
        report: dict[str, Any] | None = None,
        covariance: dict[str, Tensor] | None = None,
    ):
        self.model = model.eval().requires_grad_(False)
        self.model.needs_offset |= schema.offset is not None
        self.schema = schema
        self.threshold = threshold
        self.prediction_input = prediction_input
        self.curve = curve
        self._report, self._covariance = report, covariance

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any], name: str) -> Predictor:
        """A predictor from the content of a checkpoint, which error messages call `name`.

        Raises:
            InputError: if the parts of the checkpoint contradict each other.
        """
        check_contents(checkpoint, name)
        state = model_state(checkpoint)
        model = LinearSigmoid(state["linear.weight"].shape[1], fit_intercept="linear.bias" in state)
        model.load_state_dict(state)
        model.needs_offset = checkpoint.get("needs_offset", False)
        if checkpoint.get("schema") is None:
            schema = TableSchema.of_numbers([f"x{j}" for j in range(len(state["mean"]))], target="y")
        else:
            schema = TableSchema.from_dict(checkpoint["schema"])
        return cls(
            model,
            schema,
            threshold=checkpoint.get("threshold", 0.5),
            prediction_input=checkpoint.get("prediction_input"),
            curve=checkpoint.get("curve"),
            report=checkpoint.get("report"),
            covariance=checkpoint.get("covariance"),
        )

    def logits(self, data: Any, offset: Any = None) -> Tensor:
        """The linear predictor, float64, shape (n,); NaN for a row with a missing value under `missing="drop"`.

        Args:
            data: a tensor or array of raw features, shape (n, d), in the schema's order, a sparse one of torch or SciPy
                too, or a table: pandas, polars, pyarrow, or the path of a file.
            offset: log-odds that are added, shape (n,); None takes them from the table's column if the fit had an
                offset.

        Raises:
            InputError: if the data do not fit the schema, or the fit had an offset and none is given.
        """
        if is_sparse(data):
            x = encode_sparse(self.schema, data)
            return self.model.logits(x, None if offset is None else values_of_role("offset", offset, x.shape[0]))
        rows = self._encode(data, offset).as_rows()
        return self.model.logits(rows.x, rows.offset)

    def _encode(self, data: Any, offset: Any) -> EncodedRows:
        if isinstance(data, (list, tuple)):  # rows of numbers
            data = torch.tensor(data, dtype=torch.float64)
        if offset is None:
            return encode_rows(self.schema, data)
        rows = encode_rows(replace(self.schema, offset=None), data)
        x = as_design(rows.x)
        return rows._replace(offset=values_of_role("offset", offset, x.shape[0]).to(x.device))

    def probability(self, data: Any, offset: Any = None) -> Tensor:
        """P(positive label | data), float64, shape (n,), NaN as in `logits`, which says what the arguments are."""
        return torch.sigmoid(self.logits(data, offset))

    def predict(self, data: Any, offset: Any = None) -> np.ndarray:
        """The predicted labels, shape (n,), None if the probability is NaN. Arguments are those of `logits`."""
        return self.labels_of(self.probability(data, offset))

    def labels_of(self, probability: Tensor) -> np.ndarray:
        """The predicted labels, shape (n,), from probabilities (n,)."""
        labels = np.array([*self.schema.predicted_labels, None], dtype=object)
        index = torch.where(probability.isnan(), 2, (probability > self.threshold).long()).numpy()
        predicted = labels[index]
        # Without a None, NumPy finds the dtype of the labels.
        return predicted if (index == 2).any() else np.array(predicted.tolist())

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficients on the original feature scale, by feature name."""
        coefficients, _ = self.model.coefficients()
        return dict(zip(self.schema.feature_names, coefficients.tolist(), strict=True))

    @property
    def intercept(self) -> float:
        """The intercept on the original feature scale."""
        return self.model.coefficients()[1]

    def report(self) -> Report:
        """The report of the fit.

        Raises:
            InputError: if the checkpoint has no report, because the fit had not ended, or that of another model.
        """
        from lr_lightning.statistics.report import Report

        if self._report is None:
            raise InputError("the checkpoint has no report; last.ckpt of a finished fit has one")
        report = Report.from_dict(self._report)
        names = tuple(row.name for row in report.coefficients)
        with_intercept = ("(Intercept)", *self.schema.feature_names)
        if names != (with_intercept if self.model.linear.bias is not None else self.schema.feature_names):
            raise InputError("the report in the checkpoint is damaged (its coefficients are not the model's)")
        return report

    def probability_interval(self, data: Any, level: float = 0.95, *, offset: Any = None) -> tuple[Tensor, Tensor]:
        """Confidence limits of `probability`, by the delta method on the logit.

        Args:
            data: see `logits`.
            level: the confidence level, between 0 and 1.
            offset: see `logits`.

        Returns:
            Lower and upper limits, float64, each of shape (n,).

        Raises:
            InputError: if the fit has no covariance, as under a penalty or separation, or the data do not fit the
                schema.
            ValueError: if the level does not lie between 0 and 1.
        """
        rows = self._encode(data, offset).as_rows()
        return self.interval_of(rows.x, level, rows.offset)

    def interval_of(
        self, x: Tensor | Design, level: float = 0.95, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Confidence limits, as in `probability_interval`, at raw features x that are encoded, float64, (n, d)."""
        from lr_lightning.statistics.wald import Covariance

        if self._covariance is None:
            raise InputError("the checkpoint has no covariance, so there are no intervals; its report says why")
        logits = self.model.logits(x, offset)
        limits = Covariance.from_dict(self._covariance).probability_interval(x, logits, level)
        low, high = (torch.from_numpy(limit) for limit in limits)
        return low, high

    def probability_curve(self, x: Any = None, y: Any = None, *, level: float = 0.95) -> Figure:
        """A figure of P(positive label) against a single feature.

        Args:
            x: values of the feature, shape (n,), to draw as points; None draws the curve alone.
            y: their 0/1 targets, shape (n,).
            level: the confidence level of the band.

        Raises:
            InputError: if the model has more than one feature, or an offset, on which the curve would depend.
        """
        from lr_lightning.plots import probability_curve

        if self.curve is None or len(self.schema.feature_names) != 1 or self.model.needs_offset:
            n, more = len(self.schema.feature_names), " and an offset" if self.model.needs_offset else ""
            raise InputError(f"a model of {n} feature{'s' * (n != 1)}{more} has no probability curve")
        grid = torch.linspace(self.curve["low"], self.curve["high"], 200, dtype=torch.float64)
        band = None if self._covariance is None else self.interval_of(grid[:, None], level)
        return probability_curve(
            grid.numpy(),
            torch.sigmoid(self.model.logits(grid[:, None])).numpy(),
            band=None if band is None else (band[0].numpy(), band[1].numpy()),
            level=level,
            x_label=self.curve["x_label"],
            y_label=self.curve["y_label"],
            points=None if x is None or y is None else (np.asarray(x), np.asarray(y)),
        )
