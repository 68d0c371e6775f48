"""Average marginal effects: what a feature changes in the probability, on average over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.model.losses import curvature
from lr_lightning.model.processes import Processes
from lr_lightning.model.rows import Rows
from lr_lightning.statistics.design_matrix import DesignMatrix

MOST = 10**9  # rows times effects
_BLOCK = 2**20  # elements of the widest matrix of a block
_ROUNDING = 1e-6  # of a value that is 0 or 1, and of the moments of a column of such values


class Effects(NamedTuple):
    """Average marginal effects of the features.

    Attributes:
        effect: (d,), float64.
        gradient: of the effects by the parameters of the design matrix, (p, d), for the delta method; None where it
            was not asked for.
    """

    effect: np.ndarray
    gradient: np.ndarray | None


def average_marginal_effects(
    design: DesignMatrix, parameters: np.ndarray, groups: Sequence[Sequence[int]], *, gradients: bool = True
) -> Effects:
    r"""The average marginal effect of every feature, in one sweep over the rows.

    Of a number it is the mean derivative of the probability, (1/Σv) Σ v π (1 − π)·w_j. Of an indicator, 0 or 1, it is
    the mean difference between the probabilities with it and without it, in all rows; of a level between it and the
    reference level (Long & Freese 2014, chapter 4).

    Args:
        design: the rows, with sample weights.
        parameters: of the design matrix, (p,).
        groups: the features (numbers from 0 to d − 1) that stand for one column: all levels of a category but the
            reference, or one boolean. A number that is only 0 and 1 in the rows is found here.
        gradients: whether the gradients are wanted.
    """
    coefficients, intercept = served_coefficients(design, parameters)
    mean, scale = (part.double().cpu() for part in design.served)
    ends = torch.stack([-mean, 1 - mean]) / scale  # the values 0 and 1 as they are served
    categories = [torch.tensor(group) for group in groups if len(group) > 1]
    told = {j for group in groups for j in group}
    candidates = [j for j in _like_indicators(design) if j not in told]
    flags = torch.tensor(sorted([group[0] for group in groups if len(group) == 1] + candidates), dtype=torch.long)
    is_candidate = torch.isin(flags, torch.tensor(candidates, dtype=torch.long))

    sums = _Sums(design.n_features, gradients=gradients)
    is_number = torch.zeros(design.n_features, dtype=torch.bool)
    widest = max([1, *map(len, categories)])
    for rows in _blocks(design, widest):
        v = torch.ones_like(rows.y).double() if rows.weight is None else rows.weight.double()
        z = rows.design.matvec(coefficients, intercept)
        z = z if rows.offset is None else z + rows.offset.double()
        sums.add_rows(rows, v, z)
        for chunk in range(0, len(flags), max(1, _BLOCK // max(1, len(rows.y)))):
            some = slice(chunk, chunk + max(1, _BLOCK // max(1, len(rows.y))))
            part, w = flags[some], coefficients[flags[some]]
            values = rows.design.columns(part).dense(torch.float64)
            (low, high), tolerance = ends[:, part], _ROUNDING / scale[part]
            other = ((values - low).abs() > tolerance) & ((values - high).abs() > tolerance)
            is_number[part] |= other.any(0) & is_candidate[some]
            without = z[:, None] - (values - low) * w
            sums.add(part, rows, v, without, without + (high - low) * w)
        for part in categories:
            (low, high), w = ends[:, part], coefficients[part]
            without = (z - rows.design.columns(part).matvec(w) + low @ w)[:, None]
            sums.add(part, rows, v, without, without + (high - low) * w)
    sums.reduce(design.processes)
    is_number = design.processes.most(is_number.double()) > 0
    indicators = [*categories, *(flags[k : k + 1] for k in range(len(flags)) if not is_number[flags[k]])]
    return sums.effects(design, coefficients, ends, indicators)


def served_coefficients(design: DesignMatrix, parameters: np.ndarray) -> tuple[Tensor, Tensor]:
    """Coefficients (d,) and intercept () for the features in the batches, from parameters (p,) of the design matrix."""
    k, (mean, scale) = len(design.columns), design.standardization
    coefficients = torch.zeros(design.n_features, dtype=torch.float64)
    coefficients[design.columns] = torch.from_numpy(parameters[:k].copy())
    coefficients = coefficients / scale
    intercept = -(mean @ coefficients) + (float(parameters[k]) if design.intercept else 0.0)
    return coefficients, intercept


class _Sums:
    """What the sweep adds up; d features, all in the units in which the rows are served."""

    def __init__(self, d: int, *, gradients: bool) -> None:
        self._gradients = gradients
        self.weight = self.slope = self.bend_total = 0.0
        self.bend = torch.zeros(d, dtype=torch.float64)
        self.difference, self.with_it, self.without_it = torch.zeros(3, d, dtype=torch.float64).unbind()
        self.by_others = torch.zeros(d, d if gradients else 0, dtype=torch.float64)

    def add_rows(self, rows: Rows, v: Tensor, z: Tensor) -> None:
        """Add the derivatives by the logits z (r,), with weights v (r,)."""
        slope = curvature(z, v)
        self.weight += float(v.sum())
        self.slope += float(slope.sum())
        if self._gradients:
            bend = -slope * torch.tanh(z / 2)
            self.bend += rows.design.rmatvec(bend)
            self.bend_total += float(bend.sum())

    def add(self, part: Tensor, rows: Rows, v: Tensor, without: Tensor, with_it: Tensor) -> None:
        """Add the differences of features `part` (c,): logits without them, (r, c) or (r, 1), and with each, (r, c)."""
        self.difference[part] += v @ (torch.sigmoid(with_it) - torch.sigmoid(without))
        if self._gradients:
            of_chosen, of_reference = curvature(with_it, v[:, None]), curvature(without, v[:, None])
            self.by_others[:, part] += rows.design.rmatvec(of_chosen - of_reference)
            self.with_it[part] += of_chosen.sum(0)
            self.without_it[part] += of_reference.sum(0)

    def reduce(self, processes: Processes) -> None:
        """Make the sums those of all processes."""
        names = [name for name in vars(self) if name != "_gradients"]
        for name, total in zip(names, processes.sums(*(getattr(self, name) for name in names)), strict=True):
            setattr(self, name, total)

    def effects(self, design: DesignMatrix, w: Tensor, ends: Tensor, indicators: list[Tensor]) -> Effects:
        """The effects and their gradients; `indicators` are the groups of features whose differences count."""
        units = design.units
        effect = self.slope / self.weight * w / units  # a change of 1 in original units is 1 / units as served
        for group in indicators:
            effect[group] = self.difference[group] / self.weight
        if not self._gradients:
            return Effects(effect.numpy(), None)
        by_served = torch.outer(self.bend / self.weight, w / units)
        by_served.diagonal().add_(self.slope / self.weight / units)
        by_intercept = self.bend_total / self.weight * w / units
        for group in indicators:
            low, high = ends[:, group]
            gradients = self.by_others[:, group]
            # The group's own features are fixed: at `low` without it, all at `low` but one at `high` with it.
            change = self.with_it[group] - self.without_it[group]
            gradients[group] = low[:, None] * change
            gradients[group, torch.arange(len(group))] += (high - low) * self.with_it[group]
            by_served[:, group] = gradients / self.weight
            by_intercept[group] = change / self.weight
        mean, scale = design.standardization
        gradient = ((by_served - torch.outer(mean, by_intercept)) / scale[:, None])[design.columns]
        if design.intercept:
            gradient = torch.cat([gradient, by_intercept[None]])
        return Effects(effect.numpy(), gradient.numpy())


def _like_indicators(design: DesignMatrix) -> list[int]:
    """Features whose mean m and variance m (1 − m) are those of a column of 0 and 1."""
    mean, scale = design.original_moments()
    like = (mean > 0) & (mean < 1) & ((scale.square() - mean * (1 - mean)).abs() < _ROUNDING)
    return like.nonzero()[:, 0].tolist()


def _blocks(design: DesignMatrix, width: int) -> Iterator[Rows]:
    least = min(2048, design.size)  # a block's sums, (p, w), are not to cost more than what they add up
    size = max(128, least, _BLOCK // max(width, design.size))
    for rows in design.used_rows():
        for start in range(0, len(rows.y), size):
            yield rows.take(slice(start, start + size))
