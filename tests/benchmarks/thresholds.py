"""Measures what the solver's thresholds are worth: tasks with the threshold as it is and with another value, in turn.

    python -m tests.benchmarks.thresholds dense FEW_COEFFICIENTS=0 CHEAP_HESSIAN=0
    python -m tests.benchmarks.thresholds sparse STRAIGHT=inf --repeat 5

A value that turns the rule off shows what the rule saves. For each task it prints the ratio of the CPU seconds, the
least of several runs without and with the rule, and how far the objective, or what stands for the result, moves. A
result that moves by more than rounding says that the threshold guards digits, whatever the seconds are.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lr_lightning import LogisticRegressionClassifierCV
from lr_lightning.model.csr import Csr
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import path, solve, thresholds
from tests.benchmarks import inference, sparse
from tests.benchmarks import path as paths
from tests.benchmarks import solver as dense

Run = Callable[[], float]  # a number that stands for the result


def of_dense() -> Iterator[tuple[str, Run]]:
    """The tasks of the solver's benchmark, and smaller ones."""
    generator = torch.Generator().manual_seed(9)
    functions = (dense.narrow, dense.medium, dense.one_hot, dense.many_columns, dense.sparse, dense.breast_cancer)
    tasks = [task for function in (*functions, dense.independent, dense.wide) for task in function()]
    for n, d, decay in ((30_000, 5, 0.5), (20_000, 300, None), (2000, 100, 0.9), (50_000, 100, 0.9)):
        x = torch.randn(n, d, generator=generator)
        if decay is not None:
            x = dense._correlated(n, d, generator, decay=decay)
        y = dense.labels(x, generator)
        tasks.append(dense.Task(f"{n} x {d}", x, y))
        tasks.append(dense.Task(f"{n} x {d}, L1", x, y, l1=1e-3))
        rare = (torch.rand(n, generator=generator) < torch.sigmoid(2 * x[:, 0] - 6)).float()
        tasks.append(dense.Task(f"{n} x {d}, rare", x, rare, l2=1e-6))
    for task in tasks:
        objective = Objective(l1=task.l1, l2=task.l2, standardize=False)
        rows = Rows(task.x, task.y)
        yield task.name, lambda rows=rows, objective=objective: solve(rows, objective).objective


def of_sparse() -> Iterator[tuple[str, Run]]:
    for task in (*sparse.zipf(), *sparse.zipf_l1(), *sparse.categories(), *sparse.one_hot()):
        objective = Objective(l1=task.l1, l2=task.l2)
        rows = Rows(task.design(), torch.from_numpy(task.y))
        yield task.name, lambda rows=rows, objective=objective: solve(rows, objective).objective


def of_inference() -> Iterator[tuple[str, Run]]:
    """Firth's penalty, bounds, and profiles, whose sum of ends stands for the result."""
    for n, d in ((200, 5), (1000, 50), (20_000, 50)):
        x, y = inference.table(n, d)
        rows = Rows(torch.from_numpy(x), torch.from_numpy(y))
        yield f"Firth, {n} x {d}", lambda rows=rows: solve(rows, Objective(firth=True)).objective
        bounds = torch.tensor([[-0.05] * d, [0.05] * d], dtype=torch.float64)
        yield f"bounds, {n} x {d}", lambda rows=rows, bounds=bounds: solve(rows, Objective(bounds=bounds)).objective
        if n > 200:
            for firth in (False, True):
                size = 5 if firth else d
                yield (
                    f"profiles{' under Firth' * firth}, {n} x {d}",
                    lambda x=x, y=y, firth=firth, size=size: float(
                        inference.profiles_of(x, y, firth=firth, columns=range(size)).sum()
                    ),
                )


def of_path() -> Iterator[tuple[str, Run]]:
    """The path's tasks, smaller; the sum of the losses, held-out ones included, stands for the result."""
    tables: dict[str, tuple[Any, float, float]] = {
        "cancer": (paths.cancer(), 1.0, 1e-3),
        "1 000 x 100": (paths.correlated(1000, 100), 1.0, 1e-3),
        "5 000 x 500": (paths.correlated(5000, 500), 1.0, 1e-2),
        "100 000 x 50": (paths.correlated(100_000, 50), 1.0, 1e-3),
        "200 x 3 000": (paths.correlated(200, 3000), 1.0, 0.05),
        "elastic net, 2 000 x 200": (paths.correlated(2000, 200), 0.5, 1e-3),
        "ridge, 20 000 x 50": (paths.correlated(20_000, 50), 0.0, 1e-3),
        "ridge, 200 x 1 000": (paths.correlated(200, 1000), 0.0, 1e-3),
    }
    for name, ((x, y), l1_ratio, least) in tables.items():
        rows, folds = Rows(torch.from_numpy(x), torch.from_numpy(y)), torch.arange(len(y)) % 5

        def run(rows: Rows = rows, folds: Any = folds, l1_ratio: float = l1_ratio, least: float = least) -> float:
            found = path(rows, l1_ratio=l1_ratio, n_lambda=50, min_ratio=least, folds=folds)
            assert found.cross_validation is not None
            return float(found.loss.sum() + found.cross_validation.mean.sum())

        yield name, run


def of_sparse_path() -> Iterator[tuple[str, Run]]:
    """The path of sparse rows, without and with folds; the sum of the losses stands for the result."""
    tables = ((200_000, 50_000, 40, 0.05), (100_000, 5000, 20, 0.05), (5000, 20_000, 40, 0.15), (20_000, 3000, 20, 0.1))
    for n, d, per_row, least in tables:
        x, y = sparse.zipf_table(n, d, per_row)
        rows = Rows(Csr.of(x), torch.from_numpy(y))
        for folds in (None, torch.arange(n) % 5) if n < 200_000 else (None,):

            def run(rows: Rows = rows, folds: Any = folds, least: float = least) -> float:
                found = path(rows, n_lambda=20, min_ratio=least, folds=folds)
                return float(found.loss.sum() + (found.cross_validation.mean.sum() if found.cross_validation else 0))

            yield f"{n} x {d}{', five folds' * (folds is not None)}", run


def of_ridges() -> Iterator[tuple[str, Run]]:
    """The estimator's ridges of all folds at once; the sum of its coefficients stands for the result."""
    for n, d in ((569, 30), (5000, 100), (100_000, 50), (20_000, 300), (20_000, 10), (100_000, 4)):
        x, y = paths.correlated(n, d, informative=min(d, 20))
        model = LogisticRegressionClassifierCV(Cs=10, cv=5, l1_ratios=(0,), scoring=None, use_legacy_attributes=False)
        yield f"{n} x {d}", lambda x=x, y=y, model=model: float(abs(model.fit(x, y).coefs_paths_).sum())


@contextmanager
def changed(values: dict[str, float]) -> Iterator[None]:
    """Other thresholds of the solver, or numbers of a module of the model."""
    modules = [module for name, module in sys.modules.items() if name.startswith("lr_lightning.model.")]
    modules.append(thresholds)
    places = [(module, name, getattr(module, name)) for module in modules for name in values if hasattr(module, name)]
    assert {name for _, name, _ in places} == set(values), f"no such threshold among {sorted(values)}"
    for module, name, old in places:
        setattr(module, name, type(old)(values[name]) if math.isfinite(values[name]) else values[name])
    try:
        yield
    finally:
        for module, name, old in places:
            setattr(module, name, old)


def measured(run: Run) -> tuple[float, float]:
    start = time.process_time()
    value = run()
    return time.process_time() - start, value


GROUPS = {
    "dense": of_dense,
    "sparse": of_sparse,
    "inference": of_inference,
    "path": of_path,
    "ridges": of_ridges,
    "sparse_path": of_sparse_path,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("values", nargs="+", metavar="NAME=VALUE", help="several joined by commas are changed together")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [(name, run) for name, run in GROUPS[arguments.group]() if arguments.only in name]
    for _, run in tasks:
        run()
    for text in arguments.values:
        values = {name: float(value) for name, value in (pair.split("=") for pair in text.split(","))}
        print(f"{text}", flush=True)
        for name, run in tasks:
            pairs = []
            for _ in range(arguments.repeat):
                usual = measured(run)
                with changed(values):
                    try:
                        pairs.append((usual, measured(run)))
                    except Exception as error:
                        print(f"  {name:50} {type(error).__name__}: {error}")
                        break
            else:
                with_rule, without = (min(pair[k][0] for pair in pairs) for k in (0, 1))
                moved = abs(pairs[0][1][1] / pairs[0][0][1] - 1)
                print(f"  {name:50} {with_rule:8.3f} s {without / with_rule:6.2f} {moved:8.0e}", flush=True)


if __name__ == "__main__":
    main()
