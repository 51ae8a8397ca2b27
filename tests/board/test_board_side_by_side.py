"""Files measured on several boards over SSH at once: the slowest counts, and what fails drops out with its reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import pytest
from board_fleet import Fleet, meanwhile
from board_machine import wait_for

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.serialize import dumps
from edgesdk.devices.pools import Pool
from edgesdk.workflows.benchmark import Benchmark, benchmark
from edgesdk.workflows.report import report as page

SENT = dict(event=["open"], path="tmp/edgesdk-agent-*/*/model.onnx", child=True)


def measured(fleet: Fleet, bundles, **how: Any) -> Benchmark:
    return benchmark([bundles(1), bundles(2)], **{"device": fleet.pool, "mode": "brief", **how})


def latency(reports: Any) -> list[float]:
    return [report.latency_ms() for report in reports]


def test_each_board_measures_and_the_slowest_counts(three: Fleet, bundles, tmp_path: Path) -> None:
    told: list[str] = []
    several = [three.device(name) for name in "abc"]
    done = measured(three, bundles, device=several, tell=lambda stage, share: told.append(stage))
    assert set(done.boards) == {"a", "b", "c"} and done.notes == ()
    assert {f"measuring: {name}" for name in "abc"} <= set(told)
    assert done.slowest is not None and done.boards[done.slowest] == done.reports
    products = {name: latency(reports)[0] * latency(reports)[1] for name, reports in done.boards.items()}
    assert max(products, key=lambda name: products[name]) == done.slowest
    for reports in done.boards.values():
        assert [report.name for report in reports] == ["1", "2"] and set(reports[0].ratios) == {"2"}
    document = contracts.loaded(dumps(done))
    (tmp_path / "told.json").write_text(dumps(document))
    text = page(tmp_path / "told.json").read_text()
    assert f"{done.slowest} (slowest)" in text and "Measured side by side" in text
    for board in three.boards.values():
        wait_for(lambda board=board: not board.processes())
        assert board.rest() == []


def test_a_board_that_is_gone_in_the_middle_is_left_out_and_said(three: Fleet, bundles) -> None:
    three["b"].fault("wait", seconds=60, **SENT)
    with meanwhile(lambda: three["b"].fired, lambda: three.gone("b")):
        done = measured(three, bundles)
    assert set(done.boards) == {"a", "c"} and done.slowest in ("a", "c")
    (note,) = done.notes
    assert note.startswith("b dropped out of pool:fleet: ") and "lost" in note


def test_where_every_board_fails_each_is_named_with_its_reason(three: Fleet, bundles) -> None:
    three.gone("a")
    three["b"].fault("kill", **SENT)
    three["c"].fault("print", text="no agent\n" * 10_000)
    with pytest.raises(DeviceError) as raised:
        measured(three, bundles)
    assert "no board of pool:fleet is left of" in raised.value.fact
    for name, says in (("a", "does not answer"), ("b", "SIGKILL"), ("c", "prints without end")):
        assert f"{name}: " in raised.value.fact and says in raised.value.fact


def test_a_board_that_another_measures_on_is_waited_for(three: Fleet, bundles) -> None:
    with three["c"].holding(three["c"].tmp / "edgesdk-agent.lock") as held:
        told: list[str] = []

        def tell(stage: str, share: float | None) -> None:
            told.append(stage)
            if len(told) == 3:  # all of them have begun
                held.kill()

        done = measured(three, bundles, tell=tell)
    assert set(done.boards) == {"a", "b", "c"}


def test_clocks_that_differ_change_no_figure(three: Fleet, bundles) -> None:
    three["a"].fault("clock", seconds=1e8)
    three["b"].fault("clock", seconds=-1e9)
    done = measured(three, bundles)
    assert set(done.boards) == {"a", "b", "c"}
    for reports in done.boards.values():
        assert all(0 < ms < 1000 for ms in latency(reports))


def test_boards_that_are_not_alike_are_measured_and_it_is_said_how_they_differ(three: Fleet, bundles) -> None:
    other = replace(three.device("b"), python=sys.executable)  # which has more runtimes
    done = measured(three, bundles, device=Pool("pool:mixed", (three.device("a"), other)))
    assert set(done.boards) == {"a", "b"}, done.notes
    assert any("pool:mixed differ: openvino is not there on a, " in note for note in done.notes)
    with pytest.raises(UsageError, match="it measures one board"):
        measured(three, bundles, meter="echo 1")
