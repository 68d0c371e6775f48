"""Going on with a fit: what of a checkpoint has to agree with the settings and the rows that it goes on with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer

from lr_lightning.checkpoint.former_names import public_path
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.splits import PERMUTATION
from lr_lightning.errors import InputError
from lr_lightning.model.standardization import Standardization
from lr_lightning.training.data_modules import TensorDataModule
from lr_lightning.training.optimizers import EXACT, LBFGS_DEFAULTS, optimizer_class

FREE = {"path", "cache_dir"}  # of the data: where they lie; that they are the same is seen by their content
ROUNDING = 1e-6  # of means and scales, in scales: another machine may sum in another order


def fit_settings(trainer: Trainer) -> dict[str, Any]:
    """The Trainer's settings that decide which steps a fit makes, as plain values."""
    return {
        "precision": str(trainer.precision),
        "limit_train_batches": trainer.limit_train_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
    }


def epochs_done(checkpoint: Mapping[str, Any]) -> int:
    """Number of epochs that a checkpoint's fit has done.

    Raises:
        InputError: if it is one for inference only.
    """
    try:
        done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except (KeyError, TypeError):
        done = None
    if not isinstance(done, int) or done < 0 or not checkpoint.get("optimizer_states"):
        raise InputError("the checkpoint holds no state of a fit, so that none can go on from it")
    return done


def split_rule_of(checkpoint: Mapping[str, Any]) -> str:
    """Rule that drew the rows of a checkpoint's fit, see `data.splits`; earlier versions had only one rule."""
    return checkpoint.get("split_rule") or PERMUTATION


def refuse_other_settings(
    name: str,
    checkpoint: Mapping[str, Any],
    module_class: type,
    hparams: Mapping[str, Any],
    data: object,
    trainer: Trainer,
) -> None:
    """Raise InputError, naming the option and both values, unless a fit would go on with the settings it began with.

    A setting that the checkpoint of an earlier version lacks counts as the constructor's default.

    Args:
        name: of the checkpoint, for the message.
        checkpoint: its content.
        module_class: of the module that is to go on from it.
        hparams: of the module that is to go on from it.
        data: the rows for it.
        trainer: that will fit.
    """
    theirs = defaults_of(module_class) | checkpoint.get("hyper_parameters", {})
    refuse_differences(name, "model", *map(_model_settings, (theirs, hparams)))
    refuse_differences(name, "optimizer", *map(_optimizer_settings, (theirs, hparams)))
    progress = checkpoint.get("progress", {})
    of_trainer = {key: value for key, value in fit_settings(trainer).items() if key in progress}
    refuse_differences(name, "trainer", progress, of_trainer)
    if isinstance(data, TensorDataModule) and checkpoint.get("data"):
        theirs, ours = (
            {"": public_path(settings["class_path"]), **defaults_of(type(data)), **settings["init_args"]}
            for settings in (checkpoint["data"], data.settings())
        )
        refuse_differences(name, "data", theirs, ours)


def refuse_other_rows(
    name: str, checkpoint: Mapping[str, Any], standardization: Standardization, data: TensorDataModule
) -> None:
    """Raise InputError unless the training rows are those that the checkpoint was fitted to.

    They are compared by their columns, their labels' checksum, and their means and scales.

    Args:
        name: of the checkpoint, for the message.
        checkpoint: its content.
        standardization: of the module that is to go on from it.
        data: the rows for it.
    """
    stored = checkpoint.get("schema")
    # What an older version did not write counts as the default.
    theirs = _comparable(TableSchema.from_dict(stored).to_dict() if stored else {})
    ours = _comparable(data.schema.to_dict())
    for key, value in ours.items():
        if key != "spelling" and theirs.get(key) != value:  # labels are compared as values
            _refuse(name, f"data ({key})", *_difference(theirs.get(key), value))
    mean, scale = (checkpoint["state_dict"][f"linear_sigmoid.{part}"] for part in ("mean", "scale"))
    our_mean, our_scale = standardization.to("cpu")
    unit = torch.where(our_scale.isfinite(), our_scale, 0.0)
    same = checkpoint.get("fingerprint") == data.fingerprint and scale.shape == unit.shape
    same = same and torch.allclose(scale, our_scale, rtol=ROUNDING, atol=0)
    if not same or not bool(((mean - our_mean).abs() <= ROUNDING * (unit + ROUNDING * mean.abs())).all()):
        raise InputError(f"option data: the training rows are not those of {name}; a fit goes on as it began")


def _comparable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what follows from the rows."""
    return {**schema, "columns": [{**column, "binary": None} for column in schema.get("columns", ())]}


def _model_settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    elsewhere = ("optimizer", "optimizer_options", "in_features")
    return {key: value for key, value in hparams.items() if key not in elsewhere}


def defaults_of(cls: type) -> dict[str, Any]:
    """The arguments of a constructor that have defaults."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _optimizer_settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments, those that were left out with their defaults."""
    name = hparams.get("optimizer", EXACT)
    return {
        "": name,
        **defaults_of(optimizer_class(name)),
        **(LBFGS_DEFAULTS if name == "LBFGS" else {}),
        **(hparams["optimizer_options"] or {}),
    }


def refuse_differences(name: str, part: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise InputError where a setting of some part contradicts that of the checkpoint of some name."""
    for key in ours:
        if key not in FREE and not _equal(theirs.get(key), ours[key]):
            _refuse(name, f"{part}.{key}".rstrip("."), theirs.get(key), ours[key])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):  # YAML knows no tuples
        return list(a) == list(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {str(key): value for key, value in a.items()} == {str(key): value for key, value in b.items()}
    if isinstance(a, str) != isinstance(b, str) and None not in (a, b):  # a label that a file held, as number or text
        return str(a) == str(b)
    return a == b


def _refuse(name: str, option: str, theirs: Any, ours: Any) -> None:
    raise InputError(
        f"option {option}: {_shown(ours)} contradicts {_shown(theirs)} of {name}; a fit goes on as it began"
    )


def _shown(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _difference(a: Any, b: Any) -> tuple[Any, Any]:
    """The first difference of two lists of columns, or the two values themselves."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((x, y) for x, y in zip(a, b, strict=True) if x != y)
    return a, b
