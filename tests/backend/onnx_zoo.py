"""Small networks as ONNX files, in the spellings of several producers; each says what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


# PyTorch's exporters


class Residual(nn.Module):
    """Convolutions, norms, a shortcut, a pool and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.wide = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.get_buffer("running_var"), 0.5, 2)
        nn.init.normal_(self.norm.get_buffer("running_mean"))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu6(x + self.wide(F.hardswish(self.deep(x))))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        return self.fc(x.mean((2, 3)))


class Transformer(nn.Module):
    """Patches with a class token and positions, an attention, an MLP: shapes that are computed from the batch's."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.place = nn.Parameter(torch.randn(1, 17, 16))
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        b, n, c = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(b, n, c))
        x = x + self.down(F.gelu(self.up(self.after(x))))
        return self.head(x[:, 0])


class Shuffled(nn.Module):
    """Splits, a shuffle of channels, a squeeze-and-excitation, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.gate = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 8, 1)
        self.mask = nn.ConvTranspose2d(8, 1, 2, 2)

    def forward(self, image):
        gate, two = F.silu(self.conv(image)).chunk(2, 1)
        x = torch.cat([self.left(gate), two], 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        y = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        return {"classes": x.amax((2, 3)), "mask": torch.sigmoid(self.mask(x) + y[:, :1])}


class Heard(nn.Module):
    """Words, a recurrent layer and a 1-D convolution."""

    def __init__(self, kind: type[nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.recurrent = kind(8, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, ids):
        x = F.gelu(self.conv(self.words(ids).transpose(1, 2))).transpose(1, 2)
        return self.fc(self.recurrent(x)[0][:, -1])


class Two(nn.Module):
    """Two inputs of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = nn.Conv2d(1, 4, 3), nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, image, number):
        return self.fc(F.leaky_relu(self.image(image)).mean((2, 3)) * self.table(number))


class Encoded(nn.Module):
    """PyTorch's own encoder layer: samples lie along the second axis inside, and rows of a matrix hold them all."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, ids):
        return self.head(self.layer(self.words(ids)).mean(1))


SEED = torch.Generator().manual_seed(0)  # what is drawn while this is imported does not hang on what was before


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=SEED)


IMAGE = (drawn(2, 3, 16, 16),)
WORDS = (torch.randint(0, 20, (2, 9), generator=SEED),)
PAIR = (drawn(2, 1, 6, 6), torch.randint(0, 7, (2,), generator=SEED))
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "residual": (Residual, IMAGE), "transformer": (Transformer, IMAGE), "shuffled": (Shuffled, IMAGE),
    "gru": (Heard, WORDS), "lstm": (lambda: Heard(nn.LSTM), WORDS), "two": (Two, PAIR),
    "encoded": (Encoded, WORDS),
}  # fmt: skip


def exported(name: str, folder: Path, dynamo: bool, opset: int, free: bool = True) -> Path:
    """One of ``MODULES`` as PyTorch's new exporter or its old one writes it."""
    torch.manual_seed(0)
    make, x = MODULES[name]
    model = make().eval()
    names = {"residual": ["x"], "transformer": ["x"], "shuffled": ["image"], "two": ["image", "number"]}.get(
        name, ["ids"]
    )
    path = folder / f"{name}-{'new' if dynamo else 'old'}-{opset}-{'free' if free else 'one'}.onnx"
    x = x if free else tuple(t[:1] for t in x)
    outputs = ["classes", "mask"] if name == "shuffled" else ["answer"]
    how: dict[str, Any] = {"input_names": names, "output_names": outputs, "opset_version": opset, "dynamo": dynamo}
    if free and dynamo:
        how["dynamic_shapes"] = tuple({0: torch.export.Dim.DYNAMIC} for _ in x)
    elif free:
        how["dynamic_axes"] = {n: {0: "batch"} for n in (*names, *outputs)}
    torch.onnx.export(model, x, str(path), verbose=False, **how)
    return path


# What others write, node by node


class Written:
    """A graph that is written by hand, with weights of a fixed seed."""

    def __init__(self, opset: int, **inputs: Any) -> None:
        self.opset, self.nodes, self.weights = opset, [], []
        self.inputs = [helper.make_tensor_value_info(n.replace("__", ":"), *self._kind(s)) for n, s in inputs.items()]
        self.draw = np.random.default_rng(0)

    @staticmethod
    def _kind(shape: Any) -> tuple[int, Any]:
        return (shape[0], shape[1]) if isinstance(shape, tuple) else (FLOAT, shape)

    def w(self, name: str, *shape: int, low: float | None = None) -> str:
        values = self.draw.standard_normal(shape).astype(np.float32) * 0.5
        self.weights.append(numpy_helper.from_array(values if low is None else np.abs(values) + np.float32(low), name))
        return name

    def c(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def n(self, op: str, inputs: list[str], output: str | list[str], name: str = "", **attributes: Any) -> str:
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name or f"{op}_{len(self.nodes)}", **attributes))
        return outputs[0]

    def save(self, path: Path, *outputs: str) -> Path:
        makers = {name: node.op_type for node in self.nodes for name in node.output}
        ends = [helper.make_tensor_value_info(n, INT64 if makers[n] == "ArgMax" else FLOAT, None) for n in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.save(model, str(path))
        return path


def tf2onnx(path: Path) -> Path:
    """Images with channels last, borders of its own, names with colons and slashes, a flattening of stated sizes."""
    g = Written(13, input_1__0=["unk", 15, 15, 3])
    x = g.n("Transpose", ["input_1:0"], "model/conv/Conv2D__6:0", "model/conv/Conv2D__6", perm=[0, 3, 1, 2])
    x = g.n("Conv", [x, g.w("model/conv/Conv2D/ReadVariableOp:0", 8, 3, 3, 3), g.w("model/conv/Bias:0", 8)],
            "model/conv/BiasAdd:0", "model/conv/BiasAdd", auto_pad="SAME_UPPER", strides=[2, 2])  # fmt: skip
    x = g.n("Clip", [x, g.c("zero", 0, np.float32), g.c("six", 6, np.float32)], "model/relu6:0")
    x = g.n("Pad", [x, g.c("pads", [0, 0, 0, 0, 0, 0, 1, 1]), "zero"], "model/pad:0")
    x = g.n("Conv", [x, g.w("model/dw:0", 8, 1, 3, 3)], "model/dw_out:0", "model/dw", group=8, pads=[0, 0, 0, 0])
    x = g.n("BatchNormalization", [x, g.w("g", 8, low=0.5), g.w("b", 8), g.w("m", 8), g.w("v", 8, low=0.5)],
            "model/bn:0", epsilon=1e-3)  # fmt: skip
    x = g.n("LeakyRelu", [x], "model/leaky:0", alpha=0.2)
    x = g.n("MaxPool", [x], "model/pool:0", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    x = g.n("AveragePool", [x], "model/average:0", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
    x = g.n("Transpose", [x], "model/nhwc:0", perm=[0, 2, 3, 1])
    x = g.n("Reshape", [x, g.c("flat", [-1, 32])], "model/flatten:0")
    x = g.n(
        "MatMul", [x, g.w("model/dense/MatMul/ReadVariableOp:0", 32, 6)], "model/dense/MatMul:0", "model/dense/MatMul"
    )
    x = g.n("Add", [x, g.w("model/dense/BiasAdd/ReadVariableOp:0", 6)], "model/dense/BiasAdd:0")
    return g.save(path, g.n("Softmax", [x], "Identity:0", axis=-1))


def keras(path: Path, opset: int = 11) -> Path:
    """A Hardswish in parts, a squeeze and excitation, a norm in parts, nearest upsampling, one sample alone."""
    g = Written(opset, x=[1, 8, 6, 6])
    c = lambda name, value: g.c(name, value, np.float32)  # noqa: E731
    three = g.n("Add", ["x", c("3", 3.0)], "x3")
    part = (
        g.n("Clip", [three, c("0", 0.0), c("6", 6.0)], "x6")
        if opset >= 11
        else g.n("Clip", [three], "x6", min=0.0, max=6.0)
    )
    x = g.n("Mul", [g.n("Mul", ["x", part], "xx6"), c("sixth", 1 / 6)], "swish")
    s = g.n("GlobalAveragePool", [x], "squeezed")
    s = g.n("Conv", [s, g.w("se.weight", 8, 8, 1, 1), g.w("se.bias", 8)], "excited", kernel_shape=[1, 1])
    x = g.n("Mul", [x, g.n("HardSigmoid", [s], "gate", alpha=0.2, beta=0.5)], "scaled")
    scales = g.c("scales", [1, 1, 2, 2], np.float32)
    if opset < 10:
        x = g.n("Upsample", [x, scales], "larger", mode="nearest")
    else:
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = g.n("Resize", [x, g.c("roi", [], np.float32), scales], "larger", mode="nearest", **how)
    x = g.n("Transpose", [x], "last", perm=[0, 2, 3, 1])
    mean = g.n("ReduceMean", [x], "mean", axes=[-1], keepdims=1)
    off = g.n("Sub", [x, mean], "off")
    variance = g.n("ReduceMean", [g.n("Mul", [off, off], "square")], "variance", axes=[-1], keepdims=1)
    root = g.n("Sqrt", [g.n("Add", [variance, c("eps", 1e-3)], "kept")], "root")
    x = g.n("Add", [g.n("Mul", [g.n("Div", [off, root], "norm"), g.w("gamma", 8)], "ng"), g.w("beta", 8)], "normed")
    x = g.n("ReduceMean", [x], "pooled", axes=[1, 2], keepdims=0)
    x = g.n("Reshape", [x, g.c("shape", [1, 8])], "rows")
    return g.save(path, g.n("Gemm", [x, g.w("fc.weight", 4, 8), g.w("fc.bias", 4)], "dense", transB=1))


def paddle(path: Path, opset: int = 11) -> Path:
    """Shapes that are computed, products in rows, a Softmax over all axes from one on, everything named by number."""
    g = Written(opset, x0=[-1, 3, 8, 8])
    x = g.n("Conv", ["x0", g.w("conv2d_0.w_0", 6, 3, 3, 3)], "conv2d_1.tmp_0", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    bias = g.n("Reshape", [g.w("conv2d_0.b_0", 6), g.c("r", [1, 6, 1, 1])], "b_1")
    x = g.n("Relu", [g.n("Add", [x, bias], "elementwise_add_0")], "relu_0.tmp_0")
    shape = g.n("Shape", [x], "shape_0")
    first = g.n("Slice", [shape, g.c("s0", [0]), g.c("s1", [1]), g.c("s2", [0])], "batch_0")
    to = g.n("Concat", [first, g.c("c", [6]), g.c("m1", [-1])], "to_0", axis=0)
    x = g.n("Reshape", [x, to], "reshape_0")
    x = g.n("Transpose", [x], "transpose_0", perm=[0, 2, 1])
    x = g.n("MatMul", [x, g.w("linear_0.w_0", 6, 4)], "linear_0.tmp_0")
    x = g.n("Add", [g.w("linear_0.b_0", 4), x], "linear_0.tmp_1")
    half = g.n("Mul", [x, g.c("half", 0.5, np.float32)], "half_0")
    erf = g.n("Erf", [g.n("Div", [x, g.c("root", 1.4142135, np.float32)], "div_0")], "erf_0")
    x = g.n("Mul", [half, g.n("Add", [erf, g.c("one", 1.0, np.float32)], "plus_0")], "gelu_0")
    squeezed = g.n("Unsqueeze", [x], "u", axes=[1]) if opset < 13 else g.n("Unsqueeze", [x, g.c("ua", [1])], "u")
    parts = [f"split_{i}" for i in range(2)]
    sizes: dict[str, Any] = {"split": [2, 2]} if opset < 13 else {}
    g.n("Split", [squeezed], parts, axis=3, **sizes)
    x = g.n("Sum", [parts[0], g.n("Tanh", [parts[1]], "tanh_0")], "sum_0")
    x = g.n("Squeeze", [x], "q", axes=[1]) if opset < 13 else g.n("Squeeze", [x, g.c("qa", [1])], "q")
    x = g.n("Softmax", [x], "softmax_0", axis=1)
    return g.save(path, g.n("ReduceMax", [x], "save_infer_model/scale_0.tmp_0", axes=[2], keepdims=0))


def odd(path: Path, opset: int = 17) -> Path:
    """What is seldom: an uneven average, slices backwards, DepthToSpace, Where, Gather, Einsum, a cubic, norms."""
    g = Written(opset, images=[-1, 4, 7, 7])
    x = g.n(
        "AveragePool", ["images"], "uneven", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0], count_include_pad=0
    )
    x = g.n("InstanceNormalization", [x, g.w("scale", 4, low=0.5), g.w("shift", 4)], "instance")
    x = g.n("LpNormalization", [x], "unit", axis=1)
    x = g.n("Slice", [x, g.c("b", [-1]), g.c("e", [-100]), g.c("a", [3]), g.c("s", [-1])], "backwards")
    x = g.n("Where", [g.n("Less", [x, g.c("limit", 0.1, np.float32)], "less"), g.n("Elu", [x], "elu"), x], "picked")
    y = g.n("Gather", [x, g.c("order", [3, 1, -2, 0])], "ordered", axis=1)
    x = g.n("Pow", [g.n("Add", [g.n("Abs", [x], "abs"), y], "both"), g.c("two", 2.0, np.float32)], "power")
    x = g.n("DepthToSpace", [x], "space", blocksize=2, mode="DCR")
    x = g.n("Pad", [x, g.c("edge", [0, 0, 1, 0, 0, 0, 0, 1])], "reflected", mode="reflect")
    x = g.n("Resize", [x, "", "", g.c("sizes", [1, 1, 10, 9])], "cubic", mode="cubic", cubic_coeff_a=-0.75)
    x = g.n("Squeeze", [x, g.c("axis", [1])], "flat")
    x = g.n("Einsum", [x, g.w("mix", 9, 5)], "mixed", equation="bij,jk->bik")
    x = g.n("Expand", [g.n("ReduceSum", [x, g.c("rows", [1])], "sum"), g.c("wide", [1, 3, 5])], "expanded")
    return g.save(
        path, g.n("ReduceL2", [x], "norm", axes=[1], keepdims=0), g.n("ArgMax", [x], "best", axis=2, keepdims=0)
    )


WRITTEN: dict[str, tuple[Callable[[Path], Path], tuple[torch.Tensor, ...]]] = {
    "tf2onnx": (tf2onnx, (drawn(3, 15, 15, 3),)),
    "keras-9": (lambda path: keras(path, 9), (drawn(3, 8, 6, 6),)),
    "keras-11": (keras, (drawn(3, 8, 6, 6),)),
    "keras-17": (lambda path: keras(path, 17), (drawn(3, 8, 6, 6),)),
    "paddle-11": (paddle, (drawn(3, 3, 8, 8),)),
    "paddle-13": (lambda path: paddle(path, 13), (drawn(3, 3, 8, 8),)),
    "odd": (odd, (drawn(3, 4, 7, 7),)),
}  # fmt: skip
