"""Fits of folds at once, by one Hessian that is kept and corrected."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import expit
from sklearn.datasets import load_breast_cancer

from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver.fold_curvature import FoldCurvature
from lr_lightning.solver.fold_paths import fold_paths


def violation(x: np.ndarray, y: np.ndarray, theta: np.ndarray, l1: float) -> float:
    """The largest violation of a lasso's optimality conditions, by the coefficients of standardised columns."""
    w, b = theta[:-1], theta[-1]
    residual = expit(x @ w + b) - y
    gradient = (x - x.mean(0)).T @ residual / len(y)
    off = np.where(w != 0, np.abs(gradient + l1 * np.sign(w)), np.abs(gradient) - l1)
    return float(max((off / x.std(0)).max(), abs(residual.mean())))


def test_weak_lassos_of_columns_on_scales_of_their_own_converge() -> None:
    """There columns come into use at each penalty, while the coefficients of the others grow."""
    x, y = load_breast_cancer(return_X_y=True)
    y, folds = y.astype(float), torch.from_numpy(np.random.default_rng(3).permutation(len(y)) % 5)
    sizes = [len(y), *(len(y) - torch.bincount(folds)).tolist()]
    strengths = 1 / np.outer(np.logspace(-4, 4, 10), sizes)  # of scikit-learn's default grid
    rows = Rows(torch.from_numpy(x), torch.from_numpy(y))
    objective, of_fits = Objective(standardize=False), torch.from_numpy(strengths)
    found = fold_paths(rows, folds, objective, l1_ratios=[1.0], strengths=of_fits)
    assert bool(found.converged.all())
    for values, thetas in zip(strengths, found.theta[0].numpy(), strict=True):
        for fit, (value, theta) in enumerate(zip(values, thetas, strict=True)):
            training = folds.numpy() != fit - 1
            assert violation(x[training], y[training], theta, value) < 1e-10


def test_a_correction_gives_the_model_the_gradient_that_was_seen() -> None:
    """The secant condition of BFGS, where a coordinate enters and the correction has to be in the matrix."""
    curvature = FoldCurvature(torch.diag_embed(torch.tensor([[2.0, 1.0]], dtype=torch.float64)))
    hessian, fit = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64), torch.tensor([0])
    for step in ([1.0, 0.0], [1.0, 1.0], [2.0, 1.0]):
        s = torch.tensor([step], dtype=torch.float64)
        curvature.correct(fit, s, s @ hessian)
    zero, l1 = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 1e-3, dtype=torch.float64)
    point = curvature.minimize(fit, zero, -(s @ hessian) - l1, l1, zero)
    torch.testing.assert_close(point, s)
