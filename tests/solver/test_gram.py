import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lr_lightning.model.design import Dense
from lr_lightning.model.objective import logistic_hessian
from lr_lightning.solver.curvature import DenseCurvature, LimitedMemoryCurvature
from lr_lightning.solver.woodbury import GramCurvature, gram_matrix
from tests.solver.fit import Fit, check_resuming, fit, gradient, newton, objective, standardize


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n=120, d=2100):
    """Columns that ten factors make almost alone, as genes or pixels are; and labels of the first two."""
    x = standardize(normal(n, 10, seed=1) @ normal(10, d, seed=2) + 0.1 * normal(n, d, seed=3))
    return x, (x[:, :2].sum(1) / 3 + normal(n, seed=4) > 0).double()


def least(x, y, v, l2):
    """The minimum by plain Newton in the n coordinates in which it lies: the right singular vectors of x / √l2."""
    left, values, _ = torch.linalg.svd(
        x.double() / torch.as_tensor(l2, dtype=torch.float64).sqrt(), full_matrices=False
    )
    reduced = left * values
    return objective(reduced, y, v, newton(reduced, y, v, 1.0), l2=1.0)


def check(result: Fit, x, y, v, l2, *, tolerance=1e-10, passes=15, curvature: type = GramCurvature):
    assert isinstance(result.optimizer._curvature, curvature)
    assert result.optimizer.converged, result.optimizer.status
    assert result.passes <= passes
    best = least(x, y, v, l2)
    assert abs(objective(x, y, v, result.point, l2=l2) - best) <= tolerance * best


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), [(5, 3), (300, 5000), (600, 700)])
def test_gram_matrix(n, d, dtype):
    x = (normal(n, d) + normal(n, 1)).to(dtype)
    l2 = normal(d, seed=1).exp()
    x[:, 1] = l2[1] = 0
    expected = (x[:, l2 > 0].double() / l2[l2 > 0]) @ x[:, l2 > 0].double().T
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    found = gram_matrix(Dense(x), None, l2)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.max()))


def test_no_gram_matrix_where_a_column_has_no_penalty():
    x = normal(10, 20)
    l2 = torch.ones(20, dtype=torch.float64)
    l2[3] = 0
    assert gram_matrix(Dense(x), None, l2) is None
    l2[3] = 1e-18  # float64 cannot tell this from none
    assert gram_matrix(Dense(x), None, l2) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_the_step_is_newtons(intercept, dtype, small):
    n, d = 40, 150
    x, v = normal(n, d).to(dtype), normal(n, seed=1).square()
    v[:5] = 0
    l2 = small * normal(d, seed=2).exp()
    point, slope = normal(d + intercept, seed=3) / 10, normal(d + intercept, seed=4)
    weight, bias = point[:d], point[d] if intercept else None
    hessian = logistic_hessian(x, weight, bias, v) / v.sum()
    hessian.diagonal()[:d].add_(l2)

    def row_curvature(at):
        z = x.double() @ at[:d] + (at[d] if intercept else 0.0)
        return v * torch.sigmoid(z) * torch.sigmoid(-z) / v.sum()

    gram = gram_matrix(Dense(x), v, l2)
    assert gram is not None
    curvature = GramCurvature(Dense(x), l2, gram, row_curvature, torch.zeros_like(point))
    curvature.update(point, slope)
    step = curvature.step(point, slope, torch.zeros_like(point))
    expected = -torch.linalg.solve(hessian, slope)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert (step - expected).norm() < tolerance * expected.norm()


def test_a_step_without_any_curvature_is_finite():
    x, l2 = normal(20, 50), torch.ones(51, dtype=torch.float64)
    gram = gram_matrix(Dense(x), None, l2[:50])
    assert gram is not None
    curvature = GramCurvature(Dense(x), l2, gram, lambda point: torch.zeros(20), normal(51))
    slope = normal(51, seed=1)
    expected = torch.cat([-slope[:50], torch.zeros(1)])
    torch.testing.assert_close(curvature.step(normal(51), slope, torch.zeros(51)), expected)


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_correlated_columns(l2, dtype):
    x, y = correlated(300)  # more elements than are computed in float64 anyway
    x = x.to(dtype)
    result = fit(x, y.to(dtype), l2=l2)
    check(result, x, y, None, l2, tolerance=1e-12 if dtype == torch.float64 else 1e-9)


@pytest.mark.parametrize("spread", [1, 2, 4])
def test_a_penalty_on_columns_in_different_units(spread):
    x, y = correlated()
    l2 = 0.1 * 10 ** (spread * normal(2100, seed=5).clamp(-2, 2))
    check(fit(x, y, l2=l2), x, y, None, l2, passes=20)


def test_agrees_with_scikit_learn():
    x, y = correlated()
    raw = x * 10 ** normal(2100, seed=5).clamp(-2, 2)
    scale = raw.std(0, correction=0)
    reference = LogisticRegression(C=1 / (0.1 * len(x)), solver="newton-cholesky", tol=1e-10, max_iter=100)
    reference.fit(raw.numpy(), y.numpy())
    result = fit(x, y, l2=0.1 / scale.square())
    assert isinstance(result.optimizer._curvature, GramCurvature)
    torch.testing.assert_close(result.weight / scale, torch.from_numpy(reference.coef_[0]), rtol=1e-6, atol=1e-8)
    assert float(result.bias) == pytest.approx(reference.intercept_[0], rel=1e-6)


def test_weights_some_of_them_zero():
    x, y = correlated()
    v = normal(120, seed=6).mul(3).exp()
    v[::3] = 0
    check(fit(x, y, v, l2=1e-3), x, y, v, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_intercept(dtype):
    x, y = correlated(300)
    result = fit(x.to(dtype), y.to(dtype), l2=1e-3, intercept=False)
    assert result.optimizer.converged
    assert result.passes <= 10
    slope = gradient(x, y, None, torch.cat([result.weight, torch.zeros(1)]), 1e-3)[:-1]
    assert slope.norm() < (1e-8 if dtype == torch.float64 else 1e-4)


def test_a_few_rows_are_solved_before_the_first_pass():
    x, y = correlated(40)
    check(fit(x, y, l2=1e-3), x, y, None, 1e-3, passes=1)


@pytest.mark.parametrize("seed", [7, 8])
def test_steps_that_go_too_far_are_shortened(seed):
    x, y = correlated()
    result = fit(x, y, l2=1e-3, start=30 * normal(2101, seed=seed), warm_start=True)
    check(result, x, y, None, 1e-3, passes=60)
    assert any(later > before for before, later in zip(result.losses, result.losses[1:], strict=False))


def test_independent_columns_are_left_to_l_bfgs():
    x = standardize(normal(600, 2100))
    y = (x[:, :5].sum(1) + normal(600, seed=4) > 0).double()
    check(fit(x, y, l2=0.05), x, y, None, 0.05, passes=40, curvature=LimitedMemoryCurvature)


def test_an_elastic_net_on_columns_in_different_units():
    x, y = correlated()
    unit = 10 ** (2 * normal(2100, seed=5)).clamp(-4, 4)
    l1, l2 = 0.01 * unit, 0.01 * unit.square()
    result = fit(x, y, l1=l1, l2=l2)
    assert result.optimizer.converged
    assert result.passes <= 40
    # The violation of each optimality condition counts for as much as its coordinate may still move.
    violation = gradient(x, y, None, result.point, l2)[:-1]
    nonzero = result.weight != 0
    violation = torch.where(nonzero, violation + l1 * result.weight.sign(), (violation.abs() - l1).clamp(min=0))
    assert float((violation.abs() / l1).max()) < 1e-5
    assert 0 < int(nonzero.sum()) < 1000


@pytest.mark.parametrize("noise", [0.1, 10.0])
def test_fewer_rows_than_columns_below_the_limit_of_a_dense_hessian(noise):
    n, d = 500, 1000
    x = standardize(normal(n, 10, seed=1) @ normal(10, d, seed=2) + noise * normal(n, d, seed=3))
    y = (x[:, :2].sum(1) / 3 + normal(n, seed=4) > 0).double()
    check(fit(x, y, l2=1e-3), x, y, None, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fewer_rows_than_columns_without_a_penalty_are_named_as_separated(dtype):
    x = standardize(normal(300, 500)).to(dtype)
    y = (x[:, 0] + normal(300, seed=1) > 0).to(dtype)
    result = fit(x, y)
    assert isinstance(result.optimizer._curvature, DenseCurvature)
    assert "separation" in result.optimizer.status
    assert result.passes <= 30


def wide(n=8000, d=1200):
    """Columns that are nearly independent, and so many that Hessians are dear."""
    x = standardize(normal(n, d) @ (torch.eye(d) + 0.2 * torch.eye(d).roll(1, 0)).double()).float()
    return x, (x[:, :20].sum(1) / 5 + normal(n, seed=2) > 0).float()


def test_dear_hessians_are_spared_where_the_columns_are_nearly_independent():
    x, y = wide()
    result = fit(x, y, l2=1e-3)
    assert isinstance(result.optimizer._curvature, LimitedMemoryCurvature)
    assert result.optimizer.converged
    assert result.passes <= 30
    reference = LogisticRegression(C=1 / (1e-3 * len(x)), solver="newton-cholesky", tol=1e-9, max_iter=100)
    reference.fit(x.double().numpy(), y.numpy())
    best = torch.from_numpy(np.append(reference.coef_[0], reference.intercept_))
    least = objective(x, y, None, best, l2=1e-3)
    assert abs(objective(x, y, None, result.point, l2=1e-3) - least) < 1e-9 * least


@pytest.mark.parametrize("kind", ["two nearly alike", "a common factor"])
def test_and_not_where_they_are_not(kind):
    x, y = wide(6000, 1000)
    if kind == "two nearly alike":
        x[:, 7] = standardize(x[:, :1] + 0.01 * x[:, 7:8])[:, 0]
    else:
        x = standardize(x + 0.5 * normal(6000, 1, seed=1)).float()
    result = fit(x, y)
    assert isinstance(result.optimizer._curvature, DenseCurvature)
    assert result.optimizer.converged
    assert gradient(x, y, None, result.point).norm() < 1e-5


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("n", [500, 1500, 6000])
def test_resuming_continues_the_same_trajectory(n, stop):
    """By the rows' Gram matrix, a dense Hessian, and L-BFGS."""
    curvature = {500: GramCurvature, 1500: DenseCurvature, 6000: LimitedMemoryCurvature}[n]
    x, y = wide(n, 1000)
    assert isinstance(check_resuming(x, y, stop, l2=1e-3)._curvature, curvature)
