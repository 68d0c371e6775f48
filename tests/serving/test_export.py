"""What ONNX Runtime and SQL make of an exported model is what `predict` says."""

from __future__ import annotations

import datetime
import io
import json
import math
import re
import sqlite3
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lr_lightning import InputError, LinearSigmoid, Predictor, load
from lr_lightning.data.schema import Column, TableSchema
from lr_lightning.model.standardization import Standardization
from lr_lightning.serving.onnx import MISSING_INTEGER, to_onnx
from lr_lightning.serving.scoring import scoring_file
from tests.conftest import ROOT, imported_modules
from tests.data.conftest import fitted

SAMPLES = {"exam": "passed", "breast_cancer": "diagnosis"}
ODD_LEVELS = ("a", "a  b", "a b", "é", "NA", "1", "01", "x=y", 'quo"te', "emoji 🙂", "nul\0nul", "汉字", "two\nlines")
EPOCH = datetime.date(1970, 1, 1)


def predictor_of(schema, *, seed=0, standardization=None, **options):
    """A model with weights drawn at random; most of them of the size that a fit would find."""
    generator = np.random.default_rng(seed)
    model = LinearSigmoid(len(schema.feature_names), standardization=standardization)
    model.linear.weight.data[:] = torch.from_numpy(generator.normal(size=len(schema.feature_names)))
    model.linear.bias.data[:] = 0.3
    return Predictor(model, schema, **options)


def served(model, inputs):
    """`probability` and `prediction` of named arrays by ONNX Runtime; the checker has passed the graph."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["probability", "prediction"]
    return session.run(["probability", "prediction"], inputs)


def inputs_of(model, rows):
    """What a client sends for a dict of columns: a double or text for each value, as the documentation has it."""

    def number(value):
        if value is None:
            return math.nan
        if isinstance(value, datetime.datetime):
            return (value - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
        return (value - EPOCH).days if isinstance(value, datetime.date) else float(value)

    arrays = {}
    for entry in model.graph.input:
        if entry.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            column = np.array(["" if value is None else value for value in rows[entry.name]], dtype=object)
        else:
            column = np.array([number(value) for value in rows[entry.name]], dtype=np.float64)
        arrays[entry.name] = column[:, None]
    return arrays


def row_by_row(predictor, rows):
    """`Predictor.probability` of each row alone: NaN where it is refused."""
    probabilities = []
    for values in zip(*rows.values(), strict=True):
        table = pa.table({name: pa.array([value]) for name, value in zip(rows, values, strict=True)})
        try:
            probabilities.append(float(predictor.probability(table)[0]))
        except InputError:
            probabilities.append(math.nan)
    return np.array(probabilities)


def fit(run, tmp_path, *arguments):
    """Fit by the command line; the path of the checkpoint."""
    code, _, error = run("fit", *arguments, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    assert code == 0, error
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    return checkpoint


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_tables_are_served_as_predicted(project, run, name):
    checkpoint = fit(run, project, "--config", f"conf/{name}.yaml")
    assert run("export", "--ckpt_path", checkpoint, "--output", "model.onnx") == (0, "", "")
    table = pyarrow.csv.read_csv(f"conf/samples/{name}.csv")
    model = onnx.load("model.onnx")
    assert {entry.name for entry in model.graph.input} == set(table.column_names) - {SAMPLES[name]}
    probability, prediction = served((project / "model.onnx").read_bytes(), inputs_of(model, table.to_pydict()))

    _, out, _ = run("predict", "--ckpt_path", checkpoint, "--data.path", f"conf/samples/{name}.csv")
    predicted = pyarrow.csv.read_csv(io.BytesIO(out.encode()))
    np.testing.assert_allclose(probability, predicted["probability"].to_numpy(), rtol=1e-12, atol=0)
    assert prediction.tolist() == predicted["prediction"].to_pylist()


def test_tutorial_is_served_as_predicted(hours_run):
    """Its data come from no table."""
    predictor = load(hours_run / "checkpoints" / "last.ckpt")
    hours = np.array([[1.0], [2.0], [3.0], [4.0]])
    probability, prediction = served(to_onnx(predictor), {"hours": hours})
    np.testing.assert_allclose(probability, predictor.probability(hours), rtol=1e-12)
    assert probability[3] == pytest.approx(0.8327455, abs=5e-8)  # as the README shows it
    assert prediction.tolist() == [0, 0, 1, 1]


def test_threshold_that_the_fit_chose(project, run):
    checkpoint = fit(run, project, "--config", "conf/breast_cancer.yaml", "--model.threshold", "f1")
    predictor = load(checkpoint)
    assert predictor.threshold != 0.5
    near = np.linspace(-1, 1, 1001) * 1e-6 + math.log(predictor.threshold / (1 - predictor.threshold))
    weight, bias = predictor.model.coefficients()
    first = float(weight[0])
    rows = np.zeros((len(near), len(weight)))
    rows[:, 0] = (near - bias) / first
    model = to_onnx(predictor)
    inputs = {entry.name: rows[:, [j]] for j, entry in enumerate(model.graph.input)}
    probability, prediction = served(model, inputs)
    assert prediction.tolist() == ["malignant" if p > predictor.threshold else "benign" for p in probability]
    assert set(prediction) == {"benign", "malignant"}
    clear = np.abs(near - near[500]) > 1e-9
    assert (prediction == predictor.predict(rows))[clear].all()


@pytest.fixture(scope="module")
def odd():
    """A table with a column of every kind, and rows to predict that have everything wrong that a row can have."""
    n = 400
    rng = np.random.default_rng(1)
    start = datetime.datetime(2023, 5, 6, 7, 8, 9)
    rows = {
        "a number": rng.normal(size=n).tolist(),
        "_0": rng.integers(-3, 3, n).tolist(),  # as the graph might call a tensor of its own
        "large mean": (1e9 + rng.normal(size=n)).tolist(),
        "constant": [7.5] * n,
        "yes=no": rng.choice([True, False], n).tolist(),
        "text": rng.choice(np.array(ODD_LEVELS, dtype=object), n).tolist(),
        "__int": rng.choice([-1, 0, 3, 2**40], n).tolist(),
        "flo\nat": rng.choice([0.1, 2.0, -0.3], n).tolist(),
        "single": ["always"] * n,
        "day": [EPOCH + datetime.timedelta(days=int(k)) for k in rng.integers(18_000, 20_000, n)],
        "time": [start + datetime.timedelta(seconds=int(k)) for k in rng.integers(0, 10**8, n)],
    }
    rows["y"] = rng.choice(["no", "yes"], n).tolist()
    fresh = {name: values[:60] for name, values in rows.items() if name != "y"}
    wrong = {
        "a number": [None, math.nan, math.inf, -math.inf, 1e300],
        "constant": [None, 8.0],
        "yes=no": [None],
        "text": [None, "", "   ", "a   ", "  é", "b", "A", "nul", "two\nlines ", "\ta", "a\u3000", "\t", " \n b"],
        "__int": [None, 5],
        "flo\nat": [None, 0.30000000000000004, math.inf],
        "single": [None, "never"],
        "day": [None],
        "time": [None],
    }
    fresh = {name: list(values) for name, values in fresh.items()}
    row = 0
    for name, values in wrong.items():
        for value in values:
            fresh[name][row] = value
            row += 1
    fresh["text"][row], fresh["a number"][row] = "b", None  # two mistakes at once
    return rows, fresh


@pytest.mark.parametrize("unseen", ["error", "reference"])
@pytest.mark.parametrize("missing", ["error", "drop", "impute"])
def test_odd_tables_are_served_as_predicted(odd, missing, unseen):
    rows, fresh = odd
    data = fitted(pa.table(rows), missing=missing, unseen=unseen, categorical=["__int", "flo\nat"])
    scale = torch.where(data.training.scale > 0, data.training.scale, torch.inf)
    predictor = predictor_of(data.schema, standardization=Standardization(data.training.mean, scale))
    model = to_onnx(predictor)
    probability, prediction = served(model, inputs_of(model, rows))
    expected = predictor.probability(pa.table(rows)).numpy()
    np.testing.assert_allclose(probability, expected, rtol=1e-11)
    assert prediction.tolist() == predictor.predict(pa.table(rows)).tolist()

    probability, prediction = served(model, inputs_of(model, fresh))
    expected = row_by_row(predictor, fresh)
    # The one thing that a graph does not do: take off white space other than blanks.
    other_space = np.array([bool(re.search(r"^\s*[^\S ]|[^\S ]\s*$", text or "")) for text in fresh["text"]])
    assert np.isnan(probability[other_space]).all()
    np.testing.assert_allclose(probability[~other_space], expected[~other_space], rtol=1e-11)
    assert 0 < np.isnan(expected[~other_space]).sum() < 30
    assert ((prediction == "") == np.isnan(probability)).all()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TEXT.map(str.strip).filter(bool), min_size=2, max_size=6, unique=True),
    st.lists(TEXT, max_size=5),
    st.sampled_from(["error", "reference"]),
)
@example(["a", "b"], ["a\0", "\0a", "a\x85", "\u200ba"], "reference")
def test_any_text_is_looked_up_as_predict_does(levels, others, unseen):
    levels = tuple(sorted(levels))
    schema = TableSchema((Column("text", "category", levels), Column("x")), "y", unseen=unseen)
    predictor = predictor_of(schema)
    texts = [*levels, *(f"  {level} " for level in levels), *others]
    rows = {"text": texts, "x": np.linspace(-2, 2, len(texts)).tolist()}
    model = to_onnx(predictor)
    probability, _ = served(model, inputs_of(model, rows))
    expected = row_by_row(predictor, rows)
    other_space = np.array([text.strip() != text.strip(" ") for text in texts])
    np.testing.assert_allclose(probability[~other_space], expected[~other_space], rtol=1e-12)
    assert np.isnan(probability[other_space]).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    st.sampled_from([None, 1.5]),
)
def test_any_number_is_weighted_as_predict_does(values, mean, fill):
    columns = (Column("a", fill=fill), Column("b", fill=fill), Column("c", fill=fill))
    schema = TableSchema(columns, "y", missing="drop" if fill is None else "impute")
    standardization = Standardization(torch.tensor(mean, dtype=torch.float64), torch.tensor([1e-3, 1.0, 1e6]).double())
    predictor = predictor_of(schema, standardization=standardization)
    rows = {column.name: [value] for column, value in zip(columns, values, strict=True)}
    model = to_onnx(predictor)
    probability, _ = served(model, inputs_of(model, rows))
    np.testing.assert_allclose(probability, row_by_row(predictor, rows), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("missing", ["error", "drop", "impute"])
def test_truth_value_other_than_0_and_1_has_no_prediction(missing):
    fill = True if missing == "impute" else None
    columns = (Column("x", fill=None if fill is None else 0.5), Column("truth", "boolean", fill=fill))
    predictor = predictor_of(TableSchema(columns, "y", missing=missing))
    rows = {"truth": [0.0, 1.0, 2.0, 0.5, -1.0, None], "x": [2.0] * 6}
    model = to_onnx(predictor)
    probability, _ = served(model, inputs_of(model, rows))
    np.testing.assert_allclose(probability, row_by_row(predictor, rows), rtol=1e-12)
    assert np.isnan(probability).tolist() == [False, False, True, True, True, missing != "impute"]


@pytest.mark.parametrize("logit", [-700.0, -40.0, -1e-9, 0.0, 20.0, 40.0, 800.0, -800.0])
def test_small_probabilities_keep_their_digits(logit):
    predictor = predictor_of(TableSchema.of_numbers(["x"], "y"))
    predictor.model.set_coefficients(torch.tensor([1.0], dtype=torch.float64), 0.0)
    probability, _ = served(to_onnx(predictor), {"x": np.array([[logit]])})
    exact = (
        0.0 if logit < -745 else math.exp(logit) / (1 + math.exp(logit)) if logit < 0 else 1 / (1 + math.exp(-logit))
    )
    assert probability[0] == pytest.approx(exact, rel=1e-13, abs=0)


@pytest.mark.parametrize(
    ("labels", "dtype", "missing"),
    [
        (("no", "yes é"), object, ""),
        ((0, 1), np.int64, MISSING_INTEGER),
        ((7, -2), np.int64, MISSING_INTEGER),
        ((False, True), np.bool_, False),
        ((True, False), np.bool_, True),
        ((0.5, 1.0), np.float64, math.nan),
    ],
)
def test_prediction_is_the_original_label(labels, dtype, missing):
    schema = replace(TableSchema.of_numbers(["x"], "y"), labels=labels, missing="drop")
    predictor = predictor_of(schema, threshold=0.6)
    x = np.array([[-9.0], [0.0], [9.0], [math.nan]])
    _, prediction = served(to_onnx(predictor), {"x": x})
    assert prediction.dtype == dtype
    assert prediction[:3].tolist() == predictor.predict(x[:3]).tolist()
    assert set(prediction[:3].tolist()) == set(labels)
    np.testing.assert_equal(prediction[3], missing)


def test_batches_of_any_size():
    schema = TableSchema((Column("text", "category", ("a", "b")), Column("x")), "y")
    model = to_onnx(predictor_of(schema))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for n in (0, 1, 3):
        inputs = {"text": np.full((n, 1), "b", dtype=object), "x": np.zeros((n, 1))}
        assert [output.shape for output in session.run(None, inputs)] == [(n,), (n,)]
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    with pytest.raises((errors.Fail, errors.RuntimeException), match="Shape mismatch"):  # the latter until 1.23
        session.run(None, {"text": np.full((1, 1), "b", dtype=object), "x": np.zeros((2, 1))})


def test_graph_says_what_it_is(odd):
    rows, _ = odd
    schema = fitted(pa.table(rows), categorical=["__int", "flo\nat"]).schema
    predictor = predictor_of(schema, threshold=0.25)
    model = to_onnx(predictor)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert TableSchema.from_dict(json.loads(said["schema"])) == schema
    assert (said["target"], said["negative_label"], said["positive_label"]) == ("y", "no", "yes")
    assert (float(said["threshold"]), said["version"]) == (0.25, model.producer_version)
    assert "P(y = yes)" in model.doc_string
    assert "days since 1970-01-01" in {entry.name: entry.doc_string for entry in model.graph.input}["day"]
    assert model.SerializeToString(deterministic=True) == to_onnx(predictor).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Column("probability"), "name of an output, probability"),
        (Column(""), "no name"),
        (Column("id", "category", (1, 2**53 + 1)), "level 9007199254740993, which the graph's input cannot tell"),
        (Column("mixed", "category", (1, "a")), "level a, which the graph's input cannot tell"),
        (Column("far", "category", (0.5, math.inf)), "infinite level"),
    ],
)
def test_what_no_graph_can_hold_is_refused(column, words):
    with pytest.raises(InputError, match=words):
        to_onnx(predictor_of(TableSchema((column,), "y")))


def test_labels_without_a_common_type_are_refused():
    schema = replace(TableSchema.of_numbers(["x"], "y"), labels=(0, 2**64))
    with pytest.raises(InputError, match="no common type"):
        to_onnx(predictor_of(schema))


# ---- the scoring file -----------------------------------------------------------------------------------


def scored(content, rows):
    """The probabilities that a scoring file gives, computed as its documentation says, and by nothing else."""
    probabilities = []
    for values in zip(*rows.values(), strict=True):
        row = dict(zip(rows, values, strict=True))
        logit = content["intercept"]
        for column in content["columns"]:
            value = row[column["name"]]
            if isinstance(value, str):
                value = value.strip() or None
            if isinstance(value, datetime.datetime):
                value = (value - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
            if isinstance(value, datetime.date):
                value = (value - EPOCH).days
            value = column["fill"] if value is None or value != value else value
            if column["kind"] != "category":
                logit += math.nan if value is None else column["coefficient"] * value
            elif value is None:
                logit = math.nan
            else:
                unseen = 0.0 if content["unseen"] == "reference" else math.nan
                logit += next((e["coefficient"] for e in column["levels"] if e["level"] == value), unseen)
        finite = math.isfinite(logit) and abs(logit) < 700
        probabilities.append(1 / (1 + math.exp(-logit)) if finite else math.nan)
    return np.array(probabilities)


@pytest.mark.parametrize("unseen", ["error", "reference"])
@pytest.mark.parametrize("missing", ["error", "impute"])
def test_scoring_file_gives_what_predict_gives(odd, missing, unseen):
    rows, fresh = odd
    data = fitted(pa.table(rows), missing=missing, unseen=unseen, categorical=["__int", "flo\nat"])
    scale = torch.where(data.training.scale > 0, data.training.scale, torch.inf)
    predictor = predictor_of(data.schema, standardization=Standardization(data.training.mean, scale))
    content = json.loads(json.dumps(scoring_file(predictor), allow_nan=False))
    # The intercept on the raw scale loses what 1e9, the mean of a column, costs in digits.
    rows = {name: values for name, values in rows.items() if name != "y"}
    np.testing.assert_allclose(scored(content, rows), predictor.probability(pa.table(rows)), atol=1e-6)
    ordinary = np.abs([math.inf if value is None else value for value in fresh["a number"]]) < 10
    expected = row_by_row(predictor, fresh)
    np.testing.assert_allclose(scored(content, fresh)[ordinary], expected[ordinary], atol=1e-6)
    assert content["columns"][5]["reference"] == min(ODD_LEVELS)
    assert content["threshold"] == 0.5
    assert (content["negative_label"], content["positive_label"]) == ("no", "yes")


def test_sql_of_the_readme(project, run):
    rng = np.random.default_rng(0)
    hours, school = rng.uniform(0, 6, 200).round(2), rng.choice(["North", "South", "West"], 200)
    passed = rng.uniform(size=200) < 1 / (1 + np.exp(3 - hours - (school == "West")))
    table = pa.table({"hours": hours, "school": school, "passed": np.where(passed, "yes", "no")})
    pyarrow.csv.write_csv(table, "students.csv")
    checkpoint = fit(run, project, "--data.path", "students.csv", "--data.target", "passed")
    code, model, _ = run("export", "--ckpt_path", checkpoint)
    assert code == 0

    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("SELECT exp(1)")
    except sqlite3.OperationalError:  # SQLite can be built without mathematics
        connection.create_function("exp", 1, math.exp)
    connection.execute("CREATE TABLE students (hours REAL, school TEXT)")
    rows = [
        *zip(hours.tolist(), school.tolist(), strict=True),
        (1.0, "South "),
        (1.0, "East"),
        (1.0, None),
        (None, "West"),
    ]
    connection.executemany("INSERT INTO students VALUES (?, ?)", rows)
    (query,) = re.findall(r"^```sql\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    found = connection.execute(query, {"model": model}).fetchall()

    predictor = load(checkpoint)
    known = pa.table({"hours": [row[0] for row in rows[:201]], "school": [row[1] for row in rows[:201]]})
    assert [row[:2] for row in found] == rows
    np.testing.assert_allclose([row[2] for row in found[:201]], predictor.probability(known), rtol=1e-12)
    assert [row[3] for row in found[:201]] == predictor.predict(known).tolist()
    assert [row[2:] for row in found[201:]] == [(None, None)] * 3  # an unseen level, a missing one, a missing number


# ---- the command ----------------------------------------------------------------------------------------


def test_format_follows_the_name_of_the_output(hours_run, project, run):
    checkpoint = hours_run / "checkpoints" / "last.ckpt"
    _, out, _ = run("export", "--ckpt_path", checkpoint)
    assert json.loads(out) == scoring_file(load(checkpoint))
    assert run("export", "--ckpt_path", checkpoint, "--output", "a.json") == (0, "", "")
    assert (project / "a.json").read_text() == out
    assert run("export", "--ckpt_path", checkpoint, "--output", "model", "--format", "onnx") == (0, "", "")
    assert len(onnx.load("model").graph.input) == 1
    assert sorted(path.name for path in project.iterdir()) == ["a.json", "conf", "model"]


def test_mistakes_end_in_one_line_and_leave_nothing_behind(hours_run, project, run, monkeypatch):
    checkpoint = hours_run / "checkpoints" / "last.ckpt"

    def refused(*arguments):
        code, out, error = run("export", *arguments)
        assert (code, out) == (2, "")
        assert [path.name for path in project.iterdir()] == ["conf"]
        return error.splitlines()[-1]

    assert "must end in .onnx or .json" in refused("--ckpt_path", checkpoint, "--output", "model.pb")
    assert "there is no folder nowhere" in refused("--ckpt_path", checkpoint, "--output", "nowhere/model.onnx")
    assert "is a folder" in refused("--ckpt_path", checkpoint, "--output", "conf", "--format", "onnx")
    assert "no such checkpoint" in refused("--ckpt_path", "absent.ckpt", "--output", "model.onnx")
    assert "option ckpt_path: is required" in refused()
    assert "invalid choice: 'pmml'" in refused("--ckpt_path", checkpoint, "--format", "pmml")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "no text for a terminal" in refused("--ckpt_path", checkpoint, "--format", "onnx")


def test_missing_extra_is_one_line_that_says_what_to_install(hours_run, project, run, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "lr_lightning.serving.onnx")
    code, out, error = run("export", "--ckpt_path", hours_run / "checkpoints" / "last.ckpt", "--output", "model.onnx")
    assert (code, out) == (2, "")
    assert error == "error: ONNX needs a package that is not installed: pip install 'lr-lightning[onnx]'\n"
    assert [path.name for path in project.iterdir()] == ["conf"]


def test_json_needs_neither_onnx_nor_lightning(hours_run, tmp_path):
    checkpoint = str(hours_run / "checkpoints" / "last.ckpt")
    modules = imported_modules(
        f"from lr_lightning.cli.main import main; assert main(['export', '--ckpt_path', {checkpoint!r}]) == 0", tmp_path
    )
    assert "torch" in modules
    assert not {"onnx", "onnxruntime", "lightning", "pyarrow"} & modules


@pytest.mark.parametrize("unseen", ["error", "reference"])
@pytest.mark.parametrize("missing", ["drop", "impute"])
def test_texts_that_a_fit_took_for_missing_are_missing_elsewhere(missing, unseen):
    levels = ["a", "b", "-", "b", None, "n/v"]
    table = {"c": levels * 4, "x": np.arange(24.0), "y": [0, 1, 1, 0, 1, 0] * 4}
    data = fitted(table, missing=missing, unseen=unseen, na=["-", "-", "n/v"])
    assert data.schema.columns[0].levels == ("a", "b")
    predictor = predictor_of(data.schema)
    fresh = {"c": ["a", "b", "-", " n/v ", ""], "x": [1.0, -1.0, 0.5, 0.25, 2.0]}
    expected = predictor.probability(fresh).numpy()
    assert np.isnan(expected).tolist() == [False, False, *[missing == "drop"] * 3]
    arrays = {"c": np.array(fresh["c"], dtype=object)[:, None], "x": np.array(fresh["x"])[:, None]}
    np.testing.assert_allclose(served(to_onnx(predictor), arrays)[0], expected, rtol=1e-12)
    content = scoring_file(predictor)
    named = {**fresh, "c": [None if text.strip() in content["na"] else text for text in fresh["c"]]}
    np.testing.assert_allclose(scored(content, named), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("texts", "dtype", "labels"),
    [
        (("01", "02"), pa.string(), ("01", "02")),
        (("-1", "+1"), pa.string(), ("-1", "+1")),
        (("FALSE", "TRUE"), pa.bool_(), (False, True)),
        (("0.0", "1.0"), pa.float64(), (0.0, 1.0)),
        (("no", "yes"), pa.string(), ("no", "yes")),
    ],
)
def test_a_label_is_spelled_alike_everywhere(project, run, texts, dtype, labels):
    rows = "".join(f"{i},{texts[i % 3 % 2]}\n" for i in range(30))
    (project / "t.csv").write_text("x,y\n" + rows)
    code, _, err = run("fit", "--data.path", "t.csv", "--data.target", "y", "--trainer.logger", "false")
    assert code == 0, err
    checkpoint = "runs/t/version_0/checkpoints/last.ckpt"
    for output in ("p.csv", "p.parquet"):
        code, _, err = run("predict", "--ckpt_path", checkpoint, "--data.path", "t.csv", "--output", output)
        assert code == 0, err
    written = {line.rpartition(",")[2] for line in (project / "p.csv").read_text().splitlines()[1:]}
    assert written <= set(texts)
    typed = pq.read_table(project / "p.parquet")["prediction"]
    assert typed.type == dtype
    assert set(typed.to_pylist()) <= set(labels)
    predictor = load(checkpoint)
    content = scoring_file(predictor)
    assert (content["negative_label"], content["positive_label"]) == texts
    _, prediction = served(to_onnx(predictor), {"x": np.array([[-1e6], [1e6]])})
    assert set(prediction.tolist()) == set(labels)
