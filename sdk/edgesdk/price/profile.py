"""A target's prices: what is known per runtime and precision, where from, and how far it was off."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from edgesdk.core.errors import BundleError, DeviceError, UsageError
from edgesdk.core.plan import FP32
from edgesdk.core.runtime import Kernels
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import dumps, from_json, loads, write
from edgesdk.core.target import Chip, Target, prices_text
from edgesdk.core.wording import counted
from edgesdk.price.operator import CHANGES, Operator
from edgesdk.price.physics import BYTES, FP16, SHAPE, TERMS, Work, work
from edgesdk.price.posterior import UNSEEN, Z90, Posterior, carried

SCHEMA = Schema("prices", 2)  # 1: the number alone
MEASURED, SCALED, DERIVED = "measured", "scaled from a sibling", "derived from the chip's facts"
STANDINGS = (MEASURED, SCALED, DERIVED)
WORDS: dict[str, str] = {MEASURED: "measured", SCALED: "scaled", DERIVED: "derived"}
OTHER_CLOCK = 0.2  # log standard deviation per log of the clocks' ratio: TensorRT was 0.1 off at 0.6, 0.2 at 0.4
MORE_THREADS = 0.15  # log standard deviation that a thread count adds which was not measured
DIGITS = 5
MAKE_ONE = "make a profile with edgesdk calibrate NAME"


def in_a_word(kinds: Iterable[str]) -> str:
    """What prices of these kinds rest on."""
    distinct = dict.fromkeys(kinds)
    if MEASURED in distinct and len(distinct) > 1:
        return "partly"
    return next((WORDS[kind] for kind in STANDINGS if kind in distinct), "none")


@dataclass(frozen=True)
class Provenance:
    """How a pair's prices came about: from what, when, with which runtime version and threads, and how far off.

    ``errors`` are mean relative errors on networks that were held out, each with what was held out; ``doubt`` is what
    speaks against the figures.
    """

    kind: str
    source: str
    date: str
    version: str
    threads: tuple[int, ...]
    networks: int
    errors: tuple[tuple[str, float], ...] = ()
    doubt: str = ""

    def __post_init__(self) -> None:
        if self.kind not in STANDINGS:
            raise ValueError(f"{self.kind!r} is not one of {', '.join(STANDINGS)}")
        if min(self.threads, default=0) < 1 or any(not 0 <= error < 100 for _, error in self.errors):
            raise ValueError("threads are above zero, and errors are not negative")

    @property
    def grounds(self) -> str:
        """What the prices rest on: how many networks, with which version, of when, and how far off they are."""
        what = counted(self.networks, "network") if self.networks else "no network of its own"
        error = f"; mean error {100 * self.errors[0][1]:.1f} %" if self.errors else "; error not measured"
        return f"{what}, {self.version}, {self.date}{error}"


@dataclass(frozen=True)
class Pair:
    """A runtime at one precision on one target: how its kernels work, what is known of its constants, and how."""

    runtime: str
    precision: str
    kernels: Kernels
    posterior: Posterior
    provenance: Provenance

    def posterior_at(self, threads: int) -> Posterior:
        """What is known at that thread count; less where it was not measured."""
        extra = 0.0 if threads in self.provenance.threads else MORE_THREADS
        return replace(self.posterior, extra=float(np.hypot(self.posterior.extra, extra)))


@dataclass(frozen=True)
class Profile:
    """A target with its prices."""

    target: Target
    pairs: tuple[Pair, ...]

    def pair(self, runtime: str, precision: str, threads: int = 1) -> Pair:
        """The prices of ``runtime`` at ``precision``, from the nearest number of threads.

        Raises ``UsageError`` where there is no ground for any.
        """
        same = [pair for pair in self.pairs if (pair.runtime, pair.precision) == (runtime, precision)]
        if same:
            return min(same, key=lambda pair: min(abs(log(threads / count)) for count in pair.provenance.threads))
        here = dict.fromkeys(p.precision for p in self.pairs if p.runtime == runtime)
        there = dict.fromkeys(p.runtime for p in self.pairs if p.precision == precision)
        name = self.target.name
        if here:
            remedy = f"{runtime} has {', '.join(here)} there"
            remedy += f"; {precision} runs on {', '.join(there)}" if there else ""
        else:
            every = dict.fromkeys(f"{p.runtime} {p.precision}" for p in self.pairs)
            remedy = f"choose one of {', '.join(every)}" if every else MAKE_ONE
        raise UsageError(f"nothing is known of {runtime} with {precision} on {name}", remedy)

    def in_mode(self, name: str) -> tuple[str, Profile]:
        """The power mode that ``name`` means, and the prices in it. Raises ``UsageError`` for one that is not known."""
        mode, target = self.target.in_mode(name)
        return mode, self._on(target)

    def at_clock(self, runtime: str, clock_ghz: float) -> Profile:
        """The prices with ``runtime``'s processor at another clock. Raises ``UsageError`` for one that it has not."""
        return self._on(self.target.at_clock(runtime, clock_ghz))

    def _on(self, target: Target) -> Profile:
        """The same cycles on the chips of ``target``, with more doubt the further what these do in a second is away."""

        def doubt(pair: Pair) -> float:
            own, other = (one.chip(pair.runtime) for one in (self.target, target))
            clocks, units = other.clock_ghz / own.clock_ghz, other.lanes(pair.precision) / own.lanes(pair.precision)
            return OTHER_CLOCK * abs(log(clocks * units))

        pairs = tuple(replace(pair, posterior=carried(pair.posterior, doubt(pair))) for pair in self.pairs)
        return Profile(target, pairs)

    def runtime(self, among: Sequence[str] | None = None) -> str:
        """The first of the target's runtimes, of those ``among``, that has prices. Raises ``UsageError`` without."""
        priced = {pair.runtime for pair in self.pairs}
        wanted = [name for name in self.target.runtimes if among is None or name in among]
        chosen = next((name for name in wanted if name in priced), None)
        if chosen is None:
            remedy = f"{MAKE_ONE}, or take another x86 target" if self.target.measured else MAKE_ONE
            raise UsageError(f"{self.target.name} has no prices of {' or '.join(wanted)}", remedy)
        return chosen


@dataclass(frozen=True)
class StoredPair:
    """A pair as ``prices.json`` has it: ``constants`` by their terms, in cycles, each with its ``deviation``.

    ``shapes`` and ``pull`` are JSON of their own, ``learnt`` rows of float32 in base64: what operators were measured.
    """

    runtime: str
    precision: str
    provenance: Provenance
    kernels: Kernels
    constants: Mapping[str, float]
    deviation: Mapping[str, float]
    noise: float
    extra: float
    unseen: float
    shapes: str
    pull: str
    learnt: str


@dataclass(frozen=True)
class StoredPrices:
    """What ``prices.json`` of a profile holds."""

    target: str
    pairs: tuple[StoredPair, ...]
    schema: str = SCHEMA


class Predicted:
    """Prices of operators on one target, runtime and thread count, as a table of measured ones would give them.

    ``weights`` is how many numbers the network has in its weights, which decides what stays in a cache between runs.
    With ``exact``, fp32 is priced as fp32 where the runtime would run it in fp16.
    """

    def __init__(self, profile: Profile, runtime: str, threads: int, weights: int = 0, exact: bool = False) -> None:
        self.profile: Profile = profile
        self.runtime: str = runtime
        self.threads: int = threads
        self.weights: int = weights
        self.exact: bool = exact
        self.chip: Chip = profile.target.chip(runtime)
        if self.chip is not profile.target.chips.get("cpu"):
            self.threads = threads = 1  # the caller's: a graphics processor has its own
        if threads > self.chip.cores:
            raise UsageError(f"{threads} threads on {self.chip.cores} cores", f"give {self.chip.cores} or fewer")
        precisions = dict.fromkeys(pair.precision for pair in profile.pairs if pair.runtime == runtime)
        self.pairs: dict[str, Pair] = {precision: profile.pair(runtime, precision, threads) for precision in precisions}
        self._seen: dict[Operator, float] = {}

    def latency_ms(self, operator: Operator) -> float:
        """What one ``operator`` takes, in ms: the median. Raises ``UsageError`` for a precision without prices."""
        if operator not in self._seen:
            runs = self.as_run(operator)
            pair = self.pair(runs.precision)
            held = self.weights * BYTES[runs.precision]
            amounts = work([runs], self.chip, pair.kernels, self.threads, held)
            self._seen[operator] = float(pair.posterior.parts_ms(amounts, self.chip.clock_ghz)[0])
        return self._seen[operator]

    @property
    def call_ms(self) -> float:
        """What a run takes beside its operators, which is most of a tiny network's latency."""
        return self.fixed_ms

    def is_timed(self, operator: Operator) -> bool:
        """Nothing is, here."""
        return False

    def has_price(self, operator: Operator) -> bool:
        """A profile has one for each."""
        return True

    def error_ms(self, operator: Operator) -> float:
        """Nothing: how far a profile is off it is for whole networks, which its interval says."""
        return 0.0

    @property
    def fixed_ms(self) -> float:
        """What a run takes beside its operators, in ms."""
        pair = next(iter(self.pairs.values()))
        return float(pair.posterior.parts_ms(self.work([]), self.chip.clock_ghz)[-1])

    def pair(self, precision: str) -> Pair:
        """The pair of this runtime and ``precision``, as this target runs it."""
        if not self.exact:
            precision = self.profile.target.runs_as(self.runtime, precision)
        return self.pairs.get(precision) or self.profile.pair(self.runtime, precision, self.threads)

    def as_run(self, operator: Operator) -> Operator:
        """``operator`` in the precision in which this target runs it; what changes precision starts from half there.

        No profile tells 4-bit weights from 8-bit ones.
        """
        precision = operator.precision
        if not self.exact:
            precision = self.profile.target.runs_as(self.runtime, precision)
        if operator.kind in CHANGES and precision == FP32 and FP32 not in self.pairs and FP16 in self.pairs:
            precision = FP16
        return replace(operator, precision=precision, weight_bits=8)

    def work(self, operators: Sequence[Operator]) -> Work:
        """The work of ``operators``, all of one precision."""
        if not operators:
            return work([], self.chip, next(iter(self.pairs.values())).kernels, self.threads)
        precision = operators[0].precision
        held = self.weights * BYTES[precision] or None  # those of the other precisions push them out, too
        return work(operators, self.chip, self.pair(precision).kernels, self.threads, held)

    def interval(self, operators: Iterable[Operator]) -> tuple[float, float, float]:
        """The latency in ms of a network's ``operators`` and the ends of its 90 % interval.

        Parts in different precisions are taken to be off together, which is the careful assumption.
        """
        by: dict[str, list[Operator]] = {}
        for op in map(self.as_run, operators):
            by.setdefault(op.precision, []).append(op)
        if not by:  # nothing but the run itself
            by[next(iter(self.pairs), FP32)] = []
        total, off = 0.0, 0.0
        for precision, some in by.items():
            posterior = self.pair(precision).posterior_at(self.threads)
            median, deviation = posterior.predict(self.work(some), self.chip.clock_ghz)
            total, off = total + median, off + median * deviation
        total -= max(0, len(by) - 1) * self.fixed_ms
        factor = float(np.exp(Z90 * off / total)) if total else 1.0
        return total, total / factor, total * factor


def profile(target: Target) -> Profile:
    """``target`` with the prices that its profile holds, perhaps none. Raises ``DeviceError`` for a damaged one."""
    text = prices_text(target.name)
    return Profile(target, load(text, f"the prices of {target.name}") if text else ())


def save(path: Path, target: str, pairs: Iterable[Pair]) -> None:
    """Write the prices of ``target`` to ``path``, whole or not at all."""
    write(path, dumps(StoredPrices(target, tuple(map(_stored, pairs)))))


@lru_cache(maxsize=32)
def load(text: str, where: str) -> tuple[Pair, ...]:
    """The pairs of a prices file. Raises ``DeviceError`` for another schema, or for figures that cannot be."""
    try:
        document = loads(text)
        schema = document["schema"]
        version = SCHEMA.of(schema)
        if version is not None and version <= SCHEMA.version:
            return tuple(_from_json(pair) for pair in document["pairs"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, BundleError) as error:
        raise DeviceError(f"{where} is damaged: {error}", "write it anew with edgesdk calibrate") from None
    newer = (version or 0) > SCHEMA.version
    remedy = "update edgesdk" if newer else "write it anew with edgesdk calibrate"
    raise DeviceError(f"{where} has schema {schema}, this edgesdk reads {SCHEMA}", remedy)


def _stored(pair: Pair) -> StoredPair:
    posterior = pair.posterior
    return StoredPair(
        pair.runtime,
        pair.precision,
        pair.provenance,
        pair.kernels,
        constants=dict(zip(TERMS, _round(np.exp(posterior.log_constants)), strict=True)),
        deviation=dict(zip(TERMS, _round(posterior.deviation), strict=True)),
        noise=_round(posterior.noise),
        extra=_round(posterior.extra),
        unseen=_round(posterior.unseen),
        shapes=json.dumps(posterior.shapes.astype(int).tolist(), separators=(",", ":")),
        pull=json.dumps(_round(posterior.pull), separators=(",", ":")),
        learnt=base64.b64encode(posterior.learnt.astype("<f4").tobytes()).decode(),  # float32: 5 digits are few
    )


def _from_json(value: Mapping[str, Any]) -> Pair:
    constants, deviation = (np.array([float(value[k][t]) for t in TERMS]) for k in ("constants", "deviation"))
    shapes = np.array(loads(str(value["shapes"])), float).reshape(-1, SHAPE)
    pull = np.array(loads(str(value["pull"])), float)
    learnt = np.frombuffer(base64.b64decode(str(value["learnt"]), validate=True), "<f4").astype(float)
    learnt = learnt.reshape(-1, len(TERMS) + len(shapes))
    noise, extra = float(value["noise"]), float(value["extra"])
    unseen = float(value.get("unseen", UNSEEN))
    figures = np.concatenate([constants, deviation, pull, learnt.ravel(), shapes.ravel(), [noise, extra, unseen]])
    doubts = np.concatenate([deviation, [noise, extra, unseen]])  # of logarithms
    if not np.isfinite(figures).all() or (constants <= 0).any() or (deviation <= 0).any() or doubts.min() < 0:
        raise ValueError("it holds times that are not positive")
    if constants.max() > 1e9 or doubts.max() > 100 or (np.abs(pull) > 1e3).any():
        raise ValueError("it holds times that overflow")
    if any((np.abs(part) > 1e6).any() for part in (learnt, shapes)):
        raise ValueError("it holds operators that nobody measured")
    if len(pull) != len(shapes):
        raise ValueError("its shapes and pulls do not match")
    posterior = Posterior(np.log(constants), deviation, shapes, pull, learnt, noise, extra, unseen)
    told = value["provenance"] if "provenance" in value else value["standing"]  # as it was called before
    kernels, provenance = from_json(Kernels, value["kernels"]), from_json(Provenance, told)
    return Pair(str(value["runtime"]), str(value["precision"]), kernels, posterior, provenance)


def _round(value: np.ndarray | float) -> Any:
    if isinstance(value, np.ndarray):
        return [_round(part) for part in value.tolist()]
    return float(f"{value:.{DIGITS}g}")
