"""What is allowed of each figure, and what the dense and the deployed model take of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.core.budget import MEASURED, PREDICTED
from edgesdk.core.wording import score
from edgesdk.pages.charts import Bar, draw_rows
from edgesdk.pages.render import Document, figure
from edgesdk.pages.verdict import BOUNDS, LATENCY, cost, drop, latency_ms

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Bound:
    """What is bounded, or would be, with the dense and the deployed figure: whether the budget is kept, where it is."""

    label: str
    most: str | None
    limit: float | None
    kept: bool | None
    bars: tuple[Bar, ...]

    @property
    def verdict(self) -> str:
        return "not bounded" if self.most is None else f"{self.most} allowed, {'kept' if self.kept else 'missed'}"


def draw_bounds(bounds: Sequence[Bound]) -> Markup:
    """A panel for each bound, in which the budget is a line across the bars."""
    said = "What is allowed, and what the dense and the deployed model take of it"
    return draw_rows("bounds", said, [(f"{each.label}: {each.verdict}", each.bars, each.limit) for each in bounds])


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
    bars = [make_bar(who, basis, name, value) for who, (basis, value) in figures.items() if value is not None]
    if name == "latency_ms" and report["basis"] == PREDICTED:
        bars = [_interval(who, report[who]) for who in ("dense", "deployed")]
    if not bars:
        return None
    value = reached.get(name)
    return Bound(
        _label(name, budget),
        None if most is None else figure(most, name),
        most,
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


def make_bar(who: str, basis: str, name: str, value: float) -> Bar:
    """``value`` of the field ``name``."""
    return Bar(who, basis, value, figure(value, name))


def _interval(who: str, predicted: Document) -> Bar:
    """A predicted latency with its interval."""
    middle, *ends = (predicted[name] for name in ("median_ms", "low_ms", "high_ms"))
    low, high = (figure(end, "latency_ms") for end in ends)
    return Bar(who, PREDICTED, middle, figure(middle, "latency_ms"), (ends[0], ends[1]), f"90 %: {low} to {high}")


def _drop(report: Document) -> list[Bound]:
    most, lost = report["budget"].get("max_drop"), drop(report)
    if most is None or lost is None:
        return []
    lost = max(lost, 0.0)
    where = "" if report["basis"] == MEASURED else ", where the file was made"
    bar = Bar("deployed", MEASURED, lost, f"{score(lost)}{where}")
    return [Bound(f"drop of {report['metric']}, in points", f"{most:.3g}", most, lost <= most, (bar,))]
