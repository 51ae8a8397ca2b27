"""Integer tensors and layers as they will run: one quantization specification each, simulated in PyTorch, trainable.

Linear quantization (Jacob et al. 2018, eq. 1): ``real = scale * (quantized - zero_point)``. Weights are symmetric per
output channel, activations per tensor on the :class:`Grid` that the runtime wants, biases 32-bit integers of scale
``input scale * weight scale`` (section 2.4 there). Rounding passes gradients straight through (Bengio et al. 2013);
steps are fixed by ranges, or learned themselves (Esser et al. 2020).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.techniques.layouts import applied, output_axis
from edgesdk.techniques.steps import learned_step

MINIMUM_SCALE = 2.0**-24  # keeps an all-zero tensor from a division by zero
BIAS_LIMIT = 2**30  # half of what 32 bits hold: the other half is for the sum of products that it is added to


@dataclass(frozen=True)
class Grid:
    """The integers that activations are on, ``low`` to ``high``; a ``symmetric`` grid has its zero point at 0.

    A step of the sums that are rounded to it is at most ``widest`` of its own: beyond, kernels refuse or overflow. What
    is quantized for integer layers ``alone`` is read as it is by all others, which compute in real numbers.
    """

    low: int
    high: int
    symmetric: bool
    widest: float = math.inf
    alone: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.low < 0 else torch.uint8


UNSIGNED = Grid(0, 255, False)  # fast on x86
SIGNED = Grid(-128, 127, False, 2.0**7)  # Arm and TFLite: the same grid moved by 128; half of what XNNPACK has
SYMMETRIC = Grid(-128, 127, True)  # TensorRT
NARROW = Grid(-127, 127, True, alone=True)  # ncnn: its layers quantize what they read
GRIDS = {"unsigned": UNSIGNED, "signed": SIGNED, "symmetric": SYMMETRIC, "narrow": NARROW}
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


def to_integers(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """The integers that stand for ``x``, as floats: what is simulated, and what a file stores."""
    return _nearest(x, scale, zero_point).clamp_(low, high)


def _nearest(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (x / scale).round_().add_(zero_point)


def _rounded(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    return to_integers(x, scale, zero_point, low, high).sub_(zero_point).mul_(scale)


class _Straight(torch.autograd.Function):
    """Rounding whose gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        grid = _nearest(x, scale, zero_point)
        ctx.save_for_backward((grid >= low) & (grid <= high))
        return grid.clamp_(low, high).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """``x`` on the grid of ``scale`` and ``zero_point``, which broadcast against it."""
    apply = _Straight.apply if torch.is_grad_enabled() else _rounded
    return apply(x, scale, zero_point, low, high)


@torch.library.custom_op("edgesdk::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int | None = None) -> Tensor:
    """An activation on the 8-bit grid of its zero point's type: exported as QuantizeLinear and DequantizeLinear.

    A grid may begin above the type's ``low``: what is made of the ONNX model keeps that by itself.
    """
    integers = torch.iinfo(zero_point.dtype)
    return _rounded(x, scale, zero_point, integers.min if low is None else low, integers.max)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int | None = None) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgesdk::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    """Integers times the scale of an axis, the first by default: what an export turns into DequantizeLinear."""
    shape = [-1 if a == axis else 1 for a in range(x.dim())]
    return (x.float() - zero_point.reshape(shape)) * scale.reshape(shape)


@dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


def finite(x: Tensor) -> Tensor:
    """``x`` with zeros where it is infinite, as borders and masks before a maximum are: the end of any range does for
    these."""
    return x if math.isfinite(x.amin()) and math.isfinite(x.amax()) else x.masked_fill(x.isinf(), 0)


class ActivationQuantizer(nn.Module):
    """A quantizer of one tensor on an 8-bit ``grid``, whose range follows what it sees while ``observing``.

    The range widens to the extremes, or with a ``momentum`` is an exponential moving average of each batch's (Jacob et
    al. 2018, section 3.1), of which no end counts for more than a range's width beyond the present one. It always holds
    zero, which is then exact. On a symmetric grid it reaches as far below zero as above. A range that is ``held``
    follows nothing. With a ``growth`` its step is learned, in units of where it began, so that steps of an optimizer
    are relative. While ``exact`` it passes on what it gets. Its step is no finer than the grid allows for the sums
    that its ``makers`` round to it: layers, or the tensors that are added.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor
    growth: nn.Parameter | None
    held: bool

    def __init__(self, grid: Grid = UNSIGNED) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_parameter("growth", None)
        self.makers: list[nn.Module] = []  # in a list: they belong to the graph, not to this tensor
        self.observing = self.exact = self.held = False
        self.momentum: float | None = None

    def observe(self, x: Tensor) -> None:
        x = finite(x.detach())
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        width = self.high - self.low
        if self.momentum is None:
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        elif width > 0:  # one batch with an outlier must not undo what all others showed
            low, high = torch.maximum(low, self.low - width), torch.minimum(high, self.high + width)
        rate = self.momentum or 1.0
        self.low += rate * (low - self.low)
        self.high += rate * (high - self.high)
        self.fit()

    def fit(self) -> None:
        """Set the scale and zero point to what the range from ``low`` to ``high`` makes them."""
        if self.grid.symmetric:
            self.scale = (torch.maximum(-self.low, self.high) / self.grid.high).clamp(min=MINIMUM_SCALE)
            self.bound()
            return
        steps = self.grid.high - self.grid.low
        self.scale = ((self.high - self.low) / steps).clamp(min=MINIMUM_SCALE)
        self.bound()
        zero_point = (-self.low / self.scale).round().clamp(0, steps)  # moved as an integer: the same on every grid
        self.zero_point = (self.grid.low + zero_point).to(torch.int32)

    def bound(self) -> None:
        """Widen a step that is finer than the grid allows; zero stays where it is."""
        for maker in self.makers if math.isfinite(self.grid.widest) else ():
            step = maker.scale if isinstance(maker, ActivationQuantizer) else maker.scales()[1].amax()  # type: ignore[operator]
            self.scale = torch.maximum(self.scale, step / self.grid.widest)

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            return x
        if self.observing and not self.held:
            self.observe(x)
        if torch.compiler.is_exporting():
            kind = self.grid.dtype
            begins = () if self.grid.low == torch.iinfo(kind).min else (self.grid.low,)
            return quantize_dequantize(x, self.step, self.zero_point, *begins)
        if self.growth is not None:
            return learned_step(x, self.step, self.zero_point, self.grid.low, self.grid.high, x[0].numel())
        return quantize(x, self.scale, self.zero_point, self.grid.low, self.grid.high)

    @property
    def step(self) -> Tensor:
        """The scale as it is now, learned or not."""
        return self.scale if self.growth is None else (self.scale * self.growth).clamp(min=MINIMUM_SCALE)

    def learn(self) -> None:
        """Make the step a parameter."""
        self.growth = nn.Parameter(torch.ones_like(self.scale))

    def settle(self) -> None:
        """Keep what was learned: the step is a constant from here on."""
        self.scale, self.growth, self.held = self.step.detach(), None, True

    def freeze(self) -> None:
        """Store the zero point in its grid's type, as files do: an export would be slow with a conversion for each."""
        self.zero_point = self.zero_point.to(self.grid.dtype)

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(8, self.grid.low, self.grid.high, (float(self.step.detach()),), (int(self.zero_point),), None)


class IntegerLayer(nn.Module):
    """A convolution, transposed or not, or linear layer with weights of ``bits`` bits, a 32-bit bias, and an input on a
    known grid.

    Each output channel has a step of its own, which follows its largest weight, and is no finer than its bias allows,
    which is in steps of it, too: that of a channel without weights would be beyond 32 bits. Or all have one with the
    layers that are ``sharing`` it, this one among them. A ``step`` that was set, or is learned by its ``growth``,
    follows nothing.
    """

    step: Tensor | None
    growth: nn.Parameter | None

    def __init__(
        self, inner: nn.Module, bits: int, source: ActivationQuantizer, sharing: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.inner = inner
        self.bits = bits
        self.limit: int = 2 ** (bits - 1) - 1
        self.source: list[ActivationQuantizer] = [source]  # in a list: it belongs to the graph, not to this layer
        self.sharing = sharing
        self.register_buffer("step", None)
        self.register_parameter("growth", None)
        self.axis: int = output_axis(inner)
        self.exact = False  # as the float layer that it was

    def weight_scale(self) -> Tensor:
        """The scale of the weight, one per output channel."""
        weight: Tensor = self.inner.weight.detach()  # type: ignore[union-attr,operator,assignment]
        if self.step is not None:
            return self.step if self.growth is None else (self.step * self.growth).clamp(min=MINIMUM_SCALE)
        peak = weight.abs().amax([axis for axis in range(weight.dim()) if axis != self.axis])
        if self.sharing:
            every = [part.weight.detach().abs().amax() for part in self.sharing]  # type: ignore[union-attr,operator]
            return (torch.stack(every).amax().repeat(len(peak)) / self.limit).clamp(min=MINIMUM_SCALE)
        bias: Tensor = self.inner.bias.detach().abs()  # type: ignore[union-attr,operator,assignment]
        least = bias / (self.source[0].step.detach() * BIAS_LIMIT)
        return torch.maximum(peak / self.limit, least).clamp(min=MINIMUM_SCALE)

    def scales(self) -> tuple[Tensor, Tensor]:
        """The scales of the weight and of the bias, one per output channel."""
        scale = self.weight_scale().detach()
        return scale, scale * self.source[0].step.detach()

    def learn(self, growth: nn.Parameter | None = None) -> None:
        """Make the step a parameter, one per channel, or one that is given where layers share it."""
        self.step = self.scales()[0]
        self.growth = nn.Parameter(torch.ones_like(self.step)) if growth is None else growth

    def settle(self) -> None:
        """Keep what was learned: the step is a constant from here on."""
        self.step, self.growth = self.scales()[0], None

    def forward(self, x: Tensor) -> Tensor:
        if self.exact:
            return self.inner(x)
        scale, bias_scale = self.scales()
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        zero = torch.zeros((), dtype=torch.int32, device=weight.device)
        shape = [-1 if axis == self.axis else 1 for axis in range(weight.dim())]
        if self.growth is not None:
            learned = self.weight_scale().reshape(shape)
            weight = learned_step(weight, learned, zero, -self.limit, self.limit, self.per_step)
        else:
            weight = quantize(weight, scale.reshape(shape), zero, -self.limit, self.limit)
        bias = quantize(self.inner.bias, bias_scale, zero, -BIAS_LIMIT, BIAS_LIMIT)  # type: ignore[arg-type]
        return _applied(self.inner, x, weight, bias)

    @property
    def per_step(self) -> int:
        """How many weights have one step."""
        if self.sharing:
            return sum(part.weight.numel() for part in self.sharing)  # type: ignore[union-attr,operator,misc]
        return self.inner.weight.numel() // self.inner.weight.shape[self.axis]  # type: ignore[union-attr,operator,index,return-value]

    @property
    def spec(self) -> TensorSpec:
        scale, _ = self.scales()
        return TensorSpec(self.bits, -self.limit, self.limit, tuple(scale.tolist()), (0,) * len(scale), self.axis)


class FrozenLayer(nn.Module):
    """An integer layer as it is stored: integer weights and bias with their scales. Computes what the other does."""

    weight: Tensor
    bias: Tensor
    weight_scale: Tensor
    bias_scale: Tensor
    weight_zero_point: Tensor
    bias_zero_point: Tensor

    def __init__(self, layer: IntegerLayer) -> None:
        super().__init__()
        self.inner: nn.Module = copy.deepcopy(layer.inner)
        weight, bias = self.inner.weight.detach(), self.inner.bias.detach()  # type: ignore[union-attr,operator]
        self.inner.weight = self.inner.bias = None  # type: ignore[assignment]
        scale, bias_scale = layer.scales()
        self.axis: int = layer.axis
        steps = scale.reshape([-1 if axis == self.axis else 1 for axis in range(weight.dim())])
        zero = torch.zeros((), dtype=torch.int32)
        integers = to_integers(weight, steps, zero, -layer.limit, layer.limit)
        self.register_buffer("weight", integers.to(torch.int8))
        self.register_buffer("bias", to_integers(bias, bias_scale, zero, -BIAS_LIMIT, BIAS_LIMIT).to(torch.int32))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("bias_scale", bias_scale)
        self.register_buffer("weight_zero_point", torch.zeros_like(scale, dtype=torch.int8))
        self.register_buffer("bias_zero_point", torch.zeros_like(bias_scale, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        along = (self.axis,) if self.axis else ()
        weight = dequantize(self.weight, self.weight_scale, self.weight_zero_point, *along)
        bias = dequantize(self.bias, self.bias_scale, self.bias_zero_point)
        return _applied(self.inner, x, weight, bias)


def _applied(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not isinstance(layer, nn.Linear):
        return applied(layer, x, weight, bias)
    if x.dim() == 2:
        return F.linear(x, weight, bias)
    return F.linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])  # runtimes fuse matrices only
