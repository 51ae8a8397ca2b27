"""Prices of a scripted machine whose speed moves while it is priced: true, or said to be unsure."""

from __future__ import annotations

from dataclasses import replace
from math import log, prod
from pathlib import Path
from typing import Any, cast

import pytest
from noisy import REFERENCES, RUNTIME, ScriptedAgent, ScriptedBench, operator_part
from scripted_machine import Machine, Part, in_place_of_this_one

from edgesdk.core.artifact import references
from edgesdk.core.graph import LINEAR
from edgesdk.core.plan import FP32, INT8
from edgesdk.devices.agent import AgentProcess
from edgesdk.price.operator import Operator

FLOATS = [Operator(LINEAR, FP32, inputs, outputs) for inputs in (8, 32, 64) for outputs in (8, 24, 48, 72, 96)]
EVERY = [*FLOATS, *(replace(op, precision=INT8) for op in FLOATS)]
FIRST = EVERY[::3]  # priced in a run of their own before the rest, as whole layers are
CLOSE = 0.05
Steps = list[tuple[float, float]]
"""From which share of the time that a still machine takes on, and how many times slower the machine is then."""
STEPS: dict[str, Steps] = {
    "still": [],
    "slower until the rest is priced": [(0.0, 1.6), (0.7, 1.0)],
    "slower once the first are priced": [(0.5, 1.6)],
    "slower from the middle of the first on": [(0.15, 1.6)],
    "faster twice": [(0.0, 1.8), (0.3, 1.4), (1.2, 1.0)],
    "slower, then undisturbed while what is doubtful is timed again": [(0.0, 1.3), (0.6, 1.9), (4.0, 1.0)],
}


def price_all(steps: Steps, still_ns: float, folder: Path) -> ScriptedBench:
    models: dict[Any, list[Part]] = dict(zip(references(RUNTIME), ([part] for part in REFERENCES), strict=True))
    speeds = [(0.0, 1.0), *((share * still_ns, slow) for share, slow in steps)]
    machine = Machine(models.__getitem__, lambda now: next(slow for begin, slow in reversed(speeds) if now >= begin))
    with in_place_of_this_one(machine, folder.name), pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESDK_MODE", "rapid")
        bench = ScriptedBench(cast(AgentProcess, ScriptedAgent(machine, models)), folder=folder)
        for operators in (FIRST, EVERY):
            bench.time(operators, None)
    return bench


@pytest.fixture(scope="module")
def still_ns(tmp_path_factory: pytest.TempPathFactory) -> float:
    return price_all([], 1.0, tmp_path_factory.mktemp("still")).agent.machine.now


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_prices_are_of_the_undisturbed_state_whenever_that_was_seen(
    tmp_path: Path, still_ns: float, steps: Steps
) -> None:
    bench = price_all(steps, still_ns, tmp_path)
    assert bench.reference_ms == pytest.approx(prod(takes for takes, _ in REFERENCES) ** (1 / 3) / 1e6, rel=0.03)
    assert bench.table.missing(EVERY) == []
    for op in EVERY:
        off = abs(log(bench.table.latency_ms(op) / (operator_part(op)[0] / 1e6)))
        assert off <= min(CLOSE, 3 * bench.table.error_ms(op) / bench.table.latency_ms(op)), op.key
