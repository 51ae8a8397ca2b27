"""A traced network in stages: where a single tensor crosses, the exits that are fitted there, a network per stage."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.core.errors import DataError, ModelError, UsageError
from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, POOL, Graph, Layer
from edgesdk.network.fuse import describe_layers, outputs
from edgesdk.network.modularize import aten
from edgesdk.network.network import Batch, Network, Structure, rebatch, tensors
from edgesdk.price.kinds import ACTIVATIONS
from edgesdk.techniques.exits import doubt, expected, head, leaves, reached, thresholds

LEAST_SHARE = 0.05  # of the MACs, before and after a cut
PLACES = 12  # that exits are fitted at, spread over the network
CELLS = 4  # an image is averaged to so many per axis before an exit's linear layer
FITTED = 10_000  # samples that an exit's weights are fitted to
FEATURES = "features"  # the input of a stage that is not the first


@dataclass(frozen=True)
class Place:
    """A layer whose output alone crosses from what is before it to what is behind; ``share`` of the MACs is before."""

    layer: str
    share: float


def places(network: Network) -> tuple[Place, ...]:
    """Where ``network`` can be cut in two with a single tensor between, in order."""
    graph, crossing = network.graph, _crossing(network.module)
    total, before, places = max(1, sum(layer.macs for layer in graph.layers)), 0, []
    for layer in graph.layers:
        before += layer.macs
        share = before / total
        if (
            LEAST_SHARE <= share <= 1 - LEAST_SHARE
            and (layer.kind in (CONV, LINEAR, ADD, POOL, ACTIVATION) or layer.operator in ACTIVATIONS)
            and network.sites[layer.name].output in crossing
        ):
            places.append(Place(layer.name, share))
    return tuple(places)


def _crossing(module: fx.GraphModule) -> set[str]:
    """The nodes that are, at some point, all that later nodes read of earlier ones."""
    order = list(module.graph.nodes)
    again = _again(order)
    last = {
        node: max((order.index(user) for user in node.users if user not in again), default=-1)
        for node in order
        if node not in again and node.op != "output"
    }
    places, live = set(), set()
    for index, node in enumerate(order):
        if node in last:
            live.add(node)
        live = {node for node in live if last[node] > index}
        if len(live) == 1:
            places.add(next(iter(live)).name)
    return places


def _again(order: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes that every stage can make for itself: weights, the size of the batch, and what depends on these alone."""
    computed: set[fx.Node] = set()
    for node in order:
        batch = node.target is aten.sym_size.int and node.args[1] == 0
        made = node.op == "call_function" and all(read in computed for read in node.all_input_nodes)
        if node.op == "get_attr" or batch or made:
            computed.add(node)
    return computed


def fitted(
    network: Network, at: Sequence[str], train: Iterable[tuple[Batch, Any]], labelled: bool
) -> dict[str, nn.Linear]:
    """An exit's linear layer for each of the layers ``at``; the network itself is left as it is.

    They are fitted to the labels of ``train`` or, without, to the network's own probabilities. Raises ``DataError``
    where ``train`` is empty.
    """
    module = _outputting(network, at)
    seen: list[list[Tensor]] = []
    targets: list[Tensor] = []
    with torch.no_grad():
        for x, y in train:
            *features, answer = module(*tensors(x))
            seen.append([value.float() for value in features])
            targets.append(y if labelled else answer.float().softmax(1))
            if sum(map(len, targets)) >= FITTED:
                break
    if not targets:
        raise DataError("the training data is empty", "give at least one batch")
    classes = network.graph.by_name[network.graph.outputs[0]].shape[0]
    target = torch.cat(targets)
    if labelled:
        target = nn.functional.one_hot(target, classes).float()
    return {name: head(torch.cat(rows), target) for name, rows in zip(at, zip(*seen, strict=True), strict=True)}


def _outputting(network: Network, at: Sequence[str]) -> fx.GraphModule:
    """``network`` with what the exits ``at`` read as its outputs, and its own first output as the last."""
    module = copy.deepcopy(network.module)
    nodes = {node.name: node for node in module.graph.nodes}
    first = outputs(module)[0]
    end = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(end):
        read = [_pooled(module.graph, nodes[network.sites[name].output], network.graph, name) for name in at]
    end.args = ((*read, first),)
    module.recompile()
    return module


def _pooled(graph: fx.Graph, node: fx.Node, shapes: Graph, name: str) -> fx.Node:
    """What an exit reads of ``node``: a few averages of each channel of an image, one of a signal or of tokens."""
    shape = shapes.by_name[name].shape
    if len(shape) == 1:
        return node
    if len(shape) == 2:
        return graph.call_function(aten.mean.dim, (node, [1 if _tokens(shapes, shapes.by_name[name]) else 2]))
    kernel = [max(1, size // CELLS) for size in shape[1:]]
    if len(shape) == 3:
        node = graph.call_function(aten.avg_pool2d.default, (node, kernel, kernel))
    return graph.call_function(aten.flatten.using_ints, (node, 1))


def _tokens(graph: Graph, layer: Layer) -> bool:
    """Whether the channels of a tensor of two axes are its last: what the nearest layer with weights says."""
    queue = deque([layer])
    while queue:
        node = queue.popleft()
        if node.kind in (CONV, LINEAR):
            return node.kind == LINEAR
        queue.extend(graph.by_name[name] for name in node.inputs if name in graph.by_name)
    return False


def picked(
    network: Network,
    heads: Mapping[str, nn.Linear],
    count: int,
    held: Sequence[tuple[Batch, Any]],
    drop: float,
    measure: str,
) -> tuple[str, ...]:
    """The ``count`` layers of ``heads`` to have exits at, in order: one more at a time, that with which the fewest
    MACs are expected on the samples ``held``, of which no more than the share ``drop`` may be answered worse.

    Labels are those of ``held`` or, where these are ``None``, the network's own answers.
    """
    names = list(heads)
    share = {place.layer: place.share for place in places(network)}
    module = _outputting(network, names)
    logits: list[list[Tensor]] = []
    labels: list[Tensor] = []
    with torch.no_grad():
        for x, y in held:
            *features, answer = module(*tensors(x))
            logits.append([*(heads[name](value) for name, value in zip(names, features, strict=True)), answer])
            labels.append(answer.argmax(1) if y is None else y)
    each = [torch.cat(rows) for rows in zip(*logits, strict=True)]
    right = torch.stack([logits.argmax(1) == torch.cat(labels) for logits in each])
    doubts = torch.stack([doubt(logits, measure) for logits in each[:-1]])

    def macs(chosen: tuple[str, ...]) -> float:
        rows = [names.index(name) for name in chosen]
        ends = [0.0, *(share[name] for name in chosen), 1.0]
        costs = [after - before for before, after in pairwise(ends)]
        least = float(right[-1].double().mean()) - drop
        limits = thresholds(doubts[rows], right[[*rows, -1]], costs, least)
        return expected(reached(leaves(doubts[rows], limits), len(costs)), costs)

    chosen: tuple[str, ...] = ()
    for _ in range(count):
        further = [tuple(sorted((*chosen, name), key=names.index)) for name in names if name not in chosen]
        chosen = min(further, key=macs)
    return chosen


def spread(places: Sequence[Place], count: int) -> list[str]:
    """A dozen of the places, spread over the MACs, in order; at least the ``count`` that are to have exits.

    Raises ``ModelError`` where there are none, ``UsageError`` where there are fewer than ``count``.
    """
    if not places:
        share = f"{LEAST_SHARE:.0%} and {1 - LEAST_SHARE:.0%} of the MACs"
        fact = f"the model cannot be cut: between {share} no layer's output is all that leads on"
        raise ModelError(fact, "early exits need a layer between two halves that alone leads from one to the other")
    if count > len(places):
        every = f"{len(places)} {'places' if len(places) > 1 else 'place'}"
        raise UsageError(f"{count} exits, but the model can be cut at {every}", f"give {len(places)} or fewer")
    kept = list(places)
    while len(kept) > max(PLACES, count):  # the one nearest to its neighbour goes
        gaps = [after.share - before.share for before, after in pairwise(kept)]
        kept.pop(gaps.index(min(gaps)))
    return [place.layer for place in kept]


def split(network: Network, heads: Mapping[str, nn.Linear], x: Batch) -> list[Network]:
    """``network`` as a network per stage, cut at the layers of ``heads``, in their order.

    The first takes the network's inputs, the others ``features``. A stage returns its exit's logits and the features
    for the next, the last what the network returns. ``x`` is an example batch.
    """
    networks: list[Network] = []
    x = rebatch(x, lambda t: t[:2])
    start = None
    for name in (*heads, None):
        module = _stage(network, start, name, heads)
        pair = network.structure if name is None else Structure.plain(2)
        networks.append(describe_layers(module, x, pair))
        if name is not None:
            with torch.no_grad():
                x = module(*tensors(x))[1]
        start = name
    return networks


def _stage(network: Network, start: str | None, end: str | None, heads: Mapping[str, nn.Linear]) -> fx.GraphModule:
    """What lies between the outputs of the layers ``start`` and ``end``, with the exit at ``end``."""
    order = list(network.module.graph.nodes)
    again = _again(order)
    by_name = {node.name: node for node in order}
    first = None if start is None else by_name[network.sites[start].output]
    goals = outputs(network.module) if end is None else [by_name[network.sites[end].output]]
    needed, queue = set(), list(goals)
    while queue:
        node = queue.pop()
        if node not in needed and node is not first:
            needed.add(node)
            queue.extend([] if node in again and node.target is aten.sym_size.int else node.all_input_nodes)
    graph, root = fx.Graph(), copy.deepcopy(network.module)
    copies: dict[fx.Node, fx.Node] = {}
    if first is not None:
        copies[first] = graph.placeholder(FEATURES)
    given = copies.get(first) if first is not None else None
    for node in order:
        if start is None and node.op == "placeholder":
            copies[node] = graph.node_copy(node)
            given = given or copies[node]
        elif node in needed and node.target is aten.sym_size.int and node in again:
            copies[node] = graph.call_function(aten.sym_size.int, (given, 0))
        elif node in needed:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    if end is None:
        graph.output(tuple(copies[node] for node in goals))
    else:
        path = f"exit_{list(heads).index(end) + 1}"
        root.add_submodule(path, copy.deepcopy(heads[end]))
        features = copies[goals[0]]
        graph.output((graph.call_module(path, (_pooled(graph, features, network.graph, end),)), features))
    graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    graph.lint()
    return fx.GraphModule(root, graph).eval()
