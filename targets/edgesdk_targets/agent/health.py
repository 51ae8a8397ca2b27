"""Whether a bundle does on this device what was recorded of it: it loads, computes its sample and keeps its budget."""

from __future__ import annotations

import math
import os
from typing import Any, Callable, Sequence

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
    references: Sequence[dict[str, str]] = (),
    reference_ms: float | None = None,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """What the bundle's model at ``path`` does here, the bundle's other files being beside it.

    - ``errors``: by output, the distance from the recorded sample; see ``runners.arrays.difference``;
    - ``identical``: whether every output is that of the sample to the bit;
    - ``latency_ms``, ``peak_memory_bytes``: what was measured where the bundle's budget bounds it, else ``None``;
    - ``runtime``, ``version``: what ran it;
    - ``emulated``: whether this device is emulated, so that nothing was measured.

    A latency is that of the undisturbed state, as ``references`` and ``reference_ms`` tell it (see ``benchmark``), or
    at the budget's percentile that of all runs. ``baseline`` is as in ``memory``. Raises ``AgentError``, of kind
    ``unfit`` where sample or budget are missed.
    """
    folder = os.path.dirname(path)
    same = {"path": path, "runtime": runtime, "threads": threads}
    answer = fresh.ask(fresh.CHECK, {**same, "sample": os.path.join(folder, SAMPLE)})
    emulated = probe.emulated()
    health = {**answer, "runtime": runtime, "latency_ms": None, "peak_memory_bytes": None, "emulated": emulated}
    budget = _budget(os.path.join(folder, REPORT))
    if emulated:
        return health
    if budget["latency_ms"] is not None:
        beside = {"references": references, "reference_ms": reference_ms, "lock_seconds": lock_seconds}
        health["latency_ms"] = _latency(report, {**same, **beside}, budget["latency_ms"], budget["percentile"])
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
        percentile = told.get("percentile")
        if not all(value is None or 0 < value < math.inf for value in budget.values()):
            raise ValueError
        if percentile is not None and not 0 < percentile < 100:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AgentError(REFUSED, f"{REPORT} of the bundle has no budget that can be read", "deploy again") from None
    return {**budget, "percentile": percentile}


def _latency(report: Report, asked: dict[str, Any], most: float, percentile: float | None) -> float:
    """The best of up to three measurements, in ms, the first that keeps the bound being the last.

    It is measured as the bound was kept when the bundle was made: undisturbed, or at its percentile.
    """
    count, seconds, warmup = measure.MODES[measure.usual_mode()]
    least = clock.least_count(50 if percentile is None else percentile)
    settings = {"minimum_count": max(count, least), "minimum_seconds": seconds, "warmup_seconds": warmup}
    path = asked.pop("path")
    artifact = {"name": os.path.basename(path), "path": path}
    best, told, reason = math.inf, "", None
    for _ in range(TRIES):
        run = measure.benchmark(report, artifacts=[artifact], **settings, **asked)
        value, how = _figure(run["artifacts"][0], percentile, run["references"] is not None)
        if value < best:
            best, told, reason = value, how, run["reason"]
        if best <= most:
            return best
    fact = f"it takes {best:.4g} ms {told} here, the budget is {most:.4g} ms"
    raise AgentError(UNFIT, f"{fact} ({reason})" if reason else fact, "deploy again, measuring on this device")


def _figure(timing: dict[str, Any], percentile: float | None, referred: bool) -> tuple[float, str]:
    """The latency of one run in ms that a budget bounds, and in words which one that is."""
    if percentile is None and referred:
        quiet = timing["undisturbed"]
        return quiet["ms"], f"undisturbed ({100 * quiet['disturbed']:.0f} % of its runs were slowed down)"
    asked = 50 if percentile is None else percentile
    return clock.quantile(sorted(timing["samples_ms"]), asked / 100), f"at p{asked:g}"


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
