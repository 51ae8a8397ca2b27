"""From the dense model to a plan in several cuts: each leaves out of channels and branches what the next does, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.graph import Graph
from edgesdk.core.menu import GroupMenu, LayerMenu, Menu
from edgesdk.core.plan import Option, Plan
from edgesdk.pipeline.planning import Planned, plan_tightest, solve_accounted, to_planned
from edgesdk.pipeline.study import Study
from edgesdk.solve.program import LATENCY


def plan_cuts(study: Study, plan: Plan, count: int) -> tuple[Plan, ...]:
    """The plans on the way to ``plan`` where that is cut in ``count`` steps, without itself; fewer where two are the
    same, and where the time for searching is over.

    Each step takes the same share of the latency that is left. A plan on the way is the search's best at its latency
    among those that leave out no more than the next one; layers run as ``plan`` says, but none in another form.
    """
    graph, cuts, last = study.graph, list[Plan](), None
    options = {name: replace(option, form=None) for name, option in plan.options.items()}
    at = narrow_menu(study.menu(), graph, None, plan, options)
    try:
        high = solve_accounted(study, at, {}).cost.latency_ms
        low = plan_tightest(study, Budget(), LATENCY, at).solution.cost.latency_ms
        for step in range(1, count):
            at = narrow_menu(study.menu(), graph, last, plan, options)
            bound = high * (low / high) ** (step / count)
            cut = plan_cut(study, at, bound).plan
            if list_left_out(cut, graph) not in (
                list_left_out(cuts[-1], graph) if cuts else None,
                list_left_out(plan, graph),
            ):
                cuts += [cut] if cut.structural(graph) else []
                last = cuts[-1] if cuts else None
    except BudgetError:  # by rounding, or for want of time
        pass
    return tuple(cuts)


def plan_cut(study: Study, at: Menu, latency_ms: float) -> Planned:
    """The best of the menu ``at`` within that latency. Raises ``BudgetError`` where none is found."""
    return to_planned(study, at, solve_accounted(study, at, {LATENCY: latency_ms}))


def list_left_out(plan: Plan, graph: Graph) -> tuple[frozenset[tuple[str, int]], frozenset[str]]:
    """The groups of which ``plan`` leaves channels out, with how many it keeps, and the branches that it leaves out."""
    kept = {name: kept for name, kept in plan.kept.items() if kept < graph.group_by_name[name].size}
    return frozenset(kept.items()), frozenset(plan.dropped)


def narrow_menu(
    at: Menu, graph: Graph, wide: Plan | None, narrow: Plan | None = None,
    options: Mapping[str, Option] | None = None,
) -> Menu:  # fmt: skip
    """The menu ``at`` without what leaves out less than ``wide``, or more than ``narrow``, and without other forms.

    Layers run as ``options`` say, where there are any. Channels of a group that are chosen by the shares of its
    layers are not among those that a wider cut leaves: such a group is cut once.
    """
    allowed = {branch.name for branch in at.branches if narrow is None or branch.name in narrow.dropped}
    left = set[str]() if narrow is None else {layer.name for layer in at.layers if layer.branch in narrow.dropped}
    gone = set() if wide is None else {branch.join for branch in at.branches if branch.name in wide.dropped}
    return replace(
        at,
        groups=tuple(
            _narrow_group(
                group, graph, wide, None if left.issuperset(graph.group_by_name[group.name].layers) else narrow
            )
            for group in at.groups
        ),
        branches=tuple(branch for branch in at.branches if branch.name in allowed),
        layers=tuple(
            _narrow_layer(layer, allowed, layer.name in gone, None if options is None else options.get(layer.name))
            for layer in at.layers
        ),
    )


def _narrow_group(group: GroupMenu, graph: Graph, wide: Plan | None, narrow: Plan | None) -> GroupMenu:
    whole = graph.group_by_name[group.name]
    most = whole.size if wide is None else wide.kept.get(group.name, whole.size)
    least = min(group.widths) if narrow is None else narrow.kept.get(group.name, whole.size)
    kept = {width: loss for width, loss in group.widths.items() if least <= width <= most}
    if whole.shares and narrow is not None:
        kept = {width: loss for width, loss in kept.items() if width in (most, least)}
    elif whole.shares and most < whole.size:
        kept = {width: loss for width, loss in kept.items() if width == most}
    return replace(group, widths=kept) if kept else group


def _narrow_layer(layer: LayerMenu, allowed: set[str], is_gone: bool, option: Option | None) -> LayerMenu:
    choices = [choice for choice in layer.choices if choice.option.form is None or choice.option.form.stored]
    if option is not None:
        own = [choice for choice in choices if choice.option == option or choice.skips]
        choices = choices if all(choice.skips for choice in own) else own
    if is_gone:
        choices = [choice for choice in choices if choice.skips] or choices
    branch = layer.branch if layer.branch in allowed else None
    return replace(layer, choices=tuple(choices), branch=branch)
