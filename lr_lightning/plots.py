"""Figures of a fit and of its predictions, as matplotlib Figures without a window."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lr_lightning.errors import printable
from lr_lightning.statistics.held_out import N_BINS, Ranking, confusion, weighted_rows
from lr_lightning.statistics.held_out import reliability as bins_of

SIZE = (6.4, 4.8)  # inches; TensorBoard shows it at about two thirds

# Okabe & Ito (2008), "Color Universal Design": colours that are distinct for all kinds of colour vision.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_LONGEST_NAME = 28
_ROW_HEIGHT = 0.22  # inches; names are then legible in TensorBoard


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
    """Probability against a single feature, with a line at 0.5.

    Args:
        x: feature values, ascending, shape (n,).
        probability: of the positive label at x, shape (n,).
        x_label: label of the feature's axis.
        y_label: label of the probability's axis.
        points: feature values and 0/1 targets, each of shape (m,), drawn as points.
        band: lower and upper confidence limits at x, each of shape (n,).
        level: confidence level of the band.
    """
    figure, axes = _new()
    axes.plot(x, probability, color=_BLUE, label="fitted probability")
    axes.plot([x[0], x[-1]], [0.5, 0.5], color="red", linewidth=1, label="0.5")
    if points is not None:
        axes.plot(*points, "o", color="black", alpha=0.6, markersize=5, label="data")
    if band is not None:
        axes.fill_between(x, *band, color=_BLUE, alpha=0.2, linewidth=0, label=f"{100 * level:g} % confidence band")
    margin = 0.5 if x[0] == x[-1] else 0.0  # of a constant feature
    axes.set(xlabel=_short(x_label, 60), ylabel=_short(y_label, 60), ylim=(-0.05, 1.05))
    axes.set(xlim=(x[0] - margin, x[-1] + margin))
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
        scale: standard deviations of the features, (d,). The coefficients are multiplied by them, so that features of
            different units can be compared. None draws the coefficients themselves.
        level: confidence level of the intervals.
        most: largest number of coefficients to draw, those of the largest absolute value.
    """
    unit = np.ones(len(names)) if scale is None else np.asarray(scale, float)
    values = np.asarray(estimates, float) * unit
    drawn = np.flatnonzero(np.isfinite(values))
    drawn = drawn[np.argsort(-np.abs(values[drawn]), kind="stable")][:most]
    drawn = drawn[np.argsort(values[drawn], kind="stable")]
    place = np.arange(len(drawn))
    figure, axes = _new()
    figure.set_figheight(max(SIZE[1], 1.4 + _ROW_HEIGHT * len(drawn)))
    axes.axvline(0, color=_GREY, linewidth=1)
    if low is not None and high is not None:
        ends = np.stack([np.asarray(low, float) * unit, np.asarray(high, float) * unit])[:, drawn]
        axes.hlines(place, *ends, color=_BLUE, linewidth=2, alpha=0.6, label=f"{100 * level:g} % confidence interval")
    axes.plot(values[drawn], place, "o", color=_BLUE, markersize=5, label="estimate")
    axes.set_yticks(place, [_short(names[j]) for j in drawn], fontsize=11)
    axes.set_ylim(-0.6, max(len(drawn), 1) - 0.4)
    axes.set_xlabel("log-odds per standard deviation" if scale is not None else "coefficient (log-odds per unit)")
    axes.set_ylabel("feature")
    if len(names) > len(drawn) and len(drawn) == most:
        axes.set_title(f"the {len(drawn)} largest of {len(names)} coefficients", fontsize=10)
    axes.grid(True, axis="x", alpha=0.4)
    if low is not None:
        _legend_outside(figure, axes)
    return figure


def effects(
    names: list[str],
    effect: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    *,
    level: float = 0.95,
    most: int = 30,
) -> Figure:
    """Average marginal effects with their intervals, sorted, the largest `most` of them.

    Args:
        names: of the features, shape (d,).
        effect: mean changes of the probability, shape (d,).
        low: lower confidence limits, shape (d,), NaN where there is none; None for no intervals.
        high: upper ones.
        level: confidence level of the intervals.
        most: largest number of effects to draw, those of the largest absolute value.
    """
    figure = coefficients(names, effect, low, high, level=level, most=most)
    (axes,) = figure.axes
    axes.set_xlabel("average marginal effect (change of the probability)")
    if axes.get_title():
        axes.set_title(axes.get_title().replace("coefficients", "effects"), fontsize=10)
    return figure


def roc(score: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Figure:
    """Receiver operating characteristic with its area.

    Args:
        score: scores that rank the rows, shape (n,): logits, or probabilities, of which many may round to 1.
        y: 0/1 outcomes of both classes, shape (n,).
        weight: sample weights, shape (n,); None for ones.
    """
    ranking = Ranking.by(*weighted_rows(score, y, weight))
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="chance (area 0.5)")
    axes.plot(*_arrays(*ranking.roc()), color=_BLUE, label=f"model (area {ranking.auroc():.4f})")
    axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
    axes.legend(loc="lower right")
    return figure


def precision_recall(score: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Figure:
    """Precision against recall, with the average precision. Arguments as for `roc`."""
    ranking = Ranking.by(*weighted_rows(score, y, weight))
    precision, recall = _arrays(*ranking.precision_recall())
    share = float(precision[-1])
    figure, axes = _square()
    axes.axhline(share, color=_GREY, linestyle="--", linewidth=1, label=f"chance (precision {share:.4f})")
    # Steps, as in the average precision: between two thresholds the precision is that of the lower one.
    axes.step(
        np.append(0, recall),
        np.append(precision[0], precision),
        where="pre",
        color=_BLUE,
        label=f"model (average precision {ranking.average_precision():.4f})",
    )
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)")
    axes.legend(loc="lower left")
    return figure


def reliability(
    probability: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, *, n_bins: int = N_BINS
) -> Figure:
    """Observed share against mean prediction in equal-width bins, over the histogram of the predictions.

    Args:
        probability: of the positive label, shape (n,).
        y: 0/1 outcomes, shape (n,).
        weight: sample weights, shape (n,); None for ones.
        n_bins: number of bins.
    """
    total, predicted, observed, size = _arrays(*bins_of(*weighted_rows(probability, y, weight), n_bins))
    filled = total > 0
    figure = Figure(figsize=SIZE, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    low, high = _wilson(observed[filled], size[filled])
    upper.vlines(predicted[filled], low, high, color=_BLUE, alpha=0.5, linewidth=2, label="95 % interval of the share")
    upper.plot(predicted[filled], observed[filled], "o-", color=_BLUE, markersize=5, linewidth=1, label="model")
    upper.set(ylabel="observed share of positives", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    edges = np.arange(n_bins) / n_bins
    lower.bar(edges, total, width=1 / n_bins, align="edge", color=_BLUE, edgecolor="white", linewidth=0.5)
    lower.set(xlabel="predicted probability", ylabel="rows" if weight is None else "weight")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=weight is None))
    for axes in (upper, lower):
        axes.grid(True, alpha=0.4)
        axes.set_axisbelow(True)
    _legend_outside(figure, upper)
    return figure


def confusion_matrix(
    probability: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    threshold: float = 0.5,
    labels: tuple[str, str] = ("0", "1"),
) -> Figure:
    """Rows, or their weight, by actual and predicted label; a probability above the threshold is a positive one.

    Args:
        probability: of the positive label, shape (n,).
        y: 0/1 outcomes, shape (n,).
        weight: sample weights, shape (n,); None for ones.
        threshold: a probability above it is a positive prediction.
        labels: names of the negative and the positive label.
    """
    cells = confusion(*weighted_rows(probability, y, weight), threshold).numpy()
    of_row = cells.sum(1, keepdims=True)
    shares = np.divide(cells, of_row, out=np.zeros_like(cells), where=of_row > 0)
    figure, axes = _new()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), cell in np.ndenumerate(cells):
        colour = "white" if shares[i, j] > 0.55 else "black"
        amount = f"{int(cell)}" if weight is None else f"{cell:.6g}"
        text = f"{amount}\n{100 * shares[i, j]:.1f} % of the row"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=13)
    names = [_short(str(label), 20) for label in labels]
    axes.set_xticks([0, 1], names)
    axes.set_yticks([0, 1], names, rotation=90, va="center")
    weighted = "" if weight is None else ", weight of the rows"
    axes.set(xlabel="predicted label", ylabel="actual label", title=f"threshold {threshold:.4g}{weighted}")
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


def path(
    lambdas: np.ndarray,
    coefficients: np.ndarray,
    names: list[str],
    *,
    scale: np.ndarray | None = None,
    chosen: dict[str, float] | None = None,
    l1_ratio: float | None = None,
    most: int = 10,
) -> Figure:
    """Coefficients against the strength of the penalty, with the number of those that are not 0 on top.

    Args:
        lambdas: strongest first, positive, (p,).
        coefficients: (p, d).
        names: of the coefficients, (d,).
        scale: standard deviations of the features, (d,), that the coefficients are multiplied by; None for ones.
        chosen: the penalties that were chosen, by the rule; 0 has no place on the axis, and is named alone.
        l1_ratio: of the penalties, to be named where there were several; None names none.
        most: so many coefficients are named and coloured, those that become largest.
    """
    values = np.asarray(coefficients, float) * (1 if scale is None else np.asarray(scale, float))
    figure, axes = _new()
    figure.set_size_inches(8, SIZE[1])
    reach = np.abs(values).max(0)
    largest = np.argsort(-reach, kind="stable")[:most]
    largest = largest[reach[largest] > 0]
    others = np.setdiff1d(np.flatnonzero((values != 0).any(0)), largest)
    marker = "o" if len(lambdas) == 1 else None  # of one point there is no line
    axes.axhline(0, color=_GREY, linewidth=1)
    axes.plot(lambdas, values[:, others], color=_GREY, linewidth=0.7, alpha=0.5, marker=marker)
    for colour, j in zip(colormaps["tab10"](np.arange(len(largest)) % 10), largest, strict=True):
        axes.plot(lambdas, values[:, j], color=colour, linewidth=1.5, label=_short(names[j]), marker=marker)
    _mark(axes, chosen)
    axes.set_ylabel("log-odds per standard deviation" if scale is not None else "coefficient (log-odds per unit)")
    _penalty_axis(axes, lambdas, l1_ratio)
    _count_on_top(axes, lambdas, (values != 0).sum(1))
    axes.grid(True, alpha=0.4)
    if len(axes.get_legend_handles_labels()[0]):
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    return figure


def cross_validation(
    lambdas: np.ndarray,
    mean: np.ndarray,
    se: np.ndarray,
    nonzero: np.ndarray,
    *,
    chosen: dict[str, float] | None = None,
    l1_ratio: float | None = None,
) -> Figure:
    """The loss of the rows that were left out against the strength of the penalty, with one standard error.

    Args:
        lambdas: strongest first, positive, (p,).
        mean: of the folds' losses, (p,).
        se: standard errors of the means, (p,).
        nonzero: numbers of coefficients that are not 0, (p,), for the top.
        chosen: as in `path`.
        l1_ratio: likewise.
    """
    figure, axes = _new()
    axes.errorbar(
        lambdas, mean, se, fmt="o", color=_BLUE, ecolor=_BLUE, elinewidth=1, markersize=3, alpha=0.8,
        label="mean ± one standard error",
    )  # fmt: skip
    _mark(axes, chosen)
    axes.set_ylabel("loss of the rows left out")
    _penalty_axis(axes, lambdas, l1_ratio)
    _count_on_top(axes, lambdas, nonzero)
    axes.grid(True, alpha=0.4)
    _legend_outside(figure, axes)
    return figure


def _penalty_axis(axes: Axes, lambdas: np.ndarray, l1_ratio: float | None) -> None:
    """A logarithmic axis of penalties, the strongest on the left."""
    axes.set_xlabel(f"penalty λ{'' if l1_ratio is None else f' of l1_ratio {l1_ratio:g}'}, weaker to the right")
    axes.set_xscale("log")
    margin = 1.05 if len(lambdas) > 1 else 2
    axes.set_xlim(lambdas[0] * margin, lambdas[-1] / margin)


def _mark(axes: Axes, chosen: dict[str, float] | None) -> None:
    for rule, value in (chosen or {}).items():  # black, which no coefficient has
        style = "--" if rule == "1se" else "-"
        axes.axvline(value, color="black", linestyle=style, linewidth=1, zorder=1, label=f"{rule}: λ = {value:.4g}")


def _count_on_top(axes: Axes, lambdas: np.ndarray, nonzero: np.ndarray) -> None:
    top = axes.secondary_xaxis("top")
    places = np.unique(np.linspace(0, len(lambdas) - 1, 8).round().astype(int))
    top.set_xticks(lambdas[places], [str(int(nonzero[place])) for place in places])
    top.minorticks_off()
    top.set_xlabel("coefficients that are not 0")


def _new() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _square() -> tuple[Figure, Axes]:
    """Axes for two rates, from 0 to 1."""
    figure, axes = _new()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(True, alpha=0.4)
    return figure, axes


def _arrays(*columns: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(column.cpu().numpy() for column in columns)


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval of a share of n observations (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _short(name: str, most: int = _LONGEST_NAME) -> str:
    """The name, without its middle if it is long, because levels of a column often differ in their last letters."""
    name = printable(" ".join(name.split()))
    if len(name) > most:
        name = f"{name[: most // 2].rstrip()}…{name[-(most - most // 2 - 1) :].lstrip()}"
    return name.replace("$", r"\$")


def _legend_outside(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
