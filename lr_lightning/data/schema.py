"""What a fit has to remember of a table: columns, types, levels and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TableSchema:
    """The path from raw columns to features; plain data, stored in the checkpoint.

    Attributes:
        feature_names: names of the coded features, in the order of the weights.
        target: name of the target column.
        labels: the negative and the positive label, as the table spells them.
    """

    feature_names: tuple[str, ...]
    target: str
    labels: tuple[object, object] = (0, 1)

    @classmethod
    def of_numbers(cls, names: Sequence[str], target: str) -> TableSchema:
        """Columns of plain numbers and a 0/1 target."""
        return cls(tuple(names), target)

    def to_dict(self) -> dict:
        return {"feature_names": list(self.feature_names), "target": self.target, "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, d):
        return cls(tuple(d["feature_names"]), d["target"], tuple(d["labels"]))
