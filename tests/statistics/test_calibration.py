from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.metrics import brier_score_loss, f1_score, roc_curve
from torchmetrics.classification import BinaryCalibrationError

from lr_lightning.solver import solve
from lr_lightning.statistics import held_out
from lr_lightning.statistics.held_out import calibrate, choose_threshold


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=500)
    return z, (rng.random(500) < 1 / (1 + np.exp(-0.6 * z - 0.3))).astype(float), 1 / (1 + np.exp(-z))


def test_agrees_with_scikit_learn_torchmetrics_and_statsmodels(rows):
    z, y, p = rows
    found = calibrate(z, y)
    line = sm.Logit(y, sm.add_constant(z)).fit(disp=0, tol=1e-12).params
    assert found.brier == pytest.approx(brier_score_loss(y, p))
    expected = BinaryCalibrationError(n_bins=15)(torch.from_numpy(p), torch.from_numpy(y).long())
    assert found.expected_calibration_error == pytest.approx(float(expected), rel=1e-6)
    assert (found.intercept, found.slope) == pytest.approx(line, rel=1e-8)
    assert (found.mean_prediction, found.mean_outcome) == pytest.approx((p.mean(), y.mean()))
    assert (found.rows, found.n_observations) == ("validation", 500)


@pytest.mark.parametrize(
    ("z", "y"), [([1.0, 2.0], [1, 1]), ([-1.0, 2.0], [0, 1]), ([1.0, 1.0], [0, 1]), ([0.0, 800.0, 900.0], [0, 0, 1])]
)
def test_a_line_that_does_not_exist_is_none(z, y):
    found = calibrate(np.array(z), np.array(y))
    assert (found.intercept, found.slope) == (None, None)
    assert 0 <= found.brier <= 1


def test_extreme_logits():
    found = calibrate(np.array([-900.0, -900, 900, 900, 30]), np.array([0, 1, 0, 1, 1]))
    assert np.isfinite([found.brier, found.intercept, found.slope]).all()


def test_threshold_of_the_largest_f1(rows):
    _, y, p = rows
    chosen = choose_threshold(p, y, "f1")
    assert f1_score(y, p > chosen) >= max(f1_score(y, p > t) for t in [p.min() / 2, *np.sort(p)[:-1:2]])


def test_threshold_of_youdens_index(rows):
    _, y, p = rows
    chosen = choose_threshold(p, y, "youden")
    false, true, _ = roc_curve(y, p)
    assert (p > chosen)[y == 1].mean() - (p > chosen)[y == 0].mean() == pytest.approx((true - false).max())


@pytest.mark.parametrize("ratio", [0.2, 1, 7.5, 1e6])
def test_threshold_of_the_smallest_cost(rows, ratio):
    _, y, p = rows

    def cost(t):
        return ((p > t) & (y == 0)).sum() + ratio * ((p <= t) & (y == 1)).sum()

    assert cost(choose_threshold(p, y, ratio)) == min(cost(t) for t in [p.min() / 2, *p])


def test_threshold_counts_weights():
    p, y = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 1, 0, 1])
    assert choose_threshold(p, y, 1.0, np.array([1, 9, 1, 1])) == pytest.approx(0.3)
    assert choose_threshold(p, y, 1.0, np.array([1, 1, 9, 1])) == pytest.approx(0.7)


def test_threshold_stays_between_0_and_1():
    p = np.array([0.0, 0.0, 1.0, 1.0])
    for criterion in ("f1", "youden", 1e-9, 1e9):
        assert choose_threshold(p, np.array([0, 1, 0, 1]), criterion) == 0.5


@pytest.mark.parametrize("criterion", ["best", -1.0, 0, float("nan"), True])
def test_unknown_criterion(rows, criterion):
    with pytest.raises(ValueError, match="criterion"):
        choose_threshold(rows[2], rows[1], criterion)


def test_threshold_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        choose_threshold(np.array([0.1, 0.2]), np.array([1, 1]), "f1")


def test_no_line_where_its_fit_does_not_converge(monkeypatch):
    z, y = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0, 1, 0, 1])
    assert calibrate(z, y).slope is not None
    monkeypatch.setattr(held_out, "solve", lambda *of, **options: replace(solve(*of, **options), converged=False))
    assert calibrate(z, y).slope is None
