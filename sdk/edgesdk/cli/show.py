"""Results as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesdk.core.budget import show
from edgesdk.core.energy import describe_energy, describe_unmeasured
from edgesdk.core.kernels import TOO_SHORT, describe_cost
from edgesdk.core.pairing import Alone
from edgesdk.core.wording import counted, score, thread_counts
from edgesdk.devices.estimate import deployable
from edgesdk.devices.inventory import LOCAL
from edgesdk.pages.predictions import list_predictions
from edgesdk.pages.render import tell_ends
from edgesdk.pages.verdict import BOUNDS, cost, explain_ratio, latency_ms, verdict
from edgesdk.price.profile import in_a_word

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.bundle.bundle import Bundle
    from edgesdk.cli.documents import Doctor
    from edgesdk.core.kernels import KernelProfile
    from edgesdk.core.plan import Plan
    from edgesdk.core.report import Report
    from edgesdk.core.rollout import Rollout
    from edgesdk.core.target import Limits, Target
    from edgesdk.devices.estimate import Estimate, Estimates
    from edgesdk.price.profile import Pair, Profile
    from edgesdk.workflows.benchmark import Benchmark
    from edgesdk.workflows.export import Exported
    from edgesdk.workflows.gate import Gate
    from edgesdk.workflows.stages import Stages

WIDEST = 200  # columns of a table whose cells are not to be cut
LEGEND = "prices: measured, partly measured, scaled from a similar board, or derived"


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
        shares = [f"{100 * r['undisturbed']['disturbed']:.0f} %" for r in (dense, deployed)]
        table.add_row("disturbed visits", "-", *shares, "")
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


def show_estimate(estimated: Estimate, per_layer: bool, console: Console) -> None:
    """What a model is predicted to cost, and what that rests on."""
    where = f"{estimated.target}, {estimated.runtime}, {counted(estimated.threads, 'thread')}"
    mode = f"{estimated.power_mode}, " if estimated.power_mode else ""
    where += f", {mode}{estimated.clock_ghz:g} GHz" if estimated.clock_ghz else ""
    table = Table(title=f"predicted: {where}", title_justify="left", show_header=False)
    low, high = (show("latency_ms", end) for end in (estimated.latency_low_ms, estimated.latency_high_ms))
    table.add_row("latency", f"{show('latency_ms', estimated.latency_ms)} (90 %: {low} to {high})")
    table.add_row("peak memory added", show("peak_memory_bytes", estimated.peak_memory_bytes))
    own = estimated.runtime_memory_bytes
    table.add_row("runtime's own memory", "not known" if own is None else show("peak_memory_bytes", own))
    table.add_row("size of the file", show("size_bytes", estimated.size_bytes))
    table.add_row("energy of a run", describe_unmeasured(predicted=True, source=None))
    for precision, provenance in estimated.provenance.items():
        table.add_row(f"prices in {precision}", f"{provenance}: {estimated.grounds[precision]}")
    console.print(table)
    if per_layer:
        layers = Table(title="per layer", title_justify="left")
        for heading in ("layer", "runs as", "us", "%"):
            layers.add_column(heading, justify="right" if heading in ("us", "%") else "left", overflow="fold")
        for layer in estimated.layers:
            share = 100 * layer.latency_ms / estimated.latency_ms
            layers.add_row(layer.name, layer.operator, f"{1e3 * layer.latency_ms:.1f}", f"{share:.1f}")
        console.print(layers)
    for note in estimated.notes:
        console.print(f"note: {note}", highlight=False)
    for source in estimated.sources:
        console.print(f"source: {source}", highlight=False)


def show_gate(gated: Gate, console: Console) -> None:
    """The verdict of a gate, and a row for each thing that was compared."""
    console.print(f"{gated.verdict}: {gated.new} against {gated.baseline}", highlight=False, soft_wrap=True)
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


def show_doctor(found: Doctor, console: Console) -> None:
    """What is installed, and what this machine is."""
    device = found.device
    console.print(f"edgesdk {found.edgesdk}, Python {found.python}", highlight=False)
    console.print(f"cache: {found.cache}", highlight=False, soft_wrap=True)  # to be copied
    known = [device.cpu, device.cores and f"{device.cores} cores", *(device.features or ())]
    console.print(", ".join(str(each) for each in known if each), highlight=False)
    if not found.integer_dot_product:
        console.print(
            "no integer dot product: int8 may gain little, and saturates in some kernels; prices are measured",
            highlight=False,
        )
    table = Table(box=None, pad_edge=False, show_header=False)
    for package, version in found.packages.items():
        table.add_row(f"  {package}", version or "not installed")
    console.print(table, highlight=False)


def show_estimates(estimates: Estimates, console: Console) -> None:
    """A row per target and runtime, the fastest first; then what has no figure, and why."""
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "runtime", "in", "predicted", "90 %", "prices"):
        right = heading in ("predicted", "90 %")
        table.add_column(heading, no_wrap=True, overflow="fold", justify="right" if right else "left")
    for estimated in estimates.estimates:
        figures = (estimated.latency_ms, estimated.latency_low_ms, estimated.latency_high_ms)
        median, low, high = (show("latency_ms", ms) for ms in figures)
        precisions, word = "+".join(estimated.provenance), in_a_word(estimated.provenance.values())
        ends = f"{low.removesuffix(' ms')} to {high}"
        table.add_row(estimated.target, estimated.runtime, precisions, median, ends, word)
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=WIDEST)).maximum)
    console.print(table, highlight=False)  # names are to be copied: none is cut short
    for why, where in by_reason(estimates.refused).items():
        console.print(f"{'; '.join(where)}: {why}", highlight=False)
    console.print(LEGEND, highlight=False)
    console.print("one of them in full: edgesdk estimate MODEL --target NAME --runtime RUNTIME", highlight=False)


def by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    """What was refused, by why it was."""
    reasons: dict[str, list[str]] = {}
    for where, why in refused.items():
        reasons.setdefault(why, []).append(where)
    return reasons


def show_targets(profiles: Iterable[Profile], console: Console) -> None:
    """A row per target: its chip, the runtimes that it can be deployed to, what its prices rest on in a word."""
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "chip", "deploys to", "prices"):
        table.add_column(heading, no_wrap=heading != "deploys to", overflow="fold")  # that may take a second line
    for profile in profiles:
        runtimes = deployable(profile)
        table.add_row(
            profile.target.name, _chip(profile.target), ", ".join(runtimes) or "-", _rests_on(profile, runtimes)
        )
    console.print(table, highlight=False)
    console.print(LEGEND, highlight=False)
    console.print("one target in full, with sources and errors: edgesdk targets NAME", highlight=False)


def _chip(target: Target) -> str:
    """Its processor: how many cores of which kind."""
    if target.measured:
        return "this machine"
    processor = next((fact.value for fact in target.facts if fact.fact == "processor"), "not known")
    parts = processor.split(", ")
    return next((part for part in parts if " x " in part), parts[0]).partition(" at ")[0].partition(" (")[0]


def _rests_on(profile: Profile, runtimes: Sequence[str]) -> str:
    """What the prices of ``runtimes`` rest on, in a word."""
    if profile.target.measured:
        return "here"
    return in_a_word(pair.provenance.kind for pair in profile.pairs if pair.runtime in runtimes)


def show_target(profile: Profile, console: Console) -> None:
    """One target: facts with their sources, and what is measured, scaled or derived."""
    target = profile.target
    names = f" (also {', '.join(target.aliases)})" if target.aliases else ""
    console.print(f"[bold]{target.name}[/bold]: {target.title}{names}", highlight=False)
    runtimes = deployable(profile)
    console.print(f"  deploys to: {', '.join(runtimes) or 'nothing yet'}", highlight=False)
    if others := list(dict.fromkeys(pair.runtime for pair in profile.pairs if pair.runtime not in runtimes)):
        console.print(f"  can be estimated, not deployed to: {', '.join(others)}", highlight=False)
    if target.measured:
        console.print("  prices: measured on the machine at hand", highlight=False)
    for pair in profile.pairs:
        console.print(f"  {_pair(pair)}", highlight=False)
    if target.modes:
        told = (f"{mode} ({_limits(limits)})" for mode, limits in target.modes.items())
        console.print(f"  power modes, of which figures are in the first: {'; '.join(told)}", highlight=False)
    for fact in profile.target.facts:
        console.print(f"  {fact.fact}: {fact.value} ({fact.source})", highlight=False)
    for pair in profile.pairs:
        provenance = pair.provenance
        console.print(
            f"  {pair.runtime} {pair.precision}: {provenance.source}; {provenance.date}; version {provenance.version}",
            highlight=False,
        )


def _limits(limits: Mapping[str, Limits]) -> str:
    """What a power mode leaves of each processor."""
    told: list[str] = []
    for chip, limit in limits.items():
        cores = f"{counted(limit.cores, 'core')} at " if limit.cores else ""
        share = f", {100 * limit.share:.3g} % of its units" if limit.share < 1 else ""
        told.append(f"{chip} {cores}{limit.clock_ghz:g} GHz{share}")
    return ", ".join(told)


def _pair(pair: Pair) -> str:
    provenance = pair.provenance
    errors = "; ".join(f"mean error {100 * error:.1f} % ({what})" for what, error in provenance.errors)
    kind = f"{provenance.kind} with {thread_counts(provenance.threads)}" if provenance.networks else provenance.kind
    doubt = f"; in doubt: {provenance.doubt}" if provenance.doubt else ""
    return f"{pair.runtime} {pair.precision}: {kind}; {errors or 'error not measured'}{doubt}"


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
        rows.append(("disturbed visits", f"{100 * quiet.disturbed:.0f} %; all runs, as they came:"))
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


def show_installed(installed: Mapping[str, Any], console: Console) -> None:
    """What a device said of a bundle that it took."""
    health = installed["health"]
    console.print(f"installed: {installed['version']}, before: {installed['previous'] or 'nothing'}", highlight=False)
    for name, error in health["errors"].items():
        console.print(f"{name}: differs there from the recorded sample by {error:.2g} of its spread", highlight=False)
    if health["emulated"]:
        console.print("emulated: nothing was measured there", highlight=False)
    for name in ("latency_ms", "peak_memory_bytes"):
        if health.get(name) is not None:
            console.print(f"measured there: {name.rpartition('_')[0]} {show(name, health[name])}", highlight=False)
    if installed["removed"]:
        console.print(f"removed: {', '.join(installed['removed'])}", highlight=False)


def show_rollout(rollout: Rollout, console: Console) -> None:
    """Where each board of a pool stands."""
    table = Table(title=f"{rollout.pool}: {_count_states(rollout)}", title_justify="left")
    for heading in ("board", "stage", "state", "runs", "measured there"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "runs")
    for board in rollout.boards:
        figures = {"latency_ms": board.latency_ms, "peak_memory_bytes": board.peak_memory_bytes}
        measured = ", ".join(show(name, value) for name, value in figures.items() if value is not None)
        stage = "" if board.stage is None else str(board.stage)
        table.add_row(board.device, stage, board.state, board.version or "", measured)
    console.print(table, highlight=False, markup=False)
    for board in rollout.boards:
        if board.fact is not None:
            text = f"{board.device}: {board.fact}: {board.remedy}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def _count_states(rollout: Rollout) -> str:
    states = [board.state for board in rollout.boards]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def show_facts(name: str, facts: Mapping[str, Any], console: Console) -> None:
    """What a device's agent tells of it, and what it does not."""
    console.print(f"[bold]{name}[/bold]" + (" (emulated)" if facts.get("emulated") else ""), highlight=False)
    untold: list[str] = []
    for key, value in {**facts, **facts["conditions"]}.items():
        if key in ("conditions", "emulated", "schema"):
            continue
        if value not in (None, [], {}):
            console.print(f"  {key.replace('_', ' ')}: {_plainly(value)}", highlight=False)
        elif key not in ("l4t", "graphics"):  # which are of Jetsons
            untold.append(key.replace("_", " "))
    if untold:
        console.print(f"  not told: {', '.join(untold)}", highlight=False)


def _plainly(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plainly(part)}" for key, part in value.items() if part not in (None, [], {}))
    if isinstance(value, list):
        return "; ".join(_plainly(part) for part in value)
    return str(value)


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
