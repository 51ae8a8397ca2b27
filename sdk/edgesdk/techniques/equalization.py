"""Cross-layer equalization: channels of neighbouring layers scaled to equal ranges, the function left as it is.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1. For a function
f between two layers with f(s x) = s f(x) for s > 0, such as ReLU, a channel may be divided by s behind the first layer
and multiplied by s before the second (eq. 5 to 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError

ROUNDS = 20  # over all pairs; chains of three layers settle in fewer
SETTLED = 1e-3  # relative change of a scale, from which on nothing moves


def output_ranges(layer: nn.Module) -> Tensor:
    """The largest magnitude of each output channel's weights, (n,), for a convolution or linear layer.

    Raises ``UsageError`` for another layer.
    """
    return _weight(layer).abs().flatten(1).amax(1)


def input_ranges(layer: nn.Module, channels: int) -> Tensor:
    """The largest magnitude of the weights that read each of ``channels`` input channels, (channels,).

    Of a grouped convolution those of the channel's own group; a linear layer behind a flattened image has several
    columns in a row for each. Raises ``UsageError`` where the channels do not fit the layer.
    """
    return _by_input(layer, channels).abs().amax((1, 3)).flatten()


def scales(first: nn.Module, second: nn.Module) -> Tensor:
    """s of eq. 11, (n,): ``sqrt(r1 r2) / r2``, which makes both ranges ``sqrt(r1 r2)``; 1 where a range is zero.

    Raises ``UsageError`` where what ``first`` makes is not what ``second`` reads.
    """
    own = output_ranges(first)
    other = input_ranges(second, len(own))
    scale = torch.sqrt(own * other) / other
    return torch.where((own > 0) & (other > 0) & scale.isfinite() & (scale > 0), scale, torch.ones_like(scale))


@torch.no_grad()
def equalize(first: nn.Module, second: nn.Module) -> Tensor:
    """Scale a pair in place: W1 / s, b1 / s and s W2 (eq. 8 to 12). The scales s, (n,), that were applied.

    What lies between must be positively homogeneous for each channel: nothing, ReLU, leaky ReLU, pooling, flattening;
    not ReLU6. Raises ``UsageError`` as :func:`scales` does.
    """
    scale = scales(first, second)
    weight = _weight(first)
    weight /= scale.reshape(-1, *[1] * (weight.dim() - 1))
    if isinstance(first.bias, Tensor):
        first.bias /= scale
    other = _by_input(second, len(scale))
    changed = other * scale.reshape(len(other), 1, -1, 1)
    _weight(second).copy_(changed.reshape(_weight(second).shape))
    return scale


def equalize_all(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> int:
    """Equalize ``pairs`` in turns until nothing moves, as layers may be in two pairs. The rounds that it took.

    Raises ``UsageError`` as :func:`equalize` does.
    """
    for done in range(ROUNDS):
        moved = [float((equalize(first, second) - 1).abs().max()) for first, second in pairs]
        if max(moved, default=0.0) < SETTLED:
            return done
    return ROUNDS


def _weight(layer: nn.Module) -> Tensor:
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kind = type(layer).__name__
        raise UsageError(f"{kind} has no channels to equalize", "give a convolution or a linear layer")
    return layer.weight.data


def _by_input(layer: nn.Module, channels: int) -> Tensor:
    """The weight as (groups, outputs of a group, inputs of a group, rest)."""
    weight = _weight(layer)
    linear = isinstance(layer, nn.Linear)
    read: int = layer.in_features if linear else layer.in_channels  # type: ignore[assignment]
    if channels < 1 or (read % channels if linear else read != channels):
        raise UsageError(f"the first layer makes {channels} channels, the second reads {read}", "give layers in a row")
    groups: int = 1 if linear else layer.groups  # type: ignore[assignment]
    return weight.reshape(groups, len(weight) // groups, channels // groups, -1)
