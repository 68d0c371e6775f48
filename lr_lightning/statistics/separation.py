"""Complete and quasi-complete separation: proven or ruled out, never guessed from a large coefficient."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lr_lightning.solver.decompositions import singular_values
from lr_lightning.solver.separating_columns import SeparatingColumns, separating_columns
from lr_lightning.statistics.collinearity import find_collinearity
from lr_lightning.statistics.design_matrix import COMPUTED, Block, DesignMatrix
from lr_lightning.statistics.linear_programme import few_columns, largest_support, null_space
from lr_lightning.statistics.sums import Sums, sum_rows

MAX_COLUMNS = 500  # of a linear programme
_MAX_ROUNDS = 40
_NAMING_ROUNDS = 6
_FIRST_ROWS = 2000
_MORE_ROWS = 1000
_OUTSIDE = 1e-7
_CONDITION = 1e12  # of a Hessian of unit diagonal
_SURE = 20.0  # margin of a row whose loss, 2e-9, no longer matters
_NOTICEABLE = 0.01  # of a logit
_DEVIATIONS = 4.0  # of a sum of roundings


@dataclass(frozen=True)
class Separation:
    """What is known of separation.

    Attributes:
        kind: "complete", "quasi" or None.
        doubt: why `kind` is not proven: "width", there are too many columns for a linear programme; "programme", it
            gave no certain answer; "rounding", the answer depends on how the columns were rounded, and `kind` is that
            of the others alone. None if it is.
        columns: positions of the columns whose coefficients the direction moves; under complete separation, the few
            that suffice to tell the classes apart.
        free: orthonormal directions, (p, s), along which the likelihood keeps growing or does not change in the
            limit; what has no part in them has a finite estimate.
    """

    kind: Literal["complete", "quasi"] | None
    doubt: Literal["width", "programme", "rounding"] | None
    columns: np.ndarray
    free: np.ndarray


def find_separation(
    design: DesignMatrix, parameters: np.ndarray, sums: Sums, keep: np.ndarray, *, converged: bool = False
) -> Separation:
    r"""Whether a direction exists along which no row loses and some gain (Albert & Anderson 1984).

    1. If the fitted parameters themselves put every row on its right side, by more than the rounding of the
       features could, the separation is complete.
    2. With g and H the gradient and the Hessian at the parameters: along any direction the third derivative is at
       most max_i |x̃_iᵀδ| times the second (Bach 2010), so that the likelihood has a
       maximum, and there is no separation, if ‖g‖_{H⁻¹}·max_i ‖x̃_i‖_{H⁻¹} < 1. A
       converged fit passes this test, unless the features' rounding could have made up that maximum.
    3. Columns that separate some rows by themselves, such as levels that occur with one outcome only, and reference
       levels that do, are found by looking (`separating_columns`). What is left are the other rows and columns, of
       which the same is asked: where the fit is at its limit, their likelihood has a maximum.
    4. Else a linear programme on some of the rows. If they are not separated, the whole is not. If they are, its
       direction is tried on all rows; those that lose are added, until none does or there is no direction left.
       Rows that neither gain nor lose, by columns that have been rounded, may do either in the table's own digits:
       then the other columns alone can prove a separation.

    Args:
        design: the rows; swept anew where needed.
        parameters: (p,), wherever the fit ended.
        sums: at these parameters.
        keep: positions of linearly independent parameters, (q,), the intercept's included.
        converged: whether they are a maximum of the likelihood of the rows as served.
    """
    p = design.size

    def nothing(doubt: Literal["width", "programme", "rounding"] | None = None) -> Separation:
        return Separation(None, doubt, np.array([], int), np.zeros((p, 0)))

    if not len(keep):
        return nothing()
    slopes = keep[keep < len(design.columns)]
    if sums.smallest_margin > 0 and (separates(design, parameters) or _separates_alone(design, slopes).any()):
        return _complete(design, keep, _first_rows(design, parameters, sums.n_rows, keep))
    if _maximum_exists(design, parameters, sums, keep):
        return nothing()
    looks = _looks(design, slopes)
    if looks:
        return _beside(design, parameters, sums.n_rows, keep, looks, converged=converged)
    if len(keep) > MAX_COLUMNS:
        return nothing("width")
    rounded = bool(design.rounded[slopes].any())
    overlap = nothing("rounding" if rounded and design.single and converged else None)
    rows = np.unique(_first_rows(design, parameters, sums.n_rows, keep), axis=0)
    for _ in range(_MAX_ROUNDS):
        answer = largest_support(rows)
        if answer is None:
            break
        direction, gains = answer
        free = null_space(rows[~gains])
        if not gains.any() and not free.shape[1]:
            return overlap
        losing, staying, n_zero = _try_direction(design, keep, direction, free)
        if len(losing) or len(staying):
            known = len(rows)
            rows = np.unique(np.concatenate([rows, losing if len(losing) else staying]), axis=0)
            if len(rows) == known:  # the programme has heard them all
                break
            continue
        if not gains.any():
            return overlap
        if not n_zero and gains.all():
            return _complete(design, keep, rows)
        whole = np.zeros((p, free.shape[1]))
        whole[keep] = free
        moved = moved_terms(design, whole)
        moved = moved[moved < len(design.columns)]
        if not design.rounded[moved].any():
            if _hangs_on_rounding(design, parameters):  # then none of the other estimates is known either
                return Separation("quasi", "rounding", moved, np.eye(p)[:, keep])
            return Separation("quasi", None, moved, whole)
        break
    if not rounded:
        return nothing("programme")
    exact = np.setdiff1d(keep, np.flatnonzero(design.rounded))
    return replace(find_separation(design, parameters, sums, exact), doubt="rounding")


def _hangs_on_rounding(design: DesignMatrix, parameters: np.ndarray) -> bool:
    """Whether coefficients have grown so large that float32's rounding moves rows that have a loss, or may have."""
    if not design.single:
        return False
    theta = torch.from_numpy(parameters)
    for block in design.blocks():
        at = theta.to(block.x.device)
        margin = block.margins(theta)
        error = design.rounding(block) @ at[: len(design.columns)].abs()
        if bool(((margin - error < _SURE) & (error > _NOTICEABLE)).any()):
            return True
    return False


def _looks(design: DesignMatrix, slopes: np.ndarray) -> list[SeparatingColumns]:
    """The columns that separate some rows by themselves, as far as their values are those of the table."""
    candidates = np.zeros(len(design.columns), bool)
    if design.intercept:
        candidates[slopes] = ~design.rounded[slopes]
    return separating_columns(design.served_rows, torch.from_numpy(candidates)) if candidates.any() else []


def _beside(
    design: DesignMatrix,
    parameters: np.ndarray,
    n_rows: int,
    keep: np.ndarray,
    looks: list[SeparatingColumns],
    *,
    converged: bool,
) -> Separation:
    """Separation where the looks have found columns that separate; the rows that stay are asked for more of it."""
    k = len(design.columns)
    still = np.setdiff1d(keep[keep < k], np.concatenate([look.columns.numpy() for look in looks]))
    staying = design.of_rows(looks, still)
    first = next(block.x[0].cpu().numpy() for block in design.of_rows(looks, np.arange(k)).blocks() if len(block.x))
    inner = np.append(still, k)
    outer = np.setdiff1d(keep, inner)
    at = parameters[inner]
    at[-1] += first[outer] @ parameters[outer]  # they are constant there, and part of the intercept
    sums = sum_rows(staying, at)
    collinearity = find_collinearity(staying, sums.gram)
    basis = np.sort(collinearity.basis)
    found = find_separation(staying, collinearity.fold(at), sums, basis, converged=converged)
    if found.kind == "complete":
        return _complete(design, keep, _first_rows(design, parameters, n_rows, keep))
    # Directions that change no row that stays, or that the limit does not know either.
    free = np.zeros((design.size, len(outer) + len(collinearity.aliased) + found.free.shape[1]))
    free[outer, np.arange(len(outer))] = 1
    free[k, : len(outer)] = -first[outer]
    dependent = free[:, len(outer) :]
    dependent[inner[collinearity.aliased], np.arange(len(collinearity.aliased))] = 1
    dependent[inner[collinearity.basis], : len(collinearity.aliased)] = -collinearity.relation
    dependent[inner, len(collinearity.aliased) :] = found.free
    if found.doubt is not None:  # then none of the coefficients is known to be finite
        of_categories = [reference.columns.numpy() for look in looks for reference in look.references]
        moved = np.unique(np.concatenate([outer, *of_categories]))
        return Separation("quasi", found.doubt, moved, np.eye(design.size)[:, keep])
    free = np.linalg.qr(free)[0]
    moved = moved_terms(design, free)
    return Separation("quasi", None, moved[moved < k], free)


def separates(design: DesignMatrix, parameters: np.ndarray) -> bool:
    """Whether the parameters (p,) put every row on its right side, in the table's own digits too."""
    every = np.arange(design.size)
    return all(
        bool((margin > tolerance).all())
        for block in design.blocks()
        for margin, tolerance in [_margins(design, block, design.restored(block), every, parameters)]
    )


def moved_terms(design: DesignMatrix, free: np.ndarray, least: float = 1e-6) -> np.ndarray:
    """Positions of the parameters that directions (p, s) move in original units, by more than rounding would."""
    k = len(design.columns)
    original, size = np.linalg.norm(design.to_original(free), axis=1), np.linalg.norm(free, axis=1)
    if design.intercept:
        size[k] = 1 + (np.abs(design.mean) / design.scale) @ size[:k]
    size[:k] = 1 / design.scale
    return (original > least * size).nonzero()[0]


def _maximum_exists(design: DesignMatrix, parameters: np.ndarray, sums: Sums, keep: np.ndarray) -> bool:
    """The test of gradient and Hessian, for the rows as served and for those that they may have been rounded from."""
    hessian, gradient = sums.hessian[np.ix_(keep, keep)], sums.gradient[keep]
    root = np.sqrt(hessian.diagonal())
    if not (root > 0).all():
        return False
    try:
        lower = np.linalg.cholesky(hessian / root[:, None] / root)
    except np.linalg.LinAlgError:
        return False
    inverse = np.linalg.inv(lower)
    if _norm(inverse) ** 2 > _CONDITION:  # its digits cannot be trusted; each pivot's depend on the others'
        return False
    inverse = inverse / root

    def decrement(rounding: np.ndarray) -> float:
        return float(np.linalg.norm(inverse @ gradient) + np.linalg.norm(np.abs(inverse) @ rounding[keep]))

    # Σ v |y − p|² ≤ −log-likelihood, since r² ≤ −log(1 − r).
    at_most = design.gradient_rounding(-sums.log_likelihood, sums.weight, sums.gram.diagonal())
    if decrement(at_most) * sums.largest_norm * _norm(inverse) < 0.5:
        return True
    largest, squares = 0.0, np.zeros(design.size)
    theta, k = torch.from_numpy(parameters), len(design.columns)
    for block in design.blocks():
        if len(block.x):
            device = block.x.device
            scores = block.x[:, keep] @ torch.from_numpy(inverse.T).to(device)
            largest = max(largest, float(scores.square().sum(1).max()))
            wrong = block.weight * torch.sigmoid(-block.margins(theta))
            squares[:k] += (design.rounding(block) * wrong[:, None]).square().sum(0).cpu().numpy()
    # The roundings of different rows have nothing to do with each other.
    return decrement(_DEVIATIONS * np.sqrt(squares)) * math.sqrt(largest) < 0.5


def _norm(matrix: np.ndarray) -> float:
    return float(singular_values(torch.from_numpy(matrix))[0])


def _complete(design: DesignMatrix, keep: np.ndarray, rows: np.ndarray) -> Separation:
    """Complete separation, with few columns that suffice: one alone if possible."""
    k = len(design.columns)
    columns = keep[keep < k]
    whole = np.zeros((design.size, len(keep)))
    whole[keep] = np.eye(len(keep))
    alone = columns[_separates_alone(design, columns)]
    if len(alone):
        return Separation("complete", None, alone[:1], whole)
    if len(keep) <= MAX_COLUMNS:
        for _ in range(_NAMING_ROUNDS):
            direction = few_columns(rows, design.intercept)
            if direction is None:
                break
            losing, staying, n_zero = _try_direction(design, keep, direction, np.eye(len(keep)))
            if not len(losing) and not n_zero:
                few = np.abs(direction[: len(columns)]) > 1e-6 * np.abs(direction).max()
                return Separation("complete", None, columns[few], whole)
            rows = np.concatenate([rows, losing, staying])
    return Separation("complete", None, columns, whole)


def _separates_alone(design: DesignMatrix, columns: np.ndarray) -> np.ndarray:
    """Which of the columns, (c,), tell the classes apart without help from another."""
    bounds = {sign: [np.full(len(columns), math.inf), np.full(len(columns), -math.inf)] for sign in (-1, 1)}
    for block in design.blocks():
        x = design.restored(block)  # without an intercept, float32 may have put a zero on either side
        for s, (low, high) in bounds.items():
            part = x[block.sign == s][:, columns]
            if len(part):
                np.minimum(low, part.amin(0).cpu().numpy(), out=low)
                np.maximum(high, part.amax(0).cpu().numpy(), out=high)
    (low0, high0), (low1, high1) = bounds[-1], bounds[1]
    if design.intercept:
        return (high0 < low1) | (high1 < low0)
    return ((high0 < 0) & (low1 > 0)) | ((high1 < 0) & (low0 > 0))


def _first_rows(design: DesignMatrix, parameters: np.ndarray, n_rows: int, keep: np.ndarray) -> np.ndarray:
    """Signed rows (m, q) to begin with: all of a small table; else the worst classified and a random sample."""
    size = max(_FIRST_ROWS, 4 * len(keep))
    if n_rows <= 2 * size:
        return np.concatenate([_signed(design, block, slice(None), keep) for block in design.blocks()])
    generator = torch.Generator().manual_seed(0)

    worst = _Lowest(design, keep, size // 2)
    sample = _Lowest(design, keep, size // 2)
    for block in design.blocks():
        worst.add(block, block.margins(parameters))
        sample.add(block, torch.rand(len(block.x), generator=generator, dtype=torch.float64))
    return np.concatenate([worst.rows, sample.rows])


def _try_direction(
    design: DesignMatrix, keep: np.ndarray, direction: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows that lose along the direction (q,), rows that stay but move along `free` (q, s), and how many stay."""
    losing, staying = _Lowest(design, keep, _MORE_ROWS), _Lowest(design, keep, _MORE_ROWS)
    n_zero = 0
    for block in design.blocks():
        if not len(block.x):
            continue
        device = block.x.device
        directions = torch.from_numpy(free).to(device)
        x = design.restored(block)[:, keep]
        margin, tolerance = _margins(design, block, x, keep, direction)
        losing.add(block, margin, margin < -tolerance)
        zero = margin.abs() <= tolerance
        n_zero += int(zero.sum())
        moving = (x @ directions).norm(dim=1)
        staying.add(block, -moving, zero & (moving > max(_OUTSIDE, 64 * design.epsilon) * x.norm(dim=1)))
    return losing.rows, staying.rows, n_zero


def _margins(
    design: DesignMatrix, block: Block, x: Tensor, keep: np.ndarray, direction: np.ndarray
) -> tuple[Tensor, Tensor]:
    """(2y − 1)·xᵀδ of a block's restored rows x (r, q), and what of it may be rounding, each (r,)."""
    delta, slopes = torch.from_numpy(direction).to(x.device), keep[keep < len(design.columns)]
    rounding = 4 * design.rounding(block, restored=True)[:, slopes] @ delta[: len(slopes)].abs()
    return (x @ delta) * block.sign, rounding + COMPUTED * (x.abs() @ delta.abs())


class _Lowest:
    """The signed rows with the lowest scores of all that were added."""

    def __init__(self, design: DesignMatrix, keep: np.ndarray, size: int):
        self._design, self._keep, self._size = design, keep, size
        self.rows = np.zeros((0, len(keep)))
        self._scores = np.zeros(0)

    def add(self, block: Block, scores: Tensor, where: Tensor | None = None) -> None:
        candidates = torch.arange(len(block.x)) if where is None else where.nonzero()[:, 0].cpu()
        if not len(candidates):
            return
        scores = scores.cpu()[candidates]
        best = scores.topk(min(self._size, len(scores)), largest=False).indices
        rows = np.concatenate([self.rows, _signed(self._design, block, candidates[best], self._keep)])
        scored = np.concatenate([self._scores, scores[best].numpy()])
        order = np.argsort(scored, kind="stable")[: self._size]
        self.rows, self._scores = rows[order], scored[order]


def _signed(design: DesignMatrix, block: Block, chosen: slice | Tensor, keep: np.ndarray) -> np.ndarray:
    """(2y − 1)·x̃ of chosen rows of a block and the kept columns, (r, q), with the table's whole numbers restored."""
    chosen = chosen if isinstance(chosen, slice) else chosen.to(block.x.device)
    part = Block(block.x[chosen], block.sign[chosen], block.weight[chosen], block.start)
    return (design.restored(part) * part.sign[:, None])[:, keep].cpu().numpy()
