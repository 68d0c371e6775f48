"""Columns that are linear functions of the columns before them, and columns that nearly are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from lr_lightning.statistics.design_matrix import DesignMatrix

_SUSPECT = 1e-7  # 1 − R² on the columns before, below which the rows are asked
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
    """

    kept: np.ndarray
    aliased: np.ndarray
    basis: np.ndarray
    relation: np.ndarray

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
    number, so that it only raises suspicion; what is left of a suspect, with refined coefficients, must vanish on
    every single row, up to the rounding of the features. A column that passes that test is aliased, one that
    fails is only nearly collinear and stays.

    Args:
        design: the rows; swept only if there is a suspect.
        gram: Σ v x̃ x̃ᵀ, (p, p), of the same rows (`sum_rows`).
    """
    k = len(design.columns)
    order = [k, *range(k)] if design.intercept else list(range(k))  # R's: the intercept comes first
    root = np.sqrt(np.maximum(gram.diagonal()[order], np.finfo(float).tiny))
    scaled = gram[np.ix_(order, order)] / root[:, None] / root
    innocent: set[int] = set()
    relation = np.zeros((0, 0))
    while True:
        kept, suspects, factor = _left_to_right(scaled, innocent)
        basis = [order[j] for j in kept]
        if not suspects:
            break
        relation, confirmed = _confirm(design, gram, basis, [order[j] for j in suspects], factor)
        if all(confirmed):
            break
        innocent.add(suspects[confirmed.index(False)])  # what comes after may depend on it
    aliased = np.array([order[j] for j in suspects], int)
    if not suspects:
        relation = np.zeros((len(basis), 0))
    if design.intercept:  # the intercept's row goes last, as everywhere
        basis, relation = basis[1:] + basis[:1], np.roll(relation, -1, 0)
    return Collinearity(np.array([j for j in basis if j < k], int), aliased, np.array(basis, int), relation)


def variance_inflation(design: DesignMatrix, gram: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Variance inflation factors 1 / (1 − R²) of the kept columns, (q,); uncentred R² without an intercept.

    Raises:
        numpy.linalg.LinAlgError: if they are collinear beyond float64.
    """
    correlation = _correlation(gram, design.intercept)[np.ix_(kept, kept)]
    inverse_factor = np.linalg.inv(np.linalg.cholesky(correlation))
    return np.square(inverse_factor).sum(0)


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
    negligible = 64 * max(design.epsilon, 2.0**-40) * max(1.0, float(np.abs(relation).max(initial=0.0)))
    for k, weight in zip(collinearity.kept.tolist(), relation.tolist(), strict=False):
        if abs(weight) > negligible:
            slope = float(design.scale[column] * weight / design.scale[k])
            constant -= slope * float(design.mean[k])
            uncertain += abs(slope) * float(error[k])
            terms.append((slope, names[k]))
    if design.intercept and abs(constant) > 256 * uncertain:
        terms.append((constant, ""))
    text = ""
    for value, name in terms:
        sign = (_MINUS if value < 0 else "") if not text else f" {_MINUS if value < 0 else '+'} "
        number = f"{abs(value):.{digits}g}"
        text += sign + (number if not name else name if number == "1" else f"{number}·{name}")
    return f"{names[column]} = {text or '0'}"


def _correlation(gram: np.ndarray, intercept: bool) -> np.ndarray:
    if intercept:
        total, weight = gram[:-1, -1], gram[-1, -1]
        gram = gram[:-1, :-1] - np.outer(total, total) / weight
    deviation = np.sqrt(np.maximum(gram.diagonal(), np.finfo(float).tiny))
    correlation = gram / deviation[:, None] / deviation
    return 0.5 * (correlation + correlation.T)


def _left_to_right(scaled: np.ndarray, innocent: set[int]) -> tuple[list[int], list[int], np.ndarray]:
    """Kept and suspected columns, and the lower Cholesky factor of the kept ones."""
    size = len(scaled)
    try:
        factor = np.linalg.cholesky(scaled)
        if size == 0 or factor.diagonal().min() ** 2 > _SUSPECT:
            return list(range(size)), [], factor
    except np.linalg.LinAlgError:
        pass
    rows = np.zeros((size, size))  # of the factor, one column for each kept column
    kept: list[int] = []
    suspects: list[int] = []
    for j in range(size):
        r = len(kept)
        pivot = 1.0 - float(rows[j, :r] @ rows[j, :r])
        if pivot <= _SUSPECT and j not in innocent:
            suspects.append(j)
            continue
        rows[j:, r] = (scaled[j:, j] - rows[j:, :r] @ rows[j, :r]) / math.sqrt(max(pivot, 1e-15))
        kept.append(j)
    return kept, suspects, rows[np.ix_(kept, range(len(kept)))]


def _confirm(
    design: DesignMatrix, gram: np.ndarray, basis: list[int], suspects: list[int], factor: np.ndarray
) -> tuple[np.ndarray, list[bool]]:
    """Coefficients (len(basis), len(suspects)) of the suspects on the basis, and which suspects they explain."""
    lower = torch.from_numpy(factor)
    root = np.sqrt(gram.diagonal()[basis])
    intercept = design.size - 1 if design.intercept else -1
    relation = np.zeros((len(basis), len(suspects)))
    left_over = gram[np.ix_(basis, suspects)]
    confirmed = [False] * len(suspects)
    for _ in range(3):  # iterative refinement: what a sweep leaves over corrects the coefficients
        right = torch.from_numpy(left_over / root[:, None])
        for m, suspect in enumerate(suspects):
            before = sum(j < suspect or j == intercept for j in basis)
            part = torch.cholesky_solve(right[:before, m : m + 1], lower[:before, :before])
            relation[:before, m] += part[:, 0].numpy() / root[:before]
        left_over, excess = _left_over(design, basis, suspects, relation)
        confirmed = (excess <= _ROUNDINGS).tolist()
        if all(confirmed):
            break
    return relation, confirmed


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
