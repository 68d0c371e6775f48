"""What Lightning's loops call: the objective of a batch, the optimizer's step, the end of an epoch, held-out rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import LinearSigmoid, linear_predictor
from lr_lightning.model.objective import logistic_loss
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.threads import serial_operations
from lr_lightning.solver import SubsampledNewton
from lr_lightning.statistics.held_out import measures, weighted_rows
from lr_lightning.statistics.warnings import PARTIAL
from lr_lightning.training.callbacks.housekeeping import Housekeeping
from lr_lightning.training.epoch import EpochSums, LineSearchEnd, log_epoch, log_measurement, refuse_divergence
from lr_lightning.training.metrics import HeldOutRows
from lr_lightning.training.optimizers import EXACT, is_full_batch
from lr_lightning.training.start import refuse_partial_passes
from lr_lightning.training.tensors import TensorDataModule
from lr_lightning.training.training_summary import TrainingSummary, row_weights

log = logging.getLogger("lr_lightning")


class LogisticSteps(LightningModule):
    """The steps of a fit and of a measurement; `LogisticRegression` sets up what they need.

    Args:
        optimizer: the name of the optimizer, which decides what a step is.
        threshold: a probability above it is a positive prediction.
    """

    linear_sigmoid: LinearSigmoid
    training_summary: TrainingSummary
    _penalty: Penalty
    _held_out: HeldOutRows
    _housekeeping: Housekeeping

    def __init__(self, optimizer: str, threshold: float):
        super().__init__()
        self.converged = False
        self.threshold = threshold
        self._exact, self._full_batch = optimizer == EXACT, is_full_batch(optimizer)
        self._epoch, self._line_search_end = EpochSums(self._sum_over_processes), LineSearchEnd()
        self._fitted_epoch = 0  # number of the last epoch
        self._served: Standardization | None = None
        self._stop_after_pass = False
        self.saw_all_rows = False
        self._said_partial = False

    def on_train_start(self) -> None:
        """Let an optimizer that needs the whole objective make one step an epoch."""
        if not self._full_batch:
            return
        refuse_partial_passes(self.trainer, self.hparams["optimizer"])
        n_batches = self.trainer.num_training_batches
        if self._exact:
            # Of a loader without a length at most as many as there are rows; the step comes with the last one.
            n_batches = int(min(n_batches, self.training_summary.n_rows))
            self._housekeeping.borrow(self.trainer, "accumulate_grad_batches", n_batches)
        elif n_batches != 1:
            raise InputError(f"{self.hparams['optimizer']} needs all rows in one batch; leave batch_size unset")

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The objective, a scalar, on a batch `(x, y)` or `(x, y, weight)` of shapes (n, d), (n,) and (n,).

        DDP averages its gradient over the processes.
        """
        x, y, *weight = batch
        v = row_weights(y, weight[0] if weight else None, self.training_summary.class_weights)
        loss = logistic_loss(x, y, *self._served_affine(x), v)
        weight_sum = loss.new_tensor(len(y)) if v is None else v.sum(dtype=torch.float64)
        weights = self.linear_sigmoid.linear.weight[0]
        self._epoch.add(batch_idx, len(y), loss.detach(), weight_sum, self._penalty.total(weights.detach()))
        processes = self.trainer.world_size
        if self._full_batch:
            # Lightning divides by the number of batches, and DDP by that of processes: what remains is this
            # batch's true share of the mean. L1 is the exact solver's own business.
            share = self.trainer.accumulate_grad_batches * processes / self.training_summary.weight_sum
            return share * loss + self._penalty.smooth(weights)
        weight_sum = self._sum_over_processes(weight_sum)  # of the minibatch, of which each process has its share
        objective = processes * loss + weight_sum * self._penalty.total(weights)
        whole = self.hparams["reduction"] == "sum"
        if whole:
            return objective * self.training_summary.weight_scale
        return objective / weight_sum.clamp(min=torch.finfo(torch.float64).tiny)  # a minibatch may weigh nothing

    def _served_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        served = self._served or Standardization.identity(x.shape[1])
        return self.linear_sigmoid.served_affine(served.to(x.device))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step; an optimizer that needs the whole objective is told it, over all batches of all processes."""

        def whole_objective() -> Tensor:
            optimizer_closure()  # type: ignore[misc]
            self._refuse_other_rows()
            smooth = self._penalty.smooth(self.linear_sigmoid.linear.weight[0].detach())
            return self._epoch.means()[0] + smooth

        whole = self._full_batch and optimizer_closure is not None
        with serial_operations(self.hparams["in_features"]):
            optimizer.step(closure=whole_objective if whole else optimizer_closure)  # type: ignore[arg-type]

    def _refuse_other_rows(self) -> None:
        """Raise InputError if a pass has not been one over the rows that the fit began with."""
        rows, weight = self._epoch.rows()
        expected = self.training_summary
        if rows != expected.n_rows or abs(weight - expected.weight_sum) > 1e-5 * expected.weight_sum:
            raise InputError(
                f"{self.hparams['optimizer']} needs the same rows in every pass, all {expected.n_rows} of them, but "
                f"the training loader has served {rows} this time, or others"
            )

    def on_train_batch_end(self, outputs: Any, batch: Sequence[Tensor], batch_idx: int) -> None:
        """At the end of a pass: log its loss, and stop at the optimum or where the loss is lost.

        The loss is the one before the update; for SGD and its like, the mean over the batches, each before its
        own update.
        """
        trainer = self.trainer
        if not trainer.is_last_batch:
            if self._exact and trainer.should_stop:  # as `max_time` asks for: half a pass would be for nothing
                trainer.should_stop, self._stop_after_pass = False, True
            return
        if self._exact:
            solver = cast(SubsampledNewton, self.optimizers(use_pl_optimizer=False))
            self.converged = solver.converged
            # On unlike processors the solvers' last digits differ; then the first to stop decides.
            stopped = bool(self._sum_over_processes(torch.tensor(float(solver.stopped), device=self.device)))
            trainer.should_stop |= stopped or self._stop_after_pass
            if trainer.should_stop or self.current_epoch + 1 == trainer.max_epochs:
                solver.restore_best()  # before the held-out rows are measured
        elif self._full_batch:
            self._evaluate_after_step(batch)
        self._log_pass()

    def _end_of_epoch(self) -> None:
        if not self.trainer.is_last_batch:  # `max_steps`, `max_time` or a callback has ended it before
            self._log_pass()

    def _end_of_fit(self) -> None:
        if self._exact:  # where a callback has stopped it, the parameters hold a proposal that no pass has verified
            cast(SubsampledNewton, self.optimizers(use_pl_optimizer=False)).restore_best()

    def _log_pass(self) -> None:
        self._fitted_epoch = self.current_epoch
        loss, penalty = self._epoch.means()
        rows, _ = self._epoch.rows()
        self.saw_all_rows = self.saw_all_rows or rows >= self.training_summary.n_rows
        refuse_divergence(self.current_epoch, loss, penalty, self.linear_sigmoid.linear.weight)
        summary = self.training_summary
        scale = summary.weight_scale * summary.weight_sum if self.hparams["reduction"] == "sum" else 1.0
        log_epoch(self, {"train/loss": scale * float(loss + penalty)}, self.current_epoch)

    def _evaluate_after_step(self, batch: Sequence[Tensor]) -> None:
        """Evaluate the objective where a line search ended; the closure's own evaluations were trial points."""
        self.zero_grad()
        with torch.enable_grad():
            self.training_step(batch, 0).backward()
        gradients = torch.cat([p.grad.reshape(-1) for p in self.parameters() if p.grad is not None])
        gradient = self._sum_over_processes(gradients / self.trainer.world_size).abs().max()
        resolution = 1e-9 if self.training_summary.dtype == torch.float64 else 1e-7
        objective = float(sum(self._epoch.means()))
        stop, converged = self._line_search_end.check(objective, float(gradient), resolution)
        if stop:
            self.trainer.should_stop, self.converged = True, converged

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)  # the strategy's own `reduce` would add a barrier
        return value

    def on_train_end(self) -> None:
        """Say so where rows were left out, or the optimum was not reached, or is not the only one."""
        if not self.trainer.is_global_zero:
            return
        if not self.saw_all_rows:
            log.warning(PARTIAL)
        if not self._exact:
            return
        solver = cast(SubsampledNewton, self.optimizers(use_pl_optimizer=False))
        if not self.converged:
            limit = "trainer.max_epochs" if self.current_epoch == self.trainer.max_epochs else "it was stopped"
            reason = solver.status or f"the fit ended after {self.current_epoch} passes ({limit})"
            log.warning("not converged: %s", reason)
        # Where the solver has given up for another reason, its curvature need not be that of any optimum.
        if (self.converged or not solver.status) and (undetermined := solver.nullity):
            log.warning(
                "to the digits of %s the columns depend on each other in %d way%s, so that other coefficients "
                "would fit as well; the report (model.infer()) names the columns",
                str(self.training_summary.dtype).removeprefix("torch."), undetermined, "s" * (undetermined > 1),
            )  # fmt: skip

    # ---- held-out rows ----------------------------------------------------------------------------------

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Collect a batch `(x, y)` or `(x, y, weight)` for the held-out metrics."""
        x, y, *weight = batch
        w, b = self._served_affine(x)
        self._held_out.add(linear_predictor(x, w, b), y, weight[0] if weight else None)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log val/loss and the metrics; `Trainer.validate` returns them, and the fit's last epoch as `step`."""
        self._log_held_out("val")

    def on_test_epoch_end(self) -> None:
        """The same for test/loss and `Trainer.test`."""
        self._log_held_out("test")

    def _say_if_partial(self, prefix: str, measured: int) -> None:
        """Say once in a run that not all of the held-out rows are measured."""
        data = self._data_module
        if not isinstance(data, TensorDataModule) or self._said_partial or not self.trainer.is_global_zero:
            return
        held_out = data.val_rows if prefix == "val" or data.test_rows is None else data.test_rows
        if held_out is not None and measured < len(held_out.y):
            log.warning(
                "%s: %d of %d rows are measured (trainer.limit_%s_batches)", prefix, measured, len(held_out.y), prefix
            )
            self._said_partial = True

    @property
    def _data_module(self) -> LightningDataModule | None:
        """The data module of the present run, or of the last; the Trainer keeps one where loaders have followed it."""
        data = getattr(self._trainer, "datamodule", None)
        return data if data is not None and self.trainer.fit_loop._data_source.instance is data else None

    def _log_held_out(self, prefix: str) -> None:
        rows = self._held_out.take(of_all_processes=self.trainer.world_size > 1)
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if fitting:
            refuse_divergence(self.current_epoch, rows)
        if self.trainer.sanity_checking:
            return
        if not bool((rows[:, 2] > 0).any()):
            raise InputError(f"every {prefix} row has the weight 0, so that nothing can be measured on them")
        self._say_if_partial(prefix, len(rows))
        found = measures(*weighted_rows(*rows.unbind(1)), self.threshold)
        if "auroc" not in found and not self._held_out.one_class_told and self.trainer.is_global_zero:
            self._held_out.one_class_told = True
            log.warning("the %s rows hold one class only: no AUROC, average precision or F1 score", prefix)
        values = {f"{prefix}/{name}": value for name, value in found.items()}
        if fitting:
            log_epoch(self, values, self.current_epoch)
        else:
            log_measurement(self, values, self._fitted_epoch)
