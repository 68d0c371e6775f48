"""What a pass of the exact solver costs in one process and in two, on several networks: the figures of docs/scaling.md.

    python -m tests.benchmarks.processes --rows 2000000 --columns 28

Each process has one thread. `--rate 100mbit` joins two network namespaces by a cable of that rate (needs root and
tc's tbf); `--delay 0.01` lets every collective wait so many seconds first, since not every kernel can delay packets.
`--simulate 64` counts what 64 processes of few rows tell one another. `--table` makes a folder of Parquet files and
fits it: in two processes, and in two that know nothing of one another, so that a machine's load is the same. It says
what each phase of a process takes: CPU seconds, and the largest memory in GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from tests.conftest import QUIET_TRAINER, ROOT
from tests.distributed import several
from tests.distributed.hosts import two_hosts
from tests.distributed.test_traffic import tables, traffic

PORT = 29544
FILES = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=28)
    parser.add_argument("--rate", help="of the network between two namespaces, as tc writes it: 100mbit")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every collective")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--simulate", type=int, metavar="PROCESSES", help="count the bytes that so many processes send")
    parser.add_argument("--table", action="store_true", help="fit a folder of Parquet files, and measure the phases")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate:
        simulate(options.simulate)
        return
    if options.worker:
        fit_table(options.folder) if options.folder else work(options)
        return
    with ExitStack() as stack:
        hosts = stack.enter_context(two_hosts()) if options.rate else []
        for host in hosts:
            shaped = ["tc", "qdisc", "add", "dev", host.interface, "root", "tbf", "rate", options.rate]
            subprocess.run([*host.command, *shaped, "burst", "2kb", "latency", "400ms"], check=True)
        if options.table:
            options.folder = stack.enter_context(TemporaryDirectory())
            write_table(options.folder, options.rows, options.columns)
            alone = [start(options, 1, []), start(options, 1, [])]
            of_one = [said for processes in alone for said in answers(processes)]
            of_two = answers(start(options, 2, hosts))
            for processes, said in [*((1, each) for each in of_one), *((2, each) for each in of_two)]:
                print(json.dumps({"processes": processes, "rows": options.rows, "columns": options.columns} | said))
            return
        for processes in (1, 2):
            print(json.dumps({"processes": processes} | vars(options) | answers(start(options, processes, hosts))[0]))


def simulate(processes):
    """Print the bytes that the first process gives to collectives, of a table and of one ten times as long."""
    several.TIMEOUT = 3600.0
    sizes = (50 * processes, 500 * processes)
    with TemporaryDirectory() as folder:
        found = several.in_processes(processes, traffic, tables(folder, sizes), processes)
    for n, (n_own, total, of_passes) in zip(sizes, found[0], strict=True):
        said = {"processes": processes, "rows": n, "training_rows_of_the_first": n_own}
        print(json.dumps(said | {"bytes_of_a_pass": of_passes, "bytes_in_all": total}))


def start(options, processes, hosts):
    """Start the processes of one fit."""
    started = []
    for rank in range(processes):
        variables = {"RANK": rank, "LOCAL_RANK": 0 if hosts else rank, "GROUP_RANK": rank if hosts else 0}
        variables |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": 1 if hosts else processes}
        variables |= {"MASTER_ADDR": hosts[0].address if hosts else "127.0.0.1", "MASTER_PORT": PORT}
        variables |= {"OMP_NUM_THREADS": 1, "TORCHELASTIC_RUN_ID": "benchmark", "PYTHONPATH": ROOT}
        if hosts:
            variables["GLOO_SOCKET_IFNAME"] = hosts[rank].interface
        arguments = ["--rows", options.rows, "--columns", options.columns, "--delay", options.delay, "--worker"]
        arguments += ["--folder", options.folder] if options.folder else []
        command = [*(hosts[rank].command if hosts else []), sys.executable, "-m", "tests.benchmarks.processes"]
        started.append(
            subprocess.Popen(
                [*command, *map(str, arguments)],
                env=os.environ | {name: str(value) for name, value in variables.items()},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    return started


def answers(started):
    """What each process prints last."""
    return [json.loads(process.communicate(timeout=3600)[0].splitlines()[-1]) for process in started]


def write_table(folder, n, d):
    """A folder of Parquet files, `n` rows in all, of which `d` columns of float32 are the features."""
    generator = np.random.default_rng(0)
    coefficients = generator.normal(size=d) / d**0.5
    for number in range(FILES):
        x = generator.normal(size=(n * (number + 1) // FILES - n * number // FILES, d)).astype(np.float32)
        y = generator.random(len(x)) < 1 / (1 + np.exp(-x @ coefficients))
        parquet.write_table(pa.table({f"x{j}": x[:, j] for j in range(d)} | {"y": y}), f"{folder}/{number:03}.parquet")


class Phases:
    """CPU seconds and the largest memory of this process, phase by phase."""

    def __init__(self):
        self.said, self._seconds = {}, 0.0

    def end(self, name):
        """The phase since the last one has ended."""
        seconds = time.process_time()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        largest, left = (round(int(status[field].split()[0]) / 2**20, 2) for field in ("VmHWM", "VmRSS"))
        of_phase = {"cpu": round(seconds - self._seconds, 2), "largest_gib": largest, "left_gib": left}
        self.said[name], self._seconds = of_phase, seconds
        Path("/proc/self/clear_refs").write_text("5")  # the largest memory is counted anew


def fit_table(folder):
    """Fit a table, and print the phases of this process."""
    phases = Phases()
    from lightning.pytorch import Trainer

    from lr_lightning import LogisticRegression, TableDataModule

    processes = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    phases.end("imports")

    class Timed(TableDataModule):
        def setup(self, stage):
            super().setup(stage)
            phases.end("reading")

    class TimedModel(LogisticRegression):
        def on_train_start(self):
            phases.end("statistics")
            super().on_train_start()

    on_one_machine = int(os.environ["LOCAL_WORLD_SIZE"])
    several = {"strategy": "ddp", "devices": on_one_machine, "num_nodes": processes // on_one_machine}
    trainer = Trainer(max_epochs=50, **QUIET_TRAINER, **(several if processes > 1 else {}))
    model = TimedModel()
    trainer.fit(model, Timed(folder, "y"))
    phases.end("passes")
    report = model.infer()
    phases.end("report")
    in_all = {"cpu": round(time.process_time(), 2)}
    in_all["largest_gib"] = max(of_phase["largest_gib"] for of_phase in phases.said.values())
    print(json.dumps({"log_likelihood": report.log_likelihood, **phases.said, "in_all": in_all}))


def work(options):
    """Fit, and print the median seconds of a pass and of its collectives alone."""
    from lightning.pytorch import Callback, Trainer

    from lr_lightning import LogisticRegression, TensorDataModule

    processes, on_one_machine = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(1)

    class Clock(Callback):
        def __init__(self):
            self.passes = []

        def on_train_start(self, trainer, pl_module):
            if processes > 1 and options.delay:
                delay_collectives(trainer.strategy.model, options.delay)

        def on_train_batch_start(self, *args):
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args):
            self.passes.append(time.perf_counter() - self.start)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.rows, options.columns, generator=generator)
    logit = x @ torch.randn(options.columns, generator=generator) / options.columns**0.5
    y = (torch.rand(options.rows, generator=generator) < torch.sigmoid(logit)).float()
    clock = Clock()
    several = {"strategy": "ddp", "devices": on_one_machine, "num_nodes": processes // on_one_machine}
    trainer = Trainer(max_epochs=50, callbacks=[clock], **QUIET_TRAINER, **(several if processes > 1 else {}))
    trainer.fit(LogisticRegression(l2=1e-6), TensorDataModule(x, y))
    said = {"passes": len(clock.passes), "seconds_of_a_pass": round(statistics.median(clock.passes[1:]), 5)}
    if processes > 1:
        said["seconds_of_its_collectives"] = round(collectives(options.columns + 1), 6)
    print(json.dumps(said))


def collectives(size, repetitions=20):
    """Median seconds of the collectives of a pass, with nothing else to do."""
    gradient, rest, flag = torch.zeros(size, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), torch.zeros(1)
    seconds = []
    for _ in range(repetitions):
        torch.distributed.barrier()
        start = time.perf_counter()
        for tensor in (gradient, rest, flag):
            torch.distributed.all_reduce(tensor)
        torch.distributed.broadcast(flag, src=0)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def delay_collectives(model, seconds):
    """Let the collectives of a pass wait: DDP's by its hook, the others in torch.distributed."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    def hook(state, bucket):
        time.sleep(seconds)
        return allreduce_hook(state, bucket)

    def delayed(function):
        def wait(*args, **kwargs):
            time.sleep(seconds)
            return function(*args, **kwargs)

        return wait

    model.register_comm_hook(None, hook)
    for name in ("all_reduce", "broadcast"):
        setattr(torch.distributed, name, delayed(getattr(torch.distributed, name)))


if __name__ == "__main__":
    main()
