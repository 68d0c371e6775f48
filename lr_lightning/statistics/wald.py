"""Standard errors, tests and intervals of maximum-likelihood coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lr_lightning.statistics.design_matrix import DesignMatrix
from lr_lightning.statistics.sums import Sums

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
    sums: Sums, keep: np.ndarray, covariance: CovarianceType = "nonrobust", free: np.ndarray | None = None
) -> np.ndarray:
    r"""F with covariance F Fᵀ of the parameters, (p, r), by default from the inverse Hessian.

    HC0 is the sandwich H⁻¹ (Σ v²·(y − p)²·x̃·x̃ᵀ) H⁻¹ (Huber 1967, White 1982);
    HC1 is n / (n - number of parameters) times that, n being the number of rows. A weighted row is one observation
    here (R's `sandwich`, Stata's pweights), not v equal ones.

    Args:
        sums: at the maximum of the likelihood; `sums.meat` is needed for HC0 and HC1.
        keep: positions of the parameters that were estimated, (q,); the others get rows of zeros.
        covariance: which one.
        free: orthonormal directions (q, s) in which the likelihood has no maximum; they are left out.

    Raises:
        numpy.linalg.LinAlgError: if the Hessian is singular.
    """
    hessian = sums.hessian[np.ix_(keep, keep)]
    basis = np.eye(len(keep))
    if free is not None and free.shape[1]:
        basis = np.linalg.svd(free, full_matrices=True)[0][:, free.shape[1] :]
        hessian = basis.T @ hessian @ basis
    root = np.sqrt(hessian.diagonal())
    if not (root > 0).all():
        raise np.linalg.LinAlgError("a parameter without curvature")
    lower = np.linalg.cholesky(hessian / root[:, None] / root)
    if len(lower) and lower.diagonal().min() ** 2 < 1e-14:
        raise np.linalg.LinAlgError("the Hessian is singular in float64")
    inverse_factor = np.linalg.inv(lower).T / root[:, None]
    factor = basis @ inverse_factor
    if covariance != "nonrobust":
        if sums.meat is None:
            raise ValueError("a robust covariance needs sum_rows(…, meat=True)")
        meat = basis.T @ sums.meat[np.ix_(keep, keep)] @ basis
        values, vectors = np.linalg.eigh(inverse_factor.T @ meat @ inverse_factor)
        factor = factor @ (vectors * np.sqrt(np.maximum(values, 0.0)))
        if covariance == "HC1":
            factor = factor * math.sqrt(sums.n_rows / (sums.n_rows - len(keep)))
    whole = np.zeros((len(sums.hessian), factor.shape[1]))
    whole[keep] = factor
    return whole


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
