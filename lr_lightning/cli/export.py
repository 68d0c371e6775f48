"""`lr-lightning export`: needs torch and, for ONNX, the extra `onnx`; never imports Lightning."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from lr_lightning.cli.parse import output_file, parse
from lr_lightning.errors import InputError
from lr_lightning.files import write_whole
from lr_lightning.serving.predictor import Predictor, load
from lr_lightning.serving.scoring import scoring_file

FORMATS = ("onnx", "json")


def run(arguments: Sequence[str]) -> None:
    """Write a fitted model for use without this package."""
    options = parse(make_parser(), arguments)
    output = output_file(options.output)
    chosen = options.format or _format_of(output)
    if output is None and chosen == "onnx" and sys.stdout.isatty():
        raise InputError("option output: name a file for the ONNX graph, which is no text for a terminal")
    content = _content(load(options.ckpt_path), chosen)
    if output is not None:
        write_whole(output, lambda path: path.write_bytes(content))
        return
    sys.stdout.buffer.write(content)
    sys.stdout.flush()


def make_parser() -> ArgumentParser:
    """The options of `export`."""
    parser = ArgumentParser(
        prog="lr-lightning export",
        description="Write a fitted model as an ONNX graph, from raw columns to the label, or as a JSON scoring file.",
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", type=str, required=True, help="the checkpoint of a fit")
    parser.add_argument("--output", type=str | None, help="a .onnx or .json file; default: JSON on stdout")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of the output, else json")
    return parser


def _format_of(output: Path | None) -> str:
    """The format that the file's name asks for."""
    chosen = "json" if output is None else output.suffix.lower().removeprefix(".")
    if chosen not in FORMATS:
        raise InputError(f"option output: {output} must end in .onnx or .json, or name a --format")
    return chosen


def _content(predictor: Predictor, chosen: str) -> bytes:
    """The content of the exported file.

    Raises:
        InputError: if the extra `onnx` is not installed, or the model cannot be exported.
    """
    if chosen == "json":
        text = json.dumps(scoring_file(predictor), indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()
    try:
        from lr_lightning.serving.onnx import to_onnx
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "onnx":
            raise
        raise InputError("ONNX needs a package that is not installed: pip install 'lr-lightning[onnx]'") from error
    return to_onnx(predictor).SerializeToString(deterministic=True)
