"""Sparse rows, codes of levels and svmlight files give the same from two processes as from one."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file

from lr_lightning import LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.solver import thresholds
from tests.distributed.several import in_processes
from tests.distributed.test_fit import leaves, trainer_for

KINDS = ("csr", "codes", "svmlight")
FREE = "free"  # without a penalty


def data_of(kind, folder):
    rng = np.random.default_rng(0)
    n, d = 1501, 60
    x = sp.random_array((n, d), density=0.1, rng=rng, format="csr")
    y = (rng.random(n) < 1 / (1 + np.exp(1 - x @ rng.normal(size=d) * 3))).astype(int)
    if kind == "csr":
        return TensorDataModule(x, y, rng.integers(0, 3, n), val_fraction=0.2)
    if kind == "svmlight":
        return TableDataModule(f"{folder}/t.svm", val_fraction=0.2)
    code = rng.integers(0, 50, n)
    return TableDataModule({"c": [f"l{v:02d}" for v in code], "x": rng.normal(size=n), "y": y}, "y")


def fits(processes, folder):
    """What fits by Newton's method without a matrix, and by working sets, say."""
    thresholds.DENSE_LIMIT = 20
    said = {}
    for kind in KINDS:
        for options in ({"l2": 0.01}, {"l1": 0.005}, {}):
            model, data = LogisticRegression(**options), data_of(kind, folder)
            trainer = trainer_for(processes, max_epochs=100)
            trainer.fit(model, data)
            predictor = model.predictor()
            validated = trainer.validate(model, data, verbose=False)[0]
            numbers = dict(leaves({"report": model.infer().to_dict(), "val": validated}))
            said[kind, next(iter(options), FREE)] = [*predictor.coefficients.values(), predictor.intercept], numbers
    model, trainer = LogisticRegression(), trainer_for(processes, max_epochs=100)
    trainer.fit(model, separated())
    report = model.infer()
    said["separated"] = report.separation, [text for text in report.warnings if "separation" in text]
    return said


def separated():
    """A level of positive rows alone, and a reference level of negative ones."""
    rng = np.random.default_rng(1)
    code, other, y = rng.integers(0, 40, 1200), rng.integers(0, 4, 1200), rng.integers(0, 2, 1200)
    y[other == 0] = 0
    y[(code == 7) & (other > 0)] = 1
    table = {"c": [f"l{v:02d}" for v in code], "k": [f"k{v}" for v in other], "y": y}
    return TableDataModule(table, "y", val_fraction=0.0)


def test_two_processes_fit_sparse_rows_as_one_does(tmp_path, monkeypatch):
    data = data_of("csr", None)
    dump_svmlight_file(sp.csr_array(data._rows.x.dense().numpy()), data._rows.y.numpy(), f"{tmp_path}/t.svm")
    shared = in_processes(2, fits, 2, str(tmp_path))
    monkeypatch.setattr(thresholds, "DENSE_LIMIT", thresholds.DENSE_LIMIT)  # put back what `fits` sets
    alone = fits(1, str(tmp_path))
    kind, warnings = alone.pop("separated")
    assert (kind, len(warnings)) == ("quasi", 1)
    assert "c=l07, k=k1, k=k2 and k=k3 without" in warnings[0]
    assert all(of_one.pop("separated") == (kind, warnings) for of_one in shared)
    for name, (coefficients, numbers) in alone.items():
        assert shared[0][name] == shared[1][name]  # to the last bit
        found, of_processes = shared[0][name]
        np.testing.assert_allclose(found, coefficients, rtol=1e-7, atol=1e-9)
        for key, value in numbers.items():
            if key not in ("report.passes", "val.step"):  # rounding may decide about a last pass
                close = pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
                assert of_processes[key] == close, (name, key)
