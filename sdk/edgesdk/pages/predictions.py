"""What the search promised, beside what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import TYPE_CHECKING

from edgesdk.core.budget import MEASURED, PREDICTED
from edgesdk.core.kernels import Part, group_by_layers, read_profiles
from edgesdk.core.pairing import DEVIATIONS
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.core.wording import listed
from edgesdk.pages.charts import INK, by_ratios, draw, guide, mark, tell_axes
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, Ends, milliseconds
from edgesdk.pages.verdict import BOUNDS, LATENCY

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Promise:
    """The figure ``name`` as it was promised and as it was found, each with the ends of its 95 % interval where it has
    one."""

    label: str
    name: str
    predicted: float
    found: float
    predicted_ends: Ends | None
    found_ends: Ends | None

    @property
    def ratio(self) -> float:
        return self.found / self.predicted


def list_predictions(report: Document) -> list[Promise]:
    """What the search promised of the deployed file beside what was measured."""
    if report.get("measured") is None:
        return []
    rows: list[Promise] = []
    for name, label in BOUNDS.items():
        promised, found = report["predicted"].get(name), report["measured"].get(name)
        if promised and found:
            share = ", share of dense" if name == "latency_ratio" else ""
            ends = _ends(promised, report.get("predicted_error")) if name in LATENCY else None
            rows.append(Promise(f"{label}{share}", name, promised, found, ends, _measured_ends(name, found, report)))
    return rows


def _ends(middle: float, error: float | None) -> Ends | None:
    """The 95 % interval around ``middle``, of whose logarithm ``error`` is the standard error."""
    return None if error is None else (middle * exp(-DEVIATIONS * error), middle * exp(DEVIATIONS * error))


def _measured_ends(name: str, found: float, report: Document) -> Ends | None:
    """Of a latency in the undisturbed state, and of its share of the dense model's, as the run tells it."""
    deployed = report["deployed"]
    if name == "latency_ratio" and (ratio := (deployed.get("ratios") or {}).get(DENSE)):
        return ratio["low"], ratio["high"]
    quiet = deployed.get("undisturbed")
    return _ends(found, quiet["error"]) if name == "latency_ms" and quiet and quiet["ms"] == found else None


@dataclass(frozen=True)
class LayerPromise:
    """Layers that no kernel tells apart: what the search predicted of them all, and what the profiler measured."""

    who: str
    label: str
    note: str
    predicted: float | None
    part: Part

    @property
    def ms(self) -> float:
        return self.part.ms

    @property
    def ratio(self) -> float | None:
        return self.ms / self.predicted if self.predicted is not None and self.ms > 0 else None


@dataclass(frozen=True)
class LayerPromises:
    """The section: ``rows`` of the layers that take most, and the ``chart`` of those that have both figures."""

    rows: Rows
    chart: Markup | None

    @classmethod
    def of(cls, plan: Plan, report: Document, most: int) -> LayerPromises:
        """The layers of the deployed and of the dense file, as far as the runtime told what they took."""
        rows: list[LayerPromise] = []
        for who, profile in reversed(read_profiles(report).items()):
            prices = {layer.name: layer.latency_ms if who == "deployed" else layer.dense_ms for layer in plan.layers}
            for part in group_by_layers(profile.kernels):
                predicted = sum(prices.get(name) or 0.0 for name in part.layers) or None
                operators = listed(dict.fromkeys(kernel.operator for kernel in part.kernels))
                rows.append(
                    LayerPromise(who, " + ".join(part.layers) or "of no named layer", operators, predicted, part)
                )
        shown = Rows.of_most(rows, most, lambda row: row.ms)
        both = [row for row in shown.shown if row.ratio]
        said = "What each layer took, measured under the profiler, by what was predicted of it"
        return cls(shown, draw("promises", said, [(partial(_draw, rows=both), 320.0)]) if both else None)


def _draw(axes: Axes, rows: Sequence[LayerPromise]) -> None:
    """Both by ratios: on the line through the middle a layer took what was predicted."""
    points = [(row, row.predicted or 0.0, row.part.low_ms or row.ms, row.part.high_ms or row.ms) for row in rows]
    every = [time for row, *times in points for time in (row.ms, *times)]
    by_ratios(axes, every, every)
    ends = axes.get_xlim()
    guide(axes, points=[(end, end) for end in ends])
    for row, predicted, low, high in points:
        axes.plot([predicted] * 2, [low, high], color=INK[row.who], linewidth=1.2)
        mark(axes, [(predicted, row.ms)], MEASURED, row.who, markersize=7)
    tell_axes(axes, (PREDICTED, milliseconds), (MEASURED, milliseconds))
