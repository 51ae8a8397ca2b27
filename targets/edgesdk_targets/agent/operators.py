"""The price table's source: very many tiny models, each timed shortly, often, and between reference models."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from edgesdk_targets.agent import clock, files, lock, measure, probe, runners, undisturbed
from edgesdk_targets.agent.protocol import USAGE, AgentError, Report
from edgesdk_targets.agent.references import References, check

BATCH = 64
LEAST_RUNS, MOST_RUNS = 3, 500
LEAST_UNDISTURBED, MOST_ROUNDS = 5, 16  # visits; rounds, where the device is disturbed most of the time
WAIT_SECONDS = 0.003  # for one visit to be undisturbed: another round costs less than to wait for longer
PATIENCE_SECONDS = 0.01  # of waiting for each model, all its visits together


def operators(
    report: Report,
    *,
    models: list[dict[str, str]],
    runtime: str = "onnxruntime",
    threads: int = 1,
    rounds: int = 7,
    most_rounds: int = MOST_ROUNDS,
    seconds_per_visit: float = 0.0005,
    batch: int | None = None,
    references: Sequence[dict[str, str]] = (),
    reference_ms: float | None = None,
    patience: float = PATIENCE_SECONDS,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """How long each of ``models`` takes for a run, ``{"key", "path"}`` or ``{"key", "model": base64 of the file}``.

    Models are loaded ``batch`` at a time, or one at a time with several threads, whose pools would take the cores
    from each other. A batch is visited in ``rounds``, there and back in turns; a visit is one run that refills the
    caches and then as many timed ones as take about ``seconds_per_visit``, three at least.

    ``references`` are tiny models, as ``models`` are, visited right before and after each visit: ``undisturbed`` says
    what is made of that. ``reference_ms`` is what they took undisturbed, where that is known. A visit waits for the
    undisturbed state, for ``patience`` seconds in all for each model; one that lacks undisturbed visits after all
    rounds gets more, up to ``most_rounds``: where the device is never undisturbed, many visits are better than few.

    Every batch is reported in a progress message under ``results``, so that an interrupted table is not lost; the
    result has them all: ``results`` as a list of ``{"key", "ms", "ratio", "uncertainty", "level_ms", "disturbed",
    "visits", "runs"}``, with ``ms`` the ratio times what the references take undisturbed. A model that the runtime
    refuses has an ``error`` in words, and no figures. ``references`` has ``ms``, and the share of their visits that
    were ``disturbed``; it is null without any.
    """
    measure.check_real()
    if not isinstance(models, list) or not all(isinstance(m, dict) and isinstance(m.get("key"), str) for m in models):
        raise AgentError(USAGE, "a model has no key", 'give a list of {"key", "path" or "model"}')
    fact = "rounds, most_rounds, seconds_per_visit, batch or patience is out of range"
    if min(rounds, most_rounds) < 1 or not seconds_per_visit > 0 or (batch is not None and batch < 1) or patience < 0:
        raise AgentError(USAGE, fact, "give positive numbers")
    check(references, reference_ms)
    measure.check_threads(threads)
    runner = runners.runner(runtime)
    size = batch or (BATCH if threads == 1 else 1)
    timed: list[_Timed] = []
    with lock.device_lock(report, lock_seconds):
        before = probe.conditions()
        beside = References(runner, references, reference_ms)
        for start in range(0, len(models), size):
            part = [_Timed(model, runner, threads) for model in models[start : start + size]]
            _time_batch(
                [operator for operator in part if operator.run],
                beside,
                (rounds, most_rounds),
                seconds_per_visit,
                patience,
            )
            timed += part
            results = [operator.result(beside) for operator in part]
            report({"done": len(timed), "of": len(models), "state": "timing", "results": results})
        after = probe.conditions()
    reason = probe.throttled(before, after)
    told = beside.result()  # which may find a lower level than was known when a batch was reported
    return {
        "results": [operator.result(beside) for operator in timed],
        "references": told,
        "runtime": {"name": runtime, "version": runner.VERSION, "threads": threads},
        "conditions": {"before": before, "after": after},
        "valid": reason is None,
        "reason": reason,
    }


class _Timed:
    """A model with the visits that it got; one that the runtime refuses has no ``run``."""

    def __init__(self, model: dict[str, str], runner: Any, threads: int) -> None:
        self.key = model["key"]
        self.run: Callable[[], object] | None = None
        self.count = 0
        self.visits: list[undisturbed.Visit] = []
        self.refusal = ""
        try:
            self.run = runner.load(files.source(model), threads).bind()
        except AgentError as error:
            self.refusal = str(error)

    def visit(self, before: float, beside: References) -> float:
        """Time it once, ``before`` being what the references took just now; what they take after."""
        assert self.run is not None
        own = clock.visit(self.run, self.count)
        after = beside.visit()
        self.visits.append(undisturbed.Visit(own, before, after))
        return after

    def lacks(self, beside: References) -> bool:
        """Whether it has too few undisturbed visits."""
        calm = sum(not beside.is_slow(max(visit.before, visit.after)) for visit in self.visits)
        return calm < LEAST_UNDISTURBED

    def result(self, beside: References) -> dict[str, Any]:
        if not self.visits:
            return {"key": self.key, "error": self.refusal}
        quiet = undisturbed.estimate(self.visits, beside.fast)
        return {
            "key": self.key,
            "ms": quiet["ratio"] * beside.fast / 1e6,
            "ratio": quiet["ratio"],
            "uncertainty": quiet["error"],
            "level_ms": quiet["level"] / 1e6,
            "disturbed": undisturbed.disturbed(self.visits, beside.fast),
            "visits": len(self.visits),
            "runs": self.count * len(self.visits),
        }


def _time_batch(
    batch: list[_Timed], beside: References, rounds: tuple[int, int], seconds: float, patience: float
) -> None:
    (least, most), left = rounds, patience * len(batch)
    with clock.no_collection():
        for operator in batch:
            assert operator.run is not None
            operator.count = clock.runs_in(operator.run, seconds, LEAST_RUNS, MOST_RUNS)
        order = list(batch)
        for done in range(1, max(least, most) + 1):
            level = beside.visit()
            for operator in order:
                if left > 0 and beside.is_slow(level):
                    level, waited = beside.wait(min(WAIT_SECONDS, left))
                    left -= waited
                level = operator.visit(level, beside)
            beside.refresh()
            order.reverse()
            if done >= least:
                order = [operator for operator in order if operator.lacks(beside)]
                if not order:
                    break
    for operator in batch:
        operator.run = None  # a table has more models than memory
