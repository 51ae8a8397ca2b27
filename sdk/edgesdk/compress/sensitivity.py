"""Accuracy prices: what each choice alone does to the network's outputs on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.compress.curvature import Curvature, work_of
from edgesdk.compress.forms import activated, factorized
from edgesdk.compress.integers import ACTIVATION_RANGE, MINIMUM_SCALE
from edgesdk.compress.segments import Segmented
from edgesdk.compress.stored import packed_as
from edgesdk.core.graph import ADD, WEIGHTED, Branch, Group, Layer
from edgesdk.core.plan import INT8, Form, Option
from edgesdk.data.task import Task
from edgesdk.network.kept import kept_channels
from edgesdk.network.network import Batch, Network, tensors
from edgesdk.price.menu import Losses
from edgesdk.price.operators import levels
from edgesdk.techniques.layouts import as_stored, output_axis
from edgesdk.techniques.reconstruction import Moments, least_squares, output_rows, weight_rows, window_rows

ROWS = 16_384  # of a tensor's places, by which its channels are fitted
LARGE = 256  # rows of a matrix of which solving takes long
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def importance(network: Network, batches: Iterable[tuple[Batch, Tensor | None]], task: Task) -> dict[str, Tensor]:
    """How much each channel of each group matters: shape (channels,), greater is more important.

    First-order Taylor (Molchanov et al. 2019, eq. 8): the mean over samples of the squared change in loss if the
    channel were zero, ``(sum over positions of activation * gradient)^2``, added up over the tensors of the group.
    Without labels the dense network's own decisions stand for them.
    """
    tensors_of = {g.name: _judged(network, g) for g in network.graph.groups if not g.fixed}
    scores = {name: torch.zeros(network.graph.group_by_name[name].size) for name in tensors_of}
    if not scores:
        return scores
    wanted = {node for nodes in tensors_of.values() for node in nodes}
    for x, y in batches:
        given, count = tensors(x), len(tensors(x)[0])
        loss = partial(_total_loss, task, y, count)
        for node, value, (gradient,) in Segmented(network.module, given).gradients(wanted, loss):
            for group, (axis, of) in [(group, nodes[node]) for group, nodes in tensors_of.items() if node in nodes]:
                places = (value * gradient).movedim(axis, 1)
                per_sample = places.flatten(2).sum(2) if places.dim() > 2 else places
                channels = torch.zeros(len(per_sample), len(scores[group]))
                channels.index_add_(1, of[of >= 0], per_sample[:, of >= 0])
                scores[group] += channels.square().sum(0)
    return scores


def _total_loss(task: Task, y: Any, samples: int, outputs: list[Tensor]) -> Iterator[Tensor]:
    yield task.attribution(outputs, y) * samples


def _judged(network: Network, group: Group) -> dict[fx.Node, tuple[int, Tensor]]:
    """The tensors by which the channels of ``group`` are scored, their axis, and which channel is at each place of it.

    These are what its layers make and what is added up of them; of heads, and where none has them on an axis of their
    own, what is read of them.
    """
    made = {}
    if not group.heads:
        sums = {n.name for n in network.graph.layers if n.writes == group.name and n.kind == ADD}
        nodes = [network.node(name) for name in network.graph.by_name if name in sums.union(group.layers)]
        places = {node: network.along(node, group.name) for node in nodes}
        made = {node: place for node, place in places.items() if place is not None}
    return made or network.entries(group.name)


def measure_sensitivity(
    network: Network,
    space: Mapping[str, tuple[Option, ...]],
    x: Batch,
    scores: Mapping[str, Tensor],
    task: Task,
    y: Any = None,
) -> Losses:
    """What each width, option and branch alone costs in fidelity to the dense network on the inputs ``x``."""
    *_, last = measure_stepwise(network, space, x, scores, task, y)
    return last.losses.never_less()


@dataclass(frozen=True)
class Sensed:
    """What is known after ``done`` of ``of`` steps; its widths are as they were measured, each alone."""

    losses: Losses
    done: int
    of: int


def measure_stepwise(
    network: Network,
    space: Mapping[str, tuple[Option, ...]],
    x: Batch,
    scores: Mapping[str, Tensor],
    task: Task,
    y: Any = None,
    measured: Losses = Losses(),  # noqa: B008  it is frozen
    structure: bool = True,
    horizon: float = inf,
) -> Iterator[Sensed]:
    """What each option, branch and width alone costs in fidelity to the dense network, one step after the other.

    A compressed network's weights are fitted to what the dense one answers (:mod:`edgesdk.compress.refit`): here the
    layers that read what was changed make up for it as far as a linear function can, and BatchNorm takes its statistics
    from ``x`` itself. ``y`` are the targets of ``x``, where the task has a loss of the user's own.

    What is ``measured`` is not measured again. Options come first, then branches, then widths from coarse to fine, so
    that whoever stops in between has what matters most. Without ``structure`` it ends with the options.
    """
    graph = network.graph
    groups = [group for group in graph.groups if group.fixed is None]
    nothing = Losses.as_it_is(graph)
    widths = {name: {**losses, **measured.widths.get(name, {})} for name, losses in nothing.widths.items()}
    options = {name: {**losses, **measured.options.get(name, {})} for name, losses in nothing.options.items()}
    branches = dict(measured.branches)

    def price_options(layer: Layer, probe: _Variants) -> None:
        bits = {o.weight_bits for o in space[layer.name] if o.precision == INT8}
        quantized = {b: probe.quantized(layer, b) for b in bits}
        forms = {o.form for o in space[layer.name] if o.form is not None}
        formed = {form: probe.formed(layer, form) for form in forms}
        for option in space[layer.name]:
            price = quantized[option.weight_bits] if option.precision == INT8 else 0.0
            price += formed[option.form] if option.form is not None else 0.0
            options[layer.name][option] = price

    def price_branch(branch: Branch, probe: _Variants) -> None:
        branches[branch.name] = probe.without(branch.join, branch.keeps)

    def price_width(group: Group, kept: int, probe: _Variants) -> None:
        stay = set(kept_channels(scores[group.name], kept, group.step, group.shares))
        widths[group.name][kept] = probe.cut(group.name, [c for c in range(group.size) if c not in stay])

    steps: list[Callable[[_Variants], None]] = [
        partial(price_options, layer) for layer in graph.layers if set(space[layer.name]) - set(options[layer.name])
    ]
    if structure:
        steps += [partial(price_branch, branch) for branch in graph.branches if branch.name not in branches]
        cuts = [(level, group, kept) for group in groups for kept, level in levels(group.size, group.step).items()]
        steps += [
            partial(price_width, group, kept)
            for _, group, kept in sorted(cuts, key=lambda cut: cut[0])
            if kept not in widths[group.name]
        ]
    losses = Losses(widths, options, branches)
    yield Sensed(losses, 0, len(steps))
    probe = _Variants(network, x, task, y, horizon) if steps else None
    for done, step in enumerate(steps, 1):
        assert probe is not None
        step(probe)
        yield Sensed(losses, done, len(steps))


class _Variants:
    """The dense network's values on ``x``, and what becomes of its outputs when one thing in it is changed."""

    def __init__(self, network: Network, x: Batch, task: Task, y: Any = None, horizon: float = inf) -> None:
        self.network, self.task, self.y, self.horizon = network.copy(), task, y, horizon
        self.module = self.network.module
        for part in self.module.modules():
            if isinstance(part, NORMS):
                part.training, part.momentum = True, 0.0
        self.by_target = {n.target: n for n in self.module.graph.nodes if n.op == "call_module"}
        given = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors(x)]
        self.values = Segmented(self.module, given)
        self.outputs = self.values.outputs
        self.curvature = Curvature.of(self.network, self.values, horizon, task) if horizon < inf else None
        self.covariances: dict[tuple[fx.Node, int], _Covariance] = {}
        self.work = work_of(self.network)
        self.nodes = self.values.nodes
        self.place = {node: place for place, node in enumerate(self.nodes)}
        self.last = {read: node for node in self.nodes for read in node.all_input_nodes}

    @torch.no_grad()
    def loss(self, edits: Mapping[fx.Node, Callable[[Any], Any]]) -> float:
        """The loss with the values of some nodes edited; only what depends on them is computed again."""
        interpreter = fx.Interpreter(self.module)
        values: dict[fx.Node, Any] = {}
        done = 0.0
        for node in self.nodes[min(map(self.place.__getitem__, edits)) :]:
            dirty = any(i in values for i in node.all_input_nodes)
            if not dirty and node not in edits:
                continue
            if dirty:
                interpreter.env = {i: values[i] if i in values else self.values[i] for i in node.all_input_nodes}
                value = interpreter.run_node(node)
                for read in node.all_input_nodes:
                    if self.last[read] is node and read not in self.values.output_nodes:
                        values.pop(read, None)
            else:
                value = self.values[node]
            values[node] = edits[node](value) if node in edits else value
            done += self.work.get(node, 0.0)
            if self.curvature is not None and done >= self.horizon and node in self.curvature.values:
                return self.curvature.loss(node, values[node])
        dense = zip(self.values.output_nodes, self.outputs, strict=True)
        return self.task.fidelity_loss([values.get(node, value) for node, value in dense], self.outputs, self.y)

    @torch.no_grad()
    def reweighted(self, path: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        """What the submodule ``path`` makes of the dense network's values with its weight changed."""
        part: Any = self.module.get_submodule(path)
        x = self.values[self.by_target[path].all_input_nodes[0]]
        return torch.func.functional_call(part, {"weight": change(part.weight.data)}, (x,))

    def cut(self, group: str, channels: list[int]) -> float:
        """Loss with ``channels`` of ``group`` gone wherever a layer reads them, its weights making up for them.

        What the channels that stay say of them linearly stands in their place: readers can take that into their
        weights, as they will when they are fitted.
        """
        entries = self.network.entries(group).items()
        return self.loss({node: self._explained(node, channels, axis, of) for node, (axis, of) in entries})

    def _explained(self, node: fx.Node, channels: list[int], axis: int, of: Tensor) -> Callable[[Tensor], Tensor]:
        """A tensor like the value of ``node`` with ``channels`` as a linear function of the others.

        ``of`` says which channel is at each place of ``axis``.
        """
        if (node, axis) not in self.covariances:
            self.covariances[node, axis] = _Covariance.of(self.values[node], axis)
        leaving = torch.isin(of, torch.tensor(channels))
        gone, stay = torch.nonzero(leaving).flatten(), torch.nonzero(~leaving).flatten()
        guess = self.covariances[node, axis].explain(gone, stay)
        return lambda v: v.index_copy(axis, gone, guess(v.index_select(axis, stay)))

    def without(self, join: str, keeps: str) -> float:
        """Loss with the addition ``join`` passing on what ``keeps`` makes, its readers' weights making up for it."""
        node = self.network.node(join)
        kept = self.values[self.network.node(keeps)]
        if node.target is not torch.ops.aten.add.Tensor:
            kept = kept.clamp(min=0)
        whole = self.values[node]
        guess = _linear(kept, whole, 1 if whole.dim() == 4 else whole.dim() - 1)
        return self.loss({node: lambda _: guess(kept)})

    def formed(self, layer: Layer, form: Form) -> float:
        """Loss with the layer in another form; the last of its parts is fitted to what the layer answers."""
        path, node = self.network.sites[layer.name].module, self.network.node(layer.name)
        if path is None:
            x = self.values[node.all_input_nodes[0]]
            return self.loss({node: lambda _: activated(form, x)})
        if form.stored:
            stored = self.reweighted(path, lambda weight: packed_as(weight, form).decoded())
            return self.loss({self.by_target[path]: lambda _: stored})
        call = self.by_target[path]
        *before, last = factorized(self.module.get_submodule(path), form)
        x, wanted = self.values[call.all_input_nodes[0]], self.values[call]
        for part in before:
            x = part(x)
        _fit(last, x, wanted)
        return self.loss({call: lambda _: last(x)})

    def quantized(self, layer: Layer, bits: int) -> float:
        """Loss with the layer's weights and output on integer grids."""
        output, path = self.network.node(layer.name), self.network.sites[layer.name].module
        if layer.kind not in WEIGHTED or path is None:
            return self.loss({output: _on_grid})
        call, axis = self.by_target[path], output_axis(self.module.get_submodule(path))
        made = self.reweighted(path, lambda weight: _weights_on_grid(weight, axis, bits))
        return self.loss({call: lambda _: made, output: lambda v: _on_grid(made if output is call else v)})


@dataclass(frozen=True)
class _Covariance:
    """The means of what lies along an ``axis`` of a tensor, and how it varies together, over ``rows`` places."""

    axis: int
    means: Tensor
    products: Tensor
    rows: int

    @classmethod
    def of(cls, value: Tensor, axis: int) -> _Covariance:
        rows = value.movedim(axis, -1).flatten(0, -2)
        rows = rows[:: max(1, len(rows) // ROWS)]
        means = rows.mean(0)
        rows = rows - means
        return cls(axis, means, rows.T @ rows, len(rows))

    def explain(self, wanted: Tensor, given: Tensor) -> Callable[[Tensor], Tensor]:
        """The linear function of what is at the places ``given`` that is nearest to what is at those ``wanted``."""
        inner = self.products[given][:, given]
        some = _damping(len(given), self.rows) * inner.diagonal().mean().clamp(min=1e-9)
        weight = _solved(inner + some * torch.eye(len(given)), self.products[given][:, wanted])
        means = self.means[given], self.means[wanted]
        return lambda v: ((v.movedim(self.axis, -1) - means[0]) @ weight + means[1]).movedim(-1, self.axis)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """What ``matrix``, symmetric and positive definite, makes ``right`` of; a large one in half of the time by that."""
    if len(matrix) >= LARGE:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return torch.cholesky_solve(right, factor)
    return torch.linalg.solve(matrix, right)


def _linear(x: Tensor, y: Tensor, axis: int) -> Callable[[Tensor], Tensor]:
    """The function of ``x``, linear along ``axis`` and the same everywhere else, that is nearest to ``y``."""
    given = torch.arange(x.shape[axis])
    return _Covariance.of(torch.cat([x, y], axis), axis).explain(given + x.shape[axis], given)


@torch.no_grad()
def _fit(layer: Any, x: Tensor, y: Tensor) -> None:
    """Set the weights of ``layer`` to those with which it answers ``x`` most nearly with ``y``."""
    weight = weight_rows(layer)
    own: Tensor | None = layer.bias
    bias = None if own is None else own.detach().reshape(weight.shape[:2])
    moments = Moments.empty(len(weight), weight.shape[2], weight.shape[1])
    some = slice(None, None, max(1, y.numel() // (weight.shape[0] * weight.shape[1]) // ROWS))  # samples
    moments.add(window_rows(layer, x[some]), output_rows(layer, y[some]))
    weight, fitted = least_squares(moments, weight, bias, _damping(weight.shape[2], moments.count))
    layer.weight.copy_(as_stored(layer, weight))
    if own is not None and fitted is not None:
        own.copy_(fitted.flatten())


def _damping(columns: int, rows: int) -> float:
    """Of a fit of so many columns over so many rows: the fewer the rows, the less is believed."""
    return max(1e-3, columns / rows)


def _on_grid(value: Tensor) -> Tensor:
    low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
    scale = ((high - low) / (ACTIVATION_RANGE[1] - ACTIVATION_RANGE[0])).clamp(min=MINIMUM_SCALE)
    return (value / scale).round() * scale


def _weights_on_grid(weight: Tensor, axis: int, bits: int) -> Tensor:
    limit = 2 ** (bits - 1) - 1
    others = [a for a in range(weight.dim()) if a != axis]
    scale = (weight.abs().amax(others, keepdim=True) / limit).clamp(min=MINIMUM_SCALE)
    return (weight / scale).round() * scale
