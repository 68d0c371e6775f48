"""`lr-lightning compare`: needs neither Lightning nor the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from lr_lightning.checkpoint.archive import load_archive
from lr_lightning.cli.parse import parse
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import Predictor
from lr_lightning.statistics.comparison import Comparison, Model


def run(arguments: Sequence[str]) -> None:
    """Print fits of the same rows side by side to stdout."""
    options = parse(make_parser(), arguments)
    names = list(options.checkpoints)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice; compare takes different checkpoints")
    comparison = Comparison(tuple(_model(name) for name in names))
    if options.format == "json":
        print(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    elif options.format == "csv":
        print(comparison.as_csv(), end="")
    else:
        print(comparison.as_text(), end="")


def make_parser() -> ArgumentParser:
    """The options of `compare`."""
    parser = ArgumentParser(
        prog="lr-lightning compare",
        description="Print fits of the same rows side by side, and test those of which one is nested in another.",
        exit_on_error=False,
    )
    parser.add_argument("checkpoints", type=str, nargs="+", help="two checkpoints of finished fits, or more")
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text", help="how to print them")
    return parser


def _model(name: str) -> Model:
    contents = load_archive(name)
    predictor = Predictor.from_checkpoint(contents, name)
    try:
        report = predictor.report()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    settings: Mapping[str, Any] = contents.get("hyper_parameters", {})
    kept_back = any(settings.get(key) for key in ("l1", "l2", "bounds"))
    return Model(name, report, contents.get("rows_fingerprint"), kept_back, settings.get("class_weight"))
