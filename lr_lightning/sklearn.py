"""The scikit-learn estimator `LogisticRegressionClassifier`."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Number, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import hstack, issparse

try:
    from sklearn.base import BaseEstimator, _fit_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
    from sklearn.utils import Tags, compute_class_weight
    from sklearn.utils import _array_api as array_api
    from sklearn.utils._array_api import get_namespace, get_namespace_and_device, move_to
    from sklearn.utils._param_validation import Hidden, Interval, StrOptions
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "LogisticRegressionClassifier needs scikit-learn 1.8 or later, and so Python 3.11 or later: "
        "pip install 'lr-lightning[sklearn]'"
    ) from error

from lr_lightning.data.spelling import weights_by_label

if TYPE_CHECKING:
    from lr_lightning.model.objective import Objective
    from lr_lightning.model.rows import Rows
    from lr_lightning.solver.fit import Solution

__all__ = ["LogisticRegressionClassifier"]

FINEST_TOL = 1e-7  # a larger tol changes nothing
_KIND_OF_L1_RATIO = {0: "l2", None: "l2", 1: "l1"}
_STACK_LEVEL = 5  # from `warn_caller` to the caller of the estimator's `fit`, past scikit-learn's decorator


class LogisticRegressionClassifier(LinearClassifierMixin, SparseCoefMixin, BaseEstimator):
    r"""Binary logistic regression by the exact solver, as a scikit-learn classifier.

    It replaces `sklearn.linear_model.LogisticRegression` for two classes. It has the same
    parameters, the same attributes and the same objective

    .. math:: C \sum_i v_i\,\mathrm{BCE}(y_i, \sigma(b + x_i^\top w))
              + \texttt{l1\_ratio}\,\|w\|_1 + \tfrac12 (1 - \texttt{l1\_ratio})\,\|w\|_2^2

    with v the sample weight times the class weight. Every fit runs on the CPU, at the precision of the features
    (float32 or float64), until it has converged. Where there is no optimum, as for separated classes without a
    penalty, it issues a `ConvergenceWarning`. With `array_api_dispatch`, tensors of torch and other arrays of the
    array API give attributes and predictions of their own kind, on their device.

    Args:
        penalty: deprecated, as in scikit-learn 1.8: l1, l2, elasticnet or None; use `C` and `l1_ratio`.
        C: inverse of the strength of the penalty, positive; `np.inf` is no penalty.
        l1_ratio: share of L1 in the penalty, from 0 to 1.
        dual: without effect on the result, because the dual problem has the same optimum. It is refused where
            scikit-learn refuses it.
        tol: tolerance. Every fit ends when half the squared Newton decrement is below 1e-14 of the objective (1e-10
            for many rows of float32), which is much less than the usual 1e-4 asks for. With a tol below 1e-7 it
            ends when half the squared decrement is below tol² of the objective, or at the limit of rounding.
        fit_intercept: whether the model has an intercept.
        intercept_scaling: with `solver="liblinear"`, value of the column whose penalised coefficient, times this
            value, is the intercept.
        class_weight: None, "balanced" (n / (2·n of the class)) or a weight for each label.
        random_state: without effect; two fits to the same rows are the same.
        solver: scikit-learn's name of a solver. Every name uses the same exact solver. The name decides only which
            penalties are allowed, and whether the intercept is penalised (liblinear).
        max_iter: largest number of passes over all rows; a small table needs one.
        verbose: 1 prints one line at the end.
        warm_start: start from the coefficients of the last fit.
        n_jobs: deprecated and without effect, as in scikit-learn 1.8.

    Attributes:
        classes_: the two labels, sorted; the second is the positive one.
        coef_: coefficients of the features, (1, d), of the features' dtype; `sparsify` and `densify` convert them.
        intercept_: (1,); 0 without an intercept.
        n_iter_: passes over all rows, (1,), int32.
        n_features_in_: number of features, d.
        feature_names_in_: their names, (d,), where the features were a table whose column names are text.

    Examples:
        >>> from sklearn.datasets import load_breast_cancer
        >>> from lr_lightning import LogisticRegressionClassifier
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> classifier = LogisticRegressionClassifier(C=0.1).fit(X, y)
        >>> print(f"{classifier.score(X, y):.4f}")
        0.9543
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's name and form
        "penalty": [StrOptions({"l1", "l2", "elasticnet"}), None, Hidden(StrOptions({"deprecated"}))],
        "C": [Interval(Real, 0, None, closed="right")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "dual": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "random_state": ["random_state"],
        "solver": [StrOptions({"lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"})],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        penalty: Any = "deprecated",
        *,
        C: float = 1.0,
        l1_ratio: float | None = 0.0,
        dual: bool = False,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        intercept_scaling: float = 1,
        class_weight: Any = None,
        random_state: Any = None,
        solver: str = "lbfgs",
        max_iter: int = 100,
        verbose: int = 0,
        warm_start: bool = False,
        n_jobs: int | None = None,
    ):
        self.penalty = penalty
        self.C = C
        self.l1_ratio = l1_ratio
        self.dual = dual
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.verbose = verbose
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticRegressionClassifier:
        """Find the optimum.

        Args:
            X: features, (n, d): an array, a table of pandas or polars, or a sparse matrix or array of SciPy, which is
                never filled; every dtype but float32 becomes float64.
            y: labels, (n,), with two distinct values.
            sample_weight: (n,), non-negative, or a number for all rows, or None for ones.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a parameter or a combination of parameters is not allowed, X or y is not finite or has the
                wrong shape, y has not exactly two classes, or the weights are negative or sum to 0.
        """
        C, l1_ratio = _penalty_in_use(
            penalty=self.penalty, C=self.C, l1_ratio=self.l1_ratio, solver=self.solver, dual=self.dual
        )
        if self.n_jobs is not None:
            warnings.warn(
                "'n_jobs' has no effect since 1.8 and will be removed in 1.10. "
                f"You provided 'n_jobs={self.n_jobs}', please leave it unspecified.",
                FutureWarning,
                stacklevel=3,
            )
        xp, _, device = get_namespace_and_device(X)
        X, y = validate_data(self, X, y, dtype=[xp.float64, xp.float32], order="C", accept_sparse="csr")
        labels: Any = move_to(y, xp=np, device="cpu")
        X = X if issparse(X) else move_to(X, xp=np, device="cpu")
        classes, codes = two_classes(labels)
        weight = self._row_weights(X, labels, classes, codes, sample_weight)
        strength = float(strengths(C, len(codes) if weight is None else weight.sum(), "C"))
        found = self._minimum(X, codes, weight, strength, l1_ratio, self.intercept_scaling, self._start())
        theta = self._without_column(found.theta.numpy(), self.intercept_scaling)
        coefficients, intercept = theta[:-1], theta[-1]
        y_xp, _, y_device = get_namespace_and_device(y)
        self.classes_ = y_xp.asarray(classes, device=y_device)
        self.coef_ = xp.asarray(coefficients[None].astype(X.dtype), device=device)
        self.intercept_ = xp.asarray(np.array([intercept], X.dtype), device=device)
        self.n_iter_ = xp.asarray(np.array([found.passes], np.int32), device=device)
        outcome = "converged" if found.converged else f"failed to converge: {self._reason(found.status)}"
        if self.verbose:
            print(f"{type(self).__name__} {outcome} (passes over the rows: {found.passes})")
        if not found.converged:
            warnings.warn(f"{type(self).__name__} {outcome}", ConvergenceWarning, stacklevel=3)
        return self

    # decision_function, (n,), and predict, (n,), are those of scikit-learn's linear classifiers.

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the two labels, (n, 2), in the order of `classes_`, each without cancellation."""
        xp, logits = self._log_odds(X, "predict_proba")
        small = xp.exp(-xp.abs(logits))
        nearer, farther = 1 / (1 + small), small / (1 + small)
        positive = logits > 0
        return xp.stack([xp.where(positive, farther, nearer), xp.where(positive, nearer, farther)], axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities, (n, 2), finite also where a probability underflows to 0."""
        xp, logits = self._log_odds(X, "predict_log_proba")
        zero = xp.zeros_like(logits)
        return xp.stack([-xp.logaddexp(zero, logits), -xp.logaddexp(zero, -logits)], axis=1)

    def _log_odds(self, X: Any, method: str) -> tuple[Any, Any]:
        """The array namespace of X, and the logits of its rows, (n,). X must be an array of the same kind as coef_."""
        check_is_fitted(self)
        if hasattr(array_api, "check_same_namespace"):  # from scikit-learn 1.9 on
            array_api.check_same_namespace(X, self, attribute="coef_", method=method)
        return get_namespace(X)[0], self.decision_function(X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def _row_weights(
        self, X: np.ndarray, y: np.ndarray, classes: np.ndarray, codes: np.ndarray, sample_weight: Any
    ) -> np.ndarray | None:
        """Sample weights times class weights, (n,); None if there are neither."""
        if sample_weight is None and self.class_weight is None:
            return None
        if sample_weight is not None and not isinstance(sample_weight, Number):
            sample_weight = move_to(sample_weight, xp=np, device="cpu")
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        _refuse_sum(weight)
        if self.class_weight is not None:
            of_class = self._class_weights(classes, y, weight)
            if not (np.isfinite(of_class) & (of_class >= 0)).all():
                raise ValueError(f"class_weight must be finite and not negative, not {self.class_weight}")
            weight = weight * of_class[codes]
            _refuse_sum(weight)
        weighty = np.unique(codes[weight > 0])
        if len(weighty) == 1:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but only one class has samples whose "
                f"weight is not zero: {classes[weighty[0]]!r}"
            )
        return weight

    def _class_weights(self, classes: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The weights of the two labels, (2,).

        Labels are compared as values, unlike in scikit-learn's function: the key "1" means the label 1.
        """
        if self.class_weight == "balanced":
            return compute_class_weight("balanced", classes=classes, y=y, sample_weight=weight)
        found, unknown = weights_by_label(list(classes), self.class_weight)
        if unknown and len(found) < len(classes):  # scikit-learn allows further keys if both labels are there
            unnamed = [label for place, label in enumerate(classes.tolist()) if place not in found]
            raise ValueError(f"The classes, {unnamed}, are not in class_weight")
        return np.array([found.get(place, 1.0) for place in range(len(classes))])

    def _start(self) -> np.ndarray | None:
        """Coefficients (d + 1,) of the last fit, the intercept last, for a warm start; None for a cold one."""
        if not (self.warm_start and hasattr(self, "coef_")):
            return None
        coefficients, intercept = move_to(self.densify().coef_, self.intercept_, xp=np, device="cpu")
        return np.append(coefficients[0], intercept if self.fit_intercept else 0.0).astype(np.float64)

    @property
    def _as_column(self) -> bool:
        """Whether the intercept is the penalised coefficient of one more column, as liblinear has it."""
        return self.fit_intercept and self.solver == "liblinear"

    def _objective(self, strength: float = 0.0, l1_ratio: float = 0.0) -> Objective:
        from lr_lightning.model.objective import Objective

        l1, l2 = strength * l1_ratio, strength * (1 - l1_ratio)
        return Objective(l1=l1, l2=l2, standardize=False, fit_intercept=self.fit_intercept and not self._as_column)

    def _rows(self, X: Any, codes: np.ndarray, weight: np.ndarray | None, intercept_scaling: float) -> Rows:
        """Features (n, d), and the intercept's column where it has one, targets 0 or 1 (n,), and weights (n,)."""
        # Importing torch takes a second, and a fitted estimator predicts without it.
        import torch

        from lr_lightning.model.csr import Csr
        from lr_lightning.model.rows import Rows

        if self._as_column:
            column = np.full((X.shape[0], 1), intercept_scaling, X.dtype)
            X = hstack([X, column], format="csr") if issparse(X) else np.column_stack([X, column])
        y = torch.from_numpy(codes.astype(X.dtype))
        v = None if weight is None else torch.from_numpy(weight)
        return Rows(Csr.of(X) if issparse(X) else torch.from_numpy(X), y, v)

    def _without_column(self, theta: np.ndarray, intercept_scaling: float) -> np.ndarray:
        """Coefficients (…, d + 1), the intercept last, of those of `_rows`."""
        if not self._as_column:
            return theta
        return np.concatenate([theta[..., :-2], theta[..., -2:-1] * intercept_scaling], -1)

    def _minimum(
        self,
        X: Any,
        codes: np.ndarray,
        weight: np.ndarray | None,
        strength: float,
        l1_ratio: float,
        intercept_scaling: float,
        start: np.ndarray | None,
    ) -> Solution:
        """The exact solver's solution for what `_rows` takes, from a start (d + 1,)."""
        import torch

        from lr_lightning.solver.fit import solve

        return solve(
            self._rows(X, codes, weight, intercept_scaling),
            self._objective(strength, l1_ratio),
            start=None if start is None or self._as_column else torch.from_numpy(start),
            tol=self.tol**2 if self.tol < FINEST_TOL else None,
            max_passes=self.max_iter,
        )

    def _reason(self, status: str) -> str:
        """Why the solver stopped, and what to do about it."""
        from lr_lightning.solver.newton import DIVERGING

        if not self.max_iter:
            return "max_iter=0 leaves the coefficients as they were"
        if status == DIVERGING:
            return f"{status}; a smaller C gives them an end"
        more = "Increase the number of iterations to improve the convergence."  # as scikit-learn says it
        return status or f"max_iter={self.max_iter} passes over the rows were not enough. {more}"


def strengths(C: Any, total: Any, name: str) -> np.ndarray:
    """Of the penalty, relative to the mean loss: λ = 1/(C·Σv), for inverse strengths C and sums of weights.

    Raises:
        ValueError: if one of them is infinite.
    """
    with np.errstate(over="ignore", divide="ignore"):
        found = np.float64(1) / (C * np.asarray(total, np.float64))
    if not np.isfinite(found).all():
        raise ValueError(f"{name} times the sum of the sample weights is too small a number for float64; raise {name}.")
    return found


def _refuse_sum(weight: np.ndarray) -> None:
    """Raise ValueError unless the weights (n,) have a positive, finite sum; C is relative to it."""
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < np.inf:
        raise ValueError(
            f"The weights of the samples sum to {total}, but must have a positive sum that float64 can hold; "
            "divide all of them by one number, and multiply C by it."
        )


def two_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two labels, sorted, and for each row the index of its label, 0 or 1, (n,)."""
    # Two whole numbers are two classes. Asking takes 0.2 ms, a twentieth of the fit of a small table.
    classes = np.unique(y) if y.dtype.kind in "biu" else y[:0]
    if len(classes) != 2:
        kind = type_of_target(y, input_name="y")
        if kind != "binary":
            check_classification_targets(y)
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}. "
                "OneVsRestClassifier makes a multiclass classifier of a binary one."
            )
        classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
            f"{classes[:1].tolist()[0]!r}"
        )
    return classes, (y == classes[1]).astype(np.intp)


def _penalty_in_use(
    *, penalty: str | None, C: float, l1_ratio: float | None, solver: str, dual: bool
) -> tuple[float, float]:
    """The inverse strength of the penalty, infinite for none, and the share of L1, from scikit-learn's parameters.

    Errors and deprecation warnings are those of scikit-learn 1.9, word for word.

    Raises:
        ValueError: if scikit-learn's solver of that name does not support the penalty.
    """
    if penalty == "deprecated":
        if l1_ratio is None:
            warn_caller(
                "'l1_ratio=None' was deprecated in version 1.8 and will trigger an error in 1.10. "
                "Use 0<=l1_ratio<=1 instead.",
                FutureWarning,
            )
        kind = None if math.isinf(C) else _KIND_OF_L1_RATIO.get(l1_ratio, "elasticnet")
    else:
        kind = penalty
        warn_caller(
            "'penalty' was deprecated in version 1.8 and will be removed in 1.10. To avoid this warning, leave "
            "'penalty' set to its default value and use 'l1_ratio' or 'C' instead. Use l1_ratio=0 instead of "
            "penalty='l2', l1_ratio=1 instead of penalty='l1', l1_ratio set to a float between 0 and 1 instead of "
            "penalty='elasticnet', and C=np.inf instead of penalty=None.",
            FutureWarning,
        )
    refuse_unsupported(solver, kind, dual)
    _warn_of_contradictions(penalty, kind, C, l1_ratio)
    if kind is None:
        return math.inf, 0.0
    if kind == "elasticnet":
        if l1_ratio is None:
            raise ValueError("l1_ratio must be specified when penalty is elasticnet.")
        return C, float(l1_ratio)
    return C, 1.0 if kind == "l1" else 0.0


def refuse_unsupported(solver: str, kind: str | None, dual: bool) -> None:
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
        warn_caller(f"l1_ratio parameter is only used when penalty is 'elasticnet'. Got (penalty={kind})", UserWarning)
    if (penalty == "l2" and l1_ratio != 0) or (penalty == "l1" and l1_ratio != 1):
        warn_caller(
            f"Inconsistent values: penalty={penalty} with l1_ratio={l1_ratio}. penalty is deprecated. "
            "Please use l1_ratio only.",
            UserWarning,
        )
    if penalty is None and C != 1.0:
        warn_caller("Setting penalty=None will ignore the C and l1_ratio parameters", UserWarning)


def warn_caller(message: str, category: type[Warning]) -> None:
    warnings.warn(message, category, stacklevel=_STACK_LEVEL)
