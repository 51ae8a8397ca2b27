"""A network's values on samples, and gradients of its outputs, within so much memory: a stretch at a time.

What is between two places of the order is computed anew from what is alive at the first, in the order of "Training deep
nets with sublinear memory cost" (Chen et al. 2016). All samples go through together, so that BatchNorm's statistics,
and all else, are those of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgesdk.network.fuse import outputs

MOST_BYTES = 2**31  # half of a network's values, half of gradients where curvature is told
SEGMENTS = 2  # of values that are held at once; gradients' graph is of one of them


@dataclass(frozen=True)
class Segment:
    """Nodes in a row, and the values of earlier ones that they, or what comes behind them, are computed from."""

    nodes: tuple[fx.Node, ...]
    given: Mapping[fx.Node, Any]


class _Spot(NamedTuple):
    """A place of the order where a segment may begin: what was ``made`` before it, and is ``alive``."""

    place: int
    made: int
    alive: Mapping[fx.Node, Any]

    def rank(self) -> tuple[int, int]:
        """The less, the better: what is alive, then how early it is."""
        return sum(count_bytes(node, value) for node, value in self.alive.items()), -self.place


class Segmented(Mapping[fx.Node, Any]):
    """The values of all nodes of ``module`` on ``x``, of which ``most_bytes`` are held beside what segments begin with.

    Segments begin where little is alive. A single node's value may be more than a segment is to hold.
    """

    def __init__(self, module: fx.GraphModule, x: Sequence[Tensor], most_bytes: float = MOST_BYTES / 2) -> None:
        self.module: fx.GraphModule = module
        self.nodes: list[fx.Node] = [node for node in module.graph.nodes if node.op != "output"]
        self.output_nodes: list[fx.Node] = outputs(module)
        self.like: dict[fx.Node, Any] = {}  # of what shape and type each value is, without its memory
        self._interpreter = fx.Interpreter(module)
        self._x: dict[fx.Node, Tensor] = dict(zip([n for n in self.nodes if n.op == "placeholder"], x, strict=True))
        self._held: dict[fx.Node, dict[fx.Node, Any]] = {}  # by the first node of a segment
        self.segments: list[Segment] = self._divide(most_bytes / SEGMENTS)
        self._segment = {node: segment for segment in self.segments for node in segment.nodes}

    def __getitem__(self, node: fx.Node) -> Any:
        segment = self._segment[node]
        first = segment.nodes[0]
        if first not in self._held:
            with torch.no_grad():
                self._hold(self._run(segment.nodes, dict(segment.given)), first)
        return self._held[first][node]

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def outputs(self) -> list[Any]:
        return [self[node] for node in self.output_nodes]

    def gradients(
        self, wanted: Collection[fx.Node], scalars: Callable[[list[Tensor]], Iterator[Tensor]]
    ) -> Iterator[tuple[fx.Node, Tensor, list[Tensor]]]:
        """Of each ``wanted`` node its value, and the gradients there of all ``scalars`` that are made of the outputs.

        The last of them come first. What a scalar does not depend on has a gradient of zero.
        """
        answers = [_leaf(value) for value in self.outputs]
        behind: list[dict[fx.Node, Tensor]] = []  # of each scalar, at the values that are alive
        differentiable = {n: t for n, t in zip(self.output_nodes, answers, strict=True) if t.requires_grad}
        with torch.enable_grad():
            for scalar in scalars(answers):
                behind.append(_gradients([scalar], None, differentiable))
        self._held.clear()
        for segment in reversed(self.segments):
            yield from self._back_through(segment, set(wanted), behind)

    def _back_through(
        self, segment: Segment, wanted: set[fx.Node], behind: list[dict[fx.Node, Tensor]]
    ) -> list[tuple[fx.Node, Tensor, list[Tensor]]]:
        """The same of the nodes of ``segment``, from what is ``behind`` it; then that is behind the one before it."""
        given = {node: _leaf(value) for node, value in segment.given.items()}
        with torch.enable_grad():
            made = self._run(segment.nodes, dict(given), _leaf)
        own = {node for node, value in made.items() if getattr(value, "requires_grad", False)}
        asked = {node: made[node] for node in segment.nodes if node in wanted and node in own}
        leaves = {node: value for node, value in given.items() if getattr(value, "requires_grad", False)}
        drawn = []
        for each in behind:
            ends = [node for node in each if node in own]
            found = _gradients([made[node] for node in ends], [each.pop(node) for node in ends], {**asked, **leaves})
            drawn.append([found.pop(node) for node in asked])
            for node, gradient in found.items():
                each[node] = each[node] + gradient if node in each else gradient
        return [(n, asked[n].detach(), [every[place] for every in drawn]) for place, n in enumerate(asked)]

    @torch.no_grad()
    def _divide(self, most_bytes: float) -> list[Segment]:
        """Segments of the order that make no more than ``most_bytes`` each unless they are of a single node.

        Each ends in the second half of what it may make, where fewest bytes are alive.
        """
        last = {read: place for place, node in enumerate(self.nodes) for read in node.all_input_nodes}
        last |= dict.fromkeys(self.output_nodes, len(self.nodes))
        segments, spots, values, total = list[Segment](), list[_Spot](), dict[fx.Node, Any](), 0
        begin = _Spot(0, 0, {})
        for place, node in enumerate(self.nodes):
            alive = {n: value for n, value in values.items() if last.get(n, 0) >= place}
            if place and all(isinstance(value, Tensor) for value in alive.values()):
                spots.append(_Spot(place, total, alive))
            values |= self._run([node], dict(alive))
            self.like[node] = pytree.tree_map_only(Tensor, lambda t: t.to("meta"), values[node])
            total += count_bytes(node, values[node])
            while total - begin.made > most_bytes and spots:
                late = [spot for spot in spots if spot.made - begin.made >= most_bytes / 2]
                end = min(late or spots[-1:], key=_Spot.rank)
                segments.append(self._close(begin, end.place, values))
                begin, spots = end, [spot for spot in spots if spot.place > end.place]
                values = dict(end.alive) | {n: values[n] for n in self.nodes[end.place : place + 1]}
        return [*segments, self._close(begin, len(self.nodes), values)]

    def _close(self, begin: _Spot, end: int, values: Mapping[fx.Node, Any]) -> Segment:
        nodes = tuple(self.nodes[begin.place : end])
        self._hold({node: values[node] for node in nodes}, nodes[0])
        return Segment(nodes, begin.alive)

    def _hold(self, made: dict[fx.Node, Any], first: fx.Node) -> None:
        while len(self._held) >= SEGMENTS:
            self._held.pop(next(iter(self._held)))
        self._held[first] = made

    def _run(
        self, nodes: Sequence[fx.Node], values: dict[fx.Node, Any], begin: Callable[[Any], Any] = lambda x: x
    ) -> dict[fx.Node, Any]:
        """What ``nodes`` make of ``values``, and of the inputs as ``begin`` takes them."""
        self._interpreter.env = values
        for node in nodes:
            given = node.op == "placeholder"
            values[node] = begin(self._x[node]) if given else self._interpreter.run_node(node)
        self._interpreter.env = {}
        return {node: values[node] for node in nodes}


def _leaf(value: Any) -> Any:
    """``value`` as what gradients end at, where it can have one."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.is_floating_point())


def _gradients(
    roots: Sequence[Tensor], behind: Sequence[Tensor] | None, at: Mapping[fx.Node, Tensor]
) -> dict[fx.Node, Tensor]:
    """The gradients of ``roots`` at some tensors, zero where they do not depend on them."""
    if not at or not roots:
        return {node: torch.zeros_like(value) for node, value in at.items()}
    found = torch.autograd.grad(roots, [*at.values()], behind, retain_graph=True, materialize_grads=True)
    return dict(zip(at, found, strict=True))


def count_bytes(node: fx.Node, value: Any) -> int:
    """What ``node`` makes takes, as if it were no view of anything; parameters are there anyway."""
    if node.op in ("placeholder", "get_attr"):
        return 0
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(value) if isinstance(t, Tensor))
