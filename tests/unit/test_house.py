"""What the tests' own conftest promises, and that lists of versions are what pyproject.toml says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import temporary
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parent.parent.parent
CONFTEST = ROOT / "tests" / "conftest.py"
TESTS = """
import unittest
import pytest

def test_that_runs(): pass

@pytest.mark.skipif(True, reason="needs {need}")
def test_marked(): pass

def test_while_it_runs(): pytest.skip("needs {need}")

class Old(unittest.TestCase):
    @unittest.skip("needs {need}")
    def test_in_unittest(self): pass
"""


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [((), "1 passed, 3 skipped"), (("--no-skips",), "2 failed, 1 passed, 1 error")],
)
def test_where_none_may_be_skipped_one_that_is_fails(arguments: tuple[str, ...], lacking: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('not here')")  # its import takes seconds
    expected = {"a package": lacking, "a real board": "1 passed, 3 skipped", "a GPU": "1 passed, 3 skipped"}
    for need in expected:
        (tmp_path / f"test_{need.replace(' ', '_')}.py").write_text(TESTS.format(need=need))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-v",
        "--rootdir",
        tmp_path,
        *arguments,
        tmp_path,
    ]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'tests'}"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    for need, outcomes in expected.items():
        said = re.findall(rf"test_{need.replace(' ', '_')}\.py::\S+ ([A-Z]+)", done.stdout)
        for outcome in outcomes.split(", "):
            count, what = outcome.split()
            assert said.count(what.upper()) == int(count), done.stdout + done.stderr
    assert done.returncode == ("failed" in lacking)


def test_a_folder_that_a_killed_run_left_goes_and_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(temporary.PLACE, str(tmp_path))
    kill = "place = temporary.folder('of-tests'); print(place.name, flush=True); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", f"import os, temporary; {kill}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    left = Path(subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip())
    assert left.parent == tmp_path and left.is_dir()
    with temporary.folder("of-tests") as used, temporary.folder("other") as other, temporary.folder("of-tests") as more:
        assert not left.exists()
        assert {path.name for path in tmp_path.iterdir()} == {Path(name).name for name in (used, other, more)}


def required(*extras: str) -> dict[str, Requirement]:
    """What ``pyproject.toml`` asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def pinned(file: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {
        requirement.name.lower().replace("_", "-"): requirement for requirement in map(Requirement, filter(None, lines))
    }


def test_the_oldest_versions_are_those_that_pyproject_allows() -> None:
    wanted, oldest = required("openvino", "tflite", "ncnn"), pinned("constraints-oldest.txt")
    assert set(oldest) == set(wanted)
    for name in set(wanted) - {"torch"}:
        (least,) = (bound.version for bound in wanted[name].specifier if bound.operator == ">=")
        (only,) = (bound.version.removesuffix(".*") for bound in oldest[name].specifier)
        assert Version(only) == Version(least), name


def test_the_versions_that_were_tested_are_allowed_and_are_all() -> None:
    wanted, tested = (
        required("openvino", "tflite", "ncnn", "executorch", "sign", "techniques", "test", "docs"),
        pinned("constraints.txt"),
    )
    for name, requirement in wanted.items():
        if name == "edgesdk" or requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        (exact,) = (bound.version for bound in tested[name].specifier)
        assert requirement.specifier.contains(exact), name
