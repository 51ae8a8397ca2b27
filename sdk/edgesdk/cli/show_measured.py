"""What was measured of files, as people read it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesdk.core.budget import show
from edgesdk.core.energy import describe_energy
from edgesdk.core.kernels import TOO_SHORT, describe_cost
from edgesdk.core.pairing import Alone
from edgesdk.core.wording import counted

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.core.kernels import KernelProfile
    from edgesdk.core.report import Report
    from edgesdk.workflows.benchmark import Benchmark


def show_latency(report: Report, console: Console) -> None:
    """The verdict of a benchmark: the latency alone, and whether it holds."""
    quiet = report.undisturbed
    ms = report.statistics.p50 if quiet is None else quiet.ms
    shown = "too few samples" if ms is None else show("latency_ms", ms)
    held = "" if report.valid else f" (invalid: {report.reason})"
    console.print(f"{report.name}: {shown}{held}", highlight=False)


def show_report(report: Report, console: Console) -> None:
    """A benchmark's figures, and what bore on them."""
    from edgesdk.core.serialize import to_json
    from edgesdk.pages.conditions import tell_conditions  # which brings what makes pages

    quiet = report.undisturbed
    rows: list[tuple[str, Any]] = []
    if quiet is not None:
        rows.append(("undisturbed", f"{show('latency_ms', quiet.ms)} (standard error {100 * quiet.error:.1f} %)"))
        rows.append(("device slowed down", f"{100 * quiet.disturbed:.0f} % of runs; all of them, as they came:"))
    rows += [
        (name, "too few samples" if value is None else show("latency_ms", value) if name != "count" else value)
        for name, value in vars(report.statistics).items()
    ]
    if report.load_ms is not None:
        rows.append(("cold load", show("latency_ms", report.load_ms)))
    if report.peak_memory_bytes is not None:
        rows.append(("peak memory added", show("peak_memory_bytes", report.peak_memory_bytes)))
    if report.runtime_memory_bytes is not None:
        rows.append(("runtime's own memory", show("peak_memory_bytes", report.runtime_memory_bytes)))
    rows.append(("size", show("size_bytes", report.size_bytes)))
    if report.energy is not None:
        rows.append(("energy of a run", describe_energy(vars(report.energy))))
    rows += tell_conditions(to_json(report.conditions))
    runtime = f"{report.runtime} {report.runtime_version}, {counted(report.threads, 'thread')}"
    table = Table(title=f"{report.name}: {runtime}, {report.device.cpu}", title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)
    if not report.valid:
        console.print(f"invalid: {report.reason}", highlight=False)
    if (energy := report.energy) is not None:
        for note in energy.notes:
            if note != energy.reason:  # which the table has
                console.print(f"energy: {note}", highlight=False)


def show_boards(measured: Benchmark, console: Console) -> None:
    """What each board of a pool measured, and which of them counts."""
    if not measured.boards:
        return
    table = Table(title="boards, side by side", title_justify="left")
    for heading in ("board", *(report.name for report in measured.reports)):
        table.add_column(heading, justify="right" if heading != "board" else "left")
    for name, reports in measured.boards.items():
        cells = [show("latency_ms", report.latency_ms()) + ("" if report.valid else " (invalid)") for report in reports]
        table.add_row(f"{name} (slowest)" if name == measured.slowest else name, *cells)
    console.print(table, highlight=False)
    for note in measured.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    console.print(f"below: {measured.slowest}, the slowest", highlight=False)


def show_profile(name: str, profile: KernelProfile, console: Console) -> None:
    """What ran for each layer of the file of that ``name``, in order, and what the profiler that tells it costs."""
    providers = {kernel.provider for kernel in profile.kernels}
    alone = f", all run by {', '.join(providers)}" if len(providers) == 1 else ""
    title = f"{name}: kernels, by the runtime's profiler{alone}"
    table = Table(title=title, title_justify="left", box=None)
    by = () if alone else ("by",)
    for heading in ("layers", "kernel", "computes in", *by, "share", "under the profiler"):
        table.add_column(heading, justify="right" if heading in ("share", "under the profiler") else "left")
    for kernel in profile.kernels:
        ms = kernel.profiled_ms
        table.add_row(
            ", ".join(kernel.layers) or "-",
            kernel.operator,
            kernel.precision or "-",
            *(kernel.provider for _ in by),
            "-" if kernel.share is None else f"{100 * kernel.share:.1f} %",
            "-" if ms is None else show("latency_ms", ms) if ms else TOO_SHORT,
        )
    console.print(table)
    console.print(describe_cost(profile), highlight=False, soft_wrap=True)


def show_ratios(reports: Sequence[Report], console: Console) -> None:
    """What each took of the first, all being from one run."""
    first = reports[0]
    for other in reports[1:]:
        ratio = next(iter(other.ratios.values()))  # they are in the order of the run
        told = f"{ratio.median:.3f} (95 %: {ratio.low:.3f} to {ratio.high:.3f}), {ratio.rounds} interleaved rounds"
        console.print(f"{other.name} / {first.name}: {told}", highlight=False)
        sides = (
            Alone(each.name, each.latency_ms(), each.undisturbed and each.undisturbed.disturbed)
            for each in (other, first)
        )
        if apart := ratio.explain(*sides):
            console.print(apart, highlight=False, soft_wrap=True)
