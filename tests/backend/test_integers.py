"""What is simulated and what a file stores are the same integers, at the ends of what integers can hold, too."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from edgesdk.compress.integers import (
    BIAS_LIMIT,
    SIGNED,
    UNSIGNED,
    ActivationQuantizer,
    FrozenLayer,
    IntegerLayer,
    TensorSpec,
)
from edgesdk.compress.quantize import calibrate, frozen, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import ModelError
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity, runner
from edgesdk.network.trace import trace

CHANNELS, INPUTS = 4, 3
RUNTIMES = ("onnxruntime", "openvino", "litert")
EXTREMES = [0.0, 1e-30, 1e-12, 1e-7, 1.0, 5.0, 1e3, 1e6, 1e12]
numbers = st.builds(lambda reach, share: reach * share / 1000, st.sampled_from(EXTREMES), st.integers(-1000, 1000))


def layer_of(weights: list[float], biases: list[float], low: float, high: float, bits: int) -> IntegerLayer:
    inner = nn.Linear(INPUTS, CHANNELS)
    with torch.no_grad():
        inner.weight.copy_(torch.tensor(weights).reshape(CHANNELS, INPUTS))
        inner.bias.copy_(torch.tensor(biases))
    source = ActivationQuantizer(UNSIGNED)
    source.low.fill_(low)
    source.high.fill_(high)
    source.fit()
    return IntegerLayer(inner, bits, source)


@settings(max_examples=300)
@given(
    st.lists(numbers, min_size=CHANNELS * INPUTS, max_size=CHANNELS * INPUTS),
    st.lists(numbers, min_size=CHANNELS, max_size=CHANNELS),
    st.sampled_from(EXTREMES), st.sampled_from(EXTREMES), st.sampled_from([4, 8]),
)  # fmt: skip
def test_a_frozen_layer_computes_what_the_simulation_computes(weights, biases, low, high, bits) -> None:
    layer = layer_of(weights, biases, -low, high, bits)
    stored = FrozenLayer(layer)
    x = torch.tensor([[-low, 0.0, high], [high, high, high], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        x = layer.source[0](x)
        assert torch.equal(stored(x), layer(x))
    limit = 2 ** (bits - 1) - 1
    assert int(stored.weight.abs().max()) <= limit
    assert int(stored.bias.long().abs().max()) <= BIAS_LIMIT
    kept = stored.bias.double() * stored.bias_scale.double()
    wanted = torch.tensor(biases).double()
    step = stored.bias_scale.double()
    assert bool(((kept - wanted).abs() <= 0.51 * step + 1e-6 * wanted.abs()).all())  # no bias is cut off


@given(st.sampled_from(EXTREMES), st.sampled_from(EXTREMES), st.sampled_from([UNSIGNED, SIGNED]))
def test_zero_is_exact_and_ends_are_near_in_any_range(low: float, high: float, grid) -> None:
    part = ActivationQuantizer(grid)
    part.low.fill_(-low)
    part.high.fill_(high)
    part.fit()
    assert grid.low <= int(part.zero_point) <= grid.high
    with torch.no_grad():
        ends = part(torch.tensor([0.0, -low, high])[None])[0]
    assert float(ends[0]) == 0.0
    step = float(part.step)
    assert abs(float(ends[1]) + low) <= 0.51 * step + 1e-6 * low
    assert abs(float(ends[2]) - high) <= 0.51 * step + 1e-6 * high


class Ends(nn.Module):
    """Dead channels with and without a bias, weights of nearly nothing, large biases, and an input that is constant."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in (self.a, self.b):
                scale = torch.tensor(EXTREMES[:8])[torch.randint(0, 8, (8,), generator=generator)]
                part.weight *= scale.clamp(max=3.0).reshape(-1, 1, 1, 1)
                part.get_parameter("bias").copy_(torch.tensor([0.0, 5.0, -3.0, 0.5, 1.0, -0.1, 2.0, 1e-9]))
            self.b.weight[1] = 0
            self.a.weight[:2] = 0

    def forward(self, x: Tensor, still: Tensor) -> Tensor:
        return self.h(self.b(self.a(x).relu()).relu().mean((2, 3)) + still)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_files_hold_and_compute_the_same_at_the_ends(runtime: str, seed: int, tmp_path: Path) -> None:
    x = (torch.randn(16, 3, 9, 9), torch.zeros(16, 8))
    model = Ends(seed)
    network = trace(model, x)
    options = dict.fromkeys(
        (n.name for n in network.graph.layers if n.kind in ("conv", "linear", "add")), Option(INT8, 8)
    )
    result = integer(network, options, grid_of(runtime))
    calibrate(result, [x])
    with torch.no_grad():
        wanted, (simulated,) = model(*x), result.flat(x)
    assert float((simulated - wanted).square().mean().sqrt() / wanted.std()) < 0.05  # a bias cut off would be far more
    path = tmp_path / f"model{format_of(runtime).suffix}"
    export(result, x, path, runtime)
    assert parity(result, Artifact(path, runtime=runtime), [x]).error < 5e-3
    parts = {name: part for name, part in frozen(result).module.named_modules() if isinstance(part, FrozenLayer)}
    assert set(parts) == {"a", "b", "h"}
    for name, (weight, bias) in stored(path, runtime, list(parts)).items():
        np.testing.assert_array_equal(np.sort(weight.ravel()), np.sort(parts[name].weight.numpy().ravel()))
        np.testing.assert_allclose(bias, bias_in(parts[name], runtime), rtol=0, atol=1e-37)


def bias_in(part: FrozenLayer, runtime: str) -> np.ndarray:
    """The bias as a file of the ``runtime`` has it: OpenVINO's as the real numbers that the integers stand for."""
    return (part.bias.float() * part.bias_scale if runtime == "openvino" else part.bias).numpy()


def stored(path: Path, runtime: str, names: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The integers of each layer's weight and bias in a file, but of layers that share them with another."""
    if runtime == "onnxruntime":
        arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        names = [name for name in names if {f"{name}.weight", f"{name}.bias"} <= arrays.keys()]
        return {name: (arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names}
    if runtime == "openvino":
        return stored_in_ir(path, names)
    from edgesdk.export.tflite.writer import schema

    file = schema()
    model = file.Model.GetRootAs(path.read_bytes())
    graph = model.Subgraphs(0)
    tensors = {graph.Tensors(i).Name().decode(): graph.Tensors(i) for i in range(graph.TensorsLength())}

    def read(name: str, kind: type) -> np.ndarray:
        return model.Buffers(tensors[name].Buffer()).DataAsNumpy().view(kind)

    names = [name for name in names if {f"{name}.weight", f"{name}.bias"} <= tensors.keys()]
    return {name: (read(f"{name}.weight", np.int8), read(f"{name}.bias", np.int32)) for name in names}


def stored_in_ir(path: Path, names: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of OpenVINO's file."""
    import openvino

    nodes = {node.get_friendly_name(): node for node in openvino.Core().read_model(path).get_ordered_ops()}

    def constant(node: Any) -> np.ndarray | None:
        return np.array(node.data) if node.get_type_name() == "Constant" else None

    def inputs(node: Any) -> list[Any]:
        return [value.get_source_output().get_node() for value in node.inputs()]

    found = {}
    for name in names:
        if f"{name}.weight" not in nodes or name not in nodes:
            continue
        weight = nodes[f"{name}.weight"]
        (bias,) = [value for value in map(constant, inputs(nodes[name])) if value is not None]
        found[name] = constant(weight), bias.ravel()
    return found


class Branches(nn.Module):
    """Linear layers side by side, each an output of its own: what is drawn for one channel is that channel's alone."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


def linear(weights: list[float], biases: list[float]) -> nn.Linear:
    layer = nn.Linear(INPUTS, CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).reshape(CHANNELS, INPUTS))
        layer.bias.copy_(torch.tensor(biases))
    return layer


def drawn_from(reaches: list[float]) -> st.SearchStrategy[list[nn.Linear]]:
    figures = st.builds(lambda reach, share: reach * share / 1000, st.sampled_from(reaches), st.integers(-1000, 1000))
    weights, biases = (st.lists(figures, min_size=n, max_size=n) for n in (CHANNELS * INPUTS, CHANNELS))
    return st.lists(st.builds(linear, weights, biases), min_size=8, max_size=8)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=2, phases=[Phase.generate])
@given(st.data(), st.sampled_from([0.0, 1.0]))
def test_a_file_stores_and_answers_the_integers_of_the_simulation(runtime: str, data, below) -> None:
    """Biases beyond 32 bits, dead channels, scales at the floor, empty ranges, sums that no float32 has all digits of.

    What OpenVINO answers is off in the last digit of a real number, as it multiplies in another order: the integer that
    it stands for is the same.
    """
    drawn, reach = data.draw(drawn_from(EXTREMES)), data.draw(st.sampled_from(EXTREMES))
    x = (torch.rand(16, INPUTS, generator=torch.Generator().manual_seed(0)) - 0.5 * below) * reach
    network = trace(Branches(drawn), x)
    linears = [layer.name for layer in network.graph.layers if layer.kind == "linear"]
    result = integer(network, dict.fromkeys(linears, Option(INT8, 8)), grid_of(runtime))
    calibrate(result, [x])
    specs = specification(result)
    outputs = [specs[f"quantizer_linear{f'_{place}' if place else ''}"] for place in range(len(drawn))]
    with TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / f"model{format_of(runtime).suffix}"
        export(result, x, path, runtime)
        simulated = result.flat(x)
        parts = {name: part for name, part in frozen(result).module.named_modules() if isinstance(part, FrozenLayer)}
        assert len(parts) == len(drawn) == len(simulated)
        read = stored(path, runtime, list(parts))
        assert read
        for name, (weight, bias) in read.items():
            np.testing.assert_array_equal(np.sort(weight.ravel()), np.sort(parts[name].weight.numpy().ravel()))
            np.testing.assert_allclose(bias, bias_in(parts[name], runtime), rtol=0, atol=1e-37)
        answered = runner(Artifact(path, runtime=runtime), result.structure)(x)
    integers = [wanted_integers(parts[f"layers.{i}"], x, specs["quantizer_x"], spec) for i, spec in enumerate(outputs)]
    for wanted, actual, spec, (integer_, sure) in zip(simulated, answered, outputs, integers, strict=True):
        steps = [value.double() / spec.scale[0] for value in (wanted, actual)]
        for each in steps:
            assert torch.equal(each.round()[sure], integer_[sure])
        assert float((steps[0].round() - steps[1].round()).abs().max()) <= 1
        assert float((steps[1] - steps[1].round()).abs().max()) < 1e-3
        assert runtime == "openvino" or torch.equal(wanted[sure], actual[sure])


def wanted_integers(part: FrozenLayer, x: Tensor, source: TensorSpec, target: TensorSpec) -> tuple[Tensor, Tensor]:
    """What a layer's output is in steps of its grid, of exact sums, and where that is no tie for 32-bit floats."""
    zero = source.zero_point[0]
    x = ((x / torch.tensor(source.scale[0])).round() + zero).clamp(source.low, source.high).double() - zero
    x = x * source.scale[0]
    weight = part.weight.double() * part.weight_scale.double()[:, None]
    bias = part.bias.double() * part.bias_scale.double()
    exact = (x @ weight.T + bias) / target.scale[0]
    terms = (x.abs() @ weight.abs().T + bias.abs()) / target.scale[0]
    low, high = target.low - target.zero_point[0], target.high - target.zero_point[0]
    from_tie = (exact - exact.floor() - 0.5).abs()
    beyond = (exact < low - 1) | (exact > high + 1)
    return exact.round().clamp(low, high), beyond | (from_tie > 4 * 2.0**-24 * terms)


class Cancelled(nn.Module):
    """Sums whose steps are far wider than what they come to: a layer that is dead, and two that cancel each other."""

    def __init__(self, dead: bool) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.b.weight.copy_(-self.a.weight)
            self.b.get_parameter("bias").copy_(-self.a.get_parameter("bias"))
            if dead:
                self.a.get_parameter("bias").fill_(-100.0)

        self.dead = dead

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.a(x).relu() if self.dead else self.a(x) + self.b(x))


@pytest.mark.parametrize("dead", [True, False])
def test_no_step_is_finer_than_litert_can_round_to(dead: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4)
    network = trace(Cancelled(dead), x)
    options = dict.fromkeys((n.name for n in network.graph.layers), Option(INT8, 8))
    result = integer(network, options, grid_of("litert"))
    calibrate(result, [x])
    path = tmp_path / "model.tflite"
    export(result, x, path, "litert")
    with torch.no_grad():
        assert torch.equal(result.flat(x)[0], runner(Artifact(path, runtime="litert"), result.structure)(x))
    finer = integer(network, options, grid_of("onnxruntime"))
    calibrate(finer, [x])
    with pytest.raises(ModelError, match=f"{'a' if dead else 'add'} rounds sums whose step is .* LiteRT"):
        export(finer, x, path, "litert")
