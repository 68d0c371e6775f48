"""Categories as codes, against the same columns written out as zeros and ones."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.data.encode import encode, encode_rows
from lr_lightning.model.categories import Categories
from lr_lightning.model.columns import Columns
from lr_lightning.model.objective import Objective
from lr_lightning.model.rows import Rows
from lr_lightning.solver import solve
from tests.conftest import QUIET_TRAINER
from tests.data.conftest import dense, fitted


def table_of(n, levels, *, seed=0, weight=False):
    """Rows with two numbers, and a category of each number of levels, that all have an effect."""
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, size, n) for size in levels]
    frame = pd.DataFrame({"a": rng.normal(50, 2, n), "b": rng.exponential(1e-3, n)})
    for j, of_rows in enumerate(codes):
        frame.insert(j, f"c{j}", [f"l{code:03d}" for code in of_rows])
    z = 0.5 * (frame["a"] - 50) - 200 * frame["b"] + sum(np.sin(of_rows + j) for j, of_rows in enumerate(codes))
    frame["y"] = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
    if weight:
        frame["w"] = rng.integers(0, 4, n).astype(float)
    return frame


def written_out(frame):
    """The features with one column of zeros and ones a level but the first, by pandas."""
    features = frame.drop(columns=["y", "w"], errors="ignore")
    blocks = [
        pd.get_dummies(column, prefix=name, prefix_sep="=", drop_first=True, dtype=float)
        if not pd.api.types.is_numeric_dtype(column)
        else column
        for name, column in features.items()
    ]
    return pd.concat(blocks, axis=1)


def fit(data, **options):
    model = LogisticRegression(**options)
    Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER).fit(model, data)
    return model


def test_rows_hold_codes_and_not_zeros_and_ones(tmp_path):
    frame = table_of(300, (5, 40))
    frame.to_csv(tmp_path / "t.csv", index=False)
    for options in ({}, {"cache_dir": str(tmp_path / "cache")}):
        data = fitted(str(tmp_path / "t.csv"), val_fraction=0.2, **options)
        for rows in (data.train_rows, data.val_rows):
            numbers, categories = rows.x.parts
            assert isinstance(rows.x, Columns)
            assert isinstance(categories, Categories)
            assert (categories.codes.dtype, categories.codes.shape) == (torch.int32, (len(rows.y), 2))
            assert numbers.shape == (len(rows.y), 2)


def test_a_table_of_categories_alone_and_one_without_any():
    frame = table_of(60, (3, 4))
    assert isinstance(fitted(frame.drop(columns=["a", "b"])).train_rows.x, Categories)
    assert isinstance(fitted(frame[["a", "b", "y"]]).train_rows.x, torch.Tensor)
    frame["c1"] = "same"
    data = fitted(frame)
    assert data.train_rows.x.parts[1].codes.shape == (60, 1)
    assert data.schema.feature_names == ("c0=l001", "c0=l002", "a", "b")


@pytest.mark.parametrize("weight", [False, True])
def test_features_and_statistics_are_those_of_the_table_written_out(weight):
    frame = table_of(500, (7, 30), weight=weight)
    expected = written_out(frame)
    data = fitted(frame, weight="w" if weight else None)
    assert data.schema.feature_names == tuple(expected.columns)
    raw = dense(data.train_rows) * data.served.scale + data.served.mean
    np.testing.assert_allclose(raw, expected, rtol=1e-12, atol=1e-15)
    v = frame["w"].to_numpy() if weight else np.ones(500)
    mean = np.average(expected, axis=0, weights=v)
    np.testing.assert_allclose(data.training.mean, mean, rtol=1e-12)
    scale = np.sqrt(np.average((expected - mean) ** 2, axis=0, weights=v))
    np.testing.assert_allclose(data.training.scale, scale, rtol=1e-12)
    np.testing.assert_array_equal(encode(data.schema, frame), expected)


def test_a_level_of_nearly_all_rows_keeps_its_deviation_and_one_of_all_is_constant():
    frame = pd.DataFrame(
        {"c": ["a"] + ["b"] * 3 + ["a"] * 2, "w": [1e-18, 1.0, 1, 1, 1e-18, 0], "y": [0, 1, 0, 1, 1, 0]}
    )
    data = fitted(frame, weight="w")
    assert data.training.scale.item() == pytest.approx((2e-18 / 3) ** 0.5, rel=1e-12)
    frame["w"] = [0, 1.0, 1, 1, 0, 0]
    assert fitted(frame, weight="w").training.scale.item() == 0


@pytest.mark.parametrize("options", [{}, {"l2": 1e-2}, {"l2": 1e-2, "standardize": False}, {"l1": 2e-3, "l2": 1e-3}])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_estimates_are_those_of_the_table_written_out(options, class_weight):
    frame = table_of(3000, (6, 12), weight=True)
    coded = fit(TableDataModule(frame, "y", weight="w", val_fraction=0.0), class_weight=class_weight, **options)
    x = torch.tensor(written_out(frame).to_numpy())
    rows = TensorDataModule(x, torch.tensor(frame["y"].to_numpy()), torch.tensor(frame["w"].to_numpy()))
    filled = fit(rows, class_weight=class_weight, **options)
    assert coded.converged
    assert filled.converged
    for ours, theirs in zip(coded.infer().coefficients, filled.infer().coefficients, strict=True):
        assert ours.estimate == pytest.approx(theirs.estimate, rel=1e-9, abs=1e-9)
        if not options and class_weight is None:
            assert ours.std_error == pytest.approx(theirs.std_error, rel=1e-8)
            assert ours.vif == theirs.vif or ours.vif == pytest.approx(theirs.vif, rel=1e-7)


def test_errors_are_those_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    frame = table_of(4000, (4, 9))
    report = fit(TableDataModule(frame, "y", val_fraction=0.0)).infer()
    reference = sm.GLM(frame["y"], sm.add_constant(written_out(frame)), family=sm.families.Binomial()).fit(tol=1e-12)
    np.testing.assert_allclose([row.estimate for row in report.coefficients], reference.params, rtol=1e-6)
    np.testing.assert_allclose([row.std_error for row in report.coefficients], reference.bse, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_codes_are_solved_as_what_they_stand_for(data):
    n = data.draw(st.integers(20, 60))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(np.stack([rng.integers(0, size, n) for size in sizes], axis=1).astype(np.int32))
    numbers = torch.from_numpy(rng.normal(size=(n, data.draw(st.integers(1, 3)))))
    y = torch.from_numpy(rng.integers(0, 2, n).astype(float))
    y[:2] = torch.tensor([0.0, 1.0])
    v = torch.from_numpy(rng.integers(0, 3, n).astype(float))
    v[:2] = 1
    x = Columns([numbers_design(numbers), Categories(codes, sizes)])
    objective = Objective(l2=data.draw(st.sampled_from([1e-3, 1e-1])), standardize=data.draw(st.booleans()))
    ours, theirs = (solve(Rows(features, y, v), objective) for features in (x, x.dense()))
    torch.testing.assert_close(ours.theta, theirs.theta, rtol=1e-8, atol=1e-9)


def numbers_design(x):
    from lr_lightning.model.design import Dense

    return Dense(x)


def test_small_batches_are_shuffled_as_before():
    frame = table_of(200, (3,))
    data = TableDataModule(frame, "y", val_fraction=0.0, batch_size=32)
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.5})
    Trainer(max_epochs=3, **QUIET_TRAINER).fit(model, data)
    order = torch.cat([x.dense()[:, 2] for x, _ in data.train_dataloader()])
    assert not torch.equal(order, dense(data.train_rows)[:, 2])
    assert torch.equal(order.sort().values, dense(data.train_rows)[:, 2].sort().values)
    x = torch.tensor(written_out(frame).to_numpy())
    filled = TensorDataModule(x, torch.tensor(frame["y"].to_numpy()), batch_size=32)
    other = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.5})
    Trainer(max_epochs=3, precision="64-true", **QUIET_TRAINER).fit(other, filled)
    torch.testing.assert_close(model.linear_sigmoid.linear.weight, other.linear_sigmoid.linear.weight)


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("missing", ["drop", "impute"])
def test_rows_without_a_value_get_no_prediction_or_the_filled_one(numbers, missing):
    frame = table_of(300, (4, 5))
    frame = frame if numbers else frame.drop(columns=["a", "b"])
    data = TableDataModule(frame, "y", val_fraction=0.0, missing=missing)
    model = fit(data, l2=1e-3)
    new = frame.head(4).drop(columns="y")
    new.loc[1, "c0"] = None
    predictor = model.predictor()
    logits = predictor.logits(new)
    assert logits.isnan().tolist() == [False, missing == "drop", False, False]
    x = encode(data.schema, new)
    torch.testing.assert_close(predictor.model.logits(x), logits, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert torch.equal(encode_rows(data.schema, new).dense().isnan(), x.isnan())
    low, high = fit(data).predictor().probability_interval(new)
    assert torch.equal(low.isnan(), logits.isnan())
    assert torch.equal(high.isnan(), logits.isnan())
    again = TableDataModule(new.assign(y=[0, 1, 0, 1]), "y", missing=missing)
    again.use_schema(data.schema, data.training, every_row=True)
    (predicted,) = Trainer(precision="64-true", **QUIET_TRAINER).predict(model, again)
    torch.testing.assert_close(predicted, predictor.probability(new), equal_nan=True, rtol=1e-12, atol=0)
