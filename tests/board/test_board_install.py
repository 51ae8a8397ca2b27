"""Installing over SSH: versions side by side, and bundles and devices that do not fit each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from board_bundles import bundle, entry, identifier, record
from board_machine import ROOT, Board, make_read_only, mounted, wait_for

from edgesdk.core.errors import BundleError, DeviceError, EdgeSdkError, StorageError
from edgesdk.devices.reach import reach
from edgesdk.workflows.install import install, rollback

AT = f"~/{ROOT}"


@pytest.fixture
def put(board: Board) -> Callable[..., dict[str, Any]]:
    def run(folder: Path, **how: Any) -> dict[str, Any]:
        return install(folder, board.at(), **{"install_root": AT, **how})

    return run


@pytest.fixture
def refused(installed: Board, put) -> Callable[..., str]:
    """Try to install what cannot be; the one line that says why. What ran before runs on, and nothing is left."""
    before = {path.relative_to(installed.root) for path in installed.root.rglob("*")}

    def run(kind: type[EdgeSdkError], folder: Path, **how: Any) -> str:
        with pytest.raises(kind) as raised:
            put(folder, **how)
        assert type(raised.value) is kind and "\n" not in str(raised.value)
        wait_for(lambda: not installed.processes())
        assert {path.relative_to(installed.root) for path in installed.root.rglob("*")} == before
        assert installed.rest() == []
        assert installed.runs()
        return str(raised.value)

    return run


def versions(board: Board) -> list[str]:
    return sorted(path.name for path in (board.root / "versions").iterdir())


def test_versions_come_and_go_in_their_order(board: Board, bundles, put) -> None:
    names = {number: identifier(bundles(number)) for number in range(1, 5)}
    first = put(bundles(1), keep=2)
    assert (first["version"], first["previous"]) == (names[1], None) and first["health"]["identical"] is True
    put(bundles(2), keep=2)
    third = put(bundles(3), keep=2)
    assert third["removed"] == [names[1]] and versions(board) == [names[2], names[3]]
    assert rollback(board.at(), install_root=AT) == {"version": names[2], "previous": names[3]}
    assert board.runs() == names[2]
    with pytest.raises(BundleError, match="no version before"):
        rollback(board.at(), install_root=AT)
    with pytest.raises(BundleError, match="older"):
        put(bundles(1))
    assert put(bundles(1), force=True, keep=3)["previous"] == names[2]
    assert board.runs() == names[1]
    fourth = put(bundles(4), keep=1)  # what runs and what ran before it stay, however few are to be kept
    assert board.runs() == names[4] and versions(board) == [names[1], names[4]]
    assert put(bundles(4))["version"] == fourth["version"]
    assert rollback(board.at(), install_root=AT)["version"] == board.runs() == names[1]
    with reach(board.at()) as agent:
        told = agent.call("installed", root=AT, timeout=60)
    assert told["current"] == names[1] and {v["version"] for v in told["versions"]} == {names[1], names[4]}
    assert board.rest() == []


def test_the_clock_of_the_device_decides_nothing(installed: Board, bundles, put, refused) -> None:
    installed.fault("clock", seconds=-1.7e9)  # it may think that it is 1970
    assert "older" in refused(BundleError, bundles(1))
    assert put(bundles(3))["version"] == installed.runs() == identifier(bundles(3))
    assert rollback(installed.at(), install_root=AT)["version"] == installed.runs() == identifier(bundles(2))


def test_a_bundle_that_was_changed_is_not_even_sent(refused, installed: Board, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", 3)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    assert "model.onnx was changed" in refused(BundleError, folder)


def test_a_bundle_that_lacks_a_file(refused, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", 3)
    (folder / "sample.npz").unlink()
    assert "sample.npz" in refused(BundleError, folder)


@pytest.mark.parametrize("name", ["../outside", "sub/inside", "/etc/hostname", "..", ".hidden", "manifest.json", ""])
def test_a_manifest_that_names_files_elsewhere(refused, tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "b", 3)
    (tmp_path / "outside").write_text("outside")
    (folder / "sub").mkdir()
    (folder / "sub" / "inside").write_text("inside")
    (folder / ".hidden").write_text("hidden")
    manifest = json.loads((folder / "manifest.json").read_text())
    there = folder / name
    manifest["files"][name] = entry(there) if there.is_file() else {"sha256": "0" * 64, "bytes": 0}
    refused(BundleError, record(folder, manifest))


# What a folder on the device may hold in the place of a bundle's file, however it came there.
SWAPS: Mapping[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.with_name("run.py")),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to elsewhere": lambda path: path.symlink_to("/etc/hostname"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "another file": lambda path: path.write_bytes(b"another"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_what_is_no_file_on_the_device_is_refused_there(installed: Board, tmp_path: Path, name: str, swap: str) -> None:
    folder = bundle(tmp_path / "b", 3)
    (folder / name).unlink()
    SWAPS[swap](folder / name)
    with reach(installed.at()) as agent, pytest.raises(BundleError):
        agent.call("install", folder=str(folder), root=AT, timeout=30)
    assert installed.rest() == []
    assert installed.runs()


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("older", {"created": "2026-02-01T12:00:00Z"}),
        ("aarch64", {"architecture": "aarch64"}),
        ("99.0", {"runtime": {"name": "onnxruntime", "version": "99.0", "minimum": "99.0", "precision": None}}),
        ("runtime", {"runtime": {"name": "crystal", "version": "1", "minimum": None, "precision": None}}),
        ("schema 2", {"schema": 2}),
        ("created", {"created": None}),
        ("created", {"created": "yesterday"}),
        ("threads", {"threads": 0}),
    ],
)
def test_a_bundle_that_does_not_fit_the_device(refused, tmp_path: Path, says: str, changes: dict[str, Any]) -> None:
    assert says in refused(BundleError, bundle(tmp_path / "b", 3, **changes))


def test_force_takes_another_architecture(installed: Board, put, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", 3, architecture="aarch64")
    assert put(folder, force=True)["version"] == installed.runs()


def test_a_bundle_for_a_runtime_that_is_not_there_says_what_to_install(refused, tmp_path: Path) -> None:
    runtime = {"name": "openvino", "version": "2026.4", "minimum": "2024.4", "precision": None}
    said = refused(DeviceError, bundle(tmp_path / "b", 3, runtime=runtime))
    assert "openvino" in said and "pip install" in said


def test_a_model_that_does_not_load(refused, tmp_path: Path) -> None:
    said = refused(DeviceError, bundle(tmp_path / "b", 3, model=b"\x08\x08" + bytes(1000)))
    assert "refuses the model" in said


def test_a_model_that_computes_something_else(refused, tmp_path: Path) -> None:
    assert "recorded sample" in refused(DeviceError, bundle(tmp_path / "b", 3, off_by=1.0))


def test_a_model_that_takes_too_long_here(refused, tmp_path: Path) -> None:
    said = refused(DeviceError, bundle(tmp_path / "b", 3, budget={"latency_ms": 1e-5}))
    assert "ms" in said and "1e-05" in said


def test_a_model_that_takes_too_much_memory_here(refused, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", 3, bytes_more=8_000_000, budget={"peak_memory_bytes": 1_000_000})
    assert "MB" in refused(DeviceError, folder)


def test_a_budget_that_is_kept_here(installed: Board, put, tmp_path: Path) -> None:
    health = put(bundle(tmp_path / "b", 3, budget={"latency_ms": 1000.0, "peak_memory_bytes": 100_000_000}))["health"]
    assert 0 < health["latency_ms"] < 1000 and 0 < health["peak_memory_bytes"] < 100_000_000


def test_a_disk_that_has_no_room_for_another(board: Board, bundles, put, tmp_path: Path) -> None:
    with mounted(board.root, "3m"):
        put(bundles(1))
        with pytest.raises(StorageError, match="free") as raised:
            put(bundle(tmp_path / "b", 2, bytes_more=4_000_000))
        assert raised.value.exit_code == 9
        assert board.runs() == identifier(bundles(1))
        assert board.rest() == [] and versions(board) == [identifier(bundles(1))]
        assert put(bundles(2))["version"] == board.runs()


def test_a_disk_that_is_full_to_the_last_byte(board: Board, bundles, put) -> None:
    with mounted(board.root, "3m"):
        put(bundles(1))
        with (board.root / "filling").open("wb") as filling, pytest.raises(OSError, match="No space"):
            while True:
                filling.write(bytes(1 << 16))
                filling.flush()
        with pytest.raises(StorageError):
            put(bundles(2))
        assert board.runs() == identifier(bundles(1))
        assert rollback_is_refused(board)
        (board.root / "filling").unlink()
        assert put(bundles(2))["version"] == board.runs()
        assert board.rest() == []


def rollback_is_refused(board: Board) -> bool:
    with pytest.raises(BundleError, match="no version before"):
        rollback(board.at(), install_root=AT)
    return True


def test_a_root_that_cannot_be_written(board: Board, bundles, put) -> None:
    with mounted(board.root, "8m"):
        put(bundles(1))
        put(bundles(2))
        make_read_only(board.root)
        for work in (lambda: put(bundles(3)), lambda: rollback(board.at(), install_root=AT)):
            with pytest.raises(StorageError, match="Read-only"):
                work()
        assert board.runs() == identifier(bundles(2))


def test_a_root_where_something_else_is(board: Board, bundles, put) -> None:
    board.root.write_text("mine")
    with pytest.raises(StorageError):
        put(bundles(1))
    assert board.root.read_text() == "mine"
    board.root.unlink()
    (board.root / "current").mkdir(parents=True)
    with pytest.raises(BundleError, match="not made by edgesdk"):
        put(bundles(1))
    assert (board.root / "current").is_dir()


def test_nothing_to_roll_back_to(board: Board) -> None:
    with pytest.raises(BundleError, match="nothing is installed"):
        rollback(board.at(), install_root="~/nowhere")
    assert not (board.home / "nowhere").exists()


def test_a_version_before_that_was_damaged_is_not_gone_back_to(installed: Board, bundles) -> None:
    (installed.root / "versions" / identifier(bundles(1)) / "model.onnx").write_bytes(b"rust")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        rollback(installed.at(), install_root=AT)
    assert installed.runs() == identifier(bundles(2))


def test_a_damaged_version_that_runs_is_mended_by_installing_it_again(installed: Board, bundles, put) -> None:
    (installed.root / "current" / "model.onnx").write_bytes(b"rust")
    (installed.root / "current" / "run.py").unlink()
    assert put(bundles(2))["version"] == installed.runs() == identifier(bundles(2))
    assert installed.rest() == []


def test_an_order_that_was_lost_or_spoiled(installed: Board, bundles, put) -> None:
    (installed.root / "order.json").write_text("{")
    assert put(bundles(3))["version"] == installed.runs()
    (installed.root / "order.json").unlink()
    assert rollback(installed.at(), install_root=AT)["version"] == installed.runs() == identifier(bundles(2))


def test_a_link_to_a_version_that_is_gone(installed: Board, bundles, put) -> None:
    shutil.rmtree((installed.root / "current").resolve())
    assert put(bundles(3))["version"] == installed.runs() == identifier(bundles(3))
    assert rollback(installed.at(), install_root=AT)["version"] == installed.runs() == identifier(bundles(1))


def test_another_installation_holds_the_root_only_while_it_lives(installed: Board, bundles, put) -> None:
    held, how = installed.holding(installed.root / ".lock"), {"root": AT, "lock_seconds": 0.3, "timeout": 60}
    with held, reach(installed.at()) as agent, pytest.raises(DeviceError, match="another installation"):
        agent.call("install", folder=str(bundles(3)), **how)
    assert installed.runs() == identifier(bundles(2))
    assert put(bundles(3))["version"] == installed.runs()


def test_files_that_arrive_damaged_are_not_installed(refused, installed: Board, bundles) -> None:
    installed.fault("digest", skip=1)
    assert "arrived damaged" in refused(DeviceError, bundles(3))
    assert installed.fired


def test_files_that_are_damaged_after_they_arrived_are_not_installed(refused, installed: Board, bundles) -> None:
    sent = len(list(bundles(3).iterdir()))
    installed.fault("digest", skip=sent + 2)
    assert "changed" in refused(BundleError, bundles(3))
    assert installed.fired


INSTALLING = """
import sys
from edgesdk.workflows.install import install
from edgesdk.devices.inventory import Device
install(sys.argv[1], Device("b", "ssh://board", python=sys.argv[2]), install_root=sys.argv[3])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_host_that_ends_in_the_middle(installed: Board, bundles, put, how: signal.Signals) -> None:
    installed.fault("wait", seconds=2.0, event=["open"], path=f"{ROOT}/versions/.*/model.onnx", writes=True)
    command = [sys.executable, "-c", INSTALLING, str(bundles(3)), str(installed.python), AT]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as host:
        wait_for(lambda: installed.fired or host.poll() is not None, 60)
        host.send_signal(how)
        assert host.wait(30)
    wait_for(lambda: not installed.processes())
    assert installed.runs() == identifier(bundles(2))
    assert put(bundles(3))["version"] == installed.runs()
    assert installed.rest() == []
