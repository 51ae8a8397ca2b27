"""Installing over SSH, and what goes wrong at each of its steps: the old version runs on, and the next try works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from board_bundles import identifier
from board_machine import ROOT, Board, wait_for
from slow import core

from edgesdk.core.errors import BundleError, DeviceError, EdgeSdkError
from edgesdk.devices.reach import reach
from edgesdk.workflows.install import install, rollback

KEEP = 2
CODES = {"kill": 6, "drop": 6, "reboot": 6, "full": 9, "denied": 9}
SCRATCH = "tmp/edgesdk-agent-*"

# Where it happens, in the order of an installation.
POINTS: Mapping[str, Mapping[str, Any]] = {
    "the agent arrives": dict(event=["open"], path=f"{SCRATCH}/agent.pyz", writes=True),
    "a file arrives": dict(event=["open"], path=f"{SCRATCH}/*/model.onnx", writes=True),
    "a later piece of it arrives": dict(event=["open"], path=f"{SCRATCH}/*/model.onnx", writes=True, skip=1),
    "another file arrives": dict(event=["open"], path=f"{SCRATCH}/*/manifest.json", writes=True),
    "the lock": dict(event=["open"], path=f"{ROOT}/.lock"),
    "reading the manifest": dict(event=["open"], path=f"{SCRATCH}/*/manifest.json", writes=False),
    "a folder for the copy": dict(event=["os.mkdir"], path=f"{ROOT}/versions/.*"),
    "the copy": dict(event=["open"], path=f"{ROOT}/versions/.*/model.onnx", writes=True),
    "the copy is named": dict(event=["os.rename"], path=f"{ROOT}/versions/.*"),
    "the health check": dict(event=["open"], path=f"{ROOT}/versions/*/*", child=True),
    "the order": dict(event=["os.rename"], path=f"{ROOT}/order.json"),
    "the new link": dict(event=["os.symlink"], path=f"{ROOT}/.current.*"),
    "the switch": dict(event=["os.rename"], path=f"{ROOT}/current"),
    "pruning": dict(event=["os.remove"], path=f"{ROOT}/versions/*"),
    "pruning a folder": dict(event=["os.rmdir"], path=f"{ROOT}/versions/*"),
}
WRITING = (
    "the agent arrives", "a file arrives", "a folder for the copy", "the copy", "the order", "the new link",
)  # fmt: skip
SWITCHED = ("pruning", "pruning a folder")  # the new version runs by then
# Nothing lasts there, so that a connection that ends a moment earlier or later is the same.
QUICK = ("the agent arrives", "the lock", "reading the manifest", "the health check", "pruning a folder")
EITHER = ("the order", "the new link", "the switch")  # an agent that is cut off there may be done before it knows
FAULTS = [
    *(("kill", point) for point in POINTS),
    *(("drop", point) for point in POINTS if point not in QUICK),
    *(("full", point) for point in WRITING),
    *(("denied", point) for point in ("the lock", "a folder for the copy", "the switch")),
    *(("reboot", point) for point in ("a file arrives", "the copy", "the switch", "pruning")),
]

# Each fault once, and a kill on either side of each thing that is decided.
CORE = {
    *(("kill", point) for point in ("the copy", "the order", "the switch", "pruning")),
    *(("drop", "a file arrives"), ("full", "the copy"), ("denied", "the switch"), ("reboot", "the switch")),
}


def put(board: Board, bundle: Path) -> dict[str, Any]:
    return install(bundle, board.at(), install_root=f"~/{ROOT}", keep=KEEP)


def back(board: Board) -> dict[str, Any]:
    return rollback(board.at(), install_root=f"~/{ROOT}")


def inject(board: Board, mode: str, point: str, work: Callable[[], Any]) -> None:
    """``work`` fails as ``mode`` does at ``point``, in one line, with the exit code of its kind."""
    board.fault(mode, **POINTS[point])
    with pytest.raises(EdgeSdkError) as raised:
        work()
    assert board.fired, raised.value
    assert raised.value.exit_code == CODES[mode], raised.value
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)
    wait_for(lambda: not board.processes())  # nothing works on for nobody
    board.mend()


@pytest.mark.parametrize(("mode", "point"), core(FAULTS, lambda *fault: fault in CORE), ids=lambda value: value)
def test_an_installation_that_is_cut_short_leaves_the_device_as_it_was(
    installed, bundles, mode: str, point: str
) -> None:
    inject(installed, mode, point, lambda: put(installed, bundles(3)))
    old, new = identifier(bundles(2)), identifier(bundles(3))
    if mode == "drop" and point in EITHER:
        assert installed.runs() in (old, new)
    else:
        assert installed.runs() == (new if point in SWITCHED else old)
    if mode in ("full", "denied"):  # who can, clears up at once
        assert installed.rest() == []
    done = put(installed, bundles(3))
    assert done["version"] == installed.runs() == new
    assert installed.rest() == []
    assert not (installed.root / "versions" / identifier(bundles(1))).exists()


@pytest.mark.parametrize(("mode", "point"), [(m, p) for m in ("kill", "full") for p in ("the new link", "the switch")])
def test_a_rollback_that_is_cut_short_leaves_the_device_as_it_was(installed, bundles, mode: str, point: str) -> None:
    inject(installed, mode, point, lambda: back(installed))
    assert installed.runs() == identifier(bundles(2))
    assert back(installed)["version"] == installed.runs() == identifier(bundles(1))
    assert installed.rest() == []


def test_an_agent_that_hangs_is_left(installed: Board, bundles) -> None:
    installed.fault("wait", seconds=3600, **POINTS["the copy"])
    with reach(installed.at()) as agent:
        agent.silence = 1.0
        with pytest.raises(DeviceError, match="took over 1 s"):
            agent.call("install", folder=str(bundles(3)), root=f"~/{ROOT}")
    assert installed.fired
    wait_for(lambda: not installed.processes())
    installed.mend()
    assert installed.runs() == identifier(bundles(2))
    assert put(installed, bundles(3))["version"] == installed.runs()
    assert installed.rest() == []


def test_two_hosts_that_install_at_once_do_so_one_after_the_other(installed: Board, bundles) -> None:
    said: dict[int, Any] = {}

    def run(number: int) -> None:
        try:
            said[number] = put(installed, bundles(number))["version"]
        except EdgeSdkError as error:
            said[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said[4] == installed.runs() == identifier(bundles(4))
    assert said[3] == identifier(bundles(3)) or isinstance(said[3], BundleError) and "older" in said[3].fact
    assert installed.rest() == []


@pytest.mark.parametrize("point", ["the copy", "the switch"])
def test_a_first_installation_that_is_killed_leaves_no_version(board: Board, bundles, point: str) -> None:
    inject(board, "kill", point, lambda: put(board, bundles(1)))
    assert not (board.root / "current").exists()
    assert put(board, bundles(1))["version"] == board.runs()
    assert board.rest() == []
