import csv
import errno
import inspect
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import lr_lightning
from lr_lightning import load, memory
from lr_lightning.cli import first_look
from lr_lightning.statistics.render import as_text
from tests.conftest import ROOT, fit_in, imported_modules, python

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
    fit_in(folder, "--config", "conf/exam.yaml")
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


def test_an_overlay_changes_nothing_but_the_device(project, run):
    """That of several processes is in tests/distributed, that of a GPU below."""
    arguments = ["--config", "conf/breast_cancer.yaml", "--config", "conf/trainer/cpu.yaml"]
    done = python("-m", "lr_lightning", "fit", *arguments, "--trainer.precision", "64-true", cwd=project)
    assert done.returncode == 0, done.stderr
    alone = ["--config", "conf/breast_cancer.yaml", "--trainer.precision", "64-true"]
    assert run("fit", *alone)[0] == 0
    first, second = (load(f"runs/breast_cancer/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    assert first.coefficients == pytest.approx(second.coefficients, rel=1e-9)
    of_libraries = [line for line in done.stderr.splitlines() if ".py:" in line or "recommend" in line]
    assert of_libraries == []


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


def test_held_out_metrics_are_those_of_the_rows_kept_back(breast_cancer_run, project, run):
    """Measured again with scikit-learn, on the rows that the module says it kept."""
    from sklearn import metrics

    from lr_lightning import TableDataModule

    checkpoint = breast_cancer_run / "checkpoints/last.ckpt"
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


def test_test_takes_every_row_of_another_table(breast_cancer_run, project, run):
    table = ROOT / "conf/samples/breast_cancer.csv"
    checkpoint = shutil.copy(breast_cancer_run / "checkpoints/last.ckpt", project)
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


@pytest.mark.parametrize("name", ["probability", "prediction", "probability_low"])
def test_predict_refuses_an_identifier_that_its_own_column_would_hide(exam_checkpoint, project, run, name):
    (project / "new.csv").write_text(f"{name},hours\n1,5\n")
    code, out, err = run("predict", "--ckpt_path", exam_checkpoint, "--data.path", "new.csv", "--id", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"option id: {name}" in err


def test_predict_refuses_an_identifier_that_csv_cannot_hold(exam_checkpoint, project, run):
    pq.write_table(pa.table({"tags": [["a"], ["b"]], "hours": [5.0, 0.5]}), "new.parquet")
    arguments = ("predict", "--ckpt_path", exam_checkpoint, "--data.path", "new.parquet", "--id", "tags")
    code, out, err = run(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "option id: tags" in err
    assert run(*arguments, "--output", "out.parquet")[0] == 0
    assert pq.read_table("out.parquet")["tags"].to_pylist() == [["a"], ["b"]]


@pytest.mark.parametrize(("types", "code"), [((pa.int64(), pa.int32()), 0), ((pa.int8(), pa.int64()), 2)])
def test_predict_takes_identifiers_of_unlike_width(exam_checkpoint, project, run, types, code):
    (project / "new").mkdir()
    for part, kind, number in zip("ab", types, (1, 70_000), strict=True):
        pq.write_table(pa.table({"id": pa.array([number], kind), "hours": [5.0]}), f"new/{part}.parquet")
    arguments = ("predict", "--ckpt_path", exam_checkpoint, "--data.path", "new", "--id", "id", "--output", "o.parquet")
    found, _, err = run(*arguments)
    assert found == code, err
    if code == 0:
        assert pq.read_table("o.parquet")["id"].to_pylist() == [1, 70_000]
    else:
        assert "option id: id" in err
        assert not (project / "o.parquet").exists()


def test_a_feature_may_be_called_as_the_intercept(project, run):
    generator = np.random.default_rng(0)
    rows = "".join(f"{x},{int(e < 1 / (1 + math.exp(-x)))}\n" for x, e in zip(*generator.random((2, 200)), strict=True))
    (project / "r.csv").write_text('"(Intercept)",y\n' + rows)
    for options in ([], ["--model.fit_intercept", "false"]):
        code, _, err = run("fit", "--data.path", "r.csv", "--data.target", "y", *options)
        assert code == 0, err
    for version in (0, 1):
        predictor = load(f"runs/r/version_{version}/checkpoints/last.ckpt")
        assert [row.name for row in predictor.report().coefficients] == ["(Intercept)"] * (2 - version)


def test_predict_to_parquet_gives_the_same_numbers(exam_checkpoint, project, run):
    for output in ("out.csv", "out.parquet"):
        arguments = ["--ckpt_path", exam_checkpoint, "--data.path", EXAM, "--output", output]
        assert run("predict", *arguments) == (0, "", "")
    table = pq.read_table("out.parquet")
    rows = read_csv(project / "out.csv")
    assert table.column_names == ["probability", "prediction"]
    assert table["probability"].to_pylist() == [float(row["probability"]) for row in rows]
    assert len(rows) == 20


# ---- report -------------------------------------------------------------------------------------------------


def test_report_has_the_published_standard_errors(exam_checkpoint, run):
    """The twenty students, as published to four digits."""
    code, out, _ = run("report", "--ckpt_path", exam_checkpoint, "--format", "json")
    report = json.loads(out)
    rows = {row["name"]: row for row in report["coefficients"]}
    assert code == 0
    assert rows["(Intercept)"]["std_error"] == pytest.approx(1.7610, abs=1e-4)
    assert rows["hours"]["std_error"] == pytest.approx(0.6287, abs=1e-4)
    assert rows["hours"]["p_value"] == pytest.approx(0.0167, abs=1e-4)
    assert report["log_likelihood"] == pytest.approx(-8.029878464345, abs=1e-6)
    assert (report["n_observations"], report["n_parameters"], report["converged"]) == (20, 2, True)


def test_report_agrees_with_statsmodels_and_is_the_file_of_the_run(project, run):
    """Spector and Mazzeo's 32 students, in float64; robust errors too."""
    import statsmodels.api as sm

    spector = sm.datasets.spector.load_pandas().data
    spector.to_csv("spector.csv", index=False)
    options = ["--data.path", "spector.csv", "--data.target", "GRADE", "--data.val_fraction", "0", "--quiet"]
    for version, covariance in enumerate(("nonrobust", "HC0")):
        assert run("fit", *options, "--trainer.precision", "64-true", "--covariance", covariance)[0] == 0
        report = json.loads((project / f"runs/spector/version_{version}/report.json").read_text())
        _, out, _ = run(
            "report", "--ckpt_path", f"runs/spector/version_{version}/checkpoints/last.ckpt", "--format=json"
        )
        assert json.loads(out) == report
        exog = sm.add_constant(spector[["GPA", "TUCE", "PSI"]])
        expected = sm.Logit(spector["GRADE"], exog).fit(disp=False, cov_type=covariance, tol=1e-12)
        rows = report["coefficients"]
        assert [row["estimate"] for row in rows] == pytest.approx(expected.params.tolist(), rel=1e-6)
        assert [row["std_error"] for row in rows] == pytest.approx(expected.bse.tolist(), rel=1e-5)
        assert [row["p_value"] for row in rows] == pytest.approx(expected.pvalues.tolist(), rel=1e-4)


def test_a_dependent_column_is_left_out_and_named(project, run):
    """As R's glm does: the later column has no coefficient, and the predictions are those without it."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(300, 2))
    y = generator.random(300) < 1 / (1 + np.exp(-x[:, 0]))
    columns = {"a": x[:, 0], "b": x[:, 1], "c": 2 * x[:, 0] - x[:, 1] + 3, "y": y.astype(int)}
    text = "\n".join(
        ",".join(map(repr, row)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    )
    (project / "dependent.csv").write_text("a,b,c,y\n" + text + "\n")
    options = ["--data.path", "dependent.csv", "--data.target", "y", "--data.val_fraction", "0", "--quiet"]
    assert run("fit", *options)[0] == 0
    assert run("fit", *options, "--data.features", '["a", "b"]')[0] == 0
    both, without = (load(f"runs/dependent/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    rows = {row.name: row for row in both.report().coefficients}
    assert rows["c"].estimate is None
    assert any("c = 2·a − b + 3" in warning for warning in both.report().warnings)
    assert both.coefficients["c"] == 0
    assert both.coefficients["a"] == pytest.approx(rows["a"].estimate, rel=1e-9)
    assert both.probability("dependent.csv").numpy() == pytest.approx(
        without.probability("dependent.csv").numpy(), abs=1e-6
    )


def test_report_is_the_same_bytes_again(breast_cancer_run, project, run):
    assert run("fit", "--config", "conf/breast_cancer.yaml", "--quiet")[0] == 0
    again = project / "runs/breast_cancer/version_0/report.json"
    assert again.read_bytes() == (breast_cancer_run / "report.json").read_bytes()


def test_interval_of_a_probability_is_the_delta_methods(exam_checkpoint, project, run):
    import statsmodels.api as sm

    arguments = ["--ckpt_path", exam_checkpoint, "--data.path", EXAM, "--interval", "--level", "0.9"]
    _, out, _ = run("predict", *arguments)
    rows = list(csv.DictReader(io.StringIO(out)))
    x, y = np.loadtxt(EXAM, delimiter=",", skiprows=1).T
    result = sm.Logit(y, sm.add_constant(x)).fit(disp=False, tol=1e-12)
    design = sm.add_constant(x)
    logit, error = design @ result.params, np.sqrt(np.einsum("ij,jk,ik->i", design, result.cov_params(), design))
    for name, sign in (("probability_low", -1), ("probability_high", 1)):
        limit = 1 / (1 + np.exp(-(logit + sign * 1.6448536269514722 * error)))
        assert [float(row[name]) for row in rows] == pytest.approx(limit, abs=1e-6)


def test_a_threshold_chosen_on_validation_rows_is_used_by_predict(project, run):
    options = ["--config", "conf/breast_cancer.yaml", "--quiet"]
    assert run("fit", *options, "--model.threshold", "cost=20")[0] == 0
    checkpoint = "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    predictor = load(checkpoint)
    assert 0 < predictor.threshold < 0.5  # a missed tumour is dear
    p = predictor.probability("conf/samples/breast_cancer.csv").numpy()
    labels = predictor.predict("conf/samples/breast_cancer.csv")
    assert (labels == "malignant").tolist() == (p > predictor.threshold).tolist()
    assert predictor.report().threshold_rule == "cost=20 on the validation rows"


def test_every_picture_of_a_table_is_there(breast_cancer_run):
    names = {path.stem for path in (breast_cancer_run / "figures").iterdir()}
    pictures = {"coefficients", "confusion_matrix", "effects", "precision_recall", "reliability", "roc"}
    assert names == pictures  # of one pass


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
    ([*FIT_EXAM, "--config", "wrong_type.yaml"], ["model.l2", "plenty"]),
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
    ([*FIT_EXAM, "--model.threshold", "best"], ["threshold", "best", "f1"]),
    ([*FIT_EXAM, "--model.threshold", "f1", "--data.val_fraction", "0"], ["f1", "val_fraction"]),
    ([*FIT_EXAM, "--level", "95"], ["level", "95"]),
    ([*FIT_EXAM, "--covariance", "HC7"], ["covariance", "HC7"]),
    (["report"], ["ckpt_path"]),
    (["report", "--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
    (["report", "--ckpt_path", "CKPT", "--level", "2"], ["level", "2"]),
    (["report", "--ckpt_path", "CKPT", "--format", "pdf"], ["format", "pdf"]),
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
    (project / "runs").mkdir()  # a fit that is refused may leave it, empty
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


# ---- the file system ----------------------------------------------------------------------------------------

TABLE = "x,y\n1,0\n2,1\n3,0\n4,1\n5,0\n6,1\n"
FIT_TABLE = ["fit", "--data.path", "base.csv", "--data.target", "y", "--data.val_fraction", "0", "--quiet"]


def refused(result):
    code, out, err = result
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize("where", ["runs", "runs/base"])
@pytest.mark.parametrize("kind", ["link to nowhere", "link to itself", "link to a file", "file"])
def test_a_run_folder_that_cannot_be_made(project, run, where, kind):
    (project / "base.csv").write_text(TABLE)
    place = project / where
    place.parent.mkdir(exist_ok=True)
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(
            {"link to nowhere": "/nonexistent/scratch", "link to itself": place}.get(kind, project / "base.csv")
        )
    assert where in refused(run(*FIT_TABLE))
    assert "resume" in refused(run(*FIT_TABLE, "--resume"))


def test_a_version_that_is_a_link_to_nowhere_is_passed_over(project, run):
    (project / "base.csv").write_text(TABLE)
    (project / "runs/base").mkdir(parents=True)
    (project / "runs/base/version_0").symlink_to("/nonexistent")
    (project / "runs/base/version_1").touch()
    assert run(*FIT_TABLE)[0] == 0
    assert (project / "runs/base/version_2/report.json").exists()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_folder_in_which_nothing_can_be_made(project, run, monkeypatch, code):
    """The tests may run as root, whom no permission stops."""
    (project / "base.csv").write_text(TABLE)

    def refuse(path, *rest, **options):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    line = refused(run(*FIT_TABLE))
    assert "runs" in line
    assert os.strerror(code) in line


@pytest.mark.parametrize("of_arrow", [True, False])
def test_too_little_memory_is_told_in_one_line(project, run, monkeypatch, of_arrow):
    pq.write_table(pa.table({"x": [0.0, 1.0, 2.0, 3.0] * 5, "y": [0, 1, 0, 1] * 5}), project / "base.parquet")

    def fail(*arguments, **options):
        monkeypatch.setattr(memory, "available_memory", lambda: 2**16)
        if of_arrow:
            raise pa.ArrowMemoryError("malloc of size 64 failed")
        torch.empty(2**55)  # more than there are addresses

    monkeypatch.setattr(pq.ParquetFile, "read", fail)
    code, out, err = run("fit", "--data.path", "base.parquet", "--data.target", "y")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: there is not enough memory")
    assert not list((project / "runs").glob("*"))


NAMES = [".csv", "x" * 251 + ".csv", "a\nb\x1b[2J.csv", "-a.csv", "[a]*?%s{} .csv", "~.csv"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:20] for name in NAMES])
def test_a_table_may_have_any_name_that_a_folder_may_have(project, run, name):
    (project / name).write_text(TABLE)
    code, _, err = run("fit", f"--data.path={name}", *FIT_TABLE[3:])
    assert code == 0, err
    (folder,) = (project / "runs").iterdir()
    assert folder.name == (name.split(".")[0] or "table")
    assert (folder / "version_0/checkpoints/last.ckpt").exists()


def test_a_table_whose_name_no_checkpoint_can_have(project, run):
    (project / "a::b.csv").write_text(TABLE)
    assert "a::b" in refused(run("fit", "--data.path", "a::b.csv", *FIT_TABLE[3:]))
    assert not any((project / "runs").glob("*"))


@pytest.mark.parametrize("command", ["predict", "export"])
@pytest.mark.parametrize("where", ["no/such", "base.csv/x", "loop/x", "nowhere/x", "folder", "x" * 300])
def test_an_output_that_cannot_be_written(exam_checkpoint, project, run, command, where):
    (project / "base.csv").write_text("hours\n1\n")
    (project / "loop").symlink_to("loop")
    (project / "nowhere").symlink_to("/nonexistent")
    name = f"{where}.csv" if command == "predict" else f"{where}.json"
    if where == "folder":
        (project / name).mkdir()
    before = sorted(project.iterdir())
    data = ["--data.path", "base.csv"] if command == "predict" else []
    assert "output" in refused(run(command, "--ckpt_path", exam_checkpoint, *data, "--output", name))
    assert sorted(project.iterdir()) == before


def test_an_output_of_the_longest_name(exam_checkpoint, project, run):
    name = "x" * 250 + ".json"
    assert run("export", "--ckpt_path", exam_checkpoint, "--output", name)[0] == 0
    assert [path.name for path in project.iterdir() if path.name != "conf"] == [name]


def test_a_device_is_not_replaced_by_a_file(exam_checkpoint, project, run):
    os.mkfifo("pipe.json")
    assert "pipe.json" in refused(run("export", "--ckpt_path", exam_checkpoint, "--output", "pipe.json"))
    assert (project / "pipe.json").is_fifo()


@pytest.mark.parametrize("where", ["base.csv", "base.csv/x", "loop", "nowhere", "x" * 300])
def test_a_cache_that_cannot_be_written(project, run, where):
    (project / "base.csv").write_text(TABLE)
    (project / "loop").symlink_to("loop")
    (project / "nowhere").symlink_to("/nonexistent")
    assert where in refused(run(*FIT_TABLE, "--data.cache_dir", where))
    assert not any((project / "runs").glob("*"))


@pytest.mark.parametrize("command", ["fit", "test", "predict", "report", "export"])
@pytest.mark.parametrize("where", ["loop", "nowhere", "base.csv/x", "x" * 300, "pipe", "conf"])
def test_a_checkpoint_that_is_not_there(project, run, command, where):
    (project / "base.csv").write_text(TABLE)
    (project / "loop").symlink_to("loop")
    (project / "nowhere").symlink_to("/nonexistent")
    os.mkfifo("pipe")
    assert where in refused(run(command, "--ckpt_path", where))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_stream_that_is_full(exam_checkpoint, project, unbuffered):
    command = f"{sys.executable} -m lr_lightning report --ckpt_path {exam_checkpoint} > /dev/full"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (
        2,
        "error: No space left on device\n",
    )


# ---- start-up -----------------------------------------------------------------------------------------------


def test_help_and_version_import_not_even_torch(project):
    for option in ("--help", "--version"):
        modules = imported_modules(f"from lr_lightning.cli.main import main; main([{option!r}])", project)
        assert not {"torch", "lightning", "torchmetrics", "pyarrow", "numpy"} & modules


def test_importing_the_package_imports_nothing_heavy(project):
    modules = imported_modules("import lr_lightning", project)
    assert not {"torch", "lightning", "torchmetrics", "pyarrow", "numpy"} & modules


def test_predict_imports_neither_lightning_nor_torchmetrics(project, exam_checkpoint):
    arguments = ["predict", "--ckpt_path", str(exam_checkpoint), "--data.path", str(EXAM)]
    modules = imported_modules(f"from lr_lightning.cli.main import main; main({json.dumps(arguments)})", project)
    assert not {"lightning", "pytorch_lightning", "torchmetrics", "tensorboard", "matplotlib"} & modules


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "report"])
def test_each_command_has_a_help(project, run, command):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0


EARLY = [
    ["fit"],
    ["path", "--data.target", "y"],
    ["fit", "--data.path", "nowhere.csv", "--data.target", "y"],
    ["fit", "--config", "nowhere.yaml"],
    ["fit", "--config", "here.yaml"],
    ["fit", "--config", "unknown.yaml"],
    ["fit", "--config", "unknown_data.yaml"],
    ["fit", "--config", "unknown_top.yaml"],
    ["fit", "--config", "broken.yaml"],
    [*FIT_EXAM, "--data.fraction", "1"],
    [*FIT_EXAM, "--data.init_args.fraction=1"],
    [*FIT_EXAM, "--model.l3", "1"],
    [*FIT_EXAM, "--modell", "1"],
    [*FIT_EXAM, "--trainer.max_epoch", "1"],
    [*FIT_EXAM, "--data", "StudentDataModule"],
    ["fit", "--data.path", str(EXAM), "--data.target", "grade"],
    ["fit", "--data.path", str(EXAM)],
    [*FIT_EXAM, "--data.features", '["hours", "age"]'],
    [*FIT_EXAM, "--data.weight=w"],
    *([command, "--ckpt_path", "nowhere.ckpt"] for command in ("test", "validate", "predict", "report", "export")),
    *(
        [command, "--ckpt_path", str(EXAM), "--nothing"]
        for command in ("test", "validate", "predict", "report", "export")
    ),
    *([command, "--ckpt_path", str(EXAM), "--data.path", "nowhere.csv"] for command in ("test", "validate", "predict")),
]


def test_mistakes_of_which_torch_knows_nothing_do_not_wait_for_it(project):
    """All of them in one process, which would know of torch from the first that needs it."""
    (project / "here.yaml").write_text("data:\n  init_args:\n    path: nowhere.csv\n    target: y\n")
    (project / "unknown.yaml").write_text("trainer:\n  max_epoch: 3\n")
    (project / "unknown_data.yaml").write_text("data:\n  class_path: TableDataModule\n  init_args: {targe: y}\n")
    (project / "unknown_top.yaml").write_text("seed: 3\n")
    (project / "broken.yaml").write_text("model: [1")
    modules = imported_modules(
        f"from lr_lightning.cli.main import main\nassert [main(a) for a in {EARLY!r}] == [2] * {len(EARLY)}", project
    )
    assert not {"torch", "lightning"} & modules


@pytest.mark.parametrize("command", first_look.PARSERS)
def test_the_first_look_knows_the_options_of_the_parser(command):
    """Neither more, which would let mistakes pass, nor less, which would refuse what there is."""
    parser = import_module(f"lr_lightning.cli.{command}").make_parser()
    options = {option.removeprefix("--") for option in parser._option_string_actions if not option.endswith("+")}
    options = {option for option in options - {"-h"} if not option.endswith(".help")} | {"help", "print_config"}
    groups = first_look.PARSERS[command][1]
    assert {option.partition(".")[0] for option in options if option not in first_look.options_of(command)} <= set(
        groups
    )
    assert first_look.options_of(command) - first_look.ADDED_ELSEWHERE <= options
    for group, names in (
        (
            "model",
            first_look.parameters_of("LogisticRegression")
            - first_look.SET_ELSEWHERE
            - first_look.CHOSEN.get(command, frozenset()),
        ),
        ("trainer", first_look.trainer_parameters()),
    ):
        assert group not in groups or {o for o in options if o.startswith(f"{group}.")} == {
            f"{group}.{n}" for n in names
        }


@pytest.mark.parametrize("name", ["TableDataModule", "HoursDataModule"])
def test_the_first_look_knows_the_arguments_of_the_data(name):
    parameters = inspect.signature(getattr(lr_lightning, name)).parameters
    assert first_look.parameters_of(name) == set(parameters)


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
    report = load(project / "runs/breast_cancer/version_0/checkpoints/last.ckpt").report()
    assert said[1:-4] == [*as_text(report).splitlines(), ""]
    assert [line.split()[0] for line in said[-4:]] == ["final", "best", "checkpoint", "look"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_fit_with_its_state_on_disk(project, signum, code):
    """The process is told once it has shown an epoch; a million would take an hour."""
    arguments = ["fit", "--config", "conf/hours.yaml", "--trainer.max_epochs", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lr_lightning", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run_folder = project / "runs/hours/version_0"
        for _ in range(600):
            if run_folder.exists() and any(run_folder.glob("config.yaml")):
                break
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith(
        f"stopped by {signum.name}; to go on: lr-lightning fit --config conf/hours.yaml"
    )
    assert "Traceback" not in err
    assert load(run_folder / "checkpoints/last.ckpt").coefficients["hours"] != -0.5
