"""A network as OpenVINO's intermediate representation (IR): OpenVINO's own reading of the ONNX model, made small.

Integers, scales and zero points stay what they are in the ONNX model. The plugin makes integer kernels of them as it
compiles.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import DeviceError, FidelityError, ModelError
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import write
from edgesdk.export import openvino_kernels
from edgesdk.export.openvino_kernels import is_constant
from edgesdk.export.resizing import spell_out
from edgesdk.export.spectra import spell_out_spectra

INTEGERS = {"i4": 4, "i8": 8, "u8": 8}
HALVES = ("f16", "bf16")
KEPT = ("Parameter", "Result", "Constant", "FakeQuantize")


def convert(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` as ``path``, an ``.xml`` file, and the weights as ``.bin`` beside it.

    Raises ``ModelError`` for an operator that OpenVINO lacks, ``FidelityError`` where a scale, zero point or width is
    not the one of ``specs``, ``DeviceError`` where OpenVINO is not installed.
    """
    openvino = import_openvino()
    core = openvino.Core()
    try:
        spelled = spell_out_spectra(spell_out(model, lambda r: r.smooth), _is_misread)
        read = core.read_model(_with_known_spectra(spelled).SerializeToString())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in reversed(lines) if "not supported" in line or "onnx" in line.lower()), lines[-1])
        raise ModelError(
            f"OpenVINO cannot read the model: {told}", "export to onnx, or replace that operator"
        ) from None
    _fold(read, openvino)
    _check(read, specs)
    _compute(read, openvino)
    openvino_kernels.avoid(read, integers=bool(specs))
    with scratch_folder() as folder:
        whole = folder / "model.xml"
        openvino.save_model(read, whole, compress_to_fp16=False)
        write(path.with_suffix(".bin"), whole.with_suffix(".bin").read_bytes())
        write(path, _without_blanks(whole.read_text("utf-8")))


def _is_misread(spectrum: NodeProto) -> bool:
    """Whether OpenVINO's reader (2026.4) makes another of a DFT, as of one that goes back, or refuses an STFT that has
    all frequencies."""
    how = {a.name: a.i for a in spectrum.attribute}
    return bool(how.get("inverse")) or spectrum.op_type == "STFT" and not how.get("onesided", 1)


def _with_known_spectra(model: ModelProto) -> ModelProto:
    """``model`` with spectra as OpenVINO's reader (2026.4) knows them: whole, and along the second axis.

    It takes no other axis, whatever is asked for, and leaves an axis of one in halves.
    """
    spectra = [node for node in model.graph.node if node.op_type == "DFT"]
    if not spectra:
        return model
    known = ModelProto()
    known.CopyFrom(model)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for read in model.graph.node:
        node = NodeProto.FromString(read.SerializeToString())
        nodes.append(node)
        axis = _along(node, arrays)
        if axis is None:
            continue
        source, target = node.input[0], node.output[0]
        axis %= len(sizes[source])
        half = next((a for a in node.attribute if a.name == "onesided" and a.i), None)
        if half is not None:
            half.i, node.output[0] = 0, f"{target}.whole"
            cut = {"start": 0, "end": sizes[target][axis], "axis": axis}
            for name, number in cut.items():
                known.graph.initializer.append(numpy_helper.from_array(np.array([number]), f"{target}.{name}"))
            names = [node.output[0], *(f"{target}.{name}" for name in cut)]
            nodes.append(helper.make_node("Slice", names, [target], f"{node.name}.half"))
        if axis != 1:
            order = list(range(len(sizes[source])))
            order[1], order[axis] = axis, 1
            made, turned, back = node.output[0], f"{target}.turned", f"{target}.along"
            nodes.insert(nodes.index(node), helper.make_node("Transpose", [source], [turned], turned, perm=order))
            nodes.insert(nodes.index(node) + 1, helper.make_node("Transpose", [back], [made], back, perm=order))
            known.graph.initializer.append(numpy_helper.from_array(np.array(1), f"{target}.second"))
            node.input[0], node.input[2], node.output[0] = turned, f"{target}.second", back
    del known.graph.node[:]
    known.graph.node.extend(nodes)
    return known


def _along(node: NodeProto, arrays: Mapping[str, np.ndarray]) -> int | None:
    """The axis along which ``node`` makes a spectrum, where it does and where that is known."""
    given = node.op_type == "DFT" and len(node.input) > 2 and node.input[2] in arrays
    return int(arrays[node.input[2]].item()) if given else None


def import_openvino() -> Any:
    """OpenVINO, without what would tell its makers of it. Raises ``DeviceError`` where it is not there."""
    try:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it does without
        import openvino
    except ImportError:
        raise DeviceError("openvino is not installed", "pip install 'edgesdk[openvino]'") from None
    return openvino


def _fold(model: Any, openvino: Any) -> None:
    """Compute what is constant, but for weights in few bits: half of the layers that the reader makes are shapes."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        inputs = [value.get_source_output() for value in node.inputs()]
        constant = [is_constant(value) for value in inputs]
        if kind in KEPT:
            continue
        if kind == "ShapeOf" and inputs[0].get_partial_shape().is_static:
            shape = np.array(list(inputs[0].get_shape()), node.get_output_element_type(0).to_dtype())
            node.output(0).replace(openvino.op.Constant(shape).output(0))
        elif kind == "Subtract" and constant[1] and not np.any(inputs[1].get_node().data) and _keeps_shape(node):
            node.output(0).replace(inputs[0])  # the zero point of symmetric weights
        elif all(constant) and not any(_is_weight(value) for value in inputs):
            for value in node.outputs():
                _settle(value, openvino)
    model.validate_nodes_and_infer_types()


def _settle(value: Any, openvino: Any) -> Any:
    """Put what ``value`` comes to in its place, and return that, or ``None`` where OpenVINO cannot tell."""
    result = _evaluate(value, openvino)
    if result is None:
        return None
    folded = openvino.op.Constant(result)
    folded.set_friendly_name(value.get_node().get_friendly_name())
    value.replace(folded.output(0))
    return folded


def _evaluate(value: Any, openvino: Any) -> Any:
    """What ``value``, which is made of constants alone, comes to, or ``None`` where OpenVINO cannot tell."""
    node = value.get_node()
    if is_constant(value):
        return openvino.Tensor(node.data.copy()) if value.get_element_type().get_type_name() != "i4" else None
    given = [_evaluate(each.get_source_output(), openvino) for each in node.inputs()]
    outputs = [openvino.Tensor(each.get_element_type(), each.get_shape()) for each in node.outputs()]
    if not given or any(each is None for each in given) or not node.evaluate(outputs, given):
        return None
    return outputs[value.get_index()]


def _compute(model: Any, openvino: Any) -> None:
    """Compute what integer layers make of constants alone: linear ones of them the plugin (2026.4) cannot compile."""
    still, made = set[str](), set[str]()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        sources = {value.get_source_output().get_node().get_name() for value in node.inputs()}
        if kind == "Constant" or (sources and sources <= still and kind != "Result"):
            still.add(node.get_name())
            if (kind == "FakeQuantize" and is_constant(node.input_value(0))) or sources & made:
                found = {folded.get_name() for value in node.outputs() if (folded := _settle(value, openvino))}
                still |= found
                made |= found
    model.validate_nodes_and_infer_types()


def _keeps_shape(node: Any) -> bool:
    """Whether ``node`` makes what has the shape of its first input."""
    return node.input_value(0).get_partial_shape() == node.output(0).get_partial_shape()


def _is_weight(value: Any) -> bool:
    """Whether ``value`` holds a layer's weight in less than 32 bits: a matrix or more, of integers or 16-bit floats.

    The plugin widens 16-bit floats once, as it compiles.
    """
    return value.get_element_type().get_type_name() in (*INTEGERS, *HALVES) and len(value.get_shape()) > 1


def _without_blanks(text: str) -> str:
    """The same XML without indentation and notes of the converter: a third of it."""
    text = re.sub(r">\s+<", "><", text)
    return re.sub(r"<rt_info>.*?</rt_info>|<rt_info ?/>", "", text, flags=re.DOTALL)


def check(path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Raise ``FidelityError`` unless the file's integers, scales and zero points are exactly those of ``specs``."""
    _check(import_openvino().Core().read_model(path), specs)


def _check(model: Any, specs: Mapping[str, TensorSpec]) -> None:
    grids: set[tuple[Any, ...]] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        whole, scale = (value.get_source_output().get_node() for value in node.inputs())
        if scale.get_type_name() != "Constant":
            continue
        points = np.zeros(1)
        if whole.get_type_name() == "Subtract":
            whole, zero = (value.get_source_output().get_node() for value in whole.inputs())
            points = np.asarray(zero.data).ravel() if zero.get_type_name() == "Constant" else points
        if whole.get_type_name() != "Convert":
            continue
        source = whole.input_value(0).get_node()
        while source.get_type_name() == "Convert" and source.input_value(0).get_node().get_type_name() == "Constant":
            source = source.input_value(0).get_node()  # 4-bit weights are widened first
        kind = source.get_output_element_type(0).get_type_name()
        if kind in INTEGERS:
            scales = np.asarray(scale.data, np.float32).ravel()
            points = np.broadcast_to(points.astype(int), scales.shape)
            name = source.get_friendly_name().removesuffix(".packed") if source.get_type_name() == "Constant" else None
            grids.add((name, INTEGERS[kind], kind[0], tuple(scales.tolist()), tuple(points.tolist())))
    for name, spec in specs.items():
        weight = spec.axis is not None
        sign = "i" if spec.low < 0 else "u"
        if (name if weight else None, spec.bits, sign, spec.scale, spec.zero_point) not in grids:
            raise FidelityError(f"{name} is not quantized in the file as specified", FidelityError.INSTEAD)
