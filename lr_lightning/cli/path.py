"""`lr-lightning path`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule

from lr_lightning.cli import fit, fit_settings
from lr_lightning.cli.first_look import CHOSEN
from lr_lightning.cli.fit_settings import changed_settings
from lr_lightning.cli.resuming import Origin
from lr_lightning.cli.yaml import as_written
from lr_lightning.data.folds import refuse_few_folds
from lr_lightning.errors import InputError
from lr_lightning.solver.regularization_path import refuse_impossible_penalties
from lr_lightning.training.callbacks.penalty import RULES, Choice, PenaltyChoice
from lr_lightning.training.callbacks.record import RunRecord
from lr_lightning.training.data_modules import TableDataModule
from lr_lightning.training.resume import refuse_differences
from lr_lightning.training.run_folder import RunFolder

TABLE = "lr_lightning.TableDataModule"


def run(arguments: Sequence[str]) -> int:
    """Choose the penalty, fit with it, write the run folder, and say where things are; return the exit code."""
    return PathCommand("path", make_parser).run(arguments)


class PathCommand(fit.Command):
    """`fit`, whose penalty is chosen before the first epoch."""

    chooses_penalty = True

    def prepare(self, config: Namespace, data: LightningDataModule) -> None:
        """Name the column of folds, if there is one."""
        if config.cv.fold_column is None:
            return
        if not isinstance(data, TableDataModule):
            raise InputError("option cv.fold_column: needs a table; leave it out")
        data.fold_column = config.cv.fold_column

    def callbacks(self, config: Namespace, run_folder: RunFolder, record: RunRecord) -> list[Callback]:
        """The choice of the penalty."""
        self._choice = PenaltyChoice(
            run_folder,
            record,
            l1_ratio=config.path.l1_ratio,
            n_lambda=config.path.n_lambda,
            min_ratio=config.path.min_ratio,
            lambdas=config.path.lambdas,
            n_folds=config.cv.folds,
            rule=config.cv.rule,
            seed=config.cv.seed,
            quiet=config.quiet,
        )
        return [self._choice]

    def refuse(self, config: Namespace, origin: Origin | None) -> None:
        """Raise InputError for penalties that are impossible or given twice, less than two folds, and other choices."""
        if origin is not None:
            saved = origin.defaults()
            for part in ("path", "cv"):
                ours = config[part].as_dict()
                theirs = {name: saved.get(f"{part}.{name}", value) for name, value in ours.items()}
                refuse_differences(str(origin.path), part, theirs, ours)
        ratios = config.path.l1_ratio if isinstance(config.path.l1_ratio, list) else [config.path.l1_ratio]
        try:  # before the table is read; `solver.path` refuses them to those who call it from Python
            refuse_impossible_penalties(ratios, config.path.n_lambda, config.path.min_ratio, config.path.lambdas)
        except InputError as error:
            raise InputError(f"option path.{error}") from None
        if config.cv.fold_column is None:
            refuse_few_folds(config.cv.folds)
        defaults = self.make_parser().get_defaults().path
        if config.path.lambdas is not None:
            for name in ("n_lambda", "min_ratio"):
                if config.path[name] != defaults[name]:
                    raise InputError(f"option path.{name}: path.lambdas names the penalties; leave one of them out")

    def last_words(self, config: Namespace) -> list[str]:
        """Both choices, and the command that fits with the one not taken."""
        taken = config.cv.rule
        other = next(rule for rule in RULES if rule != taken)
        lines = [f"{f'penalty {rule}':<12} {self._choice.choices[rule].words}" for rule in (taken, other)]
        if self._choice.choices[taken].number == self._choice.choices[other].number:
            return lines
        return [*lines, f"the other    {self._fit_with(config, self._choice.choices[other])}"]

    def _fit_with(self, config: Namespace, choice: Choice) -> str:
        """The command line of `fit` with a penalty."""
        settings = changed_settings(fit_settings.make_parser(), _of_fit(config))
        of_class = {"data": settings.pop("data", TABLE)}  # the class comes before its arguments
        penalties = {"model.l1": choice.l1, "model.l2": choice.l2}
        given = {**of_class, **settings, **{name: value for name, value in penalties.items() if value}}
        words = ["lr-lightning", "fit"]
        for name, value in given.items():
            if (name, value) != ("data", TABLE):
                words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return shlex.join(words)


def _of_fit(config: Namespace) -> Namespace:
    """The settings that `fit` has too."""
    settings = config.clone()
    for key in ("path", "cv", "config"):
        settings.pop(key, None)
    defaults = fit_settings.make_parser().get_defaults()
    settings.optimizer = defaults.optimizer
    for name in CHOSEN["path"]:
        settings.model[name] = defaults.model[name]
    return settings


def make_parser() -> ArgumentParser:
    """The options of `path`: those of `fit`, without the optimizer and the strengths of the penalties, and its own."""
    parser = fit_settings.make_parser(
        "path",
        "Choose the strength of the penalty by cross-validation, fit all rows with it, and write a run folder.",
        CHOSEN["path"],
    )
    parser.add_argument(
        "--path.l1_ratio",
        type=float | list[float],
        default=1.0,
        help="share of L1 in the penalty, from 0 (ridge) to 1 (lasso), or a JSON list of shares to choose among",
    )
    parser.add_argument("--path.n_lambda", type=int, default=100, help="number of penalties for each l1_ratio")
    parser.add_argument(
        "--path.min_ratio",
        type=float,
        default=1e-3,
        help="weakest penalty relative to the strongest that has an effect",
    )
    parser.add_argument(
        "--path.lambdas",
        type=list[float] | None,
        default=None,
        help="the penalties themselves, as a JSON list that falls; instead of n_lambda and min_ratio",
    )
    parser.add_argument("--cv.folds", type=int, default=10, help="number of folds of the cross-validation")
    parser.add_argument(
        "--cv.fold_column", type=str | None, default=None, help="a column whose equal values make a fold; no feature"
    )
    parser.add_argument(
        "--cv.rule",
        choices=list(RULES),
        default="min",
        help="the penalty of the lowest loss, or the strongest within one standard error of it",
    )
    parser.add_argument("--cv.seed", type=int, default=0, help="of the random folds")
    table: dict[str, Any] = {"class_path": TABLE, "init_args": {"val_fraction": 0.0}}
    parser.set_defaults({"data": as_written(table)})
    return parser
