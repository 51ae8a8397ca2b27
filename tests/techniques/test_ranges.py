"""Laws of ranges: what holds what, what grows with what, and errors on the grid against those of the extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.ranges import BINS, Histogram, entropy, min_max, mse, percentile

METHODS = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
    "mse, symmetric": lambda data: mse(data, symmetric=True),
}


def samples(seed: int, count: int = 4096) -> Tensor:
    """Heavy-tailed values, off centre and of any size; every third set is what ReLU leaves."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) ** 3 + (seed % 5 - 2)
    x = x * 2.0 ** (seed % 23 - 11)
    return x.relu() if seed % 3 == 0 else x


def on_grid(x: Tensor, low: float, high: float, steps: int, symmetric: bool) -> Tensor:
    """``x`` on integers 0 to ``steps``, zero exact (Jacob et al. 2018, eq. 1); symmetric: -128 to 127 for 255 steps."""
    scale = max(-low, high) / (steps // 2) if symmetric else (high - low) / steps
    zero = (steps + 1) // 2 if symmetric else round(-low / scale)
    return ((x / scale).round() + zero).clamp(0, steps).sub(zero) * scale


def error(x: Tensor, ends: tuple[float, float], steps: int = 255, symmetric: bool = False) -> float:
    return float((on_grid(x.double(), *ends, steps, symmetric) - x).square().mean())


seeds = st.integers(0, 10_000)


@pytest.mark.parametrize("binned", [False, True])
@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12)
@given(seed=st.integers(0, 40))
def test_a_range_holds_zero_and_lies_within_the_extremes(name: str, binned: bool, seed: int) -> None:
    x = samples(seed)
    low, high = METHODS[name](Histogram.of(x) if binned else x)
    assert min(float(x.min()), 0.0) <= low <= 0.0 <= high <= max(float(x.max()), 0.0)
    assert low < high


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12)
@given(seed=st.integers(0, 20))
def test_a_range_grows_with_the_values(name: str, seed: int) -> None:
    x = samples(seed)
    ends, larger = METHODS[name](x), METHODS[name](8 * x)  # a power of two: the same rounding
    assert larger == pytest.approx([8 * end for end in ends], rel=1e-9)


@given(seed=seeds)
def test_the_extremes_hold_every_sample(seed: int) -> None:
    x = samples(seed)
    for data in (x, Histogram.of(x)):
        low, high = min_max(data)
        assert bool(((x >= low) & (x <= high)).all())
        assert percentile(data, 100) == (low, high)


@given(seed=seeds, first=st.floats(1, 100), second=st.floats(1, 100))
def test_more_percent_are_never_a_smaller_range(seed: int, first: float, second: float) -> None:
    x = samples(seed)
    for data in (x, Histogram.of(x)):
        less, more = percentile(data, min(first, second)), percentile(data, max(first, second))
        assert more[0] <= less[0] and more[1] >= less[1]


@given(seed=seeds, share=st.floats(50, 100))
def test_a_percentile_holds_what_it_says(seed: int, share: float) -> None:
    x = samples(seed)
    for data in (x, Histogram.of(x)):
        low, high = percentile(data, share)
        assert float(((x >= low) & (x <= high)).float().mean()) >= share / 100 - 1e-3


def test_percentiles_of_a_uniform_distribution_are_known() -> None:
    x = torch.linspace(-1, 3, 40_001)
    for data in (x, Histogram.of(x)):
        assert percentile(data, 90) == pytest.approx((-0.8, 2.8), abs=3e-3)


@settings(max_examples=30)
@given(seed=seeds, steps=st.sampled_from([15, 255]), symmetric=st.booleans())
def test_the_least_squared_error_is_never_above_that_of_the_extremes(seed: int, steps: int, symmetric: bool) -> None:
    x = samples(seed, 500)
    assert error(x, mse(x, steps, symmetric), steps, symmetric) <= error(x, min_max(x), steps, symmetric) * (1 + 1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_outlier_is_clipped_for_four_bits(symmetric: bool) -> None:
    x = torch.cat([torch.randn(10_000), torch.tensor([40.0])])
    assert error(x, mse(x, 15, symmetric), 15, symmetric) < 0.3 * error(x, min_max(x), 15, symmetric)
    result = mse(Histogram.of(x), 15, symmetric)
    assert error(x, result, 15, symmetric) < 0.3 * error(x, min_max(x), 15, symmetric)


def test_a_gaussian_is_clipped_where_the_optimum_is_known() -> None:
    """Banner et al. 2019, "Post training 4-bit quantization", section 2: 2.55 deviations at 4 bits."""
    low, high = mse(Histogram.of(torch.randn(200_000)), 15)
    assert (-low, high) == pytest.approx((2.55, 2.55), rel=0.08)


def divergence(x: np.ndarray, kept: int, levels: int) -> float:
    """Migacz 2017, p. 38, step by step."""
    counts = np.histogram(np.abs(x), BINS, (0, np.abs(x).max()))[0].astype(float)
    counts[0] = counts[1]
    p = counts[:kept].copy()
    p[kept - 1] += counts[kept:].sum()
    q = np.zeros(kept)
    for level in range(levels):
        inside = [i for i in range(kept) if i * levels // kept == level]
        filled = [i for i in inside if counts[i] > 0]
        for i in filled:
            q[i] = sum(counts[j] for j in inside) / len(filled)
    p, q = p / p.sum(), q / q.sum()
    with np.errstate(divide="ignore"):
        return sum(a * np.log(a / b) if b > 0 else np.inf for a, b in zip(p, q, strict=True) if a > 0)


def test_the_entropy_is_least_where_it_says() -> None:
    x = torch.distributions.Laplace(0.0, 1.0).sample((50_000,)).double()
    low, high = entropy(x)
    reach = float(x.abs().max())
    kept = round(high / reach * BINS - 0.5)
    assert low == -high and 128 <= kept < BINS
    result = divergence(x.numpy(), kept, 128)
    for other in (kept - 300, kept - 40, kept + 40, BINS):
        assert result < divergence(x.numpy(), other, 128)


def test_the_entropy_clips_a_thin_tail_and_leaves_a_uniform_distribution() -> None:
    assert entropy(torch.rand(100_000))[1] > 0.99
    x = torch.cat([0.3 * torch.randn(100_000).abs(), 20 * torch.rand(300)])
    low, high = entropy(x)
    assert low == 0.0 and high < 0.75 * float(x.max())


def test_exact_zeros_do_not_matter_to_the_entropy() -> None:
    x = torch.randn(50_000)
    assert entropy(torch.cat([x.abs(), torch.zeros(100_000)])) == entropy(x.abs())


def test_histograms_add_up() -> None:
    x = samples(4)
    reach = float(x.abs().max())
    halves = Histogram.of(x[:2000], reach) + Histogram.of(x[2000:], reach)
    whole = Histogram.of(x)
    assert torch.equal(halves.counts, whole.counts)
    assert (halves.low, halves.high) == (whole.low, whole.high)
    assert float(whole.counts.sum()) == x.numel()
    assert float(whole.counts[:BINS].sum()) == float((x < 0).sum())


@pytest.mark.parametrize("name", METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(name: str) -> None:
    x = torch.zeros(10)
    assert METHODS[name](x) == METHODS[name](Histogram.of(x)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: min_max(x[:0]), "there are no samples"),
        (lambda x: mse(x / 0), "not finite"),
        (lambda x: Histogram.of(x * float("nan")), "not finite"),
        (lambda x: Histogram.of(x, 0.5), "beyond the histogram's 0.5"),
        (lambda x: Histogram.of(x) + Histogram.of(2 * x), "histograms reach"),
        (lambda x: percentile(x, 0), "a percentile of 0 "),
        (lambda x: percentile(x, 100.1), "a percentile of 100.1"),
        (lambda x: percentile(x, float("nan")), "a percentile of nan"),
        (lambda x: entropy(x, 1), "1 levels"),
        (lambda x: entropy(x, BINS + 1), "2049 levels"),
        (lambda x: mse(x, 1), "a grid of 1 steps"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        call(torch.linspace(-1, 1, 50))
    assert "\n" not in str(raised.value)
