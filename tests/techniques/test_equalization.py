"""Laws of cross-layer equalization: the same function, equal ranges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.equalization import equalize, equalize_all, input_ranges, output_ranges, scales

PAIRS = {
    "convolutions": (lambda: nn.Conv2d(3, 12, 3), nn.ReLU(), lambda: nn.Conv2d(12, 5, 3), (3, 9, 9)),
    "a depthwise second": (lambda: nn.Conv2d(3, 12, 1), nn.ReLU(), lambda: nn.Conv2d(12, 12, 3, groups=12), (3, 9, 9)),
    "a multiplied second": (lambda: nn.Conv2d(3, 4, 1), nn.ReLU(), lambda: nn.Conv2d(4, 8, 3, groups=4), (3, 9, 9)),
    "groups": (lambda: nn.Conv2d(4, 8, 1, groups=2), nn.LeakyReLU(), lambda: nn.Conv2d(8, 6, 3, groups=2), (4, 9, 9)),
    "a linear second": (
        lambda: nn.Conv2d(3, 6, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        lambda: nn.Linear(54, 7), (3, 8, 8),
    ),
    "linear layers": (lambda: nn.Linear(10, 20, bias=False), nn.ReLU(), lambda: nn.Linear(20, 4), (10,)),
    "signals": (lambda: nn.Conv1d(2, 6, 3), nn.Identity(), lambda: nn.Conv1d(6, 3, 3), (2, 20)),
    "channels last": (
        lambda: nn.Conv2d(3, 12, 3).to(memory_format=torch.channels_last), nn.ReLU(),  # type: ignore[call-overload]
        lambda: nn.Conv2d(12, 5, 3).to(memory_format=torch.channels_last), (3, 9, 9),  # type: ignore[call-overload]
    ),
}  # fmt: skip


def made(name: str, seed: int) -> tuple[nn.Module, nn.Module, nn.Module, Tensor]:
    """A pair whose channels differ in range by orders of magnitude, what is between, and inputs."""
    torch.manual_seed(seed)
    first, between, second, shape = PAIRS[name]
    left, right = first(), second()
    with torch.no_grad():
        sizes = torch.exp(2 * torch.randn(len(left.weight)))
        left.weight.mul_(sizes.reshape(-1, *[1] * (left.weight.dim() - 1)))
    return left, between, right, torch.randn(4, *shape)


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_the_function_stays_and_the_ranges_are_equal(name: str, seed: int) -> None:
    first, between, second, x = made(name, seed)
    before = second(between(first(x)))
    ranges = output_ranges(first), input_ranges(second, len(first.weight))  # type: ignore[arg-type]
    scales = equalize(first, second)
    after = second(between(first(x)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    now = output_ranges(first), input_ranges(second, len(scales))
    torch.testing.assert_close(now[0], now[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(now[0], (ranges[0] * ranges[1]).sqrt(), rtol=1e-4, atol=0)
    assert not torch.allclose(ranges[0], ranges[1], rtol=0.1)


@torch.no_grad()
def test_chains_settle_with_all_ranges_equal() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)]
    x = torch.randn(2, 3, 9, 9)
    layers[1].weight.mul_(torch.exp(2 * torch.randn(16, 1, 1, 1)))

    def run() -> Tensor:
        return layers[2](layers[1](layers[0](x).relu()).relu())

    before = run()
    pairs = [(layers[0], layers[1]), (layers[1], layers[2])]
    assert 0 < equalize_all(pairs) < 20
    torch.testing.assert_close(run(), before, rtol=1e-4, atol=1e-5)
    for first, second in pairs:
        torch.testing.assert_close(output_ranges(first), input_ranges(second, 16), rtol=2e-3, atol=0)
    assert equalize_all(pairs) == 0
    assert equalize_all([]) == 0


@torch.no_grad()
def test_channels_that_are_zero_are_left_alone() -> None:
    first, between, second, x = made("convolutions", 3)
    first.weight[2], second.weight[:, 5] = 0.0, 0.0  # type: ignore[index,operator]
    before = second(between(first(x)))
    scales = equalize(first, second)
    assert scales[[2, 5]].tolist() == [1.0, 1.0]
    assert torch.isfinite(scales).all()
    torch.testing.assert_close(second(between(first(x))), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (nn.Conv2d(3, 8, 1), nn.Conv2d(9, 4, 1), "makes 8 channels, the second reads 9"),
        (nn.Conv2d(3, 8, 1), nn.Linear(20, 4), "makes 8 channels, the second reads 20"),
        (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), "BatchNorm2d has no channels to equalize"),
        (nn.ReLU(), nn.Linear(8, 4), "ReLU has no channels to equalize"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(first: nn.Module, second: nn.Module, message: str) -> None:
    for call in (scales, equalize):
        with pytest.raises(UsageError, match=message) as raised:
            call(first, second)
        assert "\n" not in str(raised.value)
