"""The loss of a training over its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import MEASURED
from edgesdk.pages.charts import INK, draw, label, line, tell_axes
from edgesdk.pages.render import digits

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """The chart of a recovery, with the loss at its start and at its end."""

    first: float
    last: float
    chart: Markup

    @classmethod
    def of(cls, steps: Sequence[Mapping[str, Any]]) -> Curve | None:
        """The chart of those of ``steps`` that have a ``loss`` at an ``epoch``; ``None`` for fewer than two."""
        points = [step for step in steps if step.get("loss") is not None and step.get("epoch") is not None]
        if len(points) < 2:
            return None
        said = "The loss of recovery over its epochs"
        drawn = draw("recovery", said, [(lambda axes: _draw(axes, points), 200.0)])
        return cls(float(points[0]["loss"]), float(points[-1]["loss"]), drawn)


def _draw(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    for place, part in enumerate(dict.fromkeys(str(point.get("part")) for point in points)):
        own = [point for point in points if str(point.get("part")) == part]
        epochs, losses = ([point[name] for point in own] for name in ("epoch", "loss"))
        line(axes, list(zip(epochs, losses, strict=True)), MEASURED, **({"color": INK["soft"]} if place else {}))
        label(axes, part, epochs[len(epochs) // 2], max(losses), fontweight="bold")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.15 * max(point["loss"] for point in points) or 1.0)
    tell_axes(axes, ("epochs", lambda value: digits(value, 3)), ("", lambda value: digits(value, 3)))
