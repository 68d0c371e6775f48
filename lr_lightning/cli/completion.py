"""`lr-lightning completion`: a script for the shell, which then completes by itself and never starts Python."""

from __future__ import annotations

from argparse import ArgumentParser as PlainParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from lr_lightning.cli.parse import parse
from lr_lightning.errors import InputError

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("--ckpt_path", "--output", "--data.path", "--data.cache_dir")
NUMBERS = ("--optimizer.lr",)  # may also be a tensor, whose attributes nobody types


def run(arguments: Sequence[str]) -> None:
    """Print the script.

    Raises:
        InputError: if shtab, which writes it, is not installed.
    """
    shell = parse(make_parser(), arguments).shell
    try:
        import shtab
    except ImportError as error:
        raise InputError("completion needs shtab: pip install 'lr-lightning[completion]'") from error
    from lr_lightning.cli.main import COMMANDS

    parser = ArgumentParser(prog="lr-lightning", description="Binary logistic regression with PyTorch Lightning.")
    parser.add_argument("--version", action="store_true", help="say the version")
    commands = parser.add_subcommands(required=False)
    for name, text in COMMANDS.items():
        of_command = import_module(f"lr_lightning.cli.{name}").make_parser()
        _complete_by_hand(of_command, shtab.FILE)
        commands.add_subcommand(name, of_command, help=text)
    print(parser.get_completion_script(f"shtab-{shell}"))


def make_parser() -> ArgumentParser:
    """The options of `completion`."""
    parser = ArgumentParser(
        prog="lr-lightning completion",
        description="Print a script that completes commands, options and their values in the shell.",
        exit_on_error=False,
    )
    parser.add_argument("shell", choices=SHELLS, help="where it is to run")
    return parser


def _complete_by_hand(parser: ArgumentParser, file: Any) -> None:
    """Settle the options for which jsonargparse knows less than we do.

    It finds the arguments of the classes that --data and --optimizer may name while it writes the script, and
    passes over those that are there already.
    """
    from lr_lightning.data.schema import MISSING_RULES, UNSEEN_RULES  # imports torch

    known = parser._option_string_actions
    for option in FILES:
        if option in known or (option.startswith("--data.") and "--data" in known):
            action = known.get(option) or PlainParser.add_argument(parser, option)
            action.complete = file  # type: ignore[attr-defined]
    if "--data" in known:
        PlainParser.add_argument(parser, "--data.missing", choices=MISSING_RULES)
        PlainParser.add_argument(parser, "--data.unseen", choices=UNSEEN_RULES)
    for option in NUMBERS:
        if "--optimizer" in known:
            PlainParser.add_argument(parser, option)
