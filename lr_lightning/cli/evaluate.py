"""The common part of `lr-lightning validate` and `lr-lightning test`."""

from __future__ import annotations

from argparse import ArgumentParser as PlainParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from lr_lightning.checkpoint.read import read_checkpoint
from lr_lightning.cli.allowlist import allow_classes, refuse_unsuitable_class
from lr_lightning.cli.parse import CUSTOM_CLASSES, Parser, instantiate, parse
from lr_lightning.cli.trainer import (
    add_data_arguments,
    add_trainer_arguments,
    make_trainer,
    mistakes_in_one_line,
    plain_if_a_process_is_lost,
)
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from lr_lightning.model.standardization import Standardization
from lr_lightning.training.data_modules import TableDataModule, TensorDataModule
from lr_lightning.training.module import LogisticRegression
from lr_lightning.training.resume import split_rule_of
from lr_lightning.training.run_folder import RunFolder


def evaluate(command: Literal["validate", "test"], arguments: Sequence[str]) -> None:
    """Print the metrics of a checkpoint to stdout; `test` also adds them to the run folder that it lies in."""
    path = checkpoint_path(arguments)
    checkpoint = None if path is None else read_checkpoint(path)
    if checkpoint is not None and checkpoint.get("data") is not None:
        allow_classes(custom=CUSTOM_CLASSES in arguments)
        refuse_unsuitable_class(checkpoint["data"]["class_path"], LightningDataModule, f"{path}")
    parser = make_parser(command, checkpoint)
    config = parse(parser, arguments)
    if path is None or checkpoint is None:
        raise InputError("option ckpt_path: name the checkpoint to measure")
    if config.data is None:
        raise InputError("option data.path: name the data; the checkpoint does not know where its own came from")

    model = LogisticRegression.from_contents(checkpoint, path)
    data = instantiate(config.data)
    if isinstance(data, TensorDataModule):
        data.split_rule = split_rule_of(checkpoint)
    if isinstance(data, TableDataModule):
        if checkpoint.get("schema") is None:
            raise InputError(f"{path}: was not fitted to a table, and names no columns to read from one")
        mean, scale = model.linear_sigmoid.mean, model.linear_sigmoid.scale
        other_table = any(argument.split("=")[0] == "--data.path" for argument in arguments)
        data.use_schema(
            TableSchema.from_dict(checkpoint["schema"]),
            Standardization(mean, torch.where(scale.isinf(), 0.0, scale)),  # 0 marks a constant column
            every_row=other_table,
            fingerprint=checkpoint.get("fingerprint"),
        )
    run = RunFolder.of_checkpoint(path) if command == "test" else None
    trainer = make_trainer(parser, config, logger=False if run is None else run.logger(), callbacks=[])
    measure = trainer.test if command == "test" else trainer.validate
    with plain_if_a_process_is_lost(trainer), mistakes_in_one_line():
        (metrics,) = measure(model, datamodule=data, verbose=False)
    for name, value in metrics.items() if trainer.is_global_zero else ():
        if name != "step":  # the loggers' epoch, no metric
            print(f"{name:<24} {value:.6g}")


def checkpoint_path(arguments: Sequence[str]) -> Path | None:
    """The checkpoint, read before the other options are parsed because it holds their defaults."""
    first = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--ckpt_path", type=Path, nargs="?")
    return first.parse_known_args(list(arguments))[0].ckpt_path


def make_parser(command: str, checkpoint: dict[str, Any] | None = None) -> ArgumentParser:
    """The options of `validate` and `test`; the data's defaults are those of the checkpoint."""
    parser = Parser(
        prog=f"lr-lightning {command}",
        description="Measure a checkpoint on the rows that its fit kept back, or on every row of another table.",
        exit_on_error=False,
    )
    parser.add_argument("--ckpt_path", type=str, help="the checkpoint to measure", required=True)
    add_data_arguments(parser, None if checkpoint is None else checkpoint.get("data"), "default: the data of the fit")
    add_trainer_arguments(parser)
    return parser
