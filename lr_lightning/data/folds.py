"""The folds of a cross-validation."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.rows import Rows

log = logging.getLogger("lr_lightning")


def stratified_folds(rows: Rows, n_folds: int, *, seed: int) -> Tensor:
    """Deal the rows out at random, those of each class by themselves.

    Rows without weight are dealt out by themselves too, so that no fold is made of them.

    Args:
        rows: n rows; of their targets those above 0.5 count as positive.
        n_folds: K, at least 2; fewer where a class has fewer rows of positive weight, and then a message says so.
        seed: the same seed, targets and weights give the same folds on every machine.

    Returns:
        The number of each row's fold, from 0 to K − 1, (n,), int64.

    Raises:
        InputError: if a class has one row only.
    """
    if n_folds < 2:
        raise InputError(f"option cv.folds: a cross-validation needs at least 2 folds, not {n_folds}")
    positive = (rows.y > 0.5).cpu().numpy()
    weighs = np.ones(len(positive), bool) if rows.weight is None else (rows.weight > 0).cpu().numpy()
    rarest = min(int((positive[weighs] == of_class).sum()) for of_class in (False, True))
    if rarest < 2:
        raise InputError(
            f"a class has {rarest} training row{'' if rarest == 1 else 's'} of positive weight, and a cross-validation "
            "needs 2: name a penalty with fit --model.l1 or --model.l2"
        )
    if rarest < n_folds:
        log.warning("%d folds instead of %d: the rarer class has no more rows", rarest, n_folds)
        n_folds = rarest
    generator = torch.Generator().manual_seed(seed % 2**64)
    folds, dealt = np.empty(len(positive), np.int64), 0
    for stratum in (weighs & positive, weighs & ~positive, ~weighs):
        index = np.flatnonzero(stratum)
        order = torch.randperm(len(index), generator=generator).numpy()
        # The next stratum goes on with the fold after, so that the folds differ by a row at most.
        folds[index[order]] = (dealt + np.arange(len(index))) % n_folds
        dealt += len(index)
    return torch.from_numpy(folds)
