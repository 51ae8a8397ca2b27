"""Fronts as charts: what each millisecond costs in accuracy, predicted and found joined by a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgesdk.core.budget import EMULATED, PREDICTED
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.pages.charts import by_ratios, draw, from_zero, join, label, line, mark, mark_limit, ring, tell_axes
from edgesdk.pages.render import Document, digits, figure

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

DENSE_INT8 = "dense int8"
AS_IS = (DENSE, DENSE_INT8)
LOSS = "loss: how far outputs move"
ABOVE, NEXT, HIGH = 9.0, 22.0, 14.0  # of a number in pixels: over its point, beside another, and over that one
SHAPES = (
    ("o", "○"), ("^", "△"), ("v", "▽"), ("D", "◇"), ("p", "⬠"), ("<", "◁"), (">", "▷"), ("h", "⬡"), ("*", "☆"),
)  # fmt: skip
"""Marks that tell apart what points run on, as Matplotlib calls them and as they are in text. A square is emulated."""
CROWDED = 30  # points, from which only those that no other beats have their number beside them


@dataclass(frozen=True)
class Point:
    """A plan by its loss and its latency, as predicted and as found; ``kind`` says what it is, ``line`` whether it is
    one that no other beats, ``link`` where more is said of it. ``shape`` is the mark of what it runs on, where a chart
    has several; dense models, which are diamonds otherwise, have a ring then."""

    number: int
    kind: str
    loss: float
    predicted: float
    found: float | None
    basis: str
    line: bool
    link: str
    chosen: bool = False
    finalist: bool = False
    shape: str = ""


def draw_front(
    name: str, said: str, points: Sequence[Point], tell: Callable[[float], str], limit: float | None = None
) -> Markup:
    """Loss by latency: the line goes through what no other beats, ``limit`` is the budget."""
    return draw(name, said, [(partial(_draw, points=points, tell=tell, limit=limit), 320.0)], links=True)


def _draw(axes: Axes, points: Sequence[Point], tell: Callable[[float], str], limit: float | None) -> None:
    times = [*(point.predicted for point in points), *(point.found for point in points if point.found is not None)]
    by_ratios(axes, [*times, *([] if limit is None else [limit])])
    from_zero(axes, [point.loss for point in points])
    best = sorted((point.predicted, point.loss) for point in points if point.line)
    if len(best) > 1:  # it keeps each loss until the next has less: between two points there is no plan
        line(axes, best, PREDICTED, drawstyle="steps-post", linewidth=1.2)
    mark_limit(axes, limit)
    for point in points:
        who = "dense" if point.kind in AS_IS or not point.line and not point.chosen else "deployed"
        as_is = point.kind in AS_IS
        shape = {"marker": point.shape or ("D" if as_is else "^" if point.finalist else "o")}
        size = {"markersize": 12} if point.chosen else {}
        mark(axes, [(point.predicted, point.loss)], PREDICTED, who, **shape, **size)
        if as_is and point.shape:
            ring(axes, (point.predicted, point.loss))
        if point.found is not None:
            join(axes, (point.predicted, point.loss), (point.found, point.loss))
            told = {} if point.basis == EMULATED and point.shape else shape  # a square, whatever it runs on
            mark(axes, [(point.found, point.loss)], point.basis, who, **told, **size)
    _number(axes, points)
    tell_axes(axes, ("latency", tell), (LOSS, lambda value: digits(value, 3)))


def _number(axes: Axes, points: Sequence[Point]) -> None:
    """The number of each point above it, and above that of another which would be below; of many the best alone."""
    taken: list[tuple[float, float]] = []
    shown = [point for point in points if point.line or point.chosen or len(points) < CROWDED]
    for point in sorted(shown, key=lambda point: point.predicted):
        across, up = axes.transData.transform((point.predicted, point.loss))
        rise = ABOVE
        while any(abs(across - x) < NEXT and abs(up + rise - y) < HIGH for x, y in taken):
            rise += HIGH
        taken.append((across, up + rise))
        weight = "bold" if point.line or point.chosen else "normal"
        label(axes, point.number, point.predicted, point.loss, url=point.link, fontweight=weight, xytext=(0, rise))


@dataclass(frozen=True)
class Candidate:
    """A plan that was built: as the search promised it, and as it was found; ``point`` is its place, where known.

    ``drop`` is that of its score on held-out data after a short recovery, in points, where it was judged; ``kept`` is
    of the budget's bound on it, too.
    """

    number: int
    label: str
    note: str
    loss: float | None
    predicted: str
    found: str
    basis: str
    kept: bool
    chosen: bool
    finalist: bool
    point: Point | None
    runtime: str = ""
    sign: str = ""
    drop: float | None = None
    values: tuple[float | None, float | None] = (None, None)  # of ``predicted`` and ``found``


MEANINGS = {
    "even": "the least loss by the prices as they are",
    "shallow": "as if leaving a branch out cost less accuracy",
    "deep": "as if leaving a branch out cost more accuracy",
    "closer": "between what kept the budget and what missed it",
    "measured again": "missed the budget once, by a run that may have been disturbed",
    "tightest": "the least there is, where no plan was expected to keep the budget",
    "round": "cut further than in the last round that was good, and trained in between",
    "final": "the finished file, which missed what its candidate had kept",
}
"""What candidates are called by how they were searched for; what follows the name is of the single one."""


@dataclass(frozen=True)
class Candidates:
    """The section: ``rows`` are those that were built, ``chart`` where they lie, if their losses are known; ``signs``
    are the marks of runtimes, where these are several; ``bounded`` says that the budget is a line in it."""

    rows: Sequence[Candidate]
    chart: Markup | None
    bases: Sequence[str]
    signs: Mapping[str, str]
    bounded: bool

    @property
    def finalists(self) -> bool:
        """Whether any has the mark of a finalist in the chart."""
        return any(row.point is not None and row.point.finalist for row in self.rows)

    @property
    def judged(self) -> bool:
        """Whether the score of any is known."""
        return any(row.drop is not None for row in self.rows)

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """The names among them that say how they were searched for, and what each means."""
        return [(name, told) for name, told in MEANINGS.items() if any(row.label.startswith(name) for row in self.rows)]

    @classmethod
    def of(cls, plan: Plan, report: Document, chosen: str | None, most: int) -> Candidates:
        """The first candidates of a ``report``; ``chosen`` is the digest of the bundle's ``plan``."""
        steps = [step for step in report.get("history") or () if step.get("predicted") and step.get("measured")][:most]
        finalists = {step["finalist"] for step in report.get("history") or () if step.get("finalist")}
        name = "latency_ratio" if report["budget"].get("latency_ratio") is not None else "latency_ms"
        tell = lambda value: figure(value, name)  # noqa: E731
        most_lost = report["budget"].get("max_drop")
        rows = [_candidate(place, step, name, chosen, finalists, most_lost) for place, step in enumerate(steps, 1)]
        runtimes = list(dict.fromkeys(row.runtime for row in rows if row.runtime))
        shapes = {each: SHAPES[place % len(SHAPES)] for place, each in enumerate(runtimes)} if len(runtimes) > 1 else {}
        rows = [_marked(row, *shapes[row.runtime]) if row.runtime in shapes else row for row in rows]
        points = [row.point for row in rows if row.point is not None]
        said = "Loss of each candidate by its latency, predicted and found"
        chart = draw_front("candidates-front", said, points, tell, report["budget"].get(name)) if points else None
        signs = {runtime: sign for runtime, (_, sign) in shapes.items()}
        return cls(rows, chart, sorted({row.basis for row in rows}), signs, report["budget"].get(name) is not None)


def _marked(row: Candidate, shape: str, sign: str) -> Candidate:
    """The same with the mark of its runtime, in the chart and as text."""
    return replace(row, sign=sign, point=None if row.point is None else replace(row.point, shape=shape))


def _candidate(
    number: int, step: Document, name: str, chosen: str | None, finalists: set[str], most_lost: float | None
) -> Candidate:
    before, after, basis = step["predicted"].get(name), step["measured"].get(name), step["measured"]["basis"]
    digest, kind, loss = str(step.get("plan") or ""), step.get("search") or "plan", step.get("plan_loss")
    own, last, drop = digest != "" and digest == chosen, digest in finalists, step.get("drop")
    loses = drop is not None and most_lost is not None and drop > most_lost
    point = None
    if loss is not None and before and after:
        point = Point(number, kind, loss, before, after, basis, False, f"#candidate-{number}", own, last)
    return Candidate(
        number, kind, " ".join(filter(None, (step.get("runtime"), digest[:8]))), loss, figure(before, name),
        figure(after, name), basis, not step.get("misses") and not loses, own, last, point,
        step.get("runtime") or "", drop=drop, values=(before, after),
    )  # fmt: skip
