"""Laws of learned steps: values as every other quantizer makes them, gradients as the paper's formula says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgesdk.core.errors import UsageError
from edgesdk.techniques.steps import learned_step

GRIDS = [(0, 255, 0), (0, 255, 77), (-128, 127, 0), (-7, 7, 0), (0, 255, 255)]


def values(seed: int, scale: float) -> Tensor:
    """Values of which some are beyond each end."""
    return torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 150 * scale


@pytest.mark.parametrize(("low", "high", "zero"), GRIDS)
@given(seed=st.integers(0, 1000), size=st.integers(-12, 6))
def test_values_are_on_the_grid(low: int, high: int, zero: int, seed: int, size: int) -> None:
    scale = torch.tensor(1.37 * 2.0**size)
    x = values(seed, float(scale))
    expected = ((x / scale).round() + zero).clamp(low, high).sub(zero) * scale
    assert torch.equal(learned_step(x, scale, torch.tensor(zero), low, high, 40), expected)


def slope(x: Tensor, scale: float, low: int, high: int, zero: int) -> Tensor:
    """d/ds of s * (clip(x / s) + e) by central differences, e the rounding's error, which passes gradients on as 0."""

    def formula(s: float) -> Tensor:
        return s * ((x / s).clamp(low - zero, high - zero) + rest)

    places = (x / scale).clamp(low - zero, high - zero)
    rest = places.round() - places
    step = 1e-6 * scale
    return (formula(scale + step) - formula(scale - step)) / (2 * step)


@pytest.mark.parametrize(("low", "high", "zero"), GRIDS)
def test_gradients_match_finite_differences_of_the_formula(low: int, high: int, zero: int) -> None:
    x, scale, count = values(5, 0.31).double(), 0.31, 12
    weights = torch.randn(40, dtype=torch.float64)
    leaf, step = x.float().requires_grad_(), torch.tensor(scale, requires_grad=True)
    (learned_step(leaf, step, torch.tensor(zero), low, high, count) * weights).sum().backward()
    assert leaf.grad is not None and step.grad is not None
    expected = (slope(x, scale, low, high, zero) * weights).sum() / (count * max(1, high - zero)) ** 0.5
    assert float(step.grad) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
    inside = (x / scale > low - zero) & (x / scale < high - zero)
    assert bool((~inside).any())
    torch.testing.assert_close(leaf.grad.double(), weights * inside)


def test_each_channel_has_the_gradient_of_its_own_step() -> None:
    x = torch.randn(3, 20)
    whole = torch.tensor([[0.1], [0.2], [0.05]], requires_grad=True)
    learned_step(x, whole, torch.tensor(0), -7, 7, 20).square().sum().backward()
    assert whole.grad is not None
    for row, step, gradient in zip(x, whole.detach(), whole.grad, strict=True):
        alone = step.clone().requires_grad_()
        learned_step(row, alone, torch.tensor(0), -7, 7, 20).square().sum().backward()
        assert alone.grad is not None and torch.equal(alone.grad, gradient)


def test_a_step_that_is_trained_comes_to_the_least_error() -> None:
    """On a Gaussian at 4 bits the error is least near 2.55 / 7.5 deviations (Banner et al. 2019); it starts at 1."""
    x, step = torch.randn(5000), torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.Adam([step], 5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        (learned_step(x, step, torch.tensor(0), -7, 7, x.numel()) - x).square().mean().backward()
        optimizer.step()
    assert float(step.detach()) == pytest.approx(0.34, rel=0.1)


def test_what_comes_in_half_precision_goes_out_in_it() -> None:
    x = torch.randn(50).bfloat16().requires_grad_()
    step = torch.tensor(0.01, requires_grad=True)
    quantized = learned_step(x, step, torch.tensor(0), -128, 127, 50)
    assert quantized.dtype == torch.bfloat16
    quantized.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert step.grad is not None and step.grad.dtype == torch.float32


@pytest.mark.parametrize(("low", "high", "count"), [(7, 7, 10), (0, 255, 0)])
def test_what_is_wrong_is_said_in_one_line(low: int, high: int, count: int) -> None:
    with pytest.raises(UsageError, match=f"a grid from {low} to {high} with {count} values is empty") as raised:
        learned_step(torch.ones(3), torch.ones(()), torch.tensor(0), low, high, count)
    assert "\n" not in str(raised.value)
