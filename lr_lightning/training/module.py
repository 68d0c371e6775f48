"""The LightningModule: settings, set-up, steps, measurements, the report, and what goes into a checkpoint."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Self

from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.checkpoint.validate import PREFIX, check_contents
from lr_lightning.data.bounds import bounds_by_feature
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.training_rows import TrainingRows
from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.objective import Objective, logistic_loss
from lr_lightning.model.processes import Processes
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.threads import serial_operations
from lr_lightning.serving.predictor import Predictor
from lr_lightning.solver import SubsampledNewton
from lr_lightning.solver.full_newton import FullNewton, needs_all_rows
from lr_lightning.statistics.held_out import (
    MEASURES,
    MOST_DRAWN,
    MOST_ROWS,
    HeldOutRows,
    of_all_processes,
    predicted,
    threshold_by_rule,
)
from lr_lightning.statistics.report import HeldOut, Inference, Measures, Report
from lr_lightning.statistics.summary import Summary, summarize
from lr_lightning.statistics.wald import CovarianceType
from lr_lightning.statistics.warnings import PARTIAL
from lr_lightning.training.data_modules import TensorDataModule
from lr_lightning.training.distributed import processes_of
from lr_lightning.training.epoch import EpochSums, LineSearchEnd, log_epoch, log_measurement, refuse_divergence
from lr_lightning.training.housekeeping import Housekeeping
from lr_lightning.training.metrics import HeldOutBatches
from lr_lightning.training.optimizers import (
    EXACT,
    full_newton,
    is_full_batch,
    make_optimizer,
    refuse_unknown,
    solver_options,
)
from lr_lightning.training.refusals import (
    refuse_out_of_range,
    refuse_partial_passes,
    refuse_rule_without_rows,
    refuse_unfit_callbacks,
    refuse_unfit_objective,
    refuse_unfit_trainer,
)
from lr_lightning.training.resume import fit_settings, refuse_other_rows, refuse_other_settings

log = logging.getLogger("lr_lightning")
_OF_DATA = ("schema", "prediction_input", "curve", "data", "fingerprint", "rows_fingerprint", "split_rule")
"""Keys of a checkpoint that describe the data of the fit."""


class FitData(NamedTuple):
    """The part of a fit's data module that a report needs, kept for a later Trainer, which may serve other rows.

    Attributes:
        served: what has been taken off the features of the rows.
        feature_names: (d,).
        val_rows: the validation rows; None where none were kept back.
        test_rows: the test rows, likewise.
        groups: the features that stand for one boolean or categorical column.
        log_coefficient: what the likelihood of the training rows has besides, where they count trials.
        clusters: numbers of the training rows' groups, (n,), or None.
        processes: that have these rows; those here, and the clusters, are of this one.
    """

    served: Standardization
    feature_names: list[str]
    val_rows: Rows | None
    test_rows: Rows | None
    groups: list[list[int]]
    log_coefficient: float
    clusters: Tensor | None
    processes: Processes


class LogisticRegression(LightningModule):
    """Binary logistic regression: the linear–sigmoid model and the binary cross-entropy.

    Minimises (1/Σv) Σ v_i·BCE(y_i, σ(o_i + b + x_iᵀw)) + l1·Σ f_j|w_j| + (l2/2)·Σ f_j w_j², where o is the
    offset, v the sample weight times the class weight and f the penalty factor, 1 unless it is given; the intercept b
    is never penalised.

    Args:
        in_features: number of features, d; None takes it from the data.
        l1: strength of the L1 penalty, at least 0.
        l2: strength of the L2 penalty, at least 0.
        standardize: penalise the weights of standardised features (as glmnet does) or of the raw ones (as
            scikit-learn does). With False, optimizers that take small steps (SGD, Adam, …) see the raw
            features; those that run to convergence condition the problem for themselves in either case.
        fit_intercept: whether the model has an intercept.
        reduction: "mean" as above, or "sum": the whole objective times Σv, which has the same optimum.
        class_weight: None, "balanced" (Σv / (2·Σv of the class)) or a weight for each label.
        threshold: a probability above it is a positive prediction: a number, or what is to be best on the
            validation rows: f1, youden, or cost=R, where a false negative costs R false positives.
        initial_weight: coefficients to start from, one number for all features or one each, on the original
            feature scale; None starts at 0.
        initial_bias: intercept to start from, likewise.
        penalty_factors: by the name of a feature, or of a categorical column for all its levels, what its penalty is
            multiplied by; 0 is no penalty, and features that are not named have 1. It needs a data module of this
            package.
        firth: Firth's penalised likelihood, which has finite estimates for separated classes too; "flic" gives it the
            intercept for which the mean probability is the observed share. Weights are frequencies then.
        bounds: the least and the largest coefficient, by feature name, on the original scale: {"age": [0, None]}; the
            name of a categorical column means all of its levels.
        optimizer: SubsampledNewton, the exact solver, or the name of a class in `torch.optim`.
        optimizer_options: its keyword arguments, such as {"lr": 0.1}.

    Attributes:
        converged: whether the fit reached the optimum.
        saw_all_rows: whether a pass of the fit has seen all training rows.
        threshold: the number in use; one that is chosen on the validation rows stands at 0.5 until the end of the fit.

    Raises:
        InputError: if an argument is out of its range or the optimizer is not known.

    Example:
        Twenty students, their hours of study, and who passed:

        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> from lr_lightning import LogisticRegression, TensorDataModule
        >>> hours = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 4, 4.25, 4.5, 4.75, 5, 5.5]
        >>> passed = [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1]
        >>> data = TensorDataModule(torch.tensor(hours)[:, None], torch.tensor(passed), feature_names=["hours"])
        >>> model = LogisticRegression()
        >>> trainer = Trainer(
        ...     max_epochs=100, accelerator="cpu", logger=False, enable_checkpointing=False,
        ...     enable_progress_bar=False, enable_model_summary=False,
        ... )
        >>> trainer.fit(model, data)
        >>> model.converged
        True
        >>> [round(p, 4) for p in model(torch.tensor([[2.0], [4.0]])).tolist()]
        [0.2557, 0.8744]
        >>> for row in model.infer().coefficients:
        ...     print(f"{row.name:<11} {row.estimate:7.4f} {row.std_error:.4f}")
        (Intercept) -4.0777 1.7610
        hours        1.5046 0.6287
    """

    def __init__(
        self,
        in_features: int | None = None,
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        standardize: bool = True,
        fit_intercept: bool = True,
        reduction: Literal["mean", "sum"] = "mean",
        class_weight: Literal["balanced"] | dict[Any, float] | None = None,
        threshold: float | str = 0.5,
        initial_weight: float | list[float] | None = None,
        initial_bias: float | None = None,
        penalty_factors: dict[str, float] | None = None,
        firth: bool | Literal["flic"] = False,
        bounds: dict[str, list[float | None]] | None = None,
        optimizer: str = EXACT,
        optimizer_options: dict[str, Any] | None = None,
    ):
        super().__init__()
        # Left to find the frame, Lightning makes a cycle of it: the caller's variables would outlive the call.
        self.save_hyperparameters(frame=inspect.currentframe())
        refuse_out_of_range(l1=l1, l2=l2, threshold=threshold, reduction=reduction, penalty_factors=penalty_factors)
        refuse_unknown(optimizer, l1)
        refuse_unfit_objective(
            optimizer, firth=firth, bounds=bounds, class_weight=class_weight, penalty_factors=penalty_factors
        )
        self.objective = Objective(l1=l1, l2=l2, standardize=standardize, fit_intercept=fit_intercept, firth=firth)
        self.reduction, self.class_weight, self.penalty_factors = reduction, class_weight, penalty_factors
        self.bounds = bounds
        self.threshold_rule = threshold if isinstance(threshold, str) else None
        self.threshold = 0.5 if isinstance(threshold, str) else threshold
        self.initial_weight, self.initial_bias = initial_weight, initial_bias
        self.optimizer_name, self.optimizer_options = optimizer, dict(optimizer_options or {})
        self._exact, self._full_batch = optimizer == EXACT, is_full_batch(optimizer)

        self.choose_penalty: Callable[[], None] | None = None  # is called once all but the optimizer is set up
        self.converged = self.saw_all_rows = False
        self._passes = 0  # over the rows, that the fit has made
        self._stop_after_pass = False
        self._epoch, self._line_search_end = EpochSums(self._sum_over_processes), LineSearchEnd()
        self._fit_data: FitData | None = None  # of the last fit; None where it was to bare loaders
        self._served: Standardization | None = None  # what the present run's data module has taken off the features
        self._is_reported = True  # False from the end of a fit until its report is made
        self._of_report: dict[str, Any] = {}  # what the checkpoint says of the report
        self._of_data: dict[str, Any] = {}  # what the checkpoint says of the data
        self._rows_fingerprint: Callable[[], str] | None = None  # which the first checkpoint of a fit computes
        # The processes have the same means and scales from the start; DDP would send them before every pass.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self, ["linear_sigmoid.mean", "linear_sigmoid.scale"]
        )
        if in_features is not None:
            self._build(in_features, None)

    def _build(self, in_features: int, standardization: Standardization | None) -> None:
        self.hparams["in_features"] = in_features  # a checkpoint must say how large a model to build
        self.linear_sigmoid = LinearSigmoid(
            in_features, fit_intercept=self.objective.fit_intercept, standardization=standardization
        )

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Probabilities, shape (n,), at the Trainer's precision, of raw features and offsets as for `logits`."""
        return torch.sigmoid(self.logits(x, offset))

    def logits(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """The linear predictor, shape (n,), at the Trainer's precision.

        Args:
            x: raw features, shape (n, d).
            offset: log-odds that are added, shape (n,).

        Raises:
            InputError: if the fit had an offset and none is given.
        """
        return self.linear_sigmoid.logits(x, offset).to(self.dtype)

    def predictor(self) -> Predictor:
        """The fitted model for inference, as `load` gives it from a checkpoint."""
        checkpoint: dict[str, Any] = {"state_dict": self.state_dict()}
        self.on_save_checkpoint(checkpoint)
        return Predictor.from_checkpoint(checkpoint, "the fit")

    def set_penalty(self, l1: float, l2: float) -> None:
        """Fit with penalties of other strengths than the constructor was given; before the optimizer is made."""
        refuse_unknown(self.optimizer_name, l1)
        self.objective = replace(self.objective, l1=l1, l2=l2)
        self.hparams.update(l1=l1, l2=l2)

    # ---- before a fit -----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take the number of features, the standardisation and the class weights from the training rows.

        Raises:
            InputError: if the device or precision would lose digits, the data have another number of features, or a
                threshold is to be chosen on validation rows and there are none.
        """
        self._housekeeping = Housekeeping(self.trainer, self._end_of_epoch, self._end_of_fit)
        refuse_unfit_trainer(self.trainer)
        self._held_out, self._said_partial = HeldOutBatches(), False
        data = self._data_module
        self._served = data.served if isinstance(data, TensorDataModule) else None
        if stage != "fit":
            return
        self.converged = self.saw_all_rows = self._stop_after_pass = False
        self._passes, self._line_search_end = 0, LineSearchEnd()
        self._is_reported, self._of_report, self._of_data, self._fit_data = True, {}, {}, None
        self._rows_fingerprint = None
        if self.threshold_rule is not None:
            self.threshold = 0.5
        with serial_operations():
            self.training_rows = self._read_training_rows(data)
            self._set_penalty_factors(data)
            self._standardize()
            if self.bounds:
                self.objective = replace(self.objective, bounds=self._bounds_of(data))
            self._set_initial_coefficients()
        self.linear_sigmoid.needs_offset = self.training_rows.has_offset
        if isinstance(data, TensorDataModule):
            self._fit_data = FitData(
                data.served,
                list(data.schema.feature_names),
                data.val_rows,
                data.test_rows,
                data.schema.indicator_groups,
                data.log_coefficient,
                data.train_groups,
                data.processes,
            )
            self._of_data, self._rows_fingerprint = data.description(), data.rows_fingerprint()
            if data.val_rows is None:
                refuse_rule_without_rows(self.threshold_rule)
                self.trainer.limit_val_batches = 0  # Lightning would warn of an empty loader
        refuse_unfit_callbacks(self.trainer, self.optimizer_name)
        if self.choose_penalty is not None:
            self.choose_penalty()

    @property
    def _data_module(self) -> LightningDataModule | None:
        """The data module of the present run, or of the last; the Trainer keeps one where loaders have followed it."""
        data = getattr(self._trainer, "datamodule", None)
        return data if data is not None and self.trainer.fit_loop._data_source.instance is data else None

    def _read_training_rows(self, data: LightningDataModule | None) -> TrainingRows:
        """The rows of a data module of this package, or of the Trainer's loader.

        Every process takes their statistics from all rows, so that all of them begin alike.
        """
        if isinstance(data, TensorDataModule):
            return data.training_rows(self.class_weight)
        if self.trainer.world_size > 1:
            raise InputError(
                "several processes need a TensorDataModule or a TableDataModule: Lightning would serve some rows of a "
                "DataLoader twice to give each process as many"
            )
        self.trainer.fit_loop.setup_data()
        loader = cast(Iterable[Sequence[Tensor]], self.trainer.train_dataloader)
        return TrainingRows.of(loader, self.class_weight, (0, 1))

    def _standardize(self) -> None:
        """Put a map in front of the linear layer.

        Optimizers that run to convergence need a well-conditioned problem, whatever the penalty is on; the others
        see the raw features where `standardize` is False.
        """
        n_features = len(self.training_rows.standardization.mean)
        training = self.training_rows.standardization.after(self._served_as(n_features))
        mean, scale = training.before_weights(fit_intercept=self.objective.fit_intercept)
        if not self.objective.standardize and not self._full_batch:
            mean, scale = torch.zeros_like(mean), torch.where(scale.isinf(), torch.inf, 1.0).to(scale.dtype)
        if not hasattr(self, "linear_sigmoid"):
            self._build(n_features, Standardization(mean, scale))
            return
        if len(self.linear_sigmoid.mean) != n_features:
            raise InputError(f"in_features is {len(self.linear_sigmoid.mean)}, but the data have {n_features} features")
        self.linear_sigmoid.mean.copy_(mean)
        self.linear_sigmoid.scale.copy_(scale)

    def _set_penalty_factors(self, data: LightningDataModule | None) -> None:
        """Look up which features the factors are of."""
        if not self.penalty_factors:
            return
        if not isinstance(data, TensorDataModule):
            raise InputError("penalty_factors need a TensorDataModule or a TableDataModule, which name the features")
        factors = self.factors_of(data)
        if factors is not None and not bool(factors.any()) and (self.objective.l1 or self.objective.l2):
            raise InputError("model.penalty_factors: all are 0, so that the penalty has no effect; leave it out")
        self.objective = replace(self.objective, penalty_factors=factors)

    def factors_of(self, data: TensorDataModule) -> Tensor | None:
        """The penalty factors of the features of a data module, (d,), float64; None for ones.

        Raises:
            InputError: if one of those that are named is not there.
        """
        if not self.penalty_factors:
            return None
        values = data.schema.per_feature(self.penalty_factors, 1.0, "model.penalty_factors")
        return torch.tensor(values, dtype=torch.float64)

    def _set_initial_coefficients(self) -> None:
        if self.initial_weight is None and self.initial_bias is None:
            return
        if self.initial_bias and not self.objective.fit_intercept:
            raise InputError("initial_bias is given, but fit_intercept is false")
        n_features = len(self.linear_sigmoid.mean)
        start = torch.as_tensor(0.0 if self.initial_weight is None else self.initial_weight, dtype=torch.float64)
        if start.ndim and len(start) != n_features:
            raise InputError(f"initial_weight has {len(start)} entries, but the data have {n_features} features")
        self.linear_sigmoid.set_coefficients(start.expand(n_features), self.initial_bias or 0.0)

    def _bounds_of(self, data: LightningDataModule | None) -> Tensor:
        """The bounds by name as lower and upper ones, (2, d), infinite where there is none."""
        if isinstance(data, TensorDataModule):
            schema = data.schema
        else:
            schema = TableSchema.of_numbers([f"x{j}" for j in range(len(self.linear_sigmoid.mean))], target="y")
        return bounds_by_feature(self.bounds or {}, schema)

    def _served_as(self, n_features: int) -> Standardization:
        return self._served or Standardization.identity(n_features)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer that `optimizer` names."""
        model, objective, options = self.linear_sigmoid, self.objective, self.optimizer_options
        self._penalty = objective.penalty(model.scale)
        with serial_operations(len(model.mean)):
            if self._exact:
                warm_start = self.initial_weight is not None or self.initial_bias is not None
                served = self._served_as(len(model.mean))
                if needs_all_rows(objective):
                    return full_newton(model, self.training_rows, served, self._penalty, objective, options)
                options = options | solver_options(
                    model, self.training_rows, served, self._penalty, warm_start=warm_start
                )
            return make_optimizer(self.optimizer_name, model.parameters(), options)

    # ---- fit --------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Let an optimizer that needs the whole objective make one step an epoch."""
        if not self._full_batch:
            return
        refuse_partial_passes(self.trainer, self.optimizer_name)
        n_batches = self.trainer.num_training_batches
        if self._exact:
            # Of a loader without a length at most as many as there are rows; the step comes with the last one.
            self.trainer.accumulate_grad_batches = int(min(n_batches, self.training_rows.n_rows))
        elif n_batches != 1:
            raise InputError(f"{self.optimizer_name} needs all rows in one batch; leave batch_size unset")

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The objective, a scalar, on a batch `(x, y[, weight[, offset]])`: (n, d), and (n,) each.

        DDP averages its gradient over the processes.
        """
        rows = Rows.of_batch(batch).weighted(self.training_rows.class_weights)
        loss = logistic_loss(
            rows.x, rows.y, *self._served_affine(), rows.weight, rows.offset, shares=self.training_rows.has_shares
        )
        total = torch.as_tensor(rows.total_weight, dtype=torch.float64, device=loss.device)
        weights = self.linear_sigmoid.linear.weight[0]
        self._epoch.add(batch_idx, len(rows.y), loss.detach(), total, self._penalty.total(weights.detach()))
        processes = self.trainer.world_size
        if self._full_batch:
            # Lightning divides by the number of batches, and DDP by that of processes: what remains is this
            # batch's true share of the mean. L1 is the exact solver's own business.
            share = self.trainer.accumulate_grad_batches * processes / self.training_rows.weight_sum
            return share * loss + self._penalty.smooth(weights)
        total = self._sum_over_processes(total)  # of the minibatch, of which each process has its share
        objective = processes * loss + total * self._penalty.total(weights)
        if self.reduction == "sum":
            return objective * self.training_rows.weight_scale
        return objective / total.clamp(min=torch.finfo(torch.float64).tiny)  # a minibatch may weigh nothing

    def _served_affine(self) -> tuple[Tensor, Tensor]:
        """Weight (d,) and bias () for features as they are served."""
        mean = self.linear_sigmoid.mean
        return self.linear_sigmoid.served_affine(self._served_as(len(mean)).to(mean.device))

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
        with serial_operations(len(self.linear_sigmoid.mean)):
            optimizer.step(closure=whole_objective if whole else optimizer_closure)  # type: ignore[arg-type]

    def _refuse_other_rows(self) -> None:
        """Raise InputError if a pass has not been one over the rows that the fit began with."""
        rows, weight = self._epoch.rows()
        expected = self.training_rows
        if rows != expected.n_rows or abs(weight - expected.weight_sum) > 1e-5 * expected.weight_sum:
            raise InputError(
                f"{self.optimizer_name} needs the same rows in every pass, all {expected.n_rows} of them, but "
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
            solver = self._solver
            self.converged = solver.converged
            # On unlike processors the solvers' last digits differ; then the first to stop decides.
            stopped = bool(self._sum_over_processes(torch.tensor(float(solver.stopped), device=self.device)))
            trainer.should_stop |= stopped or self._stop_after_pass
            if trainer.should_stop or self.current_epoch + 1 == trainer.max_epochs:
                solver.restore_best()  # before the held-out rows are measured
        elif self._full_batch:
            self._evaluate_after_step(batch)
        self._log_pass()

    @property
    def _solver(self) -> SubsampledNewton | FullNewton:
        return cast("SubsampledNewton | FullNewton", self.optimizers(use_pl_optimizer=False))

    def _log_pass(self) -> None:
        self._passes = self.current_epoch + 1
        loss, penalty = self._epoch.means()
        rows, _ = self._epoch.rows()
        self.saw_all_rows = self.saw_all_rows or rows >= self.training_rows.n_rows
        refuse_divergence(self.current_epoch, loss, penalty, self.linear_sigmoid.linear.weight)
        rows_of_fit = self.training_rows
        scale = rows_of_fit.weight_scale * rows_of_fit.weight_sum if self.reduction == "sum" else 1.0
        solver = self._solver if self._exact else None
        # Firth's penalty is the solver's own business, as it takes all rows.
        value = solver.value if isinstance(solver, FullNewton) and self.objective.firth else float(loss + penalty)
        log_epoch(self, {"train/loss": scale * value}, self.current_epoch)

    def _evaluate_after_step(self, batch: Sequence[Tensor]) -> None:
        """Evaluate the objective where a line search ended; the closure's own evaluations were trial points."""
        self.zero_grad()
        with torch.enable_grad():
            self.training_step(batch, 0).backward()
        gradients = torch.cat([p.grad.reshape(-1) for p in self.parameters() if p.grad is not None])
        gradient = self._sum_over_processes(gradients / self.trainer.world_size).abs().max()
        resolution = 1e-9 if self.training_rows.dtype == torch.float64 else 1e-7
        objective = float(sum(self._epoch.means()))
        stop, converged = self._line_search_end.check(objective, float(gradient), resolution)
        if stop:
            self.trainer.should_stop, self.converged = True, converged

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)  # the strategy's own `reduce` would add a barrier
        return value

    def _end_of_epoch(self) -> None:
        """Before all callbacks: the loss of a pass that `max_steps`, `max_time` or a callback has ended."""
        if not self.trainer.is_last_batch:
            self._log_pass()

    def _end_of_fit(self) -> None:
        """Before all callbacks: the coefficients and the threshold are final; a report can be made."""
        if self._exact:  # where a callback has stopped it, the parameters hold a proposal that no pass has verified
            self._solver.restore_best()
        data = self._fit_data
        if data is None:
            return
        if self.threshold_rule is not None and data.val_rows is not None:
            with serial_operations():
                held_out = self._predicted(data, data.val_rows)
                self.threshold = threshold_by_rule(self.threshold_rule, *held_out.of_all())
        self._is_reported = False

    def on_train_end(self) -> None:
        """Say so where rows were left out, or the optimum was not reached, or is not the only one."""
        if not self.trainer.is_global_zero:
            return
        if not self.saw_all_rows:
            log.warning(PARTIAL)
        if not self._exact:
            return
        solver = self._solver
        if not self.converged:
            limit = "trainer.max_epochs" if self.current_epoch == self.trainer.max_epochs else "it was stopped"
            reason = solver.status or f"the fit ended after {self.current_epoch} passes ({limit})"
            log.warning("not converged: %s", reason)
        # Where the solver has given up for another reason, its curvature need not be that of any optimum.
        if (self.converged or not solver.status) and (undetermined := solver.nullity):
            log.warning(
                "to the digits of %s the columns depend on each other in %d way%s, so that other coefficients "
                "would fit as well; the report (model.infer()) names the columns",
                str(self.training_rows.dtype).removeprefix("torch."), undetermined, "s" * (undetermined > 1),
            )  # fmt: skip

    # ---- held-out rows, prediction ----------------------------------------------------------------------------------

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Collect a batch `(x, y[, weight[, offset]])` for the held-out metrics."""
        rows = Rows.of_batch(batch)
        if self.linear_sigmoid.needs_offset and rows.offset is None:
            raise InputError("the model was fitted with an offset; the rows to measure it on need one, too")
        self._held_out.add(rows.logits(*self._served_affine()), rows.y, rows.weight)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log val/loss and the metrics; `Trainer.validate` returns them, and the fit's last epoch as `step`."""
        self._log_held_out("val")

    def on_test_epoch_end(self) -> None:
        """Log test/loss and the metrics; `Trainer.test` returns them, and the fit's last epoch as `step`."""
        self._log_held_out("test")

    def _log_held_out(self, prefix: str) -> None:
        rows = self._held_out.take(processes_of(self.trainer))
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if fitting:
            refuse_divergence(self.current_epoch, torch.tensor(0.0 if rows.is_finite() else torch.nan))
        if self.trainer.sanity_checking:
            return
        if not rows.n_observations:
            raise InputError(f"every {prefix} row has the weight 0, so that nothing can be measured on them")
        self._say_if_partial(prefix, rows.n_rows)
        if rows.error and not self._held_out.error_told and self.trainer.is_global_zero:
            self._held_out.error_told = True
            log.info(
                "the %d %s rows are ranked by a histogram of logits: AUROC and average precision are exact to %.1e",
                rows.n_rows, prefix, rows.error,
            )  # fmt: skip
        found = rows.measures(self.threshold)
        if "auroc" not in found and not self._held_out.one_class_told and self.trainer.is_global_zero:
            self._held_out.one_class_told = True
            log.warning("the %s rows hold one class only: no AUROC, average precision or F1 score", prefix)
        values = {f"{prefix}/{name}": value for name, value in found.items()}
        if fitting:
            log_epoch(self, values, self.current_epoch)
        else:
            log_measurement(self, values, self._fitted_epoch)

    def _say_if_partial(self, prefix: str, measured: int) -> None:
        """Say once in a run that not all of the held-out rows are measured."""
        data = self._data_module
        if not isinstance(data, TensorDataModule) or self._said_partial or not self.trainer.is_global_zero:
            return
        n_rows = data.shares["val" if prefix == "val" or data.test_rows is None else "test"].total
        if measured < n_rows:
            log.warning("%s: %d of %d rows are measured (trainer.limit_%s_batches)", prefix, measured, n_rows, prefix)
            self._said_partial = True

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities, shape (n,), of raw features (n, d), or of those and the offsets in a batch of `fit`."""
        if not isinstance(batch, (tuple, list)):
            return self(batch)
        return self(batch[0], Rows.of_batch(batch).offset if len(batch) > 1 else None)

    # ---- what a fit has to say --------------------------------------------------------------------------

    def infer(
        self, *, covariance: CovarianceType = "nonrobust", level: float = 0.95, inference: Inference | None = None
    ) -> Report:
        """The report of the fit: coefficients with standard errors, likelihoods, warnings.

        Args:
            covariance: nonrobust (the inverse Hessian), HC0, HC1 (the sandwich) or cluster (that of groups).
            level: of the confidence intervals.
            inference: what z, p-values and intervals are from: wald, or profile, the likelihoods of refits; None is
                profile with Firth's penalty, and wald otherwise.

        Raises:
            InputError: before a fit, or after one to bare loaders instead of a data module of this package; for the
                covariance cluster without groups; for a profile with a robust covariance, a penalty, class weights or
                bounds.
        """
        return self._inference(covariance, level, inference).report

    def conclude(
        self,
        *,
        covariance: CovarianceType = "nonrobust",
        level: float = 0.95,
        inference: Inference | None = None,
        told: Callable[[int, int], None] | None = None,
    ) -> Summary:
        """Make the report that later checkpoints and `predictor()` have.

        Of dependent columns the solver shares a coefficient out among all; the first ones take it over here, as in
        the report. The first checkpoint of a finished fit does this by itself, because a report can take longer than
        the fit; a callback may do it before, with other settings.

        Args:
            covariance: as in `infer`.
            level: likewise.
            inference: likewise.
            told: is given the numbers of searches along profiles that are done, and of all.

        Raises:
            InputError: likewise.
        """
        summary = self._inference(covariance, level, inference, told)
        coefficients, _ = self.linear_sigmoid.coefficients()
        if bool(((summary.coefficients == 0) & (coefficients != 0)).any()):
            self.linear_sigmoid.set_coefficients(summary.coefficients, summary.intercept)
        self._is_reported, self._of_report = True, {"report": summary.report.to_checkpoint()}
        if summary.covariance is not None:
            self._of_report["covariance"] = summary.covariance.to_dict()
        return summary

    def inference_in_use(
        self, covariance: CovarianceType, inference: Inference | None, *, penalized: bool = False
    ) -> Inference:
        """The source of z, p-values and intervals: `inference`, or the default.

        Args:
            covariance: as in `infer`.
            inference: likewise.
            penalized: whether a penalty is still to be chosen.

        Raises:
            InputError: if a profile is asked for, and cannot be had with this covariance or objective.
        """
        objective = self.objective
        if inference is None:
            inference = "profile" if objective.firth else "wald"
        others = {
            f"the covariance {covariance}": covariance != "nonrobust",
            "a penalty (l1, l2)": penalized or objective.l1 > 0 or objective.l2 > 0,
            "class weights": self.class_weight is not None,
            "bounds": bool(self.bounds),
        }
        if inference == "profile" and any(others.values()):
            what = next(name for name, present in others.items() if present)
            default = " (the default with firth)" if objective.firth else ""
            raise InputError(f"option inference: profile{default} does not go with {what}; choose wald")
        return inference

    def _inference(
        self,
        covariance: CovarianceType,
        level: float,
        inference: Inference | None,
        told: Callable[[int, int], None] | None = None,
    ) -> Summary:
        """From one sweep over the training rows, and a few more where something is amiss."""
        if self._fit_data is None:
            raise InputError("a report needs a fit to a TensorDataModule or TableDataModule")
        data, training, objective = self._fit_data, self.training_rows, self.objective
        in_use = self.inference_in_use(covariance, inference)
        class_weighted = training.class_weights != (1.0, 1.0)
        with serial_operations():  # the same digits, however many threads a process has
            weight, bias = (t.detach() for t in self.linear_sigmoid.cpu_copy().served_affine(data.served))
            summary = summarize(
                list(training.weighted()),
                coefficients=weight,
                intercept=bias,
                served=data.served,
                training=training.standardization,
                feature_names=data.feature_names,
                converged=self.converged,
                passes=self._passes,
                fit_intercept=objective.fit_intercept,
                penalized=objective.l1 > 0 or objective.l2 > 0,
                chosen=self.choose_penalty is not None,
                class_weighted=class_weighted,
                weight_scale=training.weight_scale,
                log_coefficient=data.log_coefficient,
                partial=not self.saw_all_rows,
                exact=self._exact,
                clusters=data.clusters,
                covariance=covariance,
                confidence_level=level,
                inference=in_use,
                firth=objective.firth,
                bounds=objective.bounds,
                groups=data.groups,
                unweighted=list(map(Rows.of_batch, training.batches)) if class_weighted else None,
                told=told,
                processes=data.processes,
            )
            threshold, words = self.threshold, None
            val, test = (
                None if rows is None else self._predicted(data, rows) for rows in (data.val_rows, data.test_rows)
            )
            if val is not None and self.threshold_rule is not None:
                threshold = threshold_by_rule(self.threshold_rule, *val.of_all())
                words = f"{self.threshold_rule} on the validation rows"
            calibration = None if val is None else val.calibration()
            of_val, of_test = _measured(val, threshold), _measured(test, threshold)
        held_out = HeldOut(of_val, of_test) if of_val or of_test else None
        return summary._replace(report=summary.report.with_held_out(calibration, threshold, words, held_out))

    def _predicted(self, data: FitData, rows: Rows) -> HeldOutRows:
        """The held-out rows of which this process has `rows`, with their logits."""
        return of_all_processes(*predicted(self.linear_sigmoid, data.served, rows), data.processes)

    def predicted_validation_rows(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Logits, targets and weights (n,) of the validation rows of the last fit, or of rows that stand for them.

        Several processes call it together. None where there were no validation rows.
        """
        data = self._fit_data
        if data is None or data.val_rows is None:
            return None
        most = MOST_ROWS if data.processes.count == 1 else MOST_DRAWN
        found = predicted(self.linear_sigmoid, data.served, data.val_rows)
        return of_all_processes(*found, data.processes, most).of_all()

    # ---- checkpoints ------------------------------------------------------------------------------------

    @property
    def _fitted_epoch(self) -> int:
        """The number of the last epoch."""
        return max(0, self._passes - 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference and a later test need of the data and, after a fit, its report, as plain types."""
        if not self._is_reported:
            self.conclude()
            checkpoint["state_dict"] = self.state_dict()
        if self._rows_fingerprint is not None:
            self._of_data["rows_fingerprint"], self._rows_fingerprint = self._rows_fingerprint(), None
        checkpoint.update(self._of_data, **self._of_report, threshold=self.threshold, fitted_epoch=self._fitted_epoch)
        checkpoint["needs_offset"] = self.linear_sigmoid.needs_offset
        if self._trainer is not None:
            checkpoint["progress"] = {
                **fit_settings(self.trainer),
                "objective": self._line_search_end.objective,
                "saw_all_rows": self.saw_all_rows,
            }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] (Lightning's also downloads, and takes open files)
        cls,
        checkpoint_path: str | os.PathLike[str],
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **settings: Any,
    ) -> Self:
        """The model of a checkpoint, in train mode, as Lightning has it.

        Args:
            checkpoint_path: a local file; nothing in it is executed.
            map_location: the device to put the model on; the CPU by default.
            hparams_file: None; the settings are in the checkpoint.
            strict: of no effect: all tensors have to fit, and there must be no others.
            weights_only: of no effect: nothing is ever unpickled.
            settings: arguments of the constructor that overrule the checkpoint's.

        Raises:
            InputError: if the file is no checkpoint of this model, or contradicts itself.
        """
        if hparams_file is not None:
            raise InputError(f"{os.fsdecode(hparams_file)}: the settings are in the checkpoint; leave hparams_file out")
        model = cls.from_contents(read_checkpoint(checkpoint_path), checkpoint_path, **settings)
        return model if map_location is None else model.to(map_location)

    @classmethod
    def from_contents(cls, checkpoint: dict[str, Any], name: str | os.PathLike[str], **settings: Any) -> Self:
        """The model of a checkpoint that `read_checkpoint` has read; `name` is its name in error messages."""
        try:
            model = cls(**{**checkpoint.get("hyper_parameters", {}), **settings})
        except (InputError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{os.fsdecode(name)}: its settings fit no logistic regression ({error})") from error
        model._build(len(checkpoint["state_dict"][f"{PREFIX}mean"]), None)
        model.on_load_checkpoint(checkpoint)
        try:
            model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise InputError(f"{os.fsdecode(name)}: its tensors do not fit its settings") from error
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back; a fit that goes on from it must have the same settings and the same rows.

        Raises:
            InputError: if it has others, or if its parts do not fit one another; Lightning's own loader comes by
                here too.
        """
        check_contents(checkpoint, "the checkpoint")
        self._passes = checkpoint.get("fitted_epoch", 0) + 1
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            name, data = str(self.trainer.ckpt_path), self._data_module
            refuse_other_settings(name, checkpoint, type(self), self.hparams, data, self.trainer)
            if isinstance(data, TensorDataModule):
                standardization = Standardization(self.linear_sigmoid.mean, self.linear_sigmoid.scale)
                refuse_other_rows(name, checkpoint, standardization, data)
            progress = checkpoint.get("progress", {})
            self._line_search_end.objective = progress.get("objective", float("inf"))
            self.saw_all_rows = progress.get("saw_all_rows", True)
            return
        self._of_data = {key: checkpoint[key] for key in _OF_DATA if key in checkpoint}
        self._of_report = {key: checkpoint[key] for key in ("report", "covariance") if key in checkpoint}
        self._is_reported = True
        self.linear_sigmoid.needs_offset = checkpoint.get("needs_offset", False)
        self.threshold = checkpoint.get("threshold", self.threshold)


def _measured(rows: HeldOutRows | None, threshold: float) -> Measures | None:
    if rows is None:
        return None
    found = rows.measures(threshold)
    return Measures(**{name: found.get(name) for name in MEASURES})  # type: ignore[arg-type]
