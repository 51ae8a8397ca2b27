"""Charts by Matplotlib, as SVG that lies in the page: text stays text, and colours are those of the page's style.

Matplotlib is imported when something is drawn: that takes half a second, and each chart some hundredths of one.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import EMULATED, MEASURED, PREDICTED
from edgesdk.pages.render import brief

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]
Paint = Callable[["Axes"], object]
"""What draws one panel."""
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640, 84, 20, 26, 46  # of a chart, and around its panels, in pixels
BAR, BARE = 44, 2  # the height of a bar and of its name, and what is around bars
STEPS = 300  # of a line, at most
CUT = 70  # letters of a name
FAR = 20  # times as much, from which figures upwards are by ratios
PALETTE = ("text", "soft", "edge", "back", "dense", "deployed", "limit")
INK = {name: f"#00ff{place:02x}" for place, name in enumerate(PALETTE)}
"""Colours that stand for the page's own, which differ by its scheme."""
RULES: dict[str, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 12.0,
    "text.color": INK["text"], "axes.edgecolor": INK["soft"], "axes.labelcolor": INK["soft"],
    "axes.facecolor": "none", "axes.axisbelow": True, "xtick.color": INK["soft"], "ytick.color": INK["soft"],
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": INK["edge"], "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
}  # fmt: skip


def draw_rows(name: str, said: str, groups: Sequence[tuple[str, Sequence[Bar], float | None]]) -> Markup:
    """A chart of groups of bars, each below its title, with the budget across where it has one."""
    panels = [
        (partial(draw_bars, bars=bars, limit=limit, title=title), float(BAR * len(bars)))
        for title, bars, limit in groups
    ]
    return draw(name, said, panels, left=BARE, bottom=BARE, between=40)


def draw(
    name: str, said: str, panels: Sequence[tuple[Paint, float]], links: bool = False, left: int = LEFT,
    bottom: int = BOTTOM, between: int = 20,
) -> Markup:  # fmt: skip
    """A chart of ``panels`` from above, each with its height in pixels; ``name`` is its own in the page.

    ``said`` is what it shows, for those who do not see it; with ``links`` in it, it is no picture to them.
    """
    from markupsafe import Markup

    whole = TOP + sum(height for _, height in panels) + between * (len(panels) - 1) + bottom
    with _by_our_rules(name):
        from matplotlib.figure import Figure

        figure, below, to = Figure((WIDTH / 72, whole / 72), 72), whole - TOP, io.StringIO()
        for paint, height in panels:
            below -= height
            paint(figure.add_axes((left / WIDTH, below / whole, 1 - (left + RIGHT) / WIDTH, height / whole)))
            below -= between
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(to, format="svg", metadata=unsaid, transparent=True)
    head = f'<svg class="plot" role="{"group" if links else "img"}" aria-label="{escape(said)}"'
    return Markup(f'{head} viewBox="0 0 {WIDTH} {whole:g}">{_settle(to.getvalue(), name)}')


@contextmanager
def _by_our_rules(name: str) -> Iterator[None]:
    """Matplotlib as it is by itself, whatever the user has it do, and without its warnings: of letters that its font
    lacks, which the reader's has, or of a home that cannot be written."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        rules: Any = {**matplotlib.rcParamsDefault, **RULES, "svg.hashsalt": name}
        del rules["backend"]  # which the user may have chosen
        with matplotlib.rc_context(rules), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _settle(svg: str, name: str) -> str:
    """What is in the ``svg``, in colours of the page, marks by their class, and no name in it that another has."""
    inside = re.sub(r"^.*?<svg.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    inside = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), inside)
    inside = re.sub(r"#00ff(0\d)", lambda found: f"var(--{PALETTE[int(found[1])]})", inside)
    inside = re.sub(r' id="as ([^"]*)"', r' class="\1"', inside)
    inside = re.sub(r'(<use [^>]*?)xlink:href="#', rf'\1href="#{name}-', inside).replace("url(#", f"url(#{name}-")
    inside = inside.replace("xlink:href", "href")
    used = set(re.findall(rf'(?:url\(|<use [^>]*?href=")#{name}-([\w-]+)', inside))
    return re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", inside)


@dataclass(frozen=True)
class Bar:
    """A figure among others of its kind: of ``who``, by what it is known, in words, and where its interval ends."""

    who: str
    basis: str
    value: float
    text: str
    ends: tuple[float, float] | None = None
    said: str = ""  # the interval in words

    @property
    def most(self) -> float:
        return max(self.value, *(self.ends or (self.value,)))


def draw_bars(axes: Axes, bars: Sequence[Bar], limit: float | None, title: str) -> None:
    """``bars`` from above, each below its name and figure: full where measured, striped where predicted, dotted where
    emulated; ``limit`` is where the budget is."""
    for place, bar in enumerate(bars):
        who = "dense" if bar.who == "dense" else "deployed"
        ink = INK[who]
        axes.barh(
            place + 0.2, bar.value, 0.4, edgecolor=ink, facecolor=ink if bar.basis == MEASURED else "none",
            hatch="////" if bar.basis == PREDICTED else None, linestyle=":" if bar.basis == EMULATED else "-",
            linewidth=1.3, clip_on=False, gid=f"as bar {bar.basis} {who}",
        )  # fmt: skip
        if bar.ends:
            low, high = bar.ends
            axes.errorbar((low + high) / 2, place + 0.2, xerr=(high - low) / 2, color=INK["text"], capsize=4, zorder=4)
        axes.text(0, place - 0.1, f"{brief(bar.who, CUT)}, {bar.basis}: {bar.text}")
    axes.set(ylim=(len(bars) - 0.5, -0.5), xlim=(0, max([limit or 0.0, *(bar.most for bar in bars)]) * 1.02 or 1.0))
    axes.spines["bottom"].set_visible(False)
    axes.set(xticks=[], yticks=[])
    axes.set_title(brief(title, CUT), fontsize=12, fontweight="bold", loc="left", pad=2)
    mark_limit(axes, limit)


def mark_limit(axes: Axes, limit: float | None) -> None:
    """The budget as a line across."""
    if limit is not None:
        axes.axvline(limit, color=INK["limit"], linewidth=2, zorder=3, gid="as limit", clip_on=False)


def mark(axes: Axes, points: Points, basis: str, who: str = "deployed", **style: Any) -> None:
    """Points: full where measured, hollow where predicted, hollow and square where emulated."""
    _plot(axes, points, {
        "marker": "s" if basis == EMULATED else "o", "linestyle": "none", "markersize": 8, "markeredgewidth": 1.8,
        "markeredgecolor": INK[who], "markerfacecolor": INK[who if basis == MEASURED else "back"], "zorder": 4,
        "clip_on": False, "gid": f"as point {basis} {who}", **style,
    })  # fmt: skip


def ring(axes: Axes, point: tuple[float, float]) -> None:
    """A ring around a mark."""
    _plot(axes, [point], {
        "marker": "o", "linestyle": "none", "markersize": 16, "markeredgewidth": 1, "markeredgecolor": INK["soft"],
        "markerfacecolor": "none", "clip_on": False, "gid": "as ring",
    })  # fmt: skip


def line(axes: Axes, points: Points, basis: str, who: str = "deployed", **style: Any) -> None:
    """A line: whole where measured, dashed where predicted, dotted where emulated."""
    dashes = {PREDICTED: (0, (5, 3)), EMULATED: (0, (1, 2))}.get(basis, "-")
    gid = f"as line {basis} {who}"
    _plot(axes, points, {"linestyle": dashes, "linewidth": 1.7, "color": INK[who], "gid": gid, **style})


def _plot(axes: Axes, points: Points, style: Any) -> None:
    if points:
        axes.plot([across for across, _ in points], [up for _, up in points], **style)


def draw_steps(axes: Axes, values: Sequence[float | None], who: str, basis: str = PREDICTED) -> None:
    """A figure of each layer, in their order: what is not known is left out, of many layers the most of each few."""
    few = -(-len(values) // STEPS)
    parts = [[value for value in values[at : at + few] if value is not None] for at in range(0, len(values), few)]
    most = [max(part) if part else float("nan") for part in parts]
    edges = [min(few * place, len(values)) + 0.5 for place in range(len(most) + 1)]
    line(axes, list(zip(edges, [*most, *most[-1:]], strict=True)), basis, who, drawstyle="steps-post")


def guide(axes: Axes, *, across: float | None = None, points: Points = ()) -> None:
    """A thin line to read by, at one place ``across`` or through ``points``: whole, as dashes and dots tell a basis."""
    style = {"color": INK["soft"], "linewidth": 1, "gid": "as guide"}
    if across is not None:
        axes.axvline(across, **style)
    _plot(axes, points, style)


def join(axes: Axes, before: tuple[float, float], after: tuple[float, float]) -> None:
    """The line from what was predicted to what became of it."""
    _plot(axes, (before, after), {"color": INK["soft"], "linewidth": 2, "zorder": 3, "gid": "as join"})


def label(axes: Axes, said: Any, across: float, up: float, **style: Any) -> None:
    """A word above a point."""
    place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "zorder": 5}
    axes.annotate(brief(said, CUT), (across, up), **{**place, **style})


def by_ratios(axes: Axes, across: Iterable[float] = (), up: Iterable[float] = ()) -> None:
    """Axes on which equal ratios are equally far, which hold the figures that are above zero."""
    for axis, values in (("x", across), ("y", up)):
        if known := [value for value in values if value > 0]:
            room = 1.06 * (max(known) / min(known)) ** 0.06
            axes.set(**{f"{axis}scale": "log", f"{axis}lim": (min(known) / room, max(known) * room)})


def from_zero(axes: Axes, up: Iterable[float]) -> None:
    """Figures upwards, of which some are zero: by ratios where they are far apart, so that small ones can be told."""
    known = [value for value in up if value > 0]
    most = max(known, default=1.0)
    if known and most > FAR * min(known):
        axes.set_yscale("symlog", linthresh=min(known), linscale=0.5)
        most *= 2
    axes.set_ylim(0, 1.2 * most)


def tell_axes(axes: Axes, across: tuple[str, Callable[[float], str]], up: tuple[str, Callable[[float], str]]) -> None:
    """What either axis is of, and its figures in words: few and round ones."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    for axis, (_, tell) in ((axes.xaxis, across), (axes.yaxis, up)):
        if axis.get_scale() == "symlog":  # which has its own places
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _, tell=tell: tell(value))
            continue
        low, high = axis.get_view_interval()
        wide = axis.get_scale() == "log" and high > 10 * low
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)) if wide else MaxNLocator(5, steps=[1, 2, 5, 10])
        )
        axis.set_major_formatter(lambda value, _, tell=tell: tell(value))
    axes.set_xlabel(across[0])
    axes.annotate(up[0], (0, 1), (-LEFT, 10), ("axes fraction", "axes fraction"), "offset points", color=INK["soft"])
    axes.grid(True)
