"""The front: what each millisecond costs in accuracy, at the prices of one target or several, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.core.budget import PREDICTED, Budget, parse_latency, show
from edgesdk.core.cache import check_cache
from edgesdk.core.errors import BudgetError, DeviceError, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.report import DENSE, Tell
from edgesdk.data.losses import Loss
from edgesdk.data.metrics import Metric
from edgesdk.devices.inventory import Device
from edgesdk.network.reference import same_random_numbers
from edgesdk.pipeline.front import PLAN, FrontPlan, rank_knees, trace_front, undominated
from edgesdk.pipeline.study import Study
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.building import Builder, Place, check_folder
from edgesdk.workflows.deploy import Preprocess, open_studies, quiet
from edgesdk.workflows.front import Front, Point
from edgesdk.workflows.inputs import named, read_inputs
from edgesdk.workflows.where import AUTO, Where


@same_random_numbers()
def sweep(
    model: nn.Module | str | None = None, target: str | Sequence[str] = "x86", data: Any = None, *,
    runtime: str | Sequence[str] = (AUTO,), points: int = 8, latency: str | Sequence[str] = (),
    peak_memory: int | None = None, size: int | None = None, weights: Path | None = None,
    metric: str | Metric = "top-1", threads: int | Sequence[int] = (1,), precision: str | Sequence[str] = (),
    candidate: Sequence[str] = (), seed: int = 0, device: str | Device | None = None, force: bool = False,
    output: str | int | None = None, preprocess: Preprocess = None, shapes: Shapes = None,
    loss: str | Loss | None = None, build: int = 0, out_dir: str | Path = "front", epochs: float | None = None,
    recover: Recovery | str | Path | None = None, tell: Tell = quiet,
) -> Front:  # fmt: skip
    """The most accurate plan at each of ``points`` latencies, or at those of ``latency`` (``2ms``, ``0.5x``), for every
    ``target``, ``runtime`` and number of ``threads``: the front at prices, each plan with the solver's proof.

    Nothing is built and nothing learnt back, unless ``build`` says of how many points for each target: the best ones
    where most is won (:func:`edgesdk.pipeline.front.rank_knees`), or all where there are no more. Each ends in a bundle
    ``point-N`` in ``out_dir``, as :meth:`Front.build` does it, with ``epochs`` and ``recover`` as for
    :func:`edgesdk.deploy`; what was studied serves for all of them.

    ``peak_memory`` and ``size``, in bytes, bound every plan. All else is as for :func:`edgesdk.deploy`, and raises the
    same errors; a target whose runtimes cannot hold the model, and a latency at which nothing keeps the bounds, are in
    ``refused``, unless all are: then that is the error.
    """
    if points < 1:
        raise UsageError(f"{points} points", "give 1 or more")
    if build < 0:
        raise UsageError(f"{build} points to build", "give 0 for none, or more")
    if build:
        check_folder(out_dir, force)
    bounds = [Budget(**parse_latency(text)) for text in named(latency)]
    budget = Budget(peak_memory_bytes=peak_memory, size_bytes=size)
    counts = (threads,) if isinstance(threads, int) else tuple(threads)
    places = [
        Where.named(at, name, count, device, named(precision), candidate)
        for at in named(target) for name in named(runtime) for count in counts
    ]  # fmt: skip
    check_cache()
    given = read_inputs(
        model, data, weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
        loss=loss,
    ).checked(None, force, tell)  # fmt: skip
    every: list[Point] = []
    refused: dict[str, str] = {}
    unreachable: list[BudgetError] = []
    opened: list[Place] = []
    graph = ""
    with ExitStack() as stack:
        for where in places:
            try:
                studied = stack.enter_context(open_studies(given, where, budget, force, tell, again=build > 0))
                refused |= {f"{where.target.name}, {name}": why for name, why in studied.refused.items()}
                for study in studied.studies:
                    graph = study.graph.digest
                    tell(f"searching {where.target.name}, {study.runtime}", None)
                    traced = trace_front(study, budget, points, bounds)
                    every += _points(study, where, traced.plans)
                    unreachable += traced.unreachable.values()
                    refused |= _reasons(study, where, traced.unreachable, bounds)
            except (ModelError, DeviceError) as error:
                if where is places[-1] and not every:
                    raise
                refused[f"{where.target.name}, {where.runtime}"] = str(error)
            else:
                opened.append(Place(where, studied))
        if not every:
            raise _empty(refused, unreachable)
        front = Front(graph, tuple(_numbered(every)), refused, budget)
        if not build:
            return front
        builder = Builder.of(given, out_dir, epochs, recover, seed, force, tell)
        return builder.build(front, opened, pick_points(front, build))


def pick_points(front: Front, count: int) -> list[int]:
    """The numbers of the ``count`` best points of each target that are worth building; the dense model is none."""
    numbers: list[int] = []
    for target in dict.fromkeys(point.target for point in front.points):
        best = [point for point in front.points if point.target == target and point.best]
        ranked = rank_knees([(point.predicted.latency_ms, point.loss) for point in best])
        numbers += [best[place].number for place in ranked if best[place].kind != DENSE][:count]
    return numbers


def _points(study: Study, where: Where, front: Sequence[FrontPlan]) -> list[Point]:
    dense_ms = study.dense.latency_ms()
    return [
        Point(
            0, where.target.name, study.runtime, where.threads, point.kind, point.planned.solution.cost,
            point.planned.solution.cost.latency_ms / dense_ms, point.planned.solution.loss,
            point.planned.plan.proof.gap if point.kind == PLAN else 0.0, False, point.planned.plan,
            point.planned.solution.cost.latency_ms / study.anchors[DENSE].latency_ms(),
        )
        for point in front
    ]  # fmt: skip


def _numbered(points: Sequence[Point]) -> list[Point]:
    """The points by target and latency, numbered, each with whether it is among the best of its target."""
    ordered = sorted(points, key=lambda point: (point.target, point.predicted.latency_ms, point.loss))
    best: dict[int, bool] = {}
    for name in dict.fromkeys(point.target for point in ordered):
        own = [place for place, point in enumerate(ordered) if point.target == name]
        figures = [(ordered[place].predicted.latency_ms, ordered[place].loss) for place in own]
        best |= dict(zip(own, undominated(figures), strict=True))
    return [replace(point, number=place + 1, best=best[place]) for place, point in enumerate(ordered)]


def _reasons(
    study: Study, where: Where, unreachable: Mapping[float, BudgetError], bounds: Sequence[Budget]
) -> dict[str, str]:
    """Why there is no plan, for each latency that was asked for, or once where none keeps the other bounds."""
    place, facts = f"{where.target.name}, {study.runtime}", [error.fact for error in unreachable.values()]
    if not bounds:
        return {place: facts[0]} if facts else {}
    return {f"{place}, {show('latency_ms', ms)}": error.fact for ms, error in unreachable.items()}


def _empty(refused: Mapping[str, str], unreachable: Sequence[BudgetError]) -> BudgetError:
    why = "; ".join(f"{where}: {reason}" for where, reason in refused.items())
    nearest = unreachable[0] if unreachable else BudgetError("", "")
    return BudgetError(
        f"at today's prices no plan keeps what was asked for ({why})", "ask for more ms or bytes",
        figure=nearest.figure, asked=nearest.asked, tightest=nearest.tightest, basis=PREDICTED,
    )  # fmt: skip
