import csv
import io
import json
import math

import numpy as np
import pytest
import torch
import yaml

from lr_lightning import load
from tests.conftest import ROOT, imported_modules, python

EXAM = ROOT / "conf" / "samples" / "exam.csv"
PUBLISHED = {
    "intercept": -4.077713431088,
    "hours": 1.504645428373,
}  # the 20 students, published to four digits


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def exam_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exam")
    (folder / "conf").symlink_to(ROOT / "conf")
    done = python("-m", "lr_lightning", "fit", "--config", "conf/exam.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "exam" / "version_0" / "checkpoints" / "last.ckpt"


def test_exam_has_the_published_coefficients(exam_checkpoint):
    predictor = load(exam_checkpoint)
    assert predictor.coefficients == pytest.approx({"hours": PUBLISHED["hours"]}, abs=1e-4)
    assert predictor.intercept == pytest.approx(PUBLISHED["intercept"], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "LBFGS"],
        ["--optimizer", "Adam", "--optimizer.lr", "0.3", "--trainer.max_epochs", "400"],
        ["--optimizer", "SGD", "--optimizer.lr", "2", "--trainer.max_epochs", "1000"],
        ["--trainer.precision", "64-true"],
        ["--model.standardize", "false"],
    ],
)
def test_optimizers_by_name_reach_the_published_coefficients(project, run, options):
    code, _, err = run("fit", "--config", "conf/exam.yaml", "--quiet", *options)
    assert code == 0, err
    predictor = load("runs/exam/version_0/checkpoints/last.ckpt")
    assert predictor.coefficients["hours"] == pytest.approx(PUBLISHED["hours"], abs=1e-4)
    assert predictor.intercept == pytest.approx(PUBLISHED["intercept"], abs=3e-4)


def test_table_and_exact_solver_are_the_defaults(project, run):
    assert run("fit", "--data.path", EXAM, "--data.target", "passed", "--data.val_fraction", "0")[:2] == (0, "")
    saved = yaml.safe_load((project / "runs/exam/version_0/config.yaml").read_text())
    assert saved["data"]["class_path"] == "lr_lightning.TableDataModule"
    assert "optimizer" not in saved
    assert load("runs/exam/version_0/checkpoints/last.ckpt").coefficients["hours"] == pytest.approx(1.504645, abs=1e-5)


@pytest.mark.parametrize("overlay", ["cpu", "ddp"])
def test_overlays_change_nothing_but_the_device(project, overlay):
    arguments = ["--config", "conf/breast_cancer.yaml", "--config", f"conf/trainer/{overlay}.yaml"]
    done = python("-m", "lr_lightning", "fit", *arguments, "--trainer.precision", "64-true", cwd=project)
    assert done.returncode == 0, done.stderr
    alone = ["--config", "conf/breast_cancer.yaml", "--trainer.precision", "64-true"]
    assert python("-m", "lr_lightning", "fit", *alone, cwd=project).returncode == 0
    first, second = (load(f"runs/breast_cancer/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    assert first.coefficients == pytest.approx(second.coefficients, rel=1e-9)
    warnings = [line for line in done.stderr.splitlines() if "warn" in line.lower() or "recommend" in line]
    assert warnings == []


def test_gpu_overlay_is_refused_in_one_line_without_one(project, run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, out, err = run("fit", "--config", "conf/hours.yaml", "--config", "conf/trainer/gpu.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: trainer: ")


def test_versions_count_up_and_test_makes_none(project, run):
    for _ in range(2):
        assert run("fit", "--config", "conf/breast_cancer.yaml", "--quiet")[0] == 0
    assert sorted(path.name for path in (project / "runs/breast_cancer").iterdir()) == [
        "version_0",
        "version_1",
    ]
    checkpoint = project / "runs/breast_cancer/version_1/checkpoints/last.ckpt"
    code, out, err = run("test", "--ckpt_path", checkpoint)
    assert code == 0, err
    assert sorted(path.name for path in (project / "runs/breast_cancer").iterdir()) == [
        "version_0",
        "version_1",
    ]
    names = ["loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error"]
    assert [line.split()[0] for line in out.splitlines()] == [f"test/{name}" for name in names]


def test_held_out_metrics_are_those_of_the_rows_kept_back(project, run):
    """Measured again with scikit-learn, on the rows that the module says it kept."""
    from sklearn import metrics

    from lr_lightning import TableDataModule

    assert run("fit", "--config", "conf/breast_cancer.yaml", "--quiet")[0] == 0
    checkpoint = "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    code, out, _ = run("validate", "--ckpt_path", checkpoint)
    assert code == 0
    said = {name: float(value) for name, value in map(str.split, out.splitlines())}
    data = TableDataModule("conf/samples/breast_cancer.csv", "diagnosis", val_fraction=0.2, seed=0)
    data.prepare_data()
    data.setup("fit")
    rows = data.val_rows
    x = rows.x.double() * data.served.scale + data.served.mean
    p, y = load(checkpoint).probability(x).numpy(), rows.y.numpy()
    assert len(y) == 113  # a fifth of 357 and of 212, rounded each
    assert abs(y.mean() - 212 / 569) < 0.01  # stratified
    expected = {
        "val/loss": metrics.log_loss(y, p),
        "val/accuracy": metrics.accuracy_score(y, p > 0.5),
        "val/auroc": metrics.roc_auc_score(y, p),
        "val/average_precision": metrics.average_precision_score(y, p),
        "val/f1": metrics.f1_score(y, p > 0.5),
        "val/brier": metrics.brier_score_loss(y, p),
    }
    assert {name: said[name] for name in expected} == pytest.approx(expected, rel=2e-5)


def test_test_takes_every_row_of_another_table(project, run):
    assert run("fit", "--config", "conf/breast_cancer.yaml", "--quiet")[0] == 0
    table = ROOT / "conf/samples/breast_cancer.csv"
    checkpoint = "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    code, out, err = run("test", "--ckpt_path", checkpoint, "--data.path", table)
    assert code == 0, err
    p = load(checkpoint).probability(table).numpy()
    y = np.array([row["diagnosis"] == "malignant" for row in read_csv(table)])
    loss = -np.log(np.where(y, p, 1 - p)).mean()
    assert float(out.splitlines()[0].split()[1]) == pytest.approx(loss, rel=2e-5)


# ---- predict ------------------------------------------------------------------------------------------------


def test_predict_without_data_takes_the_experiments_own_input(hours_run, run):
    code, out, err = run("predict", "--ckpt_path", hours_run / "checkpoints" / "last.ckpt")
    assert (code, err) == (0, "")
    header, row = out.splitlines()
    assert header == "probability,prediction"
    assert float(row.split(",")[0]) == pytest.approx(0.8327455520629883, abs=1e-7)
    assert row.split(",")[1] == "1"


def test_predict_writes_every_row_in_order_without_the_target(exam_checkpoint, project, run):
    (project / "new.csv").write_text("student,hours\nAnn,5\nBob,0.5\nCleo,2.71\n")
    code, out, err = run("predict", "--ckpt_path", exam_checkpoint, "--data.path", "new.csv", "--id", "student")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["student"] for row in rows] == ["Ann", "Bob", "Cleo"]
    expected = [1 / (1 + math.exp(4.077713431088 - 1.504645428373 * hours)) for hours in (5, 0.5, 2.71)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected, abs=1e-6)
    assert [row["prediction"] for row in rows] == ["1", "0", "1" if expected[2] > 0.5 else "0"]
    exact = load(exam_checkpoint).probability([[5.0], [0.5], [2.71]]).tolist()
    assert [float(row["probability"]) for row in rows] == exact  # with all their digits


def test_predict_to_parquet_gives_the_same_numbers(exam_checkpoint, project, run):
    import pyarrow.parquet

    for output in ("out.csv", "out.parquet"):
        arguments = ["--ckpt_path", exam_checkpoint, "--data.path", EXAM, "--output", output]
        assert run("predict", *arguments) == (0, "", "")
    table = pyarrow.parquet.read_table("out.parquet")
    rows = read_csv(project / "out.csv")
    assert table.column_names == ["probability", "prediction"]
    assert table["probability"].to_pylist() == [float(row["probability"]) for row in rows]
    assert len(rows) == 20


# ---- mistakes -----------------------------------------------------------------------------------------------

FIT_EXAM = ["fit", "--data.path", str(EXAM), "--data.target", "passed"]
MISTAKES = [
    (["fit", "--data.path", "nowhere.csv", "--data.target", "y"], ["nowhere.csv"]),
    (["fit", "--data.path", str(EXAM), "--data.target", "grade"], ["exam.csv", "grade"]),
    (["fit", "--data.path", str(EXAM)], ["target"]),
    ([*FIT_EXAM, "--data.features", '["hours", "age"]'], ["exam.csv", "age"]),
    ([*FIT_EXAM, "--data.fraction", "1"], ["data", "fraction"]),
    ([*FIT_EXAM, "--data.val_fraction", "1.5"], ["val_fraction", "1.5"]),
    ([*FIT_EXAM, "--model.l3", "1"], ["model.l3"]),
    ([*FIT_EXAM, "--model.l2", "much"], ["model.l2", "much", "float"]),
    ([*FIT_EXAM, "--model.l2=-1"], ["l2", "-1"]),
    ([*FIT_EXAM, "--model.threshold", "2"], ["threshold", "2"]),
    ([*FIT_EXAM, "--model.reduction", "median"], ["model.reduction", "median", "mean", "sum"]),
    ([*FIT_EXAM, "--optimizer", "Newton"], ["optimizer", "Newton"]),
    ([*FIT_EXAM, "--optimizer", "SGD", "--optimizer.speed", "1"], ["optimizer", "speed"]),
    ([*FIT_EXAM, "--optimizer", "SGD", "--optimizer.lr", "fast"], ["optimizer.lr", "fast"]),
    ([*FIT_EXAM, "--optimizer", "SGD", "--optimizer.lr=-1"], ["SGD", "-1"]),
    (
        [*FIT_EXAM, "--optimizer", "SGD", "--optimizer.lr", "1e300", "--model.standardize", "false"],
        ["finite", "lr"],
    ),
    ([*FIT_EXAM, "--optimizer", "LBFGS", "--model.l1", "0.1"], ["LBFGS", "L1"]),
    ([*FIT_EXAM, "--trainer.max_epochs", "many"], ["trainer.max_epochs", "many"]),
    ([*FIT_EXAM, "--trainer.precision", "bf16-mixed"], ["bf16-mixed", "64-true"]),
    ([*FIT_EXAM, "--model.initial_weight", "[1, 2]"], ["initial_weight", "2", "1"]),
    ([*FIT_EXAM, "--model.class_weight", '{"7": 1.0}'], ["class_weight", "7"]),
    (["fit", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
    (["fit", "--config", "broken.yaml"], ["broken.yaml"]),
    (["fit", "--config", "unknown_key.yaml"], ["model.strength"]),
    (["fit", "--config", "wrong_type.yaml"], ["model.l2", "plenty"]),
    (["fit"], ["data"]),
    (["fit", "--data", "StudentDataModule"], ["StudentDataModule"]),
    (["predict"], ["ckpt_path"]),
    (["predict", "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
    (["predict", "--ckpt_path", str(EXAM), "--data.path", str(EXAM)], ["exam.csv", "checkpoint"]),
    (["predict", "--ckpt_path", "CKPT"], ["data.path"]),
    (["predict", "--ckpt_path", "CKPT", "--data.path", "nowhere.csv"], ["nowhere.csv"]),
    (["predict", "--ckpt_path", "CKPT", "--data.path", "no_hours.csv"], ["no_hours.csv", "hours"]),
    (["predict", "--ckpt_path", "CKPT", "--data.path", str(EXAM), "--id", "name"], ["name"]),
    (
        ["predict", "--ckpt_path", "CKPT", "--data.path", str(EXAM), "--output", "out.xlsx"],
        ["out.xlsx", ".csv"],
    ),
    (
        ["predict", "--ckpt_path", "CKPT", "--data.path", str(EXAM), "--output", "no/such.csv"],
        ["output", "no"],
    ),
    (["test", "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
    (["test"], ["ckpt_path"]),
    (["test", "--ckpt_path", "CKPT"], ["val_fraction"]),
    (["validate", "--ckpt_path", "CKPT", "--data.path", "no_hours.csv"], ["no_hours.csv", "hours"]),
    (["train"], ["train", "fit"]),
    (["--verbose"], ["--verbose"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(m[0][:1] + m[0][-2:]) for m in MISTAKES])
def test_mistake_ends_in_one_plain_line(project, run, exam_checkpoint, arguments, named):
    files = {
        "broken.yaml": "model: [1",
        "unknown_key.yaml": "model:\n  strength: 3\n",
        "wrong_type.yaml": "model:\n  l2: plenty\n",
        "no_hours.csv": "minutes,passed\n30,0\n90,1\n",
    }
    for name, text in files.items():
        (project / name).write_text(text)
    before = sorted(path for path in project.rglob("*") if "conf" not in path.parts)
    arguments = [str(exam_checkpoint) if argument == "CKPT" else argument for argument in arguments]
    code, out, err = run(*arguments)
    assert (code, out) == (2, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "usage:" not in err
    assert "Traceback" not in err
    assert [word for word in named if word not in last] == []
    assert sorted(path for path in project.rglob("*") if "conf" not in path.parts) == before


# ---- start-up -----------------------------------------------------------------------------------------------


def test_help_and_version_import_not_even_torch(project):
    for option in ("--help", "--version"):
        modules = imported_modules(f"from lr_lightning.cli import main; main([{option!r}])", project)
        assert not {"torch", "lightning", "torchmetrics", "pyarrow", "numpy"} & modules


def test_importing_the_package_imports_nothing_heavy(project):
    modules = imported_modules("import lr_lightning", project)
    assert not {"torch", "lightning", "torchmetrics", "pyarrow", "numpy"} & modules


def test_predict_imports_neither_lightning_nor_torchmetrics(project, exam_checkpoint):
    arguments = ["predict", "--ckpt_path", str(exam_checkpoint), "--data.path", str(EXAM)]
    modules = imported_modules(f"from lr_lightning.cli import main; main({json.dumps(arguments)})", project)
    assert not {"lightning", "pytorch_lightning", "torchmetrics", "tensorboard", "matplotlib"} & modules


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_each_command_has_a_help(project, run, command):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"  {command}" in out for command in ("fit", "validate", "test", "predict"))


def test_default_table_fit_is_quiet(project):
    """Messages about the data, progress and the summary; no warning, no advertisement."""
    done = python("-m", "lr_lightning", "fit", "--config", "conf/breast_cancer.yaml", cwd=project)
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert said[0].startswith("conf/samples/breast_cancer.csv: diagnosis = malignant is the positive class")
    assert [line.split()[0] for line in said[1:]] == ["final", "best", "checkpoint", "look"]
