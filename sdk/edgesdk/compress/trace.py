"""From a PyTorch model to a ``Network``: its layers as a runtime fuses them, its channel groups, its branches."""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, fx, nn

from edgesdk.compress.modularize import aten, exported, is_relu, is_relu6, modularize
from edgesdk.compress.network import Batch, Network, Site, rebatch, shape_of, tensors
from edgesdk.graph import ACTIVATION, ADD, CONV, FLATTEN, LINEAR, MEAN, OTHER, POOL, Branch, Graph, Group, Layer
from edgesdk.graph import Tensor as Input

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (aten.max_pool2d.default, aten.avg_pool2d.default)
RESHAPES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.squeeze.dims, aten.squeeze.dim)
RECURRENT = (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def trace(model: nn.Module, x: Batch) -> Network:
    """The network that ``model`` is, as seen on the example batch ``x``.

    ``model`` is not changed. Raises ``ModelError`` where ``torch.export`` cannot follow it.
    """
    x = rebatch(x, lambda t: torch.cat([t[:1], t[:1]]))
    program = exported(model, x)
    module = modularize(program)
    network = described(module, x, program.call_spec.out_spec)
    graph = _grouped(network.graph, dict(network.sites), module, x, _run(module, x))
    graph = Graph(graph.inputs, graph.layers, graph.outputs, graph.groups, tuple(_branches(graph)))
    return replace(network, graph=graph)


def described(module: fx.GraphModule, x: Batch, structure: Any) -> Network:
    """The network that a flat module is, without channel groups and branches: enough to train and export it."""
    values = _run(module, rebatch(x, lambda t: t[:2]))
    layers, sites = _Layers(module, values).found()
    inputs = tuple(
        Input(n.name, shape_of(values[n.name]), str(values[n.name].dtype).removeprefix("torch."))
        for n in module.graph.nodes
        if n.op == "placeholder"
    )
    graph = Graph(inputs, tuple(layers), tuple(_owner(n, sites) for n in _outputs(module)))
    return Network(module, graph, sites, structure)


def _run(module: fx.GraphModule, x: Batch) -> dict[str, Any]:
    interpreter = fx.Interpreter(module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*tensors(x))
    return {node.name: value for node, value in interpreter.env.items()}


def _outputs(module: fx.GraphModule) -> list[fx.Node]:
    return [n for n in next(n for n in module.graph.nodes if n.op == "output").args[0] if isinstance(n, fx.Node)]


def _owner(node: fx.Node, sites: dict[str, Site]) -> str:
    return next((name for name, site in sites.items() if site.output == node.name), node.name)


class _Layers:
    """Reads the module's graph from its start and fuses as runtimes do: weights, BatchNorm, ReLU or ReLU6."""

    def __init__(self, module: fx.GraphModule, values: dict[str, Any]) -> None:
        self.module, self.values = module, values
        self.owner: dict[fx.Node, str] = {}  # node to the layer or input whose output it is
        self.layers: list[Layer] = []
        self.sites: dict[str, Site] = {}

    def found(self) -> tuple[list[Layer], dict[str, Site]]:
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.owner[node] = node.name
            elif node.op in ("call_module", "call_function") and node not in self.owner:
                if isinstance(self.values[node.name], (Tensor, tuple, list)):
                    self.add(node)
        return self.layers, self.sites

    def add(self, node: fx.Node) -> None:
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None  # type: ignore[arg-type]
        kind, fixed = self.kind(node, module)
        weighted = kind in (CONV, LINEAR)
        last, norm, activation = node, None, None
        if weighted and (reader := _only(last)) is not None and reader.op == "call_module":
            if isinstance(self.module.get_submodule(reader.target), NORMS):  # type: ignore[arg-type]
                last, norm = reader, reader.target
        if weighted or kind == ADD:
            reader = _only(last)
            if reader is not None and (is_relu(reader) or is_relu6(reader)):
                last, activation = reader, "relu" if is_relu(reader) else "relu6"
        name = str(node.target) if weighted else node.name
        for fused in self.chain(node, last):
            self.owner[fused] = name
        inputs = tuple(self.owner[i] for i in node.all_input_nodes if i in self.owner)
        first = next((self.values[i.name] for i in node.all_input_nodes if i in self.owner), None)
        shape = shape_of(self.values[last.name])
        weight: Tensor | None = module.weight if weighted else None  # type: ignore[union-attr]
        parameters = sum(p.numel() for p in module.parameters()) if module is not None else 0
        parameters += sum(_parameter(self.module, i) for i in node.all_input_nodes if i.op == "get_attr")
        spatial = {}
        if kind == CONV:
            assert isinstance(module, CONVOLUTIONS)
            padding = module.padding if isinstance(module.padding, tuple) else _same(module)
            spatial = dict(kernel=module.kernel_size, stride=module.stride, padding=padding, dilation=module.dilation)
        self.layers.append(
            Layer(
                name=name,
                kind=kind,
                inputs=inputs,
                input_shape=shape_of(first),
                shape=shape,
                operator=type(module).__name__ if module is not None else str(node.target),
                weight_shape=tuple(weight.shape) if weight is not None else (),
                has_bias=weighted and (module.bias is not None or norm is not None),  # type: ignore[union-attr]
                groups=module.groups if kind == CONV else 1,  # type: ignore[union-attr,arg-type]
                activation=activation,
                parameters=parameters,
                macs=prod(weight.shape) * prod(shape[1:] if kind == CONV else shape[:-1]) if weight is not None else 0,
                fixed=fixed,
                **spatial,  # type: ignore[arg-type]
            )
        )
        self.sites[name] = Site(str(node.target) if weighted else None, norm, last.name)  # type: ignore[arg-type]

    def kind(self, node: fx.Node, module: nn.Module | None) -> tuple[str, str | None]:
        """What a node is to the search, and why it is left as it is."""
        if isinstance(module, CONVOLUTIONS):
            kind, fixed = CONV, None
            if (
                module.groups not in (1, module.in_channels)
                or module.in_channels > module.out_channels != 1 < module.groups
            ):
                fixed = f"a convolution in {module.groups} groups is neither full nor depthwise"
            calls = [n for n in self.module.graph.nodes if n.op == "call_module" and n.target == node.target]
            return kind, "its weights are used in several places" if len(calls) > 1 else fixed
        if isinstance(module, nn.Linear):
            return LINEAR, None
        reads = [i for i in node.all_input_nodes if i in self.owner]
        if node.target is aten.add.Tensor and len(reads) == 2:
            if shape_of(self.values[reads[0].name]) == shape_of(self.values[reads[1].name]):
                return ADD, None
        if node.target in POOLS and len(reads) == 1:
            return POOL, None
        if _is_global_mean(node, self.values):
            return MEAN, None
        if node.target in RESHAPES and _flattens(node, self.values):
            return FLATTEN, None
        if is_relu(node) or is_relu6(node):
            return ACTIVATION, None
        name = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
        return OTHER, f"{name.split('.')[0]} has no compressed form here"

    def chain(self, first: fx.Node, last: fx.Node) -> Iterable[fx.Node]:
        node = first
        yield node
        while node is not last:
            node = next(iter(node.users))
            yield node


def _only(node: fx.Node) -> fx.Node | None:
    """The one node that reads ``node``, where there is but one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _parameter(module: fx.GraphModule, node: fx.Node) -> int:
    value = operator.attrgetter(node.target)(module)  # type: ignore[arg-type]
    return value.numel() if isinstance(value, nn.Parameter) else 0


def _same(module: Any) -> tuple[int, ...]:
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    return tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))


def _is_global_mean(node: fx.Node, values: dict[str, Any]) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return tuple(node.args[1]) == (1, 1)  # type: ignore[arg-type]
    if node.target is aten.mean.dim:
        source = values[node.all_input_nodes[0].name]
        return source.dim() == 4 and sorted(d % 4 for d in node.args[1]) == [2, 3]  # type: ignore[union-attr]
    return False


def _flattens(node: fx.Node, values: dict[str, Any]) -> bool:
    source, result = values[node.all_input_nodes[0].name], values[node.name]
    return isinstance(source, Tensor) and result.dim() == 2 and source.shape[0] == result.shape[0]


def _grouped(graph: Graph, sites: dict[str, Site], module: fx.GraphModule, x: Batch, values: dict[str, Any]) -> Graph:
    """``graph`` with the channels that must be cut together, as Torch-Pruning's dependency graph finds them.

    Each group is cut on trial, and the network run: a tensor belongs to the group with which its size changes, and a
    group with which the network no longer runs is fixed, with the reason.
    """
    layer_of = {site.module: name for name, site in sites.items() if site.module}
    found: list[tuple[Group, set[str]]] = []
    for members, size, known in _dependencies(module, x):
        writers = [layer_of[path] for path, out in members if out and path in layer_of]
        if not writers:
            continue
        order = [layer.name for layer in graph.layers if layer.name in writers]
        fixed, changed = known, set()
        if fixed is None and size < 2:
            fixed = "it has a single channel"
        if fixed is None:
            fixed, changed = _trial(module, x, values, members, size)
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


def _disjoint(found: list[tuple[Group, set[str]]]) -> list[tuple[Group, set[str]]]:
    """Groups that share a tensor (a concatenation's output) are fixed: its width would be a sum of theirs."""
    count: dict[str, int] = defaultdict(int)
    for _, changed in found:
        for node in changed:
            count[node] += 1
    result = []
    for group, changed in found:
        if any(count[node] > 1 for node in changed):
            group, changed = (
                Group(group.name, group.size, group.layers, "its channels are joined with another group's"),
                set(),
            )
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
    small, masked = copy.deepcopy(module), copy.deepcopy(module)
    writers = [path for path, out in members if out]
    if foreign := [p for p in writers if not isinstance(module.get_submodule(p), (*CONVOLUTIONS, nn.Linear, *NORMS))]:
        return f"its channels run through a {type(module.get_submodule(foreign[0])).__name__}", set()
    try:
        cut(small, x, writers[0], channels)
        after = _run(small, x)
    except Exception as error:  # each operator fails in its own way on a shape that it does not expect
        return f"the network does not run with fewer of them ({type(error).__name__})", set()
    mask(masked, writers, channels)
    expected = _run(masked, x)
    for node in _outputs(module):
        one, other = after[node.name], expected[node.name]
        if one.shape != other.shape:
            return "its channels are the network's output", set()
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())):
            return "its channels mean something by their place", set()
    return None, {name for name, value in values.items() if shape_of(value) != shape_of(after[name])}


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
