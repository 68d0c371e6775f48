"""Tables that solvers stumble over: name → (x, y, weight), standardised, float64."""

import functools
from collections.abc import Callable

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from tests.solver.fit import standardize

Problem = tuple[Tensor, Tensor, Tensor | None]


class _Random:
    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator, dtype=torch.float64)

    def labels(self, logits: Tensor) -> Tensor:
        return (self.uniform(len(logits)) < torch.sigmoid(logits)).double()


def independent(r: _Random) -> Problem:
    x = r.normal(50_000, 12)
    return x, r.labels(x[:, :4].sum(1) * 0.5 - 0.3), None


def correlated_and_skewed(r: _Random) -> Problem:
    x = r.normal(60_000, 15) @ (r.normal(15, 15) * 0.7 ** torch.arange(15, dtype=torch.float64))
    x = torch.exp(0.5 * x / x.std(0))
    return x, r.labels(standardize(x) @ r.normal(15) * 0.5), None


def weighted(r: _Random) -> Problem:
    x = r.normal(30_000, 5)
    return x, r.labels(x[:, 0]), r.uniform(30_000) * (r.uniform(30_000) < 0.5)


def imbalanced(r: _Random) -> Problem:
    x = r.normal(200_000, 6)
    return x, r.labels(2 * x[:, 0] - 13), None


def imbalanced_the_other_way(r: _Random) -> Problem:
    x, y, _ = imbalanced(r)
    return x, 1 - y, None


def one_positive(r: _Random) -> Problem:
    x = r.normal(50_000, 1).clamp(-3, 3)
    y = torch.zeros(50_000, dtype=torch.float64)
    y[x[:, 0].abs().argmin()] = 1
    return x, y, None


def collinear(r: _Random) -> Problem:
    x = r.normal(40_000, 4)
    x = torch.cat([x, x[:, :1], x[:, :1] + x[:, 1:2]], 1)
    return x, r.labels(x[:, 0]), None


def nearly_collinear(r: _Random) -> Problem:
    x = r.normal(40_000, 4)
    x = torch.cat([x, x[:, :2] + 1e-5 * r.normal(40_000, 2)], 1)
    return x, r.labels(x[:, 0]), None


def heavy_tails(r: _Random) -> Problem:
    x = r.normal(60_000, 6) / r.uniform(60_000, 6).pow(1.2)
    return x, r.labels(x.clamp(-5, 5).sum(1) * 0.3), None


def lognormal(r: _Random) -> Problem:
    x = torch.exp(3 * r.normal(60_000, 6))
    return x, r.labels(x.log().sum(1) * 0.1), None


def rare_levels(r: _Random) -> Problem:
    level = torch.where(r.uniform(100_000) < 0.99, r.uniform(100_000) * 4, 4 + r.uniform(100_000) * 20).long()
    x = torch.nn.functional.one_hot(level, 24)[:, 1:].double()
    return x, r.labels(x[:, 0] - 0.5), None


def wild_scales(r: _Random) -> Problem:
    x = r.normal(30_000, 5) * torch.tensor([1e-8, 1e8, 1.0, 1e3, 1e-3])
    return x, r.labels(x[:, 2]), None


def constant_column(r: _Random) -> Problem:
    x = r.normal(500, 4)
    x[:, 2] = 3.0
    return x, r.labels(x[:, 0]), None


def twenty_rows(r: _Random) -> Problem:
    x = r.normal(20, 3)
    return x, r.labels(torch.zeros(20)), None


REGULAR: dict[str, Callable[[_Random], Problem]] = {
    function.__name__: function
    for function in (
        independent,
        correlated_and_skewed,
        weighted,
        imbalanced,
        imbalanced_the_other_way,
        one_positive,
        collinear,
        nearly_collinear,
        heavy_tails,
        lognormal,
        rare_levels,
        wild_scales,
        constant_column,
        twenty_rows,
    )
}


def separated(r: _Random) -> Problem:
    x = r.normal(500, 4)
    return x, (x[:, 0] > 0).double(), None


def separated_tall(r: _Random) -> Problem:
    x = r.normal(60_000, 4)
    return x, (x[:, 0] > 0).double(), None


def quasi_separated(r: _Random) -> Problem:
    x = r.normal(500, 3)
    x[:, 2] = (r.uniform(500) < 0.05).double()
    y = r.labels(x[:, 0])
    y[x[:, 2] == 1] = 1
    return x, y, None


def quasi_separated_tall(r: _Random) -> Problem:
    x = r.normal(60_000, 3)
    x[:, 2] = (r.uniform(60_000) < 0.02).double()
    y = r.labels(x[:, 0])
    y[x[:, 2] == 1] = 1
    return x, y, None


def fewer_rows_than_features(r: _Random) -> Problem:
    x = r.normal(30, 50)
    return x, r.labels(torch.zeros(30)), None


def one_class(r: _Random) -> Problem:
    return r.normal(500, 4), torch.zeros(500, dtype=torch.float64), None


def one_class_tall(r: _Random) -> Problem:
    return r.normal(50_000, 4), torch.ones(50_000, dtype=torch.float64), None


def breast_cancer(r: _Random) -> Problem:
    table = load_breast_cancer()
    return torch.from_numpy(table.data), torch.from_numpy(table.target).double(), None


SEPARATED: dict[str, Callable[[_Random], Problem]] = {
    function.__name__: function
    for function in (
        separated,
        separated_tall,
        quasi_separated,
        quasi_separated_tall,
        fewer_rows_than_features,
        one_class,
        one_class_tall,
        breast_cancer,
    )
}


@functools.cache
def build(name: str, seed: int = 1) -> Problem:
    x, y, v = (REGULAR | SEPARATED)[name](_Random(seed))
    return standardize(x), y, v
