"""The runtimes that the agent can measure. A runner module is imported when it is asked for, its runtime with it.

A runner module has

- ``VERSION`` of the runtime;
- ``load(source, threads) -> Session``, with ``source`` a path or the bytes of a model;
- ``sample(inputs) -> values``, seeded random numbers, and ``read_inputs(path) -> values`` of an ``.npz`` file;
- ``profile(path, values, threads, take) -> kernels``, each ``{"name", "operator", "provider", "share",
  "profiled_ms", "layers", "precision"}``: ``share`` of the time, ``profiled_ms`` its time in a run under the profiler,
  ``layers`` the names in the file that it stands for, with them those of constants that it reads, which are ``held``;
  ``precision`` what it computes in; the times and ``precision`` are ``None`` where the runtime does not tell.
  ``takes`` and ``makes`` are its tensors, by names of the file where it has them, and are there where the runtime tells
  what it made of the file. ``low_ms`` and ``high_ms``, between which eight of ten runs lie, are there where it tells
  single runs. ``take(run)``, for which the profiler is on, makes the runs, and is not called where there are no times;
  without ``take.seconds`` nobody asks for any. ``take(run, anew)`` goes on with what ``anew()`` gives, in blocks, for a
  profiler that only tells means. A profiler that makes the runs itself says so with ``take.tell(plain, count)``: the
  nanoseconds of runs without it, and how many there were with it;
- ``with_option(option) -> runner``, where the runtime has other devices: ``tensorrt+dla0`` is its runner for one.

A ``Session`` has

- ``inputs``: a list of ``{"name", "shape", "dtype"}``, dynamic dimensions being 1;
- ``providers``: what it runs on, in order of preference;
- ``precision``: what the runtime computes in where the file has float32, such as ``f32``, or ``None``;
- ``bind(values) -> run``: a function without arguments that runs the model once, with ``values`` by input name or,
  for ``None``, with a sample;
- ``run_once(values) -> outputs``: copies of the outputs by name, as the file names them, of one run;
- ``load_ms`` and ``memory``, as the verbs ``load`` and ``memory`` tell them, where the model is in another process than
  this one. The function that ``bind`` gives has ``times`` then: see ``clock``.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from edgesdk_targets.agent import trtexec, wheels
from edgesdk_targets.agent.protocol import MISSING, RUNTIME, USAGE, AgentError


class Runner(NamedTuple):
    """A runner's module, the distributions that bring what it imports, and other runtimes whose files it runs.

    What no distribution brings has ``version``, which says whether it is there and in which one, and ``advice`` on how
    it gets there.
    """

    module: str
    distributions: Tuple[str, ...]
    instead_of: Tuple[str, ...] = ()
    version: Optional[Callable[[], Optional[str]]] = None
    advice: Optional[Callable[[], str]] = None


_HERE = "edgesdk_targets.agent.runners."
RUNNERS = {
    "onnxruntime": Runner(_HERE + "onnxruntime_runner", ("onnxruntime", "onnxruntime-gpu"), ("tensorrt",)),
    "openvino": Runner(_HERE + "openvino_runner", ("openvino",)),
    "litert": Runner(_HERE + "litert_runner", ("ai-edge-litert",), ("tflite",)),
    "ncnn": Runner(_HERE + "ncnn_runner", ("ncnn",)),
    "executorch": Runner(_HERE + "executorch_runner", ("executorch",)),
    "tflite": Runner(_HERE + "tflite_runner", ("tflite-runtime",), ("litert",)),
    "tensorrt": Runner(_HERE + "tensorrt_runner", (), version=trtexec.installed, advice=trtexec.advice),
}
GROUP = "edgesdk.runners"  # of the entry points with which other distributions bring runners


def every_runner() -> Dict[str, Runner]:
    """The agent's own runners, and those that distributions on this device bring: entry points, name = module."""
    from importlib import metadata

    extra = {}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group == GROUP:
                extra[point.name] = Runner(point.value, (distribution.metadata["Name"],))
    return {**extra, **RUNNERS}


def readers(runtime: str) -> List[str]:
    """The names of the runners that run files for ``runtime``, its own first."""
    every = every_runner()
    return [name for name in (runtime,) if name in every] + [
        n for n, runner in every.items() if runtime in runner.instead_of
    ]


def runner(runtime: str) -> Any:
    """The module that runs models with ``runtime``.

    Raises ``AgentError`` of kind ``usage`` for an unknown runtime, ``missing`` for one that is not installed here.
    """
    name, _, option = runtime.partition("+")
    runner = RUNNERS.get(name) or every_runner().get(name)
    if runner is None:
        fact = f"there is no runner for {runtime!r}"
        raise AgentError(USAGE, fact, f"use one of {', '.join(sorted(RUNNERS))}")
    try:
        module = importlib.import_module(runner.module)
    except ImportError as error:
        fact = f"{name} cannot be imported on this device ({error})"
        raise AgentError(MISSING, fact, how_to_get(name)) from None
    if not option:
        return module
    if not hasattr(module, "with_option"):
        raise AgentError(USAGE, f"{name} has no option {option!r:.80}", f"give {name}")
    return module.with_option(option)


def how_to_get(runtime: str) -> str:
    """How the runtime of that name gets onto this device; of a name without a runner nothing is known."""
    runner = RUNNERS.get(runtime)
    return runner.advice() if runner is not None and runner.advice is not None else wheels.here(runtime)


def refused(runtime: str, error: Exception) -> AgentError:
    """The error that says that ``runtime``, its name and version, refused a model, and in which words."""
    fact = f"{runtime} refuses the model ({str(error).strip()[:1000]})"
    return AgentError(RUNTIME, fact, "export for this version of the runtime, or use a newer one")
