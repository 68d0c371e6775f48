"""The roles that columns have beside those of target and features. Needs neither torch nor pyarrow.

A further role takes a `Role` here, an argument of the data modules and, if later commands need its column, a field of
`TableSchema`. The refusal of double roles, reading, missing values, the cache and the batches go by this list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Role:
    """A role of a column: of numbers, or of any values, which are then read as codes.

    Attributes:
        name: its name in the schema, of the tensors that are served, and of the option.
        rule: what every value must be, for messages.
        allows: which numbers of an array or tensor (n,) are that, boolean (n,); never NaN.
        doubt: what makes it doubtful that the numbers (n,) have the role, as the end of a sentence; None without doubt.
        option: the option that names the column; empty for `--data.` and the name.
        coded: whether any values are allowed, which are read as codes. Such a column may have other such roles, and be
            a feature too.
        stored: whether the schema names the column for later commands.
    """

    name: str
    rule: str
    allows: Callable[[Any], Any] = lambda values: values == values
    doubt: Callable[[Any], str | None] = lambda values: None
    option: str = ""
    coded: bool = False
    stored: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "option", self.option or f"--data.{self.name}")


def _looks_like_probability(values: Any) -> str | None:
    if not (len(values) and values.min() >= 0 and values.max() <= 1):
        return None
    return (
        "lies between 0 and 1 in every row; is it a probability? An offset is a log-odds, log(p / (1 - p)), and is "
        "added to the logit as it stands"
    )


WEIGHT = Role("weight", "must be finite and not negative", lambda values: (values >= 0) & (values < math.inf))
OFFSET = Role(
    "offset", "must be finite", lambda values: (values > -math.inf) & (values < math.inf), _looks_like_probability
)

TRIALS = Role(
    "trials",
    "must be a whole number of trials, at least 0",
    lambda values: (values >= 0) & (values < math.inf) & (values == values.round()),
)
SUCCESSES = Role(
    "target",
    "counts successes: a whole number from 0 to the number of trials, and no proportion of them",
    TRIALS.allows,
)
"""The target where there are trials. It is no choice of its own, and so none of the `ROLES`."""

GROUPS = Role("groups", "must name a group", coded=True)
FOLD = Role("fold", "must name a fold", option="--cv.fold_column", coded=True, stored=False)

ROLES = {role.name: role for role in (WEIGHT, OFFSET, TRIALS, GROUPS, FOLD)}
