"""Which rows are kept back for validation and test."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError

TRAIN, VAL, TEST = range(3)


def stratified_parts(y: Tensor, *, val_fraction: float, test_fraction: float, seed: int) -> Tensor:
    """Split rows at random, keeping each class's share in every part.

    Args:
        y: 0/1 targets, shape (n,).
        val_fraction: share of the rows for validation, at least 0.
        test_fraction: share of the rows for the test, at least 0.
        seed: the same seed, targets and fractions give the same split on every machine.

    Returns:
        TRAIN, VAL or TEST for each row: uint8, shape (n,), on the CPU.

    Raises:
        InputError: if the fractions are negative, sum to 1 or more, or leave a part without rows.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {fraction}")
    if val_fraction + test_fraction >= 1:
        raise InputError("val_fraction and test_fraction must sum to less than 1")
    # NumPy counts and selects without an integer of eight bytes for each row; a table can have more rows than
    # there is memory for that.
    labels = y.cpu().numpy()
    part = np.full(labels.shape, TRAIN, dtype=np.uint8)
    if val_fraction == 0 and test_fraction == 0:
        return torch.from_numpy(part)

    generator = torch.Generator().manual_seed(seed)
    counts = [0, 0, 0]
    for label in (0, 1):
        of_label = labels == label
        n = int(np.count_nonzero(of_label))
        order = torch.randperm(n, generator=generator, dtype=torch.int32 if n < 2**31 else torch.int64).numpy()
        n_val, n_test = round(val_fraction * n), round(test_fraction * n)
        of_rank = np.full(n, TRAIN, dtype=np.uint8)
        of_rank[order[:n_val]] = VAL
        of_rank[order[n_val : n_val + n_test]] = TEST
        del order
        part[of_label] = of_rank
        for code, size in ((TRAIN, n - n_val - n_test), (VAL, n_val), (TEST, n_test)):
            counts[code] += size
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    for name, fraction, size in zip(("train", "val", "test"), fractions, counts, strict=True):
        if fraction > 0 and not size:
            raise InputError(
                f"{name}_fraction {fraction} of {len(y)} rows leaves no {name} rows; raise it or set it to 0"
            )
    return torch.from_numpy(part)


def stratified_split(
    y: Tensor, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The row numbers of `stratified_parts`.

    Returns:
        Ascending row numbers (int64) of the training, validation and test rows. Validation or test is None
        where its fraction is 0; all three are None where both are: then every row is a training row.

    Raises:
        InputError: as `stratified_parts`.
    """
    part = stratified_parts(y, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    if val_fraction == 0 and test_fraction == 0:
        return None, None, None
    rows = {code: (part == code).nonzero()[:, 0] for code in (TRAIN, VAL, TEST)}
    return rows[TRAIN], rows[VAL] if val_fraction > 0 else None, rows[TEST] if test_fraction > 0 else None
