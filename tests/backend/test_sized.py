"""A large model's integer file that is written for its size alone has nearly that, and is calibrated on one sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgesdk.compress import effort
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.report import NOT_RUN
from edgesdk.data.data import Data
from edgesdk.data.task import Task
from edgesdk.devices.meter import Meter
from edgesdk.example.data import example_data, example_model
from edgesdk.network.network import Network, tensors
from edgesdk.network.reference import Reference
from edgesdk.network.trace import trace
from edgesdk.pipeline.anchoring import measure_dense
from edgesdk.pipeline.deadline import Deadline
from edgesdk.pipeline.setup import DenseFile, IntegerModel, Setup
from edgesdk.price.menu import options

Traced = tuple[Reference, Network, Data]


class Ended(Exception):
    """Which file of the integer model was to be measured is known."""

    def __init__(self, measured: Artifact) -> None:
        self.measured = measured


class Noting(Setup):
    """A setup that notes on how many samples it calibrates, and ends where files are measured."""

    def quantize(self, network: Network, options: Any) -> Network:
        CALIBRATED.append(sum(len(tensors(x)[0]) for x in self.calibration))
        return super().quantize(network, options)

    def measure(self, artifacts: Mapping[str, Artifact], thorough: bool = False, anew: bool = False) -> Any:
        raise Ended(artifacts["dense int8 onnxruntime"])


CALIBRATED: list[int] = []


@pytest.fixture(scope="module")
def traced() -> Traced:
    data, model = example_data(0), example_model()
    reference = Reference(model)
    return reference, trace(model, data.example, reference), data


def set_up(traced: Traced, version: str, folder: Path) -> tuple[Setup, IntegerModel]:
    reference, network, data = traced
    meter = cast("Meter", SimpleNamespace(runtime="onnxruntime", version=version, threads=1, conditions={}))
    CALIBRATED.clear()
    setup = Noting(
        reference, network, data, Task(), "raspberry-pi-4", meter, (FP32, INT8), (), folder, lambda stage, share: None,
        None, Deadline(),
    )  # fmt: skip
    return setup, IntegerModel.of(setup, {layer.name: options(layer) for layer in network.graph.layers})


def test_its_size_is_nearly_that_of_the_calibrated_one(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = set_up(traced, NOT_RUN, tmp_path)
    assert whole.sized is whole.artifact, "a small model's is the file itself"
    monkeypatch.setattr(effort, "CALIBRATING_WORK", 0.0)
    _, large = set_up(traced, NOT_RUN, tmp_path)
    assert large.sized.size_bytes == pytest.approx(whole.artifact.size_bytes, rel=1e-3)
    assert CALIBRATED == [1] and large.sized.path != whole.artifact.path


@pytest.mark.parametrize(("version", "again"), [(NOT_RUN, False), (NOT_RUN, True), ("1.2", False), ("1.2", True)])
def test_only_a_plan_from_a_profile_is_content_with_that(
    traced: Traced, version: str, again: bool, tmp_path: Path
) -> None:
    """What is deployed is the calibrated file, and what is measured may depend on it."""
    setup, _ = set_up(traced, version, tmp_path)
    files = [Artifact(tmp_path / name, setup.graph, {}, "onnxruntime") for name in ("sized", "artifact")]
    whole = cast("IntegerModel", SimpleNamespace(sized=files[0], artifact=files[1], options={}))
    dense = cast("DenseFile", SimpleNamespace(artifact=Artifact(tmp_path / "dense", setup.graph, {}, "onnxruntime")))
    with pytest.raises(Ended) as ended:
        measure_dense([setup], [dense], [whole], again)
    assert (ended.value.measured == files[0]) == (version == NOT_RUN and not again)
