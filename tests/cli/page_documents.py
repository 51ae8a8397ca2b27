"""Documents of a bundle that pages are made of: stored ones, and one in which everything is said that can be."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from edgesdk.bundle.documents import (
    DeploymentReport,
    Distance,
    File,
    LayerFacts,
    Manifest,
    RuntimeNeed,
    Scores,
    Step,
)
from edgesdk.core.answers import AnswerChanges, Flip
from edgesdk.core.budget import Budget, Cost
from edgesdk.core.energy import Energy
from edgesdk.core.facts import Conditions, During, Frequency, Hardware, Moment, Temperature, Throttle
from edgesdk.core.kernels import Kernel, KernelProfile
from edgesdk.core.pairing import Ratio
from edgesdk.core.parity import Parity
from edgesdk.core.plan import FP32, INT8, NOT_SEARCHED, Form, LayerPlan, Option, Plan, Proof, Rejected
from edgesdk.core.report import Prediction, Report, Statistics, Undisturbed
from edgesdk.core.serialize import dumps, from_json, to_json
from edgesdk.price.correct import Observation
from edgesdk.price.work import LayerWork, Roofs
from edgesdk.workflows.benchmark import Benchmark
from edgesdk.workflows.diff import Advice, Diff
from edgesdk.workflows.front import Built, Front, Point, SweptModel
from edgesdk.workflows.layer_errors import Error as LayerError
from edgesdk.workflows.layer_errors import LayerDiff

HERE = Path(__file__).parent
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFUlEQVR4nAXBAQEAAACAEP9PF0JQGR7vBPykAXTzAAAAAElFTkSuQmCC"
CORES = tuple(Frequency(core, 2400.0 + core, 3000.0) for core in range(4))


AS_IS = Proof(0.0, 0.0, 0.0, 0.0, NOT_SEARCHED)


class Documents(NamedTuple):
    manifest: dict[str, Any]
    plan: Plan
    report: dict[str, Any]


@cache
def stored(name: str) -> Documents:
    """What a run made, as its files have it: ``measured`` or ``predicted``; or a bundle of the version ``before``."""
    if name == "before":
        kept = {
            part: json.loads((HERE / "before" / "bundle" / f"{part}.json").read_text()) for part in Documents._fields
        }
    else:
        kept = json.loads((HERE / "golden" / f"{name}.json").read_text())
    return Documents(kept["manifest"], from_json(Plan, kept["plan"]), kept["report"])


@cache
def full(layers: int = 6) -> Documents:
    """Of a measured bundle, with something in every field; with so many ``layers``."""
    plan = _plan(layers)
    report = DeploymentReport(
        basis="measured", budget=Budget(latency_ratio=0.5, size_bytes=9000.0, max_drop=1.0, percentile=None),
        data="data.npz: 51 training samples", notes=("a note", "another"), metric="top-1 accuracy",
        score=Scores(93.25, 92.5, "the model and the file"), predicted=plan.predicted,
        measured=Cost(1.25, 233472, 7267, "measured", latency_ratio=0.481), to_measure=(),
        dense=_measured("dense", 2.6, 9743), deployed=_measured("deployed", 1.25, 7267),
        parity=Parity(0.0125, 0.05, 51, 0.02), against_model={"dense": Distance(1e-7, 51, 0.0)},
        fell_back_to_float=("layer 3",), rejected=plan.rejected,
        history=(
            Step("onnxruntime", "dense", "a" * 64, Cost(2.5, 2e5, 9743, "predicted", latency_ratio=1.0),
                 Cost(2.6, 2e5, 9743, "measured", latency_ratio=1.0), {"latency_ratio": 2.0}, 0.0),
            Step("onnxruntime", "even", plan.digest, plan.predicted,
                 Cost(1.26, 233472, 7267, "measured", latency_ratio=0.485), plan_loss=0.125),
            Step(runtime="onnxruntime", finalist=plan.digest, round=1, holdout_score=91.75),
            *(Step(part="float", epoch=0.5 * i, loss=2.0 / i) for i in range(1, 4)),
            *(Step(part="int8", epoch=1.5 + 0.5 * i, loss=0.75 / i) for i in range(1, 4)),
        ),
        beside={"compressed openvino": _measured("other", 1.5, 8000)}, refused_runtimes={"tflite": "it holds no such"},
        epochs=3.0, seed=7, compressed=True, reasons=tuple(layer.reason for layer in plan.layers),
        out_of_reach={"gru has no compressed form here": 0.25}, groups_left_whole={"layer 5": "the network's output"},
        layers_left_as_they_are={"layer 4": "a reason"},
        observations=(Observation(2.0, 0.5, 2.6, 1.5e5, 2e5, 9000, 9743),),
        changes=AnswerChanges.of(
            {(0, 0): 20, (0, 1): 4, (1, 1): 24, (2, 2): 3}, {(0, 0): 22, (0, 1): 2, (1, 1): 23, (1, 0): 1, (2, 1): 3},
            [Flip(3, 0, 1, 0, PICTURE), Flip(5, 0, 1, 0), Flip(8, 1, 1, 0, PICTURE),
             *(Flip(number, 2, 2, 1) for number in (9, 11, 12))],
        ),
        roofs=Roofs("measured", {"fp32": 12.5, "int8": 50.0}, 16.0),
        profiles={"dense": _profile("onnxruntime", [layer.name for layer in plan.layers], 0.025),
                  "deployed": _profile("onnxruntime", [layer.name for layer in plan.layers], 0.0125)},
        layers=tuple(
            LayerFacts(layer.name, "conv2d", 1000 * number, 100, 16, 16 - number % 9, 0.001 * number, None,
                       LayerWork(1000 * number, 4000, 4096 * (1 + number % 3), 0),
                       LayerWork(500 * number, 1000, 1024 * (1 + number % 4), 256))
            for number, layer in enumerate(plan.layers)
        ),
        predicted_error=0.04,
        command="edgesdk deploy net.py:small --data 'my data.npz' --latency 0.5x --size 9kB --epochs 3 --seed 7",
    )  # fmt: skip
    manifest = Manifest(
        edgesdk="0.1.0", created="2026-11-28T14:58:33Z", target="x86", architecture="x86_64", basis="measured",
        runtime=RuntimeNeed("onnxruntime", "1.32.0", "1.18", None), model="model.onnx", format="onnx",
        layout_inside="NCHW", threads=1, plan=plan.digest, graph=plan.graph_digest, inputs=(), preprocessing=None,
        classes=("a cat", "a dog"), outputs=(), files={"model.onnx": File("e" * 64, 7267)},
    )  # fmt: skip
    return Documents(json.loads(dumps(manifest)), plan, json.loads(dumps(report)))


def _plan(count: int) -> Plan:
    kinds = (Option(), Option(INT8, 8), Option(INT8, 4), Option(FP32, 32, Form("tucker", (4, 4))))
    layers = tuple(
        LayerPlan(f"layer {number}", kinds[number % 4], 0.01 * (number + 1), f"reason {number}", 0.02 * (number + 1))
        for number in range(count)
    )
    predicted = Cost(1.2, 265942, 8975, "predicted", latency_ratio=0.47)
    proof = Proof(1.5, 1.49, 0.0067, 0.25, "HiGHS 1.16.0")
    rejected = (Rejected("layer 0", "int8, separable", 0.075, 0.03), Rejected("layer 1", "fp32, svd 4", 0.05, 0.04))
    return Plan("0" * 64, "x86", "onnxruntime", 1, {}, layers, (), predicted, proof, rejected)


def _measured(name: str, middle: float, size: int) -> Report:
    samples = tuple(middle * (1 + 0.001 * (number % 50)) for number in range(1000)) if name == "deployed" else ()
    before, after = (
        Conditions("performance", "MAXN", CORES, (Temperature("thermal_zone0", "cpu-thermal", celsius),),
                   Throttle("vcgencmd", (), ("throttled",), 3), (0.5, 0.25, 0.125), (0, 1))
        for celsius in (48.5, 61.25)
    )  # fmt: skip
    statistics = Statistics(1000, 0.9 * middle, 9 * middle, middle, 0.1, middle, 1.1 * middle)
    return Report(
        name, "d" * 64, size, "onnxruntime", "1.32.0", "fp32", 1, "quick", statistics, samples, 2e5, 4.5e7, 12.25,
        During(before, after, tuple(Moment(100 * part, 48.5 + 2 * part, None) for part in range(1, 10))),
        Hardware(cpu="a processor", board="a board", cores=4, os="Debian", memory_bytes=8_200_000_000),
        ratios={"other": Ratio(0.5, 0.4, 0.6, 7)}, undisturbed=Undisturbed(middle, 0.01, 0.1, 0.5),
    )  # fmt: skip


def _profile(runtime: str, layers: list[str], ms: float, timed: bool = True) -> KernelProfile:
    """Of kernels as runtimes tell of them: the first two layers are fused in one, the third has two, one is of none."""
    named = [tuple(layers[:2]), (), *((name,) for name in layers[2:3]), *((name,) for name in layers[2:])]
    times = [ms * (1 + number) for number in range(len(named))]
    kernels = tuple(
        Kernel(f"kernel {number}", "Conv" if names else "Reorder",
               "CPU" if timed else ("XNNPACK", "builtin")[number % 2], "int8" if names else None, names, *(
            (time / sum(times), time, 0.9 * time, 1.25 * time) if timed else (None, None)
        ))
        for number, (names, time) in enumerate(zip(named, times, strict=True))
    )  # fmt: skip
    told = KernelProfile(runtime, "1.32.0", kernels)
    return replace(told, runs=50, run_ms=1.5 * sum(times), plain_ms=sum(times)) if timed else told


@cache
def emulated() -> Documents:
    """The same where the board was emulated: nothing was measured."""
    kept = full()
    roofs = {**kept.report["roofs"], "basis": "emulated"}
    report = {
        **kept.report,
        "basis": "emulated",
        "roofs": roofs,
        "profiles": {},
        "measured": {**kept.report["measured"], "basis": "emulated"},
    }
    return Documents(kept.manifest, kept.plan, report)


@cache
def predicted(layers: int = 6) -> Documents:
    """The same of a predicted bundle."""
    kept = full(layers)
    sides = {
        name: to_json(Prediction(
            name, "d" * 64, size, "onnxruntime", "not run on the target", 1, middle, 0.8 * middle, 1.3 * middle, 2e5,
            None, {"fp32": "measured", "int8": "derived"}, ("a source, https://example.org/prices",), ("a note",),
        ))
        for name, middle, size in (("dense", 2.6, 9743), ("deployed", 1.25, 7267))
    }  # fmt: skip
    more = {
        "roofs": {**kept.report["roofs"], "basis": "predicted"},
        "basis": "predicted",
        "measured": None,
        "profiles": {},
        "to_measure": ["run.py --time 10"],
        "beside": {},
    }
    return Documents(kept.manifest, kept.plan, {**kept.report, **sides, **more})


def front() -> dict[str, Any]:
    """A front of two targets, the first with points of two runtimes; of either one point was built."""
    plan = full().plan
    built = {
        number: Built(f"front/point-{number}", plan.digest, basis == "measured", plan.predicted,
                      Cost(ms, 4e5, 7267, basis, latency_ratio=share), "top-1 accuracy", 93.0, score)
        for number, ms, basis, share, score in ((3, 1.3, "measured", 0.5, 92.5), (5, 1.4, "predicted", None, 91.0))
    }  # fmt: skip
    points = [
        Point(number, target, runtime, threads, kind, Cost(ms, 2e5 * number, 9000 * number, "predicted"), ms / 2.5,
              loss, 0.005 * (kind == "plan"), best, plan if kind == "plan" else replace(plan, proof=AS_IS),
              built=built.get(number))
        for number, (target, runtime, threads, kind, ms, loss, best) in enumerate([
            ("pi4", "onnxruntime", 1, "plan", 0.05, 0.75, True), ("pi4", "litert", 1, "plan", 0.1, 0.8, False),
            ("pi4", "onnxruntime", 1, "dense int8", 1.25, 0.03125, True),
            ("pi4", "onnxruntime", 1, "dense", 2.5, 0.0, True),
            ("pi5", "onnxruntime", 4, "dense", 1.5, 0.0, True),
        ], 1)
    ]  # fmt: skip
    return json.loads(dumps(Front("0" * 64, tuple(points), {"pi5, litert": "it holds no such layer"})))


def models() -> dict[str, Any]:
    """The same of two models, the second on the first target alone."""
    kept = front()
    second = [
        {**point, "number": len(kept["points"]) + number, "model": "net.py:large", "built": None,
         "predicted": {**point["predicted"], "latency_ms": 2 * point["predicted"]["latency_ms"]}}
        for number, point in enumerate(kept["points"][:4], 1)
    ]  # fmt: skip
    swept = [
        SweptModel("net.py:small", "0" * 64, "top-1 accuracy", 92.5, 500),
        SweptModel("net.py:large", "1" * 64, "top-1 accuracy", None, 500),
    ]
    points = [*({**point, "model": "net.py:small"} for point in kept["points"]), *second]
    return {**kept, "points": points, "models": json.loads(dumps(swept))}


def diff() -> dict[str, Any]:
    """A comparison of layers with everything in it that can be said: one of them leaves its specification."""
    error = LayerError(42.5, 0.25, 1.5)
    layers = (
        LayerDiff("conv", "conv_out", LayerError(None, 0.0, 0.0), error, LayerError(30.0, 0.5, 3.0), 0.002, 40.0, 2.5,
                  False),
        LayerDiff("act", None, None, None, None, None, None, None, False),
        LayerDiff("fc", "fc_out", LayerError(8.0, 2.0, 90.0), LayerError(7.5, 2.0, 91.0), error, 0.0, 3.5, 12.0, True),
    )  # fmt: skip
    advice = (Advice("fc", "onnxruntime computes something else", "deploy with another --runtime"),)
    compared = Diff(
        "a bundle", "a board", "onnxruntime", "1.32.0", 32, "the model", 0.5, 0.05, 0.125, "fc", ("conv",), layers,
        advice, False,
    )  # fmt: skip
    return json.loads(dumps(compared))


def benchmark() -> dict[str, Any]:
    """Two files of one run, the second throttled."""
    first = replace(_measured("deployed", 1.25, 7267), name="a.onnx")
    second = replace(
        _measured("dense", 2.6, 9743), name="b.onnx", valid=False, reason="throttled after the run",
        ratios={"folder/a.onnx": Ratio(2.1, 2.0, 2.2, 7)},
    )  # fmt: skip
    first = replace(first, energy=Energy(3.25, 0.125, 8.5, 6.75, 4.125, 5, "rapl (package-0)", None, ("a name",)))
    second = replace(second, energy=Energy(None, None, None, None, None, 0, "my meter", "the meter stopped: 2 s"))
    names = [f"layer {number}" for number in range(5)]
    profiles = {
        first.name: _profile("onnxruntime", names, 0.02), second.name: _profile("litert", names, 0.02, timed=False)
    }  # fmt: skip
    return json.loads(dumps(Benchmark((first, second), profiles)))


WORDS = {"basis", "schema", "created", "kind", "precision"}  # fields whose text is not free


def with_text(value: Any, text: str, name: str = "") -> Any:
    """``value`` with ``text`` for all that is free text in it, names of layers and keys of devices among that."""
    if isinstance(value, dict):
        free = name in ("against_model", "beside", "refused_runtimes", "out_of_reach", "groups_left_whole", "files",
                        "layers_left_as_they_are", "provenance")  # fmt: skip
        return {f"{text}{key}" if free else key: with_text(item, text, key) for key, item in value.items()}
    if isinstance(value, list):
        return [with_text(item, text, name) for item in value]
    return text + value if isinstance(value, str) and name not in WORDS else value


def with_names(documents: Documents, text: str) -> Documents:
    """The documents of a bundle with ``text`` for all that is free in them; names of layers begin with it."""
    plan = documents.plan
    layers = tuple(replace(each, name=text + each.name, reason=text) for each in plan.layers)
    rejected = tuple(replace(each, layer=text + each.layer, choice=text) for each in plan.rejected)
    manifest, report = (with_text(each, text) for each in (documents.manifest, documents.report))
    return Documents(manifest, replace(plan, layers=layers, rejected=rejected), report)
