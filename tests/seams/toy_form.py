"""A form of a layer in one file: a linear layer that answers along one direction alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgesdk.core.graph import LINEAR, Layer
from edgesdk.core.plan import Form
from edgesdk.price.forms import FormKind
from edgesdk.price.operator import Operator


def candidates(layer: Layer) -> list[Form]:
    return [Form("toy-direction")] if layer.kind == LINEAR and min(layer.weight_shape) > 1 else []


def parts(whole: Operator, form: Form) -> tuple[Operator, ...]:
    return replace(whole, activation=None, outputs=1), replace(whole, inputs=1, entry=False)


def make(layer: nn.Module, form: Form) -> nn.Sequential | None:
    if not isinstance(layer, nn.Linear):
        return None
    u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    first, last = nn.Linear(layer.in_features, 1, bias=False), nn.Linear(1, layer.out_features, bias=True)
    with torch.no_grad():
        first.weight.copy_(v[:1])
        last.weight.copy_(u[:, :1] * s[0])
        last.bias.zero_() if layer.bias is None else last.bias.copy_(layer.bias)
    return nn.Sequential(first, last)


KIND = FormKind("toy-direction", candidates, parts, make, fits=lambda form, reads, writes: min(reads, writes) > 1)
