"""Templates to pages: one file each, whose style and script are in it, and which may load nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import show
from edgesdk.core.kernels import TOO_SHORT, Kernel, Part
from edgesdk.core.wording import score

if TYPE_CHECKING:
    from jinja2 import Environment

Ends = tuple[float, float]
"""Of an interval."""
Document = Mapping[str, Any]
"""What a JSON file holds."""
NONE = "\N{EN DASH}"  # for what is not known
LONGEST, PROSE = 160, 500  # letters of a name, and of a note, before it is cut


def render(template: str, **values: Any) -> str:
    """The page that ``template`` makes of ``values``, all text in them escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("edgesdk.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = _text("page.js")
    made.globals |= {
        "style": Markup(_text("page.css")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "edgesdk_version": metadata.version("edgesdk"),
    }
    made.filters |= {
        "ms": milliseconds, "profiled": profiled, "interval": interval, "figure": figure, "score": _score,
        "percent": percent, "ends": tell_ends, "count": count,
        "brief": brief, "note": note, "words": words, "plain": plain, "digits": digits, "ratio": ratio,
    }  # fmt: skip
    return made


def _text(name: str) -> str:
    return (resources.files("edgesdk.pages") / "templates" / name).read_text("utf-8")


def milliseconds(value: float | None) -> str:
    """A latency, in microseconds where it is below one ms."""
    return NONE if value is None else show("latency_ms", value)


def profiled(value: float | None) -> str:
    """What a profiler told of a kernel, which counts microseconds."""
    return TOO_SHORT if value == 0 else milliseconds(value)


def interval(kernel: Kernel | Part) -> str:
    """Between what eight of ten runs of it lie, where the runtime tells that and counts so short a time."""
    low, high = kernel.low_ms, kernel.high_ms
    if low is None or not high:
        return NONE
    return f"{milliseconds(low)} to {milliseconds(high)}" if low else f"up to {milliseconds(high)}"


def figure(value: float | None, name: str) -> str:
    """``value`` of the field ``name`` as people read it."""
    if value is None:
        return NONE
    if name == "latency_ratio":
        return f"{value:.3g}x"
    return show(name, value)


def tell_ends(ends: Ends | None, name: str, tell: Callable[[float, str], str] = figure) -> str:
    """The 95 % interval of a figure of the field ``name`` in words, or that it has none."""
    if ends is None:
        return "no interval"
    low, high = (tell(end, name) for end in ends)
    return f"95 %: {low.removesuffix(' ' + high.rpartition(' ')[2])} to {high}"


def _score(value: float | None, sign: str = "") -> str:
    return NONE if value is None else score(value, sign)


def percent(share: float | None) -> str:
    """A share in per cent, to a digit more than would be zero."""
    return NONE if share is None else f"{100 * share:.3g} %"


def plain(value: float | None) -> str:
    """A figure as scripts read it; nothing where it is not known."""
    return "" if value is None else f"{value:.6g}"


def digits(value: float | None, most: int) -> str:
    """A figure without a unit, to so many digits."""
    return NONE if value is None else f"{value:.{most}g}"


def ratio(value: float | None) -> str:
    """How many times as much something is."""
    return NONE if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """A whole number with thin spaces between its thousands."""
    return NONE if value is None else f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def brief(text: Any, most: int = LONGEST) -> str:
    """``text``, cut where it is so long that a page of it would not be read."""
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[:most]}\N{HORIZONTAL ELLIPSIS}"


def note(text: Any) -> str:
    """The same of what is said in sentences."""
    return brief(text, PROSE)


def words(value: Any) -> str:
    """What a document says of a device in a line, what is not known left out."""
    if value is None or value in ([], {}, ()):
        return NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(part)}" for key, part in value.items() if part not in (None, [], {}, ()))
    if isinstance(value, (list, tuple)):
        return "; ".join(words(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
