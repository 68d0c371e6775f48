"""The Lightning face of the model: objective, optimizer, metrics and what goes into a checkpoint."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from typing_extensions import Self

from lr_lightning.checkpoint import read_checkpoint
from lr_lightning.checkpoint_contents import PREFIX, check_contents
from lr_lightning.data.standardization import Standardization
from lr_lightning.data.summary import TrainingSummary, row_weights
from lr_lightning.data.tensors import DESCRIPTION, TensorDataModule
from lr_lightning.errors import InputError
from lr_lightning.linear_sigmoid import LinearSigmoid
from lr_lightning.loss import logistic_loss
from lr_lightning.metrics import HeldOutMetrics
from lr_lightning.optimizers import EXACT, is_full_batch, make_optimizer, refuse_unknown
from lr_lightning.penalty import Penalty
from lr_lightning.predictor import Predictor
from lr_lightning.results import infer, threshold_criterion, with_held_out
from lr_lightning.solver import SubsampledNewton
from lr_lightning.start import set_initial_coefficients, solver_options, standardization_of
from lr_lightning.statistics.report import Report
from lr_lightning.statistics.wald import CovarianceType

log = logging.getLogger("lr_lightning")


class LogisticRegression(LightningModule):
    """Binary logistic regression: the linear–sigmoid model and the binary cross-entropy.

    Minimises (1/Σv) Σ v_i·BCE(y_i, σ(b + x_iᵀw)) + l1·‖w‖₁ + (l2/2)·‖w‖², where v is the sample weight times
    the class weight; the intercept b is never penalised.

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
        optimizer: SubsampledNewton, the exact solver, or the name of a class in `torch.optim`.
        optimizer_options: its keyword arguments, such as {"lr": 0.1}.

    Raises:
        InputError: if an argument is out of its range or the optimizer is not known.
    """

    linear_sigmoid: LinearSigmoid
    training_summary: TrainingSummary

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
        optimizer: str = EXACT,
        optimizer_options: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        _refuse_out_of_range(self.hparams)
        refuse_unknown(optimizer, l1)
        self.converged = False
        self._objective_before = math.inf
        # A threshold that is yet to be chosen stands at 0.5 until the end of the fit.
        self.threshold = 0.5 if isinstance(threshold, str) else threshold
        self.held_out = HeldOutMetrics(self.threshold)
        self._exact, self._full_batch = optimizer == EXACT, is_full_batch(optimizer)
        self._fitted_epoch = 0  # number of the last epoch
        self._inferred: dict[str, Any] = {}  # report and covariance, once they have been asked for
        self._from_data: dict[str, Any] = {}  # what the checkpoint says of the data
        self._served: Standardization | None = None
        if in_features is not None:
            self._build(in_features, None)

    # ---- prediction -------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, shape (n,), of raw features x, shape (n, d)."""
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """The linear predictor, shape (n,), of raw features x, shape (n, d), at the Trainer's precision."""
        return self.linear_sigmoid.logits(x).to(self.dtype)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities of raw features, or of the first tensor of a batch."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def predictor(self) -> Predictor:
        """The fitted model for inference, as `load` gives it from a checkpoint."""
        checkpoint: dict[str, Any] = {"state_dict": self.state_dict()}
        self.on_save_checkpoint(checkpoint)
        return Predictor.from_checkpoint(checkpoint, "the fit")

    def infer(self, *, covariance: CovarianceType = "nonrobust", level: float = 0.95) -> Report:
        """The report of the fit: coefficients with standard errors, likelihoods, warnings.

        It becomes part of the checkpoints that are written from now on, and `predictor()` knows it. A threshold
        that is to be chosen on the validation rows is chosen here.

        Args:
            covariance: nonrobust (the inverse Hessian), HC0 or HC1 (the sandwich).
            level: of the confidence intervals.

        Raises:
            InputError: before a fit, or after one to bare loaders instead of a data module of this package.
        """
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, TensorDataModule) or not hasattr(self, "training_summary"):
            raise InputError("a report needs a fit to a TensorDataModule or TableDataModule")
        inference = with_held_out(infer(self, data, covariance=covariance, level=level), self, data)
        coefficients, _ = self.linear_sigmoid.coefficients()
        if bool(((inference.weight == 0) & (coefficients != 0)).any()):
            # Of dependent columns the solver shares a weight out among all; the report gives it to the first.
            self.linear_sigmoid.set_coefficients(inference.weight, inference.intercept)
        self.threshold = inference.report.threshold
        self._inferred = {"report": inference.report.to_dict()}
        if inference.covariance is not None:
            self._inferred["covariance"] = inference.covariance.to_dict()
        return inference.report

    # ---- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take the number of features, the standardisation and the class weights from the training rows."""
        if self.trainer.strategy.root_device.type == "mps":
            raise InputError("this device has no float64, which the sums need; use Trainer(accelerator='cpu')")
        if self.trainer.precision not in ("32-true", "64-true"):
            raise InputError(f"precision {self.trainer.precision} would lose the fit's digits; use 32-true or 64-true")
        data = getattr(self.trainer, "datamodule", None)
        self._served = data.served if isinstance(data, TensorDataModule) else None
        if stage == "fit":
            self._inferred = {}
            self._summarize(data)
            self._from_data = data.description() if isinstance(data, TensorDataModule) else {}
        if isinstance(data, TensorDataModule) and data.val_rows is None:
            # Lightning warns of an empty validation loader; one that is not overridden it leaves alone.
            data.val_dataloader = LightningDataModule.val_dataloader.__get__(data)

    def _summarize(self, data: Any) -> None:
        hparams = self.hparams
        if isinstance(data, TensorDataModule):
            batches, known = [data.train_rows.as_batch()], data.training_as_served
            labels = data.schema.labels
        else:
            self.trainer.fit_loop.setup_data()
            batches, known, labels = cast(Iterable[Sequence[Tensor]], self.trainer.train_dataloader), None, (0, 1)
        self.training_summary = summary = TrainingSummary.of(batches, hparams["class_weight"], labels, known)

        n_features = len(summary.standardization.mean)
        if hparams["in_features"] not in (None, n_features):
            raise InputError(f"in_features is {hparams['in_features']}, but the data have {n_features} features")
        served = self._served or Standardization.identity(n_features)
        standardization = standardization_of(summary.standardization.after(served), hparams)
        if not hasattr(self, "linear_sigmoid"):
            self._build(n_features, standardization)
        else:
            self.linear_sigmoid.mean.copy_(standardization.mean)
            self.linear_sigmoid.scale.copy_(standardization.scale)
        set_initial_coefficients(self.linear_sigmoid, hparams)

    def _build(self, in_features: int, standardization: Standardization | None) -> None:
        self.hparams["in_features"] = in_features  # a checkpoint must say how large a model to build
        self.linear_sigmoid = LinearSigmoid(
            in_features, fit_intercept=self.hparams["fit_intercept"], standardization=standardization
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer that `optimizer` names."""
        hparams = self.hparams
        self._penalty = Penalty.on(
            self.linear_sigmoid.scale, l1=hparams["l1"], l2=hparams["l2"], standardize=hparams["standardize"]
        )
        options = dict(hparams["optimizer_options"] or {})
        if hparams["optimizer"] == EXACT:
            served = self._served or Standardization.identity(hparams["in_features"])
            options |= solver_options(self.linear_sigmoid, self.training_summary, served, self._penalty, hparams)
        return make_optimizer(hparams["optimizer"], self.linear_sigmoid.parameters(), options)

    # ---- training ---------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Let an optimizer that needs the whole objective make one step an epoch."""
        n_batches = int(self.trainer.num_training_batches)
        if self._exact:
            self.trainer.accumulate_grad_batches = n_batches
        elif self._full_batch and n_batches != 1:
            raise InputError(f"{self.hparams['optimizer']} needs all rows in one batch; leave batch_size unset")

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The objective on a batch `(x, y)` or `(x, y, weight)`."""
        x, y, *weight = batch
        v = row_weights(y, weight[0] if weight else None, self.training_summary.class_weights)
        loss = logistic_loss(x, y, *self._served_affine(x), v)
        weight_sum = len(y) if v is None else v.sum(dtype=torch.float64)
        weights = self.linear_sigmoid.linear.weight[0]
        self._add_to_epoch(batch_idx, loss.detach(), weight_sum, self._penalty.total(weights.detach()))
        if self._exact:
            # Lightning divides by the number of batches, and DDP by that of processes: what remains is this
            # batch's true share of the mean. L1 is the solver's own business.
            share = self.trainer.accumulate_grad_batches * self.trainer.world_size / self.training_summary.weight_sum
            return share * loss + self._penalty.smooth(weights)
        objective = loss + weight_sum * self._penalty.total(weights)
        return objective if self.hparams["reduction"] == "sum" else objective / weight_sum

    def _served_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        served = self._served or Standardization.identity(x.shape[1])
        return self.linear_sigmoid.served_affine(served.to(x.device))

    def _add_to_epoch(self, batch_idx: int, loss: Tensor, weight_sum: Tensor | float, penalty: Tensor) -> None:
        if batch_idx == 0:  # also at each further evaluation of a full-batch closure
            self._epoch = torch.zeros(3, dtype=torch.float64, device=loss.device)
        self._epoch[0] += loss
        self._epoch[1] += weight_sum
        self._epoch[2] += weight_sum * penalty

    def _epoch_means(self) -> tuple[Tensor, Tensor]:
        """Mean loss and mean penalty over the rows of the epoch, of all processes."""
        totals = self._epoch
        if self.trainer.world_size > 1:
            totals = cast(Tensor, self.trainer.strategy.reduce(totals.clone(), reduce_op="sum"))
        return totals[0] / totals[1], totals[2] / totals[1]

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step; the exact solver is told the objective over all batches, not only over the last."""
        if not self._exact or optimizer_closure is None:
            optimizer.step(closure=optimizer_closure)  # type: ignore[arg-type]
            return

        def whole_objective() -> Tensor:
            optimizer_closure()
            smooth = self._penalty.smooth(self.linear_sigmoid.linear.weight[0].detach())
            return self._epoch_means()[0] + smooth

        optimizer.step(closure=whole_objective)  # type: ignore[arg-type]

    def on_train_batch_end(self, outputs: Any, batch: Sequence[Tensor], batch_idx: int) -> None:
        """At the end of an epoch: log its loss, and stop at the optimum or where the loss is lost.

        The loss is the one before the update; for SGD and its like, the mean over the batches, each before its
        own update.
        """
        if not self.trainer.is_last_batch:
            return
        if self._exact:
            solver = cast(SubsampledNewton, self.optimizers(use_pl_optimizer=False))
            self.converged = solver.converged
            self.trainer.should_stop |= solver.stopped
            if not solver.stopped and self.current_epoch + 1 == self.trainer.max_epochs:
                solver.restore_best()
        elif self._full_batch:
            self._evaluate_after_step(batch)
        self._fitted_epoch = self.current_epoch
        self._refuse_divergence(self._epoch, self.linear_sigmoid.linear.weight)
        loss, penalty = self._epoch_means()
        scale = self.training_summary.weight_sum if self.hparams["reduction"] == "sum" else 1.0
        self._log({"train/loss": scale * float(loss + penalty)})

    def _refuse_divergence(self, *values: Tensor) -> None:
        if not all(bool(value.isfinite().all()) for value in values):
            raise InputError(
                f"the loss is no longer finite in epoch {self.current_epoch}; lower the learning rate "
                "(optimizer.lr) or use standardized features (model.standardize)"
            )

    def _evaluate_after_step(self, batch: Sequence[Tensor]) -> None:
        """Evaluate the objective where a line search ended; the closure's own evaluations were trial points."""
        self.zero_grad()
        with torch.enable_grad():
            self.training_step(batch, 0).backward()
        gradient = max(float(p.grad.abs().max()) for p in self.parameters() if p.grad is not None)
        if self.hparams["reduction"] == "sum":
            gradient /= self.training_summary.weight_sum
        resolution = 1e-9 if self.trainer.precision == "64-true" else 1e-7
        objective, before = float(sum(self._epoch_means())), self._objective_before
        self._objective_before = objective
        if gradient <= resolution or abs(objective - before) <= 1e-15 * abs(objective):
            self.trainer.should_stop = True
            self.converged = gradient <= 1000 * resolution

    def on_train_end(self) -> None:
        """Say so where the optimum was not reached."""
        if self._exact and not self.converged:
            solver = cast(SubsampledNewton, self.optimizers(use_pl_optimizer=False))
            reason = solver.status or f"the fit ended after {self.current_epoch} passes (trainer.max_epochs)"
            log.warning("not converged: %s", reason)

    # ---- held-out rows ----------------------------------------------------------------------------------

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Add a batch to the held-out metrics."""
        x, y, *weight = batch
        w, b = self._served_affine(x)
        logits = torch.addmv(b.to(x.dtype), x, w.to(x.dtype))
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._refuse_divergence(logits)
        self.held_out.update(logits, y, weight[0] if weight else None)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log val/loss and the metrics."""
        self._log_held_out("val")

    def on_test_epoch_end(self) -> None:
        """Log test/loss and the metrics."""
        self._log_held_out("test")

    def _log_held_out(self, prefix: str) -> None:
        values = {f"{prefix}/{name}": value for name, value in self.held_out.compute().items()}
        self.held_out.reset()
        if not self.trainer.sanity_checking:
            self._log(values)

    def _log(self, values: dict[str, float]) -> None:
        """Hand values to callbacks as Lightning does, and to the loggers with the epoch as their step."""
        # All processes hold the same values already; their mean is what keeps Lightning from warning.
        self.log_dict(
            values,
            on_step=False,
            on_epoch=True,
            logger=False,
            batch_size=1,
            sync_dist=self.trainer.world_size > 1,
        )
        step = self.current_epoch if self.trainer.state.fn == TrainerFn.FITTING else self._fitted_epoch
        for logger in self.loggers:
            logger.log_metrics(values, step=step)

    # ---- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference and a later test need of the data, as plain types."""
        checkpoint.update(self._from_data, **self._inferred, threshold=self.threshold, fitted_epoch=self._fitted_epoch)

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
        """The same from what `read_checkpoint` gives; `name` is what error messages call it."""
        try:
            model = cls(**{**checkpoint.get("hyper_parameters", {}), **settings})
        except (InputError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{os.fsdecode(name)}: its settings fit no logistic regression ({error})") from error
        model._build(len(checkpoint["state_dict"][f"{PREFIX}mean"]), None)
        model.on_load_checkpoint(checkpoint)
        try:
            model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise InputError(f"{os.fsdecode(name)}: its tensors do not fit its settings") from error
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back.

        Raises:
            InputError: if its parts do not fit one another; Lightning's own loader comes by here too.
        """
        check_contents(checkpoint, "the checkpoint")
        self._from_data = {key: checkpoint[key] for key in DESCRIPTION if key in checkpoint}
        self._inferred = {key: checkpoint[key] for key in ("report", "covariance") if key in checkpoint}
        self._fitted_epoch = checkpoint.get("fitted_epoch", 0)
        self.threshold = checkpoint.get("threshold", self.threshold)
        self.held_out = HeldOutMetrics(self.threshold)


def _refuse_out_of_range(hparams: Any) -> None:
    for name in ("l1", "l2"):
        if not 0 <= hparams[name] < float("inf"):
            raise InputError(f"{name} must be a finite number of at least 0, not {hparams[name]}")
    threshold = hparams["threshold"]
    if isinstance(threshold, str):
        threshold_criterion(threshold)
    elif not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, not {threshold}")
    if hparams["reduction"] not in ("mean", "sum"):
        raise InputError(f"reduction must be mean or sum, not {hparams['reduction']}")
