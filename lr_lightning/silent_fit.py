"""A fit to rows in memory that leaves no trace: what the scikit-learn estimator does with Lightning's Trainer."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.utils._pytree as torch_pytree
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import _pytree

from lr_lightning.data.tensors import TensorDataModule
from lr_lightning.module import LogisticRegression
from lr_lightning.solver import SubsampledNewton
from lr_lightning.solver.subsampled_newton import RUNNING_AWAY

# Lightning describes the machine, and our module says what did not converge; the estimator warns of that itself.
_TALKATIVE = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero", "lr_lightning")
_MORE = "Increase the number of iterations to improve the convergence."  # as scikit-learn says it

SMALL = 2**24  # multiplications of a Hessian, n·d²; about a millisecond

# A Trainer sets signal handlers, and warnings cannot be silenced in one thread alone: one fit at a time.
_one_at_a_time = threading.Lock()
_forked = False


def _after_fork() -> None:
    global _one_at_a_time, _forked
    _one_at_a_time, _forked = threading.Lock(), True  # the old lock's holder may not have come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Coefficients(NamedTuple):
    """What a fit found.

    Attributes:
        weight: coefficients on the original feature scale, (d,), float64.
        intercept: 0 where the model has none.
        passes: how often all rows were read.
        converged: whether these are the optimum.
        status: why the solver stopped, in words that can follow "converged" or "failed to converge".
    """

    weight: np.ndarray
    intercept: float
    passes: int
    converged: bool
    status: str


def fit_silently(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None,
    *,
    l1: float,
    l2: float,
    fit_intercept: bool,
    start: tuple[np.ndarray, float] | None,
    tol: float | None,
    max_passes: int,
) -> Coefficients:
    """Minimise the objective of `LogisticRegression(standardize=False)` by the exact solver, on the CPU.

    No logger, checkpoint, progress bar, message, warning or file; the state of torch's random numbers, default
    dtype and signal handlers is afterwards as it was.

    Args:
        x: features, (n, d), float32 or float64: the precision in which they are read.
        y: targets 0 or 1, (n,).
        weight: sample weights, (n,), or None.
        l1: strength of the L1 penalty on the raw weights, for a mean loss.
        l2: likewise of the L2 penalty.
        fit_intercept: whether there is an intercept; it is not penalised.
        start: weight (d,) and intercept to start from; None lets the solver choose.
        tol: of the solver; None leaves it to the solver.
        max_passes: at most so many passes over the rows; with 0 the start, or 0, is returned.

    Raises:
        InputError: if the rows of positive weight hold one class only, or the start does not fit them.
    """
    if not max_passes:
        weight_now, intercept = start or (np.zeros(x.shape[1]), 0.0)
        return Coefficients(weight_now, intercept, 0, False, "max_iter=0 leaves the coefficients as they were")
    initial_weight, initial_bias = (None, None) if start is None else (start[0].tolist(), start[1])
    with _without_a_word(), _threads_for(x):
        model = LogisticRegression(
            l1=l1,
            l2=l2,
            standardize=False,
            fit_intercept=fit_intercept,
            initial_weight=initial_weight,
            initial_bias=initial_bias,
            optimizer_options=None if tol is None else {"tol": tol},
        )
        data = TensorDataModule(x, y, weight)
        trainer = Trainer(
            max_epochs=max_passes,
            accelerator="cpu",
            devices=1,
            # The environment stands for no cluster, whatever this process may be part of.
            plugins=[_precision(x.dtype), LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
            num_sanity_val_steps=0,
        )
        try:
            _run(trainer, model, data)
            coefficients, intercept = model.linear_sigmoid.coefficients()
            solver = cast(SubsampledNewton, trainer.optimizers[0])
            status = solver.status or f"max_iter={max_passes} passes over the rows were not enough. {_MORE}"
            if status == RUNNING_AWAY:
                status += "; a smaller C gives them an end"
            return Coefficients(coefficients.numpy(), intercept, trainer.current_epoch, solver.converged, status)
        finally:
            # These refer to one another: the rows would stay in memory until Python next looks for cycles.
            for part in (trainer.strategy, trainer, model, data):
                vars(part).clear()


def _precision(dtype: np.dtype) -> Precision:
    """The precision of the rows; Lightning's own plugin for 64 bits would change torch's default dtype."""
    precision = Precision()
    precision.precision = "64-true" if dtype == np.float64 else "32-true"
    return precision


def _run(trainer: Trainer, model: LogisticRegression, data: TensorDataModule) -> None:
    """`trainer.fit`, where Ctrl-C stays a KeyboardInterrupt: Lightning would end the process."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(model, data)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)  # Lightning ignores further ones
        raise KeyboardInterrupt from None


@contextmanager
def _without_a_word() -> Iterator[None]:
    """Silence warnings, and log records of this thread's."""
    thread = threading.get_ident()

    def of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    # Where other threads set filters meanwhile, as scikit-learn's do, ours do not hold: the one warning of every fit,
    # of a class that Lightning 2.6 uses and torch 2.13 deprecates, is not to arise at all.
    lightning_pytree = cast(Any, _pytree)  # the name is private
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        leaf_spec = lightning_pytree.LeafSpec
        lightning_pytree.LeafSpec = getattr(torch_pytree, "treespec_leaf", leaf_spec)
        for logger in loggers:
            logger.addFilter(of_another_thread)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(of_another_thread)
            lightning_pytree.LeafSpec = leaf_spec


@contextmanager
def _threads_for(x: np.ndarray) -> Iterator[None]:
    """One thread for a small table, where waiting for others costs more than they save once the machine is busy.

    And in a forked child: OpenMP would wait for ever for those that stayed behind in the parent.
    """
    threads = torch.get_num_threads()
    alone = _forked or x.size * x.shape[1] <= SMALL
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)
