"""Tensors that are never below zero, and the runtimes whose integer kernels read these alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgesdk.core.graph import ACTIVATION, ADD, CONV, OTHER, POOL, TRANSPOSED, Graph, Layer, Tensor
from edgesdk.core.runtime import find_runtime
from edgesdk.price.signs import find_never_negative


def layer(name: str, kind: str, *inputs: str, operator: str = "", activation: str | None = None) -> Layer:
    weights = {CONV: (4, 4, 1, 1), TRANSPOSED: (4, 4, 2, 2)}.get(kind, ())
    window = dict.fromkeys(("kernel", "stride", "dilation"), (1, 1) if kind == CONV else (2, 2)) if weights else {}
    return Layer(name, kind, inputs, (4, 8, 8), (4, 8, 8), operator or kind, weights, activation=activation, **window)


def network() -> Graph:
    """Rectified and signed numbers, moved, pooled, joined and added."""
    layers = (
        layer("signed", CONV, "x"),
        layer("rectified", CONV, "x", activation="relu6"),
        layer("alone", ACTIVATION, "signed", operator="relu"),
        layer("sigmoid", OTHER, "signed", operator="sigmoid"),
        layer("tanh", OTHER, "signed", operator="tanh"),
        layer("pooled", POOL, "rectified", operator="max_pool2d"),
        layer("joined", OTHER, "pooled", "alone", operator="cat"),
        layer("beside", OTHER, "pooled", "signed", operator="cat"),
        layer("bordered", OTHER, "pooled", operator="constant_pad_nd"),
        layer("clipped", ACTIVATION, "signed", operator="hardtanh"),
        replace(layer("with a token", OTHER, "pooled", operator="cat"), parameters=4),
        layer("sum", ADD, "joined", "sigmoid"),
        layer("raw", POOL, "x", operator="max_pool2d"),
        *(layer(f"up of {name}", TRANSPOSED, name) for name in ("sum", "beside", "x")),
    )
    return Graph((Tensor("x", (4, 8, 8)),), layers, tuple(n.name for n in layers if n.kind == TRANSPOSED))


def test_rectifiers_and_what_moves_or_joins_these_alone_are_never_below_zero() -> None:
    assert find_never_negative(network()) == {"rectified", "alone", "sigmoid", "pooled", "joined", "sum"}


@pytest.mark.parametrize(("runtime", "able"), [
    ("onnxruntime", []), ("tensorrt", []), ("ncnn", []), ("openvino", ["up of sum"]), ("litert", []),
    ("executorch", ["up of sum", "up of beside", "up of x"]),
])  # fmt: skip
def test_integer_kernels_of_transposed_convolutions(runtime: str, able: list[str]) -> None:
    """LiteRT has none with dilation, which these have."""
    graph, row = network(), find_runtime(runtime)
    transposed = [n for n in graph.layers if n.kind == TRANSPOSED]
    assert [n.name for n in transposed if row.is_integer(n, graph)] == able
    assert row.is_integer(graph.by_name["signed"], graph)
