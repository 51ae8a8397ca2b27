"""The page of a comparison of layers: where a file leaves its simulation, and what that costs of the float model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.core.wording import counted
from edgesdk.pages.charts import INK, draw, guide, label, line, tell_axes
from edgesdk.pages.layers import MOST, Rows
from edgesdk.pages.render import Document, brief, count, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOCAL = "local"
DRAWN = {
    "simulation": "the simulation, from the float model",
    "file": "the file, from the simulation",
    "alone": "what the layer itself adds in the file",
}
"""The fields of a layer that say how far something is off, in words."""
STYLES: dict[str, dict[str, Any]] = {
    "simulation": {"color": INK["dense"]}, "file": {}, "alone": {"color": INK["soft"]},
}  # fmt: skip
"""How the line of each is drawn."""
OWN, MODEL = "the simulation without quantized activations", "the model"
"""What a document's ``float_model`` is: without and with ``--model``."""
APART = 5  # layers that are named of those that boards do not compute alike
LONGEST = 40  # letters of a layer's name in the chart


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
    known = [error["snr_db"] or 0.0 for layer in layers for kind in DRAWN if (error := layer[kind])]
    equal = 1.06 * max(known, default=0.0) or 1.0
    rows = [
        Shown(
            number, layer, [(tell_error(layer[kind]), _snr(layer[kind], equal)) for kind in reversed(DRAWN)],
            mark_layer(layer, compared),
        )
        for number, layer in enumerate(layers, 1)
    ]  # fmt: skip
    said = "Signal to noise of each layer in dB, in the order of the network"
    return render(
        "diff.html",
        title=f"Layers of {compared['bundle']}",
        compared=compared,
        verdict=verdict,
        kinds=DRAWN,
        chart=draw("errors", said, [(lambda axes: _draw(axes, layers, compared["first"], equal), 220.0)]),
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
    return [*lines, *_list_boards(compared), *_list_left_out(compared)]


def _list_left_out(compared: Document) -> list[str]:
    """What was not compared, where nobody gave the model, and how to."""
    if compared["float_model"] != OWN:
        return []
    command = shlex.join(["edgesdk", "diff", compared["bundle"], "--model"])
    return [
        "compared is the file with its specification; what that lost of your model's accuracy, by what was cut and by "
        f"weights in fewer bits, is not seen here, but with your model and its weights: {command} MODEL"
    ]


def _list_boards(compared: Document) -> list[str]:
    """Of a pool what each board computes, and what not all compute alike."""
    boards = compared.get("boards") or {}
    lines: list[str] = []
    for name, own in boards.items():
        shown = " (shown here)" if name == compared["farthest"] else ""
        left = f", from {own['first']} on" if own["first"] else ""
        held = "as specified" if own["holds"] else f"not as specified{left}"
        off = f"the outputs {own['outputs']:.2g} of their spread off the simulation's"
        lines.append(f"{name}{shown}: {own['runtime']} {own['runtime_version']}, {held}, {off}")
    if len(boards) > 1:
        apart = compared["apart"]
        listed = ", ".join(apart[:APART]) + (f" and {len(apart) - APART} more" if len(apart) > APART else "")
        lines.append(
            f"not alike on all boards: {listed}" if apart else "every layer is alike on all boards, to the bit"
        )
    return [*lines, *(compared.get("notes") or ())]


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


def _snr(error: Document | None, equal: float) -> float | None:
    """Signal to noise as what sorts: what is equal is above all else."""
    return None if error is None else equal if error["snr_db"] is None else error["snr_db"]


def _draw(axes: Axes, layers: Sequence[Document], first: str | None, equal: float) -> None:
    """A line through the layers that are known; ``first`` is that which leaves its specification."""
    axes.set(xlim=(0.5, len(layers) + 0.5), ylim=(0, equal))
    for kind, style in STYLES.items():
        known = [(place, snr) for place, layer in enumerate(layers, 1) if (snr := _snr(layer[kind], equal)) is not None]
        if known:
            line(axes, known, kind, clip_on=False, **style)
    for place, layer in enumerate(layers, 1):
        if layer["name"] == first:
            guide(axes, across=place)
            left = place > len(layers) / 2
            where = {"xycoords": ("data", "axes fraction"), "xytext": (0, 5), "ha": "right" if left else "left"}
            label(axes, brief(first, LONGEST), place, 1, **where)
    tell_axes(axes, ("layer", count), ("", lambda value: f"{value:.3g} dB"))
