"""Networks as OpenVINO's plugin for processors computes them: kernels of it that compute something else are avoided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "BatchNormInference")
MOST = float(np.finfo(np.float32).max)
ROUNDED = 2.0  # steps of a sum, of which half a part's is at most one


def avoid(model: Any, integers: bool) -> None:
    """Say ``model``, an ``openvino.Model``, so that the plugin computes what it says, in place; ``integers`` says
    whether it has any."""
    _keep_apart(model)
    _keep_places(model)
    if integers:
        _border_averages(model)
        _step_by_one(model)
        _keep_biases(model)
        _keep_from_gathers(model)
        _keep_from_pads(model)
        _round_parts(model)
        _keep_extremes(model)


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
        if not any(is_constant(source) and np.prod(source.get_shape()) > 1 for source in sources):
            continue
        for value, source in zip(node.inputs(), sources, strict=True):
            if (reach := _reach(source)) is not None:
                value.replace_source_output(opset13.clamp(source, *reach).output(0))
            elif source.get_node().get_type_name() == "ReduceMean" and not source.get_node().get_keep_dims():
                x, axes = (given.get_source_output() for given in source.get_node().inputs())
                mean = opset13.reduce_mean(x, axes, keep_dims=True)
                value.replace_source_output(opset13.squeeze(mean, axes).output(0))
    model.validate_nodes_and_infer_types()


def _keep_places(model: Any) -> None:
    """Keep the plugin (2026.4) from taking a factor for each place of an image into the weights of the convolution that
    reads it, as it does where the window has as many places along an axis, whatever factors, signs and borders lie
    between: not across a Clamp to all floats, which is the identity."""
    from openvino import opset13

    for node in [n for n in model.get_ordered_ops() if n.get_type_name() in ("Convolution", "GroupConvolution")]:
        source, images = node.input_value(0), [tuple(node.get_input_shape(0)[2:])]
        window, before = tuple(node.get_input_shape(1)[-len(images[0]) :]), source
        while before is not None and before.get_node().get_type_name() in ("Pad", "Multiply", "Divide", "Negative"):
            before = next((value for value in before.get_node().input_values() if not is_constant(value)), None)
            images += [] if before is None else [tuple(before.get_shape()[2:])]
        whole = any(size == length > 1 for image in images for size, length in zip(window, image, strict=False))
        if whole and _reach(source) is None and source.get_node().get_type_name() not in ("Parameter", "FakeQuantize"):
            node.input(0).replace_source_output(opset13.clamp(source, -MOST, MOST).output(0))
    model.validate_nodes_and_infer_types()


def _border_averages(model: Any) -> None:
    """Averages that count a border as ones that do not, times the share of each window that lies within the image: the
    plugin (2026.4) takes the border's zeros for integers, whatever their zero point, and fuses a Pad into it, one
    that the model has, too, but not across a Clamp, here to all."""
    from openvino import opset13

    for node in [node for node in model.get_ordered_ops() if node.get_type_name() == "AvgPool"]:
        given, average, reach = node.get_attributes(), node.output(0), _reach(node.input_value(0))
        if node.input_value(0).get_node().get_type_name() == "Pad":
            node.input(0).replace_source_output(opset13.clamp(node.input_value(0), -MOST, MOST).output(0))
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
        node.set_attribute("exclude-pad", True)
        _put_behind(average, lambda value, share=share: opset13.multiply(value, opset13.constant(share)))
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
        if node.get_type_name() != "Add" or not is_constant(node.input_value(1)):
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
        if not is_constant(source) and _reach(source) is None:
            node.input(0).replace_source_output(opset13.clamp(source, -MOST, MOST).output(0))
    model.validate_nodes_and_infer_types()


def _keep_from_pads(model: Any) -> None:
    """Keep the scales of integers from a border of another value than zero: the plugin (2026.4) makes that another one
    along a single axis as it moves them across, or crashes, and it moves none across a Clamp, here to all."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        if (
            node.get_type_name() != "Pad"
            or node.get_attributes()["pad_mode"] != "constant"
            or node.get_input_size() < 4
        ):
            continue
        value = node.input_value(3)
        if is_constant(value) and np.any(value.get_node().data) and node.get_input_element_type(0).is_real():
            node.input(0).replace_source_output(opset13.clamp(node.input_value(0), -MOST, MOST).output(0))
    model.validate_nodes_and_infer_types()


def _keep_extremes(model: Any) -> None:
    """Keep what is quantized apart from the maximum or minimum along axes before it, by another with the least number.

    The plugin (2026.4) makes one kernel of the two, which keeps real numbers as integers before it scales them.
    """
    from openvino import opset13

    least = np.float32(-MOST)
    for node in [node for node in model.get_ordered_ops() if node.get_type_name() in ("ReduceMax", "ReduceMin")]:
        if node.get_output_element_type(0).get_type_name() != "f32":
            continue
        _put_behind(node.output(0), lambda value: opset13.maximum(value, opset13.constant(least)))
    model.validate_nodes_and_infer_types()


def _put_behind(value: Any, made: Callable[[Any], Any]) -> None:
    """Let what is ``made`` of ``value`` be read in its place, under its names."""
    readers, names = list(value.get_target_inputs()), value.get_names()
    behind = made(value).output(0)
    value.set_names(set())
    behind.set_names(names)
    for reader in readers:
        reader.replace_source_output(behind)


def _round_parts(model: Any) -> None:
    """Keep the parts of a sum apart from it by a Clamp, where they have a step of more than 2 of the sum's.

    The plugin (2026.4) makes one kernel of a convolution and the sum that reads it, which does not round the part: by
    half of its step the sum is off, which is nothing in that of the sum elsewhere.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        parts = [value.get_source_output() for value in node.inputs()]
        reaches = [reach for part in parts if (reach := _reach(part)) is not None]
        if node.get_type_name() != "Add" or len(reaches) < 2 or (step := _step(node.output(0))) is None:
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
    if node.get_type_name() != "Multiply" or not is_constant(node.input_value(1)):
        return None
    scale, zero, whole = np.asarray(node.input_value(1).get_node().data), np.zeros(1), node.input_value(0).get_node()
    if whole.get_type_name() == "Subtract" and is_constant(whole.input_value(1)):
        zero, whole = np.asarray(whole.input_value(1).get_node().data, np.float64), whole.input_value(0).get_node()
    if whole.get_type_name() != "Convert" or whole.get_input_element_type(0).get_type_name() != "u8" or scale.size > 1:
        return None
    low, high = (float((end - zero.ravel()[0]) * scale.ravel()[0]) for end in (0, 255))
    return low, high


def is_constant(value: Any) -> bool:
    return value.get_node().get_type_name() == "Constant"
