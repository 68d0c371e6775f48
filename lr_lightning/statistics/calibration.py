"""Calibration of predicted probabilities, and the choice of a threshold."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lr_lightning.errors import InputError
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver.fit import solve
from lr_lightning.statistics.held_out import Ranking, brier, has_both_classes, mean, reliability, weighted_rows

_TOLERANCE = 1e-18  # relative, of the objective; the intercept and the slope are then exact to rounding
THRESHOLD_RULES = "a number between 0 and 1, f1, youden, or cost=R (a false negative costs R false positives)"


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


def calibrate(logits: Any, y: Any, weight: Any = None) -> Calibration:
    """Calibration of the logits of validation rows.

    Args:
        logits: the linear predictor, (n,), a tensor or an array, as the others.
        y: outcomes 0 or 1, (n,).
        weight: sample weights, (n,), not negative; None for ones.

    Raises:
        ValueError: if there are no rows of positive weight.
    """
    z, y, v = weighted_rows(logits, y, weight)
    if not len(z):
        raise ValueError("calibration needs rows")
    probability = torch.sigmoid(z)
    line = recalibration(*(column.cpu().numpy() for column in (z, y, v)))
    return Calibration(
        rows="validation",
        n_observations=len(z),
        brier=brier(probability, y, v),
        expected_calibration_error=reliability(probability, y, v).expected_calibration_error(),
        intercept=None if line is None else line[0],
        slope=None if line is None else line[1],
        mean_prediction=mean(probability, v),
        mean_outcome=mean(y, v),
    )


def recalibration(logits: np.ndarray, y: np.ndarray, v: np.ndarray) -> tuple[float, float] | None:
    """Intercept and slope of the logistic regression of y (n,) on the logits (n,), with weights v (n,) (Cox 1958).

    Returns:
        None if there is no unique finite estimate: the classes are separated, or the logits are constant.
    """
    if y.min() == y.max():
        return None
    low, high = logits[y < 0.5], logits[y > 0.5]
    if low.max() <= high.min() or high.max() <= low.min():
        return None  # separated, or constant logits
    rows = Rows(torch.from_numpy(logits)[:, None], torch.from_numpy(y), torch.from_numpy(v))
    solution = solve(rows, Objective(), tol=_TOLERANCE)
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
    p, true_positive, false_positive = (column.cpu().numpy() for column in Ranking.by(*rows))
    true_positive, false_positive = np.append(0.0, true_positive), np.append(0.0, false_positive)
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


def threshold_by_rule(rule: str, logits: Any, y: Any, weight: Any = None) -> float:
    """The threshold that a rule chooses on validation rows: logits (n,), outcomes 0 or 1 (n,), weights (n,) or None.

    Raises:
        InputError: if there is no such rule, or the rows hold one class only.
    """
    criterion = threshold_criterion(rule)
    try:
        return choose_threshold(torch.sigmoid(logits), y, criterion, weight)
    except ValueError as error:
        raise InputError(
            f"model.threshold {rule}: {error}; split otherwise (data.val_fraction, data.seed) or give a number"
        ) from error
