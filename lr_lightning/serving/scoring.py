"""The scoring file: a fitted model as plain values, from which SQL or a spreadsheet computes probabilities."""

from __future__ import annotations

import math
from typing import Any

from lr_lightning.data.schema import Column
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import Predictor
from lr_lightning.version import __version__

UNITS = {"date": "days since 1970-01-01 (UTC)", "time": "days", "boolean": "1 for true, 0 for false"}


def scoring_file(predictor: Predictor) -> dict[str, Any]:
    """The content of a scoring file, made of str, int, float, bool, None, list and dict.

    The probability of the positive label is 1 / (1 + exp(−z)), where z is the intercept plus, for each column,
    its value times its coefficient or, for a category, the coefficient of its level, plus the value of the offset's
    column if there is one.

    Args:
        predictor: the fitted model.

    Returns:
        A dict with the keys `version` (of this package), `target`, `negative_label`, `positive_label`, `threshold`
        (a probability above it is the positive label), `missing` and `unseen` (see `TableSchema`), `na` (the texts
        that count as missing in a column of text), `intercept`, `offset` (the name of a column, or null), and
        `columns`, in the order of the schema.

        Each column is a dict with the keys `name`, `kind` and `fill`, and with `unit` if its values have one. `fill`
        replaces a missing value; it is null if a row with a missing value gets no prediction. A category has the keys
        `reference`, its reference level, and `levels`, all of its levels, each with `level` and `coefficient`. Any
        other column has a `coefficient`, on the original scale.

    Raises:
        InputError: if a level is infinite, which JSON cannot hold.
    """
    schema, coefficients = predictor.schema, predictor.coefficients
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
        "offset": offset_of(predictor),
        "columns": [_column(column, coefficients) for column in schema.columns],
    }


def offset_of(predictor: Predictor) -> str | None:
    """The name of the offset's column.

    Raises:
        InputError: if the fit, to bare batches, had an offset without a name.
    """
    if predictor.model.needs_offset and predictor.schema.offset is None:
        raise InputError("the fit had an offset that has no name; fit to a TensorDataModule or a TableDataModule")
    return predictor.schema.offset


def refuse_infinite_levels(column: Column) -> None:
    """Raise InputError if a level is infinite, which JSON cannot hold."""
    if any(isinstance(level, float) and math.isinf(level) for level in column.levels):
        raise InputError(f"column {column.name} has an infinite level, which cannot be exported; correct the table")


def _column(column: Column, coefficients: dict[str, float]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind in UNITS:
        described["unit"] = UNITS[column.kind]
    if column.kind == "category":
        refuse_infinite_levels(column)
        of_levels = [0.0, *(coefficients[name] for name in column.feature_names)]
        described["reference"] = column.levels[0]
        described["levels"] = [
            {"level": level, "coefficient": coefficient}
            for level, coefficient in zip(column.levels, of_levels, strict=True)
        ]
    else:
        described["coefficient"] = coefficients[column.name]
    return {**described, "fill": column.fill}
