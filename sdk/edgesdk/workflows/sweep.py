"""The front: what each millisecond costs in accuracy, at the prices of one target or several, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.core.asked import read_command
from edgesdk.core.budget import PREDICTED, Budget, parse_latency, show
from edgesdk.core.cache import check_cache
from edgesdk.core.cluster import check_cluster
from edgesdk.core.errors import BudgetError, DeviceError, ModelError, UsageError
from edgesdk.core.graph import Shapes
from edgesdk.core.processes import check_jobs
from edgesdk.core.report import DENSE, Tell
from edgesdk.core.runtime import find_runtime
from edgesdk.core.wording import counted
from edgesdk.data.losses import Loss
from edgesdk.data.metrics import Metric
from edgesdk.devices.pools import At
from edgesdk.network import placement
from edgesdk.network.reference import same_random_numbers
from edgesdk.pipeline.front import PLAN, FrontPlan, rank_knees, trace_front, undominated
from edgesdk.pipeline.setup import digest_of
from edgesdk.pipeline.study import Study
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.building import Builder, Place, check_folder
from edgesdk.workflows.deploy import Preprocess, open_studies, quiet
from edgesdk.workflows.front import Front, Point, SweptModel
from edgesdk.workflows.inputs import Inputs, named, read_inputs
from edgesdk.workflows.where import AUTO, Where

Models = nn.Module | str | None | Sequence[nn.Module | str]
"""A model as :func:`edgesdk.deploy` takes it, ``None`` for the example, or several."""


@same_random_numbers()
def sweep(
    model: Models = None, target: str | Sequence[str] = "x86", data: Any = None, *,
    runtime: str | Sequence[str] = (AUTO,), points: int = 8, latency: str | Sequence[str] = (),
    peak_memory: int | None = None, size: int | None = None, weights: Path | Sequence[Path] | None = None,
    metric: str | Metric = "top-1", threads: int | Sequence[int] = (1,), precision: str | Sequence[str] = (),
    candidate: Sequence[str] = (), seed: int = 0, device: At | None = None, force: bool = False,
    output: str | int | None = None, preprocess: Preprocess = None, shapes: Shapes = None,
    loss: str | Loss | None = None, build: int = 0, out_dir: str | Path = "front", epochs: float | None = None,
    recover: Recovery | str | Path | None = None, pictures: bool = True, train_on: str = placement.AUTO,
    jobs: int = 1, cluster: str | None = None, tell: Tell = quiet,
) -> Front:  # fmt: skip
    """The most accurate plan at each of ``points`` latencies, or at those of ``latency`` (``2ms``, ``0.5x``), for each
    ``model``, ``target``, ``runtime`` and number of ``threads``: the front at prices, each plan with its proof.

    Several models, each with ``weights`` of its own, or none with any, are read with the same data and judged alike.
    Nothing is built and nothing learnt back, unless ``build`` says of how many points for each target: the best ones
    where most is won (:func:`edgesdk.pipeline.front.rank_knees`), or all where there are no more. Each ends in a bundle
    ``point-N`` in ``out_dir``, as :meth:`Front.build` does it, with ``epochs``, ``recover``, ``pictures``,
    ``train_on``, ``jobs`` and ``cluster`` as for :func:`edgesdk.deploy`; what was studied serves for all of them, and
    those of a model learn at the same time.

    On a ``device`` that is ``pool:NAME``, or several, alike boards share the pricing, and every price is that of the
    slowest; the front's ``notes`` say in what they differ, and which dropped out.

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
        placement.find_device(train_on)  # before anything is measured
        check_jobs(jobs)
        if cluster is not None:
            check_cluster(cluster)
    bounds = [Budget(**parse_latency(text)) for text in named(latency)]
    budget = Budget(peak_memory_bytes=peak_memory, size_bytes=size)
    counts = (threads,) if isinstance(threads, int) else tuple(threads)
    places, lacking = keep_possible([
        Where.named(at, name, count, device, named(precision), candidate)
        for at in named(target) for name in named(runtime) for count in counts
    ])  # fmt: skip
    check_cache()
    named_models = name_models(model, weights)
    drawing = Drawing(budget, points, bounds, force, build > 0, tell)
    swept: list[Swept] = []
    with ExitStack() as stack:
        for name, (one, own_weights) in named_models.items():
            given = read_inputs(
                one, data, own_weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
                loss=loss, pictures=pictures,
            ).checked(None, force, tell)  # fmt: skip
            own = _tell_of(name, tell) if len(named_models) > 1 else tell
            swept.append(draw_front(name, given, places, replace(drawing, tell=own), stack, len(named_models) > 1))
            if not build:  # what was studied is of no use any more
                swept[-1].opened.clear()
                stack.close()
        front = _join(swept, lacking, budget, len(named_models) > 1)
        for each in swept if build else ():
            builder = Builder.of(each.given, out_dir, epochs, recover, seed, force, tell, train_on, jobs, cluster)
            numbers = [number for number in pick_points(front, build) if front.point(number).model == each.name]
            front = builder.build(front, each.opened, numbers)
        return front


def keep_possible(places: Sequence[Where]) -> tuple[list[Where], dict[str, str]]:
    """Those of ``places`` whose target has what is asked for, and why others are left out: before any is measured.

    Raises ``UsageError`` where a runtime is that of no target, or nothing is left.
    """
    kept: list[Where] = []
    unfit: list[tuple[Where, UsageError]] = []
    for where in places:
        try:
            for runtime in where.list_runtimes():
                where.allow_precisions(runtime)
            kept.append(where)
        except UsageError as error:
            unfit.append((where, error))
    for where, error in unfit:
        if where.runtime not in {each.runtime for each in kept}:
            raise error
    return kept, {f"{where.target.name}, {where.runtime}": error.fact for where, error in unfit}


def name_models(models: Models, weights: Path | Sequence[Path] | None) -> dict[str, tuple[Any, Path | None]]:
    """Each of ``models`` with its weights by a name of its own: what names it, or a module's class, numbered where
    several are called so. Raises ``UsageError`` where there are not as many weights as models."""
    every: list[Any] = list(models) if isinstance(models, (list, tuple)) else [models]
    given = [weights] if isinstance(weights, (str, Path)) else list(weights or ())
    if not every:
        raise UsageError("no model", "give one or more")
    if given and len(given) != len(every):
        fact = f"{counted(len(given), 'file')} of weights for {counted(len(every), 'model')}"
        raise UsageError(fact, "give each model its own, in the same order, or none at all")
    called = ["the example" if one is None else one if isinstance(one, str) else type(one).__name__ for one in every]
    names = [
        name if called.count(name) == 1 else f"{name} {called[: place + 1].count(name)}"
        for place, name in enumerate(called)
    ]
    return dict(zip(names, zip(every, given or [None] * len(every), strict=True), strict=True))


def _tell_of(model: str, tell: Tell) -> Tell:
    """``tell`` with the ``model`` that it is about, as what may change."""
    return lambda stage, share: tell(f"{stage}{', ' if ': ' in stage else ': '}{model}", share)


@dataclass(frozen=True)
class Drawing:
    """How a front is drawn: within which bounds, at how many latencies or which, and whether points are built."""

    budget: Budget
    points: int
    bounds: Sequence[Budget]
    force: bool
    again: bool
    tell: Tell


@dataclass
class Swept:
    """What was found of one model: its points, not yet numbered, and where it was studied."""

    name: str
    given: Inputs
    graph: str = ""
    points: list[Point] = field(default_factory=list[Point])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    unreachable: list[BudgetError] = field(default_factory=list[BudgetError])
    opened: list[Place] = field(default_factory=list[Place])
    notes: list[str] = field(default_factory=list[str])


def draw_front(
    name: str, given: Inputs, places: Sequence[Where], how: Drawing, stack: ExitStack, may_be_empty: bool
) -> Swept:  # fmt: skip
    """The points of one model at each of ``places``, which stay open as long as the ``stack`` is."""
    swept = Swept(name, given)
    several = len({where.threads for where in places}) > 1
    for where in places:
        beside = f", {counted(where.threads, 'thread')}" if several else ""
        try:
            opened = open_studies(given, where, how.budget, how.force, how.tell, again=how.again)
            studied = stack.enter_context(opened)
            swept.refused |= {
                f"{where.target.name}, {runtime}{beside}": why for runtime, why in studied.refused.items()
            }
            studies = studied.studies  # all is priced then
            swept.notes += [note for study in studies for note in study.meter.notes]
            for study in studies:
                if find_runtime(study.runtime).engines and where.threads != places[0].threads:
                    continue  # which takes no threads: it is the same again
                swept.graph = study.graph.digest
                how.tell(f"searching {where.target.name}, {study.runtime}", None)
                traced = trace_front(study, how.budget, how.points, how.bounds)
                swept.points += _points(name, study, where, traced.plans)
                swept.unreachable += traced.unreachable.values()
                swept.refused |= _reasons(
                    f"{where.target.name}, {study.runtime}{beside}", traced.unreachable, how.bounds
                )
        except (ModelError, DeviceError) as error:
            if where is places[-1] and not swept.points and not may_be_empty:
                raise
            swept.refused[f"{where.target.name}, {where.runtime}{beside}"] = str(error)
        else:
            swept.opened.append(Place(where, studied))
    return swept


def _join(swept: Sequence[Swept], lacking: Mapping[str, str], budget: Budget, several: bool) -> Front:
    """The front of all models. Raises ``BudgetError`` where there is no point at all."""
    refused = dict(lacking) | {
        f"{each.name}, {where}" if several else where: why for each in swept for where, why in each.refused.items()
    }
    every = [point for each in swept for point in each.points]
    if not every:
        raise _empty(refused, [error for each in swept for error in each.unreachable])
    models = tuple(
        SweptModel(each.name, each.graph, each.given.task.name, each.given.dense_score, each.given.judged_samples)
        for each in swept
    )
    graph = next(each.graph for each in swept if each.points)
    notes = tuple(dict.fromkeys(note for each in swept for note in each.notes))
    return Front(graph, tuple(_numbered(every)), refused, budget, models, notes, read_command())


def pick_points(front: Front, count: int) -> list[int]:
    """The numbers of the ``count`` best points of each model and target that are worth building; the dense model is
    none."""
    numbers: list[int] = []
    for place in dict.fromkeys((point.model, point.target) for point in front.points):
        best = [point for point in front.points if (point.model, point.target) == place and point.best]
        ranked = rank_knees([(point.predicted.latency_ms, point.loss) for point in best])
        numbers += [best[place].number for place in ranked if best[place].kind != DENSE][:count]
    return numbers


def _points(model: str, study: Study, where: Where, front: Sequence[FrontPlan]) -> list[Point]:
    dense_ms, weights = study.dense.latency_ms(), digest_of(study.network.module)
    return [
        Point(
            0, where.target.name, study.runtime, where.threads, point.kind, point.planned.solution.cost,
            point.planned.solution.cost.latency_ms / dense_ms, point.planned.solution.loss,
            point.planned.plan.proof.gap if point.kind == PLAN else 0.0, False, point.planned.plan,
            point.planned.solution.cost.latency_ms / study.anchors[DENSE].latency_ms(), model=model, weights=weights,
        )
        for point in front
    ]  # fmt: skip


def _numbered(points: Sequence[Point]) -> list[Point]:
    """The points by model, target and latency, numbered, each with whether it is among the best of these two.

    Their ratios are to one dense model: that of the runtime and number of threads in which it is the fastest.
    """
    models = list(dict.fromkeys(point.model for point in points))
    ordered = sorted(
        points, key=lambda point: (models.index(point.model), point.target, point.predicted.latency_ms, point.loss)
    )
    best: dict[int, bool] = {}
    dense_ms: dict[tuple[str, str], float] = {}
    for name in dict.fromkeys((point.model, point.target) for point in ordered):
        own = [place for place, point in enumerate(ordered) if (point.model, point.target) == name]
        figures = [(ordered[place].predicted.latency_ms, ordered[place].loss) for place in own]
        best |= dict(zip(own, undominated(figures), strict=True))
        dense_ms[name] = min(ordered[place].predicted.latency_ms / ordered[place].ratio for place in own)
    return [
        replace(
            point, number=place + 1, best=best[place],
            ratio=point.predicted.latency_ms / dense_ms[point.model, point.target],
        )
        for place, point in enumerate(ordered)
    ]  # fmt: skip


def _reasons(place: str, unreachable: Mapping[float, BudgetError], bounds: Sequence[Budget]) -> dict[str, str]:
    """Why there is no plan, for each latency that was asked for, or once where none keeps the other bounds."""
    facts = [error.fact for error in unreachable.values()]
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
