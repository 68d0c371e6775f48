"""Drawing a sample of the rows whose sums estimate those of the whole table."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lr_lightning.model.gathering import rows_of_all
from lr_lightning.model.losses import curvature
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.storage import Design
from lr_lightning.solver import thresholds
from lr_lightning.solver.problem import SampleProblem


def sample_size(n: int, d: int) -> int:
    """Number of rows worth sampling from n rows of d features.

    The sample's Hessian costs `rows · d²`, a pass `n · d`. Every pass divides the distance to the minimum by about
    `rows / d`. A larger sample pays only where passes cost more than its Hessian.
    """
    return min(n, max(20_000, 20 * d, min(max(200 * d, 40_000), n // 25)))


def draw_sample(
    rows: Rows,
    *,
    center: Tensor | None = None,
    scale: Tensor | None = None,
    size: int | None = None,
    seed: int = 0,
    processes: Processes = ALONE,
) -> Rows:
    """Draws a random sample of standardised rows whose weighted sums estimate those of all rows.

    Rows are drawn uniformly, unless that misses what matters: one class has less than a twentieth of the
    weight, or the sample lacks half of some feature's variance, which a few extreme rows hold. Then rows are
    drawn with probabilities close to their part in the Hessian's trace,
    v_i·σ(z_i)·σ(−z_i)·(1 + ‖x̃_i‖²), the logits z being those of a pilot
    sample's solution, mixed with uniform and class-balanced ones, and weighted by the inverse (Fithian &
    Hastie 2014, local case-control sampling; Wang, Zhu & Ma 2018). That takes two more sweeps over the rows.

    Args:
        rows: Features (n, d), not necessarily standardised, labels 0 or 1, weights or None.
        center: (d,), subtracted from the rows; by default 0.
        scale: (d,), by which the centred rows are divided; by default 1. Standardised features of mean square
            1 are expected.
        size: Number of rows; by default `sample_size`'s. With no fewer than n all rows are taken, and only then
            there are n.
        seed: Seed of the draw.
        processes: That have the rows; each draws among its own, and all have the same sample afterwards.

    Returns:
        Standardised features (m, d) in the dtype of x, or in its storage if it is sparse, labels (m,), and weights
        (m,) or None where all are equal.
    """
    n_own, d = rows.design.shape
    start, n = processes.place(n_own)

    def gather(index: Tensor | slice, factors: Tensor | None = None) -> Rows:
        return _gather(rows, index, factors, center=center, scale=scale, processes=processes)

    if rows.design.is_sparse and d >= thresholds.DENSE_LIMIT:
        size = n  # no copy, because they are not written out standardised, and no sample has all of the rare columns
    size = sample_size(n, d) if size is None else size
    whole = slice(None)
    if size >= n:
        return gather(whole)
    generator = torch.Generator().manual_seed(seed)
    # Sorted, so that the gather walks through memory, or a file, in one direction.
    drawn = torch.randint(n, (size,), generator=generator).sort().values
    sample = gather(drawn[(drawn >= start) & (drawn < start + n_own)] - start)
    if _represents(sample):
        return sample
    size = max(size // 2, min(size, 2 * d))
    if 2 * size >= n:
        return gather(whole)
    norms = rows.design.square_norms(center, scale)
    sample = gather(*_draw(_mixture(rows, norms, processes), size, generator, processes))
    l1, l2 = torch.zeros(d + 1, dtype=torch.float64), torch.full((d + 1,), 1e-4, dtype=torch.float64)
    l2[-1] = 0
    problem = SampleProblem(sample, l1, l2, n_rows=math.inf)
    point, _ = problem.solve(problem.start(torch.zeros_like(l1)), history_size=10)
    w = point[:-1] if scale is None else point[:-1] / scale.cpu()
    b = point[-1] if center is None else point[-1] - center.cpu() @ w
    z = rows.logits(w, b).cpu()
    return gather(*_draw(_mixture(rows, curvature(z) * (1 + norms), processes), 2 * size, generator, processes))


def _represents(sample: Rows) -> bool:
    """Whether a uniform sample holds both classes and most of every feature's variance."""
    y, v = sample.y, sample.weight
    total = float(sample.total_weight)
    if total == 0:
        return False
    positive = float((y if v is None else v * y).sum(dtype=torch.float64)) / total
    if min(positive, 1 - positive) < thresholds.RARE_CLASS:
        return False
    v = torch.ones_like(y) if v is None else v
    return bool((sample.design.square_sums((v / total).to(sample.design.dtype)) > 0.5).all())


def _mixture(rows: Rows, size: Tensor, processes: Processes) -> Tensor:
    """Probabilities (n,): a half by size, a quarter the same for all rows, an eighth for either class."""
    v = torch.ones_like(size) if rows.weight is None else rows.weight.double().cpu()
    positive = v * rows.y.double().cpu()
    parts = [(size * v, 0.5), (v, 0.25), (positive, 0.125), (v - positive, 0.125)]
    mixture = torch.zeros_like(size)
    totals = processes.sums(*(float(part.sum()) for part, _ in parts))
    for (part, share), total in zip(parts, totals, strict=True):
        if total > 0 and math.isfinite(total):
            mixture += part * (share / total)
    return mixture / processes.sums(mixture.sum())[0]


def _draw(probability: Tensor, size: int, generator: torch.Generator, processes: Processes) -> tuple[Tensor, Tensor]:
    """Systematic sampling: rows, and how many rows of the table each of them stands for."""
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    cumulative = probability.cumsum(0)
    ends = processes.joined(cumulative[-1:].sum()[None]).cumsum(0)  # of the processes, of which one may have no rows
    ladder = (torch.arange(size) + offset) * (ends[-1] / size)
    if processes.count > 1:
        ladder = ladder[torch.searchsorted(ends, ladder, right=True) == processes.rank]
        cumulative = cumulative + (ends[processes.rank] - cumulative[-1:].sum())
    drawn = torch.searchsorted(cumulative, ladder, right=True).clamp(max=len(probability) - 1)
    rows, counts = drawn.unique_consecutive(return_counts=True)
    return rows, counts / (size * probability[rows]).clamp(min=1e-300)


def _gather(
    rows: Rows,
    index: Tensor | slice,
    factors: Tensor | None = None,
    *,
    center: Tensor | None,
    scale: Tensor | None,
    processes: Processes,
) -> Rows:
    """Standardised rows at an index (m,), whose weights are multiplied by factors (m,); of all processes."""
    if processes.count > 1:
        if factors is not None:
            weight = torch.ones_like(rows.y) if rows.weight is None else rows.weight
            rows = rows._replace(weight=weight.double())
        drawn = rows if isinstance(index, slice) else rows.take(index.to(rows.y.device))
        if factors is not None:
            drawn = drawn._replace(weight=torch.as_tensor(drawn.weight) * factors.to(drawn.y.device))
        rows, index, factors = rows_of_all(drawn, processes), slice(None), None
    if isinstance(index, slice):
        if center is None and scale is None:
            return rows
        return rows._replace(x=_plain(rows.design.standardized(center, scale)))
    index = index.to(rows.design.device)
    y, weight, offset = (None if t is None else t.to(index.device).index_select(0, index) for t in rows[1:])
    if factors is not None:
        factors = factors.to(index.device)
        weight = factors if weight is None else weight.double() * factors
    return Rows(_plain(rows.design.standardized(center, scale, index)), y, weight, offset)  # type: ignore[arg-type]


def _plain(x: Design) -> Tensor | Design:
    """Dense features as a tensor."""
    return x if x.is_sparse else x.dense()
