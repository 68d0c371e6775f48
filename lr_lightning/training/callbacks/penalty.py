"""The penalty of a fit, chosen by cross-validation before its first epoch."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from lr_lightning import plots
from lr_lightning.data.cache import cache_folder
from lr_lightning.data.folds import stratified_folds
from lr_lightning.data.imputation import FoldFills
from lr_lightning.errors import InputError
from lr_lightning.files import write_whole
from lr_lightning.model.gathering import rows_of_all, table_of_all
from lr_lightning.solver.regularization_path import CrossValidation, Path, PoorFoldsError, path
from lr_lightning.statistics.held_out import MOST_DRAWN, of_all_processes
from lr_lightning.training.callbacks.progress import PathProgress
from lr_lightning.training.callbacks.record import RunRecord, save_figure
from lr_lightning.training.data_modules import TableDataModule, TensorDataModule
from lr_lightning.training.module import LogisticRegression
from lr_lightning.training.refusals import refuse_unfit_batches
from lr_lightning.training.run_folder import RunFolder, RunLogger

RULES = ("min", "1se")
FEW_ROWS = 3  # of a fold on average: below it cv.glmnet warns, too
_LINES = 2**16  # of a file that are made at a time
log = logging.getLogger("lr_lightning")


@dataclass(frozen=True)
class Choice:
    """A penalty of a path.

    Attributes:
        rule: by which it was chosen.
        number: on the path.
        l1: strength of the L1 penalty.
        l2: of the L2 penalty.
        words: l1_ratio, λ, the number of non-zeros and the loss of the rows left out.
    """

    rule: str
    number: int
    l1: float
    l2: float
    words: str


class PenaltyChoice(Callback):
    """Fits a path with cross-validation to the training rows, and gives the model the penalty that a rule chooses.

    It writes `path.csv`, `coefficients.csv`, `out_of_fold.csv` and two pictures, and the same to TensorBoard.

    Args:
        run: where they go.
        record: of the run, which takes the out-of-fold predictions for its pictures.
        l1_ratio: as the next three, of `lr_lightning.solver.path`.
        n_lambda: likewise.
        min_ratio: likewise.
        lambdas: likewise.
        n_folds: number of folds.
        rule: min or 1se.
        seed: of the folds.
        quiet: show no progress.

    Attributes:
        choices: by both rules, once it has chosen.
    """

    def __init__(
        self,
        run: RunFolder,
        record: RunRecord,
        *,
        l1_ratio: float | Sequence[float],
        n_lambda: int,
        min_ratio: float,
        lambdas: Sequence[float] | None,
        n_folds: int,
        rule: str,
        seed: int,
        quiet: bool,
    ):
        self.choices: dict[str, Choice] = {}
        self._run, self._record, self._rule, self._quiet = run, record, rule, quiet
        self._path_options: dict[str, Any] = {
            "l1_ratio": l1_ratio,
            "n_lambda": n_lambda,
            "min_ratio": min_ratio,
            "lambdas": lambdas,
        }
        self._n_folds, self._seed = n_folds, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the model choose, once it is set up: what it and the other callbacks refuse comes before the path.

        Raises:
            InputError: if there is no table of rows.
        """
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, LogisticRegression) or not isinstance(data, TensorDataModule):
            raise InputError("a path needs a TensorDataModule or a TableDataModule")
        pl_module.choose_penalty = partial(self._choose, trainer, pl_module, data)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the model, which may be fitted again with the penalty that it has."""
        if isinstance(pl_module, LogisticRegression):
            pl_module.choose_penalty = None

    def _choose(self, trainer: Trainer, pl_module: LogisticRegression, data: TensorDataModule) -> None:
        refuse_unfit_batches(trainer, pl_module.optimizer_name)
        if any(isinstance(callback, Timer) for callback in trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]
            log.warning("option trainer.max_time limits the last fit alone, not the path before it")
        of_all = data.processes  # the path takes all rows in every process
        rows = table_of_all(data.train_rows, of_all, "path").to(torch.device("cpu"))
        weighted = rows_of_all(next(data.training_rows(pl_module.class_weight).weighted()), of_all)
        groups, train_folds, numbers = (
            None if column is None else of_all.joined(column)
            for column in (data.train_groups, data.train_folds, data.train_numbers)
        )
        values: Sequence[Any] | None = None
        if train_folds is None:
            folds = stratified_folds(rows, self._n_folds, seed=self._seed, groups=groups)
            of_folds = "data.groups" if groups is not None else "option cv.folds"
        else:
            present, folds = train_folds.long().unique(return_inverse=True)
            assert isinstance(data, TableDataModule)  # noqa: S101 (no other has a column of folds)
            values = [data.fold_values[number] for number in present.tolist()]
            of_folds = f"option cv.fold_column: {data.fold_column}"
            _look_at_column_of_folds(of_folds, folds, values, groups)
        objective, fills = pl_module.objective, None
        if data.train_filled is not None:
            filled = data.train_filled._replace(of_rows=of_all.joined(data.train_filled.of_rows))
            assert isinstance(data, TableDataModule)  # noqa: S101 (no other fills in)
            fills = FoldFills(rows, filled, folds, data.schema, data.served, cache_folder(data.cache_dir))
            if fills.differ:
                log.info("missing values are filled in anew without each fold, whose fits share no sweep then")
        try:
            with nullcontext() if self._quiet or not trainer.is_global_zero else PathProgress() as progress:
                found = path(
                    weighted,
                    folds=folds,
                    features_of_fold=fills.features if fills is not None and fills.differ else None,
                    penalty_factors=pl_module.factors_of(data),
                    standardize=objective.standardize,
                    fit_intercept=objective.fit_intercept,
                    served=data.served,
                    progress=progress,
                    **self._path_options,
                )
        except PoorFoldsError as error:
            raise error.of(of_folds, values) from None
        validation = found.cross_validation
        assert validation is not None  # noqa: S101 (there are folds)
        self.choices = {
            rule: _choice(rule, found, validation, number)
            for rule, number in zip(RULES, (validation.best, validation.one_se), strict=True)
        }
        chosen = self.choices[self._rule]
        _warn_of_end(found, validation.best)
        l1, l2 = trainer.strategy.broadcast((chosen.l1, chosen.l2))  # unlike processors differ in the last digits
        # A fit that is resumed keeps its penalty to the bit.
        if (objective.l1, objective.l2) == (0.0, 0.0):
            pl_module.set_penalty(l1, l2)
        logits = validation.logits if self._rule == "min" else validation.one_se_logits
        self._record.out_of_fold = of_all_processes(logits, rows.y, rows.weight, most=MOST_DRAWN).columns
        self._record.settings = {**self._record.settings, "model.l1": l1, "model.l2": l2}
        if trainer.is_global_zero:
            numbers = torch.arange(len(rows.y)) if numbers is None else numbers
            left_out = _out_of_fold_table(numbers, folds, values, logits)
            self._write(trainer, data, found, validation, left_out)

    def _write(
        self,
        trainer: Trainer,
        data: TensorDataModule,
        found: Path,
        validation: CrossValidation,
        left_out: tuple[Sequence[str], Iterable[Sequence[Any]]],
    ) -> None:
        names, folder = list(data.schema.feature_names), self._run.path
        _write_csv(folder / "path.csv", *_path_table(found, validation))
        _write_csv(folder / "coefficients.csv", *_coefficient_table(found, names))
        _write_csv(folder / "out_of_fold.csv", *left_out)
        events = trainer.logger if isinstance(trainer.logger, RunLogger) else None
        for name, figure in self._figures(data, found, validation, names):
            save_figure(figure, self._run.figures / f"{name}.png", events, 0)
        for logger in trainer.loggers:
            for step in range(len(found.lambdas)):
                logger.log_metrics(
                    {
                        "path/cv_loss": float(validation.mean[step]),
                        "path/loss": float(found.loss[step]),
                        "path/nonzero": float(found.nonzero[step]),
                    },
                    step,
                )

    def _figures(
        self, data: TensorDataModule, found: Path, validation: CrossValidation, names: list[str]
    ) -> Iterable[tuple[str, Any]]:
        """Figures of the path with the chosen l1_ratio."""
        ratio = float(found.l1_ratio[validation.best])
        own = (found.l1_ratio == ratio) & (found.lambdas > 0)
        lambdas, theta = found.lambdas[own].numpy(), found.theta[own, :-1].numpy()
        if not len(lambdas):
            return
        words: dict[str, Any] = {
            "chosen": {choice.rule: float(found.lambdas[choice.number]) for choice in self.choices.values()},
            "l1_ratio": ratio if len(found.l1_ratio.unique()) > 1 else None,
        }
        yield "path", plots.path(lambdas, theta, names, scale=data.training.scale.numpy(), **words)
        yield (
            "cross_validation",
            plots.cross_validation(
                lambdas,
                validation.mean[own].numpy(),
                validation.se[own].numpy(),
                found.nonzero[own].numpy(),
                **words,
            ),
        )


def _warn_of_end(found: Path, best: int) -> None:
    """Say so where the loss still falls at the end of the path."""
    own = found.lambdas[found.l1_ratio == found.l1_ratio[best]]
    if len(own) > 1 and 0 < float(found.lambdas[best]) == float(own[-1]):
        log.warning(
            "the loss of the rows left out is lowest at the weakest penalty of the path; a weaker one may do better "
            "(path.min_ratio, path.lambdas)"
        )


def _look_at_column_of_folds(
    option: str, folds: torch.Tensor, values: Sequence[Any], groups: torch.Tensor | None
) -> None:
    """Raise InputError where a column makes one fold; say so where it makes many, or parts the rows of a group."""
    if len(values) < 2:
        raise InputError(f"{option}: all training rows hold the same value, and a cross-validation needs 2 folds")
    if len(folds) < FEW_ROWS * len(values):
        log.warning(
            "%s makes %d folds of %d rows, fewer than %d rows in each; if it only identifies the rows, leave it out, "
            "and cv.folds makes the folds",
            *(option, len(values), len(folds), FEW_ROWS),
        )
    if groups is not None:
        of_groups, count = groups.unique(), len(torch.stack([groups.to(folds), folds], 1).unique(dim=0))
        if count > len(of_groups):
            log.warning("%s parts the rows of groups, which is left as it is", option)


def _choice(rule: str, found: Path, validation: CrossValidation, number: int) -> Choice:
    ratio, value, nonzero = float(found.l1_ratio[number]), float(found.lambdas[number]), int(found.nonzero[number])
    words = f"l1_ratio {ratio:g}, lambda {value:.6g}: {nonzero} non-zero, cv loss {float(validation.mean[number]):.6g}"
    return Choice(rule, number, value * ratio, value * (1 - ratio), words)


def _path_table(found: Path, validation: CrossValidation) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    header = ["l1_ratio", "lambda", "l1", "l2", "nonzero", "loss", "deviance_ratio", "cv_mean", "cv_se", "chosen"]
    numbers = dict(zip(RULES, (validation.best, validation.one_se), strict=True))
    columns = (found.l1_ratio, found.lambdas, found.lambdas * found.l1_ratio, found.lambdas * (1 - found.l1_ratio))
    measured = (found.nonzero, found.loss, found.deviance_ratio, validation.mean, validation.se)
    chosen = (" ".join(rule for rule, number in numbers.items() if number == k) for k in range(len(found.lambdas)))
    return header, zip(*(column.tolist() for column in (*columns, *measured)), chosen, strict=True)


def _coefficient_table(found: Path, names: list[str]) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    def rows() -> Iterable[Sequence[Any]]:
        for ratio, value, theta in zip(found.l1_ratio.tolist(), found.lambdas.tolist(), found.theta, strict=True):
            yield ratio, value, "(Intercept)", float(theta[-1])
            for j in theta[:-1].nonzero()[:, 0].tolist():
                yield ratio, value, names[j], float(theta[j])

    return ("l1_ratio", "lambda", "name", "estimate"), rows()


def _out_of_fold_table(
    numbers: torch.Tensor, folds: torch.Tensor, values: Sequence[Any] | None, logits: torch.Tensor
) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """A line a row; its fold is named by one of the values, if there are any."""

    def rows() -> Iterable[Sequence[Any]]:
        # As Python's numbers all rows would take many times the memory.
        for number, fold, logit in zip(*(column.split(_LINES) for column in (numbers, folds, logits)), strict=True):
            names = fold.tolist() if values is None else [values[place] for place in fold.tolist()]
            yield from zip(number.tolist(), names, torch.sigmoid(logit).tolist(), strict=True)

    return ("row", "fold", "probability"), rows()


def _write_csv(file: FilePath, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    def write(temporary: FilePath) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    write_whole(file, write)
