"""Weights in 16-bit floats, in every format that holds them: half the bytes, the same kernels, the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import models
import pytest
from onnx import ModelProto
from torch import Tensor

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.compress.stored import stored
from edgesdk.core.artifact import Artifact, check_stored
from edgesdk.core.errors import ModelError, UsageError
from edgesdk.core.graph import WEIGHTED
from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.core.runtime import exportable, format_of
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export, grid_of, save
from edgesdk.export.onnx import converted
from edgesdk.export.packed import packed
from edgesdk.export.parity import open_file, parity
from edgesdk.network.network import Network

NETWORKS = ("residual", "transformer")
HELD = [(runtime, kind) for runtime in ("onnxruntime", "openvino", "litert") for kind in format_of(runtime).holds[:2]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("half")


@pytest.fixture(scope="module")
def agent() -> Iterator[LocalDevice]:
    with LocalDevice() as agent:
        yield agent


@cache
def halved(name: str, kind: str) -> tuple[Network, Tensor, ModelProto]:
    """A network with all its weights in 16 bits, inputs, and its plain ONNX model."""
    network, x = models.made(name, 2)
    weighted = [layer.name for layer in network.graph.layers if layer.kind in WEIGHTED]
    network = stored(network, dict.fromkeys(weighted, Option(FP32, 32, Form(kind))))
    return network, x, converted(network, x)


def both(name: str, runtime: str, kind: str, folder: Path) -> tuple[Artifact, Artifact]:
    """The files with weights in 16 and in 32 bits."""
    network, _, model = halved(name, kind)
    artifacts = []
    for bits, weights in ((16, network.stored), (32, {})):
        path = folder / f"{name}-{runtime}-{kind}-{bits}{format_of(runtime).suffix}"
        if not path.exists():
            save(packed(model, weights, runtime), {}, path, runtime)
        artifacts.append(Artifact(path, network.graph, runtime=runtime))
    return artifacts[0], artifacts[1]


def outputs(artifact: Artifact, x: Tensor) -> list[bytes]:
    opened = open_file(artifact)
    return [v.tobytes() for i in range(len(x)) for v in opened.run({opened.inputs[0]: x[i : i + 1].numpy()})]


@pytest.mark.parametrize(("runtime", "kind"), HELD)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_rounded_weights_to_the_bit(name: str, runtime: str, kind: str, folder: Path) -> None:
    network, x, _ = halved(name, kind)
    half, whole = both(name, runtime, kind, folder)
    assert outputs(half, x) == outputs(whole, x)
    assert parity(network, half, [x]).error <= 1e-3


@pytest.mark.parametrize(("runtime", "kind"), HELD)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_weight_takes_half_its_bytes(name: str, runtime: str, kind: str, folder: Path) -> None:
    network, _, _ = halved(name, kind)
    half, whole = both(name, runtime, kind, folder)
    saved = sum(2 * network.module.get_parameter(path).numel() for path in network.stored)
    around = {"onnxruntime": 80, "openvino": 700, "litert": 300}[runtime] * len(network.stored)  # what widens them
    assert saved - around <= whole.size_bytes - half.size_bytes <= saved


@pytest.mark.parametrize(("runtime", "kind"), HELD)
def test_the_kernels_are_those_of_the_plain_file(runtime: str, kind: str, folder: Path, agent: LocalDevice) -> None:
    bench = Bench(agent, runtime=runtime)
    ran = [
        [
            (kernel["operator"], kernel["precision"])
            for kernel in bench.kernels(artifact)
            if (kernel["operator"], kernel["precision"]) != ("DEQUANTIZE", "float16")  # LiteRT's, of constants: once
        ]
        for artifact in both("residual", runtime, kind, folder)
    ]
    assert ran[0] == ran[1]


@pytest.mark.parametrize("runtime", ("onnxruntime", "openvino", "litert"))
def test_they_stand_beside_integer_layers(runtime: str, folder: Path) -> None:
    network, x = models.made("residual", 16)
    options = {name: Option(INT8, 8) for name in models.assigned(network, "mixed")}
    halves = {
        layer.name: Option(FP32, 32, Form("fp16"))
        for layer in network.graph.layers
        if layer.kind in WEIGHTED and layer.name not in options
    }
    ready = integer(network, options, grid_of(runtime))
    calibrate(ready, [x])
    ready = stored(ready, options | halves)
    assert options and len(ready.stored) == len(halves) > 1
    path = folder / f"mixed{format_of(runtime).suffix}"
    export(ready, x, path, runtime)
    assert parity(ready, Artifact(path, runtime=runtime), [x]).error <= 5e-2
    with pytest.raises(UsageError, match="is an integer layer"):
        stored(network, {name: Option(INT8, 8, Form("fp16")) for name in options})


def test_formats_that_cannot_hold_a_form_are_said_to(folder: Path) -> None:
    network, x, _ = halved("residual", "bf16")
    for runtime in exportable():
        for form in (Form("fp16"), Form("bf16"), Form("k-means", (16,)), Form("ternary")):
            option = Option(FP32, 32, form)
            if form.method in format_of(runtime).holds:
                check_stored([Option(), option], runtime)
            else:
                with pytest.raises(UsageError, match=rf"{format_of(runtime).name} files hold no weights as {form}"):
                    check_stored([Option(), option], runtime)
    with pytest.raises(ModelError, match="files for litert hold no bf16 weights"):
        export(network, x, folder / "bf16.tflite", "litert")
    assert not (folder / "bf16.tflite").exists()
    assert format_of("tensorrt").stores == ()
