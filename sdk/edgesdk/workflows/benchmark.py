"""Measure files or bundles, on this machine or on a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path

from edgesdk.bundle.bundle import SIMULATION, Bundle
from edgesdk.core.artifact import Artifact, baseline
from edgesdk.core.asked import read_command
from edgesdk.core.errors import BundleError, DeviceError, UsageError
from edgesdk.core.facts import Hardware
from edgesdk.core.graph import Shapes
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.report import Report, Tell
from edgesdk.core.runtime import RUNTIMES, exportable, find_runtime, format_of, is_substituted
from edgesdk.core.schema import Schema
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import from_json
from edgesdk.core.wording import name_apart
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Board, Boards, prices_folder
from edgesdk.devices.energy import check_meter, measure_energy
from edgesdk.devices.inventory import LOCAL
from edgesdk.devices.pools import At, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.export.places import read_places
from edgesdk_targets.agent.measure import MODES


@dataclass(frozen=True)
class Benchmark:
    """What was measured in one run: a report of each file, in the order in which they were named.

    Blocks of several take turns, so that the ratios between them hold on that device, whatever it did meanwhile.
    ``profiles`` say what the runtime ran for each file, by the name of its report, where that was asked for.

    On a pool ``boards`` has what each board measured, by its name, and ``reports`` are those of the ``slowest``: the
    one on which the files take longest, by the geometric mean, of those whose run is valid. ``notes`` say in what the
    boards differ, and which dropped out. ``command`` is the command line that asked for it; ``None`` where Python did.
    """

    reports: tuple[Report, ...]
    profiles: Mapping[str, KernelProfile] = field(default_factory=dict[str, KernelProfile])
    boards: Mapping[str, tuple[Report, ...]] = field(default_factory=dict[str, tuple[Report, ...]])
    slowest: str | None = None
    notes: tuple[str, ...] = ()
    command: str | None = None
    schema: str = Schema("benchmark", 1)


def benchmark(
    paths: str | Path | Sequence[str | Path], *, runtime: str | None = None, threads: int = 1, mode: str = "quick",
    device: At = LOCAL, shapes: Shapes = None, per_layer: bool = False, dla: int | None = None,
    energy: bool = False, meter: str | None = None, tell: Tell = lambda stage, share: None,
) -> Benchmark:  # fmt: skip
    """The latency (ms), memory (bytes) and cold load of model files or bundles, in processes of their own, in one run.

    A path is a bundle, an ``.onnx``, an ``.xml`` of OpenVINO with its ``.bin`` beside it, or a ``.tflite`` file; or it
    names a model as :func:`edgesdk.deploy` takes it, which is exported as it is. ``runtime`` is by default the one that
    such files are for, ``shapes`` are those of inputs whose sizes no file tells. ``mode`` is ``rapid``, ``quick`` or
    ``full``: more samples over a longer time; or ``sustained``: five minutes, after five minutes of the same load.
    ``device`` is of the inventory, ``local`` or an ``ssh://`` address; or ``pool:NAME``, or several: these measure side
    by side, one that fails drops out, and the slowest counts. ``per_layer`` has the runtime's own profiler tell, in a
    pass of its own, which kernels ran for which layers, and what each took. With ``dla`` TensorRT builds for the
    accelerator of that number, and what that cannot take for the GPU.

    ``energy`` measures what a run takes in mJ, beyond what the device takes idle, in a pass of its own: by RAPL, the
    INA3221 of a Jetson, or a sensor of the supply that Linux has a driver for; or by a ``meter`` beside the device, a
    command that prints watts, a line each, or a .csv file with the columns time and watts that is written meanwhile.
    Where the meter fails there is a reason in place of the figure. Raises ``BundleError`` for a
    file that is none of these, ``UsageError`` for a runtime that does not read it, ``ModelError`` for a damaged ONNX
    file, ``DeviceError`` where the runtime is missing or refuses the file, or the device is emulated or cannot be
    reached.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    check_request(threads, mode)
    if not paths:
        raise UsageError("there is no file to measure", "name a model's file or a bundle")
    if len(set(map(str, paths))) < len(paths):
        raise UsageError("a file is named twice", "name each once")
    place = find_place(device)
    if isinstance(place, Pool) and meter is not None:
        raise UsageError(f"--meter on {place.name}: it measures one board", "leave it out, or name a board")
    if meter is not None:
        check_meter(meter)
    with scratch_folder() as folder:
        models = {
            str(path): find_artifact(path, runtime, shapes, folder / f"model-{number}")
            for number, path in enumerate(map(Path, paths))
        }
        run = _Run(models, runtime is None, threads, mode, per_layer, dla, energy or meter is not None, meter)
        try:
            if isinstance(place, Pool):
                return _benchmark_pool(place, run, tell)
            with reach(place) as agent:
                return run.on(agent)
        except DeviceError:
            _check_sound(models.values())
            raise


@dataclass(frozen=True)
class _Run:
    """What is measured on a device, and how; with ``chooses`` each file in what runs such files there."""

    models: Mapping[str, Artifact]
    chooses: bool
    threads: int
    mode: str
    per_layer: bool
    dla: int | None
    energy: bool
    meter: str | None

    def on(self, agent: AgentProcess, prices: Path | None = None) -> Benchmark:
        """The figures from the device of ``agent``; what its references take is kept in the folder ``prices``."""
        models, threads, dla = self.models, self.threads, self.dla
        if self.chooses:
            models = _choose_runtimes(models, from_json(Hardware, agent.call("probe")).runners)
        runtimes = dict.fromkeys(model.runtime for model in models.values())
        if dla is not None and not any(find_runtime(name).engines for name in runtimes):
            fact = f"--dla {dla}, and nothing that builds engines for an accelerator"
            raise UsageError(fact, "give --runtime tensorrt and a --device that has it")
        benches = {
            name: Bench(agent, threads, name, prices, dla) for name in runtimes
        }  # each says where it is not there
        bench = min(benches.values(), key=lambda own: find_runtime(own.runtime).engines)  # one with references, if any
        taken = {}
        if self.energy:  # first: there may be no meter
            taken = measure_energy(agent, models, threads, self.mode, self.meter)
        with scratch_folder() as folder:
            reports = bench.measure(models, self.mode, {name: baseline(folder, name) for name in runtimes})
        listed = models if self.per_layer else ()
        short = name_apart(models)
        profiles = {short[name]: bench.profile(models[name], list_layers(name)) for name in listed}
        return Benchmark(
            tuple(
                replace(
                    reports[name],
                    name=short[name],
                    ratios={short[other]: ratio for other, ratio in reports[name].ratios.items()},
                    energy=taken.get(name),
                )
                for name in models
            ),
            profiles,
            command=read_command(),
        )


def _benchmark_pool(pool: Pool, run: _Run, tell: Tell) -> Benchmark:
    """The figures from each board of ``pool``, side by side. Raises ``DeviceError`` where none is left."""
    with Boards(pool) as boards:
        runtimes = None if run.chooses else dict.fromkeys(model.runtime for model in run.models.values())
        differences = boards.list_differences(runtimes)

        def measure(board: Board, tell: Tell) -> Benchmark:
            tell("measuring", None)
            return run.on(board.agent, prices_folder(board.device))

        taken = boards.each(measure, tell)
        slowest = max(taken, key=lambda name: _rank(taken[name].reports))
        return Benchmark(
            taken[slowest].reports,
            taken[slowest].profiles,
            {name: own.reports for name, own in taken.items()},
            slowest,
            (*differences, *boards.notes),
            read_command(),
        )


def _rank(reports: Sequence[Report]) -> tuple[bool, float]:
    """By what a board is slower than another: a run that is invalid counts only where there is no other."""
    return all(report.valid for report in reports), sum(log(report.latency_ms()) for report in reports)


def _choose_runtimes(models: Mapping[str, Artifact], there: Mapping[str, str]) -> dict[str, Artifact]:
    """The models, each for what runs its files on a device where those runtimes are ``there``."""
    return {
        name: model if model.runtime in there else replace(model, runtime=find_runtime(model.runtime).here)
        for name, model in models.items()
    }


def _check_sound(models: Iterable[Artifact]) -> None:
    """Raise ``ModelError`` for an ONNX file that a runtime refused because no reader can take it, and say why."""
    for model in models:
        if model.path.suffix.lower() == ".onnx":
            from edgesdk.network.onnx_file import parsed, with_weights

            with_weights(parsed(model.path), model.path)


def list_layers(path: str) -> dict[str, tuple[str, ...]] | None:
    """The names of the layers in the bundle's plan, where ``path`` is one, and what its file calls what each makes.

    That is known by the simulation in the bundle.
    """
    if not Path(path).is_dir():
        return None
    bundle = Bundle.open(path)
    made: dict[str, tuple[str, ...]] = {}
    if (bundle.path / SIMULATION).is_file():
        with suppress(BundleError):
            made = {place.layer: place.called for place in read_places(bundle.path / SIMULATION)[1]}
    return {layer.name: made.get(layer.name, ()) for layer in bundle.plan.layers}


def check_request(threads: int, mode: str) -> None:
    """Raise ``UsageError`` for a ``mode`` that there is not, and fewer than one of ``threads``."""
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", f"choose {', '.join(MODES)}")
    if threads < 1:
        raise UsageError(f"{threads} threads", "give 1 or more")


def find_artifact(path: Path, runtime: str | None, shapes: Shapes, made: Path) -> Artifact:
    """The file that ``path`` is or holds, for ``runtime`` or the one that it was made for; what has to be made of it
    goes to ``made``."""
    if path.suffix.lower() == ".pt2" or ":" in path.name or (path / "config.json").is_file():
        return _exported(str(path), runtime or "onnxruntime", shapes, made)
    if path.suffix.lower() == ".onnx" and path.is_file() and shapes is not None:
        from edgesdk.network.onnx_graph import save_fixed

        save_fixed(path, shapes, made.with_suffix(".onnx"))
        path = made.with_suffix(".onnx")
    if path.is_dir():
        artifact = Bundle.open(path).artifact
    else:
        name = path.name.lower()
        made_for = next((runtime for runtime in exportable() if name.endswith(format_of(runtime).suffix)), None)
        if not path.is_file() or made_for is None:
            every = ", ".join(dict.fromkeys(format_of(each).suffix for each in exportable()))
            raise BundleError(f"{path} is neither a bundle nor a model file", f"give one of the two ({every})")
        artifact = Artifact(path, runtime=made_for)
    if lacking := [file for file in artifact.files if not file.is_file()]:
        raise BundleError(f"{artifact.path} lacks {lacking[0].name} beside it", "copy both files")
    if runtime is None:
        return artifact
    own = format_of(artifact.runtime)
    reads = [row.name for row in RUNTIMES.values() if row.format == own or own.name in row.reads]
    if runtime not in reads:
        raise UsageError(f"{runtime} does not read {artifact.path.name}", f"choose {' or '.join(reads)}")
    return replace(artifact, runtime=runtime)


def _exported(spec: str, runtime: str, shapes: Shapes, made: Path) -> Artifact:
    """The dense model that ``spec`` names, as a file for ``runtime``."""
    from edgesdk.compress.quantize import integer
    from edgesdk.export.formats import export
    from edgesdk.network.exported_program import shapes_of
    from edgesdk.network.fuse import flat
    from edgesdk.network.load import load_model
    from edgesdk.network.module_graph import batch_of

    if runtime not in exportable() or is_substituted(runtime):
        available = [name for name in exportable() if not is_substituted(name)]
        raise UsageError(f"no file is made here for {runtime!r}", f"choose one of {', '.join(available)}")
    model = load_model(spec, shapes=shapes)
    x = batch_of(shapes_of(model, shapes))
    network = integer(flat(model, x, free_batch=False), {})
    path = made.with_suffix(format_of(runtime).suffix)
    export(network, x, path, runtime)
    return Artifact(path, network.graph, {}, runtime)
