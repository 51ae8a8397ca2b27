"""The networks whose instructions are counted on emulated boards, and what was counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edgesdk.core.graph import Graph
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import Chip, target
from edgesdk.example.parts import FITTED, JUDGES
from edgesdk.price.menu import options
from edgesdk.price.operators import of_network
from edgesdk.price.physics import Work, work
from edgesdk.price.posterior import Posterior, fit
from edgesdk.price.prior import prior
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
    return fit(works, took, on.clock_ghz, prior())


def gained(board: str, runtime: str) -> np.ndarray:
    """The logarithm of what each constant in int8 is of that in float, in instructions on ``board``."""
    integer, plain = (per_term(board, runtime, precision) for precision in (INT8, FP32))
    return integer.log_constants - plain.log_constants
