"""The random split into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError

TRAIN, VAL, TEST = range(3)


def stratified_parts(
    y: Tensor, *, val_fraction: float, test_fraction: float, seed: int, labels: Sequence[object] = (0, 1)
) -> Tensor:
    """Split rows at random, each class by itself; of a class with two or more rows at least one is for training.

    Args:
        y: 0/1 targets, shape (n,).
        val_fraction: share of the rows for validation, at least 0.
        test_fraction: share of the rows for the test, at least 0.
        seed: the same seed, targets and fractions give the same split on every machine.
        labels: the negative and the positive label, for messages.

    Returns:
        TRAIN, VAL or TEST for each row: uint8, shape (n,), on the CPU.

    Raises:
        InputError: if the fractions are negative, sum to 1 or more, or leave a part without rows or training
            without a class.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {fraction}")
    if val_fraction + test_fraction >= 1:
        raise InputError("val_fraction and test_fraction must sum to less than 1")
    # NumPy counts and selects without an int64 for each row, for which a large table leaves no memory.
    codes = y.cpu().numpy()
    part = np.full(codes.shape, TRAIN, dtype=np.uint8)
    if val_fraction == 0 and test_fraction == 0:
        return torch.from_numpy(part)

    generator = torch.Generator().manual_seed(seed % 2**64)  # torch's range of seeds
    kept_back = {"val_fraction": 0, "test_fraction": 0}  # numbers of rows
    for code in (0, 1):
        of_label = codes == code
        n = int(np.count_nonzero(of_label))
        order = torch.randperm(n, generator=generator, dtype=torch.int32 if n < 2**31 else torch.int64).numpy()
        n_val, n_test = round(val_fraction * n), round(test_fraction * n)
        if n_val + n_test == n > 1:  # the larger of the two parts gives one back
            if kept_back["val_fraction"] + n_val > kept_back["test_fraction"] + n_test:
                n_val -= 1
            else:
                n_test -= 1
        elif n_val + n_test == n == 1:
            raise InputError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} split off the only row with the label "
                f"{labels[code]!r}, which leaves none for training; lower them or set them to 0"
            )
        of_rank = np.full(n, TRAIN, dtype=np.uint8)
        of_rank[order[:n_val]] = VAL
        of_rank[order[n_val : n_val + n_test]] = TEST
        del order
        part[of_label] = of_rank
        kept_back["val_fraction"] += n_val
        kept_back["test_fraction"] += n_test
    for (name, size), fraction in zip(kept_back.items(), (val_fraction, test_fraction), strict=True):
        if fraction > 0 and not size:
            raise InputError(
                f"{name} {fraction} of {len(y)} rows leaves no {name.removesuffix('_fraction')} rows, for each class "
                "is split by itself; raise it or set it to 0"
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
