"""Eigenvalue and singular value decompositions that fall back on QR iteration where divide and conquer fails; inverses.

LAPACK's fast routines divide and conquer. On some regular matrices they do not converge, depending on the last digits,
the number of threads and the version of LAPACK. QR iteration is slower and more robust.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.solver import thresholds

_NotConverged = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]


def svd(matrix: Tensor, *, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """U, the singular values S, descending, and Vᵀ, of U diag(S) Vᵀ.

    Args:
        matrix: (m, n), float64, on the CPU.
        full_matrices: whether U is (m, m) and Vᵀ (n, n), or both have but as many vectors as there are values.

    Raises:
        InputError: if no routine finds them, as where a number is not finite.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=full_matrices)
    except _NotConverged:
        from scipy import linalg

        try:
            parts = linalg.svd(matrix.numpy(), full_matrices=full_matrices, lapack_driver="gesvd")
        except (linalg.LinAlgError, ValueError) as error:
            raise _not_found(matrix, "singular") from error
    left, values, right = (torch.from_numpy(part) for part in parts)
    return left, values, right


def singular_values(matrix: Tensor) -> Tensor:
    """S of `svd` alone, which costs less."""
    try:
        return torch.linalg.svdvals(matrix)
    except _NotConverged:
        return svd(matrix)[1]


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors, as columns.

    Args:
        matrix: (k, k), symmetric, float64, on the CPU.

    Raises:
        InputError: if no routine finds them, as where a number is not finite.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except _NotConverged:
        from scipy import linalg

        try:
            values, vectors = map(torch.from_numpy, linalg.eigh(matrix.numpy(), driver="ev"))
        except (linalg.LinAlgError, ValueError) as error:
            raise _not_found(matrix, "eigen") from error
    return values, vectors


def eigenvalues(matrix: Tensor) -> Tensor:
    """The eigenvalues alone, which cost less than `eigh`."""
    try:
        return torch.linalg.eigvalsh(matrix)
    except _NotConverged:
        return eigh(matrix)[0]


class InverseRoot(NamedTuple):
    """The inverse Cholesky factor of a positive definite matrix (k, k).

    Attributes:
        scaled: the inverse L⁻¹ of the Cholesky factor of the matrix scaled to unit diagonal, (k, k).
        factor: F = D L⁻ᵀ, with F Fᵀ the inverse of the matrix and D the scale, upper triangular, (k, k).
    """

    scaled: Tensor
    factor: Tensor

    @property
    def condition(self) -> float:
        """The trace of the inverse of the scaled matrix; the smallest pivot would be inexact if others are small."""
        return float(self.scaled.square().sum())

    @property
    def log_determinant(self) -> float:
        """Logarithm of the matrix's determinant."""
        return -2 * float(self.factor.diagonal().log().sum())


def inverse_root(matrix: Tensor) -> InverseRoot | None:
    """The inverse Cholesky factor of a matrix (k, k); None if it is not positive definite."""
    diagonal = matrix.diagonal()
    if not bool((diagonal > 0).all()):
        return None
    scale = diagonal.rsqrt()
    lower, info = torch.linalg.cholesky_ex((matrix * scale).mul_(scale[:, None]))
    if info:
        return None
    inverse = inverse_of_lower(lower)
    return InverseRoot(inverse, inverse.T * scale[:, None])


def inverse_of_lower(matrix: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix, (k, k)."""
    if len(matrix) > thresholds.LARGE_TRIANGLE and matrix.device.type == "cpu" and matrix.dtype == torch.float64:
        from scipy.linalg import get_lapack_funcs

        upper = matrix.contiguous().numpy().T
        (trtri,) = get_lapack_funcs(("trtri",), (upper,))
        inverse, info = trtri(upper)  # a third of the work of solving for the unit matrix
        if not info:
            return torch.from_numpy(inverse.T)
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(matrix, unit, upper=False)


def _not_found(matrix: Tensor, kind: str) -> InputError:
    return InputError(
        f"the {kind} values of a matrix of {len(matrix)} rows could not be found, so that the columns cannot be told "
        "apart; leave out columns that depend on others, or whose values span many orders of magnitude"
    )
