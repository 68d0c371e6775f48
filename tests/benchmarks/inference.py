"""Measures small fits, Firth's penalty and profile likelihoods against the peers, on the same arrays in one process.

    python -m tests.benchmarks.inference                  # all tasks
    python -m tests.benchmarks.inference estimator firth  # some

CPU seconds of one thread, the best of several runs that alternate with the peer's; ratios are the claim. Beside them
stands the distance to the optimum: the largest last Newton step, in standard errors. Peers that are not installed are
left out.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lr_lightning import LogisticRegressionClassifier
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver import solve
from lr_lightning.solver.likelihood import Likelihood
from lr_lightning.solver.profile import Task, optimum, profile

ENOUGH = 3.0  # seconds, after which no run is repeated
DROP = 3.841458820694124 / 2  # half the 95 % quantile of χ²₁


def best(runs: Mapping[str, Callable[[], Any]], times: int) -> dict[str, tuple[float, Any]]:
    """The least CPU seconds of each, and what it returned."""
    found: dict[str, tuple[float, Any]] = {}
    for run in runs.values():  # the first call imports a part of torch
        run()
    begin = time.perf_counter()
    for _ in range(times):
        for name, run in runs.items():
            start = time.process_time()
            result = run()
            seconds = time.process_time() - start
            if name not in found or seconds < found[name][0]:
                found[name] = seconds, result
        if time.perf_counter() - begin > ENOUGH:
            break
    return found


def table(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent columns, of which the first one decides."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, d))
    return x, (generator.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)


def estimator() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    tables = {
        "569 x 30, standardised": (StandardScaler().fit_transform(x), y),
        "569 x 30": (x, y),
        "1 000 x 20": make_classification(1000, 20, random_state=0),
    }
    for name, (features, labels) in tables.items():
        classes = {"ours": LogisticRegressionClassifier, "scikit-learn's default": LogisticRegression}
        fits = {
            peer: lambda of=of, features=features, labels=labels: of().fit(features, labels)
            for peer, of in classes.items()
        }
        report(f"estimator, {name}", best(fits, 200))


def distance(x: np.ndarray, y: np.ndarray, theta: np.ndarray) -> float:
    """The Newton step that is left to Firth's estimate, in standard errors."""
    rows = np.column_stack([x, np.ones(len(x))])
    pi = 1 / (1 + np.exp(-(rows @ theta)))
    curvature = pi * (1 - pi)
    inverse = np.linalg.inv((rows.T * curvature) @ rows)
    leverage = curvature * np.einsum("ij,jk,ik->i", rows, inverse, rows)
    step = inverse @ (rows.T @ (y - pi + leverage * (0.5 - pi)))
    return float(np.abs(step / np.sqrt(inverse.diagonal())).max())


def firth() -> None:
    for n, d, times in ((1000, 50, 100), (100_000, 50, 3)):
        x, y = table(n, d)
        rows = Rows(torch.from_numpy(x), torch.from_numpy(y))
        runs: dict[str, Callable[[], Any]] = {
            "ours": lambda rows=rows: solve(rows, Objective(firth=True)).theta.numpy()
        }
        if (peer := _firthmodels()) is not None:

            def of_peer(tol: float, x: np.ndarray = x, y: np.ndarray = y, peer: Any = peer) -> np.ndarray:
                model = peer(gtol=tol, xtol=tol, max_iter=100).fit(x, y)
                return np.append(model.coef_, model.intercept_)

            runs["firthmodels, its tolerance"] = lambda of_peer=of_peer: of_peer(1e-4)
            runs["firthmodels, to 1e-8"] = lambda of_peer=of_peer: of_peer(1e-8)
        found = best(runs, times)
        report(f"Firth, {n} x {d}", found, {k: distance(x, y, v[1]) for k, v in found.items()})


def profiles_of(x: np.ndarray, y: np.ndarray, *, firth: bool, columns: Iterable[int]) -> torch.Tensor:
    """Both ends of the intervals and the tests of some coefficients, by a fit of all rows."""
    rows, d = Rows(torch.from_numpy(x), torch.from_numpy(y)), x.shape[1]
    mean, scale = torch.from_numpy(x.mean(0)), torch.from_numpy(x.std(0))
    likelihood = Likelihood([rows], Standardization(mean, scale), firth=firth)
    theta = solve(rows, Objective()).theta
    start = torch.cat([theta[:-1] * scale, (theta[-1] + mean @ theta[:-1])[None]])
    of_original = torch.zeros(d + 1, d + 1, dtype=torch.float64)
    of_original[:d, :d] = (1 / scale).diag()
    of_original[:, d] = torch.cat([-mean / scale, torch.ones(1, dtype=torch.float64)])
    tasks = [Task(of_original[:, j], side) for j in columns for side in (-1, 1, 0)]
    return profile(likelihood, optimum(likelihood, start), tasks, DROP, n_rows=len(x))


def profiles() -> None:
    x, y = table(100_000, 30)
    rows = Rows(torch.from_numpy(x), torch.from_numpy(y))
    runs = {
        "a plain fit": lambda: solve(rows, Objective()),
        "intervals and tests of all 31 coefficients": lambda: profiles_of(x, y, firth=False, columns=range(31)),
    }
    report("profile likelihood, 100 000 x 30", best(runs, 3))
    if (peer := _firthmodels()) is None:
        return
    of_peer_x, of_peer_y, d = x[:5000, :10], y[:5000], 10

    def of_peer() -> np.ndarray:
        model = peer().fit(of_peer_x, of_peer_y)
        ends = model.conf_int(method="pl")
        model.lrt()
        return ends

    def ours() -> torch.Tensor:
        return profiles_of(of_peer_x, of_peer_y, firth=True, columns=range(d + 1))

    found = best({"ours": ours, "firthmodels": of_peer}, 3)
    ends = found["ours"][1].reshape(d + 1, 3)[:, :2].numpy()
    apart = {"firthmodels": float(np.abs(found["firthmodels"][1] / ends - 1).max())}
    report("profile likelihood under Firth, 5 000 x 10 (last column: relative to ours)", found, apart)


def _firthmodels() -> Any:
    try:
        return importlib.import_module("firthmodels").FirthLogisticRegression
    except ImportError:
        return None


def report(title: str, found: Mapping[str, tuple[float, Any]], distances: Mapping[str, float] | None = None) -> None:
    print(title)
    first = next(iter(found.values()))[0]  # ratios are to it
    for name, (seconds, _) in found.items():
        far = "" if distances is None or name not in distances else f"{distances[name]:>10.0e}"
        print(f"  {name:45} {1000 * seconds:>10.2f} ms {seconds / first:>6.2f}{far}")


TASKS = {"estimator": estimator, "firth": firth, "profiles": profiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all by default")
    names = parser.parse_args().tasks or list(TASKS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in names:
        TASKS[name]()


if __name__ == "__main__":
    main()
