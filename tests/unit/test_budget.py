"""Budgets: units are parsed as people write them, bad ones are refused, and bounds bind just where they say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.budget import BYTES, TIME, Budget, Cost, parse, parse_latency, show
from edgesdk.core.errors import BudgetError, UsageError

POSITIVE = st.floats(1e-6, 1e12)
BOUNDS = ("latency_ms", "peak_memory_bytes", "size_bytes")


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("2ms", TIME, 2.0),
        ("84.7 \N{GREEK SMALL LETTER MU}s", TIME, 0.0847),
        ("84.7\N{MICRO SIGN}s", TIME, 0.0847),
        (" 250 us ", TIME, 0.25),
        ("1.5s", TIME, 1500.0),
        ("2.ms", TIME, 2.0),
        ("1e-1ms", TIME, 0.1),
        ("+3ms", TIME, 3.0),
        ("200kB", BYTES, 200_000),
        ("200KB", BYTES, 200_000),
        ("8MB", BYTES, 8_000_000),
        ("8MiB", BYTES, 8 * 1024**2),
        ("0.5 KiB", BYTES, 512),
        ("1GB", BYTES, 10**9),
        ("1GiB", BYTES, 2**30),
        ("300B", BYTES, 300),
    ],
)
def test_a_number_with_its_unit_is_read(text: str, units: dict[str, float], value: float) -> None:
    assert parse(text, units, "the bound") == pytest.approx(value, rel=1e-12)


@given(POSITIVE, st.sampled_from([*[(TIME, u) for u in TIME], *[(BYTES, u) for u in BYTES]]))
def test_any_number_is_read_back(value: float, unit: tuple[dict[str, float], str]) -> None:
    units, name = unit
    assert parse(f"{value!r}{name}", units, "the bound") == pytest.approx(value * units[name], rel=1e-12)


@pytest.mark.parametrize(
    ("text", "units", "fact"),
    [
        ("2", TIME, "has no unit"),
        ("200", BYTES, "has no unit"),
        ("2kB", TIME, "unknown unit"),
        ("2ms", BYTES, "unknown unit"),
        ("2 MS", TIME, "unknown unit"),
        ("5mb", BYTES, "unknown unit"),
        ("0ms", TIME, "not positive"),
        ("-1ms", TIME, "not positive"),
        ("-0.0s", TIME, "not positive"),
        ("1e999ms", TIME, "not positive"),
        ("1e308MB", BYTES, "not positive and finite"),
        ("", TIME, "not a number with a unit"),
        ("ms", TIME, "not a number with a unit"),
        ("fast", TIME, "not a number with a unit"),
        ("nanms", TIME, "not a number with a unit"),
        ("infms", TIME, "not a number with a unit"),
        ("2,5ms", TIME, "not a number with a unit"),
        ("1 2ms", TIME, "not a number with a unit"),
        ("2ms4", TIME, "not a number with a unit"),
        ("--2ms", TIME, "not a number with a unit"),
    ],
)
def test_bad_text_is_refused_with_an_example(text: str, units: dict[str, float], fact: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text, units, "the latency")
    assert fact in raised.value.fact and repr(text) in raised.value.fact
    example = "2ms" if units is TIME else "200kB"
    assert example in raised.value.remedy
    assert parse(example, units, "the example") > 0
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [*BOUNDS, "max_drop", "percentile"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        Budget(**{name: value})


@pytest.mark.parametrize("percentile", [100, 101, 1e9])
def test_there_is_no_percentile_of_a_hundred(percentile: float) -> None:
    with pytest.raises(UsageError, match="no percentile"):
        Budget(percentile=percentile)


def test_a_basis_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="guessed"):
        Cost(1.0, 1.0, 1.0, "guessed")


@given(st.tuples(POSITIVE, POSITIVE, POSITIVE), st.tuples(*[st.none() | POSITIVE] * 3))
def test_a_budget_is_met_just_when_no_bound_is_broken(figures: tuple, bounds: tuple) -> None:
    cost, budget = Cost(*figures, basis="measured"), Budget(*bounds)
    assert budget.bounds == {name: b for name, b in zip(BOUNDS, bounds, strict=True) if b is not None}
    broken = {n for n, f, b in zip(BOUNDS, figures, bounds, strict=True) if b is not None and f > b}
    # A ratio may round to one where the figures differ in their last digit.
    assert set(budget.misses(cost)) <= broken
    assert all(getattr(cost, name) <= budget.bounds[name] * (1 + 1e-15) for name in broken - set(budget.misses(cost)))
    assert budget.is_met_by(cost) == (not budget.misses(cost))
    assert all(ratio > 1 for ratio in budget.misses(cost).values())


@given(st.tuples(POSITIVE, POSITIVE, POSITIVE))
def test_a_cost_meets_itself_as_a_budget_and_misses_half_of_it(figures: tuple) -> None:
    cost, budget = Cost(*figures, basis="predicted"), Budget(*figures)
    assert budget.is_met_by(cost)
    for name in BOUNDS:
        half = replace(budget, **{name: getattr(budget, name) / 2})
        assert half.misses(cost) == {name: 2.0}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_ms", 0.2444, "244 \N{GREEK SMALL LETTER MU}s"),
        ("latency_ms", 0.99949, "999 \N{GREEK SMALL LETTER MU}s"),
        ("latency_ms", 0.9996, "1 ms"),
        ("latency_ms", 0.0, "0 ms"),
        ("latency_ms", -0.0123, "-12.3 \N{GREEK SMALL LETTER MU}s"),
        ("latency_ms", 99.96, "100 ms"),
        ("latency_ms", 1234.4, "1234 ms"),
        ("size_bytes", 94_257, "94.26 kB"),
        ("size_bytes", 999_999, "1000 kB"),
        ("peak_memory_bytes", 8_000_000, "8 MB"),
        ("peak_memory_bytes", 12_345_678, "12.3 MB"),
    ],
)
def test_figures_are_shown_as_people_read_them(name: str, value: float, text: str) -> None:
    assert show(name, value) == text


@given(st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(0.01, 100))
def test_a_bound_on_the_score_is_a_drop_from_the_dense_models(dense: float, score: float, drop: float | None) -> None:
    budget = Budget(max_drop=drop, accuracy=score)
    if score > dense:
        with pytest.raises(BudgetError, match=r"the dense model itself scores"):
            budget.given(dense)
        return
    bound = budget.given(dense).max_drop
    assert bound is not None and bound <= max(dense - score, 1e-9)
    assert bound == (max(dense - score, 1e-9) if drop is None else min(drop, max(dense - score, 1e-9)))


def test_without_a_bound_on_the_score_nothing_changes_and_it_must_be_a_number() -> None:
    assert Budget(latency_ms=2).given(90.0) == Budget(latency_ms=2)
    assert Budget(accuracy=-0.5).given(-0.25).max_drop == pytest.approx(0.25)  # a negated error
    with pytest.raises(UsageError, match="accuracy"):
        Budget(accuracy=math.nan)


@given(st.floats(0.01, 10), st.floats(0.01, 100))
def test_a_share_of_the_dense_model_binds_the_ratio_alone(share: float, dense_ms: float) -> None:
    budget = Budget(latency_ratio=share)
    assert budget.bounds == {"latency_ratio": share}
    slow = Cost(1e9, 1.0, 1.0, "measured", latency_ratio=share)  # however many milliseconds that are
    assert budget.is_met_by(slow)
    assert budget.misses(replace(slow, latency_ratio=2 * share)) == {"latency_ratio": pytest.approx(2.0)}
    with pytest.raises(ValueError, match="beside the dense model"):
        budget.misses(replace(slow, latency_ratio=None))
    assert budget.against(dense_ms).bounds == {"latency_ms": share * dense_ms}
    both = replace(budget, latency_ms=0.5 * share * dense_ms)
    assert both.against(dense_ms) == Budget(latency_ms=0.5 * share * dense_ms)  # the tighter one


@pytest.mark.parametrize("percentile", [50, 90])
def test_a_share_of_the_dense_model_is_one_of_the_undisturbed_state(percentile: float) -> None:
    with pytest.raises(UsageError, match=f"percentile {percentile}"):
        Budget(latency_ratio=0.5, percentile=percentile)


@pytest.mark.parametrize(
    ("text", "bound"),
    [("0.5x", {"latency_ratio": 0.5}), (" .25X ", {"latency_ratio": 0.25}), ("2ms", {"latency_ms": 2.0})],
)
def test_a_latency_is_milliseconds_or_a_share(text: str, bound: dict[str, float]) -> None:
    assert parse_latency(text) == bound


@pytest.mark.parametrize("text", ["x", "halfx", "-0.5x", "0x", "nanx", "infx", "0.5", "0.5y", "1 2x"])
def test_a_latency_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--latency"):
        parse_latency(text)
