"""Hashes and checksums of rows."""

import zlib

import numpy as np
import pytest
import torch

from lr_lightning.data.fingerprint import labels_checksum, rows_fingerprint
from lr_lightning.data.hashing import draws, mixed, permuted
from lr_lightning.data.splits import HASH, TEST, TRAIN, VAL, stratified_parts


def test_splitmix64_draws_the_published_numbers():
    """Of the seed 1234567, as Vigna's C code draws them (rosettacode.org, Pseudo-random numbers/Splitmix64)."""
    states = [(1234567 + k * 0x9E3779B97F4A7C15) % 2**64 for k in (1, 2, 3)]
    found = mixed(np.array(states, dtype=np.uint64)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("n", [1, 2, 3, 100, 4097])
def test_a_permutation_takes_every_place_once(n):
    alone = permuted(np.arange(n), n, seed=5)
    assert sorted(alone.tolist()) == list(range(n))
    assert permuted(np.arange(n // 2, n), n, seed=5).tolist() == alone[n // 2 :].tolist()
    if n > 3:
        assert (permuted(np.arange(n), n, seed=6) != alone).mean() > 0.9
        assert abs(np.corrcoef(alone, np.arange(n))[0, 1]) < 5 / n**0.5


def test_draws_are_uniform():
    bits = draws(np.arange(100_000), seed=1)
    counts = np.bincount((bits >> np.uint64(60)).astype(int), minlength=16)
    assert ((counts - 6250) ** 2 / 6250).sum() < 37.7  # chi-squared with 15 degrees of freedom, 1 in 1000
    assert abs(np.corrcoef(bits[1:].astype(float), bits[:-1].astype(float))[0, 1]) < 5 / 100_000**0.5


def test_hashed_parts_have_their_shares_and_do_not_depend_on_the_labels():
    n = 200_000
    y = torch.arange(n) % 2
    part = stratified_parts(y, val_fraction=0.2, test_fraction=0.1, seed=1, rule=HASH)
    sizes = part.bincount(minlength=3).double() / n
    assert sizes[[TRAIN, VAL, TEST]].tolist() == pytest.approx([0.7, 0.2, 0.1], abs=5 * (0.21 / n) ** 0.5)
    assert torch.equal(part, stratified_parts(y.roll(1), val_fraction=0.2, test_fraction=0.1, seed=1, rule=HASH))
    other = stratified_parts(y, val_fraction=0.2, test_fraction=0.1, seed=2, rule=HASH)
    assert float((part == other).double().mean()) == pytest.approx(0.49 + 0.04 + 0.01, abs=0.01)


@pytest.mark.parametrize("n", [1, 7, 8, 1003])
def test_the_checksum_of_labels_is_that_of_earlier_checkpoints(n):
    generator = np.random.default_rng(n)
    y, groups = generator.integers(0, 2, n).astype(np.uint8), generator.integers(0, 5, n).astype(np.int32)
    of_labels = zlib.crc32(np.packbits(y).tobytes(), n)
    assert labels_checksum(y, None, counted=False) == of_labels
    assert labels_checksum(y, groups, counted=False) == zlib.crc32(groups.tobytes(), of_labels)
    shares = generator.random(n)
    assert labels_checksum(shares, None, counted=True) == zlib.crc32(shares.tobytes(), n)


def test_the_fingerprint_tells_whatever_may_differ():
    part, y, weight = np.array([0, 1, 3, 2, 0], np.uint8), np.array([0.0, 1, 0, 0]), np.array([1.0, 2, 1, 4])
    first = rows_fingerprint(part, {"y": y, "weight": weight}, 1.0, left_out=3)
    assert first == rows_fingerprint(part, {"weight": weight / 2, "y": y}, 2.0, left_out=3)
    others = [
        rows_fingerprint(part, {"y": y, "offset": weight}, 1.0, left_out=3),
        rows_fingerprint(part, {"y": y[::-1], "weight": weight}, 1.0, left_out=3),
        rows_fingerprint(part, {"y": y, "weight": weight[[1, 0, 2, 3]]}, 1.0, left_out=3),
        rows_fingerprint(part[[0, 1, 2, 4, 3]], {"y": y, "weight": weight}, 1.0, left_out=3),
        rows_fingerprint(part[[0, 2, 1, 3, 4]], {"y": y, "weight": weight}, 1.0, left_out=3),
    ]
    assert len({first, *others}) == 6
