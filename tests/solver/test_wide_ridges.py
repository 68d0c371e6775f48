"""Ridges of wide tables by as many coordinates as rows: against the optimality conditions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from lr_lightning import LogisticRegressionClassifierCV
from lr_lightning.model.rows import Rows
from lr_lightning.solver import path, thresholds
from lr_lightning.solver.wide_ridges import WideRidges


def wide(n: int = 40, d: int = 90) -> Rows:
    """Columns on unlike scales, one of them constant and two the same, and weights, of which some are 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) * rng.choice([0.01, 1, 100], d) + rng.integers(0, 5, d)
    x[:, 3], x[:, 5] = 2.0, x[:, 4]
    y = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    return Rows(*(torch.from_numpy(part) for part in (x, y, rng.integers(0, 3, n) / 2)))


@pytest.mark.parametrize("offset", [False, True])
def test_rows_that_are_alike_but_for_their_labels_converge(offset: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 600))
    y = (rng.random(60) < 0.5).astype(float)
    o = np.repeat(rng.normal(size=30), 2) if offset else np.zeros(60)
    x[1:20:2], y[0:20:2], y[1:20:2] = x[0:20:2], 0, 1
    rows = Rows(torch.from_numpy(x), torch.from_numpy(y), offset=torch.from_numpy(o) if offset else None)
    found = path(rows, l1_ratio=0.0, n_lambda=10, min_ratio=1e-6, folds=torch.arange(60) % 3)
    assert bool(found.converged.all())
    for theta, value in zip(found.theta.numpy(), found.lambdas.tolist(), strict=True):
        residual = 1 / (1 + np.exp(-(x @ theta[:-1] + theta[-1] + o))) - y
        gradient = (x - x.mean(0)).T @ residual / x.std(0) / 60 + value * x.std(0) * theta[:-1]
        assert np.abs(gradient).max() < 1e-10 * value + 1e-13


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("factors", [None, 2.0])
def test_the_optimality_conditions_hold(
    monkeypatch: pytest.MonkeyPatch, standardize: bool, fit_intercept: bool, factors: float | None
) -> None:
    monkeypatch.setattr(thresholds, "MANY_COLUMNS", 10)
    turned = []
    own = WideRidges.__init__
    monkeypatch.setattr(WideRidges, "__init__", lambda *arguments: turned.append(1) or own(*arguments))
    rows, folds = wide(), torch.arange(40) % 2
    factor = np.ones(90)
    if factors is not None:
        factor[[0, 7]] = 0.0, factors
    found = path(
        rows,
        l1_ratio=0.0,
        n_lambda=5,
        folds=folds,
        standardize=standardize,
        fit_intercept=fit_intercept,
        penalty_factors=None if factors is None else torch.from_numpy(factor),
    )
    assert len(turned) == 3
    assert bool(found.converged.all())
    x, y, v = (np.asarray(part) for part in rows[:3])
    mean = np.average(x, axis=0, weights=v)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=v))
    kept = scale > 1e-9
    unit = np.where(kept, scale, 1.0) if standardize else np.ones(90)
    for number in range(5):
        w, b = np.split(found.theta[number].numpy(), [-1])
        residual = v * (1 / (1 + np.exp(-(x @ w + b))) - y) / v.sum()
        # The intercept takes the mean out, or there is none.
        gradient = (x - (mean if fit_intercept else 0)).T @ residual
        lam = float(found.lambdas[number])
        violation = (gradient / unit + lam * factor * unit * w)[kept]
        assert np.abs(violation).max() < 1e-10 * lam * (1 if standardize else 100)
        assert not fit_intercept or abs(residual.sum()) < 1e-10 * lam


def test_scikit_learn_finds_the_same_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MANY_COLUMNS", 10)
    rows = wide()
    found = path(rows, l1_ratio=[0.5, 0.0], lambdas=[0.5, 0.01], standardize=False)
    x, y, v = (np.asarray(part) for part in rows[:3])
    for theta, lam in zip(found.theta.numpy()[2:], [0.5, 0.01], strict=True):
        exact = LogisticRegression(C=1 / (lam * v.sum()), solver="newton-cholesky", tol=1e-13, max_iter=1000)
        exact.fit(x, y, v)
        np.testing.assert_allclose(theta[:-1], exact.coef_[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("d", [70, 2100])
def test_the_estimator_chooses_as_scikit_learn_does(d: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, d)) + rng.integers(0, 3, d)
    y = (rng.random(50) < 1 / (1 + np.exp(-x[:, :5].sum(1) + x[:, :5].sum(1).mean()))).astype(int)
    options = {"Cs": [1e-4, 1e-2], "l1_ratios": (0,), "scoring": "neg_log_loss", "use_legacy_attributes": False}
    expected = LogisticRegressionCV(**options, solver="lbfgs", tol=1e-12, max_iter=10**4).fit(x, y)  # pyright: ignore[reportArgumentType]
    found = LogisticRegressionClassifierCV(**options).fit(x, y)  # pyright: ignore[reportArgumentType]
    for name in ("coefs_paths_", "scores_", "coef_", "C_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-7)
