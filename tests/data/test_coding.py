"""Levels, missing values and statistics, against pandas, scikit-learn and exact arithmetic."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from lr_lightning.data.encode import encode
from lr_lightning.model.standardization import RunningMoments
from tests.data.conftest import dense, fitted, raw, refusal


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    n = 500
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "s": rng.choice(["b", "a", "C", "é", "z", "日本"], n),
            "k": rng.choice([10, 2, 33], n),
            "t": rng.random(n) < 0.3,
            "y": rng.integers(0, 2, n),
        }
    )
    holes = rng.random((n, 3)) < 0.1
    for j, name in enumerate(["x", "s", "t"]):
        frame[name] = frame[name].astype(object).where(~holes[:, j], None)
    frame["x"] = frame["x"].astype(float)
    frame["t"] = frame["t"].astype("boolean")
    return frame


def test_treatment_coding_is_that_of_scikit_learn_and_pandas(frame):
    whole = frame.dropna()
    data = fitted(whole, categorical=["k"])
    coded = encode(data.schema, whole).numpy()
    assert data.schema.feature_names == ("x", "s=a", "s=b", "s=z", "s=é", "s=日本", "k=10", "k=33", "t")
    encoder = OneHotEncoder(drop="first", sparse_output=False)  # sorts text by code point and numbers by value
    assert np.array_equal(coded[:, 1:8], encoder.fit_transform(whole[["s", "k"]]))
    dummies = pd.get_dummies(whole["s"].astype(pd.CategoricalDtype(["C", "a", "b", "z", "é", "日本"])), drop_first=True)
    assert np.array_equal(coded[:, 1:6], dummies.to_numpy(float))
    assert np.array_equal(coded[:, 0], whole["x"])
    assert np.array_equal(coded[:, 8], whole["t"].astype(float))


def test_order_and_unused_levels_of_a_dictionary_do_not_matter():
    values = pd.Categorical(["u", "v", "u", "v"], categories=["z", "v", "u"], ordered=True)
    assert fitted({"s": values, "y": [0, 1, 1, 0]}).schema.columns[0].levels == ("u", "v")
    numbers = pd.Categorical([3, 1, 3, 2], categories=[1, 2, 3, 4])
    data = fitted(pd.DataFrame({"s": numbers, "y": [0, 1, 1, 0]}))
    assert data.schema.feature_names == ("s=2", "s=3")
    # What a table says plainly is understood too: numbers for levels that are numbers.
    assert encode(data.schema, {"s": [2.0, 3.0, 1.0]}).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_drop_leaves_out_every_row_with_a_hole(frame, messages):
    data = fitted(frame, missing="drop")
    whole = frame.dropna()
    assert len(data.train_rows.y) == len(whole)
    assert data.train_rows.y.tolist() == whole["y"].tolist()
    np.testing.assert_allclose(data.training.mean[0], whole["x"].mean(), rtol=1e-12)
    assert any(f"{len(frame) - len(whole)} of 500 rows have missing values" in line for _, line in messages)
    encoded = encode(data.schema, frame).numpy()
    assert np.array_equal(np.isnan(encoded).any(1), frame.isna().any(axis=1))
    assert np.array_equal(np.isnan(encoded).all(1), frame.isna().any(axis=1))


def test_levels_of_dropped_rows_are_no_levels():
    table = {"x": [1.0, 2, 3, None], "s": ["a", "b", "a", "only here"], "y": [0, 1, 1, 0]}
    assert fitted(table, missing="drop").schema.columns[1].levels == ("a", "b")
    table["y"] = [0, 1, 1, 2]
    assert fitted(table, missing="drop").schema.labels == (0, 1)


@pytest.mark.parametrize("val_fraction", [0.0, 0.3])
def test_impute_fills_what_scikit_learn_fills(frame, val_fraction):
    data = fitted(frame, missing="impute", val_fraction=val_fraction)
    training = frame
    if val_fraction:
        kept = torch.ones(len(frame), dtype=torch.bool)
        kept[split_rows(frame["y"], val_fraction)] = False
        training = frame[kept.numpy()]
    mean = SimpleImputer(strategy="mean").fit(training[["x"]]).statistics_[0]
    most = SimpleImputer(strategy="most_frequent", missing_values=None).fit(training[["s"]]).statistics_[0]
    columns = {column.name: column for column in data.schema.columns}
    assert columns["x"].fill == pytest.approx(mean, rel=1e-12)
    assert columns["s"].fill == most
    assert columns["t"].fill is False
    filled = frame.fillna({"x": mean, "s": most, "t": False})
    coded = encode(data.schema, frame)
    torch.testing.assert_close(coded, encode(fitted(filled).schema, filled), rtol=1e-12, atol=0)
    kept = fitted(filled, val_fraction=val_fraction)
    np.testing.assert_allclose(data.training.mean, kept.training.mean, rtol=1e-10)
    np.testing.assert_allclose(data.training.scale, kept.training.scale, rtol=1e-10)
    np.testing.assert_allclose(dense(data.train_rows), dense(kept.train_rows), rtol=0, atol=1e-6)


def split_rows(y, val_fraction):
    from lr_lightning.data.splits import stratified_split

    return stratified_split(torch.tensor(y.to_numpy()), val_fraction=val_fraction, test_fraction=0.0, seed=0)[1]


def test_imputation_uses_the_weights():
    table = {
        "x": [0.0, 3.0, None, 1.0],
        "s": ["a", "b", "a", None],
        "w": [1.0, 3.0, 1.0, 1.0],
        "y": [0, 1, 0, 1],
    }
    x, s = fitted(table, missing="impute", weight="w").schema.columns
    assert x.fill == pytest.approx((0 + 9 + 1) / 5)
    assert s.fill == "b"
    doubled = {name: np.repeat(np.array(values, dtype=object), [1, 3, 1, 1]).tolist() for name, values in table.items()}
    x, s = fitted(doubled, missing="impute", features=["x", "s"]).schema.columns
    assert (x.fill, s.fill) == (pytest.approx(2.0), "b")


def test_ties_go_to_the_first_level():
    assert (
        fitted({"s": ["b", "a", None, "b", "a"], "y": [0, 1, 0, 1, 1]}, missing="impute").schema.columns[0].fill == "a"
    )


def test_error_names_every_column_and_its_count():
    table = {
        "a": [1, None, 3.0],
        "b": [1, 2, 3],
        "s": ["u", "", None],
        "t": [None, True, False],
        "y": [0, 1, 0],
    }
    message = refusal(table)
    assert "a (1), s (2), t (1)" in message
    assert "--data.missing drop" in message
    assert "--data.missing impute" in message


@pytest.mark.parametrize("missing", ["error", "drop", "impute"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_are_always_refused(missing, value):
    table = {"a": [1.0, 2, value, 4], "y": [0, 1, 0, 1]}
    assert "row 3: column a holds an infinite value" in refusal(table, missing=missing)


def test_constant_columns_are_named_and_have_no_scale(messages):
    n = 30_000
    table = {
        "a": np.full(n, 0.1),
        "b": np.full(n, 1.7e9),
        "c": np.arange(n),
        "t": np.ones(n, bool),
        "s": ["same"] * n,
        "y": np.arange(n) % 2,
    }
    data = fitted(table)
    assert data.schema.feature_names == ("a", "b", "c", "t")
    assert data.training.scale.tolist()[:2] == [0, 0]
    assert data.training.mean.tolist()[:2] == [0.1, 1.7e9]
    assert (data.train_rows.x[:, [0, 1, 3]] == 0).all()
    text = " ".join(line for level, line in messages if level == "WARNING")
    assert "s is constant (same)" in text
    assert "without a coefficient: a, b, t" in text


def test_statistics_are_of_the_training_rows_alone():
    y = np.arange(400) % 2
    x = np.random.default_rng(0).normal(size=400)
    val = split_rows(pd.Series(y), 0.25).numpy()
    spoilt = x.copy()
    spoilt[val] = 1e6
    data = fitted({"x": spoilt, "y": y}, val_fraction=0.25)
    train = np.delete(x, val)
    assert data.training.mean.item() == pytest.approx(train.mean(), rel=1e-12)
    assert data.training.scale.item() == pytest.approx(train.std(), rel=1e-12)
    assert data.val_rows.x.min() > 1e5


def test_constant_where_it_counts_is_constant():
    """A feature that varies in the validation rows alone has no scale, to the last digit."""
    y = np.arange(400) % 2
    x = np.full(400, 8449.428037786158)
    val = split_rows(pd.Series(y), 0.25).numpy()
    x[val] = -317312.625
    x[val[::2]] = np.nan
    data = fitted({"x": x, "z": np.arange(400), "y": y}, val_fraction=0.25, missing="impute")
    assert data.training.scale[0] == 0
    assert data.schema.columns[0].fill == 8449.428037786158


def exact_moments(x, weight):
    x, weight = [Fraction(v) for v in x], [Fraction(v) for v in weight]
    total = sum(weight)
    mean = sum(v * w for v, w in zip(x, weight, strict=True)) / total
    variance = sum(w * (v - mean) ** 2 for v, w in zip(x, weight, strict=True)) / total
    return float(mean), float(variance) ** 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda z: 1.7e9 + 1e3 * z,
        lambda z: 1e-6 * z,
        lambda z: 1e9 * z,
        lambda z: 1e9 + np.arange(len(z)) + z,  # drifts from block to block
        lambda z: np.where(np.arange(len(z)) == 3, 1e8, z),  # an outlier in the first block
        lambda z: 1e-160 + 1e-163 * z,
    ],
)
def test_statistics_lose_no_digits(make):
    rng = np.random.default_rng(1)
    x, weight = make(rng.normal(size=900)), rng.integers(0, 4, 900).astype(float)
    moments = RunningMoments(1)
    for start in range(0, 900, 128):
        moments.add(x[None, start : start + 128], weight[start : start + 128])
    mean, scale = exact_moments(x, weight)
    result = moments.result()
    assert result.mean.item() == pytest.approx(mean, rel=1e-13, abs=0)
    if scale > 1e-155:
        assert result.scale.item() == pytest.approx(scale, rel=1e-9, abs=0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(np.nan), min_size=1, max_size=40),
    st.lists(st.integers(1, 39), max_size=4),
    st.data(),
)
def test_statistics_do_not_depend_on_the_cuts(values, cuts, data):
    x = np.array(values)
    weight = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=len(x), max_size=len(x))))
    present = ~np.isnan(x)
    moments = RunningMoments(1)
    for part, v in zip(np.split(x, sorted(cuts)), np.split(weight, sorted(cuts)), strict=True):
        if len(part):
            moments.add(part[None], v)
    if weight[present].sum() > 0:
        mean = np.average(x[present], weights=weight[present])
        assert moments.mean[0] == pytest.approx(mean, rel=1e-9, abs=1e-6)
        scale = np.sqrt(np.average((x[present] - mean) ** 2, weights=weight[present]))
        assert moments.result().scale.item() == pytest.approx(scale, rel=1e-7, abs=1e-3)


def newton(x, y):
    """Coefficients of a float64 maximum-likelihood fit on columns scaled by powers of two, intercept last."""
    design = np.column_stack([x, np.ones(len(x))])
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        p = 1 / (1 + np.exp(-design @ beta))
        step = np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]), design.T @ (y - p))
        beta += step
        if np.abs(step).max() < 1e-14:
            break
    covariance = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))
    return beta, covariance


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("64-true", 1e-8)])
def test_badly_scaled_features_give_the_coefficients_of_double_precision(precision, tolerance, monkeypatch):
    """A Unix timestamp beside features of scale 1e-6 and 1e9: what float64 gives on the raw columns."""
    from types import SimpleNamespace

    from lr_lightning.data import prepare
    from lr_lightning.training.data_modules import TableDataModule

    monkeypatch.setattr(prepare, "MOST_IN_DOUBLE", 0)  # as if the table were large
    rng = np.random.default_rng(3)
    z = rng.normal(size=(4000, 3))
    x = np.column_stack([1.7e9 + np.round(1e3 * z[:, 0]), 1e-6 * z[:, 1], 1e9 * z[:, 2]])
    y = (rng.random(4000) < 1 / (1 + np.exp(-(z @ [1.0, -0.5, 0.3] + 0.2)))).astype(int)

    center, scale = (
        x.mean(0),
        x.std(0),
    )  # exactly invertible on paper; Newton on raw columns would be singular
    reference, covariance = newton((x - center) / scale, y)
    slopes, errors = reference[:3] / scale, np.sqrt(np.diag(covariance))[:3] / scale

    data = TableDataModule({"time": x[:, 0], "tiny": x[:, 1], "huge": x[:, 2], "y": y}, "y", val_fraction=0.0)
    data.trainer = SimpleNamespace(precision=precision)
    data.setup("fit")
    assert data.train_rows.x.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    served, _ = newton(data.train_rows.x.double().numpy(), y)
    estimate = served[:3] / data.served.scale.numpy()
    assert (np.abs(estimate - slopes) <= tolerance * (np.abs(slopes) + errors)).all()
    assert raw(data)[:, 0].numpy() == pytest.approx(x[:, 0], abs=1e-2)


def test_blocks_do_not_depend_on_the_cuts():
    rng = np.random.default_rng(4)
    table = pa.table(
        {
            "a": rng.normal(size=20_000),
            "s": rng.choice(["u", "v", "w"], 20_000),
            "y": rng.integers(0, 2, 20_000),
        }
    )
    cut = pa.concat_tables([table[:1], table[1:7000], table[7000:7001], table[7001:]])
    one, other = fitted(table), fitted(cut)
    assert torch.equal(one.training.mean, other.training.mean)
    assert torch.equal(one.training.scale, other.training.scale)
    assert torch.equal(dense(one.train_rows), dense(other.train_rows))
