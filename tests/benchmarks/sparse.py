"""Measures fits of sparse rows and of categories of many levels against the peers, on the same arrays in one process.

    python -m tests.benchmarks.sparse                 # all tasks
    python -m tests.benchmarks.sparse zipf            # some
    python -m tests.benchmarks.sparse clicks --rows 500000 5000000   # from file to report; ours alone

Figures are CPU seconds of all threads, medians; ratios are the claim. Beside each stand the objective's gap to ours,
which may be negative by rounding, and the mean residual, which is 0 at the optimal intercept: several peers leave the
intercept unconverged. "Ours" is the solver as it is used, whose coefficients have nine digits. A peer runs at the
loosest of its tolerances that reaches the gap of the task; "ours, to the gap" does the same. Peers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.csr import Csr
from lr_lightning.model.design import Dense
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.model.storage import Design
from lr_lightning.solver import solve

SLOW = 5.0  # seconds; what takes longer is run once
Solution = tuple[np.ndarray, float]  # weights and intercept


@dataclass
class Task:
    name: str
    gap: float  # relative, that a peer must reach
    design: Callable[[], Design]  # anew for each fit
    csr: sp.csr_array
    y: np.ndarray
    l1: float = 0.0
    l2: float = 0.0
    frame: Any = None  # a table with categories, for glum
    peers: list[str] = field(default_factory=list)


def ours(task: Task, tol: float | None = None) -> Solution:
    rows = Rows(task.design(), torch.from_numpy(task.y))
    theta = solve(rows, Objective(l1=task.l1, l2=task.l2), tol=tol).theta.numpy()
    return theta[:-1], float(theta[-1])


def of_scikit_learn(task: Task, solver: str, tol: float) -> Solution:
    n = len(task.y)
    penalty = {"C": 1 / (n * task.l1), "l1_ratio": 1.0} if task.l1 else {"C": 1 / (n * task.l2)}
    if solver == "liblinear":
        penalty["intercept_scaling"] = 100  # it penalises the intercept; so it hardly does
    cls = importlib.import_module("sklearn.linear_model").LogisticRegression
    model = cls(solver=solver, tol=tol, max_iter=1000, **penalty).fit(task.csr, task.y)
    return model.coef_[0], float(model.intercept_[0])


def of_glum(task: Task, tol: float) -> Solution:
    glum = importlib.import_module("glum")
    model = glum.GeneralizedLinearRegressor(
        family="binomial", alpha=task.l2, l1_ratio=0, drop_first=True, gradient_tol=tol, scale_predictors=False
    )
    model.fit(task.frame, task.y)
    return model.coef_, float(model.intercept_)


def of_cyanure(task: Task, tol: float) -> Solution:
    cls = importlib.import_module("cyanure.estimators").Classifier
    penalty, strength = ("l1", task.l1) if task.l1 else ("l2", task.l2)
    model = cls(
        loss="logistic", penalty=penalty, lambda_1=strength, fit_intercept=True, tol=tol, max_iter=1000, verbose=False
    )
    model.fit(sp.csr_matrix(task.csr), task.y)
    return model.coef_.ravel(), float(np.ravel(model.intercept_)[0])


def of_skglm(task: Task, tol: float) -> Solution:
    cls = importlib.import_module("skglm").SparseLogisticRegression
    model = cls(alpha=task.l1, tol=tol, max_iter=200).fit(task.csr.tocsc(), task.y)
    return model.coef_.ravel(), float(np.ravel(model.intercept_)[0])


def of_glmnet(task: Task, tol: float) -> Solution:
    cls = importlib.import_module("glmnet").LogitNet
    limit = np.abs(task.csr.T @ (task.y - task.y.mean())).max() / len(task.y)
    path = np.geomspace(limit, task.l1, 10)
    model = cls(alpha=1, lambda_path=path, standardize=False, n_splits=0, tol=tol, max_iter=10**6)
    model.fit(sp.csc_matrix(task.csr), task.y)
    return model.coef_path_[0][:, -1], float(model.intercept_path_[0][-1])


def of_ours_dense(task: Task, tol: float) -> Solution:
    rows = Rows(torch.from_numpy(task.csr.toarray()), torch.from_numpy(task.y))
    theta = solve(rows, Objective(l1=task.l1, l2=task.l2), tol=tol).theta.numpy()
    return theta[:-1], float(theta[-1])


# Each with its tolerances, the loosest first.
PEERS: dict[str, tuple[Callable[[Task, float], Solution], tuple[float, ...]]] = {
    "ours, to the gap": (ours, (1e-7, 1e-8, 1e-9, 1e-10, 1e-12)),
    "scikit-learn newton-cg": (
        lambda task, tol: of_scikit_learn(task, "newton-cg", tol),
        (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8),
    ),
    "scikit-learn liblinear": (
        lambda task, tol: of_scikit_learn(task, "liblinear", tol),
        (1e-3, 1e-4, 1e-5, 1e-6, 1e-8),
    ),
    "cyanure": (of_cyanure, (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)),
    "glum with tabmat": (of_glum, (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)),
    "skglm": (of_skglm, (1e-5, 1e-6, 1e-7, 1e-8, 1e-10)),
    "python-glmnet": (of_glmnet, (1e-7, 1e-8, 1e-9, 1e-10, 1e-11)),
    "ours, dense": (of_ours_dense, (1e-14,)),
}


def zipf_table(n: int = 200_000, d: int = 50_000, per_row: int = 40) -> tuple[sp.csr_array, np.ndarray]:
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, d + 1)
    column = rng.choice(d, n * per_row, p=frequency / frequency.sum()).astype(np.int32)
    ends = np.arange(0, n * per_row + 1, per_row, dtype=np.int32)
    x = sp.csr_array((rng.random(n * per_row), column, ends), shape=(n, d))
    x.sum_duplicates()
    z = x @ (rng.standard_normal(d) * 0.5) - 1.5
    return x, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)


def zipf() -> list[Task]:
    x, y = zipf_table()
    peers = ["cyanure", "scikit-learn newton-cg", "scikit-learn liblinear"]
    return [Task("200 000 x 50 000, Zipf, L2 with C = 1", 1e-8, lambda: Csr.of(x), x, y, l2=1 / len(y), peers=peers)]


def zipf_l1() -> list[Task]:
    x, y = zipf_table()
    limit = float(np.abs(x.T @ (y - y.mean())).max()) / len(y)
    peers = ["skglm", "python-glmnet", "scikit-learn liblinear"]
    return [
        Task(f"the same, L1 at {share:.0%} of its limit", 1e-10, lambda: Csr.of(x), x, y, l1=share * limit, peers=peers)
        for share in (0.05, 0.01)
    ]


def _codes(
    n: int, levels: list[int], numbers: int, seed: int, rows: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (c, n) with Zipf frequencies, numbers (n, p), and labels; another number of `rows` gives others."""
    rng, of_model = np.random.default_rng([seed, rows]), np.random.default_rng(seed)
    codes, z = np.empty((len(levels), n), np.int32), np.full(n, -1.0)
    for code, size in zip(codes, levels, strict=True):
        frequency = 1 / np.arange(1, size + 1) ** 0.8
        code[:] = np.searchsorted(frequency.cumsum() / frequency.sum(), rng.random(n)).clip(max=size - 1)
        z += (of_model.standard_normal(size) * 1.5 / len(levels))[code]
    x = rng.standard_normal((n, numbers))
    z += x @ (of_model.standard_normal(numbers) * 0.3)
    return codes, x, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)


def _design(codes: np.ndarray, x: np.ndarray, levels: list[int]) -> Design:
    categories = Categories(torch.from_numpy(codes).T, levels)
    return Columns([Dense(torch.from_numpy(x)), categories]) if x.size else categories


def _of_categories(name: str, levels: list[int], numbers: int, peers: list[str]) -> Task:
    codes, x, y = _codes(500_000, levels, numbers, seed=1)
    whole = sp.hstack([_design(codes, x[:, :0], levels).compressed(slice(0, len(y)))], format="csr")  # type: ignore[attr-defined]
    frame = None
    try:
        pd = importlib.import_module("pandas")
        columns = {f"x{j}": x[:, j] for j in range(numbers)}
        columns |= {
            f"c{j}": pd.Categorical.from_codes(code, range(size))
            for j, (code, size) in enumerate(zip(codes, levels, strict=True))
        }
        frame = pd.DataFrame(columns)
    except ImportError:
        peers = [peer for peer in peers if "glum" not in peer]
    csr = sp.hstack([sp.csr_array(x), whole], format="csr") if numbers else whole
    return Task(name, 1e-9, lambda: _design(codes, x, levels), csr, y, l2=1 / len(y), frame=frame, peers=peers)


def categories() -> list[Task]:
    peers = ["scikit-learn newton-cg", "glum with tabmat"]
    return [_of_categories("500 000 rows, 2 000 + 500 + 50 levels and 10 numbers", [2000, 500, 50], 10, peers)]


def one_hot() -> list[Task]:
    task = _of_categories("500 000 rows, ten columns of 20 levels", [20] * 10, 0, ["ours, dense", "glum with tabmat"])
    codes = int(task.design().stored.nbytes)  # type: ignore[attr-defined]
    filled = task.csr.shape[0] * task.csr.shape[1] * 8
    print(f"\ncodes {codes / 1e6:.0f} MB, filled in float64 {filled / 1e6:.0f} MB: {filled / codes:.0f} times as many")
    return [task]


def measured(task: Task, solution: Solution) -> tuple[float, float]:
    """The objective, and the mean residual."""
    weight, bias = np.asarray(solution[0], float), solution[1]
    z, y = task.csr @ weight + bias, task.y
    loss = float((np.logaddexp(0, -np.abs(z)) + np.maximum(z, 0) - y * z).mean())
    residual = float((1 / (1 + np.exp(-z)) - y).mean())
    return loss + task.l1 * float(np.abs(weight).sum()) + 0.5 * task.l2 * float(weight @ weight), residual


def median_time(run: Callable[[], Solution], repeat: int) -> tuple[float, Solution]:
    times = []
    while True:
        start = time.process_time()
        solution = run()
        times.append(time.process_time() - start)
        if len(times) == repeat or times[-1] > SLOW:
            return statistics.median(times), solution


def compare(task: Task, repeat: int) -> None:
    print(f"\n{task.name}")
    head = f"{'CPU s':>8} {'ratio':>7} {'gap':>9} {'residual':>9} {'intercept':>12} {'non-zero':>9} {'tol':>6}"
    print(f"  {'':26} {head}")
    unit, solution = median_time(lambda: ours(task), repeat)
    lowest, residual = measured(task, solution)

    def show(name: str, seconds: float, solution: Solution, gap: float, residual: float, rest: str) -> None:
        weight, bias = solution
        figures = f"{seconds:8.3f} {seconds / unit:7.1f} {gap:9.1e} {residual:9.1e} {bias:12.8f}"
        print(f"  {name:26} {figures} {np.count_nonzero(weight):9d} {rest}", flush=True)

    show("ours", unit, solution, 0.0, residual, "")
    for name in ["ours, to the gap", *task.peers]:
        peer, tolerances = PEERS[name]
        for tol in tolerances:
            try:
                seconds, solution = median_time(lambda peer=peer, tol=tol: peer(task, tol), repeat)
            except ImportError:
                print(f"  {name}: not installed")
                break
            value, residual = measured(task, solution)
            if value / lowest - 1 <= task.gap or tol == tolerances[-1]:
                reached = value / lowest - 1 <= task.gap
                rest = f"{tol:6.0e}{'' if reached else '  does not reach the gap'}"
                show(name, seconds, solution, value / lowest - 1, residual, rest)
                break


def clicks(sizes: list[int], threads: int) -> None:
    """13 numbers and 26 categories of 10 to 300 000 levels, from a Parquet file to the report, by the command."""
    levels = [int(size) for size in np.geomspace(10, 300_000, 26)]
    print(f"\nclick log: 13 numbers, 26 categories, {sum(levels)} levels, Parquet to report, L2 with C = 1")
    print(f"  {'rows':>10} {'CPU s':>7} {'seconds':>8} {'memory, GiB':>11} {'file, GB':>9}")
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clicks.parquet"
            _write_clicks(path, n, levels)
            options = {"data.path": path, "data.target": "y", "data.val_fraction": 0}
            options |= {
                "model.l2": 1 / n,
                "model.standardize": "false",
            }  # else it hardly holds rare levels
            command = [sys.executable, "-m", "lr_lightning", "fit"]
            command += [f"--{name}={value}" for name, value in options.items()]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path.cwd())}
            start = time.perf_counter()
            with (Path(folder) / "said.txt").open("w") as said:
                process = subprocess.Popen(command, cwd=folder, env=environment, stderr=said, stdout=said)
                _, status, usage = os.wait4(process.pid, 0)  # which says what this process alone has used
            seconds = time.perf_counter() - start
            if status:
                print((Path(folder) / "said.txt").read_text()[-2000:])
            cpu = usage.ru_utime + usage.ru_stime
            size = path.stat().st_size / 1e9
            print(f"  {n:10,} {cpu:7.1f} {seconds:8.1f} {usage.ru_maxrss / 2**20:11.2f} {size:9.2f}", flush=True)


def _write_clicks(path: Path, n: int, levels: list[int]) -> None:
    """A Parquet file in groups of 500 000 rows: its labels follow one model."""
    pa, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    writer = None
    for first in range(0, n, 500_000):
        codes, x, y = _codes(min(500_000, n - first), levels, 13, seed=2, rows=first)
        columns: dict[str, Any] = {f"n{j}": x[:, j].astype(np.float32) for j in range(13)}
        for j, (code, size) in enumerate(zip(codes, levels, strict=True)):
            names = pa.array([f"v{value:08x}" for value in range(size)])
            columns[f"c{j}"] = pa.DictionaryArray.from_arrays(pa.array(code), names).cast(pa.string())
        table = pa.table({**columns, "y": y.astype(np.int8)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


TASKS: dict[str, Callable[[], list[Task]]] = {
    function.__name__: function for function in (zipf, zipf_l1, categories, one_hot)
}


def main(argv: list[str] | None = None) -> None:
    """Runs the tasks that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="task", help=", ".join([*TASKS, "clicks"]))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000], help="of the click log")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    for name in arguments.tasks or [*TASKS, "clicks"]:
        if name == "clicks":
            clicks(arguments.rows, arguments.threads)
            continue
        for task in TASKS[name]():
            compare(task, arguments.repeat)


if __name__ == "__main__":
    main()
