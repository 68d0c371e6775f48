"""The report of a fit: coefficient table, likelihoods, tests, calibration and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch

from lr_lightning.data.arrays_of_levels import as_arrays, from_arrays
from lr_lightning.data.plain_data import from_plain, misfit
from lr_lightning.errors import InputError
from lr_lightning.statistics.held_out import Calibration
from lr_lightning.statistics.profile import Profile
from lr_lightning.statistics.wald import normal_quantile, two_sided_p_value

Inference = Literal["wald", "profile"]
MAX_COLUMNS = 4096  # largest number of parameters for which a Hessian is computed
_FEW_NAMES = ("name", "estimate", "odds_ratio")


@dataclass(frozen=True)
class Coefficient:
    """A row of the coefficient table, on the original feature scale; a value that does not exist is None."""

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
        cls, name: str, estimate: float, std_error: float | None, confidence_level: float, vif: float | None = None
    ) -> Coefficient:
        """A row with the Wald test of 0 and the Wald interval; without them if there is no finite standard error."""
        odds = _finite_exp(estimate)
        if std_error is None or not 0 < std_error < math.inf:
            return cls(name, finite(estimate), odds_ratio=odds, vif=finite(vif))
        z, half = estimate / std_error, normal_quantile(confidence_level) * std_error
        low, high = estimate - half, estimate + half
        return cls(
            *(name, estimate, std_error, finite(z), two_sided_p_value(z), finite(low), finite(high)),
            *(odds, _finite_exp(low), _finite_exp(high), finite(vif)),
        )

    @classmethod
    def by_profile(
        cls,
        name: str,
        estimate: float,
        std_error: float | None,
        profile: Profile | None,
        vif: float | None = None,
    ) -> Coefficient:
        """A row with the interval and the test of the profile likelihood; z is the signed root of the statistic."""
        low, high, statistic = (None, None, None) if profile is None else profile[:3]
        z = None if statistic is None else math.copysign(math.sqrt(statistic), estimate)
        return cls(
            name,
            finite(estimate),
            finite(std_error),
            z,
            None if z is None else two_sided_p_value(z),
            low,
            high,
            _finite_exp(estimate),
            None if low is None else _finite_exp(low),
            None if high is None else _finite_exp(high),
            finite(vif),
        )


@dataclass(frozen=True)
class Effect:
    """An average marginal effect: the mean change of the probability; a value that does not exist is None."""

    name: str
    effect: float | None
    std_error: float | None = None
    z: float | None = None
    p_value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None

    @classmethod
    def of(cls, name: str, effect: float | None, std_error: float | None, confidence_level: float) -> Effect:
        """An effect with the Wald test of 0 and the Wald interval; without them if there is no standard error."""
        if effect is None or std_error is None or not 0 < std_error < math.inf:
            return cls(name, finite(effect))
        z, half = effect / std_error, normal_quantile(confidence_level) * std_error
        return cls(name, effect, std_error, finite(z), two_sided_p_value(z), effect - half, effect + half)


@dataclass(frozen=True)
class Measures:
    """Measures of held-out rows; of rows of one class some do not exist."""

    loss: float
    accuracy: float
    auroc: float | None
    average_precision: float | None
    f1: float | None
    brier: float
    calibration_error: float


@dataclass(frozen=True)
class HeldOut:
    """The measures of the validation rows and of the test rows; None where none were kept back."""

    val: Measures | None
    test: Measures | None


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """The likelihood-ratio test that all slopes are 0."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True)
class Report:
    """The report of a fit. It has neither dates nor paths, so that a rerun gives an equal one.

    The attributes are the keys of report.json. `level` is the confidence level of the intervals. `covariance` is the
    kind of the standard errors: "nonrobust" (the inverse Hessian), "HC0", "HC1" or "cluster". `n_groups` is the number
    of groups of the training rows, None where these are not grouped. `inference` says what the coefficients' z,
    p-values and intervals are from. `penalized_log_likelihood` is the maximum of ℓ + ½ log|I| with `firth`.
    `mean_prediction` and `mean_outcome` are weighted means over the training rows, which agree at an unpenalised
    optimum with intercept.
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
    inference: Inference = "wald"
    firth: bool = False
    flic: bool = False
    penalized_log_likelihood: float | None = None
    held_out: HeldOut | None = None
    average_marginal_effects: tuple[Effect, ...] | None = None
    n_groups: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for strict JSON, without NaN, infinity and tuples.

        Of more than 4096 coefficients, which have no standard errors, a row is name, estimate and odds ratio.
        """
        values = asdict(replace(self, coefficients=()))
        values["warnings"] = list(self.warnings)
        names = _FEW_NAMES if self.is_wide else [field.name for field in fields(Coefficient)]
        values["coefficients"] = [{name: getattr(row, name) for name in names} for row in self.coefficients]
        if self.average_marginal_effects is not None:
            values["average_marginal_effects"] = [asdict(row) for row in self.average_marginal_effects]
        return values

    def to_checkpoint(self) -> dict[str, Any]:
        """The report for a checkpoint: of more than 4096 coefficients only names and estimates, as arrays."""
        if not self.is_wide:
            return self.to_dict()
        estimates = [math.nan if row.estimate is None else row.estimate for row in self.coefficients]
        coefficients = {
            "name": as_arrays([row.name for row in self.coefficients]),
            "estimate": torch.tensor(estimates, dtype=torch.float64),
        }
        return {**replace(self, coefficients=()).to_dict(), "coefficients": coefficients}

    @property
    def is_wide(self) -> bool:
        """Whether there are more coefficients than standard errors are computed for."""
        return len(self.coefficients) > MAX_COLUMNS

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report from the values that `to_dict` or `to_checkpoint` returned; keys of later versions are ignored.

        Raises:
            InputError: if a value is missing or of another type.
        """
        table = values.get("coefficients") if isinstance(values, Mapping) else None
        arrays = table if isinstance(table, Mapping) else None
        if arrays is not None:
            values = {**values, "coefficients": []}
        wrong = misfit(values, cls) or (None if arrays is None else _wrong_arrays(arrays))
        if wrong:
            raise InputError(f"the report in the checkpoint is damaged ({wrong})")
        report: Report = from_plain(values, cls)
        if arrays is None:
            return report
        pairs = zip(_names(arrays), arrays["estimate"].tolist(), strict=True)
        rows = tuple(
            Coefficient(name, None) if math.isnan(value) else Coefficient.of(name, value, None, report.level)
            for name, value in pairs
        )
        return replace(report, coefficients=rows)

    def at_level(self, level: float) -> Report:
        """The report with intervals of another confidence level.

        Raises:
            ValueError: if level does not lie between 0 and 1.
            InputError: if the intervals are of the profile likelihood, which takes the rows.
        """
        normal_quantile(level)
        if self.inference == "profile" and level != self.level:
            raise InputError(
                "the intervals are of the profile likelihood, and another level takes the rows again: fit with "
                f"--level {level:g}"
            )
        if self.inference == "profile":
            return self
        rows = tuple(
            row if row.estimate is None else Coefficient.of(row.name, row.estimate, row.std_error, level, row.vif)
            for row in self.coefficients
        )
        effects = self.average_marginal_effects
        if effects is not None:
            effects = tuple(Effect.of(row.name, row.effect, row.std_error, level) for row in effects)
        return replace(self, level=level, coefficients=rows, average_marginal_effects=effects)

    def with_held_out(
        self,
        calibration: Calibration | None,
        threshold: float,
        rule: str | None = None,
        held_out: HeldOut | None = None,
    ) -> Report:
        """The report with the calibration on held-out rows, the threshold in use, and the measures at it."""
        return replace(self, calibration=calibration, threshold=threshold, threshold_rule=rule, held_out=held_out)


def _wrong_arrays(arrays: Mapping[str, Any]) -> str | None:
    """The fault of a checkpoint's coefficients in arrays, in words, or None."""
    names, estimates = _names(arrays), arrays.get("estimate")
    if not names:
        return "its coefficients have no names"
    if not isinstance(estimates, torch.Tensor) or estimates.dtype != torch.float64 or estimates.shape != (len(names),):
        return "its coefficients have no estimates"
    return None


def _names(arrays: Mapping[str, Any]) -> list[str]:
    """The names of coefficients in arrays; none if they are no texts."""
    names = arrays.get("name")
    found = from_arrays(names) if isinstance(names, Mapping) else names
    if not isinstance(found, list | tuple):
        return []
    texts = [name for name in found if isinstance(name, str)]
    return texts if len(texts) == len(found) else []


def finite(value: float | None) -> float | None:
    """The number; None for None, NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def _finite_exp(value: float) -> float | None:
    try:
        return finite(math.exp(value))
    except OverflowError:
        return None
