"""The jobs for GitHub and GitLab that the guide shows: each command of them is one, and they run in order."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from running import Run
from safetensors.torch import save_file

from edgesdk.cli import main

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "use-in-ci.md"
SUMMARY = "summary.md"
NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
"""


def read_jobs() -> list[list[list[str]]]:
    """For each job of the guide the arguments of its commands, as a shell of the runner has them."""
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [
        [
            [word.replace("$GITHUB_STEP_SUMMARY", SUMMARY) for word in shlex.split(line)]
            for line in re.findall(r"^ *- (?:run: )?edgesdk (.*)$", block, re.MULTILINE)
        ]
        for block in blocks
    ]


def test_the_workflow_says_when_it_runs() -> None:
    """GitHub refuses one that does not."""
    workflow = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    assert [line for line in workflow.splitlines() if not line.startswith(" ")] == ["on: [push]", "jobs:"]


def test_each_job_deploys_and_gates() -> None:
    jobs = read_jobs()
    assert [[command[0] for command in job] for job in jobs] == [["deploy", "gate"]] * 2


@pytest.mark.parametrize("job", read_jobs())
def test_each_command_is_one(job: list[list[str]]) -> None:
    for name, *arguments in job:
        command = main.get_command(main.make_context("edgesdk", [name, "--help"], resilient_parsing=True), name)
        assert command is not None
        given = command.make_context(name, list(arguments)).params
        assert given["as_json"] is False and ("baseline" in given or given["latency"] == "0.5x")


@pytest.mark.parametrize("job", read_jobs())
def test_a_job_runs(
    job: list[list[str]], edgesdk: Run, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, as it does from commit to commit: the second gates against the first."""
    monkeypatch.chdir(tmp_path)
    deploy, gate = job
    Path("net.py").write_text(NET)
    made: dict[str, Any] = {}
    exec(NET, made)
    save_file(made["make"]().state_dict(), "net.safetensors")
    shutil.copy(given / "data.npz", "data.npz")
    deploy = ["2x" if word == "0.5x" else word for word in deploy]  # of a network as small as this a half is not there
    assert edgesdk(*deploy, "--epochs", "0").code == 0
    Path("last").mkdir()
    shutil.move("bundle", "last/bundle")
    assert edgesdk(*deploy, "--epochs", "0").code == 0
    done = edgesdk(*gate, "--mode", "brief")
    assert done.code in (0, 11), done  # nobody else's speed is asserted here; tests/unit/test_slowdowns.py has that
    assert Path("gate.xml").is_file() and (SUMMARY not in gate or "| accuracy |" in Path(SUMMARY).read_text())
