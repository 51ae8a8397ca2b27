"""From a PyTorch model to a ``Network``: its layers as a runtime fuses them, its channel groups, its branches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.core.graph import ADD, WEIGHTED, Branch, Graph, Group
from edgesdk.network.channels import Channels
from edgesdk.network.cutting import close, difference, sharing_copy
from edgesdk.network.fuse import flat, outputs, run
from edgesdk.network.groups import RawGroup, find
from edgesdk.network.heads import Attention, attentions, inside, keep_heads, mask_heads, part_of
from edgesdk.network.kept import kept_channels, random_scores
from edgesdk.network.network import Batch, Network, Site, rebatch, tensors
from edgesdk.network.reference import Reference, check, same_random_numbers
from edgesdk.network.walk import weights_of
from edgesdk.price.operators import widths

UNREAD = "no layer with weights reads them"
SMALLEST = 48  # pixels along an axis of an image on which channels are cut on trial
PATTERNS = 2  # or more at each width
TRIALS = PATTERNS * len(widths(1024)[:-1])  # of a group with as many widths as there are


def trace(model: nn.Module, x: Batch, reference: Reference | None = None) -> Network:
    """The network that ``model`` is, proved on the first samples of the example batch ``x``.

    ``model`` is not changed; ``reference`` is a copy of it, made here where none is given. Raises ``ModelError`` where
    ``torch.export`` cannot follow it, or does not give what the model itself computes.
    """
    with same_random_numbers():
        reference = reference or Reference(model)
        network = flat(model, x)
        check(network, reference, x)
        two = rebatch(x, lambda t: t[:2] if len(t) > 1 else torch.cat([t, t]))
        module = network.module
        graph, channels = _grouped(network.graph, dict(network.sites), module, two, run(module, two))
    graph = Graph(graph.inputs, graph.layers, graph.outputs, graph.groups, tuple(_branches(graph)))
    return _leave_unread(replace(network, graph=graph, channels=channels))


def _leave_unread(network: Network) -> Network:
    """``network`` with those groups left whole that no layer with weights reads, as where a mean or a maximum over the
    channels is all that does: nothing could make up for what goes, and what that loses is not told by any reader."""
    graph = network.graph
    unread = {group.name for group in graph.groups if group.fixed is None and not network.entries(group.name)}
    if not unread:
        return network
    groups = [replace(g, fixed=UNREAD) if g.name in unread else g for g in graph.groups]
    layers = [replace(layer, reads=None, read_part=None) if layer.reads in unread else layer for layer in graph.layers]
    layers = [replace(layer, writes=None) if layer.writes in unread else layer for layer in layers]
    return replace(network, graph=replace(graph, layers=tuple(layers), groups=tuple(groups)))


def _grouped(
    graph: Graph, sites: dict[str, Site], module: fx.GraphModule, x: Batch, values: dict[str, Any]
) -> tuple[Graph, Channels]:
    """``graph`` with the channels that must be cut together, and where these lie in ``module``.

    The heads of an attention are groups, too, in place of what is found of the layers that make its queries, keys and
    values. Every group is cut on trial, several times at each of its widths: one with which the network once computes
    something else than without those channels is fixed, with the reason.
    """
    layer_of = {site.module: name for name, site in sites.items() if site.module}
    heads, together = attentions(module, values)
    headed = _heads(graph, layer_of, module, values, heads)
    headed_layers = {layer_of[p] for attention in heads for p in (*attention.rows, attention.projection)}
    channels, raw = _followed(module, x, {path for attention in heads for path in attention.rows})
    target_of = {n.name: n.target if n.op == "call_module" else n.name for n in module.graph.nodes}
    groups, units = [], {}
    for raw_group in raw:
        paths = [target_of[name] for name in raw_group.makers]
        order = [layer.name for layer in graph.layers if layer.name in {layer_of.get(path, path) for path in paths}]
        if not order:  # what it makes is no layer's: a constant
            continue
        fixed = next((together[path] for path in paths if raw_group.fixed and path in together), raw_group.fixed)
        groups.append(Group(order[0], len(raw_group.units), tuple(order), fixed, raw_group.step, raw_group.shares))
        units[order[0]] = raw_group.units
    tried = [group for group in groups if group.fixed is None]
    channels = replace(channels, groups={group.name: units[group.name] for group in tried})
    reasons = _try_cuts(module, x, channels, tried)
    groups = [replace(group, fixed=reasons.get(group.name, group.fixed)) for group in groups]
    free = {group.name for group in groups if group.fixed is None}
    owner = torch.zeros(channels.count, dtype=torch.long)
    for number, name in enumerate(units, 1):
        owner[units[name]] = number
    names = [None, *(name if name in free else None for name in units)]
    writes = {node: group.name for group, changed in headed for node in changed if group.fixed is None}
    for node, numbers in channels.holds.items():
        held = {names[number] for number in torch.unique(owner[numbers[numbers > 0].long()]).tolist()}
        if len(held - {None}) == 1:  # what stays may lie beside it
            writes[node] = next(name for name in held if name is not None)
    call_of = {str(n.target): n.name for n in module.graph.nodes if n.op == "call_module"}
    layers = []
    for layer in graph.layers:
        reads = writes.get(sites[layer.inputs[0]].output) if layer.inputs and layer.inputs[0] in sites else None
        made, part = writes.get(sites[layer.name].output), None
        read = channels.read.get(call_of.get(str(sites[layer.name].module), ""))
        if layer.kind in WEIGHTED and read is None and layer.name not in headed_layers:
            reads = made = None  # it mixes along another axis, each channel by itself
        elif read is not None and reads in units:
            own = int((owner[read[1].long()] == 1 + list(units).index(reads)).sum())
            part = own if own < len(read[1]) else None
        layers.append(replace(layer, reads=reads, writes=made, read_part=part))
    position = {layer.name: index for index, layer in enumerate(graph.layers)}
    every = sorted([*groups, *(group for group, _ in headed)], key=lambda group: position[group.name])
    return Graph(graph.inputs, tuple(layers), graph.outputs, tuple(every)), channels


def _followed(module: fx.GraphModule, x: Batch, apart: set[str]) -> tuple[Channels, list[RawGroup]]:
    """What :func:`find` finds; where an operator fails on what is asked of it, every layer by itself, left whole."""
    try:
        return find(module, x, apart)
    except Exception as error:  # each operator fails in its own way on numbers or values that it does not expect
        reason = f"its channels cannot be followed ({type(error).__name__})"
        made = {n.name: w for n in module.graph.nodes if (w := weights_of(module, n)) is not None}
        sizes = {name: module.get_parameter(w.weight).shape[w.made] for name, w in made.items()}
        groups = [RawGroup(torch.zeros(size, dtype=torch.long), (name,), 1, (), reason) for name, size in sizes.items()]
        return Channels({}, {}, 1, {}, {}, {}, {}), groups


def _try_cuts(module: fx.GraphModule, x: Batch, channels: Channels, groups: list[Group]) -> dict[str, str]:
    """Why groups cannot be cut, of those that cannot: random channels of all go at once, several times at each width.

    Where that computes something else, it is tried with those whose channels come to where that is seen, and with the
    others, until those are found that are to blame.
    """
    reasons: dict[str, str] = {}
    x = _smallest(module, x)
    number = {group.name: index for index, group in enumerate(groups)}
    nodes = {node.name: node for node in module.graph.nodes}

    def failing(some: list[Group], turn: int) -> dict[str, str]:
        if not some:  # then none of them is to blame
            return {}
        gone = {}
        for group in some:
            try:
                gone[group.name] = _gone(group, number[group.name], turn)
            except ValueError as error:
                return failing([g for g in some if g is not group], turn) | {group.name: str(error)}
        found = difference(module, x, channels, gone)
        if found is None:
            return {}
        if len(some) == 1:
            return {some[0].name: found.reason}
        at = nodes[found.node].all_input_nodes if found.node is not None else []
        coming = channels.held_by([node.name for node in at])
        first = [group for group in some if group.name in coming]
        if not 0 < len(first) < len(some):
            first = some[: len(some) // 2]
        rest = [group for group in some if group not in first]
        return failing(first, turn) | failing(rest, turn) or {group.name: found.reason for group in first}

    for turn in range(_trials(groups)):
        while failed := failing([group for group in groups if group.name not in reasons], turn):
            reasons |= failed
    return reasons


def _smallest(module: fx.GraphModule, x: Batch) -> Batch:
    """``x`` with as few pixels as ``module`` takes: what goes with what does not depend on them."""
    small = rebatch(x, lambda t: t[..., ::2, ::2] if t.dim() == 4 and min(t.shape[2:]) >= 2 * SMALLEST else t)
    if all(first.shape == second.shape for first, second in zip(tensors(small), tensors(x), strict=True)):
        return x
    try:
        with torch.no_grad():
            module(*tensors(small))
    except Exception:  # each operator fails in its own way on a shape that it does not expect
        return x
    return _smallest(module, small)


def _trials(groups: Iterable[Group]) -> int:
    """How many there are until each of ``groups`` was cut to every width with as many patterns as it must."""
    return PATTERNS * max((len(widths(group.size, group.step)) - 1 for group in groups), default=0)


def _gone(group: Group, number: int, turn: int) -> list[int]:
    """The channels of ``group`` that go in the trial ``turn``: at random, at every width once before at any twice.

    What is chosen the second time at a width is what was not the first time, as far as that goes. No two groups, by
    their ``number``, have the same order of widths and the same channels: what goes together would pass unseen.
    """
    counts = widths(group.size, group.step)[:-1]
    if not counts:
        return []
    rounds, place = divmod(turn, len(counts))
    seed = number * TRIALS + rounds
    order = random_scores(len(counts), seed).argsort().tolist()
    kept = counts[order[place]]
    pair, again = divmod(rounds, 2)
    scores = random_scores(group.size, (number * TRIALS + pair) * TRIALS + order[place])
    stay = kept_channels(1 - scores if again else scores, kept, group.step, group.shares)
    return sorted(set(range(group.size)) - set(stay))


def _heads(
    graph: Graph,
    layer_of: dict[str, str],
    module: fx.GraphModule,
    values: dict[str, Any],
    attentions: Sequence[Attention],
) -> list[tuple[Group, set[str]]]:
    """The groups that the heads of attentions are, and the nodes whose size changes with each."""
    groups = []
    for number, attention in enumerate(attentions):
        order = tuple(layer.name for layer in graph.layers if layer.name in {layer_of[path] for path in attention.rows})
        group = Group(order[0], attention.heads * attention.depth, order, None, attention.depth)
        fixed, changed = "it has a single head", set[str]()
        if attention.heads > 1:
            fixed, changed = _without_heads(module, values, attention, group, number)
        groups.append((replace(group, fixed=fixed), changed))
    return groups


def _without_heads(
    module: fx.GraphModule, values: dict[str, Any], attention: Attention, group: Group, number: int
) -> tuple[str | None, set[str]]:
    """Why ``module`` does not always compute the same when heads are cut and when they are masked, where so; or the
    nodes whose size changes.

    Tried are random heads, several times at every count of the menu, in what is between the layers that make them and
    the one that reads them alone: there no other attention is cut at once, for what goes together would pass unseen.
    """
    changed = inside(module, attention)
    ends = {n for n in module.graph.nodes if n.op == "call_module" and n.target == attention.projection}
    ends |= {n for n in outputs(module) if n.name in changed}
    nodes = {n for n in module.graph.nodes if n.name in changed} | ends
    for node in reversed(module.graph.nodes):  # sizes that they state are computed along with them
        if not isinstance(values[node.name], Tensor) and any(user in nodes for user in node.users):
            nodes.add(node)
    part = part_of(module, nodes, ends)
    x = [values[node.name] for node in part.graph.nodes if node.op == "placeholder"]
    for turn in range(_trials([group])):
        stay = attention.without(_gone(group, number, turn))
        small, masked = sharing_copy(part), sharing_copy(part)
        mask_heads(masked, attention, stay)
        expected = run(masked, x)
        try:
            keep_heads(small, attention, stay)
            after = run(small, x)
        except Exception as error:  # each operator fails in its own way on a shape that it does not expect
            return f"the network does not run with fewer of them ({type(error).__name__})", set()
        for actual, wanted in ((after[end.name], expected[end.name]) for end in outputs(part)):
            if actual.shape != wanted.shape:
                return "its channels are the network's output", set()
            if not close(actual, wanted):
                return "its channels mean something by their place", set()
        changed &= {name for name in changed if _size(values[name]) != _size(after[name])}
    return None, changed


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
            weighted = any(graph.by_name[name].kind in WEIGHTED for name in only)
            if only and closed and weighted and not only & taken and not only & set(graph.outputs):
                sides.append((sum(graph.by_name[name].macs for name in only), side, other, only))
        if sides:
            _, _, other, only = max(sides)
            taken |= only
            order = tuple(part.name for part in graph.layers if part.name in only)
            yield Branch(order[0], layer.name, other, order)
