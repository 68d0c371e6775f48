"""Checksums of the rows of a fit, by which fits of the same rows are told. Several processes compute them together."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch

from lr_lightning.data.hashing import draws, mixed
from lr_lightning.model.processes import ALONE, Processes

_BLOCK_ROWS = 1 << 16
_POLYNOMIAL = 0xEDB88320  # of CRC-32, its lowest bit the coefficient of x**31
_ONE, _BYTE = 1 << 31, 1 << 23  # the polynomials 1 and x**8
_ALL = 0xFFFFFFFF


def rows_fingerprint(
    part_of_row: np.ndarray,
    beside: Mapping[str, np.ndarray],
    weight_scale: float,
    *,
    left_out: int | None = None,
    start: int = 0,
    processes: Processes = ALONE,
) -> str:
    """A checksum of everything about the rows but their features, in hexadecimal digits.

    It is the sum, modulo 2**64, of a hash of each row in use, and the sum of another one. So every process adds up its
    own rows.

    Args:
        part_of_row: for each row of the table the number of its part, training, validation or test, (N,).
        beside: targets, weights, offsets and the like of the rows in use, by name, each (n,).
        weight_scale: the number by which the weights have been divided.
        left_out: the number of the part of rows that are not in use.
        start: the number of the first of these rows in the table.
        processes: that have the rows.
    """
    sums, used = np.zeros(2, dtype=np.uint64), 0
    for first in range(0, len(part_of_row), _BLOCK_ROWS):
        part = part_of_row[first : first + _BLOCK_ROWS]
        in_use = np.arange(len(part)) if left_out is None else np.flatnonzero(part != left_out)
        hashes = draws(start + first + in_use, 0) + part[in_use]
        rows = slice(used, used + len(in_use))
        used = rows.stop
        for name, values in sorted(beside.items()):
            values = values[rows].astype(np.float64)
            values = values * weight_scale if name == "weight" else values
            hashes ^= (values + 0.0).view(np.uint64)  # 0 for −0
            hashes = mixed(hashes + np.uint64(zlib.crc32(name.encode())))
        with np.errstate(over="ignore"):
            sums += [hashes.sum(dtype=np.uint64), mixed(hashes).sum(dtype=np.uint64)]
    of_all = processes.joined(torch.from_numpy(sums.view(np.int64))[None]).numpy().view(np.uint64)
    return "".join(f"{int(total):016x}" for total in of_all.sum(0, dtype=np.uint64))


def labels_checksum(y: np.ndarray, groups: np.ndarray | None, *, counted: bool, processes: Processes = ALONE) -> int:
    """The CRC-32 of the targets of all rows, in order, and of their groups, from their number on.

    Args:
        y: targets of this process's rows: 0 and 1, uint8, eight of which are a byte, or, if `counted`, shares, float64.
        groups: numbers of their groups, int32, (n,), or None.
        counted: whether the targets are shares.
        processes: that have the rows.
    """
    start, total = processes.place(len(y))
    if counted:
        labels, first, n_bytes = y.view(np.uint8), y.itemsize * start, y.itemsize * total
    else:
        before = start % 8  # bits of the first byte, which are those of the process before
        head = np.concatenate([np.zeros(before, np.uint8), y[: 8 - before]])
        labels = np.concatenate([np.packbits(head), np.packbits(y[8 - before :])]) if len(y) else np.empty(0, np.uint8)
        first, n_bytes = start // 8, -(-total // 8)
    checksum = _crc_of_all(labels, first, n_bytes, total, processes)
    if groups is None:
        return checksum
    return _crc_of_all(groups.view(np.uint8), 4 * start, 4 * total, checksum, processes)


def _crc_of_all(own: np.ndarray, first: int, n_bytes: int, crc: int, processes: Processes) -> int:
    """`zlib.crc32(data, crc)` of n_bytes of data, of which `own` are this process's from number `first` on.

    A byte that belongs to two processes is the sum of what both have. A CRC is linear: that of the whole is the sum of
    those of the parts, each followed by as many zeros as there are bytes behind it, plus that of the register.
    """
    register = zlib.crc32(own.data, _ALL) ^ _ALL  # of a register that begins as 0 and is not inverted at the end
    register = _before_zeros(register, n_bytes - first - len(own)) if len(own) else 0
    total = _before_zeros((crc & _ALL) ^ _ALL, n_bytes)
    for part in processes.joined(torch.tensor([register])).tolist():
        total ^= part
    return total ^ _ALL


def _before_zeros(register: int, n: int) -> int:
    """The register of a CRC after n bytes of zeros: times x**(8 n)."""
    factor, power = _ONE, _BYTE
    while n:
        if n & 1:
            factor = _times(factor, power)
        power, n = _times(power, power), n >> 1
    return _times(register, factor)


def _times(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo the CRC's."""
    product = 0
    for place in range(31, -1, -1):
        product ^= b if a >> place & 1 else 0
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
