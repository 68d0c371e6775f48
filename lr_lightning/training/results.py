"""What a finished fit has to say: the report of the training rows, and what held-out rows add to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import linear_predictor
from lr_lightning.model.rows import Rows
from lr_lightning.statistics.calibration import calibrate, choose_threshold
from lr_lightning.statistics.held_out import weighted_rows
from lr_lightning.statistics.summary import Inference, make_report
from lr_lightning.statistics.wald import CovarianceType
from lr_lightning.training.optimizers import EXACT
from lr_lightning.training.tensors import TensorDataModule
from lr_lightning.training.training_summary import row_weights

if TYPE_CHECKING:
    from lr_lightning.training.module import LogisticRegression

THRESHOLD_RULES = "a number between 0 and 1, f1, youden, or cost=R (a false negative costs R false positives)"


@dataclass(frozen=True)
class WeightedBatches:
    """Batches `(x, y, v)`, v the sample weight times the class weight, anew at each iteration."""

    batches: Sequence[Sequence[Tensor]]
    class_weights: tuple[float, float]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for x, y, *weight in self.batches:
            v = row_weights(y, weight[0] if weight else None, self.class_weights)
            yield (x, y) if v is None else (x, y, v)


def infer(
    module: LogisticRegression, data: TensorDataModule, *, covariance: CovarianceType = "nonrobust", level: float = 0.95
) -> Inference:
    """The report of a fitted module, from one sweep over its training rows, and a few more where something is amiss.

    Args:
        module: after its fit.
        data: what it was fitted to.
        covariance: nonrobust (the inverse Hessian), HC0 or HC1.
        level: of the confidence intervals.
    """
    training, hparams = module.training_summary, module.hparams
    weight, bias = (t.detach().cpu() for t in module.linear_sigmoid.cpu_copy().served_affine(data.served))
    return make_report(
        WeightedBatches([data.train_rows.as_batch()], training.class_weights),  # type: ignore[arg-type]
        weight=weight,
        bias=bias,
        served=data.served,
        training=training.standardization,
        feature_names=list(data.schema.feature_names),
        converged=module.converged,
        passes=module.trainer.current_epoch,
        intercept=hparams["fit_intercept"],
        penalized=hparams["l1"] > 0 or hparams["l2"] > 0,
        class_weighted=training.class_weights != (1.0, 1.0),
        weight_scale=training.weight_scale,
        partial=not module.saw_all_rows,
        exact=hparams["optimizer"] == EXACT,
        covariance=covariance,
        level=level,
    )


def predicted(module: LogisticRegression, data: TensorDataModule, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights of the rows, as served, whose weight is positive; float64, each (m,), on the CPU."""
    rows = rows.to(torch.device("cpu"))
    affine = (t.detach() for t in module.linear_sigmoid.cpu_copy().served_affine(data.served))
    return weighted_rows(linear_predictor(rows.x, *affine), rows.y, rows.weight)


def with_held_out(inference: Inference, module: LogisticRegression, data: TensorDataModule) -> Inference:
    """Add the calibration on the validation rows, and the threshold that they choose where a rule is to.

    Raises:
        InputError: if a threshold is to be chosen and no validation rows of both classes, of positive weight, were
            kept back.
    """
    rule = module.hparams["threshold"]
    if data.val_rows is None:
        if isinstance(rule, str):
            raise InputError(f"model.threshold {rule} is chosen on validation rows; set data.val_fraction above 0")
        return inference._replace(report=inference.report.with_held_out(None, rule))
    logits, y, weight = predicted(module, data, data.val_rows)
    threshold, words = (rule, None)
    if isinstance(rule, str):
        try:
            threshold = choose_threshold(torch.sigmoid(logits), y, threshold_criterion(rule), weight)
        except ValueError as error:
            raise InputError(
                f"model.threshold {rule}: {error}; split otherwise (data.val_fraction, data.seed) or give a number"
            ) from error
        words = f"{rule} on the validation rows"
    return inference._replace(report=inference.report.with_held_out(calibrate(logits, y, weight), threshold, words))


def threshold_criterion(rule: str) -> str | float:
    """What a threshold's rule asks to be best: f1, youden, or a ratio of costs.

    Raises:
        InputError: if it is none of these.
    """
    if rule in ("f1", "youden"):
        return rule
    match = re.fullmatch(r"cost=(\d+\.?\d*)", rule)
    if match is None or float(match[1]) == 0:
        raise InputError(f"model.threshold must be {THRESHOLD_RULES}, not {rule}")
    return float(match[1])
