"""The scikit-learn estimator: scikit-learn's own checks, and its LogisticRegression as the reference."""

import gc
import os
import pickle
import re
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.9")  # whose words the tests compare with

import scipy.sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import l1_min_c

from lr_lightning import LogisticRegressionClassifier
from tests.conftest import imported_modules, python

EXACT = {"solver": "newton-cholesky", "tol": 1e-12}  # of scikit-learn's solvers the one that gets there


@pytest.fixture(scope="module")
def rows():
    """300 noisy rows of 5 features on unlike scales, the labels -1 and 4, and weights."""
    X, y = make_classification(300, 5, n_informative=3, n_redundant=0, flip_y=0.2, random_state=0)
    weight = np.random.default_rng(0).uniform(0.2, 3, len(X))
    return X * [1, 10, 0.1, 1, 3] + [0, 5, 0, -2, 0], np.where(y == 1, 4, -1), weight


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def same(ours, reference, rtol=1e-7, atol=1e-8):
    np.testing.assert_allclose(ours.coef_, reference.coef_, rtol=rtol, atol=atol)
    np.testing.assert_allclose(ours.intercept_, reference.intercept_, rtol=rtol, atol=atol)


# ---- scikit-learn's checks ---------------------------------------------------------------------------------


def test_every_common_check_passes(tmp_path):
    # SCIPY_ARRAY_API, without which one of them is skipped, counts before scipy is imported.
    script = """
from sklearn.utils.estimator_checks import check_estimator
from lr_lightning import LogisticRegressionClassifier
for check in check_estimator(LogisticRegressionClassifier(), on_fail=None, on_skip=None):
    print(check["status"], check["check_name"], repr(check["exception"]))
"""
    done = python("-c", script, cwd=tmp_path, SCIPY_ARRAY_API="1")
    assert done.returncode == 0, done.stderr
    checks = done.stdout.splitlines()
    # Arrays of other libraries, and on a GPU, are tried where these are at hand.
    absent = r"skipped check_array_api_\w+ SkipTest\(.*(not installed|not available|No XPU|no XPU|MPS)"
    assert [line for line in checks if not line.startswith("passed ") and not re.match(absent, line)] == []
    names = [line.split()[1] for line in checks if line.startswith("passed ")]
    assert len(names) >= 60
    assert {"check_array_api_input", "check_sample_weight_equivalence_on_dense_data"} <= set(names)
    assert {"check_estimator_sparse_array", "check_sample_weight_equivalence_on_sparse_data"} <= set(names)
    assert {"check_class_weight_classifiers", "check_classifier_not_supporting_multiclass"} <= set(names)


def test_tags_say_binary_and_sparse():
    tags = LogisticRegressionClassifier().__sklearn_tags__()
    assert tags.classifier_tags.multi_class is False
    assert tags.input_tags.sparse is True
    assert tags.target_tags.required


@pytest.mark.parametrize("layout", ["csr_array", "csr_matrix", "csc_array", "coo_array", "lil_matrix"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_features_are_as_scikit_learns(rows, layout, weighted):
    X, y, weight = rows
    X = np.where(np.abs(X) > np.abs(X).mean(0), X, 0)
    weight = weight if weighted else None
    options = {"C": 0.3, "class_weight": "balanced" if weighted else None}
    expected = LogisticRegression(**options, **EXACT).fit(X, y, weight)
    sparse = getattr(scipy.sparse, layout)(X)
    classifier = LogisticRegressionClassifier(**options).fit(sparse, y, weight)
    same(classifier, expected)
    np.testing.assert_allclose(classifier.predict_proba(sparse), expected.predict_proba(X), rtol=1e-7)
    np.testing.assert_array_equal(classifier.predict(sparse), expected.predict(X))
    assert classifier.score(sparse, y) == expected.score(X, y)


@pytest.mark.parametrize(
    "options", [{"l1_ratio": 1.0, "solver": "saga"}, {"solver": "liblinear"}, {"C": np.inf}, {"fit_intercept": False}]
)
def test_sparse_features_give_the_dense_numbers(rows, options):
    X, y, _ = rows
    X = np.where(np.abs(X) > np.abs(X).mean(0), X, 0)
    for dtype, digits in ((np.float64, 1e-9), (np.float32, 1e-5)):
        of_dtype = X.astype(dtype)
        dense = LogisticRegressionClassifier(**options).fit(of_dtype, y)
        classifier = LogisticRegressionClassifier(**options).fit(scipy.sparse.csr_array(of_dtype), y)
        assert classifier.coef_.dtype == dtype
        same(classifier, dense, rtol=digits, atol=digits)
        warm = LogisticRegressionClassifier(**options, warm_start=True).fit(scipy.sparse.csr_array(of_dtype), y)
        same(warm.fit(scipy.sparse.csr_array(of_dtype), y), dense, rtol=digits, atol=digits)


@pytest.mark.parametrize("layout", ["csr_array", "csr_matrix"])
@pytest.mark.parametrize("options", [{}, {"C": 100}, {"fit_intercept": False}])
def test_three_sparse_rows_of_two_classes(layout, options):
    """The smallest table of scikit-learn's own tests: probabilities add up, and the larger one is the prediction."""
    X, y = np.array([[-1, 0], [0, 1], [1, 1]]), np.array([0, 1, 1])
    classifier = LogisticRegressionClassifier(**options).fit(getattr(scipy.sparse, layout)(X), y)
    same(classifier, LogisticRegression(**options, **EXACT).fit(X, y), atol=1e-7)
    probability = classifier.predict_proba(getattr(scipy.sparse, layout)(X))
    np.testing.assert_allclose(probability.sum(1), 1)
    np.testing.assert_array_equal(probability.argmax(1), y)


@pytest.mark.parametrize("layout", ["coo_array", "coo_matrix", "csr_array"])
def test_sparse_coefficients_decide_as_dense_ones(rows, layout):
    X, y, _ = rows
    classifier = LogisticRegressionClassifier(l1_ratio=1.0, C=0.05, solver="saga").fit(X, y)
    expected = classifier.decision_function(X)
    sparse = getattr(scipy.sparse, layout)(X)
    assert scipy.sparse.issparse(classifier.sparsify().coef_)
    found = [classifier.decision_function(X), classifier.decision_function(sparse)]
    found.append(classifier.densify().decision_function(sparse))
    for decision in found:
        np.testing.assert_allclose(decision, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_a_weight_counts_as_so_many_sparse_rows(rows, l1_ratio):
    X, y, weight = rows
    X, weight = np.where(np.abs(X) > np.abs(X).mean(0), X, 0), np.round(3 * np.asarray(weight)).astype(int) % 4
    options = {"C": 0.3, "l1_ratio": l1_ratio, "solver": "saga"}
    weighted = LogisticRegressionClassifier(**options).fit(scipy.sparse.csr_array(X), y, weight)
    repeated = scipy.sparse.csr_array(np.repeat(X, weight, axis=0))
    same(weighted, LogisticRegressionClassifier(**options).fit(repeated, np.repeat(y, weight)), rtol=1e-7, atol=1e-9)


def test_wide_indices_and_other_dtypes_of_sparse_features(rows):
    X, y, _ = rows
    X = np.round(np.where(np.abs(X) > np.abs(X).mean(0), X, 0)).astype(np.int64)
    expected = LogisticRegressionClassifier().fit(X, y)
    sparse = scipy.sparse.csr_array(X)
    sparse.indices, sparse.indptr = sparse.indices.astype(np.int64), sparse.indptr.astype(np.int64)
    same(LogisticRegressionClassifier().fit(sparse, y), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sparse_features_that_are_not_finite_are_refused_in_scikit_learns_words(rows, value):
    X, y, _ = rows
    X = X.copy()
    X[3, 1] = value
    messages = []
    for estimator in (LogisticRegression(), LogisticRegressionClassifier()):
        with pytest.raises(ValueError, match="Input X contains") as raised:
            estimator.fit(scipy.sparse.csr_array(X), y)
        messages.append(str(raised.value).splitlines()[0])
    assert messages[0] == messages[1]


def test_constructor_is_that_of_scikit_learn():
    assert LogisticRegressionClassifier().get_params() == LogisticRegression().get_params()


# ---- the optimum -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0, np.inf])
@pytest.mark.parametrize("weighted", [{}, {"class_weight": "balanced"}, {"class_weight": {4: 3}}])
def test_l2_is_scikit_learns(rows, C, fit_intercept, weighted):
    X, y, weight = rows
    parameters = {"C": C, "fit_intercept": fit_intercept, **weighted}
    ours = LogisticRegressionClassifier(**parameters).fit(X, y, weight)
    same(ours, LogisticRegression(**parameters, **EXACT).fit(X, y, weight))
    assert list(ours.classes_) == [-1, 4]


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"])
def test_solvers_that_leave_the_intercept_free_are_one(rows, solver):
    X, y, _ = rows
    ours = LogisticRegressionClassifier(solver=solver, random_state=3).fit(X, y)
    same(ours, LogisticRegression(**EXACT).fit(X, y))


@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
def test_l1_meets_the_optimality_conditions(cancer, l1_ratio):
    X, y = cancer
    C = 0.1
    ours = LogisticRegressionClassifier(solver="saga", l1_ratio=l1_ratio, C=C).fit(X, y)
    w = ours.coef_[0]
    residual = ours.predict_proba(X)[:, 1] - y
    gradient = C * X.T @ residual + (1 - l1_ratio) * w
    zero = w == 0
    assert 0 < zero.sum() < len(w)
    np.testing.assert_allclose(gradient[~zero], -l1_ratio * np.sign(w[~zero]), atol=1e-6)
    assert (np.abs(gradient[zero]) <= l1_ratio + 1e-6).all()
    assert abs(residual.sum()) < 1e-6


def test_no_coefficient_where_the_penalty_allows_none(cancer):
    X, y = cancer
    least = l1_min_c(X, y, loss="log", fit_intercept=False)
    below, above = (
        LogisticRegressionClassifier(solver="saga", l1_ratio=1, C=factor * least, fit_intercept=False).fit(X, y)
        for factor in (0.999, 1.05)
    )
    assert not below.coef_.any()
    assert above.coef_.any()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"C": 0.01, "class_weight": "balanced"},
        {"dual": True},
        {"l1_ratio": 1, "intercept_scaling": 20.0},
        {"intercept_scaling": 0.3},
        {"fit_intercept": False},
    ],
)
def test_liblinear_penalises_the_intercept(rows, parameters):
    X, y, weight = rows
    X = StandardScaler(with_mean=False).fit_transform(X)
    reference = LogisticRegression(solver="liblinear", tol=1e-12, max_iter=100_000, random_state=0, **parameters)
    ours = LogisticRegressionClassifier(solver="liblinear", **parameters).fit(X, y, weight)
    same(ours, reference.fit(X, y, weight), rtol=1e-4, atol=1e-5)


def test_glmnets_numbers():
    # glmnet(x, y, alpha = 0, lambda = 1, standardize = FALSE, thresh = 1e-10), from scikit-learn's tests.
    X = np.array([[-4, -3, -2, -1, 0, 1, 2, 3, 4], [0, 0, 1, 0, 1, 1, 1, 0, 0]]).T
    ours = LogisticRegressionClassifier(C=1 / 9).fit(X, [0, 0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(ours.intercept_, 0.89230405539, rtol=1e-5)
    np.testing.assert_allclose(ours.coef_, [[0.44464569182, 0.01457563448]], rtol=1e-5)


def test_a_column_of_ones_is_the_intercept(rows):
    X, y, _ = rows
    ones = np.column_stack([np.ones(len(X)), X])
    without = LogisticRegressionClassifier(C=np.inf, fit_intercept=False).fit(ones, y)
    reference = LogisticRegression(C=np.inf, **EXACT).fit(X, y)
    np.testing.assert_allclose(without.coef_[0], [*reference.intercept_, *reference.coef_[0]], rtol=1e-7)
    assert without.intercept_ == 0.0


def test_weights_are_repetitions(rows):
    X, y, _ = rows
    times = np.arange(len(X)) % 3
    weighted = LogisticRegressionClassifier().fit(X, y, sample_weight=times)
    same(weighted, LogisticRegressionClassifier().fit(X.repeat(times, 0), y.repeat(times)))
    by_class = LogisticRegressionClassifier(class_weight={-1: 1, 4: 2}).fit(X, y)
    same(by_class, LogisticRegressionClassifier().fit(X, y, sample_weight=1 + (y == 4)))


def test_tall_table(recwarn):
    # Above 20 000 rows the solver starts from a sample, and one pass is not enough.
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60_000, 3))
    y = generator.random(60_000) < 1 / (1 + np.exp(-X @ [1, -2, 0.5]))
    ours = LogisticRegressionClassifier().fit(X, y)
    same(ours, LogisticRegression(**EXACT).fit(X, y))
    assert ours.n_iter_.shape == (1,)
    assert 1 < ours.n_iter_[0] < 10
    assert not recwarn.list
    with pytest.warns(ConvergenceWarning, match="max_iter=1 passes .* Increase the number of iterations"):
        cut_short = LogisticRegressionClassifier(max_iter=1).fit(X, y)
    assert cut_short.n_iter_[0] == 1
    warm = LogisticRegressionClassifier(warm_start=True).fit(X, y)
    passes = warm.n_iter_[0]
    same(warm.fit(X, y), ours)
    assert warm.n_iter_[0] < passes


def test_tol(rows):
    X, y, _ = rows
    for tol, largest in ((1e-1, 1e-7), (1e-10, 1e-10), (0.0, 1e-13)):
        ours = LogisticRegressionClassifier(tol=tol).fit(StandardScaler().fit_transform(X), y)
        residual = ours.predict_proba(StandardScaler().fit_transform(X))[:, 1] - (y == 4)
        gradient = (StandardScaler().fit_transform(X).T @ residual + ours.coef_[0]) / len(y)
        assert np.abs([*gradient, residual.mean()]).max() < largest


# ---- prediction --------------------------------------------------------------------------------------------


def test_prediction_is_scikit_learns(rows):
    X, y, _ = rows
    ours, reference = LogisticRegressionClassifier().fit(X, y), LogisticRegression(**EXACT).fit(X, y)
    for method in ("decision_function", "predict_proba", "predict_log_proba", "predict"):
        np.testing.assert_allclose(getattr(ours, method)(X), getattr(reference, method)(X), rtol=1e-7, atol=1e-9)
    assert ours.score(X, y) == reference.score(X, y)


def test_far_probabilities_keep_their_digits(rows):
    X, y, _ = rows
    ours = LogisticRegressionClassifier().fit(X, y)
    ours.coef_, ours.intercept_ = np.eye(1, X.shape[1]), np.zeros(1)
    far = np.zeros((2, X.shape[1]))
    far[:, 0] = 60, -2000
    np.testing.assert_allclose(ours.predict_proba(far)[0], [np.exp(-60), 1], rtol=1e-14)
    np.testing.assert_allclose(ours.predict_log_proba(far), [[-60, -np.exp(-60)], [0, -2000]], rtol=1e-14)
    assert ours.predict(np.zeros((1, X.shape[1]))) == [-1]  # a tie goes to the first label, as in scikit-learn


@pytest.mark.parametrize("solver", ["lbfgs", "liblinear"])
@pytest.mark.parametrize(("given", "kept"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i4", "f8")])
def test_dtypes(rows, solver, given, kept):
    X, y, _ = rows
    ours = LogisticRegressionClassifier(solver=solver).fit(X.astype(given), y)
    assert ours.coef_.dtype == ours.intercept_.dtype == kept
    assert ours.n_iter_.dtype == np.int32
    if kept == given:
        predictions = [ours.decision_function, ours.predict_proba, ours.predict_log_proba]
        assert {predict(X.astype(given)).dtype for predict in predictions} == {np.dtype(kept)}


def test_float32_is_as_near_as_float32_can_be(cancer):
    X, y = cancer
    single = LogisticRegressionClassifier().fit(X.astype(np.float32), y)
    double = LogisticRegressionClassifier().fit(X.astype(np.float32).astype(np.float64), y)
    same(single, double, rtol=1e-5, atol=1e-6)


def test_sparsify_and_densify(cancer):
    X, y = cancer
    ours = LogisticRegressionClassifier(solver="saga", l1_ratio=1, C=0.1, warm_start=True).fit(X, y)
    dense = ours.decision_function(X)
    np.testing.assert_allclose(ours.sparsify().decision_function(X), dense, rtol=1e-12)
    np.testing.assert_allclose(ours.fit(X, y).decision_function(X), dense, rtol=1e-6)


# ---- parameters --------------------------------------------------------------------------------------------


def what_happens(estimator, X, y):
    """The error, else the warnings, in a fit: their classes and words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(X, y)
        except ValueError as error:
            words = re.sub(r"Classifier\b", "", str(error))
            # scikit-learn prints the permitted names as a set, whose order differs between two sets of the same names.
            return type(error).__name__, re.sub(
                r"\{(.*?)\}", lambda names: ", ".join(sorted(names[1].split(", "))), words
            )
    return [(w.category.__name__, str(w.message)) for w in caught if not issubclass(w.category, ConvergenceWarning)]


@pytest.mark.parametrize("solver", ["lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"])
def test_penalties_are_refused_and_deprecated_in_scikit_learns_words(solver):
    X, y = make_classification(60, 3, n_redundant=0, flip_y=0.2, random_state=0)
    combinations = product(
        ["deprecated", "l1", "l2", "elasticnet", None], [0.0, 0.5, 1.0, None], [1.0, 4.0, np.inf], [False, True]
    )
    refused = 0
    for penalty, l1_ratio, C, dual in combinations:
        parameters = {"penalty": penalty, "l1_ratio": l1_ratio, "C": C, "dual": dual, "solver": solver}
        if penalty not in ("deprecated", None) and np.isinf(C):
            continue  # a contradiction, over which scikit-learn's liblinear hangs
        if l1_ratio is None and solver in ("sag", "saga") and penalty not in ("elasticnet", None):
            continue  # scikit-learn itself stumbles over the None
        expected = what_happens(LogisticRegression(**parameters, max_iter=5), X, y)
        assert what_happens(LogisticRegressionClassifier(**parameters), X, y) == expected, parameters
        refused += isinstance(expected, tuple)
    assert refused >= 8


@pytest.mark.parametrize(
    "parameters",
    [
        {"C": -1},
        {"C": "1"},
        {"l1_ratio": 2},
        {"tol": -1},
        {"solver": "SubsampledNewton"},
        {"class_weight": "even"},
        {"class_weight": {7: 1.0}},
        {"max_iter": -1},
        {"intercept_scaling": 0},
        {"penalty": "none"},
        {"fit_intercept": None},
        {"random_state": "a"},
    ],
)
def test_parameters_out_of_range_are_refused_in_scikit_learns_words(rows, parameters):
    X, y, _ = rows
    ours = what_happens(LogisticRegressionClassifier(**parameters), X, y)
    assert isinstance(ours, tuple)
    assert ours == what_happens(LogisticRegression(**parameters), X, y)


def test_n_jobs_is_deprecated_as_in_scikit_learn(rows):
    X, y, _ = rows
    parameters = {"n_jobs": 2}
    expected = what_happens(LogisticRegression(**parameters), X, y)
    assert what_happens(LogisticRegressionClassifier(**parameters), X, y) == expected != []


def test_more_than_two_classes_are_refused(rows):
    X, _, _ = rows
    y = np.arange(len(X)) % 3
    with pytest.raises(ValueError, match="Only binary classification is supported"):
        LogisticRegressionClassifier().fit(X, y)
    reference = OneVsRestClassifier(LogisticRegression(**EXACT)).fit(X, y)
    ours = OneVsRestClassifier(LogisticRegressionClassifier()).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), reference.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_unusable_weights_are_refused(rows, weight):
    X, y, weights = rows
    weights = weights.copy()
    weights[3] = weight
    with pytest.raises(ValueError, match="sample_weight"):
        LogisticRegressionClassifier().fit(X, y, weights)


def test_weights_that_leave_one_class_are_refused(rows):
    X, y, _ = rows
    with pytest.raises(ValueError, match=r"only one class has samples whose weight is not zero: .*4"):
        LogisticRegressionClassifier().fit(X, y, sample_weight=y == 4)


@pytest.mark.parametrize("C", [np.inf, 1e30])
def test_separation_is_said(C):
    X, y = np.arange(8.0)[:, None], np.arange(8) > 3
    with pytest.warns(ConvergenceWarning, match="as under separation; a smaller C"):
        ours = LogisticRegressionClassifier(C=C).fit(X, y)
    assert (ours.predict(X) == y).all()


def test_separated_classes_have_an_optimum_under_a_penalty(recwarn):
    X, y = np.arange(8.0)[:, None], np.arange(8) > 3
    same(LogisticRegressionClassifier(C=1e6).fit(X, y), LogisticRegression(C=1e6, **EXACT).fit(X, y), rtol=1e-6)
    assert not recwarn.list


def test_max_iter_0_fits_nothing(rows):
    X, y, _ = rows
    with pytest.warns(ConvergenceWarning, match="max_iter=0"):
        ours = LogisticRegressionClassifier(max_iter=0).fit(X, y)
    assert ours.n_iter_ == 0
    np.testing.assert_array_equal(ours.predict_proba(X), np.full((len(X), 2), 0.5))


def test_warm_start_begins_where_the_last_fit_ended(rows):
    X, y, _ = rows
    ours = LogisticRegressionClassifier(warm_start=True).fit(X, y)
    before = ours.coef_.copy()
    with pytest.warns(ConvergenceWarning):
        ours.set_params(max_iter=0).fit(X, y)
    np.testing.assert_array_equal(ours.coef_, before)
    ours.set_params(max_iter=100, C=0.01)
    same(ours.fit(X, y), LogisticRegression(C=0.01, **EXACT).fit(X, y))
    with pytest.raises(ValueError, match="5 entries, but the data have 4 features"):
        ours.fit(X[:, :4], y)


def test_verbose_prints_one_line(rows, capfd):
    X, y, _ = rows
    LogisticRegressionClassifier(verbose=1).fit(X, y)
    out, err = capfd.readouterr()
    assert out == "LogisticRegressionClassifier converged (passes over the rows: 1)\n"
    assert err == ""


def test_clones_and_pickles(rows):
    X, y, _ = rows
    ours = LogisticRegressionClassifier(C=0.5, class_weight={4: 2.0})
    assert set(vars(ours)) == set(ours.get_params())
    assert clone(ours.fit(X, y)).get_params() == ours.get_params()
    copy = pickle.loads(pickle.dumps(ours))  # noqa: S301 - our own
    np.testing.assert_array_equal(copy.decision_function(X), ours.decision_function(X))
    np.testing.assert_array_equal(ours.coef_, clone(ours).fit(X, y).coef_)


@pytest.mark.parametrize("integer", [np.int32, np.int64])
def test_a_search_may_draw_max_iter(rows, integer):
    X, y, _ = rows
    same(LogisticRegressionClassifier(max_iter=integer(50)).fit(X, y), LogisticRegressionClassifier().fit(X, y))


@pytest.mark.parametrize(
    "target",
    [np.linspace(0, 1, 60), np.repeat([0.5, 1.5], 30), np.repeat(np.array([False, True], object), 30)],
    ids=["numbers", "two fractions", "truth values as objects"],
)
def test_targets_are_refused_in_scikit_learns_words(target):
    X = np.random.default_rng(0).normal(size=(60, 2))
    ours, reference = (what_happens(model(), X, target) for model in (LogisticRegressionClassifier, LogisticRegression))
    assert ours == reference
    assert ours[0] == "ValueError"


def test_class_weights_that_cannot_be_weights_are_refused(rows):
    X, y, _ = rows
    with pytest.raises(ValueError, match="class_weight must be finite and not negative"):
        LogisticRegressionClassifier(class_weight={-1: -1, 4: 1}).fit(X, y)


# ---- where scikit-learn's own would be ---------------------------------------------------------------------


def test_grid_search_in_two_processes(cancer):
    from joblib.externals.loky import get_reusable_executor

    X, y = cancer
    grid = {"logisticregression__C": [0.01, 1.0, 100.0], "logisticregression__class_weight": [None, "balanced"]}
    reference = make_pipeline(StandardScaler(), LogisticRegression(**EXACT))
    ours = clone(reference).set_params(logisticregression=LogisticRegressionClassifier())
    reference = GridSearchCV(reference, grid, scoring="neg_log_loss").fit(X, y)
    try:
        ours = GridSearchCV(ours, grid, scoring="neg_log_loss", n_jobs=2).fit(X, y)
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert ours.best_params_ == reference.best_params_
    scores = [search.cv_results_["mean_test_score"] for search in (ours, reference)]
    np.testing.assert_allclose(*scores, rtol=1e-7)


@pytest.mark.parametrize("around", [CalibratedClassifierCV, TunedThresholdClassifierCV])
def test_wrapped(rows, around):
    X, y, _ = rows
    ours, reference = (
        around(model).fit(X, y) for model in (LogisticRegressionClassifier(), LogisticRegression(**EXACT))
    )
    np.testing.assert_allclose(ours.predict_proba(X), reference.predict_proba(X), rtol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), reference.predict(X))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables(rows, library):
    frames = pytest.importorskip(library)
    X, y, _ = rows
    names = ["a", "b", "c", "d", "e"]
    table = frames.DataFrame({name: X[:, j] for j, name in enumerate(names)})
    label = frames.Series(np.where(y == 4, "yes", "no"))
    pipeline = make_pipeline(StandardScaler(), LogisticRegressionClassifier()).set_output(transform=library)
    pipeline.fit(table, label)
    reference = make_pipeline(StandardScaler(), LogisticRegression(**EXACT)).fit(X, y)
    same(pipeline[-1], reference[-1])
    assert list(pipeline[-1].feature_names_in_) == names
    assert list(pipeline.classes_) == ["no", "yes"]
    assert list(pipeline.predict(table)) == list(np.where(reference.predict(X) == 4, "yes", "no"))
    with pytest.raises(ValueError, match="feature names should match"):
        pipeline[-1].predict(table[["b", "a", "c", "d", "e"]])


def test_tensors_give_tensors(tmp_path):
    # SCIPY_ARRAY_API, which scikit-learn asks for, counts before scipy is imported.
    script = """
import numpy as np, torch
from sklearn import config_context
from sklearn.datasets import make_classification
from lr_lightning import LogisticRegressionClassifier
X, y = make_classification(300, 5, n_informative=3, n_redundant=0, flip_y=0.2, random_state=0)
X[0] *= 1000  # probabilities near 0 and 1
weight = np.random.default_rng(0).uniform(0.2, 3, len(X))
methods = ("decision_function", "predict_proba", "predict_log_proba", "predict")
for labels in (y, np.where(y, "yes", "no")):
    estimator = LogisticRegressionClassifier(class_weight="balanced", warm_start=True).fit(X, labels, weight)
    expected = [getattr(estimator, method)(X) for method in methods]
    with config_context(array_api_dispatch=True):
        texts = labels.dtype.kind == "U"
        rows, target = torch.tensor(X), labels if texts else torch.tensor(labels)
        there = LogisticRegressionClassifier(class_weight="balanced", warm_start=True)
        there.fit(rows, target, torch.tensor(weight)).fit(rows, target, weight)  # the second starts from tensors
        for name in ("coef_", "intercept_", "n_iter_"):
            assert isinstance(getattr(there, name), torch.Tensor), name
        np.testing.assert_allclose(there.coef_.numpy(), estimator.coef_, rtol=1e-7)
        for method, wanted in zip(methods, expected):
            found = getattr(there, method)(rows)
            assert isinstance(found, np.ndarray if texts and method == "predict" else torch.Tensor), method
            if texts and method == "predict":
                assert (found == wanted).all()
            else:
                np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-300)
    without = LogisticRegressionClassifier(class_weight="balanced").fit(rows, labels, weight)  # as any array
    np.testing.assert_allclose(without.predict_proba(rows), expected[1], rtol=1e-6, atol=1e-300)
print("as tensors")
"""
    done = python("-c", script, cwd=tmp_path, SCIPY_ARRAY_API="1")
    assert done.stdout == "as tensors\n", done.stderr


def test_sample_weight_is_routed(rows):
    X, y, weight = rows
    with config_context(enable_metadata_routing=True):
        searches = [
            GridSearchCV(
                model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True), {"C": [0.1, 10]}
            ).fit(X, y, sample_weight=weight)
            for model in (LogisticRegressionClassifier(), LogisticRegression(**EXACT))
        ]
    ours, reference = searches
    same(ours.best_estimator_, reference.best_estimator_)
    assert not np.allclose(ours.best_estimator_.coef_, clone(ours.best_estimator_).fit(X, y).coef_)
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], reference.cv_results_["mean_test_score"])


# ---- without a trace ---------------------------------------------------------------------------------------


def test_a_fit_leaves_no_trace(tmp_path):
    script = """
import logging, os, pickle, random, signal, sys, warnings
import numpy as np
from sklearn.datasets import load_breast_cancer
from lr_lightning import LogisticRegressionClassifier
X, y = load_breast_cancer(return_X_y=True)
assert "torch" not in sys.modules
import torch

def state():
    names = sorted(logging.root.manager.loggerDict)
    return [
        str(random.getstate()), str(np.random.get_state()), torch.get_rng_state().tolist(), torch.get_default_dtype(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.is_anomaly_enabled(), list(warnings.filters),
        [signal.getsignal(s) for s in signal.valid_signals()], dict(os.environ), os.getcwd(),
        [(name, [*vars(logging.getLogger(name)).items()], [*logging.getLogger(name).filters]) for name in names],
    ]

LogisticRegressionClassifier().fit(X, y)  # the first one imports a little more
before = state()
for dtype, parameters in (("f8", {}), ("f4", {"solver": "liblinear"}), ("f8", {"solver": "saga", "l1_ratio": 1})):
    LogisticRegressionClassifier(**parameters).fit(X.astype(dtype), y)
for was, now in zip(before, state(), strict=True):
    assert was == now, (was, now)
assert "torch._dynamo" not in sys.modules  # what compiles takes as long to import as torch itself
with open("fitted.pickle", "wb") as file:
    pickle.dump(LogisticRegressionClassifier().fit(X, y), file)
"""
    # As part of another program's processes, whose variables must not count.
    done = python("-W", "error", "-c", script, cwd=tmp_path, SLURM_NTASKS="4", SLURM_JOB_ID="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["fitted.pickle"]

    statement = "import pickle, numpy; pickle.load(open('fitted.pickle', 'rb')).predict_proba(numpy.zeros((1, 30)))"
    imported = imported_modules(statement, tmp_path)
    assert "sklearn" in imported
    assert not imported & {"torch", "lightning"}


def test_nothing_is_kept_of_a_fit():
    X, y = make_classification(50, 3, n_redundant=0, random_state=0)
    estimator = LogisticRegressionClassifier().fit(X, y)
    gc.collect()
    gc.disable()  # what waits for the collector would pile up in a search over large tables
    try:
        for parameters in ({}, {"solver": "liblinear"}, {"solver": "saga", "l1_ratio": 0.5}):
            rows = X.copy()
            gone = weakref.ref(rows)
            estimator.set_params(**parameters).fit(rows, y)
            del rows
            assert gone() is None
    finally:
        gc.enable()


def test_many_fits_leave_no_objects():
    X, y = make_classification(50, 3, n_redundant=0, random_state=0)
    counts = []
    for _ in range(3):
        for _ in range(5):
            LogisticRegressionClassifier().fit(X, y)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[2] - counts[1] < 25


def test_fits_in_threads_are_as_fits_in_turn(rows):
    X, y, weight = rows
    estimators = [
        LogisticRegressionClassifier(C=C, solver=solver) for C in (0.1, 1.0, 10.0) for solver in ("lbfgs", "liblinear")
    ]
    tables = [X.astype(np.float32 if k % 2 else np.float64) for k in range(len(estimators))]
    in_turn = [clone(model).fit(table, y, weight) for model, table in zip(estimators, tables, strict=True)]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(len(estimators)) as pool:
        jobs = [pool.submit(model.fit, table, y, weight) for model, table in zip(estimators, tables, strict=True)]
        at_once = [job.result(timeout=120) for job in jobs]
    assert warnings.filters == filters
    for one, other in zip(in_turn, at_once, strict=True):
        same(one, other, rtol=1e-12, atol=0)
        assert one.coef_.dtype == other.coef_.dtype


def test_torchs_operations_are_serial(rows, monkeypatch):
    # On a busy machine OpenMP's threads wait for one another: a fit of 20 ms took 400 to 1200.
    import torch

    from lr_lightning.solver import SubsampledNewton

    seen, advance = [], SubsampledNewton._advance
    monkeypatch.setattr(
        SubsampledNewton, "_advance", lambda self, loss: (seen.append(torch.get_num_threads()), advance(self, loss))[1]
    )

    def threads_elsewhere():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    X, y, _ = rows
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        LogisticRegressionClassifier().fit(X, y)
        assert seen
        assert set(seen) == {1}
        assert (torch.get_num_threads(), threads_elsewhere()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_a_search_in_threads_says_nothing(tmp_path):
    # scikit-learn sets the filters of warnings in each of its threads, which undoes those of a fit in another.
    script = """
import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from lr_lightning import LogisticRegressionClassifier
X, y = load_breast_cancer(return_X_y=True)
with joblib.parallel_config("threading", n_jobs=4):
    cross_val_score(LogisticRegressionClassifier(), X, y, cv=30)
"""
    done = python("-c", script, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_fits(tmp_path):
    # OpenMP's threads stay behind in the parent, and a child that asks for them would wait for ever.
    script = """
import multiprocessing
import torch
from sklearn.datasets import load_breast_cancer
from lr_lightning import LogisticRegressionClassifier
X, y = load_breast_cancer(return_X_y=True)
estimator = LogisticRegressionClassifier()

def fit_in_child(found):
    found.put((estimator.fit(X, y).coef_, torch.get_num_threads()))

here = estimator.fit(X, y).coef_.copy()
context = multiprocessing.get_context("fork")
found = context.Queue()
child = context.Process(target=fit_in_child, args=(found,), daemon=True)
child.start()
try:
    there, threads = found.get(timeout=60)
finally:
    child.kill()
assert abs(there - here).max() < 1e-9 * abs(here).max()
assert threads == torch.get_num_threads() == 2
print("fitted")
"""
    done = python("-c", script, cwd=tmp_path, OMP_NUM_THREADS="2")
    assert done.stdout == "fitted\n", done.stderr


def test_an_interrupt_ends_the_fit(rows, monkeypatch, several_threads):
    """The thread that computes is told to stop, and says when it has."""
    from concurrent.futures import Future

    from lr_lightning.solver import SubsampledNewton

    begun, interrupted, ended = threading.Event(), threading.Event(), threading.Event()
    passes = []

    def interrupt(self, timeout=None):
        assert begun.wait(60)
        raise KeyboardInterrupt

    X, y, _ = rows
    with monkeypatch.context() as patch:
        patch.setattr(
            SubsampledNewton, "_advance", lambda self, loss: (begun.set(), interrupted.wait(60), passes.append(1))
        )
        patch.setattr(SubsampledNewton, "restore_best", lambda self: ended.set())
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            LogisticRegressionClassifier(max_iter=10**9).fit(X, y)
        interrupted.set()
        assert ended.wait(60)
        assert len(passes) == 1
    LogisticRegressionClassifier().fit(X, y)


def test_an_interrupt_ends_the_fit_in_the_calling_thread(rows, monkeypatch, one_thread):
    from lr_lightning.solver import SubsampledNewton

    threads = set()

    def advance(self, loss):
        threads.add(threading.current_thread())
        raise KeyboardInterrupt

    X, y, _ = rows
    with monkeypatch.context() as patch:
        patch.setattr(SubsampledNewton, "_advance", advance)
        with pytest.raises(KeyboardInterrupt):
            LogisticRegressionClassifier(max_iter=10**9).fit(X, y)
    assert threads == {threading.current_thread()}
    LogisticRegressionClassifier().fit(X, y)


def test_without_scikit_learn_the_extra_is_named(tmp_path):
    script = """
import sys
import threading
sys.modules["sklearn"] = None
import lr_lightning
assert "LogisticRegressionClassifier" in dir(lr_lightning)
assert "LogisticRegressionClassifier" not in lr_lightning.__all__  # `import *` works without scikit-learn
try:
    from lr_lightning import LogisticRegressionClassifier
except ImportError as error:
    print(error)
"""
    done = python("-c", script, cwd=tmp_path)
    assert done.stdout.strip().endswith("pip install 'lr-lightning[sklearn]'"), done.stderr


@pytest.mark.parametrize("weight", [2.0, 3, np.float32(0.5)])
def test_a_number_is_the_weight_of_every_row(weight):
    x = np.array([0.4, 1.1, 1.9, 2.2, 2.8, 3.1, 3.9, 4.2, 4.8, 5.3])[:, None]
    y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])
    ours = LogisticRegressionClassifier().fit(x, y, sample_weight=weight)
    exact = LogisticRegression(tol=1e-12, solver="newton-cholesky").fit(x, y, sample_weight=weight)
    assert ours.coef_ == pytest.approx(exact.coef_, rel=1e-6)
    assert ours.intercept_ == pytest.approx(exact.intercept_, rel=1e-6)


@pytest.mark.parametrize(("weight", "C"), [(1e308, 1.0), (float("nan"), 1.0), (0.0, 1.0), (1e-320, 1.0)])
def test_weights_that_have_no_sum_are_refused(weight, C):
    x, y = np.arange(10.0)[:, None], np.arange(10) % 2
    with pytest.raises(ValueError, match=r"sum|non-zero"):
        LogisticRegressionClassifier(C=C).fit(x, y, sample_weight=weight)


@pytest.mark.parametrize("labels", [["1", "2"], ["01", "02"], [1.0, 2.0]])
def test_class_weights_are_named_by_value(labels):
    X = np.array([0.4, 1.1, 1.9, 2.2, 2.8, 3.1, 3.9, 4.2, 4.8, 5.3])[:, None]
    y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])
    right = LogisticRegression(class_weight={0: 1, 1: 5}, tol=1e-10, max_iter=1000).fit(X, y).coef_
    found = LogisticRegressionClassifier(class_weight={labels[0]: 1, labels[1]: 5}).fit(X, np.array(labels)[y])
    np.testing.assert_allclose(found.coef_, right, rtol=1e-6)
    found = LogisticRegressionClassifier(class_weight={"1": 1, "2": 5}).fit(X, np.array(labels)[y])
    np.testing.assert_allclose(found.coef_, right, rtol=1e-6)
