"""What each layer takes in the dense and in the deployed file, by the runtime's own profiler."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from edgesdk.core.errors import DeviceError
from edgesdk.core.kernels import KernelProfile
from edgesdk.core.report import DENSE
from edgesdk.export.simulation import list_called
from edgesdk.network.network import Network
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import DEPLOYED

LEAST_SECONDS = 10.0  # of the run's time that must be left: two files, a few seconds each


@dataclass(frozen=True)
class Profiled:
    """The profiles of the dense and the deployed file, by these names, and why one lacks."""

    profiles: dict[str, KernelProfile] = field(default_factory=dict[str, KernelProfile])
    notes: tuple[str, ...] = ()


def profile_files(study: Study, result: Result) -> Profiled:
    """What the profiler tells of both files of ``result``, a few seconds each; nothing where nothing was measured.

    The figures of the run are there by then: a profiler that a runtime lacks, or that fails, costs a note alone.
    """
    left = study.deadline.left()
    if study.predicts:
        return Profiled()
    if left is not None and left < LEAST_SECONDS:
        study.deadline.note_cut("what each layer takes by the runtime's profiler")
        return Profiled()
    study.tell("profiling layers", None)
    profiles: dict[str, KernelProfile] = {}
    notes: list[str] = []
    done: dict[tuple[str, str], KernelProfile | None] = {}
    layers = [layer.name for layer in result.plan.layers]
    files = {DENSE: (study.shared_file, study.dense_network), DEPLOYED: (result.artifact, result.simulated)}
    for name, (file, network) in files.items():
        key = (file.digest, file.runtime)
        try:
            profile = done[key] if key in done else study.meter.profile(file, _name_tensors(layers, network, study))
        except DeviceError as error:
            notes.append(f"what each layer takes in the {name} file is not known: {error.fact}")
            continue
        done[key] = profile
        if profile is not None:
            profiles[name] = profile
    return Profiled(profiles, tuple(notes))


def _name_tensors(layers: Iterable[str], network: Network | None, study: Study) -> dict[str, tuple[str, ...]]:
    """What the file that is made of ``network`` calls what each of ``layers`` makes, where that is known."""
    made: dict[str, tuple[str, ...]] = {}
    if network is not None:
        with suppress(Exception):  # of PyTorch, which raises many kinds: weighted layers are known by their weights
            made = list_called(network, study.data.example)
    return {layer: made.get(layer, ()) for layer in layers}
