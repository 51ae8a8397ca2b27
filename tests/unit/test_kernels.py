"""Kernels that a runtime's profiler tells of, as the layers that they are of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.kernels import Kernel, KernelProfile, describe_cost, find_slower, group_by_layers

LAYERS = ("a", "b", "c", "d")
NAMES = st.lists(st.lists(st.sampled_from(LAYERS), max_size=2, unique=True).map(tuple), max_size=6)


def kernels(named: list[tuple[str, ...]], timed: bool = True) -> list[Kernel]:
    return [
        Kernel(f"kernel {number}", "Conv", "CPU", None, names, None, 1.0 + number if timed else None, 0.5, 2.0)
        for number, names in enumerate(named)
    ]


@given(NAMES)
def test_no_time_is_lost_and_none_counts_twice(named: list[tuple[str, ...]]) -> None:
    told = kernels(named)
    parts = group_by_layers(told)
    assert sorted(kernel.name for part in parts for kernel in part.kernels) == sorted(kernel.name for kernel in told)
    assert sum(part.ms for part in parts) == sum(kernel.profiled_ms or 0.0 for kernel in told)
    layers = [name for part in parts for name in part.layers]
    assert len(layers) == len(set(layers)) and {*layers} == {name for names in named for name in names}
    assert sum(not part.layers for part in parts) <= 1


@given(NAMES)
def test_layers_are_apart_where_no_kernel_is_of_both(named: list[tuple[str, ...]]) -> None:
    for part in group_by_layers(kernels(named)):
        reached = {*part.layers[:1]}
        for _ in LAYERS:
            reached |= {name for names in named if reached & {*names} for name in names}
        assert reached == {*part.layers}
        assert (part.low_ms is None) == (len(part.kernels) > 1)


def test_parts_are_in_the_order_in_which_they_ran() -> None:
    parts = group_by_layers(kernels([("b",), ("a", "c"), (), ("b",), ("d",)]))
    assert [(part.layers, part.ms) for part in parts] == [(("b",), 5.0), (("a", "c"), 2.0), ((), 3.0), (("d",), 5.0)]


def test_kernels_without_times_are_no_parts_and_have_no_cost() -> None:
    silent = kernels([("a",), ()], timed=False)
    assert group_by_layers(silent) == []
    assert "no times" in describe_cost(KernelProfile("litert", "2.1", tuple(silent)))
    told = describe_cost(KernelProfile("onnxruntime", "1.32", tuple(kernels([("a",), ("b",)])), 50, 6.0, 4.0))
    assert "6 ms under the profiler and 4 ms without" in told and "+50 %" in told and told.endswith("3 ms")
    alone = describe_cost(KernelProfile("tensorrt", "10.3.0", tuple(kernels([("a",)])), 50, None, 4.0))
    assert "add up to 1 ms under the profiler" in alone and "a run without it takes 4 ms" in alone


def test_what_is_slower_is_told_by_layers_that_are_fused_in_neither_file() -> None:
    def timed(*parts: tuple[tuple[str, ...], float]) -> list[Kernel]:
        return [Kernel("k", "Conv", "GPU", None, names, None, ms) for names, ms in parts]

    floats = timed((("a",), 2.0), (("b",), 2.0), (("c",), 2.0), ((), 0.5))
    assert find_slower(timed((("a",), 1.0), (("b",), 3.0), (("c",), 2.0), ((), 9.0)), floats) == {"b", "c"}
    assert find_slower(timed((("a", "b"), 3.0), (("c",), 1.0)), floats) == set()  # two layers as one kernel: together
    assert find_slower(timed((("a", "b"), 4.5), (("c",), 1.0)), floats) == {"a", "b"}
    assert find_slower(timed((("a",), 1.0), (("a",), 1.5), (("d",), 9.0)), floats) == {"a"}  # the other has no d
    assert find_slower([], floats) == find_slower(floats, []) == set()
