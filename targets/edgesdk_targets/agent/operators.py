"""The price table's source: very many tiny models, each timed shortly, often, and among others."""

from __future__ import annotations

import base64
import binascii
import math
from statistics import median
from typing import Any, Callable

from edgesdk_targets.agent import clock, lock, measure, probe, runners
from edgesdk_targets.agent.protocol import USAGE, AgentError, Report

BATCH = 64
LEAST_RUNS, MOST_RUNS = 3, 500
CALIBRATION_RUNS = 3


def operators(
    report: Report,
    *,
    models: list[dict[str, str]],
    runtime: str = "onnxruntime",
    threads: int = 1,
    rounds: int = 7,
    seconds_per_visit: float = 0.0005,
    batch: int | None = None,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """How long each of ``models`` takes for a run, ``{"key", "path"}`` or ``{"key", "model": base64 of the file}``.

    Models are loaded ``batch`` at a time, or one at a time with several threads, whose pools would take the cores
    from each other. A batch is visited in ``rounds``, there and back in turns; a visit is one run that refills the
    caches and then as many timed ones as take about ``seconds_per_visit``, three at least.

    ``ms`` is the median over the rounds of each visit's lower quartile: what disturbs a run only ever makes it
    longer, so the quartile keeps clear of that without hanging on one lucky sample as the minimum would, and the
    median drops the visits that were disturbed as a whole. ``spread`` is the interquartile range over the rounds
    divided by ``ms``. A model that the runtime refuses has an ``error`` instead.

    Every batch is reported in a progress message under ``results``, so that an interrupted table is not lost; the
    result has them all: ``results`` as a list of ``{"key", "ms", "spread", "runs"}``.
    """
    measure.check_real()
    if not isinstance(models, list) or not all(isinstance(m, dict) and isinstance(m.get("key"), str) for m in models):
        raise AgentError(USAGE, "a model has no key", 'give a list of {"key", "path" or "model"}')
    if rounds < 1 or not seconds_per_visit > 0 or (batch is not None and batch < 1):
        raise AgentError(USAGE, "rounds, seconds_per_visit or batch is out of range", "give positive numbers")
    measure.check_threads(threads)
    runner = runners.runner(runtime)
    size = batch or (BATCH if threads == 1 else 1)
    results: list[dict[str, Any]] = []
    with lock.device_lock(report, lock_seconds):
        before = probe.conditions()
        for start in range(0, len(models), size):
            part = _time_batch(runner, models[start : start + size], threads, rounds, seconds_per_visit)
            results += part
            report({"done": len(results), "of": len(models), "state": "timing", "results": part})
        after = probe.conditions()
    reason = probe.throttled(before, after)
    return {
        "results": results,
        "runtime": {"name": runtime, "version": runner.VERSION, "threads": threads},
        "conditions": {"before": before, "after": after},
        "valid": reason is None,
        "reason": reason,
    }


def _time_batch(runner: Any, models: list[dict[str, str]], threads: int, rounds: int, seconds: float) -> list[Any]:
    runs: dict[int, Callable[[], object]] = {}
    results: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        results.append({"key": model["key"]})
        try:
            runs[index] = runner.load(_source(model), threads).bind()
        except AgentError as error:
            results[index]["error"] = str(error)
    with clock.no_collection():
        counts = {index: _calibrate(run, seconds) for index, run in runs.items()}
        visits: dict[int, list[float]] = {index: [] for index in runs}
        order = list(runs)
        for _ in range(rounds):
            for index in order:
                visits[index].append(_visit(runs[index], counts[index]))
            order.reverse()
    for index, figures in visits.items():
        ordered = sorted(figures)
        middle = median(ordered)
        spread = (clock.quantile(ordered, 0.75) - clock.quantile(ordered, 0.25)) / middle
        results[index].update(ms=middle / 1e6, spread=spread, runs=counts[index] * rounds)
    return results


def _source(model: dict[str, str]) -> str | bytes:
    if "path" in model:
        return model["path"]
    try:
        return base64.b64decode(model["model"], validate=True)
    except (KeyError, ValueError, binascii.Error):
        raise AgentError(USAGE, "it has neither a path nor a model in base64", "give one") from None


def _calibrate(run: Callable[[], object], seconds: float) -> int:
    samples: list[int] = []
    clock.time_runs(run, samples, CALIBRATION_RUNS)
    return min(MOST_RUNS, max(LEAST_RUNS, math.ceil(seconds * 1e9 / min(samples))))


def _visit(run: Callable[[], object], count: int) -> float:
    run()
    samples: list[int] = []
    clock.time_runs(run, samples, count)
    samples.sort()
    return clock.quantile(samples, 0.25)
