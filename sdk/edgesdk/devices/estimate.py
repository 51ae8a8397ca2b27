"""What a model will cost on a target, from the target's profile: no device, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import Cost
from edgesdk.core.errors import UsageError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import exportable, find_runtime
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import FORMER
from edgesdk.core.target import Target, targets
from edgesdk.core.target import target as find_target
from edgesdk.core.wording import thread_counts
from edgesdk.price.account import Account, plain_bytes
from edgesdk.price.operators import of_network
from edgesdk.price.physics import FP16, weight_count
from edgesdk.price.profile import MAKE_ONE, Pair, Predicted, Profile, profile

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = (FP32, FP16, INT8)
WIDE = 2.0  # ratio of the ends of an interval beyond which it is said to be wide


@dataclass(frozen=True)
class LayerCost:
    """One layer's predicted latency in ms; ``operator`` is what it runs as."""

    name: str
    operator: str
    latency_ms: float


@dataclass(frozen=True)
class Estimate(Cost):
    """A predicted cost: milliseconds with the ends of the 90 % interval, bytes, and what they rest on.

    ``latency_ms`` is the median. ``peak_memory_bytes`` is what the model adds, ``runtime_memory_bytes`` the runtime's
    own, ``None`` where that is not known. ``provenance`` says per precision whether the prices were measured on such a
    board, scaled from a sibling or derived, ``grounds`` on how many networks, of which version of the runtime and when,
    and how far off they are; ``unknown`` names the operators without a price, counted by their bytes. ``clock_ghz`` is
    that of the runtime's processor, ``power_mode`` the board's where one was asked for.
    """

    latency_low_ms: float
    latency_high_ms: float
    runtime_memory_bytes: float | None
    target: str
    runtime: str
    threads: int
    provenance: Mapping[str, str] = field(metadata={FORMER: "standing"})
    grounds: Mapping[str, str]
    sources: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerCost, ...]
    clock_ghz: float | None = None
    power_mode: str | None = None
    schema: str = field(default=Schema("estimate", 1), kw_only=True)


@dataclass(frozen=True)
class Estimates:
    """One model on every target and runtime that has prices, the fastest first.

    ``refused`` says by target and runtime why there is no figure.
    """

    estimates: tuple[Estimate, ...]
    refused: Mapping[str, str]
    schema: str = field(default=Schema("estimates", 1), kw_only=True)


def estimate(
    model: nn.Module | Graph | str | Path, example: Any = None, *, target: str, runtime: str | None = None,
    precision: str | None = None, threads: int = 1, power_mode: str | None = None, clock_ghz: float | None = None,
) -> Estimate:  # fmt: skip
    """The latency (ms), memory and size (bytes) that ``model`` is predicted to have on ``target``.

    ``model`` is a module, what names one, the path of an ONNX file, or a graph that :func:`read_graph` made;
    ``example`` is a batch, the shape of the single input without the batch, or an :class:`edgesdk.core.graph.Tensor`
    for each input, which a file needs only where its own is free. Without ``precision`` an ONNX file is taken as it is
    and a module in fp32, what is in fp32 in fp16 where the runtime has nothing else. ``power_mode`` is one of the
    board's, ``clock_ghz`` another clock of the processor that the runtime runs on. Raises
    ``UsageError`` for an unknown target, power mode or clock, a pair of runtime and precision without any ground, or a
    shape that does not fit; ``ModelError`` for a model that cannot be read.
    """
    loaded, mode = profile(find_target(target)), None
    runtime, threads = _runtime(loaded.target, runtime), check_threads(threads)
    if power_mode is not None:
        mode, loaded = loaded.in_mode(power_mode)
    if clock_ghz is not None:
        loaded = loaded.at_clock(runtime, clock_ghz)
    graph, stored = (model, {}) if isinstance(model, Graph) else read_graph(model, example)
    return replace(estimate_at(graph, stored, loaded, runtime, check_precision(precision), threads), power_mode=mode)


def estimate_all(
    model: nn.Module | Graph | str | Path, example: Any = None, *, runtime: str | None = None,
    precision: str | None = None, threads: int = 1,
) -> Estimates:  # fmt: skip
    """What ``model`` is predicted to cost on every target, in each runtime that has prices there, or in ``runtime``.

    All else is as for :func:`estimate`, which raises the same errors; what a target or a runtime cannot do is in
    ``refused``, unless that is so of all of them: then the first is the error.
    """
    wanted = runtime and find_runtime(runtime).name
    threads, precision = check_threads(threads), check_precision(precision)
    graph, stored = (model, {}) if isinstance(model, Graph) else read_graph(model, example)
    made: list[Estimate] = []
    refused: dict[str, str] = {}
    first: UsageError | None = None
    for loaded in map(profile, targets().values()):
        if loaded.target.measured and not loaded.pairs:
            refused[loaded.target.name] = f"it is timed first: edgesdk estimate MODEL --target {loaded.target.name}"
            continue
        runtimes = dict.fromkeys(pair.runtime for pair in loaded.pairs)
        for name in [wanted] if wanted else runtimes or [loaded.target.runtimes[0]]:
            try:
                made.append(estimate_at(graph, stored, loaded, name, precision, threads))
            except UsageError as error:
                first, refused[f"{loaded.target.name}, {name}"] = first or error, str(error)
    if not made:
        raise first or UsageError("there is no target", MAKE_ONE)
    return Estimates(tuple(sorted(made, key=lambda cost: cost.latency_ms)), refused)


def estimate_at(
    graph: Graph, stored: Mapping[str, Option], loaded: Profile, runtime: str, precision: str | None, threads: int
) -> Estimate:
    """What ``graph``, of a file whose layers are as ``stored``, is predicted to cost at the prices of a profile."""
    if precision is None and all(option.precision == FP32 for option in stored.values()):
        own = [pair.precision for pair in loaded.pairs if pair.runtime == runtime]
        precision = FP32 if FP32 in own or not own else own[0]
    option = None if precision is None else Option(precision, {FP32: 32, FP16: 16, INT8: 8}[precision])
    options = stored if option is None else dict.fromkeys((layer.name for layer in graph.layers), option)
    return predicted(graph, options, Predicted(loaded, runtime, threads))


def predicted(graph: Graph, options: Mapping[str, Option], prices: Predicted, exact: bool = True) -> Estimate:
    """What ``graph`` with ``options`` is predicted to cost at ``prices``. With ``exact``, fp32 means just that."""
    target, runtime, threads = prices.profile.target, prices.runtime, prices.threads
    named = of_network(graph, options)
    prices = Predicted(prices.profile, runtime, threads, sum(weight_count(op) for _, op in named), exact)
    median, low, high = prices.interval(op for _, op in named)
    pairs: dict[str, Pair] = {op.precision: prices.pair(op.precision) for op in (prices.as_run(op) for _, op in named)}
    unknown = tuple(dict.fromkeys(op.name for _, op in named if op.name))
    account = Account.of(runtime)
    peak, size = account.peak_bytes(graph, options), account.size_bytes(graph, options)
    if not account.traced:
        size = plain_bytes(graph, options)[1]
    return Estimate(
        latency_ms=median,
        peak_memory_bytes=peak,
        size_bytes=size,
        basis="predicted",
        latency_low_ms=low,
        latency_high_ms=high,
        runtime_memory_bytes=find_runtime(runtime).process_bytes,
        target=target.name,
        runtime=runtime,
        threads=threads,
        provenance={precision: pair.provenance.kind for precision, pair in pairs.items()},
        grounds={precision: pair.provenance.grounds for precision, pair in pairs.items()},
        sources=tuple(dict.fromkeys(f"{p.provenance.source}, {p.provenance.date}" for p in pairs.values())),
        unknown=unknown,
        notes=tuple(_notes(pairs, low, high, unknown, threads)),
        layers=tuple(LayerCost(name, op.kind, prices.latency_ms(op)) for name, op in named),
        clock_ghz=prices.chip.clock_ghz,
    )


def read_graph(model: nn.Module | str | Path, example: Any = None) -> tuple[Graph, dict[str, Option]]:
    """The graph of a model, and the options that an ONNX file already has. Give the graph to :func:`estimate`.

    Raises ``UsageError`` for a missing or unfitting shape, ``ModelError`` for a model that cannot be read.
    """
    if isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx":
        from edgesdk.network.onnx_graph import read as read_onnx

        return read_onnx(Path(model), example)
    from edgesdk.network.exported_program import shapes_of
    from edgesdk.network.module_graph import read as read_torch

    if isinstance(model, (str, Path)):
        from edgesdk.network.load import load_model

        model = load_model(str(model))
    return read_torch(model, shapes_of(model, example)), {}


def deployable(profile: Profile, at_hand: bool = False) -> tuple[str, ...]:
    """The target's runtimes that there is a file for and, unless it is ``at_hand`` to be measured, a price."""
    target = profile.target
    priced = {pair.runtime for pair in profile.pairs}
    at_hand = at_hand or target.measured
    return tuple(name for name in target.runtimes if name in exportable() and (at_hand or name in priced))


def _runtime(target: Target, runtime: str | None) -> str:
    if runtime is None:
        return profile(target).runtime()
    return find_runtime(runtime).name


def check_precision(precision: str | None) -> str | None:
    """``precision``, where there is such a one. Raises ``UsageError``."""
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", f"choose one of {', '.join(PRECISIONS)}")
    return precision


def check_threads(threads: int) -> int:
    """``threads``, where that many can be. Raises ``UsageError``."""
    if threads < 1:
        raise UsageError(f"{threads} threads", "give 1 or more")
    return threads


def _notes(pairs: Mapping[str, Pair], low: float, high: float, unknown: tuple[str, ...], threads: int) -> list[str]:
    """What a reader of the figures must know, in words."""
    notes = [
        f"{precision} is {pair.provenance.kind}" for precision, pair in pairs.items() if not pair.provenance.networks
    ]
    for precision, pair in pairs.items():
        if pair.runtime == "litert" and pair.provenance.version.startswith("TFLite"):
            notes.append(
                f"{precision} rests on {pair.provenance.version} ({pair.provenance.date}), not on LiteRT itself"
            )
        if pair.provenance.doubt:
            notes.append(f"figures of {precision} are in doubt: {pair.provenance.doubt}")
        if threads not in pair.provenance.threads:
            notes.append(f"{precision} is known with {thread_counts(pair.provenance.threads)}, not with {threads}")
    if high / low > WIDE:
        notes.append(f"the interval is wide: the truth may be {high / low:.1f} times from one end to the other")
    if unknown:
        notes.append(f"no price is known of {', '.join(unknown)}: counted by the bytes moved, and the interval widened")
    return notes
