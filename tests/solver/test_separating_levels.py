"""Levels of one outcome in sparse tables, whose coefficients are taken to their limit without filling the rows."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.solver import thresholds
from lr_lightning.solver.separating_columns import CoefficientsInTheLimit
from lr_lightning.solver.separating_levels import LevelsInTheLimit
from tests.conftest import QUIET_TRAINER


@pytest.fixture
def sparse_limit(monkeypatch):
    monkeypatch.setattr(thresholds, "FILLED", 0)


def fit(data):
    model = LogisticRegression()
    trainer = Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER)
    trainer.fit(model, data)
    return model, trainer.optimizers[0]


@pytest.mark.parametrize("pure", [("b",), ("a",), ("a", "c", "d")])  # a is the reference
def test_the_probability_of_a_level_is_its_share(sparse_limit, pure):
    """The model of one category has as many coefficients as levels, and fits each share."""
    rng = np.random.default_rng(0)
    levels = np.array(list("abcdefg"))[rng.integers(0, 7, 700)]
    y = rng.integers(0, 2, 700)
    for k, level in enumerate(pure):
        y[levels == level] = k % 2
    table = {"c": levels.tolist(), "y": y.tolist(), "w": rng.integers(0, 4, 700).tolist()}
    model, solver = fit(TableDataModule(table, "y", weight="w", val_fraction=0.0))
    assert isinstance(solver._coefficients, LevelsInTheLimit)
    assert not model.converged
    w = np.array(table["w"])
    shares = {level: np.average(y[levels == level], weights=w[levels == level]) for level in "abcdefg"}
    found = model.predictor().probability({"c": list(shares)})
    np.testing.assert_allclose(found, list(shares.values()), rtol=1e-9, atol=1e-16)


def rows(seed):
    """Rows of two categories and a number; some levels have one outcome, others once the rows of these are gone."""
    rng = np.random.default_rng(seed)
    n, levels = 500, 40
    share = 1 / np.arange(1, levels + 1)
    c, k, x = rng.choice(levels, n, p=share / share.sum()), rng.integers(0, 5, n), rng.normal(size=n)
    y = (rng.random(n) < 1 / (1 + np.exp(-x / 2 - rng.normal(size=levels)[c]))).astype(int)
    y[c == 0] = 1
    y[(k == 1) & (c != 0)] = 0  # of one outcome in the second look
    return c, k, x, y


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["codes", "csr"])
def test_as_the_limit_of_the_same_rows_made_dense(monkeypatch, kind, seed):
    c, k, x, y = rows(seed)
    if kind == "codes":
        table = {"c": [f"c{v:02d}" for v in c], "k": [f"k{v}" for v in k], "x": x, "y": y}
        data = lambda: TableDataModule(table, "y", val_fraction=0.0)  # noqa: E731
    else:
        indicators = sp.hstack([sp.csr_array(np.eye(40)[c]) * 3, sp.csr_array(np.eye(5)[k])[:, 1:]], format="csr")
        data = lambda: TensorDataModule(indicators, y, offset=x / 2)  # noqa: E731
    models = {}
    for filled in (thresholds.FILLED, 0):
        monkeypatch.setattr(thresholds, "FILLED", filled)
        model, solver = fit(data())
        assert isinstance(solver._coefficients, CoefficientsInTheLimit)
        assert isinstance(solver._coefficients, LevelsInTheLimit) == (filled == 0)
        models[filled] = model, solver
    (dense, of_dense), (sparse, of_sparse) = models.values()
    assert of_sparse.objective == pytest.approx(of_dense.objective, rel=1e-12)
    given = {name: table[name] for name in "ckx"} if kind == "codes" else indicators
    offset = None if kind == "codes" else x / 2
    expected = dense.predictor().probability(given, offset)
    torch.testing.assert_close(sparse.predictor().probability(given, offset), expected, rtol=0, atol=1e-7)
