"""Whether what ncnn is given has the integers and steps that were specified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import FidelityError
from edgesdk.export.ncnn.file import Layer, read_layers
from edgesdk.export.ncnn.lowering import is_integer


def check(path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Raise ``FidelityError`` unless the integers and scales of the file at ``path`` are those of ``specs``."""
    check_layers(read_layers(path.read_text("utf-8"), path.with_suffix(".bin").read_bytes()), specs)


def check_layers(layers: Iterable[Layer], specs: Mapping[str, TensorSpec]) -> None:
    """Raise ``FidelityError`` unless the scales of ``layers`` are those of ``specs``.

    ncnn multiplies by what is nearest to one over a step, which is what is compared.
    """
    weights, tensors = dict[str, np.ndarray](), set[float]()
    for layer in layers:
        if is_integer(layer):
            weights[layer.name] = layer.arrays[2]
            tensors.update(float(array[0]) for array in layer.arrays[3:])
        elif layer.kind == "Quantize":
            tensors.add(float(layer.arrays[0][0]))
    for name, spec in specs.items():
        steps = (np.float32(1) / np.array(spec.scale, np.float32)).astype(np.float32)
        if spec.axis is None:
            found = float(steps[0]) in tensors and not any(spec.zero_point)
        else:
            stored = weights.get(name.removesuffix(".weight"))
            found = stored is not None and spec.bits == 8 and np.array_equal(stored, steps)
        if not found:
            raise FidelityError(f"{name} is not quantized in the file as specified", FidelityError.INSTEAD)
