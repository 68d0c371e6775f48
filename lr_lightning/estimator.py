"""The scikit-learn face: `LogisticRegressionClassifier`, to be used wherever scikit-learn's own would be."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import expit, log_expit

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model._base import SparseCoefMixin
    from sklearn.utils import Tags, compute_class_weight
    from sklearn.utils._param_validation import Hidden, Interval, StrOptions
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "LogisticRegressionClassifier needs scikit-learn 1.8 or later: pip install 'lr-lightning[sklearn]'"
    ) from error

from lr_lightning.estimator_penalty import penalty_in_use

__all__ = ["LogisticRegressionClassifier"]

FINEST_TOL = 1e-7  # every fit is at least as exact


class LogisticRegressionClassifier(ClassifierMixin, SparseCoefMixin, BaseEstimator):
    r"""Binary logistic regression by the exact solver, as a scikit-learn classifier.

    Takes the place of `sklearn.linear_model.LogisticRegression` for dense features and two classes: the same
    parameters, the same objective

    .. math:: C \sum_i v_i\,\mathrm{BCE}(y_i, \sigma(b + x_i^\top w))
              + \texttt{l1\_ratio}\,\|w\|_1 + \tfrac12 (1 - \texttt{l1\_ratio})\,\|w\|_2^2

    with v the sample weight times the class weight, and the same attributes. Every fit goes to the optimum, on
    the CPU, at the precision of the features (float32 or float64), and a `ConvergenceWarning` says so where there
    is none, as for separated classes without a penalty.

    Args:
        penalty: deprecated, as in scikit-learn 1.8: l1, l2, elasticnet or None; use `C` and `l1_ratio`.
        C: inverse of the strength of the penalty, positive; `np.inf` is no penalty.
        l1_ratio: share of L1 in the penalty, from 0 to 1.
        dual: whether liblinear is to solve the dual problem. It has the same optimum; only the words in which
            scikit-learn refuses it elsewhere are kept.
        tol: how exact the optimum is to be. Every fit goes on until half the squared Newton decrement is below 1e-14
            of the objective (1e-10 for many rows of float32), which is far beyond the usual 1e-4; below 1e-7 the
            fit goes on until it is tol² of the objective, or rounding ends it.
        fit_intercept: whether the model has an intercept.
        intercept_scaling: with `solver="liblinear"`, value of the column whose penalised coefficient, times this
            value, is the intercept.
        class_weight: None, "balanced" (n / (2·n of the class)) or a weight for each label.
        random_state: without effect; two fits to the same rows are the same.
        solver: what scikit-learn would solve it with. All names lead to the same exact solver and keep what they
            mean for the result: which penalties they can have, and that liblinear penalises the intercept.
        max_iter: at most so many passes over all rows; one is enough for a small table.
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
            X: features, (n, d): an array or a table of pandas or polars; all but float32 is read as float64.
            y: labels, (n,), of two kinds.
            sample_weight: (n,), non-negative, or None for ones.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if the parameters contradict one another, or the rows cannot be used.
        """
        C, l1_ratio = penalty_in_use(
            penalty=self.penalty, C=self.C, l1_ratio=self.l1_ratio, solver=self.solver, dual=self.dual
        )
        if self.n_jobs is not None:
            warnings.warn(
                "'n_jobs' has no effect since 1.8 and will be removed in 1.10. "
                f"You provided 'n_jobs={self.n_jobs}', please leave it unspecified.",
                FutureWarning,
                stacklevel=3,
            )
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C")
        self.classes_, codes = _two_classes(y)
        weight = self._row_weights(X, y, codes, sample_weight)
        strength = 1 / (C * (len(X) if weight is None else weight.sum()))
        # Torch and Lightning take seconds to import, and a fitted estimator predicts without them.
        from lr_lightning.silent_fit import fit_silently

        # What liblinear minimises: the intercept is the coefficient of one more column.
        as_column = self.fit_intercept and self.solver == "liblinear"
        found = fit_silently(
            np.column_stack([X, np.full(len(X), self.intercept_scaling, X.dtype)]) if as_column else X,
            codes,
            weight,
            l1=strength * l1_ratio,
            l2=strength * (1 - l1_ratio),
            fit_intercept=self.fit_intercept and not as_column,
            start=None if as_column else self._start(),
            tol=self.tol**2 if self.tol < FINEST_TOL else None,
            max_passes=self.max_iter,
        )
        coefficients, intercept = found.weight, found.intercept
        if as_column:
            coefficients, intercept = coefficients[:-1], coefficients[-1] * self.intercept_scaling
        self.coef_ = coefficients[None].astype(X.dtype)
        self.intercept_ = np.array([intercept], X.dtype)
        self.n_iter_ = np.array([found.passes], np.int32)
        outcome = "converged" if found.converged else f"failed to converge: {found.status}"
        if self.verbose:
            print(f"{type(self).__name__} {outcome} (passes over the rows: {found.passes})")
        if not found.converged:
            warnings.warn(f"{type(self).__name__} {outcome}", ConvergenceWarning, stacklevel=3)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The log-odds of the second label, (n,), of features X, (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True)[:, 0] + self.intercept_

    def predict(self, X: Any) -> np.ndarray:
        """The more probable label, (n,), of features X, (n, d)."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(np.intp)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the two labels, (n, 2), in the order of `classes_`; each exact in all its digits."""
        logits = self.decision_function(X)
        return np.stack([expit(-logits), expit(logits)], axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities, (n, 2), finite where a probability is too small for a number."""
        logits = self.decision_function(X)
        return np.stack([log_expit(-logits), log_expit(logits)], axis=1)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _row_weights(self, X: np.ndarray, y: np.ndarray, codes: np.ndarray, sample_weight: Any) -> np.ndarray | None:
        """Sample weights times class weights, (n,); None where every row weighs one."""
        if sample_weight is None and self.class_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is None:
            return weight
        return weight * compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weight)[codes]

    def _start(self) -> tuple[np.ndarray, float] | None:
        """Coefficients (d,) and intercept of the last fit, where the next one is to begin there."""
        if not (self.warm_start and hasattr(self, "coef_")):
            return None
        return self.densify().coef_[0], float(self.intercept_[0]) if self.fit_intercept else 0.0


def _two_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two labels, sorted, and which of them each row has, 0 or 1, (n,)."""
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind != "binary":
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}. "
            "OneVsRestClassifier makes a multiclass classifier of a binary one."
        )
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
            f"{classes[0]!r}"
        )
    return classes, codes
