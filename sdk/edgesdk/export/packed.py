"""Weights stored packed in an ONNX file: codes of few bits, what is not zero, low frequencies, or 16-bit floats.

Standard operators decode them from constants. ONNX Runtime computes what is constant once, as it loads, before it fuses
layers: the model runs in the kernels of the plain one, and only the file is smaller. Loading takes longer, and more
memory: what it computes on the way, up to seven times the size of the plain weights, stays with the process.

16-bit floats go on into other formats, as ``runtime.Format.stores`` has it. The rest stays with ONNX for ONNX Runtime:
OpenVINO does not fold it, and would decode it at every inference; the TFLite writer computes constants, and would store
them decoded, at full size; TensorRT takes no shifts of bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from ml_dtypes import bfloat16
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from edgesdk.core.errors import FidelityError, ModelError, UsageError
from edgesdk.core.runtime import format_of
from edgesdk.techniques.codebooks import Coded
from edgesdk.techniques.filtering import Filtered, planes
from edgesdk.techniques.packing import Half, Packed
from edgesdk.techniques.sparsity import Sparse

OLDEST_OPSET = 18  # the first with BitwiseAnd
FRAME = 4  # bytes around a part of a file: its number and its length
HALVES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "bf16": np.dtype(bfloat16)}


def packed(model: ModelProto, weights: Mapping[str, Packed], runtime: str = "onnxruntime") -> ModelProto:
    """A copy of ``model`` in which the initializers that ``weights`` names are stored packed.

    Each must have the very values that its packed form decodes to; so the copy computes what ``model`` does, to the
    bit. A name may be that of a linear layer's weight which the exporter stored transposed, under another name. One
    that would take more bytes packed stays plain.

    Raises ``ModelError`` for weights that files for ``runtime`` cannot hold and an opset before 18, ``UsageError`` for
    a name that is no float32 weight, ``FidelityError`` where values differ.
    """
    if not weights:
        return model
    stores = format_of(runtime).stores
    kinds = {weight.kind if isinstance(weight, Half) else "packed" for weight in weights.values()}
    if stores is not None and (lacking := sorted(kinds.difference(stores))):
        kind = lacking[0]
        raise ModelError(
            f"files for {runtime} hold no {kind} weights",
            "choose --runtime onnxruntime, or another option for these layers",
        )
    if (opset := next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))) < OLDEST_OPSET:
        raise ModelError(f"opset {opset} cannot decode packed weights", f"export with opset {OLDEST_OPSET} or later")
    packed = ModelProto()
    packed.CopyFrom(model)
    writer = _Writer()
    for name, weight in weights.items():
        tensor, turned = _place(packed, name, weight.decoded().numpy())
        if writer.write(tensor.name, weight, turned, below=tensor.ByteSize()):
            packed.graph.initializer.remove(tensor)
    nodes = [*writer.nodes, *packed.graph.node]
    del packed.graph.node[:]
    packed.graph.node.extend(nodes)
    packed.graph.initializer.extend(writer.tensors)
    onnx.checker.check_model(packed)
    return packed


def _place(model: ModelProto, name: str, decoded: np.ndarray) -> tuple[TensorProto, bool]:
    """The initializer that holds the weight ``name``, and whether that is transposed there."""
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    named = next((tensor for tensor in floats if tensor.name == name), None)
    if named is not None and _holds(named, decoded):
        return named, False
    turned = next((tensor for tensor in floats if decoded.ndim == 2 and _holds(tensor, decoded.T)), None)
    if named is None and turned is not None:
        return turned, True
    if named is None:
        raise UsageError(
            f"the model has no float32 weight {name} with the values of its packed form", "name a layer's weight"
        )
    raise FidelityError(f"{name} does not have the values of its packed form", "export the decoded weights")


def _holds(tensor: TensorProto, values: np.ndarray) -> bool:
    return tuple(tensor.dims) == values.shape and numpy_helper.to_array(tensor).tobytes() == values.tobytes()


class _Writer:
    """The constants and operators that decode packed weights; constants that are alike are stored once."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.names: dict[tuple, str] = {}

    def write(self, name: str, weight: Packed, turned: bool, below: int) -> bool:
        """Write what makes the tensor ``name``, ``turned`` or not, unless that takes ``below`` bytes or more."""
        nodes, tensors, names = len(self.nodes), len(self.tensors), dict(self.names)
        value = self.decode(weight, turned)
        if turned and not isinstance(weight, Half):
            self.call("Transpose", value, perm=[1, 0])
        self.nodes[-1].output[0] = name
        written = [*self.nodes[nodes:], *self.tensors[tensors:]]
        if sum(part.ByteSize() + FRAME for part in written) < below:
            return True
        del self.nodes[nodes:], self.tensors[tensors:]
        self.names = names
        return False

    def decode(self, weight: Packed, turned: bool) -> str:
        """The name of the decoded weight, a half one ``turned`` if that is wanted; its maker is the last node."""
        if isinstance(weight, Half):
            value = weight.values.T if turned else weight.values
            held = value.float().numpy().astype(HALVES[weight.kind])
            return self.call("Cast", self.constant(held), to=TensorProto.FLOAT)
        if isinstance(weight, Filtered):
            return self.filtered(weight)
        return self.sparse(weight) if isinstance(weight, Sparse) else self.coded(weight)

    def coded(self, weight: Coded) -> str:
        """``table[codes]``, then a product per run."""
        codes, shape = weight.codes.flatten().numpy(), tuple(weight.codes.shape)
        if weight.scales is None:
            return self.looked_up(_array(weight.table), codes, weight.bits, shape)
        runs = (len(weight.scales), weight.block)
        codes = np.pad(codes, (0, runs[0] * runs[1] - len(codes)))
        value = self.looked_up(_array(weight.table), codes, weight.bits, runs)
        value = self.call("Mul", value, self.scales(_array(weight.scales)))
        return self.first(value, len(codes), shape)

    def looked_up(self, table: np.ndarray, codes: np.ndarray, bits: int, shape: tuple[int, ...]) -> str:
        indices = self.call("Cast", self.integers(codes, bits, shape), to=TensorProto.INT32)
        return self.call("Gather", self.constant(table), indices)

    def scales(self, scales: np.ndarray) -> str:
        """A column of scales, as they are, or as bytes and a table where they are few: powers of two are."""
        table, codes = np.unique(scales, return_inverse=True)
        if len(table) > 256 or table.nbytes + len(codes) >= scales.nbytes:
            return self.constant(scales[:, None])
        return self.looked_up(table, codes.astype(np.uint8), 8, (len(codes), 1))

    def sparse(self, weight: Sparse) -> str:
        """Entry i is the value whose number is the sum of the mask up to i, or the zero that stands before them all."""
        if isinstance(weight.values, Coded):
            values = self.call("Concat", self.constant(np.zeros(1, np.float32)), self.coded(weight.values), axis=0)
        else:
            values = self.constant(np.concatenate([np.zeros(1, np.float32), _array(weight.values)]))
        bits = weight.mask.flatten().numpy().astype(np.uint8)
        mask = self.call("Cast", self.integers(bits, 1, bits.shape), to=TensorProto.INT32)
        place = self.call("Mul", self.call("CumSum", mask, self.constant(np.array(0))), mask)
        return self.reshape(self.call("Gather", values, place), weight.mask.shape)

    def filtered(self, weight: Filtered) -> str:
        """Coefficients times the basis, exact in double precision, and the blocks put where they belong."""
        coefficients, basis = (
            self.call("Cast", self.constant(_array(part)), to=TensorProto.DOUBLE)
            for part in (weight.coefficients, weight.basis)
        )
        value = self.call("Cast", self.call("MatMul", coefficients, basis), to=TensorProto.FLOAT)
        (count, down, across), (rows, columns) = weight.tiles, weight.block
        if across > 1:  # else rows lie as they should
            value = self.reshape(value, (count, down, across, rows, columns))
            value = self.call("Transpose", value, perm=[0, 1, 3, 2, 4])
        value = self.reshape(value, (count, down * rows, across * columns))
        _, *sides = planes(weight.shape)
        if sides != [down * rows, across * columns]:
            value = self.call("Slice", value, *(self.constant(np.array(v)) for v in ([0, 0], sides, [1, 2])))
        return self.reshape(value, weight.shape)

    def integers(self, codes: np.ndarray, bits: int, shape: tuple[int, ...]) -> str:
        """Flat uint8 codes as a tensor of ``shape`` from their bits, in parts of 8, 4, 2 and 1, which divide a byte."""
        value, low = "", 0
        for width in (8, 4, 2, 1):
            if not bits & width:
                continue
            part = self.part(codes >> low & (2**width - 1), width, shape)
            if low:
                part = self.call("BitShift", part, self.constant(np.array([low], np.uint8)), direction="LEFT")
                part = self.call("BitwiseOr", value, part)
            value, low = part, low + width
        return value

    def part(self, codes: np.ndarray, width: int, shape: tuple[int, ...]) -> str:
        if width == 8:
            return self.constant(codes.reshape(shape))
        each = 8 // width  # codes to a byte, the first in the lowest bits
        whole = np.pad(codes, (0, -len(codes) % each)).reshape(-1, each)
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        held = self.constant(np.bitwise_or.reduce(whole << shifts, axis=1)[:, None])
        held = self.call("BitShift", held, self.constant(shifts), direction="RIGHT")
        held = self.call("BitwiseAnd", held, self.constant(np.array([2**width - 1], np.uint8)))
        return self.first(held, whole.size, shape)

    def first(self, value: str, count: int, shape: Sequence[int]) -> str:
        """The first entries of ``value``, which has ``count`` in all, as a tensor of ``shape``."""
        if (size := math.prod(shape)) != count:
            value = self.call("Slice", self.reshape(value, (-1,)), *(self.constant(np.array([v])) for v in (0, size)))
        return self.reshape(value, shape)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        return self.call("Reshape", value, self.constant(np.array(shape, np.int64)))

    def constant(self, array: np.ndarray) -> str:
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.names:
            self.names[key] = f"packed.{len(self.names)}"
            self.tensors.append(numpy_helper.from_array(array, self.names[key]))
        return self.names[key]

    def call(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"packed/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _array(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.numpy(), np.float32)
