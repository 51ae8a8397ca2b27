"""All that is known of a model on a device before anything is decided: its graph, its dense figures, its prices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import hypot, inf, log, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.compress.refit import ranked
from edgesdk.compress.sensitivity import sense
from edgesdk.compress.stored import stored
from edgesdk.core.artifact import Artefact, baseline, format_of
from edgesdk.core.budget import Budget, show
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError, FidelityError, ModelError
from edgesdk.core.graph import Graph
from edgesdk.core.menu import Choice, Menu
from edgesdk.core.plan import FP32, INT8, STORED, Option, Struck
from edgesdk.core.report import Prediction, Report, Tell
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.data.data import Data, check
from edgesdk.data.task import Task
from edgesdk.devices.bench import Bench
from edgesdk.devices.forecast import Forecast
from edgesdk.export.formats import export, grid_of, probe_file
from edgesdk.export.parity import Parity, faithful
from edgesdk.export.probes import COPIES
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.network.reference import SAMPLES, Reference
from edgesdk.network.trace import trace
from edgesdk.price.account import Account
from edgesdk.price.correct import Correction, Observation, fit
from edgesdk.price.menu import Losses, all_widths, full_width, menu, options, strike
from edgesdk.price.operators import Operator, of_network, operators
from edgesdk.price.planned import planned
from edgesdk.price.profile import Predicted
from edgesdk.price.stored import forms
from edgesdk.price.table import Table
from edgesdk.solve.milp import price

SENSE_SAMPLES = 128
METHOD = "taylor and hessian, fitted"  # of ranking and sensing: what was kept of another is of no use
ANCHORED = 2  # what is kept of a measured dense model: 2 has its undisturbed latency
CALLS = 3.0  # of what a call costs: the most that a network takes beside its parts, whose inputs are larger
MODEL_ERROR = 0.03  # log: of the sum of parts as what a network takes, beyond what is uncertain of the parts
DOUBTFUL = 2.0  # standard errors beyond which parts and a network contradict each other
WITHOUT_FOUR_BITS = ("tensorrt",)  # of weights of a convolution


@dataclass(frozen=True)
class Seen:
    """A whole network that was measured (or predicted): its choices, and the report."""

    choices: Mapping[str, Choice]
    kept: Mapping[str, int]
    dropped: Sequence[str]
    report: Report | Prediction

    def at(self, menu: Menu) -> dict[str, Choice]:
        """Its choices at the prices of ``menu``."""
        same = ("option", "reads", "writes", "skips")
        by_name = {layer.name: layer for layer in menu.layers}
        return {
            name: next(c for c in by_name[name].choices if all(getattr(c, f) == getattr(own, f) for f in same))
            for name, own in self.choices.items()
        }


@dataclass
class Study:
    """A model on a device, in one runtime: prices for every choice, and whole networks that correct them.

    ``reference`` is the user's own module, by which all is judged, ``network`` what was traced of it.
    On a device at hand both are measured (a ``Bench``), on another predicted from its profile (a ``Forecast``).
    ``precisions`` are those that the search may choose, ``offer`` forms beside the usual ones. Scratch files go to
    ``folder``.
    """

    reference: Reference
    network: Network
    data: Data
    task: Task
    bench: Bench | Forecast
    precisions: tuple[str, ...]
    offer: tuple[str, ...]
    folder: Path
    tell: Tell
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    offered: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)
    losses: Losses = field(default_factory=Losses)
    seen: list[Seen] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    struck: tuple[Struck, ...] = ()
    dense: Report | Prediction | None = None
    anchors: Mapping[str, Report | Prediction] = field(default_factory=dict)
    table: Table | Predicted = field(init=False)
    account: Account = field(init=False)

    @property
    def graph(self) -> Graph:
        return self.network.graph

    @property
    def runtime(self) -> str:
        return self.bench.runtime

    @property
    def calibration(self) -> list[Batch]:
        return [x for x, _ in self.data.calibration]

    def __post_init__(self) -> None:
        weights = sum(prod(layer.weight_shape) for layer in self.graph.layers if layer.weight_shape)
        self.account = Account.of(self.runtime, self.bench.version)
        self.table = self.bench.table(cache_folder() / "prices", COPIES, weights)
        self.folder.mkdir(exist_ok=True)
        self._again: set[str] = set()

    def artefact(self, ready: Network, options: Mapping[str, Option], name: str) -> Artefact:
        """``ready``, whose layers are as ``options`` say, as a file for this runtime."""
        path = self.folder / f"{name}{format_of(self.runtime).suffix}"
        export(ready, self.data.example, path, self.runtime)
        return Artefact(path, ready.graph, options, self.runtime)

    @cached_property
    def dense_file(self) -> Artefact:
        """The dense model's file. Raises ``ModelError`` where the runtime's format lacks one of its operators."""
        return self.artefact(integer(self.network, {}), {}, "dense")

    @property
    def whole(self) -> dict[str, Option]:
        """The options of the dense model with every layer integer that is offered as one."""
        eight = Option(INT8, 8)
        return {layer.name: eight for layer in self.graph.layers if eight in self.offered[layer.name]}

    @cached_property
    def integer_file(self) -> Artefact:
        """That model's file, its ranges calibrated."""
        return self.artefact(self.integer(self.network, self.whole), self.whole, "dense-int8")

    @cached_property
    def dense_parity(self) -> Parity:
        """How far the dense file is from the user's module on the first samples; ``FidelityError`` where too far."""
        some = rebatch(self.data.example, lambda t: t[:SAMPLES])
        return faithful(self.reference, self.network, self.dense_file, [some])

    def measure(self, artefacts: Mapping[str, Artefact], mode: str, thorough: bool = False) -> dict[str, Any]:
        """Each artefact's report from one interleaved run, or its prediction; those of other runtimes too."""
        baselines = {a.runtime: baseline(self.folder, a.runtime) for a in artefacts.values()}
        return dict(self.bench.measure(artefacts, mode, baselines, thorough))

    def integer(self, network: Network, options: Mapping[str, Option]) -> Network:
        """``network`` with the layers that ``options`` call integer on this runtime's grid, ranges calibrated, and the
        weights that they store in another form in it."""
        ready = integer(network, options, grid_of(self.runtime))
        calibrate(ready, self.calibration)
        return stored(ready, options)

    def price(self, budget: Budget) -> None:
        """Set the prices in ms of every choice that this device does not run slower than what it replaces."""
        smaller = budget.size_bytes is not None or budget.peak_memory_bytes is not None
        bits = (8, 4) if budget.size_bytes is not None and self.runtime not in WITHOUT_FOUR_BITS else (8,)
        every = {
            layer.name: (
                *(o for o in options(layer, bits, self.offer) if o.precision in self.precisions),
                *(Option(form=form) for form in forms(layer, self.offer, self.runtime)),
            )
            for layer in self.graph.layers
        }
        stage = f"pricing operators ({self.runtime})"
        self.tell(stage, 0.0)
        self.time(full_width(self.graph, every), lambda s: self.tell(stage, s / 5))
        self.offered, self.struck = strike(self.graph, every, self.table, smaller)
        wanted = all_widths(self.graph, self.offered)
        self.time(wanted, lambda s: self.tell(stage, 0.2 + 0.8 * s))

    def time(
        self, operators: Sequence[Operator], progress: Callable[[float], None] = lambda share: None, again: bool = False
    ) -> None:
        """Measure the prices of ``operators`` that are not known yet, or all of them ``again``."""
        if isinstance(self.bench, Bench) and isinstance(self.table, Table):
            self.bench.price(self.table, operators, lambda op: probe_file(op, self.runtime), progress, again)

    def anchor(self, mode: str, again: bool = True) -> None:
        """Measure the dense model, float and with every layer integer that can be, in one interleaved run.

        Both figures correct the prices. Unless ``again``, those of an earlier run on this device serve.
        """
        self.tell(f"measuring the dense model ({self.runtime})", None)
        whole = self.whole
        key = [ANCHORED, self.graph.digest, digest_of(self.network.module), self.bench.conditions, mode, sorted(whole)]
        path = cache_folder() / "anchors" / f"{digest(key)[:16]}.json"
        again = again or isinstance(self.bench, Forecast)
        reports = None if again else _kept(path)
        if reports is None:
            both = {"dense": self.dense_file, "dense int8": self.integer_file}
            reports = self.measure(both, mode)
            if isinstance(self.bench, Bench) and all(report.valid for report in reports.values()):
                write(path, dumps(reports))
        self.anchors, self.dense = reports, reports["dense"]
        sizes = (reports[name].size_bytes for name in ("dense", "dense int8"))
        self.account = self.account.calibrated([(self.graph, o, b) for o, b in zip(({}, whole), sizes, strict=True)])
        everything = self.menu(Correction())
        full = {g.name: g.size for g in self.graph.groups if not g.fixed}
        for name, chosen in (("dense", {}), ("dense int8", whole)):
            picked = {}
            for layer in everything.layers:
                wanted = chosen.get(layer.name, Option())
                found = [c for c in layer.choices if c.option == wanted and not c.skips]
                picked[layer.name] = max(found, key=lambda c: (c.reads or 0, c.writes or 0))
            self.observe(Seen(picked, full, (), reports[name]))

    def menu(self, correction: Correction | None = None, losses: Losses | None = None) -> Menu:
        """The menu at prices that are corrected by all that was measured."""
        if correction is None:
            correction = self.correction
        return menu(self.graph, self.offered, self.table, losses or self.losses, correction, self.struck, self.account)

    @property
    def correction(self) -> Correction:
        """What whole networks say of the prices; its constant is what calls cost where all else has a price."""
        if not isinstance(self.table, Table):
            return fit(self.observations, trusted=self.account.traced)
        call = self.table.call_ms
        priced = all(op.probed for _, op in of_network(self.graph, {}))
        return fit(self.observations, call, CALLS * call if priced else inf, self.account.traced)

    def bytes_of(
        self, choices: Mapping[str, Choice], kept: Mapping[str, int], dropped: Sequence[str]
    ) -> tuple[float, float]:
        """Peak memory and size of what those choices make, by the account of whole networks."""
        chosen = {name: choice.option for name, choice in choices.items()}
        graph, options = planned(self.graph, chosen, kept, tuple(dropped))
        return self.account.peak_bytes(graph, options), self.account.size_bytes(graph, options)

    def observe(self, seen: Seen) -> None:
        """Set what a whole network was measured (or predicted) at beside the uncorrected prices of its parts.

        Where the two contradict each other beyond what is uncertain of both, the parts are measured again.
        """
        self.seen.append(seen)
        self._compare()
        parts = [op for op in self._operators(seen) if op.key not in self._again]
        predicted, error = self._expected(seen)
        if parts and abs(log(seen.report.latency_ms() / predicted)) > DOUBTFUL * error:
            took = f"{show('latency_ms', seen.report.latency_ms())} instead of {show('latency_ms', predicted)}"
            self.healed.append(f"{len(parts)} operators were priced again: a network of them took {took}")
            self._again |= {op.key for op in parts}
            self.time(parts, again=True)
            self._compare()

    def _compare(self) -> None:
        """Observations at the prices as they are now."""
        at = self.menu(Correction())
        self.observations = [self._observation(at, seen) for seen in self.seen]

    def _observation(self, at: Menu, seen: Seen) -> Observation:
        choices, report = seen.at(at), seen.report
        cost, _ = price(at, choices, seen.kept, seen.dropped)
        float_ms = sum(choice.latency_ms for choice in choices.values() if choice.option.precision == FP32)
        memory, size = self.bytes_of(choices, seen.kept, seen.dropped)
        assert report.peak_memory_bytes is not None
        return Observation(
            float_ms,
            cost.latency_ms - float_ms,
            report.latency_ms(),
            memory,
            report.peak_memory_bytes,
            size,
            report.size_bytes,
        )

    def _operators(self, seen: Seen) -> list[Operator]:
        """What a network runs as, but for changes of precision, as far as that is measured."""
        if not isinstance(self.table, Table):
            return []
        found = (
            op
            for name, choice in seen.choices.items()
            for op in operators(self.graph.by_name[name], self.graph, choice.option, choice.reads, choice.writes)
            if op.probed and not choice.skips
        )
        return list({op.key: op for op in found}.values())

    def _expected(self, seen: Seen) -> tuple[float, float]:
        """What a network should take at corrected prices, and the standard error of the logarithm of that.

        The latter has the error of what it was measured at, too.
        """
        at = self.menu()
        cost, _ = price(at, seen.at(at), seen.kept, seen.dropped)
        parts = hypot(*map(self.table.error_ms, self._operators(seen))) / cost.latency_ms
        known = seen.report.undisturbed if isinstance(seen.report, Report) else None
        return cost.latency_ms, hypot(parts, known.error if known else 0.0, MODEL_ERROR)


def study(
    model: nn.Module,
    data: Data,
    task: Task,
    benches: Sequence[Bench | Forecast],
    budget: Budget,
    folder: Path,
    tell: Tell,
    precisions: Mapping[str, tuple[str, ...]],
    offer: tuple[str, ...] = (),
    mode: str = "rapid",
    again: bool = True,
) -> tuple[list[Study], dict[str, str]]:
    """Trace, price, sense and anchor ``model`` on each of ``benches``: all that a search needs.

    ``precisions`` are those that the search may choose, by runtime, ``offer`` forms beside the usual ones. Scratch
    files go to ``folder``. Without ``again`` the dense model is not measured anew where it was before: enough for a
    plan, not for comparing. Returns the studies and, of several, the runtimes whose format cannot hold the model, with
    the reason. Raises that ``ModelError`` where none can, and ``BudgetError`` where the dense model does not reach the
    score that the budget asks for.
    """
    check(data, model, task.classifies, task.output)
    tell("tracing", None)
    reference = Reference(model)
    network = trace(model, data.example, reference)
    if budget.min_score is not None:
        budget = budget.given(task.score(reference, data.test, reference))
    found: list[Study] = []
    refused: dict[str, str] = {}
    for bench in benches:
        able = offer if len(benches) == 1 else _held(offer, bench.runtime)
        may, place = precisions[bench.runtime], folder / bench.runtime
        one = Study(reference, network, data, task, bench, may, able, place, tell)
        try:
            one.dense_parity  # noqa: B018 (what the format lacks must be known before anything long begins)
        except (ModelError, FidelityError) as error:
            if len(refused) + 1 == len(benches):
                raise
            refused[bench.runtime] = error.fact
        else:
            found.append(one)
    for one in found:
        one.price(budget)
    _sense(found)
    for one in found:
        one.anchor(mode, again)
    return found, refused


def _held(offer: Sequence[str], runtime: str) -> tuple[str, ...]:
    """Of the forms that are offered, those that a file for ``runtime`` can hold: others may be another runtime's."""
    return tuple(name for name in offer if name not in STORED or name in format_of(runtime).stores)


def _sense(studies: Sequence[Study]) -> None:
    """Set the prices in accuracy of every choice on any of ``studies``, from calibration data; kept on disk."""
    first = studies[0]
    first.tell("sensing accuracy", 0.0)
    network, task = first.network, first.task
    offered = {
        layer.name: tuple(dict.fromkeys(option for one in studies for option in one.offered[layer.name]))
        for layer in first.graph.layers
    }
    x = _joined(first.calibration, SENSE_SAMPLES)
    every = [t for x, y in first.data.calibration for t in (*tensors(x), y) if isinstance(t, Tensor)]
    made_from = [
        first.graph.digest, digest_of(network.module), digest_of(every), task.name, METHOD,
        {name: [str(option) for option in found] for name, found in offered.items()},
    ]  # fmt: skip
    path = cache_folder() / "losses" / f"{digest(made_from)[:16]}.json"
    try:
        sensed = from_json(_Sensed, loads(path.read_text()))
    except (OSError, ValueError, EdgeSdkError):
        scores = ranked(network, first.data.calibration, task)
        progress = lambda done, of: first.tell("sensing accuracy", done / of)  # noqa: E731
        losses = sense(network, offered, x, scores, task, progress)
        sensed = _Sensed(losses, {name: tuple(score.tolist()) for name, score in scores.items()})
        write(path, dumps(sensed))
    for one in studies:
        one.losses = sensed.losses
        one.scores = {name: torch.tensor(score) for name, score in sensed.scores.items()}


@dataclass(frozen=True)
class _Sensed:
    """What is kept on disk: prices in accuracy, and how much each channel of each group matters."""

    losses: Losses
    scores: Mapping[str, tuple[float, ...]]


def _kept(path: Path) -> dict[str, Report] | None:
    """The reports that were kept at ``path``; ``None`` where there are none that can be read."""
    try:
        content = loads(path.read_text())
        return {name: from_json(Report, content[name]) for name in ("dense", "dense int8")}
    except (OSError, ValueError, KeyError, TypeError, EdgeSdkError):
        return None


def _joined(batches: Sequence[Batch], most: int) -> Batch:
    """The first ``most`` samples of ``batches`` as one batch."""
    first = batches[0]
    columns = [torch.cat(parts)[:most] for parts in zip(*(tensors(x) for x in batches), strict=True)]
    remaining = iter(columns)
    return rebatch(first, lambda _: next(remaining))


def digest_of(value: nn.Module | Sequence[Tensor]) -> str:
    parts = list(value.state_dict().values()) if isinstance(value, nn.Module) else value
    whole = hashlib.sha256()
    for part in parts:
        whole.update(np.ascontiguousarray(part.detach().numpy()).tobytes())
    return whole.hexdigest()
