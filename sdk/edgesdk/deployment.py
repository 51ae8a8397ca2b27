"""The whole way: study, search, compress, measure, correct, recover, export, prove, pack."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.artefact import Artefact
from edgesdk.budget import Budget, Cost, show
from edgesdk.bundle import Bundle, pack, reserve
from edgesdk.compress.apply import compressed
from edgesdk.compress.data import Data, load_data
from edgesdk.compress.load import load_callable, load_model
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.compress.task import Metric, Task
from edgesdk.device import target as find_target
from edgesdk.errors import BudgetError, UsageError
from edgesdk.example.data import example_data, example_model
from edgesdk.export.onnx import export
from edgesdk.forecast import Forecast
from edgesdk.menu import Menu
from edgesdk.plan import Plan
from edgesdk.price.correct import Correction
from edgesdk.remote.bench import Bench
from edgesdk.remote.local import LocalDevice
from edgesdk.result import Result
from edgesdk.solve.finalists import LEANINGS, as_plan, leaning
from edgesdk.solve.milp import Solution, solve
from edgesdk.study import Study, Tell, study
from edgesdk.training import Candidate, Training

ROUNDS = 6  # of searching, measuring and correcting
MARGIN = 0.03  # searched below the budget, so that noise between runs does not break it
DEFAULT_DROP = 1.0  # points, for a target that is not at hand
DROP_STEPS = 4  # bisections of the latency that a bound on accuracy allows
EXAMPLE_EPOCHS, DEFAULT_EPOCHS = 8.0, 10.0


def quiet(stage: str, share: float | None) -> None:
    """Tell nobody."""


def search(
    model: nn.Module | str | None = None, target: str = "x86", data: Any = None, budget: Budget | None = None, *,
    weights: Path | None = None, metric: str | Metric = "top-1", threads: int = 1, seed: int = 0, tell: Tell = quiet,
) -> Plan:  # fmt: skip
    """The plan alone: the most accurate within ``budget`` (ms, bytes), with what the solver proved of it.

    Prices are measured on this machine, or read from the cache of those that were; for other targets they are their
    profile's. Raises ``BudgetError`` where no plan
    keeps the budget, and the errors of :func:`deploy` for what is wrong with the inputs.
    """
    find_target(target)
    metric = _metric(metric)
    loaded, found, _ = _inputs(model, data, weights, metric, seed)
    with _studied(loaded, found, metric, target, threads, budget, tell, again=False) as (known, goal):
        tell("searching", None)
        return _planned(known, goal, target, "even")[0]


def deploy(
    model: nn.Module | str | None = None, target: str = "x86", data: Any = None, budget: Budget | None = None,
    out: str | Path = "bundle", *, weights: Path | None = None, metric: str | Metric = "top-1", threads: int = 1,
    epochs: float | None = None, seed: int = 0, force: bool = False, tell: Tell = quiet,
) -> Bundle:  # fmt: skip
    """Turn ``model`` into a bundle that keeps ``budget`` on ``target``: measured on this machine, predicted elsewhere.

    ``model`` is a module, ``file.py:callable`` or ``package.module:callable``; ``None`` takes the built-in example.
    ``data`` is a path, ``file.py:callable`` or an object with ``train``, ``calibration`` and ``test``. Without a budget
    the bound is half of the dense model's measured p50 on this machine, and a point of accuracy elsewhere, where a
    small model may be mostly calls that no narrower layer makes fewer.

    Raises ``ModelError``, ``DataError``, ``UsageError``, ``BudgetError`` (with the tightest reachable figures),
    ``BundleError`` where ``out`` exists without ``force``.
    """
    find_target(target)
    metric = _metric(metric)
    with reserve(Path(out), force) as place:
        loaded, found, example = _inputs(model, data, weights, metric, seed)
        total = epochs if epochs is not None else EXAMPLE_EPOCHS if example else DEFAULT_EPOCHS
        with _studied(loaded, found, metric, target, threads, budget, tell) as (known, goal):
            training = Training(known, total, seed, tell)
            if goal.bounds:
                result = _within(known, goal, target, training)
            else:
                result = _fastest(known, goal, target, training)
            return pack(
                place, result, target, found, known.network, goal, _facts(known, total, seed, training.can_learn)
            )


@contextmanager
def _studied(
    model: nn.Module,
    data: Data,
    metric: str | Metric,
    target: str,
    threads: int,
    budget: Budget | None,
    tell: Tell,
    again: bool = True,
) -> Iterator[tuple[Study, Budget]]:
    task = Task(metric, data.labelled)
    device = find_target(target)
    with LocalDevice() as agent, tempfile.TemporaryDirectory(prefix="edgesdk-") as folder:
        bench = Bench(agent, threads) if device.measured else Forecast(device, agent, threads)
        precisions = device.precisions[bench.runtime]
        known = study(
            model, data, task, bench, budget or Budget(), Path(folder), tell, again=again, precisions=precisions
        )
        assert known.dense is not None
        goal = budget or Budget()
        if not goal.bounds and goal.max_drop is None and device.measured:
            goal = replace(goal, latency_ms=known.dense.latency_ms(goal.percentile) / 2)
        elif not goal.bounds and goal.max_drop is None:
            goal = replace(goal, max_drop=DEFAULT_DROP)
        yield known, goal


def _metric(metric: str | Metric) -> str | Metric:
    """``metric``, read from its file where it is ``file.py:callable``."""
    return load_callable(metric, "metric", UsageError) if isinstance(metric, str) and ":" in metric else metric


def _facts(known: Study, epochs: float, seed: int, learns: bool) -> dict[str, Any]:
    """What the report says beside the figures."""
    kept = {g.name: g.fixed for g in known.graph.groups if g.fixed}
    notes = [] if learns else ["no training data, or no epochs: nothing was recovered beyond calibration"]
    return {
        "metric": known.task.name,
        "notes": notes,
        "epochs": epochs if learns else 0,
        "seed": seed,
        "groups_left_whole": kept,
        "layers_left_as_they_are": {layer.name: layer.fixed for layer in known.graph.layers if layer.fixed},
        "observations": known.observations,
    }


def _inputs(
    model: nn.Module | str | None, data: Any, weights: Path | None, metric: str | Metric, seed: int
) -> tuple[nn.Module, Data, bool]:
    if model is None:
        return example_model(), example_data(seed) if data is None else load_data(data, seed=seed), True
    return load_model(model, weights), load_data(data, seed=seed, classifies=metric == "top-1"), False


def _planned(
    known: Study, goal: Budget, target: str, lean: str, tight: float = 1 - MARGIN
) -> tuple[Plan, Solution, Menu]:
    """The best plan at today's prices, its latency ``tight`` below the budget's."""
    at = known.menu(losses=leaning(known.losses, lean))
    bounds = dict(goal.bounds)
    if "latency_ms" in bounds:
        assert known.dense is not None
        tail = known.dense.latency_ms(goal.percentile) / known.dense.latency_ms()  # bounds hold at the percentile
        bounds["latency_ms"] *= tight / tail
    try:
        solution = solve(at, bounds)
    except BudgetError:
        solution = solve(at, goal.bounds)  # out of reach without the margin too: says so in the user's own figures
    return as_plan(at, solution, known.graph, target, known.bench.runtime, known.bench.threads), solution, at


def _candidate(known: Study, plan: Plan, name: str) -> Candidate:
    """The plan carried out and measured, its ranges calibrated but nothing trained: latency does not need that."""
    small, options = compressed(known.network, plan, known.data.example, known.scores)
    ready = integer(small, options)
    calibrate(ready, known.calibration)
    path = known.folder / f"{name}.onnx"
    export(ready, known.data.example, path)
    made = {name: Artefact(path, small.graph, options)}
    report = known.bench.measure(made, "rapid", known.baseline(), thorough=False)[name]
    return Candidate(plan, small, options, report)


def _within(known: Study, goal: Budget, target: str, training: Training) -> Result:
    """The most accurate plan within the budget: search, measure, correct, until what is measured keeps it."""
    tight, history = 1 - MARGIN, []
    for attempt in range(ROUNDS):
        finalists: dict[str, Candidate] = {}
        for lean in LEANINGS:
            known.tell("searching and measuring", None)
            plan, solution, _ = _planned(known, goal, target, lean, tight)
            if plan.digest in finalists:
                continue
            candidate = _candidate(known, plan, f"candidate-{attempt}-{lean}")
            plain = known.menu(Correction())
            known.observe(plain, _plain(plain, solution), solution.kept, solution.dropped, candidate.report)
            measured = candidate.report.cost(goal)
            misses = goal.misses(measured)
            history.append(_step(lean, plan, measured, misses))
            if not misses:
                finalists[plan.digest] = candidate
        if finalists:
            result = training.best(list(finalists.values()))
            result = replace(result, history=(*history, *result.history))
            measured = result.deployed.cost(goal)
            if not goal.misses(measured):
                return _judged(result, goal, known)
            history = [*result.history, _step("final", result.plan, measured, goal.misses(measured))]
        tight -= MARGIN / 2
    last = history[-1]["measured"]
    reached = ", ".join(f"{name.split('_')[0]} {show(name, getattr(last, name))}" for name in goal.bounds)
    raise BudgetError(
        f"after {ROUNDS} rounds the measured model still misses the budget ({reached})", "loosen the budget"
    )


def _fastest(known: Study, goal: Budget, target: str, training: Training) -> Result:
    """The fastest plan whose accuracy drops by no more than ``max_drop`` points: bisection on the latency."""
    assert goal.max_drop is not None and known.dense is not None
    low, high = 0.1, 1.0
    best: Candidate | None = None
    history: list[Mapping[str, Any]] = []
    reference = training.holdout(known.network)
    for step in range(DROP_STEPS):
        share = (low * high) ** 0.5
        bound = replace(goal, latency_ms=known.dense.latency_ms() * share, max_drop=None)
        try:
            plan, solution, _ = _planned(known, bound, target, "even")
        except BudgetError:
            low = share
            continue
        candidate = _candidate(known, plan, f"candidate-{step}")
        plain = known.menu(Correction())
        known.observe(plain, _plain(plain, solution), solution.kept, solution.dropped, candidate.report)
        drop = reference - training.short(candidate)
        history.append({**_step("even", plan, candidate.report.cost(), {}), "drop": drop})
        if drop <= goal.max_drop:
            best, high = candidate, share
        else:
            low = share
    share = 1.0 if best is None else best.report.latency_ms() / known.dense.latency_ms()
    while True:
        if best is None:  # nothing faster is known to be within it: try one that gives up less
            bound = replace(goal, latency_ms=known.dense.latency_ms() * share * (1 + MARGIN), max_drop=None)
            best = _candidate(known, _planned(known, bound, target, "even")[0], f"slower-{share:.3f}")
        result = training.full(best)
        drop = result.dense_score - result.score
        if drop <= goal.max_drop:
            return replace(result, history=(*history, *result.history))
        if share >= 1.0:
            break
        best, share = None, min(1.0, share * 1.25)
    raise BudgetError(
        f"no plan was found whose accuracy drops by at most {goal.max_drop:g} points",
        "give more --epochs or a larger drop",
    )


def _judged(result: Result, goal: Budget, known: Study) -> Result:
    drop = result.dense_score - result.score
    if goal.max_drop is not None and drop > goal.max_drop:
        raise BudgetError(
            f"within that budget the {known.task.name} drops by {drop:.2f} points, more than {goal.max_drop:g}",
            f"allow {drop:.2f} points, loosen the budget, or give more --epochs",
        )
    return result


def _plain(at: Menu, solution: Solution) -> Mapping[str, Any]:
    """The solution's choices at the uncorrected prices of the menu ``at``."""
    by_name = {layer.name: layer for layer in at.layers}
    same = ("option", "reads", "writes", "skips")
    return {
        name: next(c for c in by_name[name].choices if all(getattr(c, f) == getattr(choice, f) for f in same))
        for name, choice in solution.choices.items()
    }


def _step(lean: str, plan: Plan, measured: Cost, misses: Mapping[str, float]) -> dict[str, Any]:
    return {
        "search": lean,
        "plan": plan.digest,
        "predicted": plan.predicted,
        "measured": measured,
        "misses": dict(misses),
    }
