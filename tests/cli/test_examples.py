"""`edgesdk examples`: what there is, and the folder that it makes; they are trained and deployed as their pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import Run

from edgesdk.workflows.examples import copy_example, examples

NAMES = tuple(examples())
LEAST = {"anomaly-detection": 75.0, "keyword-spotting": 90.0, "semantic-segmentation": 0.7}
"""By each one's own metric. A detector takes a quarter of an hour: test_object_detection judges and prices it."""


def test_each_is_listed_with_what_it_is_of(edgesdk: Run) -> None:
    done = edgesdk("examples")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == list(NAMES)
    assert all(len(line.split()) > 3 for line in done.out.splitlines())


def test_an_example_is_copied_into_a_folder_of_its_own(edgesdk: Run, tmp_path: Path) -> None:
    for name in NAMES:
        done = edgesdk("examples", name, str(tmp_path / "some" / name))
        assert done.code == 0, done.err
        there = {path.name for path in (tmp_path / "some" / name).iterdir()}
        assert {"README.md", "edgesdk.toml", "net.py", "data.py", "train.py"} <= there
        assert str(tmp_path / "some" / name / "README.md") in done.out


def test_nothing_that_is_there_is_touched(edgesdk: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.py").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for there in ("mine", "file"):
        done = edgesdk("examples", "semantic-segmentation", str(tmp_path / there))
        assert done.code == 2 and "is not an empty folder" in done.err and len(done.err.splitlines()) == 1
    assert (tmp_path / "mine" / "net.py").read_text() == (tmp_path / "file").read_text() == "mine"
    assert edgesdk("examples", "semantic-segmentation", str(tmp_path / "file" / "below")).code == 9
    done = edgesdk("examples", "semantic-segmentatio")
    assert done.code == 2 and "semantic-segmentation" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_an_example_does_what_its_page_says(name: str, tmp_path: Path) -> None:
    """The commands of the page, word for word but for the epochs of recovery, as a newcomer runs them."""
    folder = copy_example(name, tmp_path / name)
    text = (folder / "README.md").read_text()
    commands = re.findall("```sh\n(.*?)```", text, re.DOTALL)[0].splitlines()
    assert commands[-1] == "edgesdk deploy" and {*commands[:-1]} <= {"python train.py"}
    environment = {**os.environ, "EDGESDK_CACHE": str(tmp_path / "cache")}
    environment.pop("EDGESDK_MODE", None)  # brief measurements are too rough for what is asked below
    programs = {"python train.py": ["train.py"], "edgesdk deploy": ["-m", "edgesdk.cli", "deploy", "--epochs", "1"]}
    for command in commands:
        words = [sys.executable, *programs[command]]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("budget kept"), done.stdout
    before, after = map(float, re.findall(r"([\d.]+) before, ([\d.]+) after", done.stdout)[0])
    assert before > LEAST[name] and after > 0.9 * before, done.stdout
