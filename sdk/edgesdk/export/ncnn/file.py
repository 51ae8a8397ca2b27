"""A network as ncnn has it: a text that names its layers, and their numbers one after the other.

``src/net.cpp``, ``src/paramdict.cpp`` and ``src/modelbin.cpp`` of ncnn are what reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC = "7767517"
ARRAY = 23300  # what the key of an array is below zero, beside its number
PLAIN, HALF, WHOLE = 0, 0x01306B47, 0x000D4B38  # what stands before weights: float32, float16, int8
LONGEST = 200  # of a name; ncnn reads 255 characters

Parameter = int | float | Sequence[int] | Sequence[float]


@dataclass(eq=False)
class Layer:
    """A layer, the blobs that it reads and makes, its parameters by number, and the arrays that it loads in order.

    Of its ``arrays`` so many are ``tagged``, the first ones: what type they have is told before each.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[int, Parameter] = field(default_factory=dict)
    arrays: list[np.ndarray] = field(default_factory=list)
    tagged: int = 0

    @property
    def line(self) -> str:
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        told = (_told(key, value) for key, value in self.parameters.items())
        return " ".join((self.kind, self.name, counts, *self.inputs, *self.outputs, *told))

    @property
    def content(self) -> bytes:
        parts = []
        for place, array in enumerate(self.arrays):
            data = np.ascontiguousarray(array).tobytes()
            if place < self.tagged:
                tag = {"int8": WHOLE, "float16": HALF}.get(array.dtype.name, PLAIN)
                parts.append(np.uint32(tag).tobytes())
                data += bytes(-len(data) % 4)
            parts.append(data)
        return b"".join(parts)


class File:
    """Layers in the order in which they run. Each name is taken once, and has no blanks."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.taken: set[str] = set()

    def fresh(self, name: str) -> str:
        """``name``, or what is nearest to it that is free."""
        plain = "".join("_" if c.isspace() else c for c in name)[:LONGEST] or "_"
        free, number = plain, 0
        while free in self.taken:
            number += 1
            free = f"{plain}.{number}"
        self.taken.add(free)
        return free

    def add(
        self, kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str],
        parameters: Mapping[int, Parameter] | None = None, arrays: Sequence[np.ndarray] = (), tagged: int = 0,
    ) -> Layer:  # fmt: skip
        layer = Layer(kind, name, list(inputs), list(outputs), dict(parameters or {}), list(arrays), tagged)
        self.layers.append(layer)
        return layer

    def readers(self) -> dict[str, list[Layer]]:
        """By blob the layers that read it, one as often as it does."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for name in layer.inputs:
                found.setdefault(name, []).append(layer)
        return found

    def rename(self, blob: str, name: str) -> None:
        for layer in self.layers:
            layer.inputs = [name if each == blob else each for each in layer.inputs]
            layer.outputs = [name if each == blob else each for each in layer.outputs]
        self.taken.add(name)

    def finish(self, ends: Sequence[str]) -> tuple[str, bytes]:
        """The text and the numbers. A blob that several layers read, or that is one of the ``ends``, too, is split."""
        layers: list[Layer] = []
        readers = self.readers()
        for layer in self.layers:
            layers.append(layer)
            for place, blob in enumerate(layer.outputs):
                reading = readers.get(blob, [])
                kept = blob in ends
                if len(reading) + kept < 2:
                    continue
                source = layer.outputs[place] = self.fresh(f"{blob}.s") if kept else blob
                copies = [self.fresh(f"{blob}.s") for _ in reading]
                for reader, copy in zip(reading, copies, strict=True):
                    reader.inputs[reader.inputs.index(blob)] = copy
                layers.append(Layer("Split", self.fresh(f"{blob}.split"), [source], [*copies, *[blob] * kept]))
        blobs = sum(len(layer.outputs) for layer in layers)
        lines = [MAGIC, f"{len(layers)} {blobs}", *(layer.line for layer in layers)]
        return "\n".join(lines) + "\n", b"".join(layer.content for layer in layers)


def read_layers(text: str, numbers: bytes) -> list[Layer]:
    """The layers of two files that this exporter wrote; of their arrays those of integer layers alone."""
    layers, at = list[Layer](), 0
    for line in text.splitlines()[2:]:
        kind, name, reads, makes, *rest = line.split()
        ends = int(reads) + int(makes)
        told = {key: value for key, _, value in (part.partition("=") for part in rest[ends:])}
        layer = Layer(kind, name, rest[: int(reads)], rest[int(reads) : ends])
        sizes = _sizes(kind, told)
        if (scales := int(told.get("8", 0))) and kind in WEIGHTED:
            layer.parameters[8] = scales
        for place, (size, tagged) in enumerate(sizes):
            width = 4
            if tagged:
                tag = int(np.frombuffer(numbers, np.uint32, 1, at)[0])
                width, at = {WHOLE: 1, HALF: 2}.get(tag, 4), at + 4
            layer.arrays.append(np.frombuffer(numbers, {1: np.int8, 2: np.float16, 4: np.float32}[width], size, at))
            at += -(-size * width // 4) * 4
            layer.tagged += tagged and place == layer.tagged
        layers.append(layer)
    if at != len(numbers):
        raise ValueError(f"{len(numbers) - at} bytes are of no layer")
    return layers


WEIGHTED = ("Convolution", "ConvolutionDepthWise", "InnerProduct")


def _sizes(kind: str, told: Mapping[str, str]) -> list[tuple[int, bool]]:
    """How many numbers each array of a layer has, and whether its type is told before it."""

    def number(key: int) -> int:
        return int(told.get(str(key), 0))

    if kind in WEIGHTED or kind in ("Deconvolution", "DeconvolutionDepthWise"):
        weights = number(2) if kind == "InnerProduct" else number(6)
        sizes = [(weights, True), (number(0), False)]
        if kind in WEIGHTED and number(8):
            sizes += [(number(0), False), (1, False)] + [(1, False)] * (number(8) > 100)
        return sizes
    if kind in ("GRU", "LSTM"):
        width, gates, twice = number(0), {"GRU": 3, "LSTM": 4}[kind], 1 + (number(2) == 2)
        return [(number(1), True), (4 * width * twice, True), (gates * width * width * twice, True)]
    if kind == "MemoryData":
        return [(int(np.prod([number(key) or 1 for key in (0, 1, 11, 2)])), False)]
    counts = {"BatchNorm": (4, 0), "LayerNorm": (2, 0), "InstanceNorm": (2, 0), "GroupNorm": (2, 1), "PReLU": (1, 0)}
    count, key = counts.get(kind, (0, 0))
    return [(number(key), False)] * count


def _told(key: int, value: Parameter) -> str:
    if isinstance(value, Sequence):
        return ",".join((f"{-ARRAY - key}={len(value)}", *map(_number, value)))
    return f"{key}={_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    most = float(np.finfo(np.float32).max)
    return f"{min(max(float(value), -most), most):.9e}"  # ncnn reads no infinity
