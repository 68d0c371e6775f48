"""What the processes tell one another does not grow with the rows."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lr_lightning import LogisticRegression, TableDataModule
from lr_lightning.model.processes import ALONE
from lr_lightning.solver import sampling
from lr_lightning.statistics import held_out
from lr_lightning.training import optimizers
from tests.distributed.several import in_processes
from tests.distributed.test_fit import trainer_for
from tests.distributed.traffic import Traffic


def traffic(paths, processes):
    for module in (sampling, optimizers):  # and rows are ranked by a histogram from 100 on
        module.sample_size = lambda n, d: 100
    held_out.of_all_processes.__defaults__, held_out._BINS = (ALONE, 100), 1 << 10
    found = []
    for path in paths:
        counted = Traffic()
        with counted.counted():
            data = TableDataModule(path, "y", weight="weight", missing="impute", val_fraction=0.2)
            model = LogisticRegression()
            trainer_for(processes, max_epochs=30, callbacks=[counted]).fit(model, data)
            model.infer(covariance="HC1")
        found.append((len(data.train_rows.y), sum(counted.sent), counted.bytes_of_passes))
    return found


def tables(folder, sizes):
    """The paths of tables of so many rows."""
    generator, paths = np.random.default_rng(0), []
    for n in sizes:
        x = generator.normal(size=(n, 3))
        y = generator.random(n) < 1 / (1 + np.exp(-x @ [1.0, 0.5, 0.0]))
        table = {f"x{j}": x[:, j] for j in range(3)} | {"city": generator.choice(["Rome", "Oslo", "Lima"], n), "y": y}
        table["x0"][::7] = np.nan
        paths.append(f"{folder}/{n}.parquet")
        parquet.write_table(pa.table(table | {"weight": generator.integers(1, 4, n)}), paths[-1], row_group_size=300)
    return paths


def test_what_is_told_does_not_grow_with_the_rows(tmp_path):
    for few, many in in_processes(3, traffic, tables(tmp_path, (2000, 8000)), 3):
        assert many[0] > 3 * few[0]
        passes = {*few[2], *many[2]}
        assert min(len(few[2]), len(many[2])) > 1
        assert len(passes) == 1
        (of_a_pass,) = passes
        others = [total - of_a_pass * len(of_passes) for _, total, of_passes in (few, many)]
        assert others[1] == pytest.approx(others[0], rel=0.01)  # plain numbers are longer in many rows
