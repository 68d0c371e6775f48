"""Linear programmes over the signed rows A = (2y − 1)·x̃, for directions β with A β ≥ 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lr_lightning.solver.decompositions import svd

_LARGEST = 1e6  # bound of the components of a direction whose smallest margin is 1
_RANK = 1e-9  # relative to the largest singular value, for the null space
_DIGITS = 1e-12  # relative to the largest singular value, below which one counts as rounding
_GAIN = 1e-5  # least gain of a row whose largest entry is 1; rows below it are in the next programme
_MOST_TO_SPARE = 40  # largest number of columns that are left out one by one,
_CHEAP = 60_000  # and largest number of elements of A for it
_DEAR = 250_000  # largest number of elements of A for which few columns are searched
_TOLERANCES = (1e-7, 1e-9)  # of feasibility; HiGHS sometimes fails at one and not at the other
_SECONDS = 30.0  # time limit of a programme


def largest_support(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A direction β with A β ≥ 0 for which as many rows as possible gain, that is aᵢᵀβ > 0.

    Konis's programme (2007) maximises Σ aᵢᵀβ subject to aᵢᵀβ ≥ 0 in a box. Its solution may miss rows that could gain
    as well. So it is solved again for the rows that have not gained, in coordinates that suit these. The rows that
    have gained need no constraint, because a large multiple of the previous direction keeps them positive.

    Args:
        rows: A, (m, p), float64.

    Returns:
        The direction (p,), zero if the classes overlap, and which rows gain, boolean (m,). None if HiGHS found no
        solution within its tolerances.
    """
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    for tolerance in _TOLERANCES:
        answer = _support(unique, tolerance)
        if answer is not None:
            direction, gains = answer
            return direction, gains[inverse.reshape(-1)]
    return None


def _support(unique: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """`largest_support` of distinct rows, at one tolerance of HiGHS."""
    left = np.flatnonzero(unique.any(axis=1))
    gains = np.zeros(len(unique), bool)
    while len(left):
        part = _scaled(unique[left] @ _coordinates(unique[left]))
        solution = _solve(-part.mean(0), -part, np.zeros(len(left)), [(-1.0, 1.0)] * part.shape[1], tolerance)
        if solution is None:
            return None
        up = part @ solution > _GAIN
        if not up.any():
            break
        gains[left[up]] = True
        left = left[~up]
    if not gains.any():
        return np.zeros(unique.shape[1]), gains
    # One direction along which all of them gain, with the smallest gain as large as possible against rounding.
    basis = null_space(unique[~gains])
    within = unique[gains] @ basis
    if not within.any(axis=1).all():  # rounding: no direction in float64 leaves the others unchanged
        return None
    basis = basis @ _coordinates(within)
    within = _scaled(unique[gains] @ basis)
    evenly = _solve(
        np.r_[np.zeros(basis.shape[1]), -1.0],
        np.column_stack([-within, np.ones(len(within))]),
        np.zeros(len(within)),
        [(-1.0, 1.0)] * basis.shape[1] + [(0.0, None)],
        tolerance,
    )
    if evenly is None:
        return None
    direction = basis @ evenly[:-1]
    if not (unique[gains] @ direction > 0).all():
        return None
    return direction, gains


def few_columns(rows: np.ndarray, intercept: bool) -> np.ndarray | None:
    """A direction β, (p,), with A β ≥ 1 and few non-zero components; None if there is none, or A is too large.

    The columns are ranked by the direction of least L1 norm. Bisection finds the smallest number of leading columns
    that separate. Then columns that are not needed are left out one by one.

    Args:
        rows: A, (m, p), float64.
        intercept: whether the last column is the intercept, which does not count.
    """
    if rows.size > _DEAR:
        return None
    p = rows.shape[1]
    direction = _least_norm(rows, np.arange(p), intercept)
    if direction is None:
        return None
    n_columns = p - intercept
    ranked = np.argsort(-np.abs(direction[:n_columns]), kind="stable")
    last = np.arange(n_columns, p)

    def separates(columns: np.ndarray) -> bool:
        nonlocal direction
        found = _least_norm(rows, np.append(columns, last), intercept)
        direction = direction if found is None else found
        return found is not None

    few, enough = 0, n_columns
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if separates(ranked[:middle]) else (middle, enough)
    columns = ranked[:enough]
    if len(columns) <= _MOST_TO_SPARE and rows.size <= _CHEAP:
        for column in columns[::-1]:
            rest = columns[columns != column]
            if len(rest) and separates(rest):
                columns = rest
    return direction


def _least_norm(rows: np.ndarray, columns: np.ndarray, intercept: bool) -> np.ndarray | None:
    """The β of least L1 norm with A β ≥ 1 that is 0 outside of `columns`, (p,); None if there is none."""
    part = rows[:, columns]
    q = len(columns)
    cost = np.ones(2 * q)
    if intercept:
        cost[[q - 1, 2 * q - 1]] = 0.0
    solution = _solve(cost, np.hstack([-part, part]), -np.ones(len(rows)), [(0.0, _LARGEST)] * (2 * q), _TOLERANCES[0])
    if solution is None:
        return None
    direction = np.zeros(rows.shape[1])
    direction[columns] = solution[:q] - solution[q:]
    return direction


def null_space(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis (p, q) of the null space of rows (m, p)."""
    rows = _scaled(rows[rows.any(axis=1)])
    if not len(rows):
        return np.eye(rows.shape[1])
    upper = np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows
    _, values, vectors = (part.numpy() for part in svd(torch.from_numpy(upper)))
    rank = int((values > _RANK * max(values[0], math.sqrt(np.finfo(float).tiny))).sum())
    return vectors[rank:].T


def _coordinates(rows: np.ndarray) -> np.ndarray:
    """The map T, (p, r), of rank r, for which the columns of rows (m, p) @ T are orthogonal with length √m.

    In these coordinates the tolerances of HiGHS do not depend on the scales and correlations of the columns.
    """
    upper = np.linalg.qr(_scaled(rows), mode="r") if len(rows) > rows.shape[1] else _scaled(rows)
    _, values, vectors = (part.numpy() for part in svd(torch.from_numpy(upper), full_matrices=False))
    kept = values > _DIGITS * values[0]
    return vectors[kept].T * (math.sqrt(len(rows)) / values[kept])


def _scaled(rows: np.ndarray) -> np.ndarray:
    """Rows (m, p), none of them zero, divided by their largest absolute entry, which keeps the signs of A β."""
    return rows / np.abs(rows).max(1, keepdims=True)


def _solve(
    cost: np.ndarray, constraints: Any, limits: np.ndarray, bounds: list[tuple[float, float | None]], tolerance: float
) -> Any:
    from scipy.optimize import linprog

    options = {
        "primal_feasibility_tolerance": tolerance,
        "dual_feasibility_tolerance": tolerance,
        "time_limit": _SECONDS,
    }
    result = linprog(cost, A_ub=constraints, b_ub=limits, bounds=bounds, method="highs", options=options)
    return result.x if result.status == 0 else None
