"""Threads that share the blocks of a large matrix, each with serial operations of torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

# Elements that are worth a thread: if any are, ridges of 200 x 10 with five folds take 1.25 times as long on two.
_ELEMENTS_PER_WORKER = 2**18
_MAX_WORKERS = 8  # more would wait for Python's interpreter lock
# Features whose factorisations are worth several threads: on one, a fit of 6 000 x 1 500 takes 1.2 times as long as on
# two.
_MANY_FEATURES = 512
_MAX_SOLVERS = 64  # at a time; more wait for one another
_outside = threading.local()  # number of threads outside of `serial_operations`, or that `on_one_thread` was given
_T = TypeVar("_T")


def _begin_thread() -> None:
    """Give a new thread serial operations, for as long as it lives."""
    inherited = torch.get_num_threads()
    torch.set_num_threads(1)
    # That also sets what later threads begin with, a setting of the process, which another thread can put back.
    other = threading.Thread(target=torch.set_num_threads, args=(inherited,))
    other.start()
    other.join()


def _make_teams() -> None:
    # The threads are kept: in a new one the memory that BLAS works in would have to be brought in again, page by page.
    global _team, _solvers
    _team = ThreadPoolExecutor(_MAX_WORKERS - 1, "lr_lightning", _begin_thread)
    _solvers = ThreadPoolExecutor(_MAX_SOLVERS, "lr_lightning_solver", _begin_thread)


_make_teams()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_make_teams)  # the threads themselves do not come along


def on_one_thread(work: Callable[[Callable[[], bool]], _T], threads: int | None = None) -> _T:
    """The result of ``work`` in a thread whose torch operations are serial; the caller's settings stay as they are.

    A small table takes a tenth longer in a thread other than the calling one, which therefore does the work where its
    operations are serial anyway.

    Args:
        work: is given a function that says whether to stop, because the caller was interrupted.
        threads: that `share_out` may use within; None is torch's number of them in the calling thread.
    """
    if torch.get_num_threads() == 1 and threads in (None, 1) and not hasattr(_outside, "threads"):
        return work(lambda: False)  # the calling thread is such a one, and is interrupted by itself
    interrupted = threading.Event()
    threads = threads or torch.get_num_threads()

    def run() -> _T:
        _outside.threads = threads
        return work(interrupted.is_set)

    future = _solvers.submit(run)
    try:
        return future.result()
    except BaseException:
        interrupted.set()
        raise


@contextmanager
def serial_operations(n_features: int = 0) -> Iterator[None]:
    """Within, torch's own operations take one thread each; `share_out` still has all of them.

    After an operation on several threads those of OpenMP stay awake for milliseconds, waiting for the next one,
    and keep the processors from the threads of `share_out`. With many features the factorisations are worth it.
    """
    threads = torch.get_num_threads()
    if threads == 1 or n_features > _MANY_FEATURES:
        yield
        return
    _outside.threads = threads
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)  # also what threads started later will inherit
        del _outside.threads


def share_out(work: Callable[[Iterator[int]], None], blocks: int, x: Tensor, effort: int = 1) -> None:
    """Calls ``work`` in several threads, each with its share of the numbers of the blocks of x.

    Matrix-vector products of the usual BLAS run on one thread, and torch's element-wise operations on the few
    thousand rows of a block do as well; so the threads are put around the blocks. Torch gives up Python's
    lock inside its operations. A thread takes the next block when it has done one, so that none waits for a
    thread that the system holds up. Inside of a block torch uses one thread: BLAS rounds otherwise with more.
    The more ``effort`` goes into an element of x, the sooner threads are worth it.
    """
    share = iter(range(blocks))
    if x.device.type != "cpu":
        work(share)
        return
    threads = getattr(_outside, "threads", None) or torch.get_num_threads()
    workers = min(threads, _MAX_WORKERS, blocks, max(1, effort * x.numel() // _ELEMENTS_PER_WORKER))

    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad():  # both modes belong to a thread
            work(share)

    if workers == 1 and torch.get_num_threads() == 1:
        run()
        return

    with serial_operations():
        helpers = [_team.submit(run) for _ in range(workers - 1)]
        try:
            run()
        finally:
            # One that has not begun has nothing left to do: its thread is busy for somebody else.
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
    if any(errors):
        raise next(filter(None, errors))
