"""Commands that make something of a model: a bundle, a plan, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesdk.cli.devices import CANARY, DEVICES, DLA, lowered
from edgesdk.cli.frame import QUIET, VERBOSE, told
from edgesdk.cli.inputs import judging, pixels, preprocessing, shaped
from edgesdk.cli.names import PLACE_NAME, TARGET, NewFile
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand, was_given
from edgesdk.cli.shared import check_place, free
from edgesdk.cli.streams import console, emit, emit_json
from edgesdk.core.errors import UsageError

if TYPE_CHECKING:
    from edgesdk.core.budget import Budget
    from edgesdk.pipeline.deadline import Deadline


STEPS = (
    "judging the dense model", "tracing", "pricing whole layers",
    ("measuring the dense model", "predicting the dense model"), "pricing fewer channels", "measuring sensitivity",
    "searching", "trying finalists", "recovering", ("exporting and", "profiling layers"),
)  # fmt: skip
"""How the stages of a deployment begin, in order; the first seven are those of a search."""
PICTURES = "Thumbnails in the report of test samples whose answer changed."
WEIGHTS: dict[str, Any] = {"type": click.Path(path_type=Path)}
TRIES = "Plans tried whole, untrained: what these lose corrects prices in accuracy."
TRAIN_ON = click.option(
    "--train-on", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps: where recovery learns."
)
JOBS = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes in which networks learn at once."
)
CLUSTER = click.option("--cluster", help="Let them learn on its nodes, by Ray: local, or ray://HOST:PORT.")
FORMS = "Safetensors, a state dict, or a checkpoint"


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """What a model is read with and judged by."""
    return _reading(command, click.option("--weights", **WEIGHTS, help=f"{FORMS}."))


def models_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same of several models."""
    return _reading(command, click.option("--weights", **WEIGHTS, multiple=True, help=f"{FORMS}; one for each MODEL."))


def _reading(command: Callable[..., None], weights: Callable[..., Any]) -> Callable[..., None]:
    for option in reversed([
        click.option("--data", help=".npz with x and y, a folder with a sub-folder per class, or file.py:callable."),
        weights,
        judging,
        pixels,
        shaped,
    ]):  # fmt: skip
        command = option(command)
    return command


def deployment(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that ``deploy`` and ``search`` share."""
    for option in reversed([
        click.argument("model", required=False),
        click.option(
            "--target", **TARGET, help="The kind of device: see `edgesdk targets`.  [default: the --device's own]"
        ),
        click.option("--device", **PLACE_NAME, multiple=True, help=f"Price and measure there: {lowered(DEVICES)}"),
        click.option("--runtime", help="One of the target's, or auto for the best of all.  [default: its first]"),
        click.option("--dla", type=click.IntRange(0), help=DLA),
        click.option("--precision", multiple=True, help="Of layers, beside fp32.  [default: all of the target's]"),
        click.option("--candidate", multiple=True, help="Further forms of layers, like cp: see techniques.md in docs."),
        model_options,
        click.option("--latency", help="Upper bound: 2ms, or 0.5x of the dense model."),
        click.option("--percentile", type=float, help="Of all runs, that it bounds.  [default: the undisturbed state]"),
        click.option("--peak-memory", help="Upper bound on what the model adds to the process, like 8MB."),
        click.option("--size", help="Upper bound on the model file, like 200kB."),
        click.option("--energy", help="Upper bound on a run beyond idle, like 5mJ: of a device with a meter."),
        click.option("--max-drop", type=float, help="Upper bound on the drop of the metric, in points."),
        click.option("--accuracy", type=float, help="Lower bound on the metric itself, like 91.5."),
        click.option("--time", help="Of the whole run, like 10min: planned within, it ends with the best so far."),
        click.option("--tries", type=click.IntRange(0), default=0, show_default=True, help=TRIES),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--force", is_flag=True, help="Replace what is there; go on though board or model is in doubt."),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    ]):  # fmt: skip
        command = option(command)
    return command


def read_budget(options: dict[str, Any]) -> Budget | None:
    """The budget that ``options`` say, taken out of them; ``None`` where they bound nothing. Raises ``UsageError``."""
    from edgesdk.core.budget import BYTES, ENERGY, Budget, parse, parse_latency

    latency, memory, size = (options.pop(name) for name in ("latency", "peak_memory", "size"))
    drop, percentile, score, energy = (options.pop(name) for name in ("max_drop", "percentile", "accuracy", "energy"))
    if all(bound is None for bound in (latency, memory, size, drop, score, energy)):
        return None if percentile is None else Budget(percentile=percentile)
    return Budget(
        peak_memory_bytes=parse(memory, BYTES, "--peak-memory") if memory else None,
        size_bytes=parse(size, BYTES, "--size") if size else None,
        energy_mj=parse(energy, ENERGY, "--energy") if energy else None,
        max_drop=drop,
        percentile=percentile,
        accuracy=score,
        **(parse_latency(latency) if latency else {}),
    )


def check_model(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is wrong on its face before anything slow is imported; one target, or several."""
    from edgesdk.core.cache import check_cache
    from edgesdk.core.target import target
    from edgesdk.devices.pools import find_place
    from edgesdk.pipeline.deadline import Deadline

    check_cache()
    if options.get("time") is not None:
        options["time"] = Deadline.of(options["time"])  # from here on: imports take seconds, too
    given = options["device"]
    options["device"] = None
    if given:
        place = find_place(given)
        options |= {"device": place, "target": options["target"] or place.target}
    if not options["target"]:
        raise UsageError("no target", "give --target, or a --device of the inventory that has one")
    for name in (options["target"],) if isinstance(options["target"], str) else options["target"]:
        target(name)
    _whole(options)
    budget: Budget | None = options.get("budget")
    if budget is not None and budget.energy_mj is not None:
        from edgesdk.workflows.where import Where

        at = Where.named(options["target"], options["runtime"], options["threads"], options["device"])
        at.check_budget(budget)
    return options


def _seconds(deadline: Deadline | None) -> float | None:
    return None if deadline is None else deadline.seconds


def _take_point(options: dict[str, Any], front: Path | None, number: int | None) -> None:
    """Let a point of a front say what it decides: where it runs, and the latency that it promises."""
    if (front is None) != (number is None):
        raise UsageError("--from without --point" if number is None else "--point without --from", "give both")
    if front is None or number is None:
        return
    from edgesdk.workflows.front import Front

    options["point"] = point = Front.read(front).point(number)
    for name in ("target", "runtime", "latency"):
        if was_given(name):
            raise UsageError(f"--{name} beside --point, which says it", "leave one of the two out")
    if not was_given("device"):
        options["device"] = None
    options |= {"target": point.target, "runtime": point.runtime, "threads": point.threads, "latency": None}


def _whole(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse a model without data, and weights without a model."""
    if options["model"] is None and options["weights"] is not None:
        raise UsageError("--weights without a MODEL", "name the model that they belong to")
    if options["model"] is not None and options["data"] is None:
        named = options["model"] if isinstance(options["model"], str) else ", ".join(options["model"])
        raise UsageError(f"no data for {named}", "give --data")
    return preprocessing(options)


@click.command(cls=ModelCommand)
@deployment
@click.option("--epochs", type=click.FloatRange(0), help="Of all training together.  [default: 15; 12 for the example]")
@click.option(
    "--recover",
    type=click.Path(path_type=Path),
    help="TOML: teachers, losses and pace of recovery.  [default: the dense model teaches]",
)
@TRAIN_ON
@JOBS
@CLUSTER
@click.option("--install-root", help="The folder on the device.  [default: the inventory's, else ~/edgesdk/NAME]")
@click.option("--canary", type=click.IntRange(1), help=CANARY)
@click.option("--sign", type=click.Path(path_type=Path), help="Private key to sign the bundle with, a PEM file.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bundle"), show_default=True)
@click.option("--from", "front", type=click.Path(path_type=Path), help="A front of `edgesdk sweep`.")
@click.option("--point", type=int, help="Of the front: its target, runtime and threads, its latency as the budget.")
@click.option("--track", help="Keep a run of it, too: mlflow:URI or tensorboard:FOLDER.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help=PICTURES)
def deploy(as_json: bool, front: Path | None, point: int | None, **options: Any) -> int:
    """Search, compress, recover, export, measure, and pack a bundle that keeps the budget.

    With --device all is priced and measured there, and the bundle is installed there, checked, and switched to. On
    several boards the slowest counts, and it is installed first on --canary of them, then on the others; where one
    fails, those that were switched go back, and the exit code is that of the failure.

    MODEL is file.py:callable, package.module:callable, an .onnx file, a .pt2 of torch.export.save, timm:NAME, or a
    folder that transformers saved; without it it is the built-in example. Without a budget it is half of the dense
    model's latency where that is measured, and a drop of one point where the target is predicted,
    or half is out of reach.
    """
    _take_point(options, front, point)
    options["budget"] = read_budget(options)
    check_model(options)
    out = free(options.pop("out"), options["force"])
    with telling(STEPS, _seconds(options["time"])) as tell:
        tell("starting", None)
        from edgesdk.workflows.deploy import deploy as run

        bundle = run(**options, out=out, tell=tell)
    if as_json:
        from edgesdk.cli.documents import Deployed

        emit_json(Deployed.of(bundle))
    else:
        from edgesdk.cli.show import show_bundle

        show_bundle(bundle, console(), told(QUIET), told(VERBOSE))
    return 0 if bundle.rollout is None else bundle.rollout.exit_code


@click.command(cls=ModelCommand)
@deployment
@click.option("--out", type=NewFile("plan.json"), default="plan.json", show_default=True)
def search(as_json: bool, force: bool, **options: Any) -> None:
    """The plan alone (plan.json, or --out): no training, no bundle."""
    options["budget"] = read_budget(options)
    check_model(options)
    out = free(options.pop("out"), force)
    check_place(out)
    with telling(STEPS[:7], _seconds(options["time"])) as tell:
        tell("starting", None)
        from edgesdk.workflows.deploy import search as run

        plan = run(**options, force=force, tell=tell)
    from edgesdk.core.serialize import dumps, write

    write(out, dumps(plan))
    if as_json:
        emit_json(plan)
    else:
        from edgesdk.cli.show import show_search

        show_search(plan, console(), told(QUIET), told(VERBOSE))
        emit(f"plan: {out}")


@click.command(cls=ModelCommand)
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("model", required=False)
@click.option("--format", multiple=True, help="onnx, openvino, tflite or all; may be repeated.  [default: all]")
@click.option("--target", **TARGET, help="Refuse a plan that was made for another target.")
@click.option("--data", help="As for deploy: it gives the ranges of integer layers.")
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, a state dict, or a checkpoint.")
@judging
@pixels
@shaped
@click.option("--epochs", type=click.FloatRange(0), default=0, show_default=True, help="Epochs of recovery.")
@TRAIN_ON
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("exported"), show_default=True)
@click.option("--force", is_flag=True, help="Replace what is there; go on though the model is in doubt.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(as_json: bool, **options: Any) -> None:
    """Apply PLAN (plan.json) to MODEL, and write it in one format or in all that can hold it: the same model.

    Without MODEL it takes the built-in example. Each file is compared with the simulation in PyTorch.
    """
    _whole(options)
    free(options["out"], options["force"])
    with telling() as tell:
        from edgesdk.workflows.export import export_plan

        exported = export_plan(**options, tell=tell)
    if as_json:
        emit_json(exported)
    else:
        from edgesdk.cli.show import show_exports

        show_exports(exported, console())
