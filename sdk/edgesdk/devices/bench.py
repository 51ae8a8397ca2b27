"""What the SDK asks of a device: its facts, operator prices, and measurements of whole artifacts."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from math import exp, hypot
from pathlib import Path
from typing import Any

from edgesdk.core.artifact import Artifact, references
from edgesdk.core.cache import cache_folder
from edgesdk.core.energy import Energy
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.facts import During, Hardware
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.pairing import paired
from edgesdk.core.report import Report, Statistics, Undisturbed
from edgesdk.core.runtime import find_runtime, format_of
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.serialize import from_json
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.answers import Arrays, open_there
from edgesdk.devices.energy import has_meter, measure_energy
from edgesdk.devices.meter import Progress
from edgesdk.devices.profiling import read_kernels
from edgesdk.price.operator import Operator
from edgesdk.price.operators import of_network
from edgesdk.price.table import CALL, COPIES, LEAST_ERROR, Price, Table
from edgesdk.price.witnesses import (
    Kind,
    Steepness,
    choose_witnesses,
    learn_steepness,
    set_right,
    tell_excess,
    with_baselines,
)
from edgesdk_targets.agent import measure
from edgesdk_targets.agent.measure import BRIEF, MODES
from edgesdk_targets.agent.protocol import AgentError

CHUNK, CHUNK_BYTES = 256, 8 << 20  # probes sent at a time, at most
FIRST_CHUNK, CHUNK_SECONDS = 64, 20.0  # of which so many first, then as many as take so long: the most that is lost
PROBING = {"rounds": 5}
PASSES = 2  # of what is doubtful: the second where a faster state is seen in the first
BRIEF_PROFILE = 0.2  # seconds, in that mode
BRIEFLY: dict[str, float] = {"rounds": 3, "most_rounds": 3, "patience": 0.0}  # in the mode in which figures are rough
ATTEMPTS, COOLING_SECONDS = 3, 20.0  # to measure a device that throttles
SHORT_SECONDS = 60.0  # to measure in, below which what a fresh process shows is seen in one
SUSTAINED = "sustained"
TOLD = "the device was disturbed all the time: what it takes undisturbed is told by operators whose price is sure"


def usual_mode() -> str:
    """The mode in which deployments are measured. Raises ``UsageError`` where ``EDGESDK_MODE`` names none."""
    try:
        return measure.usual_mode()
    except AgentError as error:
        raise UsageError(error.fact, error.remedy) from None


class Bench:
    """A device on which one runtime is measured with a fixed number of threads.

    Its ``table`` has the prices that were measured under its conditions, kept in ``folder``, by default in the cache;
    ``steepness`` is what witnesses told of kinds of kernels. With ``dla`` engines are for the accelerator of that
    number.
    """

    notes: tuple[str, ...] = ()  # what there is to say is in the reports

    def __init__(
        self, agent: AgentProcess, threads: int = 1, runtime: str = "onnxruntime", folder: Path | None = None,
        dla: int | None = None,
    ) -> None:  # fmt: skip
        self.dla: int | None = dla
        self.agent: AgentProcess = agent
        self.threads: int = threads
        self.runtime: str = runtime
        self.brief: bool = usual_mode() == BRIEF
        self.facts: Mapping[str, Any] = agent.call("probe")
        self.versions: Mapping[str, str] = self.facts.get("runners") or {}
        if self.facts.get("emulated"):
            raise DeviceError(f"{agent.where} is emulated: its times and memory mean nothing", "measure on a board")
        if runtime not in self.versions:
            raise DeviceError(f"{runtime} is not installed on {agent.where}", self._install())
        self.version: str = str(self.versions[runtime])
        self.steepness: Mapping[Kind, Steepness] = {}
        self._memories: dict[tuple[str, str, bool], Mapping[str, Any]] = {}
        cores = int(self.facts.get("cores") or 1)
        if threads > cores:
            raise DeviceError(f"{threads} threads on {cores} cores", f"give --threads {cores} or fewer")
        kind, place = format_of(runtime), folder or cache_folder() / "prices"
        self.table: Table = Table.open(place, self.conditions, COPIES, kind.unpacks, kind.unrolls)

    def _install(self) -> str:
        """How the runtime gets there: to the interpreter that the device's agent runs under."""
        if not self.agent.own or find_runtime(self.runtime).engines:  # which no package brings
            return str((self.facts.get("wheels") or {}).get(self.runtime) or f"pip install {self.runtime} there")
        return find_runtime(self.runtime).install

    def _other(self) -> str:
        return f"update {self.runtime} on {self.agent.where}, or choose another --runtime"

    @property
    def conditions(self) -> dict[str, str]:
        """What an operator's latency depends on: the key under which prices are kept."""
        features = ",".join(sorted(self.facts.get("features") or ()))
        board = self.facts.get("board")
        return {
            **({"board": str(board), "mhz": str(self._maximum_mhz())} if board else {}),
            "cpu": f"{self.facts.get('cpu')} ({features})",
            "runtime": f"{self.runtime} {self.version}",
            "threads": str(self.threads),
            **({"mode": BRIEF} if self.brief else {}),
            **({} if self.dla is None or not find_runtime(self.runtime).engines else {"dla": str(self.dla)}),
        }

    def _maximum_mhz(self) -> float:
        """What the fastest core may run at; of one kind of board there are several."""
        cores = (self.facts.get("conditions") or {}).get("frequencies") or ()
        return max((core.get("maximum_mhz") or 0.0 for core in cores), default=0.0)

    @property
    def reference_ms(self) -> float | None:
        """What the references take in the device's undisturbed state: the least that any of its runs saw."""
        return self.table.reference_ms

    def prices(self, weights: int) -> Table:
        """Those of its table, whatever the network."""
        return self.table

    def time(
        self,
        operators: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress = lambda share: None,
        again: bool = False,
        seconds: float | None = None,
    ) -> int:
        """Time what the table lacks of ``operators``, or all ``again``, and remember it; how many probes that is.

        What comes out doubtful, because the device was disturbed or turned out to be faster than it was thought to be,
        is timed once more at the end, unless it is to be brief. It ends after about ``seconds``.
        """
        until = None if seconds is None else time.monotonic() + seconds
        wanted = self.table.wanted(operators)
        timed = self._time(wanted if again else self.table.missing(operators), probe, progress, again, until)
        count, left = len(timed), [op for op in wanted if op.key in timed and self.table.doubtful(op)]
        for _ in range(0 if self.brief else PASSES):
            left = list({op.key: op for op in (*left, *self.table.missing(operators))}.values())
            if left:
                count += len(self._time_beside_witnesses(left, wanted, probe, until))
            left = []
        return count

    def _time_beside_witnesses(
        self, doubtful: Sequence[Operator], among: Sequence[Operator], probe: Callable[[Operator], bytes],
        until: float | None,
    ) -> dict[str, Price]:  # fmt: skip
        """Time what is ``doubtful`` once more; where the device is disturbed then, too, witnesses set it right."""
        probes = with_baselines([*choose_witnesses(self.table, [CALL, *doubtful], among), *doubtful])
        timed = self._time(probes, probe, lambda share: None, until=until)
        self.steepness = {**self.steepness, **learn_steepness(self.table, probes, timed)}
        self.table.add(set_right(self.table, probes, timed, self.steepness))
        return timed

    def _time(
        self,
        missing: Sequence[Operator],
        probe: Callable[[Operator], bytes],
        progress: Progress,
        again: bool = False,
        until: float | None = None,
    ) -> dict[str, Price]:
        """Time the first of ``missing``, as many as there is time for, and remember what they take: their prices."""
        timed: dict[str, Price] = {}
        done, count = 0, FIRST_CHUNK
        while done < len(missing):
            begun = time.monotonic()
            if until is not None and begun >= until:
                break
            with scratch_folder() as folder:
                models = self._take_probes(missing[done : done + count], probe, folder)
                answer = self.agent.call(
                    "operators", models=models, runtime=self.runtime, threads=self.threads,
                    **(BRIEFLY if self.brief else PROBING), **self.beside(),
                )  # fmt: skip
            if any("path" in model for model in models):
                self.agent.forget()
            if failed := [item for item in answer["results"] if "error" in item]:
                raise DeviceError(f"{failed[0]['key']} does not run: {failed[0]['error']}", self._other())
            self.table.settle(answer["references"])
            prices = {
                item["key"]: Price(item["ratio"], item["uncertainty"], item["level_ms"]) for item in answer["results"]
            }
            self.table.add(prices, again)
            timed |= prices
            done += len(models)
            progress(done / len(missing))
            each, now = (time.monotonic() - begun) / len(models), time.monotonic()
            most = CHUNK_SECONDS if until is None else min(CHUNK_SECONDS, until - now)
            count = max(1, min(CHUNK, int(most / each)))
        return timed

    def _take_probes(
        self, operators: Sequence[Operator], probe: Callable[[Operator], bytes], folder: Path
    ) -> list[dict[str, str]]:
        """The first of the probes, as many as one request holds; a large one is placed as a file in ``folder``."""
        models: list[dict[str, str]] = []
        taken = 0
        for op in operators:
            model = probe(op)
            if len(model) > CHUNK_BYTES:
                path = folder / f"{len(models)}.probe"
                path.write_bytes(model)
                models.append({"key": op.key, "path": self.agent.place(path)})
            else:
                models.append({"key": op.key, **_sent(model)})
            taken += len(model)
            if taken >= CHUNK_BYTES:
                break
        return models

    def beside(self) -> dict[str, Any]:
        """What tells the undisturbed state: the reference models, and what they took before.

        A runtime that builds engines has none: a process of each is no visit of some microseconds.
        """
        if find_runtime(self.runtime).engines:
            return {}
        models = [_sent(model) for model in references(self.runtime)]
        return {"references": models, "reference_ms": self.reference_ms}

    def measure(
        self,
        artifacts: Mapping[str, Artifact],
        mode: str,
        baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
        seconds: float | None = None,
        memory: bool = True,
    ) -> dict[str, Report]:
        """Each artifact's report, from one run in which their blocks are interleaved, each in its own runtime.

        ``baselines`` has a tiny model per runtime that pages it in before memory is measured. ``thorough`` measures
        cold loads too, ``memory`` what each adds, in processes of their own. With ``seconds`` for it, blocks end the
        sooner, and where these are few there is one process.
        """
        end = None if seconds is None else time.monotonic() + seconds
        short = self.brief or (seconds is not None and seconds < SHORT_SECONDS)
        processes: dict[str, Any] = {"processes": 1} if short else {}
        places = {name: self._place(artifact) for name, artifact in artifacts.items()}
        paged = {name: path for name, path in (baselines or {}).items() if not find_runtime(name).engines}
        tiny = {runtime: self.agent.place(path) for runtime, path in paged.items()}
        run = self._timed(artifacts, places, mode, end)
        timings = [self._set_right(artifacts[timing["name"]], timing, run["references"]) for timing in run["artifacts"]]
        reports = {}
        for timing in timings:
            artifact = artifacts[timing["name"]]
            if timing["digest"] != artifact.digest:
                fact = f"{self.agent.where} measured another file than {artifact.path.name}: its SHA-256 differs"
                raise DeviceError(fact, "look at what changes files there, and try again")
            same = {"path": places[timing["name"]], "runtime": self._called(artifact), "threads": self.threads}
            taken = self._memory(artifact, same, tiny.get(artifact.runtime), processes) if memory else {}
            reports[timing["name"]] = Report(
                name=timing["name"],
                digest=timing["digest"],
                size_bytes=artifact.size_bytes,
                runtime=artifact.runtime,
                runtime_version=self.versions[artifact.runtime],
                precision=timing["runtime"]["precision"],
                threads=self.threads,
                mode=mode,
                statistics=from_json(Statistics, timing["statistics"]),
                samples_ms=tuple(timing["samples_ms"]),
                peak_memory_bytes=taken.get("peak_added"),
                runtime_memory_bytes=taken.get("runtime_baseline"),
                load_ms=self.agent.call("load", **same, **processes)["load_ms"] if thorough else None,
                conditions=During.of(run["conditions"], timing["name"]),
                device=from_json(Hardware, self.facts),
                valid=run["valid"],
                reason=run["reason"],
                notes=timing["notes"],
                ratios={
                    other["name"]: paired(timing["rounds"], other["rounds"], hypot(timing["beyond"], other["beyond"]))
                    for other in timings
                    if other is not timing
                },
                undisturbed=_undisturbed(timing, run["references"]),
            )
        self.agent.forget()
        return reports

    def _set_right(
        self, artifact: Artifact, timing: Mapping[str, Any], references: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """``timing`` of an artifact without what its kernels were slowed down by more than the references were.

        ``beyond`` is what is uncertain of that, all its rounds alike.
        """
        if references is None:
            return {**timing, "beyond": 0.0, "notes": ()}
        operators = [] if artifact.graph is None else [op for _, op in of_network(artifact.graph, artifact.options)]
        steepness = self.steepness if artifact.runtime == self.runtime else {}
        excess = tell_excess(self.table, operators, steepness, timing["undisturbed"]["level_ms"] / references["ms"])
        faster = exp(-excess.share)
        told = timing["undisturbed"]
        return {
            **timing,
            "beyond": excess.error,
            "notes": (TOLD,) if abs(excess.share) > LEAST_ERROR else (),
            "undisturbed": {**told, "ms": faster * told["ms"], "error": hypot(told["error"], excess.error)},
            "rounds": [{**entry, "ms": faster * entry["ms"]} for entry in timing["rounds"]],
        }

    def _memory(
        self, artifact: Artifact, same: Mapping[str, Any], baseline: str | None, processes: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What the model adds to a fresh process, measured once for a file: it depends on nothing that comes and goes.

        The dense file is in many runs, to be compared with.
        """
        key = (artifact.digest, artifact.runtime, baseline is None)
        if key not in self._memories:
            self._memories[key] = self.agent.call("memory", **same, baseline=baseline, **processes)
        return self._memories[key]

    def _timed(
        self, artifacts: Mapping[str, Artifact], places: Mapping[str, str], mode: str, end: float | None
    ) -> dict[str, Any]:
        """What the agent says of one interleaved run; where the device throttled, of the last of a few.

        It takes what is left until ``end`` on the monotonic clock at most, and is not tried again after that.
        """
        count, seconds, warmup = MODES[mode]
        run: dict[str, Any] = {}
        for attempt in range(ATTEMPTS):
            left = None if end is None else end - time.monotonic()
            if run and left is not None and left < 2 * attempt * COOLING_SECONDS:
                break
            time.sleep(attempt * COOLING_SECONDS)
            run = self.agent.call(
                "benchmark",
                artifacts=[
                    {"name": name, "path": places[name], "runtime": self._called(artifact)}
                    for name, artifact in artifacts.items()
                ],
                runtime=self.runtime,
                threads=self.threads,
                minimum_count=count,
                minimum_seconds=seconds,
                warmup_seconds=warmup,
                **({} if end is None else {"most_seconds": max(0.0, end - time.monotonic())}),
                **self.beside(),
            )
            self.table.settle(run["references"])
            if run["valid"] or mode == SUSTAINED:  # what a device does when it is hot is what that mode is to show
                break
        return run

    def _place(self, artifact: Artifact) -> str:
        """Where the file is on the device, with those beside it."""
        return self.agent.place(*artifact.sent)

    def _called(self, artifact: Artifact) -> str:
        """What the agent calls the runtime of ``artifact``, or of the one that runs its files on this device."""
        row = find_runtime(artifact.runtime)
        name = row.name if row.name in self.versions else row.here
        return f"{name}+dla{self.dla}" if self.dla is not None and row.engines else name

    @property
    def has_energy(self) -> bool:
        """Whether the device has a meter of its energy that can be read."""
        return has_meter(self.facts)

    def measure_energy(self, artifacts: Mapping[str, Artifact], mode: str) -> Mapping[str, Energy]:
        """What a run of each takes by the device's own meter; nothing where it has none that can be read."""
        return measure_energy(self.agent, artifacts, self.threads, mode) if self.has_energy else {}

    def answer(self, artifact: Artifact, samples: Sequence[Arrays]) -> list[Arrays]:
        """What the device itself answers to each of ``samples``: arrays for the file's inputs, in their order."""
        with scratch_folder() as folder:
            answer = open_there(self.agent, folder, self._called(artifact))(artifact)
            told: list[Arrays] = [answer(sample).outputs for sample in samples]
        self.agent.forget()
        return told

    def kernels(self, artifact: Artifact) -> list[dict[str, Any]]:
        """The kernels that the runtime really executed: name, operator, provider, share of the time in a few runs."""
        return self._profiled(artifact, 0.0)["kernels"]

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> KernelProfile:
        """What the profiler of the artifact's runtime tells, by the names of a plan's ``layers``, or as it tells it."""
        told = self._profiled(artifact, BRIEF_PROFILE if self.brief else measure.PROFILED_SECONDS)
        return KernelProfile(
            artifact.runtime,
            self.versions[artifact.runtime],
            read_kernels(told["kernels"], layers, artifact.path),
            told["runs"],
            told["profiled_run_ms"],
            told["plain_run_ms"],
        )

    def _profiled(self, artifact: Artifact, seconds: float) -> dict[str, Any]:
        runtime = self._called(artifact)
        told = self.agent.call(
            "kernels", path=self._place(artifact), runtime=runtime, threads=self.threads, seconds=seconds
        )
        self.agent.forget()
        return told


def _undisturbed(timing: Mapping[str, Any], references: Mapping[str, Any] | None) -> Undisturbed | None:
    """What is known of an artifact in the undisturbed state; nothing where the agent had no references."""
    if references is None:
        return None
    told = timing["undisturbed"]
    return Undisturbed(told["ms"], told["error"], told["disturbed"], references["ms"])


def _sent(model: bytes) -> dict[str, str]:
    return {"model": base64.b64encode(model).decode()}
