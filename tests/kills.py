"""Fits that are killed at random moments, resumed, and compared bit by bit with the uninterrupted one.

    python -m tests.kills --count 50 --seed 0

Not Windows: the fits are forked from one process that has imported everything, so that fifty take minutes.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lr_lightning.cli.fit
import lr_lightning.training.callbacks.checkpoints
from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.cli.main import main

OPTIMIZERS = {
    "SGD": "--optimizer SGD --optimizer.lr 0.05 --optimizer.momentum 0.9 --trainer.max_epochs 12 "
    "--data.batch_size 1000",
    "SubsampledNewton": "--model.l1 0.001 --data.batch_size 400",
}
PRECISIONS = ("64-true", "32-true")
PHASES = ("any moment", "checkpoint", "cache")
LONGEST = 300.0  # seconds until a fit is taken to hang
ROWS, FEATURES = 60_000, 6
CHECKPOINTS = {"SGD": 14, "SubsampledNewton": 3}  # about as many as a fit writes


@dataclass(frozen=True)
class Case:
    """One kind of fit, and what it is doing when it is killed."""

    optimizer: str
    precision: str
    phase: str

    def arguments(self, table: Path) -> list[str]:
        data = {"path": table, "target": "y", "seed": 7, "cache_dir": "cache"}
        options = [str(word) for key, value in data.items() for word in (f"--data.{key}", value)]
        return ["fit", *options, *OPTIMIZERS[self.optimizer].split(), "--trainer.precision", self.precision]


@dataclass(frozen=True)
class Result:
    """What a whole fit leaves behind, as far as it must not depend on interruptions."""

    report: bytes
    config: bytes
    checkpoint: dict[str, torch.Tensor]
    scalars: dict[str, list[tuple[int, float]]]
    figures: frozenset[str]

    @classmethod
    def of(cls, run: Path) -> Result:
        checkpoint = read_checkpoint(run / "checkpoints/last.ckpt")
        assert checkpoint["callbacks"]["RunCheckpoints"]["finished"]
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        assert not [path for path in run.rglob(".*") if path.is_file()], "something temporary is left"
        return cls(
            report=(run / "report.json").read_bytes(),
            config=(run / "config.yaml").read_bytes(),
            checkpoint=_tensors({key: checkpoint[key] for key in ("state_dict", "optimizer_states")}),
            scalars=scalars,
            figures=frozenset(path.name for path in (run / "figures").iterdir()),
        )

    def differences(self, other: Result) -> list[str]:
        names = [
            name for name in ("report", "config", "scalars", "figures") if getattr(self, name) != getattr(other, name)
        ]
        names += ["names in the checkpoint"] * (self.checkpoint.keys() != other.checkpoint.keys())
        names += [
            name
            for name in self.checkpoint.keys() & other.checkpoint.keys()
            if not torch.equal(self.checkpoint[name], other.checkpoint[name])
        ]
        return names


def _tensors(tree: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every number in a tree of dicts and lists, under its path; floats keep all their digits as float64."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, (bool, int, float)):
        return {prefix: torch.tensor(tree, dtype=torch.float64)}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {name: t for key, value in items for name, t in _tensors(value, f"{prefix}/{key}").items()}


def make_table(path: Path, rows: int = ROWS) -> None:
    """A Parquet table of random rows, and a target that depends on them."""
    import pyarrow as pa
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, FEATURES)) * np.arange(1, FEATURES + 1)
    y = generator.random(rows) < 1 / (1 + np.exp(-x @ np.linspace(-0.4, 0.4, FEATURES)))
    columns = {f"x{j}": x[:, j] for j in range(FEATURES)} | {"y": y.astype(int)}
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=rows // 20)


def start(folder: Path, arguments: list[str]) -> int:
    """Start a fit in a process of its own, which saves after each epoch; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        lr_lightning.training.callbacks.checkpoints.SECONDS_BETWEEN_SAVES = 0.0
        code = main(arguments)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a fit; a negative number is the signal that ended it."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("a fit hangs")


def kill_sometime(child: int, folder: Path, case: Case, duration: float, chance: random.Random) -> int:
    """Kill a fit at a random moment of a phase, unless it is faster; its exit code."""
    if case.phase == "any moment":
        moment = time.monotonic() + chance.uniform(0.1, 1) * duration
        met = lambda: time.monotonic() >= moment  # noqa: E731
    elif case.phase == "checkpoint":
        skip = chance.randrange(CHECKPOINTS[case.optimizer])
        seen, was_there = 0, False

        def met() -> bool:
            nonlocal seen, was_there
            is_there = any(folder.glob("runs/*/*/checkpoints/.*.tmp"))
            seen += is_there and not was_there
            was_there = is_there
            return is_there and seen > skip

    else:
        delay = chance.uniform(0, 0.08)

        def met() -> bool:
            if not any(folder.glob("cache/.*.writing-*")):
                return False
            time.sleep(delay)
            return True

    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        if met():
            os.kill(child, signal.SIGKILL)
            return wait(child)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0002)
    raise AssertionError("a fit hangs")


def run_through(folder: Path, arguments: list[str]) -> Path:
    """Fit without interruption; the run folder."""
    code = wait(start(folder, arguments))
    assert code == 0, (folder / "log.txt").read_text()
    return max((folder / "runs").glob("*/version_*"))


def killed_and_resumed(
    case: Case, folder: Path, table: Path, duration: float, chance: random.Random
) -> tuple[str, Path] | None:
    """Kill a fit, and one time in three the resumed one as well; what it was doing, and the run folder at the end.

    None where the fit was faster.
    """
    arguments = case.arguments(table)
    code = kill_sometime(start(folder, arguments), folder, case, duration, chance)
    assert code in (0, -signal.SIGKILL), (folder / "log.txt").read_text()
    if code == 0:
        return None
    state = _state(folder)
    if chance.random() < 1 / 3 and state == "during the fit":
        kill_sometime(
            start(folder, [*arguments, "--resume"]), folder, replace(case, phase="any moment"), duration, chance
        )
    resumed = wait(start(folder, [*arguments, "--resume"]))
    if resumed == 2:  # it was killed before there was a run, or after the last checkpoint
        log = (folder / "log.txt").read_text()
        assert log.splitlines()[-1].startswith("error: option resume: there is no unfinished run"), log
        finished = [run for run in (folder / "runs").glob("*/version_*") if (run / "checkpoints/last.ckpt").exists()]
        return state, finished[0] if finished else run_through(folder, arguments)
    assert resumed == 0, (folder / "log.txt").read_text()
    assert not list(folder.glob("runs/*/version_1")), "the resumed fit did not stay in its folder"
    return state, max((folder / "runs").glob("*/version_*"))


def _state(folder: Path) -> str:
    checkpoint = next(folder.glob("runs/*/*/checkpoints/last.ckpt"), None)
    if checkpoint is None:
        return "before the first checkpoint"
    finished = read_checkpoint(checkpoint)["callbacks"]["RunCheckpoints"]["finished"]
    return "after the last checkpoint" if finished else "during the fit"


def main_of_kills() -> int:
    """Kill as often as the command line says; 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)  # noqa: S311
    gc.freeze()  # what is imported by now; as in the command's own process
    cases = [Case(*words) for words in product(OPTIMIZERS, PRECISIONS, PHASES)]
    chance.shuffle(cases)
    kills, bad = Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        table = root / "table.parquet"
        make_table(table)
        references: dict[tuple[str, str], tuple[Result, float]] = {}
        attempts = 0
        while kills.total() < options.count:
            attempts += 1
            case = cases[attempts % len(cases)]
            kind = case.optimizer, case.precision
            if kind not in references:
                folder = root / "-".join(kind)
                folder.mkdir()
                began = time.monotonic()
                references[kind] = Result.of(run_through(folder, case.arguments(table))), time.monotonic() - began
            reference, duration = references[kind]
            folder = root / f"kill{attempts}"
            folder.mkdir()
            outcome = killed_and_resumed(case, folder, table, duration, chance)
            if outcome is None:
                continue
            state, run = outcome
            differences = reference.differences(Result.of(run))
            bad += bool(differences)
            kills[(*kind, case.phase, state, "differs" if differences else "identical")] += 1
            print(
                f"{kills.total()}: {case.optimizer} {case.precision} {case.phase}: {state}; differs: {differences}",
                flush=True,
            )
            shutil.rmtree(folder)
    print(f"\n{'optimizer':<17} {'precision':<9} {'aimed at':<11} {'killed':<28} {'at the end':<10} times")
    for (optimizer, precision, phase, state, outcome), times in sorted(kills.items()):
        print(f"{optimizer:<17} {precision:<9} {phase:<11} {state:<28} {outcome:<10} {times:>5}")
    print(f"{options.count - bad} of {options.count} ended bit-identical to the uninterrupted fit")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main_of_kills())
