"""`lr-lightning report`: needs neither Lightning nor the data."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lr_lightning.cli.parse import parse, refuse_impossible_level
from lr_lightning.serving.predictor import load
from lr_lightning.statistics.render import as_csv, as_text


def run(arguments: Sequence[str]) -> None:
    """Print the report of a fit to stdout."""
    options = parse(make_parser(), arguments)
    report = load(options.ckpt_path).report()
    if options.level is not None:
        refuse_impossible_level(options.level)
        report = report.at_level(options.level)
    if options.format == "json":
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    elif options.format == "csv":
        print(as_csv(report), end="")
    else:
        print(as_text(report, most=None).rstrip())


def make_parser() -> ArgumentParser:
    """The options of `report`."""
    parser = ArgumentParser(
        prog="lr-lightning report",
        description="Print the report of a fit: coefficients, standard errors, likelihoods, warnings.",
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", type=str, required=True, help="the checkpoint of a finished fit")
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text", help="how to print it")
    parser.add_argument("--level", type=float | None, help="of the confidence intervals (default: as at the fit)")
    return parser
