"""What the search promised, joined to what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.core.budget import BASES, PREDICTED
from edgesdk.pages.bounds import Bar, make_bar
from edgesdk.pages.charts import Axis
from edgesdk.pages.render import Document
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
