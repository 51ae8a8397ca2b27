"""What a runtime lacks or computes otherwise, said in ONNX by operators that all of them have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WHOLE = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)


def rewrite(model: ModelProto) -> None:
    """Say so all that ``model`` has of it."""
    _pool_means(model)
    _spell_out_ceilings(model)
    _spell_out_cuts(model)
    _spell_out_vectors(model)
    _spell_out_wraps(model)
    _rectify_whole_numbers(model)


def _pool_means(model: ModelProto) -> None:
    """Means over an image as GlobalAveragePool: ONNX Runtime has an integer kernel for it, and none for ReduceMean."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and node.input[1] in arrays:
            keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
            if keeps and sorted(numpy_helper.to_array(arrays[node.input[1]]).tolist()) in ([-2, -1], [2, 3]):
                node.op_type = "GlobalAveragePool"
                del node.input[1:], node.attribute[:]


def _spell_out_ceilings(model: ModelProto) -> None:
    """Averages over windows that reach past the end with that much border, which is not counted.

    ONNX Runtime's integer kernel divides their sums by all of the window. Where a border of zeros is counted already,
    it is put around before.
    """
    sizes = _shapes(model)
    for node in [node for node in model.graph.node if node.op_type == "AveragePool"]:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        x, y = sizes.get(node.input[0]), sizes.get(node.output[0])
        if not given.get("ceil_mode") or not x or not y:
            continue
        kernel = given["kernel_shape"]
        axes, strides = len(kernel), given.get("strides", [1] * len(kernel))
        pads = given.get("pads", [0] * 2 * axes)
        if given.get("count_include_pad") and any(pads):
            x = [*x[:2], *(sum(sides) for sides in zip(x[2:], pads[:axes], pads[axes:], strict=True))]
            _pad_before(model, node, pads, x)
            pads = [0] * 2 * axes
        lengths = zip(x[2:], y[2:], kernel, strides, pads, strict=False)
        ends = [max(0, (count - 1) * step + size - before - length) for length, count, size, step, before in lengths]
        del node.attribute[:]
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": [*pads[:axes], *ends]}
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _pad_before(model: ModelProto, node: NodeProto, pads: Sequence[int], sizes: Sequence[int]) -> None:
    """Let ``node`` read its input with ``pads`` zeros around the image, which makes that of ``sizes``."""
    source, axes = f"{node.output[0]}.padded", len(pads) // 2
    around = np.array([0, 0, *pads[:axes], 0, 0, *pads[axes:]])
    model.graph.initializer.append(numpy_helper.from_array(around, f"{source}.pads"))
    border = helper.make_node("Pad", [node.input[0], f"{source}.pads"], [source], f"{node.name}.pad")
    model.graph.node.insert(list(model.graph.node).index(node), border)
    _tell(model, source, sizes)
    node.input[0] = source


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """The sizes of every tensor of ``model`` that are known."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}


def _rectify_whole_numbers(model: ModelProto) -> None:
    """ReLU of whole numbers as the greater of them and zero: ONNX Runtime has no such kernel."""
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    for node in (node for node in model.graph.node if node.op_type == "Relu"):
        kind = types.get(node.input[0], TensorProto.UNDEFINED)
        if kind in WHOLE:
            zero = np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
            model.graph.initializer.append(numpy_helper.from_array(zero, f"{node.output[0]}.zero"))
            node.op_type = "Max"
            node.input.append(f"{node.output[0]}.zero")


def _spell_out_cuts(model: ModelProto) -> None:
    """Borders of a negative width as what they are, a part of what is given: TFLite and ncnn have no such Pad."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    for node in [node for node in model.graph.node if node.op_type == "Pad" and len(node.input) < 4]:
        sizes = shapes.get(node.input[0])
        if node.input[1] not in arrays or not sizes:
            continue
        borders = numpy_helper.to_array(arrays[node.input[1]])
        if (borders >= 0).all():
            continue
        source, cut = f"{node.output[0]}.cut", np.maximum(-borders, 0).reshape(2, -1)
        constants = {"starts": cut[0], "ends": np.array(sizes) - cut[1], "axes": np.arange(len(sizes))}
        names = [f"{source}.{name}" for name in constants]
        for name, value in zip(names, constants.values(), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
        model.graph.initializer.append(numpy_helper.from_array(np.maximum(borders, 0), f"{source}.pads"))
        part = helper.make_node("Slice", [node.input[0], *names], [source], f"{node.name}.cut")
        model.graph.node.insert(list(model.graph.node).index(node), part)
        _tell(model, source, (np.array(sizes) - cut.sum(0)).tolist())
        node.input[0], node.input[1] = source, f"{source}.pads"


def _spell_out_vectors(model: ModelProto) -> None:
    """Products with a vector as those with a matrix of one column or row: TFLite and ncnn multiply by no vector."""
    shapes = _shapes(model) | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "MatMul"]:
        sizes, made = [shapes.get(name, []) for name in node.input], node.output[0]
        alone = [len(dims) == 1 for dims in sizes]
        if not any(alone) or not all(sizes) or made not in shapes:
            continue
        at = list(model.graph.node).index(node)
        before = []
        for place, axis in ((0, 0), (1, 1)):
            if alone[place]:
                wide = f"{made}.{place}"
                model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"{wide}.axis"))
                name = f"{node.name}.{place}"
                before.append(helper.make_node("Unsqueeze", [node.input[place], f"{wide}.axis"], [wide], name))
                _tell(model, wide, [1, *sizes[place]] if axis == 0 else [*sizes[place], 1])
                node.input[place] = wide
        axes = [axis for axis, vector in ((-2, alone[0]), (-1, alone[1])) if vector]
        whole = [*shapes[made], *[1] * len(axes)] if alone[1] else [*shapes[made][:-1], 1, *shapes[made][-1:]]
        _tell(model, f"{made}.whole", whole)
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes), f"{made}.axes"))
        node.output[0] = f"{made}.whole"
        after = helper.make_node("Squeeze", [f"{made}.whole", f"{made}.axes"], [made], f"{node.name}.vector")
        model.graph.node.insert(at + 1, after)
        for each in reversed(before):
            model.graph.node.insert(at, each)


def _tell(model: ModelProto, name: str, sizes: Sequence[int]) -> None:
    """Say that the tensor of that ``name`` has those ``sizes``."""
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))


def _spell_out_wraps(model: ModelProto) -> None:
    """Circular borders as rows that are picked, axis by axis: OpenVINO knows no such Pad."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    for node in list(model.graph.node):
        wraps = node.op_type == "Pad" and any(a.name == "mode" and a.s == b"wrap" for a in node.attribute)
        if not wraps or node.input[1] not in arrays or len(node.input) > 3 or not shapes.get(node.input[0]):
            continue
        sizes = shapes[node.input[0]]
        borders = numpy_helper.to_array(arrays[node.input[1]]).reshape(2, -1).T
        changed = [axis for axis in range(len(sizes)) if borders[axis].any()]
        at, source = list(model.graph.node).index(node), node.input[0]
        model.graph.node.remove(node)
        for place, axis in enumerate(changed):
            target = node.output[0] if axis == changed[-1] else f"{node.output[0]}.{axis}"
            index = np.arange(-borders[axis, 0], sizes[axis] + borders[axis, 1]) % sizes[axis]
            model.graph.initializer.append(numpy_helper.from_array(index, f"{node.output[0]}.{axis}.rows"))
            picked = helper.make_node(
                "Gather", [source, f"{node.output[0]}.{axis}.rows"], [target], f"{node.name}.{axis}", axis=axis
            )
            model.graph.node.insert(at + place, picked)
            source = target
