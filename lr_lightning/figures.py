"""Pictures: numbers in, a matplotlib Figure out. Nothing is drawn on a screen."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lr_lightning.errors import printable

SIZE = (6.4, 4.8)  # inches; TensorBoard shows it without scaling

# Okabe & Ito (2008), "Color Universal Design": told apart with any kind of colour vision.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_LONGEST_NAME = 28


def probability_curve(
    x: np.ndarray,
    probability: np.ndarray,
    *,
    x_label: str,
    y_label: str,
    points: tuple[np.ndarray, np.ndarray] | None = None,
    band: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> Figure:
    """Probability against a single feature, with the line of indifference at 0.5.

    Args:
        x: feature values, ascending, shape (n,).
        probability: of the positive label at x, shape (n,).
        x_label: label of the feature's axis.
        y_label: label of the probability's axis.
        points: feature values and 0/1 targets, each of shape (m,), drawn as points.
        band: lower and upper confidence limits at x, each of shape (n,).
        level: of the band.
    """
    figure, axes = _new()
    axes.plot(x, probability, color=_BLUE, label="fitted probability")
    axes.plot([x[0], x[-1]], [0.5, 0.5], color="red", linewidth=1, label="0.5")
    if points is not None:
        axes.plot(*points, "o", color="black", alpha=0.6, markersize=5, label="data")
    if band is not None:
        axes.fill_between(x, *band, color=_BLUE, alpha=0.2, linewidth=0, label=f"{100 * level:g} % confidence band")
    axes.set(xlabel=_short(x_label, 60), ylabel=_short(y_label, 60), xlim=(x[0], x[-1]), ylim=(-0.05, 1.05))
    axes.grid(True, alpha=0.4)
    axes.legend(loc="lower right")
    return figure


def coefficients(
    names: list[str],
    estimates: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    scale: np.ndarray | None = None,
    level: float = 0.95,
    most: int = 30,
) -> Figure:
    """Forest plot: estimates with their intervals, sorted, the largest `most` of them.

    Args:
        names: of the coefficients, shape (d,).
        estimates: shape (d,); NaN ones are left out.
        low: lower confidence limits, shape (d,), NaN where there is none; None for no intervals.
        high: upper ones.
        scale: standard deviations of the features, (d,): coefficients are multiplied by them, so that features of
            different units can be compared; None draws them as they are.
        level: of the intervals.
        most: how many to draw: those of the largest absolute value.
    """
    unit = np.ones(len(names)) if scale is None else np.asarray(scale, float)
    values = np.asarray(estimates, float) * unit
    drawn = np.flatnonzero(np.isfinite(values))
    drawn = drawn[np.argsort(-np.abs(values[drawn]), kind="stable")][:most]
    drawn = drawn[np.argsort(values[drawn], kind="stable")]
    place = np.arange(len(drawn))
    figure, axes = _new()
    axes.axvline(0, color=_GREY, linewidth=1)
    if low is not None and high is not None:
        ends = np.stack([np.asarray(low, float) * unit, np.asarray(high, float) * unit])[:, drawn]
        axes.hlines(place, *ends, color=_BLUE, linewidth=2, alpha=0.6, label=f"{100 * level:g} % confidence interval")
    axes.plot(values[drawn], place, "o", color=_BLUE, markersize=5 if len(drawn) <= 15 else 3.5, label="estimate")
    size = 10 if len(drawn) <= 12 else 8 if len(drawn) <= 20 else 6.5
    axes.set_yticks(place, [_short(names[j]) for j in drawn], fontsize=size)
    axes.set_ylim(-0.6, max(len(drawn), 1) - 0.4)
    axes.set_xlabel("log-odds per standard deviation" if scale is not None else "coefficient (log-odds per unit)")
    axes.set_ylabel("feature")
    if len(names) > len(drawn) and len(drawn) == most:
        axes.set_title(f"the {len(drawn)} largest of {len(names)} coefficients", fontsize=10)
    axes.grid(True, axis="x", alpha=0.4)
    if low is not None:
        _legend_outside(figure, axes)
    return figure


def roc(probability: np.ndarray, y: np.ndarray) -> Figure:
    """Receiver operating characteristic with its area.

    Args:
        probability: of the positive label, shape (n,).
        y: 0/1 outcomes of both classes, shape (n,).
    """
    false, true, _ = _ranking(probability, y)
    false_rate, true_rate = np.append(0, false) / false[-1], np.append(0, true) / true[-1]
    area = float((np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2).sum())
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="chance (area 0.5)")
    axes.plot(false_rate, true_rate, color=_BLUE, label=f"model (area {area:.4f})")
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    axes.legend(loc="lower right")
    return figure


def precision_recall(probability: np.ndarray, y: np.ndarray) -> Figure:
    """Precision against recall, with the average precision. Arguments as for `roc`."""
    false, true, _ = _ranking(probability, y)
    precision, recall = true / (true + false), true / true[-1]
    average = float((np.diff(np.append(0, recall)) * precision).sum())
    share = float(true[-1] / (true[-1] + false[-1]))
    figure, axes = _square()
    axes.axhline(share, color=_GREY, linestyle="--", linewidth=1, label=f"chance (precision {share:.4f})")
    # Between two thresholds the precision is that of the lower one: a step, as the average precision counts it.
    axes.step(
        np.append(0, recall),
        np.append(precision[0], precision),
        where="pre",
        color=_BLUE,
        label=f"model (average precision {average:.4f})",
    )
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    axes.legend(loc="lower left")
    return figure


def reliability(probability: np.ndarray, y: np.ndarray, *, n_bins: int = 15) -> Figure:
    """Observed share against mean prediction in equal-width bins, over the histogram of the predictions.

    Args:
        probability: of the positive label, shape (n,).
        y: 0/1 outcomes, shape (n,).
        n_bins: number of bins.
    """
    probability, y = np.asarray(probability, float), np.asarray(y, float)
    edges = np.linspace(0, 1, n_bins + 1)
    index = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    filled = count > 0
    predicted = np.bincount(index, probability, n_bins)[filled] / count[filled]
    observed = np.bincount(index, y, n_bins)[filled] / count[filled]
    figure = Figure(figsize=SIZE, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    low, high = _wilson(observed, count[filled])
    upper.vlines(predicted, low, high, color=_BLUE, alpha=0.5, linewidth=2, label="95 % interval of the share")
    upper.plot(predicted, observed, "o-", color=_BLUE, markersize=5, linewidth=1, label="model")
    upper.set(ylabel="observed share of positives", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.bar(edges[:-1], count, width=1 / n_bins, align="edge", color=_BLUE, edgecolor="white", linewidth=0.5)
    lower.set(xlabel="predicted probability", ylabel="rows")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        axes.grid(True, alpha=0.4)
        axes.set_axisbelow(True)
    _legend_outside(figure, upper)
    return figure


def confusion_matrix(
    probability: np.ndarray, y: np.ndarray, *, threshold: float = 0.5, labels: tuple[str, str] = ("0", "1")
) -> Figure:
    """Counts of actual against predicted labels; a probability above the threshold is a positive prediction.

    Args:
        probability: of the positive label, shape (n,).
        y: 0/1 outcomes, shape (n,).
        threshold: where to cut.
        labels: names of the negative and the positive label.
    """
    predicted, actual = np.asarray(probability) > threshold, np.asarray(y) > 0.5
    counts = np.array([[np.sum((actual == a) & (predicted == p)) for p in (False, True)] for a in (False, True)])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = _new()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        colour = "white" if shares[i, j] > 0.55 else "black"
        text = f"{count}\n{100 * shares[i, j]:.1f} % of the row"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=13)
    names = [_short(str(label), 20) for label in labels]
    axes.set_xticks([0, 1], names)
    axes.set_yticks([0, 1], names, rotation=90, va="center")
    axes.set(xlabel="predicted label", ylabel="actual label", title=f"threshold {threshold:.4g}")
    return figure


def loss(train: np.ndarray, validation: np.ndarray | None = None) -> Figure:
    """Loss against passes over the training rows.

    Args:
        train: training loss of each pass, from the first, shape (n,).
        validation: validation loss after each pass, shape (n,), NaN where there was none.
    """
    figure, axes = _new()
    few = {"marker": "o", "markersize": 4} if len(train) <= 50 else {}
    axes.plot(np.arange(1, len(train) + 1), train, color=_BLUE, label="training", **few)
    if validation is not None:
        validation = np.asarray(validation, float)
        known = np.flatnonzero(np.isfinite(validation))
        axes.plot(known + 1, validation[known], color=_ORANGE, linestyle="--", label="validation", **few)
    axes.set(xlabel="passes over the training rows", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.4)
    axes.legend(loc="upper right")
    return figure


def _new() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _square() -> tuple[Figure, Axes]:
    """Axes for two rates, from 0 to 1."""
    figure, axes = _new()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(True, alpha=0.4)
    return figure, axes


def _ranking(probability: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False and true positives above each distinct threshold, descending, and the thresholds."""
    p, positive = np.asarray(probability, float).reshape(-1), np.asarray(y).reshape(-1) > 0.5
    if positive.all() or not positive.any():
        raise ValueError("ranking needs rows of both classes")
    order = np.argsort(-p, kind="stable")
    p, positive = p[order], positive[order]
    last = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    return np.cumsum(~positive)[last].astype(float), np.cumsum(positive)[last].astype(float), p[last]


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of n (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _short(name: str, most: int = _LONGEST_NAME) -> str:
    """The name with its middle left out if it is long: levels of a column differ in their last letters."""
    name = printable(" ".join(name.split()))
    if len(name) > most:
        name = f"{name[: most // 2].rstrip()}…{name[-(most - most // 2 - 1) :].lstrip()}"
    return name.replace("$", r"\$")


def _legend_outside(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
