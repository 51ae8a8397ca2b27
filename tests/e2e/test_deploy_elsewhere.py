"""The whole way for a target that is not at hand: what comes out is called predicted, and checked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chain import write_chain
from given import ALONE, document, edgesdk, refused
from torch import nn

import edgesdk as sdk

Deployed = tuple[Path, dict[str, Any]]


WAYS = [
    ("raspberry-pi-4", "onnxruntime", "0.8x"),
    ("raspberry-pi-4", "litert", "0.9x"),
    ("jetson", "tensorrt", "0.4ms"),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]} {way[1]}")
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """A network deployed once for each, within a latency that its profile calls reachable.

    On a GPU that is the built-in example: a smaller network takes as long as its calls, whatever is left out.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    target, runtime, latency = request.param
    model = () if target == "jetson" else write_chain(folder)
    bound, out = ("--latency", latency, "--epochs", "0"), folder / "bundle"
    done = edgesdk("deploy", *model, "--target", target, "--runtime", runtime, *bound, "--out", out, "--json")
    return out, document(done)


def test_nothing_is_called_measured(deployed: Deployed) -> None:
    report = deployed[1]["report"]
    assert report["basis"] == "predicted" and report["measured"] is None
    assert any(note.startswith("predicted, not measured") for note in report["notes"])
    for key in ("dense", "deployed"):
        assert report[key]["basis"] == "predicted"
        assert 0 < report[key]["low_ms"] < report[key]["median_ms"] < report[key]["high_ms"]
        assert "statistics" not in report[key] and "samples_ms" not in report[key]
    assert deployed[1]["manifest"]["basis"] == "predicted"


def test_the_budget_is_kept_by_the_median_and_the_file_is_what_it_says(deployed: Deployed) -> None:
    out, printed = deployed
    report = printed["report"]
    (bound,) = (name for name in ("latency_ms", "latency_ratio") if report["budget"][name] is not None)
    reached = report["deployed"]["median_ms"] / (report["dense"]["median_ms"] if bound == "latency_ratio" else 1)
    assert reached <= report["budget"][bound]
    assert report["deployed"]["size_bytes"] == (out / printed["manifest"]["model"]).stat().st_size
    assert report["parity"]["error"] <= report["parity"]["tolerance"]
    assert report["fell_back_to_float"] == []


def test_the_search_chose_at_the_prices_of_the_target(deployed: Deployed) -> None:
    _, printed = deployed
    plan = json.loads((deployed[0] / "plan.json").read_text())
    ran = {layer["option"]["precision"] for layer in plan["layers"]}
    if printed["manifest"]["target"] == "jetson-orin-nano":  # what stays fp32 in the file runs in half there
        assert set(printed["report"]["deployed"]["provenance"]) <= {"fp16", "int8"}
        assert {"model.onnx", "model-fp16.onnx"} <= set(printed["manifest"]["files"])
    else:
        assert "int8" in ran
        assert printed["report"]["deployed"]["median_ms"] < printed["report"]["dense"]["median_ms"]


def test_the_bundle_verifies_runs_and_says_how_to_measure(deployed: Deployed) -> None:
    out, printed = deployed
    assert document(edgesdk("verify", out, "--json"))["valid"]
    lines = printed["report"]["to_measure"]
    assert any("trtexec" in line or "run.py --time" in line for line in lines)
    command = [sys.executable, "-c", ALONE, str(out / "run.py"), "--time", "0.2"]
    timed = subprocess.run(command, capture_output=True, text=True)
    assert timed.returncode == 0, timed.stderr
    assert "p50" in timed.stdout and int(timed.stdout.split()[0]) >= 128


def test_what_is_out_of_reach_is_refused_with_what_is_reachable(tmp_path: Path) -> None:
    given = (*write_chain(tmp_path), "--target", "raspberry-pi-5", "--latency", "1us")
    done = edgesdk("deploy", *given, "--out", tmp_path / "bundle")
    assert "reach" in refused(done, 5)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("spread", [0.01, 100.0])
def test_the_default_bound_on_squared_errors_is_what_a_constant_answer_would_lose_a_hundredth_of(
    tmp_path: Path, spread: float
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 1)).eval()
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(spread)
    batches = [(torch.randn(32, 2, 12), None) for _ in range(4)]
    data = SimpleNamespace(train=None, calibration=batches[:2], test=batches[2:])
    report = sdk.deploy(model, "raspberry-pi-4", data, out=tmp_path / "bundle", metric="mse", epochs=0).report
    with torch.no_grad():
        variance = float(torch.cat([model(x) for x, _ in batches[2:]]).var(0).mean())
    assert report["budget"]["max_drop"] == pytest.approx(variance / 100, rel=0.01)
    assert report["score"]["dense"] - report["score"]["deployed"] <= variance / 100
