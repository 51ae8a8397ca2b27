"""From a PyTorch model to a ``Network``: its layers as a runtime fuses them, its channel groups, its branches."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from edgesdk.compress.heads import Attention, attentions, cut_heads, mask_heads
from edgesdk.compress.layers import CONVOLUTIONS, NORMS, described, outputs, run
from edgesdk.compress.modularize import aten, exported, modularize
from edgesdk.compress.network import Batch, Network, Site, rebatch, tensors
from edgesdk.graph import ADD, CONV, LINEAR, Branch, Graph, Group, Layer

RECURRENT = (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def trace(model: nn.Module, x: Batch) -> Network:
    """The network that ``model`` is, as seen on the example batch ``x``.

    ``model`` is not changed. Raises ``ModelError`` where ``torch.export`` cannot follow it.
    """
    x = rebatch(x, lambda t: torch.cat([t[:1], t[:1]]))
    program = exported(model, x)
    module = modularize(program)
    network = described(module, x, program.call_spec.out_spec)
    graph = _grouped(network.graph, dict(network.sites), module, x, run(module, x))
    graph = Graph(graph.inputs, graph.layers, graph.outputs, graph.groups, tuple(_branches(graph)))
    return replace(network, graph=graph)


def _grouped(graph: Graph, sites: dict[str, Site], module: fx.GraphModule, x: Batch, values: dict[str, Any]) -> Graph:
    """``graph`` with the channels that must be cut together, as Torch-Pruning's dependency graph finds them.

    The heads of an attention are groups, too, in place of what is found of the layers that make its queries, keys and
    values. Each group is cut on trial, and the network run: a tensor belongs to the group with which its size changes,
    and a group with which the network no longer runs is fixed, with the reason.
    """
    layer_of = {site.module: name for name, site in sites.items() if site.module}
    heads, together = attentions(module, values)
    found = [_heads(graph, layer_of, module, x, values, attention) for attention in heads]
    headed = {name for group, _ in found for name in group.layers}
    for members, size, known in _dependencies(module, x):
        writers = [layer_of[path] for path, out in members if out and path in layer_of]
        writers = [name for name in writers if name not in headed]
        if not writers:
            continue
        order = [layer.name for layer in graph.layers if layer.name in writers]
        fixed, changed = known, set()
        if fixed is None and size < 2:
            fixed = "it has a single channel"
        if fixed is None:
            fixed, changed = _trial(module, x, values, members, size)
            if fixed is not None:
                fixed = next((together[path] for path, out in members if out and path in together), fixed)
        if fixed is None and (held := [graph.by_name[n].fixed for n in order if graph.by_name[n].fixed]):
            fixed, changed = str(held[0]), set()
        found.append((Group(order[0], size, tuple(order), fixed), changed))
    found = _disjoint(found)
    writes = {node: group.name for group, changed in found for node in changed if group.fixed is None}
    position = {layer.name: index for index, layer in enumerate(graph.layers)}
    layers = []
    for layer in graph.layers:
        reads = writes.get(sites[layer.inputs[0]].output) if layer.inputs and layer.inputs[0] in sites else None
        layers.append(Layer(**{**vars(layer), "reads": reads, "writes": writes.get(sites[layer.name].output)}))
    groups = sorted((group for group, _ in found), key=lambda group: position[group.name])
    return Graph(graph.inputs, tuple(layers), graph.outputs, tuple(groups))


def _heads(
    graph: Graph, layer_of: dict[str, str], module: fx.GraphModule, x: Batch, values: dict[str, Any], found: Attention
) -> tuple[Group, set[str]]:
    """The group that the heads of an attention are, and the nodes whose size changes with it."""
    order = tuple(layer.name for layer in graph.layers if layer.name in {layer_of[path] for path in found.rows})
    group = Group(order[0], found.heads * found.depth, order, step=found.depth)
    if found.heads < 2:
        return replace(group, fixed="it has a single head"), set()
    first, every_second = next(iter(found.rows)), range(0, group.size, 2 * found.depth)
    fixed, changed = _compared(
        module, x, values, lambda m: cut_heads(m, x, first, every_second), lambda m: mask_heads(m, found, every_second)
    )
    return replace(group, fixed=fixed), changed


def _disjoint(found: list[tuple[Group, set[str]]]) -> list[tuple[Group, set[str]]]:
    """Groups that share a tensor (a concatenation's output) are fixed: its width would be a sum of theirs."""
    count: dict[str, int] = defaultdict(int)
    for _, changed in found:
        for node in changed:
            count[node] += 1
    result = []
    for group, changed in found:
        if any(count[node] > 1 for node in changed):
            group, changed = replace(group, fixed="its channels are joined with another group's"), set()
        result.append((group, changed))
    return result


def _dependencies(module: fx.GraphModule, x: Batch) -> list[tuple[list[tuple[str, bool]], int, str | None]]:
    """Per group: the paths of its modules and whether as output, its size, and why it cannot be cut, if so."""
    try:
        dependency = dependency_graph(module, x)
        names = {part: name for name, part in module.named_modules()}
        result = []
        for group in dependency.get_all_groups(root_module_types=[*CONVOLUTIONS, nn.Linear]):
            size = len(group[0][1])
            members = [
                (names[dep.target.module], dependency.is_out_channel_pruning_fn(dep.handler))
                for dep, _ in group
                if dep.target.module in names
            ]
            result.append((members, size, None))
        return result
    except Exception as error:  # Torch-Pruning fails in many ways on what it does not know
        reason = f"Torch-Pruning cannot follow this network ({type(error).__name__})"
        parts = [(n, m) for n, m in module.named_modules() if isinstance(m, (*CONVOLUTIONS, nn.Linear))]
        return [([(name, True)], part.weight.shape[0], reason) for name, part in parts]


def dependency_graph(module: fx.GraphModule, x: Batch) -> tp.DependencyGraph:
    """Torch-Pruning's dependency graph (Fang et al. 2023, DepGraph) of ``module``, up to its first recurrent layer."""
    view = _before_recurrence(module)
    with torch.enable_grad():
        return tp.DependencyGraph().build_dependency(
            view, example_inputs=tuple(tensors(x)), forward_fn=lambda m, inputs: m(*inputs), verbose=False
        )


def _before_recurrence(module: fx.GraphModule) -> fx.GraphModule:
    """The part of ``module`` that recurrent layers read, which Torch-Pruning cannot follow; all of it without any.

    Its submodules are the module's own.
    """
    recurrent = [node for node in module.graph.nodes if node.target in RECURRENT]
    if not recurrent:
        return module
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    graph.output(tuple(copies[node.all_input_nodes[0]] for node in recurrent))
    graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    return fx.GraphModule(module, graph)


def cut(module: fx.GraphModule, x: Batch, path: str, channels: list[int]) -> None:
    """Remove ``channels`` of the output of the submodule ``path`` and all that depends on them, in place."""
    target = module.get_submodule(path)
    prune = tp.prune_linear_out_channels if isinstance(target, nn.Linear) else tp.prune_conv_out_channels
    dependency_graph(module, x).get_pruning_group(target, prune, idxs=channels).prune()


def mask(module: nn.Module, writers: Iterable[str], channels: list[int]) -> None:
    """Set ``channels`` of the outputs of the submodules ``writers`` to zero, in place, through their weights."""
    with torch.no_grad():
        for path in writers:
            part = module.get_submodule(path)
            for value in (part.weight, part.bias):
                if isinstance(value, Tensor):
                    value[channels] = 0


def _trial(
    module: fx.GraphModule, x: Batch, values: dict[str, Any], members: list[tuple[str, bool]], size: int
) -> tuple[str | None, set[str]]:
    """Why a group cannot be cut, or the nodes whose size changes with it.

    Every second channel is cut, and set to zero in a copy: where the two networks differ, the channels mean something
    by their place (the heads of an attention, the mean of a LayerNorm), and are left alone.
    """
    channels = list(range(0, size, 2))
    writers = [path for path, out in members if out]
    if foreign := [p for p in writers if not isinstance(module.get_submodule(p), (*CONVOLUTIONS, nn.Linear, *NORMS))]:
        return f"its channels run through a {type(module.get_submodule(foreign[0])).__name__}", set()
    if any(len(module.get_submodule(path).weight) != size for path in writers):  # type: ignore[arg-type]
        return "it is cut together with layers that have another number of them", set()
    return _compared(module, x, values, lambda m: cut(m, x, writers[0], channels), lambda m: mask(m, writers, channels))


def _compared(
    module: fx.GraphModule,
    x: Batch,
    values: dict[str, Any],
    cutting: Callable[[fx.GraphModule], None],
    masking: Callable[[fx.GraphModule], None],
) -> tuple[str | None, set[str]]:
    """Why ``module`` does not compute the same when one copy is cut and one masked, or the nodes whose size changes."""
    small, masked = copy.deepcopy(module), copy.deepcopy(module)
    try:
        cutting(small)
        after = run(small, x)
    except Exception as error:  # each operator fails in its own way on a shape that it does not expect
        return f"the network does not run with fewer of them ({type(error).__name__})", set()
    masking(masked)
    expected = run(masked, x)
    for node in outputs(module):
        one, other = after[node.name], expected[node.name]
        if one.shape != other.shape:
            return "its channels are the network's output", set()
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())):
            return "its channels mean something by their place", set()
    return None, {name for name, value in values.items() if _size(value) != _size(after[name])}


def _size(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _branches(graph: Graph) -> Iterable[Branch]:
    """Residual branches that can be left out: what lies between a fork and an addition, on the longer of its sides.

    Branches do not overlap; a branch whose output has another shape than the side that stays is none.
    """
    taken: set[str] = set()
    above: dict[str, set[str]] = {tensor.name: set() for tensor in graph.inputs}
    for layer in graph.layers:
        above[layer.name] = {layer.name}.union(*(above[name] for name in layer.inputs))
        if layer.kind != ADD or len(set(layer.inputs)) < 2:
            continue
        sides = []
        for side, other in (layer.inputs, layer.inputs[::-1]):
            only = above[side] - above[other]
            closed = all(set(graph.readers[name]) <= only | {layer.name} for name in only)
            weighted = any(graph.by_name[name].kind in (CONV, LINEAR) for name in only)
            if only and closed and weighted and not only & taken and not only & set(graph.outputs):
                sides.append((sum(graph.by_name[name].macs for name in only), side, other, only))
        if sides:
            _, _, other, only = max(sides)
            taken |= only
            order = tuple(part.name for part in graph.layers if part.name in only)
            yield Branch(order[0], layer.name, other, order)
