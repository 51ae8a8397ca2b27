"""The command line and an emulated board: it may install there, and never says how long anything took."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import in_process
import pytest

TIME = re.compile(r"\d ?(ms|us|µs)\b|p50")
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def edgesdk(boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, with the board ``emulated`` in its inventory, and folders of its own."""
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path / "profiles"))
    python, root = boards["pi4"].python, tmp_path / "root"
    added = in_process.edgesdk("device", "add", "emulated", "local", "--python", python, "--install-root", root)
    assert added.returncode == 0, added.stderr
    return in_process.edgesdk


@pytest.mark.parametrize(
    "arguments",
    [
        ["benchmark", "MODEL", "BUNDLE"],
        ["benchmark", "BUNDLE", "--json"],
        ["calibrate", "my-board"],
        ["deploy", "--target", "raspberry-pi-4", "--epochs", "0", "--out", "OUT"],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_no_command_measures_on_it(
    edgesdk: Command, bundles: dict[str, Path], files, tmp_path: Path, arguments: list[str]
) -> None:
    given = {"MODEL": files["litert", "int8"], "BUNDLE": bundles["litert"], "OUT": tmp_path / "out"}
    done = edgesdk(*(given.get(each, each) for each in arguments), "--device", "emulated")
    assert done.returncode == 6, done.stderr
    assert ("is emulated" in json.loads(done.stdout)["fact"]) if "--json" in arguments else (done.stdout == "")
    assert "is emulated" in done.stderr and "Traceback" not in done.stderr
    assert not TIME.search(done.stderr)
    assert not (tmp_path / "out").exists() and not (tmp_path / "profiles").exists()


def test_what_it_is_and_what_is_installed_is_told_without_times(
    edgesdk: Command, bundles: dict[str, Path], tmp_path: Path
) -> None:
    first, second = bundles["onnxruntime"], bundles["litert"]
    told = [
        edgesdk("device", *arguments)
        for arguments in (
            ("probe", "emulated"),
            ("probe", "emulated", "--json"),
            ("install", "emulated", first),
            ("install", "emulated", second, "--json"),
            ("rollback", "emulated"),
        )
    ]
    for done in told:
        assert done.returncode == 0, done.stderr
        assert done.stdout
    probed, facts, installed, measured, back = (done.stdout for done in told)
    assert "emulated" in probed and "emulated" in installed
    assert json.loads(facts)["emulated"] is True
    assert json.loads(measured)["health"]["emulated"] is True and json.loads(measured)["health"]["latency_ms"] is None
    assert not any(TIME.search(each) for each in (probed, facts, installed, back, *(done.stderr for done in told)))
    assert (tmp_path / "root" / "current" / "model.onnx").is_file()
