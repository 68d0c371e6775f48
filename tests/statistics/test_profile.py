"""Profile likelihoods: intervals and likelihood-ratio tests."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from lr_lightning.errors import InputError
from tests.published import BUDWORM, FIRTH, FLIC_INTERCEPT, ML, PENALIZED, TABLES
from tests.statistics.tables import report_of, rows_by_name


@pytest.mark.parametrize("name", ML)
def test_intervals_and_tests_agree_with_published_ones(name):
    x, y, names = TABLES[name]
    rows = rows_by_name(report_of(x, y, names=names, inference="profile").report)
    for column, (estimate, error, low, high, statistic) in ML[name].items():
        row = rows[column]
        assert (row.estimate, row.std_error) == pytest.approx((estimate, error), rel=1e-8)
        assert (row.ci_low, row.ci_high) == pytest.approx((low, high), rel=1e-8)
        assert row.p_value == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-7)
        assert row.z == pytest.approx(np.sign(estimate) * np.sqrt(statistic), rel=1e-8)
        assert row.odds_ratio_high == pytest.approx(np.exp(high), rel=1e-7)


def at_firth(name, **options):
    """The report at Firth's estimates, or at FLIC's intercept, which is found again from them."""
    from lr_lightning.statistics.summary import summarize
    from tests.statistics.tables import serve

    x, y, names = TABLES[name]
    batches, served, training = serve(x, y)
    wanted = FIRTH[name]
    intercept = FLIC_INTERCEPT[name] if options.get("firth") == "flic" else wanted["(Intercept)"][0]
    return summarize(
        batches,
        coefficients=torch.tensor([wanted[column][0] for column in names], dtype=torch.float64),
        intercept=intercept,
        served=served,
        training=training,
        feature_names=names,
        converged=True,
        passes=5,
        **{"inference": "profile", "firth": True, **options},
    ).report


@pytest.mark.parametrize("name", FIRTH)
def test_firth_agrees_with_published_intervals_and_tests(name):
    report = at_firth(name)
    rows = rows_by_name(report)
    for column, (estimate, error, low, high, statistic) in FIRTH[name].items():
        row = rows[column]
        assert (row.estimate, row.std_error) == pytest.approx((estimate, error), rel=1e-8)
        assert (row.ci_low, row.ci_high) == pytest.approx((low, high), rel=1e-8)
        assert row.p_value == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-7)
    assert report.penalized_log_likelihood == pytest.approx(PENALIZED[name], rel=1e-10)
    assert report.converged
    assert report.separation == ("complete" if name in ("students", "two_by_two") else None)
    assert (report.firth, report.flic, report.inference) == (True, False, "profile")


def test_flic_changes_the_intercept_alone_and_its_row_is_walds():
    firth, flic = (rows_by_name(at_firth("spector", firth=firth)) for firth in (True, "flic"))
    for name in ("GPA", "TUCE", "PSI"):
        assert flic[name].std_error == pytest.approx(firth[name].std_error, rel=1e-8)
        assert (flic[name].ci_low, flic[name].p_value) == pytest.approx((firth[name].ci_low, firth[name].p_value))
    row = flic["(Intercept)"]
    assert row.estimate == pytest.approx(FLIC_INTERCEPT["spector"], rel=1e-9)
    assert row.ci_high - row.estimate == pytest.approx(stats.norm.ppf(0.975) * row.std_error)
    x, y, _ = TABLES["spector"]
    design = np.column_stack([x, np.ones(len(x))])
    p = 1 / (1 + np.exp(-design @ [*(FIRTH["spector"][c][0] for c in ("GPA", "TUCE", "PSI")), row.estimate]))
    assert p.mean() == pytest.approx(y.mean(), rel=1e-8)
    assert row.std_error == pytest.approx(np.sqrt(np.linalg.inv(design.T * (p * (1 - p)) @ design)[3, 3]), rel=1e-7)


def minus_log_likelihood(x, y, v, theta):
    z = x @ theta
    return v @ (np.logaddexp(0, z) - y * z)


def refit(x, y, v, j, value):
    """The least −ℓ with one coefficient held, by scipy."""
    free = [k for k in range(x.shape[1]) if k != j]

    def both(part):
        theta = np.zeros(x.shape[1])
        theta[free], theta[j] = part, value
        gradient = x.T @ (v * (1 / (1 + np.exp(-(x @ theta))) - y))
        return minus_log_likelihood(x, y, v, theta), gradient[free]

    return optimize.minimize(both, np.zeros(len(free)), jac=True, method="BFGS", options={"gtol": 1e-9}).fun


def quasi_separated(n=120):
    """Every row with `nv` is positive, as in the endometrial data of Heinze and Schemper (2002)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    return np.column_stack([(y == 1) & (rng.random(n) < 0.3), x]).astype(float), y


def test_quasi_separation_has_one_end_and_a_test_by_the_supremum():
    x, y = quasi_separated()
    # Where nv goes to infinity its rows have no loss, and the others decide.
    out = x[:, 0] == 0
    design, v = np.column_stack([x, np.ones(len(y))]), np.ones(len(y))
    supremum = -refit(design[out][:, [1, 2, 3, 0]], y[out], v[out], 3, 0.0)
    report = report_of(x, y, names=["nv", "a", "b"], steps=25, inference="profile", converged=False).report
    assert report.separation == "quasi"
    rows = rows_by_name(report)
    nv = rows["nv"]
    assert (nv.ci_high, nv.std_error) == (None, None)
    statistic = 2 * (refit(design, y, v, 0, 0.0) + supremum)
    assert nv.p_value == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-5)
    assert 2 * (refit(design, y, v, 0, nv.ci_low) + supremum) == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-5)
    assert any("nv: the upper end of its interval does not exist" in warning for warning in report.warnings)
    for j, name in enumerate(("nv", "a", "b")):  # the others have both, at the supremum of nv
        if j:
            ends = rows[name].ci_low, rows[name].ci_high
            losses = [2 * (refit(design[out][:, 1:], y[out], v[out], j - 1, end) + supremum) for end in ends]
            assert losses == pytest.approx([stats.chi2.ppf(0.95, 1)] * 2, rel=1e-5)
    firth = report_of(x, y, names=["nv", "a", "b"], steps=2, inference="profile", firth=True).report
    assert rows_by_name(firth)["nv"].ci_high is not None


def test_complete_separation_has_finite_ends_where_the_likelihood_falls():
    x, y, names = TABLES["students"]
    report = report_of(x, y, names=names, steps=20, inference="profile", converged=False).report
    assert report.separation == "complete"
    rows = rows_by_name(report)
    hours, intercept = rows["hours"], rows["(Intercept)"]
    design, v = np.column_stack([x, np.ones(3)]), np.ones(3)
    assert (hours.ci_high, intercept.ci_low) == (None, None)
    for j, end in ((0, hours.ci_low), (1, intercept.ci_high)):
        assert 2 * refit(design, y, v, j, end) == pytest.approx(stats.chi2.ppf(0.95, 1), rel=1e-5)
    assert hours.p_value == pytest.approx(stats.chi2.sf(2 * refit(design, y, v, 0, 0.0), 1), rel=1e-6)


def test_grouped_counts_agree_with_published_intervals():
    """Successes of trials are the share of successes with the trials as weight."""
    from lr_lightning.model.rows import Rows
    from lr_lightning.model.standardization import moments
    from lr_lightning.solver.likelihood import Likelihood
    from lr_lightning.solver.profile import Task, optimum, profile

    x, trials = (torch.as_tensor(BUDWORM[key]) for key in ("x", "trials"))
    y = torch.as_tensor(BUDWORM["dead"]) / trials
    standardization = moments([(x, trials)])
    likelihood = Likelihood([Rows(x, y, trials)], standardization)
    best = optimum(likelihood, torch.zeros(3, dtype=torch.float64))
    functionals = {"male": [1 / standardization.scale[0], 0, 0], "ldose": [0, 1 / standardization.scale[1], 0]}
    drop = stats.chi2.ppf(0.95, 1) / 2
    for name, functional in functionals.items():
        c = torch.tensor(functional, dtype=torch.float64)
        found = profile(likelihood, best, [Task(c, -1), Task(c, 1), Task(c, 0)], drop, n_rows=12).tolist()
        low, high, statistic = BUDWORM["coefficients"][name]
        assert [*found[:2], 2 * (found[2] - best.value)] == pytest.approx([low, high, statistic], rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_large_table_shares_its_sweeps_and_agrees_with_refits(dtype):
    """Above a size the Hessian is that of the optimum, corrected; then the ends are as far as a refit says."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60_000, 20)).astype(np.float32).astype(float)
    y = (rng.random(60_000) < 1 / (1 + np.exp(3 - x[:, 0]))).astype(float)
    report = report_of(x, y, steps=8, inference="profile", served_options={"dtype": dtype}).report
    design, v = np.column_stack([x, np.ones(len(y))]), np.ones(len(y))
    row = rows_by_name(report)["x0"]
    losses = [2 * (refit(design, y, v, 0, end) + report.log_likelihood) for end in (row.ci_low, row.ci_high)]
    assert losses == pytest.approx([stats.chi2.ppf(0.95, 1)] * 2, rel=1e-4)
    assert all(r.ci_low < r.estimate < r.ci_high for r in report.coefficients)


def test_another_level_of_a_profile_is_refused_and_names_the_way():
    x, y, names = TABLES["exam"]
    report = report_of(x, y, names=names, inference="profile").report
    assert report.at_level(0.95) == report
    with pytest.raises(InputError, match=r"fit with --level 0.9"):
        report.at_level(0.9)


def test_counts_of_trials_have_one_firth_fit_with_their_rows_one_by_one():
    """The penalised log-likelihoods differ by the binomial coefficients, as the plain ones do."""
    from lightning.pytorch import Trainer

    from lr_lightning import LogisticRegression, TensorDataModule
    from tests.conftest import QUIET_TRAINER

    x, dead, trials = (BUDWORM[key] for key in ("x", "dead", "trials"))
    one_by_one = np.concatenate([[1.0] * int(k) + [0.0] * int(m - k) for k, m in zip(dead, trials, strict=True)])
    reports = []
    for data in (
        TensorDataModule(x, dead, trials=trials),
        TensorDataModule(np.repeat(x, trials.astype(int), 0), one_by_one),
    ):
        model = LogisticRegression(firth=True)
        Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER).fit(model, data)
        reports.append(model.infer())
    grouped, single = reports
    for a, b in zip(grouped.coefficients, single.coefficients, strict=True):
        assert (a.estimate, a.std_error, a.ci_low) == pytest.approx((b.estimate, b.std_error, b.ci_low), rel=1e-9)
    assert grouped.log_likelihood - single.log_likelihood == pytest.approx(88.18669229084, rel=1e-10)
    difference = grouped.penalized_log_likelihood - single.penalized_log_likelihood
    assert difference == pytest.approx(88.18669229084, rel=1e-10)
