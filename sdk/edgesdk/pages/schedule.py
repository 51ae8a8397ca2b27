"""Memory over the schedule of the graph: what is held while each layer runs, dense beside deployed, by the account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from edgesdk.core.budget import PREDICTED
from edgesdk.pages.charts import draw, draw_steps, mark, tell_axes
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, count, figure

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LISTED = 100  # layers in the table: those that hold most
SIDES = {"dense": "dense_work", "deployed": "work"}  # the fields of a layer that say what it does
Bytes = Sequence["float | None"]


@dataclass(frozen=True)
class Held:
    """What is held while one layer runs, in bytes: outputs of layers and scratch; ``None`` of what is left out."""

    number: int
    name: str
    dense: float | None
    deployed: float | None
    peak: str


@dataclass(frozen=True)
class Schedule:
    """The section: a chart, the peak of either side with its layer, and a row for each layer."""

    chart: Markup
    peaks: Mapping[str, tuple[float, str]]
    rows: Rows

    @classmethod
    def of(cls, layers: Sequence[Document]) -> Schedule | None:
        """Of the ``layers`` of a report; ``None`` where they do not say what they hold."""
        held = {who: [_held(layer.get(field)) for layer in layers] for who, field in SIDES.items()}
        if not layers or any(all(each is None for each in side) for side in held.values()):
            return None
        at = {who: max(range(len(layers)), key=lambda place: side[place] or 0.0) for who, side in held.items()}
        peaks = {who: (held[who][place] or 0.0, layers[place]["name"]) for who, place in at.items()}
        rows = [
            Held(number + 1, layer["name"], dense, own, " and ".join(who for who in at if at[who] == number))
            for number, (layer, dense, own) in enumerate(zip(layers, *held.values(), strict=True))
        ]
        most = [f"{who} at most {_tell(peak)} at {name}" for who, (peak, name) in peaks.items()]
        said = f"Bytes held while each layer runs, in the order of the graph: {', '.join(most)}"
        chart = draw("memory-held", said, [(lambda axes: _draw(axes, held, at), 220.0)])
        return cls(chart, peaks, Rows.of_most(rows, LISTED, lambda row: max(row.dense or 0.0, row.deployed or 0.0)))


def _held(work: Document | None) -> float | None:
    return None if work is None else work["live_bytes"] + work["scratch_bytes"]


def _tell(held: float) -> str:
    return figure(held, "peak_memory_bytes")


def _draw(axes: Axes, held: Mapping[str, Bytes], peaks: Mapping[str, int]) -> None:
    """Each layer is as wide as any; what is left out takes no time, and holds what the layer before does."""
    for who, side in held.items():
        draw_steps(axes, list(accumulate(side, lambda before, each: before if each is None else each)), who)
        mark(axes, [(peaks[who] + 1, side[peaks[who]] or 0.0)], PREDICTED, who)
    axes.set_xlim(0.5, len(held["dense"]) + 0.5)
    axes.set_ylim(bottom=0)
    tell_axes(axes, ("layer", count), ("", _tell))
