"""Which rows are kept back for validation and test."""

from __future__ import annotations

import torch
from torch import Tensor

from lr_lightning.errors import InputError


def stratified_split(
    y: Tensor, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Split rows at random, keeping each class's share in every part.

    Args:
        y: 0/1 targets, shape (n,).
        val_fraction: share of the rows for validation, at least 0.
        test_fraction: share of the rows for the test, at least 0.
        seed: the same seed, targets and fractions give the same split on every machine.

    Returns:
        Ascending row numbers (int64) of the training, validation and test rows. Validation or test is None
        where its fraction is 0; all three are None where both are: then every row is a training row.

    Raises:
        InputError: if the fractions are negative, sum to 1 or more, or leave a part without rows.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {fraction}")
    if val_fraction + test_fraction >= 1:
        raise InputError("val_fraction and test_fraction must sum to less than 1")
    if val_fraction == 0 and test_fraction == 0:
        return None, None, None

    generator = torch.Generator().manual_seed(seed)
    train, val, test = [], [], []
    for label in (0, 1):
        rows = (y == label).nonzero()[:, 0].cpu()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        n_val, n_test = round(val_fraction * len(rows)), round(test_fraction * len(rows))
        val.append(rows[:n_val])
        test.append(rows[n_val : n_val + n_test])
        train.append(rows[n_val + n_test :])

    def joined(name: str, parts: list[Tensor], fraction: float) -> Tensor | None:
        chosen = torch.zeros(len(y), dtype=torch.bool)
        chosen[torch.cat(parts)] = True
        index = chosen.nonzero()[:, 0]  # ascending, for less than a sort
        if fraction > 0 and not len(index):
            raise InputError(
                f"{name}_fraction {fraction} of {len(y)} rows leaves no {name} rows; raise it or set it to 0"
            )
        return index if fraction > 0 else None

    return (
        joined("train", train, 1 - val_fraction - test_fraction),
        joined("val", val, val_fraction),
        joined("test", test, test_fraction),
    )
