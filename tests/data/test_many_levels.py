"""Columns of thousands of levels: read, fitted, reported, kept in a checkpoint and served."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.preprocessing import OneHotEncoder

from lr_lightning import (
    InputError,
    LinearSigmoid,
    LogisticRegression,
    Predictor,
    TableDataModule,
    TableSchema,
    load,
)
from lr_lightning.data.arrays_of_levels import as_arrays, from_arrays
from lr_lightning.data.schema import Column
from lr_lightning.serving.scoring import scoring_file
from lr_lightning.statistics.report import Report
from tests.conftest import QUIET_TRAINER
from tests.data.conftest import fitted, refusal

LEVELS = 5000


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    n = 20_000
    code = np.concatenate([np.arange(LEVELS), rng.integers(0, LEVELS, n - LEVELS)])
    x = rng.normal(size=n)
    z = x + rng.normal(size=LEVELS)[code]
    # More than the first thousand values look like numbers; 04999 is none.
    text = [f"{value:05d}" if value == 4999 else str(value + 10_000) for value in code]
    return pd.DataFrame({"code": text, "x": x, "y": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)})


@pytest.fixture(scope="module")
def fit(frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    data = TableDataModule(frame, "y", val_fraction=0.0)
    model = LogisticRegression(l2=1e-3)
    trainer = Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "m.ckpt")
    return model, data, folder / "m.ckpt"


def test_codes_that_begin_as_numbers_are_levels_all_the_same(fit, frame):
    _, data, _ = fit
    assert data.schema.columns[0].levels == tuple(sorted(set(frame["code"])))
    assert data.train_rows.x.parts[1].codes.shape == (len(frame), 1)


def test_estimates_are_those_of_scikit_learn(fit, frame):
    model, data, _ = fit
    assert model.converged
    onehot = OneHotEncoder(drop="first").fit_transform(frame[["code"]])
    scale = np.append(data.training.scale[:-1], 1.0)
    import scipy.sparse as sp

    x = sp.hstack([onehot, frame[["x"]]]).tocsr() @ sp.diags(1 / np.append(scale[:-1], frame["x"].std(ddof=0)))
    reference = Reference(C=1 / (1e-3 * len(frame)), solver="newton-cg", tol=1e-10, max_iter=1000)
    reference.fit(x, frame["y"])
    ours = model.linear_sigmoid.coefficients()[0].numpy() * data.training.scale.numpy()
    np.testing.assert_allclose(ours, reference.coef_[0], atol=1e-6)


def test_the_report_has_names_estimates_and_odds_and_says_why_no_more(fit, frame):
    model, _, path = fit
    report = model.infer()
    assert len(report.coefficients) == LEVELS + 1
    rows = report.to_dict()["coefficients"]
    assert set(rows[7]) == {"name", "estimate", "odds_ratio"}
    assert any("standard errors" in warning for warning in report.warnings)
    loss = -report.log_likelihood
    p = model.predictor().probability(frame[["code", "x"]]).numpy()
    y = frame["y"].to_numpy()
    assert loss == pytest.approx(-np.log(np.where(y, p, 1 - p)).sum(), rel=1e-9)
    assert report.mean_prediction == pytest.approx(p.mean(), rel=1e-9)
    stored = load(path).report()
    assert stored == report
    assert json.loads(json.dumps(report.to_dict())) == stored.to_dict()


def test_a_checkpoint_holds_arrays(fit):
    _, data, path = fit
    contents = torch.load(path, weights_only=True)
    levels = contents["schema"]["columns"][0]["levels"]
    assert {name: value.dtype for name, value in levels.items()} == {"utf8": torch.uint8, "ends": torch.int64}
    assert contents["report"]["coefficients"]["estimate"].shape == (LEVELS + 1,)
    assert TableSchema.from_dict(contents["schema"]) == data.schema
    assert TableSchema.from_dict(data.schema.to_dict()) == data.schema


def test_graph_and_scoring_file_agree_with_predict(fit, frame):
    onnxruntime = pytest.importorskip("onnxruntime")
    from lr_lightning.serving.onnx import to_onnx

    _, _, path = fit
    predictor = load(path)
    rows = frame.sample(500, random_state=0)
    expected = predictor.probability(rows[["code", "x"]]).numpy()
    session = onnxruntime.InferenceSession(to_onnx(predictor).SerializeToString())
    inputs = {"code": rows[["code"]].to_numpy(object), "x": rows[["x"]].to_numpy()}
    np.testing.assert_allclose(session.run(["probability"], inputs)[0], expected, rtol=1e-12)
    scored = json.loads(json.dumps(scoring_file(predictor)))
    of_code, of_x = scored["columns"]
    table = {row["level"]: row["coefficient"] for row in of_code["levels"]}
    z = scored["intercept"] + rows["code"].map(table) + of_x["coefficient"] * rows["x"]
    np.testing.assert_allclose(1 / (1 + np.exp(-z)), expected, rtol=1e-12)


def test_a_graph_and_a_scoring_file_of_a_hundred_thousand_levels():
    onnxruntime = pytest.importorskip("onnxruntime")
    from lr_lightning.serving.onnx import to_onnx

    n_levels, rng = 100_000, np.random.default_rng(0)
    levels = tuple(f"level {k:06d}" for k in range(n_levels))
    coefficients = rng.normal(size=n_levels)  # those of the levels but the first, and then that of x
    model = LinearSigmoid(n_levels)
    model.set_coefficients(torch.from_numpy(coefficients), 0.3)
    predictor = Predictor(model, TableSchema((Column("c", "category", levels), Column("x")), "y"))
    code, x = np.append(0, rng.integers(0, n_levels, 99)), rng.normal(size=100)
    texts = [levels[k] for k in code]
    expected = 1 / (1 + np.exp(-0.3 - np.append(0, coefficients)[code] - coefficients[-1] * x))
    np.testing.assert_allclose(predictor.probability({"c": texts, "x": x}), expected, rtol=1e-12)
    session = onnxruntime.InferenceSession(to_onnx(predictor).SerializeToString())
    inputs = {"c": np.array(texts, object)[:, None], "x": x[:, None]}
    np.testing.assert_allclose(session.run(["probability"], inputs)[0], expected, rtol=1e-12)
    scored = json.loads(json.dumps(scoring_file(predictor)))
    of_level = {row["level"]: row["coefficient"] for row in scored["columns"][0]["levels"]}
    z = scored["intercept"] + np.array([of_level[text] for text in texts]) + scored["columns"][1]["coefficient"] * x
    np.testing.assert_allclose(1 / (1 + np.exp(-z)), expected, rtol=1e-12)


def test_unseen_levels_are_refused_or_taken_for_the_reference(fit):
    predictor = fit[0].predictor()
    with pytest.raises(InputError, match="'99', a level the fit has not seen"):
        predictor.probability({"code": ["10003", "99"], "x": [0.0, 0.0]})


def barely_fitted(data):
    """A model after one small step, which is no worse to look for separation in the rows."""
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1})
    Trainer(max_epochs=1, precision="64-true", **QUIET_TRAINER).fit(model, data)
    return model


def test_levels_of_one_outcome_are_told_without_a_linear_programme():
    """Level 1 has positive rows alone, level 2 negative ones."""
    n_levels = 4200
    code = np.repeat(np.arange(n_levels), 4)
    y = np.tile([0, 1, 0, 1], n_levels)
    y[code == 1], y[code == 2] = 1, 0
    frame = pd.DataFrame({"c": [f"l{value:04d}" for value in code], "o": np.tile(list("abba"), n_levels), "y": y})
    report = barely_fitted(TableDataModule(frame, "y", val_fraction=0.0)).infer()
    assert report.separation == "quasi"
    (told,) = (warning for warning in report.warnings if warning.startswith("quasi-complete"))
    assert "coefficients of c=l0001 and c=l0002 without" in told
    assert "--model.l2" in told
    assert "lr-lightning path" in told
    assert any("was not settled" in warning for warning in report.warnings)


def test_reference_levels_and_levels_beside_those_set_aside_are_told_too():
    """Level a of the second column, its reference, has positive rows alone; beside them level 3 of the first does."""
    n_levels = 4200
    code = np.repeat(np.arange(n_levels), 4)
    other, y = np.tile(list("bcbc"), n_levels), np.tile([0, 1, 1, 0], n_levels)
    other[code == 5], y[code == 5] = "a", 1
    other[code == 3], y[code == 3] = ["a", "b", "b", "b"], [1, 0, 0, 0]
    frame = pd.DataFrame({"c": [f"l{value:04d}" for value in code], "o": other, "y": y})
    report = barely_fitted(TableDataModule(frame, "y", val_fraction=0.0)).infer()
    (told,) = (warning for warning in report.warnings if warning.startswith("quasi-complete"))
    assert "coefficients of c=l0003, c=l0005, o=b and o=c without" in told


def test_a_column_of_ids_is_refused_unless_it_is_declared():
    table = {"id": [f"u{i}" for i in range(3000)], "y": np.arange(3000) % 2}
    assert "column id has a level of its own in 3000 of 3000 rows" in refusal(table)
    assert len(fitted(table, categorical=["id"]).schema.columns[0].levels) == 3000


def test_numbers_in_text_are_still_numbers_however_many():
    table = {"n": [f"{i}.5" for i in range(3000)], "y": np.arange(3000) % 2}
    assert fitted(table).schema.columns[0].kind == "number"


def test_rare_levels_are_counted(messages):
    table = {"c": ["a"] * 12 + ["b"] * 9 + ["c"] * 2, "k": ["u", "v"] * 11 + ["u"], "y": [0, 1] * 11 + [0]}
    fitted(table)
    assert ("INFO", "the table: 2 of 5 levels have fewer than 10 training rows: c (2)") in messages


@pytest.mark.parametrize(
    "levels", [[f"é{i}" for i in range(1500)], list(range(-5, 2000)), [i / 8 for i in range(2000)]]
)
def test_arrays_give_their_values_back(levels):
    arrays = as_arrays(levels)
    assert all(isinstance(value, torch.Tensor) for value in arrays.values())
    found = from_arrays(arrays)
    assert list(found) == levels
    assert [type(value) for value in found] == [type(value) for value in levels]


def test_few_or_mixed_levels_stay_a_list():
    assert as_arrays(["a", "b"]) == ["a", "b"]
    mixed = [2**63, *range(2000)]
    assert as_arrays(mixed) == mixed


GOOD = {"utf8": torch.tensor(list(b"abcd"), dtype=torch.uint8), "ends": torch.tensor([1, 3, 4])}


@pytest.mark.parametrize(
    "change",
    [
        {"ends": torch.tensor([1, 3, 5])},
        {"ends": torch.tensor([3, 1, 4])},
        {"ends": torch.tensor([-1, 3, 4])},
        {"ends": torch.tensor([1.0, 3.0, 4.0])},
        {"ends": torch.tensor([[1, 4]])},
        {"ends": [1, 3, 4]},
        {"utf8": torch.tensor([0xFF, 0xFE, 97, 98], dtype=torch.uint8)},
        {"utf8": torch.tensor([97, 98, 99, 100])},
        {"more": torch.tensor([1])},
    ],
)
def test_damaged_arrays_are_refused(change):
    schema = TableSchema((Column("c", "category", ("a", "bc", "d")),), "y").to_dict()
    schema["columns"][0]["levels"] = GOOD
    assert TableSchema.from_dict(schema).columns[0].levels == ("a", "bc", "d")
    schema["columns"][0]["levels"] = {**GOOD, **change}
    with pytest.raises(InputError):
        TableSchema.from_dict(schema)


def test_a_damaged_report_is_refused(fit):
    values = fit[0].infer().to_checkpoint()
    for arrays in ({}, {**values["coefficients"], "estimate": torch.zeros(3, dtype=torch.float64)}):
        with pytest.raises(InputError, match="report in the checkpoint is damaged"):
            Report.from_dict({**values, "coefficients": arrays})
