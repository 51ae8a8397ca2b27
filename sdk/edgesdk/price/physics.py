"""What an operator makes a chip do: amounts of work in cycles, before a runtime's own constants.

The latency of an operator is a sum of terms, each an amount of work times a constant of the runtime on that chip. An
amount is in cycles that the chip would need at its best: multiply-accumulates over those that a core can do a cycle,
elements moved, calls made, bytes over what the memory gives a cycle. So constants are near one, carry over from a chip
to its sibling, and cannot promise more than the chip can do. Sums, not the maximum of a roofline (Williams et al.
2009): measured operators overlap little of their compute and traffic on these cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2, prod

import numpy as np

from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, MEAN, POOL, TRANSPOSED, WINDOWED
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.runtime import Kernels
from edgesdk.core.target import Chip
from edgesdk.price import kinds
from edgesdk.price.operator import CHANGES, Operator

FP16 = "fp16"
BYTES = {FP32: 4, FP16: 2, INT8: 1}
TERMS = (
    "conv", "pack", "store", "gather", "segment", "weights", "depthwise", "linear", "pool", "average pool",
    "elementwise", "function", "copy", "reduce", "softmax", "norm", "matmul", "recurrent", "quantize", "unknown",
    "memory", "call", "network", "input", "serial", "fork",
)  # fmt: skip
INDEX = {name: index for index, name in enumerate(TERMS)}
SHARED = INDEX["memory"]  # the terms from here on are no faster with more threads
WINOGRAD = 4.0  # times fewer multiplications
SHAPE = 7  # numbers by which two operators are alike or not
FAR = 1000.0  # octaves between operators of two kinds
ORDER = (
    CONV, "depthwise", LINEAR, POOL, kinds.AVERAGE, ADD, ACTIVATION, MEAN, kinds.ELEMENTWISE, kinds.FUNCTION,
    kinds.COPY, kinds.REDUCE, kinds.SOFTMAX, kinds.NORM, kinds.MATMUL, kinds.RECURRENT, kinds.GROUPED, *CHANGES,
)  # fmt: skip
"""Kinds of operator by their number in a profile's shapes: add at the end alone."""


@dataclass
class Work:
    """What a network makes a chip do: a row of amounts per distinct operator, how often it comes, and its shape."""

    amounts: np.ndarray  # (operators, terms), in cycles
    counts: np.ndarray  # (operators,)
    shapes: np.ndarray  # (operators, SHAPE), each distinct


def amounts(op: Operator, chip: Chip, kernels: Kernels, missed: float = 0.0) -> np.ndarray:
    """The work of ``op`` in cycles, a number per term. One operator, one sample.

    ``missed`` is the share of weights that every run reads from memory, because the network's others push them out.
    """
    amounts = np.zeros(len(TERMS))

    def add(term: str, cycles: float) -> None:
        amounts[INDEX[term]] += cycles

    lanes = chip.lanes(op.precision)
    vector = chip.vector_bytes / BYTES[op.precision]  # elements that a core loads in a cycle
    pixels, read, written = op.positions, op.inputs * op.pixels, op.outputs * op.positions
    weights = weight_count(op)
    if op.activation in kernels.fused and op.kind == kinds.FUNCTION:
        return amounts
    if op.entry and op.precision == FP32:
        add("input", read)
    if op.kind == CONV and op.depthwise:
        add("depthwise", op.macs / lanes)
    elif op.kind == CONV:
        depth = (op.inputs if op.entry else _up(op.inputs // op.groups, kernels.inputs)) * prod(op.kernel)
        each = _up(op.outputs // op.groups, kernels.channels)
        fast = kernels.winograd and op.kernel == (3, 3) and set(op.stride) == set(op.dilation) == {1}
        add("conv", depth * each * op.groups * _up(pixels, kernels.pixels) / lanes / (WINOGRAD if fast else 1))
        add("pack", depth * op.groups * pixels / vector)
        add("store", written / vector)
        if prod(op.kernel) > 1:
            add("gather", depth * op.groups * pixels / vector)
            rows = pixels * op.kernel[0] if kernels.channels_last else depth * op.groups * pixels / op.after[-1]
            add("segment", rows)
    elif op.kind == LINEAR:
        add("linear", op.inputs * _up(op.outputs, kernels.channels) * op.pixels / lanes)
    elif op.kind in (POOL, kinds.AVERAGE):
        add("pool" if op.kind == POOL else "average pool", written * prod(op.kernel) / vector)
    elif op.kind in (ADD, ACTIVATION, kinds.ELEMENTWISE):
        read = 2 * read if op.kind == ADD else read
        add("elementwise", (read + written) / vector)
    elif op.kind == kinds.FUNCTION:
        add("function", written / vector)
    elif op.kind == kinds.COPY:
        add("copy", 2 * written / vector)
    elif op.kind in (MEAN, kinds.REDUCE):
        add("reduce", read / vector)
    elif op.kind in (kinds.SOFTMAX, kinds.NORM):
        add(op.kind, written / vector)
    elif op.kind in (kinds.MATMUL, kinds.RECURRENT, kinds.GROUPED, TRANSPOSED):
        term = "conv" if op.kind in (kinds.GROUPED, TRANSPOSED) else op.kind
        add(term, op.macs / lanes)
    elif op.kind in CHANGES:
        add("quantize", written / vector)
    else:
        add("unknown", (read + written) / vector + op.work / lanes)
    if kernels.clips_apart and op.activation == "relu6" and op.precision == FP32:
        add("elementwise", 2 * written / vector)
    add("weights", weights / vector)
    add("call", 1.0)
    moved = (read + written) * BYTES[op.precision]
    spilled = max(0.0, 1 - chip.cache_kb * 1024 / max(moved, 1)) * moved
    add("memory", (spilled + missed * weights * BYTES[op.precision]) * chip.clock_ghz / chip.bandwidth_gbps)
    return amounts


def weight_count(op: Operator) -> int:
    """The numbers in the weights of ``op``."""
    if op.kind in WINDOWED:
        return op.inputs // op.groups * prod(op.kernel) * op.outputs
    return op.inputs * op.outputs if op.kind == LINEAR else 0


def shape(op: Operator) -> np.ndarray:
    """``op`` as numbers in octaves, so that alike operators are near each other; the first tells terms apart."""
    term = CONV if op.kind == CONV and not op.depthwise else "depthwise" if op.kind == CONV else op.kind
    inputs = op.inputs / op.groups if term == CONV else op.inputs
    last = op.after[-1] if op.after else 1
    octaves = (inputs, op.outputs, op.positions, prod(op.kernel), prod(op.stride), last)
    if op.kind == TRANSPOSED:
        term, octaves = kinds.GROUPED, (op.inputs * op.pixels, op.outputs * op.positions, 1, 1, 1, 1)
    if op.kind in (kinds.ELEMENTWISE, kinds.FUNCTION):  # one number after the other, whatever they are arranged in
        octaves = (inputs * op.pixels, op.outputs * op.positions)
        octaves = (*octaves, 1, 1, 1, 1)
    apart = FAR * (ORDER.index(term) if term in ORDER else len(ORDER))
    return np.array([apart, *(log2(max(1.0, number)) for number in octaves)])


def missed(weights: float, chip: Chip) -> float:
    """The share of a network's ``weights``, in bytes, that every run reads from memory anew."""
    return max(0.0, 1 - chip.cache_kb * 1024 / max(weights, 1.0))


def work(
    operators: Sequence[Operator], chip: Chip, kernels: Kernels, threads: int = 1, weights: float | None = None
) -> Work:
    """The work of a network's ``operators``, those that are equal counted together, and one row for the run itself.

    More threads share the work, but for a serial part of it (Amdahl 1967), and must be woken at every call.
    ``weights`` are those of the whole network in bytes, where ``operators`` are but a part of it.
    """
    count: dict[Operator, int] = {}
    for op in operators:
        count[op] = count.get(op, 0) + 1
    distinct = list(count)
    run = np.zeros((1, len(TERMS)))
    run[0, INDEX["network"]] = 1.0
    held = sum(weight_count(op) * BYTES[op.precision] * times for op, times in count.items())
    again = missed(held if weights is None else weights, chip)
    rows = np.vstack([*(amounts(op, chip, kernels, again)[None] for op in distinct), run])
    rows[:, INDEX["serial"]] = rows[:, :SHARED].sum(1) * (1 - 1 / threads)
    rows[:, INDEX["fork"]] = rows[:, INDEX["call"]] * (threads > 1)
    rows[:, :SHARED] /= threads
    return Work(
        rows,
        np.array([*count.values(), 1.0]),
        np.vstack([*(shape(op)[None] for op in distinct), np.full((1, SHAPE), -FAR)]),
    )


def lone(op: Operator, chip: Chip, kernels: Kernels, threads: int = 1) -> Work:
    """The work of ``op`` alone, as a probe times it: without that of a run."""
    whole = work([op], chip, kernels, threads)
    return Work(whole.amounts[:1], whole.counts[:1], whole.shapes[:1])


def _up(value: float, step: int) -> float:
    return ceil(value / step) * step
