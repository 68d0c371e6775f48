"""Settings, Trainers and callbacks that a fit refuses, each in one line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from lr_lightning.errors import InputError
from lr_lightning.statistics.held_out import MEASURES, threshold_criterion
from lr_lightning.training.optimizers import EXACT, is_full_batch


def refuse_out_of_range(
    *, l1: float, l2: float, threshold: float | str, reduction: str, penalty_factors: Mapping[str, float] | None
) -> None:
    """Raise InputError for an argument of the module that cannot be used."""
    for name, strength in (("l1", l1), ("l2", l2)):
        if not 0 <= strength < float("inf"):
            raise InputError(f"{name} must be a finite number of at least 0, not {strength}")
    if isinstance(threshold, str):
        threshold_criterion(threshold)
    elif not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, not {threshold}")
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction must be mean or sum, not {reduction}")
    for name, factor in (penalty_factors or {}).items():
        if not 0 <= factor < float("inf"):
            raise InputError(f"penalty_factors: that of {name} must be a finite number of at least 0, not {factor}")


def refuse_unfit_objective(
    optimizer: str, *, firth: Any, bounds: Any, class_weight: Any, penalty_factors: Mapping[str, float] | None
) -> None:
    """Raise InputError for Firth's penalty or bounds with what they cannot be combined with."""
    for name, value in (("firth", firth), ("bounds", bounds)):
        if value and optimizer != EXACT:
            raise InputError(f"{name} needs the exact solver, not {optimizer}; leave the optimizer out")
    if firth and bounds:
        raise InputError("firth and bounds exclude each other; leave one out")
    if firth and class_weight is not None:
        raise InputError("firth and class_weight exclude each other: Firth's penalty takes weights for numbers of rows")
    if firth and penalty_factors:
        raise InputError(
            "firth and penalty_factors exclude each other: Firth's penalty has no factors of single columns"
        )


def refuse_rule_without_rows(rule: str | None) -> None:
    """Raise InputError if there is a threshold's rule, which takes validation rows that were not kept back."""
    if rule is not None:
        raise InputError(f"model.threshold {rule} is chosen on validation rows; set data.val_fraction above 0")


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


def refuse_unfit_batches(trainer: Trainer, optimizer: str) -> None:
    """Raise, already before the epochs, what Lightning and `refuse_partial_passes` have against limits of the batches.

    Lightning keeps the loaders that it makes for this, and makes no others when the epochs begin.
    """
    trainer.fit_loop.setup_data()
    refuse_partial_passes(trainer, optimizer)
    trainer.fit_loop.epoch_loop.val_loop.setup_data()


def refuse_unfit_callbacks(trainer: Trainer, optimizer: str) -> None:
    """Raise InputError for a callback that watches what is not measured, or changes what must not change."""
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    measured = ["train/loss", *(f"val/{name}" for name in MEASURES if trainer.enable_validation)]
    # A class of somebody else may measure more, and so does a monitor of the learning rate.
    known = all(type(part).__module__.startswith(_KNOWN) for part in (trainer.lightning_module, *callbacks))
    known &= not any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
    for callback in callbacks:
        name, monitor = type(callback).__name__, getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val/") and not trainer.enable_validation:
            raise InputError(
                f"{name} watches {monitor}, but no validation rows are measured; keep some back "
                "(data.val_fraction), or let it watch train/loss"
            )
        watched = [*measured, "epoch", "step"] if isinstance(callback, ModelCheckpoint) else measured
        if isinstance(monitor, str) and monitor not in watched and known and getattr(callback, "strict", True):
            raise InputError(f"{name} watches {monitor}, which is not measured; it can watch {', '.join(watched)}")
        if isinstance(callback, BatchSizeFinder):
            raise InputError(f"{name}: the rows of a fit are the same from its beginning; choose data.batch_size")
        if optimizer == EXACT and isinstance(callback, LearningRateFinder | LearningRateMonitor):
            raise InputError(f"{name}: {optimizer} has no learning rate; leave it out")
        if is_full_batch(optimizer) and isinstance(callback, _CHANGING_COEFFICIENTS):
            raise InputError(f"{name} would change the coefficients that {optimizer} finds; leave it out")


_KNOWN = ("lightning.", "lr_lightning.")
_CHANGING_COEFFICIENTS = (ModelPruning, StochasticWeightAveraging, WeightAveraging)
