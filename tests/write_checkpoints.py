"""The checkpoints of an earlier version that later ones must go on from, and how a fit goes on from each.

`tests/checkpoints` was written by the commit tagged `before-house`, with this file copied into its tests:

    mkdir before && git archive before-house | tar -x -C before
    cp tests/write_checkpoints.py before/tests && cd before
    python -m tests.write_checkpoints FOLDER

In two trees on one machine the following prints the same, to the last bit:

    python -m tests.write_checkpoints --resume [FOLDER]

This file imports nothing but public names, so that it runs in trees of another layout. The fits of the command line run
in a folder of their own, where the tables have relative names, so that no checkpoint holds a path of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import logging
import lzma
import os
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import scipy
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lr_lightning import InputError, LogisticRegression, Predictor, TensorDataModule, load
from lr_lightning.solver import SubsampledNewton

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "checkpoints"
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


# ---- fits by a Trainer ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A fit that is saved after some of its epochs.

    Attributes:
        shape: rows and features; of `kind`, see `table`.
        model: arguments of LogisticRegression.
        data: arguments of TensorDataModule.
        saved_after: epochs.
        epochs: at most, of the whole fit.
        ends_there: whether the checkpoint is that of a Trainer that has come to its last epoch, in place of one
            written at an epoch's end, as by Lightning's ModelCheckpoint.
        processes: that the fit begins with; one goes on.
        digits: how near a resumed fit comes on another machine, whose sums are rounded otherwise; relative to the
            largest coefficient.
    """

    shape: tuple[int, int]
    model: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "plain"
    saved_after: int = 1
    epochs: int = 100
    precision: str = "64-true"
    ends_there: bool = False
    processes: int = 1
    digits: float = 1e-12


HELD_OUT = {"val_fraction": 0.2, "test_fraction": 0.2}
SGD = {"optimizer": "SGD", "optimizer_options": {"lr": 0.1, "momentum": 0.9}}
FITS = {
    "sgd_in_batches": Fit((200, 3), SGD, {"batch_size": 32}, saved_after=3, epochs=8, ends_there=True),
    "sgd_in_single_precision": Fit(
        (200, 3),
        SGD | {"l1": 0.01, "l2": 0.1},
        {"batch_size": 32},
        saved_after=3,
        epochs=8,
        precision="32-true",
        digits=1e-6,
    ),
    "sgd_by_two_processes": Fit((200, 3), SGD, {"batch_size": 32}, saved_after=3, epochs=8, processes=2),
    "lbfgs": Fit((200, 3), {"l2": 0.1, "optimizer": "LBFGS", "optimizer_options": {"max_iter": 3}}, saved_after=2),
    "exact_dense": Fit((30_000, 4), {}, saved_after=2),
    "exact_dense_at_its_last_epoch": Fit((30_000, 4), {}, saved_after=2, ends_there=True),
    "exact_dense_l1_in_batches": Fit(
        (30_000, 4), {"l1": 0.01, "class_weight": "balanced"}, {"batch_size": 4096}, precision="32-true", digits=1e-6
    ),
    "exact_dense_by_two_processes": Fit((30_000, 4), {"l2": 0.1}, processes=2),
    "exact_factored": Fit((30_000, 6), {}, kind="powers", saved_after=2, digits=1e-6),
    "exact_in_the_limit": Fit((20_000, 110), {}, kind="separated", saved_after=2),
    "exact_gram": Fit((60, 2050), {"l2": 0.1}, saved_after=3),
    "exact_working_set": Fit((60, 2050), {"l1": 0.05}, saved_after=2),
    "exact_limited_memory": Fit((2100, 2050), {"l2": 1.0}, saved_after=3),
}


def table(kind: str, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Random features (n, d) and labels (n,), the same on every machine: torch's uniform numbers are.

    Args:
        kind: plain; powers of a single feature, which are nearly dependent; or separated, where a flag is 1 in rows
            of one class only.
        n: number of rows.
        d: number of features.
    """
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    if kind == "powers":
        x = (1 + x[:, :1]).expand(n, d).cumprod(1)
    logit = 4 * x[:, 0] - 2 * x[:, 1] - 1
    y = (torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(logit)).double()
    if kind == "separated":
        x[:, -1] = y * (x[:, -1] > 0.8)
    return x, y


class _Save(Callback):
    """Writes a checkpoint at an epoch's end, where Lightning's ModelCheckpoint does, and may stop the fit."""

    def __init__(self, path: Path, epochs: int, *, stop: bool = True):
        self.path, self.epochs, self.stop = path, epochs, stop

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epochs:
            trainer.save_checkpoint(self.path)
            trainer.should_stop |= self.stop


def begin(name: str, path: Path) -> None:
    """Write the checkpoint of an unfinished fit."""
    fit = FITS[name]
    several = {"strategy": "ddp", "devices": fit.processes} if fit.processes > 1 else {}
    trainer = Trainer(
        max_epochs=fit.saved_after if fit.ends_there else fit.epochs,
        callbacks=[] if fit.ends_there else [_Save(path, fit.saved_after)],
        precision=fit.precision,
        **QUIET,
        **several,
    )
    trainer.fit(LogisticRegression(**fit.model), TensorDataModule(*table(fit.kind, *fit.shape), **fit.data))
    if fit.ends_there:
        trainer.save_checkpoint(path)


def go_on(name: str, checkpoint: Path, *, save_to: Path | None = None) -> dict[str, Any]:
    """How a fit ends that goes on from a checkpoint.

    Args:
        name: of the fit.
        checkpoint: written by `begin`, or by this.
        save_to: write another checkpoint here, an epoch later.
    """
    fit, model = FITS[name], LogisticRegression(**FITS[name].model)
    callbacks = [] if save_to is None else [_Save(save_to, fit.saved_after + 1, stop=False)]
    trainer = Trainer(max_epochs=fit.epochs, callbacks=callbacks, precision=fit.precision, **QUIET)
    data = TensorDataModule(*table(fit.kind, *fit.shape), **fit.data)
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    state = model.state_dict()
    return {
        "epochs": trainer.current_epoch,
        "converged": model.converged,
        "weight": in_hex(state["linear_sigmoid.linear.weight"]),
        "bias": in_hex(state["linear_sigmoid.linear.bias"]),
    }


def finish(path: Path) -> None:
    """Write the checkpoint of a finished fit with a robust covariance, which `measure` takes."""
    model, trainer = LogisticRegression(), Trainer(max_epochs=100, precision="64-true", **QUIET)
    trainer.fit(model, TensorDataModule(*table("plain", 400, 3), **HELD_OUT))
    model.infer(covariance="HC0", level=0.9)
    trainer.save_checkpoint(path)


def measure(path: Path) -> dict[str, Any]:
    """What a Trainer and `load` make of it."""
    data, trainer = TensorDataModule(*table("plain", 400, 3), **HELD_OUT), Trainer(precision="64-true", **QUIET)
    model = LogisticRegression.load_from_checkpoint(path)
    test = trainer.test(model, data, verbose=False)[0]
    predicted = torch.cat(trainer.predict(model, data))
    return {"test": test, "predicted": in_hex(predicted[::3]), **probabilities(load(path), table("plain", 400, 3)[0])}


def in_hex(numbers: Tensor) -> list[str]:
    """All digits, as text."""
    return [number.hex() for number in numbers.double().flatten().tolist()]


def from_hex(numbers: list[str]) -> Tensor:
    """The numbers of `in_hex`, float64."""
    return torch.tensor([float.fromhex(number) for number in numbers], dtype=torch.float64)


# ---- fits by the command line ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A fit by the command line, in a folder with conf/ and the tables of `write_tables`.

    Attributes:
        experiment: options that name it, which are all that going on takes.
        options: all others.
        interrupted: an optimizer, and after how many of its steps a signal comes; None lets the fit come to its end.
        in_process: whether it needs no process of its own, as one that starts others does.
    """

    experiment: str
    options: str = ""
    interrupted: tuple[type[torch.optim.Optimizer], int] | None = None
    in_process: bool = True

    @property
    def arguments(self) -> list[str]:
        return ["fit", *self.experiment.split(), *self.options.split(), "--quiet"]


PEOPLE = "--data.target bought --data.weight weight"
UNFINISHED = {
    "breast_cancer": Command(
        "--data.path conf/samples/breast_cancer.csv",
        "--data.target diagnosis --data.batch_size 50 --optimizer SGD --optimizer.lr 0.1 --optimizer.momentum 0.9 "
        "--trainer.max_epochs 8",
        (torch.optim.SGD, 35),
    ),
    "hours": Command("--config conf/hours.yaml --trainer.max_epochs 40", interrupted=(torch.optim.SGD, 20)),
    # Its config.yaml names the classes by paths that are not the public ones.
    "many": Command(
        "--data.path many.csv",
        f"--data lr_lightning.data.table.TableDataModule {PEOPLE} --data.missing drop --model.l1 0.001 "
        "--optimizer lr_lightning.solver.subsampled_newton.SubsampledNewton --optimizer.history_size 8",
        (SubsampledNewton, 3),
    ),
}
FINISHED = {
    "breast_cancer": Command(
        "--config conf/breast_cancer.yaml",
        "--trainer.accelerator cpu --trainer.strategy ddp --trainer.devices 2",
        in_process=False,
    ),
    "hours": Command("--config conf/hours.yaml"),
    "people": Command(
        "--data.path people.csv",
        f"{PEOPLE} --data.missing impute --data.test_fraction 0.2 --covariance HC1 --level 0.9 --model.threshold f1",
    ),
}
ROWS = {"breast_cancer": "conf/samples/breast_cancer.csv", "hours": "hours.csv", "people": "people.csv"}


def write_tables(folder: Path) -> None:
    """`people.csv`, `many.csv`, of more rows than the exact solver samples, and `hours.csv`: alike on every machine."""
    (folder / "hours.csv").write_text("hours,pass\n0.5,0\n1,0\n2,0\n2.5,1\n3,1\n4.25,1\n6,1\n")
    for name, n in (("people", 240), ("many", 32_000)):
        generator = torch.Generator().manual_seed(n)
        draws = torch.randint(0, 1000, (n, 8), generator=generator).tolist()
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["age", "city", "member", "joined", "share", "weight", "bought"])
            for age, city, member, joined, share, weight, luck, gap in draws:
                place = ["Lima", "Oslo", "Rome"][city % 3]
                score = age + 300 * (place == "Rome") - 200 * (member % 2) + 4 * (luck - 500)
                row = [
                    "" if gap < 50 else f"{18 + age / 16}",
                    "" if 50 <= gap < 100 else place,
                    ["false", "true"][member % 2],
                    f"20{10 + joined % 10}-{1 + joined % 12:02}-{1 + joined % 28:02}",
                    f"{share / 10} %",
                    1 + weight % 3,
                    "yes" if score > 500 else "no",
                ]
                writer.writerow(row)


@contextlib.contextmanager
def workplace(folder: Path | None = None) -> Iterator[Path]:
    """Within, the current folder is one with conf/, the tables, and the runs that `folder` holds."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "conf").symlink_to(ROOT / "conf")
        write_tables(place)
        if folder is not None:
            shutil.copytree(folder / "runs", place / "runs")
        os.chdir(place)
        try:
            yield place
        finally:
            os.chdir(before)


def run_here(*arguments: str) -> tuple[int, str]:
    """Exit code and stdout of `lr-lightning`."""
    out = io.StringIO()
    with mock.patch.object(sys, "argv", ["lr-lightning", *arguments]), contextlib.redirect_stdout(out):
        try:
            runpy.run_module("lr_lightning", run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


@contextlib.contextmanager
def signal_after(optimizer: type[torch.optim.Optimizer], steps: int) -> Iterator[None]:
    """Within, this process gets SIGTERM at that step of the optimizer."""
    step, done = optimizer.step, 0

    def counted(self: torch.optim.Optimizer, *arguments: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == steps:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments, **options)

    with mock.patch.object(optimizer, "step", counted):
        yield


def ending(run: Path) -> dict[str, Any]:
    """What a fit has left in its run folder: the tensors of the model, and the report."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {
        "report": json.loads((run / "report.json").read_text()),
        **{name: in_hex(tensor) for name, tensor in state.items()},
    }


def go_on_in(name: str, run: Callable[..., Any] = run_here) -> dict[str, Any]:
    """How an unfinished fit of the command line ends that is resumed in the current folder.

    Args:
        name: of the fit.
        run: runs the command line, and gives the exit code first.
    """
    code, *said = run("fit", *UNFINISHED[name].experiment.split(), "--quiet", "--resume")
    if code:
        raise RuntimeError(f"{name}: {said}")
    return ending(Path("runs") / name / "version_0")


def inferred(name: str, run: Callable[..., Any] = run_here) -> dict[str, Any]:
    """What a finished fit in the current folder says of `ROWS`: some probabilities, and the metrics of `test`."""
    checkpoint = f"runs/{name}/version_0/checkpoints/last.ckpt"
    # The tutorial's experiment kept no rows back.
    other = ["--data", "TableDataModule", "--data.path", ROWS[name]] if name == "hours" else []
    code, out, *_ = run("test", "--ckpt_path", checkpoint, *other)
    if code:
        raise RuntimeError(f"{name}: {out}")
    return {
        "test": {line.split()[0]: float(line.split()[1]) for line in out.splitlines()},
        **probabilities(load(checkpoint), ROWS[name]),
    }


def probabilities(predictor: Predictor, rows: Any) -> dict[str, list[str]]:
    """Of every third row, with their limits where there are any."""
    found = {"probability": predictor.probability(rows)}
    with contextlib.suppress(InputError):  # a fit under a penalty has no covariance
        found["low"], found["high"] = predictor.probability_interval(rows, 0.9)
    return {key: in_hex(values[::3]) for key, values in found.items()}


# ---- the folder -----------------------------------------------------------------------------------------


def arithmetic() -> str:
    """A checksum of some sums and functions; where it is another, the last bits of a fit may be others, too."""
    versions = [numpy.__version__, scipy.__version__, torch.__version__, *platform.libc_ver()]
    generator, digest = torch.Generator().manual_seed(0), hashlib.sha256(repr(versions).encode())
    for n, d in ((2100, 40), (60, 2050)):
        for dtype in (torch.float32, torch.float64):
            x = torch.rand(n, d, generator=generator, dtype=torch.float64).to(dtype)
            gram = x.T @ x if n > d else x @ x.T
            gram.diagonal().add_(1)
            parts = [gram, x @ x[0], x.T @ x[:, 0], x.sum(0), x.std(0), x.exp(), x.log1p(), x.sigmoid()]
            parts += [torch.linalg.cholesky(gram), torch.linalg.qr(gram).R, torch.linalg.eigvalsh(gram)]
            for part in parts:
                digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def unpacked(name: str, to: Path, folder: Path = FOLDER) -> Path:
    """The checkpoint of an unfinished fit, written to `to`."""
    path = to / f"{name}.ckpt"
    path.write_bytes(lzma.decompress((folder / "unfinished" / f"{name}.ckpt.xz").read_bytes()))
    return path


def write(folder: Path) -> None:
    """Write all checkpoints, and how they end, into a new folder."""
    for name in FITS:
        (folder / "unfinished").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"{name}.ckpt"
            if FITS[name].processes > 1:
                from tests.distributed.several import in_processes

                in_processes(FITS[name].processes, begin, name, path)
            else:
                begin(name, path)
            (folder / "unfinished" / f"{name}.ckpt.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
            _write_json(folder / "unfinished" / f"{name}.json", go_on(name, path))
    for part, commands in (("unfinished", UNFINISHED), ("finished", FINISHED)):
        for name, fit in commands.items():
            with workplace() as place:
                _fit(fit)
                _keep(place / "runs" / name / "version_0", folder / part / "runs" / name / "version_0")
                _write_json(folder / part / f"{name}.json", go_on_in(name) if fit.interrupted else inferred(name))
    finish(folder / "finished" / "tensors.ckpt")
    _write_json(folder / "finished" / "tensors.json", measure(folder / "finished" / "tensors.ckpt"))
    _write_json(folder / "arithmetic.json", arithmetic())


def _fit(fit: Command) -> None:
    if not fit.in_process:
        command = [sys.executable, "-m", "lr_lightning", *fit.arguments]
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
    elif fit.interrupted is None:
        code, _ = run_here(*fit.arguments)
    else:
        with signal_after(*fit.interrupted):
            code, _ = run_here(*fit.arguments)
    if code != (0 if fit.interrupted is None else 128 + signal.SIGTERM):
        raise RuntimeError(f"{fit.arguments}: ended with {code}")


def _keep(run: Path, to: Path) -> None:
    """Copy what a fit goes on from; the events of TensorBoard name the machine, and are not needed."""
    for path in [run / "config.yaml", run / "report.json", *(run / "checkpoints").iterdir()]:
        if path.exists():
            target = to / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def resume_all(folder: Path) -> dict[str, Any]:
    """How every unfinished fit of the folder ends."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in FITS:
            found[name] = go_on(name, unpacked(name, Path(place), folder))
    with workplace(folder / "unfinished"):
        found |= {f"runs/{name}": go_on_in(name) for name in UNFINISHED}
    return found


def main() -> None:
    """Write the checkpoints, or print how they end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="to write; with --resume, to read (tests/checkpoints)")
    parser.add_argument("--resume", action="store_true", help="print how every unfinished fit ends")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices of many columns are multiplied in other orders by several
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.resume:
        print(json.dumps(resume_all((options.folder or FOLDER).resolve()), indent=1))
    elif options.folder is None:
        parser.error("name a folder to write")
    else:
        write(options.folder.resolve())


if __name__ == "__main__":
    main()
