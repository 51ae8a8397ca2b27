"""The roofline: what each layer reaches of what the processor can multiply and the memory can move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgesdk.core.budget import PREDICTED
from edgesdk.core.plan import FP32, LayerPlan, Plan
from edgesdk.pages.charts import INK, by_ratios, draw, label, line, mark, tell_axes
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, digits

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LISTED = 120  # of what layers reach, on the chart and in the table: what takes longest
COMPUTE, MEMORY = "compute", "memory"
GIGA_PER_MS = 1e6  # of anything in a millisecond, that is 10^9 a second


@dataclass(frozen=True)
class Reached:
    """What one layer reaches: ``intensity`` in multiply-accumulates a byte, ``gmacs`` and ``gbps`` at its price ``ms``.

    ``share`` is that of the roof above it, ``bound`` which of the two that is.
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


@dataclass(frozen=True)
class Roofline:
    """The section: a chart, and what layers reach; ``basis`` is what the roofs rest on, of ``gmacs`` by precision."""

    basis: str
    bandwidth_gbps: float
    gmacs: Document
    chart: Markup
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
        rows = Rows.of_most(reached, LISTED, lambda each: each.ms)
        drawn = [each for each in rows.shown if each.intensity > 0]
        if not drawn:
            return None
        said = "Multiply-accumulates a second of each layer by its multiply-accumulates a byte, below the roofs"
        chart = draw("roofs", said, [(lambda axes: _draw(axes, drawn, roofs), 320.0)])
        return cls(roofs["basis"], roofs["bandwidth_gbps"], roofs["gmacs"], chart, rows)


def _draw(axes: Axes, drawn: Sequence[Reached], roofs: Document) -> None:
    bandwidth, peaks = roofs["bandwidth_gbps"], roofs["gmacs"]
    ridges = [peak / bandwidth for peak in peaks.values()]
    by_ratios(axes, [*(each.intensity for each in drawn), *ridges], [*(each.gmacs for each in drawn), *peaks.values()])
    (left, right), (floor, _) = axes.get_xlim(), axes.get_ylim()
    for precision, peak in peaks.items():  # what memory can feed, up to what the processor multiplies
        start = max(left, floor / bandwidth)
        corners = [at for at in (start, peak / bandwidth, right) if at >= start]
        line(axes, [(at, min(peak, at * bandwidth)) for at in corners], roofs["basis"], color=INK["text"])
        label(axes, precision, right, peak, xytext=(-2, -15), ha="right")
    for who in ("dense", "deployed"):
        mark(axes, [(each.intensity, each.gmacs) for each in drawn if each.who == who], PREDICTED, who)
    tell = ("multiply-accumulates a byte", lambda value: digits(value, 3)), ("GMAC/s", lambda value: digits(value, 3))
    tell_axes(axes, *tell)


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
