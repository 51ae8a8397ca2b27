"""Prices that boards measured between them: as they are on the slowest, and how alike the boards are is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgesdk.core.graph import CONV, LINEAR
from edgesdk.core.plan import FP32
from edgesdk.devices.pool_prices import PoolPrices
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.table import CALL, COPIES, Price, Table


def conv(width: int) -> Operator:
    return Operator(CONV, FP32, width, width, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))


def linear(width: int) -> Operator:
    return Operator(LINEAR, FP32, width, width)


def takes(op: Operator) -> float:
    """Of a probe, in ms, on a board that is as fast as any."""
    return {CALL.key: 0.01}.get(op.key, 0.02 if op.kind not in (CONV, LINEAR) else 0.02 + 0.004 * op.inputs)


def table(path: Path, timed: list[Operator], times: Mapping[str, float] | float = 1.0, reference: float = 1.0) -> Table:
    """What a board says that timed those, in which each kind takes so many ``times``; its references take as long."""
    made = Table({}, path / "t.json", COPIES)
    made.reference_ms = reference
    for op in (CALL, *timed, *map(baseline, timed)):
        slower = times.get(op.kind, 1.0) if isinstance(times, Mapping) else times
        made.probes[op.key] = Price(takes(op) * slower / reference, 0.01, reference)
    return made


@pytest.mark.parametrize("reference", [1.0, 1.5])
def test_a_price_is_that_of_the_slowest_whoever_timed_it(tmp_path: Path, reference: float) -> None:
    shared = [conv(8), linear(24)]
    fast, slow = [*shared, conv(16)], [*shared, linear(32)]
    tables = {"fast": table(tmp_path, fast), "slow": table(tmp_path, slow, 1.5, reference)}
    prices = PoolPrices(tables)
    assert prices.slowest == "slow" and prices.slower["slow"] == pytest.approx(0.4055, abs=1e-3)
    for op in (conv(8), linear(24), conv(16), linear(32)):
        assert prices.latency_ms(op) == pytest.approx(1.5 * (takes(op) - 0.02) / COPIES)
        assert prices.has_price(op) and prices.is_timed(op) and prices.error_ms(op) > 0
    assert prices.call_ms == pytest.approx(0.015)
    assert prices.reference_ms == reference
    assert not prices.has_price(conv(64)) and prices.latency_ms(conv(64)) == prices.error_ms(conv(64)) == 0.0
    assert [op.inputs for op in prices.list_missing([conv(8), conv(64), conv(64), linear(32)])] == [64]
    (said,) = prices.list_differences()
    assert said.startswith("slow takes 1.50 times what fast does")


def test_alike_boards_have_no_differences_and_no_error_of_their_own(tmp_path: Path) -> None:
    timed = [conv(8), linear(24)]
    prices = PoolPrices({name: table(tmp_path, timed, 1 + 0.01 * n) for n, name in enumerate("abc")})
    assert prices.list_differences() == [] and prices.slowest == "c"
    assert prices.error_ms(conv(8)) == pytest.approx(prices.tables["c"].error_ms(conv(8)))


def test_boards_that_are_slower_at_some_operators_alone_are_uneven_and_prices_doubted(
    tmp_path: Path,
) -> None:
    timed = [conv(8), conv(16), linear(24), linear(16)]
    own = table(tmp_path, [*timed, conv(32)])
    prices = PoolPrices({"a": own, "b": table(tmp_path, timed, {CONV: 2.0, LINEAR: 0.9})})
    assert any("differs by" in said for said in prices.list_differences())
    name = "a" if prices.slowest == "b" else "b"
    assert prices.spread[name] > 0.1
    if name == "a":
        assert prices.error_ms(conv(32)) > 3 * own.error_ms(conv(32))


def test_what_is_timed_again_counts_alone(tmp_path: Path) -> None:
    tables = {"a": table(tmp_path, [conv(8), conv(16)]), "b": table(tmp_path, [conv(8), conv(16)], 1.2)}
    prices = PoolPrices(tables)
    tables["a"].probes[conv(16).key] = Price(0.5, 0.01, 1.0)
    prices.keep_alone("a", [conv(16)])
    prices.update()
    assert prices.latency_ms(conv(16)) == pytest.approx(1.2 * (0.5 - 0.02) / COPIES)
    assert prices.latency_ms(conv(8)) == pytest.approx(1.2 * (takes(conv(8)) - 0.02) / COPIES)


def test_without_any_price_nothing_is_known(tmp_path: Path) -> None:
    prices = PoolPrices({"a": Table({}, tmp_path / "a", COPIES), "b": Table({}, tmp_path / "b", COPIES)})
    assert (prices.call_ms, prices.reference_ms, prices.list_differences(), prices.shared) == (None, None, [], [])
    assert prices.list_missing([conv(8)]) == [conv(8)]
