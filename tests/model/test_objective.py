import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lr_lightning.model import threads
from lr_lightning.model.objective import logistic_hessian, logistic_loss


def problem(n: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    y = (torch.rand(n, generator=generator) < 0.3).to(dtype)
    v = torch.rand(n, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(d, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    return x, y, v, weight, bias


def reference(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor | None) -> Tensor:
    z = x.double() @ weight.reshape(-1) + (0 if bias is None else bias.reshape(()))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    return bce(z, y.double().reshape(-1), None if v is None else v.double(), reduction="sum")


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 3), (1000, 28), (70_000, 40), (300, 20_000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_agrees_with_autograd_in_float64(n, d, dtype, weighted, with_bias):
    x, y, v, weight, bias = problem(n, d, dtype)
    if d > 1000:
        weight = (weight.detach() / 50).requires_grad_()
    v, bias = v if weighted else None, bias if with_bias else None
    parameters = [weight] if bias is None else [weight, bias]
    value = logistic_loss(x, y, weight, bias, v)
    expected = reference(x, y, weight, bias, v)
    assert value.dtype == torch.float64
    assert value.shape == ()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=50, deadline=None)
def test_any_scale_of_logits(n, d, scale, seed):
    x, y, v, weight, bias = problem(n, d, seed=seed)
    value = logistic_loss(x * scale, y, weight, bias, v)
    expected = reference(x * scale, y, weight, bias, v)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-14)
    ours = torch.autograd.grad(value, [weight, bias])
    theirs = torch.autograd.grad(expected, [weight, bias])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * scale)


def test_gradcheck():
    x, y, v, weight, bias = problem(20, 3)
    assert torch.autograd.gradcheck(lambda w, b: 3 * logistic_loss(x, y, w, b, v), (weight, bias))


def test_shapes_of_a_linear_layer():
    x, y, v, weight, bias = problem(50, 4)
    layer = torch.nn.Linear(4, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        layer.bias.copy_(bias)
    logistic_loss(x, y[:, None], layer.weight, layer.bias, v[:, None]).backward()
    expected = torch.autograd.grad(reference(x, y, weight, bias, v), [weight, bias])
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (1, 4)
    torch.testing.assert_close(layer.weight.grad[0], expected[0])
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad[0], expected[1])


def test_well_predicted_rows_keep_their_accuracy_in_float32():
    # σ(z) - y would cancel for the positives, and softplus(z) - z as well.
    x = torch.zeros(1000, 1)
    bias = torch.tensor(12.0, dtype=torch.float64, requires_grad=True)
    value = logistic_loss(x, torch.ones(1000), torch.zeros(1, dtype=torch.float64), bias)
    value.backward()
    exact = np.log1p(np.exp(-12.0)) * 1000
    assert float(value.detach()) == pytest.approx(exact, rel=1e-6)
    assert bias.grad is not None
    assert float(bias.grad) == pytest.approx(-1000 / (1 + np.exp(12.0)), rel=1e-6)


def test_huge_logits_stay_finite():
    x = torch.tensor([[1e30], [-1e30]])
    weight = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    value = logistic_loss(x, torch.tensor([0.0, 1.0]), weight)
    value.backward()
    assert value.isfinite()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("layout", ["transposed", "strided", "memory-mapped", "bool labels", "half"])
def test_layouts_and_dtypes(layout, tmp_path):
    x, y, v, weight, bias = problem(5000, 6, torch.float32)
    expected = logistic_loss(x, y, weight, bias, v)
    tolerance = 1e-6
    if layout == "transposed":
        x = x.T.contiguous().T
    elif layout == "strided":
        x = torch.stack([x, x], 1)[:, 0]
        y = torch.stack([y, y], 1)[:, 0]
    elif layout == "memory-mapped":
        mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(5000, 6))
        mapped[:] = x.numpy()
        mapped.flush()
        x = torch.from_file(str(tmp_path / "x.bin"), shared=False, size=30_000).view(5000, 6)
    elif layout == "bool labels":
        y = y.bool()
    else:
        x, tolerance = x.half(), 1e-3
    torch.testing.assert_close(logistic_loss(x, y, weight, bias, v), expected, rtol=tolerance, atol=0)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    x, y, _, weight, bias = problem(200_000, 16, torch.float32)

    def result() -> tuple[Tensor, ...]:
        value = logistic_loss(x, y, weight, bias)
        return value.detach(), *torch.autograd.grad(value, [weight, bias])

    several = result()
    monkeypatch.setattr(threads, "_MAX_WORKERS", 1)
    assert all(torch.equal(a, b) for a, b in zip(several, result(), strict=True))


def test_no_gradient_is_computed_unless_asked_for():
    x, y, v, weight, bias = problem(100, 3)
    with torch.no_grad():
        value = logistic_loss(x, y, weight, bias, v)
    assert not value.requires_grad
    value = logistic_loss(x, y, weight.detach(), bias, v)
    (gradient,) = torch.autograd.grad(value, [bias])
    torch.testing.assert_close(gradient, torch.autograd.grad(reference(x, y, weight, bias, v), [bias])[0])


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    x, y, _, weight, bias = problem(200_000, 16, torch.float32)

    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(torch, "addmv", broken)
    with pytest.raises(RuntimeError, match="broken"):
        logistic_loss(x, y, weight, bias)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("y", lambda x, y, w, b, v: (x, y[:-1], w, b, v)),
        ("weight", lambda x, y, w, b, v: (x, y, w[:-1], b, v)),
        ("bias", lambda x, y, w, b, v: (x, y, w, w, v)),
        ("sample_weight", lambda x, y, w, b, v: (x, y, w, b, v[:-1])),
        ("x must be a matrix", lambda x, y, w, b, v: (x[0], y, w, b, v)),
    ],
)
def test_wrong_shapes_are_named(name, change):
    x, y, v, weight, bias = problem(10, 3)
    with pytest.raises(ValueError, match=name):
        logistic_loss(*change(x, y, weight, bias, v))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_hessian_agrees_with_autograd(dtype, tolerance, weighted, with_bias):
    x, y, v, weight, bias = problem(9000, 5, dtype)
    v = v if weighted else None
    point = torch.cat([weight.detach(), bias.detach()[None]]) if with_bias else weight.detach()

    def function(theta: Tensor) -> Tensor:
        return reference(x, y, theta[:5], theta[5] if with_bias else None, v)

    expected = torch.autograd.functional.hessian(function, point)
    hessian = logistic_hessian(x, weight, bias if with_bias else None, v)
    assert hessian.dtype == torch.float64
    torch.testing.assert_close(hessian, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert torch.equal(hessian, hessian.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_at_all_are_a_sum_of_nothing(dtype):
    """A process can have no share of a small minibatch."""
    weight, bias = torch.ones(3, dtype=torch.float64, requires_grad=True), torch.ones(1, dtype=torch.float64)
    loss = logistic_loss(torch.empty(0, 3, dtype=dtype), torch.empty(0), weight, bias.requires_grad_())
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.tolist() + bias.grad.tolist() == [0.0] * 4
