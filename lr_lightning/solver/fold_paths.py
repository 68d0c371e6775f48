"""Paths of penalties that differ by fold: as where their sum, not their mean, is held."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.model.threads import on_one_thread
from lr_lightning.solver import thresholds
from lr_lightning.solver.fold_fits import FoldFits
from lr_lightning.solver.fold_ridges import fit_ridges, worth_all_at_once
from lr_lightning.solver.fold_rows import FoldRows
from lr_lightning.solver.wide_ridges import WideRidges, is_wide


@dataclass(frozen=True)
class FoldPaths:
    """Fits number 0 of all rows and f + 1 of all rows but fold f, at p strengths of each of r penalties.

    Attributes:
        theta: coefficients (r, p, K + 1, d + 1), float64, for the features as they were given, the intercept last.
        rounds: sweeps over the rows that each took, (r, p, K + 1).
        converged: whether each is the optimum, (r, p, K + 1).
    """

    theta: Tensor
    rounds: Tensor
    converged: Tensor


def have_few_coordinates(rows: Rows, l1_ratios: Sequence[float], *, penalised: bool = True) -> bool:
    """Whether there are few enough for Hessians of all folds: columns, or rows where the penalty is one of L2 alone."""
    n, d = rows.design.shape
    few_rows = n <= thresholds.DENSE_LIMIT and not rows.design.is_sparse
    return d <= thresholds.DENSE_LIMIT or (few_rows and penalised and not any(l1_ratios))


def fold_paths(
    rows: Rows,
    folds: Tensor | None,
    objective: Objective,
    *,
    l1_ratios: Sequence[float],
    strengths: Tensor,
    tolerance: float = math.inf,
    max_rounds: int = 100,
    threads: int | None = None,
) -> FoldPaths:
    """Fit all rows, and all but each fold, at strengths λ of their own.

    Args:
        rows: features (n, d) on the CPU, targets, weights v and offsets.
        folds: number of each row's fold, from 0, (n,); None for the fits of all rows alone.
        objective: says where the intercept stands, and what is penalised.
        l1_ratios: shares of L1: l1 = λ·l1_ratio and l2 = λ·(1 − l1_ratio).
        strengths: λ of each fit, falling, (p, K + 1).
        tolerance: of fits with an L2 penalty alone, see `fit_ridges`.
        max_rounds: at most so many sweeps over the rows for a fit; with 0 coefficients stay 0.
        threads: that share a sweep; None takes torch's number of them in the calling thread.
    """

    @torch.no_grad()
    def work(stopped: Callable[[], bool]) -> FoldPaths:
        fold_rows = FoldRows(rows, folds, objective)
        if any(l1_ratios) or not bool((strengths > 0).all()):
            return _fold_paths(FoldFits(fold_rows, max_rounds=max_rounds), l1_ratios, strengths, stopped)
        if is_wide(fold_rows):
            u, rounds, converged = _wide(fold_rows, strengths, max_rounds, stopped)
        elif worth_all_at_once(fold_rows, len(strengths)):
            found = fit_ridges(fold_rows, strengths, tolerance=tolerance, max_rounds=max_rounds, stopped=stopped)
            u, rounds, converged = found.u, found.rounds, found.converged
        else:
            return _fold_paths(FoldFits(fold_rows, max_rounds=max_rounds), l1_ratios, strengths, stopped)
        theta = torch.stack([fold_rows.theta(one) for one in u.flatten(0, 1)]).unflatten(0, u.shape[:2])
        return FoldPaths(*(t.expand(len(l1_ratios), *t.shape) for t in (theta, rounds, converged)))

    return on_one_thread(work, threads)


def _wide(
    rows: FoldRows, strengths: Tensor, max_rounds: int, stopped: Callable[[], bool]
) -> tuple[Tensor, Tensor, Tensor]:
    parts = []
    for part in WideRidges(rows).fits(strengths, max_rounds):
        if stopped():
            raise InterruptedError
        parts.append(part)
    u, rounds, converged = (torch.stack(t) for t in zip(*parts, strict=True))
    return u, rounds, converged


def _fold_paths(
    fits: FoldFits, l1_ratios: Sequence[float], strengths: Tensor, stopped: Callable[[], bool]
) -> FoldPaths:
    start, least = fits.fit_unpenalised(), thresholds.ALONE_VIOLATION * fits.largest_gradient
    theta, rounds, converged = [], [], []
    for ratio in l1_ratios:
        fits.move_to(start)
        for value in strengths:
            if stopped():
                raise InterruptedError
            converged.append(fits.fit(value * ratio, value * (1 - ratio), least))
            theta.append(fits.thetas())
            rounds.append(fits.rounds)
    shape = (len(l1_ratios), len(strengths))
    return FoldPaths(*(torch.stack(parts).unflatten(0, shape) for parts in (theta, rounds, converged)))
