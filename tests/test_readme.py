"""What the README tells a newcomer to type is typed here; the README in Chinese tells the same."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from lr_lightning.cli.main import COMMANDS
from tests.conftest import ROOT, python

END = "the end of a command:"
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def all_blocks(text):
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [body for fence, body in all_blocks(README) if fence == language]


COMMANDS_IN_ONE_PROCESS = f"""
import shlex, sys
from lr_lightning.cli.main import main
for command in sys.argv[1:]:
    try:
        code = main(shlex.split(command)[1:])
    except SystemExit as end:  # as after --print_config
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        print("{END}", code, file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder in which all commands of the README have been run, in its order; what each said (stdout, stderr).

    Those in loops and redirections are what bash makes of them, with a `lr-lightning` on its path that takes notes. One
    process runs all: those after the first would spend their time on imports.
    """
    folder = tmp_path_factory.mktemp("clone")
    (folder / "conf").symlink_to(ROOT / "conf")
    commands = [part.strip() for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]
    ours = [command for command in commands if command.startswith("lr-lightning ")]
    others = {shlex.split(command)[0] for command in commands if command not in ours}
    assert others == {"pip", "pytest"}  # which got this test to run
    ours += of_scripts(folder)
    done = python("-c", COMMANDS_IN_ONE_PROCESS, *ours, cwd=folder)
    assert done.returncode == 0, done.stderr
    parts = [stream.split(f"{END} 0\n") for stream in (done.stdout, done.stderr)]
    assert [len(of_stream) for of_stream in parts] == [len(ours) + 1] * 2, done.stderr
    return folder, dict(zip(ours, zip(*parts, strict=True), strict=False))


def of_scripts(folder):
    """The commands that the README's scripts for bash give."""
    bash = shutil.which("bash")
    if bash is None:
        return []
    notes, command = folder / "notes", folder / "bin" / "lr-lightning"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "lr-lightning $*" | tee -a {shlex.quote(str(notes))}\n')
    command.chmod(0o755)
    variables = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    for script in blocks("bash"):
        done = subprocess.run(
            [bash, "-eu", "-c", script],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), script
    return notes.read_text().splitlines()


@pytest.mark.slow
def test_commands_run(clone):
    _, said = clone
    assert len(said) == 8 + 4 * bool(shutil.which("bash"))
    predicted = next(stdout for command, (stdout, _) in said.items() if " predict " in command)
    assert len(predicted.splitlines()) == 1 + 569


@pytest.mark.slow
def test_last_lines_are_those_that_the_readme_shows(clone):
    _, said = clone
    shown = next(block for block in blocks("") if "final loss" in block)
    assert said["lr-lightning fit --config conf/hours.yaml"][1].endswith(shown)


@pytest.mark.slow
def test_a_runs_configuration_repeats_it_bit_by_bit(clone):
    folder, _ = clone
    first, again = (folder / "runs/breast_cancer" / name / "report.json" for name in ("version_0", "version_1"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_scripts_for_the_shell_run(clone):
    folder, said = clone
    versions = [folder / f"runs/breast_cancer/version_{number}" for number in (2, 3, 4)]
    chosen = [re.search(r"^  l2: (\S+)$", (run / "config.yaml").read_text(), flags=re.MULTILINE) for run in versions]
    assert [match[1] for match in chosen] == ["0.001", "0.01", "0.1"]
    quiet = [command for command in said if command.endswith(" --quiet")]
    assert [said[command] for command in quiet] == [("", "")] * 3
    command = "lr-lightning completion bash"
    assert (folder / ".local/share/bash-completion/completions/lr-lightning").read_text() == f"{command}\n"
    assert "complete -o" in said[command][0]
    assert said[command][1] == ""


SCRIPTS_IN_ONE_PROCESS = f"""
import runpy, sys
for script in sys.argv[1:]:
    runpy.run_path(script, run_name="__main__")
    print("{END}", flush=True)
"""


@pytest.mark.slow
def test_python_runs(clone):
    folder, _ = clone
    examples = blocks("python")
    scripts = [folder / f"example_{number}.py" for number in range(len(examples))]
    for script, block in zip(scripts, examples, strict=True):
        script.write_text(block)
    done = python("-c", SCRIPTS_IN_ONE_PROCESS, *scripts, cwd=folder)
    assert done.returncode == 0, done.stderr
    for block, said in zip(examples, done.stdout.split(f"{END}\n")[:-1], strict=True):
        for line, comment in re.findall(r"^print\((.*)\)  # (.*)$", block, flags=re.MULTILINE):
            assert comment in said, line


def test_every_command_is_in_the_table():
    listed = set(re.findall(r"^\| `(\w+) ", README, flags=re.MULTILINE))
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("text", [README, CHINESE], ids=["English", "Chinese"])
def test_everything_that_a_readme_names_exists(text):
    names = re.findall(r"`((?:lr_lightning|conf|notebooks|tests|docs)/[\w./]*)`", text)
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert len(names) > 15
    assert len(links) >= 5
    for name in names + links:
        assert (ROOT / name).exists(), name


def first_cells(text):
    """The first cell of each table row that names something to type, but for the words around it."""
    return [re.findall(r"`([^`]*)`", cell) for cell in re.findall(r"^\| (`.*?`[^|\n]*) \| ", text, flags=re.MULTILINE)]


def test_the_readme_in_chinese_has_the_same_commands_in_the_same_order():
    """Every block and every table, so that what is tested of one README holds for the other."""
    assert all_blocks(CHINESE) == all_blocks(README)
    assert first_cells(CHINESE) == first_cells(README)
    levels = [
        re.findall(r"^#+(?= )", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
        for text in (README, CHINESE)
    ]
    assert levels[0] == levels[1]
    assert len(first_cells(README)) > 25
