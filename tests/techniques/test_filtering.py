"""Laws of low-pass filtering: orthogonal bases, the error of what is left out, and decoding that is exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from edgesdk.core.errors import UsageError
from edgesdk.techniques.filtering import Filtered, low_pass

KINDS = ("dct", "haar", "db2", "sym4")
WHOLE = ((6, 5, 3, 3), (16, 24), (16, 8, 1, 1), (4, 3, 8))
"""Shapes that DCT blocks tile without a rest."""
SHAPES = (*WHOLE, (10, 13), (3, 2, 5, 7), (5, 4, 11), (1, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_coefficients_give_the_weight_back(kind: str, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    filtered = low_pass(weight, 1.0, kind)
    assert (
        filtered.coefficients.shape[1]
        == filtered.basis.shape[0]
        == filtered.basis.shape[1]
        == math.prod(filtered.block)
    )
    torch.testing.assert_close(filtered.decoded(), weight, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", WHOLE)
def test_the_error_is_what_the_coefficients_left_out_hold(kind: str, shape: tuple[int, ...]) -> None:
    if kind != "dct" and 3 in shape[2:]:
        shape = (*shape[:2], 4, 4)
    weight = torch.randn(shape)
    errors = []
    for share in (0.1, 0.3, 0.5, 0.8):
        filtered = low_pass(weight, share, kind)
        whole = low_pass(weight, 1.0, kind).coefficients.double().square().sum()
        lost = float(whole - filtered.coefficients.double().square().sum())
        errors.append(float((weight - filtered.decoded()).double().square().sum()))
        assert errors[-1] == pytest.approx(lost, rel=1e-4, abs=1e-8)
    assert errors == sorted(errors, reverse=True)


def test_the_dct_is_scipys_and_the_lowest_frequencies_stay() -> None:
    weight = torch.randn(4, 2, 5, 5)
    filtered = low_pass(weight, 0.4)
    spectrum = np.asarray(fft.dctn(weight.double().numpy(), axes=(2, 3), norm="ortho"))
    order = sorted(range(25), key=lambda i: (i // 5 + i % 5, i))
    kept = np.zeros(25, bool)
    kept[order[:10]] = True
    np.testing.assert_allclose(filtered.coefficients, spectrum.reshape(8, 25)[:, kept], atol=1e-5)
    expected = np.asarray(fft.idctn(spectrum * kept.reshape(5, 5), axes=(2, 3), norm="ortho"))
    np.testing.assert_allclose(filtered.decoded(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_constant_in_a_block_needs_one_coefficient(kind: str) -> None:
    weight = torch.randn(3, 2, 1, 1).expand(3, 2, 4, 4)
    filtered = low_pass(weight, 1e-6, kind)
    assert filtered.coefficients.shape == (6, 1)
    torch.testing.assert_close(filtered.decoded(), weight.contiguous(), rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(SHAPES), st.floats(0.01, 1), st.floats(-20, 20))
def test_a_decoded_weight_does_not_depend_on_the_order_of_sums(
    seed: int, kind: str, shape: tuple[int, ...], share: float, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    filtered = low_pass(torch.randn(shape, generator=generator) * 2.0**size, share, kind, 16)
    order = torch.randperm(len(filtered.basis), generator=generator)
    exact = (
        filtered.coefficients[:, order].double().numpy().astype(np.longdouble) @ filtered.basis[order].double().numpy()
    )
    in_double = sum(
        (filtered.coefficients[:, i, None].double() * filtered.basis[None, i].double() for i in order.tolist()),
        torch.zeros(1, dtype=torch.float64),
    )
    assert np.array_equal(exact, in_double.numpy())
    other = Filtered(filtered.coefficients[:, order], filtered.basis[order], filtered.shape, filtered.block)
    assert other.decoded().numpy().tobytes() == filtered.decoded().numpy().tobytes()


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: low_pass(torch.ones(4, 4), 0.0), "share of 0.0"),
    (lambda: low_pass(torch.ones(4, 4), 1.1), "share of 1.1"),
    (lambda: low_pass(torch.ones(4, 4), math.nan), "share of nan"),
    (lambda: low_pass(torch.ones(4, 4), 0.5, block=1), "block of 1"),
    (lambda: low_pass(torch.ones(4, 4), 0.5, block=17), "block of 17"),
    (lambda: low_pass(torch.ones(24, 24), 0.5, "haar", 12), "power of two, not 12"),
    (lambda: low_pass(torch.ones(4, 4), 0.5, "sine"), "no orthogonal wavelet 'sine'"),
    (lambda: low_pass(torch.ones(4, 4), 0.5, "bior2.2"), "no orthogonal wavelet 'bior2.2'"),
    (lambda: low_pass(torch.ones(4), 0.5), "1 axes"),
    (lambda: low_pass(torch.ones(2, 2, 3, 3, 3), 0.5), "5 axes"),
    (lambda: low_pass(torch.full((4, 4), math.nan), 0.5), "finite"),
    (lambda: low_pass(torch.ones(4, 4, dtype=torch.int8), 0.5), "finite"),
]


@pytest.mark.parametrize(("call", "fact"), BAD)
def test_what_cannot_be_filtered_so_is_said_on_one_line(call: Callable[[], object], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as caught:
        call()
    assert "\n" not in str(caught.value)
