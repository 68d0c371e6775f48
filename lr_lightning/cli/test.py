"""`lr-lightning test`: the test rows of the fit (else its validation rows), or every row of `--data.path`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lr_lightning.cli import evaluate


def run(arguments: Sequence[str]) -> None:
    """Print the metrics, and add them to the run folder."""
    evaluate.evaluate("test", arguments)


def make_parser() -> ArgumentParser:
    """The options of `test`."""
    return evaluate.make_parser("test")
