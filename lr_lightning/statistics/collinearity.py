"""Columns that are linear functions of the columns before them, and columns that nearly are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.sums import triangular_factor, weighted_rows

_SUSPECT = 1e-7  # 1 − R² on the columns before, below which the rows are asked
_SMALLEST = 1e-14  # pivot, which may be all rounding where the rows that tell a column apart weigh next to nothing
_MINUS = "\N{MINUS SIGN}"
_ROUNDINGS = 16.0  # of the terms of a relation that still count as equality


@dataclass(frozen=True)
class Collinearity:
    """The exact linear dependences among the columns of a design matrix.

    Attributes:
        kept: positions (among the columns that vary) of those that are linearly independent, (q,), ascending.
        aliased: positions of the others: each is a linear function of the kept columns before it.
        basis: `kept`, then the position of the intercept where there is one.
        relation: standardised x̃[:, aliased] = x̃[:, basis] @ relation, (len(basis), len(aliased)).
        inflation: variance inflation factors 1 / (1 − R²) of the kept columns, (q,); uncentred R² without an intercept.
    """

    kept: np.ndarray
    aliased: np.ndarray
    basis: np.ndarray
    relation: np.ndarray
    inflation: np.ndarray

    @classmethod
    def unknown(cls, n_columns: int) -> Collinearity:
        """That of columns that have not been looked at."""
        none = np.array([], int)
        return cls(np.arange(n_columns), none, none, np.zeros((0, 0)), np.full(n_columns, np.nan))

    def fold(self, parameters: np.ndarray) -> np.ndarray:
        """Parameters of equal predictions that are 0 for the aliased columns; R's choice. (p,) → (p,)."""
        folded = parameters.copy()
        folded[self.basis] += self.relation @ parameters[self.aliased]
        folded[self.aliased] = 0.0
        return folded


def find_collinearity(design: DesignMatrix, gram: np.ndarray) -> Collinearity:
    """Which columns depend linearly on those before them, as R's `glm` would leave them out.

    A Cholesky factorisation of the correlation matrix from left to right, whose squared pivots are 1 − R² of a
    column on the kept ones before it: the limited pivoting of R's `dqrdc2`. The Gram matrix squares the condition
    number, so that it only raises suspicion; then the rows' own triangular factor takes its place, and what is left
    of a suspect, with refined coefficients, must vanish on every single row, up to the rounding of the features. A
    column that passes that test is aliased, one that fails is only nearly collinear and stays.

    Args:
        design: the rows; swept only if there is a suspect.
        gram: Σ v x̃ x̃ᵀ, (p, p), of the same rows (`sum_rows`).
    """
    k = len(design.columns)
    order = [k, *range(k)] if design.intercept else list(range(k))  # R's: the intercept comes first
    root = np.sqrt(np.maximum(gram.diagonal()[order], np.finfo(float).tiny))
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(gram[np.ix_(order, order)] / root[:, None] / root))
    upper = factor.numpy().T
    kept, suspects = list(range(len(order))), []
    relation = np.zeros((len(order), 0))
    if info or (len(order) and upper.diagonal().min() ** 2 <= _SUSPECT):
        columns = triangular_factor(weighted_rows(design, order), len(order)) / root
        innocent: set[int] = set()
        while True:
            kept, suspects, upper, components = _left_to_right(columns, innocent)
            if not suspects:
                relation = components
                break
            relation, confirmed = _confirm(design, root, order, kept, suspects, upper, components)
            if all(confirmed):
                break
            innocent.add(suspects[confirmed.index(False)])  # what comes after may depend on it
    inflation = _inflation(upper, design.intercept)
    basis = np.array([order[j] for j in kept], int)
    if design.intercept:  # the intercept's row goes last, as everywhere
        basis, relation = np.roll(basis, -1), np.roll(relation, -1, 0)
    return Collinearity(basis[basis < k], np.array([order[j] for j in suspects], int), basis, relation, inflation)


def relation_in_words(collinearity: Collinearity, position: int, design: DesignMatrix, names: list[str]) -> str:
    """The relation of the aliased column at `position` of `aliased`, in original units: "c = 2·a − b + 3".

    `names` are those of the columns that vary, (k,).
    """
    digits = 5 if design.single else 6
    column = int(collinearity.aliased[position])
    relation = collinearity.relation[:, position]
    error = design.mean_error()
    constant, uncertain = float(design.mean[column]), float(error[column])
    if design.intercept:
        constant += float(design.scale[column] * relation[-1])
    terms: list[tuple[float, str]] = []
    # The less a column's own part, the less certain its coefficient.
    rounding = np.maximum(max(design.epsilon, 2.0**-40), 2.0**-52 * np.sqrt(collinearity.inflation))
    rounding *= max(1.0, float(np.abs(relation).max(initial=0.0)))
    for k, weight, least in zip(collinearity.kept.tolist(), relation.tolist(), rounding.tolist(), strict=False):
        if abs(weight) > 64 * least:
            ratio, mean = float(design.scale[column] / design.scale[k]), float(design.mean[k])
            slope = ratio * weight
            constant -= slope * mean
            uncertain += abs(slope) * float(error[k]) + ratio * least * abs(mean)
            terms.append((slope, names[k]))
    if design.intercept and abs(constant) > 256 * uncertain:
        terms.append((constant, ""))
    text = ""
    for value, name in terms:
        sign = (_MINUS if value < 0 else "") if not text else f" {_MINUS if value < 0 else '+'} "
        number = f"{abs(value):.{digits}g}"
        text += sign + (number if not name else name if number == "1" else f"{number}·{name}")
    return f"{names[column]} = {text or '0'}"


def _inflation(upper: np.ndarray, intercept: bool) -> np.ndarray:
    """From the triangular factor of columns of length 1, the intercept's first."""
    inverse = _solve(upper, np.eye(len(upper)))
    inflation = np.square(inverse).sum(1)
    return (inflation * (1 - np.square(upper[0])))[1:] if intercept else inflation


def _left_to_right(columns: np.ndarray, innocent: set[int]) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Gram and Schmidt's process, twice over, on columns (m, p) of length 1.

    Returns:
        Kept and suspected columns, the triangular factor (q, q) of the kept ones, and the components (q, s) of the
        suspected ones along the kept ones before them.
    """
    size = columns.shape[1]
    orthonormal, upper = np.zeros((len(columns), size)), np.zeros((size, size))
    kept: list[int] = []
    suspects: list[int] = []
    for j in range(size):
        r = len(kept)
        rest = columns[:, j].copy()
        for _ in range(2):
            component = rest @ orthonormal[:, :r]
            rest -= orthonormal[:, :r] @ component
            upper[:r, j] += component
        pivot = float(np.linalg.norm(rest))
        if pivot**2 <= _SUSPECT and j not in innocent:
            suspects.append(j)
            continue
        upper[r, j] = max(pivot, _SMALLEST)
        orthonormal[:, r] = rest / upper[r, j]
        kept.append(j)
    rows = range(len(kept))
    return kept, suspects, upper[np.ix_(rows, kept)], upper[np.ix_(rows, suspects)]


def _confirm(
    design: DesignMatrix,
    root: np.ndarray,
    order: list[int],
    kept: list[int],
    suspects: list[int],
    upper: np.ndarray,
    components: np.ndarray,
) -> tuple[np.ndarray, list[bool]]:
    """Coefficients (len(kept), len(suspects)) of the suspects on the kept columns, and which suspects they explain.

    Args:
        design: the rows.
        root: lengths of the columns, (p,), in the order of the factorisation, as all that follows but `order`.
        order: positions in the design matrix, (p,).
        kept: of the columns that count as independent.
        suspects: of the others.
        upper: see `_left_to_right`, as for `components`.
        components: likewise.
    """
    before = np.array(kept)[:, None] < np.array(suspects)  # a suspect is explained by the columns before it
    lengths = root[kept][:, None]
    relation = np.zeros_like(components)
    correction = components * root[suspects]
    confirmed = [False] * len(suspects)
    for _ in range(3):  # iterative refinement: what a sweep leaves over corrects the coefficients
        relation += _solve(upper, correction) / lengths
        left_over, excess = _left_over(design, [order[j] for j in kept], [order[j] for j in suspects], relation)
        confirmed = (excess <= _ROUNDINGS).tolist()
        if all(confirmed):
            break
        # The seminormal equations of the columns before, whose factor is a leading block.
        correction = np.zeros_like(relation)
        for m, count in enumerate(before.sum(0).tolist()):
            correction[:count, m] = _solve(
                upper[:count, :count], (left_over / lengths)[:count, m : m + 1], transposed=True
            )[:, 0]
    return relation, confirmed


def _solve(upper: np.ndarray, right: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    matrix = torch.from_numpy(upper.T if transposed else upper)
    return torch.linalg.solve_triangular(matrix, torch.from_numpy(right), upper=not transposed).numpy()


def _left_over(
    design: DesignMatrix, basis: list[int], suspects: list[int], relation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of e = x̃[:, suspects] − x̃[:, basis] @ relation: the cross product with the basis, and max |e| in roundings."""
    k = len(design.columns)
    of_slopes = [m for m, j in enumerate(basis) if j < k]
    slopes = [basis[m] for m in of_slopes]
    cross, excess = np.zeros_like(relation), np.zeros(len(suspects))
    for block in design.blocks():
        if not len(block.x):
            continue
        coefficients = torch.from_numpy(relation).to(block.x.device)
        x = block.x[:, basis]
        error = block.x[:, suspects] - x @ coefficients
        rounding = design.rounding(block)
        allowed = rounding[:, suspects] + rounding[:, slopes] @ coefficients[of_slopes].abs()
        allowed += 2.0**-52 * (block.x[:, suspects].abs() + x.abs() @ coefficients.abs())
        excess = np.maximum(excess, (error.abs() / allowed).amax(0).cpu().numpy())
        cross += (x.T @ (error * block.weight[:, None])).cpu().numpy()
    return cross, excess
