"""Results as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesdk.budget import show

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.bundle import Bundle
    from edgesdk.conversion import Exported
    from edgesdk.estimation import Estimate
    from edgesdk.plan import Plan
    from edgesdk.price.profile import Pair, Profile
    from edgesdk.report import Report
    from edgesdk.staging import Stages


def show_bundle(bundle: Bundle, console: Console) -> None:
    """Dense against deployed, what was chosen per layer and why, what it rests on, and where it lies."""
    report = bundle.report
    console.print(f"{report['data']}\n", highlight=False)
    (_show_measured if report["basis"] == "measured" else _show_predicted)(report, console)
    show_plan(bundle.plan, console)
    _show_beside(report, console)
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
    for line in report["to_measure"]:
        console.print(f"to measure on the board: {line}", highlight=False, soft_wrap=True)
    console.print(f"bundle: {bundle.path}", highlight=False)
    if bundle.installed is not None:
        show_installed(bundle.installed, console)


def _show_measured(report: Mapping[str, Any], console: Console) -> None:
    dense, deployed, score = report["dense"], report["deployed"], report["score"]
    predicted, measured = report["predicted"], report["measured"]
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


def _show_beside(report: Mapping[str, Any], console: Console) -> None:
    """The runtimes side by side, where several were tried: dense and compressed, from the same run as the bundle."""
    for name, reason in report["refused_runtimes"].items():
        console.print(f"{name} has no part in it: {reason}", highlight=False)
    if not report["beside"]:
        return
    own = report["deployed"]["runtime"]
    table = Table(title=f"runtimes side by side ({report['basis']})", title_justify="left")
    for heading in ("runtime", "", "latency p50", "peak memory", "size"):
        table.add_column(heading, justify="left" if heading in ("runtime", "") else "right")
    every = {f"dense {own}": report["dense"], f"deployed {own}": report["deployed"], **report["beside"]}
    for name, one in every.items():
        kind, _, runtime = name.partition(" ")
        latency = one["statistics"]["p50"] if report["basis"] == "measured" else one["median_ms"]
        memory, size = (show(key, one[key]) for key in ("peak_memory_bytes", "size_bytes"))
        table.add_row(runtime, kind, show("latency_ms", latency), memory, size)
    console.print(table)


def _show_predicted(report: Mapping[str, Any], console: Console) -> None:
    """Figures of a profile are never shown as measured ones are: each has its interval."""
    dense, deployed, score = report["dense"], report["deployed"], report["score"]
    table = Table(title=f"predicted, not measured: {deployed['runtime']} on the target", title_justify="left")
    for heading in ("", "budget", "dense", "deployed", "deployed / dense"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(
        f"{report['metric']} (of the files, here)",
        "" if report["budget"]["max_drop"] is None else f"-{report['budget']['max_drop']:g}",
        f"{score['dense']:.2f}",
        f"{score['deployed']:.2f}",
        f"{score['deployed'] - score['dense']:+.2f}",
    )
    for key, label in (
        ("median_ms", "latency"),
        ("peak_memory_bytes", "peak memory"),
        ("size_bytes", "size of the file"),
    ):
        name = "latency_ms" if key == "median_ms" else key
        bound = report["budget"][name]
        ends = [
            f" ({show(name, r['low_ms'])} to {show(name, r['high_ms'])})" if key == "median_ms" else ""
            for r in (dense, deployed)
        ]
        table.add_row(
            label,
            show(name, bound) if bound is not None else "-",
            show(name, dense[key]) + ends[0],
            show(name, deployed[key]) + ends[1],
            f"{deployed[key] / dense[key]:.2f}",
        )
    console.print(table)
    for precision, standing in deployed["standing"].items():
        console.print(f"prices in {precision}: {standing}", highlight=False)


def show_exports(found: Iterable[Exported], console: Console) -> None:
    """The files of one plan, with how far each is from the simulation."""
    table = Table(title="one plan, the same integers in each", title_justify="left")
    for heading in ("format", "file", "size", "run by", "off by (of the spread)", "other top-1"):
        table.add_column(heading, justify="right" if heading in ("size", "other top-1") else "left", overflow="fold")
    for one in found:
        off = f"{one.parity.error:.2g} (tolerance {one.parity.tolerance:g})"
        size = show("size_bytes", one.size_bytes)
        table.add_row(one.format, one.path, size, one.runtime, off, f"{100 * one.parity.top1_differs:.1f} %")
    console.print(table)


def show_estimate(found: Estimate, per_layer: bool, console: Console) -> None:
    """What a model is predicted to cost, and what that rests on."""
    where = f"{found.target}, {found.runtime}, {found.threads} thread(s)"
    table = Table(title=f"predicted: {where}", title_justify="left", show_header=False)
    low, high = (show("latency_ms", end) for end in (found.latency_low_ms, found.latency_high_ms))
    table.add_row("latency", f"{show('latency_ms', found.latency_ms)} (90 %: {low} to {high})")
    table.add_row("peak memory added", show("peak_memory_bytes", found.peak_memory_bytes))
    own = found.runtime_memory_bytes
    table.add_row("runtime's own memory", "not known" if own is None else show("peak_memory_bytes", own))
    table.add_row("size of the file", show("size_bytes", found.size_bytes))
    for precision, standing in found.standing.items():
        table.add_row(f"prices in {precision}", standing)
    console.print(table)
    if per_layer:
        layers = Table(title="per layer", title_justify="left")
        for heading in ("layer", "runs as", "us", "%"):
            layers.add_column(heading, justify="right" if heading in ("us", "%") else "left", overflow="fold")
        for layer in found.layers:
            share = 100 * layer.latency_ms / found.latency_ms
            layers.add_row(layer.name, layer.operator, f"{1e3 * layer.latency_ms:.1f}", f"{share:.1f}")
        console.print(layers)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
    for source in found.sources:
        console.print(f"source: {source}", highlight=False)


def show_targets(found: Iterable[Profile], console: Console) -> None:
    """Every target with its pairs of runtime and precision, and the error that was measured for each."""
    for known in found:
        target = known.target
        names = f" (also {', '.join(target.aliases)})" if target.aliases else ""
        console.print(f"[bold]{target.name}[/bold]: {target.title}{names}", highlight=False)
        if target.measured:
            console.print(f"  {', '.join(target.runtimes)}: measured on the machine at hand", highlight=False)
        for pair in known.pairs:
            console.print(f"  {_pair(pair)}", highlight=False)


def show_target(known: Profile, console: Console) -> None:
    """One target: facts with their sources, and what is measured, scaled or derived."""
    show_targets([known], console)
    for fact in known.target.facts:
        console.print(f"  {fact.fact}: {fact.value} ({fact.source})", highlight=False)
    for pair in known.pairs:
        standing = pair.standing
        console.print(
            f"  {pair.runtime} {pair.precision}: {standing.source}; {standing.date}; version {standing.version}",
            highlight=False,
        )


def _pair(pair: Pair) -> str:
    standing = pair.standing
    errors = "; ".join(f"mean error {100 * error:.1f} % ({what})" for what, error in standing.errors)
    threads = " and ".join(map(str, standing.threads))
    kind = f"{standing.kind} with {threads} thread(s)" if standing.networks else standing.kind
    return f"{pair.runtime} {pair.precision}: {kind}; {errors or 'error not measured'}"


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


def show_ratios(reports: Sequence[Report], console: Console) -> None:
    """What each took of the first, all being from one run."""
    first = reports[0]
    for other in reports[1:]:
        ratio = other.latency_ms() / first.latency_ms()
        console.print(f"{other.name} / {first.name}: p50 {ratio:.3f}, in one interleaved run", highlight=False)


def show_installed(found: Mapping[str, Any], console: Console) -> None:
    """What a device said of a bundle that it took."""
    health = found["health"]
    console.print(f"installed: {found['version']}, before: {found['previous'] or 'nothing'}", highlight=False)
    for name, error in health["errors"].items():
        console.print(f"{name}: differs there from the recorded sample by {error:.2g} of its spread", highlight=False)
    if health["emulated"]:
        console.print("emulated: nothing was measured there", highlight=False)
    for key, name in (("p50_ms", "latency_ms"), ("peak_memory_bytes", "peak_memory_bytes")):
        if health.get(key) is not None:
            console.print(f"measured there: {name.rpartition('_')[0]} {show(name, health[key])}", highlight=False)
    if found["removed"]:
        console.print(f"removed: {', '.join(found['removed'])}", highlight=False)


def show_facts(name: str, facts: Mapping[str, Any], console: Console) -> None:
    """What a device's agent tells of it, what it does not know left out."""
    console.print(f"[bold]{name}[/bold]" + (" (emulated)" if facts.get("emulated") else ""), highlight=False)
    for key, value in {**facts, **facts["conditions"]}.items():
        if value not in (None, [], {}) and key not in ("conditions", "emulated"):
            console.print(f"  {key.replace('_', ' ')}: {_plainly(value)}", highlight=False)


def _plainly(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plainly(part)}" for key, part in value.items() if part not in (None, [], {}))
    if isinstance(value, list):
        return "; ".join(_plainly(part) for part in value)
    return str(value)


def show_stages(found: Stages, console: Console) -> None:
    """The stages with their shares, what is expected, and what it costs in accuracy."""
    basis = found.basis["stages"]
    title = f"{found.path}: {found.precision} in {found.runtime} {found.runtime_version}, {found.threads} thread(s)"
    table = Table(title=title, title_justify="left")
    for heading in ("file", "exit at", "threshold", "reached by", "left by", f"p50 ({basis})"):
        table.add_column(heading, justify="left" if heading in ("file", "exit at") else "right")
    for stage in found.stages:
        limit = "-" if stage.threshold is None else f"{stage.threshold:.4g}"
        table.add_row(
            stage.file, stage.exit or "-", limit, f"{100 * stage.reached:.1f} %", f"{100 * stage.left:.1f} %",
            f"{stage.latency_ms:.4g} ms",
        )  # fmt: skip
    console.print(table)
    ratio = found.expected_ms / found.whole_ms
    whole = f"{ratio:.2f} of the model in one file, {found.whole_ms:.4g} ms ({basis})"
    console.print(f"expected (predicted): {found.expected_ms:.4g} ms a sample, {whole}", highlight=False)
    for name, judged in (("test data", found.test), ("held-out data, by which they were set", found.held)):
        figures = f"dense {judged.dense:.2f} %, last stage {judged.last:.2f} %, staged {judged.staged:.2f} %"
        console.print(f"top-1 on {name}: {figures}", highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
