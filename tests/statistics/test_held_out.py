"""Held-out measures against scikit-learn with sample weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import binary_calibration_error

from lr_lightning.statistics.held_out import (
    MEASURES,
    Ranking,
    calibrate,
    choose_threshold,
    measures,
    reliability,
    weighted_rows,
)


@pytest.fixture(params=["ones", "frequencies", "any scale"])
def rows(request):
    rng = np.random.default_rng(0)
    z = (2 * rng.normal(size=400)).round(1)  # ties
    y = (rng.random(400) < 1 / (1 + np.exp(-0.6 * z - 0.3))).astype(float)
    weight = {"ones": np.ones(400), "frequencies": rng.integers(0, 4, 400), "any scale": 1e200 * rng.random(400)}
    return z, y, weight[request.param].astype(float)


def test_every_measure_is_scikit_learns(rows):
    z, y, weight = rows
    p = 1 / (1 + np.exp(-z))
    found = measures(*weighted_rows(z, y, weight), 0.3)
    bins = np.minimum((p * 15).astype(int), 14)
    expected = {
        "loss": metrics.log_loss(y, p, sample_weight=weight),
        "accuracy": metrics.accuracy_score(y, p > 0.3, sample_weight=weight),
        "auroc": metrics.roc_auc_score(y, z, sample_weight=weight),
        "average_precision": metrics.average_precision_score(y, z, sample_weight=weight),
        "f1": metrics.f1_score(y, p > 0.3, sample_weight=weight),
        "brier": metrics.brier_score_loss(y, p, sample_weight=weight),
        "calibration_error": sum(abs(weight[bins == k] @ (p - y)[bins == k]) for k in range(15)) / weight.sum(),
    }
    assert tuple(found) == MEASURES
    assert found == pytest.approx(expected, rel=1e-12)
    report = calibrate(z, y, weight)
    assert (report.brier, report.expected_calibration_error) == (found["brier"], found["calibration_error"])
    assert report.n_observations == (weight > 0).sum()


def test_a_weight_counts_as_so_many_rows(rows):
    z, y, _ = rows
    times = np.arange(400) % 4
    weight = times.astype(float)
    repeated = np.repeat(z, times), np.repeat(y, times)
    found = measures(*weighted_rows(z, y, weight), 0.5)
    assert found == pytest.approx(measures(*weighted_rows(*repeated), 0.5), rel=1e-12)
    once, whole = calibrate(z, y, weight), calibrate(*repeated)
    assert (once.intercept, once.slope) == pytest.approx((whole.intercept, whole.slope), rel=1e-8)
    p = 1 / (1 + np.exp(-z))
    for criterion in ("f1", "youden", 3.0):
        cut = choose_threshold(p, y, criterion, weight)
        assert cut == pytest.approx(choose_threshold(np.repeat(p, times), repeated[1], criterion))


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_rank_where_probabilities_round(sign):
    z = sign * np.array([40.0, 50, 60, 700, 800])
    y = np.array([0, 0, 0, 1, 1]) if sign > 0 else np.array([1, 1, 1, 0, 0])
    found = measures(*weighted_rows(z, y), 0.5)
    assert (found["auroc"], found["average_precision"]) == (1.0, 1.0)


def test_probabilities_of_exactly_0_and_1_are_in_the_outer_bins():
    """The last bin holds 1, as everywhere else; torchmetrics gives it a bin of its own."""
    p, y = torch.tensor([0.0, 0.95, 0.99, 1.0, 1.0]).double(), torch.tensor([0.0, 1, 0, 1, 0]).double()
    bins = reliability(p, y, torch.ones(5).double())
    assert bins.weight.tolist() == [1.0, *[0.0] * 13, 4.0]
    assert bins.expected_calibration_error() == pytest.approx(abs(3.94 - 2) / 5)
    inner = torch.linspace(0.01, 0.99, 50).double()
    y = (inner > 0.4).double()
    expected = binary_calibration_error(inner, y.long(), n_bins=15)
    found = reliability(inner, y, torch.ones(50).double()).expected_calibration_error()
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("y", [[1.0, 1.0], [0.0, 0.0], [1.0]])
def test_one_class_has_no_ranking(y):
    found = measures(*weighted_rows(np.linspace(-1, 1, len(y)), y), 0.5)
    assert list(found) == ["loss", "accuracy", "brier", "calibration_error"]
    assert np.isfinite(list(found.values())).all()


def test_a_class_without_weight_is_absent():
    rows = weighted_rows([0.1, 0.2, 0.3], [0, 1, 1], [0, 1, 2])
    assert len(rows[0]) == 2
    assert "auroc" not in measures(*rows, 0.5)
    with pytest.raises(ValueError, match="both classes"):
        Ranking.by(*rows)


def test_a_threshold_between_neighbouring_numbers():
    low, high = 1 - 2.0**-53, 1 - 2.0**-52
    low, high = min(low, high), max(low, high)
    cut = choose_threshold(np.array([low, high]), np.array([0, 1]), "f1")
    assert not low > cut
    assert high > cut
