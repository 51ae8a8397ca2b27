"""The nodes of an ONNX graph whose shapes are known, as the layers that a runtime makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from onnx import GraphProto, TensorProto

from edgesdk.core.graph import (
    ACTIVATION,
    ADD,
    CONV,
    FLATTEN,
    LINEAR,
    MEAN,
    OTHER,
    POOL,
    TRANSPOSED,
    WEIGHTED,
    Graph,
    Layer,
    Tensor,
)
from edgesdk.core.graph import without_batch as without_batch
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.network.onnx_nodes import BITS, Node, Nodes

# What each operator is called: as in ATen, with the number of spatial axes for {}. Others go by their own name.
OPERATORS = {
    "Conv": "conv{}d", "ConvTranspose": "conv_transpose{}d", "Gemm": "linear", "MatMul": "matmul",
    "GRU": "gru", "LSTM": "lstm", "RNN": "rnn", "Gather": "gather",
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Exp": "exp", "Sqrt": "sqrt", "Erf": "erf",
    "Where": "where", "Max": "maximum", "Min": "minimum", "Neg": "neg", "Abs": "abs", "Log": "log",
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Reciprocal": "reciprocal", "Sin": "sin", "Cos": "cos",
    "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le",
    "And": "logical_and", "Or": "logical_or", "Not": "logical_not", "Cast": "to", "CumSum": "cumsum",
    "Attention": "scaled_dot_product_attention", "Einsum": "einsum",
    "Softplus": "softplus", "Mish": "mish", "Selu": "selu", "Celu": "celu",
    "Relu": "relu", "Clip": "hardtanh", "Sigmoid": "sigmoid", "Silu": "silu", "Swish": "silu",
    "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid", "Tanh": "tanh", "Gelu": "gelu",
    "LeakyRelu": "leaky_relu", "Elu": "elu", "PRelu": "prelu", "Softmax": "softmax", "LogSoftmax": "log_softmax",
    "MaxPool": "max_pool{}d", "AveragePool": "avg_pool{}d", "GlobalAveragePool": "adaptive_avg_pool{}d",
    "GlobalMaxPool": "adaptive_max_pool{}d", "ReduceMean": "mean", "ReduceSum": "sum",
    "ReduceMax": "amax", "ReduceMin": "amin", "ReduceProd": "prod", "ReduceL2": "norm",
    "ArgMax": "argmax", "ArgMin": "argmin", "TopK": "topk",
    "LayerNormalization": "layer_norm", "BatchNormalization": "batch_norm", "LRN": "lrn",
    "InstanceNormalization": "instance_norm", "GroupNormalization": "group_norm", "RMSNormalization": "rms_norm",
    "Reshape": "view", "Flatten": "view", "Squeeze": "view", "Unsqueeze": "view", "Transpose": "permute",
    "Concat": "cat", "Split": "split", "Slice": "slice", "Pad": "pad", "Expand": "expand", "Tile": "tile",
    "GatherElements": "gather", "GatherND": "index",
    "Resize": "upsample", "Upsample": "upsample", "DepthToSpace": "pixel_shuffle", "SpaceToDepth": "pixel_unshuffle",
}  # fmt: skip
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
CONVOLUTIONS, RECURRENT = ("Conv", "ConvTranspose"), ("GRU", "LSTM", "RNN")
POOLS = ("MaxPool", "AveragePool")
# Operators without a kind of their own that runtimes have integer kernels for, or that only move their input.
INTEGER = ("MatMul", "Mul", "Sigmoid", "LeakyRelu", "Softmax", "Concat", "Split", "Slice", "Transpose", "Gather", "Pad",
           "Resize", "Add", *POOLS, *RESHAPES, *CONVOLUTIONS, "GlobalAveragePool")  # fmt: skip
TRAINED = {"BatchNormalization": 3, **dict.fromkeys(RECURRENT, 4)}  # inputs before statistics and first states
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def fused(graph: GraphProto, inputs: tuple[Tensor, ...], weights: Mapping[str, int]) -> tuple[Graph, dict[str, Option]]:
    """The layers of ``graph`` at batch 1, and the option of each. ``weights`` gives constants their element type.

    Raises ``ModelError`` where the shape of a tensor is not known.
    """
    reader = Nodes(graph, inputs, weights)
    reader.rewrite()
    return _Layers(reader).collect()


class _Layers:
    """Fuses nodes as runtimes do: weights, bias, BatchNorm, ReLU or ReLU6."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.owner = {tensor.name: tensor.name for tensor in nodes.inputs}  # tensor to the layer or input that makes it
        self.names = Counter(node.name for node in nodes.nodes)
        self.layers: list[Layer] = []
        self.reading: dict[str, list[str]] = {}  # by weight, the layers that have it
        self.options: dict[str, Option] = {}

    def collect(self) -> tuple[Graph, dict[str, Option]]:
        for node in self.nodes.nodes:
            if node.output not in self.owner:
                self.add(node)
        outputs = tuple(self.owner[name] for name in self.nodes.results if name in self.owner)
        shares = {name: names[0] for names in self.reading.values() if len(names) > 1 for name in names}
        layers = tuple(replace(layer, shares=shares.get(layer.name)) for layer in self.layers)
        return Graph(self.nodes.inputs, layers, outputs), self.options

    def add(self, node: Node) -> None:
        weight = self.weight(node)
        kind = self.kind(node, weight)
        bias = node.inputs[2] if weight and len(node.inputs) > 2 else ""
        parts, norm, activation = [node], None, None
        if weight:
            if not bias and (reader := self.nodes.only(node, "Add")) is not None:
                added = self.nodes.other(reader, node.output)
                if added in self.nodes.constants and self.is_bias(self.nodes.shape(added), node):
                    parts, bias = [*parts, reader], added
            if (norm := self.nodes.only(parts[-1], "BatchNormalization")) is not None:
                parts.append(norm)
        if weight or kind == ADD:
            reader = self.nodes.only(parts[-1], "Relu", "Clip")
            if reader is not None and (activation := self.activation(reader)):
                parts.append(reader)
        last = parts[-1]
        name = self.name(node)
        self.owner.update({output: name for part in parts for output in part.outputs if output})
        reads = self.nodes.reads(node)
        trained = [i for i in node.inputs[: TRAINED.get(node.op)] if self.is_parameter(i)]
        trained = list(dict.fromkeys(filter(None, (node.inputs[1], bias)))) if weight else trained
        if weight and norm is None:
            self.reading.setdefault(node.inputs[1], []).append(name)
        images, shape = without_batch(self.nodes.shape(last.output), kind)
        if node.op in RECURRENT:
            shape = self.recurrent(node)
        self.layers.append(
            Layer(
                name=name,
                kind=kind,
                inputs=tuple(dict.fromkeys(self.owner[read] for read in self.nodes.sources(node))),
                input_shape=self.input_shape(node, reads, kind),
                shape=shape,
                operator=self.operator(node, weight),
                weight_shape=weight,
                has_bias=bool(bias) or norm is not None,
                activation=activation,
                parameters=sum(prod(self.nodes.shape(name)) for name in trained),
                macs=self.macs(node, weight, shape),
                images=images,
                **self.window(node),
            )
        )
        self.options[name] = self.option(node, kind, reads, last.output)

    def name(self, node: Node) -> str:
        taken = {*self.options, *(tensor.name for tensor in self.nodes.inputs)}
        own = node.name if self.names[node.name] == 1 else ""
        return next(name for name in (own, node.output, f"{node.output}.{node.op}") if name and name not in taken)

    def input_shape(self, node: Node, reads: list[str], kind: str = OTHER) -> tuple[int, ...]:
        if node.op in RECURRENT:
            dims = self.nodes.shape(node.inputs[0])
            return dims[1:] if node.attributes.get("layout") else (dims[0], *dims[2:])
        return without_batch(self.nodes.shape(reads[0]), kind)[1] if reads else ()

    def recurrent(self, node: Node) -> tuple[int, ...]:
        """(steps, hidden size of all directions)."""
        directions, _, hidden = self.nodes.shape(node.inputs[2])
        return self.input_shape(node, [])[0], directions * hidden

    def weight(self, node: Node) -> tuple[int, ...]:
        """The shape of a layer's constant weight, as PyTorch has it; () for what is no such layer."""
        if len(node.inputs) < 2 or node.inputs[1] not in self.nodes.constants:
            return ()
        if node.op not in (*CONVOLUTIONS, "Gemm", "MatMul"):
            return ()
        dims = self.nodes.shape(node.inputs[1])
        if node.op in CONVOLUTIONS:
            return dims
        if len(dims) != 2 or node.attributes.get("transA"):
            return ()
        return dims if node.attributes.get("transB") else dims[::-1]

    def is_bias(self, dims: tuple[int, ...], node: Node) -> bool:
        """Whether a constant has one number per output channel of ``node``."""
        result = self.nodes.shape(node.output)
        axis = 1 if node.op in CONVOLUTIONS else len(result) - 1
        padded = (1,) * (len(result) - len(dims)) + dims
        return padded == tuple(size if index == axis else 1 for index, size in enumerate(result))

    def kind(self, node: Node, weight: tuple[int, ...]) -> str:
        """As tracing has it: a pool over other than two axes is no POOL."""
        reads = self.nodes.sources(node)
        dims = self.nodes.shape(reads[0]) if reads else ()
        if weight:
            return {"Conv": CONV, "ConvTranspose": TRANSPOSED}.get(node.op, LINEAR)
        if node.op == "Add" and len(reads) == 2 and self.nodes.shape(reads[1]) == dims:
            return ADD
        if node.op in POOLS and len(dims) == 4:
            return POOL
        if len(dims) == 4 and (node.op == "GlobalAveragePool" or node.op == "ReduceMean" and self.axes(node) == [2, 3]):
            return MEAN
        if node.op in RESHAPES[:3]:
            result = self.nodes.shape(node.output)
            return FLATTEN if len(result) == 2 and result[:1] == dims[:1] else OTHER
        return ACTIVATION if self.activation(node) else OTHER

    def axes(self, node: Node) -> list[int]:
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1:
            axes = self.nodes.value(node.inputs[1]).ravel().tolist()
        return sorted(axis % 4 for axis in axes or ())

    def activation(self, node: Node) -> str | None:
        if node.op == "Relu":
            return "relu"
        if node.op != "Clip":
            return None
        bounds = [node.attributes.get("min"), node.attributes.get("max")]
        for index, name in enumerate(node.inputs[1:3]):
            if (value := self.nodes.value(name)).size == 1:
                bounds[index] = value.item()
        return "relu6" if bounds == [0, 6] else None

    def operator(self, node: Node, weight: tuple[int, ...]) -> str:
        if node.op == "MatMul" and weight:
            return "linear"
        if node.op == "Gemm" and not weight:
            return "matmul"
        if node.op == "Gather" and node.inputs[0] in self.nodes.constants:
            return "embedding"
        if node.op == "Transpose":  # axes of length 1 that change place move no number
            dims = self.nodes.shape(node.inputs[0])
            order = [a for a in node.attributes.get("perm", range(len(dims))[::-1]) if dims[a] > 1]
            return "view" if order == sorted(order) else "permute"
        name = OPERATORS.get(node.op, node.op.lower())
        return name.format(len(self.nodes.shape(node.inputs[0])) - 2) if "{}" in name else name

    def is_parameter(self, name: str) -> bool:
        """Whether an input is a trained tensor, not the bound or the factor that a single number is."""
        nodes = self.nodes
        trained = name in nodes.constants and (name in nodes.bits or nodes.types.get(name) in FLOATS)
        return trained and prod(nodes.shape(name)) > 1

    def window(self, node: Node) -> dict[str, Any]:
        """Kernel, stride, padding (what lies before the first pixel, where sides differ), dilation and groups."""
        if node.op not in (*CONVOLUTIONS, *POOLS):
            return {}
        sizes = self.nodes.shape(node.inputs[0])[2:]
        kernel = self.nodes.shape(node.inputs[1])[2:] if node.op in CONVOLUTIONS else node.attributes["kernel_shape"]
        ones = (1,) * len(sizes)
        stride, dilation = (tuple(node.attributes.get(name, ones)) for name in ("strides", "dilations"))
        padding = tuple(node.attributes.get("pads", (0,) * 2 * len(sizes))[: len(sizes)])
        auto = node.attributes.get("auto_pad", b"NOTSET")
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            whole = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                     for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)]  # fmt: skip
            padding = tuple(total // 2 if auto == b"SAME_UPPER" else total - total // 2 for total in whole)
        groups = node.attributes.get("group", 1)
        return dict(kernel=tuple(kernel), stride=stride, padding=padding, dilation=dilation, groups=groups)

    def macs(self, node: Node, weight: tuple[int, ...], shape: tuple[int, ...]) -> int:
        """Multiply-accumulates for one sample of what multiplies tensors; 0 for all else."""
        if node.op not in (*CONVOLUTIONS, *RECURRENT, "Gemm", "MatMul", "Attention", "Einsum"):
            return 0
        first, *others = [self.nodes.shape(name) for name in node.inputs[:3] if name]
        if node.op in CONVOLUTIONS:
            return prod(others[0]) * first[0] * prod(shape[1:] if node.op == "Conv" else first[2:])
        if node.op in RECURRENT:
            return shape[0] * (prod(others[0]) + prod(others[1]))
        if node.op == "Attention":  # scores of queries and keys, then their sums of values
            return (prod(first) + prod(shape)) * others[0][-2]
        if node.op == "Einsum":
            terms = node.attributes["equation"].decode().replace(" ", "").split("->")[0].split(",")
            sizes = {axis: size for term, dims in zip(terms, (first, *others), strict=False)
                     for axis, size in zip(term, dims, strict=False)}  # fmt: skip
            return prod(sizes.values()) if "." not in sizes else 0
        return prod(shape) * (weight[1] if weight else first[0 if node.attributes.get("transA") else -1])

    def option(self, node: Node, kind: str, reads: Iterable[str], output: str) -> Option:
        """INT8 where what the layer reads is on a grid, and so are its weights, or what it makes if it has none."""
        nodes = self.nodes
        weighted = kind in WEIGHTED
        bits = nodes.bits.get(node.inputs[1], 32) if weighted else 8
        grid = weighted or output in nodes.quantized or nodes.types.get(output) in BITS
        fits = kind != OTHER or node.op in INTEGER
        if fits and bits <= 8 and grid and nodes.integer.issuperset(reads):
            return Option(INT8, bits)
        return Option(FP32, bits if weighted else 32)
