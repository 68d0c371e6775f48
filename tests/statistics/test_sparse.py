"""The report of a fit to sparse features: that of the same rows made dense, and of more of them than have errors."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TensorDataModule, load
from lr_lightning.errors import InputError
from lr_lightning.model.categories import Categories
from lr_lightning.statistics import report as report_module
from lr_lightning.statistics.render import as_text
from lr_lightning.statistics.report import Report
from tests.conftest import QUIET_TRAINER
from tests.training.test_sparse import fit, table


def reports(x, y, weight=None, **options):
    for features in (x, x.toarray()):
        yield fit(features, y, weight, **options)[0].infer()


def same(found: Report, expected: Report):
    for ours, theirs in zip(found.coefficients, expected.coefficients, strict=True):
        assert ours.name == theirs.name
        for name in ("estimate", "std_error", "p_value", "ci_low", "vif"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None), (ours, theirs)
            if a is not None:
                assert a == pytest.approx(b, rel=1e-7, abs=1e-9)
    assert found.warnings == expected.warnings
    assert (found.separation, found.converged) == (expected.separation, expected.converged)
    for name in ("log_likelihood", "null_log_likelihood", "aic", "bic"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_report_of_the_dense_rows(weighted):
    x, y, weight = table(1500, 20)
    same(*reports(x, y, weight if weighted else None))


def test_constant_and_dependent_columns():
    x, y, _ = table(1000, 6)
    x = sp.hstack([x, sp.csr_array((1000, 1)), x[:, [0]] + x[:, [1]], x[:, [2]]], format="csr")
    found, expected = reports(x, y)
    same(found, expected)
    assert [row.name for row in found.coefficients if row.estimate is None] == ["x6", "x7", "x8"]


def test_a_column_of_one_outcome():
    x, y, _ = table(1000, 6)
    x = sp.hstack([x, sp.csr_array((y * (np.arange(1000) < 100))[:, None])], format="csr")
    found, expected = reports(x, y)
    same(found, expected)
    assert found.separation == "quasi"
    assert "the coefficients of x6 without end" in found.warnings[0]


# ---- more coefficients than a Hessian is computed for ---------------------------------------------------------------


@pytest.fixture
def few_are_many(monkeypatch):
    monkeypatch.setattr(report_module, "MAX_COLUMNS", 10)
    monkeypatch.setattr("lr_lightning.statistics.summary.MAX_COLUMNS", 10)
    monkeypatch.setattr("lr_lightning.solver.thresholds.DENSE_LIMIT", 10)


def test_nothing_is_filled(few_are_many, monkeypatch):
    x, y, _ = table(1000, 30)
    expected = fit(x.toarray(), y, l2=1e-3)[0].infer()

    def fails(*_, **__):
        raise AssertionError("filled")

    monkeypatch.setattr("lr_lightning.model.csr.Csr.dense", fails)
    found = fit(x, y, l2=1e-3)[0].infer()
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-8)
    assert found.null_log_likelihood == pytest.approx(expected.null_log_likelihood, rel=1e-12)
    assert found.coefficients[3].estimate == pytest.approx(expected.coefficients[3].estimate, rel=1e-6)


def test_a_column_of_one_outcome_among_many(few_are_many):
    x, y, _ = table(1000, 30)
    # What occurs with one outcome: a level of the positive rows, and one of the negative ones.
    of_one = np.stack([y * (np.arange(1000) < 100), (1 - y) * (np.arange(1000) > 900)], 1)
    report = fit(sp.hstack([x, sp.csr_array(of_one)], format="csr"), y)[0].infer()
    assert report.separation == "quasi"
    assert not report.converged
    assert "quasi-complete separation: moving the coefficients of x30 and x31 without end" in report.warnings[0]
    assert any("more than the 10 that they are computed for" in text for text in report.warnings)
    assert all(row.std_error is None for row in report.coefficients)


def test_complete_separation_among_many(few_are_many):
    x, y, _ = table(300, 30)
    report = fit(sp.hstack([x, sp.csr_array(y[:, None])], format="csr"), y)[0].infer()
    assert report.separation == "complete"


def test_the_checkpoint_keeps_arrays_and_the_report_reads_them(few_are_many, tmp_path):
    x, y, _ = table(1000, 30)
    x = sp.hstack([x, sp.csr_array((1000, 1))], format="csr")
    model = LogisticRegression(l2=1e-3)
    trainer = Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER)
    trainer.fit(model, TensorDataModule(x, y))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["report"]["coefficients"]
    assert set(saved) == {"name", "estimate"}
    assert saved["estimate"].dtype == torch.float64
    report, made = load(tmp_path / "last.ckpt").report(), model.infer()
    assert report == made
    assert report.coefficients[-1].estimate is None  # the empty column
    rows = report.to_dict()["coefficients"]
    assert len(rows) == 32
    assert set(rows[0]) == {"name", "estimate", "odds_ratio"}
    assert rows[1]["odds_ratio"] == pytest.approx(math.exp(rows[1]["estimate"]))
    assert "and 2 more" in as_text(report)
    damaged = {**model._of_report["report"], "coefficients": {"name": ["a"], "estimate": torch.zeros(2)}}
    with pytest.raises(InputError, match="its coefficients have no estimates"):
        Report.from_dict(damaged)
    with pytest.raises(InputError, match="its coefficients have no names"):
        Report.from_dict({**damaged, "coefficients": {"name": [1]}})


def test_levels_of_one_outcome_by_their_counts():
    codes = torch.tensor([[0, 0, 1, 1, 2, 2, 2]], dtype=torch.int32).T
    x, y = Categories(codes, [3]), torch.tensor([0, 1, 1, 1, 0, 1, 0])
    low = torch.stack([x.bounds(y == outcome)[0] for outcome in (0, 1)])
    high = torch.stack([x.bounds(y == outcome)[1] for outcome in (0, 1)])
    assert low.tolist() == [[0, 0], [0, 0]]
    assert high.tolist() == [[0, 1], [1, 1]]
