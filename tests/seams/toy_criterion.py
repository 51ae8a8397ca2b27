"""A criterion in one file: channels are ranked by the size of the weights that make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgesdk.compress.criteria import Criterion
from edgesdk.network.network import Network
from edgesdk.techniques.importance import l1


def rank(network: Network, batches: Any, task: Any) -> dict[str, Tensor]:
    scores = {group.name: torch.zeros(group.size) for group in network.graph.groups if group.fixed is None}
    for layer in network.graph.layers:
        if layer.writes in scores and layer.weight_shape:
            weight = network.submodule(layer.name).weight
            assert isinstance(weight, Tensor)
            scores[layer.writes] += l1(weight.detach())
    return scores


ROW = Criterion("toy size", rank)
