"""The summary of a fit: its report, its covariance and its coefficients, from the rows and the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lr_lightning.errors import InputError
from lr_lightning.model.processes import ALONE, Processes
from lr_lightning.model.rows import Rows
from lr_lightning.solver.decompositions import inverse_root
from lr_lightning.solver.profile import optimum
from lr_lightning.statistics import effects as effects_of_rows
from lr_lightning.statistics import warnings as worded
from lr_lightning.statistics.collinearity import (
    Collinearity,
    find_collinearity,
    relation_in_words,
)
from lr_lightning.statistics.design_matrix import COMPUTED, DesignMatrix
from lr_lightning.statistics.profile import Profile, likelihood_of, profiles
from lr_lightning.statistics.report import MAX_COLUMNS, Coefficient, Effect, Inference, LikelihoodRatioTest, Report
from lr_lightning.statistics.separation import MAX_COLUMNS as MAX_COLUMNS_SEPARATED
from lr_lightning.statistics.separation import Separation, find_separation, moved_terms, separates, without_end
from lr_lightning.statistics.sums import Clusters, Sums, null_log_likelihood, sum_rows
from lr_lightning.statistics.wald import Covariance, CovarianceType, chi_squared_p_value, covariance_factor

_AT_BOUND = 1e-12  # distance from a bound that is rounding
_MOVED = 1e-9  # component of a direction below which it is rounding


class Summary(NamedTuple):
    """The summary of a fit.

    Attributes:
        report: the report.
        covariance: the covariance of the estimates; None unless every estimate has a standard error.
        coefficients: coefficients on the original feature scale, (d,), float64, which give the same predictions as the
            fitted ones; 0 for constant and aliased columns.
        intercept: intercept on the original feature scale; 0.0 for a model without one.
    """

    report: Report
    covariance: Covariance | None
    coefficients: Tensor
    intercept: float


def summarize(
    batches: Iterable[Rows],
    *,
    coefficients: Tensor,
    intercept: Tensor | float | None,
    served: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    feature_names: list[str],
    converged: bool,
    passes: int,
    fit_intercept: bool = True,
    penalized: bool = False,
    chosen: bool = False,
    class_weighted: bool = False,
    weight_scale: float = 1.0,
    log_coefficient: float = 0.0,
    partial: bool = False,
    exact: bool = False,
    clusters: Tensor | None = None,
    covariance: CovarianceType = "nonrobust",
    confidence_level: float = 0.95,
    inference: Inference = "wald",
    firth: bool | Literal["flic"] = False,
    bounds: Tensor | None = None,
    groups: Sequence[Sequence[int]] = (),
    unweighted: Iterable[Rows] | None = None,
    told: Callable[[int, int], None] | None = None,
    processes: Processes = ALONE,
) -> Summary:
    """The coefficient table, the likelihoods and the warnings of a fit.

    It sweeps over the rows once, and a few times more to settle separation or collinearity.

    Args:
        batches: training rows on any device, with served features (n, d), and the weights v of the objective (n,),
            sample weight times class weight. They are iterated more than once.
        coefficients: coefficients of the served features, (d,); see `LinearSigmoid.served_affine`.
        intercept: intercept of the served features, (); without `fit_intercept` it only undoes the centring.
        served: means and scales (d,) with which the served features have been standardised.
        training: means and scales (d,) of the training rows in the units of the batches; scale 0 marks a constant.
        feature_names: names of the features, (d,).
        converged: whether the optimizer has converged.
        passes: number of passes over the rows that the fit took.
        fit_intercept: whether the model has an intercept.
        penalized: whether there was a penalty.
        chosen: whether a cross-validation has chosen the penalty, which may be 0.
        class_weighted: whether there were class weights.
        weight_scale: the number by which v has been divided.
        log_coefficient: what every log-likelihood has besides: Σ weight·log C(trials, successes).
        partial: whether the optimizer has seen only a part of the rows.
        exact: whether the optimizer was the exact solver.
        clusters: numbers of the groups of all rows, in the order of the batches, (n,), or None.
        covariance: the kind of the standard errors, "nonrobust", "HC0", "HC1" or "cluster".
        confidence_level: confidence level of the intervals.
        inference: whether z, p-values and intervals are Wald's or the profile likelihood's.
        firth: Firth's penalty, as in the objective. The error of FLIC's intercept is that from I of all columns at
            FLIC's probabilities, those of the slopes are Firth's.
        bounds: lower and upper bounds of the coefficients on the original scale, (2, d), or None.
        groups: the features that stand for one boolean or categorical column, see `average_marginal_effects`.
        unweighted: the rows without class weights, for these effects; None for `batches`.
        told: is given the numbers of profiles done and of all, see `profiles`.
        processes: that hold the rows; all of them call this, and the batches and clusters are those of this one.

    Raises:
        InputError: for the cluster-robust covariance without groups.
        ValueError: if no row has a positive weight, or the confidence level does not lie between 0 and 1.
    """
    refuse_without_groups(covariance, clusters)
    design = DesignMatrix(batches, served=served, training=training, intercept=fit_intercept, processes=processes)
    parameters = design.standardized(coefficients, intercept)
    wide = design.size > MAX_COLUMNS
    sums = sum_rows(design, parameters, matrices=not wide)
    k = len(design.columns)
    names = [feature_names[j] for j in design.columns.tolist()]  # of the columns that vary
    collinearity = Collinearity.unknown(k) if wide else find_collinearity(design, sums.gram)
    keep = np.arange(design.size)
    if not penalized and bounds is None and len(collinearity.aliased):
        parameters, keep = collinearity.fold(parameters), np.sort(collinearity.basis)

    held = np.array([], int)  # positions of the coefficients that stand at a bound
    if bounds is not None:
        held = _held(design, design.to_original(parameters), bounds)
        keep = np.setdiff1d(np.arange(design.size), held)
    known = penalized or (bounds is not None and converged)
    separation = None if known else _separation(design, parameters, sums, keep, converged and not firth, wide)
    kind = None if separation is None else separation.kind
    finite = kind is None or bool(firth)  # whether every estimate is
    varying = set(design.columns.tolist())
    warnings = worded.of_data(
        constant=[name for j, name in enumerate(feature_names) if j not in varying],
        relations=[relation_in_words(collinearity, m, design, names) for m in range(len(collinearity.aliased))],
        aliased=[names[j] for j in collinearity.aliased],
        penalized=penalized,
        single=design.single,
        settled=not (design.single or (len(collinearity.aliased) and design.rounded[collinearity.aliased].any())),
    )
    if separation is not None:
        separating = [names[j] for j in separation.columns]
        warnings += worded.of_separation(
            kind, separating, firth=bool(firth), cure=worded.cure(class_weighted, len(keep), chosen=chosen)
        )
        huge = [names[j] for j in design.rounded.nonzero()[0]] if separation.doubt == "rounding" else []
        warnings += worded.of_doubt(
            separation.doubt, kind, len(keep), MAX_COLUMNS_SEPARATED, single=design.single, huge=huge, chosen=chosen
        )
    if not converged and finite:
        warnings.append(worded.not_converged(passes, exact=exact, profile=inference == "profile"))
    counts, slopes = _counts(sums, class_weighted), len(keep) - fit_intercept
    warnings += worded.of_counts(*counts, slopes, penalized=penalized, firth=bool(firth), chosen=chosen)

    of_cluster = None if clusters is None else Clusters.of(clusters, design)
    n_clusters = None if of_cluster is None else of_cluster.count
    factor, undetermined = None, np.array([], int)
    if partial:
        warnings.append(worded.PARTIAL)
    elif penalized:
        warnings.append(worded.PENALIZED)
    elif class_weighted and covariance == "nonrobust":
        warnings.append(worded.CLASS_WEIGHTED)
    elif wide:
        warnings.append(worded.too_wide(design.size, MAX_COLUMNS))
    elif covariance == "cluster" and n_clusters == 1:
        warnings.append(worded.ONE_GROUP)
    elif covariance in ("HC1", "cluster") and sums.n_rows <= len(keep):
        warnings.append(worded.NO_FREEDOM)
    elif kind != "complete" or firth:
        if n_clusters is not None:
            warnings += worded.few_groups(n_clusters) if covariance == "cluster" else [worded.GROUPED]
        free = None if separation is None or finite else separation.free[keep]
        factor, flat = covariance_factor(
            design, sums, parameters, keep, covariance, free, of_cluster if covariance == "cluster" else None
        )
        if covariance == "nonrobust":
            factor /= math.sqrt(weight_scale)
        undetermined = moved_terms(design, flat, _MOVED)
        if len(undetermined):
            warnings.append(worded.undetermined([[*names, "(Intercept)"][j] for j in undetermined]))

    errors = _std_errors(design, factor, keep, None if finite else separation)
    errors[undetermined] = np.nan
    profile_of: dict[int, Profile] = {}
    penalized_log_likelihood, at_optimum = None, parameters
    at_maximum = converged or not finite  # what is computed at the maximum would not be of other estimates
    if firth and at_maximum and not wide:
        maximum, at_optimum, root = _firth_optimum(design.of_all_processes(), parameters, keep, weight_scale)
        penalized_log_likelihood = maximum + log_coefficient
        if firth == "flic" and root is not None:  # the slopes' errors are those at Firth's estimates
            errors[keep[:-1]] = np.linalg.norm(design.to_original(root), axis=1)[keep[:-1]]
    if inference == "profile" and at_maximum and not partial and not wide:
        profile_of = profiles(
            design.of_all_processes(),
            at_optimum,
            keep,
            n_rows=sums.n_rows,
            level=confidence_level,
            firth=bool(firth),
            weight_scale=weight_scale,
            separation=None if finite else separation,
            told=told,
        )
        warnings += worded.of_profiles({[*names, "(Intercept)"][j]: profile for j, profile in profile_of.items()})
    if len(held):
        warnings.append(worded.at_bounds([names[j] for j in held], errors=factor is not None))
    estimates = design.to_original(parameters)
    inflation = np.full(design.size, np.nan)
    if not (penalized and len(collinearity.aliased)):
        inflation[collinearity.kept] = collinearity.inflation
    columns = design.columns.tolist()

    def row(j: int, name: str) -> Coefficient:
        estimate, error, vif = float(estimates[j]), float(errors[j]), float(inflation[j])
        if inference == "wald" or (firth == "flic" and j == k):
            return Coefficient.of(name, estimate, error, confidence_level, vif)
        return Coefficient.by_profile(name, estimate, error, profile_of.get(j), vif)

    rows = {columns[j]: row(j, names[j]) for j in keep[keep < k]}
    if bounds is not None:
        for j in held.tolist():
            low, high = bounds[:, columns[j]].tolist()
            at = low if abs(estimates[j] - low) <= abs(estimates[j] - high) else high
            rows[columns[j]] = Coefficient.of(names[j], at, None, confidence_level, float(inflation[j]))
    table = [rows.get(j) or Coefficient(name, None) for j, name in enumerate(feature_names)]
    if fit_intercept:
        table.insert(0, row(k, "(Intercept)"))

    effects = None
    if sums.n_rows * max(1, len(table) - fit_intercept) > effects_of_rows.MOST:
        warnings.append(worded.MANY_EFFECTS)
    else:
        rows_of_effects = design if unweighted is None else design.with_batches(unweighted)
        of_effects = effects_of_rows.average_marginal_effects(
            rows_of_effects, parameters, groups, gradients=factor is not None
        )
        gradient = of_effects.gradient
        variances = None if factor is None or gradient is None else np.linalg.norm(factor.T @ gradient, axis=0)
        of_table = {row.name: row for row in table}
        effects = tuple(
            Effect.of(
                name,
                None if of_table[name].estimate is None else float(of_effects.effect[j]),
                None if variances is None or of_table[name].std_error is None else float(variances[j]),
                confidence_level,
            )
            for j, name in enumerate(feature_names)
        )

    null = null_log_likelihood(design, sums)
    log_likelihood, null = (weight_scale * value + log_coefficient for value in (sums.log_likelihood, null))
    share_left = log_likelihood / null if null < 0 else None
    n_parameters = len(keep) + len(held)
    if bounds is not None:  # a coefficient with equal bounds was not estimated
        n_parameters -= int((bounds[0] == bounds[1])[design.columns[held]].sum())
    report = Report(
        n_observations=sums.n_rows,
        n_parameters=n_parameters,
        log_likelihood=log_likelihood,
        null_log_likelihood=null,
        aic=2 * n_parameters - 2 * log_likelihood,
        bic=n_parameters * math.log(sums.n_rows) - 2 * log_likelihood,
        mcfadden_r2=None if share_left is None else 1 - share_left,
        converged=converged and finite,
        passes=passes,
        separation=kind,
        warnings=tuple(warnings),
        coefficients=tuple(table),
        level=confidence_level,
        covariance=covariance,
        n_groups=n_clusters,
        likelihood_ratio_test=None
        if partial or penalized or class_weighted or kind == "complete" or firth or bounds is not None
        else _likelihood_ratio_test(log_likelihood, null, n_parameters - fit_intercept),
        mean_prediction=sums.prediction / sums.weight,
        mean_outcome=sums.positive_weight / sums.weight,
        calibration=None,
        threshold=0.5,
        threshold_rule=None,
        inference=inference,
        firth=bool(firth),
        flic=firth == "flic",
        penalized_log_likelihood=penalized_log_likelihood,
        average_marginal_effects=effects,
    )
    original = torch.zeros(design.n_features, dtype=torch.float64)
    original[design.columns] = torch.from_numpy(estimates[:k].copy())
    missing = factor is None or not finite or len(undetermined) or len(held)
    whole = None if missing or factor is None else Covariance.of(design, factor)
    return Summary(report, whole, original, float(estimates[k]) if fit_intercept else 0.0)


def _held(design: DesignMatrix, estimates: np.ndarray, bounds: Tensor) -> np.ndarray:
    """Positions of the coefficients that stand at a bound."""
    at, ends = estimates[: len(design.columns)], bounds[:, design.columns].numpy()
    near = np.abs(at - ends) <= _AT_BOUND * (np.abs(ends) + 1 / design.scale)
    return np.flatnonzero((near & np.isfinite(ends)).any(0))


def _firth_optimum(
    design: DesignMatrix, parameters: np.ndarray, keep: np.ndarray, weight_scale: float
) -> tuple[float, np.ndarray, np.ndarray | None]:
    """The maximum of Firth's likelihood, its parameters (p,), and F (p, q) with F Fᵀ the inverse of I there.

    FLIC's intercept is not that of the maximum, and is found again here.
    """
    likelihood = likelihood_of(design, keep, firth=True, weight_scale=weight_scale)
    best = optimum(likelihood, torch.from_numpy(parameters[keep].copy()))
    point = parameters.copy()
    point[keep] = best.point.numpy()
    root = inverse_root(likelihood.information(best.point[:, None])[0])
    if root is None:
        return -best.value, point, None
    factor = np.zeros((design.size, len(keep)))
    factor[keep] = root.factor.numpy()
    return -best.value, point, factor


def refuse_without_groups(covariance: CovarianceType, groups: Tensor | None) -> None:
    """Raise InputError for the cluster-robust covariance of rows without groups."""
    if covariance == "cluster" and groups is None:
        raise InputError("covariance cluster needs groups; name their column with --data.groups")


def _separation(
    design: DesignMatrix, parameters: np.ndarray, sums: Sums, keep: np.ndarray, converged: bool, wide: bool
) -> Separation:
    if not wide:
        return find_separation(design.by_outcome(), parameters, sums, keep, converged=converged)
    free = np.zeros((design.size, 0))
    if design.is_sparse:  # a bound of the rounding of all rows; to look at each would fill them
        complete = sums.smallest_gain > COMPUTED * sums.largest_norm * float(np.linalg.norm(parameters))
    else:
        complete = sums.smallest_gain > 0 and separates(design.by_outcome(), parameters)
    if complete:
        return Separation("complete", None, np.arange(len(design.columns)), free)
    columns = without_end(design.by_outcome())
    return Separation("quasi" if len(columns) else None, "width", columns, free)


def _std_errors(
    design: DesignMatrix, factor: np.ndarray | None, keep: np.ndarray, separation: Separation | None
) -> np.ndarray:
    errors = np.full(design.size, np.nan)
    if factor is not None:
        errors[keep] = np.linalg.norm(design.to_original(factor), axis=1)[keep]
        if separation is not None and separation.kind is not None:
            errors[moved_terms(design, separation.free)] = np.nan
    return errors


def _counts(sums: Sums, class_weighted: bool) -> tuple[float, float]:
    """The numbers of positive and negative observations; integer weights count as frequencies."""
    if sums.whole_weights and not class_weighted:
        return sums.positive_weight, sums.weight - sums.positive_weight
    return sums.n_positive, sums.n_rows - sums.n_positive


def _likelihood_ratio_test(log_likelihood: float, null: float, degrees: int) -> LikelihoodRatioTest | None:
    if degrees < 1:
        return None
    statistic = max(0.0, 2 * (log_likelihood - null))
    return LikelihoodRatioTest(statistic, degrees, chi_squared_p_value(statistic, degrees))
