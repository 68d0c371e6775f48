"""Files of sparse rows: what scikit-learn reads of them, fitted, resumed, tested and predicted."""

import bz2
import gzip
import json
import re

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch import Trainer
from sklearn.datasets import dump_svmlight_file
from sklearn.linear_model import LogisticRegression as Reference

from lr_lightning import LogisticRegression, TableDataModule, TableSchema, load
from lr_lightning.data.schema import Column
from tests.conftest import QUIET_TRAINER
from tests.data.conftest import fitted, refusal


def rows(n=400, d=12, seed=0):
    rng = np.random.default_rng(seed)
    x = sp.random_array((n, d), density=0.3, rng=rng, format="csr")
    y = (rng.random(n) < 1 / (1 + np.exp(0.5 - x @ rng.normal(size=d) * 3))).astype(int)
    return x, y


def put(path, x, y, **options):
    dump_svmlight_file(x, y, str(path), **{"zero_based": False, **options})
    return str(path)


def coefficients(model):
    weight, intercept = model.linear_sigmoid.coefficients()
    return [*weight.tolist(), intercept]


def fit(data, **options):
    model = LogisticRegression(**options)
    Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER).fit(model, data)
    return model


def test_a_fit_is_that_of_scikit_learn(tmp_path):
    x, y = rows()
    data = TableDataModule(put(tmp_path / "t.svm", x, 2 * y - 1), val_fraction=0.0)
    model = fit(data, l2=0.01, standardize=False)
    reference = Reference(C=1 / (0.01 * len(y)), tol=1e-12, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(coefficients(model), [*reference.coef_[0], *reference.intercept_], atol=1e-7)
    assert data.train_rows.design.is_sparse
    assert data.schema.feature_names == tuple(f"x{j}" for j in range(1, 13))
    assert (data.schema.target, data.schema.labels) == ("y", (-1, 1))


@pytest.mark.parametrize("labels", [(-1, 1), (0, 1), (1, 2)])
def test_labels_are_two_numbers(tmp_path, labels, messages):
    x, y = rows(40, 3)
    path = put(tmp_path / "t.libsvm", x, np.array(labels)[y])
    data = fitted(path, None)
    assert data.schema.labels == labels
    assert data.train_rows.y.tolist() == y.tolist()
    n = f"{y.sum()} of 40 rows"
    assert ("INFO", f"{path}: y = {labels[1]} is the positive class ({n}), {labels[0]} the negative one") in messages
    assert fitted(path, positive=labels[0]).train_rows.y.tolist() == (1 - y).tolist()


def test_compressed_files_are_told_by_their_bytes(tmp_path):
    x, y = rows(40, 3)
    put(tmp_path / "t.svm", x, y)
    content = (tmp_path / "t.svm").read_bytes()
    expected = fitted(str(tmp_path / "t.svm")).train_rows.x.dense()
    packed = {"gz": gzip.compress(content), "bz2": bz2.compress(content)}
    packed["zst"] = pa.compress(content, "zstd", asbytes=True)
    for suffix, of_file in packed.items():
        path = tmp_path / f"t.svmlight.{suffix}"
        path.write_bytes(of_file)
        assert torch.equal(fitted(str(path)).train_rows.x.dense(), expected)
        path.write_bytes(of_file[: len(of_file) // 2])
        assert f"{path} cannot be read" in refusal(str(path), None)


def test_indices_count_from_one_unless_one_is_zero(write):
    one = fitted(write("one.svm", "1 1:5 3:7\n0 2:6\n"))
    assert one.schema.feature_names == ("x1", "x2", "x3")
    assert one.train_rows.x.dense().tolist() == [[5, 0, 7], [0, 6, 0]]
    zero = fitted(write("zero.svm", "1 1:5 3:7\n0 0:6\n"))
    assert zero.schema.feature_names == ("x0", "x1", "x2", "x3")
    assert zero.train_rows.x.dense().tolist() == [[0, 5, 0, 7], [6, 0, 0, 0]]


def test_comments_blank_lines_and_other_ends_of_lines(write):
    path = write("t.svm", "# a file\r\n\r\n+1 1:5 2:0 # the first\r\n  \n-1\t2:6\n-1")
    assert fitted(path).train_rows.x.dense().tolist() == [[5, 0], [0, 6], [0, 0]]
    marked = write("marked.svm", "\ufeff1 1:5\n0 1:6\n")  # as editors on Windows write it
    assert fitted(marked).train_rows.x.dense().tolist() == [[5], [6]]


def test_rows_of_a_query_may_be_a_group(write, messages):
    text = "".join(f"{k % 2} qid:{k // 4} 1:{k}.5\n" for k in range(80))
    path = write("t.svm", text)
    data = fitted(path, groups="qid", val_fraction=0.25)
    assert data.schema.groups == "qid"
    queries = {part: {int(v // 4) for v in of.x.dense()[:, 0].tolist()} for part, of in parts(data).items()}
    assert len(queries["val"]) >= 3
    assert not queries["train"] & queries["val"]
    assert len(data.train_groups.unique()) == len(queries["train"])
    assert not any("qid" in text for _, text in messages)
    fitted(path)
    assert ("INFO", "t.svm: the qid is not used; --data.groups qid makes groups of it") in messages


def parts(data):
    return {"train": data.train_rows, "val": data.val_rows}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "t.svm has no rows"),
        ("# nothing\n", "t.svm has no rows"),
        ("1\n0\n", "t.svm has labels and no features"),
        ("1 1:2\n0 1:3\nyes 1:4\n", "t.svm, line 3 is 'yes 1:4'; it must be a label and then index:value pairs"),
        ("1 1:2\n# more\n0 1\n", "t.svm, line 3 is '0 1'; it must be"),
        ("1 1:2\n0 2:1 1:3\n", "t.svm, line 2 is '0 2:1 1:3'; it must be"),
        ("1 1:2\n0 1:1 1:3\n", "t.svm, line 2 is '0 1:1 1:3'"),
        ("1 1:2\n0 -1:3\n", "t.svm, line 2 is '0 -1:3'"),
        ("1 1:2\n0 a:3\n", "t.svm, line 2 is '0 a:3'"),
        ("1 1:2\n0 1:b\n", "t.svm, line 2 is '0 1:b'"),
        ("1 1:2\n0 qid:x 1:3\n", "t.svm, line 2 is '0 qid:x 1:3'"),
        ("1 1:2\n0 99999999999999999999:3\n", "t.svm, line 2 is '0 99999999999999999999:3'"),
        ("1 1:2\n\n0 2000000000:3\n", "t.svm, line 3: index 2000000000 is above the largest, 4000000"),
        ("1 1:2\n# no\n0 1:1 2:nan\n", "t.svm, line 3: index 2 has the value nan; every value must be finite"),
        ("1 1:2\n0 1:1e999\n", "t.svm, line 2: index 1 has the value inf"),
        ("1 1:2\nnan 1:1\n", "t.svm, line 2: the label is nan, no number"),
        ("1 1:2\n0 1:1\n3 1:1\n", "t.svm: the target y must have two different values; it has 3 values: 0, 1, 3"),
        ("1 1:2\n1 1:1\n", "t.svm: the target y must have two different values; it has 1 value: 1"),
        ("1 qid:1 1:2\n0 1:1\n", "t.svm: lines up to 2 have a qid or none; every line needs one, or none"),
        (b"\xff\xfe1 1:2\n", "t.svm, line 1 is"),
        (b"PAR1\x00\x00\x00", "t.svm, line 1 is"),
        ("1 1:1e200\n0 1:-1e200\n", "t.svm: column x1 holds values too large to square"),
    ],
)
def test_what_is_no_such_file_is_told_by_its_line(write, content, told):
    assert told in refusal(write("t.svm", content), None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "x1"}, "--data.target: t.svm is an svmlight file and has no such column as x1; its target is y"),
        ({"features": ["x1"]}, "--data.features: t.svm is an svmlight file and has no such column as x1"),
        ({"weight": "x1"}, "--data.weight: t.svm is an svmlight file and has no such column as x1"),
        ({"offset": "x1"}, "--data.offset: t.svm is an svmlight file"),
        ({"trials": "x1"}, "--data.trials: t.svm is an svmlight file"),
        ({"groups": "x1"}, "--data.groups: t.svm is an svmlight file and has no such column as x1; its groups is qid"),
        ({"groups": "qid"}, "t.svm: no line has a qid, which --data.groups names"),
        ({"categorical": ["x1"]}, "--data.categorical: t.svm is an svmlight file"),
        ({"na": [""]}, "--data.na: t.svm is an svmlight file and has no missing values"),
        ({"missing": "drop"}, "--data.missing: t.svm is an svmlight file and has no missing values"),
        ({"cache_dir": "c"}, "--data.cache_dir: t.svm is an svmlight file and stays in memory"),
        ({"positive": 7}, "--data.positive 7 is no value of the target y, which holds 0 and 1"),
    ],
)
def test_options_about_columns_are_refused(write, options, told):
    write("t.svm", "1 1:2\n0 1:1\n")
    assert told in refusal("t.svm", **{"target": None, **options})


def test_where_there_is_no_such_file(write):
    write("folder/t.svm.gz", "")
    assert "gone.svm: there is no such file" in refusal("gone.svm", None)
    assert "folder/t.svm.gz holds sparse rows" in refusal("folder", None)


def test_a_file_of_blocks(tmp_path):
    """Rows are read in blocks of some thousands, whose lines are counted through."""
    x, y = rows(20_000, 5)
    path = tmp_path / "t.svm"
    put(path, x, y, comment="made")
    data = fitted(str(path))
    np.testing.assert_allclose(data.train_rows.x.dense().numpy(), x.toarray(), rtol=1e-14)
    n = path.read_text().count("\n")
    with path.open("a") as file:
        file.write("1 6:1 6:2\n")
    assert f"t.svm, line {n + 1} is" in refusal(str(path), None)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A file, a run of it with rows kept back, and the rows."""
    from lr_lightning.cli.main import main

    folder = tmp_path_factory.mktemp("svm")
    x, y = rows(600)
    put(folder / "t.svm", x, 2 * y - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["--data.path", "t.svm", "--model.l2", "0.01", "--quiet"]
        assert main(["fit", *arguments, "--data.test_fraction", "0.2"]) == 0
    return folder, x, y


LAST = "runs/t/version_0/checkpoints/last.ckpt"


def test_the_commands(a_run, run, monkeypatch):
    folder, x, y = a_run
    monkeypatch.chdir(folder)
    predictor = load(LAST)
    expected = predictor.probability(x)
    code, out, err = run("predict", "--ckpt_path", LAST, "--data.path", "t.svm")
    assert code == 0, err
    lines = [line.split(",") for line in out.splitlines()]
    assert lines[0] == ["probability", "prediction"]
    np.testing.assert_allclose([float(line[0]) for line in lines[1:]], expected, rtol=1e-14)
    assert {line[1] for line in lines[1:]} == {"-1", "1"}
    torch.testing.assert_close(predictor.probability("t.svm"), expected, rtol=1e-14, atol=0)

    code, out, err = run("test", "--ckpt_path", LAST)
    assert code == 0, err
    code, out, err = run("test", "--ckpt_path", LAST, "--data.path", "t.svm")
    assert code == 0, err
    measured = dict(line.split() for line in out.splitlines())
    p = expected.numpy()
    assert float(measured["test/loss"]) == pytest.approx(-np.log(np.where(y, p, 1 - p)).mean(), rel=1e-5)

    code, out, err = run("report", "--ckpt_path", LAST, "--format", "json")
    assert [row["name"] for row in json.loads(out)["coefficients"]][:3] == ["(Intercept)", "x1", "x2"]
    again = ["fit", "--ckpt_path", LAST, "--trainer.max_epochs", "2000"]
    assert "converged" in run(*again)[2]


def test_going_on(a_run, run, monkeypatch, tmp_path):
    folder, *_ = a_run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.svm").write_bytes((folder / "t.svm").read_bytes())
    sgd = ["fit", "--data.path", "t.svm", "--quiet", "--optimizer", "SGD", "--optimizer.lr", "0.1"]
    assert run(*sgd, "--trainer.max_epochs", "2")[0] == 0
    on = ["fit", "--ckpt_path", LAST, "--trainer.max_epochs", "4", "--quiet"]
    assert run(*on)[0] == 0
    assert run(*sgd, "--trainer.max_epochs", "4")[0] == 0
    first, second = (load(f"runs/t/version_{k}/checkpoints/last.ckpt").coefficients for k in (1, 2))
    assert first == second
    (tmp_path / "t.svm").write_text(re.sub("^-1", "1", (folder / "t.svm").read_text(), count=1, flags=re.M))
    code, _, err = run(*on, "--trainer.max_epochs", "6")
    assert (code, "the training rows are not those of" in err) == (2, True), err


def test_a_prediction_of_fewer_or_more_features(a_run, run, monkeypatch, tmp_path):
    folder, *_ = a_run
    monkeypatch.chdir(tmp_path)
    ckpt = str(folder / LAST)
    predictor = load(ckpt)
    (tmp_path / "few.svm").write_text("0 3:1.5\n0\n")
    expected = predictor.probability(torch.eye(12, dtype=torch.float64)[[2, 2]] * torch.tensor([[1.5], [0.0]]))
    torch.testing.assert_close(predictor.probability("few.svm"), expected, rtol=1e-14, atol=0)
    assert predictor.predict("few.svm").tolist() == [1 if p > 0.5 else -1 for p in expected]
    for content, told in (
        ("0 1:1\n0 2:1 13:1\n", "line 2: index 13 is the feature x13, which the fit had not: it had x1 to x12"),
        ("0 0:1\n", "line 1: index 0 is the feature x0, which the fit had not"),
        ("0 1:nan\n", "line 1: index 1 has the value nan"),
        ("? 1:1\n", "line 1 is '? 1:1'"),
    ):
        (tmp_path / "new.svm").write_text(content)
        code, out, err = run("predict", "--ckpt_path", ckpt, "--data.path", "new.svm", "--output", "p.csv")
        assert (code, out) == (2, "")
        assert f"new.svm, {told}" in err
        assert not (tmp_path / "p.csv").exists()
    code, out, err = run("predict", "--ckpt_path", ckpt, "--data.path", "few.svm", "--id", "x1")
    assert (code, "few.svm is an svmlight file and has no column x1 to repeat" in err) == (2, True)
    (tmp_path / "none.svm").write_text("# none\n")
    assert run("predict", "--ckpt_path", ckpt, "--data.path", "none.svm")[:2] == (0, "probability,prediction\n")
    (tmp_path / "other.svm").write_text("5 1:1\n")
    code, _, err = run("test", "--ckpt_path", ckpt, "--data.path", "other.svm")
    assert (code, "other.svm, line 1: the label is 5; the fit's labels are -1 and 1" in err) == (2, True)


def test_indices_that_may_count_from_another_number_are_doubted(write, messages):
    """The fit had an index 0. A file without one is read as the fit's was, and the doubt is told."""
    model = fit(fitted(write("t.svm", "1 0:5 2:7\n0 1:6\n1 1:2\n0 0:3\n")), l2=0.1)
    write("new.svm", "0 1:1 2:2\n")
    expected = model.predictor().probability([[0.0, 1.0, 2.0]])
    torch.testing.assert_close(model.predictor().probability("new.svm"), expected, rtol=1e-14, atol=0)
    told = "new.svm: no index is 0; they are taken to count from 0, since the fit has a feature x0"
    assert ("WARNING", told) in messages
    messages.clear()
    assert model.predictor().probability("t.svm").shape == (4,)
    assert not messages


def test_a_fit_of_named_columns_predicts_no_such_file(write):
    write("t.svm", "0 1:1\n")
    data = fitted({"age": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    with pytest.raises(Exception, match=r"t.svm is an svmlight file, whose features are x1, x2, …; the fit had age"):
        fit(data).predictor().probability("t.svm")


def test_mistakes_show_at_first_look(write, run):
    write("t.svm", "0 1:1\n1 1:2\n")
    code, _, err = run("fit", "--data.path", "t.svm", "--data.weight", "w")
    assert (code, "no such column as w" in err) == (2, True)
    code, _, err = run("fit", "--data.path", "u.svm")
    assert (code, err) == (2, "error: u.svm: there is no such file\n")


def test_without_scikit_learn(write, monkeypatch):
    from lr_lightning.data.readers import svmlight

    monkeypatch.setattr(svmlight, "find_spec", lambda name: None)
    told = "svmlight files need scikit-learn: pip install 'lr-lightning[sklearn]'"
    assert told in refusal(write("t.svm", "0 1:1\n1 1:2\n"), None)


def test_the_names_of_many_features_are_arrays_in_a_checkpoint():
    schema = TableSchema.of_numbers([f"x{j}" for j in range(3000)], "y")
    stored = schema.to_checkpoint()
    assert all(isinstance(part, torch.Tensor) for part in stored["columns"].values())
    assert TableSchema.from_dict(stored) == schema
    of_dates = TableSchema((*schema.columns, Column("d", "date")), "y")
    assert len(of_dates.to_checkpoint()["columns"]) == 3001
    for columns in ({}, {"numbers": torch.arange(3)}, {**stored["columns"], "ends": torch.zeros(3)}):
        with pytest.raises(Exception, match="the schema in the checkpoint is damaged"):
            TableSchema.from_dict({**stored, "columns": columns})
