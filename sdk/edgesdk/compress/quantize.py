"""A network with integer layers: where its tensors are quantized, on what ranges, and how its weights are rounded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.compress.activation_ranges import choose, see, usual
from edgesdk.compress.integers import (
    UNSIGNED,
    ActivationQuantizer,
    FrozenLayer,
    Grid,
    IntegerLayer,
    TensorSpec,
)
from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ACTIVATION, ADD, CONV, FLATTEN, LINEAR, MEAN, POOL, WEIGHTED
from edgesdk.core.plan import INT8, Option
from edgesdk.network.network import Batch, Network, Site, call_of, tensors
from edgesdk.network.shared import share, shares_with
from edgesdk.techniques.equalization import equalize_all
from edgesdk.techniques.layouts import TRANSPOSED, as_stored, by_output, output_count
from edgesdk.techniques.ranges import Histogram, entropy, mse, percentile
from edgesdk.techniques.reconstruction import Moments, output_rows, weight_rows, window_rows
from edgesdk.techniques.rounding import adaround

PASSES_ON = (POOL, FLATTEN, ACTIVATION)  # kinds whose integer form keeps the grid of their input
MOMENTUM = 0.05  # of ranges that follow while training
STEPS = ("channel", "layer", "network")  # what may have one step for its weights
RANGES = ("chosen", "min-max", "percentile", "entropy", "mse")
ROUNDINGS = ("nearest", "adaptive")
ROUNDED = 256  # samples that adaptive rounding sees: it keeps every layer's outputs of all of them
ROWS = 2**22  # numbers of windows that are unfolded at a time


def frozen(network: Network) -> Network:
    """A copy of an integer network with its weights and zero points stored as integers, for export."""
    network = network.copy()
    for path, part in list(network.module.named_modules()):
        if isinstance(part, IntegerLayer):
            network.module.set_submodule(path, FrozenLayer(part))
        elif isinstance(part, ActivationQuantizer):
            part.freeze()
    return network


def fold(network: Network) -> Network:
    """``network`` with each BatchNorm folded into the layer before it, and its own bias in every weighted layer."""
    module = copy.deepcopy(network.module).eval()
    sites = dict(network.sites)
    for name, site in network.sites.items():
        if site.module is None:
            continue
        part = module.get_submodule(site.module)
        if site.norm is not None:
            norm = module.get_submodule(site.norm)
            part = _with_norm(part, norm)
            node = call_of(module, site.norm)
            before = node.all_input_nodes[0]
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
            output = before.name if site.output == node.name else site.output
            sites[name] = Site(site.module, None, output)
        elif part.bias is None:
            part.bias = nn.Parameter(part.weight.new_zeros(output_count(part)))  # type: ignore[union-attr,operator,index]
        elif shares_with(part) is not None:  # what is off is made up for in each call
            part.bias = nn.Parameter(part.bias.detach().clone(), part.bias.requires_grad)  # type: ignore[union-attr,operator,arg-type]
        module.set_submodule(site.module, part)
    share(module, ("weight",))
    module.delete_all_unused_submodules()
    module.recompile()
    return replace(network, module=module, sites=sites)


def _with_norm(part: nn.Module, norm: Any) -> nn.Module:
    """``part`` and the BatchNorm behind it as one layer."""
    if not isinstance(part, TRANSPOSED):
        fuse = nn.utils.fuse_linear_bn_eval if isinstance(part, nn.Linear) else nn.utils.fuse_conv_bn_eval
        return fuse(part, norm)  # type: ignore[type-var,return-value]
    made = copy.deepcopy(part)
    bias = norm.running_mean.new_zeros(len(norm.running_mean)) if part.bias is None else part.bias
    scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
    shift = 0.0 if norm.bias is None else norm.bias
    rows = by_output(part, part.weight)
    rows = rows * scale.reshape(-1, *[1] * (rows.dim() - 1))
    made.weight = nn.Parameter(as_stored(part, rows).detach().contiguous(), part.weight.requires_grad)
    made.bias = nn.Parameter(((bias - norm.running_mean) * scale + shift).detach(), part.weight.requires_grad)
    return made


def integer(
    network: Network,
    options: Mapping[str, Option],
    grid: Grid = UNSIGNED,
    step: str = "channel",
    equalized: bool = False,
) -> Network:
    """``network``, folded, with the layers that ``options`` calls int8 simulated as integer layers on ``grid``.

    A tensor is quantized where its maker or any of its readers is an integer layer. What an integer layer makes is
    read on its grid by all; what a float layer makes, by its integer readers alone. On a grid that is for integer
    layers alone both are read so, and only layers with weights are integer. Ranges must be set by
    :func:`calibrate` before use. Weights have a ``step`` per output channel, one per layer, or one for the whole
    network. ``equalized`` first scales channels of layers in a row to equal ranges. Raises ``UsageError`` for another
    ``step``.
    """
    if step not in STEPS:
        raise UsageError(f"there is no step per {step!r}", f"choose {', '.join(STEPS)}")
    network = fold(network)
    if equalized:
        equalize_all(_in_a_row(network))
    graph, module = network.graph, network.module
    whole = {name for name, option in options.items() if option.precision == INT8 and name in graph.by_name}
    if grid.alone:
        whole = {name for name in whole if graph.by_name[name].kind in WEIGHTED}
    order = [tensor.name for tensor in graph.inputs] + [layer.name for layer in graph.layers]
    quantizers: dict[str, ActivationQuantizer] = {}
    for name in order:
        readers = [reader for reader in graph.readers[name] if reader in whole]
        made = name in whole and not grid.alone
        if not readers and not made:
            continue
        if made and graph.by_name[name].kind in PASSES_ON:
            quantizers[name] = quantizers[graph.by_name[name].inputs[0]]
        else:
            quantizers[name] = ActivationQuantizer(grid)
        node = network.node(name)
        path = next((path for path, part in module.named_children() if part is quantizers[name]), None)
        if path is None:
            path = _free(module, f"quantizer_{node.name}")
            module.add_submodule(path, quantizers[name])
        with module.graph.inserting_after(node):
            quantized = module.graph.call_module(path, (node,))
        inside = {network.node(reader) for reader in readers} | {_first(network, reader) for reader in readers}
        node.replace_all_uses_with(
            quantized, lambda user, q=quantized, r=inside, m=made: user is not q and (m or user in r)
        )
    weighted = [layer for layer in graph.layers if layer.name in whole and layer.kind in WEIGHTED]
    every = [network.submodule(layer.name) for layer in weighted]
    for layer, inner in zip(weighted, every, strict=True):
        sharing = {"channel": [], "layer": [inner], "network": every}[step]
        part = IntegerLayer(inner, options[layer.name].weight_bits, quantizers[layer.inputs[0]], sharing)
        module.set_submodule(str(network.sites[layer.name].module), part)
        if layer.name in quantizers:
            quantizers[layer.name].makers.append(part)
    for layer in graph.layers:
        if layer.name in quantizers and layer.operator == "add":
            quantizers[layer.name].makers.extend(quantizers[name] for name in layer.inputs if name in quantizers)
    module.recompile()
    return network


def _free(module: nn.Module, name: str) -> str:
    """``name``, or what is nearest to it that ``module`` does not have yet."""
    while hasattr(module, name):
        name += "_"
    return name


def _in_a_row(network: Network) -> list[tuple[nn.Module, nn.Module]]:
    """The weighted modules whose outputs a single other one reads, through nothing that a scale would not pass."""
    graph, layers = network.graph, []
    calls = [node.target for node in network.module.graph.nodes if node.op == "call_module"]
    for first in graph.layers:
        if first.kind not in WEIGHTED or first.activation not in (None, "relu"):
            continue
        last, between = first, set()
        while last.name not in graph.outputs and len(readers := graph.readers[last.name]) == 1:
            last = graph.by_name[readers[0]]
            if last.kind not in (POOL, FLATTEN, MEAN) and last.operator != "relu":
                break
            between.add(last.kind)
        fits = {
            (CONV, CONV): True,
            (CONV, LINEAR): bool(between & {MEAN, FLATTEN}),  # else it would read the last axis of an image
            (LINEAR, LINEAR): FLATTEN not in between,  # of tokens, it would not leave channels in a row
        }.get((first.kind, last.kind), False)
        paths = [network.sites[layer.name].module for layer in (first, last)]
        if last is not first and fits and all(calls.count(path) == 1 for path in paths):
            parts = network.submodule(first.name), network.submodule(last.name)
            if not any(map(shares_with, parts)):
                layers.append(parts)
    return layers


def _first(network: Network, layer: str) -> fx.Node:
    """The node with which ``layer`` starts: the one that reads its inputs."""
    site = network.sites[layer]
    if site.module is not None:
        return call_of(network.module, site.module)
    node = network.node(layer)
    if network.graph.by_name[layer].kind == ADD and network.graph.by_name[layer].activation:
        return node.all_input_nodes[0]
    return node


@contextmanager
def observing(network: Network, momentum: float | None = MOMENTUM) -> Iterator[None]:
    """Within it the ranges of all activation quantizers follow the data."""
    quantizers = [part for part in network.module.modules() if isinstance(part, ActivationQuantizer)]
    for part in quantizers:
        part.observing, part.momentum = True, momentum
    try:
        yield
    finally:
        for part in quantizers:
            part.observing = False
        bound_steps(network)


@contextmanager
def learning(network: Network) -> Iterator[None]:
    """Within it the steps of all integer tensors are parameters that train (Esser et al. 2020); they stay as they end.

    They begin where :func:`calibrate` set them, instead of at the paper's ``2 mean(|v|) / sqrt(Q_P)``, and are learned
    in units of that. Zero points stay. Layers that share a step share its parameter.
    """
    parts = [part for part in network.module.modules() if isinstance(part, (ActivationQuantizer, IntegerLayer))]
    shared: dict[int, nn.Parameter] = {}
    weights: dict[tuple[int, int], IntegerLayer] = {}
    for part in parts:
        if isinstance(part, IntegerLayer) and part.sharing:
            part.learn(shared.setdefault(id(part.sharing), nn.Parameter(torch.ones(()))))
        elif isinstance(part, IntegerLayer):
            first = weights.setdefault((id(part.inner.weight), part.bits), part)  # calls of a layer have one step
            part.learn(first.growth)
            part.step = first.step
        else:
            part.learn()
    try:
        yield
    finally:
        for part in parts:
            part.settle()
        bound_steps(network)


@torch.no_grad()
def bound_steps(network: Network) -> None:
    """Let no step be finer than its grid allows, now that what makes the tensor is as it stays."""
    for part in network.module.modules():
        if isinstance(part, ActivationQuantizer):
            part.bound()


def suited(options: Mapping[str, Option]) -> str:
    """The rounding that pays where nothing is trained: ``adaptive`` takes seconds, and helps coarse weights."""
    return "adaptive" if any(option.weight_bits < 8 for option in options.values()) else "nearest"


@torch.no_grad()
def calibrate(network: Network, batches: Iterable[Batch], ranges: str = "chosen", rounding: str = "nearest") -> None:
    """Set the range of every activation quantizer to what it sees in ``batches`` of inputs, in place.

    ``ranges`` says what of it: all (``min-max``), all but outliers where the outputs gain by that (``chosen``, see
    :mod:`edgesdk.compress.activation_ranges`), or what ``percentile``, ``entropy`` or ``mse`` in
    :mod:`edgesdk.techniques.ranges` choose; those are then held while training. With ``adaptive`` ``rounding`` weights
    are rounded for their layers' outputs on the first samples. What integer layers are off on average is last taken off
    their biases, where that brings the outputs nearer to those of the float layers. Raises ``UsageError`` for other
    names.
    """
    for name, choices in ((ranges, RANGES), (rounding, ROUNDINGS)):
        if name not in choices:
            raise UsageError(f"{name!r} is not one of {', '.join(choices)}", "choose one of these")
    batches = list(batches)
    network.module.eval()
    quantizers = [part for part in network.module.modules() if isinstance(part, ActivationQuantizer)]
    for part in quantizers:
        part.low.zero_()
        part.high.zero_()
        part.held = False
    with observing(network, None):
        for x in batches:
            network.module(*tensors(x))
    if not batches:
        return
    if ranges == "chosen":
        _exact(network, True)
        seen = see(network, batches)
        _exact(network, False)
        choose(network, batches, seen, lambda value: _exact(network, value))
        batches = usual(batches, seen)
    elif ranges != "min-max":
        _choose_ranges(network, quantizers, batches, ranges)
    layers = [part for part in network.module.modules() if isinstance(part, IntegerLayer)]
    exact = _exactly(network, layers, batches[0], _channel_means)
    if rounding == "adaptive":
        held = Counter(id(layer.inner.weight) for layer in layers)  # what suits one call may not suit another
        _round_adaptively(network, [layer for layer in layers if held[id(layer.inner.weight)] == 1], batches)
    _correct_biases(network, layers, batches[0], *exact)
    bound_steps(network)


def _choose_ranges(network: Network, quantizers: list[ActivationQuantizer], batches: list[Batch], ranges: str) -> None:
    """Narrow the ranges that were seen to what ``ranges`` chooses from histograms of the float network's tensors."""
    seen: dict[nn.Module, Histogram] = {}

    def note(part: nn.Module, inputs: Any, _: object) -> None:
        assert isinstance(part, ActivationQuantizer)
        low, high = float(part.low), float(part.high)
        histogram = Histogram.of(inputs[0].clamp(low, high), max(-low, high))
        seen[part] = seen[part] + histogram if part in seen else histogram

    _exact(network, True)
    for x in batches:
        _hooked(network, quantizers, note, x)
    _exact(network, False)
    for part, histogram in seen.items():
        assert isinstance(part, ActivationQuantizer)
        if ranges == "mse":
            low, high = mse(histogram, part.grid.high - part.grid.low, part.grid.symmetric)
        else:
            low, high = percentile(histogram) if ranges == "percentile" else entropy(histogram)
        part.low.fill_(low)
        part.high.fill_(high)
        part.fit()
        part.held = True


def _round_adaptively(network: Network, layers: list[IntegerLayer], batches: list[Batch]) -> None:
    """Round each layer's weights for what it reads and should make, layer after layer, where the outputs gain by it.

    AdaRound (Nagel et al. 2020), asymmetric: inputs as the layers before it now make them, outputs of the float layers.
    """
    x = [torch.cat(parts)[:ROUNDED] for parts in zip(*(tensors(batch) for batch in batches), strict=True)]
    wanted, exact = _exactly(network, layers, x, lambda _, output: output)
    plain = network.flat(x)
    before = [layer.inner.weight.clone() for layer in layers]  # type: ignore[operator,union-attr]

    def settle(layer: nn.Module, inputs: Any) -> None:
        assert isinstance(layer, IntegerLayer)
        rows = weight_rows(layer.inner)
        moments = Moments.empty(len(rows), rows.shape[2], rows.shape[1], rows.device)
        y = wanted.pop(layer)
        each = max(1, ROWS * len(y) // (y.numel() // rows.shape[1] * rows.shape[2]))
        for part, other in zip(inputs[0].split(each), y.split(each), strict=True):
            moments.add(window_rows(layer.inner, part), output_rows(layer.inner, other))
        layer.step = layer.scales()[0]
        bias: Tensor = layer.inner.bias  # type: ignore[assignment]
        scale = layer.step.reshape(*rows.shape[:2], 1)
        rounded = adaround(rows, scale, layer.limit, moments, bias.reshape(rows.shape[:2]))
        layer.inner.weight.copy_(as_stored(layer.inner, rounded))  # type: ignore[operator,union-attr]

    handles = [layer.register_forward_pre_hook(settle) for layer in layers]
    rounded = network.flat(x)
    for handle in handles:
        handle.remove()
    if _distance(rounded, exact) >= _distance(plain, exact):
        for layer, weight in zip(layers, before, strict=True):
            layer.inner.weight.copy_(weight)  # type: ignore[operator,union-attr]
            layer.step = None


def _exactly(
    network: Network, layers: list[IntegerLayer], x: Batch, seen: Callable[[IntegerLayer, Tensor], Tensor]
) -> tuple[dict[nn.Module, Tensor], list[Tensor]]:
    """What is ``seen`` of each layer's output where all layers are float, and the network's outputs."""
    solved: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, IntegerLayer)
        solved[layer] = seen(layer, output)

    _exact(network, True)
    outputs = _hooked(network, layers, note, x)
    _exact(network, False)
    return solved, outputs


def _correct_biases(
    network: Network, layers: list[IntegerLayer], x: Batch, wanted: Mapping[nn.Module, Tensor], exact: list[Tensor]
) -> None:
    """Take off each integer layer's bias by what its outputs are off on average, layer after layer.

    ``wanted`` are the float layers' channel means on ``x``, ``exact`` the outputs that they lead to. Nagel et al. 2019,
    "Data-Free Quantization through Weight Equalization and Bias Correction", section 4.2, from samples. It does not
    always help: where images have a flat background, which is nearly exact, an average moves that.
    """
    before = [layer.inner.bias.clone() for layer in layers]  # type: ignore[operator,union-attr]

    def correct(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(layer, IntegerLayer)
        off = wanted[layer] - _channel_means(layer, output)
        layer.inner.bias += off  # type: ignore[operator,union-attr]
        return output + (off if _is_linear(layer) else off.reshape(-1, *[1] * (output.dim() - 2)))

    plain = network.flat(x)
    corrected = _hooked(network, layers, correct, x)
    if _distance(corrected, exact) >= _distance(plain, exact):
        for layer, bias in zip(layers, before, strict=True):
            layer.inner.bias.copy_(bias)  # type: ignore[operator,union-attr]


def _exact(network: Network, value: bool) -> None:
    """Let integer layers compute as the float layers that they were, or not."""
    for part in network.module.modules():
        if isinstance(part, (IntegerLayer, ActivationQuantizer)):
            part.exact = value


def _hooked(network: Network, layers: Iterable[nn.Module], hook: Any, x: Batch) -> list[Tensor]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    outputs = network.flat(x)
    for handle in handles:
        handle.remove()
    return outputs


def _distance(outputs: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    return sum(float((a.double() - b.double()).square().sum()) for a, b in zip(outputs, exact, strict=True))


def _is_linear(layer: IntegerLayer) -> bool:
    return isinstance(layer.inner, nn.Linear)


def _channel_means(layer: IntegerLayer, output: Tensor) -> Tensor:
    axis = output.dim() - 1 if _is_linear(layer) else 1
    return output.mean([d for d in range(output.dim()) if d != axis])


def specification(network: Network) -> dict[str, TensorSpec]:
    """The quantization of an integer network: weights as ``layer.weight``, activations by their quantizer."""
    specs: dict[str, TensorSpec] = {}
    for name, part in network.module.named_modules():
        if isinstance(part, ActivationQuantizer):
            specs[name] = part.spec
        elif isinstance(part, IntegerLayer):
            specs[f"{name}.weight"] = part.spec
    return specs
