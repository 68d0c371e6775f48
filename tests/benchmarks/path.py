"""Measures the path against python-glmnet, and the scikit-learn estimator against LogisticRegressionCV.

All are given the same arrays in this process.

    python -m tests.benchmarks.path                    # all tasks
    python -m tests.benchmarks.path correlated cancer  # some

CPU seconds; the gap is that of the objective, the largest over the penalties, above ours. Peers that are not installed
are left out. Set OMP_NUM_THREADS for the number of threads.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from lr_lightning import LogisticRegressionClassifierCV
from lr_lightning.model.csr import Csr
from lr_lightning.model.rows import Rows
from lr_lightning.solver import Path, path
from tests.benchmarks.sparse import zipf_table

FOLDS = 10


def correlated(n: int, d: int, *, decay: float = 0.8, informative: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Columns of an autoregressive process, and labels by some of them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, d))
    for j in range(1, d):
        x[:, j] = decay * x[:, j - 1] + np.sqrt(1 - decay**2) * x[:, j]
    weight = np.zeros(d)
    weight[generator.choice(d, informative, replace=False)] = generator.normal(size=informative)
    score = x @ weight
    return x, (generator.random(n) < 1 / (1 + np.exp(-1.5 * score / score.std()))).astype(float)


def cancer() -> tuple[np.ndarray, np.ndarray]:
    data = load_breast_cancer()
    return data.data, 1.0 - data.target


TASKS: dict[str, tuple[Callable[[], tuple[Any, np.ndarray]], int, float]] = {
    "cancer": (cancer, 60, 1e-3),
    "correlated": (lambda: correlated(5000, 500), 100, 1e-3),
    "tall": (lambda: correlated(200_000, 200), 100, 1e-3),
    "wide": (lambda: correlated(500, 20_000), 100, 0.05),
    "sparse": (zipf_table, 50, 0.05),
}


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def best_of(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """The least of three, for tasks that take less than some seconds."""
    return min((timed(run) for _ in range(3)), key=lambda measured: measured[0])


def objective(x: Any, y: np.ndarray, theta: np.ndarray, value: float) -> float:
    """The objective of a lasso on standardised columns."""
    z = (1 - 2 * y) * (x @ theta[:-1] + theta[-1])
    scale = StandardScaler(with_mean=False).fit(x).scale_  # 1 for a column of zeros, whose coefficient is 0
    return float(np.logaddexp(0, z).mean() + value * np.abs(theta[:-1] * scale).sum())


def glmnet(x: Any, y: np.ndarray, lambdas: np.ndarray, folds: np.ndarray | None) -> list[np.ndarray] | None:
    """Coefficients (p, d + 1) of all rows, by python-glmnet at its default tolerance; also fitted without each fold."""
    try:
        model = importlib.import_module("glmnet").LogitNet
    except ImportError:
        return None

    def fit(rows: np.ndarray | slice) -> Any:
        options = {"alpha": 1, "n_splits": 0, "standardize": True, "max_iter": 10**6}
        return model(lambda_path=lambdas, **options).fit(x[rows], y[rows])

    found = fit(slice(None))
    for fold in range(FOLDS if folds is not None else 0):
        fit(folds != fold)  # pyright: ignore[reportOptionalOperand]
    return [np.append(w, b) for w, b in zip(found.coef_path_[0].T, np.ravel(found.intercept_path_), strict=True)]


def measure(name: str) -> None:
    make, n_lambda, min_ratio = TASKS[name]
    x, y = make()
    folds = np.arange(len(y)) % FOLDS
    features = Csr.of(x) if issparse(x) else torch.from_numpy(np.ascontiguousarray(x))
    rows = Rows(features, torch.from_numpy(y))
    print(f"{name}: {x.shape[0]} x {x.shape[1]}, {n_lambda} penalties down to {min_ratio:g}")

    def ours(of: np.ndarray | None) -> Path:
        return path(rows, n_lambda=n_lambda, min_ratio=min_ratio, folds=None if of is None else torch.from_numpy(of))

    for label, of in (("path", None), (f"path and {FOLDS} folds", folds)):
        cpu, wall, found = timed(lambda of=of: ours(of))
        print(f"  {label:<20} ours   {cpu:7.2f} CPU s, {wall:7.2f} s, {int((~found.converged).sum())} not converged")
        lambdas = found.lambdas.numpy()
        cpu, wall, peer = timed(lambda of=of, lambdas=lambdas: glmnet(x, y, lambdas, of))
        if peer is None:
            continue
        gaps = [
            objective(x, y, theta, value) - objective(x, y, own.numpy(), value)
            for theta, own, value in zip(peer, found.theta, lambdas, strict=True)
        ]
        print(f"  {label:<20} glmnet {cpu:7.2f} CPU s, {wall:7.2f} s, gap from {min(gaps):.1e} to {max(gaps):.1e}")


def measure_estimator() -> None:
    """Against LogisticRegressionCV; the gap is that of the objective of the folds' fits, relative to ours."""
    x, y = correlated(100_000, 50)
    options: dict[str, Any] = {"Cs": 10, "cv": 5, "l1_ratios": (0,), "scoring": None, "use_legacy_attributes": False}
    LogisticRegressionClassifierCV(**options).fit(x[:500], y[:500])
    print("estimator: 100000 x 50, 10 values of C, 5 folds")
    cpu, wall, ours = best_of(lambda: LogisticRegressionClassifierCV(**options).fit(x, y))
    print(f"  ours                 {cpu:7.2f} CPU s, {wall:7.2f} s")
    cpu, wall, peer = best_of(lambda: LogisticRegressionCV(**options).fit(x, y))
    gaps = []
    for fold, (train, _) in enumerate(StratifiedKFold(5).split(x, y)):
        sign = 1 - 2 * y[train]
        for k, C in enumerate(ours.Cs_):
            least, other = (
                C * np.logaddexp(0, sign * (x[train] @ theta[:-1] + theta[-1])).sum() + theta[:-1] @ theta[:-1] / 2
                for theta in (fitted.coefs_paths_[fold, 0, k, 0] for fitted in (ours, peer))
            )
            gaps.append(other / least - 1)
    print(f"  scikit-learn         {cpu:7.2f} CPU s, {wall:7.2f} s, gap from {min(gaps):.1e} to {max(gaps):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, "estimator", []], default=[])
    for name in parser.parse_args().tasks or [*TASKS, "estimator"]:
        if name == "estimator":
            measure_estimator()
        else:
            measure(name)


if __name__ == "__main__":
    main()
