"""Drawing a sample of the rows whose sums estimate those of the whole table."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lr_lightning.model.threads import share_out
from lr_lightning.solver import thresholds
from lr_lightning.solver.problem import SampleProblem


def sample_size(n: int, d: int) -> int:
    """Number of rows worth sampling from n rows of d features.

    The sample's Hessian costs `rows · d²`, a pass `n · d`. Every pass divides the distance to the minimum by about
    `rows / d`. A larger sample pays only where passes cost more than its Hessian.
    """
    return min(n, max(20_000, 20 * d, min(max(200 * d, 40_000), n // 25)))


def draw_sample(
    x: Tensor,
    y: Tensor,
    sample_weight: Tensor | None = None,
    *,
    center: Tensor | None = None,
    scale: Tensor | None = None,
    size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draws a random sample of standardised rows whose weighted sums estimate those of all rows.

    Rows are drawn uniformly, unless that misses what matters: one class has less than a twentieth of the
    weight, or the sample lacks half of some feature's variance, which a few extreme rows hold. Then rows are
    drawn with probabilities close to their part in the Hessian's trace,
    v_i·σ(z_i)·σ(−z_i)·(1 + ‖x̃_i‖²), the logits z being those of a pilot
    sample's solution, mixed with uniform and class-balanced ones, and weighted by the inverse (Fithian &
    Hastie 2014, local case-control sampling; Wang, Zhu & Ma 2018). That takes two more sweeps over the rows.

    Args:
        x: Features, (n, d), not necessarily standardised.
        y: Labels 0 or 1, (n,) or (n, 1).
        sample_weight: (n,) or (n, 1), or None.
        center: (d,), subtracted from the rows; by default 0.
        scale: (d,), by which the centred rows are divided; by default 1. Standardised features of mean square
            1 are expected.
        size: Number of rows; by default `sample_size`'s. With no fewer than n all rows are taken, and only then
            there are n.
        seed: Seed of the draw.

    Returns:
        Standardised features (m, d) in the dtype of x, labels (m,), and weights (m,) or None where all are
        equal.
    """
    n, d = x.shape
    y = y.reshape(-1)
    v = None if sample_weight is None else sample_weight.reshape(-1)
    size = sample_size(n, d) if size is None else size
    if size >= n:
        return _standardize(x, center, scale), y, v
    generator = torch.Generator().manual_seed(seed)
    # Sorted, so that the gather walks through memory, or a file, in one direction.
    rows = torch.randint(n, (size,), generator=generator).sort().values
    sample = _gather(x, y, v, rows, center=center, scale=scale)
    if _represents(*sample):
        return sample
    size = max(size // 2, min(size, 2 * d))
    if 2 * size >= n:
        return _standardize(x, center, scale), y, v
    norms = torch.cat([block.double().square().sum(1).cpu() for block in _blocks(x, center, scale)])
    pilot = _draw(_mixture(y, v, norms), size, generator)
    sample = _gather(x, y, v, *pilot, center=center, scale=scale)
    l1, l2 = torch.zeros(d + 1, dtype=torch.float64), torch.full((d + 1,), 1e-4, dtype=torch.float64)
    l2[-1] = 0
    problem = SampleProblem(*sample, l1, l2, n_rows=math.inf)
    point, _ = problem.solve(problem.start(torch.zeros_like(l1)), history_size=10)
    w, b = point[:-1].to(x.device), float(point[-1])
    z = b + torch.cat([(block @ w.to(block.dtype)).double().cpu() for block in _blocks(x, center, scale)])
    curvature = torch.sigmoid(z) * torch.sigmoid(-z) * (1 + norms)
    rows, factors = _draw(_mixture(y, v, curvature), 2 * size, generator)
    return _gather(x, y, v, rows, factors, center=center, scale=scale)


def _represents(x: Tensor, y: Tensor, v: Tensor | None) -> bool:
    """Whether a uniform sample holds both classes and most of every feature's variance."""
    total = float(len(y)) if v is None else float(v.sum(dtype=torch.float64))
    if total == 0:
        return False
    positive = float((y if v is None else v * y).sum(dtype=torch.float64)) / total
    if min(positive, 1 - positive) < thresholds.RARE_CLASS:
        return False
    v = torch.ones_like(y) if v is None else v
    squares = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    rows = max(1, thresholds.SAMPLING_BLOCK // x.shape[1])
    for block, weight in zip(x.split(rows), (v / total).to(x.dtype).split(rows), strict=True):
        squares += weight @ block.square()
    return bool((squares > 0.5).all())


def _mixture(y: Tensor, v: Tensor | None, size: Tensor) -> Tensor:
    """Probabilities (n,): a half by size, a quarter the same for all rows, an eighth for either class."""
    v = torch.ones_like(size) if v is None else v.double().cpu()
    positive = v * y.double().cpu()
    parts = [(size * v, 0.5), (v, 0.25), (positive, 0.125), (v - positive, 0.125)]
    mixture = torch.zeros_like(size)
    for part, share in parts:
        total = float(part.sum())
        if total > 0 and math.isfinite(total):
            mixture += part * (share / total)
    return mixture / mixture.sum()


def _draw(probability: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Systematic sampling: rows, and how many rows of the table each of them stands for."""
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    cumulative = probability.cumsum(0)
    ladder = (torch.arange(size) + offset) * (cumulative[-1] / size)
    drawn = torch.searchsorted(cumulative, ladder, right=True).clamp(max=len(probability) - 1)
    rows, counts = drawn.unique_consecutive(return_counts=True)
    return rows, counts / (size * probability[rows]).clamp(min=1e-300)


def _gather(
    x: Tensor,
    y: Tensor,
    v: Tensor | None,
    rows: Tensor,
    factors: Tensor | None = None,
    *,
    center: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows = rows.to(x.device)
    weights = None if v is None else v.to(x.device).index_select(0, rows)
    if factors is not None:
        factors = factors.to(x.device)
        weights = factors if weights is None else weights.double() * factors
    return _standardize(x, center, scale, rows), y.to(x.device).index_select(0, rows), weights


def _blocks(x: Tensor, center: Tensor | None, scale: Tensor | None) -> Iterator[Tensor]:
    rows = max(1, thresholds.SAMPLING_BLOCK // x.shape[1])
    for start in range(0, len(x), rows):
        yield _standardize(x[start : start + rows], center, scale)


def _standardize(x: Tensor, center: Tensor | None, scale: Tensor | None, rows: Tensor | None = None) -> Tensor:
    """``(x - center) / scale`` of all rows, or of those with the numbers ``rows``."""
    if center is None and scale is None:
        return x if rows is None else x.index_select(0, rows)
    n, d = len(x) if rows is None else len(rows), x.shape[1]
    # The dtype tells the solver how far the rows are rounded.
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    standardized = torch.empty(n, d, dtype=dtype, device=x.device)
    center = None if center is None else center.to(x.device)
    scale = None if scale is None else scale.to(x.device)

    size = max(64, thresholds.SAMPLING_THREAD_BLOCK // d)

    def work(share: Iterator[int]) -> None:
        for k in share:
            part = slice(k * size, (k + 1) * size)
            block = x[part] if rows is None else x.index_select(0, rows[part])
            block = block.to(torch.float64, copy=True)
            if center is not None:
                block -= center
            if scale is not None:
                block /= scale
            standardized[part] = block

    share_out(work, -(-n // size), standardized)
    return standardized
