"""The command that makes a model in stages, with early exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgesdk.cli.devices import DEVICES, lowered
from edgesdk.cli.inputs import pixels, preprocessing, shaped
from edgesdk.cli.names import PLACE_NAME, TARGET
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand
from edgesdk.cli.shared import free
from edgesdk.cli.streams import console, emit_json
from edgesdk.core.errors import UsageError


@click.command(cls=ModelCommand)
@click.argument("model", required=False)
@click.option(
    "--target", **TARGET, help="The kind of device: see `edgesdk targets`.  [default: the --device's own, else x86]"
)
@click.option("--device", **PLACE_NAME, multiple=True, help=f"Measure there: {lowered(DEVICES)}")
@click.option("--data", help="As for deploy: its training part fits the exits, what is held out sets the thresholds.")
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, a state dict, or a checkpoint.")
@pixels
@shaped
@click.option("--exits", type=int, default=1, show_default=True, help="Exits before the last stage.")
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Points of accuracy, on held-out data.")
@click.option("--confidence", default="entropy", show_default=True, help="Of an exit's answer: entropy or maximum.")
@click.option("--runtime", help="One of the target's.  [default: its first that stages are written for]")
@click.option("--precision", default="fp32", show_default=True, help="fp32, or int8 for every layer that can be.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("stages"), show_default=True)
@click.option("--force", is_flag=True, help="Replace what is there; go on though board or model is in doubt.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def stages(as_json: bool, **options: Any) -> None:
    """Write MODEL, a classifier, with early exits, a file per stage: a sample stops at the first exit that is sure.

    Without MODEL it takes the built-in example. The folder has stages.json with thresholds, shares, what each stage
    takes, and what a sample is expected to.
    """
    if options["model"] is None and options["weights"] is not None:
        raise UsageError("--weights without a MODEL", "name the model that they belong to")
    if options["model"] is not None and options["data"] is None:
        raise UsageError(f"no data for {options['model']}", "give --data")
    given, options["device"] = options["device"], None
    if given:
        from edgesdk.devices.pools import find_place

        options["device"] = find_place(given)
        options["target"] = options["target"] or options["device"].target
    options["target"] = options["target"] or "x86"
    free(options["out"], options["force"])
    preprocessing(options)
    with telling() as tell:
        from edgesdk.workflows.stages import stages as run

        result = run(**options, tell=tell)
    if as_json:
        emit_json(result)
    else:
        from edgesdk.cli.show import show_stages

        show_stages(result, console())
