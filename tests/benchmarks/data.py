"""Measure the data path: reading, serving, and a fit and a path on tables larger than a limit on memory.

    python -m tests.benchmarks.data reading [--rows 1000000] [--columns 30]
    python -m tests.benchmarks.data serving
    python -m tests.benchmarks.data memory [--limit 1.0] [--folder /tmp]
    python -m tests.benchmarks.data memory --of path --limit 1.2 [--folder /tmp]

Everything is printed as a ratio to a bare reference that runs in the same process, alternating with it, so
that the figures mean something on a busy machine. `memory` needs Linux.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv, parquet

warnings.filterwarnings("ignore")


def alternate(cases: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """The median seconds of each case; the rounds take turns, so that what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def reading(rows: int, columns: int) -> None:
    """TableDataModule against pyarrow's reader and one float32 copy; both end in a (rows, columns) tensor."""
    from lr_lightning.training.data_modules import TableDataModule

    rng = np.random.default_rng(0)
    table = pa.table({f"x{j}": rng.normal(size=rows) for j in range(columns)} | {"y": rng.integers(0, 2, rows)})
    with tempfile.TemporaryDirectory() as folder:
        paths = {"Parquet": f"{folder}/t.parquet", "CSV": f"{folder}/t.csv"}
        parquet.write_table(table, paths["Parquet"])
        csv.write_csv(table, paths["CSV"])
        for kind, path in paths.items():
            read = parquet.read_table if kind == "Parquet" else csv.read_csv

            def reference(path: str = path, read: Callable[[str], pa.Table] = read) -> torch.Tensor:
                found = read(path)
                x = torch.empty(found.num_rows, columns)
                for j in range(columns):
                    x.numpy()[:, j] = found.column(j).to_numpy()
                return x

            def ours(path: str = path, val_fraction: float = 0.0) -> TableDataModule:
                data = TableDataModule(path, "y", val_fraction=val_fraction)
                data.prepare_data()
                data.setup("fit")
                return data

            cases = {
                "reader + float32 copy": reference,
                "TableDataModule": ours,
                "TableDataModule, val_fraction 0.2": lambda path=path: ours(path, 0.2),
            }
            report(f"{kind}, {rows} x {columns}, {os.path.getsize(path) / 1e6:.0f} MB", alternate(cases, 5))


def serving(rows: int = 100_000, columns: int = 20, batch_size: int = 256) -> None:
    """An epoch of shuffled batches against a DataLoader, and against bare randperm and slicing."""
    from torch.utils.data import DataLoader, TensorDataset

    from lr_lightning.data.loader import TensorBatches
    from lr_lightning.model.rows import Rows

    x, y = torch.randn(rows, columns), torch.randint(0, 2, (rows,)).float()
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True)
    batches = TensorBatches(Rows(x, y, None), batch_size, shuffle=True)

    def exhaust(items: Iterable[object]) -> None:
        for _ in items:
            pass

    def bare() -> None:
        order = torch.randperm(rows)
        for start in range(0, rows, batch_size):
            chosen = order[start : start + batch_size]
            _ = x[chosen], y[chosen]

    cases = {
        "randperm + slicing": bare,
        "TensorBatches": lambda: exhaust(batches),
        "DataLoader(TensorDataset)": lambda: exhaust(loader),
    }
    report(f"an epoch of {rows} x {columns} in shuffled batches of {batch_size}", alternate(cases))


def memory(of: str, limit: float, folder: str) -> None:
    """A fit under a hard limit on a process's memory, of a table of four times that size; or a path, of 1.25 times.

    A path keeps some numbers of every row, among them its fold and its logits by the fits without the others.
    """
    columns, times = (30, 4.0) if of == "fit" else (60, 1.25)
    rows = int(times * limit * 2**30 / (4 * columns))
    path = Path(folder) / f"larger_than_memory_{rows}.parquet"
    if not path.exists():
        rng = np.random.default_rng(0)
        beta = rng.normal(size=columns) / 5
        names = [f"x{j}" for j in range(columns)]
        schema = pa.schema([(name, pa.float32()) for name in names] + [("y", pa.int8())])
        with parquet.ParquetWriter(path, schema, compression="none") as writer:
            for start in range(0, rows, 1 << 20):
                x = rng.standard_normal((min(1 << 20, rows - start), columns), dtype=np.float32)
                y = rng.random(len(x)) < 1 / (1 + np.exp(-(x @ beta)))
                arrays = {name: x[:, j] for j, name in enumerate(names)} | {"y": y.astype(np.int8)}
                writer.write_table(pa.table(arrays, schema))
    print(f"{path}: {path.stat().st_size / 2**30:.2f} GiB, {rows} rows; the limit is {limit} GiB", flush=True)
    # A process of its own, so that nothing but the fit is bound by the limit and counted. Arrow's default
    # allocator sets a gibibyte of addresses aside at once, which this kind of limit takes for memory.
    options = ["--limit", str(limit), "--path", str(path)]
    command = [sys.executable, "-m", "tests.benchmarks.data", of, *options]
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def fit(limit: float, path: str) -> None:
    """The fit that `memory` measures."""
    from lightning.pytorch import Trainer

    from lr_lightning import LogisticRegression
    from lr_lightning.training.data_modules import TableDataModule

    logging.basicConfig(format="%(message)s")
    logging.getLogger("lr_lightning").setLevel(logging.INFO)
    _limit_memory(limit)
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # nothing says that the table is large: it is found out
        data = TableDataModule(path, "y", val_fraction=0.01)
        start = time.perf_counter()
        data.prepare_data()
        size = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
        print(f"  decoded once in {time.perf_counter() - start:.0f} s into {size / 2**30:.2f} GiB")
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = Trainer(max_epochs=20, accelerator="cpu", **dict.fromkeys(quiet, False))
        start = time.perf_counter()
        trainer.fit(LogisticRegression(), data)
        print(f"  fit in {time.perf_counter() - start:.0f} s, {trainer.current_epoch} passes")
        _print_memory()


def path_of_penalties(limit: float, path: str) -> None:
    """The path that `memory` measures, with its report, files and pictures."""
    from lr_lightning.cli import path as _  # noqa: F401 (an import)
    from lr_lightning.cli.main import main

    _limit_memory(limit)
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        os.chdir(folder)
        start = time.perf_counter()
        options = ["--data.target", "y", "--path.n_lambda", "20", "--cv.folds", "3", "--quiet"]
        code = main(["path", "--data.path", path, *options])
        print(f"  exit code {code}, 20 penalties and 3 folds in {time.perf_counter() - start:.0f} s")
        _print_memory()


def _limit_memory(limit: float) -> None:
    import resource

    print(f"  the imports alone: VmData {_status('VmData'):.2f} GiB")
    n_bytes = int(limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))


def _print_memory() -> None:
    for name in ("VmPeak", "VmData", "RssAnon", "RssFile", "VmHWM"):
        print(f"  {name:8} {_status(name):6.2f} GiB")
    print("  (the limit binds VmData; RssFile is page cache, which the system takes back when it has to)")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 2**20


def report(title: str, seconds: dict[str, float]) -> None:
    """Print seconds, and ratios to the first case."""
    print(title)
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(f"  {name:34} {value:8.4f} s  {value / first:7.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("reading")
    command.add_argument("--rows", type=int, default=1_000_000)
    command.add_argument("--columns", type=int, default=30)
    commands.add_parser("serving")
    command = commands.add_parser("memory")
    command.add_argument("--of", choices=["fit", "path"], default="fit")
    command.add_argument("--limit", type=float, default=1.0, help="GiB")
    command.add_argument("--folder", default=tempfile.gettempdir())
    for name in ("fit", "path"):
        command = commands.add_parser(name, help="what memory runs")
        command.add_argument("--limit", type=float)
        command.add_argument("--path")
    options = vars(parser.parse_args())
    run = {"reading": reading, "serving": serving, "memory": memory, "fit": fit, "path": path_of_penalties}
    run[options.pop("command")](**options)
