"""Integer layers as they will run: one quantization specification per tensor, simulated in PyTorch, trainable.

Linear quantization (Jacob et al. 2018, eq. 1): ``real = scale * (quantized - zero_point)``. Weights are symmetric per
output channel, activations per tensor on the :class:`Grid` that the runtime wants, biases 32-bit integers of scale
``input scale * weight scale`` (section 2.4 there). Rounding passes gradients straight through (Bengio et al. 2013).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgesdk.compress.network import Batch, Network, Site, tensors
from edgesdk.graph import ACTIVATION, ADD, FLATTEN, POOL, WEIGHTED
from edgesdk.plan import INT8, Option

PASSES_ON = (POOL, FLATTEN, ACTIVATION)  # kinds whose integer form keeps the grid of their input
MOMENTUM = 0.05  # of ranges that follow while training
MINIMUM_SCALE = 2.0**-24  # keeps an all-zero tensor from a division by zero


@dataclass(frozen=True)
class Grid:
    """The integers that activations are on, ``low`` to ``high``; a ``symmetric`` grid has its zero point at 0."""

    low: int
    high: int
    symmetric: bool

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.low < 0 else torch.uint8


UNSIGNED = Grid(0, 255, False)  # fast on x86
SIGNED = Grid(-128, 127, False)  # Arm and TFLite: the same grid moved by 128
SYMMETRIC = Grid(-128, 127, True)  # TensorRT
ACTIVATION_RANGE = (UNSIGNED.low, UNSIGNED.high)


@dataclass(frozen=True)
class TensorSpec:
    """How one tensor is quantized: bits, integer range, scale and zero point per entry of ``axis``, or one of each."""

    bits: int
    low: int
    high: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None


def _rounded(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    return ((x / scale).round() + zero_point).clamp(low, high).sub(zero_point) * scale


class _Straight(torch.autograd.Function):
    """Rounding whose gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:  # type: ignore[override]
        grid = (x / scale).round_().add_(zero_point)
        ctx.save_for_backward((grid >= low) & (grid <= high))
        return grid.clamp_(low, high).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """``x`` on the grid of ``scale`` and ``zero_point``, which broadcast against it."""
    apply = _Straight.apply if torch.is_grad_enabled() else _rounded
    return apply(x, scale, zero_point, low, high)  # type: ignore[return-value]


@torch.library.custom_op("edgesdk::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """An activation on the 8-bit grid of its zero point's type: exported as QuantizeLinear and DequantizeLinear."""
    integers = torch.iinfo(zero_point.dtype)
    return _rounded(x, scale, zero_point, integers.min, integers.max)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgesdk::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Integers times the scale of their first axis: what an export turns into DequantizeLinear."""
    shape = (-1, *[1] * (x.dim() - 1))
    return (x.float() - zero_point.reshape(shape)) * scale.reshape(shape)


@dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


class ActivationQuantizer(nn.Module):
    """A quantizer of one tensor on an 8-bit ``grid``, whose range follows what it sees while ``observing``.

    The range widens to the extremes, or with a ``momentum`` is an exponential moving average of each batch's (Jacob et
    al. 2018, section 3.1). It always holds zero, which is then exact. On a symmetric grid it reaches as far below zero
    as above. While ``exact`` it passes on what it gets.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid = UNSIGNED) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.observing = self.exact = False
        self.momentum: float | None = None

    def observe(self, x: Tensor) -> None:
        low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
        if self.momentum is None:
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        rate = self.momentum or 1.0
        self.low += rate * (low - self.low)
        self.high += rate * (high - self.high)
        if self.grid.symmetric:
            self.scale = (torch.maximum(-self.low, self.high) / self.grid.high).clamp(min=MINIMUM_SCALE)
            return
        steps = self.grid.high - self.grid.low
        self.scale = ((self.high - self.low) / steps).clamp(min=MINIMUM_SCALE)
        zero_point = (-self.low / self.scale).round().clamp(0, steps)  # moved as an integer: the same on every grid
        self.zero_point = (self.grid.low + zero_point).to(torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            return x
        if self.observing:
            self.observe(x)
        if torch.compiler.is_exporting():
            return quantize_dequantize(x, self.scale, self.zero_point.to(self.grid.dtype))
        return quantize(x, self.scale, self.zero_point, self.grid.low, self.grid.high)

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(8, self.grid.low, self.grid.high, (float(self.scale),), (int(self.zero_point),), None)


class IntegerLayer(nn.Module):
    """A convolution or linear layer with weights of ``bits`` bits, a 32-bit bias, and an input on a known grid."""

    def __init__(self, inner: nn.Module, bits: int, source: ActivationQuantizer) -> None:
        super().__init__()
        self.inner = inner
        self.bits = bits
        self.limit = 2 ** (bits - 1) - 1
        self.source = [source]  # in a list: it belongs to the graph, not to this layer
        self.exact = False  # as the float layer that it was

    def scales(self) -> tuple[Tensor, Tensor]:
        """The scales of the weight and of the bias, one per output channel."""
        weight = self.inner.weight.detach()  # type: ignore[union-attr,operator]
        scale = (weight.abs().flatten(1).amax(1) / self.limit).clamp(min=MINIMUM_SCALE)
        return scale, scale * self.source[0].scale

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            return self.inner(x)
        scale, bias_scale = self.scales()
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        zero = torch.zeros((), dtype=torch.int32)
        weight = quantize(weight, scale.reshape(-1, *[1] * (weight.dim() - 1)), zero, -self.limit, self.limit)
        bias = quantize(self.inner.bias, bias_scale, zero, -(2**31), 2**31 - 1)  # type: ignore[arg-type]
        return _applied(self.inner, x, weight, bias)

    @property
    def spec(self) -> TensorSpec:
        scale, _ = self.scales()
        return TensorSpec(self.bits, -self.limit, self.limit, tuple(scale.tolist()), (0,) * len(scale), 0)


class FrozenLayer(nn.Module):
    """An integer layer as it is stored: integer weights and bias with their scales. Computes what the other does."""

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__()
        self.inner = copy.deepcopy(layer.inner)
        weight, bias = self.inner.weight.detach(), self.inner.bias.detach()  # type: ignore[union-attr,operator]
        self.inner.weight = self.inner.bias = None  # type: ignore[assignment]
        scale, bias_scale = layer.scales()
        integers = (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).round().clamp(-layer.limit, layer.limit)
        self.register_buffer("weight", integers.to(torch.int8))
        self.register_buffer("bias", (bias / bias_scale).round().clamp(-(2**31), 2**31 - 1).to(torch.int32))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias_scale", bias_scale)
        self.register_buffer("weight_zero_point", torch.zeros_like(scale, dtype=torch.int8))
        self.register_buffer("bias_zero_point", torch.zeros_like(bias_scale, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = dequantize(self.weight, self.weight_scale, self.weight_zero_point)  # type: ignore[arg-type]
        bias = dequantize(self.bias, self.bias_scale, self.bias_zero_point)  # type: ignore[arg-type]
        return _applied(self.inner, x, weight, bias)


def _applied(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not isinstance(layer, nn.Linear):
        return layer._conv_forward(x, weight, bias)  # type: ignore[operator]
    if x.dim() == 2:
        return F.linear(x, weight, bias)
    return F.linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])  # runtimes fuse matrices only


def frozen(network: Network) -> Network:
    """A copy of an integer network with its weights stored as integers, for export."""
    network = network.copy()
    for path, part in list(network.module.named_modules()):
        if isinstance(part, IntegerLayer):
            network.module.set_submodule(path, FrozenLayer(part))
    return network


def fold(network: Network) -> Network:
    """``network`` with each BatchNorm folded into the layer before it, and a bias in every weighted layer."""
    module = copy.deepcopy(network.module).eval()
    sites = dict(network.sites)
    for name, site in network.sites.items():
        if site.module is None:
            continue
        part = module.get_submodule(site.module)
        if site.norm is not None:
            norm = module.get_submodule(site.norm)
            fuse = nn.utils.fuse_linear_bn_eval if isinstance(part, nn.Linear) else nn.utils.fuse_conv_bn_eval
            part = fuse(part, norm)  # type: ignore[type-var]
            node = next(n for n in module.graph.nodes if n.target == site.norm)
            before = node.args[0]
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
            output = before.name if site.output == node.name else site.output
            sites[name] = Site(site.module, None, output)
        elif part.bias is None:
            part.bias = nn.Parameter(part.weight.new_zeros(part.weight.shape[0]))  # type: ignore[union-attr,operator,index]
        module.set_submodule(site.module, part)
    module.delete_all_unused_submodules()
    module.recompile()
    return replace(network, module=module, sites=sites)


def integer(network: Network, options: Mapping[str, Option], grid: Grid = UNSIGNED) -> Network:
    """``network``, folded, with the layers that ``options`` calls int8 simulated as integer layers on ``grid``.

    A tensor is quantized where its maker or any of its readers is an integer layer. What an integer layer makes is
    read on its grid by all; what a float layer makes, by its integer readers alone. Ranges must be set by
    :func:`calibrate` before use.
    """
    network = fold(network)
    graph, module = network.graph, network.module
    whole = {name for name, option in options.items() if option.precision == INT8 and name in graph.by_name}
    order = [tensor.name for tensor in graph.inputs] + [layer.name for layer in graph.layers]
    quantizers: dict[str, ActivationQuantizer] = {}
    for name in order:
        readers = [reader for reader in graph.readers[name] if reader in whole]
        made = name in whole
        if not readers and not made:
            continue
        if made and graph.by_name[name].kind in PASSES_ON:
            quantizers[name] = quantizers[graph.by_name[name].inputs[0]]
        else:
            quantizers[name] = ActivationQuantizer(grid)
        node = network.node(name)
        path = f"quantizer_{node.name}"
        shared = next((n for n, q in quantizers.items() if q is quantizers[name] and n != name), None)
        module.add_submodule(path, quantizers[name]) if shared is None else None
        target = path if shared is None else f"quantizer_{network.node(shared).name}"
        with module.graph.inserting_after(node):
            quantized = module.graph.call_module(target, (node,))
        inside = {network.node(reader) for reader in readers} | {_first(network, reader) for reader in readers}
        node.replace_all_uses_with(
            quantized, lambda user, q=quantized, r=inside, m=made: user is not q and (m or user in r)
        )
    for name in whole:
        layer, site = graph.by_name[name], network.sites[name]
        if layer.kind in WEIGHTED:
            assert site.module is not None
            inner = module.get_submodule(site.module)
            bits = options[name].weight_bits
            module.set_submodule(site.module, IntegerLayer(inner, bits, quantizers[layer.inputs[0]]))
    module.recompile()
    return network


def _first(network: Network, layer: str) -> fx.Node:
    """The node with which ``layer`` starts: the one that reads its inputs."""
    site = network.sites[layer]
    if site.module is not None:
        return next(n for n in network.module.graph.nodes if n.target == site.module)
    node = network.node(layer)
    if network.graph.by_name[layer].kind == ADD and network.graph.by_name[layer].activation:
        return node.all_input_nodes[0]
    return node


@contextmanager
def observing(network: Network, momentum: float | None = MOMENTUM) -> Iterator[None]:
    """Within it the ranges of all activation quantizers follow the data."""
    found = [part for part in network.module.modules() if isinstance(part, ActivationQuantizer)]
    for part in found:
        part.observing, part.momentum = True, momentum
    try:
        yield
    finally:
        for part in found:
            part.observing = False


@torch.no_grad()
def calibrate(network: Network, batches: Iterable[Batch]) -> None:
    """Set the range of every activation quantizer to what it sees in ``batches`` of inputs, in place.

    What integer layers are off on average is then taken off their biases, where that brings the outputs nearer to
    those of the float layers.
    """
    batches = list(batches)
    network.module.eval()
    for part in network.module.modules():
        if isinstance(part, ActivationQuantizer):
            part.low.zero_()  # type: ignore[operator]
            part.high.zero_()  # type: ignore[operator]
    with observing(network, None):
        for x in batches:
            network.module(*tensors(x))
    if batches:
        _correct_biases(network, batches[0])


def _correct_biases(network: Network, x: Batch) -> None:
    """Take off each integer layer's bias by what its outputs are off on average, layer after layer.

    Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias Correction", section 4.2, from
    samples. It does not always help: where images have a flat background, which is nearly exact, an average moves that.
    """
    layers = [part for part in network.module.modules() if isinstance(part, IntegerLayer)]
    wanted: dict[IntegerLayer, Tensor] = {}
    before = [layer.inner.bias.clone() for layer in layers]  # type: ignore[operator,union-attr]

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, IntegerLayer)
        wanted[layer] = _channel_means(layer, output)

    def correct(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(layer, IntegerLayer)
        off = wanted[layer] - _channel_means(layer, output)
        layer.inner.bias += off  # type: ignore[operator,union-attr]
        return output + (off if _is_linear(layer) else off.reshape(-1, *[1] * (output.dim() - 2)))

    plain = network.flat(x)
    _exact(network, True)
    exact = _hooked(network, layers, note, x)
    _exact(network, False)
    corrected = _hooked(network, layers, correct, x)
    if _distance(corrected, exact) >= _distance(plain, exact):
        for layer, bias in zip(layers, before, strict=True):
            layer.inner.bias.copy_(bias)  # type: ignore[operator,union-attr]


def _exact(network: Network, value: bool) -> None:
    """Let integer layers compute as the float layers that they were, or not."""
    for part in network.module.modules():
        if isinstance(part, (IntegerLayer, ActivationQuantizer)):
            part.exact = value


def _hooked(network: Network, layers: Iterable[IntegerLayer], hook: Any, x: Batch) -> list[Tensor]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    outputs = network.flat(x)
    for handle in handles:
        handle.remove()
    return outputs


def _distance(found: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    return sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, exact, strict=True))


def _is_linear(layer: IntegerLayer) -> bool:
    return isinstance(layer.inner, nn.Linear)


def _channel_means(layer: IntegerLayer, output: Tensor) -> Tensor:
    axis = output.dim() - 1 if _is_linear(layer) else 1
    return output.mean([d for d in range(output.dim()) if d != axis])


def specification(network: Network) -> dict[str, TensorSpec]:
    """The quantization of an integer network: weights as ``layer.weight``, activations by their quantizer."""
    found: dict[str, TensorSpec] = {}
    for name, part in network.module.named_modules():
        if isinstance(part, ActivationQuantizer):
            found[name] = part.spec
        elif isinstance(part, IntegerLayer):
            found[f"{name}.weight"] = part.spec
    return found
