"""The random split into training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lr_lightning.data.hashing import draws
from lr_lightning.errors import InputError
from lr_lightning.model.processes import ALONE, Processes

TRAIN, VAL, TEST = range(3)
PERMUTATION, HASH = "permutation", "hash"  # how the parts of rows are drawn
HASHED_FROM = 10**8
"""From so many rows on a hash of seed and row number draws the part of each, and no process needs all of them."""

_BLOCK_ROWS = 1 << 16


def rule_of(n_rows: int) -> str:
    """The rule that draws the parts of so many rows in a new fit: PERMUTATION or HASH."""
    return PERMUTATION if n_rows < HASHED_FROM else HASH


def stratified_parts(
    y: Tensor,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    labels: Sequence[object] = (0, 1),
    groups: np.ndarray | None = None,
    rule: str | None = None,
    processes: Processes = ALONE,
) -> Tensor:
    """Split rows at random, each class by itself; of a class with two or more rows at least one is for training.

    The rows of a group stay together; then the shares are as near to the fractions as the groups allow. By HASH each
    row, or group, is drawn by itself, whatever its class, and the shares are near the fractions because rows are many.

    Args:
        y: 0/1 targets of this process's rows, shape (n,).
        val_fraction: share of the rows for validation, at least 0.
        test_fraction: share of the rows for the test, at least 0.
        seed: the same seed, targets and fractions give the same split on every machine.
        labels: the negative and the positive label, for messages.
        groups: numbers of the rows' groups, from 0, shape (n,), or None.
        rule: PERMUTATION or HASH; None for that of a new fit.
        processes: that have the rows. By PERMUTATION each of them holds the order of all rows of a class for a moment,
            four bytes a row.

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
    if val_fraction == 0 and test_fraction == 0:
        return torch.from_numpy(np.full(codes.shape, TRAIN, dtype=np.uint8))
    shares = [1 - val_fraction - test_fraction, val_fraction, test_fraction]
    start, total = processes.place(len(codes))
    if (rule or rule_of(total)) == HASH:
        part = _hashed_parts(start, len(codes), groups, shares, seed)
        left = f"the seed {seed} leaves no"
    elif groups is not None:
        of_group = part_of_groups(codes, groups, shares, seed, processes)
        part = of_group[groups].astype(np.uint8)
        several = "s" * (len(of_group) != 1)
        left = f"the rows are of {len(of_group)} group{several}, which stay together: that leaves no"
    else:
        return torch.from_numpy(_permuted_parts(codes, total, shares, seed, labels, processes))
    (sizes,) = processes.sums(np.bincount(part, minlength=3))
    for code, name in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        if shares[code] > 0 and not sizes[code]:
            raise InputError(f"{left} {name} rows; lower val_fraction and test_fraction or set them to 0")
    return torch.from_numpy(part)


def _hashed_parts(start: int, n: int, groups: np.ndarray | None, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part of each of n rows, uint8, (n,), by a hash of its number, of which the first is `start`, or its group."""
    part = np.empty(n, dtype=np.uint8)
    bounds = np.cumsum([shares[VAL], shares[TEST]])
    for first in range(0, n, _BLOCK_ROWS):
        rows = slice(first, min(first + _BLOCK_ROWS, n))
        numbers = np.arange(start + rows.start, start + rows.stop) if groups is None else groups[rows]
        uniform = (draws(numbers, seed) >> np.uint64(11)) * 2.0**-53
        part[rows] = np.array([VAL, TEST, TRAIN], dtype=np.uint8)[np.searchsorted(bounds, uniform, side="right")]
    return part


def _permuted_parts(
    codes: np.ndarray, n_rows: int, shares: Sequence[float], seed: int, labels: Sequence[object], processes: Processes
) -> np.ndarray:
    """The part of each row, uint8, (n,): of each class the first ones in a random order of all `n_rows` rows.

    Raises:
        InputError: if a part would have no rows, or training would lack a class.
    """
    part = np.full(codes.shape, TRAIN, dtype=np.uint8)
    generator = torch.Generator().manual_seed(seed % 2**64)  # torch's range of seeds
    kept_back = {VAL: 0, TEST: 0}  # numbers of rows
    for code in (0, 1):
        of_label = codes == code
        of_rank = np.full(int(np.count_nonzero(of_label)), TRAIN, dtype=np.uint8)  # among the rows of the class
        start, n = processes.place(len(of_rank))
        order = torch.randperm(n, generator=generator, dtype=torch.int32 if n < 2**31 else torch.int64).numpy()
        n_val, n_test = (round(shares[kept] * n) for kept in kept_back)
        if n_val + n_test == n > 1:  # the larger of the two parts gives one back
            if kept_back[VAL] + n_val > kept_back[TEST] + n_test:
                n_val -= 1
            else:
                n_test -= 1
        elif n_val + n_test == n == 1:
            raise InputError(
                f"val_fraction {shares[VAL]} and test_fraction {shares[TEST]} split off the only row with the label "
                f"{labels[code]!r}, which leaves none for training; lower them or set them to 0"
            )
        for kept, ranks in ((VAL, order[:n_val]), (TEST, order[n_val : n_val + n_test])):
            if len(of_rank) < n:
                ranks = ranks[(ranks >= start) & (ranks < start + len(of_rank))] - start
            of_rank[ranks] = kept
        del order
        part[of_label] = of_rank
        kept_back[VAL] += n_val
        kept_back[TEST] += n_test
    for kept, name in ((VAL, "val"), (TEST, "test")):
        if shares[kept] > 0 and not kept_back[kept]:
            raise InputError(
                f"{name}_fraction {shares[kept]} of {n_rows} rows leaves no {name} rows, for each class is split by "
                "itself; raise it or set it to 0"
            )
    return part


def part_of_groups(
    strata: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int, processes: Processes = ALONE
) -> np.ndarray:
    """Divide groups at random among parts, so that each part has about its share of the rows of each class.

    Groups with the same numbers of rows of each class stand for one another; of each such kind every part takes its
    share, rounded down. The groups that are left over are given away by size, the largest first, each to the part that
    lacks the most of what the group has.

    Args:
        strata: classes of the rows, 0 or 1, (n,).
        groups: numbers of the rows' groups, from 0, (n,).
        shares: of the parts, (p,), which sum to 1.
        seed: the same arguments give the same parts on every machine.
        processes: that have the rows; what grows in each is the number of groups, not that of rows.

    Returns:
        The number of each group's part, int64, (number of groups,). While there are as many groups as parts with a
        share above 0, each of these has a group, and the first has both classes if two groups allow it.
    """
    n_groups = int(processes.most(float(groups.max(initial=-1)))) + 1
    (counts,) = processes.sums(np.stack([np.bincount(groups[strata == c], minlength=n_groups) for c in (0, 1)], axis=1))
    counts = counts.astype(np.int64)
    share = np.asarray(shares, dtype=np.float64)
    order = torch.randperm(n_groups, generator=torch.Generator().manual_seed(seed % 2**64)).numpy()
    kinds, kind, n_alike = np.unique(counts[order], axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    by_kind = np.argsort(kind, kind="stable")
    rank = np.empty(n_groups, dtype=np.int64)  # of a group among those of its kind
    rank[by_kind] = np.arange(n_groups) - np.repeat(np.cumsum(n_alike) - n_alike, n_alike)
    ends = np.floor(n_alike[:, None] * share + 1e-9).astype(np.int64).cumsum(axis=1)  # (kinds, p)
    found = (rank[:, None] >= ends[kind]).sum(axis=1)
    lacking = share[:, None] * counts.sum(axis=0)  # (p, 2)
    for code in range(len(share)):
        lacking[code] -= counts[order[found == code]].sum(axis=0)
    per_row = 1 / np.maximum(counts.sum(axis=0), 1)
    left_over = np.flatnonzero(found == len(share))
    sizes = kinds[kind[left_over]].sum(axis=1)
    for i in left_over[np.argsort(-sizes, kind="stable")].tolist():
        of_group = counts[order[i]]
        gain = np.where(share > 0, lacking @ (of_group * per_row), -np.inf)
        found[i] = int(gain.argmax())
        lacking[found[i]] -= of_group
    part = np.empty(n_groups, dtype=np.int64)
    part[order] = found
    _fill_empty_parts(part, counts, share)
    return part


def _fill_empty_parts(part: np.ndarray, counts: np.ndarray, share: np.ndarray) -> None:
    """Give each part with a share above 0 a group, and the first part both classes, by moving small groups."""
    sizes = counts.sum(axis=1)
    for code in np.flatnonzero(share > 0).tolist():
        n_groups = np.bincount(part, minlength=len(share))
        if not n_groups[code] and n_groups.max() > 1:
            donors = np.flatnonzero(part == n_groups.argmax())
            part[donors[sizes[donors].argmin()]] = code
    for stratum in (0, 1):
        holders = np.flatnonzero(counts[:, stratum])
        if len(holders) and not (part[holders] == 0).any():
            n_groups = np.bincount(part, minlength=len(share))
            donors = holders[n_groups[part[holders]] > 1]
            if len(donors):
                part[donors[sizes[donors].argmin()]] = 0


def stratified_split(
    y: Tensor,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    groups: np.ndarray | None = None,
    rule: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The row numbers of `stratified_parts`.

    Returns:
        Ascending row numbers (int64) of the training, validation and test rows. Validation or test is None
        where its fraction is 0; all three are None where both are: then every row is a training row.

    Raises:
        InputError: as `stratified_parts`.
    """
    part = stratified_parts(
        y, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed, groups=groups, rule=rule
    )
    if val_fraction == 0 and test_fraction == 0:
        return None, None, None
    rows = {code: (part == code).nonzero()[:, 0] for code in (TRAIN, VAL, TEST)}
    return rows[TRAIN], rows[VAL] if val_fraction > 0 else None, rows[TEST] if test_fraction > 0 else None
