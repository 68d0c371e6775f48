"""A few of the inputs of `python -m tests.fuzz`, and hypothesis on what is small enough for it.

What either of them found stands, by name, in the tests of hostile checkpoints, tables and configurations.
"""

import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr_lightning import InputError
from lr_lightning.cli.yaml import load_configuration
from lr_lightning.data.plain_data import from_plain, misfit
from lr_lightning.data.schema import TableSchema
from lr_lightning.errors import printable
from lr_lightning.statistics.report import Report
from tests import fuzz_inputs
from tests.fuzz import TARGETS

INPUTS = 150  # of each target

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(fuzz_inputs.ODD)
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))


@pytest.mark.parametrize("target", TARGETS)
def test_some_of_each(tmp_path, target):
    outcomes = {use(target, 12345, number, tmp_path) for number in range(INPUTS)}
    assert outcomes == {"used", "refused"}  # or the inputs would be too tame, or too wild


def use(target, seed, number, folder):
    generator = random.Random(f"{seed}:{target}:{number}")  # noqa: S311
    message = None
    try:
        getattr(fuzz_inputs, target)(generator, folder)
    except InputError as error:
        message = str(error)
    assert message is None or message == printable(message)
    return "used" if message is None else "refused"


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_no_tree_is_too_odd_for_a_schema_or_a_report(tree):
    for read in (TableSchema.from_dict, Report.from_dict):
        with pytest.raises(InputError):
            read(tree)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_schema_with_one_odd_value_is_refused_or_used(data):
    plain = data.draw(st.sampled_from(fuzz_inputs.schemas())).to_dict()
    parent, key = data.draw(st.sampled_from(list(_places(plain))))
    parent[key] = data.draw(TREES)
    with contextlib.suppress(InputError):
        fuzz_inputs.use_schema(plain)


def _places(tree):
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


@settings(max_examples=100, deadline=None)
@given(st.text() | TREES.map(lambda tree: json.dumps(tree, default=str)))
def test_yaml_is_read_or_refused(text):
    import yaml

    with contextlib.suppress(yaml.YAMLError):
        load_configuration(text)


def test_a_report_there_and_back():
    """What is refused above is not refused because everything is."""
    report = fuzz_inputs.checkpoint_of(fuzz_inputs.schemas()[0])["report"]
    assert Report.from_dict(json.loads(json.dumps(report))).to_dict() == report
    assert Report.from_dict({**report, "of_a_later_version": 1}).to_dict() == report
    assert misfit(report, Report) is None
    assert from_plain(None, float | None) is None
