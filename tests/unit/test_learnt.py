"""Prices in accuracy corrected by whole plans: nothing without data, nothing where these add up; pairs are found."""

from __future__ import annotations

from itertools import permutations
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.price.learnt import BRANCH, LEAST, WIDTH, Judged, Learnt, Part, Parts, list_parts
from edgesdk.price.menu import Losses

EIGHT, RANK = Option(INT8, 8), Form("svd", (4,))
LOSSES = Losses(
    {"g": {16: 0.0, 8: 0.02, 4: 0.05}, "h": {8: 0.0, 4: 0.01}},
    {
        "a": {Option(): 0.0, EIGHT: 0.004, Option(form=RANK): 0.03, Option(INT8, 8, RANK): 0.034},
        "b": {Option(): 0.0, EIGHT: 0.001},
    },
    {"block": 0.04},
)
NAMES = [Part(WIDTH, "g"), Part(WIDTH, "h"), Part(INT8, "a"), Part("svd", "a"), Part(BRANCH, "block")]
PRICES = st.floats(1e-4, 1.0)
PARTS = st.dictionaries(st.sampled_from(NAMES), PRICES, min_size=1)
PLANS = st.lists(PARTS, min_size=1, max_size=6)


def exact(parts: Parts, loss: float | None = None) -> Judged:
    """A plan that was judged without noise, by default at what its prices add up to."""
    return Judged(parts, (sum(parts.values()) if loss is None else loss,) * 4)


def flat(losses: Losses) -> list[float]:
    """All prices, in order."""
    return [
        *(loss for prices in losses.widths.values() for loss in prices.values()),
        *(loss for prices in losses.options.values() for loss in prices.values()),
        *losses.branches.values(),
    ]


@given(PARTS)
def test_without_data_prices_are_as_they_were(parts: Parts) -> None:
    nothing = Learnt()
    assert nothing.correct(LOSSES, parts) is LOSSES and nothing.expect(parts).loss == sum(parts.values())
    assert nothing.expect(parts).error > 0 and not nothing.is_sure(parts)


@given(PLANS, PARTS)
def test_plans_that_lose_what_their_prices_add_up_to_change_none(plans: list[Parts], other: Parts) -> None:
    learnt = Learnt([exact(parts) for parts in plans])
    assert flat(learnt.correct(LOSSES, other)) == pytest.approx(flat(LOSSES), rel=1e-6, abs=1e-12)
    assert learnt.expect(other).loss == pytest.approx(sum(other.values()), rel=1e-6)
    assert learnt.expect(other).error <= Learnt().expect(other).error * (1 + 1e-6), "data never makes less sure"


@given(PLANS, st.lists(st.floats(0.2, 4.0), min_size=6, max_size=6), PARTS)
def test_the_order_of_plans_does_not_matter(plans: list[Parts], times: list[float], other: Parts) -> None:
    judged = [exact(parts, sum(parts.values()) * by) for parts, by in zip(plans, times, strict=False)]
    results = {
        (tuple(flat(learnt.correct(LOSSES, other))), learnt.expect(other))
        for order in list(permutations(judged))[:6]
        for learnt in [Learnt(order)]
    }
    assert len(results) == 1, "to the last digit"


@given(PARTS, st.floats(0.3, 3.0), st.integers(1, 6))
def test_what_was_judged_is_expected_the_more_the_surer_it_is(parts: Parts, by: float, times: int) -> None:
    learnt, whole = Learnt([exact(parts, sum(parts.values()) * by)]), sum(parts.values())
    assert min(by, 1) - 1e-9 <= learnt.expect(parts).loss / whole <= max(by, 1) + 1e-9
    assert learnt.expect(parts).loss / whole == pytest.approx(by, abs=0.1 * abs(by - 1) + 0.03)
    noisy = Judged(parts, (0.0, 2 * whole * by))
    away = abs(Learnt([noisy]).expect(parts).loss - whole)
    assert away <= abs(learnt.expect(parts).loss - whole) + 1e-12, "noise is believed less"
    assert learnt.is_sure(parts)


@given(st.permutations(NAMES), st.floats(0.01, 0.1), st.floats(0.2, 0.9))
def test_two_that_hurt_together_are_found(names: list[Part], price: float, together: float) -> None:
    one, other, *rest = names
    alone: list[Parts] = [{name: price} for name in names]
    alone += [{first: price, name: price} for first in (one, other) for name in rest]
    both = {one: price, other: price}
    learnt = Learnt([*map(exact, alone), exact(both, 2 * price * (1 + together))])
    found = {(a, b): learnt.correlation(a, b) for a in names for b in names if a < b}
    assert max(found, key=lambda pair: found[pair]) == (min(one, other), max(one, other))
    assert learnt.correlation(one, other) == learnt.correlation(other, one) > 0
    assert learnt.expect(both).loss > sum(both.values())
    assert learnt.expect({one: price, rest[0]: price}).loss == pytest.approx(2 * price, rel=0.15)


@pytest.mark.parametrize("kind", [WIDTH, BRANCH, INT8, "svd"])
def test_a_kind_that_is_priced_too_low_is_dearer_everywhere(kind: str) -> None:
    own = {part.of: 0.02 for part in (Part(kind, "a"), Part(kind, "b"))}
    judged = [exact({Part(kind, of): loss}, 2 * loss) for of, loss in own.items()]
    judged += [exact({Part(other, "c"): 0.02}) for other in (WIDTH, BRANCH, INT8, "svd") if other != kind]
    learnt = Learnt(judged)
    unseen = {other: learnt.expect({Part(other, "unseen"): 0.02}).loss for other in (WIDTH, BRANCH, INT8, "svd")}
    assert max(unseen, key=lambda other: unseen[other]) == kind


def test_prices_near_a_plan_have_its_pairs_in_them() -> None:
    one, other = Part(WIDTH, "g"), Part(BRANCH, "block")
    parts = {one: 0.02, other: 0.04}
    judged = [exact({one: 0.02}), exact({other: 0.04}), exact(parts, 0.06 + sqrt(0.02 * 0.04))]
    learnt = Learnt(judged)
    alone, near = learnt.correct(LOSSES), learnt.correct(LOSSES, parts)
    assert near.branches["block"] > alone.branches["block"] and near.widths["g"][8] > alone.widths["g"][8]
    assert near.widths["h"] == alone.widths["h"], "what was never tried has no pair"


@given(PLANS, st.lists(st.floats(0.0, 50.0), min_size=6, max_size=6), PARTS)
def test_no_price_falls_below_a_share_of_itself_nor_rises_with_width(
    plans: list[Parts], times: list[float], around: Parts
) -> None:
    judged = [exact(parts, sum(parts.values()) * by) for parts, by in zip(plans, times, strict=False)]
    corrected = Learnt(judged).correct(LOSSES, around)
    assert all(new >= LEAST * old - 1e-12 for new, old in zip(flat(corrected), flat(LOSSES), strict=True))
    for prices in corrected.widths.values():
        wide_first = [prices[kept] for kept in sorted(prices, reverse=True)]
        assert wide_first == sorted(wide_first)


def test_parts_are_what_a_plan_decides() -> None:
    options = {"a": Option(INT8, 8, RANK), "b": Option()}
    parts = list_parts(LOSSES, options, {"g": 8, "h": 8, "fixed": 3}, ["block"])
    assert parts == pytest.approx(
        {Part(WIDTH, "g"): 0.02, Part(INT8, "a"): 0.004, Part("svd", "a"): 0.03, Part(BRANCH, "block"): 0.04}
    )
    assert list_parts(LOSSES, {"a": Option(), "b": EIGHT}, {"g": 16}, ()) == {Part(INT8, "b"): 0.001}
    assert FP32 not in {part.kind for part in list_parts(LOSSES, {"a": Option(form=RANK)}, {}, ())}
