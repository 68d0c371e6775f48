"""The same result from several processes as from one."""

import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule
from tests.conftest import QUIET_TRAINER, ROOT
from tests.distributed.several import as_srun, in_processes

MANY, FEW = 60_011, 2  # more than the exact solver samples; fewer than processes
PENALISED = {"l2": 0.01}
SGD = {"optimizer": "SGD", "optimizer_options": {"lr": 0.1}}
FITS = {  # of the model, of the data
    "exact": (PENALISED, {}),
    "exact_l1": ({"l1": 0.01}, {}),
    "exact_in_batches": (PENALISED, {"batch_size": 7000}),
    "lbfgs": (PENALISED | {"optimizer": "LBFGS"}, {}),
    "sgd": (PENALISED | SGD, {"batch_size": 256}),
    "sgd_sum": (SGD | {"optimizer_options": {"lr": 1e-4}, "reduction": "sum"}, {"batch_size": 3000}),
    "with_roles": (PENALISED, {"roles": True}),
    "with_roles_in_batches": (SGD, {"roles": True, "batch_size": 3000}),
    "in_order": (SGD | {"class_weight": "balanced"}, {"batch_size": 5000, "shuffle": False}),
}


class Log(Logger):
    """All that is logged, as it is."""

    name = version = ""

    def __init__(self):
        self.values = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.values += [(step, name, value) for name, value in metrics.items()]


def table(n, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 4)) * [1, 2, 0.5, 3] + [0, 1, -1, 2]
    y = (generator.random(n) < 1 / (1 + np.exp(-x @ [1.0, -0.5, 0.3, 0.0]))).astype(float)
    y[:2] = 0, 1
    return x, y, generator.integers(0, 4, n) + 0.5


def roles(n):
    """Counts of successes, and the values of every role, for the features of `table(n)`."""
    generator = np.random.default_rng(1)
    trials = generator.integers(1, 5, n)
    successes = generator.binomial(trials, 0.3)
    successes[:2], trials[:2] = (0, 1), 1
    return successes, {"trials": trials, "offset": generator.normal(size=n), "groups": np.arange(n) // 3}


def trainer_for(processes, **settings):
    several = {"strategy": "ddp", "devices": processes} if processes > 1 else {}
    return Trainer(precision="64-true", **{**QUIET_TRAINER, "log_every_n_steps": 1, **several, **settings})


def fit(name, n_rows, processes, callbacks=()):
    """All that a fit and a test after it say."""
    options, serving = FITS[name]
    x, y, weight = table(n_rows)
    if serving.get("roles"):
        y, of_roles = roles(n_rows)
        serving = {**serving, **of_roles}
        del serving["roles"]
    held_out = {"val_fraction": 0.1, "test_fraction": 0.1} if n_rows > 100 else {}
    data = TensorDataModule(x, y, weight, **held_out, **serving)
    model, log = LogisticRegression(**options), Log()
    trainer = trainer_for(processes, logger=log, max_epochs=3 if "batch_size" in serving else 100, callbacks=callbacks)
    trainer.fit(model, data)
    predictor, report = model.predictor(), model.infer().to_dict()
    last = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if held_out:
        trainer.test(model, data, verbose=False)
    return {
        "coefficients": [*predictor.coefficients.values(), predictor.intercept],
        "report": dict(leaves(report)),
        "log": log.values,
        "callback_metrics": last,
        "epochs": trainer.current_epoch,
    }


def leaves(tree, prefix=""):
    """Dotted name and value of every leaf."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
        if isinstance(value, (dict, list)):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fits(n_rows, processes):
    return {name: fit(name, n_rows, processes) for name in FITS}


@pytest.fixture(scope="module")
def results():
    """By number of rows: of one process, and of each of several."""
    return {n: (fits(n, 1), in_processes(processes, fits, n, processes)) for n, processes in ((MANY, 2), (FEW, 3))}


@pytest.mark.parametrize("n_rows", [MANY, FEW])
@pytest.mark.parametrize("name", FITS)
def test_several_processes_fit_as_one_does(results, name, n_rows):
    alone, several = results[n_rows]
    expected, found = alone[name], several[0][name]
    assert all(other[name] == found for other in several[1:])  # to the last bit
    assert found["epochs"] == expected["epochs"]
    assert found["coefficients"] == pytest.approx(expected["coefficients"], rel=1e-9, abs=1e-12)
    assert [entry[:2] for entry in found["log"]] == [entry[:2] for entry in expected["log"]]
    assert [entry[2] for entry in found["log"]] == pytest.approx([entry[2] for entry in expected["log"]], rel=1e-9)
    assert found["callback_metrics"] == pytest.approx(expected["callback_metrics"], rel=1e-9)
    for key, value in expected["report"].items():
        close = pytest.approx(value, rel=1e-7, abs=1e-12) if isinstance(value, float) else value
        assert found["report"][key] == close, key
    if n_rows == MANY:
        assert sum(entry[1].startswith("test/") for entry in found["log"]) == 7


def test_srun_as_lightning_detects_it(results):
    """By SLURM's variables, in processes that were started from outside; SLURM itself is not at hand."""
    found = in_processes(3, fit, "sgd", FEW, 3, environment=as_srun)
    expected = results[FEW][1][0]["sgd"]
    assert found == [expected] * 3


def measures(processes):
    """The metrics of coefficients that are given, and the predictions of them."""
    x, y, weight = table(5003)
    said = []
    for batch_size in (None, 100):
        data = TensorDataModule(x, y, weight, val_fraction=0.3, batch_size=batch_size)
        model, log = LogisticRegression(in_features=4), Log()
        model.linear_sigmoid.set_coefficients(torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64), 0.1)
        trainer_for(processes, logger=log).validate(model, data, verbose=False)
        said.append(log.values)
    predicted = [torch.cat(trainer_for(processes).predict(model, data)).numpy()]
    of_table = TableDataModule(ROOT / "conf/samples/exam.csv", "passed")
    model = LogisticRegression(in_features=1)
    model.linear_sigmoid.set_coefficients(torch.tensor([1.5], dtype=torch.float64), -4.0)
    predicted.append(torch.cat(trainer_for(processes).predict(model, of_table)).numpy())
    return said, *predicted


def test_metrics_are_the_same_and_predictions_in_the_order_of_the_rows():
    metrics, *predictions = measures(1)
    several = in_processes(3, measures, 3)
    assert len(metrics[0]) == 7
    assert metrics[0] == metrics[1]
    for theirs, *_ in several:
        assert theirs == several[0][0]  # to the last bit
        for of_several, of_one in zip(theirs, metrics, strict=True):
            steps_and_names, values = [said[:2] for said in of_one], [said[2] for said in of_one]
            assert [said[:2] for said in of_several] == steps_and_names
            assert [said[2] for said in of_several] == pytest.approx(values, rel=1e-12)
    for number, alone in enumerate(predictions, start=1):
        joined = np.concatenate([said[number] for said in several])
        assert joined == pytest.approx(alone, rel=1e-12)
    x, *_ = table(5003)
    assert predictions[0] == pytest.approx(1 / (1 + np.exp(-x @ [1.0, -0.5, 0.3, 0.0] - 0.1)), rel=1e-12)
    assert len(predictions[1]) == 20


class Collectives(Callback):
    """Counts, from the first pass to the last, the collectives that reach the network, by operation and shape."""

    def on_train_start(self, trainer, pl_module):
        self.profiler = torch.profiler.profile(record_shapes=True)
        self.profiler.__enter__()

    def on_train_end(self, trainer, pl_module):
        self.profiler.__exit__(None, None, None)
        events = [event for event in self.profiler.events() if event.name.startswith("gloo:")]
        self.counts = Counter((event.name.removeprefix("gloo:"), *map(tuple, event.input_shapes)) for event in events)


def collectives(name):
    options, serving = FITS[name]
    x, y, _ = table(MANY)
    counted = Collectives()
    trainer = trainer_for(2, max_epochs=100, callbacks=[counted])
    model = LogisticRegression(**options)
    trainer.fit(model, TensorDataModule(x, y, **serving))
    return trainer.current_epoch, trainer.num_training_batches, counted.counts


def test_a_pass_takes_one_reduction_of_the_gradient_and_two_of_next_to_nothing():
    """And of the Hessian none: every process draws the same sample of rows by itself."""
    for name in ("exact", "exact_in_batches"):
        passes, n_batches, counts = in_processes(2, collectives, name)[0]
        assert passes > 2
        assert counts.pop(("allreduce", (5,)), 0) + counts.pop(("all_reduce", (5,)), 0) == passes
        assert counts.pop(("all_reduce", (4,))) == passes  # loss, weight, penalty, rows
        assert counts.pop(("all_reduce", ())) == passes  # whether to stop
        assert counts.pop(("broadcast", (1,))) in (passes * n_batches, passes * n_batches + 1)  # Lightning's own
        assert counts.pop(("broadcast", (3,)), 1) == 1  # once: how DDP arranges the gradient
        assert set(counts) <= {("barrier",)}
        assert counts["barrier",] <= 3  # of the start and the end


def loader_of_ones_own():
    x, y, _ = table(100)
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=100)
    warnings.simplefilter("ignore")  # Lightning would like more workers, and a loader of validation rows
    with pytest.raises(InputError, match="several processes"):
        trainer_for(2, max_epochs=2).fit(LogisticRegression(), loader)


def test_a_loader_that_lightning_would_pad_is_refused():
    assert in_processes(2, loader_of_ones_own) == [None, None]


@pytest.mark.parametrize(("n", "curvature"), [(600, "GramCurvature"), (6000, "LimitedMemoryCurvature")])
def test_many_columns_give_the_same_from_two_processes(n, curvature):
    expected, shared = fit_of_many_columns(n, 1, curvature), in_processes(2, fit_of_many_columns, n, 2, curvature)
    assert shared[0] == shared[1]
    np.testing.assert_allclose(shared[0], expected, rtol=1e-7, atol=1e-9)


def fit_of_many_columns(n, processes, curvature):
    generator = np.random.default_rng(1)
    x = generator.normal(size=(n, 1000))
    y = (x[:, :20].sum(1) / 5 + generator.normal(size=n) > 0).astype(float)
    model, trainer = LogisticRegression(l2=1e-3), trainer_for(processes, max_epochs=100)
    trainer.fit(model, TensorDataModule(x, y))
    assert model.converged
    assert type(trainer.optimizers[0]._curvature).__name__ == curvature
    predictor = model.predictor()
    return [*predictor.coefficients.values(), predictor.intercept]
