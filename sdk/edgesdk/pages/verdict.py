"""What a run came to, in three lines: the budget, the accuracy, and what both rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from edgesdk.core.budget import GREW, show
from edgesdk.core.pairing import Alone, Ratio
from edgesdk.core.serialize import from_json
from edgesdk.core.wording import counted, score
from edgesdk.pages.render import figure

BOUNDS = {
    "latency_ms": "latency", "latency_ratio": "latency", "peak_memory_bytes": "peak memory", "size_bytes": "size",
    "energy_mj": "energy of a run",
}  # fmt: skip
LATENCY = ("latency_ms", "latency_ratio")
TELLING = 0.1  # of the multiplications, out of reach, from which the first line says so


def verdict(report: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    """Whether the budget is kept, with figures; the score before and after; what that rests on."""
    return _budget(report), _score(report), _ground(report, manifest)


def cost(report: Mapping[str, Any]) -> dict[str, float]:
    """What the deployed file costs: as measured, else as predicted, with its latency as a share of the dense one's."""
    dense, deployed = (latency_ms(report[name]) for name in ("dense", "deployed"))
    if report["basis"] == "measured":
        figures = dict(report["measured"])
    else:
        figures = {key: report["deployed"][key] for key in ("peak_memory_bytes", "size_bytes")} | {
            "latency_ms": deployed
        }
    if figures.get("latency_ratio") is None:
        figures["latency_ratio"] = deployed / dense
    return figures


def latency_ms(measured: Mapping[str, Any]) -> float:
    """The latency that counts of a report: the undisturbed state's, else the median of the runs; or the predicted."""
    if "median_ms" in measured:
        return measured["median_ms"]
    quiet = measured.get("undisturbed")
    return quiet["ms"] if quiet else measured["statistics"]["p50"]


def explain_ratio(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Why the ratio of two that were measured side by side is not that of their latencies, where it is not.

    The ``other`` is the dense model, or the first of the run, as ratios are in its order.
    """
    ratios = own.get("ratios") or {}  # of files by their paths
    ratio = ratios.get(other["name"], next(iter(ratios.values()), None))
    if ratio is None or "median_ms" in own:
        return None
    sides = (Alone(each["name"], latency_ms(each), (each.get("undisturbed") or {}).get("disturbed"))
             for each in (own, other))  # fmt: skip
    return from_json(Ratio, ratio).explain(*sides)


def provenance(predicted: Mapping[str, Any]) -> Mapping[str, str]:
    """What prices rest on, by precision; documents of before call it otherwise."""
    return predicted.get("provenance") or predicted.get("standing") or {}


def _budget(report: Mapping[str, Any]) -> str:
    budget, reached = report["budget"], cost(report)
    bounds = {name: budget[name] for name in BOUNDS if budget.get(name) is not None}
    told = [
        f"{BOUNDS[name]} {show(name, reached[name])} ({figure(most, name)} allowed)" for name, most in bounds.items()
    ]
    lost = drop(report)
    if budget["max_drop"] is not None:
        known = "not known" if lost is None else score(max(lost, 0))
        told.append(f"drop {known} ({counted(budget['max_drop'], 'point', '.3g')} allowed)")
    if not bounds:
        told.insert(0, "latency " + ", ".join(show(name, reached[name]) for name in ("latency_ms", "latency_ratio")))
    missed = [name for name, bound in bounds.items() if reached[name] > bound]
    missed += ["max_drop"] * (budget["max_drop"] is not None and (lost is None or lost > budget["max_drop"]))
    kept = "budget missed" if missed else "budget kept"
    if not report.get("compressed", True):
        kept = f"nothing was compressed{_why(report)}, {kept} by the dense model"
    kept += "" if report["basis"] == "measured" else ", as predicted"
    return f"{kept}: {', '.join(told)}{_eased(report)}{_grown(report)}{_left(report)}"


def _eased(report: Mapping[str, Any]) -> str:
    """That what nobody gave is out of reach, so that another bound took its place."""
    return f"; {report['eased']}" if report.get("eased") else ""


def _grown(report: Mapping[str, Any]) -> str:
    """Which figures that nobody bounded are more than the dense model's."""
    if not report.get("compressed", True):
        return ""
    reached, dense = cost(report), report["dense"]
    shares = {"latency": reached["latency_ratio"]}
    shares |= {BOUNDS[name]: reached[name] / dense[name] for name in ("peak_memory_bytes", "size_bytes") if dense[name]}
    bounded = {BOUNDS[name] for name in BOUNDS if report["budget"].get(name) is not None}
    told = [
        f"{title} {share:.2f}x of dense" for title, share in shares.items() if title not in bounded and share > GREW
    ]
    return f"; not bounded, and grew: {', '.join(told)}" if told else ""


def _left(report: Mapping[str, Any]) -> str:
    """How much of the work is in layers that nothing could be done to, where that is a share to speak of, and why."""
    shares = report.get("out_of_reach", {})
    if sum(shares.values()) < TELLING:
        return ""
    most = max(shares, key=shares.__getitem__)
    return f"; {100 * sum(shares.values()):.0f} % of the multiplications were out of reach ({most})"


def _why(report: Mapping[str, Any]) -> str:
    """What kept most layers as they are, where that was not the search's choice."""
    reasons = Counter("" if "would save" in reason else reason for reason in report.get("reasons", ()))
    most = max(reasons, key=reasons.__getitem__, default="")
    return f" ({most})" if most else ""


def _score(report: Mapping[str, Any]) -> str:
    lost = drop(report)
    before, after = (_known(report["score"][side]) for side in ("dense", "deployed"))
    return f"{report['metric']}: {before} before, {after} after" + (
        f" ({score(-lost, '+')})" if lost is not None else ""
    )


def _known(figure: float | None) -> str:
    return "not known" if figure is None else score(figure)


def drop(report: Mapping[str, Any]) -> float | None:
    """What the score lost; ``None`` where one of the two is no number."""
    before, after = report["score"]["dense"], report["score"]["deployed"]
    return None if None in (before, after) else before - after


def _ground(report: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    deployed, date = report["deployed"], str(manifest["created"])[:10]
    threads = counted(deployed["threads"], "thread")
    if report["basis"] == "measured":
        device = deployed["device"]
        where = device.get("board") or device.get("cpu") or "this machine"
        return f"measured on {where}, {deployed['runtime']} {deployed['runtime_version']}, {threads}, {date}"
    rests_on = ", ".join(f"{precision} {kind}" for precision, kind in provenance(deployed).items())
    where = f"{manifest['target']}'s profile ({rests_on}), {deployed['runtime']}, {threads}, {date}"
    return f"predicted, nothing ran on the board: {where}"
