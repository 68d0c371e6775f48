"""Counts of successes among trials: everywhere as the table of the single trials would be, but for what counts rows."""

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from lightning.pytorch import Trainer
from scipy.sparse import csr_array
from scipy.special import gammaln
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
)

from lr_lightning import InputError, LogisticRegression, TableDataModule, TensorDataModule
from lr_lightning.model.losses import Outcomes
from lr_lightning.model.rows import Rows
from lr_lightning.statistics.held_out import weighted_rows
from tests.conftest import QUIET_TRAINER

# Collett (1991), page 75: tobacco budworms killed by a dose of pyrethroid; ldose is its binary logarithm.
BUDWORM = pd.DataFrame(
    {
        "male": [1.0] * 6 + [0.0] * 6,
        "ldose": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] * 2,
        "dead": [1, 4, 9, 13, 18, 20, 0, 2, 6, 10, 12, 16],
        "n": [20] * 12,
    }
)
OPTIONS = {"target": "dead", "features": ["male", "ldose"], "trials": "n", "val_fraction": 0.0}


def trainer(**settings):
    return Trainer(**{**QUIET_TRAINER, "max_epochs": 300, "precision": "64-true", **settings})


def fit(data, **settings):
    model = LogisticRegression(**settings)
    trainer().fit(model, data)
    return model


def single_trials(rows, target="dead", trials="n"):
    """A row for each trial."""
    k, m = rows[target].to_numpy(), rows[trials].to_numpy()
    parts = [rows.loc[rows.index.repeat(count)].assign(**{target: y}) for y, count in ((1, k), (0, m - k))]
    return pd.concat(parts, ignore_index=True)


def random_counts(n=60, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2))
    m = generator.integers(0, 9, n)
    k = generator.binomial(m, 1 / (1 + np.exp(-(x @ [1.0, -0.7] + 0.3))))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "k": k, "m": m, "w": generator.integers(1, 4, n).astype(float)})


def test_the_report_is_that_of_r():
    """Estimates and errors of R's glm, to an independent Newton's digits; likelihoods with binomial coefficients."""
    report = fit(TableDataModule(BUDWORM, **OPTIONS)).infer()
    estimates = {row.name: row.estimate for row in report.coefficients}
    errors = {row.name: row.std_error for row in report.coefficients}
    assert estimates == pytest.approx(
        {"(Intercept)": -3.4731553070871377, "male": 1.1007433629953534, "ldose": 1.064213969919368}, rel=1e-9
    )
    assert errors == pytest.approx(
        {"(Intercept)": 0.46852037920209577, "male": 0.35582713091945317, "ldose": 0.13107748952728432}, rel=1e-7
    )
    constant = 88.18669229084098  # the sum of log C(20, dead)
    assert report.log_likelihood == pytest.approx(-106.62042490766368 + constant, rel=1e-11)
    assert report.aic == pytest.approx(42.867465233, rel=1e-9)  # R: AIC 42.87
    assert report.n_observations == 12
    assert report.bic == pytest.approx(-2 * report.log_likelihood + 3 * np.log(12), rel=1e-12)
    share = BUDWORM["dead"].sum() / 240
    null = 240 * (share * np.log(share) + (1 - share) * np.log(1 - share)) + constant
    assert report.null_log_likelihood == pytest.approx(null, rel=1e-11)
    assert report.mcfadden_r2 == pytest.approx(1 - report.log_likelihood / null, rel=1e-11)
    assert not [warning for warning in report.warnings if "few events" in warning]  # trials count as observations


@pytest.mark.parametrize("covariance", ["nonrobust", "HC0", "HC1"])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_statsmodels(weighted, covariance):
    rows = random_counts()
    rows = rows[rows["m"] > 0].reset_index(drop=True)
    rows["o"] = np.linspace(-1, 1, len(rows))
    weight = "w" if weighted else None
    report = fit(TableDataModule(rows, "k", ["a", "b"], weight=weight, offset="o", trials="m", val_fraction=0)).infer(
        covariance=covariance
    )
    counts = np.column_stack([rows["k"], rows["m"] - rows["k"]])
    x = sm.add_constant(rows[["a", "b"]])
    weights = {"freq_weights": rows["w"]} if weighted else {}
    family = sm.families.Binomial()
    theirs = sm.GLM(counts, x, family, offset=rows["o"], **weights).fit(tol=1e-14)
    assert [row.estimate for row in report.coefficients] == pytest.approx(theirs.params.tolist(), rel=1e-8)
    assert report.log_likelihood == pytest.approx(theirs.llf, rel=1e-10)
    null = sm.GLM(counts, x[["const"]], family, offset=rows["o"], **weights).fit(tol=1e-14).llf
    assert report.null_log_likelihood == pytest.approx(null, rel=1e-10)
    if covariance == "nonrobust":
        errors = theirs.bse.to_numpy()
    else:
        v = (rows["m"] * (rows["w"] if weighted else 1)).to_numpy()
        p = theirs.fittedvalues.to_numpy()
        scores = x.to_numpy() * (v * (rows["k"] / rows["m"] - p).to_numpy())[:, None]
        bread = np.linalg.inv((x.to_numpy() * (v * p * (1 - p))[:, None]).T @ x.to_numpy())
        errors = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))
        errors *= np.sqrt(len(v) / (len(v) - 3)) if covariance == "HC1" else 1  # a row is an observation
    assert [row.std_error for row in report.coefficients] == pytest.approx(errors.tolist(), rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"l2": 0.05},
        {"l1": 0.02},
        {"optimizer": "LBFGS"},
        {"class_weight": {"0": 1.0, "1": 3.0}},
        {"class_weight": "balanced", "l2": 0.1},
        {"fit_intercept": False},
    ],
)
@pytest.mark.parametrize("options", [{}, {"batch_size": 16}])
def test_the_fit_is_that_of_the_single_trials(settings, options):
    if options and settings.get("optimizer") == "LBFGS":
        options = {}
    rows = random_counts()
    grouped = TableDataModule(rows, "k", ["a", "b"], weight="w", trials="m", val_fraction=0, **options)
    single = TableDataModule(single_trials(rows, "k", "m"), "k", ["a", "b"], weight="w", val_fraction=0)
    found, expected = (fit(data, **settings).linear_sigmoid.coefficients() for data in (grouped, single))
    assert found[0].tolist() == pytest.approx(expected[0].tolist(), rel=1e-7, abs=1e-9)
    assert found[1] == pytest.approx(expected[1], rel=1e-7, abs=1e-9)


def test_small_steps_come_near_the_same():
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 2.0})
    trainer(max_epochs=250).fit(model, TableDataModule(BUDWORM, **OPTIONS))
    coefficients, intercept = model.linear_sigmoid.coefficients()
    assert [intercept, *coefficients.tolist()] == pytest.approx([-3.4731553, 1.1007434, 1.0642140], abs=1e-3)


def test_many_rows_are_sampled_for():
    """Above the size of the solver's sample, which is drawn by class where one is rare."""
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.normal(size=(60_000, 3)))
    m = torch.from_numpy(generator.integers(1, 6, len(x)))
    probability = torch.sigmoid(x @ torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64) - 5)
    k = torch.from_numpy(generator.binomial(m.numpy(), probability.numpy()))
    report = fit(TensorDataModule(x, k, trials=m)).infer()
    y, z = (k / m).numpy(), torch.cat([torch.ones(len(x), 1), x], 1).numpy()
    theirs = sm.GLM(y, z, sm.families.Binomial(), freq_weights=m.numpy()).fit(tol=1e-14)
    assert report.converged
    assert [row.estimate for row in report.coefficients] == pytest.approx(theirs.params.tolist(), rel=1e-7)


def test_held_out_measures_are_those_of_the_single_trials():
    rows = random_counts(200)
    data = TableDataModule(rows, "k", ["a", "b"], weight="w", trials="m", val_fraction=0.4)
    model, runner = LogisticRegression(), trainer()
    runner.fit(model, data)
    (found,) = runner.validate(model, data, verbose=False)
    x, share, v, _ = data.val_rows
    probability = model(x * data.served.scale + data.served.mean).detach().numpy()
    both = [np.r_[probability, probability], np.r_[np.ones(len(share)), np.zeros(len(share))]]
    weight = np.r_[v * share, v * (1 - share)]
    p, y = both
    expected = {
        "loss": log_loss(y, p, sample_weight=weight),
        "auroc": roc_auc_score(y, p, sample_weight=weight),
        "average_precision": average_precision_score(y, p, sample_weight=weight),
        "brier": brier_score_loss(y, p, sample_weight=weight),
        "f1": f1_score(y, p > 0.5, sample_weight=weight),
        "accuracy": np.average((p > 0.5) == y, weights=weight),
    }
    assert {name: found[f"val/{name}"] for name in expected} == pytest.approx(expected, rel=1e-9)
    calibration = model.infer().calibration
    assert calibration.n_observations == int((v > 0).sum())
    assert calibration.mean_outcome == pytest.approx(float(share @ v / v.sum()), rel=1e-12)


def test_rows_of_one_outcome_stay_as_they_are():
    score, y, weight = weighted_rows([0.1, 0.2, 0.3], [0.0, 0.25, 1.0], [1.0, 8.0, 2.0])
    assert score.tolist() == [0.1, 0.2, 0.3, 0.2]
    assert y.tolist() == [0, 0, 1, 1]
    assert weight.tolist() == [1, 6, 2, 2]


def test_separation_asks_both_outcomes_of_a_row():
    """A row with both outcomes separates nothing; without it these rows would be separated completely."""
    table = {"x": [1.0, 2.0, 3.0, 4.0], "k": [0, 0, 5, 5], "m": [5, 5, 5, 5]}
    assert fit(TableDataModule(table, "k", trials="m", val_fraction=0)).infer().separation == "complete"
    table["k"] = [0, 1, 5, 5]
    report = fit(TableDataModule(table, "k", trials="m", val_fraction=0)).infer()
    assert report.separation == "quasi"
    table["k"] = [0, 1, 4, 5]
    report = fit(TableDataModule(table, "k", trials="m", val_fraction=0)).infer()
    assert report.separation is None
    assert report.converged
    table |= {"flag": [0.0, 0.0, 1.0, 1.0], "k": [1, 2, 5, 5]}
    report = fit(TableDataModule(table, "k", ["flag"], trials="m", val_fraction=0)).infer()
    assert report.separation == "quasi"
    assert report.coefficients[0].estimate == pytest.approx(np.log(3 / 7), rel=1e-6)


def test_a_residual_keeps_its_relative_accuracy():
    """Of a row with both outcomes and of rows that are predicted well, in every storage's own arithmetic."""
    from lr_lightning.model.losses import losses_of_shares

    z = torch.tensor([-40.0, -40.0, 40.0, 30.0, 0.5], dtype=torch.float64)
    y = torch.tensor([0.0, 1e-12, 1.0, 0.999, 0.25], dtype=torch.float64)
    loss, residual = losses_of_shares(z, y, None)
    expected = [np.exp(-40.0), np.exp(-40.0) - 1e-12, -np.exp(-40.0), 0.001, 1 / (1 + np.exp(-0.5)) - 0.25]
    assert residual.tolist() == pytest.approx(expected, rel=1e-9)
    assert loss[0].item() == pytest.approx(np.exp(-40.0), rel=1e-12)
    assert loss[1].item() == pytest.approx(4e-11, rel=1e-6)
    assert loss[3].item() == pytest.approx(0.03, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [50, 60_000])
@pytest.mark.parametrize("storage", ["dense", "csr", "categories"])
def test_every_storage_sums_shares(storage, n, dtype):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (n, 1), generator=generator, dtype=torch.int32)
    x = torch.nn.functional.one_hot(codes[:, 0].long(), 4)[:, 1:].to(dtype)
    design = Rows(_stored(storage, x, codes), torch.zeros(n)).design
    y = torch.randint(0, 6, (n,), generator=generator).to(dtype) / 5
    v, offset = (torch.rand(n, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    w, b = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    z = x.double() @ w + b + offset.double()
    residual = v.double() * (torch.sigmoid(z) - y.double())
    loss = v.double() * torch.nn.functional.binary_cross_entropy_with_logits(z, y.double(), reduction="none")
    for shares in (None, True):
        found = design.value_and_gradient(Outcomes(y, v, offset, shares), w, b)
        for ours, theirs in zip(found, (loss.sum(), x.double().T @ residual, residual.sum()), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-11, atol=1e-4)


def _stored(storage, x, codes):
    if storage == "dense":
        return x
    from lr_lightning.model.categories import Categories
    from lr_lightning.model.csr import Csr

    return Csr.of(csr_array(x.numpy())) if storage == "csr" else Categories(codes, [4])


def test_tensors_and_commands_say_the_same(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BUDWORM.to_csv("budworm.csv", index=False)
    options = ["--data.path", "budworm.csv", "--data.target", "dead", "--data.trials", "n", "--data.val_fraction", 0]
    code, _, err = run("fit", *options)
    assert code == 0
    assert "dead counts 111 successes among 240 trials" in err
    folder = tmp_path / "runs/budworm/version_0"
    report = json.loads((folder / "report.json").read_text())
    x = torch.tensor(BUDWORM[["male", "ldose"]].to_numpy())
    k, m = (torch.tensor(BUDWORM[name].to_numpy()) for name in ("dead", "n"))
    theirs = fit(TensorDataModule(x, k, trials=m, feature_names=["male", "ldose"])).infer().to_dict()
    for key in ("log_likelihood", "null_log_likelihood", "aic", "bic", "n_observations", "mean_outcome"):
        assert report[key] == pytest.approx(theirs[key], rel=1e-9)
    checkpoint = folder / "checkpoints/last.ckpt"
    BUDWORM[["ldose", "male"]].to_csv("new.csv", index=False)  # neither counts nor trials
    code, out, _ = run("predict", "--ckpt_path", checkpoint, "--data.path", "new.csv")
    expected = 1 / (1 + np.exp(-(-3.4731553071 + 1.1007433630 * BUDWORM["male"] + 1.0642139699 * BUDWORM["ldose"])))
    assert [float(line.split(",")[0]) for line in out.splitlines()[1:]] == pytest.approx(expected.tolist(), rel=1e-7)
    code, out, _ = run("test", "--ckpt_path", checkpoint, "--data.path", "budworm.csv")
    assert code == 0
    assert float(out.split()[1]) == pytest.approx(106.62042490766368 / 240, rel=1e-5)
    code, out, err = run("test", "--ckpt_path", checkpoint, "--data.path", "new.csv")
    assert (code, out) == (2, "")
    code, _, _ = run("fit", "--config", folder / "config.yaml", "--quiet")
    assert code == 0
    assert (tmp_path / "runs/budworm/version_1/report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_row_without_trials_counts_nothing():
    rows = pd.concat([BUDWORM, pd.DataFrame({"male": [1.0], "ldose": [9.0], "dead": [0], "n": [0]})])
    report, without = (fit(TableDataModule(table, **OPTIONS)).infer() for table in (rows, BUDWORM))
    assert [row.estimate for row in report.coefficients] == pytest.approx(
        [row.estimate for row in without.coefficients], rel=1e-9
    )
    assert (report.n_observations, report.bic) == (12, pytest.approx(without.bic, rel=1e-10))


def test_the_split_is_not_stratified_and_the_constant_is_that_of_the_training_rows():
    rows = random_counts(50)
    data = TableDataModule(rows, "k", ["a", "b"], trials="m", val_fraction=0.5, seed=3)
    report = fit(data).infer()
    assert len(data.val_rows.y) == 25
    m = data.train_rows.weight.numpy()
    k = np.round(data.train_rows.y.numpy() * m)
    constant = (gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)).sum()
    assert data.log_coefficient == pytest.approx(constant, rel=1e-12)
    share = k.sum() / m.sum()
    null = m.sum() * (share * np.log(share) + (1 - share) * np.log(1 - share)) + constant
    assert report.null_log_likelihood == pytest.approx(null, rel=1e-11)


def test_resumed_with_other_counts_it_is_refused(tmp_path):
    rows = random_counts(50)
    model = LogisticRegression(optimizer="SGD", optimizer_options={"lr": 0.1})
    options = {"features": ["a", "b"], "trials": "m", "val_fraction": 0}
    runner = trainer(max_epochs=2)
    runner.fit(model, TableDataModule(rows, "k", **options))
    runner.save_checkpoint(tmp_path / "counts.ckpt")
    data = TableDataModule(rows.assign(k=(rows["k"] > 0).astype(int)), "k", **options)
    with pytest.raises(InputError, match="the training rows are not those of"):
        trainer(max_epochs=4).fit(model, data, ckpt_path=tmp_path / "counts.ckpt")


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"dead": -1}, "row 3: the target dead is -1.0; it counts successes"),
            ({"dead": 0.5}, "row 3: the target dead is 0.5; it counts successes.* no proportion"),
            ({"dead": 21}, "row 3: the target dead counts 21 successes among 20 trials"),
            ({"dead": np.nan}, "row 3: the target dead has no value"),
            ({"n": 19.5}, "row 3: the trials n is 19.5; it must be a whole number"),
            ({"n": -20}, "row 3: the trials n is -20.0"),
            ({"n": np.nan}, "row 3: the trials n has no value"),
            ({"n": np.inf}, "row 3: the trials n is inf"),
        ],
    )
    def test_counts_that_are_none(self, change, words):
        rows = BUDWORM.astype(float)
        for name, value in change.items():
            rows.loc[2, name] = value
        with pytest.raises(InputError, match=words):
            TableDataModule(rows, **OPTIONS).setup("fit")

    def test_a_file_names_the_line(self, tmp_path):
        BUDWORM.assign(dead=[21, *BUDWORM["dead"][1:]]).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(InputError, match=r"t\.csv, line 2: the target dead counts 21 successes among 20"):
            TableDataModule(tmp_path / "t.csv", **OPTIONS).setup("fit")

    def test_missing_counts_are_left_out_where_rows_are_dropped(self):
        rows = BUDWORM.astype(float)
        rows.loc[2, "n"] = rows.loc[4, "dead"] = np.nan
        data = TableDataModule(rows, **OPTIONS, missing="drop")
        data.setup("fit")
        assert data.train_rows.weight.tolist() == [20] * 10

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"positive": 1}, "--data.positive 1: with --data.trials"),
            ({"trials": "dead"}, "--data.trials: dead is the target and cannot be the trials too"),
            ({"trials": None}, "--data.trials names the column of the numbers of trials"),
            ({"target": "share", "trials": None}, "proportions are no target.*--data.trials"),
            ({"target": "share"}, "it counts successes.*no proportion"),
            ({"target": "word"}, "row 1: the target word holds 'many', which is no number"),
        ],
    )
    def test_what_is_no_count(self, options, words):
        rows = BUDWORM.assign(share=BUDWORM["dead"] / 20, word="many")
        with pytest.raises(InputError, match=words):
            TableDataModule(rows, **{**OPTIONS, **options}).setup("fit")

    @pytest.mark.parametrize("typed", [True, False])
    def test_two_proportions_are_labels_only_if_one_is_named(self, typed, tmp_path):
        rows = BUDWORM.assign(dead=[0.25, 0.75] * 6)
        path = rows
        if not typed:
            path = tmp_path / "t.csv"
            rows.to_csv(path, index=False)
        options = {**OPTIONS, "trials": None}
        with pytest.raises(InputError, match=r"dead holds 0\.25 and 0\.75; proportions are no target.*--data.positive"):
            TableDataModule(path, **options).setup("fit")
        data = TableDataModule(path, **options, positive=0.75)
        data.setup("fit")
        assert data.train_rows.y.tolist() == [0, 1] * 6
        with pytest.raises(InputError, match=r"it counts successes.*no proportion"):
            TableDataModule(path, **OPTIONS).setup("fit")

    def test_one_outcome_alone(self):
        with pytest.raises(InputError, match="hold one class only"):
            fit(TableDataModule(BUDWORM.assign(dead=20), **OPTIONS))
        with pytest.raises(InputError, match="the trials n is 0 in every row"):
            fit(TableDataModule(BUDWORM.assign(dead=0, n=0), **OPTIONS))

    @pytest.mark.parametrize(
        ("y", "trials", "words"),
        [
            ([1, 3], [2, 2], "y must count successes"),
            ([0.5, 1], [2, 2], "y must count successes"),
            ([1, 1], [2.5, 2], "trials must be a whole number"),
            ([0.5, 1], None, "proportions are no target"),
            ([1, 1], [2], "trials must have shape"),
        ],
    )
    def test_of_tensors(self, y, trials, words):
        with pytest.raises(InputError, match=words):
            TensorDataModule(np.eye(2), y, trials=trials)
