"""The report of a fit: what may be published, and what must be said beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lr_lightning.data.plain_data import from_plain, misfit
from lr_lightning.errors import InputError
from lr_lightning.statistics.calibration import Calibration
from lr_lightning.statistics.wald import normal_quantile, two_sided_p_value


@dataclass(frozen=True)
class Coefficient:
    """A row of the coefficient table, on the original feature scale; None is what does not exist."""

    name: str
    estimate: float | None
    std_error: float | None = None
    z: float | None = None
    p_value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    odds_ratio: float | None = None
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None
    vif: float | None = None

    @classmethod
    def of(
        cls, name: str, estimate: float, std_error: float | None, level: float, vif: float | None = None
    ) -> Coefficient:
        """With the Wald test of 0 and the interval of the given level."""
        odds = _finite_exp(estimate)
        if std_error is None or not 0 < std_error < math.inf:
            return cls(name, finite(estimate), odds_ratio=odds, vif=finite(vif))
        z, half = estimate / std_error, normal_quantile(level) * std_error
        low, high = estimate - half, estimate + half
        return cls(
            *(name, estimate, std_error, finite(z), two_sided_p_value(z), finite(low), finite(high)),
            *(odds, _finite_exp(low), _finite_exp(high), finite(vif)),
        )


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """Of all slopes being 0: statistic, degrees of freedom, p-value."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True)
class Report:
    """A fit in numbers; holds neither time nor place, so that a rerun gives the same.

    The attributes are the keys of report.json. `covariance` says where the standard errors come from: "nonrobust"
    (the inverse Hessian), "HC0" or "HC1"; `mean_prediction` and `mean_outcome` are those of the training rows,
    weighted, which agree at an unpenalised optimum with intercept.
    """

    n_observations: int
    n_parameters: int
    log_likelihood: float
    null_log_likelihood: float
    aic: float
    bic: float
    mcfadden_r2: float | None
    converged: bool
    passes: int
    separation: Literal["complete", "quasi"] | None
    warnings: tuple[str, ...]
    coefficients: tuple[Coefficient, ...]
    level: float
    covariance: str
    likelihood_ratio_test: LikelihoodRatioTest | None
    mean_prediction: float
    mean_outcome: float
    calibration: Calibration | None
    threshold: float
    threshold_rule: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for strict JSON: no NaN, no infinity, no tuple."""
        values = asdict(self)
        values["warnings"] = list(self.warnings)
        values["coefficients"] = [asdict(row) for row in self.coefficients]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """From what `to_dict` gave; keys of a later version are passed over.

        Raises:
            InputError: if a value is missing or is not what its name says.
        """
        if wrong := misfit(values, cls):
            raise InputError(f"the report in the checkpoint is damaged ({wrong})")
        return from_plain(values, cls)

    def at_level(self, level: float) -> Report:
        """With intervals of another level.

        Raises:
            ValueError: if level does not lie between 0 and 1.
        """
        normal_quantile(level)
        rows = tuple(
            row if row.estimate is None else Coefficient.of(row.name, row.estimate, row.std_error, level, row.vif)
            for row in self.coefficients
        )
        return replace(self, level=level, coefficients=rows)

    def with_held_out(self, calibration: Calibration | None, threshold: float, rule: str | None = None) -> Report:
        """With what held-out rows say, and the threshold in use."""
        return replace(self, calibration=calibration, threshold=threshold, threshold_rule=rule)


def finite(value: float | None) -> float | None:
    """The number, or None for what JSON has no word for."""
    return float(value) if value is not None and math.isfinite(value) else None


def _finite_exp(value: float) -> float | None:
    try:
        return finite(math.exp(value))
    except OverflowError:
        return None
