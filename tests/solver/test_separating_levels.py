"""Levels of one outcome in sparse tables, whose coefficients are taken to their limit without filling the rows."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.solver.separating_columns import CoefficientsInTheLimit
from tests.conftest import QUIET_TRAINER


def fit(data):
    model = LogisticRegression()
    trainer = Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER)
    trainer.fit(model, data)
    return model, trainer.optimizers[0]


@pytest.mark.parametrize("pure", [("b",), ("a",), ("a", "c", "d")])  # a is the reference
def test_the_probability_of_a_level_is_its_share(pure):
    """The model of one category has as many coefficients as levels, and fits each share."""
    rng = np.random.default_rng(0)
    levels = np.array(list("abcdefg"))[rng.integers(0, 7, 700)]
    y = rng.integers(0, 2, 700)
    for k, level in enumerate(pure):
        y[levels == level] = k % 2
    table = {"c": levels.tolist(), "y": y.tolist(), "w": rng.integers(0, 4, 700).tolist()}
    model, solver = fit(TableDataModule(table, "y", weight="w", val_fraction=0.0))
    assert isinstance(solver._coefficients, CoefficientsInTheLimit)
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
def test_as_the_limit_of_the_same_rows_made_dense(kind, seed):
    c, k, x, y = rows(seed)
    indicators = np.column_stack([np.eye(40)[c] * 3, np.eye(5)[k][:, 1:]])
    offset = x / 2
    if kind == "codes":
        table = {"c": [f"c{v:02d}" for v in c], "k": [f"k{v}" for v in k], "o": offset, "y": y}
        of_sparse, solver = fit(TableDataModule(table, "y", offset="o", val_fraction=0.0))
        found = of_sparse.predictor().probability({name: table[name] for name in "cko"})
    else:
        of_sparse, solver = fit(TensorDataModule(sp.csr_array(indicators), y, offset=offset))
        found = of_sparse.predictor().probability(sp.csr_array(indicators), offset)
    of_dense, other = fit(TensorDataModule(indicators, y, offset=offset))
    for optimizer in (solver, other):
        assert isinstance(optimizer._coefficients, CoefficientsInTheLimit)
    assert solver.objective == pytest.approx(other.objective, rel=1e-12)
    expected = of_dense.predictor().probability(indicators, offset)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
