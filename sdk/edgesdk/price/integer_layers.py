"""Which layers runtimes have integer kernels for, where they lack some that others have."""

from __future__ import annotations

from edgesdk.core.graph import CONV, TRANSPOSED, WEIGHTED, Graph, Layer
from edgesdk.price.signs import find_never_negative


def has_onnxruntime_kernel(layer: Layer, graph: Graph) -> bool:
    """ONNX Runtime (1.32) computes a quantized ConvTranspose in float, between changes of precision: that is slower."""
    return layer.kind != TRANSPOSED


def has_openvino_kernel(layer: Layer, graph: Graph) -> bool:
    """OpenVINO (2026.4) has an integer deconvolution of what has a zero point of 0, and computes in float else."""
    return layer.kind != TRANSPOSED or find_never_negative(graph).issuperset(layer.inputs)


def has_tensorrt_kernel(layer: Layer, graph: Graph) -> bool:
    """No integer deconvolution of TensorRT was timed: whether it is faster is not known."""
    return layer.kind != TRANSPOSED


def has_ncnn_kernel(layer: Layer, graph: Graph) -> bool:
    """ncnn's int8 is of layers with weights alone, and not of transposed convolutions; a convolution by groups has a
    scale per group, not per channel."""
    if layer.kind not in WEIGHTED or layer.kind == TRANSPOSED:
        return False
    return layer.kind != CONV or layer.groups == 1 or layer.groups == layer.outputs


def has_tflite_kernel(layer: Layer, graph: Graph) -> bool:
    """TFLite's int8 has no windows of three dimensions; these are made of sums of others, in real numbers. Nor has it a
    transposed convolution with dilation."""
    return len(layer.kernel) < 3 and not (layer.kind == TRANSPOSED and max(layer.dilation) > 1)
