"""The layers of a plan as rows: dense beside deployed, in the order of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import MEASURED
from edgesdk.core.kernels import Part, group_by_layers, read_profiles
from edgesdk.core.plan import Option, Plan
from edgesdk.core.wording import listed
from edgesdk.pages.charts import draw, draw_steps, mark, tell_axes
from edgesdk.pages.render import Document, count, milliseconds

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

MOST = 500  # rows: a page of more is no page that is read
CROWDED = 100  # layers, from which what was measured is a line, too
NOTHING: Document = {}


@dataclass(frozen=True)
class Rows:
    """The first rows of a table, and how many are left out."""

    shown: Sequence[Any]
    more: int

    @classmethod
    def of(cls, rows: Sequence[Any], most: int) -> Rows:
        return cls(rows[:most], max(len(rows) - most, 0))

    @classmethod
    def of_most(cls, rows: Sequence[Any], most: int, size: Callable[[Any], float]) -> Rows:
        """Those of the largest ``size``, in their order."""
        largest = sorted(range(len(rows)), key=lambda place: -size(rows[place]))[:most]
        return cls([rows[place] for place in sorted(largest)], max(len(rows) - most, 0))


@dataclass(frozen=True)
class Told:
    """What the profiler told of a layer: its ``ms``, and what is ``said`` of the layers that are fused with it; of one
    that is in the kernels of another, which."""

    ms: float | None
    said: str


NOT_TOLD = Told(None, "")


def tell_layers(parts: Sequence[Part]) -> dict[str, Told]:
    """What was told of each layer: fused ones have one figure, with the first of them."""
    told: dict[str, Told] = {}
    for part in parts:
        for place, name in enumerate(part.layers):
            first, *others = part.layers
            told[name] = Told(None, f"in {first}") if place else Told(part.ms, f"with {listed(others)}" * bool(others))
    return told


@dataclass(frozen=True)
class Row:
    """One layer: what it is, what became of it, what both take as predicted and as measured, and why.

    ``slower`` counts its choices that this device runs slower than what they would replace.
    """

    number: int
    name: str
    operator: str
    channels: int | None
    kept: int | None
    runs_as: str
    changed: bool
    share: float | None
    dense_ms: float | None
    own_ms: float | None
    dense_told: Told
    own_told: Told
    loss: float | None
    width_loss: float | None
    slower: int
    reason: str


def list_layers(plan: Plan, report: Document) -> Rows:
    """The layers as rows; what a plan or a report of before does not say is ``None`` there."""
    facts = {entry["name"]: entry for entry in report.get("layers") or ()}
    profiles = read_profiles(report)
    macs = sum(entry["macs"] for entry in facts.values())
    slower = Counter(rejected.layer for rejected in plan.rejected)
    dense_told, own_told = (
        tell_layers(group_by_layers(profiles[name].kernels if name in profiles else ()))
        for name in ("dense", "deployed")
    )
    rows: list[Row] = []
    for number, layer in enumerate(plan.layers, 1):
        own = facts.get(layer.name, NOTHING)
        gone = layer.reason.startswith("left out")
        channels = own.get("channels")
        kept = 0 if gone else own.get("kept", plan.kept.get(layer.name))
        dense_ms, own_ms = layer.dense_ms or None, layer.latency_ms or None  # 0 is without a price of its own
        rows.append(Row(
            number, layer.name, own.get("operator") or "", channels, kept,
            "left out" if gone else str(layer.option), gone or layer.option != Option() or channels not in (None, kept),
            own["macs"] / macs if own and macs else None, dense_ms, own_ms,
            dense_told.get(layer.name, NOT_TOLD), own_told.get(layer.name, NOT_TOLD), own.get("loss"),
            own.get("width_loss"), slower[layer.name], layer.reason,
        ))  # fmt: skip
    return Rows.of(rows, MOST)


def draw_layers(rows: Sequence[Row]) -> Markup:
    """What each layer takes: steps as predicted, and points as the profiler told of it, or whole steps."""
    said = "Latency of each layer in the order of the graph, dense and deployed"
    return draw("layer-times", said, [(lambda axes: _draw(axes, rows), 220.0)])


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    for who, prices, told in (
        ("dense", [row.dense_ms for row in rows], [row.dense_told.ms for row in rows]),
        ("deployed", [row.own_ms for row in rows], [row.own_told.ms for row in rows]),
    ):
        draw_steps(axes, prices, who)
        if len(rows) > CROWDED:
            draw_steps(axes, told, who, MEASURED)
        else:
            mark(axes, [(number, ms) for number, ms in enumerate(told, 1) if ms is not None], MEASURED, who)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.set_ylim(bottom=0)
    tell_axes(axes, ("layer", count), ("", milliseconds))
