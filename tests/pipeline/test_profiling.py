"""What each layer takes in the files of a deployment: told by the runtime's profiler, and never worth a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripted import ScriptedMeter, ScriptedTraining, make_study

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import DeviceError
from edgesdk.core.graph import ADD
from edgesdk.core.kernels import Kernel, KernelProfile
from edgesdk.pipeline.candidates import list_dense
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.profiling import Profiled, profile_files
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study

LACKING = "this version has no profiler"


@dataclass
class ProfilingMeter(ScriptedMeter):
    """Its runtime's profiler tells one kernel of all layers, and it ``lacks`` one for files with integers."""

    lacks: bool = False
    profiled: list[Path] = field(default_factory=list)
    called: list[dict[str, tuple[str, ...]]] = field(default_factory=list)

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> KernelProfile:
        self.profiled.append(artifact.path)
        self.called.append(dict(layers or {}))
        if self.lacks and artifact.options:
            raise DeviceError(LACKING, "update it")
        kernel = Kernel("all", "Conv", "CPU", None, tuple(layers or ()), 1.0, 2.0)
        return KernelProfile(artifact.runtime, "1", (kernel,), 50, 3.0, 2.0)


def finished(study: Study, place: int) -> Result:
    """The dense model, or that in integers, as what a deployment came to."""
    return ScriptedTraining().finish(list_dense(study, Budget(latency_ms=1e9))[place].candidate)


def test_both_files_are_profiled_by_the_names_of_the_plan(tmp_path: Path) -> None:
    study = make_study(meter := ProfilingMeter(), tmp_path)
    result = finished(study, 1)
    told = profile_files(study, result)
    assert list(told.profiles) == ["dense", "deployed"] and not told.notes and len(meter.profiled) == 2
    names = tuple(layer.name for layer in result.plan.layers)
    assert all(profile.kernels[0].layers == names for profile in told.profiles.values())


def test_layers_are_named_by_what_each_file_calls_their_tensors(tmp_path: Path) -> None:
    study = make_study(meter := ProfilingMeter(), tmp_path)
    result = finished(study, 1)
    profile_files(study, replace(result, simulated=study.quantize(study.network, result.artifact.options)))
    profile_files(study, replace(result, simulated=None))
    dense, deployed, _, unknown = meter.called
    sums = [layer.name for layer in study.graph.layers if layer.kind == ADD]
    assert sums and all(dense[name] and deployed[name] for name in sums)
    assert dense.keys() == deployed.keys() == unknown.keys() and not any(unknown.values())


def test_the_same_file_is_profiled_once(tmp_path: Path) -> None:
    study = make_study(meter := ProfilingMeter(), tmp_path)
    told = profile_files(study, finished(study, 0))
    assert told.profiles["dense"] is told.profiles["deployed"] and len(meter.profiled) == 1


def test_a_profiler_that_is_not_there_costs_a_note(tmp_path: Path) -> None:
    study = make_study(ProfilingMeter(lacks=True), tmp_path)
    told = profile_files(study, finished(study, 1))
    assert list(told.profiles) == ["dense"]
    assert told.notes == (f"what each layer takes in the deployed file is not known: {LACKING}",)


def test_nothing_is_profiled_where_nothing_ran_or_there_is_no_time(tmp_path: Path) -> None:
    study = make_study(meter := ProfilingMeter(), tmp_path)
    result = finished(study, 1)
    hurried = replace(study, deadline=Deadline(1.0))
    assert profile_files(hurried, result) == Profiled()
    assert "what each layer takes" in str(hurried.deadline.note)
    assert not meter.profiled
