"""Latency: artifacts timed in interleaved blocks on one device, with the conditions under which that was done."""

from __future__ import annotations

import math
import os
from statistics import median
from time import perf_counter
from typing import Any, Callable, Sequence

from edgesdk_targets.agent import clock, files, lock, probe, runners, undisturbed
from edgesdk_targets.agent.protocol import EMULATED, MISSING, USAGE, AgentError, Report
from edgesdk_targets.agent.references import References
from edgesdk_targets.agent.references import check as check_references

# Least count, least seconds, and seconds of warm-up. MLPerf Mobile asks for 1,024 queries and 60 s, and calls 128 and
# 10 s quick, 64 and 6 s rapid (Janapa Reddi et al. 2022, "MLPerf Mobile Inference Benchmark"); rapid here takes 3 s.
# Brief is for trying out whether all works: its figures are rough.
# Those are bursts; sustained is what is left once the same load has warmed the device for five minutes.
MODES = {
    "brief": (64, 0.3, 0.1),
    "rapid": (64, 3.0, 1.0),
    "quick": (128, 10.0, 1.0),
    "full": (1024, 60.0, 1.0),
    "sustained": (1024, 300.0, 300.0),
}
BRIEF, USUAL, VARIABLE = "brief", "rapid", "EDGESDK_MODE"
WARMUP_RUNS = 3
LEAST_BLOCKS, BLOCK_SECONDS = 10, 0.5
OWN_BLOCKS = 5  # of models that are each in a process of its own, which takes seconds to begin
FEWEST, FEWEST_ROUNDS = clock.least_count(50), 3  # samples and rounds of a run that is cut short: a median of each
WARMING = 0.2  # of the time of such a run
VISIT_SECONDS = 0.001  # of a block, between two visits of the references
LEAST_UNDISTURBED, MORE = 10, 2  # visits of each artifact, for which a run may take that many times as long
SAMPLES_KEPT = 16000
# After a change of artifact its weights are not in the caches, and the threads of the one before spin for up to 40 ms.
SETTLE_SECONDS = {"one thread": 0.002, "several": 0.05}
PROFILED_RUNS, PROFILED_SECONDS = 50, 2.0  # of a file under its runtime's profiler, and as many without it, at most
PROFILED_LEAST, PROFILED_BLOCKS = 4, 4


def usual_mode() -> str:
    """The mode in which deployments and installed bundles are measured: ``EDGESDK_MODE`` where that is set.

    Raises ``AgentError`` where it names none.
    """
    mode = os.environ.get(VARIABLE) or USUAL
    if mode not in MODES:
        raise AgentError(USAGE, f"{VARIABLE} is {mode!r}, which is no mode", f"set it to one of {', '.join(MODES)}")
    return mode


class _Artifact:
    """A loaded artifact with the samples taken of it so far."""

    def __init__(self, item: dict[str, Any], runtime: str, threads: int) -> None:
        self.name, self.digest = item["name"], files.digest(item["path"])
        runner = runners.runner(runtime)
        begin = perf_counter()
        session = runner.load(item["path"], threads)
        self.load_ms = (perf_counter() - begin) * 1e3
        values = runner.read_inputs(item["inputs"]) if item.get("inputs") else None
        self.run: Callable[[], object] = session.bind(values)
        self.is_own = hasattr(self.run, "times")  # times itself elsewhere, where the references tell nothing
        source = "random, seeded" if values is None else "given"
        self.inputs = [dict(described, source=source) for described in session.inputs]
        self.runtime = {
            "name": runtime,
            "version": runner.VERSION,
            "providers": session.providers,
            "precision": session.precision,
        }
        self.samples: list[int] = []
        self.blocks: list[list[int]] = []
        self.visits: list[list[undisturbed.Visit]] = []  # of each block
        self.seconds = 0.0

    def warm_up(self, seconds: float, least_count: int, least_seconds: float) -> None:
        """Run without keeping the times, and choose how many runs there are to a sample.

        Every run is a sample until that would make more than ``SAMPLES_KEPT`` of them; of a faster model every k-th
        is, the others running in between all the same.
        """
        taken = clock.run_for(self.run, seconds, WARMUP_RUNS)
        self.warmup = {"count": len(taken), "seconds": sum(taken) / 1e9}
        self.typical = median(taken[len(taken) // 2 :]) / 1e9
        self.stride = max(1, math.ceil(least_seconds / self.typical / max(SAMPLES_KEPT, least_count)))

    def time_block(self, least_count: int, least_seconds: float, settle_seconds: float, beside: References) -> None:
        """Settle in, then take a block of ``least_count`` samples and about ``least_seconds``.

        It is taken in visits, with those of the references between.
        """
        clock.settle(self.run, settle_seconds)
        visited = bool(beside) and not self.is_own
        each = self.typical * self.stride
        left = max(1, least_count, math.ceil(least_seconds / each))
        block: list[int] = []
        visits: list[undisturbed.Visit] = []
        seconds, runs = 0.0, left * self.stride
        before = beside.visit() if visited else 1.0
        while left > 0:
            count = min(left, max(1, math.ceil(VISIT_SECONDS / each))) if visited else left
            if visited:
                self.run()  # the references have taken its place in the caches
            samples: list[int] = []
            seconds += clock.time_runs(self.run, samples, count, self.stride)
            after = beside.visit() if visited else 1.0
            low = 0.5 if self.is_own else clock.LOW
            visits.append(undisturbed.Visit(clock.quantile(sorted(samples), low), before, after))
            before, left = after, left - count
            block += samples
        self.typical = seconds / runs
        self.seconds += seconds
        self.samples += block
        self.blocks.append(block)
        self.visits.append(visits)

    def is_short(self, least_count: int, least_seconds: float) -> bool:
        """Whether it has fewer samples or less time than it must have."""
        return len(self.samples) < least_count or self.seconds < least_seconds

    def lacks(self, beside: References) -> bool:
        """Whether it has too few visits that nothing disturbed."""
        if self.is_own:
            return False
        every = [visit for visits in self.visits for visit in visits]
        calm = sum(not beside.is_slow(max(visit.before, visit.after)) for visit in every)
        return calm < min(LEAST_UNDISTURBED, len(every) / 2)

    def result(self, beside: References) -> dict[str, Any]:
        """Samples as they came; and what it takes undisturbed, as a whole (``undisturbed``) and block by block."""
        milliseconds = [sample / 1e6 for sample in self.samples]
        every = [visit for visits in self.visits for visit in visits]
        fast = 1.0 if self.is_own else beside.fast
        quiet = undisturbed.estimate(every, fast)
        rounds = [undisturbed.estimate(visits, fast) for visits in self.visits]
        return {
            "name": self.name,
            "digest": self.digest,
            "samples_ms": milliseconds,
            "sampled_every": self.stride,
            "timed_seconds": self.seconds,
            "block_medians_ms": [median(block) / 1e6 for block in self.blocks],
            "rounds": [{"ms": entry["ratio"] * fast / 1e6, "error": entry["error"]} for entry in rounds],
            "undisturbed": {
                "ms": quiet["ratio"] * fast / 1e6,
                "error": quiet["error"],
                "level_ms": (beside.fast if self.is_own else quiet["level"]) / 1e6,
                "disturbed": undisturbed.disturbed(every, fast),
            },
            "statistics": clock.statistics(milliseconds),
            "warmup": self.warmup,
            "load_ms": self.load_ms,
            "inputs": self.inputs,
            "runtime": self.runtime,
        }


def benchmark(
    report: Report,
    *,
    artifacts: list[dict[str, Any]],
    runtime: str = "onnxruntime",
    threads: int = 1,
    minimum_count: int = MODES["rapid"][0],
    minimum_seconds: float = MODES["rapid"][1],
    warmup_seconds: float = MODES["rapid"][2],
    blocks: int | None = None,
    most_seconds: float | None = None,
    references: Sequence[dict[str, str]] = (),
    reference_ms: float | None = None,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """The latency of ``artifacts``, each ``{"name", "path", "inputs"?: path of an .npz, "runtime"?: its own}``.

    The batch is what they have. An artifact without a runtime of its own runs with ``runtime``.

    All are loaded and warmed up, then timed in blocks that take turns, A B, B A, A B and so on, so that a drift of
    the device falls on all alike. Each gets at least ``minimum_count`` samples and ``minimum_seconds`` of timed
    running, in about ``blocks`` rounds, by default one per half second and ten at least; half as many where all
    are in processes of their own. With ``most_seconds`` the run
    is cut short where it would take longer than about that, to ten samples of each at the least.

    ``references`` and ``reference_ms`` are as for ``operators``: tiny models, here visited every few ms, which tell the
    undisturbed state. Where an artifact saw little of that, the run goes on, for twice as long at most. Of each,
    ``undisturbed`` is what a run takes in that state, in ``ms``, with the standard ``error`` of its logarithm and the
    share of visits that were ``disturbed``; ``rounds`` is the same for each of its blocks, to be compared with those of
    another artifact. Without references all visits count as undisturbed.

    Returns ``artifacts`` with samples and statistics in ms in the order of the request, each with its ``runtime``:
    ``{"name", "version", "providers", "precision"}``; ``references`` as ``operators`` does; ``conditions`` before and
    after, and after each round how many ``samples`` there were of each artifact, the hottest sensor (``celsius``) and
    the slowest core (``mhz``); and ``valid``, false with a ``reason`` where the device throttled. Raises
    ``AgentError``.
    """
    check_real()
    _check(artifacts, threads, minimum_count, minimum_seconds, warmup_seconds, blocks, most_seconds)
    check_references(references, reference_ms)
    settle_seconds = SETTLE_SECONDS["one thread" if threads == 1 else "several"]
    runner = runners.runner(runtime)
    with lock.device_lock(report, lock_seconds):
        end = math.inf if most_seconds is None else perf_counter() + most_seconds
        warmup_seconds = min(warmup_seconds, WARMING * (end - perf_counter()) / len(artifacts))
        loaded = []
        for index, item in enumerate(artifacts):
            report({"done": index, "of": len(artifacts), "state": "loading"})
            loaded.append(_Artifact(item, item.get("runtime", runtime), threads))
        for index, artifact in enumerate(loaded):
            report({"done": index, "of": len(loaded), "state": "warming up"})
            artifact.warm_up(warmup_seconds, minimum_count, minimum_seconds)
        before = probe.conditions()
        beside = References(runner, references, reference_ms)
        fewest = OWN_BLOCKS if all(artifact.is_own for artifact in loaded) else LEAST_BLOCKS
        rounds = blocks or max(fewest, math.ceil(minimum_seconds / BLOCK_SECONDS) * fewest // LEAST_BLOCKS)
        needed = sum(max(a.typical * minimum_count, minimum_seconds) for a in loaded)
        share = min(1.0, max(0.0, end - perf_counter()) / needed)
        if share < 1:
            minimum_seconds *= share
            minimum_count = max(min(FEWEST, minimum_count), int(share * minimum_count))
            rounds = min(rounds, max(FEWEST_ROUNDS, int(share * rounds)))
        order, done, during = list(loaded), 0, []
        while order:
            report({"done": done, "of": max(rounds, done + 1), "state": "timing"})
            with clock.no_collection():
                for artifact in order:
                    least = math.ceil(minimum_count / rounds), minimum_seconds / rounds
                    artifact.time_block(*least, settle_seconds, beside)
            done += 1
            during.append({"samples": {artifact.name: len(artifact.samples) for artifact in loaded}, **probe.moment()})
            beside.refresh()
            more = done < MORE * rounds and perf_counter() < end
            short = done < rounds // 2 or (more and any(a.lacks(beside) for a in loaded))
            order = loaded if short else [a for a in loaded if a.is_short(minimum_count, minimum_seconds)]
            order = order[::-1] if done % 2 else order
        after = probe.conditions()
    reason = probe.throttled(before, after)
    providers = next((item.runtime["providers"] for item in loaded if item.runtime["name"] == runtime), None)
    return {
        "references": beside.result(),
        "artifacts": [artifact.result(beside) for artifact in loaded],
        "runtime": {"name": runtime, "version": runner.VERSION, "providers": providers, "threads": threads},
        "conditions": {"before": before, "after": after, "during": during},
        "valid": reason is None,
        "reason": reason,
    }


def kernels(
    report: Report,
    *,
    path: str,
    runtime: str = "onnxruntime",
    threads: int = 1,
    inputs: str | None = None,
    seconds: float = PROFILED_SECONDS,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """The kernels that ran for the model at ``path``, in order, as the package ``runners`` describes them.

    A pass of its own: profiling slows the runs, so that what a kernel takes under it is no part of a latency. What the
    profiler costs is told by ``profiled_run_ms`` and ``plain_run_ms``, medians of so many ``runs`` with it and without,
    blocks of which take turns: up to 50, and about ``seconds`` of each. The two are ``None`` and the ``runs`` 0 where
    the runtime tells no times; the first is where its profiler tells those of layers alone.
    """
    check_real()
    _check([{"name": path, "path": path}], threads, 1, seconds, 0, None, None)
    runner = runners.runner(runtime)
    with lock.device_lock(report, lock_seconds):
        values = runner.read_inputs(inputs) if inputs else None
        taken = _Turns(lambda: runner.load(path, threads).bind(values), seconds)
        ran = runner.profile(path, values, threads, taken)
    return {
        "digest": files.digest(path),
        "kernels": ran,
        "runtime": {"name": runtime, "version": runner.VERSION},
        "runs": taken.count or len(taken.samples),
        "profiled_run_ms": median(taken.samples) / 1e6 if taken.samples else None,
        "plain_run_ms": median(taken.plain) / 1e6 if taken.plain else None,
    }


class _Turns:
    """Runs a model under a profiler, in blocks that take turns with those of the same model without: ``samples`` of the
    first and ``plain`` ones in ns. The run that a block begins with, when caches hold the other, is none of them. A
    profiler with passes of its own tells the ``plain`` ones, and the ``count`` of those that it does not time. One that
    only tells means is asked to begin ``anew`` before each block but the first. With no ``seconds`` it is asked which
    kernels there are, and times are by the way."""

    def __init__(self, load: Callable[[], Callable[[], object]], seconds: float) -> None:
        self._load, self.seconds = load, seconds
        self.samples: list[int] = []
        self.plain: list[int] = []
        self.count = 0

    def tell(self, plain: Sequence[int], count: int) -> None:
        """That a profiler ran the model ``count`` times, and what ``plain`` runs took in turns with that."""
        self.plain += plain
        self.count += count

    def __call__(self, run: Callable[[], object], anew: Callable[[], Callable[[], object]] | None = None) -> None:
        plain = self._load()
        count = clock.runs_in(plain, self.seconds, PROFILED_LEAST, PROFILED_RUNS)
        for block in range(PROFILED_BLOCKS):
            run = anew() if block and anew else run
            turns = [(run, self.samples), (plain, self.plain)]
            each = count * (block + 1) // PROFILED_BLOCKS - count * block // PROFILED_BLOCKS
            for model, samples in turns if block % 2 else turns[::-1]:
                model()
                clock.time_runs(model, samples, each)


def check_real() -> None:
    """Raise ``AgentError`` of kind ``emulated`` where this processor is an emulator's."""
    if probe.emulated():
        fact = "this device is emulated: its times and memory mean nothing"
        raise AgentError(EMULATED, fact, "measure on the board itself")


def check_threads(threads: int) -> None:
    """Raise ``AgentError`` unless ``threads`` is a whole number from 1 on."""
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise AgentError(USAGE, f"{threads!r} is no number of threads", "give a whole number from 1 on")


def check_file(path: Any) -> None:
    """Raise ``AgentError`` unless there is a file at ``path``."""
    if not isinstance(path, str) or not os.path.isfile(path):
        raise AgentError(MISSING, f"{path} is not on this device", "send the file first")


def check_artifacts(artifacts: Any, threads: int) -> None:
    """Raise ``AgentError`` unless ``artifacts`` are files with names that can be run with so many ``threads``."""
    if not isinstance(artifacts, list) or not all(isinstance(item, dict) for item in artifacts) or not artifacts:
        raise AgentError(USAGE, "there are no artifacts to time", 'give a list of {"name", "path"}')
    if not all(isinstance(item.get("name"), str) for item in artifacts):
        raise AgentError(USAGE, "an artifact has no name", 'give each a "name" and a "path"')
    if len({item["name"] for item in artifacts}) < len(artifacts):
        raise AgentError(USAGE, "two artifacts have the same name", "name each by its own")
    for item in artifacts:
        check_file(item.get("path"))
        if item.get("inputs"):
            check_file(item["inputs"])
        if not isinstance(item.get("runtime", ""), str):
            raise AgentError(USAGE, f"the runtime of {item['name']} is no name", "give the name of a runner")
    check_threads(threads)


def _check(
    artifacts: Any, threads: int, count: int, seconds: float, warmup: float, blocks: int | None, most: float | None
) -> None:
    check_artifacts(artifacts, threads)
    if count < 1 or seconds < 0 or warmup < 0 or (blocks is not None and blocks < 1) or (most or 0) < 0:
        raise AgentError(USAGE, "a least count, duration or number of blocks is out of range", "give positive numbers")
