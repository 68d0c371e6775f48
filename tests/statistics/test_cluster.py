"""The cluster-robust covariance: that of statsmodels, and what is said beside it."""

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from lightning.pytorch import Trainer

from lr_lightning import InputError, LogisticRegression, TensorDataModule
from lr_lightning.statistics import sums
from lr_lightning.statistics.report import Report
from tests.conftest import QUIET_TRAINER


def table(n=500, n_groups=45, seed=0):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, n_groups, n)
    x = generator.normal(size=(n, 2)) + generator.normal(size=(n_groups, 2))[groups]
    offset = generator.normal(size=n)
    z = x @ [0.7, -0.4] + generator.normal(size=n_groups)[groups] + offset
    y = (generator.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    return x, y, groups, offset, generator.integers(1, 4, n).astype(float)


def fit(*data, **options):
    settings = {"optimizer": options.pop("optimizer")} if "optimizer" in options else {}
    settings |= {key: options.pop(key) for key in ("l2", "class_weight") if key in options}
    model = LogisticRegression(**settings)
    Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER).fit(model, TensorDataModule(*data, **options))
    return model


def theirs(x, y, groups, **options):
    model = sm.GLM(y, sm.add_constant(x), sm.families.Binomial(), **options)
    return model.fit(tol=1e-14, cov_type="cluster", cov_kwds={"groups": groups})


def errors(report):
    return [row.std_error for row in report.coefficients]


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("most", [1 << 26, 20])
def test_agrees_with_statsmodels(with_offset, most, monkeypatch):
    """Also where the sums of the groups take several sweeps."""
    monkeypatch.setattr(sums, "_MOST_GROUP_SUMS", most)
    x, y, groups, offset, _ = table()
    options = {"offset": offset} if with_offset else {}
    report = fit(x, y, groups=groups * 7 + 3, **options).infer(covariance="cluster")
    expected = theirs(x, y, groups, **options)
    assert errors(report) == pytest.approx(expected.bse.tolist(), rel=1e-7)
    assert (report.covariance, report.n_groups, report.warnings) == ("cluster", 45, ())


def test_weights_and_trials_make_one_observation_a_row():
    """By the definition: scores with weights, G / (G − 1) · (n − 1) / (n − k) with n the rows of positive weight."""
    x, _, groups, _, w = table()
    w[:20] = 0
    generator = np.random.default_rng(1)
    m = generator.integers(1, 6, len(x))
    k = generator.binomial(m, 0.4)
    report = fit(x, k, w, trials=m, groups=[f"group {g}" for g in groups]).infer(covariance="cluster")
    used, z = w > 0, sm.add_constant(x)
    v = w * m
    expected = sm.GLM(k / m, z, sm.families.Binomial(), freq_weights=v).fit(tol=1e-14)
    p = expected.fittedvalues
    scores = z * (v * (k / m - p))[:, None]
    of_group = np.stack([scores[groups == g].sum(0) for g in np.unique(groups[used])])
    bread = np.linalg.inv((z * (v * p * (1 - p))[:, None]).T @ z)
    n, n_groups = used.sum(), len(of_group)
    factor = n_groups / (n_groups - 1) * (n - 1) / (n - 3)
    matrix = bread @ (of_group.T @ of_group) @ bread * factor
    assert errors(report) == pytest.approx(np.sqrt(np.diag(matrix)).tolist(), rel=1e-6)
    assert (report.n_groups, report.n_observations) == (n_groups, n)


def test_groups_of_one_row_are_hc1():
    """With G = n the two factors are n / (n − 1) · (n − 1) / (n − k) = n / (n − k)."""
    x, y, *_ = table()
    model = fit(x, y, groups=np.arange(len(x)))
    assert errors(model.infer(covariance="cluster")) == pytest.approx(errors(model.infer(covariance="HC1")), rel=1e-9)


def test_groups_alone_change_no_error_and_are_told():
    x, y, groups, *_ = table()
    with_groups, without = fit(x, y, groups=groups).infer(), fit(x, y).infer()
    assert errors(with_groups) == errors(without)
    assert (with_groups.n_groups, without.n_groups) == (45, None)
    (told,) = with_groups.warnings
    assert "--covariance cluster" in told


def test_class_weights_have_errors_by_groups():
    x, y, groups, *_ = table()
    report = fit(x, y, groups=groups, class_weight="balanced").infer(covariance="cluster")
    assert None not in errors(report)


def test_only_the_training_rows_groups_count():
    x, y, groups, *_ = table()
    model = fit(x, y, groups=groups, val_fraction=0.4)
    report = model.infer(covariance="cluster")
    assert report.n_groups == len(model.trainer.datamodule.train_groups.unique()) < 45


class TestDoubts:
    def test_few_groups(self):
        x, y, groups, *_ = table(n_groups=12)
        (told,) = fit(x, y, groups=groups).infer(covariance="cluster").warnings
        assert "estimated from 12 of them, fewer than 40" in told

    def test_one_group_has_no_errors(self):
        x, y, *_ = table()
        report = fit(x, y, groups=np.zeros(len(x))).infer(covariance="cluster")
        assert errors(report) == [None] * 3
        assert "all rows are of one group" in report.warnings[0]

    @pytest.mark.parametrize("covariance", ["HC1", "cluster"])
    def test_as_many_parameters_as_rows(self, covariance):
        """Counts of trials allow a saturated model, whose factor for small samples would divide by 0."""
        model = fit(np.array([[0.0], [1.0]]), [3, 6], trials=[9, 8], groups=[0, 1])
        report = model.infer(covariance=covariance)
        assert errors(report) == [None] * 2
        assert any("no more rows than parameters" in warning for warning in report.warnings)
        assert report.coefficients[0].estimate == pytest.approx(np.log(3 / 6), rel=1e-9)

    def test_without_groups_it_is_refused(self):
        x, y, *_ = table()
        with pytest.raises(InputError, match="covariance cluster needs groups"):
            fit(x, y).infer(covariance="cluster")

    def test_a_report_of_before_has_no_groups(self):
        x, y, groups, *_ = table()
        values = fit(x, y, groups=groups).infer().to_dict()
        assert Report.from_dict(values).n_groups == 45
        del values["n_groups"]
        assert Report.from_dict(values).n_groups is None


def test_the_command_says_how_many_groups(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y, groups, *_ = table()
    rows = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "clinic": groups, "y": y.astype(int)})
    rows.to_csv("t.csv", index=False)
    options = ["--data.path", "t.csv", "--data.target", "y", "--covariance", "cluster", "--data.val_fraction", 0]
    code, out, err = run("fit", *options)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("covariance cluster needs groups; name their column with --data.groups")
    assert not any((tmp_path / "runs").glob("*"))
    code, _, err = run("fit", *options, "--data.groups", "clinic")
    assert code == 0
    assert "sandwich (cluster) of 45 groups" in err
    report = json.loads((tmp_path / "runs/t/version_0/report.json").read_text())
    assert (report["covariance"], report["n_groups"]) == ("cluster", 45)
    assert [row["name"] for row in report["coefficients"]] == ["(Intercept)", "a", "b"]
    expected = theirs(x, y, groups).bse.tolist()
    assert [row["std_error"] for row in report["coefficients"]] == pytest.approx(expected, rel=1e-6)
    checkpoint = tmp_path / "runs/t/version_0/checkpoints/last.ckpt"
    rows[["a", "b"]].to_csv("new.csv", index=False)
    code, out, _ = run("predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--interval")
    assert code == 0
    low = [float(line.split(",")[2]) for line in out.splitlines()[1:3]]
    matrix = theirs(x, y, groups)
    z = sm.add_constant(x)[:2]
    half = 1.959963984540054 * np.sqrt(np.einsum("ij,jk,ik->i", z, np.asarray(matrix.cov_params()), z))
    assert low == pytest.approx((1 / (1 + np.exp(-(z @ matrix.params - half)))).tolist(), rel=1e-6)
    assert torch.is_tensor(torch.load(checkpoint, weights_only=True)["covariance"]["factor"])
