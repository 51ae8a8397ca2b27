"""Where engines are built, integers stay in the layers that measure faster so: what files take is scripted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripted import ScriptedMeter, make_study

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import DeviceError
from edgesdk.core.kernels import Kernel, KernelProfile
from edgesdk.core.plan import FP32, INT8
from edgesdk.pipeline.candidates import Attempt, attempt
from edgesdk.pipeline.pairs import REASON
from edgesdk.pipeline.planning import plan_full_width
from edgesdk.pipeline.study import Study

LATENCY = Budget(latency_ratio=1.0)


@dataclass
class EngineMeter(ScriptedMeter):
    """One whose layers in ``slow`` take twice as long in integers, and all others half as long."""

    runtime: str = "tensorrt"
    measured: bool = True
    slow: set[str] = field(default_factory=set)
    has_profiler: bool = True

    def profile(self, artifact: Artifact, layers: Mapping[str, tuple[str, ...]] | None = None) -> KernelProfile:  # type: ignore[override]
        if not self.has_profiler:
            raise DeviceError("the profiler is silent", "look at it")
        assert layers is not None
        return KernelProfile("tensorrt", "10.3.0", tuple(self._kernel(name, artifact) for name in layers))

    def _kernel(self, name: str, artifact: Artifact) -> Kernel:
        is_integer = artifact.options[name].precision == INT8
        ms = (2.0 if name in self.slow else 0.5) if is_integer else 1.0
        return Kernel(name, "Conv", "GPU", None, (name,), None, ms)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., tuple[Study, Attempt]]:
    """The attempt of a plan with every layer in integers, by what a meter says of the files."""

    def made(budget: Budget = LATENCY, **told: object) -> tuple[Study, Attempt]:
        study = make_study(EngineMeter(**told), tmp_path)  # type: ignore[arg-type]
        planned = plan_full_width(study, study.whole.options)
        return study, attempt(study, planned, budget, "test")

    return made


def list_integers(found: Attempt) -> set[str]:
    options = found.candidate.artifact.options
    layers = {layer.name for layer in found.plan.layers if layer.option.precision == INT8}
    assert layers == {name for name, option in options.items() if option.precision == INT8}  # the file is the plan's
    return layers


def takes(**ms: float) -> Callable[[str, float], float]:
    """A script of what the files that are compared take; all others take what their operators do."""
    return lambda name, priced: ms.get(name, priced)


def test_integers_that_are_faster_stay(build: Callable[..., tuple[Study, Attempt]]) -> None:
    study, found = build(script=takes(integers=1.0, floats=2.0))
    assert list_integers(found) == set(study.whole.options)
    assert found.candidate.measured.latency_ms() == 1.0 and study.corrections.notes == []


@pytest.mark.parametrize("ms", [1.0, 0.5])
def test_a_file_that_is_no_faster_in_integers_is_deployed_in_half_precision(
    build: Callable[..., tuple[Study, Attempt]], ms: float
) -> None:
    study, found = build(script=takes(integers=1.0, floats=ms))
    assert list_integers(found) == set()
    assert {layer.reason for layer in found.plan.layers if layer.name in study.whole.options} == {REASON}
    assert found.cost.latency_ms == ms
    (note,) = study.corrections.notes
    assert note.startswith(f"{len(study.whole.options)} of {len(study.whole.options)} layers stay in half precision")


def test_layers_that_gain_nothing_are_left_in_half_precision_alone(build: Callable[..., tuple[Study, Attempt]]) -> None:
    study, found = build(script=takes(integers=1.0, floats=1.2, mixed=0.8), slow={"b"})
    assert list_integers(found) == set(study.whole.options) - {"b"}
    (own,) = (layer for layer in found.plan.layers if layer.name == "b")
    assert (own.option.precision, own.reason) == (FP32, REASON) and found.cost.latency_ms == 0.8


def test_the_whole_file_decides_where_layers_promise_what_it_does_not_keep(
    build: Callable[..., tuple[Study, Attempt]],
) -> None:
    study, found = build(script=takes(integers=1.0, floats=1.2, mixed=1.1), slow={"b"})
    assert list_integers(found) == set(study.whole.options)


def test_without_a_profiler_the_two_are_compared(build: Callable[..., tuple[Study, Attempt]]) -> None:
    _, found = build(script=takes(integers=1.0, floats=0.9, mixed=0.1), slow={"b"}, has_profiler=False)
    assert list_integers(found) == set()


def test_a_bound_that_integers_alone_keep_keeps_them(build: Callable[..., tuple[Study, Attempt]]) -> None:
    study, found = build(script=takes(integers=1.0, floats=0.5), memory=takes(integers=1e3, floats=9e3))
    small = Budget(latency_ratio=1.0, peak_memory_bytes=2e3)
    again = attempt(study, plan_full_width(study, study.whole.options), small, "test")
    assert list_integers(found) == set() and list_integers(again) == set(study.whole.options)


def test_other_runtimes_and_predictions_choose_nothing(build: Callable[..., tuple[Study, Attempt]]) -> None:
    study, found = build(script=takes(floats=0.5), runtime="onnxruntime")
    assert list_integers(found) == set(study.whole.options) and "floats" not in study.meter.asked  # type: ignore[attr-defined]
