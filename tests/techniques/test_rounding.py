"""Laws of adaptive rounding: on the grid, next to the weight, never worse than the nearest, near the best there is."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.reconstruction import Moments, output_rows, weight_rows, window_rows
from edgesdk.techniques.rounding import adaround, nearest


def correlated(rows: int, inputs: int, seed: int = 0) -> Tensor:
    """Inputs (1, rows, inputs) that are not negative and go together, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    shared, own = (torch.randn(1, rows, size, generator=generator) for size in (1, inputs))
    return (2 * shared + own + 2).relu()


def measured(x: Tensor, y: Tensor) -> Moments:
    total = Moments.empty(len(x), x.shape[2], y.shape[2])
    total.add(x, y)
    return total


def problem(seed: int, bits: int, inputs: int = 12, outputs: int = 6) -> tuple[Tensor, Tensor, int, Moments]:
    """A weight (1, outputs, inputs), its scale, its limit and the moments of what it reads and makes."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, outputs, inputs, generator=generator)
    limit = 2 ** (bits - 1) - 1
    x = correlated(200, inputs, seed)
    return weight, weight.abs().amax(2, keepdim=True) / limit, limit, measured(x, x @ weight.mT)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), bits=st.sampled_from([2, 4, 8]), steps=st.sampled_from([0, 40]))
def test_it_is_on_the_grid_and_never_worse_than_the_nearest(seed: int, bits: int, steps: int) -> None:
    weight, scale, limit, moments = problem(seed, bits)
    rounded, plain = adaround(weight, scale, limit, moments, steps=steps), nearest(weight, scale, limit)
    assert bool((moments.error(rounded) <= moments.error(plain)).all())
    integers = (rounded / scale).round()
    assert torch.equal(integers * scale, rounded)
    assert float(integers.abs().max()) <= limit
    assert float((rounded - weight).abs().div(scale).max()) <= 1 + 1e-4  # one up or one down, no farther


def test_it_comes_near_the_best_of_all_roundings() -> None:
    weight, scale, limit, moments = problem(3, 4, inputs=10, outputs=5)
    error = moments.error(adaround(weight, scale, limit, moments))[0]
    plain = moments.error(nearest(weight, scale, limit))[0]
    floor = (weight / scale).floor()
    every = [((floor + torch.tensor(up)).clamp(-limit, limit)) * scale for up in product([0.0, 1.0], repeat=10)]
    best = torch.stack([moments.error(each)[0] for each in every]).amin(0)
    assert bool((error >= best - 1e-9).all())
    assert float(error.sum()) < 0.5 * float(plain.sum())
    assert float(error.sum() - best.sum()) < 0.1 * float(plain.sum() - best.sum())


def test_inputs_that_do_not_go_together_want_the_nearest() -> None:
    weight, scale, limit, _ = problem(2, 4)
    x = torch.eye(12)[None]  # each input by itself: the error is that of each weight
    rounded = adaround(weight, scale, limit, measured(x, x @ weight.mT), steps=200)
    assert torch.equal(rounded, nearest(weight, scale, limit))


def test_a_weight_that_is_on_the_grid_stays() -> None:
    weight, scale, limit, moments = problem(3, 4)
    plain = nearest(weight, scale, limit)
    x = correlated(200, 12, 3)
    assert torch.equal(adaround(plain, scale, limit, measured(x, x @ plain.mT), steps=50), plain)
    assert not torch.equal(adaround(weight, scale, limit, moments, steps=200), plain)


LAYERS = {
    "linear": (lambda: nn.Linear(12, 5), (40, 12)),
    "convolution": (lambda: nn.Conv2d(3, 6, 3, padding=1), (4, 3, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (4, 6, 8, 8)),
    "groups": (lambda: nn.Conv1d(4, 8, 3, stride=2, groups=2), (10, 4, 20)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_outputs_err_less_for_it(name: str) -> None:
    """With inputs that are off, as those of quantized layers are, and the float layer's outputs as what is wanted."""
    make, shape = LAYERS[name]
    layer = make()
    x = torch.rand(shape) + 0.5
    off = (x * 8).round() / 8
    wanted = layer(x)
    weight, bias = weight_rows(layer), layer.bias.detach()
    moments = Moments.empty(len(weight), weight.shape[2], weight.shape[1])
    moments.add(window_rows(layer, off), output_rows(layer, wanted))
    scale = weight.abs().amax(2, keepdim=True) / 7
    errors = []
    for rounded in (
        adaround(weight, scale, 7, moments, bias.reshape(weight.shape[:2]), 200),
        nearest(weight, scale, 7),
    ):
        layer.weight.copy_(rounded.reshape(layer.weight.shape))
        errors.append(float((layer(off) - wanted).square().sum()))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, s, m: adaround(w, s, 0, m), "a grid up to 0"),
        (lambda w, s, m: adaround(w, s, 7, m, steps=-1), "-1 steps of learning"),
        (lambda w, s, m: adaround(w, 0 * s, 7, m), "is not positive for each output"),
        (lambda w, s, m: adaround(w, s[..., 0], 7, m), r"a scale of shape \(1, 6\)"),
        (lambda w, s, m: adaround(w[:, :3], s[:, :3], 7, m), "does not fit moments"),
        (lambda w, s, m: adaround(w, s, 7, m, torch.zeros(1, 5)), "does not fit moments"),
        (lambda w, s, m: adaround(w, s, 7, Moments.empty(1, 12, 6)), "there are no rows"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message: str) -> None:
    weight, scale, _, moments = problem(0, 4)
    with pytest.raises(UsageError, match=message) as raised:
        call(weight, scale, moments)
    assert "\n" not in str(raised.value)
