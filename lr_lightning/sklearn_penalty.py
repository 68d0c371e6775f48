"""The penalty that scikit-learn's parameters ask for, refused and deprecated in scikit-learn 1.9's own words."""

from __future__ import annotations

import math
import warnings

_OF_RATIO = {0: "l2", None: "l2", 1: "l1"}
_TO_CALLER = 5  # from _warn to whoever called the estimator's fit, past scikit-learn's decorator


def penalty_in_use(
    *, penalty: str | None, C: float, l1_ratio: float | None, solver: str, dual: bool
) -> tuple[float, float]:
    """The inverse strength, infinite for none, and the share of L1.

    Raises:
        ValueError: if scikit-learn's solver of that name has no such penalty.
    """
    if penalty == "deprecated":
        if l1_ratio is None:
            _warn(
                "'l1_ratio=None' was deprecated in version 1.8 and will trigger an error in 1.10. "
                "Use 0<=l1_ratio<=1 instead.",
                FutureWarning,
            )
        kind = None if math.isinf(C) else _OF_RATIO.get(l1_ratio, "elasticnet")
    else:
        kind = penalty
        _warn(
            "'penalty' was deprecated in version 1.8 and will be removed in 1.10. To avoid this warning, leave "
            "'penalty' set to its default value and use 'l1_ratio' or 'C' instead. Use l1_ratio=0 instead of "
            "penalty='l2', l1_ratio=1 instead of penalty='l1', l1_ratio set to a float between 0 and 1 instead of "
            "penalty='elasticnet', and C=np.inf instead of penalty=None.",
            FutureWarning,
        )
    _refuse_unlike(solver, kind, dual)
    _warn_of_contradictions(penalty, kind, C, l1_ratio)
    if kind is None:
        return math.inf, 0.0
    if kind == "elasticnet":
        if l1_ratio is None:
            raise ValueError("l1_ratio must be specified when penalty is elasticnet.")
        return C, float(l1_ratio)
    return C, 1.0 if kind == "l1" else 0.0


def _refuse_unlike(solver: str, kind: str | None, dual: bool) -> None:
    if solver not in ("liblinear", "saga") and kind not in ("l2", None):
        raise ValueError(f"Solver {solver} supports only 'l2' or None penalties, got {kind} penalty.")
    if solver != "liblinear" and dual:
        raise ValueError(f"Solver {solver} supports only dual=False, got dual={dual}")
    if kind == "elasticnet" and solver != "saga":
        raise ValueError(f"Only 'saga' solver supports elasticnet penalty, got solver={solver}.")
    if solver == "liblinear" and kind is None:
        raise ValueError("C=np.inf as well as penalty=None is not supported for the liblinear solver")
    if kind == "l1" and dual:
        raise ValueError(
            "Unsupported set of arguments: The combination of penalty='l1' and loss='logistic_regression' are not "
            "supported when dual=True, Parameters: penalty='l1', loss='logistic_regression', dual=True"
        )


def _warn_of_contradictions(penalty: str | None, kind: str | None, C: float, l1_ratio: float | None) -> None:
    if kind != "elasticnet" and l1_ratio is not None and 0 < l1_ratio < 1:
        _warn(f"l1_ratio parameter is only used when penalty is 'elasticnet'. Got (penalty={kind})", UserWarning)
    if (penalty == "l2" and l1_ratio != 0) or (penalty == "l1" and l1_ratio != 1):
        _warn(
            f"Inconsistent values: penalty={penalty} with l1_ratio={l1_ratio}. penalty is deprecated. "
            "Please use l1_ratio only.",
            UserWarning,
        )
    if penalty is None and C != 1.0:
        _warn("Setting penalty=None will ignore the C and l1_ratio parameters", UserWarning)


def _warn(message: str, category: type[Warning]) -> None:
    warnings.warn(message, category, stacklevel=_TO_CALLER)
