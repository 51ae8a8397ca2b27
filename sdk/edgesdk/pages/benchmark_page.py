"""The page of a benchmark: what files took in one interleaved run, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgesdk.core.energy import describe_energy
from edgesdk.core.kernels import describe_cost, read_profiles
from edgesdk.core.wording import counted
from edgesdk.pages.bounds import make_bar
from edgesdk.pages.charts import Bar, draw_rows
from edgesdk.pages.conditions import list_conditions, list_hardware
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document, brief, figure, render
from edgesdk.pages.samples import Samples
from edgesdk.pages.verdict import explain_ratio, latency_ms

MOST = 200  # files
CHARTED = 24  # of which each run is drawn, and each kernel is listed
KERNELS = 500  # of a file


@dataclass(frozen=True)
class Measured:
    """One file: what it ran in, the latency that counts, its figures in words and as numbers, how it ran, its share of
    others."""

    report: Document
    runtime: str
    bar: Bar
    figures: tuple[tuple[str, float | None], ...]
    samples: Samples | None
    shares: tuple[tuple[str, str, str, int], ...]


def render_benchmark(benchmark: Document) -> str:
    """The page of the benchmark that this document is."""
    reports: Sequence[Document] = benchmark["reports"]
    files, first = [_measured(report, number) for number, report in enumerate(reports[:MOST])], reports[0]
    runtimes = list(dict.fromkeys(_runtime(report) for report in reports))
    bars = [file.bar for file in files[:CHARTED]]
    said = "The latency of each file that counts, and on to the ninetieth percentile of all runs"
    return render(
        "benchmark.html",
        title=f"Benchmark: {', '.join(report['name'] for report in reports)}",
        bases=list(dict.fromkeys(report["basis"] for report in reports)),
        files=files,
        chart=draw_rows("files", said, [("", bars, None)]),
        apart=[said for other in reports[1:MOST] if (said := explain_ratio(other, first))],
        more=max(len(reports) - MOST, 0),
        conditions=list_conditions(first["conditions"]),
        device=list_hardware(first["device"]),
        runs_on=", ".join([*runtimes, counted(first["threads"], "thread")]),
        several_runtimes=len(runtimes) > 1,
        mode=first["mode"],
        profiles=[
            (name, profile, describe_cost(profile), Rows.of(profile.kernels, KERNELS))
            for name, profile in list(read_profiles(benchmark).items())[:CHARTED]
        ],
        boards=[
            (
                name,
                name == benchmark["slowest"],
                [(figure(ms, "latency_ms"), ms) for ms in map(latency_ms, own[:CHARTED])],
            )
            for name, own in benchmark["boards"].items()
        ],
        charted=CHARTED,
        notes=benchmark["notes"],
        command=benchmark.get("command"),
        energies=[
            (report["name"], describe_energy(energy), energy["notes"])
            for report in reports[:MOST]
            if (energy := report["energy"]) is not None
        ],
    )


def _latency(report: Document) -> tuple[str, float]:
    """The latency that counts, in words and in ms."""
    return figure(ms := latency_ms(report), "latency_ms"), ms


def _runtime(report: Document) -> str:
    return f"{report['runtime']} {report['runtime_version']}"


def _measured(report: Document, number: int) -> Measured:
    statistics = report["statistics"]
    quiet = report["undisturbed"]
    named = [
        *([] if quiet is None else [("latency_ms", quiet["ms"])]),
        *(("latency_ms", statistics[each]) for each in ("p50", "p90", "p99", "max")), ("latency_ms", report["load_ms"]),
        *((name, report[name]) for name in ("peak_memory_bytes", "size_bytes")),
    ]  # fmt: skip
    return Measured(
        report,
        _runtime(report),
        _bar(report),
        tuple((figure(value, name), value) for name, value in named),
        Samples.of(f"samples-{number}", report["samples_ms"], report["conditions"], brief(report["name"]))
        if number < CHARTED
        else None,
        tuple(
            (name, f"{ratio['median']:.3f}", f"{ratio['low']:.3f} to {ratio['high']:.3f}", ratio["rounds"])
            for name, ratio in list(report["ratios"].items())[:MOST]
        ),
    )


def _bar(report: Document) -> Bar:
    """The latency that counts, up to the ninetieth percentile of all runs."""
    bar = make_bar(report["name"], report["basis"], "latency_ms", latency_ms(report))
    tail = report["statistics"]["p90"]
    if tail is None or tail < bar.value:
        return bar
    return replace(bar, ends=(bar.value, tail), said=f"p90 {figure(tail, 'latency_ms')}")
