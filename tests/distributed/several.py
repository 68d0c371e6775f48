"""Several processes as torchrun makes them, without their start-up time: forked from one that has imported all."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import traceback
import warnings

PRELOAD = [
    "torch",
    "lightning.pytorch",
    "torchmetrics",
    "lr_lightning.training.module",
    "lr_lightning.training.data_modules",
    "lr_lightning.cli.path",
    "lr_lightning.cli.evaluate",
    "pandas",
]
TIMEOUT = 120.0


def as_torchrun(rank, n):
    """The variables that torchrun sets, as far as anyone reads them."""
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "TORCHELASTIC_RUN_ID": "tests"}


def as_srun(rank, n):
    """The variables that SLURM sets for two tasks on one machine, as far as Lightning reads them."""
    of_job = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "tests", "SLURM_NNODES": 1, "SLURM_NODELIST": "localhost"}
    of_job |= {"SLURM_NTASKS": n, "SLURM_NTASKS_PER_NODE": n}
    return of_job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0}


def as_machines(rank, n):
    """Those that torchrun sets on machines of one process each."""
    of_machine = {"LOCAL_RANK": 0, "GROUP_RANK": rank, "LOCAL_WORLD_SIZE": 1}
    return as_torchrun(rank, n) | of_machine


def in_processes(n, function, *arguments, environment=as_torchrun):
    """What `function(*arguments)` returns in each of `n` processes that find each other as under torchrun.

    Of a process that ends in the middle it is None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(n):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(environment(rank, n), port, there, function, arguments), daemon=True
        )
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        results = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(TIMEOUT):
                raise TimeoutError(f"process {rank} did not answer")
            try:
                ok, value = pipe.recv()
            except EOFError:  # it has ended without an answer
                ok, value = True, None
            if not ok:
                raise RuntimeError(f"process {rank}: {value}")
            results.append(value)
        return results
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join()
            process.close()


def _work(environment, port, pipe, function, arguments):
    environment = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            pipe.send((True, function(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
