"""An ONNX file that is quantized already is taken as the float network that it stands for, however it was quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_zoo as zoo
import pytest
import torch
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn

import edgesdk
from edgesdk.core.errors import ModelError
from edgesdk.network.onnx_module.distance import judge_float
from edgesdk.network.onnx_module.read import read
from edgesdk.network.reference import Reference
from edgesdk.network.trace import trace
from edgesdk.workflows.inputs import read_inputs

QDQ, OPERATORS = QuantFormat.QDQ, QuantFormat.QOperator
SIGNED, UNSIGNED = QuantType.QInt8, QuantType.QUInt8
FACES = (  # the network; its format (None: dynamic), its activations, whether its weights are by channel
    ("residual", QDQ, UNSIGNED, True), ("residual", OPERATORS, SIGNED, True), ("residual", None, None, True),
    ("mlp", QDQ, SIGNED, False), ("mlp", OPERATORS, UNSIGNED, True), ("mlp", None, None, False),
    ("transformer", OPERATORS, UNSIGNED, False), ("transformer", None, None, True), ("shuffled", QDQ, SIGNED, True),
    ("shuffled", OPERATORS, UNSIGNED, False), ("two", None, None, False), ("gru", OPERATORS, SIGNED, False),
    ("lstm", None, None, False), ("lstm", None, None, True), ("encoded", QDQ, UNSIGNED, False),
)  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


class Rows(CalibrationDataReader):
    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        count = len(next(iter(columns.values())))
        self.rows: Iterator[Any] = iter({n: a[i : i + 1] for n, a in columns.items()} for i in range(count))

    def get_next(self) -> Any:
        return next(self.rows, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.fixture(scope="module")
def floats(folder: Path) -> Mapping[str, Path]:
    """The float files, by the network's name, each made when it is first asked for."""
    zoo.MODULES.setdefault("mlp", (mlp, (torch.randn(2, 12),)))

    class Made(dict[str, Path]):
        def __missing__(self, key: str) -> Path:
            self[key] = zoo.exported(key, folder, False, 17)
            return self[key]

    return Made()


def samples(name: str, count: int = 12) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(count, *t.shape[1:], generator=draw)
        if t.is_floating_point()
        else torch.randint(0, 7, (count, *t.shape[1:]), generator=draw)
        for t in zoo.MODULES[name][1]
    )


def quantized(path: Path, name: str, form: Any, activations: Any, by_channel: bool) -> Path:
    """The float file at ``path`` as ONNX Runtime quantizes it."""
    out = path.with_name(f"{path.stem}-int8.onnx")
    if form is None:
        kind = QuantType.QInt8 if by_channel else QuantType.QUInt8
        quantize_dynamic(str(path), str(out), per_channel=by_channel, weight_type=kind)
        return out
    names = [value.name for value in onnx.load(str(path)).graph.input]
    rows = Rows({n: t.numpy() for n, t in zip(names, samples(name), strict=True)})
    quantize_static(
        str(path), str(out), rows, quant_format=form, per_channel=by_channel, activation_type=activations,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return out


def values(answer: Any) -> list[Tensor]:
    return list(answer.values()) if isinstance(answer, dict) else [answer]


@pytest.mark.parametrize("face", FACES, ids=lambda face: "-".join(str(getattr(part, "name", part)) for part in face))
def test_it_is_the_float_network_that_it_stands_for(face: Any, floats: Mapping[str, Path]) -> None:
    name, *how = face
    module, x = read(quantized(floats[name], name, *how)), samples(name, 8)
    reference = Reference(module)
    assert reference.file is not None and reference.file.source.floats is not None
    names = list(reference.file.source.inputs)
    batch: Any = dict(zip(names, x, strict=True)) if names[1:] else x[0]
    for ours, theirs in zip(values(module(*x)), values(reference(batch)), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)
    (note,) = judge_float(module, batch)
    assert 0 < float(note.split("is ")[1].split()[0]) < 2  # steps
    torch.manual_seed(0)
    own = read(floats[name])
    for ours, theirs in zip(values(module(*x)), values(own(*x)), strict=True):  # weights alone are rounded
        assert float((ours - theirs).square().mean().sqrt()) < 0.05 * float(theirs.std())


@pytest.mark.parametrize("how", [(QDQ, UNSIGNED, False), (OPERATORS, SIGNED, True), (None, None, True)])
def test_its_layers_are_those_of_the_float_file(how: Any, floats: Mapping[str, Path]) -> None:
    (x,) = samples("residual", 4)
    graphs = [
        trace(read(path), x).graph for path in (floats["residual"], quantized(floats["residual"], "residual", *how))
    ]
    own, ours = [[(layer.kind, layer.macs, layer.shape) for layer in graph.layers] for graph in graphs]
    assert own == ours
    own, ours = [[(group.size, group.step, group.fixed) for group in graph.groups] for graph in graphs]
    assert own == ours


def convolution(scale: float, zero: int) -> zoo.Written:
    """A convolution of integers whose answers lie on a grid of ``scale`` and ``zero``."""
    g = zoo.Written(13, x=[-1, 3, 6, 6])
    grid = [g.c("xs", 0.05, np.float32), g.c("xz", 120, np.uint8)]
    weight = g.c("w_quantized", np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3)), np.int8)
    x = g.n("QuantizeLinear", ["x", *grid], "x_quantized")
    bias = g.c("b", [100, -300, 5, 0], np.int32)
    steps = [g.c("ws", [0.01, 0.02, 0.005, 0.01], np.float32), g.c("wz", [0] * 4, np.int8)]
    ends = [g.c("ys", scale, np.float32), g.c("yz", zero, np.uint8)]
    g.n("QLinearConv", [x, *grid, weight, *steps, *ends, bias], "y_quantized", "conv_quant")
    g.n("DequantizeLinear", ["y_quantized", *ends], "y")
    return g


@pytest.mark.parametrize(("scale", "zero", "most"), [(0.08, 128, 11), (0.08, 0, 21), (6 / 255, 0, 6)])
def test_a_relu_that_a_grid_stands_for_comes_back(scale: float, zero: int, most: float, folder: Path) -> None:
    path = convolution(scale, zero).save(folder / "conv.onnx", "y")
    module, x = read(path), torch.randn(4, 3, 6, 6)
    assert dict(module.named_parameters())["conv.bias"].detach().tolist() == pytest.approx([0.05, -0.3, 0.00125, 0])
    answer = module(10 * x)
    assert (float(answer.min()) >= 0) == (zero == 0) and (float(answer.max()) <= 6) == (most == 6)
    judge_float(module, x / 4)


def test_what_is_further_off_than_rounding_explains_is_refused(folder: Path) -> None:
    path = convolution(0.002, 128).save(folder / "narrow.onnx", "y")  # nearly all of it lies beyond the grid's ends
    with pytest.raises(ModelError, match=r"narrow.onnx stands for is [\d.e+]+ steps of its eight bits"):
        judge_float(read(path), torch.randn(8, 3, 6, 6))


def test_what_has_no_float_equivalent_is_refused_by_name(folder: Path) -> None:
    g = convolution(0.08, 128)
    path = g.save(folder / "ends.onnx", "y")
    model = onnx.load(str(path))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y_quantized", onnx.TensorProto.UINT8, None))
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match=r"the output y_quantized of ends.onnx is integers on a grid"):
        read(path)
    g = convolution(0.08, 128)
    steps = ["ys", "yz"]
    g.n("QLinearReduceMean", ["y_quantized", *steps, *steps], "m", "mean", domain="com.microsoft")
    with pytest.raises(ModelError, match=r"the node mean of mean.onnx \(QLinearReduceMean\) has no float equivalent"):
        read(g.save(folder / "mean.onnx", "y", "m"))


def test_with_force_what_is_too_far_off_is_a_note(folder: Path) -> None:
    path = convolution(0.002, 128).save(folder / "forced.onnx", "y")
    x = np.random.default_rng(0).standard_normal((96, 3, 6, 6), np.float32)
    notes = read_inputs(str(path), (x, np.zeros((96, 4, 4, 4), np.float32)), None, "mse", 0, force=True).notes
    assert any(note.startswith("forced: the float network that forced.onnx stands for is ") for note in notes)


def test_a_search_says_what_it_took_the_file_for(floats: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_MODE", "brief")
    path = quantized(floats["mlp"], "mlp", OPERATORS, UNSIGNED, False)
    (x,) = samples("mlp", 128)
    y = read(path)(x).argmax(1)
    given = read_inputs(str(path), (x.numpy(), y.numpy()), None, "top-1", 0)
    taken, far = given.notes
    told = "is quantized already (3 QGemm, 1 QuantizeLinear), and is taken as the float network that it stands for"
    assert taken.endswith(told)
    assert far.startswith("that float network is ") and "ONNX Runtime answers of the file" in far
    with pytest.warns(match="is quantized already"):
        plan = edgesdk.search(str(path), "pi4", (x.numpy(), y.numpy()), edgesdk.Budget(latency_ratio=1.0), force=True)
    assert plan.predicted.latency_ms > 0
