"""An offset, a column of log-odds that are added to the logits, wherever a logit is computed."""

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule, load
from lr_lightning.data.encode import encode
from lr_lightning.serving.scoring import scoring_file
from tests.conftest import QUIET_TRAINER


def table(n=400, seed=0):
    generator = np.random.default_rng(seed)
    x, offset = generator.normal(size=(n, 2)) * [1, 5] + [0, 10], generator.normal(0.3, 1.5, n)
    y = generator.random(n) < 1 / (1 + np.exp(-(x @ [0.8, -0.1] + 1.2 + offset)))
    weight = generator.integers(0, 4, n) + 0.5
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "o": offset, "w": weight, "y": y.astype(int)})


def glm(rows, *, intercept=True, weighted=False, features=("a", "b")):
    """Statsmodels' fit of y on the features, the intercept first."""
    x = np.column_stack([*([np.ones(len(rows))] if intercept else []), rows[list(features)]])
    weights = {"freq_weights": rows["w"]} if weighted else {}
    return sm.GLM(rows["y"], x, sm.families.Binomial(), offset=rows["o"], **weights).fit(tol=1e-14)


def trainer(**settings):
    return Trainer(**{**QUIET_TRAINER, "max_epochs": 200, "precision": "64-true", **settings})


def fit(data, **settings):
    model = LogisticRegression(**settings)
    trainer().fit(model, data)
    return model


def columns(rows, *names):
    return [torch.tensor(rows[name].to_numpy(), dtype=torch.float64) for name in names]


def of_tensors(rows, **options):
    x = torch.tensor(rows[["a", "b"]].to_numpy())
    return TensorDataModule(x, *columns(rows, "y"), offset=columns(rows, "o")[0], feature_names=["a", "b"], **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
def test_estimates_errors_and_likelihoods_agree_with_statsmodels(weighted, intercept):
    rows = table()
    data = TableDataModule(rows, "y", ["a", "b"], "w" if weighted else None, "o", val_fraction=0)
    report = fit(data, fit_intercept=intercept).infer()
    theirs = glm(rows, weighted=weighted, intercept=intercept)
    assert [row.estimate for row in report.coefficients] == pytest.approx(theirs.params.to_numpy(), rel=1e-8)
    assert [row.std_error for row in report.coefficients] == pytest.approx(theirs.bse.to_numpy(), rel=1e-6)
    assert report.log_likelihood == pytest.approx(theirs.llf, rel=1e-10)
    if intercept:
        null = glm(rows, weighted=weighted, features=()).llf
    else:
        z = rows["o"]
        null = -np.sum((rows["w"] if weighted else 1) * np.logaddexp(0, np.where(rows["y"] == 1, -z, z)))
    assert report.null_log_likelihood == pytest.approx(null, rel=1e-12)
    assert report.mcfadden_r2 == pytest.approx(1 - report.log_likelihood / null, rel=1e-12)


@pytest.mark.parametrize("shift", [-300.0, 0.0, 300.0])
def test_the_null_model_has_an_intercept_of_its_own(shift):
    """Its intercept undoes a shift of all offsets."""
    rows = table()
    rows["o"] += shift
    report = fit(TableDataModule(rows, "y", ["a", "b"], offset="o", val_fraction=0)).infer()
    rows["o"] -= shift
    assert report.null_log_likelihood == pytest.approx(glm(rows, features=()).llf, rel=1e-11)


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 64}, {"optimizer": "LBFGS"}, {"l1": 0.02, "l2": 0.01}, {"loader": True}]
)
def test_however_it_is_fitted(options):
    rows, options = table(), dict(options)
    penalised = {key: options.pop(key) for key in ("l1", "l2", "optimizer") if key in options}
    model = LogisticRegression(**penalised)
    if options.pop("loader", False):
        batch = TensorDataset(torch.tensor(rows[["a", "b"]].to_numpy()), *columns(rows, "y", "w", "o"))
        trainer().fit(model, *2 * [DataLoader(batch, batch_size=50)])
        expected = glm(rows, weighted=True).params
    else:
        trainer().fit(model, of_tensors(rows, **options))
        expected = glm(rows).params
    coefficients, intercept = model.linear_sigmoid.coefficients()
    if "l1" not in penalised:
        assert [intercept, *coefficients.tolist()] == pytest.approx(expected.tolist(), rel=1e-6)
        return
    x, y, o = torch.tensor(rows[["a", "b"]].to_numpy()), *columns(rows, "y", "o")
    residual = torch.sigmoid(o + x @ coefficients + intercept) - y
    scale = x.std(0, correction=0)
    gradient = residual @ (x / scale) / len(y) + 0.01 * coefficients * scale
    assert gradient.abs().tolist() == pytest.approx([0.02, 0.02], rel=1e-6)
    assert float(residual.mean()) == pytest.approx(0, abs=1e-9)


def test_small_steps_come_near_the_same():
    rows = table()
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 1.0})
    trainer(max_epochs=400).fit(model, of_tensors(rows, batch_size=400))
    coefficients, intercept = model.linear_sigmoid.coefficients()
    assert [intercept, *coefficients.tolist()] == pytest.approx(glm(rows).params.tolist(), abs=1e-3)


def test_held_out_rows_are_measured_with_their_offsets():
    rows = table()
    data = of_tensors(rows, val_fraction=0.3)
    model = LogisticRegression()
    runner = trainer()
    runner.fit(model, data)
    (found,) = runner.validate(model, data, verbose=False)
    x, y, _, offset = data.val_rows
    probability = model(x * data.served.scale + data.served.mean, offset).detach().numpy()
    assert found["val/loss"] == pytest.approx(log_loss(y, probability), rel=1e-9)
    assert found["val/auroc"] == pytest.approx(roc_auc_score(y, probability), rel=1e-9)
    assert found["val/brier"] == pytest.approx(brier_score_loss(y, probability), rel=1e-9)


def test_no_prediction_without_the_offset(tmp_path):
    rows = table()
    model = fit(of_tensors(rows))
    x, offset = torch.tensor(rows[["a", "b"]].to_numpy()), columns(rows, "o")[0]
    probability = 1 / (1 + np.exp(-glm(rows).predict(which="linear")))
    model.trainer.save_checkpoint(tmp_path / "offset.ckpt")
    predictor = load(tmp_path / "offset.ckpt")
    again = LogisticRegression.load_from_checkpoint(tmp_path / "offset.ckpt")
    for predict in (model, again, predictor.probability):
        assert predict(x, offset).tolist() == pytest.approx(probability.tolist(), rel=1e-6)
        with pytest.raises(InputError, match="offset"):
            predict(x)
        with pytest.raises(InputError, match=r"offset must have shape \(400,\)"):
            predict(x, offset[:5])
    named = {"b": rows["b"], "offset": rows["o"], "a": rows["a"]}
    assert predictor.probability(named).tolist() == pytest.approx(probability.tolist(), rel=1e-6)
    assert predictor.probability(rows[["a", "b"]], rows["o"]).tolist() == predictor.probability(named).tolist()
    assert predictor.predict(named).tolist() == (probability > 0.5).astype(int).tolist()
    low, high = predictor.probability_interval(x, offset=offset)
    assert bool((low < predictor.probability(named)).all() & (predictor.probability(named) < high).all())
    with pytest.raises(InputError, match="no offset column offset"):
        predictor.probability(rows[["a", "b"]])
    with pytest.raises(InputError, match="offset"):
        trainer().predict(again, DataLoader(TensorDataset(x)))
    predicted = torch.cat(trainer().predict(again, of_tensors(rows)))
    assert predicted.tolist() == pytest.approx(probability.tolist(), rel=1e-6)
    with pytest.raises(InputError, match="offset"):
        trainer().test(again, TensorDataModule(x, *columns(rows, "y"), test_fraction=0.2), verbose=False)


def test_bare_batches_leave_word_of_their_offset(tmp_path):
    rows = table()
    batch = TensorDataset(torch.tensor(rows[["a", "b"]].to_numpy()), *columns(rows, "y", "w", "o"))
    model, runner = LogisticRegression(), trainer()
    runner.fit(model, *2 * [DataLoader(batch, batch_size=100)])
    runner.save_checkpoint(tmp_path / "bare.ckpt")
    predictor = load(tmp_path / "bare.ckpt")
    with pytest.raises(InputError, match="offset"):
        predictor.probability([[0.0, 1.0]])
    assert predictor.probability([[0.0, 1.0]], [0.5]).shape == (1,)
    with pytest.raises(InputError, match="no name"):
        scoring_file(predictor)


def test_commands_take_the_column(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = table()
    rows.to_csv("t.csv", index=False)
    options = ["--data.path", "t.csv", "--data.target", "y", "--data.offset", "o", "--data.weight", "w"]
    assert run("fit", *options, "--quiet", "--data.val_fraction", 0) == (0, "", "")
    folder = tmp_path / "runs/t/version_0"
    checkpoint = folder / "checkpoints/last.ckpt"
    theirs = glm(rows, weighted=True)
    report = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in report["coefficients"]] == ["(Intercept)", "a", "b"]
    assert [row["estimate"] for row in report["coefficients"]] == pytest.approx(theirs.params.tolist(), rel=1e-7)
    assert not (folder / "figures/probability_curve.png").exists()

    rows[["b", "o", "a"]].to_csv("new.csv", index=False)  # neither weight nor target
    code, out, _ = run("predict", "--ckpt_path", checkpoint, "--data.path", "new.csv", "--id", "o", "--interval")
    lines = [line.split(",") for line in out.splitlines()]
    assert code == 0
    assert lines[0][:3] == ["o", "probability", "prediction"]
    logits = theirs.predict(which="linear")
    assert [float(line[1]) for line in lines[1:]] == pytest.approx((1 / (1 + np.exp(-logits))).tolist(), rel=1e-6)
    rows[["a", "b"]].to_csv("without.csv", index=False)
    code, out, err = run("predict", "--ckpt_path", checkpoint, "--data.path", "without.csv")
    assert (code, out) == (2, "")
    assert "without.csv has no offset column o" in err.splitlines()[-1]
    code, out, err = run("test", "--ckpt_path", checkpoint, "--data.path", "t.csv")
    weighted = rows["w"].to_numpy()
    loss = log_loss(rows["y"], 1 / (1 + np.exp(-logits)), sample_weight=weighted)
    assert code == 0
    assert float(out.split()[1]) == pytest.approx(loss, rel=1e-5)
    code, out, _ = run("export", "--ckpt_path", checkpoint)
    assert json.loads(out)["offset"] == "o"
    code, _, _ = run("fit", "--config", folder / "config.yaml", "--quiet")  # the saved settings have it
    assert code == 0
    assert (tmp_path / "runs/t/version_1/report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_graph_adds_the_offset(tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from lr_lightning.serving.onnx import to_onnx

    rows = table()
    predictor = fit(TableDataModule(rows, "y", ["a", "b"], offset="o")).predictor()
    model = to_onnx(predictor)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["a", "b", "o"]
    inputs = {name: rows[[name]].to_numpy(copy=True) for name in ("a", "b", "o")}
    inputs["o"][:2] = [[np.inf], [np.nan]]
    found = session.run(["probability"], inputs)[0]
    assert np.isnan(found[:2]).all()
    assert found[2:] == pytest.approx(predictor.probability(rows)[2:].numpy(), rel=1e-12)


def test_under_drop_a_row_without_offset_gets_no_prediction():
    rows = table()
    rows.loc[3, "o"] = np.nan
    data = TableDataModule(rows, "y", ["a", "b"], offset="o", missing="drop", val_fraction=0)
    predictor = fit(data).predictor()
    assert len(data.train_rows.y) == len(rows) - 1
    assert predictor.probability(rows).isnan().nonzero().tolist() == [[3]]
    assert predictor.predict(rows)[3] is None
    assert encode(predictor.schema, rows[["a", "b"]]).shape == (400, 2)  # features alone need no offset


@pytest.mark.parametrize("missing", ["error", "impute"])
def test_no_offset_is_guessed(missing):
    rows = table()
    predictor = fit(TableDataModule(rows, "y", ["a", "b"], offset="o", missing=missing)).predictor()
    for value, words in ((np.nan, "has no value"), (-np.inf, "is -inf")):
        rows.loc[3, "o"] = value
        with pytest.raises(InputError, match=f"row 4: the offset o {words}; it must be finite"):
            predictor.probability(rows)
        with pytest.raises(InputError, match=f"row 4: the offset o {words}; it must be finite"):
            fit(TableDataModule(rows, "y", ["a", "b"], offset="o", missing=missing))


def test_a_level_of_one_outcome_vanishes_from_the_loss_whatever_its_offset():
    """The fit stops where the rows that a column separates have no loss; the other estimates are those without them."""
    rows = table()
    rows["flag"] = (rows.index < 20).astype(float)
    rows.loc[:19, "y"], rows.loc[:19, "o"] = 1, -60.0
    model = fit(TableDataModule(rows, "y", ["a", "b", "flag"], offset="o", val_fraction=0))
    report = model.infer()
    assert report.separation == "quasi"
    theirs = glm(rows[20:])
    assert [row.estimate for row in report.coefficients[:3]] == pytest.approx(theirs.params.tolist(), rel=1e-6)
    assert report.log_likelihood == pytest.approx(theirs.llf, rel=1e-9)


def test_offsets_alone_separate_nothing():
    """Offsets that tell the classes apart leave the coefficients finite."""
    rows = table()
    rows["o"] = np.where(rows["y"] == 1, 4.0, -4.0)
    report = fit(TableDataModule(rows, "y", ["a", "b"], offset="o", val_fraction=0)).infer()
    assert report.separation is None
    assert report.converged
    assert [row.estimate for row in report.coefficients] == pytest.approx(glm(rows).params.tolist(), rel=1e-6)


class TestDoubts:
    def test_probabilities_are_asked_about(self, caplog):
        rows = table()
        rows["o"] = np.linspace(0, 1, len(rows))
        TableDataModule(rows, "y", ["a", "b"], offset="o").setup("fit")
        of_tensors(rows).setup("fit")
        said = [record.message for record in caplog.records if "is it a probability?" in record.message]
        assert len(said) == 2
        assert "the offset o lies between 0 and 1" in said[0]

    def test_log_odds_are_not(self, caplog):
        TableDataModule(table(), "y", ["a", "b"], offset="o").setup("fit")
        assert "probability" not in caplog.text

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"offset": "y"}, "--data.offset: y is the target and cannot be the offset too"),
            ({"offset": "w", "weight": "w"}, "--data.offset: w is the weight and cannot be the offset too"),
            ({"offset": "a", "features": ["a", "b"]}, "--data.features: a is the offset and cannot be a feature too"),
            ({"offset": "p"}, "no offset column p"),
        ],
    )
    def test_no_column_has_two_roles(self, options, words):
        with pytest.raises(InputError, match=words):
            TableDataModule(table(), "y", **options).setup("fit")

    def test_of_tensors(self):
        rows = table()
        rows.loc[5, "o"] = np.inf
        with pytest.raises(InputError, match="every offset must be finite"):
            of_tensors(rows)
        with pytest.raises(InputError, match=r"offset must have shape \(400,\)"):
            TensorDataModule(rows[["a", "b"]].to_numpy(), *columns(rows, "y"), offset=[1.0, 2.0])
        with pytest.raises(InputError, match="a column named offset"):
            TensorDataModule(np.eye(2), [0, 1], offset=[1.0, 2.0], feature_names=["a", "offset"])
