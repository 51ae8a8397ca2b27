"""The page of a front: what each millisecond costs in accuracy, for each target, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edgesdk.core.budget import PREDICTED
from edgesdk.core.plan import INT8
from edgesdk.core.report import DENSE
from edgesdk.core.wording import counted
from edgesdk.pages.bounds import make_bar
from edgesdk.pages.charts import Axis
from edgesdk.pages.layers import Rows
from edgesdk.pages.predictions import Join
from edgesdk.pages.render import Document, render

MOST = 1000  # points of a target
PAGE = "report.html"  # of a bundle
ABOVE = 7.0  # per cent of the chart's height, that what was found is above its point: of loss nothing is found


@dataclass(frozen=True)
class Dot:
    """One point, its place on the chart, and what its plan is made of.

    Of one that was built ``found`` is the place of what its latency came to, ``link`` its page.
    """

    point: Document
    across: float
    up: float
    runs_on: str
    integer: int
    layers: int
    found: tuple[float, float] | None = None
    link: str = ""


@dataclass(frozen=True)
class Chart:
    """The points of one model on one target, on axes of ms and loss; ``line`` goes through those that no other beats.

    ``found`` is what the figures of those that were ``built`` rest on.
    """

    name: str
    across: Axis
    up: Axis
    dots: Rows
    line: str
    built: Rows
    found: Sequence[str]


def render_front(front: Document) -> str:
    """The page of the front that this document is."""
    targets = list(dict.fromkeys(point["target"] for point in front["points"]))
    several = len(front["models"]) > 1
    charts = [
        _chart(f"{name}, {target}" if several else target, points) for (name, target), points in _group(front).items()
    ]
    return render(
        "front.html",
        title=f"Front: {', '.join(targets) or 'no target'}",
        charts=charts,
        models=compare_models(front) if several else (),
        refused=front["refused"],
        graphs={f"graph of {model['name']}": model["graph"] for model in front["models"]} or {"graph": front["graph"]},
        best=sum(point["best"] for point in front["points"]),
        built=sum(point["built"] is not None for point in front["points"]),
        found=_list_found(front["points"]),
    )


@dataclass(frozen=True)
class Compared:
    """One ``model`` on one ``target``: its score as it is, the latency of that where it is on the front, and its
    fastest point with the loss of that.

    ``dense_at`` and ``fastest_at`` are the places of the two latencies on an axis that all rows share.
    """

    model: str
    target: str
    metric: str
    dense_score: float | None
    samples: int
    dense_ms: float | None
    fastest_ms: float
    fastest_loss: float
    dense_at: float
    fastest_at: float


def compare_models(front: Document) -> list[Compared]:
    """The models of a front side by side, target by target."""
    by_name = {model["name"]: model for model in front["models"]}
    axis = Axis.over(point["predicted"]["latency_ms"] for point in front["points"])
    rows: list[Compared] = []
    for (name, target), points in sorted(_group(front).items(), key=lambda group: group[0][1]):
        model, times = by_name[name], [point["predicted"]["latency_ms"] for point in points]
        dense = min((ms for ms, each in zip(times, points, strict=True) if each["kind"] == DENSE), default=None)
        fastest = points[times.index(min(times))]
        rows.append(Compared(
            name, target, model["metric"], model["dense_score"], model["samples"], dense, min(times), fastest["loss"],
            axis.place(dense or 0.0), axis.place(min(times)),
        ))  # fmt: skip
    return rows


def _group(front: Document) -> dict[tuple[str, str], list[Document]]:
    """The points by model and target."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for point in front["points"]:
        groups.setdefault((point["model"], point["target"]), []).append(point)
    return groups


def _chart(name: str, points: Sequence[Document]) -> Chart:
    every = [cost["latency_ms"] for point in points for cost in _costs(point)]
    across = Axis.of_ratios(every)
    up = Axis.over([point["loss"] for point in points])
    dots = [_dot(point, across, up) for point in points]
    best = [dot for dot in dots if dot.point["best"]]
    return Chart(name, across, up, Rows.of(dots, MOST), _stairs(best), _built(dots), _list_found(points))


def _list_found(points: Sequence[Document]) -> list[str]:
    return sorted({point["built"]["cost"]["basis"] for point in points if point["built"]})


def _costs(point: Document) -> list[Document]:
    """What was predicted of a point, and what it came to."""
    return [point["predicted"], *([point["built"]["cost"]] if point["built"] else [])]


def _built(dots: Sequence[Dot]) -> Rows:
    """What was built: each figure that was predicted joined to what became of it."""
    every = [dot for dot in dots if dot.point["built"]]
    axis = Axis.over(cost["latency_ms"] for dot in every for cost in _costs(dot.point))
    return Rows.of([(dot, _join(dot.point, axis)) for dot in every], MOST)


def _join(point: Document, axis: Axis) -> Join:
    before, after = _costs(point)
    name, promised, reached = "latency_ms", before["latency_ms"], after["latency_ms"]
    predicted, found = make_bar("", PREDICTED, name, promised, axis), make_bar("", after["basis"], name, reached, axis)
    return Join("", "", predicted, found, ratio=reached / promised)


def _dot(point: Document, across: Axis, up: Axis) -> Dot:
    layers: Sequence[Any] = point["plan"]["layers"]
    height, built = up.place(point["loss"]), point["built"]
    return Dot(
        point,
        across.place(point["predicted"]["latency_ms"]),
        height,
        f"{point['runtime']}{'' if point['threads'] == 1 else ', ' + counted(point['threads'], 'thread')}",
        sum(layer["option"]["precision"] == INT8 for layer in layers),
        len(layers),
        (across.place(built["cost"]["latency_ms"]), height + ABOVE) if built else None,
        quote(f"{built['bundle']}/{PAGE}") if built else "",
    )


def _stairs(best: Sequence[Dot]) -> str:
    """A line that keeps each loss until the next point has less: between two points there is no plan."""
    corners: list[str] = []
    for dot, after in zip(best, [*best[1:], None], strict=True):
        corners.append(f"{dot.across:.2f},{100 - dot.up:.2f}")
        if after is not None:
            corners.append(f"{after.across:.2f},{100 - dot.up:.2f}")
    return " ".join(corners)
