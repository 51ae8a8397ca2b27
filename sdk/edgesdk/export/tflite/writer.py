"""A TFLite file while it is written: its tensors and operators, and the orders in which tensors hold their elements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from ml_dtypes import int4

from edgesdk.core.errors import DeviceError

ALIGNMENT = 16  # bytes; a runtime reads constants where they lie

OPTIONS = {
    "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "MEAN": "Reducer", "SUM": "Reducer", "REDUCE_MAX": "Reducer", "REDUCE_MIN": "Reducer",
    "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div",
    "BATCH_MATMUL": "BatchMatMul", "FULLY_CONNECTED": "FullyConnected", "TRANSPOSE_CONV": "TransposeConv",
    "SOFTMAX": "Softmax", "GELU": "Gelu", "LEAKY_RELU": "LeakyRelu", "CONCATENATION": "Concatenation",
    "STRIDED_SLICE": "StridedSlice", "SPLIT": "Split", "GATHER": "Gather", "MIRROR_PAD": "MirrorPad", "CAST": "Cast",
    "RESIZE_BILINEAR": "ResizeBilinear", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor", "ARG_MAX": "ArgMax",
    "ARG_MIN": "ArgMin",
    "REDUCE_PROD": "Reducer", "CUMSUM": "Cumsum",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The 8-bit signed integers that a tensor holds: one scale and zero point, or one per entry of ``axis``."""

    scale: tuple[float, ...]
    zero: tuple[int, ...] = (0,)
    axis: int = 0


def schema() -> ModuleType:
    """The classes of TFLite's file format. Raises ``DeviceError`` where they are not installed."""
    try:
        import flatbuffers  # noqa: F401
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise DeviceError("ai-edge-litert is not installed", "pip install 'edgesdk[tflite]'") from None
    return schema_py_generated


class Writer:
    """The one subgraph of a TFLite model, to which tensors and operators are added in order."""

    def __init__(self) -> None:
        self.schema: ModuleType = schema()
        kinds = self.schema.TensorType
        self.kinds: dict[np.dtype[Any], Any] = {
            np.dtype(np.float32): kinds.FLOAT32, np.dtype(np.int8): kinds.INT8, np.dtype(int4): kinds.INT4,
            np.dtype(np.int32): kinds.INT32, np.dtype(np.int64): kinds.INT64, np.dtype(bool): kinds.BOOL,
            np.dtype(np.uint8): kinds.UINT8, np.dtype(np.float64): kinds.FLOAT64,
            np.dtype(np.float16): kinds.FLOAT16,
        }  # fmt: skip
        self.tensors: list[Any] = []
        self.buffers: list[_Buffer] = [_Buffer(self.schema, None)]
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.constants: dict[tuple[Any, ...], int] = {}
        self.weights: dict[bytes, int] = {}  # buffers by what they hold

    def tensor(
        self, name: str, shape: Sequence[int], dtype: Any = np.float32, grid: Grid | None = None, buffer: int = 0
    ) -> int:
        """The index of a new tensor."""
        quantization = None
        if grid is not None:
            zeros = grid.zero * len(grid.scale) if len(grid.zero) == 1 else grid.zero
            quantization = self.record(
                "QuantizationParameters",
                scale=np.array(grid.scale, np.float32),
                zeroPoint=np.array(zeros, np.int64),
                quantizedDimension=grid.axis,
            )
        self.tensors.append(
            self.record(
                "Tensor",
                shape=np.array(shape, np.int32),
                type=self.kinds[np.dtype(dtype)],
                buffer=buffer,
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self.tensors) - 1

    def record(self, kind: str, **fields: Any) -> Any:
        """A record of the schema; not every version of it takes fields when it is made."""
        result = getattr(self.schema, f"{kind}T")()
        for name, value in fields.items():
            setattr(result, name, value)
        return result

    def constant(self, value: Any, name: str = "", grid: Grid | None = None) -> int:
        """The index of a tensor that holds ``value``; equal constants of one name are one, and equal weights, as of a
        layer that runs several times, are stored once."""
        value = np.asarray(value)
        content = _packed(value) if value.dtype == int4 else value.tobytes()
        key = (name, value.dtype.str, value.shape, grid, content)
        if key not in self.constants:
            place = self.weights.get(content) if value.ndim > 1 else None
            if place is None:
                self.buffers.append(_Buffer(self.schema, content))
                place = len(self.buffers) - 1
                if value.ndim > 1:
                    self.weights[content] = place
            label = name or f"constant_{len(self.buffers)}"
            self.constants[key] = self.tensor(label, value.shape, value.dtype, grid, place)
        return self.constants[key]

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any
    ) -> None:
        """Add an operator; an input that is left out is -1. ``options`` are the fields of its options."""
        operator = self.record(
            "Operator",
            opcodeIndex=self.codes.setdefault(kind, len(self.codes)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array(outputs, np.int32),
        )
        self.versions[kind] = max(self.versions.get(kind, 1), version)
        if kind in OPTIONS:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, f"{OPTIONS[kind]}Options")
            operator.builtinOptions = self.record(f"{OPTIONS[kind]}Options", **options)
        self.operators.append(operator)

    def finish(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """The file, whose default signature has the names of ``inputs`` and ``outputs``."""
        import flatbuffers

        codes = []
        for kind in self.codes:
            code = getattr(self.schema.BuiltinOperator, kind)
            old = min(code, 127)  # where the code lay when it was a byte
            version = self.versions[kind]
            codes.append(self.record("OperatorCode", deprecatedBuiltinCode=old, builtinCode=code, version=version))
        graph = self.record(
            "SubGraph",
            tensors=self.tensors,
            inputs=np.array(list(inputs.values()), np.int32),
            outputs=np.array(list(outputs.values()), np.int32),
            operators=self.operators,
            name="main",
        )
        signature = self.record(
            "SignatureDef",
            inputs=[self.record("TensorMap", name=name, tensorIndex=tensor) for name, tensor in inputs.items()],
            outputs=[self.record("TensorMap", name=name, tensorIndex=tensor) for name, tensor in outputs.items()],
            signatureKey="serving_default",
        )
        model = self.record(
            "Model", version=3, operatorCodes=codes, subgraphs=[graph], buffers=self.buffers, signatureDefs=[signature]
        )
        stored = sum(len(buffer.content) + 64 for buffer in self.buffers if buffer.content is not None)
        builder = flatbuffers.Builder(stored + 512 * (len(self.operators) + len(self.tensors)) + 4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class _Buffer:
    """The content of a constant, aligned, which the schema's own class does not see to."""

    def __init__(self, schema: ModuleType, content: bytes | None) -> None:
        self.schema, self.content = schema, content

    def Pack(self, builder: Any) -> int:
        place = None
        if self.content is not None:
            builder.StartVector(1, len(self.content), ALIGNMENT)
            builder.head -= len(self.content)
            builder.Bytes[builder.head : builder.head + len(self.content)] = self.content
            place = builder.EndVector()
        self.schema.BufferStart(builder)
        if place is not None:
            self.schema.BufferAddData(builder, place)
        return self.schema.BufferEnd(builder)


def _packed(value: np.ndarray) -> bytes:
    """Two 4-bit integers per byte, the first in the lower half."""
    halves = value.astype(np.int8).ravel().view(np.uint8) & 15
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    return (halves[::2] | halves[1::2] << 4).tobytes()


Atom = tuple[int, int]  # a size above 1 and how many elements lie between neighbours


@dataclass(eq=False)
class Data:
    """Elements in one order: the tensors that hold them, by shape, as real numbers and as integers of a grid."""

    name: str
    size: int
    dtype: Any
    reals: dict[tuple[int, ...], int] = field(default_factory=dict)
    integers: dict[tuple[int, ...], int] = field(default_factory=dict)
    grid: Grid | None = None
    content: np.ndarray | None = None
    parts: list[int] = field(default_factory=list)  # tensors that, one after the other, are all of it
    derived: dict[tuple[Any, ...], Data] = field(default_factory=dict)


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX model as a view of data: which atoms make up each of its dimensions.

    Reshaping and transposing change the view alone; operators that need another order ask for it.
    """

    shape: tuple[int, ...]
    dims: tuple[tuple[Atom, ...], ...]
    data: Data

    @property
    def grid(self) -> Grid | None:
        return self.data.grid


def merged(atoms: Iterable[Atom]) -> list[Atom]:
    """``atoms`` with neighbours joined that lie one inside the other."""
    result: list[Atom] = []
    for size, stride in atoms:
        if result and result[-1][1] == size * stride:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return result


def dense(shape: Sequence[int], order: Sequence[int]) -> tuple[tuple[Atom, ...], ...]:
    """The atoms of a tensor of ``shape`` whose dimensions lie in ``order``, the last innermost."""
    dims: list[tuple[Atom, ...]] = [()] * len(shape)
    stride = 1
    for d in reversed(order):
        if shape[d] > 1:
            dims[d] = ((shape[d], stride),)
            stride *= shape[d]
    return tuple(dims)


def reshaped(value: Value, shape: tuple[int, ...]) -> Value | None:
    """``value`` as a view of another shape, or ``None`` where its elements have to move first."""
    atoms = merged(atom for dim in value.dims for atom in dim)
    dims = []
    for size in shape:
        dim = []
        while size > 1:
            count, stride = atoms.pop(0)
            if size % count == 0:
                dim.append((count, stride))
                size //= count
            elif count % size == 0:
                dim.append((size, stride * (count // size)))
                atoms.insert(0, (count // size, stride))
                size = 1
            else:
                return None
        dims.append(tuple(merged(dim)))
    return Value(shape, tuple(dims), value.data)


class Views(Writer):
    """A writer that brings values into the order, the shape and the type that an operator wants, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}

    def fresh(self, name: str, shape: Sequence[int], dtype: Any, grid: Grid | None = None) -> int:
        """A new tensor, of 8-bit integers if it has a ``grid``, under a name that no other has."""
        self.names[name] = count = self.names.get(name, 0) + 1
        label = name if count == 1 else f"{name}/{count}"
        return self.tensor(label, shape, np.int8 if grid else dtype, grid)

    def face(self, data: Data, shape: tuple[int, ...], quantized: bool = False) -> int:
        """The tensor of ``shape`` that holds ``data``, as integers or as real numbers."""
        faces = data.integers if quantized else data.reals
        if shape in faces:
            return faces[shape]
        if data.content is not None:
            faces[shape] = self.constant(data.content.reshape(shape), data.name)
        elif data.parts and not faces:
            whole = self.fresh(data.name, (len(data.parts), data.size // len(data.parts)), data.dtype)
            self.operator("CONCATENATION", data.parts, [whole], axis=0)
            data.reals[len(data.parts), data.size // len(data.parts)] = whole
        elif faces:
            source = next(iter(faces.values()))
            faces[shape] = self.fresh(data.name, shape, data.dtype, data.grid if quantized else None)
            self.operator("RESHAPE", [source, self.constant(np.array(shape, np.int32))], [faces[shape]])
        else:
            assert data.integers and not quantized, data.name
            template = shape if shape in data.integers else next(iter(data.integers))
            faces[template] = self.fresh(data.name, template, np.float32)
            self.operator("DEQUANTIZE", [data.integers[template]], [faces[template]], 2)
        return self.face(data, shape, quantized)

    def order(self, value: Value) -> tuple[int, ...] | None:
        """The order of dimensions in which ``value`` lies, or ``None`` where it is not one of dimensions."""
        rank = len(value.shape)
        strides = [value.dims[d][0][1] if value.dims[d] else 0 for d in range(rank)]
        last = (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))
        free = [
            order
            for order in (tuple(range(rank)), last, tuple(sorted(range(rank), key=lambda d: -strides[d])))
            if self.is_free(value, order)
        ]
        shapes = value.data.integers | value.data.reals
        fits = (order for order in free if tuple(value.shape[d] for d in order) in shapes)
        return next(fits, free[0] if free else None)

    def is_free(self, value: Value, order: Sequence[int]) -> bool:
        """Whether ``value`` lies in ``order`` already."""
        atoms = merged(atom for d in order for atom in value.dims[d])
        return not atoms or atoms == [(value.data.size, 1)]

    def arranged(
        self, value: Value, order: Sequence[int], quantized: bool = False, shape: tuple[int, ...] | None = None
    ) -> int:
        """The tensor with the dimensions of ``value`` in ``order``, or of another ``shape`` with the same elements."""
        shape = tuple(value.shape[d] for d in order) if shape is None else shape
        data = value.data
        if not self.is_free(value, order):
            data = self.transposed(data, merged(atom for d in order for atom in value.dims[d]))
        return self.face(data, shape, quantized)

    def plain(self, value: Value, quantized: bool = False) -> int:
        return self.arranged(value, range(len(value.shape)), quantized)

    def settled(self, value: Value) -> Value:
        """``value`` with its elements in plain order, so that every reshape of it is a view."""
        order = range(len(value.shape))
        data = value.data
        if not self.is_free(value, order):
            data = self.transposed(data, merged(atom for dim in value.dims for atom in dim))
        return Value(value.shape, dense(value.shape, order), data)

    def transposed(self, data: Data, atoms: list[Atom]) -> Data:
        """The elements of ``data`` in the order of ``atoms``."""
        key = ("order", *atoms)
        if key in data.derived:
            return data.derived[key]
        result = data.derived[key] = Data(data.name, data.size, data.dtype, grid=data.grid)
        down = sorted(atoms, key=lambda atom: -atom[1])
        sizes = tuple(size for size, _ in down)
        if data.content is not None:
            result.content = data.content.reshape(sizes).transpose([down.index(atom) for atom in atoms]).ravel()
            return result
        quantized = bool(data.integers)
        if data.parts:
            self.face(data, (data.size,))
        faces = data.integers if quantized else data.reals
        for shape in (*faces, sizes):
            order = _finer(shape, atoms)
            if order is not None:
                break
        else:
            raise AssertionError(data.name)
        moved = tuple(shape[d] for d in order)
        source = self.face(data, shape, quantized)
        target = self.fresh(data.name, moved, data.dtype, data.grid if quantized else None)
        version = (2 if quantized else 1) if len(shape) < 5 else 5 if len(shape) == 5 else 6
        self.operator("TRANSPOSE", [source, self.constant(np.array(order, np.int32))], [target], version)
        (result.integers if quantized else result.reals)[moved] = target
        return result

    def quantized(self, value: Value, grid: Grid) -> Value:
        """``value`` on ``grid``, in the order in which it lies."""
        data = value.data
        if data.grid == grid:
            return value
        if (key := ("grid", grid)) not in data.derived:
            result = data.derived[key] = Data(data.name, data.size, np.float32, grid=grid)
            if data.grid is None and not data.reals:
                self.face(data, value.shape)
            shape, source = next(iter((data.integers if data.grid else data.reals).items()))
            result.integers[shape] = self.fresh(data.name, shape, np.int8, grid)
            self.operator("QUANTIZE", [source], [result.integers[shape]], 2 if data.grid else 1)
        return Value(value.shape, value.dims, data.derived[key])


def _finer(shape: tuple[int, ...], atoms: list[Atom]) -> list[int] | None:
    """The order of the dimensions of a tensor of ``shape`` that puts its elements as ``atoms`` say, if there is one."""
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    order = [d for d, size in enumerate(shape) if size == 1]
    for size, stride in atoms:
        inside = [d for d, n in enumerate(shape) if n > 1 and stride <= strides[d] < stride * size]
        if math.prod(shape[d] for d in inside) != size or strides[inside[-1]] != stride:
            return None
        order += inside
    return order
