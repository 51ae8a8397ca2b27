"""An ONNX model of this exporter's own making as an ExecuTorch program, whose layers XNNPACK computes.

It is said again in PyTorch's operators, quantized where the ONNX model is, and lowered by ExecuTorch itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import DeviceError, ModelError
from edgesdk.core.runtime import find_runtime
from edgesdk.core.serialize import write
from edgesdk.export.collecting import collecting_once
from edgesdk.export.executorch import layers, recurrent, rest
from edgesdk.export.executorch.check import check
from edgesdk.export.executorch.lowering import ELSEWHERE, Lowering, Replay
from edgesdk.export.reading import Node
from edgesdk.export.resizing import spell_out
from edgesdk.export.spectra import spell_out_spectra
from edgesdk.network.in_turn import in_turn

OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **layers.OPERATORS, **recurrent.OPERATORS, **rest.OPERATORS,
}  # fmt: skip
TOLD = "edgesdk"  # the method of a program that says what its inputs, outputs and layers are called


def write_model(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` as ``path``, an ExecuTorch program. Raises the errors of :func:`convert` and :func:`check`."""
    graph, content = _converted(model)
    check(content, specs, graph.widened)
    write(path, content)


def convert(model: ModelProto) -> bytes:
    """``model`` as an ExecuTorch program.

    Raises ``ModelError`` for what ExecuTorch lacks and for shapes that are not fixed, ``DeviceError`` where executorch
    is not installed.
    """
    return _converted(model)[1]


def convert_probe(content: bytes) -> bytes:
    """An ONNX file's ``content`` as that of an ExecuTorch program."""
    return convert(onnx.load_from_string(content))


def _converted(model: ModelProto) -> tuple[Lowering, bytes]:
    graph = Lowering(spell_out_spectra(spell_out(model, lambda r: r.smooth or not r.exact)), OPERATORS)
    module = Replay(graph).eval()
    given = tuple(torch.from_numpy(np.zeros(graph.shape(name), graph.types[name])) for name in graph.inputs)
    with torch.no_grad():
        try:
            module(*given)
        except (RuntimeError, IndexError, TypeError) as error:  # PyTorch has many
            fact = f"the model cannot be said in PyTorch's operators: {_first_line(error)}"
            raise ModelError(fact, ELSEWHERE) from None
        return graph, _lowered(graph, module, given)


@in_turn()
def _lowered(graph: Lowering, module: Replay, given: tuple[torch.Tensor, ...]) -> bytes:
    with _hushed(), collecting_once():
        exir, partitioner = _executorch()
        program = torch.export.export(module, given, strict=False)
        edge = exir.to_edge_transform_and_lower(program, partitioner=[partitioner()])
        lowered = edge.exported_program()
        _check_kernels(lowered.graph_module)
        told = json.dumps({"inputs": graph.inputs, "outputs": graph.outputs, "layers": _layers(graph, lowered)})
        manager = exir.EdgeProgramManager({"forward": lowered}, {TOLD: told}, edge.compile_config)
        try:
            return manager.to_executorch().buffer
        except RuntimeError as error:
            raise ModelError(f"ExecuTorch cannot write the model: {_first_line(error)}", ELSEWHERE) from None


def _executorch() -> tuple[Any, Any]:
    try:
        from executorch import exir
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    except ImportError as error:
        fact = f"executorch, which writes such files, cannot be imported ({error})"
        raise DeviceError(fact, find_runtime("executorch").install) from None
    return exir, XnnpackPartitioner


def _check_kernels(module: torch.fx.GraphModule) -> None:
    """Raise ``ModelError`` for operators outside XNNPACK that the runtime has no kernel for."""
    from executorch.extension.pybindings import _C

    kernels = {name.partition(".")[0] for name in _C._get_operator_names()}
    lacking = set()
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.name not in kernels:
            lacking.add(schema.name)
    if lacking:
        raise ModelError(f"ExecuTorch's runtime has no {', '.join(sorted(lacking))}", ELSEWHERE)


def _layers(graph: Lowering, program: Any) -> dict[str, str]:
    """The layers with weights by the numbers that ExecuTorch gives their operators."""
    found = dict[str, str]()
    for part in program.graph_module.children():
        inner = getattr(part, "original_module", None)
        if inner is None:
            continue
        held = inner.graph_signature.inputs_to_buffers
        layers = {place: graph.layers[name] for place, name in held.items() if name in graph.layers}
        for node in inner.graph.nodes:
            label = next((layers[name] for name in _constants(node) if name in layers), None)
            if node.op == "call_function" and label is not None and "debug_handle" in node.meta:
                found[str(node.meta["debug_handle"])] = label
    return found


def _constants(node: torch.fx.Node) -> Iterator[str]:
    """The names of the constants that ``node`` reads, in whatever form they are stored."""
    for read in node.all_input_nodes:
        yield read.name
        if "dequantize_per_channel" in str(read.target) or "permute" in str(read.target):
            yield from (inner.name for inner in read.all_input_nodes)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what ExecuTorch and PyTorch tell their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
