"""What a reader must know of a result's figures: what grew unasked, and what a budget was not used for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from edgesdk.core.budget import GREW, Budget, show
from edgesdk.core.menu import Menu
from edgesdk.core.plan import Plan
from edgesdk.core.report import Measurement, Report, is_predicted, speedup
from edgesdk.core.wording import counted, listed, score
from edgesdk.pipeline.candidates import list_dense
from edgesdk.pipeline.pricing import price_plan
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study
from edgesdk.solve.milp import Solution, Unreachable, solve
from edgesdk.solve.program import LATENCY, PEAK, SIZE

USED = 0.95  # of a bound on latency, from which it is called used
NEAR = 0.9  # of it, from which noise may take a plan over it
LESS = 1e-3  # of a loss, by which a plan must be better to be called so
SHOWN = 2  # changes of a step
TITLES = {LATENCY: "latency", PEAK: "peak memory", SIZE: "size"}
BOUNDS = {**TITLES, "latency_ratio": TITLES[LATENCY], "energy_mj": "energy"}


def add_remarks(
    result: Result, budget: Budget, study: Study, told: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> Result:
    """``result`` with all that was ``told`` of how it came about, the model as it is before that, and what a reader
    must know of its figures."""
    plans = {step["plan"] for step in told if "plan" in step}
    as_is = [each.step(budget) for each in list_dense(study, budget) if each.plan.digest not in plans]
    every = [{"note": note} for note in (*notes, *_remark(result, budget, study, told))]
    return replace(result, history=(*as_is, *told, *every))


def _remark(result: Result, budget: Budget, study: Study, told: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """In words, what the figures of ``result`` do not say by themselves."""
    if not result.deployed.valid:
        yield f"the last run was disturbed, so that its figures may not hold: {result.deployed.reason}"
    if not is_predicted(result.deployed):
        yield from result.deployed.notes
        yield from _say_faster(study.dense, result.deployed)
    if not result.plan.compresses(study.graph):
        yield f"nothing was compressed: the dense model is what is deployed{_list_rejected(told, budget)}"
        return
    if is_empty(result):
        yield "no layer that multiplies is left: what is deployed passes its input on, or always answers the same"
    dense, deployed = result.dense.cost(budget), result.deployed.cost(budget)
    bounded = {"latency_ms" if name == "latency_ratio" else name for name in budget.bounds}
    for name in TITLES:
        before, after = getattr(dense, name), getattr(deployed, name)
        if name not in bounded and after > GREW * before:
            grew = f"from {show(name, before)} to {show(name, after)}"
            yield f"{TITLES[name]} was not bounded and grew {grew}, {after / before:.2f}x of the dense model's"
    if unused := _explain_unused(result, budget, study):
        yield unused
    if result.plan.proof.is_far:
        yield f"the search ended before it came near the best plan: it is {result.plan.proof.words}"


def is_empty(result: Result) -> bool:
    """Whether nothing that multiplies is left of the model, as where its only branch beside a sum was left out."""
    return result.simulated is not None and not any(layer.macs for layer in result.simulated.graph.layers)


def _say_faster(before: Measurement, after: Measurement) -> Iterable[str]:
    """That the device turned out to be faster than when the dense model was measured ``before``, where it did."""
    if isinstance(after, Report) and after.undisturbed:
        times = speedup([before], after.undisturbed.reference_ms)
        if times > 1:
            yield f"the device turned out {times:.2f} times as fast as when it was priced: deploy again to use that"


def _list_rejected(told: Sequence[Mapping[str, Any]], budget: Budget) -> str:
    """What those plans of ``told`` missed that did not keep ``budget``, the nearest first."""
    most = inf if budget.max_drop is None else budget.max_drop
    faults = {step["plan"]: _list_faults(step, most) for step in told if "plan" in step}
    rejected = sorted(
        (reasons for reasons in faults.values() if reasons), key=lambda reasons: max(by for by, _ in reasons)
    )
    if not rejected:
        return ""
    nearest = listed(" and ".join(fault for _, fault in reasons) for reasons in rejected)
    return f"; {counted(len(rejected), 'plan')} that {'was' if len(rejected) == 1 else 'were'} tried: {nearest}"


def _list_faults(step: Mapping[str, Any], most: float) -> list[tuple[float, str]]:
    """What a plan that was tried missed, in words, each with how many times what is allowed that was."""
    misses = [(by, f"{by:.2f}x the {BOUNDS[name]} allowed") for name, by in step.get("misses", {}).items()]
    drop = step.get("drop", 0.0)
    return [*misses, (drop / most if most else inf, f"{score(drop)} points lost")] if drop > most else misses


def _explain_unused(result: Result, budget: Budget, study: Study) -> str | None:
    """Which step of the menu keeps a bound on latency from being used, where it is used to less than 95 %."""
    cost = result.deployed.cost(budget)
    shares = [getattr(cost, name) / bound for name, bound in budget.bounds.items() if name.startswith("latency")]
    if not shares or max(shares) >= USED or budget.energy_mj is not None:
        return None
    at = study.menu()
    bounds = budget.against(study.dense.latency_ms()).bounds
    most = bounds.pop(LATENCY)
    _, loss = price_plan(at, result.plan)
    used = f"{100 * max(shares):.0f} % of the latency that is allowed is used"
    if loss <= 0:
        return f"{used}: nothing on the menu is more accurate"
    try:
        step = solve(at, bounds, LATENCY, max_loss=loss * (1 - LESS))
    except Unreachable:
        return f"{used}: nothing on the menu within the other bounds is more accurate"
    if step.cost.latency_ms <= result.plan.predicted.latency_ms:  # better in both by prices, which only estimate
        return f"{used}: of the plans that were built and keep the budget this one did best"
    names = [*_list_differences(at, result.plan, step)]
    more = f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    ms = step.cost.latency_ms * result.deployed.latency_ms() / result.plan.predicted.latency_ms  # as this was priced
    verdict = "more than is allowed" if ms > most else "near the bound" if ms > NEAR * most else "not tried any more"
    named = f"the next step on the menu ({', '.join(names[:SHOWN])}{more})"
    return f"{used}: {named} would take {show(LATENCY, ms)}, {verdict}"


def _list_differences(at: Menu, plan: Plan, step: Solution) -> Iterable[str]:
    """What ``step`` does otherwise than ``plan``."""
    for group in at.groups:
        if step.kept[group.name] != plan.kept[group.name]:
            yield f"{step.kept[group.name]} channels of {group.name} instead of {plan.kept[group.name]}"
    for branch in sorted(set(plan.dropped) - set(step.dropped)):
        yield f"branch {branch} kept"
    for name, choice in step.choices.items():
        if choice.option != plan.options[name]:
            yield f"{name} in {choice.option} instead of {plan.options[name]}"
