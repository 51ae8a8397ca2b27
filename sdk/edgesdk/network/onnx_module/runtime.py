"""What ONNX Runtime answers of an ONNX file, by itself: the reference of a module that was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, fx

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import said
from edgesdk.network.network import Batch, rebatch, tensors
from edgesdk.network.source import Source

IR = 10  # of models that are made here: what every opset up to 22 may be in


class FileAnswers:
    """The file that a module was made of, asked for answers: one sample after the other, as on a board.

    Of a file that is quantized already these are the answers of the float model that it stands for.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, x: Batch) -> Any:
        """The outputs in the structure in which the module returns them."""
        outputs = self.outputs(x, self.source.floats)
        return outputs[0] if len(outputs) == 1 else dict(zip(self.source.outputs, outputs, strict=True))

    def outputs(self, x: Batch, content: bytes | None = None) -> list[Tensor]:
        """What the file answers, or another ``content`` of it, output by output."""
        path = self.source.path
        session = _session(path, path.stat().st_mtime_ns, content)
        return _answered(session, self._columns(x), list(self.source.outputs))

    def _columns(self, x: Batch) -> dict[str, Tensor]:
        """The tensors of a batch by the file's names."""
        names = self.source.inputs
        if isinstance(x, Mapping):
            return {names[name]: value for name, value in x.items()}
        return dict(zip(names.values(), tensors(x), strict=True))

    def parting(self, module: Any, x: Batch, same: Any) -> str:
        """The first node of the file that ``module`` computes otherwise, as ``same`` compares two tensors, in words."""
        floats, x = self.source.floats, rebatch(x, lambda t: t[:1])
        model = onnx.load(str(self.source.path)) if floats is None else onnx.load_model_from_string(floats)
        seen = {}
        interpreter = fx.Interpreter(module, garbage_collect_values=False)
        with torch.no_grad():
            interpreter.run(*tensors(x))
        for node, value in interpreter.env.items():
            if "tensor" in node.meta and isinstance(value, Tensor):
                seen[node.meta["tensor"]] = value
        wanted = [name for node in model.graph.node for name in node.output if name in seen]
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in wanted if n not in present)
        session = _opened(model.SerializeToString(), self.source.path, False)
        answers = dict(zip(wanted, _answered(session, self._columns(x), wanted), strict=True))
        for node in model.graph.node:
            for name in node.output:
                if name in answers and not same(seen[name], answers[name]):
                    return f"the node {node.name or name} ({node.op_type})"
        return "what it returns"


def run_alone(node: NodeProto, given: Mapping[str, np.ndarray], opsets: Mapping[str, int]) -> list[np.ndarray]:
    """What ONNX Runtime makes of constants with one node."""
    weights = [numpy_helper.from_array(array, name) for name, array in given.items()]
    ends = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "constants", [], ends, weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR)
    session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {})]


@lru_cache(maxsize=2)
def _session(path: Path, _changed: int, content: bytes | None) -> onnxruntime.InferenceSession:
    return _opened(content, path, True)


def _opened(content: bytes | None, path: Path, whole: bool) -> onnxruntime.InferenceSession:
    try:
        given = str(path) if content is None else content
        return onnxruntime.InferenceSession(given, _options(whole), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own kinds
        fact = f"ONNX Runtime does not take {path.name} ({said(error)})"
        raise ModelError(fact, "see what onnx.checker says of it, and export it again") from None


def _options(whole: bool = False) -> onnxruntime.SessionOptions:
    """One thread, quiet; a file that is not run as a ``whole`` as it is written: what is fused makes nothing to see."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # stored integers are the floats they stand for
    if not whole:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _answered(session: onnxruntime.InferenceSession, columns: Mapping[str, Tensor], wanted: list[str]) -> list[Tensor]:
    """What ``session`` answers to each sample, put together."""
    arrays = {name: column.detach().numpy() for name, column in columns.items()}
    count = min(len(column) for column in arrays.values())
    try:
        rows = [session.run(wanted, {n: a[i : i + 1] for n, a in arrays.items()}) for i in range(count)]
    except Exception as error:  # the runtime's own kinds
        fact = f"ONNX Runtime cannot run the file ({said(error)})"
        raise ModelError(fact, "give data as it takes them") from None
    return [torch.from_numpy(_joined(parts)) for parts in zip(*rows, strict=True)]


def _joined(parts: Any) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in parts]) if parts[0].ndim else np.stack(parts)
