"""Prices of a target: kept and read back, refused where damaged or absent, and what they make of whole networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, MEAN, OTHER, POOL, Graph, Layer, Tensor
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import Kernels
from edgesdk.core.target import Chip, Limits, target, targets
from edgesdk.devices.estimate import predicted
from edgesdk.price import kinds
from edgesdk.price.operator import CHANGES, Operator
from edgesdk.price.operators import of_network
from edgesdk.price.physics import FP16, INDEX, TERMS, Work, amounts, weight_count, work
from edgesdk.price.posterior import Posterior, fit
from edgesdk.price.prior import changed, prior
from edgesdk.price.profile import (
    DERIVED,
    MEASURED,
    MORE_THREADS,
    SCALED,
    SCHEMA,
    Pair,
    Predicted,
    Profile,
    Provenance,
    load,
    profile,
    save,
)

CHIP = Chip(2.0, 4, {FP32: 8.0, FP16: 16.0, INT8: 32.0}, 10.0, 512.0)
KERNELS = (Kernels(), Kernels(4, 16), Kernels(8, 1, True), Kernels(4, winograd=True))
FLOAT, INTEGER = Option(), Option(INT8, 8)
WHERE = "the prices of my-board"


def conv(
    name: str, reads: str, inputs: int, outputs: int, side: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> Layer:
    after = -(-side // stride)
    weights = (outputs, inputs // groups, kernel, kernel)
    count = int(np.prod(weights))
    return Layer(
        name, CONV, (reads,), (inputs, side, side), (outputs, after, after), "conv2d", weights, True, (kernel,) * 2,
        (stride,) * 2, (kernel // 2,) * 2, (1, 1), groups, "relu6", count + outputs, count * after * after,
    )  # fmt: skip


def mobilenet(width: int = 32, side: int = 112, classes: int = 1000) -> Graph:
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017), then a mean and a linear layer."""
    layers = [conv("stem", "x", 3, width, side, stride=2)]
    side, channels = side // 2, width
    for index, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 2, 1)):
        wider = 2 * channels if stride == 2 else channels
        layers.append(conv(f"depthwise {index}", layers[-1].name, channels, channels, side, 3, stride, channels))
        side //= stride
        layers.append(conv(f"pointwise {index}", layers[-1].name, channels, wider, side, 1))
        channels = wider
    layers.append(Layer("mean", MEAN, (layers[-1].name,), (channels, side, side), (channels,), "mean"))
    layers.append(
        Layer("fc", LINEAR, ("mean",), (channels,), (classes,), "linear", (classes, channels), True,
              parameters=classes * (channels + 1), macs=classes * channels)
    )  # fmt: skip
    return Graph((Tensor("x", layers[0].input_shape),), tuple(layers), ("fc",))


def with_unknown(graph: Graph, count: int) -> Graph:
    """``graph`` with operators behind its stem that nobody knows."""
    stem, *rest = graph.layers
    added, reads = [], stem.name
    for index in range(count):
        added.append(Layer(f"odd {index}", OTHER, (reads,), stem.shape, stem.shape, "frobnicate"))
        reads = added[-1].name
    rest[0] = replace(rest[0], inputs=(reads,))
    return Graph(graph.inputs, (stem, *added, *rest), graph.outputs)


def every(graph: Graph, option: Option) -> dict[str, Option]:
    return {layer.name: option for layer in graph.layers}


def parts(graph: Graph, option: Option = FLOAT) -> list[Operator]:
    return [op for _, op in of_network(graph, every(graph, option))]


def prices(name: str, runtime: str, threads: int = 1, graph: Graph | None = None, exact: bool = True) -> Predicted:
    weights = sum(map(weight_count, parts(graph))) if graph else 0
    return Predicted(profile(target(name)), runtime, threads, weights, exact)


@cache
def learnt() -> tuple[Posterior, tuple[Work, ...]]:
    """What 40 made-up networks taught, and 40 others to ask about."""
    random = np.random.default_rng(5)
    some = []
    for _ in range(80):
        graph = mobilenet(int(random.choice([8, 16, 24])), int(random.choice([48, 64, 96])), 10)
        chosen = [op for op in parts(graph) if random.random() < 0.7]
        some.append(work(chosen, CHIP, KERNELS[0]))
    believed = prior()
    constants = np.exp(believed.log_median + 0.5 * believed.deviation * random.standard_normal(len(TERMS)))
    took = [
        float(item.counts @ item.amounts @ constants) / 2e6 * float(np.exp(random.normal(0, 0.02))) for item in some
    ]
    return fit(some[:40], took[:40], CHIP.clock_ghz, believed), tuple(some[40:])


def pair(
    runtime: str = "onnxruntime", precision: str = FP32, threads: tuple[int, ...] = (1,), shift: float = 0.0
) -> Pair:
    posterior = learnt()[0]
    posterior = replace(posterior, log_constants=posterior.log_constants + shift)
    errors = (("networks held out, five folds", 0.0625),)
    provenance = Provenance(MEASURED, "constructed", "2026-01-01", "1.2.3", threads, 40, errors)
    return Pair(runtime, precision, Kernels(4, 16, True), posterior, provenance)


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A prices file as it is written, to tamper with."""
    save(tmp_path / "prices.json", "my-board", [pair(), pair("litert", INT8, (1, 4))])
    return json.loads((tmp_path / "prices.json").read_text("utf-8"))


# What is kept


def test_prices_come_back_as_they_were_saved(tmp_path: Path) -> None:
    saved = [pair(), pair("litert", INT8, (1, 4), 0.5)]
    save(tmp_path / "prices.json", "my-board", saved)
    pairs = load((tmp_path / "prices.json").read_text("utf-8"), WHERE)
    assert [replace(p, posterior=q.posterior) for p, q in zip(pairs, saved, strict=True)] == saved
    for read, written in zip(pairs, saved, strict=True):
        assert read.posterior.noise == pytest.approx(written.posterior.noise, rel=1e-4)
        for item in learnt()[1]:
            before, after = (p.posterior.predict(item, CHIP.clock_ghz)[0] for p in (written, read))
            assert after == pytest.approx(before, rel=1e-3)


def test_provenance_is_read_under_its_former_name(tmp_path: Path, document: dict[str, Any]) -> None:
    now = load((tmp_path / "prices.json").read_text("utf-8"), WHERE)
    for entry in document["pairs"]:
        entry["standing"] = entry.pop("provenance")
    assert [pair.provenance for pair in load(json.dumps(document), WHERE)] == [pair.provenance for pair in now]


def test_doubt_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save(tmp_path / "prices.json", "my-board", [pair()])
    (read,) = load((tmp_path / "prices.json").read_text("utf-8"), WHERE)
    for item in learnt()[1]:
        before, after = (p.posterior.predict(item, CHIP.clock_ghz)[1] for p in (pair(), read))
        assert after == pytest.approx(before, rel=0.03)


def test_a_shift_of_the_constants_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "prices.json", "my-board", [pair(shift=log(3))])
    (read,) = load((tmp_path / "prices.json").read_text("utf-8"), WHERE)
    for item in learnt()[1]:
        before, after = (p.posterior.predict(item, CHIP.clock_ghz)[0] for p in (pair(), read))
        assert after == pytest.approx(3 * before, rel=1e-3)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (SCHEMA.version + 1, "update edgesdk"),
        (f"edgesdk.prices/{SCHEMA.version + 1}", "update edgesdk"),
        ("edgesdk.target/2", "edgesdk calibrate"),
        (0, "edgesdk calibrate"),
        ("one", "edgesdk calibrate"),
        (None, "edgesdk calibrate"),
    ],
)
def test_prices_of_another_schema_are_refused(document: dict[str, Any], schema: object, says: str) -> None:
    with pytest.raises(DeviceError, match=f"{WHERE} has schema {schema}") as raised:
        load(json.dumps({**document, "schema": schema}), WHERE)
    assert says in raised.value.remedy and raised.value.exit_code == 6


def test_prices_of_before_are_read(document: dict[str, Any]) -> None:
    assert document["schema"] == SCHEMA == "edgesdk.prices/2"
    before, now = (load(json.dumps({**document, "schema": schema}), WHERE) for schema in (1, SCHEMA))
    assert [pair.provenance for pair in before] == [pair.provenance for pair in now] and len(now)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_prices_that_are_cut_short_are_damaged(document: dict[str, Any], share: float) -> None:
    text = json.dumps(document)
    with pytest.raises(DeviceError, match=f"{WHERE} is damaged"):
        load(text[: int(share * len(text))], WHERE)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"prices"', "{}", '{"schema": 1}', '{"schema": 1, "pairs": [3]}'])
def test_json_that_is_no_prices_is_damaged(text: str) -> None:
    with pytest.raises(DeviceError, match=f"{WHERE} is damaged"):
        load(text, WHERE)


def put(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        assert path[-1] in document
        document[path[-1]] = value

    return change


def cut(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


TAMPERED = {
    "a negative time": put("constants", "conv", value=-1.25),
    "no time": put("constants", "call", value=0),
    "not a number": put("constants", "memory", value=float("nan")),
    "endless": put("constants", "network", value=float("inf")),
    "text": put("constants", "conv", value="fast"),
    "a missing term": cut("constants", "fork"),
    "negative doubt": put("deviation", "conv", value=-0.1),
    "no doubt": put("deviation", "conv", value=0.0),
    "negative noise": put("noise", value=-0.01),
    "noise of nothing": put("noise", value=None),
    "negative extra": put("extra", value=-0.3),
    "a pull that is no number": put("pull", value="[NaN]"),
    "fewer pulls than shapes": put("pull", value="[0.1, 0.2]"),
    "fewer shapes than pulls": put("shapes", value="[[0, 3, 3, 3, 3, 3, 3]]"),
    "shapes of another length": put("shapes", value="[[0, 3, 3], [0, 3, 3]]"),
    "ragged shapes": put("shapes", value="[[0, 3], [0]]"),
    "learnt of another width": put("learnt", value="[[1.0, 2.0]]"),
    "pulls that are no JSON": put("pull", value="[0.1,"),
    "no provenance": cut("provenance"),
    "an unknown provenance": put("provenance", "kind", value="guessed"),
    "a negative thread count": put("provenance", "threads", value=[-4]),
    "no thread count": put("provenance", "threads", value=[]),
    "a negative error": put("provenance", "errors", value=[["held out", -0.1]]),
    "kernels of no channels": put("kernels", "channels", value=0),
    "kernels of negative pixels": put("kernels", "pixels", value=-16),
    "an overflowing pull": put("pull", value=json.dumps([1e6] * len(learnt()[0].pull))),
    "an overflowing time": put("constants", "conv", value=1e300),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_prices_that_were_tampered_with_are_damaged(document: dict[str, Any], name: str) -> None:
    TAMPERED[name](document["pairs"][0])
    with pytest.raises(DeviceError) as raised:
        load(json.dumps(document), WHERE)
    assert raised.value.fact.startswith(f"{WHERE} is damaged") and raised.value.remedy
    assert "\n" not in str(raised.value)


def test_prices_that_are_no_text_are_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_PROFILES", str(tmp_path))
    folder = tmp_path / "raspberry-pi-5"
    folder.mkdir()
    shipped = Path(__file__).parents[2] / "profiles" / "edgesdk_profiles" / "raspberry-pi-5" / "device.toml"
    (folder / "device.toml").write_bytes(shipped.read_bytes())
    (folder / "prices.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="the prices of raspberry-pi-5"):
        profile(target("raspberry-pi-5"))


@pytest.mark.parametrize("changes", [{"kind": "guessed"}, {"threads": (0,)}, {"errors": (("held out", float("nan")),)}])
def test_a_standing_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not one of|are above zero"):
        replace(pair().provenance, **changes)


# Which prices


def test_a_pair_that_is_absent_is_refused_with_those_that_exist() -> None:
    priced = profile(target("jetson-nano"))
    with pytest.raises(UsageError) as raised:
        priced.pair("onnxruntime", INT8)
    assert raised.value.fact == "nothing is known of onnxruntime with int8 on jetson-nano"
    assert raised.value.remedy == "onnxruntime has fp32 there; int8 runs on ncnn"
    with pytest.raises(UsageError) as raised:
        priced.pair("tensorrt", FP16)
    have = dict.fromkeys(f"{p.runtime} {p.precision}" for p in priced.pairs)
    assert raised.value.remedy == f"choose one of {', '.join(have)}"
    with pytest.raises(UsageError, match="edgesdk calibrate"):
        Profile(priced.target, ()).pair("onnxruntime", FP32)


def test_the_first_runtime_with_prices_is_taken() -> None:
    assert profile(target("raspberry-pi-4")).runtime() == "onnxruntime"
    assert profile(target("jetson-orin-nano")).runtime() == "tensorrt"
    assert profile(target("jetson-orin-nano")).runtime(("litert", "onnxruntime")) == "onnxruntime"
    for name, runtime in (("x86", "onnxruntime"), ("raspberry-pi-5", "tensorrt")):
        with pytest.raises(UsageError, match=f"{name} has no prices of"):
            profile(target(name)).runtime((runtime,))


@pytest.mark.parametrize(
    ("threads", "nearest"), [(1, (1,)), (2, (2, 3)), (3, (2, 3)), (4, (2, 3)), (6, (8,)), (9, (8,))]
)
def test_the_nearest_thread_count_is_chosen(threads: int, nearest: tuple[int, ...]) -> None:
    pairs = tuple(pair(threads=counts, shift=shift) for shift, counts in enumerate(((8,), (1,), (2, 3))))
    chosen = Profile(target("raspberry-pi-5"), (*pairs, pair("litert", threads=(threads,)))).pair(
        "onnxruntime", FP32, threads
    )
    assert chosen.provenance.threads == nearest
    extra = chosen.posterior_at(threads).extra
    assert extra == pytest.approx(0.0 if threads in nearest else MORE_THREADS)


def test_more_threads_than_cores_are_refused() -> None:
    assert prices("raspberry-pi-5", "onnxruntime", 4).threads == 4
    for runtime in ("onnxruntime", "litert", "ncnn"):
        with pytest.raises(UsageError, match="5 threads on 4 cores: give 4 or fewer"):
            prices("raspberry-pi-5", runtime, 5)


def test_what_boards_cannot_do_in_integers_is_no_candidate() -> None:
    pairs = {(p.runtime, p.precision) for p in profile(target("jetson-nano")).pairs}
    assert not {(runtime, INT8) for runtime in ("onnxruntime", "litert", "tensorrt")} & pairs
    assert ("onnxruntime", FP32) in pairs


# What networks take


@pytest.mark.parametrize("option", [FLOAT, INTEGER])
@pytest.mark.parametrize("name", ["raspberry-pi-5", "raspberry-pi-4", "raspberry-pi-zero-2-w"])
def test_a_network_takes_what_its_parts_take_and_what_a_run_does(name: str, option: Option) -> None:
    graph = mobilenet()
    predicted_prices = prices(name, "onnxruntime", graph=graph)
    operators = [op for op in parts(graph, option) if op.precision == option.precision]
    run = Work(*(predicted_prices.work(operators[:1]).__dict__[k][-1:] for k in ("amounts", "counts", "shapes")))
    fixed = float(predicted_prices.pair(option.precision).posterior.parts_ms(run, predicted_prices.chip.clock_ghz)[0])
    assert fixed > 0
    total = sum(map(predicted_prices.latency_ms, operators)) + fixed
    assert predicted_prices.interval(operators)[0] == pytest.approx(total, rel=1e-6)
    if option is FLOAT:
        assert predicted_prices.fixed_ms == pytest.approx(fixed, rel=1e-9)
        cost = predicted(graph, every(graph, option), predicted_prices)
        assert cost.latency_ms == pytest.approx(total, rel=1e-6)
        assert sum(layer.latency_ms for layer in cost.layers) + fixed == pytest.approx(total, rel=1e-6)


def test_layers_in_two_precisions_take_between_the_one_and_the_other() -> None:
    graph = mobilenet()
    predicted_prices = prices("raspberry-pi-5", "onnxruntime", graph=graph)
    mixed = {layer.name: INTEGER for layer in graph.layers[::2]}
    ends = sorted(predicted_prices.interval(parts(graph, option))[0] for option in (FLOAT, INTEGER))
    cost = predicted(graph, mixed, predicted_prices)
    assert ends[0] < cost.latency_ms < ends[1]
    assert set(cost.provenance) == {FP32, INT8} and len(cost.sources) == 2


def test_a_network_that_runs_nothing_takes_what_a_run_does() -> None:
    view = Layer("view", OTHER, ("x",), (4, 8), (32,), "view")
    predicted_prices = prices("raspberry-pi-5", "onnxruntime")
    cost = predicted(Graph((Tensor("x", (4, 8)),), (view,), ("view",)), {}, predicted_prices)
    assert cost.latency_ms == pytest.approx(predicted_prices.fixed_ms)
    assert cost.latency_low_ms < cost.latency_ms < cost.latency_high_ms


@pytest.mark.parametrize("name", [name for name in targets() if name != "x86"])
def test_every_price_is_above_zero_and_inside_its_interval(name: str) -> None:
    graph = mobilenet(16, 96)
    priced = profile(target(name))
    for pair in priced.pairs:
        option = Option(pair.precision, 8 if pair.precision == INT8 else 32)
        for threads in {1, min(priced.target.chip(pair.runtime).cores, max(pair.provenance.threads))}:
            cost = predicted(graph, every(graph, option), Predicted(priced, pair.runtime, threads))
            assert 0 < cost.latency_low_ms < cost.latency_ms < cost.latency_high_ms < 1e5
            assert all(layer.latency_ms > 0 for layer in cost.layers)
            assert cost.size_bytes > 0 and cost.peak_memory_bytes > 0
            assert cost.basis == "predicted" and cost.sources and pair.precision in cost.provenance
            assert set(cost.provenance) <= {pair.precision, FP32, FP16}  # what the caller gives is float


def test_what_was_not_measured_is_less_certain() -> None:
    graph = mobilenet()

    def width(name: str, option: Option) -> float:
        _, low, high = prices(name, "onnxruntime", graph=graph).interval(parts(graph, option))
        return high / low

    measured, scaled = width("raspberry-pi-5", FLOAT), width("raspberry-pi-4", FLOAT)
    derived = width("raspberry-pi-5", INTEGER)
    standings = [
        profile(target(name)).pair("onnxruntime", precision).provenance.kind
        for name, precision in (("raspberry-pi-5", FP32), ("raspberry-pi-4", FP32), ("raspberry-pi-5", INT8))
    ]
    assert standings == [MEASURED, SCALED, DERIVED]
    assert 1 < measured < scaled and measured < derived


@pytest.mark.parametrize("count", [3, 8])
def test_an_unknown_operator_is_named_counted_and_widens_the_interval(count: int) -> None:
    graph = mobilenet()
    predicted_prices = prices("raspberry-pi-5", "onnxruntime", graph=graph)
    before, after = (predicted(g, {}, predicted_prices) for g in (graph, with_unknown(graph, count)))
    assert before.unknown == () and after.unknown == ("frobnicate",)
    assert any("frobnicate" in note for note in after.notes) and not any("frobnicate" in n for n in before.notes)
    odd = [layer for layer in after.layers if layer.operator == kinds.UNKNOWN]
    assert len(odd) == count and all(layer.latency_ms > 0 for layer in odd)
    assert after.latency_ms == pytest.approx(before.latency_ms + sum(layer.latency_ms for layer in odd), rel=1e-6)
    assert after.latency_high_ms / after.latency_low_ms > 1.02 * before.latency_high_ms / before.latency_low_ms


def test_integers_are_slower_on_the_jetson_agx_xavier_under_litert() -> None:
    graph = mobilenet()
    result = prices("jetson-agx-xavier", "litert", 4, graph)
    assert result.interval(parts(graph, INTEGER))[0] > result.interval(parts(graph, FLOAT))[0]
    other = prices("raspberry-pi-4", "litert", 4, graph)
    assert other.interval(parts(graph, INTEGER))[0] < other.interval(parts(graph, FLOAT))[0]


def test_a_runtime_that_runs_float_in_half_is_priced_so_unless_exact() -> None:
    graph = mobilenet(64, 224)
    in_float, in_half = parts(graph), parts(graph, Option(FP16, 16))
    exact, half = (prices("jetson-orin-nano", "tensorrt", graph=graph, exact=e) for e in (True, False))
    assert (exact.pair(FP32).precision, half.pair(FP32).precision) == (FP32, FP16)
    assert half.interval(in_float) == pytest.approx(exact.interval(in_half), rel=1e-9)
    assert half.latency_ms(in_float[1]) == pytest.approx(exact.latency_ms(in_half[1]), rel=1e-9)
    assert half.interval(in_float)[0] < exact.interval(in_float)[0]


@pytest.mark.parametrize("name", [name for name, entry in targets().items() if entry.modes])
def test_each_power_mode_has_its_source_and_the_further_it_is_the_less_is_sure(name: str) -> None:
    own = target(name)
    facts = [fact.value.partition(":")[0] for fact in own.facts if fact.fact == "power modes"]
    told = [mode for modes in facts for mode in modes.split(", ")]
    assert sorted(told) == sorted(own.modes)
    first, *others = own.modes
    assert own.in_mode(first)[1] == own
    loaded = profile(own)
    for mode in others:
        there = loaded.in_mode(mode)[1]
        for before, after in zip(loaded.pairs, there.pairs, strict=True):
            chip, limited = (each.chip(before.runtime) for each in (own, there.target))
            same = limited.clock_ghz == chip.clock_ghz and limited.lanes(FP32) == chip.lanes(FP32)
            assert same or after.posterior.extra > before.posterior.extra


def test_units_that_are_off_are_doubted_as_the_clock_is() -> None:
    def extra(mode: str) -> float:
        pairs = profile(target("jetson-orin-nx")).in_mode(mode)[1].pairs
        return next(pair.posterior.extra for pair in pairs if pair.runtime == "tensorrt")

    assert extra("MAXN") < extra("40W") < extra("25W") < extra("15W") == extra("10W")  # half of the units are off


@pytest.mark.parametrize("limits", [{"cores": 0}, {"bandwidth_gbps": 0.0}, {"share": 1.5}, {"share": 0.0}])
def test_a_power_mode_that_leaves_nothing_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above zero"):
        Limits(1.0, **limits)


def test_a_graphics_processor_is_no_faster_with_more_threads() -> None:
    operators = parts(mobilenet())
    single, four = (prices("jetson-orin-nano", "tensorrt", threads).interval(operators)[0] for threads in (1, 4))
    assert single == four


def test_a_change_of_precision_is_paid_once_per_tensor() -> None:
    graph = mobilenet()
    names = [layer.name for layer in graph.layers]
    changes = {
        scheme: [(name, op.kind, op.precision) for name, op in of_network(graph, options) if op.kind in CHANGES]
        for scheme, options in {
            "float": {},
            "integer": every(graph, INTEGER),
            "two": dict.fromkeys(names[3:5], INTEGER),
        }.items()
    }
    assert changes == {
        "float": [],
        "integer": [("x", CHANGES[0], FP32), ("fc", CHANGES[1], INT8)],
        "two": [(names[2], CHANGES[0], FP32), (names[4], CHANGES[1], INT8)],
    }


def test_the_same_pool_of_one_tensor_runs_once_and_convolutions_twice() -> None:
    shape = (8, 16, 16)
    window = dict(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))

    def pool(name: str, reads: str, **changes: Any) -> Layer:
        return Layer(name, POOL, (reads,), shape, shape, "avg_pool2d", **{**window, **changes})

    layers = (
        pool("one", "x"),
        pool("two", "x"),
        pool("wider", "x", kernel=(5, 5), padding=(2, 2)),
        conv("left", "one", 8, 8, 16),
        conv("right", "two", 8, 8, 16),
        pool("of left", "left"),
        pool("of right", "right"),
        Layer("relu one", ACTIVATION, ("one",), shape, shape, "relu", activation="relu"),
        Layer("relu two", ACTIVATION, ("two",), shape, shape, "relu", activation="relu"),
        Layer("join", ADD, ("relu one", "relu two"), shape, shape, "add"),
        Layer("join again", ADD, ("relu one", "relu two"), shape, shape, "add"),
    )
    graph = Graph((Tensor("x", shape),), layers, ("join", "join again", "of left", "of right", "wider"))
    run = [name for name, _ in of_network(graph, {})]
    assert run == ["one", "wider", "left", "right", "of left", "of right", "relu one", "join", "join again"]
    assert [op.kind for name, op in of_network(graph, {}) if name == "one"] == [kinds.AVERAGE]


# What operators make a chip do

MORE = (
    kinds.ELEMENTWISE, kinds.FUNCTION, kinds.COPY, kinds.REDUCE, kinds.SOFTMAX, kinds.NORM, kinds.MATMUL,
    kinds.RECURRENT, kinds.GROUPED, kinds.UNKNOWN,
)  # fmt: skip
CHANNELS = st.integers(1, 600)


@st.composite
def operators(draw: st.DrawFn) -> Operator:
    """Any operator that has an output."""
    kind = draw(st.sampled_from((CONV, LINEAR, ADD, POOL, kinds.AVERAGE, MEAN, ACTIVATION, *CHANGES, *MORE)))
    precision = draw(st.sampled_from((FP32, FP16, INT8)))
    inputs, outputs = draw(CHANNELS), draw(CHANNELS)
    if kind in MORE:
        name = "frobnicate" if kind == kinds.UNKNOWN else ""
        return Operator(kind, precision, inputs, outputs, work=draw(st.integers(0, 10**9)), name=name)
    if kind == LINEAR:
        size = draw(st.just(()) | st.tuples(st.integers(1, 300)))
        return Operator(kind, precision, inputs, outputs, size, entry=draw(st.booleans()))
    axes = draw(st.integers(1, 3))
    size = tuple(draw(st.lists(st.integers(1, 40), min_size=axes, max_size=axes)))
    if kind not in (CONV, POOL, kinds.AVERAGE):
        return Operator(kind, precision, outputs, outputs, size)
    kernel, stride, padding, dilation = (
        tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))
        for low, high in ((1, 7), (1, 3), (0, 3), (1, 2))
    )
    groups = 1
    if kind == CONV and draw(st.booleans()):
        groups = draw(st.integers(1, 40))
        inputs, outputs = (groups, groups) if draw(st.booleans()) else (groups * (inputs % 9 + 1), groups * 2)
    elif kind != CONV:
        inputs = outputs
    operator = Operator(kind, precision, inputs, outputs, size, kernel, stride, padding, dilation, groups)
    assume(min(operator.after) > 0)
    return replace(operator, entry=draw(st.booleans()))


@given(operators(), st.sampled_from(KERNELS), st.floats(0, 1))
def test_amounts_are_finite_and_never_negative(op: Operator, kernels: Kernels, missed: float) -> None:
    work = amounts(op, CHIP, kernels, missed)
    assert work.shape == (len(TERMS),) and np.isfinite(work).all() and (work >= 0).all()
    assert work[INDEX["call"]] == 1.0
    assert work[INDEX["network"]] == work[INDEX["serial"]] == work[INDEX["fork"]] == 0.0


@given(operators(), st.sampled_from(KERNELS), st.integers(1, 8))
def test_more_channels_are_never_less_work(op: Operator, kernels: Kernels, more: int) -> None:
    added = 16 * more
    if op.groups > 1 and op.depthwise:
        wider = replace(op, inputs=op.inputs + added, outputs=op.outputs + added, groups=op.groups + added)
    elif op.groups > 1:
        wider = replace(op, outputs=op.outputs + added * op.groups)
    else:
        wider = replace(op, outputs=op.outputs + added)
    assert (amounts(wider, CHIP, kernels) >= amounts(op, CHIP, kernels)).all()


@settings(max_examples=50)
@given(st.lists(operators(), min_size=1, max_size=4, unique=True), st.integers(1, 20), st.sampled_from((1, 2, 4)))
def test_equal_operators_are_counted_together(some: list[Operator], count: int, threads: int) -> None:
    single, many = (work(some * times, CHIP, KERNELS[1], threads, 0.0) for times in (1, count))
    assert many.counts.tolist() == [*[count] * len(some), 1.0]
    assert np.array_equal(single.amounts, many.amounts) and np.array_equal(single.shapes, many.shapes)
    alone = sum((work([op], CHIP, KERNELS[1], threads, 0.0).amounts[0] for op in some), np.zeros(len(TERMS)))
    assert many.counts[:-1] @ many.amounts[:-1] == pytest.approx(count * alone, rel=1e-9)


@given(operators(), st.sampled_from((2, 3, 4)))
def test_threads_share_the_work_but_not_the_traffic(op: Operator, threads: int) -> None:
    single, more = (work([op], CHIP, KERNELS[0], count).amounts[0] for count in (1, threads))
    shared = INDEX["memory"]
    assert more[:shared] == pytest.approx(single[:shared] / threads)
    assert more[shared : INDEX["serial"]] == pytest.approx(single[shared : INDEX["serial"]])
    assert (single[INDEX["serial"]], single[INDEX["fork"]]) == (0.0, 0.0)
    assert more[INDEX["serial"]] == pytest.approx(single[:shared].sum() * (1 - 1 / threads))
    assert more[INDEX["fork"]] == 1.0


def test_weights_that_do_not_fit_the_cache_are_read_anew() -> None:
    op = parts(mobilenet())[-1]
    small, large = (work([op], CHIP, KERNELS[0], weights=w).amounts[0, INDEX["memory"]] for w in (1e3, 1e8))
    assert small < large


def test_a_prior_is_changed_in_one_term_alone() -> None:
    before = prior()
    after = changed(before, "linear", 9.0, 0.1)
    rest = [index for term, index in INDEX.items() if term != "linear"]
    assert np.exp(after.log_median[INDEX["linear"]]) == pytest.approx(9.0)
    assert after.deviation[INDEX["linear"]] == 0.1
    assert np.array_equal(after.log_median[rest], before.log_median[rest])
    assert np.array_equal(after.deviation[rest], before.deviation[rest])
