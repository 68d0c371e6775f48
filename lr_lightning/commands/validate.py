"""`lr-lightning validate`: the validation rows of the fit, or every row of `--data.path`."""

from __future__ import annotations

from collections.abc import Sequence

from lr_lightning.commands.evaluate import evaluate


def run(arguments: Sequence[str]) -> None:
    """Print the metrics, and add them to the run folder."""
    evaluate("validate", arguments)
