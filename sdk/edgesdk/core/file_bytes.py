"""What formats take in a file beside weights, in bytes: fitted to files of networks, whole, cut and in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

CONV, CONV1D, LINEAR, ROWS = "conv", "conv1d", "linear", "linear over rows"  # layers with weights


@dataclass(frozen=True)
class FileBytes:
    """What a format takes beside weights.

    ``nodes`` are the bytes of an operator with its names and small constants, by the name that ``files.operator_of``
    gives a layer; one that it lacks takes ``other`` for each of its nodes. ``name`` is how often a file has the name of
    a layer with weights, ``activation`` what is fused into a layer, ``step`` a step of a recurrence where these are
    written one by one. ``fixed`` is what each file has.

    Of an integer network besides: ``quantized`` is a tensor that an integer layer makes, ``entered`` one that is made
    in float and read in integers, ``left`` the reverse; ``integers`` is what a layer with weights takes more, ``row``
    one of its output channels, ``integer_name`` how often more it is named (fewer, where negative); ``shared`` is what
    layers with as many channels have once, per channel, and ``constants`` besides.

    ``float_scale`` and ``integer_scale`` are what all that is multiplied with where a network's files were written.
    """

    fixed: float
    nodes: Mapping[str, float]
    other: float
    activation: float
    quantized: float
    entered: float
    integers: Mapping[str, float]
    name: float = 0.0
    integer_name: float = 0.0
    row: float = 0.0
    left: float = 0.0
    shared: float = 0.0
    constants: float = 0.0
    step: float = 0.0
    float_scale: float = 1.0
    integer_scale: float = 1.0


ONNX_BYTES = FileBytes(
    fixed=104.0, other=75.0, activation=60.0, quantized=400.0, entered=400.0, name=3.8,
    integer_name=8.1, row=11.9, shared=7.0, constants=48.0,
    nodes={
        CONV: 205.0, CONV1D: 188.0, LINEAR: 123.0, ROWS: 115.0, "add": 44.0, "activation": 40.0, "pool": 200.0,
        "mean": 91.0, "flatten": 39.0, "transpose": 64.0, "permute": 66.0, "reshape": 113.0, "getitem": 0.0,
        "unbind": 479.0, "layer_norm": 195.0, "gelu": 60.0, "scaled_dot_product_attention": 699.0, "gru": 506.0,
        "select": 82.0, "slice": 0.0, "zeros": 0.0, "cat": 40.0, "upsample_nearest2d": 249.0, "batch_norm": 617.0,
    },
    integers={CONV: 217.0, CONV1D: 224.0, LINEAR: 208.0, ROWS: 435.0},
)  # fmt: skip
OPENVINO_BYTES = FileBytes(
    fixed=783.0, other=600.0, activation=441.0, quantized=3432.0, entered=3644.0, name=5.1, integer_name=-2.5, row=9.0,
    nodes={
        CONV: 1563.0, CONV1D: 1416.0, LINEAR: 1776.0, ROWS: 1367.0, "add": 478.0, "activation": 441.0, "pool": 537.0,
        "mean": 513.0, "flatten": 462.0, "transpose": 934.0, "permute": 882.0, "reshape": 964.0, "getitem": 0.0,
        "unbind": 4152.0, "layer_norm": 3300.0, "gelu": 454.0, "scaled_dot_product_attention": 4152.0, "gru": 5130.0,
        "select": 957.0, "slice": 203.0, "zeros": 0.0, "cat": 650.0, "upsample_nearest2d": 900.0, "batch_norm": 2500.0,
    },
    integers={CONV: 796.0, CONV1D: 831.0, LINEAR: 346.0, ROWS: 2857.0},
)  # fmt: skip
TFLITE_BYTES = FileBytes(
    fixed=929.0, other=160.0, activation=0.0, quantized=0.0, entered=338.0, name=3.7, integer_name=-2.5, row=29.2,
    step=1393.0,  # recurrences step by step
    nodes={
        CONV: 189.0, CONV1D: 231.0, LINEAR: 88.0, ROWS: 0.0, "add": 0.0, "activation": 160.0, "pool": 551.0,
        "mean": 362.0, "flatten": 278.0, "transpose": 210.0, "permute": 190.0, "reshape": 210.0, "getitem": 121.0,
        "unbind": 512.0, "layer_norm": 1468.0, "gelu": 166.0, "scaled_dot_product_attention": 1468.0, "gru": 300.0,
        "select": 150.0, "slice": 0.0, "zeros": 50.0, "cat": 160.0, "upsample_nearest2d": 200.0, "batch_norm": 350.0,
    },
    integers={CONV: 161.0, CONV1D: 84.0, LINEAR: 29.0, ROWS: 0.0},
)  # fmt: skip
TENSORRT_BYTES = replace(  # no zero points
    ONNX_BYTES, quantized=375.0, entered=375.0, row=8.0, shared=1.0, constants=0.0,
    integers={name: n - 55.0 for name, n in ONNX_BYTES.integers.items()},
)  # fmt: skip
