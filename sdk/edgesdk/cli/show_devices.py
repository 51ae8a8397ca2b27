"""Devices, what is installed there and what this machine has, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from edgesdk.core.budget import show

if TYPE_CHECKING:  # what is shown is there already; to show a board's facts nobody should wait for torch
    from edgesdk.cli.documents import Doctor
    from edgesdk.core.rollout import Rollout


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
