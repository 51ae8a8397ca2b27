"""Commands that prepare a dense model before it is compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesdk.cli.frame import Commands
from edgesdk.cli.inputs import LOSS, pixels, preprocessing, shaped
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand
from edgesdk.cli.shared import free
from edgesdk.cli.streams import emit, emit_json
from edgesdk.core.wording import score

if TYPE_CHECKING:
    from edgesdk.workflows.prepare import Prepared


@click.group(cls=Commands)
def prepare() -> None:
    """Before compressing: a model that is easier to prune, has a new task, or is an ensemble.

    Each writes a folder that `edgesdk deploy OUT/model.py:model --data ...` takes.
    """


def preparation(command: Callable[..., None]) -> Callable[..., None]:
    """The options that the ways to prepare share."""
    for option in reversed([
        click.argument("model", required=False),
        click.option("--data", help=".npz with x and y, a folder with a sub-folder per class, or file.py:callable."),
        click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, a state dict, or a checkpoint."),
        pixels,
        shaped,
        click.option("--metric", default="top-1", show_default=True, help="top-1, mse, or file.py:callable."),
        click.option("--loss", help=LOSS),
        click.option("--epochs", type=click.FloatRange(0, min_open=True), default=8, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--out", type=click.Path(path_type=Path), default=Path("prepared"), show_default=True),
        click.option("--force", is_flag=True, help="Replace what is there; go on though the model is in doubt."),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    ]):  # fmt: skip
        command = option(command)
    return command


@prepare.command(cls=ModelCommand)
@preparation
@click.option("--on", default="gamma", show_default=True, help="gamma (of BatchNorms), channels, or file.py:callable.")
@click.option("--strength", type=float, default=0.01, show_default=True, help="Weight of the penalty beside the loss.")
def sparsify(as_json: bool, **options: Any) -> None:
    """Go on training with a penalty that drives channels to zero, so that pruning costs less accuracy.

    MODEL is file.py:callable, package.module:callable, an .onnx file, a .pt2, timm:NAME, or a folder that transformers
    saved; without it it is the built-in example.
    """
    free(options["out"], options["force"])
    preprocessing(options)
    with telling() as tell:
        from edgesdk.workflows.prepare import sparsify as run

        made = run(**options, tell=tell)
    _print(made, as_json)


@prepare.command(cls=ModelCommand)
@preparation
@click.option("--classes", type=int, required=True, help="Outputs of the new head.")
@click.option(
    "--frozen-epochs", type=click.FloatRange(0), show_default="2, or all if there are fewer", help="The head alone."
)
def transfer(as_json: bool, **options: Any) -> None:
    """Put a new head on the trained body of MODEL, and teach it the task of --data."""
    free(options["out"], options["force"])
    preprocessing(options)
    with telling() as tell:
        from edgesdk.workflows.prepare import transfer as run

        made = run(**options, tell=tell)
    _print(made, as_json)


@prepare.command(cls=ModelCommand)
@preparation
@click.option("--by", default="bagging", show_default=True, help="bagging, boosting or together.")
@click.option("--members", type=int, default=4, show_default=True)
@click.option("--anew", is_flag=True, help="Members begin with random weights, not as MODEL is.")
def ensemble(as_json: bool, **options: Any) -> None:
    """Train several copies of MODEL, each on a sample of the data: a stronger teacher, or a model to deploy."""
    free(options["out"], options["force"])
    preprocessing(options)
    with telling() as tell:
        from edgesdk.workflows.prepare import ensemble as run

        made = run(**options, tell=tell)
    _print(made, as_json)


def _print(made: Prepared, as_json: bool) -> None:
    """The figures of ``made``, and how to go on."""
    report = made.report
    if as_json:
        from edgesdk.bundle.documents import Preparation
        from edgesdk.cli.documents import Prepared as Document

        emit_json(Document(str(made.path), Preparation(**report)))
        return
    scores = ", ".join(f"{name} {score(figure)}" for name, figure in report["score"].items())
    emit(f"{report['metric']} on test data: {scores}")
    if "near_zero" in report:
        share, size = report["near_zero"], report["size"]
        emit(f"channels near zero: {100 * share['before']:.1f} % before, {100 * share['after']:.1f} % after")
        emit(f"{report['penalty']}: {size['before']:.4g} before, {size['after']:.4g} after")
    if "members" in report:
        emit(f"members: {', '.join(map(score, report['members']))}")
    for note in report["notes"]:
        emit(f"note: {note}")
    emit(f"go on with: edgesdk deploy {made.path / 'model.py'}:model --data ...")
