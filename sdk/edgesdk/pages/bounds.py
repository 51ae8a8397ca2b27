"""A bar for each bound: what is allowed, and what the dense and the deployed model take of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgesdk.core.budget import MEASURED, PREDICTED
from edgesdk.pages.charts import Axis
from edgesdk.pages.render import Document, figure
from edgesdk.pages.verdict import BOUNDS, cost, drop, latency_ms

LATENCY = ("latency_ms", "latency_ratio")


@dataclass(frozen=True)
class Bar:
    """One figure beside others of its kind: its ``basis``, its place, and where it is an interval, that one's ends."""

    who: str
    basis: str
    value: float
    text: str
    to: float
    ends: tuple[float, float] | None = None
    said: str = ""  # the interval in words


@dataclass(frozen=True)
class Bound:
    """What is bounded, or would be, with the dense and the deployed figure: whether the budget is kept, where it is."""

    label: str
    most: str | None
    limit: float | None
    kept: bool | None
    bars: tuple[Bar, ...]


def list_bounds(report: Document) -> list[Bound]:
    """Latency, memory and size, and the drop where it is bounded: what is allowed, dense, deployed and promised."""
    budget, reached = report["budget"], cost(report)
    names = [name for name in BOUNDS if budget.get(name) is not None or name != "latency_ratio"]
    if report["basis"] != PREDICTED and budget.get("latency_ratio") is not None and budget.get("latency_ms") is None:
        names.remove("latency_ms")  # one bar says it; of what is predicted the interval is in ms
    bounds = [_bound(name, report, budget, reached) for name in names]
    return [bound for bound in bounds if bound is not None] + _drop(report)


def _bound(name: str, report: Document, budget: Document, reached: Mapping[str, Any]) -> Bound | None:
    figures = {
        "dense": (report["basis"], _dense(name, report)),
        "deployed": (report["basis"], reached.get(name)),
        "promised": (PREDICTED, (report.get("predicted") or {}).get(name)),
    }
    if report["basis"] == PREDICTED:
        del figures["promised"]  # by the search's sums of the same prices
    most = budget.get(name)
    axis = Axis.over([most, *(value for _, value in figures.values())])
    bars = [make_bar(who, basis, name, value, axis) for who, (basis, value) in figures.items() if value is not None]
    if name == "latency_ms" and report["basis"] == PREDICTED:
        axis = Axis.over([most, *(report[who].get("high_ms") for who in ("dense", "deployed"))])
        bars = [_interval(who, report[who], axis) for who in ("dense", "deployed")]
    if not bars:
        return None
    value = reached.get(name)
    return Bound(
        _label(name, budget),
        None if most is None else figure(most, name),
        None if most is None else axis.place(most),
        None if most is None or value is None else value <= most,
        tuple(bars),
    )


def _label(name: str, budget: Document) -> str:
    share = " as a share of the dense model's" if name == "latency_ratio" else ""
    at = f", p{budget['percentile']:g} of all runs" if name in LATENCY and budget.get("percentile") else ""
    return f"{BOUNDS[name]}{share}{at}"


def _dense(name: str, report: Document) -> float | None:
    """The dense model's figure of that ``name``; its latency at the budget's percentile, where that has one."""
    dense, percentile = report["dense"], report["budget"].get("percentile")
    if name == "latency_ratio":
        return 1.0
    if name == "energy_mj":
        return (dense.get("energy") or {}).get("mj")
    if name != "latency_ms":
        return dense.get(name)
    if percentile and report["basis"] != PREDICTED:
        return dense["statistics"].get(f"p{percentile:g}")
    return latency_ms(dense)


def make_bar(who: str, basis: str, name: str, value: float, axis: Axis) -> Bar:
    """``value`` of the field ``name``, from the start of ``axis``."""
    return Bar(who, basis, value, figure(value, name), axis.place(value))


def _interval(who: str, predicted: Document, axis: Axis) -> Bar:
    """A predicted latency with its interval."""
    middle, low, high = (predicted[name] for name in ("median_ms", "low_ms", "high_ms"))
    said = f"90 %: {figure(low, 'latency_ms')} to {figure(high, 'latency_ms')}"
    ends = (axis.place(low), axis.place(high))
    return Bar(who, PREDICTED, middle, figure(middle, "latency_ms"), axis.place(middle), ends, said)


def _drop(report: Document) -> list[Bound]:
    most, lost = report["budget"].get("max_drop"), drop(report)
    if most is None or lost is None:
        return []
    lost = max(lost, 0.0)
    axis = Axis.over([most, lost])
    bar = Bar("deployed", MEASURED, lost, f"{lost:.3g}", axis.place(lost))
    return [Bound(f"drop of {report['metric']}, in points", f"{most:.3g}", axis.place(most), lost <= most, (bar,))]
