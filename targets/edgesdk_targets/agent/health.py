"""Whether a bundle does on this device what was recorded of it: it loads, computes its sample and keeps its budget."""

from __future__ import annotations

import math
import os
from typing import Any, Callable

from edgesdk_targets.agent import clock, fresh, lock, measure, memory, probe, protocol, runners
from edgesdk_targets.agent.protocol import REFUSED, UNFIT, AgentError, Report

SAMPLE, REPORT = "sample.npz", "report.json"
TOLERANCE = 5e-2  # of the outputs' spread: another processor sums in another order
TRIES = 3  # what disturbs a measurement makes it longer only


def check(
    report: Report,
    *,
    path: str,
    runtime: str,
    threads: int,
    baseline: str | None = None,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """What the bundle's model at ``path`` does here, the bundle's other files being beside it.

    - ``errors``: by output, the distance from the recorded sample; see ``runners.arrays.difference``;
    - ``identical``: whether every output is that of the sample to the bit;
    - ``p50_ms``, ``peak_memory_bytes``: what was measured where the bundle's budget bounds it, else ``None``;
    - ``runtime``, ``version``: what ran it;
    - ``emulated``: whether this device is emulated, so that nothing was measured.

    ``baseline`` is as in ``memory``. Raises ``AgentError``, of kind ``unfit`` where sample or budget are missed.
    """
    folder = os.path.dirname(path)
    same = {"path": path, "runtime": runtime, "threads": threads}
    answer = fresh.ask(fresh.CHECK, {**same, "sample": os.path.join(folder, SAMPLE)})
    emulated = probe.emulated()
    health = {**answer, "runtime": runtime, "p50_ms": None, "peak_memory_bytes": None, "emulated": emulated}
    budget = _budget(os.path.join(folder, REPORT))
    if emulated:
        return health
    if budget["latency_ms"] is not None:
        health["p50_ms"] = _latency(report, same, budget["latency_ms"], budget["percentile"], lock_seconds)
    if budget["peak_memory_bytes"] is not None:
        most = budget["peak_memory_bytes"]
        health["peak_memory_bytes"] = _peak(report, {**same, "baseline": baseline}, most, lock_seconds)
    return health


def check_here(report: Report, *, path: str, sample: str, runtime: str, threads: int) -> dict[str, Any]:
    """How far the outputs of the model at ``path`` are from those in ``sample``, in this process, which may crash.

    Raises ``AgentError`` of kind ``unfit`` where one is further away than ``TOLERANCE``.
    """
    runner = runners.runner(runtime)
    from edgesdk_targets.agent.runners import arrays  # needs NumPy, as every runner does

    recorded = runner.read_inputs(sample)
    given, wanted = (
        {name[len(side) :]: array for name, array in recorded.items() if name.startswith(side)}
        for side in ("input:", "output:")
    )
    if not given or not wanted or min(map(len, given.values())) < 1:
        raise AgentError(REFUSED, f"{SAMPLE} has no recorded inputs and outputs", "deploy again")
    session = runner.load(path, threads)
    count = len(next(iter(given.values())))
    rows = [session.run_once({name: array[i : i + 1] for name, array in given.items()}) for i in range(count)]
    errors, identical = {}, True
    for name, expected in wanted.items():
        if name not in rows[0]:
            raise AgentError(REFUSED, f"the model has no output {name}, which {SAMPLE} records", "deploy again")
        errors[name], same = arrays.difference([row[name] for row in rows], expected)
        identical = identical and same
        if not errors[name] <= TOLERANCE:
            fact = f"{name} differs from the recorded sample by {errors[name]:.2g} of its spread"
            raise AgentError(UNFIT, fact, f"deploy again for this device; {runtime} {runner.VERSION} computes so here")
    return {"errors": errors, "identical": identical, "version": runner.VERSION}


def _budget(path: str) -> dict[str, Any]:
    """The bounds in the bundle's report; ``None`` where one does not bind."""
    try:
        with open(path, "rb") as file:
            told = protocol.decoded(file.read())["budget"]
        budget = {name: told.get(name) for name in ("latency_ms", "peak_memory_bytes")}
        percentile = told.get("percentile", 50)
        if not all(value is None or 0 < value < math.inf for value in budget.values()) or not 0 < percentile < 100:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AgentError(REFUSED, f"{REPORT} of the bundle has no budget that can be read", "deploy again") from None
    return {**budget, "percentile": percentile}


def _latency(report: Report, same: dict[str, Any], most: float, percentile: float, lock_seconds: float) -> float:
    """The median of the best of up to three measurements, in ms, the first that keeps the bound being the last."""
    count, seconds, warmup = measure.MODES[measure.usual_mode()]
    settings = {
        "runtime": same["runtime"],
        "threads": same["threads"],
        "minimum_count": max(count, clock.least_count(percentile)),
        "minimum_seconds": seconds,
        "warmup_seconds": warmup,
        "lock_seconds": lock_seconds,
    }
    artifact = {"name": os.path.basename(same["path"]), "path": same["path"]}
    best, typical, reason = math.inf, math.inf, None
    for _ in range(TRIES):
        run = measure.benchmark(report, artifacts=[artifact], **settings)
        ordered = sorted(run["artifacts"][0]["samples_ms"])
        value = clock.quantile(ordered, percentile / 100)
        if value < best:
            best, typical, reason = value, clock.quantile(ordered, 0.5), run["reason"]
        if best <= most:
            return typical
    fact = f"it takes {best:.4g} ms at p{percentile:g} here, the budget is {most:.4g} ms"
    raise AgentError(UNFIT, f"{fact} ({reason})" if reason else fact, "deploy again, measuring on this device")


def _peak(report: Callable[..., None], same: dict[str, Any], most: float, lock_seconds: float) -> float | None:
    """The least peak of up to three measurements, in bytes; ``None`` where the kernel does not tell it."""
    peak = math.inf
    for _ in range(TRIES):
        added = memory.memory(report, lock_seconds=lock_seconds, **same)["peak_added"]
        if added is None:
            return None
        peak = min(peak, added)
        if peak <= most:
            return peak
    fact = f"it adds {peak / 1e6:.4g} MB at its peak here, the budget is {most / 1e6:.4g} MB"
    raise AgentError(UNFIT, fact, "deploy again, measuring on this device")
