"""A random channel cut of a case, and the user's own module computing as if those channels were not there.

Nothing that the module has is cut: of each layer that reads channels which are gone, the weights that they are
multiplied with become zeros, and norms over channels are of those that are left. So it answers what a file of the cut
network must answer, and nothing in it was cut, fused or exported. Which of its numbers those weights are is told by
their names or, where a layer is made of a parameter, by their values.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.core.budget import PREDICTED, Cost
from edgesdk.core.graph import Group
from edgesdk.core.plan import NOT_SEARCHED, LayerPlan, Option, Plan, Proof
from edgesdk.network.kept import random_scores
from edgesdk.network.network import Batch, Network, call_of
from edgesdk.network.recurrent import RECURRENT
from edgesdk.network.walk import scaled_by, weights_of
from edgesdk.price.operators import widths

SEED = 5
Gone = Mapping[str, list[int]]  # of each group the places of the channels that are cut


def cut_plan(network: Network) -> Plan:
    """Every group that :func:`judged` names at about half of its width."""
    kept = {
        group.name: min(widths(group.size, group.step)[:-1], key=lambda n, half=group.size / 2: abs(n - half))
        for group in judged(network)
    }
    layers = tuple(LayerPlan(layer.name, Option(), 0.0, "") for layer in network.graph.layers)
    nothing, unsearched = Cost(1.0, 1.0, 1.0, PREDICTED), Proof(0.0, 0.0, 0.0, 0.0, NOT_SEARCHED)
    return Plan(network.graph.digest, "x86", "onnxruntime", 1, kept, layers, (), nothing, unsearched)


def judged(network: Network) -> list[Group]:
    """The groups that can be cut, but for those with a mean or a maximum over their channels in the module's code:
    zeros in weights do not leave a channel out of one."""
    groups = [group for group in network.graph.groups if group.fixed is None and widths(group.size, group.step)[:-1]]
    mixed = {number for node in _mixing(network) for number in network.channels.read[node.name][1].flatten().tolist()}  # type: ignore[union-attr]
    return [group for group in groups if group.heads or not mixed & set(_numbers(network, group.name).tolist())]


def cut(network: Network, x: Batch) -> tuple[Network, Gone]:
    """``network`` cut as a deployment cuts it, nothing fitted; and what is gone."""
    plan = cut_plan(network)
    scores = {group.name: random_scores(group.size, SEED) for group in network.graph.groups}
    stay = channels_to_keep(network.graph, plan, scores)
    sizes = {group.name: group.size for group in network.graph.groups}
    gone = {name: sorted(set(range(sizes[name])) - set(places)) for name, places in stay.items()}
    return compressed(network, plan, x, scores)[0], gone


def without(model: nn.Module, network: Network, gone: Gone) -> nn.Module:
    """The user's ``model``, of which ``network`` was traced, without the channels that are ``gone``; it is changed."""
    model = _folded(model)
    masks = _columns(network, gone)
    found = [_own(model, name, operator.attrgetter(name)(network.module), mask) for name, mask in masks]
    with torch.no_grad():  # when all are found: a layer may be called several times
        for parameter, places in (each for own in found for each in own):
            parameter.view(-1)[places] = 0
    for path, left in _norms(network, gone):
        model.set_submodule(path, _Left(model.get_submodule(path), left))
    return model


def _numbers(network: Network, group: str) -> Tensor:
    assert network.channels is not None
    return network.channels.groups[group]


def _left(network: Network, gone: Gone) -> Tensor:
    assert network.channels is not None
    return network.channels.stay({name: places for name, places in gone.items() if name in network.channels.groups})


def _columns(network: Network, gone: Gone) -> Iterator[tuple[str, Tensor]]:
    """The weights that read something of what is gone, by name, each with a mask of the entries that do."""
    assert network.channels is not None
    left, parts = _left(network, gone), network.channels.parts
    for node in network.module.graph.nodes:
        weights = weights_of(network.module, node)
        if weights is not None and weights.reads is not None and weights.inputs in parts.get(weights.weight, {}):
            lost = ~left[parts[weights.weight][weights.inputs].long()]
            yield weights.weight, _spread(operator.attrgetter(weights.weight)(network.module), weights, lost)
        elif node.target in RECURRENT:
            names = [str(source.target) for source in node.all_input_nodes]
            for name in (name for name in names if 1 in parts.get(name, {})):
                weight = network.module.get_parameter(name)
                yield name, (~left[parts[name][1].long()]).expand(*weight.shape)
    for layer in network.graph.layers:
        path, group = network.sites[layer.name].module, layer.reads
        if path is not None and group is not None and group in gone and network.graph.group_by_name[group].heads:
            weights = weights_of(network.module, call_of(network.module, path))
            assert weights is not None
            weight = network.module.get_parameter(weights.weight)
            lost = torch.zeros(weight.shape[1], dtype=torch.bool)
            lost[gone[group]] = True
            yield weights.weight, lost.expand(*weight.shape)


def _spread(weight: Tensor, weights: Any, lost: Tensor) -> Tensor:
    """The mask of ``weight`` whose input channels are ``lost``: of one by groups each row has those of its group."""
    rest = [1] * (weight.dim() - 2)
    if weights.inputs == 0:
        return lost.reshape(-1, 1, *rest).expand(*weight.shape)
    by_row = lost.reshape(weights.groups, -1).repeat_interleave(len(weight) // weights.groups, 0)
    return by_row.reshape(*weight.shape[:2], *rest).expand(*weight.shape)


def _own(model: nn.Module, name: str, weight: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The user's parameters that have the entries of ``weight`` under ``mask``, and their places in each."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if name in own and own[name].shape == weight.shape:
        return [(own[name], torch.nonzero(mask.flatten()).flatten())]
    if not mask.any():
        return []
    tensors = [tensor for tensor in own.values() if tensor.is_floating_point()]
    values = np.concatenate([tensor.detach().flatten().numpy().astype(np.float64) for tensor in tensors])
    order = values.argsort(kind="stable")
    wanted = weight.detach()[mask].numpy().astype(np.float64)
    first, last = (np.searchsorted(values, wanted, side, sorter=order) for side in ("left", "right"))
    once = last - first == 1
    assert bool((last > first).all()) and once.mean() > 0.9, f"the values of {name} are not all the user's"
    # Two numbers may be equal by chance: of these that which is where the others beside it lead to.
    places = np.column_stack([np.argwhere(mask.numpy()), np.ones(len(wanted))])
    led = places @ np.linalg.lstsq(places[once], order[first[once]], rcond=None)[0]
    ranges = zip(first, last, led, strict=True)
    chosen = np.array([min(order[start:end], key=lambda at, to=to: abs(at - to)) for start, end, to in ranges])
    found, start = [], 0
    for tensor in tensors:
        inside = chosen[(start <= chosen) & (chosen < start + tensor.numel())] - start
        start += tensor.numel()
        found.append((tensor, torch.from_numpy(inside)))
    return found


def _folded(model: nn.Module) -> nn.Module:
    """``model`` with the weights that are computed of others as parameters of their own."""
    for part in list(model.modules()):
        for name in list(getattr(part, "parametrizations", ())):
            parametrize.remove_parametrizations(part, name)
        if prune.is_pruned(part) and not list(part.children()):
            prune.remove(part, "weight")
        for hook in list(part._forward_pre_hooks.values()):
            remove = {"WeightNorm": nn.utils.remove_weight_norm, "SpectralNorm": nn.utils.remove_spectral_norm}
            remove.get(type(hook).__name__, lambda _: None)(part)
    return model


def _mixing(network: Network) -> Iterator[fx.Node]:
    """The nodes that mix channels otherwise than by a weight, or as a norm that is a module of the user's."""
    for node in network.module.graph.nodes:
        if network.channels is None or node.name not in network.channels.read or node.target in RECURRENT:
            continue
        if weights_of(network.module, node) is None and _norm(network, node) is None:
            yield node


def _norm(network: Network, node: fx.Node) -> str | None:
    """Where the user's module has the norm that ``node`` is: told by its weight."""
    scaled = scaled_by(network.module, node)
    if scaled is None or not scaled[1]:
        return None
    return scaled[1][0].rpartition(".")[0] or None


def _norms(network: Network, gone: Gone) -> Iterator[tuple[str, Tensor]]:
    """The user's norms over channels some of which are gone, and which are left."""
    assert network.channels is not None
    left = _left(network, gone)
    for node in network.module.graph.nodes:
        if node.name in network.channels.read and weights_of(network.module, node) is None:
            path, stay = _norm(network, node), left[network.channels.read[node.name][1].long()]
            if path is not None and not bool(stay.all()):
                yield path, stay


class _Left(nn.Module):
    """A LayerNorm, RMSNorm or GroupNorm of those channels alone that are ``left``; zeros for the others."""

    def __init__(self, norm: nn.Module, left: Tensor) -> None:
        super().__init__()
        self.norm: Any = norm
        self.left = left

    def forward(self, x: Tensor) -> Tensor:
        norm, by_group = self.norm, isinstance(self.norm, nn.GroupNorm)
        x = x if by_group else x.movedim(-1, 1)
        dims = tuple(range(1, x.dim())) if by_group else (1,)
        eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
        made = torch.zeros_like(x)
        for places in torch.arange(x.shape[1]).chunk(norm.num_groups if by_group else 1):
            places = places[self.left[places]]
            if len(places):
                some = x[:, places]
                some = some if isinstance(norm, nn.RMSNorm) else some - some.mean(dims, True)
                made[:, places] = some / (some.square().mean(dims, True) + eps).sqrt()
        scale, offset = norm.weight, getattr(norm, "bias", None)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        made = made if scale is None else made * (scale * self.left).reshape(shape)
        made = made if offset is None else made + (offset * self.left).reshape(shape)
        return made if by_group else made.movedim(1, -1)
