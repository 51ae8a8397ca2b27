"""Targets: what the profiles say is complete, and a wrong name gets the right ones."""

from __future__ import annotations

import sys
from importlib.resources import files

import pytest

from edgesdk.device import Fact, target, targets
from edgesdk.errors import UsageError
from edgesdk.plan import FP32, INT8
from edgesdk_targets.agent.runners import RUNNERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_every_target_is_complete_and_says_where_its_facts_come_from() -> None:
    known = targets()
    assert "x86" in known
    for name, found in known.items():
        assert found.name == name
        assert set(found.runtimes) <= set(RUNNERS) and found.runtimes
        assert set(found.precisions) <= {FP32, INT8} and FP32 in found.precisions
        assert found.facts


def test_no_two_targets_answer_to_one_name() -> None:
    names = [name for found in targets().values() for name in (found.name, *found.aliases)]
    assert len(names) == len(set(names)) and all(name == name.strip().lower() for name in names)


@pytest.mark.parametrize("name", ["x86", "X86", " x86-64 ", "x86_64", "AMD64"])
def test_a_target_answers_to_its_aliases_in_any_case(name: str) -> None:
    assert target(name).name == "x86"


@pytest.mark.parametrize("name", ["", "x87", "x86 64", "../x86", "jetson nano 9"])
def test_an_unknown_target_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        target(name)
    assert repr(name) in raised.value.fact
    assert all(known in raised.value.remedy for known in targets())
    assert raised.value.exit_code == 2


def test_a_fact_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks a value or a source"):
        Fact("cores", "2", "")


def test_every_target_has_a_recipe_that_agrees_with_its_profile() -> None:
    for name, found in targets().items():
        recipe = tomllib.loads((files("edgesdk_targets") / "recipes" / f"{name}.toml").read_text("utf-8"))
        assert recipe["target"] == name
        assert tuple(recipe["runtimes"]) == found.runtimes and tuple(recipe["precisions"]) == found.precisions
        assert recipe["threads"] >= 1
        assert set(recipe["formats"]) == set(recipe["packages"]) == set(found.runtimes)
