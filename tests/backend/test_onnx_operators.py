"""Operators of ONNX one by one, in settings that few exporters use: as ONNX Runtime computes them, for any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_zoo as zoo
import pytest
import torch

from edgesdk.network.onnx_module.read import read
from edgesdk.network.reference import Reference

IMAGE = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(1)) * 2
Build = Callable[[zoo.Written], object]


def resized(opset: int = 18, scales: list[float] | None = None, sizes: list[int] | None = None, **how: Any) -> Build:
    def build(g: zoo.Written) -> None:
        given = ["x", "", g.c("scales", scales, np.float32)] if scales else ["x", "", "", g.c("sizes", sizes)]
        g.n("Resize", given, "y", **how)

    build.__dict__["opset"] = opset
    return build


def one(operator: str, *inputs: tuple[str, object, type], opset: int = 18, **attributes: Any) -> Build:
    """A node of ``operator`` that reads x, and constants."""

    def build(g: zoo.Written) -> None:
        g.n(operator, ["x", *(g.c(*given) for given in inputs)], "y", **attributes)

    build.__dict__["opset"] = opset
    return build


def several(operator: str, outputs: int, *weights: int, opset: int = 18, **attributes: Any) -> Build:
    """A node of ``operator`` that reads x and weights, and whose every output is one of the file."""

    def build(g: zoo.Written) -> list[str]:
        names = ["y", "second", "third"][:outputs]
        g.n(operator, ["x", *(g.w(f"w{i}", size) for i, size in enumerate(weights))], names, **attributes)
        return names

    build.__dict__["opset"] = opset
    return build


def attention(g: zoo.Written, heads: int, shared: int, mask: str = "", **how: Any) -> None:
    """Attention among the ten rows of a sample, by several heads of eight."""
    rows = g.n("Reshape", ["x", g.c("rows", [0, 10, 7])], "rows_")
    widths = {"q": heads, "k": shared, "v": shared}
    parts = [g.n("MatMul", [rows, g.w(f"w{name}", 7, 8 * count)], name) for name, count in widths.items()]
    g.n("Attention", [*parts, *filter(None, [mask])], "y", q_num_heads=heads, kv_num_heads=shared, **how)


def recurrence(g: zoo.Written, kind: str, gates: int, **how: Any) -> None:
    """A recurrent layer of four states over the ten rows of a sample."""
    rows = g.n("Transpose", [g.n("Reshape", ["x", g.c("rows", [0, 10, 7])], "rows_")], "steps", perm=[1, 0, 2])
    both = 2 if how.get("direction") == "bidirectional" else 1
    sizes = {"wi": (both, gates * 4, 7), "wh": (both, gates * 4, 4), "b": (both, 2 * gates * 4)}
    given = [rows, *(g.w(name, *size) for name, size in sizes.items())]
    made = g.n(kind, given, ["each", "last"], hidden_size=4, **how)
    each = g.n("Transpose", [made], "turned", perm=[2, 0, 1, 3])
    last = g.n("Unsqueeze", [g.n("Transpose", ["last"], "of", perm=[1, 0, 2]), g.c("at", [1])], "beside")
    g.n("Concat", [each, last], "y", axis=1)


ONES, HALVES = [1.0, 1.0, 0.6, 0.6], [1.0, 1.0, 0.5, 0.5]
CASES: dict[str, Build] = {
    "linear of a part of a sample": resized(scales=ONES, mode="linear"),
    "cubic of a part of a sample": resized(scales=ONES, mode="cubic"),
    "nearest of a part of a sample": resized(scales=ONES, mode="nearest"),
    "linear, asymmetric": resized(sizes=[1, 2, 9, 4], mode="linear", coordinate_transformation_mode="asymmetric"),
    "linear, symmetric": resized(
        scales=ONES, mode="linear", coordinate_transformation_mode="half_pixel_symmetric", opset=19
    ),
    "linear to one": resized(sizes=[1, 2, 1, 9], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "linear, corners": resized(sizes=[1, 2, 9, 4], mode="linear", coordinate_transformation_mode="align_corners"),
    "cubic of another kind": resized(sizes=[1, 2, 9, 4], mode="cubic", cubic_coeff_a=-0.5),
    "cubic within": resized(sizes=[1, 2, 9, 4], mode="cubic", exclude_outside=1),
    "linear, smooth": resized(scales=HALVES, mode="linear", antialias=1),
    "cubic, smooth": resized(sizes=[1, 2, 2, 3], mode="cubic", antialias=1),
    "nearest, uneven": resized(sizes=[1, 2, 3, 5], mode="nearest", nearest_mode="ceil"),
    "not larger": resized(sizes=[9, 9], axes=[2, 3], mode="nearest", keep_aspect_ratio_policy="not_larger"),
    "not smaller": resized(sizes=[9, 9], axes=[2, 3], mode="linear", keep_aspect_ratio_policy="not_smaller"),
    "upsampled, linear": one("Upsample", ("s", [1, 1, 2, 3], np.float32), opset=9, mode="linear"),
    "power of a tensor": one("Pow", ("e", [1.0, 2.0, 3.0, 2.0, 1.0, 0.0, 2.0], np.float32)),
    "selu of another slope": one("Selu", alpha=2.0, gamma=3.0),
    "positive infinities": lambda g: g.n(
        "Cast", [g.n("IsInf", [g.n("Div", ["x", g.c("0", 0, np.float32)], "d")], "i", detect_negative=0)], "y", to=1
    ),
    "shrunk": one("Shrink", lambd=0.4, bias=0.2),
    "hardmax": one("Hardmax", axis=1),
    "mean and variance": one("MeanVarianceNormalization", axes=[1, 2, 3]),
    "powers pooled": one("LpPool", p=3, kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    "a border wider than the window": one("MaxPool", kernel_shape=[3, 3], pads=[2, 1, 0, 2]),
    "averages of a border": one("AveragePool", kernel_shape=[2, 3], pads=[1, 2, 1, 2]),
    "unit length": lambda g: g.n("LpNormalization", [g.n("Relu", ["x"], "r")], "y", axis=3),
    "places of one": lambda g: g.n(
        "OneHot",
        [g.n("Cast", ["x"], "r", to=7), g.c("n", [4], np.int64), g.c("of", [-1, 5], np.float32)],
        "y",
        axis=1,
    ),
    "kept, all of it": lambda g: g.n("Mul", [g.n("Dropout", ["x"], ["k", "m"]), g.n("Cast", ["m"], "f", to=1)], "y"),
    "a norm with its statistics": several("LayerNormalization", 3, 7, 7, axis=-1),
    "blocks": lambda g: g.n(
        "SpaceToDepth", [g.n("Pad", ["x", g.c("p", [0, 0, 1, 0, 0, 0, 0, 1])], "e")], "y", blocksize=2
    ),
    "counted from the end": lambda g: g.n(
        "Cast",
        [g.n("GatherElements", ["x", g.n("Sub", [g.n("ArgMax", ["x"], "m", axis=3), g.c("7", 7)], "i")], "e", axis=3)],
        "y",
        to=1,
    ),
    "larger by the shape": lambda g: g.n(
        "ConvTranspose", ["x", g.w("w", 2, 3, 3, 3)], "y", strides=[2, 3], output_shape=[10, 20], kernel_shape=[3, 3]
    ),
    "attention, heads beside": lambda g: attention(g, 4, 4),
    "attention, causal": lambda g: attention(g, 4, 4, is_causal=1),
    "attention, few keys": lambda g: attention(g, 4, 2, scale=0.3),
    "attention, masked": lambda g: attention(g, 2, 2, g.w("mask", 10, 10)),
    "an RNN backwards": lambda g: recurrence(g, "RNN", 1, direction="reverse"),
    "an RNN of ReLUs": lambda g: recurrence(g, "RNN", 1, activations=["Relu"]),
    "an RNN both ways": lambda g: recurrence(g, "RNN", 1, direction="bidirectional", activations=["Tanh"] * 2),
    "a GRU backwards": lambda g: recurrence(g, "GRU", 3, direction="reverse", linear_before_reset=1),
    "an LSTM backwards": lambda g: recurrence(g, "LSTM", 4, direction="reverse"),
    "turned": lambda g: g.n("GridSample", ["x", g.n("Transpose", ["x"], "grid", perm=[0, 2, 3, 1])], "y"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    build = CASES[name]
    opset = 23 if name.startswith("attention") else getattr(build, "opset", 18)
    g = zoo.Written(opset, x=["n", 2, 5, 7])
    outputs = build(g)
    path = g.save(tmp_path / "one.onnx", *(outputs if isinstance(outputs, list) else ["y"]))
    module = read(path)
    wanted = Reference(module)(IMAGE)
    made = module(IMAGE)
    pairs = [(made[key], wanted[key]) for key in wanted] if isinstance(wanted, dict) else [(made, wanted)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
