"""The operators that are timed to know a machine: spread over what small networks are made of.

About 1,800 of a precision, which takes half a minute on an idle machine with AVX-512.

Each kind of operator has a range of channels and sizes. Its points are Halton's (1960), which fill such a range evenly
at any count, in octaves, so that a small operator is covered as densely as a large one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgesdk.core.graph import ADD, CONV, LINEAR, MEAN, POOL
from edgesdk.core.plan import FP32
from edgesdk.price.kinds import AVERAGE
from edgesdk.price.operator import CHANGES, Operator

CHANNELS = (8, 384)
SIZES = (4, 64)
LONGEST = 256  # of a signal
MOST = 32e6  # multiply-accumulates: about a millisecond on the slowest machine at hand
LEAST = 2e4
MOST_ELEMENTS = 200_000  # of a tensor: small networks have no larger one
BASES = (2, 3, 5)

# kernel, stride, how many of it
CONVOLUTIONS = ((3, 1, 300), (1, 1, 400), (3, 2, 120), (1, 2, 60), (5, 1, 40), (5, 2, 20))
DEPTHWISE = ((3, 1, 120), (3, 2, 80), (5, 1, 40), (5, 2, 20))
SIGNALS = ((3, 1, 40), (5, 1, 30), (5, 2, 30), (1, 1, 20))
ENTRIES = ((3, 1), (3, 2), (5, 2), (7, 2), (4, 4), (8, 8))
WINDOWS = ((2, 2), (3, 2), (3, 1))


def designed(precision: str, share: float = 1.0) -> list[Operator]:
    """The operators to time at ``precision``, all distinct; of each kind ``share`` of them, two at least."""
    operators = [
        *_convolutions(precision, share),
        *_entries(precision, share),
        *_linears(precision, share),
        *_rest(precision, share),
    ]
    return list(dict.fromkeys(operators))


def _convolutions(precision: str, share: float) -> Iterator[Operator]:
    for kernel, stride, count in CONVOLUTIONS:
        for inputs, outputs, side in _points(_of(count, share), CHANNELS, CHANNELS, SIZES, conv=kernel):
            yield _conv(precision, inputs, outputs, (side, side), kernel, stride)
    if precision == FP32:
        for inputs, outputs, side in _points(_of(40, share), CHANNELS, CHANNELS, SIZES, conv=1):
            yield replace(_conv(precision, inputs, outputs, (side, side), 1, 1), activation="relu6")
    for kernel, stride, count in DEPTHWISE:
        for channels, _, side in _points(_of(count, share), (16, 512), (1, 2), SIZES):
            yield _conv(precision, channels, channels, (side, side), kernel, stride, groups=channels)
    for kernel, stride, count in SIGNALS:
        for inputs, outputs, length in _points(_of(count, share), (8, 128), (16, 128), (16, LONGEST)):
            yield _conv(precision, inputs, outputs, (length,), kernel, stride)


def _entries(precision: str, share: float) -> Iterator[Operator]:
    """First layers: they read images of one or three channels, or signals of a few, as the caller has them."""
    for kernel, stride in ENTRIES:
        for outputs, side, colours in _points(_of(16, share), (8, 64), (24, 96), (1, 4)):
            channels = 3 if colours > 1 else 1
            yield _conv(precision, channels, outputs, (side, side), kernel, stride, entry=True)
    for outputs, length, signals in _points(_of(20, share), (8, 64), (32, LONGEST), (2, 12)):
        yield _conv(precision, signals, outputs, (length,), 5, 2, entry=True)


def _linears(precision: str, share: float) -> Iterator[Operator]:
    for inputs, outputs, _ in _points(_of(40, share), (32, 1024), (8, 512), (1, 2)):
        yield Operator(LINEAR, precision, inputs, outputs)
    for inputs, outputs, rows in _points(_of(100, share), (32, 512), (32, 512), (8, 256)):
        yield Operator(LINEAR, precision, inputs, outputs, (rows,))


def _rest(precision: str, share: float) -> Iterator[Operator]:
    """What stands between the layers with weights."""
    images = _points(_of(80, share), (16, 256), (1, 2), (8, 64))
    for index, (channels, _, side) in enumerate(images):
        size = (side, side)
        yield Operator(ADD, precision, channels, channels, size, activation="relu" if index % 2 else None)
        kernel, stride = WINDOWS[index % len(WINDOWS)]
        window = ((kernel,) * 2, (stride,) * 2, (kernel // 2 if kernel % 2 else 0,) * 2, (1, 1))
        yield Operator(POOL if index % 3 else AVERAGE, precision, channels, channels, size, *window)
        if index % 2:
            yield Operator(MEAN, precision, channels, channels, size)
        yield Operator(_change(precision), precision, channels, channels, size)
    for channels, _, rows in _points(_of(40, share), (16, 384), (1, 2), (8, 128)):
        yield Operator(ADD, precision, channels, channels, (rows,))
        yield Operator(_change(precision), precision, channels, channels, (rows,))


def _change(precision: str) -> str:
    """The change of precision that an operator of ``precision`` makes: it is counted where its input belongs."""
    return CHANGES[0] if precision == FP32 else CHANGES[1]


def _conv(
    precision: str, inputs: int, outputs: int, size: tuple[int, ...], kernel: int, stride: int, groups: int = 1,
    entry: bool = False,
) -> Operator:  # fmt: skip
    axes = len(size)
    padding = 0 if kernel == stride else kernel // 2
    window = ((kernel,) * axes, (stride,) * axes, (padding,) * axes, (1,) * axes)
    return Operator(CONV, precision, inputs, outputs, size, *window, groups, "relu", entry)


def _points(count: int, *ranges: tuple[int, int], conv: int = 0) -> list[tuple[int, ...]]:
    """``count`` points of ``ranges``, three of them, in octaves. With ``conv``, a kernel's side, only those with as
    many multiply-accumulates as small networks' convolutions have.

    The first two are channels, in steps of 16: so networks are made, and runtimes have blocks of 8, 16 or 32 channels
    and slower ways for what does not fill them, which would be taken for noise.
    """
    points: list[tuple[int, ...]] = []
    index = 0
    while len(points) < count:
        index += 1
        inputs, outputs, side = (
            _step(low * (high / low) ** _radical(index, base), 4 if base == BASES[-1] else 16)
            for (low, high), base in zip(ranges, BASES, strict=True)
        )
        small = max(inputs, outputs) * side**2 <= MOST_ELEMENTS if conv else inputs * outputs * side <= MOST
        if small and (not conv or LEAST <= inputs * outputs * (side * conv) ** 2 <= MOST):
            points.append((inputs, outputs, side))
    return points


def _step(value: float, step: int) -> int:
    step = min(step, 8) if value < 20 else step
    return round(value / step) * step if value >= 8 else max(1, round(value))


def _radical(index: int, base: int) -> float:
    """The digits of ``index`` in ``base``, mirrored at the point."""
    value, place = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        place /= base
        value += digit * place
    return value


def _of(count: int, share: float) -> int:
    return max(2, round(count * share))
