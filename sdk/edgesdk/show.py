"""Results as people read them in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from edgesdk.budget import show
from edgesdk.bundle import Bundle
from edgesdk.plan import Plan
from edgesdk.report import Report


def show_bundle(bundle: Bundle, console: Console) -> None:
    """Dense against deployed, predicted beside measured, what was chosen per layer and why, and where it lies."""
    report = bundle.report
    dense, deployed, score = report["dense"], report["deployed"], report["score"]
    predicted, measured = report["predicted"], report["measured"]
    console.print(f"{report['data']}\n", highlight=False)
    table = Table(title="measured in one interleaved run", title_justify="left")
    for heading in ("", "dense", "deployed", "deployed / dense"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(
        report["metric"],
        f"{score['dense']:.2f}",
        f"{score['deployed']:.2f}",
        f"{score['deployed'] - score['dense']:+.2f}",
    )
    for percentile in ("p50", "p90"):
        a, b = dense["statistics"][percentile], deployed["statistics"][percentile]
        table.add_row(f"latency {percentile}", show("latency_ms", a), show("latency_ms", b), f"{b / a:.2f}")
    for name, label in (("peak_memory_bytes", "peak memory added"), ("size_bytes", "size of the file")):
        table.add_row(label, show(name, dense[name]), show(name, deployed[name]), f"{deployed[name] / dense[name]:.2f}")
    table.add_row(
        "runtime's own memory", *[show("size_bytes", r["runtime_memory_bytes"]) for r in (dense, deployed)], ""
    )
    console.print(table)
    beside = Table(title="predicted beside measured", title_justify="left")
    for heading in ("", "budget", "predicted", "measured", "predicted / measured"):
        beside.add_column(heading, justify="left" if not heading else "right")
    for name, label in (("latency_ms", "latency"), ("peak_memory_bytes", "peak memory"), ("size_bytes", "size")):
        bound = report["budget"][name]
        shown = show(name, bound) if bound is not None else "-"
        beside.add_row(
            label,
            shown,
            show(name, predicted[name]),
            show(name, measured[name]),
            f"{predicted[name] / measured[name]:.3f}",
        )
    console.print(beside)
    show_plan(bundle.plan, console)
    parity = report["parity"]
    console.print(
        f"parity with the simulation: {parity['error']:.2g} of the outputs' spread over {parity['samples']} samples "
        f"(tolerance {parity['tolerance']:g}); top-1 differs on {100 * parity['top1_differs']:.1f} %",
        highlight=False,
    )
    fell = report["fell_back_to_float"]
    console.print(f"fell back to float: {', '.join(fell) if fell else 'no layer'}", highlight=False)
    for group, reason in report["groups_left_whole"].items():
        console.print(f"channels of {group} left whole: {reason}", highlight=False)
    for note in report["notes"]:
        console.print(f"note: {note}", highlight=False)
    console.print(f"bundle: {bundle.path}", highlight=False)


def show_plan(plan: Plan, console: Console) -> None:
    """What was chosen per layer and why, what was struck off, and what the solver proved."""
    table = Table(title="chosen per layer (latency predicted)", title_justify="left")
    for heading in ("layer", "channels", "runs as", "us", "why"):
        table.add_column(heading, justify="right" if heading == "us" else "left", overflow="fold")
    for layer in plan.layers:
        gone = layer.reason.startswith("left out")
        kept = str(plan.kept[layer.name]) if layer.name in plan.kept and not gone else ""
        table.add_row(
            layer.name, kept, "-" if gone else str(layer.option), f"{1e3 * layer.latency_ms:.1f}", layer.reason
        )
    console.print(table)
    for struck in plan.struck:
        slower = f"{1e3 * struck.latency_ms:.1f} us instead of {1e3 * struck.replaces_ms:.1f} us"
        console.print(f"struck off: {struck.layer} as {struck.choice}, {slower}", highlight=False)
    proof = plan.proof
    console.print(
        f"proved within {100 * proof.gap:.2g} % of the best plan at these prices (objective {proof.objective:.4g}, "
        f"bound {proof.bound:.4g}) by {proof.solver} in {proof.seconds:.1f} s",
        highlight=False,
    )


def show_report(report: Report, console: Console) -> None:
    """A benchmark's figures."""
    rows: list[tuple[str, Any]] = [
        (name, "too few samples" if value is None else show("latency_ms", value) if name != "count" else value)
        for name, value in report.statistics.items()
    ]
    if report.load_ms is not None:
        rows.append(("cold load", show("latency_ms", report.load_ms)))
    if report.peak_memory_bytes is not None:
        rows.append(("peak memory added", show("peak_memory_bytes", report.peak_memory_bytes)))
    if report.runtime_memory_bytes is not None:
        rows.append(("runtime's own memory", show("peak_memory_bytes", report.runtime_memory_bytes)))
    rows.append(("size", show("size_bytes", report.size_bytes)))
    runtime = f"{report.runtime} {report.runtime_version}, {report.threads} thread(s)"
    table = Table(
        title=f"{report.name}: {runtime}, {report.device.get('cpu')}", title_justify="left", show_header=False
    )
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)
    if not report.valid:
        console.print(f"invalid: {report.reason}", highlight=False)
