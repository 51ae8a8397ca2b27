"""Measure files or bundles, on this machine or on a device."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.artifact import Artefact, baseline
from edgesdk.core.errors import BundleError, UsageError
from edgesdk.core.report import Report
from edgesdk.core.runtime import RUNTIMES, exportable, find_runtime, format_of, is_substituted
from edgesdk.core.schema import Schema
from edgesdk.devices.bench import Bench
from edgesdk.devices.inventory import LOCAL, Device
from edgesdk.devices.reach import reach
from edgesdk_targets.agent.measure import MODES


@dataclass(frozen=True)
class Benchmark:
    """What was measured in one run: a report of each file, in the order in which they were named.

    Blocks of several take turns, so that the ratios between them hold on that device, whatever it did meanwhile.
    """

    reports: tuple[Report, ...]
    schema: str = Schema("benchmark", 1)


def benchmark(
    paths: str | Path | Sequence[str | Path], *, runtime: str | None = None, threads: int = 1, mode: str = "quick",
    device: str | Device = LOCAL,
) -> Benchmark:  # fmt: skip
    """The latency (ms), memory (bytes) and cold load of model files or bundles, in processes of their own, in one run.

    A path is a bundle, an ``.onnx``, an ``.xml`` of OpenVINO with its ``.bin`` beside it, or a ``.tflite`` file;
    ``runtime`` is by default the one that such files are for. ``mode`` is ``rapid``, ``quick`` or ``full``: more
    samples over a longer time; or ``sustained``: five minutes, after five minutes of the same load. ``device`` is of
    the inventory, ``local`` or an ``ssh://`` address. Raises ``BundleError`` for a file that is none of these,
    ``UsageError`` for a runtime that does not read it, ``DeviceError`` where the runtime is missing or refuses the
    file, or the device is emulated or cannot be reached.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", f"choose {', '.join(MODES)}")
    if threads < 1:
        raise UsageError(f"{threads} threads", "give 1 or more")
    models = {str(path): _model(Path(path), runtime) for path in paths}
    if len(models) < len(paths):
        raise UsageError("a file is named twice", "name each once")
    with reach(device) as agent, tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        runtimes = dict.fromkeys(model.runtime for model in models.values())
        bench, *_ = [Bench(agent, threads, name) for name in runtimes]  # each says where its runtime is not there
        baselines = {name: baseline(Path(folder), name) for name in runtimes}
        reports = bench.measure(models, mode, baselines)
        return Benchmark(tuple(replace(reports[name], name=Path(name).name) for name in models))


def _model(path: Path, runtime: str | None) -> Artefact:
    """The file that ``path`` is or holds, for ``runtime`` or the one that it was made for."""
    if path.is_dir():
        found = Bundle.open(path).artefact
        found = replace(found, runtime=find_runtime(found.runtime).here)
    else:
        suffix = path.suffix.lower()
        made_for = next((name for name in exportable() if format_of(name).suffix == suffix), None)
        if not path.is_file() or made_for is None:
            every = ", ".join(dict.fromkeys(format_of(name).suffix for name in exportable()))
            raise BundleError(f"{path} is neither a bundle nor a model file", f"give one of the two ({every})")
        found = Artefact(path, runtime=made_for)
    if lacking := [file for file in found.files if not file.is_file()]:
        raise BundleError(f"{found.path} lacks {lacking[0].name} beside it", "copy both files")
    if runtime is None:
        return found
    own = format_of(found.runtime)
    rows = [row for row in RUNTIMES.values() if not is_substituted(row.name)]
    reads = [row.name for row in rows if row.format == own or own.name in row.reads]
    if runtime not in reads:
        raise UsageError(f"{runtime} does not read {found.path.name}", f"choose {' or '.join(reads)}")
    return replace(found, runtime=runtime)
