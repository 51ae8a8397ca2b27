"""What the search promised, joined to what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgesdk.core.budget import BASES, MEASURED, PREDICTED
from edgesdk.core.kernels import Part, group_by_layers, read_profiles
from edgesdk.core.plan import Plan
from edgesdk.core.wording import listed
from edgesdk.pages.bounds import Bar, make_bar
from edgesdk.pages.charts import Axis
from edgesdk.pages.render import Document, milliseconds
from edgesdk.pages.verdict import BOUNDS


@dataclass(frozen=True)
class Join:
    """A predicted figure and what became of it, joined by a line; ``limit`` is where the budget is."""

    label: str
    note: str
    predicted: Bar | None
    reached: Bar | None
    limit: float | None = None
    chosen: bool = False
    kept: bool | None = None
    ratio: float | None = None


def list_candidates(report: Document, chosen: str | None, most: int) -> list[Join]:
    """The latency of the first candidates that were built: as the search promised it, and as it was found.

    ``chosen`` is the digest of the plan that the bundle has.
    """
    steps = [step for step in report.get("history") or () if step.get("predicted") and step.get("measured")][:most]
    name = "latency_ratio" if report["budget"].get("latency_ratio") is not None else "latency_ms"
    figures = [step[side].get(name) for step in steps for side in ("predicted", "measured")]
    allowed = report["budget"].get(name)
    axis = Axis.over([allowed, *figures])
    limit = None if allowed is None else axis.place(allowed)
    return [_candidate(step, name, axis, limit, chosen) for step in steps]


def _candidate(step: Document, name: str, axis: Axis, limit: float | None, chosen: str | None) -> Join:
    predicted, reached = (
        None if step[side].get(name) is None else make_bar("", step[side]["basis"], name, step[side][name], axis)
        for side in ("predicted", "measured")
    )
    digest = str(step.get("plan") or "")
    return Join(
        label=step.get("search") or "plan",
        note=" ".join(filter(None, (step.get("runtime"), digest[:8]))),
        predicted=predicted,
        reached=reached,
        limit=limit,
        chosen=digest != "" and digest == chosen,
        kept=not step.get("misses"),
    )


def list_bases(joins: Sequence[Join]) -> list[str]:
    """What the figures of ``joins`` rest on, each once, in the order of ``BASES``."""
    every = {bar.basis for join in joins for bar in (join.predicted, join.reached) if bar is not None}
    return [basis for basis in BASES if basis in every]


def list_predictions(report: Document) -> list[Join]:
    """What the search promised of the deployed file beside what was measured, each against what was promised."""
    if report.get("measured") is None:
        return []
    joins = []
    for name, label in BOUNDS.items():
        promised, reached = report["predicted"].get(name), report["measured"].get(name)
        if not promised or not reached:
            continue
        axis = Axis.over([promised, reached])
        bars = (
            make_bar("", PREDICTED, name, promised, axis),
            make_bar("", report["measured"]["basis"], name, reached, axis),
        )
        share = ", share of dense" if name == "latency_ratio" else ""
        joins.append(Join(f"{label}{share}", "", *bars, ratio=promised / reached))
    return joins


@dataclass(frozen=True)
class LayerJoin:
    """Layers that no kernel tells apart: what the search predicted of them all, and what the profiler measured."""

    who: str
    label: str
    note: str
    join: Join
    ms: float


def list_layer_predictions(plan: Plan, report: Document) -> list[LayerJoin]:
    """The layers of the deployed and of the dense file, as far as the runtime told what they took."""
    rows: list[tuple[str, Part, float | None]] = []
    for who, profile in reversed(read_profiles(report).items()):
        prices = {layer.name: layer.latency_ms if who == "deployed" else layer.dense_ms for layer in plan.layers}
        for part in group_by_layers(profile.kernels):
            predicted = sum(prices.get(name) or 0.0 for name in part.layers)
            rows.append((who, part, predicted or None))
    axis = Axis.over([time for _, part, predicted in rows for time in (part.ms, part.high_ms, predicted)])
    return [_join_layers(who, part, predicted, axis) for who, part, predicted in rows]


def _join_layers(who: str, part: Part, predicted: float | None, axis: Axis) -> LayerJoin:
    reached = make_bar("", MEASURED, "latency_ms", part.ms, axis)
    if part.low_ms is not None and part.high_ms is not None:
        said = f"{milliseconds(part.low_ms)} to {milliseconds(part.high_ms)}"
        reached = replace(reached, ends=(axis.place(part.low_ms), axis.place(part.high_ms)), said=said)
    promised = None if predicted is None else make_bar("", PREDICTED, "latency_ms", predicted, axis)
    ratio = predicted / part.ms if predicted is not None and part.ms > 0 else None
    operators = listed(dict.fromkeys(kernel.operator for kernel in part.kernels))
    label = " + ".join(part.layers) or "of no named layer"
    return LayerJoin(who, label, operators, Join(label, "", promised, reached, ratio=ratio), part.ms)
