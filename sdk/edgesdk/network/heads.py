"""Attention heads as channels that go together: found in a flat module's graph, and cut out of it.

A head is what an attention computes by itself: some rows of the layers that make its queries, keys and values, and the
columns of the layer that reads what comes of it (Vaswani et al. 2017, section 3.2.2; Michel et al. 2019, "Are Sixteen
Heads Really Better than One?"). Which rows and columns is not read off the operators in between: the numbers of the
channels are sent through them, so that one rule holds for fused, chunked and separate projections, for rotated ones
(RoFormer, Su et al. 2021, equation 34) and for keys and values that several share, which go together (grouped queries,
Ainslie et al. 2023).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from edgesdk.network.fuse import run
from edgesdk.network.modularize import arguments, aten
from edgesdk.network.network import Batch, rebatch
from edgesdk.network.shared import shares_with

ATTENTION = aten.scaled_dot_product_attention.default
PRODUCTS = (aten.matmul.default, aten.bmm.default)
SOFTMAX = (aten.softmax.int, aten._softmax.default)
SCALINGS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
MASKINGS = (*SCALINGS, aten.add.Tensor, aten.sub.Tensor, aten.masked_fill.Scalar)
ROTATIONS = (*SCALINGS, aten.add.Tensor, aten.sub.Tensor, aten.neg.default)  # what turns pairs of a head's numbers
JOINS = (aten.cat.default, aten.stack.default, aten.slice.Tensor, aten.expand.default)
SIZED = (aten.view.default, aten.reshape.default)
UNFLATTEN, SPLITS = aten.unflatten.int, (aten.split.Tensor, aten.split_with_sizes.default)
MOVES = (
    *SIZED, UNFLATTEN, *SPLITS, operator.getitem, aten.permute.default, aten.transpose.int, aten.flatten.using_ints,
    aten.chunk.default, aten.unbind.int, aten.select.int, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
    aten.contiguous.default, aten.clone.default, aten.mT.default, aten.t.default, aten.numpy_T.default,
    aten.adjoint.default, aten.movedim.int, aten.movedim.intlist, aten.swapaxes.default, aten.swapdims.default,
)  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """The ``heads`` of one attention, each of ``depth`` columns in a row of the linear layer ``projection``.

    ``rows`` has for each linear layer that makes queries, keys or values its rows of every head; ``sizes`` the nodes
    that reshape between these layers, and which of the sizes that they state count heads. ``beside`` are the nodes that
    read a mask or a bias of each head, and that, whose third axis from the end has so many entries for a head.
    """

    rows: Mapping[str, tuple[tuple[int, ...], ...]]
    projection: str
    heads: int
    depth: int
    sizes: Mapping[str, tuple[int, ...]]
    beside: tuple[tuple[str, str, int], ...] = ()

    def without(self, channels: Iterable[int]) -> list[int]:
        """The heads that have none of ``channels``, which are columns of the projection."""
        gone = {channel // self.depth for channel in channels}
        return [head for head in range(self.heads) if head not in gone]

    def columns(self, heads: Iterable[int]) -> list[int]:
        """The columns of the projection that ``heads`` have."""
        return [head * self.depth + i for head in heads for i in range(self.depth)]


class _Unknown(Exception):
    """What of an attention is not as it is known here; ``args[0]`` is a clause for people."""


def attentions(module: fx.GraphModule, values: Mapping[str, Any]) -> tuple[list[Attention], dict[str, str]]:
    """The attentions of ``module`` whose heads can be told apart, and why layers that others read are left whole.

    ``values`` are those of its nodes on some inputs (:func:`edgesdk.network.fuse.run`). The reasons are by the path
    of a linear layer.
    """
    heads, reasons = [], {}
    varying = _varying(module, values)
    for node in module.graph.nodes:
        core = _core(node)
        if core is None:
            continue
        before = [_back(read, varying) for read in core.reads]
        paths = {str(nodes[0].target) for nodes in before if _linear(module, nodes[0])}
        try:
            heads.append(_attention(module, values, core, before))
        except _Unknown as unknown:
            reasons.update(dict.fromkeys(paths, f"its heads are left together: {unknown.args[0]}"))
    return heads, reasons


def cut_heads(module: fx.GraphModule, x: Batch, path: str, channels: Iterable[int]) -> None:
    """Remove the heads that have ``channels`` from the attention that reads the submodule ``path``, in place.

    ``channels`` are columns of the projection. Raises ``ValueError`` where ``path`` has no heads to cut, or none is
    left.
    """
    attended, _ = attentions(module, run(module, rebatch(x, lambda t: t[:2])))
    attention = next((a for a in attended if path in a.rows), None)
    if attention is None:
        raise ValueError(f"{path} makes no heads that can be cut")
    stay = attention.without(channels)
    if not stay:
        raise ValueError(f"no head of {path} is left")
    keep_heads(module, attention, stay)
    module.recompile()


def keep_heads(module: fx.GraphModule, attention: Attention, stay: Sequence[int]) -> None:
    """Remove all heads of ``attention`` but those that ``stay``, in place; the module is to be recompiled then."""
    for source, rows in attention.rows.items():
        part: Any = module.get_submodule(source)
        kept = sorted(row for head in stay for row in rows[head])
        part.weight = nn.Parameter(part.weight.detach()[kept], part.weight.requires_grad)
        if part.bias is not None:
            part.bias = nn.Parameter(part.bias.detach()[kept], part.bias.requires_grad)
        part.out_features = len(kept)
    part = module.get_submodule(attention.projection)
    part.weight = nn.Parameter(part.weight.detach()[:, attention.columns(stay)], part.weight.requires_grad)
    part.in_features = len(stay) * attention.depth
    for node in module.graph.nodes:
        if node.name in attention.sizes:
            _resize(node, attention.sizes[node.name], len(stay), attention.heads)
    nodes = {node.name: node for node in module.graph.nodes}
    for reader, read, each in attention.beside:
        kept = torch.tensor([head * each + i for head in stay for i in range(each)])
        name = f"{read}_heads_{len(list(module.buffers(recurse=False)))}"
        module.register_buffer(name, kept)
        with module.graph.inserting_before(nodes[reader]):
            own = module.graph.call_function(aten.index_select.default, (nodes[read], -3, module.graph.get_attr(name)))
        nodes[reader].replace_input_with(nodes[read], own)


def mask_heads(module: fx.GraphModule, attention: Attention, stay: Sequence[int]) -> None:
    """Make the projection read zero of all heads but those that ``stay``, in place, through a new weight."""
    part: Any = module.get_submodule(attention.projection)
    kept = torch.zeros(part.weight.shape[1]).index_fill(0, torch.tensor(attention.columns(stay)), 1.0)
    part.weight = nn.Parameter(part.weight.detach() * kept, part.weight.requires_grad)


def inside(module: fx.GraphModule, attention: Attention) -> set[str]:
    """The nodes whose output has heads of ``attention``: from the layers that make them to its projection."""
    nodes: set[fx.Node] = set()
    waiting = [n for n in module.graph.nodes if n.op == "call_module" and n.target in attention.rows]
    while waiting:
        node = waiting.pop()
        if node not in nodes and node.target != attention.projection:
            nodes.add(node)
            waiting += node.users
    return {node.name for node in nodes}


def part_of(module: fx.GraphModule, nodes: set[fx.Node], ends: set[fx.Node]) -> fx.GraphModule:
    """``nodes`` of ``module`` as a module of their own, of which ``ends`` come out; it takes what they read of others,
    called as these are, and shares their tensors."""
    order = [node for node in module.graph.nodes if node in nodes and node.op != "output"]
    read = dict.fromkeys(read for node in order for read in node.all_input_nodes if read not in nodes)
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in read}
    for node in order:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in order if node in ends))
    return fx.GraphModule(module, graph)


@dataclass(frozen=True)
class _Core:
    """Where an attention mixes: its queries, keys and values, whether keys come transposed, and what it makes; and what
    masks or is added to its scores, each with the node that reads it."""

    reads: tuple[fx.Node, fx.Node, fx.Node]
    transposed: bool
    result: fx.Node
    beside: tuple[tuple[fx.Node, fx.Node], ...]


def _core(node: fx.Node) -> _Core | None:
    """The attention that ``node`` is, or whose weights it makes as a softmax between two products."""
    if node.target is ATTENTION:
        query, key, value = node.args[:3]
        mask = arguments(node).get("attn_mask")
        beside = ((node, mask),) if isinstance(mask, fx.Node) else ()
        return _Core((query, key, value), False, node, beside)  # type: ignore[arg-type]
    if node.target not in SOFTMAX:
        return None
    scores = _product(node.args[0])  # type: ignore[arg-type]
    mixes = [n for n in node.users if n.target in PRODUCTS and n.args[0] is node]
    if scores is None or len(mixes) != 1:
        return None
    beside = tuple(_beside(node.args[0]))  # type: ignore[arg-type]
    return _Core((*scores.args[:2], mixes[0].args[1]), True, mixes[0], beside)  # type: ignore[arg-type]


def _product(node: fx.Node) -> fx.Node | None:
    """The product of tensors that ``node`` is, scaled and masked."""
    if node.target in PRODUCTS:
        return node
    reads = node.all_input_nodes if node.target in MASKINGS else []
    return next((product for read in reads if (product := _product(read)) is not None), None)


def _beside(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What meets the product of tensors that ``node`` is, scaled and masked, and where."""
    if node.target in PRODUCTS:
        return
    product = next(read for read in node.all_input_nodes if _product(read) is not None)
    yield from ((node, other) for other in node.all_input_nodes if other is not product)
    yield from _beside(product)


def _linear(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether it is a linear layer of this attention alone."""
    part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(part, nn.Linear) and shares_with(part) is None


def _varying(module: fx.GraphModule, values: Mapping[str, Any]) -> set[fx.Node]:
    """The tensors that depend on those that the module is given."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            if isinstance(values.get(node.name), (Tensor, tuple, list)):  # no size
                found.add(node)
    return found


def _back(node: fx.Node, varying: set[fx.Node]) -> list[fx.Node]:
    """The nodes that lead to ``node``, in order, from the one that does more than move, scale or rotate entries; or
    ``node`` alone, where that are several."""
    nodes: dict[fx.Node, None] = {}
    sources: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        at = waiting[-1]
        reads = [i for i in at.all_input_nodes if i in varying] if at.target in (*MOVES, *JOINS, *ROTATIONS) else []
        if later := [i for i in reads if i not in nodes and i not in sources]:
            waiting += later
            continue
        (nodes if reads else sources)[waiting.pop()] = None
    return [*sources, *nodes] if len(sources) == 1 else [node]


def _ahead(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The nodes from ``node`` to the linear layer that reads its entries, which only move in between."""
    nodes = [node]
    while nodes[-1] is node or nodes[-1].target in MOVES:
        if len(nodes[-1].users) != 1:
            raise _Unknown("several layers read what comes of them")
        nodes.append(next(iter(nodes[-1].users)))
    if not _linear(module, nodes[-1]):
        raise _Unknown(f"{nodes[-1].name} reads what comes of them")
    return nodes


def _attention(
    module: fx.GraphModule, values: Mapping[str, Any], core: _Core, before: Sequence[list[fx.Node]]
) -> Attention:
    """What :class:`Attention` says of ``core``; raises ``_Unknown`` where it is of another kind."""
    if other := [nodes[0].name for nodes in before if not _linear(module, nodes[0])]:
        raise _Unknown(f"{other[0]} makes what they read")
    after = _ahead(module, core.result)
    sent, of = [], []
    for index, nodes in enumerate(before):
        source = values[nodes[0].name]
        numbers = torch.arange(source.shape[-1]).expand(source.shape)
        held = [_sent(nodes, numbers, values, place) for place in (0, -1)]
        first, last = (_rows(each[nodes[-1]], core.transposed and index == 1) for each in held)
        sent.append(held[0])
        of.append([tuple(sorted({*own, *other})) for own, other in zip(first, last, strict=True)])
    if core.result.kwargs.get("enable_gqa"):
        of = [[rows for rows in each for _ in range(len(of[0]) // len(each))] for each in of]
    if len({len(rows) for rows in of}) > 1:
        raise _Unknown("queries, keys and values are not of the same number")
    apart = list(dict.fromkeys(zip(*of, strict=True)))
    number = {head: index for index, head in enumerate(apart)}
    places = torch.tensor([number[head] for head in zip(*of, strict=True)])

    alone: dict[str, list[set[int]]] = {}
    for index, nodes in enumerate(before):
        own = alone.setdefault(str(nodes[0].target), [set() for _ in apart])
        for head, taken in zip(own, apart, strict=True):
            head.update(taken[index])
    shared = _shared(alone.values())
    units = [slice(at, at + shared) for at in range(0, len(apart), shared)]
    rows = {path: [sorted(set().union(*own[unit])) for unit in units] for path, own in alone.items()}
    for path, own in rows.items():
        if sorted(row for head in own for row in head) != list(range(module.get_submodule(path).out_features)):  # type: ignore[arg-type]
            raise _Unknown("several share a key or value, or a part of the layer is no head's")

    result = values[core.result.name]
    depth = result.shape[-1] * shared
    columns = places[:, None, None] * result.shape[-1] + torch.arange(result.shape[-1])
    columns = columns.expand(-1, result.shape[-2], -1)
    onward = _sent(after[:-1], columns.reshape(result.shape), values)
    read = onward[after[-2]].flatten(0, -2)
    if not torch.equal(read, torch.arange(len(units) * depth).expand_as(read)):
        raise _Unknown("the layer that reads them has them in another order")
    each = [[row for head in own for row in head] for own in rows.values()]
    if any(own != sorted(own) for own in each if len(own) == len(read[0])):
        raise _Unknown("the layers that make them have them in another order")

    sizes: dict[str, tuple[int, ...]] = {}
    for nodes, held in zip(before, sent, strict=True):
        own = rows[str(nodes[0].target)]
        head_of = torch.empty(sum(map(len, own)), dtype=torch.long)
        for head, taken in enumerate(own):
            head_of[taken] = head
        sizes.update({node.name: _counting(node, held[node], head_of) for node in nodes[1:]})
    head_of = torch.arange(len(read[0])) // depth
    sizes.update({node.name: _counting(node, onward[node], head_of) for node in after[1:-1]})
    return Attention(
        {path: tuple(map(tuple, own)) for path, own in rows.items()}, str(after[-1].target), len(units), depth,
        {name: counting for name, counting in sizes.items() if counting},
        tuple(
            (reader.name, read.name, shared)
            for reader, read in core.beside
            if result.dim() == 4 and _third(values.get(read.name)) == len(units) * shared > 1
        ),
    )  # fmt: skip


def _third(value: Any) -> int:
    """The size of the third axis from the end, where there is one."""
    return value.shape[-3] if isinstance(value, Tensor) and value.dim() > 2 else 1


def _shared(rows: Iterable[Sequence[set[int]]]) -> int:
    """How many attentions in a row share a row of some layer; raises ``_Unknown`` where others do, too."""
    count = 1
    for own in rows:
        with_first = [index for index, head in enumerate(own) if head & own[0]]
        count = max(count, with_first[-1] + 1)
    for own in rows:
        sets = [set().union(*own[at : at + count]) for at in range(0, len(own), count)]
        if len(own) % count or sum(map(len, sets)) != len(set().union(*own)):
            raise _Unknown("several share a key or value that do not follow each other")
    return count


def _sent(nodes: Sequence[fx.Node], channels: Tensor, values: Mapping[str, Any], place: int = 0) -> dict[fx.Node, Any]:
    """What ``nodes`` make of the tensor ``channels`` in the place of the first one's value; of what meets in a
    rotation that at ``place``, the first or the last."""
    held: dict[fx.Node, Any] = {nodes[0]: channels}
    for node in nodes[1:]:
        if node.target in ROTATIONS:
            meeting = [held[i] for i in node.all_input_nodes if i in held]
            held[node] = meeting[place].expand(values[node.name].shape)
            continue
        args = map_arg(node.args, lambda n: held[n] if n in held else values[n.name])
        held[node] = node.target(*args, **node.kwargs)  # type: ignore[operator]
    return held


def _rows(channels: Tensor, transposed: bool) -> list[tuple[int, ...]]:
    """The channels that each of the attentions side by side reads, from the numbers in (..., tokens, depth)."""
    if channels.dim() < 3:
        raise _Unknown("they have no axis of their own")
    tokens = (channels.transpose(-1, -2) if transposed else channels).flatten(0, -3)
    if not torch.equal(tokens, tokens[:, :1].expand_as(tokens)):
        raise _Unknown("they have other channels at each token")
    return [tuple(rows) for rows in tokens[:, 0].tolist()]


def _counting(node: fx.Node, channels: Any, head_of: Tensor) -> tuple[int, ...]:
    """Which of the sizes that ``node`` states count heads: those of axes along which heads follow each other."""
    if node.target in SPLITS:
        axis = arguments(node)["dim"]
        return tuple(i for i, piece in enumerate(channels[: len(_stated(node))]) if axis in _axes(head_of[piece], axis))
    if node.target not in (*SIZED, UNFLATTEN, aten.expand.default):
        return ()
    stated = _stated(node)
    first = arguments(node)["dim"] % (channels.dim() - len(stated) + 1) if node.target is UNFLATTEN else 0
    axes = tuple(axis - first for axis in _axes(head_of[channels]) if 0 <= axis - first < len(stated))
    if any(isinstance(stated[i], fx.Node) and _factors(stated[i]) is None for i in axes):
        raise _Unknown(f"{node.name} computes a size that has them in it")
    return axes


def _axes(heads: Tensor, *only: int) -> tuple[int, ...]:
    """The axes along which the numbers in ``heads`` change."""
    axes = only or range(heads.dim())
    return tuple(a for a in axes if not torch.equal(heads, heads.narrow(a, 0, 1).expand_as(heads)))


def _stated(node: fx.Node) -> Sequence[Any]:
    sizes: Any = node.args[2 if node.target is UNFLATTEN else 1]
    return sizes if isinstance(sizes, (list, tuple)) else [sizes]


def _factors(size: fx.Node) -> tuple[fx.Node, int] | None:
    """A computed size as the product of another one, which is none, and a number."""
    if size.target is not operator.mul:
        return None
    number, of = sorted(size.args, key=lambda factor: isinstance(factor, fx.Node))
    if not isinstance(number, int) or not isinstance(of, fx.Node):
        return None
    inner = _factors(of)
    return (of, number) if inner is None else (inner[0], inner[1] * number)


def _resize(node: fx.Node, counting: tuple[int, ...], kept: int, of: int) -> None:
    """Make the sizes ``counting`` that ``node`` states those of ``kept`` heads instead of ``of``."""

    def fewer(size: Any) -> Any:
        if not isinstance(size, fx.Node):
            return size if size == -1 else size * kept // of
        factor, number = _factors(size)  # type: ignore[misc]
        with node.graph.inserting_before(node):
            return node.graph.call_function(operator.mul, (factor, number * kept // of))

    place = 2 if node.target is UNFLATTEN else 1
    sizes = [fewer(size) if i in counting else size for i, size in enumerate(_stated(node))]
    node.update_arg(place, sizes if isinstance(node.args[place], (list, tuple)) else sizes[0])
