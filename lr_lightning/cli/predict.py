"""`lr-lightning predict`: needs torch and pyarrow, and never imports Lightning."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from jsonargparse import ArgumentParser

from lr_lightning.cli.parse import output_file, parse, refuse_impossible_level
from lr_lightning.data.encode import EncodedRows, encode_blocks
from lr_lightning.data.spelling import Level
from lr_lightning.errors import InputError
from lr_lightning.files import write_whole
from lr_lightning.serving.predictor import Predictor, load

SUFFIXES = (".csv", ".parquet")
PREDICTIONS = ("probability", "prediction")
LIMITS = ("probability_low", "probability_high")
NEEDS_QUOTES = re.compile(r'[",\r\n]')


def run(arguments: Sequence[str]) -> None:
    """Write the columns `probability` and `prediction`, a row for each row of the table, in its order."""
    options = parse(make_parser(), arguments)
    output = output_file(options.output)
    if output is not None and output.suffix not in SUFFIXES:
        raise InputError(f"option output: {output} must end in {' or '.join(SUFFIXES)}")
    predictor = load(options.ckpt_path)
    if options.data.unseen is not None:
        predictor.schema = replace(predictor.schema, unseen=options.data.unseen)
    refuse_impossible_level(options.level)
    if options.id in (*PREDICTIONS, *LIMITS):
        raise InputError(f"option id: {options.id} is a column of the predictions; rename that of the table")
    level = options.level if options.interval else None
    schema = predictor.schema
    typed = output is not None and output.suffix == ".parquet"
    labels = schema.predicted_labels if typed else schema.written_labels
    tables = _predictions(predictor, _blocks(predictor, options.data.path, options.id), options.id, level, labels)
    if output is not None:
        write_whole(output, lambda path: _write(tables, path, output.suffix, labels))
        return
    # A mistake in the last row must leave nothing on stdout: the rows go to a file first.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        _write(tables, path, ".csv", labels)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()


def make_parser() -> ArgumentParser:
    """The options of `predict`."""
    parser = ArgumentParser(
        prog="lr-lightning predict",
        description="Write the probability of the positive label and the predicted label of each row of a table.",
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", type=str, required=True, help="the checkpoint of a fit")
    parser.add_argument(
        "--data.path",
        type=str | None,
        help="the table; default: the experiment's own prediction input, if it has one",
    )
    parser.add_argument(
        "--data.unseen",
        choices=["error", "reference"],
        help="a level that the fit has not seen: refuse it, or take it for the reference (default: as at the fit)",
    )
    parser.add_argument("--interval", action="store_true", help="add the confidence limits of each probability")
    parser.add_argument("--level", type=float, default=0.95, help="of these limits")
    parser.add_argument("--id", type=str | None, help="a column to repeat in front of the predictions")
    parser.add_argument("--output", type=str | None, help="a .csv or .parquet file; default: CSV on stdout")
    return parser


def _blocks(predictor: Predictor, path: str | None, identifier: str | None) -> Iterator[EncodedRows]:
    if path is not None:
        return encode_blocks(predictor.schema, path, identifier=identifier)
    if predictor.prediction_input is None:
        raise InputError(
            "option data.path: name the table to predict; the checkpoint has no prediction input of its own"
        )
    if identifier is not None:
        raise InputError("option id: the experiment's own prediction input has no such column; name a table")
    return iter([EncodedRows(torch.tensor(predictor.prediction_input, dtype=torch.float64))])


def _predictions(
    predictor: Predictor,
    blocks: Iterator[EncodedRows],
    identifier: str | None,
    level: float | None,
    labels: tuple[Level, Level],
) -> Iterator[pa.Table]:
    for encoded in blocks:
        rows = encoded.as_rows()
        probability = torch.sigmoid(predictor.model.logits(rows.x, rows.offset))
        columns = {} if identifier is None or encoded.ids is None else {identifier: encoded.ids}
        columns["probability"] = pa.array(probability.numpy(), mask=probability.isnan().numpy())
        positive = pa.array((probability > predictor.threshold).numpy(), mask=probability.isnan().numpy())
        columns["prediction"] = pa.array(labels).take(positive.cast(pa.int8()))
        if level is not None:
            for name, limit in zip(LIMITS, predictor.interval_of(rows.x, level, rows.offset), strict=True):
                columns[name] = pa.array(limit.numpy(), mask=limit.isnan().numpy())
        yield pa.table(columns)


def _write(tables: Iterator[pa.Table], path: Path, suffix: str, labels: Sequence[object]) -> None:
    first = next(tables)
    try:
        if suffix == ".parquet":
            writer = pyarrow.parquet.ParquetWriter(path, first.schema)
        else:
            writer = pyarrow.csv.CSVWriter(path, first.schema, write_options=_quoting(first, labels))
        with writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table.cast(first.schema))  # the identifiers of other files may be wider
    except pa.ArrowException as error:  # the predictions themselves can be written
        raise InputError(f"option id: {first.column_names[0]} cannot be written as {suffix} ({error})") from error


def _quoting(table: pa.Table, labels: Sequence[object]) -> pyarrow.csv.WriteOptions:
    """Quotes only where a reader needs them; pyarrow's own choice quotes every text, and every name."""
    identifier = table.columns[0].type
    plain_values = not (pa.types.is_string(identifier) or pa.types.is_large_string(identifier))
    plain_values &= not any(NEEDS_QUOTES.search(str(label)) for label in labels)
    plain_names = not any(NEEDS_QUOTES.search(name) for name in table.column_names)
    return pyarrow.csv.WriteOptions(
        quoting_style="none" if plain_values else "needed", quoting_header="none" if plain_names else "needed"
    )
