"""Paths of sparse rows whose fits share sweeps and Hessians, against the optimality conditions as defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from lr_lightning.model import swept
from lr_lightning.model.csr import Csr
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import path, thresholds
from lr_lightning.solver.fold_fits import FoldFits
from lr_lightning.solver.fold_rows import FoldRows
from lr_lightning.solver.sparse_blocks import _beyond, _OwnHessians, solve_nearby


def zipf_rows(n: int = 2000, d: int = 500, per_row: int = 10, *, slope: float = 1.0) -> Rows:
    """Rows whose columns have Zipf's frequencies, so that many are rare, with weights and offsets."""
    generator = np.random.default_rng(0)
    frequency = 1 / np.arange(1, d + 1)
    column = generator.choice(d, n * per_row, p=frequency / frequency.sum())
    ends = np.arange(0, n * per_row + 1, per_row)
    x = csr_array((generator.normal(0.5, 1, n * per_row), column, ends), shape=(n, d))
    x.sum_duplicates()
    z = slope * (x @ generator.normal(size=d)) - 1
    y = (generator.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    weight, offset = generator.uniform(0.1, 2, n), generator.normal(size=n)
    return Rows(Csr.of(x), *(torch.from_numpy(t) for t in (y, weight, offset)))


def violation(
    rows: Rows, thetas: Tensor, l1: Tensor, l2: Tensor, objective: Objective, left_out: Tensor | None = None
) -> float:
    """The largest violation of the optimality conditions of coefficients (p, d + 1), relative to the penalties."""
    x, y, v, o = (t.numpy() for t in (rows.design.dense(torch.float64), rows.y, rows.weight, rows.offset))
    v = v.copy()
    v[slice(0) if left_out is None else left_out.numpy()] = 0
    v /= v.sum()
    mean, has_intercept = v @ x, objective.fit_intercept
    variance = v @ (x - mean) ** 2
    varies = variance > 1e-20
    scale = np.sqrt(np.where(varies, variance, 1))
    factors = np.ones(len(mean)) if objective.penalty_factors is None else objective.penalty_factors.numpy()
    unit = 1 if objective.standardize else 1 / scale
    worst = 0.0
    for theta, first, second in zip(thetas.numpy(), l1.tolist(), l2.tolist(), strict=True):
        w = theta[:-1]
        residual = v * (1 / (1 + np.exp(-(o + x @ w + theta[-1]))) - y)
        slope = (residual @ x - has_intercept * residual.sum() * mean) / scale + second * factors * unit**2 * w * scale
        bound = first * factors * unit
        found = np.where((w != 0) | (bound == 0), np.abs(slope + bound * np.sign(w)), np.abs(slope) - bound)
        intercept = abs(residual.sum()) if has_intercept else 0.0
        worst = max(worst, max(found[varies].max(), intercept) / (first + second))
        assert (w[~varies] == 0).all()
    return worst


def solved(
    rows: Rows, folds: Tensor | None, objective: Objective, l1_ratio: float, least: float = 0.1, count: int = 10
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each fit its coefficients (p, d + 1) and the strengths (p,) of both penalties."""
    of_folds = FoldRows(rows, folds, objective)
    fits = FoldFits(of_folds)
    fits.fit_unpenalised()
    values = fits.strongest() / l1_ratio * torch.logspace(0, np.log10(least), count + 1, dtype=torch.float64)[1:]
    l1, l2 = values * l1_ratio, values * (1 - l1_ratio)
    u = []
    for block in solve_nearby(fits, l1, l2, 0.0):
        assert block.converged.all()
        u.append(block.u)
        fits.move_to(block.u[-1])
    thetas = torch.stack([torch.stack([of_folds.theta(one) for one in fit]) for fit in torch.cat(u).unbind(1)])
    return [(theta, l1, l2) for theta in thetas]


FACTORS = torch.ones(500, dtype=torch.float64)
FACTORS[3], FACTORS[10:20] = 0, 3


@pytest.mark.parametrize(
    ("objective", "l1_ratio"),
    [
        (Objective(), 1.0),
        (Objective(standardize=True), 1.0),
        (Objective(standardize=True, penalty_factors=FACTORS), 0.5),
        (Objective(standardize=True, fit_intercept=False), 1.0),
        (Objective(fit_intercept=False), 1.0),
    ],
)
@pytest.mark.parametrize("hessians", ["computed", "swept"])
def test_every_fit_is_exact(
    objective: Objective, l1_ratio: float, hessians: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "SWEPT_HESSIAN", np.inf if hessians == "computed" else 0)
    solve, sweeps = _OwnHessians.solve, []

    def spied(*arguments):  # pyright: ignore[reportMissingParameterType]
        sweeps.append(1)
        return solve(*arguments)

    monkeypatch.setattr(_OwnHessians, "solve", spied)
    rows, folds = zipf_rows(), torch.arange(2000) % 4
    for fit, of_fit in enumerate(solved(rows, folds, objective, l1_ratio)):
        assert violation(rows, *of_fit, objective, folds == fit - 1) <= 1.1e-10
    assert sweeps or hessians == "computed"


def test_products_with_hessians_are_those_of_the_definition() -> None:
    rows, folds = zipf_rows(300, 40), torch.arange(300) % 4
    assert rows.weight is not None
    assert rows.offset is not None
    offset = rows.offset - rows.weight @ rows.offset / rows.weight.sum()  # the intercept takes the mean
    fits = torch.tensor([0, 2, 2, 4])
    of_folds = FoldRows(rows, folds, Objective(standardize=True))
    columns = of_folds.columns(torch.arange(0, 40, 3))
    generator = torch.Generator().manual_seed(0)
    u, w = torch.randn(2, 4, 15, dtype=torch.float64, generator=generator)
    curvature = of_folds.curvature(columns, fits, u)
    mean, scale = (t[columns.index] for t in of_folds.standardization)
    z = torch.cat([(columns.design.dense(torch.float64) - mean) / scale, torch.ones(300, 1)], 1)
    of_fits = torch.where(folds == fits[:, None] - 1, 0.0, rows.weight)
    p = torch.sigmoid(u @ z.T + offset)
    hessians = torch.einsum("fn,ni,nj->fij", of_fits * p * (1 - p), z, z) / of_fits.sum(1)[:, None, None]
    products = of_folds.hessian_products(columns, fits, curvature, w)
    np.testing.assert_allclose(products, (hessians @ w[..., None])[..., 0], rtol=1e-10, atol=1e-12)
    diagonals = of_folds.hessian_diagonals(columns, fits, curvature)
    np.testing.assert_allclose(diagonals, hessians.diagonal(dim1=1, dim2=2), rtol=1e-10)


@pytest.mark.parametrize("rounds", [16, 6])
def test_fits_for_which_a_shared_hessian_does_not_do_get_their_own(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "BLOCK_ROUNDS", rounds)
    rows, folds = zipf_rows(500, 500, slope=4), torch.arange(500) % 3
    for fit, of_fit in enumerate(solved(rows, folds, Objective(), 1.0, 0.05, 10)):
        assert violation(rows, *of_fit, Objective(), folds == fit - 1) <= 1.1e-10


@pytest.mark.parametrize("checked", [3, 32])
@pytest.mark.parametrize("objective", [Objective(standardize=True), Objective(fit_intercept=False)])
def test_columns_beyond_those_in_use_are_those_of_all_gradients(
    objective: Objective, checked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "CHECKED_FITS", checked)
    rows, folds = zipf_rows(), torch.arange(2000) % 3
    assert rows.weight is not None
    rows.weight[::5] = 0
    of_folds = FoldRows(rows, folds, objective)
    generator = torch.Generator().manual_seed(0)
    columns, p = of_folds.columns(torch.arange(0, 40, 3)), 12
    ends = torch.randn(2, 4, 1, 15, generator=generator, dtype=torch.float64)
    u = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, p, dtype=torch.float64)[:, None]).flatten(0, 1)
    u += 0.3 * torch.randn(u.shape, generator=generator, dtype=torch.float64)  # not quite told by others
    of = torch.arange(4).repeat_interleave(p)
    exact = of_folds.gradients(columns, of, u, of_folds.every)
    sizes = torch.where(of_folds.l1_unit[of] > 0, exact.abs() / of_folds.l1_unit[of], 0.0)
    sizes[:, columns.index] = sizes[:, -1] = 0
    sizes.masked_fill_(of_folds.fixed[of], 0.0)
    largest = sizes.max(1).values
    for l1, expected in (
        (largest * 1.0001, torch.zeros_like(of, dtype=torch.bool)),
        (largest * torch.where(torch.arange(4 * p) % 5 == 2, 0.95, 1.2), torch.arange(4 * p) % 5 == 2),
    ):
        found = _beyond(of_folds, columns, of, u, l1, torch.zeros_like(l1), 0.0)
        assert torch.equal(found.fits, expected)
        assert torch.equal(found.columns.sort().values, (sizes > l1[:, None]).any(0).nonzero()[:, 0])
        if found.gradient is not None:
            told = found.gradient.isfinite()
            np.testing.assert_allclose(found.gradient[told], exact[p - 1, told], rtol=1e-10, atol=1e-14)
            assert (~told[:-1]).sum() <= len(columns.index)
    monkeypatch.setattr(thresholds, "TOLD_STRENGTHS", 1)  # of all
    alone = _beyond(of_folds, columns, of, u, l1, torch.zeros_like(l1), 0.0)
    assert torch.equal(alone.columns, found.columns)
    assert alone.gradient is None


def test_a_sample_of_the_rows_tells_enough_for_rough_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "PART_ROWS", 500)
    rows = zipf_rows()
    of_all = FoldRows(rows, None, Objective())
    assert of_all.drawn(500).n == 500
    ((theta, l1, l2),) = solved(rows, None, Objective(), 1.0)
    assert violation(rows, theta, l1, l2, Objective()) <= 1.1e-10


@pytest.mark.parametrize("standardize", [False, True])
def test_a_fold_that_holds_most_of_a_rare_column(standardize: bool) -> None:
    rows, folds = zipf_rows(), torch.arange(2000) % 4
    x = csr_array(rows.design.dense().numpy()).tolil()
    x[:, 400:] = 0
    x[::8, 400] = 1.0  # all in fold 0
    x[::12, 401], x[1, 401] = 1.0, 0.01  # all but one: without fold 0 a share of 2e-7 of the variance is left
    x[::4, 402], x[[1, 2, 3], 402] = 1.0, 1.0  # all but three
    rows.y[1:4], rows.y[::24] = torch.tensor([1.0, 0.0, 1.0]), 1.0
    rows = rows._replace(x=Csr.of(csr_array(x)))
    factors = torch.ones(500, dtype=torch.float64)
    factors[402], factors[400:402] = 0, 0.1  # so that they are used
    objective = Objective(standardize=standardize, penalty_factors=factors)
    for fit, of_fit in enumerate(solved(rows, folds, objective, 1.0, 0.02)):
        assert (of_fit[0][-1, 400:403] != 0).tolist() == [fit != 1, fit != 1 or standardize, True]
        assert violation(rows, *of_fit, objective, folds == fit - 1) <= 1.1e-10


@pytest.mark.parametrize("few", [1024, 0])
def test_a_path_to_nearly_separated_rows(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "FEW_ROWS_OF_BLOCKS", few)
    monkeypatch.setattr(thresholds, "LARGE_ROWS", 0)
    rows = zipf_rows(100, 200, 60, slope=4)
    assert rows.offset is not None
    offset = 0.1 * rows.offset
    # Of columns with few entries several would be the same without a fold, and the fits not unique.
    often = ((rows.design.dense() != 0).sum(0) >= 8).nonzero()[:, 0]
    assert len(often) > 100
    n = torch.arange(100)
    rows = Rows(rows.design.columns(often), rows.y, torch.ones(100, dtype=torch.float64), offset)
    found = path(rows, n_lambda=8, folds=n % 3)
    assert found.converged.all()
    assert found.cross_validation is not None
    assert found.deviance_ratio[-1] > 0.99
    assert violation(rows, found.theta, found.lambdas, 0 * found.lambdas, Objective(standardize=True)) <= 1.1e-10
    held = n % 3 == 0
    others = rows.take((~held).nonzero()[:, 0])
    own = path(others, lambdas=found.lambdas.tolist())
    assert violation(others, own.theta, own.lambdas, 0 * own.lambdas, Objective(standardize=True)) <= 1.1e-10
    z = rows.design.dense(torch.float64)[held] @ own.theta[:, :-1].T + own.theta[:, -1] + offset[held, None]
    losses = torch.nn.functional.softplus((1 - 2 * rows.y[held, None]) * z).mean(0)
    torch.testing.assert_close(found.cross_validation.fold_loss[:, 0], losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize("block", [2**18, 64])
def test_sandwich_by_pairs_of_entries(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swept, "_WORTH_FILLING", 0)
    monkeypatch.setattr(swept, "_BLOCK", block)
    generator = np.random.default_rng(0)
    filled = np.zeros((60, 90))
    for row, entries in enumerate([*range(40), *[0] * 5, *[90] * 2, *[7] * 13]):
        filled[row, generator.permutation(90)[:entries]] = generator.normal(size=entries)
    v = generator.random(60)
    for width in (90, 1):
        x = filled[:, :width]
        found = Csr.of(csr_array(x)).sandwich(torch.from_numpy(v), intercept=True).numpy()
        ones = np.c_[x, np.ones(60)]
        np.testing.assert_allclose(found, (ones * v[:, None]).T @ ones, rtol=1e-13, atol=1e-13)
