"""Fits of tables with many more rows than columns: the sweeps against their definitions in float64, and whole paths."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lr_lightning import memory
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import path, regularization_path, thresholds
from lr_lightning.solver.fold_rows import FoldRows
from lr_lightning.solver.rounded_rows import RoundedColumns, RoundedRows
from tests.solver.test_regularization_path import violation


def some_rows(n: int = 400, *, shares: bool = False) -> tuple[Rows, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64) * torch.tensor([1, 2, 5, 0.1, 1]) + 2
    chance = torch.sigmoid(x[:, 0] - x[:, 1] / 2 + torch.randn(n, generator=generator, dtype=torch.float64))
    y = chance if shares else torch.bernoulli(chance, generator=generator)
    weight, offset = torch.rand(2, n, generator=generator, dtype=torch.float64)
    offset -= weight @ offset / weight.sum()  # which the intercept would take
    return Rows(x, y, weight, offset), torch.arange(n) % 3


def of_definition(rows: Rows, fold: Tensor, fits: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of losses (f,) and gradients (f, d + 1), mean Hessians, by coefficients of standardised columns."""
    v = rows.weight / rows.weight.sum()
    mean = v @ rows.x
    z = torch.cat([(rows.x - mean) / (v @ (rows.x - mean).square()).sqrt(), torch.ones(len(rows.y), 1)], 1)
    losses, gradients, hessians = [], [], []
    for fit, w in zip(fits.tolist(), u, strict=True):
        of_fit = torch.where(fold == fit - 1, 0.0, rows.weight)
        logits = z @ w + rows.offset
        p = torch.sigmoid(logits)
        losses.append(of_fit @ (torch.nn.functional.softplus(logits) - rows.y * logits))
        gradients.append(z.T @ (of_fit * (p - rows.y)))
        hessians.append((z.T * (of_fit * p * (1 - p))) @ z / of_fit.sum())
    return torch.stack(losses), torch.stack(gradients), torch.stack(hessians)


@pytest.mark.parametrize("shares", [False, True])
def test_gradients_and_their_changes_are_those_of_the_definition(shares: bool) -> None:
    rows, fold = some_rows(shares=shares)
    columns = RoundedRows(FoldRows(rows, fold, Objective())).columns(torch.tensor([0, 2, 3]))
    columns.copy()
    places, fits = torch.tensor([0, 2, 3, 5]), torch.tensor([0, 1, 2, 3, 1])
    u = torch.zeros(5, 6, dtype=torch.float64)
    u[:, places] = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses, gradients, _ = of_definition(rows, fold, fits, u)
    assert_allclose(columns.sums(fits, u[:, places]).sum(0), gradients[:, places], atol=1e-4)
    assert_allclose(columns.sums(fits, u[:, places], every=True).sum(0), gradients, atol=1e-4)
    anchor = columns.anchored(fits, u[:, places], losses=True)
    assert_allclose(anchor.sums.sum(0), gradients[:, places], atol=1e-12)
    assert_allclose(anchor.losses.sum(0), losses, rtol=1e-13)
    some, step = torch.tensor([0, 2, 4]), torch.zeros_like(u)
    step[:, places] = 1e-5
    exact = (of_definition(rows, fold, fits, u + step)[1] - gradients)[some][:, places]
    for dtype in (torch.float32, torch.float64):
        change, error = columns.changes(anchor, some, step[some][:, places], dtype)
        assert_allclose(change.sum(0), exact, atol=1e-9)  # their size is 1e-3, and float32 has seven digits of it
        assert (error > 0).all()
        assert (error < 1e-11).all()


def test_hessians_are_those_of_the_definition() -> None:
    rows, fold = some_rows()
    u = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = RoundedRows(FoldRows(rows, fold, Objective())).columns(torch.arange(5)).hessians_at(u)
    for own, point in zip(found, u, strict=True):
        assert_allclose(own, of_definition(rows, fold, torch.arange(4), point.expand(4, -1))[2], atol=1e-6)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize(("l1_ratio", "standardize", "rounds"), [(1.0, True, 16), (0.3, False, 16), (1.0, True, 1)])
def test_every_fit_is_exact(
    l1_ratio: float, standardize: bool, rounds: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one round the first blocks lack columns, or fits are left to the method of one penalty after the other.
    rows, folds = some_rows(1000, shares=shares)
    factors = torch.tensor([1, 0, 2, 0.5, 1], dtype=torch.float64)
    options = {"l1_ratio": l1_ratio, "n_lambda": 25, "standardize": standardize, "penalty_factors": factors}
    alone = path(rows, folds=folds, **options)
    solved, converged = regularization_path.solve_tall, []

    def spied(*arguments):  # pyright: ignore[reportMissingParameterType]
        for found in solved(*arguments):
            converged.append(found.converged)
            yield found

    monkeypatch.setattr(regularization_path, "solve_tall", spied)
    monkeypatch.setattr(thresholds, "LARGE_ROWS", 0)
    monkeypatch.setattr(thresholds, "STRENGTHS_A_BLOCK", 9)
    monkeypatch.setattr(thresholds, "BLOCK_ROUNDS", rounds)
    found = path(rows, folds=folds, **options)
    assert [part.shape for part in converged] == [(8, 4)] * 3
    assert torch.cat(converged).all() == (rounds > 1)
    assert found.converged.all()
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        gap = violation(rows, theta, value, l1_ratio, standardize=standardize, factors=factors)
        assert gap <= 1.01e-10 * value + 1e-14
    assert_allclose(found.theta, alone.theta, rtol=1e-6, atol=1e-9)
    assert_allclose(found.loss, alone.loss, rtol=1e-10)
    assert_allclose(found.cross_validation.fold_loss, alone.cross_validation.fold_loss, rtol=1e-9)


@pytest.mark.parametrize(("d", "least", "seed"), [(8, 0.5, 0), (60, 1.2, 1)])
def test_rows_of_few_different_values_lose_no_digits(d: int, least: float, seed: int) -> None:
    """Their terms are alike, so that errors of sums in float32 add up: they gave 2e-9 and 1.3e-10 of the penalty."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(20_000, d, dtype=torch.float64, generator=generator) > least).double()
    logits = x[:, :8] @ torch.randn(8, dtype=torch.float64, generator=generator) * 1.5
    rows = Rows(x, torch.bernoulli(torch.sigmoid(logits - logits.mean()), generator=generator))
    found = path(rows, n_lambda=40)
    for theta, value in zip(found.theta, found.lambdas.tolist(), strict=True):
        gap = violation(rows, theta, value, 1.0, standardize=True, factors=torch.ones(d, dtype=torch.float64))
        assert gap <= 1.01e-10 * value + 1e-14


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that operations of this thread make, views left out."""

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for t in found if isinstance(found, tuple | list) else [found]:
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known:
                self.n_bytes = max(self.n_bytes, t.untyped_storage().nbytes())
        return found


def bytes_of_tensors() -> int:
    storages = (t.untyped_storage() for t in gc.get_objects() if type(t) is Tensor)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_table_that_memory_has_no_room_for_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # all is done in this thread
    for name in ("GATHERED_ELEMENTS", "FOLD_BLOCK"):  # a part of the table is small beside it
        monkeypatch.setattr(thresholds, name, 2**16)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**40)
    held: list[int] = []
    hessians = RoundedColumns.hessians_at
    monkeypatch.setattr(
        RoundedColumns, "hessians_at", lambda *of: (held.append(bytes_of_tensors()), hessians(*of))[1]
    )  # where all copies are there
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80_000, 40, generator=generator)
    y = torch.bernoulli(torch.sigmoid(x[:, :5].sum(1)), generator=generator)
    options: dict[str, Any] = {"n_lambda": 12, "min_ratio": 0.01, "folds": torch.arange(len(y)) % 3}
    before, table = bytes_of_tensors(), x.numel() * x.element_size()
    copied = path(Rows(x, y), **options)
    assert max(held) - before > table
    held.clear()
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    before = bytes_of_tensors()
    with LargestTensor() as largest:
        found = path(Rows(x, y), **options)
    assert max(held) - before < 0.75 * table
    assert largest.n_bytes < table / 2
    assert torch.equal(found.theta, copied.theta)
    assert torch.equal(found.cross_validation.logits, copied.cross_validation.logits)
