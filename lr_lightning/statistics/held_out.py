"""Measures of predictions on held-out rows, for logs, report and figures.

All measures are weighted by the sample weights and computed in float64. Rows are ranked by their logits, because
different logits can have probabilities that both round to 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lr_lightning.model.linear_sigmoid import LinearSigmoid, linear_predictor
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization

MEASURES = ("loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error")
N_BINS = 15


def weighted_rows(score: Any, y: Any, weight: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets and weights of the rows of positive weight, float64, each (m,), on one device.

    Args:
        score: logits or probabilities, (n,), a tensor or an array, as the others.
        y: targets 0 or 1, (n,).
        weight: sample weights, (n,), not negative; None for ones.
    """
    of_rows = _float64(score)
    columns = (of_rows, _float64(y).to(of_rows), torch.ones_like(of_rows) if weight is None else _float64(weight))
    counts = columns[2] > 0
    return columns if bool(counts.all()) else tuple(column[counts] for column in columns)  # type: ignore[return-value]


def predicted(model: LinearSigmoid, served: Standardization, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights of the rows of positive weight, float64, each (m,), on the CPU.

    Args:
        model: anywhere.
        served: what has been taken off the features of the rows.
        rows: likewise anywhere.
    """
    rows = rows.to(torch.device("cpu"))
    affine = (t.detach() for t in model.cpu_copy().served_affine(served))
    return weighted_rows(linear_predictor(rows.x, *affine), rows.y, rows.weight)


def mean(values: Tensor, weight: Tensor) -> float:
    """The weighted mean of values (n,), with weights (n,)."""
    return float(values @ weight / weight.sum())


class Ranking(NamedTuple):
    """The weights of the rows at or above each distinct score; each (m,), float64.

    Attributes:
        score: the distinct scores, descending.
        positive: total weight of the positive rows at or above the score.
        negative: total weight of the negative rows at or above the score.
    """

    score: Tensor
    positive: Tensor
    negative: Tensor

    @classmethod
    def by(cls, score: Tensor, y: Tensor, weight: Tensor) -> Ranking:
        """Rank rows by a score (n,), with targets (n,) and weights (n,).

        Raises:
            ValueError: if the rows do not hold both classes.
        """
        score, order = score.sort(descending=True, stable=True)
        v, is_positive = weight[order], y[order] > 0.5
        positive, negative = (torch.where(mask, v, 0.0).cumsum(0) for mask in (is_positive, ~is_positive))
        if not (len(score) and positive[-1] > 0 and negative[-1] > 0):
            raise ValueError("ranking needs rows of both classes")
        last = torch.ones_like(is_positive)  # the last row of each distinct score
        last[:-1] = score[1:] != score[:-1]
        return cls(score[last], positive[last], negative[last])

    def roc(self) -> tuple[Tensor, Tensor]:
        """False and true positive rate, from (0, 0) to (1, 1), each (m + 1,)."""
        return _from_zero(self.negative) / self.negative[-1], _from_zero(self.positive) / self.positive[-1]

    def precision_recall(self) -> tuple[Tensor, Tensor]:
        """Precision and recall at each score, each (m,)."""
        return self.positive / (self.positive + self.negative), self.positive / self.positive[-1]

    def auroc(self) -> float:
        """The area under the ROC curve by the trapezoidal rule; a tie counts half."""
        false, true = self.roc()
        return min(1.0, float(torch.trapezoid(true, false)))

    def average_precision(self) -> float:
        """The average precision: Σ (recall_k − recall_{k−1})·precision_k, without interpolation."""
        precision, recall = self.precision_recall()
        return min(1.0, float(precision @ _from_zero(recall).diff()))


def measures(logits: Tensor, y: Tensor, weight: Tensor, threshold: float) -> dict[str, float]:
    """The held-out measures by name, in the order of `MEASURES`.

    AUROC, average precision and F1 are absent if all rows are of one class.

    Args:
        logits: the linear predictor, (n,), n ≥ 1; as the others from `weighted_rows`.
        y: targets 0 or 1, (n,).
        weight: sample weights, (n,), positive.
        threshold: a probability above it is a positive prediction.
    """
    probability = torch.sigmoid(logits)
    cells = confusion(probability, y, weight, threshold).tolist()
    (true_negative, false_positive), (false_negative, true_positive) = cells
    wrong = false_positive + false_negative
    values = {
        "loss": mean(binary_cross_entropy_with_logits(logits, y, reduction="none"), weight),
        "accuracy": (true_negative + true_positive) / (true_negative + true_positive + wrong),
        "brier": brier(probability, y, weight),
        "calibration_error": reliability(probability, y, weight).expected_calibration_error(),
    }
    if has_both_classes(y):
        ranking = Ranking.by(logits, y, weight)
        values["auroc"], values["average_precision"] = ranking.auroc(), ranking.average_precision()
        values["f1"] = 2 * true_positive / (2 * true_positive + wrong)
    return {name: values[name] for name in MEASURES if name in values}


def has_both_classes(y: Tensor) -> bool:
    """Whether targets (n,) have both classes."""
    return bool((y > 0.5).any()) and bool((y < 0.5).any())


def brier(probability: Tensor, y: Tensor, weight: Tensor) -> float:
    """The Brier score: the mean squared difference of probability and outcome."""
    return mean((probability - y).square(), weight)


def confusion(probability: Tensor, y: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """The confusion matrix: total weight by actual label (rows) and predicted label (columns), (2, 2), on the CPU."""
    cell = 2 * (y > 0.5).long() + (probability > threshold).long()
    return _sums(cell, weight, 4).reshape(2, 2)


class Bins(NamedTuple):
    """Statistics of the rows in m bins of predicted probability; each (m,), float64, on the CPU.

    Attributes:
        weight: total weight.
        prediction: mean probability, NaN in an empty bin.
        outcome: share of positive rows, NaN in an empty bin.
        size: effective number of rows, (Σv)² / Σv² (Kish 1965), NaN in an empty bin.
    """

    weight: Tensor
    prediction: Tensor
    outcome: Tensor
    size: Tensor

    def expected_calibration_error(self) -> float:
        """The mean of |mean prediction − share of positive rows| over the bins, weighted by their total weight."""
        return float((self.weight * (self.prediction - self.outcome).abs()).nansum() / self.weight.sum())


def reliability(probability: Tensor, y: Tensor, weight: Tensor, n_bins: int = N_BINS) -> Bins:
    """Predicted and observed shares in bins [a, b) of equal width; the last bin includes 1."""
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64, device=probability.device)
    index = torch.bucketize(probability, edges[1:-1], right=True)
    total, prediction, outcome, squares = (
        _sums(index, values, n_bins) for values in (weight, weight * probability, weight * y, weight.square())
    )
    return Bins(total, prediction / total, outcome / total, total.square() / squares)


def _sums(index: Tensor, values: Tensor, n: int) -> Tensor:
    # On the CPU, because a GPU adds in an order that changes from run to run.
    return torch.zeros(n, dtype=values.dtype).index_add_(0, index.cpu(), values.cpu())


def _float64(values: Any) -> Tensor:
    values = values.detach() if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    return values.double().reshape(-1)


def _from_zero(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (1, 0))
