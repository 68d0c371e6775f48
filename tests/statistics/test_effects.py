"""Average marginal effects."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch

from lr_lightning.statistics import effects
from lr_lightning.statistics.effects import average_marginal_effects
from tests.published import EFFECTS, TABLES
from tests.statistics.tables import design_of, maximize, report_of


def effects_by_name(report):
    return {row.name: row for row in report.average_marginal_effects}


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("served", [{}, {"standardize": True, "batch_size": 7}])
def test_agree_with_published_ones(name, served):
    x, y, names = TABLES[name]
    found = effects_by_name(report_of(x, y, names=names, served_options=served).report)
    for column, (effect, error) in EFFECTS[name].items():
        assert (found[column].effect, found[column].std_error) == pytest.approx((effect, error), rel=1e-7)
        assert found[column].z == pytest.approx(effect / error, rel=1e-7)


def table(n=300):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, n)
    x = np.column_stack([rng.normal(50, 10, n), rng.random(n) < 0.3, level == 1, level == 2]).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(2 - 0.03 * x[:, 0] - x[:, 1] + 0.7 * x[:, 3]))).astype(float)
    return x, y


@pytest.mark.parametrize("covariance", ["nonrobust", "HC0"])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_and_flags_agree_with_statsmodels(covariance, weighted):
    x, y = table()
    x = x[:, :2]
    v = np.random.default_rng(1).integers(1, 4, len(y)).astype(float) if weighted else np.ones(len(y))
    x, y = (np.repeat(a, v.astype(int), 0) for a in (x, y))  # its effects know no weights
    model = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12, cov_type=covariance)
    wanted = model.get_margeff(dummy=True)
    found = report_of(x, y, covariance=covariance).report.average_marginal_effects
    assert [row.effect for row in found] == pytest.approx(wanted.margeff, rel=1e-7)
    assert [row.std_error for row in found] == pytest.approx(wanted.margeff_se, rel=1e-6)


def test_too_many_rows_and_effects_have_none_with_a_warning(monkeypatch):
    x, y = table()
    monkeypatch.setattr(effects, "MOST", x.size)
    assert report_of(x, y).report.average_marginal_effects is not None
    monkeypatch.setattr(effects, "MOST", x.size - 1)
    report = report_of(x, y).report
    assert report.average_marginal_effects is None
    assert any("marginal effects" in warning for warning in report.warnings)


def test_levels_are_compared_with_the_reference_and_weights_count():
    """By hand: every row with the level, and with the reference; errors by numerical derivatives."""
    x, y = table()
    v = np.random.default_rng(1).uniform(0.5, 2, len(y))
    design = design_of(x, y, v)
    parameters = maximize(design)

    def by_hand(parameters):
        theta = design.to_original(parameters)

        def mean(columns):
            changed = x.copy()
            for j, value in columns.items():
                changed[:, j] = value
            return np.average(1 / (1 + np.exp(-(changed @ theta[:-1] + theta[-1]))), weights=v)

        p = 1 / (1 + np.exp(-(x @ theta[:-1] + theta[-1])))
        return np.array(
            [
                np.average(p * (1 - p), weights=v) * theta[0],
                mean({1: 1}) - mean({1: 0}),
                mean({2: 1, 3: 0}) - mean({2: 0, 3: 0}),
                mean({2: 0, 3: 1}) - mean({2: 0, 3: 0}),
            ]
        )

    found = average_marginal_effects(design, parameters, [[2, 3]])
    assert found.effect == pytest.approx(by_hand(parameters), rel=1e-9)
    steps = 1e-5 * np.eye(design.size)
    numeric = np.array([(by_hand(parameters + step) - by_hand(parameters - step)) / 2e-5 for step in steps])
    assert found.gradient == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_offsets_count_and_class_weights_do_not():
    from lr_lightning.model.rows import Rows
    from lr_lightning.statistics.design_matrix import DesignMatrix
    from lr_lightning.statistics.summary import summarize
    from tests.statistics.tables import serve

    x, y = table()
    batches, served, training = serve(x[:, :1], y)
    offset = torch.linspace(-1, 1, len(y), dtype=torch.float64)
    rows = [Rows(batches[0].x, batches[0].y, None, offset)]
    design = DesignMatrix(rows, served=served, training=training)
    effect = average_marginal_effects(design, np.array([0.5, 0.2]), []).effect
    u = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
    p = 1 / (1 + np.exp(-(0.5 * u + 0.2 + offset.numpy())))
    assert effect == pytest.approx([(p * (1 - p)).mean() * 0.5 / x[:, 0].std()], rel=1e-9)

    heavy = [rows[0]._replace(weight=torch.where(rows[0].y > 0, 3.0, 1.0).double())]
    settings = {"coefficients": torch.tensor([0.02]).double(), "intercept": -1.0, "served": served}
    settings |= {"training": training, "feature_names": ["a"], "converged": True, "passes": 1}
    plain = summarize(rows, **settings).report.average_marginal_effects
    weighted = summarize(heavy, class_weighted=True, unweighted=rows, **settings).report.average_marginal_effects
    assert weighted[0].effect == pytest.approx(plain[0].effect, rel=1e-12)
    assert weighted[0].std_error is None


def test_a_column_with_the_moments_of_a_flag_is_a_number_if_a_value_is_not():
    """0, 1 and one other pair of values that make up for each other."""
    x = np.array([0.0] * 50 + [1.0] * 50 + [0.5, 0.5 + np.sqrt(0.5), 0.5 - np.sqrt(0.5)])
    x = np.append(x, [(1 + np.sqrt(2)) / 2, (1 - np.sqrt(2)) / 2])
    rng = np.random.default_rng(0)
    y = (rng.random(len(x)) < 0.5).astype(float)
    report = report_of(x[:, None], y).report
    row, p = report.coefficients[1], report
    design = np.column_stack([x, np.ones(len(x))])
    p = 1 / (1 + np.exp(-design @ [report.coefficients[1].estimate, report.coefficients[0].estimate]))
    assert report.average_marginal_effects[0].effect == pytest.approx((p * (1 - p)).mean() * row.estimate, rel=1e-9)


def test_many_levels_are_compared_as_few():
    """By hand, at any parameters: the mean difference of each level, and its derivatives by all of them."""
    rng = np.random.default_rng(3)
    n, levels = 400, 150  # more than the nodes of the interpolation in some intervals, fewer in others
    level = np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)])
    x = np.column_stack([rng.normal(size=n), np.eye(levels)[level][:, 1:]])
    y, v = (rng.random(n) < 0.5).astype(float), rng.uniform(0.5, 2, n)
    design = design_of(x, y, v)
    theta = np.concatenate([[0.7], rng.normal(0, 4, levels - 1), [-0.3]])
    parameters = design.standardized(torch.from_numpy(theta[:-1]), float(theta[-1]))
    group = list(range(1, levels))
    found = average_marginal_effects(design, parameters, [group])
    base = x[:, 0] * theta[0] + theta[-1]
    p = 1 / (1 + np.exp(-(base[:, None] + np.append(0.0, theta[1:-1]))))
    np.testing.assert_allclose(found.effect[1:], v @ (p[:, 1:] - p[:, :1]) / v.sum(), rtol=0, atol=1e-12)
    slope = p * (1 - p)
    wanted = np.zeros((levels + 1, levels - 1))  # by the number, by the levels, by the intercept
    wanted[0], wanted[-1] = ((v * of_row) @ (slope[:, 1:] - slope[:, :1]) / v.sum() for of_row in (x[:, 0], 1))
    wanted[1:-1] = np.diag(v @ slope[:, 1:] / v.sum())
    # The chain rule from the parameters of the design matrix to those of the table.
    chain = np.column_stack([design.to_original(unit) for unit in np.eye(design.size)])
    np.testing.assert_allclose(found.gradient[:, 1:], chain.T @ wanted, rtol=0, atol=1e-12)
