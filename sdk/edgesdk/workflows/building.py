"""Points of a front carried out, each to a bundle of its own, with all that is known of the model shared among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgesdk.bundle.bundle import Bundle, reserve
from edgesdk.core.budget import Budget, Cost
from edgesdk.core.cache import check_cache
from edgesdk.core.cluster import check_cluster
from edgesdk.core.errors import BudgetError, BundleError, UsageError
from edgesdk.core.processes import Job, check_jobs
from edgesdk.core.report import DENSE, Prediction, Tell
from edgesdk.core.serialize import digest, from_json
from edgesdk.core.turns import Ask, take_turns
from edgesdk.core.wording import counted
from edgesdk.data.orders import order_of, set_order
from edgesdk.network.placement import AUTO, CPU, find_device
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.apart import Learnt, Shared
from edgesdk.pipeline.learners import InTurn, Workers
from edgesdk.pipeline.study import Anchored, Study
from edgesdk.pipeline.training import Training
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.deploy import Studied, build_bundle, count_epochs, open_studies
from edgesdk.workflows.drift import warn_of_drift
from edgesdk.workflows.front import Built, Front, Point
from edgesdk.workflows.inputs import Inputs
from edgesdk.workflows.where import Where


@dataclass(frozen=True)
class Place:
    """A target with so many threads, and the model as it was studied there."""

    where: Where
    studied: Studied

    def has(self, point: Point) -> bool:
        own = (self.where.target.name, self.where.threads)
        return own == (point.target, point.threads) and any(s.runtime == point.runtime for s in self.studied.studies)


@dataclass(frozen=True)
class Builder:
    """How points become bundles: of the model and data that are ``given``, below ``folder``."""

    given: Inputs
    folder: Path
    epochs: float
    seed: int
    force: bool
    tell: Tell
    recovery: Recovery = Recovery()  # noqa: RUF009  it is frozen
    learns_on: torch.device = CPU
    jobs: int = 1
    cluster: str | None = None

    @classmethod
    def of(
        cls, given: Inputs, folder: str | Path, epochs: float | None, recover: Recovery | str | Path | None, seed: int,
        force: bool, tell: Tell, train_on: str, jobs: int, cluster: str | None,
    ) -> Builder:  # fmt: skip
        """The same with the epochs of each point counted as :func:`edgesdk.deploy` does."""
        recovery = Recovery.read(recover) if isinstance(recover, (str, Path)) else recover
        if recovery is not None and recovery.rollback:
            fact = "a recovery with rollback for points of a front, which bound the latency"
            raise UsageError(fact, "leave rollback out, or deploy with a bound on accuracy alone")
        count = count_epochs(epochs, recovery, given)
        check_jobs(jobs)
        recovery = (recovery or Recovery()).loaded()
        return cls(given, Path(folder), count, seed, force, tell, recovery, find_device(train_on), jobs, cluster)

    def build(self, front: Front, places: Sequence[Place], numbers: Iterable[int]) -> Front:
        """``front`` with what the points of these ``numbers`` came to; why one came to nothing is in ``refused``.

        Points are searched, measured and packed one after another, and learn together in between: nothing is measured
        while anything learns.
        """
        wanted = [front.point(number) for number in numbers]
        if not wanted:
            return front
        setup = places[0].studied.anchored.setups[0]  # of all places: the model and its data are the same
        train, trainings = setup.data.train, list[Training]()
        begin = order_of(train)

        def start(step: int, point: Point, ask: Ask) -> Built | BudgetError:
            place = next(place for place in places if place.has(point))
            tell = _telling(self.tell, f"building point {point.number} ({step} of {len(wanted)})")
            set_order(train, begin)  # as if it were the only one
            training = Training(
                place.studied.anchored.setups[0], Allowance(self.epochs), self.seed, tell, self.recovery,
                self.learns_on, InTurn(workers, ask, f"point {point.number}"), _part_of(point),
            )  # fmt: skip
            trainings.append(training)
            try:
                return _describe(self._build(point, front.bounds, place, training), point)
            except BudgetError as error:
                return error

        def learn(jobs: Sequence[Job]) -> list[Learnt]:
            told = f"building points: {counted(len(jobs), 'network')} learning{workers.told(len(jobs))}"
            self.tell(told, 0.0)
            learnt = workers.run(jobs, lambda share: self.tell(told, share))
            workers.rest()
            return learnt

        with Workers(Shared.of(setup, self.recovery, self.seed, self.learns_on), self.jobs, self.cluster) as workers:
            programs = [partial(start, step, point) for step, point in enumerate(wanted, 1)]
            came_to = dict(zip((point.number for point in wanted), take_turns(programs, learn), strict=True))
        for training in trainings:
            training.forget()
        built = {number: one for number, one in came_to.items() if isinstance(one, Built)}
        errors = {number: one for number, one in came_to.items() if isinstance(one, BudgetError)}
        points = tuple(replace(point, built=built.get(point.number, point.built)) for point in front.points)
        why = {_name(front.point(number)): error.fact for number, error in errors.items()}
        return replace(front, points=points, refused={**front.refused, **why})

    def _build(self, point: Point, bounds: Budget, place: Place, training: Training) -> Bundle:
        studies, anchored = place.studied.studies, place.studied.anchored
        ready = next(study for study in studies if study.runtime == point.runtime)
        budget = point.within(bounds)
        share = ready.anchors[DENSE].latency_ms() / ready.dense.latency_ms()  # that of this runtime, of the fastest
        budget = replace(budget, latency_ratio=share * (budget.latency_ratio or 1.0))

        def study(known: Anchored) -> list[Study]:
            """The study that the front is of, unless the device was seen in another state since."""
            fresh = known.anchors[0] is not alone.anchors[0]
            return known.study() if fresh else [replace(ready, may_renew=known.may_renew, tell=training.tell)]

        alone = anchored.select(point.runtime)
        with reserve(self.folder / f"point-{point.number}", self.force) as out:
            return build_bundle(
                out, replace(place.studied, anchored=alone, budget=budget, given=True, refused={}), self.given,
                training, study=study,
            )  # fmt: skip


def check_folder(folder: str | Path, force: bool) -> None:
    """Raise ``BundleError`` where points are in ``folder`` already, unless these may be replaced."""
    if not force and (there := sorted(Path(folder).glob("point-*"))):
        raise BundleError(f"{there[0]} exists", "give --force to replace it, or another --out-dir")


def build_points(
    front: Front, given: Inputs, numbers: Sequence[int], out_dir: str | Path, *, device: Any = None,
    precision: Sequence[str] = (), candidate: Sequence[str] = (), epochs: float | None = None,
    recover: Recovery | str | Path | None = None, seed: int = 0, force: bool = False, train_on: str = AUTO,
    jobs: int = 1, cluster: str | None = None, tell: Tell,
) -> Front:  # fmt: skip
    """``front`` with what the points of these ``numbers`` came to, at today's prices: see :meth:`Front.build`."""
    check_cache()
    points = [front.point(number) for number in numbers]
    if not points:
        raise UsageError("no points to build", "name some by their numbers")
    if len({point.plan.graph_digest for point in points}) > 1:
        raise UsageError("these points are of several models", "build those of one model at a time")
    if cluster is not None:
        check_cluster(cluster)
    own = given.checked(front.bounds, force, tell)
    builder = Builder.of(own, out_dir, epochs, recover, seed, force, tell, train_on, jobs, cluster)
    with ExitStack() as stack:
        places: list[Place] = []
        for target, runtime, threads in dict.fromkeys((p.target, p.runtime, p.threads) for p in points):
            where = Where.named(target, runtime, threads, device, precision, candidate)
            opened = open_studies(
                builder.given, where, front.bounds, force, tell, graph_digest=points[0].plan.graph_digest
            )
            places.append(Place(where, stack.enter_context(opened)))
        for point in points:
            place = next(place for place in places if place.has(point))
            warn_of_drift(point, front.bounds, place.studied.studies[0])
        return builder.build(front, places, numbers)


def _part_of(point: Point) -> str:
    """What tells a ``point``, whatever its number, from the others of a model: their candidates may be the same."""
    return digest([point.target, point.runtime, point.threads, point.plan.digest])


def _name(point: Point) -> str:
    return f"point {point.number} ({point.target}, {point.runtime})"


def _telling(tell: Tell, point: str) -> Tell:
    """``tell`` for what is done for a ``point``, which is one stage."""
    return lambda stage, share: tell(f"{point}: {stage.replace(': ', ', ')}", share)


def _describe(bundle: Bundle, point: Point) -> Built:
    """What ``point`` came to."""
    report = bundle.report
    measured, score = report["measured"], report["score"]
    predicts = measured is None
    return Built(
        bundle=str(bundle.path),
        plan=bundle.plan.digest,
        as_planned=bundle.plan.digest == point.plan.digest,
        promised=bundle.plan.predicted,
        cost=from_json(Prediction, report["deployed"]).cost() if predicts else from_json(Cost, measured),
        metric=report["metric"],
        dense_score=score["dense"],
        score=score["deployed"],
    )
