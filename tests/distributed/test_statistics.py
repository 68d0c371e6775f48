"""Reports of several processes, each of which sums its own rows, are those of one."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from lr_lightning import LogisticRegression, TensorDataModule
from lr_lightning.model import gathering
from lr_lightning.model.processes import Processes
from lr_lightning.model.rows import Rows
from lr_lightning.statistics.held_out import measures, of_all_processes
from tests.distributed.several import in_processes
from tests.distributed.test_fit import leaves, table, trainer_for

FREE = {"l2": 0.0}


def plain(x, y):
    return x, y, {}


def collinear(x, y):
    return np.column_stack([x, 2 * x[:, 0] - x[:, 1] + 3, np.full(len(x), 5.0)]), y, {}


def separated(x, y):
    return np.column_stack([x, x @ [1.0, 2, 3, 4] > 0]), (x @ [1.0, 2, 3, 4] > 0).astype(float), {}


def quasi_separated(x, y):
    """By a level that has one outcome and lies in the last process, and by a direction of two columns."""
    level = (np.arange(len(y)) > len(y) - 30).astype(float)
    return np.column_stack([x, level]), np.where(level > 0, 1.0, y), {}


def quasi_separated_by_a_direction(x, y):
    wedge = np.abs(x[:, :1]) * np.where(y > 0, 1, -1)[:, None] + x[:, 1:2]
    on_the_edge = np.arange(len(y)) % 3 > 0
    wedge[on_the_edge] = x[on_the_edge, 1:2]
    return np.column_stack([wedge, x[:, 1:]]), y, {}


def with_roles(x, y):
    n = len(y)
    generator = np.random.default_rng(3)
    options = {"weight": generator.integers(0, 3, n), "offset": generator.normal(size=n), "groups": np.arange(n) // 7}
    return x, y, options


CASES = {  # rows, their making, options of the model, options of the report
    "plain": (3000, plain, FREE, {}),
    "sandwich": (3000, plain, FREE, {"covariance": "HC1"}),
    "cluster": (3000, with_roles, FREE, {"covariance": "cluster"}),
    "class_weight": (3000, with_roles, {"class_weight": "balanced"}, {"covariance": "HC0"}),
    "collinear": (3000, collinear, FREE, {}),
    "separated": (900, separated, FREE, {}),
    "quasi_separated": (900, quasi_separated, FREE, {}),
    "quasi_separated_by_a_direction": (5000, quasi_separated_by_a_direction, FREE, {}),
    "profile": (300, plain, FREE, {"inference": "profile"}),
    "profile_beside_separation": (300, quasi_separated, FREE, {"inference": "profile"}),
    "firth": (300, quasi_separated, {"firth": True}, {}),
    "bounds": (300, plain, {"bounds": {"x0": [0.0, 0.2]}}, {}),
    "few_rows": (2, plain, {"l2": 0.1}, {}),
    "threshold": (900, plain, {"threshold": "f1"}, {}),
}


def report_of(name, processes):
    n_rows, make, options, of_report = CASES[name]
    x, y, of_data = make(*table(n_rows, seed=2)[:2])
    held_out = {"val_fraction": 0.2, "test_fraction": 0.1} if n_rows > 100 else {}
    trainer, model = trainer_for(processes, max_epochs=100), LogisticRegression(**options)
    trainer.fit(model, TensorDataModule(x, y, **of_data, **held_out))
    return {"threshold in use": model.threshold, **dict(leaves(model.infer(**of_report).to_dict()))}


def reports(processes):
    return {name: report_of(name, processes) for name in CASES}


@pytest.fixture(scope="module")
def both():
    return reports(1), in_processes(3, reports, 3)


@pytest.mark.parametrize("name", CASES)
def test_a_report_is_that_of_one_process(both, name):
    alone, several = both
    expected, found = alone[name], several[0][name]
    assert all(other[name] == found for other in several[1:])
    assert found.keys() == expected.keys()
    separated = expected["separation"] is not None
    for key, value in expected.items():
        of_a_fit_that_grows = name == "quasi_separated_by_a_direction" and isinstance(value, float)
        if separated and (key == "passes" or of_a_fit_that_grows):  # they say where it stopped
            continue
        if isinstance(value, float):
            value = pytest.approx(value, rel=1e-6 if separated else 1e-9, abs=1e-7 if separated else 1e-12)
        assert found[key] == value, key


def test_what_the_cases_are_about(both):
    alone, _ = both
    assert alone["separated"]["separation"] == "complete"
    assert alone["quasi_separated"]["separation"] == alone["quasi_separated_by_a_direction"]["separation"] == "quasi"
    assert alone["quasi_separated_by_a_direction"]["warnings.0"].startswith("quasi-complete separation")
    assert "linear function" in " ".join(str(v) for k, v in alone["collinear"].items() if k.startswith("warnings"))
    assert alone["cluster"]["n_groups"] > 100
    assert alone["bounds"]["coefficients.1.estimate"] == 0.2


def held_out_rows(n):
    generator = np.random.default_rng(4)
    z = generator.normal(size=n) * 2
    y = (generator.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    return z, y, generator.integers(1, 4, n).astype(float)


def merged(processes_or_rank, n, most):
    from lr_lightning.model.processes import SeveralProcesses

    processes = Processes()
    if torch.distributed.is_initialized():
        processes = SeveralProcesses(torch.device("cpu"))
    own = processes.share(n)
    columns = [torch.from_numpy(column[own]) for column in held_out_rows(n)]
    return processes, of_all_processes(*columns, processes, most=most)


def with_ties(n):
    z, y, v = held_out_rows(n)
    return z.round(1), y, v


def merged_by_several(n, most):
    torch.distributed.init_process_group("gloo")
    try:
        processes, found = merged(None, n, most)
        own = [slice(0, n // 4), slice(0, 0), slice(n // 4, n)][processes.rank]  # one has no rows
        rows = of_all_processes(*(torch.from_numpy(column[own]) for column in with_ties(n)), processes)
        ranked = rows.measures(0.3), rows.calibration()
        with pytest.MonkeyPatch.context() as patch:
            told = []
            patch.setattr(gathering.log, "info", lambda text, *values: told.append(text % values))
            patch.setattr(gathering, "MANY_ROWS", n - 1)
            whole = gathering.table_of_all(Rows(rows.logits[:, None], rows.y), processes, "firth")
        assert (len(whole.y), told) == (n, [f"firth: each of 3 processes holds all {n} rows"])
        found = [column.numpy() for column in found.columns], found.n_rows, found.n_observations, found.error
        return *found, ranked
    finally:
        torch.distributed.destroy_process_group()


def test_held_out_rows_are_ranked_together_and_beyond_the_limit_merged_with_the_error_that_is_told():
    n = 50_000
    z, y, v = held_out_rows(n)
    (columns, n_rows, n_observations, error, ranked), *others = in_processes(3, merged_by_several, n, 10_000)
    assert all(np.array_equal(a, b) for other in others for a, b in zip(columns, other[0], strict=True))
    assert (n_rows, n_observations) == (n, n)
    assert len(columns[0]) < n  # fewer rows stand for them
    assert columns[2].sum() == v.sum()
    found = measures(*map(torch.from_numpy, columns), 0.5)
    assert 0 < error < 1e-4
    assert abs(found["auroc"] - roc_auc_score(y, z, sample_weight=v)) <= error
    assert abs(found["average_precision"] - average_precision_score(y, z, sample_weight=v)) <= error
    assert found["loss"] == pytest.approx(log_loss(y, 1 / (1 + np.exp(-z)), sample_weight=v), rel=1e-8)
    z, y, v = with_ties(n)
    assert all(other[-1] == ranked for other in others)
    assert ranked[0]["auroc"] == pytest.approx(roc_auc_score(y, z, sample_weight=v), rel=1e-12)
    assert ranked[0]["average_precision"] == pytest.approx(average_precision_score(y, z, sample_weight=v), rel=1e-12)
    of_one = of_all_processes(*map(torch.from_numpy, (z, y, v)))
    assert ranked[0] == pytest.approx(of_one.measures(0.3), rel=1e-12)
    for name, value in vars(of_one.calibration()).items():
        expected = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert getattr(ranked[1], name) == expected
    _, alone = merged(None, n, 10_000)
    assert np.allclose(alone.logits.numpy(), columns[0], rtol=1e-12)
    _, exact = merged(None, n, n)
    assert (exact.error, len(exact.y)) == (0.0, n)
