"""Fits of the same rows side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lr_lightning.errors import InputError, printable
from lr_lightning.statistics.report import Report
from lr_lightning.statistics.wald import chi_squared_p_value

_MEASURES = ("loss", "accuracy", "auroc", "brier")  # of held-out rows, in the text


@dataclass(frozen=True)
class Model:
    """A fit to compare.

    Attributes:
        name: what it is called.
        report: of the fit.
        rows_fingerprint: checksum of its rows, see `data.fingerprint`; None where the checkpoint lacks it.
        penalized: whether a penalty, or bounds, kept the estimates from the maximum of the likelihood.
        class_weight: the setting.
    """

    name: str
    report: Report
    rows_fingerprint: str | None
    penalized: bool
    class_weight: Any

    @property
    def coefficients(self) -> dict[str, float | None]:
        """The estimates by name."""
        return {row.name: row.estimate for row in self.report.coefficients}

    def is_nested_in(self, larger: Model) -> bool:
        """Whether a likelihood-ratio test between the two has its usual distribution."""
        comparable = all(
            model.report.converged
            and not model.penalized
            and not model.report.firth
            and model.report.separation is None
            for model in (self, larger)
        )
        smaller = set(self.coefficients) < set(larger.coefficients)
        fewer = self.report.n_parameters < larger.report.n_parameters
        return comparable and smaller and fewer and self.class_weight == larger.class_weight


@dataclass(frozen=True)
class LikelihoodRatio:
    """The likelihood-ratio test of a model in which another one is nested."""

    smaller: str
    larger: str
    statistic: float
    df: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Fits of the same rows, and the tests between those that are nested.

    Raises:
        InputError: if there are fewer than two, or their rows are not the same or not known.
    """

    models: tuple[Model, ...]

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise InputError("compare takes two checkpoints or more")
        first = self.models[0]
        for model in self.models:
            if model.rows_fingerprint is None:
                raise InputError(
                    f"{model.name}: does not say which rows it was fitted to, as an earlier version or bare loaders "
                    "leave it; fit again to compare"
                )
            if model.rows_fingerprint != first.rows_fingerprint:
                raise InputError(
                    f"{model.name}: was not fitted to the rows of {first.name} (row numbers, labels, weights, trials, "
                    "offset or split differ), so that nothing can be compared"
                )

    @property
    def tests(self) -> tuple[LikelihoodRatio, ...]:
        """The test of every pair of which one is nested in the other, in the order of the models."""
        found = []
        for smaller, larger in permutations(self.models, 2):
            if smaller.is_nested_in(larger):
                statistic = max(0.0, 2 * (larger.report.log_likelihood - smaller.report.log_likelihood))
                df = larger.report.n_parameters - smaller.report.n_parameters
                p_value = chi_squared_p_value(statistic, df)
                found.append(LikelihoodRatio(smaller.name, larger.name, statistic, df, p_value))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON."""
        models = []
        for model in self.models:
            report = model.report
            models.append(
                {
                    "name": model.name,
                    "log_likelihood": report.log_likelihood,
                    "n_parameters": report.n_parameters,
                    "aic": report.aic,
                    "bic": report.bic,
                    "held_out": None if report.held_out is None else asdict(report.held_out),
                    "coefficients": model.coefficients,
                }
            )
        return {"models": models, "tests": [asdict(test) for test in self.tests]}

    def as_csv(self) -> str:
        """A row a coefficient, a column a model; a coefficient that a model has not is an empty cell."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["name", *(model.name for model in self.models)])
        estimates = [model.coefficients for model in self.models]
        writer.writerows([name, *(of_model.get(name) for of_model in estimates)] for name in self._names())
        return out.getvalue()

    def as_text(self) -> str:
        """Coefficients, likelihoods and held-out measures in columns, and the tests."""
        numbers = [f"({k})" for k in range(1, len(self.models) + 1)]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        table.add_column("", no_wrap=True)
        for number in numbers:
            table.add_column(number, justify="right", no_wrap=True)
        for name in self._names():
            estimates = [model.coefficients.get(name) for model in self.models]
            table.add_row(*map(Text, [printable(" ".join(name.split())), *map(_number, estimates)]))
        table.add_row("")
        of_fit = ("n_observations", "n_parameters", "log_likelihood", "aic", "bic", "mcfadden_r2")
        for name in of_fit:
            table.add_row(*map(Text, [name, *(_number(getattr(m.report, name)) for m in self.models)]))
        for part in ("val", "test"):
            held_out = [getattr(model.report.held_out, part, None) for model in self.models]
            for name in _MEASURES if any(held_out) else ():
                table.add_row(*map(Text, [f"{part}/{name}", *(_number(getattr(h, name, None)) for h in held_out)]))
        out = io.StringIO()
        widest = max(map(len, self._names()))
        Console(
            force_jupyter=False, file=out, width=widest + 24 * len(self.models) + 40, color_system=None,
            highlight=False, markup=False,
        ).print(table)  # fmt: skip
        lines = [f"{number} {printable(model.name)}" for number, model in zip(numbers, self.models, strict=True)]
        lines += ["", *(line.rstrip() for line in out.getvalue().splitlines()), ""]
        number_of = dict(zip((model.name for model in self.models), numbers, strict=True))
        for test in self.tests:
            lines.append(
                f"likelihood-ratio test of {number_of[test.smaller]} in {number_of[test.larger]}: χ² = "
                f"{test.statistic:.4f} on {test.df} degree{'' if test.df == 1 else 's'} of freedom, "
                f"p-value {test.p_value:.4g}"
            )
        if not self.tests:
            lines.append(
                "no likelihood-ratio test: of no pair one is nested in the other, both being unpenalised optima of the "
                "likelihood with the same class weights"
            )
        return "\n".join(lines) + "\n"

    def _names(self) -> Sequence[str]:
        return list(dict.fromkeys(name for model in self.models for name in model.coefficients))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
