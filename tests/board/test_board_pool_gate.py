"""A gate on several boards over SSH at once: each has runs of its own, and the worst verdict is that of all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
from board_fleet import Fleet, meanwhile
from onnx import TensorProto, helper, numpy_helper

from edgesdk.cli.gating import as_markdown
from edgesdk.core.errors import DeviceError
from edgesdk.devices.pools import Pool
from edgesdk.workflows.gate import Gate, gate

SENT = dict(event=["open"], path="tmp/edgesdk-agent-*/*/*.onnx", writes=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Files that multiply so many times."""
    folder = tmp_path_factory.mktemp("files")

    def write(times: int) -> Path:
        weight = numpy_helper.from_array(np.eye(192, dtype=np.float32), "w")
        nodes = [helper.make_node("MatMul", [f"x{n}", "w"], [f"x{n + 1}"]) for n in range(times)]
        ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [64, 192]) for n in (0, times)]
        graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], [weight])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (folder / f"{times}.onnx").write_bytes(made.SerializeToString())
        return folder / f"{times}.onnx"

    return write


def gated(fleet: Fleet, new: Path, old: Path, **how: Any) -> Gate:
    return gate(new, old, **{"device": fleet.pool, "mode": "brief", **how})


def test_each_board_says_and_the_worst_verdict_is_that_of_all(edgesdk, files, tmp_path: Path) -> None:
    several = ("--device", "a", "--device", "b", "--mode", "brief", "--summary", tmp_path / "gate.md")
    slower = contracts.loaded(edgesdk("gate", files(8), "--baseline", files(2), *several, "--json", code=10))
    assert slower["verdict"] == "failed" and slower["notes"] == [] and slower["device"] == "a and b"
    boards, decides = slower["boards"], slower["decides"]
    assert {name: own["verdict"] for name, own in boards.items()} == dict.fromkeys("ab", "failed")
    assert slower["latency"] == boards[decides]["latency"] and slower["runs"] == boards[decides]["runs"]
    assert max(boards, key=lambda name: boards[name]["latency"]["ratio"]) == decides
    assert all(len(own["runs"]) >= 4 for own in boards.values())
    said = slower["checks"][0]["measured"]
    assert said.startswith(f"{decides} decides: ") and "a failed, b failed" in said
    assert "| b | failed |" in (tmp_path / "gate.md").read_text()


def test_a_board_that_is_gone_in_the_middle_leaves_the_others_to_say(three: Fleet, files) -> None:
    told: list[str] = []

    def tell(stage: str, share: float | None) -> None:
        told.append(stage)
        if stage == "measuring both: b run 2 of up to 24":  # its second process
            three["b"].fault("wait", seconds=60, **SENT)

    with meanwhile(lambda: three["b"].fired, lambda: three.gone("b")):
        done = gated(three, files(2), files(8), tell=tell)
    assert done.verdict == "passed" and set(done.boards) == {"a", "c"} and done.decides in ("a", "c")
    assert {f"measuring both: {name} run 1 of up to 24" for name in "abc"} <= set(told)
    (note,) = done.notes
    assert note.startswith("b dropped out of pool:fleet: ") and note in as_markdown(done)


def test_boards_that_differ_by_their_clocks_are_gated_each_by_itself(
    three: Fleet, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may use one core alone, which is ten times as slow, and somebody else measures there; the other has more
    packages."""
    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path))  # else it is known how fast it was
    three["a"].pin()
    three["a"].fault("slow", times=10)
    other = replace(three.device("b"), python=sys.executable)
    mixed = Pool("pool:mixed", (three.device("a"), other))
    with three["a"].holding(three["a"].tmp / "edgesdk-agent.lock") as held:

        def tell(stage: str, share: float | None) -> None:
            if stage == "measuring both: b run 2 of up to 24":  # the other one waits
                held.kill()

        done = gated(three, files(2), files(8), device=mixed, tell=tell)
    assert done.verdict == "passed" and set(done.boards) == {"a", "b"}
    cores = len(os.sched_getaffinity(0))
    said = f"the boards of pool:mixed differ: usable cores is 1 on a, {cores} on b"
    assert done.notes == ((said,) if cores > 1 else ())
    taken = [own.latency.baseline_ms for own in done.boards.values() if own.latency is not None]
    assert taken[0] > 2 * taken[1]
    assert all(0.1 < own.latency.ratio < 0.9 for own in done.boards.values() if own.latency is not None)


def test_where_every_board_fails_each_is_named_with_its_reason(three: Fleet, files) -> None:
    three.gone("a")
    three["b"].fault("kill", **SENT)
    three["c"].fault("print", text="no agent\n" * 10_000)
    with pytest.raises(DeviceError) as raised:
        gated(three, files(2), files(8))
    for name, says in (("a", "does not answer"), ("b", "SIGKILL"), ("c", "prints without end")):
        assert f"{name}: " in raised.value.fact and says in raised.value.fact
