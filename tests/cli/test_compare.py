"""Fits of the same rows side by side."""

import csv
import io
import json
import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch

from tests.conftest import fit_in

CHECKPOINT = "runs/t/version_{}/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Fits of one table: of one column, of two, with L2, Firth's, of other rows, of another split, of a weight."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    n = 80
    a, b = rng.normal(size=(2, n))
    y = (rng.random(n) < 1 / (1 + np.exp(-a))).astype(int)
    lines = [f"{i:.6f},{j:.6f},{k % 3 + 1},{label}" for k, (i, j, label) in enumerate(zip(a, b, y, strict=True))]
    (folder / "t.csv").write_text("\n".join(["a,b,w,y", *lines]))
    common = ["--data.path", "t.csv", "--data.target", "y", "--quiet"]
    for options in (
        ["--data.features", '["a"]'],
        ["--data.features", '["a", "b"]'],
        ["--data.features", '["a", "b"]', "--model.l2", "0.1"],
        ["--data.features", '["a", "b"]', "--model.firth", "true", "--inference", "wald"],
        ["--data.features", '["a"]', "--data.seed", "1"],
        ["--data.features", '["a"]', "--data.weight", "w"],
    ):
        fit_in(folder, *common, *options)
    return folder


@pytest.fixture
def compare(fits, run, monkeypatch):
    monkeypatch.chdir(fits)
    return lambda *versions, options=(): run("compare", *map(CHECKPOINT.format, versions), *options)


def reports(fits):
    return [json.loads((fits / f"runs/t/version_{k}/report.json").read_text()) for k in range(4)]


def test_json_has_the_reports_numbers_and_the_test_of_the_nested_pair(compare, fits):
    code, out, err = compare(1, 0, 2, 3, options=["--format", "json"])
    assert (code, err) == (0, "")
    found = json.loads(out)
    of_fits = reports(fits)
    for model, k in zip(found["models"], (1, 0, 2, 3), strict=True):
        assert model["name"] == CHECKPOINT.format(k)
        for key in ("log_likelihood", "n_parameters", "aic", "bic", "held_out"):
            assert model[key] == of_fits[k][key]
        assert model["coefficients"] == {row["name"]: row["estimate"] for row in of_fits[k]["coefficients"]}
    (test,) = found["tests"]  # neither the penalised fit nor Firth's has one
    assert (test["smaller"], test["larger"], test["df"]) == (CHECKPOINT.format(0), CHECKPOINT.format(1), 1)
    statistic = 2 * (of_fits[1]["log_likelihood"] - of_fits[0]["log_likelihood"])
    assert test["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert test["p_value"] == pytest.approx(math.erfc(math.sqrt(statistic / 2)), rel=1e-9)


def test_the_test_agrees_with_statsmodels(compare, fits):
    from lr_lightning import TableDataModule

    data = TableDataModule(str(fits / "t.csv"), target="y", features=["a", "b"])
    data.setup("fit")
    x = (data.train_rows.x * data.served.scale + data.served.mean).numpy()
    y = data.train_rows.y.numpy()
    larger, smaller = (sm.Logit(y, sm.add_constant(part)).fit(disp=0, tol=1e-12) for part in (x, x[:, :1]))
    (test,) = json.loads(compare(0, 1, options=["--format", "json"])[1])["tests"]
    assert test["statistic"] == pytest.approx(2 * (larger.llf - smaller.llf), rel=1e-6)


def test_csv_is_a_row_a_coefficient_and_a_column_a_model(compare, fits):
    rows = list(csv.reader(io.StringIO(compare(0, 1, options=["--format", "csv"])[1])))
    assert rows[0] == ["name", CHECKPOINT.format(0), CHECKPOINT.format(1)]
    assert [row[0] for row in rows[1:]] == ["(Intercept)", "a", "b"]
    assert rows[3][1] == ""
    assert float(rows[2][2]) == reports(fits)[1]["coefficients"][1]["estimate"]


def test_text_shows_likelihoods_measures_and_the_test(compare):
    code, out, _ = compare(0, 1)
    assert code == 0
    assert "likelihood-ratio test of (1) in (2): χ² = " in out
    assert "val/loss" in out
    assert "no likelihood-ratio test" in compare(1, 2)[1]


@pytest.mark.parametrize("other", [4, 5])
def test_fits_of_other_rows_are_refused(compare, other):
    code, out, err = compare(0, other)
    assert (code, out) == (2, "")
    assert f"{CHECKPOINT.format(other)}: was not fitted to the rows of" in err


def test_checkpoints_that_do_not_name_their_rows_are_refused(compare, fits):
    contents = torch.load(fits / CHECKPOINT.format(0), weights_only=True)
    contents["rows_fingerprint"] = None
    torch.save(contents, fits / "old.ckpt")
    code, out, err = compare(0, options=["old.ckpt"])
    assert (code, out) == (2, "")
    assert "old.ckpt: does not say which rows it was fitted to" in err


def test_one_checkpoint_or_one_twice_is_refused(compare):
    assert compare(0)[0] == 2
    assert "named twice" in compare(0, 0)[2]


def test_the_same_rows_as_arrays_have_one_fingerprint():
    from lr_lightning import TensorDataModule

    x, y = torch.arange(24.0).reshape(12, 2), torch.arange(12) % 2
    prints = []
    for options in ({}, {}, {"weight": torch.arange(12) + 1.0}, {"val_fraction": 0.5}, {"offset": torch.ones(12)}):
        data = TensorDataModule(x, y, **options)
        data.setup("fit")
        prints.append(data.rows_fingerprint()())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
