"""Rendering of a report: as text for a terminal, as JSON, and its coefficient table as CSV."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lr_lightning.errors import printable
from lr_lightning.statistics.report import Coefficient, Effect, Report

_WIDTH = 100
_NONE = "NA"  # as R prints it
_SMALLEST_P = 2e-16  # as R prints it


def as_json(report: Report) -> str:
    """The whole report as strict JSON; of more than 4096 coefficients each stands on a line of its own."""
    values = report.to_dict()
    if not report.is_wide:
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    # The encoder that indents is Python's own, and slow.
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    lines = ",\n    ".join(map(encoder.encode, values["coefficients"]))
    text = json.dumps({**values, "coefficients": []}, indent=2, ensure_ascii=False, allow_nan=False)
    head, _, tail = text.partition('"coefficients": []')
    return f'{head}"coefficients": [\n    {lines}\n  ]{tail}'


def as_csv(report: Report) -> str:
    """The coefficient table as CSV with all digits; a value that does not exist is an empty cell."""
    return _table_as_csv(Coefficient, report.coefficients)


def effects_as_csv(report: Report) -> str:
    """The table of average marginal effects, likewise."""
    return _table_as_csv(Effect, report.average_marginal_effects or ())


def _table_as_csv(kind: type, rows: Sequence[object]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in fields(kind)]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return out.getvalue()


def as_text(report: Report, most: int | None = 30, *, effects: bool = False) -> str:
    """The coefficient table, with at most `most` rows, the likelihoods and the warnings, in the manner of R's glm.

    With `effects`, the table of average marginal effects follows that of the coefficients.
    """
    rows = shown_rows(report.coefficients, most)
    left_out = len(report.coefficients) - len(rows)
    parts = [_heading(report), "", _coefficients(report, rows)]
    if left_out:
        parts.append(f"and {left_out} more, of smaller |z| or estimate; the CSV and JSON forms have them all")
    if effects:
        parts += ["", _effects(report)]
    parts += ["", *_fit(report)]
    if report.calibration is not None:
        parts += ["", *_calibration(report)]
    for warning in report.warnings:
        text = printable(" ".join(warning.split()))
        parts += ["", textwrap.fill(f"Warning: {text}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
    return "\n".join(parts) + "\n"


def shown_rows(rows: tuple[Coefficient, ...], most: int | None) -> list[Coefficient]:
    """The `most` rows with the largest |z|, or |estimate| if there are no standard errors, in the table's order."""
    if most is None or len(rows) <= most:
        return list(rows)
    with_errors = any(row.z is not None for row in rows)
    sizes = [abs((row.z if with_errors else row.estimate) or 0.0) for row in rows]
    chosen = sorted(range(len(rows)), key=lambda j: -sizes[j])[:most]
    return [rows[j] for j in sorted(chosen)]


def _heading(report: Report) -> str:
    state = "converged" if report.converged else "not converged"
    penalty = "" if not report.firth else f" with Firth's penalty{', FLIC' if report.flic else ''}"
    return (
        f"Logistic regression{penalty}: {_count(report.n_observations, 'observation')}, "
        f"{_count(report.n_parameters, 'parameter')}, {state} after {_count(report.passes, 'pass', 'passes')}"
    )


def _coefficients(report: Report, rows: list[Coefficient]) -> str:
    confidence_level = f"{100 * report.level:g} %"
    with_errors = any(row.std_error is not None or row.z is not None for row in rows)
    with_vif = any(row.vif is not None for row in rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("", no_wrap=True)
    headings = ["estimate"]
    if with_errors:
        headings += ["std. error", "z", "p-value", "low", "high"]
    headings += ["odds ratio"] + (["low", "high"] if with_errors else []) + (["VIF"] if with_vif else [])
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [_number(row.estimate)]
        if with_errors:
            z = _NONE if row.z is None else f"{row.z:.3f}"
            cells += [
                _number(row.std_error, 5),
                z,
                _p_value(row.p_value),
                _number(row.ci_low, 5),
                _number(row.ci_high, 5),
            ]
        cells.append(_number(row.odds_ratio, 5))
        cells += [_number(row.odds_ratio_low, 4), _number(row.odds_ratio_high, 4)] if with_errors else []
        cells += [_number(row.vif, 4)] if with_vif else []
        table.add_row(*(Text(cell) for cell in [printable(" ".join(row.name.split())), *cells]))
    text = _lines(table, [row.name for row in rows])
    if with_errors:
        errors = "inverse Hessian" if report.covariance == "nonrobust" else f"sandwich ({report.covariance})"
        if report.covariance == "cluster" and report.n_groups is not None:
            errors += f" of {_count(report.n_groups, 'group')}"
        text += f"\nlow and high: {confidence_level} confidence limits; standard errors from the {errors}"
    if with_errors and report.inference == "profile":
        likelihood = "penalised likelihood" if report.firth else "likelihood"
        but = ", but Wald's of the intercept" if report.flic else ""
        text += f"\nz, p-values and limits by the profile {likelihood}{but}"
    return text


def _effects(report: Report) -> str:
    rows = report.average_marginal_effects or ()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("", no_wrap=True)
    for heading in ("effect", "std. error", "z", "p-value", "low", "high"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        z = _NONE if row.z is None else f"{row.z:.3f}"
        limits = (_number(row.ci_low, 5), _number(row.ci_high, 5))
        cells = [_number(row.effect), _number(row.std_error, 5), z, _p_value(row.p_value), *limits]
        table.add_row(*(Text(cell) for cell in [printable(" ".join(row.name.split())), *cells]))
    return "average marginal effects: mean changes of the probability\n" + _lines(table, [row.name for row in rows])


def _lines(table: Table, names: Sequence[str]) -> str:
    """A table as lines of any width; names are its first column."""
    out = io.StringIO()
    widest = max(map(len, names), default=0)
    console = Console(
        force_jupyter=False, file=out, width=2 * widest + 200, color_system=None, highlight=False, markup=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _fit(report: Report) -> list[str]:
    likelihood = round(report.log_likelihood, 6) + 0.0  # no negative zero
    penalized = report.penalized_log_likelihood
    lines = [
        f"log-likelihood {likelihood:.6f}, of the null model {report.null_log_likelihood:.6f}"
        + ("" if report.mcfadden_r2 is None else f", McFadden's R² {report.mcfadden_r2:.4f}"),
        f"AIC {report.aic:.4f}, BIC {report.bic:.4f}",
        *([] if penalized is None else [f"penalised log-likelihood {penalized:.6f}"]),
    ]
    test = report.likelihood_ratio_test
    if test is not None:
        freedom = _count(test.degrees_of_freedom, "degree", "degrees")
        lines.append(
            f"likelihood-ratio test of all slopes: χ² = {test.statistic:.4f} on {freedom} of freedom, "
            f"p-value {_p_value(test.p_value)}"
        )
    lines.append(
        f"balance on the training rows: mean prediction {report.mean_prediction:.6g}, "
        f"mean outcome {report.mean_outcome:.6g}"
    )
    return lines


def _calibration(report: Report) -> list[str]:
    c = report.calibration
    assert c is not None  # noqa: S101
    known = c.slope is not None and c.intercept is not None
    line = "" if not known else f", intercept {c.intercept:.4f} (best 0), slope {c.slope:.4f} (best 1)"
    rule = "" if report.threshold_rule is None else f" ({printable(report.threshold_rule)})"
    return [
        f"calibration on {_count(c.n_observations, f'{printable(c.rows)} row')}: Brier score {c.brier:.6f}, "
        f"expected calibration error {c.expected_calibration_error:.6f}{line}",
        f"mean prediction {c.mean_prediction:.6g}, mean outcome {c.mean_outcome:.6g}; "
        f"threshold {report.threshold:.6g}{rule}",
    ]


def _number(value: float | None, digits: int = 6) -> str:
    return _NONE if value is None else f"{value:.{digits}g}"


def _p_value(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"<{_SMALLEST_P:g}" if value < _SMALLEST_P else f"{value:.4g}"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
