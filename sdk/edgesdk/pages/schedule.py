"""Memory over the schedule of the graph: what is held while each layer runs, dense beside deployed, by the account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgesdk.pages.charts import Axis
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document

LISTED = 100  # layers in the table: those that hold most
DRAWN = 300  # steps of a line, at most: of more layers the most of each few
SIDES = {"dense": "dense_work", "deployed": "work"}  # the fields of a layer that say what it does


@dataclass(frozen=True)
class Side:
    """The dense or the deployed model: a line over the layers, with its peak, the place of that, and at which layer."""

    who: str
    line: str
    peak_bytes: float
    layer: str
    across: float
    up: float


@dataclass(frozen=True)
class Held:
    """What is held while one layer runs, in bytes: outputs of layers and scratch; ``None`` of what is left out."""

    number: int
    name: str
    dense: float | None
    deployed: float | None
    dense_at: float
    own_at: float
    peak: str


@dataclass(frozen=True)
class Schedule:
    """The section: two lines on one axis, and a row for each layer."""

    sides: Sequence[Side]
    axis: Axis
    rows: Rows

    @classmethod
    def of(cls, layers: Sequence[Document]) -> Schedule | None:
        """Of the ``layers`` of a report; ``None`` where they do not say what they hold."""
        held = {who: [_held(layer.get(field)) for layer in layers] for who, field in SIDES.items()}
        if not layers or any(all(each is None for each in side) for side in held.values()):
            return None
        axis = Axis.over([each for side in held.values() for each in side])
        sides = [_side(who, every, layers, axis) for who, every in held.items()]
        rows = [
            Held(
                number + 1, layer["name"], dense, own, axis.place(dense or 0.0), axis.place(own or 0.0),
                " and ".join(side.who for side in sides if side.layer == layer["name"]),
            )
            for number, (layer, dense, own) in enumerate(zip(layers, *held.values(), strict=True))
        ]  # fmt: skip
        return cls(sides, axis, Rows.of_most(rows, LISTED, lambda row: max(row.dense or 0.0, row.deployed or 0.0)))


def _held(work: Document | None) -> float | None:
    return None if work is None else work["live_bytes"] + work["scratch_bytes"]


def _side(who: str, held: Sequence[float | None], layers: Sequence[Document], axis: Axis) -> Side:
    """One line: each layer is as wide as any; what is left out takes no time, and holds what the layer before does."""
    filled = list(accumulate(held, lambda before, each: before if each is None else each))
    each = -(-len(held) // DRAWN)
    corners: list[str] = []
    for first in range(0, len(held), each):
        up = 100 - axis.place(max(step or 0.0 for step in filled[first : first + each]))
        corners += [f"{100 * at / len(held):.2f},{up:.2f}" for at in (first, min(first + each, len(held)))]
    peak = max(each for each in held if each is not None)
    at = held.index(peak)
    across = round(100 * (at + 0.5) / len(held), 2)
    return Side(who, " ".join(corners), peak, layers[at]["name"], across, axis.place(peak))
