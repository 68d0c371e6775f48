"""Sparse features and categories of many levels: the numbers are those of the same table made dense."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense
from lr_lightning.model.losses import Outcomes
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import solve, thresholds
from lr_lightning.solver.problem import SampleProblem

NARROW, WIDE = 30, 300  # columns, below and above those of a dense Hessian


@pytest.fixture(autouse=True)
def _few_columns_are_many(monkeypatch):
    monkeypatch.setattr(thresholds, "DENSE_LIMIT", 60)


def table(n, d, seed=0, per_row=8):
    """CSR with columns of very different frequencies, some of them empty, and labels."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, d + 1)
    column = rng.choice(d, n * per_row, p=frequency / frequency.sum())
    x = sp.csr_array((rng.normal(size=n * per_row), (np.repeat(np.arange(n), per_row), column)), shape=(n, d))
    y = rng.random(n) < 1 / (1 + np.exp(-(x @ rng.normal(size=d) * 0.5 - 1)))
    return x, torch.from_numpy(y.astype(float))


def levels(n, sizes, seed=0):
    """Codes, two numbers, and labels."""
    rng = np.random.default_rng(seed)
    codes = np.stack([np.minimum(rng.geometric(min(1, 6 / size), n) - 1, size - 1) for size in sizes]).astype(np.int32)
    numbers = rng.normal([0, 3], size=(n, 2))
    z = numbers @ [0.5, -0.2] + sum(rng.normal(size=size)[c] * 0.5 for size, c in zip(sizes, codes, strict=True))
    x = Columns([Dense(torch.from_numpy(numbers)), Categories(torch.from_numpy(codes).T, sizes)])
    return x, torch.from_numpy((rng.random(n) < 1 / (1 + np.exp(-z))).astype(float))


def newton(x, y, objective, v=None, offset=None):
    """Newton's method on the features written out, NumPy's linear algebra: (d + 1,); without L1."""
    x = np.column_stack([x, np.full(len(x), float(objective.fit_intercept))])
    v = np.ones(len(y)) if v is None else np.asarray(v)
    offset = np.zeros(len(y)) if offset is None else np.asarray(offset)
    mean = (v @ x) / v.sum()
    penalty = objective.l2 * ((v @ (x - mean) ** 2) / v.sum() if objective.standardize else np.ones(x.shape[1]))
    penalty[-1] = 0
    idle = (x[v > 0] == x[v > 0][0]).all(0)
    idle[-1] = not objective.fit_intercept
    x = x[:, ~idle]
    theta, found = np.zeros(x.shape[1]), np.zeros(len(idle))
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ theta + offset)))
        gradient = x.T @ (v * (p - y.numpy())) / v.sum() + penalty[~idle] * theta
        hessian = (x.T * (v * p * (1 - p))) @ x / v.sum() + np.diag(penalty[~idle])
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if np.abs(step).max() < 1e-13:
            break
    found[~idle] = theta
    return found


def violation(rows, objective, theta):
    """The largest violation of the optimality conditions, relative to the penalties; the intercept's too."""
    x, (w, b) = rows.design, (theta[:-1], theta[-1])
    _, gradient, residual = x.value_and_gradient(Outcomes(*rows[1:]), w, b)
    total = float(rows.total_weight)
    gradient = gradient / total + objective.l2 * w
    of_support = (gradient + objective.l1 * w.sign())[w != 0].abs().max()
    of_zeros = (gradient.abs() - objective.l1)[w == 0].clamp(min=0).max()
    return max(float(of_support), float(of_zeros), abs(float(residual)) / total)


CASES = {
    "ridge": {"l2": 1e-3},
    "ridge on raw weights": {"l2": 1e-3, "standardize": False},
    "weights": {"l2": 1e-3, "v": True},
    "offset": {"l2": 1e-3, "offset": True},
    "fractions": {"l2": 1e-3, "fractions": True},
    "no intercept": {"l2": 1e-3, "fit_intercept": False},
    "weak ridge": {"l2": 1e-6},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["narrow", "wide", "levels"])
def test_same_as_newton_on_the_filled_table(kind, case):
    options = {"standardize": True, **CASES[case]}
    if kind == "levels":
        x, y = levels(3000, [40, 1, 25, 7])
    else:
        matrix, y = table(3000, NARROW if kind == "narrow" else WIDE)
        x = Csr.of(matrix)
    generator = torch.Generator().manual_seed(1)
    v = torch.rand(len(y), generator=generator).double().mul(3).floor() if options.pop("v", False) else None
    offset = torch.randn(len(y), generator=generator).double() if options.pop("offset", False) else None
    if options.pop("fractions", False):
        y = 0.1 + 0.8 * y * torch.rand(len(y), generator=generator)
    objective = Objective(**options)
    found = solve(Rows(x, y, v, offset), objective)
    assert found.status == "converged"
    expected = newton(x.dense(torch.float64).numpy(), y, objective, v, offset)
    np.testing.assert_allclose(found.theta.numpy(), expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("n", [3000, 100_000])
def test_lasso_is_optimal_in_every_coordinate(n, l2):
    x, y = table(n, WIDE)
    rows, objective = Rows(Csr.of(x), y), Objective(l1=2e-3, l2=l2)
    found = solve(rows, objective)
    assert found.status == "converged"
    assert 10 < int((found.theta != 0).sum()) < 300
    assert violation(rows, objective, found.theta) < 1e-14


def test_lasso_on_standardised_weights_is_that_of_the_filled_table(monkeypatch):
    x, y = levels(3000, [40, 25, 7])
    objective = Objective(l1=4e-3, l2=1e-3, standardize=True)
    with monkeypatch.context() as patch:
        patch.setattr(thresholds, "DENSE_LIMIT", 2048)
        expected = solve(Rows(x.dense(), y), objective)
    found = solve(Rows(x, y), objective)
    assert found.status == expected.status == "converged"
    assert torch.equal(found.theta == 0, expected.theta == 0)
    torch.testing.assert_close(found.theta, expected.theta, rtol=0, atol=1e-12)


def test_few_rows_and_many_columns():
    """Fewer rows than coefficients: by the rows' Gram matrix."""
    x, y = table(50, WIDE)
    objective = Objective(l2=1e-2, standardize=True)
    found, expected = solve(Rows(Csr.of(x), y), objective), newton(x.toarray(), y, objective)
    assert found.status == "converged"
    np.testing.assert_allclose(found.theta.numpy(), expected, rtol=0, atol=1e-9)


def test_a_sample_of_many_rows():
    """More rows than a sample has: of few coefficients it is drawn, of many all rows are taken."""
    x, y = levels(60_000, [20, 12])
    objective = Objective(l2=1e-4, standardize=True)
    found, expected = solve(Rows(x, y), objective), newton(x.dense().numpy(), y, objective)
    assert found.status == "converged"
    np.testing.assert_allclose(found.theta.numpy(), expected, rtol=0, atol=1e-9)


def test_single_precision_is_read_exactly():
    x, y = table(3000, WIDE)
    single = x.astype(np.float32)
    objective = Objective(l2=1e-3)
    found = solve(Rows(Csr.of(single), y), objective).theta
    expected = solve(Rows(Csr.of(single.astype(np.float64)), y), objective).theta
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_no_matrix_over_all_coefficients(monkeypatch):
    """Above the limit nothing is written out: neither rows nor a Hessian."""

    def fails(*_, **__):
        raise AssertionError("filled")

    x, y = table(3000, WIDE)
    monkeypatch.setattr(Csr, "dense", fails)
    monkeypatch.setattr(Csr, "sandwich", fails)
    assert solve(Rows(Csr.of(x), y), Objective(l2=1e-3, standardize=True)).converged


def test_a_part_of_the_rows_that_misleads_is_given_up(monkeypatch):
    """The block of all rows follows where that of a part does not make the steps converge."""
    monkeypatch.setattr(thresholds, "PART_ROWS", 100)
    calls = []
    whole = SampleProblem._block
    monkeypatch.setattr(SampleProblem, "_block", lambda self, *a: calls.append(len(self._y)) or whole(self, *a))
    x, y = table(5000, WIDE)
    rows, objective = Rows(Csr.of(x), y), Objective(l1=2e-3)
    found = solve(rows, objective)
    assert found.converged
    assert 5000 in calls
    assert violation(rows, objective, found.theta) < 1e-14


def test_warm_start():
    x, y = table(3000, WIDE)
    rows, objective = Rows(Csr.of(x), y), Objective(l2=1e-3)
    cold = solve(rows, objective)
    warm = solve(rows, objective, start=cold.theta)
    assert warm.passes <= 2
    torch.testing.assert_close(warm.theta, cold.theta, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("l1", [0.0, 2e-3])
def test_on_a_gpu(l1):
    x, y = table(3000, WIDE)
    rows, objective = Rows(Csr.of(x), y), Objective(l1=l1, l2=1e-3)
    on_gpu = solve(Rows(Csr.of(x).to("cuda"), y.cuda()), objective)
    torch.testing.assert_close(on_gpu.theta, solve(rows, objective).theta, rtol=0, atol=1e-9)


def test_a_looser_tolerance_takes_fewer_products_and_keeps_its_gap(monkeypatch):
    """The objective ends within the tolerance of the exact one, and no step is more exact than it needs."""
    x, y = table(2000, WIDE)
    products = []
    multiply = Csr.hessian_product
    monkeypatch.setattr(Csr, "hessian_product", lambda self, *a: products.append(1) or multiply(self, *a))
    rows = Rows(Csr.of(x), y)
    counts, objectives = [], []
    for tol in (None, 1e-8):
        products.clear()
        objectives.append(solve(rows, Objective(l2=1e-4), tol=tol).objective)
        counts.append(len(products))
    assert counts[1] < 0.7 * counts[0]
    assert 0 <= objectives[1] - objectives[0] < 1e-7 * objectives[0]


@pytest.mark.parametrize("seed", [47, 191, 300])
def test_hardly_a_penalty_leaves_all_digits(seed):
    """Values of 1 000 whose rows are predicted well: the features are nearly multiples of the intercept there."""
    rng = np.random.default_rng(seed)
    n = rng.integers(5, 60)
    words = np.where(rng.random((n, 5)) < 0.3, 1e3 * rng.normal(size=(n, 5)), 0)
    words[:, rng.integers(5)] = 0
    y = torch.from_numpy(rng.integers(0, 2, n).astype(float))
    y[:2] = torch.tensor([0.0, 1.0])
    objective = Objective(l2=1e-3, standardize=bool(rng.integers(2)))
    thresholds.DENSE_LIMIT = 4
    found = solve(Rows(Csr.of(sp.csr_array(words)), y), objective)
    np.testing.assert_allclose(found.theta.numpy(), newton(words, y, objective), rtol=0, atol=1e-11)


@st.composite
def tables(draw):
    """Features in a sparse storage and the same written out, rows that weigh, and what is minimised."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dtype = draw(st.integers(5, 60)), draw(st.sampled_from([np.float32, np.float64]))
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    codes = np.stack([rng.integers(0, draw(st.integers(1, size)), n) for size in sizes])  # some levels are empty
    one_hot = np.column_stack([np.eye(size)[code][:, 1:] for code, size in zip(codes, sizes, strict=True)])
    unit = draw(st.sampled_from([1.0, 10.0]))
    words = np.where(rng.random((n, 5)) < 0.3, unit * rng.normal(size=(n, 5)), 0).astype(dtype)
    words[:, draw(st.integers(0, 4))] = 0  # an empty column
    kind = draw(st.sampled_from(["codes", "csr", "both"]))
    categories = Categories(torch.from_numpy(codes.astype(np.int32)).T, sizes)
    csr = Csr.of(sp.csr_array(words))
    design = {"codes": categories, "csr": csr, "both": Columns([csr, categories])}[kind]
    filled = {"codes": one_hot, "csr": words, "both": np.column_stack([words, one_hot])}[kind].astype(float)
    y = torch.from_numpy(rng.integers(0, 2, n).astype(float))
    y[:2] = torch.tensor([0.0, 1.0])
    weight = torch.from_numpy(rng.integers(0, 3, n) * 0.7) if draw(st.booleans()) else None
    if weight is not None:
        weight[:2] = 1.0
    offset = torch.from_numpy(rng.normal(size=n)) if draw(st.booleans()) else None
    factors = torch.from_numpy(rng.uniform(0.1, 3, filled.shape[1])) if draw(st.booleans()) else None
    objective = Objective(
        l1=draw(st.sampled_from([0.0, 0.01])),
        l2=draw(st.sampled_from([1e-3, 0.1])),
        standardize=draw(st.booleans()),
        penalty_factors=factors,
    )
    return design, filled, (y, weight, offset), objective, draw(st.sampled_from([4, 60]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_any_sparse_table_gives_the_numbers_of_the_dense_one(monkeypatch, drawn):
    design, filled, rest, objective, limit = drawn
    monkeypatch.setattr(thresholds, "DENSE_LIMIT", limit)
    found = solve(Rows(design, *rest), objective)
    monkeypatch.setattr(thresholds, "DENSE_LIMIT", 2048)
    expected = solve(Rows(torch.from_numpy(filled), *rest), objective)
    assert found.converged
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-12, atol=1e-15)
    # A fit ends at 1e-14 of the objective, where a flat direction leaves some coefficients eight digits.
    torch.testing.assert_close(found.theta, expected.theta, rtol=1e-8, atol=1e-8)
