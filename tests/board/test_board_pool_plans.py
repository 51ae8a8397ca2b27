"""Fronts, stages, layers as they are computed and profiles, on several boards over SSH at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import contracts
import pytest
from board_fleet import Fleet, meanwhile
from residual import write_residual

from edgesdk.core.errors import DeviceError
from edgesdk.core.plan import FP32, INT8
from edgesdk.devices.inventory import add
from edgesdk.workflows.calibrate import calibrate
from edgesdk.workflows.front import Front


def test_a_front_on_a_pool_goes_on_where_a_board_is_gone_and_says_so(edgesdk, three: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "front.json"
    (three["b"].tmp / "edgesdk-agent.lock").touch()
    three["b"].fault("wait", seconds=60, event=["open"], path="tmp/edgesdk-agent.lock", skip=2)
    how = ("--device", "pool:lab", "--runtime", "onnxruntime", "--points", "2", "--out", out)

    def go_on() -> None:
        three.gone("b")
        held.kill()  # another one measures on c until then

    with three["c"].holding(three["c"].tmp / "edgesdk-agent.lock") as held, meanwhile(lambda: three["b"].fired, go_on):
        shown = edgesdk("sweep", *write_residual(tmp_path), *how)
    front = Front.read(out)
    assert {point.target for point in front.points} == {"x86"} and any(point.ratio < 1 for point in front.points)
    (note,) = [note for note in front.notes if "b dropped out of pool:lab: " in note]
    assert note in shown
    edgesdk("report", out)
    assert "b dropped out of pool:lab" in out.with_suffix(".html").read_text()
    caches = sorted((tmp_path / "cache" / "prices").glob("board-*"))
    assert len(caches) == 3  # what it had timed stays

    add(replace(three.device("c"), target="x86", python=sys.executable), force=True)  # has more than the others
    alike = ("--device", "a", "--device", "c", "--runtime", "auto", "--out", tmp_path / "other.json")
    assert "a and c are not alike: openvino is not there on a" in edgesdk(
        "sweep", *write_residual(tmp_path), *alike, code=6
    )


def test_stages_on_a_pool_are_measured_on_each_board(edgesdk, three: Fleet, tmp_path: Path) -> None:
    given = write_residual(tmp_path)
    three["a"].fault("clock", seconds=1e8)
    three.gone("c")
    how = ("--device", "pool:lab", "--max-drop", "50", "--out", tmp_path / "stages", "--json", "-q")
    staged = contracts.loaded(edgesdk("stages", *given, *how))
    assert staged["basis"]["stages"] == "measured" and staged["expected_ms"] > 0
    assert any(note.startswith("c dropped out of pool:lab: ") for note in staged["notes"])
    other = ("--device", "pool:lab", "--target", "pi5", "--out", tmp_path / "other")
    assert "is no raspberry-pi-5" in edgesdk("stages", *given, *other, code=6)


def test_layers_are_compared_as_each_board_computes_them(edgesdk, three: Fleet, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    given = write_residual(tmp_path)
    edgesdk("deploy", *given, "--target", "pi5", "--latency", "0.8x", "--epochs", "0", "--out", bundle, "-q")
    three["b"].fault("wait", seconds=60, event=["open"], path="tmp/edgesdk-agent-*/*/*.onnx", writes=False)
    with meanwhile(lambda: three["b"].fired, lambda: three.gone("b")):
        compared = contracts.loaded(edgesdk("diff", bundle, "--device", "pool:lab", "--json"))
    assert list(compared["boards"]) == ["a", "c"] and compared["farthest"] in ("a", "c") and compared["holds"]
    assert compared["apart"] == [], "they are this machine, twice"
    (note,) = compared["notes"]
    assert note.startswith("b dropped out of pool:lab: ")
    assert compared["outputs"] == compared["boards"]["a"]["outputs"] == compared["boards"]["c"]["outputs"]
    shown = edgesdk("diff", bundle, "--device", "a", "--device", "c", "-q")
    assert "every layer is alike on all boards, to the bit" in shown and "a (shown here): onnxruntime" in shown


def test_a_profile_is_that_of_the_slowest(three: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGESDK_CACHE", "EDGESDK_PROFILES"):
        monkeypatch.setenv(name, str(tmp_path / name))
    three["b"].fault("clock", seconds=1e8)
    three.gone("c")
    made = calibrate("my-board", device=three.pool, share=0.01)
    assert [pair.precision for pair in made.pairs] == [FP32, INT8]
    for pair in made.pairs:
        source, (first, second) = pair.provenance.source, pair.provenance.errors
        (slowest,) = [name for name in "ab" if f"timed on {name}, the slowest of pool:fleet; " in source]
        other = {"a": "b", "b": "a"}[slowest]
        assert f" times what {other} takes; c dropped out of pool:fleet: " in source
        assert first[0].startswith(f"{slowest}, ") and second[0].startswith(f"{other}, ")
    tables = sorted((tmp_path / "EDGESDK_CACHE" / "prices").glob("board-*/*.json"))
    assert len(tables) == 2
    three["b"].pin()
    with pytest.raises(DeviceError, match="not alike: usable cores is"):
        calibrate("another", device=three.pool, share=0.01)
