"""Energy: a device at work on one artifact after the other, and idle between, with what its meter says meanwhile."""

from __future__ import annotations

import math
import threading
from time import perf_counter, sleep
from typing import Any, Optional

from edgesdk_targets.agent import clock, files, lock, measure, power, runners
from edgesdk_targets.agent.protocol import MISSING, USAGE, AgentError, Report

SAMPLE_SECONDS = 0.05  # between two readings
WARM_UP_SECONDS, CHUNK_SECONDS = 0.3, 0.02
ROUNDS, SECONDS = 5, 2.0


def energy(
    report: Report,
    *,
    artifacts: list[dict[str, Any]],
    runtime: str = "onnxruntime",
    threads: int = 1,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    external: bool = False,
    root: str = "/",
    lock_seconds: float = lock.SECONDS,
) -> dict[str, Any]:
    """Run ``artifacts``, as for ``benchmark``, one after the other for ``seconds`` each, in ``rounds`` that go to and
    fro; before each and at the end the device is idle for as long.

    Returns ``meter``, ``{"source", "kind", "counts"}``, with its ``readings``: pairs of seconds and joules or watts;
    ``lost``, how often it said nothing; and ``phases``, ``{"artifact", "begin", "end", "runs"}``, without an artifact
    where the device was idle. What that comes to the host works out. Where the meter is ``external`` the device reads
    none: then each phase is told, as it begins and as it ends, in a progress message with the seconds ``at`` it.
    Raises ``AgentError``, of kind ``missing`` where the device has no meter that may be read.
    """
    measure.check_real()
    measure.check_artifacts(artifacts, threads)
    if rounds < 1 or not 0 < seconds < math.inf:
        raise AgentError(USAGE, "energy is measured in rounds of some seconds", "give 1 round or more, above 0 s")
    meter = None if external else _meter(root)
    runner = runners.runner(runtime)
    with lock.device_lock(report, lock_seconds):
        loaded = {}
        for index, item in enumerate(artifacts):
            report({"done": index, "of": len(artifacts), "state": "loading"})
            own = runner if item.get("runtime", runtime) == runtime else runners.runner(item["runtime"])
            values = own.read_inputs(item["inputs"]) if item.get("inputs") else None
            run = loaded[item["name"]] = own.load(item["path"], threads).bind(values)
            if hasattr(run, "times"):
                name = item.get("runtime", runtime)
                fact = f"the energy of a run is not told for {name}: each of its processes loads the model, too"
                raise AgentError(MISSING, fact, "leave energy out, or use another runtime")
            clock.run_for(run, WARM_UP_SECONDS, measure.WARMUP_RUNS)
        names = list(loaded)
        order = [name for number in range(rounds) for name in (names[::-1] if number % 2 else names)]
        plan = [part for name in order for part in (None, name)] + [None]
        phases = []
        with _Readings(meter) as readings:
            for index, name in enumerate(plan):
                state = "idle" if name is None else "running " + name
                report({"done": index, "of": len(plan), "state": state, "at": perf_counter()})
                begin = perf_counter()
                runs = _rest(seconds) if name is None else _work(loaded[name], seconds)
                phases.append({"artifact": name, "begin": begin, "end": perf_counter(), "runs": runs})
            report({"done": len(plan), "of": len(plan), "state": "done", "at": perf_counter()})
    return {
        "meter": meter and {"source": meter.source, "kind": meter.kind, "counts": meter.counts},
        "readings": readings.taken,
        "lost": readings.lost,
        "phases": phases,
        "digests": {item["name"]: files.digest(item["path"]) for item in artifacts},
    }


def _meter(root: str) -> power.Meter:
    meter = power.find_meter(root)
    if meter is not None:
        return meter
    other = "give --meter, a command or a CSV file of one beside it"
    if power.is_locked(root):
        command = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        raise AgentError(MISSING, f"this device's energy is not to be read: {power.LOCKED}", f"{command}, or {other}")
    raise AgentError(MISSING, "this device has no meter of its energy that can be read", other)


def _rest(seconds: float) -> int:
    sleep(seconds)
    return 0


def _work(run: Any, seconds: float) -> int:
    """Run for ``seconds``; how often that was."""
    done, chunk, end = 0, 1, perf_counter() + seconds
    while True:
        begin = perf_counter()
        if begin >= end:
            return done
        for _ in range(chunk):
            run()
        done += chunk
        taken = max(perf_counter() - begin, 1e-9)
        chunk = max(1, min(2 * chunk, int(chunk * CHUNK_SECONDS / taken)))


class _Readings:
    """What a meter says while the block runs, as ``taken``: read in a thread of its own."""

    def __init__(self, meter: Optional[power.Meter]) -> None:
        self.meter = meter
        self.taken: list[list[float]] = []
        self.lost = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "_Readings":
        if self.meter is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.meter is not None:
            self._thread.join()

    def _read(self) -> None:
        assert self.meter is not None
        while True:
            over = self._over.is_set()  # one more reading comes after the last phase
            before = perf_counter()
            value = self.meter.read()
            if value is None:
                self.lost += 1
            else:
                self.taken.append([(before + perf_counter()) / 2, value])
            if over:
                return
            self._over.wait(SAMPLE_SECONDS)
