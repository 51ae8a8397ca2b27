"""A network as the file that a runtime is given: one ONNX model, and what each format makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx as onnx_library
from onnx import ModelProto

from edgesdk.compress.integers import SIGNED, SYMMETRIC, UNSIGNED, Grid, TensorSpec
from edgesdk.compress.quantize import specification
from edgesdk.core.artifact import FORMAT_OF, Artefact
from edgesdk.core.errors import ModelError
from edgesdk.core.serialize import write
from edgesdk.export import onnx
from edgesdk.export.packed import packed
from edgesdk.export.probes import probe
from edgesdk.network.network import Batch, Network
from edgesdk.price.operators import Operator

SHOWN = 3  # broken rules in an error
GRIDS = {"litert": SIGNED, "tensorrt": SYMMETRIC}


def grid_of(runtime: str) -> Grid:
    """The grid that ``runtime`` wants its integer activations on."""
    return GRIDS.get(runtime, UNSIGNED)


def export(network: Network, x: Batch, path: Path, runtime: str = "onnxruntime") -> None:
    """Write ``network`` for one sample like those in ``x`` to ``path``, as ``runtime`` reads it.

    Weights that it has in a stored form are packed. Raises the errors of :func:`onnx.converted`, :func:`packed` and
    :func:`save`.
    """
    save(packed(onnx.converted(network, x), network.stored, runtime), specification(network), path, runtime)


def save(model: ModelProto, specs: Mapping[str, TensorSpec], path: Path, runtime: str) -> None:
    """Write an ONNX model, quantized as ``specs`` say, to ``path`` in the format of ``runtime``.

    Raises ``ModelError`` for what the format cannot hold, named with those that can; ``FidelityError`` where a scale,
    zero point or width in the file is not the specification's; ``DeviceError`` where the extra that writes the format
    is missing; ``StorageError`` where the file cannot be written.
    """
    if FORMAT_OF[runtime] == "openvino":
        from edgesdk.export import openvino

        openvino.convert(model, path, specs)
    elif FORMAT_OF[runtime] == "tflite":
        from edgesdk.export import tflite

        content = tflite.convert(model)
        tflite.check(content, specs)
        write(path, content)
    elif runtime == "tensorrt":
        from edgesdk.export import tensorrt

        model = tensorrt.adapted(model)
        if broken := tensorrt.refused(model):
            more = f" and {len(broken) - SHOWN} more" * (len(broken) > SHOWN)
            told = "; ".join(broken[:SHOWN]) + more
            raise ModelError(f"TensorRT takes no such file: {told}", "choose another --runtime")
        half = Artefact(path, runtime=runtime).every[-1]
        write(half, tensorrt.half(model).SerializeToString())
        write(path, model.SerializeToString())
    else:
        write(path, onnx.serialized(model))


def probe_file(operator: Operator, runtime: str) -> bytes:
    """The model that times ``operator``, as ``runtime`` reads it; OpenVINO reads ONNX."""
    if FORMAT_OF[runtime] != "tflite":
        return probe(operator)
    from edgesdk.export import tflite

    return tflite.convert(onnx_library.load_from_string(probe(operator)))
