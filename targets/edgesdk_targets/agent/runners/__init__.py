"""The runtimes that the agent can measure. A runner module is imported when it is asked for, its runtime with it.

A runner module has

- ``VERSION`` of the runtime;
- ``load(source, threads) -> Session``, with ``source`` a path or the bytes of a model;
- ``sample(inputs) -> values``, seeded random numbers, and ``read_inputs(path) -> values`` of an ``.npz`` file;
- ``profile(path, values, threads, runs) -> kernels``.

A ``Session`` has

- ``inputs``: a list of ``{"name", "shape", "dtype"}``, dynamic dimensions being 1;
- ``providers``: what it runs on, in order of preference;
- ``bind(values) -> run``: a function without arguments that runs the model once, with ``values`` by input name or,
  for ``None``, with a sample.
"""

from __future__ import annotations

import importlib
from typing import Any

from edgesdk_targets.agent.protocol import MISSING, USAGE, AgentError

RUNNERS = {"onnxruntime": ("edgesdk_targets.agent.runners.onnxruntime_runner", "onnxruntime")}


def runner(runtime: str) -> Any:
    """The module that runs models with ``runtime``.

    Raises ``AgentError`` of kind ``usage`` for an unknown runtime, ``missing`` for one that is not installed here.
    """
    if runtime not in RUNNERS:
        fact = f"there is no runner for {runtime!r}"
        raise AgentError(USAGE, fact, f"use one of {', '.join(sorted(RUNNERS))}")
    module, distribution = RUNNERS[runtime]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fact = f"{runtime} cannot be imported on this device ({error})"
        raise AgentError(MISSING, fact, f"install it there: pip install {distribution}") from None
