"""All that is known of a model on a device before anything is decided: its graph, its dense figures, its prices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from edgesdk.core.artifact import Artifact, format_of
from edgesdk.core.budget import Budget
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import DeviceError, EdgeSdkWarning, FidelityError, ModelError, UsageError
from edgesdk.core.menu import Menu
from edgesdk.core.plan import Option
from edgesdk.core.report import DENSE, Measurement, Tell, speedup
from edgesdk.core.serialize import digest
from edgesdk.core.stored import STORED
from edgesdk.data.data import Data, check
from edgesdk.data.task import Task
from edgesdk.devices.bench import usual_mode
from edgesdk.devices.meter import Meter
from edgesdk.export.parity import Parity
from edgesdk.network.network import Network
from edgesdk.network.reference import Reference
from edgesdk.network.trace import trace
from edgesdk.pipeline.anchoring import DENSE_INT8, UNSURE, Anchor, measure_dense
from edgesdk.pipeline.corrections import Corrections, Seen
from edgesdk.pipeline.deadline import PRICING, SEARCH, Deadline
from edgesdk.pipeline.measured import MeasuredRuns
from edgesdk.pipeline.pricing import Priced, Pricing, pick_full_width, price_full_width, price_widths
from edgesdk.pipeline.sensitivity import Sensitivity, keep_sensed, price_accuracy
from edgesdk.pipeline.setup import DenseFile, IntegerModel, Setup, check_dense
from edgesdk.price.account import Account
from edgesdk.price.correct import Correction
from edgesdk.price.menu import Losses
from edgesdk_targets.agent.measure import BRIEF

FILES_LEFT = 2  # that are written whatever is cut: the dense model in integers, and what is deployed


def never() -> bool:
    """That nothing is to be renewed."""
    return False


class Outdated(Exception):
    """The device was seen in a state that is ``times`` as fast as that in which a study was priced."""

    def __init__(self, times: float) -> None:
        super().__init__(times)
        self.times: float = times


def anchor_model(
    model: nn.Module,
    data: Data,
    task: Task,
    target: str,
    meters: Sequence[Meter],
    budget: Budget,
    folder: Path,
    tell: Tell,
    precisions: Mapping[str, tuple[str, ...]],
    candidates: tuple[str, ...] = (),
    *,
    again: bool = True,
    resumes: bool = False,
    deadline: Deadline | None = None,
    graph_digest: str | None = None,
    tries: int = 0,
) -> tuple[Anchored, dict[str, str]]:
    """Trace ``model`` and, on each of ``meters``, on ``target``, price it at full width and measure the dense model.

    ``precisions`` are those that the search may choose, by runtime, ``candidates`` forms beside the usual ones. Scratch
    files go to ``folder``. At most ``tries`` plans are tried whole before the search is believed. Without ``again`` the
    dense model is not measured anew where it was before: enough for a plan, not for comparing. A run that ``resumes``
    takes up what it measured of whole networks before it was interrupted, until :meth:`Anchored.forget`. What there is
    no time for by the ``deadline`` has no price.

    Returns what is known then and, of several, the runtimes whose format cannot hold the model, with the reason. Raises
    that ``ModelError`` where none can, ``BudgetError`` where the dense model does not reach the score that the budget
    asks for, ``DeviceError`` where it bounds energy and there is no meter of that, and ``UsageError`` for another model
    than that whose graph has ``graph_digest``.
    """
    check(data, model, task.classifies, task.output, task.target)
    deadline = deadline or Deadline()
    begun = deadline.clock()
    tell("tracing", None)
    reference = Reference(model)
    network = trace(model, data.example, reference)
    if graph_digest is not None and network.graph.digest != graph_digest:
        raise UsageError("the front is of another model: its graph is not this one's", "sweep this model anew")
    if budget.accuracy is not None:
        budget = budget.given(task.score(reference, data.test, reference))
    traced = deadline.clock()
    able: list[tuple[Setup, DenseFile]] = []
    refused: dict[str, str] = {}
    for meter in meters:
        runtime = meter.runtime
        if budget.energy_mj is not None and not meter.has_energy:
            fact = f"no meter of energy can be read for {target}"
            raise DeviceError(fact, "give a --device that has one, or bound something else")
        forms = candidates if len(meters) == 1 else _select_held(candidates, runtime)
        setup = Setup(
            reference, network, data, task, target, meter, precisions[runtime], forms, folder / runtime, tell,
            _open_measured(network, meter) if resumes else None, deadline, by_energy=budget.energy_mj is not None,
            tries=tries,
        )  # fmt: skip
        try:  # what the format lacks must be known before anything long begins
            able.append((setup, check_dense(setup)))
        except (ModelError, FidelityError) as error:
            if len(refused) + 1 == len(meters):
                raise
            refused[runtime] = error.fact
    now = deadline.clock()
    deadline.plan(now - begun)  # to write a file and hold it against the module takes as long again
    if (short := deadline.find_shortfall(FILES_LEFT * (now - traced) / len(meters))) is not None:
        warnings.warn(short, EdgeSdkWarning, stacklevel=2)
    return anchor_setups([setup for setup, _ in able], [dense for _, dense in able], budget, again), refused


def anchor_setups(
    setups: Sequence[Setup], dense: Sequence[DenseFile], budget: Budget, again: bool = True,
    beside: Artifact | None = None,
) -> Anchored:  # fmt: skip
    """The model of ``setups``, priced at full width as far as ``budget`` may want it, and measured; where one is given,
    shares of latency are of the file ``beside`` of another runtime."""
    priced = tuple(price_full_width(setup, budget) for setup in setups)
    whole = tuple(IntegerModel.of(setup, own.space) for setup, own in zip(setups, priced, strict=True))
    anchors = tuple(measure_dense(setups, dense, whole, again, beside=beside))
    return Anchored(tuple(setups), tuple(dense), priced, whole, anchors, budget, beside=beside)


@dataclass(frozen=True)
class Anchored:
    """A model in several runtimes, before anything but whole layers has a price.

    ``dense`` and ``whole`` are its files in float and with every layer integer, ``anchors`` what they take, ``priced``
    the options at full width; a place of each for every one of ``setups``. Where a measurement sees the device
    in a faster state, and ``may_renew`` says so, :class:`Outdated` tells who can renew it. Where the runtime whose
    dense model shares of latency are of is none of these, its file is ``beside``.
    """

    setups: tuple[Setup, ...]
    dense: tuple[DenseFile, ...]
    priced: tuple[Priced, ...]
    whole: tuple[IntegerModel, ...]
    anchors: tuple[Anchor, ...]
    budget: Budget
    may_renew: Callable[[], bool] = never
    beside: Artifact | None = None

    @property
    def is_outdated(self) -> bool:
        """Whether the device was seen in a faster state since the dense model was measured."""
        return self.setups[0].is_outdated(figure for anchor in self.anchors for figure in anchor.figures.values())

    def _steady(self) -> Anchored:
        """The same, the dense model measured once more where the device was disturbed so that its figures are unsure.

        By now witnesses may have told by how much kernels are slowed down.
        """
        unsure = max((figure.error for anchor in self.anchors for figure in anchor.figures.values()), default=0.0)
        if usual_mode() == BRIEF or unsure <= UNSURE or self.setups[0].deadline.is_over(PRICING):
            return self
        return replace(
            self, anchors=tuple(measure_dense(self.setups, self.dense, self.whole, anew=True, beside=self.beside))
        )

    def renew(self) -> Anchored:
        """The same in the state that is known by now: what is doubtful since is priced and measured again."""
        return replace(
            anchor_setups(self.setups, self.dense, self.budget, beside=self.beside), may_renew=self.may_renew
        )

    def select(self, runtime: str) -> Anchored:
        """The same in that ``runtime`` alone; shares of latency stay those of the fastest dense model."""
        at = slice(place := [setup.runtime for setup in self.setups].index(runtime), place + 1)
        shared = self.anchors[place].shared_file
        return replace(
            self, setups=self.setups[at], dense=self.dense[at], priced=self.priced[at], whole=self.whole[at],
            anchors=self.anchors[at], beside=None if shared.runtime == runtime else shared,
        )  # fmt: skip

    def study(self) -> list[Study]:
        """All that a search needs in each runtime: prices of every width, and of every choice in accuracy."""
        for setup, priced in zip(self.setups, self.priced, strict=True):
            price_widths(setup, priced)
        if self.is_outdated:
            return self.renew().study()
        return self._steady()._study(price_accuracy(self.setups, [own.space for own in self.priced]))

    def study_whole_layers(self) -> list[Study]:
        """What is known with every layer left at its width."""
        return self._study(price_accuracy(self.setups, [own.space for own in self.priced], structure=False))

    def study_as_it_is(self) -> list[Study]:
        """What is known with every layer left as it is: nothing has to be sensed for that."""
        return self._study(Sensitivity(Losses.as_it_is(self.setups[0].graph), {}))

    def forget(self) -> None:
        """Remove what was kept of this run's measurements: it has come to its end."""
        for setup in self.setups:
            if setup.measured is not None:
                setup.measured.forget()

    def _study(self, sensed: Sensitivity) -> list[Study]:
        priced = [replace(own, space=keep_sensed(own.space, sensed.losses)) for own in self.priced]
        every = zip(self.setups, self.dense, self.whole, priced, self.anchors, strict=True)
        return [_anchor(*each, sensed, self.may_renew) for each in every]


def _open_measured(network: Network, meter: Meter) -> MeasuredRuns:
    """Where a run keeps what it measures of networks that are made of this one."""
    return MeasuredRuns(cache_folder() / "runs" / digest(["measured", network.graph.digest, meter.conditions])[:16])


def _select_held(candidates: Sequence[str], runtime: str) -> tuple[str, ...]:
    """Of the ``candidates``, those that a file for ``runtime`` can hold: others may be another runtime's."""
    return tuple(name for name in candidates if name not in STORED or name in format_of(runtime).holds)


def _anchor(
    setup: Setup, dense: DenseFile, whole: IntegerModel, priced: Priced, anchor: Anchor, sensitivity: Sensitivity,
    may_renew: Callable[[], bool],
) -> Study:  # fmt: skip
    anchors = anchor.figures
    models: dict[str, Mapping[str, Option]] = {DENSE: {}, DENSE_INT8: whole.options}
    if not all(option in priced.space[name] for name, option in whole.options.items()):
        models, whole = {DENSE: {}}, IntegerModel(setup, {})  # no choice on the menu is that model
    sizes = [(setup.graph, options, anchors[name].size_bytes) for name, options in models.items()]
    account = Account.of(setup.runtime, setup.meter.version).calibrated(sizes)
    pricing = Pricing(setup.graph, priced, sensitivity.losses, account)
    corrections = Corrections(pricing, lambda operators: setup.time(operators, again=True))
    full = {group.name: group.size for group in setup.graph.groups if not group.fixed}
    at = pricing.menu(Correction())
    for name, options in models.items():
        corrections.observe(Seen(pick_full_width(at, options), full, (), anchors[name]))
    return Study(
        **vars(setup), dense_file=dense.artifact, dense_parity=dense.parity, whole=whole, anchors=anchors,
        dense=anchor.shared, shared_file=anchor.shared_file,
        pricing=pricing, scores=sensitivity.scores, corrections=corrections, may_renew=may_renew,
    )  # fmt: skip


@dataclass(frozen=True)
class Study(Setup):
    """A setup of which all is known that a search needs.

    ``dense_file`` is the dense model's, ``whole`` the same with every layer integer, ``anchors`` what the two were
    measured at. ``dense`` is what the dense model takes that shares of latency are of, ``shared_file``, which is in
    every run: of several runtimes' the fastest. ``pricing`` has the prices of parts, ``scores`` how much each channel
    matters. ``corrections`` alone grows, with every network that is measured; ``may_renew`` is :class:`Anchored`'s.
    """

    dense_file: Artifact
    dense_parity: Parity
    whole: IntegerModel
    anchors: Mapping[str, Measurement]
    dense: Measurement
    shared_file: Artifact
    pricing: Pricing
    scores: Mapping[str, Tensor]
    corrections: Corrections
    may_renew: Callable[[], bool]

    @property
    def shares_own(self) -> bool:
        """Whether shares of latency are of the dense model in this runtime."""
        return self.shared_file.runtime == self.runtime

    @property
    def losses(self) -> Losses:
        """The prices in accuracy, corrected by all plans that were judged."""
        return self.corrections.losses

    @property
    def space(self) -> Mapping[str, tuple[Option, ...]]:
        return self.pricing.priced.space

    def menu(self, losses: Losses | None = None) -> Menu:
        """The menu at prices that are corrected by all that was measured."""
        return self.pricing.menu(self.corrections.correction, losses or self.losses)

    def check_state(self) -> None:
        """Raise ``Outdated`` where the device was seen in a faster state since, and who renews all has time to."""
        known = self.anchors.values()
        if self.may_renew() and not self.deadline.is_over(SEARCH) and self.is_outdated(known):
            raise Outdated(speedup(known, self.meter.reference_ms))
