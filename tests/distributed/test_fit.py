"""The same result from several processes as from one."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from lr_lightning import LogisticRegression, TensorDataModule
from tests.conftest import QUIET_TRAINER
from tests.distributed.several import in_processes

EXACT = {"l2": 0.01}
FITS = {
    "exact": (EXACT, {}, 100),
    "exact_l1": ({"l1": 0.01}, {}, 100),
    "exact_in_batches": (EXACT, {"batch_size": 1000}, 100),
    "lbfgs": (EXACT | {"optimizer": "LBFGS"}, {}, 100),
    "sgd": (EXACT | {"optimizer": "SGD", "optimizer_options": {"lr": 0.1}}, {"batch_size": 64}, 3),
    "sgd_sum": ({"optimizer": "SGD", "optimizer_options": {"lr": 1e-3}, "reduction": "sum"}, {"batch_size": 300}, 3),
    "adam_in_order": ({"optimizer": "Adam", "class_weight": "balanced"}, {"batch_size": 700, "shuffle": False}, 3),
}
SIZES = {"many": 25_013, "few": 3}


class Log(Logger):
    """All that is logged, in float64."""

    name = version = ""

    def __init__(self):
        self.values = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.values.append((step, metrics))


class Collectives(Callback):
    """Bytes of each collective of the training batches, by operation, as torch is asked for them."""

    def __init__(self):
        self.calls = []

    def on_train_start(self, trainer, pl_module):
        self.profiler = torch.profiler.profile(record_shapes=True)
        self.profiler.__enter__()

    def on_train_end(self, trainer, pl_module):
        self.profiler.__exit__(None, None, None)
        for event in self.profiler.events():
            if event.name.startswith("gloo:"):
                self.calls.append((event.name, event.input_shapes))


def table(n, seed=0, weighted=True):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 4)) * [1, 2, 0.5, 3] + [0, 1, -1, 2]
    y = (generator.random(n) < 1 / (1 + np.exp(-x @ [1.0, -0.5, 0.3, 0.0]))).astype(float)
    y[:2] = 0, 1
    return x, y, generator.integers(0, 4, n) + 0.5 if weighted else None


def fit(name, n_rows, processes, collectives=False):
    """Everything that a fit and a test of it say."""
    options, serving, max_epochs = FITS[name]
    held_out = {"val_fraction": 0.2, "test_fraction": 0.1} if n_rows > 100 else {}
    data = TensorDataModule(*table(n_rows), **held_out, **serving)
    model, log, counted = LogisticRegression(**options), Log(), Collectives()
    settings = QUIET_TRAINER | {"logger": log, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    if processes > 1:
        settings |= {"strategy": "ddp", "devices": processes}
    if collectives:
        settings["callbacks"] = [counted]
    trainer = Trainer(max_epochs=max_epochs, precision="64-true", **settings)
    trainer.fit(model, data)
    said = {
        "coefficients": list(model.predictor().coefficients.values()),
        "intercept": model.predictor().intercept,
        "report": model.infer().to_dict() if name != "adam_in_order" else None,
        "epochs": trainer.current_epoch,
        "callback_metrics": {key: value.item() for key, value in trainer.callback_metrics.items()},
        "collectives": counted.calls,
    }
    if held_out:
        said["test"] = trainer.test(model, data, verbose=False)
    return said | {"log": log.values}


def all_fits(processes):
    return {(name, size): fit(name, n, processes) for name in FITS for size, n in SIZES.items()}


@pytest.fixture(scope="module")
def alone():
    return all_fits(1)


@pytest.fixture(scope="module", params=[2, 4])
def several(request):
    return in_processes(request.param, all_fits, request.param)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FITS)
def test_same(alone, several, name, size):
    print(alone[name, size])
    print(several[0][name, size])
    print(several[1][name, size])
