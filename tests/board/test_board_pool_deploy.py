"""Alike boards over SSH share the pricing of operators and measure files side by side, up to a whole deployment."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import contracts
import pytest
from board_fleet import Fleet, meanwhile
from board_machine import ROOT, wait_for
from residual import write_residual

from edgesdk.bundle.bundle import file_digest
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError
from edgesdk.core.graph import CONV, LINEAR
from edgesdk.core.plan import FP32
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Boards
from edgesdk.devices.pool_bench import PoolBench
from edgesdk.devices.pools import Pool
from edgesdk.export.probes import probe
from edgesdk.price.operator import Operator
from edgesdk.workflows.where import Where

CONVS = [Operator(CONV, FP32, n, n, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)) for n in range(4, 44, 2)]
LINEARS = [Operator(LINEAR, FP32, n, n) for n in range(8, 168, 8)]
OPERATORS = [*CONVS, *LINEARS]


@pytest.fixture
def bench(three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolBench]:
    """The three boards as one, with no prices yet."""
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    with Boards(three.pool) as boards:
        yield PoolBench(boards, lambda board, folder: Bench(board.agent, folder=folder))


def who_timed(bench: PoolBench) -> dict[str, list[str]]:
    """The boards that have a price of each operator."""
    tables = {name: own.table for name, own in bench.benches.items()}
    return {op.key: [name for name, table in tables.items() if table.has_price(op)] for op in OPERATORS}


def test_each_operator_is_timed_on_one_board_and_one_of_a_kind_on_all(bench: PoolBench) -> None:
    shares: list[float] = []
    assert bench.time(OPERATORS, probe, seconds=0.0) == 0 and not any(who_timed(bench).values())
    count = bench.time(OPERATORS, probe, shares.append)
    timed = who_timed(bench)
    everywhere = [key for key, boards in timed.items() if len(boards) == 3]
    assert len(everywhere) == 2  # a convolution, a linear layer
    assert all(len(boards) == 1 for key, boards in timed.items() if key not in everywhere)
    assert {name for boards in timed.values() for name in boards} == {"a", "b", "c"}
    assert count < 2.4 * len(OPERATORS) and shares[-1] == 1.0  # each, its baseline, and what all boards time
    prices = bench.prices(0)
    assert all(prices.has_price(op) and prices.latency_ms(op) > 0 for op in OPERATORS)
    assert bench.time(OPERATORS, probe) == 0  # they are kept
    with Boards(bench.boards.pool) as boards:
        again = PoolBench(boards, lambda board, folder: Bench(board.agent, folder=folder))
        assert who_timed(again) == timed
    assert bench.time(OPERATORS[:3], probe, again=True) > 0
    assert all(bench.prices(0).has_price(op) for op in OPERATORS)


def test_what_a_board_leaves_another_one_does(three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    lock = three["b"].tmp / "edgesdk-agent.lock"
    lock.touch()
    # It has timed what all boards time, and is about to time a share of its own.
    three["b"].fault("wait", seconds=60, event=["open"], path="tmp/edgesdk-agent.lock", skip=1)
    with Boards(three.pool) as boards:
        bench = PoolBench(boards, lambda board, folder: Bench(board.agent, folder=folder))
        with meanwhile(lambda: three["b"].fired, lambda: three.gone("b")):
            bench.time(OPERATORS, probe)
        timed = who_timed(bench)
        assert all(timed.values()) and sum(boards == ["b"] for boards in timed.values()) == 0
        assert sum("b" in boards for boards in timed.values()) == 2
        assert list(boards.lost) == ["b"] and any("b dropped out of pool:fleet" in note for note in bench.notes)
        for name in "ac":
            three.gone(name)
        with pytest.raises(DeviceError, match="no board of pool:fleet is left of b, a, c"):
            bench.time(OPERATORS, probe, again=True)


def test_every_price_is_that_of_the_board_with_the_lowest_clock(
    three: Fleet, bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    three["b"].fault("slow", times=10)
    with Boards(three.pool) as boards:
        bench = PoolBench(boards, lambda board, folder: Bench(board.agent, folder=folder))
        bench.time(OPERATORS, probe)
        prices, tables = bench.prices(0), {name: own.table for name, own in bench.benches.items()}
        for name in "ac":  # what these timed alone is what it takes on the slowest
            own = [op for op in OPERATORS if tables[name].has_price(op) and not tables["b"].has_price(op)]
            assert own and all(3 < prices.latency_ms(op) / tables[name].latency_ms(op) < 30 for op in own)
        assert all(prices.latency_ms(op) == tables["b"].latency_ms(op) for op in OPERATORS if tables["b"].has_price(op))
        assert any("pool:fleet differ: b takes " in note and " times what " in note for note in bench.notes)
        (report,) = bench.measure({"one": Artifact(bundles(1) / "model.onnx")}, "brief", thorough=False).values()
        assert any("the slowest of pool:fleet counts, b: " in note for note in report.notes)


def test_files_are_measured_on_each_and_the_report_says_so(bench: PoolBench, three: Fleet, bundles) -> None:
    files = {"one": Artifact(bundles(1) / "model.onnx"), "two": Artifact(bundles(2) / "model.onnx")}
    measured = bench.measure(files, "brief", thorough=False)
    for report in measured.values():
        assert any("the slowest of pool:fleet counts" in note and re.search(r"\ba \d", note) for note in report.notes)
        assert report.latency_ms() > 0 and report.peak_memory_bytes is not None
    assert bench.profile(files["one"]) is not None
    three.gone("a")
    assert bench.kernels(files["one"])  # on another one
    assert list(bench.boards.lost) == ["a"]
    with pytest.raises(DeviceError):
        bench.kernels(Artifact(bundles(1) / "report.json"))
    assert list(bench.boards.lost) == ["a"]  # what was asked was wrong, not the boards


def test_boards_that_are_not_alike_are_refused_and_it_is_said_how(three: Fleet) -> None:
    pool = Pool("pool:mixed", (three.device("a"), replace(three.device("b"), python=sys.executable)))
    where = Where.named("x86", "auto", device=pool)
    with (
        where.reach() as reached,
        pytest.raises(DeviceError, match=r"pool:mixed are not alike: openvino is not there on a"),
    ):
        where.open_meters(reached, force=False)
    where = Where.named("x86", "onnxruntime", device=pool)  # which is the same on both
    with where.reach() as reached:
        assert isinstance(where.open_meters(reached, force=False).meters[0], PoolBench)
    where = Where.named("x86", "openvino", device=pool)
    with where.reach() as reached, pytest.raises(DeviceError, match="openvino is not installed on a"):
        where.open_meters(reached, force=True)


def test_a_deployment_on_a_pool_is_installed_there_in_stages(edgesdk, three: Fleet, tmp_path: Path) -> None:
    given = write_residual(tmp_path)
    out = tmp_path / "bundle"
    how = ("--device", "pool:lab", "--epochs", "0", "--max-drop", "100")
    assert "4 of 3 boards as canary" in edgesdk("deploy", *given, *how, "--canary", "4", "--out", out, code=2)
    assert "is one board" in edgesdk("deploy", *given, "--device", "a", "--canary", "1", "--out", out, code=2)
    assert "without a device" in edgesdk("deploy", *given, "--target", "x86", "--canary", "1", "--out", out, code=2)
    assert not out.exists()
    # The second canary cannot switch to it: the third is not begun, and the bundle is there all the same.
    three["b"].fault("denied", event=["os.rename"], path=f"{ROOT}/current")
    deployed = contracts.loaded(edgesdk("deploy", *given, *how, "--canary", "2", "--out", out, "--json", "-q", code=9))
    assert deployed["installed"] is None and deployed["report"]["basis"] == "measured"
    notes = deployed["report"]["deployed"]["notes"]
    assert any(note.startswith("the slowest of pool:lab counts, ") for note in notes)
    standing = deployed["rollout"]["boards"]
    assert [board["state"] for board in standing] == ["not rolled back", "failed", "not begun"]
    assert [board["stage"] for board in standing] == [1, 1, None] and deployed["rollout"]["exit_code"] == 9
    three["b"].mend()
    rollout = contracts.loaded(edgesdk("device", "install", "pool:lab", out, "--json"))
    assert [board["state"] for board in rollout["boards"]] == ["unchanged", "installed", "installed"]
    for board in three.boards.values():
        wait_for(lambda board=board: not board.processes())
        assert board.rest() == []
        assert file_digest(board.root / "current" / "model.onnx") == deployed["report"]["deployed"]["digest"]
