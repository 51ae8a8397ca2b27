"""The undisturbed state is told from a machine that flips between speeds, drifts and hiccups, all of it scripted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_machine import Machine, Speed, flipping, in_place_of_this_one

from edgesdk.core.pairing import paired
from edgesdk_targets.agent import health, measure, operators, undisturbed
from edgesdk_targets.agent.protocol import AgentError
from edgesdk_targets.agent.undisturbed import TOLERANCE, Visit, disturbance, estimate, settled

US = 1000
SETTLED = 3e7  # ns after which pricing begins; it takes some 50 ms
MODELS = {"tiny": (8 * US, 1.1), "float": (140 * US, 0.6), "integer": (90 * US, 1.0), "twin": (140 * US, 0.6)}
REFERENCES = {"call": (6 * US, 1.1), "arithmetic": (17 * US, 0.8), "memory": (12 * US, 0.9)}
"""What each takes, undisturbed, in ns, and how much of the machine's slowdown it feels: kernels differ in that."""


def machine(speed: Speed, seed: int = 0, **more: Any) -> Machine:
    return Machine(lambda source: [{**MODELS, **REFERENCES}[source]], speed, seed, **more)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Callable[[Machine], Machine]]:
    """Put a scripted machine in the place of this one."""
    monkeypatch.setattr(measure.files, "digest", lambda path: path)
    monkeypatch.setattr(measure, "check_file", lambda path: None)
    with ExitStack() as stack:
        yield lambda machine: stack.enter_context(in_place_of_this_one(machine, tmp_path.name, SETTLED))


def priced(**arguments: Any) -> dict[str, Any]:
    models = [{"key": f"{name} {number}", "path": name} for number in range(5) for name in MODELS]
    beside = [{"path": name} for name in REFERENCES]
    answer = operators.operators(lambda step: None, models=models, references=beside, rounds=5, **arguments)
    return {**answer, "by": {item["key"].split()[0]: item for item in answer["results"]}}


SPEEDS = {
    "still": lambda now: 1.0,
    "flips within milliseconds, mostly slow": flipping(1.8, 3, 15),
    "flips within tens of milliseconds": flipping(1.8, 20, 20),
    "drifts by a third": lambda now: 1 + 0.33 * min(1.0, max(0.0, now - SETTLED) / 5e7),
    "slow at first": lambda now: 1.8 if now < SETTLED + 2e7 else 1.0,
    "slow from the middle on": lambda now: 1.0 if now < SETTLED + 2.5e7 else 1.6,
}


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=SPEEDS.keys())
def test_the_true_times_come_out_within_the_stated_error(on, speed: Speed) -> None:
    on(machine(speed))
    answer = priced()
    for name, (takes, _) in MODELS.items():
        item = answer["by"][name]
        off = abs(math.log(item["ms"] / (takes / 1e6)))
        uncertain = item["uncertainty"] + undisturbed.beyond(item["level_ms"], answer["references"]["ms"])
        assert off < 0.03 + 3 * uncertain, (name, item)
        assert off < 0.05 or uncertain > 0.02, (name, item)
    first, second = answer["by"]["float"]["ms"], answer["by"]["twin"]["ms"]
    assert first == pytest.approx(second, rel=0.04)


def test_two_tables_of_one_machine_agree_however_it_was_disturbed(on) -> None:
    on(machine(SPEEDS["still"]))
    quiet = priced()
    for speed in (
        "flips within milliseconds, mostly slow",
        "flips within tens of milliseconds",
        "slow from the middle on",
    ):
        on(machine(SPEEDS[speed], seed=7))
        busy = priced(reference_ms=quiet["references"]["ms"])
        for name in MODELS:
            assert busy["by"][name]["ms"] == pytest.approx(quiet["by"][name]["ms"], rel=0.05), (speed, name)


def test_a_machine_that_is_never_undisturbed_is_not_waited_for_without_end(on) -> None:
    on(machine(SPEEDS["still"]))
    quiet = priced()
    slow = on(machine(lambda now: 1.8))
    answer = priced(reference_ms=quiet["references"]["ms"])
    assert slow.now < 2e9
    assert answer["references"] == {
        **answer["references"],
        "ms": pytest.approx(quiet["references"]["ms"]),
        "disturbed": 1,
    }
    for name in MODELS:
        item = answer["by"][name]
        assert item["disturbed"] == 1 and item["uncertainty"] > 0.04  # said to be unsure
        assert math.log(item["level_ms"] / quiet["references"]["ms"]) > 0.4


@pytest.mark.parametrize("name", ["still", "flips within milliseconds, mostly slow", "drifts by a third"])
def test_a_network_takes_what_it_does_undisturbed_and_pairs_hold_whatever_happens(on, name: str) -> None:
    on(machine(SPEEDS[name], seed=3))
    answer = measure.benchmark(
        lambda step: None, artifacts=[{"name": n, "path": n} for n in ("float", "integer")],
        references=[{"path": n} for n in REFERENCES], minimum_count=64, minimum_seconds=0.6, warmup_seconds=0.02,
    )  # fmt: skip
    first, second = answer["artifacts"]
    fast = answer["references"]["ms"]
    unsure = [undisturbed.beyond(item["undisturbed"]["level_ms"], fast) for item in (first, second)]
    off = 0.03 + 3 * first["undisturbed"]["error"] + unsure[0]
    assert abs(math.log(first["undisturbed"]["ms"] / 0.14)) < off
    ratio = paired(second["rounds"], first["rounds"], math.hypot(*unsure))
    assert ratio.low * 0.98 <= 90 / 140 <= ratio.high * 1.02
    assert ratio.median == pytest.approx(90 / 140, rel=0.15 if name.startswith("drifts") else 0.03)
    assert len(first["rounds"]) == len(first["block_medians_ms"])
    assert fast == pytest.approx((6 * 17 * 12) ** (1 / 3) / 1000, rel=0.15 if name.startswith("drifts") else 0.05)


def test_an_installation_holds_the_latency_against_the_bound_that_was_kept_when_the_bundle_was_made(on) -> None:
    """The device is slower by half all the time: what it takes undisturbed keeps the bound, all its runs do not."""
    lowest = on(machine(SPEEDS["still"])) and priced()["references"]["ms"]
    beside = {"references": [{"path": name} for name in REFERENCES], "reference_ms": lowest}
    asked = {"path": "integer", "runtime": "onnxruntime", "threads": 1, "lock_seconds": 1.0, **beside}
    on(machine(lambda now: 1.5))
    assert health._latency(lambda step: None, dict(asked), 0.1, None) == pytest.approx(0.09, rel=0.05)
    with pytest.raises(AgentError, match="at p50 here, the budget is"):
        health._latency(lambda step: None, dict(asked), 0.1, 50)
    with pytest.raises(AgentError, match=r"ms undisturbed \(100 % of its runs were slowed down\) here"):
        health._latency(lambda step: None, dict(asked), 0.08, None)


TIMES = st.floats(1.0, 1e6)
VISITS = st.lists(st.tuples(TIMES, st.floats(10.0, 30.0), st.floats(10.0, 30.0)), min_size=1, max_size=30)


@given(VISITS, st.floats(0.01, 100))
def test_a_machine_that_is_faster_as_a_whole_leaves_ratio_and_error(visits: list, factor: float) -> None:
    single = estimate([Visit(*visit) for visit in visits], 10.0)
    two = estimate([Visit(*(factor * part for part in visit)) for visit in visits], 10.0 * factor)
    assert (two["ratio"], two["error"]) == pytest.approx((single["ratio"], single["error"]), rel=1e-6)
    assert two["level"] == pytest.approx(factor * single["level"])


@given(st.floats(0.1, 10.0), st.lists(st.floats(1.0, 3.0), min_size=1, max_size=30))
def test_a_speed_that_moves_all_alike_leaves_the_ratio(ratio: float, speeds: list[float]) -> None:
    quiet = estimate([Visit(10 * ratio * speed, 10 * speed, 10 * speed) for speed in speeds], 10.0)
    assert quiet["ratio"] == pytest.approx(ratio)
    assert quiet["level"] == pytest.approx(10 * min(speeds))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(1.2, 3.0), st.floats(0.0, 0.05))
def test_the_disturbed_share_is_right(slow: list[bool], factor: float, wobble: float) -> None:
    levels = [10 * (factor if is_slow else 1.0) * math.exp(wobble * (index % 2)) for index, is_slow in enumerate(slow)]
    visits = [Visit(1.0, level, level) for level in levels]
    assert undisturbed.disturbed(visits, 10.0) == pytest.approx(sum(slow) / len(slow))


@settings(max_examples=50)
@given(st.floats(0.03, 1.0), st.floats(1.2, 2.5), st.integers(0, 1000))
def test_the_lowest_mode_is_found_however_rare(share: float, factor: float, seed: int) -> None:
    random = Random(seed)
    levels = [10 * math.exp(abs(random.gauss(0, 0.01))) * (1 if i < share * 2000 else factor) for i in range(2000)]
    random.shuffle(levels)
    assert undisturbed.undisturbed(levels) == pytest.approx(10, rel=0.03)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_what_is_sure_decides(values: list[float], deviation: float) -> None:
    sure = [7.0] * len(values)
    middle, error = settled([*values, *sure], [1e3] * len(values) + [deviation] * len(sure))
    assert middle == pytest.approx(7.0) and error >= deviation / math.sqrt(len(sure)) * 0.99


def test_a_visit_counts_as_disturbed_by_its_worse_side() -> None:
    assert disturbance(Visit(1, 10, 10), 10) == 0 == disturbance(Visit(1, 9, 8), 10)
    assert disturbance(Visit(1, 10, 18), 10) == disturbance(Visit(1, 18, 10), 10) > TOLERANCE
