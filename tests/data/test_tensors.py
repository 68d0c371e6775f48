import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.data.loader import TensorBatches
from lr_lightning.data.splits import TEST, TRAIN, VAL, stratified_parts
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import moments
from tests.conftest import QUIET_TRAINER


def rows(n=10, weight=False):
    x = torch.arange(2.0 * n).reshape(n, 2)
    return Rows(x, (torch.arange(n) % 2).float(), torch.arange(n).float() if weight else None)


def test_without_a_batch_size_there_is_one_batch_and_no_copy():
    data = rows()
    (batch,) = TensorBatches(data)
    assert batch[0].data_ptr() == data.x.data_ptr()
    assert len(batch) == 2


@pytest.mark.parametrize("n_batches", [None, 3])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [1, 7, 10, 200_001])
def test_every_row_is_served_once(n, shuffle, n_batches):
    if n_batches and n < n_batches:
        pytest.skip("fewer rows than batches")
    batches = TensorBatches(rows(n, weight=True), 4 if n < 100 else 3000, shuffle=shuffle, n_batches=n_batches)
    served = list(batches)
    assert len(served) == len(batches)
    x, y, weight = (torch.cat(column) for column in zip(*served, strict=True))
    order = weight.argsort()
    assert torch.equal(x[order], rows(n).x)
    assert torch.equal(y[order], rows(n).y)


def test_each_epoch_has_its_own_order_that_can_be_had_again():
    batches = TensorBatches(rows(100), 10, shuffle=True, seed=3)

    def order(epoch):
        batches.set_epoch(epoch)
        return torch.cat([x[:, 0] for x, _ in batches]).tolist()

    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))
    assert order(1) == order(1)


def test_split_is_stratified_complete_and_reproducible():
    y = torch.cat([torch.zeros(900), torch.ones(100)])
    x = torch.arange(1000.0)[:, None]
    parts = []
    for _ in range(2):
        data = TensorDataModule(x, y, val_fraction=0.2, test_fraction=0.1, seed=5)
        data.setup("fit")
        parts.append([data.train_rows, data.val_rows, data.test_rows])
    assert [len(part.y) for part in parts[0]] == [700, 200, 100]
    assert [float(part.y.mean()) for part in parts[0]] == pytest.approx([0.1] * 3)
    restored = [part.x[:, 0].double() * data.served.scale + data.served.mean for part in parts[0]]
    assert torch.cat(restored).sort().values.round().tolist() == list(range(1000))
    for first, second in zip(*parts, strict=True):
        assert torch.equal(first.x, second.x)


def test_statistics_come_from_the_training_rows_alone():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 3, generator=generator), (torch.arange(500) % 2).float()
    data = TensorDataModule(x, y, val_fraction=0.4)
    data.setup("fit")
    assert data.training.mean.numpy() == pytest.approx(data.train_rows.x.double().mean(0).numpy(), abs=1e-7)
    assert data.training.mean.numpy() != pytest.approx(x.double().mean(0).numpy(), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_agree_with_numpy(dtype):
    generator = np.random.default_rng(1)
    x = torch.tensor(generator.lognormal(size=(50_000, 4)) * [1, 1e-6, 1e9, 1e3] + [0, 0, 0, 1e6], dtype=dtype)
    v = torch.tensor(generator.random(50_000), dtype=dtype)
    mean, scale = moments([(x[:20_000], v[:20_000]), (x[20_000:], v[20_000:])])
    exact, weights = x.double().numpy(), v.double().numpy()
    expected = np.average(exact, axis=0, weights=weights)
    deviation = np.sqrt(np.average((exact - expected) ** 2, axis=0, weights=weights))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert (mean.numpy() - expected) / deviation == pytest.approx(np.zeros(4), abs=tolerance)
    assert scale.numpy() == pytest.approx(deviation, rel=tolerance)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7e9, -3e-20, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_column_has_scale_zero(value, dtype):
    x = torch.full((10_001, 1), value, dtype=dtype)
    assert moments([(x, None)]).scale.item() == 0


@pytest.mark.parametrize("exponent", [-30, -22, 22, 35])
def test_tiny_and_huge_float32_columns_are_no_constants(exponent):
    x = (torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).double() * 10.0**exponent).float()
    assert moments([(x, None)]).scale.item() == pytest.approx(x.double().std(correction=0).item(), rel=1e-6)


def test_neighbouring_float32_values_are_no_constant():
    x = torch.tensor([[1.7e9], [1.7e9 + 128]] * 500, dtype=torch.float32)
    assert moments([(x, None)]).scale.item() == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("x", "y", "weight", "words"),
    [
        ([1.0, 2.0], [0, 1], None, "two dimensions"),
        ([[1.0], [2.0]], [0, 1, 1], None, "y must have shape"),
        ([[1.0], [2.0]], [0, 2], None, "0 and 1"),
        ([[1.0], [2.0]], [0, float("nan")], None, "0 and 1"),
        ([[1.0], [2.0]], [0, 1], [1.0], "weight must have shape"),
        ([[1.0], [2.0]], [0, 1], [1.0, -1.0], "not negative"),
        ([[1.0], [2.0]], [0, 1], [0.0, 0.0], "positive"),
        (np.empty((0, 2)), [], None, "no rows"),
        ([["a"], ["b"]], [0, 1], None, "numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(x, y, weight, words):
    with pytest.raises(InputError, match=words):
        TensorDataModule(x, y, weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_feature_that_is_not_finite_is_refused_by_name(bad):
    x = torch.ones(5, 3)
    x[3, 1] = bad
    with pytest.raises(InputError, match="x1"):
        TensorDataModule(x, [0, 1, 0, 1, 0]).setup("fit")


@pytest.mark.parametrize("fractions", [(-0.1, 0.0), (1.0, 0.0), (0.6, 0.4), (0.001, 0.0)])
def test_impossible_splits_are_refused(fractions):
    data = TensorDataModule(torch.ones(20, 1), [0, 1] * 10, val_fraction=fractions[0], test_fraction=fractions[1])
    with pytest.raises(InputError, match="fraction"):
        data.setup("fit")


FRACTIONS = [(0.2, 0.0), (0.8, 0.0), (0.0, 0.9), (0.2, 0.2), (0.3, 0.3), (0.5, 0.4), (0.5, 0.49), (0.05, 0.9)]


@pytest.mark.parametrize(("val_fraction", "test_fraction"), FRACTIONS)
def test_training_keeps_a_row_of_each_class_that_has_two(val_fraction, test_fraction):
    """And where it would have one anyway, the split is what the rounded shares of a random order are."""
    for rare in range(2, 9):
        y = torch.cat([torch.zeros(40), torch.ones(rare)])
        part = stratified_parts(y, val_fraction=val_fraction, test_fraction=test_fraction, seed=3)
        generator = torch.Generator().manual_seed(3)
        for label, n in ((0, 40), (1, rare)):
            order = torch.randperm(n, generator=generator, dtype=torch.int32).long()
            n_val, n_test = round(val_fraction * n), round(test_fraction * n)
            expected = torch.full((n,), TRAIN, dtype=torch.uint8)
            expected[order[:n_val]] = VAL
            expected[order[n_val : n_val + n_test]] = TEST
            differing = int((part[y == label] != expected).sum())
            if n_val + n_test < n:
                assert not differing
            else:
                assert int((part[y == label] == TRAIN).sum()) == 1
                assert 1 <= differing <= 2  # test rows are those after the validation rows


def test_a_tiny_table_has_a_row_in_each_part():
    part = stratified_parts(torch.tensor([0, 0, 1, 1]), val_fraction=0.3, test_fraction=0.3, seed=0)
    assert [int((part == code).sum()) for code in (TRAIN, VAL, TEST)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("y", "fractions", "words"),
    [
        (
            [0, 0, 0, 1],
            (0.6, 0.0),
            "val_fraction 0.6 .*the only row with the label {1!r}, .*lower them or set them to 0",
        ),
        ([0, 1, 1, 1], (0.3, 0.6), "test_fraction 0.6 .*the only row with the label {0!r}, .*lower them"),
        ([0, 0, 1, 1], (0.2, 0.0), "val_fraction 0.2 of 4 rows leaves no val rows, .*raise it or set it to 0"),
    ],
)
def test_a_split_that_cannot_be_had_is_the_reason(y, fractions, words):
    options = {"val_fraction": fractions[0], "test_fraction": fractions[1]}
    table = TableDataModule({"a": range(4), "y": ["ny"[code] for code in y]}, "y", **options)
    for data, labels in ((table, "ny"), (TensorDataModule(torch.arange(4.0)[:, None], y, **options), (0, 1))):
        with pytest.raises(InputError, match=words.format(*labels)):
            data.setup("fit")


def test_weights_that_leave_training_one_class_blame_the_split():
    """Of the rare class one row weighs something, and that is a validation row."""
    y, weight = torch.tensor([0.0] * 8 + [1.0] * 3), torch.tensor([1.0] * 9 + [0.0] * 2)
    seed = next(
        seed for seed in range(20) if stratified_parts(y, val_fraction=0.4, test_fraction=0.0, seed=seed)[8] == VAL
    )
    trainer = Trainer(max_epochs=5, **QUIET_TRAINER)
    data = TensorDataModule(torch.arange(11.0)[:, None], y, weight, val_fraction=0.4, seed=seed)
    with pytest.raises(InputError, match=r"\(of positive weight\) hold one class only.*keep fewer rows back"):
        trainer.fit(LogisticRegression(), data)


def test_arrays_that_must_not_be_written_to_are_taken_as_they_are():
    x = np.ones((4, 1), dtype=np.float32)
    x.setflags(write=False)
    assert TensorDataModule(x, [0, 1, 0, 1])._rows.x.data_ptr() == x.ctypes.data
