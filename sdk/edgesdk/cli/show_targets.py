"""Kinds of devices, and what a model will cost there, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgesdk.core.budget import show
from edgesdk.core.energy import describe_unmeasured
from edgesdk.core.wording import counted, thread_counts
from edgesdk.devices.estimate import deployable
from edgesdk.price.profile import in_a_word

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.core.target import Limits, Target
    from edgesdk.devices.estimate import Estimate, Estimates
    from edgesdk.price.profile import Pair, Profile

WIDEST = 200  # columns of a table whose cells are not to be cut
LEGEND = "prices: measured, partly measured, scaled from a similar board, or derived"


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
        for heading in ("layer", "runs as", "latency", "%"):
            layers.add_column(heading, justify="right" if heading in ("latency", "%") else "left", overflow="fold")
        for layer in estimated.layers:
            share = 100 * layer.latency_ms / estimated.latency_ms
            layers.add_row(layer.name, layer.operator, show("latency_ms", layer.latency_ms), f"{share:.1f}")
        console.print(layers)
    for note in estimated.notes:
        console.print(f"note: {note}", highlight=False)
    for source in estimated.sources:
        console.print(f"source: {source}", highlight=False)


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
