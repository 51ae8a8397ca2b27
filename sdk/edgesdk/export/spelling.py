"""Operators of an ONNX model in other words: those that a runtime lacks, or computes otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto

Held = Mapping[str, TensorProto]
Shapes = Mapping[str, Sequence[int]]
Put = Callable[[ModelProto], None]
"""What adds to a model the nodes that stand for one."""


def spell(model: ModelProto, find: Callable[[NodeProto, Held, Shapes], Put | None]) -> ModelProto:
    """``model`` with other nodes in the place of each that ``find`` has such for; itself where there is none.

    ``find`` is given what the file holds, by name, and the shapes of tensors as far as they are known, 0 for a length
    that is not fixed.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    found = [find(node, held, shapes) for node in model.graph.node]
    if not any(found):
        return model
    spelled = ModelProto()
    spelled.CopyFrom(model)
    del spelled.graph.node[:]
    for node, put in zip(model.graph.node, found, strict=True):
        if put is None:
            spelled.graph.node.append(node)
        else:
            put(spelled)
    return spelled
