"""Laws of weights in closed form: never worse than those that were there, and equal to brute force."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.importance import hessian
from edgesdk.techniques.reconstruction import (
    Moments,
    least_squares,
    output_rows,
    removed,
    weight_rows,
    window_rows,
)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def moments(x: Tensor, y: Tensor) -> Moments:
    total = Moments.empty(len(x), x.shape[2], y.shape[2])
    total.add(x, y)
    return total


@given(
    groups=st.integers(1, 3), rows=st.integers(1, 12), inputs=st.integers(1, 6), outputs=st.integers(1, 4),
    damping=st.sampled_from([1e-6, 1e-2, 10.0]), biased=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_fit_is_never_worse_on_its_data_and_is_the_brute_force_minimum(
    groups: int, rows: int, inputs: int, outputs: int, damping: float, biased: bool, seed: int
) -> None:
    x, y = random(seed, groups, rows, inputs) + 1, random(seed + 1, groups, rows, outputs)
    weight = random(seed + 2, groups, outputs, inputs)
    bias = random(seed + 3, groups, outputs) if biased else None
    statistics = moments(x, y)
    refitted, offset = least_squares(statistics, weight, bias, damping)
    before, after = statistics.error(weight, bias), statistics.error(refitted, offset)
    assert bool((after <= before * (1 + 1e-9) + 1e-9).all())
    xx = statistics.centred[0] if biased else statistics.xx
    mean = xx.diagonal(dim1=1, dim2=2).mean(1)
    step = torch.where(mean > 0, damping * mean, 1.0)
    for g in range(groups):
        # Rows for the penalty: sqrt(lambda) W' = sqrt(lambda) W; a bias is a column of ones that none penalises.
        root = step[g].sqrt() * torch.eye(inputs)
        columns = torch.cat([x[g], root])
        wanted = torch.cat([y[g], step[g].sqrt() * weight[g].T])
        if biased:
            columns = torch.cat([columns, torch.cat([torch.ones(rows, 1), torch.zeros(inputs, 1)])], 1)
        brute = torch.linalg.lstsq(columns.double(), wanted).solution
        torch.testing.assert_close(refitted[g], brute[:inputs].T, rtol=1e-4, atol=1e-5)
        if offset is not None:
            torch.testing.assert_close(offset[g], brute[inputs], rtol=1e-4, atol=1e-5)


def test_moments_of_batches_add_up_and_give_the_error_itself() -> None:
    x, y, weight, bias = random(0, 2, 30, 5), random(1, 2, 30, 3), random(2, 2, 3, 5), random(3, 2, 3)
    whole, parts, rest = moments(x, y), moments(x[:, :11], y[:, :11]), moments(x[:, 25:], y[:, 25:])
    parts.add(x[:, 11:25], y[:, 11:25])
    torch.testing.assert_close(parts.plus(rest).error(weight, bias), whole.error(weight, bias))
    direct = (y - x @ weight.transpose(1, 2) - bias[:, None]).square().sum(1)
    torch.testing.assert_close(whole.error(weight, bias), direct)
    direct = (y - x @ weight.transpose(1, 2)).square().sum(1)
    torch.testing.assert_close(whole.error(weight), direct)


def test_inputs_that_are_all_zero_leave_the_weight() -> None:
    weight, y = random(0, 1, 2, 3), random(1, 1, 8, 2)
    refitted, bias = least_squares(moments(torch.zeros(1, 8, 3), y), weight, torch.zeros(1, 2))
    torch.testing.assert_close(refitted, weight)
    torch.testing.assert_close(bias, y.mean(1), check_dtype=False)


LAYERS = [
    (nn.Linear(6, 4), (6,)),
    (nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Conv1d(6, 4, 5, 2, 2), (6, 11)),
    (nn.Conv2d(6, 4, 3, 1, 1), (6, 7, 8)),
    (nn.Conv2d(6, 4, (3, 1), (2, 1), (0, 1), (2, 3), bias=False), (6, 9, 8)),
    (nn.Conv2d(6, 9, 3, groups=3), (6, 7, 7)),
    (nn.Conv2d(6, 6, 3, 2, 1, groups=6), (6, 7, 7)),
    (nn.Conv2d(6, 12, 3, padding="same", groups=6), (6, 7, 7)),
    (nn.Conv2d(6, 4, 4, padding="same", padding_mode="reflect"), (6, 7, 7)),
    (nn.Conv3d(2, 4, 3, 1, 1), (2, 4, 5, 4)),
    (nn.ConvTranspose1d(6, 4, 4, 2, 1), (6, 7)),
    (nn.ConvTranspose2d(6, 4, 2, 2, bias=False), (6, 4, 5)),
    (nn.ConvTranspose2d(6, 4, (3, 2), (2, 3), (2, 0), (1, 2), dilation=(2, 1)), (6, 4, 5)),
    (nn.ConvTranspose2d(6, 9, 3, 2, 3, groups=3), (6, 5, 5)),
    (nn.ConvTranspose2d(6, 6, 1, 2, groups=6), (6, 3, 4)),
    (nn.ConvTranspose3d(2, 4, 3, 2, 1, 1), (2, 3, 2, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_rows_times_the_weight_are_the_layers_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer, x = layer.double(), random(0, 3, *shape)
    with torch.no_grad():
        y = layer(x)
        signals = isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
        after = y.dim() - 2 if y.dim() > 3 or signals else 0  # dimensions after the channels
        bias = dict(layer.named_parameters()).get("bias", torch.zeros(()))
        plain = y - bias.reshape(-1, *[1] * after)
    places = y[0, 0].numel() if not isinstance(layer, nn.Linear) else y[0, ..., 0].numel()
    for positions in (None, torch.tensor([places - 1, 0])):
        result = window_rows(layer, x, positions) @ weight_rows(layer).transpose(1, 2)
        torch.testing.assert_close(result, output_rows(layer, plain, positions))


def test_a_convolution_whose_input_lost_channels_is_fitted_through_its_windows() -> None:
    layer, x = nn.Conv2d(8, 5, 3, 1, 1).double(), random(0, 6, 8, 9, 9)
    x[:, 1] = 0.5 * x[:, 0] - x[:, 2]  # a channel that two others tell
    with torch.no_grad():
        y = layer(x)
        small = nn.Conv2d(7, 5, 3, 1, 1).double()
        stay = [0, 2, 3, 4, 5, 6, 7]
        small.weight.copy_(layer.weight[:, stay])
        assert small.bias is not None and layer.bias is not None
        small.bias.copy_(layer.bias)
        statistics = moments(window_rows(small, x[:, stay]), output_rows(small, y))
        plain = float((small(x[:, stay]) - y).square().sum())
        weight, bias = least_squares(statistics, weight_rows(small), small.bias[None], 1e-6)
        small.weight.copy_(weight.reshape(small.weight.shape))
        assert bias is not None
        small.bias.copy_(bias[0])
        assert float((small(x[:, stay]) - y).square().sum()) < 1e-6 * plain


@given(
    channels=st.integers(2, 6), entries=st.integers(1, 3), outputs=st.integers(1, 4), seed=st.integers(0, 99),
    data=st.data(),
)  # fmt: skip
def test_structured_removal_is_the_least_squares_weight_and_never_above_plain_removal(
    channels: int, entries: int, outputs: int, seed: int, data: st.DataObject
) -> None:
    count, k, damping = data.draw(st.integers(0, channels - 1)), channels * entries, 1e-3
    weight, x = random(seed, outputs, k), random(seed + 1, k, 3 * k)
    x = x + x.mean(0)  # channels that tell of each other
    moment = x @ x.T
    kept = removed(weight, moment, count, entries, damping)
    assert len(set(kept.channels)) == count
    gone = [c * entries + i for c in kept.channels for i in range(entries)]
    stay = [c for c in range(k) if c not in gone]
    assert bool((kept.weight[:, gone] == 0).all())
    full = moment + damping * moment.diagonal().mean() * torch.eye(k)
    brute = torch.zeros_like(weight)
    brute[:, stay] = torch.linalg.solve(full[stay][:, stay], (weight @ full)[:, stay].T).T
    torch.testing.assert_close(kept.weight, brute, rtol=1e-5, atol=1e-6)
    plain = weight.clone()
    plain[:, gone] = 0

    def loss(w: Tensor) -> float:
        return float(((weight - w) @ full * (weight - w)).sum())

    assert loss(kept.weight) <= loss(plain) * (1 + 1e-9) + 1e-9
    if count:
        assert kept.channels[0] == int(hessian(weight, moment, entries, damping).argmin())


def test_removal_takes_the_channel_that_others_can_stand_for() -> None:
    x = random(0, 4, 100)
    x[2] = x[0] + 0.01 * x[2]
    weight = torch.tensor([[1.0, 0.3, 5.0, 0.4]]).double()  # the heaviest weight is on the redundant channel
    kept = removed(weight, x @ x.T, 1, damping=1e-6)
    assert kept.channels[0] in (0, 2)
    assert float((weight @ x - kept.weight @ x).norm()) < 0.02 * float((weight @ x).norm())


KNOWN = moments(torch.ones(1, 4, 3), torch.ones(1, 4, 2))
BAD = [
    (lambda: Moments.empty(1, 3, 2).add(torch.ones(1, 4, 2), torch.ones(1, 4, 2)), "do not fit moments"),
    (lambda: Moments.empty(1, 3, 2).add(torch.ones(1, 4, 3), torch.ones(1, 5, 2)), "do not fit moments"),
    (lambda: Moments.empty(2, 3, 2).add(torch.ones(1, 4, 3), torch.ones(1, 4, 2)), "do not fit moments"),
    (lambda: Moments.empty(1, 3, 2).add(torch.full((1, 4, 3), float("nan")), torch.ones(1, 4, 2)), "not finite"),
    (lambda: least_squares(KNOWN, torch.ones(1, 2, 4)), "a weight of shape"),
    (lambda: least_squares(KNOWN, torch.ones(1, 2, 3), torch.ones(1, 3)), "and a bias of"),
    (lambda: least_squares(KNOWN, torch.ones(1, 2, 3), damping=-1.0), "not above zero"),
    (lambda: least_squares(Moments.empty(1, 3, 2), torch.ones(1, 2, 3)), "no rows to fit"),
    (lambda: KNOWN.error(torch.ones(2, 3)), "does not fit moments"),
    (lambda: removed(torch.ones(2, 4), torch.eye(4), 4), "4 of 4 channels cannot be removed"),
    (lambda: removed(torch.ones(2, 4), torch.eye(4), -1), "-1 of 4 channels cannot be removed"),
    (lambda: removed(torch.ones(2, 4), torch.eye(4), 1, entries=3), "4 columns are not a number of channels"),
    (lambda: removed(torch.ones(2, 4), torch.eye(5), 1), "do not fit a weight"),
    (lambda: removed(torch.ones(2, 4), torch.eye(4), 1, damping=0.0), "not above zero"),
    (lambda: window_rows(nn.Bilinear(3, 3, 3), torch.ones(1, 3, 5, 5)), "has no weights to fit"),
    (lambda: weight_rows(nn.Embedding(3, 3)), "has no weights to fit"),
]


@pytest.mark.parametrize(("call", "fact"), BAD)
def test_bad_input_is_refused_on_one_line(call: Callable[[], object], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as raised:
        call()
    assert "\n" not in str(raised.value)
