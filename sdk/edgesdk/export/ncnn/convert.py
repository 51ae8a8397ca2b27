"""An ONNX model of this exporter's own making as ncnn's two files, a text and its numbers.

They are written from the graph: pnnx, ncnn's own converter, makes files of a traced model, and knows no integers that
were settled elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from edgesdk.compress.integers import NARROW, TensorSpec
from edgesdk.core.errors import ModelError
from edgesdk.core.serialize import write
from edgesdk.export.ncnn import layers, recurrent, rest
from edgesdk.export.ncnn.check import check_layers
from edgesdk.export.ncnn.lowering import Lowering
from edgesdk.export.reading import Node
from edgesdk.export.resizing import spell_out
from edgesdk.export.spectra import spell_out_spectra

OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **layers.OPERATORS, **recurrent.OPERATORS, **rest.OPERATORS,
}  # fmt: skip


def lower(model: ModelProto, timed: bool = False) -> Lowering:
    """``model`` as layers. Raises ``ModelError`` for what ncnn lacks and for shapes that are not fixed."""
    graph = Lowering(spell_out_spectra(spell_out(model, lambda r: r.smooth or not r.exact)), OPERATORS, timed)
    for node in graph.nodes:
        if id(node) not in graph.done:
            OPERATORS[node.op](graph, node)
    return graph


def write_model(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` as ``path``, a ``.ncnn.param`` file, and its numbers as ``.bin`` beside it.

    Raises the errors of :func:`lower`, ``ModelError`` for activations on another grid than ncnn's, and
    ``FidelityError`` where integers are not those of ``specs``.
    """
    for name, spec in specs.items():
        if spec.axis is None and (spec.low != NARROW.low or any(spec.zero_point)):
            own, zero = f"{NARROW.low} to {NARROW.high} around 0", spec.zero_point[0]
            fact = f"ncnn's integers are {own}, and those of {name} {spec.low} to {spec.high} around {zero}"
            raise ModelError(fact, "search with --runtime ncnn, or leave its layers in float with --precision fp32")
    graph = lower(model)
    graph.check_ends()
    text, numbers = graph.finish()
    check_layers(graph.file.layers, specs)
    write(path.with_suffix(".bin"), numbers)
    write(path, text)


def convert_probe(content: bytes) -> bytes:
    """An ONNX file's ``content`` as that of ncnn's two files: the text, a zero byte, the numbers."""
    text, numbers = lower(onnx.load_from_string(content), timed=True).finish()
    return text.encode() + b"\0" + numbers
