"""Names of operators: each is one kind of work, or none."""

from __future__ import annotations

from collections import Counter

import pytest

from edgesdk.price import kinds
from edgesdk.price.kinds import FREE, UNKNOWN, kind_of
from edgesdk.price.physics import ORDER, TERMS

NAMES = [name for names in kinds._NAMES.values() for name in names.split()]


def test_every_name_is_of_one_kind_only() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert all(kind_of(name) == kind for kind, names in kinds._NAMES.items() for name in names.split())


def test_what_is_free_has_no_kind() -> None:
    assert FREE.isdisjoint(NAMES)
    assert all(kind_of(name) == UNKNOWN for name in FREE)


@pytest.mark.parametrize("name", ["frobnicate", "", "Add", "conv", "relu "])
def test_what_has_no_name_here_is_unknown(name: str) -> None:
    assert kind_of(name) == UNKNOWN and name not in FREE


def test_every_kind_has_a_place_among_shapes_and_a_constant() -> None:
    assert set(kinds._NAMES) <= set(ORDER)
    assert set(kinds._NAMES) - {kinds.GROUPED} <= set(TERMS)  # grouped convolutions are convolutions
