"""Accuracy prices: what each choice alone does to the network's outputs on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.compress.forms import reconstructed
from edgesdk.compress.integers import ACTIVATION_RANGE, MINIMUM_SCALE
from edgesdk.compress.network import Batch, Network, tensors
from edgesdk.compress.task import Task
from edgesdk.graph import WEIGHTED, Layer
from edgesdk.plan import INT8, Option
from edgesdk.price.menu import Losses
from edgesdk.price.operators import widths

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Progress = Callable[[int, int], None]


def importance(network: Network, batches: Iterable[tuple[Batch, Tensor | None]], task: Task) -> dict[str, Tensor]:
    """How much each channel of each group matters: shape (channels,), greater is more important.

    First-order Taylor (Molchanov et al. 2019, eq. 8): the mean over samples of the squared change in loss if the
    channel were zero, ``(sum over positions of activation * gradient)^2``, added up over the tensors of the group.
    Without labels the dense network's own decisions stand for them.
    """
    tensors_of = {
        g.name: [n for n in network.graph.layers if n.writes == g.name] for g in network.graph.groups if not g.fixed
    }
    scores = {name: torch.zeros(network.graph.group_by_name[name].size) for name in tensors_of}
    if not scores:
        return scores
    for x, y in batches:
        interpreter = fx.Interpreter(network.module, garbage_collect_values=False)
        with torch.enable_grad():
            outputs = list(interpreter.run(*(t.requires_grad_(t.is_floating_point()) for t in _detached(x))))
            values = {node.name: value for node, value in interpreter.env.items()}
            loss = task.supervised(outputs, y)
            wanted = [
                (g, layer) for g, found in tensors_of.items() for layer in found if layer.kind in (*WEIGHTED, "add")
            ]
            found = [values[network.sites[layer.name].output] for _, layer in wanted]
            gradients = torch.autograd.grad(loss * len(tensors(x)[0]), found, allow_unused=True)
        for (group, layer), value, gradient in zip(wanted, found, gradients, strict=True):
            if gradient is not None:
                product = (value * gradient).detach()
                channels = product.transpose(1, -1) if layer.kind == "linear" else product
                per_sample = channels.flatten(2).sum(2) if channels.dim() > 2 else channels
                scores[group] += per_sample.square().sum(0)
    return scores


def _detached(x: Batch) -> list[Tensor]:
    return [t.detach().clone() for t in tensors(x)]


def kept_channels(scores: Tensor, kept: int) -> list[int]:
    """The indices of the ``kept`` most important channels, in order."""
    return sorted(scores.argsort(descending=True, stable=True)[:kept].tolist())


def sense(
    network: Network,
    offered: Mapping[str, tuple[Option, ...]],
    x: Batch,
    scores: Mapping[str, Tensor],
    task: Task,
    progress: Progress = lambda done, of: None,
) -> Losses:
    """What each width, option and branch alone costs in fidelity to the dense network on the inputs ``x``.

    BatchNorm takes its statistics from ``x`` itself, as recovery would re-estimate them.
    """
    probe = _Variants(network, x, task)
    graph = network.graph
    groups = [group for group in graph.groups if group.fixed is None]
    steps = sum(len(widths(g.size)) - 1 for g in groups) + len(graph.branches) + len(graph.layers)
    done = 0

    def step(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(min(done, steps), steps)

    by_width: dict[str, dict[int, float]] = {}
    for group in groups:
        losses = {group.size: 0.0}
        for kept in sorted(widths(group.size), reverse=True)[1:]:
            stay = set(kept_channels(scores[group.name], kept))
            cut = [c for c in range(group.size) if c not in stay]
            losses[kept] = max(probe.masked(group.name, cut), losses[min(losses)])
            step()
        by_width[group.name] = losses
    by_branch = {}
    for branch in graph.branches:
        by_branch[branch.name] = probe.without(branch.join, branch.keeps)
        step()
    by_option: dict[str, dict[str, float]] = {}
    for layer in graph.layers:
        by_option[layer.name] = {str(option): 0.0 for option in offered[layer.name]}
        bits = {o.weight_bits for o in offered[layer.name] if o.precision == INT8}
        quantized = {b: probe.quantized(layer, b) for b in bits}
        forms = {o.form for o in offered[layer.name] if o.form is not None}
        factorized = {form: probe.factorized(layer, form) for form in forms}
        for option in offered[layer.name]:
            price = quantized[option.weight_bits] if option.precision == INT8 else 0.0
            price += factorized[option.form] if option.form is not None else 0.0
            by_option[layer.name][str(option)] = price
        step()
    return Losses(by_width, by_option, by_branch)


class _Variants:
    """The dense network's values on ``x``, and what becomes of its outputs when one thing in it is changed."""

    def __init__(self, network: Network, x: Batch, task: Task) -> None:
        self.network, self.task = network.copy(), task
        self.module = self.network.module
        for part in self.module.modules():
            if isinstance(part, NORMS):
                part.training, part.momentum = True, 0.0
        self.by_target = {n.target: n for n in self.module.graph.nodes if n.op == "call_module"}
        interpreter = fx.Interpreter(self.module, garbage_collect_values=False)
        with torch.no_grad():
            interpreter.run(
                *(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors(x))
            )
        self.values: dict[fx.Node, Any] = dict(interpreter.env)
        self.outputs = [self.values[n] for n in self.output_nodes()]

    @torch.no_grad()
    def loss(self, edits: Mapping[fx.Node, Callable[[Any], Any]]) -> float:
        """The loss with the values of some nodes edited; only what depends on them is computed again."""
        interpreter = fx.Interpreter(self.module)
        values: dict[fx.Node, Any] = {}
        for node in self.module.graph.nodes:
            if node.op == "output":
                break
            dirty = any(i in values for i in node.all_input_nodes)
            if not dirty and node not in edits:
                continue
            if dirty or node.op == "call_module":
                interpreter.env = {i: values.get(i, self.values[i]) for i in node.all_input_nodes}
                value = interpreter.run_node(node)
            else:
                value = self.values[node]
            values[node] = edits[node](value) if node in edits else value
        return self.task.fidelity_loss([values.get(n, self.values[n]) for n in self.output_nodes()], self.outputs)

    def output_nodes(self) -> list[fx.Node]:
        node = next(n for n in self.module.graph.nodes if n.op == "output")
        return [n for n in node.args[0] if isinstance(n, fx.Node)]

    @contextmanager
    def weights(self, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """The weights of some submodules changed for a while; each is a function of the original."""
        before = {}
        for path, change in changes.items():
            part = self.module.get_submodule(path)
            before[path] = part.weight.data  # type: ignore[union-attr]
            part.weight.data = change(part.weight.data)  # type: ignore[union-attr,operator]
        try:
            yield
        finally:
            for path, weight in before.items():
                self.module.get_submodule(path).weight.data = weight  # type: ignore[union-attr,assignment]

    def masked(self, group: str, channels: list[int]) -> float:
        """Loss with ``channels`` of ``group`` zero wherever a layer reads them."""
        edits = {}
        for layer in self.network.graph.layers:
            if layer.writes == group:
                node = self.network.node(layer.name)
                size = self.network.graph.group_by_name[group].size
                edits[node] = lambda v, last=layer.kind == "linear", n=size: _zeroed(v, channels, n, last)
        return self.loss(edits)

    def without(self, join: str, keeps: str) -> float:
        """Loss with the addition ``join`` passing on what ``keeps`` makes."""
        node = self.network.node(join)
        while node.target is not torch.ops.aten.add.Tensor:
            node = node.all_input_nodes[0]
        kept = self.values[self.network.node(keeps)]
        return self.loss({node: lambda _: kept})

    def factorized(self, layer: Layer, form: Any) -> float:
        path = self.network.sites[layer.name].module
        assert path is not None
        weight = reconstructed(self.module.get_submodule(path), form)
        with self.weights({path: lambda _: weight}):
            return self.loss({self.by_target[path]: lambda v: v})

    def quantized(self, layer: Layer, bits: int) -> float:
        """Loss with the layer's weights and output on integer grids."""
        output = {self.network.node(layer.name): _on_grid}
        path = self.network.sites[layer.name].module
        if layer.kind not in WEIGHTED or path is None:
            return self.loss(output)
        with self.weights({path: lambda w: _weights_on_grid(w, bits)}):
            return self.loss({self.by_target[path]: lambda v: v, **output})


def _zeroed(value: Tensor, channels: list[int], size: int, last: bool) -> Tensor:
    """``value`` with ``channels`` zero; a flattened tensor has several entries in a row for each."""
    axis = value.dim() - 1 if last else 1
    each = value.shape[axis] // size
    rows = torch.tensor([c * each + i for c in channels for i in range(each)])
    return value.index_fill(axis, rows, 0.0)


def _on_grid(value: Tensor) -> Tensor:
    low, high = value.amin().clamp(max=0), value.amax().clamp(min=0)
    scale = ((high - low) / (ACTIVATION_RANGE[1] - ACTIVATION_RANGE[0])).clamp(min=MINIMUM_SCALE)
    return (value / scale).round() * scale


def _weights_on_grid(weight: Tensor, bits: int) -> Tensor:
    limit = 2 ** (bits - 1) - 1
    scale = (weight.abs().flatten(1).amax(1) / limit).clamp(min=MINIMUM_SCALE).reshape(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round() * scale
