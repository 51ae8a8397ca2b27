"""A compressed network taught a block at a time to answer as the dense one, from a few samples without labels.

Between two tensors that alone lead on, what comes first is settled before what comes behind it is taught, so that each
block makes up for what the compressed ones before it are off (Li et al. 2021, "BRECQ", section 3 and eq. 10; Nagel et
al. 2020, section 3.3, for single layers). It is told by gradients, so that it holds for every form of a layer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.compress.curvature import find_bottlenecks
from edgesdk.compress.quantize import bound_steps
from edgesdk.compress.refit import find_places, find_whole
from edgesdk.compress.segments import MOST_BYTES, Segmented
from edgesdk.data.task import Task
from edgesdk.network.fuse import outputs
from edgesdk.network.network import Batch, Network, tensors

BATCH = 32  # samples of a step
JUDGE = 5  # every fifth batch judges the blocks, and teaches none
RATE = 0.05  # of Adam, in units of each parameter's root mean square; it falls to zero as a cosine
LEAST_SIZE = 1e-3  # of that unit: parameters may begin at zero
NEAR = 1e-3  # of the variance wanted: a block that is off by less is left as it is
DRAWS = 2  # random projections of the outputs of each batch, by which errors are weighted
HELD = 4  # values of the end of a block are held at once: given and wanted ones, and those before them

Progress = Callable[[float], None]
After = Callable[[Network, int], None]
Values = dict[fx.Node, Any]


@dataclass(frozen=True)
class BlockFit:
    """The loss of the block that ends at the node ``end`` on samples that taught nothing, ``before`` and ``after``.

    It is the squared error, weighted by what it does to the outputs, over the variance wanted; of the last block, which
    ends at the outputs, it is the task's own distance.
    """

    end: str
    before: float
    after: float


@dataclass(frozen=True)
class Block:
    """``own`` nodes of a compressed network and the ``dense`` ones in whose place they are, in order.

    Of what these end in, ``places`` along the ``axis`` are left, all where it is ``None``. The ``last`` block ends in
    the network's outputs. ``parameters`` are those of no other block.
    """

    own: tuple[fx.Node, ...]
    dense: tuple[fx.Node, ...]
    parameters: tuple[nn.Parameter, ...] = ()
    axis: int = 0
    places: Tensor | None = None
    last: bool = False

    def pick(self, value: Tensor) -> Tensor:
        """What is left of the dense block's ``value``."""
        return _pick(value, self.axis, self.places)


def _pick(value: Tensor, axis: int, places: Tensor | None) -> Tensor:
    return value if places is None else value.index_select(axis, places.to(value.device))


def reconstruct(
    small: Network,
    dense: Network,
    kept: Mapping[str, Sequence[int]],
    samples: Sequence[Batch],
    task: Task,
    steps: int,
    seed: int = 0,
    progress: Progress = lambda share: None,
    until: float | None = None,
    done: int = 0,
    after: After = lambda network, done: None,
) -> tuple[Network, tuple[BlockFit, ...]]:
    """A copy of ``small``, float or with integer layers whose ranges are set, with its blocks taught on ``samples``.

    ``kept`` has the channels that are left of each group that was cut (``apply.channels_to_keep``). Each block learns
    in ``steps`` of Adam, on inputs as the compressed network up to there makes them, to make what the dense network
    makes there. Errors are weighted by the squared gradients of random projections of the dense network's outputs, a
    diagonal Fisher matrix whose mean over samples is taken for each place. Weights learn through their rounding
    (Bengio et al. 2013); ranges of activations stay.

    Every fifth batch teaches nothing: a block that is no nearer to the dense one there stays as it was, and all do
    where the outputs are no nearer in the end, or there are fewer than ``JUDGE`` samples. Of samples as many are taken
    as keep to ``MOST_BYTES``. ``until`` is when, on the monotonic clock, it ends: each block takes its part of the time
    that is left. ``done`` blocks of ``small`` were taught before; ``after`` each one it is told the network so far and
    how many are done, by which this can be taken up again.
    """
    small = small.copy()
    small.module.eval().requires_grad_(True)  # a bias that folding made has none
    dense.module.eval()
    batches = _split(samples)
    if len(batches) < JUDGE:
        return small, ()
    blocks = find_blocks(small, dense, kept, batches[0])
    batches = batches[: max(JUDGE, _count_fitting(dense, blocks, batches[0]))]
    weights = _weigh(dense, blocks, batches, task, seed)
    own, whole = _Side(small.module, batches), _Side(dense.module, batches)
    fits: list[BlockFit] = []
    was = small.copy()
    for number, block in enumerate(blocks):
        if number >= done:
            if until is not None and time.monotonic() >= until:
                break
            wanted = [[block.pick(t) if not block.last else t for t in made] for made in whole.make(block.dense)]
            told = lambda share, number=number: progress((number + share) / len(blocks))  # noqa: E731
            end = _share_out(until, len(blocks) - number)
            generator = torch.Generator().manual_seed(seed + number)
            teaching = _Teaching(block, own, wanted, task, weights[number])
            fits.append(teaching.teach(steps, generator, told, end))
            bound_steps(small)
            after(small, number + 1)
        for side, nodes in ((own, block.own), (whole, block.dense)):
            side.pass_on(nodes)
    progress(1.0)
    judges = batches[JUDGE - 1 :: JUDGE]
    before, reached = (_find_distance(each, dense, judges, task) for each in (was, small))
    return (small if reached < before else was), tuple(fits)


@torch.no_grad()
def _find_distance(small: Network, dense: Network, batches: Sequence[list[Tensor]], task: Task) -> float:
    """How far the outputs of ``small`` are off on ``batches``."""
    return sum(float(task.distance(small.flat(x), dense.flat(x))) for x in batches) / len(batches)


def find_blocks(small: Network, dense: Network, kept: Mapping[str, Sequence[int]], x: Batch) -> list[Block]:
    """The blocks of ``small``, each with parameters, that end where both networks have a single tensor that leads on.

    ``x`` is a batch by which shapes are known. Where there is no such place it is one block.
    """
    own, whole = _Order.of(small.module, x), _Order.of(dense.module, x)
    layers = {site.output: layer for layer, site in dense.sites.items()}
    ends: dict[fx.Node, tuple[fx.Node, int, Tensor | None]] = {}
    for name, site in small.sites.items():
        end, twin = own.bottlenecks.get(site.output), whole.bottlenecks.get(_find_twin(small, dense, name) or "")
        if end is None or twin is None:
            continue
        axis, places = find_places(dense, dense.graph.by_name[layers[twin.name]], kept) or (0, None)
        if _pick(whole.values[twin], axis, places).shape == own.values[end].shape:
            ends[end] = (twin, axis, places)
    blocks, begin, begun = list[Block](), 0, 0
    for end in sorted(ends, key=own.place.__getitem__):
        twin, axis, places = ends[end]
        to, reached = own.place[end] + 1, whole.place[twin] + 1
        nodes = own.nodes[begin:to]
        if reached > begun and _parameters(small.module, nodes) and _parameters(small.module, own.nodes[to:]):
            blocks.append(Block(tuple(nodes), tuple(whole.nodes[begun:reached]), (), axis, places))
            begin, begun = to, reached
    blocks.append(Block(tuple(own.nodes[begin:]), tuple(whole.nodes[begun:]), last=True))
    return [
        replace(block, parameters=_list_own(small.module, block, (b for b in blocks if b is not block)))
        for block in blocks
    ]


def _list_own(module: fx.GraphModule, block: Block, others: Iterable[Block]) -> tuple[nn.Parameter, ...]:
    """The parameters that ``block`` alone reads."""
    elsewhere = {parameter for other in others for parameter in _parameters(module, other.own)}
    return tuple(parameter for parameter in _parameters(module, block.own) if parameter not in elsewhere)


def _find_twin(small: Network, dense: Network, name: str) -> str | None:
    """The node of ``dense`` that makes what the layer ``name`` of ``small`` makes, by name; a BatchNorm may be folded
    there, and the layer be the last part of another form."""
    site = small.sites[name]
    if any(other.output == site.output for other in dense.sites.values()):
        return site.output
    layer = find_whole(small, dense, name)
    if layer is None or site.norm is not None or small.graph.by_name[name].activation or layer.activation:
        return None
    return dense.sites[layer.name].output


@dataclass(frozen=True)
class _Order:
    """A module's ``nodes`` in order, but those that no layer changes, their ``place`` and ``values`` on a batch, and
    by name those that alone lead on."""

    nodes: list[fx.Node]
    place: dict[fx.Node, int]
    values: Values
    bottlenecks: dict[str, fx.Node]

    @classmethod
    @torch.no_grad()
    def of(cls, module: fx.GraphModule, x: Batch) -> _Order:
        interpreter = fx.Interpreter(module, garbage_collect_values=False)
        interpreter.run(*tensors(x))
        settled, ends = _find_settled(module), set(outputs(module))
        nodes = [node for node in module.graph.nodes if node not in settled and node.op != "output"]
        found = find_bottlenecks(module, interpreter.env, settled)
        named = {node.name: node for node in found if node not in ends}
        return cls(nodes, {node: place for place, node in enumerate(nodes)}, interpreter.env, named)


def _find_settled(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that are computed from the inputs without a parameter, such as a mask: no layer changes them."""
    settled: set[fx.Node] = set()
    for node in module.graph.nodes:
        made = node.op == "call_function" or (node.op == "call_module" and not _parameters(module, [node]))
        if node.op == "placeholder" or (made and node.all_input_nodes and set(node.all_input_nodes) <= settled):
            settled.add(node)
    return settled


def _parameters(module: fx.GraphModule, nodes: Iterable[fx.Node]) -> list[nn.Parameter]:
    """What ``nodes`` read that can learn, each once, in order."""
    found: list[nn.Parameter] = []
    for node in nodes:
        if node.op == "call_module":
            found += module.get_submodule(str(node.target)).parameters()
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(module.get_submodule(owner), name)
            found += [value] if isinstance(value, nn.Parameter) else []
    return list(dict.fromkeys(found))


def _split(samples: Sequence[Batch]) -> list[list[Tensor]]:
    """Batches of as many samples each: ``BATCH``, or fewer where there would be less than ``JUDGE`` of them.

    Samples of several shapes stay in the batches that they came in.
    """
    batches = [tensors(x) for x in samples]
    if len({tuple(t.shape[1:] for t in batch) for batch in batches}) == 1:
        batches = [[torch.cat(parts) for parts in zip(*batches, strict=True)]]
    size = max(1, min(BATCH, sum(len(batch[0]) for batch in batches) // JUDGE))
    starts = [(batch, start) for batch in batches for start in range(0, len(batch[0]) - size + 1, size)]
    return [[t[start : start + size] for t in batch] for batch, start in starts]


def _count_fitting(dense: Network, blocks: Sequence[Block], x: Batch) -> int:
    """How many batches like ``x`` keep to the memory, by the largest value in which a block ends."""
    values = Segmented(dense.module, tensors(x)).like
    most = max((values[b.dense[-1]].numel() * values[b.dense[-1]].element_size() for b in blocks[:-1]), default=1)
    return int(MOST_BYTES // (HELD * most))


def _weigh(
    dense: Network, blocks: Sequence[Block], batches: Sequence[list[Tensor]], task: Task, seed: int
) -> list[Tensor | None]:
    """For each block how much an error counts at each place of what it ends in, 1 on average; ``None`` for alike."""
    generator = torch.Generator().manual_seed(seed)
    ends = {block.dense[-1]: block for block in blocks if not block.last}
    if not ends or len({tuple(t.shape for t in batch) for batch in batches}) > 1:
        return [None] * len(blocks)

    def project(made: list[Tensor]) -> Iterator[Tensor]:
        return (task.projection(made, generator) for _ in range(DRAWS))

    sums: dict[fx.Node, Tensor] = {}
    for x in batches:
        for node, _, drawn in Segmented(dense.module, x).gradients(ends, project):
            squared = torch.stack([ends[node].pick(each.detach()).square().mean(0, keepdim=True) for each in drawn])
            sums[node] = sums.get(node, torch.zeros(())) + squared.mean(0)
    means = {node: value.mean() for node, value in sums.items()}
    weights = {node: sums[node] / mean for node, mean in means.items() if mean > 0 and mean.isfinite()}
    return [weights.get(block.dense[-1]) for block in blocks]


def _share_out(until: float | None, parts: int) -> float | None:
    """When the first of so many ``parts`` of the time that is left ends."""
    now = time.monotonic()
    return None if until is None else now + (until - now) / parts


class _Side:
    """A network's values where a block begins, for each batch, beside those that no layer changes."""

    def __init__(self, module: fx.GraphModule, batches: Sequence[list[Tensor]]) -> None:
        self.outputs: list[fx.Node] = outputs(module)
        self._interpreter = fx.Interpreter(module, garbage_collect_values=False)
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        settled = _find_settled(module)
        rest = [node for node in module.graph.nodes if node in settled and node not in inputs]
        with torch.no_grad():
            self.given: list[Values] = [self._run(rest, dict(zip(inputs, x, strict=True))) for x in batches]
        self._settled = settled

    def end(self, nodes: Sequence[fx.Node], number: int) -> list[Tensor]:
        """What ``nodes`` end in for the batch of that ``number``: one tensor, or the network's outputs."""
        values = self._run(nodes, dict(self.given[number]))
        ends = self.outputs if set(nodes) & set(self.outputs) else nodes[-1:]
        return [values[node] for node in ends]

    @torch.no_grad()
    def make(self, nodes: Sequence[fx.Node]) -> list[list[Tensor]]:
        """The same for all batches."""
        return [self.end(nodes, number) for number in range(len(self.given))]

    @torch.no_grad()
    def pass_on(self, nodes: Sequence[fx.Node]) -> None:
        """Go on to where ``nodes`` end."""
        for number, given in enumerate(self.given):
            made = self._run(nodes, dict(given))[nodes[-1]]
            self.given[number] = {n: v for n, v in given.items() if n in self._settled} | {nodes[-1]: made}

    def _run(self, nodes: Sequence[fx.Node], values: Values) -> Values:
        self._interpreter.env = values
        for node in nodes:
            values[node] = self._interpreter.run_node(node)
        self._interpreter.env = {}
        return values


class _Teaching:
    """A block that learns to make what is ``wanted`` of each batch, errors counted by their ``weight``."""

    def __init__(
        self, block: Block, side: _Side, wanted: Sequence[list[Tensor]], task: Task, weight: Tensor | None
    ) -> None:
        self.block, self.side, self.wanted, self.task = block, side, wanted, task
        self.weight: Tensor | float = 1.0 if weight is None else weight
        means = [made[0].double().mean() for made in wanted]
        mean = torch.stack(means).mean()
        self.unit = max(float(torch.stack([(m[0].double() - mean).square().mean() for m in wanted]).mean()), 1e-12)
        self.judges: list[int] = list(range(JUDGE - 1, len(wanted), JUDGE))
        self.teachers: list[int] = [number for number in range(len(wanted)) if number not in self.judges]

    def loss(self, number: int) -> Tensor:
        """How far the block is off on a batch."""
        made, wanted = self.side.end(self.block.own, number), self.wanted[number]
        if self.block.last:
            return self.task.distance(made, wanted)
        return ((made[0] - wanted[0]).square() * self.weight).mean() / self.unit

    @torch.no_grad()
    def judge(self) -> float:
        """The loss on batches that teach nothing."""
        return sum(float(self.loss(number)) for number in self.judges) / len(self.judges)

    def teach(self, steps: int, generator: torch.Generator, progress: Progress, until: float | None) -> BlockFit:
        """Learn, in ``steps`` or as many as there is time for; what was is put back where that is not better."""
        end = "outputs" if self.block.last else self.block.own[-1].name
        before, parameters = self.judge(), self.block.parameters
        if not parameters or not before > NEAR:
            return BlockFit(end, before, before)
        was = [parameter.detach().clone() for parameter in parameters]
        sizes = [max(float(parameter.square().mean().sqrt()), LEAST_SIZE) for parameter in was]
        groups = [{"params": [parameter], "size": size} for parameter, size in zip(parameters, sizes, strict=True)]
        optimizer, begun, order = torch.optim.Adam(groups, RATE), time.monotonic(), list[int]()
        for step in range(steps):
            share = step / steps
            if until is not None:
                share = max(share, (time.monotonic() - begun) / max(until - begun, 1e-9))
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["size"] * RATE * 0.5 * (1 + math.cos(math.pi * share))
            if not order:
                order = [self.teachers[i] for i in torch.randperm(len(self.teachers), generator=generator)]
            with torch.enable_grad():
                loss = self.loss(order.pop())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            optimizer.step()
            progress(share)
        reached = self.judge()
        if reached < before:
            return BlockFit(end, before, reached)
        with torch.no_grad():
            for parameter, value in zip(parameters, was, strict=True):
                parameter.copy_(value)
        return BlockFit(end, before, before)
