"""The command line. Results go to stdout, progress and errors to stderr; exit codes are those of ``edgesdk.errors``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgesdk.budget import BYTES, TIME, Budget, parse
from edgesdk.errors import BundleError, EdgeSdkError, UsageError
from edgesdk.record import dumps, to_json, write

INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose errors are one line on stderr, without a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was begun is cleaned up
        try:
            return sys.exit(super().main(*args, **kwargs) or 0)
        except EdgeSdkError as error:
            click.echo(f"edgesdk: {error}", err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            click.echo(f"edgesdk: {' '.join(error.format_message().split()).rstrip('.')}: see --help", err=True)
            sys.exit(UsageError.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("edgesdk: interrupted: prices that were measured are kept, run it again to go on", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgesdk")
def main() -> None:
    """Compress a trained PyTorch model until it keeps a budget on a device, measured.

    Exit codes: 0 done, 2 usage, 3 model, 4 data, 5 budget out of reach, 6 device or runtime, 7 parity, 8 bundle,
    9 disk, 130 interrupted.
    """


def deployment(command: Callable[..., None]) -> Callable[..., None]:
    """The options that ``deploy`` and ``search`` share."""
    for option in reversed([
        click.argument("model", required=False),
        click.option("--target", required=True, help="The device: see `edgesdk targets`."),
        click.option("--data", help=".npz with x and y, a folder with a sub-folder per class, or file.py:callable."),
        click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a state dict."),
        click.option("--metric", default="top-1", show_default=True, help="top-1, mse, or file.py:callable."),
        click.option("--latency", help="Upper bound, like 2ms."),
        click.option("--percentile", type=float, default=50, show_default=True, help="The percentile that it bounds."),
        click.option("--peak-memory", help="Upper bound on what the model adds to the process, like 8MB."),
        click.option("--size", help="Upper bound on the model file, like 200kB."),
        click.option("--max-drop", type=float, help="Upper bound on the drop of the metric, in points."),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--out", type=click.Path(path_type=Path), help="Where the result goes."),
        click.option("--force", is_flag=True, help="Replace what is there."),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    ]):  # fmt: skip
        command = option(command)
    return command


def _budget(options: dict[str, Any]) -> Budget | None:
    latency, memory, size = (options.pop(name) for name in ("latency", "peak_memory", "size"))
    drop, percentile = options.pop("max_drop"), options.pop("percentile")
    if (latency, memory, size, drop) == (None, None, None, None):
        return Budget(percentile=percentile) if percentile != 50 else None
    return Budget(
        parse(latency, TIME, "--latency") if latency else None,
        parse(memory, BYTES, "--peak-memory") if memory else None,
        parse(size, BYTES, "--size") if size else None,
        drop,
        percentile,
    )


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is wrong on its face before anything slow is imported."""
    from edgesdk.device import target

    target(options["target"])
    if options["model"] is None and options["weights"] is not None:
        raise UsageError("--weights without a MODEL", "name the model that they belong to")
    if options["model"] is not None and options["data"] is None:
        raise UsageError(f"no data for {options['model']}", "give --data")
    return options


@main.command()
@deployment
@click.option("--epochs", type=click.FloatRange(0), help="Epochs of recovery.  [default: 10; 8 for the example]")
def deploy(as_json: bool, **options: Any) -> None:
    """Search, compress, recover, export, measure, and pack a bundle that keeps the budget.

    Without MODEL (file.py:callable or package.module:callable) it takes the built-in example, and without a budget half
    of the dense model's measured latency.
    """
    options["budget"] = _budget(options)
    _known(options)
    out = options.pop("out") or Path("bundle")
    if out.exists() and not options["force"]:
        raise BundleError(f"{out} exists", "give --force to replace it, or another --out")
    with _telling() as tell:
        from edgesdk.deployment import deploy as run

        bundle = run(**options, out=out, tell=tell)
    if as_json:
        report = dict(bundle.report)
        report["deployed"] = {k: v for k, v in report["deployed"].items() if k != "samples_ms"}
        click.echo(dumps({"bundle": str(bundle.path), "manifest": bundle.manifest, "report": report}), nl=False)
    else:
        from edgesdk.show import show_bundle

        show_bundle(bundle, Console())


@main.command()
@deployment
def search(as_json: bool, force: bool, **options: Any) -> None:
    """The plan alone (plan.json, or --out): no training, no bundle."""
    options["budget"] = _budget(options)
    _known(options)
    out = options.pop("out") or Path("plan.json")
    if out.exists() and not force:
        raise BundleError(f"{out} exists", "give --force to replace it, or another --out")
    with _telling() as tell:
        from edgesdk.deployment import search as run

        plan = run(**options, tell=tell)
    write(out, dumps(plan))
    if as_json:
        click.echo(dumps(plan), nl=False)
    else:
        from edgesdk.show import show_plan

        show_plan(plan, Console())
        click.echo(f"plan: {out}")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--mode", type=click.Choice(["rapid", "quick", "full"]), default="quick", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, raw samples included.")
def benchmark(path: Path, threads: int, mode: str, as_json: bool) -> None:
    """Measure an .onnx file or a bundle on this machine."""
    with _telling() as tell:
        from edgesdk.measurement import benchmark as measure

        tell(f"measuring {path} ({mode})", None)
        report = measure(path, threads=threads, mode=mode)
    if as_json:
        click.echo(dumps(report), nl=False)
    else:
        from edgesdk.show import show_report

        show_report(report, Console())


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(path: Path, as_json: bool) -> None:
    """Check a bundle: digests, versions, and its outputs on the recorded sample."""
    from edgesdk.bundle import verify as check

    found = check(path)
    if as_json:
        click.echo(dumps(found), nl=False)
        return
    click.echo(f"{path}: {found['files']} files as recorded")
    runtime = found["runtime"]
    click.echo(f"runtime: made with {runtime['recorded']}, here {runtime['here']}")
    for name, error in found["sample_error"].items():
        click.echo(f"{name}: differs from the recorded sample by {error:.2g} of its spread")


@main.command()
@click.argument("model")
@click.option("--target", required=True, help="The device: see `edgesdk targets`.")
@click.option("--shape", help="The input's without the batch, like 3x224x224.")
@click.option("--runtime", help="Without it, the first of the target's that has prices.")
@click.option("--precision", help="fp32, fp16 or int8, of every layer. Without it, an ONNX file as it is.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--per-layer", is_flag=True, help="What each layer takes of it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def estimate(model: str, shape: str | None, per_layer: bool, as_json: bool, **options: Any) -> None:
    """What MODEL will cost on a target, from its profile: no board, no weights, no data.

    MODEL is an .onnx file, file.py:callable or package.module:callable.
    """
    from edgesdk.device import target

    target(options["target"])
    size = _shape(shape) if shape else None
    onnx = model.lower().endswith(".onnx")
    if not onnx and size is None:
        raise UsageError("a module needs a shape", "give --shape, like 3x224x224")
    from edgesdk.estimation import estimate as run

    if onnx:
        loaded: Any = model
    else:
        from edgesdk.compress.load import load_model

        loaded = load_model(model)
    found = run(loaded, size, **options)
    if as_json:
        document = to_json(found)
        if not per_layer:
            del document["layers"]
        click.echo(dumps(document), nl=False)
    else:
        from edgesdk.show import show_estimate

        show_estimate(found, per_layer, Console())


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r} is no shape", "write it without the batch, like 3x224x224")
    return tuple(map(int, parts))


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def targets(name: str | None, as_json: bool) -> None:
    """Every target, its runtimes and precisions with the error of each; or all that is known of one, with sources."""
    from edgesdk.device import target
    from edgesdk.device import targets as every
    from edgesdk.price.profile import profile

    found = [profile(target(name))] if name else [profile(entry) for entry in every().values()]
    if as_json:
        documents = [
            {**to_json(known.target), "pairs": [to_json(_without_posterior(pair)) for pair in known.pairs]}
            for known in found
        ]
        click.echo(dumps(documents[0] if name else documents), nl=False)
        return
    from edgesdk.show import show_target, show_targets

    if name:
        show_target(found[0], Console(soft_wrap=True))
    else:
        show_targets(found, Console(soft_wrap=True))


def _without_posterior(pair: Any) -> dict[str, Any]:
    return {"runtime": pair.runtime, "precision": pair.precision, **vars(pair.standing)}


@main.command()
@click.argument("name")
@click.option("--base", help="A target whose profile is shifted to the board's measurements.")
@click.option("--measurements", type=click.Path(path_type=Path), help="CSV: model, runtime, precision, threads, ms.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--force", is_flag=True, help="Replace a profile that you made.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(name: str, as_json: bool, **options: Any) -> None:
    """Make a profile NAME: of this machine, by timing operators; or of a board, from figures measured on it."""
    with _telling() as tell:
        from edgesdk.calibration import calibrate as run

        found = run(name, **options, tell=tell)
    if as_json:
        pairs = [to_json(_without_posterior(pair)) for pair in found.pairs]
        click.echo(dumps({**to_json(found.target), "pairs": pairs}), nl=False)
    else:
        from edgesdk.show import show_target

        show_target(found, Console(soft_wrap=True))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def doctor(as_json: bool) -> None:
    """Runtimes found, versions, CPU features, and where prices are kept."""
    import platform
    from importlib import metadata

    from edgesdk.remote.local import LocalDevice

    with LocalDevice() as agent:
        facts = agent.call("probe")
    import os

    import platformdirs

    packages = ("torch", "numpy", "onnx", "onnxruntime", "highspy", "torch-pruning", "openvino", "ai-edge-litert")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    features = facts.get("features") or []
    integer = any("vnni" in feature or "amx_int8" in feature for feature in features)
    found = {
        "edgesdk": metadata.version("edgesdk"),
        "python": platform.python_version(),
        "packages": versions,
        "device": facts,
        "integer_dot_product": integer,
        "cache": os.environ.get("EDGESDK_CACHE") or platformdirs.user_cache_dir("edgesdk"),
    }
    if as_json:
        click.echo(dumps(found), nl=False)
        return
    click.echo(f"edgesdk {found['edgesdk']}, Python {found['python']}, cache {found['cache']}")
    click.echo(f"{facts.get('cpu')}, {facts.get('cores')} cores, {', '.join(features)}")
    if not integer:
        click.echo("no integer dot product: int8 may gain little, and saturates in some kernels; prices are measured")
    for package, version in versions.items():
        click.echo(f"  {package} {version or 'not installed'}")


@contextmanager
def _telling() -> Iterator[Callable[[str, float | None], None]]:
    """Progress on stderr; silent where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage, share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        rows: dict[str, Any] = {}

        def tell(stage: str, share: float | None) -> None:
            if stage not in rows:
                for row in rows.values():
                    progress.update(row, total=1.0, completed=1.0)
                rows[stage] = progress.add_task(stage, total=None if share is None else 1.0)
            if share is not None:
                progress.update(rows[stage], total=1.0, completed=share)

        yield tell


if __name__ == "__main__":
    main()
