"""One operator as it is priced: what its latency depends on, and by which name it is remembered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, MEAN, POOL, TRANSPOSED, WINDOWED
from edgesdk.core.plan import FP32
from edgesdk.price.kinds import ACTIVATIONS, AVERAGE

CHANGES = ("quantize", "dequantize")
PROBED = (CONV, TRANSPOSED, LINEAR, ADD, POOL, AVERAGE, MEAN, ACTIVATION, *CHANGES)


@dataclass(frozen=True)
class Operator:
    """A fused operator at one size: everything that its latency depends on, on one device, runtime and thread count.

    ``size`` is the spatial size of the input: () for a vector, (rows,) for rows of vectors in a linear layer.
    ``entry`` marks the first operator of a network, which reads the caller's tensor in the caller's layout.
    A kind that is not in ``PROBED`` has ``inputs`` elements to read, ``outputs`` to write and ``work``
    multiply-accumulates; ``name`` is what the model calls it. ``recurrence`` are the gates (3 of a GRU, 4 of an LSTM),
    steps, inputs, states, layers and directions of a recurrent layer, which a probe can time by them. ``weight_bits``
    are those of an integer layer, ``images`` those of one sample on which a convolution or a pool runs. ``beyond`` is
    how far the output of a transposed convolution reaches beyond its last window (its output padding), if at all.
    """

    kind: str
    precision: str
    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    activation: str | None = None
    entry: bool = False
    work: int = 0
    name: str = ""
    weight_bits: int = 8
    images: int = 1
    recurrence: tuple[int, ...] = ()
    beyond: tuple[int, ...] = ()

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return self.kind in WINDOWED and self.groups > 1 and self.groups == self.inputs

    @property
    def probed(self) -> bool:
        """Whether a probe can time it; all else is left to what whole networks say."""
        if self.activation in ACTIVATIONS:
            return self.precision == FP32
        return bool(self.recurrence) or self.kind in PROBED and not (self.groups > 1 and not self.depthwise)

    @property
    def after(self) -> tuple[int, ...]:
        """The spatial size of its output."""
        if self.kind == MEAN:
            return (1,) * len(self.size)
        if self.kind == TRANSPOSED:
            more = self.beyond or (0,) * len(self.size)
            return tuple(size_transposed(*axis) + n for axis, n in zip(_windows(self), more, strict=True))
        return tuple(size_after(*axis) for axis in _windows(self)) if self.kernel else self.size

    @property
    def pixels(self) -> int:
        """Positions in its input, for one sample."""
        return self.images * prod(self.size)

    @property
    def positions(self) -> int:
        """Positions in its output, for one sample."""
        return self.images * prod(self.after)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one sample."""
        if self.kind == CONV:
            return prod(self.kernel) * self.inputs // self.groups * self.outputs * self.positions
        if self.kind == TRANSPOSED:
            return prod(self.kernel) * self.inputs // self.groups * self.outputs * self.pixels
        return self.inputs * self.outputs * prod(self.size) if self.kind == LINEAR else self.work

    @cached_property
    def key(self) -> str:
        """One line that names it in a table of latencies."""
        shape = "x".join(map(str, (self.inputs, *self.size)))
        window = [",".join(map(str, v)) for v in (self.kernel, self.stride, self.padding, self.dilation)]
        marks = [self.activation or "", f"{self.groups} groups" * (self.groups > 1), "entry" * self.entry]
        marks += [f"{self.images} images" * (self.images > 1)]
        marks += [f"{','.join(map(str, self.beyond))} beyond" * bool(self.beyond)]
        marks += [f"recurrence {'x'.join(map(str, self.recurrence))}" * bool(self.recurrence)]
        marks += [self.name, f"{self.work} macs" * (self.work > 0), f"{self.weight_bits} bits" * (self.weight_bits < 8)]
        return " ".join([self.kind, self.precision, f"{shape}->{self.outputs}", "/".join(window), *filter(None, marks)])


def _windows(operator: Operator) -> list[tuple[int, ...]]:
    return list(zip(operator.size, operator.kernel, operator.stride, operator.padding, operator.dilation, strict=True))


def size_transposed(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How long an axis is behind a transposed convolution of those windows."""
    return (size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding


def size_after(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
