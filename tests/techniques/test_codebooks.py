"""Laws of codebooks: how many values there are, that each weight has the right one, and that decoding is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.codebooks import (
    Coded,
    binary,
    e2m1,
    intervals,
    k_means,
    nearest,
    powers_of_two,
    ternary,
)

MAKERS: dict[str, Callable[[Tensor], Coded]] = {
    "intervals": partial(intervals, count=16),
    "k-means": partial(k_means, count=16),
    "powers of two": partial(powers_of_two, bits=4),
    "e2m1": e2m1,
    "ternary": ternary,
    "binary": binary,
}
SHAPES = ((8, 4, 3, 3), (16, 10), (6, 1, 5), (40,))


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 10 ** float(torch.rand((), generator=generator) * 6 - 4)


def error(weight: Tensor, coded: Coded) -> float:
    return float((coded.decoded().double() - weight.double()).square().sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_weight_is_what_its_codes_and_table_say(name: str, shape: tuple[int, ...]) -> None:
    weight = drawn(3, *shape)
    coded = MAKERS[name](weight)
    assert coded.codes.dtype == torch.uint8
    assert coded.table.dtype == torch.float32
    assert int(coded.codes.max()) < len(coded.table) <= 2**coded.bits <= 2 * len(coded.table)
    decoded = coded.decoded()
    assert decoded.shape == weight.shape
    assert decoded.dtype == torch.float32
    assert 0 < error(weight, coded) < float(weight.double().square().sum())
    by_hand = coded.table.numpy()[coded.codes.numpy().ravel()]
    if coded.scales is not None:
        by_hand = by_hand * np.repeat(coded.scales.numpy(), coded.block)[: by_hand.size]
    assert decoded.numpy().tobytes() == by_hand.tobytes()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_a_codebook_of_k_has_k_values_and_k_means_are_no_worse_than_where_they_start(seed: int, count: int) -> None:
    weight = drawn(seed, 12, 10)
    means, parts = k_means(weight, count), intervals(weight, count)
    assert len(means.table) == len(means.decoded().unique()) == count
    assert len(parts.decoded().unique()) == len(parts.table) <= count
    start = torch.linspace(float(weight.min()), float(weight.max()), count, dtype=torch.float64)
    assert error(weight, means) <= error(weight, nearest(weight, start))


def test_k_means_find_what_no_other_centroids_near_them_beat() -> None:
    weight = drawn(0, 300)
    result = k_means(weight, 5)
    for centre in range(5):
        members = weight[result.codes == centre]
        assert float(result.table[centre]) == pytest.approx(float(members.mean()), abs=2e-3 * float(weight.std()))


def test_intervals_are_equal_and_their_values_the_means_of_what_is_in_them() -> None:
    weight = torch.tensor([-2.0, -1.0, -1.2, 0.1, 0.3, 1.4, 1.8, 9.0])
    result = intervals(weight, 4, spread=1.0)
    mean, deviation = weight.mean(), weight.std(correction=0)
    edges = [-math.inf, mean - deviation / 2, mean, mean + deviation / 2, math.inf]
    expected = [weight[(weight > low) & (weight <= high)].mean() for low, high in pairwise(edges)]
    torch.testing.assert_close(result.table, torch.stack([value for value in expected if not value.isnan()]))


def test_few_distinct_weights_come_back_as_they_are() -> None:
    weight = drawn(1, 5)[torch.randint(5, (20, 4))]
    assert torch.equal(k_means(weight, 8).decoded(), weight)
    assert torch.equal(intervals(torch.full((3, 3), 0.3), 4).decoded(), torch.full((3, 3), 0.3))
    for name, make in MAKERS.items():
        if name != "e2m1":  # -0.0 is a code of its own there
            assert torch.equal(make(torch.zeros(5, 4)).decoded(), torch.zeros(5, 4)), name


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_each_weight_has_the_nearest_value(seed: int) -> None:
    weight = drawn(seed, 30)
    for table in (k_means(weight, 7).table, powers_of_two(weight, 3).table):
        decoded = nearest(weight, table).decoded()
        best = (weight.double()[:, None] - table.double()).abs().amin(1)
        assert torch.equal((weight.double() - decoded.double()).abs(), best)


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_powers_of_two_are_such_up_to_the_largest_of_the_paper(seed: int, bits: int) -> None:
    weight = drawn(seed, 50)
    result = powers_of_two(weight, bits)
    sizes = result.table[result.table > 0]
    assert len(result.table) == 2**bits - 1
    assert torch.equal(result.table, -result.table.flip(0))
    assert all(math.frexp(size)[0] == 0.5 for size in sizes.tolist())
    assert float(sizes.max()) == 2.0 ** math.floor(math.log2(4 * float(weight.abs().max()) / 3))


@given(st.integers(0, 10**6), st.sampled_from((1, 5, 32, 100)))
def test_four_bit_floats_are_those_of_the_standard(seed: int, block: int) -> None:
    weight = drawn(seed, 9, 7)
    result = e2m1(weight, block)
    assert result.scales is not None
    flat = weight.flatten()
    for run, scale in enumerate(result.scales.tolist()):
        each = flat[run * block : (run + 1) * block].numpy()
        assert scale == 2.0 ** (math.floor(math.log2(np.abs(each).max())) - 2)
        expected = (each / np.float32(scale)).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn)
        codes = result.codes.flatten()[run * block : (run + 1) * block].numpy()
        assert codes.tolist() == expected.view(np.uint8).tolist()


def test_halves_of_four_bit_floats_go_to_the_even_mantissa() -> None:
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -5.0])
    assert e2m1(halves, 10).decoded().tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, -0.0, -4.0]


@given(st.integers(0, 10**6), st.floats(0.5, 1.5))
def test_no_other_scale_suits_signs_better_than_the_mean_magnitude(seed: int, factor: float) -> None:
    weight = drawn(seed, 6, 8)
    result = binary(weight)
    assert result.scales is not None
    other = Coded(result.codes, result.table, result.scales * factor, result.block)
    assert torch.equal(result.decoded() >= 0, weight >= 0)
    assert error(weight, result) <= error(weight, other) * (1 + 1e-5)


@given(st.integers(0, 10**6), st.floats(0.5, 1.5))
def test_ternary_weights_have_the_best_scale_for_the_threshold_of_the_paper(seed: int, factor: float) -> None:
    weight = drawn(seed, 6, 8)
    result = ternary(weight)
    assert torch.equal(result.decoded() != 0, weight.abs() > 0.7 * weight.abs().mean())
    assert error(weight, result) <= error(weight, Coded(result.codes, result.table * factor)) * (1 + 1e-5)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: k_means(torch.randn(3, 3), 10), "larger than the weight"),
    (lambda: intervals(torch.randn(3, 3), 10), "larger than the weight"),
    (lambda: powers_of_two(torch.randn(3, 2), 3), "larger than the weight"),
    (lambda: k_means(torch.randn(30, 30), 257), "not between"),
    (lambda: k_means(torch.randn(30, 30), -1), "not between"),
    (lambda: k_means(torch.randn(30, 30), 0), "not between"),
    (lambda: intervals(torch.randn(30, 30), 0), "not between"),
    (lambda: intervals(torch.randn(30, 30), 4, spread=0), "not positive"),
    (lambda: intervals(torch.randn(30, 30), 4, spread=math.nan), "not positive"),
    (lambda: powers_of_two(torch.randn(90), 1), "1 bits"),
    (lambda: powers_of_two(torch.randn(90), 7), "7 bits"),
    (lambda: e2m1(torch.randn(90), 0), "empty"),
    (lambda: k_means(torch.tensor([1.0, math.nan]), 2), "finite"),
    (lambda: ternary(torch.tensor([1.0, math.inf])), "finite"),
    (lambda: binary(torch.zeros(0, 3)), "finite"),
    (lambda: e2m1(torch.ones(3, dtype=torch.int8)), "finite"),
]


@pytest.mark.parametrize(("call", "fact"), BAD)
def test_what_no_codebook_can_be_made_of_is_said_on_one_line(call: Callable[[], object], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as caught:
        call()
    assert "\n" not in str(caught.value)
