"""What whole networks say of the prices of their parts: the one thing of a study that grows while it is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, inf, log

from edgesdk.core.budget import show
from edgesdk.core.menu import Choice, Menu
from edgesdk.core.plan import FP32, Plan
from edgesdk.core.report import Measurement
from edgesdk.pipeline.pricing import Pricing
from edgesdk.price.correct import NEAR, Correction, Observation, fit
from edgesdk.price.learnt import Judged, Learnt, Parts, list_parts
from edgesdk.price.menu import Losses
from edgesdk.price.operator import Operator
from edgesdk.price.operators import of_network, operators
from edgesdk.solve.milp import price

CALLS = 3.0  # of what a call costs: the most that a network takes beside its priced parts, whose inputs are larger
MODEL_ERROR = 0.03  # log: of the sum of parts as what a network takes, beyond what is uncertain of the parts
DOUBTFUL = 2.0  # standard errors beyond which parts and a network contradict each other


@dataclass(frozen=True)
class Seen:
    """A whole network that was measured (or predicted): its choices, and what it took."""

    choices: Mapping[str, Choice]
    kept: Mapping[str, int]
    dropped: Sequence[str]
    measured: Measurement

    def at(self, menu: Menu) -> dict[str, Choice]:
        """Its choices at the prices of ``menu``."""
        same = ("option", "reads", "writes", "skips")
        by_name = {layer.name: layer for layer in menu.layers}
        return {
            name: next(c for c in by_name[name].choices if all(getattr(c, f) == getattr(own, f) for f in same))
            for name, own in self.choices.items()
        }


@dataclass
class Corrections:
    """Whole networks beside the uncorrected prices of their parts, as ``observations``, and what plans were judged at.

    Parts that contradict a network are timed again by ``time_again``, once; ``notes`` says so. ``judged`` are plans
    that were tried without training, ``losses`` the prices in accuracy as these correct them.
    """

    pricing: Pricing
    time_again: Callable[[Sequence[Operator]], None]
    seen: list[Seen] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timed_again: set[str] = field(default_factory=set)
    judged: tuple[Judged, ...] = ()
    corrected: Losses | None = None

    @property
    def losses(self) -> Losses:
        """The prices in accuracy as the plans that were judged correct them."""
        return self.corrected or self.pricing.losses

    def parts_of(self, choices: Mapping[str, Choice], kept: Mapping[str, int], dropped: Sequence[str]) -> Parts:
        """What each decision of a plan costs in accuracy at uncorrected prices; a skipped join decides nothing."""
        options = {name: choice.option for name, choice in choices.items() if not choice.skips}
        return list_parts(self.pricing.losses, options, kept, dropped)

    def learn(self, judged: Judged, around: Parts) -> Learnt:
        """Set what a plan was ``judged`` at beside its parts; prices are to be right near that of parts ``around``."""
        self.judged = (*self.judged, judged)
        learnt = Learnt(self.judged)
        self.corrected = learnt.correct(self.pricing.losses, around)
        return learnt

    @property
    def correction(self) -> Correction:
        """What all observations say; its constant is what calls cost.

        Where operators have no price it is these, too: no more than any network takes beside its parts, be they as fast
        as they may be.
        """
        trusted = self.pricing.account.traced
        call = self.pricing.priced.prices.call_ms
        if call is None:
            return fit(self.observations, trusted=trusted)
        priced = all(self.pricing.priced.prices.is_timed(op) for _, op in of_network(self.pricing.graph, {}))
        left = (o.measured_ms - NEAR[0] * (o.float_ms + o.integer_ms) for o in self.observations)
        most = CALLS * call if priced else max(CALLS * call, min(left, default=inf))
        return fit(self.observations, call, most, trusted)

    @property
    def watts(self) -> float | None:
        """What the network that was measured last takes at work, beyond idle; ``None`` where no meter was read."""
        metered = (seen.measured.cost() for seen in reversed(self.seen))
        return next((cost.energy_mj / cost.latency_ms for cost in metered if cost.energy_mj is not None), None)

    def observe(self, seen: Seen) -> None:
        """Set what a whole network took beside the uncorrected prices of its parts.

        Where the two contradict each other beyond what is uncertain of both, the parts are timed again.
        """
        self.seen.append(seen)
        self._compare()
        parts = [op for op in self._timed_operators(seen) if op.key not in self.timed_again]
        expected, error = self._expect(seen)
        took = seen.measured.latency_ms()
        if parts and abs(log(took / expected)) > DOUBTFUL * error:
            said = f"{show('latency_ms', took)} instead of {show('latency_ms', expected)}"
            self.notes.append(f"{len(parts)} operators were priced again: a network of them took {said}")
            self.timed_again |= {op.key for op in parts}
            self.time_again(parts)
            self._compare()

    def find_error(self, plan: Plan) -> float | None:
        """The standard error of the logarithm of what prices say that ``plan`` takes: what is uncertain of its parts,
        and of their sum. ``None`` where none of these were timed, or no network of that plan was seen.
        """
        for seen in reversed(self.seen):
            same = all(plan.options[name] == choice.option for name, choice in seen.choices.items())
            if same and seen.kept == plan.kept and {*seen.dropped} == {*plan.dropped}:
                return self._find_error(seen, plan.predicted.latency_ms) if self._timed_operators(seen) else None
        return None

    def _find_error(self, seen: Seen, latency_ms: float) -> float:
        parts = hypot(*map(self.pricing.priced.prices.error_ms, self._timed_operators(seen)))
        return hypot(parts / latency_ms, MODEL_ERROR)

    def amend(self, before: Measurement, after: Measurement) -> None:
        """Put what a network was measured at the second time in the place of the first, unless that does not count."""
        if after.valid:
            self.seen = [replace(seen, measured=after) if seen.measured is before else seen for seen in self.seen]
            self._compare()

    def _compare(self) -> None:
        """Set all observations to the prices as they are now."""
        at = self.pricing.menu(Correction())
        self.observations = [self._set_beside(at, seen) for seen in self.seen]

    def _set_beside(self, at: Menu, seen: Seen) -> Observation:
        choices, measured = seen.at(at), seen.measured.cost()
        cost, _ = price(at, choices, seen.kept, seen.dropped)
        float_ms = sum(choice.latency_ms for choice in choices.values() if choice.option.precision == FP32)
        memory, size = self.pricing.bytes_of(choices, seen.kept, seen.dropped)
        return Observation(
            float_ms,
            cost.latency_ms - float_ms,
            measured.latency_ms,
            memory,
            measured.peak_memory_bytes,
            size,
            measured.size_bytes,
        )

    def _timed_operators(self, seen: Seen) -> list[Operator]:
        """What a network runs as, but for changes of precision, as far as that was timed."""
        graph, prices = self.pricing.graph, self.pricing.priced.prices
        every = (
            op
            for name, choice in seen.choices.items()
            for op in operators(graph.by_name[name], graph, choice.option, choice.reads, choice.writes)
            if prices.is_timed(op) and not choice.skips
        )
        return list({op.key: op for op in every}.values())

    def _expect(self, seen: Seen) -> tuple[float, float]:
        """What a network should take at corrected prices, and the standard error of the logarithm of that.

        The latter has the error of what it was measured at, too.
        """
        at = self.pricing.menu(self.correction)
        cost, _ = price(at, seen.at(at), seen.kept, seen.dropped)
        return cost.latency_ms, hypot(self._find_error(seen, cost.latency_ms), seen.measured.error)
