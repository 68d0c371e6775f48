"""Complete and quasi-complete separation, proven or ruled out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lr_lightning.model.design import Dense
from lr_lightning.solver.decompositions import singular_values
from lr_lightning.solver.separating_columns import SeparatingColumns, separating_columns
from lr_lightning.statistics.collinearity import find_collinearity
from lr_lightning.statistics.design_matrix import COMPUTED, Block, DesignMatrix
from lr_lightning.statistics.linear_programme import few_columns, largest_support, null_space
from lr_lightning.statistics.sums import Sums, sum_rows

MAX_COLUMNS = 500  # largest number of parameters of a linear programme
_MAX_ROUNDS = 40  # linear programmes, each with more rows than the one before
_NAMING_ROUNDS = 6  # attempts to find few separating columns
_FIRST_ROWS = 2000  # in the first linear programme
_MORE_ROWS = 1000  # that are added to the next one
_OUTSIDE = 1e-7  # share of a row outside of a subspace, above which it is not in it
_CONDITION = 1e12  # largest norm of the inverse of a Hessian of unit diagonal
_SURE = 20.0  # margin above which the loss of a row, 2e-9, is negligible
_NOTICEABLE = 0.01  # error of a logit that is not negligible
_SMALL = 500  # size of a matrix whose singular values cost nothing to speak of
_DEVIATIONS = 4.0  # standard deviations of a sum of rounding errors that count as its bound


@dataclass(frozen=True)
class Separation:
    """The result of `find_separation`.

    Attributes:
        kind: "complete", "quasi" or None.
        doubt: None if `kind` is proven. "width": there are too many columns for a linear programme. "programme": the
            linear programme was not solved. "rounding": the answer depends on the rounding of some columns, and `kind`
            is that of the other columns.
        columns: positions of the columns without a finite coefficient; under complete separation, of a few columns
            that separate the classes.
        free: orthonormal directions, (p, s), in which the likelihood has no unique maximum. A parameter that is zero
            in all of them has a finite estimate.
    """

    kind: Literal["complete", "quasi"] | None
    doubt: Literal["width", "programme", "rounding"] | None
    columns: np.ndarray
    free: np.ndarray


def find_separation(
    design: DesignMatrix, parameters: np.ndarray, sums: Sums, keep: np.ndarray, *, converged: bool = False
) -> Separation:
    r"""Find out whether the classes are separated (Albert & Anderson 1984).

    They are separated if there is a direction δ along which no row loses, (2y − 1)·x̃ᵀδ ≥ 0, and some gain, > 0. The
    separation is complete if all rows gain, otherwise quasi-complete.

    1. If the fitted parameters themselves are such a direction, by more than the rounding of the features, the
       separation is complete. The rows' offsets have no part in it: no direction changes them.
    2. Let g and H be the gradient and the Hessian at the parameters. Along any direction δ the third derivative is at
       most max_i |x̃_iᵀδ| times the second (Bach 2010). So the likelihood has a maximum, and there is no separation,
       if ‖g‖_{H⁻¹}·max_i ‖x̃_i‖_{H⁻¹} < 1. A converged fit passes this test, unless the maximum may be due to the
       rounding of the features.
    3. `separating_columns` finds columns that separate some rows by themselves, such as levels that occur with one
       outcome only. The remaining rows and columns are then examined in the same way.
    4. Otherwise a linear programme finds a direction for some of the rows. If there is none, the classes overlap. If
       there is one, it is tried on all rows. The rows that lose are added to the programme, until no row loses or
       there is no direction. If a row is on the boundary and the columns are rounded, it may gain or lose in the
       table; then only columns that are not rounded can prove a separation.

    Args:
        design: the rows, with targets 0 and 1; they are swept again in the steps that need it.
        parameters: the parameters at the end of the fit, (p,).
        sums: the sums over the rows at the parameters.
        keep: positions of linearly independent parameters, (q,), with the intercept.
        converged: whether the parameters are a maximum of the likelihood of the rows as served.
    """
    p = design.size

    def nothing(doubt: Literal["width", "programme", "rounding"] | None = None) -> Separation:
        return Separation(None, doubt, np.array([], int), np.zeros((p, 0)))

    if not len(keep):
        return nothing()
    slopes = keep[keep < len(design.columns)]
    if sums.smallest_gain > 0 and (separates(design, parameters) or _separates_alone(design, slopes).any()):
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
            if len(rows) == known:  # the programme has these rows already
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
            if _hangs_on_rounding(design, parameters):  # no estimate is certain then
                return Separation("quasi", "rounding", moved, np.eye(p)[:, keep])
            return Separation("quasi", None, moved, whole)
        break
    if not rounded:
        return nothing("programme")
    exact = np.setdiff1d(keep, np.flatnonzero(design.rounded))
    return replace(find_separation(design, parameters, sums, exact), doubt="rounding")


def _hangs_on_rounding(design: DesignMatrix, parameters: np.ndarray) -> bool:
    """Whether the rounding of float32 changes the logit of a row noticeably whose loss is not negligible."""
    if not design.single:
        return False
    theta = torch.from_numpy(parameters)

    def hangs(block: Block) -> bool:
        at = theta.to(block.x.device)
        margin = block.logits(theta) * block.sign
        error = design.rounding(block) @ at[: len(design.columns)].abs()
        return bool(((margin - error < _SURE) & (error > _NOTICEABLE)).any())

    return design.processes.any(any(map(hangs, design.blocks())))


def _looks(design: DesignMatrix, slopes: np.ndarray) -> list[SeparatingColumns]:
    """The separating columns among those whose values are not rounded."""
    candidates = np.zeros(len(design.columns), bool)
    if design.intercept:
        candidates[slopes] = ~design.rounded[slopes]
    if not candidates.any():
        return []
    return separating_columns(design.served_rows, torch.from_numpy(candidates), design.processes)


def _beside(
    design: DesignMatrix,
    parameters: np.ndarray,
    n_rows: int,
    keep: np.ndarray,
    looks: list[SeparatingColumns],
    *,
    converged: bool,
) -> Separation:
    """The separation if the looks have found separating columns; it examines the remaining rows and columns."""
    k = len(design.columns)
    still = np.setdiff1d(keep[keep < k], np.concatenate([look.columns.numpy() for look in looks]))
    staying = design.of_rows(looks, still)
    firsts = (block.x[:1].cpu() for block in design.of_rows(looks, np.arange(k)).blocks() if len(block.x))
    own = next(firsts, torch.zeros(0, design.size, dtype=torch.float64))
    first = design.processes.joined(own)[0].numpy()
    inner = np.append(still, k)
    outer = np.setdiff1d(keep, inner)
    at = parameters[inner]
    at[-1] += first[outer] @ parameters[outer]  # the outer columns are constant there, and part of the intercept
    sums = sum_rows(staying, at)
    collinearity = find_collinearity(staying, sums.gram)
    basis = np.sort(collinearity.basis)
    found = find_separation(staying, collinearity.fold(at), sums, basis, converged=converged)
    if found.kind == "complete":
        return _complete(design, keep, _first_rows(design, parameters, n_rows, keep))
    # Directions that change none of the remaining rows, and those that are free among the remaining columns.
    free = np.zeros((design.size, len(outer) + len(collinearity.aliased) + found.free.shape[1]))
    free[outer, np.arange(len(outer))] = 1
    free[k, : len(outer)] = -first[outer]
    dependent = free[:, len(outer) :]
    dependent[inner[collinearity.aliased], np.arange(len(collinearity.aliased))] = 1
    dependent[inner[collinearity.basis], : len(collinearity.aliased)] = -collinearity.relation
    dependent[inner, len(collinearity.aliased) :] = found.free
    if found.doubt is not None:  # no coefficient is certain to be finite then
        moved = np.unique(np.concatenate([outer, *(look.moving().numpy() for look in looks)]))
        return Separation("quasi", found.doubt, moved, np.eye(design.size)[:, keep])
    rows = np.flatnonzero(np.abs(free).max(1, initial=0))
    free[rows] = np.linalg.qr(free[rows])[0]
    moved = moved_terms(design, free)
    return Separation("quasi", None, moved[moved < k], free)


def separates(design: DesignMatrix, parameters: np.ndarray) -> bool:
    """Whether every row gains along the parameters (p,), by more than the rounding of the features."""
    every = np.arange(design.size)
    design.settle()
    return design.processes.all(
        all(
            bool((margin > tolerance).all())
            for block in design.blocks()
            for margin, tolerance in [_margins(design, block, design.restored(block), every, parameters)]
        )
    )


def without_end(design: DesignMatrix) -> np.ndarray:
    """Positions of the columns that separate some rows by themselves, and of the levels whose reference does.

    It needs neither a matrix of all columns nor a linear programme; see `separating_columns`.
    """
    if not design.intercept:
        return np.array([], int)
    candidates = torch.ones(len(design.columns), dtype=torch.bool)
    looks = separating_columns(design.served_rows, candidates, design.processes)
    return np.unique(np.concatenate([np.array([], int), *(look.moving().numpy() for look in looks)]))


def moved_terms(design: DesignMatrix, free: np.ndarray, least: float = 1e-6) -> np.ndarray:
    """Positions of the parameters that directions (p, s) change in original units, by more than rounding."""
    k = len(design.columns)
    original, size = np.linalg.norm(design.to_original(free), axis=1), np.linalg.norm(free, axis=1)
    if design.intercept:
        size[k] = 1 + (np.abs(design.mean) / design.scale) @ size[:k]
    size[:k] = 1 / design.scale
    return (original > least * size).nonzero()[0]


def _maximum_exists(design: DesignMatrix, parameters: np.ndarray, sums: Sums, keep: np.ndarray) -> bool:
    """Whether the gradient and the Hessian prove a maximum, whatever the rounding of the features."""
    root, gradient = sums.inverse_root(keep), sums.gradient[keep]
    if root is None or _norm(root.scaled.numpy()) ** 2 > _CONDITION:  # the Hessian is ill-conditioned
        return False
    inverse = root.factor.T.numpy()

    def decrement(rounding: np.ndarray) -> float:
        return float(np.linalg.norm(inverse @ gradient) + np.linalg.norm(np.abs(inverse) @ rounding[keep]))

    # Σ v |y − π|² ≤ −log-likelihood, since r² ≤ −log(1 − r).
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
            wrong = block.weight * block.residuals(block.logits(theta)).abs()
            squares[:k] += (design.rounding(block) * wrong[:, None]).square().sum(0).cpu().numpy()
    largest, (squares,) = design.processes.most(largest), design.processes.sums(squares)
    # The rounding errors of different rows are independent.
    return decrement(_DEVIATIONS * np.sqrt(squares)) * math.sqrt(largest) < 0.5


def _norm(matrix: np.ndarray) -> float:
    """The largest singular value of a lower triangular matrix."""
    if len(matrix) <= _SMALL:
        return float(singular_values(torch.from_numpy(matrix))[0])
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    make: Any = LinearOperator
    square = make(matrix.shape, matvec=lambda v: matrix.T @ (matrix @ v), dtype=np.float64)
    try:  # products with the matrix cost a hundredth of its decomposition
        value = eigsh(square, 1, v0=np.ones(len(matrix)), return_eigenvectors=False)[0]
    except ArpackError:
        return float(singular_values(torch.from_numpy(matrix))[0])
    return math.sqrt(value)


def _complete(design: DesignMatrix, keep: np.ndarray, rows: np.ndarray) -> Separation:
    """Complete separation, with the names of few columns that separate the classes, a single one if possible."""
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
    """Whether each of the columns, (c,), separates the classes completely by itself, boolean (c,)."""
    bounds = {sign: [np.full(len(columns), math.inf), np.full(len(columns), -math.inf)] for sign in (-1, 1)}
    design.settle()
    for block in design.blocks():
        x = design.restored(block)  # without an intercept, rounding to float32 can change the sign of a zero
        for s, (low, high) in bounds.items():
            part = x[block.sign == s][:, columns]
            if len(part):
                np.minimum(low, part.amin(0).cpu().numpy(), out=low)
                np.maximum(high, part.amax(0).cpu().numpy(), out=high)
    of_all = design.processes
    (low0, high0), (low1, high1) = ((of_all.least(low), of_all.most(high)) for low, high in bounds.values())
    if design.intercept:
        return (high0 < low1) | (high1 < low0)
    return ((high0 < 0) & (low1 > 0)) | ((high1 < 0) & (low0 > 0))


def _first_rows(design: DesignMatrix, parameters: np.ndarray, n_rows: int, keep: np.ndarray) -> np.ndarray:
    """The signed rows (m, q) of the first linear programme: all, or else those of lowest margin and a sample."""
    size = max(_FIRST_ROWS, 4 * len(keep))
    design.settle()
    if n_rows <= 2 * size:
        parts = [np.zeros((0, len(keep))), *(_signed(design, block, slice(None), keep) for block in design.blocks())]
        return design.processes.joined(torch.from_numpy(np.concatenate(parts))).numpy()
    generator = torch.Generator().manual_seed(design.processes.rank)

    worst = _Lowest(design, keep, size // 2)
    sample = _Lowest(design, keep, size // 2)
    for block in design.blocks():
        worst.add(block, block.gains(parameters))
        sample.add(block, torch.rand(len(block.x), generator=generator, dtype=torch.float64))
    return np.concatenate([worst.of_all_processes(), sample.of_all_processes()])


def _try_direction(
    design: DesignMatrix, keep: np.ndarray, direction: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Try a direction (q,) on all rows.

    Returns:
        Signed rows that lose, (m, q); signed rows that neither gain nor lose, but change along `free` (q, s), (m, q);
        and the number of rows that neither gain nor lose.
    """
    losing, staying = _Lowest(design, keep, _MORE_ROWS), _Lowest(design, keep, _MORE_ROWS)
    n_zero = 0
    design.settle()
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
    return losing.of_all_processes(), staying.of_all_processes(), design.processes.sums(n_zero)[0]


def _margins(
    design: DesignMatrix, block: Block, x: Tensor, keep: np.ndarray, direction: np.ndarray
) -> tuple[Tensor, Tensor]:
    """(2y − 1)·xᵀδ for a block's restored rows x (r, q), and its rounding error, each (r,)."""
    delta, slopes = torch.from_numpy(direction).to(x.device), keep[keep < len(design.columns)]
    rounding = 4 * design.rounding(block, restored=True)[:, slopes] @ delta[: len(slopes)].abs()
    return (x @ delta) * block.sign, rounding + COMPUTED * (x.abs() @ delta.abs())


class _Lowest:
    """The `size` signed rows with the lowest scores of all rows that were added."""

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
        self._keep_lowest(rows, scored)

    def of_all_processes(self) -> np.ndarray:
        """The rows with the lowest scores of those that all processes have added."""
        joined = self._design.processes.joined
        self._keep_lowest(*(joined(torch.from_numpy(part)).numpy() for part in (self.rows, self._scores)))
        return self.rows

    def _keep_lowest(self, rows: np.ndarray, scores: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")[: self._size]
        self.rows, self._scores = rows[order], scores[order]


def _signed(design: DesignMatrix, block: Block, chosen: slice | Tensor, keep: np.ndarray) -> np.ndarray:
    """(2y − 1)·x̃ for chosen rows of a block and the kept columns, (r, q), with whole numbers restored."""
    chosen = chosen if isinstance(chosen, slice) else chosen.to(block.x.device)
    part = block._replace(design=Dense(block.x[chosen]), y=block.y[chosen])
    return (design.restored(part) * part.sign[:, None])[:, keep].cpu().numpy()
