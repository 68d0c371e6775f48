"""On a GPU: the same fit, a checkpoint that loads without one, and no precision that loses the solver's digits."""

import pytest
import torch
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TensorDataModule, load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),  # by the fits on the CPU to compare with
]


def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, 12, generator=generator, dtype=torch.float64)
    y = (torch.rand(60_000, generator=generator) < torch.sigmoid(x[:, 0] - 0.5 * x[:, 1])).double()
    return x, y


def fit(accelerator, precision="64-true", **settings):
    model = LogisticRegression(**settings)
    trainer = Trainer(
        max_epochs=50,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, TensorDataModule(*rows()))
    return model, trainer


@pytest.mark.parametrize("settings", [{}, {"l2": 0.01}, {"l1": 0.01}], ids=["plain", "l2", "l1"])
@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-9), ("32-true", 1e-5)])
def test_coefficients_are_those_of_the_cpu(settings, precision, tolerance):
    (on_gpu, _), (on_cpu, _) = (fit(where, precision, **settings) for where in ("gpu", "cpu"))
    assert on_gpu.converged
    for a, b in zip(on_gpu.linear_sigmoid.coefficients(), on_cpu.linear_sigmoid.coefficients(), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=tolerance, atol=tolerance)


def test_a_checkpoint_of_the_gpu_serves_on_the_cpu(tmp_path):
    model, trainer = fit("gpu")
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    x = rows()[0][:100]
    expected = torch.sigmoid(model.to("cuda").logits(x.to("cuda"))).cpu()
    torch.testing.assert_close(load(tmp_path / "fit.ckpt").probability(x), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_precisions_that_lose_digits_are_refused(precision):
    with pytest.raises(ValueError, match="would lose the fit's digits"):
        fit("gpu", precision)
