"""The networks whose instructions are counted on emulated boards, and what was counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgesdk.core.graph import CONV, Graph
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import Chip, target
from edgesdk.example.parts import FITTED, JUDGES
from edgesdk.price.menu import options
from edgesdk.price.operators import of_network
from edgesdk.price.physics import Work, work
from edgesdk.price.posterior import Posterior, fit
from edgesdk.price.prior import changed, prior
from latency import ZOO, cached
from networks.nasbench import network

FILE = Path(__file__).with_name("instructions.json")
BOARDS, RUNTIMES, PRECISIONS = ("pi4", "pi5"), ("onnxruntime", "litert"), (FP32, INT8)
PUBLISHED = (
    "mobilenet-v1-0.25-128",
    "mobilenet-v2-0.35-96",
    "mobilenet-v1-0.5-128",
    "mobilenet-v2-0.5-96",
    "MobileNetV3-small",
    "mobilenet-v1-0.5-160",
    "mobilenet-v2-0.35-160",
)
CELLS = ("232312", "421321")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: ZOO[name] for name in PUBLISHED},
    **{f"nasbench {ops}": (lambda ops=ops: network(ops, 100, 3), (3, 32, 32)) for ops in CELLS},
    **{part.name: (part.make, part.shape) for part in (*JUDGES, *FITTED)},
}
"""What makes each network, and the shape of its input."""

NEAR = 0.2  # share of the latency by which two networks are about as new
Counts = dict[str, dict[str, dict[str, int]]]


def made(graph: Graph, precision: str) -> dict[str, Option]:
    """Every layer of ``graph`` in ``precision``, where it can be."""
    wanted = Option(INT8, 8)
    return {layer.name: wanted for layer in graph.layers if wanted in options(layer)} if precision == INT8 else {}


@cache
def _document() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8"))


def versions() -> dict[str, str]:
    """The runtimes that were counted."""
    return _document()["versions"]


def counts() -> dict[str, Counts]:
    """Instructions per inference by network, board, runtime and precision, as ``count_kernels.py`` wrote them."""
    return _document()["instructions"]


def counted_on(chip: Chip) -> str:
    """Which of the boards has such a core: one with products of four bytes, or one without."""
    return "pi5" if chip.lanes(INT8) >= 4 * chip.lanes(FP32) else "pi4"


@cache
def per_term(board: str, runtime: str, precision: str) -> Posterior:
    """The physics' constants in instructions in place of cycles: what the counted networks say of them."""
    on = target(board).chip(runtime)
    works: list[Work] = []
    took: list[float] = []
    for name, own in counts().items():
        make, shape = NETWORKS[name]
        graph = cached(f"counted {name}", make, shape)
        operators = [op for _, op in of_network(graph, made(graph, precision))]
        works.append(work(operators, on, find_runtime(runtime).kernels))
        took.append(own[board][runtime][precision] / (on.clock_ghz * 1e6))
    # An instruction multiplies 4 numbers in float, 16 bytes or 8: a convolution takes no fewer, and not many more.
    least = on.lanes(precision) / {FP32: 4.0, INT8: 16.0 if counted_on(on) == "pi5" else 8.0}[precision]
    return fit(works, took, on.clock_ghz, changed(prior(), "conv", 1.4 * least, 0.2))


def gained(board: str, runtime: str, plain: Posterior, on: Chip) -> np.ndarray:
    """The logarithm of what each constant in int8 is of that in float, by instructions on ``board``.

    ``plain`` are the float prices of ``on``, in cycles. Cycles are spread over the terms otherwise than instructions:
    all terms are shifted until the counted networks of convolutions take in int8, of their float cycles, the share that
    they take of its instructions, by the median of those that are most like what the float prices were fitted on.
    """
    integer, float_ones = (per_term(board, runtime, precision) for precision in (INT8, FP32))
    told = integer.log_constants - float_ones.log_constants
    derived = replace(plain, log_constants=plain.log_constants + told, pull=np.zeros_like(plain.pull))
    off: list[tuple[float, float]] = []  # how new each is to the float prices, and how far off
    for name, own in counts().items():
        graph = cached(f"counted {name}", *NETWORKS[name])
        macs = Counter[str]()
        for layer in graph.layers:
            macs[layer.kind] += layer.macs
        if macs[CONV] < macs.total() / 2:
            continue
        works = [
            work([op for _, op in of_network(graph, made(graph, precision))], on, find_runtime(runtime).kernels)
            for precision in (INT8, FP32)
        ]
        took = [one.predict(w, on.clock_ghz)[0] for one, w in zip((derived, plain), works, strict=True)]
        counted = own[board][runtime]
        shift = float(np.log(counted[INT8] / counted[FP32]) - np.log(took[0] / took[1]))
        off.append((plain.novel_share(works[1], on.clock_ghz), shift))
    known = [shift for novelty, shift in off if novelty <= min(off)[0] + NEAR]
    return told + float(np.median(known))
