"""Without a GPU: its tensors are not mixed with the CPU's. Torch's fake tensors, which hold no numbers, tell."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.training.start import solver_options


@pytest.fixture
def on_gpu():
    """Where a model is once the Trainer has moved it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield {"dtype": torch.float64, "device": "cuda"}


def test_the_sample_is_standardised_where_the_rows_are(on_gpu):
    model = SimpleNamespace(mean=torch.zeros(3, **on_gpu), scale=torch.ones(3, **on_gpu))
    training = SimpleNamespace(n_rows=50, batches=[(torch.randn(50, 3), torch.zeros(50))], class_weights=(1.0, 1.0))
    hparams = {"in_features": 3, "initial_weight": None, "initial_bias": None}
    penalty = Penalty(model.scale, model.scale)
    sample = solver_options(model, training, Standardization.identity(3), penalty, hparams)["sample"]
    assert [part.device.type for part in sample[:2]] == ["cpu", "cpu"]


def test_coefficients_of_the_cpu_are_taken(on_gpu):
    written = []
    linear = SimpleNamespace(weight=SimpleNamespace(copy_=written.append), bias=None)
    model = SimpleNamespace(mean=torch.zeros(3, **on_gpu), scale=torch.ones(3, **on_gpu), linear=linear)
    LinearSigmoid.set_coefficients(model, torch.zeros(3, dtype=torch.float64), 0.0)
    assert written[0].device.type == "cuda"
