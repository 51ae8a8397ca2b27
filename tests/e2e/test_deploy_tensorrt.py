"""TensorRT measured on a device: here, with a stand-in for ``trtexec`` that computes real answers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from chain import write_chain
from given import document, edgesdk, refused
from onnx import TensorProto, helper, numpy_helper

from edgesdk.core.budget import Budget
from edgesdk.core.errors import FidelityError
from edgesdk.core.plan import FP32, INT8
from edgesdk.pipeline.candidates import attempt
from edgesdk.pipeline.own_answers import check_own_answers
from edgesdk.pipeline.planning import plan_full_width
from edgesdk.workflows.deploy import open_studies
from edgesdk.workflows.inputs import read_inputs
from edgesdk.workflows.where import Where

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))  # whose tests run under other Pythons, by themselves
agent_trtexec: Any = importlib.import_module("agent_trtexec")
Has = Callable[..., Path]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Has:
    """Gives this machine a version of ``trtexec``, and the log of what it is called with."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def has(version: str = "10", **more: Any) -> Path:
        log = tmp_path / f"{version}.log"
        program = agent_trtexec.write(tmp_path / version / "trtexec", version, log=log, **more)
        monkeypatch.setenv("EDGESDK_TRTEXEC", str(program))
        return log

    return has


def calls(log: Path) -> list[list[str]]:
    return [call for call in map(json.loads, log.read_text().splitlines()) if call != ["--help"]]


def deploy(folder: Path, *more: str) -> dict[str, Any]:
    given = (*write_chain(folder), "--target", "jetson", "--device", "local", "--force", "--runtime", "tensorrt")
    out = folder / "bundle"
    return document(edgesdk("deploy", *given, "--epochs", "0", "--out", out, "--json", *more))


@pytest.mark.slow
def test_a_whole_deployment_is_measured_on_the_board(board: Has, tmp_path: Path) -> None:
    log = board()
    printed = deploy(tmp_path, "--latency", "10x")
    report = printed["report"]
    assert report["basis"] == "measured"
    for name in ("dense", "deployed"):
        assert report[name]["runtime"] == "tensorrt" and report[name]["runtime_version"] == "10.3.0"
        assert report[name]["precision"] == "f16" and report[name]["peak_memory_bytes"] == 5 << 20
        assert report[name]["statistics"]["p50"] > 0 and report[name]["undisturbed"] is None
    assert printed["manifest"]["runtime"]["name"] == "tensorrt"
    assert any("answers 8 held-out samples itself" in note and "same in 8 of 8" in note for note in report["notes"])
    built = [call for call in calls(log) if any(option.startswith("--onnx=") for option in call)]
    assert all("--fp16" in call and "--useDLACore=0" not in call for call in built)
    profiles = report["profiles"]["deployed"]["kernels"]
    assert {name for kernel in profiles for name in kernel["layers"]} >= {"0", "2", "5"}
    assert edgesdk("verify", tmp_path / "bundle").returncode == 0


@pytest.mark.slow
def test_integers_stay_where_they_measure_faster_than_half_precision(board: Has, tmp_path: Path) -> None:
    board()
    write_chain(tmp_path)
    given = read_inputs(f"{tmp_path / 'chain.py'}:Chain", str(tmp_path / "chain.npz"), None, "top-1", 0)
    where = Where.named("jetson", "tensorrt", device="local")
    with open_studies(given, where, Budget(latency_ratio=1.0), True, lambda stage, share: None) as studied:
        (study,) = studied.studies
        planned = plan_full_width(study, study.whole.options)
        assert {option.precision for option in planned.plan.options.values()} == {INT8}
        for slower, precision in ((4.0, FP32), (0.25, INT8)):
            board(slower=slower)
            assert study.measured is not None
            study.measured.forget()  # the board is another one
            found = attempt(study, planned, Budget(latency_ratio=1.0), "test")
            weighted = [layer for layer in found.plan.layers if layer.name in study.whole.options]
            assert {layer.option.precision for layer in weighted} == {precision}
            assert found.candidate.artifact.options == {layer.name: layer.option for layer in found.plan.layers}
            assert any("stay in half precision" in note for note in study.corrections.notes) is (precision == FP32)
            study.corrections.notes.clear()
        samples = [x for x, _ in given.data.holdout]
        note = check_own_answers(study, study.dense_file, samples)
        assert note is not None and "the engine of tensorrt 10.3.0 answers 8 held-out samples itself" in note
        board(fault="overflows")
        with pytest.raises(FidelityError, match="answers otherwise than the file"):
            check_own_answers(study, study.dense_file, samples)


def test_two_files_are_measured_in_turns(board: Has, tmp_path: Path) -> None:
    log = board("8.6")
    files = [write_model(tmp_path / name, channels) for name, channels in (("a.onnx", 8), ("b.onnx", 16))]
    asked = ("--runtime", "tensorrt", "--mode", "brief", "--json")
    printed = document(edgesdk("benchmark", *files, *asked))
    for report in printed["reports"]:
        assert (report["runtime"], report["runtime_version"], report["valid"]) == ("tensorrt", "8.6.2", True)
        assert report["statistics"]["count"] >= 64 and len(report["ratios"]) == 1
        assert report["load_ms"] == 12.3
    assert not any("--int8" in call for call in calls(log))


def test_what_falls_back_from_the_accelerator_is_shown(board: Has, tmp_path: Path) -> None:
    log = board()
    file = write_model(tmp_path / "a.onnx", 8, head=True)
    asked = ("--runtime", "tensorrt", "--mode", "brief", "--per-layer", "--dla", "0", "--json")
    kernels = document(edgesdk("benchmark", file, *asked))["profiles"]["a.onnx"]["kernels"]
    assert {kernel["provider"] for kernel in kernels if "/relu/Relu" in kernel["layers"]} == {"DLA"}
    assert {kernel["provider"] for kernel in kernels if "/head/GlobalAveragePool" in kernel["layers"]} == {"GPU"}
    assert all("--useDLACore=0" in call for call in calls(log))
    assert {kernel["precision"] for kernel in kernels} == {None, "fp16"}


def test_what_lacks_it_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_TRTEXEC", str(tmp_path / "nowhere"))
    file = write_model(tmp_path / "a.onnx", 8)
    assert "nvidia-jetpack" in refused(edgesdk("benchmark", file, "--runtime", "tensorrt"), 6)
    jetson = ("deploy", *write_chain(tmp_path), "--target", "jetson", "--device", "local", "--force")
    assert "nvidia-jetpack" in refused(edgesdk(*jetson, "--runtime", "tensorrt", "--out", tmp_path / "out"), 6)
    for command in (("benchmark", file), (*jetson, "--runtime", "onnxruntime"), ("search", "--target", "jetson")):
        assert "nothing that builds engines for an accelerator" in refused(edgesdk(*command, "--dla", "0"), 2)


def write_model(path: Path, channels: int, head: bool = False) -> Path:
    """A convolution and a ReLU of it, and a mean where it has a ``head``."""
    weight = np.ones((channels, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/conv1/Conv"),
        helper.make_node("Relu", ["c"], ["r"], name="/relu/Relu"),
    ]
    if head:
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["y"], name="/head/GlobalAveragePool"))
    shapes = {"x": [1, 3, 8, 8], "r": [1, channels, 6, 6], "y": [1, channels, 1, 1]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    constants = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "tiny", [values["x"]], [values["y" if head else "r"]], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
