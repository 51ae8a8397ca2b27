"""Commands that tell something: of a file, of a target, of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgesdk.cli.devices import DEVICES, DLA
from edgesdk.cli.frame import QUIET, Command, told
from edgesdk.cli.inputs import inputs, shaped
from edgesdk.cli.names import PLACE_NAME, TARGET, TARGET_OR_ALL
from edgesdk.cli.progress import telling
from edgesdk.cli.project import ModelCommand
from edgesdk.cli.streams import console, emit, emit_json
from edgesdk.core.errors import UsageError


@click.command(cls=ModelCommand, only=("device",))
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", **PLACE_NAME, multiple=True, help=f"{DEVICES}  [default: local]")
@click.option("--runtime", help="What is to run it.  [default: the one that such files are for]")
@click.option("--dla", type=click.IntRange(0), help=DLA)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--mode", type=click.Choice(["brief", "rapid", "quick", "full", "sustained"]), default="quick", show_default=True
)
@shaped
@click.option("--per-layer", is_flag=True, help="Which kernels ran for each layer, by the runtime's own profiler.")
@click.option(
    "--energy", is_flag=True, help="mJ of a run beyond idle, by the device's own meter: RAPL, INA3221, hwmon."
)
@click.option("--meter", help="Energy by another: a command that prints watts, or a .csv with time and watts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, raw samples included.")
def benchmark(paths: tuple[Path, ...], device: tuple[str, ...], mode: str, as_json: bool, **options: Any) -> None:
    """Measure bundles or model files (.onnx, .xml, .tflite), here or on a device.

    What names a model otherwise (file.py:callable, package.module:callable, a .pt2, timm:NAME, a folder of
    transformers) is exported as it is. Several are measured in one run, their blocks taking turns, so that the ratios
    between them hold. Several boards are measured side by side, and the slowest counts.
    """
    with telling() as tell:
        from edgesdk.devices.inventory import LOCAL
        from edgesdk.workflows.benchmark import benchmark as run

        options["shapes"] = inputs(options["shapes"])
        tell(f"measuring {', '.join(map(str, paths))} ({mode})", None)
        measured = run(paths, mode=mode, device=device or LOCAL, **options, tell=tell)
    if as_json:
        emit_json(measured)
        return
    from edgesdk.cli.show_measured import show_boards, show_latency, show_profile, show_ratios, show_report

    show_boards(measured, console())
    for report in measured.reports:
        (show_latency if told(QUIET) else show_report)(report, console())
        if report.name in measured.profiles:
            show_profile(report.name, measured.profiles[report.name], console())
    show_ratios(measured.reports, console())


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="Public key that it must be signed with.")
@click.option("--model", help="file.py:callable or package.module:callable of the model that it was made of.")
@click.option("--weights", type=click.Path(path_type=Path), help="Those of the model.")
@click.option("--data", help="Judge on its test samples, instead of the few that the bundle holds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(as_json: bool, **options: Any) -> None:
    """Check a bundle: digests, versions, its outputs on the recorded sample, and with --key its signature.

    With --model it is checked that this is the model that the bundle was made of, by what that answered to the sample,
    and the bundle's outputs are compared with the model's.
    """
    from edgesdk.workflows.verify import verify as run

    result = run(**options)
    if as_json:
        emit_json(result)
        return
    emit(f"{result.path}: valid, {result.files} files as recorded{', signed by that key' if result.signed else ''}")
    if told(QUIET):
        return
    if result.runtime is not None:
        made = "predicted: it was not run on its target" if result.runtime.recorded is None else "made with "
        emit(f"runtime: {result.runtime.here} here; the bundle was {made}{result.runtime.recorded or ''}")
    for name, error in result.sample_error.items():
        emit(f"{name}: differs from the recorded sample by {error:.2g} of its spread")
    if (own := result.against_model) is not None:
        for name, error in own.errors.items():
            saw = own.deployment_saw_by_output[name]
            emit(
                f"{name}: differs from the model by {error:.2g} of its spread, over {own.samples} samples; "
                f"the deployment saw {saw:.2g}"
            )
        for name, error in own.model_errors.items():
            emit(f"{name}: the model differs from what the bundle records of it by {error:.2g} of its spread")
        for note in own.notes:
            emit(f"note: {note}")


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(), help="The file, or its folder.  [default: beside PATH, its name with .html]")
@click.option("--open", "opens", is_flag=True, help="Show it in the browser, too.")
@click.option("--force", is_flag=True, help="Replace what is there.")
def report(path: Path, out: str | None, opens: bool, force: bool) -> None:
    """A bundle, a front, a benchmark or a diff (JSON) as a page to look at: one file of HTML, which loads nothing.

    A bundle has such a page in it, report.html, from when it was made.
    """
    import webbrowser

    from edgesdk.workflows.report import report as run

    place = run(path, out, force=force)
    emit(f"page: {place}")
    if opens and not webbrowser.open(place.resolve().as_uri()):
        click.echo("edgesdk: no browser was found: open the file yourself", err=True)


@click.command(cls=ModelCommand)
@click.argument("model")
@click.option("--target", **TARGET_OR_ALL, required=True, help="The device: see `edgesdk targets`; or all of them.")
@shaped
@click.option("--runtime", help="Without it, the first of the target's that has prices, with all each of them.")
@click.option("--precision", help="fp32, fp16 or int8, of every layer. Without it, an ONNX file as it is.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--power-mode", help="One of the board's, like 15W: see `edgesdk targets NAME`.")
@click.option("--clock", "clock_ghz", type=float, metavar="GHZ", help="Another clock of the runtime's processor.")
@click.option("--per-layer", is_flag=True, help="What each layer takes of it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def estimate(model: str, shapes: tuple[str, ...], per_layer: bool, as_json: bool, **options: Any) -> None:
    """What MODEL will cost on a target, from its profile: no board, no weights, no data.

    MODEL is an .onnx file, a .pt2 of torch.export.save, file.py:callable, package.module:callable, timm:NAME, or a
    folder that transformers saved.
    """
    from edgesdk.core.target import ALL, target

    if options["target"].strip().lower() == ALL:
        if per_layer:
            raise UsageError("--per-layer of all targets", "name one with --target")
        for name, flag in (("power_mode", "--power-mode"), ("clock_ghz", "--clock")):
            if options.pop(name) is not None:
                raise UsageError(f"{flag} of all targets", "name one with --target")
        del options["target"]
        _estimate_all(model, inputs(shapes), as_json, **options)
        return
    measured = target(options["target"]).measured
    sizes = inputs(shapes)
    from edgesdk.workflows.estimate import estimate as run

    if measured:
        with telling() as tell:
            estimated = run(model, sizes, **options, tell=tell)
    else:
        estimated = run(model, sizes, **options)
    if as_json:
        emit_json(estimated if per_layer else replace(estimated, layers=()))
    else:
        from edgesdk.cli.show_targets import show_estimate

        show_estimate(estimated, per_layer, console())


def _estimate_all(model: str, sizes: Any, as_json: bool, **options: Any) -> None:
    from edgesdk.devices.estimate import estimate_all as run

    estimates = run(model, sizes, **options)
    if as_json:
        emit_json(replace(estimates, estimates=tuple(replace(cost, layers=()) for cost in estimates.estimates)))
    else:
        from edgesdk.cli.show_targets import show_estimates

        show_estimates(estimates, console(soft_wrap=True))


@click.command(cls=Command)
@click.argument("name", required=False, **TARGET)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def targets(name: str | None, as_json: bool) -> None:
    """Every target, its runtimes and precisions with the error of each; or all that is known of one, with sources."""
    from edgesdk.core.target import target
    from edgesdk.core.target import targets as every
    from edgesdk.price.profile import profile

    profiles = [profile(target(name))] if name else [profile(entry) for entry in every().values()]
    if as_json:
        from edgesdk.cli.documents import Targets

        emit_json(Targets.of(profiles))
        return
    from edgesdk.cli.show_targets import show_target, show_targets

    if name:
        show_target(profiles[0], console(soft_wrap=True))
    else:
        show_targets(profiles, console(soft_wrap=True))


@click.command(cls=ModelCommand, only=("device",))
@click.argument("name")
@click.option("--base", **TARGET, help="A target whose profile is shifted to the board's measurements.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="What is timed.")
@click.option("--measurements", type=click.Path(path_type=Path), help="CSV: model, runtime, precision, threads, ms.")
@click.option("--device", **PLACE_NAME, multiple=True, help=f"{DEVICES}  [default: local]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Replace a profile that you made; go on though boards differ.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(name: str, as_json: bool, **options: Any) -> None:
    """Make a profile NAME: of this machine or a device, by timing operators; or from figures measured on a board.

    Several boards that are alike share the operators; the profile is that of the slowest, and says how far others are.
    """
    from edgesdk.core.cache import check_cache

    check_cache()
    with telling() as tell:
        tell("starting", None)
        from edgesdk.devices.inventory import LOCAL
        from edgesdk.workflows.calibrate import calibrate as run

        options["device"] = options["device"] or LOCAL
        result = run(name, **options, tell=tell)
    if as_json:
        from edgesdk.cli.documents import Targets

        emit_json(Targets.of([result]))
    else:
        from edgesdk.cli.show_targets import show_target

        show_target(result, console(soft_wrap=True))


NEEDED = ("torch", "numpy", "onnx", "onnxruntime", "highspy", "matplotlib")  # runtimes that extras bring come on top


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(as_json: bool) -> None:
    """Runtimes found, versions, CPU features, and where prices are kept."""
    import platform
    from importlib import metadata

    from edgesdk.cli.documents import Doctor
    from edgesdk.core.facts import Facts
    from edgesdk.core.runtime import RUNTIMES
    from edgesdk.core.serialize import from_json
    from edgesdk.devices.local import LocalDevice

    with LocalDevice() as agent:
        facts = agent.call("probe")
    import os

    import platformdirs

    versions = {}
    for package in dict.fromkeys((*NEEDED, *(row.package for row in RUNTIMES.values() if row.extra and row.package))):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    features = facts.get("features") or []
    integer = any("vnni" in feature or "amx_int8" in feature for feature in features)
    cache = os.environ.get("EDGESDK_CACHE") or platformdirs.user_cache_dir("edgesdk")
    answer = Doctor(
        metadata.version("edgesdk"), platform.python_version(), versions, from_json(Facts, facts), integer, cache
    )
    if as_json:
        emit_json(answer)
        return
    from edgesdk.cli.show_devices import show_doctor

    show_doctor(answer, console())
