"""Channels that a layer computes for some inputs and not for others: Feature Boosting and Suppression.

Gao, Zhao, Dudziak, Mullins and Xu 2019, "Dynamic Channel Pruning: Feature Boosting and Suppression" (ICLR).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError

LEAST_SCALE = 1e-4  # of a BatchNorm channel that begins as a saliency


def strongest(saliency: Tensor, count: int) -> Tensor:
    """``saliency``, (N, channels), with all but the ``count`` largest of each sample set to zero: winner takes all.

    What stays keeps its gradient. Raises ``UsageError`` unless there are 1 to all channels to keep.
    """
    if saliency.dim() != 2 or not 1 <= count <= saliency.shape[1]:
        fact = f"{count} channels of saliencies of shape {tuple(saliency.shape)} cannot be kept"
        raise UsageError(fact, "give (samples, channels), and 1 to all channels")
    kept = saliency.topk(count, 1).indices
    return saliency * torch.zeros_like(saliency).scatter(1, kept, 1.0)


class Gated(nn.Module):
    """A convolution and its BatchNorm, of whose channels ``count`` are computed for an input.

    ``f(x) = pi(x) * (norm(conv(x)) + beta)`` with ``pi = wta(g(x))`` and ``g(x) = relu(ss(x) phi + rho)``, where
    ``ss(x)`` is the mean size of each input channel. The saliencies ``g`` take the place of the BatchNorm's scales:
    they begin there, whatever the input, so that with all channels the layer is at first what it was. The activation
    comes after it. :attr:`price` is what training adds to its loss.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, count: int) -> None:
        super().__init__()
        if not 1 <= count <= conv.out_channels:
            raise UsageError(f"{count} of {conv.out_channels} channels cannot be kept", "give 1 to all of them")
        if norm.num_features != conv.out_channels or not norm.affine:
            raise UsageError("the BatchNorm has no scale for each channel of the convolution", "give the one behind it")
        self.conv, self.norm, self.count = conv, norm, count
        self.saliency = nn.Linear(conv.in_channels, conv.out_channels)
        self.price = torch.zeros(())
        with torch.no_grad():
            scale = norm.weight.abs().clamp(min=LEAST_SCALE)
            norm.weight.div_(scale)
            norm.bias.div_(scale)
            self.saliency.weight.zero_()
            self.saliency.bias.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is (N, inputs, H, W); the result (N, channels, H', W')."""
        saliency = torch.relu(self.saliency(x.abs().mean((2, 3))))
        if self.training:
            self.price = saliency.sum(1).mean()
        gates = saliency if self.count == self.conv.out_channels else strongest(saliency, self.count)
        return gates[:, :, None, None] * self.norm(self.conv(x))


def price(model: nn.Module, weight: float = 1e-8) -> Tensor:
    """What the saliencies of the last batch add to the loss: ``weight`` times their sum, as in the paper.

    Raises ``UsageError`` where ``model`` has no gated layer.
    """
    prices = [part.price for part in model.modules() if isinstance(part, Gated)]
    if not prices:
        raise UsageError("the model has no gated layer", "make one with Gated")
    return weight * torch.stack(prices).sum()


def kept(channels: int, density: float) -> int:
    """How many of ``channels`` a ``density`` above 0 and up to 1 leaves. Raises ``UsageError`` beyond that."""
    if not 0 < density <= 1:
        raise UsageError(f"a density of {density:g} is not above 0 and at most 1", "give for example 0.5")
    return math.ceil(density * channels)
