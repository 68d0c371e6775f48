"""A checksum of the rows of a fit, by which fits of the same rows are told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def rows_fingerprint(part_of_row: np.ndarray, beside: Mapping[str, np.ndarray], weight_scale: float) -> str:
    """A checksum of everything about the rows but their features, in hexadecimal digits.

    Args:
        part_of_row: for each row of the table the number of its part, training, validation or test, or that it is left
            out, (N,).
        beside: targets, weights, offsets and the like of the rows in use, by name, each (n,).
        weight_scale: the number by which the weights have been divided.
    """
    found = hashlib.sha256(np.ascontiguousarray(part_of_row, dtype=np.uint8).data)
    for name, values in sorted(beside.items()):
        values = np.ascontiguousarray(values, dtype=np.float64)
        found.update(name.encode())
        found.update((values * weight_scale if name == "weight" else values).data)
    return found.hexdigest()
