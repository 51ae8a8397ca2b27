"""How the weight of a layer lies: output channels first, or, of a transposed convolution, input channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def output_axis(layer: nn.Module) -> int:
    """The axis of the weight of ``layer`` along which output channels lie, those of a group in a transposed one."""
    return 1 if isinstance(layer, TRANSPOSED) else 0


def output_count(layer: nn.Module) -> int:
    """How many output channels a layer with weights has."""
    weight: Any = layer.weight
    return weight.shape[1] * layer.groups if isinstance(layer, TRANSPOSED) else len(weight)


def by_output(layer: nn.Module, weight: Tensor) -> Tensor:
    """``weight``, as ``layer`` has its own, with a row for each output channel: (outputs, inputs of a group, *kernel).

    The kernel of a transposed convolution stays as it lies: that of the convolution which it turns round.
    """
    if not isinstance(layer, TRANSPOSED):
        return weight
    inputs, outputs, *kernel = weight.shape
    if layer.groups == 1:
        return weight.transpose(0, 1)
    groups = layer.groups
    return (
        weight.reshape(groups, inputs // groups, outputs, *kernel)
        .transpose(1, 2)
        .reshape(-1, inputs // groups, *kernel)
    )


def as_stored(layer: nn.Module, rows: Tensor) -> Tensor:
    """Rows of output channels, in any shape of as many numbers, as the weight of ``layer``: ``by_output`` back."""
    weight: Any = layer.weight
    if not isinstance(layer, TRANSPOSED):
        return rows.reshape(weight.shape)
    inputs, outputs, *kernel = weight.shape
    groups = layer.groups
    return rows.reshape(groups, outputs, inputs // groups, *kernel).transpose(1, 2).reshape(weight.shape)


def applied(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the convolution ``layer``, transposed or not, makes of ``x`` with that ``weight`` and ``bias``."""
    if not isinstance(layer, TRANSPOSED):
        return layer._conv_forward(x, weight, bias)
    return TRANSPOSE[len(layer.kernel_size)](
        x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    )
