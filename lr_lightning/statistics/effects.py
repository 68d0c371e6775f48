"""Average marginal effects: what a feature changes in the probability, on average over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.model.rows import Rows
from lr_lightning.statistics.design_matrix import DesignMatrix

MOST = 10**9  # rows times effects
_BLOCK = 2**20  # elements of the widest matrix of a block
_ROUNDING = 1e-6  # of a value that is 0 or 1, and of the moments of a column of such values


class Effects(NamedTuple):
    """Average marginal effects of the features.

    Attributes:
        effect: (d,), float64.
        gradient: of the effects by the parameters of the design matrix, (p, d), for the delta method.
    """

    effect: np.ndarray
    gradient: np.ndarray


def average_marginal_effects(design: DesignMatrix, parameters: np.ndarray, groups: Sequence[Sequence[int]]) -> Effects:
    r"""The average marginal effect of every feature, in one sweep over the rows.

    Of a number it is the mean derivative of the probability, (1/Σv) Σ v π (1 − π)·w_j. Of an indicator, 0 or 1, it is
    the mean difference between the probabilities with it and without it, in all rows; of a level between it and the
    reference level (Long & Freese 2014, chapter 4).

    Args:
        design: the rows, with sample weights.
        parameters: of the design matrix, (p,).
        groups: the features (numbers from 0 to d − 1) that stand for one column: all levels of a category but the
            reference, or one boolean. A number that is only 0 and 1 in the rows is found here.
    """
    standardization = design.standardization
    coefficients, intercept = served_coefficients(design, parameters)
    mean, scale = (part.double().cpu() for part in design.served)
    low, high = (0 - mean) / scale, (1 - mean) / scale  # the values 0 and 1 as they are served
    groups = [list(group) for group in groups]
    indicators = {j for group in groups for j in group}
    candidates = [j for j in _like_indicators(design) if j not in indicators]
    groups += [[j] for j in candidates]

    d, sums = design.n_features, _Sums(design.n_features, groups)
    members = [torch.tensor(group) for group in groups]
    for rows in _blocks(design, max([1, *map(len, groups)])):
        v = torch.ones_like(rows.y).double() if rows.weight is None else rows.weight.double()
        z = rows.design.matvec(coefficients, intercept)
        z = z if rows.offset is None else z + rows.offset.double()
        positive, negative = torch.sigmoid(z), torch.sigmoid(-z)
        slope = v * positive * negative
        sums.weight += float(v.sum())
        sums.slope += float(slope.sum())
        bend = slope * (negative - positive)
        sums.bend += rows.design.rmatvec(bend)
        sums.bend_total += float(bend.sum())
        for j in candidates:
            values = rows.design.columns(torch.tensor([j])).dense(torch.float64)[:, 0]
            tolerance = _ROUNDING / float(scale[j])
            if bool((((values - low[j]).abs() > tolerance) & ((values - high[j]).abs() > tolerance)).any()):
                sums.is_number[j] = True
        for number, group in enumerate(members):
            sums.add_group(number, group, rows, v, z, coefficients[group], low[group], high[group])
    return sums.effects(design, coefficients, low, high, standardization.mean, standardization.scale, d)


def served_coefficients(design: DesignMatrix, parameters: np.ndarray) -> tuple[Tensor, Tensor]:
    """Coefficients (d,) and intercept () for the features in the batches, from parameters (p,) of the design matrix."""
    k, (mean, scale) = len(design.columns), design.standardization
    coefficients = torch.zeros(design.n_features, dtype=torch.float64)
    coefficients[design.columns] = torch.from_numpy(parameters[:k].copy())
    coefficients = coefficients / scale
    intercept = -(mean @ coefficients) + (float(parameters[k]) if design.intercept else 0.0)
    return coefficients, intercept


class _Sums:
    """What the sweep adds up."""

    def __init__(self, d: int, groups: list[list[int]]) -> None:
        self.groups = groups
        self.weight = self.slope = self.bend_total = 0.0
        self.bend = torch.zeros(d, dtype=torch.float64)
        self.is_number = torch.zeros(d, dtype=torch.bool)
        self.difference = [torch.zeros(len(group), dtype=torch.float64) for group in groups]
        self.by_other = [torch.zeros(d, len(group), dtype=torch.float64) for group in groups]
        self.with_it = [torch.zeros(len(group), dtype=torch.float64) for group in groups]
        self.without_it = [0.0 for _ in groups]

    def add_group(
        self, number: int, group: Tensor, rows: Rows, v: Tensor, z: Tensor, w: Tensor, low: Tensor, high: Tensor
    ) -> None:
        """Add the differences of a group in a block; the features of the group are set as the difference wants."""
        part = rows.design.columns(group)
        without = z - part.matvec(w) + low @ w
        with_it = without[:, None] + (high - low) * w
        reference = torch.sigmoid(without)
        chosen = torch.sigmoid(with_it)
        self.difference[number] += v @ (chosen - reference[:, None])
        of_chosen = v[:, None] * chosen * torch.sigmoid(-with_it)
        of_reference = v * reference * torch.sigmoid(-without)
        self.by_other[number] += rows.design.rmatvec(of_chosen - of_reference[:, None])
        self.with_it[number] += of_chosen.sum(0)
        self.without_it[number] += float(of_reference.sum())

    def effects(
        self, design: DesignMatrix, w: Tensor, low: Tensor, high: Tensor, mean: Tensor, scale: Tensor, d: int
    ) -> Effects:
        """The effects and their gradients from the sums."""
        units = design.units
        effect = self.slope / self.weight * w / units  # a change of 1 in original units is 1 / units as served
        by_served = torch.outer(self.bend / self.weight, w / units)
        by_served.diagonal().add_(self.slope / self.weight / units)
        by_intercept = self.bend_total / self.weight * w / units
        for number, group in enumerate(self.groups):
            if len(group) == 1 and bool(self.is_number[group[0]]):
                continue
            index = torch.tensor(group)
            effect[index] = self.difference[number] / self.weight
            gradients = self.by_other[number]
            # The group's own features are fixed: at `low` without it, all at `low` but one at `high` with it.
            change = self.with_it[number] - self.without_it[number]
            gradients[index] = low[index][:, None] * change
            gradients[index, torch.arange(len(group))] += (high - low)[index] * self.with_it[number]
            by_served[:, index] = gradients / self.weight
            by_intercept[index] = change / self.weight
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
    size = max(128, _BLOCK // max(width, design.size))
    for rows in design.used_rows():
        for start in range(0, len(rows.y), size):
            yield rows.take(slice(start, start + size))
