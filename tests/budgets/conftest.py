"""Small networks of every family, studied once for a Raspberry Pi 5 from its profile: nothing in it is noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, MORE, Studied

from edgesdk.core.budget import Budget
from edgesdk.core.plan import FP32, INT8
from edgesdk.core.target import target
from edgesdk.data.data import load_data
from edgesdk.data.task import Task
from edgesdk.devices.agent import AgentProcess
from edgesdk.devices.forecast import Forecast
from edgesdk.devices.local import LocalDevice
from edgesdk.pipeline.study import Study, anchor_model

BOARD = "raspberry-pi-5"
SAMPLES = 192


@pytest.fixture(scope="session")
def agent() -> Iterator[AgentProcess]:
    with LocalDevice() as agent:
        yield agent


@pytest.fixture(scope="session")
def studied(agent: AgentProcess, tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """A family's study, a copy for each. Without labels its score is how often it decides as the dense model."""
    made: dict[str, Study] = {}

    def find(name: str) -> Study:
        if name not in made:
            torch.manual_seed(1)
            make, shape = {**FAMILIES, **MORE}[name]
            model, x = make(), torch.randn(SAMPLES, *shape)
            with torch.no_grad():
                model.train()(x)
            data = load_data((x.numpy(), None))
            bench = Forecast(target(BOARD), agent, 1, "onnxruntime")
            folder = tmp_path_factory.mktemp(name)
            goal_of_all = Budget(size_bytes=1.0)  # so that nothing small is left off the menu
            anchored, _ = anchor_model(
                model.eval(), data, Task(labelled=False), BOARD, [bench], goal_of_all, folder,
                lambda stage, share: None, {"onnxruntime": (FP32, INT8)},
            )  # fmt: skip
            (study,) = anchored.study()
            made[name] = study
        own = made[name].corrections
        fresh = replace(own, seen=list(own.seen), observations=list(own.observations))
        return replace(made[name], corrections=fresh)

    return find
