"""The page of a front: what each millisecond costs in accuracy, for each target, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edgesdk.core.plan import INT8, Proof
from edgesdk.core.report import DENSE
from edgesdk.core.serialize import from_json
from edgesdk.core.wording import counted
from edgesdk.pages.fronts import SHAPES, Point, draw_front
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, milliseconds, render

if TYPE_CHECKING:
    from markupsafe import Markup

SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01)
"""Of the dense model's latency, at which targets are compared: about equal steps by ratios."""
ROUNDING = 1e-6
MOST = 1000  # points of a target
PAGE = "report.html"  # of a bundle


@dataclass(frozen=True)
class Dot:
    """One point, what it ``runs_on``, and what its plan is made of; of one that was built ``link`` is its page.

    ``sign`` is its mark in the chart as text, where marks tell apart what points run on; ``proved`` by how much
    another plan at its latency can be better.
    """

    point: Document
    runs_on: str
    integer: int
    layers: int
    link: str = ""
    sign: str = ""
    proved: str = ""

    @property
    def ratio(self) -> float:
        """What the latency of one that was built came to, of what was predicted."""
        return self.point["built"]["cost"]["latency_ms"] / self.point["predicted"]["latency_ms"]


@dataclass(frozen=True)
class Chart:
    """The points of one model on one target; ``found`` is what the figures of those that were ``built`` rest on,
    ``signs`` are the marks of what they run on, where these are several."""

    name: str
    drawn: Markup
    dots: Rows
    built: Rows
    found: Sequence[str]
    signs: Mapping[str, str]


def render_front(front: Document) -> str:
    """The page of the front that this document is."""
    targets = list(dict.fromkeys(point["target"] for point in front["points"]))
    several = len(front["models"]) > 1
    places = list(dict.fromkeys(_name_place(point) for point in front["points"]))
    shapes = {place: SHAPES[number % len(SHAPES)] for number, place in enumerate(places)} if len(places) > 1 else {}
    charts = [
        _chart(number, f"{name}, {target}" if several else target, points, shapes)
        for number, ((name, target), points) in enumerate(_group(front).items(), 1)
    ]
    return render(
        "front.html",
        title=f"Front: {', '.join(targets) or 'no target'}",
        charts=charts,
        sides=compare_places(front),
        models=compare_models(front) if several else (),
        refused=front["refused"],
        notes=front.get("notes") or (),
        command=front.get("command"),
        graphs={f"graph of {model['name']}": model["graph"] for model in front["models"]} or {"graph": front["graph"]},
        best=sum(point["best"] for point in front["points"]),
        built=sum(point["built"] is not None for point in front["points"]),
        found=_list_found(front["points"]),
    )


@dataclass(frozen=True)
class Compared:
    """One ``model`` on one ``target``: its score as it is, the latency of that where it is on the front, and its
    fastest point with the loss of that."""

    model: str
    target: str
    metric: str
    dense_score: float | None
    samples: int
    dense_ms: float | None
    fastest_ms: float
    fastest_loss: float


def compare_models(front: Document) -> list[Compared]:
    """The models of a front side by side, target by target."""
    by_name = {model["name"]: model for model in front["models"]}
    rows: list[Compared] = []
    for (name, target), points in sorted(_group(front).items(), key=lambda group: group[0][1]):
        model, times = by_name[name], [point["predicted"]["latency_ms"] for point in points]
        dense = min((ms for ms, each in zip(times, points, strict=True) if each["kind"] == DENSE), default=None)
        fastest = points[times.index(min(times))]
        rows.append(Compared(
            name, target, model["metric"], model["dense_score"], model["samples"], dense, min(times), fastest["loss"],
        ))  # fmt: skip
    return rows


@dataclass(frozen=True)
class Sides:
    """Models and targets side by side: their ``names``, what the dense model takes on each in ms, where that is on the
    front, and for each share of that in ``rows`` the best point that takes no more, where there is one."""

    names: Sequence[str]
    dense_ms: Sequence[float | None]
    rows: Sequence[tuple[float, Sequence[Document | None]]]


def compare_places(front: Document) -> Sides | None:
    """What each model reaches on each target, share by share of its dense latency there; ``None`` for one alone.

    Of shares at which all have the same points the least is there, and none at which nothing has any.
    """
    groups, several = _group(front), len(front["models"]) > 1
    if len(groups) < 2:
        return None
    rows: list[tuple[float, Sequence[Document | None]]] = []
    for share in SHARES:
        reached = [_find_best(points, share) for points in groups.values()]
        if rows and [_number(each) for each in rows[-1][1]] == [_number(each) for each in reached]:
            rows.pop()
        if any(reached):
            rows.append((share, reached))
    dense = [min((p["predicted"]["latency_ms"] for p in points if p["kind"] == DENSE), default=None)
             for points in groups.values()]  # fmt: skip
    return Sides([f"{model}, {target}" if several else target for model, target in groups], dense, rows)


def _find_best(points: Sequence[Document], share: float) -> Document | None:
    """That of ``points`` which loses least within a ``share`` of the dense latency; of equals the fastest."""
    within = [point for point in points if point["ratio"] <= share * (1 + ROUNDING)]
    return min(within, key=lambda point: (point["loss"], point["ratio"]), default=None)


def _number(point: Document | None) -> int | None:
    return None if point is None else point["number"]


def _group(front: Document) -> dict[tuple[str, str], list[Document]]:
    """The points by model and target."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for point in front["points"]:
        groups.setdefault((point["model"], point["target"]), []).append(point)
    return groups


def _chart(number: int, name: str, points: Sequence[Document], shapes: Mapping[str, tuple[str, str]]) -> Chart:
    said = f"Loss of each point of {name} by its latency"
    drawn = draw_front(f"front-{number}", said, [_place(point, shapes) for point in points[:MOST]], milliseconds)
    dots = [_dot(point, shapes) for point in points]
    built = [dot for dot in dots if dot.point["built"]]
    signs = {dot.runs_on: dot.sign for dot in dots if dot.sign}
    return Chart(name, drawn, Rows.of(dots, MOST), Rows.of(built, MOST), _list_found(points), signs)


def _name_place(point: Document) -> str:
    """The runtime and the threads of a point."""
    threads = point["threads"]
    return f"{point['runtime']}{'' if threads == 1 else ', ' + counted(threads, 'thread')}"


def _list_found(points: Sequence[Document]) -> list[str]:
    return sorted({point["built"]["cost"]["basis"] for point in points if point["built"]})


def _place(point: Document, shapes: Mapping[str, tuple[str, str]]) -> Point:
    built = point["built"]
    found, basis = (built["cost"]["latency_ms"], built["cost"]["basis"]) if built else (None, "")
    return Point(
        point["number"], point["kind"], point["loss"], point["predicted"]["latency_ms"], found, basis, point["best"],
        f"#point-{point['number']}", shape=shapes.get(_name_place(point), ("", ""))[0],
    )  # fmt: skip


def _dot(point: Document, shapes: Mapping[str, tuple[str, str]]) -> Dot:
    layers: Sequence[Any] = point["plan"]["layers"]
    built, place = point["built"], _name_place(point)
    return Dot(
        point,
        place,
        sum(layer["option"]["precision"] == INT8 for layer in layers),
        len(layers),
        quote(f"{built['bundle']}/{PAGE}") if built else "",
        shapes.get(place, ("", ""))[1],
        from_json(Proof, point["plan"]["proof"]).within,
    )
