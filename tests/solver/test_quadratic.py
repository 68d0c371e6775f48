import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lr_lightning.solver.curvature import DenseCurvature
from lr_lightning.solver.quadratic import (
    mean_square_eigenvalue,
    minimize_l1,
    newton_length,
    nullity,
    smallest_pivot,
    solve_spd,
)


def positive_definite(k: int, rows: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, k, generator=generator, dtype=torch.float64)
    x = x + 0.7 * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return x.T @ x / rows, torch.randn(k, generator=generator, dtype=torch.float64), generator


def violation(matrix: Tensor, gradient: Tensor, start: Tensor, l1: Tensor, u: Tensor) -> float:
    r = gradient + matrix @ (u - start)
    return float(torch.where(u != 0, (r + l1 * u.sign()).abs(), (r.abs() - l1).clamp(min=0)).max())


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_solves_a_regular_system_of_any_scale(scale):
    matrix, rhs, _ = positive_definite(30, 100, 0)
    scales = torch.logspace(-3, 3, 30, dtype=torch.float64)
    matrix = matrix * scales * scales[:, None] * scale
    solution = solve_spd(matrix, rhs)
    assert float(((matrix @ solution - rhs) * 1 / scales).abs().max()) < 1e-8 * float((rhs / scales).abs().max())


def test_singular_system_gets_the_solution_of_least_norm():
    matrix, rhs, _ = positive_definite(4, 50, 0)
    double = torch.cat([torch.eye(4, dtype=torch.float64)] * 2)
    matrix = double @ matrix @ double.T
    rhs = double @ rhs
    expected = torch.linalg.lstsq(matrix, rhs[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(solve_spd(matrix, rhs), expected, rtol=1e-6, atol=1e-8)


def test_a_coordinate_without_curvature_stays():
    matrix, rhs, _ = positive_definite(3, 50, 0)
    matrix[1], matrix[:, 1], rhs[1] = 0, 0, 0
    solution = solve_spd(matrix, rhs)
    assert solution[1] == 0
    torch.testing.assert_close(matrix @ solution, rhs)


def test_a_matrix_that_is_not_semi_definite_gives_a_finite_step():
    rhs = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert solve_spd(torch.tensor([[1.0, 5.0], [5.0, 1.0]], dtype=torch.float64), rhs).isfinite().all()
    assert solve_spd(-torch.eye(2, dtype=torch.float64), rhs).isfinite().all()


@pytest.mark.parametrize("left", [0.11, 0.2, 0.25])
def test_length_of_a_newton_step_ends_where_the_slope_is_zero(left):
    # The slope -d + d t - left d t², which has the slope -left d at the end of the step.
    t = newton_length(3 * left, 3)
    assert 1 < t <= 2
    assert abs(-1 + t - left * t**2) < 1e-12


def test_a_newton_step_is_not_lengthened_for_little_and_not_without_end():
    assert newton_length(0.01, 1) == newton_length(-0.5, 1) == 1
    assert newton_length(0.9, 1) == 2


def test_smallest_pivot():
    assert smallest_pivot(torch.eye(3, dtype=torch.float64) * 1e-9) == pytest.approx(1)
    assert smallest_pivot(torch.tensor([[1, 0.8], [0.8, 1]], dtype=torch.float64)) == pytest.approx(0.36)
    assert smallest_pivot(torch.ones(2, 2, dtype=torch.float64)) == 0


def test_mean_square_eigenvalue():
    matrix, _, _ = positive_definite(6, 50, 0)
    scale = matrix.diagonal().rsqrt()
    eigenvalues = torch.linalg.eigvalsh(matrix * torch.outer(scale, scale))
    assert mean_square_eigenvalue(1e-6 * matrix) == pytest.approx(float(eigenvalues.square().mean()))


@pytest.mark.parametrize("zeros", [0, 1])
def test_nullity_counts_dependencies_and_no_columns_of_zeros(zeros):
    matrix, _, generator = positive_definite(4, 50, 0)
    mixing = torch.cat([torch.eye(4), torch.randn(2, 4, generator=generator), torch.zeros(zeros, 4)]).double()
    scales = torch.logspace(-4, 4, 6 + zeros, dtype=torch.float64)
    dependent = (mixing @ matrix @ mixing.T) * torch.outer(scales, scales)
    assert nullity(dependent) == len(mixing) - zeros - int(torch.linalg.matrix_rank(mixing)) == 2
    assert nullity(matrix * 1e-9) == 0


@given(
    st.integers(1, 25),
    st.integers(1, 60),
    st.floats(1e-4, 2),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=150, deadline=None)
def test_l1_conditions_hold(k, rows, strength, started, seed):
    matrix, gradient, generator = positive_definite(k, rows, seed)
    matrix.diagonal().add_(1e-3)
    start = torch.zeros(k, dtype=torch.float64)
    if started:
        start = torch.randn(k, generator=generator, dtype=torch.float64)
        start[torch.rand(k, generator=generator) < 0.5] = 0
    l1 = strength * torch.rand(k, generator=generator, dtype=torch.float64)
    l1[0] = 0
    u = minimize_l1(matrix, gradient, start, l1)
    assert violation(matrix, gradient, start, l1, u) < 1e-9 * float(gradient.abs().max() + l1.max())


@pytest.mark.parametrize("strength", [0.03, 0.3, 1.0])
def test_l1_on_a_large_correlated_model(strength):
    matrix, gradient, _ = positive_definite(300, 500, 3)
    start, l1 = torch.zeros(300, dtype=torch.float64), torch.full((300,), strength, dtype=torch.float64)
    u = minimize_l1(matrix, gradient, start, l1)
    assert violation(matrix, gradient, start, l1, u) < 1e-10
    assert 0 < int((u == 0).sum()) < 300


def test_l1_on_a_singular_model_still_descends():
    matrix, gradient, _ = positive_definite(40, 10, 5)
    gradient = matrix @ gradient
    start, l1 = torch.zeros(40, dtype=torch.float64), torch.full((40,), 1e-3, dtype=torch.float64)
    u = minimize_l1(matrix, gradient, start, l1)
    assert u.isfinite().all()
    assert violation(matrix, gradient, start, l1, u) < 1e-6


def test_a_penalty_above_all_gradients_gives_zeros():
    matrix, gradient, _ = positive_definite(5, 20, 0)
    start = torch.zeros(5, dtype=torch.float64)
    u = minimize_l1(matrix, gradient, start, 1.001 * gradient.abs().max().expand(5))
    assert torch.equal(u, start)


def test_l1_on_an_indefinite_model_stays_finite():
    matrix, gradient, _ = positive_definite(30, 100, 0)
    matrix.diagonal().sub_(0.5)
    u = minimize_l1(matrix, gradient, torch.zeros(30, dtype=torch.float64), torch.full((30,), 1e-3).double())
    assert u.isfinite().all()


def test_an_update_by_rounding_does_not_leave_the_curvature_indefinite():
    matrix = torch.ones(2, 2, dtype=torch.float64) + 1e-13 * torch.eye(2, dtype=torch.float64)
    curvature = DenseCurvature(matrix)
    s = torch.tensor([1.0, -1.0 + 1e-13], dtype=torch.float64)
    curvature.update(s, torch.tensor([1e-8, -2e-9], dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(curvature.matrix).min()) > -1e-8


def test_l1_penalties_of_unlike_size_do_not_hide_each_other():
    """As of raw features of unlike scales: a column in tiny units has a huge penalty on its standardised weight."""
    matrix, gradient, _ = positive_definite(6, 100, 0)
    l1 = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 1e14], dtype=torch.float64)
    u = minimize_l1(matrix, gradient, torch.zeros(6, dtype=torch.float64), l1)
    expected = minimize_l1(matrix[:5, :5], gradient[:5], torch.zeros(5, dtype=torch.float64), l1[:5])
    torch.testing.assert_close(u, torch.nn.functional.pad(expected, (0, 1)))
    assert violation(matrix[:5, :5], gradient[:5], torch.zeros(5, dtype=torch.float64), l1[:5], expected) < 1e-12
