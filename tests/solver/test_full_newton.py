"""Firth's penalty and bounds, by `solve()`."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.datasets import load_breast_cancer

from lr_lightning.errors import InputError
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import solve
from lr_lightning.solver.box import minimize_in_box
from tests.published import FIRTH, FLIC_INTERCEPT, TABLES


def tensors(*arrays):
    return [None if a is None else torch.as_tensor(np.asarray(a, float)) for a in arrays]


def rows_of(x, y, weight=None, offset=None):
    return Rows(*tensors(x, y, weight, offset))


def table(n=300, d=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.4) * np.array([1, 10, 0.1, 3])[:d] + np.array([0, 50, 3, 1])[:d]
    return x, (rng.random(n) < 1 / (1 + np.exp(-x[:, 0] + 0.3))).astype(float)


def modified_score(x, y, theta, v=None, offset=0.0):
    """Σ [v (y − π) + h (½ − π)] x̃, written out."""
    x = np.column_stack([x, np.ones(len(x))])
    v = np.ones(len(x)) if v is None else v
    p = 1 / (1 + np.exp(-(x @ theta + offset)))
    w = v * p * (1 - p)
    h = w * np.einsum("ij,jk,ik->i", x, np.linalg.inv(x.T * w @ x), x)
    return x.T @ (v * (y - p) + h * (0.5 - p)), np.sqrt(np.diag(x.T * w @ x))


@pytest.mark.parametrize("name", TABLES)
def test_firth_agrees_with_published_estimates(name):
    x, y, names = TABLES[name]
    solution = solve(rows_of(x, y), Objective(firth=True))
    assert solution.converged
    wanted = [FIRTH[name][column][0] for column in [*names, "(Intercept)"]]
    assert solution.theta.tolist() == pytest.approx(wanted, rel=1e-9)
    flic = solve(rows_of(x, y), Objective(firth="flic")).theta.tolist()
    assert flic == pytest.approx([*wanted[:-1], FLIC_INTERCEPT[name]], rel=1e-9)


@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_modified_score_vanishes_with_weights_and_offset(n, dtype):
    x, y = table(n)
    rng = np.random.default_rng(1)
    v, o = rng.integers(1, 4, n).astype(float), rng.normal(size=n)
    x = torch.as_tensor(x).to(dtype).double().numpy()
    rows = Rows(torch.as_tensor(x).to(dtype), *(torch.as_tensor(t).to(dtype) for t in (y, v)), torch.as_tensor(o))
    solution = solve(rows, Objective(firth=True))
    assert solution.converged
    score, unit = modified_score(x, y, solution.theta.numpy(), v, o)
    assert np.abs(score / unit).max() < (1e-7 if dtype == torch.float64 else 1e-5)


def test_weights_are_frequencies_under_firth():
    x, y = table(30)
    v = np.random.default_rng(1).integers(1, 4, 30)
    weighted = solve(rows_of(x, y, v.astype(float)), Objective(firth=True)).theta
    repeated = solve(rows_of(np.repeat(x, v, 0), np.repeat(y, v)), Objective(firth=True)).theta
    assert torch.allclose(weighted, repeated, rtol=1e-9, atol=0)
    twice = solve(rows_of(x, y, 2.0 * v), Objective(firth=True)).theta
    assert not torch.allclose(weighted, twice, rtol=1e-3, atol=0)


def test_dependent_and_constant_columns_are_left_out_of_firth():
    x, y = table(60, 2)
    plain = solve(rows_of(x, y), Objective(firth=True)).theta
    more = np.column_stack([x[:, 0], np.full(60, 7.0), x[:, 1], x[:, 0] - 2 * x[:, 1] + 3])
    theta = solve(rows_of(more, y), Objective(firth=True)).theta
    assert theta[[0, 2, 4]].tolist() == pytest.approx(plain.tolist(), rel=1e-8)
    assert theta[[1, 3]].tolist() == [0, 0]


def test_firth_without_intercept():
    x, y = table(60, 2)
    x = x - x.mean(0)
    theta = solve(rows_of(x, y), Objective(firth=True, fit_intercept=False)).theta
    p = 1 / (1 + np.exp(-x @ theta[:2].numpy()))
    w = p * (1 - p)
    h = w * np.einsum("ij,jk,ik->i", x, np.linalg.inv(x.T * w @ x), x)
    assert np.abs(x.T @ (y - p + h * (0.5 - p))).max() < 1e-7


def test_firth_of_more_coefficients_than_a_matrix_is_kept_for_is_refused():
    x = torch.eye(2100, dtype=torch.float64)
    with pytest.raises(InputError, match="2100 coefficients are more than the 2048"):
        solve(Rows(x[:, :2099], (torch.arange(2100) % 2).double()), Objective(firth=True))


@pytest.mark.parametrize("options", [{"l1": 0.1}, {"l2": 0.1}, {"bounds": torch.zeros(2, 1)}])
def test_firth_excludes_other_penalties(options):
    with pytest.raises(InputError, match="exclude each other"):
        Objective(firth=True, **options)


def objective(x, y, theta, l1=0.0, l2=0.0):
    z = x @ theta[:-1] + theta[-1]
    return np.mean(np.logaddexp(0, z) - y * z) + l1 * np.abs(theta[:-1]).sum() + l2 / 2 * (theta[:-1] ** 2).sum()


@pytest.mark.parametrize("l2", [0.0, 0.02])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounds_agree_with_scipy(l2, dtype):
    x, y = table()
    low, high = np.array([-np.inf, 0.0, -1.0, -0.05]), np.array([0.3, np.inf, -1.0, 0.05])
    rows = Rows(torch.as_tensor(x).to(dtype), torch.as_tensor(y).to(dtype))
    box = torch.as_tensor(np.stack([low, high]))
    solution = solve(rows, Objective(l2=l2, bounds=box))
    assert solution.converged
    theta = solution.theta.numpy()
    assert theta[2] == pytest.approx(-1.0, rel=1e-12)  # equal bounds fix a coefficient
    scale = np.array([1, 0.1, 10, 0.3, 1])
    found = optimize.minimize(
        lambda u: objective(x, y, u * scale, l2=l2),
        np.array([0.0, 0.0, -1.0, 0.0, 0.0]) / scale,
        method="L-BFGS-B",
        bounds=[*zip(low / scale[:4], high / scale[:4], strict=True), (None, None)],
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000},
    )
    assert objective(x, y, theta, l2=l2) <= found.fun + 1e-9
    assert theta == pytest.approx(found.x * scale, rel=2e-3, abs=1e-4)
    at_bound = np.abs(theta[:4] - np.where(np.isfinite(high), high, 0)) < 1e-12
    assert at_bound.any()


@pytest.mark.parametrize(
    ("l1", "l2", "low", "high", "expected"),
    # By glmnet's Fortran (python-glmnet 2.6.1), LogitNet(alpha, lambda_path, lower_limits, upper_limits, tol=1e-14):
    # lambda = l1 + l2, alpha its share of l1; the first five features of scikit-learn's breast cancer table, malignant
    # being positive.
    [
        (
            0.0,
            0.05,
            [0, -0.05, -math.inf, -0.001, -5],
            [0.1, 0.1, 0.01, math.inf, 5],
            [0.1, 0.1, 0.01, 0.0033726036806746274, 5, -7.517961759047042],
        ),
        (
            0.01,
            0.01,
            [0, -0.05, -math.inf, -0.001, -5],
            [0.1, 0.1, 0.01, math.inf, 5],
            [0.1, 0.1, 0.01, 0.005373289504385345, 5, -8.769136605749365],
        ),
        (
            0.01,
            0.0,
            [-math.inf, 0, -0.02, 0, -math.inf],
            [0.2, 0.15, math.inf, 0.002, 0],
            [0, 0.15, 0.13597137048849345, 0, 0, -16.05884944635744],
        ),
        (
            0.0,
            1e-9,
            [-1, 0, -math.inf, 0, -math.inf],
            [0.2, 0.15, 0.05, 0.002, math.inf],
            [0.2, 0.15, 0.05, 0.002, 80.49828097373124, -20.086298866131962],
        ),
    ],
)
def test_bounds_agree_with_the_limits_of_glmnet(l1, l2, low, high, expected):
    x, y = load_breast_cancer(return_X_y=True)
    box = torch.tensor([low, high], dtype=torch.float64)
    solution = solve(rows_of(x[:, :5], 1.0 - y), Objective(l1=l1, l2=l2, standardize=True, bounds=box))
    assert solution.converged
    assert solution.theta.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_bounds_with_l1_satisfy_the_optimality_conditions():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 12))
    y = (rng.random(200) < 1 / (1 + np.exp(-x[:, :4].sum(1)))).astype(float)
    low, high, l1 = np.full(12, -0.1), np.full(12, 0.4), 0.03
    box = torch.as_tensor(np.stack([low, high]))
    solution = solve(rows_of(x, y), Objective(l1=l1, bounds=box))
    assert solution.converged
    w, b = solution.theta[:-1].numpy(), float(solution.theta[-1])
    residual = (1 / (1 + np.exp(-(x @ w + b))) - y) / len(y)
    g = x.T @ residual
    assert abs(residual.sum()) < 1e-9
    inside = (w > low) & (w < high)
    zero, free = inside & (w == 0), inside & (w != 0)
    at_high, at_low = w >= high, w <= low
    assert zero.any()
    assert free.any()
    assert at_high.any()
    assert (np.abs(g[zero]) <= l1 + 1e-9).all()
    assert np.abs(g[free] + l1 * np.sign(w[free])).max() < 1e-9
    assert (g[at_high] + l1 <= 1e-9).all()
    assert (g[at_low] - l1 >= -1e-9).all()


def test_bounds_with_weights_and_offset_satisfy_the_optimality_conditions():
    x, y = table()
    x = (x - x.mean(0)) / x.std(0)
    rng = np.random.default_rng(1)
    v, o = rng.integers(1, 4, 300).astype(float), 2 * rng.normal(size=300)
    inf = math.inf
    box = torch.tensor([[-inf, 0.0, -inf, -inf], [0.5, inf, inf, inf]], dtype=torch.float64)
    solution = solve(rows_of(x, y, v, o), Objective(bounds=box))
    assert solution.converged
    theta = solution.theta.numpy()
    g = np.column_stack([x, np.ones(300)]).T @ (v * (1 / (1 + np.exp(-(x @ theta[:-1] + theta[-1] + o))) - y))
    assert theta[0] == pytest.approx(0.5, rel=1e-12)
    assert g[0] < 0
    assert np.abs(g[2:]).max() < 1e-6
    assert theta[1] > 0 or g[1] > 0


def test_bounds_that_do_not_bind_change_nothing():
    x, y = table()
    free = solve(rows_of(x, y), Objective()).theta
    wide = torch.tensor([[-100.0] * 4, [100.0] * 4], dtype=torch.float64)
    assert solve(rows_of(x, y), Objective(bounds=wide)).theta.tolist() == pytest.approx(free.tolist(), rel=1e-7)


def test_bounds_give_separated_classes_an_optimum_only_where_they_close_the_way():
    x, y, _ = TABLES["students"]
    closed = solve(rows_of(x, y), Objective(bounds=torch.tensor([[-math.inf], [1.0]], dtype=torch.float64)))
    assert closed.converged
    assert float(closed.theta[0]) == pytest.approx(1.0, rel=1e-12)
    open_ = solve(rows_of(x, y), Objective(bounds=torch.tensor([[0.0], [math.inf]], dtype=torch.float64)))
    assert not open_.converged
    assert "separation" in open_.status


@pytest.mark.parametrize("objective", [Objective(l2=0.1), Objective(firth=True)])
def test_the_solution_may_take_part_in_autograd(objective):
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    theta = solve(Rows(x, torch.tensor([0.0, 1.0, 0.0, 1.0])), objective).theta.requires_grad_()
    theta.square().sum().backward()
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, 2 * theta.detach())


def test_the_box_subproblem_agrees_with_enumeration():
    """Of a few coordinates every choice of bounds, zeros and signs can be tried."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        root = torch.randn(5, 3, generator=generator).double()
        matrix = root.T @ root
        g, w = torch.randn(3, generator=generator).double(), torch.zeros(3).double()
        low, high = torch.tensor([-0.3, -torch.inf, -0.2]).double(), torch.tensor([0.2, 0.1, torch.inf]).double()
        l1 = torch.tensor([0.1, 0.0, 0.3]).double()
        u = minimize_in_box(matrix, g, w, l1, low, high)

        def value(u, g=g, matrix=matrix, l1=l1):
            return float(g @ u + 0.5 * u @ matrix @ u + l1 @ u.abs())

        best = min(value(candidate) for candidate in candidates(matrix, g, l1, low, high))
        assert value(u) == pytest.approx(best, abs=1e-12)
        assert bool(((u >= low) & (u <= high)).all())


def candidates(matrix, g, l1, low, high):
    choices = [[float(e) for e in (low[j], high[j], 0.0) if math.isfinite(e)] + [-math.inf, math.inf] for j in range(3)]
    for a in choices[0]:
        for b in choices[1]:
            for c in choices[2]:
                point = torch.tensor([a, b, c]).double()
                free = point.isinf()
                sign, u = point.sign(), torch.where(free, 0.0, point)
                if free.any():
                    slope = g + l1 * torch.where(free, sign, 0.0) + matrix @ u
                    u[free] = -torch.linalg.solve(matrix[free][:, free], slope[free])
                if bool(((u >= low) & (u <= high)).all()):
                    yield u


def test_firth_of_many_columns_takes_few_passes():
    """It takes seven; without the curvature of the penalty along the last steps it would take nine."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1000, 50, generator=generator).double() @ torch.randn(50, 50, generator=generator).double()
    z = x @ torch.randn(50, generator=generator).double() / 20 - 2
    rows = rows_of(x, (torch.rand(1000, generator=generator) < torch.sigmoid(z)).double())
    solution = solve(rows, Objective(firth=True))
    assert solution.converged
    assert solution.passes <= 8


@pytest.mark.parametrize(("n", "steps"), [(50, 2), (3000, 4)])  # with the exact Hessian, and an approximation of it
def test_a_state_continues_the_same_trajectory(n, steps):
    from lr_lightning.model.standardization import Standardization
    from lr_lightning.solver.full_newton import FullNewton

    x, y = table(n)
    rows, target = rows_of(x, y), Objective(firth=True)
    moments = Standardization(rows.x.mean(0), rows.x.std(0, correction=0))

    def make():
        weight, bias = torch.zeros(4, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        problem = target.standardized(moments, Standardization.identity(4))
        identity = Standardization.identity(4)
        solver = FullNewton(
            [weight, bias], batches=[rows], standardization=moments, objective=target, penalty=problem.penalty,
            served=identity,
        )  # fmt: skip
        return solver, weight, bias

    solver, weight, bias = make()
    for _ in range(steps):
        solver.step()
    assert not solver.stopped
    state = solver.state_dict()
    again, new_weight, new_bias = make()
    again.load_state_dict(state)
    for each in (solver, again):
        while not each.stopped:
            each.step()
    assert torch.equal(weight, new_weight)
    assert torch.equal(bias, new_bias)
