"""LAPACK's fast routines may give up on any matrix: a fit goes on by slower ones, or ends in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.errors import InputError
from lr_lightning.solver.decompositions import eigenvalues, eigh, inverse_of_lower, singular_values, svd
from tests.conftest import QUIET_TRAINER

ROUTINES = ("svd", "svdvals", "eigh", "eigvalsh")


@pytest.fixture
def giving_up(monkeypatch):
    """Let torch's iterative routines fail; says how often each was asked."""
    asked = dict.fromkeys(ROUTINES, 0)

    def failing(name):
        def routine(*_, **__):
            asked[name] += 1
            raise torch.linalg.LinAlgError(f"linalg.{name}: The algorithm failed to converge")

        return routine

    for name in ROUTINES:
        monkeypatch.setattr(torch.linalg, name, failing(name))
    return asked


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
@pytest.mark.parametrize("full_matrices", [True, False])
def test_singular_values_and_vectors(giving_up, shape, full_matrices):
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    matrix[:, -1] = 2 * matrix[:, 0]
    left, values, right = svd(matrix, full_matrices=full_matrices)
    expected = np.linalg.svd(matrix.numpy(), full_matrices=full_matrices)
    assert [left.shape, values.shape, right.shape] == [part.shape for part in expected]
    torch.testing.assert_close(values, torch.from_numpy(expected[1]))
    torch.testing.assert_close(left[:, : len(values)] * values @ right[: len(values)], matrix)
    torch.testing.assert_close(singular_values(matrix), values)
    assert (giving_up["svd"], giving_up["svdvals"]) == (2, 1)


def test_eigenvalues_and_vectors(giving_up):
    root = np.random.default_rng(1).normal(size=(7, 4))
    matrix = torch.from_numpy(root @ root.T)
    values, vectors = eigh(matrix)
    torch.testing.assert_close(values, torch.from_numpy(np.linalg.eigvalsh(matrix.numpy())), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(vectors * values @ vectors.T, matrix)
    torch.testing.assert_close(eigenvalues(matrix), values)
    assert (giving_up["eigh"], giving_up["eigvalsh"]) == (2, 1)


@pytest.mark.parametrize("routine", [svd, singular_values, eigh, eigenvalues])
def test_what_no_routine_can_do_ends_in_one_line(giving_up, routine):
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 1] = torch.nan
    with pytest.raises(InputError, match="values of a matrix of 3 rows could not be found"):
        routine(matrix)


@pytest.mark.parametrize("gap", [0, 1e-8, 1e-13])
def test_a_fit_to_dependent_columns_ends_where_it_does_with_lapack(giving_up, monkeypatch, gap):
    rng = np.random.default_rng(2)
    a, b, e, noise = rng.normal(size=(4, 300))
    x = np.column_stack([a, b, a + b + gap * e])
    y = (a - b + noise > 0).astype(float)

    def fitted():
        model = LogisticRegression()
        Trainer(max_epochs=50, precision="64-true", **QUIET_TRAINER).fit(model, TensorDataModule(x, y))
        rows = model.infer(covariance="HC0").coefficients
        return model.logits(torch.from_numpy(x)), {row.name: row.std_error for row in rows if row.std_error is not None}

    slow, errors = fitted()
    assert sum(giving_up.values())
    monkeypatch.undo()
    logits, expected = fitted()
    torch.testing.assert_close(slow, logits, rtol=1e-5, atol=1e-5)
    assert errors == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [0, 3, 300])
def test_inverse_of_a_lower_triangular_matrix(size):
    lower = np.tril(np.random.default_rng(0).normal(size=(size, size))) + 2 * size**0.5 * np.eye(size)
    found = inverse_of_lower(torch.from_numpy(lower)).numpy()
    np.testing.assert_allclose(found @ lower, np.eye(size), atol=1e-13)
    np.testing.assert_array_equal(found, np.tril(found))


def test_inverse_of_a_singular_triangular_matrix_is_not_finite():
    assert not inverse_of_lower(torch.zeros(300, 300, dtype=torch.float64)).isfinite().all()
