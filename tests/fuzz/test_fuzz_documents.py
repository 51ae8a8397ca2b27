"""JSON, TOML and CSV that are damaged or say odd things: each is read as something whole, or refused in one line."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import altered, as_json, as_toml, damaged, examples, read_or_refused, written

from edgesdk.cli.project import read_project
from edgesdk.core.budget import Budget, Cost
from edgesdk.core.errors import BundleError, EdgeSdkError
from edgesdk.core.facts import Conditions, During, Hardware
from edgesdk.core.graph import CONV
from edgesdk.core.kernels import Kernel, KernelProfile
from edgesdk.core.plan import INT8, Form, LayerPlan, Option, Plan, Proof, Rejected
from edgesdk.core.report import Report, Statistics, Undisturbed
from edgesdk.core.serialize import dumps, loads, loads_toml, to_json
from edgesdk.core.target import prices_text, target
from edgesdk.data.preprocessing import read_preprocessing
from edgesdk.devices.inventory import devices
from edgesdk.pipeline.anchoring import read_anchors
from edgesdk.pipeline.sensitivity import _Kept as Sensed
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.physics import FP16, work
from edgesdk.price.profile import load
from edgesdk.price.table import CALL, Price, Table
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.benchmark import Benchmark
from edgesdk.workflows.diff import Advice, Diff
from edgesdk.workflows.export import read_plan
from edgesdk.workflows.front import Built, Front, Point, SweptModel
from edgesdk.workflows.layer_errors import Error, LayerDiff
from edgesdk.workflows.report import report
from edgesdk.workflows.siblings import read as read_measurements

PI = "raspberry-pi-4"
OP = Operator(CONV, "fp32", 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
CONDITIONS = {"cpu": "one"}
COST = Cost(1.0, 2e6, 3e6, "predicted")
LAYERS = (
    LayerPlan("conv1", Option(INT8, 4, Form("tucker", (8, 8))), 0.25, "fastest"),
    LayerPlan("fc", Option(), 0.5, "the first choice"),
)
PLAN = Plan(
    "c0ffee", PI, "onnxruntime", 1, {"group": 12}, LAYERS, ("branch",), COST, Proof(1.0, 1.0, 0.0, 0.1, "HiGHS"),
    (Rejected("conv1", "fp16", 1.0, 0.5),),
)  # fmt: skip
MEASURED = Report(
    "dense", "c0ffee", 1000, "onnxruntime", "1.23", None, 1, "rapid", Statistics(p50=1.0), (1.0, 1.1) * 20, 1e6, 2e6,
    12.0, During(Conditions("performance")), Hardware(architecture="aarch64"),
    undisturbed=Undisturbed(1.0, 0.01, 0.1, 0.02),
)  # fmt: skip
INVENTORY = {
    "schema": 1,
    "devices": {
        "lab-pi": {"address": "ssh://pi@10.0.0.3:22", "target": PI, "python": "python3", "root": "/opt/models"},
        "here": {"address": "local", "key": "~/keys/one.pub"},
    },
}
RECOVERY = {
    "mode": "offline", "epochs": 3.5, "rate": 0.002, "warm_up": 0.1, "integer_share": 0.3, "decay": 0.99,
    "average": 0.2,
    "teachers": [{"source": "dense", "weight": 0.5}, {"source": "models.py:big", "weights": "a.pt", "view": "a.py:b"}],
    "losses": [{"kind": "soft", "temperature": 4.0}, {"kind": "features", "layers": ["conv1", ["conv2", "conv3"]]}],
}  # fmt: skip
PROJECT = {
    "model": {"source": "net.py:make", "shape": ["x=3x8x8"]}, "data": {"source": "d.npz", "mean": [0.5, 0.5, 0.5]},
    "target": {"name": "pi4", "threads": 2}, "budget": {"latency": "2ms", "max-drop": 1.5}, "recover": {"epochs": 3},
}  # fmt: skip
PREPROCESSING = {
    "input_range": [0, 255], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "image_size": [224, 224],
    "resize": "crop", "channel_order": "RGB", "layout": "NCHW", "dtype": "float32",
}  # fmt: skip
BUILT = Built("front/point-1", "c0ffee", True, COST, Cost(1.5, 2e6, 3e6, "measured"), "top-1 accuracy", 93.0, 92.5)
FRONT = Front(
    "c0ffee", (Point(1, PI, "onnxruntime", 1, "plan", COST, 0.5, 0.1, 0.0, True, PLAN, built=BUILT, model="net.py:a"),),
    {"pi4, litert": "it holds no such layer"}, models=(SweptModel("net.py:a", "c0ffee", "top-1 accuracy", 93.0, 500),),
)  # fmt: skip
ERROR = Error(42.5, 0.25, 1.5)
DIFF = Diff(
    "bundle", "board", "onnxruntime", "1.23", 32, "the model", 0.5, 0.05, 0.1, "fc", ("conv1",),
    (LayerDiff("fc", "fc_out", Error(None, 0.0, 0.0), ERROR, ERROR, 0.002, 40.0, 2.5, False),),
    (Advice("fc", "it computes something else", "deploy with another --runtime"),), False,
)  # fmt: skip
KERNEL = Kernel("conv1", "Conv", "CPU", "int8", ("conv1",), 0.5, 1.0, 0.9, 1.1)
BENCHMARK = Benchmark((MEASURED,), {"dense": KernelProfile("onnxruntime", "1.23", (KERNEL,), runs=50, run_ms=2.0)})
SENSED = Sensed({"group": {12: 0.5}}, {"conv1": ((Option(INT8, 8), 0.25),)}, {"branch": 1.0}, {"group": (0.5, 0.25)})
CSV = "model,runtime,precision,threads,ms,shape\n" + "".join(
    f"model-{i}.onnx,onnxruntime,fp32,{i},{2.5 * i},3x224x224\n" for i in range(1, 7)
)


def budget_of(plan: Plan) -> Any:
    return plan.digest, plan.options, [str(layer.option) for layer in plan.layers]


def use_report(path: Path) -> Any:
    anchors = read_anchors(path, ("dense", "dense int8"))
    for anchor in (anchors or {}).values():
        with contextlib.suppress(EdgeSdkError):  # it may have no samples
            assert anchor.cost(Budget()).basis == anchor.basis


def use_target(path: Path) -> Any:
    entry = target("my-board")
    chips = [entry.chip(runtime) for runtime in entry.runtimes] if entry.chips else []
    return [chip.lanes("int8") for chip in chips], entry.differs({"board": "Raspberry Pi 4", "architecture": "aarch64"})


def use_prices(path: Path) -> Any:
    chip = target(PI).chip("onnxruntime")
    for pair in load(path.read_text("utf-8", "replace"), "the prices of my-board"):
        if pair.precision in ("fp32", FP16, INT8):
            ops = [OP, baseline(OP)]
            median, deviation = pair.posterior_at(2).predict(work(ops, chip, pair.kernels, 2), chip.clock_ghz)
            assert math.isfinite(median) and median > 0 and deviation >= 0


def use_table(path: Path) -> Any:
    table = Table.open(path.parent, CONDITIONS, 4)
    assert table.reference_ms is None or 0 < table.reference_ms < 1e6
    if not {OP.key, baseline(OP).key, CALL.key} - table.probes.keys():
        assert table.latency_ms(OP) >= 0 and table.call_ms is not None and table.call_ms > 0
    table.missing([OP])


def use_page(path: Path) -> Any:
    return report(path, path.with_suffix(".html"), force=True)


def use_sensed(path: Path) -> Any:
    kept = Sensed.read(path)
    return kept and (kept.losses, kept.channel_scores)


def use_inventory(path: Path) -> Any:
    return [(device.local, device.address) for device in devices().values()]


def use_recovery(path: Path) -> Any:
    recovery = Recovery.read(path)
    return recovery.own, [(term.heat if term.kind == "soft" else 1, term.pairs) for term in recovery.losses]


def device_toml() -> dict[str, Any]:
    return loads_toml((files("edgesdk_profiles") / PI / "device.toml").read_text("utf-8"))


def prices() -> dict[str, Any]:
    document = json.loads(prices_text(PI) or "")
    return {**document, "pairs": document["pairs"][:1]}


def kept_table() -> tuple[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        table = Table.open(Path(folder), CONDITIONS, 4)
        table.settle({"ms": 0.01, "disturbed": 0.2, "visits": 1000})
        table.add({probe.key: Price(ratio, 0.01, 0.01) for probe, ratio in zip(probes(), (9.0, 2.0, 0.3), strict=True)})
        return table.path.name, json.loads(table.path.read_text())


def probes() -> list[Operator]:
    return [OP, baseline(OP), CALL]


TABLE, PRICES_KEPT = kept_table()
CASES: dict[str, tuple[str, Any, Callable[[Any], bytes], Callable[[Path], Any]]] = {
    "plan": ("plan.json", to_json(PLAN), as_json, lambda path: budget_of(read_plan(path))),
    "kept reports": ("a.json", {"dense": to_json(MEASURED), "dense int8": to_json(MEASURED)}, as_json, use_report),
    "target": ("profiles/my-board/device.toml", device_toml() | {"name": "my-board"}, as_toml, use_target),
    "prices": ("prices.json", prices(), as_json, use_prices),
    "table": (TABLE, PRICES_KEPT, as_json, use_table),
    "inventory": ("devices.toml", INVENTORY, as_toml, use_inventory),
    "recovery": ("recovery.toml", RECOVERY, as_toml, use_recovery),
    "front": ("front.json", to_json(FRONT), as_json, use_page),
    "diff": ("diff.json", to_json(DIFF), as_json, use_page),
    "benchmark": ("benchmark.json", to_json(BENCHMARK), as_json, use_page),
    "prices in accuracy": ("losses.json", to_json(SENSED), as_json, use_sensed),
    "project": ("edgesdk.toml", PROJECT, as_toml, read_project),
    "preprocessing": ("images.toml", PREPROCESSING, as_toml, read_preprocessing),
}
NEVER_REFUSED = ("table", "kept reports", "prices in accuracy")  # caches: what cannot be read counts as absent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@pytest.fixture(autouse=True)
def places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_PROFILES", str(folder / "profiles"))
    monkeypatch.setenv("EDGESDK_DEVICES", str(folder / "devices.toml"))


def contents(document: Any, write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(altered(document).map(write), altered(document).map(write), damaged(write(document)))


@pytest.mark.parametrize("name", CASES)
@examples(80)
@given(data=st.data())
def test_a_document_is_read_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    file, document, write, use = CASES[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    written(path, data.draw(contents(document, write)))
    read_or_refused(lambda: use(path), *(() if name in NEVER_REFUSED else (EdgeSdkError,)))


@pytest.mark.parametrize("name", CASES)
def test_the_document_that_is_damaged_is_whole_before(folder: Path, name: str) -> None:
    file, document, write, use = CASES[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    use(written(path, write(document)))


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_what_json_has_no_number_for_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="where JSON has finite numbers alone"):
        loads(f'{{"a": [1.5, {number}]}}')


@pytest.mark.parametrize("latency", [1e-320, 1e308])
def test_figures_that_no_chart_has_room_for_are_refused(folder: Path, latency: float) -> None:
    document = to_json(FRONT)
    document["points"][0]["built"]["cost"]["latency_ms"] = latency
    with pytest.raises(BundleError, match="has figures that cannot be drawn"):
        use_page(written(folder / "front.json", as_json(document)))


def test_times_that_come_to_nothing_are_absent(folder: Path) -> None:
    probes = {key: [1e-320, *rest] for key, (_, *rest) in PRICES_KEPT["probes"].items()}
    written(folder / TABLE, as_json({**PRICES_KEPT, "reference_ms": 1e-320, "probes": probes}))
    table = Table.open(folder, CONDITIONS, 4)
    assert table.call_ms is None and table.reference_ms is None


@examples(80)
@given(data=st.data())
def test_a_table_of_measurements_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    whole = CSV.encode()
    shapes = ["3x" * 999 + "3", "3x" + "9" * 15, "x" * 200_000]
    cells = st.sampled_from(["", "-1", "nan", "1e999", "9" * 5000, "٣", '"', "\0", *shapes])
    places = [i for i, letter in enumerate(CSV) if letter in ",\n"]
    odd = st.tuples(st.sampled_from(places), cells).map(lambda e: (CSV[: e[0]] + e[1] + CSV[e[0] :]).encode())
    path = written(folder / "measured.csv", data.draw(damaged(whole) | odd))
    for row in read_or_refused(lambda: read_measurements(path), EdgeSdkError) or ():
        assert row.threads > 0 and row.ms > 0 and math.prod(row.shape or ()) < 2**40


def test_dumps_writes_what_is_read_back(folder: Path) -> None:
    assert read_plan(written(folder / "plan.json", dumps(PLAN).encode())) == PLAN
