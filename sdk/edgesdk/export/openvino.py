"""A network as OpenVINO's intermediate representation (IR): OpenVINO's own reading of the ONNX model, made small.

Integers, scales and zero points stay what they are in the ONNX model. The plugin makes integer kernels of them as it
compiles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import DeviceError, FidelityError, ModelError
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import write

INTEGERS = {"i4": 4, "i8": 8, "u8": 8}
HALVES = ("f16", "bf16")
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "BatchNormInference")
MOST = float(np.finfo(np.float32).max)
ROUNDED = 2.0  # steps of a sum, of which half a part's is at most one
KEPT = ("Parameter", "Result", "Constant", "FakeQuantize")


def convert(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` as ``path``, an ``.xml`` file, and the weights as ``.bin`` beside it.

    Raises ``ModelError`` for an operator that OpenVINO lacks, ``FidelityError`` where a scale, zero point or width is
    not the one of ``specs``, ``DeviceError`` where OpenVINO is not installed.
    """
    openvino = _openvino()
    core = openvino.Core()
    try:
        read = core.read_model(model.SerializeToString())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in reversed(lines) if "not supported" in line or "onnx" in line.lower()), lines[-1])
        raise ModelError(
            f"OpenVINO cannot read the model: {told}", "export to onnx, or replace that operator"
        ) from None
    _fold(read, openvino)
    _check(read, specs)
    _compute(read, openvino)
    _keep_apart(read)
    if specs:
        _border_averages(read)
        _step_by_one(read)
        _keep_biases(read)
        _keep_from_gathers(read)
        _round_parts(read)
    with scratch_folder() as folder:
        whole = folder / "model.xml"
        openvino.save_model(read, whole, compress_to_fp16=False)
        write(path.with_suffix(".bin"), whole.with_suffix(".bin").read_bytes())
        write(path, _without_blanks(whole.read_text("utf-8")))


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise DeviceError("openvino is not installed", "pip install 'edgesdk[openvino]'") from None
    return openvino


def _fold(model: Any, openvino: Any) -> None:
    """Compute what is constant, but for weights in few bits: half of the layers that the reader makes are shapes."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        inputs = [value.get_source_output() for value in node.inputs()]
        constant = [_is_constant(value) for value in inputs]
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
    if _is_constant(value):
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
            if (kind == "FakeQuantize" and _is_constant(node.input_value(0))) or sources & made:
                found = {folded.get_name() for value in node.outputs() if (folded := _settle(value, openvino))}
                still |= found
                made |= found
    model.validate_nodes_and_infer_types()


def _keep_apart(model: Any) -> None:
    """Keep the plugin (2026.4) from two kernels that compute something else, where a constant per channel is in them.

    One is of the linear layers before and after, with one thread: there is none across a Clamp, here to all that a grid
    can hold, which is the identity. The other is of a mean and what follows: there is none across a Squeeze.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() not in ARITHMETIC:
            continue
        sources = [value.get_source_output() for value in node.inputs()]
        if not any(_is_constant(source) and np.prod(source.get_shape()) > 1 for source in sources):
            continue
        for value, source in zip(node.inputs(), sources, strict=True):
            if (reach := _reach(source)) is not None:
                value.replace_source_output(opset13.clamp(source, *reach).output(0))
            elif source.get_node().get_type_name() == "ReduceMean" and not source.get_node().get_keep_dims():
                x, axes = (given.get_source_output() for given in source.get_node().inputs())
                mean = opset13.reduce_mean(x, axes, keep_dims=True)
                value.replace_source_output(opset13.squeeze(mean, axes).output(0))
    model.validate_nodes_and_infer_types()


def _border_averages(model: Any) -> None:
    """Averages that count a border as ones that do not, times the share of each window that lies within the image: the
    plugin (2026.4) takes the border's zeros for integers, whatever their zero point, and fuses a Pad into it again."""
    from openvino import opset13

    for node in [node for node in model.get_ordered_ops() if node.get_type_name() == "AvgPool"]:
        given, average, reach = node.get_attributes(), node.output(0), _reach(node.input_value(0))
        if given["exclude-pad"] or not any((*given["pads_begin"], *given["pads_end"])):
            continue
        if reach is not None and reach[0] == 0.0:  # a zero point of 0 is the zero that it takes
            continue
        share = np.ones((1, 1), np.float32)
        for axis, (kernel, stride, before) in enumerate(
            zip(given["kernel"], given["strides"], given["pads_begin"], strict=True), 2
        ):
            begins = np.arange(average.get_shape()[axis]) * stride - before
            within = np.minimum(begins + kernel, node.get_input_shape(0)[axis]) - np.maximum(begins, 0)
            share = share[..., None] * (within / kernel).astype(np.float32)
        readers, names = list(average.get_target_inputs()), average.get_names()
        node.set_attribute("exclude-pad", True)
        counted = opset13.multiply(average, opset13.constant(share))
        average.set_names(set())
        counted.output(0).set_names(names)
        for reader in readers:
            reader.replace_source_output(counted.output(0))
    model.validate_nodes_and_infer_types()


def _step_by_one(model: Any) -> None:
    """Let a convolution whose window is the whole image, which has one place alone, go on by 1: by its own strides the
    plugin (2026.4) has an integer kernel that computes something else, of some sizes."""
    for node in model.get_ordered_ops():
        if "Convolution" in node.get_type_name() and "Backprop" not in node.get_type_name():
            given, sizes = node.get_attributes(), node.get_input_shape(0)[2:]
            kernel = node.get_input_shape(1)[-len(sizes) :]
            around = zip(sizes, given["pads_begin"], given["pads_end"], strict=True)
            spans = [(size - 1) * step + 1 for size, step in zip(kernel, given["dilations"], strict=True)]
            whole = [sum(parts) == span for parts, span in zip(around, spans, strict=True)]
            steps = [1 if only else step for only, step in zip(whole, given["strides"], strict=True)]
            node.set_attribute("strides", steps)
    model.validate_nodes_and_infer_types()


def _keep_biases(model: Any) -> None:
    """Give a linear layer whose biases are all zero a first one that is the least there is, which no sum can tell.

    With none, the plugin (2026.4) rounds by limits of each channel's own what the layer makes, and these are others
    within the one kernel that it makes of linear layers in a row, of a single row with one thread.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add" or not _is_constant(node.input_value(1)):
            continue
        made, biases = node.input_value(0).get_node(), np.array(node.input_value(1).get_node().data)
        if made.get_type_name() == "Multiply":  # by 1, in what a Gemm is read as
            made = made.input_value(0).get_node()
        if made.get_type_name() == "MatMul" and biases.size and not np.any(biases):
            biases.flat[0] = np.finfo(np.float32).tiny
            node.input(1).replace_source_output(opset13.constant(biases).output(0))
    model.validate_nodes_and_infer_types()


def _keep_from_gathers(model: Any) -> None:
    """Keep the scales of channels of their own from a Gather, as integers of several scales have them once they are
    concatenated: the plugin (2026.4) crashes as it moves these across, and moves none across a Clamp, here to all."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Gather" or node.get_input_element_type(0).get_type_name() != "f32":
            continue
        source = node.input_value(0)
        if not _is_constant(source) and _reach(source) is None:
            node.input(0).replace_source_output(opset13.clamp(source, -MOST, MOST).output(0))
    model.validate_nodes_and_infer_types()


def _round_parts(model: Any) -> None:
    """Keep the parts of a sum apart from it by a Clamp, where they have a step of more than 2 of the sum's.

    The plugin (2026.4) makes one kernel of a convolution and the sum that reads it, which does not round the part: by
    half of its step the sum is off, which is nothing in that of the sum elsewhere.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        parts = [value.get_source_output() for value in node.inputs()]
        reaches = [_reach(part) for part in parts]
        if node.get_type_name() != "Add" or None in reaches or (step := _step(node.output(0))) is None:
            continue
        if max(high - low for low, high in reaches) / 255 > ROUNDED * step:
            for value, part, reach in zip(node.inputs(), parts, reaches, strict=True):
                value.replace_source_output(opset13.clamp(part, *reach).output(0))
    model.validate_nodes_and_infer_types()


def _step(value: Any) -> float | None:
    """The step of the 8 bits that ``value`` is quantized to, maybe after a ReLU, where nothing else reads it."""
    readers = [reader.get_node() for reader in value.get_target_inputs()]
    if len(readers) == 1 and readers[0].get_type_name() == "Relu":
        return _step(readers[0].output(0))
    if len(readers) != 1 or readers[0].get_type_name() != "FakeQuantize":
        return None
    low, high = (readers[0].input_value(place).get_node() for place in (1, 2))
    return float((np.asarray(high.data) - np.asarray(low.data)).max()) / 255


def _reach(value: Any) -> tuple[float, float] | None:
    """The least and the greatest that ``value`` can be, where it is a tensor of unsigned integers, dequantized."""
    node = value.get_node()
    if node.get_type_name() != "Multiply" or not _is_constant(node.input_value(1)):
        return None
    scale, zero, whole = np.asarray(node.input_value(1).get_node().data), np.zeros(1), node.input_value(0).get_node()
    if whole.get_type_name() == "Subtract" and _is_constant(whole.input_value(1)):
        zero, whole = np.asarray(whole.input_value(1).get_node().data, np.float64), whole.input_value(0).get_node()
    if whole.get_type_name() != "Convert" or whole.get_input_element_type(0).get_type_name() != "u8" or scale.size > 1:
        return None
    low, high = (float((end - zero.ravel()[0]) * scale.ravel()[0]) for end in (0, 255))
    return low, high


def _keeps_shape(node: Any) -> bool:
    """Whether ``node`` makes what has the shape of its first input."""
    return node.input_value(0).get_partial_shape() == node.output(0).get_partial_shape()


def _is_constant(value: Any) -> bool:
    return value.get_node().get_type_name() == "Constant"


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
    _check(_openvino().Core().read_model(path), specs)


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
