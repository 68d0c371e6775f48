import math

import pytest
import torch

from lr_lightning.solver.curvature import DenseCurvature, FactoredCurvature
from tests.solver.fit import fit, make, objective, standardize
from tests.solver.test_quadratic import positive_definite

ZERO = torch.zeros(8, dtype=torch.float64)


def rows(seed=0, ratio=1.0):
    """40 rows of 8 columns, of which the last is nearly the sum of two others."""
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 7] = x[:, 0] + x[:, 1] + ratio * x[:, 7]
    return x


def test_a_well_conditioned_curvature_is_the_dense_one():
    x, l2 = rows(), torch.linspace(0, 1, 8, dtype=torch.float64)
    factored = FactoredCurvature.of_rows(x, l2)
    dense = DenseCurvature(x.T @ x + l2.diag())
    hessian, _, generator = positive_definite(8, 30, 1)
    for _ in range(3):
        torch.testing.assert_close(factored.matrix, dense.matrix)
        g, s = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(factored.step(ZERO, g, ZERO), dense.step(ZERO, g, ZERO))
        torch.testing.assert_close(factored.product(g), dense.product(g))
        torch.testing.assert_close(factored.step(ZERO, g, ZERO, ridge=0.1), dense.step(ZERO, g, ZERO, ridge=0.1))
        factored.update(s, hessian @ s)
        dense.update(s, hessian @ s)


@pytest.mark.parametrize("ratio", [1e-6, 1e-9])
def test_nearly_dependent_columns_keep_their_digits(ratio):
    x = rows(ratio=ratio)
    wanted = torch.linspace(-1, 1, 8, dtype=torch.float64)
    step = FactoredCurvature.of_rows(x, ZERO).step(ZERO, -x.T @ (x @ wanted), ZERO)
    # Not the weights, which the gradient's own rounding moves, but what they do to the rows.
    torch.testing.assert_close(x @ step, x @ wanted, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(x[:, :7] @ torch.linalg.pinv(x[:, :7]) @ x @ step, x @ step, rtol=1e-9, atol=1e-10)


def test_dependent_columns_get_the_solution_of_least_norm():
    x = rows(ratio=0.0)
    g = x.T @ torch.ones(40, dtype=torch.float64)
    step = FactoredCurvature.of_rows(x, ZERO).step(ZERO, -g, ZERO)
    length = torch.linalg.vector_norm(x, dim=0)
    expected = torch.linalg.lstsq(x / length, torch.ones(40, 1, dtype=torch.float64), driver="gelsd").solution[:, 0]
    torch.testing.assert_close(step, expected / length, rtol=1e-6, atol=1e-9)


def test_fewer_rows_than_columns_keep_a_factor_of_as_many_rows():
    """It does what the square one with rows of zeros does, at the price of its own size."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(10, 30, generator=generator, dtype=torch.float64)
    zero = torch.zeros(30, dtype=torch.float64)
    wide = FactoredCurvature.of_rows(x, zero)
    square = FactoredCurvature(torch.nn.functional.pad(wide.state()["factor"], (0, 0, 0, 20)))
    assert wide.state()["factor"].shape == (10, 30)
    for _ in range(3):
        torch.testing.assert_close(wide.matrix, square.matrix)
        s, g = torch.randn(2, 10, generator=generator, dtype=torch.float64) @ x
        torch.testing.assert_close(wide.step(zero, g, zero), square.step(zero, g, zero))
        assert wide.nullity() == square.nullity() == 20
        assert wide.noise(len(x), double=True) == square.noise(len(x), double=True)
        wide.update(s, x.T @ (x @ s) / 3)
        square.update(s, x.T @ (x @ s) / 3)
    length = torch.linalg.vector_norm(x, dim=0)
    first = FactoredCurvature.of_rows(x, zero)
    expected = torch.linalg.lstsq(x / length, torch.ones(10, 1, dtype=torch.float64), driver="gelsd").solution[:, 0]
    torch.testing.assert_close(first.step(zero, -x.sum(0), zero), expected / length)
    penalty = torch.linspace(0, 1, 30, dtype=torch.float64)
    torch.testing.assert_close(FactoredCurvature.of_rows(x, penalty).matrix, x.T @ x + penalty.diag())


def test_a_change_without_curvature_changes_nothing():
    factored = FactoredCurvature.of_rows(rows(), ZERO)
    before = factored.matrix
    s = torch.ones(8, dtype=torch.float64)
    factored.update(s, -s)
    factored.update(ZERO, ZERO)
    assert torch.equal(factored.matrix, before)


def test_resumes_on_the_same_trajectory():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30_000, 4, generator=generator, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(x.sum(1)), generator=generator)
    x = torch.cat([x, x[:, :1] + x[:, 1:2] + 1e-6 * torch.randn(30_000, 1, generator=generator).double()], 1)

    def start():
        optimizer, weight, _, closure = make(x, y, size=3_000)
        return optimizer, weight, lambda: (optimizer.step(closure), weight.detach().clone())[1]

    optimizer, _, step = start()
    step()
    state = optimizer.state_dict()
    assert "factor" in state["solver"]["curvature"]
    expected = [step() for _ in range(3)]
    again, _, step = start()
    again._curvature = DenseCurvature(torch.eye(6, dtype=torch.float64))  # whatever it has come to by itself
    again.load_state_dict(state)
    assert all(torch.equal(step(), weight) for weight in expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_powers_never_fit_worse_where_the_fit_says_that_it_has_converged(seed):
    """Directions that the rows hardly have are not left out while the gradient has a part along them."""
    generator = torch.Generator().manual_seed(seed)
    t = 1 + torch.rand(500, generator=generator, dtype=torch.float64)
    y = (torch.rand(500, generator=generator) < torch.sigmoid(3 * torch.sin(5 * t))).double()
    least = math.inf
    for degree in range(8, 15):
        x = standardize(t[:, None] ** torch.arange(1, degree + 1))
        result = fit(x, y)
        reached = objective(x, y, None, result.point)
        assert reached < least * (1 + 1e-8) or not result.optimizer.converged
        least = min(least, reached)
