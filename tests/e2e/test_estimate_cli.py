"""``edgesdk estimate`` and ``edgesdk targets`` as a user runs them: one document, or one line of error."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import onnx
import pytest
import torch
from given import MODELS
from torch import Tensor, nn

from edgesdk.cli import main
from edgesdk.core.errors import UsageError
from edgesdk.core.target import target, targets
from edgesdk.devices.estimate import Estimate
from edgesdk.price.profile import STANDINGS, Profile, profile
from edgesdk.workflows import calibrate as calibration
from edgesdk.workflows.calibrate import calibrate

FIELDS = set(Estimate.__dataclass_fields__)
Run = Callable[..., str]
PI = ("--target", "raspberry-pi")


SEVERAL = """
import torch
from torch import nn
class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 4)
    def forward(self, ids, mask):
        return self.head((self.table(ids) * mask.unsqueeze(-1)).mean(1))
class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(3, 4)
    def forward(self, left, right):
        return self.a(left) + self.b(right)
"""


class Small(nn.Module):
    """The same as in ``MODELS``."""

    def __init__(self, inputs: int = 1) -> None:
        super().__init__()
        self.inputs = inputs
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(sum(more, x))).mean((2, 3)))


def written(path: Path, *shapes: tuple[int, ...], **options: Any) -> None:
    given = tuple(torch.zeros(1, *shape) for shape in shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Small().eval(), given, path, dynamo=False, opset_version=17, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models in it; no test writes into it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    (folder / "several.py").write_text(SEVERAL)
    written(folder / "model.onnx", (3, 32, 32))
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    written(folder / "free.onnx", (3, 32, 32), input_names=["x"], dynamic_axes=axes)
    written(folder / "two.onnx", (3, 32, 32), (3, 32, 32), input_names=["x", "y"], dynamic_axes={
        name: {0: "batch", 2: "height", 3: "width"} for name in "xy"
    })  # fmt: skip
    tokens = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", "length"])
        for name, kind in (("ids", onnx.TensorProto.INT64), ("mask", onnx.TensorProto.FLOAT))
    ]
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["words"]),
        onnx.helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        onnx.helper.make_node("Mul", ["words", "column"], ["y"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.zeros((50, 8), np.float32), "table"),
        onnx.numpy_helper.from_array(np.array([-1]), "last"),
    ]
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "tokens", tokens, [made], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "tokens.onnx")
    unnamed = onnx.load(folder / "free.onnx")
    for axis in unnamed.graph.input[0].type.tensor_type.shape.dim:
        axis.dim_param = axis.dim_param and "?"
    onnx.save(unnamed, folder / "unnamed.onnx")
    (folder / "broken.onnx").write_bytes(b"not a model")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "cut.onnx").write_bytes((folder / "model.onnx").read_bytes()[:300])
    (folder / "folder.onnx").mkdir()
    return folder


@pytest.fixture(autouse=True)
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the models, without profiles of one's own."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds, says nothing on stderr and writes no file; what it printed."""

    def run(*arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        with pytest.raises(SystemExit) as ended:
            main.main(list(arguments), prog_name="edgesdk")
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        assert captured.err == "" and captured.out
        assert sorted(Path().rglob("*")) == before
        return captured.out

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that fails with that code and writes no file; its one line."""

    def run(code: int, *arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        with pytest.raises(SystemExit) as ended:
            main.main(list(arguments), prog_name="edgesdk")
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        assert ("--json" in arguments and contracts.loaded(captured.out)["exit_code"] == code) or captured.out == ""
        assert captured.err.startswith("edgesdk: ") and captured.err.count("\n") == 1
        assert ": " in captured.err.removeprefix("edgesdk: ") and "Traceback" not in captured.err
        assert sorted(Path().rglob("*")) == before
        return captured.err

    return run


# Estimates


@pytest.mark.parametrize("model", [("model.onnx",), ("models.py:Small", "--shape", "3x32x32")])
def test_a_process_prints_one_document_and_nothing_else(model: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "edgesdk.cli", "estimate", *model, *PI, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and done.stderr == ""
    answer = contracts.loaded(done.stdout)
    assert set(answer) == FIELDS and answer["layers"] == []
    assert (
        answer["basis"] == "predicted" and answer["target"] == "raspberry-pi-5" and answer["runtime"] == "onnxruntime"
    )
    assert 0 < answer["latency_low_ms"] < answer["latency_ms"] < answer["latency_high_ms"]
    assert answer["peak_memory_bytes"] > 0 and answer["size_bytes"] > 0 and answer["sources"]
    assert answer["provenance"] == {"fp32": "measured"} and answer["unknown"] == []


@pytest.mark.parametrize("model", [("model.onnx",), ("models.py:Small", "--shape", "3x32x32")])
def test_layers_come_when_they_are_asked_for(ran: Run, model: tuple[str, ...]) -> None:
    whole = contracts.loaded(ran("estimate", *model, *PI, "--json"))
    answer = contracts.loaded(ran("estimate", *model, *PI, "--json", "--per-layer"))
    layers = answer.pop("layers")
    assert {**answer, "layers": []} == whole
    assert [layer["operator"] for layer in layers] == ["conv", "mean", "linear"]
    assert all(set(layer) == {"name", "operator", "latency_ms"} and layer["latency_ms"] > 0 for layer in layers)
    assert sum(layer["latency_ms"] for layer in layers) < answer["latency_ms"]


def test_a_file_and_the_module_that_it_was_made_of_cost_the_same(ran: Run) -> None:
    latencies = [
        contracts.loaded(ran("estimate", *model, *PI, "--json"))["latency_ms"]
        for model in (
            ("model.onnx",), ("free.onnx", "--shape", "3x32x32"), ("model.onnx", "--shape", "3X32X32"),
            ("models.py:Small", "--shape", "3x32x32"),
        )
    ]  # fmt: skip
    assert latencies[1:] == pytest.approx([latencies[0]] * 3, rel=0.02)
    larger = contracts.loaded(ran("estimate", "free.onnx", "--shape", "3x64x64", *PI, "--json"))["latency_ms"]
    assert larger > 1.5 * latencies[0]


def test_people_are_told_what_it_costs_and_what_that_rests_on(ran: Run) -> None:
    said = ran("estimate", "model.onnx", "--target", "raspberry-pi-4", "--per-layer")
    assert "raspberry-pi-4, onnxruntime, 1 thread" in said
    for part in ("latency", "90 %", "peak memory", "size of the file", "scaled from a sibling", "per layer", "conv"):
        assert part in said
    assert "source: " in said and "note: fp32 is scaled from a sibling" in said
    assert "per layer" not in ran("estimate", "model.onnx", *PI)


def test_what_is_asked_for_is_taken(ran: Run) -> None:
    answer = contracts.loaded(
        ran("estimate", "model.onnx", "--target", "pi4", "--runtime", "litert", "--precision", "int8", "--threads", "4",
            "--json")
    )  # fmt: skip
    assert (answer["target"], answer["runtime"], answer["threads"]) == ("raspberry-pi-4", "litert", 4)
    assert answer["provenance"] == {"int8": "measured", "fp32": "measured"}  # what the caller gives is float
    assert answer["runtime_memory_bytes"] is None


def test_a_power_mode_and_a_clock_are_what_an_estimate_is_of(ran: Run) -> None:
    def asked(*options: str, target: str = "jetson") -> dict[str, Any]:
        return contracts.loaded(ran("estimate", "model.onnx", "--target", target, "--json", *options))

    usual, named, slower, slowest = (
        asked(*("--power-mode", mode) * bool(mode)) for mode in ("", "maxn super", "15W", "7w")
    )
    assert (usual["power_mode"], named["power_mode"]) == (None, "MAXN_SUPER")
    assert named["latency_ms"] == usual["latency_ms"] and named["latency_high_ms"] == usual["latency_high_ms"]
    clocks = [each["clock_ghz"] for each in (usual, slower, slowest)]
    assert clocks == [1.02, 0.612, 0.408]
    took, ends = ([each[key] for each in (usual, slower, slowest)] for key in ("latency_ms", "latency_high_ms"))
    for i, units in ((1, 1), (2, 0.5)):  # never more than clock and units say, and the memory's half; and less sure
        assert took[0] < took[i] <= took[0] * max(clocks[0] / clocks[i] / units, 2) * (1 + 1e-9)
        assert ends[i] / took[i] > ends[0] / took[0]
    said = ran("estimate", "model.onnx", "--target", "jetson", "--power-mode", "mode_15w")
    assert "jetson-orin-nano, tensorrt, 1 thread, 15W, 0.612 GHz" in said
    own, over = asked(target="pi4"), asked("--clock", "2", target="pi4")
    assert 1 < own["latency_ms"] / over["latency_ms"] <= (1 + 1e-9) * 2 / 1.8
    assert (own["clock_ghz"], over["clock_ghz"]) == (1.8, 2.0)
    assert "15W (cpu 6 cores at 1.498 GHz, tensorrt 0.612 GHz)" in " ".join(ran("targets", "jetson").split())


@pytest.mark.parametrize("command", [["estimate", "model.onnx", *PI], ["estimate", "models.py:Small", *PI]])
def test_an_unknown_target_is_refused_with_those_that_exist(fails: Run, command: list[str]) -> None:
    said = fails(2, *command[:-1], "toaster")
    assert "'toaster'" in said and all(name in said for name in targets())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--runtime", "tvm"), "there is no runtime 'tvm': choose one of onnxruntime, openvino, litert"),
        (
            ("--runtime", "tensorrt"),
            "nothing is known of tensorrt with fp32 on raspberry-pi-5: choose one of onnxruntime",
        ),
        (("--runtime", "ncnn", "--precision", "fp32"), "ncnn has fp16, int8 there"),
        (("--precision", "int4"), "there is no precision 'int4': choose one of fp32, fp16, int8"),
        (("--precision", "fp16"), "onnxruntime has fp32, int8 there; fp16 runs on ncnn"),
        (("--threads", "5"), "5 threads on 4 cores: give 4 or fewer"),
        (
            ("--clock", "24"),
            "a clock of 24 GHz for raspberry-pi-5: its processor for onnxruntime has 2.4 GHz: give 0.24",
        ),
        (("--clock", "0"), "a clock of 0 GHz"),
        (("--clock", "nan"), "not a finite number"),
        (("--power-mode", "15W"), "no power mode '15W' of raspberry-pi-5 is known: give its clock: --clock GHZ"),
        (("--target", "jetson", "--power-mode", "9W"), "choose one of MAXN_SUPER, 25W, 15W, 7W"),
        (("--target", "x86", "--clock", "2"), "x86 is this machine, which is timed as it is"),
        (("--target", "jetson", "--runtime", "litert", "--power-mode", "7w", "--threads", "6"), "6 threads on 4 cores"),
        (("--threads", "0"), "--threads"),
        (("--threads", "many"), "--threads"),
        (("--shape", "3x0x3"), "'3x0x3' is no shape: write it without the batch"),
        (("--shape", "abc"), "'abc' is no shape"),
        (("--shape", "3x"), "'3x' is no shape"),
        (("--shape", "-3x32x32"), "is no shape"),
        (("--shape", "3,32,32"), "'3,32,32' is no shape"),
        (("--shape", "3x32.0x32"), "is no shape"),
        (("--shape", "3x\u00b2x32"), "is no shape"),
        (("--shape", "3x33x32"), "takes (3, 32, 32) without the batch, not (3, 33, 32)"),
        (("--shape", "32x32"), "takes (3, 32, 32)"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_an_argument_that_is_wrong_is_refused(fails: Run, options: tuple[str, ...], says: str) -> None:
    assert says in fails(2, "estimate", "model.onnx", *PI, *options)


def test_a_pair_that_a_board_does_not_have_is_refused_with_those_that_it_has(fails: Run) -> None:
    said = fails(2, "estimate", "model.onnx", "--target", "jetson-nano", "--precision", "int8")
    assert "nothing is known of onnxruntime with int8 on jetson-nano" in said
    assert "onnxruntime has fp32 there; int8 runs on ncnn" in said
    said = fails(2, "estimate", "model.onnx", "--target", "jetson-nano", "--runtime", "tensorrt")
    assert "nothing is known of tensorrt with fp32 on jetson-nano: choose one of " in said and "ncnn fp32" in said


def test_a_shape_that_is_missing_is_asked_for(fails: Run) -> None:
    assert "--shape" in fails(2, "estimate", "models.py:Small", *PI)
    said = fails(2, "estimate", "free.onnx", *PI)
    assert "axis 2 of input x is free" in said and "--shape" in said
    assert "the file has the inputs x, y" in fails(2, "estimate", "two.onnx", *PI, "--shape", "3x32x32")
    fails(2, "estimate", "model.onnx")  # no target
    fails(2, "estimate", *PI)  # no model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("absent.onnx", "absent.onnx cannot be read: No such file"),
        ("folder.onnx", "folder.onnx cannot be read"),
        ("broken.onnx", "not an ONNX file"),
        ("empty.onnx", "not an ONNX file"),
        ("cut.onnx", "cut.onnx"),
        ("free.onnx", "channels"),
        ("absent.py:Small", "no file absent.py"),
        ("models.py:Smal", "did you mean Small"),
        ("models.py", "names no callable"),
        ("models.py:number", "type int"),
        ("models.py:failing", "no weights today"),
        ("models.py:Small", "the model cannot be traced"),
    ],
)
def test_a_model_that_is_none_or_does_not_take_the_shape_is_refused(fails: Run, model: str, says: str) -> None:
    shape = () if model in ("broken.onnx", "empty.onnx", "cut.onnx") else ("--shape", "4x32x32")
    if model == "free.onnx":  # whose channels are not free
        assert "takes (3, height, width)" in fails(2, "estimate", model, *PI, *shape)
    else:
        assert says in fails(3, "estimate", model, *PI, *shape)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        ("several.py:Tokens", ("12:int64", "12")), ("several.py:Tokens", ("mask=12", "ids=12:int32")),
        ("several.py:Pair", ("6", "3")), ("several.py:Pair", ("right=3", "left=6")),
        ("two.onnx", ("x=3x32x32", "y=3x32x32")), ("two.onnx", ("3x32x32", "3x32x32")), ("two.onnx", ("x=3x32x32",)),
        ("two.onnx", ("y=3x32x32:float32",)),
        ("tokens.onnx", ("ids=12:int64", "mask=12")), ("tokens.onnx", ("12:int64", "12")), ("tokens.onnx", ("ids=12",)),
        ("unnamed.onnx", ("3x24x32",)),
    ],
)  # fmt: skip
def test_several_inputs_and_token_ids_are_given_a_shape_and_a_type_each(
    ran: Run, model: str, shapes: tuple[str, ...]
) -> None:
    options = [part for shape in shapes for part in ("--shape", shape)]
    assert contracts.loaded(ran("estimate", model, *options, *PI, "--json"))["latency_ms"] > 0


def test_an_input_or_a_type_that_was_left_out_is_asked_for(fails: Run) -> None:
    assert "a --shape for each" in fails(3, "estimate", "several.py:Pair", *PI, "--shape", "6")
    assert "--shape 128:int64" in fails(3, "estimate", "several.py:Tokens", *PI, "--shape", "12", "--shape", "12")


@pytest.mark.parametrize(
    ("model", "shapes", "says"),
    [
        ("several.py:Pair", ("6:words", "3"), "no type 'words' of an input"),
        ("several.py:Pair", ("left=6", "3"), "name all, or none"),
        ("two.onnx", ("z=3x32x32",), "has no input z"),
        ("two.onnx", ("3x32x32",) * 3, "give 2 shapes, not 3"),
        ("two.onnx", ("x=3x32x32:int64",), "the input x of the file is float32, not int64: leave the type out"),
    ],
)
def test_shapes_of_inputs_that_there_are_not(fails: Run, model: str, shapes: tuple[str, ...], says: str) -> None:
    options = [part for shape in shapes for part in ("--shape", shape)]
    assert says in fails(2, "estimate", model, *options, *PI)


def test_a_shape_that_no_memory_holds_is_refused(fails: Run) -> None:
    assert "3x10000000x10000000" in fails(2, "estimate", "models.py:Small", *PI, "--shape", "3x10000000x10000000")


def test_a_damaged_profile_of_ones_own_is_said_to_be(fails: Run, tmp_path: Path) -> None:
    folder = tmp_path / "profiles" / "mine"
    folder.mkdir(parents=True)
    (folder / "device.toml").write_text("schema = ")
    for command in (("targets",), ("estimate", "model.onnx", "--target", "mine")):
        assert "the profile mine is damaged" in fails(6, *command)


# What the figures rest on


def test_what_the_prices_rest_on_is_said_with_its_version_its_age_and_what_speaks_against_it(ran: Run) -> None:
    four = ("--runtime", "litert", "--threads", "4")
    said = " ".join(ran("estimate", "model.onnx", "--target", "pi4", *four).replace("│", " ").split())
    assert "measured: 30 networks, TFLite v2, 2021; mean error" in said
    assert "note: fp32 rests on TFLite v2 (2021), not on LiteRT itself" in said
    said = " ".join(ran("estimate", "model.onnx", "--target", "raspberry-pi-3b-plus", *four).split())
    assert "figures of fp32 are in doubt: slower in places than the Zero 2 W" in said
    assert "in doubt: slower in places" in " ".join(ran("targets", "raspberry-pi-3b-plus").split())
    said = " ".join(ran("estimate", "model.onnx", "--target", "pi4", "--runtime", "litert").split())
    assert "times the cycles for a multiplication that raspberry-pi-5 takes with as many threads" in said
    said = " ".join(ran("targets", "pi5").split())
    assert "instructions of 13 networks counted on an emulated Pi 5; LiteRT's int8, derived so" in said
    answer = contracts.loaded(ran("estimate", "model.onnx", *PI, "--json"))
    assert answer["grounds"] == {"fp32": "1240 networks, not stated, 2025; mean error 0.6 %"}
    assert not any("LiteRT" in note or "doubt" in note for note in answer["notes"])


# All targets


def test_all_targets_are_a_row_each_for_every_runtime_the_fastest_first(ran: Run) -> None:
    answer = contracts.loaded(ran("estimate", "model.onnx", "--target", "all", "--json"))
    rows = answer["estimates"]
    assert [row["latency_ms"] for row in rows] == sorted(row["latency_ms"] for row in rows)
    places = {(row["target"], row["runtime"]) for row in rows}
    priced = {(name, pair.runtime) for name, entry in targets().items() for pair in profile(entry).pairs}
    assert places == priced and len(rows) == len(places) > 20
    assert list(answer["refused"]) == ["x86"] and "edgesdk estimate MODEL --target x86" in answer["refused"]["x86"]
    for row in (rows[0], rows[-1]):
        asked = ("--target", row["target"], "--runtime", row["runtime"])
        assert contracts.loaded(ran("estimate", "model.onnx", *asked, "--json")) == row
    said = ran("estimate", "model.onnx", "--target", "ALL").splitlines()
    assert said[0].split() == ["target", "runtime", "in", "predicted", "90", "%", "prices"]
    assert [tuple(line.split()[:2]) for line in said[1 : len(rows) + 1]] == [(r["target"], r["runtime"]) for r in rows]
    assert {line.split()[-1] for line in said[1 : len(rows) + 1]} == {"measured", "scaled"}
    assert max(map(len, said[: len(rows) + 1])) <= 90


@pytest.mark.parametrize(
    ("options", "left", "why"),
    [
        (("--threads", "8"), {"jetson-agx-orin", "jetson-agx-xavier", "jetson-orin-nx"}, "8 threads on 4 cores"),
        (("--precision", "fp16", "--runtime", "tensorrt"), {"jetson-orin-nx"}, "with fp16 on raspberry-pi-4"),
        (("--precision", "int8"), {"raspberry-pi-zero-2-w"}, "int8 on jetson-nano"),
    ],
)
def test_what_a_board_cannot_do_is_refused_for_it_alone(
    ran: Run, options: tuple[str, ...], left: set, why: str
) -> None:
    answer = contracts.loaded(ran("estimate", "model.onnx", "--target", "all", *options, "--json"))
    assert left <= {row["target"] for row in answer["estimates"]}
    assert any(why in reason for reason in answer["refused"].values())
    assert why in ran("estimate", "model.onnx", "--target", "all", *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--runtime", "tvm"), "there is no runtime 'tvm'"),
        (("--runtime", "openvino"), "nothing is known of openvino"),
        (("--precision", "int4"), "there is no precision 'int4'"),
        (("--shape", "32x32"), "takes (3, 32, 32)"),
        (("--per-layer",), "--per-layer of all targets"),
        (("--power-mode", "15W"), "--power-mode of all targets"),
        (("--clock", "1"), "--clock of all targets"),
    ],
)
def test_what_no_board_can_do_is_refused(fails: Run, options: tuple[str, ...], says: str) -> None:
    assert says in fails(2, "estimate", "model.onnx", "--target", "all", *options)


def test_all_is_the_name_of_no_profile() -> None:
    with pytest.raises(UsageError, match="all stands for every target"):
        calibrate("all")


# This machine


def test_this_machine_is_calibrated_shortly_and_kept(
    ran: Run, fails: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed: list[tuple[Any, ...]] = []

    def time(name: str, runtime: str, threads: int, tell: Any, *given: Any) -> Profile:
        timed.append((name, runtime, threads, *given))
        entry = profile(target("x86-avx2"))
        return Profile(replace(entry.target, name=name, aliases=(), measured=True), entry.pairs)

    monkeypatch.setenv("EDGESDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "_timed", time)  # tests/e2e/test_calibrate.py has it in earnest
    first, second, integer = (
        contracts.loaded(ran("estimate", "model.onnx", "--target", "x86", "--json", *options))
        for options in ((), (), ("--precision", "int8"))
    )
    assert timed == [("x86", "onnxruntime", 1, calibration.FEW, "local")]
    assert first["latency_ms"] == second["latency_ms"] and set(integer["provenance"]) == {"int8", "fp32"}
    assert first["target"] == "x86" and first["basis"] == "predicted"
    assert "just now" in first["notes"][0] and "kept in the cache" in second["notes"][0]
    (place,) = (tmp_path / "cache" / "machines").iterdir()
    (place / "prices.json").write_text("{")  # what is damaged is timed again
    assert "just now" in ran("estimate", "model.onnx", "--target", "x86-64")
    assert len(timed) == 2
    for code, options, says in (
        (2, ("--runtime", "openvino"), "openvino cannot be estimated here: choose onnxruntime"),
        (2, ("--precision", "int4"), "there is no precision"),
        (6, ("--threads", "999"), "999 threads on"),
    ):
        assert says in fails(code, "estimate", "model.onnx", "--target", "x86", *options)


# Targets


def test_every_target_is_a_row_with_the_runtimes_that_it_can_be_deployed_to(ran: Run) -> None:
    head, *rows = ran("targets").splitlines()
    assert head.split() == ["target", "chip", "deploys", "to", "prices"]
    own = [row for row in rows if not row.startswith(" ")]  # names of runtimes may take a second line
    assert [row.split()[0] for row in own[: len(targets())]] == list(targets())
    assert not re.search(r"\barmnn\b", "\n".join(rows))  # there is no file for it: it can be estimated alone


def test_one_target_is_told_whole_with_its_errors(ran: Run) -> None:
    said = ran("targets", "pi5")
    assert "(also raspberry-pi, " in said and "can be estimated, not deployed to" not in said
    assert re.search(r"^  onnxruntime fp32: measured with 1 thread; mean error \d+\.\d %", said, re.MULTILINE)
    assert "error not measured" in said and "measured on the machine at hand" in ran("targets", "x86")


def test_every_target_is_in_one_document(ran: Run) -> None:
    entries = contracts.loaded(ran("targets", "--json"))["targets"]
    assert [entry["name"] for entry in entries] == list(targets())
    for entry in entries:
        assert entry["title"] and entry["facts"] and all(fact["source"] for fact in entry["facts"])
        assert set(entry["precisions"]) == set(entry["runtimes"])
        for pair in entry["pairs"]:
            assert pair["kind"] in STANDINGS and pair["source"] and pair["date"] and pair["threads"]
            assert "posterior" not in pair and "kernels" not in pair
            assert pair["errors"] or not pair["networks"]  # what was measured says how far off it is
    assert {entry["name"] for entry in entries if not entry["pairs"]} == {"x86"}


@pytest.mark.parametrize("name", ["jetson-orin-nano", "Jetson"])
def test_one_target_is_shown_with_sources(ran: Run, name: str) -> None:
    said = ran("targets", name)
    assert said.startswith("jetson-orin-nano: NVIDIA Jetson Orin Nano")
    assert "https://" in said and "tensorrt fp16: " in said and "version" in said
    assert "raspberry-pi-5:" not in said
    (entry,) = contracts.loaded(ran("targets", name, "--json"))["targets"]
    assert entry["name"] == "jetson-orin-nano" and entry["half"] == ["tensorrt", "ncnn"]
    assert {"tensorrt", "onnxruntime"} <= {pair["runtime"] for pair in entry["pairs"]}
    assert all(fact["value"] in said and fact["source"] in said for fact in entry["facts"])
    assert all(pair["source"] in said for pair in entry["pairs"])


def test_an_unknown_target_is_not_shown(fails: Run) -> None:
    said = fails(2, "targets", "jetson-nano-9", "--json")
    assert "'jetson-nano-9'" in said and "jetson-nano" in said
