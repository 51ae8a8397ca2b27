"""What layers have to do in one run (multiply, move bytes, hold them), and the most that a processor does of it.

The roofline model (Williams et al. 2009): a layer takes no less than its multiplications at the processor's best, and
no less than its bytes at the memory's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from edgesdk.core.budget import MEASURED, PREDICTED
from edgesdk.core.graph import ADD, CONV, TRANSPOSED, WEIGHTED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.target import Target
from edgesdk.price.account import Account
from edgesdk.price.files import weight_bytes
from edgesdk.price.kinds import FREE
from edgesdk.price.operator import Operator
from edgesdk.price.physics import BYTES, weight_count
from edgesdk.price.planned import planned
from edgesdk.price.prices import Prices

SURE = 4.0  # standard errors that a time is, at least, to tell what a processor does
NO_OPTIONS: Mapping[str, Option] = {}
NO_WIDTHS: Mapping[str, int] = {}


@dataclass(frozen=True)
class LayerWork:
    """What a layer does in one run, by its shapes and the account of the runtime's memory.

    ``moved_bytes`` are its weights, what it reads and what it makes, once each. ``live_bytes`` are those of all outputs
    of layers that are in memory while it runs, its own among them, ``scratch_bytes`` what it takes besides.
    """

    macs: int
    moved_bytes: float
    live_bytes: float
    scratch_bytes: float


@dataclass(frozen=True)
class Roofs:
    """The most that the processor does of each, with the threads of the run.

    ``gmacs`` are 10^9 multiply-accumulates a second, by precision, ``bandwidth_gbps`` 10^9 bytes a second. They are
    ``predicted`` where they follow from the facts of the chip, ``measured`` where they are the most that operators of
    this model reached, timed alone.
    """

    basis: str
    gmacs: Mapping[str, float]
    bandwidth_gbps: float


def list_work(
    graph: Graph, account: Account, options: Mapping[str, Option] = NO_OPTIONS, kept: Mapping[str, int] = NO_WIDTHS,
    dropped: tuple[str, ...] = (),
) -> dict[str, LayerWork]:  # fmt: skip
    """The work of each layer of ``graph`` once a plan is applied to it; a layer that is left out has none.

    Of a layer that becomes several the work is added up, and what is in memory is the most.
    """
    made, chosen = planned(graph, options, kept, dropped)
    held = {layer.name: account.held((layer,), chosen.get(layer.name, Option())) for layer in made.layers}
    works: dict[str, LayerWork] = {}
    for layer in made.layers:
        name = layer.name if layer.name in graph.by_name else layer.name.rpartition(".")[0]
        live = sum(held[tensor].output for tensor in made.live[layer.name])
        option = chosen.get(layer.name, Option())
        own = LayerWork(
            _count_macs(layer, graph.by_name[name]), _moved_bytes(layer, made, option), live, held[layer.name].scratch
        )
        works[name] = _join(works[name], own) if name in works else own
    return works


def _join(first: LayerWork, second: LayerWork) -> LayerWork:
    most = max(first, second, key=lambda work: work.live_bytes + work.scratch_bytes)
    return LayerWork(
        first.macs + second.macs, first.moved_bytes + second.moved_bytes, most.live_bytes, most.scratch_bytes
    )


def _count_macs(layer: Layer, dense: Layer) -> int:
    """Multiply-accumulates of a layer, or a part of one, that ``dense`` became."""
    if layer.kind in WEIGHTED:
        if layer.kind == TRANSPOSED:  # it multiplies at the places that it reads
            return prod(layer.weight_shape) * layer.images * prod(layer.input_shape[1:])
        pixels = layer.elements // layer.shape[0] if layer.kind == CONV else layer.elements // layer.shape[-1]
        return prod(layer.weight_shape) * pixels
    return dense.macs * layer.elements // max(1, dense.elements)


def _moved_bytes(layer: Layer, graph: Graph, option: Option) -> float:
    if layer.operator in FREE:
        return 0.0
    given = {tensor.name: prod(tensor.shape) for tensor in graph.inputs}
    read = sum(given[name] if name in given else graph.by_name[name].elements for name in layer.inputs)
    return weight_bytes(layer, option) + (read + layer.elements) * BYTES[option.precision]


def find_roofs(
    target: Target, runtime: str, threads: int, operators: Iterable[Operator], prices: Prices, timed: str = MEASURED
) -> Roofs | None:
    """The roofs of ``runtime`` on that ``target``, from the chip's facts, or else from what ``operators`` took there,
    which was ``timed`` on a device or emulated; ``None`` where neither says them."""
    chip = target.chips.get(runtime) or target.chips.get("cpu")
    if chip is None:
        return _timed_roofs(operators, prices, timed)
    cores = min(threads, chip.cores) if chip is target.chips.get("cpu") else 1
    gmacs = {each: chip.clock_ghz * cores * chip.lanes(target.runs_as(runtime, each)) for each in (FP32, INT8)}
    return Roofs(PREDICTED, gmacs, chip.bandwidth_gbps)


def _timed_roofs(operators: Iterable[Operator], prices: Prices, basis: str) -> Roofs | None:
    """The most that any of ``operators`` reached, of those that were timed and whose time is sure."""
    gmacs: dict[str, float] = {}
    bandwidth = 0.0
    for op in {op.key: op for op in operators}.values():
        if not prices.is_timed(op):
            continue
        ms = prices.latency_ms(op)
        if ms > SURE * prices.error_ms(op):
            gmacs[op.precision] = max(gmacs.get(op.precision, 0.0), op.macs / ms / 1e6)
            bandwidth = max(bandwidth, _operator_bytes(op) / ms / 1e6)
    known = {precision: most for precision, most in gmacs.items() if most}
    return Roofs(basis, known, bandwidth) if known and bandwidth else None


def _operator_bytes(op: Operator) -> float:
    read = op.inputs * op.pixels * (2 if op.kind == ADD else 1)
    return (read + op.outputs * op.positions + weight_count(op)) * BYTES[op.precision]
