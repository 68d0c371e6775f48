"""How long the tutorial's 1000 epochs take, and how long the commands take to start.

    python -m tests.benchmarks.tutorial

Each figure is the best of five; whole processes are timed from outside.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from lr_lightning.cli.main import main
from lr_lightning.training.callbacks.signals import StopOnSignal

ROOT = Path(__file__).parents[2]
REPEATS = 5


def best_of(measure: Callable[[], float]) -> float:
    """The least of several measurements: noise only ever adds."""
    return min(measure() for _ in range(REPEATS))


def plain_loop() -> float:
    """Seconds of the tutorial's own kind of loop, without logging."""
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    start = time.perf_counter()
    for _ in range(1000):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def command() -> float:
    """Seconds that `lr-lightning fit --config conf/hours.yaml` spends in its 1000 epochs, everything logged."""
    moments = []

    def now(*_: object) -> None:
        moments.append(time.perf_counter())

    # The first callback to hear of the start, and the last before the report and the pictures are made.
    with (
        mock.patch.object(StopOnSignal, "on_train_start", now),
        mock.patch.object(StopOnSignal, "on_train_end", now),
    ):
        assert main(["fit", "--config", str(ROOT / "conf" / "hours.yaml")]) == 0
    start, end = moments
    return end - start


def process(*arguments: str) -> float:
    """Seconds of a whole process of this interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    return time.perf_counter() - start


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        import os

        os.chdir(folder)
        rows = [
            ("1000 epochs, plain loop", plain_loop),
            ("1000 epochs, lr-lightning fit", command),
            ("python -c pass", lambda: process("-c", "pass")),
            ("import lr_lightning", lambda: process("-c", "import lr_lightning")),
            ("import torch", lambda: process("-c", "import torch")),
            ("lr-lightning --help", lambda: process("-m", "lr_lightning", "--help")),
            ("lr-lightning --version", lambda: process("-m", "lr_lightning", "--version")),
        ]
        checkpoint = "runs/hours/version_0/checkpoints/last.ckpt"
        rows.append(
            ("lr-lightning predict", lambda: process("-m", "lr_lightning", "predict", "--ckpt_path", checkpoint))
        )
        figures = [(name, best_of(measure)) for name, measure in rows]
    print("\n".join(f"{name:<32} {seconds:8.3f} s" for name, seconds in figures))
