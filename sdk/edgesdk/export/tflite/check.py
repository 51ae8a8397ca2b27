"""Whether a TFLite file holds exactly the integers that were specified."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import FidelityError
from edgesdk.export.tflite.lowering import Held
from edgesdk.export.tflite.writer import schema


def check(content: bytes, specs: Mapping[str, TensorSpec], computed: Collection[Held] = ()) -> None:
    """Raise ``FidelityError`` unless the file's integers, scales and zero points are exactly those of ``specs``.

    Those that are ``computed`` need no place in it: they were of constants, and made others.
    """
    file = schema()
    model = file.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    depthwise, widened = set(), {}
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        kind = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if kind == file.BuiltinOperator.DEQUANTIZE:
            widened[operator.Outputs(0)] = operator.Inputs(0)
        elif kind == file.BuiltinOperator.DEPTHWISE_CONV_2D:
            weight = operator.Inputs(1)
            depthwise.add(widened.get(weight, weight))
    width = {file.TensorType.INT4: 4, file.TensorType.INT8: 8}
    grids = set(computed)
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        grid = tensor.Quantization()
        if tensor.Type() not in width or grid is None or not grid.ScaleLength():
            continue
        scale = tuple(grid.ScaleAsNumpy().tolist())
        zero = tuple(grid.ZeroPointAsNumpy().tolist())
        grids.add((None, width[tensor.Type()], scale, zero))
        if grid.QuantizedDimension() == (tensor.ShapeLength() - 1 if i in depthwise else 0):
            grids.add((tensor.Name().decode(), width[tensor.Type()], scale, zero))
    for name, spec in specs.items():
        moved = 128 if spec.low >= 0 else 0
        zero = tuple(point - moved for point in spec.zero_point)
        if (name if spec.axis is not None else None, spec.bits, spec.scale, zero) not in grids:
            raise FidelityError(f"{name} is not quantized in the file as specified", FidelityError.INSTEAD)
