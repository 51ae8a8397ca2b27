"""`edgesdk gate`: really measured here, its verdicts as exit codes, JSON, JUnit XML and Markdown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import contracts
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from running import edgesdk
from torch import nn

from edgesdk.bundle.bundle import Bundle
from edgesdk.cli.gating import as_junit, as_markdown
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import UsageError
from edgesdk.core.gating import BASELINE, EXIT_CODES, FAILED, INCOMPARABLE, NEW, PASSED, UNCLEAR, Check, Limit, Slowdown
from edgesdk.core.sampling import ALONE, PAIRED, SAME, UNPAIRED
from edgesdk.workflows.accuracy_gate import Scored, judge_anew, judge_scores, read_scores
from edgesdk.workflows.gate import (
    BoardGate,
    Gate,
    find_difference,
    find_verdict,
    find_worst,
    gate,
    join_boards,
    judge_latency,
)

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
    junit, summary = tmp_path / "made" / "gate.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    places = ("--junit", f"{junit.parent}/", "--summary", summary)
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


def test_quiet_is_the_verdict_alone(tmp_path: Path) -> None:
    other = changed(tmp_path / "threads", lambda manifest: manifest.update(threads=2))
    done = edgesdk("-q", "gate", other, "--baseline", BEFORE)
    assert (done.code, done.out) == (12, f"not comparable: {other} against {BEFORE}\n"), done


def test_bundles_of_other_runtimes_or_threads_are_not_comparable(tmp_path: Path) -> None:
    other = changed(tmp_path / "threads", lambda manifest: manifest.update(threads=2))
    done = edgesdk("gate", other, "--baseline", BEFORE, "--summary", tmp_path / "gate.md")
    assert done.code == 12 and "2 threads" in done.out and "give --threads" in done.out
    for said in (done.out, (tmp_path / "gate.md").read_text()):
        assert "not comparable" in said and "measured on" not in said  # for nothing was
    models = {NEW: Artifact(Path("m.xml"), runtime="openvino"), BASELINE: Artifact(Path("m.onnx"))}
    assert "openvino" in str(find_difference(models, {}, {}))
    board = changed(tmp_path / "target", lambda manifest: manifest.update(target="raspberry-pi-4"))
    done = edgesdk("gate", board, "--baseline", BEFORE, "--json")
    said = json.loads(done.out)["checks"][0]["measured"]
    assert done.code == 12 and "was made for raspberry-pi-4, the baseline for raspberry-pi-5" in said


def changed(place: Path, change: Any) -> Path:
    shutil.copytree(BEFORE, place)
    manifest = json.loads((place / "manifest.json").read_text())
    change(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


SCORE = 90.0


@pytest.mark.parametrize(
    ("change", "most", "verdict", "method"),
    [
        ({"file": "old"}, 0.0, PASSED, SAME),
        ({}, 1.0, UNCLEAR, UNPAIRED),
        ({"score": 88.9}, 1.0, UNCLEAR, UNPAIRED),
        ({"score": 80.0}, 1.0, FAILED, UNPAIRED),
        ({"score": 95.0}, 0.0, PASSED, UNPAIRED),
        ({"samples": None}, 1.0, UNCLEAR, None),
        ({"score": None}, 1.0, INCOMPARABLE, None),
        ({"metric": "another metric"}, 1.0, INCOMPARABLE, None),
        ({"data": "other data"}, 1.0, INCOMPARABLE, None),
    ],
)
def test_recorded_scores_are_compared_where_they_can_be(
    change: dict[str, Any], most: float, verdict: str, method: str | None
) -> None:
    old = Scored(SCORE, "top-1 accuracy", "data.npz", 1000, None, "old")
    drop, (check,) = judge_scores({NEW: replace(old, **{"file": "new", **change}), BASELINE: old}, most)
    assert check.verdict == verdict and (drop.method if drop else None) == method
    assert method is None or method in check.measured


def test_a_metric_without_a_known_error_is_compared_by_its_figures() -> None:
    old = Scored(-0.25, "negated mse", "data.npz", 1000, None, "old")
    verdicts = {
        score: judge_scores({NEW: replace(old, file="new", score=score), BASELINE: old}, 0.1)[1][0]
        for score in (-0.34, -0.36)
    }
    assert [check.verdict for check in verdicts.values()] == [PASSED, FAILED]
    assert all(ALONE in check.measured for check in verdicts.values())


def test_bundles_of_before_did_not_count_their_samples(tmp_path: Path) -> None:
    (side,) = read_scores({NEW: Bundle.open(BEFORE)}).values()
    assert (side.samples, side.decisions) == (None, None)
    assert judge_scores({NEW: side}, 1.0)[1][0].verdict == INCOMPARABLE
    assert judge_scores({NEW: replace(side, file="x"), BASELINE: side}, 100.0)[1][0].verdict == UNCLEAR


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three files that tell bright from dark: one always, one mostly, one in half of the cases; and data for them."""
    folder, torch_random = tmp_path_factory.mktemp("judged"), torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randn(400, 2, generator=torch_random) + torch.stack([1 - 2 * y, torch.zeros(400)], 1) * 6
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy(), x_test=x.numpy(), y_test=y.numpy())

    def saved(name: str, weight: list[list[float]], bias: list[float]) -> Path:
        figures = [("w", np.array(weight, np.float32).T), ("b", np.array(bias, np.float32))]
        kept = [onnx.numpy_helper.from_array(value, key) for key, value in figures]
        ends = [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, [1, 2]) for end in "xy"]
        graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], name, ends[:1], ends[1:], kept)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
        return folder / f"{name}.onnx"

    return {
        "sure": saved("sure", [[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0]),
        "sure too": saved("sure too", [[2.0, 0.0], [-2.0, 0.0]], [0.0, 0.0]),
        "blind": saved("blind", [[0.0, 1.0], [0.0, -1.0]], [0.0, 0.0]),
        "data": folder / "data.npz",
    }


@pytest.mark.parametrize(
    ("new", "most", "verdict", "method"),
    [
        ("sure", 0.0, PASSED, SAME),
        ("sure too", 1.0, PASSED, PAIRED),
        ("sure too", 0.5, UNCLEAR, PAIRED),
        ("blind", 1.0, FAILED, PAIRED),
    ],
)
def test_files_are_judged_on_given_data(
    judged: dict[str, Any], new: str, most: float, verdict: str, method: str
) -> None:
    models = {NEW: Artifact(judged[new]), BASELINE: Artifact(judged["sure"])}
    drop, (check,) = judge_scores(judge_anew(models, {}, judged["data"]), most)
    assert (check.verdict, drop and drop.method) == (verdict, method)
    assert drop is not None and drop.samples == 400 and drop.low <= drop.points <= drop.high


def test_what_cannot_be_judged_is_said(judged: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=np.zeros((20, 2), np.float32))
    models = {NEW: Artifact(judged["sure"]), BASELINE: Artifact(judged["sure"])}
    with pytest.raises(UsageError, match="without labels"):
        judge_anew(models, {}, tmp_path / "plain.npz")
    bundle = Bundle.open(BEFORE)
    other = replace(bundle, report={**bundle.report, "metric": "negated mse"})
    with pytest.raises(UsageError, match="judged by negated mse"):
        judge_anew(models, {NEW: other}, judged["data"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere.onnx", "--baseline", BEFORE), 8, "neither a bundle nor a model file"),
        ((BEFORE, "--baseline", "nowhere"), 8, "nowhere"),
        ((BEFORE,), 2, "--baseline"),
        ((BEFORE, "--baseline", BEFORE, "--max-slower", "a bit"), 2, "--max-slower is 'a bit'"),
        ((BEFORE, "--baseline", BEFORE, "--max-drop", "-1"), 2, "a drop of -1 points"),
        ((BEFORE, "--baseline", BEFORE, "--max-drop", "nan"), 2, "'--max-drop': nan is not a finite number"),
        ((BEFORE, "--baseline", BEFORE, "--max-slower", "nan%"), 2, "--max-slower is 'nan%'"),
        ((BEFORE, "--baseline", BEFORE, "--max-slower", "9" * 400 + "%"), 2, "--max-slower is '9"),
        ((BEFORE, "--baseline", BEFORE, "--data", "data.npz"), 2, "--data without --max-drop"),
        ((BEFORE, "--baseline", BEFORE, "--junit", BEFORE / "manifest.json" / "x.xml"), 9, "cannot be written"),
        ((BEFORE, "--baseline", BEFORE, "--summary", BEFORE / "manifest.json" / "no" / "x.md"), 9, "cannot be written"),
        ((BEFORE, "--baseline", BEFORE, "--runtime", "litert"), 2, "does not read"),
    ],
)
def test_what_is_asked_wrongly_is_said_at_once(arguments: tuple[Any, ...], code: int, says: str) -> None:
    done = edgesdk("gate", *arguments)
    assert done.code == code and says in done.line and not done.out


@pytest.mark.parametrize("most", [float("nan"), float("inf"), -0.5])
def test_a_drop_that_is_no_number_of_points_is_refused_in_python_too(most: float) -> None:
    with pytest.raises(UsageError, match=r"a drop of (nan|inf|-0\.5) points: give 0 or more"):
        gate(BEFORE, BEFORE, max_drop=most)


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (1.8912e-05, "+0.000019"),
        (-0.0123456, "-0.0123"),
        (0.0, "+0"),
        (12.3456, "+12.3"),
        (1234.5, "+1230"),
    ],
)
def test_milliseconds_are_said_in_digits(ms: float, said: str) -> None:
    slowdown = Slowdown(1.001, 0.999, 1.003, 4, 1.0, ms, -1.0, ms)
    measured = judge_latency(slowdown, Limit(share=0.03), None).measured
    assert measured.endswith(f"in 4 runs), {said} ms (-1 to {said})")


@pytest.mark.parametrize(
    ("latency", "drop", "verdict", "code"),
    [
        (FAILED, UNCLEAR, FAILED, 10),
        (UNCLEAR, FAILED, FAILED, 10),
        (FAILED, INCOMPARABLE, FAILED, 10),
        (PASSED, FAILED, FAILED, 10),
        (UNCLEAR, INCOMPARABLE, INCOMPARABLE, 12),
        (PASSED, UNCLEAR, UNCLEAR, 11),
        (PASSED, PASSED, PASSED, 0),
    ],
)
def test_what_one_check_shows_no_other_makes_unclear(latency: str, drop: str, verdict: str, code: int) -> None:
    checks = [Check("latency", latency, "3%", ""), Check("accuracy", drop, "0.5 points", "")]
    assert find_verdict(checks) == verdict and EXIT_CODES[verdict] == code


def test_names_with_markup_are_text() -> None:
    check = Check("latency", FAILED, "3%", "1.2 of <b>the</b> | `baseline`")
    gate = Gate(
        FAILED, "<script>|x", 'a"b&c', (check,), None, None, "onnxruntime", "1", 1, "rapid", "board", runs=()
    )  # fmt: skip
    assert ElementTree.fromstring(as_junit(gate))[0][0].get("message") == "1.2 of <b>the</b> | `baseline`, 3% allowed"
    markdown = as_markdown(gate)
    assert "<script>" not in markdown and "<b>" not in markdown
    assert all(line.replace("\\|", "").count("|") == 5 for line in markdown.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("verdicts", "decides"),
    [
        ({"a": (PASSED, 1.01), "b": (FAILED, 1.06), "c": (UNCLEAR, 1.09)}, "b"),
        ({"a": (PASSED, 1.01), "b": (UNCLEAR, 1.02), "c": (PASSED, 0.99)}, "b"),
        ({"a": (PASSED, 1.01), "b": (FAILED, 1.06), "c": (FAILED, 1.09)}, "c"),
        ({"a": (PASSED, 1.02), "b": (PASSED, 1.01), "c": (PASSED, 0.9)}, "a"),
        ({"a": (PASSED, 1.02), "b": (INCOMPARABLE, None), "c": (FAILED, 2.0)}, "c"),
        ({"a": (PASSED, 1.02), "b": (INCOMPARABLE, None), "c": (UNCLEAR, 1.1)}, "b"),
    ],
)
def test_of_several_boards_the_worst_verdict_decides(
    verdicts: dict[str, tuple[str, float | None]], decides: str
) -> None:
    boards: dict[str, BoardGate] = {}
    for name, (verdict, ratio) in verdicts.items():
        slower = () if ratio is None else (ratio - 1,) * 3
        latency = None if ratio is None else Slowdown(ratio, ratio, ratio, 4, 1.0, *slower)
        boards[name] = BoardGate(verdict, f"{ratio}", latency, "1.0", ())
    worst = find_worst(boards)
    check = join_boards(boards, worst, Limit(share=0.03), None)
    assert worst == decides and check.verdict == verdicts[decides][0]
    assert check.measured.startswith(f"{decides} decides: ") and all(
        f"{n} {v}" in check.measured for n, (v, _) in verdicts.items()
    )
