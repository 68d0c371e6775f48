"""Measures the exact solver on a GPU against scikit-learn's lbfgs on GPU tensors and torch's L-BFGS.

    python -m tests.benchmarks.gpu                               # 20 000 000 x 28 and 2 000 000 x 500
    python -m tests.benchmarks.gpu --device cpu --share 0.001    # the same code, small, where there is none

The pass's share of the memory bandwidth is the bytes of x over its seconds, against the rate at which the same
device sums the same tensor.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lr_lightning.model.objective import logistic_loss
from tests.benchmarks.solver import Solution, Task, best_time, fit_ours, objective, torch_lbfgs

SIZES = ((20_000_000, 28), (2_000_000, 500))


def scikit_learn(task: Task) -> Solution:
    """scikit-learn's lbfgs by the array API, on the tensors where they are."""
    config_context = importlib.import_module("sklearn").config_context
    model = importlib.import_module("sklearn.linear_model").LogisticRegression(C=1 / (len(task.x) * task.l2))
    with config_context(array_api_dispatch=True):
        model.fit(task.x, task.y)
    weight = torch.as_tensor(model.coef_, dtype=torch.float64).cpu()[0]
    return weight, float(model.intercept_[0]), int(model.n_iter_[0])


def make(n: int, d: int, device: torch.device) -> Task:
    """Correlated features, made on the device."""
    generator = torch.Generator(device).manual_seed(0)
    mixing = torch.randn(d, d, generator=generator, device=device) * 0.9 ** torch.arange(d, device=device)[:, None]
    mixing /= mixing.norm(dim=0)
    x = torch.empty(n, d, device=device)
    for block in x.split(1_000_000):
        torch.matmul(torch.randn(block.shape, generator=generator, device=device), mixing, out=block)
    weight = torch.randn(d, generator=generator, device=device) / d**0.5
    y = (torch.rand(n, generator=generator, device=device) < torch.sigmoid(x @ weight)).float()
    return Task(f"{n} x {d}", x, y, l2=1 / n)


def waiting(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """``run``, to the end of what it has started on the device."""

    def timed() -> Any:
        result = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    return timed


def compare(task: Task, device: torch.device, repeat: int) -> None:
    """Prints the table of one size."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    solvers: dict[str, Callable[[], Solution]] = {
        "ours": lambda: fit_ours(task.x, task.y, l2=task.l2, accelerator=accelerator),
        "scikit-learn lbfgs": lambda: scikit_learn(task),
        "torch LBFGS": lambda: torch_lbfgs(task),
    }
    print(f"\n{task.name} on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}")
    fastest: float | None = None
    for name, run in solvers.items():
        try:
            seconds, (weight, bias, passes) = best_time(waiting(run, device), repeat)
        except (ImportError, ValueError, TypeError) as error:
            print(f"  {name:20} {error}")
            continue
        fastest = fastest or seconds
        value = objective(task, weight.to(device), bias)
        print(f"  {name:20} {seconds:9.4f} s {seconds / fastest:7.1f} {passes:5d} passes   objective {value:.12g}")
    weight = torch.zeros(task.x.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    bias: Tensor = torch.zeros((), dtype=torch.float64, device=device)
    one_pass, _ = best_time(waiting(lambda: logistic_loss(task.x, task.y, weight, bias), device), 5)
    one_read, _ = best_time(waiting(lambda: task.x.sum(), device), 5)
    gigabytes = 4e-9 * task.x.numel()
    print(
        f"  a pass reads x at {gigabytes / one_pass:.0f} GB/s, {one_read / one_pass:.0%} of the rate of a plain sum "
        f"({gigabytes / one_read:.0f} GB/s)"
    )


def main(argv: list[str] | None = None) -> None:
    """Measures both sizes, or a share of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU; --device cpu --share 0.001 runs the same code")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    device = torch.device(arguments.device)
    for n, d in SIZES:
        compare(make(int(n * arguments.share), d, device), device, arguments.repeat)


if __name__ == "__main__":
    os.environ.setdefault("SCIPY_ARRAY_API", "1")
    main()
