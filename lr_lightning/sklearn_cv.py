"""The scikit-learn estimator `LogisticRegressionClassifierCV`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Number
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lr_lightning.sklearn import (
    FINEST_TOL,
    LogisticRegressionClassifier,
    refuse_unsupported,
    strengths,
    two_classes,
    warn_caller,
)

# The line above says what to install where scikit-learn is missing.
from sklearn.base import _fit_context  # isort: skip
from sklearn.exceptions import ConvergenceWarning  # isort: skip
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer  # isort: skip
from sklearn.model_selection import check_cv  # isort: skip
from sklearn.utils import Tags, metadata_routing  # isort: skip
from sklearn.utils._param_validation import Hidden, Interval, StrOptions  # isort: skip
from sklearn.utils.metadata_routing import (  # isort: skip
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import (  # isort: skip
    _check_method_params,
    _check_sample_weight,
    _deprecate_positional_args,
    validate_data,
)

if TYPE_CHECKING:
    from lr_lightning.model.rows import Rows

__all__ = ["LogisticRegressionClassifierCV"]

_TOGETHER = 30  # sweeps over the rows, after which a fit goes on by itself
_CERTAIN = 36.7  # the least logit whose probability is 1 in float64
_Folds = Sequence[tuple[np.ndarray, np.ndarray]]  # numbers of the rows that are fitted, and of those that are scored


class _Grid(NamedTuple):
    """The penalties that are tried.

    Attributes:
        kind: l1, l2 or elasticnet.
        Cs: inverse strengths, (p,).
        shares: of L1 in the penalty, (r,).
        named: the l1_ratios as they were given; None where they were not.
    """

    kind: str
    Cs: np.ndarray
    shares: np.ndarray
    named: list[Any] | None


class _Fits(NamedTuple):
    """Fits of the training rows of K folds.

    Attributes:
        theta: coefficients (K, r, p, d + 1), the intercept last.
        n_iter: sweeps over the rows, (K, r, p), int32.
        converged: whether they are the optimum, (K, r, p).
    """

    theta: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray

    @classmethod
    def of_intercept(cls, intercept: float, shape: tuple[int, int, int, int], *, converged: bool) -> _Fits:
        """Fits (K, r, p, d + 1) with coefficients of 0."""
        theta = np.zeros(shape)
        theta[..., -1] = intercept
        return cls(theta, np.zeros(shape[:3], np.int32), np.full(shape[:3], converged))


class LogisticRegressionClassifierCV(LogisticRegressionClassifier):
    """Binary logistic regression whose penalty is chosen by cross-validation, as a scikit-learn classifier.

    It replaces `sklearn.linear_model.LogisticRegressionCV` for two classes: its parameters, attributes, scores and
    objective are the same, that of `LogisticRegressionClassifier`. C is held across the folds. Where each row is left
    out once, as by default, and there are at most 2 048 columns, or rows without L1, all folds are fitted together in
    shared sweeps over the rows.

    Args:
        Cs: inverse strengths of the penalty, positive, or how many of them from 1e-4 to 1e4.
        l1_ratios: shares of L1 in the penalty to choose among, from 0 to 1.
        fit_intercept: whether the model has an intercept.
        cv: number of folds, a splitter, or an iterable of training and test indices; None for 5 stratified folds.
        dual: without effect on the result. It is refused where scikit-learn refuses it.
        penalty: deprecated, as in scikit-learn 1.8: l1, l2 or elasticnet; use `l1_ratios`.
        scoring: a scorer or its name; None is accuracy.
        solver: scikit-learn's name of a solver. The name decides only which penalties are allowed, and whether the
            intercept is penalised (liblinear).
        tol: with L2 alone, a fit of a fold ends when its mean loss is expected to be within tol² of the least, but at
            most within 1e-10, and 1e-16 where rows are few. With L1 it has no effect on the folds, whose optimality
            conditions hold to 1e-10 of the penalty or of the largest gradient. Of the last fit it is as in
            `LogisticRegressionClassifier`.
        max_iter: largest number of passes over the rows in each fit.
        class_weight: None, "balanced" by all rows, or a weight for each label.
        n_jobs: number of threads that share a pass; None takes torch's number, -1 all processors.
        verbose: 1 prints one line at the end.
        refit: whether the last fit is of all rows with the best C and l1_ratio; else the best coefficients of the folds
            are averaged.
        intercept_scaling: with `solver="liblinear"`, as in `LogisticRegressionClassifier`; as in scikit-learn the last
            fit takes 1.
        random_state: without effect.
        use_legacy_attributes: whether attributes have the forms that they had before scikit-learn 1.8, as said below
            in brackets.

    Attributes:
        classes_: the two labels, sorted; the second is the positive one.
        coef_: coefficients of the features, (1, d), float64.
        intercept_: (1,); 0 without an intercept.
        Cs_: (p,).
        l1_ratios_: (r,).
        C_: the best one, a number [(1,)].
        l1_ratio_: likewise.
        coefs_paths_: coefficients of the folds, the intercept last, (K, r, p, 1, d + 1)
            [a dict of the positive label, (K, p, r, d + 1)].
        scores_: (K, r, p) [a dict of the positive label, (K, p, r)].
        n_iter_: passes over the rows, (K, r, p) [(1, K, p, r)], int32.
        n_features_in_: number of features, d.
        feature_names_in_: their names, (d,), where the features were a table whose column names are text.

    Examples:
        >>> from sklearn.datasets import load_breast_cancer
        >>> from lr_lightning import LogisticRegressionClassifierCV
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> options = {"l1_ratios": (0,), "scoring": "neg_log_loss", "use_legacy_attributes": False}
        >>> classifier = LogisticRegressionClassifierCV(Cs=5, **options).fit(X, y)
        >>> classifier.C_, classifier.scores_.shape
        (100.0, (5, 1, 5))
    """

    # scikit-learn's own, until `sample_weight` leaves the signature of `score`.
    __metadata_request__score = {"sample_weight": metadata_routing.UNUSED}  # noqa: RUF012

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012 - scikit-learn's name and form
        **{
            name: constraint
            for name, constraint in LogisticRegressionClassifier._parameter_constraints.items()
            if name not in ("C", "l1_ratio", "warm_start")
        },
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "l1_ratios": ["array-like", None, Hidden(StrOptions({"warn"}))],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None, Hidden(StrOptions({"warn"}))],
        "refit": ["boolean"],
        "penalty": [StrOptions({"l1", "l2", "elasticnet"}), Hidden(StrOptions({"deprecated"}))],
        "use_legacy_attributes": ["boolean", Hidden(StrOptions({"warn"}))],
    }

    def __init__(
        self,
        *,
        Cs: Any = 10,
        l1_ratios: Any = "warn",
        fit_intercept: bool = True,
        cv: Any = None,
        dual: bool = False,
        penalty: str = "deprecated",
        scoring: Any = "warn",
        solver: str = "lbfgs",
        tol: float = 1e-4,
        max_iter: int = 100,
        class_weight: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        refit: bool = True,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        use_legacy_attributes: bool | str = "warn",
    ):
        self.Cs = Cs
        self.l1_ratios = l1_ratios
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.dual = dual
        self.penalty = penalty
        self.scoring = scoring
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.refit = refit
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.use_legacy_attributes = use_legacy_attributes

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> LogisticRegressionClassifierCV:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Choose C and l1_ratio by cross-validation, and fit all rows with them.

        Args:
            X: features, (n, d): an array, a table of pandas or polars, or a sparse matrix or array of SciPy, which is
                never filled; as float64.
            y: labels, (n,), with two distinct values.
            sample_weight: (n,), non-negative, or a number for all rows, or None for ones; in fitting and, where the
                scorer takes them, in scoring.
            params: for the splitter and the scorer, with scikit-learn's metadata routing.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a parameter or a combination of parameters is not allowed, X or y is not finite or has the
                wrong shape, y has not exactly two classes, or the weights are negative or sum to 0.
        """
        _raise_for_params(params, self, "fit")
        grid = self._grid()
        scoring, legacy = self._scoring_in_use(), self._legacy_in_use()
        refuse_unsupported(self.solver, grid.kind, self.dual)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, order="C")
        classes, codes = two_classes(y)
        if isinstance(self.class_weight, dict) and not set(self.class_weight) <= set(classes.tolist()):
            raise ValueError(
                "The given class_weight dict must have the class labels as keys; "
                f"classes={classes} but key={self.class_weight.keys()}"
            )
        weight = self._row_weights(X, y, classes, codes, sample_weight)
        if _routing_enabled():
            routed = process_routing(self, "fit", sample_weight=sample_weight, **params)
            split, score = routed.splitter.split, routed.scorer.score
        else:
            split, score = {}, {} if sample_weight is None else {"sample_weight": sample_weight}
        every = np.arange(len(codes))
        splitter: Any = check_cv(self.cv, y, classifier=True)
        folds = [(every[train], every[test]) for train, test in splitter.split(X, y, **split)]
        if not folds:
            raise ValueError("cv has no folds; expected at least one pair of training and test indices.")

        found, of_all = self._fit_folds(X, codes, weight, folds, grid)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        scores = self._scores(scoring, score, X, y, sample_weight, classes, folds, found.theta, grid.Cs)

        self.classes_ = classes
        self.Cs_ = grid.Cs
        named = [None] if grid.named is None else grid.named
        self.l1_ratios_ = np.asarray(named)
        if self.refit:
            by_C = scores.sum(0).T  # the first of equal scores is that of scikit-learn, which goes through C first
            at, ratio = np.unravel_index(np.argmax(by_C), by_C.shape)
            if of_all is not None and of_all.converged[0, ratio, at] and self.tol >= FINEST_TOL and not self._as_column:
                theta = of_all.theta[0, ratio, at]
            else:
                start = found.theta[:, ratio, at].mean(0)
                theta = self._fit_all(X, codes, weight, grid.Cs[at], grid.shares[ratio], start)
            C, l1_ratio = grid.Cs[at], named[ratio]
        else:
            by_fold = scores.swapaxes(1, 2).reshape(len(folds), -1)
            at, ratio = np.unravel_index(by_fold.argmax(1), (len(grid.Cs), len(grid.shares)))
            theta = found.theta[np.arange(len(folds)), ratio, at].mean(0)
            C, l1_ratio = grid.Cs[at].mean(), grid.shares[ratio].mean() if grid.kind == "elasticnet" else 0.0
        self.coef_, self.intercept_ = theta[None, :-1], theta[-1:]
        self._keep(found, scores, C, l1_ratio, grid, legacy)
        if self.verbose:
            print(f"{type(self).__name__} fitted {scores.size} models (C={C:g})")
        if not found.converged.all():
            warnings.warn(
                f"{type(self).__name__} failed to converge: {int((~found.converged).sum())} of {scores.size} fits of "
                "the folds. Increase the number of iterations to improve the convergence.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    @_deprecate_positional_args(version="1.11")
    def score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any, *, sample_weight: Any = None, **score_params: Any
    ) -> float:
        """The score of the predictions by `scoring`.

        Args:
            X: features, (n, d).
            y: labels, (n,).
            sample_weight: (n,), or None for ones.
            score_params: for the scorer, with scikit-learn's metadata routing.
        """
        _raise_for_params(score_params, self, "score")
        if sample_weight is not None:
            score_params["sample_weight"] = sample_weight
        if _routing_enabled():
            score_params = process_routing(self, "score", **score_params).scorer.score
        return self._get_scorer()(self, X, y, **score_params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Metadata routing of the splitter and the scorer; see scikit-learn's user guide."""
        fit_and_score = MethodMapping().add(caller="score", callee="score").add(caller="fit", callee="score")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
            .add(scorer=self._get_scorer(), method_mapping=fit_and_score)
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = False
        return tags

    # ---- what the parameters mean; warnings and errors are those of scikit-learn 1.9, word for word

    def _grid(self) -> _Grid:
        named: Any = self.l1_ratios
        if isinstance(named, str):
            warn_caller(
                "The default value for l1_ratios will change from None to (0.0,) in version 1.10. From version 1.10 "
                "onwards, only array-like with values in [0, 1] will be allowed, None will be forbidden. To avoid this "
                "warning, explicitly set a value, e.g. l1_ratios=(0,).",
                FutureWarning,
            )
            named = None
        kind: str = self.penalty
        if kind == "deprecated":
            if self.l1_ratios is None:
                warn_caller(
                    "'l1_ratios=None' was deprecated in version 1.8 and will trigger an error in 1.10. Use an "
                    "array-like with valuesin [0, 1] instead.",
                    FutureWarning,
                )
            ratios = np.asarray([0] if named is None else named)
            kind = "l2" if np.all(ratios == 0) else "l1" if np.all(ratios == 1) else "elasticnet"
        else:
            warn_caller(
                "'penalty' was deprecated in version 1.8 and will be removed in 1.10. To avoid this warning, leave "
                "'penalty' set to its default value and use 'l1_ratios' and 'Cs' instead. Use l1_ratios=(0,) instead "
                "of penalty='l2', l1_ratios=(1,) instead of penalty='l1', l1_ratios set to floats between 0 and 1 "
                "instead of penalty='elasticnet', and Cs=(np.inf,) instead of penalty=None.",
                FutureWarning,
            )
            if named is not None and kind != "elasticnet":
                warn_caller(
                    f"l1_ratios parameter is only used when penalty is 'elasticnet'. Got (penalty={kind})", UserWarning
                )
        listed = None if named is None else list(named)
        if (kind == "elasticnet" and not listed) or (
            listed is not None and not (listed and all(isinstance(r, Number) and 0 <= r <= 1 for r in listed))  # pyright: ignore[reportOperatorIssue]
        ):
            raise ValueError(f"l1_ratios must be an array-like of numbers between 0 and 1; got (l1_ratios={named!r})")
        if kind == "elasticnet":
            shares = np.array(listed, np.float64)
        else:
            shares = np.full(1 if listed is None else len(listed), float(kind == "l1"))
        return _Grid(kind, self._inverse_strengths(), shares, listed)

    def _inverse_strengths(self) -> np.ndarray:
        if isinstance(self.Cs, Integral):
            return np.logspace(-4, 4, int(self.Cs))
        Cs = np.asarray(self.Cs)
        if Cs.ndim != 1 or not len(Cs) or Cs.dtype.kind not in "iuf" or not (Cs > 0).all():
            raise ValueError(f"Cs must be an integer or a list of positive numbers; got (Cs={self.Cs!r})")
        return Cs

    def _scoring_in_use(self) -> Any:
        if not (isinstance(self.scoring, str) and self.scoring == "warn"):
            return self.scoring
        warn_caller(
            "The default value of the parameter 'scoring' will change from None, i.e. accuracy, to 'neg_log_loss' in "
            "version 1.11. To silence this warning, explicitly set the scoring parameter: scoring='neg_log_loss' for "
            "the new, scoring='accuracy' or scoring=None for the old default.",
            FutureWarning,
        )
        return None

    def _legacy_in_use(self) -> bool:
        if self.use_legacy_attributes != "warn":
            return bool(self.use_legacy_attributes)
        warn_caller(
            f"The fitted attributes of {type(self).__name__} will be simplified in scikit-learn 1.10 to remove "
            "redundancy. Set`use_legacy_attributes=False` to enable the new behavior now, or set it to `True` to "
            "silence this warning during the transition period while keeping the deprecated behavior for the time "
            "being. The default value of use_legacy_attributes will change from True to False in scikit-learn 1.10. "
            f"See the docstring of {type(self).__name__} for more details.",
            FutureWarning,
        )
        return True

    def _get_scorer(self) -> Callable[..., Any]:
        named = isinstance(self.scoring, str) and self.scoring == "warn"
        return get_scorer("accuracy" if named or self.scoring is None else self.scoring)

    # ---- fits and scores

    def _fit_folds(
        self, X: Any, codes: np.ndarray, weight: np.ndarray | None, folds: _Folds, grid: _Grid
    ) -> tuple[_Fits, _Fits | None]:
        """The fits of the training rows of each fold, and those of all rows where they come along, as of one fold."""
        # Importing torch takes a second, and a fitted estimator predicts without it.
        import torch

        from lr_lightning.solver.fold_paths import have_few_coordinates

        rows = self._rows(X, codes, weight, self.intercept_scaling)
        v = np.ones(len(codes)) if weight is None else weight
        totals = [float(v[train].sum()) for train, _ in folds]
        only = [_only_class(codes[train], v[train]) if self._objective().fit_intercept else None for train, _ in folds]
        number, of_all = _fold_numbers(folds, len(codes)), None
        (_, d), (r, p) = rows.design.shape, (len(grid.shares), len(grid.Cs))
        few = have_few_coordinates(rows, grid.shares.tolist(), penalised=bool(np.isfinite(grid.Cs).all()))
        if not (few and self.max_iter) and only.count(None) == len(folds):
            found = _Fits.of_intercept(0.0, (len(folds), r, p, d + 1), converged=False)
        elif number is not None and only.count(None) == len(folds):
            fits = self._fold_paths(rows, torch.from_numpy(number), [float(v.sum()), *totals], grid)
            of_all, found = (_Fits(*(part[which] for part in fits)) for which in (slice(1), slice(1, None)))
        else:
            _warn_of_one_class(only)
            parts = [
                self._fold_paths(rows.take(torch.from_numpy(train)), None, [total], grid)
                if one is None
                else _Fits.of_intercept(_CERTAIN if one else -_CERTAIN, (1, r, p, d + 1), converged=True)
                for (train, _), total, one in zip(folds, totals, only, strict=True)
            ]
            found = _Fits(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        found = found._replace(theta=self._without_column(found.theta, self.intercept_scaling))
        if not few or self.max_iter > _TOGETHER:
            for fold, ratio, at in np.argwhere(~found.converged):
                # Such a fit has large coefficients, as of separated rows, or so many that no Hessian is kept.
                train, start = folds[fold][0], found.theta[fold, ratio, at]
                w = None if weight is None else weight[train]
                strength, share = float(strengths(grid.Cs[at], totals[fold], "Cs")), float(grid.shares[ratio])
                own = self._minimum(X[train], codes[train], w, strength, share, self.intercept_scaling, start)
                theta = self._without_column(own.theta.numpy(), self.intercept_scaling)
                found.theta[fold, ratio, at], found.converged[fold, ratio, at] = theta, own.converged
                found.n_iter[fold, ratio, at] += own.passes
        return found, of_all

    def _fold_paths(self, rows: Rows, number: Any, totals: list[float], grid: _Grid) -> _Fits:
        """Fits of all rows, and of all rows but each fold, where there are numbers of the folds, (n,)."""
        import joblib
        import torch

        from lr_lightning.solver.fold_paths import fold_paths

        order = np.argsort(grid.Cs, kind="stable")
        found = fold_paths(
            rows,
            number,
            self._objective(),
            l1_ratios=grid.shares.tolist(),
            strengths=torch.from_numpy(strengths(grid.Cs[order, None], totals, "Cs")),
            tolerance=self.tol**2,
            max_rounds=min(self.max_iter, _TOGETHER),
            threads=None if self.n_jobs is None else joblib.effective_n_jobs(self.n_jobs),
        )
        back = np.argsort(order, kind="stable")
        theta, rounds, converged = (
            t[:, back].movedim(2, 0).numpy() for t in (found.theta, found.rounds, found.converged)
        )
        return _Fits(theta, rounds.astype(np.int32), converged)

    def _scores(
        self,
        scoring: Any,
        params: dict[str, Any],
        X: Any,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        classes: np.ndarray,
        folds: _Folds,
        theta: np.ndarray,
        Cs: np.ndarray,
    ) -> np.ndarray:
        """Scores on the rows that each fit leaves out, (K, r, p)."""
        scores = np.empty(theta.shape[:3])
        if scoring is None:
            positive = y == classes[1]
            for of_fold, coefficients, (_, test) in zip(scores, theta, folds, strict=True):
                flat = coefficients.reshape(-1, theta.shape[-1])
                correct = ((X[test] @ flat[:, :-1].T + flat[:, -1]) > 0) == positive[test, None]
                w = None if sample_weight is None else sample_weight[test]
                correct = np.ascontiguousarray(correct.T)  # sums of neighbours take less time
                of_fold[:] = np.average(correct, axis=1, weights=w).reshape(of_fold.shape)
            return scores
        scorer = _with_labels(get_scorer(scoring), classes)
        model = LogisticRegressionClassifier(solver=self.solver)
        model.classes_ = classes
        for of_fold, of_ratios, (_, test) in zip(scores, theta, folds, strict=True):
            rows, labels = X[test], y[test]
            of_rows = _check_method_params(X=X, params=params, indices=test)
            for of_ratio, coefficients in zip(of_fold, of_ratios, strict=True):
                for k, C in enumerate(Cs):
                    model.C, model.coef_, model.intercept_ = C, coefficients[k : k + 1, :-1], coefficients[k, -1:]
                    of_ratio[k] = scorer(model, rows, labels, **of_rows)
        return scores

    def _fit_all(
        self, X: Any, codes: np.ndarray, weight: np.ndarray | None, C: float, l1_ratio: float, start: np.ndarray
    ) -> np.ndarray:
        """Coefficients (d + 1,) of all rows."""
        strength = float(strengths(C, len(codes) if weight is None else weight.sum(), "Cs"))
        found = self._minimum(X, codes, weight, strength, l1_ratio, 1.0, start)
        if not found.converged:
            warnings.warn(
                f"{type(self).__name__} failed to converge: {self._reason(found.status)}",
                ConvergenceWarning,
                stacklevel=4,
            )
        return self._without_column(found.theta.numpy(), 1.0)

    def _keep(self, found: _Fits, scores: np.ndarray, C: Any, l1_ratio: Any, grid: _Grid, legacy: bool) -> None:
        """Set the attributes, in the form of scikit-learn's version."""
        paths = found.theta if self.fit_intercept else found.theta[..., :-1]
        if not legacy:
            self.coefs_paths_, self.scores_, self.n_iter_ = paths[:, :, :, None], scores, found.n_iter
            self.C_ = float(C)
            self.l1_ratio_ = float(self.penalty == "l1") if grid.named is None else float(l1_ratio)
            return
        paths, scores, n_iter = (part.swapaxes(1, 2) for part in (paths, scores, found.n_iter))
        if grid.named is None:
            paths, scores, n_iter = (part[:, :, 0] for part in (paths, scores, n_iter))
        label = self.classes_[1]
        self.coefs_paths_, self.scores_, self.n_iter_ = {label: paths}, {label: scores}, n_iter[None]
        self.C_, self.l1_ratio_ = np.asarray([C]), np.asarray([l1_ratio])


def _fold_numbers(folds: _Folds, n: int) -> np.ndarray | None:
    """The number of the fold that leaves each row out, (n,), where each row is left out once and fitted else."""
    number = np.full(n, -1)
    for fold, (train, test) in enumerate(folds):
        out = np.ones(n, bool)
        out[train] = False
        if len(train) + len(test) != n or not out[test].all() or (number[test] >= 0).any():
            return None
        number[test] = fold
    return number if len(folds) > 1 and (number >= 0).all() else None


def _only_class(codes: np.ndarray, weight: np.ndarray) -> int | None:
    """The class, 0 or 1, of all rows of positive weight; None where there are both.

    Raises:
        ValueError: if there are no such rows.
    """
    positive = codes[weight > 0]
    if not len(positive):
        raise ValueError("The training rows of a fold have no weight; take other folds.")
    return int(positive[0]) if (positive == positive[0]).all() else None


def _warn_of_one_class(only: list[int | None]) -> None:
    if alone := len(only) - only.count(None):
        warnings.warn(
            f"The training rows of {alone} of {len(only)} folds hold one class only; "
            "its probability is taken to be 1 there.",
            UserWarning,
            stacklevel=5,
        )


def _with_labels(scorer: Any, classes: np.ndarray) -> Any:
    """The scorer, which is told both labels where it takes them: the rows of a fold may lack one."""
    function = getattr(scorer, "_score_func", None)
    parameters = inspect.signature(function).parameters if function is not None else {}
    if "labels" not in parameters:
        return scorer
    pos_label = {"pos_label": classes[-1]} if "pos_label" in parameters else {}
    return make_scorer(
        function,
        greater_is_better=scorer._sign == 1,
        response_method=scorer._response_method,
        labels=classes,
        **pos_label,
        **getattr(scorer, "_kwargs", {}),
    )
