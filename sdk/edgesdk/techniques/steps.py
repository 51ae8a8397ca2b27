"""Learned step size quantization: a grid whose step is trained with the weights (LSQ; Esser et al. 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.errors import UsageError


class _Learned(torch.autograd.Function):
    """Values on the grid; the gradients of eq. 3 for the step and eq. 5 for the values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, least: Tensor, most: Tensor, share: float) -> Tensor:
        places = x.float() / scale
        grid = places.clamp(least, most).round()
        ctx.save_for_backward(places, grid, (places > least) & (places < most), scale)
        ctx.share = share
        return (grid * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):
        places, grid, inside, scale = ctx.saved_tensors
        slope = torch.where(inside, grid - places, grid)
        return gradient * inside, (gradient * slope).sum_to_size(scale.shape) * ctx.share, None, None, None


def learned_step(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, count: int) -> Tensor:
    """``x`` on the grid ``scale * (q - zero_point)``, q from ``low`` to ``high``, with a gradient for ``scale``.

    With v = x / scale, Q_N = zero_point - low and Q_P = high - zero_point, the gradient of the step (eq. 3) is
    ``round(v) - v`` inside, -Q_N and Q_P beyond the ends, times ``1 / sqrt(count * Q_P)`` (section 2.2), where
    ``count`` is how many values have that step: weights, or features of one sample. That of ``x`` is 1 inside and 0
    beyond. ``scale`` and ``zero_point`` broadcast against ``x``. Raises ``UsageError`` for an empty grid or count.
    """
    if low >= high or count < 1:
        raise UsageError(f"a grid from {low} to {high} with {count} values is empty", "give low < high and a count")
    least, most = low - zero_point.to(torch.float32), high - zero_point.to(torch.float32)
    share = 1 / math.sqrt(count * max(1.0, float(most.max())))
    return _Learned.apply(x, scale, least, most, share)
