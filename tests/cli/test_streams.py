"""Stdout is for results alone, whatever models and libraries print there; every --json command prints JSON."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import contracts
import pytest
from running import Run

BEFORE = Path(__file__).parent / "before" / "bundle"  # as the version before wrote it
MODEL = ("models.py:Small", "--data", "data.npz")


def test_what_makes_and_measures_a_bundle_prints_json_alone(
    edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    bundle, printed = deployed
    assert contracts.loaded(printed)["path"] == str(bundle)
    assert edgesdk("verify", bundle, "--json").document["valid"]
    assert edgesdk("benchmark", bundle, "--mode", "rapid", "--json").document["reports"][0]["digest"]
    plan = bundle / "plan.json"
    files = edgesdk("export", plan, *MODEL, "--format", "onnx", "--out", tmp_path / "exported", "--json").document
    assert [file["format"] for file in files["files"]] == ["onnx"]
    searched = edgesdk("search", *MODEL, "--target", "pi5", "--size", "1MB", "--out", tmp_path / "plan.json", "--json")
    assert searched.document["layers"] and searched.document["target"] == "raspberry-pi-5"  # by its own name
    assert "a word from the model" in searched.err and "a word below Python" in searched.err
    added = edgesdk("device", "add", "here", "local", "--target", "cpu", "--json").document
    assert [(entry["name"], entry["target"]) for entry in added["devices"]] == [("here", "x86")]  # by its own name
    assert edgesdk("device", "list", "--json").document == added
    installed = edgesdk("device", "install", "here", bundle, "--install-root", tmp_path / "root", "--json").document
    assert installed["version"]
    rollback = ("device", "rollback", "here", "--install-root", tmp_path / "root", "--json")
    again = edgesdk(*rollback)
    assert again.code == 8 and again.line and contracts.loaded(again.out)["kind"] == "bundle"
    edgesdk("device", "install", "here", BEFORE, "--install-root", tmp_path / "root", "--force")
    assert edgesdk(*rollback).document["version"] == installed["version"]
    assert edgesdk("device", "remove", "here", "--json").document["devices"] == []
    assert edgesdk("device", "remove", "here").code == 2


def test_what_tells_prints_json_alone(edgesdk: Run) -> None:
    assert len(edgesdk("targets", "--json").document["targets"]) > 5
    assert [entry["name"] for entry in edgesdk("targets", "pi5", "--json").document["targets"]] == ["raspberry-pi-5"]
    assert edgesdk("estimate", "models.py:Small", "--shape", "3x8x8", "--target", "pi5", "--json").document["basis"]
    assert edgesdk("doctor", "--json").document["device"]
    assert edgesdk("device", "probe", "local", "--json").document["cpu"]


def test_the_agent_is_a_document_too(edgesdk: Run, tmp_path: Path) -> None:
    told = edgesdk("agent", "build", tmp_path / "agent.pyz", "--json").document
    content = Path(told["path"]).read_bytes()
    assert (told["size_bytes"], told["digest"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert edgesdk("agent", "build", tmp_path / "agent.pyz").code == 8


def test_quiet_is_a_line_per_result(edgesdk: Run, deployed: tuple[Path, str], tmp_path: Path) -> None:
    bundle, _ = deployed
    usual, quiet = (edgesdk("verify", bundle, *how) for how in ((), ("-q",)))
    assert quiet.out == usual.out.splitlines(keepends=True)[0] and ": valid, " in quiet.out
    assert "the bundle was predicted: it was not run on its target" in usual.out
    again = edgesdk("verify", bundle, "--json").document
    assert again["runtime"]["recorded"] is None and again["runtime"]["here"]
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    measured = edgesdk("benchmark", bundle, other, "--mode", "rapid", "-q").out.splitlines()
    assert [line.split(":")[0] for line in measured] == ["bundle", "other", "other / bundle"]


@pytest.mark.parametrize(
    "how",
    [
        ("sparsify", "--on", "channels"),
        ("transfer", "--classes", "4", "--frozen-epochs", "0"),
        ("ensemble", "--members", "2"),
    ],
)
def test_what_prepares_prints_json_alone(edgesdk: Run, tmp_path: Path, how: tuple[str, ...]) -> None:
    name, *more = how
    given = edgesdk("prepare", name, *MODEL, "--epochs", "1", *more, "--out", tmp_path / "prepared", "--json")
    assert given.document["report"]


def test_stages_print_json_alone(edgesdk: Run, tmp_path: Path) -> None:
    done = edgesdk("stages", "models.py:Deep", *MODEL[1:], "--target", "pi5", "--out", tmp_path / "stages", "--json")
    assert done.document["stages"]


def test_in_a_process_of_its_own_stdout_is_the_document(given: Path) -> None:
    """The real descriptors, with a library's buffered words, which leave it as the process ends."""
    script = """
import ctypes
from edgesdk.core import target as device
known = device.targets
def loud():
    ctypes.CDLL(None).printf(b"buffered words\\n")
    print("words of Python")
    return known()
device.targets = loud
from edgesdk.cli import main
main(["targets", "--json"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=given)
    assert done.returncode == 0, done.stderr
    assert len(contracts.loaded(done.stdout)["targets"]) > 5
    assert "buffered words" in done.stderr and "words of Python" in done.stderr


def test_the_command_line_is_a_module_to_run_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgesdk", "deploy", "--out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "edgesdk: Option '--out' requires an argument: see --help\n"
