"""The folds of a cross-validation."""

from __future__ import annotations

import pytest
import torch

from lr_lightning import InputError
from lr_lightning.data.folds import stratified_folds
from lr_lightning.model.rows import Rows


def rows(n: int = 103, *, weight: torch.Tensor | None = None) -> Rows:
    return Rows(torch.zeros(n, 1), (torch.arange(n) % 3 == 0).float(), weight)


def test_folds_differ_by_a_row_of_each_class_at_most() -> None:
    folds = stratified_folds(rows(), 7, seed=0)
    for of_class in (0.0, 1.0):
        sizes = folds[rows().y == of_class].bincount(minlength=7)
        assert sizes.max() - sizes.min() <= 1
    sizes = folds.bincount()
    assert sizes.max() - sizes.min() <= 1


def test_the_seed_decides() -> None:
    first, again, other = (stratified_folds(rows(), 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_without_weight_make_no_fold() -> None:
    weight = (torch.arange(103) < 40).float()
    folds = stratified_folds(rows(weight=weight), 10, seed=0)
    assert folds[weight > 0].bincount(minlength=10).min() == 4


def test_groups_stay_whole_and_the_folds_alike() -> None:
    groups = torch.arange(103) // 3
    folds = stratified_folds(rows(), 5, seed=0, groups=groups)
    assert all(len(folds[groups == group].unique()) == 1 for group in groups.unique())
    for of_class in (0.0, 1.0):
        sizes = folds[rows().y == of_class].bincount(minlength=5)
        assert sizes.max() - sizes.min() <= 3


def test_few_groups_and_rare_classes_give_fewer_folds(caplog: pytest.LogCaptureFixture) -> None:
    assert stratified_folds(rows(), 10, seed=0, groups=torch.arange(103) % 3).unique().tolist() == [0, 1, 2]
    assert "3 folds instead of 10: there are no more groups" in caplog.text
    assert stratified_folds(rows(8), 10, seed=0).unique().tolist() == [0, 1, 2]
    assert "3 folds instead of 10: the rarer class" in caplog.text


def test_counts_of_successes_are_rows_of_both_classes() -> None:
    y = torch.tensor([0.1, 0.2, 0.3, 0.4] * 5 + [1.0, 0.0])
    counts = Rows(torch.zeros(22, 1), y)
    assert stratified_folds(counts, 5, seed=0).bincount().tolist() == [5, 5, 4, 4, 4]
    folds = stratified_folds(counts, 3, seed=0, groups=torch.arange(22) // 4)
    assert folds.unique().tolist() == [0, 1, 2]
    assert [float(y[folds == fold].sum()) for fold in range(3)] == pytest.approx([2.0, 2.0, 2.0], abs=0.1)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 folds, not 1"):
        stratified_folds(rows(), 1, seed=0)
    with pytest.raises(InputError, match="a class has 1 training row of"):
        stratified_folds(rows(3), 5, seed=0)
    with pytest.raises(InputError, match="of one group"):
        stratified_folds(rows(), 5, seed=0, groups=torch.zeros(103))
