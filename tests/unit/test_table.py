"""Tables of prices: what they are sure of, what they measure again, and what of them is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.graph import CONV
from edgesdk.core.plan import FP32
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.table import AGE, CALL, DOUBT, SCHEMA, UNSEEN, Price, Table

OP = Operator(CONV, FP32, 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
OTHER = replace(OP, outputs=32)
YESTERDAY = (date.today() - timedelta(1)).isoformat()
CALM = {"ms": 0.01, "disturbed": 0.2, "visits": 1000}


def table(folder: Path, **prices: Price) -> Table:
    opened = Table.open(folder, {"cpu": "one"}, 4)
    opened.settle(CALM)
    keys = {"op": OP.key, "base": baseline(OP).key, "call": CALL.key}
    opened.add({keys[name]: price for name, price in prices.items()})
    return opened


def test_a_table_is_read_back_and_asks_for_nothing_that_it_is_sure_of(tmp_path: Path) -> None:
    prices = table(tmp_path, op=Price(10.0, 0.01, 0.01), base=Price(2.0, 0.01, 0.01), call=Price(0.3, 0.01, 0.01))
    again = Table.open(tmp_path, {"cpu": "one"}, 4)
    assert (again.probes, again.reference_ms, again.missing([OP])) == (prices.probes, 0.01, [])
    assert again.latency_ms(OP) == pytest.approx((10 - 2) * 0.01 / 4)
    assert again.call_ms == pytest.approx(0.003)
    assert set(again.missing([OTHER])) == {OTHER}  # its baseline is the same
    assert {probe.key for probe in again.wanted([OP])} == {OP.key, baseline(OP).key, CALL.key}
    assert Table.open(tmp_path, {"cpu": "another"}, 4).probes == {}


PRICES = st.builds(Price, st.floats(0.1, 100), st.floats(0, 0.5), st.floats(0, 0.05))


@given(PRICES, PRICES)
def test_no_operator_is_for_nothing(tmp_path_factory, op: Price, base: Price) -> None:
    prices = table(tmp_path_factory.mktemp("table"), op=op, base=base)
    assert prices.latency_ms(OP) >= prices.error_ms(OP) > 0
    assert prices.latency_ms(OP) >= (op.ratio - base.ratio) * 0.01 / 4 - 1e-12


def test_a_price_from_a_disturbed_device_is_doubted_and_replaced_by_a_surer_one(tmp_path: Path) -> None:
    sure, slow = Price(10.0, 0.01, 0.01), Price(13.0, 0.01, 0.018)
    prices = table(tmp_path, op=slow, base=sure, call=sure)
    assert prices.error(OP) > DOUBT and prices.doubtful(OP)
    assert prices.missing([OP]) == []  # it was timed on this very day
    prices.add({OP.key: replace(slow, day=YESTERDAY)}, again=True)
    assert prices.missing([OP]) == [OP]
    prices.add({OP.key: sure})
    assert prices.missing([OP]) == []
    prices.add({OP.key: slow})
    assert prices.probes[OP.key] == sure
    prices.add({OP.key: slow}, again=True)  # a network contradicted it
    assert prices.probes[OP.key] == slow


@pytest.mark.parametrize("day", [YESTERDAY, date.today().isoformat()], ids=["yesterday", "today"])
def test_a_faster_state_makes_doubtful_what_was_priced_before_it_was_seen(tmp_path: Path, day: str) -> None:
    price = Price(10.0, 0.01, 0.01, day)
    prices = table(tmp_path, op=price, base=price, call=price)
    assert prices.missing([OP]) == []
    prices.settle({"ms": 0.006, "disturbed": 0.9, "visits": 1000})
    assert len(prices.missing([OP])) == 3
    prices.settle({"ms": 0.02, "disturbed": 1.0, "visits": 1000})  # saw nothing undisturbed: says nothing
    assert prices.reference_ms == 0.006


def test_prices_age_and_so_does_the_state_that_was_not_seen_again(tmp_path: Path) -> None:
    price = Price(10.0, 0.01, 0.01)
    prices = table(tmp_path, op=replace(price, day=(date.today() - AGE).isoformat()), base=price, call=price)
    again = Table.open(tmp_path, {"cpu": "one"}, 4)
    assert again.missing([OP]) == [OP] and again.reference_ms == 0.01
    content = json.loads(prices.path.read_text())
    prices.path.write_text(json.dumps({**content, "seen": (date.today() - UNSEEN).isoformat()}))
    assert Table.open(tmp_path, {"cpu": "one"}, 4).reference_ms is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": SCHEMA - 1}, {"schema": SCHEMA + 1}, {"probes": None}, {"probes": {"a": 1.0}},
        {"probes": {"a": [1.0]}}, {"probes": {"a": [-1.0, 0.1, 0.1, "2026-01-01"]}}, {"reference_ms": "fast"},
        {"probes": {"a": [1.0, 0.1, 0.1, "yesterday"]}}, {"seen": None}, {"conditions": {}},
    ],
)  # fmt: skip
def test_a_file_that_is_old_or_damaged_is_no_table(tmp_path: Path, change: dict) -> None:
    prices = table(tmp_path, op=Price(10.0))
    prices.path.write_text(json.dumps({**json.loads(prices.path.read_text()), **change}))
    opened = Table.open(tmp_path, {"cpu": "one"}, 4)
    assert opened.reference_ms is None
    opened.add({OP.key: Price(3.0)})
    assert Table.open(tmp_path, {"cpu": "one"}, 4).probes == opened.probes


def test_a_date_far_off_is_old(tmp_path: Path) -> None:
    table(tmp_path, op=replace(Price(1.0), day=(date.today() + timedelta(days=400)).isoformat()))
    assert Table.open(tmp_path, {"cpu": "one"}, 4).probes == {}
