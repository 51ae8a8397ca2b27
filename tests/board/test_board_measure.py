"""Measuring over SSH: what is measured is what was sent, one at a time, and what is interrupted leaves nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from board_machine import Board, wait_for

from edgesdk.core.errors import DeviceError
from edgesdk.devices import ssh
from edgesdk.devices.reach import reach
from edgesdk.workflows.benchmark import benchmark

SHORT = {"minimum_count": 64, "minimum_seconds": 0.3, "warmup_seconds": 0.1, "blocks": 3}
LONG = {**SHORT, "minimum_seconds": 60.0, "blocks": None}


def timed(board: Board, model: Path, tell: Callable[[dict[str, Any]], None] = lambda step: None, **how: Any) -> Any:
    """What the agent on the board says of one artifact."""
    with reach(board.at()) as agent:
        artifacts = [{"name": "model", "path": agent.place(model)}]
        return agent.call("benchmark", artifacts=artifacts, on_progress=tell, timeout=100, **{**SHORT, **how})


@pytest.fixture
def model(bundles) -> Path:
    return bundles(1) / "model.onnx"


def test_a_device_that_measures_another_file_is_found_out(board: Board, bundles) -> None:
    files = 1  # that of the model arrives as it was; its digest in the answer is another
    board.fault("digest", skip=files)
    with pytest.raises(DeviceError, match="SHA-256"):
        benchmark(bundles(1), mode="rapid", device=board.at())
    assert board.fired


def interrupted(board: Board, model: Path, how: Callable[[], None]) -> DeviceError:
    """The error of a long run to which ``how`` happens while it is timed; the next run is as any."""
    steps: list[str] = []

    def tell(step: dict[str, Any]) -> None:
        steps.append(step["state"])
        if steps.count("timing") == 1:
            how()

    with pytest.raises(DeviceError) as raised:
        timed(board, model, tell, **LONG)
    assert "timing" in steps
    assert "\n" not in str(raised.value)
    return raised.value


def sound(board: Board, model: Path) -> None:
    """The board measures, and leaves nothing."""
    assert timed(board, model)["artifacts"][0]["statistics"]["p50"] > 0
    wait_for(lambda: not board.processes())
    assert board.rest() == []


def end(numbers: list[int], how: signal.Signals = signal.SIGKILL) -> None:
    assert numbers
    for number in numbers:
        os.kill(number, how)


def test_an_agent_that_is_killed_while_it_measures(board: Board, model: Path) -> None:
    error = interrupted(board, model, lambda: end(board.processes()))
    assert "killed" in error.fact
    sound(board, model)


def test_a_connection_that_ends_while_it_measures(board: Board, model: Path) -> None:
    error = interrupted(board, model, board.cut)
    assert "connection" in error.fact and "lost" in error.fact
    wait_for(lambda: not board.processes())  # the agent ends with its host, and with it its lock
    sound(board, model)


def test_a_connection_that_freezes_while_it_measures(
    board: Board, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "ALIVE_SECONDS", 1)
    monkeypatch.setattr(ssh, "ALIVE_COUNT", 2)
    board.cut()  # the next one has these settings
    error = interrupted(board, model, lambda: end(board.sessions(), signal.SIGSTOP))
    assert "connection" in error.fact and "lost" in error.fact
    end(board.sessions(), signal.SIGCONT)
    wait_for(lambda: not board.processes())
    sound(board, model)


def test_a_device_that_is_gone_while_it_measures(board: Board, model: Path) -> None:
    def gone() -> None:
        sessions = board.sessions()
        board.down()
        end(sessions)

    error = interrupted(board, model, gone)
    assert "lost" in error.fact
    with pytest.raises(DeviceError, match="does not answer"):
        timed(board, model)
    board.up()
    wait_for(lambda: not board.processes())
    sound(board, model)


def test_a_fresh_process_that_is_killed(board: Board, model: Path) -> None:
    board.fault("kill", event=["open"], path="tmp/edgesdk-agent-*/model.onnx", child=True)
    with reach(board.at()) as agent:
        with pytest.raises(DeviceError, match="killed by SIGKILL"):
            agent.call("load", path=agent.place(model), timeout=60)
        assert board.fired
        assert agent.call("load", path=agent.place(model), timeout=60)["load_ms"] > 0  # the agent itself lives


def test_two_hosts_measure_one_after_the_other(board: Board, model: Path) -> None:
    seen: dict[str, list[tuple[float, str]]] = {"first": [], "second": []}
    timing = threading.Event()
    failed: list[BaseException] = []

    def measure(name: str) -> None:
        def tell(step: dict[str, Any]) -> None:
            seen[name].append((time.monotonic(), step["state"]))
            if step["state"] == "timing":
                timing.set()

        try:
            timed(board, model, tell, **{**SHORT, "minimum_seconds": 4})  # the other must be there by then
            seen[name].append((time.monotonic(), "done"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=measure, args=(name,)) for name in seen]
    threads[0].start()
    assert timing.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert "waiting" in {state for _, state in seen["second"]}
    begun = min(when for when, state in seen["second"] if state == "loading")
    last = max(when for when, state in seen["first"] if state == "timing")
    assert last < begun
    assert seen["second"][-1][1] == "done"


def test_a_lock_of_a_dead_process_holds_nobody(board: Board, model: Path) -> None:
    with board.holding(board.tmp / "edgesdk-agent.lock"), pytest.raises(DeviceError, match="another measurement"):
        timed(board, model, lock_seconds=0.3)
    assert timed(board, model, lock_seconds=0.3)["artifacts"]


def test_a_lock_that_is_a_link_is_not_followed(board: Board, model: Path) -> None:
    path = board.tmp / "edgesdk-agent.lock"
    path.unlink(missing_ok=True)
    path.symlink_to(board.home / "elsewhere")
    try:
        with pytest.raises(DeviceError):
            timed(board, model, lock_seconds=0.3)
        assert not (board.home / "elsewhere").exists()
    finally:
        path.unlink()


@pytest.mark.parametrize("seconds", [1e8, -1e9])
def test_a_clock_that_jumps_changes_no_figure(board: Board, model: Path, seconds: float) -> None:
    board.fault("clock", seconds=seconds)
    timing = timed(board, model)["artifacts"][0]
    assert 0 < timing["statistics"]["min"] <= timing["statistics"]["max"] < 10_000
    assert 0.3 <= timing["timed_seconds"] < 60
