"""Running TFLite files with LiteRT on the CPU."""

from __future__ import annotations

import functools
from importlib import metadata

from ai_edge_litert import interpreter  # pyright: ignore[reportMissingImports]

from edgesdk_targets.agent.runners import arrays, tflite_session

VERSION = metadata.version("ai-edge-litert")
load = functools.partial(tflite_session.Session, interpreter, "litert", VERSION)
profile = functools.partial(tflite_session.profile, load)
sample, read_inputs = arrays.sample, arrays.read_inputs
