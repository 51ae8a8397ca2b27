"""What a model will cost: on a target from its profile, on this machine from one that is made when it is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import Graph
from edgesdk.core.report import Tell
from edgesdk.core.runtime import find_runtime
from edgesdk.core.target import target as find_target
from edgesdk.devices import estimate as priced
from edgesdk.devices.estimate import Estimate

if TYPE_CHECKING:
    from torch import nn


def estimate(
    model: nn.Module | Graph | str | Path, example: Any = None, *, target: str, runtime: str | None = None,
    precision: str | None = None, threads: int = 1, power_mode: str | None = None, clock_ghz: float | None = None,
    tell: Tell = lambda what, share: None,
) -> Estimate:  # fmt: skip
    """The latency (ms), memory and size (bytes) that ``model`` is predicted to have on ``target``.

    ``model`` is a module, what names one, the path of an ONNX file, or a graph that :func:`read_graph` made;
    ``example`` is a batch, the shape of the single input without the batch, or an :class:`edgesdk.core.graph.Tensor`
    for each input, which a file needs only where its own is free. Without ``precision`` an ONNX file is taken as it is
    and a module in fp32, what is in fp32 in fp16 where the runtime has nothing else. ``power_mode`` is one of the
    board's, ``clock_ghz`` another clock of the processor that the runtime runs on.

    On a target that is the machine at hand (``x86``) a few operators are timed first, 15 seconds of a processor, and
    kept in the cache for the next time; a note says which. Raises ``UsageError`` for an unknown target, power mode or
    clock, a pair of runtime and precision without any ground, or a shape that does not fit; ``ModelError`` for a model
    that cannot be read.
    """
    kind = find_target(target)
    if not kind.measured:
        return priced.estimate(
            model, example, target=target, runtime=runtime, precision=precision, threads=threads,
            power_mode=power_mode, clock_ghz=clock_ghz,
        )  # fmt: skip
    if power_mode is not None or clock_ghz is not None:
        fact = f"{kind.name} is this machine, which is timed as it is"
        raise UsageError(fact, "leave its power mode and clock out, or name another target")
    runtime, precision = find_runtime(runtime or kind.runtimes[0]).name, priced.check_precision(precision)
    threads = priced.check_threads(threads)
    graph, stored = (model, {}) if isinstance(model, Graph) else priced.read_graph(model, example)
    from edgesdk.workflows.calibrate import machine  # with torch, which a board's profile needs not

    loaded, kept = machine(kind, runtime, threads, tell)
    when = f"on {loaded.pairs[0].provenance.date} (kept in the cache)" if kept else "just now"
    note = f"this machine was calibrated shortly, {when}; edgesdk calibrate NAME times all operators"
    cost = priced.estimate_at(graph, stored, loaded, runtime, precision, threads)
    return replace(cost, notes=(note, *cost.notes))
