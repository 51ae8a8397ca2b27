"""A model with its data in one runtime on a device: what writes files of it and has them measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from edgesdk.compress.effort import is_long
from edgesdk.compress.quantize import integer
from edgesdk.core.artifact import Artifact, baseline, format_of
from edgesdk.core.errors import DeviceError
from edgesdk.core.graph import Graph
from edgesdk.core.plan import INT8, Option
from edgesdk.core.report import NOT_RUN, Measurement, Report, Tell, speedup
from edgesdk.data.data import Data
from edgesdk.data.task import Task
from edgesdk.devices.bench import usual_mode
from edgesdk.devices.meter import Meter
from edgesdk.export.formats import export, grid_of, probe_file
from edgesdk.export.parity import Parity, faithful
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.network.reference import SAMPLES, Reference
from edgesdk.pipeline.deadline import PRICING, SEARCH, Deadline
from edgesdk.pipeline.measured import MeasuredRuns
from edgesdk.price.operator import Operator
from edgesdk.train.apply import quantize
from edgesdk_targets.agent.measure import BRIEF


@dataclass(frozen=True)
class Setup:
    """A model on a ``target`` in one runtime, which the ``meter`` measures on a device or predicts from a profile.

    ``reference`` is the user's own module, by which all is judged, ``network`` what was traced of it. ``precisions``
    are those that the search may choose, ``candidates`` forms beside the usual ones. Scratch files go to ``folder``.
    ``measured`` keeps what whole networks were measured at until the run ends, where it is one that can be taken up.
    All that takes long ends by the ``deadline``. Where energy is bounded, all is measured ``by_energy``, too. At most
    ``tries`` plans are tried whole, without training, before the search is believed.
    """

    reference: Reference
    network: Network
    data: Data
    task: Task
    target: str
    meter: Meter
    precisions: tuple[str, ...]
    candidates: tuple[str, ...]
    folder: Path
    tell: Tell
    measured: MeasuredRuns | None
    deadline: Deadline
    by_energy: bool = field(default=False, kw_only=True)
    tries: int = field(default=0, kw_only=True)

    @property
    def graph(self) -> Graph:
        return self.network.graph

    @property
    def runtime(self) -> str:
        return self.meter.runtime

    @property
    def finding(self) -> str:
        """What is done to find what a file takes, in a word."""
        return "predicting" if self.predicts else "measuring"

    @property
    def predicts(self) -> bool:
        """Whether nothing runs: of a file no more than its size counts then."""
        return self.meter.version == NOT_RUN

    @property
    def calibration(self) -> list[Batch]:
        return [x for x, _ in self.data.calibration]

    @property
    def dense_network(self) -> Network:
        """The dense model as its file is made of it."""
        return integer(self.network, {})

    def write_file(self, ready: Network, options: Mapping[str, Option], name: str) -> Artifact:
        """``ready``, whose layers are as ``options`` say, as a file for this runtime."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{name}{format_of(self.runtime).suffix}"
        export(ready, self.data.example, path, self.runtime)
        return Artifact(path, ready.graph, options, self.runtime)

    def quantize(self, network: Network, options: Mapping[str, Option]) -> Network:
        """``network`` with the layers that ``options`` call integer on this runtime's grid, ranges calibrated, and the
        weights that they store in another form in it."""
        return quantize(network, options, self.calibration, grid_of(self.runtime))

    def measure(
        self, artifacts: Mapping[str, Artifact], thorough: bool = False, anew: bool = False
    ) -> Mapping[str, Measurement]:
        """Each artifact's figures from one interleaved run, or its prediction; those of other runtimes too.

        What this run, before it was interrupted, measured of the very same files serves, unless it is to be ``anew``.
        Where the time is short the run is, too; a ``thorough`` one has all that is left.
        """
        made_under = [self.meter.conditions, usual_mode(), thorough, self.by_energy]
        kept = None if self.measured is None or anew else self.measured.load(artifacts, made_under)
        if kept is not None and not self.is_outdated(kept.values()):
            return kept
        self.folder.mkdir(exist_ok=True)
        baselines = {a.runtime: baseline(self.folder, a.runtime) for a in artifacts.values()}
        seconds = self.deadline.left(None if thorough else SEARCH)
        measured = self.meter.measure(artifacts, usual_mode(), baselines, thorough, seconds=seconds)
        if self.by_energy or (thorough and not self.deadline.is_over()):
            measured = self._with_energy(measured, artifacts)
        if self.measured is not None:
            self.measured.save(artifacts, made_under, measured)
        return measured

    def _with_energy(
        self, measured: Mapping[str, Measurement], artifacts: Mapping[str, Artifact]
    ) -> dict[str, Measurement]:
        """``measured`` with what a run takes in energy, where the device has a meter.

        Raises ``DeviceError`` where that is bounded and the meter gives no figure.
        """
        taken = self.meter.measure_energy(artifacts, usual_mode())
        unknown = [energy.reason for energy in taken.values() if energy.mj is None]
        if self.by_energy and unknown:
            raise DeviceError(
                f"the energy of a run is not known: {unknown[0]}", "mend the meter, or bound something else"
            )
        return {
            name: replace(report, energy=taken[name]) if isinstance(report, Report) and name in taken else report
            for name, report in measured.items()
        }

    def is_outdated(self, measured: Iterable[Measurement]) -> bool:
        """Whether those were ``measured`` before the device was seen in a faster state than was known by then.

        Figures that are rough anyway are not measured again for that.
        """
        return usual_mode() != BRIEF and speedup(measured, self.meter.reference_ms) > 1

    def time(
        self, operators: Sequence[Operator], progress: Callable[[float], None] = lambda share: None, again: bool = False
    ) -> None:
        """Time those of ``operators`` that have no price yet, or all of them ``again``, as far as there is time."""
        seconds = self.deadline.left(SEARCH if again else PRICING)
        self.meter.time(operators, lambda op: probe_file(op, self.runtime), progress, again, seconds)


@dataclass(frozen=True)
class DenseFile:
    """The dense model's file, and how far what it computes is from the user's module."""

    artifact: Artifact
    parity: Parity


def check_dense(setup: Setup) -> DenseFile:
    """The dense model as a file of the runtime, compared with the user's module on the first samples.

    Raises ``ModelError`` where the runtime's format lacks one of its operators, ``FidelityError`` where the file is too
    far from the module.
    """
    artifact = setup.write_file(setup.dense_network, {}, "dense")
    some = rebatch(setup.data.example, lambda t: t[:SAMPLES])
    return DenseFile(artifact, faithful(setup.reference, setup.network, artifact, [some]))


@dataclass(frozen=True)
class IntegerModel:
    """The dense model with every layer integer that can be one; its file is written when first asked for."""

    setup: Setup
    options: Mapping[str, Option]

    @classmethod
    def of(cls, setup: Setup, space: Mapping[str, tuple[Option, ...]]) -> IntegerModel:
        eight = Option(INT8, 8)
        return cls(setup, {layer.name: eight for layer in setup.graph.layers if eight in space[layer.name]})

    @cached_property
    def artifact(self) -> Artifact:
        """That model's file, its ranges calibrated."""
        return self._written(self.setup, "dense-int8")

    @cached_property
    def sized(self) -> Artifact:
        """A file of that model's size, to a few bytes in ten thousand: of a large one no more than that is right, for
        its ranges are those of a single sample."""
        data, graph = self.setup.data, self.setup.graph
        if not is_long(graph, sum(len(tensors(x)[0]) for x in self.setup.calibration)):
            return self.artifact
        few = [(rebatch(data.example, lambda t: t[:1]), None)]
        return self._written(replace(self.setup, data=replace(data, calibration=few)), "sized-int8")

    def _written(self, setup: Setup, name: str) -> Artifact:
        return setup.write_file(setup.quantize(setup.network, self.options), self.options, name)


def digest_of(value: nn.Module | Sequence[Tensor]) -> str:
    """SHA-256 of tensors, or of all that a module's state holds."""
    parts = list(value.state_dict().values()) if isinstance(value, nn.Module) else value
    whole = hashlib.sha256()
    for part in parts:
        whole.update(np.ascontiguousarray(part.detach().numpy()).tobytes())
    return whole.hexdigest()
