"""Texts of the warnings of a report: what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lr_lightning.solver import thresholds
from lr_lightning.statistics.profile import Profile

PENALIZED = (
    "there are no standard errors: a penalty pulls the coefficients towards zero, and the formulas that would give "
    "errors hold without a penalty only; fit without l1 and l2 if you need them"
)
CLASS_WEIGHTED = (
    "there are no standard errors: class weights are not numbers of observations, as the usual formula takes them to "
    "be; ask for the robust covariance, or fit without class weights"
)
PARTIAL = (
    "no pass of the fit has seen all training rows (trainer.limit_train_batches, overfit_batches, max_steps and the "
    "like): the estimates are those of a part of them, and have no standard errors"
)
MANY_EFFECTS = "there are no average marginal effects: rows times features are more than the 10⁹ they are computed for"
GROUPED = (
    "the rows are grouped (data.groups), and the standard errors take them to be independent; the cluster-robust "
    "covariance (--covariance cluster) takes account of the groups"
)
ONE_GROUP = "there are no standard errors: all rows are of one group, and the cluster-robust covariance needs several"
NO_FREEDOM = (
    "there are no standard errors: there are no more rows than parameters, and the factor of this covariance for small "
    "samples divides by their difference"
)
_FEW_GROUPS = 40
FIRTH = "fit with Firth's penalty (--model.firth true), which gives finite estimates and intervals"
_MIN_EVENTS = 10  # per parameter: Peduzzi et al. 1996
_RARE = 0.05
_MOST_NAMES = 10


def few_groups(n_groups: int) -> list[str]:
    """The warning that the cluster-robust covariance has few groups to be estimated from."""
    if n_groups >= _FEW_GROUPS:
        return []
    return [
        f"few groups: the cluster-robust covariance is estimated from {n_groups} of them, fewer than {_FEW_GROUPS}, "
        "and tends to be too small: the intervals may be too narrow"
    ]


def too_wide(size: int, limit: int) -> str:
    """The warning that there are too many parameters for a Hessian."""
    return f"there are no standard errors: {size} parameters are more than the {limit} that they are computed for"


def undetermined(names: Sequence[str]) -> str:
    """The warning that the likelihood is flat, up to rounding, in the direction of some coefficients."""
    return (
        f"{_listed(names)}: there are no standard errors, for the rows hardly determine these coefficients: their "
        "columns are collinear but for the last digits, or some probabilities are nearly 0 or 1"
    )


def not_converged(passes: int, *, exact: bool, profile: bool = False) -> str:
    """The warning that the optimizer, `exact` or another, stopped early; `profile`: intervals by it were asked for."""
    return (
        f"the fit did not converge in {passes} pass{'' if passes == 1 else 'es'}, so that neither estimates nor "
        "standard errors are those of the optimum"
        + (", and there are no tests and intervals by the profile likelihood" if profile else "")
        + "; allow more passes (trainer.max_epochs)"
        + ("" if exact else " or use the exact solver")
    )


def of_data(
    *,
    constant: Sequence[str],
    relations: Sequence[str],
    aliased: Sequence[str],
    penalized: bool,
    single: bool,
    settled: bool,
) -> list[str]:
    """Warnings about constant and collinear columns.

    Args:
        constant: names of the constant columns.
        relations: for each collinear column its linear relation to others, as a formula.
        aliased: names of the collinear columns.
        penalized: whether there was a penalty.
        single: whether the columns were compared in float32.
        settled: whether the columns were compared with all digits that the table has.
    """
    warnings = []
    if constant:
        are = "column is constant and has" if len(constant) == 1 else "columns are constant and have"
        warnings.append(f"{_listed(constant)}: the {are} no coefficient")
    if relations:
        functions = (
            "the column is a linear function of others"
            if len(relations) == 1
            else "the columns are linear functions of others"
        )
        digits = "float32" if single else "float64"
        what = "left out, which changes no prediction"
        if penalized:
            what = "the penalty alone decides how the effect is divided among them"
        elif not settled:
            what = "left out, and whether that changes predictions is not settled"
        shown = "; ".join(relations[:_MOST_NAMES])
        more = "" if len(relations) <= _MOST_NAMES else f"; and {len(relations) - _MOST_NAMES} more"
        closer = "; with --trainer.precision 64-true more digits are compared" if single else ""
        warnings.append(f"{_listed(aliased)}: to the digits of {digits} {functions} ({shown}{more}); {what}{closer}")
    return warnings


def penalty(chosen: bool) -> str:
    """Advice to add an L2 penalty; `chosen`: a cross-validation has chosen the fit's, which may be 0."""
    return f"add a penalty (--model.l2 0.01{' of fit' if chosen else ', or the one that lr-lightning path chooses'})"


def cure(class_weighted: bool, size: int, *, chosen: bool) -> str:
    """Advice about separation: Firth's penalty, unless that would be refused, or an L2 penalty, see `penalty`."""
    without_firth = class_weighted or size > thresholds.DENSE_LIMIT
    return penalty(chosen) if without_firth else f"{FIRTH}, or {penalty(chosen)}"


def of_profiles(found: Mapping[str, Profile]) -> list[str]:
    """Warnings about ends of profile intervals that do not exist, and about searches that failed."""
    warnings = []
    for end in ("lower", "upper"):
        if names := [name for name, profile in found.items() if end in profile.missing]:
            which = "end of its interval does" if len(names) == 1 else "ends of their intervals do"
            warnings.append(
                f"{_listed(names)}: the {end} {which} not exist, for the likelihood does not fall in that direction"
            )
    if names := [name for name, profile in found.items() if profile.failed]:
        warnings.append(
            f"{_listed(names)}: a search along the profile likelihood did not come to an end, so that an interval or "
            "a test is missing; --inference wald gives the usual ones"
        )
    return warnings


def at_bounds(names: Sequence[str], *, errors: bool) -> str:
    """The warning that coefficients stand at their bounds, and whether others have standard `errors`."""
    stand = "the coefficient stands at its bound" if len(names) == 1 else "the coefficients stand at their bounds"
    have = "it has" if len(names) == 1 else "they have"
    others = "; the standard errors of the others hold beside them as they stand" if errors else ""
    return f"{_listed(names)}: {stand}, so that {have} no standard error{others}"


def of_separation(kind: str | None, names: Sequence[str], *, firth: bool, cure: str) -> list[str]:
    """Warnings about separation, and so about coefficients without a finite estimate.

    Args:
        kind: "complete", "quasi" or None.
        names: of the columns that separate.
        firth: whether the estimates are Firth's, which are finite.
        cure: what to do.
    """
    listed = _listed(names) or "the intercept"
    if firth and kind is not None:
        how = "complete" if kind == "complete" else "quasi-complete"
        return [
            f"{how} separation: {listed}; without Firth's penalty there would be no finite estimates, and how large "
            "they are here is the penalty's doing as much as the data's: heed the intervals"
        ]
    what = "{}, or leave out {} if knowing {} gives the answer away".format(
        cure, *(("the column", "it") if len(names) < 2 else ("columns", "them"))
    )
    if kind == "complete":
        return [
            f"complete separation: {listed} can tell all positive rows from all negative ones without an error, so "
            "that the likelihood has no maximum: the coefficients would grow for ever, say only where the fit stopped, "
            f"and have no standard errors; {what}"
        ]
    if kind == "quasi":
        return [
            f"quasi-complete separation: moving the coefficients of {listed} without end makes no row less likely and "
            "some rows more, so that they have no finite estimate, say only where the fit stopped, and have no "
            f"standard errors; {what}"
        ]
    return []


def of_doubt(
    reason: str | None, kind: str | None, size: int, limit: int, *, single: bool, huge: Sequence[str], chosen: bool
) -> list[str]:
    """Warnings about separation that could be neither proven nor ruled out.

    Args:
        reason: "width", "programme" or "rounding" (see `Separation.doubt`), or None without a doubt.
        kind: the kind of separation that is proven; None if none is.
        size: number of parameters.
        limit: largest number of parameters for which a linear programme is solved.
        single: whether the features were served in float32.
        huge: columns in float64 with values so large that smaller ones have lost their digits.
        chosen: as in `penalty`.
    """
    if reason is None:
        return []
    if_large = f"if coefficients are very large, {penalty(chosen)}"
    if reason == "rounding" and single:
        why = (
            "the digits of float32 are too few for it, and perhaps for the estimates and their standard errors; fit "
            "with --trainer.precision 64-true"
        )
    elif reason == "rounding":
        why = (
            f"beside the largest values of {_listed(huge)} float64 has no digits left for the others, nor perhaps for "
            "the estimates; look for numbers that stand for something else, such as 999999999999 for a missing value"
        )
    elif reason == "width":
        why = f"{size} parameters are more than the {limit} that a linear programme is solved for; {if_large}"
    else:
        why = f"the linear programme that decides it gave no certain answer; {if_large}"
    what = "the classes can be separated" if kind is None else "other columns separate the classes too"
    return [f"whether {what} was not settled: {why}"]


def of_counts(
    positive: float, negative: float, slopes: int, *, penalized: bool, firth: bool, chosen: bool
) -> list[str]:
    """Warnings about few observations of the rarer class, absolutely or as a share.

    Args:
        positive: number of positive observations.
        negative: number of negative ones.
        slopes: number of parameters but for the intercept.
        penalized: whether there was an L1 or L2 penalty, which leaves no intervals.
        firth: whether there was Firth's.
        chosen: whether a cross-validation has chosen the penalty.
    """
    warnings = []
    far_off = "estimates may be far off and intervals too narrow: use fewer columns or a penalty"
    if penalized:
        by_path = "" if chosen else ", which lr-lightning path chooses by cross-validation"
        far_off = f"the estimates depend much on the penalty{by_path}; with fewer columns they depend less on it"
    elif firth:
        far_off = "estimates may be far off in spite of Firth's penalty: heed the intervals, or use fewer columns"
    events = min(positive, negative)
    if slopes and events < _MIN_EVENTS * slopes:
        warnings.append(
            f"few events: {events:g} observation{'' if events == 1 else 's'} of the rarer class for {slopes} "
            f"parameter{'' if slopes == 1 else 's'}, fewer than {_MIN_EVENTS} each; {far_off}"
        )
    share = events / (positive + negative)
    if share < _RARE:
        rarer = "positive" if positive < negative else "negative"
        warnings.append(
            f"imbalance: {100 * share:.3g} % of the observations are {rarer}; accuracy says little here, "
            "look at average precision and choose the threshold on validation rows"
        )
    return warnings


def _listed(names: Sequence[str]) -> str:
    names = [" ".join(str(name).split()) for name in names]
    if len(names) > _MOST_NAMES:
        return ", ".join(names[:_MOST_NAMES]) + f" and {len(names) - _MOST_NAMES} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
