"""A form of a layer in one file: a convolution that sees single pixels, each weight the mean of its window's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgesdk.core.graph import CONV, Layer
from edgesdk.core.plan import Form
from edgesdk.price.forms import FormKind
from edgesdk.price.operator import Operator

METHOD = "toy-pixel"


def candidates(layer: Layer) -> list[Form]:
    same = layer.kind == CONV and all(2 * p == k - 1 for k, p in zip(layer.kernel, layer.padding, strict=True))
    return [Form(METHOD)] if same and max(layer.kernel) > 1 else []


def parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    ones = (1,) * len(whole.kernel)
    return (replace(whole, kernel=ones, padding=(0,) * len(ones), dilation=ones),)


def make(layer: nn.Module, form: Form) -> nn.Sequential | None:
    if not isinstance(layer, nn.Conv2d):
        return None
    rows, columns = layer.stride
    small = nn.Conv2d(layer.in_channels, layer.out_channels, 1, (rows, columns), groups=layer.groups)
    with torch.no_grad():
        small.weight.copy_(layer.weight.mean((2, 3), keepdim=True))
        small.bias.zero_() if layer.bias is None else small.bias.copy_(layer.bias)  # type: ignore[union-attr]
    return nn.Sequential(small)


KIND = FormKind(METHOD, candidates, parts, make)
