"""What a fresh process shows: the time of a cold load, and the memory that a model adds. Passes of their own."""

from __future__ import annotations

import gc
from statistics import median
from time import perf_counter
from typing import Any, Callable, Mapping, Sequence

from edgesdk_targets.agent import files, fresh, lock, measure, runners
from edgesdk_targets.agent.protocol import USAGE, AgentError, Report

RUNS = 5


def load(
    report: Report,
    *,
    path: str,
    runtime: str = "onnxruntime",
    threads: int = 1,
    processes: int = fresh.PROCESSES,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """How long the model at ``path`` takes to load in a fresh process, in ms: the median of ``processes``.

    ``import_ms`` is the import of the runtime before that, ``first_run_ms`` the first run after it. The file may be
    in the page cache.
    """
    arguments = {"path": path, "runtime": runtime, "threads": threads}
    return _fresh(report, fresh.LOAD, arguments, processes, lock_seconds)


def memory(
    report: Report,
    *,
    path: str,
    runtime: str = "onnxruntime",
    threads: int = 1,
    inputs: str | None = None,
    baseline: str | None = None,
    processes: int = fresh.PROCESSES,
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """The memory that loading the model at ``path`` and running it five times adds, in bytes.

    It is the median of ``processes``. A fresh process imports the runtime, runs the tiny model ``baseline`` once, so
    that the runtime's own pages are there, collects garbage, gives freed pages back and resets the peak that the kernel
    keeps; then it loads the model and runs it.

    - ``peak_added``: the peak above what was resident before the load. The model's inputs and outputs are in it, as
      ``input_bytes`` tells; the caller of the model owns these.
    - ``resident_added``: what the model keeps.
    - ``runtime_baseline``: what the runtime takes by itself.

    ``method`` is ``clear_refs``; ``hwm_difference`` where the peak could not be reset, so that ``peak_added`` is a
    lower bound: the growth of the highest peak of the process. A figure that the kernel does not give is null.
    """
    arguments = {"path": path, "runtime": runtime, "threads": threads, "inputs": inputs, "baseline": baseline}
    return {**_fresh(report, fresh.MEMORY, arguments, processes, lock_seconds), "runs": RUNS}


def load_here(report: Report, *, path: str, runtime: str, threads: int) -> dict[str, Any]:
    """The times of one cold load, in this process, which must be fresh."""
    measure.check_real()
    begin = perf_counter()
    runner = runners.runner(runtime)
    imported = perf_counter()
    session = runner.load(path, threads)
    loaded = perf_counter()
    values = runner.sample(session.inputs)
    ready = perf_counter()
    session.bind(values)
    end = perf_counter()
    seconds = {"import_ms": imported - begin, "load_ms": loaded - imported, "first_run_ms": end - ready}
    told = {name: value * 1e3 for name, value in seconds.items()}
    own = getattr(session, "load_ms", None)
    return told if own is None else {**told, "load_ms": own}


def memory_here(
    report: Report, *, path: str, runtime: str, threads: int, inputs: str | None, baseline: str | None
) -> dict[str, Any]:
    """The memory of one model, in this process, which must be fresh."""
    measure.check_real()
    empty = status()["VmRSS"]
    runner = runners.runner(runtime)
    if baseline is not None:
        runner.load(baseline, threads).bind()
    gc.collect()
    trim()
    is_reset = reset_peak()
    base = status()
    session = runner.load(path, threads)
    seen = [status()]
    values = runner.read_inputs(inputs) if inputs else runner.sample(session.inputs)
    run: Callable[[], object] = session.bind(values)
    seen.append(status())
    told = getattr(session, "memory", None)
    if told is not None:  # the model is in another process
        own = {"resident_added": None, "runtime_baseline": None}
        return {**own, **told, "input_bytes": sum(array.nbytes for array in values.values())}
    for _ in range(RUNS):
        run()
    after = status()
    return {
        "method": "clear_refs" if is_reset else "hwm_difference",
        "peak_added": _difference(highest([*seen, after]), base["VmRSS" if is_reset else "VmHWM"]),
        "resident_added": _difference(after["VmRSS"], base["VmRSS"]),
        "runtime_baseline": _difference(base["VmRSS"], empty),
        "input_bytes": sum(array.nbytes for array in values.values()),
    }


def trim() -> bool:
    """Give pages of freed memory back to the kernel, as glibc can; whether any were.

    Else a model finds room in what was there, more or less of it from one version of this agent to the next.
    """
    try:
        import ctypes

        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (ImportError, OSError, AttributeError):
        return False


def reset_peak(path: str = "/proc/self/clear_refs") -> bool:
    """Set the kernel's peak of resident memory, VmHWM, back to what is resident now; whether that was allowed."""
    try:
        with open(path, "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def highest(seen: Sequence[Mapping[str, int | None]]) -> int | None:
    """The highest peak that was ``seen``: the kernel forgets a part of it where it takes pages of a file back."""
    peaks = [each["VmHWM"] for each in seen]
    return None if None in peaks else max(peaks)  # type: ignore[type-var]


def status(path: str = "/proc/self/status") -> dict[str, int | None]:
    """``VmRSS`` and ``VmHWM`` of this process in bytes, each ``None`` where the kernel does not give it."""
    fields: dict[str, int | None] = {"VmRSS": None, "VmHWM": None}
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in fields:
                    fields[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return fields


def _fresh(report: Report, verb: str, arguments: dict[str, Any], processes: int, lock_seconds: float) -> dict[str, Any]:
    measure.check_real()
    measure.check_file(arguments["path"])
    measure.check_threads(arguments["threads"])
    if not isinstance(processes, int) or processes < 1:
        raise AgentError(USAGE, f"{processes!r} processes", "give 1 or more")
    for name in ("inputs", "baseline"):
        if arguments.get(name):
            measure.check_file(arguments[name])
    with lock.device_lock(report, lock_seconds):
        results = fresh.repeat(report, verb, arguments, processes)
    return {"digest": files.digest(arguments["path"]), **combine(results), "samples": results}


def combine(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every number in ``results``; ``None`` where one lacks it; words from the first."""
    combined = {}
    for name, value in results[0].items():
        values = [result[name] for result in results]
        if isinstance(value, str):
            combined[name] = value
        else:
            combined[name] = None if None in values else median(values)
    return combined


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
