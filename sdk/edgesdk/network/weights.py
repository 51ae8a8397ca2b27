"""Weights between a user's module and the network that was traced from it, by their names.

Tracing keeps them, but for those of an attention's ``in_proj`` and those that no code can write
(:func:`edgesdk.network.modularize.modularize`).
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping

from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import listed
from edgesdk.network.modularize import RENAMED
from edgesdk.network.network import Network


def load_weights(network: Network, model: nn.Module) -> Network:
    """A copy of ``network``, traced from a module of this kind, with the weights of ``model``."""
    network = network.copy()
    names = set(network.module.state_dict())
    own = {_traced(name, network, names): value for name, value in model.state_dict().items()}
    network.module.load_state_dict({name: value for name, value in own.items() if name in names}, strict=False)
    return network


def filled(model: nn.Module, network: Network) -> nn.Module:
    """A copy of ``model`` with the weights of ``network``, traced from a module of this kind."""
    model, state = copy.deepcopy(model), network.module.state_dict()
    names = {name: _traced(name, network, state) for name in model.state_dict()}
    model.load_state_dict({name: state[other] for name, other in names.items() if other in state}, strict=False)
    return model


def check_returnable(network: Network, model: nn.Module) -> None:
    """Raise ``ModelError`` where weights of ``network`` have no place in ``model``, which computes them."""
    names = set(network.module.state_dict())
    expected = {_traced(name, network, names) for name in model.state_dict()}
    if lost := [name for name, _ in network.module.named_parameters() if name not in expected]:
        fact = f"what {listed(lost)} learns has no place in the model, which computes it from other weights"
        raise ModelError(fact, "remove its parametrizations first (torch.nn.utils.parametrize.remove_parametrizations)")


def _traced(name: str, network: Network, names: Container[str]) -> str:
    """What the module's parameter ``name`` is called in ``network``, which has ``names``."""
    name = network.module.meta.get(RENAMED, {}).get(name, name)
    other = name.replace("in_proj_", "in_proj.")
    return other if other in names else name


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
    tensors = {}
    for name, value in state.items():
        if value.data_ptr() not in seen or not value.numel():
            seen.add(value.data_ptr())
            tensors[name] = value.contiguous()
    return tensors
