"""Hashes of numbers of rows: random draws for each row that need no other row."""

from __future__ import annotations

import numpy as np

_STEP = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio
_WIDTH = 2**64


def mixed(values: np.ndarray) -> np.ndarray:
    """Each number scattered over all numbers of 64 bits, uint64, one to one; `values` (n,), uint64, is overwritten.

    The finalizer of SplitMix64 (Steele, Lea & Flood 2014), with the constants of Stafford's variant 13.
    """
    with np.errstate(over="ignore"):
        values ^= values >> np.uint64(30)
        values *= np.uint64(0xBF58476D1CE4E5B9)
        values ^= values >> np.uint64(27)
        values *= np.uint64(0x94D049BB133111EB)
        values ^= values >> np.uint64(31)
    return values


def draws(numbers: np.ndarray, seed: int) -> np.ndarray:
    """The draws of SplitMix64 from a seed at the given positions (n,), counted from 0: uint64, (n,)."""
    with np.errstate(over="ignore"):
        states = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_STEP)
        states += mixed(np.array([seed % _WIDTH], dtype=np.uint64))
    return mixed(states)


def permuted(numbers: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The places, from 0, that some of n things take in a random order of all: int64, of the shape of `numbers`.

    The order is a Feistel network of four rounds on the smallest even number of bits that can hold n things (Luby &
    Rackoff 1988); what it takes out of range goes through it again (Black & Rogaway 2002). So no table of n places is
    needed.

    Args:
        numbers: of the things, from 0, (k,).
        n: number of all things.
        seed: of the order.
    """
    half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    places = numbers.astype(np.uint64)
    moved = np.arange(len(places))
    while len(moved):
        left, right = places[moved] >> half, places[moved] & mask
        for turn in range(4):
            left, right = right, left ^ (draws(right, seed * 4 + turn) & mask)
        places[moved] = (left << half) | right
        moved = moved[places[moved] >= n]
    return places.astype(np.int64)
