"""The kinds of kernels that a network runs as in ONNX Runtime, as its constants name the pages of their code."""

from __future__ import annotations

from collections.abc import Mapping

from edgesdk.core.graph import ADD, CONV, OTHER, TRANSPOSED, WEIGHTED, Graph, Layer
from edgesdk.core.plan import FP32, Option
from edgesdk.price.files import is_folded
from edgesdk.price.kinds import FREE, RECURRENT, REDUCE, kind_of
from edgesdk.price.memory.held import option_of
from edgesdk.price.memory.onnxruntime.layouts import is_blocked, is_fused


def network_kinds(graph: Graph, options: Mapping[str, Option], block: int) -> set[str]:
    """The kinds of kernels that run."""
    kinds: set[str] = set()
    for layer in graph.layers:
        option = option_of(layer, options)
        if not (layer.kind == ADD and option.precision == FP32 and is_fused(layer, graph, options, block)):
            kinds |= layer_kinds(layer, option, block)
    return kinds


def layer_kinds(layer: Layer, option: Option, block: int) -> set[str]:
    """The kinds of kernels that a layer runs as by itself."""
    kind = layer.kind if layer.kind not in (OTHER, TRANSPOSED) else kind_of(layer.operator)
    if layer.operator in FREE:
        return set()
    kinds = set()
    if layer.kind == CONV and len(layer.kernel) == 1:
        kind = "conv1d"
    elif layer.operator == "mean":
        kind = REDUCE
    elif kind == RECURRENT and not is_folded(layer):
        kinds.add("sliced fp32")
    if is_blocked(layer, option, block) and layer.depthwise:
        kinds.add("depthwise fp32")
    if layer.kind in WEIGHTED and option.precision == FP32:
        kinds.add("product fp32")
    return {*kinds, kind, f"{kind} {option.precision}"}
