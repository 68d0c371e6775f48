"""The module against scikit-learn, in each way of putting the problem and of serving the rows."""

import csv
import logging
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
)
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule, load
from tests.conftest import QUIET_TRAINER


@pytest.fixture(scope="module")
def rows():
    """2 000 rows of 5 features of very different means and scales, with sample weights."""
    generator = np.random.default_rng(7)
    z = generator.normal(size=(2000, 5)) @ generator.normal(size=(5, 5))
    x = z * np.array([1.0, 1e-3, 50.0, 1e4, 0.3]) + np.array([0.0, 5e-3, -20.0, 1e5, 2.0])
    logit = (z @ np.array([1.0, -0.5, 0.3, 0.0, 0.2])) - 0.7
    y = (generator.random(2000) < 1 / (1 + np.exp(-logit))).astype(float)
    return x, y, generator.integers(0, 4, 2000).astype(float)


def fit(model, data, *, precision="64-true", max_epochs=100, **trainer):
    trainer = Trainer(max_epochs=max_epochs, precision=precision, **{**QUIET_TRAINER, **trainer})
    trainer.fit(model, data)
    return trainer


def reference(x, y, l2, *, standardize, weight=None, class_weight=None, fit_intercept=True):
    """Coefficients and intercept by scikit-learn's Newton solver on the penalty that `l2` stands for."""
    v = np.ones(len(y)) if weight is None else weight
    scaler = StandardScaler(with_mean=fit_intercept).fit(x, sample_weight=v) if standardize else None
    features = x if scaler is None else scaler.transform(x)
    total = v.sum() if class_weight is None else (v * np.where(y > 0, class_weight[1], class_weight[0])).sum()
    model = Reference(
        C=np.inf if l2 == 0 else 1 / (l2 * total),
        solver="newton-cholesky",
        tol=1e-12,
        max_iter=1000,
        class_weight=class_weight,
        fit_intercept=fit_intercept,
    ).fit(features, y, sample_weight=weight)
    coefficients, intercept = model.coef_[0], float(model.intercept_[0] if fit_intercept else 0.0)
    if scaler is not None:
        coefficients = coefficients / scaler.scale_
        intercept -= float(coefficients @ scaler.mean_) if fit_intercept else 0.0
    return coefficients, intercept


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("optimizer", ["SubsampledNewton", "LBFGS"])
def test_agrees_with_scikit_learn(rows, standardize, l2, weighted, optimizer):
    x, y, weight = rows
    if not standardize and l2:
        x = StandardScaler().fit_transform(x) * 2 + 1  # a raw penalty on these scales would be no penalty at all
    weight = weight if weighted else None
    model = LogisticRegression(l2=l2, standardize=standardize, optimizer=optimizer)
    fit(model, TensorDataModule(x, y, weight))
    coefficients, intercept = reference(
        x if l2 else StandardScaler().fit_transform(x), y, l2, standardize=standardize, weight=weight
    )
    if not l2:  # scikit-learn needs these standardised; the coefficients are brought back
        scaler = StandardScaler().fit(x)
        coefficients = coefficients / scaler.scale_
        intercept -= float(coefficients @ scaler.mean_)
    assert model.converged
    predictor = model.predictor()
    assert list(predictor.coefficients.values()) == pytest.approx(coefficients, rel=1e-6)
    assert predictor.intercept == pytest.approx(intercept, rel=1e-6)


def test_class_weight_is_part_of_the_standardisation(rows):
    x, y, weight = rows
    class_weight = {0: 1.0, 1: 3.0}
    model = LogisticRegression(l2=0.05, class_weight=class_weight)
    fit(model, TensorDataModule(x, y, weight))
    v = weight * np.where(y > 0, 3.0, 1.0)
    coefficients, intercept = reference(x, y, 0.05, standardize=True, weight=v)
    predictor = model.predictor()
    assert list(predictor.coefficients.values()) == pytest.approx(coefficients, rel=1e-6)
    assert predictor.intercept == pytest.approx(intercept, rel=1e-6)


def test_balanced_class_weight_gives_both_classes_half(rows):
    x, y, _ = rows
    balanced, explicit = (
        LogisticRegression(class_weight="balanced"),
        LogisticRegression(class_weight={0: 1000 / (y == 0).sum(), 1: 1000 / (y == 1).sum()}),
    )
    for model in (balanced, explicit):
        fit(model, TensorDataModule(x, y))
    expected = explicit.predictor().coefficients
    assert balanced.predictor().coefficients == pytest.approx(expected, rel=1e-9)


def test_without_intercept(rows):
    x, y, _ = rows
    z = StandardScaler().fit_transform(x)
    model = LogisticRegression(l2=0.01, fit_intercept=False, standardize=False)
    fit(model, TensorDataModule(z, y))
    coefficients, _ = reference(z, y, 0.01, standardize=False, fit_intercept=False)
    assert model.predictor().intercept == 0
    assert list(model.predictor().coefficients.values()) == pytest.approx(coefficients, rel=1e-6)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")  # of Lightning, where a loader comes alone
@pytest.mark.parametrize("l2", [0.0, 0.02])
def test_the_way_of_serving_does_not_matter(rows, l2):
    x, y, weight = rows
    tensors = [torch.tensor(t) for t in (x, y, weight)]
    objectives = []
    for data in (
        TensorDataModule(x, y, weight),
        TensorDataModule(x, y, weight, batch_size=64),
        TensorDataModule(x, y, weight, batch_size=1999, shuffle=False),
        DataLoader(TensorDataset(*tensors), batch_size=300),
    ):
        model = LogisticRegression(l2=l2)
        trainer = fit(model, data, limit_val_batches=0)
        objectives.append(float(trainer.callback_metrics["train/loss"]))
    assert objectives == pytest.approx([objectives[0]] * 4, rel=1e-9)


def test_default_precision_is_good_to_its_own_limit(rows):
    x, y, weight = rows
    double, single = LogisticRegression(), LogisticRegression()
    fit(double, TensorDataModule(x, y, weight))
    fit(single, TensorDataModule(x, y, weight), precision="32-true")
    expected = double.predictor()
    assert single.predictor().coefficients == pytest.approx(expected.coefficients, rel=1e-5)
    assert single.logits(torch.tensor(x)).dtype == torch.float32
    assert double.logits(torch.tensor(x)).dtype == torch.float64
    assert single.logits(torch.tensor(x)).detach() == pytest.approx(expected.logits(x).float(), abs=1e-4)


@pytest.fixture(scope="module")
def total():
    """A total beside its two parts that differs from their sum by float32's rounding alone, and a maximum.

    The table, the log-likelihood, and the coefficient of `exper`: Newton's method on an orthonormal basis.
    """
    generator = np.random.default_rng(0)
    jc, univ, exper = generator.exponential([[0.3], [1.0], [1.0]], (3, 2000)).round(6)
    stored = (jc + univ).astype(np.float32).astype(np.float64)
    off = (stored - jc - univ) / (stored - jc - univ).std()  # y depends on what float32 would round away
    y = generator.random(2000) < 1 / (1 + np.exp(-0.4 * exper - off))
    basis, triangle = np.linalg.qr(np.column_stack([jc, univ, stored, np.ones(2000), exper]))
    point = np.zeros(5)
    for _ in range(30):
        p = 1 / (1 + np.exp(-basis @ point))
        point += np.linalg.solve(basis.T @ (basis * (p * (1 - p))[:, None]), basis.T @ (y - p))
    likelihood = np.log(np.where(y, p, 1 - p)).sum()
    return {"jc": jc, "univ": univ, "totcoll": stored, "exper": exper, "y": y}, likelihood, point[4] / triangle[4, 4]


@pytest.mark.parametrize("optimizer", ["SubsampledNewton", "LBFGS"])
def test_the_default_precision_keeps_the_digits_of_a_table(total, optimizer, caplog):
    table, likelihood, coefficient = total
    fits = []
    for precision in ("32-true", "64-true"):
        model = LogisticRegression(optimizer=optimizer)
        fit(model, TableDataModule(table, "y", val_fraction=0.0), precision=precision, max_epochs=500)
        report = model.infer()
        fits.append({row.name: row.estimate for row in report.coefficients})
        if optimizer == "SubsampledNewton":
            assert model.converged
            assert report.log_likelihood == pytest.approx(likelihood, abs=1e-6)
            assert fits[-1]["exper"] == pytest.approx(coefficient, rel=1e-7)
    assert None not in fits[0].values()
    assert fits[0] == fits[1]
    assert "depend on each other" not in caplog.text


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "LBFGS"])
def test_rows_in_double_leave_a_module_at_the_trainers_precision(total, optimizer):
    options = {"batch_size": None if optimizer == "LBFGS" else 256, "val_fraction": 0.2}
    outputs, weights = [], []
    for precision in ("32-true", "64-true"):
        model = LogisticRegression(optimizer=optimizer)
        trainer = fit(model, TableDataModule(total[0], "y", **options), precision=precision, max_epochs=3)
        assert trainer.train_dataloader.rows.x.dtype == torch.float64
        assert math.isfinite(trainer.callback_metrics["val/loss"])
        outputs.append(torch.cat(trainer.predict(model, trainer.datamodule)))
        weights.append(model.linear_sigmoid.linear.weight)
    assert [p.dtype for p in outputs] == [torch.float32, torch.float64]
    assert torch.allclose(outputs[0].double(), outputs[1], rtol=3e-7)
    assert torch.equal(*weights)


def test_a_timestamp_and_a_tiny_feature_keep_their_digits():
    """1.7e9 ± 1e3 beside 1e-6: float32 could not even hold the first."""
    generator = np.random.default_rng(3)
    z = generator.normal(size=(5000, 2))
    y = (generator.random(5000) < 1 / (1 + np.exp(-z @ [1.0, -2.0]))).astype(float)
    x = z * [1e3, 1e-6] + [1.7e9, 0.0]
    plain = LogisticRegression()
    fit(plain, TensorDataModule(z, y))
    expected = np.array(list(plain.predictor().coefficients.values())) / [1e3, 1e-6]
    for precision, tolerance in (("64-true", 1e-8), ("32-true", 1e-5)):
        model = LogisticRegression()
        fit(model, TensorDataModule(x, y), precision=precision)
        assert list(model.predictor().coefficients.values()) == pytest.approx(expected, rel=tolerance)


def test_l1_gives_zeros_and_satisfies_the_optimality_conditions(rows):
    x, y, _ = rows
    l1 = 0.05
    model = LogisticRegression(l1=l1)
    fit(model, TensorDataModule(x, y))
    z = StandardScaler().fit_transform(x)
    w = model.linear_sigmoid.linear.weight[0].detach().numpy()
    gradient = z.T @ (model.predictor().probability(x).numpy() - y) / len(y)
    assert 0 < (w != 0).sum() < 5
    assert gradient[w != 0] == pytest.approx(-l1 * np.sign(w[w != 0]), abs=1e-7)
    assert np.abs(gradient[w == 0]).max() <= l1


def on_its_support(x, y, l1, l2, start):
    """Newton in float64 on the non-zero standardised weights and the intercept, with the signs of `start` held."""
    w, b = start
    z = (x - x.mean(0)) / x.std(0)
    index = np.flatnonzero(w)
    sign, a = np.sign(w[index]), np.column_stack([z[:, index], np.ones(len(y))])
    theta = np.append((w * x.std(0))[index], b + x.mean(0) @ w)
    ridge = np.append(np.full(len(index), l2), 0.0)
    for _ in range(20):
        p = 1 / (1 + np.exp(-a @ theta))
        gradient = a.T @ (p - y) / len(y) + ridge * theta + np.append(l1 * sign, 0.0)
        hessian = a.T @ (a * (p * (1 - p))[:, None]) / len(y) + np.diag(ridge)
        theta -= np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-14
    outside = np.setdiff1d(np.arange(x.shape[1]), index)
    assert (np.abs(z[:, outside].T @ (p - y)) / len(y) < l1).all()
    coefficients = np.zeros_like(w)
    coefficients[index] = theta[:-1] / x.std(0)[index]
    return coefficients, theta[-1] - x.mean(0) @ coefficients


@pytest.mark.parametrize(
    ("n", "d", "l1", "l2"),
    [
        (400, 12, 0.01, 0.0),
        (400, 12, 0.02, 0.05),
        (25_000, 30, 0.003, 0.0),
        (120, 2500, 0.05, 0.0),
        (3000, 300, 0.01, 0.0),
    ],
)
def test_l1_in_double_precision_has_all_its_digits(n, d, l1, l2):
    """Small; elastic net; a sample of the rows; the working set of a wide table; a Hessian that is dear."""
    generator = np.random.default_rng(n + d)
    x = generator.normal(size=(n, d)) * 3 + 1
    x[:, 1] += 0.9 * x[:, 0]
    logit = (x[:, :6] - 1) @ np.array([0.5, -0.3, 0.2, 0.0, 0.1, -0.4]) - 0.5
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    model = LogisticRegression(l1=l1, l2=l2)
    trainer = fit(model, TensorDataModule(x, y))
    assert model.converged
    found = model.linear_sigmoid.coefficients()
    weight, intercept = on_its_support(x, y, l1, l2, (found[0].numpy(), found[1]))
    assert found[0].numpy() == pytest.approx(weight, rel=1e-11)
    assert found[1] == pytest.approx(intercept, rel=1e-11)
    assert trainer.current_epoch < 20


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_trainers_test_returns_the_metrics_with_all_their_digits(rows, tmp_path, precision):
    """And they reach loggers once, as of the fit's last epoch."""
    x, y, weight = rows
    data = TensorDataModule(x, y, weight, test_fraction=0.3)
    model, logger = LogisticRegression(), CSVLogger(tmp_path, name="", version="")
    trainer = fit(model, data, precision=precision, logger=logger, log_every_n_steps=1)
    (returned,) = trainer.test(model, data, verbose=False)
    held_out = data.test_rows
    p = model.predictor().probability(held_out.x.double() * data.served.scale + data.served.mean).numpy()
    y, weight = held_out.y.double().numpy(), held_out.weight.double().numpy()
    rel = 1e-12 if precision == "64-true" else 1e-6  # the logits are as precise as the Trainer
    assert returned.pop("step") == trainer.current_epoch - 1
    assert returned == {
        "test/loss": pytest.approx(log_loss(y, p, sample_weight=weight), rel=rel),
        "test/accuracy": pytest.approx(accuracy_score(y, p > 0.5, sample_weight=weight), rel=1e-14),
        "test/auroc": pytest.approx(roc_auc_score(y, p, sample_weight=weight), rel=1e-12),
        "test/average_precision": pytest.approx(average_precision_score(y, p, sample_weight=weight), rel=1e-12),
        "test/f1": pytest.approx(f1_score(y, p > 0.5, sample_weight=weight), rel=1e-14),
        "test/brier": pytest.approx(brier_score_loss(y, p, sample_weight=weight), rel=rel),
        "test/calibration_error": pytest.approx(calibration_error(y, p, weight), rel=rel),
    }
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["test/loss"]]
    assert [int(line["step"]) for line in lines] == [trainer.current_epoch - 1]
    assert {name: float(lines[0][name]) for name in returned} == returned


def calibration_error(y, p, weight, n_bins=15):
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    return sum(abs(weight[bins == k] @ (p - y)[bins == k]) for k in range(n_bins)) / weight.sum()


def test_sum_is_the_mean_times_the_rows(rows):
    x, y, _ = rows
    losses = []
    for reduction in ("mean", "sum"):
        model = LogisticRegression(reduction=reduction, l2=0.1)
        losses.append(float(fit(model, TensorDataModule(x, y)).callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(2000 * losses[0], rel=1e-6)


def test_breast_cancer_in_minibatches_comes_near_the_exact_optimum():
    x, y = load_breast_cancer(return_X_y=True)
    exact = LogisticRegression(l2=0.01)
    best = float(fit(exact, TensorDataModule(x, y)).callback_metrics["train/loss"])
    model = LogisticRegression(l2=0.01, optimizer="SGD", optimizer_options={"lr": 0.1})
    loss = float(fit(model, TensorDataModule(x, y, batch_size=64), max_epochs=200).callback_metrics["train/loss"])
    assert best < loss < 1.02 * best


def test_current_epoch_is_the_number_of_passes(rows, tmp_path):
    x, y, _ = rows
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(LogisticRegression(optimizer="LBFGS"), TensorDataModule(x, y), logger=logger, log_every_n_steps=1)
    logger.save()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    steps = [int(dict(zip(lines[0].split(","), line.split(","), strict=True))["step"]) for line in lines[1:]]
    assert steps == list(range(trainer.current_epoch))


def test_lbfgs_logs_the_loss_at_the_final_weights(rows):
    """Not the mean over the trial points of its line search."""
    x, y, _ = rows
    model = LogisticRegression(optimizer="LBFGS", optimizer_options={"max_iter": 2})
    trainer = fit(model, TensorDataModule(x, y), max_epochs=1)
    p = model.predictor().probability(x).numpy()
    expected = -np.log(np.where(y > 0, p, 1 - p)).mean()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-6)


def test_a_second_fit_by_lbfgs_knows_nothing_of_where_the_first_ended(rows):
    """Or its first step would seem to have led nowhere."""
    x, y, _ = rows

    class Start(Callback):
        objectives: ClassVar[list[float]] = []

        def on_train_start(self, trainer, pl_module):
            self.objectives.append(pl_module._line_search_end.objective)

    model = LogisticRegression(optimizer="LBFGS")
    for _ in range(2):
        fit(model, TensorDataModule(x, y), callbacks=[Start()])
    assert Start.objectives == [np.inf, np.inf]


def test_sgd_logs_the_loss_before_the_update():
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0.0, 0.0, 1.0])
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 5.0})
    trainer = fit(model, TensorDataModule(x, y), max_epochs=1)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(np.log(2), rel=1e-6)


def test_callbacks_can_watch_the_training_loss(rows):
    x, y, _ = rows
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.5})
    stop = EarlyStopping("train/loss", min_delta=1e-4, patience=2)
    trainer = fit(model, TensorDataModule(x, y), max_epochs=500, callbacks=[stop])
    assert 5 < trainer.current_epoch < 500


def test_load_from_checkpoint_gives_the_same_module(rows, tmp_path):
    x, y, _ = rows
    model = LogisticRegression(l2=0.1)
    trainer = fit(model, TensorDataModule(x, y))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    again = LogisticRegression.load_from_checkpoint(tmp_path / "fit.ckpt", weights_only=True)
    assert again.hparams == model.hparams
    assert torch.equal(again.double().logits(torch.tensor(x)), model.logits(torch.tensor(x)))


def test_a_limit_reached_before_the_optimum_is_said(rows, caplog):
    x, y, _ = rows
    with caplog.at_level(logging.WARNING, logger="lr_lightning"):
        model = LogisticRegression(initial_weight=0.0)
        fit(model, TensorDataModule(x, y), max_epochs=1)
    assert not model.converged
    assert "not converged" in caplog.text


def test_separated_rows_end_finite_and_said(caplog):
    with caplog.at_level(logging.WARNING, logger="lr_lightning"):
        model = LogisticRegression()
        fit(model, TensorDataModule([[1.0], [2.0], [3.0]], [0, 0, 1]))
    assert not model.converged
    assert bool(model.linear_sigmoid.linear.weight.isfinite().all())
    assert "not converged" in caplog.text


def test_a_constant_column_gets_no_weight(rows):
    x, y, _ = rows
    with_constant = np.column_stack([x, np.full(len(y), 7.3)])
    for optimizer, options in (("SubsampledNewton", None), ("SGD", {"lr": 0.1})):
        model = LogisticRegression(optimizer=optimizer, optimizer_options=options)
        fit(model, TensorDataModule(with_constant, y), max_epochs=50)
        assert model.predictor().coefficients["x5"] == 0


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_without_intercept_a_constant_column_takes_its_place(rows, standardize, precision):
    x, y, weight = rows
    ones = np.column_stack([np.full(len(y), 4.0), x])
    model = LogisticRegression(fit_intercept=False, standardize=standardize)
    fit(model, TensorDataModule(ones, y, weight), precision=precision)
    own = LogisticRegression()
    fit(own, TensorDataModule(x, y, weight), precision=precision)
    rows_of = {row.name: row for row in own.infer().coefficients}
    constant, *others = model.infer().coefficients
    rel = 1e-6 if precision == "64-true" else 1e-3
    assert 4 * constant.estimate == pytest.approx(rows_of["(Intercept)"].estimate, rel=rel)
    assert 4 * constant.std_error == pytest.approx(rows_of["(Intercept)"].std_error, rel=rel)
    for row, name in zip(others, ["x0", "x1", "x2", "x3", "x4"], strict=True):
        assert row.estimate == pytest.approx(rows_of[name].estimate, rel=rel, abs=1e-6)
        assert row.std_error == pytest.approx(rows_of[name].std_error, rel=rel)


def test_a_module_draws_no_random_numbers():
    state = torch.get_rng_state()
    LogisticRegression(in_features=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"l1": -1.0}, "l1"),
        ({"l2": float("nan")}, "l2"),
        ({"threshold": 1.0}, "threshold"),
        ({"reduction": "max"}, "reduction"),
        ({"optimizer": "Newton"}, "Newton"),
        ({"optimizer": "SGD", "optimizer_options": {"rate": 1}}, "SGD"),
        ({"in_features": 3}, "in_features"),
        ({"initial_weight": [1.0, 2.0]}, "initial_weight"),
        ({"fit_intercept": False, "initial_bias": 1.0}, "initial_bias"),
        ({"class_weight": {2: 1.0}}, "class_weight"),
        ({"class_weight": {0: -1.0}}, "class weight"),
    ],
)
def test_arguments_out_of_range_are_refused(rows, arguments, words):
    x, y, _ = rows
    with pytest.raises(InputError, match=words):
        fit(LogisticRegression(**arguments), TensorDataModule(x, y))


def test_mixed_precision_is_refused(rows):
    with pytest.raises(InputError, match="bf16-mixed"):
        fit(LogisticRegression(), TensorDataModule(*rows), precision="bf16-mixed")


def test_a_second_fit_does_not_inherit_that_the_first_has_converged(rows):
    x, y, _ = rows
    model = LogisticRegression(optimizer="LBFGS")
    fit(model, TensorDataModule(x, y))
    assert model.converged
    fit(model, TensorDataModule(x, 1 - y), max_epochs=1)
    assert not model.converged


def test_a_data_module_follows_the_precision_of_each_trainer(rows):
    x, y, _ = rows
    data = TensorDataModule(x, y)
    fit(LogisticRegression(), data, precision="32-true")
    again, once = LogisticRegression(), LogisticRegression()
    fit(again, data)
    fit(once, TensorDataModule(x, y))
    assert torch.equal(again.linear_sigmoid.linear.weight, once.linear_sigmoid.linear.weight)


# ---- weights ------------------------------------------------------------------------------------------------

FEW_X = np.array([0.4, 1.1, 1.9, 2.2, 2.8, 3.1, 3.9, 4.2, 4.8, 5.3])[:, None]
FEW_Y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1.0])
FEW_WEIGHTS = np.array([1, 2, 1, 3, 1, 2, 1, 1, 2, 1.0])


@pytest.mark.parametrize("scale", [5e-324 * 2**20, 1e-46, 1e-20, 1.0, 1e20, 1e39, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_estimate_does_not_depend_on_the_scale_of_the_weights(scale, dtype):
    model, one = LogisticRegression(l2=0.01), LogisticRegression(l2=0.01)
    precision = "32-true" if dtype == np.float32 else "64-true"
    fit(one, TensorDataModule(FEW_X.astype(dtype), FEW_Y, FEW_WEIGHTS), precision=precision)
    fit(model, TensorDataModule(FEW_X.astype(dtype), FEW_Y, scale * FEW_WEIGHTS), precision=precision)
    assert model.linear_sigmoid.coefficients()[0].numpy() == pytest.approx(
        one.linear_sigmoid.coefficients()[0].numpy(), rel=1e-7
    )


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_likelihoods_and_standard_errors_are_of_the_weights_as_given(scale):
    model = LogisticRegression()
    fit(model, TensorDataModule(FEW_X, FEW_Y, scale * FEW_WEIGHTS))
    report = model.infer()
    a = np.column_stack([np.ones(10), FEW_X])
    exact = Reference(C=np.inf, solver="newton-cholesky", tol=1e-13).fit(FEW_X, FEW_Y, sample_weight=FEW_WEIGHTS)
    z = exact.decision_function(FEW_X)
    likelihood = -scale * FEW_WEIGHTS @ np.logaddexp(0, np.where(FEW_Y > 0, -z, z))
    p = 1 / (1 + np.exp(-z))
    errors = np.sqrt(np.linalg.inv(a.T @ (a * (FEW_WEIGHTS * p * (1 - p))[:, None])).diagonal() / scale)
    assert report.log_likelihood == pytest.approx(likelihood, rel=1e-12)
    assert report.aic == pytest.approx(4 - 2 * likelihood, rel=1e-12)
    assert [row.std_error for row in report.coefficients] == pytest.approx(errors, rel=1e-6)


def test_weights_whose_sum_no_number_holds_are_refused():
    with pytest.raises(InputError, match="the weights sum to more than"):
        fit(LogisticRegression(), TensorDataModule(FEW_X, FEW_Y, np.full(10, 1e308)))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("batch_size", [3, 10])
def test_weights_of_a_loader_that_have_lost_their_digits_are_refused(batch_size):
    def loader(scale):
        tensors = map(torch.tensor, (FEW_X, FEW_Y, scale * FEW_WEIGHTS))
        return DataLoader(TensorDataset(*tensors), batch_size=batch_size)

    light, plain = LogisticRegression(), LogisticRegression()
    fit(light, loader(1e-200))
    fit(plain, loader(1.0))
    assert light.linear_sigmoid.coefficients()[0].tolist() == pytest.approx(
        plain.linear_sigmoid.coefficients()[0].tolist(), rel=1e-9
    )
    with pytest.raises(InputError, match="the weights that the training loader serves sum to less than 1e-290"):
        fit(LogisticRegression(), loader(1e-320))


def test_weights_too_unlike_for_a_float_are_told(caplog):
    with caplog.at_level(logging.WARNING, "lr_lightning"):
        fit(LogisticRegression(l2=0.1), TensorDataModule(FEW_X, FEW_Y, [1e-320, *[1e300] * 9]))
    assert "1 row weighs so little beside the heaviest" in caplog.text


def test_held_out_rows_without_weight_are_refused():
    weight = FEW_WEIGHTS.copy()
    data = TensorDataModule(FEW_X, FEW_Y, weight, val_fraction=0.2)
    data.setup("fit")
    kept_back = np.isin(FEW_X[:, 0], data.val_rows.x[:, 0].numpy())
    weight[kept_back] = 0
    with pytest.raises(InputError, match="every validation row has the weight 0"):
        fit(LogisticRegression(), TensorDataModule(FEW_X, FEW_Y, weight, val_fraction=0.2))


def test_class_weights_keep_their_digits_in_double_precision():
    """0.1 and 0.7 are no numbers of float32."""
    model = LogisticRegression(class_weight={0: 0.1, 1: 0.7})
    fit(model, TensorDataModule(FEW_X, FEW_Y, FEW_WEIGHTS))
    v = FEW_WEIGHTS * np.where(FEW_Y > 0, 0.7, 0.1)
    exact = Reference(C=np.inf, solver="newton-cholesky", tol=1e-13).fit(FEW_X, FEW_Y, sample_weight=v)
    z = exact.decision_function(FEW_X)
    likelihood = -v @ np.logaddexp(0, np.where(FEW_Y > 0, -z, z))
    assert model.infer().log_likelihood == pytest.approx(likelihood, rel=1e-13)


def test_a_minibatch_without_weight_moves_nothing():
    weight = np.array([1.0, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1})
    fit(model, TensorDataModule(FEW_X, FEW_Y, weight, batch_size=2, shuffle=False), max_epochs=3)
    assert bool(model.linear_sigmoid.linear.weight.isfinite().all())


def test_rows_of_one_class_say_which_measures_there_are_not(caplog):
    model = LogisticRegression()
    trainer = fit(model, TensorDataModule(FEW_X, FEW_Y))
    loader = DataLoader(TensorDataset(*map(torch.tensor, (FEW_X[5:6], FEW_Y[5:6]))))
    with caplog.at_level(logging.WARNING, "lr_lightning"):
        (found,) = trainer.test(model, loader, verbose=False)
    assert "one class only: no AUROC" in caplog.text
    assert "test/auroc" not in found


def test_a_flag_of_one_outcome_leaves_a_long_table_with_the_intercept_alone():
    """Its rows are predicted perfectly in the limit; of the others only their share of positives is left to fit."""
    flag = np.arange(2000) % 2
    y = np.where(flag == 1, 0, np.arange(2000) % 8 == 0)
    data = TensorDataModule(flag[:, None].astype(float), y)
    model, trainer = LogisticRegression(), Trainer(max_epochs=100, precision="64-true", **QUIET_TRAINER)
    trainer.fit(model, data)
    report = model.infer()
    assert report.separation == "quasi"
    assert report.log_likelihood == pytest.approx(250 * np.log(0.25) + 750 * np.log(0.75), rel=1e-9)
    assert report.coefficients[0].estimate == pytest.approx(np.log(1 / 3), rel=1e-9)


# ---- what a fit has to say ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dependent():
    """400 rows of two columns and their sum, and the maximum without the sum."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(400, 2))
    y = (generator.random(400) < 1 / (1 + np.exp(-x @ [1.0, -0.5]))).astype(float)
    return np.column_stack([x, x.sum(1)]), y


def maximum(x, y):
    found = Reference(C=np.inf, solver="newton-cholesky", tol=1e-13).fit(x, y)
    return [*found.coef_[0], found.intercept_[0]]


@pytest.mark.parametrize("settings", [{}, {"optimizer": "LBFGS"}], ids=["exact", "LBFGS"])
def test_a_checkpoint_of_a_finished_fit_has_the_report(dependent, tmp_path, settings):
    """Without being asked for it; the column that depends on the others has given its coefficient to them."""
    data, model = TensorDataModule(*dependent, feature_names=["a", "b", "total"]), LogisticRegression(**settings)
    fit(model, data).save_checkpoint(tmp_path / "fit.ckpt")
    *slopes, intercept = maximum(dependent[0][:, :2], dependent[1])
    for predictor in (load(tmp_path / "fit.ckpt"), model.predictor()):
        report = predictor.report()
        assert (report.n_observations, report.n_parameters, report.covariance, report.level) == (
            400,
            3,
            "nonrobust",
            0.95,
        )
        assert predictor.coefficients == pytest.approx({"a": slopes[0], "b": slopes[1], "total": 0.0}, rel=1e-6)
        estimates = [row.estimate for row in report.coefficients]
        assert estimates == [pytest.approx(value, rel=1e-6) for value in (intercept, *slopes)] + [None]
        low, high = predictor.probability_interval(dependent[0])
        assert bool((low < high).all())


def test_infer_changes_nothing(dependent):
    model = LogisticRegression(threshold="youden")
    fit(model, TensorDataModule(*dependent, val_fraction=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}, model.threshold
    reports = [model.infer(covariance="HC1", level=0.9) for _ in range(2)]
    assert reports[0] == reports[1]
    assert model.threshold == before[1] == reports[0].threshold
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    report = model.predictor().report()
    assert (report.covariance, report.level) == ("nonrobust", 0.95)
    assert report.threshold_rule == "youden on the validation rows"


def test_the_end_of_a_fit_chooses_the_threshold(dependent, tmp_path):
    """The one of the largest sensitivity + specificity, and again where the module is fitted a second time."""
    model = LogisticRegression(threshold="youden")
    assert model.threshold == 0.5
    for y in (dependent[1], 1 - dependent[1]):
        data = TensorDataModule(dependent[0], y, val_fraction=0.5)
        trainer = fit(model, data)
        p, positive = model(data.val_rows.x * data.served.scale + data.served.mean).detach(), data.val_rows.y > 0

        def youden(cut, p=p, positive=positive):
            return float((p[positive] > cut).double().mean() - (p[~positive] > cut).double().mean())

        assert youden(model.threshold) == pytest.approx(max(youden(cut) for cut in [0.0, *p.tolist()]), rel=1e-12)
        trainer.save_checkpoint(tmp_path / "fit.ckpt")
        assert load(tmp_path / "fit.ckpt").threshold == model.threshold
        (found,) = trainer.validate(model, data, verbose=False)
        assert found["val/accuracy"] == pytest.approx(float(((p > model.threshold) == positive).double().mean()))


def test_a_threshold_that_no_rows_can_choose_is_refused_before_the_fit(rows):
    x, y, _ = rows
    model, trainer = LogisticRegression(threshold="f1"), Trainer(max_epochs=5, **QUIET_TRAINER)
    with pytest.raises(InputError, match="threshold f1 is chosen on validation rows"):
        trainer.fit(model, TensorDataModule(x, y))
    assert (trainer.current_epoch, trainer.limit_val_batches) == (0, 1.0)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:The 'train_dataloader' does not have")
def test_checkpoints_have_the_report_of_their_own_fit(rows, tmp_path):
    """None while it goes on; and none of another fit, table or serving."""
    x, y, _ = rows

    class Saved(Callback):
        reports: ClassVar[list[object]] = []

        def on_train_epoch_end(self, trainer, pl_module):
            checkpoint = {}
            pl_module.on_save_checkpoint(checkpoint)
            self.reports.append(checkpoint.get("report"))

    model, data = LogisticRegression(optimizer="LBFGS"), TensorDataModule(x, y, test_fraction=0.2)
    trainer = fit(model, data, callbacks=[Saved()], precision="32-true")
    assert set(Saved.reports) == {None}
    before = model.infer()
    fit(LogisticRegression(), data)  # which has the rows served in float64
    trainer.test(model, TensorDataModule(x[:500], y[:500], test_fraction=0.5), verbose=False)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    assert load(tmp_path / "fit.ckpt").report() == before == model.infer()
    assert before.n_observations == 1600
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=2000)
    fit(model, loader)
    with pytest.raises(InputError, match="no report"):
        model.predictor().report()
