"""A fitted model as plain numbers and names: all that SQL or a spreadsheet needs to compute a probability."""

from __future__ import annotations

import math
from typing import Any

from lr_lightning.data.schema import Column
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import Predictor
from lr_lightning.version import __version__

UNITS = {"date": "days since 1970-01-01 (UTC)", "time": "days", "boolean": "1 for true, 0 for false"}


def scoring_file(predictor: Predictor) -> dict[str, Any]:
    """The content of a scoring file: nothing but str, int, float, bool, None, list and dict.

    The probability of the positive label is 1 / (1 + exp(−z)), where z is the intercept plus, for each column,
    its value times its coefficient or, for a category, the coefficient of its level.

    Args:
        predictor: the fitted model.

    Returns:
        The keys `version` (of this package), `target`, `negative_label`, `positive_label`, `threshold` (a
        probability above it is the positive label), `missing`, `unseen` (as `TableSchema` has them), `na` (texts
        that count as missing in a column of text), `intercept` and `columns`, in the table's
        order. Each column has a `name` and a `kind`; where there is one, the `unit`
        of its values; a `coefficient` on the original scale or, for a category, its `reference` level and its
        `levels`, the reference among them, each with a `level` and a `coefficient`; and `fill`, what stands in for
        a missing value, or null where a missing value allows no prediction.

    Raises:
        InputError: if a level is infinite, which JSON cannot hold.
    """
    schema, weights = predictor.schema, predictor.coefficients
    return {
        "version": __version__,
        "target": schema.target,
        "negative_label": schema.written_labels[0],
        "positive_label": schema.written_labels[1],
        "threshold": predictor.threshold,
        "missing": schema.missing,
        "unseen": schema.unseen,
        "na": list(schema.na or ()),
        "intercept": predictor.intercept,
        "columns": [_column(column, weights) for column in schema.columns],
    }


def refuse_infinite_levels(column: Column) -> None:
    """Raise InputError if a level is infinite: neither JSON nor a person can make anything of it."""
    if any(isinstance(level, float) and math.isinf(level) for level in column.levels):
        raise InputError(f"column {column.name} has an infinite level, which cannot be exported; correct the table")


def _column(column: Column, weights: dict[str, float]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind in UNITS:
        described["unit"] = UNITS[column.kind]
    if column.kind == "category":
        refuse_infinite_levels(column)
        coefficients = [0.0, *(weights[name] for name in column.feature_names)]
        described["reference"] = column.levels[0]
        described["levels"] = [
            {"level": level, "coefficient": coefficient}
            for level, coefficient in zip(column.levels, coefficients, strict=True)
        ]
    else:
        described["coefficient"] = weights[column.name]
    return {**described, "fill": column.fill}
