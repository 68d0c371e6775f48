"""What the README tells a newcomer to type is typed here."""

import re
import shlex

import pytest

from lr_lightning.cli import COMMANDS
from tests.conftest import ROOT, python

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [body for fence, body in fences if fence == language]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder in which all shell commands of the README have been run, in its order; what each of them said."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "conf").symlink_to(ROOT / "conf")
    said = {}
    commands = [part.strip() for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "lr-lightning":
            done = python("-m", "lr_lightning", *arguments, cwd=folder)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            said[command] = done
        else:
            assert program in ("pip", "pytest"), command  # which got this test to run
    return folder, said


def test_commands_run(clone):
    _, said = clone
    assert len(said) == 5
    predicted = next(done for command, done in said.items() if " predict " in command)
    assert len(predicted.stdout.splitlines()) == 1 + 569


def test_last_lines_are_those_that_the_readme_shows(clone):
    _, said = clone
    shown = next(block for block in blocks("") if "final loss" in block)
    assert said["lr-lightning fit --config conf/hours.yaml"].stderr.endswith(shown)


def test_python_runs(clone):
    folder, _ = clone
    for number, block in enumerate(blocks("python")):
        script = folder / f"example_{number}.py"
        script.write_text(block)
        done = python(script, cwd=folder)
        assert done.returncode == 0, done.stderr
        for line, comment in re.findall(r"^print\((.*)\)  # (.*)$", block, flags=re.MULTILINE):
            assert comment in done.stdout, line


def test_every_command_is_in_the_table():
    listed = set(re.findall(r"^\| `(\w+) ", README, flags=re.MULTILINE))
    assert listed == set(COMMANDS)


def test_every_module_that_the_readme_names_exists():
    for name in re.findall(r"`((?:lr_lightning|conf|notebooks|tests)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name
