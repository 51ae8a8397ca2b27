"""Channel groups of every kind of network: each cut at every width computes what is left of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import models
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from edgesdk.compress.apply import compressed
from edgesdk.core.graph import Graph, Group
from edgesdk.core.plan import Option
from edgesdk.network.network import Network
from edgesdk.network.trace import PATTERNS, TRIALS, _gone, _trials, trace
from edgesdk.price.files import weight_bytes
from edgesdk.price.operators import operators, widths
from edgesdk.price.planned import layer_parts


def unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class ResNeXt(nn.Module):
    """A residual block in many groups, and a block in few; (N, 3, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 24, 3)
        self.many = nn.Sequential(unit(24, 32), unit(32, 32, 3, groups=8), nn.Conv2d(32, 24, 1))
        self.few = nn.Sequential(unit(24, 48), unit(48, 32, 3, 2, groups=2), unit(32, 20))
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(self.few((x + self.many(x)).relu()).mean((2, 3)))


class Dense(nn.Module):
    """Layers that read all before them, as in DenseNet; (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 12, 1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
            for i in (16, 24, 32)
        )
        self.fc = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        result = [self.stem(x)]
        for layer in self.layers:
            result.append(layer(torch.cat(result, 1)))
        return self.fc(torch.cat(result, 1).relu().mean((2, 3)))


class Branches(nn.Module):
    """Branches of three widths side by side, as in GoogLeNet and SqueezeNet; (N, 3, 10, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = unit(3, 16, 3), unit(16, 8)
        self.three, self.pooled = nn.Sequential(unit(16, 8), unit(8, 16, 3)), unit(16, 8)
        self.after, self.fc = unit(32, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return self.fc(self.after(torch.cat([self.one(x), self.three(x), pooled], 1)).mean((2, 3)))


class UNet(nn.Module):
    """Two levels with skips, up by transposed convolutions; (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 16), (16, 24)))
        self.up1, self.d1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.Conv2d(32, 16, 3, padding=1)
        self.up2, self.d2 = nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(F.max_pool2d(a, 2)).relu()
        x = self.d1(torch.cat([b, self.up1(self.c(F.max_pool2d(b, 2)).relu())], 1)).relu()
        return self.out(self.d2(torch.cat([self.up2(x), a], 1)).relu())


class Squeeze(nn.Module):
    """Squeeze-and-excitation in two spellings; (N, 3, 10, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r, self.e = unit(3, 24, 3), nn.Linear(24, 8), nn.Linear(8, 24)
        self.b, self.s, self.t = nn.Conv2d(24, 16, 3), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * self.e(self.r(x.mean((2, 3))).relu()).sigmoid().view(*x.shape[:2], 1, 1)
        x = self.b(x)
        return self.fc((x * F.hardsigmoid(self.t(F.silu(self.s(F.adaptive_avg_pool2d(x, 1)))))).mean((2, 3)))


class Normed(nn.Module):
    """GroupNorm of few and of many groups, InstanceNorm, and GroupNorm as LayerNorm; (N, 3, 10, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(i, 32, 3, padding=1) for i in (3, 32, 32, 32))
        self.norms = nn.ModuleList(
            [nn.GroupNorm(4, 32), nn.GroupNorm(16, 32), nn.InstanceNorm2d(32, affine=True), nn.GroupNorm(1, 32)]
        )
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
        return self.fc(x.mean((2, 3)))


class Gated(nn.Module):
    """Gated linear units in three spellings; (N, 6, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.g = nn.Linear(16, 48), nn.Linear(24, 48), nn.Linear(24, 40), nn.Linear(24, 40)
        self.fc = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.b(F.glu(self.a(x), -1)).chunk(2, -1)
        x = left * F.gelu(right)
        return self.fc((F.silu(self.g(x)) * self.c(x)).mean(1))


class ConvNeXt(nn.Module):
    """A depthwise convolution, a LayerNorm behind a permutation, and a scale for each channel; (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 24, 4, 4), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.scale, self.fc = nn.Parameter(torch.rand(24)), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.scale * self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return self.fc((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


class ViT(nn.Module):
    """A class token, a table of positions, a block that norms before and one that norms after; (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.fc = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(32), nn.Linear(32, 5)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 5, 32))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 48, 0.0, "gelu", batch_first=True, norm_first=first)
            for first in (True, False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x)[:, 0])


class Root(nn.Module):
    """RMSNorm as a module and by hand; (N, 6, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.n, self.u, self.d = nn.Linear(16, 32), nn.RMSNorm(32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.w, self.fc = nn.Parameter(torch.rand(32)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        x = x + self.d(self.u(self.n(x)).relu())
        return self.fc((x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.w).mean(1))


class Pixels(nn.Module):
    """A pixel shuffle in between, a PReLU that is used twice; (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 12), (12, 32), (8, 8)))
        self.act, self.out = nn.PReLU(8, 0.3), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(F.pixel_shuffle(self.b(self.a(x).relu()), 2))
        return self.out(F.interpolate(self.act(self.c(x)), scale_factor=2, mode="bilinear"))


class Mixer(nn.Module):
    """Layers over tokens, which treat each channel by itself; (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.fc = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.Linear(24, 5)
        self.t1, self.t2, self.c1, self.c2 = nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.t2(F.gelu(self.t1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.fc((x + self.c2(F.gelu(self.c1(x)))).mean(1))


class Beside(nn.Module):
    """An input, and channels that are an output, joined with others; attention over space; (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(19, 6, 3, padding=1), nn.Conv2d(22, 12, 1)
        self.space, self.fc = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x).relu()
        joined = self.b(torch.cat([x, y], 1))
        y = y * self.space(torch.cat([y.mean(1, True), y.amax(1, True)], 1)).sigmoid()
        return joined, self.fc(self.c(torch.cat([y, joined], 1)).relu())


class Sigmoid(nn.Module):
    """Activations that are not zero at zero; (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.softplus(self.b(self.a(x).sigmoid())))


class Bordered(nn.Module):
    """Borders that belong to no channel: uneven zeros, a value, less than all before a pool; (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 12), (12, 16), (16, 12), (12, 20))
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 3, stride=1 + (o == 16)) for i, o in sizes)
        self.mix, self.fc = nn.Linear(20, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.pad(self.a(x).relu(), (0, 1, 0, 1)))
        x = self.c(F.pad(x, (1, 2, 0, 2), value=0.7))
        x = self.d(F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=-float("inf")), 2, 1)).relu()
        x = self.mix(F.pad(x, (1, 1, 0, 2)).mean(2).transpose(1, 2))
        return self.fc(F.pad(x, (0, 0, 1, 1)).amax(1))


class Stacked(nn.Module):
    """Branches on top of each other: their sum, the largest, and of each channel the branch that it picks;
    (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.fc = unit(3, 12, 3), nn.Linear(16, 6), nn.Linear(16, 5)
        self.first, self.second = (nn.ModuleList(unit(n, 16, k) for k in (1, 3)) for n in (12, 16))
        self.third, self.pick = (nn.ModuleList(made(n, 16) for _ in "ab") for made, n in ((unit, 16), (nn.Linear, 6)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.stack([branch(x) for branch in self.first]).sum(0)
        x = torch.stack([branch(x) for branch in self.second], -1).amax(-1)
        x = torch.stack([branch(x) for branch in self.third], 1)
        asked = self.squeeze(x.sum(1).mean((2, 3))).relu()
        picked = torch.stack([pick(asked) for pick in self.pick], 1).softmax(1)
        return self.fc((x * picked[..., None, None]).sum(1).mean((2, 3)))


class WrittenOut(nn.Module):
    """A norm over groups of channels, written out; (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).unflatten(1, (4, -1))
        x = (x - x.mean((2, 3, 4), keepdim=True)) / (x.var((2, 3, 4), keepdim=True) + 1e-5).sqrt()
        return self.fc(self.last(x.flatten(1, 2).relu()).mean((2, 3)))


class Scored(nn.Module):
    """Steps weighted by a score each, as attention pooling and attention over a graph's nodes are; (N, 6, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = nn.Linear(16, 24), nn.Linear(24, 1), nn.Linear(24, 1)
        self.b, self.score, self.fc = nn.Linear(24, 20), nn.Linear(20, 1), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = F.elu(F.leaky_relu(self.left(x) + self.right(x).mT, 0.2).softmax(-1) @ x)
        x = torch.tanh(self.b(x))
        return self.fc(torch.bmm(self.score(x).softmax(1).mT, x).squeeze(1))


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "resnext": (ResNeXt, (3, 12, 12), 1.0), "dense": (Dense, (3, 8, 8), 1.0), "branches": (Branches, (3, 10, 10), 1.0),
    "unet": (UNet, (3, 16, 16), 1.0), "squeeze": (Squeeze, (3, 10, 10), 1.0), "normed": (Normed, (3, 10, 10), 1.0),
    "gated": (Gated, (6, 16), 1.0), "convnext": (ConvNeXt, (3, 16, 16), 1.0), "vit": (ViT, (3, 16, 16), 1.0),
    "root": (Root, (6, 16), 1.0), "pixels": (Pixels, (1, 8, 8), 1.0), "sigmoid": (Sigmoid, (8,), 1.0),
    "mixer": (Mixer, (3, 16, 16), 0.7), "beside": (Beside, (3, 8, 8), 0.9),
    "bordered": (Bordered, (3, 8, 8), 1.0), "stacked": (Stacked, (3, 8, 8), 1.0),
    "written out": (WrittenOut, (3, 8, 8), 1.0), "scored": (Scored, (6, 16), 0.9),
}  # fmt: skip
"""Networks, the shape of a sample, and the share of MACs in layers that can be cut on one side at least."""


@cache
def made(name: str) -> tuple[nn.Module, Network, Tensor]:
    """A model with weights and statistics that leave no channel like another, its network, and inputs."""
    torch.manual_seed(3)
    make, shape, _ = ZOO[name]
    model, x = make().eval(), torch.randn(3, *shape)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.get_buffer("running_mean").uniform_(-0.3, 0.3)
                part.get_buffer("running_var").uniform_(0.5, 1.5)
            if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)):
                for value, ends in zip(part.parameters(), ((0.5, 1.5), (-0.3, 0.3)), strict=False):  # weight, bias
                    value.uniform_(*ends)
    return model, trace(model, x), x


def share_that_can_be_cut(graph: Graph) -> float:
    """Of all MACs those in layers whose input or output channels can be cut."""
    return sum(n.macs for n in graph.layers if n.reads or n.writes) / sum(n.macs for n in graph.layers)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_nearly_all_can_be_cut(name: str) -> None:
    _, network, _ = made(name)
    reasons = {group.name: group.fixed for group in network.graph.groups if group.fixed}
    assert share_that_can_be_cut(network.graph) >= ZOO[name][2], reasons
    assert set(reasons.values()) <= {"its channels are the network's output", "it meets several of them"}


def kept_of(whole: Tensor, small: Tensor) -> list[Tensor]:
    """Which indices on each axis of a weight are left in ``small``, read off its values, nearly all of them different.

    Of a grouped convolution the columns are the layer's, not the group's.
    """
    order = whole.flatten().argsort()
    place = order[torch.searchsorted(whole.flatten()[order], small.flatten())]
    assert torch.equal(whole.flatten()[place].reshape(small.shape), small)
    indices = [axis.reshape(small.shape) for axis in torch.unravel_index(place, whole.shape)]
    return [axis.movedim(index, 0).reshape(axis.shape[index], -1).mode(1).values for index, axis in enumerate(indices)]


def columns_of(part: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, small: Tensor) -> Tensor:
    """Which input channels of a layer a weight that is left of it reads."""
    weight = part.weight.detach()
    if isinstance(part, (nn.Linear, nn.ConvTranspose2d)) or part.groups == 1:
        return kept_of(weight, small)[0 if isinstance(part, nn.ConvTranspose2d) else 1]
    each = len(weight) // part.groups
    columns = []
    for row, expected in zip(kept_of(weight, small)[0].tolist(), small, strict=True):
        columns.append(kept_of(weight[row : row + 1], expected[None])[1] + row // each * weight.shape[1])
    return torch.cat(columns).unique()


def expected(model: nn.Module, small: Network, x: Tensor) -> Any:
    """What the user's own module computes when each of its layers reads zeros where ``small`` reads nothing.

    What that is is read off the weights of ``small`` alone; norms are of the channels that they have left.
    """
    weights = dict(small.module.named_parameters())
    handles = []
    for path, part in model.named_modules():
        if f"{path}.weight" not in weights:
            continue
        left = weights[f"{path}.weight"].detach()
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            handles.append(part.register_forward_hook(partial(normed, kept_of(part.weight.detach(), left)[0])))
        elif isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            size = part.in_features if isinstance(part, nn.Linear) else part.in_channels
            stay = torch.zeros(size).index_fill(0, columns_of(part, left), 1)
            handles.append(part.register_forward_pre_hook(partial(zeroed, stay)))
    try:
        with torch.no_grad():
            return model(x)
    finally:
        for handle in handles:
            handle.remove()


def zeroed(stay: Tensor, part: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0] * (stay if isinstance(part, nn.Linear) else stay.reshape(-1, 1, 1)),)


def normed(left: Tensor, part: nn.LayerNorm | nn.GroupNorm, given: tuple[Tensor], whole: Tensor) -> Tensor:
    """What a norm makes of the channels ``left``, from their own mean and variance."""
    (x,) = given
    if isinstance(part, nn.LayerNorm):
        own = x[..., left]
        own = (own - own.mean(-1, keepdim=True)) / (own.var(-1, unbiased=False, keepdim=True) + part.eps).sqrt()
        return torch.zeros_like(whole).index_copy(-1, left, own * part.weight[left] + part.bias[left])
    of = left // (part.num_channels // part.num_groups)
    result = torch.zeros_like(whole)
    for group in of.unique():
        mine = left[of == group]
        own = x[:, mine]
        mean, variance = own.mean((1, 2, 3), keepdim=True), own.var((1, 2, 3), unbiased=False, keepdim=True)
        shape = (-1, 1, 1)
        result[:, mine] = (own - mean) / (variance + part.eps).sqrt() * part.weight[mine].reshape(shape)
        result[:, mine] += part.bias[mine].reshape(shape)
    return result


BY_HAND = [
    name for name in ZOO if name not in ("vit", "root", "beside", "written out")
]  # which attend and average without modules


@pytest.mark.parametrize("name", BY_HAND)
def test_a_cut_is_what_the_users_module_computes_without_those_channels(name: str) -> None:
    """Each group alone at every width, and all of them at once."""
    model, network, x = made(name)
    free = [group for group in network.graph.groups if group.fixed is None]
    plans = [{g.name: kept} for g in free for kept in widths(g.size, g.step)[:-1]]
    for turn in (0, 3):
        counts = {group.name: widths(group.size, group.step)[:-1] for group in free}
        plans.append({name: some[turn % len(some)] for name, some in counts.items() if some})
    for turn, kept in enumerate(plans):
        generator = torch.Generator().manual_seed(turn)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
        small, _ = compressed(network, models.plan(network, kept), x, scores)
        with torch.no_grad():
            result = small(x)
        wanted = expected(model, small, x)
        for actual, value in zip(tree_leaves(result), tree_leaves(wanted), strict=True):
            close(actual, value)
    with torch.no_grad():
        assert not torch.allclose(tree_leaves(result)[-1], tree_leaves(model(x))[-1], rtol=1e-2)


class Averaged(nn.Module):
    """Two branches, one of which is read for nothing but an average over all channels of both; (N, 3, 6, 6)."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.fc = (
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        )  # fmt: skip
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        a, b = self.a(x), self.b(x)
        gate = torch.stack([a, b], 1).mean(self.axes, keepdim=True)[:, 0].sigmoid()
        return self.fc((a * gate).mean((2, 3)))


@pytest.mark.parametrize("axes", [(1, 2), (2,), (1, 2, 3, 4)])
def test_channels_of_stacked_layers_that_are_averaged_stay(axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Averaged(axes).eval(), torch.randn(2, 3, 6, 6)
    network = trace(model, x)
    reasons = {group.name: group.fixed for group in network.graph.groups}
    assert reasons.pop("stem") is None
    assert reasons.keys() >= {"a", "b"} and all("stacked" in str(reasons[name]) for name in "ab")
    small, _ = compressed(network, models.plan(network, {"stem": 4}), x, {"stem": torch.rand(8)})
    with torch.no_grad():
        close(small(x), expected(model, small, x))


class Drawn(nn.Module):
    """Steps that were drawn, each from tensors shortly before it; (N, 3, 6, 6)."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps, sizes = steps, [8]
        self.stem, self.parts = nn.Conv2d(3, 8, 1), nn.ModuleDict()
        for index, (kind, left, right) in enumerate(steps):
            i, j = sizes[-1 - left % len(sizes)], sizes[-1 - right % len(sizes)]
            made = {"conv": 4 * (1 + right % 4), "cat": i + j, "half": i // 2, "shuffled": i}.get(kind, i)
            if kind in ("conv", "add", "grouped", "depthwise"):  # what is added is first brought to the same width
                groups = {"grouped": 2, "depthwise": i}.get(kind, 1)
                inputs = j if kind == "add" else i
                kernel = 3 if kind == "depthwise" else 1
                convolution = nn.Conv2d(inputs, made, kernel, padding=kernel // 2, groups=groups)
                self.parts[str(index)] = nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU())
            sizes.append(made)
        self.fc = nn.Linear(sizes[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        result = [self.stem(x)]
        for index, (kind, left, right) in enumerate(self.steps):
            x, y = result[-1 - left % len(result)], result[-1 - right % len(result)]
            n, c, h, w = x.shape
            if kind == "cat":
                x = torch.cat([x, y], 1)
            elif kind == "half":
                x = x.chunk(2, 1)[right % 2]
            elif kind == "shuffled":
                x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            else:
                x = x + self.parts[str(index)](y) if kind == "add" else self.parts[str(index)](x)
            result.append(x)
        return self.fc(result[-1].mean((2, 3)))


KINDS = ("conv", "add", "cat", "half", "shuffled", "grouped", "depthwise")


@settings(max_examples=10)
@given(
    steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 7)), min_size=2, max_size=7),
    seed=st.integers(0, 99),
)
def test_of_any_network_what_is_cut_is_what_the_module_computes_without_it(steps, seed: int) -> None:
    """Every group that is not left whole, all at once, at widths drawn at random."""
    torch.manual_seed(seed)
    assume([kind for kind, *_ in steps].count("half") < 2)  # halves of halves would come to odd numbers
    model, x = Drawn(steps).eval(), torch.randn(2, 3, 6, 6)
    network = trace(model, x)
    free = [group for group in network.graph.groups if group.fixed is None]
    kept = {group.name: widths(group.size, group.step)[seed % len(widths(group.size, group.step))] for group in free}
    scores = {group.name: torch.rand(group.size) for group in free}
    small, _ = compressed(network, models.plan(network, kept), x, scores)
    with torch.no_grad():
        close(small(x), expected(model, small, x))


@pytest.mark.parametrize("name", ZOO)
def test_layers_of_a_network_that_was_cut_have_the_sizes_that_were_priced(name: str) -> None:
    """At some widths of every group: it runs on other batches too, and pricing knows the channels of each layer."""
    _, network, x = made(name)
    graph = network.graph
    for group in graph.groups:
        for kept in widths(group.size, group.step)[:-1:3] if group.fixed is None else ():
            scores = {group.name: torch.rand(group.size, generator=torch.Generator().manual_seed(kept))}
            small, _ = compressed(network, models.plan(network, {group.name: kept}), x, scores)
            with torch.no_grad():
                small(x[:1])
            for layer in small.graph.layers:
                whole = graph.by_name[layer.name]
                if layer.weight_shape and group.name in (whole.reads, whole.writes):
                    sides = [kept if side == group.name else None for side in (whole.reads, whole.writes)]
                    priced = operators(whole, graph, Option(), *sides)
                    assert priced == operators(layer, small.graph, Option(), None, None), (layer.name, kept)
                    (part,) = layer_parts(whole, graph, Option(), *sides)
                    assert weight_bytes(part, Option()) == weight_bytes(layer, Option())


class Angles(nn.Module):
    """Embeddings of length one, compared with those of classes, as ArcFace's are; (N, 3, 8, 8)."""

    def __init__(self, power: float, along: int) -> None:
        super().__init__()
        self.c, self.norm, self.classes = nn.Conv2d(3, 16, 3), nn.BatchNorm1d(16), nn.Parameter(torch.randn(5, 16))
        self.power, self.along = power, along

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.unit(self.norm(self.c(x).relu().mean((2, 3)))), F.normalize(self.classes))

    def unit(self, x: Tensor) -> Tensor:
        return F.normalize(x, self.power, self.along)


@pytest.mark.parametrize(("power", "along"), [(2.0, 1), (1.0, -1), (3.0, 1)])
def test_lengths_are_of_the_channels_that_stay(power: float, along: int) -> None:
    torch.manual_seed(0)
    model, x = Angles(power, along).eval(), torch.randn(4, 3, 8, 8)
    network = trace(model, x)
    (group,) = (group for group in network.graph.groups if group.fixed is None)
    assert (group.name, group.size) == ("c", 16) and share_that_can_be_cut(network.graph) == 1
    scores = {"c": torch.rand(16)}
    stay = scores["c"] >= scores["c"].sort().values[8]
    small, _ = compressed(network, models.plan(network, {"c": 8}), x, scores)
    with torch.no_grad():
        made = model.norm(model.c(x).relu().mean((2, 3))) * stay
        close(small(x), F.linear(model.unit(made), F.normalize(model.classes)))


@given(units=st.integers(2, 200), step=st.integers(1, 8), number=st.integers(0, 50))
def test_every_width_is_tried_with_several_patterns(units: int, step: int, number: int) -> None:
    """What passes with one pattern may fail with another: no width of the menu is tried with one alone."""
    group = Group("layer", units * step, ("layer",), None, step)
    assume(len(widths(group.size, step)) > 1)
    tried: dict[int, list[tuple[int, ...]]] = {}
    assert _trials([group]) <= TRIALS
    for turn in range(_trials([group])):
        gone = _gone(group, number, turn)
        tried.setdefault(group.size - len(gone), []).append(tuple(gone))
    assert set(tried) == {*widths(group.size, step)[:-1]}
    for patterns in tried.values():
        assert len(patterns) >= PATTERNS and len(set(patterns)) >= PATTERNS


def test_groups_of_one_size_do_not_go_by_the_same_pattern() -> None:
    """What goes together at the same places would pass unseen, as where two layers are multiplied."""
    first, second = (Group(name, 64, (name,), None) for name in ("first", "second"))
    assert all(_gone(first, 0, turn) != _gone(second, 1, turn) for turn in range(TRIALS))
