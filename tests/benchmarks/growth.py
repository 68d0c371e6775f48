"""Measures how the time of a fit grows with the rows and with the features, and draws it.

    python -m tests.benchmarks.growth                # prints the tables, writes growth.png beside RESULTS.md

Independent features, L2 of 1/n, `Trainer.fit` as a user calls it. The slope is that of log(seconds) against
log(size) between a line and the one before.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from pathlib import Path

import matplotlib as mpl
import torch

from tests.benchmarks.solver import best_time, fit_ours, labels

ROWS = [(n, 28) for n in (10_000, 100_000, 1_000_000, 10_000_000)]
FEATURES = [(100_000, d) for d in (10, 30, 100, 300, 1000, 2000)]
PICTURE = Path(__file__).with_name("growth.png")

Line = tuple[int, float]  # size, seconds


def measure(sizes: list[tuple[int, int]], of: int, repeat: int) -> list[Line]:
    """Prints a table over (n, d), where the size is element ``of`` of the pair."""
    print(f"\n{'nd'[of]:>10} {'seconds':>9} {'slope':>6} {'passes':>7}")
    lines: list[Line] = []
    for n, d in sizes:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(n, d, generator=generator)
        y = labels(x, generator)
        seconds, solution = best_time(lambda x=x, y=y: fit_ours(x, y, l2=1 / len(x)), repeat)
        size = (n, d)[of]
        slope = ""
        if lines:
            slope = f"{math.log(seconds / lines[-1][1]) / math.log(size / lines[-1][0]):.2f}"
        print(f"{size:10d} {seconds:9.4f} {slope:>6} {solution[2]:7d}", flush=True)
        lines.append((size, seconds))
    return lines


def draw(by_rows: list[Line], by_features: list[Line], path: Path) -> None:
    """Draws both tables with logarithmic axes, and a line of slope 1 through the last point of each."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for axis, lines, title, label in (
        (axes[0], by_rows, "28 features", "rows"),
        (axes[1], by_features, "100 000 rows", "features"),
    ):
        sizes, seconds = zip(*lines, strict=True)
        axis.loglog(sizes, seconds, "o-", label="Trainer.fit")
        axis.loglog(sizes, [seconds[-1] * size / sizes[-1] for size in sizes], ":", color="0.5", label="slope 1")
        axis.set(title=title, xlabel=label)
        axis.grid(True, which="both", alpha=0.2)
        axis.legend()
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    draw(measure(ROWS, 0, arguments.repeat), measure(FEATURES, 1, arguments.repeat), PICTURE)


if __name__ == "__main__":
    main()
