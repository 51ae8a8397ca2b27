"""Which layers runtimes have integer kernels for, where they lack some that others have."""

from __future__ import annotations

from edgesdk.core.graph import CONV, WEIGHTED, Layer


def has_ncnn_kernel(layer: Layer) -> bool:
    """ncnn's int8 is of layers with weights alone; a convolution by groups has a scale per group, not per channel."""
    if layer.kind not in WEIGHTED:
        return False
    return layer.kind != CONV or layer.groups == 1 or layer.groups == layer.outputs


def has_tflite_kernel(layer: Layer) -> bool:
    """TFLite's int8 has no windows of three dimensions; these are made of sums of others, in real numbers."""
    return len(layer.kernel) < 3
