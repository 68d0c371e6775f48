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
    """A role of a column of numbers.

    Attributes:
        name: its name in the schema, of the tensors that are served, and of the option.
        rule: what every number must be, for messages.
        allows: which numbers of an array or tensor (n,) are that, boolean (n,); never NaN.
        doubt: what makes it doubtful that the numbers (n,) have the role, as the end of a sentence; None without doubt.
    """

    name: str
    rule: str
    allows: Callable[[Any], Any]
    doubt: Callable[[Any], str | None] = lambda values: None

    @property
    def option(self) -> str:
        """The option that names the column."""
        return f"--data.{self.name}"


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

ROLES = {role.name: role for role in (WEIGHT, OFFSET, TRIALS)}
