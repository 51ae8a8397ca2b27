"""The page of a front: what each millisecond costs in accuracy, for each target, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesdk.core.plan import INT8
from edgesdk.core.wording import counted
from edgesdk.pages.charts import Axis
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, render

MOST = 1000  # points of a target


@dataclass(frozen=True)
class Dot:
    """One point, its place on the chart, and what its plan is made of."""

    point: Document
    across: float
    up: float
    runs_on: str
    integer: int
    layers: int


@dataclass(frozen=True)
class Chart:
    """The points of one target on axes of ms and loss; ``line`` goes through those that no other beats."""

    target: str
    across: Axis
    up: Axis
    dots: Rows
    line: str


def render_front(front: Document) -> str:
    """The page of the front that this document is."""
    targets = list(dict.fromkeys(point["target"] for point in front["points"]))
    return render(
        "front.html",
        title=f"Front: {', '.join(targets) or 'no target'}",
        charts=[_chart(name, [point for point in front["points"] if point["target"] == name]) for name in targets],
        refused=front["refused"],
        graph=front["graph"],
        best=sum(point["best"] for point in front["points"]),
    )


def _chart(target: str, points: Sequence[Document]) -> Chart:
    across = Axis.of_ratios([point["predicted"]["latency_ms"] for point in points])
    up = Axis.over([point["loss"] for point in points])
    dots = [_dot(point, across, up) for point in points]
    best = [dot for dot in dots if dot.point["best"]]
    return Chart(target, across, up, Rows.of(dots, MOST), _stairs(best))


def _dot(point: Document, across: Axis, up: Axis) -> Dot:
    layers: Sequence[Any] = point["plan"]["layers"]
    return Dot(
        point,
        across.place(point["predicted"]["latency_ms"]),
        up.place(point["loss"]),
        f"{point['runtime']}{'' if point['threads'] == 1 else ', ' + counted(point['threads'], 'thread')}",
        sum(layer["option"]["precision"] == INT8 for layer in layers),
        len(layers),
    )


def _stairs(best: Sequence[Dot]) -> str:
    """A line that keeps each loss until the next point has less: between two points there is no plan."""
    corners: list[str] = []
    for dot, after in zip(best, [*best[1:], None], strict=True):
        corners.append(f"{dot.across:.2f},{100 - dot.up:.2f}")
        if after is not None:
            corners.append(f"{after.across:.2f},{100 - dot.up:.2f}")
    return " ".join(corners)
