"""Bundles, plans and what comes of them, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesdk.cli.show_devices import show_installed, show_rollout
from edgesdk.core.budget import show
from edgesdk.core.energy import describe_energy, describe_unmeasured
from edgesdk.core.wording import counted, score
from edgesdk.devices.inventory import LOCAL
from edgesdk.pages.predictions import list_predictions
from edgesdk.pages.render import tell_ends
from edgesdk.pages.verdict import BOUNDS, cost, explain_ratio, latency_ms, verdict

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.bundle.bundle import Bundle
    from edgesdk.core.plan import Plan
    from edgesdk.workflows.export import Exported
    from edgesdk.workflows.gate import Gate
    from edgesdk.workflows.stages import Stages


def show_bundle(bundle: Bundle, console: Console, quiet: bool = False, verbose: bool = False) -> None:
    """The verdict, and dense against deployed in one table; with ``verbose`` all that is known."""
    report = bundle.report
    for line in verdict(report, bundle.manifest):
        console.print(line, highlight=False, soft_wrap=True)
    if not quiet:
        _show_figures(report, console)
    if verbose:
        _show_rest(bundle, console)
    notes = len(report["notes"])
    more = f" (report.json in it has {counted(notes, 'note')}: -v prints them)" if notes and not verbose else ""
    console.print(f"bundle: {bundle.path}{more}", highlight=False, soft_wrap=True)
    if bundle.installed is not None:
        show_installed(bundle.installed, console)
    if bundle.rollout is not None:
        show_rollout(bundle.rollout, console)


def _show_figures(report: Mapping[str, Any], console: Console) -> None:
    """Dense beside deployed. Figures of a profile are never shown as measured ones are: each has its interval."""
    dense, deployed, budget = report["dense"], report["deployed"], report["budget"]
    measured = report["basis"] == "measured"
    how = "measured in one interleaved run" if measured else "predicted, not measured"
    table = Table(title=f"{how}: {deployed['runtime']}", title_justify="left")
    for heading in ("", "budget", "dense", "deployed", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    drop = "-" if budget["max_drop"] is None else f"{budget['max_drop']:.3g} less"
    before, after = report["score"]["dense"], report["score"]["deployed"]
    table.add_row(report["metric"], drop, score(before), score(after), score(after - before, "+"))
    ratio, bound = f"{cost(report)['latency_ratio']:.2f}", _bound(budget, "latency_ms")
    at = None if budget["percentile"] is None else f"p{budget['percentile']:g}"
    own = [show("latency_ms", latency_ms(r)) for r in (dense, deployed)]
    table.add_row("latency", "-" if measured and at else bound, *own, ratio)
    if measured:
        figures = [r["statistics"].get(at) for r in (dense, deployed)]
        if None not in figures:
            share = f"{figures[1] / figures[0]:.2f}"
            table.add_row(f"latency {at}", bound, *(show("latency_ms", f) for f in figures), share)
    else:
        ends = [" to ".join(show("latency_ms", r[end]) for end in ("low_ms", "high_ms")) for r in (dense, deployed)]
        table.add_row("90 % interval", "", *ends, "")
    if measured and all(r.get("undisturbed") for r in (dense, deployed)):
        shares = [f"{100 * r['undisturbed']['disturbed']:.0f} % of runs" for r in (dense, deployed)]
        table.add_row("device slowed down", "-", *shares, "")
    for name, label in (("peak_memory_bytes", "peak memory added"), ("size_bytes", "size of the file")):
        figures = [r[name] for r in (dense, deployed)]
        table.add_row(label, _bound(budget, name), *(show(name, f) for f in figures), f"{figures[1] / figures[0]:.2f}")
    every = [(r.get("energy") or {}).get("mj") for r in (dense, deployed)]
    energies: list[float] = [mj for mj in every if mj is not None]
    if len(energies) == len(every):
        share = f"{energies[1] / energies[0]:.2f}"
        table.add_row(
            "energy beyond idle", _bound(budget, "energy_mj"), *(show("energy_mj", mj) for mj in energies), share
        )
    console.print(table)
    if apart := explain_ratio(deployed, dense):
        console.print(apart, highlight=False, soft_wrap=True)
    for who, side in (("dense", dense), ("deployed", deployed)):
        if side.get("energy") is not None and side["energy"]["mj"] is None:
            console.print(f"energy of the {who} model: {describe_energy(side['energy'])}", highlight=False)


def _bound(budget: Mapping[str, Any], name: str) -> str:
    """What the budget allows of ``name``; a latency in milliseconds, or as a share of the dense model's."""
    names = ("latency_ms", "latency_ratio") if name == "latency_ms" else (name,)
    bounds = [show(each, budget[each]) for each in names if budget.get(each) is not None]
    return " and ".join(bounds) or "-"


def _show_rest(bundle: Bundle, console: Console) -> None:
    """What was chosen per layer and why, predicted beside measured, and what it all rests on."""
    from edgesdk.pages.conditions import tell_conditions

    report = bundle.report
    console.print(f"{report['data']}\n", highlight=False)
    if report["basis"] == "measured":
        _show_prediction(report, console)
    for precision, provenance in report["deployed"].get("provenance", {}).items():
        console.print(f"prices in {precision}: {provenance}", highlight=False)
    show_plan(bundle.plan, console, verbose=True)
    _show_beside(report, console)
    for name, said in tell_conditions(report["deployed"].get("conditions")):
        console.print(f"{name}: {said}", highlight=False)
    if all(report[name].get("energy") is None for name in ("dense", "deployed")):
        source = (report["deployed"].get("device") or {}).get("energy")
        why = describe_unmeasured(report["basis"] == "predicted", source)
        console.print(f"energy of a run: {why}", highlight=False)
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


def _show_prediction(report: Mapping[str, Any], console: Console) -> None:
    table = Table(title="predicted beside measured", title_justify="left")
    for heading in ("", "predicted", "measured", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in list_predictions(report):
        told = [
            f"{show(row.name, value)}\n{tell_ends(ends, row.name, _brief)}"
            for value, ends in ((row.predicted, row.predicted_ends), (row.found, row.found_ends))
        ]
        table.add_row(row.label, *told, f"{row.ratio:.3f}")
    own = [show("size_bytes", report[name]["runtime_memory_bytes"]) for name in ("dense", "deployed")]
    console.print(table)
    console.print(f"the runtime's own memory: {own[0]} dense, {own[1]} deployed", highlight=False)


def _brief(value: float, name: str) -> str:
    return f"{value:.3g}x" if name == "latency_ratio" else show(name, value)


def _show_beside(report: Mapping[str, Any], console: Console) -> None:
    """The runtimes side by side, where several were tried: dense and compressed, from the same run as the bundle."""
    for name, reason in report["refused_runtimes"].items():
        console.print(f"{name} was left out: {reason}", highlight=False)
    if not report["beside"]:
        return
    own = report["deployed"]["runtime"]
    table = Table(title=f"runtimes side by side ({report['basis']})", title_justify="left")
    for heading in ("runtime", "", "latency", "peak memory", "size"):
        table.add_column(heading, justify="left" if heading in ("runtime", "") else "right")
    every = {
        f"dense {report['dense']['runtime']}": report["dense"],
        f"deployed {own}": report["deployed"],
        **report["beside"],
    }
    for name, measured in every.items():
        kind, _, runtime = name.partition(" ")
        memory, size = (show(key, measured[key]) for key in ("peak_memory_bytes", "size_bytes"))
        table.add_row(runtime, kind, show("latency_ms", latency_ms(measured)), memory, size)
    console.print(table)


def show_exports(exported: Exported, console: Console) -> None:
    """The files of one plan, with how far each is from the simulation."""
    table = Table(title="one plan, the same integers in each", title_justify="left")
    for heading in ("format", "file", "size", "run by", "error (of the spread)", "top-1 differs"):
        table.add_column(heading, justify="right" if heading in ("size", "top-1 differs") else "left", overflow="fold")
    for file in exported.files:
        off = f"{file.parity.error:.2g} (tolerance {file.parity.tolerance:g})"
        size = show("size_bytes", file.size_bytes)
        table.add_row(file.format, file.path, size, file.runtime, off, f"{100 * file.parity.top1_differs:.1f} %")
    console.print(table)


def show_gate(gated: Gate, console: Console, quiet: bool = False) -> None:
    """The verdict of a gate, and a row for each thing that was compared; ``quiet``, the verdict alone."""
    console.print(f"{gated.verdict}: {gated.new} against {gated.baseline}", highlight=False, soft_wrap=True)
    if quiet:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", "verdict", "measured", "allowed"):
        table.add_column(heading, overflow="fold")
    for check in gated.checks:
        table.add_row(check.name, check.verdict, check.measured, check.limit)
    console.print(table, highlight=False)
    if gated.runtime_version:  # something was measured
        where = "this machine" if gated.device == LOCAL else gated.device
        runs_on = f"{gated.runtime} {gated.runtime_version}, {counted(gated.threads, 'thread')}"
        console.print(f"measured on {where}, {runs_on}", highlight=False)
    if gated.boards:
        table = Table(box=None, pad_edge=False)
        for heading in ("board", "verdict", "latency"):
            table.add_column(heading, overflow="fold")
        for name, own in gated.boards.items():
            table.add_row(f"{name} (decides)" if name == gated.decides else name, own.verdict, own.measured)
        console.print(table, highlight=False, markup=False)
    for note in gated.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def show_search(plan: Plan, console: Console, quiet: bool = False, verbose: bool = False) -> None:
    """What a search came to: the cost that it promises, and what it rests on; then the plan."""
    cost = plan.predicted
    figures = ", ".join(f"{BOUNDS[name]} {show(name, getattr(cost, name))}" for name in BOUNDS if getattr(cost, name))
    console.print(f"predicted: {figures}", highlight=False, soft_wrap=True)
    console.print(
        "accuracy: not measured; edgesdk deploy applies the plan and measures it", highlight=False, soft_wrap=True
    )
    where = f"prices of {plan.target}, {plan.runtime}, {counted(plan.threads, 'thread')}"
    console.print(
        f"{where}; {plan.proof.words}",
        highlight=False,
        soft_wrap=True,
    )
    if not quiet:
        show_plan(plan, console, verbose)


def show_plan(plan: Plan, console: Console, verbose: bool = False) -> None:
    """What was chosen per layer and why; with ``verbose`` what was left out as slower, and what the solver proved."""
    table = Table(title="chosen per layer (latency predicted)", title_justify="left")
    for heading in ("layer", "channels", "runs as", "latency", "why"):
        table.add_column(heading, justify="right" if heading == "latency" else "left", overflow="fold")
    for layer in plan.layers:
        gone = layer.reason.startswith("left out")
        kept = str(plan.kept[layer.name]) if layer.name in plan.kept and not gone else ""
        own = show("latency_ms", layer.latency_ms) if layer.latency_ms else "-"  # without a price of its own
        table.add_row(layer.name, kept, "-" if gone else str(layer.option), own, layer.reason)
    console.print(table)
    if not verbose:
        return
    for rejected in plan.rejected:
        slower = " instead of ".join(show("latency_ms", ms) for ms in (rejected.latency_ms, rejected.replaces_ms))
        console.print(
            f"slower on this device, left out: {rejected.layer} as {rejected.choice}, {slower}", highlight=False
        )
    proof = plan.proof
    by = f" (objective {proof.objective:.4g}, bound {proof.bound:.4g}) by {proof.solver}"
    spent = f"{by} in {proof.seconds:.1f} s of processor time"
    console.print(f"{proof.words}{spent if proof.searched else ''}", highlight=False)


def show_stages(stages: Stages, console: Console) -> None:
    """The stages with their shares, what is expected, and what it costs in accuracy."""
    basis = stages.basis["stages"]
    how = f"{stages.precision} in {stages.runtime} {stages.runtime_version}, {counted(stages.threads, 'thread')}"
    title = f"{stages.path}: {how}"
    table = Table(title=title, title_justify="left")
    for heading in ("file", "exit at", "threshold", "reach it", "exit here", f"latency ({basis})"):
        table.add_column(heading, justify="left" if heading in ("file", "exit at") else "right")
    for stage in stages.stages:
        limit = "-" if stage.threshold is None else f"{stage.threshold:.4g}"
        table.add_row(
            stage.file, stage.exit or "-", limit, f"{100 * stage.reached:.1f} %", f"{100 * stage.left:.1f} %",
            show("latency_ms", stage.latency_ms),
        )  # fmt: skip
    console.print(table)
    ratio = stages.expected_ms / stages.whole_ms
    whole = f"{ratio:.2f} of the model in one file, {show('latency_ms', stages.whole_ms)} ({basis})"
    console.print(f"expected (predicted): {show('latency_ms', stages.expected_ms)} a sample, {whole}", highlight=False)
    for name, judged in (("test data", stages.test), ("held-out data, by which they were set", stages.held)):
        figures = f"dense {judged.dense:.2f} %, last stage {judged.last:.2f} %, staged {judged.staged:.2f} %"
        console.print(f"top-1 on {name}: {figures}", highlight=False)
    for note in stages.notes:
        console.print(f"note: {note}", highlight=False)
