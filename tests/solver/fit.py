"""Drives the optimizer as a bare loop, and problems to drive it on."""

import io
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lr_lightning.model.objective import logistic_loss
from lr_lightning.model.rows import Rows
from lr_lightning.solver import SubsampledNewton, draw_sample


def draw(x, y, v=None, **options):
    """Features, labels and weights of a sample."""
    return draw_sample(Rows(x, y, v), **options)[:3]


@dataclass
class Fit:
    weight: Tensor
    bias: Tensor
    optimizer: SubsampledNewton
    losses: list[float]
    passes: int

    @property
    def point(self) -> Tensor:
        return torch.cat([self.weight, self.bias.reshape(1)])


def make(
    x: Tensor,
    y: Tensor,
    v: Tensor | None = None,
    *,
    l1=0.0,
    l2=0.0,
    intercept=True,
    size=None,
    start=None,
    **options,
):
    """Optimizer, parameters and closure."""
    d = x.shape[1]
    weight = torch.zeros(d, dtype=torch.float64) if start is None else start[:d].clone()
    bias = torch.zeros((), dtype=torch.float64) if start is None else start[d].clone()
    weight.requires_grad_()
    bias.requires_grad_(intercept)
    sample = draw(x, y, v, size=size)
    optimizer = SubsampledNewton(
        [weight, bias] if intercept else [weight],
        sample=sample,
        l1=l1,
        l2=l2,
        n_rows=len(x),
        **options,
    )
    total = len(x) if v is None else v.sum(dtype=torch.float64)
    ridge = torch.as_tensor(l2, dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = logistic_loss(x, y, weight, bias, v) / total + 0.5 * (ridge * weight.square()).sum()
        loss.backward()
        return loss.detach()

    return optimizer, weight, bias, closure


def fit(x: Tensor, y: Tensor, v: Tensor | None = None, *, max_passes: int = 100, **options) -> Fit:
    optimizer, weight, bias, closure = make(x, y, v, **options)
    losses = []
    while not optimizer.stopped and len(losses) < max_passes:
        losses.append(float(optimizer.step(closure)))
    if not optimizer.stopped:
        optimizer.restore_best()
    return Fit(weight.detach(), bias.detach(), optimizer, losses, len(losses))


def check_resuming(x: Tensor, y: Tensor, stop: int, **options) -> SubsampledNewton:
    """Asserts that eight passes end at the same bits with and without a checkpoint after ``stop`` of them."""
    optimizer, weight, bias, closure = make(x, y, **options)
    losses, buffer = [], io.BytesIO()
    for k in range(8):
        if k == stop:
            torch.save({"optimizer": optimizer.state_dict(), "weight": weight, "bias": bias}, buffer)
        losses.append(float(optimizer.step(closure)))
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    again, new_weight, new_bias, new_closure = make(x, y, **options)
    with torch.no_grad():
        new_weight.copy_(saved["weight"])
        new_bias.copy_(saved["bias"])
    again.load_state_dict(saved["optimizer"])
    assert [float(again.step(new_closure)) for _ in range(stop, 8)] == losses[stop:]
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)
    assert again.status == optimizer.status
    return again


def objective(x: Tensor, y: Tensor, v: Tensor | None, point: Tensor, l1=0.0, l2=0.0) -> float:
    """The penalised objective in float64; ``point`` ends with the intercept."""
    v = torch.ones(len(x), dtype=torch.float64) if v is None else v.double()
    weight = point[:-1]
    margin = (2 * y.double() - 1) * (x.double() @ weight + point[-1])
    penalty = (
        torch.as_tensor(l1, dtype=torch.float64) * weight.abs()
        + 0.5 * torch.as_tensor(l2, dtype=torch.float64) * weight.square()
    ).sum()
    return float((v * softplus(-margin, threshold=500)).sum() / v.sum() + penalty)


def gradient(x: Tensor, y: Tensor, v: Tensor | None, point: Tensor, l2=0.0) -> Tensor:
    """Gradient of the smooth part in float64."""
    v = torch.ones(len(x), dtype=torch.float64) if v is None else v.double()
    sign = 1 - 2 * y.double()
    residual = v * sign * torch.sigmoid(sign * (x.double() @ point[:-1] + point[-1])) / v.sum()
    return torch.cat(
        [
            x.double().T @ residual + torch.as_tensor(l2, dtype=torch.float64) * point[:-1],
            residual.sum()[None],
        ]
    )


def kkt_residual(x: Tensor, y: Tensor, v: Tensor | None, point: Tensor, l1=0.0, l2=0.0) -> float:
    """Largest violation of the optimality conditions."""
    g = gradient(x, y, v, point, l2)
    l1 = torch.as_tensor(l1, dtype=torch.float64).expand(len(point) - 1)
    weight, of_weights = point[:-1], g[:-1]
    violation = torch.where(weight != 0, (of_weights + l1 * weight.sign()).abs(), (of_weights.abs() - l1).clamp(min=0))
    return max(float(violation.max()), abs(float(g[-1])))


def newton(x: Tensor, y: Tensor, v: Tensor | None, l2=0.0, iterations: int = 200) -> Tensor:
    """Plain damped Newton in float64, least-norm steps: the reference for smooth problems."""
    x, y = x.double(), y.double()
    n, d = x.shape
    v = torch.ones(n, dtype=torch.float64) if v is None else v.double()
    design = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1)
    ridge = torch.cat([torch.as_tensor(l2, dtype=torch.float64).expand(d), torch.zeros(1, dtype=torch.float64)])
    point = torch.zeros(d + 1, dtype=torch.float64)
    point[-1] = torch.logit(((v * y).sum() + 0.5) / (v.sum() + 1))
    value = objective(x, y, v, point, l2=l2)
    for _ in range(iterations):
        p = torch.sigmoid(design @ point)
        g = gradient(x, y, v, point, l2)
        hessian = (design.T * (v * p * (1 - p))) @ design / v.sum() + torch.diag(ridge)
        step = -torch.linalg.lstsq(hessian, g[:, None], driver="gelsd").solution[:, 0]
        t = 1.0
        while objective(x, y, v, point + t * step, l2=l2) > value and t > 1e-9:
            t /= 2
        if t <= 1e-9:
            break
        point = point + t * step
        value = objective(x, y, v, point, l2=l2)
        if abs(float(g @ step)) < 1e-18 * value:
            break
    return point


def standardize(x: Tensor) -> Tensor:
    scale = x.std(0, correction=0)
    scale = torch.where(scale > 1e-12 * x.abs().amax(0), scale, torch.inf)
    return (x - x.mean(0)) / scale
