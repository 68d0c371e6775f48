"""`lr-lightning path`: the files of a run, the choice, the last lines, the refusals."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression as LogisticRegressionOfScikitLearn
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lr_lightning import LogisticRegression, files, load, plots
from lr_lightning.model.rows import Rows
from lr_lightning.solver import path
from lr_lightning.training.callbacks import penalty
from lr_lightning.training.callbacks.penalty import PenaltyChoice
from lr_lightning.training.run_folder import RunFolder
from tests.conftest import fit_in


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def of_cancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path")
    fit_in(folder, "--config", "conf/path.yaml", "--quiet", command="path")
    return folder / "runs" / "path" / "version_0"


def test_the_run_folder_holds_the_path_and_the_choice(of_cancer: Path) -> None:
    table = read(of_cancer / "path.csv")
    assert len(table) == 60
    assert list(table[0]) == [
        "l1_ratio",
        "lambda",
        "l1",
        "l2",
        "nonzero",
        "loss",
        "deviance_ratio",
        "cv_mean",
        "cv_se",
        "chosen",
    ]
    values = [float(row["lambda"]) for row in table]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.38368324447763867, rel=1e-12)
    assert float(table[0]["deviance_ratio"]) == pytest.approx(0, abs=1e-12)
    mean, se = (np.array([float(row[name]) for row in table]) for name in ("cv_mean", "cv_se"))
    chosen = {row["chosen"]: k for k, row in enumerate(table) if row["chosen"]}
    assert chosen["min"] == mean.argmin()
    assert chosen["1se"] == np.argmax(mean <= mean.min() + se[mean.argmin()])

    coefficients = [
        row for row in read(of_cancer / "coefficients.csv") if row["lambda"] == table[chosen["1se"]]["lambda"]
    ]
    assert len(coefficients) == 1 + int(table[chosen["1se"]]["nonzero"])
    predictor = load(of_cancer / "checkpoints" / "last.ckpt")
    assert predictor.intercept == pytest.approx(float(coefficients[0]["estimate"]), rel=1e-6)
    fitted = {name: value for name, value in predictor.coefficients.items() if value != 0}
    assert fitted == pytest.approx({row["name"]: float(row["estimate"]) for row in coefficients[1:]}, rel=1e-6)
    assert json.loads((of_cancer / "report.json").read_text())["converged"]
    figures = {file.stem for file in (of_cancer / "figures").iterdir()}
    assert figures >= {"path", "cross_validation", "roc", "precision_recall", "reliability", "coefficients"}


def test_the_figures_of_the_rows_left_out_are_those_of_scikit_learn(of_cancer: Path) -> None:
    rows = read(of_cancer / "out_of_fold.csv")
    truth = read(of_cancer.parents[2] / "conf" / "samples" / "breast_cancer.csv")
    assert [int(row["row"]) for row in rows] == list(range(569))
    y = np.array([row["diagnosis"] == "malignant" for row in truth], float)
    probability, fold = (np.array([float(row[name]) for row in rows]) for name in ("probability", "fold"))
    of_fold = [np.mean(y[fold == k]) for k in range(10)]
    assert max(of_fold) - min(of_fold) < 0.02  # stratified
    events = EventAccumulator(str(of_cancer))
    events.Reload()

    def last(name: str) -> float:
        return events.Scalars(name)[-1].value

    assert last("cv/auroc") == pytest.approx(roc_auc_score(y, probability), rel=1e-6)
    assert last("cv/brier") == pytest.approx(brier_score_loss(y, probability), rel=1e-6)
    assert last("cv/accuracy") == pytest.approx(np.mean((probability > 0.5) == y), rel=1e-6)
    chosen = next(row for row in read(of_cancer / "path.csv") if row["chosen"] == "1se")
    losses = [log_loss(y[fold == k], probability[fold == k], labels=[0, 1]) for k in range(10)]
    sizes = [np.sum(fold == k) for k in range(10)]
    assert np.average(losses, weights=sizes) == pytest.approx(float(chosen["cv_mean"]), rel=1e-9)
    steps = [event.step for event in events.Scalars("path/cv_loss")]
    assert steps == list(range(60))
    assert {"path", "cross_validation"} <= set(events.Tags()["images"])


def table(folder: Path, *, n: int = 40) -> Path:
    """A table with a category, weights, a missing target and two informative columns of five."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 5))
    y = x[:, 0] - x[:, 1] + generator.normal(size=n) > 0
    lines = [
        ",".join([*map(repr, map(float, x[i])), "rgb"[i % 3], str(1 + i % 2), "" if i == 3 else "ny"[int(y[i])]])
        for i in range(n)
    ]
    (folder / "t.csv").write_text("a,b,c,d,e,colour,w,bought\n" + "\n".join(lines) + "\n")
    return folder / "t.csv"


def test_weights_missing_rows_factors_and_class_weights_reach_the_path(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(
        "path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.weight", "w",
        "--data.missing", "drop",
        "--model.penalty_factors", '{"colour": 0}', "--model.class_weight", '{"y": 3, "n": 1}',
        "--path.l1_ratio", "[0.5, 1]", "--path.n_lambda", "7", "--cv.folds", "4", "--path.min_ratio", "0.01",
    )  # fmt: skip
    assert (code, out) == (0, ""), err
    folder = tmp_path / "runs" / "t" / "version_0"
    found = read(folder / "path.csv")
    assert [row["l1_ratio"] for row in found] == ["0.5"] * 7 + ["1.0"] * 7
    fold = {int(row["row"]): int(row["fold"]) for row in read(folder / "out_of_fold.csv")}
    assert sorted(fold) == [i for i in range(40) if i != 3]
    rows = [row for i, row in enumerate(read(tmp_path / "t.csv")) if i != 3]
    x = torch.tensor(
        [[*(float(row[name]) for name in "abcde"), row["colour"] == "g", row["colour"] == "r"] for row in rows],
        dtype=torch.float64,
    )
    y = torch.tensor([float(row["bought"] == "y") for row in rows])
    weight = torch.tensor([float(row["w"]) * (3 if row["bought"] == "y" else 1) for row in rows])
    expected = path(
        Rows(x, y, weight),
        l1_ratio=[0.5, 1.0], n_lambda=7, min_ratio=0.01, folds=torch.tensor([fold[i] for i in sorted(fold)]),
        penalty_factors=torch.tensor([1.0] * 5 + [0.0] * 2),
    )  # fmt: skip
    assert [float(row["lambda"]) for row in found] == pytest.approx(expected.lambdas.tolist(), rel=1e-6)
    assert [float(row["cv_mean"]) for row in found] == pytest.approx(expected.cross_validation.mean.tolist(), rel=1e-6)
    assert [float(row["loss"]) for row in found] == pytest.approx(expected.loss.tolist(), rel=1e-6)


def test_the_last_lines_name_both_choices_and_the_command_of_the_other(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    arguments += ["--data.features", '["a", "b", "colour"]', "--model.penalty_factors", '{"colour=g": 0, "a": 2}']
    code, _, err = run("path", *arguments, "--path.n_lambda", "10", "--cv.folds", "3")
    assert code == 0, err
    lines = err.splitlines()
    taken, other, command, *_ = lines[-6:]
    assert taken.startswith("penalty min  l1_ratio 1, lambda ")
    assert other.startswith("penalty 1se  l1_ratio 1, lambda ")
    assert lines[-2].startswith("checkpoint   ")
    assert lines[-1].startswith("look         tensorboard --logdir")
    words = shlex.split(command.removeprefix("the other    lr-lightning "))
    assert run(*words)[0] == 0
    chosen = next(row for row in read(tmp_path / "runs/t/version_0/path.csv") if row["chosen"] == "1se")
    fitted = load(tmp_path / "runs/t/version_1/checkpoints/last.ckpt")
    expected = {
        row["name"]: float(row["estimate"])
        for row in read(tmp_path / "runs/t/version_0/coefficients.csv")
        if row["lambda"] == chosen["lambda"]
    }
    assert fitted.intercept == pytest.approx(expected.pop("(Intercept)"), rel=1e-6)
    assert {k: v for k, v in fitted.coefficients.items() if v} == pytest.approx(expected, rel=1e-6)
    assert "colour=g" in expected
    assert run("path", "--config", "runs/t/version_0/config.yaml")[0] == 0
    first, again = (tmp_path / f"runs/t/version_{k}" for k in (0, 2))
    for name in ("path.csv", "coefficients.csv", "out_of_fold.csv", "report.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_a_signal_during_the_path_leaves_nothing(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = table(tmp_path)
    original = PenaltyChoice._choose

    def choose(self, *arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)
        original(self, *arguments)

    monkeypatch.setattr(PenaltyChoice, "_choose", choose)
    code, out, err = run("path", "--data.path", file, "--data.target", "bought", "--data.missing", "drop")
    assert (code, out) == (130, "")
    assert "stopped by SIGINT before the first epoch; nothing was kept" in err
    assert not any((tmp_path / "runs").glob("*"))


def test_a_fit_that_was_stopped_goes_on_with_its_penalty(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    # In batches: a signal in the middle of an epoch goes back to its beginning.
    arguments += ["--path.n_lambda", "5", "--cv.folds", "2", "--data.batch_size", "10"]
    original = LogisticRegression.training_step

    def training_step(self, *batch: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        return original(self, *batch)

    monkeypatch.setattr(LogisticRegression, "training_step", training_step)
    code, _, err = run(*arguments)
    assert code == 130
    monkeypatch.setattr(LogisticRegression, "training_step", original)
    assert "lr-lightning path --data.path" in err
    assert "--resume" in err
    for options, message in (
        (["--path.n_lambda", "6"], "option path.n_lambda: 6 contradicts 5 of runs/t/version_0/checkpoints/last.ckpt"),
        (["--cv.rule", "1se"], "option cv.rule: 1se contradicts min"),
    ):
        code, _, err = run(*arguments, "--resume", *options)
        assert code == 2
        assert message in err.splitlines()[-1]
    code, _, err = run("fit", *arguments[1:5], "--resume")
    assert code == 2
    assert "runs/t/version_0 was begun by lr-lightning path" in err.splitlines()[-1]
    code, _, err = run(*arguments, "--resume")
    assert code == 0, err
    assert "penalty min" in err
    assert (tmp_path / "runs/t/version_0/checkpoints/last.ckpt").exists()
    assert not (tmp_path / "runs/t/version_1").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.l1", "0.1"], "option model.l1: path chooses the penalty itself"),
        (["--model.firth", "true"], "option model.firth: path chooses"),
        (["--model.bounds", '{"a": [0, null]}'], "option model.bounds: path knows no bounds"),
        (["--optimizer", "SGD"], "option optimizer: path fits by the exact solver"),
        (["--ckpt_path", "t.ckpt"], "option ckpt_path: path chooses the penalty from the beginning"),
        (["--path.l1_ratio", "2"], "option path.l1_ratio: expected numbers from 0 to 1"),
        (["--path.l1_ratio", "[]"], "option path.l1_ratio"),
        (["--path.n_lambda", "0"], "option path.n_lambda"),
        (["--path.n_lambda", "10000000000"], "option path.n_lambda: must be from 1 to 100000"),
        (["--path.min_ratio", "1"], "option path.min_ratio"),
        (["--path.lambdas", "[0.1, 0.2]"], "option path.lambdas: must fall strictly"),
        (["--path.lambdas", "[1e300, 1]"], "option path.lambdas: expected numbers from 0 to 1e+150"),
        (["--path.lambdas", "[0.2, 0.1]", "--path.n_lambda", "3"], "path.n_lambda"),
        (["--cv.folds", "1"], "option cv.folds"),
        (["--cv.fold_column", "one"], "cv.fold_column: one: all training rows hold the same value"),
        (["--cv.fold_column", "bought", "--data.target", "flag"], "fold_column: bought: without fold n the rows"),
        (["--model.penalty_factors", '{"a": 1e-200}'], "penalty_factors: too small"),
        (["--cv.rule", "best"], "cv.rule"),
        (["--inference", "profile"], "option inference: profile does not go with a penalty (l1, l2); choose wald"),
        (["--data.groups", "flag"], "data.groups: without fold 0 the rows hold one class only"),
        (["--model.penalty_factors", '{"colours": 0}'], "no feature colours; did you mean colour?"),
        (["--model.penalty_factors", '{"a": 0}', "--data.features", '["a"]'], "penalty_factors: all are 0"),
        (["--path.lamdas", "[1]"], "path.lamdas"),
    ],
)
def test_what_is_refused(run, tmp_path, monkeypatch, options: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = table(tmp_path)
    lines = file.read_text().splitlines()
    flags = ["flag,one", *(f"{line[-1] == 'y'},1" for line in lines[1:])]
    file.write_text("".join(f"{line},{flag}\n" for line, flag in zip(lines, flags, strict=True)))
    code, out, err = run("path", "--data.path", file, "--data.target", "bought", "--data.missing", "drop", *options)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("text", ["cv:\n", "cv: 10\n", "path: [1, 2]\n", "model:\n", "data:\n"])
def test_a_file_with_a_group_that_holds_no_options(run, tmp_path, monkeypatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text(text)
    code, out, err = run("path", "--data.path", table(tmp_path), "--data.target", "bought", "--config", "e.yaml")
    assert (code, out) == (2, "")
    assert f"option {text.partition(':')[0]}: expected options below it, not " in err.splitlines()[-1]


@pytest.mark.parametrize("ratios", ["1", "[0.5, 1]"])
def test_pictures_name_the_l1_ratio_where_there_are_several(run, tmp_path, monkeypatch, ratios: str) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = []
    for name in ("path", "cross_validation"):
        draw = getattr(plots, name)
        monkeypatch.setattr(plots, name, lambda *of, draw=draw, **words: drawn.append(draw(*of, **words)) or drawn[-1])
    options = ["--data.missing", "drop", "--path.n_lambda", "5", "--path.l1_ratio", ratios]
    assert run("path", "--data.path", table(tmp_path), "--data.target", "bought", *options)[0] == 0
    (best,) = [row for row in read(tmp_path / "runs/t/version_0/path.csv") if "min" in row["chosen"]]
    of_ratio = f" of l1_ratio {float(best['l1_ratio']):g}" if ratios != "1" else ""
    assert [figure.axes[0].get_xlabel() for figure in drawn] == [f"penalty λ{of_ratio}, weaker to the right"] * 2


def test_a_limit_of_time_is_told_to_be_of_the_last_fit(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data.missing", "drop", "--path.n_lambda", "3", "--trainer.max_time", "00:01:00:00"]
    code, _, err = run("path", "--data.path", table(tmp_path), "--data.target", "bought", *options)
    assert code == 0
    assert "option trainer.max_time limits the last fit alone, not the path before it" in err.splitlines()


def test_a_path_that_was_killed_begins_anew(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    killed = tmp_path / "runs" / "t" / "version_0"
    killed.mkdir(parents=True)
    (killed / "events.out.tfevents.1").write_text("half an event")
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    arguments += ["--path.l1_ratio", "0", "--path.lambdas", "[10, 9]", "--cv.folds", "2"]
    code, _, err = run(*arguments, "--resume")
    assert code == 0, err
    assert "has no checkpoint yet, and begins anew" in err
    assert "lowest at the weakest penalty of the path" in err
    assert sorted(path.name for path in killed.parent.iterdir()) == ["version_0"]
    assert not (killed / "events.out.tfevents.1").exists()
    code, _, err = run(*arguments, "--resume")
    assert code == 2
    assert "there is no unfinished run" in err


def test_a_rule_of_the_threshold_is_that_of_the_rows_left_out_too(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    arguments += ["--path.n_lambda", "3", "--cv.folds", "2", "--model.threshold", "cost=9"]
    assert run(*arguments, "--data.val_fraction", "0.3")[0] == 0
    folder = tmp_path / "runs/t/version_0"
    threshold = json.loads((folder / "report.json").read_text())["threshold"]
    assert threshold != 0.5
    rows = read(folder / "out_of_fold.csv")
    bought = [row["bought"] == "y" for row in read(tmp_path / "t.csv")]
    right = [(float(row["probability"]) > threshold) == bought[int(row["row"])] for row in rows]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Scalars("cv/accuracy")[-1].value == pytest.approx(np.mean(right), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.threshold cost=9", "model.threshold cost=9 is chosen on validation rows"),
        ("--model.initial_weight [1,2]", "initial_weight has 2 entries"),
        ("--covariance cluster", "covariance cluster needs groups"),
        ("--trainer.precision 16-mixed", "precision 16-mixed"),
        ("--trainer.gradient_clip_val 1", "option trainer.gradient_clip_val"),
        ("--trainer.max_time 00:00:00:00", "option trainer.max_time"),
        ("--trainer.limit_train_batches 0.5", "0.5 of the `train_dataloader`"),
        ("--trainer.limit_train_batches 3 --data.batch_size 10", "option trainer.limit_train_batches: a pass would"),
        ("--trainer.overfit_batches 0.5 --data.batch_size 10", "option trainer.overfit_batches: a pass would"),
        ("--trainer.fast_dev_run 2 --data.batch_size 10", "option trainer.fast_dev_run: a pass would"),
        ("--trainer.limit_val_batches 0.5 --data.val_fraction 0.3", "0.5 of the `val_dataloader`"),
        ("--trainer.val_check_interval 7 --data.val_fraction 0.3", "`val_check_interval` (7) must be less"),
        ("--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val/loss", "no validation rows are measured"),
        (
            "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor loss",
            "loss, which is not measured; it can watch",
        ),
        ("--trainer.callbacks ModelCheckpoint --trainer.callbacks.monitor val/f2 --data.val_fraction 0.3", "val/f1"),
        ("--trainer.callbacks LearningRateFinder", "LearningRateFinder: SubsampledNewton has no learning rate"),
        ("--trainer.callbacks BackboneFinetuning", "no attribute 'backbone'"),
        ("--trainer.callbacks DeviceStatsMonitor --trainer.logger false", "Cannot use `DeviceStatsMonitor`"),
    ],
)
def test_what_the_fit_refuses_is_refused_before_the_path(run, tmp_path, monkeypatch, options: str, message) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the path was fitted first")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(penalty, "path", never)
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    code, _, err = run(*arguments, *options.split())
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_that_was_killed_while_it_wrote_its_files_can_be_resumed(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    arguments += ["--path.n_lambda", "3", "--cv.folds", "2"]
    original, moments, last = files.sync, 0, -1

    class Killed(BaseException):
        pass

    def sync(file: Path) -> None:  # before a file has its name, and after
        nonlocal moments
        if moments == last:
            raise Killed
        moments += 1
        original(file)

    monkeypatch.setattr(files, "sync", sync)
    assert run(*arguments)[0] == 0
    whole, count = tmp_path / "whole", moments
    (tmp_path / "runs").rename(whole)
    names = sorted(file.name for file in whole.rglob("*") if ".tfevents." not in file.name)
    for last in (0, count // 2, *range(count - 4, count)):
        moments = 0
        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, "remove_unless_resumable", lambda *_, **__: None)
            with pytest.raises(Killed):
                run(*arguments)
        moments = -1000
        code, _, err = run(*arguments, "--resume")
        assert code == 0 or "there is no unfinished run" in err
        folder = tmp_path / "runs/t/version_0"
        assert sorted(file.name for file in (tmp_path / "runs").rglob("*") if ".tfevents." not in file.name) == names
        for name in ("config.yaml", "path.csv", "coefficients.csv", "out_of_fold.csv", "report.json"):
            assert (folder / name).read_bytes() == (whole / "t/version_0" / name).read_bytes(), last
        assert (
            load(folder / "checkpoints/last.ckpt").report()
            == load(whole / "t/version_0/checkpoints/last.ckpt").report()
        )
        shutil.rmtree(tmp_path / "runs")


def test_rare_classes_get_fewer_folds_or_are_refused(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for positives, code, words in ((3, 0, "3 folds instead of 10"), (1, 2, "a class has 1 training row")):
        lines = [f"{i},{i % 7},{'y' if i < positives else 'n'}" for i in range(30)]
        (tmp_path / "rare.csv").write_text("a,b,t\n" + "\n".join(lines) + "\n")
        done = run("path", "--data.path", "rare.csv", "--data.target", "t", "--path.n_lambda", "4")
        assert done[0] == code, done[2]
        assert words in done[2]


def test_rows_kept_back_take_no_part(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(
        "path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop",
        "--data.val_fraction", "0.25", "--path.lambdas", "[0.05]", "--cv.folds", "3",
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / "runs/t/version_0"
    rows = [int(row["row"]) for row in read(folder / "out_of_fold.csv")]
    assert len(rows) == 29
    assert rows == sorted(set(rows))
    assert json.loads((folder / "report.json").read_text())["calibration"] is not None
    assert read(folder / "path.csv")[0]["chosen"] == "min 1se"


def test_a_fold_column_and_groups_make_the_folds(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["path", "--data.path", table(tmp_path), "--data.target", "bought", "--data.missing", "drop"]
    arguments += ["--path.n_lambda", "3"]
    assert run(*arguments, "--cv.fold_column", "colour")[0] == 0
    colours = [row["colour"] for row in read(tmp_path / "t.csv")]
    rows = read(tmp_path / "runs/t/version_0/out_of_fold.csv")
    assert [row["fold"] for row in rows] == [colours[int(row["row"])] for row in rows]
    assert all("colour" not in name for name in load(tmp_path / "runs/t/version_0/checkpoints/last.ckpt").coefficients)
    assert run(*arguments, "--data.groups", "colour", "--cv.folds", "2")[0] == 0
    rows = read(tmp_path / "runs/t/version_1/out_of_fold.csv")
    of_colour = {(colours[int(row["row"])], row["fold"]) for row in rows}
    assert len(of_colour) == 3
    code, _, err = run(*arguments, "--cv.fold_column", "col")
    assert code == 2, err


def test_a_report_advises_no_path_after_one(run, tmp_path, monkeypatch, of_cancer) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": np.arange(40.0), "y": np.arange(40) > 19})
    frame.to_csv("t.csv", index=False)
    code, _, err = run("path", "--data.path", "t.csv", "--data.target", "y", "--path.lambdas", "[0]")
    assert code == 0, err
    for folder, words in (
        (of_cancer, "the estimates depend much on the penalty; with fewer columns"),
        (tmp_path / "runs/t/version_0", "or add a penalty (--model.l2 0.01 of fit), or leave out the column"),
    ):
        warnings = json.loads((folder / "report.json").read_text())["warnings"]
        assert [words in warning for warning in warnings].count(True) == 1, warnings
        assert not any("lr-lightning path" in warning for warning in warnings)


def test_a_column_that_only_identifies_the_rows_is_told_of(run, tmp_path, monkeypatch) -> None:
    """Leave-one-out is a legitimate choice, and an identifier a likely mistake."""
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": np.tile([0.0, 1.0, 2.0, 5.0], 9), "y": np.tile([0, 1, 0, 1, 1, 0], 6)})
    frame["row"], frame["pair"], frame["third"] = np.arange(36) + 7, np.arange(36) // 2, np.arange(36) // 3
    frame.to_csv("t.csv", index=False)
    arguments = ["path", "--data.path", "t.csv", "--data.target", "y", "--data.features", '["a"]']
    for column, count in (("row", 36), ("pair", 18), ("third", 12)):
        code, _, err = run(*arguments, "--path.l1_ratio", "0", "--path.lambdas", "[0.1]", "--cv.fold_column", column)
        assert code == 0, err
        told = f"option cv.fold_column: {column} makes {count} folds of 36 rows, fewer than 3 rows in each"
        assert (told in err) == (column != "third")
    folder, losses = tmp_path / "runs/t/version_0", []
    for out in range(36):
        logistic = LogisticRegressionOfScikitLearn(C=1 / (35 * 0.1), tol=1e-10, solver="newton-cholesky")
        others, one = frame.drop(index=out), frame.iloc[[out]]
        fitted = make_pipeline(StandardScaler(), logistic).fit(others[["a"]], others.y)
        losses.append(log_loss(one.y, fitted.predict_proba(one[["a"]]), labels=[0, 1]))
    (found,) = read(folder / "path.csv")
    assert float(found["cv_mean"]) == pytest.approx(np.mean(losses), rel=1e-7)
    assert float(found["cv_se"]) == pytest.approx(np.std(losses) / np.sqrt(35), rel=1e-6)


@pytest.mark.parametrize(
    ("holes", "on_disk"), [(["a", "flag", "colour"], False), (["shape"], False), (["a", "flag", "colour"], True)]
)
def test_a_fold_is_filled_in_by_the_other_rows_as_in_scikit_learns_pipeline(
    run, tmp_path, monkeypatch, holes, on_disk
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data.cache_dir", "cache"] if on_disk else []
    if on_disk:
        monkeypatch.setattr("lr_lightning.data.imputation.fits_in_memory", lambda _: False)
    generator = np.random.default_rng(1)
    n = 90
    frame = pd.DataFrame(
        {
            "a": generator.normal(3, 2, n),
            "b": generator.normal(size=n),
            "flag": (np.arange(n) % 2 == 0).astype(object),
            "colour": np.tile(["red", "blue", "blue", "red", "green", "red"], 15),
            "shape": np.where(generator.random(n) < 0.8, "round", "square"),
            "part": np.repeat(["x", "y", "z"], 30),
        }
    )
    frame.loc[frame.part == "x", "a"] += 5
    frame.loc[(frame.part == "y") & (generator.random(n) < 0.7), "colour"] = "blue"
    for name in holes:
        frame.loc[generator.random(n) < 0.3, name] = None
    score = frame.a.fillna(0) / 5 - frame.b + generator.normal(size=n)
    frame["y"] = (score > score.median()).astype(int)
    frame.to_csv("t.csv", index=False)
    code, _, err = run(
        "path", "--data.path", "t.csv", "--data.target", "y", "--data.missing", "impute",
        "--cv.fold_column", "part", "--path.l1_ratio", "0", "--path.lambdas", "[0.1, 0.01]", *options,
    )  # fmt: skip
    assert code == 0, err
    assert not on_disk or not list((tmp_path / "cache").glob(".*"))
    assert ("filled in anew without each fold" in err) == ("a" in holes)

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    most = SimpleImputer(strategy="most_frequent", missing_values=None)
    levels = make_pipeline(most, OneHotEncoder(drop="first", sparse_output=False), StandardScaler())
    coded = ColumnTransformer([("numbers", numbers, ["a", "b"]), ("levels", levels, ["flag", "colour", "shape"])])
    x = frame.drop(columns=["y", "part"]).astype({"colour": object, "shape": object})
    x = x.where(x.notna(), None).astype({"a": float, "b": float})
    folder = tmp_path / "runs/t/version_0"
    for row in read(folder / "path.csv"):
        losses, probability = [], np.empty(n)
        for part in "xyz":
            train, held = frame.part != part, frame.part == part
            logistic = LogisticRegressionOfScikitLearn(
                C=1 / (60 * float(row["lambda"])), tol=1e-10, solver="newton-cholesky"
            )
            fitted = make_pipeline(coded, logistic).fit(x[train], frame.y[train])
            probability[held] = fitted.predict_proba(x[held])[:, 1]
            losses.append(log_loss(frame.y[held], probability[held]))
        assert float(row["cv_mean"]) == pytest.approx(np.mean(losses), rel=1e-9)
        if "min" in row["chosen"]:
            found = [float(of_row["probability"]) for of_row in read(folder / "out_of_fold.csv")]
            assert found == pytest.approx(probability, rel=1e-7)
