import numpy as np
import pytest
import torch

from lr_lightning import InputError, load
from tests.conftest import ROOT, imported_modules
from tests.hostile import rewrite

PLAIN = (str, int, float, bool, type(None))


def types_in(value, path="checkpoint"):
    """Every leaf that is neither a tensor nor plain, and every container that is not a plain one, by its path."""
    if type(value) in PLAIN or type(value) is torch.Tensor:
        return
    if isinstance(value, dict) and type(value).__name__ in ("dict", "OrderedDict"):
        for key, item in value.items():
            yield from types_in(key, f"{path} key")
            yield from types_in(item, f"{path}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            yield from types_in(item, f"{path}[{index}]")
    else:
        yield path, type(value)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_checkpoint_holds_plain_types_only(breast_cancer_run, name):
    checkpoint = torch.load(breast_cancer_run / "checkpoints" / name, weights_only=True)
    assert list(types_in(checkpoint)) == []


def test_walk_finds_what_is_not_plain():
    """The check above can fail."""
    assert [path for path, _ in types_in({"a": [np.float64(1.0), 1]})] == ["checkpoint['a'][0]"]


def test_load_imports_neither_lightning_nor_torchmetrics(breast_cancer_run):
    checkpoint = breast_cancer_run / "checkpoints" / "last.ckpt"
    table = ROOT / "conf" / "samples" / "breast_cancer.csv"
    modules = imported_modules(
        f"from lr_lightning import load; p = load({str(checkpoint)!r}); p.predict({str(table)!r}); p.coefficients",
        cwd=breast_cancer_run,
    )
    assert "torch" in modules
    assert not {"lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "tensorboard"} & modules


def test_checkpoint_of_a_gpu_loads_on_a_cpu(hours_run, tmp_path):
    """The archive says of each tensor which device it came from."""
    path = tmp_path / "gpu.ckpt"
    of_a_gpu = hours_run / "checkpoints" / "last.ckpt"
    rewrite(of_a_gpu, path, lambda pickle: pickle.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)
    predictor = load(path)
    assert {p.device.type for p in predictor.model.parameters()} == {"cpu"}
    assert predictor.coefficients == load(of_a_gpu).coefficients


def test_predictor_is_in_eval_mode_and_needs_no_gradient(hours_run):
    predictor = load(hours_run / "checkpoints" / "last.ckpt")
    assert not predictor.model.training
    assert not predictor.probability([[4.0]]).requires_grad


def test_table_and_tensor_give_the_same_probabilities(breast_cancer_run):
    pandas = pytest.importorskip("pandas")
    predictor = load(breast_cancer_run / "checkpoints" / "last.ckpt")
    path = ROOT / "conf" / "samples" / "breast_cancer.csv"
    frame = pandas.read_csv(path)
    features = frame.drop(columns="diagnosis")
    expected = predictor.probability(path)
    assert expected.shape == (569,)
    assert expected.dtype == torch.float64
    assert torch.equal(predictor.probability(frame), expected)
    assert torch.equal(predictor.probability(features), expected)
    assert torch.equal(predictor.probability(features[features.columns[::-1]]), expected)
    assert torch.equal(predictor.probability(torch.tensor(features.to_numpy())), expected)
    assert (predictor.predict(frame) == frame["diagnosis"]).mean() > 0.97


def test_coefficients_reproduce_the_probability(breast_cancer_run):
    predictor = load(breast_cancer_run / "checkpoints" / "last.ckpt")
    x = np.loadtxt(ROOT / "conf" / "samples" / "breast_cancer.csv", delimiter=",", skiprows=1, usecols=range(30))
    logit = predictor.intercept + x @ np.array(list(predictor.coefficients.values()))
    assert predictor.logits(x).numpy() == pytest.approx(logit, rel=1e-9)
    assert next(iter(predictor.coefficients)) == "mean radius"


def test_more_than_one_feature_has_no_curve(breast_cancer_run):
    with pytest.raises(InputError, match="30 features"):
        load(breast_cancer_run / "checkpoints" / "last.ckpt").probability_curve()
    assert not (breast_cancer_run / "figures" / "probability_curve.png").exists()
