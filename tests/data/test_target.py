"""The target: which values it may hold, and which of them is positive."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import InputError
from tests.data.conftest import fitted, refusal

TARGETS = {
    "0/1": ([0, 1, 1, 0], (0, 1), int),
    "-1/+1": ([-1, 1, 1, -1], (-1, 1), int),
    "1/2": ([1, 2, 2, 1], (1, 2), int),
    "0.0/1.0": ([0.0, 1.0, 1.0, 0.0], (0.0, 1.0), float),
    "2/10": ([2, 10, 10, 2], (2, 10), int),
    "true/false": ([False, True, True, False], (False, True), bool),
    "text": (["no", "yes", "yes", "no"], ("no", "yes"), str),
    "text with blanks": ([" no", "yes ", "yes", "no  "], ("no", "yes"), str),
    "capitals first": (["b", "Z", "Z", "b"], ("Z", "b"), str),
    "text numbers": (["2", "10", "10", "2"], ("10", "2"), str),
}


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("form", [pa.array, lambda v: pa.array(v).dictionary_encode(), "csv"])
def test_labels_are_the_tables_own(case, form, tmp_path):
    values, labels, kind = TARGETS[case]
    if form == "csv":
        path = str(tmp_path / "t.csv")
        pd.DataFrame({"a": [1, 2, 3, 5], "y": values}).to_csv(path, index=False)
        data = fitted(path)
        if case == "text numbers":  # text says nothing of types: these are numbers
            labels, kind = (2, 10), int
    else:
        data = fitted({"a": [1, 2, 3, 5], "y": form(values)})
    assert data.schema.labels == labels
    assert {type(label) for label in data.schema.labels} == {kind}
    y = [str(value).strip() == str(labels[1]) for value in values]
    assert data.train_rows.y.tolist() == y
    for positive in labels:
        other = fitted(data.path, positive=str(positive))
        assert other.schema.labels[1] == positive
        assert other.train_rows.y.tolist() == [str(value).strip() == str(positive) for value in values]


def test_the_choice_is_said(messages):
    fitted({"a": [1, 2, 3, 4, 5], "y": ["no", "yes", "no", "yes", "no"]}, positive="no")
    assert any("y = no is the positive class (3 of 5 rows), yes the negative one" in line for _, line in messages)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 1, 1, 1], "1 value: 1"),
        (["a", "b", "c", "a"], "3 values: 'a', 'b', 'c'"),
        (np.linspace(0, 1, 4), "4 values: 0.0, 0.33"),
        ([None, 1, 0, 1], "row 1: the target y has no value"),
        ([1, 0, np.nan, 1], "row 3: the target y has no value"),
        (["a", "b", " ", "a"], "row 3: the target y has no value"),
        ([[1], [0], [1], [0]], "values of type list"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"] * 2), "values of type timestamp"),
    ],
)
def test_a_target_without_two_values_is_refused(values, words):
    assert words in refusal({"a": [1, 2, 3, 5], "y": values})


def test_a_continuous_target_is_refused_without_listing_it():
    message = refusal({"a": np.arange(100_000.0), "y": np.arange(100_000.0)})
    assert "more than 1000 values: 0.0, 1.0" in message
    assert len(message) < 200


def test_missing_targets_are_refused_even_where_rows_may_be_dropped():
    assert "row 2: the target" in refusal({"a": [1, 2, 3], "y": [0, None, 1]}, missing="drop")


def test_options_are_checked_against_the_table(write):
    path = write("t.csv", "a,b,w,y\n1,2,1,0\n2,3,1,1\n")
    assert "--data.target is missing; it names one of the columns a, b, w, y" in refusal(path, None)
    assert "no target column Y; did you mean y?" in refusal(path, "Y")
    assert "no column bb; did you mean b?" in refusal(path, features=["a", "bb"])
    assert "y is the target" in refusal(path, features=["a", "y"])
    assert "w is the weight" in refusal(path, features=["a", "w"], weight="w")
    assert "y is the target" in refusal(path, weight="y")
    assert "names a twice" in refusal(path, features=["a", "a"])
    assert "not among the features" in refusal(path, features=["a"], categorical=["b"])
    assert "no weight column v" in refusal(path, weight="v")
    assert "maybe" in refusal(path, positive="maybe")
    assert "--data.missing must be one of" in refusal(path, missing="ignore")
    assert "--data.unseen must be one of" in refusal(path, unseen="ignore")
    assert "val_fraction" in refusal_of_option(path, val_fraction=1.5)


def refusal_of_option(path, **options):
    with pytest.raises(InputError) as caught:
        fitted(path, **options)
    return str(caught.value)


def test_weights(write):
    data = fitted(write("t.csv", "a,w,y\n1,0.5,0\n2,2,1\n3,0,0\n"), weight="w")
    assert data.train_rows.weight.tolist() == [0.5, 2, 0]
    assert data.schema.weight == "w"
    assert data.schema.feature_names == ("a",)
    assert data.training.mean.item() == pytest.approx(np.average([1, 2, 3], weights=[0.5, 2, 0]))
    for bad, words in (
        ("-1", "line 2: the weight w is -1.0"),
        ("", "line 2: the weight w has no value"),
        ("inf", "line 2"),
    ):
        assert words in refusal(write("t.csv", f"a,w,y\n1,{bad},0\n2,2,1\n3,0,0\n"), weight="w")
    assert "holds text" in refusal(write("t.csv", "a,w,y\n1,x,0\n2,2,1\n"), weight="w")
    assert "is 0 in every row" in refusal(write("t.csv", "a,w,y\n1,0,0\n2,0,1\n"), weight="w")


def test_decode_target():
    schema = TableSchema.of_numbers(["a"], "y")
    assert torch.equal(schema.decode_target([1, 0, 1.0, True]), torch.tensor([1.0, 0, 1, 1], dtype=torch.float64))
    with pytest.raises(InputError, match="row 2: the target y holds 2; the fit's labels are 0 and 1"):
        schema.decode_target([1, 2])
    with pytest.raises(InputError, match="row 1: the target y has no value"):
        schema.decode_target([None, 1])
    named = TableSchema(schema.columns, "y", ("no", "yes"))
    assert named.decode_target(pa.array([" yes", "no"])).tolist() == [1, 0]
    with pytest.raises(InputError, match="row 1"):
        named.decode_target([0, 1])
