"""A gate for CI: whether a new build is slower, or less accurate, than a baseline, on one device, in paired runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgesdk.bundle.bundle import Bundle
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError, UsageError
from edgesdk.core.gating import (
    BASELINE,
    EXIT_CODES,
    INCOMPARABLE,
    MOST_RUNS,
    NEW,
    UNCLEAR,
    Check,
    Limit,
    Slowdown,
    decide,
    is_looked_at,
    slowdown,
)
from edgesdk.core.pairing import Ratio
from edgesdk.core.report import Report, Tell
from edgesdk.core.sampling import Drop
from edgesdk.core.schema import Schema
from edgesdk.core.scratch import scratch_folder
from edgesdk.devices.bench import Bench
from edgesdk.devices.inventory import LOCAL, Device
from edgesdk.devices.reach import reach
from edgesdk.workflows.benchmark import check_request, find_artifact

THROTTLED = 3  # runs in which the device throttled, before a gate gives up


@dataclass(frozen=True)
class Gate:
    """Whether ``new`` may take the place of ``baseline``.

    ``verdict`` is the worst of the ``checks``: ``passed``, ``failed``, ``unclear`` or ``not comparable``. ``latency``
    is the ratio of the two with its interval; ``drop`` by how much the score fell, with its own.
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
    schema: str = Schema("gate", 1)

    @property
    def exit_code(self) -> int:
        """0 where it passed, 10 failed, 11 unclear, 12 not comparable."""
        return EXIT_CODES[self.verdict]


def gate(
    new: str | Path, baseline: str | Path, *, max_slower: str = "3%", max_drop: float | None = None,
    data: Any = None, device: str | Device = LOCAL, runtime: str | None = None, threads: int | None = None,
    mode: str = "rapid", tell: Tell = lambda stage, share: None,
) -> Gate:  # fmt: skip
    """Compare ``new`` with ``baseline``, bundles or model files, on ``device``: both are measured here and now.

    Each run is a process of its own, in which blocks of the two take turns. There are 4 to 24 runs, until the interval
    of the ratio lies on one side of ``max_slower`` (``3%``, or ``0.2ms``). Of two builds that are equally fast at most
    1 in 100 fails, however the speed of the machine moves (checked by simulation in the tests). ``max_drop``, in
    points, compares the scores that two bundles recorded or, where there is ``data`` with labels, the top-1 accuracy of
    both files on its test samples, run on this machine: by an interval of the drop, too, paired by sample where it is
    known which samples were right. ``threads`` are by default the bundles' own.

    Two that differ in runtime or threads, or a power mode that changed, are ``not comparable``: a verdict, no error.
    Raises ``UsageError`` for what is asked wrongly, ``BundleError`` for what is no bundle or model file, and
    ``DeviceError`` where the device cannot be reached or throttles all the time.
    """
    limit = Limit.parse(max_slower)
    check_request(threads or 1, mode)
    if max_drop is not None and max_drop < 0:
        raise UsageError(f"a drop of {max_drop:g} points", "give 0 or more")
    if data is not None and max_drop is None:
        raise UsageError("--data without --max-drop", "say what drop is allowed, in points")
    with scratch_folder() as folder:
        paths = {NEW: Path(new), BASELINE: Path(baseline)}
        models = {name: find_artifact(path, runtime, None, folder / name) for name, path in paths.items()}
        bundles = {name: Bundle.open(path) for name, path in paths.items() if path.is_dir()}
        drop, checks = (None, ()) if max_drop is None else _judge_drop(models, bundles, max_drop, data)
        used = threads or int(next(iter(bundles.values())).manifest.get("threads", 1) if bundles else 1)
        own = {name: int(bundle.manifest.get("threads", 1)) for name, bundle in bundles.items()}
        runs: list[Report] = []
        targets = {name: str(bundle.manifest["target"]) for name, bundle in bundles.items()}
        reason = find_difference(models, own if threads is None else {}, targets)
        where = device if isinstance(device, str) else device.name
        if reason is None:
            runs, reason = _measure(models, device, used, mode, limit, tell)
        slowdown = _together(runs)
        checks = (judge_latency(slowdown, limit, reason), *checks)
    return Gate(
        verdict=max((check.verdict for check in checks), key=list(EXIT_CODES).index),
        new=str(new),
        baseline=str(baseline),
        checks=checks,
        latency=slowdown,
        drop=drop,
        runtime=models[NEW].runtime,
        runtime_version=runs[0].runtime_version if runs else "",
        threads=used,
        mode=mode,
        device=where,
        runs=tuple(run.ratios[BASELINE] for run in runs),
    )


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


def _measure(
    models: Mapping[str, Artifact], device: str | Device, threads: int, mode: str, limit: Limit, tell: Tell
) -> tuple[list[Report], str | None]:
    """Runs of both, each with a fresh process on the device, until they say enough; and why they cannot be compared."""
    runs: list[Report] = []
    powered: set[Any] = set()
    throttled = 0
    while len(runs) < MOST_RUNS:
        tell(f"measuring both: run {len(runs) + 1} of up to {MOST_RUNS}", len(runs) / MOST_RUNS)
        with reach(device) as agent:
            bench = Bench(agent, threads, models[NEW].runtime)
            order = models if len(runs) % 2 else dict(reversed(list(models.items())))
            report = bench.measure(order, mode, thorough=False, memory=False)[NEW]
        powered |= {when.power_mode for when in (report.conditions.before, report.conditions.after)}
        if len(powered) > 1:
            modes = " and ".join(sorted(map(str, powered)))
            return [], f"the power mode changed while it was measured ({modes}): fix it, and run again"
        if not report.valid:
            throttled += 1
            if throttled == THROTTLED:
                raise DeviceError(f"the device throttled in {THROTTLED} runs ({report.reason})", "let it cool")
            continue
        runs.append(report)
        slowdown = _together(runs)
        if is_looked_at(len(runs)) and slowdown is not None and decide(slowdown, limit) != UNCLEAR:
            break
    return runs, None


def _together(runs: list[Report]) -> Slowdown | None:
    if len(runs) < 2:
        return None
    ratios = [run.ratios[BASELINE] for run in runs]
    baseline_ms = median([run.latency_ms() / ratio.median for run, ratio in zip(runs, ratios, strict=True)])
    return slowdown(ratios, baseline_ms)


def _tell_ms(ms: float) -> str:
    """So many ms more or less, to three digits, to a nanosecond."""
    return f"{round(float(f'{ms:.3g}'), 6):+.6f}".rstrip("0").rstrip(".") + " ms"


def judge_latency(slowdown: Slowdown | None, limit: Limit, reason: str | None) -> Check:
    if slowdown is None:
        return Check("latency", INCOMPARABLE, str(limit), reason or "nothing was measured")
    shown = f"{slowdown.ratio:.3f} of the baseline ({slowdown.low:.3f} to {slowdown.high:.3f} in {slowdown.runs} runs)"
    return Check("latency", decide(slowdown, limit), str(limit), f"{shown}, {_tell_ms(slowdown.slower_ms)}")
