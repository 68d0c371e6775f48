"""`lr-lightning report`: needs neither Lightning nor the data."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lr_lightning.cli.parse import parse, refuse_impossible_level
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import load
from lr_lightning.statistics.render import as_csv, as_json, as_text, effects_as_csv


def run(arguments: Sequence[str]) -> None:
    """Print the report of a fit to stdout."""
    options = parse(make_parser(), arguments)
    report = load(options.ckpt_path).report()
    if options.level is not None:
        refuse_impossible_level(options.level)
        report = report.at_level(options.level)
    if options.effects and options.format != "json" and report.average_marginal_effects is None:
        raise InputError("the checkpoint has no average marginal effects; fit again to have them")
    if options.format == "json":
        print(as_json(report))
    elif options.format == "csv":
        print(effects_as_csv(report) if options.effects else as_csv(report), end="")
    else:
        print(as_text(report, most=30 if report.is_wide else None, effects=options.effects).rstrip())


def make_parser() -> ArgumentParser:
    """The options of `report`."""
    parser = ArgumentParser(
        prog="lr-lightning report",
        description="Print the report of a fit: coefficients, standard errors, likelihoods, warnings.",
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", type=str, required=True, help="the checkpoint of a finished fit")
    parser.add_argument("--format", choices=["text", "json", "csv"], default="text", help="how to print it")
    parser.add_argument(
        "--effects",
        action="store_true",
        help="the average marginal effects, below the coefficients; with csv alone (json has them always)",
    )
    parser.add_argument("--level", type=float | None, help="of the confidence intervals (default: as at the fit)")
    return parser
