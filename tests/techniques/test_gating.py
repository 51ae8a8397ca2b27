"""Laws of gated channels: how many are live, what stays the same with all, and what learns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from gating import Gated, kept, price, strongest


def layer(channels: int = 6) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution with a BatchNorm that has scales of either sign, one of them zero."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1.5, channels))
        norm.weight[1] = 0
        norm.bias.normal_()
        norm.running_mean.normal_()  # type: ignore[union-attr]
    return conv.eval(), norm.eval()


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99), st.data())
def test_exactly_so_many_channels_are_live_and_none_that_is_off_is_larger(
    n: int, channels: int, seed: int, data
) -> None:
    count = data.draw(st.integers(1, channels))
    saliency = 0.1 + torch.rand(n, channels, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    kept = strongest(saliency, count)
    live = kept != 0
    assert live.sum(1).tolist() == [count] * n
    torch.testing.assert_close(kept[live], saliency[live])
    off = saliency.masked_fill(live, -1).amax(1)
    assert bool((off <= saliency.masked_fill(~live, 9).amin(1)).all())


def test_with_all_channels_the_layer_is_what_it_was() -> None:
    conv, norm = layer()
    x = torch.randn(4, 3, 8, 8)
    before = norm(conv(x)).detach()
    torch.testing.assert_close(Gated(conv, norm, 6).eval()(x), before, rtol=1e-4, atol=1e-4)


def test_with_fewer_whole_channels_are_zero_by_sample_and_the_others_what_they_were() -> None:
    conv, norm = layer()
    gated = Gated(conv, norm, 2).eval()
    with torch.no_grad():
        gated.saliency.weight.normal_()
        gated.saliency.bias.fill_(20)  # every saliency is above zero
        gated.norm.bias.fill_(0.5)  # no channel is zero by itself
    x = torch.randn(32, 3, 8, 8) * 3 * torch.rand(32, 3, 1, 1)
    output = gated(x)
    live = output.flatten(2).abs().amax(2) > 0
    assert live.sum(1).tolist() == [2] * 32
    assert len(live.unique(dim=0)) > 1  # which ones depends on the sample
    gated.count = 6
    torch.testing.assert_close(gated(x)[live], output[live])


def test_what_is_kept_learns_and_what_is_not_does_not() -> None:
    saliency = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    (strongest(saliency, 2) * torch.tensor([5.0, 7.0, 9.0])).sum().backward()
    assert saliency.grad is not None and saliency.grad.tolist() == [[5.0, 0.0, 9.0]]
    conv, norm = layer()
    gated = Gated(conv, norm, 3).train()
    (gated(torch.randn(4, 3, 8, 8)).square().mean() + price(gated, 0.1)).backward()
    for part in (gated.saliency.weight, gated.saliency.bias, conv.weight, norm.bias):
        assert part.grad is not None and float(part.grad.abs().sum()) > 0


def test_the_price_is_that_of_all_saliencies() -> None:
    gates = [Gated(*layer(), 3).train(), Gated(*layer(), 6).train()]
    x = torch.randn(4, 3, 8, 8)
    for gate in gates:
        gate(x)
    sizes: Tensor = layer()[1].weight.detach().abs().clamp(min=1e-4)
    assert float(price(nn.ModuleList(gates), 0.5)) == pytest.approx(0.5 * 2 * float(sizes.sum()))
    assert [kept(6, density) for density in (1.0, 0.5, 0.3, 0.01)] == [6, 3, 2, 1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: strongest(torch.ones(2, 3), 4), "4 channels of saliencies"),
        (lambda: strongest(torch.ones(2, 3), 0), "0 channels of saliencies"),
        (lambda: Gated(*layer(), 7), "7 of 6 channels"),
        (lambda: Gated(layer()[0], nn.BatchNorm2d(5), 2), "no scale for each channel"),
        (lambda: Gated(layer()[0], nn.BatchNorm2d(6, affine=False), 2), "no scale for each channel"),
        (lambda: price(nn.Linear(2, 2)), "no gated layer"),
        (lambda: kept(6, 0.0), "density of 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()
