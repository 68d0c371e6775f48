from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from lightning.pytorch import Trainer
from scipy import stats

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.statistics.render import as_csv, as_text
from lr_lightning.statistics.report import Report
from lr_lightning.statistics.wald import Covariance, chi_squared_p_value, two_sided_p_value
from tests.conftest import QUIET_TRAINER
from tests.statistics.tables import report_of, rows_by_name

SAMPLES = Path(__file__).parents[2] / "conf" / "samples"
EXAM = np.genfromtxt(SAMPLES / "exam.csv", delimiter=",", skip_header=1)


def table(n=400, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [1, 10, 0.1] + [0, 50, 3]
    y = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0] - 0.05 * (x[:, 1] - 50)))).astype(float)
    return x, y


def spector():
    data = sm.datasets.spector.load()
    return report_of(np.array(data.exog), np.array(data.endog), names=list(data.exog.columns)).report


def test_published_exam():
    report = report_of(EXAM[:, :1], EXAM[:, 1], names=["hours"]).report
    rows = rows_by_name(report)
    for name, estimate, error, z, p in (
        ("(Intercept)", -4.077713431088, 1.7610, -2.316, 0.0206),
        ("hours", 1.504645428373, 0.6287, 2.393, 0.0167),
    ):
        assert rows[name].estimate == pytest.approx(estimate, rel=1e-10)
        assert rows[name].std_error == pytest.approx(error, abs=5e-5)
        assert rows[name].z == pytest.approx(z, abs=5e-4)
        assert rows[name].p_value == pytest.approx(p, abs=5e-5)
    assert report.log_likelihood == pytest.approx(-8.029878464345, rel=1e-11)


def test_published_spector():
    report = spector()
    rows = rows_by_name(report)
    for name, estimate, error in (
        ("GPA", 2.82611297201, 1.26294114526),
        ("TUCE", 0.0951576702557, 0.141554207662),
        ("PSI", 2.37868772835, 1.06456430165),
        ("(Intercept)", -13.0213483201, 4.93132462871),
    ):
        assert rows[name].estimate == pytest.approx(estimate, rel=1e-6)
        assert rows[name].std_error == pytest.approx(error, rel=1e-6)
    assert report.log_likelihood == pytest.approx(-12.88963422213, rel=1e-11)
    assert [row.name for row in report.coefficients] == ["(Intercept)", "GPA", "TUCE", "PSI"]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("served", [{}, {"standardize": True}, {"batch_size": 37}])
def test_agrees_with_statsmodels_logit(intercept, served):
    x, y = table()
    expected = sm.Logit(y, sm.add_constant(x) if intercept else x).fit(disp=0, tol=1e-12)
    report = report_of(x, y, intercept=intercept, served_options=served).report
    rows = report.coefficients
    assert [row.estimate for row in rows] == pytest.approx(expected.params, rel=1e-8)
    assert [row.std_error for row in rows] == pytest.approx(expected.bse, rel=1e-8)
    assert [row.p_value for row in rows] == pytest.approx(expected.pvalues, rel=1e-7)
    limits = np.array([[row.ci_low, row.ci_high] for row in rows])
    assert limits == pytest.approx(expected.conf_int(), rel=1e-8)
    assert [row.odds_ratio for row in rows] == pytest.approx(np.exp(expected.params), rel=1e-8)
    assert (report.log_likelihood, report.aic, report.bic) == pytest.approx((expected.llf, expected.aic, expected.bic))
    if intercept:  # statsmodels' null model always has one
        assert report.null_log_likelihood == pytest.approx(expected.llnull)
        assert report.mcfadden_r2 == pytest.approx(expected.prsquared)
        test = report.likelihood_ratio_test
        assert (test.statistic, test.p_value) == pytest.approx((expected.llr, expected.llr_pvalue), rel=1e-8)
        assert report.mean_prediction == pytest.approx(report.mean_outcome, rel=1e-12)
    else:
        assert report.null_log_likelihood == pytest.approx(-len(y) * math.log(2))


@pytest.mark.parametrize("weights", [None, "freq_weights", "var_weights"])
def test_weights_agree_with_statsmodels_glm(weights):
    x, y = table()
    v = None if weights is None else np.random.default_rng(1).integers(1, 5, len(y)).astype(float)
    options = {} if weights is None else {weights: v}
    expected = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial(), **options).fit(tol=1e-12)
    report = report_of(x, y, v).report
    assert [row.std_error for row in report.coefficients] == pytest.approx(expected.bse, rel=1e-7)
    assert report.log_likelihood == pytest.approx(expected.llf)
    assert report.null_log_likelihood == pytest.approx(expected.llnull)
    assert report.n_observations == len(y)
    assert report.bic == pytest.approx(4 * math.log(len(y)) - 2 * expected.llf)


@pytest.mark.parametrize("weighted", [False, True])
def test_robust_errors_agree_with_statsmodels_glm(weighted):
    """Its `var_weights`: a weighted row is one observation, not a number of equal ones."""
    x, y = table()
    v = np.random.default_rng(1).uniform(0.2, 5, len(y)) if weighted else None
    model = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial(), var_weights=v)
    expected = model.fit(tol=1e-12, cov_type="HC0")
    report = report_of(x, y, v, covariance="HC0").report
    errors = np.array([row.std_error for row in report.coefficients])
    assert errors == pytest.approx(expected.bse, rel=1e-7)
    # statsmodels corrects for the degrees of freedom in linear models alone; R's sandwich does so here as well.
    corrected = [row.std_error for row in report_of(x, y, v, covariance="HC1").report.coefficients]
    assert corrected == pytest.approx(errors * math.sqrt(len(y) / (len(y) - 4)), rel=1e-12)


def test_timestamps_keep_their_digits():
    x, y = table()
    seconds = np.round(x[:, 0] * 1e5)
    expected = sm.Logit(y, sm.add_constant(np.column_stack([seconds / 1e5, x[:, 1]]))).fit(disp=0, tol=1e-13)
    shifted = np.column_stack([seconds + 1.7e9, x[:, 1]])
    found = report_of(shifted, y, served_options={"standardize": True})
    rows = found.report.coefficients
    assert rows[1].estimate == pytest.approx(expected.params[1] / 1e5, rel=1e-9)
    assert rows[1].std_error == pytest.approx(expected.bse[1] / 1e5, rel=1e-9)
    offset = np.array([1.0, -1.7e4, 0.0])
    assert rows[0].estimate == pytest.approx(offset @ expected.params, rel=1e-9)
    assert rows[0].std_error == pytest.approx(math.sqrt(offset @ expected.cov_params() @ offset), rel=1e-9)
    errors = np.sqrt(np.einsum("ij,jk,ik->i", expected.model.exog, expected.cov_params(), expected.model.exog))
    assert found.covariance.logit_std_error(shifted) == pytest.approx(errors, rel=1e-6)


def test_float32_rows_give_float32_accuracy():
    x, y = table()
    exact = report_of(x, y).report.coefficients
    rounded = report_of(x, y, served_options={"dtype": torch.float32, "standardize": True}).report.coefficients
    for field in ("estimate", "std_error"):
        assert [getattr(r, field) for r in rounded] == pytest.approx([getattr(r, field) for r in exact], rel=1e-5)


def test_interval_of_a_probability_is_the_delta_methods_on_the_logit():
    found = report_of(EXAM[:, :1], EXAM[:, 1])
    expected = sm.Logit(EXAM[:, 1], sm.add_constant(EXAM[:, 0])).fit(disp=0, tol=1e-12)
    frame = expected.get_prediction(which="linear").summary_frame(alpha=0.1)
    logits = found.coefficients.numpy() * EXAM[:, 0] + found.intercept
    low, high = found.covariance.probability_interval(EXAM[:, :1], logits, 0.9)
    assert low == pytest.approx(1 / (1 + np.exp(-frame["ci_lower"].to_numpy())), rel=1e-7)
    assert high == pytest.approx(1 / (1 + np.exp(-frame["ci_upper"].to_numpy())), rel=1e-7)
    again = Covariance.from_dict(found.covariance.to_dict())
    assert (again.matrix() == found.covariance.matrix()).all()
    assert again.matrix()[::-1, ::-1] == pytest.approx(expected.cov_params(), rel=1e-7)
    assert np.isnan(again.logit_std_error(np.array([[np.nan]]))).all()


@pytest.mark.parametrize("z", [0.0, 0.3, -1.96, 5, 12, 30, 37, 60])
def test_p_values_are_scipys_far_out_in_the_tail(z):
    assert two_sided_p_value(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12, abs=0)
    assert chi_squared_p_value(z * z, 3) == pytest.approx(stats.chi2.sf(z * z, 3), rel=1e-10, abs=0)


@pytest.mark.parametrize(
    ("options", "word"), [({"penalized": True}, "penalty"), ({"class_weighted": True}, "class weights")]
)
def test_no_standard_errors_where_there_are_none(options, word):
    report = report_of(*table(), **options).report
    for row in report.coefficients:
        assert row.estimate is not None
        assert row.odds_ratio is not None
        assert {row.std_error, row.z, row.p_value, row.ci_low, row.odds_ratio_low} == {None}
    assert sum(word in warning for warning in report.warnings) == 1
    assert report.separation is None
    assert report.likelihood_ratio_test is None


def test_class_weights_have_robust_errors():
    report = report_of(*table(), class_weighted=True, covariance="HC0").report
    assert all(row.std_error > 0 for row in report.coefficients)
    assert not report.warnings


def test_complete_separation():
    found = report_of([[1.0], [2.0], [3.0]], [0, 0, 1], names=["hours"], steps=8)
    report = found.report
    assert (report.separation, report.converged, found.covariance) == ("complete", False, None)
    assert all(row.std_error is None for row in report.coefficients)
    said = [w for w in report.warnings if "complete separation" in w]
    assert len(said) == 1
    assert "hours" in said[0]
    assert "penalty" in said[0]


def test_quasi_separation_leaves_the_other_terms_their_errors():
    x, y = table()
    level = (np.arange(len(y)) % 13 == 0).astype(float)
    y[level == 1] = 1
    found = report_of(np.column_stack([x, level]), y, names=["a", "b", "c", "level"], steps=25)
    report, rows = found.report, rows_by_name(found.report)
    assert (report.separation, report.converged, found.covariance) == ("quasi", False, None)
    rest = level == 0
    expected = sm.Logit(y[rest], sm.add_constant(x[rest])).fit(disp=0, tol=1e-12)
    assert rows["level"].std_error is None
    assert rows["level"].estimate > 10
    others = [rows[name] for name in ("(Intercept)", "a", "b", "c")]
    assert [row.estimate for row in others] == pytest.approx(expected.params, rel=1e-6)
    assert [row.std_error for row in others] == pytest.approx(expected.bse, rel=1e-6)
    assert any("level" in w and "quasi" in w for w in report.warnings)


def test_reference_level_without_a_success_takes_the_intercept_along():
    x, y = table()
    level = (np.arange(len(y)) % 13 != 0).astype(float)
    y[level == 0] = 0
    rows = rows_by_name(report_of(np.column_stack([x, level]), y, names=["a", "b", "c", "level"], steps=25).report)
    assert rows["level"].std_error is None
    assert rows["(Intercept)"].std_error is None
    assert rows["a"].std_error is not None


def test_aliased_and_constant_columns_keep_their_row_with_nulls():
    x, y = table()
    wide = np.column_stack([x[:, :2], 2 * x[:, 0] - x[:, 1] + 3, np.full(len(y), 7.0), x[:, 2]])
    found = report_of(wide, y, names=list("abcde"))
    expected = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12)
    rows = rows_by_name(found.report)
    for name in "cd":
        assert {value for key, value in vars(rows[name]).items() if key != "name"} == {None}
    kept = [rows[name] for name in ("(Intercept)", "a", "b", "e")]
    assert [row.estimate for row in kept] == pytest.approx(expected.params, rel=1e-7)
    assert [row.std_error for row in kept] == pytest.approx(expected.bse, rel=1e-7)
    assert found.report.n_parameters == 4
    assert found.coefficients[2:4].tolist() == [0, 0]
    assert wide @ found.coefficients.numpy() + found.intercept == pytest.approx(
        expected.fittedvalues, rel=1e-6, abs=1e-8
    )
    text = " | ".join(found.report.warnings)
    assert "c = 2·a \N{MINUS SIGN} b + 3" in text
    assert "d: the column is constant" in text
    errors = np.sqrt(np.einsum("ij,jk,ik->i", expected.model.exog, expected.cov_params(), expected.model.exog))
    assert found.covariance.logit_std_error(wide) == pytest.approx(errors, rel=1e-7)


def nearly_dependent(gap, n=500, seed=9):
    """Columns a, b and c = 2a − b + 3 + gap·e, as float64 has them, and (a, b, e): the same model, well conditioned."""
    rng = np.random.default_rng(seed)
    a, b, e = rng.normal(size=(3, n)) * [[2], [1], [1]] + [[10], [0], [0]]
    y = (rng.random(n) < 1 / (1 + np.exp(0.5 * (10 - a) + b - 0.3 * e))).astype(float)
    c = 2 * a - b + 3 + gap * e
    return np.column_stack([a, b, c]), np.column_stack([a, b, (c - (2 * a - b + 3)) / gap]), y


def logit_of(good, y, gap, *, cov_type="nonrobust", v=None):
    """Estimates and covariance by statsmodels on (1, a, b, e), brought back to (1, a, b, c)."""
    model = sm.GLM(y, sm.add_constant(good), family=sm.families.Binomial(), var_weights=v)
    fitted = model.fit(tol=1e-13, maxiter=50, cov_type=cov_type)
    # z = b0 + b1 a + b2 b + b3 (c − 2a + b − 3) / gap
    back = np.eye(4)
    back[:, 3] = np.array([-3, -2, 1, 1]) / gap
    return fitted, back @ fitted.params, back @ fitted.cov_params() @ back.T


@pytest.mark.parametrize("gap", [1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("covariance", ["nonrobust", "HC0"])
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_of_columns_that_depend_on_each_other_but_for_the_last_digits(gap, covariance, weighted):
    x, good, y = nearly_dependent(gap)
    v = np.random.default_rng(1).uniform(0.2, 5, len(y)) if weighted else None
    expected, params, cov = logit_of(good, y, gap, cov_type=covariance, v=v)
    inference = inferred(x, y, v, covariance)
    report = inference.report
    assert (report.separation, report.warnings) == (None, ())
    assert report.log_likelihood == pytest.approx(expected.llf, rel=max(1e-9, 1e-16 / gap))
    errors = np.sqrt(cov.diagonal())
    assert [row.std_error for row in report.coefficients] == pytest.approx(errors, rel=max(1e-7, 1e-15 / gap))
    assert np.abs([row.estimate for row in report.coefficients] - params) == pytest.approx(0, abs=1e-3 * errors.min())
    # An interval of a prediction is that of the well-conditioned columns, for the prediction is the same.
    rows = sm.add_constant(good)
    logit_errors = np.sqrt(np.einsum("ij,jk,ik->i", rows, expected.cov_params(), rows))
    assert inference.covariance.logit_std_error(x) == pytest.approx(logit_errors, rel=max(1e-6, 1e-13 / gap))


def inferred(x, y, v=None, covariance="nonrobust"):
    """By the exact solver in 64-true, which finds the maximum along nearly dependent columns too."""
    model, data = LogisticRegression(), TensorDataModule(x, y, v)
    Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER).fit(model, data)
    assert model.converged
    return model.conclude(covariance=covariance)


def test_variance_inflation_of_columns_that_nearly_depend_on_each_other():
    gap = 1e-8
    x, good, y = nearly_dependent(gap)
    others = np.column_stack([np.ones(len(y)), good[:, :2]])
    rest = gap * (good[:, 2] - others @ np.linalg.lstsq(others, good[:, 2])[0])  # of c, beside a and b
    centred = x - x.mean(0)
    expected = np.square(centred[:, 2]).sum() / np.square(rest).sum()
    rows = rows_by_name(report_of(x, y).report)
    assert rows["x2"].vif == pytest.approx(expected, rel=1e-6)
    # From the point of view of a and b the rest is as large, but for the coefficients 2 and −1 of the relation.
    for name, slope, column in (("x0", 2, 0), ("x1", -1, 1)):
        share = np.square(slope * centred[:, column]).sum() / np.square(centred[:, 2]).sum()
        assert rows[name].vif == pytest.approx(expected * share, rel=1e-6)


def test_a_sum_that_was_stored_in_single_precision():
    """totcoll = jc + univ but for a rounding: R keeps all columns, and so do we."""
    table = np.genfromtxt(Path(__file__).with_name("rounded_sum.csv"), delimiter=",", names=True)
    jc, univ, totcoll, exper, y = (table[name] for name in ("jc", "univ", "totcoll", "exper", "y"))
    rounding = (totcoll - jc - univ) / 1e-7
    assert 0 < np.abs(rounding).max() < 11
    expected = sm.Logit(y, sm.add_constant(np.column_stack([jc, univ, rounding, exper]))).fit(disp=0, tol=1e-13)
    assert expected.llf == pytest.approx(-1263.05878, abs=1e-5)
    report = inferred(np.column_stack([jc, univ, totcoll, exper]), y).report
    assert report.warnings == ()
    assert report.log_likelihood == pytest.approx(expected.llf, rel=1e-9)
    errors = [row.std_error for row in report.coefficients]
    of_rounding = expected.bse[3] / 1e-7
    assert [errors[0], errors[4]] == pytest.approx(expected.bse[[0, 4]], rel=1e-7)
    assert errors[1:4] == pytest.approx([of_rounding] * 3, rel=1e-5)
    assert report.coefficients[4].estimate == pytest.approx(0.38214595, rel=1e-7)


@pytest.mark.parametrize("covariance", ["nonrobust", "HC0", "HC1"])
def test_what_the_rows_do_not_tell_has_no_error_and_the_rest_has(covariance):
    x, y = table()
    x = (x - x.mean(0)) / x.std(0)
    c = x[:, 0] - x[:, 1] + 1e-13 * np.where(np.arange(len(y)) % 2, 1, -1)  # beyond rounding; too little to be told
    found = report_of(np.column_stack([x[:, :2], c, x[:, 2]]), y, names=list("abcd"), covariance=covariance)
    expected = report_of(x, y, names=list("abd"), covariance=covariance).report
    rows, alone = rows_by_name(found.report), rows_by_name(expected)
    assert [rows[name].std_error for name in "abc"] == [None] * 3
    assert rows["d"].std_error == pytest.approx(alone["d"].std_error, rel=0.01 if covariance == "HC1" else 1e-4)
    said = [w for w in found.report.warnings if "there are no standard errors" in w]
    assert len(said) == 1
    assert "a, b and c" in said[0].split(":")[0]
    assert found.covariance is None


@pytest.mark.parametrize("gap", [0, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_more_is_said_of_dependent_columns_than_the_digits_show(gap, dtype):
    x, y = table()
    near = x[:, 0] - x[:, 2] + gap * np.random.default_rng(8).normal(size=len(y))
    report = report_of(
        np.column_stack([x, near]), y, names=list("abcd"), served_options={"dtype": dtype, "standardize": True}
    ).report
    said = [w for w in report.warnings if w.startswith("d: ")]
    relation = "the column is a linear function of others (d = a \N{MINUS SIGN} c)"
    if dtype == torch.float32:
        more = (
            "left out, and whether that changes predictions is not settled; with --trainer.precision 64-true more "
            "digits are compared"
        )
        assert said == [f"d: to the digits of float32 {relation}; {more}"]
    else:
        assert said == (
            [] if gap else [f"d: to the digits of float64 {relation}; left out, which changes no prediction"]
        )


def test_columns_that_a_sentinel_has_made_dependent_are_not_said_to_change_nothing():
    x, y = table()
    x[0] = 1e16
    said = [w for w in report_of(x, y, names=list("abc")).report.warnings if "linear function" in w]
    assert len(said) == 1
    assert "c: to the digits of float64 the column" in said[0]
    assert said[0].endswith("left out, and whether that changes predictions is not settled")


def test_a_penalty_keeps_dependent_columns():
    x, y = table()
    report = report_of(np.column_stack([x, x[:, 0]]), y, penalized=True).report
    assert all(row.estimate is not None for row in report.coefficients)
    assert report.n_parameters == 5
    assert any("x3 = x0" in warning for warning in report.warnings)


def test_each_warning_once_and_in_plain_words():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(500, 2)), (np.arange(500) < 9).astype(float)
    report = report_of(x, y, converged=False, passes=3).report
    assert [w.split(":")[0] for w in report.warnings][1:] == ["few events", "imbalance"]
    assert "did not converge in 3 passes" in report.warnings[0]
    assert len(set(report.warnings)) == len(report.warnings)
    assert not report_of(*table()).report.warnings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "intervals too narrow: use fewer columns or a penalty"),
        ({"penalized": True}, "depend much on the penalty, which lr-lightning path chooses by cross-validation"),
        ({"firth": True}, "heed the intervals, or use fewer columns"),
    ],
)
def test_the_advice_on_few_events_knows_the_penalty(options, words):
    x = np.random.default_rng(5).normal(size=(500, 2))
    report = report_of(x, (np.arange(500) < 9).astype(float), **options).report
    (few,) = [warning for warning in report.warnings if warning.startswith("few events")]
    assert words in few
    assert ("a penalty" in few) == (not options)


def test_frequencies_count_as_events():
    x, y = [[0.0], [0.0], [1.0], [1.0]], [0, 1, 0, 1]
    assert not report_of(x, y, [30, 20, 20, 30]).report.warnings
    assert report_of(x, y, [3, 2, 2, 3]).report.warnings
    assert report_of(x, y, [0.3, 0.2, 0.2, 0.3]).report.warnings


def test_rows_without_weight_are_not_used():
    x, y = table()
    v = (np.arange(len(y)) % 3 > 0).astype(float)
    weighted, subset = report_of(x, y, v).report, report_of(x[v > 0], y[v > 0]).report
    assert weighted.n_observations == subset.n_observations == int(v.sum())
    assert [r.std_error for r in weighted.coefficients] == pytest.approx([r.std_error for r in subset.coefficients])


def test_report_is_strict_json_and_comes_back():
    for report in (spector(), report_of([[1.0], [2.0], [3.0]], [0, 0, 1], steps=8).report):
        text = json.dumps(report.to_dict(), allow_nan=False)
        assert Report.from_dict(json.loads(text)) == report
        assert json.loads(text) == report.to_dict()
    assert list(report.to_dict())[:12] == [
        *("n_observations", "n_parameters", "log_likelihood", "null_log_likelihood", "aic", "bic", "mcfadden_r2"),
        *("converged", "passes", "separation", "warnings", "coefficients"),
    ]
    assert list(report.to_dict()["coefficients"][0])[:8] == [
        *("name", "estimate", "std_error", "z", "p_value", "ci_low", "ci_high", "odds_ratio"),
    ]


def test_other_level():
    x, y = table()
    narrow = report_of(x, y).report.at_level(0.8)
    expected = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12).conf_int(0.2)
    assert np.array([[r.ci_low, r.ci_high] for r in narrow.coefficients]) == pytest.approx(expected, rel=1e-8)
    assert narrow == report_of(x, y, confidence_level=0.8).report
    with pytest.raises(ValueError, match="level"):
        narrow.at_level(1.0)


def test_csv_has_all_digits():
    report = spector()
    header, *lines = as_csv(report).splitlines()
    assert header.startswith("name,estimate,std_error,z,p_value,ci_low,ci_high,odds_ratio")
    assert float(lines[1].split(",")[1]) == report.coefficients[1].estimate
    assert len(lines) == 4


def test_text_is_aligned_and_complete():
    text = as_text(spector())
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith(("GPA", "TUCE", "PSI", "(Intercept)"))]
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert all(line == line.rstrip() for line in lines)
    for word in ("32 observations", "4 parameters", "5 passes", "-12.889634", "AIC 33.77", "Warning: few events"):
        assert word in text


def test_text_of_many_columns_shows_the_thirty_of_largest_z():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2000, 40))
    y = (rng.random(2000) < 1 / (1 + np.exp(-x[:, 39] - x[:, 0]))).astype(float)
    names = [f"[b]{j}[/b]" for j in range(40)]
    report = report_of(x, y, names=names).report
    lines = [line for line in as_text(report).splitlines() if line.startswith(("[b]", "(Intercept)"))]
    assert len(lines) == 30
    assert lines[-1].startswith("[b]39[/b]")
    assert "and 11 more" in as_text(report)
    assert "and 11 more" not in as_text(report, most=None)


def test_variance_inflation_factors():
    x, y = table()
    x = np.column_stack([x, x[:, 0] + 0.1 * np.random.default_rng(7).normal(size=len(y))])
    inverse = np.linalg.inv(np.corrcoef(x.T))
    rows = report_of(x, y).report.coefficients
    assert [row.vif for row in rows[1:]] == pytest.approx(inverse.diagonal(), rel=1e-8)
    assert rows[0].vif is None


def test_intercept_alone():
    _, y = table()
    report = report_of(np.ones((len(y), 1)), y).report
    assert report.log_likelihood == pytest.approx(report.null_log_likelihood)
    assert report.likelihood_ratio_test is None
    assert report.coefficients[0].std_error == pytest.approx(1 / math.sqrt(len(y) * y.mean() * (1 - y.mean())))
