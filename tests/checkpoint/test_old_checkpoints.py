"""Checkpoints and run folders of an earlier version (`tests.write_checkpoints`): used, and gone on from."""

import csv
import io
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from lr_lightning import load
from tests.write_checkpoints import (
    FINISHED,
    FITS,
    FOLDER,
    ROWS,
    UNFINISHED,
    arithmetic,
    ending,
    from_hex,
    go_on,
    go_on_in,
    inferred,
    measure,
    unpacked,
    write_tables,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def same_arithmetic():
    """Whether sums are rounded here as where the checkpoints were written: then all bits are the same."""
    return arithmetic() == json.loads((FOLDER / "arithmetic.json").read_text())


# Sums are rounded otherwise now where categories were zeros and ones then, and are codes now, and in Hessians of all
# rows, which are summed in other blocks.
ROUNDED_OTHERWISE = ("people", "many", "exact_dense_at_its_last_epoch")


def assert_as_stored(found, stored, digits=1e-12, *, name=None):
    """All that was stored: coefficients to the bit where sums are rounded alike; words and what is new are let be."""
    if isinstance(stored, dict):
        assert stored.keys() <= found.keys()
        for key, value in stored.items():
            assert_as_stored(found[key], value, digits, name=name)
    elif isinstance(stored, list) and stored and isinstance(stored[0], str) and "0x" in stored[0]:
        if same_arithmetic() and name not in ROUNDED_OTHERWISE:
            assert found == stored
        found, stored = from_hex(found), from_hex(stored)
        assert torch.allclose(found, stored, rtol=0, atol=digits * max(1, float(stored.abs().max())))
    elif isinstance(stored, list) and stored and isinstance(stored[0], dict):
        assert len(found) == len(stored)
        for one, other in zip(found, stored, strict=True):
            assert_as_stored(one, other, digits, name=name)
    elif isinstance(stored, list) and stored and isinstance(stored[0], str):
        assert [words.partition(":")[0] for words in found] == [words.partition(":")[0] for words in stored]
    else:
        closely = {"rel": 1e-9 if same_arithmetic() else 1e-5, "abs": 1e-9}
        assert found == (pytest.approx(stored, **closely) if isinstance(stored, float) else stored)


def stored(part, name):
    return json.loads((FOLDER / part / f"{name}.json").read_text())


@pytest.fixture
def old_runs(project):
    """A function that puts run folders of the earlier version, and their tables, into the current folder."""
    write_tables(project)
    return lambda part: shutil.copytree(FOLDER / part / "runs", project / "runs")


@pytest.mark.parametrize("name", FITS)
def test_a_fit_goes_on(tmp_path, name):
    """To the end that it had then; and by way of another checkpoint, of the present version, to the same bits."""
    found = go_on(name, unpacked(name, tmp_path), save_to=tmp_path / "between.ckpt")
    assert_as_stored(found, stored("unfinished", name), FITS[name].digits, name=name)
    assert go_on(name, tmp_path / "between.ckpt") == found


@pytest.mark.parametrize("name", UNFINISHED)
def test_the_command_line_goes_on(old_runs, run, name):
    old_runs("unfinished")
    assert_as_stored(go_on_in(name, run), stored("unfinished", name), name=name)


@pytest.mark.parametrize("name", ["hours", "many"])
def test_a_new_run_goes_on_with_the_checkpoints_settings(old_runs, run, name):
    checkpoint = old_runs("unfinished") / name / "version_0/checkpoints/last.ckpt"
    options = ["--trainer.max_epochs", "40"] if name == "hours" else []
    assert run("fit", "--ckpt_path", checkpoint, *options, "--quiet")[0] == 0
    (report,) = Path("runs").rglob("report.json")
    assert_as_stored(ending(report.parent), stored("unfinished", name), name=name)


@pytest.mark.parametrize(("part", "name"), [("finished", "people"), ("unfinished", "many")])
def test_a_saved_configuration_gives_the_same_result_again(old_runs, run, part, name):
    runs = old_runs(part)
    expected = json.loads((runs / name / "version_0/report.json").read_text()) if part == "finished" else None
    assert run("fit", "--config", f"runs/{name}/version_0/config.yaml", "--quiet")[0] == 0
    found = ending(runs / name / "version_1")
    if expected is not None:
        assert_as_stored(found["report"], expected)
    else:
        assert_as_stored(found, stored(part, name), name=name)


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_fit_predicts_and_is_measured(old_runs, run, name):
    folder = old_runs("finished") / name / "version_0"
    expected, checkpoint = stored("finished", name), folder / "checkpoints/last.ckpt"
    assert_as_stored(inferred(name, run), expected, name=name)
    code, out, err = run("predict", "--ckpt_path", checkpoint, "--data.path", ROWS[name])
    assert code == 0, err
    printed = [float(row["probability"]).hex() for row in csv.DictReader(io.StringIO(out))]
    assert_as_stored(printed[::3], expected["probability"], name=name)
    report = json.loads((folder / "report.json").read_text())
    found = load(checkpoint).report().to_dict()
    assert {key: found[key] for key in report} == report
    code, out, err = run("report", "--ckpt_path", checkpoint, "--format", "json")
    assert code == 0, err
    printed = json.loads(out)
    assert {key: printed[key] for key in report} == report


def test_the_tutorials_probability(old_runs):
    predictor = load(old_runs("finished") / "hours/version_0/checkpoints/last.ckpt")
    assert predictor.probability(predictor.prediction_input).item() == pytest.approx(0.8327455520629883, abs=1e-7)


def test_nothing_is_left_to_do_for_a_fit_that_has_converged(old_runs, run):
    old_runs("finished")
    code, out, err = run("fit", "--ckpt_path", "runs/people/version_0/checkpoints/last.ckpt")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("the fit has come to its end (converged); nothing is left to do")


def test_a_trainer_measures_a_finished_fit():
    assert_as_stored(measure(FOLDER / "finished/tensors.ckpt"), stored("finished", "tensors"))


def test_no_path_of_a_machine_is_in_them(tmp_path):
    checkpoints = [unpacked(name, tmp_path) for name in FITS] + list(FOLDER.rglob("*.ckpt"))
    assert len(checkpoints) > len(FITS) + len(UNFINISHED) + len(FINISHED)
    contents = [torch.load(path, weights_only=True) for path in checkpoints]
    contents += [yaml.safe_load(path.read_text()) for path in FOLDER.rglob("config.yaml")]
    contents += [json.loads(path.read_text()) for path in FOLDER.rglob("*.json")]
    texts = [text for content in contents for text in all_texts(content)]
    assert any(text == "conf/samples/breast_cancer.csv" for text in texts)
    assert [text for text in texts if re.search(r"""(^|[\s'"=])([A-Za-z]:\\|[/~])\S""", text)] == []


def all_texts(tree):
    """Every str in a tree of dicts and lists."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from all_texts(key)
            yield from all_texts(value)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from all_texts(item)
