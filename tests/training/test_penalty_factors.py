"""Penalty factors of a fit, by name, against scikit-learn on rescaled columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression as ScikitLearn

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule, load


def fit(model: LogisticRegression, data: TensorDataModule, **options: Any) -> Trainer:
    trainer = Trainer(max_epochs=100, accelerator="cpu", logger=False, enable_progress_bar=False, **options)
    trainer.fit(model, data)
    return trainer


def cancer() -> tuple[np.ndarray, np.ndarray]:
    data = load_breast_cancer()
    x = data.data[:, :4]
    return (x - x.mean(0)) / x.std(0), 1 - data.target


def test_a_factor_is_a_penalty_on_a_rescaled_column() -> None:
    x, y = cancer()
    data = TensorDataModule(torch.from_numpy(x), torch.from_numpy(y), feature_names=["a", "b", "c", "d"])
    model = LogisticRegression(l2=0.01, standardize=False, penalty_factors={"a": 4.0, "c": 0.0})
    fit(model, data, enable_checkpointing=False)
    # ½·l2·4·w² on a column is ½·l2·u² on half of it; no penalty is one on a column that is ten thousand times as large.
    times = np.array([0.5, 1, 1e4, 1])
    found = ScikitLearn(C=1 / (0.01 * 569), solver="newton-cholesky", tol=1e-9).fit(x * times, y)
    assert_allclose(model.linear_sigmoid.coefficients()[0], found.coef_[0] * times, rtol=1e-5)


def test_an_unpenalised_column_stays_under_a_strong_lasso(tmp_path: Path) -> None:
    x, y = cancer()
    rows = np.column_stack([x, np.arange(569) % 3])
    text = "\n".join(
        f"{','.join(map(repr, map(float, r[:4])))},{'xyz'[int(r[4])]},{int(t)}" for r, t in zip(rows, y, strict=True)
    )
    (tmp_path / "t.csv").write_text(f"a,b,c,d,kind,y\n{text}\n")
    data = TableDataModule(str(tmp_path / "t.csv"), "y", val_fraction=0.0)
    model = LogisticRegression(l1=10.0, penalty_factors={"kind": 0, "b": 0})
    fit(model, data, default_root_dir=tmp_path, enable_checkpointing=False)
    coefficients = dict(zip(data.schema.feature_names, model.linear_sigmoid.coefficients()[0].tolist(), strict=True))
    assert [name for name, value in coefficients.items() if value != 0] == ["b", "kind=y", "kind=z"]
    reference = ScikitLearn(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(
        np.column_stack([x[:, 1], rows[:, 4] == 1, rows[:, 4] == 2]), y
    )
    assert_allclose([coefficients[name] for name in ("b", "kind=y", "kind=z")], reference.coef_[0], rtol=1e-6)


def test_the_checkpoint_keeps_them(tmp_path: Path) -> None:
    x, y = cancer()
    data = TensorDataModule(torch.from_numpy(x), torch.from_numpy(y), feature_names=["a", "b", "c", "d"])
    model = LogisticRegression(l1=0.1, penalty_factors={"b": 0.5})
    fit(model, data, default_root_dir=tmp_path).save_checkpoint(tmp_path / "m.ckpt")
    again = LogisticRegression.load_from_checkpoint(tmp_path / "m.ckpt")
    assert again.penalty_factors == {"b": 0.5}
    assert load(tmp_path / "m.ckpt").coefficients == model.predictor().coefficients


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"e": 0.0}, "there is no feature e"),
        ({"(Intercept)": 0.0}, "the intercept is no feature"),
        ({"a": -1.0}, "that of a must be a finite number of at least 0"),
        ({"a": float("inf")}, "that of a must be a finite"),
        (dict.fromkeys("abcd", 0.0), "all are 0"),
    ],
)
def test_what_is_refused(factors: dict[str, float], message: str) -> None:
    x, y = cancer()
    data = TensorDataModule(torch.from_numpy(x), torch.from_numpy(y), feature_names=["a", "b", "c", "d"])
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        fit(LogisticRegression(l2=0.1, penalty_factors=factors), data, enable_checkpointing=False)


def test_bare_loaders_name_no_features() -> None:
    loader = torch.utils.data.DataLoader([(torch.ones(2), torch.tensor(1.0)), (torch.zeros(2), torch.tensor(0.0))])
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    with pytest.raises(InputError, match="TensorDataModule or a TableDataModule, which name the features"):
        trainer.fit(LogisticRegression(penalty_factors={"a": 0.0}), loader, loader)
