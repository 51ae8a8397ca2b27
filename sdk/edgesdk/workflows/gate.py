"""A gate for CI: whether a new build is slower, or less accurate, than a baseline, on one device, in paired runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.gating import (
    BASELINE,
    EXIT_CODES,
    FAILED,
    INCOMPARABLE,
    MOST_RUNS,
    NEW,
    PASSED,
    UNCLEAR,
    Check,
    Limit,
    Slowdown,
    Taken,
    decide,
    is_looked_at,
    slowdown,
)
from edgesdk.core.pairing import Ratio
from edgesdk.core.report import Report, Tell
from edgesdk.core.sampling import Drop
from edgesdk.core.schema import Schema
from edgesdk.core.scratch import scratch_folder
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.devices.boards import Boards, prices_folder
from edgesdk.devices.inventory import LOCAL
from edgesdk.devices.pools import At, Place, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.workflows.benchmark import check_request, find_artifact

WORSE = (PASSED, UNCLEAR, INCOMPARABLE, FAILED)  # what checks and boards say, the worst last
THROTTLED = 3  # runs in which the device throttled, before a gate gives up


@dataclass(frozen=True)
class BoardGate:
    """What one board of a pool says of the latency: its ``verdict``, in words what it ``measured``, and its ``runs``.

    ``latency`` is ``None`` where its runs cannot be compared.
    """

    verdict: str
    measured: str
    latency: Slowdown | None
    runtime_version: str
    runs: tuple[Ratio, ...]


@dataclass(frozen=True)
class Gate:
    """Whether ``new`` may take the place of ``baseline``.

    ``verdict`` is the worst of the ``checks``: ``failed``, ``not comparable``, ``unclear`` or ``passed``, in that
    order: what one of them shows to be worse is worse, however unsure others are. ``latency`` is their ratio and what
    the new one takes beyond the baseline, in ms, each with its interval; ``drop`` by how much the score fell, with its
    own.

    On a pool ``boards`` has what each board says, by its name. The one with the worst verdict ``decides``, which is
    failed, not comparable, unclear or passed, in that order, and of several the one on which the new one is slowest:
    ``latency`` and ``runs`` are its own. The interval of each board is the
    wider the more boards the pool has. ``notes`` say in what the boards differ, and which dropped out.
    """

    verdict: str
    new: str
    baseline: str
    checks: tuple[Check, ...]
    latency: Slowdown | None
    drop: Drop | None
    runtime: str
    runtime_version: str
    threads: int
    mode: str
    device: str
    runs: tuple[Ratio, ...]
    boards: Mapping[str, BoardGate] = field(default_factory=dict[str, BoardGate])
    decides: str | None = None
    notes: tuple[str, ...] = ()
    schema: str = Schema("gate", 1)

    @property
    def exit_code(self) -> int:
        """0 where it passed, 10 failed, 11 unclear, 12 not comparable."""
        return EXIT_CODES[self.verdict]


def gate(
    new: str | Path, baseline: str | Path, *, max_slower: str = "3%", max_drop: float | None = None,
    data: Any = None, device: At = LOCAL, runtime: str | None = None, threads: int | None = None,
    mode: str = "rapid", tell: Tell = lambda stage, share: None,
) -> Gate:  # fmt: skip
    """Compare ``new`` with ``baseline``, bundles or model files, on ``device``: both are measured here and now.

    Each run is a process of its own, in which blocks of the two take turns. There are 4 to 24 runs, until the interval
    of the ratio lies on one side of ``max_slower`` (``3%``), or that of the difference does (``0.2ms``), in which the
    baseline is no surer than the new one. Of two builds that are equally fast at most 1 in 100 fails, however the speed
    of the machine moves (checked by simulation in the tests). ``max_drop``, in points, compares the scores that two
    bundles recorded or, where there is ``data`` with labels, the top-1 accuracy of both files on its test samples, run
    on this machine: by an interval of the drop, too, paired by sample where it is known which samples were right.
    ``threads`` are by default the bundles' own.

    On ``pool:NAME``, or several devices, each board has such runs of its own, side by side, and the worst verdict is
    that of all; the 1 in 100 holds for all boards together. A board that fails drops out, and those that are left say.

    Two that differ in runtime or threads, or a power mode that changed, are ``not comparable``: a verdict, no error.
    Raises ``UsageError`` for what is asked wrongly, ``BundleError`` for what is no bundle or model file, and
    ``DeviceError`` where the device cannot be reached or throttles all the time.
    """
    limit = Limit.parse(max_slower)
    check_request(threads or 1, mode)
    if max_drop is not None and not 0 <= max_drop < inf:
        raise UsageError(f"a drop of {max_drop:g} points", "give 0 or more, and a finite number")
    if data is not None and max_drop is None:
        raise UsageError("--data without --max-drop", "say what drop is allowed, in points")
    place = find_place(device)
    with scratch_folder() as folder:
        paths = {NEW: Path(new), BASELINE: Path(baseline)}
        models = {name: find_artifact(path, runtime, None, folder / name) for name, path in paths.items()}
        bundles = {name: Bundle.open(path) for name, path in paths.items() if path.is_dir()}
        drop, checks = (None, ()) if max_drop is None else _judge_drop(models, bundles, max_drop, data)
        used = threads or int(next(iter(bundles.values())).manifest.get("threads", 1) if bundles else 1)
        own = {name: int(bundle.manifest.get("threads", 1)) for name, bundle in bundles.items()}
        targets = {name: str(bundle.manifest["target"]) for name, bundle in bundles.items()}
        reason = find_difference(models, own if threads is None else {}, targets)
        boards: Mapping[str, BoardGate] = {}
        notes: tuple[str, ...] = ()
        if reason is None:
            boards, notes = _measure_at(place, _Runs(models, used, mode, limit), tell)
    decides = find_worst(boards)
    measured = None if decides is None else boards[decides]
    checks = (join_boards(boards, decides, limit, reason), *checks)
    return Gate(
        verdict=find_verdict(checks),
        new=str(new),
        baseline=str(baseline),
        checks=checks,
        latency=measured and measured.latency,
        drop=drop,
        runtime=models[NEW].runtime,
        runtime_version=measured.runtime_version if measured else "",
        threads=used,
        mode=mode,
        device=device if isinstance(device, str) else place.name,
        runs=measured.runs if measured else (),
        boards=boards if isinstance(place, Pool) else {},
        decides=decides if isinstance(place, Pool) else None,
        notes=notes,
    )


def find_verdict(checks: Sequence[Check]) -> str:
    """The worst verdict of ``checks``."""
    return max((check.verdict for check in checks), key=WORSE.index)


def find_worst(boards: Mapping[str, BoardGate]) -> str | None:
    """The board whose verdict is the worst; of several the one on which the new one is slowest.

    Where one board shows that the new one is slower, no other that is less sure makes that unclear.
    """

    def rank(name: str) -> tuple[int, float]:
        own = boards[name]
        return WORSE.index(own.verdict), own.latency.ratio if own.latency else 0.0

    return max(boards, key=rank, default=None)


def join_boards(boards: Mapping[str, BoardGate], decides: str | None, limit: Limit, reason: str | None) -> Check:
    """The check of the latency, as the board that ``decides`` says it; of several with their verdicts."""
    if decides is None:
        return judge_latency(None, limit, reason)
    own = boards[decides]
    if len(boards) == 1:
        return Check("latency", own.verdict, str(limit), own.measured)
    every = ", ".join(f"{name} {board.verdict}" for name, board in boards.items())
    return Check("latency", own.verdict, str(limit), f"{decides} decides: {own.measured}; {every}")


def _judge_drop(
    models: Mapping[str, Artifact], bundles: Mapping[str, Bundle], most: float, data: Any
) -> tuple[Drop | None, tuple[Check, ...]]:
    from edgesdk.workflows.accuracy_gate import judge_anew, judge_scores, read_scores  # who asks for no drop waits not

    return judge_scores(read_scores(bundles) if data is None else judge_anew(models, bundles, data), most)


def find_difference(
    models: Mapping[str, Artifact], threads: Mapping[str, int], targets: Mapping[str, str]
) -> str | None:
    """Why the two cannot be compared; ``None`` where they can."""
    new, old = models[NEW].runtime, models[BASELINE].runtime
    if new != old:
        return f"the new one runs on {new}, the baseline on {old}: name one --runtime that reads both"
    if len(set(targets.values())) > 1:
        fact = f"the new one was made for {targets[NEW]}, the baseline for {targets[BASELINE]}"
        return f"{fact}: give a baseline of the same target, or the two model files"
    if len(set(threads.values())) > 1:
        return f"the new one is for {threads[NEW]} threads, the baseline for {threads[BASELINE]}: give --threads"
    return None


@dataclass(frozen=True)
class _Runs:
    """What is run on a device, and how, until it says enough; of ``among`` so many devices."""

    models: Mapping[str, Artifact]
    threads: int
    mode: str
    limit: Limit
    among: int = 1

    def on(self, agent: AgentProcess, tell: Tell, prices: Path | None = None) -> BoardGate:
        """What the device of ``agent`` says, with a fresh process there for each run.

        What its references take is kept in the folder ``prices``.
        """
        runs: list[Report] = []
        baselines: list[Taken] = []
        powered: set[Any] = set()
        throttled = 0
        while len(runs) < MOST_RUNS:
            tell(f"measuring both: run {len(runs) + 1} of up to {MOST_RUNS}", len(runs) / MOST_RUNS)
            bench = Bench(agent, self.threads, self.models[NEW].runtime, prices)
            order = self.models if len(runs) % 2 else dict(reversed(list(self.models.items())))
            measured = bench.measure(order, self.mode, thorough=False, memory=False)
            report, base = measured[NEW], measured[BASELINE]
            agent.close()
            powered |= {when.power_mode for when in (report.conditions.before, report.conditions.after)}
            if len(powered) > 1:
                modes = " and ".join(sorted(map(str, powered)))
                return self._judge(
                    [], [], f"the power mode changed while it was measured ({modes}): fix it, and run again"
                )
            if not report.valid:
                throttled += 1
                if throttled == THROTTLED:
                    raise DeviceError(f"the device throttled in {THROTTLED} runs ({report.reason})", "let it cool")
                continue
            runs.append(report)
            baselines.append(Taken(base.latency_ms(), base.error))
            if is_looked_at(len(runs)) and self._judge(runs, baselines).verdict != UNCLEAR:
                break
        return self._judge(runs, baselines)

    def _judge(self, runs: Sequence[Report], baselines: Sequence[Taken], reason: str | None = None) -> BoardGate:
        ratios = tuple(run.ratios[BASELINE] for run in runs)
        together = slowdown(ratios, baselines, self.among) if len(runs) > 1 else None
        check = judge_latency(together, self.limit, reason)
        version = runs[0].runtime_version if runs else ""
        return BoardGate(check.verdict, check.measured, together, version, ratios)


def _measure_at(place: Place, runs: _Runs, tell: Tell) -> tuple[dict[str, BoardGate], tuple[str, ...]]:
    """What each board of ``place`` says, and of a pool in what they differ, and who dropped out."""
    if not isinstance(place, Pool):
        with reach(place) as agent:
            return {place.name: runs.on(agent, tell)}, ()
    runs = replace(runs, among=len(place.devices))
    with Boards(place) as boards:
        differences = boards.list_differences([runs.models[NEW].runtime])
        taken = boards.each(lambda board, tell: runs.on(board.agent, tell, prices_folder(board.device)), tell)
        return taken, (*differences, *boards.notes)


def _tell_ms(ms: float) -> str:
    """So many ms more or less, to three digits, to a nanosecond."""
    return f"{round(float(f'{ms:.3g}'), 6):+.6f}".rstrip("0").rstrip(".")


def judge_latency(slowdown: Slowdown | None, limit: Limit, reason: str | None) -> Check:
    if slowdown is None:
        return Check("latency", INCOMPARABLE, str(limit), reason or "nothing was measured")
    low, middle, high = (_tell_ms(ms) for ms in (slowdown.low_ms, slowdown.slower_ms, slowdown.high_ms))
    shown = f"{slowdown.ratio:.3f} of the baseline ({slowdown.low:.3f} to {slowdown.high:.3f} in {slowdown.runs} runs)"
    return Check("latency", decide(slowdown, limit), str(limit), f"{shown}, {middle} ms ({low} to {high})")
