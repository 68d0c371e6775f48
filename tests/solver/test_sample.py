import pytest
import torch

from lr_lightning.model.objective import logistic_hessian
from lr_lightning.solver import sample_size
from tests.solver.fit import draw
from tests.solver.problems import build


def test_size():
    assert sample_size(1000, 5) == 1000
    assert sample_size(100_000, 5) == 20_000
    assert sample_size(1_000_000, 5) == 40_000
    assert sample_size(100_000, 2000) == 40_000
    assert sample_size(10_000_000, 1000) == 200_000


def test_all_rows_are_returned_as_they_are():
    x, y, _ = build("twenty_rows")
    xs, ys, vs = draw(x, y)
    assert xs.data_ptr() == x.data_ptr()
    assert torch.equal(ys, y)
    assert vs is None


def test_a_plain_table_gets_a_plain_sample():
    x, y, _ = build("independent")
    xs, ys, vs = draw(x, y, size=5000)
    assert xs.shape == (5000, 12)
    assert ys.shape == (5000,)
    assert vs is None
    again = draw(x, y, size=5000)
    assert torch.equal(xs, again[0])
    assert not torch.equal(xs, draw(x, y, size=5000, seed=1)[0])


@pytest.mark.parametrize("name", ["imbalanced", "one_positive", "heavy_tails", "rare_levels", "weighted"])
def test_hessian_of_the_sample_is_that_of_the_table(name):
    x, y, v = build(name)
    xs, ys, vs = draw(x, y, v, size=10_000)
    assert len(set(ys.tolist())) == 2
    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    bias = torch.logit(((y if v is None else v * y).sum() + 0.5) / ((len(y) if v is None else v.sum()) + 1))
    whole = logistic_hessian(x, weight, bias, v) / (len(x) if v is None else v.sum())
    part = logistic_hessian(xs, weight, bias, vs) / (len(xs) if vs is None else vs.sum())
    scale = whole.diagonal().rsqrt()
    off = torch.linalg.eigvalsh((part - whole) * scale * scale[:, None])
    # A uniform sample of the rare cases is off by 1: it lacks what matters.
    assert float(off.abs().max()) < 0.7


def test_rows_are_standardised():
    x, y, _ = build("independent")
    raw = x * 10 + 1000
    center, scale = raw.mean(0), raw.std(0, correction=0)
    xs, _, _ = draw(raw, y, center=center, scale=scale, size=5000)
    expected, _, _ = draw(x, y, size=5000)
    torch.testing.assert_close(xs, expected)
    every, _, _ = draw(raw, y, center=center, scale=scale, size=len(raw))
    torch.testing.assert_close(every, x)
    torch.testing.assert_close(raw, x * 10 + 1000)
    single, _, _ = draw(raw.float(), y, center=center, scale=scale, size=5000)
    assert single.dtype == torch.float32


def test_rows_of_weight_zero_do_not_break_the_sample():
    x, y, _ = build("independent")
    v = torch.zeros(len(x))
    v[:100] = 1
    _, _, vs = draw(x, y, v, size=200)
    assert vs is not None
    assert float(vs.sum()) > 0


def test_all_rows_are_taken_where_a_weighted_sample_would_be_as_large():
    x = torch.randn(100, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (torch.arange(100) < 2).double()  # so rare that rows are drawn by their part in the Hessian
    xs, ys, vs = draw(x, y, size=99)
    assert torch.equal(xs, x)
    assert torch.equal(ys, y)
    assert vs is None
