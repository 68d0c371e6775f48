"""Average marginal effects: what a feature changes in the probability, on average over the rows."""

from __future__ import annotations

from collections.abc import Sequence
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
_NODES = 44  # in an interval of shifts; what is interpolated, between 0 and 1, has an error of 1e-13
_INTERVAL = 4.0  # its length; the derivative of the sigmoid has its next pole at a distance of π
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

    is_number = torch.zeros(design.n_features, dtype=torch.bool)
    levels = [_Levels.of((ends[1, part] - ends[0, part]) * coefficients[part]) for part in categories]
    widths = [len(flags), *(len(of_one.nodes) for of_one in levels)]
    sums = _Sums(design.n_features, widths, gradients=gradients)
    for rows in design.used_rows(max(128, min(2048, design.size), _BLOCK // max(1, *widths))):
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
            sums.differences[0].add(some, rows, v, without, without + (high - low) * w)
        for part, of_one, differences in zip(categories, levels, sums.differences[1:], strict=True):
            w = coefficients[part]
            without = (z - rows.design.columns(part).matvec(w) + ends[0, part] @ w)[:, None]
            differences.add(slice(None), rows, v, without, without + of_one.nodes)
    sums.reduce(design.processes)
    is_number = design.processes.most(is_number.double()) > 0
    of_flags = sums.differences[0]
    indicators = [(flags[k : k + 1], of_flags.at([k])) for k in range(len(flags)) if not is_number[flags[k]]]
    indicators += [
        (part, differences.interpolated(of_one))
        for part, of_one, differences in zip(categories, levels, sums.differences[1:], strict=True)
    ]
    return sums.effects(design, coefficients, ends, indicators)


def served_coefficients(design: DesignMatrix, parameters: np.ndarray) -> tuple[Tensor, Tensor]:
    """Coefficients (d,) and intercept () for the features in the batches, from parameters (p,) of the design matrix."""
    k, (mean, scale) = len(design.columns), design.standardization
    coefficients = torch.zeros(design.n_features, dtype=torch.float64)
    coefficients[design.columns] = torch.from_numpy(parameters[:k].copy())
    coefficients = coefficients / scale
    intercept = -(mean @ coefficients) + (float(parameters[k]) if design.intercept else 0.0)
    return coefficients, intercept


class _Levels(NamedTuple):
    """Logits that the levels of a category add to those of the reference, and a few nodes that stand for them.

    A mean over the rows of a function of the logit is a smooth function of what is added. So that of thousands of
    levels is interpolated by polynomials from nodes: Chebyshev points of intervals of equal length (Trefethen 2013,
    "Approximation theory and approximation practice", chapter 8). Where an interval has fewer levels they are nodes.

    Attributes:
        nodes: (m,), float64.
        intervals: of each, numbers of its levels (c,), where its nodes are, and the matrix (c, nodes) that interpolates
            between them, or None where the levels are the nodes.
    """

    nodes: Tensor
    intervals: list[tuple[Tensor, slice, Tensor | None]]

    @classmethod
    def of(cls, shifts: Tensor) -> _Levels:
        """From what the levels add, (c,)."""
        degrees = torch.arange(_NODES, dtype=torch.float64)
        points = torch.cos((degrees + 0.5) * (torch.pi / _NODES))
        polynomials = torch.cos(degrees[:, None] * torch.arccos(points)) * (2 / _NODES)
        polynomials[0] /= 2
        number = torch.floor(shifts / _INTERVAL)
        nodes, intervals, start = [], [], 0
        for interval in number.unique().tolist():
            here = (number == interval).nonzero()[:, 0]
            own, matrix = shifts[here], None
            if len(here) > _NODES:
                place = (2 / _INTERVAL * own - 2 * interval - 1).clamp(-1, 1)
                matrix = torch.cos(torch.arccos(place)[:, None] * degrees) @ polynomials
                own = (interval + 0.5 + 0.5 * points) * _INTERVAL
            nodes.append(own)
            intervals.append((here, slice(start, start + len(own)), matrix))
            start += len(own)
        return cls(torch.cat(nodes), intervals)


class _Differences(NamedTuple):
    """Sums over the rows, for m changes of the features: an indicator without it and with it, or a node's shift.

    Attributes:
        difference: Σ v (π with it − π without it), (m,).
        with_it: Σ v π (1 − π) with it, (m,); like the following only where gradients are wanted.
        without_it: the same without it, (m,).
        by_others: Σ v x times the difference of π (1 − π), (d, m).
    """

    difference: Tensor
    with_it: Tensor
    without_it: Tensor
    by_others: Tensor

    @classmethod
    def of(cls, m: int, d: int) -> _Differences:
        """Sums of nothing."""
        difference, with_it, without_it = torch.zeros(3, m, dtype=torch.float64).unbind()
        return cls(difference, with_it, without_it, torch.zeros(d, m, dtype=torch.float64))

    def add(self, part: slice, rows: Rows, v: Tensor, without: Tensor, with_it: Tensor) -> None:
        """Add rows (r,) for some changes: logits without them, (r, c) or (r, 1), and with each, (r, c)."""
        self.difference[part] += v @ (torch.sigmoid(with_it) - torch.sigmoid(without))
        if len(self.by_others):
            of_chosen, of_reference = curvature(with_it, v[:, None]), curvature(without, v[:, None])
            self.by_others[:, part] += rows.design.rmatvec(of_chosen - of_reference)
            self.with_it[part] += of_chosen.sum(0)
            self.without_it[part] += of_reference.sum(0)

    def at(self, part: list[int]) -> _Differences:
        """Some of them."""
        return _Differences(*(total[..., part] for total in self))

    def interpolated(self, levels: _Levels) -> _Differences:
        """Differences of the levels, interpolated from those of their nodes."""
        c = sum(len(here) for here, _, _ in levels.intervals)
        found = _Differences(*(total.new_empty(*total.shape[:-1], c) for total in self))
        for of_levels, of_nodes in zip(found, self, strict=True):
            for here, nodes, matrix in levels.intervals:
                part = of_nodes[..., nodes]
                of_levels[..., here] = part if matrix is None else part @ matrix.T
        return found


class _Sums:
    """Sums of the sweep; d features, all in the units in which the rows are served."""

    def __init__(self, d: int, widths: Sequence[int], *, gradients: bool) -> None:
        self._gradients = gradients
        self.weight = self.slope = self.bend_total = 0.0
        self.bend = torch.zeros(d, dtype=torch.float64)
        self.differences = [_Differences.of(m, d if gradients else 0) for m in widths]

    def add_rows(self, rows: Rows, v: Tensor, z: Tensor) -> None:
        """Add the derivatives by the logits z (r,), with weights v (r,)."""
        slope = curvature(z, v)
        self.weight += float(v.sum())
        self.slope += float(slope.sum())
        if self._gradients:
            bend = -slope * torch.tanh(z / 2)
            self.bend += rows.design.rmatvec(bend)
            self.bend_total += float(bend.sum())

    def reduce(self, processes: Processes) -> None:
        """Make the sums those of all processes."""
        own = [total for differences in self.differences for total in differences]
        found = processes.sums(self.weight, self.slope, self.bend_total, self.bend, *own)
        self.weight, self.slope, self.bend_total, self.bend = found[:4]
        self.differences = [_Differences(*found[k : k + 4]) for k in range(4, len(found), 4)]

    def effects(
        self, design: DesignMatrix, w: Tensor, ends: Tensor, indicators: list[tuple[Tensor, _Differences]]
    ) -> Effects:
        """The effects and their gradients; `indicators` are the groups of features whose differences count."""
        units = design.units
        effect = self.slope / self.weight * w / units  # a change of 1 in original units is 1 / units as served
        for group, differences in indicators:
            effect[group] = differences.difference / self.weight
        if not self._gradients:
            return Effects(effect.numpy(), None)
        by_served = torch.outer(self.bend / self.weight, w / units)
        by_served.diagonal().add_(self.slope / self.weight / units)
        by_intercept = self.bend_total / self.weight * w / units
        for group, (_, with_it, without_it, by_others) in indicators:
            low, high = ends[:, group]
            # The group's own features are fixed: at `low` without it, all at `low` but one at `high` with it.
            change = with_it - without_it
            by_others[group] = low[:, None] * change
            by_others[group, torch.arange(len(group))] += (high - low) * with_it
            by_served[:, group] = by_others / self.weight
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
