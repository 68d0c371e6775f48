"""Pictures: numbers in, a matplotlib Figure out. Nothing is drawn on a screen."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

SIZE = (6.4, 4.8)  # inches; TensorBoard shows it without scaling


def probability_curve(
    x: np.ndarray,
    probability: np.ndarray,
    *,
    x_label: str,
    y_label: str,
    points: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Probability against a single feature, with the line of indifference at 0.5.

    Args:
        x: feature values, ascending, shape (n,).
        probability: of the positive label at x, shape (n,).
        x_label: label of the feature's axis.
        y_label: label of the probability's axis.
        points: feature values and 0/1 targets, each of shape (m,), drawn as points.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, probability, label="fitted probability")
    axes.plot([x[0], x[-1]], [0.5, 0.5], color="red", linewidth=1, label="0.5")
    if points is not None:
        axes.plot(*points, "o", color="black", alpha=0.6, markersize=5, label="data")
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(x[0], x[-1]), ylim=(-0.05, 1.05))
    axes.grid(True, alpha=0.4)
    axes.legend(loc="lower right")
    return figure
