"""Whether predicted probabilities are true to their word, and where to cut them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

N_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """How predictions fit outcomes on rows that took no part in the fit; every row counts once.

    Attributes:
        rows: "validation", "test", or whatever they are called.
        n_observations: how many.
        brier: mean squared difference of probability and outcome.
        expected_calibration_error: mean distance of predicted and observed share over equal-width bins, L1.
        intercept: of the logistic regression of the outcome on the logit; 0 at best. None where it does not exist.
        slope: likewise; 1 at best, below 1 where predictions are too extreme.
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


def calibrate(logits: np.ndarray, y: np.ndarray) -> Calibration:
    """Calibration of logits (n,) of validation rows against outcomes 0 or 1 (n,).

    Raises:
        ValueError: if there are no rows.
    """
    z, y = np.asarray(logits, np.float64).reshape(-1), np.asarray(y, np.float64).reshape(-1)
    if not len(z):
        raise ValueError("calibration needs rows")
    probability = _sigmoid(z)
    line = recalibration(z, y)
    return Calibration(
        rows="validation",
        n_observations=len(z),
        brier=float(np.square(probability - y).mean()),
        expected_calibration_error=expected_calibration_error(probability, y),
        intercept=None if line is None else line[0],
        slope=None if line is None else line[1],
        mean_prediction=float(probability.mean()),
        mean_outcome=float(y.mean()),
    )


def reliability_bins(
    probability: np.ndarray, y: np.ndarray, n_bins: int = N_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of rows, mean prediction and observed share in m equal-width bins, each (m,); NaN where empty."""
    edges = np.linspace(0, 1, n_bins + 1)
    index = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(index, probability, n_bins) / count
        observed = np.bincount(index, y, n_bins) / count
    return count, predicted, observed


def expected_calibration_error(probability: np.ndarray, y: np.ndarray) -> float:
    """Mean over the rows of |mean prediction − observed share| in their bin (torchmetrics' `norm="l1"`)."""
    count, predicted, observed = reliability_bins(probability, y)
    filled = count > 0
    return float((count[filled] * np.abs(predicted - observed)[filled]).sum() / len(probability))


def recalibration(logits: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Intercept and slope of the logistic regression of y (n,) on the logits (n,) (Cox 1958); None if separated."""
    if y.min() == y.max():
        return None
    low, high = logits[y < 0.5], logits[y > 0.5]
    if low.max() <= high.min() or high.max() <= low.min():
        return None  # separated, or constant logits
    centre, scale = logits.mean(), logits.std()
    x = np.column_stack([np.ones_like(logits), (logits - centre) / scale])
    theta = np.array([math.log(y.mean() / (1 - y.mean())), 0.0])
    sign = 2 * y - 1
    loss = _loss(x @ theta * sign)
    for _ in range(100):
        wrong = _sigmoid(-(x @ theta) * sign)
        gradient = x.T @ (wrong * sign)
        step = np.linalg.solve(x.T @ (x * (wrong * (1 - wrong))[:, None]), gradient)
        t = 1.0
        while (new := _loss(x @ (theta + t * step) * sign)) > loss and t > 1e-9:
            t /= 2
        theta, loss = theta + t * step, min(loss, new)
        if gradient @ step < 1e-20 * len(y):
            break
    slope = theta[1] / scale
    return float(theta[0] - slope * centre), float(slope)


def choose_threshold(
    probability: np.ndarray, y: np.ndarray, criterion: str | float, weight: np.ndarray | None = None
) -> float:
    """The threshold t, 0 < t < 1, for which predicting positive where p > t is best on these rows.

    Args:
        probability: (n,).
        y: outcomes 0 or 1, (n,).
        criterion: "f1", the largest F1; "youden", the largest sensitivity + specificity − 1; or a number, what a
            false negative costs in units of a false positive, for the smallest total cost.
        weight: of the rows, (n,), or None.

    Returns:
        A number half way between two neighbouring predictions; of equally good ones, the nearest to 0.5.

    Raises:
        ValueError: if the criterion is not known, or the rows hold one class only.
    """
    p, y = np.asarray(probability, np.float64).reshape(-1), np.asarray(y).reshape(-1) > 0.5
    v = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64).reshape(-1)
    if not (v[y].sum() > 0 and v[~y].sum() > 0):
        raise ValueError("a threshold can be chosen only on rows of both classes")
    order = np.argsort(p, kind="stable")
    p, y, v = p[order], y[order], v[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))  # of equal predictions; what lies above is positive
    negatives, positives = np.append(0.0, np.cumsum(v * ~y)[last]), np.append(0.0, np.cumsum(v * y)[last])
    true_positive, false_positive = positives[-1] - positives, negatives[-1] - negatives
    values = p[last]
    cuts = np.r_[values[0] / 2, (values[:-1] + values[1:]) / 2, (values[-1] + 1) / 2]
    if criterion == "f1":
        score = 2 * true_positive / (true_positive + false_positive + positives[-1])
    elif criterion == "youden":
        score = true_positive / positives[-1] - false_positive / negatives[-1]
    elif isinstance(criterion, (int, float)) and criterion is not True and 0 < criterion < math.inf:
        score = -(false_positive + criterion * positives)
    else:
        raise ValueError(f"the threshold's criterion must be f1, youden or a positive cost ratio, not {criterion!r}")
    score = np.where((cuts > 0) & (cuts < 1), score, -np.inf)
    best = np.flatnonzero(score >= score.max() - 1e-12 * abs(score.max()))
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def _sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def _loss(margin: np.ndarray) -> float:
    return float(np.logaddexp(0, -margin).sum())
