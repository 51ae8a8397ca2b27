"""The command that shows what each millisecond costs, before anything is built."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesdk.cli.devices import DEVICES, lowered
from edgesdk.cli.frame import QUIET, VERBOSE, told
from edgesdk.cli.making import CLUSTER, JOBS, PICTURES, STEPS, TRAIN_ON, check_model, models_options
from edgesdk.cli.names import PLACE_NAME, TARGET, NewFile
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand, was_given
from edgesdk.cli.shared import check_place, free
from edgesdk.cli.streams import console, emit, emit_json
from edgesdk.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgesdk.workflows.sweep import Front

PROVED = "proved\nwithin"
MANY = 30  # points, from which those that no other beats are shown alone
LEGEND = (
    "* no other point of the same model and target beats it; proved within: by how much another plan at its latency "
    "can lose less, at these prices: as a share of its loss, or in the unit of that",
    "loss is how far the outputs move before anything is learnt back: it ranks plans, and is no score",
)


@click.command(cls=ModelCommand, apart=("latency",))
@click.argument("model", nargs=-1)
@click.option(
    "--target", **TARGET, multiple=True, help="The kind of device; may be repeated.  [default: the --device's own]"
)
@click.option("--device", **PLACE_NAME, multiple=True, help=f"Price and measure there: {lowered(DEVICES)}")
@click.option(
    "--runtime", multiple=True, default=("auto",), show_default=True, help="Of the targets'; may be repeated."
)
@click.option("--precision", multiple=True, help="Of layers: fp32 and what is named here alone.")
@click.option("--candidate", multiple=True, help="Further forms of layers, like cp: see techniques.md in docs.")
@click.option("--points", type=click.IntRange(1), default=8, show_default=True, help="Latencies for each of these.")
@click.option("--latency", multiple=True, help="Instead: 2ms or 0.5x; may be repeated, or 1ms,2ms.")
@click.option("--peak-memory", help="Upper bound on what every plan adds to the process, like 8MB.")
@click.option("--size", help="Upper bound on every plan's file, like 200kB.")
@models_options
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1,), help="May be repeated.  [default: 1]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=NewFile("front.json"), default="front.json", show_default=True)
@click.option("--csv", type=NewFile("front.csv"), help="Write the points there, too, without their plans.")
@click.option("--build", type=click.IntRange(0), default=0, help="Carry out so many for each target: its knees.")
@click.option("--out-dir", type=click.Path(path_type=Path), help="Of their bundles.  [default: --out without .json]")
@click.option("--epochs", type=click.FloatRange(0), help="Of each of them.  [default: 15; 12 for the example]")
@click.option("--recover", type=click.Path(path_type=Path), help="TOML, as for deploy.")
@TRAIN_ON
@JOBS
@CLUSTER
@click.option("--pictures/--no-pictures", default=True, show_default=True, help=f"Of each of them: {PICTURES.lower()}")
@click.option("--force", is_flag=True, help="Replace what is there; go on though board or model is in doubt.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def sweep(as_json: bool, out: Path, out_dir: Path | None, csv: Path | None, **options: Any) -> None:
    """The front: the most accurate plan at each of several latencies, with a proof, before anything is built.

    Several models, targets, runtimes and numbers of threads stand side by side. `edgesdk deploy --from front.json
    --point 5` carries a point out; --build 3 the three of each target where most is won, each to a bundle of its own.
    """
    from edgesdk.core.budget import BYTES, parse

    for name in ("peak_memory", "size"):
        text = options[name]
        options[name] = int(parse(text, BYTES, f"--{name.replace('_', '-')}")) if text else None
    options["latency"] = _split(options["latency"])
    for name in ("model", "weights"):
        options[name] = options[name] or None
    check_model(options)
    out = free(out, options["force"])
    for place in (out, csv):
        check_place(place)
    build, out_dir = options["build"], out.with_suffix("") if out_dir is None else out_dir
    for name in ("out-dir", "epochs", "recover", "train-on", "jobs", "cluster"):
        if not build and was_given(name.replace("-", "_")):
            raise UsageError(f"--{name} without --build", "give --build with how many points to carry out")
    with telling((*STEPS[:6], "searching", "building") if build else STEPS[:6]) as tell:
        tell("starting", None)
        from edgesdk.workflows.sweep import sweep as run

        front = run(**options, out_dir=out_dir, tell=tell)
    from edgesdk.core.serialize import write

    front.write(out)
    if csv is not None:
        write(csv, front.csv())
    if as_json:
        emit_json(front.relative_to(out.parent))
        return
    show_front(front, console(), told(QUIET), told(VERBOSE))
    shown = "" if told(QUIET) else f" (edgesdk report {shlex.quote(str(out))} --open shows it)"
    emit(f"front: {out}{shown}")


def _split(texts: Sequence[str]) -> list[str]:
    """The latencies that are asked for, each by itself."""
    if texts and was_given("points"):
        raise UsageError("--points beside --latency, which takes its place", "leave one of the two out")
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--latency {','.join(texts)!r} has a part that is empty", "write it like 1ms,2ms")
    return parts


def show_front(front: Front, console: Console, quiet: bool = False, verbose: bool = False) -> None:
    """A table for each target: of its best points alone where it is to be ``quiet``, or of many and not ``verbose``."""
    from rich.table import Table

    from edgesdk.core.budget import show
    from edgesdk.core.wording import counted

    best_alone = quiet or len(front.points) > MANY and not verbose
    several, threaded = len(front.models) > 1, any(point.threads > 1 for point in front.points)
    runs_on = "runtime,\nthreads" if threaded else "runtime"
    if several:
        _show_models(front, console)
    _show_sides(front, console)
    for model, target in dict.fromkeys((point.model, point.target) for point in front.points):
        title = f"{f'{model}, ' if several else ''}{target}: predicted at today's prices"
        table = Table(title=title, title_justify="left", box=None, collapse_padding=True, pad_edge=False)
        for heading in ("", runs_on, "plan", "latency", "of dense", "memory", "size", "loss", PROVED):
            words = heading in (runs_on, "plan", PROVED)
            table.add_column(heading, justify="left" if words else "right", no_wrap=True)
        for point in front.points:
            if (point.model, point.target) != (model, target) or best_alone and not point.best:
                continue
            cost, threads = point.predicted, f", {point.threads}" if threaded else ""
            figures = [show(name, getattr(cost, name)) for name in ("latency_ms", "peak_memory_bytes", "size_bytes")]
            table.add_row(
                f"{point.number}{'*' if point.best else ' '}", point.runtime + threads,
                point.kind if point.kind != "plan" else "", figures[0],
                f"{point.ratio:.2f}", *figures[1:], f"{point.loss:.2g}",
                point.plan.proof.within.removeprefix("a loss of ") if point.plan.proof.searched else "",
            )  # fmt: skip
        console.print(table)
    if any(point.built for point in front.points):
        _show_built(front, console)
    for where, why in front.refused.items():
        console.print(f"left out: {where}: {why}", highlight=False, soft_wrap=True)
    for note in front.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    beaten = sum(not point.best for point in front.points)
    if best_alone and beaten and not quiet:
        console.print(f"{counted(beaten, 'point')} that others beat: -v shows them, too", highlight=False)
    for said in LEGEND:
        console.print(said, highlight=False, soft_wrap=True)


def _show_models(front: Front, console: Console) -> None:
    """The models side by side: what each scores as it is, and from which latency to which it can be had."""
    from rich.table import Table

    from edgesdk.core.budget import show
    from edgesdk.core.serialize import to_json
    from edgesdk.core.wording import score
    from edgesdk.pages.front_page import compare_models

    table = Table(title="models", title_justify="left", box=None, collapse_padding=True, pad_edge=False)
    for heading in ("", "target", "score", "dense", "fastest", "loss"):
        table.add_column(heading, justify="left" if heading in ("", "target") else "right")
    for row in compare_models(to_json(front)):
        table.add_row(
            row.model, row.target, "" if row.dense_score is None else score(row.dense_score),
            "" if row.dense_ms is None else show("latency_ms", row.dense_ms), show("latency_ms", row.fastest_ms),
            f"{row.fastest_loss:.2g}",
        )  # fmt: skip
    console.print(table)


def _show_sides(front: Front, console: Console) -> None:
    """What each model reaches on each target, by shares of its dense latency there, where there are several."""
    from rich.table import Table

    from edgesdk.core.budget import show
    from edgesdk.core.serialize import to_json
    from edgesdk.pages.front_page import compare_places

    sides = compare_places(to_json(front))
    if sides is None:
        return
    title = "best point within a share of the dense model's latency: latency (loss)"
    console.print(title, style="table.title", highlight=False, soft_wrap=True)
    table = Table(box=None, collapse_padding=True, pad_edge=False)
    for heading in ("of dense", *sides.names):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_row("dense", *("-" if ms is None else show("latency_ms", ms) for ms in sides.dense_ms))
    for share, points in sides.rows:
        reached = (
            f"{show('latency_ms', point['predicted']['latency_ms'])} ({point['loss']:.2g})" if point else "-"
            for point in points
        )
        table.add_row(f"{share:g}", *reached)
    console.print(table)


def _show_built(front: Front, console: Console) -> None:
    """What was built: as its point promised it, and as it was found."""
    from rich.table import Table

    from edgesdk.core.budget import show
    from edgesdk.core.wording import score

    table = Table(title="built", title_justify="left", box=None, collapse_padding=True, pad_edge=False)
    for heading in ("", "predicted", "found", "", "of dense", "score", "dense's", "bundle"):
        table.add_column(heading, justify="left" if heading in ("", "bundle") else "right", no_wrap=heading != "bundle")
    for point in front.points:
        if (built := point.built) is None:
            continue
        share = built.cost.latency_ratio
        table.add_row(
            str(point.number), show("latency_ms", point.predicted.latency_ms),
            show("latency_ms", built.cost.latency_ms), built.cost.basis, "" if share is None else f"{share:.2f}",
            score(built.score), score(built.dense_score), built.bundle,
        )  # fmt: skip
    console.print(table)
