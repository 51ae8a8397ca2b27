"""How far a bundle's file is from its simulation, and the simulation from the float model, layer by layer."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.bundle.bundle import SIMULATION, Bundle
from edgesdk.core.asked import read_command
from edgesdk.core.errors import BundleError, DataError, ModelError, UsageError
from edgesdk.core.kernels import read_profiles
from edgesdk.core.report import Tell
from edgesdk.core.schema import Schema
from edgesdk.core.scratch import scratch_folder
from edgesdk.core.wording import counted, said
from edgesdk.devices.answers import Opener, open_here, open_there
from edgesdk.devices.boards import Board, Boards
from edgesdk.devices.inventory import LOCAL, Device
from edgesdk.devices.pools import At, Place, Pool, find_place
from edgesdk.devices.reach import reach
from edgesdk.export.places import AGAIN
from edgesdk.export.simulation import read_simulation
from edgesdk.pages.diff_page import MODEL, OWN
from edgesdk.workflows.layer_errors import Comparison, FloatModel, LayerDiff, compare_layers
from edgesdk.workflows.overlays import check_overlays, write_overlays

SAMPLES = 32  # at most
CLIPPED = 1e-3  # of a layer's values beyond its range, from where on that is worth a word
FEW_STEPS = 4.0  # over which most values spread, where an outlier takes the others
LOW = 15.0  # dB of signal to noise, below which a layer is worth leaving float
IN_PYTHON = "in Python (docs/reference/techniques.md, Ranges and rounding)"
LEAVE = 'leave it float: make its precision "fp32" in a copy of plan.json, and write that: edgesdk export PLAN MODEL'
UNEVEN = 8.0  # times the median channel's peak that the largest has, from where on equalization pays


@dataclass(frozen=True)
class Advice:
    """What to try for a ``layer``, and why."""

    layer: str
    why: str
    remedy: str


@dataclass(frozen=True)
class BoardDiff:
    """One board of a pool: the figures of :class:`Diff` that are its own."""

    runtime: str
    runtime_version: str
    outputs: float
    ends_apart: float
    first: str | None
    holds: bool


@dataclass(frozen=True)
class Diff:
    """A bundle's file beside its simulation in PyTorch, and that beside the float model, on so many ``samples``.

    ``first`` is the first layer that leaves its specification, ``costliest`` are those that add most noise to what the
    simulation computes, in ``float_model``'s eyes. ``outputs`` is how far the file's outputs are from the simulation's,
    of their spread; ``tolerance`` how far they may be; ``holds`` says whether no layer and no output is beyond. What
    lies inside is seen in a copy of the file that has it as outputs. ``ends_apart`` is the largest difference between
    what the two give: where it is not 0, the runtime fuses the file otherwise than the copy, and what is said of layers
    is said of the copy.

    On a pool all that is of the board that is ``farthest``: of those on which it does not hold, or of all, the one with
    the largest ``outputs``. ``boards`` has each, and ``apart`` the layers that not all of them compute alike, to the
    last bit. ``notes`` say in what the boards differ, and which dropped out. ``command`` is the command line that asked
    for it; ``None`` where Python did.
    """

    bundle: str
    device: str
    runtime: str
    runtime_version: str
    samples: int
    float_model: str
    outputs: float
    tolerance: float
    ends_apart: float
    first: str | None
    costliest: tuple[str, ...]
    layers: tuple[LayerDiff, ...]
    advice: tuple[Advice, ...]
    holds: bool
    boards: Mapping[str, BoardDiff] = field(default_factory=dict[str, BoardDiff])
    farthest: str | None = None
    apart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str | None = None
    schema: str = Schema("diff", 1)


def diff(
    path: str | Path, *, model: nn.Module | str | None = None, weights: str | Path | None = None, data: Any = None,
    device: At = LOCAL, overlays: str | Path | None = None,
) -> Diff:  # fmt: skip
    """Compare each layer of the bundle at ``path``, as its runtime computes it on ``device``, with its simulation, and
    that with the float model.

    The samples are those that the bundle holds, or the first test samples of ``data``. The float model is ``model``,
    with ``weights``; without one it is the simulation, its activations left unquantized. What was found is written to
    the folder ``overlays``, too, for Netron and Model Explorer to show on the graph. On ``pool:NAME``, or several
    devices, each board is asked, and it is said where they differ. Raises ``BundleError`` for a
    bundle without a simulation, ``DataError`` for samples that it does not take, ``DeviceError`` where the runtime is
    not there or the device cannot be reached, and the errors of loading a model and its data.
    """
    if model is None and weights is not None:
        raise UsageError("weights without a model", "give --model, too")
    bundle = Bundle.open(path)
    if not (bundle.path / SIMULATION).is_file():
        raise BundleError(
            f"{path} has no {SIMULATION}, which says what each layer should compute",
            f"{AGAIN}; edgesdk verify --model compares the outputs alone",
        )
    if overlays is not None:
        check_overlays(bundle.artifact, Path(overlays))
    simulation = read_simulation(bundle.path / SIMULATION)
    samples = list(_list_samples(bundle, data))
    floats = None if model is None else _trace_float(bundle, model, weights, samples)
    tolerance = float(bundle.report["parity"]["tolerance"])
    place = find_place(device)
    every, notes = _compare_at(
        place, bundle.artifact.runtime,
        lambda opener: compare_layers(bundle.artifact, simulation, samples, floats, opener),
    )  # fmt: skip
    boards = {name: summarize(own, tolerance) for name, own in every.items()}
    farthest = find_farthest(boards)
    compared, shown = every[farthest], boards[farthest]
    if overlays is not None:
        profile = read_profiles(bundle.report).get("deployed")
        write_overlays(compared.layers, bundle.artifact, Path(overlays), profile)
    several = isinstance(place, Pool)
    return Diff(
        bundle=str(path), device=device if isinstance(device, str) else place.name, runtime=compared.runtime,
        runtime_version=compared.version, samples=len(samples), float_model=OWN if floats is None else MODEL,
        outputs=compared.outputs, tolerance=tolerance, ends_apart=compared.ends_apart, first=shown.first,
        costliest=compared.costliest, layers=compared.layers,
        advice=tuple(advise(compared.layers, shown.first, compared.costliest, compared.runtime)),
        holds=shown.holds, boards=boards if several else {}, farthest=farthest if several else None,
        apart=list_apart(every), notes=notes, command=read_command(),
    )  # fmt: skip


def _compare_at(
    place: Place, runtime: str, compare: Callable[[Opener], Comparison]
) -> tuple[dict[str, Comparison], tuple[str, ...]]:
    """What comes of it on each board of ``place``, and of a pool in what they differ, and who dropped out."""
    if not isinstance(place, Pool):
        with _open_on(place) as opener:
            return {place.name: compare(opener)}, ()

    def work(board: Board, tell: Tell) -> Comparison:
        with scratch_folder() as folder:
            return compare(open_there(board.agent, folder))

    with Boards(place) as boards:
        differences = boards.list_differences([runtime])
        return boards.each(work), (*differences, *boards.notes)


def summarize(compared: Comparison, tolerance: float) -> BoardDiff:
    first = next((layer.name for layer in compared.layers if layer.leaves), None)
    return BoardDiff(
        compared.runtime, compared.version, compared.outputs, compared.ends_apart, first,
        first is None and compared.outputs <= tolerance,
    )  # fmt: skip


def find_farthest(boards: Mapping[str, BoardDiff]) -> str:
    """The board that is farthest from the simulation: of those on which it does not hold, where there are any."""
    return max(boards, key=lambda name: (not boards[name].holds, boards[name].outputs))


def list_apart(every: Mapping[str, Comparison]) -> tuple[str, ...]:
    """The layers whose figures are not the same on all boards."""
    rows = zip(*(own.layers for own in every.values()), strict=True)
    return tuple(layers[0].name for layers in rows if any(layer != layers[0] for layer in layers))


@contextmanager
def _open_on(entry: Device) -> Generator[Opener]:
    """What opens files on that device: this process where it is this machine under this Python."""
    if entry.local and not entry.python:
        yield open_here
        return
    with reach(entry) as agent, scratch_folder() as folder:
        yield open_there(agent, folder)


def _list_samples(bundle: Bundle, data: Any) -> Iterator[list[Tensor]]:
    """Inputs of one sample each, in the order of the model's inputs."""
    from edgesdk.network.network import tensors
    from edgesdk.workflows.bundle_data import load_for

    recorded, _ = bundle.recorded()
    own = [torch.from_numpy(array) for array in recorded.values()]
    batches = [own] if data is None else [tensors(x) for x, _ in load_for(bundle, data).test]
    for batch in batches:
        for given, wanted in zip(batch, own, strict=False):
            if len(batch) != len(own) or given.shape[1:] != wanted.shape[1:] or given.dtype != wanted.dtype:
                fact = f"its samples are {_shapes(batch)}, the bundle takes {_shapes(own)}"
                raise DataError(fact, "give the data that it was made with, prepared as the model takes it")
    yield from islice(([t[i : i + 1] for t in batch] for batch in batches for i in range(len(batch[0]))), SAMPLES)


def _shapes(batch: Sequence[Tensor]) -> str:
    """What each tensor of one sample is, in words."""
    return " and ".join(f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape[1:])}" for t in batch)


def _trace_float(
    bundle: Bundle, model: nn.Module | str, weights: str | Path | None, samples: Sequence[list[Tensor]]
) -> FloatModel:
    from edgesdk.network.copying import copied
    from edgesdk.network.load import load_model
    from edgesdk.network.trace import trace

    shapes = {entry["name"]: tuple(entry["shape"][1:]) for entry in bundle.manifest["inputs"]}
    batch = [torch.cat(parts) for parts in zip(*samples[:2], strict=True)]
    try:
        network = trace(load_model(model if isinstance(model, str) else copied(model), weights, shapes), tuple(batch))
    except ModelError:
        raise
    except Exception as error:  # a model raises what it likes
        fact = f"the model does not take the bundle's inputs ({said(error)})"
        raise ModelError(fact, "give the model that it was made of") from None
    if not {layer.name for layer in network.graph.layers} & {layer.name for layer in bundle.plan.layers}:
        raise ModelError("the model has none of the bundle's layers", "give the model that it was made of")
    return FloatModel(network.module.eval(), {name: site.output for name, site in network.sites.items()})


def advise(layers: Sequence[LayerDiff], first: str | None, costliest: Sequence[str], runtime: str) -> Iterator[Advice]:
    """What to try for the first layer that is not as specified, and for those that cost the most."""
    by_name = {layer.name: layer for layer in layers}
    if first is not None:
        error = by_name[first].alone
        assert error is not None
        off = f"{error.largest:.2g}" if error.largest_steps is None else counted(round(error.largest_steps), "step")
        yield Advice(
            first, f"{runtime} computes something else than was specified, by up to {off}",
            "check the file with edgesdk verify; deploy with another --runtime, or with --precision fp32",
        )  # fmt: skip
    for name in costliest:
        layer = by_name[name]
        if layer.clipped is not None and layer.clipped > CLIPPED:
            why = f"{100 * layer.clipped:.2g} % of its values are beyond its range"
            yield Advice(name, why, "deploy with --data that has such samples, so that its range is another")
        elif layer.spread_steps is not None and layer.spread_steps < FEW_STEPS:
            why = f"its values spread over {layer.spread_steps:.1f} of 256 steps: an outlier sets its range"
            yield Advice(name, why, f'choose another range: calibrate(network, batches, ranges="mse"), {IN_PYTHON}')
        elif layer.uneven is not None and layer.uneven > UNEVEN:
            why = f"its largest channel has {layer.uneven:.0f} times the peak of the median one"
            yield Advice(name, why, f"equalize its channels: integer(network, options, equalized=True), {IN_PYTHON}")
        elif layer.simulation is not None and (layer.simulation.snr_db or math.inf) < LOW:
            why = f"its signal is {layer.simulation.snr_db:.0f} dB above its noise"
            yield Advice(name, why, LEAVE)
