"""The training rows of a fit, and the statistics of them that a fit needs before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lr_lightning.data.spelling import weights_by_label
from lr_lightning.errors import InputError
from lr_lightning.model.design import Design
from lr_lightning.model.losses import has_shares
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows, scaled_weights
from lr_lightning.model.standardization import Standardization, moments

_LARGEST_SUM = 1e305  # of weights; a log-likelihood is a multiple of it
_SMALLEST_SUM = 1e-290  # of the weights in the batches; smaller sums lose digits in float64


@dataclass(frozen=True)
class TrainingRows:
    """Batches of training rows and their statistics, with weights v: the sample weight times the class weight.

    Attributes:
        batches: the rows, see `Rows.of_batch`; they can be iterated more than once.
        n_rows: number of rows.
        dtype: dtype of the served features.
        class_weights: weights of the negative and the positive class.
        weight_sum: Σ v, with the weights in the batches.
        standardization: weighted means and scales (d,) of the served features.
        has_offset: whether the rows have offsets.
        has_shares: whether some targets lie between 0 and 1.
        weight_scale: the number by which v has been divided; the original Σ v is `weight_sum` times it.
        processes: that have the rows; the batches are those of this one, one batch, and all else is of all rows.
    """

    batches: Iterable[Sequence[Tensor]]
    n_rows: int
    dtype: torch.dtype
    class_weights: tuple[float, float]
    weight_sum: float
    standardization: Standardization
    has_offset: bool = False
    has_shares: bool = False
    weight_scale: float = 1.0
    processes: Processes = ALONE

    @classmethod
    def of(
        cls,
        batches: Iterable[Sequence[Tensor]],
        class_weight: str | Mapping[Any, float] | None,
        labels: Sequence[object],
        standardization: Standardization | None = None,
        weight_scale: float = 1.0,
        *,
        split: bool = False,
        processes: Processes = ALONE,
    ) -> TrainingRows:
        """Compute the statistics of batches, in one or two sweeps.

        Args:
            batches: the rows, see `Rows.of_batch`; they can be iterated more than once.
            class_weight: None, "balanced" or a weight for each of `labels`.
            labels: the negative and the positive label.
            standardization: the standardisation without class weights, if it is known already.
            weight_scale: the number by which the sample weights have been divided.
            split: whether other rows were kept back, for messages.
            processes: that have the rows.

        Raises:
            InputError: if a class has no rows, `class_weight` does not fit the labels, or Σ v is too large or too
                small for float64.
        """
        n_rows, negative, positive, dtype, has_offset, shares = _class_sums(batches)
        n_rows, negative, positive = processes.sums(n_rows, negative, positive)
        shares = processes.any(shares)
        if negative == 0 or positive == 0:
            hint = ", or keep fewer rows back (val_fraction, test_fraction)" if split else ""
            raise InputError(
                f"the training rows (of positive weight) hold one class only; both {labels[0]!r} and {labels[1]!r} "
                f"must occur{hint}"
            )
        of_class = _class_weights(class_weight, labels, negative, positive)
        scaled, scale = scaled_weights(torch.tensor(of_class, dtype=torch.float64))
        (of_negative, of_positive), weight_scale = scaled.tolist(), weight_scale * scale
        of_class = of_negative, of_positive
        weight_sum = negative * of_class[0] + positive * of_class[1]
        if not weight_sum * weight_scale < _LARGEST_SUM:
            raise InputError(
                f"the weights sum to more than the {_LARGEST_SUM:.0e} that likelihoods are computed for; divide all "
                "of them by one number, which changes no estimate"
            )
        if weight_sum < _SMALLEST_SUM:
            raise InputError(
                f"the weights that the training loader serves sum to less than {_SMALLEST_SUM:.0e}, where float64 has "
                "lost digits; multiply all of them by one number, which changes no estimate"
            )
        if standardization is None or of_class != (1.0, 1.0):
            standardization = moments(_Weighted(batches, of_class), processes)
        of_rows = (dtype, of_class, weight_sum, standardization, has_offset, shares, weight_scale, processes)
        return cls(batches, n_rows, *of_rows)

    def weighted(self) -> Iterator[Rows]:
        """The batches as rows with weights v."""
        return (Rows.of_batch(batch).weighted(self.class_weights) for batch in self.batches)

    def some(self, size: int) -> Rows:
        """A random sample of about `size` rows, or all rows of this process if they are one batch, with weights v."""
        batches = iter(self.batches)
        first = next(batches)
        if len(first[1]) == self.n_rows or self.processes.count > 1:
            return Rows.of_batch(first).weighted(self.class_weights)
        generator = torch.Generator().manual_seed(0)
        parts = []
        for batch in chain([first], batches):
            chosen = torch.rand(len(batch[1]), generator=generator) < size / self.n_rows
            rows = Rows.of_batch(batch).take(chosen.to(batch[1].device))
            parts.append(rows._replace(x=rows.design.dense()).as_batch())
        return Rows(*map(torch.cat, zip(*parts, strict=True))).weighted(self.class_weights)


@dataclass(frozen=True)
class _Weighted:
    """Features and weights v of batches, computed anew in each iteration."""

    batches: Iterable[Sequence[Tensor]]
    class_weights: tuple[float, float]

    def __iter__(self) -> Iterator[tuple[Tensor | Design, Tensor | None]]:
        for batch in self.batches:
            rows = Rows.of_batch(batch).weighted(self.class_weights)
            yield rows.x, rows.weight


def _class_sums(batches: Iterable[Sequence[Tensor]]) -> tuple[int, float, float, torch.dtype, bool, bool]:
    """The number of rows, the weights of the negative and the positive class, and what the rows hold."""
    n_rows, negative, positive, dtype, has_offset, shares = 0, 0.0, 0.0, torch.float32, False, False
    for rows in map(Rows.of_batch, batches):
        dtype, has_offset = rows.x.dtype, rows.offset is not None
        shares = shares or has_shares(rows.y)
        n_rows += len(rows.y)
        v = torch.ones_like(rows.y) if rows.weight is None else rows.weight
        # Two sums, because the difference of two sums would cancel for a class of little weight.
        y = rows.y if rows.y.is_floating_point() else rows.y.double()
        negative += float((v * (1 - y)).sum(dtype=torch.float64))
        positive += float((v * y).sum(dtype=torch.float64))
    return n_rows, negative, positive, dtype, has_offset, shares


def _class_weights(
    class_weight: str | Mapping[Any, float] | None, labels: Sequence[object], negative: float, positive: float
) -> tuple[float, float]:
    if class_weight is None:
        return 1.0, 1.0
    if class_weight == "balanced":
        half = (negative + positive) / 2
        return half / negative, half / positive
    if isinstance(class_weight, str):
        raise InputError(f"class_weight must be balanced or a weight for each label, not {class_weight!r}")
    try:
        found, unknown = weights_by_label(labels, class_weight)
        negative_weight, positive_weight = (float(found.get(place, 1.0)) for place in (0, 1))
    except (TypeError, ValueError) as error:
        raise InputError(f"{error}; class_weight holds a number for each label") from None
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise InputError(f"class_weight names {names}, but the labels are {labels[0]!r} and {labels[1]!r}")
    if not (0 < negative_weight < float("inf") and 0 < positive_weight < float("inf")):
        raise InputError("every class weight must be a positive number")
    return negative_weight, positive_weight
