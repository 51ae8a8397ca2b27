"""A stored form in one file: each weight as the nearest of a few values, evenly apart over those that there are."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from edgesdk.core.stored import StoredForm, coded_bytes
from edgesdk.techniques.codebooks import Coded, nearest

METHOD = "toy-even"


def pack(weight: Tensor, count: int) -> Coded:
    return nearest(weight, torch.linspace(float(weight.min()), float(weight.max()), count))


ROW = StoredForm(METHOD, ((4,), (8,)), lambda sizes, shape: coded_bytes(prod(shape), sizes[0]), 1.8, pack)
