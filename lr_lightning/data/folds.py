"""The folds of a cross-validation."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.rows import Rows

log = logging.getLogger("lr_lightning")


def refuse_few_folds(n_folds: int) -> None:
    """Raise InputError for less than two folds."""
    if n_folds < 2:
        raise InputError(f"option cv.folds: a cross-validation needs at least 2 folds, not {n_folds}")


def stratified_folds(rows: Rows, n_folds: int, *, seed: int, groups: Tensor | None = None) -> Tensor:
    """Deal the rows out at random, those of each class by themselves, or their groups whole.

    Rows of both classes, such as counts of successes, are dealt out between those of one, and rows without weight by
    themselves, so that no fold is made of them.

    Args:
        rows: n rows; a target between 0 and 1 is one of both classes.
        n_folds: K, at least 2; fewer where a class has fewer rows of positive weight, and then a message says so.
        seed: the same seed, targets, weights and groups give the same folds on every machine.
        groups: number of each row's group, (n,); the rows of a group come into one fold, and the folds are as alike in
            the number of rows of each class as the groups allow.

    Returns:
        The number of each row's fold, from 0 to K − 1, (n,), int64.

    Raises:
        InputError: if a class has one row only, or there is one group only.
    """
    refuse_few_folds(n_folds)
    y = rows.y.cpu().numpy()
    weighs = np.ones(len(y), bool) if rows.weight is None else (rows.weight > 0).cpu().numpy()
    rarest = min(int((weighs & of_class).sum()) for of_class in (y < 1, y > 0))
    if rarest < 2:
        raise InputError(
            f"a class has {rarest} training row{'' if rarest == 1 else 's'} of positive weight, and a cross-validation "
            "needs 2: name a penalty with fit --model.l1 or --model.l2"
        )
    if rarest < n_folds:
        log.warning("%d folds instead of %d: the rarer class has no more rows", rarest, n_folds)
        n_folds = rarest
    generator = torch.Generator().manual_seed(seed % 2**64)
    if groups is not None:
        return torch.from_numpy(_of_groups(groups.cpu().numpy(), y, weighs, n_folds, generator))
    folds, dealt = np.empty(len(y), np.int64), 0
    for stratum in (weighs & (y == 1), weighs & (y > 0) & (y < 1), weighs & (y == 0), ~weighs):
        index = np.flatnonzero(stratum)
        order = torch.randperm(len(index), generator=generator).numpy()
        # The next stratum goes on with the fold after, so that the folds differ by a row at most.
        folds[index[order]] = (dealt + np.arange(len(index))) % n_folds
        dealt += len(index)
    return torch.from_numpy(folds)


def _of_groups(
    groups: np.ndarray, y: np.ndarray, weighs: np.ndarray, n_folds: int, generator: torch.Generator
) -> np.ndarray:
    """Each group, the largest first, goes into the fold that lacks most of its rows."""
    number, of_row = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(of_row, weighs * of_class) for of_class in (y, 1 - y)], 1)
    heavy = int((counts.sum(1) > 0).sum())
    if heavy < 2:
        raise InputError("data.groups: the training rows are of one group, and a cross-validation needs 2")
    if heavy < n_folds:
        log.warning("%d folds instead of %d: there are no more groups", heavy, n_folds)
        n_folds = heavy
    counts = counts / counts.sum(0)
    order = torch.randperm(len(number), generator=generator).numpy()
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    fold_of, filled = np.empty(len(number), np.int64), np.zeros((n_folds, 2))
    for group in order.tolist():
        fold = int(np.square(filled + counts[group]).sum(1).argmin())
        fold_of[group], filled[fold] = fold, filled[fold] + counts[group]
    return fold_of[of_row]
