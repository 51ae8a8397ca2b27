"""The command that says where a file leaves what was specified, and what quantization costs layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgesdk.cli.devices import DEVICES
from edgesdk.cli.frame import QUIET, told
from edgesdk.cli.names import PLACE_NAME
from edgesdk.cli.project import ModelCommand
from edgesdk.cli.streams import console, emit_json
from edgesdk.core.serialize import to_json
from edgesdk.pages.diff_page import list_verdict, mark_layer, tell_error

if TYPE_CHECKING:
    from edgesdk.workflows.diff import Diff


@click.command(cls=ModelCommand, only=("device",))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", help="The float model that it was made of, as for deploy.")
@click.option("--weights", type=click.Path(path_type=Path), help="Those of the model.")
@click.option("--data", help="Compare on its test samples, instead of the few that the bundle holds.")
@click.option("--device", **PLACE_NAME, multiple=True, help=f"{DEVICES}  [default: local]")
@click.option(
    "--overlays", type=click.Path(path_type=Path), help="A folder: what Netron and Model Explorer show on the graph."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def diff(as_json: bool, **options: Any) -> None:
    """Say for each layer of a bundle how far its file is from its simulation, and that from the float model.

    It names the first layer that leaves its specification, those that cost the most, and what to try. On several boards
    it says which layers they do not compute alike, and shows the board that is farthest off.
    """
    from edgesdk.devices.inventory import LOCAL
    from edgesdk.workflows.diff import diff as run

    compared = run(**{**options, "device": options["device"] or LOCAL})
    if as_json:
        emit_json(compared)
    else:
        show_diff(compared, console(), told(QUIET))


def show_diff(compared: Diff, out: Console, quiet: bool = False) -> None:
    """The verdict, a row per layer, and what to try."""
    document = to_json(compared)
    for line in list_verdict(document):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if quiet:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "alone", "file", "simulation", "clipped", ""):
        table.add_column(heading, justify="right" if heading not in ("layer", "") else "left", overflow="fold")
    for layer in document["layers"]:
        clipped = layer["clipped"]
        table.add_row(
            Text(layer["name"]), *(tell_error(layer[kind]) for kind in ("alone", "file", "simulation")),
            "-" if clipped is None else f"{100 * clipped:.2g} %", mark_layer(layer, document),
        )  # fmt: skip
    out.print(table)
    out.print(
        "signal to noise, and the largest difference in steps of the tensor's scale. alone: what the layer itself adds "
        f"in the file; file: from the simulation, with all before; simulation: from {compared.float_model}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for each in compared.advice:
        out.print(f"{each.layer}: {each.why}; {each.remedy}", highlight=False, markup=False, soft_wrap=True)
