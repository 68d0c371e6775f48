"""The Lightning face of the model: its settings, predictions, report, set-up, and what goes into a checkpoint."""

from __future__ import annotations

import inspect
import os
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import Self

from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.checkpoint.validate import PREFIX, check_contents
from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.model.threads import serial_operations
from lr_lightning.serving.predictor import Predictor
from lr_lightning.statistics.report import Report
from lr_lightning.statistics.wald import CovarianceType
from lr_lightning.training.callbacks.housekeeping import Housekeeping
from lr_lightning.training.epoch import LineSearchEnd
from lr_lightning.training.metrics import HeldOutRows
from lr_lightning.training.optimizers import EXACT, make_optimizer, refuse_unknown
from lr_lightning.training.results import infer, with_held_out
from lr_lightning.training.resume import fit_settings, refuse_other_rows, refuse_other_settings
from lr_lightning.training.start import (
    refuse_out_of_range,
    refuse_unfit_callbacks,
    refuse_unfit_trainer,
    set_initial_coefficients,
    solver_options,
    standardization_of,
    summarize,
)
from lr_lightning.training.steps import LogisticSteps
from lr_lightning.training.tensors import DESCRIPTION, TensorDataModule


class LogisticRegression(LogisticSteps):
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

    Attributes:
        converged: whether the fit reached the optimum.
        threshold: the number in use; one that is chosen on the validation rows is known after the fit.

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
        optimizer: str = EXACT,
        optimizer_options: dict[str, Any] | None = None,
    ):
        # A threshold that is yet to be chosen stands at 0.5 until the end of the fit.
        super().__init__(optimizer, 0.5 if isinstance(threshold, str) else threshold)
        # Left to find the frame, Lightning makes a cycle of it: the caller's variables would outlive the call.
        self.save_hyperparameters(frame=inspect.currentframe())
        refuse_out_of_range(self.hparams)
        refuse_unknown(optimizer, l1)
        self._inferred: dict[str, Any] = {}  # report and covariance, once they have been asked for
        self._from_data: dict[str, Any] = {}  # what the checkpoint says of the data
        # The processes have the same means and scales from the start; DDP would send them before every pass.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            self, ["linear_sigmoid.mean", "linear_sigmoid.scale"]
        )
        if in_features is not None:
            self._build(in_features, None)

    # ---- prediction -------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, shape (n,), of raw features x, shape (n, d), at the Trainer's precision."""
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """The linear predictor, shape (n,), of raw features x, shape (n, d), at the Trainer's precision."""
        return self.linear_sigmoid.logits(x).to(self.dtype)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities, shape (n,), of raw features (n, d), or of the first tensor of a batch."""
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
        data = self._data_module
        if not isinstance(data, TensorDataModule) or not hasattr(self, "training_summary"):
            raise InputError("a report needs a fit to a TensorDataModule or TableDataModule")
        with serial_operations():  # the same digits, however many threads a process has
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
        """Take the number of features, the standardisation and the class weights from the training rows.

        Raises:
            InputError: if the device or precision would lose digits, or the data have another number of features.
        """
        self._housekeeping = Housekeeping(self.trainer, self._end_of_epoch, self._end_of_fit)
        refuse_unfit_trainer(self.trainer)
        self._held_out, self._said_partial = HeldOutRows(), False
        data = self._data_module
        self._served = data.served if isinstance(data, TensorDataModule) else None
        if stage == "fit":
            self._inferred, self.converged, self.saw_all_rows, self._stop_after_pass = {}, False, False, False
            self._line_search_end = LineSearchEnd()
            with serial_operations():
                self._summarize(data)
            self._from_data = data.description() if isinstance(data, TensorDataModule) else {}
        if isinstance(data, TensorDataModule) and data.val_rows is None:
            # Lightning warns of an empty validation loader; one that is not overridden it leaves alone.
            self._housekeeping.borrow(data, "val_dataloader", LightningDataModule.val_dataloader.__get__(data))
        if stage == "fit":
            refuse_unfit_callbacks(self.trainer, self.hparams["optimizer"])

    def _summarize(self, data: Any) -> None:
        hparams = self.hparams
        self.training_summary = summary = summarize(self.trainer, data, hparams["class_weight"])
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
        with serial_operations(hparams["in_features"]):
            if hparams["optimizer"] == EXACT:
                served = self._served or Standardization.identity(hparams["in_features"])
                options |= solver_options(self.linear_sigmoid, self.training_summary, served, self._penalty, hparams)
            return make_optimizer(hparams["optimizer"], self.linear_sigmoid.parameters(), options)

    # ---- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference and a later test need of the data, as plain types."""
        checkpoint.update(self._from_data, **self._inferred, threshold=self.threshold, fitted_epoch=self._fitted_epoch)
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
        """The same from what `read_checkpoint` gives; `name` is what error messages call it."""
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
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            name, data = str(self.trainer.ckpt_path), self._data_module
            refuse_other_settings(name, checkpoint, self, data, self.trainer)
            if isinstance(data, TensorDataModule):
                refuse_other_rows(name, checkpoint, self, data)
            progress = checkpoint.get("progress", {})
            self._line_search_end.objective = progress.get("objective", float("inf"))
            self.saw_all_rows = progress.get("saw_all_rows", True)
            self._fitted_epoch = checkpoint.get("fitted_epoch", 0)
            return
        self._from_data = {key: checkpoint[key] for key in DESCRIPTION if key in checkpoint}
        self._inferred = {key: checkpoint[key] for key in ("report", "covariance") if key in checkpoint}
        self._fitted_epoch = checkpoint.get("fitted_epoch", 0)
        self.threshold = checkpoint.get("threshold", self.threshold)
