from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from lr_lightning.errors import InputError
from lr_lightning.training.data_modules import TableDataModule


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(name, content)` makes a file in the current, empty folder and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


@pytest.fixture
def messages():
    """What the package logs, one (level, line) each."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append((record.levelname, record.getMessage()))

    logger, handler = logging.getLogger("lr_lightning"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def fitted(path, target="y", **options):
    """A table, read as a fit reads it; without validation rows unless they are asked for."""
    data = TableDataModule(path, target, **{"val_fraction": 0.0, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def raw(data):
    """The training features in their original units, float64."""
    return data.train_rows.design.dense(torch.float64) * data.served.scale + data.served.mean


def refusal(path, target="y", **options):
    """The one line that a table is refused with."""
    with pytest.raises(InputError) as caught:
        fitted(path, target, **options)
    message = str(caught.value)
    assert "\n" not in message
    # Whoever reads it must know which file or which option is meant.
    assert (
        (isinstance(path, str) and os.path.basename(path.rstrip("/")) in message)
        or "--data." in message
        or "table" in message
    )
    return message


def dense(rows):
    """The features of rows as a tensor, with levels as 0 and 1."""
    return rows.design.dense()


def assert_same(one, other):
    """Assert that two sets of rows are equal to the last bit."""
    assert torch.equal(dense(one), dense(other))
    assert all(torch.equal(*pair) for pair in zip(one.as_batch()[1:], other.as_batch()[1:], strict=True))
