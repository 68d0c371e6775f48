"""The notebooks run without a warning, leave nothing behind, and are stored with their output."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from itertools import cycle, groupby
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import default

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
SECONDS_PER_CELL = 300


class KernelOfTheTests(AsyncKernelManager):
    """Runs a notebook under the interpreter that runs the tests, whatever kernels are installed."""

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        # Without a folder to look into, all it knows is ipykernel under sys.executable.
        return KernelSpecManager(kernel_dirs=[])


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the notebooks read, so that nothing is ever written to the checkout."""
    # What the kernel and its client keep for themselves stays out of the home folder, which may be read-only.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    # The kernel imports the package from where the tests import it.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    root = tmp_path / "checkout"
    for folder in ("conf", "notebooks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return root


# Some editors run a notebook in its own folder, some in the root: each of them is run once, by turns.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), list(zip(NAMES, cycle([".", "notebooks"]))))
def test_runs_quietly_and_leaves_nothing_behind(name: str, folder: str, copy: Path) -> None:
    before = _files(copy)
    notebook = _execute(copy / "notebooks" / name, copy / folder)  # raises where a cell does
    assert not _stderr(notebook)
    assert _files(copy) == before
    # What a cell shows now is of the kind that it is stored with: the stored output is not of older cells.
    stored = nbformat.read(copy / "notebooks" / name, as_version=4)
    assert [_kinds(cell) for cell in _code(notebook)] == [_kinds(cell) for cell in _code(stored)]


@pytest.mark.parametrize("name", NAMES)
def test_is_stored_as_it_was_executed(name: str) -> None:
    path = ROOT / "notebooks" / name
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = _code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not _stderr(notebook)
    kinds = {kind for cell in cells for kind in _kinds(cell)}
    assert {"stdout", "image/png"} <= kinds
    assert "error" not in kinds
    assert path.stat().st_size < 1_000_000  # larger files are not rendered everywhere


@pytest.mark.parametrize("name", NAMES)
def test_tells_nothing_of_the_machine_it_was_executed_on(name: str) -> None:
    path = ROOT / "notebooks" / name
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.language_info
    assert not any(cell.metadata for cell in notebook.cells)
    shown = [text for cell in _code(notebook) for output in cell.outputs for text in _texts(output)]
    for local in ("/home/", "/root/", "/tmp/", "/Users/", "site-packages", str(ROOT)):  # noqa: S108
        assert not any(local in text for text in shown)


def test_there_are_notebooks() -> None:
    assert "01_logistic_regression.ipynb" in NAMES


def test_the_kernel_is_that_of_the_tests() -> None:
    spec = KernelOfTheTests(kernel_name="python3").kernel_spec
    assert spec is not None
    assert spec.argv[0] == sys.executable


def _execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook with fresh output, run in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    for cell in _code(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        # The class, not an instance: nbclient shuts down and closes only the manager that it made itself.
        kernel_manager_class=KernelOfTheTests,
        timeout=SECONDS_PER_CELL,
        resources={"metadata": {"path": str(folder)}},
    )
    # Not client.execute(), which keeps its event loop open until the interpreter ends.
    return asyncio.run(client.async_execute())


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _stderr(notebook: NotebookNode) -> list[str]:
    return [
        output.text
        for cell in _code(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


def _kinds(cell: NotebookNode) -> list[str]:
    """What a cell shows: the names of streams, and the richest form of each display.

    Repetitions count once: how many pieces a stream arrives in is a matter of timing.
    """
    kinds: list[str] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            kinds.append(output.name)
        elif output.output_type == "error":
            kinds.append("error")
        else:
            kinds.append("image/png" if "image/png" in output.data else "text/plain")
    return [kind for kind, _ in groupby(kinds)]


def _texts(output: NotebookNode) -> Iterator[str]:
    if output.output_type == "stream":
        yield output.text
    else:
        yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


def _files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
