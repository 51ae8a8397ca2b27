"""Weights go from a module to its network and back, whatever tracing calls them."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.network.trace import trace
from edgesdk.network.weights import check_returnable, filled, load_weights


class Attention(nn.Module):
    """Tokens (N, 5, 16) through ``nn.MultiheadAttention``, whose ``in_proj_weight`` tracing makes a linear layer of."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(x, x, x, need_weights=False)[0].mean(1))


class Words(nn.Module):
    """Layers called as Python's own words, and as what these are changed to."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.ModuleDict({name: nn.Linear(16, 16) for name in ("in", "in_", "graph")})

    def forward(self, x: Tensor) -> Tensor:
        return self.meta["graph"](self.meta["in_"](self.meta["in"](x).relu()).relu()).mean(1)


@pytest.mark.parametrize(("kind", "shape"), [(Attention, (5, 16)), (models.Residual, (3, 16, 16)), (Words, (5, 16))])
@torch.no_grad()
def test_what_a_network_learnt_is_in_the_module_and_the_other_way_round(kind, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, *shape)
    network = trace(model, x)
    learnt, taught = network.copy(), copy.deepcopy(model)
    for part in (learnt.module, taught):
        for parameter in part.parameters():
            parameter.mul_(1.3)
    assert float((learnt.flat(x)[0] - network.flat(x)[0]).abs().max()) > 1e-2
    torch.testing.assert_close(filled(model, learnt)(x), learnt.flat(x)[0])
    torch.testing.assert_close(load_weights(network, taught).flat(x)[0], taught(x))


def test_what_a_model_computes_from_other_weights_cannot_be_given_back() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    model, x = nn.Sequential(layer, nn.Linear(4, 2)), torch.randn(4, 6)
    with pytest.raises(ModelError, match=r"what 0.weight learns has no place in the model"):
        check_returnable(trace(model, x), model)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    check_returnable(trace(model, x), model)
