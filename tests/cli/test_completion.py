"""The script for bash is given to bash, which then completes."""

import contextlib
import io
import shutil
import subprocess
import sys

import pytest

from lr_lightning.cli.main import COMMANDS, main

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "lr-lightning.bash"
    path.write_text(out.getvalue())
    return path


@pytest.fixture
def complete(script, project):
    """What bash offers for the last of some words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")

    def complete(*words):
        code = (
            f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            'complete -p lr-lightning > /dev/null && _shtab_lr_lightning && printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run([bash, "-c", code, "bash", *words], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return complete


def test_commands(complete):
    assert set(COMMANDS) <= set(complete("lr-lightning", ""))
    assert complete("lr-lightning", "fi") == ["fit"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["fit", "--model.l"], ["--model.l1", "--model.l2"]),
        (["fit", "--config", "conf/exam.yaml", "--model.stand"], ["--model.standardize"]),
        (["fit", "--model.reduction", ""], ["mean", "sum"]),
        (["fit", "--model.standardize", "t"], ["true"]),
        (["fit", "--covariance", "H"], ["HC0", "HC1"]),
        (["fit", "--config", "conf/ex"], ["conf/exam.yaml"]),
        (["fit", "--data.path", "conf/samples/ex"], ["conf/samples/exam.csv"]),
        (["fit", "--data.targ"], ["--data.target"]),
        (["fit", "--data.missing", ""], ["error", "drop", "impute"]),
        (["fit", "--data.unseen", "r"], ["reference"]),
        (["fit", "--optimizer.lr"], ["--optimizer.lr", "--optimizer.lr_decay"]),
        (["fit", "--trainer.logger", "lightning.pytorch.loggers.CS"], ["lightning.pytorch.loggers.CSVLogger"]),
        (["test", "--ckpt_path", "conf/samples/b"], ["conf/samples/breast_cancer.csv"]),
        (["predict", "--int"], ["--interval"]),
        (["report", "--format", ""], ["text", "json", "csv"]),
        (["completion", "z"], ["zsh"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_and_values(complete, words, offered):
    assert sorted(complete("lr-lightning", *words)) == sorted(offered)


def test_without_shtab_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, out, err = run("completion", "bash")
    assert (code, out) == (2, "")
    assert err == "error: completion needs shtab: pip install 'lr-lightning[completion]'\n"


def test_an_unknown_shell_is_refused_in_one_line(run):
    code, out, err = run("completion", "fish")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "bash" in err
    assert len(err.splitlines()) == 1
