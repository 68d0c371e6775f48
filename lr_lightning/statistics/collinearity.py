"""Collinearity: columns that are linear functions of other columns, and variance inflation factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lr_lightning.solver.decompositions import inverse_of_lower
from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.sums import triangular_factor, weighted_rows

_SUSPECT = 1e-7  # 1 − R² on the previous columns, below which the relation is tested on every row
_SMALLEST = 1e-14  # least pivot; it may be rounding if the rows in which a column differs have tiny weights
_MINUS = "\N{MINUS SIGN}"
_ROUNDINGS = 16.0  # largest deviation from a relation, in units of the rounding of its terms


@dataclass(frozen=True)
class Collinearity:
    """The exact linear dependences among the columns of a design matrix.

    Attributes:
        kept: positions, among the columns that vary, of the linearly independent columns, (q,), ascending.
        aliased: positions of the other columns; each is a linear function of the kept columns before it.
        basis: `kept`, followed by the position of the intercept if there is one.
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
        """The result for columns that have not been examined: none is aliased, and the inflation is NaN."""
        none = np.array([], int)
        return cls(np.arange(n_columns), none, none, np.zeros((0, 0)), np.full(n_columns, np.nan))

    def fold(self, parameters: np.ndarray) -> np.ndarray:
        """Parameters (p,) with the same predictions that are 0 for the aliased columns, as in R."""
        folded = parameters.copy()
        folded[self.basis] += self.relation @ parameters[self.aliased]
        folded[self.aliased] = 0.0
        return folded


def find_collinearity(design: DesignMatrix, gram: np.ndarray) -> Collinearity:
    """Find the columns that are linear functions of previous columns, as R's `glm` leaves them out.

    The squared pivots of a Cholesky factorisation of the correlation matrix are 1 − R² of each column on the kept
    columns before it, as in the limited pivoting of R's `dqrdc2`. Forming the Gram matrix squares the condition
    number, so a small pivot only makes a column a suspect. Then a QR factorisation of the rows gives coefficients for
    each suspect on the kept columns before it, which are refined. A suspect is aliased if its residual is zero on
    every row, up to the rounding of the features. Otherwise it is nearly collinear, and kept.

    Args:
        design: the rows; they are swept only if there is a suspect.
        gram: Σ v x̃ x̃ᵀ, (p, p), of the same rows; see `sum_rows`.
    """
    k = len(design.columns)
    order = [k, *range(k)] if design.intercept else list(range(k))  # R's: the intercept comes first
    root = np.sqrt(np.maximum(gram.diagonal()[order], np.finfo(float).tiny))
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(gram[np.ix_(order, order)] / root[:, None] / root))
    upper = factor.numpy().T
    kept, suspects = list(range(len(order))), []
    relation = np.zeros((len(order), 0))
    if info or (len(order) and upper.diagonal().min() ** 2 <= _SUSPECT):
        columns = triangular_factor(weighted_rows(design, order), len(order), design.processes) / root
        innocent: set[int] = set()
        while True:
            kept, suspects, upper, components = _left_to_right(columns, innocent)
            if not suspects:
                relation = components
                break
            relation, confirmed = _confirm(design, root, order, kept, suspects, upper, components)
            if all(confirmed):
                break
            innocent.add(suspects[confirmed.index(False)])  # it is kept, and later columns may depend on it
    inflation = _inflation(upper, design.intercept)
    basis = np.array([order[j] for j in kept], int)
    if design.intercept:  # the intercept comes last outside of this function
        basis, relation = np.roll(basis, -1), np.roll(relation, -1, 0)
    return Collinearity(basis[basis < k], np.array([order[j] for j in suspects], int), basis, relation, inflation)


def relation_in_words(collinearity: Collinearity, position: int, design: DesignMatrix, names: list[str]) -> str:
    """The linear relation of an aliased column in original units, such as "c = 2·a − b + 3".

    Args:
        collinearity: the dependences.
        position: index of the column in `collinearity.aliased`.
        design: the design matrix.
        names: names of the columns that vary, (k,).
    """
    digits = 5 if design.single else 6
    column = int(collinearity.aliased[position])
    relation = collinearity.relation[:, position]
    error = design.mean_error()
    constant, uncertain = float(design.mean[column]), float(error[column])
    if design.intercept:
        constant += float(design.scale[column] * relation[-1])
    terms: list[tuple[float, str]] = []
    # The error of a coefficient grows with the variance inflation of its column.
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
    """Variance inflation factors from the triangular factor of columns of length 1, the intercept first."""
    inflation = np.square(inverse_of_lower(torch.from_numpy(upper.T)).numpy()).sum(0)
    return (inflation * (1 - np.square(upper[0])))[1:] if intercept else inflation


def _left_to_right(columns: np.ndarray, innocent: set[int]) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Gram–Schmidt orthogonalisation, with reorthogonalisation, of columns (m, p) of length 1.

    Columns with a small pivot become suspects, unless they are among the `innocent`.

    Returns:
        The positions of the q kept and the s suspected columns, the triangular factor (q, q) of the kept ones, and the
        components (q, s) of the suspected ones along the kept ones before them.
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
    """Test whether the suspects are linear functions of the kept columns before them, on every row.

    Args:
        design: the rows.
        root: lengths of the columns, (p,), in the order of the factorisation.
        order: for each place in that order the position in the design matrix, (p,).
        kept: places of the q kept columns.
        suspects: places of the s suspected columns.
        upper: the triangular factor of `_left_to_right`, (q, q).
        components: the components of `_left_to_right`, (q, s).

    Returns:
        Coefficients (q, s) of the suspects on the kept columns, and whether each suspect passes the test, (s,).
    """
    before = np.array(kept)[:, None] < np.array(suspects)  # a suspect depends on columns before it only
    lengths = root[kept][:, None]
    relation = np.zeros_like(components)
    correction = components * root[suspects]
    confirmed = [False] * len(suspects)
    for _ in range(3):  # iterative refinement by the residuals of a sweep
        relation += _solve(upper, correction) / lengths
        left_over, excess = _left_over(design, [order[j] for j in kept], [order[j] for j in suspects], relation)
        confirmed = (excess <= _ROUNDINGS).tolist()
        if all(confirmed):
            break
        # Seminormal equations; the factor of the columns before a suspect is a leading block of `upper`.
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
    """The residual e = x̃[:, suspects] − x̃[:, basis] @ relation.

    Returns:
        x̃[:, basis]ᵀ V e, (q, s), and the maximum of |e| over the rows in units of its rounding, (s,).
    """
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
    return design.processes.sums(cross)[0], design.processes.most(excess)
