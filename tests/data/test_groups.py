"""Groups: rows of one group stay on one side of every split; and the columns of groups and folds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from lr_lightning import InputError, TableDataModule, TensorDataModule
from lr_lightning.data.schema import TableSchema
from lr_lightning.data.splits import part_of_groups, stratified_parts
from tests.data.conftest import fitted, refusal


def table(n=300, n_groups=40, seed=0):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, n_groups, n)
    y = (generator.random(n) < 0.3 + 0.4 * (groups % 2)).astype(int)
    return pd.DataFrame({"x": generator.normal(size=n), "g": [f"g{code}" for code in groups], "y": y})


def row_numbers(rows, part):
    """Which rows of a table a part holds, by their feature, which has no value twice."""
    values = (part.x[:, 0].double()).numpy()
    return np.abs(values[:, None] - rows[None]).argmin(axis=1)


def parts_of(data, rows):
    x = (rows["x"].to_numpy() - data.served.mean.numpy()) / data.served.scale.numpy()
    return [row_numbers(x, part) for part in (data.train_rows, data.val_rows, data.test_rows)]


class TestSplits:
    @pytest.mark.parametrize("cached", [False, True])
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_no_group_is_on_two_sides(self, tmp_path, suffix, cached):
        rows = table()
        path = tmp_path / f"t.{suffix}"
        rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path)
        options = {"cache_dir": tmp_path / "cache"} if cached else {}
        data = fitted(path, groups="g", val_fraction=0.2, test_fraction=0.1, **options)
        assert data.schema.feature_names == ("x",)
        parts = parts_of(data, rows)
        assert sum(map(len, parts)) == len(rows)
        groups = [set(rows["g"].iloc[part]) for part in parts]
        assert not groups[0] & groups[1] | groups[1] & groups[2] | groups[0] & groups[2]
        of_training = rows["g"].iloc[parts[0]].to_numpy()
        codes = data.train_groups.numpy()
        assert len(codes) == len(of_training)
        assert len(set(zip(codes, of_training, strict=True))) == len(set(codes)) == len(set(of_training))
        shares = [len(part) / len(rows) for part in parts]
        assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
        positive = [rows["y"].iloc[part].mean() for part in parts]
        assert positive == pytest.approx([rows["y"].mean()] * 3, abs=0.06)

    def test_tensors_do_likewise(self):
        rows = table()
        x, y = rows[["x"]].to_numpy(), rows["y"].to_numpy()
        for groups in (rows["g"].tolist(), torch.tensor([int(g[1:]) for g in rows["g"]]), rows["g"].to_numpy()):
            data = TensorDataModule(x, y, groups=groups, val_fraction=0.25)
            data.setup("fit")
            train = row_numbers(x[:, 0], data.train_rows)
            val = row_numbers(x[:, 0], data.val_rows)
            assert not set(rows["g"].iloc[train]) & set(rows["g"].iloc[val])
            assert len(val) == pytest.approx(75, abs=5)
            assert len(data.train_groups) == len(train)

    def test_the_seed_decides(self):
        rows = table()
        first, again, other = (
            fitted(rows, groups="g", val_fraction=0.3, seed=seed).val_rows.x[:, 0].tolist() for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other

    def test_groups_of_one_row_are_split_as_evenly_as_rows(self):
        y = torch.tensor([0] * 80 + [1] * 20)
        part = stratified_parts(y, val_fraction=0.2, test_fraction=0.1, seed=0, groups=np.arange(100))
        counts = [[int(((part == code) & (y == label)).sum()) for label in (0, 1)] for code in range(3)]
        assert counts == [[56, 14], [16, 4], [8, 2]]

    def test_many_groups_take_no_time_each(self):
        """A million groups, of few kinds, are divided in bulk; and by kind as evenly as whole numbers allow."""
        generator = np.random.default_rng(0)
        groups = np.repeat(np.arange(1_000_000), 2)
        y = (generator.random(len(groups)) < 0.1).astype(np.uint8)
        part = part_of_groups(y, groups, [0.7, 0.3], 0)
        kind = y.reshape(-1, 2).sum(1)
        for k in range(3):
            assert (part[kind == k] == 1).sum() == pytest.approx(0.3 * (kind == k).sum(), abs=1)

    def test_unequal_groups_fill_every_fold(self):
        generator = np.random.default_rng(0)
        sizes = np.r_[200, 100, generator.integers(1, 30, 60)]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        y = (generator.random(len(groups)) < 0.3).astype(np.uint8)
        part = part_of_groups(y, groups, [0.2] * 5, 1)
        rows = np.bincount(part[groups], minlength=5)
        positive = np.bincount(part[groups], weights=y, minlength=5)
        assert np.abs(rows - len(groups) / 5).max() <= 5
        assert np.abs(positive - y.sum() / 5).max() <= 5

    def test_a_class_of_one_group_is_for_training(self):
        y = torch.tensor([0] * 90 + [1] * 10)
        groups = np.r_[np.arange(90) % 9, np.full(10, 9)]
        for seed in range(20):
            part = stratified_parts(y, val_fraction=0.4, test_fraction=0.0, seed=seed, groups=groups)
            assert set(part[90:].tolist()) == {0}

    def test_few_groups(self):
        y, groups = torch.tensor([0, 1] * 20), np.repeat([0, 1], 20)
        part = stratified_parts(y, val_fraction=0.1, test_fraction=0.0, seed=0, groups=groups)
        assert sorted(np.bincount(part).tolist()) == [20, 20]
        with pytest.raises(InputError, match="the rows are of 2 groups, which stay together: that leaves no test rows"):
            stratified_parts(y, val_fraction=0.1, test_fraction=0.1, seed=0, groups=groups)
        with pytest.raises(InputError, match="of 1 group, which stay together"):
            stratified_parts(y, val_fraction=0.1, test_fraction=0.0, seed=0, groups=np.zeros(40, int))

    def test_counts_of_trials_are_split_by_group_too(self):
        rows = table().assign(m=5)
        rows["k"] = rows["y"] * 2
        data = fitted(rows, "k", features=["x"], trials="m", groups="g", val_fraction=0.3)
        x = (rows["x"].to_numpy() - data.served.mean.numpy()) / data.served.scale.numpy()
        train, val = (row_numbers(x, part) for part in (data.train_rows, data.val_rows))
        assert not set(rows["g"].iloc[train]) & set(rows["g"].iloc[val])
        assert len(val) == pytest.approx(90, abs=5)

    def test_a_changed_grouping_is_seen(self):
        """The rows that a fit kept back cannot be found again with other groups."""
        rows = table()
        fit = fitted(rows, groups="g", val_fraction=0.3)
        for changed, same in ((rows, True), (rows.assign(g=rows["g"].to_numpy()[::-1]), False)):
            data = TableDataModule(changed, "y", groups="g", val_fraction=0.3)
            data.use_schema(fit.schema, fit.training, every_row=False, fingerprint=fit.fingerprint)
            if same:
                data.setup("test")
                assert torch.equal(data.val_rows.x, fit.val_rows.x)
                continue
            with pytest.raises(InputError, match="has changed since the fit"):
                data.setup("test")

    def test_every_row_of_another_table_needs_no_groups(self):
        rows = table()
        fit = fitted(rows, groups="g")
        data = TableDataModule(rows[["x", "y"]], "y")
        data.use_schema(fit.schema, fit.training, every_row=True)
        data.setup("test")
        assert len(data.test_rows.y) == len(rows)


class TestColumns:
    def test_it_is_a_feature_only_if_that_is_asked_for(self, write):
        rows = "".join(
            f"{x},{group},{y}\n" for x, group, y in zip([3, 1, 2] * 4, "aabbcc" * 2, "001101" * 2, strict=True)
        )
        path = write("t.csv", f"x,g,y\n{rows}")
        assert fitted(path, groups="g").schema.feature_names == ("x",)
        data = fitted(path, groups="g", features=["g", "x"])
        assert data.schema.feature_names == ("g=b", "g=c", "x")
        assert data.train_groups.tolist() == [0, 0, 1, 1, 2, 2] * 2
        again = TableDataModule(path, "y")
        again.use_schema(
            TableSchema.from_dict(json.loads(json.dumps(data.schema.to_dict()))), data.training, every_row=True
        )
        again.setup("test")
        assert torch.equal(again.test_rows.design.dense(), data.train_rows.design.dense())

    def test_spellings_of_a_text_file_are_told_apart_and_blanks_are_not(self, write):
        path = write("t.csv", "x,g,y\n1,01,0\n2,1,1\n3, 01 ,1\n4,1.0,0\n5,01,1\n")
        assert fitted(path, groups="g").train_groups.tolist() == [0, 1, 0, 2, 0]

    @pytest.mark.parametrize(
        "values",
        [
            [3, 3, 7, 7, 3],
            [0.5, 0.5, 1.5, 1.5, 0.5],
            [True, True, False, False, True],
            pd.to_datetime(["2020-01-01", "2020-01-01", "2021-01-01", "2021-01-01", "2020-01-01"]),
            pd.Categorical(["b", "b", "a", "a", "b"]),
        ],
    )
    def test_values_of_any_type(self, values):
        rows = pd.DataFrame({"x": [1.0, 2, 3, 4, 5], "g": values, "y": [0, 1, 0, 1, 1]})
        assert fitted(rows, groups="g").train_groups.tolist() == [0, 0, 1, 1, 0]

    def test_a_row_without_a_group(self, write):
        path = write("t.csv", "x,g,y\n1,a,0\n2,NA,1\n3,b,1\n4,a,0\n")
        for missing in ("error", "impute"):
            message = refusal(path, groups="g", missing=missing)
            assert "t.csv, line 3: the groups column g has no value" in message
        data = fitted(path, groups="g", missing="drop")
        assert data.train_groups.tolist() == [0, 1, 0]
        rows = pd.DataFrame({"x": [1.0, 2, 3], "g": [1.0, np.nan, 2.0], "y": [0, 1, 1]})
        assert "row 2: the groups column g has no value" in refusal(rows, groups="g")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"groups": "y"}, "--data.groups: y is the target and cannot be the groups too"),
            ({"groups": "x", "weight": "x"}, "--data.groups: x is the weight and cannot be the groups too"),
            ({"groups": "nope"}, "no groups column nope"),
        ],
    )
    def test_other_double_roles_are_refused(self, options, words):
        assert words in refusal(table(), **options)

    def test_of_tensors(self):
        x, y = np.eye(3), [0, 1, 1]
        with pytest.raises(InputError, match=r"groups must have shape \(3,\)"):
            TensorDataModule(x, y, groups=[1, 2])
        for groups in ([1.0, np.nan, 2.0], ["a", None, "b"]):
            with pytest.raises(InputError, match="groups holds a missing value"):
                TensorDataModule(x, y, groups=groups)


class TestFolds:
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    @pytest.mark.parametrize("cached", [False, True])
    def test_they_come_with_their_values(self, tmp_path, suffix, cached):
        rows = table().assign(f=lambda rows: rows.index % 3 + 10)
        path = tmp_path / f"t.{suffix}"
        rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path)
        options = {"cache_dir": tmp_path / "cache"} if cached else {}
        data = TableDataModule(path, "y", groups="g", val_fraction=0.3, **options)
        data.fold_column = "f"
        data.setup("fit")
        assert data.schema.feature_names == ("x",)
        assert "f" not in json.dumps(list(data.schema.roles.values()))
        values = [data.fold_values[code] for code in data.train_folds.tolist()]
        x = (rows["x"].to_numpy() - data.served.mean.numpy()) / data.served.scale.numpy()
        expected = rows["f"].iloc[row_numbers(x, data.train_rows)].tolist()
        assert values == ([str(value) for value in expected] if suffix == "csv" else expected)

    def test_groups_and_folds_may_be_one_column(self):
        data = TableDataModule(table(), "y", groups="g", val_fraction=0)
        data.fold_column = "g"
        data.setup("fit")
        assert torch.equal(data.train_folds, data.train_groups)

    def test_a_fold_column_has_no_other_role(self):
        data = TableDataModule(table(), "y", weight="x", features=["g"], val_fraction=0)
        data.fold_column = "x"
        with pytest.raises(InputError, match=r"fold_column: x is the weight and cannot be the fold too"):
            data.setup("fit")

    def test_a_row_without_one(self):
        data = TableDataModule(table().assign(f=[None, *["a"] * 299]), "y", groups="g", val_fraction=0)
        data.fold_column = "f"
        with pytest.raises(InputError, match="row 1: the fold column f has no value"):
            data.setup("fit")
