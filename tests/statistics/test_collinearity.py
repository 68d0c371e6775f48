from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_lightning.statistics.collinearity import find_collinearity, relation_in_words
from lr_lightning.statistics.sums import sum_rows
from tests.statistics.tables import design_of

DTYPES = [
    {"dtype": torch.float64},
    {"dtype": torch.float64, "standardize": True},
    {"dtype": torch.float32, "standardize": True},
]


def find(x, y=None, **options):
    y = np.arange(len(x)) % 2 if y is None else y
    design = design_of(x, y, **options)
    return design, find_collinearity(design, sum_rows(design, np.zeros(design.size)).gram)


def words(x, names, **options):
    design, found = find(x, **options)
    return [relation_in_words(found, m, design, list(names)) for m in range(len(found.aliased))]


@pytest.mark.parametrize("options", DTYPES)
@pytest.mark.parametrize("batch_size", [None, 300])
def test_later_columns_are_aliased_and_the_relation_is_found(options, batch_size):
    rng = np.random.default_rng(0)
    a, b, e = rng.normal(size=(3, 1000)) * [[3], [1], [1]] + [[1], [7], [0]]
    x = np.column_stack([a, b, 2 * a - b + 3, e, a / 1000 - e])
    forwards = words(x, "abcde", batch_size=batch_size, **options)
    assert forwards == ["c = 2·a \N{MINUS SIGN} b + 3", "e = 0.001·a \N{MINUS SIGN} d"]
    backwards = words(x[:, ::-1].copy(), "edcba", batch_size=batch_size, **options)
    assert backwards == ["b = 2000·e + 2000·d \N{MINUS SIGN} c + 3", "a = 1000·e + 1000·d"]


@pytest.mark.parametrize("options", DTYPES)
def test_timestamps(options):
    seconds = 1.7e9 + np.random.default_rng(1).integers(0, 10**6, 1000)
    assert words(np.column_stack([seconds, seconds - 1.7e9]), ["at", "since"], **options)[0].startswith(
        "since = at \N{MINUS SIGN} 1"
    )


def test_nearly_is_not_exactly():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 1000))
    x = np.column_stack([a, b, a + b + 1e-6 * rng.normal(size=1000), a - b])
    _, found = find(x)
    assert found.kept.tolist() == [0, 1, 2]
    assert found.aliased.tolist() == [3]


@pytest.mark.parametrize("gap", [1e-6, 1e-8, 1e-10])
def test_a_column_that_depends_on_a_nearly_dependent_one(gap):
    """The Gram matrix has no digit of what c adds to a and b, and d is a function of it."""
    rng = np.random.default_rng(5)
    a, b, e, f = rng.normal(size=(4, 1000))
    c = a + b + gap * e
    for x, expected in (
        (np.column_stack([a, b, c, f, 2 * c + a]), "e = a + 2·c"),
        (np.column_stack([a, b, c, f, c + f + 1]), "e = c + d + 1"),
    ):
        design, found = find(x)
        assert (found.kept.tolist(), found.aliased.tolist()) == ([0, 1, 2, 3], [4])
        rows = next(design.blocks()).x.numpy()
        assert rows[:, found.basis] @ found.relation[:, 0] == pytest.approx(rows[:, 4], abs=1e-12)
        if gap > 1e-9:
            assert relation_in_words(found, 0, design, list("abcde")) == expected


def test_one_row_that_differs_is_enough():
    x = np.random.default_rng(3).normal(size=(1000, 2))
    x = np.column_stack([x, x[:, 0]])
    x[500, 2] += 1e-9
    assert find(x)[1].aliased.tolist() == []
    weight = (np.arange(1000) != 500).astype(float)
    assert find(x, weight=weight)[1].aliased.tolist() == [2]


def test_all_levels_of_a_category_depend_on_the_intercept():
    x = np.eye(3)[np.arange(60) % 3]
    assert words(x, "abc") == ["c = \N{MINUS SIGN}a \N{MINUS SIGN} b + 1"]
    assert words(x, "abc", intercept=False) == []


def test_folding_changes_no_prediction():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(500, 3))
    design, found = find(np.column_stack([x, x.sum(1) + 5]), standardize=True)
    parameters = rng.normal(size=5)
    folded = found.fold(parameters)
    rows = next(design.blocks()).x.numpy()
    assert rows @ folded == pytest.approx(rows @ parameters)
    assert folded[3] == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-2, 2)] * 4), min_size=6, max_size=12), st.sampled_from(DTYPES))
def test_rank_of_tables_of_small_integers(rows, options):
    x = np.array(rows, float)
    design, found = find(x, **options)
    varying = x[:, design.columns.numpy()]
    augmented = np.column_stack([np.ones(len(x)), varying])
    aliased, kept = [], [0]
    for j in range(1, augmented.shape[1]):
        if np.linalg.matrix_rank(augmented[:, [*kept, j]]) > len(kept):
            kept.append(j)
        else:
            aliased.append(j - 1)
    assert found.aliased.tolist() == aliased
