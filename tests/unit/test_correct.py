"""Corrections: what agrees with the prices leaves them, what does not moves them, and never below zero."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesdk.core.plan import FP32, INT8
from edgesdk.price.correct import NEAR, Correction, Observation, fit

TIMES = st.floats(0.01, 100.0)
SCALES = st.floats(0.65, 1.55)
PARTS = st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=8)


def predicted(correction: Correction, seen: Observation) -> float:
    scaled = correction.scale(FP32) * seen.float_ms + correction.scale(INT8) * seen.integer_ms
    return correction.latency_ms + scaled


def measured(parts: list[tuple[float, float]], fixed: float, scales: tuple[float, float]) -> list[Observation]:
    return [Observation(f, i, fixed + scales[0] * f + scales[1] * i, 1.0, 1.0, 1.0, 1.0) for f, i in parts]


@given(st.floats(0.0, 10.0))
def test_without_observations_prices_stay_as_they_are(fixed: float) -> None:
    assert fit([], fixed) == Correction(latency_ms=fixed)


@given(PARTS, st.floats(0.0, 1.0))
def test_what_agrees_with_the_prices_leaves_them(parts: list[tuple[float, float]], fixed: float) -> None:
    correction = fit(measured(parts, fixed, (1.0, 1.0)), fixed)
    assert correction.latency_ms == pytest.approx(fixed, abs=1e-6)
    assert [correction.scale(FP32), correction.scale(INT8)] == pytest.approx([1.0, 1.0], abs=1e-6)


@given(PARTS, SCALES, SCALES, st.floats(0.9, 1.1))
def test_the_fit_is_never_further_off_than_no_correction(
    parts: list[tuple[float, float]], first: float, second: float, drift: float
) -> None:
    seen = [
        Observation(o.float_ms, o.integer_ms, o.measured_ms * (drift if index % 2 else 1.0), 1.0, 1.0, 1.0, 1.0)
        for index, o in enumerate(measured(parts, 0.0, (first, second)))
    ]
    fitted = fit(seen)
    assume(fitted.latency_ms > 0 and fitted.scale(FP32) > 0.05 and fitted.scale(INT8) > 0.05)

    def error(correction: Correction) -> float:
        return sum((predicted(correction, o) / o.measured_ms - 1) ** 2 for o in seen)

    assert error(fitted) <= error(Correction()) + 1e-9


@given(SCALES, SCALES)
def test_scales_of_many_networks_are_found(first: float, second: float) -> None:
    parts = [(float(f), float(i)) for f in (1, 5, 20) for i in (1, 5, 20)]
    correction = fit(measured(parts, 0.0, (first, second)))
    assert correction.scale(FP32) == pytest.approx(first, rel=0.06)
    assert correction.scale(INT8) == pytest.approx(second, rel=0.06)


@given(PARTS, st.floats(0.2, 5.0), st.floats(0.001, 1.0))
def test_the_constant_is_no_more_than_a_call_and_scales_stay_near_one(
    parts: list[tuple[float, float]], off: float, call: float
) -> None:
    correction = fit(measured(parts, 0.0, (off, off)), call, 3 * call)
    assert 0 <= correction.latency_ms <= 3 * call
    assert all(NEAR[0] <= scale <= NEAR[1] for scale in correction.scales.values())


@given(st.floats(0.7, 1.5), TIMES)
def test_a_float_network_says_nothing_of_integer_layers(ratio: float, time: float) -> None:
    correction = fit([Observation(time, 0.0, ratio * time, 1.0, 1.0, 1.0, 1.0)])
    assert correction.scale(INT8) == pytest.approx(1.0, abs=1e-9)
    left = abs(predicted(correction, Observation(time, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0)) - ratio * time)
    assert left <= 0.2 * abs(time - ratio * time) + 1e-9


BYTES = st.floats(1e5, 1e9)


@given(st.lists(st.builds(Observation, TIMES, TIMES, TIMES, BYTES, BYTES, BYTES, BYTES), min_size=1))
def test_nothing_becomes_negative(seen: list[Observation]) -> None:
    correction = fit(seen)
    assert min(correction.latency_ms, correction.memory_bytes, correction.size_bytes) >= 0
    assert min(*correction.scales.values(), correction.memory_scale, correction.size_scale) >= 0.05


@given(st.floats(0.0, 1e6), st.floats(0.8, 1.2), BYTES, st.floats(0.1, 0.5))
def test_bytes_of_two_networks_are_met(offset: float, scale: float, parts: float, share: float) -> None:
    seen = [
        Observation(1.0, 1.0, 1.0, whole, offset + scale * whole, whole, offset + scale * whole)
        for whole in (parts, share * parts)
    ]
    correction = fit(seen)
    for network in seen:
        assert correction.memory_bytes + correction.memory_scale * network.account_memory_bytes == pytest.approx(
            network.memory_bytes, rel=0.1
        )


@given(st.lists(st.floats(200.0, 1e6), min_size=2, max_size=5), st.floats(0.99, 1.01))
def test_a_file_smaller_than_a_page_counts_as_what_it_is(sizes: list[float], drift: float) -> None:
    """Taken for 4 kB, one of 2 kB moved what was predicted of all others by a fifth."""
    seen = [Observation(1.0, 1.0, 1.0, size, drift * size, size, drift * size) for size in sizes]
    correction = fit(seen)
    for network in seen:
        expected = correction.size_bytes + correction.size_scale * network.account_size_bytes
        assert expected == pytest.approx(network.size_bytes, rel=0.02)
