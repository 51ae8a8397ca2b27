"""A study whose meter answers from a script: the search, the plans and the corrections are real, times are not.

Files are written for their size alone, by the account of bytes, so that a deployment takes a tenth of a second. That
real files are what plans say is for ``tests/budgets`` and ``tests/backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgesdk.compress.integers import UNSIGNED
from edgesdk.compress.quantize import integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.energy import Energy
from edgesdk.core.facts import During, Hardware
from edgesdk.core.pairing import Ratio
from edgesdk.core.plan import FP32, INT8, Option, Plan
from edgesdk.core.report import DENSE, Measurement, Prediction, Report, Statistics, Tell, Undisturbed
from edgesdk.data.data import Data, load_data
from edgesdk.data.task import Task
from edgesdk.devices.answers import Arrays
from edgesdk.export.parity import Parity
from edgesdk.network.network import Network
from edgesdk.network.reference import Reference
from edgesdk.network.trace import trace
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.candidates import Candidate, attempt
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.planning import make_plan
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.setup import DenseFile, Setup
from edgesdk.pipeline.study import Anchored, Study, anchor_setups
from edgesdk.pipeline.training import DEPLOYED, Selected
from edgesdk.price.account import Account
from edgesdk.price.operator import Operator
from edgesdk.price.operators import of_network
from edgesdk.train.recovery import Recovery

INPUTS, CLASSES, SAMPLES = 8, 3, 24
MS_PER_MAC = {FP32: 1e-6, INT8: 0.25e-6}
SMALL = Budget(size_bytes=1.0)  # for which all is priced that is small, however slow
LEAST_MS = 1e-5  # of an operator
EXACT = Parity(0.0, 1e-3, SAMPLES, 0.0)
Script = Callable[[str, float], float]
"""What a file takes in ms, by its name in the run and the ms that its operators add up to."""


def as_priced(name: str, ms: float) -> float:
    return ms


class ScriptedPrices:
    """Prices that grow with the work; ``timed`` says whether they count as timed on a device."""

    call_ms = None

    def __init__(self, timed: bool = False) -> None:
        self.timed, self.factor = timed, 1.0

    def latency_ms(self, operator: Operator) -> float:
        return self.factor * (LEAST_MS + operator.macs * MS_PER_MAC[operator.precision])

    def error_ms(self, operator: Operator) -> float:
        return 0.01 * self.latency_ms(operator) if self.timed else 0.0

    def is_timed(self, operator: Operator) -> bool:
        return self.timed

    def has_price(self, operator: Operator) -> bool:
        return True


@dataclass
class ScriptedMeter:
    """Says of a file what ``script`` makes of the sum of its operators; ``throttled`` names runs that are invalid.

    ``paces`` are what runtimes take, times what the first of them does, ``drift`` what all of a run is multiplied with,
    by how many runs there were before, ``reference_ms`` what the references take, where it has any,
    ``error`` how unsure it is of what files take undisturbed, ``power`` what a run of a file takes in energy.
    """

    script: Script = as_priced
    measured: bool = False
    memory: Callable[[str, float], float] = as_priced
    throttled: Callable[[str], bool] = lambda name: False
    true: ScriptedPrices = field(default_factory=ScriptedPrices)
    table: ScriptedPrices = field(default_factory=ScriptedPrices)
    paces: Mapping[str, float] = field(default_factory=dict)
    drift: Callable[[int], float] = lambda runs: 1.0
    runtime: str = "onnxruntime"
    threads: int = 1
    version: str = "1.23"
    reference_ms: float | None = None
    error: float = 0.01
    power: Callable[[str, float], Energy] | None = None
    asked: list[str] = field(default_factory=list)
    timed: list[tuple[int, bool]] = field(default_factory=list)
    runs: list[dict[str, str]] = field(default_factory=list)

    @property
    def conditions(self) -> Mapping[str, str]:
        return {"device": "scripted"}

    def prices(self, weights: int) -> ScriptedPrices:
        return self.table

    def time(
        self, operators: Sequence[Operator], probe: Callable[[Operator], bytes],
        progress: Callable[[float], None] = lambda share: None, again: bool = False,
        seconds: float | None = None,
    ) -> int:  # fmt: skip
        self.timed.append((len(operators), again))
        if again:
            self.table.factor = self.true.factor
        return len(operators)

    def measure(
        self, artifacts: Mapping[str, Artifact], mode: str, baselines: Mapping[str, Path] | None = None,
        thorough: bool = True, seconds: float | None = None,
    ) -> Mapping[str, Measurement]:  # fmt: skip
        self.asked += [name for name in artifacts if name != DENSE]
        drift = self.drift(len(self.runs))
        self.runs.append({name: artifact.runtime for name, artifact in artifacts.items()})
        ms = {name: drift * self._ms(name, artifact) for name, artifact in artifacts.items()}
        return {name: self._figures(name, artifact, ms) for name, artifact in artifacts.items()}

    def _ms(self, name: str, artifact: Artifact) -> float:
        assert artifact.graph is not None
        parts = sum(self.true.latency_ms(op) for _, op in of_network(artifact.graph, artifact.options))
        parts *= self.paces.get(artifact.runtime, 1.0)
        return parts if name == DENSE else self.script(name, parts)

    def _figures(self, name: str, artifact: Artifact, ms: Mapping[str, float]) -> Measurement:
        assert artifact.graph is not None
        peak = Account.of(self.runtime, self.version).peak_bytes(artifact.graph, artifact.options)
        same: dict[str, Any] = dict(
            name=name, digest=artifact.digest, size_bytes=artifact.size_bytes, runtime=artifact.runtime,
            runtime_version=self.version, threads=self.threads,
            peak_memory_bytes=peak if name == DENSE else self.memory(name, peak), runtime_memory_bytes=None,
            valid=not self.throttled(name), reason="it throttled" if self.throttled(name) else None,
            ratios={other: Ratio(ms[name] / took, ms[name] / took, ms[name] / took, 0) for other, took in ms.items()},
        )  # fmt: skip
        if self.measured:
            samples, reference = (ms[name],) * 100, self.reference_ms
            return Report(
                **same, precision=None, mode="rapid", statistics=Statistics(), samples_ms=samples, load_ms=None,
                conditions=During(), device=Hardware(architecture="x86_64"),
                undisturbed=None if reference is None else Undisturbed(ms[name], self.error, 0.0, reference),
            )  # fmt: skip
        return Prediction(
            **same, median_ms=ms[name], low_ms=ms[name], high_ms=ms[name], provenance={}, sources=(), notes=()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def has_energy(self) -> bool:
        return self.power is not None

    def measure_energy(self, artifacts: Mapping[str, Artifact], mode: str) -> Mapping[str, Energy]:
        return {name: self.power(name, self._ms(name, artifact)) for name, artifact in artifacts.items() if self.power}

    def answer(self, artifact: Artifact, samples: Sequence[Arrays]) -> list[Arrays]:
        return []

    def kernels(self, artifact: Artifact) -> list[dict[str, Any]]:
        return []

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> None:
        return None


class Unwritten:
    """Files that have the bytes which the account says, and nothing in them."""

    folder: Path
    runtime: str

    def write_file(self, ready: Network, options: Mapping[str, Option], name: str) -> Artifact:
        path = self.folder / f"{name}.onnx"
        size = int(Account.of(self.runtime).size_bytes(ready.graph, options))
        path.write_bytes(name.encode() + bytes(size - len(name)))
        path.with_suffix(".bin").write_bytes(b"")  # what OpenVINO has beside it
        return Artifact(path, ready.graph, options, self.runtime)

    def quantize(self, network: Network, options: Mapping[str, Option]) -> Network:
        return integer(network, options, UNSIGNED)


class UnwrittenSetup(Unwritten, Setup):
    pass


class UnwrittenStudy(Unwritten, Study):
    pass


def make_study(meter: ScriptedMeter, folder: Path, labelled: bool = False, times: int = 1) -> Study:
    """A small network with a residual branch, ``times`` as wide, studied with ``meter``; with labels it can learn."""
    return as_unwritten(anchor([meter], folder, labelled, times=times).study())[0]


def make_studies(meters: Sequence[ScriptedMeter], folder: Path, labelled: bool = False) -> list[Study]:
    """That network studied in the runtime of each of ``meters``."""
    return as_unwritten(anchor(meters, folder, labelled).study())


def as_unwritten(studies: Sequence[Study]) -> list[Study]:
    return [UnwrittenStudy(**vars(study)) for study in studies]


def anchor(
    meters: Sequence[ScriptedMeter], folder: Path, labelled: bool = False, deadline: Deadline | None = None,
    tell: Tell = lambda stage, share: None, budget: Budget = SMALL, times: int = 1,
) -> Anchored:  # fmt: skip
    """That network anchored in the runtime of each of ``meters``."""
    reference, network, data, task = _make_network(labelled, times)
    deadline = deadline or Deadline()
    places = [folder / meter.runtime for meter in meters]
    setups = [
        UnwrittenSetup(
            reference, network, data, task, "raspberry-pi-5", meter, (FP32, INT8), (), place, tell, None, deadline
        )
        for meter, place in zip(meters, places, strict=True)
    ]
    for place in places:
        place.mkdir()
    dense = [DenseFile(setup.write_file(network, {}, "dense"), EXACT) for setup in setups]
    deadline.plan(0.0)
    return anchor_setups(setups, dense, budget)


@cache
def _make_network(labelled: bool, times: int) -> tuple[Reference, Network, Data, Task]:
    torch.manual_seed(3)
    model = Branched(times).eval()
    x = torch.randn(SAMPLES * (10 if labelled else 1), INPUTS)
    labels = model(x).argmax(1).numpy() if labelled else None
    data = load_data((x.numpy(), labels))
    reference = Reference(model)
    return reference, trace(model, data.example, reference), data, Task(labelled=labelled)


def with_script(study: Study, **changes: Any) -> Study:
    """``study`` with a meter that answers otherwise from here on, and corrections of its own."""
    assert isinstance(study.meter, ScriptedMeter)
    own = study.corrections
    fresh = replace(own, seen=list(own.seen), observations=list(own.observations), notes=[], timed_again=set())
    return replace(study, meter=replace(study.meter, **changes, asked=[], timed=[], runs=[]), corrections=fresh)


class Branched(nn.Module):
    """Three layers, the middle one a branch that is added to what it reads; vectors of ``INPUTS``."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        outer, inner = 12 * times, 16 * times
        self.a, self.b, self.c = nn.Linear(INPUTS, outer), nn.Linear(outer, inner), nn.Linear(inner, outer)
        self.d = nn.Linear(outer, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        return self.d((x + self.c(self.b(x).relu())).relu())


@dataclass
class ScriptedTraining:
    """What ``Training`` does, without any: ``drop`` says of a plan how many points it loses."""

    drop: Callable[[Plan], float] = lambda plan: 0.0
    finished: list[str] = field(default_factory=list)
    allowance: Allowance = field(default_factory=lambda: Allowance(0.0))
    recovery: Recovery = field(default_factory=Recovery)

    def select_best(self, candidates: Sequence[Candidate]) -> Selected:
        best = min(candidates, key=lambda candidate: self.drop(candidate.plan))
        return Selected(best, ({"finalist": best.plan.digest},) if len(candidates) > 1 else ())

    def finish_best(self, candidates: Sequence[Candidate], beside: Mapping[str, Artifact] | None = None) -> Result:
        return self.finish(self.select_best(candidates).candidate, beside)

    def try_short(self, candidate: Candidate, share: float = 1.0, units: float = 1.0, told: str = "") -> float:
        return 100.0 - self.drop(candidate.plan)

    def score_held_out(self, network: Network) -> float:
        return 100.0

    def finish(self, candidate: Candidate, beside: Mapping[str, Artifact] | None = None) -> Result:
        study = candidate.study
        self.finished.append(candidate.plan.digest)
        measured = measure_beside(study, {DEPLOYED: candidate.artifact, **(beside or {})}, thorough=True)
        return Result(
            candidate.plan, candidate.artifact, measured[DENSE], measured[DEPLOYED], 100.0,
            100.0 - self.drop(candidate.plan), EXACT, (), (),
            {name: measurement for name, measurement in measured.items() if name in (beside or {})},
        )  # fmt: skip


def candidate_of(study: Study, share: float) -> Candidate:
    """The best plan at that share of the dense model's latency, built."""
    planned = make_plan(study, Budget(latency_ms=share * study.dense.latency_ms()))
    return attempt(study, planned, Budget(), "even").candidate
