"""The roofline: what each layer reaches of what the processor can multiply and the memory can move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgesdk.core.plan import FP32, LayerPlan, Plan
from edgesdk.pages.charts import Axis
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document

LISTED = 120  # of what layers reach, on the chart and in the table: what takes longest
COMPUTE, MEMORY = "compute", "memory"
GIGA_PER_MS = 1e6  # of anything in a millisecond, that is 10^9 a second


@dataclass(frozen=True)
class Reached:
    """What one layer reaches: ``intensity`` in multiply-accumulates a byte, ``gmacs`` and ``gbps`` at its price ``ms``.

    ``share`` is that of the roof above it, ``bound`` which of the two that is. ``across`` and ``up`` are its place,
    where it multiplies at all.
    """

    number: int
    name: str
    who: str
    precision: str
    ms: float
    intensity: float
    gmacs: float
    gbps: float
    share: float
    bound: str
    across: float | None = None
    up: float | None = None


@dataclass(frozen=True)
class Roof:
    """The roof of one precision as a line: what memory can feed, up to what the processor multiplies."""

    precision: str
    gmacs: float
    line: str


@dataclass(frozen=True)
class Roofline:
    """The section: roofs, whose ``basis`` says what they rest on, and what layers reach below them."""

    basis: str
    bandwidth_gbps: float
    roofs: Sequence[Roof]
    across: Axis
    up: Axis
    reached: Rows

    @classmethod
    def of(cls, plan: Plan, report: Document) -> Roofline | None:
        """Of the layers of a report at the prices of its ``plan``; ``None`` where no roofs are known, or no work."""
        roofs, facts = report.get("roofs"), {entry["name"]: entry for entry in report.get("layers") or ()}
        if not roofs:
            return None
        reached = [
            each
            for number, layer in enumerate(plan.layers, 1)
            for each in _list_reached(number, layer, facts.get(layer.name) or {}, roofs)
        ]
        drawn = [each for each in reached if each.intensity > 0]
        if not drawn:
            return None
        bandwidth, most = roofs["bandwidth_gbps"], roofs["gmacs"]
        ridges = [peak / bandwidth for peak in most.values()]
        across = Axis.of_ratios([*(each.intensity for each in drawn), *ridges])
        up = Axis.of_ratios([*(each.gmacs for each in drawn), *most.values()])
        lines = [Roof(precision, peak, _draw_roof(peak, bandwidth, across, up)) for precision, peak in most.items()]
        placed = [_place(each, across, up) for each in reached]
        return cls(roofs["basis"], bandwidth, lines, across, up, Rows.of_most(placed, LISTED, lambda each: each.ms))


def _list_reached(number: int, layer: LayerPlan, facts: Document, roofs: Document) -> list[Reached]:
    """What a layer reaches in the dense and in the deployed model, where it has work and a price of its own."""
    sides = (
        ("dense", FP32, layer.dense_ms, facts.get("dense_work")),
        ("deployed", layer.option.precision, layer.latency_ms, facts.get("work")),
    )
    reached: list[Reached] = []
    for who, precision, ms, work in sides:
        if not ms or not work or not work["moved_bytes"]:
            continue
        macs, moved = work["macs"], work["moved_bytes"]
        peak = roofs["gmacs"].get(precision) or max(roofs["gmacs"].values())
        least = {COMPUTE: macs / peak / GIGA_PER_MS, MEMORY: moved / roofs["bandwidth_gbps"] / GIGA_PER_MS}
        bound = max(least, key=lambda name: least[name])
        reached.append(Reached(
            number, layer.name, who, precision, ms, macs / moved, macs / ms / GIGA_PER_MS, moved / ms / GIGA_PER_MS,
            least[bound] / ms, bound,
        ))  # fmt: skip
    return reached


def _place(each: Reached, across: Axis, up: Axis) -> Reached:
    if not each.intensity:
        return each
    return replace(each, across=across.place(each.intensity), up=up.place(each.gmacs))


def _draw_roof(peak: float, bandwidth: float, across: Axis, up: Axis) -> str:
    """The lesser of what memory feeds and ``peak``, as SVG's points: straight on axes of ratios."""
    start = max(across.low, up.low / bandwidth)  # where the slope enters the chart
    corners = [(at, min(peak, at * bandwidth)) for at in (start, peak / bandwidth, across.high) if at >= start]
    return " ".join(f"{across.place(at):.2f},{100 - up.place(height):.2f}" for at, height in corners)
