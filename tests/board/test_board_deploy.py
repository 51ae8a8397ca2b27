"""The command line with a device over SSH: one whole deployment there, and what there is to do with it afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contracts
import pytest
from board_bundles import bundle, identifier
from board_machine import Board, free_port, reached, wait_for
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from residual import write_residual

from edgesdk.bundle.bundle import PAGE, SIMULATION, Bundle, file_digest
from edgesdk.bundle.signing import sign
from edgesdk.cli import main
from edgesdk.core.target import target
from edgesdk.devices.inventory import add
from edgesdk.price.profile import MEASURED
from edgesdk.workflows.calibrate import calibrate

NAME = "lab-pi"
SECONDS = 900  # for what is not timed here: a whole deployment, on a busy machine too


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Private and public keys of the owner of the board, and of somebody else."""
    folder, keys = tmp_path_factory.mktemp("keys"), {}
    for owner in ("owner", "somebody"):
        key = ec.generate_private_key(ec.SECP256R1())
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        public = key.public_key()
        halves = {
            owner: key.private_bytes(serialization.Encoding.PEM, *plain),
            f"{owner}.pub": public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        }
        for name, content in halves.items():
            keys[name] = folder / name
            keys[name].write_bytes(content)
    return keys


@pytest.fixture(scope="module")
def inventory(whole_board: Board, keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An inventory with the board as ``lab-pi``, which takes its owner's bundles alone, and as ``open-pi``."""
    path = tmp_path_factory.mktemp("inventory") / "devices.toml"
    with pytest.MonkeyPatch.context() as patch:
        reached(whole_board, patch)
        patch.setenv("EDGESDK_DEVICES", str(path))
        add(whole_board.at(name=NAME, install_root="~/deployed", key=str(keys["owner.pub"])))
        add(whole_board.at(name="open-pi", host="inner", install_root="~/deployed"))
        yield path


@pytest.fixture
def edgesdk(board: Board, inventory: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process; what it prints. With ``code``, its one line on stderr as it fails with that."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main([*map(str, arguments), *["-q"] * (code != 0)], prog_name="edgesdk")
        printed = capfd.readouterr()
        assert ended.value.code == code, printed.err
        if code == 0:
            return printed.out
        assert printed.out == ""
        assert printed.err.startswith("edgesdk: ") and printed.err.count("\n") == 1 and "Traceback" not in printed.err
        return printed.err

    return run


@pytest.fixture(scope="module")
def deployed(whole_board: Board, inventory: Path, keys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small network, measured on the board, signed and installed there; and what the command printed."""
    folder = tmp_path_factory.mktemp("deployed")
    out, given = folder / "bundle", write_residual(folder)
    command = [sys.executable, "-m", "edgesdk.cli", "deploy", *given, "--target", "x86", "--device", NAME]
    command += ["--epochs", "0", "--max-drop", "100", "--sign", str(keys["owner"]), "--out", str(out), "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out, json.loads(done.stdout)


def version(board: Board) -> str:
    """What is deployed on the board, after it ran its own sample."""
    current = board.home / "deployed" / "current"
    done = board.run(board.python, current / "run.py", "--check")
    assert done.returncode == 0, done.stderr
    return current.resolve().name


def test_a_deployment_ends_on_the_board(board: Board, deployed) -> None:
    out, printed = deployed
    assert printed["installed"]["version"] == version(board) == identifier(out)
    assert printed["installed"]["health"]["identical"] is True
    installed = board.home / "deployed" / "current"
    assert file_digest(installed / "model.onnx") == file_digest(out / "model.onnx")
    assert "ExecStart" in (installed / "edgesdk-model.service").read_text()
    for name in (PAGE, SIMULATION):  # a board needs none
        assert (out / name).exists() and not (installed / name).exists()


def test_its_layers_are_compared_as_the_board_computes_them(edgesdk, board: Board, deployed) -> None:
    there = contracts.loaded(edgesdk("diff", deployed[0], "--device", NAME, "--json"))
    here = contracts.loaded(edgesdk("diff", deployed[0], "--json"))
    assert there["holds"] and there["device"] == NAME and there["runtime"] == "onnxruntime"
    # The board is this machine, behind a real sshd.
    assert {**there, "device": "local", "command": here["command"]} == here
    assert f"on {NAME}" in edgesdk("diff", deployed[0], "--device", NAME, "-q")


def test_what_was_measured_there_is_beside_what_was_predicted(deployed) -> None:
    report = deployed[1]["report"]
    assert report["measured"]["basis"] == "measured" and report["predicted"]["basis"] == "predicted"
    left_dense = report["deployed"]["digest"] == report["dense"]["digest"]  # where nothing was faster just then
    assert report["measured"]["latency_ms"] > 0 and (
        left_dense or report["measured"]["latency_ms"] < report["dense"]["statistics"]["p50"]
    )
    assert report["deployed"]["device"]["runners"].keys() == {"onnxruntime"}  # of the board: more are here
    profiles, layers = report["profiles"], {layer["name"] for layer in report["layers"]}
    assert list(profiles) == ["dense", "deployed"]
    for profile in profiles.values():
        assert {name for kernel in profile["kernels"] for name in kernel["layers"]} <= layers
        assert profile["runs"] > 0 and sum(kernel["profiled_ms"] for kernel in profile["kernels"]) > 0
    assert report["deployed"]["digest"] == file_digest(deployed[0] / "model.onnx")
    assert Bundle.open(deployed[0]).manifest["architecture"] == os.uname().machine


def test_nothing_of_a_deployment_is_left_on_the_board(board: Board, deployed) -> None:
    assert [path.name for path in board.tmp.iterdir() if path.name != "edgesdk-agent.lock"] == []


def test_installing_again_rolling_back_and_bundles_of_others(
    board: Board, edgesdk, deployed, keys, tmp_path: Path
) -> None:
    first = version(board)
    assert json.loads(edgesdk("device", "install", NAME, deployed[0], "--json"))["version"] == first
    assert "no version before" in edgesdk("device", "rollback", NAME, code=8)
    newer = bundle(tmp_path / "newer", 1, created="2099-01-01T00:00:00Z")
    assert "not signed" in edgesdk("device", "install", NAME, newer, code=8)
    sign(newer, keys["somebody"])
    assert "key" in edgesdk("device", "install", NAME, newer, code=8)
    assert version(board) == first
    sign(newer, keys["owner"])
    assert identifier(newer) in edgesdk("device", "install", NAME, newer)
    assert "older" in edgesdk("device", "install", NAME, deployed[0], code=8)
    assert version(board) == identifier(newer)
    assert first in edgesdk("device", "rollback", NAME)
    assert version(board) == first
    edgesdk("device", "install", "open-pi", newer)
    assert json.loads(edgesdk("device", "install", "open-pi", deployed[0], "--force", "--json"))["version"] == first
    assert version(board) == first


def test_a_bundle_is_verified_with_a_key(edgesdk, deployed, keys) -> None:
    assert "signed" in edgesdk("verify", deployed[0], "--key", keys["owner.pub"])
    assert "key" in edgesdk("verify", deployed[0], "--key", keys["somebody.pub"], code=8)


def test_a_board_that_takes_signed_bundles_is_not_measured_for_one_that_is_not(edgesdk, tmp_path: Path) -> None:
    arguments = ("deploy", "--target", "x86", "--device", NAME, "--out", tmp_path / "out")
    assert "--sign" in edgesdk(*arguments, code=2)
    assert not (tmp_path / "out").exists()


def test_a_board_that_is_another_target_is_refused(edgesdk, tmp_path: Path) -> None:
    arguments = ("deploy", "--target", "raspberry-pi-4", "--device", "open-pi", "--out", tmp_path / "out")
    assert "raspberry-pi-4" in edgesdk(*arguments, code=6)
    assert list(tmp_path.iterdir()) == []


def test_two_bundles_are_compared_on_the_board(edgesdk, board: Board, bundles) -> None:
    compare = ("benchmark", bundles(1), bundles(2), "--device", NAME, "--mode", "brief", "--json")
    reports = contracts.loaded(edgesdk(*compare))["reports"]
    for report, number in zip(reports, (1, 2), strict=True):
        assert report["digest"] == file_digest(bundles(number) / "model.onnx")
        assert report["schema"] == "edgesdk.measurement/3" and report["basis"] == "measured" and report["valid"] is True
        assert {"p50", "p90", "p95", "p99", "min", "max", "mean", "std"} <= set(report["statistics"])
        assert report["statistics"]["p50"] > 0 and len(report["samples_ms"]) >= 64
        assert report["load_ms"] > 0 and report["peak_memory_bytes"] is not None
        assert report["device"]["runners"].keys() == {"onnxruntime"}
        assert {"before", "after"} <= set(report["conditions"])
    wait_for(lambda: not board.processes())
    assert board.rest() == []


def test_a_user_reads_the_figures(edgesdk, bundles) -> None:
    shown = edgesdk("benchmark", bundles(1), "--device", NAME, "--mode", "brief")
    for word in ("p50", "p90", "p95", "p99", "min", "max", "mean", "std", "ms"):
        assert word in shown


def test_a_board_is_found_and_told(edgesdk, board: Board) -> None:
    facts = json.loads(edgesdk("device", "probe", NAME, "--json"))
    assert facts["runners"].keys() == {"onnxruntime"} and facts["cores"] >= 1
    assert "onnxruntime" in edgesdk("device", "probe", "open-pi")
    listed = json.loads(edgesdk("device", "list", "--json"))["devices"]
    assert [device["name"] for device in listed] == [NAME, "open-pi"]
    assert NAME in edgesdk("device", "list")


def test_a_board_is_added(edgesdk, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "own" / "devices.toml"))
    edgesdk("device", "add", "a-board", "ssh://pi@10.0.0.3:2222", "--target", "raspberry-pi-5")
    assert "--force" in edgesdk("device", "add", "a-board", "ssh://pi@10.0.0.4", code=2)
    edgesdk("device", "add", "a-board", "ssh://pi@10.0.0.4", "--force")
    assert "ssh://pi@10.0.0.4" in edgesdk("device", "list")
    edgesdk("device", "add", "another", "ssh://-oProxyCommand=x", code=2)
    edgesdk("device", "add", "another", "ssh://pi@host", "--target", "toaster", code=2)


def test_an_inventory_with_an_error_names_its_line(
    edgesdk, bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.toml").write_text("schema = 1\n\n[devices.a]\naddress = ssh://a\n")
    monkeypatch.setenv("EDGESDK_DEVICES", str(tmp_path / "devices.toml"))
    for command in (("device", "list"), ("device", "probe", "a"), ("benchmark", bundles(1), "--device", "a")):
        assert "line 4" in edgesdk(*command, code=2)


def test_a_board_that_nobody_knows(edgesdk) -> None:
    assert NAME in edgesdk("device", "probe", "lab-pie", code=2)
    assert "answer" in edgesdk("device", "probe", f"ssh://127.0.0.1:{free_port()}", code=6)


def test_the_agent_alone_is_one_file_that_any_python_runs(edgesdk, board: Board, tmp_path: Path) -> None:
    archive = tmp_path / "agent.pyz"
    edgesdk("agent", "build", archive)
    first = archive.read_bytes()
    assert "--force" in edgesdk("agent", "build", archive, code=8)
    edgesdk("agent", "build", archive, "--force")
    assert archive.read_bytes() == first
    request = b'{"protocol": 1, "id": 7, "verb": "probe", "arguments": {}}\n'
    for python in (board.python, *pythons()):
        done = subprocess.run([str(python), str(archive)], input=request, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result"]["cores"] >= 1


def pythons() -> Iterator[Path]:
    """Interpreters from 3.8 on that happen to be here."""
    for folder in sorted((Path.home() / ".pyenv" / "versions").glob("3.*")):
        if int(folder.name.split(".")[1]) >= 8:
            yield folder / "bin" / "python3"


def test_a_profile_of_the_board(edgesdk, board: Board) -> None:
    made = calibrate("the-board", device=NAME, share=0.02)
    try:
        assert {(pair.runtime, pair.provenance.kind) for pair in made.pairs} == {("onnxruntime", MEASURED)}
        assert target("the-board").name == "the-board"
        assert "exists" in edgesdk("calibrate", "the-board", "--device", NAME, code=8)
    finally:
        shutil.rmtree(Path(os.environ["EDGESDK_PROFILES"]) / "the-board", ignore_errors=True)
