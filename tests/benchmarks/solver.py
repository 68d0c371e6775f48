"""Measures the exact solver against its peers: every one in this process, on the same arrays.

    python -m tests.benchmarks.solver                      # all tasks
    python -m tests.benchmarks.solver correlated one_hot   # some

Ratios are the claim, not the seconds. A ratio counts only if our objective, in float64, is at most 1e-9
(relative) above the best peer's. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.model.objective import logistic_loss
from lr_lightning.model.standardization import moments

SLOW = 5.0  # seconds; what takes longer is run once
Solution = tuple[Tensor, float, int]  # weights, intercept, passes or iterations


@dataclass
class Task:
    name: str
    x: Tensor
    y: Tensor
    l1: float = 0.0
    l2: float = 0.0


def fit_ours(x: Tensor, y: Tensor, *, l1: float = 0.0, l2: float = 0.0, accelerator: str = "cpu") -> Solution:
    """`Trainer.fit` as a user would call it; the penalty is on the raw weights (scikit-learn's convention)."""
    model = LogisticRegression(l1=l1, l2=l2, standardize=False)
    trainer = Trainer(
        max_epochs=500,
        accelerator=accelerator,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, TensorDataModule(x, y))
    weight, intercept = model.linear_sigmoid.coefficients()
    return weight, intercept, trainer.current_epoch


def peers(task: Task) -> dict[str, Callable[[], Solution]]:
    """What can solve the task, by name."""
    x, y = task.x.numpy(), task.y.numpy()
    n = len(x)
    found: dict[str, Callable[[], Solution]] = {}

    def of_scikit_learn(module: str, **options: Any) -> Callable[[], Solution]:
        def run() -> Solution:
            model = importlib.import_module(module).LogisticRegression(**options).fit(x, y)
            return (
                torch.from_numpy(model.coef_[0].astype(float)),
                float(model.intercept_[0]),
                int(model.n_iter_[0]),
            )

        return run

    sklearn, intelex = "sklearn.linear_model", "sklearnex.linear_model"
    large = n * x.shape[1] > 2e7
    if task.l1:
        options = {"C": 1 / (n * task.l1), "l1_ratio": 1.0}
        found["scikit-learn liblinear"] = of_scikit_learn(sklearn, solver="liblinear", **options)
        found["scikit-learn saga"] = of_scikit_learn(sklearn, solver="saga", **options)
        found["skglm"] = lambda: _skglm(x, y, task.l1)
    else:
        options = {"C": 1 / (n * task.l2)}
        found["scikit-learn lbfgs (default)"] = of_scikit_learn(sklearn, **options)
        found["scikit-learn newton-cholesky"] = of_scikit_learn(sklearn, solver="newton-cholesky", **options)
        found["scikit-learn-intelex lbfgs"] = of_scikit_learn(intelex, **options)
        found["torch LBFGS"] = lambda: torch_lbfgs(task)
        if not large:
            found["scikit-learn liblinear"] = of_scikit_learn(sklearn, solver="liblinear", **options)
            found["scikit-learn saga"] = of_scikit_learn(sklearn, solver="saga", **options)
        if x.shape[1] > 5000:
            del found["scikit-learn newton-cholesky"]
    found["glum"] = lambda: _glum(x, y, task.l1, task.l2)
    if x.shape[1] > 5000:
        del found["glum"]  # it keeps a d x d matrix
    return found


def _glum(x: np.ndarray, y: np.ndarray, l1: float, l2: float) -> Solution:
    model = importlib.import_module("glum").GeneralizedLinearRegressor(
        family="binomial", alpha=l1 + l2, l1_ratio=l1 / (l1 + l2)
    )
    model.fit(x, y)
    return torch.from_numpy(model.coef_.astype(float)), float(model.intercept_), int(model.n_iter_)


def _skglm(x: np.ndarray, y: np.ndarray, l1: float) -> Solution:
    model = importlib.import_module("skglm").SparseLogisticRegression(alpha=l1)
    model.fit(x, y)
    return (
        torch.from_numpy(model.coef_.reshape(-1).astype(float)),
        float(np.ravel(model.intercept_)[0]),
        model.n_iter_,
    )


def torch_lbfgs(task: Task) -> Solution:
    d = task.x.shape[1]
    parameters = torch.zeros(d + 1, requires_grad=True, device=task.x.device)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        logits = task.x @ parameters[:d] + parameters[d]
        objective = binary_cross_entropy_with_logits(logits, task.y) + 0.5 * task.l2 * parameters[:d].square().sum()
        objective.backward()
        return objective

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    w = parameters.detach().double()
    return w[:d], float(w[d]), calls


def objective(task: Task, weight: Tensor, bias: float) -> float:
    total = 0.0
    for start in range(0, len(task.x), 50_000):
        block, y = task.x[start : start + 50_000].double(), task.y[start : start + 50_000].double()
        total += float(softplus((1 - 2 * y) * (block @ weight + bias), threshold=500).sum())
    penalty = task.l1 * float(weight.abs().sum()) + 0.5 * task.l2 * float(weight.square().sum())
    return total / len(task.x) + penalty


def best_time(run: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    best, result = math.inf, None
    for _ in range(repeat):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
        if best > SLOW:
            break
    return best, result


def labels(x: Tensor, generator: torch.Generator, nonzero: int | None = None) -> Tensor:
    d = x.shape[1]
    weight = torch.randn(d, generator=generator)
    if nonzero is not None:
        weight[nonzero:] = 0
    logits = x @ weight
    logits = 1.5 * logits / logits.std() - 0.5
    return (torch.rand(len(x), generator=generator) < torch.sigmoid(logits)).float()


def _standardized(x: Tensor) -> Tensor:
    mean, scale = moments([(x, None)])
    return x.sub_(mean.float()).div_(scale.float())


def _correlated(n: int, d: int, generator: torch.Generator, *, decay: float, skew: float = 0.0) -> Tensor:
    mixing = torch.randn(d, d, generator=generator) * decay ** torch.arange(d)[:, None]
    x = torch.randn(n, d, generator=generator)
    x = _standardized(x @ mixing + 0.03 * torch.randn(n, d, generator=generator))
    return _standardized(torch.exp(skew * x)) if skew else x


def independent() -> list[Task]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2_000_000, 28, generator=generator)
    return [Task("2 000 000 x 28 independent", x, labels(x, generator), l2=1 / len(x))]


def correlated() -> list[Task]:
    generator = torch.Generator().manual_seed(1)
    x = _correlated(2_000_000, 28, generator, decay=0.75, skew=0.3)
    return [Task("2 000 000 x 28 correlated and skewed", x, labels(x, generator), l2=1 / len(x))]


def medium() -> list[Task]:
    generator = torch.Generator().manual_seed(2)
    x = _correlated(200_000, 200, generator, decay=0.98)
    return [Task("200 000 x 200 correlated", x, labels(x, generator), l2=1 / len(x))]


def narrow() -> list[Task]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1_000_000, 10, generator=generator)
    return [Task("1 000 000 x 10", x, labels(x, generator), l2=1 / len(x))]


def breast_cancer() -> list[Task]:
    table = importlib.import_module("sklearn.datasets").load_breast_cancer()
    x = _standardized(torch.from_numpy(table.data).float())
    return [Task("breast cancer, 569 x 30", x, torch.from_numpy(table.target).float(), l2=1 / len(x))]


def one_hot() -> list[Task]:
    generator = torch.Generator().manual_seed(4)
    n = 500_000
    x = torch.zeros(n, 10, 20)
    x.scatter_(2, torch.randint(20, (n, 10, 1), generator=generator), 1.0)
    x = x[:, :, 1:].reshape(n, 190)
    return [Task("one-hot, 500 000 x 190", x, labels(x, generator), l2=1 / n)]


def sparse() -> list[Task]:
    generator = torch.Generator().manual_seed(5)
    x = _correlated(200_000, 200, generator, decay=0.98)
    y = labels(x, generator, nonzero=20)
    limit = float((x.T @ (y - y.mean())).abs().max()) / len(x)
    return [Task(f"L1 at {share:.0%} of its limit, 200 000 x 200", x, y, l1=share * limit) for share in (0.01, 0.1)]


def wide() -> list[Task]:
    generator = torch.Generator().manual_seed(6)
    x = _standardized(torch.randn(5_000, 20_000, generator=generator))
    y = labels(x, generator, nonzero=50)
    limit = float((x.T @ (y - y.mean())).abs().max()) / len(x)
    return [
        Task("5 000 x 20 000", x, y, l2=1 / len(x)),
        Task("5 000 x 20 000, L1 at 10% of its limit", x, y, l1=0.1 * limit),
    ]


def many_columns() -> list[Task]:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(100_000, 1000, generator=generator)
    tall = Task("100 000 x 1 000 independent", x, labels(x, generator), l2=1 / len(x))
    x = _correlated(2000, 2000, generator, decay=0.9975)
    return [tall, Task("2 000 x 2 000 correlated", x, labels(x, generator), l2=1 / len(x))]


TASKS = {
    function.__name__: function
    for function in (independent, correlated, medium, narrow, breast_cancer, one_hot, many_columns, sparse, wide)
}


def compare(task: Task, repeat: int, only: list[str]) -> None:
    """Prints the table of one task."""
    print(f"\n{task.name}")
    rows = [("ours", *best_time(lambda: fit_ours(task.x, task.y, l1=task.l1, l2=task.l2), repeat))]
    for name, run in peers(task).items():
        if only and not any(word in name for word in only):
            continue
        try:
            rows.append((name, *best_time(run, repeat)))
        except ImportError:
            print(f"  {name}: not installed")
    ours = rows[0][1]
    values = {name: objective(task, solution[0], solution[1]) for name, _, solution in rows}
    best = min(values.values())
    print(f"  {'':30} {'seconds':>9} {'ratio':>7} {'above the best':>15} {'passes':>7}   objective")
    for name, seconds, solution in rows:
        above = values[name] / best - 1
        figures = f"{seconds:9.4f} {seconds / ours:7.1f} {above:15.1e} {solution[2]:7d}"
        print(f"  {name:30} {figures}   {values[name]:.12g}")
    weight, bias = torch.zeros(task.x.shape[1], dtype=torch.float64, requires_grad=True), torch.zeros(())
    fused, _ = best_time(lambda: logistic_loss(task.x, task.y, weight, bias), 5)
    passes = rows[0][2][2]
    counts = values["ours"] <= min((values[name] for name in values if name != "ours"), default=best) * (1 + 1e-9)
    print(
        f"  one fused pass {1e3 * fused:.1f} ms; fit = {ours / (passes * fused):.2f} x passes x that; "
        f"{'counts' if counts else 'DOES NOT COUNT'}"
    )


def main(argv: list[str] | None = None) -> None:
    """Runs the tasks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], metavar="task", help=", ".join(TASKS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", default=[], help="only peers whose name holds one of these")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for name in arguments.tasks or TASKS:
        for task in TASKS[name]():
            compare(task, arguments.repeat, arguments.peers)


if __name__ == "__main__":
    main()
