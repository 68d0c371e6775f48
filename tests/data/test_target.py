"""The target: which values it may hold, and which of them is positive."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lr_lightning.data.schema import TableSchema
from lr_lightning.data.spelling import find_label, weights_by_label
from lr_lightning.data.target import label_codes
from lr_lightning.data.training_rows import TrainingRows
from lr_lightning.errors import InputError
from lr_lightning.training.data_modules import TableDataModule
from tests.data.conftest import assert_same, fitted, refusal

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
        ([0.0, np.inf, np.inf, 0.0], "infinite"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"] * 2), "values of type timestamp"),
    ],
)
def test_a_target_without_two_values_is_refused(values, words):
    assert words in refusal({"a": [1, 2, 3, 5], "y": values})


def test_a_continuous_target_is_refused_without_listing_it():
    message = refusal({"a": np.arange(100_000.0), "y": np.arange(100_000.0)})
    assert "more than 1000 values: 0.0, 1.0" in message
    assert len(message) < 200


class TestRowsWithoutATarget:
    """Six rows, of which the fourth has no target, and `only` and `bad` and the second label are in it alone."""

    TABLE: ClassVar = {
        "a": [1.0, None, 3.0, np.inf, 5.0, 4.0],
        "s": ["u", "v", "u", "only", "v", "u"],
        "w": [1.0, 2.0, 1.0, -1.0, 3.0, 1.0],
        "y": ["n", "y", "y", None, "n", "y"],
    }

    @pytest.mark.parametrize("missing", ["drop", "impute"])
    @pytest.mark.parametrize("suffix", ["", "csv", "parquet"])
    def test_are_left_out_as_if_they_were_not_there(self, missing, suffix, tmp_path, messages):
        paths = []
        frame = pd.DataFrame(self.TABLE)
        for k, part in enumerate((frame, frame.drop(index=3))):
            paths.append(tmp_path / f"{k}.{suffix}" if suffix else part)
            if suffix:
                getattr(part, f"to_{suffix}")(paths[-1], index=False)
        data, without = (fitted(path, weight="w", missing=missing) for path in paths)
        assert_same(data.train_rows, without.train_rows)
        assert len(data.train_rows.y) == (4 if missing == "drop" else 5)
        assert data.schema == without.schema
        assert data.schema.columns[1].levels == ("u", "v")
        assert data.fingerprint == without.fingerprint
        said = "2 of 6 rows have missing values and are" if missing == "drop" else "1 of 6 rows has no target and is"
        assert any(line.endswith(f": {said} left out") for level, line in messages if level == "WARNING")

    @pytest.mark.parametrize("missing", ["drop", "impute"])
    @pytest.mark.parametrize("cached", [False, True])
    def test_are_left_out_again_by_a_later_test(self, missing, cached, tmp_path):
        table = {name: values * 10 for name, values in self.TABLE.items()}
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        options = {
            "weight": "w",
            "missing": missing,
            "val_fraction": 0.2,
            "test_fraction": 0.2,
            "cache_dir": str(tmp_path / "cache") if cached else None,
        }
        fit = fitted(str(tmp_path / "t.parquet"), **options)
        again = TableDataModule(str(tmp_path / "t.parquet"), "y", **options)
        again.use_schema(fit.schema, fit.training, every_row=False, fingerprint=fit.fingerprint)
        again.setup("test")
        assert_same(fit.test_rows, again.test_rows)
        other = TableDataModule(self.TABLE)
        other.use_schema(fit.schema, fit.training, every_row=True)
        other.setup("test")
        assert other.test_rows.y.tolist() == ([0, 1, 0, 1] if missing == "drop" else [0, 1, 1, 0, 1])

    def test_are_refused_with_the_choices_named(self, write):
        path = write("t.csv", "a,y\n1,0\n2,\n3,1\n")
        words = "t.csv, line 3: the target y has no value; fit with --data.missing drop or --data.missing impute"
        assert words in refusal(path)
        data = fitted(write("fit.csv", "a,y\n1,0\n3,1\n"))
        again = TableDataModule(path)
        again.use_schema(data.schema, data.training, every_row=True)
        with pytest.raises(InputError, match=words):
            again.setup("test")

    @pytest.mark.parametrize("missing", ["drop", "impute"])
    @pytest.mark.parametrize("target", [[None, None], [np.nan, np.nan], pd.Categorical([None, None], ["a", "b"])])
    def test_a_target_of_nothing_else_is_refused(self, missing, target):
        assert "the target y holds no value at all" in refusal(
            pd.DataFrame({"a": [1, 2], "y": target}), missing=missing
        )

    def test_a_missing_weight_leaves_a_row_out_where_rows_are_dropped(self, messages):
        table = {"a": [1, 2, 3, 4], "w": [1.0, None, 2.0, 3.0], "y": [0, 1, 1, 0]}
        data = fitted(table, weight="w", missing="drop")
        assert data.train_rows.weight.tolist() == [1, 2, 3]
        assert any("1 of 4 rows has a missing value and is left out" in line for _, line in messages)
        for missing in ("error", "impute"):
            message = refusal(table, weight="w", missing=missing)
            assert "row 2: the weight w has no value" in message
            assert "--data.missing drop leaves such rows out" in message


def test_a_label_that_went_with_the_rows_that_were_left_out():
    table = {
        "a": [1.0, None, None, None, 5.0, 6.0],
        "b": [1.0, 2.0, None, 4.0, None, 6.0],
        "c": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "y": ["n", "y", "y", "y", "y", "n"],
    }
    message = refusal(table, missing="drop")
    assert "it has 1 value: 'n' after 4 of 6 rows with missing values were left out" in message
    assert "the columns with most of them are a (3) and b (2); leave such columns out with --data.features" in message
    of_one = refusal({**table, "y": list("nyyynn")}, missing="drop", features=["a", "c"])
    assert "it has 1 value: 'n' after 3 of 6 rows with missing values were left out; all are in a (3);" in of_one
    # Where the label is in no row that was left out, they are not the reason.
    assert "left out" not in refusal({**table, "y": ["n"] * 6}, missing="drop")


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
    assert "line 2: the weight w holds 'x', which is no number" in refusal(
        write("t.csv", "a,w,y\n1,x,0\n2,2,1\n"), weight="w"
    )
    assert "is 0 in every row" in refusal(write("t.csv", "a,w,y\n1,0,0\n2,0,1\n"), weight="w")


def codes(schema, values):
    return label_codes(schema, pa.array(values), "the table", lambda row: f"the table, row {row + 1}").tolist()


def test_codes_of_labels():
    schema = TableSchema.of_numbers(["a"], "y")
    assert codes(schema, [1.0, 0.0, 1.0]) == codes(schema, [True, False, True]) == codes(schema, [1, 0, 1]) == [1, 0, 1]
    with pytest.raises(InputError, match="row 2: the target y holds 2; the fit's labels are 0 and 1"):
        codes(schema, [1, 2])
    with pytest.raises(InputError, match="row 1: the target y has no value"):
        codes(schema, [None, 1])
    named = TableSchema(schema.columns, "y", ("no", "yes"))
    assert codes(named, [" yes", "no"]) == [1, 0]
    with pytest.raises(InputError, match="row 1"):
        codes(named, [0, 1])


@pytest.mark.parametrize(
    ("texts", "labels", "predicted"),
    [
        (("01", "02"), (1, 2), ("01", "02")),
        (("-1", "+1"), (-1, 1), ("-1", "+1")),
        (("False", "True"), (False, True), (False, True)),
        (("FALSE", "TRUE"), (False, True), (False, True)),
        (("0.0", "1.0"), (0.0, 1.0), (0.0, 1.0)),
    ],
)
def test_labels_of_a_text_file_keep_their_spelling(write, texts, labels, predicted):
    rows = "".join(f"{i},{texts[i % 2]}\n" for i in range(8))
    data = fitted(write("t.csv", f"a,y\n{rows}"))
    schema = TableSchema.from_dict(data.schema.to_dict())
    assert schema.labels == labels
    assert schema.written_labels == texts
    assert schema.predicted_labels == predicted
    assert data.train_rows.y.tolist() == [i % 2 for i in range(8)]
    assert codes(schema, labels) == [0, 1]
    assert codes(schema, texts) == [0, 1]


def test_two_spellings_of_a_label_are_one_label(write):
    data = fitted(write("t.csv", "a,y\n1,1\n2,1.0\n3,0\n5,1\n"))
    assert data.schema.written_labels == (0, 1)
    assert data.train_rows.y.tolist() == [1, 1, 0, 1]
    assert "3 values: 'No', 'Yes', 'yes'" in refusal(write("t.csv", "a,y\n1,yes\n2,Yes \n3,No\n5,No\n"))


def test_one_rule_says_which_label_is_meant():
    for labels in ((0, 1), (0.0, 1.0), (False, True), ("0", "1"), ("00", "01"), ("false", "true")):
        for one in (1, 1.0, True, np.int64(1), "1", "1.0", " 01", "true", "TRUE"):
            assert find_label(labels, one) == 1
    assert find_label(("no", "yes"), "Yes") is None
    assert [find_label(("1", "01"), text) for text in ("1", "01", "1.0", 1)] == [0, 1, None, None]
    with pytest.raises(ValueError, match="twice"):
        weights_by_label((0, 1), {"1": 1, "1.0": 2})
    batches = [(torch.zeros(4, 1), torch.tensor([0.0, 1, 1, 1]))]
    for labels, weights in (((0.0, 1.0), {0: 2, 1: 5}), ((False, True), {"false": 2, "true": 5})):
        assert TrainingRows.of(batches, weights, labels).class_weights == (2.0, 5.0)
