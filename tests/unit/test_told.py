"""What a device does not tell is said, not left out: of conditions, of its facts, and of energy."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edgesdk.cli.show_devices import show_facts
from edgesdk.core.energy import describe_unmeasured
from edgesdk.pages.conditions import list_conditions, tell_conditions
from edgesdk.pages.render import NONE

HOT = [{"zone": "zone0", "type": "cpu", "celsius": 51.0}]
ALL = {
    "temperatures": HOT, "frequencies": [{"core": 0, "mhz": 1500.0}], "graphics": {"mhz": 900.0},
    "governor": "performance", "power_mode": "MAXN", "throttle": {"now": []}, "load": [0.1], "usable_cores": [0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "untold"),
    [
        (ALL, ALL, None),
        ({**ALL, "graphics": None}, {**ALL, "graphics": None}, None),  # a board without a GPU
        ({**ALL, "governor": None}, ALL, ("governor", NONE)),
        ({"load": [1.0]}, {"load": [1.0]}, ("temperature, clock, governor, power mode, throttled, usable cores",) * 2),
        ({**ALL, "temperatures": [{"zone": "z", "celsius": None}]}, ALL, ("temperature", NONE)),
        ({}, {}, None),  # of a profile: nothing ran
    ],
)
def test_conditions_that_a_device_does_not_tell_are_named(
    before: dict[str, Any], after: dict[str, Any], untold: tuple[str, str] | None
) -> None:
    rows = {row[0]: row[1:] for row in list_conditions({"before": before, "after": after})}
    assert rows.get("not told by the device") == untold
    assert list_conditions(None) == []


def test_a_condition_that_changed_is_told_with_both() -> None:
    told = dict(tell_conditions({"before": ALL, "after": {**ALL, "governor": "powersave"}}))
    assert told["governor"] == "performance, then powersave" and told["power mode"] == "MAXN"


@pytest.mark.parametrize(
    ("facts", "untold"),
    [
        (
            {"cpu": "A55", "board": None, "l4t": None, "conditions": {"governor": None, "load": [1.0]}},
            "board, governor",
        ),
        (
            {"cpu": None, "board": "a board", "conditions": {"temperatures": [], "throttle": {}}},
            "cpu, temperatures, thr",
        ),
        ({"cpu": "A55", "conditions": {"governor": "performance", "graphics": None}}, None),
    ],
)
def test_facts_that_a_device_does_not_tell_are_named(facts: dict[str, Any], untold: str | None) -> None:
    out = io.StringIO()
    show_facts("lab", facts, Console(file=out, width=200))
    assert ("not told: " in out.getvalue()) == (untold is not None)
    assert untold is None or f"  not told: {untold}" in out.getvalue()


@pytest.mark.parametrize(
    ("predicted", "source", "says"),
    [
        (True, None, "no figure: profiles know nothing of power"),
        (False, "unavailable", "no meter that can be read"),
        (False, None, "no meter that can be read"),
        (False, "locked", "root alone may read"),
        (False, "rapl", "not measured"),
    ],
)
def test_why_there_is_no_figure_of_energy_is_said(predicted: bool, source: str | None, says: str) -> None:
    assert says in describe_unmeasured(predicted, source)
