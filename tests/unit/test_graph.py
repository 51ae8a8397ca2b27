"""Graphs: what is live when, against running the layers one by one; and what is no graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
from graphs import random_graph
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.graph import ADD, CONV, LINEAR, MEAN, Graph, Layer, Tensor, without_batch

SEEDS = st.integers(0, 10**9)


def run(graph: Graph) -> dict[str, set[str]]:
    """The tensors in memory at each step if each is freed after its last reader, and outputs never."""
    waiting = {layer.name: sum(layer.name in set(other.inputs) for other in graph.layers) for layer in graph.layers}
    memory: set[str] = set()
    held = {}
    for layer in graph.layers:
        memory.add(layer.name)
        held[layer.name] = set(memory)
        for name in set(layer.inputs) & set(waiting):
            waiting[name] -= 1
        memory -= {name for name in memory if waiting[name] == 0 and name not in graph.outputs}
    return held


@given(SEEDS)
def test_what_is_live_is_what_running_the_layers_holds(seed: int) -> None:
    graph = random_graph(seed)
    assert {step: set(names) for step, names in graph.live.items()} == run(graph)
    assert list(graph.live) == [layer.name for layer in graph.layers]
    assert all(len(names) == len(set(names)) for names in graph.live.values())


@given(SEEDS)
def test_readers_are_the_layers_that_name_a_tensor(seed: int) -> None:
    graph = random_graph(seed)
    assert set(graph.readers) == {t.name for t in graph.inputs} | set(graph.by_name)
    for name, readers in graph.readers.items():
        assert list(readers) == [layer.name for layer in graph.layers if name in layer.inputs]


def test_a_residual_block_holds_its_input_until_the_join() -> None:
    def layer(name: str, kind: str, *inputs: str) -> Layer:
        return Layer(name, kind, inputs, (4, 2, 2), (4, 2, 2), kind)

    layers = (layer("a", CONV, "x"), layer("b", CONV, "a"), layer("c", CONV, "b"), layer("d", ADD, "c", "a"))
    graph = Graph((Tensor("x", (4, 2, 2)),), layers, ("d",))
    assert graph.live == {"a": ("a",), "b": ("a", "b"), "c": ("a", "b", "c"), "d": ("a", "c", "d")}


@given(SEEDS)
def test_a_digest_tells_graphs_apart(seed: int) -> None:
    graph = random_graph(seed)
    first = graph.layers[0]
    other = replace(graph, layers=(replace(first, macs=first.macs + 1), *graph.layers[1:]))
    assert graph.digest == random_graph(seed).digest != other.digest


def test_what_is_no_graph_is_refused() -> None:
    first = Layer("a", CONV, ("x",), (4,), (4,), "conv")
    image = (Tensor("x", (4,)),)
    with pytest.raises(ValueError, match="b reads c, which nothing before it makes"):
        Graph(image, (first, replace(first, name="b", inputs=("c",)), replace(first, name="c")), ("c",))
    with pytest.raises(ValueError, match="two layers are called a"):
        Graph(image, (first, first), ("a",))
    with pytest.raises(ValueError, match="two layers are called x"):
        Graph(image, (replace(first, name="x"),), ("x",))
    with pytest.raises(ValueError, match="'convolution' is not one of conv"):
        replace(first, kind="convolution")


@pytest.mark.parametrize(
    ("groups", "weight", "depthwise"), [(1, (8, 8), False), (8, (8, 1), True), (8, (16, 1), False), (1, (1, 1), False)]
)
def test_depthwise_has_a_kernel_per_channel(groups: int, weight: tuple[int, int], depthwise: bool) -> None:
    layer = Layer("a", CONV, ("x",), (8, 4, 4), (8, 4, 4), "conv", weight_shape=(*weight, 3, 3), groups=groups)
    assert layer.depthwise is depthwise and layer.elements == 128


@pytest.mark.parametrize(
    ("dims", "kind", "told"),
    [
        ((1, 3, 8, 8), CONV, (1, (3, 8, 8))),
        ((6, 3, 8, 8), CONV, (6, (3, 8, 8))),
        ((6, 3), MEAN, (6, (3,))),
        ((6, 3, 8, 8), ADD, (6, (3, 8, 8))),
        ((6, 1, 32), ADD, (1, (6, 1, 32))),  # steps come first
        ((10, 16), LINEAR, (1, (10, 16))),
        ((1, 10, 16), LINEAR, (1, (10, 16))),
        ((), CONV, (1, ())),  # what is not known
    ],
)
def test_what_lies_on_the_axis_of_the_batch_is_counted(dims: tuple[int, ...], kind: str, told: tuple) -> None:
    assert without_batch(dims, kind) == told
