"""Standard errors, tests and intervals of maximum-likelihood coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.model.storage import Design
from lr_lightning.solver.decompositions import eigh, inverse_root, svd
from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.sums import (
    Clusters,
    Sums,
    curved_rows,
    sum_cluster_scores,
    sum_squared_scores,
    triangular_factor,
)

_CONDITION = 1e7  # largest trace of the inverse of a Hessian of unit diagonal; above, half of its digits are lost
_ROUNDING = 1e-13  # relative to the largest singular value, times the square root of their number
_BLOCK = 2**22  # elements of products with a factor
_STILL = 1e-12  # component of a direction that is rounding
CovarianceType = Literal["nonrobust", "HC0", "HC1", "cluster"]


@dataclass(frozen=True)
class Covariance:
    """The covariance F Fᵀ of the estimates, for standardised features, whose means cannot cancel digits.

    Features are standardised as (x − mean) / scale. All attributes are float64.

    Attributes:
        mean: means, (d,).
        scale: scales, (d,); infinity for a feature without a coefficient.
        factor: F, (d, r), or (d + 1, r) with an intercept, whose row is the last.
    """

    mean: np.ndarray
    scale: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, design: DesignMatrix, factor: np.ndarray) -> Covariance:
        """The covariance from a factor (p, r) for the parameters of a design matrix."""
        d, k = design.n_features, len(design.columns)
        mean, scale = np.zeros(d), np.full(d, np.inf)
        columns = design.columns.numpy()
        mean[columns], scale[columns] = design.mean, design.scale
        whole = np.zeros((d + design.intercept, factor.shape[1]))
        whole[columns] = factor[:k]
        whole[d:] = factor[k:]
        return cls(mean, scale, whole)

    def matrix(self) -> np.ndarray:
        """The covariance matrix of the coefficients on the original feature scale, the intercept last, (p, p)."""
        d = len(self.mean)
        factor = self.factor / np.append(self.scale, 1.0)[: len(self.factor), None]
        if len(factor) > d:
            factor[d] -= self.mean @ factor[:d]
        return factor @ factor.T

    def logit_std_error(self, x: Tensor | np.ndarray | Design) -> np.ndarray:
        """Standard errors of the logits, (n,), at original features x, (n, d); NaN if a feature is missing."""
        d = len(self.mean)
        shift = self.factor[d] if len(self.factor) > d else np.zeros(self.factor.shape[1])
        if isinstance(x, Tensor | np.ndarray):
            rows = np.asarray(x, dtype=np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # an error beyond float64 is infinite
                result = ((rows - self.mean) / self.scale) @ self.factor[:d]
                result += shift
                return np.sqrt(np.square(result).sum(1))
        mean, scale, factor = (torch.from_numpy(values) for values in (self.mean, self.scale, self.factor[:d]))
        step = max(1, _BLOCK // max(1, *factor.shape))
        errors = [torch.empty(0, dtype=torch.float64)]
        for first in range(0, x.shape[0], step):
            block = x.take(slice(first, first + step)).standardized(mean, scale)
            errors.append(block.matvec(factor, torch.from_numpy(shift)).square().sum(1).sqrt())
        return torch.cat(errors).numpy()

    def probability_interval(
        self, x: Tensor | np.ndarray | Design, logits: Tensor | np.ndarray, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Confidence limits of probabilities at original features x, (n, d), by the delta method on the logit.

        Args:
            x: original features, (n, d).
            logits: the linear predictor, (n,).
            level: the confidence level, between 0 and 1.

        Returns:
            Lower and upper limits, each (n,), float64.

        Raises:
            ValueError: if the level does not lie between 0 and 1.
        """
        centre, half = np.asarray(logits, dtype=np.float64), normal_quantile(level) * self.logit_std_error(x)
        low, high = (torch.sigmoid(torch.from_numpy(z)).numpy() for z in (centre - half, centre + half))
        return low, high

    def to_dict(self) -> dict[str, Tensor]:
        """The attributes as tensors, for a checkpoint."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in ("mean", "scale", "factor")}

    @classmethod
    def from_dict(cls, tensors: dict[str, Any]) -> Covariance:
        """The covariance from the tensors that `to_dict` returned."""
        return cls(**{name: tensors[name].detach().cpu().double().numpy() for name in ("mean", "scale", "factor")})


def covariance_factor(
    design: DesignMatrix,
    sums: Sums,
    parameters: np.ndarray,
    keep: np.ndarray,
    covariance: CovarianceType = "nonrobust",
    free: np.ndarray | None = None,
    groups: Clusters | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""A factor F of the covariance F Fᵀ of the parameters.

    "nonrobust" is the inverse Hessian H⁻¹ of the negative log-likelihood.

    HC0 is the sandwich H⁻¹ (Σ v²·(y − p)²·x̃·x̃ᵀ) H⁻¹ (Huber 1967, White 1982);
    HC1 is n / (n − number of parameters) times HC0, with n the number of rows. A row of weight v is one observation
    here, as in R's `sandwich` and Stata's pweights, and not v equal ones.

    "cluster" is H⁻¹ (Σ_g s_g·s_gᵀ) H⁻¹ · G / (G − 1) · (n − 1) / (n − number of parameters), with s_g the sum of the
    scores v·(y − p)·x̃ of the rows of group g, of G (Liang & Zeger 1986; the factor is Stata's and statsmodels').

    F comes from the Cholesky factor of the Hessian, or if that is ill-conditioned, from a QR factorisation of the
    rows.

    Args:
        design: the rows. They are swept only for a sandwich, or if the Hessian is ill-conditioned.
        sums: the sums over the rows at the parameters.
        parameters: the maximum of the likelihood, (p,).
        keep: positions of the estimated parameters, (q,); F has rows of zeros for the others.
        covariance: "nonrobust", "HC0", "HC1" or "cluster".
        free: orthonormal directions (q, s) in which the likelihood has no maximum; F has no component in them.
        groups: for "cluster", those of the rows, two or more.

    Returns:
        F, (p, r), and the directions (p, t) whose curvature is zero up to rounding, in which F has no component.
    """
    basis = None if free is None or not free.shape[1] else _Complement.of(free)
    if basis is None:
        root = sums.inverse_root(keep)
    else:
        hessian = basis.restrict(basis.restrict(sums.hessian[np.ix_(keep, keep)]).T)
        root = inverse_root(torch.from_numpy(hessian))
    if root is not None and root.condition <= _CONDITION:
        inverse, null = root.factor.numpy(), np.zeros((len(root.factor), 0))
    else:
        upper = triangular_factor(curved_rows(design, keep, parameters), len(keep), design.processes)
        inverse, null = _inverse_triangular(upper if basis is None else basis.restrict(upper.T).T)
    factor, undetermined = (np.zeros((design.size, part.shape[1])) for part in (inverse, null))
    factor[keep], undetermined[keep] = (part if basis is None else basis.expand(part) for part in (inverse, null))
    if covariance != "nonrobust":
        n, n_parameters = sums.n_rows, len(keep)
        if groups is not None:
            scores, n_groups = sum_cluster_scores(design, parameters, factor, groups), groups.count
            correction = n_groups / (n_groups - 1) * (n - 1) / (n - n_parameters)
        else:
            scores = sum_squared_scores(design, parameters, factor)
            correction = n / (n - n_parameters) if covariance == "HC1" else 1.0
        values, vectors = eigh(torch.from_numpy(scores))
        factor = factor @ (vectors * (correction * values.clamp(min=0)).sqrt()).numpy()
    return factor, undetermined


class _Complement(NamedTuple):
    """An orthonormal basis B of what is orthogonal to some directions, most of whose rows are those of a unit matrix.

    Attributes:
        still: positions of the rows in which all directions are 0, (t,); B has a unit vector for each.
        moved: positions of the other rows, (m,).
        inner: the further vectors of B in these rows, (m, m − s).
    """

    still: np.ndarray
    moved: np.ndarray
    inner: np.ndarray

    @classmethod
    def of(cls, directions: np.ndarray) -> _Complement:
        """From orthonormal directions (q, s)."""
        is_moved = np.abs(directions).max(1) > _STILL
        q = torch.linalg.qr(torch.from_numpy(directions[is_moved]), mode="complete").Q
        return cls(np.flatnonzero(~is_moved), np.flatnonzero(is_moved), q[:, directions.shape[1] :].numpy())

    def restrict(self, matrix: np.ndarray) -> np.ndarray:
        """BᵀA, (t + m − s, …), of a matrix A (q, …)."""
        return np.concatenate([matrix[self.still], self.inner.T @ matrix[self.moved]])

    def expand(self, matrix: np.ndarray) -> np.ndarray:
        """B A, (q, …), of a matrix A (t + m − s, …)."""
        t = len(self.still)
        whole = np.empty((t + len(self.moved), matrix.shape[1]))
        whole[self.still], whole[self.moved] = matrix[:t], self.inner @ matrix[t:]
        return whole


def _inverse_triangular(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F with F Fᵀ a generalised inverse of RᵀR for R, (m, q), and directions (q, t) that span the null space of R.

    A singular value counts as zero if it is rounding, after the columns of R have been scaled to length 1.
    """
    matrix = torch.from_numpy(factor)
    length = torch.linalg.vector_norm(matrix, dim=0)
    length = torch.where(length > 0, length, 1.0)
    _, values, vectors = svd(matrix / length, full_matrices=False)
    told = values > _ROUNDING * math.sqrt(len(values)) * values.amax() if len(values) else values > 0
    directions = (vectors / length).T
    return (directions[:, told] / values[told]).numpy(), directions[:, ~told].numpy()


def normal_quantile(confidence_level: float) -> float:
    """The half-width of a two-sided normal interval, in standard errors.

    Raises:
        ValueError: if the confidence level does not lie between 0 and 1.
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {confidence_level}")
    return NormalDist().inv_cdf(0.5 + confidence_level / 2)


def two_sided_p_value(z: float) -> float:
    """P(|Z| > |z|) of a standard normal Z, accurate far out in the tail."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_squared_p_value(statistic: float, degrees: int) -> float:
    """P(X > statistic) of a chi-squared X with so many degrees of freedom."""
    from scipy.special import chdtrc

    return float(chdtrc(degrees, max(statistic, 0.0)))
