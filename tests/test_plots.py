from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve, roc_auc_score, roc_curve

from lr_lightning import plots


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    p = rng.random(300).round(2)
    return p, (rng.random(300) < p).astype(int)


def label_of(line):
    return line.get_label()


def every_figure(p, y):
    x = np.linspace(0, 5, 50)
    curve = 1 / (1 + np.exp(2 - x))
    names = [f"a $ name that is {'very ' * j}long {j}" for j in range(40)]
    estimates = np.linspace(-3, 5, 40)
    return {
        "probability_curve": plots.probability_curve(
            x, curve, x_label="hours", y_label="p", points=(x[::9], x[::9] > 2), band=(curve - 0.1, curve + 0.1)
        ),
        "coefficients": plots.coefficients(names, estimates, estimates - 1, estimates + 1),
        "roc": plots.roc(p, y),
        "precision_recall": plots.precision_recall(p, y),
        "reliability": plots.reliability(p, y),
        "confusion_matrix": plots.confusion_matrix(p, y, threshold=0.3, labels=("no", "yes")),
        "loss": plots.loss(np.array([0.7, 0.3, 0.2]), np.array([0.7, np.nan, 0.3])),
    }


def test_every_figure_is_drawn_with_named_axes(rows):
    for name, figure in every_figure(*rows).items():
        if name != "coefficients":
            assert tuple(figure.get_size_inches()) == plots.SIZE, name
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=100)
        assert out.getvalue().startswith(b"\x89PNG")
        assert figure.axes[-1].get_xlabel(), name
        assert all(axes.get_ylabel() for axes in figure.axes), name


def test_roc_is_scikit_learns(rows):
    p, y = rows
    chance, model = plots.roc(p, y).axes[0].lines
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    assert np.asarray(model.get_data()) == pytest.approx(np.stack([false, true]))
    assert label_of(model) == f"model (area {roc_auc_score(y, p):.4f})"
    assert "0.5" in label_of(chance)


def test_precision_recall_is_scikit_learns(rows):
    p, y = rows
    _, model = plots.precision_recall(p, y).axes[0].lines
    precision, recall, _ = precision_recall_curve(y, p)
    assert model.get_xdata()[1:] == pytest.approx(recall[-2::-1])
    assert model.get_ydata()[1:] == pytest.approx(precision[-2::-1])
    assert label_of(model) == f"model (average precision {average_precision_score(y, p):.4f})"


def test_ranking_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        plots.roc(np.array([0.1, 0.2]), np.array([1, 1]))


def test_confusion_matrix_is_scikit_learns(rows):
    p, y = rows
    axes = plots.confusion_matrix(p, y, threshold=0.3, labels=("no", "yes")).axes[0]
    counts = [int(text.get_text().split()[0]) for text in axes.texts]
    assert counts == confusion_matrix(y, p > 0.3).ravel().tolist()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["no", "yes"]


def test_reliability_counts_every_row(rows):
    p, y = rows
    upper, lower = plots.reliability(p, y, n_bins=10).axes
    assert sum(bar.get_height() for bar in lower.patches) == len(p)
    points = upper.lines[1].get_xydata()
    first = p < 0.1
    assert points[0] == pytest.approx([p[first].mean(), y[first].mean()])


def test_forest_plot_is_sorted_and_keeps_the_thirty_largest():
    estimates = np.linspace(-3, 5, 40)
    estimates[7] = np.nan
    axes = plots.coefficients([str(j) for j in range(40)], estimates, estimates - 1, estimates + 1).axes[0]
    drawn = axes.lines[1].get_xdata()
    assert len(drawn) == 30
    assert (np.diff(drawn) > 0).all()
    assert drawn[-1] == 5
    assert "30 largest of 40" in axes.get_title()


@pytest.mark.parametrize("n", [1, 12, 30])
def test_names_of_the_forest_plot_can_be_read_in_a_card(n):
    """TensorBoard's card is 400 pixels wide; there a name is at least 9 pixels high, and meets no other."""
    figure = plots.coefficients([f"feature {j}" for j in range(n)], np.arange(n), np.arange(n) - 1, np.arange(n) + 1)
    figure.savefig(io.BytesIO(), format="png", dpi=100)
    scale = 400 / (100 * figure.get_figwidth())
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert min(box.height for box in boxes) * scale >= 9
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))


def test_forest_plot_of_comparable_units():
    axes = plots.coefficients(["a", "b"], [1.0, 1.0], scale=np.array([10.0, 1.0])).axes[0]
    assert axes.lines[1].get_xdata().tolist() == [1, 10]
    assert "standard deviation" in axes.get_xlabel()


def test_the_probability_curve_of_a_constant_feature_has_a_width():
    # Warnings are errors in these tests, matplotlib's of limits without a distance too.
    axes = plots.probability_curve(np.full(3, 2.0), np.full(3, 0.4), x_label="x", y_label="y").axes[0]
    assert axes.get_xlim() == (1.5, 2.5)


def test_band_of_the_probability_curve_leaves_its_lines_alone():
    x = np.array([0.0, 1.0, 2.0])
    axes = plots.probability_curve(x, x / 2, x_label="x", y_label="y", band=(x / 4, x / 2)).axes[0]
    assert len(axes.lines) == 2
    assert label_of(axes.collections[0]) == "95 % confidence band"


def test_pictures_weigh_the_rows(rows):
    p, y = rows
    weight = np.arange(len(p)) % 4 / 2
    roc = label_of(plots.roc(p, y, weight).axes[0].lines[1])
    assert roc == f"model (area {roc_auc_score(y, p, sample_weight=weight):.4f})"
    curve = label_of(plots.precision_recall(p, y, weight).axes[0].lines[1])
    assert curve == f"model (average precision {average_precision_score(y, p, sample_weight=weight):.4f})"
    cells = [float(text.get_text().split()[0]) for text in plots.confusion_matrix(p, y, weight).axes[0].texts]
    assert cells == confusion_matrix(y, p > 0.5, sample_weight=weight).ravel().tolist()
    _, lower = plots.reliability(p, y, weight).axes
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(weight.sum())


def test_curves_rank_by_logits_where_probabilities_round():
    logits, y = np.array([40.0, 50, 60, 70]), np.array([0, 0, 1, 1])
    assert label_of(plots.roc(logits, y).axes[0].lines[1]) == "model (area 1.0000)"


def test_a_path_of_one_penalty_shows_its_coefficients_and_rules_keep_their_lines():
    figure = plots.path(np.array([0.1]), np.array([[2.0, 0.0]]), ["a", "b"], chosen={"1se": 0.1, "min": 0.0})
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["a"].get_marker() == "o"
    assert lines["1se: λ = 0.1"].get_linestyle() == "--"
    assert lines["min: λ = 0"].get_linestyle() == "-"
    left, right = figure.axes[0].get_xlim()
    assert left > 0.1 > right > 0
