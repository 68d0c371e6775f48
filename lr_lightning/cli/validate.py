"""`lr-lightning validate`: the validation rows of the fit, or every row of `--data.path`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lr_lightning.cli import evaluate


def run(arguments: Sequence[str]) -> None:
    """Print the metrics."""
    evaluate.evaluate("validate", arguments)


def make_parser() -> ArgumentParser:
    """The options of `validate`."""
    return evaluate.make_parser("validate")
