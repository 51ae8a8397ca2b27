"""The least bytes by the account of whole networks, from where sums found the least: these only come near it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from edgesdk.core.menu import Choice, Menu
from edgesdk.solve.milp import Solution, price

MOST = 3000  # assignments that are tried


def descend(
    at: Menu, begin: Solution, account: Callable[[Solution], Solution], figure: str, bounds: Mapping[str, float]
) -> Solution:
    """``begin``, or what has less of ``figure`` by the ``account``, a step after another: one group at another width,
    one layer carried out otherwise, or all that can be alike, until no such step has less.

    Of the other ``bounds``, by the field of ``Cost``, a step breaks none that holds before it.
    """
    found, tried, better = begin, 0, True
    while better:
        better = False
        for choices, kept in _steps(at, found):
            if tried == MOST:
                return found
            tried += 1
            cost, loss = price(at, choices, kept, found.dropped)
            other = account(replace(found, choices=choices, kept=kept, cost=cost, loss=loss))
            costs = {name: (getattr(found.cost, name), getattr(other.cost, name)) for name in (figure, *bounds)}
            keeps = all(costs[name][1] <= max(bound, costs[name][0]) for name, bound in bounds.items())
            if keeps and costs[figure][1] < costs[figure][0]:
                found, better = other, True
    return found


def _steps(at: Menu, found: Solution) -> Iterator[tuple[Mapping[str, Choice], Mapping[str, int]]]:
    """Assignments that differ from ``found``, as it is when each is asked for, in one group, in one layer, or in all
    layers at once: a second kind of kernel, or changes of precision, may go with the last of them alone."""
    for group in at.groups:
        for width in group.widths:
            if width != found.kept[group.name]:
                kept = {**found.kept, group.name: width}
                if (choices := at_widths(at, found.choices, kept)) is not None:
                    yield choices, kept
    for layer in at.layers:
        if (now := found.choices.get(layer.name)) is not None:
            for choice in layer.choices:
                if choice is not now and _place(choice) == _place(now):
                    yield {**found.choices, layer.name: choice}, found.kept
    for option in dict.fromkeys(choice.option for layer in at.layers for choice in layer.choices):
        alike = {
            layer.name: next((c for c in layer.choices if c.option == option and _place(c) == _place(now)), now)
            for layer in at.layers
            if (now := found.choices.get(layer.name)) is not None
        }
        if alike != found.choices:
            yield {**found.choices, **alike}, found.kept


def at_widths(at: Menu, choices: Mapping[str, Choice], kept: Mapping[str, int]) -> dict[str, Choice] | None:
    """Every layer carried out as in ``choices``, at the widths ``kept``; ``None`` where a layer cannot be."""
    made: dict[str, Choice] = {}
    for layer in at.layers:
        if (now := choices.get(layer.name)) is None:
            continue
        reads, writes = (now.reads if layer.reads is None else kept[layer.reads]), now.writes
        place = (reads, writes if layer.writes is None else kept[layer.writes], now.skips)
        same = [choice for choice in layer.choices if choice.option == now.option and _place(choice) == place]
        if not same:
            return None
        made[layer.name] = same[0]
    return made


def _place(choice: Choice) -> tuple[int | None, int | None, bool]:
    return choice.reads, choice.writes, choice.skips
