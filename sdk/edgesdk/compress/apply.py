"""A plan applied to a network: branches left out, channels cut, layers in other forms."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from edgesdk.compress.forms import activation_call, factorized
from edgesdk.core.errors import BundleError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import Form, Option, Plan
from edgesdk.network.cutting import cut
from edgesdk.network.fuse import describe_layers
from edgesdk.network.heads import cut_heads
from edgesdk.network.kept import kept_channels
from edgesdk.network.modularize import is_relu
from edgesdk.network.network import Batch, Network, call_of


def compressed(
    network: Network, plan: Plan, x: Batch, scores: Mapping[str, Tensor]
) -> tuple[Network, dict[str, Option]]:
    """A float copy of ``network`` with the plan's branches, widths and forms, and the precision of each layer in it.

    The parts of a layer in another form are layers of their own, called after it. A ReLU in the place of another
    activation is part of the layer before it, where that has none. ``scores`` ranks each group's channels.
    Raises ``BundleError`` where the plan is for another network.
    """
    plan.check(network.graph)
    module = copy.deepcopy(network.module)
    graph = network.graph
    gone = {name: _others(graph, name, stay) for name, stay in channels_to_keep(graph, plan, scores).items()}
    if network.channels is not None:  # of the whole network: without a branch, channels would come to other places
        cut(module, x, network.channels, {n: places for n, places in gone.items() if not graph.group_by_name[n].heads})
    for branch in graph.branches:
        if branch.name in plan.dropped:
            _leave_out(module, network, branch.join, branch.keeps)
    module.recompile()
    for name, places in gone.items():
        group = graph.group_by_name[name]
        path = next((network.sites[layer].module for layer in group.layers if _present(module, network, layer)), None)
        if group.heads and path is not None:
            cut_heads(module, x, path, places)
    options: dict[str, Option] = {}
    for layer in plan.layers:
        if layer.name not in network.sites:
            continue
        path = network.sites[layer.name].module
        form = layer.option.form
        if form is not None and form.stored:  # what becomes of its weight is for last: see ``stored``
            options[layer.name] = layer.option
            continue
        options[layer.name] = replace(layer.option, form=None)
        if form is not None and path is None:
            _cheaper(module, network.sites[layer.name].output, form)
        elif form is not None and path is not None and _present(module, network, layer.name):
            parts = _split(module, path, form)
            options.update(dict.fromkeys(parts, options[layer.name]))
    module.recompile()
    small = describe_layers(module, x, network.structure)
    renamed = _renamed(network, small)
    return small, {name: options.get(renamed.get(name, name), Option()) for name in small.graph.by_name}


def channels_to_keep(graph: Graph, plan: Plan, scores: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Of each channel group of ``graph`` that the plan cuts, the channels that stay, in order.

    Raises ``BundleError`` where the plan cuts a unit of them in two.
    """
    for group in graph.groups:
        if plan.kept.get(group.name, 0) % group.step:
            fact = f"the plan keeps {plan.kept[group.name]} channels of {group.name}, which go {group.step} at a time"
            raise BundleError(fact, "search again for this model")
    return {
        group.name: kept_channels(scores[group.name], plan.kept[group.name], group.step, group.shares)
        for group in graph.groups
        if plan.kept.get(group.name, group.size) < group.size
    }


def _others(graph: Graph, group: str, stay: list[int]) -> list[int]:
    return sorted(set(range(graph.group_by_name[group].size)) - set(stay))


def _present(module: fx.GraphModule, network: Network, layer: str) -> bool:
    return any(n.target == network.sites[layer].module for n in module.graph.nodes if n.op == "call_module")


def _leave_out(module: fx.GraphModule, network: Network, join: str, keeps: str) -> None:
    nodes = {node.name: node for node in module.graph.nodes}
    last = nodes[network.sites[join].output]
    add = last
    while add.target is not torch.ops.aten.add.Tensor:
        add = add.all_input_nodes[0]
    # By its place among the addition's inputs: what was kept may itself be the join of a branch left out before.
    whole = next(node for node in network.module.graph.nodes if node.name == add.name)
    name = network.sites[keeps].output if keeps in network.sites else keeps
    kept = add.args[next(index for index, read in enumerate(whole.args) if getattr(read, "name", None) == name)]
    assert isinstance(kept, fx.Node)
    if add is not last and is_relu(last) and is_relu(kept):  # what is not negative already needs no second ReLU
        last.replace_all_uses_with(kept)
        module.graph.erase_node(last)
    add.replace_all_uses_with(kept)
    module.graph.erase_node(add)
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    module.delete_all_unused_submodules()


def _cheaper(module: fx.GraphModule, name: str, form: Form) -> None:
    """Replace the activation that makes ``name``, where it is there, by its cheaper form, or by what it reads."""
    node = next((node for node in module.graph.nodes if node.name == name), None)
    if node is None:
        return
    source = node.all_input_nodes[0]
    call = activation_call(form)
    if call is None:
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    else:
        node.target, arguments = call
        node.args, node.kwargs = (source, *arguments), {}


def _split(module: fx.GraphModule, path: str, form: Form) -> list[str]:
    """Replace the submodule ``path`` by its form, each part a node of its own; the parts' paths."""
    layer = module.get_submodule(path)
    parts = factorized(layer, form).eval()
    module.set_submodule(path, parts)
    node = call_of(module, path)
    names = [f"{path}.{index}" for index in range(len(parts))]
    with module.graph.inserting_before(node):
        value: Any = node.args[0]
        for name in names:
            value = module.graph.call_module(name, (value,))
    node.replace_all_uses_with(value)
    module.graph.erase_node(node)
    return names


def _renamed(network: Network, small: Network) -> dict[str, str]:
    """Layers of ``small`` without weights to those of ``network``: a fused ReLU that lost its addition stands alone."""
    by_output = {site.output: name for name, site in network.sites.items()}
    return {
        name: by_output[site.output]
        for name, site in small.sites.items()
        if site.output in by_output and not site.module
    }
