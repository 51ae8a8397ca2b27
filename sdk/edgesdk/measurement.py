"""Measure one file or bundle on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgesdk.artefact import Artefact
from edgesdk.bundle import Bundle
from edgesdk.errors import BundleError, UsageError
from edgesdk.export.probes import probe
from edgesdk.price.operators import Operator
from edgesdk.remote.bench import Bench
from edgesdk.remote.local import LocalDevice
from edgesdk.report import Report
from edgesdk_targets.agent.measure import MODES


def benchmark(path: str | Path, *, threads: int = 1, mode: str = "quick") -> Report:
    """The latency (ms), memory (bytes) and cold load of an ``.onnx`` file or a bundle, in processes of their own.

    ``mode`` is ``rapid``, ``quick`` or ``full``: more samples over a longer time. Raises ``BundleError`` for a file
    that is neither, ``DeviceError`` where the runtime is missing or refuses the file.
    """
    path = Path(path)
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", f"choose {', '.join(MODES)}")
    if threads < 1:
        raise UsageError(f"{threads} threads", "give 1 or more")
    model = Bundle.open(path).model if path.is_dir() else path
    if not model.is_file() or model.suffix != ".onnx":
        raise BundleError(f"{path} is neither a bundle nor an .onnx file", "give one of the two")
    with LocalDevice() as agent, tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        tiny = Path(folder) / "baseline.onnx"
        tiny.write_bytes(probe(Operator("alone", "int8", 8, 8, (8, 8))))
        return Bench(agent, threads).measure({path.name: Artefact(model)}, mode, tiny)[path.name]
