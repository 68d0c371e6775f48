"""Sweeps over the rows: likelihood, gradient, Hessian, Gram matrix, and their triangular factors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from lr_lightning.model.losses import curvature, residuals
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.solver.decompositions import InverseRoot, inverse_root
from lr_lightning.statistics.design_matrix import DesignMatrix

_MOST_GROUP_SUMS = 2**26  # numbers, 512 MiB
_NULL_STEP = 1e-9  # a smaller step of the null model's intercept changes its log-likelihood by less than its rounding


@dataclass(frozen=True)
class Sums:
    """Sums over the rows of positive weight at given parameters; all float64. p is the number of parameters.

    Attributes:
        n_rows: number of rows.
        n_positive: number of positive rows; a row of trials counts as the share of its successes.
        weight: Σ v.
        positive_weight: Σ v y.
        prediction: Σ v π, with π the predicted probability.
        whole_weights: whether every weight is an integer, as frequencies are.
        log_likelihood: Σ v (y log π + (1 − y) log(1 − π)).
        gradient: gradient of the log-likelihood, Σ v (y − π) x̃, (p,).
        hessian: Hessian of the negative log-likelihood, Σ v π (1 − π) x̃ x̃ᵀ, (p, p).
        gram: Σ v x̃ x̃ᵀ, (p, p).
        smallest_gain: the minimum of (2y − 1)·x̃ᵀθ, of the logit without its offset; negative if a row of trials has
            both outcomes, for one of them loses.
        largest_norm: the maximum of ‖x̃‖.
    """

    n_rows: int
    n_positive: float
    weight: float
    positive_weight: float
    prediction: float
    whole_weights: bool
    log_likelihood: float
    gradient: np.ndarray
    hessian: np.ndarray
    gram: np.ndarray
    smallest_gain: float
    largest_norm: float
    _roots: dict[bytes, InverseRoot | None] = field(default_factory=dict, repr=False)

    def inverse_root(self, keep: np.ndarray) -> InverseRoot | None:
        """Inverse root of the Hessian of the parameters at positions (q,), computed once; None if not definite."""
        key = keep.tobytes()
        if key not in self._roots:
            self._roots[key] = inverse_root(torch.from_numpy(self.hessian[np.ix_(keep, keep)]))
        return self._roots[key]


@dataclass(frozen=True)
class Clusters:
    """The groups of the rows of positive weight.

    Attributes:
        of_row: numbers of the groups of this process's rows, from 0, in the order of the rows, (n,).
        count: how many groups all rows have.
    """

    of_row: np.ndarray
    count: int

    @classmethod
    def of(cls, groups: torch.Tensor, design: DesignMatrix) -> Clusters:
        """From numbers (n,) of the groups of all rows, not negative; they are numbered anew, without gaps."""
        used = [
            torch.ones(len(rows.y), dtype=torch.bool) if rows.weight is None else rows.weight > 0
            for rows in design.batches
        ]
        of_row = groups.cpu()[torch.cat(used).cpu()].numpy()
        occurs = np.zeros(int(design.processes.most(float(of_row.max(initial=-1)))) + 1)
        occurs[of_row] = 1
        number = design.processes.most(occurs).cumsum() - 1
        return cls(number[of_row].astype(np.int64), int(number[-1]) + 1)


def sum_rows(design: DesignMatrix, parameters: np.ndarray, *, matrices: bool = True) -> Sums:
    """The sums over all rows at parameters (p,), intercept last.

    Without `matrices`, for tables with too many columns, the Hessian and the Gram matrix are empty, (0, 0).

    Raises:
        ValueError: if no row has a positive weight.
    """
    p = design.size
    size = p if matrices else 0
    n_rows = n_positive = 0
    whole, smallest, largest = True, math.inf, 0.0
    totals, gradient = np.zeros(4), np.zeros(p)
    hessian, gram = np.zeros((2, size, size))
    for block in design.products():
        _, y, v, offset, _ = block
        if not len(y):
            continue
        z = block.logits(parameters)
        log_likelihood = y * logsigmoid(z) + (1 - y) * logsigmoid(-z)
        n_rows += len(y)
        n_positive += float(y.sum())
        totals += [float(t) for t in (v.sum(), v @ y, v @ torch.sigmoid(z), v @ log_likelihood)]
        gradient += _numpy(block.design.rmatvec(v * block.residuals(z)))
        if matrices:
            gram += _numpy(block.design.sandwich(v))
            hessian += _numpy(block.design.sandwich(curvature(z, v)))
        whole = whole and bool((v == v.round()).all())
        gain = (z if offset is None else z - offset) * block.sign
        smallest = min(smallest, float(torch.where((y > 0) & (y < 1), -gain.abs(), gain).min()))
        largest = max(largest, float(block.design.square_norms(None, None).max()))
    processes = design.processes
    found = processes.sums(n_rows, n_positive, totals, gradient, hessian, gram)
    n_rows, n_positive, totals, gradient, hessian, gram = found
    whole = processes.all(whole)
    smallest, largest = processes.least(np.array([smallest, -largest])).tolist()
    if not n_rows:
        raise ValueError("there are no rows of positive weight")
    weight, positive_weight, mass, likelihood = totals.tolist()
    return Sums(
        n_rows=n_rows,
        n_positive=n_positive,
        weight=weight,
        positive_weight=positive_weight,
        prediction=mass,
        whole_weights=whole,
        log_likelihood=likelihood,
        gradient=gradient,
        hessian=hessian,
        gram=gram,
        smallest_gain=smallest,
        largest_norm=math.sqrt(-largest),
    )


def null_log_likelihood(design: DesignMatrix, sums: Sums) -> float:
    """The largest log-likelihood without features: of the intercept, if there is one, and the offset, if there is one.

    Beside an offset the intercept has no closed form. Its score equation, Σ v (y − σ(o + b)) = 0, is solved by Newton
    steps between bounds that close in. The first bounds hold because σ is monotone: if all offsets were equal to the
    largest one, or the smallest, b would be the logit of the mean outcome less that offset.
    """
    offsets = [rows.offset for rows in design.batches if rows.offset is not None]
    negative = sums.weight - sums.positive_weight
    if not offsets and not design.intercept:
        return -sums.weight * math.log(2)
    if not offsets or (design.intercept and min(sums.positive_weight, negative) <= 0):
        return sum(part * math.log(part / sums.weight) for part in (sums.positive_weight, negative) if part > 0)
    if not design.intercept:
        return _null_derivatives(design, 0.0)[0]
    logit = math.log(sums.positive_weight / negative)
    largest = design.processes.most(max((float(o.max()) for o in offsets if len(o)), default=-math.inf))
    least = design.processes.least(min((float(o.min()) for o in offsets if len(o)), default=math.inf))
    low, high = logit - largest, logit - least
    b = (low + high) / 2
    while True:
        log_likelihood, slope, bend = _null_derivatives(design, b)
        low, high = (b, high) if slope > 0 else (low, b)
        newton = b + slope / bend if bend > 0 else math.inf
        following = newton if low < newton < high else (low + high) / 2
        if not low < following < high or abs(following - b) <= _NULL_STEP * (1 + abs(b)):
            return log_likelihood
        b = following


def _null_derivatives(design: DesignMatrix, b: float) -> tuple[float, float, float]:
    """The log-likelihood at the logits offset + b, its derivative by b, and the negative of the second one."""
    totals = np.zeros(3)
    for rows in design.batches:
        assert rows.offset is not None  # noqa: S101 (all batches have one, or none)
        z, y = rows.offset.double() + b, rows.y.double()
        v = torch.ones_like(z) if rows.weight is None else rows.weight.double()
        log_likelihood = y * logsigmoid(z) + (1 - y) * logsigmoid(-z)
        totals += [float(v @ t) for t in (log_likelihood, -residuals(z, y), curvature(z))]
    value, slope, bend = design.processes.sums(totals)[0].tolist()
    return value, slope, bend


def triangular_factor(rows: Iterable[torch.Tensor], size: int, processes: Processes = ALONE) -> np.ndarray:
    """R, upper triangular, (size, size), float64, with RᵀR the Gram matrix of all rows in blocks (…, size).

    Forming a Gram matrix squares the condition number of the rows; a QR factorisation of the rows, block after
    block, does not (Golub & Van Loan 2013, section 5.3.8; Demmel, Grigori, Hoemmen & Langou 2012). Of several processes
    each factors its own rows, and all factor the factors.
    """
    factor, waiting, n_waiting = torch.zeros(0, size, dtype=torch.float64), [], 0
    for block in rows:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= 2 * size:  # with fewer rows most of the work would be spent on the previous factor
            factor, waiting, n_waiting = _upper([factor.to(block.device), *waiting]), [], 0
    if waiting:
        factor = _upper([factor.to(waiting[0].device), *waiting])
    if processes.count > 1:
        factor = _upper([processes.joined(factor)])
    return _numpy(torch.nn.functional.pad(factor, (0, 0, 0, size - len(factor))))


def weighted_rows(design: DesignMatrix, columns: np.ndarray | list[int]) -> Iterator[torch.Tensor]:
    """Blocks of √v·x̃, of some columns. Their Gram matrix is that part of `Sums.gram`."""
    for block in design.blocks():
        yield block.x[:, columns] * block.weight.sqrt()[:, None]


def curved_rows(
    design: DesignMatrix, columns: np.ndarray | list[int], parameters: np.ndarray
) -> Iterator[torch.Tensor]:
    """Blocks of √(v π (1 − π))·x̃, of some columns. Their Gram matrix is that part of `Sums.hessian`."""
    for block in design.blocks():
        root = curvature(block.logits(parameters), block.weight).sqrt()
        yield block.x[:, columns] * root[:, None]


def sum_squared_scores(design: DesignMatrix, parameters: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Σ v² (y − π)² u uᵀ with u = Fᵀ x̃, (r, r), for F (p, r)."""
    total = np.zeros((factor.shape[1],) * 2)
    for block in design.blocks():
        residual = block.weight * block.residuals(block.logits(parameters))
        scores = block.design.matvec(torch.from_numpy(factor)) * residual[:, None]
        total += _numpy(scores.T @ scores)
    return design.processes.sums(total)[0]


def sum_cluster_scores(
    design: DesignMatrix, parameters: np.ndarray, factor: np.ndarray, groups: Clusters
) -> np.ndarray:
    """Σ_g s_g s_gᵀ with s_g = Σ v (y − π) Fᵀ x̃ over the rows of group g, (r, r), for F (p, r).

    The sums of all groups are held at once, or of as many as `_MOST_GROUP_SUMS` allows, and swept for the others anew.
    Several processes send one another those sums, for a group may have rows in each.

    Args:
        design: the rows.
        parameters: of the logits, (p,).
        factor: F.
        groups: of the rows of positive weight.
    """
    n_groups, r = groups.count, factor.shape[1]
    at_a_time = max(1, _MOST_GROUP_SUMS // max(r, 1))
    of_rows, total = torch.from_numpy(groups.of_row).long(), np.zeros((r, r))
    for first in range(0, n_groups, at_a_time):
        sums = torch.zeros(min(at_a_time, n_groups - first), r, dtype=torch.float64)
        for block in design.blocks():
            residual = block.weight * block.residuals(block.logits(parameters))
            scores = (block.design.matvec(torch.from_numpy(factor)) * residual[:, None]).cpu()
            group = of_rows[block.start : block.start + len(scores)] - first
            here = (group >= 0) & (group < len(sums))
            sums.index_add_(0, group[here], scores[here])
        (sums,) = design.processes.sums(sums)
        total += _numpy(sums.T @ sums)
    return total


def _upper(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.linalg.qr(torch.cat(parts), mode="r").R


def _numpy(sums: torch.Tensor) -> np.ndarray:
    return sums.cpu().numpy()
