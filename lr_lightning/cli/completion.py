"""`lr-lightning completion`: a script for the shell, which then completes by itself and never starts Python."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentParser

from lr_lightning.cli.jsonargparse_internals import options
from lr_lightning.cli.parse import parse
from lr_lightning.errors import InputError

SHELLS = ("bash", "zsh", "tcsh")
FILES = ("--ckpt_path", "--output", "--data.path", "--data.cache_dir")  # whose types do not tell


def run(arguments: Sequence[str]) -> None:
    """Print the script.

    Raises:
        InputError: if shtab, with which jsonargparse writes it, is not installed.
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
        known = options(of_command)
        for option in FILES:
            # jsonargparse adds the arguments of the classes that --data may name, but for those that are there.
            if option in known or (option.startswith("--data.") and "--data" in known):
                action = known.get(option) or of_command.add_argument(option)
                action.complete = shtab.FILE  # type: ignore[attr-defined]
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
