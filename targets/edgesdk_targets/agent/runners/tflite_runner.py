"""Running TFLite files with the TensorFlow Lite runtime on the CPU, for boards that LiteRT has no build for."""

from __future__ import annotations

import functools
from importlib import metadata

import numpy
from tflite_runtime import interpreter  # pyright: ignore[reportMissingImports]

from edgesdk_targets.agent import files
from edgesdk_targets.agent.protocol import RUNTIME, AgentError
from edgesdk_targets.agent.runners import arrays, tflite_session

VERSION = metadata.version("tflite-runtime")
if not numpy.__version__.startswith("1."):  # its import succeeds then, and every model fails
    raise ImportError(f"tflite-runtime {VERSION} is built for NumPy 1, and here is NumPy {numpy.__version__}")

sample, read_inputs = arrays.sample, arrays.read_inputs


def load(source: str | bytes, threads: int) -> tflite_session.Session:
    """The model in the file or the bytes ``source``. This runtime does not look whether all of it is there."""
    files.check(source, "tflite", files.TFLITE)
    if files.kind(source) == files.TFLITE and not files.is_whole(source):
        fact = f"tflite {VERSION} would crash of the model: parts of it lie beyond its end"
        raise AgentError(RUNTIME, fact, "send a whole file")
    return tflite_session.Session(interpreter, "tflite", VERSION, source, threads)


profile = functools.partial(tflite_session.profile, load)
