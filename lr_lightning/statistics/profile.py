"""Intervals and tests of the coefficients by the profile likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from lr_lightning.model.rows import Rows
from lr_lightning.solver.likelihood import Likelihood
from lr_lightning.solver.profile import Optimum, Task, optimum, profile
from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.separation import Separation, moved_terms
from lr_lightning.statistics.wald import normal_quantile

_STAYS = 1e-7  # largest length of a standardised row along the free directions, relative to its own, that is rounding
_FAR = 60.0  # standard errors at which a profile without an end has flattened
_FLAT = 0.01  # part of the wanted drop that it may have lost there
_NEAR = 0.1  # part of the wanted drop above the supremum, from which the search sets out


class Profile(NamedTuple):
    """The profile of one coefficient.

    Attributes:
        low: lower end of the interval, on the original scale; None where it does not exist or was not found.
        high: upper end.
        statistic: of the likelihood-ratio test that the coefficient is 0; None if it was not found.
        missing: ends that do not exist, among "lower" and "upper".
        failed: whether a search has failed.
    """

    low: float | None
    high: float | None
    statistic: float | None
    missing: tuple[str, ...] = ()
    failed: bool = False


def profiles(
    design: DesignMatrix,
    parameters: np.ndarray,
    keep: np.ndarray,
    *,
    n_rows: int,
    level: float,
    firth: bool = False,
    weight_scale: float = 1.0,
    separation: Separation | None = None,
    told: Callable[[int, int], None] | None = None,
) -> dict[int, Profile]:
    r"""The profile of every estimated coefficient, by its position among the parameters.

    The statistic of a value t is 2 (ℓ_max − ℓ_p(t)), ℓ_p(t) being the largest log-likelihood beside it, and with
    Firth's penalty the same of ℓ + ½ log|I|, I being that of all estimated columns. The interval's ends are where it
    reaches the quantile of χ²₁. The intercept is that on the original scale.

    Under separation ℓ_max is the supremum. Along the free directions the rows that gain lose their loss in the limit,
    so that the supremum is the maximum over the rows that stay, and so is the profile of every coefficient that no
    free direction moves. For one that is moved, the end on the side to which it grows does not exist.

    Args:
        design: the rows.
        parameters: near the maximum, (p,); under separation unused.
        keep: positions of the estimated parameters, (q,).
        n_rows: number of rows of positive weight.
        level: of the intervals.
        firth: whether the likelihood is Firth's.
        weight_scale: the number by which the weights have been divided.
        separation: what was found; None under Firth's penalty.
        told: is given the number of searches done and that of all.
    """
    functionals = torch.from_numpy(design.to_original(np.eye(design.size))[keep][:, keep])
    drop = normal_quantile(level) ** 2 / 2

    def likelihood(batches: Iterable[Rows] | None = None) -> Likelihood:
        return likelihood_of(design, keep, firth=firth, weight_scale=weight_scale, batches=batches)

    if firth or separation is None or separation.kind is None:
        whole = likelihood()
        best = optimum(whole, torch.from_numpy(parameters[keep].copy()))
        found = _of_all(whole, best, functionals, range(len(keep)), drop, n_rows, told)
        return dict(zip(keep.tolist(), found, strict=True))

    free = torch.from_numpy(separation.free[keep])
    moved = {j for j, at in enumerate(keep.tolist()) if at in set(moved_terms(design, separation.free).tolist())}
    whole, staying = likelihood(), [_staying(rows, likelihood([rows]), free) for rows in design.batches]
    still = [j for j in range(len(keep)) if j not in moved]
    start = torch.zeros(len(keep), dtype=torch.float64)
    if sum(len(rows.y) for rows in staying):
        part = likelihood(staying)
        best = optimum(part, start)
        found = dict(zip(still, _of_all(part, best, functionals, still, drop, n_rows, told), strict=True))
        supremum = best.value
    else:
        found, supremum = {}, 0.0
    near = _near_the_supremum(whole, start, supremum, drop)
    for j in sorted(moved):
        found[j] = _of_moved(whole, near, functionals[j], drop, n_rows)
    return {at: found[j] for j, at in enumerate(keep.tolist()) if j in found}


def likelihood_of(
    design: DesignMatrix,
    keep: np.ndarray,
    *,
    firth: bool,
    weight_scale: float = 1.0,
    batches: Iterable[Rows] | None = None,
) -> Likelihood:
    """The likelihood of some parameters (q,) of a design matrix, of its rows or others; see `profiles`."""
    return Likelihood(
        list(design.batches if batches is None else batches),
        design.standardization,
        intercept=design.intercept,
        firth=firth,
        weight_scale=weight_scale,
        columns=design.columns[keep[keep < len(design.columns)]],
        units=design.units,
    )


def _of_all(
    likelihood: Likelihood,
    best: Optimum,
    functionals: torch.Tensor,
    chosen: range | list[int],
    drop: float,
    n_rows: int,
    told: Callable[[int, int], None] | None,
) -> list[Profile]:
    tasks = [Task(functionals[j], side) for j in chosen for side in (-1, 1, 0)]
    if not best.converged:
        return [Profile(None, None, None, failed=True) for _ in chosen]
    ends = profile(likelihood, best, tasks, drop, n_rows=n_rows, told=told).reshape(-1, 3).tolist()
    return [
        Profile(_told(low), _told(high), _statistic(value, best.value), failed=any(map(math.isnan, (low, high, value))))
        for low, high, value in ends
    ]


def _of_moved(likelihood: Likelihood, near: Optimum, functional: torch.Tensor, drop: float, n_rows: int) -> Profile:
    """The profile of a coefficient that grows without end in one direction, or in both."""
    at, root = float(functional @ near.point), torch.linalg.pinv(near.hessian, hermitian=True)
    reach = _FAR * math.sqrt(float(functional @ root @ functional))
    tasks = [Task(functional, 0, at - reach), Task(functional, 0, at + reach), Task(functional, 0)]
    down, up, null = profile(likelihood, near, tasks, drop, n_rows=n_rows).tolist()
    grows = [value - near.value <= _FLAT * drop for value in (down, up)]
    sides = [side for side, infinite in zip((-1, 1), grows, strict=True) if not infinite]
    ends = profile(likelihood, near, [Task(functional, side) for side in sides], drop, n_rows=n_rows).tolist()
    end_of = dict(zip(sides, ends, strict=True))
    return Profile(
        _told(end_of.get(-1, math.nan)),
        _told(end_of.get(1, math.nan)),
        _statistic(null, near.value),
        tuple(name for name, infinite in zip(("lower", "upper"), grows, strict=True) if infinite),
        failed=math.isnan(null) or any(map(math.isnan, ends)),
    )


def _near_the_supremum(likelihood: Likelihood, start: torch.Tensor, supremum: float, drop: float) -> Optimum:
    """A point whose likelihood is near the supremum, from where nothing is yet flat; its value is the supremum."""
    point, t = start, 1.0
    value, gradient, hessian = likelihood.at(point)
    for _ in range(200):
        if value - supremum <= _NEAR * drop:
            break
        p = -torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd").solution[:, 0]
        candidate = likelihood.at(point + t * p)
        if candidate[0] < value:
            point, t = point + t * p, min(1.0, 2 * t)
            value, gradient, hessian = candidate
        else:
            t /= 2
    return Optimum(point, supremum, hessian, True)


def _staying(rows: Rows, likelihood: Likelihood, free: torch.Tensor) -> Rows:
    """The rows that no free direction (q, s) moves."""
    moves = likelihood.changes(free).square().sum(1).sqrt()
    scale = likelihood.row_lengths()
    return rows.take((moves <= _STAYS * scale).nonzero()[:, 0])


def _told(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _statistic(value: float, least: float) -> float | None:
    return max(0.0, 2 * (value - least)) if math.isfinite(value) else None
