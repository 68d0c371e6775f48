"""Held-out rows: measures and calibration of the predictions, and the choice of a threshold.

All measures are weighted by the sample weights and computed in float64. Rows are ranked by their logits, because
different logits can have probabilities that both round to 1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.objective import Objective
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver.fit import solve

MEASURES = ("loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error")
N_BINS = 15
MOST_ROWS = 10_000_000
"""Up to so many held-out rows are ranked one by one; beyond, they are merged by their logits."""
MOST_DRAWN = 1_000_000
"""Up to so many rows of several processes are brought together for a picture, and so many of a cross-validation kept;
beyond, they are merged likewise."""
_BINS, _REACH = 2**20, 20.0  # of asinh(logit); sinh(20) is 2.4·10⁸
_MERGED = 2**22  # rows at a time
_TOLERANCE = 1e-18  # relative, of the objective; the intercept and the slope are then exact to rounding
THRESHOLD_RULES = "a number between 0 and 1, f1, youden, or cost=R (a false negative costs R false positives)"


def weighted_rows(score: Any, y: Any, weight: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets 0 or 1, and weights of the rows of positive weight, float64, each (m,), on one device.

    A row of trials with both outcomes is two of these: its failures, and its successes.

    Args:
        score: logits or probabilities, (n,), a tensor or an array, as the others.
        y: targets 0 or 1, or shares of successes, (n,).
        weight: sample weights, (n,), not negative; None for ones.
    """
    of_rows = _float64(score)
    v = _ones(of_rows) if weight is None else _float64(weight).to(of_rows)
    rows = Rows(of_rows[:, None], _float64(y).to(of_rows), v).by_outcome()
    columns = (rows.design.dense()[:, 0], rows.y, v if rows.weight is None else rows.weight)
    counts = columns[2] > 0
    return columns if bool(counts.all()) else tuple(column[counts] for column in columns)  # type: ignore[return-value]


def predicted(model: LinearSigmoid, served: Standardization, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, float64, targets and weights of rows, each (n,), on the CPU; targets may be shares of successes.

    Args:
        model: the fitted model, on any device.
        served: the standardisation of the features in the rows.
        rows: the rows, on any device.
    """
    rows = rows.to(torch.device("cpu"))
    affine = (t.detach() for t in model.cpu_copy().served_affine(served))
    logits = rows.logits(*affine)
    return logits, rows.y, rows.weight


class HeldOutRows(NamedTuple):
    """The held-out rows of a process, or those that stand for the rows of all.

    Attributes:
        logits: the linear predictor, float64, (n,).
        y: targets 0 or 1, or shares of successes, float64, (n,).
        weight: float64, (n,), not negative.
        n_rows: how many there are in all.
        n_observations: how many of them have a positive weight.
        error: by how much AUROC and average precision may be wrong; 0 where they are exact.
        processes: that have the rows; one where these stand for the rows of all.
    """

    logits: Tensor
    y: Tensor
    weight: Tensor
    n_rows: int
    n_observations: int
    error: float = 0.0
    processes: Processes = ALONE

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and weights of the rows here."""
        return self.logits, self.y, self.weight

    def of_all(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and weights of all rows, brought together in each process."""
        logits, y, weight = map(self.processes.joined, self.columns)
        return logits, y, weight

    def is_finite(self) -> bool:
        """Whether no row has a logit, a target or a weight that is not finite."""
        return self.processes.all(all(bool(column.isfinite().all()) for column in self.columns))

    def measures(self, threshold: float) -> dict[str, float]:
        """See `measures`."""
        return measures(*weighted_rows(*self.columns), threshold, self.processes)

    def calibration(self) -> Calibration:
        """See `calibrate`."""
        return calibrate(*self.columns, n_observations=self.n_observations, processes=self.processes)


def of_all_processes(
    logits: Tensor, y: Tensor, weight: Tensor | None, processes: Processes = ALONE, most: int = MOST_ROWS
) -> HeldOutRows:
    """The held-out rows of this process, or what stands for those of all where they are more than `most`.

    Then the rows of one outcome whose logits fall into one of 2²⁰ bins are made one row, of their mean logit and the
    sum of their weights. The bins have equal widths in asinh(logit), which is 4·10⁻⁵ near 0. The error of AUROC is at
    most half the product of a bin's shares of the two outcomes, summed over the bins; that of average precision what
    the order of each bin's rows can change.

    Args:
        logits: of the rows of this process, (n,), as the others.
        y: targets 0 or 1, or shares of successes.
        weight: not negative; None for ones.
        processes: that have the rows.
        most: rows that are ranked one by one.
    """
    n_rows, n_observations = processes.sums(len(y), len(y) if weight is None else int((weight > 0).sum()))
    if n_rows <= most:
        z = logits.double()
        columns = z, y.double(), _ones(z) if weight is None else weight.double()
        return HeldOutRows(*columns, n_rows=n_rows, n_observations=n_observations, processes=processes)
    is_finite, (total, moment) = True, torch.zeros(2, 2 * _BINS, dtype=torch.float64)
    for start in range(0, len(y), _MERGED):
        part = slice(start, start + _MERGED)
        z, outcome, v = weighted_rows(logits[part], y[part], None if weight is None else weight[part])
        is_finite &= bool(z.isfinite().all())
        position = ((torch.asinh(z) + _REACH) * (_BINS / (2 * _REACH))).long().clamp(0, _BINS - 1)
        cell = position + _BINS * (outcome > 0.5).long()
        total += _sums(cell, v, 2 * _BINS)
        moment += _sums(cell, v * z, 2 * _BINS)
    z = logits.new_empty(0, dtype=torch.float64)
    if not processes.all(is_finite):
        return HeldOutRows(z.new_full((1,), torch.nan), z.new_zeros(1), z.new_ones(1), n_rows, n_observations)
    total, moment = processes.sums(total, moment)
    held = total > 0
    negative, positive = total.reshape(2, _BINS)
    merged_y = torch.arange(2).double().repeat_interleave(_BINS)
    error = 0.0
    if bool(negative.any()) and bool(positive.any()):
        error = _largest_error(negative, positive)
    return HeldOutRows(
        (moment[held] / total[held]).to(z),
        merged_y[held].to(z),
        total[held].to(z),
        n_rows,
        n_observations,
        error,
    )


def _largest_error(negative: Tensor, positive: Tensor) -> float:
    """A bound of the error of AUROC and average precision from the weights of both outcomes in ascending bins, (b,)."""
    within = float(positive @ negative) / 2 / float(positive.sum() * negative.sum())
    above_positive, above_negative = (t.flip(0).cumsum(0).flip(0) - t for t in (positive, negative))
    # Of a bin's positive rows precision lies between that with all of its negative rows above, and with none.
    mixed = (positive > 0) & (negative > 0)
    p, n, p0, n0 = (t[mixed] for t in (positive, negative, above_positive, above_negative))
    best, worst = (p0 + p) / (p0 + p + n0), p0 / (p0 + n0 + n).clamp(min=1e-300)
    precision = float(p @ (best - worst)) / float(positive.sum())
    return max(within, precision)


def mean(values: Tensor, weight: Tensor, processes: Processes = ALONE) -> float:
    """The weighted mean of values (n,), with weights (n,)."""
    # Not by a BLAS, whose digits depend on where the rows lie.
    total, of_weights = processes.sums(float((values * weight).sum()), float(weight.sum()))
    return total / of_weights


class Ranking(NamedTuple):
    """The weights of the rows above each distinct score, of one process that has all of them or its range of scores.

    Attributes:
        score: the distinct scores, descending, (m,).
        positive: total weight of the positive rows above all of these scores, and then at or above each, (m + 1,),
            float64.
        negative: total weight of the negative rows, likewise.
        total_positive: total weight of the positive rows of all processes.
        total_negative: total weight of the negative ones.
    """

    score: Tensor
    positive: Tensor
    negative: Tensor
    total_positive: float
    total_negative: float

    @classmethod
    def by(cls, score: Tensor, y: Tensor, weight: Tensor, processes: Processes = ALONE, most: int = 1000) -> Ranking:
        """Rank rows by a score (n,), with targets 0 or 1 (n,) and weights (n,).

        Several processes exchange their rows, so that each has those of a range of scores, the first process the
        highest. What it has to know of the others is the weight above its range.

        Args:
            score: of the rows of this process, as the others.
            y: targets.
            weight: positive.
            processes: that have the rows.
            most: scores of each process, of which the limits of the ranges are chosen.

        Raises:
            ValueError: if the rows do not hold both classes.
        """
        signed = torch.where(y > 0.5, 1.0, -1.0) * weight
        if processes.count > 1:
            order, sizes = _by_range(score, processes, most)
            score = processes.exchanged(score[order], sizes)  # a column by itself takes less memory than both
            signed = processes.exchanged(signed[order], sizes)
            del order
        score, order = score.sort(descending=True, stable=True)
        signed = signed[order]
        del order
        positive, negative = signed.new_zeros(2, len(signed) + 1)
        torch.clamp(signed, min=0, out=positive[1:]).cumsum_(0)
        torch.clamp(signed, max=0, out=negative[1:]).neg_().cumsum_(0)
        del signed
        last = torch.ones_like(positive, dtype=torch.bool)  # the last row of each distinct score
        last[1:-1] = score[1:] != score[:-1]
        if not bool(last.all()):
            score, positive, negative = score[last[1:]], positive[last], negative[last]
        of_all = processes.joined(torch.stack([positive[-1], negative[-1]])[None])
        if not bool((of_all.sum(0) > 0).all()):
            raise ValueError("ranking needs rows of both classes")
        above = of_all[: processes.rank].sum(0)
        return cls(score, positive.add_(above[0]), negative.add_(above[1]), *of_all.sum(0).tolist())

    def roc(self) -> tuple[Tensor, Tensor]:
        """False and true positive rate, from (0, 0) to (1, 1), each (m + 1,)."""
        return self.negative / self.total_negative, self.positive / self.total_positive

    def precision_recall(self) -> tuple[Tensor, Tensor]:
        """Precision and recall at each score, each (m,)."""
        positive, negative = self.positive[1:], self.negative[1:]
        return positive / (positive + negative), positive / self.total_positive

    def auroc(self) -> float:
        """The area under the ROC curve by the trapezoidal rule, or this process's part of it; a tie counts half."""
        height = (self.positive[1:] + self.positive[:-1]).div_(2 * self.total_positive)
        return float(height @ self.negative.diff()) / self.total_negative

    def average_precision(self) -> float:
        """Σ (recall_k − recall_{k−1})·precision_k, without interpolation, or this process's part of it."""
        positive = self.positive[1:]
        precision = (positive + self.negative[1:]).reciprocal_().mul_(positive)
        return float(precision @ self.positive.diff()) / self.total_positive


def _by_range(score: Tensor, processes: Processes, most: int) -> tuple[Tensor, list[int]]:
    """The scores' (n,) order by the process in whose range they are, and how many are in each; ranges are alike."""
    step = max(1, -(-processes.place(len(score)).total // most))
    sample = processes.joined(score[::step]).sort(descending=True).values
    limits = sample[[len(sample) * rank // processes.count for rank in range(1, processes.count)]].tolist()
    of_row = torch.zeros_like(score, dtype=torch.uint8 if processes.count < 256 else torch.int32)
    for limit in limits:
        of_row += score <= limit
    sizes = torch.bincount(of_row, minlength=processes.count).tolist()
    return of_row.argsort(stable=True), sizes


def measures(
    logits: Tensor, y: Tensor, weight: Tensor, threshold: float, processes: Processes = ALONE
) -> dict[str, float]:
    """The held-out measures by name, in the order of `MEASURES`.

    AUROC, average precision and F1 are absent if all rows are of one class.

    Args:
        logits: the linear predictor, (n,), n ≥ 1 in one of the processes; as the others from `weighted_rows`.
        y: targets 0 or 1, (n,).
        weight: sample weights, (n,), positive.
        threshold: a probability above it is a positive prediction.
        processes: that have the rows, of which these are those of this one.
    """
    values = {}
    both = has_both_classes(y, processes)
    if both:
        ranking = Ranking.by(logits, y, weight, processes)
        parts = processes.sums(ranking.auroc(), ranking.average_precision())
        del ranking  # and its memory, before the others need theirs
        values["auroc"], values["average_precision"] = (min(1.0, part) for part in parts)
    probability = torch.sigmoid(logits)
    (found,) = processes.sums(confusion(probability, y, weight, threshold))
    (true_negative, false_positive), (false_negative, true_positive) = found.tolist()
    wrong = false_positive + false_negative
    values |= {
        "loss": mean(binary_cross_entropy_with_logits(logits, y, reduction="none"), weight, processes),
        "accuracy": (true_negative + true_positive) / (true_negative + true_positive + wrong),
        "brier": brier(probability, y, weight, processes),
        "calibration_error": reliability(probability, y, weight, processes=processes).expected_calibration_error(),
    }
    if both:
        values["f1"] = 2 * true_positive / (2 * true_positive + wrong)
    return {name: values[name] for name in MEASURES if name in values}


def has_both_classes(y: Tensor, processes: Processes = ALONE) -> bool:
    """Whether targets (n,) have both classes."""
    positive, negative = processes.any(bool((y > 0.5).any())), processes.any(bool((y < 0.5).any()))
    return positive and negative


def brier(probability: Tensor, y: Tensor, weight: Tensor, processes: Processes = ALONE) -> float:
    """The Brier score: the mean squared difference of probability and outcome."""
    return mean((probability - y).square(), weight, processes)


def confusion(probability: Tensor, y: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """The confusion matrix: total weight by actual label (rows) and predicted label (columns), (2, 2), on the CPU."""
    cell = 2 * (y > 0.5).int() + (probability > threshold).int()
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


def reliability(
    probability: Tensor, y: Tensor, weight: Tensor, n_bins: int = N_BINS, processes: Processes = ALONE
) -> Bins:
    """Predicted and observed shares in bins [a, b) of equal width; the last bin includes 1."""
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64, device=probability.device)
    index = torch.bucketize(probability, edges[1:-1], right=True, out_int32=True)
    factors = None, probability, y, weight
    total, prediction, outcome, squares = processes.sums(
        *(_sums(index, weight if factor is None else weight * factor, n_bins) for factor in factors)
    )
    return Bins(total, prediction / total, outcome / total, total.square() / squares)


@dataclass(frozen=True)
class Calibration:
    """Calibration of predictions on held-out rows; means are weighted by the sample weights.

    Attributes:
        rows: the name of the rows, "validation" or "test".
        n_observations: number of rows of positive weight.
        brier: mean squared difference of probability and outcome.
        expected_calibration_error: mean distance of predicted and observed share over 15 equal-width bins.
        intercept: intercept of the logistic regression of the outcome on the logit (Cox 1958), ideally 0; None if it
            has no finite estimate.
        slope: slope of the same regression, ideally 1, and below 1 if predictions are too extreme; or None.
        mean_prediction: mean probability.
        mean_outcome: share of positive rows.
    """

    rows: str
    n_observations: int
    brier: float
    expected_calibration_error: float
    intercept: float | None
    slope: float | None
    mean_prediction: float
    mean_outcome: float


def calibrate(
    logits: Any, y: Any, weight: Any = None, *, n_observations: int | None = None, processes: Processes = ALONE
) -> Calibration:
    """Calibration of the logits of validation rows.

    Args:
        logits: the linear predictor, (n,), a tensor or an array, as the others.
        y: outcomes 0 or 1, or shares of successes, (n,).
        weight: sample weights, (n,), not negative; None for ones.
        n_observations: the number of rows of positive weight, where fewer stand for them or have them.
        processes: that have the rows, of which these are those of this one.

    Raises:
        ValueError: if there are no rows of positive weight.
    """
    n_rows = n_observations
    if n_rows is None:
        n_rows = len(_float64(y)) if weight is None else int((_float64(weight) > 0).sum())
    z, y, v = weighted_rows(logits, y, weight)
    if not processes.any(len(z) > 0):
        raise ValueError("calibration needs rows")
    probability = torch.sigmoid(z)
    line = recalibration(z, y, v, processes)
    return Calibration(
        rows="validation",
        n_observations=n_rows,
        brier=brier(probability, y, v, processes),
        expected_calibration_error=reliability(probability, y, v, processes=processes).expected_calibration_error(),
        intercept=None if line is None else line[0],
        slope=None if line is None else line[1],
        mean_prediction=mean(probability, v, processes),
        mean_outcome=mean(y, v, processes),
    )


def recalibration(z: Tensor, y: Tensor, v: Tensor, processes: Processes = ALONE) -> tuple[float, float] | None:
    """Intercept and slope of the logistic regression of y (n,) on the logits z (n,), with weights v (n,) (Cox 1958).

    Returns:
        None if there is no unique finite estimate: the classes are separated, or the logits are constant.
    """
    low, high = z[y < 0.5], z[y > 0.5]
    ends = [float(part.min()) if len(part) else math.inf for part in (low, high, -low, -high)]
    least_low, least_high, most_low, most_high = processes.least(np.array(ends)).tolist()
    if not (-most_low > least_high and -most_high > least_low):
        return None  # one class, separated, or constant logits
    solution = solve(Rows(z[:, None], y, v), Objective(), tol=_TOLERANCE, processes=processes)
    slope, intercept = solution.theta.tolist()
    return (intercept, slope) if solution.converged else None


def choose_threshold(probability: Any, y: Any, criterion: str | float, weight: Any = None) -> float:
    """The threshold t, 0 < t < 1, that is optimal on these rows; a prediction is positive if p > t.

    Args:
        probability: predicted probabilities, (n,), a tensor or an array, as the others.
        y: outcomes 0 or 1, (n,), of both classes.
        criterion: "f1" for the largest F1; "youden" for the largest sensitivity + specificity − 1; or a number, the
            cost of a false negative in units of that of a false positive, for the smallest total cost.
        weight: sample weights, (n,), not negative; None for ones.

    Returns:
        The midpoint of two neighbouring predictions; of several optimal ones, the nearest to 0.5.

    Raises:
        ValueError: if the criterion is not known, or the rows hold one class only.
    """
    rows = weighted_rows(probability, y, weight)
    if not has_both_classes(rows[1]):
        raise ValueError("a threshold can be chosen only on rows of both classes")
    # Cut k is below the k highest distinct probabilities, which are predicted positive.
    p, true_positive, false_positive = (column.cpu().numpy() for column in Ranking.by(*rows)[:3])
    positive, negative = true_positive[-1], false_positive[-1]
    half_way = (p[:-1] + p[1:]) / 2
    half_way = np.where(half_way < p[:-1], half_way, p[1:])  # adjacent floats have no midpoint
    cuts = np.r_[(p[0] + 1) / 2, half_way, p[-1] / 2]
    if criterion == "f1":
        score = 2 * true_positive / (true_positive + false_positive + positive)
    elif criterion == "youden":
        score = true_positive / positive - false_positive / negative
    elif isinstance(criterion, (int, float)) and criterion is not True and 0 < criterion < math.inf:
        score = -(false_positive + criterion * (positive - true_positive))
    else:
        raise ValueError(f"the threshold's criterion must be f1, youden or a positive cost ratio, not {criterion!r}")
    score = np.where((cuts > 0) & (cuts < 1), score, -np.inf)
    best = np.flatnonzero(score >= score.max() - 1e-12 * abs(score.max()))
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def threshold_criterion(rule: str) -> str | float:
    """The criterion of a threshold rule, for `choose_threshold`: f1, youden, or a ratio of costs.

    Raises:
        InputError: if the rule is none of `THRESHOLD_RULES`.
    """
    if rule in ("f1", "youden"):
        return rule
    match = re.fullmatch(r"cost=(\d+\.?\d*)", rule)
    if match is None or float(match[1]) == 0:
        raise InputError(f"model.threshold must be {THRESHOLD_RULES}, not {rule}")
    return float(match[1])


def threshold_by_rule(rule: str, logits: Any, y: Any, weight: Any = None) -> float:
    """The threshold that a rule chooses on validation rows.

    Args:
        rule: one of `THRESHOLD_RULES`, but for a number.
        logits: the linear predictor, (n,).
        y: outcomes 0 or 1, (n,).
        weight: sample weights, (n,), not negative; None for ones.

    Raises:
        InputError: if the rule is not known, or all rows are of one class.
    """
    criterion = threshold_criterion(rule)
    try:
        return choose_threshold(torch.sigmoid(logits), y, criterion, weight)
    except ValueError as error:
        raise InputError(
            f"model.threshold {rule}: {error}; split otherwise (data.val_fraction, data.seed) or give a number"
        ) from error


def _sums(index: Tensor, values: Tensor, n: int) -> Tensor:
    # On the CPU, because a GPU adds in an order that changes from run to run.
    return torch.zeros(n, dtype=values.dtype).index_add_(0, index.cpu(), values.cpu())


def _float64(values: Any) -> Tensor:
    values = values.detach() if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    return values.double().reshape(-1)


def _ones(like: Tensor) -> Tensor:
    """Ones of this shape that take no memory, and must not be written to."""
    return like.new_ones(()).expand_as(like)
