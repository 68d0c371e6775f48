import pytest
import torch

from lr_lightning.model.standardization import moments


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1000, 7), (300_000, 8)])
def test_agrees_with_float64(dtype, tolerance, weighted, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 10 + 2000
    x[:, -1] = 3.0
    x = x.to(dtype)
    v = torch.rand(shape[0], generator=generator, dtype=torch.float64) if weighted else None
    mean, std = moments([(x, v)])
    weight = torch.ones(shape[0], dtype=torch.float64) if v is None else v
    expected = (weight @ x.double()) / weight.sum()
    torch.testing.assert_close(mean, expected, rtol=1e-7 if dtype == torch.float32 else 1e-13, atol=0)
    spread = ((weight @ (x.double() - expected).square()) / weight.sum()).sqrt()
    torch.testing.assert_close(std, spread, rtol=tolerance, atol=1e-6)
    assert mean.dtype == std.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [60, 100_000])
def test_a_column_is_constant_where_rows_without_weight_alone_differ(dtype, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 50, generator=generator, dtype=torch.float64).repeat(n, 1)
    x[: n // 3] = torch.randn(n // 3, 50, generator=generator, dtype=torch.float64)
    weight = torch.ones(n, dtype=torch.float64)
    weight[: n // 3] = 0
    x = x.to(dtype)
    mean, std = moments([(x, weight)])
    assert torch.equal(mean, x[-1].double())
    assert not std.any()
