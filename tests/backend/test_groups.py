"""Channel groups of every kind of network: each cut at every width computes what is left of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import models
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.compress.apply import compressed
from edgesdk.compress.network import Network
from edgesdk.compress.trace import trace
from edgesdk.graph import Graph
from edgesdk.plan import Option
from edgesdk.price.menu import weight_bytes
from edgesdk.price.operators import operators, widths

SEEDS = (0, 1, 2)


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
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.fc(torch.cat(found, 1).relu().mean((2, 3)))


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
        one, other = self.b(F.glu(self.a(x), -1)).chunk(2, -1)
        x = one * F.gelu(other)
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


class Sigmoid(nn.Module):
    """Activations that are not zero at zero; (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.softplus(self.b(self.a(x).sigmoid())))


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "resnext": (ResNeXt, (3, 12, 12), 1.0), "dense": (Dense, (3, 8, 8), 1.0), "branches": (Branches, (3, 10, 10), 1.0),
    "unet": (UNet, (3, 16, 16), 1.0), "squeeze": (Squeeze, (3, 10, 10), 1.0), "normed": (Normed, (3, 10, 10), 1.0),
    "gated": (Gated, (6, 16), 1.0), "convnext": (ConvNeXt, (3, 16, 16), 1.0), "vit": (ViT, (3, 16, 16), 1.0),
    "root": (Root, (6, 16), 1.0), "pixels": (Pixels, (1, 8, 8), 1.0), "sigmoid": (Sigmoid, (8,), 1.0),
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
                part.running_mean.uniform_(-0.3, 0.3)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)):
                part.weight.uniform_(0.5, 1.5)
                if getattr(part, "bias", None) is not None:
                    part.bias.uniform_(-0.3, 0.3)
    return model, trace(model, x), x


def share_that_can_be_cut(graph: Graph) -> float:
    """Of all MACs those in layers whose input or output channels can be cut."""
    return sum(n.macs for n in graph.layers if n.reads or n.writes) / sum(n.macs for n in graph.layers)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_nearly_all_can_be_cut(name: str) -> None:
    _, network, _ = made(name)
    reasons = {group.name: group.fixed for group in network.graph.groups if group.fixed}
    assert share_that_can_be_cut(network.graph) >= ZOO[name][2], reasons
    assert set(reasons.values()) <= {"its channels are the network's output"}


@pytest.mark.parametrize("name", ZOO)
def test_layers_of_a_network_that_was_cut_have_the_sizes_that_were_priced(name: str) -> None:
    """At every width of every group: it runs on other batches too, and pricing knows each layer's channels."""
    _, network, x = made(name)
    graph = network.graph
    for group in graph.groups:
        for kept in widths(group.size, group.step)[:-1] if group.fixed is None else ():
            scores = {group.name: torch.rand(group.size, generator=torch.Generator().manual_seed(kept))}
            small, _ = compressed(network, models.plan(network, {group.name: kept}), x, scores)
            with torch.no_grad():
                assert small(x[:1]).shape == network(x[:1]).shape
            for layer in small.graph.layers:
                if layer.weight_shape:
                    whole = graph.by_name[layer.name]
                    sides = [kept if side == group.name else None for side in (whole.reads, whole.writes)]
                    priced = operators(whole, graph, Option(), *sides)
                    assert priced == operators(layer, small.graph, Option(), None, None), (layer.name, kept)
                    bytes_ = weight_bytes(layer, small.graph, Option(), None, None)
                    assert weight_bytes(whole, graph, Option(), *sides) == bytes_
