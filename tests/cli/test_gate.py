"""`edgesdk gate`: really measured here, its verdicts as exit codes, JSON, JUnit XML and Markdown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import contracts
import pytest
import torch
from running import edgesdk
from torch import nn

from edgesdk.bundle.bundle import Bundle
from edgesdk.cli.gating import as_junit, as_markdown
from edgesdk.core.artifact import Artifact
from edgesdk.core.gating import FAILED, INCOMPARABLE, PASSED
from edgesdk.workflows.gate import BASELINE, NEW, Check, Gate, find_difference, judge_scores

BEFORE = Path(__file__).parent / "before" / "bundle"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two files of which one takes several times as long as the other, and the short one in another format."""
    folder = tmp_path_factory.mktemp("gate")

    def saved(name: str, depth: int) -> Path:
        layers = [nn.Conv2d(3, 32, 3, 1, 1), *(nn.Conv2d(32, 32, 3, 1, 1) for _ in range(depth))]
        torch.onnx.export(nn.Sequential(*layers).eval(), (torch.randn(1, 3, 16, 16),), folder / name, verbose=False)
        return folder / name

    return {"short": saved("short.onnx", 1), "long": saved("long.onnx", 6)}


def test_what_is_much_slower_fails_and_what_is_faster_passes(files: dict[str, Path], tmp_path: Path) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    places = ("--junit", junit, "--summary", summary)
    failed = edgesdk("gate", files["long"], "--baseline", files["short"], "--mode", "brief", *places)
    assert failed.code == 10 and failed.out.startswith("failed: "), failed
    case = ElementTree.parse(junit).getroot()[0]
    assert case.get("name") == "latency" and case[0].tag == "failure"
    assert summary.read_text().startswith("before\n") and "| latency | failed |" in summary.read_text()

    passed = edgesdk("gate", files["short"], "--baseline", files["long"], "--mode", "brief", "--json")
    document = passed.document
    contracts.check(document)
    assert passed.code == 0 and document["verdict"] == "passed"
    assert document["latency"]["high"] < 1 and document["latency"]["runs"] == len(document["runs"]) >= 4


def test_bundles_of_other_runtimes_or_threads_are_not_comparable(tmp_path: Path) -> None:
    other = changed(tmp_path / "threads", lambda manifest: manifest.update(threads=2))
    done = edgesdk("gate", other, "--baseline", BEFORE)
    assert done.code == 12 and "2 threads" in done.out and "give --threads" in done.out
    models = {NEW: Artifact(Path("m.xml"), runtime="openvino"), BASELINE: Artifact(Path("m.onnx"))}
    assert "openvino" in str(find_difference(models, {}))


def changed(place: Path, change: Any) -> Path:
    shutil.copytree(BEFORE, place)
    manifest = json.loads((place / "manifest.json").read_text())
    change(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


@pytest.mark.parametrize(
    ("change", "most", "verdict"),
    [
        ({}, 0.0, PASSED),
        ({"score": {"dense": 90.0, "deployed": 88.9}}, 1.0, FAILED),
        ({"score": {"dense": 90.0, "deployed": 89.0}}, 1.0, PASSED),
        ({"score": {"dense": 90.0, "deployed": 95.0}}, 0.0, PASSED),
        ({"score": {"dense": None, "deployed": None}}, 1.0, INCOMPARABLE),
        ({"metric": "another metric"}, 1.0, INCOMPARABLE),
        ({"data": "other data"}, 1.0, INCOMPARABLE),
    ],
)
def test_recorded_scores_are_compared_where_they_can_be(change: dict[str, Any], most: float, verdict: str) -> None:
    bundle = Bundle.open(BEFORE)
    old = replace(bundle, report={**bundle.report, "score": {"dense": 90.0, "deployed": 90.0}})
    drop, (check,) = judge_scores({NEW: replace(old, report={**old.report, **change}), BASELINE: old}, most)
    assert check.verdict == verdict and (drop is None) == (verdict == INCOMPARABLE)


def test_a_file_has_no_score(files: dict[str, Path]) -> None:
    assert judge_scores({}, None) == (None, ())
    assert judge_scores({NEW: Bundle.open(BEFORE)}, 1.0)[1][0].verdict == INCOMPARABLE


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere.onnx", "--baseline", BEFORE), 8, "neither a bundle nor a model file"),
        ((BEFORE, "--baseline", "nowhere"), 8, "nowhere"),
        ((BEFORE,), 2, "--baseline"),
        ((BEFORE, "--baseline", BEFORE, "--max-slower", "a bit"), 2, "--max-slower is 'a bit'"),
        ((BEFORE, "--baseline", BEFORE, "--max-drop", "-1"), 2, "a drop of -1 points"),
        ((BEFORE, "--baseline", BEFORE, "--junit", "no/such/folder/x.xml"), 9, "cannot be written"),
        ((BEFORE, "--baseline", BEFORE, "--summary", "."), 9, "cannot be written"),
        ((BEFORE, "--baseline", BEFORE, "--runtime", "litert"), 2, "does not read"),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(arguments: tuple[Any, ...], code: int, says: str) -> None:
    done = edgesdk("gate", *arguments)
    assert done.code == code and says in done.line and not done.out


def test_names_with_markup_are_text() -> None:
    check = Check("latency", FAILED, "3%", "1.2 of <b>the</b> | `baseline`")
    gate = Gate(
        FAILED, "<script>|x", 'a"b&c', (check,), None, None, "onnxruntime", "1", 1, "rapid", "board", runs=()
    )  # fmt: skip
    assert ElementTree.fromstring(as_junit(gate))[0][0].get("message") == "1.2 of <b>the</b> | `baseline`, 3% allowed"
    markdown = as_markdown(gate)
    assert "<script>" not in markdown and "<b>" not in markdown
    assert all(line.replace("\\|", "").count("|") == 5 for line in markdown.splitlines() if line.startswith("|"))
