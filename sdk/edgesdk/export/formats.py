"""A network as the file that a runtime is given: one ONNX model, and what the row of the runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from edgesdk.compress.integers import GRIDS, Grid, TensorSpec
from edgesdk.compress.quantize import specification
from edgesdk.core.runtime import find_runtime, load_function
from edgesdk.export import onnx
from edgesdk.export.packed import packed
from edgesdk.export.probes import probe
from edgesdk.network.network import Batch, Network
from edgesdk.price.operator import Operator


def grid_of(runtime: str) -> Grid:
    """The grid that ``runtime`` wants its integer activations on."""
    return GRIDS[find_runtime(runtime).grid]


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
    load_function(find_runtime(runtime).writer)(model, path, specs)


def probe_file(operator: Operator, runtime: str) -> bytes:
    """The model that times ``operator``, as ``runtime`` reads it."""
    converter = find_runtime(runtime).probes
    return probe(operator) if converter is None else load_function(converter)(probe(operator))
