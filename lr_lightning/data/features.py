"""The storage of a table's features: numbers as a matrix, categories as codes. Needs torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lr_lightning.data.schema import TableSchema
from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.design import Dense, as_design
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.storage import Design

if TYPE_CHECKING:
    import pyarrow as pa


class EncodedRows(NamedTuple):
    """Encoded rows of a table.

    Attributes:
        x: raw features, (n, d): a tensor, float64, or a design of numbers and codes where the schema has levels.
        ids: the values (n,) of the identifier column; None if none was asked for.
        offset: the offsets, float64, (n,), NaN for a row that gets no prediction without it; None if the schema has
            none, or the data are an array, whose columns are the features.
        missing: which rows get no prediction, boolean, (n,); None for none, or for those with a NaN in x.
    """

    x: Tensor | Design
    ids: pa.Array | None = None
    offset: Tensor | None = None
    missing: Tensor | None = None

    def dense(self) -> Tensor:
        """The features as a tensor, float64, (n, d), with levels as 0 and 1; a row without prediction is all NaN."""
        x = as_design(self.x).dense(torch.float64)
        return x if self.missing is None else x.masked_fill(self.missing[:, None], torch.nan)

    def as_rows(self) -> Rows:
        """The rows without targets; one that gets no prediction has a NaN in its features or as its offset."""
        y = torch.zeros(as_design(self.x).shape[0], dtype=torch.float64, device=as_design(self.x).device)
        offset = self.offset
        if self.missing is not None and not isinstance(self.x, Tensor):
            offset = (y if offset is None else offset).masked_fill(self.missing, torch.nan)
        return Rows(self.x, y, offset=offset)


@dataclass(frozen=True)
class Layout:
    """The division of a schema's d features into numbers and codes.

    Attributes:
        numbers: positions of the features that are numbers, (m,), int64.
        of_levels: positions of the features that are levels, (d − m,), int64.
        coded: positions, among all categories, of the c categories that have features: two levels or more.
        levels: numbers of levels of these categories, the references included, c of them.
    """

    numbers: Tensor
    of_levels: Tensor
    coded: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, schema: TableSchema) -> Layout:
        """The layout of a schema's features."""
        sizes = [len(column.levels) for column in schema.columns if column.kind == "category"]
        is_level = torch.tensor(
            [column.kind == "category" for column in schema.columns for _ in range(column.n_features)], dtype=torch.bool
        )
        coded = tuple(j for j, size in enumerate(sizes) if size > 1)
        return cls((~is_level).nonzero()[:, 0], is_level.nonzero()[:, 0], coded, tuple(sizes[j] for j in coded))

    def features(self, numbers: Tensor, codes: Tensor | None) -> Tensor | Design:
        """The features of n rows.

        Args:
            numbers: (n, m), of a floating dtype.
            codes: of the levels, (n, c), int32; None where c is 0.

        Returns:
            The numbers themselves where there is no level, else a design: a level is 0 or 1.
        """
        if codes is None:
            return numbers
        categories = Categories(codes, self.levels)
        if not numbers.shape[1]:
            return categories
        return Columns([Dense(numbers), categories], [self.numbers, self.of_levels])

    def stored(self, x: Tensor | Design) -> tuple[Tensor, Tensor | None]:
        """The numbers and the codes that `features` was given."""
        if isinstance(x, Tensor):
            return x, None
        numbers, codes = torch.empty(x.shape[0], 0, dtype=torch.float64), None
        for part in x.parts if isinstance(x, Columns) else [x]:
            if isinstance(part, Categories):
                codes = part.codes
            elif isinstance(part, Dense):
                numbers = part.tensor
        return numbers, codes

    def served(self, training: Standardization) -> Standardization:
        """The standardisation of the served features: numbers are standardised, levels stay 0 and 1.

        Args:
            training: means and scales of the training rows, (d,).
        """
        mean, scale = (values.clone() for values in training.divisible())
        mean[self.of_levels], scale[self.of_levels] = 0.0, 1.0
        return Standardization(mean, scale)
