"""Operators: widths are what they should be, low-rank forms compute what they replace, and keys are names."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesdk.core.errors import UsageError
from edgesdk.core.graph import ACTIVATION, ADD, CONV, FLATTEN, LINEAR, MEAN, OTHER, POOL, Graph, Group, Layer, Tensor
from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.price.forms import CHEAPER, KINDS, check, fits, forms
from edgesdk.price.operators import (
    Operator,
    baseline,
    change,
    channels,
    operators,
    precisions,
    widths,
)  # fmt: skip

SIZES = st.integers(1, 9)
PAIRS = st.tuples(SIZES, SIZES)
OPERATORS = st.builds(
    Operator,
    kind=st.sampled_from((CONV, LINEAR, ADD, POOL, "mean", "activation", "quantize", "dequantize")),
    precision=st.sampled_from((FP32, INT8)),
    inputs=st.integers(1, 99),
    outputs=st.integers(1, 99),
    size=st.just(()) | PAIRS,
    kernel=st.just(()) | PAIRS,
    stride=st.just(()) | PAIRS,
    padding=st.just(()) | PAIRS,
    dilation=st.just(()) | PAIRS,
    groups=st.integers(1, 9),
    activation=st.none() | st.sampled_from(("relu", "relu6")),
    entry=st.booleans(),
)


def places(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many places a window has along one axis, by trying them all."""
    last = size + 2 * padding - dilation * (kernel - 1)
    return sum(1 for start in range(0, max(last, 0)) if start % stride == 0)


def convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1),
    size: tuple[int, int] = (9, 9), padding: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Layer:  # fmt: skip
    window = zip(size, kernel, stride, padding, dilation, strict=True)
    return Layer(
        "conv", CONV, ("x",), (inputs, *size), (outputs, *(places(*axis) for axis in window)), "Conv2d",
        (outputs, inputs // groups, *kernel), True, kernel, stride, padding, dilation, groups, "relu",
        reads="in", writes="out",
    )  # fmt: skip


def alone(layer: Layer, inputs: int = 0, outputs: int = 0) -> Graph:
    groups = (Group("in", inputs or 1, ()), Group("out", outputs or 1, (layer.name,)))
    return Graph((Tensor("x", layer.input_shape),), (layer,), (layer.name,), groups)


@given(st.integers(1, 4096))
def test_widths_are_multiples_of_four_or_all(size: int) -> None:
    counts = widths(size)
    assert list(counts) == sorted(set(counts)) and counts[-1] == size
    assert 1 <= len(counts) <= 8
    assert all(width % 4 == 0 for width in counts[:-1])
    assert all(
        any(eighth * size / 8 <= w < eighth * size / 8 + 4 or w == size for w in counts) for eighth in range(1, 9)
    )


@given(OPERATORS, OPERATORS)
def test_a_key_names_one_operator(left: Operator, right: Operator) -> None:
    assert (left.key == right.key) == (left == right)
    assert "\n" not in left.key


@given(
    st.sampled_from((8, 16, 24, 64, 96)), st.sampled_from((8, 16, 32, 80)),
    st.sampled_from(((1, 1), (3, 3), (1, 3), (5, 3))), st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(5, 16), st.integers(5, 16)), st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from(((1, 1), (2, 1))), st.sampled_from((FP32, INT8)),
)  # fmt: skip
def test_a_low_rank_form_takes_and_gives_what_the_layer_does(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int], size: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int], precision: str,
) -> None:  # fmt: skip
    layer = convolution(inputs, outputs, kernel, stride, size, padding, dilation)
    assume(min(layer.shape) > 0)
    graph = alone(layer, inputs, outputs)
    for form in (None, *forms(layer, (*KINDS, *CHEAPER))):
        parts = operators(layer, graph, Option(precision, 8, form), None, None)
        assert (parts[0].inputs, parts[-1].outputs) == (inputs, outputs)
        at = size
        for index, part in enumerate(parts):
            assert part.size == at and part.precision == precision
            assert part.entry == (index == 0)
            assert part.activation == ("relu" if part is parts[-1] else None)
            window = zip(at, part.kernel, part.stride, part.padding, part.dilation, strict=True)
            at = tuple(places(*axis) for axis in window)
        assert at == layer.shape[1:]
        for before, after in pairwise(parts):
            assert before.outputs == after.inputs


@given(st.integers(1, 512), st.integers(1, 512))
def test_low_rank_forms_of_a_linear_layer_are_smaller_than_it(inputs: int, outputs: int) -> None:
    layer = Layer("fc", LINEAR, ("x",), (inputs,), (outputs,), "Linear", (outputs, inputs), writes="out")
    for form in forms(layer):
        parts = operators(layer, alone(layer, outputs=outputs), Option(form=form), None, None)
        assert sum(part.inputs * part.outputs for part in parts) < inputs * outputs
        assert form.sizes[0] % 8 == 0 and fits(form, inputs, outputs)


def test_a_smaller_kernel_is_the_centre_of_the_other() -> None:
    layer = convolution(8, 8, (5, 7), padding=(2, 3), groups=8)
    candidates = forms(layer, ["kernel"])
    assert [form.sizes for form in candidates] == [(3, 5), (1, 3), (1, 1)]
    (part,) = operators(layer, alone(layer, 8, 8), Option(form=candidates[0]), None, None)
    assert (part.kernel, part.padding, part.groups, part.after) == ((3, 5), (1, 2), 8, layer.shape[1:])
    narrow = convolution(8, 8, (5, 5), padding=(1, 2), groups=8)  # a single entry would see more places
    assert forms(narrow, ["kernel"]) == (Form("kernel", (3, 3)),)
    assert forms(layer) == ()


def test_forms_are_named_or_refused() -> None:
    check((*KINDS, *CHEAPER, "k-means"))
    with pytest.raises(UsageError, match="'cpd' is no form of a layer"):
        check(("cp", "cpd"))


def test_layers_without_a_low_rank_form_have_none() -> None:
    assert forms(convolution(16, 16, (3, 3), groups=16)) == ()
    assert forms(convolution(4, 4, (3, 3))) == (Form("separable"),)
    assert forms(Layer("add", ADD, ("x",), (4, 4, 4), (4, 4, 4), "add")) == ()
    assert Form("tucker", (8, 8)) in forms(convolution(32, 32, (3, 3)))


@pytest.mark.parametrize(
    ("form", "reads", "writes", "fit"),
    [
        (Form("svd", (8,)), 16, 12, True),
        (Form("svd", (8,)), 16, 8, False),
        (Form("spatial", (8,)), 8, 16, False),
        (Form("tucker", (8, 16)), 12, 20, True),
        (Form("tucker", (8, 16)), 8, 20, False),
        (Form("tucker", (8, 16)), 12, 16, False),
        (Form("cp", (8,)), 9, 12, True),
        (Form("cp", (8,)), 9, 8, False),
        (Form("separable"), 1, 1, True),
        (Form("kernel", (3, 3)), 1, 1, True),
    ],
)
def test_a_rank_fits_below_the_channels(form: Form, reads: int, writes: int, fit: bool) -> None:
    assert fits(form, reads, writes) is fit


def test_channels_follow_their_groups() -> None:
    layer = convolution(16, 32, (3, 3))
    graph = alone(layer, 16, 32)
    assert channels(layer, graph, None, None) == (16, 32)
    assert channels(layer, graph, 4, 8) == (4, 8)
    flat = Layer("fc", LINEAR, ("x",), (16 * 49,), (10,), "Linear", (10, 16 * 49), reads="in")
    assert channels(flat, alone(flat, 16), 4, None) == (4 * 49, 10)


def test_kinds_run_in_the_precisions_that_runtimes_have() -> None:
    def kind(name: str, fixed: str | None = None) -> Layer:
        return Layer("a", name, ("x",), (4, 4, 4), (4, 4, 4), name, fixed=fixed)

    for name in (CONV, LINEAR, ADD, POOL, MEAN, ACTIVATION, FLATTEN):
        assert precisions(kind(name)) == (FP32, INT8)
    assert precisions(kind(OTHER)) == (FP32,)
    assert precisions(kind(ADD, "its shape is unknown")) == (FP32,)
    assert precisions(kind(CONV, "its channels leave the network")) == (FP32, INT8)


def test_other_layers_run_as_what_they_are() -> None:
    window: dict[str, Any] = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    pool = Layer("pool", POOL, ("x",), (8, 6, 6), (8, 3, 3), "max_pool2d", **window)
    (operator,) = operators(pool, alone(pool), Option(INT8, 8), None, None)
    assert (operator.kind, operator.kernel, operator.stride, operator.size) == (POOL, (2, 2), (2, 2), (6, 6))
    flatten = Layer("flat", FLATTEN, ("x",), (8, 6, 6), (prod((8, 6, 6)),), "flatten")
    assert operators(flatten, alone(flatten), Option(), None, None) == ()
    join = Layer("join", ADD, ("x",), (8, 6, 6), (8, 6, 6), "add", activation="relu", writes="out")
    (operator,) = operators(join, alone(join, outputs=8), Option(), None, 4)
    assert (operator.kind, operator.outputs, operator.activation) == (ADD, 4, "relu")


@given(OPERATORS)
def test_a_baseline_has_the_surroundings_of_its_operator(operator: Operator) -> None:
    base = baseline(operator)
    assert base.precision == operator.precision and base.size == operator.size
    assert base.inputs == base.outputs == operator.inputs
    assert base.kind.startswith("alone") == (operator.kind in (CONV, LINEAR))
    assert base.entry == (operator.entry and operator.kind in (CONV, LINEAR))
    assert base.key != operator.key


@pytest.mark.parametrize(("direction", "precision"), [("quantize", FP32), ("dequantize", INT8)])
def test_a_change_starts_in_the_precision_that_it_leaves(direction: str, precision: str) -> None:
    operator = change(direction, (16, 8, 8), 12)
    assert (operator.kind, operator.precision, operator.inputs, operator.outputs) == (direction, precision, 12, 12)
    assert operator.size == (8, 8)
