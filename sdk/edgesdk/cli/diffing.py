"""The command that says where a file leaves what was specified, and what quantization costs layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesdk.cli.devices import DEVICE
from edgesdk.cli.frame import QUIET, Command, told
from edgesdk.cli.names import DEVICE_NAME
from edgesdk.cli.streams import console, emit_json
from edgesdk.core.wording import counted
from edgesdk.devices.inventory import LOCAL

if TYPE_CHECKING:
    from edgesdk.workflows.diff import Diff
    from edgesdk.workflows.layer_errors import Error, LayerDiff


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", help="The float model that it was made of, as for deploy.")
@click.option("--weights", type=click.Path(path_type=Path), help="Those of the model.")
@click.option("--data", help="Compare on its test samples, instead of the few that the bundle holds.")
@click.option("--device", **DEVICE_NAME, default="local", show_default=True, help=DEVICE)
@click.option(
    "--overlays", type=click.Path(path_type=Path), help="A folder: what Netron and Model Explorer show on the graph."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def diff(as_json: bool, **options: Any) -> None:
    """Say for each layer of a bundle how far its file is from its simulation, and that from the float model.

    It names the first layer that leaves its specification, those that cost the most, and what to try.
    """
    from edgesdk.workflows.diff import diff as run

    compared = run(**options)
    if as_json:
        emit_json(compared)
    else:
        show_diff(compared, console(), told(QUIET))


def show_diff(compared: Diff, out: Console, quiet: bool = False) -> None:
    """The verdict, a row per layer, and what to try."""
    for line in list_verdict(compared):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if quiet:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "alone", "file", "simulation", "clipped", ""):
        table.add_column(heading, justify="right" if heading not in ("layer", "") else "left", overflow="fold")
    for layer in compared.layers:
        table.add_row(
            Text(layer.name), _told(layer.alone), _told(layer.file), _told(layer.simulation),
            "-" if layer.clipped is None else f"{100 * layer.clipped:.2g} %", _mark(layer, compared),
        )  # fmt: skip
    out.print(table)
    out.print(
        "signal to noise, and the largest difference in steps of the tensor's scale. alone: what the layer itself adds "
        f"in the file; file: from the simulation, with all before; simulation: from {compared.float_model}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for each in compared.advice:
        out.print(f"{each.layer}: {each.why}; {each.remedy}", highlight=False, markup=False, soft_wrap=True)


def list_verdict(compared: Diff) -> list[str]:
    """What was compared, and what came out, in a line each."""
    seen = sum(layer.tensor is not None for layer in compared.layers)
    on = "" if compared.device == LOCAL else f" on {compared.device}"
    where = f"{compared.runtime} {compared.runtime_version}{on}, {counted(compared.samples, 'sample')}"
    lines = [f"{compared.bundle}: {where}, {seen} of {len(compared.layers)} layers seen"]
    if compared.first is not None:
        lines.append(f"{compared.first} is the first layer that leaves its specification")
    elif compared.holds:
        lines.append("every layer that was seen computes what was specified")
    else:
        lines.append(
            "no layer that was seen leaves its specification, but the outputs do: what the runtime fuses where nobody "
            "looks computes something else; deploy with another --runtime"
        )
    off = f"{compared.outputs:.2g} of their spread off the simulation's, {compared.tolerance:g} allowed"
    lines.append(f"the outputs are {off}" if compared.outputs else "the outputs are the simulation's")
    if compared.ends_apart:
        lines.append(
            "layers are seen in a copy of the file that shows what lies inside: the runtime fuses it otherwise, and "
            f"the outputs of the two are up to {compared.ends_apart:.2g} apart"
        )
    if compared.costliest:
        lines.append(f"most is lost in {', '.join(compared.costliest)}")
    return lines


def _told(error: Error | None) -> str:
    if error is None:
        return "-"
    if error.snr_db is None:
        return "equal"
    steps = "" if error.largest_steps is None else f", {error.largest_steps:.3g}"
    return f"{error.snr_db:.0f} dB{steps}"


def _mark(layer: LayerDiff, compared: Diff) -> str:
    if layer.leaves:
        return "not as specified"
    if layer.tensor is None:
        return "not seen"
    return f"costs most: {compared.costliest.index(layer.name) + 1}" if layer.name in compared.costliest else ""
