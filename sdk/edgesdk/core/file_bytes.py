"""What formats take in a file beside weights, in bytes: fitted to files of networks, whole, cut and in integers.

The fit is of 12 families of small networks and 6 larger ones, by least squares with what an operator takes by itself
as the prior. Of tools/bench_memory.py's networks it has none that is held out there: these are within 3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

CONV, CONV1D, LINEAR, ROWS = "conv", "conv1d", "linear", "linear over rows"  # layers with weights
CLIPPED = "relu6 in a layer"  # what is fused into one, where that is not a ReLU


@dataclass(frozen=True)
class FileBytes:
    """What a format takes beside weights.

    ``nodes`` are the bytes of an operator with its names and small constants, by the name that ``files.operator_of``
    gives a layer; one that it lacks takes ``other`` for each of its nodes. ``name`` is how often a file has the name of
    a layer with weights, ``activation`` what is fused into a layer, ``slicing`` what cuts and joins the weights of a
    recurrence that the exporter does not compute, ``step`` a step of one where these are written one by one, unless
    ``nodes`` have it ("lstm step"). ``fixed``
    is what each file has.

    Of an integer network besides: ``quantized`` is a tensor that an integer layer makes, ``entered`` one that is made
    in float and read in integers, ``left`` the reverse; ``integers`` is what a layer with weights takes more, ``row``
    one of its output channels, ``integer_name`` how often more it is named (fewer, where negative); ``shared`` is what
    layers with as many channels have once, per channel, and ``constants`` besides.

    ``unpacked`` is what makes bytes of weights of fewer bits than eight, ``unpacked_name`` how often that has the name.
    ``zero_point`` is what those of ``quantized`` and ``entered`` take less whose grid begins at zero.

    ``fills`` says that what begins with one value, as a state with zeros, is written whole, ``repeats`` that weights
    which several layers have in common are written with each of them.

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
    unpacked: float = 0.0
    unpacked_name: float = 0.0
    zero_point: float = 0.0
    slicing: float = 0.0
    step: float = 0.0
    repeats: bool = False
    fills: bool = False
    float_scale: float = 1.0
    integer_scale: float = 1.0


ONNX_BYTES = FileBytes(
    fixed=101.0, other=75.0, activation=37.0, quantized=333.0, entered=258.0, left=40.0, zero_point=22.0, name=4.9,
    integer_name=4.5, row=12.2, shared=6.5, constants=38.0, slicing=750.0, unpacked=65.0, unpacked_name=3.0,
    nodes={
        CONV: 205.0, CONV1D: 189.0, LINEAR: 136.0, ROWS: 111.0, CLIPPED: 65.0, "add": 35.0, "activation": 40.0,
        "pool": 206.0, "mean": 110.0, "flatten": 49.0, "transpose": 72.0, "permute": 66.0, "reshape": 115.0,
        "getitem": 0.0, "unbind": 495.0, "layer_norm": 78.0, "gelu": 69.0, "scaled_dot_product_attention": 731.0,
        "gru": 498.0, "lstm": 640.0, "select": 82.0, "slice": 0.0, "zeros": 0.0, "cat": 58.0,
        "upsample_nearest2d": 249.0, "batch_norm": 610.0,
    },
    integers={CONV: 272.0, CONV1D: 279.0, LINEAR: 245.0, ROWS: 466.0},
)  # fmt: skip
OPENVINO_BYTES = FileBytes(
    fixed=427.0, other=600.0, activation=400.0, quantized=3507.0, entered=3430.0, left=54.0, zero_point=587.0,
    name=3.9, integer_name=5.0, row=10.5, fills=True,
    nodes={
        CONV: 1636.0, CONV1D: 1490.0, LINEAR: 1916.0, ROWS: 1417.0, CLIPPED: 930.0, "add": 514.0, "activation": 400.0,
        "pool": 602.0, "mean": 684.0, "flatten": 649.0, "transpose": 1771.0, "permute": 872.0, "reshape": 944.0,
        "getitem": 0.0, "unbind": 4010.0, "layer_norm": 1163.0, "gelu": 667.0, "scaled_dot_product_attention": 4010.0,
        "gru": 4500.0, "lstm": 6500.0, "select": 925.0, "slice": 201.0, "zeros": 0.0, "cat": 650.0,
        "upsample_nearest2d": 900.0, "batch_norm": 2500.0,
    },
    integers={CONV: 1315.0, CONV1D: 1219.0, LINEAR: 794.0, ROWS: 2871.0},
)  # fmt: skip
TFLITE_BYTES = FileBytes(
    fixed=957.0, other=160.0, activation=0.0, quantized=0.0, entered=316.0, name=6.7, row=28.0, shared=1.3,
    step=1387.0, fills=True,
    nodes={
        CONV: 170.0, CONV1D: 213.0, LINEAR: 79.0, ROWS: 0.0, CLIPPED: 0.0, "add": 0.0, "activation": 160.0,
        "pool": 558.0, "mean": 295.0, "flatten": 303.0, "transpose": 510.0, "permute": 206.0, "reshape": 242.0,
        "getitem": 137.0, "unbind": 599.0, "layer_norm": 757.0, "gelu": 129.0, "scaled_dot_product_attention": 1906.0,
        "gru": 300.0, "lstm": 100.0, "lstm step": 1440.0, "select": 150.0, "slice": 0.0, "zeros": 50.0, "cat": 160.0,
        "upsample_nearest2d": 200.0, "batch_norm": 350.0,
    },
    integers={CONV: 157.0, CONV1D: 80.0, LINEAR: 24.0, ROWS: 85.0},
)  # fmt: skip
TENSORRT_BYTES = replace(  # no zero points
    ONNX_BYTES, quantized=375.0, entered=300.0, zero_point=0.0, row=8.0, shared=1.0, constants=0.0,
    integers={name: n - 55.0 for name, n in ONNX_BYTES.integers.items()},
)  # fmt: skip
NCNN_BYTES = FileBytes(
    fixed=60.0, other=60.0, activation=0.0, quantized=0.0, entered=0.0, name=2.0, row=4.0, repeats=True,
    fills=True,
    nodes={
        CONV: 110.0, CONV1D: 110.0, LINEAR: 75.0, ROWS: 75.0, CLIPPED: 30.0, "add": 90.0, "activation": 40.0,
        "pool": 80.0, "mean": 45.0, "flatten": 0.0, "transpose": 50.0, "permute": 50.0, "reshape": 40.0, "getitem": 0.0,
    },
    integers={CONV: 8.0, CONV1D: 8.0, LINEAR: 8.0, ROWS: 8.0},
)  # fmt: skip
EXECUTORCH_BYTES = FileBytes(
    fixed=2600.0, other=150.0, activation=0.0, quantized=120.0, entered=120.0, row=4.0, fills=True,
    nodes={
        CONV: 850.0, CONV1D: 1000.0, LINEAR: 850.0, ROWS: 850.0, CLIPPED: 30.0, "add": 130.0, "pool": 160.0,
        "mean": 130.0, "flatten": 120.0, "transpose": 130.0, "permute": 130.0, "reshape": 120.0, "getitem": 0.0,
    },
    integers={CONV: 720.0, CONV1D: 720.0, LINEAR: 600.0, ROWS: 600.0},
)  # fmt: skip
