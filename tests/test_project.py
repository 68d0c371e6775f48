"""What surrounds the code: the distributions, the API pages, the files for contributors and for citing."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml

import lr_lightning
from tests.conftest import ROOT, python

PACKAGE_FILES = {str(path.relative_to(ROOT)) for path in (ROOT / "lr_lightning").rglob("*.py")}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Wheel and source distribution, built without a network from a copy, for building leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    junk = shutil.ignore_patterns(".git", "*.egg-info", "build", "dist", "runs", "__pycache__", ".*_cache", ".venv")
    shutil.copytree(ROOT, source, ignore=junk, symlinks=True)
    build = "import sys, setuptools.build_meta as b; out = sys.argv[1]; b.build_sdist(out); b.build_wheel(out)"
    done = python("-c", build, out, cwd=source)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(distributions):
    wheel, _ = distributions
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"lr_lightning-{lr_lightning.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(info)} == PACKAGE_FILES | {"lr_lightning/py.typed"}
    assert f"{info}/licenses/LICENSE" in names
    assert "lr-lightning = lr_lightning.cli.main:main" in entry_points
    assert f"Version: {lr_lightning.__version__}" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert "lightning<2.7,>=2.6.4" in metadata  # not the malicious 2.6.2 and 2.6.3


@pytest.mark.slow
def test_source_distribution_is_what_the_tests_need(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {
            name.split("/", 1)[1] for name in archive.getnames() if "/" in name and archive.getmember(name).isfile()
        }
    assert names >= PACKAGE_FILES
    for folder, pattern in [("tests", "*.py"), ("conf", "*.*"), ("notebooks", "*.ipynb"), ("docs", "*.p*")]:
        expected = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern)}
        assert {name for name in expected if not name.startswith("docs/api/")} <= names
    assert {"README.md", "README.zh-CN.md", "LICENSE", "constraints.txt", "pyproject.toml", ".ci/run"} <= names
    assert [name for name in names if name.endswith(".pyc") or "cache" in name.split("/")[0]] == []


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(distributions, tmp_path):
    """Installed by pip into an empty folder, and run by the command it brings, on somebody's table."""
    installed, work = tmp_path / "installed", tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "conf/samples/exam.csv", work / "students.csv")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--target", str(installed)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(distributions[0])], check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [str(installed / "bin" / "lr-lightning"), "fit", "--data.path", "students.csv", "--data.target", "passed"]
    done = subprocess.run(
        [sys.executable, *command], cwd=work, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import lr_lightning; print(lr_lightning.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert found.startswith(str(installed))
    assert (work / "runs/students/version_0/checkpoints/last.ckpt").exists()


def test_api_pages_show_the_public_names_with_their_examples(tmp_path):
    """By the command of CONTRIBUTING.md, in which every warning is an error."""
    command = re.search(r"`python (docs/api\.py) docs/api`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    done = python("-W", "error", ROOT / command[1], tmp_path / "api", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = (tmp_path / "api/lr_lightning.html").read_text()
    for name in lr_lightning.__all__:
        assert f'id="{name}"' in page
    assert len(re.findall("Examples?:", page)) >= len(lr_lightning.__all__) - 1
    assert 'id="SubsampledNewton"' in (tmp_path / "api/lr_lightning/solver.html").read_text()
    assert 'id="LogisticRegressionClassifier"' in (tmp_path / "api/lr_lightning/sklearn.html").read_text()
    assert 'id="Report"' in (tmp_path / "api/lr_lightning/statistics/report.html").read_text()


@pytest.mark.parametrize("name", sorted(set(lr_lightning.__all__) - {"__version__"}))
def test_every_public_name_has_an_example(name):
    assert ">>> " in getattr(lr_lightning, name).__doc__


def test_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # the schema of version 1.2.0
    assert citation["cff-version"] == "1.2.0"
    assert all(author.keys() <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"])
    assert citation["version"] == lr_lightning.__version__
    assert citation["license"] == "MIT"


def test_changelog_begins_with_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == lr_lightning.__version__


def test_hooks_are_the_linters_of_ci_and_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    commands = {" ".join(hook["entry"].split()[:2]) for hook in hooks[0]["hooks"]}
    assert all(hook["language"] == "system" for hook in hooks[0]["hooks"])
    ci = (ROOT / ".ci" / "run").read_text()
    assert commands == {"ruff check", "ruff format", "lint-imports", "pyright"}
    assert all(re.search(rf"^ *{command}\b", ci, flags=re.MULTILINE) for command in commands)
