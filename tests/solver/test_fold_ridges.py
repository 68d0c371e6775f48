"""Ridges of all folds at once, against scikit-learn's own and the optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lr_lightning.model.csr import Csr
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_paths import FoldPaths, fold_paths
from lr_lightning.solver.fold_rows import FoldRows
from lr_lightning.solver.rounded_rows import RoundedColumns

STRENGTHS = [0.3, 0.02, 1e-3, 1e-5, 1e-7]


def table(n: int, d: int, *, shift: float = 0.0) -> Rows:
    """Correlated columns, the last one far from 0 and on a scale of its own, and weights, of which some are 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) + rng.normal(size=(n, 1))
    y = (rng.random(n) < 1 / (1 + np.exp(-x[:, :3].sum(1) + shift))).astype(float)
    x[:, -1] = 100 + 10 * x[:, -1]
    return Rows(*(torch.from_numpy(part) for part in (x, y, rng.integers(0, 4, n) / 2)))


def fitted(rows: Rows, folds: Tensor, strengths: Tensor) -> FoldPaths:
    return fold_paths(rows, folds, Objective(standardize=False), l1_ratios=[0.0], strengths=strengths)


def as_of_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sample, float32 and Hessians that many fits share serve a small table too."""
    monkeypatch.setattr(thresholds, "RIDGE_HESSIAN_OF_EACH", 0)
    monkeypatch.setattr(thresholds, "LARGE_RIDGE", 0)
    monkeypatch.setattr(thresholds, "LEAST_RIDGE_SAMPLE", 20)
    monkeypatch.setattr(thresholds, "RIDGE_SAMPLE_A_COLUMN", 10)


def excess(rows: Rows, left_out: Tensor, theta: Tensor, strength: float) -> float:
    """How much the objective is above that of scikit-learn's Newton method, both of the mean loss."""
    x, y, v = (np.asarray(part)[~left_out.numpy()] for part in rows[:3])
    exact = LogisticRegression(C=1 / (strength * v.sum()), solver="newton-cholesky", tol=1e-14, max_iter=1000)
    exact.fit(x, y, v)

    def value(w: np.ndarray, b: float) -> float:
        return float(v @ np.logaddexp(0, (1 - 2 * y) * (x @ w + b)) / v.sum() + strength * w @ w / 2)

    return value(theta[:-1].numpy(), float(theta[-1])) - value(exact.coef_[0], float(exact.intercept_[0]))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_scikit_learn_finds_no_better_ones(monkeypatch: pytest.MonkeyPatch, large: bool, sparse: bool) -> None:
    rows, folds = table(600, 6), torch.arange(600) % 3
    if sparse:
        filled = torch.where(rows.x.abs() > 0.5, rows.x, 0.0)  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
        given, rows = rows._replace(x=Csr.of(csr_array(filled.numpy()))), rows._replace(x=filled)
    else:
        given = rows
    if large:
        as_of_a_large_table(monkeypatch)
    # Each fold has a penalty of its own.
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)[:, None] * torch.tensor([1.0, 1.1, 1.2, 0.9])
    found = fitted(given, folds, strengths)
    assert bool(found.converged.all())
    for number, of_folds in enumerate(strengths):
        for fit, strength in enumerate(of_folds.tolist()):
            gap = excess(rows, folds == fit - 1, found.theta[0, number, fit], strength)
            assert gap < (1e-14 if not large else 1e-12 if fit == 0 else 2e-10)


def test_a_fold_unlike_the_others_gets_its_own_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    as_of_a_large_table(monkeypatch)
    rows = table(400, 4, shift=1.0)
    folds = (rows.x[:, 0] > 1).long()  # pyright: ignore[reportCallIssue,reportArgumentType,reportIndexIssue]
    taken = []
    own = FoldRows.hessian
    monkeypatch.setattr(FoldRows, "hessian", lambda *arguments: taken.append(arguments) or own(*arguments))
    strengths = torch.tensor([[1e-2], [1e-7]], dtype=torch.float64).expand(2, 3)
    found = fitted(rows, folds, strengths)
    assert taken
    assert bool(found.converged.all())
    for number, strength in enumerate(strengths[:, 0].tolist()):
        for fit in range(3):
            assert excess(rows, folds == fit - 1, found.theta[0, number, fit], strength) < 2e-10


def test_many_rows_take_few_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = []
    sweep, rounded = FoldRows.fold_gradients, RoundedColumns.fold_gradients
    monkeypatch.setattr(FoldRows, "fold_gradients", lambda *of: sweeps.append((of[0].n, len(of[1]))) or sweep(*of))
    monkeypatch.setattr(
        RoundedColumns, "fold_gradients", lambda *of: sweeps.append((of[0]._rows.n, len(of[1]))) or rounded(*of)
    )
    rows = table(60_000, 6)._replace(weight=None)
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64)[:, None].expand(5, 5)
    found = fitted(rows, torch.arange(60_000) % 4, strengths)
    # All fits at once, and before that those of all rows, 5 of 25.
    assert [count for n, count in sweeps if n == 60_000 and count > 5] == [25]
    assert int(found.rounds.max()) <= 6
    assert bool(found.converged.all())


def test_points_next_to_one_another_share_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    as_of_a_large_table(monkeypatch)
    sweeps = []
    sweep = FoldRows.fold_gradients
    monkeypatch.setattr(FoldRows, "fold_gradients", lambda *of: sweeps.append(len(of[1])) or sweep(*of))
    rows, folds = table(600, 6), torch.arange(600) % 3
    values = [1e-2, 1e-9, 1e-10]
    found = fitted(rows, folds, torch.tensor(values, dtype=torch.float64)[:, None].expand(3, 4))
    assert max(sweeps) == 8  # of 12: the four fits at the second strength need none
    assert bool(found.converged.all())
    for number, strength in enumerate(values):
        for fit in range(4):
            gap = excess(rows, folds == fit - 1, found.theta[0, number, fit], strength)
            assert gap < (1e-12 if fit == 0 else 2e-10)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_as_many_sweeps_as_allowed_and_it_is_said(most: int) -> None:
    rows = table(200, 4)
    strengths = torch.full((1, 3), 1e-9, dtype=torch.float64)
    options = {"l1_ratios": [0.0], "strengths": strengths, "max_rounds": most}
    found = fold_paths(rows, torch.arange(200) % 2, Objective(), **options)  # pyright: ignore[reportArgumentType]
    assert found.theta.shape == (1, 1, 3, 5)
    assert found.rounds.tolist() == [[[most] * 3]]
    assert not bool(found.converged.any())
