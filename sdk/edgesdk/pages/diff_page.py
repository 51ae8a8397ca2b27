"""The page of a comparison of layers: where a file leaves its simulation, and what that costs of the float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.core.wording import counted
from edgesdk.pages.charts import Axis
from edgesdk.pages.layers import MOST, Rows
from edgesdk.pages.render import Document, render

LOCAL = "local"
DRAWN = {
    "simulation": "the simulation, from the float model",
    "file": "the file, from the simulation",
    "alone": "what the layer itself adds in the file",
}
"""The fields of a layer that say how far something is off, in words."""
STEPS = 400  # of a line, at most: of more layers the least of each few


@dataclass(frozen=True)
class Line:
    """Signal to noise over the layers, as SVG's points; ``kind`` is the field that it is of."""

    kind: str
    said: str
    points: str


@dataclass(frozen=True)
class Shown:
    """One layer: how far it is off, in dB and in steps, as text and as what sorts; ``mark`` is what is to be said."""

    number: int
    layer: Document
    errors: Sequence[tuple[str, float | None]]
    mark: str


def render_diff(compared: Document) -> str:
    """The page of the comparison that this document is."""
    layers: Sequence[Document] = compared["layers"]
    verdict = list_verdict(compared)
    axis = Axis.over(error["snr_db"] for layer in layers for kind in DRAWN if (error := layer[kind]))
    rows = [
        Shown(
            number, layer, [(tell_error(layer[kind]), _snr(layer[kind], axis)) for kind in reversed(DRAWN)],
            mark_layer(layer, compared),
        )
        for number, layer in enumerate(layers, 1)
    ]  # fmt: skip
    first = next((row.number for row in rows if row.layer["name"] == compared["first"]), None)
    return render(
        "diff.html",
        title=f"Layers of {compared['bundle']}",
        compared=compared,
        verdict=verdict,
        axis=axis,
        lines=[Line(kind, said, _draw(layers, kind, axis)) for kind, said in DRAWN.items()],
        first_at=None if first is None else round(100 * (first - 0.5) / len(rows), 2),
        rows=Rows.of_most(rows, MOST, lambda row: bool(row.mark)),
        advice=compared["advice"][:MOST],
    )


def list_verdict(compared: Document) -> list[str]:
    """What was compared, and what came out, in a line each."""
    layers = compared["layers"]
    seen = sum(layer["tensor"] is not None for layer in layers)
    on = "" if compared["device"] == LOCAL else f" on {compared['device']}"
    where = f"{compared['runtime']} {compared['runtime_version']}{on}, {counted(compared['samples'], 'sample')}"
    lines = [f"{compared['bundle']}: {where}, {seen} of {len(layers)} layers seen"]
    if compared["first"] is not None:
        lines.append(f"{compared['first']} is the first layer that leaves its specification")
    elif compared["holds"]:
        lines.append("every layer that was seen computes what was specified")
    else:
        lines.append(
            "no layer that was seen leaves its specification, but the outputs do: what the runtime fuses where nobody "
            "looks computes something else; deploy with another --runtime"
        )
    off = f"{compared['outputs']:.2g} of their spread off the simulation's, {compared['tolerance']:g} allowed"
    lines.append(f"the outputs are {off}" if compared["outputs"] else "the outputs are the simulation's")
    if compared["ends_apart"]:
        lines.append(
            "layers are seen in a copy of the file that shows what lies inside: the runtime fuses it otherwise, and "
            f"the outputs of the two are up to {compared['ends_apart']:.2g} apart"
        )
    if compared["costliest"]:
        lines.append(f"most is lost in {', '.join(compared['costliest'])}")
    return lines


def tell_error(error: Document | None) -> str:
    """How far something is off: signal to noise, and the largest difference in steps."""
    if error is None:
        return "-"
    if error["snr_db"] is None:
        return "equal"
    steps = "" if error["largest_steps"] is None else f", {error['largest_steps']:.3g}"
    return f"{error['snr_db']:.0f} dB{steps}"


def mark_layer(layer: Document, compared: Document) -> str:
    """What is to be said of a layer beside its figures."""
    if layer["leaves"]:
        return "not as specified"
    if layer["tensor"] is None:
        return "not seen"
    costliest = list(compared["costliest"])
    return f"costs most: {costliest.index(layer['name']) + 1}" if layer["name"] in costliest else ""


def _snr(error: Document | None, axis: Axis) -> float | None:
    """Signal to noise as what sorts: what is equal is above all else."""
    return None if error is None else axis.high if error["snr_db"] is None else error["snr_db"]


def _draw(layers: Sequence[Document], kind: str, axis: Axis) -> str:
    """A line through the layers that are known, the least of each few where they are many."""
    known = [(number, snr) for number, layer in enumerate(layers) if (snr := _snr(layer[kind], axis)) is not None]
    few = -(-len(known) // STEPS) or 1
    lowest = (min(known[first : first + few], key=lambda each: each[1]) for first in range(0, len(known), few))
    return " ".join(f"{100 * (number + 0.5) / len(layers):.2f},{100 - axis.place(snr):.2f}" for number, snr in lowest)
