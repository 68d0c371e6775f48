"""The estimator that chooses its penalty: scikit-learn's own checks and tests, and its LogisticRegressionCV."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.9")  # whose words the tests compare with

import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.linear_model.tests import test_logistic as of_scikit_learn
from sklearn.model_selection import (
    KFold,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
)

from lr_lightning import LogisticRegressionClassifier, LogisticRegressionClassifierCV
from tests.conftest import python

CSR = scipy.sparse.csr_array
NEW: dict[str, Any] = {"use_legacy_attributes": False, "l1_ratios": (0,)}
EXACT: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-12}  # of scikit-learn's the one that gets there


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """150 noisy rows of 4 features on unlike scales, the labels -1 and 4, and weights."""
    X, y = make_classification(150, 4, n_informative=3, n_redundant=0, flip_y=0.2, random_state=0)
    weight = np.random.default_rng(0).uniform(0.2, 3, len(X))
    return X * [1, 10, 0.1, 1] + [0, 5, 0, -2], np.where(y == 1, 4, -1), weight


def same(ours: Any, reference: Any, *, rtol: float = 1e-7) -> None:
    """Whether the attributes are those of scikit-learn."""
    assert_array_equal(ours.classes_, reference.classes_)
    assert_array_equal(ours.Cs_, reference.Cs_)
    assert_array_equal(ours.l1_ratios_, reference.l1_ratios_)
    for name in ("coefs_paths_", "scores_", "C_", "l1_ratio_", "coef_", "intercept_"):
        found, expected = getattr(ours, name), getattr(reference, name)
        assert type(found) is type(expected), name
        if isinstance(expected, dict):
            assert list(found) == list(expected)
            found, expected = (next(iter(part.values())) for part in (found, expected))
        if name == "l1_ratio_" and np.asarray(expected).dtype == object:
            assert list(found) == list(expected) == [None]
            continue
        assert np.shape(found) == np.shape(expected), name
        assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)
    assert ours.n_iter_.shape == reference.n_iter_.shape
    assert ours.n_iter_.min() > 0


# ---- scikit-learn's checks and tests


def test_every_common_check_passes(tmp_path):
    # SCIPY_ARRAY_API, without which one of them is skipped, counts before scipy is imported.
    script = """
from sklearn.utils.estimator_checks import check_estimator
from lr_lightning import LogisticRegressionClassifierCV
options = {"use_legacy_attributes": False, "l1_ratios": (0,), "scoring": "neg_log_loss"}
estimator = LogisticRegressionClassifierCV(Cs=2, cv=3, **options)
for check in check_estimator(estimator, on_fail=None, on_skip=None):
    print(check["status"], check["check_name"], repr(check["exception"]))
"""
    done = python("-c", script, cwd=tmp_path, SCIPY_ARRAY_API="1")
    assert done.returncode == 0, done.stderr
    checks = done.stdout.splitlines()
    assert [line for line in checks if not line.startswith("passed ")] == []
    assert len(checks) >= 55


BINARY: list[tuple[str, dict[str, Any]]] = [
    *(("test_logistic_cv", {"global_random_seed": 0, "use_legacy_attributes": legacy}) for legacy in (True, False)),
    ("test_logistic_cv_refit_false_non_elasticnet", {"global_random_seed": 0}),
    ("test_logistic_cv_mock_scorer", {}),
    *(
        ("test_logistic_cv_folds_with_classes_missing", {"enable_metadata_routing": routing, "n_classes": 2})
        for routing in (False, True)
    ),
    *(
        (
            "test_logistic_cv_sparse",
            {"global_random_seed": 0, "solver": solver, "csr_container": scipy.sparse.csr_array},
        )
        for solver in ("lbfgs", "liblinear", "saga")
    ),
    *(
        ("test_logistic_regression_sample_weights", {"problem": "cv", "solver": solver, "global_random_seed": 0})
        for solver in ("lbfgs", "liblinear", "saga")
    ),
    *(
        (
            "test_logistic_regressioncv_class_weights",
            {"weight": {0: 0.1, 1: 0.2}, "class_weight": weight, "global_random_seed": 0},
        )
        for weight in ("weight", "balanced")
    ),
    *(("test_logistic_regression_cv_refit", {"global_random_seed": 0, "l1_ratio": ratio}) for ratio in (0, 1)),
    ("test_n_iter", {"solver": "liblinear", "use_legacy_attributes": False}),
    ("test_n_iter", {"solver": "liblinear", "use_legacy_attributes": True}),
    ("test_LogisticRegressionCV_GridSearchCV_elastic_net", {"n_classes": 2}),
    ("test_LogisticRegressionCV_no_refit", {"l1_ratios": (0,), "n_classes": 2}),
    ("test_LogisticRegressionCV_elasticnet_attribute_shapes", {"n_classes": 2}),
    ("test_scores_attribute_layout_elasticnet", {}),
    ("test_lr_cv_scores_differ_when_sample_weight_is_requested", {"global_random_seed": 0}),
    ("test_lr_cv_scores_without_enabling_metadata_routing", {}),
    ("test_passing_params_without_enabling_metadata_routing", {}),
    ("test_l1_ratio_None_deprecated", {}),
    ("test_l1_ratio_non_elasticnet", {}),
    ("test_elasticnet_l1_ratio_err_helpful", {"arg": "l1_ratios"}),
    ("test_lr_scoring_warns", {}),
    ("test_get_default_scorer", {}),
]


@pytest.mark.parametrize(("name", "arguments"), BINARY, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
def test_scikit_learns_own_tests_pass(monkeypatch, name, arguments):
    # Messages name the class.
    ours = type("LogisticRegressionCV", (LogisticRegressionClassifierCV,), {})
    monkeypatch.setattr(of_scikit_learn, "LogisticRegressionCV", ours)
    if name == "test_logistic_cv":  # which compares the two classes with each other
        monkeypatch.setattr(of_scikit_learn, "LogisticRegression", LogisticRegressionClassifier)
    if "arg" in arguments:
        arguments = {**arguments, "LR": ours}
    if name == "test_lr_cv_scores_differ_when_sample_weight_is_requested":
        with config_context(enable_metadata_routing=True):
            inspect.unwrap(getattr(of_scikit_learn, name))(**arguments)
        return
    getattr(of_scikit_learn, name)(**arguments)


# ---- its LogisticRegressionCV


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"Cs": [10.0, 0.01, 1.0], "fit_intercept": False, "class_weight": "balanced", "scoring": "roc_auc"},
        {"cv": 3, "class_weight": {-1: 2.0, 4: 0.5}, "scoring": "neg_brier_score", "refit": False},
        {"cv": KFold(4), "scoring": "neg_log_loss", "l1_ratios": (0, 0)},
        {"cv": RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0), "scoring": "balanced_accuracy"},
        {"cv": TimeSeriesSplit(3), "scoring": "neg_log_loss"},
        {"cv": PredefinedSplit(np.arange(150) % 4 - 1), "scoring": "accuracy"},
        {"Cs": [0.1, np.inf], "scoring": "neg_log_loss"},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_scikit_learns(rows, options, legacy, weighted):
    X, y, weight = rows
    options = {"Cs": 4, "l1_ratios": (0,), "scoring": None, "use_legacy_attributes": legacy, **options}
    weight = weight if weighted else None
    expected = LogisticRegressionCV(**options, **EXACT).fit(X, y, sample_weight=weight)
    found = LogisticRegressionClassifierCV(**options).fit(X, y, sample_weight=weight)
    same(found, expected)
    assert found.score(X, y, sample_weight=weight) == pytest.approx(
        expected.score(X, y, sample_weight=weight), rel=1e-8
    )
    assert_array_equal(found.predict(X), expected.predict(X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("options", [{}, {"penalty": "l2"}, {"l1_ratios": None}])
def test_the_forms_of_attributes_without_l1_ratios(rows, options):
    X, y, _ = rows
    for legacy in ("warn", False):
        both = [
            estimator(Cs=3, use_legacy_attributes=legacy, **options).fit(X, y)
            for estimator in (LogisticRegressionClassifierCV, LogisticRegressionCV)
        ]
        same(*both, rtol=2e-3)


@pytest.mark.parametrize("refit", [True, False])
def test_liblinear_penalises_the_intercept(rows, refit):
    X, y, _ = rows
    options = {**NEW, "Cs": [0.1, 3.0], "scoring": "neg_log_loss", "solver": "liblinear", "intercept_scaling": 2.0}
    expected = LogisticRegressionCV(**options, refit=refit, tol=1e-12, max_iter=10**6).fit(X, y)
    same(LogisticRegressionClassifierCV(**options, refit=refit).fit(X, y), expected, rtol=1e-5)


@pytest.mark.parametrize("l1_ratios", [(1,), (0.2, 0.9)])
def test_l1_meets_the_optimality_conditions_in_each_fold(rows, l1_ratios):
    X, y, weight = rows
    options: dict[str, Any] = {**NEW, "Cs": [0.03, 1.0], "cv": 3, "solver": "saga", "l1_ratios": l1_ratios}
    fitted = LogisticRegressionClassifierCV(**options, scoring="neg_log_loss").fit(X, y, sample_weight=weight)
    for fold, (train, _) in enumerate(StratifiedKFold(3).split(X, y)):
        for r, ratio in enumerate(l1_ratios):
            for k, C in enumerate([0.03, 1.0]):
                w, b = np.split(fitted.coefs_paths_[fold, r, k, 0], [-1])
                residual = weight[train] * (1 / (1 + np.exp(-(X[train] @ w + b))) - (y[train] == 4))
                gradient = C * X[train].T @ residual + (1 - ratio) * w
                assert_allclose(gradient[w != 0], -ratio * np.sign(w[w != 0]), atol=1e-7)
                assert (np.abs(gradient[w == 0]) <= ratio + 1e-7).all()
                assert abs(C * residual.sum()) < 1e-7


def test_sparse_features_give_the_dense_numbers(rows):
    X, y, weight = rows
    X = np.where(np.abs(X) > np.abs(X).mean(0), X, 0)
    options: dict[str, Any] = {**NEW, "Cs": 3, "scoring": "neg_log_loss"}
    dense = LogisticRegressionClassifierCV(**options).fit(X, y, weight)
    same(LogisticRegressionClassifierCV(**options).fit(scipy.sparse.csr_array(X), y, weight), dense)


def test_classes_that_are_separated_converge_or_it_is_said(rows):
    X, y = make_classification(200, 20, n_informative=2, random_state=0)
    options: dict[str, Any] = {**NEW, "Cs": [1e6], "l1_ratios": (1,), "solver": "saga", "scoring": "neg_log_loss"}
    fitted = LogisticRegressionClassifierCV(**options, cv=2).fit(X, y)  # a warning would be an error
    assert fitted.n_iter_.max() > 30
    with pytest.warns(ConvergenceWarning) as record:
        LogisticRegressionClassifierCV(**options, cv=2, max_iter=2).fit(X, y)
    assert any("2 of 2 fits of the folds" in str(w.message) for w in record)


@pytest.mark.parametrize(("ratio", "solver"), [(0, "lbfgs"), (1, "saga")])
def test_no_iterations_leave_coefficients_at_0(rows, ratio, solver):
    X, y, _ = rows
    options: dict[str, Any] = {**NEW, "l1_ratios": (ratio,), "solver": solver, "scoring": "neg_log_loss"}
    with pytest.warns(ConvergenceWarning):
        fitted = LogisticRegressionClassifierCV(**options, max_iter=0).fit(X, y)
    assert not fitted.n_iter_.any()
    assert not fitted.coef_.any()
    assert_allclose(fitted.scores_, -np.log(2))


def test_a_fold_without_one_of_the_classes(rows):
    X, y, _ = rows
    order = np.argsort(y, kind="stable")
    first = (y[order] == -1).sum()
    cv = [(np.arange(first), np.arange(first, 150)), (np.arange(100), np.arange(100, 150))]
    options: dict[str, Any] = {**NEW, "Cs": [1.0], "scoring": None, "cv": cv}
    with pytest.warns(UserWarning, match=r"1 of 2 folds hold one class only"):
        fitted = LogisticRegressionClassifierCV(**options).fit(X[order], y[order])
    assert fitted.scores_[0, 0, 0] == 0
    assert_array_equal(fitted.coefs_paths_[0, 0, 0, 0, :-1], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Cs": [1.0, 0.0]}, "Cs must be"),
        ({"Cs": []}, "Cs must be"),
        ({"Cs": [1e-320]}, "too small"),
        ({"l1_ratios": ()}, "l1_ratios must be"),
        ({"l1_ratios": (0.5, 2), "solver": "saga"}, "l1_ratios must be"),
        ({"l1_ratios": (0.5,)}, "supports only 'l2'"),
        ({"class_weight": {0: 1}}, "class labels as keys"),
        ({"cv": 100}, "n_splits=100"),
        ({"cv": []}, "cv has no folds"),
    ],
)
def test_what_it_refuses(rows, options, message):
    X, y, _ = rows
    with pytest.raises(ValueError, match=re.escape(message)):
        LogisticRegressionClassifierCV(**{**NEW, "scoring": None, **options}).fit(X, y)


def test_constructor_is_that_of_scikit_learn():
    assert LogisticRegressionClassifierCV().get_params() == LogisticRegressionCV().get_params()


def test_warnings_are_scikit_learns(rows):
    X, y, _ = rows
    for options in ({}, {"penalty": "l2", "l1_ratios": (0,)}, {"l1_ratios": None}):
        said = []
        for estimator in (LogisticRegressionCV, LogisticRegressionClassifierCV):
            with warnings.catch_warnings(record=True) as record:
                warnings.simplefilter("always")
                estimator(Cs=2, cv=2, solver="liblinear", **options).fit(X, y)
            said.append({(w.category, str(w.message).replace("ClassifierCV", "CV")) for w in record})
            assert estimator is LogisticRegressionCV or {w.filename for w in record} == {__file__}
        assert said[0] == said[1]


def test_many_columns_are_fitted_by_themselves(monkeypatch, rows):
    from lr_lightning.solver import thresholds

    X, y, weight = rows
    options: dict[str, Any] = {**NEW, "Cs": [0.1, 1.0], "scoring": "neg_log_loss"}
    expected = LogisticRegressionCV(**options, **EXACT).fit(X, y, weight)
    monkeypatch.setattr(thresholds, "DENSE_LIMIT", 3)
    same(LogisticRegressionClassifierCV(**options).fit(X, y, weight), expected, rtol=1e-6)
