"""An exported program that writes into no tensor and holds no sub-graph of a mere context: only values are left."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.node import map_aggregate

aten: Any = torch.ops.aten
CONTEXTS = {  # higher-order operators that run a sub-graph as it is, and where among their arguments that is
    torch.ops.higher_order.wrap_with_set_grad_enabled: 1,
    torch.ops.higher_order.wrap_with_autocast: 4,
}
ALL = 2**63 - 1  # where a slice ends that has no end
WIDTHS = (torch.float16, torch.bfloat16, torch.float64)  # of floats, beside the one that is computed with
UNTOLD = (aten.einsum.default, aten.type_as.default)  # may return a view of what they read, which no schema says


def functionalized(program: ExportedProgram) -> ExportedProgram:
    """``program`` with writes as values, whatever else is a view of what was written to.

    What a context (``torch.no_grad``, ``torch.autocast``) holds is part of the whole, in the precision of its inputs.
    A write to a tensor that has no alias yet is its operator's functional form; the others are left to PyTorch's own
    functionalization, which decomposes reshapes into views of stated sizes, and calls of ``torch.vmap`` into operators
    on whole batches. Floats of any width are float32, weights too: which precision a layer has is no part of what it
    computes. ``program`` is changed.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in CONTEXTS:
            _inline(program.graph_module, node)
    for node in list(graph.nodes):
        if node.target is aten.dropout.default and not node.args[2]:
            _replace(node, node.args[0])
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if _writes(node) and (functional := _functional(node)) is not None and not _aliased(node, order):
            node.target = functional
            later = [user for user in node.args[0].users if order.get(user, -1) > order[node]]
            for user in later:
                user.replace_input_with(node.args[0], node)
    program.graph_module.recompile()
    if any(_writes(node) or _transforms(node) for node in graph.nodes):
        program = program.run_decompositions({})
        for node in list(program.graph.nodes):
            if (same := _whole(node)) is not None:
                node.replace_all_uses_with(same)
    _widen(program)
    return program


def _widen(program: ExportedProgram) -> None:
    """Make every float of ``program`` a float32: what is asked for, what casts make, and what weights are."""

    def single(argument: Any) -> Any:
        return torch.float32 if argument in WIDTHS else argument

    for node in program.graph.nodes:
        node.args, node.kwargs = (map_aggregate(given, single) for given in (node.args, node.kwargs))
    for state in (program.state_dict, program.constants):
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dtype in WIDTHS:
                with torch.no_grad():
                    wide = value.detach().float()
                state[name] = torch.nn.Parameter(wide) if isinstance(value, torch.nn.Parameter) else wide


def _whole(node: fx.Node) -> Any:
    """What ``node`` returns unchanged: a write to the whole of a tensor leaves slices and copies of all there is."""
    place = {aten.slice.Tensor: 0, aten.slice_scatter.default: 1, aten.copy.default: 1}.get(node.target)
    if place is None:
        return None
    args: Any = node.args
    if node.target is not aten.copy.default:
        start, end, step = (*args[place + 2 :], *(None, None, 1)[max(0, len(args) - place - 2) :])
        if start not in (None, 0) or step != 1 or not (end is None or isinstance(end, int) and end >= ALL):
            return None
    left, right = (value.meta["val"] for value in (node, args[place]))
    return args[place] if (left.shape, left.dtype) == (right.shape, right.dtype) else None


def _inline(root: fx.GraphModule, node: fx.Node) -> None:
    """The sub-graph that ``node`` runs in the place of it; the nodes that take its outputs apart go, too."""
    args: Any = node.args
    held, *given = args[CONTEXTS[node.target] :]  # type: ignore[index]
    inner: Any = getattr(root, held.target)
    copies: dict[fx.Node, Any] = {}
    for inner_node in inner.graph.nodes:
        with root.graph.inserting_before(node):
            if inner_node.op == "placeholder":
                copies[inner_node] = given.pop(0)
            elif inner_node.op == "get_attr":
                name = f"{held.target}_{inner_node.target}"
                setattr(root, name, getattr(inner, inner_node.target))
                copies[inner_node] = root.graph.get_attr(name)
            elif inner_node.op == "output":
                for user in list(node.users):  # each takes one of the outputs
                    _replace(user, copies[inner_node.args[0][user.args[1]]])
            else:
                copies[inner_node] = root.graph.node_copy(inner_node, lambda n: copies[n])
    root.graph.erase_node(node)
    root.graph.erase_node(held)
    for copy in list(copies.values()):
        if isinstance(copy, fx.Node) and copy.target in CONTEXTS:
            _inline(root, copy)


def _replace(node: fx.Node, value: Any) -> None:
    node.replace_all_uses_with(value)
    node.graph.erase_node(node)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _transforms(node: fx.Node) -> bool:
    """Whether a function that was transformed begins or ends with ``node``, as one does under ``torch.vmap``."""
    return getattr(node.target, "__module__", None) == "torch._functorch.predispatch"


def _functional(node: fx.Node) -> Any:
    """The operator that returns what that of ``node`` writes into its first argument, where there is one."""
    target: Any = node.target
    packet = getattr(aten, target.overloadpacket.__name__.removesuffix("_"), None)
    overload = getattr(packet, target._overloadname, None)
    if not isinstance(overload, torch._ops.OpOverload) or overload._schema.is_mutable:
        return None
    names = [[argument.name for argument in op._schema.arguments] for op in (target, overload)]
    return overload if names[0] == names[1] else None


def _aliased(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether the tensor that ``node`` writes to shares its memory with another one by then."""
    written: Any = node.args[0]
    if written.op != "call_function" or _may_share(written):
        return True
    before = takewhile(lambda user: order.get(user, 0) < order[node], sorted(written.users, key=lambda u: order[u]))
    return any(map(_may_share, before))


def _may_share(node: fx.Node) -> bool:
    """Whether what ``node`` returns may share its memory with what it reads."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # an item of a tuple, a sub-graph, an output
    if node.target is aten.batch_norm.default:  # it writes its statistics, and returns a new tensor
        return False
    told = any(argument.alias_info is not None for argument in node.target._schema.arguments)
    return told or torch.Tag.maybe_aliasing_or_mutating in node.target.tags or node.target in UNTOLD
