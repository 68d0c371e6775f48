"""Standard errors, tests and intervals of maximum-likelihood coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lr_lightning.solver.decompositions import eigh, svd
from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.sums import Sums, curved_rows, sum_squared_scores, triangular_factor

_CONDITION = 1e7  # trace of the inverse of a Hessian of unit diagonal, above which half of its digits are gone
_ROUNDING = 1e-13  # of the largest singular value, times the root of their number
CovarianceType = Literal["nonrobust", "HC0", "HC1"]


@dataclass(frozen=True)
class Covariance:
    """The estimates' covariance F Fᵀ, in standardised coordinates, from which no digits are lost to large means.

    Attributes:
        mean: taken off the original features, (d,).
        scale: they are then divided by, (d,); infinity for one that has no influence.
        factor: F, (d, r), or (d + 1, r) with an intercept, whose row is the last; all float64.
    """

    mean: np.ndarray
    scale: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, design: DesignMatrix, factor: np.ndarray) -> Covariance:
        """Of parameters in the coordinates of a design matrix: factor (p, r)."""
        d, k = design.n_features, len(design.columns)
        mean, scale = np.zeros(d), np.full(d, np.inf)
        columns = design.columns.numpy()
        mean[columns], scale[columns] = design.mean, design.scale
        whole = np.zeros((d + design.intercept, factor.shape[1]))
        whole[columns] = factor[:k]
        whole[d:] = factor[k:]
        return cls(mean, scale, whole)

    def matrix(self) -> np.ndarray:
        """Covariance of the coefficients, and the intercept last, on the original feature scale."""
        d = len(self.mean)
        factor = self.factor / np.append(self.scale, 1.0)[: len(self.factor), None]
        if len(factor) > d:
            factor[d] -= self.mean @ factor[:d]
        return factor @ factor.T

    def logit_std_error(self, x: Tensor | np.ndarray) -> np.ndarray:
        """Standard errors of the logits, (n,), at original features x, (n, d); NaN where a feature is missing."""
        rows = np.asarray(x, dtype=np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # an error beyond float64 is infinite, and says nothing
            result = ((rows - self.mean) / self.scale) @ self.factor[: len(self.mean)]
            if len(self.factor) > len(self.mean):
                result += self.factor[-1]
            return np.sqrt(np.square(result).sum(1))

    def probability_interval(
        self, x: Tensor | np.ndarray, logits: Tensor | np.ndarray, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Confidence limits of probabilities at original features x, (n, d), by the delta method on the logit.

        Args:
            x: as for `logit_std_error`.
            logits: the linear predictor there, (n,).
            level: of the interval, between 0 and 1.

        Returns:
            Lower and upper limits, each (n,), float64.
        """
        centre, half = np.asarray(logits, dtype=np.float64), normal_quantile(level) * self.logit_std_error(x)
        low, high = (torch.sigmoid(torch.from_numpy(z)).numpy() for z in (centre - half, centre + half))
        return low, high

    def to_dict(self) -> dict[str, Tensor]:
        """As tensors, which a checkpoint may hold."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("mean", "scale", "factor")}

    @classmethod
    def from_dict(cls, tensors: dict[str, Any]) -> Covariance:
        """From what `to_dict` gave."""
        return cls(**{name: tensors[name].detach().cpu().double().numpy() for name in ("mean", "scale", "factor")})


def covariance_factor(
    design: DesignMatrix,
    sums: Sums,
    parameters: np.ndarray,
    keep: np.ndarray,
    covariance: CovarianceType = "nonrobust",
    free: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""F with covariance F Fᵀ of the parameters, (p, r), by default from the inverse Hessian.

    HC0 is the sandwich H⁻¹ (Σ v²·(y − p)²·x̃·x̃ᵀ) H⁻¹ (Huber 1967, White 1982);
    HC1 is n / (n - number of parameters) times that, n being the number of rows. A weighted row is one observation
    here (R's `sandwich`, Stata's pweights), not v equal ones.

    The Hessian's own Cholesky factor serves where it has digits enough; else the rows are swept for theirs.

    Args:
        design: the rows; swept only where the Hessian has lost its digits, or for a sandwich.
        sums: at the parameters.
        parameters: (p,), the maximum of the likelihood.
        keep: positions of the parameters that were estimated, (q,); the others get rows of zeros.
        covariance: which one.
        free: orthonormal directions (q, s) in which the likelihood has no maximum; they are left out.

    Returns:
        F, and the directions (p, t) that have been left out because their curvature is no more than rounding.
    """
    basis = np.eye(len(keep))
    if free is not None and free.shape[1]:
        basis = svd(torch.from_numpy(free))[0][:, free.shape[1] :].numpy()
    inverse = _inverse_root(basis.T @ sums.hessian[np.ix_(keep, keep)] @ basis)
    null = np.zeros((basis.shape[1], 0))
    if inverse is None:
        rows = curved_rows(design, keep, parameters)
        inverse, null = _inverse_triangular(triangular_factor(rows, len(keep)) @ basis)
    factor, undetermined = (np.zeros((design.size, part.shape[1])) for part in (inverse, null))
    factor[keep], undetermined[keep] = basis @ inverse, basis @ null
    if covariance != "nonrobust":
        values, vectors = eigh(torch.from_numpy(sum_squared_scores(design, parameters, factor)))
        factor = factor @ (vectors * values.clamp(min=0).sqrt()).numpy()
        if covariance == "HC1":
            factor = factor * math.sqrt(sums.n_rows / (sums.n_rows - len(keep)))
    return factor, undetermined


def _inverse_root(hessian: np.ndarray) -> np.ndarray | None:
    """F with F Fᵀ the inverse of a Hessian (q, q); None if its digits do not suffice."""
    matrix = torch.from_numpy(hessian)
    diagonal = matrix.diagonal()
    if not bool((diagonal > 0).all()):
        return None
    scale = diagonal.rsqrt()
    lower, info = torch.linalg.cholesky_ex(matrix * scale * scale[:, None])
    if info:
        return None
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
    # Not the least pivot, whose own digits depend on the others'.
    return None if float(inverse.square().sum()) > _CONDITION else (inverse.T * scale[:, None]).numpy()


def _inverse_triangular(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F with F Fᵀ the inverse of RᵀR for R, (m, q), and the directions (q, t) that R does not tell from zero.

    F has no part in these. Each column of R counts relative to its length.
    """
    matrix = torch.from_numpy(factor)
    length = torch.linalg.vector_norm(matrix, dim=0)
    length = torch.where(length > 0, length, 1.0)
    _, values, vectors = svd(matrix / length, full_matrices=False)
    told = values > _ROUNDING * math.sqrt(len(values)) * values.amax() if len(values) else values > 0
    directions = (vectors / length).T
    return (directions[:, told] / values[told]).numpy(), directions[:, ~told].numpy()


def normal_quantile(level: float) -> float:
    """Half-width, in standard errors, of a two-sided interval.

    Raises:
        ValueError: if level does not lie between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return NormalDist().inv_cdf(0.5 + level / 2)


def two_sided_p_value(z: float) -> float:
    """P(|Z| > |z|) of a standard normal Z, with all digits far out in the tail."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_squared_p_value(statistic: float, degrees: int) -> float:
    """P(X > statistic) of a chi-squared X."""
    from scipy.special import chdtrc

    return float(chdtrc(degrees, max(statistic, 0.0)))
