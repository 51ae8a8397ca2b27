"""Where the precision changes: one rule, which the price of a plan, a network's operators and its file all follow."""

from __future__ import annotations

from random import Random

import pytest
from graphs import random_graph

from edgesdk.core.plan import INT8, Option
from edgesdk.price.files import quantized
from edgesdk.price.operators import _changes
from edgesdk.price.precision import DEQUANTIZE, QUANTIZE, find_change, list_changes


@pytest.mark.parametrize(
    ("made", "read", "way"),
    [
        (False, [], None), (False, [False, False], None), (False, [False, True], QUANTIZE), (False, [True], QUANTIZE),
        (True, [], None), (True, [True, True], None), (True, [True, False], DEQUANTIZE), (True, [False], DEQUANTIZE),
    ],
)  # fmt: skip
def test_a_tensor_changes_once_for_all_its_readers(made: bool, read: list[bool], way: str | None) -> None:
    assert find_change(made, read) == way


@pytest.mark.parametrize("seed", range(40))
def test_operators_and_files_follow_the_same_rule(seed: int) -> None:
    graph, rng = random_graph(seed), Random(seed)
    options = {layer.name: Option(INT8, 8) for layer in graph.layers if rng.random() < 0.5}
    changes = list_changes(graph, options)
    assert [(name, op.kind) for name, op in _changes(graph, options)] == changes
    assert [name for name, way in changes if way == QUANTIZE] == quantized(graph, options)
    assert len({name for name, _ in changes}) == len(changes)
    for name in graph.outputs:
        assert ((name, DEQUANTIZE) in changes) is (name in options), "an output is read in float"
    assert list_changes(graph, {}) == []
