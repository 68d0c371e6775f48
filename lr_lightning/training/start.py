"""What a fit starts from: what it refuses, the standardisation, the initial coefficients, the solver's options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateMonitor,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.solver import draw_sample, sample_size
from lr_lightning.training.optimizers import EXACT, is_full_batch
from lr_lightning.training.results import threshold_criterion
from lr_lightning.training.tensors import TensorDataModule
from lr_lightning.training.training_summary import TrainingSummary, random_rows, row_weights


def refuse_out_of_range(hparams: Mapping[str, Any]) -> None:
    """Raise InputError for a hyperparameter of the module that cannot be used."""
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


def refuse_unfit_trainer(trainer: Trainer) -> None:
    """Raise InputError for a device or a precision that would cost digits."""
    if trainer.strategy.root_device.type == "mps":
        raise InputError("this device has no float64, which the sums need; use Trainer(accelerator='cpu')")
    refuse_imprecise(trainer.precision)


def refuse_imprecise(precision: str | int | None) -> None:
    """Raise InputError for a precision that would cost digits, under any of Lightning's names for it; None is 32."""
    if precision not in (None, 32, 64, "32", "64", "32-true", "64-true"):
        raise InputError(f"precision {precision} would lose the fit's digits; use 32-true or 64-true")


def refuse_partial_passes(trainer: Trainer, optimizer: str) -> None:
    """Raise InputError where an optimizer that needs all rows would be given a part of them in each pass."""
    if trainer.gradient_clip_val:
        raise InputError(
            f"option trainer.gradient_clip_val: {optimizer} needs the gradient as it is; leave it out, or choose "
            "an optimizer that takes small steps (SGD, Adam, …)"
        )
    loader, read = trainer.train_dataloader, trainer.num_training_batches
    n_batches = sized_len(loader)
    if read < n_batches if n_batches is not None else read != float("inf"):
        option = next((name for name in ("fast_dev_run", "overfit_batches") if getattr(trainer, name)), None)
        raise InputError(
            f"option trainer.{option or 'limit_train_batches'}: a pass would read no more than {read} of "
            f"{n_batches or 'the'} batches, and {optimizer} needs all rows; leave it out, or choose an optimizer that "
            "takes steps on part of the rows (SGD, Adam, …)"
        )
    batches: Any = getattr(loader, "batch_sampler", None)  # as torch's own DataLoader has them
    sampler = getattr(batches, "sampler", None)
    drops = getattr(batches, "drop_last", False) and (n_batches is None or len(sampler) % batches.batch_size)  # type: ignore[arg-type]
    if drops or getattr(sampler, "replacement", False):
        raise InputError(
            f"{optimizer} needs the same rows in every pass, all of them: a training loader without drop_last, and "
            "without a sampler that draws with replacement"
        )


def refuse_unfit_callbacks(trainer: Trainer, optimizer: str) -> None:
    """Raise InputError for a callback that watches what is not measured, or changes what must not change."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        name, monitor = type(callback).__name__, getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val/") and not trainer.enable_validation:
            raise InputError(
                f"{name} watches {monitor}, but no validation rows are measured; keep some back "
                "(data.val_fraction), or let it watch train/loss"
            )
        if isinstance(callback, BatchSizeFinder):
            raise InputError(f"{name}: the rows of a fit are the same from its beginning; choose data.batch_size")
        if optimizer == EXACT and isinstance(callback, LearningRateMonitor):
            raise InputError(f"{name}: {optimizer} has no learning rate; leave it out")
        if is_full_batch(optimizer) and isinstance(callback, _CHANGING_COEFFICIENTS):
            raise InputError(f"{name} would change the coefficients that {optimizer} finds; leave it out")


_CHANGING_COEFFICIENTS = (ModelPruning, StochasticWeightAveraging, WeightAveraging)


def summarize(trainer: Trainer, data: Any, class_weight: str | Mapping[Any, float] | None) -> TrainingSummary:
    """Statistics of the training rows of a data module of this package, or of the Trainer's loader.

    Every process takes them from all rows, so that all of them begin alike.

    Raises:
        InputError: if several processes would each know its own rows of a loader only.
    """
    if isinstance(data, TensorDataModule):
        rows = [data.train_rows.as_batch()]
        split = data.val_rows is not None or data.test_rows is not None
        return TrainingSummary.of(
            rows, class_weight, data.schema.written_labels, data.training_as_served, data.weight_scale, split=split
        )
    if trainer.world_size > 1:
        raise InputError(
            "several processes need a TensorDataModule or a TableDataModule: Lightning would serve some rows of a "
            "DataLoader twice to give each process as many"
        )
    trainer.fit_loop.setup_data()
    return TrainingSummary.of(cast(Iterable[Sequence[Tensor]], trainer.train_dataloader), class_weight, (0, 1))


def standardization_of(training: Standardization, hparams: Mapping[str, Any]) -> Standardization:
    """The map in front of the linear layer, from the statistics of the training rows.

    Optimizers that run to convergence need a well-conditioned problem, whatever the penalty is on; the others
    see the raw features where `standardize` is False.
    """
    standardization = training.before_weights(fit_intercept=hparams["fit_intercept"])
    if hparams["standardize"] or is_full_batch(hparams["optimizer"]):
        return standardization
    mean, scale = standardization
    return Standardization(torch.zeros_like(mean), torch.where(scale.isinf(), torch.inf, 1.0).to(scale.dtype))


def set_initial_coefficients(model: LinearSigmoid, hparams: Mapping[str, Any]) -> None:
    """Put `initial_weight` and `initial_bias`, on the original feature scale, into the model.

    Raises:
        InputError: if they do not fit it.
    """
    weight, bias, n_features = hparams["initial_weight"], hparams["initial_bias"], hparams["in_features"]
    if weight is None and bias is None:
        return
    if bias and not hparams["fit_intercept"]:
        raise InputError("initial_bias is given, but fit_intercept is false")
    start = torch.as_tensor(0.0 if weight is None else weight, dtype=torch.float64)
    if start.ndim and len(start) != n_features:
        raise InputError(f"initial_weight has {len(start)} entries, but the data have {n_features} features")
    model.set_coefficients(start.expand(n_features), bias or 0.0)


def solver_options(
    model: LinearSigmoid,
    training: TrainingSummary,
    served: Standardization,
    penalty: Penalty,
    hparams: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of `SubsampledNewton` that come from the problem: penalties, and a random sample of the rows."""
    served = served.to(model.mean.device)
    size = sample_size(training.n_rows, hparams["in_features"])
    x, y, *weight = random_rows(training.batches, size, training.n_rows)
    sample: tuple[Tensor, Tensor, Tensor | None] = draw_sample(
        x,
        y,
        row_weights(y, weight[0] if weight else None, training.class_weights),
        center=(model.mean - served.mean) / served.scale,
        scale=model.scale / served.scale,
        size=size,
    )
    return {
        "sample": sample,
        "l1": penalty.l1,
        "l2": penalty.l2,
        "warm_start": hparams["initial_weight"] is not None or hparams["initial_bias"] is not None,
        "n_rows": training.n_rows,
    }
