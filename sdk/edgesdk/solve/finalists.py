"""From solutions to plans, and the finalists that are evaluated whole because additive prices only estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import TypeVar

from edgesdk.core.budget import show
from edgesdk.core.graph import Graph
from edgesdk.core.menu import LayerMenu, Menu
from edgesdk.core.plan import FP32, LayerPlan, Option, Plan
from edgesdk.price.menu import Losses
from edgesdk.solve.milp import Solution

T = TypeVar("T")
FAR = 20  # times faster: a ratio beyond it says no more than that next to nothing is left


@dataclass(frozen=True)
class Lean:
    """What prices in accuracy are multiplied with, by what they are of: another way to be wrong is another plan."""

    branches: float = 1.0
    widths: float = 1.0
    forms: float = 1.0


LEANINGS = {"even": Lean(), "shallow": Lean(branches=0.2), "deep": Lean(branches=5.0)}
"""How much cheaper or dearer than measured alone a branch is, against channels: recovery heals the two differently."""
OTHERS = {"unfactored": Lean(forms=5.0), "factored": Lean(forms=0.3), "wide": Lean(widths=3.0)}
TRIED = ("even", "deep", "unfactored", "shallow", "factored", "wide")
"""The leanings of plans that are tried without training, in their order."""


def leaning(losses: Losses, lean: str) -> Losses:
    """``losses`` with the prices multiplied as the leaning says."""
    by = {**LEANINGS, **OTHERS}[lean]
    if by == Lean():
        return losses
    return Losses(
        {group: {kept: loss * by.widths for kept, loss in prices.items()} for group, prices in losses.widths.items()},
        {layer: _lean_forms(prices, by.forms) for layer, prices in losses.options.items()},
        {name: loss * by.branches for name, loss in losses.branches.items()},
    )


def _lean_forms(prices: Mapping[Option, float], by: float) -> dict[Option, float]:
    return {option: loss * (1.0 if option.form is None else by) for option, loss in prices.items()}


def halving(
    candidates: Sequence[T], score: Callable[[T, float], float], near: float,
    before: Callable[[Sequence[T], float], None] = lambda left, share: None,
) -> list[tuple[list[T], list[float]]]:  # fmt: skip
    """Rounds of successive halving (Jamieson and Talwalkar 2016, algorithm 1): who took part, and how each scored.

    ``score`` takes a candidate and a share of the effort that the last round takes: at first little, then twice as
    much for the better half, until one or two are left to compare at all of it. Who is within ``near`` of the last that
    goes on goes on, too, so that noise drops nobody. ``before`` a round it is told who takes part, and that share.
    """
    left = list(candidates)
    rounds = max(1, ceil(log2(len(left))))
    finished = []
    for step in range(rounds):
        share = 0.5 ** (rounds - 1 - step)
        before(left, share)
        scores = [score(candidate, share) for candidate in left]
        finished.append((left, scores))
        last = sorted(scores, reverse=True)[(len(left) + 1) // 2 - 1]
        left = [candidate for candidate, reached in zip(left, scores, strict=True) if reached >= last - near]
    return finished


def halving_units(count: int) -> float:
    """How many times the effort of the last round :func:`halving` takes of ``count`` candidates, ties left out."""
    rounds = max(1, ceil(log2(count)))
    return sum(ceil(count / 2**step) * 0.5 ** (rounds - 1 - step) for step in range(rounds))


def as_plan(menu: Menu, solution: Solution, graph: Graph, target: str, runtime: str, threads: int) -> Plan:
    """The plan that ``solution`` is, each layer with the reason for what it became."""
    layers = []
    for entry in menu.layers:
        choice = solution.choices.get(entry.name)
        layer = graph.by_name[entry.name]
        dense_ms = _find_dense_ms(entry)
        if choice is None:
            layers.append(LayerPlan(entry.name, Option(), 0.0, f"left out with branch {entry.branch}", dense_ms))
            continue
        same = [
            other for other in entry.choices
            if other.skips == choice.skips and (other.reads, other.writes) == (choice.reads, choice.writes)
        ]  # fmt: skip
        dense = next((other for other in same if other.option == Option()), choice)
        if choice.skips:
            reason = "passes its input on: its branch is left out"
        elif layer.fixed:
            reason = f"left as it is: {layer.fixed}"
        elif choice.option == Option() and len(same) > 1:
            faster = min(same, key=lambda other: other.latency_ms)
            saved = show("latency_ms", dense.latency_ms - faster.latency_ms)
            reason = f"{faster.option} would save {saved} at a price in accuracy or in changes of precision"
            if faster.option.precision == FP32 and faster.option.form is None:
                reason = "fp32 is the fastest here"
        elif choice.option == Option():
            slower = any(rejected.layer == entry.name for rejected in menu.rejected)
            reason = "every other choice is slower here" if slower else "no other choice"
        elif choice.latency_ms < dense.latency_ms:
            reason = _faster(choice.latency_ms, dense.latency_ms)
        else:
            reason = "saves a change of precision, bytes or memory"
        layers.append(LayerPlan(entry.name, choice.option, choice.latency_ms, reason, dense_ms))
    return Plan(
        graph_digest=graph.digest,
        target=target,
        runtime=runtime,
        threads=threads,
        kept=dict(solution.kept),
        layers=tuple(layers),
        dropped=solution.dropped,
        predicted=solution.cost,
        proof=solution.proof,
        rejected=menu.rejected,
    )


def _find_dense_ms(entry: LayerMenu) -> float | None:
    """What a layer takes as it is: at full width, in floats."""
    as_it_is = [choice for choice in entry.choices if choice.option == Option() and not choice.skips]
    widest = max(as_it_is, key=lambda choice: (choice.reads or 0, choice.writes or 0), default=None)
    return None if widest is None else widest.latency_ms


def _faster(own_ms: float, dense_ms: float) -> str:
    """How much faster a choice is; a ratio only where it says something."""
    if own_ms * FAR < dense_ms:
        return f"saves all but {show('latency_ms', own_ms)} of {show('latency_ms', dense_ms)}"
    return f"{dense_ms / own_ms:.1f}x faster than fp32 at this width"
