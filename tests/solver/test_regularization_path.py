"""The path and its cross-validation, against published figures, scikit-learn and the optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lr_lightning import InputError
from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import Path, path, solve
from lr_lightning.solver.fold_fits import FoldFits
from lr_lightning.solver.fold_rows import FoldRows

# Of scikit-learn's breast cancer table, y = 1 being malignant: standardised within, 60 penalties down to a thousandth,
# fold = row number modulo 10. Computed by an active-set Newton method in NumPy to a KKT residual of 4e-16;
# python-glmnet 2.6 with a tolerance of 1e-14 agrees to 2e-7.
LAMBDA_MAX = 0.3836832444776387
NONZERO = [
    0,
    2,
    2,
    2,
    2,
    3,
    3,
    2,
    2,
    2,
    3,
    3,
    4,
    4,
    4,
    4,
    4,
    4,
    4,
    5,
    5,
    6,
    7,
    7,
    7,
    7,
    8,
    8,
    8,
    8,
    9,
    9,
    10,
    10,
    10,
    10,
    10,
    11,
    12,
    13,
    13,
    13,
    15,
    16,
    17,
    16,
    16,
    17,
    16,
    17,
    16,
    15,
    16,
    16,
    18,
    19,
    19,
    20,
    21,
    22,
]
CV_MEAN = {
    0: 0.6602368644680029,
    12: 0.2558333470984021,
    30: 0.1061684792278483,
    37: 0.0884809624977376,
    47: 0.07596948747979021,
    59: 0.11719230374295875,
}
CV_SE = {
    0: 0.009631668961715538,
    12: 0.009647108414577598,
    30: 0.010388707037890264,
    37: 0.010828238744046396,
    47: 0.01397365479259671,
    59: 0.030660490439006656,
}
COEFFICIENTS = {
    12: {
        "(Intercept)": -5.534013758386456,
        "mean concave points": 1.3951139229096485,
        "worst radius": 0.17941637248757686,
        "worst texture": 0.006465276662991288,
        "worst concave points": 14.930347652274252,
    },
    37: {
        "(Intercept)": -26.87864666636958,
        "mean texture": 0.040056581745339485,
        "mean concave points": 15.210047508041688,
        "radius error": 5.414343146755108,
        "compactness error": -1.415885868392146,
        "fractal dimension error": -106.14202930961814,
        "worst radius": 0.7112506804490368,
        "worst texture": 0.1690528886505075,
        "worst smoothness": 23.680927724234476,
        "worst concavity": 2.219350567970278,
        "worst concave points": 16.763371129453574,
        "worst symmetry": 5.3395896478682525,
    },
    47: {
        "(Intercept)": -29.290731390156395,
        "mean concavity": 1.0443514161311536,
        "mean concave points": 31.674462667325244,
        "mean fractal dimension": -19.986830153978705,
        "radius error": 10.17670336106898,
        "texture error": -0.7987932585454566,
        "smoothness error": 118.48035191530934,
        "compactness error": -50.93583966591878,
        "symmetry error": -5.899671140520364,
        "fractal dimension error": -97.91980995312598,
        "worst radius": 0.24240743819234542,
        "worst texture": 0.30141861158580163,
        "worst perimeter": 0.0009149359688778602,
        "worst area": 0.006045688216082349,
        "worst smoothness": 23.155181827813326,
        "worst concavity": 5.542959898393477,
        "worst concave points": 19.731518137342718,
        "worst symmetry": 9.869951170309669,
    },
}


@pytest.fixture(scope="module")
def cancer() -> Rows:
    data = load_breast_cancer()
    return Rows(torch.from_numpy(data.data), torch.from_numpy(1.0 - data.target))


@pytest.fixture(scope="module")
def of_cancer(cancer: Rows) -> Path:
    return path(cancer, n_lambda=60, folds=torch.arange(569) % 10)


def table(n: int = 60, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Rows:
    """Rows with weights and offsets, of correlated columns in different units."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = (x @ (torch.eye(d, dtype=torch.float64) + 0.3)) * torch.logspace(-1, 2, d, dtype=torch.float64) + 3
    score = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std() + torch.randn(n, generator=generator, dtype=torch.float64)
    weight = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    offset = torch.randn(n, generator=generator, dtype=torch.float64)
    return Rows(x.to(dtype), (score > 0.3).double(), weight, offset)


def violation(
    rows: Rows, theta: Tensor, value: float, l1_ratio: float, *, standardize: bool = True, factors: Tensor | None = None
) -> float:
    """The largest violation of the optimality conditions of standardised coefficients, from their definition."""
    x = rows.design.dense(torch.float64).numpy()
    y = rows.y.double().numpy()
    v = np.ones(len(y)) if rows.weight is None else rows.weight.double().numpy()
    o = 0 if rows.offset is None else rows.offset.double().numpy()
    v = v / v.sum()
    mean = v @ x
    scale = np.sqrt(v @ (x - mean) ** 2)
    w, b = theta[:-1].numpy(), float(theta[-1])
    residual = v * (1 / (1 + np.exp(-(o + x @ w + b))) - y)
    varies = scale > 0
    z = ((x - mean) / np.where(varies, scale, 1))[:, varies]
    f = np.ones(len(w)) if factors is None else factors.numpy()
    unit = (f if standardize else f / np.where(varies, scale, 1))[varies]
    square = (f if standardize else f / np.where(varies, scale, 1) ** 2)[varies]
    u = (w * scale)[varies]
    assert (w[~varies] == 0).all()
    gradient = z.T @ residual + value * (1 - l1_ratio) * square * u
    l1 = value * l1_ratio * unit
    on = np.abs(gradient + l1 * np.sign(u))
    off = np.maximum(np.abs(gradient) - l1, 0)
    return float(max(np.where((u != 0) | (l1 == 0), on, off).max(initial=0), abs(residual.sum())))


def test_it_gives_the_reference_path(of_cancer: Path) -> None:
    assert_allclose(of_cancer.lambdas[[0, -1]], [LAMBDA_MAX, LAMBDA_MAX / 1000], rtol=1e-12)
    assert of_cancer.nonzero.tolist() == NONZERO
    assert of_cancer.converged.all()
    names = list(load_breast_cancer().feature_names)
    for number, values in COEFFICIENTS.items():
        theta = of_cancer.theta[number]
        found = {name: float(value) for name, value in zip(names, theta, strict=False) if value != 0}
        assert found.keys() | {"(Intercept)"} == values.keys()
        assert_allclose([found.get(name, float(theta[-1])) for name in values], list(values.values()), rtol=1e-6)


def test_it_gives_the_reference_cross_validation(cancer: Rows, of_cancer: Path) -> None:
    found = of_cancer.cross_validation
    assert found is not None
    assert (found.best, found.one_se) == (47, 37)
    for number in CV_MEAN:
        assert float(found.mean[number]) == pytest.approx(CV_MEAN[number], abs=1e-9)
        assert float(found.se[number]) == pytest.approx(CV_SE[number], abs=1e-9)
    for logits, number in ((found.logits, 47), (found.one_se_logits, 37)):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, cancer.y)
        assert float(loss) == pytest.approx(CV_MEAN[number], abs=1e-9)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("standardize", [True, False])
def test_every_fit_is_exact(l1_ratio: float, standardize: bool) -> None:
    rows, factors = table(), torch.tensor([1, 0, 2, 0.5, 1, 1], dtype=torch.float64)
    found = path(rows, l1_ratio=l1_ratio, n_lambda=20, standardize=standardize, penalty_factors=factors)
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        gap = violation(rows, theta, value, l1_ratio, standardize=standardize, factors=factors)
        assert gap <= 1.01e-10 * value
    assert (found.loss.diff() < 0).all()


@pytest.mark.parametrize(("n", "d"), [(60, 6), (60, 150)])
def test_a_fold_is_fitted_as_the_other_rows_would_be(n: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lr_lightning.solver.thresholds.MANY_COLUMNS", 100)  # then folds share no sweep
    rows, folds = table(n, d), torch.arange(n) % 3
    found = path(rows, l1_ratio=0.7, n_lambda=8, min_ratio=0.01, folds=folds)
    for fold in range(3):
        rest, held = rows.take(folds != fold), rows.take(folds == fold)
        alone = path(rest, l1_ratio=0.7, lambdas=found.lambdas.tolist())
        z = held.design.dense() @ alone.theta[:, :-1].T + alone.theta[:, -1] + held.offset[:, None]
        losses = torch.nn.functional.softplus((1 - 2 * held.y)[:, None] * z)
        mean = (held.weight[:, None] * losses).sum(0) / held.weight.sum()
        assert_allclose(found.cross_validation.fold_loss[:, fold], mean, rtol=1e-9)
        best = found.cross_validation.best
        assert_allclose(found.cross_validation.logits[folds == fold], z[:, best], atol=1e-7)


@pytest.mark.parametrize(
    ("n", "d", "part", "rounds", "copied"),
    [(300, 6, 10**9, 16, 10**9), (300, 6, 10, 16, 0), (300, 6, 10**9, 1, 0), (60, 90, 10**9, 16, 10**9)],
)
def test_fits_at_many_penalties_at_once_are_exact(
    n: int, d: int, part: int, rounds: int, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From a sample or all rows, by their Hessian or few rows themselves; what one round leaves is fitted alone.
    rows, folds = table(n, d), torch.arange(n) % 3
    options = {"l1_ratio": 0.7, "n_lambda": 25, "min_ratio": 0.01, "folds": folds}
    alone = path(rows, **options)
    fitted_alone = []
    fit = FoldFits.fit
    monkeypatch.setattr(FoldFits, "fit", lambda fits, *args: fitted_alone.append(1) or fit(fits, *args))
    monkeypatch.setattr("lr_lightning.solver.thresholds.LARGE_ROWS", 0)
    monkeypatch.setattr("lr_lightning.solver.thresholds.FITS_A_SWEEP", 16)
    monkeypatch.setattr("lr_lightning.solver.thresholds.COPIED_ELEMENTS", copied)  # as of a table on disk
    monkeypatch.setattr("lr_lightning.solver.thresholds.BLOCK_ROUNDS", rounds)
    monkeypatch.setattr("lr_lightning.solver.thresholds.PATH_SAMPLE_A_COLUMN", part)
    found = path(rows, **options)
    assert found.converged.all()
    assert (len(fitted_alone) < 12) == (rounds > 1)
    assert found.nonzero.tolist() == alone.nonzero.tolist()
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        assert violation(rows, theta, value, 0.7) <= 1.01e-10 * value
    assert_allclose(found.theta, alone.theta, rtol=1e-6, atol=1e-9)
    assert_allclose(found.loss, alone.loss, rtol=1e-10)
    assert_allclose(found.cross_validation.fold_loss, alone.cross_validation.fold_loss, rtol=1e-9)
    assert_allclose(found.cross_validation.logits, alone.cross_validation.logits, atol=1e-7)


def test_a_fold_is_never_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a table on disk, of whose many columns few are in use."""
    rows, folds = table(24_000, 60), torch.arange(24_000) % 3
    copied = []
    take = Dense.take

    def taken(design: Dense, part: Tensor | slice) -> Dense:
        found = take(design, part)
        if found.tensor.untyped_storage().data_ptr() != design.tensor.untyped_storage().data_ptr():
            copied.append(found.tensor.numel())
        return found

    expected = path(rows, n_lambda=10, min_ratio=0.1, folds=folds)
    monkeypatch.setattr(Dense, "take", taken)
    monkeypatch.setattr("lr_lightning.solver.fold_rows.may_copy", lambda *_: False)
    monkeypatch.setattr(FoldRows.parts, "__defaults__", (2**18,))
    found = path(rows, n_lambda=10, min_ratio=0.1, folds=folds)
    assert 0 < max(copied) <= 2**18
    assert_allclose(found.theta, expected.theta, rtol=1e-6, atol=1e-9)
    assert_allclose(found.cross_validation.logits, expected.cross_validation.logits, atol=1e-7)


def test_a_row_far_from_the_others_keeps_the_path_exact() -> None:
    rows = table(4000, 40)
    x = rows.design.dense().clone()
    x[-1] *= 1e4  # here steps by a Hessian of float32 go astray
    rows = rows._replace(x=x)
    found = path(rows, n_lambda=30)
    assert found.converged.all()
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        assert violation(rows, theta, value, 1.0) <= 1.01e-10 * value + 1e-14


def test_a_ridge_takes_few_rounds_at_each_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lr_lightning.solver.thresholds.HESSIAN_OF_EACH", 0)  # one Hessian for all fits
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 10, generator=generator, dtype=torch.float64) @ (torch.eye(10, dtype=torch.float64) + 0.3)
    y = (3 * x[:, 0] + torch.randn(3000, generator=generator, dtype=torch.float64) > 0).double()
    fits = FoldFits(FoldRows(Rows(x, y), torch.arange(3000) % 3, Objective()))
    start = fits.fit_unpenalised()
    for value in (0.3, 0.1, 0.03):
        fits.move_to(start)
        assert fits.fit(0.0, value, 1e-16).all()
        assert int(fits.rounds.max()) <= 15  # where the corrections leave the penalty out, up to 23


def test_scikit_learn_finds_the_same_ridge(cancer: Rows) -> None:
    x = (cancer.x - cancer.x.mean(0)) / cancer.x.std(0, correction=0)
    found = path(Rows(x, cancer.y), l1_ratio=0.0, n_lambda=5, standardize=False)
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        model = LogisticRegression(C=1 / (value * 569), solver="newton-cholesky", tol=1e-12).fit(x, cancer.y)
        assert_allclose(theta, np.append(model.coef_[0], model.intercept_), rtol=1e-6, atol=1e-9)


def test_the_strongest_penalty_is_the_least_that_leaves_zeros() -> None:
    for l1_ratio, seed in ((1.0, 0), (0.3, 1), (0.001, 2)):
        found = path(table(seed=seed), l1_ratio=l1_ratio, n_lambda=25, min_ratio=0.5)
        assert len(found.lambdas) == 25
        assert found.nonzero[0] == 0
        assert found.nonzero[1] > 0
    ridge, least = (path(table(), l1_ratio=ratio, n_lambda=2).lambdas[0] for ratio in (0.0, 0.001))
    assert ridge == least


def test_a_weight_counts_as_many_rows_in_fitting_and_scoring() -> None:
    rows, folds = table(), torch.arange(60) % 4
    times = torch.arange(60) % 3 + 1
    repeated = torch.arange(60).repeat_interleave(times)
    weighted = path(rows._replace(weight=times.double()), n_lambda=10, folds=folds)
    written_out = path(rows._replace(weight=None).take(repeated), n_lambda=10, folds=folds[repeated])
    assert_allclose(weighted.theta, written_out.theta, atol=1e-8)
    of_weights, of_rows = weighted.cross_validation, written_out.cross_validation
    for name in ("fold_loss", "fold_weight", "mean", "se", "best", "one_se"):
        assert_allclose(getattr(of_weights, name), getattr(of_rows, name), rtol=1e-8)
    assert_allclose(of_weights.logits[repeated], of_rows.logits, atol=1e-7)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.0])
def test_counts_of_trials_are_fitted_and_scored_as_the_single_trials(l1_ratio: float) -> None:
    rows, generator = table(), torch.Generator().manual_seed(1)
    y, weight = torch.rand(60, generator=generator, dtype=torch.float64), torch.rand(60, generator=generator).double()
    y[:20], offset = y[:20].round(), torch.randn(60, generator=generator, dtype=torch.float64)
    counts = Rows(rows.x, y, weight, offset)
    folds = torch.arange(60) % 4
    both = Rows(
        torch.cat([rows.x, rows.x]),  # type: ignore[list-item]
        torch.cat([torch.zeros(60), torch.ones(60)]).double(),
        torch.cat([weight * (1 - y), weight * y]),
        torch.cat([offset, offset]),
    )
    found = path(counts, l1_ratio=l1_ratio, n_lambda=10, folds=folds)
    expected = path(both, l1_ratio=l1_ratio, n_lambda=10, folds=torch.cat([folds, folds]))
    assert found.theta.numpy() == pytest.approx(expected.theta.numpy(), rel=1e-6, abs=1e-9)
    assert_allclose(found.cross_validation.mean, expected.cross_validation.mean, rtol=1e-8)


def test_one_se_is_never_a_weaker_penalty_and_keeps_its_ratio() -> None:
    for seed in range(3):
        rows = table(seed=seed)
        found = path(rows, l1_ratio=[0.2, 1.0], n_lambda=8, folds=torch.arange(60) % 5)
        cv = found.cross_validation
        assert found.lambdas[cv.one_se] >= found.lambdas[cv.best]
        assert found.l1_ratio[cv.one_se] == found.l1_ratio[cv.best]
        assert cv.mean[cv.one_se] <= cv.mean[cv.best] + cv.se[cv.best]
        assert found.l1_ratio.tolist() == [0.2] * 8 + [1.0] * 8
        # Each ratio's path is the one that it has alone.
        alone = path(rows, l1_ratio=1.0, n_lambda=8, folds=torch.arange(60) % 5)
        assert_allclose(found.theta[8:], alone.theta, atol=1e-7)


def test_of_equal_means_the_strongest_penalty_wins() -> None:
    # A column that says nothing: nothing is better than the strongest penalty, and all folds are alike.
    x = torch.tensor([1.0, -1.0] * 8)[:, None]
    y = torch.tensor([0.0, 0.0, 1.0, 1.0] * 4)
    found = path(Rows(x, y), lambdas=[0.3, 0.2, 0.1], folds=torch.arange(16) // 4)
    assert found.cross_validation.best == found.cross_validation.one_se == 0


def test_a_column_that_is_constant_without_a_fold_is_left_out_there() -> None:
    rows = table()._replace(offset=None)
    folds = torch.arange(60) % 3
    rows.x[:, 2] = torch.where(folds == 1, rows.x[:, 2], 5.0)
    found = path(rows, n_lambda=10, folds=folds)
    rest = rows.take(folds != 1)
    alone = path(rest, lambdas=found.lambdas.tolist())
    assert (alone.theta[:, 2] == 0).all()
    held = rows.take(folds == 1)
    z = held.x @ alone.theta[-1, :-1] + alone.theta[-1, -1]
    loss = (held.weight * torch.nn.functional.softplus((1 - 2 * held.y) * z)).sum() / held.weight.sum()
    assert float(found.cross_validation.fold_loss[-1, 1]) == pytest.approx(float(loss), rel=1e-9)


def test_a_penalty_of_zero_is_the_fit_without_one() -> None:
    rows = table()
    found = path(rows, lambdas=[0.01, 0.0])
    assert_allclose(found.theta[1], solve(rows, Objective()).theta, rtol=1e-6)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.0])
def test_one_penalty_far_down_the_path_works(cancer: Rows, of_cancer: Path, l1_ratio: float) -> None:
    value = float(of_cancer.lambdas[-1])
    found = path(cancer, l1_ratio=l1_ratio, lambdas=[value])
    assert found.converged.all()
    assert violation(cancer, found.theta[0], value, l1_ratio) <= 1.01e-10 * value


def test_rows_in_float32_are_read_as_they_are() -> None:
    rows = table(dtype=torch.float32)
    found = path(rows, n_lambda=10)
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        assert violation(rows, theta, value, 1.0) <= 1e-7 * float(found.lambdas[0])


def test_without_an_intercept() -> None:
    rows = table()._replace(offset=None, weight=None)
    x = (rows.x - rows.x.mean(0)) / rows.x.std(0, correction=0)
    found = path(Rows(x, rows.y), l1_ratio=0.0, n_lambda=3, fit_intercept=False)
    assert (found.theta[:, -1] == 0).all()
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        model = LogisticRegression(C=1 / (value * 60), fit_intercept=False, solver="newton-cholesky", tol=1e-12)
        assert_allclose(theta[:-1], model.fit(x, rows.y).coef_[0], rtol=1e-6, atol=1e-9)


def test_more_columns_than_rows() -> None:
    rows = table(n=40, d=120)
    found = path(rows, n_lambda=15, min_ratio=0.05, folds=torch.arange(40) % 4)
    assert found.converged.all()
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        assert violation(rows, theta, value, 1.0) <= 1.01e-10 * value


def test_separated_rows_stay_finite_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    found = path(Rows(x, (x[:, 0] > 0).double()), n_lambda=20, min_ratio=1e-5, folds=torch.arange(20) % 2)
    assert found.theta.isfinite().all()
    assert found.converged.all()
    assert "the classes are separated" in caplog.text


def test_a_fold_whose_other_rows_are_separated_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.arange(12, dtype=torch.float64)[:, None]
    y = (x[:, 0] > 5).double()
    y[0] = 1
    folds = torch.arange(12) // 4
    assert bool(path(Rows(x, y), lambdas=[0.01, 0.0], folds=folds).theta.isfinite().all())
    assert "from λ = 0 on a fit without one of the folds explains more than 99.9 %" in caplog.text


@pytest.mark.parametrize("l1_ratio", [1.0, 0.0])
def test_what_is_added_to_all_offsets_is_taken_off_the_intercept(l1_ratio: float) -> None:
    rows, folds = table(), torch.arange(60) % 4
    found = path(rows, l1_ratio=l1_ratio, n_lambda=5, folds=folds)
    assert rows.offset is not None
    moved = path(rows._replace(offset=rows.offset - 600), l1_ratio=l1_ratio, n_lambda=5, folds=folds)
    torch.testing.assert_close(moved.theta[:, -1] - 600, found.theta[:, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.theta[:, :-1], found.theta[:, :-1], rtol=1e-8, atol=1e-9)
    assert moved.cross_validation is not None
    assert found.cross_validation is not None
    torch.testing.assert_close(moved.cross_validation.mean, found.cross_validation.mean)
    torch.testing.assert_close(moved.cross_validation.logits, found.cross_validation.logits, rtol=1e-8, atol=1e-8)


def test_threads_do_not_change_it() -> None:
    one, two = (path(table(n=4000, d=20), n_lambda=10, threads=threads) for threads in (1, 2))
    assert torch.equal(one.theta, two.theta)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.0])
def test_storages_that_leave_zeros_out_give_the_same_path(l1_ratio: float) -> None:
    rows, folds = table(n=200), torch.arange(200) % 4
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 6, (200, 2), generator=generator, dtype=torch.int32)
    sparse = torch.where(torch.rand(200, 5, generator=generator, dtype=torch.float64) < 0.2, rows.x[:, :5], 0.0)
    x = Columns([Dense(rows.x[:, 5:]), Csr.of(csr_array(sparse.numpy())), Categories(codes, [6, 6])])
    found, dense = (
        path(rows._replace(x=storage), l1_ratio=l1_ratio, n_lambda=12, folds=folds) for storage in (x, x.dense())
    )
    assert_allclose(found.theta, dense.theta, rtol=1e-7, atol=1e-9)
    assert_allclose(found.cross_validation.mean, dense.cross_validation.mean, rtol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(6, 30), st.integers(1, 8), st.integers(0, 10**6), st.sampled_from([1.0, 0.5, 0.05, 0.0]), st.booleans()
)
def test_small_tables(n: int, d: int, seed: int, l1_ratio: float, standardize: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (n, d), generator=generator).double()
    y = torch.randint(0, 2, (n,), generator=generator).double()
    y[:2] = torch.tensor([0.0, 1.0])
    weight = torch.randint(0, 3, (n,), generator=generator).double()
    weight[:2] = 1
    rows = Rows(x, y, weight)
    try:
        found = path(rows, l1_ratio=l1_ratio, n_lambda=6, min_ratio=0.01, standardize=standardize)
    except InputError as error:
        if "no penalised column is related" not in str(error):
            raise
        return
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        gap = violation(rows, theta, value, l1_ratio, standardize=standardize)
        assert gap <= max(1.01e-10 * value, 1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_lambda": 0}, "n_lambda"),
        ({"min_ratio": 1.0}, "min_ratio"),
        ({"l1_ratio": 1.5}, "l1_ratio"),
        ({"l1_ratio": [0.5, 0.5]}, "twice"),
        ({"lambdas": [0.1, 0.2]}, "fall strictly"),
        ({"lambdas": [0.1, -0.2]}, "from 0 to"),
        ({"lambdas": []}, "from 0 to"),
        ({"penalty_factors": torch.zeros(6)}, "all are 0"),
        ({"penalty_factors": torch.ones(5)}, "6 features"),
        ({"penalty_factors": -torch.ones(6)}, "at least 0"),
        ({"folds": torch.zeros(60, dtype=torch.long)}, "at least 2 folds"),
        ({"folds": torch.arange(60) % 3 * 2}, "no rows of positive weight"),
        ({"folds": torch.zeros(59, dtype=torch.long)}, "each row"),
    ],
)
def test_what_it_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        path(table(), **options)  # pyright: ignore[reportArgumentType]


def test_rows_of_one_class_are_refused() -> None:
    rows = table()
    with pytest.raises(InputError, match="one class only"):
        path(rows._replace(y=torch.ones(60, dtype=torch.float64)))


def test_a_fold_that_holds_all_of_a_class_is_refused() -> None:
    rows = table()
    with pytest.raises(InputError, match="without fold 0 the rows hold one class only"):
        path(rows, folds=rows.y.long())


def test_more_columns_than_memory_are_refused_in_a_line() -> None:
    x = torch.randn(6, 40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = Rows(x, torch.tensor([0.0, 1.0] * 3, dtype=torch.float64))
    # A ridge of dense rows has no more coordinates than rows; sparse ones are not turned, which would fill them.
    sparse = rows._replace(x=Csr.of(csr_array(x.numpy())))
    with pytest.raises(InputError, match=r"40000 columns whose coefficients are not 0 need 36 GiB.*l1_ratio"):
        path(sparse, l1_ratio=0.0, n_lambda=2, folds=torch.tensor([0, 0, 0, 0, 1, 1]))
    assert path(rows, l1_ratio=0.0, n_lambda=2).nonzero.tolist() == [40_000] * 2
    assert int(path(rows, n_lambda=2, min_ratio=0.9).nonzero[-1]) > 0


@pytest.mark.parametrize("scale", [1000, 3000])
def test_large_offsets_leave_the_path_finite_and_exact(scale):
    generator = torch.Generator().manual_seed(0)
    x, noise, offset = (torch.randn(60, k, generator=generator, dtype=torch.float64) for k in (3, 1, 1))
    y, offset = (x[:, 0] + noise[:, 0] > 0).double(), scale * offset[:, 0]
    found = path(Rows(x, y, None, offset), n_lambda=5, folds=torch.arange(60) % 3)
    assert bool(found.converged.all())
    assert found.cross_validation is not None
    assert float(found.cross_validation.fold_loss.max()) < scale
    z = offset + found.theta[0, -1]
    assert not found.theta[0, :-1].any()
    assert abs(float((torch.sigmoid(z) - y).mean())) < 1e-10
