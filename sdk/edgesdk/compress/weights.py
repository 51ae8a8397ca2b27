"""Weights between a user's module and the network that was traced from it, by their names, which tracing keeps."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from edgesdk.compress.network import Network


def poured(network: Network, model: nn.Module) -> Network:
    """A copy of ``network``, traced from a module of this kind, with the weights of ``model``."""
    network, state = network.copy(), model.state_dict()
    own = {name: state[name] for name in network.module.state_dict() if name in state}
    network.module.load_state_dict(own, strict=False)
    return network


def filled(model: nn.Module, network: Network) -> nn.Module:
    """A copy of ``model`` with the weights of ``network``, traced from a module of this kind."""
    model, state = copy.deepcopy(model), network.module.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict() if name in state}, strict=False)
    return model


def anew(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with random weights wherever a module can draw them."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return model


def distinct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with a tensor that has several names under its first alone, as safetensors wants it."""
    seen: set[int] = set()
    found = {}
    for name, value in state.items():
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            found[name] = value.contiguous()
    return found
