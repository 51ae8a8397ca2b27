"""Running TFLite files with LiteRT on the CPU."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any

from ai_edge_litert import interpreter  # pyright: ignore[reportMissingImports]

from edgesdk_targets.agent.runners import arrays, litert_profiler, tflite_session
from edgesdk_targets.agent.runners.litert_kernels import timed

VERSION = metadata.version("ai-edge-litert")
load = functools.partial(tflite_session.Session, interpreter, "litert", VERSION)
sample, read_inputs = arrays.sample, arrays.read_inputs


def profile(path: str, values: dict[str, Any] | None, threads: int, take: Any) -> list[dict[str, Any]]:
    """The operators of the file with what XNNPACK and LiteRT's own kernels took for each, as its profiler tells.

    It counts whole microseconds, cut off, so that a time is the mean of its runs without the fastest and the slowest
    tenth. Without times where none are asked for, or this version tells none, or none of such a file.
    """
    session = load(path, threads)
    session.bind(values)
    kernels = tflite_session.kernels(session.interpreter)
    if not take.seconds:
        return kernels
    try:
        with litert_profiler.Compiled(str(interpreter.__file__), path, threads) as compiled:
            take(compiled.bind(arrays.values_for(session.inputs, values)))
            runs = compiled.read()
        return timed(kernels, session.interpreter._get_ops_details(), runs)
    except litert_profiler.Lacking:
        return kernels
