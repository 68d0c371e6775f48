"""`fit` with Firth's penalty, bounds and profile likelihoods; what the report and its commands say of them."""

import csv
import io
import json

import numpy as np
import pytest

from lr_lightning import load
from tests.published import EFFECTS, FIRTH, FLIC_INTERCEPT, ML, PENALIZED

EXAM = ["--config", "conf/exam.yaml"]


@pytest.fixture
def fit(project, run):
    """Fit the exam's table and give the report."""

    def of(*options):
        code, out, err = run("fit", *EXAM, *options, "--quiet")
        assert (code, out) == (0, ""), err
        (report,) = project.rglob("report.json")
        return json.loads(report.read_text()), report.parent

    return of


def rows(report):
    return {row["name"]: row for row in report["coefficients"]}


def test_firth_of_the_tutorials_students(project, run):
    code, _, err = run("fit", "--data", "HoursDataModule", "--model.firth", "true")
    assert code == 0
    assert "P(pass | 4 hours) = 0.9006" in err
    (path,) = project.rglob("report.json")
    report = json.loads(path.read_text())
    found = rows(report)
    for name, (estimate, error, low, high, _) in FIRTH["students"].items():
        row = found[name]
        assert (row["estimate"], row["std_error"]) == pytest.approx((estimate, error), rel=1e-6)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), rel=1e-5)
    assert (report["firth"], report["flic"], report["inference"]) == (True, False, "profile")
    assert report["penalized_log_likelihood"] == pytest.approx(PENALIZED["students"], rel=1e-6)
    assert report["converged"]
    assert report["separation"] == "complete"
    assert f"final loss   {-PENALIZED['students'] / 3:.6g}" in err  # −(ℓ + ½ log|I|)/Σv


def test_flic_and_what_the_report_of_it_says(fit, run):
    report, folder = fit("--model.firth", "flic")
    found = rows(report)
    assert found["(Intercept)"]["estimate"] == pytest.approx(FLIC_INTERCEPT["exam"], rel=1e-6)
    assert found["hours"]["estimate"] == pytest.approx(FIRTH["exam"]["hours"][0], rel=1e-6)
    assert report["mean_prediction"] == pytest.approx(report["mean_outcome"], rel=1e-9)
    assert report["flic"] is True
    assert load(folder / "checkpoints" / "last.ckpt").intercept == pytest.approx(FLIC_INTERCEPT["exam"], rel=1e-6)
    code, out, _ = run("report", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert code == 0
    assert out.startswith("Logistic regression with Firth's penalty, FLIC: 20 observations")
    assert "by the profile penalised likelihood, but Wald's of the intercept" in out


def test_flic_against_a_refit_of_the_intercept(fit):
    """The refit has Firth's Xβ as offset; the intercept's error is that of all columns at the refit's probabilities."""
    sm = pytest.importorskip("statsmodels.api")
    table = np.loadtxt("conf/samples/exam.csv", delimiter=",", skiprows=1)
    hours, passed = table.T
    slope = FIRTH["exam"]["hours"][0]
    refit = sm.GLM(passed, np.ones((len(hours), 1)), family=sm.families.Binomial(), offset=slope * hours).fit(tol=1e-14)
    report, _ = fit("--model.firth", "flic")
    row = rows(report)["(Intercept)"]
    x, pi = np.column_stack([np.ones(len(hours)), hours]), refit.fittedvalues
    covariance = np.linalg.inv((x.T * (pi * (1 - pi))) @ x)
    error = covariance[0, 0] ** 0.5
    assert (row["estimate"], row["std_error"]) == (approx(refit.params[0]), approx(error))
    half = 1.9599639845 * error
    assert (row["ci_low"], row["ci_high"]) == (approx(refit.params[0] - half), approx(refit.params[0] + half))
    assert row["z"] == approx(refit.params[0] / error)
    assert rows(report)["hours"]["std_error"] == approx(FIRTH["exam"]["hours"][1])


@pytest.mark.parametrize("firth", ["true", "flic"])
def test_intervals_of_the_maximum_do_not_stand_beside_other_estimates(fit, firth):
    report, _ = fit("--model.firth", firth, "--trainer.max_epochs", "2")
    row = rows(report)["hours"]
    assert not report["converged"]
    assert report["penalized_log_likelihood"] is None
    assert [row[key] for key in ("z", "p_value", "ci_low", "ci_high")] == [None] * 4
    assert any("no tests and intervals by the profile likelihood" in warning for warning in report["warnings"])


def test_profile_of_maximum_likelihood(fit, run):
    report, folder = fit("--inference", "profile", "--level", "0.95")
    for name, (_, _, low, high, _) in ML["exam"].items():
        row = rows(report)[name]
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), rel=1e-5)
    assert report["inference"] == "profile"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    code, out, err = run("report", "--ckpt_path", checkpoint, "--level", "0.9")
    assert (code, out) == (2, "")
    assert "fit with --level 0.9" in err
    assert run("report", "--ckpt_path", checkpoint, "--level", "0.95")[0] == 0


@pytest.mark.pictures
def test_effects_in_the_report_and_its_commands(fit, run):
    report, folder = fit()
    (effect,) = report["average_marginal_effects"]
    wanted, error = EFFECTS["exam"]["hours"]
    assert (effect["name"], effect["effect"], effect["std_error"]) == ("hours", *map(approx, (wanted, error)))
    assert (folder / "figures" / "effects.png").stat().st_size > 1000
    checkpoint = folder / "checkpoints" / "last.ckpt"
    _, out, _ = run("report", "--ckpt_path", checkpoint, "--effects", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert float(row["effect"]) == effect["effect"]
    assert list(row) == ["name", "effect", "std_error", "z", "p_value", "ci_low", "ci_high"]
    _, out, _ = run("report", "--ckpt_path", checkpoint, "--effects")
    assert "average marginal effects" in out
    assert "0.191077" in out
    assert "average marginal effects" not in run("report", "--ckpt_path", checkpoint)[1]


def approx(value):
    return pytest.approx(value, rel=1e-6)


def test_bounds_by_name(fit):
    report, _ = fit("--model.bounds", '{"hours": [null, 1]}')
    row = rows(report)["hours"]
    assert (row["estimate"], row["std_error"], row["p_value"]) == (1.0, None, None)
    assert rows(report)["(Intercept)"]["std_error"] is not None
    assert report["converged"]
    assert any(warning.startswith("hours: the coefficient stands at its bound") for warning in report["warnings"])


def test_bounds_on_levels(project, run):
    project.joinpath("t.csv").write_text(
        "g,x,y\n" + "\n".join(f"{'abc'[i % 3]},{i % 7},{int(i % 5 < 2)}" for i in range(60))
    )
    options = ["--data.path", "t.csv", "--data.target", "y", "--data.val_fraction", "0", "--quiet"]
    bounds = '{"g": [0, null], "g=b": [0.25, 0.25]}'
    assert run("fit", *options, "--model.bounds", bounds)[0] == 0
    (path,) = project.rglob("report.json")
    report = json.loads(path.read_text())
    found = rows(report)
    assert found["g=b"]["estimate"] == 0.25
    assert found["g=c"]["estimate"] >= 0
    assert found["x"]["std_error"] > 0  # a feature without bounds does not stand at one
    assert report["n_parameters"] == 3  # g=b was not estimated


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.firth", "true", "--model.l2", "0.1"], "firth and l2 exclude each other"),
        (["--model.firth", "true", "--model.l1", "0.1"], "firth and l1 exclude each other"),
        (["--model.firth", "true", "--model.penalty_factors", '{"hours": 2}'], "firth and penalty_factors exclude"),
        (["--model.firth", "true", "--model.bounds", '{"hours": [0, 1]}'], "firth and bounds exclude"),
        (["--model.firth", "true", "--model.class_weight", "balanced"], "firth and class_weight exclude"),
        (["--model.firth", "true", "--optimizer", "SGD", "--optimizer.lr", "0.1"], "firth needs the exact solver"),
        (["--model.bounds", '{"hours": [0, 1]}', "--optimizer", "LBFGS"], "bounds needs the exact solver"),
        (["--model.firth", "maybe"], "option model.firth"),
        (["--model.bounds", '{"hour": [0, 1]}'], "there is no feature hour; did you mean hours?"),
        (["--model.bounds", '{"hours": [1, 0]}'], "lower bound 1 is above the upper one 0"),
        (["--model.bounds", '{"hours": [1]}'], "hours takes two numbers"),
        (["--model.bounds", '{"(Intercept)": [0, 1]}'], "the intercept is no feature"),
        (["--inference", "profile", "--covariance", "robust"], "profile does not go with the covariance HC1"),
        (["--model.firth", "true", "--covariance", "robust"], "choose wald"),
        (["--inference", "profile", "--model.l2", "0.1"], "profile does not go with a penalty"),
        (["--inference", "profile", "--model.class_weight", "balanced"], "profile does not go with class weights"),
        (["--inference", "profile", "--model.bounds", '{"hours": [0, 1]}'], "profile does not go with bounds"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(project, run, options, words):
    code, out, err = run("fit", *EXAM, *options)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert not any((project / "runs").glob("*"))


def test_the_warning_of_separation_names_the_cure_that_is_allowed(project, run):
    run("fit", "--data", "HoursDataModule", "--quiet")
    run("fit", "--data", "HoursDataModule", "--model.class_weight", "balanced", "--quiet")
    first, second = sorted(project.rglob("report.json"))
    assert "--model.firth true" in json.loads(first.read_text())["warnings"][0]
    assert "--model.l2 0.01" in json.loads(second.read_text())["warnings"][0]


def test_held_out_measures_are_in_the_report(project, run):
    options = ["--data.val_fraction", "0.3", "--data.test_fraction", "0.2", "--quiet"]
    assert run("fit", *EXAM, *options)[0] == 0
    (path,) = project.rglob("report.json")
    held_out = json.loads(path.read_text())["held_out"]
    _, out, _ = run("test", "--ckpt_path", path.parent / "checkpoints" / "last.ckpt")
    measured = dict(line.split() for line in out.splitlines())
    for name, value in held_out["test"].items():
        assert value == pytest.approx(float(measured[f"test/{name}"]), rel=1e-5)
    assert set(held_out["val"]) == set(held_out["test"])
