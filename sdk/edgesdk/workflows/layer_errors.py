"""How far each layer of a file is from its simulation, and that from a float model, over samples."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgesdk.core.artifact import Artifact
from edgesdk.core.scratch import scratch_folder
from edgesdk.devices.answers import Answer, Opener, open_here
from edgesdk.export.parity import FLOAT_TOLERANCE, distance
from edgesdk.export.places import Place
from edgesdk.export.simulation import Simulation
from edgesdk.export.taps import Tapped, tap

STEPS = 2.0  # that a kernel may be off by: it rounds once more than the simulation, at most twice
BEYOND = 1e30  # what a difference counts as where one of the two is no number
LISTED = 3  # layers that cost the most


@dataclass(frozen=True)
class Error:
    """How far one tensor is from another: signal to noise in dB, the largest difference, and that in steps of its
    scale.

    ``snr_db`` is ``None`` where the two are equal, ``largest_steps`` where the tensor is float.
    """

    snr_db: float | None
    largest: float
    largest_steps: float | None


@dataclass(frozen=True)
class LayerDiff:
    """A layer in the file, in its simulation and in the float model.

    ``tensor`` is what the file calls its output, ``None`` where the layer is within another there. ``alone`` is what
    the layer itself adds: its simulation reads what the file made before it. ``file`` is how far the file is from the
    simulation there, with all before; ``simulation`` how far that is from the float model, ``None`` where that has no
    such tensor, as channels were cut. ``clipped`` is the share of its values beyond its range, ``spread_steps`` the
    standard deviation of its values in steps, ``uneven`` the largest channel's peak over the median channel's; each
    ``None`` where it is not quantized. ``leaves`` says whether it is not what was specified.
    """

    name: str
    tensor: str | None
    alone: Error | None
    file: Error | None
    simulation: Error | None
    clipped: float | None
    spread_steps: float | None
    uneven: float | None
    leaves: bool


@dataclass(frozen=True)
class FloatModel:
    """The user's module, traced: a module, and the nodes in which its layers end."""

    module: fx.GraphModule
    ends: Mapping[str, str]

    def run(self, sample: list[Tensor]) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}

        class Noting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                made[n.name] = super().run_node(n)
                return made[n.name]

        with torch.no_grad():
            Noting(self.module).run(*sample)
        return {layer: made[node] for layer, node in self.ends.items() if isinstance(made.get(node), Tensor)}


@dataclass(frozen=True)
class Comparison:
    """Of all layers how far they are off, in the order of the network; ``costliest`` are those that add most noise.

    ``outputs`` is how far the file's outputs are from the simulation's, of their spread; ``ends_apart`` the largest
    difference between what the file gives and its copy that shows what lies inside.
    """

    layers: tuple[LayerDiff, ...]
    costliest: tuple[str, ...]
    outputs: float
    ends_apart: float
    runtime: str
    version: str


def compare_layers(
    artifact: Artifact,
    simulation: Simulation,
    samples: Sequence[list[Tensor]],
    floats: FloatModel | None = None,
    opener: Opener = open_here,
) -> Comparison:
    """Compare what a runtime makes of the file with the simulation, and that with ``floats``.

    ``samples`` are inputs of one sample each, at least one. ``opener`` says where the file runs. Raises ``DeviceError``
    where the runtime is not there.
    """
    with scratch_folder() as folder:
        tapped = tap(artifact, simulation.wanted, folder)
        plain, copy = opener(artifact), opener(tapped.artifact)
        seen = _Seen(simulation, tapped)
        for sample in samples:
            inputs = [value.numpy() for value in sample]
            seen.add(sample, plain(inputs), copy(inputs), floats)
    return seen.conclude()


@dataclass
class _Sum:
    """Differences, as they are added up over samples."""

    signal: float = 0.0
    noise: float = 0.0
    most: float = 0.0
    count: int = 0

    def add(self, wanted: Tensor, given: Tensor) -> None:
        off = (given.double() - wanted.double()).abs()
        off = torch.where((given == wanted) | (given.isnan() & wanted.isnan()), 0.0, off).nan_to_num(BEYOND, BEYOND)
        self.signal += float(wanted.double().nan_to_num(0.0, 0.0, 0.0).square().sum())
        self.noise += float(off.square().sum())
        self.most = max(self.most, float(off.max()) if off.numel() else 0.0)
        self.count += off.numel()

    @property
    def ratio(self) -> float:
        """Noise over signal, of their power."""
        return self.noise / max(self.signal, 1e-30)

    def error(self, step: float | None) -> Error | None:
        if not self.count:
            return None
        snr = None if not self.noise else -10 * math.log10(self.ratio)
        return Error(snr, self.most, None if step is None else self.most / step)


@dataclass
class _Sums:
    """What is added up of one layer."""

    alone: _Sum = field(default_factory=_Sum)
    file: _Sum = field(default_factory=_Sum)
    simulation: _Sum = field(default_factory=_Sum)
    clipped: list[float] = field(default_factory=list[float])
    spread: list[float] = field(default_factory=list[float])
    uneven: list[float] = field(default_factory=list[float])


class _Seen:
    """What is added up over samples; ``stands_for`` has a node and a tensor of the file for each layer seen there."""

    def __init__(self, simulation: Simulation, tapped: Tapped) -> None:
        self.simulation: Simulation = simulation
        self.tapped: Tapped = tapped
        self.stands_for: Mapping[str, tuple[str, str]] = _match(simulation, tapped)
        self.sums: dict[str, _Sums] = {place.layer: _Sums() for place in simulation.places}
        self.steps: dict[str, float | None] = {node: simulation.step(node) for node in simulation.wanted}
        self.ran: tuple[str, str] = "", ""  # which runtime answered, in which version
        self.ends: list[tuple[list[Tensor], ...]] = []  # of each sample the simulation's, the file's and its copy's

    def add(
        self, sample: list[Tensor], plain: Answer, copied: Answer, floats: FloatModel | None
    ) -> None:  # fmt: skip
        """Add one sample, to which the file answers what is ``plain``, and its copy what is ``copied``."""
        self.ran = plain.runtime, plain.version
        simulation = self.simulation
        free, exact = simulation.run(sample), simulation.run(sample, exact=True)
        count = len(plain.outputs)
        ends, inside = copied.outputs[:count], copied.outputs[count:]
        values = dict(zip(self.tapped.ends, ends, strict=True))
        values |= {each.name: each.value(array) for each, array in zip(self.tapped.taps, inside, strict=True)}
        theirs = {
            node: _ordered(values[name], free.made[node])
            for node, name in self.stands_for.values()
            if values[name].size == free.made[node].numel()
        }
        forced = simulation.run(sample, theirs)
        wanted = None if floats is None else floats.run(sample)
        for place in simulation.places:
            own, ours = self.sums[place.layer], free.made[place.tensor]
            node, _ = self.stands_for.get(place.layer, (None, None))
            if node in theirs:
                own.alone.add(forced.made[node], theirs[node])
                own.file.add(free.made[node], theirs[node])
            ideal = exact.made[place.tensor] if wanted is None else wanted.get(place.layer)
            if ideal is not None and ideal.shape == ours.shape:
                own.simulation.add(ideal, ours)
            if (step := self.steps[place.tensor]) is not None:
                own.clipped.append(free.clipped[place.tensor])
                own.spread.append(float(exact.made[place.made].double().std(correction=0)) / step)
                own.uneven.append(_unevenness(exact.made[place.made]))
        wanted_ends = [free.made[name] for name in simulation.outputs]
        theirs_alike = (list(map(_ordered, side, wanted_ends)) for side in (plain.outputs, ends))
        self.ends.append((wanted_ends, *theirs_alike))

    def compare_ends(self) -> tuple[float, float]:
        """How far the file's outputs are from the simulation's, of their spread, and at most from its copy's."""
        sides = zip(*self.ends, strict=True)
        wanted, given, copied = ([torch.cat(parts) for parts in zip(*side, strict=True)] for side in sides)
        apart, off = _Sum(), [distance(pair) for pair in zip(wanted, given, strict=True)]
        for a, b in zip(given, copied, strict=True):
            apart.add(a, b)
        return max(each if math.isfinite(each) else BEYOND for each in off), apart.most

    def conclude(self) -> Comparison:
        """What came of all samples."""
        return Comparison(self.describe(), self.rank(), *self.compare_ends(), *self.ran)

    def describe(self) -> tuple[LayerDiff, ...]:
        return tuple(self._describe(place, self.sums[place.layer]) for place in self.simulation.places)

    def _describe(self, place: Place, sums: _Sums) -> LayerDiff:
        node, tensor = self.stands_for.get(place.layer, (place.tensor, None))
        quantized, alone = bool(sums.clipped), sums.alone.error(self.steps[node])
        return LayerDiff(
            name=place.layer,
            tensor=tensor if alone is not None else None,
            alone=alone,
            file=sums.file.error(self.steps[node]),
            simulation=sums.simulation.error(self.steps[place.tensor]),
            clipped=float(np.mean(sums.clipped)) if quantized else None,
            spread_steps=float(np.mean(sums.spread)) if quantized else None,
            uneven=float(np.median(sums.uneven)) if quantized else None,
            leaves=alone is not None and not _holds(alone, sums.alone),
        )

    def rank(self) -> tuple[str, ...]:
        """The layers whose outputs have more noise in their signal than any of their inputs, worst first."""
        noise = {layer: each.simulation.ratio for layer, each in self.sums.items() if each.simulation.count}
        added = {
            place.layer: noise[place.layer] - max((noise.get(name, 0.0) for name in place.inputs), default=0.0)
            for place in self.simulation.places
            if place.layer in noise
        }
        worst = sorted((layer for layer in added if added[layer] > 0), key=lambda layer: -added[layer])
        return tuple(worst[:LISTED])


def _match(simulation: Simulation, tapped: Tapped) -> dict[str, tuple[str, str]]:
    """By layer, the node of the simulation that a tensor of the file stands for, and the name of that tensor.

    Formats that have a tensor of integers call it as what is quantized is called, also where others read that as it was
    before: it stands for none of these. The parts of what an operator makes the exporter numbers anew, so that they are
    none of the file's tensors by their names.
    """
    ends = dict(zip(simulation.outputs, tapped.ends, strict=True))
    taps, found = {each.name: each for each in tapped.taps}, dict[str, tuple[str, str]]()
    for place in simulation.places:
        real = simulation.step(place.tensor) is None
        fitting = {name for name, each in taps.items() if not (real and each.scale is not None)}
        made = next((name for name in simulation.shapes_of_made[place.layer] if name in fitting), None)
        if place.tensor in ends:
            found[place.layer] = place.tensor, ends[place.tensor]
        elif simulation.nodes[place.made].target is operator.getitem:
            continue
        elif place.tensor in fitting:
            found[place.layer] = place.tensor, place.tensor
        elif made is not None:
            found[place.layer] = (made if taps[made].scale is None else place.tensor), made
    return found


def _ordered(array: NDArray[Any], like: Tensor) -> Tensor:
    """``array`` in the shape of ``like``: as it is, with channels moved from the end, or with its axes in another order
    that has that shape, whichever is nearest to it."""
    orders = [np.asarray(array)] if array.ndim < 3 else [np.asarray(array), np.moveaxis(array, -1, 1)]
    if 3 <= array.ndim == like.dim() < 6:
        moved = (np.transpose(array, order) for order in permutations(range(array.ndim)))
        orders += [each for each in moved if each.shape == tuple(like.shape)]
    shaped = [torch.from_numpy(np.ascontiguousarray(each)).reshape(like.shape) for each in orders]
    return min(shaped, key=lambda each: float((each.double() - like.double()).square().sum()))


def _unevenness(value: Tensor) -> float:
    """The largest channel's peak over the median channel's."""
    if value.dim() < 2 or value.shape[1] < 2:
        return 1.0
    peaks = value.abs().transpose(0, 1).flatten(1).amax(1)
    return float(peaks.max() / peaks.median().clamp(min=1e-12))


def _holds(error: Error, sums: _Sum) -> bool:
    """Whether a layer that is off by that alone is what was specified, but for rounding."""
    if error.largest_steps is not None:
        return error.largest_steps <= STEPS + 0.01
    return math.sqrt(sums.ratio) <= FLOAT_TOLERANCE
