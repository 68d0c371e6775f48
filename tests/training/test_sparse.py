"""Sparse features through the Trainer: the numbers are those of the same rows made dense."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Trainer

from lr_lightning import InputError, LogisticRegression, TensorDataModule
from lr_lightning.solver import thresholds
from tests.conftest import QUIET_TRAINER

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning"),
]


def table(n=1500, d=40, seed=0):
    rng = np.random.default_rng(seed)
    x = sp.random_array((n, d), density=0.15, rng=rng, format="csr")
    y = (rng.random(n) < 1 / (1 + np.exp(2 - x @ rng.normal(size=d) * 4))).astype(float)
    return x, y, rng.integers(0, 3, n).astype(float)


def fit(x, y, weight=None, *, epochs=100, precision="64-true", batch_size=None, offset=None, **options):
    model = LogisticRegression(**options)
    data = TensorDataModule(x, y, weight, offset=offset, val_fraction=0.2, batch_size=batch_size)
    trainer = Trainer(max_epochs=epochs, precision=precision, **QUIET_TRAINER)
    trainer.fit(model, data)
    return model, trainer, data


def coefficients(model):
    weight, intercept = model.linear_sigmoid.coefficients()
    return torch.cat([weight, torch.tensor([intercept])])


KINDS = {
    "array": lambda x: x,
    "matrix": lambda x: sp.csr_matrix(x),
    "columns": lambda x: x.tocsc(),
    "coordinates": lambda x: x.tocoo(),
    "tensor": lambda x: torch.from_numpy(x.toarray()).to_sparse_csr(),
    "coordinates of torch": lambda x: torch.from_numpy(x.toarray()).to_sparse(),
    "single": lambda x: x.astype(np.float32).astype(np.float64),
}


@pytest.mark.parametrize("options", [{}, {"l2": 1e-3}, {"l1": 2e-3, "l2": 1e-3}, {"l2": 1e-3, "standardize": False}])
@pytest.mark.parametrize("many", [False, True])
def test_the_numbers_of_the_dense_fit(options, many, monkeypatch):
    x, y, weight = table()
    dense, *_ = fit(x.toarray(), y, weight, class_weight="balanced", **options)
    if many:
        monkeypatch.setattr(thresholds, "DENSE_LIMIT", 20)
    model, trainer, data = fit(x, y, weight, class_weight="balanced", **options)
    assert model.converged
    torch.testing.assert_close(coefficients(model), coefficients(dense), rtol=0, atol=1e-9)
    assert data.train_rows.design.is_sparse
    validated = trainer.validate(model, data, verbose=False)[0]
    expected = trainer.validate(dense, TensorDataModule(x.toarray(), y, weight, val_fraction=0.2), verbose=False)[0]
    for name, value in expected.items() - {("step", expected["step"])}:
        assert validated[name] == pytest.approx(value, rel=1e-9)
    # The batches of prediction are sparse too.
    predicted = torch.cat(trainer.predict(model, data))
    torch.testing.assert_close(predicted, dense(torch.from_numpy(x.toarray())).detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout(kind):
    x, y, _ = table(300, 8)
    model, *_ = fit(KINDS[kind](x), y, l2=1e-3)
    expected, *_ = fit(x.toarray() if kind != "single" else x.astype(np.float32).toarray().astype(float), y, l2=1e-3)
    torch.testing.assert_close(coefficients(model), coefficients(expected), rtol=0, atol=1e-10)


def test_single_precision_is_as_near():
    """Products are computed in float64, so that the Trainer's precision costs no digits."""
    x, y, _ = table()
    model, *_ = fit(x, y, l2=1e-3, precision="32-true")
    torch.testing.assert_close(coefficients(model), coefficients(fit(x, y, l2=1e-3)[0]), rtol=0, atol=1e-10)


def test_an_offset():
    x, y, _ = table()
    offset = np.random.default_rng(1).normal(size=len(y))
    found, expected = (coefficients(fit(features, y, offset=offset)[0]) for features in (x, x.toarray()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "epochs"), [("SGD", 64, 3), ("Adam", None, 5), ("LBFGS", None, 100)]
)
def test_optimizers_of_torch(optimizer, batch_size, epochs):
    x, y, weight = table()
    options = {"optimizer": optimizer, "batch_size": batch_size, "epochs": epochs, "l2": 1e-3}
    found, expected = (coefficients(fit(features, y, weight, **options)[0]) for features in (x, x.toarray()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 if optimizer == "LBFGS" else 1e-10)


def test_prediction_of_sparse_rows():
    x, y, _ = table()
    model, *_ = fit(x, y, l2=1e-3)
    predictor = model.predictor()
    expected = model(torch.from_numpy(x.toarray())).detach()
    tensor = torch.from_numpy(x.toarray()).to_sparse_csr()
    for found in (model(tensor), predictor.probability(tensor), predictor.probability(x)):
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-14)
    x.data[7] = np.inf
    with pytest.raises(InputError, match="the sparse matrix, row 1: column x28 holds inf"):
        predictor.probability(x)
    with pytest.raises(InputError, match="has 3 columns, but the fit had 40 features"):
        predictor.probability(x[:, :3])


def test_what_cannot_be_fitted():
    x, y, _ = table(50, 5)
    for value, name in ((np.nan, "x1"), (np.inf, "x1")):
        wrong = x.tolil()
        wrong[3, 1] = value
        with pytest.raises(InputError, match=f"feature {name} holds a missing or infinite value"):
            fit(wrong, y)
    for large in (x * 1e200, (x * 1e200).toarray()):
        with pytest.raises(InputError, match="feature x0 holds values too large to square"):
            fit(large, y)
    with pytest.raises(InputError, match="x has no rows"):
        TensorDataModule(sp.csr_array((0, 3)), [])
    with pytest.raises(InputError, match=r"y must have shape \(50,\)"):
        TensorDataModule(x, y[:10])


def test_an_empty_column_has_no_weight_and_is_told():
    x, y, _ = table(300, 6)
    x = sp.hstack([x, sp.csr_array((300, 1))], format="csr")
    model, *_ = fit(x, y)
    assert model.linear_sigmoid.coefficients()[0][6] == 0
    assert any(text.startswith("x6: the column is constant") for text in model.infer().warnings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("options", [{"l2": 1e-3}, {"l1": 2e-3}, {"optimizer": "LBFGS"}])
def test_on_a_gpu(options):
    x, y, _ = table()
    found = []
    for accelerator in ("cpu", "cuda"):
        model = LogisticRegression(**options)
        trainer = Trainer(max_epochs=100, precision="64-true", **{**QUIET_TRAINER, "accelerator": accelerator})
        trainer.fit(model, TensorDataModule(x, y))
        found.append(coefficients(model))
    torch.testing.assert_close(*found, rtol=0, atol=1e-7)
