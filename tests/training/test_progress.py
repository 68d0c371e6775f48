"""What a fit shows while it runs: a bar on a terminal, lines elsewhere, nothing where silence was asked for."""

import os
import pty
import re
import sys
import threading

import pytest

from lr_lightning.cli.main import main
from lr_lightning.training.callbacks.progress import _epochs_a_line

HOURS = ["fit", "--config", "conf/hours.yaml", "--trainer.max_epochs", "40"]


@pytest.fixture
def on_terminal(monkeypatch):
    """Run the command line in this process with a terminal as stderr; what it writes there."""

    def run(*arguments, columns=100):
        ours, theirs = pty.openpty()
        said = []

        def read():
            try:
                while data := os.read(ours, 1 << 16):
                    said.append(data)
            except OSError:  # how Linux says that the other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        with os.fdopen(theirs, "w", buffering=1) as stderr, monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm-256color")
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stderr", stderr)
            code = main(list(arguments))
        reader.join(timeout=60)
        os.close(ours)
        assert code == 0
        return b"".join(said).decode().replace("\r\n", "\n")

    return run


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_gets_a_bar(project, on_terminal):
    said = on_terminal(*HOURS)
    last = without_escapes(said.split("\r")[-1]).splitlines()[0]
    assert re.match(r"epoch 40/40 ━{40} train/loss 2\.46581 0:00:\d\d 0:00:00$", last)
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor is hidden, and given back
    assert "epoch 3: " not in said
    assert "checkpoint   runs/hours/version_0/checkpoints/last.ckpt" in said


def test_a_bar_is_whole_where_the_solver_stopped_by_itself_and_others_write_below_it(project, on_terminal):
    said = on_terminal("fit", "--config", "conf/breast_cancer.yaml", "--model.l2", "0")
    after_bar = without_escapes(said.split("\r")[-1]).splitlines()
    assert re.match(r"epoch (\d+)/\1 ━{40} train/loss ", after_bar[0])
    assert after_bar[1].startswith("not converged: ")
    assert re.search(r"epoch (\d+)/\1 ━{40} ", without_escapes(on_terminal("fit", "--config", "conf/exam.yaml")))


@pytest.mark.parametrize("columns", [48, 60, 80, 120])
def test_a_path_shows_whole_numbers_however_narrow_the_terminal(project, on_terminal, columns):
    options = ["--path.n_lambda", "5", "--cv.folds", "3", "--data.target", "diagnosis"]
    said = on_terminal("path", "--data.path", "conf/samples/breast_cancer.csv", *options, columns=columns)
    shown = re.findall(r"penalty \d+[ /].*", without_escapes(said.replace("\r", "\n")))
    times = r" 0:00:\d\d 0:00:00" if columns >= 80 else ""
    assert re.match(rf"penalty 5/5 ━+ 22 non-zero, loss 0\.0406658{times}$", shown[-1].rstrip())
    assert not any("None" in line or "…" in line for line in shown)


def test_a_terminal_gets_no_bar_if_silence_is_asked_for(project, on_terminal):
    assert on_terminal(*HOURS, "--quiet") == ""


@pytest.mark.parametrize("force", [False, True])
def test_a_file_gets_plain_lines(project, run, monkeypatch, force):
    """FORCE_COLOR, common in CI, is no reason to move a cursor that a file does not have."""
    if force:
        monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, err = run(*HOURS)
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert (code, out) == (0, "")
    assert [line.split(":")[0] for line in lines] == [f"epoch {epoch}" for epoch in range(3, 40, 4)]
    assert all(re.fullmatch(r"epoch \d+: train/loss [\d.]+", line) for line in lines)
    assert not {"\x1b", "━", "\r"} & set(err)


def test_a_file_gets_nothing_if_silence_is_asked_for(project, run):
    assert run(*HOURS, "--quiet") == (0, "", "")


@pytest.mark.parametrize("limit", [None, -1, 100_000])
def test_lines_stay_few_however_long_the_fit(limit):
    assert 10 <= sum(done % _epochs_a_line(limit, done) == 0 for done in range(1, 100_001)) <= 46
