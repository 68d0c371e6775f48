"""Validation of the content of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lr_lightning.data.schema import TableSchema
from lr_lightning.data.splits import HASH, PERMUTATION
from lr_lightning.errors import InputError

PREFIX = "linear_sigmoid."
_SHAPES = {"mean": "(d,)", "scale": "(d,)", "linear.weight": "(1, d)", "linear.bias": "(1,)"}


def check_contents(checkpoint: Any, name: str) -> None:
    """Check that a checkpoint is one of a logistic regression, and that its parts agree.

    Args:
        checkpoint: plain values and tensors, as `load_archive` returns them.
        name: the name of the checkpoint in messages.

    Raises:
        InputError: for the first part that is invalid.
    """
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{name}: is not a checkpoint of a logistic regression")
    try:
        state = model_state(checkpoint)
        n_features = state["linear.weight"].shape[1]
        _check_schema(checkpoint.get("schema"), n_features)
        _check_hyperparameters(checkpoint.get("hyper_parameters", {}), state)
        _check_prediction(checkpoint, n_features)
        _check_covariance(checkpoint.get("covariance"), state)
        _check_data(checkpoint.get("data"))
        if not isinstance(checkpoint.get("rows_fingerprint"), str | None):
            raise InputError("its rows_fingerprint is not a text")
        if checkpoint.get("split_rule") not in (None, PERMUTATION, HASH):
            raise InputError(f"its split_rule is {checkpoint['split_rule']!r}, not {PERMUTATION} or {HASH}")
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a `LinearSigmoid`, detached: `mean`, `scale`, `linear.weight` and, with an intercept, `linear.bias`.

    Raises:
        InputError: if a tensor is missing or unknown, or has a wrong shape, dtype or value.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping) or f"{PREFIX}linear.weight" not in state:
        raise InputError("is not a checkpoint of a logistic regression")
    # A plain dict, without the version metadata that torch attaches to a state_dict.
    state = {str(key): value for key, value in state.items()}
    names = {key.removeprefix(PREFIX) for key in state if key.startswith(PREFIX)}
    if len(names) < len(state) or not {"mean", "scale", "linear.weight"} <= names <= set(_SHAPES):
        raise InputError(f"its tensors do not fit a logistic regression: they are {', '.join(state)[:500]}")
    tensors = {key.removeprefix(PREFIX): value for key, value in state.items()}
    weight = tensors["linear.weight"]
    d = weight.shape[-1] if isinstance(weight, Tensor) and weight.ndim else 0
    shapes = {"mean": (d,), "scale": (d,), "linear.weight": (1, d), "linear.bias": (1,)}
    for key in sorted(tensors):  # linear.weight, which determines d, is checked before mean and scale
        _check_tensor(key, tensors[key], shapes[key], _SHAPES[key])
    if bool((tensors["scale"] <= 0).any()):
        raise InputError("its scales are not all positive")
    return {key: value.detach().cpu() for key, value in tensors.items()}


def _check_tensor(name: str, value: Any, shape: tuple[int, ...], spelled: str) -> None:
    dtypes = (torch.float64, torch.float32)  # float32 if the model was cast before it was saved
    if not isinstance(value, Tensor) or value.dtype not in dtypes or value.shape != shape:
        found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"its {name} is {found}, not float64 of shape {shape}, {spelled}")
    infinity_is_fine = name.rpartition(".")[2] == "scale"  # an infinite scale removes a feature from the model
    if bool(value.isnan().any()) or not (infinity_is_fine or bool(value.isfinite().all())):
        raise InputError(f"its {name} holds values that are not finite")


def _check_schema(schema: Any, n_features: int) -> None:
    if schema is None:
        return
    found = len(TableSchema.from_dict(schema).feature_names)
    if found != n_features:
        raise InputError(f"its schema has {found} features, its model {n_features}")


def _check_hyperparameters(hparams: Any, state: Mapping[str, Tensor]) -> None:
    if not isinstance(hparams, Mapping) or not all(isinstance(key, str) for key in hparams):
        raise InputError("its settings (hyper_parameters) are no names with values")
    actual = {"in_features": state["linear.weight"].shape[1], "fit_intercept": "linear.bias" in state}
    for name, value in actual.items():
        if name in hparams and (type(hparams[name]), hparams[name]) != (type(value), value):
            raise InputError(f"its settings say {name} {hparams[name]!r}, its tensors {value}")


def _check_prediction(checkpoint: Mapping[str, Any], n_features: int) -> None:
    threshold, epoch = checkpoint.get("threshold", 0.5), checkpoint.get("fitted_epoch", 0)
    if not _is_number(threshold) or not 0 < threshold < 1:
        raise InputError(f"its threshold is {threshold!r}, not a number between 0 and 1")
    if type(epoch) is not int or epoch < 0:
        raise InputError(f"its last epoch is {epoch!r}")
    if type(checkpoint.get("needs_offset", False)) is not bool:
        raise InputError(f"needs_offset is {checkpoint['needs_offset']!r}, neither true nor false")
    rows = checkpoint.get("prediction_input")
    if rows is not None and not (isinstance(rows, list) and all(_is_row(row, n_features) for row in rows)):
        raise InputError(f"its prediction input is not rows of {n_features} finite numbers")
    curve = checkpoint.get("curve")
    kinds = {"low": _is_number, "high": _is_number, "x_label": _is_text, "y_label": _is_text}
    if curve is not None and not (
        isinstance(curve, Mapping) and set(curve) == set(kinds) and all(fits(curve[key]) for key, fits in kinds.items())
    ):
        raise InputError("its probability curve has not two ends and two labels")


def _check_covariance(covariance: Any, state: Mapping[str, Tensor]) -> None:
    if covariance is None:
        return
    if not isinstance(covariance, Mapping) or set(covariance) != {"mean", "scale", "factor"}:
        raise InputError("its covariance is not a mean, a scale and a factor")
    d, factor = len(state["mean"]), covariance["factor"]
    rank = factor.shape[1] if isinstance(factor, Tensor) and factor.ndim == 2 else 0
    _check_tensor("covariance.mean", covariance["mean"], (d,), "(d,)")
    _check_tensor("covariance.scale", covariance["scale"], (d,), "(d,)")
    _check_tensor("covariance.factor", factor, (d + ("linear.bias" in state), rank), "(parameters, r)")


def _check_data(data: Any) -> None:
    if data is None:
        return
    if not isinstance(data, Mapping) or not {"class_path"} <= set(data) <= {"class_path", "init_args"}:
        raise InputError("its data settings are not a class and its arguments")
    arguments = data.get("init_args", {})
    names_are_text = isinstance(arguments, Mapping) and all(isinstance(key, str) for key in arguments)
    if not _is_text(data["class_path"]) or not names_are_text:
        raise InputError("its data settings are not a class and its arguments")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_row(row: Any, n_features: int) -> bool:
    return isinstance(row, list) and len(row) == n_features and all(map(_is_number, row))
