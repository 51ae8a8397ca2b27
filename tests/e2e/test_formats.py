"""One plan in every format, deployments for each runtime and for the best of all, and what is refused on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given import ALONE, MODELS, document, edgesdk, refused
from residual import write_data, write_residual

from edgesdk.network.load import load_model

FORMATS = {"onnx": "model.onnx", "openvino": "model.xml", "tflite": "model.tflite"}  # which can hold the same integers
BESIDE = {"openvino": ["model.bin"]}
# Runs the command line where one package cannot be imported: what a user has who did not install the extra.
LACKING = """
import sys
lacking = sys.argv.pop(1)
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == lacking:
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Refused())
from edgesdk.cli import main
main(sys.argv[1:], prog_name="edgesdk")
"""


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return write_residual(tmp_path_factory.mktemp("residual"))


@pytest.fixture(scope="module")
def plan(residual: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan that is integer and narrower, as its bound on the file asks for."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    document(edgesdk("search", *residual, "--target", "x86", "--size", "9kB", "--out", path, "--json"))
    return path


@pytest.fixture(scope="module")
def exported(plan: Path, residual: tuple[str, ...]) -> tuple[Path, list[dict[str, Any]]]:
    out = plan.parent / "files"
    return out, document(edgesdk("export", plan, *residual, "--out", out, "--json"))["files"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models of the user's own and data for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    write_data(tmp_path)
    return tmp_path


def test_every_format_holds_the_plan(exported) -> None:
    out, printed = exported
    named = {entry["format"]: Path(entry["path"]).name for entry in printed}
    assert {name: named.get(name) for name in FORMATS} == FORMATS
    for entry in [entry for entry in printed if entry["format"] in FORMATS]:
        assert entry["parity"]["error"] <= entry["parity"]["tolerance"]
        files = [out / name for name in (FORMATS[entry["format"]], *BESIDE.get(entry["format"], []))]
        assert entry["size_bytes"] == sum(file.stat().st_size for file in files)
    assert document(edgesdk("verify", out, "--json"))["valid"]
    assert "files as recorded" in edgesdk("verify", out).stdout


def test_a_format_that_lacks_what_the_plan_has_is_left_out_with_the_reason_or_refused(
    plan: Path, residual: tuple[str, ...], tmp_path: Path
) -> None:
    content = json.loads(plan.read_text())
    content["layers"][-1]["option"] = {"precision": "int8", "weight_bits": 8, "form": None}  # on a grid of its runtime
    integers = tmp_path / "plan.json"
    integers.write_text(json.dumps(content))
    done = edgesdk("export", integers, *residual, "--out", tmp_path / "files", "--json")
    assert {entry["format"] for entry in document(done)["files"]} == FORMATS.keys()
    assert "no ncnn file is written: ncnn's integers are -127 to 127 around 0, and those of" in done.stderr
    named = edgesdk("export", integers, *residual, "--format", "onnx", "--format", "ncnn", "--out", tmp_path / "named")
    assert "search with --runtime ncnn" in refused(named, 3)
    assert not (tmp_path / "named").exists()


def test_a_plan_for_ncnn_is_written_for_it(residual: tuple[str, ...], tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "files"
    document(
        edgesdk("search", *residual, "--target", "x86", "--runtime", "ncnn", "--size", "12kB", "--out", plan, "--json")
    )
    (entry,) = document(edgesdk("export", plan, *residual, "--format", "ncnn", "--out", out, "--json"))["files"]
    param, numbers = out / "model.ncnn.param", out / "model.ncnn.bin"
    assert Path(entry["path"]) == param and entry["parity"]["error"] <= entry["parity"]["tolerance"]
    assert entry["size_bytes"] == param.stat().st_size + numbers.stat().st_size
    (report,) = document(edgesdk("benchmark", param, "--mode", "brief", "--json"))["reports"]
    assert (report["runtime"], report["precision"]) == ("ncnn", "f32")  # not half precision, whatever the CPU has
    assert f"litert does not read {param.name}" in refused(edgesdk("benchmark", param, "--runtime", "litert"), 2)
    content = bytearray(numbers.read_bytes())
    content[len(content) // 2] ^= 1
    numbers.write_bytes(content)
    assert f"{numbers.name} was changed" in refused(edgesdk("verify", out), 8)


@pytest.mark.parametrize("fault", ["constant", "infinite", "at chance"])
def test_a_model_that_makes_no_sense_is_exported_only_when_forced(
    fault: str, plan: Path, residual: tuple[str, ...], tmp_path: Path
) -> None:
    state = load_model(residual[0]).state_dict()
    if fault != "at chance":
        state["fc.weight"].fill_({"constant": 0.0, "infinite": 3e38}[fault])
    torch.save(state, tmp_path / "weights.pt")
    x = np.random.default_rng(1).standard_normal((1200, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(1200) % 4)
    arguments = (
        "export", plan, residual[0], "--weights", tmp_path / "weights.pt", "--data", tmp_path / "data.npz", "--format",
        "onnx", "--out", tmp_path / "files",
    )  # fmt: skip
    said = {"constant": "the same answer to each of", "infinite": "infinite", "at chance": "no better than"}
    assert said[fault] in refused(edgesdk(*arguments), 4 if fault == "at chance" else 3)
    assert not (tmp_path / "files").exists()
    if fault == "at chance":
        assert "forced: the dense model scores" in edgesdk(*arguments, "--force").stderr
        assert (tmp_path / "files" / "model.onnx").is_file()


@pytest.mark.parametrize("name", [*FORMATS.values(), "model.bin"])
def test_a_changed_byte_is_found(exported, tmp_path: Path, name: str) -> None:
    damaged = tmp_path / "files"
    shutil.copytree(exported[0], damaged)
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    assert f"{name} was changed" in refused(edgesdk("verify", damaged), 8)


def test_a_plan_of_another_model_or_target_is_refused(plan: Path, residual: tuple[str, ...], own: Path) -> None:
    arguments = ("export", plan, "models.py:Small", "--data", "data.npz", "--out", "files")
    assert "made for another model" in refused(edgesdk(*arguments), 8)
    assert "made for x86, not for jetson" in refused(edgesdk("export", plan, *residual, "--target", "jetson"), 8)
    assert "no format 'coreml'" in refused(edgesdk("export", plan, *residual, "--format", "coreml"), 2)
    (own / "broken.json").write_text("{")
    assert "is no JSON" in refused(edgesdk("export", "broken.json"), 8)
    assert not (own / "files").exists() and not (own / "exported").exists()


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_is_measured_by_its_own_runtime_and_refused_by_others(exported, format_: str) -> None:
    out, printed = exported
    path = out / FORMATS[format_]
    (report,) = document(edgesdk("benchmark", path, "--mode", "brief", "--json"))["reports"]
    runtime = next(entry["runtime"] for entry in printed if entry["format"] == format_)
    assert report["runtime"] == runtime and report["statistics"]["p50"] > 0
    assert report["precision"] == ("f32" if format_ == "openvino" else None)  # not bfloat16, whatever the CPU has
    other = {"onnx": "litert", "openvino": "litert", "tflite": "openvino"}[format_]
    assert f"{other} does not read {path.name}" in refused(edgesdk("benchmark", path, "--runtime", other), 2)


def test_a_file_under_the_wrong_name_or_cut_short_is_refused(exported, tmp_path: Path) -> None:
    tflite = (exported[0] / "model.tflite").read_bytes()
    (tmp_path / "model.onnx").write_bytes(tflite)
    assert "is a TFLite file" in refused(edgesdk("benchmark", tmp_path / "model.onnx"), 3)
    (tmp_path / "cut.tflite").write_bytes(tflite[: len(tflite) // 2])
    assert "litert" in refused(edgesdk("benchmark", tmp_path / "cut.tflite"), 6).lower()
    (tmp_path / "alone.xml").write_bytes((exported[0] / "model.xml").read_bytes())
    assert "lacks alone.bin beside it" in refused(edgesdk("benchmark", tmp_path / "alone.xml"), 8)


def keeps_the_default(report: dict[str, Any], name: str) -> bool:
    """Whether the bound that nobody gave is kept; else that is said, and no more than a point is lost."""
    if report["eased"] is None:
        return 0 < report["measured"][name] <= report["budget"][name]
    lost = report["score"]["dense"] - report["score"]["deployed"]
    return "the default, is out of reach here" in report["eased"] and lost <= report["budget"]["max_drop"] == 1.0


@pytest.mark.parametrize("runtime", ["openvino", "litert", "ncnn", pytest.param("executorch", marks=pytest.mark.slow)])
def test_a_deployment_for_one_runtime(residual: tuple[str, ...], own: Path, runtime: str) -> None:
    out = own / "bundle"
    small = ("models.py:Small", "--data", "data.npz")  # each file of ExecuTorch takes a second to write
    given = (*(small if runtime == "executorch" else residual), "--target", "x86", "--runtime", runtime)
    printed = document(edgesdk("deploy", *given, "--epochs", "0", "--out", out, "--json"))
    manifest, report = printed["manifest"], printed["report"]
    names = {"openvino": "model.xml", "litert": "model.tflite", "ncnn": "model.ncnn.param", "executorch": "model.pte"}
    name = names[runtime]
    assert manifest["model"] == name and name in manifest["files"]
    assert manifest["runtime"]["name"] == runtime
    assert manifest["inputs"][0]["shape"] == [1, 3, 16, 16] and manifest["inputs"][0]["layout"] == "NCHW"
    assert manifest["layout_inside"] == ("channels last" if runtime == "litert" else "channels first")
    assert keeps_the_default(report, "latency_ratio")
    assert report["fell_back_to_float"] == []
    assert document(edgesdk("verify", out, "--json"))["valid"]
    alone = ALONE.replace('"torch", ', "") if runtime == "executorch" else ALONE  # whose library is linked with it
    done = subprocess.run([sys.executable, "-c", alone, str(out / "run.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "differs from the recorded sample by 0 of its spread" in done.stdout


def test_auto_shows_every_runtime_and_keeps_the_budget(residual: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    arguments = ("deploy", *residual, "--target", "x86", "--runtime", "auto", "--epochs", "0", "--out", out, "--json")
    printed = document(edgesdk(*arguments))
    report = printed["report"]
    own = report["deployed"]["runtime"]
    others = {name.split()[1] for name in report["beside"]}
    assert {own, *others, *report["refused_runtimes"]} == {"onnxruntime", "openvino", "litert", "ncnn"}
    assert own not in others
    assert keeps_the_default(report, "latency_ratio")
    for name in others:
        assert report["beside"][f"dense {name}"]["basis"] == "measured"
        assert report["beside"][f"finalist {name}"]["statistics"]["p50"] > 0


def test_an_operator_that_a_format_lacks_is_named_before_anything_long(own: Path) -> None:
    arguments = ("deploy", "models.py:Asinh", "--data", "data.npz", "--out", "bundle", "--epochs", "0")
    line = refused(edgesdk(*arguments, "--target", "x86", "--runtime", "litert"), 3)
    assert "TFLite has no Asinh" in line and "onnx" in line and "openvino" in line
    assert not (own / "bundle").exists()
    others = ("--target", "pi4", "--runtime", "auto", "--latency", "1ms")  # at a profile's prices: nothing is timed
    printed = document(edgesdk(*arguments, *others, "--json"))
    assert printed["manifest"]["runtime"]["name"] == "onnxruntime"
    assert "TFLite has no Asinh" in printed["report"]["refused_runtimes"]["litert"]


def test_runtimes_and_precisions_that_a_target_lacks(own: Path) -> None:
    arguments = ("deploy", "models.py:Small", "--data", "data.npz", "--target")
    assert "choose one of onnxruntime, openvino, litert, ncnn, executorch, auto" in refused(
        edgesdk(*arguments, "x86", "--runtime", "tensorrt"), 2
    )
    assert "choose one of onnxruntime, litert, ncnn, auto" in refused(
        edgesdk(*arguments, "raspberry-pi-4", "--runtime", "openvino"), 2
    )
    assert "runs no layer in fp16" in refused(edgesdk(*arguments, "x86", "--precision", "fp16"), 2)


@pytest.mark.parametrize(
    ("package", "runtime", "extra"),
    [("ai_edge_litert", "litert", "tflite"), *((name, name, name) for name in ("openvino", "ncnn", "executorch"))],
)
def test_a_missing_extra_says_what_to_install(own: Path, package: str, runtime: str, extra: str) -> None:
    command = ["deploy", "models.py:Small", "--data", "data.npz", "--target", "x86", "--runtime", runtime]
    done = subprocess.run([sys.executable, "-c", LACKING, package, *command], capture_output=True, text=True)
    assert f"pip install 'edgesdk[{extra}]'" in refused(done, 6)


def test_the_plan_says_its_runtime(plan: Path) -> None:
    assert json.loads(plan.read_text())["runtime"] == "onnxruntime"


def test_a_plan_that_stores_a_weight_in_a_codebook(plan: Path, residual: tuple[str, ...], tmp_path: Path) -> None:
    content = json.loads(plan.read_text())
    layer = next(layer for layer in content["layers"] if layer["name"] == "branch.0")
    layer["option"] = {"precision": "fp32", "weight_bits": 32, "form": {"method": "k-means", "sizes": [16]}}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    arguments = ("export", tmp_path / "plan.json", *residual, "--out", tmp_path / "files")
    line = refused(edgesdk(*arguments), 2)
    assert "openvino files hold no weights as k-means 16" in line and "onnx" in line
    assert not (tmp_path / "files").exists()
    (entry,) = document(edgesdk(*arguments, "--format", "onnx", "--json"))["files"]
    assert entry["parity"]["error"] <= entry["parity"]["tolerance"]
    layer["option"]["form"]["sizes"] = []
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert "k-means has 1 sizes, not 0" in refused(edgesdk(*arguments, "--format", "onnx", "--force"), 2)
