"""An ONNX model of this exporter's own making as a TFLite file, whose integer layers are integer operators.

TFLite's integers are signed: an unsigned grid becomes the same grid moved by 128. Its images are channels-last, which
concerns what lies inside: inputs and outputs are as the ONNX model has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.serialize import write
from edgesdk.export.reading import Node
from edgesdk.export.spectra import spell_out_spectra
from edgesdk.export.tflite import composed, layers, recurrent, resize, rest, transposed, volumes
from edgesdk.export.tflite.check import check
from edgesdk.export.tflite.lowering import Lowering

OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **layers.OPERATORS, **recurrent.OPERATORS, **rest.OPERATORS, **composed.OPERATORS, **resize.OPERATORS,
    **transposed.OPERATORS,
    **volumes.OPERATORS,
}  # fmt: skip


def convert(model: ModelProto) -> bytes:
    """``model`` as a TFLite file.

    Raises ``ModelError`` for what TFLite lacks and for shapes that are not fixed, ``DeviceError`` where ai-edge-litert
    is not installed.
    """
    return _lower(model).finish()


def _lower(model: ModelProto) -> Lowering:
    graph = Lowering(spell_out_spectra(model), OPERATORS)
    for node in graph.nodes:
        if id(node) not in graph.done:
            OPERATORS[node.op](graph, node)
    return graph


def write_model(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` as a TFLite file to ``path``. Raises the errors of :func:`convert` and :func:`check`."""
    graph = _lower(model)
    content = graph.finish()
    check(content, specs, graph.computed)
    write(path, content)


def convert_probe(content: bytes) -> bytes:
    """An ONNX file's ``content`` as that of a TFLite file."""
    return convert(onnx.load_from_string(content))
