"""Prices in ms, bytes and accuracy of every choice, before whole networks correct them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from edgesdk.core.budget import Budget, Cost
from edgesdk.core.graph import Graph
from edgesdk.core.menu import Choice, Menu
from edgesdk.core.plan import FP32, Option, Plan, Rejected
from edgesdk.core.runtime import find_runtime
from edgesdk.pipeline.setup import Setup
from edgesdk.price.account import Account
from edgesdk.price.correct import Correction
from edgesdk.price.menu import Losses, Way, all_widths, drop_slower, full_width, keep_priced, list_ways, menu, options
from edgesdk.price.operator import Operator
from edgesdk.price.planned import planned
from edgesdk.price.prices import Prices
from edgesdk.price.stored import forms
from edgesdk.solve.milp import price


@dataclass(frozen=True)
class Priced:
    """The options of each layer that this device does not run slower than what they replace, and what operators take.

    ``rejected`` are the options that it runs slower.
    """

    prices: Prices
    space: Mapping[str, tuple[Option, ...]]
    rejected: tuple[Rejected, ...]


def price_full_width(setup: Setup, budget: Budget) -> Priced:
    """Time, or predict, every option that may be chosen within ``budget`` at full width, as far as there is time.

    What has no price then is not in its space.
    """
    runtime = find_runtime(setup.runtime)
    bits = runtime.weight_bits if budget.size_bytes is not None else (8,)
    every = {
        layer.name: (
            *(
                option
                for option in options(layer, bits, setup.candidates)
                if option.precision in setup.precisions
                and (option.precision == FP32 or runtime.is_integer(layer, setup.graph))
            ),
            *(Option(form=form) for form in forms(layer, setup.candidates, setup.runtime)),
        )
        for layer in setup.graph.layers
    }
    prices = setup.meter.prices(sum(prod(layer.weight_shape) for layer in setup.graph.layers if layer.weight_shape))
    _price(setup, full_width(setup.graph, every), prices, "whole layers")
    space, rejected = drop_slower(setup.graph, keep_priced(setup.graph, every, prices), prices, budget)
    return Priced(prices, space, rejected)


def price_widths(setup: Setup, priced: Priced) -> None:
    """Time, or predict, what is in its space at every other width, from coarse grids of widths to fine."""
    _price(setup, all_widths(setup.graph, priced.space), priced.prices, "fewer channels")


def _price(setup: Setup, operators: Sequence[Operator], prices: Prices, of_what: str) -> None:
    stage = f"pricing {of_what} ({setup.runtime})"
    setup.tell(stage, 0.0)
    setup.time(operators, lambda share: setup.tell(stage, share))
    every = {op.key: op for op in operators}.values()
    if unpriced := sum(not prices.has_price(op) for op in every):
        setup.deadline.note_cut(f"the pricing of {of_what} ({unpriced} of {len(every)} operators, {setup.runtime})")


@dataclass(frozen=True)
class Pricing:
    """All prices of a model's choices, as parts: what corrects them comes from whole networks.

    ``account`` has the bytes of whole networks, ``losses`` the prices in accuracy.
    """

    graph: Graph
    priced: Priced
    losses: Losses
    account: Account

    @cached_property
    def _ways(self) -> Mapping[str, Sequence[Way]]:
        return list_ways(self.graph, self.priced.space, self.account)

    def menu(self, correction: Correction, losses: Losses | None = None) -> Menu:
        """Every choice at its corrected price; with other ``losses`` where given."""
        return menu(
            self.graph, self.priced.space, self.priced.prices, losses or self.losses, correction, self.priced.rejected,
            self.account, self._ways,
        )  # fmt: skip

    def bytes_of(
        self, choices: Mapping[str, Choice], kept: Mapping[str, int], dropped: Sequence[str]
    ) -> tuple[float, float]:
        """Peak memory and size of what those choices make, by the account of whole networks."""
        chosen = {name: choice.option for name, choice in choices.items()}
        graph, options = planned(self.graph, chosen, kept, tuple(dropped))
        return self.account.peak_bytes(graph, options), self.account.size_bytes(graph, options)


def pick_full_width(at: Menu, options: Mapping[str, Option]) -> dict[str, Choice]:
    """The choices that leave nothing out and carry layers out as ``options`` say, in fp32 where they say nothing."""
    picked = {}
    for layer in at.layers:
        wanted = options.get(layer.name, Option())
        same = [choice for choice in layer.choices if choice.option == wanted and not choice.skips]
        picked[layer.name] = max(same, key=lambda choice: (choice.reads or 0, choice.writes or 0))
    return picked


def pick_planned(at: Menu, plan: Plan) -> dict[str, Choice]:
    """The choices of the menu ``at`` that ``plan`` is made of. Raises ``StopIteration`` where it has none such."""
    joins = {branch.join for branch in at.branches if branch.name in plan.dropped}
    options, picked = plan.options, {}
    for layer in at.layers:
        if layer.branch in plan.dropped:
            continue
        own = (options[layer.name], *(plan.kept.get(group or "") for group in (layer.reads, layer.writes)))
        picked[layer.name] = next(
            choice
            for choice in layer.choices
            if (choice.option, choice.reads, choice.writes) == own and choice.skips == (layer.name in joins)
        )
    return picked


def price_plan(at: Menu, plan: Plan) -> tuple[Cost, float]:
    """What ``plan`` costs and what it should lose, at the prices of the menu ``at``."""
    return price(at, pick_planned(at, plan), plan.kept, plan.dropped)
