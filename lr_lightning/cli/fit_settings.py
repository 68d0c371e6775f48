"""The settings of `lr-lightning fit`: its options, where their defaults come from, and what is recorded of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from lr_lightning.cli.allowlist import allow_classes
from lr_lightning.cli.evaluate import checkpoint_path
from lr_lightning.cli.first_look import SET_ELSEWHERE
from lr_lightning.cli.parse import CUSTOM_CLASSES, Parser, dump, parse
from lr_lightning.cli.resuming import Origin, after_restart, damage_in_words, from_checkpoint, newest_unfinished
from lr_lightning.cli.trainer import add_data_arguments, add_trainer_arguments
from lr_lightning.errors import InputError
from lr_lightning.statistics.report import Inference
from lr_lightning.statistics.wald import CovarianceType
from lr_lightning.training.module import LogisticRegression
from lr_lightning.training.optimizers import EXACT
from lr_lightning.training.run_folder import RunFolder

log = logging.getLogger("lr_lightning")

COVARIANCES: dict[str, CovarianceType] = {
    "nonrobust": "nonrobust",
    "robust": "HC1",
    "HC0": "HC0",
    "HC1": "HC1",
    "cluster": "cluster",
}
PARTS = ("model", "optimizer", "data", "path", "cv", "trainer")

# torch's optimizers take a number or a tensor as lr; an option takes the number, and names no class of tensors.
set_parsing_settings(subclasses_disabled=[torch.Tensor])


def settings_and_origin(
    arguments: Sequence[str], make_parser: Callable[[], ArgumentParser]
) -> tuple[ArgumentParser, Namespace, Origin | None]:
    """The parser, the settings and what the fit resumes.

    A setting comes from the command line, else from the resumed run or checkpoint, else from the defaults.
    """
    allow_classes(custom=CUSTOM_CLASSES in arguments)  # jsonargparse imports the classes of defaults, too
    named = checkpoint_path(arguments)
    origin = None if named is None else from_checkpoint(named)
    parser = make_parser()
    with damage_in_words(named):
        parser.set_defaults({} if origin is None else origin.defaults())
        config = parse(parser, arguments)
    unfinished = newest_unfinished(experiment_name(config)) if config.resume else after_restart(experiment_name(config))
    if config.resume and unfinished is None and not config.quiet:
        log.info("the run has no checkpoint yet, and begins anew")
    if unfinished is not None:
        origin, parser = unfinished, make_parser()
        unfinished.refuse_another_command(parser.prog)
        parser.set_defaults(origin.defaults())
        config = parse(parser, arguments)
    elif config.ckpt_path is not None and origin is None:  # named in a configuration file
        origin = from_checkpoint(Path(config.ckpt_path))
    return parser, config, origin


def make_parser(
    command: str = "fit",
    description: str = "Fit a logistic regression and write a run folder, runs/<experiment>/version_N/.",
    chosen: frozenset[str] = frozenset(),
) -> ArgumentParser:
    """The options of `fit`, or of a command that chooses the optimizer and other arguments of the model itself."""
    parser = Parser(prog=f"lr-lightning {command}", description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file of options; may be given several times")
    parser.add_argument(
        "--resume", action="store_true", help="go on in the newest unfinished run of this experiment, in its folder"
    )
    parser.add_argument(
        "--ckpt_path", type=str | None, help="go on from this checkpoint, with its settings, in a new run folder"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but warnings")
    parser.add_argument(
        "--covariance",
        choices=list(COVARIANCES),
        default="nonrobust",
        help="of the report's standard errors: the inverse Hessian, or a sandwich (robust is HC1, cluster that of the "
        "groups in --data.groups)",
    )
    parser.add_argument(
        "--inference",
        choices=list(get_args(Inference)),
        help="what tests and intervals are from: wald, the standard errors, or profile, the likelihoods of refits "
        "(default: profile with model.firth, else wald)",
    )
    parser.add_argument("--level", type=float, default=0.95, help="of the report's confidence intervals")
    set_elsewhere = set[str | int](SET_ELSEWHERE | chosen)
    parser.add_class_arguments(LogisticRegression, "model", skip=set_elsewhere, instantiate=False)
    if not chosen:
        parser.add_subclass_arguments(
            torch.optim.Optimizer,
            "optimizer",
            skip={"params", "sample", "l1", "l2", "warm_start", "n_rows"},
            required=False,
            instantiate=False,
            help="SubsampledNewton (default: the exact solver) or a class of torch.optim",
        )
    add_data_arguments(parser, {"class_path": "lr_lightning.TableDataModule"}, "the data (default: a table)")
    add_trainer_arguments(parser)
    return parser


def experiment_name(config: Namespace) -> str:
    """The first config file's name, else the data file's, else the data class's; a saved config keeps its run's."""
    if config.config:
        path = Path(config.config[0].relative)
        if run := RunFolder.of_config(path):
            return run.path.parent.name
    else:
        name = config.data.get("init_args", {}).get("path") or config.data.class_path.rsplit(".", 1)[-1]
        if not isinstance(name, str):
            raise InputError("option data.path: expected the path of a file or a folder")
        path = Path(name)
    return path.name.split(".")[0] or "table"


def saved_text(parser: ArgumentParser, config: Namespace) -> str:
    """The text of config.yaml: what decides the result."""
    settings = config.clone()
    for key in ("quiet", "resume", *([] if config.ckpt_path else ["ckpt_path"])):
        settings.pop(key, None)
    return dump(parser, settings)


def chosen_settings(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """The settings that differ from the defaults, and the penalties: the columns of TensorBoard's table of runs."""
    penalties = {f"model.{name}": config.model[name] for name in ("l1", "l2") if name in config.model}
    return penalties | {"optimizer": EXACT} | changed_settings(parser, config)


def changed_settings(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """The settings that differ from the defaults, by their options; classes under the names of their groups.

    A dict that an option takes, such as penalty factors by the names of columns, stays one.

    Args:
        parser: without defaults of its own.
        config: the settings.
    """
    chosen = yaml.safe_load(parser.dump(config, skip_unset=True, skip_default=True)) or {}
    return dict(_flat({part: chosen[part] for part in PARTS if part in chosen}))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every option, with class_path and init_args left out of the names."""
    for key, value in tree.items():
        name = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}".strip(".")
        if isinstance(value, Mapping) and (key == "init_args" or name in PARTS or "class_path" in value):
            yield from _flat(value, name)
        else:
            yield name, value
