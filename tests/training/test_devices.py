"""Without a GPU: its tensors are not mixed with the CPU's. Torch's fake tensors, which hold no numbers, tell."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lr_lightning.data.training_rows import TrainingRows
from lr_lightning.model.linear_sigmoid import LinearSigmoid
from lr_lightning.model.penalty import Penalty
from lr_lightning.model.standardization import Standardization
from lr_lightning.training.optimizers import solver_options


@pytest.fixture
def on_gpu():
    """Where a model is once the Trainer has moved it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield {"dtype": torch.float64, "device": "cuda"}


def test_the_sample_is_standardised_where_the_rows_are(on_gpu):
    model = SimpleNamespace(mean=torch.zeros(3, **on_gpu), scale=torch.ones(3, **on_gpu))
    batches, identity = [(torch.randn(50, 3), torch.zeros(50))], Standardization.identity(3)
    training = TrainingRows(batches, 50, torch.float32, (1.0, 1.0), 50.0, identity)
    penalty = Penalty(model.scale, model.scale)
    sample = solver_options(model, training, identity, penalty, warm_start=False)["sample"]
    assert [part.device.type for part in sample[:2]] == ["cpu", "cpu"]


def test_coefficients_of_the_cpu_are_taken(on_gpu):
    written = []
    linear = SimpleNamespace(weight=SimpleNamespace(copy_=written.append), bias=None)
    model = SimpleNamespace(mean=torch.zeros(3, **on_gpu), scale=torch.ones(3, **on_gpu), linear=linear)
    LinearSigmoid.set_coefficients(model, torch.zeros(3, dtype=torch.float64), 0.0)
    assert written[0].device.type == "cuda"
