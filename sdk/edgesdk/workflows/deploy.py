"""The whole way: study, search, compress, measure, correct, recover, export, prove, pack."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from edgesdk.bundle.bundle import Bundle, pack, reserve
from edgesdk.bundle.layers import list_layers
from edgesdk.bundle.signing import check_private
from edgesdk.compress.forms import ready
from edgesdk.core.budget import Budget
from edgesdk.core.cache import check_cache
from edgesdk.core.cluster import check_cluster
from edgesdk.core.errors import BudgetError, EdgeSdkWarning, UsageError
from edgesdk.core.graph import OTHER, Graph, Shapes
from edgesdk.core.plan import Plan
from edgesdk.core.processes import check_jobs
from edgesdk.core.report import DENSE, Tell
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.target import target as find_target
from edgesdk.data.losses import Loss
from edgesdk.data.metrics import Metric
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.boards import Boards
from edgesdk.devices.pools import At, Pool
from edgesdk.network.placement import AUTO, find_device
from edgesdk.network.reference import same_random_numbers
from edgesdk.pipeline.allowance import Allowance, check_epochs
from edgesdk.pipeline.apart import Shared
from edgesdk.pipeline.candidates import Attempt
from edgesdk.pipeline.choosing import join_refusals
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.fastest import DEFAULT_DROP, default_drop
from edgesdk.pipeline.learners import Workers
from edgesdk.pipeline.loose import find_deployed, find_loose_plan, ignore
from edgesdk.pipeline.profiling import profile_files
from edgesdk.pipeline.renewing import search_renewing
from edgesdk.pipeline.rounds import plan_within
from edgesdk.pipeline.study import Anchored, Study, anchor_model
from edgesdk.pipeline.training import Training
from edgesdk.price.menu import full_width
from edgesdk.price.work import find_roofs
from edgesdk.train.recovery import Recovery
from edgesdk.workflows.drift import study_point, warn_of_loose
from edgesdk.workflows.front import Point
from edgesdk.workflows.inputs import Inputs, named, read_inputs
from edgesdk.workflows.install import check_key, install, put
from edgesdk.workflows.rollout import check_canary
from edgesdk.workflows.tracking import keep_run, open_tracker
from edgesdk.workflows.where import Where

EXAMPLE_EPOCHS, DEFAULT_EPOCHS = 12.0, 15.0  # of all training: about two thirds are left to that in full
Preprocess = Preprocessing | Mapping[str, Any] | str | Path | None


def quiet(stage: str, share: float | None) -> None:
    """Tell nobody."""


@same_random_numbers()
def search(
    model: nn.Module | str | None = None, target: str = "x86", data: Any = None, budget: Budget | None = None, *,
    runtime: str | None = None, weights: Path | None = None, metric: str | Metric = "top-1", threads: int = 1,
    precision: str | Sequence[str] = (), candidate: Sequence[str] = (), seed: int = 0,
    device: At | None = None, force: bool = False, output: str | int | None = None,
    preprocess: Preprocess = None, shapes: Shapes = None, loss: str | Loss | None = None,
    time: float | str | Deadline | None = None, tries: int = 0, dla: int | None = None,
    tell: Tell = quiet,
) -> Plan:  # fmt: skip
    """The plan alone: the most accurate within ``budget`` (ms, bytes), with what the solver proved of it.

    Prices are measured on ``device`` or, for the target ``x86``, this machine, or read from the cache of those that
    were; for other targets they are their profile's. With ``runtime`` ``auto`` it is the plan of the runtime that
    promises the least loss. At most ``tries`` plans are applied, fitted and judged without training before that, to
    correct what the parts of a plan are said to cost in accuracy. ``dla`` is as for :func:`deploy`. ``time`` (seconds,
    or ``10min``) bounds the whole search: what there is no time to price is not chosen, and a warning says so. Raises
    ``BudgetError`` where no plan keeps the budget, and the errors of :func:`deploy` for what is wrong with the inputs.
    """
    where = Where.named(target, runtime, threads, device, named(precision), candidate, dla)
    check_cache()
    where.check_budget(budget)
    ready(candidate)
    deadline = Deadline.of(time)
    given = read_inputs(
        model, data, weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
        loss=loss,
    )  # fmt: skip
    given = given.checked(budget, force, tell)
    with open_studies(given, where, budget, force, tell, deadline, again=False, tries=tries) as studied:
        dense = find_loose_plan(studied.anchored, studied.budget)
        if dense is not None:
            return dense
        plans, errors = search_renewing(studied.anchored, lambda known: _plan_each(known.study(), studied, tell))
        note = deadline.note
        if not plans:
            error = join_refusals(errors)
            raise error if note is None else error.but_for_time(note)
        if note is not None:
            warnings.warn(note, EdgeSdkWarning, stacklevel=2)
        return min(plans, key=lambda plan: (plan.proof.objective, plan.predicted.latency_ms))


def _plan_each(studies: Sequence[Study], studied: Studied, tell: Tell) -> tuple[list[Plan], dict[str, BudgetError]]:
    """The best plan of each of ``studies``, and why runtimes have none."""
    plans: list[Plan] = []
    errors: dict[str, BudgetError] = {}
    for study in studies:
        tell(f"searching ({study.runtime})", None)
        try:
            plans.append(plan_within(study, studied.budget, studied.given))
        except BudgetError as error:
            errors[study.runtime] = error
    return plans, errors


@same_random_numbers()
def deploy(
    model: nn.Module | str | None = None, target: str = "x86", data: Any = None, budget: Budget | None = None,
    out: str | Path = "bundle", *, runtime: str | None = None, weights: Path | None = None,
    metric: str | Metric = "top-1", threads: int = 1, precision: str | Sequence[str] = (),
    candidate: Sequence[str] = (), epochs: float | None = None, seed: int = 0, force: bool = False,
    device: At | None = None, install_root: str | None = None, canary: int | None = None, sign: Path | None = None,
    recover: Recovery | str | Path | None = None, output: str | int | None = None, preprocess: Preprocess = None,
    shapes: Shapes = None, loss: str | Loss | None = None, time: float | str | Deadline | None = None,
    tries: int = 0, dla: int | None = None, point: Point | None = None, track: str | None = None,
    pictures: bool = True, train_on: str = AUTO, jobs: int = 1,
    cluster: str | None = None, tell: Tell = quiet,
) -> Bundle:  # fmt: skip
    """Turn ``model`` into a bundle that keeps ``budget`` on ``target``: measured on this machine, predicted elsewhere.

    With a ``device``, of the inventory, ``local`` or an ``ssh://`` address, everything is priced and measured there,
    and the bundle is installed there below ``install_root`` (see :func:`edgesdk.install`). Alike boards, ``pool:NAME``
    or several, share the pricing of operators and measure files side by side; the bundle keeps the budget on the
    slowest, and is installed in stages, on ``canary`` boards first: its ``rollout`` says where each stands. With
    ``sign``, a private key, the bundle is signed. ``recover`` says how the compressed model learns, by default from the
    dense model: a ``Recovery``, or the TOML file of one.

    ``model`` is a module, ``file.py:callable`` or ``package.module:callable``; ``None`` takes the built-in example.
    ``data`` is a path, ``file.py:callable``, a data set of pairs (x, y), or an object with ``train``, ``calibration``
    and ``test``; ``preprocess`` says how the model takes pixels (a :class:`edgesdk.Preprocessing`, its fields, or their
    TOML file), ``output`` which of several outputs is judged. The dense model is judged first: where it makes no sense
    on the data, that is the error, unless ``force`` goes on all the same. Without a budget
    the bound is half of the dense model's measured latency on this machine, and a point of accuracy elsewhere, where a
    small model may be mostly calls that no narrower layer makes fewer.

    ``runtime`` is one of the target's, by default its first; ``auto`` searches every one, measures their finalists in
    one run and takes the best. With ``dla`` TensorRT builds for the accelerator of that number, and what that cannot
    take for the GPU. ``precision`` narrows those that layers may run in, ``candidate`` names further
    candidates for layers, beside those that there are by default (docs/reference/techniques.md).

    At most ``tries`` plans are applied, fitted and judged without training before a search is believed: what they lose
    corrects the prices in accuracy.

    ``epochs`` bounds all training, ``time`` (seconds, or ``10min``) the whole run: it plans within both and ends with
    the best so far. Where reading, tracing and writing files alone take longer, a warning says so at once. A run that
    was interrupted goes on where it was when the same is asked again.

    What is fitted and learnt back is so where ``train_on`` says: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto``
    for the first CUDA device, and the CPU where there is none (docs/how-to/train-on-a-gpu.md). With ``jobs`` finalists
    learn in as many processes, to the same results; a script then guards what calls this by its ``__name__``. With a
    ``cluster``, ``local`` or the address of one, they learn on its nodes.

    A ``point`` of a front says the target, runtime, threads and bound on latency; a warning says where prices have
    changed since, and ``UsageError`` that the front is of another model. ``track``, ``mlflow:URI`` or
    ``tensorboard:FOLDER``, is where a run is kept of it: parameters, figures, the losses of recovery, and files.
    Without ``pictures`` the report has no thumbnails of test samples that are answered otherwise; it says which.

    Raises ``ModelError``, ``DataError``, ``UsageError``, ``BudgetError`` (with the tightest reachable figures),
    ``DeviceError`` for a runtime that is not installed, or a device that is not a ``target`` without ``force``,
    ``BundleError`` where ``out`` exists without ``force``.
    """
    if point is not None:
        target, runtime, threads = point.target, point.runtime, point.threads
        budget = point.within(budget or Budget())
    where = Where.named(target, runtime, threads, device, named(precision), candidate, dla)
    check_cache()
    where.check_budget(budget)
    ready(candidate)
    learns_on = find_device(train_on)
    check_jobs(jobs)
    if cluster is not None:
        check_cluster(cluster)
    at = where.device
    if at is None and install_root is not None:
        raise UsageError("an install root without a device", "give --device, which may be local")
    if at is None and canary is not None:
        raise UsageError(f"{canary} as canary without a device", "give --device, pool:NAME or several")
    if at is not None:
        check_canary(at, canary)
    for board in at.devices if isinstance(at, Pool) else () if at is None else (at,):
        if board.key is not None and sign is None:
            raise UsageError(f"{board.name} takes signed bundles alone", "give --sign with the private key")
    if sign is not None:
        check_private(sign)
    tracker = None if track is None else open_tracker(track)
    recovery = Recovery.read(recover) if isinstance(recover, (str, Path)) else recover
    if recovery is not None and recovery.rollback:
        check_rollback(budget, where)
    deadline = Deadline.of(time)
    with reserve(Path(out), force) as place:
        given = read_inputs(
            model, data, weights, metric, seed, output=output, preprocess=preprocess, force=force, shapes=shapes,
            loss=loss, pictures=pictures,
        )  # fmt: skip
        given = given.checked(budget, force, tell)
        allowance = Allowance(count_epochs(epochs, recovery, given))
        graph_digest = None if point is None else point.plan.graph_digest
        with open_studies(
            given, where, budget, force, tell, deadline, graph_digest=graph_digest, tries=tries
        ) as studied:
            setup, recovery = studied.anchored.setups[0], (recovery or Recovery()).loaded()
            workers = Workers(Shared.of(setup, recovery, seed, learns_on), jobs, cluster)
            training = Training(setup, allowance, seed, tell, recovery, learns_on, workers)
            study, seen = Anchored.study, ignore
            if point is not None:
                study, seen = partial(study_point, point, studied.budget), partial(warn_of_loose, point)
            bundle = build_bundle(place, studied, given, training, sign, study, seen)
            training.forget()
            if tracker is not None:
                keep_run(tracker, bundle)
            if isinstance(at, Pool):
                rollout = install(
                    bundle.path, at, install_root=install_root, force=force, canary=canary, tell=tell
                )  # fmt: skip
                return replace(bundle, rollout=rollout)
            if at is None or isinstance(studied.agent, Boards):
                return bundle
            check_key(bundle.path, at)
            installed = put(bundle, studied.agent, install_root or at.install_root, force, tell=tell)
            return replace(bundle, installed=installed)


def build_bundle(
    place: Path, studied: Studied, given: Inputs, training: Training, sign: Path | None = None,
    study: Callable[[Anchored], Sequence[Study]] = Anchored.study, seen: Callable[[Attempt], None] = ignore,
) -> Bundle:  # fmt: skip
    """The best within the budget of ``studied`` as a bundle, in the ``place`` that was reserved for it.

    ``study`` gives the studies to search in; what is taken without a search is ``seen``. Raises ``BudgetError``.
    """
    own, result = find_deployed(studied.anchored, studied.budget, training, studied.given, study, seen)
    result = replace(result, refused={**studied.refused, **result.refused})
    profiled = profile_files(own, result)  # before what the deadline cut is noted
    facts = _list_facts(own, result.plan, training)
    facts |= {"profiles": profiled.profiles, "notes": [*facts["notes"], *profiled.notes]}
    budget = result.budget or studied.budget
    return pack(place, result, given.data, own.network, own.reference, budget, facts, sign)


def check_rollback(budget: Budget | None, where: Where) -> None:
    """Raise ``UsageError`` where accuracy alone is not what is bounded, so that there are no rounds to roll back."""
    bounds = budget or Budget(max_drop=None if where.at_hand else DEFAULT_DROP)
    if bounds.bounds or (bounds.max_drop is None and bounds.accuracy is None):
        fact = "a recovery with rollback, and a budget that does not bound accuracy alone"
        raise UsageError(fact, "give --max-drop or --accuracy and no bound on cost, or leave rollback out")


def count_epochs(asked: float | None, recovery: Recovery | None, given: Inputs) -> float:
    """The epochs of all training: what the recovery says, then what was asked for."""
    if recovery is not None and recovery.epochs is not None:
        return recovery.epochs
    if asked is not None:
        check_epochs(asked)
        return asked
    return EXAMPLE_EPOCHS if given.example else DEFAULT_EPOCHS


@dataclass(frozen=True)
class Studied:
    """A model in each runtime that is asked for, the ``agent`` being there, and the ``budget`` with a bound.

    ``given`` says whether somebody gave a bound on cost, ``refused`` why runtimes have no part in it.
    """

    anchored: Anchored
    budget: Budget
    given: bool
    refused: Mapping[str, str]
    agent: AgentProcess | Boards

    @cached_property
    def studies(self) -> list[Study]:
        """The model studied in each of them, all that a search needs."""
        return self.anchored.study()


@contextmanager
def open_studies(
    given: Inputs,
    where: Where,
    budget: Budget | None,
    force: bool,
    tell: Tell,
    deadline: Deadline | None = None,
    again: bool = True,
    graph_digest: str | None = None,
    tries: int = 0,
) -> Generator[Studied]:
    """The model in each runtime that is asked for, for as long as its scratch files are there.

    Raises ``UsageError`` where that is not the model whose graph has ``graph_digest``.
    """
    data, task = given.data, given.task
    with where.reach() as agent, scratch_folder() as folder:
        opened = where.open_meters(agent, force)
        allowed = {meter.runtime: where.allow_precisions(meter.runtime) for meter in opened.meters}
        anchored, refused = anchor_model(
            given.model, data, task, where.target.name, opened.meters, budget or Budget(), folder, tell, allowed,
            where.candidates, again=again, resumes=True, deadline=deadline, graph_digest=graph_digest,
            tries=tries,
        )  # fmt: skip
        goal = budget or Budget()
        if goal.accuracy is not None:
            reference = anchored.setups[0].reference
            goal = goal.given(task.score(reference, data.test, reference))
        if not goal.bounds and goal.max_drop is None and where.at_hand:
            goal = _halve_latency(goal, anchored)
        elif not goal.bounds and goal.max_drop is None:
            goal = replace(goal, max_drop=default_drop(anchored.setups[0]))
        bounded = budget is not None and bool(budget.bounds)
        try:
            yield Studied(anchored, goal, bounded, {**opened.missing, **refused}, agent)
        except BudgetError:  # an end like any other; what else stops it is an interruption
            anchored.forget()
            raise
        anchored.forget()


def _halve_latency(goal: Budget, anchored: Anchored) -> Budget:
    """``goal`` with half of the dense model's latency as its bound; at a percentile in ms."""
    if goal.percentile is None:
        return replace(goal, latency_ratio=0.5)
    return replace(goal, latency_ms=anchored.anchors[0].shared.latency_ms(goal.percentile) / 2)


def _list_facts(study: Study, plan: Plan, training: Training) -> dict[str, Any]:
    """What the report says beside the figures."""
    kept = {g.name: g.fixed for g in study.graph.groups if g.fixed}
    notes = [note for note in (study.deadline.note, *study.corrections.notes) if note is not None]
    learns, steps = training.can_learn, training.recovery.reconstruct
    beyond = f"fitting blocks in {steps} steps each" if steps else "calibration"
    notes += [] if learns else [f"no training data, or no epochs: nothing was recovered beyond {beyond}"]
    return {
        "metric": study.task.name,
        "notes": notes,
        "epochs": training.allowance.epochs if learns else 0,
        "seed": training.seed,
        "compressed": plan.compresses(study.graph),
        "reasons": [layer.reason for layer in plan.layers],
        "out_of_reach": _find_out_of_reach(study.graph),
        "groups_left_whole": kept,
        "layers_left_as_they_are": {layer.name: layer.fixed for layer in study.graph.layers if layer.fixed},
        "observations": study.corrections.observations,
        "predicted_error": study.corrections.find_error(plan),
        "layers": list_layers(study.graph, plan, study.losses, study.pricing.account),
        "roofs": find_roofs(
            find_target(study.target),
            study.runtime,
            plan.threads,
            full_width(study.graph, study.space),
            study.pricing.priced.prices,
            study.anchors[DENSE].basis,
        ),
    }


def _find_out_of_reach(graph: Graph) -> dict[str, float]:
    """The share of the multiplications that is in layers with no compressed form, by the reason that each gives."""
    total = sum(layer.macs for layer in graph.layers)
    shares: dict[str, float] = {}
    for layer in graph.layers:
        if layer.kind == OTHER and layer.fixed and layer.macs:  # a weighted one may still be integer
            shares[layer.fixed] = shares.get(layer.fixed, 0.0) + layer.macs / total
    return shares
