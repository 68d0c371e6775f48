import copy

import numpy as np
import pytest
import sklearn
import statsmodels.api as sm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from sklearn.linear_model import LogisticRegression

from lr_lightning.model.design import Dense
from lr_lightning.model.rows import Rows
from lr_lightning.solver import SubsampledNewton, curvature, quadratic, separating_columns
from lr_lightning.solver import newton as module
from lr_lightning.solver.problem import SampleProblem
from lr_lightning.solver.separating_columns import independent_columns
from lr_lightning.statistics.linear_programme import largest_support
from tests.solver.fit import check_resuming, fit, gradient, kkt_residual, make, newton, objective, standardize
from tests.solver.problems import REGULAR, SEPARATED, build

PENALTIES = {"none": {}, "l2": {"l2": 1e-3}, "l1": {"l1": 3e-3}, "elastic net": {"l1": 3e-3, "l2": 1e-3}}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", REGULAR)
def test_reaches_the_optimum_in_float64(name, penalty):
    x, y, v = build(name)
    options = PENALTIES[penalty]
    result = fit(x, y, v, **options)
    assert result.optimizer.converged, result.optimizer.status
    assert result.passes <= 25
    reached = objective(x, y, v, result.point, **options)
    # Weighted differences of the optimality conditions bound the distance to the optimum.
    assert kkt_residual(x, y, v, result.point, **options) < 1e-6 * max(reached, 1e-3)
    if "l1" not in options:
        best = objective(x, y, v, newton(x, y, v, **options), **options)
        assert reached <= best * (1 + 1e-10)
    assert result.optimizer.objective == pytest.approx(reached, rel=1e-10)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", REGULAR)
def test_reaches_the_optimum_in_float32(name, penalty):
    if (name, penalty) == ("nearly_collinear", "none"):
        pytest.skip("columns that differ by 1e-5 are not those of the table after rounding to float32")
    x, y, v = build(name)
    options = PENALTIES[penalty]
    result = fit(x.float(), y.float(), None if v is None else v.float(), **options)
    assert result.optimizer.converged, result.optimizer.status
    assert result.passes <= 25
    reached = objective(x, y, v, result.point, **options)
    exact = fit(x, y, v, **options)
    assert reached <= objective(x, y, v, exact.point, **options) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SEPARATED)
def test_separated_tables_end_finite_and_explained(name, dtype):
    x, y, _ = build(name)
    result = fit(x.to(dtype), y.to(dtype))
    assert result.optimizer.stopped
    assert not result.optimizer.converged
    assert result.optimizer.status == module.DIVERGING
    assert result.point.isfinite().all()
    assert result.point.abs().max() < 1e6
    assert result.optimizer.objective < 0.69


@pytest.mark.parametrize("name", SEPARATED)
@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_penalty_makes_separated_tables_regular(name, penalty):
    if name.startswith("one_class"):
        pytest.skip("the intercept is not penalised")
    x, y, _ = build(name)
    result = fit(x, y, **PENALTIES[penalty])
    assert result.optimizer.converged
    assert kkt_residual(x, y, None, result.point, **PENALTIES[penalty]) < 1e-6


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cholesky"])
def test_agrees_with_scikit_learn(solver, intercept):
    x, y, v = build("independent")
    reference = LogisticRegression(C=0.5, solver=solver, tol=1e-12, max_iter=10_000, fit_intercept=intercept)
    reference.fit(x.numpy(), y.numpy())
    result = fit(x, y, v, l2=1 / (0.5 * len(x)), intercept=intercept)
    np.testing.assert_allclose(result.weight, reference.coef_[0], rtol=2e-6, atol=1e-8)
    if intercept:
        assert float(result.bias) == pytest.approx(reference.intercept_[0], rel=1e-6)
    else:
        assert result.bias == 0


def test_agrees_with_statsmodels():
    x, y, _ = build("wild_scales")
    reference = sm.Logit(y.numpy(), sm.add_constant(x.numpy())).fit(disp=False, method="newton", tol=1e-14)
    point = fit(x, y).point
    np.testing.assert_allclose(point, np.roll(reference.params, -1), rtol=1e-8, atol=1e-10)


def test_l1_agrees_with_scikit_learn():
    x, y, _ = build("correlated_and_skewed")
    # Before 1.8 (and 1.7 is the last for Python 3.10) scikit-learn asks for the penalty by name.
    l1 = {"l1_ratio": 1} if Version(sklearn.__version__) >= Version("1.8") else {"penalty": "l1"}
    reference = LogisticRegression(C=1 / (0.01 * len(x)), **l1, solver="saga", tol=1e-9, max_iter=3000)
    reference.fit(x.numpy(), y.numpy())
    result = fit(x, y, l1=0.01)
    np.testing.assert_allclose(result.weight, reference.coef_[0], rtol=1e-5, atol=1e-7)
    assert torch.equal(result.weight == 0, torch.from_numpy(reference.coef_[0] == 0))
    assert (result.weight == 0).any()


@given(
    st.integers(5, 60),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e-3, 0.1]),
    st.sampled_from([0.0, 0.01, 0.1]),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_small_tables(n, d, l2, l1, weighted, seed):
    generator = torch.Generator().manual_seed(seed)
    x = standardize(torch.randn(n, d, generator=generator, dtype=torch.float64))
    y = (torch.rand(n, generator=generator) < 0.5).double()
    v = torch.rand(n, generator=generator, dtype=torch.float64) if weighted else None
    result = fit(x, y, v, l1=l1, l2=l2)
    assert result.optimizer.stopped
    assert result.point.isfinite().all()
    if result.optimizer.converged:
        assert kkt_residual(x, y, v, result.point, l1, l2) < 1e-7
        if not l1:
            best = objective(x, y, v, newton(x, y, v, l2), l2=l2)
            assert objective(x, y, v, result.point, l2=l2) <= best * (1 + 1e-10)
    else:
        assert y.min() == y.max() or not (l1 or l2)  # of one class the intercept runs away, which no penalty holds
        assert result.optimizer.status == module.DIVERGING


def test_penalties_by_coordinate():
    x, y, _ = build("independent")
    l1 = torch.linspace(0, 0.05, 12, dtype=torch.float64)
    l2 = torch.linspace(0.1, 0, 12, dtype=torch.float64)
    result = fit(x, y, l1=l1, l2=l2)
    assert kkt_residual(x, y, None, result.point, l1, l2) < 1e-8


def test_few_passes_on_tall_tables():
    x, y, _ = build("correlated_and_skewed")
    best = objective(x, y, None, newton(x, y, None))
    result = fit(x.float(), y.float())
    within = [abs(loss - best) <= 1e-9 * best for loss in result.losses]
    assert within.index(True) < 6
    assert result.passes <= 6


@pytest.mark.parametrize("penalty", ["none", "l1"])
def test_a_small_complete_table_takes_one_pass(penalty):
    x, y, _ = build("constant_column")
    assert fit(x, y, **PENALTIES[penalty]).passes == 1


@pytest.mark.parametrize("penalty", ["l2", "l1", "elastic net"])
def test_wide_tables(penalty):
    generator = torch.Generator().manual_seed(0)
    x = standardize(torch.randn(400, 2500, generator=generator, dtype=torch.float64))
    y = (torch.rand(400, generator=generator) < torch.sigmoid(x[:, :5].sum(1))).double()
    options = {"l2": {"l2": 0.05}, "l1": {"l1": 0.03}, "elastic net": {"l1": 0.02, "l2": 0.02}}[penalty]
    result = fit(x, y, **options)
    assert result.optimizer.converged
    assert kkt_residual(x, y, None, result.point, **options) < 1e-5
    if penalty == "l2":
        reference = LogisticRegression(C=1 / (0.05 * 400), tol=1e-12, max_iter=10_000).fit(x.numpy(), y.numpy())
        expected = torch.from_numpy(np.append(reference.coef_[0], reference.intercept_))
        assert objective(x, y, None, result.point, **options) <= objective(x, y, None, expected, **options) * (1 + 1e-9)
    else:
        assert (result.weight == 0).sum() > 2000


@pytest.mark.parametrize("name", ["independent", "lognormal"])
@pytest.mark.parametrize("penalty", ["none", "l1"])
def test_warm_start(name, penalty):
    x, y, _ = build(name)
    options = PENALTIES[penalty]
    cold = fit(x, y, **options)
    warm = fit(x, y, start=cold.point, warm_start=True, **options)
    assert warm.losses[0] == pytest.approx(
        cold.optimizer.objective - options.get("l1", 0) * float(cold.weight.abs().sum())
    )
    assert warm.passes <= 2
    far = fit(x, y, start=torch.full_like(cold.point, 3.0), warm_start=True, **options)
    assert far.optimizer.converged
    assert far.optimizer.objective == pytest.approx(cold.optimizer.objective, rel=1e-10)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_without_a_sample(penalty):
    x, y, _ = build("independent")
    options = PENALTIES[penalty]
    weight = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    optimizer = SubsampledNewton([weight], **options)

    def closure():
        point = torch.cat([weight.detach()[0], torch.zeros(1)])
        smooth = {name: value for name, value in options.items() if name == "l2"}
        weight.grad = gradient(x, y, None, point, **smooth)[None, :-1]
        return torch.tensor(objective(x, y, None, point, **smooth))

    for _ in range(100):
        optimizer.step(closure)
        if optimizer.stopped:
            break
    assert optimizer.converged
    expected = fit(x, y, intercept=False, **options)
    torch.testing.assert_close(weight.detach()[0], expected.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lognormal", "imbalanced", "wide"])
@pytest.mark.parametrize("penalty", ["none", "l2", "l1"])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_resuming_continues_the_same_trajectory(name, penalty, stop):
    if name == "wide":
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(300, 2100, generator=generator, dtype=torch.float64)
        y = (x[:, 0] > 0).double()
    else:
        x, y, _ = build(name)
    options = PENALTIES[penalty] | {"size": 2000 if name != "wide" else None}
    check_resuming(x, y, stop, **options)


def test_a_weak_l1_penalty_on_few_rows_comes_by_way_of_stronger_ones(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = standardize(torch.randn(100, 300, generator=generator, dtype=torch.float64))
    y = (x[:, 0] + 0.3 * torch.randn(100, generator=generator) > 0).double()
    solve, systems = quadratic.solve_spd, []

    def count(*arguments):
        systems.append(len(arguments[1]))
        return solve(*arguments)

    monkeypatch.setattr(quadratic, "solve_spd", count)
    result = fit(x, y, l1=1e-6)
    assert result.optimizer.converged
    assert kkt_residual(x, y, None, result.point, 1e-6, 0.0) < 1e-10
    assert len(systems) < 800  # straight from zero it takes thousands


def test_state_of_another_model_is_refused():
    x, y, _ = build("twenty_rows")
    state = copy.deepcopy(make(x, y)[0].state_dict())
    with pytest.raises(ValueError, match="coefficients"):
        make(x[:, :2], y)[0].load_state_dict(state)


def test_deterministic():
    x, y, _ = build("heavy_tails")
    assert torch.equal(fit(x, y).point, fit(x, y).point)


def test_one_closure_call_a_step_and_none_of_its_own_when_stopped():
    x, y, _ = build("lognormal")
    optimizer, weight, _, closure = make(x, y)
    calls = 0

    def counted():
        nonlocal calls
        calls += 1
        return closure()

    for k in range(12):
        optimizer.step(counted)
        assert calls == k + 1
    assert optimizer.stopped
    final = weight.detach().clone()
    optimizer.step(counted)
    assert torch.equal(weight, final)


def test_cut_short_the_best_point_is_put_back():
    x, y, _ = build("heavy_tails")
    result = fit(x, y, max_passes=3)
    assert not result.optimizer.stopped
    assert objective(x, y, None, result.point) == pytest.approx(result.optimizer.objective, rel=1e-12)
    assert result.optimizer.objective == min(result.losses)


def test_a_rise_of_the_objective_is_taken_back():
    x, y, _ = build("independent")
    optimizer, weight, bias, closure = make(x, y, size=2000)
    optimizer.step(closure)
    verified = optimizer.objective
    with torch.no_grad():
        weight += 5
    optimizer.step(closure)
    assert optimizer.objective == verified
    while not optimizer.stopped:
        optimizer.step(closure)
    assert optimizer.converged
    point = torch.cat([weight.detach(), bias.detach()[None]])
    assert kkt_residual(x, y, None, point) < 1e-8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_pass_that_is_not_finite_is_taken_back(bad):
    x, y, _ = build("independent")
    optimizer, weight, _, closure = make(x, y, size=2000)
    optimizer.step(closure)

    def broken():
        return closure() * bad

    optimizer.step(broken)
    assert weight.isfinite().all()
    while not optimizer.stopped:
        optimizer.step(closure)
    assert optimizer.converged


def test_an_objective_that_is_never_finite_stops():
    x, y, _ = build("twenty_rows")
    optimizer, weight, _, closure = make(x, y)
    for _ in range(3):
        optimizer.step(lambda: closure() * float("nan"))
    assert optimizer.stopped
    assert not optimizer.converged
    assert optimizer.status == module.NOT_FINITE
    assert torch.equal(weight, torch.zeros_like(weight))


def test_a_sample_without_a_positive():
    x, y, _ = build("imbalanced")
    negatives = y == 0
    weight = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sample = (x[negatives][:5000], y[negatives][:5000], None)
    optimizer = SubsampledNewton([weight, bias], sample=sample)

    def closure():
        point = torch.cat([weight.detach(), bias.detach()])
        g = gradient(x, y, None, point)
        weight.grad, bias.grad = g[:-1], g[-1:]
        return torch.tensor(objective(x, y, None, point))

    for _ in range(100):
        optimizer.step(closure)
        if optimizer.stopped:
            break
    assert optimizer.converged
    best = objective(x, y, None, newton(x, y, None))
    assert objective(x, y, None, torch.cat([weight.detach(), bias.detach()])) <= best * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"l1": -1.0}, "l1"), ({"l2": torch.tensor([1.0, -1.0])}, "l2"), ({"l2": float("nan")}, "l2")],
)
def test_negative_penalties_are_refused(options, message):
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        SubsampledNewton([weight], **options)


def test_parameters_must_be_float64():
    with pytest.raises(ValueError, match="float64"):
        SubsampledNewton([torch.zeros(2, requires_grad=True)])
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="bias"):
        SubsampledNewton([weight, torch.zeros(2, dtype=torch.float64, requires_grad=True)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [900, 9000])
@pytest.mark.parametrize("weighted", [False, True])
def test_levels_with_one_outcome_are_taken_to_their_limit(weighted, rows, dtype):
    """The others get the coefficients of Newton's method on the rows that no such level holds."""
    r = np.random.default_rng(rows)
    numbers, level = r.normal(size=(rows, 3)), r.integers(0, 120, rows)
    y = r.random(rows) < 1 / (1 + np.exp(-numbers @ [1, -1, 0.5] - 0.2 * (level % 5)))
    one_outcome = (level > 90) | (level == 3)
    y[one_outcome] = level[one_outcome] % 2 == 0
    v = torch.from_numpy(r.integers(0, 3, rows).astype(float)) if weighted else None
    used = np.ones(rows, bool) if v is None else v.numpy() > 0
    raw = np.column_stack([numbers, level[:, None] == np.arange(1, 120)]).astype(float)
    pure = np.array([j for j in range(1, 120) if len(set(y[used & (level == j)])) == 1])
    stay = used & ~np.isin(level, pure)
    x, y = standardize(torch.from_numpy(raw)).to(dtype), torch.from_numpy(y).to(dtype)
    result = fit(x, y, v)
    assert result.passes <= 12
    assert (result.optimizer.converged, result.optimizer.status) == (False, module.DIVERGING)
    free = np.setdiff1d(np.arange(122), 2 + pure)
    rest = None if v is None else v[stay]
    expected = newton(x[stay][:, free], y[stay], rest)
    logits = x.double() @ result.weight + result.bias
    wanted = x[stay][:, free].double() @ expected[:-1] + expected[-1]
    torch.testing.assert_close(logits[stay], wanted, rtol=0, atol=1e-6 if dtype == torch.float64 else 2e-3)
    margins = (logits * (2 * y.double() - 1))[used & ~stay]
    assert float(margins.min()) > 30
    assert result.optimizer.objective == pytest.approx(
        objective(x[stay][:, free], y[stay], rest, expected) * (stay.sum() if v is None else float(v[stay].sum()))
        / (rows if v is None else float(v.sum())), rel=1e-7,
    )  # fmt: skip


def levels(codes, n):
    """A column a level but the first."""
    return (codes[:, None] == np.arange(1, n)).astype(float)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outcome", [False, True])
def test_a_reference_level_with_one_outcome_is_taken_to_its_limit(outcome, weighted, dtype):
    """It has no column; the reference of the second category has one outcome once a level of the third is aside."""
    r = np.random.default_rng(3)
    numbers, first, second, third = r.normal(size=(4000, 3)), *r.integers(0, 40, (2, 4000)), r.integers(0, 3, 4000)
    y = r.random(4000) < 1 / (1 + np.exp(-numbers @ [1, -1, 0.5] - 0.2 * (first % 5)))
    third[r.random(4000) < 0.02] = 3
    y[third == 3] = outcome
    y[(third < 3) & (second == 0)] = not outcome
    y[(third < 3) & (second > 0) & (first == 0)] = outcome
    first[(third == 3) | (second == 0)] = 7
    v = torch.from_numpy(r.integers(0, 3, 4000).astype(float)) if weighted else None
    used = np.ones(4000, bool) if v is None else v.numpy() > 0
    y[~used] = ~y[~used]  # their outcome does not matter
    stay = used & (first > 0) & (second > 0) & (third < 3)
    assert all(len(set(y[stay & (codes == j)])) == 2 for codes in (first, second) for j in range(1, 40))
    raw = np.column_stack([numbers, levels(first, 40), levels(second, 40), levels(third, 4)])
    x, y = standardize(torch.from_numpy(raw)).to(dtype), torch.from_numpy(y).to(dtype)
    result = fit(x, y, v)
    assert result.passes <= 12
    assert (result.optimizer.converged, result.optimizer.status) == (False, module.DIVERGING)
    rest = None if v is None else v[stay]
    free = np.setdiff1d(np.arange(84), [3, 42, 83])  # other levels take the place of the references
    expected = newton(x[stay][:, free], y[stay], rest)
    logits = x.double() @ result.weight + result.bias
    wanted = x[stay][:, free].double() @ expected[:-1] + expected[-1]
    torch.testing.assert_close(logits[stay], wanted, rtol=0, atol=1e-6 if dtype == torch.float64 else 2e-3)
    assert float((logits * (2 * y.double() - 1))[used & ~stay].min()) > 30
    assert result.optimizer.objective == pytest.approx(
        objective(x[stay][:, free], y[stay], rest, expected) * (stay.sum() if v is None else float(v[stay].sum()))
        / (4000 if v is None else float(v.sum())), rel=1e-7,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_levels_of_few_rows_end_at_the_supremum(seed):
    """Whichever of them have one outcome: the rows that no direction separates have the maximum of their own."""
    r = np.random.default_rng(seed)
    n, sizes = 120, r.integers(2, 12, 3)
    raw = np.column_stack([r.normal(size=n), *(levels(r.integers(0, size, n), size) for size in sizes)])
    y = r.random(n) < 1 / (1 + np.exp(1.5 - raw[:, 0]))
    signed = np.column_stack([raw, np.ones(n)]) * np.where(y, 1.0, -1.0)[:, None]
    gains = largest_support(signed)[1]
    x, y = standardize(torch.from_numpy(raw)), torch.from_numpy(y).double()
    stay = torch.from_numpy(~gains)
    supremum = objective(x[stay], y[stay], None, newton(x[stay], y[stay], None)) * float(stay.double().mean())
    result = fit(x, y)
    assert result.optimizer.converged != bool(gains.any())
    reached = objective(x, y, None, result.point)
    assert -1e-12 < reached - supremum < 1e-9


def test_rows_that_stay_need_no_decompositions_where_their_columns_depend(monkeypatch):
    """Levels that differ in the rows of one outcome alone are the same column without them."""
    r = np.random.default_rng(5)
    level = r.integers(0, 60, 6000)
    raw = np.column_stack([r.normal(size=6000), levels(level, 60)])
    like = raw[:, 1:41] + (level == 59)[:, None] * (np.arange(6000)[:, None] % 40 == np.arange(40))
    sums = raw[:, 5:15] @ r.integers(-2, 3, (10, 5)) + 3
    y = torch.from_numpy((r.random(6000) < 0.4) | (level == 59)).double()
    x = standardize(torch.from_numpy(np.column_stack([raw, like, sums])))
    monkeypatch.setattr(quadratic, "eigh", None)
    monkeypatch.setattr(curvature, "svd", None)
    result = fit(x, y)
    assert (result.passes <= 8, result.optimizer.status) == (True, module.DIVERGING)
    stay = torch.from_numpy(level < 59)
    expected = newton(x[stay, :59], y[stay], None)
    logits, wanted = x @ result.weight + result.bias, x[stay, :59] @ expected[:-1] + expected[-1]
    torch.testing.assert_close(logits[stay], wanted, rtol=0, atol=1e-6)
    assert float(logits[~stay].min()) > 30


@pytest.mark.parametrize("ratio", [1e-4, 1e-7])
def test_nearly_dependent_columns_are_independent(ratio):
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 2] = x[:, 0] - 2 * x[:, 1] + 5
    x[:, 4] = x[:, 3] + ratio * x[:, 4]
    kept = independent_columns(Dense(x)).tolist()
    assert len(kept) == 5
    assert {3, 4, 5} < set(kept)
    assert independent_columns(Dense(x[:, :0])).tolist() == []


def test_resuming_under_levels_with_one_outcome(monkeypatch):
    r = np.random.default_rng(1)
    level = r.integers(0, 40, 9000)
    raw = np.column_stack([r.normal(size=(9000, 130)), level[:, None] == np.arange(1, 40)]).astype(float)
    y = torch.from_numpy((r.random(9000) < 0.4) | (level == 5)).double()
    x = standardize(torch.from_numpy(raw))
    check_resuming(x, y, 1)
    # States of versions that did not take the limit, or had more coefficients in it: the fit begins anew.
    x = torch.cat([x, x[:, :1] + x[:, 1:2]], 1)
    for name, other in (("limit_of", lambda *_: None), ("independent_columns", lambda x: torch.arange(x.shape[1]))):
        monkeypatch.setattr(module if name == "limit_of" else separating_columns, name, other)
        before, *_, closure = make(x, y)
        before.step(closure)
        monkeypatch.undo()
        again, weight, _, closure = make(x, y)
        again.load_state_dict(before.state_dict())
        assert torch.equal(weight, make(x, y)[1])
        while not again.stopped:
            again.step(closure)
        assert again.status == module.DIVERGING


def test_a_step_from_far_on_the_wrong_side_has_an_end():
    """Where a row's loss is straight its curvature is that of a parabola above it, whose minimum is not far."""
    r = np.random.default_rng(2)
    a, b = r.normal(size=(2, 400))
    x = torch.from_numpy(np.column_stack([a, a + 1e-5 * b]))  # nearly dependent: the curvature is kept as a factor
    y = (x[:, 0] > 0).double()
    none = torch.zeros(3, dtype=torch.float64)
    problem = SampleProblem(Rows(x, y), none, none, n_rows=400)
    point = torch.tensor([-3e4, 0.0, 0.0], dtype=torch.float64)
    loss, slope = problem.smooth(point)
    step = problem.curvature(point, 10).step(point, slope, none)
    assert problem.smooth(point + step)[0] < 1e-6 * loss
    assert problem.movement(step) < 10 * problem.movement(point)


def test_a_step_that_is_too_long_by_many_orders_is_followed():
    """Two levels differ in six rows alone, which are half wrong by a logit of 25: a curvature of 1e-11 gives the step.

    The optimum is in closed form: every group of rows has the log-odds of its share of positive ones.
    """
    r = np.random.default_rng(0)
    level = r.integers(0, 3, 600)
    groups = [level == 0, level == 1, level == 2, np.arange(600) == -1]
    groups[3][np.flatnonzero(groups[0])[:6]] = True
    groups[0] &= ~groups[3]
    y = (r.random(600) < np.where(groups[1], 0.3, 0.6)).astype(float)
    y[groups[3]] = [1, 1, 0, 0, 0, 1]
    log_odds = torch.tensor([np.log(y[rows].mean() / (1 - y[rows].mean())) for rows in groups], dtype=torch.float64)
    x = torch.from_numpy(np.column_stack([groups[1], groups[1] | groups[3], groups[2]]).astype(float))
    none = torch.zeros(4, dtype=torch.float64)
    problem = SampleProblem(Rows(x, torch.from_numpy(y)), none, none, n_rows=600)
    found, _ = problem.solve(torch.tensor([25.0, -25.0, 0.0, 0.0], dtype=torch.float64), 10)
    base, first, third, few = log_odds
    expected = torch.stack([first - few, few - base, third - base, base])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
