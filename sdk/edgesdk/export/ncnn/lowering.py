"""An ONNX model on its way into an ncnn file: the values that were made so far, and how they lie in ncnn's blobs.

A blob has one to four dimensions, the last innermost, and no dimension of samples. What only changes a shape is a view:
a blob is brought into the dimensions that a layer wants when one reads it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from edgesdk.core.errors import ModelError
from edgesdk.export.ncnn.file import File, Layer, Parameter
from edgesdk.export.reading import Node, Reading

ELSEWHERE = "export to onnx or openvino, which have it, or replace that operator"
DEEPEST = 4  # dimensions of a blob
KEYS: dict[int, tuple[int, ...]] = {
    1: (0,),
    2: (1, 0),
    3: (2, 1, 0),
    4: (2, 11, 1, 0),
}  # of sizes, outermost first, in Input, Reshape, MemoryData
LARGEST = 3.4028234663852886e38


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX model: its ``shape`` there, and the blob that holds it, whose dimensions are ``mat``.

    What is quantized stays real until a layer of integers reads it: ``step`` is that of its grid.
    """

    blob: str
    shape: tuple[int, ...]
    mat: tuple[int, ...]
    step: float | None = None


@dataclass(frozen=True)
class Fused:
    """What a layer makes together with the activation after it: its value, and the parameters that say so."""

    name: str
    parameters: dict[int, Parameter]


def refused(node: Node, why: str) -> ModelError:
    return ModelError(f"ncnn cannot run {node.told}: {why}", ELSEWHERE)


def kept(shape: tuple[int, ...]) -> list[int]:
    """The dimensions of a tensor that its blob has: all but that of one sample, and of others of size 1 as many as must
    go. Raises ``ValueError`` where four are not enough."""
    dims = list(range(len(shape)))
    if len(dims) > 1 and shape[0] == 1:
        dims = dims[1:]
    while len(dims) > DEEPEST and any(shape[d] == 1 for d in dims):
        dims.remove(next(d for d in dims if shape[d] == 1))
    if len(dims) > DEEPEST:
        raise ValueError("it has more dimensions than the four of a blob")
    return dims


def natural(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of a tensor's blob, or ``ValueError``."""
    return tuple(shape[d] for d in kept(shape)) or (1,)


class Lowering(Reading):
    """An ONNX model, its constants computed, on its way into a file. Operators of these ``names`` have fixed shapes.

    One that is ``timed`` is no network, but an operator in what surrounds it.
    """

    format = "ncnn"
    elsewhere = ELSEWHERE

    def __init__(self, model: ModelProto, names: Collection[str], timed: bool = False) -> None:
        self.timed = timed
        super().__init__(model, names)
        self.file: File = File()
        self.values: dict[str, Value] = {}
        self.arranged_as: dict[tuple[str, tuple[int, ...]], str] = {}
        self.constants: dict[tuple[str, tuple[int, ...]], str] = {}
        self._check_types()
        self.file.taken.update(self.outputs)
        for name in self.inputs:
            shape = self.shape(name)
            self.file.taken.add(name)
            mat = natural(shape)
            self.file.add("Input", name, [], [name], dict(zip(KEYS[len(mat)], mat, strict=True)))
            self.values[name] = Value(name, shape, mat)

    def _check_types(self) -> None:
        """Raise ``ModelError`` for what is computed in other than real numbers."""
        for name in self.inputs:
            if self.types[name] != np.float32:
                raise ModelError(f"ncnn has inputs of float32 alone, and {name} is {self.types[name]}", ELSEWHERE)
        for node in self.nodes:
            kind = self.types.get(node.outputs[0], np.dtype(np.float32))
            if kind != np.float32 and node.op != "QuantizeLinear":
                raise ModelError(f"ncnn computes in float32, and {node.told} makes {kind}", ELSEWHERE)

    def check_ends(self) -> None:
        """Raise ``ModelError`` for inputs and outputs of which a file of ncnn's does not tell all."""
        for name in (*self.inputs, *self.outputs):
            self._check_end(name, self.shape(name))

    def _check_end(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) < 2 or shape[0] != 1 or len(shape) - 1 > DEEPEST or any(c.isspace() for c in name):
            fact = f"{name} is {list(shape)}, and ncnn has one sample at a time with one to four dimensions"
            if any(c.isspace() for c in name):
                fact = f"the name {name!r} has a blank, which ncnn's names lack"
            raise ModelError(fact, "export to onnx or openvino")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of ``name``, which is known. A constant's is its own."""
        array = self.array(name)
        shape = array.shape if array is not None else self.shapes[name]
        assert shape is not None
        return tuple(shape)

    def value(self, name: str) -> Value:
        """``name`` in a blob, real or still to be quantized. A constant becomes one."""
        if name not in self.values:
            shape = self.shape(name)
            self.values[name] = Value(self.constant(name, natural(shape)), shape, natural(shape))
        return self.values[name]

    def constant(self, name: str, mat: tuple[int, ...]) -> str:
        """The blob of a constant, in those dimensions."""
        array = self.array(name)
        assert array is not None, name
        if (name, mat) not in self.constants:
            blob = self.constants[name, mat] = self.file.fresh(name)
            sizes: dict[int, Parameter] = dict(zip(KEYS[len(mat)], mat, strict=True))
            self.file.add("MemoryData", blob, [], [blob], {**sizes, 21: 1}, [array.astype(np.float32)])
        return self.constants[name, mat]

    def real(self, name: str, mat: tuple[int, ...] | None = None) -> str:
        """The blob of ``name``, of real numbers and in dimensions ``mat``; those that it has where none are given.

        What is on a grid is brought there and back, but for what is ``timed``: a network has it on none there.
        """
        if self.array(name) is not None and name not in self.values:
            return self.constant(name, natural(self.shape(name)) if mat is None else mat)
        value = self.value(name)
        if value.step is not None and not self.timed:
            value = self.values[name] = self._there_and_back(value)
        return value.blob if mat is None else self.arranged(value, mat)

    def _there_and_back(self, value: Value) -> Value:
        assert value.step is not None
        key = (f"{value.blob}/{value.step}", value.mat)
        if key not in self.arranged_as:
            step, blob = np.float32(value.step), value.blob  # in real numbers: it has nothing that makes such of int8
            for kind, parameters in (
                ("BinaryOp", {0: 2, 1: 1, 2: float(multiplier(step)[0])}),
                ("UnaryOp", {0: 18}),
                ("Clip", {0: -127.0, 1: 127.0}),
                ("BinaryOp", {0: 2, 1: 1, 2: float(step)}),
            ):
                made = self.file.fresh(f"{value.blob}.q")
                self.file.add(kind, made, [blob], [made], parameters)
                blob = made
            self.arranged_as[key] = blob
        return replace(value, blob=self.arranged_as[key], step=None)

    def arranged(self, value: Value, mat: tuple[int, ...]) -> str:
        """The blob of ``value`` in dimensions ``mat``."""
        if value.mat == mat:
            return value.blob
        key = (value.blob, mat)
        if key not in self.arranged_as:
            blob = self.arranged_as[key] = self.file.fresh(f"{value.blob}.r")
            self.file.add("Reshape", blob, [value.blob], [blob], dict(zip(KEYS[len(mat)], mat, strict=True)))
        return self.arranged_as[key]

    def made(
        self, node: Node, kind: str, inputs: list[str], mat: tuple[int, ...],
        parameters: dict[int, Parameter] | None = None, arrays: list[np.ndarray] | None = None, name: str | None = None,
        tagged: int = 0,
    ) -> Layer:  # fmt: skip
        """A layer that makes the value ``name``, or ``node``'s first output, in a blob with dimensions ``mat``."""
        name = name or node.outputs[0]
        blob = self.file.fresh(name)
        self.values[name] = Value(blob, self.shape(name), mat)
        label = self.file.fresh(node.name) if node.name != blob else blob
        return self.file.add(kind, label, inputs, [blob], parameters, arrays or [], tagged)

    def fuse(self, node: Node) -> Fused:
        """``node`` with the activation after it, where layers with weights compute that themselves."""
        name = node.outputs[0]
        user = self.only_reader(name)
        found = self._activation(user) if user is not None else None
        if user is None or found is None:
            return Fused(name, {})
        self.done.add(id(user))
        kind, parameters = found
        told: dict[int, Parameter] = {9: kind}
        if parameters:
            told[10] = parameters
        return Fused(user.outputs[0], told)

    def _activation(self, user: Node) -> tuple[int, list[float]] | None:
        if bounds := self.bounds(user):
            low, high = (float(np.clip(bound, -LARGEST, LARGEST)) for bound in bounds)
            return (1, []) if (low, high) == (0.0, LARGEST) else (3, [low, high])
        if user.op == "LeakyRelu":
            return 2, [float(user.get("alpha", 0.01))]
        if user.op == "HardSwish":
            return 6, [1 / 6, 0.5]
        return (4, []) if user.op == "Sigmoid" else None

    def finish(self) -> tuple[str, bytes]:
        """The text and the numbers of the file."""
        blobs = [self.real(name, natural(self.shape(name))) for name in self.outputs]
        (made,) = [layer for layer in self.file.layers if blobs[0] in layer.outputs]
        if len(blobs) == 1 and made.kind != "Input":
            self.file.rename(blobs[0], self.outputs[0])
        else:  # ncnn names outputs in the order in which they are made
            for name, blob in zip(self.outputs, blobs, strict=True):
                self.file.add("Noop", self.file.fresh(f"{name}.same"), [blob], [name])
        pass_on_integers(self.file, self.outputs)
        return self.file.finish(self.outputs)


def multiplier(step: np.float32) -> np.ndarray:
    """By what ncnn multiplies to come to integers: the number that is nearest to one over the ``step``."""
    return np.array([np.float32(1) / np.float32(step)], np.float32)


INTEGER = 8  # the parameter that says that a layer computes in integers, and which scales it loads
GIVES_INTEGERS = 100  # more of it: the layer loads the scale of its output, too
HANDING = ("Convolution", "ConvolutionDepthWise")


def is_integer(layer: Layer) -> bool:
    """Whether ``layer`` has integer weights."""
    return layer.kind in (*HANDING, "InnerProduct") and INTEGER in layer.parameters


def pass_on_integers(file: File, ends: Collection[str]) -> None:
    """Let a convolution give integers where all that reads it takes them with one scale: they are rounded once."""
    readers = file.readers()
    for layer in file.layers:
        (blob, *more) = layer.outputs
        reading = readers.get(blob, [])
        if layer.kind not in HANDING or not is_integer(layer) or more or blob in ends or not reading:
            continue
        if all(reader.kind in HANDING and is_integer(reader) for reader in reading):
            scales = {float(read_step(reader)[0]) for reader in reading}
            if len(scales) == 1:
                layer.parameters[INTEGER] = GIVES_INTEGERS + 1
                layer.arrays.append(read_step(reading[0]))


def read_step(layer: Layer) -> np.ndarray:
    """By what a layer of integers multiplies what it reads: behind its weights and its bias."""
    return layer.arrays[3]
