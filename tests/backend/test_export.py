"""An exported file is the network that it was made from: its integers, its kernels, its outputs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError, FidelityError
from edgesdk.core.graph import WEIGHTED
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import export
from edgesdk.export.onnx import check
from edgesdk.export.parity import fallbacks, open_file, parity
from edgesdk.network.network import Network

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")
SCHEMES = ("dense", "int8", "mixed", "int4")
CASES = [(name, scheme) for name in NETWORKS for scheme in SCHEMES]
FOURTH_OF_DENSE = 0.35  # of the dense file's bytes: a quarter, and what does not shrink
FLIPS = 0.003


@functools.cache
def ready(name: str, scheme: str) -> tuple[Network, Tensor]:
    """A network under a scheme with its ranges calibrated, and inputs for it."""
    network, x = models.made(name)
    result = integer(network, models.assigned(network, scheme))
    calibrate(result, [x])
    return result, x


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """The file of each network under each scheme, written once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def path(name: str, scheme: str) -> Path:
        network, x = ready(name, scheme)
        file = folder / f"{name}-{scheme}.onnx"
        export(network, x, file)
        return file

    return path


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with LocalDevice() as agent:
        yield Bench(agent)


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_a_file_computes_what_the_simulation_computes(exported, name: str, scheme: str) -> None:
    network, x = ready(name, scheme)
    result = parity(network, Artifact(exported(name, scheme)), [x])
    assert result.samples == len(x)
    assert result.error <= result.tolerance
    assert result.tolerance == (1e-3 if scheme == "dense" else 5e-2)


@pytest.mark.parametrize(("name", "scheme"), CASES)
def test_weights_are_stored_in_the_bits_of_the_plan(exported, name: str, scheme: str) -> None:
    network, _ = ready(name, scheme)
    options = models.assigned(network, scheme)
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(exported(name, scheme)).graph.initializer}
    weighted = [layer for layer in network.graph.layers if layer.kind in WEIGHTED]
    assert weighted
    for layer in weighted:
        if layer.name not in options:
            assert not any(
                kind in (TensorProto.INT8, TensorProto.INT4)
                for tensor, kind in stored.items()
                if tensor.startswith(f"{layer.name}.weight")
            )
        elif options[layer.name].weight_bits == 4:
            assert stored[f"{layer.name}.weight.packed"] == TensorProto.INT4
            assert f"{layer.name}.weight" not in stored
        else:
            assert stored[f"{layer.name}.weight"] == TensorProto.INT8


@pytest.mark.parametrize(("name", "scheme"), [case for case in CASES if case[1] != "dense"])
def test_layers_that_are_called_int8_run_in_integer_kernels(exported, bench: Bench, name: str, scheme: str) -> None:
    network, _ = ready(name, scheme)
    weighted = [n for n in models.assigned(network, scheme) if network.graph.by_name[n].kind in WEIGHTED]
    assert weighted
    assert fallbacks(bench.kernels(Artifact(exported(name, scheme))), weighted) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_layer_counts_as_fallen_back(exported, bench: Bench, name: str) -> None:
    network, _ = ready(name, "dense")
    weighted = [layer.name for layer in network.graph.layers if layer.kind in WEIGHTED]
    assert fallbacks(bench.kernels(Artifact(exported(name, "dense"))), weighted) == weighted


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_integers_in_the_file_are_the_weights_over_their_scales(exported, scheme: str) -> None:
    network, _ = ready("residual", scheme)
    limit = {"int8": 127, "int4": 7}[scheme]
    arrays = {t.name: t for t in onnx.load(exported("residual", scheme)).graph.initializer}
    for name, spec in specification(network).items():
        if spec.axis is None:
            continue
        layer = network.module.get_submodule(name.removesuffix(".weight"))
        weight = layer.inner.weight.detach().numpy()  # type: ignore[union-attr]
        scale = np.array(spec.scale, np.float32).reshape(-1, *[1] * (weight.ndim - 1))
        tensor = arrays.get(name, arrays.get(f"{name}.packed"))
        assert tensor is not None
        stored = numpy_helper.to_array(tensor).astype(np.float32)
        assert np.abs(stored).max() == limit
        np.testing.assert_array_equal(stored, np.clip(np.rint(weight / scale), -limit, limit))


def changed(model: ModelProto, name: str, by: float) -> ModelProto:
    """A copy of ``model`` whose initializer ``name`` has one entry more by ``by``."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] += values.dtype.type(by)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def test_a_scale_or_zero_point_that_was_changed_is_found(exported) -> None:
    network, _ = ready("residual", "int8")
    specs = specification(network)
    model = onnx.load(exported("residual", "int8"))
    check(model, specs)
    weight = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == "stem.0.weight")
    activation = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in (weight.input[1], activation.input[1]):
        smallest = float(np.spacing(initializers[name].reshape(-1)[0]))
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            check(changed(model, name, smallest), specs)
    for name in (weight.input[2], activation.input[2]):
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            check(changed(model, name, 1), specs)


def test_a_file_of_another_network_fails_parity(exported, tmp_path: Path) -> None:
    network, x = ready("residual", "int8")
    arrays = onnx.load(exported("residual", "int8"))
    path = tmp_path / "other.onnx"
    onnx.save(changed(arrays, "stem.0.weight_scale", 1.0), path)
    with pytest.raises(FidelityError, match="differ from the simulation's"):
        parity(network, Artifact(path), [x])


def test_a_file_that_its_runtime_fails_to_run_is_refused_in_its_words(tmp_path: Path) -> None:
    network, x = ready("residual", "fp32")
    path = tmp_path / "failing.onnx"
    sizes = onnx.numpy_helper.from_array(np.array([1, 3], np.int64), "sizes")
    ends = [onnx.helper.make_tensor_value_info(name, 1, None) for name in (network.input_names[0], "output")]
    node = onnx.helper.make_node("Reshape", [network.input_names[0], "sizes"], ["output"])
    graph = onnx.helper.make_graph([node], "failing", ends[:1], ends[1:], [sizes])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(DeviceError, match=r"^onnxruntime refuses failing\.onnx \(.*Reshape.*another$"):
        parity(network, Artifact(path), [x])


def test_files_are_written_alike_and_keep_the_names_of_inputs(exported, tmp_path: Path) -> None:
    network, x = ready("residual", "int8")
    path = tmp_path / "again.onnx"
    export(network, x, path)
    assert path.read_bytes() == exported("residual", "int8").read_bytes()
    assert open_file(Artifact(path)).inputs == [t.name for t in network.graph.inputs]


@pytest.mark.parametrize("scheme", ["dense", "int8"])
def test_a_file_holds_no_notes_of_the_exporter(exported, scheme: str) -> None:
    model = onnx.load(exported("residual", scheme))
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        assert not part.metadata_props and not part.HasField("doc_string")
