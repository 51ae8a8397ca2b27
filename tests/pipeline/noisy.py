"""A study that a ``Bench`` measures on a scripted machine: pricing, measuring and searching are real, the clock is not.

The machine's own figures are known, so that what was found can be held against what is true.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from scripted import EXACT, UnwrittenSetup
from scripted_machine import Machine, Part
from torch import nn

from edgesdk.core.artifact import Artifact, references
from edgesdk.core.budget import Budget
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.report import Report
from edgesdk.data.data import Data, load_data
from edgesdk.data.task import Task
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.bench import Bench
from edgesdk.network.network import Network
from edgesdk.network.reference import Reference
from edgesdk.network.trace import trace
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.setup import DenseFile
from edgesdk.pipeline.study import Anchored, anchor_setups
from edgesdk.price.account import Account
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline, of_network
from edgesdk.price.table import COPIES
from edgesdk_targets.agent import measure, operators

RUNTIME = "onnxruntime"
INPUTS, CLASSES, SAMPLES = 8, 3, 24
CALL_NS, OPERATOR_NS = 60000.0, 15000.0
NS_PER_MAC = {FP32: 80.0, INT8: 30.0}
UNEVEN = 0.2  # by how much an operator of one size is faster or slower than its work says
FEELS = {FP32: 0.75, INT8: 1.0}  # of the machine's slowdown; a call feels more than all of it
CALL_FEELS = 1.1
SCALES = {FP32: 1.04, INT8: 0.97}  # of parts that run in a network instead of a probe
REFERENCES: list[Part] = [(60000.0, 1.1), (170000.0, 0.8), (120000.0, 0.9)]
SETTLING_NS = 3e7


def operator_part(op: Operator) -> Part:
    """What one operator takes on the machine."""
    if op.kind.startswith(("alone", "behind")):
        return CALL_NS + 400.0 * op.inputs, CALL_FEELS
    uneven = 1 + UNEVEN * (zlib.crc32(op.key.encode()) / 2**31 - 1)
    work = op.macs or op.inputs
    return OPERATOR_NS + uneven * NS_PER_MAC[op.precision] * work, FEELS[op.precision]


def probe_parts(op: Operator) -> list[Part]:
    """What a probe takes: its copies of the operator, and its baseline."""
    if op.kind.startswith(("alone", "behind")):
        return [operator_part(op)]
    takes, feels = operator_part(op)
    return [operator_part(baseline(op)), (COPIES * takes, feels)]


def network_parts(artifact: Artifact) -> list[Part]:
    """What a network takes."""
    assert artifact.graph is not None
    parts = [(CALL_NS * 1.3, CALL_FEELS)]
    for _, op in of_network(artifact.graph, artifact.options):
        takes, feels = operator_part(op)
        parts.append((takes * SCALES[op.precision], feels))
    return parts


def true_ms(artifact: Artifact) -> float:
    return sum(takes for takes, _ in network_parts(artifact)) / 1e6


@dataclass
class ScriptedAgent:
    """Answers as the agent does, its loops running on a ``machine``; ``calls`` are the times at which it was asked."""

    machine: Machine
    models: dict[Any, list[Part]]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    calls: list[tuple[str, float, float]] = field(default_factory=list)
    where: str = "a scripted machine"
    own: bool = True

    def place(self, *files: Path) -> str:
        return str(files[0])

    def forget(self) -> None: ...

    def call(self, verb: str, **arguments: Any) -> Any:
        begin = self.machine.now
        answer = getattr(self, verb)(**arguments)
        self.calls.append((verb, begin, self.machine.now))
        return answer

    def probe(self) -> Any:
        return {"runners": {RUNTIME: "1.23"}, "cores": 2, "cpu": "scripted", "architecture": "x86_64"}

    def operators(self, **arguments: Any) -> Any:
        return operators.operators(lambda step: None, **arguments)

    def benchmark(self, **arguments: Any) -> Any:
        return measure.benchmark(lambda step: None, **arguments)

    def memory(self, path: str, **arguments: Any) -> Any:
        artifact = self.artifacts[path]
        assert artifact.graph is not None
        return {"peak_added": Account.of(RUNTIME).peak_bytes(artifact.graph, artifact.options), "runtime_baseline": 0}

    def load(self, **arguments: Any) -> Any:
        return {"load_ms": 1.0}

    def kernels(self, **arguments: Any) -> Any:
        return {"kernels": []}


class ScriptedBench(Bench):
    """A bench whose probes and files stand for what the machine knows of them."""

    agent: Any

    def time(
        self, operators: Sequence[Operator], probe: Any, progress: Any = lambda share: None, again: bool = False,
        seconds: float | None = None,
    ) -> int:  # fmt: skip
        def named(op: Operator) -> bytes:
            self.agent.models[op.key.encode()] = probe_parts(op)
            return op.key.encode()

        return super().time(operators, named, progress, again, seconds)

    def measure(self, artifacts: Mapping[str, Artifact], *rest: Any, **more: Any) -> dict[str, Report]:
        for artifact in artifacts.values():
            self.agent.artifacts[str(artifact.path)] = artifact
            self.agent.models[str(artifact.path)] = network_parts(artifact)
        return super().measure(artifacts, *rest, **more)


class Wide(nn.Module):
    """Four layers, two of them a branch; wide enough for a menu of many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(INPUTS, 64), nn.Linear(64, 96), nn.Linear(96, 64)
        self.d = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        return self.d((x + self.c(self.b(x).relu())).relu())


@cache
def traced() -> tuple[Reference, Network, Data]:
    """The network of this module, with samples."""
    torch.manual_seed(3)
    model = Wide().eval()
    data = load_data((torch.randn(SAMPLES, INPUTS).numpy(), None))
    reference = Reference(model)
    return reference, trace(model, data.example, reference), data


def anchor_on(machine: Machine, folder: Path, budget: Budget) -> Anchored:
    """The network of this module, anchored on ``machine`` within ``budget``, its prices kept in ``folder``."""
    reference, network, data = traced()
    models: dict[Any, list[Part]] = dict(zip(references(RUNTIME), ([part] for part in REFERENCES), strict=True))
    machine.parts = models.__getitem__
    agent = ScriptedAgent(machine, models)
    meter = ScriptedBench(cast(AgentProcess, agent), folder=folder / "prices")
    setup = UnwrittenSetup(
        reference,
        network,
        data,
        Task(labelled=False),
        "x86",
        meter,
        (FP32, INT8),
        (),
        folder / "files",
        lambda stage, share: None,
        None,
        Deadline(),
    )
    folder.joinpath("files").mkdir(parents=True)
    dense = DenseFile(setup.write_file(network, {}, "dense"), EXACT)
    return anchor_setups([setup], [dense], budget)
