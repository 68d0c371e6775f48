from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from lr_lightning.statistics.linear_programme import largest_support
from lr_lightning.statistics.separation import find_separation, moved_terms
from lr_lightning.statistics.sums import sum_rows
from tests.statistics.tables import design_of, maximize, report_of


def verdict(x, y, parameters=None, **options):
    design = design_of(x, y, **options)
    parameters = np.zeros(design.size) if parameters is None else np.asarray(parameters, float)
    return find_separation(design, parameters, sum_rows(design, parameters), np.arange(design.size))


def brute_force(signed):
    """Rows (m, 3) of integers of rank 3: extreme directions are normal to two rows. Gains over all of them."""
    gains = np.zeros(len(signed), bool)
    for i, j in combinations(range(len(signed)), 2):
        for direction in (np.cross(signed[i], signed[j]), np.cross(signed[j], signed[i])):
            margins = signed @ direction
            if (margins >= 0).all():
                gains |= margins > 0
    return gains


def _signed(x, y):
    return np.column_stack([x, np.ones(len(x))]) * np.where(y, 1.0, -1.0)[:, None]


def konis(x, y):
    """The most that a direction in a box gains on raw columns, 0 under overlap (Konis 2007)."""
    rows = _signed(x, y)
    return -linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1)).fun


tables = st.integers(4, 14).flatmap(
    lambda m: st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 1)), min_size=m, max_size=m)
)


@settings(max_examples=100, deadline=None)
@given(tables, st.sampled_from([torch.float64, torch.float32]))
def test_verdict_is_that_of_exact_enumeration(table, dtype):
    x, y = np.array(table)[:, :2], np.array(table)[:, 2]
    augmented = np.column_stack([x, np.ones(len(x), int)])
    assume(np.linalg.matrix_rank(augmented) == 3)
    signed = _signed(x, y)
    gains = brute_force(signed)
    answer = largest_support(signed.astype(float))
    assert answer is not None
    assert answer[1].tolist() == gains.tolist()
    found = verdict(x, y, dtype=dtype, standardize=dtype == torch.float32)
    assert found.doubt is None
    assert found.kind == ("complete" if gains.all() else "quasi" if gains.any() else None)


def test_the_tutorials_three_students_are_completely_separated():
    for parameters in ([0.0, 0.0], [1.0, 0.3], [50.0, 0.0]):
        found = verdict([[1.0], [2.0], [3.0]], [0, 0, 1], parameters)
        assert (found.kind, found.columns.tolist()) == ("complete", [0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_level_without_a_failure_is_quasi_complete_separation(dtype):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=300), rng.random(300) < 0.1, rng.random(300) < 0.5]).astype(float)
    y = (rng.random(300) < 0.4).astype(float)
    y[x[:, 1] == 1] = 1
    design = design_of(x, y, dtype=dtype, standardize=dtype == torch.float32)
    found = find_separation(design, np.zeros(4), sum_rows(design, np.zeros(4)), np.arange(4))
    assert (found.kind, found.columns.tolist()) == ("quasi", [1])
    assert moved_terms(design, found.free).tolist() == [1]  # nor the intercept
    with_failure = np.where(np.arange(300) == np.flatnonzero(x[:, 1])[0], 0, y)
    assert verdict(x, with_failure, dtype=dtype, standardize=dtype == torch.float32).kind is None


@pytest.mark.parametrize("seed", [3, 5, 8, 13, 19])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_level_of_a_few_rows_is_found(seed, dtype):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(1500, 3))
    y = rng.random(1500) < 1 / (1 + np.exp(-numbers @ [1, -1, 0.5] + 1))
    city = rng.choice(8, 1500, p=[0.4, 0.3, 0.15, 0.08, 0.04, 0.02, 0.007, 0.003])
    rare = city == 7
    y[rare] = False
    x = np.column_stack([numbers, *(city == level for level in range(1, 8))]).astype(float)
    assert konis(x[~rare, :9], y[~rare]) == pytest.approx(0, abs=1e-9)
    design = design_of(x, y, dtype=dtype, standardize=True)
    parameters = maximize(design, 25)
    found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(design.size))
    assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, [9])


@pytest.mark.parametrize("power", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_support_does_not_depend_on_the_coordinates(power, seed):
    """Rows beside a plane and rows on it, some of them far out; then the same rows in skewed coordinates."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, size=(600, 5)).astype(float) ** power
    y = rng.random(600) < 0.5
    y[x[:, 0] > 0], y[x[:, 0] < 0] = True, False
    x[:, 1] = rng.random(600) < 0.01
    y[(x[:, 1] == 1) & (x[:, 0] == 0)] = True
    gains = (x[:, 0] != 0) | (x[:, 1] == 1)
    assert konis(x[~gains, 2:], y[~gains]) == pytest.approx(0, abs=1e-9)
    rows = _signed(x, y)
    mixed = rows @ np.triu(np.full((6, 6), 0.9), 1) + rows * [0.01, 1, 100, 1, 1, 1]
    for A in (rows, mixed):
        answer = largest_support(A)
        assert answer is not None
        assert answer[1].tolist() == gains.tolist()
        assert (A[gains] @ answer[0] > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_columns_of_zeros_with_a_few_ones(seed):
    """A column whose ones are all of one class separates; the rows that stay are those without one of these."""
    rng = np.random.default_rng(seed)
    x = (rng.random((20_000, 100)) < 0.001).astype(float)
    y = rng.random(20_000) < 1 / (1 + np.exp(-x @ rng.normal(size=100)))
    for column, label in ((3, True), (50, False)):
        y[x[:, column] == 1] = label
    x[x[:, 3] == 1, 50] = 0
    found = verdict(x, y, dtype=torch.float32, standardize=True)
    one_class = [j for j in range(100) if len(set(y[x[:, j] == 1])) == 1]
    assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, one_class)


def test_a_threshold_on_a_column_of_long_tails_separates():
    x = np.random.default_rng(0).normal(size=(2000, 8)) ** 7
    signed = _signed((x - x.mean(0)) / x.std(0), x[:, 0] > 1e-3)
    answer = largest_support(signed)
    assert answer is not None
    assert answer[1].all()
    assert (signed @ answer[0] > 0).all()


def test_quasi_separation_by_a_tie():
    found = verdict([[1.0], [2.0], [2.0], [3.0]], [0, 0, 1, 1])
    assert (found.kind, found.columns.tolist()) == ("quasi", [0])


def on_a_plane(decimals):
    """Three columns; a + b > 0 says 1 and a + b < 0 says 0, but rows with a + b = 0 say either."""
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(1500, 3)), decimals)
    plane = rng.random(1500) < 0.3
    x[plane, 1] = -x[plane, 0]
    total = np.round(x[:, 0] + x[:, 1], 9)
    return x, np.where(total == 0, rng.random(1500) < 0.4, total > 0).astype(float)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_plane_of_whole_numbers_is_found_though_float32_has_rounded_them(dtype):
    x, y = on_a_plane(3)
    x = np.round(1000 * x)
    x[:, 2] = np.random.default_rng(1).normal(size=1500)  # its digits are lost
    design = design_of(x, y, dtype=dtype, standardize=True)
    for parameters in (np.zeros(4), maximize(design, 60)):
        found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(4), converged=True)
        assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, [0, 1])


@pytest.mark.parametrize("decimals", [3, 17])
def test_what_float32_has_rounded_away_is_not_taken_for_overlap(decimals):
    x, y = on_a_plane(decimals)
    report = report_of(x, y, steps=60).report
    assert (report.separation, report.converged) == ("quasi", False)
    report = report_of(x, y, steps=60, served_options={"dtype": torch.float32, "standardize": True}).report
    assert report.separation is None
    said = [w for w in report.warnings if "not settled: the digits of float32 are too few" in w]
    assert len(said) == 1
    assert "--trainer.precision 64-true" in said[0]


SENTINEL = [0.4, 0.9, 1.7, 2.2, 2.8, 3.1, 3.9, 4.5, 5.2], [0, 0, 1, 0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("sentinel", "dtype"),
    [
        (1e12, torch.float32),
        (-1e12, torch.float32),
        (1e15, torch.float64),
        (1e18, torch.float64),
        (1e25, torch.float64),
    ],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_separation_that_only_rounding_made_is_not_stated(sentinel, dtype, standardize):
    """A sentinel leaves all other values equal; in truth they overlap, and the row of the sentinel is certain."""
    x, y = np.array([*SENTINEL[0], sentinel])[:, None], np.array([*SENTINEL[1], sentinel > 0], float)
    assert konis(x[:-1], y[:-1]) == pytest.approx(0, abs=1e-9)
    # Where a fit may end: at 0, or where only the sentinel is told from the others.
    for parameters in ([0.0, 0.0], [30.0 * np.sign(sentinel), 10.0]):
        found = verdict(x, y, parameters, dtype=dtype, standardize=standardize or dtype == torch.float32)
        assert (found.kind, found.doubt) == (None, "rounding")
    options = {"dtype": dtype, "standardize": standardize or dtype == torch.float32}
    warnings = report_of(x, y, names=["income"], steps=5, converged=False, served_options=options).report.warnings
    said = [w for w in warnings if "not settled" in w]
    assert len(said) == 1
    assert ("float32" if dtype == torch.float32 else "beside the largest values of income float64") in said[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_level_of_one_outcome_is_certain_beside_a_column_that_has_lost_its_digits(dtype):
    rng = np.random.default_rng(12)
    x = np.column_stack([rng.normal(size=(200, 2)), np.arange(200) % 7 == 3])
    y = (rng.random(200) < 0.5).astype(float)
    y[x[:, 2] == 1] = 1
    x[0, 1], y[0] = 1e15, 1
    report = report_of(x, y, steps=8, converged=False, served_options={"dtype": dtype, "standardize": True}).report
    assert report.separation == "quasi"
    assert report.warnings[0].startswith("quasi-complete separation: moving the coefficients of x2 without end")
    assert report.warnings[1].startswith("whether other columns separate the classes too was not settled: ")


def test_complete_separation_that_only_float32_made_is_not_stated():
    """Two columns are each other's opposite but for their last digits, and the labels those of how float32 has them."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(400, 1)) * [1, -1] + 1e-12 * rng.normal(size=(400, 2))
    options = {"dtype": torch.float32, "standardize": True}
    rounded = next(design_of(x, np.zeros(400), **options).blocks()).x.numpy()[:, :2].sum(1)
    x, y = x[rounded != 0], (rounded > 0)[rounded != 0]
    last_digits = 1e12 * x.sum(1)
    assert konis(np.column_stack([x[:, 0], last_digits]), y) == pytest.approx(0, abs=1e-9)
    parameters = [1e9, 1e9, 0]
    design = design_of(x, y, **options)
    assert sum_rows(design, np.array(parameters)).smallest_gain > 0
    found = verdict(x, y, parameters, **options)
    assert (found.kind, found.doubt is None) == (None, False)


def test_levels_and_thresholds_are_certain_in_float32_too():
    """A gap in a column of many digits, and a level of one outcome beside it."""
    x = np.random.default_rng(10).normal(size=(400, 2)) ** 3
    y = (x[:, 0] > 0.1).astype(float)
    found = verdict(x, y, dtype=torch.float32, standardize=True)
    assert (found.kind, found.doubt, found.columns.tolist()) == ("complete", None, [0])
    y = (np.random.default_rng(11).random(400) < 0.5).astype(float)
    x[:, 1] = np.arange(400) % 7 == 3
    y[x[:, 1] == 1] = 1
    found = verdict(x, y, dtype=torch.float32, standardize=True)
    assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, [1])


@pytest.mark.parametrize("n", [7, 11, 13, 23])
def test_coefficients_beyond_float32s_digits_settle_nothing(n):
    """A level separates its rows, without an intercept; what its coefficient makes of the other rows is rounding."""
    level = np.arange(n) % 3 == 1
    x = np.column_stack([level])
    design = design_of(x, level, intercept=False, dtype=torch.float32, standardize=True)
    parameters = np.array([1e10])
    others = next(design.blocks()).x[~torch.from_numpy(level), 0]
    assert bool((others.abs() > 0).all())
    for y in (level | bool(others[0] > 0), level | (np.arange(n) % 2 == 0)):  # complete if it were not for rounding
        design = design_of(x, y, intercept=False, dtype=torch.float32, standardize=True)
        sums = sum_rows(design, parameters)
        found = find_separation(design, parameters, sums, np.arange(1))
        assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", "rounding", [0])
        exact = design_of(x, y, intercept=False)
        found = find_separation(exact, parameters, sum_rows(exact, parameters), np.arange(1))
        assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, [0])


@pytest.mark.parametrize("gap", [1, 1e-3, 1e-5])
def test_float32_is_enough_for_columns_that_nearly_depend_on_each_other(gap):
    rng = np.random.default_rng(6)
    a, b, e = rng.normal(size=(3, 1500))
    y = rng.random(1500) < 1 / (1 + np.exp(-a))
    options = {"served_options": {"dtype": torch.float32, "standardize": True}}
    report = report_of(np.column_stack([a, b, a - b + gap * e]), y, **options).report
    assert (report.separation, report.warnings) == (None, ())


def test_why_it_was_not_settled(monkeypatch):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(1200, 500)), np.arange(1200) % 2
    said = [w for w in report_of(x, y, steps=1, converged=False).report.warnings if "not settled" in w]
    assert said == [
        "whether the classes can be separated was not settled: 501 parameters are more than the 500 that a linear "
        "programme is solved for; if coefficients are very large, add a penalty "
        "(--model.l2 0.01, or the one that lr-lightning path chooses)"
    ]
    monkeypatch.setattr("lr_lightning.statistics.separation.largest_support", lambda rows: None)
    said = [w for w in report_of(x[:, :5], y, steps=0, converged=False).report.warnings if "not settled" in w]
    assert said == [
        "whether the classes can be separated was not settled: the linear programme that decides it gave no certain "
        "answer; if coefficients are very large, add a penalty "
        "(--model.l2 0.01, or the one that lr-lightning path chooses)"
    ]


def test_two_levels_are_both_named():
    x = np.kron(np.eye(3)[:, 1:], np.ones((4, 1)))  # a reference level and two others
    y = [0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    found = verdict(x, y)
    assert (found.kind, found.columns.tolist()) == ("quasi", [0, 1])


def test_complete_separation_by_two_columns_names_the_two():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 8))
    y = x[:, 2] + x[:, 5] > 0
    x[:, 2] += 0.05 * (2 * y - 1)
    found = verdict(x, y)
    assert (found.kind, found.columns.tolist()) == ("complete", [2, 5])


def test_rows_without_weight_do_not_count():
    x, y = [[1.0], [2.0], [3.0], [0.0]], [0, 0, 1, 1]
    assert verdict(x, y).kind is None
    assert verdict(x, y, weight=[1, 1, 1, 0]).kind == "complete"


def test_without_an_intercept():
    x, y = [[1.0], [2.0], [3.0]], [0, 0, 1]
    assert verdict(x, y, intercept=False).kind is None
    assert verdict(x, [1, 1, 1], intercept=False).kind == "complete"
    assert verdict([[-1.0], [-2.0], [3.0]], y, intercept=False).kind == "complete"
    assert verdict([[-1.0], [0.0], [3.0]], y, intercept=False).kind == "quasi"


@pytest.mark.parametrize("kind", [None, "quasi", "complete"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_tables_are_settled_on_some_of_their_rows(kind, dtype):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30_000, 6))
    x[:, 3] = rng.random(30_000) < 0.001
    logits = 3 * x[:, 0] - x[:, 1]
    y = rng.random(30_000) < 1 / (1 + np.exp(-logits))
    if kind == "quasi":
        y[x[:, 3] == 1] = True
    if kind == "complete":
        y = x[:, 0] - x[:, 1] > 0.3
    found = verdict(x, y, dtype=dtype, standardize=True, batch_size=7000)
    assert (found.kind, found.doubt) == (kind, None)
    if kind == "quasi":
        assert found.columns.tolist() == [3]


def test_a_converged_fit_needs_no_linear_programme(monkeypatch):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 4))
    y = rng.random(500) < 1 / (1 + np.exp(-x[:, 0]))
    design = design_of(x, y)
    parameters = np.zeros(5)
    for _ in range(8):
        sums = sum_rows(design, parameters)
        parameters = parameters + np.linalg.solve(sums.hessian, sums.gradient)
    monkeypatch.setattr("lr_lightning.statistics.separation.largest_support", None)
    found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(5))
    assert (found.kind, found.doubt) == (None, None)


@pytest.mark.parametrize("steps", [5, 12, 25, 33])
def test_a_fit_that_ran_away_never_passes_the_test_of_the_gradient(steps):
    """Newton from zero gains about one unit of logit a step along the direction."""
    rng = np.random.default_rng(4)
    x = np.column_stack([rng.normal(size=400), rng.random(400) < 0.2]).astype(float)
    y = (rng.random(400) < 0.5).astype(float)
    y[x[:, 1] == 1] = 1
    design = design_of(x, y)
    parameters = np.zeros(3)
    for _ in range(steps):
        sums = sum_rows(design, parameters)
        parameters = parameters + np.linalg.solve(sums.hessian, sums.gradient)
    found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(3))
    assert (found.kind, found.columns.tolist()) == ("quasi", [1])


def levels_table(rng, n=3000):
    """Numbers and 80 columns of levels; 7 and 8 have one outcome, and 9 once the rows of 7 are left out."""
    numbers = rng.normal(size=(n, 3))
    y = rng.random(n) < 1 / (1 + np.exp(-numbers @ [1, -1, 0.5]))
    x = np.column_stack([numbers, rng.integers(0, 81, n)[:, None] == np.arange(1, 81)]).astype(float)
    y[x[:, 7] == 1], y[x[:, 8] == 1] = True, False
    x[:, 9] = rng.random(n) < 0.02
    y[(x[:, 9] == 1) & (x[:, 7] == 0)] = False
    x[x[:, 9] == 1, 8] = 0
    x[np.flatnonzero(x[:, 7])[:2], 9] = 1
    return x, y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [8, 25])
def test_levels_with_one_outcome_need_no_linear_programme(steps, dtype, monkeypatch):
    x, y = levels_table(np.random.default_rng(11))
    stays = (x[:, 7:10] == 0).all(1)
    varies = np.ptp(x[stays], axis=0) > 0
    assert konis(x[stays][:, varies], y[stays]) == pytest.approx(0, abs=1e-6)
    design = design_of(x, y, dtype=dtype, standardize=True)
    # A fit whose other coefficients are at their limit.
    inner = design_of(x[stays][:, varies], y[stays])
    original = inner.to_original(maximize(inner))
    slopes = np.zeros(83)
    slopes[varies], slopes[7:10] = original[:-1], np.array([30, -15, -10]) * steps / 8
    parameters = np.append(slopes * design.scale, original[-1] + design.mean @ slopes)
    monkeypatch.setattr("lr_lightning.statistics.separation.largest_support", None)
    found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(84))
    separated = sorted({7, 8, 9} | set(np.flatnonzero(~varies)))
    assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, separated)
    unmoved = np.column_stack([x[stays], np.ones(stays.sum())]) @ design.to_original(found.free)
    assert np.abs(unmoved).max() < 1e-6
    assert found.free.shape[1] == len(separated)


def levels(codes, n):
    """A column a level but the first."""
    return (codes[:, None] == np.arange(1, n)).astype(float)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("outcome", [False, True])
def test_a_reference_level_with_one_outcome_needs_no_linear_programme(outcome, dtype, monkeypatch):
    """It has no column. That of the second category has one outcome once a level of the third is left out."""
    rng = np.random.default_rng(14)
    numbers, first, second, third = rng.normal(size=(3000, 2)), *rng.integers(0, 9, (3, 3000))
    y = rng.random(3000) < 1 / (1 + np.exp(-numbers @ [1, -1]))
    y[first == 0] = outcome
    y[(second == 0) & (first > 0)] = not outcome
    third[(second == 0) & (first == 0)] = 5
    y[third == 5] = outcome
    second[(third == 5) & (first > 0) & (second == 0)] = 1
    x = np.column_stack([numbers, *(levels(codes, 9) for codes in (first, second, third))])
    stays = (first > 0) & (second > 0) & (third != 5)
    rest = np.setdiff1d(np.arange(26), [2, 10, 22])
    assert konis(x[stays][:, rest], y[stays]) == pytest.approx(0, abs=1e-6)
    design = design_of(x, y, dtype=dtype, standardize=True)
    # A fit whose other coefficients are at their limit.
    inner = design_of(x[stays][:, rest], y[stays])
    original = inner.to_original(maximize(inner))
    slopes, grows = np.zeros(26), 15 if outcome else -15
    slopes[rest], slopes[22] = original[:-1], 4 * grows
    slopes[2:10] -= 2 * grows
    slopes[10:18] += grows
    parameters = np.append(slopes * design.scale, original[-1] + grows + design.mean @ slopes)
    monkeypatch.setattr("lr_lightning.statistics.separation.largest_support", None)
    found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(27))
    assert (found.kind, found.doubt, found.columns.tolist()) == ("quasi", None, [*range(2, 18), 22])
    unmoved = np.column_stack([x[stays], np.ones(stays.sum())]) @ design.to_original(found.free)
    assert np.abs(unmoved).max() < 1e-6
    assert found.free.shape[1] == 3


@pytest.mark.parametrize("seed", range(40))
def test_levels_and_references_separate_as_the_programme_alone_says(seed):
    rng = np.random.default_rng(seed)
    n, sizes = int(rng.integers(30, 80)), rng.integers(2, 7, 3)
    x = np.column_stack([levels(rng.integers(0, size, n), size) for size in sizes])
    kept: list[int] = []
    for j in range(x.shape[1]):
        if np.linalg.matrix_rank(np.c_[np.ones(n), x[:, [*kept, j]]]) == len(kept) + 2:
            kept.append(j)
    x = x[:, kept]
    y = rng.random(n) < rng.choice([0.1, 0.3, 0.5])
    y[:2] = False, True
    signed = _signed(x, y)
    gains = largest_support(signed)[1]
    found = verdict(x, y, standardize=True)
    assert (found.kind, found.doubt) == ("complete" if gains.all() else "quasi" if gains.any() else None, None)
    if found.kind == "quasi":
        still = np.linalg.svd(np.vstack([signed[~gains], np.zeros((x.shape[1] + 1,) * 2)]))
        free = still[2][still[1] < 1e-9]
        assert found.free.shape[1] == len(free)
        assert found.columns.tolist() == np.flatnonzero(np.abs(free[:, :-1]).max(0) > 1e-9).tolist()


def test_the_programme_is_asked_of_what_the_levels_leave():
    """A tie between the outcomes along a sum of two columns, and 600 levels of one outcome each."""
    rng = np.random.default_rng(12)
    x = np.round(rng.normal(size=(1500, 3)), 1)
    total = np.round(x[:, 0] + x[:, 1], 9)
    y = np.where(total == 0, rng.random(1500) < 0.5, total > 0)
    single = np.zeros((1500, 600))
    single[np.arange(600), np.arange(600)] = 1
    found = verdict(np.column_stack([x, single]), y)
    assert (found.kind, found.doubt) == ("quasi", None)
    assert found.columns.tolist() == [0, 1, *range(3, 603)]


def test_levels_that_leave_no_row_separate_completely():
    rng = np.random.default_rng(13)
    level = rng.integers(0, 60, 400)
    x = (level[:, None] == np.arange(1, 60)).astype(float)
    assert verdict(x, level % 2 == 0).kind == "complete"


@pytest.mark.parametrize("seed", [2, 3, 12])
def test_one_row_beside_a_plane_separates_though_the_hessian_has_lost_it(seed):
    """As in the survival times of Channing House: exit = entry + time, in all rows but one."""
    rng = np.random.default_rng(seed)
    entry, time, other = rng.integers(733, 1140, 450), rng.integers(0, 138, 450), rng.random(450) < 0.4
    y = rng.random(450) < 0.2
    y[7] = False
    leave = entry + time
    leave[7] -= 2
    x = np.column_stack([entry, leave, time, other]).astype(float)
    rest = np.arange(450) != 7
    assert konis(x[rest][:, [0, 2, 3]] / [1000, 100, 1], y[rest]) == pytest.approx(0, abs=1e-6)
    design = design_of(x, y, standardize=True)
    for steps in (8, 24, 26):
        parameters = newton_by_qr(design, steps)
        found = find_separation(design, parameters, sum_rows(design, parameters), np.arange(5))
        assert (found.kind, found.columns.tolist()) == ("quasi", [0, 1, 2])


def newton_by_qr(design, steps):
    """Newton's steps by least squares on the weighted rows, which keeps the digits that the Hessian loses."""
    (block,) = design.blocks()
    x, sign = block.x.numpy(), block.sign.numpy()
    parameters = np.zeros(design.size)
    for _ in range(steps):
        z = x @ parameters
        p = 1 / (1 + np.exp(-z))
        root = np.sqrt(p * (1 - p))
        parameters = parameters + np.linalg.lstsq(x * root[:, None], ((sign > 0) - p) / root, rcond=1e-14)[0]
    return parameters
