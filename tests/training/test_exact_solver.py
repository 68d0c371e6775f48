"""The exact solver as Lightning drives it: one step an epoch, resumed, warm-started, and on hard tables."""

import logging

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from scipy import optimize
from scipy.special import expit
from sklearn.datasets import load_breast_cancer

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.solver import SubsampledNewton
from lr_lightning.solver.curvature import DenseCurvature
from tests.conftest import QUIET_TRAINER


def table(n=60_000, d=6, seed=0, positive=-1.0):
    """More rows than the solver samples, so that it takes several passes."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d)
    logit = x @ generator.normal(size=d) / d + positive
    return x, (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)


class Passes(Callback, Logger):
    """The weights and the logged loss after each pass. (Lightning's callback metrics are rounded to float32.)"""

    name = version = ""

    def __init__(self):
        self.weights, self.losses = [], []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        assert step == len(self.losses) + self.first
        self.losses.append(metrics["train/loss"])

    def on_train_start(self, trainer, pl_module):
        self.first = trainer.current_epoch

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights.append(pl_module.linear_sigmoid.linear.weight.detach().clone())


def fit(model, data, *, precision="64-true", max_epochs=100, ckpt_path=None, callbacks=()):
    passes = Passes()
    trainer = Trainer(
        max_epochs=max_epochs,
        precision=precision,
        callbacks=[passes, *callbacks],
        **{**QUIET_TRAINER, "logger": passes, "log_every_n_steps": 1},
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, passes


def mean_loss(x, y, weight, bias):
    margin = (2 * y - 1) * (x @ weight + bias)
    return np.logaddexp(0, -margin).mean()


def optimum(x, y):
    """By scipy, in float64, from several digits of gradient."""

    def value(p):
        return mean_loss(x, y, p[:-1], p[-1])

    def gradient(p):
        r = 1 / (1 + np.exp(-(x @ p[:-1] + p[-1]))) - y
        return np.append(x.T @ r, r.sum()) / len(y)

    return optimize.minimize(value, np.zeros(x.shape[1] + 1), jac=gradient, method="BFGS", options={"gtol": 1e-10}).fun


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_reaches_the_optimum_in_few_passes(precision):
    x, y = table()
    model = LogisticRegression()
    trainer, passes = fit(model, TensorDataModule(x, y), precision=precision)
    predictor = model.predictor()
    reached = mean_loss(x, y, np.array(list(predictor.coefficients.values())), predictor.intercept)
    assert model.converged
    assert reached == pytest.approx(optimum(x, y), rel=1e-9)
    assert trainer.current_epoch == len(passes.losses) <= 6
    assert passes.losses == sorted(passes.losses, reverse=True)
    assert passes.losses[-1] == pytest.approx(reached, rel=1e-9)


def test_logged_loss_is_the_objective_at_that_pass():
    x, y = table()
    model = LogisticRegression(l2=0.1)
    start = Passes()

    class Before(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            start.weights.append([p.detach().clone() for p in pl_module.linear_sigmoid.linear.parameters()])

    _, passes = fit(model, TensorDataModule(x, y), callbacks=[Before()])
    z = (x - x.mean(0)) / x.std(0)
    for (weight, bias), logged in zip(start.weights, passes.losses, strict=True):
        w = weight[0].numpy()
        assert logged == pytest.approx(mean_loss(z, y, w, bias.item()) + 0.05 * w @ w, rel=1e-12)


def test_warm_start_at_the_optimum_takes_one_or_two_passes():
    x, y = table()
    model = LogisticRegression()
    fit(model, TensorDataModule(x, y))
    found = model.predictor()
    again = LogisticRegression(initial_weight=list(found.coefficients.values()), initial_bias=found.intercept)
    trainer, _ = fit(again, TensorDataModule(x, y))
    assert again.converged
    assert trainer.current_epoch <= 2
    assert again.predictor().coefficients == pytest.approx(found.coefficients, rel=1e-9)


@pytest.mark.parametrize("far", ["initial_weight", "initial_bias", "offset"])
@pytest.mark.parametrize(("l1", "l2"), [(0.02, 0.0), (0.0, 0.02)])
def test_a_start_at_which_no_row_has_curvature_does_not_matter(far, l1, l2):
    x, y = load_breast_cancer(return_X_y=True)  # in units in which 0.5 of each makes logits of 1 000
    y, n = 1.0 - y, len(y)
    offset = np.full(n, 1000.0) if far == "offset" else None
    given = {"initial_weight": {"initial_weight": 0.5}, "initial_bias": {"initial_bias": 1000.0}, "offset": {}}[far]
    model = LogisticRegression(l1=l1, l2=l2, **given)
    fit(model, TensorDataModule(x, y, offset=offset))
    assert model.converged
    found = model.predictor()
    weight = np.array(list(found.coefficients.values())) * x.std(0)
    z = (x - x.mean(0)) / x.std(0)
    logit = x @ (weight / x.std(0)) + found.intercept + (0 if offset is None else offset)
    residual = expit(logit) - y
    gradient = z.T @ residual / n + l2 * weight
    np.testing.assert_allclose(gradient[weight != 0], -l1 * np.sign(weight[weight != 0]), atol=1e-6)
    assert (np.abs(gradient) <= l1 + 1e-6).all()
    assert abs(residual.mean()) < 1e-6


def test_no_step_where_the_optimality_conditions_are_violated_is_no_convergence():
    x, y = (torch.tensor(part) for part in table(n=600))
    x = (x - x.mean(0)) / x.std(0)
    weight = torch.full((6,), 1000.0, dtype=torch.float64)
    solver = SubsampledNewton([weight], l1=0.01)
    solver._curvature = DenseCurvature(torch.full((6, 6), 1e-200, dtype=torch.float64))

    def closure():
        z = x @ weight
        weight.grad = x.T @ (torch.sigmoid(z) - y) / len(y)
        return torch.nn.functional.binary_cross_entropy_with_logits(z, y)

    solver.step(closure)
    assert (solver.converged, solver.status) == (False, "no step decreases the objective")


@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_resumed_fit_goes_on_bit_by_bit(tmp_path, l1, precision):
    x, y = table()
    whole = LogisticRegression(l1=l1)
    _, uninterrupted = fit(whole, TensorDataModule(x, y), precision=precision)
    stopped_at = 2
    assert len(uninterrupted.weights) > stopped_at

    class Save(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch + 1 == stopped_at:
                trainer.save_checkpoint(tmp_path / "after.ckpt")

    fit(LogisticRegression(l1=l1), TensorDataModule(x, y), precision=precision, callbacks=[Save()])
    resumed = LogisticRegression(l1=l1)
    _, rest = fit(resumed, TensorDataModule(x, y), precision=precision, ckpt_path=tmp_path / "after.ckpt")
    assert rest.losses == uninterrupted.losses[stopped_at:]
    assert all(torch.equal(a, b) for a, b in zip(rest.weights, uninterrupted.weights[stopped_at:], strict=True))


def test_heavily_imbalanced():
    x, y = table(n=200_000, positive=-9.0)
    assert 5 < y.sum() < 400
    model = LogisticRegression()
    fit(model, TensorDataModule(x, y))
    predictor = model.predictor()
    reached = mean_loss(x, y, np.array(list(predictor.coefficients.values())), predictor.intercept)
    assert model.converged
    assert reached == pytest.approx(optimum(x, y), rel=1e-8)
    assert predictor.probability(x).mean().item() == pytest.approx(y.mean(), rel=1e-6)  # the balance property


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
def test_collinear_columns_give_the_best_predictions(noise):
    x, y = table(n=5000)
    other = np.random.default_rng(1).normal(size=len(y))
    near = np.column_stack([x, x[:, 0] - 2 * x[:, 1] + noise * other])
    model = LogisticRegression()
    fit(model, TensorDataModule(near, y))
    assert all(np.isfinite(list(model.predictor().coefficients.values())))
    # Well-conditioned columns of the same span have the same predictions.
    apart, x = LogisticRegression(), np.column_stack([x, other]) if noise else x
    fit(apart, TensorDataModule(x, y))
    expected = apart.predictor().probability(x).numpy()
    assert model.predictor().probability(near).numpy() == pytest.approx(expected, abs=1e-6)
    assert model.converged


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("n", [3000, 60_000])
def test_dependent_columns_are_said_and_merely_correlated_ones_are_not(precision, n, caplog):
    x, y = table(n=n)
    sums = np.column_stack([x[:, 0] - 2 * x[:, 1], 1 - x[:, 2], np.ones(n)])  # two dependencies and a constant
    near = x[:, :1] + 1e-3 * np.random.default_rng(1).normal(size=(n, 1))
    for columns, said in ((sums, "depend on each other in 2 ways"), (sums[:, :1], "in 1 way,"), (near, "")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lr_lightning"):
            model = LogisticRegression()
            fit(model, TensorDataModule(np.column_stack([x, columns]), y), precision=precision)
        assert model.converged
        assert said in caplog.text
        assert bool(said) == bool(caplog.records)


def test_scales_far_apart():
    x, y = table(n=5000)
    scales = np.array([1e-12, 1e-6, 1.0, 1e6, 1e12, 1e3])
    plain, scaled = LogisticRegression(), LogisticRegression()
    fit(plain, TensorDataModule(x, y))
    fit(scaled, TensorDataModule(x * scales, y))
    expected = np.array(list(plain.predictor().coefficients.values()))
    assert np.array(list(scaled.predictor().coefficients.values())) * scales == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_separated_rows_end_with_a_reason(precision, caplog):
    x, y = table(n=2000)
    x[:, 0] = y * 2 - 1 + 0.1 * x[:, 0] / np.abs(x[:, 0]).max()
    with caplog.at_level(logging.WARNING, logger="lr_lightning"):
        model = LogisticRegression()
        trainer, _ = fit(model, TensorDataModule(x, y), precision=precision)
    assert not model.converged
    assert "separation" in caplog.text
    assert trainer.current_epoch < 100
    assert all(np.isfinite(list(model.predictor().coefficients.values())))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_that_depend_on_others_up_to_rounding_do_not_keep_the_fit_from_ending(dtype):
    x, y = table(n=2000)
    columns = [x, x[:, :1] + x[:, 1:2], 3 * x[:, 5:] - 1, x.sum(1, keepdims=True)]
    model = LogisticRegression()
    trainer, _ = fit(model, TensorDataModule(np.hstack(columns).astype(dtype), y), precision="32-true")
    assert model.converged
    assert trainer.current_epoch <= 3
    predictor = model.predictor()
    reached = predictor.probability(np.hstack(columns)).numpy()
    assert -np.log(np.where(y == 1, reached, 1 - reached)).mean() == pytest.approx(optimum(x, y), rel=1e-6)


@pytest.mark.parametrize("low", [-1.0, 1.0, 5.0])
def test_powers_of_a_feature_reach_the_optimum_of_their_span(low):
    generator = np.random.default_rng(4)
    t = generator.uniform(low, low + 2, 1500)
    unit = t - low - 1
    y = (generator.random(len(t)) < 1 / (1 + np.exp(-2 * np.sin(3 * unit)))).astype(float)
    model, powers = LogisticRegression(), np.column_stack([t**k for k in range(1, 8)])
    fit(model, TensorDataModule(powers, y))
    expected = optimum(np.polynomial.chebyshev.chebvander(unit, 7)[:, 1:], y)
    margin = (2 * y - 1) * model.logits(torch.from_numpy(powers)).detach().numpy()
    assert np.logaddexp(0, -margin).mean() == pytest.approx(expected, rel=1e-8)
    assert model.converged


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_a_flag_of_one_class_only_is_not_called_converged(share, precision):
    x, y = table(n=1500)
    flag = np.random.default_rng(5).random(len(y)) < share
    model = LogisticRegression()
    trainer, _ = fit(model, TensorDataModule(np.column_stack([x, flag]), np.where(flag, 1.0, y)), precision=precision)
    assert not model.converged
    assert "separation" in trainer.optimizers[0].status


@pytest.mark.parametrize("unit", [1e-9, 1e-12, 1e-15])
def test_a_penalty_on_a_column_in_tiny_units_leaves_the_others_alone(unit):
    x, y = table(n=2000, d=3)
    with_column, without = (
        LogisticRegression(l1=0.01, standardize=False),
        LogisticRegression(l1=0.01, standardize=False),
    )
    fit(with_column, TensorDataModule(np.column_stack([x, unit * np.random.default_rng(6).normal(size=len(y))]), y))
    fit(without, TensorDataModule(x, y))
    found = list(with_column.predictor().coefficients.values())
    assert found[:3] == pytest.approx(list(without.predictor().coefficients.values()), rel=1e-9)
    assert found[3] == 0
